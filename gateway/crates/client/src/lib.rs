//! A client of the gateway: v4 frames over WebSocket.
//!
//! [`GatewayClient`] holds a connection; [`call_gateway`] makes one call; [`build_gateway_connection_details`] decides
//! where a call goes. Errors end in a next step ([`ClientError::next_step`]).

mod call;
mod client;
mod details;
mod discover;
mod error;
mod identity;
pub mod limits;
mod node;

pub use call::{
    CallGatewayOptions, Joined, ScopesDecided, ask_for_scopes, call_gateway, connect, join,
    read_setup_code,
};
pub use client::{ClientOptions, GatewayClient, GatewayEvent, Hello, RequestOptions};
pub use details::{
    ConfiguredGateway, ConnectionSources, Credential, DEFAULT_PORT, GatewayConnectionDetails,
    RemoteGateway, SourceStep, UrlSource, build_gateway_connection_details,
};
pub use discover::{DiscoveredGateway, discover};
pub use error::{ClientError, ErrorKind, GatewayError};
pub use gateway_egress::{CertPin, tls::PinMismatch};
pub use identity::{DeviceIdentity, DeviceStore, DeviceToken, IdentityError};
pub use node::{NodeOffer, connect_node};
