//! Names that decide something: host names and origins, session keys, addresses of outgoing requests.

use gateway_egress::{
    AddressClass, AddressPolicy, Host, Method, Url, UrlRule, UrlTemplate, classify,
};
use gateway_protocol::limits::MAX_SESSION_KEY_BYTES;
use gateway_protocol::{AgentId, SessionKey};
use gateway_server::guard::{Names, Socket};

/// Session keys: what is accepted is canonical, and reading it again changes nothing.
pub fn session_key(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let agent = AgentId::main();
    for key in [SessionKey::parse(text), SessionKey::qualify(text, &agent)]
        .into_iter()
        .flatten()
    {
        let canonical = key.as_str();
        assert!(canonical.len() <= MAX_SESSION_KEY_BYTES + "agent:main:".len());
        assert!(!canonical.chars().any(char::is_control), "{canonical:?}");
        assert!(!canonical.bytes().any(|b| b.is_ascii_uppercase()));
        if canonical.len() <= MAX_SESSION_KEY_BYTES {
            assert_eq!(SessionKey::parse(canonical).as_ref(), Ok(&key));
            assert_eq!(SessionKey::qualify(canonical, &agent).as_ref(), Ok(&key));
        }
        if let Some(owner) = key.agent() {
            assert!(AgentId::parse(owner).is_ok());
            assert!(canonical.starts_with(&format!("agent:{owner}:")));
        }
        let (base, thread) = key.split_thread();
        assert!(canonical.starts_with(base) && thread.is_none_or(|t| canonical.ends_with(t)));
        let _ = key.kind();
    }
    // Two peers of a platform never share a key, whatever their names are.
    if let Some((a, b)) = text.split_once('\n')
        && let (Ok(one), Ok(other)) = (
            SessionKey::main(&agent).thread(a),
            SessionKey::main(&agent).thread(b),
        )
        && one == other
    {
        let plain = |t: &str| t.trim().to_lowercase();
        assert_eq!(plain(a), plain(b), "two threads share {}", one.as_str());
    }
}

/// Host and Origin: `socket-choice host \n origin`. Only our own address and configured names are ever let in.
pub fn names(bytes: &[u8]) {
    let Some((choice, rest)) = bytes.split_first() else {
        return;
    };
    let Ok(text) = std::str::from_utf8(rest) else {
        return;
    };
    let (host, origin) = text.split_once('\n').unwrap_or((text, ""));
    let names = Names {
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
        identity: Default::default(),
    };
    let (local, peer) = match choice & 3 {
        0 => ("127.0.0.1:18789", "127.0.0.1:50000"),
        1 => ("192.0.2.7:18789", "192.0.2.9:50000"),
        2 => ("[::1]:18789", "[::1]:50000"),
        _ => ("[2001:db8::7]:443", "[2001:db8::9]:50000"),
    };
    let (Ok(local), Ok(peer)) = (local.parse(), peer.parse()) else {
        return;
    };
    let socket = Socket {
        local,
        peer,
        tls: choice & 4 != 0,
        forwarded: choice & 8 != 0,
    };
    let Ok(accepted) = names.host(host, &socket) else {
        return;
    };
    let configured =
        names.hosts.contains(&accepted.name) || names.tenants.contains_key(&accepted.name);
    assert!(
        accepted.own != configured,
        "{host:?} is neither ours nor configured, or both"
    );
    assert_eq!(
        accepted.tenant,
        names.tenants.get(&accepted.name).map(String::as_str)
    );
    if accepted.own {
        assert!(
            host.ends_with(&socket.local.port().to_string())
                || socket.local.port() == if socket.tls { 443 } else { 80 }
        );
    }
    if names.origin(origin, &accepted, host, &socket).is_ok() && !names.origins.contains(origin) {
        let scheme = if socket.tls { "https" } else { "http" };
        assert!(
            accepted.own && origin == format!("{scheme}://{host}"),
            "{origin:?} on {host:?}"
        );
    }
    if let (Some(owner), Some(tenant)) = (
        origin
            .strip_prefix("https://")
            .and_then(|n| names.tenants.get(n)),
        accepted.tenant,
    ) && owner != tenant
    {
        assert!(
            names.origin(origin, &accepted, host, &socket).is_err(),
            "{origin:?} of another tenant on {host:?}"
        );
    }
}

/// URLs and rules: `url \n rule`. An accepted URL has one spelling and one reading; a rule lets through only what it says.
pub fn url(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let (address, rule) = text.split_once('\n').unwrap_or((text, ""));
    if let Ok(url) = Url::parse(address) {
        let again = Url::parse(&url.expose()).expect("our own spelling is accepted");
        assert_eq!(
            (again.scheme(), again.host(), again.port(), again.target()),
            (url.scheme(), url.host(), url.port(), url.target())
        );
        assert!(
            url.target().starts_with('/') && url.target().bytes().all(|b| b.is_ascii_graphic())
        );
        let host = url.host().to_string();
        assert!(!host.is_empty() && !host.contains(['@', '/', '\\', '%', '#', '?', ' ']));
        let address = match url.host() {
            Host::Name(_) => None,
            Host::V4(ip) => Some((*ip).into()),
            Host::V6(ip) => Some((*ip).into()),
        };
        let granted = AddressPolicy::any_public().check_target(&url);
        if let (Some(ip), Ok(granted)) = (address, granted) {
            assert!(
                granted.check(ip).is_err() || classify(ip) == AddressClass::Public,
                "{ip} is let out"
            );
        }
    }
    let (Ok(template), Ok(rule_read)) = (UrlTemplate::parse(address), UrlRule::parse(rule)) else {
        return;
    };
    if rule_read.matches(&Method::GET, &template) {
        let pattern = path_of(rule.rsplit(' ').next().unwrap_or_default());
        let path = path_of(address);
        let path = path.split_once('?').map_or(path, |(p, _)| p);
        assert!(
            allowed(&atoms(pattern), path),
            "{rule:?} lets {address:?} through"
        );
        for secret in template.secrets() {
            assert!(
                rule_read.secrets().contains(&secret),
                "{rule:?} does not name {secret}"
            );
        }
    }
}

fn path_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    match rest.find(['/', '?']) {
        Some(at) if rest.as_bytes()[at] == b'/' => &rest[at..],
        _ => "/",
    }
}

enum Atom {
    Byte(u8),
    /// Anything without slash and braces.
    InSegment,
    /// Anything without braces.
    Rest,
}

fn atoms(pattern: &str) -> Vec<Atom> {
    let last = pattern.len().saturating_sub(1);
    pattern
        .bytes()
        .enumerate()
        .map(|(at, b)| match b {
            b'*' if at == last => Atom::Rest,
            b'*' => Atom::InSegment,
            b => Atom::Byte(b),
        })
        .collect()
}

/// The meaning of a rule's path, said plainly: the set of positions that can be reached, atom by atom.
fn allowed(pattern: &[Atom], path: &str) -> bool {
    let path = path.as_bytes();
    let mut reached = vec![false; path.len() + 1];
    reached[0] = true;
    for atom in pattern {
        let mut next = vec![false; path.len() + 1];
        let mut open = false;
        for at in 0..=path.len() {
            match atom {
                Atom::Byte(b) => {
                    if reached[at] && path.get(at) == Some(b) {
                        next[at + 1] = true;
                    }
                }
                Atom::InSegment | Atom::Rest => {
                    open |= reached[at];
                    next[at] |= open;
                    let stops = path.get(at).is_some_and(|b| {
                        matches!(b, b'{' | b'}') || (*b == b'/' && matches!(atom, Atom::InSegment))
                    });
                    open &= !stops;
                }
            }
        }
        reached = next;
    }
    reached[path.len()]
}
