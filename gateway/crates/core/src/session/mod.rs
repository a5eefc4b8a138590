//! Sessions and their runs: one run at a time per session, everything accepted durable before it is answered.
//!
//! The life of a run:
//! 1. [`accept_in_tx`] writes user message, run, session and event rows in one transaction (a channel does this inside
//!    the transaction of its inbound event).
//! 2. After that commit [`kick`] puts the run behind the others of its session.
//! 3. The session's worker takes the runs one by one and ends each with one transaction.
//!
//! A run that was accepted but not kicked (its caller was dropped between the two) is found by the sweep; one that a
//! dead process left is found by [`recover`].

mod accept;
pub mod events;
mod run;
mod tail;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use gateway_protocol::content::Usage;
use gateway_store::{RunRow, RunState};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

pub use self::accept::{
    AcceptOutcome, AcceptOutcomeInfo, AcceptRun, Accepted, Origin, SessionProfile, accept,
    accept_in_tx, request_hash,
};
pub use self::run::{kick, kick_with, recover, sweep};

use crate::delivery::ReplyTarget;
use crate::limits::CONCURRENT_RUNS_MAX;

/// How a run ended, as those who wait for it learn it.
#[derive(Debug, Clone, PartialEq)]
pub struct RunOutcome {
    /// The run.
    pub run_id: String,
    /// Its session.
    pub session_key: String,
    /// `Ok`, `Error` or `Aborted`.
    pub state: RunState,
    /// All of the answer's text.
    pub text: String,
    /// Error text for a person.
    pub error: Option<String>,
    /// A stable word for the kind of error.
    pub error_kind: Option<String>,
    /// Why the model stopped.
    pub stop_reason: Option<String>,
    /// Tokens used.
    pub usage: Usage,
    /// Provider that answered.
    pub provider: String,
    /// Model that answered.
    pub model: String,
    /// When it was accepted, Unix epoch ms.
    pub accepted_at: i64,
    /// When it ended, Unix epoch ms.
    pub ended_at: i64,
}

impl RunOutcome {
    /// The outcome that a finished row tells (after a restart, or for a late question).
    #[must_use]
    pub fn from_row(row: &RunRow) -> Self {
        Self {
            run_id: row.run_id.clone(),
            session_key: row.session_key.clone(),
            state: row.state,
            text: row.result_text.clone().unwrap_or_default(),
            error: row.error.clone(),
            error_kind: None,
            stop_reason: row.stop_reason.clone(),
            usage: row
                .usage_json
                .as_deref()
                .and_then(|u| serde_json::from_str(u).ok())
                .unwrap_or_default(),
            provider: String::new(),
            model: String::new(),
            accepted_at: row.created_at,
            ended_at: row.ended_at.unwrap_or(row.created_at),
        }
    }
}

/// Gets the text of a run as it grows (the streaming HTTP API); must not block.
pub trait RunTap: Send + Sync + 'static {
    /// More text.
    fn delta(&self, text: &str);
}

/// Why a run is being stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AbortReason {
    /// A client asked.
    Rpc,
    /// A newer message took its place.
    Interrupt,
    /// Its time was up.
    Timeout,
    /// Its session was reset or deleted.
    SessionGone,
}

impl AbortReason {
    /// The stop reason in events and rows.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rpc => "rpc",
            Self::Interrupt => "interrupt",
            Self::Timeout => "timeout",
            Self::SessionGone => "session-gone",
        }
    }
}

/// A run that is queued or being worked on.
pub(crate) struct RunCell {
    pub(crate) run_id: String,
    pub(crate) key: String,
    pub(crate) agent_id: String,
    pub(crate) session_id: String,
    pub(crate) input_message_id: Option<String>,
    pub(crate) reply_to: Option<ReplyTarget>,
    pub(crate) accepted_at: i64,
    pub(crate) created_session: bool,
    pub(crate) cancel: CancellationToken,
    pub(crate) abort: Mutex<Option<AbortReason>>,
    pub(crate) outcome: Ending,
    pub(crate) waiters: AtomicUsize,
    pub(crate) tap: Option<Arc<dyn RunTap>>,
    /// Whether the row says `running` already.
    pub(crate) marked_running: AtomicBool,
    /// When the backend was asked, Unix epoch ms; 0 before.
    pub(crate) started_at: std::sync::atomic::AtomicI64,
    /// Number of the run's last event.
    pub(crate) seq: AtomicU64,
    /// Text so far.
    pub(crate) partial: Mutex<String>,
    /// By which way it was asked for.
    pub(crate) origin: String,
    pub(crate) timeout_ms: Option<u64>,
    /// When its time is over (Unix epoch ms), if it was begun before.
    pub(crate) deadline_at: Option<i64>,
    pub(crate) traceparent: Option<crate::trace::TraceParent>,
    /// What the commit that accepted the run left of its session, if the run was to begin at once.
    pub(crate) begun: Mutex<Option<Box<Begun>>>,
}

/// The end of a run, told once to all who wait, in the order in which they came: the channels of tokio that keep a value wake
/// their receivers in random order, and a seed of the simulation would not give the same story twice.
#[derive(Default)]
pub(crate) struct Ending {
    outcome: OnceLock<Arc<RunOutcome>>,
    told: CancellationToken,
}

impl Ending {
    pub(crate) fn tell(&self, outcome: RunOutcome) {
        // A second end cannot come; the first one stands.
        let _ = self.outcome.set(Arc::new(outcome));
        self.told.cancel();
    }

    async fn wait(&self) -> Arc<RunOutcome> {
        loop {
            if let Some(outcome) = self.outcome.get() {
                return outcome.clone();
            }
            self.told.cancelled().await;
        }
    }
}

/// A session as the commit left it that accepted a run.
pub(crate) struct Begun {
    session: gateway_store::SessionRow,
    input: gateway_store::MessageRow,
    /// [`gateway_store::TenantDb::session_edits`] at that commit.
    session_edits: u64,
}

impl RunCell {
    /// It answers a channel message, whose stages are the trace.
    fn is_of_a_message(&self) -> bool {
        let trace = self.reply_to.as_ref().and_then(|to| to.trace.as_deref());
        trace.is_some_and(|trace| trace != "-")
    }

    /// The time that is left to it; `None` without a limit.
    fn time_left_ms(&self, now: i64) -> Option<u64> {
        match self.deadline_at {
            Some(at) => Some(u64::try_from(at.saturating_sub(now)).unwrap_or(0)),
            None => self.timeout_ms,
        }
    }

    pub(crate) fn stop(&self, reason: AbortReason) {
        self.abort.lock().get_or_insert(reason);
        self.cancel.cancel();
    }
}

#[derive(Default)]
struct Active {
    queue: VecDeque<Arc<RunCell>>,
    current: Option<Arc<RunCell>>,
    working: bool,
}

#[derive(Default)]
struct Table {
    active: HashMap<String, Active>,
    by_run: HashMap<String, Arc<RunCell>>,
}

/// Runs that were accepted but may not have been kicked.
#[derive(Debug, Default)]
pub struct SweepList {
    runs: Mutex<Vec<String>>,
    notify: Notify,
}

impl SweepList {
    fn add(&self, run_id: String) {
        self.runs.lock().push(run_id);
        self.notify.notify_one();
    }

    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.runs.lock())
    }

    pub(crate) async fn raised(&self) {
        self.notify.notified().await;
    }
}

/// The sessions of one tenant that have something to do, and counts of all.
pub struct Sessions {
    table: Mutex<Table>,
    slots: Arc<Semaphore>,
    sweep: Arc<SweepList>,
    /// Sessions in the store by agent; kept by those that create and delete.
    counts: Mutex<HashMap<String, u64>>,
    runs_ended: AtomicU64,
    idle: Notify,
    draining: AtomicBool,
    recent: Mutex<VecDeque<(String, String, i64)>>,
    tails: tail::Tails,
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sessions({} active)", self.active_sessions())
    }
}

/// Recently used sessions shown in health and status.
const RECENT_SHOWN: usize = 5;

impl Sessions {
    pub(crate) fn new() -> Self {
        Self {
            table: Mutex::default(),
            slots: Arc::new(Semaphore::new(CONCURRENT_RUNS_MAX)),
            sweep: Arc::default(),
            counts: Mutex::default(),
            runs_ended: AtomicU64::new(0),
            idle: Notify::new(),
            draining: AtomicBool::new(false),
            recent: Mutex::default(),
            tails: tail::Tails::default(),
        }
    }

    /// Forgets what is kept for sessions that were not used for a while.
    pub(crate) fn age(&self, now_ms: i64) {
        self.tails.age(now_ms);
    }

    /// Sessions that exist.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.lock().values().sum()
    }

    /// Sessions of one agent.
    #[must_use]
    pub fn count_of(&self, agent: &str) -> u64 {
        self.counts.lock().get(agent).copied().unwrap_or(0)
    }

    pub(crate) fn set_count(&self, agent: &str, count: u64) {
        self.counts.lock().insert(agent.to_owned(), count);
    }

    pub(crate) fn created(&self, agent: &str) {
        *self.counts.lock().entry(agent.to_owned()).or_default() += 1;
    }

    pub(crate) fn deleted(&self, key: &str, agent: &str) {
        if let Some(n) = self.counts.lock().get_mut(agent) {
            *n = n.saturating_sub(1);
        }
        self.recent.lock().retain(|(k, _, _)| k != key);
    }

    /// Runs going on, and runs that wait for their session.
    #[must_use]
    pub fn run_counts(&self) -> (u64, u64) {
        let table = self.table.lock();
        table.active.values().fold((0, 0), |(going, waiting), a| {
            (
                going + u64::from(a.current.is_some()),
                waiting + a.queue.len() as u64,
            )
        })
    }

    pub(crate) fn touched(&self, key: &str, agent: &str, at: i64) {
        let mut recent = self.recent.lock();
        recent.retain(|(k, _, _)| k != key);
        recent.push_front((key.to_owned(), agent.to_owned(), at));
        recent.truncate(RECENT_SHOWN);
    }

    /// The sessions used last: (key, agent, when), newest first, a handful.
    #[must_use]
    pub fn recent(&self) -> Vec<(String, String, i64)> {
        self.recent.lock().iter().cloned().collect()
    }

    /// Sessions with a run going on or queued.
    #[must_use]
    pub fn active_sessions(&self) -> usize {
        self.table.lock().active.len()
    }

    /// Runs going on or queued.
    #[must_use]
    pub fn active_runs(&self) -> usize {
        self.table.lock().by_run.len()
    }

    /// Runs that ended since the start.
    #[must_use]
    pub fn runs_ended(&self) -> u64 {
        self.runs_ended.load(Ordering::Relaxed)
    }

    /// Ids of the runs of one session, the one that is going on first.
    #[must_use]
    pub fn runs_of(&self, key: &str) -> Vec<String> {
        let table = self.table.lock();
        table.active.get(key).map_or_else(Vec::new, |a| {
            a.current
                .iter()
                .chain(a.queue.iter())
                .map(|c| c.run_id.clone())
                .collect()
        })
    }

    /// Whether one more message of this session can be taken now.
    #[must_use]
    pub fn has_room(&self, key: &str) -> bool {
        let table = self.table.lock();
        match table.active.get(key) {
            Some(a) => a.queue.len() < crate::limits::SESSION_QUEUE_MAX,
            None => table.active.len() < crate::limits::ACTIVE_SESSIONS_MAX,
        }
    }

    pub(crate) fn is_idle(&self, key: &str) -> bool {
        !self.table.lock().active.contains_key(key)
    }

    pub(crate) fn sweep_list(&self) -> &Arc<SweepList> {
        &self.sweep
    }

    pub(crate) fn cell(&self, run_id: &str) -> Option<Arc<RunCell>> {
        self.table.lock().by_run.get(run_id).cloned()
    }

    /// The run of this session that is being worked on.
    pub(crate) fn current(&self, key: &str) -> Option<Arc<RunCell>> {
        self.table.lock().active.get(key)?.current.clone()
    }

    /// Stops one run of the session, or all of them; gives the ids of those that were told to stop.
    pub fn abort(&self, key: &str, run_id: Option<&str>, reason: AbortReason) -> Vec<String> {
        let cells: Vec<Arc<RunCell>> = {
            let table = self.table.lock();
            table.active.get(key).map_or_else(Vec::new, |a| {
                a.current
                    .iter()
                    .chain(a.queue.iter())
                    .filter(|c| run_id.is_none_or(|id| id == c.run_id))
                    .cloned()
                    .collect()
            })
        };
        for cell in &cells {
            cell.stop(reason);
        }
        cells.into_iter().map(|c| c.run_id.clone()).collect()
    }

    /// Waits until a run that is in work here ends. `None` when it is not in work here (it ended, or never was).
    pub(crate) fn watch_run(
        &self,
        run_id: &str,
    ) -> Option<Result<RunWait, gateway_protocol::RpcError>> {
        let cell = self.cell(run_id)?;
        if cell.waiters.fetch_add(1, Ordering::AcqRel) >= crate::limits::RUN_WAITERS_MAX {
            cell.waiters.fetch_sub(1, Ordering::AcqRel);
            return Some(Err(gateway_protocol::RpcError::new(
                gateway_protocol::DetailCode::Overloaded,
                "too many callers wait for this run",
            )));
        }
        Some(Ok(RunWait { cell }))
    }

    /// No further run is started; those that are queued stay in the store for the next start.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Whether runs are being worked on right now.
    pub(crate) fn busy(&self) -> bool {
        self.table
            .lock()
            .active
            .values()
            .any(|a| a.current.is_some())
    }

    /// Waits until no run is being worked on.
    pub(crate) async fn wait_idle(&self) {
        loop {
            let notified = self.idle.notified();
            if !self.busy() {
                return;
            }
            notified.await;
        }
    }
}

/// A wait for the end of one run.
pub(crate) struct RunWait {
    cell: Arc<RunCell>,
}

impl RunWait {
    /// The outcome. A run that is dropped unfinished (the gateway is stopping) has none: its callers are ended with their connections.
    pub(crate) async fn outcome(self) -> Arc<RunOutcome> {
        self.cell.outcome.wait().await
    }
}

impl Drop for RunWait {
    fn drop(&mut self) {
        self.cell.waiters.fetch_sub(1, Ordering::AcqRel);
    }
}
