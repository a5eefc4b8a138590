//! Accepting work: one transaction that makes a message, a run and everything about them durable.

use std::sync::Arc;

use gateway_protocol::content::{ContentBlock, Role};
use gateway_protocol::session_key::SessionKey;
use gateway_store::{
    NewMessage, NewRun, RunInserted, RunRow, SessionPatch, SessionRow, StoreError, Write,
};
use sha2::{Digest, Sha256};

use super::{RunTap, SweepList};
use crate::delivery::ReplyTarget;
use crate::limits::RUN_INPUT_KEPT_BYTES;
use crate::tenant::Tenant;
use crate::trace::TraceParent;

/// By which way a run was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// `chat.send` or `agent`.
    Rpc,
    /// A channel message.
    Channel,
    /// The OpenAI-compatible API.
    Http,
    /// A boot script.
    Boot,
    /// A job of a schedule, a heartbeat or a wake.
    Cron,
    /// A request of a program that holds the hooks' token.
    Hook,
}

impl Origin {
    /// The word in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rpc => "rpc",
            Self::Channel => "channel",
            Self::Http => "http",
            Self::Boot => "boot",
            Self::Cron => "cron",
            Self::Hook => "hook",
        }
    }
}

/// What a new session is told about itself; later values fill what is still empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionProfile {
    /// Label set by a user.
    pub label: Option<String>,
    /// Name to show.
    pub display_name: Option<String>,
    /// Channel kind.
    pub channel: Option<String>,
    /// Account of that channel.
    pub account: Option<String>,
    /// Peer or conversation id.
    pub peer: Option<String>,
}

/// A run to accept. Make it with [`AcceptRun::new`] (which mints the ids) and fill in the rest.
pub struct AcceptRun {
    /// The session.
    pub key: SessionKey,
    /// Agent that answers.
    pub agent_id: String,
    /// Id of the run: a client's idempotency key, or minted.
    pub run_id: String,
    /// By which way.
    pub origin: Origin,
    /// The user's message.
    pub content: Vec<ContentBlock>,
    /// Messages put before the user's message, oldest first (the HTTP API gives a whole conversation to a new session).
    pub preface: Vec<(Role, String)>,
    /// The preface is news to a session that has messages already.
    pub preface_always: bool,
    /// Where the answer goes besides the session.
    pub reply_to: Option<ReplyTarget>,
    /// Hash of what was asked; the same run id with another hash is a conflict.
    pub request_hash: String,
    /// See [`SessionProfile`].
    pub profile: SessionProfile,
    /// Model that the session has from this run on; `None` leaves it as it is.
    pub model: Option<String>,
    /// Longest time for the run from its first start in ms, if the caller set one. It holds across a crash.
    pub timeout_ms: Option<u64>,
    /// The trace that the run is part of; the model server is told.
    pub traceparent: Option<TraceParent>,
    /// Refuse unless this is the session's present id.
    pub expected_session_id: Option<String>,
    /// Gets the text as it grows.
    pub tap: Option<Arc<dyn RunTap>>,
    /// What hooks noted on the user's message, by plugin; kept with it.
    pub annotations: serde_json::Map<String, serde_json::Value>,
    pub(crate) message_id: String,
    pub(crate) session_id: String,
    pub(crate) now_ms: i64,
    pub(crate) starts_now: bool,
    pub(crate) sweep: Arc<SweepList>,
}

impl AcceptRun {
    /// A run of `text` in session `key`.
    #[must_use]
    pub fn new(
        tenant: &Tenant,
        key: SessionKey,
        run_id: impl Into<String>,
        origin: Origin,
        text: impl Into<String>,
    ) -> Self {
        let text = text.into();
        let agent_id = key
            .agent()
            .map_or_else(|| tenant.default_agent().into_string(), str::to_owned);
        Self {
            request_hash: request_hash(&[key.as_str(), &text]),
            starts_now: tenant.sessions().is_idle(key.as_str()),
            sweep: tenant.sessions().sweep_list().clone(),
            message_id: tenant.new_id(),
            session_id: tenant.new_id(),
            now_ms: tenant.now_ms(),
            content: vec![ContentBlock::text(text)],
            preface: Vec::new(),
            preface_always: false,
            run_id: run_id.into(),
            agent_id,
            key,
            origin,
            reply_to: None,
            profile: SessionProfile::default(),
            model: None,
            timeout_ms: None,
            traceparent: None,
            expected_session_id: None,
            tap: None,
            annotations: serde_json::Map::new(),
        }
    }
}

/// Lower-case hex SHA-256 of the parts, each with its length, so that no two lists give the same text.
#[must_use]
pub fn request_hash(parts: &[&str]) -> String {
    use std::fmt::Write as _;
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    let mut out = String::with_capacity(64);
    for byte in hash.finalize() {
        let _ = write!(out, "{byte:02x}");
    }
    out
}

/// What became of an [`AcceptRun`].
#[derive(Debug)]
pub enum AcceptOutcome {
    /// A new run; it has to be kicked after the commit.
    New(Box<NewlyAccepted>),
    /// The run was accepted before with the same request.
    Existing(Box<RunRow>),
    /// The run id was used before for another request.
    Conflict,
    /// The session is not the one that the caller expected.
    SessionChanged,
}

/// The rows of a newly accepted run.
#[derive(Debug)]
pub struct NewlyAccepted {
    /// The run.
    pub run: RunRow,
    /// Its session, after the message.
    pub session: SessionRow,
    /// Whether the session was made for it.
    pub created_session: bool,
    /// Sequence number of the user's message.
    pub message_seq: i64,
    /// The user's message, if the run was to begin at once and it is not long.
    pub input: Option<gateway_store::MessageRow>,
    /// [`gateway_store::TenantDb::session_edits`] at this commit.
    pub session_edits: u64,
}

/// An accepted run that was not kicked yet. Dropping it unkicked makes the sweep look for it.
pub struct Accepted {
    outcome: Option<AcceptOutcome>,
    pub(super) reply_to: Option<ReplyTarget>,
    pub(super) tap: Option<Arc<dyn RunTap>>,
    pub(super) timeout_ms: Option<u64>,
    pub(super) traceparent: Option<TraceParent>,
    sweep: Arc<SweepList>,
}

impl std::fmt::Debug for Accepted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Accepted({:?})", self.outcome)
    }
}

impl Accepted {
    /// What became of it.
    #[must_use]
    pub fn outcome(&self) -> &AcceptOutcome {
        // Taken only by `into_outcome`, which consumes the value.
        self.outcome.as_ref().unwrap_or(&AcceptOutcome::Conflict)
    }

    /// The new run, if it is one.
    #[must_use]
    pub fn is_new(&self) -> bool {
        matches!(self.outcome, Some(AcceptOutcome::New(_)))
    }

    pub(super) fn take(mut self) -> AcceptOutcome {
        self.outcome.take().unwrap_or(AcceptOutcome::Conflict)
    }
}

impl Drop for Accepted {
    fn drop(&mut self) {
        if let Some(AcceptOutcome::New(new)) = &self.outcome {
            self.sweep.add(new.run.run_id.clone());
        }
    }
}

/// Accepts a run inside a write transaction. Nothing is started: call [`super::kick`] with the result after the
/// commit. If the transaction is rolled back nothing happened.
///
/// # Errors
/// Those of the store; then the caller's transaction must fail too.
pub fn accept_in_tx(w: &mut Write<'_>, mut a: AcceptRun) -> Result<Accepted, StoreError> {
    let reply_to = a.reply_to.take();
    let tap = a.tap.take();
    let (timeout_ms, traceparent, sweep) = (a.timeout_ms, a.traceparent, a.sweep.clone());
    let outcome = accept_rows(w, a, reply_to.as_ref())?;
    Ok(Accepted {
        outcome: Some(outcome),
        reply_to,
        tap,
        timeout_ms,
        traceparent,
        sweep,
    })
}

fn accept_rows(
    w: &mut Write<'_>,
    a: AcceptRun,
    reply_to: Option<&ReplyTarget>,
) -> Result<AcceptOutcome, StoreError> {
    // Before anything is written: a repeat must not touch the session.
    if let Some(row) = w.get_run(&a.run_id)? {
        return Ok(if row.request_hash == a.request_hash {
            AcceptOutcome::Existing(Box::new(row))
        } else {
            AcceptOutcome::Conflict
        });
    }
    let key = a.key.as_str();
    let before = w.get_session(key)?;
    if let Some(expected) = &a.expected_session_id
        && before.as_ref().is_none_or(|s| s.session_id != *expected)
    {
        return Ok(AcceptOutcome::SessionChanged);
    }
    let patch = SessionPatch {
        key: key.to_owned(),
        session_id: a.session_id.clone(),
        agent_id: a.agent_id.clone(),
        label: a.profile.label.clone(),
        display_name: a.profile.display_name.clone(),
        channel: a.profile.channel.clone(),
        account: a.profile.account.clone(),
        peer: a.profile.peer.clone(),
        status: Some("running".to_owned()),
        model: a.model.clone(),
        ..SessionPatch::default()
    };
    w.upsert_session(&patch, a.now_ms)?;
    if a.preface_always || before.as_ref().is_none_or(|s| s.message_count == 0) {
        for (i, (role, text)) in a.preface.iter().enumerate() {
            w.append_message(
                &NewMessage {
                    id: format!("{}-{i}", a.message_id),
                    session_key: key.to_owned(),
                    role: role.as_str().to_owned(),
                    content_json: content_json(&[ContentBlock::text(text.clone())])?,
                    ..NewMessage::default()
                },
                a.now_ms,
            )?;
        }
    }
    for event in w.take_system_events(key)? {
        w.append_message(
            &NewMessage {
                id: format!("{}-e{}", a.message_id, event.id),
                session_key: key.to_owned(),
                role: Role::System.as_str().to_owned(),
                content_json: content_json(&[ContentBlock::text(format!(
                    "[{}] {}",
                    crate::cron::schedule::rfc3339(event.created_at),
                    event.text
                ))])?,
                run_id: Some(a.run_id.clone()),
                ..NewMessage::default()
            },
            a.now_ms,
        )?;
    }
    let message = w.append_message(
        &NewMessage {
            id: a.message_id.clone(),
            session_key: key.to_owned(),
            role: Role::User.as_str().to_owned(),
            content_json: content_json(&a.content)?,
            run_id: Some(a.run_id.clone()),
            idempotency_key: Some(format!("{}:user", a.run_id)),
            meta_json: (!a.annotations.is_empty())
                .then(|| serde_json::json!({ "annotations": a.annotations }).to_string()),
        },
        a.now_ms,
    )?;
    let inserted = w.insert_run(
        &NewRun {
            run_id: a.run_id.clone(),
            session_key: key.to_owned(),
            agent_id: a.agent_id.clone(),
            origin: a.origin.as_str().to_owned(),
            input_message_id: Some(message.row.id.clone()),
            reply_to_json: reply_to
                .map(serde_json::to_string)
                .transpose()
                .map_err(|e| StoreError::Io(format!("reply target: {e}")))?,
            request_hash: a.request_hash.clone(),
            started: a.starts_now,
            timeout_ms: a
                .timeout_ms
                .map(|ms| i64::try_from(ms).unwrap_or(i64::MAX / 2)),
            traceparent: a.traceparent.map(|context| context.to_string()),
        },
        a.now_ms,
    )?;
    let run = match inserted {
        RunInserted::New(run) => run,
        RunInserted::Existing(row) => return Ok(AcceptOutcome::Existing(Box::new(row))),
    };
    w.append_event(
        "run.accepted",
        Some(key),
        &serde_json::json!({"runId": run.run_id, "origin": a.origin.as_str(), "messageSeq": message.row.seq})
            .to_string(),
        a.now_ms,
    )?;
    let session = match message.session {
        Some(session) => session,
        None => w.get_session(key)?.ok_or(StoreError::NotFound)?,
    };
    Ok(AcceptOutcome::New(Box::new(NewlyAccepted {
        run,
        created_session: before.is_none(),
        session,
        message_seq: message.row.seq,
        input: (a.starts_now && message.row.content_json.len() <= RUN_INPUT_KEPT_BYTES)
            .then_some(message.row),
        session_edits: w.session_edits(),
    })))
}

pub(super) fn content_json(content: &[ContentBlock]) -> Result<String, StoreError> {
    serde_json::to_string(content).map_err(|e| StoreError::Io(format!("content: {e}")))
}

/// Accepts a run in a transaction of its own and kicks it. The answer comes after the commit.
///
/// # Errors
/// Those of the store; then nothing was accepted.
pub async fn accept(tenant: &Arc<Tenant>, a: AcceptRun) -> Result<AcceptOutcomeInfo, StoreError> {
    let accepted = tenant.db().write(move |w| accept_in_tx(w, a)).await?;
    Ok(super::kick(tenant, accepted))
}

/// What a caller needs to know of an acceptance.
#[derive(Debug)]
pub enum AcceptOutcomeInfo {
    /// Started or queued now.
    New {
        /// The session's id.
        session_id: String,
        /// Whether the session was made for it.
        created_session: bool,
        /// Sequence number of the message.
        message_seq: i64,
        /// When it was accepted, Unix epoch ms.
        accepted_at: i64,
    },
    /// Accepted before with the same request.
    Existing(Box<RunRow>),
    /// The run id was used for another request.
    Conflict,
    /// Another session than expected.
    SessionChanged,
}
