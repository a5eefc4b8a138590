//! The plugin host and the loader of plugin directories.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::limits;
use crate::manifest::{Manifest, ManifestError};
use crate::types::Descriptor;

/// How to run guests.
#[derive(Debug, Clone)]
pub struct WasmOptions {
    /// Directory for compiled code; made with mode 0700. `None`: nothing is kept.
    pub cache_dir: Option<PathBuf>,
    /// Key of the cache's MAC: the host's own, from its state directory.
    pub cache_key: [u8; 32],
    /// Threads on which calls begin.
    pub fast_threads: usize,
    /// Threads (at low priority) for calls that take long.
    pub slow_threads: usize,
    /// Instances that may be alive in the pool.
    pub pool_instances: u32,
}

impl WasmOptions {
    /// Two fast threads, one slow, the default pool, and no cache.
    #[must_use]
    pub fn new() -> Self {
        Self {
            cache_dir: None,
            cache_key: [0; 32],
            fast_threads: 2,
            slow_threads: 1,
            pool_instances: limits::DEFAULT_POOL_INSTANCES,
        }
    }
}

impl Default for WasmOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// The plugin host could not start.
#[derive(Debug, thiserror::Error)]
#[error("plugin host: {0}")]
pub struct WasmError(pub String);

/// Engines and guest threads of the process.
pub struct PluginHost {
    #[allow(dead_code)]
    options: WasmOptions,
}

/// A loaded plugin: checked, compiled and linked with exactly what its manifest names.
pub struct Plugin {
    /// Its manifest.
    pub manifest: Manifest,
    /// SHA-256 of the file, in lower-case hex.
    pub digest: String,
    /// Where it came from.
    pub dir: PathBuf,
    /// What it says about itself (channels only).
    pub descriptor: Option<Descriptor>,
}

/// A plugin that was not loaded.
#[derive(Debug, thiserror::Error)]
#[error("{}: {kind}", dir.display())]
pub struct LoadError {
    /// The plugin's directory.
    pub dir: PathBuf,
    /// Why.
    pub kind: LoadErrorKind,
}

/// Why a plugin was not loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadErrorKind {
    /// A file can't be read.
    #[error("{path}: {error}")]
    Io {
        /// Which.
        path: String,
        /// Why.
        error: String,
    },
    /// The manifest.
    #[error("plugin.toml: {0}")]
    Manifest(#[from] ManifestError),
    /// The manifest's id is not the directory's name.
    #[error("plugin.toml: id = {0:?} must be the name of its directory")]
    Name(String),
    /// The file has another digest.
    #[error("{file}: sha256 is {found}, plugin.toml says {expected}")]
    Digest {
        /// File name.
        file: String,
        /// Of the file.
        found: String,
        /// Of the manifest.
        expected: String,
    },
    /// The guest imports what the manifest does not name.
    #[error("imports without a capability: {}; name them in `capabilities` or build the guest without them", .0.join(", "))]
    Imports(Vec<String>),
    /// The guest does not export what its world asks for.
    #[error("{0}")]
    World(String),
    /// Not WebAssembly, or not valid.
    #[error("{0}")]
    Invalid(String),
    /// `describe` failed.
    #[error("describe: {0}")]
    Describe(String),
}

impl PluginHost {
    /// Makes the engines and starts the threads.
    ///
    /// # Errors
    /// If the machine can't give what was asked for.
    pub fn new(options: WasmOptions) -> Result<Arc<Self>, WasmError> {
        Ok(Arc::new(Self { options }))
    }

    /// Loads every `DIR/<id>/plugin.toml`. Work is done on threads of its own; one bad plugin does not stop the others.
    pub async fn load_dir(self: &Arc<Self>, dir: &Path) -> Vec<Result<Arc<Plugin>, LoadError>> {
        vec![Err(LoadError {
            dir: dir.to_owned(),
            kind: LoadErrorKind::Invalid("the loader is not built yet".to_owned()),
        })]
    }
}
