//! What nodes call: results and progress of commands, signs of life, and what waits for them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::NoParams;
use super::nodes::NodePendingItem;
use crate::value::{NonEmpty, Text, Whole};

crate::methods! {
    /// The result of a command. Only the connection that was asked can give it, and once.
    NodeInvokeResultGive = "node.invoke.result", Node, Command, (NodeInvokeResultParams) -> NodeTaken;
    /// A piece of what a command says while it runs.
    NodeInvokeProgress = "node.invoke.progress", Node, Command, (NodeInvokeProgressParams) -> NodeTaken;
    /// Something happened on the node: `node.presence.alive` and `node.host.stats` are known.
    NodeEvent = "node.event", Node, Command, (NodeEventParams) -> NodeEventResult;
    /// Calls that were left for the node. They stay until they are acknowledged.
    NodePendingPull = "node.pending.pull", Node, Query, (NoParams) -> NodePendingPullResult;
    /// Calls that the node has dealt with.
    NodePendingAck = "node.pending.ack", Node, Command, (NodePendingAckParams) -> NodePendingAckResult;
    /// Questions that were left for the node; they are taken away.
    NodePendingDrain = "node.pending.drain", Node, Command, (NodePendingDrainParams) -> NodePendingDrainResult;
    /// The tools that plugins of the node offer.
    NodePluginToolsUpdate = "node.pluginTools.update", Node, Command, (NodePluginToolsParams) -> NodePluginToolsResult;
    /// The skills that the node offers.
    NodeSkillsUpdate = "node.skills.update", Node, Command, (NodeSkillsParams) -> NodeSkillsResult;
    /// What the node could run for others; kept for nobody, but told to operators.
    NodeRunnerInventoryUpdate = "node.runnerInventory.update", Node, Command, (NodeRunnerInventoryParams) -> NodeRunnerInventoryResult, hidden;
}

/// Why a command failed, in the node's words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeError {
    /// A code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<NonEmpty>,
    /// A sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<NonEmpty>,
}

crate::params! {
    /// Parameters of `node.invoke.result`.
    NodeInvokeResultParams {
        required {
            /// The call.
            "id" id: NonEmpty,
            /// The node.
            "nodeId" node_id: NonEmpty,
            /// Whether the command did what it should.
            "ok" ok: bool,
        }
        optional {
            /// What it gives.
            "payload" payload: Value,
            /// The same as JSON text; counts before `payload`.
            "payloadJSON" payload_json: String,
            /// Why it failed.
            "error" error: NodeError,
        }
        ignored {}
        refused {}
    }
}

crate::params! {
    /// Parameters of `node.invoke.progress`.
    NodeInvokeProgressParams {
        required {
            /// The call.
            "invokeId" invoke_id: NonEmpty,
            /// The node.
            "nodeId" node_id: NonEmpty,
            /// Number of the piece, rising from 0.
            "seq" seq: u64,
            /// The piece.
            "chunk" chunk: Text<0, 16_384>,
        }
        optional {}
        ignored {}
        refused {}
    }
}

crate::params! {
    /// Parameters of `node.event`.
    NodeEventParams {
        required {
            /// What happened.
            "event" event: Text<1, 128>,
        }
        optional {
            /// The facts.
            "payload" payload: Value,
            /// The same as JSON text; counts before `payload`.
            "payloadJSON" payload_json: String,
        }
        ignored {}
        refused {}
    }
}

crate::params! {
    /// Parameters of `node.pending.ack`.
    NodePendingAckParams {
        required {
            /// Ids of the calls.
            "ids" ids: Vec<NonEmpty>,
        }
        optional {}
        ignored {}
        refused {}
    }
}

crate::params! {
    /// Parameters of `node.pending.drain`.
    NodePendingDrainParams {
        required {}
        optional {
            /// At most this many (default 4).
            "maxItems" max_items: Whole<1, 10>,
        }
        ignored {}
        refused {}
    }
}

crate::params! {
    /// Parameters of `node.pluginTools.update`.
    NodePluginToolsParams {
        required {
            /// All of them; those from before are forgotten.
            "tools" tools: Vec<Value>,
        }
        optional {}
        ignored {}
        refused {}
    }
}

crate::params! {
    /// Parameters of `node.skills.update`.
    NodeSkillsParams {
        required {
            /// All of them, at most 64; those from before are forgotten.
            "skills" skills: Vec<Value>,
        }
        optional {}
        ignored {}
        refused {}
    }
}

crate::params! {
    /// Parameters of `node.runnerInventory.update`.
    NodeRunnerInventoryParams {
        required {}
        optional {}
        ignored {
            "protocolFeatures": "Nothing runs on nodes but their commands.",
            "workerHost": "Nothing runs on nodes but their commands.",
        }
        refused {}
    }
}

/// Result of `node.invoke.result` and `node.invoke.progress`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeTaken {
    /// Always true.
    pub ok: bool,
    /// True where it changed nothing: too late, again, of another connection, or nobody asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ignored: Option<bool>,
}

/// Result of `node.event`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeEventResult {
    /// Always true.
    pub ok: bool,
    /// The event.
    pub event: String,
    /// Whether it means something here.
    pub handled: bool,
    /// What became of it: `persisted`, `updated`, `invalid_payload` or `unsupported_event`.
    pub reason: String,
}

/// A call that waits for its node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodePendingAction {
    /// Its id: what `node.pending.ack` takes.
    pub id: String,
    /// The command.
    pub command: String,
    /// What the command takes, as text.
    #[serde(rename = "paramsJSON")]
    pub params_json: Option<String>,
    /// When it was called, milliseconds since the Unix epoch.
    pub enqueued_at_ms: i64,
}

/// Result of `node.pending.pull`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodePendingPullResult {
    /// The node.
    pub node_id: String,
    /// Calls, the oldest first; only those that may still be called.
    pub actions: Vec<NodePendingAction>,
}

/// Result of `node.pending.ack`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodePendingAckResult {
    /// The node.
    pub node_id: String,
    /// Those that waited and are taken away.
    pub acked_ids: Vec<String>,
    /// Calls that still wait.
    pub remaining_count: u64,
}

/// Result of `node.pending.drain`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodePendingDrainResult {
    /// The node.
    pub node_id: String,
    /// Rises with each change of what waits for the node.
    pub revision: u64,
    /// Questions: those with high priority, then the oldest.
    pub items: Vec<NodePendingItem>,
    /// Whether more wait.
    pub has_more: bool,
}

/// Result of `node.pluginTools.update`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodePluginToolsResult {
    /// The node.
    pub node_id: String,
    /// What is kept.
    pub tools: Vec<Value>,
}

/// Result of `node.skills.update`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeSkillsResult {
    /// The node.
    pub node_id: String,
    /// What is kept.
    pub skills: Vec<Value>,
}

/// Result of `node.runnerInventory.update`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeRunnerInventoryResult {
    /// The node.
    pub node_id: String,
}
