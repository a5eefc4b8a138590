//! The gateway as a library: start one, talk to one, know its protocol.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use gateway::{GatewayServerOptions, HostOptions, LoadRequest, Overrides, init_state_dir, load, start_gateway_server};
//!
//! let state_dir = std::path::PathBuf::from("state");
//! init_state_dir(&state_dir)?;
//! let settings = load(LoadRequest {
//!     state_dir: state_dir.clone(),
//!     config_path: None,
//!     overrides: Overrides { port: Some(0), ..Overrides::default() },
//!     env: &|name| std::env::var(name).ok(),
//! })?;
//! let server = start_gateway_server(GatewayServerOptions::new(HostOptions::new(state_dir, settings))).await?;
//! println!("{}", server.url());
//! server.shutdown().await;
//! # Ok(())
//! # }
//! ```
//! With `HostOptions::config` set to a [`ConfigFile`] the settings follow the file while the gateway runs.
//! `examples/embed.rs` shows it whole, with a runtime of its own and a client.

mod bundled;

pub use bundled::bundled_plugins;
pub use gateway_client::{
    CallGatewayOptions, CertPin, ClientError, ClientOptions, ConnectionSources, Credential,
    DiscoveredGateway, GatewayClient, GatewayConnectionDetails, GatewayEvent, RequestOptions,
    UrlSource, build_gateway_connection_details, call_gateway, discover,
};
pub use gateway_config::{
    ConfigError, ConfigFile, LoadRequest, Overrides, Secret, Settings, init_state_dir, load,
    options_schema,
};
pub use gateway_core::{HostOptions, NodeRegistry, Registry};
pub use gateway_protocol::PROTOCOL_VERSION;
pub use gateway_server::{
    GatewayServer, GatewayServerOptions, ServeError, ServerLimits, start_gateway_server,
    tls::{CertificateInfo, CertificateStatus},
};
pub use gateway_wasm::Bundled;

/// The registry of all core methods with their handlers, checked for completeness.
///
/// # Errors
/// A method without a handler, or a handler twice: a fault of the build.
pub fn core_gateway_handlers() -> Result<Registry, gateway_core::registry::RegistryError> {
    gateway_core::rpc::registry()
}

/// The version of this package.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
