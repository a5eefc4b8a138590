//! Data that passes between the host and an account's guest, independent of the version of the guest interface.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::limits::LimitExceeded;

/// Names with JSON values, for data that has no field.
pub type Extra = Vec<(String, String)>;
/// Header names and values in order.
pub type Headers = Vec<(String, String)>;

/// Kind of place where a conversation is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PeerKind {
    /// One person.
    Direct,
    /// Several people who all may write.
    Group,
    /// A broadcast place or room.
    Channel,
}

/// Where a conversation is held. Its ids are what the guest says the platform says: never trusted as more.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Peer {
    /// Kind of place.
    pub kind: PeerKind,
    /// The platform's stable id of the place, 1..=256 bytes without control characters.
    pub id: String,
    /// Topic or thread inside of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread: Option<String>,
}

/// Who wrote a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sender {
    /// The platform's stable id of the person; access is decided on it.
    pub id: String,
    /// For display only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// The platform says that it is a bot.
    pub is_bot: bool,
}

/// A message from the platform. Checked against the limits before it gets here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InboundMessage {
    /// The platform's id: with account and conversation the key by which repeats are dropped.
    pub platform_message_id: String,
    /// Where.
    pub conversation: Peer,
    /// Who.
    pub sender: Sender,
    /// At most [`crate::limits::MAX_EMIT_TEXT_BYTES`].
    pub text: String,
    /// The bot was addressed.
    pub mentioned: bool,
    /// Platform id of the message answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    /// Milliseconds since the Unix epoch, as the platform says.
    pub timestamp_ms: i64,
    /// Handle of the webhook request that waits for the reply. Only a handle of an event of the same call gets here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<String>,
    /// More.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extra: Extra,
}

/// One part of a reply for the platform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outbound {
    /// Where to.
    pub conversation: Peer,
    /// What.
    pub text: String,
    /// Platform id of the message to answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    /// The run; with `part` the idempotency key.
    pub run_id: String,
    /// From 0.
    pub part: u32,
    /// From 1, grows by each edit.
    pub revision: u32,
    /// No edit will follow.
    pub is_final: bool,
    /// The webhook request that waits for this reply: the guest answers with [`Receipt::answer`] and makes no request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<String>,
    /// More.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extra: Extra,
}

/// An HTTP answer that a guest composed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpAnswer {
    /// 100..=599.
    pub status: u16,
    /// In order, as the guest gave them: whoever writes them checks them.
    pub headers: Headers,
    /// Body.
    pub body: Vec<u8>,
}

/// What the platform knows a sent part by.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Ids of the platform's messages.
    pub message_ids: Vec<String>,
    /// The answer to the held request; there if and only if [`Outbound::hold`] was (the host checks it).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<HttpAnswer>,
    /// More.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extra: Extra,
}

/// An HTTP request that a guest asks for. `{secret:NAME}` is still in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestRequest {
    /// One of GET, HEAD, POST, PUT, PATCH, DELETE (checked).
    pub method: String,
    /// As the guest wrote it (length checked only).
    pub url: String,
    /// In order.
    pub headers: Headers,
    /// At most [`crate::limits::MAX_HTTP_REQUEST_BYTES`].
    pub body: Vec<u8>,
    /// Of the whole exchange; already cut to the limits.
    pub timeout_ms: u32,
}

/// The answer to a [`GuestRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestResponse {
    /// Status.
    pub status: u16,
    /// In order.
    pub headers: Headers,
    /// At most [`crate::limits::MAX_HTTP_RESPONSE_BYTES`].
    pub body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)] // the texts are in wit/deps/gateway-types-0.1/types.wit
pub enum FaultKind {
    Denied,
    Invalid,
    Dns,
    Connect,
    Tls,
    Timeout,
    TooLarge,
    Protocol,
    Interrupted,
    Limit,
    Internal,
}

/// A failed exchange.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpFault {
    /// Why.
    pub kind: FaultKind,
    /// The peer may have got the request.
    pub request_sent: bool,
    /// For the operator; shown to the guest, so it holds no secret.
    pub text: String,
}

/// A request that the host makes after the commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submit {
    /// 32 hex digits, minted by the host from [`crate::AccountHost::random`].
    pub id: String,
    /// Not empty: replaces (cancels, with no result) a submit of the same account and tag that has not ended.
    pub tag: String,
    /// What to ask.
    pub request: GuestRequest,
}

/// A verified webhook request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookRequest {
    /// Names the request in actions; unguessable and unique.
    pub handle: String,
    /// Route of the manifest.
    pub route: String,
    /// Method.
    pub method: String,
    /// Without `?`.
    pub query: String,
    /// Headers. The header that proved the sender may be left out by the caller.
    pub headers: Headers,
    /// Raw bytes.
    pub body: Vec<u8>,
    /// `none`, `header-equals` or `hmac-sha256`.
    pub verified_by: String,
}

/// Something that happened to an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestEvent {
    /// The account was activated.
    Started,
    /// A verified HTTP request.
    Webhook(WebhookRequest),
    /// A submit ended.
    HttpResult {
        /// As in [`Submit`].
        id: String,
        /// As in [`Submit`].
        tag: String,
        /// How.
        outcome: Result<GuestResponse, HttpFault>,
    },
    /// The alarm.
    Wake,
}

impl GuestEvent {
    /// What names the event once its content is gone.
    #[must_use]
    pub fn reference(&self) -> EventRef {
        match self {
            Self::Started => EventRef::Started,
            Self::Webhook(w) => EventRef::Webhook {
                handle: w.handle.clone(),
            },
            Self::HttpResult { id, .. } => EventRef::HttpResult { id: id.clone() },
            Self::Wake => EventRef::Wake,
        }
    }

    /// Bytes that the event takes in a mailbox.
    #[must_use]
    pub fn weight(&self) -> usize {
        let headers = |h: &Headers| h.iter().map(|(k, v)| k.len() + v.len() + 48).sum::<usize>();
        256 + match self {
            Self::Started | Self::Wake => 0,
            Self::Webhook(w) => w.body.len() + w.query.len() + headers(&w.headers),
            Self::HttpResult { outcome: Ok(r), .. } => r.body.len() + headers(&r.headers),
            Self::HttpResult {
                outcome: Err(f), ..
            } => f.text.len(),
        }
    }
}

/// The event that an [`Effects`] consumes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventRef {
    /// See [`GuestEvent::Started`].
    Started,
    /// See [`GuestEvent::Webhook`].
    Webhook {
        /// Its handle.
        handle: String,
    },
    /// See [`GuestEvent::HttpResult`].
    HttpResult {
        /// Its id.
        id: String,
    },
    /// See [`GuestEvent::Wake`].
    Wake,
}

/// What the guest wants done with a webhook request, after the commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Answer now.
    Respond {
        /// Of an event of the same call (checked).
        handle: String,
        /// What.
        answer: HttpAnswer,
    },
    /// Keep the request open until the reply's outbox row is attempted.
    Hold {
        /// Of an event of the same call (checked).
        handle: String,
        /// 1..=[`crate::limits::MAX_HOLD_MS`].
        timeout_ms: u32,
    },
}

impl Action {
    /// The webhook request that it is about.
    #[must_use]
    pub fn handle(&self) -> &str {
        match self {
            Self::Respond { handle, .. } | Self::Hold { handle, .. } => handle,
        }
    }
}

/// A staged change of the guest's kv.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvWrite {
    /// 1..=256 bytes.
    pub key: String,
    /// `None` deletes.
    pub value: Option<Vec<u8>>,
}

/// What an event does to the alarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WakeChange {
    /// Set to this moment (milliseconds since the Unix epoch).
    At(i64),
    /// Take it away.
    Clear,
}

/// All that one event (or one send) did: committed in ONE transaction, or nothing of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effects {
    /// New messages in order; dedupe is decided by the commit.
    pub emits: Vec<InboundMessage>,
    /// One for each key, the last write wins; in order of keys.
    pub kv: Vec<KvWrite>,
    /// Change of the alarm.
    pub wake: Option<WakeChange>,
    /// Requests to make after the commit.
    pub submits: Vec<Submit>,
    /// New state of the guest, if it changed.
    pub state: Option<Vec<u8>>,
    /// Events that this consumes; empty for sends and edits.
    pub consumed: Vec<EventRef>,
    /// What the guest returned: also given back by [`crate::Account::event`]. Here so that holds can be recorded.
    pub actions: Vec<Action>,
}

impl Effects {
    /// Nothing to store.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What a commit found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CommitReport {
    /// Messages that were new.
    pub accepted: u32,
    /// Messages that were known already.
    pub duplicates: u32,
}

/// An error that a guest returned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // the texts are in wit/deps/gateway-types-0.1/types.wit
pub enum GuestError {
    #[error("auth: {0}")]
    Auth(String),
    #[error("rate limited: try again in {0} ms")]
    RateLimited(u32),
    #[error("not found: {0}")]
    NotFound(String),
    #[error("too large: {0}")]
    TooLarge(String),
    #[error("invalid: {0}")]
    Invalid(String),
    #[error("network: {0}")]
    Network(String),
    #[error("unsupported: {0}")]
    Unsupported(String),
    #[error("internal: {0}")]
    Internal(String),
}

/// A fault of the host's own parts (store, egress), as seen by this crate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// Over the account's quota; the text names it.
    #[error("over the limit: {0}")]
    Limit(String),
    /// Can't now; try later.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// Anything else.
    #[error("internal: {0}")]
    Internal(String),
}

/// How a guest ended a call badly. In each of these cases the instance is gone and nothing of the call was stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The mailbox is full: 503 with Retry-After.
    #[error("busy: the account's mailbox is full; try again in {retry_after_ms} ms")]
    Busy {
        /// Milliseconds.
        retry_after_ms: u64,
    },
    /// The guest trapped; the text is the trap and its WebAssembly backtrace.
    #[error("trap: {0}")]
    Trap(String),
    /// The wall deadline of the call passed.
    #[error("timeout: the call did not end within {0} ms")]
    Deadline(u64),
    /// The guest went over a limit.
    #[error("{0}")]
    Limit(LimitExceeded),
    /// The guest answered with what the interface forbids (a handle that is not its own, …).
    #[error("protocol: {0}")]
    Protocol(String),
    /// The guest returned an error.
    #[error("guest: {0}")]
    Guest(GuestError),
    /// The event failed twice. It is not tried again: whoever owns it keeps it as a dead letter.
    /// (For a lost `http-result` or `wake` the way back is [`GuestEvent::Started`].)
    #[error("poisoned event (failed twice): {0}")]
    PoisonedEvent(Box<CallError>),
    /// Failed too often: no guest code runs until an operator calls [`crate::Account::release`].
    #[error("quarantined: {0}")]
    Quarantined(String),
    /// The account was stopped.
    #[error("the account is stopped")]
    Stopped,
    /// The effects could not be stored.
    #[error("commit: {0}")]
    Commit(HostError),
    /// No instance could be made.
    #[error("instantiate: {0}")]
    Instantiate(String),
}

impl CallError {
    /// The guest's code is at fault (and not its wish, the load or the host).
    #[must_use]
    pub fn is_crash(&self) -> bool {
        matches!(
            self,
            Self::Trap(_)
                | Self::Deadline(_)
                | Self::Limit(_)
                | Self::Protocol(_)
                | Self::Instantiate(_)
        )
    }
}

/// How a send or an edit ended. Whether it may have arrived all the same is judged by the host, from the requests that
/// the guest made, and never by the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SendOutcome {
    /// The platform has it.
    Sent(Receipt),
    /// It certainly has not: try again.
    Retry {
        /// Not before so many milliseconds.
        after_ms: u64,
        /// For the operator.
        why: String,
    },
    /// It has not and trying again is of no use.
    Failed {
        /// For the operator.
        why: String,
    },
    /// A request of this call may have reached the platform and its full answer never came, or the guest was
    /// lost after it: never resend blindly.
    Unknown {
        /// For the operator.
        why: String,
    },
}

/// Level of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

/// What an operator sees of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccountStatus {
    /// Nothing to do; no instance.
    Idle,
    /// An instance is alive.
    Running,
    /// Failed; the next instance comes later.
    Backoff {
        /// Failures in a row.
        failures: u32,
        /// Milliseconds from now.
        next_ms: u64,
        /// The last failure.
        why: String,
    },
    /// See [`CallError::Quarantined`].
    Quarantined {
        /// Why.
        why: String,
    },
    /// Stopped by [`crate::Account::stop`].
    Stopped,
}

impl fmt::Display for AccountStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Idle => f.write_str("idle"),
            Self::Running => f.write_str("running"),
            Self::Backoff {
                failures,
                next_ms,
                why,
            } => write!(
                f,
                "backoff after {failures} failures, next in {next_ms} ms: {why}"
            ),
            Self::Quarantined { why } => write!(f, "quarantined: {why}"),
            Self::Stopped => f.write_str("stopped"),
        }
    }
}

/// What a guest says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// Platform's name for people.
    pub name: String,
    /// Longest text of one message in bytes; 0: no limit of the platform's.
    pub max_text_bytes: u32,
    /// Replies can be edited (streamed).
    pub can_edit: bool,
    /// Webhook routes that it understands.
    pub routes: Vec<String>,
    /// More.
    pub extra: Extra,
}
