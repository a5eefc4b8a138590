//! Which user of this machine has the other end of a loopback connection. Headers can be written by any program of the machine;
//! Tailscale's daemon runs as root, or as the user of the gateway.

use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, SocketAddr};

use crate::guard::Socket;

/// Longest table that is read, in bytes: some 100,000 sockets.
const TABLE_MAX_BYTES: u64 = 16 * 1024 * 1024;

/// Whether the other end belongs to who may speak for Tailscale. Where the system does not tell, it may.
pub(super) fn may_vouch(socket: &Socket) -> bool {
    if !std::path::Path::new("/proc/net/tcp").exists() {
        return true;
    }
    let owner = owner(socket.peer, socket.local);
    owner.is_some_and(|uid| uid == 0 || uid == nix::unistd::geteuid().as_raw())
}

/// The user of the socket `own` that is connected to `other`.
fn owner(own: SocketAddr, other: SocketAddr) -> Option<u32> {
    // A dual-stack socket writes the addresses of both families into the second table.
    ["/proc/net/tcp", "/proc/net/tcp6"]
        .into_iter()
        .find_map(|table| {
            let file = std::fs::File::open(table).ok()?;
            let lines = BufReader::new(file.take(TABLE_MAX_BYTES)).lines();
            lines
                .map_while(Result::ok)
                .find_map(|line| row(&line, own, other))
        })
}

/// The user of a row, if it is about these two ends.
fn row(line: &str, own: SocketAddr, other: SocketAddr) -> Option<u32> {
    let mut words = line.split_whitespace();
    let (local, remote) = (words.nth(1)?, words.next()?);
    // State, queues, timer, retransmits.
    let uid = words.nth(4)?;
    let same = |written: &str, end: SocketAddr| {
        address(written).is_some_and(|(ip, port)| {
            ip.to_canonical() == end.ip().to_canonical() && port == end.port()
        })
    };
    (same(local, own) && same(remote, other)).then(|| uid.parse().ok())?
}

/// `0100007F:4965`: 32-bit words in the order of this machine, the port in the usual one.
fn address(written: &str) -> Option<(IpAddr, u16)> {
    let (ip, port) = written.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let digits = ip.get(at..at + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    match ip.len() {
        8 => Some((IpAddr::from(word(0)?), port)),
        32 => {
            let mut bytes = [0; 16];
            for (i, piece) in bytes.chunks_exact_mut(4).enumerate() {
                piece.copy_from_slice(&word(i * 8)?);
            }
            Some((IpAddr::from(bytes), port))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_owner_of_a_connection_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_server, peer) = listener.accept().unwrap();
        assert_eq!(
            owner(peer, listener.local_addr().unwrap()),
            Some(nix::unistd::geteuid().as_raw())
        );
        assert_eq!(
            owner(
                listener.local_addr().unwrap(),
                "127.0.0.1:1".parse().unwrap()
            ),
            None
        );
        drop(client);
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn rows_are_read() {
        let line = "   3: 0100007F:C350 0100007F:4965 01 00000000:00000000 00:00000000 00000000  1000        0 12345 1 0 20 4 30 10 -1";
        let (own, other) = (
            "127.0.0.1:50000".parse().unwrap(),
            "127.0.0.1:18789".parse().unwrap(),
        );
        assert_eq!(row(line, own, other), Some(1000));
        assert_eq!(row(line, other, own), None);
        assert_eq!(
            address("00000000000000000000000001000000:0050").unwrap(),
            ("::1".parse().unwrap(), 80)
        );
        for bad in [
            "",
            "x",
            "0100007F",
            "0100007F:",
            "01:50",
            "  sl  local_address rem_address",
        ] {
            assert_eq!(row(bad, own, other), None, "{bad}");
        }
    }
}
