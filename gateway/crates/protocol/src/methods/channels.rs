//! Channels: accounts, pairing of contacts, sending, the outbox.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::value::{NonEmpty, Text, Whole};

crate::methods! {
    /// The channel accounts and how they are.
    ChannelsStatus = "channels.status", Operator(Read), Query, (ChannelsStatusParams) -> ChannelsStatusResult;
    /// Start the accounts of a channel, or one of them.
    ChannelsStart = "channels.start", Operator(Admin), Command, (ChannelsStartParams) -> ChannelsSwitchResult;
    /// Stop the accounts of a channel, or one of them.
    ChannelsStop = "channels.stop", Operator(Admin), Command, (ChannelsStopParams) -> ChannelsSwitchResult;
    /// Senders that wait to be let in.
    ChannelsPairingList = "channels.pairing.list", Operator(Pairing), Query,
        (ChannelsPairingListParams) -> ChannelsPairingListResult;
    /// Let a sender in.
    ChannelsPairingApprove = "channels.pairing.approve", Operator(Pairing), Command,
        (ChannelsPairingApproveParams) -> ChannelsPairingApproveResult;
    /// Send a message to a conversation of a channel.
    Send = "send", Operator(Write), Command, (SendParams) -> SendResult;
    /// Replies on their way, and those whose fate is unknown.
    OutboxList = "outbox.list", Operator(Read), Query, (OutboxListParams) -> OutboxListResult, ours;
}

crate::params! {
    /// Parameters of `channels.status`.
    ChannelsStatusParams {
        required {}
        optional {
            /// Only this channel.
            "channel" channel: NonEmpty,
        }
        ignored {
            "timeoutMs": "Nothing is waited for.",
        }
        refused {
            "probe": "Accounts are not probed; the row shows what they last said.",
        }
    }
}

/// Result of `channels.status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChannelsStatusResult {
    /// When it was made, milliseconds since the Unix epoch.
    pub ts: i64,
    /// Channel kinds in the order to show them.
    pub channel_order: Vec<String>,
    /// Names to show for them.
    pub channel_labels: BTreeMap<String, String>,
    /// Facts of each kind.
    pub channels: BTreeMap<String, Value>,
    /// Accounts of each kind.
    pub channel_accounts: BTreeMap<String, Vec<ChannelAccountRow>>,
    /// The account that is meant when none is named.
    pub channel_default_account_id: BTreeMap<String, String>,
}

/// A channel account.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChannelAccountRow {
    /// Its id.
    pub account_id: String,
    /// Name to show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether the configuration wants it.
    pub enabled: bool,
    /// Whether its configuration is complete.
    pub configured: bool,
    /// Whether it takes events.
    pub running: bool,
    /// Whether it reaches its platform.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connected: Option<bool>,
    /// Attempts since it last worked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reconnect_attempts: Option<u64>,
    /// Last problem.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// `ok`, `degraded`, `quarantined`, `stopped`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_state: Option<String>,
    /// Milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_start_at: Option<i64>,
    /// Milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_stop_at: Option<i64>,
    /// Milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_inbound_at: Option<i64>,
    /// Milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_outbound_at: Option<i64>,
    /// Runs that its messages started and that are going on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_runs: Option<u64>,
    /// Way of receiving: `webhook`, `polling`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Who may write directly: `pairing`, `allowlist`, `open`, `disabled`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dm_policy: Option<String>,
    /// Path that its platform posts to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook_path: Option<String>,
    /// Facts that only this gateway has (guest digest, restarts, memory).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<Value>,
}

crate::params! {
    /// Parameters of `channels.start`.
    ChannelsStartParams {
        required {
            /// The channel.
            "channel" channel: NonEmpty,
        }
        optional {
            /// Only this account.
            "accountId" account_id: String,
        }
        ignored {}
        refused {}
    }
}

crate::params! {
    /// Parameters of `channels.stop`.
    ChannelsStopParams {
        required {
            /// The channel.
            "channel" channel: NonEmpty,
        }
        optional {
            /// Only this account.
            "accountId" account_id: String,
        }
        ignored {}
        refused {}
    }
}

/// Result of `channels.start` and `channels.stop`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChannelsSwitchResult {
    /// Always true.
    pub ok: bool,
    /// The channel.
    pub channel: String,
    /// The accounts that were switched.
    pub account_ids: Vec<String>,
    /// Whether they take events now.
    pub running: bool,
}

crate::params! {
    /// Parameters of `channels.pairing.list`.
    ChannelsPairingListParams {
        required {}
        optional {
            /// Only this channel.
            "channel" channel: NonEmpty,
            /// Only this account.
            "accountId" account_id: NonEmpty,
        }
        ignored {}
        refused {}
    }
}

/// Result of `channels.pairing.list`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChannelsPairingListResult {
    /// Accounts whose policy is pairing.
    pub accounts: Vec<PairingAccount>,
    /// Senders that wait.
    pub requests: Vec<PairingRequest>,
    /// Always false: there are no command owners.
    pub command_owner_configured: bool,
    /// Limits.
    pub limits: PairingLimits,
}

/// An account whose policy is pairing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PairingAccount {
    /// The channel.
    pub channel: String,
    /// Name to show.
    pub channel_label: String,
    /// The account.
    pub account_id: String,
    /// Name to show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account_label: Option<String>,
    /// Whether the sender can be told.
    pub notify_supported: bool,
}

/// A sender that waits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PairingRequest {
    /// The one-time code that the sender was given; it names the request.
    pub request_id: String,
    /// The channel.
    pub channel: String,
    /// Name to show.
    pub channel_label: String,
    /// The account.
    pub account_id: String,
    /// Name to show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account_label: Option<String>,
    /// The sender's stable id.
    pub sender_id: String,
    /// Name to show; chosen by the sender, proves nothing.
    pub sender_label: String,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339.
    pub last_seen_at: String,
    /// RFC 3339.
    pub expires_at: String,
    /// Whether the sender can be told.
    pub notify_supported: bool,
}

/// Limits of pairing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PairingLimits {
    /// Senders that may wait at one account.
    pub pending_per_account: u64,
    /// How long a request lasts, in milliseconds.
    pub ttl_ms: u64,
}

crate::params! {
    /// Parameters of `channels.pairing.approve`.
    ChannelsPairingApproveParams {
        required {
            /// The one-time code that the sender was given.
            "requestId" request_id: NonEmpty,
        }
        optional {
            /// The request must be of this channel.
            "channel" channel: NonEmpty,
            /// The request must be of this account.
            "accountId" account_id: NonEmpty,
        }
        ignored {}
        refused {
            "notify": "Senders are not told; their next message is answered.",
            "bootstrapCommandOwner": "There are no command owners.",
        }
    }
}

/// Result of `channels.pairing.approve`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChannelsPairingApproveResult {
    /// The request.
    pub request_id: String,
    /// The sender that is let in now.
    pub sender_id: String,
    /// `not-requested`.
    pub notification: String,
    /// `not-requested`.
    pub command_owner_bootstrap: String,
}

impl ChannelsPairingApproveResult {
    /// The word for "nobody asked for it".
    pub const NOT_REQUESTED: &'static str = "not-requested";
}

crate::params! {
    /// Parameters of `send`.
    SendParams {
        required {
            /// The conversation, as the channel writes it.
            "to" to: NonEmpty,
            /// A repeat with the same key and parameters sends nothing again.
            "idempotencyKey" idempotency_key: Text<1, 256>,
        }
        optional {
            /// The text.
            "message" message: String,
            /// The channel; may be left out when there is only one.
            "channel" channel: String,
            /// The account; may be left out when there is only one.
            "accountId" account_id: String,
            /// The thread or topic of the conversation.
            "threadId" thread_id: String,
            /// The platform's id of the message to answer.
            "replyToId" reply_to_id: String,
        }
        ignored {
            "agentId": "Nothing is recorded in a session.",
        }
        refused {
            "mediaUrl": "Only text can be sent yet.",
            "mediaUrls": "Only text can be sent yet.",
            "buffer": "Only text can be sent yet.",
            "filename": "Only text can be sent yet.",
            "contentType": "Only text can be sent yet.",
            "asVoice": "Only text can be sent yet.",
            "gifPlayback": "Only text can be sent yet.",
            "forceDocument": "Only text can be sent yet.",
            "silent": "Not offered.",
            "parseMode": "Text is sent as it is.",
            "sessionKey": "Messages sent this way are not recorded in a session.",
        }
    }
}

/// Result of `send`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SendResult {
    /// Names the sending; the idempotency key.
    pub run_id: String,
    /// The channel.
    pub channel: String,
    /// The account.
    pub account_id: String,
    /// Row of the outbox.
    pub outbox_id: String,
    /// `queued`, `sending`, `sent`, `unknown` or `failed`.
    pub status: String,
    /// The platform's id of the message, once it is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
}

/// States of a row of the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OutboxState {
    /// Waits for its turn or its next attempt.
    Queued,
    /// Being sent.
    Sending,
    /// The platform confirmed it.
    Sent,
    /// It may have reached the platform; it is not sent again.
    Unknown,
    /// Given up.
    Failed,
}

impl OutboxState {
    /// The name on the wire and in the store.
    pub const fn as_str(self) -> &'static str {
        match self {
            OutboxState::Queued => "queued",
            OutboxState::Sending => "sending",
            OutboxState::Sent => "sent",
            OutboxState::Unknown => "unknown",
            OutboxState::Failed => "failed",
        }
    }
}

crate::params! {
    /// Parameters of `outbox.list`.
    OutboxListParams {
        required {}
        optional {
            /// Only rows in this state.
            "state" state: OutboxState,
            /// Only this channel.
            "channel" channel: NonEmpty,
            /// Only this account.
            "accountId" account_id: NonEmpty,
            /// Most rows to return.
            "limit" limit: Whole<1, 1000>,
            /// Rows to skip.
            "offset" offset: u64,
        }
        ignored {}
        refused {}
    }
}

/// Result of `outbox.list`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OutboxListResult {
    /// The rows, newest first.
    pub items: Vec<OutboxItem>,
    /// Whether there is more.
    pub has_more: bool,
}

/// A row of the outbox.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OutboxItem {
    /// Its id.
    pub id: String,
    /// The channel.
    pub channel: String,
    /// The account.
    pub account_id: String,
    /// The conversation, as the channel writes it.
    pub conversation: Value,
    /// The run that it answers.
    pub run_id: String,
    /// Part of the answer, from 0.
    pub part: u64,
    /// Begin of the text.
    pub preview: String,
    /// Its state.
    pub state: OutboxState,
    /// Attempts so far.
    pub attempts: u64,
    /// Next attempt, milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_at: Option<i64>,
    /// When it is given up, milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
    /// Last problem.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// When it was queued, milliseconds since the Unix epoch.
    pub created_at: i64,
    /// When it changed, milliseconds since the Unix epoch.
    pub updated_at: i64,
}
