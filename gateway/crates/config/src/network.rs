//! Addresses by which something is told apart: one, or all that begin alike.

use std::fmt;
use std::net::IpAddr;

use serde::{Serialize, Serializer};

/// One address, or a network of addresses (`10.0.0.0/8`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    /// Leading bits that are compared.
    bits: u8,
}

impl Network {
    /// Reads an address or a network in the form `ADDRESS/BITS`. `None` for anything else, and for a network whose address has
    /// bits behind its prefix: it says more than it means.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) if bits.bytes().all(|b| b.is_ascii_digit()) => {
                (address, Some(bits.parse::<u8>().ok()?))
            }
            Some(_) => return None,
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let whole = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(whole);
        let network = Self { address, bits };
        (bits <= whole && network.prefix(address) == value(address)).then_some(network)
    }

    /// Whether an address belongs to it. An IPv4 address that is written as one of IPv6 is the IPv4 address.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4()
            && self.prefix(address) == self.prefix(self.address)
    }

    fn prefix(&self, address: IpAddr) -> u128 {
        let whole: u32 = if address.is_ipv4() { 32 } else { 128 };
        let behind = whole - u32::from(self.bits);
        // A shift by all bits would be none.
        let mask = u128::MAX.checked_shl(behind).unwrap_or(0);
        value(address) & mask
    }
}

fn value(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.address, self.bits) {
            (IpAddr::V4(_), 32) | (IpAddr::V6(_), 128) => write!(f, "{}", self.address),
            (address, bits) => write!(f, "{address}/{bits}"),
        }
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn addresses_and_networks_are_told_apart() {
        let holds = |network: &str, address: &str| {
            let network = Network::parse(network).unwrap();
            network.contains(address.parse().unwrap())
        };
        for (network, inside, outside) in [
            ("127.0.0.1", "127.0.0.1", "127.0.0.2"),
            ("127.0.0.1", "::ffff:127.0.0.1", "::1"),
            ("10.0.0.0/8", "10.255.1.2", "11.0.0.0"),
            ("192.0.2.128/25", "192.0.2.129", "192.0.2.127"),
            ("::1", "::1", "127.0.0.1"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("0.0.0.0/0", "203.0.113.9", "2001:db8::1"),
            ("::/0", "2001:db8::1", "203.0.113.9"),
        ] {
            assert!(holds(network, inside), "{inside} in {network}");
            assert!(!holds(network, outside), "{outside} in {network}");
            let shown = Network::parse(network).unwrap().to_string();
            assert_eq!(shown, network);
        }
        for bad in [
            "",
            "localhost",
            "10.0.0.1/8",
            "10.0.0.0/33",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0.0/8/8",
            "::1/129",
            "10.0.0",
            "[::1]",
            "10.0.0.0/256",
            "127.0.0.1:80",
        ] {
            assert_eq!(Network::parse(bad), None, "{bad}");
        }
    }
}
