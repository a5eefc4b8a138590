//! Everything that leaves the gateway: name look-up, address policy, TLS and its pins, and an HTTP client that follows no
//! redirect, knows no proxy and connects only to an address that it has checked.
//!
//! ```text
//! UrlTemplate ── UrlRule (which paths) ── expand secrets ──> Url ── AddressPolicy (which targets) ──> resolve once
//!   ──> check every address ──> connect to a checked address ──> TLS ──> request
//! ```

pub mod address;
pub mod client;
pub mod error;
pub mod limits;
mod pool;
pub mod resolve;
pub mod tls;
pub mod url_policy;

pub use address::{AddressClass, AddressPolicy, HostPortRule, classify};
pub use client::{
    Egress, EgressOptions, EgressRequest, EgressResponse, EgressStream, MinRate, Timeouts,
};
pub use error::{EgressError, ErrorKind};
pub use http::{HeaderMap, HeaderName, HeaderValue, Method};
pub use resolve::{BoxIo, Dial, Io, Resolve, SystemResolver, TcpDialer};
pub use tls::CertPin;
pub use url_policy::{Host, Scheme, Url, UrlError, UrlRule, UrlTemplate};
