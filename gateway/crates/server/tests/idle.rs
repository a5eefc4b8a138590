//! What an idle connection costs. Alone in its process, because it looks at the process's memory.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, dead_code)]

#[path = "wire/support.rs"]
mod support;

use support::*;

/// Covers: R1.
#[test]
fn an_idle_socket_with_a_full_hello_takes_at_most_8_kib() {
    const ROUNDS: usize = 4;
    const MANY: usize = 300;
    let gw = plain();
    let mut open: Vec<_> = (0..100).map(|_| gw.connected()).collect();
    // The process grows for other reasons too (threads, arenas of the allocator), but not in each round.
    let each = (0..ROUNDS)
        .map(|_| {
            let before = rss_kib();
            open.extend((0..MANY).map(|_| gw.connected()));
            // Both ends of each connection live in this process; the client's is a socket and a few words.
            rss_kib().saturating_sub(before) as f64 / MANY as f64
        })
        .fold(f64::INFINITY, f64::min);
    println!("{each:.1} KiB for each idle connection");
    assert!(each <= 8.0, "{each:.1} KiB");
    drop(open);
}
