//! A tenant: the owner of everything that belongs to one customer. What a handler may touch hangs on it, and nothing
//! of another tenant can be reached from here.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use arc_swap::{ArcSwap, ArcSwapOption};
use gateway_config::TenantSettings;
use gateway_egress::Egress;
use gateway_protocol::ids::AgentId;
use gateway_store::{TenantDb, TenantId};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::delivery::{ChannelControl, Delivery};
use crate::faults::Faults;
use crate::health::Health;
use crate::hold::Hold;
use crate::hub::Hub;
use crate::logs::LogBook;
use crate::presence::Presence;
use crate::random::Random;
use crate::session::Sessions;

/// What all tenants of a host share and none can change.
pub struct Shared {
    /// Version of the gateway, as told to clients.
    pub version: &'static str,
    /// Id of this start of the process.
    pub boot_id: String,
    /// When the host started (Unix epoch ms).
    pub started_ms: i64,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub random: Arc<dyn Random>,
    /// The way out to the network; each tenant uses its own partition.
    pub egress: Arc<Egress>,
    /// Caught panics.
    pub faults: Faults,
    /// Health of the listener and the advertiser.
    pub process_health: crate::process_health::ProcessHealth,
    /// Proofs that commits reach the disk and that the runtime turns.
    pub proofs: crate::readiness::Proofs,
    /// Where traces go; `None` without a collector.
    pub telemetry: Option<crate::telemetry::Telemetry>,
    /// Key of the tenants' audit logs.
    pub audit_key: gateway_store::AuditKey,
    /// The guest engines; `None` in simulations and where no plugins are loaded.
    pub plugins: Option<Arc<gateway_wasm::PluginHost>>,
    /// Workspaces of agents.
    pub workspaces: gateway_store::Workspaces,
    /// Channel kinds: the loaded ones and those given at the start.
    pub channel_plugins: Vec<Arc<dyn crate::channel::ChannelPlugin>>,
    /// Loaded plugins.
    pub plugin_set: Vec<Arc<gateway_wasm::Plugin>>,
    /// The API keys of all tenants; each reaches its own by its id.
    pub api_keys: Arc<crate::auth::ApiKeys>,
    /// The tokens of all tenants' devices; each tenant makes and ends its own.
    pub device_tokens: crate::pair::token::DeviceTokens,
    /// The gateway's own key pair's public half.
    pub identity: crate::hello::Identity,
    /// The configuration in force, as tenants see it and as it is changed.
    pub configuration: crate::config::Configuration,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Shared({})", self.boot_id)
    }
}

/// One tenant. Handed out as `Arc<Tenant>` by the host only.
pub struct Tenant {
    id: TenantId,
    slug: String,
    settings: ArcSwap<TenantSettings>,
    db: TenantDb,
    shared: Arc<Shared>,
    presence: Arc<Presence>,
    hub: Arc<Hub>,
    health: Health,
    logs: Arc<LogBook>,
    sessions: Sessions,
    agents: ArcSwap<crate::agents::Agents>,
    delivery: OnceLock<Arc<dyn Delivery>>,
    control: OnceLock<Arc<dyn ChannelControl>>,
    channels: OnceLock<Arc<crate::channel::Channels>>,
    cron: Arc<crate::cron::Cron>,
    devices: crate::pair::Devices,
    nodes: crate::node::NodeRegistry,
    metrics: crate::metrics::Metrics,
    http_permits: Arc<Semaphore>,
    hook_limiter: crate::auth::FailureLimiter,
    hook_logs: crate::policy::HookLogs,
    write_limiter: crate::write_limit::WriteLimiter,
    refusals: crate::audit::Refusals,
    stop: CancellationToken,
    tasks: TaskTracker,
    hold: ArcSwapOption<Hold>,
    booting: tokio::sync::Mutex<()>,
}

impl std::fmt::Debug for Tenant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tenant({})", self.slug)
    }
}

impl Tenant {
    pub(crate) fn new(
        id: TenantId,
        settings: TenantSettings,
        db: TenantDb,
        shared: Arc<Shared>,
        agents: crate::agents::Agents,
        logs: Arc<LogBook>,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let health_version = Arc::new(AtomicU64::new(1));
        let presence = Arc::new(Presence::new(
            shared.clock.now_ms(),
            shared.version,
            &shared.boot_id,
            health_version.clone(),
        ));
        Arc::new(Self {
            id,
            slug: settings.slug.clone(),
            settings: ArcSwap::from_pointee(settings),
            hub: Hub::new(presence.clone()),
            presence,
            health: Health::new(health_version),
            logs,
            sessions: Sessions::new(),
            agents: ArcSwap::from_pointee(agents),
            delivery: OnceLock::new(),
            control: OnceLock::new(),
            channels: OnceLock::new(),
            cron: Arc::default(),
            devices: crate::pair::Devices::default(),
            nodes: crate::node::NodeRegistry::default(),
            metrics: crate::metrics::Metrics::default(),
            http_permits: crate::channel::http::tenant_permits(),
            refusals: crate::audit::Refusals::default(),
            write_limiter: crate::write_limit::WriteLimiter::default(),
            hook_limiter: crate::auth::FailureLimiter::new(crate::auth::LimiterRules::default()),
            hook_logs: crate::policy::HookLogs::default(),
            stop,
            tasks: TaskTracker::new(),
            hold: ArcSwapOption::empty(),
            booting: tokio::sync::Mutex::new(()),
            db,
            shared,
        })
    }

    /// Its id, for labels and logs.
    #[must_use]
    pub fn id(&self) -> &TenantId {
        &self.id
    }

    /// Its name in configuration and addresses.
    #[must_use]
    pub fn slug(&self) -> &str {
        &self.slug
    }

    /// Its present settings.
    #[must_use]
    pub fn settings(&self) -> Arc<TenantSettings> {
        self.settings.load_full()
    }

    /// Replaces its settings.
    pub(crate) fn set_settings(&self, settings: TenantSettings) {
        self.settings.store(Arc::new(settings));
    }

    /// Replaces its agents, and gives those from before. Runs that are going on keep theirs.
    pub(crate) fn set_agents(&self, agents: crate::agents::Agents) -> Arc<crate::agents::Agents> {
        self.agents.swap(Arc::new(agents))
    }

    /// Its store.
    #[must_use]
    pub fn db(&self) -> &TenantDb {
        &self.db
    }

    /// What it shares with the others.
    #[must_use]
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Wall clock, Unix epoch ms.
    #[must_use]
    pub fn now_ms(&self) -> i64 {
        self.shared.clock.now_ms()
    }

    /// The clock.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.shared.clock
    }

    /// A fresh random id (UUID text).
    #[must_use]
    pub fn new_id(&self) -> String {
        crate::random::ordered_uuid(&*self.shared.random, self.now_ms())
    }

    /// Its event fan-out.
    #[must_use]
    pub fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// Who is connected.
    #[must_use]
    pub fn presence(&self) -> &Arc<Presence> {
        &self.presence
    }

    /// Its health.
    #[must_use]
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Its log lines.
    #[must_use]
    pub fn logs(&self) -> &Arc<LogBook> {
        &self.logs
    }

    /// Writes one line to the tenant's log.
    pub fn log(&self, level: &str, text: &str) {
        self.logs.line(self.now_ms(), level, text);
    }

    /// Writes one line about a run to the tenant's log.
    pub(crate) fn log_run(&self, level: &str, run_id: &str, text: &str) {
        self.logs.line_of(self.now_ms(), level, Some(run_id), text);
    }

    /// Its sessions and runs.
    #[must_use]
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// Its agents.
    #[must_use]
    pub fn agents(&self) -> Arc<crate::agents::Agents> {
        self.agents.load_full()
    }

    /// The agent that answers when none is named.
    #[must_use]
    pub fn default_agent(&self) -> AgentId {
        AgentId::parse(&self.settings.load().agents.default).unwrap_or_else(|_| AgentId::main())
    }

    /// Tells runs where to announce answers that are due. Set once, before the first run; later calls change nothing.
    pub fn set_delivery(&self, delivery: Arc<dyn Delivery>) {
        let _ = self.delivery.set(delivery);
    }

    /// Gives the method handlers of `channels.*`, `send` and the outbox what they call. Set once.
    pub fn set_channel_control(&self, channels: Arc<dyn ChannelControl>) {
        let _ = self.control.set(channels);
    }

    /// Its channel accounts, once they were set up.
    #[must_use]
    pub fn channels(&self) -> Option<&Arc<crate::channel::Channels>> {
        self.channels.get()
    }

    pub(crate) fn set_channels(&self, channels: Arc<crate::channel::Channels>) {
        let _ = self.channels.set(channels);
    }

    /// Requests of its guests that may be under way at the same time.
    pub(crate) fn http_permits(&self) -> &Arc<Semaphore> {
        &self.http_permits
    }

    /// What the channel methods call, once the channels were set up.
    #[must_use]
    pub fn channel_control(&self) -> Option<&Arc<dyn ChannelControl>> {
        self.control.get()
    }

    pub(crate) fn delivery(&self) -> Option<&Arc<dyn Delivery>> {
        self.delivery.get()
    }

    /// Counts wrong tokens of hooks by address.
    pub(crate) fn hook_limiter(&self) -> &crate::auth::FailureLimiter {
        &self.hook_limiter
    }

    /// What is left of the log lines of its hooks.
    pub(crate) fn hook_logs(&self) -> &crate::policy::HookLogs {
        &self.hook_logs
    }

    /// Bounds refusals in its audit log.
    pub(crate) fn refusals(&self) -> &crate::audit::Refusals {
        &self.refusals
    }

    /// Counts writes of schedules and configuration.
    pub(crate) fn write_limiter(&self) -> &crate::write_limit::WriteLimiter {
        &self.write_limiter
    }

    /// Its numbers.
    #[must_use]
    pub fn metrics(&self) -> &crate::metrics::Metrics {
        &self.metrics
    }

    /// Its devices.
    #[must_use]
    pub fn devices(&self) -> &crate::pair::Devices {
        &self.devices
    }

    /// Its nodes.
    #[must_use]
    pub fn nodes(&self) -> &crate::node::NodeRegistry {
        &self.nodes
    }

    /// Its schedules.
    pub(crate) fn cron(&self) -> &Arc<crate::cron::Cron> {
        &self.cron
    }

    /// Why it takes no work; `None` while it does.
    #[must_use]
    pub fn hold(&self) -> Option<Arc<Hold>> {
        self.hold.load_full()
    }

    pub(crate) fn set_hold(&self, hold: Option<Hold>) {
        self.hold.store(hold.map(Arc::new));
        self.health.nudge();
    }

    /// Held while its boot scripts run.
    pub(crate) fn booting(&self) -> &tokio::sync::Mutex<()> {
        &self.booting
    }

    /// Cancelled when the tenant stops.
    #[must_use]
    pub fn stop_token(&self) -> &CancellationToken {
        &self.stop
    }

    /// Its background tasks; a stopping host waits for them.
    #[must_use]
    pub fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Counted panics and internal errors.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }
}
