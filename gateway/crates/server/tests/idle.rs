//! What an idle connection costs. Alone in its process, because it looks at the process's memory.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, dead_code)]

#[path = "wire/support.rs"]
mod support;

use support::*;

/// Covers: R1.
#[test]
fn an_idle_socket_with_a_full_hello_takes_at_most_8_kib() {
    const MANY: u64 = 1_000;
    let gw = plain();
    let warm: Vec<_> = (0..100).map(|_| gw.connected()).collect();
    let before = rss_kib();
    let many: Vec<_> = (0..MANY).map(|_| gw.connected()).collect();
    // Both ends of each connection live in this process; the client's is a socket and a few words.
    let each = rss_kib().saturating_sub(before) as f64 / MANY as f64;
    println!("{each:.1} KiB for each idle connection");
    assert!(each <= 8.0, "{each:.1} KiB");
    drop((warm, many));
}
