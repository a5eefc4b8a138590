//! Harness of the integration suites: the real binary, a WebSocket client that speaks frames, doubles of the platforms.
#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod process;
pub mod telegram;
pub mod upstream;
pub mod ws;
