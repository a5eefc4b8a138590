//! The registry about itself, and subscriptions of the JSON-RPC surface.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::NoParams;

crate::methods! {
    /// The OpenRPC document of this gateway.
    RpcDiscover = "rpc.discover", Any, Query, (NoParams) -> RpcDiscoverResult, ours;
    /// Receive events as notifications on this JSON-RPC socket; each event still goes only to whom it may go.
    RpcSubscribe = "rpc.subscribe", Any, Command, (RpcSubscribeParams) -> RpcSubscribeResult, ours;
    /// Stop receiving events on this JSON-RPC socket.
    RpcUnsubscribe = "rpc.unsubscribe", Any, Command, (RpcSubscribeParams) -> RpcSubscribeResult, ours;
}

/// An OpenRPC document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct RpcDiscoverResult(pub Value);

crate::params! {
    /// Parameters of `rpc.subscribe` and `rpc.unsubscribe`.
    RpcSubscribeParams {
        required {}
        optional {
            /// Event names; absent means all events that the caller may receive.
            "events" events: Vec<String>,
        }
        ignored {}
        refused {}
    }
}

/// Result of `rpc.subscribe` and `rpc.unsubscribe`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RpcSubscribeResult {
    /// The events that this socket now receives, sorted.
    pub events: Vec<String>,
}
