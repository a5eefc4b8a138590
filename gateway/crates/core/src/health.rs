//! The health of a tenant as a published snapshot: made from what is in memory when something changed, kept as the bytes
//! that are sent. A reader never waits for the store, and never gets counts that are older than the last change.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use gateway_config::PluginUse;
use gateway_protocol::event;
use gateway_protocol::methods::system::{
    AgentHealth, BootHealth, ConfigReload, HealthSnapshot, PartState, PluginFault, PluginHealth,
    RecentSession, SessionsHealth, StatusAgentSessions, StatusDefaults, StatusHeartbeat,
    StatusHeartbeatAgent, StatusResult, StatusRuns, StatusSession, StatusSessions,
};
use gateway_wasm::manifest::World;
use parking_lot::Mutex;
use serde_json::Value;

use crate::hub::Routing;
use crate::tenant::Tenant;

/// Label of the place where sessions are kept; never a path.
pub(crate) const STORE_LABEL: &str = "store";

struct Cached {
    version: u64,
    bytes: Bytes,
}

/// The published health and status of one tenant.
#[derive(Default)]
pub struct Health {
    version: Arc<AtomicU64>,
    announced: AtomicU64,
    health: Mutex<Option<Cached>>,
    greeting: Mutex<Option<Cached>>,
    status: Mutex<Option<Cached>>,
    channels: Mutex<BTreeMap<String, Value>>,
    faults: Mutex<Vec<PluginFault>>,
    boot: Mutex<Option<BootHealth>>,
}

impl std::fmt::Debug for Health {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Health(v{})", self.version.load(Ordering::Relaxed))
    }
}

impl Health {
    /// `version` is shared with the presence, which stamps events with both.
    pub(crate) fn new(version: Arc<AtomicU64>) -> Self {
        Self {
            version,
            ..Self::default()
        }
    }

    /// Something that health or status shows has changed.
    pub fn nudge(&self) {
        self.version.fetch_add(1, Ordering::AcqRel);
    }

    /// Publishes the state of one channel kind (a JSON object); `None` removes it.
    pub fn set_channel(&self, kind: &str, state: Option<Value>) {
        {
            let mut channels = self.channels.lock();
            match state {
                Some(state) => channels.insert(kind.to_owned(), state),
                None => channels.remove(kind),
            };
        }
        self.nudge();
    }

    /// Publishes the components that could not be loaded.
    pub fn set_faults(&self, faults: Vec<PluginFault>) {
        *self.faults.lock() = faults;
        self.nudge();
    }

    /// Publishes how the boot scripts are.
    pub fn set_boot(&self, boot: Option<BootHealth>) {
        *self.boot.lock() = boot;
        self.nudge();
    }

    /// The health snapshot as JSON, with all changes so far.
    #[must_use]
    pub fn encoded(&self, tenant: &Tenant) -> Bytes {
        cached(&self.health, &self.version, || snapshot(self, tenant))
    }

    /// The same for `hello-ok`, whose published schema is closed: without what is ours alone. The certificate stays, so that
    /// clients that pin it learn of the next one at each connect.
    #[must_use]
    pub(crate) fn greeting(&self, tenant: &Tenant) -> Bytes {
        cached(&self.greeting, &self.version, || HealthSnapshot {
            config: None,
            discovery: None,
            tailscale: None,
            readiness: None,
            boot: None,
            held: None,
            safe_mode: None,
            plugins: PluginHealth {
                state: None,
                ..plugins(self, tenant)
            },
            ..snapshot(self, tenant)
        })
    }

    /// The answer of `status` as JSON, with all changes so far.
    #[must_use]
    pub fn status(&self, tenant: &Tenant) -> Bytes {
        cached(&self.status, &self.version, || status(tenant))
    }

    /// Sends the `health` event if something changed since the last one; called by the reconciler.
    pub(crate) fn announce(&self, tenant: &Tenant) {
        let version = self.version.load(Ordering::Acquire);
        if self.announced.swap(version, Ordering::AcqRel) != version {
            let bytes = self.encoded(tenant);
            tenant
                .hub()
                .emit_json::<event::Health>(&bytes, Routing::Everyone);
        }
    }

    /// Makes both snapshots anew, so that the ages in them do not grow old.
    pub(crate) fn refresh(&self) {
        *self.health.lock() = None;
        *self.greeting.lock() = None;
        *self.status.lock() = None;
    }
}

fn cached<T: serde::Serialize>(
    slot: &Mutex<Option<Cached>>,
    version: &AtomicU64,
    make: impl FnOnce() -> T,
) -> Bytes {
    let mut slot = slot.lock();
    // Read before the facts are: a change in between makes the next reader do it again.
    let now = version.load(Ordering::Acquire);
    if let Some(cached) = &*slot
        && cached.version == now
    {
        return cached.bytes.clone();
    }
    let bytes = serde_json::to_vec(&make()).map_or_else(
        |error| {
            tracing::error!(%error, "snapshot not encoded");
            Bytes::from_static(b"{}")
        },
        Bytes::from,
    );
    *slot = Some(Cached {
        version: now,
        bytes: bytes.clone(),
    });
    bytes
}

fn age(now: i64, then: i64) -> u64 {
    u64::try_from(now.saturating_sub(then)).unwrap_or(0)
}

fn sessions_health(tenant: &Tenant, agent: Option<&str>, now: i64) -> SessionsHealth {
    let recent: Vec<RecentSession> = tenant
        .sessions()
        .recent()
        .into_iter()
        .filter(|(_, a, _)| agent.is_none_or(|want| want == a))
        .map(|(key, _, at)| RecentSession {
            key,
            updated_at: Some(at),
            age: Some(age(now, at)),
        })
        .collect();
    SessionsHealth {
        path: STORE_LABEL.to_owned(),
        count: match agent {
            None => tenant.sessions().count(),
            Some(id) => tenant.sessions().count_of(id),
        },
        recent,
    }
}

/// What a plugin of this world can be named for.
#[must_use]
pub fn used_as(world: World) -> PluginUse {
    match world {
        World::ChannelV0_1 => PluginUse::Channel,
        World::BootV0_1 => PluginUse::BootScript,
        World::HookV0_1 => PluginUse::Hook,
    }
}

/// What is loaded, what is not, and what this tenant's settings name in vain.
fn plugins(health: &Health, tenant: &Tenant) -> PluginHealth {
    let set = &tenant.shared().plugin_set;
    let mut errors = health.faults.lock().clone();
    errors.extend(missing_plugins(tenant, &errors));
    let degraded = errors.iter().any(|fault| fault.activated);
    PluginHealth {
        loaded: set.iter().map(|p| p.manifest.id.clone()).collect(),
        state: Some(match degraded {
            true => PartState::Degraded,
            false => PartState::Ok,
        }),
        errors,
    }
}

/// The plugins that this tenant's settings name and that cannot do what they are named for. What was found and could not be
/// loaded (`told`) has its own reason already.
pub(crate) fn missing_plugins(tenant: &Tenant, told: &[PluginFault]) -> Vec<PluginFault> {
    let shared = tenant.shared();
    // Channel kinds can be given by the embedding program, too.
    let kinds = shared.channel_plugins.iter().map(|p| p.manifest());
    let all = || {
        shared
            .plugin_set
            .iter()
            .map(|p| &p.manifest)
            .chain(kinds.clone())
    };
    let mut missing = Vec::new();
    for named in tenant.settings().named_plugins() {
        let there = all().find(|manifest| manifest.id == named.id);
        let Some(why) = named.fault(there.map(|manifest| used_as(manifest.world))) else {
            continue;
        };
        if !told.iter().any(|fault| fault.id == named.id) {
            missing.push(PluginFault {
                error: format!("{why}: {}", named.next_step()),
                id: named.id,
                origin: "config".to_owned(),
                activated: true,
            });
        }
    }
    missing
}

fn snapshot(health: &Health, tenant: &Tenant) -> HealthSnapshot {
    let now = tenant.now_ms();
    let agents = tenant.agents();
    let channels = health.channels.lock().clone();
    let readiness = tenant.shared().proofs.read().health();
    HealthSnapshot {
        ok: tenant.db().fault().is_none() && readiness.state == PartState::Ok,
        ts: now,
        readiness: Some(readiness),
        plugins: plugins(health, tenant),
        channel_order: channels.keys().cloned().collect(),
        channel_labels: channels.keys().map(|k| (k.clone(), k.clone())).collect(),
        channels,
        heartbeat_seconds: crate::cron::heartbeat::shown(tenant, agents.default_id())
            .every_ms
            .unwrap_or(0)
            / 1_000,
        default_agent_id: agents.default_id().to_owned(),
        agents: agents
            .ids()
            .map(|id| AgentHealth {
                agent_id: id.to_owned(),
                is_default: id == agents.default_id(),
                sessions: sessions_health(tenant, Some(id), now),
                heartbeat: crate::cron::heartbeat::shown(tenant, id),
            })
            .collect(),
        sessions: sessions_health(tenant, None, now),
        tls: tenant.shared().process_health.tls(),
        config_reload: ConfigReload {
            hot_reload_status: reload_word(tenant).to_owned(),
        },
        config: Some(tenant.shared().configuration.health(tenant.slug())),
        discovery: tenant.shared().process_health.discovery(),
        // It names this machine: the business of its operator.
        tailscale: tenant
            .shared()
            .process_health
            .tailscale()
            .filter(|_| tenant.slug() == gateway_config::MAIN_TENANT),
        boot: health.boot.lock().clone(),
        held: tenant.hold().map(|hold| hold.health()),
        safe_mode: tenant
            .shared()
            .configuration
            .host()
            .and_then(|host| host.safe_mode_health(tenant)),
        ..HealthSnapshot::default()
    }
}

fn heartbeat(tenant: &Tenant, agent: &str) -> StatusHeartbeatAgent {
    let shown = crate::cron::heartbeat::shown(tenant, agent);
    StatusHeartbeatAgent {
        agent_id: String::new(),
        enabled: shown.enabled,
        every: shown.every,
        every_ms: shown.every_ms,
    }
}

/// Whether edits of the configuration file count without a start.
fn reload_word(tenant: &Tenant) -> &'static str {
    match tenant.shared().configuration.status().watching {
        crate::config::Watching::Off => "disabled",
        _ => "active",
    }
}

fn status(tenant: &Tenant) -> StatusResult {
    let now = tenant.now_ms();
    let agents = tenant.agents();
    let recent: Vec<StatusSession> = tenant
        .sessions()
        .recent()
        .into_iter()
        .map(|(key, agent, at)| StatusSession {
            model: agents.get(&agent).map(|a| a.backend.model().to_owned()),
            agent_id: agent,
            kind: crate::session::events::kind_of(&key).to_owned(),
            key,
            session_id: String::new(),
            updated_at: at,
            age: age(now, at),
        })
        .collect();
    let (active, queued) = tenant.sessions().run_counts();
    StatusResult {
        runtime_version: tenant.shared().version.to_owned(),
        heartbeat: StatusHeartbeat {
            default_agent_id: agents.default_id().to_owned(),
            agents: agents
                .ids()
                .map(|id| StatusHeartbeatAgent {
                    agent_id: id.to_owned(),
                    ..heartbeat(tenant, id)
                })
                .collect(),
        },
        channel_summary: tenant
            .health()
            .channels
            .lock()
            .iter()
            .map(|(kind, state)| {
                let running = state.get("running").and_then(Value::as_bool);
                match running {
                    Some(true) => format!("{kind}: running"),
                    Some(false) => format!("{kind}: stopped"),
                    None => kind.clone(),
                }
            })
            .collect(),
        sessions: StatusSessions {
            paths: vec![STORE_LABEL.to_owned()],
            count: tenant.sessions().count(),
            defaults: StatusDefaults {
                model: agents
                    .get(agents.default_id())
                    .map(|a| a.backend.model().to_owned()),
                context_tokens: None,
            },
            by_agent: agents
                .ids()
                .map(|id| StatusAgentSessions {
                    agent_id: id.to_owned(),
                    path: STORE_LABEL.to_owned(),
                    count: tenant.sessions().count_of(id),
                    recent: recent
                        .iter()
                        .filter(|s| s.agent_id == id)
                        .cloned()
                        .collect(),
                })
                .collect(),
            recent,
        },
        runs: StatusRuns { active, queued },
        tenant: tenant.slug().to_owned(),
        config: tenant.shared().configuration.health(tenant.slug()),
        uptime_ms: age(now, tenant.shared().started_ms),
        ..StatusResult::default()
    }
}
