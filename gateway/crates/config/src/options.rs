//! Options: `gateway.json5` as it is written. The JSON Schema of these types is what the file is checked against,
//! so a field is described once: here.
//!
//! `x-reload` says what a change of a field does to a running gateway (see [`crate::Reload`]); a field without it is
//! like what it stands in.

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
    /// Address of this file's schema, for editors. The gateway does not fetch it.
    #[serde(rename = "$schema")]
    #[schemars(extend("x-reload" = "live"))]
    pub schema: Option<String>,
    /// Version of the file's layout (default and newest: 1). A file with a higher one is for a newer gateway.
    #[schemars(range(min = 1), extend("x-reload" = "restart-process"))]
    pub version: Option<u32>,
    /// Listener, authentication of the tenant `main`, limits.
    #[schemars(extend("x-reload" = "restart-process"))]
    pub gateway: GatewayOptions,
    /// Agents of the tenant `main`.
    #[schemars(extend("x-reload" = "live"))]
    pub agents: AgentsOptions,
    /// Session rules of the tenant `main`.
    #[schemars(extend("x-reload" = "live"))]
    pub session: SessionOptions,
    /// Channel accounts of the tenant `main`: `channels.<kind>.accounts.<id>`.
    #[schemars(extend("x-reload" = "restart-part"))]
    pub channels: BTreeMap<String, ChannelOptions>,
    /// Boot scripts of the tenant `main`.
    #[schemars(extend("x-reload" = "restart-process"))]
    pub boot: BootOptions,
    /// Schedules of the tenant `main`.
    #[schemars(extend("x-reload" = "live"))]
    pub cron: CronOptions,
    /// Hooks of the tenant `main`.
    #[schemars(extend("x-reload" = "live"))]
    pub hooks: HooksOptions,
    /// Where plugins are found.
    #[schemars(extend("x-reload" = "restart-process"))]
    pub plugins: PluginsOptions,
    /// What is logged and how.
    #[schemars(extend("x-reload" = "live"))]
    pub logging: LoggingOptions,
    /// Where traces go.
    #[schemars(extend("x-reload" = "restart-process"))]
    pub telemetry: TelemetryOptions,
    /// How the gateway lets itself be found.
    #[schemars(extend("x-reload" = "restart-process"))]
    pub discovery: DiscoveryOptions,
    /// Further tenants by slug.
    #[schemars(extend("x-reload" = "live"))]
    pub tenants: BTreeMap<String, TenantOptions>,
}

/// How the gateway lets itself be found. A hint for clients, never a reason to trust; needs a bind other than loopback.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DiscoveryOptions {
    /// In the local network, by multicast DNS.
    pub mdns: MdnsOptions,
    /// Elsewhere, by ordinary DNS.
    pub wide_area: WideAreaOptions,
}

/// Multicast DNS (`_openclaw-gw._tcp`).
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct MdnsOptions {
    /// `minimal` (default), `full` (also this machine's name and the path of the program) or `off` (default with further tenants).
    pub mode: Option<MdnsModeOption>,
}

/// Written mode of multicast DNS.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum MdnsModeOption {
    /// Nothing.
    Off,
    /// Port, TLS and fingerprint under a name that says nothing.
    Minimal,
    /// Also the machine's name and the path of the program.
    Full,
}

/// Wide-area DNS-SD.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct WideAreaOptions {
    /// A domain such as `gw.example.org`: at each start the zone for a DNS server is written to `dns/<domain>.db` of the state directory.
    pub domain: Option<String>,
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
    #[schemars(extend("x-reload" = "live"))]
    pub auth: AuthOptions,
    /// Browser origins (`https://host`) allowed besides the gateway's own page.
    #[schemars(extend("x-reload" = "live"))]
    pub allowed_origins: Vec<String>,
    /// Host names answered besides loopback names and the hosts of tenants.
    #[schemars(extend("x-reload" = "live"))]
    pub allowed_hosts: Vec<String>,
    /// Addresses and networks (`127.0.0.1`, `10.0.0.0/8`) of reverse proxies. Only what comes from there may say for whom it is (the last stranger in `X-Forwarded-For`), and never counts as from this machine then. Without them, a forwarding header from this machine is refused.
    #[schemars(extend("x-reload" = "live"))]
    pub trusted_proxies: Vec<String>,
    /// Devices that connect from this machine.
    #[schemars(extend("x-reload" = "live"))]
    pub nodes: NodesOptions,
    /// Limits.
    #[schemars(extend("x-reload" = "live"))]
    pub limits: LimitsOptions,
    /// TLS of the listener.
    pub tls: TlsOptions,
    /// `local` (default): a gateway runs on this machine. `remote`: commands talk to `gateway.remote`, and `gateway serve` is refused.
    pub mode: Option<GatewayModeOption>,
    /// The gateway that commands talk to in mode `remote`.
    #[schemars(extend("x-reload" = "live"))]
    pub remote: RemoteOptions,
    /// A name in the tailnet of this machine, by the `tailscale` program. Needs bind `loopback`.
    pub tailscale: TailscaleOptions,
}

/// A name in a tailnet: Tailscale brings HTTPS and the way there, the gateway stays on loopback.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TailscaleOptions {
    /// `off` (default), `serve` (the tailnet) or `funnel` (everybody; needs `gateway.auth.mode` `password`).
    pub mode: Option<TailscaleModeOption>,
    /// Whether the name is given back when the gateway stops (default false).
    pub reset_on_exit: Option<bool>,
    /// Full path of the program (default: the first `tailscale` of PATH).
    pub program: Option<String>,
    /// HTTPS port of the name: 443 (default), 8443 or 10000.
    pub https_port: Option<u16>,
    /// Logins that are let in by `gateway.auth.allowTailscale`, each with the tenant that it belongs to, for example `{ "una@example.org": "main" }`. Empty: every login of the tailnet, for the tenant `main`, while there is no further tenant; with further tenants nobody.
    #[schemars(extend("x-reload" = "live"))]
    pub logins: BTreeMap<String, String>,
}

/// Written use of Tailscale.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum TailscaleModeOption {
    /// None.
    Off,
    /// For the tailnet.
    Serve,
    /// For everybody.
    Funnel,
}

/// Devices that connect, operators' and nodes.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct NodesOptions {
    /// How they are paired.
    pub pairing: PairingOptions,
    /// Which commands of nodes may be called at all, for the tenant `main`.
    pub commands: NodeCommandsOptions,
}

/// Nodes of one tenant.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TenantNodesOptions {
    /// Which of their commands may be called at all.
    pub commands: NodeCommandsOptions,
}

/// Which commands of nodes may be called, besides that an operator approved them. Each platform has its usual ones; what looks, listens, writes or runs programs has to be named.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct NodeCommandsOptions {
    /// Commands that may be called although they are not among the usual ones of the node's platform, for example `camera.snap`. `system.run` has to be named too: there are no exec approvals yet.
    pub allow: Vec<String>,
    /// Commands that may never be called.
    pub deny: Vec<String>,
}

/// Pairing of devices.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PairingOptions {
    /// Whether a program on this machine that knows the token or password is paired without a person (default true). Never a
    /// browser page, never through a proxy, and never where there is another tenant than `main`.
    pub auto_approve_local: Option<bool>,
}

/// TLS of the listener (1.2 and 1.3). A change of the files is taken up while the gateway runs; a change of these keys needs a restart.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TlsOptions {
    /// Whether the listener speaks TLS, and nothing else (default false).
    pub enabled: Option<bool>,
    /// Make a self-signed certificate if there is none and no path is given (default true).
    pub auto_generate: Option<bool>,
    /// Your own certificate chain, PEM, the gateway's own certificate first; relative to the state directory (default: made by the gateway, `gateway/tls/gateway-cert.pem`).
    pub cert_path: Option<String>,
    /// The private key of it, PEM (PKCS#8, SEC1 or PKCS#1, not encrypted), mode 0600; relative to the state directory.
    pub key_path: Option<String>,
}

/// Written place where the gateway of this configuration is.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum GatewayModeOption {
    /// On this machine.
    Local,
    /// Elsewhere.
    Remote,
}

/// A gateway elsewhere.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RemoteOptions {
    /// Its address, `wss://host[:port][/path]`; `ws://` only on this machine (a tunnel).
    pub url: Option<String>,
    /// Its token.
    pub token: Option<SecretRef>,
    /// Its password, if it wants one instead of a token.
    pub password: Option<SecretRef>,
    /// SHA-256 fingerprint of its certificate, as `gateway tls show` prints it there: hex, with or without colons and `sha256:`. Two, separated by a comma, while the certificate is changed. Takes the place of the check by public authorities.
    pub tls_fingerprint: Option<String>,
}

/// Authentication of one tenant.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AuthOptions {
    /// `token` (default), `password`, `trusted-proxy` (a reverse proxy says who it is), or `none` (only on loopback and with no other tenant).
    pub mode: Option<AuthModeOption>,
    /// The token (default: the file `secrets/<tenant>/gateway-token`).
    pub token: Option<SecretRef>,
    /// The password of mode `password`. In mode `trusted-proxy`: for commands on the gateway's own machine, and good from nowhere else.
    pub password: Option<SecretRef>,
    /// How a reverse proxy says whose a request is, in mode `trusted-proxy`.
    pub trusted_proxy: Option<TrustedProxyOptions>,
    /// Whether who comes through `gateway.tailscale` in mode `serve` is let in by its login there, without a token, at the built-in page and the WebSockets, to read and to write (default false; only in `gateway.auth`, for all tenants). The login is checked by `tailscale whois`; `gateway.tailscale.logins` says which.
    pub allow_tailscale: Option<bool>,
}

/// What a reverse proxy that signs users in tells. It counts from `gateway.trustedProxies` only.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TrustedProxyOptions {
    /// The header in which the proxy names the user, such as `x-forwarded-user`. The proxy has to replace what clients send in it.
    pub user_header: Option<String>,
    /// Headers without which a request is refused, whatever they say.
    pub required_headers: Vec<String>,
    /// The users who are let in, exactly as the proxy names them (default: everybody whom the proxy lets in; with further tenants they have to be named).
    pub allow_users: Option<Vec<String>>,
    /// Whether the proxy may be on this machine, where every program could pretend to be it (default false); needs `secret`, and the address in `gateway.trustedProxies`.
    pub allow_loopback: Option<bool>,
    /// What the proxy proves itself by, in the header `X-Gateway-Proxy-Secret` of every request.
    pub secret: Option<SecretRef>,
}

/// Written authentication mode.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum AuthModeOption {
    /// No secret.
    None,
    /// A random token.
    Token,
    /// A chosen password.
    Password,
    /// The word of a reverse proxy that signs users in.
    TrustedProxy,
}

/// Limits; each has a default.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LimitsOptions {
    /// Open connections in all (default 10000).
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_connections: Option<u32>,
    /// MiB of memory from which on the process sheds load (default: the limit of its control group, if it has one). At 85 % new
    /// connections are refused and clients that do not read are cut off, at 95 % the largest guest is ended.
    #[schemars(range(min = 16, max = 1_048_576))]
    pub memory_mb: Option<u32>,
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
    /// Milliseconds after which a tenant whose start ended the process is tried again (default 300000); twice as long after
    /// each time that it ended it again, and at most 6 hours.
    #[schemars(range(min = 1_000, max = 21_600_000))]
    pub safe_mode_retry_ms: Option<u64>,
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
    /// Model of `POST /v1/embeddings` on the same server (openai); left out, the agent makes no embeddings.
    pub embedding_model: Option<String>,
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
    /// What happens when it fails (default: what its package says, else `degrade`).
    pub on_error: Option<BootOnErrorOption>,
    /// Given to the script as it is.
    pub config: BTreeMap<String, serde_json::Value>,
}

/// What a failing boot script does.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum BootOnErrorOption {
    /// It is recorded.
    Continue,
    /// It is recorded, and the tenant's health is degraded.
    Degrade,
    /// The tenant takes no work; for the tenant `main` the gateway does not start.
    Abort,
}

/// Plugins.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PluginsOptions {
    /// Directory of plugin folders; relative to the state directory.
    pub dir: Option<String>,
    /// Id of a plugin → SHA-256 over its manifest and its component together, as `gateway plugin list` prints it (64 hex digits, `sha256:` before them or not). A plugin that is another one is not loaded.
    pub pins: BTreeMap<String, String>,
    /// Load only plugins that have a pin (default false).
    pub pinned_only: Option<bool>,
    /// Whether the plugins that the program carries in itself are loaded (default true). One of the same name in the directory counts instead.
    pub bundled: Option<bool>,
}

/// Logging.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LoggingOptions {
    /// Lowest level (default `info`).
    pub level: Option<LogLevelOption>,
    /// `text` (default) or `json`.
    #[schemars(extend("x-reload" = "restart-process"))]
    pub format: Option<LogFormatOption>,
    /// Levels of parts of the gateway by the beginning of their names, for example `{ "gateway_store": "debug" }` or `{ "gateway::call": "debug" }` (every call of a method). The longest beginning counts.
    pub targets: BTreeMap<String, LogLevelOption>,
    /// A file for the same lines, besides standard error.
    #[schemars(extend("x-reload" = "restart-process"))]
    pub file: LogFileOptions,
}

/// A log file, made with mode 0600. When it is full it is renamed to `<path>.1`, and so on.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LogFileOptions {
    /// Where it is, relative to the state directory (default: there is none).
    pub path: Option<String>,
    /// Bytes of the file before the next one is begun (default 16777216).
    #[schemars(range(min = 65_536, max = 1_073_741_824))]
    pub max_bytes: Option<u64>,
    /// Full files that are kept (default 5).
    #[schemars(range(min = 1, max = 100))]
    pub keep: Option<u32>,
}

/// Traces of messages for a collector.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TelemetryOptions {
    /// By the OpenTelemetry protocol.
    pub otlp: OtlpOptions,
}

/// OTLP over HTTP, as JSON.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct OtlpOptions {
    /// Address of the collector, `http(s)://host:4318`; `/v1/traces` is added (default: there is none).
    pub endpoint: Option<String>,
    /// Its bearer token, if it wants one.
    pub token: Option<SecretRef>,
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
    #[schemars(extend("x-reload" = "restart-part"))]
    pub channels: BTreeMap<String, ChannelOptions>,
    /// Its boot scripts.
    #[schemars(extend("x-reload" = "restart-process"))]
    pub boot: BootOptions,
    /// Its schedules.
    pub cron: CronOptions,
    /// Its hooks.
    pub hooks: HooksOptions,
    /// Its nodes.
    pub nodes: TenantNodesOptions,
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
    /// What a program prints.
    Exec(ExecRef),
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

/// `{exec: {argv: ["/path/of/program", "argument"]}}`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecRef {
    /// How it is run.
    pub exec: ExecOptions,
}

/// How the program of a secret is run: without a shell, with an empty environment, its standard output is the secret.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExecOptions {
    /// Full path of the program, and its arguments.
    pub argv: Vec<String>,
    /// Milliseconds that it may take (default 5000, at most 30000).
    #[serde(default)]
    pub timeout_ms: Option<u64>,
    /// Names of variables of the gateway's own environment that it gets.
    #[serde(default)]
    pub env: Vec<String>,
}

impl fmt::Debug for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // A literal is a secret value; an environment name would be harmless, but telling them apart here is not worth a leak.
            Self::Text(_) => f.write_str("SecretRef(text)"),
            Self::Env(r) => write!(f, "SecretRef(env {})", r.env),
            Self::File(r) => write!(f, "SecretRef(file {})", r.file),
            Self::Store(r) => write!(f, "SecretRef(store {})", r.store),
            // Arguments may hold what nobody should see.
            Self::Exec(_) => f.write_str("SecretRef(exec)"),
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
            "description": "A secret: text, \"${ENV}\", {env}, {file}, {store} or {exec}.",
            SECRET_MARK: true,
            "anyOf": [
                { "type": "string", "minLength": 1 },
                one("env", "Name of an environment variable."),
                one("file", "File, relative to the state directory."),
                one("store", "Name given to `gateway secret set NAME`."),
                {
                    "type": "object", "description": "What a program prints.", "required": ["exec"],
                    "additionalProperties": false,
                    "properties": { "exec": {
                        "type": "object", "required": ["argv"], "additionalProperties": false,
                        "properties": {
                            "argv": { "type": "array", "items": { "type": "string" }, "minItems": 1,
                                "description": "Full path of the program, and its arguments; no shell." },
                            "timeoutMs": { "type": "integer", "minimum": 100, "maximum": 30000,
                                "description": "Milliseconds that it may take (default 5000)." },
                            "env": { "type": "array", "items": { "type": "string" },
                                "description": "Names of variables of the gateway's own environment that it gets." }
                        }
                    } }
                }
            ]
        })
    }
}
