//! The pipeline: read → parse and check → resolve secrets → apply flags → validate as a whole → [`Settings`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use gateway_protocol::CertPin;
use gateway_protocol::ids::{AgentId, ChannelName};
use serde_json::Value;

use crate::disk::DiskFault;
use crate::error::{ConfigError, Problem};
use crate::include::Files;
use crate::network::Network;
use crate::options::{
    AccountOptions, AgentOptions, AgentsOptions, AuthModeOption, AuthOptions, BackendOption,
    BootOnErrorOption, BootOptions, ChannelOptions, DmPolicyOption, DmScopeOption,
    GatewayModeOption, GroupPolicyOption, LimitsOptions, LogFormatOption, LogLevelOption,
    LoggingOptions, MdnsModeOption, NodeCommandsOptions, Options, OtlpOptions, QueueModeOption,
    RemoteOptions, SecretRef, SessionOptions, TailscaleModeOption, TailscaleOptions, TlsOptions,
};
use crate::secret::Secret;
use crate::settings::*;
use crate::source::{self, Source, join_key};
use crate::strength;
use crate::validate;
use crate::written::Written;
use crate::{exec, expand};

/// Name of the configuration file in the state directory.
pub const CONFIG_FILE: &str = "gateway.json5";
/// Name (below `secrets/<tenant>/`) of the token that `gateway serve` makes.
pub const TOKEN_NAME: &str = "gateway-token";
/// Newest layout of the file.
const LAYOUT_VERSION: u32 = 1;
/// Default TCP port.
pub const DEFAULT_PORT: u16 = 18_789;
/// The header in which a trusted proxy proves itself, lower case.
pub const PROXY_SECRET_HEADER: &str = "x-gateway-proxy-secret";
/// Longest name of a header in the configuration, in bytes.
const MAX_HEADER_NAME_BYTES: usize = 64;
/// Largest secret that is read, in bytes.
const MAX_SECRET_BYTES: u64 = 64 * 1024;
/// Default time to the first byte and between two pieces of a model's answer, in milliseconds.
const DEFAULT_MODEL_TIMEOUT_MS: u64 = 60_000;

/// What to load and what overrides it.
pub struct LoadRequest<'a> {
    /// State directory: `gateway.json5` and relative secret files are looked for here.
    pub state_dir: PathBuf,
    /// Another configuration file than `<state_dir>/gateway.json5`; it must exist.
    pub config_path: Option<PathBuf>,
    /// Flags.
    pub overrides: Overrides,
    /// Reads an environment variable (injected, so that tests and embedders choose).
    pub env: &'a dyn Fn(&str) -> Option<String>,
}

impl fmt::Debug for LoadRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadRequest")
            .field("state_dir", &self.state_dir)
            .field("config_path", &self.config_path)
            .field("overrides", &self.overrides)
            .finish_non_exhaustive()
    }
}

/// Values of flags; each set one wins over the file.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--port`
    pub port: Option<u16>,
    /// `--bind loopback|lan|ADDR`
    pub bind: Option<String>,
    /// `--tls`: the listener speaks TLS.
    pub tls: bool,
    /// `--token`: the token of the tenant `main`; sets its mode to `token`.
    pub token: Option<Secret>,
    /// `--upstream URL`: the default agent of the tenant `main` becomes an OpenAI-compatible server.
    pub upstream: Option<String>,
    /// `--model NAME`
    pub model: Option<String>,
    /// `--api-key-env VAR`: the variable that holds the upstream's key.
    pub api_key_env: Option<String>,
    /// `--wasm-dir DIR`
    pub plugins_dir: Option<PathBuf>,
    /// `--log-level`
    pub log_level: Option<LogLevel>,
    /// `--log-format`
    pub log_format: Option<LogFormat>,
}

/// Loads the configuration of a state directory. Without a file the defaults apply.
pub fn load(request: LoadRequest<'_>) -> Result<Settings, ConfigError> {
    let path = request
        .config_path
        .clone()
        .unwrap_or_else(|| request.state_dir.join(CONFIG_FILE));
    let bytes = match read_bounded(&path, source::MAX_FILE_BYTES) {
        Ok(bytes) => bytes,
        // A link that leads nowhere is a fault and not a file that nobody wrote.
        Err(ReadFault::Missing) if request.config_path.is_none() && !is_link(&path) => {
            return resolve(None, &request, path, String::new());
        }
        Err(fault) => {
            return Err(fault.told(path));
        }
    };
    let text = utf8(bytes, &path)?;
    let settings = load_text(&text, &request, path.clone())?;
    Ok(settings.warn_of_mode(&path))
}

/// The text of a file.
pub(crate) fn utf8(bytes: Vec<u8>, path: &Path) -> Result<String, ConfigError> {
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        ConfigError::plain(
            Some(path.to_owned()),
            format!("not UTF-8 text (byte {at})"),
            "save the file as UTF-8",
        )
    })
}

/// Like [`load`], with the file's text given. `path` is named in errors and in [`Settings::config_path`]; what the text
/// includes is read from its folder.
pub fn load_text(
    text: &str,
    request: &LoadRequest<'_>,
    path: PathBuf,
) -> Result<Settings, ConfigError> {
    load_from(text, request, path, &Files::Disk)
}

/// As [`load_text`], with included files from `files`.
pub(crate) fn load_from(
    text: &str,
    request: &LoadRequest<'_>,
    path: PathBuf,
    files: &Files<'_>,
) -> Result<Settings, ConfigError> {
    let plain = text.strip_prefix('\u{feff}').unwrap_or(text);
    let source = source::parse(plain, &path, files, request.env)?;
    let hash = source.hash(text);
    resolve(Some(source), request, path, hash)
}

impl Settings {
    fn warn_of_mode(mut self, path: &Path) -> Self {
        if loose_mode(path) {
            self.warnings.push(format!(
                "{} can be read by other users; run chmod 600 on it",
                path.display()
            ));
        }
        self
    }
}

/// Whether there is a symbolic link of this name, wherever it leads.
pub(crate) fn is_link(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|m| m.is_symlink())
}

/// What a client on the same machine needs to reach the gateway of a state directory.
#[derive(Debug, Clone)]
pub struct ClientView {
    /// Port as configured.
    pub port: u16,
    /// Listener as configured.
    pub bind: Bind,
    /// How the asked tenant's operators prove themselves.
    pub auth: AuthSettings,
    /// The file.
    pub config_path: PathBuf,
    /// The gateway of `gateway.remote`, in mode `remote`. Then `port`, `bind` and `auth` are those of a gateway that does not run here.
    pub remote: Option<RemoteSettings>,
    /// TLS of the listener.
    pub tls: TlsSettings,
    /// Files that the configuration includes, below its folder.
    pub included: Vec<String>,
}

/// What a client wants to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientWants {
    /// Where the gateway is, and the credential for it.
    PlaceAndCredential,
    /// Where the gateway is; no secret is read.
    Place,
}

impl ClientView {
    /// What a client needs, of settings that are loaded. `None` when there is no such tenant.
    pub fn of(settings: &Settings, tenant: &str) -> Option<Self> {
        Some(Self {
            port: settings.gateway.port,
            bind: settings.gateway.bind,
            auth: settings.tenants.get(tenant)?.auth.clone(),
            config_path: settings.config_path.clone(),
            // A gateway runs with these settings here, so none is asked for elsewhere.
            remote: None,
            tls: settings.gateway.tls.clone(),
            included: settings.written.included(),
        })
    }
}

/// Reads just what a client needs: other secrets (an upstream's key that only the gateway's process has) may be
/// missing. The file as a whole must still be free of unknown keys and wrong types.
pub fn client_view(
    request: &LoadRequest<'_>,
    tenant: &str,
    wants: ClientWants,
) -> Result<ClientView, ConfigError> {
    let path = request
        .config_path
        .clone()
        .unwrap_or_else(|| request.state_dir.join(CONFIG_FILE));
    let source = match read_bounded(&path, source::MAX_FILE_BYTES) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            Some(source::parse(
                text.strip_prefix('\u{feff}').unwrap_or(&text),
                &path,
                &Files::Disk,
                request.env,
            )?)
        }
        Err(ReadFault::Missing) if request.config_path.is_none() => None,
        Err(fault) => {
            return Err(fault.told(path));
        }
    };
    let mut cx = Resolver {
        request,
        source: source.as_ref(),
        problems: Vec::new(),
        warnings: Vec::new(),
        digests: BTreeMap::new(),
        read: Vec::new(),
        disk: None,
    };
    let empty = Options::default();
    let o = source.as_ref().map_or(&empty, |s| &s.options);
    let bind = cx.bind(o.gateway.bind.as_deref());
    let tls = cx.tls(&o.gateway.tls);
    let remote = match o.gateway.mode {
        Some(GatewayModeOption::Remote) => cx.remote(&o.gateway.remote, wants),
        Some(GatewayModeOption::Local) | None => None,
    };
    let auth = match o.tenants.get(tenant) {
        // The gateway elsewhere has its own tenants and its own credentials.
        _ if wants == ClientWants::Place
            || matches!(o.gateway.mode, Some(GatewayModeOption::Remote)) =>
        {
            AuthSettings {
                mode: AuthMode::Token,
                token: None,
                password: None,
                proxy: None,
            }
        }
        Some(t) => {
            let path = format!("{}.auth", join_key("tenants", tenant));
            cx.auth(&path, tenant, &t.auth, None)
        }
        None if tenant == MAIN_TENANT => {
            let flag = request.overrides.token.clone();
            cx.auth("gateway.auth", MAIN_TENANT, &o.gateway.auth, flag)
        }
        None => {
            return Err(ConfigError::plain(
                Some(path),
                format!("there is no tenant {tenant:?}"),
                "add it to `tenants`, or name another with --tenant",
            ));
        }
    };
    let problems = cx.problems;
    if !problems.is_empty() {
        return Err(ConfigError {
            file: Some(path),
            problems,
            next: "mend what is named above, or give the credential with --token".to_owned(),
            files: cx.read,
            disk: cx.disk,
        });
    }
    Ok(ClientView {
        port: request
            .overrides
            .port
            .or(o.gateway.port)
            .unwrap_or(DEFAULT_PORT),
        bind,
        auth,
        config_path: path,
        remote,
        tls,
        included: source
            .iter()
            .flat_map(source::Source::included)
            .map(|name| name.to_string_lossy().into_owned())
            .collect(),
    })
}

fn resolve(
    source: Option<Source>,
    request: &LoadRequest<'_>,
    path: PathBuf,
    hash: String,
) -> Result<Settings, ConfigError> {
    let config_exists = source.is_some();
    let mut cx = Resolver {
        request,
        source: source.as_ref(),
        problems: Vec::new(),
        warnings: Vec::new(),
        digests: BTreeMap::new(),
        read: Vec::new(),
        disk: None,
    };
    let empty = Options::default();
    let options = source.as_ref().map_or(&empty, |s| &s.options);
    let settings = cx.settings(options, path, hash, config_exists);
    validate::check(&settings, &mut cx);
    let Resolver {
        problems,
        warnings,
        digests,
        read,
        disk,
        ..
    } = cx;
    if problems.is_empty() {
        return Ok(Settings {
            warnings,
            written: Written::new(source, digests, read, &settings.config_path),
            ..settings
        });
    }
    Err(ConfigError {
        file: source.as_ref().map(|s| s.file.clone()),
        problems,
        next: disk
            .map_or(
                "mend what is named above and start again; nothing was changed",
                DiskFault::next,
            )
            .to_owned(),
        files: source
            .iter()
            .flat_map(|s| s.included().map(|name| s.beside(name)))
            .chain(read)
            .collect(),
        disk,
    })
}

/// Gathers problems and warnings while options become settings.
pub(crate) struct Resolver<'a> {
    request: &'a LoadRequest<'a>,
    source: Option<&'a Source>,
    problems: Vec<Problem>,
    warnings: Vec<String>,
    /// Digest of each resolved secret by the path of its key.
    digests: BTreeMap<String, [u8; 32]>,
    /// Files of secrets.
    read: Vec<PathBuf>,
    /// What the machine refused while they were read.
    disk: Option<DiskFault>,
}

impl Resolver<'_> {
    /// Notes that the value at `path` (or a flag) is refused.
    pub(crate) fn bad(&mut self, path: &str, message: impl Into<String>, help: impl Into<String>) {
        let place = self.source.and_then(|s| s.place(path));
        let (file, position) = place.map_or((None, None), |(file, at)| (file, Some(at)));
        self.problems.push(Problem {
            file,
            position,
            path: path.to_owned(),
            message: message.into(),
            help: help.into(),
        });
    }

    /// Notes something that the operator should know.
    pub(crate) fn warn(&mut self, path: &str, message: impl fmt::Display) {
        self.warnings.push(format!("{path}: {message}"));
    }

    fn settings(
        &mut self,
        o: &Options,
        config_path: PathBuf,
        hash: String,
        config_exists: bool,
    ) -> Settings {
        if let Some(version) = o.version.filter(|v| *v > LAYOUT_VERSION) {
            self.bad(
                "version",
                format!("this file is for a newer gateway (layout {version}; this one knows {LAYOUT_VERSION})"),
                "use a newer gateway, or bring an earlier file back with `gateway config rollback`",
            );
        }
        let flags = &self.request.overrides;
        let bind = self.bind(o.gateway.bind.as_deref());
        let gateway = GatewaySettings {
            port: flags.port.or(o.gateway.port).unwrap_or(DEFAULT_PORT),
            bind,
            allowed_origins: self.origins(&o.gateway.allowed_origins),
            allowed_hosts: self.hosts("gateway.allowedHosts", &o.gateway.allowed_hosts),
            trusted_proxies: self.networks("gateway.trustedProxies", &o.gateway.trusted_proxies),
            pair_local_silently: o.gateway.nodes.pairing.auto_approve_local.unwrap_or(true),
            limits: limits(&o.gateway.limits),
            tls: self.tls(&o.gateway.tls),
            remote_mode: matches!(o.gateway.mode, Some(GatewayModeOption::Remote)),
            tailscale: self.tailscale(&o.gateway.tailscale),
            tailscale_logins: self.tailscale_logins(o),
        };
        // Checked here too, so that a slip is told before a command needs it; its secrets are read by commands only.
        self.remote_place(&o.gateway.remote);
        let mut tenants = BTreeMap::new();
        let main = TenantSettings {
            slug: MAIN_TENANT.to_owned(),
            hosts: BTreeSet::new(),
            auth: self.auth(
                "gateway.auth",
                MAIN_TENANT,
                &o.gateway.auth,
                flags.token.clone(),
            ),
            agents: self.agents("", MAIN_TENANT, &o.agents, true),
            session: session(&o.session),
            channels: Vec::new(),
            boot: boot(&o.boot),
            cron: self.cron("", MAIN_TENANT, &o.cron),
            hooks: None,
            hook_components: Vec::new(),
            node_commands: self.node_commands("gateway.nodes.commands", &o.gateway.nodes.commands),
        };
        let main = self.with_hooks(main, "", &o.hooks);
        let main = self.with_channels(main, "", &o.channels);
        tenants.insert(MAIN_TENANT.to_owned(), main);
        for (slug, t) in &o.tenants {
            let path = join_key("tenants", slug);
            if slug == MAIN_TENANT {
                self.bad(
                    &path,
                    "the tenant `main` is what the top level of the file describes",
                    "move its keys there",
                );
                continue;
            }
            if !valid_slug(slug) {
                self.bad(
                    &path,
                    "not a tenant name",
                    "use 1 to 63 of a-z, 0-9 and -, beginning with a letter or digit",
                );
                continue;
            }
            let tenant = TenantSettings {
                slug: slug.clone(),
                hosts: self.hosts(&format!("{path}.hosts"), &t.hosts),
                auth: self.auth(&format!("{path}.auth"), slug, &t.auth, None),
                agents: self.agents(&path, slug, &t.agents, false),
                session: session(&t.session),
                channels: Vec::new(),
                boot: boot(&t.boot),
                cron: self.cron(&path, slug, &t.cron),
                hooks: None,
                hook_components: Vec::new(),
                node_commands: self
                    .node_commands(&format!("{path}.nodes.commands"), &t.nodes.commands),
            };
            let tenant = self.with_hooks(tenant, &path, &t.hooks);
            let tenant = self.with_channels(tenant, &path, &t.channels);
            tenants.insert(slug.clone(), tenant);
        }
        let plugins_dir = flags.plugins_dir.clone().or_else(|| {
            o.plugins
                .dir
                .as_ref()
                .map(|d| self.request.state_dir.join(d))
        });
        if o.plugins.dir.as_deref() == Some("") {
            self.bad("plugins.dir", "must not be empty", "leave the key out");
        }
        let mut plugin_pins = BTreeMap::new();
        for (id, pin) in &o.plugins.pins {
            match CertPin::parse(pin) {
                Some(pin) => {
                    plugin_pins.insert(id.clone(), pin.to_string());
                }
                None => self.bad(
                    &join_key("plugins.pins", id),
                    "not a SHA-256 digest (64 hex digits)",
                    "copy what `gateway plugin list` prints",
                ),
            }
        }
        Settings {
            state_dir: self.request.state_dir.clone(),
            config_path,
            config_exists,
            gateway,
            tenants,
            plugins_dir,
            logging: self.logging(&o.logging, flags),
            otlp: self.otlp(&o.telemetry.otlp),
            plugin_pins,
            plugins_pinned_only: o.plugins.pinned_only.unwrap_or(false),
            plugins_bundled: o.plugins.bundled.unwrap_or(true),
            discovery: self.discovery(o),
            hash,
            warnings: Vec::new(),
            written: Written::default(),
        }
    }

    fn otlp(&mut self, o: &OtlpOptions) -> Option<OtlpSettings> {
        let written = o.endpoint.as_deref()?;
        let token = o
            .token
            .as_ref()
            .and_then(|token| self.secret("telemetry.otlp.token", MAIN_TENANT, token));
        let Some(endpoint) = validate::base_url(written) else {
            self.bad(
                "telemetry.otlp.endpoint",
                "not an address of a collector",
                "write it like http://127.0.0.1:4318",
            );
            return None;
        };
        Some(OtlpSettings { endpoint, token })
    }

    fn logging(&mut self, o: &LoggingOptions, flags: &Overrides) -> LoggingSettings {
        let mut targets = BTreeMap::new();
        for (target, level) in &o.targets {
            // Lines of libraries below `warn` can hold headers, and headers hold secrets.
            if target.starts_with("gateway") {
                targets.insert(target.clone(), log_level(*level));
            } else {
                self.bad(
                    &join_key("logging.targets", target),
                    "not a part of the gateway",
                    "write a name that begins with \"gateway\", for example gateway_store or gateway::call",
                );
            }
        }
        let file = match o.file.path.as_deref() {
            None => None,
            Some("") => {
                self.bad(
                    "logging.file.path",
                    "must not be empty",
                    "leave the key out",
                );
                None
            }
            Some(path) => Some(LogFileSettings {
                path: self.request.state_dir.join(path),
                max_bytes: o.file.max_bytes.unwrap_or(16 * 1024 * 1024),
                keep: o.file.keep.unwrap_or(5),
            }),
        };
        LoggingSettings {
            level: flags
                .log_level
                .unwrap_or(o.level.map_or(LogLevel::Info, log_level)),
            format: flags.log_format.unwrap_or(match o.format {
                Some(LogFormatOption::Json) => LogFormat::Json,
                Some(LogFormatOption::Text) | None => LogFormat::Text,
            }),
            targets,
            file,
        }
    }

    fn discovery(&mut self, o: &Options) -> DiscoverySettings {
        let wide_area_domain = o.discovery.wide_area.domain.as_deref().and_then(|written| {
            let domain = validate::host_name(written)
                .filter(|name| name.contains('.') && name.parse::<IpAddr>().is_err());
            if domain.is_none() {
                self.bad(
                    "discovery.wideArea.domain",
                    "not the name of a domain",
                    "write it like gw.example.org",
                );
            }
            domain
        });
        let mode = match o.discovery.mdns.mode {
            Some(MdnsModeOption::Off) => MdnsMode::Off,
            Some(MdnsModeOption::Minimal) => MdnsMode::Minimal,
            Some(MdnsModeOption::Full) => MdnsMode::Full,
            // Who serves several parties decides by himself that the network is told.
            None if !o.tenants.is_empty() => MdnsMode::Off,
            None => MdnsMode::Minimal,
        };
        DiscoverySettings {
            mode,
            wide_area_domain,
        }
    }

    fn bind(&mut self, written: Option<&str>) -> Bind {
        let (path, word) = match (&self.request.overrides.bind, written) {
            (Some(flag), _) => ("--bind", flag.as_str()),
            (None, Some(word)) => ("gateway.bind", word),
            (None, None) => return Bind::Loopback,
        };
        match (word, word.parse::<IpAddr>()) {
            ("loopback", _) => Bind::Loopback,
            ("lan", _) => Bind::Lan,
            (_, Ok(ip)) => Bind::Addr(ip),
            _ => {
                self.bad(
                    path,
                    "not a place to listen",
                    "write loopback, lan or one IP address",
                );
                Bind::Loopback
            }
        }
    }

    fn tls(&mut self, o: &TlsOptions) -> TlsSettings {
        let enabled = self.request.overrides.tls || o.enabled.unwrap_or(false);
        let file = |path: &String| self.request.state_dir.join(path);
        for (key, path) in [("certPath", &o.cert_path), ("keyPath", &o.key_path)] {
            if path.as_deref() == Some("") {
                self.bad(
                    &format!("gateway.tls.{key}"),
                    "must not be empty",
                    "leave the key out",
                );
            }
        }
        let source = match (&o.cert_path, &o.key_path) {
            (Some(cert), Some(key)) => TlsSource::Files {
                cert: file(cert),
                key: file(key),
            },
            (None, None) => TlsSource::Own {
                generate: o.auto_generate.unwrap_or(true),
            },
            (one, _) => {
                let (has, lacks) = match one {
                    Some(_) => ("certPath", "keyPath"),
                    None => ("keyPath", "certPath"),
                };
                self.bad(
                    &format!("gateway.tls.{has}"),
                    format!("there is no {lacks} with it"),
                    format!("a certificate and its key come in pairs: add {lacks}, or leave both out and the gateway makes a pair"),
                );
                TlsSource::Own { generate: false }
            }
        };
        TlsSettings { enabled, source }
    }

    fn tailscale(&mut self, o: &TailscaleOptions) -> Option<TailscaleSettings> {
        let mode = match o.mode {
            None | Some(TailscaleModeOption::Off) => return None,
            Some(TailscaleModeOption::Serve) => TailscaleMode::Serve,
            Some(TailscaleModeOption::Funnel) => TailscaleMode::Funnel,
        };
        let program = o.program.as_ref().map(PathBuf::from);
        if program.as_ref().is_some_and(|path| !path.is_absolute()) {
            self.bad(
                "gateway.tailscale.program",
                "the program is not named by its full path",
                "write /full/path/of/tailscale, or leave the key out",
            );
        }
        let https_port = o.https_port.unwrap_or(443);
        // The ports that a funnel can have; the same for both, so that a change of the mode changes no address.
        if ![443, 8443, 10_000].contains(&https_port) {
            self.bad(
                "gateway.tailscale.httpsPort",
                "not a port that Tailscale serves to everybody",
                "write 443, 8443 or 10000",
            );
        }
        Some(TailscaleSettings {
            mode,
            reset_on_exit: o.reset_on_exit.unwrap_or(false),
            program,
            https_port,
        })
    }

    fn tailscale_logins(&mut self, o: &Options) -> TailscaleLogins {
        for (slug, tenant) in &o.tenants {
            if tenant.auth.allow_tailscale.is_some() {
                self.bad(
                    &format!("{}.auth.allowTailscale", join_key("tenants", slug)),
                    "this is set once for the gateway",
                    "write gateway.auth.allowTailscale, and the tenant's logins into gateway.tailscale.logins",
                );
            }
        }
        let mut logins = BTreeMap::new();
        for (login, slug) in &o.gateway.tailscale.logins {
            let path = join_key("gateway.tailscale.logins", login);
            if login.is_empty()
                || login.len() > 320
                || login.chars().any(|c| c.is_control() || c == ' ')
            {
                self.bad(
                    &path,
                    "not a login",
                    "write it as `tailscale whois` prints it",
                );
            } else if slug != MAIN_TENANT && !o.tenants.contains_key(slug) {
                self.bad(
                    &path,
                    "there is no such tenant",
                    "name main or one of `tenants`",
                );
            } else {
                logins.insert(login.clone(), slug.clone());
            }
        }
        if o.gateway.auth.allow_tailscale != Some(true) {
            return TailscaleLogins::Nobody;
        }
        if !logins.is_empty() {
            return TailscaleLogins::Listed(logins);
        }
        if o.tenants.is_empty() {
            return TailscaleLogins::Everybody;
        }
        self.warn(
            "gateway.auth.allowTailscale",
            "with further tenants only listed logins are let in, and gateway.tailscale.logins is empty",
        );
        TailscaleLogins::Nobody
    }

    /// What of `gateway.remote` is no secret: address and pins.
    fn remote_place(&mut self, o: &RemoteOptions) -> (Option<String>, Vec<CertPin>) {
        let url = o.url.clone().filter(|url| {
            let good = validate::gateway_url(url);
            if !good {
                self.bad(
                    "gateway.remote.url",
                    "not the address of a gateway",
                    "write wss://host:port, without a user name or a query",
                );
            }
            good
        });
        let pins = match o.tls_fingerprint.as_deref().map(CertPin::parse_list) {
            None => Vec::new(),
            Some(Ok(pins)) => pins,
            Some(Err(why)) => {
                self.bad(
                    "gateway.remote.tlsFingerprint",
                    why.to_string(),
                    "copy what `gateway tls show` prints on the machine of the gateway",
                );
                Vec::new()
            }
        };
        (url, pins)
    }

    fn remote(&mut self, o: &RemoteOptions, wants: ClientWants) -> Option<RemoteSettings> {
        let (url, pins) = self.remote_place(o);
        if o.url.is_none() {
            self.bad(
                "gateway.remote.url",
                "mode is remote, but there is no address",
                "write url: \"wss://host:port\"",
            );
        }
        let mut secret = |key: &str, written: &Option<SecretRef>| {
            if wants == ClientWants::Place {
                return None;
            }
            let path = format!("gateway.remote.{key}");
            self.secret(&path, MAIN_TENANT, written.as_ref()?)
        };
        Some(RemoteSettings {
            token: secret("token", &o.token),
            password: secret("password", &o.password),
            url: url?,
            pins,
        })
    }

    fn origins(&mut self, written: &[String]) -> BTreeSet<String> {
        let mut origins = BTreeSet::new();
        for (i, origin) in written.iter().enumerate() {
            match validate::origin(origin) {
                Some(origin) => {
                    origins.insert(origin);
                }
                None => self.bad(
                    &format!("gateway.allowedOrigins[{i}]"),
                    "not a browser origin",
                    "write https://host or https://host:port, without a path; * is not possible",
                ),
            }
        }
        origins
    }

    fn networks(&mut self, path: &str, written: &[String]) -> Vec<Network> {
        let mut networks = Vec::new();
        for (i, text) in written.iter().enumerate() {
            match Network::parse(text) {
                Some(network) => networks.push(network),
                None => self.bad(
                    &format!("{path}[{i}]"),
                    "neither an address nor a network",
                    "write 127.0.0.1, ::1 or a network whose address ends with its prefix, like 10.0.0.0/8",
                ),
            }
        }
        networks
    }

    fn node_commands(&mut self, path: &str, o: &NodeCommandsOptions) -> NodeCommandSettings {
        let mut read = |key: &str, names: &[String]| -> BTreeSet<String> {
            for (i, name) in names.iter().enumerate() {
                let fits = !name.is_empty()
                    && name.len() <= 128
                    && name
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
                if !fits {
                    self.bad(
                        &format!("{path}.{key}[{i}]"),
                        "not the name of a command",
                        "use a whole name as `gateway nodes describe` shows it, such as camera.snap",
                    );
                }
            }
            names.iter().cloned().collect()
        };
        NodeCommandSettings {
            allow: read("allow", &o.allow),
            deny: read("deny", &o.deny),
        }
    }

    fn hosts(&mut self, path: &str, written: &[String]) -> BTreeSet<String> {
        let mut hosts = BTreeSet::new();
        for (i, host) in written.iter().enumerate() {
            match validate::host_name(host) {
                Some(host) => {
                    hosts.insert(host);
                }
                None => self.bad(
                    &format!("{path}[{i}]"),
                    "not a host name",
                    "write the bare name, without scheme, port or path; * is not possible",
                ),
            }
        }
        hosts
    }

    fn auth(
        &mut self,
        path: &str,
        slug: &str,
        o: &AuthOptions,
        flag: Option<Secret>,
    ) -> AuthSettings {
        let mut mode = match o.mode {
            Some(AuthModeOption::None) => AuthMode::None,
            Some(AuthModeOption::Password) => AuthMode::Password,
            Some(AuthModeOption::TrustedProxy) => AuthMode::TrustedProxy,
            Some(AuthModeOption::Token) | None => AuthMode::Token,
        };
        let flagged = flag.is_some();
        let token = match (flag, &o.token) {
            (Some(secret), _) => {
                mode = AuthMode::Token;
                self.strong("--token", secret)
            }
            (None, Some(written)) => self.secret(&format!("{path}.token"), slug, written),
            (None, None) if mode == AuthMode::Token => {
                let path = format!("{path}.token");
                let next = if slug == MAIN_TENANT {
                    "run `gateway serve` once, it makes the token".to_owned()
                } else {
                    format!("run `gateway secret set {TOKEN_NAME} --tenant {slug}`")
                };
                let secret = self.stored(&path, slug, TOKEN_NAME, next);
                self.noted(&path, secret)
            }
            (None, None) => None,
        };
        let password = match &o.password {
            Some(written) if !(flagged && mode == AuthMode::Token) => {
                self.secret(&format!("{path}.password"), slug, written)
            }
            Some(_) => None,
            None => {
                if mode == AuthMode::Password {
                    self.bad(
                        &format!("{path}.password"),
                        "mode is password, but there is none",
                        "add password: {store: \"gateway-password\"} and run `gateway secret set gateway-password`",
                    );
                }
                None
            }
        };
        let proxy = (mode == AuthMode::TrustedProxy)
            .then(|| self.trusted_proxy(&format!("{path}.trustedProxy"), slug, o))
            .flatten();
        AuthSettings {
            mode,
            token,
            password,
            proxy,
        }
    }

    fn trusted_proxy(
        &mut self,
        path: &str,
        slug: &str,
        o: &AuthOptions,
    ) -> Option<TrustedProxySettings> {
        let written = o.trusted_proxy.clone().unwrap_or_default();
        let header = |cx: &mut Self, path: &str, name: &str| {
            let name = name.trim().to_ascii_lowercase();
            // What a client sends anyway says nothing about it.
            let taken = [
                "authorization",
                "cookie",
                "host",
                "origin",
                PROXY_SECRET_HEADER,
            ];
            let good = (1..=MAX_HEADER_NAME_BYTES).contains(&name.len())
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !taken.contains(&&*name);
            if !good {
                cx.bad(
                    path,
                    "not a header that a proxy says something in",
                    "write a name such as x-forwarded-user",
                );
            }
            good.then_some(name)
        };
        let Some(user) = &written.user_header else {
            self.bad(
                &format!("{path}.userHeader"),
                "mode is trusted-proxy, but no header names the user",
                "write the header that the proxy sets, such as userHeader: \"x-forwarded-user\"",
            );
            return None;
        };
        let user_header = header(self, &format!("{path}.userHeader"), user)?;
        let mut required_headers = BTreeSet::new();
        for (i, name) in written.required_headers.iter().enumerate() {
            required_headers.extend(header(self, &format!("{path}.requiredHeaders[{i}]"), name));
        }
        let allow_users = written.allow_users.map(|users| {
            users
                .into_iter()
                .map(|user| user.trim().to_owned())
                .collect::<BTreeSet<_>>()
        });
        if allow_users
            .as_ref()
            .is_some_and(|users| users.is_empty() || users.contains(""))
        {
            self.bad(
                &format!("{path}.allowUsers"),
                "an empty list or name lets nobody in",
                "name the users as the proxy does, or leave the list out",
            );
        }
        let secret = written
            .secret
            .as_ref()
            .and_then(|secret| self.secret(&format!("{path}.secret"), slug, secret));
        Some(TrustedProxySettings {
            user_header,
            required_headers,
            allow_users,
            allow_loopback: written.allow_loopback.unwrap_or(false),
            secret,
        })
    }

    fn agents(
        &mut self,
        path: &str,
        slug: &str,
        o: &AgentsOptions,
        flagged: bool,
    ) -> AgentsSettings {
        let path = join_key(path, "agents");
        let default = match (&o.default, o.entries.len()) {
            (Some(id), _) => id.clone(),
            (None, 1) => o.entries.keys().next().cloned().unwrap_or_default(),
            (None, _) => "main".to_owned(),
        };
        let mut written: BTreeMap<&str, AgentOptions> = o
            .entries
            .iter()
            .map(|(id, a)| (id.as_str(), a.clone()))
            .collect();
        if written.is_empty() {
            written.insert("main", AgentOptions::default());
        }
        if !written.contains_key(default.as_str()) {
            let ids: Vec<&str> = written.keys().copied().collect();
            self.bad(
                &format!("{path}.default"),
                "the default agent is not among the entries",
                format!(
                    "name one of {} or add agents.entries.{default}",
                    ids.join(", ")
                ),
            );
        }
        let flags = &self.request.overrides;
        let mut entries = BTreeMap::new();
        for (id, o) in &written {
            let path = join_key(&format!("{path}.entries"), id);
            if AgentId::parse(id).map(AgentId::into_string).as_deref() != Ok(*id) {
                self.bad(
                    &path,
                    "not an agent name",
                    "use 1 to 64 of a-z, 0-9, - and _, beginning with a letter or digit",
                );
                continue;
            }
            let here = flagged && **id == *default;
            let upstream = flags.upstream.as_deref().filter(|_| here);
            let model = flags.model.as_deref().filter(|_| here);
            let key_env = flags.api_key_env.as_deref().filter(|_| here);
            let openai = upstream.is_some() || o.backend == Some(BackendOption::OpenAi);
            let backend = if openai {
                AgentBackend::OpenAi(self.openai(&path, slug, o, upstream, model, key_env))
            } else {
                self.echo_has_no_upstream(&path, o);
                if model.is_some() || key_env.is_some() {
                    let flag = if model.is_some() {
                        "--model"
                    } else {
                        "--api-key-env"
                    };
                    self.bad(
                        flag,
                        "there is no upstream that it could apply to",
                        "add --upstream URL",
                    );
                }
                AgentBackend::Echo
            };
            let heartbeat = self.heartbeat(&path, &o.heartbeat, &backend);
            entries.insert(
                (*id).to_owned(),
                AgentSettings {
                    id: (*id).to_owned(),
                    heartbeat,
                    backend,
                    system_prompt: o.system_prompt.clone().filter(|s| !s.is_empty()),
                    tools: o.tools.clone(),
                },
            );
        }
        AgentsSettings { default, entries }
    }

    /// An echo agent with a model or an address is a mistake (the backend was forgotten), not something to ignore.
    fn echo_has_no_upstream(&mut self, path: &str, o: &AgentOptions) {
        let stray = [
            ("model", o.model.is_some()),
            ("embeddingModel", o.embedding_model.is_some()),
            ("baseUrl", o.base_url.is_some()),
            ("apiKey", o.api_key.is_some()),
            ("firstByteTimeoutMs", o.first_byte_timeout_ms.is_some()),
            ("idleTimeoutMs", o.idle_timeout_ms.is_some()),
        ];
        for (key, set) in stray {
            if set {
                self.bad(
                    &join_key(path, key),
                    "the echo backend has no use for it",
                    "add backend: \"openai\"",
                );
            }
        }
    }

    fn openai(
        &mut self,
        path: &str,
        slug: &str,
        o: &AgentOptions,
        upstream: Option<&str>,
        model: Option<&str>,
        key_env: Option<&str>,
    ) -> OpenAiSettings {
        let (url_path, url) = match (upstream, &o.base_url) {
            (Some(url), _) => ("--upstream".to_owned(), Some(url)),
            (None, Some(url)) => (format!("{path}.baseUrl"), Some(url.as_str())),
            (None, None) => (path.to_owned(), None),
        };
        let base_url = match url.map(validate::base_url) {
            Some(Some(url)) => url,
            Some(None) => {
                self.bad(
                    &url_path,
                    "not the address of a server",
                    "write http(s)://host[:port]/v1, without user name, ? or #",
                );
                String::new()
            }
            None => {
                self.bad(
                    &url_path,
                    "an openai agent needs baseUrl",
                    "for example baseUrl: \"http://127.0.0.1:11434/v1\"",
                );
                String::new()
            }
        };
        let model = model.or(o.model.as_deref()).unwrap_or_default().trim();
        if model.is_empty() {
            let (path, help) = if upstream.is_some() {
                ("--upstream", "add --model NAME")
            } else {
                (path, "for example model: \"gpt-4o-mini\"")
            };
            self.bad(path, "an openai agent needs a model", help);
        }
        let api_key = match (key_env, &o.api_key) {
            (Some(name), _) => self.env_secret("--api-key-env", name),
            (None, Some(_)) if upstream.is_some() => {
                // The key belongs to the server that the file names; a server named by a flag must not get it.
                None
            }
            (None, Some(written)) => self.secret(&format!("{path}.apiKey"), slug, written),
            (None, None) => None,
        };
        OpenAiSettings {
            base_url,
            model: model.to_owned(),
            embedding_model: o
                .embedding_model
                .as_deref()
                .map(str::trim)
                .filter(|m| !m.is_empty())
                .map(str::to_owned),
            api_key,
            first_byte_timeout_ms: o.first_byte_timeout_ms.unwrap_or(DEFAULT_MODEL_TIMEOUT_MS),
            idle_timeout_ms: o.idle_timeout_ms.unwrap_or(DEFAULT_MODEL_TIMEOUT_MS),
        }
    }

    fn with_channels(
        &mut self,
        mut tenant: TenantSettings,
        path: &str,
        channels: &BTreeMap<String, ChannelOptions>,
    ) -> TenantSettings {
        let path = join_key(path, "channels");
        for (kind, channel) in channels {
            let path = join_key(&path, kind);
            if !self.channel_name(&path, kind) {
                continue;
            }
            for (account, o) in &channel.accounts {
                let path = join_key(&format!("{path}.accounts"), account);
                if self.channel_name(&path, account) {
                    let settings = self.account(&path, &tenant, kind, account, o);
                    tenant.channels.push(settings);
                }
            }
        }
        tenant
    }

    fn channel_name(&mut self, path: &str, name: &str) -> bool {
        let good = ChannelName::parse(name)
            .map(ChannelName::into_string)
            .as_deref()
            == Ok(name);
        if !good {
            self.bad(
                path,
                "not a channel or account name",
                "use 1 to 64 of a-z, 0-9, -, _ and ., beginning with a letter or digit",
            );
        }
        good
    }

    fn account(
        &mut self,
        path: &str,
        tenant: &TenantSettings,
        kind: &str,
        account: &str,
        o: &AccountOptions,
    ) -> AccountSettings {
        let enabled = o.enabled.unwrap_or(true);
        let agent = o
            .agent
            .clone()
            .unwrap_or_else(|| tenant.agents.default.clone());
        if o.agent.is_some() && !tenant.agents.entries.contains_key(&agent) {
            let ids: Vec<&str> = tenant.agents.entries.keys().map(String::as_str).collect();
            self.bad(
                &format!("{path}.agent"),
                "this tenant has no such agent",
                format!("its agents: {}", ids.join(", ")),
            );
        }
        let mut secrets = BTreeMap::new();
        for (name, written) in &o.secrets {
            let path = join_key(&format!("{path}.secrets"), name);
            // A disabled account may wait for its secret.
            if enabled && let Some(secret) = self.secret(&path, &tenant.slug, written) {
                secrets.insert(name.clone(), secret);
            }
        }
        for (i, pattern) in o.http.allow.iter().enumerate() {
            if !validate::url_pattern(pattern) {
                self.bad(
                    &format!("{path}.http.allow[{i}]"),
                    "not a URL pattern",
                    "write https://host[:port]/path, with * only as the last character",
                );
            }
        }
        let group_policy = match o.group_policy {
            Some(GroupPolicyOption::Allowlist) => GroupPolicy::Allowlist,
            Some(GroupPolicyOption::Open) => GroupPolicy::Open,
            Some(GroupPolicyOption::Disabled) | None => GroupPolicy::Disabled,
        };
        let groups = self.ids(
            &format!("{path}.groups"),
            &o.groups,
            "groupPolicy: \"open\"",
        );
        if group_policy == GroupPolicy::Allowlist && groups.is_empty() {
            self.warn(
                path,
                "groupPolicy is allowlist and groups is empty: no group is answered",
            );
        }
        AccountSettings {
            kind: kind.to_owned(),
            account: account.to_owned(),
            enabled,
            agent,
            dm_policy: match o.dm_policy {
                Some(DmPolicyOption::Allowlist) => DmPolicy::Allowlist,
                Some(DmPolicyOption::Open) => DmPolicy::Open,
                Some(DmPolicyOption::Disabled) => DmPolicy::Disabled,
                Some(DmPolicyOption::Pairing) | None => DmPolicy::Pairing,
            },
            group_policy,
            allow_from: self.ids(
                &format!("{path}.allowFrom"),
                &o.allow_from,
                "dmPolicy: \"open\"",
            ),
            groups,
            require_mention: o.require_mention.unwrap_or(true),
            secrets,
            config: Value::Object(o.config.clone().into_iter().collect()),
            http: AccountHttp {
                allow: o.http.allow.clone(),
                allow_private: o.http.allow_private.unwrap_or(false),
            },
        }
    }

    /// Ids of senders or groups. A star is not one: opening up is said by the policy.
    fn ids(&mut self, path: &str, written: &[String], open: &str) -> BTreeSet<String> {
        let mut ids = BTreeSet::new();
        for (i, id) in written.iter().enumerate() {
            if id == "*" {
                self.bad(
                    &format!("{path}[{i}]"),
                    "* is not an id",
                    format!("to let everyone in, write {open}"),
                );
            } else if id.trim().is_empty() || id.trim() != id || id.chars().any(char::is_control) {
                self.bad(
                    &format!("{path}[{i}]"),
                    "not an id",
                    "write it without blanks around it",
                );
            } else {
                ids.insert(id.clone());
            }
        }
        ids
    }

    // ---- secrets ----

    /// Remembers what a secret is, so that its change is seen.
    fn noted(&mut self, path: &str, secret: Option<Secret>) -> Option<Secret> {
        if let Some(secret) = &secret {
            self.digests.insert(path.to_owned(), secret.digest());
        }
        secret
    }

    pub(crate) fn secret(&mut self, path: &str, slug: &str, written: &SecretRef) -> Option<Secret> {
        let secret = self.referred(path, slug, written);
        self.noted(path, secret)
    }

    fn referred(&mut self, path: &str, slug: &str, written: &SecretRef) -> Option<Secret> {
        match written {
            SecretRef::Exec(r) => match exec::run(&r.exec, self.request.env) {
                Ok(secret) => self.strong(path, secret),
                Err((message, help)) => {
                    self.bad(path, message, help);
                    None
                }
            },
            SecretRef::Env(r) => self.env_secret(path, &r.env),
            SecretRef::File(r) => {
                let file = Path::new(&r.file);
                if file
                    .components()
                    .any(|c| matches!(c, std::path::Component::ParentDir))
                {
                    self.bad(
                        path,
                        "the file of a secret must not have .. in its path",
                        "write it relative to the state directory, or in full",
                    );
                    return None;
                }
                let file = self.request.state_dir.join(file);
                self.file_secret(path, &file, "create it with mode 0600".to_owned())
            }
            SecretRef::Store(r) => {
                let next = if slug == MAIN_TENANT {
                    format!("run `gateway secret set {}`", r.store)
                } else {
                    format!("run `gateway secret set {} --tenant {slug}`", r.store)
                };
                self.stored(path, slug, &r.store, next)
            }
            SecretRef::Text(text) => {
                let name = text.strip_prefix("${").and_then(|t| t.strip_suffix('}'));
                if let Some(name) = name {
                    return self.env_secret(path, name);
                }
                if text.contains("${") {
                    self.bad(
                        path,
                        "an environment variable must be the whole text",
                        "write \"${NAME}\" or {env: \"NAME\"}",
                    );
                    return None;
                }
                if text == crate::REDACTED {
                    self.bad(
                        path,
                        "this stands for a secret that is not shown; it is not one",
                        "write the secret, or where it is",
                    );
                    return None;
                }
                let secret = self.strong(path, Secret::new(text.clone()))?;
                self.warn(
                    path,
                    "this secret stands in the file in clear; `gateway secret set NAME` and {store: \"NAME\"} keep it apart",
                );
                Some(secret)
            }
        }
    }

    fn env_secret(&mut self, path: &str, name: &str) -> Option<Secret> {
        if !expand::is_name(name) {
            self.bad(
                path,
                "not the name of an environment variable",
                "use letters, digits and _",
            );
            return None;
        }
        match (self.request.env)(name) {
            Some(value) => self.strong(path, Secret::new(value)),
            None => {
                self.bad(
                    path,
                    format!("the environment variable {name} is not set"),
                    "set it for the gateway's process",
                );
                None
            }
        }
    }

    fn stored(&mut self, path: &str, slug: &str, name: &str, next: String) -> Option<Secret> {
        if !validate::secret_name(name) {
            self.bad(
                path,
                "not the name of a stored secret",
                "use 1 to 64 of letters, digits, -, _ and ., not beginning with a dot",
            );
            return None;
        }
        let file = secret_path(&self.request.state_dir, slug, name);
        self.file_secret(path, &file, next)
    }

    fn file_secret(&mut self, path: &str, file: &Path, next: String) -> Option<Secret> {
        self.read.push(file.to_owned());
        let bytes = match read_bounded(file, MAX_SECRET_BYTES) {
            Ok(bytes) => bytes,
            Err(fault) => {
                self.disk = self.disk.or(fault.of_the_machine());
                self.bad(path, format!("{}: {fault}", file.display()), next);
                return None;
            }
        };
        if loose_mode(file) {
            self.warn(
                path,
                format_args!(
                    "{} can be read by other users; run chmod 600 on it",
                    file.display()
                ),
            );
        }
        let Ok(mut text) = String::from_utf8(bytes) else {
            self.bad(path, format!("{}: not UTF-8 text", file.display()), next);
            return None;
        };
        let kept = text.trim_end_matches(['\n', '\r']).len();
        text.truncate(kept);
        self.strong(path, Secret::new(text))
    }

    /// Refuses blanks and placeholders, warns about short ones.
    fn strong(&mut self, path: &str, secret: Secret) -> Option<Secret> {
        match strength::judge(secret.expose()) {
            strength::Verdict::Refused(why) => {
                self.bad(
                    path,
                    why,
                    "set a real secret, at least 24 random characters",
                );
                None
            }
            strength::Verdict::Short => {
                self.warn(
                    path,
                    format_args!(
                        "this secret is shorter than {} characters",
                        strength::GOOD_CHARS
                    ),
                );
                Some(secret)
            }
            strength::Verdict::Good => Some(secret),
        }
    }
}

/// `<state>/secrets/<tenant>/<name>`
pub(crate) fn secret_path(state_dir: &Path, slug: &str, name: &str) -> PathBuf {
    state_dir.join("secrets").join(slug).join(name)
}

/// `[a-z0-9]` then up to 62 of `[a-z0-9-]`.
/// Whether a text can be the name of a tenant.
pub fn valid_slug(slug: &str) -> bool {
    slug.len() <= 63
        && slug.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && slug
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

fn log_level(level: LogLevelOption) -> LogLevel {
    match level {
        LogLevelOption::Error => LogLevel::Error,
        LogLevelOption::Warn => LogLevel::Warn,
        LogLevelOption::Info => LogLevel::Info,
        LogLevelOption::Debug => LogLevel::Debug,
        LogLevelOption::Trace => LogLevel::Trace,
    }
}

fn limits(o: &LimitsOptions) -> GatewayLimits {
    let d = GatewayLimits::default();
    GatewayLimits {
        max_connections: o.max_connections.unwrap_or(d.max_connections),
        memory_mb: o.memory_mb.or(d.memory_mb),
        preauth_per_ip: o.preauth_per_ip.unwrap_or(d.preauth_per_ip),
        preauth_total: o.preauth_total.unwrap_or(d.preauth_total),
        handshake_timeout_ms: o.handshake_timeout_ms.unwrap_or(d.handshake_timeout_ms),
        auth_failures: o.auth_failures.unwrap_or(d.auth_failures),
        auth_window_ms: o.auth_window_ms.unwrap_or(d.auth_window_ms),
        auth_lockout_ms: o.auth_lockout_ms.unwrap_or(d.auth_lockout_ms),
        drain_timeout_ms: o.drain_timeout_ms.unwrap_or(d.drain_timeout_ms),
        safe_mode_retry_ms: o.safe_mode_retry_ms.unwrap_or(d.safe_mode_retry_ms),
    }
}

fn session(o: &SessionOptions) -> SessionSettings {
    SessionSettings {
        dm_scope: match o.dm_scope {
            Some(DmScopeOption::Main) => DmScope::Main,
            Some(DmScopeOption::PerPeer) => DmScope::PerPeer,
            Some(DmScopeOption::PerAccountChannelPeer) => DmScope::PerAccountChannelPeer,
            Some(DmScopeOption::PerChannelPeer) | None => DmScope::PerChannelPeer,
        },
        queue_mode: match o.queue_mode {
            Some(QueueModeOption::Interrupt) => QueueMode::Interrupt,
            Some(QueueModeOption::Followup) | None => QueueMode::Followup,
        },
    }
}

fn boot(o: &BootOptions) -> Vec<BootScriptSettings> {
    let script = |(id, o): (&String, &crate::options::BootScriptOptions)| BootScriptSettings {
        id: id.clone(),
        enabled: o.enabled.unwrap_or(true),
        on_error: o.on_error.map(|written| match written {
            BootOnErrorOption::Continue => BootOnError::Continue,
            BootOnErrorOption::Degrade => BootOnError::Degrade,
            BootOnErrorOption::Abort => BootOnError::Abort,
        }),
        config: Value::Object(o.config.clone().into_iter().collect()),
    };
    o.scripts.iter().map(script).collect()
}

/// Why a file was not read.
pub(crate) enum ReadFault {
    Missing,
    TooBig(u64),
    NotAFile,
    Io(std::io::Error),
}

impl fmt::Display for ReadFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("there is no such file"),
            Self::TooBig(max) => write!(f, "larger than {max} bytes"),
            Self::NotAFile => f.write_str("not a regular file"),
            Self::Io(e) => write!(f, "cannot be read ({e})"),
        }
    }
}

impl ReadFault {
    /// What the operating system refused, where that says nothing about this file.
    pub(crate) fn of_the_machine(&self) -> Option<DiskFault> {
        match self {
            Self::Io(e) => Some(DiskFault::of(e)).filter(|fault| fault.is_of_the_machine()),
            _ => None,
        }
    }

    /// As the error of a whole file.
    pub(crate) fn told(&self, path: PathBuf) -> ConfigError {
        let disk = match self {
            Self::Io(e) => Some(DiskFault::of(e)),
            _ => None,
        };
        let next = disk
            .filter(|fault| fault.is_of_the_machine())
            .map_or("check the path and its permissions", DiskFault::next);
        ConfigError {
            disk,
            ..ConfigError::plain(Some(path), self.to_string(), next)
        }
    }
}

/// Reads a regular file of at most `max` bytes.
pub(crate) fn read_bounded(path: &Path, max: u64) -> Result<Vec<u8>, ReadFault> {
    let fault = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::NotFound => ReadFault::Missing,
        _ => ReadFault::Io(e),
    };
    // Looked at before it is opened: opening a FIFO would wait for a writer.
    if !std::fs::metadata(path).map_err(fault)?.is_file() {
        return Err(ReadFault::NotAFile);
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .map_err(fault)?
        .take(max + 1)
        .read_to_end(&mut bytes)
        .map_err(fault)?;
    if bytes.len() as u64 > max {
        return Err(ReadFault::TooBig(max));
    }
    Ok(bytes)
}

#[cfg(unix)]
fn loose_mode(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(file).is_ok_and(|m| m.permissions().mode() & 0o077 != 0)
}

#[cfg(not(unix))]
fn loose_mode(_: &Path) -> bool {
    false
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::new(), |mut out, b| {
        // Writing into a String does not fail.
        let _ = write!(out, "{b:02x}");
        out
    })
}
