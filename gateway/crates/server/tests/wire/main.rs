//! The gateway from outside: raw bytes in, raw bytes out.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod handshake;
mod hooks;
mod names;
mod openai;
mod sockets;
mod start;
mod strict;
mod support;
mod surfaces;
