//! The wire: what clients and gateway say to each other. Pure functions and types; no I/O, no clock, no runtime.
//!
//! Everything that a client can see comes from tables in this crate: the methods ([`methods`]), the events
//! ([`event`]), the errors ([`error`]), the limits ([`limits`]). Two codecs carry them: [`frame`] (v4 frames, as
//! existing clients speak them) and [`jsonrpc`] (JSON-RPC 2.0).

mod cert_pin;
pub mod content;
pub mod device;
pub mod error;
pub mod event;
pub mod frame;
pub mod ids;
pub mod json;
pub mod jsonrpc;
pub mod limits;
pub mod method;
pub mod methods;
pub mod openrpc;
pub mod scope;
pub mod session_key;
mod validate;
pub mod value;

pub use cert_pin::{CertPin, MAX_CERT_PINS, NotACertPin};
pub use content::{ChatMessage, ContentBlock, Role};
pub use error::{DetailCode, ErrorCode, RpcError};
pub use event::{Audience, Event, EventSpec};
pub use ids::{AgentId, ChannelName, ConnId, RunId};
pub use method::{Access, Class, ConnRole, Method, MethodSpec, ParamSpec, Params, Rule};
pub use scope::{Scope, ScopeSet};
pub use session_key::{DmScope, SessionKey};

/// The protocol version that this gateway speaks.
pub const PROTOCOL_VERSION: u32 = 4;
/// The oldest version that a probe may offer and still be let in.
pub const MIN_PROBE_PROTOCOL: u32 = 3;
