//! For whom a reverse proxy asks. What it says is believed only from addresses that the configuration names, and whoever comes
//! through a proxy is never taken for somebody on this machine.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use gateway_core::auth::Vouched;
use http::HeaderMap;

use crate::guard::{FORWARDING, Refused, Socket};

/// What a trusted proxy says of the user, as far as the settings ask for it (`names`, lower case; `true`: for the gateway alone).
/// Takes the latter out of the request, whoever sent them: nobody behind this is to believe them. `None`: no trusted proxy asks.
///
/// # Errors
/// [`Refused::BadForwarding`] where a trusted proxy says one thing twice, or what is no text: one of the two may be its client's.
pub(crate) fn vouched(
    headers: &mut HeaderMap,
    socket: &Socket,
    names: &BTreeMap<String, bool>,
    is_proxy: impl Fn(IpAddr) -> bool,
) -> Result<Option<Vouched>, Refused> {
    let peer = socket.peer.ip().to_canonical();
    let trusted = !names.is_empty() && is_proxy(peer);
    // A program of this machine may have a trusted address too; it says none of these.
    let mut asks = FORWARDING.iter().any(|name| headers.contains_key(*name));
    let (mut vouched, mut garbled) = (Vouched::default(), false);
    for (name, own) in names {
        let values: Vec<_> = headers.get_all(name).iter().cloned().collect();
        // The forwarding ones say that somebody forwards, and go after that was judged.
        if *own && !FORWARDING.contains(&name.as_str()) {
            headers.remove(name);
        }
        asks |= *own && !values.is_empty();
        match values.as_slice() {
            _ if !trusted => {}
            [] => {}
            [value] => match value.to_str() {
                Ok(value) => drop(vouched.said.insert(name.clone(), value.to_owned())),
                Err(_) => garbled = true,
            },
            _ => garbled = true,
        }
    }
    if garbled {
        return Err(Refused::BadForwarding);
    }
    if !trusted || !asks {
        return Ok(None);
    }
    vouched.same_host = of_this_machine(peer);
    Ok(Some(vouched))
}

/// Whether a peer's address is one of this machine: every program here can have it.
fn of_this_machine(peer: IpAddr) -> bool {
    peer.is_loopback()
        || match if_addrs::get_if_addrs() {
            Ok(own) => own.iter().any(|own| own.ip() == peer),
            // Whether it is cannot be told, so it is.
            Err(_) => true,
        }
}

/// The header in which a trusted proxy names its client, as the last of a list.
const CLIENT: &str = "x-forwarded-for";

/// The socket as the request came in on it: with the address of the proxy's client as its peer, where a trusted proxy asks. Takes all
/// forwarding headers out of the request.
///
/// # Errors
/// [`Refused::Forwarded`] for such a header from this machine without a trusted proxy: strangers would look local.
/// [`Refused::BadForwarding`] for one that a trusted proxy garbled.
pub(crate) fn socket(
    headers: &mut HeaderMap,
    socket: &Socket,
    is_proxy: impl Fn(IpAddr) -> bool,
) -> Result<Socket, Refused> {
    let clients: Vec<_> = headers.get_all(CLIENT).iter().cloned().collect();
    if !strip(headers) {
        return Ok(*socket);
    }
    let peer = socket.peer.ip().to_canonical();
    if !is_proxy(peer) {
        return match peer.is_loopback() {
            true => Err(Refused::Forwarded),
            false => Ok(*socket),
        };
    }
    let mut client = peer;
    match clients.as_slice() {
        [] => {}
        [list] => {
            let list = list.to_str().map_err(|_| Refused::BadForwarding)?;
            // From the right: each proxy adds what it saw, and what stands before the first stranger is his own claim.
            for hop in list.rsplit(',') {
                client = address(hop.trim()).ok_or(Refused::BadForwarding)?;
                if !is_proxy(client) {
                    break;
                }
            }
        }
        _ => return Err(Refused::BadForwarding),
    }
    Ok(on_behalf_of(client, socket))
}

/// The socket as a request came in on it that somebody known brought for `client`. Takes all forwarding headers out.
pub(crate) fn brought(headers: &mut HeaderMap, socket: &Socket, client: IpAddr) -> Socket {
    strip(headers);
    on_behalf_of(client, socket)
}

/// Takes all forwarding headers out. Answers whether there were any.
fn strip(headers: &mut HeaderMap) -> bool {
    let mut any = false;
    for name in FORWARDING {
        any |= headers.remove(name).is_some();
    }
    any
}

fn on_behalf_of(client: IpAddr, socket: &Socket) -> Socket {
    Socket {
        peer: SocketAddr::new(client, 0),
        forwarded: true,
        ..*socket
    }
}

/// An address as proxies write it: bare, in brackets, and with or without a port.
fn address(text: &str) -> Option<IpAddr> {
    let bare = |text: &str| text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
    bare(text)
        .or_else(|| {
            text.parse::<SocketAddr>()
                .ok()
                .map(|s| s.ip().to_canonical())
        })
        .or_else(|| bare(text.strip_prefix('[')?.strip_suffix(']')?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use gateway_config::Network;
    use http::HeaderValue;

    use super::*;

    fn judge(peer: &str, sent: &[(&'static str, &str)]) -> Result<(String, bool), Refused> {
        let mut headers = HeaderMap::new();
        for (name, value) in sent {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers.insert("x-other", HeaderValue::from_static("stays"));
        let trusted: Vec<Network> = ["127.0.0.1", "10.0.0.0/8"]
            .iter()
            .map(|t| Network::parse(t).unwrap())
            .collect();
        let from = Socket {
            local: "127.0.0.1:18789".parse().unwrap(),
            peer: SocketAddr::new(peer.parse().unwrap(), 40_000),
            tls: false,
            forwarded: false,
        };
        let found = socket(&mut headers, &from, |ip| {
            trusted.iter().any(|network| network.contains(ip))
        });
        if found.is_ok() {
            assert_eq!(headers.len(), 1, "{headers:?}");
        }
        found.map(|s| (s.peer.ip().to_string(), s.loopback()))
    }

    /// Covers: A15.
    #[test]
    fn the_client_is_the_last_stranger_and_never_local() {
        let xff = "x-forwarded-for";
        let client = |ip: &str| Ok((ip.to_owned(), false));
        for (peer, list, found) in [
            ("127.0.0.1", "203.0.113.9", client("203.0.113.9")),
            // What a client sends along stands before what the proxy saw.
            ("127.0.0.1", "127.0.0.1, 203.0.113.9", client("203.0.113.9")),
            ("127.0.0.1", "garbage, 203.0.113.9", client("203.0.113.9")),
            ("127.0.0.1", "203.0.113.9, 10.1.2.3", client("203.0.113.9")),
            ("10.1.2.3", "2001:db8::7", client("2001:db8::7")),
            ("10.1.2.3", "[2001:db8::7]:443", client("2001:db8::7")),
            ("10.1.2.3", "[2001:db8::7]", client("2001:db8::7")),
            ("10.1.2.3", "203.0.113.9:5000", client("203.0.113.9")),
            ("::ffff:127.0.0.1", "203.0.113.9", client("203.0.113.9")),
            // Somebody on the proxy's machine is not on this one.
            ("127.0.0.1", "127.0.0.1", client("127.0.0.1")),
            ("127.0.0.1", "::1", client("::1")),
            ("127.0.0.1", "", Err(Refused::BadForwarding)),
            ("127.0.0.1", "unknown", Err(Refused::BadForwarding)),
            ("127.0.0.1", "203.0.113.9,", Err(Refused::BadForwarding)),
            ("127.0.0.1", "2130706433", Err(Refused::BadForwarding)),
            // Nobody else is believed.
            ("192.0.2.1", "203.0.113.9", client("192.0.2.1")),
            ("127.0.0.2", "203.0.113.9", Err(Refused::Forwarded)),
            ("::1", "203.0.113.9", Err(Refused::Forwarded)),
        ] {
            assert_eq!(judge(peer, &[(xff, list)]), found, "{peer}: {list}");
        }
        assert_eq!(
            judge("127.0.0.1", &[(xff, "203.0.113.9"), (xff, "203.0.113.8")]),
            Err(Refused::BadForwarding)
        );
        // A proxy that only says that it is one: the client is unknown, and not local.
        assert_eq!(
            judge("127.0.0.1", &[("x-real-ip", "203.0.113.9")]),
            client("127.0.0.1")
        );
        assert_eq!(judge("127.0.0.1", &[]), Ok(("127.0.0.1".to_owned(), true)));
    }

    /// Who a user is, is believed from a proxy's address only, and said once; nobody else's word gets past this.
    /// Covers: A15.
    #[test]
    fn only_a_trusted_proxy_says_who_a_user_is() {
        let names = BTreeMap::from([
            ("x-user".to_owned(), true),
            ("x-forwarded-user".to_owned(), true),
            ("x-assertion".to_owned(), false),
        ]);
        let judge = |peer: &str, sent: &[(&'static str, &'static [u8])]| {
            let mut headers = HeaderMap::new();
            for (name, value) in sent {
                headers.append(*name, HeaderValue::from_bytes(value).unwrap());
            }
            let from = Socket {
                local: "192.0.2.1:18789".parse().unwrap(),
                peer: SocketAddr::new(peer.parse().unwrap(), 40_000),
                tls: false,
                forwarded: false,
            };
            let trusted = ["127.0.0.1", "198.51.100.7"];
            let found = vouched(&mut headers, &from, &names, |ip| {
                trusted.contains(&&*ip.to_string())
            });
            assert!(!headers.contains_key("x-user"), "{peer}");
            let said = |v: Vouched| (v.same_host, v.said.into_iter().collect::<Vec<_>>());
            found.map(|found| found.map(said))
        };
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let user: (&'static str, &'static [u8]) = ("x-user", b"una");
        assert_eq!(judge("192.0.2.9", &[user]), Ok(None), "a stranger");
        assert_eq!(judge("::1", &[user]), Ok(None));
        assert_eq!(
            judge("198.51.100.7", &[user, ("x-assertion", b"jwt")]),
            Ok(Some((
                false,
                vec![pair("x-assertion", "jwt"), pair("x-user", "una")]
            )))
        );
        assert_eq!(
            judge("127.0.0.1", &[user]),
            Ok(Some((true, vec![pair("x-user", "una")]))),
            "every program of this machine could say so"
        );
        assert_eq!(
            judge("198.51.100.7", &[("x-forwarded-for", b"192.0.2.9")]),
            Ok(Some((false, vec![]))),
            "a proxy that did not sign anybody in"
        );
        assert_eq!(judge("198.51.100.7", &[("x-assertion", b"jwt")]), Ok(None));
        // The proxy's word and its client's cannot be told apart.
        let twice = [user, ("x-user", b"admin")];
        assert_eq!(judge("198.51.100.7", &twice), Err(Refused::BadForwarding));
        let bytes = [("x-user", b"\xff\xfe" as &[u8])];
        assert_eq!(judge("198.51.100.7", &bytes), Err(Refused::BadForwarding));
    }
}
