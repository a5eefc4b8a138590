//! Heartbeats and system events: an agent that looks by itself, and texts that it then sees.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::cron::WakeMode;
use super::{NoParams, OkResult};
use crate::value::NonEmpty;

crate::methods! {
    /// Put a text before the agent's next message; with mode `now` the agent looks at it at once.
    Wake = "wake", Operator(Write), Command, (WakeParams) -> OkResult;
    /// Put a text before the next message of the default agent's main session.
    SystemEvent = "system-event", Operator(Admin), Command, (SystemEventParams) -> OkResult;
    /// What the last heartbeat did, or null.
    LastHeartbeat = "last-heartbeat", Operator(Read), Query, (NoParams) -> LastHeartbeatResult;
    /// Switch all heartbeats of the tenant off, or on as far as the configuration has them; survives a restart.
    SetHeartbeats = "set-heartbeats", Operator(Admin), Command, (SetHeartbeatsParams) -> SetHeartbeatsResult;
}

crate::params! {
    /// Parameters of `wake`.
    WakeParams {
        required {
            /// When it is looked at.
            "mode" mode: WakeMode,
            /// The text.
            "text" text: NonEmpty,
        }
        optional {
            /// Session (default: the agent's main session).
            "sessionKey" session_key: NonEmpty,
            /// Agent (default: the default agent).
            "agentId" agent_id: NonEmpty,
        }
        ignored {}
        refused {}
    }
}

crate::params! {
    /// Parameters of `system-event`.
    SystemEventParams {
        required {
            /// The text.
            "text" text: NonEmpty,
        }
        optional {}
        ignored {
            "deviceId": "Presence is what the gateway sees, not what a client says.",
            "host": "Presence is what the gateway sees, not what a client says.",
            "ip": "Presence is what the gateway sees, not what a client says.",
            "instanceId": "Presence is what the gateway sees, not what a client says.",
            "mode": "Presence is what the gateway sees, not what a client says.",
            "platform": "Presence is what the gateway sees, not what a client says.",
            "version": "Presence is what the gateway sees, not what a client says.",
            "reason": "Presence is what the gateway sees, not what a client says.",
            "lastInputSeconds": "Presence is what the gateway sees, not what a client says.",
            "roles": "Presence is what the gateway sees, not what a client says.",
            "scopes": "Presence is what the gateway sees, not what a client says.",
            "tags": "Presence is what the gateway sees, not what a client says.",
        }
        refused {}
    }
}

crate::params! {
    /// Parameters of `set-heartbeats`.
    SetHeartbeatsParams {
        required {
            /// Whether there are heartbeats.
            "enabled" enabled: bool,
        }
        optional {}
        ignored {}
        refused {}
    }
}

/// Result of `set-heartbeats`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SetHeartbeatsResult {
    /// Always true.
    pub ok: bool,
    /// As asked.
    pub enabled: bool,
}

/// Result of `last-heartbeat`: the heartbeat, or null.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LastHeartbeatResult(pub Option<HeartbeatPayload>);

impl JsonSchema for LastHeartbeatResult {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "LastHeartbeatResult".into()
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let mut schema = HeartbeatPayload::json_schema(generator);
        schema.insert("type".to_owned(), serde_json::json!(["object", "null"]));
        schema
    }
}

/// What a heartbeat did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum HeartbeatStatus {
    /// It had news, and they are on their way.
    Sent,
    /// It had none.
    OkToken,
    /// It did not run, or its news went nowhere; `reason` says why.
    Skipped,
    /// It failed.
    Failed,
}

/// A heartbeat: payload of the event `heartbeat`, and result of `last-heartbeat`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeartbeatPayload {
    /// When.
    pub ts: i64,
    /// What it did.
    pub status: HeartbeatStatus,
    /// The agent.
    pub agent_id: String,
    /// Begin of the reply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preview: Option<String>,
    /// Channel kind that the news went to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// Why: `quiet-hours`, `requests-in-flight`, `too-soon`, `flood`, `no-route`, `target-none`, or an error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Always false: replies are text.
    pub has_media: bool,
    /// How long it took.
    pub duration_ms: i64,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}
