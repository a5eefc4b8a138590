//! `plugin.toml`: what a plugin is, asks for and is allowed. Parsed strictly: an unknown key is an error with its line.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Deserialize;

use crate::limits;

/// World of a channel.
pub const WORLD_CHANNEL_0_1: &str = "gateway:channel/channel@0.1.0";
/// World of a boot script.
pub const WORLD_BOOT_0_1: &str = "gateway:boot/boot-script@0.1.0";
/// World of a hook.
pub const WORLD_HOOK_0_1: &str = "gateway:hook/hook@0.1.0";

/// One permission: an interface of `gateway:host` that the guest is linked with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum Capability {
    Log,
    Clock,
    Random,
    Config,
    Kv,
    Http,
    Inbound,
    Timer,
    GatewayCall,
}

impl Capability {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Log,
        Self::Clock,
        Self::Random,
        Self::Config,
        Self::Kv,
        Self::Http,
        Self::Inbound,
        Self::Timer,
        Self::GatewayCall,
    ];

    /// As written in the manifest and in WIT.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Clock => "clock",
            Self::Random => "random",
            Self::Config => "config",
            Self::Kv => "kv",
            Self::Http => "http",
            Self::Inbound => "inbound",
            Self::Timer => "timer",
            Self::GatewayCall => "gateway-call",
        }
    }

    fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|c| c.name() == name)
    }
}

/// What kind of guest this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum World {
    /// [`WORLD_CHANNEL_0_1`]
    ChannelV0_1,
    /// [`WORLD_BOOT_0_1`]
    BootV0_1,
    /// [`WORLD_HOOK_0_1`]
    HookV0_1,
}

impl World {
    /// Capabilities that this world can be linked with.
    #[must_use]
    pub fn offers(self) -> &'static [Capability] {
        use Capability::{Clock, Config, GatewayCall, Http, Inbound, Kv, Log, Random, Timer};
        match self {
            Self::ChannelV0_1 => &[Log, Clock, Random, Config, Kv, Http, Inbound, Timer],
            Self::BootV0_1 => &[Log, Config, Kv, GatewayCall],
            // What judges reaches nothing: no network, no store, no method.
            Self::HookV0_1 => &[Log, Config],
        }
    }

    /// Full name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ChannelV0_1 => WORLD_CHANNEL_0_1,
            Self::BootV0_1 => WORLD_BOOT_0_1,
            Self::HookV0_1 => WORLD_HOOK_0_1,
        }
    }
}

/// One rule of the HTTP allow-list. The operator may narrow it, or widen it by an explicit grant.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpRule {
    /// `https` (default) or `http`.
    #[serde(default = "https")]
    pub scheme: String,
    /// Host name, or `host:port`. No wildcard (hosts that only the operator knows are granted by the account's `http.allow`).
    pub host: String,
    /// Methods in upper case. Empty in the file means GET only.
    #[serde(default = "get_only")]
    pub methods: Vec<String>,
    /// Path; a final `*` matches any rest. May hold `{secret:NAME}`.
    #[serde(default = "any_path")]
    pub path: String,
    /// Secrets that may be put into requests to this address, and nowhere else.
    #[serde(default)]
    pub secrets: Vec<String>,
}

fn https() -> String {
    "https".to_owned()
}
fn get_only() -> Vec<String> {
    vec!["GET".to_owned()]
}
fn any_path() -> String {
    "/*".to_owned()
}

/// Encoding of a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum SignatureEncoding {
    #[default]
    Hex,
    Base64,
}

/// A timestamp that the platform signs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedTimestamp {
    /// Header with whole seconds since the Unix epoch.
    pub header: String,
    /// Largest distance from now in seconds.
    #[serde(default = "five_minutes")]
    pub window_s: u64,
}

fn five_minutes() -> u64 {
    300
}

/// How a webhook request proves where it comes from. The host checks it over the raw bytes; the guest never sees the secret.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Verify {
    /// A header that holds the secret itself.
    HeaderEquals {
        /// Header name (lower case after parsing).
        header: String,
        /// Name of the secret.
        secret: String,
    },
    /// HMAC-SHA256 over the body, or over `<timestamp>.<body>` if a timestamp is signed.
    HmacSha256 {
        /// Header name (lower case after parsing).
        header: String,
        /// Text before the signature, such as `sha256=`.
        #[serde(default)]
        prefix: String,
        /// Hex or base64.
        #[serde(default)]
        encoding: SignatureEncoding,
        /// Name of the secret.
        secret: String,
        /// Signed timestamp, if there is one.
        #[serde(default)]
        timestamp: Option<SignedTimestamp>,
    },
}

impl Verify {
    /// As given to the guest in `verified-by`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::HeaderEquals { .. } => "header-equals",
            Self::HmacSha256 { .. } => "hmac-sha256",
        }
    }

    /// Name of the secret that it needs.
    #[must_use]
    pub fn secret(&self) -> &str {
        match self {
            Self::HeaderEquals { secret, .. } | Self::HmacSha256 { secret, .. } => secret,
        }
    }
}

/// A webhook route: `/channels/<kind>/<account>/<route>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookRoute {
    /// A request passes if one of these does whose secret is configured. Never empty.
    pub verify: Vec<Verify>,
    /// Methods; default POST only.
    pub methods: Vec<String>,
    /// Largest body in bytes; default 1 MiB.
    pub max_body: usize,
}

/// How long instances live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lifecycle {
    /// While events come (default).
    #[default]
    Burst,
    /// One for each call.
    Fresh,
    /// Kept until the account stops.
    Warm,
}

/// Which engine runs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Pooled; at most 64 MiB of memory, 512 KiB of stack.
    #[default]
    Small,
    /// Made on demand; at most 256 MiB of memory, 3 MiB of stack (Python, StarlingMonkey).
    Large,
}

/// Limits asked for, cut to the ceilings of [`crate::limits`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PluginLimits {
    /// Bytes of all memories together.
    pub memory: usize,
    /// Wall milliseconds of a call.
    pub call_ms: u64,
    /// CPU milliseconds of a call.
    pub cpu_ms: u64,
    /// Waiting events.
    pub mailbox: usize,
    /// Bytes of kv of one account (the store's quota).
    pub kv: usize,
    /// Log lines in a minute.
    pub log_lines_per_min: u32,
}

/// When a boot script runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BootWhen {
    /// Once at each start of the gateway, for the default tenant.
    HostStart,
    /// At the start of each tenant.
    TenantStart,
    /// After a reload of the configuration.
    Reload,
}

/// What a failing boot script does to the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnError {
    /// It is recorded.
    Continue,
    /// It is recorded, and the tenant's health is degraded.
    #[default]
    Degrade,
    /// The tenant takes no work; for the tenant `main` the gateway does not start.
    Abort,
}

/// Boot part of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Boot {
    /// When it runs.
    pub when: Vec<BootWhen>,
    /// Wall milliseconds.
    #[serde(default = "boot_ms")]
    pub timeout_ms: u64,
    /// What a failure does, unless the operator's configuration says otherwise.
    #[serde(default)]
    pub on_error: OnError,
    /// Gateway methods that it may call: the only ones.
    #[serde(default)]
    pub methods: Vec<String>,
}

fn boot_ms() -> u64 {
    limits::DEFAULT_BOOT_MS
}

/// A checked `plugin.toml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// `[a-z0-9-]{1,64}`; the name of its directory.
    pub id: String,
    /// Its version.
    pub version: String,
    /// One line for people.
    pub description: String,
    /// Kind of guest.
    pub world: World,
    /// File of the component or core module, beside the manifest.
    pub file: String,
    /// Digest that the file must have, in lower-case hex.
    pub sha256: Option<String>,
    /// Interfaces that it may import.
    pub capabilities: BTreeSet<Capability>,
    /// HTTP allow-list.
    pub http: Vec<HttpRule>,
    /// Webhook routes by name.
    pub webhooks: BTreeMap<String, WebhookRoute>,
    /// Limits.
    pub limits: PluginLimits,
    /// Life of instances.
    pub lifecycle: Lifecycle,
    /// Engine.
    pub class: Class,
    /// Waiting webhook requests that one call of `on-event` may get; 1 where the guest does not ask for more.
    pub batch: usize,
    /// For boot scripts.
    pub boot: Option<Boot>,
}

/// What is wrong with a manifest. Prints `line:column` where the file says it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ManifestError(pub String);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawManifest {
    schema: u32,
    id: String,
    version: String,
    #[serde(default)]
    description: String,
    world: String,
    component: RawComponent,
    #[serde(default)]
    capabilities: Vec<String>,
    #[serde(default)]
    net: RawNet,
    #[serde(default)]
    webhook: BTreeMap<String, RawWebhook>,
    #[serde(default)]
    limits: RawLimits,
    #[serde(default)]
    run: RawRun,
    boot: Option<Boot>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawComponent {
    file: String,
    sha256: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawNet {
    #[serde(default)]
    http: Vec<HttpRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawWebhook {
    verify: OneOrMany,
    #[serde(default)]
    methods: Vec<String>,
    max_body: Option<Bytes>,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "`verify` is a table or a list of tables with kind = \"header-equals\" (header, secret) or kind = \"hmac-sha256\" (header, prefix, encoding, secret, timestamp)"
)]
enum OneOrMany {
    One(Verify),
    Many(Vec<Verify>),
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawLimits {
    memory: Option<Bytes>,
    call_ms: Option<u64>,
    cpu_ms: Option<u64>,
    mailbox: Option<usize>,
    kv: Option<Bytes>,
    log_lines_per_min: Option<u32>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawRun {
    #[serde(default)]
    lifecycle: Lifecycle,
    #[serde(default)]
    class: Class,
    batch: Option<usize>,
}

/// A number of bytes: `1048576`, `"1MiB"`, `"64KiB"`.
struct Bytes(usize);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl serde::de::Visitor<'_> for V {
            type Value = Bytes;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes: a number, or text such as \"64KiB\" or \"4MiB\"")
            }
            fn visit_i64<E: serde::de::Error>(self, v: i64) -> Result<Bytes, E> {
                usize::try_from(v)
                    .map(Bytes)
                    .map_err(|_| E::invalid_value(serde::de::Unexpected::Signed(v), &self))
            }
            fn visit_str<E: serde::de::Error>(self, v: &str) -> Result<Bytes, E> {
                let bad = || E::invalid_value(serde::de::Unexpected::Str(v), &self);
                let (number, unit) = v
                    .strip_suffix("KiB")
                    .map(|n| (n, 10))
                    .or_else(|| v.strip_suffix("MiB").map(|n| (n, 20)))
                    .unwrap_or((v, 0));
                let number: usize = number.trim().parse().map_err(|_| bad())?;
                number.checked_mul(1 << unit).map(Bytes).ok_or_else(bad)
            }
        }
        d.deserialize_any(V)
    }
}

impl Manifest {
    /// Parses and checks the text of a `plugin.toml`.
    ///
    /// # Errors
    /// With line and column where the text is at fault, and what is allowed there.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        let raw: RawManifest =
            toml::from_str(text).map_err(|e| ManifestError(e.to_string().trim_end().to_owned()))?;
        check(raw).map_err(ManifestError)
    }
}

fn check(raw: RawManifest) -> Result<Manifest, String> {
    if raw.schema != 1 {
        return Err(format!(
            "schema = {}: this gateway reads schema = 1",
            raw.schema
        ));
    }
    if !is_id(&raw.id) {
        return Err(format!("id = {:?}: 1 to 64 of a-z, 0-9 and `-`", raw.id));
    }
    if raw.version.is_empty() || raw.version.len() > 64 || !raw.version.is_ascii() {
        return Err("version: 1 to 64 ASCII characters".to_owned());
    }
    let world = match raw.world.as_str() {
        WORLD_CHANNEL_0_1 => World::ChannelV0_1,
        WORLD_BOOT_0_1 => World::BootV0_1,
        WORLD_HOOK_0_1 => World::HookV0_1,
        other => {
            return Err(format!(
                "world = {other:?}: plugin {} {} asks for a world that this gateway does not have; it has {WORLD_CHANNEL_0_1}, {WORLD_BOOT_0_1} and {WORLD_HOOK_0_1}. Build the plugin against one of these.",
                raw.id, raw.version
            ));
        }
    };
    let file = raw.component.file;
    // The file is beside the manifest: no path leads out of the plugin's directory.
    if file.is_empty()
        || file.len() > 255
        || file.starts_with('.')
        || file.contains(['/', '\\', '\0'])
    {
        return Err(format!(
            "component.file = {file:?}: a file name in the plugin's own directory"
        ));
    }
    let sha256 = match raw.component.sha256 {
        None => None,
        Some(hex) if hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()) => {
            Some(hex.to_ascii_lowercase())
        }
        Some(_) => return Err("component.sha256: 64 hex digits".to_owned()),
    };
    let mut capabilities = BTreeSet::new();
    for name in &raw.capabilities {
        let names =
            |list: &[Capability]| list.iter().map(|c| c.name()).collect::<Vec<_>>().join(", ");
        match Capability::of(name) {
            Some(c) if world.offers().contains(&c) => {
                capabilities.insert(c);
            }
            _ => {
                return Err(format!(
                    "capabilities: {name:?} is not offered to {}; these are: {}",
                    world.name(),
                    names(world.offers())
                ));
            }
        }
    }
    for rule in &raw.net.http {
        check_http(rule)?;
    }
    if !raw.net.http.is_empty() && !capabilities.contains(&Capability::Http) {
        return Err("[[net.http]] is there, but capabilities does not name \"http\"".to_owned());
    }
    let mut webhooks = BTreeMap::new();
    for (name, hook) in raw.webhook {
        if world != World::ChannelV0_1 {
            return Err(format!("[webhook.{name}]: only channels have webhooks"));
        }
        if !is_id(&name) {
            return Err(format!(
                "[webhook.{name}]: a route is 1 to 64 of a-z, 0-9 and `-`"
            ));
        }
        let route = check_webhook(hook).map_err(|e| format!("[webhook.{name}]: {e}"))?;
        webhooks.insert(name, route);
    }
    match (world, &raw.boot) {
        (World::BootV0_1, None) => {
            return Err("[boot] is missing: when = [\"tenant-start\"], methods = […]".to_owned());
        }
        (World::ChannelV0_1 | World::HookV0_1, Some(_)) => {
            return Err(format!(
                "[boot] belongs to boot scripts, and the world is {}",
                world.name()
            ));
        }
        _ => {}
    }
    let mut boot = raw.boot;
    if let Some(b) = &mut boot {
        if b.when.is_empty() {
            return Err(
                "boot.when: name at least one of host-start, tenant-start, reload".to_owned(),
            );
        }
        b.timeout_ms = b.timeout_ms.clamp(1, limits::MAX_CALL_MS);
        if !b.methods.is_empty() && !capabilities.contains(&Capability::GatewayCall) {
            return Err(
                "boot.methods is there, but capabilities does not name \"gateway-call\"".to_owned(),
            );
        }
    }
    let class = raw.run.class;
    let ceiling = match class {
        Class::Small => limits::MAX_SMALL_MEMORY_BYTES,
        Class::Large => limits::MAX_LARGE_MEMORY_BYTES,
    };
    let l = raw.limits;
    let limits = PluginLimits {
        memory: l
            .memory
            .map_or(limits::DEFAULT_MEMORY_BYTES, |b| b.0)
            .clamp(64 << 10, ceiling),
        call_ms: l
            .call_ms
            .unwrap_or(limits::DEFAULT_CALL_MS)
            .clamp(1, limits::MAX_CALL_MS),
        cpu_ms: l
            .cpu_ms
            .unwrap_or(limits::DEFAULT_CALL_CPU_MS)
            .clamp(1, limits::MAX_CALL_CPU_MS),
        mailbox: l
            .mailbox
            .unwrap_or(limits::MAX_MAILBOX_EVENTS)
            .clamp(1, limits::MAX_MAILBOX_EVENTS),
        kv: l.kv.map_or(4 << 20, |b| b.0),
        log_lines_per_min: l
            .log_lines_per_min
            .unwrap_or(limits::MAX_LOG_LINES_PER_MIN)
            .min(limits::MAX_LOG_LINES_PER_MIN),
    };
    Ok(Manifest {
        id: raw.id,
        version: raw.version,
        description: raw.description,
        world,
        file,
        sha256,
        capabilities,
        http: raw.net.http,
        webhooks,
        limits,
        batch: raw
            .run
            .batch
            .unwrap_or(1)
            .clamp(1, limits::MAX_EVENTS_PER_CALL),
        lifecycle: raw.run.lifecycle,
        class,
        boot,
    })
}

/// `[a-z0-9-]{1,64}`
pub(crate) fn is_id(s: &str) -> bool {
    (1..=64).contains(&s.len())
        && s.bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn is_secret_name(s: &str) -> bool {
    (1..=64).contains(&s.len())
        && s.bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

fn check_methods(methods: &[String]) -> Result<(), String> {
    const KNOWN: [&str; 6] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];
    match methods.iter().find(|m| !KNOWN.contains(&m.as_str())) {
        Some(m) => Err(format!("methods: {m:?} is not one of {}", KNOWN.join(", "))),
        None => Ok(()),
    }
}

fn check_http(rule: &HttpRule) -> Result<(), String> {
    let at = |e: String| format!("[[net.http]] host = {:?}: {e}", rule.host);
    if rule.scheme != "https" && rule.scheme != "http" {
        return Err(at(format!(
            "scheme = {:?} is neither https nor http",
            rule.scheme
        )));
    }
    let (host, port) = rule
        .host
        .split_once(':')
        .map_or((rule.host.as_str(), None), |(h, p)| (h, Some(p)));
    let host_ok = !host.is_empty()
        && host.len() <= 253
        && host
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.');
    if !host_ok || port.is_some_and(|p| p.parse::<u16>().is_err()) {
        return Err(at(
            "a lower-case host name or host:port, without wildcards".to_owned()
        ));
    }
    check_methods(&rule.methods).map_err(at)?;
    if !rule.path.starts_with('/') || rule.path.trim_end_matches('*').contains('*') {
        return Err(at(format!(
            "path = {:?} must begin with `/` and may have one `*` at its end",
            rule.path
        )));
    }
    if let Some(name) = rule.secrets.iter().find(|s| !is_secret_name(s)) {
        return Err(at(format!(
            "secrets: {name:?} is not a name of 1 to 64 letters, digits, `-` or `_`"
        )));
    }
    let mut rest = rule.path.as_str();
    while let Some(start) = rest.find("{secret:") {
        let Some(len) = rest[start..].find('}') else {
            return Err(at("path: `{secret:` without `}`".to_owned()));
        };
        let name = &rest[start + 8..start + len];
        if !rule.secrets.iter().any(|s| s == name) {
            return Err(at(format!(
                "path uses {{secret:{name}}}, which `secrets` does not name"
            )));
        }
        rest = &rest[start + len..];
    }
    Ok(())
}

fn check_webhook(hook: RawWebhook) -> Result<WebhookRoute, String> {
    let mut verify = match hook.verify {
        OneOrMany::One(v) => vec![v],
        OneOrMany::Many(v) => v,
    };
    if verify.is_empty() {
        return Err("verify is empty: an unverified webhook is not offered".to_owned());
    }
    for rule in &mut verify {
        let name = match rule {
            Verify::HeaderEquals { header, .. } => header,
            Verify::HmacSha256 {
                header, timestamp, ..
            } => {
                if let Some(t) = timestamp {
                    t.header.make_ascii_lowercase();
                    t.window_s = t.window_s.clamp(1, 3_600);
                }
                header
            }
        };
        name.make_ascii_lowercase();
        if name.is_empty()
            || !name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        {
            return Err(format!("verify: header = {name:?} is not a header name"));
        }
        if !is_secret_name(rule.secret()) {
            return Err(format!(
                "verify: secret = {:?} is not a name of 1 to 64 letters, digits, `-` or `_`",
                rule.secret()
            ));
        }
    }
    check_methods(&hook.methods)?;
    Ok(WebhookRoute {
        verify,
        methods: if hook.methods.is_empty() {
            vec!["POST".to_owned()]
        } else {
            hook.methods
        },
        max_body: hook
            .max_body
            .map_or(1 << 20, |b| b.0)
            .min(limits::MAX_HTTP_RESPONSE_BYTES),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    const TELEGRAM: &str = r#"
schema = 1
id = "telegram"
version = "0.1.0"
world = "gateway:channel/channel@0.1.0"
component = { file = "telegram.wasm" }
capabilities = ["log", "http", "kv", "inbound", "timer"]
[[net.http]]
host = "api.telegram.org"
methods = ["GET", "POST"]
path = "/bot{secret:token}/*"
secrets = ["token"]
[webhook.updates]
verify = { kind = "header-equals", header = "X-Telegram-Bot-Api-Secret-Token", secret = "webhook_secret" }
max_body = "1MiB"
[limits]
memory = "1024MiB"
call_ms = 900000
[run]
lifecycle = "burst"
"#;

    #[test]
    fn a_full_manifest_is_read_and_cut_to_the_ceilings() {
        let m = Manifest::parse(TELEGRAM).unwrap();
        assert_eq!(m.limits.memory, limits::MAX_SMALL_MEMORY_BYTES);
        assert_eq!(m.limits.call_ms, limits::MAX_CALL_MS);
        assert_eq!(m.webhooks["updates"].max_body, 1 << 20);
        assert_eq!(
            m.webhooks["updates"].verify[0],
            Verify::HeaderEquals {
                header: "x-telegram-bot-api-secret-token".into(),
                secret: "webhook_secret".into()
            }
        );
        assert!(
            m.capabilities.contains(&Capability::Http)
                && !m.capabilities.contains(&Capability::GatewayCall)
        );
    }

    #[test]
    fn several_verify_rules_and_a_signed_timestamp() {
        let text = TELEGRAM.replace(
            r#"verify = { kind = "header-equals", header = "X-Telegram-Bot-Api-Secret-Token", secret = "webhook_secret" }"#,
            r#"verify = [ { kind = "hmac-sha256", header = "X-Sig", prefix = "sha256=", encoding = "base64", secret = "signing", timestamp = { header = "X-Time" } }, { kind = "header-equals", header = "X-Token", secret = "token" } ]"#,
        );
        let m = Manifest::parse(&text).unwrap();
        let Verify::HmacSha256 {
            encoding,
            timestamp,
            ..
        } = &m.webhooks["updates"].verify[0]
        else {
            panic!("order is kept")
        };
        assert_eq!(
            (*encoding, timestamp.as_ref().unwrap().window_s),
            (SignatureEncoding::Base64, 300)
        );
        assert_eq!(m.webhooks["updates"].verify[1].kind(), "header-equals");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases = [
            (
                TELEGRAM.replace("lifecycle = \"burst\"", "livecycle = \"burst\""),
                "livecycle",
            ),
            (
                TELEGRAM.replace("id = \"telegram\"", "id = \"Tele gram\""),
                "id =",
            ),
            (TELEGRAM.replace("\"timer\"]", "\"sockets\"]"), "sockets"),
            (
                TELEGRAM.replace("\"timer\"]", "\"gateway-call\"]"),
                "gateway-call",
            ),
            (TELEGRAM.replace("channel@0.1.0", "channel@9.0.0"), "9.0.0"),
            (
                TELEGRAM.replace("telegram.wasm", "../evil.wasm"),
                "evil.wasm",
            ),
            (
                TELEGRAM.replace("secrets = [\"token\"]", "secrets = []"),
                "{secret:token}",
            ),
            (TELEGRAM.replace("/bot{secret:token}/*", "/*/x/*"), "path"),
            (
                TELEGRAM.replace("api.telegram.org", "*.telegram.org"),
                "wildcards",
            ),
            (TELEGRAM.replace("\"http\", ", ""), "net.http"),
            (
                TELEGRAM.replace("kind = \"header-equals\"", "kind = \"none\""),
                "verify",
            ),
            (TELEGRAM.replace("schema = 1", "schema = 2"), "schema"),
            (TELEGRAM.replace("\"1MiB\"", "\"1 apple\""), "bytes"),
            (format!("{TELEGRAM}\n[boot]\nwhen = [\"reload\"]\n"), "boot"),
        ];
        for (text, part) in cases {
            let e = Manifest::parse(&text).expect_err(part).to_string();
            assert!(e.contains(part), "{part:?} is not in {e:?}");
        }
    }

    #[test]
    fn a_syntax_error_has_line_and_column() {
        let e = Manifest::parse("schema = 1\nid = \n")
            .unwrap_err()
            .to_string();
        assert!(e.contains("line 2"), "{e}");
    }
}
