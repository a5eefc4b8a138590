//! Wide-area DNS-SD: the same advertisement as a zone file for an ordinary DNS server.

use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use gateway_config::durable::{self, Existing};

use super::{Advertisement, SERVICE};

/// Seconds that a resolver keeps a record: the address of a gateway may change.
const TTL_SECONDS: u32 = 60;

/// The zone of `domain` (without a dot at the end), which has only this gateway in it. `serial` must rise with each change;
/// Unix seconds do.
#[must_use]
pub fn text(what: &Advertisement, domain: &str, addresses: &[IpAddr], serial: u32) -> String {
    let name = &what.name;
    let mut out = format!(
        "; Written by the gateway; serve it as the zone {domain}, or copy the records.\n\
         $ORIGIN {domain}.\n\
         $TTL {TTL_SECONDS}\n\
         @ IN SOA ns.{domain}. hostmaster.{domain}. ( {serial} 7200 3600 1209600 {TTL_SECONDS} )\n\
         @ IN NS ns.{domain}.\n"
    );
    let address = |owner: &str, ip: &IpAddr| match ip {
        IpAddr::V4(ip) => format!("{owner} IN A {ip}\n"),
        IpAddr::V6(ip) => format!("{owner} IN AAAA {ip}\n"),
    };
    for owner in ["ns", name] {
        out.extend(addresses.iter().map(|ip| address(owner, ip)));
    }
    // Writing into a String does not fail.
    let _ = write!(
        out,
        "b._dns-sd._udp IN PTR {domain}.\n\
         lb._dns-sd._udp IN PTR {domain}.\n\
         _services._dns-sd._udp IN PTR {SERVICE}.{domain}.\n\
         {SERVICE} IN PTR {name}.{SERVICE}.{domain}.\n\
         {name}.{SERVICE} IN SRV 0 0 {} {name}.{domain}.\n\
         {name}.{SERVICE} IN TXT",
        what.port
    );
    for (key, value) in what.wide_txt() {
        let _ = write!(out, " {}", quoted(&format!("{key}={value}")));
    }
    out.push('\n');
    out
}

/// A serial for a zone that is written now.
#[must_use]
pub fn serial() -> u32 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(1, |d| u32::try_from(d.as_secs()).unwrap_or(u32::MAX))
}

/// A character string of a zone file, at most 255 bytes of it.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for byte in text.bytes().take(255) {
        match byte {
            b'"' | b'\\' => {
                out.push('\\');
                out.push(char::from(byte));
            }
            b' '..=b'~' => out.push(char::from(byte)),
            other => {
                let _ = write!(out, "\\{other:03}");
            }
        }
    }
    out.push('"');
    out
}

/// Where the zone of a domain is kept: `dns/<domain>.db` of the state directory.
#[must_use]
pub fn path(state_dir: &Path, domain: &str) -> PathBuf {
    state_dir.join("dns").join(format!("{domain}.db"))
}

/// Writes the zone, whole or not at all.
///
/// # Errors
/// A folder that cannot be written.
pub fn write(state_dir: &Path, domain: &str, zone: &str) -> io::Result<PathBuf> {
    let path = path(state_dir, domain);
    if let Some(dir) = path.parent() {
        durable::create_dirs(dir)?;
    }
    durable::write(&path, zone.as_bytes(), Existing::Replace)?;
    Ok(path)
}
