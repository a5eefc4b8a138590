//! Which addresses may be connected to.
//!
//! The rule is "public unicast only". An operator can name one exact scheme, host and port for which private
//! addresses are allowed as well; addresses that are never a service of the operator's (unspecified, multicast,
//! link-local and with it the metadata services, transition prefixes that hide another address) stay refused even then.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::error::{EgressError, ErrorKind};
use crate::url_policy::{Host, Scheme, Url};

/// What an address is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddressClass {
    /// A public unicast address.
    Public,
    /// This host: 127/8, ::1.
    Loopback,
    /// Private networks: RFC 1918, 100.64/10, 198.18/15, fc00::/7.
    Private,
    /// Nothing that a request may ever go to; the text says what it is.
    Never(&'static str),
}

/// The cloud metadata addresses that lie outside of link-local.
const METADATA_V4: [Ipv4Addr; 3] = [
    Ipv4Addr::new(168, 63, 129, 16),
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(192, 0, 0, 192),
];
const METADATA_V6: [Ipv6Addr; 3] = [
    Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0x0c2c, 0, 0, 0, 0, 0, 0xa9fe),
    Ipv6Addr::new(0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x254),
];

/// Classifies any address. Total: what is not known to be public is not [`AddressClass::Public`].
#[must_use]
pub fn classify(ip: IpAddr) -> AddressClass {
    match ip {
        IpAddr::V4(v4) => classify_v4(v4),
        IpAddr::V6(v6) => classify_v6(v6),
    }
}

fn classify_v4(ip: Ipv4Addr) -> AddressClass {
    use AddressClass::{Loopback, Never, Private, Public};
    if METADATA_V4.contains(&ip) {
        return Never("metadata service");
    }
    match ip.octets() {
        [0, ..] => Never("this network (0/8)"),
        [10, ..] | [192, 168, ..] => Private,
        [100, b, ..] if (64..128).contains(&b) => Private,
        [127, ..] => Loopback,
        [169, 254, ..] => Never("link-local (169.254/16)"),
        [172, b, ..] if (16..32).contains(&b) => Private,
        [192, 0, 0, _] => Never("protocol assignments (192.0.0/24)"),
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => Never("documentation"),
        [192, 88, 99, _] => Never("6to4 relay (192.88.99/24)"),
        [192, 31, 196, _] | [192, 52, 193, _] | [192, 175, 48, _] => Never("AS112 or AMT"),
        [198, 18 | 19, ..] => Private,
        [224..=239, ..] => Never("multicast"),
        [240..=255, ..] => Never("reserved or broadcast"),
        _ => Public,
    }
}

fn classify_v6(ip: Ipv6Addr) -> AddressClass {
    use AddressClass::{Loopback, Never, Private, Public};
    if METADATA_V6.contains(&ip) {
        return Never("metadata service");
    }
    if ip == Ipv6Addr::LOCALHOST {
        return Loopback;
    }
    let s = ip.segments();
    match s {
        [0, 0, 0, 0, 0, 0, ..] => Never("unspecified or v4-compatible (::/96)"),
        [0, 0, 0, 0, 0, 0xffff, ..] => Never("v4-mapped (::ffff/96)"),
        [0, 0, 0, 0, 0xffff, 0, ..] => Never("v4-translated (::ffff:0:0/96)"),
        [0x64, 0xff9b, ..] => Never("NAT64 (64:ff9b)"),
        [0x100, ..] => Never("discard only (100::/16)"),
        [0x2001, b, ..] if b < 0x200 => Never("protocol assignments and Teredo (2001::/23)"),
        [0x2001, 0xdb8, ..] => Never("documentation"),
        [0x2002, ..] => Never("6to4 (2002::/16)"),
        [0x3fff, b, ..] if b < 0x1000 => Never("documentation"),
        [0x5f00, ..] => Never("segment routing (5f00::/16)"),
        [a, ..] if a & 0xfe00 == 0xfc00 => Private,
        [a, ..] if a & 0xffc0 == 0xfe80 => Never("link-local (fe80::/10)"),
        [a, ..] if a & 0xffc0 == 0xfec0 => Never("site-local (fec0::/10)"),
        [a, ..] if a & 0xff00 == 0xff00 => Never("multicast"),
        // Global unicast is 2000::/3 (RFC 4291, IANA); everything else is unassigned.
        [a, ..] if a & 0xe000 == 0x2000 => Public,
        _ => Never("not global unicast"),
    }
}

/// One exact target: scheme, host and port, as an operator or a manifest named it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPortRule {
    /// Scheme, compared exactly.
    pub scheme: Scheme,
    /// Host, compared exactly (never a suffix or a prefix).
    pub host: Host,
    /// Port, compared exactly.
    pub port: u16,
    /// Loopback and private addresses are allowed for this target. Only an operator may set it.
    pub allow_private: bool,
}

impl HostPortRule {
    /// The rule for exactly the origin of `url`.
    #[must_use]
    pub fn of(url: &Url, allow_private: bool) -> Self {
        Self {
            scheme: url.scheme(),
            host: url.host().clone(),
            port: url.port(),
            allow_private,
        }
    }

    fn matches(&self, url: &Url) -> bool {
        self.scheme == url.scheme() && self.port == url.port() && self.host == *url.host()
    }
}

/// Where one caller's requests may go. The default allows nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AddressPolicy {
    /// Exact targets.
    pub allow: Vec<HostPortRule>,
    /// Any other host as well, at public addresses only.
    pub any_public: bool,
}

/// What a policy grants one target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Granted {
    /// Loopback and private addresses may be connected to.
    pub private: bool,
}

impl AddressPolicy {
    /// Exactly these targets.
    #[must_use]
    pub fn exact(allow: Vec<HostPortRule>) -> Self {
        Self {
            allow,
            any_public: false,
        }
    }

    /// Any host at public addresses.
    #[must_use]
    pub fn any_public() -> Self {
        Self {
            allow: Vec::new(),
            any_public: true,
        }
    }

    /// Decides about a target before any look-up.
    ///
    /// # Errors
    /// [`ErrorKind::NotAllowed`] where no rule names it; [`ErrorKind::Address`] for a literal address or a special name
    /// (`localhost`, `*.internal`, a name without a dot) that the rules do not open.
    pub fn check_target(&self, url: &Url) -> Result<Granted, EgressError> {
        let named = self.allow.iter().filter(|r| r.matches(url));
        let granted = match named.map(|r| r.allow_private).reduce(|a, b| a || b) {
            Some(private) => Granted { private },
            None if self.any_public => Granted { private: false },
            None => {
                return Err(EgressError::new(
                    ErrorKind::NotAllowed,
                    format!("{} is not in the list of allowed targets", url.origin()),
                ));
            }
        };
        match url.host() {
            Host::V4(ip) => granted.check(IpAddr::V4(*ip))?,
            Host::V6(ip) => granted.check(IpAddr::V6(*ip))?,
            Host::Name(name) if !granted.private && is_special_name(name) => {
                return Err(EgressError::new(
                    ErrorKind::Address,
                    format!(
                        "{name} is a name of a local network; only an operator can allow it for this exact host and port"
                    ),
                ));
            }
            Host::Name(_) => {}
        }
        Ok(granted)
    }
}

impl Granted {
    /// Decides about one address.
    ///
    /// # Errors
    /// [`ErrorKind::Address`] if its class is refused.
    pub fn check(self, ip: IpAddr) -> Result<(), EgressError> {
        let why = match classify(ip) {
            AddressClass::Public => return Ok(()),
            AddressClass::Loopback | AddressClass::Private if self.private => return Ok(()),
            AddressClass::Loopback => "loopback",
            AddressClass::Private => "private network",
            AddressClass::Never(why) => why,
        };
        Err(EgressError::new(
            ErrorKind::Address,
            format!("the address {ip} is refused: {why}"),
        ))
    }
}

/// Names that never mean a public host (RFC 6761, RFC 6762, RFC 8375 and usage); `name` is lower case.
fn is_special_name(name: &str) -> bool {
    const ENDS: [&str; 13] = [
        "localhost",
        "local",
        "localdomain",
        "internal",
        "intranet",
        "private",
        "corp",
        "home",
        "lan",
        "arpa",
        "onion",
        "invalid",
        "test",
    ];
    match name.rsplit_once('.') {
        None => true,
        Some((_, last)) => ENDS.contains(&last),
    }
}

#[cfg(test)]
#[path = "address_tests.rs"]
mod tests;
