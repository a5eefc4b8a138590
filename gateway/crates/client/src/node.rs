//! A connection as a node: a device in a role of its own, which offers commands.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::client::{ClientOptions, GatewayClient};
use crate::details::{ConnectionSources, build_gateway_connection_details};
use crate::error::ClientError;
use crate::identity::DeviceStore;

/// What a node offers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeOffer {
    /// Groups of commands.
    pub caps: Vec<String>,
    /// Commands.
    pub commands: Vec<String>,
    /// Permissions that it has on its machine.
    pub permissions: BTreeMap<String, bool>,
    /// Its search path, for operators to see.
    pub path_env: Option<String>,
}

/// Connects to the gateway that the sources name, as a node with the identity of `store`. The token that the gateway gives is kept there,
/// and is enough from then on.
///
/// # Errors
/// See [`ClientError`]. A device that waits for an operator is `Refused` with `PAIRING_REQUIRED`.
pub async fn connect_node(
    sources: &ConnectionSources,
    store: &DeviceStore,
    offer: NodeOffer,
    display_name: Option<String>,
    timeout: Duration,
) -> Result<GatewayClient, ClientError> {
    let details = build_gateway_connection_details(sources)?;
    let kept = store.token_as(&details.url, "node")?;
    if details.credential.is_none() && kept.is_none() {
        return Err(ClientError::NoCredential { url: details.url });
    }
    let url = details.url.clone();
    let mut options = ClientOptions::new(details.url);
    options.pins = details.pins;
    // The node's own token goes on when the gateway's is changed.
    options.credential = details.credential.filter(|_| kept.is_none());
    options.device = Some(store.identity().clone());
    options.device_token = kept;
    "node-host".clone_into(&mut options.client_id);
    "node".clone_into(&mut options.mode);
    options.display_name = display_name;
    options.scopes = Vec::new();
    options.caps = offer.caps.clone();
    options.node = Some(offer);
    options.connect_timeout = options.connect_timeout.min(timeout);
    let client = GatewayClient::connect(options).await?;
    if let Some(token) = &client.hello().device_token {
        store.keep(&url, Some(token.clone()))?;
    }
    Ok(client)
}
