//! The plugin host and the loader of plugins.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::cache::{Cache, hex};
use crate::engine::engine;
use crate::lanes::Lanes;
use crate::limits::{self, LimitExceeded};
use crate::manifest::{Class, Manifest, ManifestError, World};
use crate::memory::Instances;
use crate::package::{Bundled, Candidate, Pins, Source, candidates};
use crate::state::{GuestState, Io, LogBudget, StateSpec, linker};
use crate::types::Descriptor;
use crate::world::boot_v0_1::BootScriptPre;
use crate::world::channel_v0_1::ChannelPre;
use crate::world::hook_v0_1::HookPre;

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
    /// What plugins must be.
    pub pins: Pins,
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
            pins: Pins::default(),
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
    small: Engine,
    large: Engine,
    pub(crate) lanes: Lanes,
    cache: Option<Cache>,
    pins: Pins,
    places_small: Arc<Semaphore>,
    places_large: Arc<Semaphore>,
    places: usize,
    /// Told when somebody waits for a place: instances without work go at once.
    pub(crate) pressure: Notify,
    instances: Arc<Instances>,
}

impl std::fmt::Debug for PluginHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PluginHost").finish_non_exhaustive()
    }
}

/// The typed, pre-linked component.
enum Pre {
    Channel(ChannelPre<GuestState>),
    Boot(BootScriptPre<GuestState>),
    Hook(HookPre<GuestState>),
}

/// A loaded plugin: checked, compiled and linked with exactly what its manifest names.
pub struct Plugin {
    /// Its manifest.
    pub manifest: Manifest,
    /// SHA-256 of the file, in lower-case hex.
    pub digest: String,
    /// Where it came from.
    pub source: Source,
    /// What it says about itself (channels only).
    pub descriptor: Option<Descriptor>,
    /// Compiled code came from the cache.
    pub from_cache: bool,
    engine: Engine,
    instances: Arc<Instances>,
    pre: Pre,
    pub(crate) id: Arc<str>,
    pub(crate) methods: Arc<[String]>,
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plugin")
            .field("id", &self.id)
            .field("version", &self.manifest.version)
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

impl Plugin {
    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(crate) fn channel(&self) -> Option<&ChannelPre<GuestState>> {
        match &self.pre {
            Pre::Channel(p) => Some(p),
            Pre::Boot(_) | Pre::Hook(_) => None,
        }
    }

    pub(crate) fn boot(&self) -> Option<&BootScriptPre<GuestState>> {
        match &self.pre {
            Pre::Boot(p) => Some(p),
            Pre::Channel(_) | Pre::Hook(_) => None,
        }
    }

    pub(crate) fn hook(&self) -> Option<&HookPre<GuestState>> {
        match &self.pre {
            Pre::Hook(p) => Some(p),
            Pre::Channel(_) | Pre::Boot(_) => None,
        }
    }

    pub(crate) fn spec(
        &self,
        io: Io,
        rt: Option<tokio::runtime::Handle>,
        log: Arc<LogBudget>,
    ) -> StateSpec {
        let held = self
            .instances
            .add(format!("{} of tenant {}", self.id, io.tenant()));
        StateSpec {
            held,
            io,
            rt,
            memory: self.manifest.limits.memory,
            log,
            log_per_min: self.manifest.limits.log_lines_per_min,
            log_name: self.id.clone(),
            methods: self.methods.clone(),
        }
    }
}

/// A plugin that was not loaded.
#[derive(Debug)]
pub struct LoadError {
    /// Its id, as far as it is known without reading it; empty where the directory of plugins itself can't be read.
    pub id: String,
    /// Where it is from.
    pub source: Source,
    /// Why.
    pub kind: LoadErrorKind,
}

impl std::fmt::Display for LoadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.source {
            Source::Directory(path) => write!(f, "{}: {}", path.display(), self.kind),
            Source::Bundled => write!(f, "{} ({}): {}", self.id, self.source, self.kind),
        }
    }
}

impl std::error::Error for LoadError {}

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
    /// Manifest and component together have another digest than the operator pinned.
    #[error(
        "manifest and component have sha256 {found}, plugins.pins says {expected}: this is not the plugin that was pinned. If the new one is wanted: gateway config set plugins.pins.<id> {found}"
    )]
    Pinned {
        /// Of the files.
        found: String,
        /// Of the configuration.
        expected: String,
    },
    /// Only pinned plugins are wanted.
    #[error(
        "no pin, and plugins.pinnedOnly is set. If it is wanted: gateway config set plugins.pins.<id> {0}"
    )]
    NotPinned(String),
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
        let engine = |class| {
            engine(class, options.pool_instances).map_err(|e| {
                WasmError(format!(
                    "engine for {} instances: {e:#}",
                    options.pool_instances
                ))
            })
        };
        let (small, large) = (engine(Class::Small)?, engine(Class::Large)?);
        let lanes = Lanes::start(
            options.fast_threads,
            options.slow_threads,
            vec![small.clone(), large.clone()],
        )
        .map_err(|e| WasmError(format!("guest threads: {e}")))?;
        let cache = match &options.cache_dir {
            None => None,
            Some(dir) => Some(
                Cache::open(dir, options.cache_key)
                    .map_err(|e| WasmError(format!("{}: {e}", dir.display())))?,
            ),
        };
        Ok(Arc::new(Self {
            small,
            large,
            lanes,
            cache,
            pins: options.pins,
            places_small: Arc::new(Semaphore::new(options.pool_instances.max(1) as usize)),
            places_large: Arc::new(Semaphore::new(limits::MAX_LARGE_INSTANCES)),
            places: options.pool_instances.max(1) as usize + limits::MAX_LARGE_INSTANCES,
            pressure: Notify::new(),
            instances: Arc::default(),
        }))
    }

    /// The process is short of memory: instances without work are given back, and the largest of those that are left is ended, as
    /// if it had met a limit of its own. Gives whose it was and its bytes.
    pub fn relieve_memory(&self, end_largest: bool) -> Option<(String, usize)> {
        let ended = end_largest.then(|| self.instances.doom_largest()).flatten();
        self.pressure.notify_waiters();
        ended
    }

    /// Loads every `DIR/<id>/plugin.toml` and what the program carries besides them, in order of ids. Reading and compiling is done
    /// on a thread of its own; one bad plugin does not stop the others. A directory that can't be read is one error.
    pub async fn load_all(
        self: &Arc<Self>,
        dir: Option<&Path>,
        bundled: &[Bundled],
    ) -> Vec<Result<Arc<Plugin>, LoadError>> {
        let found = match candidates(dir, bundled) {
            Ok(found) => found,
            Err(error) => return vec![Err(error)],
        };
        let mut out = Vec::with_capacity(found.len());
        for candidate in found {
            if candidate.replaces_bundled {
                tracing::info!(plugin = %candidate.id, from = %candidate.source(), "this plugin counts, and not the one of the same name that the program carries");
            }
            out.push(self.load_candidate(candidate).await);
        }
        out
    }

    /// Loads the plugin in one directory.
    ///
    /// # Errors
    /// See [`LoadErrorKind`].
    pub async fn load(self: &Arc<Self>, dir: &Path) -> Result<Arc<Plugin>, LoadError> {
        self.load_candidate(Candidate::folder(dir)).await
    }

    async fn load_candidate(
        self: &Arc<Self>,
        candidate: Candidate,
    ) -> Result<Arc<Plugin>, LoadError> {
        let (id, source) = (candidate.id.clone(), candidate.source());
        let fail = |kind| LoadError {
            id: id.clone(),
            source: source.clone(),
            kind,
        };
        let (tx, rx) = oneshot::channel();
        let this = self.clone();
        std::thread::Builder::new()
            .name("guest-compile".into())
            .spawn(move || drop(tx.send(this.read(&candidate))))
            .map_err(|e| fail(LoadErrorKind::Invalid(format!("compile thread: {e}"))))?;
        let plugin = rx
            .await
            .map_err(|_| fail(LoadErrorKind::Invalid("the compiler failed".to_owned())))?
            .map_err(&fail)?;
        self.probed(plugin).await.map_err(fail)
    }

    /// Loads a plugin from memory: for tests and tools.
    ///
    /// # Errors
    /// See [`LoadErrorKind`].
    pub async fn load_bytes(
        self: &Arc<Self>,
        manifest: &str,
        wasm: &[u8],
    ) -> Result<Arc<Plugin>, LoadErrorKind> {
        let manifest = Manifest::parse(manifest)?;
        let plugin = self.link(Source::Bundled, manifest, wasm)?;
        self.probed(plugin).await
    }

    /// Asks the guest who it is.
    async fn probed(&self, mut plugin: Plugin) -> Result<Arc<Plugin>, LoadErrorKind> {
        let Some(pre) = plugin.channel() else {
            return Ok(Arc::new(plugin));
        };
        let place = self.place(plugin.manifest.class).await;
        let (engine, pre) = (plugin.engine.clone(), pre.clone());
        let spec = plugin.spec(Io::Nobody, None, Arc::default());
        let wall = Duration::from_millis(plugin.manifest.limits.call_ms);
        let cpu = Duration::from_millis(plugin.manifest.limits.cpu_ms);
        let said = self
            .lanes
            .run(Arc::from(""), wall, cpu, move |ctl| async move {
                crate::call::describe(&engine, &pre, spec, ctl).await
            })
            .await;
        drop(place);
        let descriptor = match said {
            Ok(Ok(d)) => d,
            Ok(Err(e)) => return Err(LoadErrorKind::Describe(e.to_string())),
            Err(lost) => {
                return Err(LoadErrorKind::Describe(
                    crate::account::lost(lost, plugin.manifest.limits.call_ms).to_string(),
                ));
            }
        };
        plugin.descriptor = Some(descriptor);
        Ok(Arc::new(plugin))
    }

    /// Instances that live now, of both classes.
    #[must_use]
    pub fn live_instances(&self) -> usize {
        let free = self.places_small.available_permits() + self.places_large.available_permits();
        self.places.saturating_sub(free)
    }

    /// A place among the live instances of a class. Waits while all are taken.
    pub(crate) async fn place(&self, class: Class) -> OwnedSemaphorePermit {
        let places = match class {
            Class::Small => &self.places_small,
            Class::Large => &self.places_large,
        };
        loop {
            if let Ok(p) = places.clone().try_acquire_owned() {
                return p;
            }
            self.pressure.notify_waiters();
            // The semaphore is never closed; if it were, the next turn of the loop finds out.
            if let Ok(p) = places.clone().acquire_owned().await {
                return p;
            }
        }
    }

    fn read(&self, candidate: &Candidate) -> Result<Plugin, LoadErrorKind> {
        let package = candidate.read()?;
        self.pins.check(&package)?;
        self.link(candidate.source(), package.manifest, &package.wasm)
    }

    fn link(
        &self,
        source: Source,
        manifest: Manifest,
        wasm: &[u8],
    ) -> Result<Plugin, LoadErrorKind> {
        if wasm.len() as u64 > limits::MAX_COMPONENT_BYTES {
            return Err(LoadErrorKind::Invalid(
                LimitExceeded::new("component file", limits::MAX_COMPONENT_BYTES, "bytes")
                    .to_string(),
            ));
        }
        let digest = hex(&Sha256::digest(wasm));
        if let Some(expected) = &manifest.sha256
            && *expected != digest
        {
            return Err(LoadErrorKind::Digest {
                file: manifest.file.clone(),
                found: digest,
                expected: expected.clone(),
            });
        }
        let invalid =
            |e: &dyn std::fmt::Display| LoadErrorKind::Invalid(format!("{}: {e}", manifest.file));
        let engine = match manifest.class {
            Class::Small => &self.small,
            Class::Large => &self.large,
        };
        let refuse = |refused: Vec<String>| match refused.is_empty() {
            true => Ok(()),
            false => Err(LoadErrorKind::Imports(refused)),
        };
        let cached = self.cache.as_ref().and_then(|c| c.get(engine, &digest));
        let from_cache = cached.is_some();
        let compiled = match cached {
            // What was compiled from this file says itself what it imports: nothing of the file is read again.
            Some(compiled) => {
                let kind = compiled.component_type();
                let names = kind.imports(engine).map(|(name, _)| name.to_owned());
                refuse(names.filter(|name| !allowed(&manifest, name)).collect())?;
                compiled
            }
            None => {
                let component = as_component(&manifest, wasm)?;
                let names = imports(&component).map_err(|e| invalid(&e))?;
                refuse(
                    names
                        .into_iter()
                        .filter(|name| !allowed(&manifest, name))
                        .collect(),
                )?;
                let compiled = Component::new(engine, &*component)
                    .map_err(|e| LoadErrorKind::Invalid(format!("{}: {e:#}", manifest.file)))?;
                if let Some(cache) = &self.cache
                    && let Err(e) = cache.put(engine, &digest, &compiled)
                {
                    tracing::warn!(error = %e, plugin = manifest.id, "compiled code was not kept");
                }
                compiled
            }
        };
        let world = |e: wasmtime::Error| {
            LoadErrorKind::World(format!(
                "{} is not a {}: {e:#}. Rebuild it against the wit/ of this gateway.",
                manifest.file,
                manifest.world.name()
            ))
        };
        let pre = linker(engine, manifest.world, &manifest.capabilities)
            .and_then(|l| l.instantiate_pre(&compiled))
            .map_err(world)?;
        let pre = match manifest.world {
            World::ChannelV0_1 => Pre::Channel(ChannelPre::new(pre).map_err(world)?),
            World::BootV0_1 => Pre::Boot(BootScriptPre::new(pre).map_err(world)?),
            World::HookV0_1 => Pre::Hook(HookPre::new(pre).map_err(world)?),
        };
        let id = Arc::from(manifest.id.as_str());
        let methods = manifest
            .boot
            .as_ref()
            .map_or_else(|| Arc::from([]), |b| Arc::from(b.methods.as_slice()));
        Ok(Plugin {
            manifest,
            digest,
            source,
            descriptor: None,
            from_cache,
            engine: engine.clone(),
            instances: self.instances.clone(),
            pre,
            id,
            methods,
        })
    }
}

/// The component that the file is, or that is made of the core module that it is.
fn as_component<'a>(manifest: &Manifest, wasm: &'a [u8]) -> Result<Cow<'a, [u8]>, LoadErrorKind> {
    if wasmparser::Parser::is_component(wasm) {
        return Ok(Cow::Borrowed(wasm));
    }
    if !wasmparser::Parser::is_core_wasm(wasm) {
        return Err(LoadErrorKind::Invalid(format!(
            "{}: not WebAssembly (a component or a core module is needed)",
            manifest.file
        )));
    }
    wit_component::ComponentEncoder::default()
        .module(wasm)
        .and_then(|e| e.validate(true).encode())
        .map(Cow::Owned)
        .map_err(|e| {
            LoadErrorKind::Invalid(format!(
                "{}: the module can't be made a component: {e:#}",
                manifest.file
            ))
        })
}

pub(crate) const MANIFEST: &str = "plugin.toml";

pub(crate) fn io_error(path: &Path, e: &std::io::Error) -> LoadErrorKind {
    LoadErrorKind::Io {
        path: path.display().to_string(),
        error: e.to_string(),
    }
}

/// Directories with a manifest, sorted.
pub(crate) fn plugin_dirs(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut dirs = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.join(MANIFEST).is_file() {
            dirs.push(path);
        }
        if dirs.len() > limits::MAX_PLUGINS {
            return Err(std::io::Error::other(
                LimitExceeded::new(
                    "plugins in a directory",
                    limits::MAX_PLUGINS as u64,
                    "plugins",
                )
                .to_string(),
            ));
        }
    }
    dirs.sort();
    Ok(dirs)
}

pub(crate) fn read_file(path: &Path, max: u64) -> Result<Vec<u8>, LoadErrorKind> {
    use std::io::Read;
    let file = std::fs::File::open(path).map_err(|e| io_error(path, &e))?;
    let mut bytes = Vec::new();
    file.take(max + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| io_error(path, &e))?;
    if bytes.len() as u64 > max {
        return Err(LoadErrorKind::Invalid(format!(
            "{}: {}",
            path.display(),
            LimitExceeded::new("file", max, "bytes")
        )));
    }
    Ok(bytes)
}

/// Names that the component itself imports (those of parts inside of it are its own affair). Read before anything is compiled.
fn imports(component: &[u8]) -> Result<Vec<String>, wasmparser::BinaryReaderError> {
    use wasmparser::{Parser, Payload};
    let mut names = Vec::new();
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(component) {
        match payload? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    names.push(import?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    Ok(names)
}

/// Whether the manifest permits an import.
fn allowed(manifest: &Manifest, import: &str) -> bool {
    if matches!(
        import,
        "gateway:types/types@0.1.0" | "gateway:types/http-types@0.1.0"
    ) {
        return true;
    }
    import
        .strip_prefix("gateway:host/")
        .and_then(|i| i.strip_suffix("@0.1.0"))
        .is_some_and(|name| manifest.capabilities.iter().any(|c| c.name() == name))
}
