//! Which gateway a call goes to, and with which credential.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use gateway_egress::CertPin;
use tokio_tungstenite::tungstenite::http::Uri;

use crate::error::ClientError;

/// The port of a gateway that nothing says otherwise of.
pub const DEFAULT_PORT: u16 = 18_789;

/// A credential. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// A token.
    Token(String),
    /// A password.
    Password(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Token(_) => "Token(…)",
            Self::Password(_) => "Password(…)",
        })
    }
}

/// The gateway of this machine, as its state directory tells.
#[derive(Debug, Clone)]
pub struct ConfiguredGateway {
    /// Address of this machine that it listens on.
    pub host: IpAddr,
    /// Its port.
    pub port: u16,
    /// Whether it runs now (told by its run file), or is only configured.
    pub running: bool,
    /// Whether it speaks TLS.
    pub tls: bool,
    /// The certificates that it shows: now, and next.
    pub pins: Vec<CertPin>,
    /// The credential of the wanted tenant, if it is configured and readable.
    pub credential: Option<Credential>,
    /// Where this was read, for messages.
    pub path: String,
}

/// A gateway elsewhere, as `gateway.remote` of the configuration names it.
#[derive(Debug, Clone)]
pub struct RemoteGateway {
    /// Its address.
    pub url: String,
    /// Its credential.
    pub credential: Option<Credential>,
    /// The only certificates that it may show. Empty: one that public authorities vouch for.
    pub pins: Vec<CertPin>,
    /// Where this was read, for messages.
    pub path: String,
}

/// Everything that may say where the gateway is. Strings are as the user wrote them.
#[derive(Debug, Clone, Default)]
pub struct ConnectionSources {
    /// `--url`
    pub url: Option<String>,
    /// `--token` or `--password`
    pub credential: Option<Credential>,
    /// `--tls-fingerprint`; for whatever address is taken.
    pub pins: Vec<CertPin>,
    /// Value of `GATEWAY_URL`
    pub env_url: Option<String>,
    /// Value of `GATEWAY_TOKEN`
    pub env_token: Option<String>,
    /// Value of `GATEWAY_TLS_FINGERPRINT`; not for `--url`.
    pub env_pins: Vec<CertPin>,
    /// `gateway.remote`, if `gateway.mode` is `remote`.
    pub remote: Option<RemoteGateway>,
    /// The gateway of the state directory.
    pub configured: Option<ConfiguredGateway>,
    /// Tenant to talk to (`/t/<slug>/`); `None` or `main` for the default one. Not applied to a given address.
    pub tenant: Option<String>,
    /// Where this device's identity and its tokens are kept; `None`: it has none.
    pub device_dir: Option<std::path::PathBuf>,
    /// The certificates of gateways that this device was paired with by a setup code, by address.
    pub paired_pins: BTreeMap<String, Vec<CertPin>>,
    /// Allows `ws://` to other machines (tests and tunnels that the caller vouches for).
    pub allow_insecure: bool,
}

/// Where the address comes from, in the order in which they are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UrlSource {
    /// `--url`
    Flag,
    /// `GATEWAY_URL`
    Env,
    /// `gateway.remote` of `gateway.json5`, in mode `remote`.
    Remote,
    /// The run file of the state directory: a gateway runs there.
    Running,
    /// `gateway.port` and `gateway.bind` of `gateway.json5`.
    Config,
    /// Nothing said anything.
    Default,
}

impl UrlSource {
    /// All, in the order in which they are asked.
    pub const ORDER: [Self; 6] = [
        Self::Flag,
        Self::Env,
        Self::Remote,
        Self::Running,
        Self::Config,
        Self::Default,
    ];

    /// What it means that this one was passed over.
    fn absent(self) -> &'static str {
        match self {
            Self::Flag => "not given",
            Self::Env => "not set",
            Self::Remote => "gateway.mode is not \"remote\"",
            Self::Running => "no gateway runs on the state directory",
            Self::Config => "there is no configuration",
            Self::Default => "not needed",
        }
    }
}

impl fmt::Display for UrlSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flag => "--url",
            Self::Env => "env GATEWAY_URL",
            Self::Remote => "gateway.remote",
            Self::Running => "running gateway",
            Self::Config => "gateway.json5",
            Self::Default => "default",
        })
    }
}

/// One place that was asked for the address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceStep {
    /// The place.
    pub source: UrlSource,
    /// Whether it won.
    pub used: bool,
    /// Why it won or was passed over.
    pub why: String,
}

/// The gateway that a call goes to.
#[derive(Debug, Clone)]
pub struct GatewayConnectionDetails {
    /// `ws://host:port/…` or `wss://host:port/…`
    pub url: String,
    /// Where the address comes from.
    pub url_source: UrlSource,
    /// Every place that may name an address, in order, and why it won or did not.
    pub steps: Vec<SourceStep>,
    /// The same in words, for people. Holds no credential.
    pub message: String,
    /// The credential that goes with this address. A given address (`--url`) never borrows a configured one.
    pub credential: Option<Credential>,
    /// Where the credential comes from.
    pub credential_source: Option<&'static str>,
    /// The only certificates that the gateway may show. Empty: one that public authorities vouch for under the host's name.
    pub pins: Vec<CertPin>,
    /// Where the pins come from.
    pub pin_source: Option<&'static str>,
}

/// What [`GatewayConnectionDetails::pin_source`] says of the certificates that pairing told.
pub(crate) const PAIRED_PINS: &str = "the setup code that paired this device";

/// What a source gives.
struct Found<'a> {
    url: String,
    source: UrlSource,
    why: String,
    credential: &'a Option<Credential>,
    pins: &'a [CertPin],
    /// The address is one of this machine: what is sent does not leave it.
    stays_here: bool,
    /// A given address does not borrow what the environment holds for another one.
    borrows_env: bool,
}

/// Decides where a call goes: `--url`, then `GATEWAY_URL`, then `gateway.remote` (in mode `remote`), then the gateway that runs
/// on the state directory, then the address that its configuration names, then `127.0.0.1:18789`. Refuses plain `ws://` to
/// another machine, and a pin without TLS.
pub fn build_gateway_connection_details(
    sources: &ConnectionSources,
) -> Result<GatewayConnectionDetails, ClientError> {
    let found = find(sources);
    let target = Target::parse(&found.url)?;
    let env_credential = sources
        .env_token
        .clone()
        .filter(|t| !t.is_empty() && found.borrows_env)
        .map(Credential::Token);
    let (credential, credential_source) = first_of([
        (sources.credential.clone(), "--token"),
        (env_credential, "env GATEWAY_TOKEN"),
        (found.credential.clone(), "configuration"),
    ]);
    let some = |pins: &[CertPin]| (!pins.is_empty()).then(|| pins.to_vec());
    let env_pins = some(&sources.env_pins).filter(|_| found.borrows_env);
    let (pins, pin_source) = first_of([
        (some(&sources.pins), "--tls-fingerprint"),
        (some(&target.pins), "the address"),
        (env_pins, "env GATEWAY_TLS_FINGERPRINT"),
        (
            some(found.pins),
            match found.source {
                UrlSource::Running => "the running gateway of this machine",
                _ => "gateway.remote.tlsFingerprint",
            },
        ),
        (
            sources.paired_pins.get(&target.shown).and_then(|p| some(p)),
            PAIRED_PINS,
        ),
    ]);
    let pins = pins.unwrap_or_default();
    if let Some(from) = pin_source.filter(|_| !target.tls) {
        return Err(ClientError::BadUrl {
            url: target.shown,
            why: format!("a certificate is pinned (by {from}), but ws:// shows none"),
            next: "write wss:// in the address, or leave the fingerprint out".to_owned(),
        });
    }
    if !target.tls && !target.loopback && !found.stays_here && !sources.allow_insecure {
        return Err(ClientError::BadUrl {
            url: target.shown,
            why: "plain ws:// would send the credential over the network in clear".to_owned(),
            next: format!(
                "use wss:// (TLS: `gateway serve --tls` there), or make a tunnel (ssh -N -L {0}:127.0.0.1:{0} HOST) and use ws://127.0.0.1:{0}",
                target.port
            ),
        });
    }
    let steps = steps(sources, &found);
    let mut message = format!(
        "Gateway: {}\nAddress from: {} ({})",
        target.shown, found.source, found.why
    );
    message.push_str(match (&credential, credential_source) {
        (Some(Credential::Token(_)), _) => "\nCredential: token",
        (Some(Credential::Password(_)), _) => "\nCredential: password",
        (None, _) => "\nCredential: none",
    });
    if let Some(from) = credential_source {
        message.push_str(&format!(" from {from}"));
    }
    if target.tls {
        message.push_str(&match pin_source {
            Some(from) => format!("\nCertificate: pinned by {from}"),
            None => "\nCertificate: checked by public authorities and the host's name".to_owned(),
        });
    }
    Ok(GatewayConnectionDetails {
        url: target.shown,
        url_source: found.source,
        steps,
        message,
        credential,
        credential_source,
        pins,
        pin_source,
    })
}

impl GatewayConnectionDetails {
    /// Whether the address is one of this machine.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        Target::parse(&self.url).is_ok_and(|target| target.loopback)
    }
}

fn first_of<T, const N: usize>(
    choices: [(Option<T>, &'static str); N],
) -> (Option<T>, Option<&'static str>) {
    for (value, name) in choices {
        if value.is_some() {
            return (value, Some(name));
        }
    }
    (None, None)
}

fn find(sources: &ConnectionSources) -> Found<'_> {
    let given = |url: &Option<String>| {
        url.as_deref()
            .map(str::trim)
            .filter(|u| !u.is_empty())
            .map(str::to_owned)
    };
    let elsewhere = |url: String, source, why: &str| Found {
        url,
        source,
        why: why.to_owned(),
        credential: &None,
        pins: &[],
        stays_here: false,
        borrows_env: source != UrlSource::Flag,
    };
    if let Some(url) = given(&sources.url) {
        return elsewhere(url, UrlSource::Flag, "given");
    }
    if let Some(url) = given(&sources.env_url) {
        return elsewhere(url, UrlSource::Env, "set");
    }
    if let Some(remote) = &sources.remote {
        return Found {
            credential: &remote.credential,
            pins: &remote.pins,
            ..elsewhere(remote.url.clone(), UrlSource::Remote, &remote.path)
        };
    }
    let own = |host: IpAddr, port: u16, tls: bool| {
        let path = match sources.tenant.as_deref() {
            None | Some("main") => String::new(),
            Some(slug) => format!("t/{slug}/"),
        };
        let scheme = if tls { "wss" } else { "ws" };
        format!("{scheme}://{}/{path}", SocketAddr::new(host, port))
    };
    match &sources.configured {
        Some(own_one) => Found {
            url: own(own_one.host, own_one.port, own_one.tls),
            source: if own_one.running {
                UrlSource::Running
            } else {
                UrlSource::Config
            },
            why: own_one.path.clone(),
            credential: &own_one.credential,
            pins: &own_one.pins,
            stays_here: true,
            borrows_env: true,
        },
        None => elsewhere(
            own(IpAddr::V4(Ipv4Addr::LOCALHOST), DEFAULT_PORT, false),
            UrlSource::Default,
            "nothing names another address",
        ),
    }
}

fn steps(sources: &ConnectionSources, found: &Found<'_>) -> Vec<SourceStep> {
    let rank = |source| UrlSource::ORDER.iter().position(|s| *s == source);
    UrlSource::ORDER
        .iter()
        .map(|source| {
            let used = *source == found.source;
            let after = rank(*source) > rank(found.source);
            // What stands behind the winner was not looked at.
            let env_too = *source == UrlSource::Env && sources.env_url.is_some();
            SourceStep {
                source: *source,
                used,
                why: if used {
                    found.why.clone()
                } else if after && env_too {
                    "set, but comes later".to_owned()
                } else if after {
                    format!("not asked: {} comes first", found.source)
                } else {
                    source.absent().to_owned()
                },
            }
        })
        .collect()
}

/// A parsed address.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) loopback: bool,
    pub(crate) tls: bool,
    /// Pins that the address itself carries (`#sha256:…`).
    pub(crate) pins: Vec<CertPin>,
    /// The address as it is used and shown.
    pub(crate) shown: String,
}

impl Target {
    /// Parses `ws(s)://host[:port][/path][#sha256:FINGERPRINT]`. `http(s)://` is taken as `ws(s)://`, because that is what
    /// `gateway serve` prints.
    pub(crate) fn parse(url: &str) -> Result<Self, ClientError> {
        let refuse = |why: &str| ClientError::BadUrl {
            // What stands before an @ may be a credential.
            url: match url.rfind('@') {
                Some(at) => format!("…{}", &url[at..]),
                None => url.to_owned(),
            },
            why: why.to_owned(),
            next: "write ws://127.0.0.1:PORT, or wss://HOST:PORT for a gateway elsewhere"
                .to_owned(),
        };
        let (url, pins) = match url.split_once('#') {
            None => (url, Vec::new()),
            Some((url, pin)) => {
                let pins = CertPin::parse_list(pin).map_err(|_| {
                    refuse("what stands behind # is not the fingerprint of a certificate")
                })?;
                (url, pins)
            }
        };
        let uri: Uri = url.parse().map_err(|_| refuse("not an address"))?;
        let tls = match uri.scheme_str() {
            Some("ws" | "http") => false,
            Some("wss" | "https") => true,
            _ => return Err(refuse("not a ws:// or wss:// address")),
        };
        let authority = uri.authority().ok_or_else(|| refuse("no host"))?;
        if authority.as_str().contains('@') {
            return Err(refuse(
                "a user name or password has no place in the address",
            ));
        }
        let host = uri.host().unwrap_or_default();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        if bare.is_empty() {
            return Err(refuse("no host"));
        }
        // Not `uri.port()`: it takes a port that is none for a port that is not there.
        let port = match authority.as_str().strip_prefix(host) {
            Some("") if tls => 443,
            Some("") => 80,
            Some(rest) => match rest.strip_prefix(':').map(str::parse::<u16>) {
                Some(Ok(port)) if port > 0 => port,
                _ => return Err(refuse("not a port")),
            },
            None => return Err(refuse("not an address")),
        };
        let loopback = match bare.parse::<IpAddr>() {
            Ok(ip) => ip.is_loopback(),
            Err(_) => bare.eq_ignore_ascii_case("localhost"),
        };
        let path = uri.path_and_query().map_or("/", |p| p.as_str());
        Ok(Self {
            host: bare.to_owned(),
            port,
            loopback,
            tls,
            pins,
            shown: format!("{}://{host}:{port}{path}", if tls { "wss" } else { "ws" }),
        })
    }
}
