//! Nodes, for operators: machines that offer commands, what was approved of them, and calls of their commands. What nodes
//! themselves call is in [`super::node_host`].

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::NoParams;
use crate::value::{NonEmpty, Text, Whole};

crate::methods! {
    /// Nodes that are paired with this tenant: who is connected, and what may be called on each.
    NodeList = "node.list", Operator(Read), Query, (NoParams) -> NodeListResult;
    /// One node: what it offers, what of it was approved, and its last signs of life.
    NodeDescribe = "node.describe", Operator(Read), Query, (NodeIdParams) -> NodeDescribeResult;
    /// Give a node a name that operators see.
    NodeRename = "node.rename", Operator(Pairing), Command, (NodeRenameParams) -> NodeRenameResult;
    /// What nodes offer and nobody approved yet, and what was approved.
    NodePairList = "node.pair.list", Operator(Pairing), Query, (NoParams) -> NodePairListResult;
    /// Approve what a node offers: its commands can be called from then on. Ordinary commands need `operator.write`, those that run
    /// programs or reach into the machine `operator.admin`.
    NodePairApprove = "node.pair.approve", Operator(Pairing), Command, (NodeRequestParams) -> NodePairApproveResult;
    /// Turn down what a node offers; what was approved before stays.
    NodePairReject = "node.pair.reject", Operator(Pairing), Command, (NodeRequestParams) -> NodePairRejectResult;
    /// Forget a node: what was approved ends, its token too, and its connections within a second.
    NodePairRemove = "node.pair.remove", Operator(Pairing), Command, (NodeIdParams) -> NodePairRemoveResult;
    /// Call a command of a node and wait for its one result.
    NodeInvoke = "node.invoke", Operator(Write), Wait, (NodeInvokeParams) -> NodeInvokeResult;
    /// Leave a question for a node that sleeps; it fetches it when it wakes.
    NodePendingEnqueue = "node.pending.enqueue", Operator(Write), Command, (NodePendingEnqueueParams) -> NodePendingEnqueueResult;
}

crate::params! {
    /// Parameters of `node.describe` and `node.pair.remove`.
    NodeIdParams {
        required {
            /// Id of the node.
            "nodeId" node_id: NonEmpty,
        }
        optional {}
        ignored {}
        refused {}
    }
}

crate::params! {
    /// Parameters of `node.rename`.
    NodeRenameParams {
        required {
            /// Id of the node.
            "nodeId" node_id: NonEmpty,
            /// Its new name.
            "displayName" display_name: Text<1, 64>,
        }
        optional {}
        ignored {}
        refused {}
    }
}

crate::params! {
    /// Parameters of `node.pair.approve` and `node.pair.reject`.
    NodeRequestParams {
        required {
            /// Id of the request.
            "requestId" request_id: NonEmpty,
        }
        optional {}
        ignored {}
        refused {}
    }
}

crate::params! {
    /// Parameters of `node.invoke`.
    NodeInvokeParams {
        required {
            /// Id of the node.
            "nodeId" node_id: NonEmpty,
            /// The command.
            "command" command: Text<1, 128>,
            /// The call's name: the same call again under the same name is not a second one, for five minutes.
            "idempotencyKey" idempotency_key: Text<1, 256>,
        }
        optional {
            /// What the command takes.
            "params" params: Value,
            /// Milliseconds to wait for the result (default 30000, 0 too; at most an hour).
            "timeoutMs" timeout_ms: u64,
            /// Whether the caller's connection gets `node.invoke.progress` events of the call (default false). Not in OpenClaw.
            "progress" progress: bool,
            /// Whether the call waits for the node where it is not connected, for a day: the answer says `queued`, and the node
            /// fetches the call when it wakes (default false). Not in OpenClaw.
            "queue" queue: bool,
        }
        ignored {
            "sessionKey": "Calls belong to their caller and not to a session.",
            "turnSourceChannel": "Nothing is sent to a channel for a call.",
            "turnSourceTo": "Nothing is sent to a channel for a call.",
            "turnSourceAccountId": "Nothing is sent to a channel for a call.",
            "turnSourceThreadId": "Nothing is sent to a channel for a call.",
        }
        refused {}
    }
}

/// What a node can be asked while it sleeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NodePendingKind {
    /// How it is.
    #[default]
    #[serde(rename = "status.request")]
    Status,
    /// Where it is.
    #[serde(rename = "location.request")]
    Location,
}

impl NodePendingKind {
    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            NodePendingKind::Status => "status.request",
            NodePendingKind::Location => "location.request",
        }
    }
}

/// What goes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NodePendingPriority {
    /// In its turn.
    #[default]
    Normal,
    /// Before the others.
    High,
}

crate::params! {
    /// Parameters of `node.pending.enqueue`.
    NodePendingEnqueueParams {
        required {
            /// Id of the node.
            "nodeId" node_id: NonEmpty,
            /// The question. There is one of each kind at a time: the same again takes the place of the older one.
            "type" kind: NodePendingKind,
        }
        optional {
            /// `normal` (default) or `high`.
            "priority" priority: NodePendingPriority,
            /// Milliseconds until the question is worth nothing any more (default a day).
            "expiresInMs" expires_in_ms: Whole<1_000, 86_400_000>,
        }
        ignored {
            "wake": "There is no push service that could wake a node; `wakeTriggered` says so.",
        }
        refused {}
    }
}

/// Numbers of the machine that a node runs on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeHostStats {
    /// Processors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_count: Option<u32>,
    /// Load of the last 1, 5 and 15 minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_average: Option<Vec<f64>>,
    /// Memory, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_total_bytes: Option<u64>,
    /// Memory that is free, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_free_bytes: Option<u64>,
    /// Size of the disk, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_total_bytes: Option<u64>,
    /// What is free of it, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_available_bytes: Option<u64>,
    /// When the node told them, milliseconds since the Unix epoch.
    #[serde(default)]
    pub updated_at_ms: i64,
}

/// A node as operators see it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeView {
    /// Lower-case hex SHA-256 of its public key: the id of the device that it is.
    pub node_id: String,
    /// The name that an operator gave it, or that it gives itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Its platform as it was approved.
    pub platform: String,
    /// Its version as it said last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// `client.id` as it was approved.
    pub client_id: String,
    /// `client.mode` as it was approved.
    pub client_mode: String,
    /// Its device family as it was approved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_family: Option<String>,
    /// Groups of commands that were approved and are offered, sorted.
    pub caps: Vec<String>,
    /// Commands that can be called, sorted: approved, offered by the connected node, and allowed by the settings. Of a node that is
    /// not connected, those that were approved and are allowed.
    pub commands: Vec<String>,
    /// Always false: sessions do not run on nodes.
    pub session_host: bool,
    /// Tools that its plugins offer, in its own words; only while it is connected and approved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_plugin_tools: Option<Vec<Value>>,
    /// Skills that it offers, in its own words; only while it is connected, approved and has some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_skills: Option<Vec<Value>>,
    /// Its numbers, as it told them last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_stats: Option<NodeHostStats>,
    /// Permissions that were approved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permissions: Option<BTreeMap<String, bool>>,
    /// Its search path; only while it is connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_env: Option<String>,
    /// `approved`, `pending-approval` (nothing is approved yet), `pending-reapproval` (it offers more than was approved) or
    /// `unapproved` (turned down).
    pub approval_state: String,
    /// The request that waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_request_id: Option<String>,
    /// What the request names, sorted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_declared_caps: Option<Vec<String>>,
    /// What the request names, sorted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_declared_commands: Option<Vec<String>>,
    /// What the request names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_declared_permissions: Option<BTreeMap<String, bool>>,
    /// Since when it is connected, milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connected_at_ms: Option<i64>,
    /// When it connected last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_connected_at_ms: Option<i64>,
    /// When it gave a sign of life last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen_at_ms: Option<i64>,
    /// Which: `connect`, `disconnect`, or the word of the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen_reason: Option<String>,
    /// When its commands were approved, or before that the device.
    pub approved_at_ms: i64,
    /// Always true: others are not listed.
    pub paired: bool,
    /// Whether it is connected now.
    pub connected: bool,
}

/// Result of `node.list`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NodeListResult {
    /// When, milliseconds since the Unix epoch.
    pub ts: i64,
    /// Connected ones first, then the newest approval.
    pub nodes: Vec<NodeView>,
}

/// Result of `node.describe`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NodeDescribeResult {
    /// When, milliseconds since the Unix epoch.
    pub ts: i64,
    /// The node.
    #[serde(flatten)]
    pub node: NodeView,
}

/// Result of `node.rename`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeRenameResult {
    /// The node.
    pub node_id: String,
    /// Its name now.
    pub display_name: String,
}

/// What a node offers and nobody approved yet. Also the payload of `node.pair.requested`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeRequestView {
    /// Its id: what `node.pair.approve` takes.
    pub request_id: String,
    /// The node.
    pub node_id: String,
    /// `client.id` of the device.
    pub client_id: String,
    /// `client.mode` of the device.
    pub client_mode: String,
    /// The name that an operator gave it, or that it gives itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Its platform.
    pub platform: String,
    /// Its version, in its own words.
    pub version: String,
    /// Its device family.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_family: Option<String>,
    /// Groups of commands.
    pub caps: Vec<String>,
    /// Commands, without those that the platform or the settings do not allow.
    pub commands: Vec<String>,
    /// Scopes that whoever approves needs.
    pub required_approve_scopes: Vec<String>,
    /// Permissions that the node has on its machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permissions: Option<BTreeMap<String, bool>>,
    /// Always false: commands are never approved without a person.
    pub silent: bool,
    /// When it asked, milliseconds since the Unix epoch.
    pub ts: i64,
}

/// What was approved of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApprovedNodeView {
    /// The node.
    pub node_id: String,
    /// `client.id` of the device.
    pub client_id: String,
    /// `client.mode` of the device.
    pub client_mode: String,
    /// The name that an operator gave it, or that it gives itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Its platform.
    pub platform: String,
    /// Its version as it said last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Its device family.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_family: Option<String>,
    /// Groups of commands.
    pub caps: Vec<String>,
    /// Commands.
    pub commands: Vec<String>,
    /// Permissions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permissions: Option<BTreeMap<String, bool>>,
    /// When something was approved first, milliseconds since the Unix epoch.
    pub created_at_ms: i64,
    /// When something was approved last.
    pub approved_at_ms: i64,
    /// When it gave a sign of life last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen_at_ms: Option<i64>,
    /// Which.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen_reason: Option<String>,
}

/// Result of `node.pair.list`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodePairListResult {
    /// Requests, the newest first.
    pub pending: Vec<NodeRequestView>,
    /// What was approved, the newest approval first.
    pub paired: Vec<ApprovedNodeView>,
}

/// Result of `node.pair.approve`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodePairApproveResult {
    /// The request.
    pub request_id: String,
    /// What is approved now.
    pub node: ApprovedNodeView,
}

/// Result of `node.pair.reject`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodePairRejectResult {
    /// The request.
    pub request_id: String,
    /// The node.
    pub node_id: String,
}

/// Result of `node.pair.remove`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodePairRemoveResult {
    /// The node.
    pub node_id: String,
}

/// Result of `node.invoke`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeInvokeResult {
    /// Always true; failures are errors.
    pub ok: bool,
    /// The node.
    pub node_id: String,
    /// The command.
    pub command: String,
    /// What the node answered.
    pub payload: Value,
    /// The same as text, where the node answered with text.
    #[serde(rename = "payloadJSON")]
    pub payload_json: Option<String>,
    /// With `queue`: the call waits for the node under this id, and `payload` is null.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queued: Option<NodeQueuedCall>,
}

/// A call that waits for its node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeQueuedCall {
    /// Its id: what the node acknowledges.
    pub id: String,
    /// When it is worth nothing any more, milliseconds since the Unix epoch.
    pub expires_at_ms: i64,
}

/// A question that waits for a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodePendingItem {
    /// Its id.
    pub id: String,
    /// What is asked.
    #[serde(rename = "type")]
    pub kind: NodePendingKind,
    /// What goes first.
    pub priority: NodePendingPriority,
    /// When it was asked, milliseconds since the Unix epoch.
    pub created_at_ms: i64,
    /// When it is worth nothing any more.
    pub expires_at_ms: i64,
}

/// Result of `node.pending.enqueue`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodePendingEnqueueResult {
    /// The node.
    pub node_id: String,
    /// Rises with each change of what waits for the node.
    pub revision: u64,
    /// The question.
    pub queued: NodePendingItem,
    /// Always false: nothing wakes a node.
    pub wake_triggered: bool,
}

/// Payload of `node.pair.resolved`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodePairResolvedPayload {
    /// The request; empty where there was none.
    pub request_id: String,
    /// The node.
    pub node_id: String,
    /// `approved`, `rejected`, or `removed`.
    pub decision: String,
    /// When, milliseconds since the Unix epoch.
    pub ts: i64,
}

/// Payload of `node.hostStats`.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeHostStatsPayload {
    /// The node.
    pub node_id: String,
    /// Its numbers.
    pub host_stats: NodeHostStats,
}

/// Payload of `node.runnerInventory.changed`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeChangedPayload {
    /// The node.
    pub node_id: String,
}

/// Payload of `node.invoke.request`, for the node alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeInvokeRequestPayload {
    /// The call: what the result names.
    pub id: String,
    /// The node.
    pub node_id: String,
    /// The command.
    pub command: String,
    /// What the command takes, as text; null where it was called without.
    #[serde(rename = "paramsJSON")]
    pub params_json: Option<String>,
    /// Milliseconds that are left for the answer.
    pub timeout_ms: u64,
    /// The caller's name for the call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
}

/// Payload of `node.invoke.cancel`, for the node alone: nobody waits for the answer any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeInvokeCancelPayload {
    /// The call.
    pub invoke_id: String,
    /// The node.
    pub node_id: String,
}

/// Payload of `node.invoke.progress`, for the caller alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeInvokeProgressPayload {
    /// The call.
    pub invoke_id: String,
    /// The node.
    pub node_id: String,
    /// The caller's name for the call.
    pub idempotency_key: String,
    /// Number of the piece, rising.
    pub seq: u64,
    /// The piece.
    pub chunk: String,
}
