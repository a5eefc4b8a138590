//! Chat: send, history, abort, inject.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::sessions::{SessionDefaults, SessionRow};
use crate::content::ChatMessage;
use crate::value::{NonEmpty, Text, Whole};

crate::methods! {
    /// Send a user message to a session and start a run.
    ChatSend = "chat.send", Operator(Write), Command, (ChatSendParams) -> ChatSendResult;
    /// A session's messages, oldest first.
    ChatHistory = "chat.history", Operator(Read), Query, (ChatHistoryParams) -> ChatHistoryResult;
    /// Stop the runs of a session, or one of them.
    ChatAbort = "chat.abort", Operator(Write), Command, (ChatAbortParams) -> ChatAbortResult;
    /// Put an assistant message into a session without a run.
    ChatInject = "chat.inject", Operator(Admin), Command, (ChatInjectParams) -> ChatInjectResult, hidden;
}

/// What happens with a message that arrives while a run is going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum QueueMode {
    /// It waits and gets its own run.
    Followup,
    /// It stops the run and gets its own.
    Interrupt,
}

crate::params! {
    /// Parameters of `chat.send`.
    ChatSendParams {
        required {
            /// The session, whole or short key.
            "sessionKey" session_key: Text<1, 512>,
            /// The text.
            "message" message: String,
            /// Names the run; a repeat returns the state of that run.
            "idempotencyKey" idempotency_key: Text<1, 256>,
        }
        optional {
            /// The agent that a short key belongs to.
            "agentId" agent_id: NonEmpty,
            /// Send only if this is still the session's id.
            "sessionId" session_id: NonEmpty,
            /// What happens while a run is going on; `steer` and `collect` are not offered.
            "queueMode" queue_mode: QueueMode,
            /// Longest time for the run from its first start, in milliseconds, also across a crash.
            "timeoutMs" timeout_ms: u64,
        }
        ignored {
            "suppressCommandInterpretation": "A message is never taken for a command.",
            "workContext": "A hint of the Control UI about the open page.",
        }
        refused {
            "mentions": "There are no profiles to mention.",
            "intent": "There are no session goals.",
            "thinking": "The agent's configuration decides.",
            "fastMode": "Not offered.",
            "fastAutoOnSeconds": "Not offered.",
            "deliver": "Replies of this method are not sent to a channel; use `send`.",
            "originatingChannel": "Replies of this method are not sent to a channel.",
            "originatingTo": "Replies of this method are not sent to a channel.",
            "originatingAccountId": "Replies of this method are not sent to a channel.",
            "originatingThreadId": "Replies of this method are not sent to a channel.",
            "replyToId": "Messages cannot quote others.",
            "attachments": "Attachments are not stored yet.",
            "toolBindings": "The agent's configuration decides.",
            "systemInputProvenance": "Only for OpenClaw's own parts.",
            "systemProvenanceReceipt": "Only for OpenClaw's own parts.",
            "expectedLeafEntryId": "Not checked; a guard that is not checked would be a trap.",
            "expectedSessionRoutingContract": "Not checked; a guard that is not checked would be a trap.",
            "expectedPermissionMode": "Not checked; a guard that is not checked would be a trap.",
            "expectedToolOverrides": "Not checked; a guard that is not checked would be a trap.",
        }
    }
}

/// Result of `chat.send`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChatSendResult {
    /// The run.
    pub run_id: String,
    /// `started`; on a repeat `in_flight`, `ok`, `error` or `aborted`.
    pub status: String,
}

crate::params! {
    /// Parameters of `chat.history`.
    ChatHistoryParams {
        required {
            /// The session, whole or short key.
            "sessionKey" session_key: NonEmpty,
        }
        optional {
            /// The agent that a short key belongs to.
            "agentId" agent_id: NonEmpty,
            /// Most messages to return; the newest are taken.
            "limit" limit: Whole<1, 1000>,
            /// Most bytes of messages to return.
            "maxBytes" max_bytes: Whole<1024, 26_214_400>,
            /// Newest messages to skip.
            "offset" offset: u64,
            /// Texts longer than this are cut, in characters.
            "maxChars" max_chars: Whole<1, 500_000>,
        }
        ignored {
            "pendingBefore": "Waiting messages are part of the history.",
        }
        refused {
            "cursor": "Changes since a cursor are not offered; use `session.message` events.",
            "inputRunIds": "Receipts are not offered; use `agent.wait`.",
            "messageId": "Not offered; use `offset`.",
            "sessionId": "Histories before a reset are not offered.",
        }
    }
}

/// Result of `chat.history`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChatHistoryResult {
    /// Canonical key.
    pub session_key: String,
    /// Present id of the session; absent when there is none yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// The messages, oldest first.
    pub messages: Vec<ChatMessage>,
    /// Whether there are older ones.
    pub has_more: bool,
    /// Messages in all.
    pub total_messages: u64,
    /// What a new session gets.
    pub defaults: SessionDefaults,
    /// The session's row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_info: Option<SessionRow>,
    /// The run that is going on, with its text so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight_run: Option<InFlightRun>,
}

/// A run that is going on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InFlightRun {
    /// The run.
    pub run_id: String,
    /// Its text so far.
    pub text: String,
    /// When it began, milliseconds since the Unix epoch.
    pub started_at: i64,
}

crate::params! {
    /// Parameters of `chat.abort`.
    ChatAbortParams {
        required {
            /// The session, whole or short key.
            "sessionKey" session_key: NonEmpty,
        }
        optional {
            /// The agent that a short key belongs to.
            "agentId" agent_id: NonEmpty,
            /// Only this run; absent: all runs of the session, also those that wait.
            "runId" run_id: NonEmpty,
        }
        ignored {
            "preserveSideRuns": "There are no side runs.",
        }
        refused {}
    }
}

/// Result of `chat.abort`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChatAbortResult {
    /// Always true.
    pub ok: bool,
    /// Whether a run was stopped.
    pub aborted: bool,
    /// The runs that were stopped.
    pub run_ids: Vec<String>,
}

crate::params! {
    /// Parameters of `chat.inject`.
    ChatInjectParams {
        required {
            /// The session, whole or short key.
            "sessionKey" session_key: NonEmpty,
            /// The text.
            "message" message: NonEmpty,
        }
        optional {
            /// The agent that a short key belongs to.
            "agentId" agent_id: NonEmpty,
            /// Written before the text in brackets.
            "label" label: Text<0, 100>,
        }
        ignored {}
        refused {}
    }
}

/// Result of `chat.inject`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChatInjectResult {
    /// Always true.
    pub ok: bool,
    /// Id of the row.
    pub message_id: String,
}
