//! A plugin as it lies on the disk: manifest and component as one thing with one digest, nothing compiled.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::cache::hex;
use crate::limits;
use crate::manifest::Manifest;
use crate::plugin::{LoadError, LoadErrorKind, MANIFEST, io_error, plugin_dirs, read_file};

/// Keeps the digest of a package apart from digests of anything else.
const DOMAIN: &[u8] = b"gateway plugin package 1\n";

/// The files of a plugin. What is parsed, linked and pinned is this one reading of them.
#[derive(Debug, Clone)]
pub struct Package {
    /// Its manifest.
    pub manifest: Manifest,
    /// The component's file.
    pub wasm: Vec<u8>,
    /// Lower-case hex SHA-256 over the bytes of the manifest and of the component, each with its length: permissions and
    /// code together, so that neither can be exchanged without the other.
    pub digest: String,
}

impl Package {
    /// Reads the plugin in one directory.
    ///
    /// # Errors
    /// See [`LoadErrorKind`].
    pub fn read(dir: &Path) -> Result<Self, LoadErrorKind> {
        let bytes = read_file(&dir.join(MANIFEST), limits::MAX_MANIFEST_BYTES)?;
        let text = std::str::from_utf8(&bytes)
            .map_err(|_| LoadErrorKind::Invalid("plugin.toml is not UTF-8".to_owned()))?;
        let manifest = Manifest::parse(text)?;
        if dir.file_name().and_then(|n| n.to_str()) != Some(manifest.id.as_str()) {
            return Err(LoadErrorKind::Name(manifest.id));
        }
        let wasm = read_file(&dir.join(&manifest.file), limits::MAX_COMPONENT_BYTES)?;
        let mut hash = Sha256::new();
        hash.update(DOMAIN);
        for part in [bytes.as_slice(), wasm.as_slice()] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Ok(Self {
            manifest,
            digest: hex(&hash.finalize()),
            wasm,
        })
    }
}

/// What plugins must be, by the operator's word.
#[derive(Debug, Clone, Default)]
pub struct Pins {
    /// Id → [`Package::digest`].
    pub digests: BTreeMap<String, String>,
    /// Whether a plugin without one is refused.
    pub only: bool,
}

impl Pins {
    /// Whether a plugin may be loaded.
    ///
    /// # Errors
    /// [`LoadErrorKind::Pinned`] or [`LoadErrorKind::NotPinned`].
    pub fn check(&self, package: &Package) -> Result<(), LoadErrorKind> {
        match self.digests.get(&package.manifest.id) {
            Some(expected) if *expected != package.digest => Err(LoadErrorKind::Pinned {
                found: package.digest.clone(),
                expected: expected.clone(),
            }),
            None if self.only => Err(LoadErrorKind::NotPinned(package.digest.clone())),
            _ => Ok(()),
        }
    }
}

/// Every plugin of a directory of plugins, in order of names, with where it is.
pub fn packages(dir: &Path) -> Vec<(PathBuf, Result<Package, LoadError>)> {
    let dirs = match plugin_dirs(dir) {
        Ok(dirs) => dirs,
        Err(e) => {
            let error = LoadError {
                dir: dir.to_owned(),
                kind: io_error(dir, &e),
            };
            return vec![(dir.to_owned(), Err(error))];
        }
    };
    dirs.into_iter()
        .map(|dir| {
            let read = Package::read(&dir).map_err(|kind| LoadError {
                dir: dir.clone(),
                kind,
            });
            (dir, read)
        })
        .collect()
}
