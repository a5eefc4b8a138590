//! Tests of the wire: codecs, registry, rights, session keys. Pure functions, no sockets.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod connect;
mod frames;
mod jsonrpc;
mod keys;
mod registry;
mod scopes;
mod strict_json;

use serde_json::Value;

/// Parses what a codec wrote.
fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).expect("codecs write JSON")
}

/// A text that nests `n` arrays.
fn nested(n: usize) -> String {
    format!("{}{}", "[".repeat(n), "]".repeat(n))
}

/// Runs on a stack as small as those of worker threads, so that recursion over input shows.
fn on_small_stack(test: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new()
        .stack_size(256 * 1024)
        .spawn(test)
        .unwrap()
        .join()
        .unwrap();
}
