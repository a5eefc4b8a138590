//! The process: it opens the stores, makes the tenants, tells whom a caller belongs to, and stops everything in order.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use gateway_config::{ConfigError, ConfigFile, GatewayLimits, Settings, TenantSettings};
use gateway_egress::{Egress, EgressOptions};
use gateway_protocol::frame::Close;
use gateway_protocol::ids::ConnId;
use gateway_protocol::scope::ScopeSet;
use gateway_store::{
    CredentialHash, HostDb, Snapshot, SnapshotId, SnapshotOf, StateDir, StoreError, StoreExec,
    StoreOptions, SyncMode, TenantDb, TenantId,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::agents::{Agents, BackendFactory, ConfiguredBackends};
use crate::auth::{ApiKeys, AuthAttempt, AuthRefusal, Authenticated, Authenticator, LimiterRules};
use crate::boot::BootAbort;
use crate::clock::{Clock, SystemClock};
use crate::faults::Faults;
use crate::hub::{ConnInfo, EventSink, HubError, HubGuard};
use crate::limits::{API_KEY_LOOK_MAX_MS, HEALTH_RECONCILE_MS, RESTART_EXPECTED_MS, STOP_GRACE_MS};
use crate::logs::{LogBook, LogSink, Redactor};
use crate::random::{OsRandom, Random};
use crate::registry::{Registry, RegistryError};
use crate::safe_mode::{SafeMode, SafeModeChoice};
use crate::start::{OnPhase, Phase};
use crate::tenant::{Shared, Tenant};

/// What a host is started with.
pub struct HostOptions {
    /// The state directory; locked while the host lives.
    pub state_dir: PathBuf,
    /// The same directory, locked already; `None` locks it.
    pub locked: Option<StateDir>,
    /// Guests that were loaded before there was a lock ([`GuestsAhead::load`]), for these settings.
    pub guests_ahead: Option<GuestsAhead>,
    /// Resolved settings.
    pub settings: Settings,
    /// Directory of plugins; overrides the one of the settings.
    pub plugin_dir: Option<PathBuf>,
    /// Plugins that the program carries in itself. Those whose name a folder of the directory has do not count.
    pub bundled_plugins: Vec<gateway_wasm::Bundled>,
    /// Directory for compiled guests; `None` keeps none.
    pub plugin_cache: Option<PathBuf>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub random: Arc<dyn Random>,
    /// The way out to the network.
    pub egress: Option<Egress>,
    /// Makes agent backends; `None` makes those of the settings.
    pub backends: Option<Arc<dyn BackendFactory>>,
    /// Where store closures run; `None` starts threads.
    pub exec: Option<StoreExec>,
    /// How much a commit does for durability. `Full` outside tests.
    pub sync: SyncMode,
    /// Where log lines go besides memory.
    pub log_sink: Option<Arc<dyn LogSink>>,
    /// Whether guests are loaded at all (simulations have none).
    pub guests: bool,
    /// Channel kinds besides the loaded ones: doubles of tests and simulations.
    pub channel_plugins: Vec<Arc<dyn crate::channel::ChannelPlugin>>,
    /// The file that the settings were read from; it is watched, and clients may edit it. `None`: the settings stay.
    pub config: Option<Arc<ConfigFile>>,
    /// Why the file is not what counts, when the settings are the last good ones.
    pub refused: Option<ConfigError>,
    /// Whether crash loops are looked for.
    pub safe_mode: SafeModeChoice,
    /// Told of each step of the start when it is over.
    pub on_phase: Option<OnPhase>,
    /// Told of new settings (and the old ones) just before they count: the log level and what is kept out of the
    /// process log change then.
    pub on_settings: Option<OnSettings>,
}

/// Reason of the close of a device's connection whose token has ended.
const DEVICE_REMOVED: &str = "device removed";

/// Takes the settings that are about to count, and those that count until then.
pub type OnSettings = Arc<dyn Fn(&Settings, &Settings) + Send + Sync>;

impl HostOptions {
    /// The real thing: system clock, system randomness, store threads, guests.
    #[must_use]
    pub fn new(state_dir: impl Into<PathBuf>, settings: Settings) -> Self {
        Self {
            state_dir: state_dir.into(),
            locked: None,
            guests_ahead: None,
            settings,
            plugin_dir: None,
            bundled_plugins: Vec::new(),
            plugin_cache: None,
            clock: Arc::new(SystemClock::new()),
            random: Arc::new(OsRandom),
            egress: None,
            backends: None,
            exec: None,
            sync: SyncMode::Full,
            log_sink: None,
            guests: true,
            channel_plugins: Vec::new(),
            config: None,
            refused: None,
            safe_mode: SafeModeChoice::Off,
            on_phase: None,
            on_settings: None,
        }
    }
}

/// Why a host did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state directory is not usable (or another gateway has it; the text says which).
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The method table is incomplete: a fault of this build.
    #[error("method table: {0}")]
    Registry(#[from] RegistryError),
    /// The way out to the network could not be made.
    #[error("egress: {0}")]
    Egress(String),
    /// The guest engine could not be made.
    #[error("guests: {0}")]
    Guests(String),
    /// Settings that no gateway can run with.
    #[error("{0}")]
    Settings(String),
}

impl StartError {
    /// What an operator can do.
    #[must_use]
    pub fn next_step(&self) -> &'static str {
        match self {
            Self::Store(StoreError::Locked(_)) => {
                "stop the gateway that uses this state directory, or choose another with --state-dir"
            }
            Self::Store(StoreError::Newer(_)) => {
                "start the newer gateway again, restore a backup made by this version, or choose another --state-dir"
            }
            Self::Store(_) => "check the disk and the permissions of the state directory",
            Self::Settings(_) => "change the configuration, then start again",
            Self::Registry(_) | Self::Egress(_) | Self::Guests(_) => "see the log above",
        }
    }
}

/// The tenant that a request names by host name or path.
#[derive(Debug, Clone)]
pub enum TenantHint {
    /// It names none: the credential decides.
    Unnamed,
    /// This one.
    Named(Arc<Tenant>),
    /// One that does not exist. No credential fits it, and the refusal is that of a wrong credential.
    Nobody,
}

impl TenantHint {
    /// Whether a credential of `tenant` may be used here.
    #[must_use]
    pub fn admits(&self, tenant: &Tenant) -> bool {
        match self {
            Self::Unnamed => true,
            Self::Named(named) => named.id() == tenant.id(),
            Self::Nobody => false,
        }
    }

    /// The named tenant.
    #[must_use]
    pub fn tenant(&self) -> Option<&Arc<Tenant>> {
        match self {
            Self::Named(tenant) => Some(tenant),
            _ => None,
        }
    }
}

/// Host name and path name different tenants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("host name and path name different tenants")]
pub struct ContradictoryHints;

/// What a handshake needs for its `hello-ok`.
pub struct HelloInput<'a> {
    /// The tenant.
    pub tenant: &'a Arc<Tenant>,
    /// The new connection, as it is (or will be) registered.
    pub conn: &'a ConnInfo,
    /// `token`, `password`, `none`, `device-token`.
    pub auth_method: &'a str,
    /// The device that it is, if it was paired.
    pub device: Option<&'a crate::pair::Paired>,
}

/// The settings in force and the tenants that they name; replaced as a whole.
#[derive(Clone)]
pub(crate) struct Directory {
    pub(crate) settings: Arc<Settings>,
    pub(crate) tenants: BTreeMap<String, Arc<Tenant>>,
    by_host: BTreeMap<String, Arc<Tenant>>,
}

impl Directory {
    pub(crate) fn new(settings: Arc<Settings>, tenants: BTreeMap<String, Arc<Tenant>>) -> Self {
        let by_host = settings
            .tenants
            .values()
            .filter_map(|s| Some((s, tenants.get(&s.slug)?)))
            .flat_map(|(s, tenant)| {
                s.hosts
                    .iter()
                    .map(|name| (name.to_ascii_lowercase(), tenant.clone()))
            })
            .collect();
        Self {
            settings,
            tenants,
            by_host,
        }
    }
}

/// What every tenant is made with.
struct Opening {
    exec: StoreExec,
    sync: SyncMode,
    backends: Arc<dyn BackendFactory>,
    log_sink: Option<Arc<dyn LogSink>>,
    faults: Vec<gateway_protocol::methods::system::PluginFault>,
}

/// The process-wide owner of tenants.
pub struct Host {
    directory: ArcSwap<Directory>,
    opening: Opening,
    config: Option<Arc<ConfigFile>>,
    on_settings: Option<OnSettings>,
    /// Held while the configuration changes.
    pub(crate) reloading: tokio::sync::Mutex<()>,
    /// Held while the last good configuration is kept.
    pub(crate) keeping: parking_lot::Mutex<()>,
    /// The revision in force.
    pub(crate) changes: watch::Sender<u64>,
    /// Held while the stores are copied: one copy at a time.
    snapshotting: parking_lot::Mutex<()>,
    /// Tenants that were taken out and still end their work, by slug.
    leaving: parking_lot::Mutex<BTreeMap<String, watch::Receiver<bool>>>,
    shared: Arc<Shared>,
    auth: Authenticator,
    registry: Registry,
    hello: crate::hello::HelloParts,
    stop: CancellationToken,
    draining: AtomicBool,
    sidecars: watch::Sender<bool>,
    ready: watch::Sender<bool>,
    boot_aborted: watch::Sender<Option<BootAbort>>,
    safe_mode: SafeMode,
    on_phase: Option<OnPhase>,
    host_db: Arc<HostDb>,
    pool: Option<Arc<gateway_store::WriterPool>>,
    // Dropped last: it holds the lock on the directory.
    state_dir: StateDir,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Host({} tenants)", self.directory.load().tenants.len())
    }
}

impl Host {
    /// [`Host::open`], then [`Host::begin`] with nothing to wait for.
    ///
    /// # Errors
    /// Those of [`Host::open`].
    pub async fn start(options: HostOptions) -> Result<Arc<Self>, StartError> {
        let host = Self::open(options).await?;
        host.begin(std::future::ready(()));
        Ok(host)
    }

    /// Opens everything and takes up unfinished work. Nothing works by itself until [`Host::begin`].
    ///
    /// # Errors
    /// See [`StartError`]. A tenant whose store is broken does not stop the others: it answers with errors.
    pub async fn open(options: HostOptions) -> Result<Arc<Self>, StartError> {
        let state_dir = match options.locked {
            Some(locked) => locked,
            None => StateDir::open(&options.state_dir)?,
        };
        let host_db = Arc::new(HostDb::open(
            &state_dir,
            StoreOptions { sync: options.sync },
        )?);
        let (exec, pool) = match options.exec {
            Some(exec) => (exec, None),
            None => {
                let pool = gateway_store::WriterPool::new(STORE_WRITERS, STORE_READERS)?;
                (StoreExec::Threads(pool.clone()), Some(pool))
            }
        };
        let egress = match options.egress {
            Some(egress) => egress,
            None => Egress::new(EgressOptions::default())
                .map_err(|e| StartError::Egress(e.to_string()))?,
        };
        let backends = options.backends.unwrap_or_else(|| {
            Arc::new(ConfiguredBackends {
                egress: egress.clone(),
            })
        });
        let safe_mode = SafeMode::begin(
            &host_db,
            options.safe_mode,
            options.clock.now_ms(),
            options.settings.gateway.limits.safe_mode_retry_ms,
        )?;
        let wanted = options.guests && safe_mode.guests();
        let loaded = match options.guests_ahead.filter(|_| wanted) {
            Some(GuestsAhead(guests)) => Ok(guests),
            None => {
                let _mark = safe_mode.mark_guests(&host_db);
                load_guests(
                    wanted,
                    options
                        .plugin_dir
                        .or_else(|| options.settings.plugins_dir.clone()),
                    carried(&options.settings, options.bundled_plugins),
                    options.plugin_cache,
                    pins_of(&options.settings),
                    host_db.derive_key(GUESTS_KEY),
                )
                .await
            }
        };
        let guests = match loaded {
            Ok(guests) => guests,
            Err(error) => {
                if safe_mode.records() {
                    // An error that is told is no crash.
                    host_db.start_stopped()?;
                }
                return Err(error);
            }
        };
        let clock = options.clock;
        let settings = options.settings;
        let (egress, stop) = (Arc::new(egress), CancellationToken::new());
        let telemetry = match &settings.otlp {
            None => None,
            Some(otlp) => Some(
                crate::telemetry::Telemetry::start(
                    otlp,
                    egress.clone(),
                    clock.clone(),
                    options.random.clone(),
                    stop.child_token(),
                )
                .map_err(|why| StartError::Settings(format!("telemetry.otlp.endpoint: {why}")))?,
            ),
        };
        let api_keys = Arc::new(ApiKeys::open(
            host_db.clone(),
            host_db.derive_key("credentials"),
        )?);
        let shared = Arc::new(Shared {
            telemetry,
            version: env!("CARGO_PKG_VERSION"),
            boot_id: crate::random::uuid(&*options.random),
            started_ms: clock.now_ms(),
            faults: Faults::new(options.random.clone()),
            process_health: crate::process_health::ProcessHealth::default(),
            proofs: crate::readiness::Proofs::new(clock.clone(), pool.clone()),
            audit_key: crate::audit::key_of(&host_db),
            api_keys: api_keys.clone(),
            device_tokens: crate::pair::token::DeviceTokens::new(
                host_db.derive_key("device tokens"),
                host_db.derive_key("credentials"),
            ),
            workspaces: state_dir.workspaces(),
            identity: crate::hello::Identity::new(&host_db.derive_key("gateway identity")),
            clock: clock.clone(),
            random: options.random,
            egress,
            channel_plugins: crate::start::channel_plugins(
                options.channel_plugins,
                guests.host.as_ref(),
                &guests.plugins,
            ),
            plugins: guests.host,
            plugin_set: guests.plugins,
            configuration: crate::config::Configuration::new(
                host_db.derive_key("configuration"),
                &settings,
                options.refused.as_ref(),
                clock.now_ms(),
            ),
        });
        let auth = Authenticator::new(
            host_db.derive_key("credentials"),
            shared.clone(),
            limiter_rules(&settings.gateway.limits),
            clock.clone(),
        );
        let settings = Arc::new(settings);
        let host = Arc::new(Self {
            hello: crate::hello::HelloParts::new(shared.version, &shared.boot_id),
            registry: crate::rpc::registry()?,
            directory: ArcSwap::from_pointee(Directory::new(settings.clone(), BTreeMap::new())),
            opening: Opening {
                exec,
                sync: options.sync,
                backends,
                log_sink: options.log_sink,
                faults: guests.faults,
            },
            config: options.config,
            on_settings: options.on_settings,
            reloading: tokio::sync::Mutex::new(()),
            keeping: parking_lot::Mutex::new(()),
            changes: watch::Sender::new(1),
            snapshotting: parking_lot::Mutex::default(),
            leaving: parking_lot::Mutex::default(),
            shared,
            auth,
            stop,
            draining: AtomicBool::new(false),
            sidecars: watch::Sender::new(false),
            ready: watch::Sender::new(false),
            boot_aborted: watch::Sender::new(None),
            safe_mode,
            on_phase: options.on_phase,
            host_db,
            pool,
            state_dir,
        });
        host.shared.configuration.set_host(Arc::downgrade(&host));
        host.phase(Phase::Config);
        if let Err(error) = host.make_tenants(&settings) {
            if host.safe_mode.records() {
                host.host_db.start_stopped()?;
            }
            return Err(error);
        }
        for tenant in host.tenants() {
            let now = host.shared.clock.now_ms();
            match host.safe_mode.hold(tenant.id(), now) {
                None => {
                    let _mark = host.safe_mode.mark(&host, &tenant);
                    host.open_tenant(&tenant).await;
                }
                Some(hold) => {
                    tenant.health().set_faults(host.opening.faults.clone());
                    tenant.log("ERROR", &hold.message);
                    tracing::error!(tenant = tenant.slug(), why = hold.message, "tenant is held");
                    tenant.set_hold(Some(hold));
                    spawn_loops(&tenant);
                }
            }
        }
        host.phase(Phase::Migrate);
        host.spawn_sweeper();
        crate::readiness::first(&host).await;
        crate::readiness::watch(&host);
        host.spawn_key_watch();
        Ok(host)
    }

    fn make_tenants(&self, settings: &Arc<Settings>) -> Result<(), StartError> {
        let mut tenants = BTreeMap::new();
        for (slug, tenant_settings) in &settings.tenants {
            tenants.insert(slug.clone(), self.make_tenant(tenant_settings)?);
        }
        self.set_directory(Directory::new(settings.clone(), tenants));
        self.sync_credentials(settings)
    }

    /// Lets everything work: channels, schedules, then (when `announced` is over) boot scripts, then readiness
    /// ([`Host::ready`]). Returns at once.
    pub fn begin(self: &Arc<Self>, announced: impl Future<Output = ()> + Send + 'static) {
        crate::start::begin(self, announced);
        self.watch_config();
    }

    /// A step of the start is over.
    pub fn phase(&self, phase: Phase) {
        tracing::debug!(target: "gateway::start", phase = phase.as_str(), "start");
        if let Some(tell) = &self.on_phase {
            tell(phase);
        }
    }

    /// The boot script that keeps the gateway from starting, as soon as there is one: whoever runs the host ends it.
    #[must_use]
    pub fn boot_aborted(&self) -> watch::Receiver<Option<BootAbort>> {
        self.boot_aborted.subscribe()
    }

    pub(crate) fn abort_start(&self, abort: BootAbort) {
        self.boot_aborted.send_replace(Some(abort));
    }

    pub(crate) fn safe_mode(&self) -> &SafeMode {
        &self.safe_mode
    }

    pub(crate) fn host_db(&self) -> &HostDb {
        &self.host_db
    }

    /// Safe mode as this tenant may see it.
    pub(crate) fn safe_mode_health(
        &self,
        tenant: &Tenant,
    ) -> Option<gateway_protocol::methods::system::SafeModeHealth> {
        let directory = self.directory();
        let slug_of = |id: &TenantId| {
            let found = directory.tenants.values().find(|t| t.id() == id);
            found.map(|t| t.slug().to_owned())
        };
        let is_main = tenant.slug() == gateway_config::MAIN_TENANT;
        self.safe_mode.health(is_main.then_some(&slug_of))
    }

    /// Something that every tenant's health shows has changed.
    pub(crate) fn nudge_health(&self) {
        for tenant in self.tenants() {
            tenant.health().nudge();
        }
    }

    /// Starts a tenant that was held from the beginning: all that [`Host::open`] and [`Host::begin`] do for one.
    pub(crate) async fn take_up_held(self: &Arc<Self>, tenant: &Arc<Tenant>) {
        if let Err(error) = self.take_up(tenant).await {
            tracing::error!(tenant = tenant.slug(), %error, "tenant is degraded");
            tenant.log("ERROR", &format!("the store could not be opened: {error}"));
        }
        if let Some(channels) = tenant.channels() {
            channels.start_all().await;
        }
        crate::cron::start(tenant).await;
        crate::start::boot_scripts(self, tenant).await;
    }

    /// A tenant whose store is not open yet.
    pub(crate) fn make_tenant(&self, settings: &TenantSettings) -> Result<Arc<Tenant>, StoreError> {
        let row = self
            .host_db
            .ensure_tenant(&settings.slug, self.shared.clock.now_ms())?;
        let db = TenantDb::open(
            self.state_dir.tenant_dir(&row),
            row.id.clone(),
            self.host_db.epoch(),
            self.opening.exec.clone(),
            self.opening.sync,
        )?;
        let label: Arc<str> = row.id.as_str().into();
        let agents = Agents::build(
            settings,
            &label,
            &*self.opening.backends,
            &self.shared.clock,
        );
        let logs = Arc::new(LogBook::new(
            &settings.slug,
            Redactor::new(secrets_of(settings)),
            self.opening.log_sink.clone(),
        ));
        Ok(Tenant::new(
            row.id,
            settings.clone(),
            db,
            self.shared.clone(),
            agents,
            logs,
            self.stop.child_token(),
        ))
    }

    /// The agents of a tenant with other settings.
    pub(crate) fn make_agents(&self, tenant: &Tenant, settings: &TenantSettings) -> Agents {
        let label: Arc<str> = tenant.id().as_str().into();
        Agents::build(
            settings,
            &label,
            &*self.opening.backends,
            &self.shared.clock,
        )
    }

    /// The settings in force.
    #[must_use]
    pub fn settings(&self) -> Arc<Settings> {
        self.directory.load().settings.clone()
    }

    /// Tells the revision of the settings whenever others count.
    #[must_use]
    pub fn config_changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(crate) fn config_file(&self) -> Option<&Arc<ConfigFile>> {
        self.config.as_ref()
    }

    pub(crate) fn directory(&self) -> Arc<Directory> {
        self.directory.load_full()
    }

    pub(crate) fn set_directory(&self, directory: Directory) {
        self.directory.store(Arc::new(directory));
    }

    pub(crate) fn tell_settings(&self, new: &Settings, old: &Settings) {
        if let Some(tell) = &self.on_settings {
            tell(new, old);
        }
    }

    pub(crate) fn set_limits(&self, limits: &GatewayLimits) {
        self.auth.set_rules(limiter_rules(limits));
    }

    /// The end of a tenant of this name that was taken out, if it still ends its work.
    pub(crate) fn leaving(&self, slug: &str) -> Option<watch::Receiver<bool>> {
        self.leaving.lock().get(slug).cloned()
    }

    /// Takes up a tenant that was added while the gateway runs.
    pub(crate) async fn admit_tenant(self: &Arc<Self>, tenant: &Arc<Tenant>) {
        self.open_tenant(tenant).await;
        if let Some(channels) = tenant.channels() {
            channels.start_all().await;
        }
        crate::cron::start(tenant).await;
        let (host, tenant) = (self.clone(), tenant.clone());
        let tracker = tenant.tasks().clone();
        tracker.spawn(async move {
            crate::start::boot_scripts(&host, &tenant).await;
        });
    }

    /// Ends the work of a tenant that was taken out. What it has stays on disk.
    pub(crate) fn retire(self: &Arc<Self>, tenant: Arc<Tenant>) {
        let (tell, gone) = watch::channel(false);
        self.leaving.lock().insert(tenant.slug().to_owned(), gone);
        let host = self.clone();
        // Its credentials have ended, and with them what they let in.
        let removed = Close::new(Close::CREDENTIAL_CHANGED, "tenant removed");
        tenant.hub().close_where(&removed, |_| true);
        crate::pair::forget(&tenant);
        tokio::spawn(async move {
            let drain = Duration::from_millis(host.settings().gateway.limits.drain_timeout_ms).min(
                Duration::from_millis(crate::limits::TENANT_LEAVES_MAX_MS / 2),
            );
            let until = tokio::time::Instant::now() + drain;
            leave(&tenant, "tenant removed", None, until).await;
            tenant.stop_token().cancel();
            close(&tenant).await;
            host.leaving.lock().remove(tenant.slug());
            tell.send_replace(true);
            tracing::info!(
                tenant = tenant.slug(),
                "tenant removed; its state stays on disk"
            );
        });
    }

    /// Replaces the credentials by those of `settings` in memory and in the host's store. The old ones end at once, and
    /// so does every connection that one of them let in (close code 4001); the others go on.
    ///
    /// # Errors
    /// Two tenants that share a secret, or a store error.
    pub fn sync_credentials(&self, settings: &Settings) -> Result<(), StartError> {
        let directory = self.directory();
        let pairs: Vec<_> = settings
            .tenants
            .iter()
            .filter_map(|(slug, s)| Some((directory.tenants.get(slug)?, &s.auth)))
            .collect();
        self.auth
            .set_logins(&settings.gateway.tailscale_logins, &directory.tenants);
        let shared = self.auth.replace(pairs.iter().map(|(t, a)| (*t, *a)));
        self.close_ended_credentials();
        if let Some(slug) = shared.first() {
            return Err(StartError::Settings(format!(
                "tenant {slug} has the same token or password as another tenant; each tenant needs its own (next step: `gateway secret set`)"
            )));
        }
        let key = self.host_db.derive_key("credentials");
        let rows: Vec<(CredentialHash, TenantId, String)> = pairs
            .iter()
            .flat_map(|(tenant, auth)| {
                crate::auth::credentials_of(&key, auth)
                    .into_iter()
                    .map(|(hash, kind)| {
                        (
                            CredentialHash(hash),
                            tenant.id().clone(),
                            kind.as_str().to_owned(),
                        )
                    })
            })
            .collect();
        self.host_db.replace_credentials(rows)?;
        Ok(())
    }

    fn close_ended_credentials(&self) {
        let close = Close::new(Close::CREDENTIAL_CHANGED, "gateway auth changed");
        let gone = Close::new(Close::CREDENTIAL_CHANGED, DEVICE_REMOVED);
        for tenant in self.tenants() {
            // The device first: what let the connection in may be that device's token.
            let mut ended = tenant.hub().close_where(&gone, |conn| {
                !self
                    .auth
                    .still_paired(&tenant, conn.role, conn.device.as_ref())
            });
            ended += tenant
                .hub()
                .close_where(&close, |conn| !self.auth.still_admits(&tenant, &conn.proof));
            if ended > 0 {
                tenant.log(
                    "INFO",
                    &format!("{ended} connections closed: their credential has ended"),
                );
            }
        }
    }

    /// Adds a connection to its tenant's hub; from the return on it gets events. A credential that ended between its check
    /// and this call closes the connection like any other.
    ///
    /// # Errors
    /// [`HubError::TooManyConnections`].
    pub fn register(
        &self,
        tenant: &Arc<Tenant>,
        info: ConnInfo,
        sink: Arc<dyn EventSink>,
    ) -> Result<HubGuard, HubError> {
        let (proof, role, device) = (info.proof, info.role, info.device.clone());
        let guard = tenant.hub().register(info, sink.clone())?;
        // Whoever replaces credentials looks at the hubs afterwards: one of the two sees the other.
        if !self.auth.still_paired(tenant, role, device.as_ref()) {
            sink.close(Close::new(Close::CREDENTIAL_CHANGED, DEVICE_REMOVED));
        }
        if !self.auth.still_admits(tenant, &proof) {
            sink.close(Close::new(
                Close::CREDENTIAL_CHANGED,
                "gateway auth changed",
            ));
        }
        Ok(guard)
    }

    /// Opens a tenant's store and takes up what is unfinished. Failures leave this tenant degraded.
    async fn open_tenant(&self, tenant: &Arc<Tenant>) {
        tenant.health().set_faults(self.opening.faults.clone());
        for fault in crate::health::missing_plugins(tenant, &self.opening.faults) {
            tenant.log("ERROR", &fault.error);
        }
        for (agent, why) in tenant.agents().broken() {
            tenant.log("ERROR", &format!("agent {agent} cannot answer: {why}"));
        }
        if let Err(error) = self.take_up(tenant).await {
            tracing::error!(tenant = tenant.slug(), %error, "tenant is degraded");
            tenant.log("ERROR", &format!("the store could not be opened: {error}"));
        }
        spawn_loops(tenant);
    }

    async fn take_up(&self, tenant: &Arc<Tenant>) -> Result<(), StoreError> {
        tenant.db().ensure_open().await?;
        crate::pair::load(tenant).await?;
        let agents: Vec<String> = tenant.agents().ids().map(str::to_owned).collect();
        let (counts, recent) = tenant
            .db()
            .read(move |r| {
                let counts = agents
                    .into_iter()
                    .map(|id| r.count_sessions(Some(&id)).map(|n| (id, n)))
                    .collect::<Result<Vec<_>, _>>()?;
                let recent = r.list_sessions(&gateway_store::ListQuery {
                    limit: 5,
                    ..gateway_store::ListQuery::default()
                })?;
                Ok((counts, recent.items))
            })
            .await?;
        for (agent, count) in counts {
            tenant
                .sessions()
                .set_count(&agent, u64::try_from(count).unwrap_or(0));
        }
        for s in recent.iter().rev() {
            tenant.sessions().touched(&s.key, &s.agent_id, s.updated_at);
        }
        crate::start::before_runs(tenant).await;
        let taken = crate::session::recover(tenant).await?;
        if taken > 0 {
            tenant.log("INFO", &format!("{taken} unfinished runs taken up again"));
        }
        tenant.health().nudge();
        Ok(())
    }

    fn spawn_sweeper(self: &Arc<Self>) {
        let host = Arc::downgrade(self);
        let stop = self.stop.clone();
        tokio::spawn(async move {
            let mut every = tokio::time::interval(Duration::from_secs(60));
            loop {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    _ = every.tick() => {}
                }
                match host.upgrade() {
                    Some(host) => host.auth.sweep(),
                    None => return,
                }
            }
        });
    }

    /// Closes what API keys let in when they end, and writes down when they were used.
    fn spawn_key_watch(self: &Arc<Self>) {
        let host = Arc::downgrade(self);
        let stop = self.stop.clone();
        let mut changes = self.auth.changes();
        tokio::spawn(async move {
            loop {
                let wait_ms = {
                    let Some(host) = host.upgrade() else { return };
                    let now = host.shared.clock.now_ms();
                    let next = host.shared.api_keys.next_end_ms(now);
                    next.map_or(API_KEY_LOOK_MAX_MS, |end| end.saturating_sub(now))
                        .clamp(1, API_KEY_LOOK_MAX_MS)
                };
                let wait = Duration::from_millis(u64::try_from(wait_ms).unwrap_or(1));
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    changed = changes.changed() => if changed.is_err() { return },
                    () = tokio::time::sleep(wait) => {}
                }
                let Some(host) = host.upgrade() else { return };
                host.end_keys().await;
            }
        });
    }

    async fn end_keys(&self) {
        self.close_ended_credentials();
        // Requests under way ask again whether they may go on.
        self.shared.api_keys.wake_requests();
        if self.shared.api_keys.has_unkept_use() {
            let keys = self.shared.api_keys.clone();
            match tokio::task::spawn_blocking(move || keys.keep_use()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "use of API keys not written down"),
                Err(error) => tracing::warn!(%error, "use of API keys not written down"),
            }
        }
    }

    /// Whether what once let a caller of `tenant` in would still do so.
    #[must_use]
    pub fn still_admits(&self, tenant: &Tenant, proof: &crate::auth::Proof) -> bool {
        self.auth.still_admits(tenant, proof)
    }

    /// Told whenever some credential may have ended: whoever goes on by one asks [`Host::still_admits`] then.
    #[must_use]
    pub fn credential_changes(&self) -> watch::Receiver<u64> {
        self.shared.api_keys.ended()
    }

    /// The tenant named by a `Host` name (without port) and by a path below `/t/<slug>/`.
    ///
    /// # Errors
    /// When the two name different tenants.
    pub fn tenant_by_hints(
        &self,
        host: Option<&str>,
        path_slug: Option<&str>,
    ) -> Result<TenantHint, ContradictoryHints> {
        let directory = self.directory.load();
        let by_host = host.and_then(|h| {
            let name = h.trim_end_matches('.').to_ascii_lowercase();
            directory.by_host.get(&name)
        });
        let by_path = path_slug.map(|slug| directory.tenants.get(slug));
        match (by_host, by_path) {
            (None, None) => Ok(TenantHint::Unnamed),
            (Some(t), None) | (None, Some(Some(t))) => Ok(TenantHint::Named(t.clone())),
            (None, Some(None)) => Ok(TenantHint::Nobody),
            (Some(a), Some(Some(b))) if a.id() == b.id() => Ok(TenantHint::Named(a.clone())),
            (Some(_), Some(_)) => Err(ContradictoryHints),
        }
    }

    /// Who is calling. The failure limiter is inside.
    ///
    /// # Errors
    /// The answer to give; it is the same for every kind of wrong credential.
    pub fn authenticate(&self, attempt: &AuthAttempt<'_>) -> Result<Authenticated, AuthRefusal> {
        self.auth.authenticate(attempt).inspect_err(|refusal| {
            // Whose it would have been; what names nobody is the business of the host's operator.
            let named = attempt.tenant_hint.tenant().cloned();
            if let Some(tenant) = named.or_else(|| self.main_tenant()) {
                crate::audit::sign_in_refused(&tenant, attempt, &refusal.error);
            }
        })
    }

    /// What becomes of a device that proved itself and gave a credential of this tenant. `local`: it is on this machine, seen
    /// at the real socket, with no header of a proxy and no origin of a page. `by_secret`: by the tenant's own secret, or none.
    #[must_use]
    pub fn pair(
        &self,
        tenant: &Arc<Tenant>,
        claim: crate::pair::book::Claim,
        local: bool,
        by_secret: bool,
    ) -> crate::pair::Pairing {
        let directory = self.directory();
        // Where tenants share a machine, being on it says nothing about who one is.
        let quiet =
            local && directory.tenants.len() == 1 && directory.settings.gateway.pair_local_silently;
        let silent = crate::pair::book::Silent {
            first: quiet,
            upgrade: quiet && by_secret,
        };
        crate::pair::admit(tenant, claim, silent)
    }

    /// Uses a setup code for a device that proved itself.
    ///
    /// # Errors
    /// The refusal of its `connect`.
    pub fn redeem(
        &self,
        tenant: &Arc<Tenant>,
        claim: crate::pair::book::Claim,
        code: crate::auth::CredentialHash,
    ) -> impl Future<
        Output = Result<crate::pair::Paired, gateway_protocol::methods::connect::ConnectRefusal>,
    > + Send
    + use<> {
        let tenant = tenant.clone();
        async move {
            crate::pair::setup::redeem(&tenant, claim, gateway_store::CredentialHash(code)).await
        }
    }

    /// The method table.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The payload of `hello-ok` as JSON.
    #[must_use]
    pub fn hello_ok(&self, input: &HelloInput<'_>) -> Bytes {
        self.hello.encode(input)
    }

    /// Wrong and missing credentials since the start.
    #[must_use]
    pub fn auth_failures(&self) -> u64 {
        self.auth.failures()
    }

    /// Log lines that could not be written since the start.
    #[must_use]
    pub fn log_lines_dropped(&self) -> u64 {
        self.opening
            .log_sink
            .as_ref()
            .map_or(0, |sink| sink.dropped_lines())
    }

    /// What all tenants share.
    #[must_use]
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The process is short of memory: guests without work give back what they hold; with `end_largest` the largest of those
    /// that are at work is ended. Gives whose it was and its bytes.
    pub fn relieve_memory(&self, end_largest: bool) -> Option<(String, usize)> {
        self.shared.plugins.as_ref()?.relieve_memory(end_largest)
    }

    /// Caught panics and internal errors.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// Tells where the gateway listens: what a setup code without an address of its own leads to.
    pub fn set_listener(&self, listener: crate::process_health::Listener) {
        self.shared.process_health.set_listener(listener);
    }

    /// Publishes how the listener's certificate is, to every tenant.
    pub fn set_tls_health(&self, state: gateway_protocol::methods::system::TlsHealth) {
        self.shared.process_health.set_tls(state);
        for tenant in self.tenants() {
            tenant.health().nudge();
        }
    }

    /// Publishes how the gateway lets itself be found, to every tenant.
    pub fn set_discovery_health(&self, state: gateway_protocol::methods::system::DiscoveryHealth) {
        if self.shared.process_health.set_discovery(state) {
            for tenant in self.tenants() {
                tenant.health().nudge();
            }
        }
    }

    /// Publishes how the name in a tailnet is, to the operators of the tenant `main`.
    pub fn set_tailscale_health(&self, state: gateway_protocol::methods::system::TailscaleHealth) {
        if self.shared.process_health.set_tailscale(state)
            && let Some(main) = self.main_tenant()
        {
            main.health().nudge();
        }
    }

    /// Whether and as whom a login that Tailscale vouches for is let in. `None`: it is not.
    #[must_use]
    pub fn admit_login(&self, login: &str, hint: &TenantHint) -> Option<Authenticated> {
        self.auth.admit_login(login, hint)
    }

    /// All tenants, by slug. For background loops and for channel routes (which name their tenant by path or host).
    pub fn tenants(&self) -> Vec<Arc<Tenant>> {
        self.directory.load().tenants.values().cloned().collect()
    }

    /// The tenant of this slug. Not for text that comes from a caller's params.
    #[must_use]
    pub fn tenant(&self, slug: &str) -> Option<Arc<Tenant>> {
        self.directory.load().tenants.get(slug).cloned()
    }

    /// Copies stores into a directory that somebody made for that; see [`gateway_store::snapshot()`]. Blocks.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] without the directory, [`StoreError::Busy`] while another copy is made.
    pub(crate) fn snapshot(
        &self,
        id: &SnapshotId,
        of: SnapshotOf<'_>,
    ) -> Result<Snapshot, StoreError> {
        let Some(_one) = self.snapshotting.try_lock() else {
            return Err(StoreError::Busy("another snapshot is being made"));
        };
        gateway_store::snapshot(&self.state_dir, id, of)
    }

    /// The tenant whose requests carry neither a host name nor a path of a tenant.
    #[must_use]
    pub fn main_tenant(&self) -> Option<Arc<Tenant>> {
        self.tenant(gateway_config::MAIN_TENANT)
    }

    /// True when boot is over and requests are welcome; false while draining.
    #[must_use]
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    /// Whether requests are welcome, with the proofs and their ages.
    #[must_use]
    pub fn readiness(&self) -> crate::readiness::Readiness {
        use crate::readiness::Reason;
        let mut found = self.shared.proofs.read();
        let own = match (self.is_draining(), *self.ready.borrow()) {
            (true, _) => Some(Reason::Draining),
            (false, false) => Some(Reason::Starting),
            (false, true) => None,
        };
        if let Some(own) = own {
            found.reasons.insert(0, own);
        }
        found
    }

    /// True when what works by itself (channels, schedules) has started: from then on the gateway may be told of. Boot
    /// scripts come after that, and then readiness.
    #[must_use]
    pub fn sidecars(&self) -> watch::Receiver<bool> {
        self.sidecars.subscribe()
    }

    pub(crate) fn set_sidecars(&self) {
        self.sidecars.send_replace(true);
    }

    pub(crate) fn set_ready(&self) {
        if !self.is_draining() {
            self.ready.send_replace(true);
        }
    }

    /// Whether the host is stopping.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Cancelled when the host stops.
    #[must_use]
    pub fn stop_token(&self) -> &CancellationToken {
        &self.stop
    }

    /// A new connection id.
    #[must_use]
    pub fn new_conn_id(&self) -> ConnId {
        let id = crate::random::uuid(&*self.shared.random);
        // A UUID is always a valid id.
        ConnId::parse(&id).unwrap_or_else(|_| unreachable!("a UUID is a valid connection id"))
    }

    /// After [`Host::shutdown`]: another process may have the state directory, although this one still lives.
    ///
    /// # Errors
    /// Those of the system's lock.
    pub fn release(&self) -> Result<(), StartError> {
        Ok(self.state_dir.release()?)
    }

    /// Stops in order: readiness off, `shutdown` events, runs end (until the deadline), answers are flushed, stores
    /// close. What does not end in time stays in the store and is taken up by the next start.
    pub async fn shutdown(&self, deadline: Duration) {
        if self.draining.swap(true, Ordering::AcqRel) {
            return;
        }
        self.ready.send_replace(false);
        let until = tokio::time::Instant::now() + deadline;
        // A change of the configuration that is under way ends first; none begins any more.
        let _ = tokio::time::timeout_at(until, self.reloading.lock()).await;
        let tenants = self.tenants();
        let leaving: Vec<_> = self.leaving.lock().values().cloned().collect();
        let back = Some(RESTART_EXPECTED_MS);
        futures_util::future::join_all(
            tenants
                .iter()
                .map(|t| leave(t, "gateway stopping", back, until)),
        )
        .await;
        self.stop.cancel();
        if let Err(error) = self.shared.api_keys.keep_use() {
            tracing::warn!(%error, "use of API keys not written down");
        }
        futures_util::future::join_all(tenants.iter().map(|t| close(t))).await;
        for mut gone in leaving {
            let _ = tokio::time::timeout_at(until, gone.wait_for(|gone| *gone)).await;
        }
        if let Some(pool) = self.pool.clone() {
            // It joins threads: not on a runtime thread, and not on one of the runtime's threads for blocking work, which
            // may all be taken.
            let (tell, joined) = tokio::sync::oneshot::channel();
            let joiner = std::thread::Builder::new()
                .name("store-join".to_owned())
                .spawn(move || {
                    pool.shutdown();
                    let _ = tell.send(());
                });
            if joiner.is_ok() {
                let _ = joined.await;
            }
        }
        if self.safe_mode.records()
            && let Err(error) = self.host_db.start_stopped()
        {
            tracing::warn!(%error, "it is not recorded that the gateway was stopped");
        }
        if let Err(error) = self.host_db.checkpoint() {
            tracing::debug!(%error, "the log of host.sqlite stays");
        }
    }
}

/// Ends a tenant's work: no new run, everybody is told, runs end and answers that are due are sent until `until`.
async fn leave(
    tenant: &Tenant,
    reason: &str,
    restart_expected_ms: Option<u64>,
    until: tokio::time::Instant,
) {
    tenant.sessions().drain();
    tenant.hub().emit::<gateway_protocol::event::Shutdown>(
        &gateway_protocol::event::ShutdownPayload {
            reason: reason.to_owned(),
            restart_expected_ms,
        },
        crate::hub::Routing::Everyone,
    );
    let _ = tokio::time::timeout_at(until, tenant.sessions().wait_idle()).await;
    if let Some(channels) = tenant.channels() {
        let _ = tokio::time::timeout_at(until, channels.flush()).await;
        let _ = tokio::time::timeout_at(until, channels.stop_all()).await;
    }
}

/// Waits for a stopped tenant's tasks and closes its store.
async fn close(tenant: &Tenant) {
    let grace = tokio::time::Instant::now() + Duration::from_millis(STOP_GRACE_MS);
    tenant.tasks().close();
    let _ = tokio::time::timeout_at(grace, tenant.tasks().wait()).await;
    if let Err(error) = tenant.db().close().await {
        tracing::warn!(tenant = tenant.slug(), %error, "store not closed cleanly");
    }
}

fn limiter_rules(limits: &GatewayLimits) -> LimiterRules {
    LimiterRules {
        failures: limits.auth_failures,
        window_ms: limits.auth_window_ms,
        lockout_ms: limits.auth_lockout_ms,
    }
}

/// Store threads of a host.
const STORE_WRITERS: usize = 2;
/// Reader threads of a host.
const STORE_READERS: usize = 2;

impl Drop for Host {
    fn drop(&mut self) {
        // Loops of tenants hold the tenant, not the host: they end with it.
        self.stop.cancel();
    }
}

/// Guests that are loaded and compiled, without a store: the slow part of a start.
pub struct GuestsAhead(Guests);

impl std::fmt::Debug for GuestsAhead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GuestsAhead({} plugins)", self.0.plugins.len())
    }
}

impl GuestsAhead {
    /// Loads the guests that `settings` name. Another gateway may hold the state directory meanwhile; what is compiled goes
    /// into its cache.
    ///
    /// # Errors
    /// When there is no engine, or no key of the host. A plugin that cannot be loaded is a fault in health, as at any start.
    pub async fn load(
        state_dir: &std::path::Path,
        settings: &Settings,
        bundled: Vec<gateway_wasm::Bundled>,
        cache: Option<PathBuf>,
    ) -> Result<Self, StartError> {
        let key = gateway_store::HostKey::open(state_dir)?;
        load_guests(
            true,
            settings.plugins_dir.clone(),
            carried(settings, bundled),
            cache,
            pins_of(settings),
            key.derive(GUESTS_KEY),
        )
        .await
        .map(Self)
    }
}

/// What the key of compiled guests is derived for.
const GUESTS_KEY: &str = "compiled guests";

/// What the program carries, where it is wanted.
fn carried(settings: &Settings, bundled: Vec<gateway_wasm::Bundled>) -> Vec<gateway_wasm::Bundled> {
    if settings.plugins_bundled {
        bundled
    } else {
        Vec::new()
    }
}

fn pins_of(settings: &Settings) -> gateway_wasm::Pins {
    gateway_wasm::Pins {
        digests: settings.plugin_pins.clone(),
        only: settings.plugins_pinned_only,
    }
}

struct Guests {
    host: Option<Arc<gateway_wasm::PluginHost>>,
    plugins: Vec<Arc<gateway_wasm::Plugin>>,
    faults: Vec<gateway_protocol::methods::system::PluginFault>,
}

async fn load_guests(
    wanted: bool,
    dir: Option<PathBuf>,
    bundled: Vec<gateway_wasm::Bundled>,
    cache: Option<PathBuf>,
    pins: gateway_wasm::Pins,
    cache_key: [u8; 32],
) -> Result<Guests, StartError> {
    let mut guests = Guests {
        host: None,
        plugins: Vec::new(),
        faults: Vec::new(),
    };
    if !wanted || dir.is_none() && bundled.is_empty() {
        return Ok(guests);
    }
    let options = gateway_wasm::WasmOptions {
        cache_dir: cache,
        cache_key,
        pins,
        ..gateway_wasm::WasmOptions::new()
    };
    let host =
        gateway_wasm::PluginHost::new(options).map_err(|e| StartError::Guests(e.to_string()))?;
    for loaded in host.load_all(dir.as_deref(), &bundled).await {
        match loaded {
            Ok(plugin) => {
                tracing::info!(plugin = %plugin.manifest.id, version = %plugin.manifest.version, source = plugin.source.name(), "plugin loaded");
                guests.plugins.push(plugin);
            }
            Err(error) => {
                let id = match (&error.source, error.id.as_str()) {
                    // The directory itself.
                    (gateway_wasm::Source::Directory(dir), "") => dir
                        .file_name()
                        .map(|n| n.to_string_lossy().into_owned())
                        .unwrap_or_default(),
                    (_, id) => id.to_owned(),
                };
                tracing::error!(plugin = %id, %error, "plugin not loaded");
                guests
                    .faults
                    .push(gateway_protocol::methods::system::PluginFault {
                        id,
                        origin: match error.source {
                            gateway_wasm::Source::Directory(_) => "wasm-dir",
                            gateway_wasm::Source::Bundled => "bundled",
                        }
                        .to_owned(),
                        activated: true,
                        error: error.kind.to_string(),
                    });
            }
        }
    }
    guests.host = Some(host);
    Ok(guests)
}

/// All secret values of a tenant, to be kept out of its log.
pub(crate) fn secrets_of(settings: &TenantSettings) -> Vec<String> {
    let mut out: Vec<String> = [&settings.auth.token, &settings.auth.password]
        .into_iter()
        .flatten()
        .map(|s| s.expose().to_owned())
        .collect();
    let proxy = settings.auth.proxy.as_ref();
    out.extend(proxy.and_then(|p| Some(p.secret.as_ref()?.expose().to_owned())));
    for agent in settings.agents.entries.values() {
        if let gateway_config::AgentBackend::OpenAi(o) = &agent.backend {
            out.extend(o.api_key.as_ref().map(|k| k.expose().to_owned()));
        }
    }
    for account in &settings.channels {
        out.extend(account.secrets.values().map(|s| s.expose().to_owned()));
    }
    let hook = &settings.cron.webhook;
    out.extend(
        hook.token
            .iter()
            .chain(hook.secrets.values())
            .map(|s| s.expose().to_owned()),
    );
    out.extend(
        settings
            .hooks
            .iter()
            .map(|hooks| hooks.token.expose().to_owned()),
    );
    out
}

/// The loops of a tenant: health (periodic and nudged), presence, and the sweep for runs without a worker.
fn spawn_loops(tenant: &Arc<Tenant>) {
    let tracker = tenant.tasks().clone();
    let weak = Arc::downgrade(tenant);
    let stop = tenant.stop_token().clone();
    tracker.spawn(async move {
        let mut every = tokio::time::interval(Duration::from_millis(HEALTH_RECONCILE_MS));
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = every.tick() => {}
            }
            let Some(tenant) = weak.upgrade() else { return };
            // Without listeners nobody sees the ages grow; the next reader makes its own snapshot.
            tenant.health().refresh();
            tenant.health().announce(&tenant);
            tenant.sessions().age(tenant.now_ms());
        }
    });
    let weak = Arc::downgrade(tenant);
    let stop = tenant.stop_token().clone();
    tracker.spawn(async move {
        loop {
            let Some(tenant) = weak.upgrade() else { return };
            let presence = tenant.presence().clone();
            let sweep = tenant.sessions().sweep_list().clone();
            drop(tenant);
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = presence.changed() => {
                    // A storm of connections becomes a few events.
                    tokio::time::sleep(Duration::from_millis(PRESENCE_PAUSE_MS)).await;
                    let Some(tenant) = weak.upgrade() else { return };
                    tenant.presence().announce(tenant.hub());
                }
                () = sweep.raised() => {
                    let Some(tenant) = weak.upgrade() else { return };
                    if let Err(error) = crate::session::sweep(&tenant).await {
                        tracing::warn!(tenant = tenant.slug(), %error, "sweep failed");
                    }
                }
            }
        }
    });
}

/// Changes of presence within this time are one event, in ms.
const PRESENCE_PAUSE_MS: u64 = 50;

/// Address of a caller without one (inside the process).
pub const NO_ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);

/// Everything that the default token of a tenant may do.
pub const TOKEN_CEILING: ScopeSet = ScopeSet::ALL;
