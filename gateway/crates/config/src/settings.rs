//! Settings: what the gateway runs with. Everything is resolved and validated; no type of the written form leaks.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use gateway_protocol::CertPin;

use crate::Secret;
use crate::hooks::{HookComponentSettings, HooksSettings};
use crate::network::Network;
use crate::schedule::{CronSettings, HeartbeatSettings};
use crate::written::Written;

/// Slug of the tenant that the top level of the file describes.
pub const MAIN_TENANT: &str = "main";

/// The whole resolved configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The state directory that relative paths and stored secrets belong to.
    pub state_dir: PathBuf,
    /// The file that was read (or would have been: see `config_exists`).
    pub config_path: PathBuf,
    /// False when there was no file and the defaults apply.
    pub config_exists: bool,
    /// Listener, limits, host and origin lists of the whole process.
    pub gateway: GatewaySettings,
    /// Tenants by slug. `main` is always there.
    pub tenants: BTreeMap<String, TenantSettings>,
    /// Directory of plugin folders (`--wasm-dir` or `plugins.dir`), if any.
    pub plugins_dir: Option<PathBuf>,
    /// Plugin id → lower-case hex SHA-256 that it must have.
    pub plugin_pins: BTreeMap<String, String>,
    /// Whether a plugin without a pin is refused.
    pub plugins_pinned_only: bool,
    /// Whether plugins that the program carries are loaded.
    pub plugins_bundled: bool,
    /// Log level and format.
    pub logging: LoggingSettings,
    /// Where traces go; `None`: nowhere.
    pub otlp: Option<OtlpSettings>,
    /// How the gateway lets itself be found.
    pub discovery: DiscoverySettings,
    /// Lower-case hex SHA-256 of the file's bytes; empty text when there is no file. Changes with every edit.
    pub hash: String,
    /// Things worth telling the operator that do not stop the start (short secrets, loose file modes).
    pub warnings: Vec<String>,
    /// What was written where, for [`crate::Plan`] and `gateway config explain`.
    pub written: Written,
}

impl Settings {
    /// The default tenant, described by the top level of the file.
    pub fn main(&self) -> &TenantSettings {
        // `load` always inserts it; an empty map can only come from a caller that built Settings by hand.
        #[allow(clippy::expect_used)]
        self.tenants
            .get(MAIN_TENANT)
            .expect("settings always hold the tenant `main`")
    }

    /// Every secret of every tenant, for filters that keep them out of logs and answers.
    pub fn secrets(&self) -> Vec<&Secret> {
        let mut all = Vec::new();
        for tenant in self.tenants.values() {
            all.extend(tenant.auth.token.iter());
            all.extend(tenant.auth.password.iter());
            all.extend(tenant.auth.proxy.iter().filter_map(|p| p.secret.as_ref()));
            for agent in tenant.agents.entries.values() {
                if let AgentBackend::OpenAi(openai) = &agent.backend {
                    all.extend(openai.api_key.iter());
                }
            }
            for account in &tenant.channels {
                all.extend(account.secrets.values());
            }
            all.extend(tenant.cron.webhook.token.iter());
            all.extend(tenant.cron.webhook.secrets.values());
            all.extend(tenant.hooks.iter().map(|hooks| &hooks.token));
        }
        all.extend(self.otlp.iter().filter_map(|otlp| otlp.token.as_ref()));
        all
    }
}

/// Process-wide gateway settings.
#[derive(Debug, Clone)]
pub struct GatewaySettings {
    /// TCP port; 0 lets the system choose.
    pub port: u16,
    /// Where to listen.
    pub bind: Bind,
    /// Browser origins (`scheme://host[:port]`, lower case) allowed besides the page's own. Empty: none besides.
    pub allowed_origins: BTreeSet<String>,
    /// Host names (lower case, no port) answered besides loopback names and tenant hosts. Empty: none besides.
    pub allowed_hosts: BTreeSet<String>,
    /// Where reverse proxies are whose word about their clients counts. Empty: nobody's does.
    pub trusted_proxies: Vec<Network>,
    /// Whether a program on this machine is paired without a person, where there is no other tenant.
    pub pair_local_silently: bool,
    /// Limits.
    pub limits: GatewayLimits,
    /// TLS of the listener.
    pub tls: TlsSettings,
    /// True in mode `remote`: no gateway is to run from this configuration.
    pub remote_mode: bool,
    /// The name in a tailnet; `None`: there is none.
    pub tailscale: Option<TailscaleSettings>,
    /// Who of the tailnet is let in by its login.
    pub tailscale_logins: TailscaleLogins,
}

/// A name in a tailnet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TailscaleSettings {
    /// For whom.
    pub mode: TailscaleMode,
    /// Whether it is given back when the gateway stops.
    pub reset_on_exit: bool,
    /// Full path of the program; `None`: the first one of PATH.
    pub program: Option<PathBuf>,
    /// HTTPS port of the name.
    pub https_port: u16,
}

/// For whom the name in the tailnet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TailscaleMode {
    /// The tailnet.
    Serve,
    /// Everybody.
    Funnel,
}

impl TailscaleMode {
    /// As it is written in the file, and the verb of the program.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Serve => "serve",
            Self::Funnel => "funnel",
        }
    }
}

/// Who of the tailnet is let in by a login that Tailscale vouches for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum TailscaleLogins {
    /// Nobody.
    #[default]
    Nobody,
    /// Everybody, as an operator of the tenant `main`, which is the only one.
    Everybody,
    /// These, each as an operator of the tenant of this slug.
    Listed(BTreeMap<String, String>),
}

/// TLS of the listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// Whether it speaks TLS, and nothing else.
    pub enabled: bool,
    /// Where certificate and key are.
    pub source: TlsSource,
}

/// Where the listener's certificate and key come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsSource {
    /// `gateway/tls/` of the state directory; made at first use if the flag says so.
    Own {
        /// Whether a missing pair is made.
        generate: bool,
    },
    /// Files of the operator, both absolute or relative to the working directory like the state directory.
    Files {
        /// PEM, leaf first.
        cert: PathBuf,
        /// PEM.
        key: PathBuf,
    },
}

/// A gateway elsewhere (`gateway.mode: "remote"`).
#[derive(Debug, Clone)]
pub struct RemoteSettings {
    /// Its address as written.
    pub url: String,
    /// Its token.
    pub token: Option<Secret>,
    /// Its password.
    pub password: Option<Secret>,
    /// The only certificates that it may show. Empty: one that public authorities vouch for.
    pub pins: Vec<CertPin>,
}

/// How the gateway lets itself be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiscoverySettings {
    /// What is told, in the local network and in the zone.
    pub mode: MdnsMode,
    /// Domain of the zone that is written, without a dot at the end, lower case.
    pub wide_area_domain: Option<String>,
}

/// What is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MdnsMode {
    /// Nothing.
    Off,
    /// Port, TLS and fingerprint under a name that says nothing.
    Minimal,
    /// Also the machine's name and the path of the program.
    Full,
}

impl MdnsMode {
    /// As it is written in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Minimal => "minimal",
            Self::Full => "full",
        }
    }
}

/// Where the listener binds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bind {
    /// 127.0.0.1 only.
    Loopback,
    /// All IPv4 interfaces.
    Lan,
    /// One address.
    Addr(IpAddr),
}

impl Bind {
    /// The address to bind.
    pub fn ip(self) -> IpAddr {
        match self {
            Self::Loopback => IpAddr::V4(Ipv4Addr::LOCALHOST),
            Self::Lan => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Self::Addr(ip) => ip,
        }
    }

    /// True when only this machine can connect.
    pub fn is_loopback(self) -> bool {
        self.ip().is_loopback()
    }

    /// As it is written in the file.
    pub fn label(self) -> String {
        match self {
            Self::Loopback => "loopback".to_owned(),
            Self::Lan => "lan".to_owned(),
            Self::Addr(ip) => ip.to_string(),
        }
    }
}

/// Limits of the process. All times in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayLimits {
    /// Open connections in all.
    pub max_connections: u32,
    /// MiB of memory from which on the process sheds load; `None`: the control group's limit.
    pub memory_mb: Option<u32>,
    /// Connections that have not finished their handshake, per client address.
    pub preauth_per_ip: u32,
    /// Connections that have not finished their handshake, in all.
    pub preauth_total: u32,
    /// From open to a finished handshake.
    pub handshake_timeout_ms: u64,
    /// Failed logins per address and secret class within the window before a lockout.
    pub auth_failures: u32,
    /// Length of the failure window.
    pub auth_window_ms: u64,
    /// Length of the lockout.
    pub auth_lockout_ms: u64,
    /// How long a stopping gateway lets runs finish.
    pub drain_timeout_ms: u64,
    /// After how long a tenant whose start ended the process is tried again, for the first time.
    pub safe_mode_retry_ms: u64,
}

impl Default for GatewayLimits {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            memory_mb: None,
            preauth_per_ip: 32,
            preauth_total: 1_024,
            handshake_timeout_ms: 15_000,
            auth_failures: 10,
            auth_window_ms: 60_000,
            auth_lockout_ms: 300_000,
            drain_timeout_ms: 10_000,
            safe_mode_retry_ms: 300_000,
        }
    }
}

/// One tenant.
#[derive(Debug, Clone)]
pub struct TenantSettings {
    /// `[a-z0-9-]`, 1–63 characters; `main` for the default tenant.
    pub slug: String,
    /// Host names (lower case, no port) that name this tenant. Empty: told by path or credential only.
    pub hosts: BTreeSet<String>,
    /// How operators prove themselves.
    pub auth: AuthSettings,
    /// Agents.
    pub agents: AgentsSettings,
    /// Session rules.
    pub session: SessionSettings,
    /// Channel accounts, sorted by (kind, account). Disabled ones are listed with `enabled: false` and no secrets.
    pub channels: Vec<AccountSettings>,
    /// Boot scripts, sorted by id.
    pub boot: Vec<BootScriptSettings>,
    /// Schedules.
    pub cron: CronSettings,
    /// Hooks; `None` where there are none.
    pub hooks: Option<HooksSettings>,
    /// Plugins that judge what is about to happen, in the order in which they are asked.
    pub hook_components: Vec<HookComponentSettings>,
    /// Which commands of nodes may be called.
    pub node_commands: NodeCommandSettings,
}

/// Which commands of nodes may be called, besides that an operator approved them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeCommandSettings {
    /// Those that are added to the usual ones of a platform.
    pub allow: BTreeSet<String>,
    /// Those that may never be called.
    pub deny: BTreeSet<String>,
}

/// How operators of a tenant prove themselves.
#[derive(Debug, Clone)]
pub struct AuthSettings {
    /// The mode.
    pub mode: AuthMode,
    /// Set in mode `token` (always) and possibly in others (then unused).
    pub token: Option<Secret>,
    /// Set in mode `password` (always) and possibly in others: in mode `trusted-proxy` for this machine only, in the rest unused.
    pub password: Option<Secret>,
    /// Set in mode `trusted-proxy` (always).
    pub proxy: Option<TrustedProxySettings>,
}

/// What a reverse proxy tells of its users. Header names are lower case.
#[derive(Debug, Clone)]
pub struct TrustedProxySettings {
    /// Names the user.
    pub user_header: String,
    /// Have to be there.
    pub required_headers: BTreeSet<String>,
    /// Who is let in; `None`: everybody whom the proxy lets in.
    pub allow_users: Option<BTreeSet<String>>,
    /// Whether a proxy on this machine counts.
    pub allow_loopback: bool,
    /// What the proxy proves itself by; `None`: its address says enough.
    pub secret: Option<Secret>,
}

impl AuthSettings {
    /// The secret of the mode; `None` in mode `none`, and where a proxy alone says who it is.
    pub fn active(&self) -> Option<&Secret> {
        match self.mode {
            AuthMode::None => None,
            AuthMode::Token => self.token.as_ref(),
            AuthMode::Password | AuthMode::TrustedProxy => self.password.as_ref(),
        }
    }
}

/// Authentication mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMode {
    /// No secret. Only for the tenant `main`, alone, on a loopback listener.
    None,
    /// A random shared token.
    Token,
    /// A password chosen by a person.
    Password,
    /// The word of a reverse proxy.
    TrustedProxy,
}

impl AuthMode {
    /// The word on the wire and in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Token => "token",
            Self::Password => "password",
            Self::TrustedProxy => "trusted-proxy",
        }
    }
}

/// The agents of a tenant.
#[derive(Debug, Clone)]
pub struct AgentsSettings {
    /// Id of the agent that answers when none is named. Always a key of `entries`.
    pub default: String,
    /// Agents by id (`[a-z0-9][a-z0-9_-]*`, ≤ 64).
    pub entries: BTreeMap<String, AgentSettings>,
}

/// One agent.
#[derive(Debug, Clone)]
pub struct AgentSettings {
    /// Its id.
    pub id: String,
    /// What answers.
    pub backend: AgentBackend,
    /// Instructions put before the conversation.
    pub system_prompt: Option<String>,
    /// Names of built-in tools that it may call. Empty: none.
    pub tools: Vec<String>,
    /// When it looks by itself whether something is due.
    pub heartbeat: HeartbeatSettings,
}

/// What answers for an agent.
#[derive(Debug, Clone)]
pub enum AgentBackend {
    /// Repeats what it is told. Needs nothing.
    Echo,
    /// An OpenAI-compatible server.
    OpenAi(OpenAiSettings),
}

/// An OpenAI-compatible server.
#[derive(Debug, Clone)]
pub struct OpenAiSettings {
    /// `http(s)://host[:port]/v1`, without a trailing slash, user name or query.
    pub base_url: String,
    /// Model name sent with each request.
    pub model: String,
    /// Model name sent with requests for embeddings, if the agent makes any.
    pub embedding_model: Option<String>,
    /// Bearer key, if the server wants one.
    pub api_key: Option<Secret>,
    /// Milliseconds from the request to the first byte of the answer.
    pub first_byte_timeout_ms: u64,
    /// Milliseconds between two pieces of the answer.
    pub idle_timeout_ms: u64,
}

/// Session rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionSettings {
    /// Which direct messages share a session.
    pub dm_scope: DmScope,
    /// What a message does that comes while a run is going.
    pub queue_mode: QueueMode,
}

/// Which direct messages share a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DmScope {
    /// All share the agent's main session.
    Main,
    /// One per sender, whatever the channel.
    PerPeer,
    /// One per channel and sender (default).
    PerChannelPeer,
    /// One per channel, account and sender.
    PerAccountChannelPeer,
}

/// What a message does that comes while a run is going.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueMode {
    /// Waits for its turn (default).
    Followup,
    /// Stops the run and starts its own.
    Interrupt,
}

/// One channel account.
#[derive(Debug, Clone)]
pub struct AccountSettings {
    /// Channel kind = plugin id (`webhook`, `telegram`, …).
    pub kind: String,
    /// Account id within the kind.
    pub account: String,
    /// Whether it is started.
    pub enabled: bool,
    /// Agent that answers. Always a key of the tenant's agents.
    pub agent: String,
    /// Who may write directly.
    pub dm_policy: DmPolicy,
    /// Which groups are answered.
    pub group_policy: GroupPolicy,
    /// Sender ids let in besides the approved ones. Empty: nobody besides.
    pub allow_from: BTreeSet<String>,
    /// Group ids let in. Empty: none.
    pub groups: BTreeSet<String>,
    /// In groups, answer only when mentioned.
    pub require_mention: bool,
    /// Secrets by the name that the plugin's manifest uses. They stay in the host.
    pub secrets: BTreeMap<String, Secret>,
    /// Given to the guest as JSON. Always an object.
    pub config: serde_json::Value,
    /// What the guest may reach over HTTP.
    pub http: AccountHttp,
}

/// Who may write directly to an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DmPolicy {
    /// Unknown senders get a one-time code that the operator approves (default).
    Pairing,
    /// Only `allowFrom` and approved senders; others get no answer.
    Allowlist,
    /// Everyone.
    Open,
    /// Nobody.
    Disabled,
}

/// Which groups an account answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupPolicy {
    /// None (default).
    Disabled,
    /// Only those in `groups`.
    Allowlist,
    /// All.
    Open,
}

/// What a channel guest may reach over HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AccountHttp {
    /// URL patterns `scheme://host[:port]/path*`. Empty: nothing.
    pub allow: Vec<String>,
    /// Whether loopback and private addresses may be reached through `allow`.
    pub allow_private: bool,
}

/// One boot script.
#[derive(Debug, Clone)]
pub struct BootScriptSettings {
    /// Plugin id.
    pub id: String,
    /// Whether it runs.
    pub enabled: bool,
    /// What its failure does; `None`: what its package says.
    pub on_error: Option<BootOnError>,
    /// Given to the guest as JSON. Always an object.
    pub config: serde_json::Value,
}

/// What a failing boot script does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootOnError {
    /// It is recorded.
    Continue,
    /// It is recorded, and the tenant's health is degraded.
    Degrade,
    /// The tenant takes no work; for the tenant `main` the gateway does not start.
    Abort,
}

impl BootOnError {
    /// As written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Continue => "continue",
            Self::Degrade => "degrade",
            Self::Abort => "abort",
        }
    }
}

/// Logging.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggingSettings {
    /// Lowest level that is written.
    pub level: LogLevel,
    /// Text lines or one JSON object a line.
    pub format: LogFormat,
    /// Levels by the beginning of a target; all are the gateway's own.
    pub targets: BTreeMap<String, LogLevel>,
    /// A file for the same lines.
    pub file: Option<LogFileSettings>,
}

/// A collector of traces.
#[derive(Debug, Clone)]
pub struct OtlpSettings {
    /// `http(s)://host[:port][/path]`, without a trailing slash, user name or query.
    pub endpoint: String,
    /// Its bearer token.
    pub token: Option<Secret>,
}

/// A log file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFileSettings {
    /// Where it is.
    pub path: PathBuf,
    /// Bytes before the next one is begun.
    pub max_bytes: u64,
    /// Full files that are kept.
    pub keep: u32,
}

/// Log level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Failures.
    Error,
    /// Failures and doubts.
    Warn,
    /// The normal story (default).
    Info,
    /// For finding faults.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// Lower-case word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// Log format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people (default).
    Text,
    /// One JSON object a line.
    Json,
}
