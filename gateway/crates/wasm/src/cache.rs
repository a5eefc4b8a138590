//! Compiled code kept between starts. A file is used only if its MAC, made with a key of the host's, is right for this
//! engine and this component: nothing that a package brings, and nothing that somebody else put there, is ever loaded.

use std::hash::{Hash, Hasher};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::limits;

const MAC_BYTES: usize = 32;

/// Feeds what is hashed into SHA-256: `std`'s hashers are neither stable nor strong.
struct Sha(Sha256);

impl Hasher for Sha {
    fn finish(&self) -> u64 {
        0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// A directory of compiled components.
pub(crate) struct Cache {
    dir: PathBuf,
    key: [u8; 32],
}

impl Cache {
    /// Opens (and makes, with mode 0700) the directory.
    pub(crate) fn open(dir: &Path, key: [u8; 32]) -> std::io::Result<Self> {
        let mut b = std::fs::DirBuilder::new();
        b.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut b, 0o700);
        b.create(dir)?;
        #[cfg(unix)]
        std::fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
        Ok(Self {
            dir: dir.to_owned(),
            key,
        })
    }

    fn path(&self, engine: &Engine, digest: &str) -> (String, PathBuf) {
        let mut h = Sha(Sha256::new());
        engine.precompile_compatibility_hash().hash(&mut h);
        let compat = hex(&h.0.finalize());
        let path = self.dir.join(&compat[..16]).join(format!("{digest}.cwasm"));
        (compat, path)
    }

    fn mac(&self, compat: &str, digest: &str, code: &[u8]) -> Option<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).ok()?;
        for part in [compat.as_bytes(), digest.as_bytes()] {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part);
        }
        mac.update(code);
        Some(mac)
    }

    /// The compiled form of the component with this digest, if a good one is there.
    pub(crate) fn get(&self, engine: &Engine, digest: &str) -> Option<Component> {
        let (compat, path) = self.path(engine, digest);
        let mut file = std::fs::File::open(&path).ok()?;
        if file.metadata().ok()?.len() > limits::MAX_COMPILED_BYTES + MAC_BYTES as u64 {
            return None;
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).ok()?;
        let (tag, code) = bytes.split_at_checked(MAC_BYTES)?;
        if self.mac(&compat, digest, code)?.verify_slice(tag).is_err() {
            tracing::warn!(path = %path.display(), "compiled code with a wrong MAC is ignored");
            return None;
        }
        trusted(engine, code)
    }

    /// Keeps a compiled component. A failure costs time at the next start and nothing else.
    pub(crate) fn put(
        &self,
        engine: &Engine,
        digest: &str,
        component: &Component,
    ) -> std::io::Result<()> {
        let code = component
            .serialize()
            .map_err(|e| std::io::Error::other(e.to_string()))?;
        if code.len() as u64 > limits::MAX_COMPILED_BYTES {
            return Ok(());
        }
        let (compat, path) = self.path(engine, digest);
        let mac = self
            .mac(&compat, digest, &code)
            .ok_or_else(|| std::io::Error::other("key"))?;
        let parent = path.parent().unwrap_or(&self.dir);
        let mut b = std::fs::DirBuilder::new();
        b.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut b, 0o700);
        b.create(parent)?;
        let temporary = path.with_extension(format!("tmp{}", std::process::id()));
        let mut o = std::fs::OpenOptions::new();
        o.write(true).create(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut o, 0o600);
        let mut file = o.open(&temporary)?;
        file.write_all(&mac.finalize().into_bytes())?;
        file.write_all(&code)?;
        drop(file);
        std::fs::rename(&temporary, &path)
    }
}

/// Loads compiled code.
///
/// The library marks this unsafe because it trusts the bytes: made-up ones could run anything. The only caller has just
/// verified a MAC over the code, the component's digest and the engine's compatibility hash, with a key that only the host has and
/// that guests and packages never see; so the bytes are those that `put` got from this very engine's compiler.
#[allow(unsafe_code)]
fn trusted(engine: &Engine, code: &[u8]) -> Option<Component> {
    // SAFETY: `code` was written by `Component::serialize` of a compatible engine of this host (see above).
    unsafe { Component::deserialize(engine, code) }.ok()
}
