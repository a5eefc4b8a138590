//! Options: `gateway.json5` as it is written. The JSON Schema of these types is what the file is checked against,
//! so a field is described once: here.

use std::collections::BTreeMap;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use crate::hooks::HooksOptions;
use crate::schedule::{CronOptions, HeartbeatOptions};

/// The whole file. The top level describes the tenant `main`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Options {
    /// Listener, authentication of the tenant `main`, limits.
    pub gateway: GatewayOptions,
    /// Agents of the tenant `main`.
    pub agents: AgentsOptions,
    /// Session rules of the tenant `main`.
    pub session: SessionOptions,
    /// Channel accounts of the tenant `main`: `channels.<kind>.accounts.<id>`.
    pub channels: BTreeMap<String, ChannelOptions>,
    /// Boot scripts of the tenant `main`.
    pub boot: BootOptions,
    /// Schedules of the tenant `main`.
    pub cron: CronOptions,
    /// Hooks of the tenant `main`.
    pub hooks: HooksOptions,
    /// Where plugins are found.
    pub plugins: PluginsOptions,
    /// What is logged and how.
    pub logging: LoggingOptions,
    /// Further tenants by slug.
    pub tenants: BTreeMap<String, TenantOptions>,
}

/// Listener and process-wide rules.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct GatewayOptions {
    /// TCP port (default 18789; 0 lets the system choose).
    pub port: Option<u16>,
    /// `loopback` (default), `lan` (all interfaces) or one IP address.
    pub bind: Option<String>,
    /// How operators of the tenant `main` prove themselves.
    pub auth: AuthOptions,
    /// Browser origins (`https://host`) allowed besides the gateway's own page.
    pub allowed_origins: Vec<String>,
    /// Host names answered besides loopback names and the hosts of tenants.
    pub allowed_hosts: Vec<String>,
    /// Limits.
    pub limits: LimitsOptions,
}

/// Authentication of one tenant.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AuthOptions {
    /// `token` (default), `password`, or `none` (only on loopback and with no other tenant).
    pub mode: Option<AuthModeOption>,
    /// The token (default: the file `secrets/<tenant>/gateway-token`).
    pub token: Option<SecretRef>,
    /// The password of mode `password`.
    pub password: Option<SecretRef>,
}

/// Written authentication mode.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub enum AuthModeOption {
    /// No secret.
    None,
    /// A random token.
    Token,
    /// A chosen password.
    Password,
}

/// Limits; each has a default.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LimitsOptions {
    /// Open connections in all (default 10000).
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_connections: Option<u32>,
    /// Unfinished handshakes per client address (default 32).
    #[schemars(range(min = 1, max = 100_000))]
    pub preauth_per_ip: Option<u32>,
    /// Unfinished handshakes in all (default 1024).
    #[schemars(range(min = 1, max = 100_000))]
    pub preauth_total: Option<u32>,
    /// Milliseconds for a handshake (default 15000).
    #[schemars(range(min = 100, max = 600_000))]
    pub handshake_timeout_ms: Option<u64>,
    /// Failed logins within the window before a lockout (default 10).
    #[schemars(range(min = 1, max = 10_000))]
    pub auth_failures: Option<u32>,
    /// Milliseconds of the failure window (default 60000).
    #[schemars(range(min = 1_000, max = 86_400_000))]
    pub auth_window_ms: Option<u64>,
    /// Milliseconds of the lockout (default 300000).
    #[schemars(range(min = 1_000, max = 86_400_000))]
    pub auth_lockout_ms: Option<u64>,
    /// Milliseconds that a stopping gateway lets runs finish (default 10000).
    #[schemars(range(min = 0, max = 600_000))]
    pub drain_timeout_ms: Option<u64>,
}

/// Agents.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AgentsOptions {
    /// Agent that answers when none is named (default: `main`, or the only one).
    pub default: Option<String>,
    /// Agents by id (default: `main` with the echo backend).
    pub entries: BTreeMap<String, AgentOptions>,
}

/// One agent.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AgentOptions {
    /// `echo` (default) or `openai` (any OpenAI-compatible server).
    pub backend: Option<BackendOption>,
    /// Model name (openai).
    pub model: Option<String>,
    /// Address of the server, `http(s)://host[:port]/v1` (openai).
    pub base_url: Option<String>,
    /// Key of the server (openai); leave out if it wants none.
    pub api_key: Option<SecretRef>,
    /// Instructions put before the conversation.
    pub system_prompt: Option<String>,
    /// Milliseconds to the first byte of an answer (openai, default 60000).
    #[schemars(range(min = 100, max = 3_600_000))]
    pub first_byte_timeout_ms: Option<u64>,
    /// Milliseconds between two pieces of an answer (openai, default 60000).
    #[schemars(range(min = 100, max = 3_600_000))]
    pub idle_timeout_ms: Option<u64>,
    /// Built-in tools that it may call.
    pub tools: Vec<String>,
    /// When it looks by itself whether something is due.
    pub heartbeat: HeartbeatOptions,
}

/// Written agent backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum BackendOption {
    /// Repeats what it is told.
    Echo,
    /// An OpenAI-compatible server.
    OpenAi,
}

/// Session rules.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SessionOptions {
    /// Which direct messages share a session (default `per-channel-peer`).
    pub dm_scope: Option<DmScopeOption>,
    /// What a message does that comes during a run (default `followup`).
    pub queue_mode: Option<QueueModeOption>,
}

/// Written session scope of direct messages.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum DmScopeOption {
    /// All share one.
    Main,
    /// One per sender.
    PerPeer,
    /// One per channel and sender.
    PerChannelPeer,
    /// One per channel, account and sender.
    PerAccountChannelPeer,
}

/// Written queue mode.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum QueueModeOption {
    /// Waits.
    Followup,
    /// Stops the run before it.
    Interrupt,
}

/// One channel kind.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ChannelOptions {
    /// Accounts by id.
    pub accounts: BTreeMap<String, AccountOptions>,
}

/// One channel account.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AccountOptions {
    /// Whether it is started (default true).
    pub enabled: Option<bool>,
    /// Agent that answers (default: the tenant's default agent).
    pub agent: Option<String>,
    /// Who may write directly (default `pairing`).
    pub dm_policy: Option<DmPolicyOption>,
    /// Which groups are answered (default `disabled`).
    pub group_policy: Option<GroupPolicyOption>,
    /// Sender ids let in besides the approved ones. Empty means nobody besides.
    pub allow_from: Vec<String>,
    /// Group ids let in (groupPolicy `allowlist`). Empty means none.
    pub groups: Vec<String>,
    /// In groups, answer only when mentioned (default true).
    pub require_mention: Option<bool>,
    /// Secrets by the name that the plugin uses; they stay in the host.
    pub secrets: BTreeMap<String, SecretRef>,
    /// Given to the plugin as it is.
    pub config: BTreeMap<String, serde_json::Value>,
    /// What the plugin may reach over HTTP.
    pub http: AccountHttpOptions,
}

/// Written policy for direct messages.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum DmPolicyOption {
    /// One-time code.
    Pairing,
    /// Listed senders.
    Allowlist,
    /// Everyone.
    Open,
    /// Nobody.
    Disabled,
}

/// Written policy for groups.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum GroupPolicyOption {
    /// None.
    Disabled,
    /// Listed groups.
    Allowlist,
    /// All.
    Open,
}

/// What a plugin may reach over HTTP.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AccountHttpOptions {
    /// URL patterns such as `https://api.example.org/v1/*`. Empty means nothing.
    pub allow: Vec<String>,
    /// Whether loopback and private addresses may be reached through `allow` (default false).
    pub allow_private: Option<bool>,
}

/// Boot scripts.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct BootOptions {
    /// Scripts by plugin id.
    pub scripts: BTreeMap<String, BootScriptOptions>,
}

/// One boot script.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct BootScriptOptions {
    /// Whether it runs (default true).
    pub enabled: Option<bool>,
    /// Given to the script as it is.
    pub config: BTreeMap<String, serde_json::Value>,
}

/// Plugins.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PluginsOptions {
    /// Directory of plugin folders; relative to the state directory.
    pub dir: Option<String>,
}

/// Logging.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LoggingOptions {
    /// Lowest level (default `info`).
    pub level: Option<LogLevelOption>,
    /// `text` (default) or `json`.
    pub format: Option<LogFormatOption>,
}

/// Written log level.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum LogLevelOption {
    /// Failures.
    Error,
    /// Doubts too.
    Warn,
    /// The normal story.
    Info,
    /// For finding faults.
    Debug,
    /// Everything.
    Trace,
}

/// Written log format.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum LogFormatOption {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// A further tenant.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TenantOptions {
    /// Host names that name this tenant.
    pub hosts: Vec<String>,
    /// How its operators prove themselves.
    pub auth: AuthOptions,
    /// Its agents.
    pub agents: AgentsOptions,
    /// Its session rules.
    pub session: SessionOptions,
    /// Its channel accounts.
    pub channels: BTreeMap<String, ChannelOptions>,
    /// Its boot scripts.
    pub boot: BootOptions,
    /// Its schedules.
    pub cron: CronOptions,
    /// Its hooks.
    pub hooks: HooksOptions,
}

/// Where a secret comes from.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
pub enum SecretRef {
    /// The value itself, or `"${NAME}"` for an environment variable.
    Text(String),
    /// An environment variable.
    Env(EnvRef),
    /// A file, relative to the state directory.
    File(FileRef),
    /// A secret written by `gateway secret set NAME`.
    Store(StoreRef),
}

/// `{env: "NAME"}`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnvRef {
    /// Name of the variable.
    pub env: String,
}

/// `{file: "path"}`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRef {
    /// Path, relative to the state directory.
    pub file: String,
}

/// `{store: "NAME"}`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreRef {
    /// Name given to `gateway secret set`.
    pub store: String,
}

impl fmt::Debug for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // A literal is a secret value; an environment name would be harmless, but telling them apart here is not worth a leak.
            Self::Text(_) => f.write_str("SecretRef(text)"),
            Self::Env(r) => write!(f, "SecretRef(env {})", r.env),
            Self::File(r) => write!(f, "SecretRef(file {})", r.file),
            Self::Store(r) => write!(f, "SecretRef(store {})", r.store),
        }
    }
}

/// Marks a secret in the schema, so that checks, docs and redaction know it without a list of paths.
pub(crate) const SECRET_MARK: &str = "x-secret";

impl JsonSchema for SecretRef {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "SecretRef".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let one = |key: &str, doc: &str| {
            serde_json::json!({
                "type": "object", "description": doc, "required": [key], "additionalProperties": false,
                "properties": { key: { "type": "string", "minLength": 1 } }
            })
        };
        json_schema!({
            "description": "A secret: text, \"${ENV}\", {env}, {file} or {store}.",
            SECRET_MARK: true,
            "anyOf": [
                { "type": "string", "minLength": 1 },
                one("env", "Name of an environment variable."),
                one("file", "File, relative to the state directory."),
                one("store", "Name given to `gateway secret set NAME`.")
            ]
        })
    }
}
