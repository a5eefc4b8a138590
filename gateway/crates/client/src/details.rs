//! Which gateway a call goes to, and with which credential.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

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

/// What the configuration of a state directory says about its gateway.
#[derive(Debug, Clone)]
pub struct ConfiguredGateway {
    /// Address of this machine that it listens on.
    pub host: IpAddr,
    /// Its port.
    pub port: u16,
    /// The credential of the wanted tenant, if it is configured and readable.
    pub credential: Option<Credential>,
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
    /// Value of `GATEWAY_URL`
    pub env_url: Option<String>,
    /// Value of `GATEWAY_TOKEN`
    pub env_token: Option<String>,
    /// From `gateway.json5` of the state directory
    pub configured: Option<ConfiguredGateway>,
    /// Tenant to talk to (`/t/<slug>/`); `None` or `main` for the default one. Not applied to a given address.
    pub tenant: Option<String>,
    /// Allows `ws://` to other machines (tests and tunnels that the caller vouches for).
    pub allow_insecure: bool,
}

/// Where the address comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UrlSource {
    /// `--url`
    Flag,
    /// `GATEWAY_URL`
    Env,
    /// `gateway.json5`
    Config,
    /// Nothing said anything.
    Default,
}

impl fmt::Display for UrlSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flag => "--url",
            Self::Env => "env GATEWAY_URL",
            Self::Config => "gateway.json5",
            Self::Default => "default",
        })
    }
}

/// The gateway that a call goes to.
#[derive(Debug, Clone)]
pub struct GatewayConnectionDetails {
    /// `ws://host:port/…`
    pub url: String,
    /// Where the address comes from.
    pub url_source: UrlSource,
    /// The same in words, for people. Holds no credential.
    pub message: String,
    /// The credential that goes with this address. A given address (`--url`) never borrows a configured one.
    pub credential: Option<Credential>,
}

/// Decides where a call goes: `--url`, then `GATEWAY_URL`, then the state directory's own gateway, then
/// `127.0.0.1:18789`. Refuses plain `ws://` to another machine.
pub fn build_gateway_connection_details(
    sources: &ConnectionSources,
) -> Result<GatewayConnectionDetails, ClientError> {
    let own = |host: IpAddr, port: u16| {
        let path = match sources.tenant.as_deref() {
            None | Some("main") => String::new(),
            Some(slug) => format!("t/{slug}/"),
        };
        format!("ws://{}/{path}", SocketAddr::new(host, port))
    };
    let given = |url: &Option<String>| {
        url.as_deref()
            .map(str::trim)
            .filter(|u| !u.is_empty())
            .map(str::to_owned)
    };
    let env_credential = sources
        .env_token
        .clone()
        .filter(|t| !t.is_empty())
        .map(Credential::Token);
    let flag_credential = sources.credential.clone();
    let (url, url_source, credential, from) = if let Some(url) = given(&sources.url) {
        (url, UrlSource::Flag, flag_credential, None)
    } else if let Some(url) = given(&sources.env_url) {
        (
            url,
            UrlSource::Env,
            flag_credential.or(env_credential),
            None,
        )
    } else if let Some(configured) = &sources.configured {
        let credential = flag_credential
            .or(env_credential)
            .or_else(|| configured.credential.clone());
        (
            own(configured.host, configured.port),
            UrlSource::Config,
            credential,
            Some(configured.path.as_str()),
        )
    } else {
        (
            own(IpAddr::V4(Ipv4Addr::LOCALHOST), DEFAULT_PORT),
            UrlSource::Default,
            flag_credential.or(env_credential),
            None,
        )
    };
    let target = Target::parse(&url)?;
    // What the configuration names is an address of this machine: the bytes do not leave it.
    let stays_here = target.loopback || url_source == UrlSource::Config;
    if !stays_here && !sources.allow_insecure {
        return Err(ClientError::BadUrl {
            url: target.shown,
            why: "plain ws:// would send the credential over the network in clear".to_owned(),
            next: format!(
                "make a tunnel (ssh -N -L {0}:127.0.0.1:{0} HOST) and use ws://127.0.0.1:{0}",
                target.port
            ),
        });
    }
    let mut message = format!("Gateway: {}\nAddress from: {url_source}", target.shown);
    if let Some(from) = from {
        message.push_str(&format!(" ({from})"));
    }
    message.push_str(match credential {
        Some(Credential::Token(_)) => "\nCredential: token",
        Some(Credential::Password(_)) => "\nCredential: password",
        None => "\nCredential: none",
    });
    Ok(GatewayConnectionDetails {
        url: target.shown,
        url_source,
        message,
        credential,
    })
}

/// A parsed address.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) loopback: bool,
    /// The address as it is used and shown.
    pub(crate) shown: String,
}

impl Target {
    /// Parses `ws://host[:port][/path]`. `http://` is taken as `ws://`, because that is what `gateway serve` prints.
    pub(crate) fn parse(url: &str) -> Result<Self, ClientError> {
        let refuse = |why: &str| ClientError::BadUrl {
            // What stands before an @ may be a credential.
            url: match url.rfind('@') {
                Some(at) => format!("…{}", &url[at..]),
                None => url.to_owned(),
            },
            why: why.to_owned(),
            next: "write ws://127.0.0.1:PORT".to_owned(),
        };
        let uri: Uri = url.parse().map_err(|_| refuse("not an address"))?;
        match uri.scheme_str() {
            Some("ws" | "http") => {}
            Some("wss" | "https") => return Err(refuse("TLS is not in this version yet")),
            _ => return Err(refuse("not a ws:// address")),
        }
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
            shown: format!("ws://{host}:{port}{path}"),
        })
    }
}
