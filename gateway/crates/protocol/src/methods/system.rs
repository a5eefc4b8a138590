//! The gateway itself: health, status, presence, identity, boot scripts.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::NoParams;
use crate::value::Text;

crate::methods! {
    /// The health snapshot of the tenant.
    Health = "health", Any, Query, (HealthParams) -> HealthSnapshot;
    /// What is running: agents, sessions, runs, version.
    Status = "status", Operator(Read), Query, (StatusParams) -> StatusResult;
    /// Who is connected.
    SystemPresence = "system-presence", Operator(Read), Query, (NoParams) -> Vec<PresenceEntry>;
    /// The gateway's own device id and public key.
    GatewayIdentityGet = "gateway.identity.get", Operator(Read), Query, (NoParams) -> GatewayIdentityResult;
    /// Boot scripts and how their last runs ended.
    BootList = "boot.list", Operator(Read), Query, (NoParams) -> BootListResult, ours;
    /// Run the boot scripts again, or one of them; answers when they are over. A tenant that a script kept from starting
    /// starts when none of them does any more.
    BootRun = "boot.run", Operator(Admin), Wait, (BootRunParams) -> BootListResult, ours;
}

crate::params! {
    /// Parameters of `health`.
    HealthParams {
        required {}
        optional {}
        ignored {
            "probe": "The snapshot is kept fresh all the time, so nothing needs to be probed.",
        }
        refused {}
    }
}

crate::params! {
    /// Parameters of `boot.run`.
    BootRunParams {
        required {}
        optional {
            /// Only this script.
            "scriptId" script_id: Text<1, 64>,
        }
        ignored {}
        refused {}
    }
}

crate::params! {
    /// Parameters of `status`.
    StatusParams {
        required {}
        optional {}
        ignored {
            "includeChannelSummary": "The summary is always there.",
        }
        refused {}
    }
}

/// The health of a tenant: payload of `hello-ok.snapshot.health`, of the event `health` and result of `health`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HealthSnapshot {
    /// Whether the tenant's store works and the gateway can take on work (see `readiness`).
    pub ok: bool,
    /// When it was made, milliseconds since the Unix epoch.
    pub ts: i64,
    /// How long that took, in milliseconds.
    pub duration_ms: u64,
    /// Sandboxed components.
    pub plugins: PluginHealth,
    /// State of each channel kind.
    pub channels: BTreeMap<String, Value>,
    /// Channel kinds in the order to show them.
    pub channel_order: Vec<String>,
    /// Names to show for them.
    pub channel_labels: BTreeMap<String, String>,
    /// Seconds between heartbeats; 0: there are none.
    pub heartbeat_seconds: u64,
    /// The agent that answers when none is named.
    pub default_agent_id: String,
    /// The agents.
    pub agents: Vec<AgentHealth>,
    /// Sessions of all agents.
    pub sessions: SessionsHealth,
    /// Whether edits of the configuration count while the gateway runs.
    pub config_reload: ConfigReload,
    /// The configuration; not in `hello-ok`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<ConfigHealth>,
    /// The listener's certificate; absent without TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsHealth>,
    /// How the gateway lets itself be found; absent when it does not, and in `hello-ok`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discovery: Option<DiscoveryHealth>,
    /// The name in a tailnet; absent without one, in `hello-ok`, and for other tenants than `main`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tailscale: Option<TailscaleHealth>,
    /// Proofs that the gateway can take on work; not in `hello-ok`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub readiness: Option<ReadinessHealth>,
    /// Boot scripts; absent where there are none, and in `hello-ok`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot: Option<BootHealth>,
    /// Why the tenant takes no work; absent while it does, and in `hello-ok`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held: Option<HeldHealth>,
    /// Safe mode of the gateway; absent when it is off, and in `hello-ok`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub safe_mode: Option<SafeModeHealth>,
}

/// Proofs that the gateway can take on work, as old as the snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReadinessHealth {
    /// How it is.
    pub state: PartState,
    /// What is wrong: `runtime-stalled`, `store-stuck`, `store-full`, `store-failed`, separated by commas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Milliseconds since the last commit that is known to be on the disk; absent before the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit_age_ms: Option<u64>,
    /// Milliseconds since the runtime turned last.
    pub tick_age_ms: u64,
}

/// The boot scripts of the tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BootHealth {
    /// Degraded when a script failed whose policy is `degrade` or `abort`.
    pub state: PartState,
    /// Which, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Id of the boot.
    pub boot_id: String,
    /// The scripts that ran, in the order in which they did.
    pub scripts: Vec<BootScriptRow>,
}

/// A tenant that takes no work: its operators can connect and look, and everything else is answered `UNAVAILABLE`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeldHealth {
    /// Always degraded.
    pub state: PartState,
    /// `boot-script` or `safe-mode`.
    pub reason: String,
    /// Why, and what to do.
    pub message: String,
    /// Since when, milliseconds since the Unix epoch.
    pub since: i64,
    /// When it is tried again by itself, milliseconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<i64>,
}

/// Safe mode: after a crash loop tenants are started one by one, and the one whose start ends the process is kept off.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SafeModeHealth {
    /// Always degraded.
    pub state: PartState,
    /// Why, and what happens next.
    pub message: String,
    /// Since when, milliseconds since the Unix epoch.
    pub since: i64,
    /// Tenants that are kept off. Shown to the tenant `main` only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tenants: Vec<String>,
}

/// How a part of the gateway is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PartState {
    /// Well.
    #[default]
    Ok,
    /// It works, but not as it should; `message` says why.
    Degraded,
}

/// The listener's certificate. It is in `hello-ok` too, so that clients that pin it learn of the next one in time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TlsHealth {
    /// How it is.
    pub state: PartState,
    /// SHA-256 of the served certificate (DER), lower-case hex.
    pub fingerprint: String,
    /// The same of the certificate that will be served next; absent while none is prepared. Pin both until it is served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_fingerprint: Option<String>,
    /// End of the served certificate, milliseconds since the Unix epoch.
    pub expires_at_ms: i64,
    /// What is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Whether edits of the configuration file count while the gateway runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigReload {
    /// `active` or `disabled`.
    pub hot_reload_status: String,
}

/// State of the configuration. What is wrong with the file is shown to the tenant `main` only, whose it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigHealth {
    /// `active`; `rejected`: the last edit is wrong and what ran before runs on; `last-good`: the file was broken at the
    /// start and the last good one counts.
    pub state: String,
    /// Rises with each applied change that this tenant can see.
    pub revision: u64,
    /// Hash of what is in force; `config.changed` and the writing methods use the same one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    /// When it came into force, milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied_at: Option<i64>,
    /// What is wrong with the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ConfigFaultView>,
    /// Paths of changes that count from the next start of the gateway.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub restart_needed: Vec<String>,
    /// How changes of the file are seen: `notify`, `poll (why)` or `off`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watch: Option<String>,
}

/// What is wrong with the configuration file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigFaultView {
    /// All that is wrong, one line each. Never holds the value of a secret.
    pub message: String,
    /// Path of the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Name of the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Line, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// Column, from 1, in characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<u64>,
}

/// How the gateway lets itself be found in the network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DiscoveryHealth {
    /// How it is. Degraded harms nothing else.
    pub state: PartState,
    /// `minimal` or `full`.
    pub mode: String,
    /// What is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// The name of the gateway in a tailnet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TailscaleHealth {
    /// How it is. Degraded harms nothing else.
    pub state: PartState,
    /// `serve` or `funnel`.
    pub mode: String,
    /// The address of the built-in page there, while it is served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// What is wrong, and what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// State of the sandboxed components.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PluginHealth {
    /// Ids of the loaded ones.
    pub loaded: Vec<String>,
    /// Those that could not be loaded, and those that the configuration names and that are not there or are something else.
    pub errors: Vec<PluginFault>,
    /// Degraded when the configuration wants one of those.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<PartState>,
}

/// A component that could not be loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PluginFault {
    /// Its id.
    pub id: String,
    /// Where it comes from: `wasm-dir`, `bundled`, or `config` where nothing but the configuration names it.
    pub origin: String,
    /// Whether the configuration wants it.
    pub activated: bool,
    /// What is wrong.
    pub error: String,
}

/// Health of an agent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentHealth {
    /// The agent.
    pub agent_id: String,
    /// Whether it answers when none is named.
    pub is_default: bool,
    /// Its heartbeat.
    pub heartbeat: Heartbeat,
    /// Its sessions.
    pub sessions: SessionsHealth,
}

/// The heartbeat of an agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Heartbeat {
    /// Whether it is on.
    pub enabled: bool,
    /// Interval as text.
    pub every: String,
    /// Interval in milliseconds; null: none.
    pub every_ms: Option<u64>,
    /// What the agent is asked.
    pub prompt: String,
    /// Whom it tells.
    pub target: String,
    /// Longest acknowledgement, in characters.
    pub ack_max_chars: u64,
}

/// A few facts about sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SessionsHealth {
    /// Where they are kept; a label, not a path.
    pub path: String,
    /// How many.
    pub count: u64,
    /// The last used ones.
    pub recent: Vec<RecentSession>,
}

/// A session that was used lately.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecentSession {
    /// Its key.
    pub key: String,
    /// When it changed, milliseconds since the Unix epoch.
    pub updated_at: Option<i64>,
    /// How long ago, in milliseconds.
    pub age: Option<u64>,
}

/// Result of `status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StatusResult {
    /// Version of the gateway.
    pub runtime_version: String,
    /// Heartbeats of the agents.
    pub heartbeat: StatusHeartbeat,
    /// One line for each channel.
    pub channel_summary: Vec<String>,
    /// Always empty; clients expect it.
    pub queued_system_events: Vec<String>,
    /// Sessions.
    pub sessions: StatusSessions,
    /// Runs.
    pub runs: StatusRuns,
    /// The configuration.
    pub config: ConfigHealth,
    /// The tenant's slug.
    pub tenant: String,
    /// Since when, milliseconds.
    pub uptime_ms: u64,
}

/// Heartbeats in `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StatusHeartbeat {
    /// The agent that answers when none is named.
    pub default_agent_id: String,
    /// One row for each agent.
    pub agents: Vec<StatusHeartbeatAgent>,
}

/// Heartbeat of an agent in `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StatusHeartbeatAgent {
    /// The agent.
    pub agent_id: String,
    /// Whether it has a heartbeat.
    pub enabled: bool,
    /// Interval as text.
    pub every: String,
    /// Interval in milliseconds; null: none.
    pub every_ms: Option<u64>,
}

/// Sessions in `status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StatusSessions {
    /// Where they are kept; labels, not paths.
    pub paths: Vec<String>,
    /// How many.
    pub count: u64,
    /// What a new session gets.
    pub defaults: StatusDefaults,
    /// The last used ones.
    pub recent: Vec<StatusSession>,
    /// The same for each agent.
    pub by_agent: Vec<StatusAgentSessions>,
}

/// Model defaults in `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StatusDefaults {
    /// The default agent's model.
    pub model: Option<String>,
    /// Its context window, in tokens.
    pub context_tokens: Option<u64>,
}

/// A session in `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StatusSession {
    /// The agent.
    pub agent_id: String,
    /// Its key.
    pub key: String,
    /// `direct`, `group`, `global` or `unknown`.
    pub kind: String,
    /// Its present id.
    pub session_id: String,
    /// When it changed, milliseconds since the Unix epoch.
    pub updated_at: i64,
    /// How long ago, in milliseconds.
    pub age: u64,
    /// Model of its agent.
    pub model: Option<String>,
}

/// Sessions of an agent in `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StatusAgentSessions {
    /// The agent.
    pub agent_id: String,
    /// Where they are kept; a label, not a path.
    pub path: String,
    /// How many.
    pub count: u64,
    /// The last used ones.
    pub recent: Vec<StatusSession>,
}

/// Runs in `status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StatusRuns {
    /// Running now.
    pub active: u64,
    /// Waiting for their session.
    pub queued: u64,
}

/// Somebody who is connected.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PresenceEntry {
    /// When this entry was made, milliseconds since the Unix epoch.
    pub ts: i64,
    /// Host or display name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
    /// Version of the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Its platform.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// Its device family.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_family: Option<String>,
    /// Its model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_identifier: Option<String>,
    /// Its time zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// Its mode (`gateway` for the gateway itself).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Why the entry was made: `self`, `connect`, `disconnect`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// One line for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Since when, milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub online_since: Option<i64>,
    /// Last request, milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_activity_at: Option<i64>,
    /// Device identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_id: Option<String>,
    /// Roles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roles: Option<Vec<String>>,
    /// Granted scopes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Vec<String>>,
    /// Chosen by the client, the same over reconnects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_id: Option<String>,
}

/// Result of `gateway.identity.get`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GatewayIdentityResult {
    /// Lower-case hex SHA-256 of the raw public key.
    pub device_id: String,
    /// Ed25519 public key, base64url without padding.
    pub public_key: String,
}

/// Result of `boot.list`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BootListResult {
    /// Id of this boot; it lasts until the gateway is ready.
    pub boot_id: String,
    /// The scripts, in the order in which they run.
    pub scripts: Vec<BootScriptRow>,
}

/// A boot script and its last run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BootScriptRow {
    /// Id of the script.
    pub id: String,
    /// Version of its package.
    pub version: String,
    /// `pending`, `running`, `ok`, `failed`, `skipped` or `disabled`.
    pub state: String,
    /// What its failure does: `continue`, `degrade` or `abort`.
    pub on_error: String,
    /// How often it was begun in this boot: more than once after a crash while booting.
    pub tries: u64,
    /// When it began, milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<i64>,
    /// How long it took, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// What it reported, or why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}
