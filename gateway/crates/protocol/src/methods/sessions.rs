//! Sessions: list, describe, create, reset, delete, subscribe.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::NoParams;
use crate::value::{NonEmpty, Positive, Text};

crate::methods! {
    /// The tenant's sessions, most recently changed first.
    SessionsList = "sessions.list", Operator(Read), Query, (SessionsListParams) -> SessionsListResult;
    /// One session, or null.
    SessionsDescribe = "sessions.describe", Operator(Read), Query, (SessionsDescribeParams) -> SessionsDescribeResult;
    /// Make a session, or return the one of this key; with a message, start its first run.
    SessionsCreate = "sessions.create", Operator(Write), Command, (SessionsCreateParams) -> SessionsCreateResult;
    /// Give a session a new, empty history.
    SessionsReset = "sessions.reset", Operator(Admin), Command, (SessionsResetParams) -> SessionsResetResult;
    /// Delete a session and its history.
    SessionsDelete = "sessions.delete", Operator(Write), Command, (SessionsDeleteParams) -> SessionsDeleteResult;
    /// Receive `sessions.changed`.
    SessionsSubscribe = "sessions.subscribe", Operator(Read), Command, (SessionsSubscribeParams) -> SubscribedResult;
    /// Stop receiving `sessions.changed`.
    SessionsUnsubscribe = "sessions.unsubscribe", Operator(Read), Command, (NoParams) -> SubscribedResult;
    /// Receive `session.message` of one session.
    SessionsMessagesSubscribe = "sessions.messages.subscribe", Operator(Read), Command,
        (SessionsMessagesSubscribeParams) -> SessionsMessagesSubscribedResult;
    /// Stop receiving `session.message` of one session.
    SessionsMessagesUnsubscribe = "sessions.messages.unsubscribe", Operator(Read), Command,
        (SessionsMessagesUnsubscribeParams) -> SessionsMessagesSubscribedResult;
}

/// Orders of `sessions.list`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum SessionSort {
    /// Most recently changed first.
    #[default]
    UpdatedAt,
}

/// A flag that may only be true; saying false would ask for something that is not offered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OnlyTrue;

impl Serialize for OnlyTrue {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bool(true)
    }
}

impl<'de> Deserialize<'de> for OnlyTrue {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        if bool::deserialize(d)? {
            Ok(OnlyTrue)
        } else {
            Err(serde::de::Error::custom("must be true"))
        }
    }
}

impl JsonSchema for OnlyTrue {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "OnlyTrue".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "boolean", "const": true })
    }
}

crate::params! {
    /// Parameters of `sessions.list`.
    SessionsListParams {
        required {}
        optional {
            /// Most rows to return.
            "limit" limit: Positive,
            /// Rows to skip.
            "offset" offset: u64,
            /// Only sessions that changed in so many minutes.
            "activeMinutes" active_minutes: Positive,
            /// The order; only `updatedAt` is offered.
            "sortBy" sort_by: SessionSort,
            /// Only sessions with this label.
            "label" label: Text<1, 512>,
            /// Only sessions of this agent.
            "agentId" agent_id: NonEmpty,
            /// Only sessions whose key, label or name contains this text.
            "search" search: String,
        }
        ignored {
            "includeGlobal": "There is no global session that could be added or left out.",
            "includeUnknown": "There is no unknown session that could be added or left out.",
            "configuredAgentsOnly": "Every session belongs to a configured agent.",
            "includeDerivedTitles": "Rows show the label or the display name.",
            "includeLastMessage": "Rows show no preview.",
            "ownerFirst": "A tenant has one owner.",
            "involvingMe": "A tenant has one owner, who is part of every session.",
            "includePeople": "A tenant has one owner.",
        }
        refused {
            "requireLastInteraction": "Not kept apart from other changes.",
            "boardFace": "There are no boards.",
            "creatorId": "Creators are not recorded.",
            "ownerId": "Sessions have no owners below the tenant.",
            "involvingProfileId": "There are no profiles.",
            "spawnedBy": "Sessions do not spawn sessions.",
            "archived": "Sessions cannot be archived.",
        }
    }
}

/// A session as a row.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionRow {
    /// Its canonical key.
    pub key: String,
    /// `direct`, `group`, `global` or `unknown`.
    pub kind: SessionKind,
    /// Its present id; a reset gives a new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// Label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Name to show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Channel that it came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// The agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<String>,
    /// Account of the channel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account_id: Option<String>,
    /// Whether it is its agent's main session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_main: Option<bool>,
    /// `direct`, `group` or `channel`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat_type: Option<ChatType>,
    /// When it was made, milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<i64>,
    /// When it changed, milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<i64>,
    /// Last message in or out, milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_activity_at: Option<i64>,
    /// State of its last run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<SessionStatus>,
    /// Why its last run failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_run_error: Option<String>,
    /// Its last run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_run_id: Option<String>,
    /// Whether a run is going on or waiting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub has_active_run: Option<bool>,
    /// Runs that are going on or waiting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_run_ids: Option<Vec<String>>,
    /// Provider of its model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_provider: Option<String>,
    /// Its model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Prompt tokens used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_tokens: Option<u64>,
    /// Completion tokens used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_tokens: Option<u64>,
    /// All tokens used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_tokens: Option<u64>,
}

/// Kinds of sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SessionKind {
    /// A direct conversation, or one that an operator named.
    #[default]
    Direct,
    /// A group.
    Group,
    /// The key `global`.
    Global,
    /// The key `unknown`.
    Unknown,
}

/// Kinds of conversations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ChatType {
    /// With one person.
    Direct,
    /// A group.
    Group,
    /// A channel or room.
    Channel,
}

/// State of a session's last run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SessionStatus {
    /// Waiting.
    Queued,
    /// Going on.
    Running,
    /// Ended well.
    Done,
    /// Failed.
    Failed,
    /// Stopped.
    Killed,
    /// Took too long.
    Timeout,
}

/// Model defaults in `sessions.list`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionDefaults {
    /// Provider of the default agent's model.
    pub model_provider: Option<String>,
    /// The default agent's model.
    pub model: Option<String>,
    /// Its context window, in tokens.
    pub context_tokens: Option<u64>,
}

/// Result of `sessions.list`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionsListResult {
    /// When it was made, milliseconds since the Unix epoch.
    pub ts: i64,
    /// Where sessions are kept; a label, not a path.
    pub path: String,
    /// Rows in this answer.
    pub count: u64,
    /// Rows in all that fit the question.
    pub total_count: u64,
    /// The limit that was applied.
    pub limit_applied: u64,
    /// Give this as `offset` to go on; null at the end.
    pub next_offset: Option<u64>,
    /// Whether there is more.
    pub has_more: bool,
    /// What a new session gets.
    pub defaults: SessionDefaults,
    /// The rows.
    pub sessions: Vec<SessionRow>,
}

crate::params! {
    /// Parameters of `sessions.describe`.
    SessionsDescribeParams {
        required {
            /// The session, whole or short key.
            "key" key: NonEmpty,
        }
        optional {
            /// The agent that a short key belongs to.
            "agentId" agent_id: NonEmpty,
        }
        ignored {
            "includeDerivedTitles": "The row shows the label or the display name.",
            "includeLastMessage": "The row shows no preview.",
        }
        refused {}
    }
}

/// Result of `sessions.describe`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SessionsDescribeResult {
    /// The session, or null.
    pub session: Option<SessionRow>,
}

crate::params! {
    /// Parameters of `sessions.create`.
    SessionsCreateParams {
        required {}
        optional {
            /// Key, whole or short; absent: a new random one.
            "key" key: NonEmpty,
            /// A repeat with the same key and parameters returns the first answer.
            "idempotencyKey" idempotency_key: Text<1, 256>,
            /// The agent.
            "agentId" agent_id: NonEmpty,
            /// Label.
            "label" label: Text<1, 512>,
            /// Name to show.
            "displayName" display_name: Text<1, 500>,
            /// First message; it starts a run.
            "message" message: String,
        }
        ignored {
            "parentSessionKey": "Lineage is not shown anywhere.",
            "spawnDepth": "Lineage is not shown anywhere.",
            "emitCommandHooks": "There are no command hooks.",
            "succeedsParent": "Lineage is not shown anywhere.",
        }
        refused {
            "category": "Sessions have no categories.",
            "model": "The agent's configuration names the model.",
            "contextWindow": "The agent's configuration decides.",
            "thinkingLevel": "The agent's configuration decides.",
            "fastMode": "Not offered.",
            "permissionMode": "Not offered.",
            "toolOverrides": "The agent's configuration decides.",
            "incognito": "Every message is recorded.",
            "visibility": "Sessions are visible to the whole tenant.",
            "catalogId": "There is no session catalog.",
            "fork": "Sessions cannot be forked.",
            "forkFrom": "Sessions cannot be forked.",
            "task": "Not offered; use `message`.",
            "attachments": "Attachments are not stored yet.",
            "projectId": "There are no projects.",
            "projectGitUrl": "There are no projects.",
            "worktree": "There are no worktrees.",
            "worktreeBaseRef": "There are no worktrees.",
            "worktreeName": "There are no worktrees.",
            "execNode": "Sessions do not run commands on nodes.",
            "cwd": "Sessions have no working directory.",
        }
    }
}

/// Result of `sessions.create`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionsCreateResult {
    /// Always true.
    pub ok: bool,
    /// Canonical key.
    pub key: String,
    /// Present id of the session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// Facts of the session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<BTreeMap<String, Value>>,
    /// Whether the first message started a run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_started: Option<bool>,
    /// That run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
    /// Position of the first message, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_seq: Option<u64>,
}

/// Why a session is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ResetReason {
    /// A new conversation.
    New,
    /// The old one is to be forgotten.
    Reset,
}

crate::params! {
    /// Parameters of `sessions.reset`.
    SessionsResetParams {
        required {
            /// The session, whole or short key.
            "key" key: NonEmpty,
        }
        optional {
            /// The agent that a short key belongs to.
            "agentId" agent_id: NonEmpty,
            /// Why; it is shown in `sessions.changed`.
            "reason" reason: ResetReason,
        }
        ignored {}
        refused {}
    }
}

/// Result of `sessions.reset`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SessionsResetResult {
    /// Always true.
    pub ok: bool,
    /// Canonical key.
    pub key: String,
    /// The session after the reset.
    pub entry: SessionResetEntry,
}

/// A session after its reset.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionResetEntry {
    /// Its new id.
    pub session_id: String,
    /// When it changed, milliseconds since the Unix epoch.
    pub updated_at: i64,
    /// Label, kept over the reset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

crate::params! {
    /// Parameters of `sessions.delete`.
    SessionsDeleteParams {
        required {
            /// The session, whole or short key.
            "key" key: NonEmpty,
        }
        optional {
            /// The agent that a short key belongs to.
            "agentId" agent_id: NonEmpty,
            /// The history is always deleted too; false is not offered.
            "deleteTranscript" delete_transcript: OnlyTrue,
            /// Delete only if this is still the session's id.
            "expectedSessionId" expected_session_id: NonEmpty,
        }
        ignored {
            "emitLifecycleHooks": "There are no lifecycle hooks.",
        }
        refused {
            "expectedLifecycleRevision": "Not kept; a guard that is not checked would be a trap.",
            "expectedSessionUpdatedAt": "Not checked; a guard that is not checked would be a trap.",
            "archivedOnly": "Sessions cannot be archived.",
        }
    }
}

/// Result of `sessions.delete`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SessionsDeleteResult {
    /// Always true.
    pub ok: bool,
    /// Canonical key.
    pub key: String,
    /// Whether there was something to delete.
    pub deleted: bool,
    /// Always empty: nothing is archived.
    pub archived: Vec<String>,
}

crate::params! {
    /// Parameters of `sessions.subscribe`.
    SessionsSubscribeParams {
        required {}
        optional {}
        ignored {
            "ownerFirst": "The answer holds no list.",
            "includeGlobal": "The answer holds no list.",
            "includeUnknown": "The answer holds no list.",
            "includeDerivedTitles": "The answer holds no list.",
            "includeLastMessage": "The answer holds no list.",
            "includePeople": "The answer holds no list.",
        }
        refused {
            "limit": "The answer holds no list; use `sessions.list`.",
            "offset": "The answer holds no list; use `sessions.list`.",
            "activeMinutes": "The answer holds no list; use `sessions.list`.",
            "agentId": "The subscription is for all sessions.",
            "label": "The subscription is for all sessions.",
            "search": "The subscription is for all sessions.",
            "archived": "Sessions cannot be archived.",
        }
    }
}

/// Result of `sessions.subscribe` and `sessions.unsubscribe`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SubscribedResult {
    /// Whether the connection is subscribed now.
    pub subscribed: bool,
}

crate::params! {
    /// Parameters of `sessions.messages.subscribe`.
    SessionsMessagesSubscribeParams {
        required {
            /// The session, whole or short key.
            "key" key: NonEmpty,
        }
        optional {
            /// The agent that a short key belongs to.
            "agentId" agent_id: NonEmpty,
            /// Also return the pending approvals of the session.
            "includeApprovals" include_approvals: OnlyTrue,
        }
        ignored {}
        refused {}
    }
}

crate::params! {
    /// Parameters of `sessions.messages.unsubscribe`.
    SessionsMessagesUnsubscribeParams {
        required {
            /// The session, whole or short key.
            "key" key: NonEmpty,
        }
        optional {
            /// The agent that a short key belongs to.
            "agentId" agent_id: NonEmpty,
        }
        ignored {}
        refused {}
    }
}

/// Result of `sessions.messages.subscribe` and `sessions.messages.unsubscribe`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionsMessagesSubscribedResult {
    /// Whether the connection is subscribed now.
    pub subscribed: bool,
    /// Canonical key.
    pub key: String,
    /// Pending approvals, when they were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval_replay: Option<ApprovalReplay>,
}

/// Pending approvals of a session. There are no approvals yet: the list is empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApprovalReplay {
    /// Canonical key.
    pub session_key: String,
    /// When it was made, milliseconds since the Unix epoch.
    pub updated_at_ms: i64,
    /// The approvals.
    pub approvals: Vec<Value>,
    /// Whether some are left out.
    pub truncated: bool,
}
