//! The gateway from outside: raw bytes in, raw bytes out.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod apikeys;
mod devices;
mod handshake;
mod hooks;
mod modes;
mod names;
mod nodes;
mod observe;
mod openai;
mod openapi;
mod programs;
mod responses;
mod sockets;
mod start;
mod strict;
mod support;
mod surfaces;
