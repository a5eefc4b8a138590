//! Which host names and which browser origins the listener answers, decided before any routing.
//!
//! Loopback names count only on a socket that really is loopback, never because a Host line says so; the address of the
//! socket itself may be named too (a page opened by address cannot have been rebound). Every other name must be in the
//! configuration. An Origin is either the page's own on such a name, or listed.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use gateway_config::Network;

/// What the configuration says about names. All lower case; hosts without port.
#[derive(Debug, Clone, Default)]
pub struct Names {
    /// Host names that no tenant owns.
    pub hosts: BTreeSet<String>,
    /// Host name → slug of the tenant that owns it.
    pub tenants: BTreeMap<String, String>,
    /// Allowed browser origins.
    pub origins: BTreeSet<String>,
    /// Reverse proxies whose word about their clients counts.
    pub proxies: Vec<Network>,
    /// The headers, lower case, that count for who a user is, and whether one is for the gateway alone.
    pub identity: BTreeMap<String, bool>,
}

/// The socket that a request came in on.
#[derive(Debug, Clone, Copy)]
pub struct Socket {
    /// Our end.
    pub local: SocketAddr,
    /// The peer's end.
    pub peer: SocketAddr,
    /// TLS is spoken on it.
    pub tls: bool,
    /// The peer is the client of a reverse proxy, as this says.
    pub forwarded: bool,
}

impl Socket {
    /// Both ends are on this machine, and nobody asks for somebody else.
    #[must_use]
    pub fn loopback(&self) -> bool {
        let here = |end: &SocketAddr| end.ip().to_canonical().is_loopback();
        !self.forwarded && here(&self.local) && here(&self.peer)
    }
}

/// Why a request is refused before routing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// 400: the Host value is malformed.
    BadHost,
    /// 421: not a name of this gateway.
    UnknownHost,
    /// 403: a page of this origin may not talk to us.
    Origin,
    /// 403: forwarding headers from a peer that is not a configured proxy.
    Forwarded,
    /// 400: a configured proxy names its client in a way that cannot be read.
    BadForwarding,
}

/// An accepted Host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostName<'a> {
    /// The name, lower case, without port and brackets.
    pub name: String,
    /// It names the socket itself: a loopback name or the socket's own address.
    pub own: bool,
    /// The tenant that owns the name.
    pub tenant: Option<&'a str>,
}

/// Headers by which proxies tell whom they forward for. Without a configured proxy nobody may claim that.
pub const FORWARDING: [&str; 12] = [
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-port",
    "x-forwarded-server",
    "x-forwarded-user",
    "x-real-ip",
    "x-client-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "tailscale-user-login",
];

impl Names {
    /// What these settings say about names.
    pub(crate) fn of(settings: &gateway_config::Settings) -> Self {
        Self {
            hosts: settings.gateway.allowed_hosts.clone(),
            tenants: settings
                .tenants
                .values()
                .flat_map(|t| {
                    t.hosts
                        .iter()
                        .map(|h| (h.to_ascii_lowercase(), t.slug.clone()))
                })
                .collect(),
            origins: settings.gateway.allowed_origins.clone(),
            proxies: settings.gateway.trusted_proxies.clone(),
            identity: gateway_core::auth::headers_of(settings.tenants.values().map(|t| &t.auth)),
        }
    }

    /// Whether a trusted reverse proxy is at this address.
    #[must_use]
    pub fn is_proxy(&self, address: IpAddr) -> bool {
        self.proxies.iter().any(|network| network.contains(address))
    }

    /// Judges the value of the Host line.
    ///
    /// # Errors
    /// [`Refused::BadHost`] or [`Refused::UnknownHost`].
    pub fn host(&self, raw: &str, socket: &Socket) -> Result<HostName<'_>, Refused> {
        let (name, port) = split(raw).ok_or(Refused::BadHost)?;
        let name = name.to_ascii_lowercase();
        let literal = name.parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
        let local = socket.local.ip().to_canonical();
        let loopback_name = name == "localhost" || literal.is_some_and(|ip| ip.is_loopback());
        let own = if loopback_name {
            socket.loopback()
        } else {
            literal == Some(local)
        };
        if own {
            let standard = if socket.tls { 443 } else { 80 };
            return if port.unwrap_or(standard) == socket.local.port() {
                Ok(HostName {
                    name,
                    own,
                    tenant: None,
                })
            } else {
                Err(Refused::UnknownHost)
            };
        }
        // Configured names are usually reached through a front on the standard ports, which Host then leaves out or names.
        let port_ok = port.is_none_or(|p| p == socket.local.port() || p == 443 || p == 80);
        if !port_ok || loopback_name {
            return Err(Refused::UnknownHost);
        }
        if let Some(slug) = self.tenants.get(&name) {
            return Ok(HostName {
                tenant: Some(slug),
                name,
                own,
            });
        }
        if self.hosts.contains(&name) {
            Ok(HostName {
                name,
                own,
                tenant: None,
            })
        } else {
            Err(Refused::UnknownHost)
        }
    }

    /// Judges the value of an Origin header of a request for `host` (whose raw value was `raw_host`).
    ///
    /// # Errors
    /// [`Refused::Origin`].
    pub fn origin(
        &self,
        origin: &str,
        host: &HostName<'_>,
        raw_host: &str,
        socket: &Socket,
    ) -> Result<(), Refused> {
        let scheme = if socket.tls { "https://" } else { "http://" };
        if host.own
            && origin
                .strip_prefix(scheme)
                .is_some_and(|o| o == raw_host && !o.bytes().any(|b| b.is_ascii_uppercase()))
        {
            return Ok(());
        }
        if !self.origins.contains(origin) {
            return Err(Refused::Origin);
        }
        // A listed origin that belongs to one tenant opens no door to another.
        let owner = origin
            .split_once("://")
            .and_then(|(_, rest)| split(rest))
            .and_then(|(name, _)| self.tenants.get(name));
        match (owner, host.tenant) {
            (Some(owner), Some(target)) if owner != target => Err(Refused::Origin),
            _ => Ok(()),
        }
    }
}

/// Name and port of a Host value; `None` when it is malformed.
fn split(raw: &str) -> Option<(&str, Option<u16>)> {
    let (name, port) = if let Some(rest) = raw.strip_prefix('[') {
        let (v6, rest) = rest.split_once(']')?;
        v6.parse::<std::net::Ipv6Addr>().ok()?;
        (
            v6,
            if rest.is_empty() {
                None
            } else {
                Some(rest.strip_prefix(':')?)
            },
        )
    } else {
        match raw.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (raw, None),
        }
    };
    let port = match port {
        None => None,
        Some(p) if p.is_empty() || p.len() > 5 || !p.bytes().all(|b| b.is_ascii_digit()) => {
            return None;
        }
        Some(p) => Some(p.parse().ok()?),
    };
    let label_ok = |l: &str| {
        !l.is_empty()
            && l.len() <= 63
            && l.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let v6 = raw.starts_with('[');
    let name_ok = v6 || (name.len() <= 253 && name.split('.').all(label_ok));
    // Odd spellings of an address (one number, octal, hex) are names to us and match nothing.
    name_ok.then_some((name, port))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn names() -> Names {
        Names {
            hosts: ["gw.example".to_owned()].into(),
            tenants: [
                ("acme.example".to_owned(), "acme".to_owned()),
                ("beta.example".to_owned(), "beta".to_owned()),
            ]
            .into(),
            origins: [
                "https://gw.example",
                "https://acme.example",
                "https://beta.example",
                "http://tool.example:8080",
            ]
            .map(str::to_owned)
            .into(),
            proxies: Vec::new(),
            identity: BTreeMap::new(),
        }
    }

    fn socket(local: &str, peer: &str) -> Socket {
        Socket {
            local: local.parse().unwrap(),
            peer: peer.parse().unwrap(),
            tls: false,
            forwarded: false,
        }
    }

    /// Covers: B6.
    #[test]
    fn host_matrix() {
        let names = names();
        let here = socket("127.0.0.1:18789", "127.0.0.1:50000");
        let lan = socket("192.0.2.7:18789", "192.0.2.9:50000");
        let through = Socket {
            forwarded: true,
            ..here
        };
        let six = socket("[::1]:18789", "[::1]:50000");
        let bad = Err(Refused::BadHost);
        let unknown = Err(Refused::UnknownHost);
        let table: &[(&Socket, &str, Result<bool, Refused>)] = &[
            (&here, "127.0.0.1:18789", Ok(true)),
            (&here, "localhost:18789", Ok(true)),
            (&here, "LOCALHOST:18789", Ok(true)),
            (&here, "[::1]:18789", Ok(true)),
            (&six, "[::1]:18789", Ok(true)),
            (&here, "localhost", unknown),
            (&here, "localhost:80", unknown),
            (&here, "localhost:18790", unknown),
            (&here, "localhost.:18789", bad),
            (&here, "evil.example:18789", unknown),
            (&here, "localhost.evil.example:18789", unknown),
            (&here, "127.0.0.1.evil.example:18789", unknown),
            (&here, "2130706433:18789", unknown),
            (&here, "0x7f000001:18789", unknown),
            (&here, "127.1:18789", unknown),
            (&here, "0.0.0.0:18789", unknown),
            (&here, "192.0.2.7:18789", unknown),
            (&here, "", bad),
            (&here, ":18789", bad),
            (&here, "user@localhost:18789", bad),
            (&here, "localhost:18789x", bad),
            (&here, "localhost:", bad),
            (&here, "localhost:99999", bad),
            (&here, "localhost:018789", bad),
            (&here, "a..b", bad),
            (&here, "[::1", bad),
            (&here, "[::1]x", bad),
            (&here, "[localhost]:18789", bad),
            (&lan, "127.0.0.1:18789", unknown),
            (&lan, "localhost:18789", unknown),
            (&lan, "192.0.2.7:18789", Ok(true)),
            (&lan, "192.0.2.8:18789", unknown),
            (&here, "gw.example", Ok(false)),
            (&here, "GW.example:443", Ok(false)),
            (&here, "gw.example:18789", Ok(false)),
            (&here, "gw.example:1", unknown),
            (&lan, "acme.example", Ok(false)),
            (&through, "localhost:18789", unknown),
            (&through, "127.0.0.1:18789", unknown),
            (&through, "gw.example", Ok(false)),
        ];
        for (socket, raw, want) in table {
            assert_eq!(
                names.host(raw, socket).map(|h| h.own),
                *want,
                "{raw} on {}",
                socket.local
            );
        }
        assert_eq!(
            names.host("acme.example", &lan).unwrap().tenant,
            Some("acme")
        );
    }

    /// Covers: B3.
    #[test]
    fn origin_matrix() {
        let names = names();
        let here = socket("127.0.0.1:18789", "127.0.0.1:50000");
        let judge = |host: &str, origin: &str| {
            let h = names.host(host, &here).unwrap();
            names.origin(origin, &h, host, &here).is_ok()
        };
        let ok = [
            "http://localhost:18789",
            "https://gw.example",
            "http://tool.example:8080",
        ];
        for origin in ok {
            assert!(judge("localhost:18789", origin), "{origin}");
        }
        let refused = [
            "null",
            "",
            "file://",
            "http://localhost",
            "http://localhost:18790",
            "https://localhost:18789",
            "http://LOCALHOST:18789",
            "http://localhost.:18789",
            "http://localhost:18789/",
            "http://user@localhost:18789",
            "http://127.0.0.1:18789",
            "http://evil.example",
            "https://gw.example.",
            "https://GW.example",
            "https://gw.example:444",
            "http://gw.example",
            "https://xn--gw-jtd.example",
            "https://gw.ex\u{430}mple",
            "https://gw.example.evil.example",
            "chrome-extension://abc",
        ];
        for origin in refused {
            assert!(!judge("localhost:18789", origin), "{origin}");
        }
        // the Host line alone never makes an origin good on a configured name
        assert!(!judge("gw.example", "http://gw.example"));
        assert!(judge("acme.example", "https://acme.example"));
        assert!(!judge("acme.example", "https://beta.example"));
    }
}
