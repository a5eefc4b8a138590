//! The typed rows. All times are milliseconds since the Unix epoch, all `*_json` fields are JSON texts that the
//! store keeps as they are.

/// One page of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T> {
    /// The rows of the page, in the order that the method states.
    pub items: Vec<T>,
    /// Whether there are rows after these.
    pub has_more: bool,
    /// How many rows the whole list has, where that is known without reading it.
    pub total: Option<i64>,
}

/// A conversation.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionRow {
    /// Canonical session key (`agent:<id>:<rest>`).
    pub key: String,
    /// Id of the present transcript; a reset gives a new one.
    pub session_id: String,
    /// Agent that answers.
    pub agent_id: String,
    /// Label set by a user.
    pub label: Option<String>,
    /// Name to show.
    pub display_name: Option<String>,
    /// Channel kind by which the session came to be.
    pub channel: Option<String>,
    /// Account of that channel.
    pub account: Option<String>,
    /// Peer or conversation id on that channel.
    pub peer: Option<String>,
    /// When the session was made.
    pub created_at: i64,
    /// When it last changed (a message, a label).
    pub updated_at: i64,
    /// Sequence number of the newest message of this transcript; 0 when it is empty.
    pub last_seq: i64,
    /// Messages of this transcript.
    pub message_count: i64,
    /// What the session is doing, in the words of `core` (`idle`, `running`, …).
    pub status: String,
    /// Model chosen for this session.
    pub model: Option<String>,
    /// How often it was reset.
    pub reset_count: i64,
    /// A deleted session is kept as a marker and found by nobody; see `upsert_session`.
    pub deleted: bool,
    /// Anything else that `core` keeps with the session.
    pub meta_json: Option<String>,
}

/// What `upsert_session` writes. `None` leaves the stored value alone.
#[derive(Debug, Clone, Default)]
pub struct SessionPatch {
    /// Canonical session key.
    pub key: String,
    /// Transcript id, used only when the session is new (or was deleted).
    pub session_id: String,
    /// Agent id.
    pub agent_id: String,
    /// See [`SessionRow::label`].
    pub label: Option<String>,
    /// See [`SessionRow::display_name`].
    pub display_name: Option<String>,
    /// See [`SessionRow::channel`].
    pub channel: Option<String>,
    /// See [`SessionRow::account`].
    pub account: Option<String>,
    /// See [`SessionRow::peer`].
    pub peer: Option<String>,
    /// See [`SessionRow::status`]; a new session starts as `idle`.
    pub status: Option<String>,
    /// See [`SessionRow::model`].
    pub model: Option<String>,
    /// See [`SessionRow::meta_json`].
    pub meta_json: Option<String>,
}

/// Which sessions `list_sessions` returns, newest first.
#[derive(Debug, Clone, Default)]
pub struct ListQuery {
    /// Rows of the page, at most [`crate::limits::MAX_PAGE_ROWS`].
    pub limit: i64,
    /// Rows to skip.
    pub offset: i64,
    /// Only this agent's.
    pub agent_id: Option<String>,
    /// Only where key, label or display name contain this text (ASCII case does not matter).
    pub search: Option<String>,
    /// Only with exactly this label.
    pub label: Option<String>,
    /// Only those that changed at or after this time.
    pub active_since: Option<i64>,
}

/// One message of a transcript.
#[derive(Debug, Clone, PartialEq)]
pub struct MessageRow {
    /// Message id, given by the caller.
    pub id: String,
    /// Session key.
    pub session_key: String,
    /// Transcript id.
    pub session_id: String,
    /// Position in the transcript, from 1 without gaps.
    pub seq: i64,
    /// `user`, `assistant`, `system`, `tool`.
    pub role: String,
    /// List of content blocks (JSON).
    pub content_json: String,
    /// Run that made it.
    pub run_id: Option<String>,
    /// Key by which a repeated append is recognised, unique within the session.
    pub idempotency_key: Option<String>,
    /// When it was appended.
    pub created_at: i64,
    /// Anything else.
    pub meta_json: Option<String>,
}

/// What `append_message` writes.
#[derive(Debug, Clone, Default)]
pub struct NewMessage {
    /// Message id, unique in the tenant.
    pub id: String,
    /// Session key; the session must exist.
    pub session_key: String,
    /// See [`MessageRow::role`].
    pub role: String,
    /// See [`MessageRow::content_json`].
    pub content_json: String,
    /// See [`MessageRow::run_id`].
    pub run_id: Option<String>,
    /// See [`MessageRow::idempotency_key`].
    pub idempotency_key: Option<String>,
    /// See [`MessageRow::meta_json`].
    pub meta_json: Option<String>,
}

/// Answer of `append_message`.
#[derive(Debug, Clone, PartialEq)]
pub struct Appended {
    /// The stored message: the new one, or the earlier one with the same idempotency key.
    pub row: MessageRow,
    /// Whether it was there before.
    pub duplicate: bool,
    /// The session as it is with the new message; `None` for a duplicate.
    pub session: Option<SessionRow>,
}

/// Where a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RunState {
    /// Accepted, not started.
    Queued,
    /// An agent works on it.
    Running,
    /// Ended well.
    Ok,
    /// Ended with an error.
    Error,
    /// Ended by a user or a shutdown.
    Aborted,
}

impl RunState {
    /// The word in the database and in listings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Ok => "ok",
            Self::Error => "error",
            Self::Aborted => "aborted",
        }
    }

    pub(crate) fn parse(s: &str) -> Option<Self> {
        [
            Self::Queued,
            Self::Running,
            Self::Ok,
            Self::Error,
            Self::Aborted,
        ]
        .into_iter()
        .find(|v| v.as_str() == s)
    }

    /// Whether the run has ended.
    pub fn is_ended(self) -> bool {
        matches!(self, Self::Ok | Self::Error | Self::Aborted)
    }
}

/// One agent run.
#[derive(Debug, Clone, PartialEq)]
pub struct RunRow {
    /// Run id, given by the caller.
    pub run_id: String,
    /// Session key.
    pub session_key: String,
    /// Agent id.
    pub agent_id: String,
    /// `rpc`, `channel`, `http`, `boot`, …
    pub origin: String,
    /// Where it is.
    pub state: RunState,
    /// 1 for the first try; one more after each requeue.
    pub attempt: i64,
    /// Epoch of the gateway process that holds it.
    pub owner_epoch: i64,
    /// Message that started it.
    pub input_message_id: Option<String>,
    /// When it was accepted.
    pub created_at: i64,
    /// When the present attempt started.
    pub started_at: Option<i64>,
    /// When it ended.
    pub ended_at: Option<i64>,
    /// Why the model stopped.
    pub stop_reason: Option<String>,
    /// Error text shown to the user.
    pub error: Option<String>,
    /// The whole answer text.
    pub result_text: Option<String>,
    /// Token counts (JSON).
    pub usage_json: Option<String>,
    /// Where the answer goes (JSON; channel, account, conversation), if anywhere.
    pub reply_to_json: Option<String>,
    /// Hash of the request; the same run id with another hash is a conflict.
    pub request_hash: String,
    /// Longest time that it may take from its first start, in ms.
    pub timeout_ms: Option<i64>,
    /// When that time is over (Unix epoch ms); set by its first start and kept by later attempts.
    pub deadline_at: Option<i64>,
    /// W3C trace context that it is part of.
    pub traceparent: Option<String>,
}

/// What `insert_run` writes.
#[derive(Debug, Clone, Default)]
pub struct NewRun {
    /// See [`RunRow::run_id`].
    pub run_id: String,
    /// See [`RunRow::session_key`].
    pub session_key: String,
    /// See [`RunRow::agent_id`].
    pub agent_id: String,
    /// See [`RunRow::origin`].
    pub origin: String,
    /// See [`RunRow::input_message_id`].
    pub input_message_id: Option<String>,
    /// See [`RunRow::reply_to_json`].
    pub reply_to_json: Option<String>,
    /// See [`RunRow::request_hash`].
    pub request_hash: String,
    /// Whether it is worked on at once: then it is made in state `running`.
    pub started: bool,
    /// See [`RunRow::timeout_ms`].
    pub timeout_ms: Option<i64>,
    /// See [`RunRow::traceparent`].
    pub traceparent: Option<String>,
}

/// Answer of `insert_run`.
#[derive(Debug, Clone, PartialEq)]
pub enum RunInserted {
    /// A new row, state `queued` or `running`, held by this epoch.
    New(RunRow),
    /// The same run was accepted before.
    Existing(RunRow),
}

/// How a run ended.
#[derive(Debug, Clone)]
pub struct RunEnd {
    /// `Ok`, `Error` or `Aborted`.
    pub state: RunState,
    /// See [`RunRow::stop_reason`].
    pub stop_reason: Option<String>,
    /// See [`RunRow::error`].
    pub error: Option<String>,
    /// See [`RunRow::result_text`].
    pub result_text: Option<String>,
    /// See [`RunRow::usage_json`].
    pub usage_json: Option<String>,
}

/// Answer of `insert_inbox`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InboxOutcome {
    /// First time.
    Inserted,
    /// Seen before; nothing was written.
    Duplicate,
}

/// Where an outgoing message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutboxState {
    /// Waits for its time.
    Queued,
    /// Claimed by an epoch; the platform may see it any moment.
    Sending,
    /// The platform has the final revision.
    Sent,
    /// It was being created when its outcome was lost. Never sent again by itself.
    Unknown,
    /// Given up.
    Failed,
}

impl OutboxState {
    /// The word in the database and in listings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Sending => "sending",
            Self::Sent => "sent",
            Self::Unknown => "unknown",
            Self::Failed => "failed",
        }
    }

    /// Reads the word.
    pub fn parse(s: &str) -> Option<Self> {
        [
            Self::Queued,
            Self::Sending,
            Self::Sent,
            Self::Unknown,
            Self::Failed,
        ]
        .into_iter()
        .find(|v| v.as_str() == s)
    }
}

/// One outgoing message. A streamed reply is one row: its text is revised, the first delivery creates it on the
/// platform, later ones edit it, and it is `sent` only at its final revision.
#[derive(Debug, Clone, PartialEq)]
pub struct OutboxRow {
    /// Row id.
    pub id: i64,
    /// Channel kind.
    pub kind: String,
    /// Account of that channel.
    pub account: String,
    /// Where to (JSON, compared as text: the caller writes one conversation always the same way).
    pub conversation_json: String,
    /// Run (or request) whose answer this is.
    pub run_id: String,
    /// Number of the part, from 0. (`run_id`, `part`) is unique.
    pub part: i64,
    /// Text of the newest revision.
    pub text: String,
    /// Number of the newest revision, from 1.
    pub desired_rev: i64,
    /// Number of the revision that the platform has; 0 before the first.
    pub sent_rev: i64,
    /// Whether the newest revision is the last.
    pub final_rev: bool,
    /// Where it is.
    pub state: OutboxState,
    /// How often it was claimed.
    pub attempts: i64,
    /// Not before this time.
    pub next_at: i64,
    /// Given up at this time.
    pub expires_at: i64,
    /// What the platform answered to the creation (JSON); with it the row can be edited.
    pub receipt_json: Option<String>,
    /// Id of the held webhook request that is to be answered with this row.
    pub hold: Option<String>,
    /// Why the last attempt did not work.
    pub last_error: Option<String>,
    /// Epoch of the process that last claimed or wrote it.
    pub owner_epoch: i64,
    /// When it was enqueued.
    pub created_at: i64,
    /// When it last changed.
    pub updated_at: i64,
}

/// What `enqueue_outbox` writes.
#[derive(Debug, Clone, Default)]
pub struct NewOutbox {
    /// See [`OutboxRow::kind`].
    pub kind: String,
    /// See [`OutboxRow::account`].
    pub account: String,
    /// See [`OutboxRow::conversation_json`].
    pub conversation_json: String,
    /// See [`OutboxRow::run_id`].
    pub run_id: String,
    /// See [`OutboxRow::part`].
    pub part: i64,
    /// See [`OutboxRow::text`].
    pub text: String,
    /// See [`OutboxRow::final_rev`].
    pub final_rev: bool,
    /// See [`OutboxRow::next_at`].
    pub next_at: i64,
    /// See [`OutboxRow::expires_at`].
    pub expires_at: i64,
    /// See [`OutboxRow::hold`].
    pub hold: Option<String>,
}

/// Answer of `enqueue_outbox`.
#[derive(Debug, Clone, PartialEq)]
pub struct Enqueued {
    /// The stored row.
    pub row: OutboxRow,
    /// Whether (`run_id`, `part`) was there before; then nothing was written.
    pub duplicate: bool,
}

/// What `recover_outbox` did.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct OutboxRecovery {
    /// Ids of creations whose outcome is lost: now `unknown`.
    pub unknown: Vec<i64>,
    /// Ids of edits whose outcome is lost: queued again, because an edit may be repeated.
    pub requeued: Vec<i64>,
}

/// Which rows `list_outbox` returns, newest first.
#[derive(Debug, Clone, Default)]
pub struct OutboxFilter {
    /// Only this channel kind.
    pub kind: Option<String>,
    /// Only this account.
    pub account: Option<String>,
    /// Only this state.
    pub state: Option<OutboxState>,
    /// Only this run.
    pub run_id: Option<String>,
    /// Rows of the page.
    pub limit: i64,
    /// Only rows with a smaller id (the last id of the page before).
    pub before_id: Option<i64>,
}

/// Answer of `remember`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remembered {
    /// The key is new and now stored.
    New,
    /// The same request was remembered before, with this response.
    Same(String),
}

/// One change, written in the transaction of the change.
#[derive(Debug, Clone, PartialEq)]
pub struct EventRow {
    /// Number, growing, never used twice.
    pub id: i64,
    /// Epoch of the process that wrote it.
    pub epoch: i64,
    /// When.
    pub ts: i64,
    /// What kind of change.
    pub kind: String,
    /// Session that changed, if it is about one.
    pub session_key: Option<String>,
    /// The change (JSON).
    pub payload_json: String,
}

/// What the host keeps about one channel account.
#[derive(Debug, Clone, PartialEq)]
pub struct AccountRow {
    /// Channel kind.
    pub kind: String,
    /// Account id.
    pub account: String,
    /// When the guest wants to be woken.
    pub next_wake: Option<i64>,
    /// What the guest saved.
    pub guest_state: Option<Vec<u8>>,
    /// Started or stopped by an operator; `None` follows the configuration.
    pub enabled: Option<bool>,
    /// Last error, for the status listing.
    pub last_error: Option<String>,
    /// When the row last changed.
    pub updated_at: i64,
}

/// A request that the host performs for a guest.
#[derive(Debug, Clone, PartialEq)]
pub struct SubmitRow {
    /// Row id.
    pub id: i64,
    /// Channel kind.
    pub kind: String,
    /// Account id.
    pub account: String,
    /// Number that the guest gave it.
    pub guest_id: u64,
    /// The request (JSON).
    pub request_json: String,
    /// Whether an earlier take of it was cut off, so that the platform may have seen it.
    pub interrupted: bool,
    /// How often it was taken.
    pub attempts: i64,
    /// When it was asked for.
    pub created_at: i64,
}

/// A sender who may talk to an account.
#[derive(Debug, Clone, PartialEq)]
pub struct ContactRow {
    /// Channel kind.
    pub kind: String,
    /// Account id.
    pub account: String,
    /// Stable id of the sender on the platform.
    pub sender_id: String,
    /// Name at the time of the approval, for listings only.
    pub display: Option<String>,
    /// When it was added.
    pub created_at: i64,
}

/// A stranger who asked to talk.
#[derive(Debug, Clone, PartialEq)]
pub struct PairingRow {
    /// One-time code.
    pub code: String,
    /// Channel kind.
    pub kind: String,
    /// Account id.
    pub account: String,
    /// Stable id of the sender on the platform.
    pub sender_id: String,
    /// Name to show.
    pub display: Option<String>,
    /// Where to tell the sender that it was approved (JSON).
    pub conversation_json: Option<String>,
    /// When it was asked.
    pub created_at: i64,
    /// When the code ends.
    pub expires_at: i64,
}

/// What `request_pairing` writes.
#[derive(Debug, Clone, Default)]
pub struct NewPairing {
    /// One-time code, made by the caller from enough randomness.
    pub code: String,
    /// See [`PairingRow::kind`].
    pub kind: String,
    /// See [`PairingRow::account`].
    pub account: String,
    /// See [`PairingRow::sender_id`].
    pub sender_id: String,
    /// See [`PairingRow::display`].
    pub display: Option<String>,
    /// See [`PairingRow::conversation_json`].
    pub conversation_json: Option<String>,
    /// See [`PairingRow::expires_at`].
    pub expires_at: i64,
}

/// Answer of `request_pairing`.
#[derive(Debug, Clone, PartialEq)]
pub enum PairingRequested {
    /// A new request.
    Created(PairingRow),
    /// This sender has an open request; its code stays.
    Existing(PairingRow),
    /// Too many open requests on this account; nothing was written.
    CapReached,
}

/// A paired device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceRow {
    /// Lower-case hex SHA-256 of its public key.
    pub id: String,
    /// Its public key, base64url without padding.
    pub public_key: String,
    /// The name that it gives itself.
    pub display_name: Option<String>,
    /// The name that an operator gave it.
    pub label: Option<String>,
    /// Its platform as it was approved.
    pub platform: String,
    /// Its device family as it was approved.
    pub device_family: Option<String>,
    /// `client.id` as it was approved.
    pub client_id: String,
    /// `client.mode` as it was approved.
    pub client_mode: String,
    /// How it was approved last, in the words of `core`.
    pub approved_via: String,
    /// When it was paired first, Unix epoch ms.
    pub created_at: i64,
    /// When it was approved last, Unix epoch ms.
    pub approved_at: i64,
    /// About when it connected last, Unix epoch ms.
    pub last_seen_at: Option<i64>,
}

/// The token of a device in a role, without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceTokenRow {
    /// The device.
    pub device_id: String,
    /// Its role, in the words of `core`.
    pub role: String,
    /// Names of its scopes.
    pub scopes: Vec<String>,
    /// With the host's key it gives the token.
    pub salt: [u8; 16],
    /// Keyed hash of the token.
    pub hash: crate::CredentialHash,
    /// When the device got its first token in this role, Unix epoch ms.
    pub created_at: i64,
    /// When this one was made, Unix epoch ms.
    pub issued_at: i64,
    /// When an operator replaced it last, Unix epoch ms.
    pub rotated_at: Option<i64>,
    /// When it was ended, Unix epoch ms.
    pub revoked_at: Option<i64>,
    /// About when it was used last, Unix epoch ms.
    pub last_used_at: Option<i64>,
}

/// A device that waits for an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceRequestRow {
    /// Its id.
    pub id: String,
    /// See [`DeviceRow::id`].
    pub device_id: String,
    /// See [`DeviceRow::public_key`].
    pub public_key: String,
    /// See [`DeviceRow::display_name`].
    pub display_name: Option<String>,
    /// Its platform, in its own words.
    pub platform: String,
    /// Its device family, in its own words.
    pub device_family: Option<String>,
    /// `client.id`
    pub client_id: String,
    /// `client.mode`
    pub client_mode: String,
    /// The role that it asks for, in the words of `core`.
    pub role: String,
    /// The scopes that it asks for.
    pub scopes: Vec<String>,
    /// Why it has to be approved, in the words of `core`.
    pub reason: String,
    /// Where it asks from: what counts as one address for the cap.
    pub address: String,
    /// When it asked, Unix epoch ms.
    pub created_at: i64,
    /// When the request ends by itself, Unix epoch ms.
    pub expires_at: i64,
}

/// A setup code without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetupCodeRow {
    /// Its id.
    pub id: String,
    /// Keyed hash of the credential in it.
    pub hash: crate::CredentialHash,
    /// What it gives, in the words of `core`.
    pub access: String,
    /// Unix epoch ms.
    pub created_at: i64,
    /// From when it is worth nothing, Unix epoch ms.
    pub expires_at: i64,
    /// When it was used, Unix epoch ms.
    pub used_at: Option<i64>,
    /// The device that used it.
    pub device_id: Option<String>,
    /// The name that the device gives itself.
    pub device_name: Option<String>,
}

/// What was approved of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRow {
    /// The device that it is.
    pub id: String,
    /// What may be called, in the words of `core` (JSON).
    pub surface_json: String,
    /// When something was approved first, Unix epoch ms.
    pub created_at: i64,
    /// When something was approved last, Unix epoch ms.
    pub approved_at: i64,
}

/// What a node offers and nobody approved yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRequestRow {
    /// Its id.
    pub id: String,
    /// The device that asks.
    pub node_id: String,
    /// What it offers, in the words of `core` (JSON).
    pub surface_json: String,
    /// Its version, in its own words.
    pub version: String,
    /// When it asked, Unix epoch ms.
    pub created_at: i64,
}

/// When a node was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSeenRow {
    /// The device that it is.
    pub id: String,
    /// Its version, in its own words.
    pub version: String,
    /// When it connected last, Unix epoch ms.
    pub connected_at: i64,
    /// When it gave a sign of life last, Unix epoch ms.
    pub seen_at: i64,
    /// Which, in the words of `core`.
    pub seen_reason: String,
    /// The numbers of its machine (JSON).
    pub stats_json: Option<String>,
}

/// Something that waits for a node: a question, or a call of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePendingRow {
    /// Its id.
    pub id: String,
    /// The node.
    pub node_id: String,
    /// What is asked, in the words of `core`.
    pub kind: String,
    /// Goes before the others.
    pub high: bool,
    /// The command of a call; `None` for a question.
    pub command: Option<String>,
    /// What the command takes (JSON).
    pub params: Option<String>,
    /// When it was left, Unix epoch ms.
    pub created_at: i64,
    /// When it is worth nothing any more, Unix epoch ms.
    pub expires_at: i64,
}

/// One run of a boot script.
#[derive(Debug, Clone, PartialEq)]
pub struct BootRow {
    /// Script id.
    pub script_id: String,
    /// Boot id: lasts until the gateway was ready, so that a crash while booting keeps it.
    pub boot_id: String,
    /// `running`, `ok`, `error`, in the words of `core`.
    pub state: String,
    /// When it started.
    pub started_at: i64,
    /// When it ended.
    pub ended_at: Option<i64>,
    /// Why it failed.
    pub error: Option<String>,
    /// What it logged.
    pub log: Option<String>,
    /// How often it was begun in this boot.
    pub tries: i64,
}

/// A job that comes due by itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CronJobRow {
    /// Job id, given by the caller.
    pub id: String,
    /// Agent that it is about.
    pub agent_id: String,
    /// Name.
    pub name: String,
    /// What the gateway made it for (`heartbeat`); `None` for jobs of the tenant.
    pub system: Option<String>,
    /// Whether it comes due.
    pub enabled: bool,
    /// What is written about it (JSON, in the words of `core`).
    pub spec_json: String,
    /// When it was made.
    pub created_at: i64,
    /// When it last changed.
    pub updated_at: i64,
    /// When it comes due.
    pub next_at: Option<i64>,
    /// Occurrences up to this one are over.
    pub done_through: i64,
    /// When its last run began.
    pub last_run_at: Option<i64>,
    /// `ok`, `error`, `skipped`.
    pub last_status: Option<String>,
    /// Why it failed or was skipped.
    pub last_error: Option<String>,
    /// How long it took.
    pub last_duration_ms: Option<i64>,
    /// Failures in a row.
    pub consecutive_errors: i64,
    /// Skipped occurrences in a row.
    pub consecutive_skipped: i64,
    /// Why the gateway switched it off (JSON).
    pub auto_disabled_json: Option<String>,
    /// Since when a run of it goes on; answered by reads only.
    pub running_at: Option<i64>,
}

/// One run of a job.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CronRunRow {
    /// Number, growing.
    pub seq: i64,
    /// Run id, given by the caller; the agent's run has the same.
    pub run_id: String,
    /// The job.
    pub job_id: String,
    /// Its name at that time.
    pub job_name: String,
    /// Its agent.
    pub agent_id: String,
    /// Kind of its payload.
    pub kind: String,
    /// When it was due.
    pub occurrence: i64,
    /// 0 for the schedule, else the number of the request of that millisecond.
    pub manual: i64,
    /// Whether it is over.
    pub ended: bool,
    /// Epoch of the process that claimed it.
    pub owner_epoch: i64,
    /// When it was claimed.
    pub claimed_at: i64,
    /// When it ended.
    pub ended_at: Option<i64>,
    /// `ok`, `error`, `skipped`.
    pub status: Option<String>,
    /// Why it failed or was skipped.
    pub error: Option<String>,
    /// Begin of the answer.
    pub summary: Option<String>,
    /// Session of the agent's run.
    pub session_key: Option<String>,
    /// Transcript of it.
    pub session_id: Option<String>,
    /// When the job comes due after it.
    pub next_at: Option<i64>,
    /// Provider, model and tokens (JSON).
    pub usage_json: Option<String>,
    /// Where the outcome goes (JSON).
    pub delivery_json: Option<String>,
    /// `outbox`, `pending`, `delivered`, `failed`; `None`: nowhere.
    pub delivery_state: Option<String>,
    /// Tries so far.
    pub delivery_attempts: i64,
    /// Not before this time.
    pub delivery_next_at: Option<i64>,
    /// Why the last try failed.
    pub delivery_error: Option<String>,
    /// `delivered`, `not-delivered`, `unknown` or `not-requested`, the outbox asked; answered by reads only.
    pub delivery_status: String,
}

/// Which runs `cron_runs` returns.
#[derive(Debug, Clone, Default)]
pub struct CronRunQuery {
    /// Only this job.
    pub job_id: Option<String>,
    /// Only jobs of this agent.
    pub agent_id: Option<String>,
    /// Only this run.
    pub run_id: Option<String>,
    /// Only with one of these outcomes; empty: all.
    pub statuses: Vec<String>,
    /// Only with one of these states of delivery; empty: all.
    pub delivery_statuses: Vec<String>,
    /// Only where summary, error or job name contain this text.
    pub search: Option<String>,
    /// Oldest first.
    pub ascending: bool,
    /// Rows of the page.
    pub limit: i64,
    /// Rows to skip.
    pub offset: i64,
}

/// How a run of a job ended.
#[derive(Debug, Clone, Default)]
pub struct CronRunEnd {
    /// `ok`, `error`, `skipped`.
    pub status: String,
    /// Why it failed or was skipped.
    pub error: Option<String>,
    /// Begin of the answer.
    pub summary: Option<String>,
    /// When the job comes due after it.
    pub next_at: Option<i64>,
    /// Provider, model and tokens (JSON).
    pub usage_json: Option<String>,
    /// See [`CronRunRow::delivery_state`].
    pub delivery_state: Option<String>,
    /// Why nothing is delivered.
    pub delivery_error: Option<String>,
}

/// A text that waits for the next message of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemEventRow {
    /// Row id.
    pub id: i64,
    /// The text.
    pub text: String,
    /// When it came.
    pub created_at: i64,
}

/// The key of the codes in the audit log; derived from the host's key, never stored.
#[derive(Clone, Copy)]
pub struct AuditKey(pub [u8; 32]);

impl std::fmt::Debug for AuditKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AuditKey")
    }
}

/// A row for the audit log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewAudit {
    /// What was done: the method, or a word like it.
    pub action: String,
    /// `ok` or why not.
    pub outcome: String,
    /// Who did it (JSON).
    pub actor_json: String,
    /// Ids of what it was done to (JSON); never contents.
    pub object_json: Option<String>,
}

/// A row of the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// Its number, from 1, without gaps.
    pub seq: i64,
    /// Unix milliseconds.
    pub ts: i64,
    /// See [`NewAudit::action`].
    pub action: String,
    /// See [`NewAudit::outcome`].
    pub outcome: String,
    /// See [`NewAudit::actor_json`].
    pub actor_json: String,
    /// See [`NewAudit::object_json`].
    pub object_json: Option<String>,
}

/// What is wrong with an audit log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditFault {
    /// It has no beginning: it was emptied, or never written.
    NoChain,
    /// What says where it begins and ends was changed.
    ChainChanged,
    /// A row is not there.
    Missing,
    /// A row is not as it was written, or not where.
    Changed,
}

/// What going through an audit log found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditVerdict {
    /// Rows that are as they were written, from the oldest on.
    pub rows: i64,
    /// Number of the newest row, if all are well.
    pub head_seq: Option<i64>,
    /// The first fault, and at which number.
    pub fault: Option<(i64, AuditFault)>,
}

/// A kept response of the Responses API; the run of the same id has its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseRow {
    /// Its id, and that of its run.
    pub id: String,
    /// Session that it belongs to.
    pub session_key: String,
    /// Id of that session when it was made.
    pub session_id: String,
    /// Agent that answers.
    pub agent_id: String,
    /// What is told of the request, in the words of `core`.
    pub request_json: String,
    /// Unix epoch ms.
    pub created_at: i64,
}
