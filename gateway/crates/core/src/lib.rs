//! The gateway's core: tenants, sessions, runs, events, methods. It knows no HTTP, no SQL, no wasmtime type and reads no
//! file; clock, randomness, network, store and agent backends are given to it, so that all of it runs in a seeded
//! simulation.
//!
//! The way of a call: a transport authenticates ([`host::Host::authenticate`]), makes a [`cx::Cx`] and calls
//! [`dispatch::dispatch`]; the handler is in [`rpc`]; events come back through [`hub`].

pub mod agent;
pub mod agents;
pub mod audit;
pub mod auth;
pub mod boot;
pub mod bus;
pub mod channel;
pub mod clock;
pub mod config;
pub mod cron;
pub mod cx;
pub mod delivery;
pub mod dispatch;
pub mod embeddings;
pub mod faults;
mod guest_io;
pub mod health;
pub mod hello;
pub mod history;
pub mod hold;
pub mod hooks;
pub mod host;
pub mod hub;
pub mod intake;
pub mod invoke;
pub mod limits;
pub mod logs;
pub mod metrics;
pub mod node;
pub mod openai;
pub mod pair;
mod policy;
pub mod presence;
pub mod process_health;
pub mod random;
pub mod readiness;
pub mod registry;
pub mod responses;
pub mod route;
pub mod rpc;
pub mod safe_mode;
pub mod session;
pub mod start;
pub mod telemetry;
pub mod tenant;
pub mod tool;
pub mod trace;
mod write_limit;

pub use cx::{Caller, Caps, ClientInfo, Cx, InterimSink, Role, Surface};
pub use dispatch::{Dispatched, dispatch};
pub use host::{HelloInput, Host, HostOptions, StartError, TenantHint};
pub use hub::{ConnInfo, EventPolicy, EventSink, HubGuard, WireEvent};
pub use node::NodeRegistry;
pub use registry::{Registry, Reply};
pub use tenant::Tenant;
