//! A plugin as it lies on the disk or in the program: manifest and component as one thing with one digest, nothing compiled.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::cache::hex;
use crate::limits;
use crate::manifest::Manifest;
use crate::plugin::{LoadError, LoadErrorKind, MANIFEST, io_error, plugin_dirs, read_file};

/// Keeps the digest of a package apart from digests of anything else.
const DOMAIN: &[u8] = b"gateway plugin package 1\n";

/// A plugin that the program carries in itself.
#[derive(Debug, Clone)]
pub struct Bundled {
    /// Its id.
    pub id: Cow<'static, str>,
    /// The bytes of its `plugin.toml`.
    pub manifest: Cow<'static, [u8]>,
    /// The bytes of its component.
    pub wasm: Cow<'static, [u8]>,
}

/// Where a plugin is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// This folder.
    Directory(PathBuf),
    /// The program carries it.
    Bundled,
}

impl Source {
    /// `directory` or `bundled`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Directory(_) => "directory",
            Self::Bundled => "bundled",
        }
    }

    /// The folder, if there is one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Directory(path) => Some(path),
            Self::Bundled => None,
        }
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Directory(path) => write!(f, "{}", path.display()),
            Self::Bundled => f.write_str("bundled with this program"),
        }
    }
}

/// The files of a plugin. What is parsed, linked and pinned is this one reading of them.
#[derive(Debug, Clone)]
pub struct Package {
    /// Its manifest.
    pub manifest: Manifest,
    /// The component's file.
    pub wasm: Cow<'static, [u8]>,
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
        let id = dir.file_name().and_then(|n| n.to_str());
        Self::of(id, &bytes, |file| {
            read_file(&dir.join(file), limits::MAX_COMPONENT_BYTES).map(Cow::Owned)
        })
    }

    /// Takes a plugin that the program carries; by the same rules as one that lies on the disk.
    ///
    /// # Errors
    /// See [`LoadErrorKind`].
    pub fn bundled(plugin: &Bundled) -> Result<Self, LoadErrorKind> {
        Self::of(Some(&plugin.id), &plugin.manifest, |_| {
            Ok(plugin.wasm.clone())
        })
    }

    fn of(
        id: Option<&str>,
        manifest: &[u8],
        component: impl FnOnce(&str) -> Result<Cow<'static, [u8]>, LoadErrorKind>,
    ) -> Result<Self, LoadErrorKind> {
        let text = std::str::from_utf8(manifest)
            .map_err(|_| LoadErrorKind::Invalid("plugin.toml is not UTF-8".to_owned()))?;
        let parsed = Manifest::parse(text)?;
        if id != Some(parsed.id.as_str()) {
            return Err(LoadErrorKind::Name(parsed.id));
        }
        let wasm = component(&parsed.file)?;
        let mut hash = Sha256::new();
        hash.update(DOMAIN);
        for part in [manifest, &*wasm] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Ok(Self {
            manifest: parsed,
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

/// A plugin that there is: nothing of it is read yet.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Its id: the name of the folder, or what the program says.
    pub id: String,
    /// Whether the program carries one of the same id, which does not count beside the one of the directory.
    pub replaces_bundled: bool,
    place: Place,
}

#[derive(Debug, Clone)]
enum Place {
    Folder(PathBuf),
    Program(Bundled),
}

impl Candidate {
    /// The one in this folder.
    #[must_use]
    pub fn folder(dir: &Path) -> Self {
        let name = dir.file_name().unwrap_or(dir.as_os_str());
        Self {
            id: name.to_string_lossy().into_owned(),
            replaces_bundled: false,
            place: Place::Folder(dir.to_owned()),
        }
    }

    fn bundled(plugin: &Bundled) -> Self {
        Self {
            id: plugin.id.clone().into_owned(),
            replaces_bundled: false,
            place: Place::Program(plugin.clone()),
        }
    }

    /// Where it is from.
    #[must_use]
    pub fn source(&self) -> Source {
        match &self.place {
            Place::Folder(dir) => Source::Directory(dir.clone()),
            Place::Program(_) => Source::Bundled,
        }
    }

    /// Reads it.
    ///
    /// # Errors
    /// See [`LoadErrorKind`].
    pub fn read(&self) -> Result<Package, LoadErrorKind> {
        match &self.place {
            Place::Folder(dir) => Package::read(dir),
            Place::Program(plugin) => Package::bundled(plugin),
        }
    }
}

/// The plugins that count, in order of ids: those of the directory, and those of the program whose id no folder has. A folder
/// that turns out to be broken is not made up for by the program's plugin: what the operator put there is what is meant.
///
/// # Errors
/// The directory can't be read, or holds too many. Then nothing can be said of the program's plugins either.
pub fn candidates(dir: Option<&Path>, bundled: &[Bundled]) -> Result<Vec<Candidate>, LoadError> {
    let mut all: BTreeMap<String, Candidate> = bundled
        .iter()
        .map(|plugin| (plugin.id.clone().into_owned(), Candidate::bundled(plugin)))
        .collect();
    let dirs = match dir {
        None => Vec::new(),
        Some(dir) => plugin_dirs(dir).map_err(|e| LoadError {
            id: String::new(),
            kind: io_error(dir, &e),
            source: Source::Directory(dir.to_owned()),
        })?,
    };
    for dir in dirs {
        let mut found = Candidate::folder(&dir);
        found.replaces_bundled = all.contains_key(&found.id);
        all.insert(found.id.clone(), found);
    }
    Ok(all.into_values().collect())
}
