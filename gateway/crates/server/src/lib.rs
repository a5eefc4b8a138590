//! The listening side of the gateway: accept loop, TLS, strict HTTP/1.1, WebSocket, JSON-RPC over POST, the OpenAI API, webhooks and the built-in page.
//!
//! [`start_gateway_server`] starts a core [`Host`](gateway_core::host::Host) and listens for it. What the two sides of the socket say to each
//! other is in `gateway-protocol`; what happens then is in `gateway-core`; nothing is decided here but who may talk, how fast and how much.

mod accept;
mod app;
mod budget;
mod descriptors;
pub mod discover;
mod forwarded;
pub mod guard;
mod handshakes;
pub mod head;
mod http;
pub mod limits;
mod memory;
pub mod openapi;
mod rpc;
mod server;
mod stream;
mod tailscale;
pub mod tls;
mod traffic;
mod ws;

pub use descriptors::raise_descriptor_limit;
pub use server::{
    GatewayServer, GatewayServerOptions, ServeError, ServerLimits, start_gateway_server,
};
