//! Working on runs: the worker of a session, one turn from its history to its last event, and what happens after a crash.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use gateway_protocol::content::{ChatMessage, ContentBlock, Role, Usage};
use gateway_protocol::ids::RunId;
use gateway_protocol::session_key::SessionKey;
use gateway_store::{
    MessageRow, NewMessage, NewOutbox, RunEnd, RunRow, RunState, StoreError, Write,
};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::accept::{AcceptOutcome, AcceptOutcomeInfo, Accepted, Origin, content_json};
use super::events::{RunEvents, to_chat_message};
use super::tail::Kept;
use super::{AbortReason, Begun, Ending, RunCell, RunOutcome};
use crate::agent::{
    StopReason, Turn, TurnEnd, TurnError, TurnErrorKind, TurnLimits, TurnMessage, TurnSink,
    TurnStatus,
};
use crate::delivery::{ReplyTarget, split};
use crate::limits::{
    REPLY_REVISION_INTERVAL_MS, RUN_ATTEMPTS_MAX, RUN_HISTORY_MESSAGES, RUN_TEXT_MAX_BYTES,
};
use crate::telemetry::RunSpan;
use crate::tenant::Tenant;
use crate::trace::{Stage, TraceParent, stage};

/// Tries of the transaction that ends a run, when the store is full or busy, before those who wait are told that it is not
/// recorded; the pauses double from 100 ms.
const END_TRIES: u32 = 8;
/// Pause between further tries, in ms.
const END_RETRY_MS: u64 = 2_000;

/// Puts an accepted run behind the others of its session. Call it after the commit that accepted it.
pub fn kick(tenant: &Arc<Tenant>, accepted: Accepted) -> AcceptOutcomeInfo {
    kick_with(tenant, accepted, gateway_config::QueueMode::Followup)
}

/// As [`kick`], with the queue mode: `Interrupt` stops what the session is doing.
pub fn kick_with(
    tenant: &Arc<Tenant>,
    mut accepted: Accepted,
    mode: gateway_config::QueueMode,
) -> AcceptOutcomeInfo {
    let reply_to = accepted.reply_to.take();
    let tap = accepted.tap.take();
    let (timeout_ms, traceparent) = (accepted.timeout_ms, accepted.traceparent);
    let new = match accepted.take() {
        AcceptOutcome::New(new) => new,
        AcceptOutcome::Existing(row) => return AcceptOutcomeInfo::Existing(row),
        AcceptOutcome::Conflict => return AcceptOutcomeInfo::Conflict,
        AcceptOutcome::SessionChanged => return AcceptOutcomeInfo::SessionChanged,
    };
    let key = new.session.key.clone();
    if new.created_session {
        tenant.sessions().created(&new.session.agent_id);
    }
    tenant
        .sessions()
        .touched(&key, &new.session.agent_id, new.session.updated_at);
    tenant.health().nudge();
    if mode == gateway_config::QueueMode::Interrupt {
        tenant.sessions().abort(&key, None, AbortReason::Interrupt);
    }
    let info = AcceptOutcomeInfo::New {
        session_id: new.session.session_id.clone(),
        created_session: new.created_session,
        message_seq: new.message_seq,
        accepted_at: new.run.created_at,
    };
    let begun = new.input.map(|input| {
        Box::new(Begun {
            session: new.session.clone(),
            input,
            session_edits: new.session_edits,
        })
    });
    let cell = Arc::new(RunCell {
        begun: Mutex::new(begun),
        marked_running: AtomicBool::new(new.run.state == RunState::Running),
        run_id: new.run.run_id,
        key,
        agent_id: new.session.agent_id.clone(),
        session_id: new.session.session_id.clone(),
        input_message_id: new.run.input_message_id,
        reply_to,
        accepted_at: new.run.created_at,
        origin: new.run.origin,
        deadline_at: new.run.deadline_at,
        created_session: new.created_session,
        cancel: CancellationToken::new(),
        abort: Mutex::new(None),
        outcome: Ending::default(),
        waiters: AtomicUsize::new(0),
        tap,
        started_at: AtomicI64::new(0),
        seq: AtomicU64::new(0),
        partial: Mutex::default(),
        timeout_ms,
        traceparent,
    });
    super::events::session_changed(
        tenant,
        &cell.key,
        &cell.agent_id,
        if cell.created_session {
            "create"
        } else {
            "send"
        },
        Some(&new.session),
    );
    enqueue(tenant, cell);
    info
}

fn cell_of_row(row: &RunRow, session_id: String) -> Arc<RunCell> {
    Arc::new(RunCell {
        begun: Mutex::default(),
        run_id: row.run_id.clone(),
        key: row.session_key.clone(),
        agent_id: row.agent_id.clone(),
        session_id,
        input_message_id: row.input_message_id.clone(),
        reply_to: row
            .reply_to_json
            .as_deref()
            .and_then(|j| serde_json::from_str::<ReplyTarget>(j).ok()),
        accepted_at: row.created_at,
        created_session: false,
        cancel: CancellationToken::new(),
        abort: Mutex::new(None),
        outcome: Ending::default(),
        waiters: AtomicUsize::new(0),
        tap: None,
        marked_running: AtomicBool::new(row.state == RunState::Running),
        started_at: AtomicI64::new(0),
        seq: AtomicU64::new(0),
        partial: Mutex::default(),
        origin: row.origin.clone(),
        timeout_ms: row.timeout_ms.and_then(|ms| u64::try_from(ms).ok()),
        deadline_at: row.deadline_at,
        traceparent: row.traceparent.as_deref().and_then(TraceParent::parse),
    })
}

fn enqueue(tenant: &Arc<Tenant>, cell: Arc<RunCell>) {
    let key = cell.key.clone();
    let spawn = {
        let mut table = tenant.sessions().table.lock();
        if table.by_run.contains_key(&cell.run_id) {
            return;
        }
        table.by_run.insert(cell.run_id.clone(), cell.clone());
        let active = table.active.entry(key.clone()).or_default();
        active.queue.push_back(cell);
        !std::mem::replace(&mut active.working, true)
    };
    if spawn {
        let tenant = tenant.clone();
        let tracker = tenant.tasks().clone();
        tracker.spawn(async move { work(&tenant, &key).await });
    }
}

/// The worker of one session: takes its runs in order until there is none.
async fn work(tenant: &Arc<Tenant>, key: &str) {
    loop {
        let cell = {
            let mut table = tenant.sessions().table.lock();
            let Some(active) = table.active.get_mut(key) else {
                return;
            };
            active.current = None;
            if tenant.sessions().is_draining() {
                // What is queued stays in the store; the next start takes it up.
                active.working = false;
                tenant.sessions().idle.notify_waiters();
                return;
            }
            match active.queue.pop_front() {
                Some(cell) => {
                    active.current = Some(cell.clone());
                    cell
                }
                None => {
                    table.active.remove(key);
                    tenant.sessions().idle.notify_waiters();
                    return;
                }
            }
        };
        let done = AssertUnwindSafe(execute(tenant, &cell))
            .catch_unwind()
            .await;
        if let Err(panic) = done {
            let error = tenant.faults().panicked("run", &*panic);
            let mut ended = Ended::failed("internal", error.message);
            // What was streamed stays, as with any other failure.
            ended.text = cell.partial.lock().clone();
            if !ended.text.is_empty() {
                ended.messages.push(TurnMessage {
                    role: Role::Assistant,
                    content: vec![ContentBlock::text(ended.text.clone())],
                });
            }
            let work = AssertUnwindSafe(conclude(tenant, &cell, None, ended));
            // A second panic must not end the worker: the row stays unfinished and the next start sees it.
            if work.catch_unwind().await.is_err() {
                tenant.faults().internal("run end", "panicked again");
            }
        }
        let mut table = tenant.sessions().table.lock();
        table.by_run.remove(&cell.run_id);
    }
}

/// How a turn went, in the terms of the store.
struct Ended {
    state: RunState,
    text: String,
    messages: Vec<TurnMessage>,
    stop_reason: Option<String>,
    error: Option<String>,
    error_kind: Option<String>,
    usage: Usage,
    model: Option<String>,
}

impl Ended {
    fn failed(kind: &str, message: String) -> Self {
        Self {
            state: RunState::Error,
            text: String::new(),
            messages: Vec::new(),
            stop_reason: Some("error".to_owned()),
            error: Some(message),
            error_kind: Some(kind.to_owned()),
            usage: Usage::default(),
            model: None,
        }
    }

    fn of(result: Result<TurnEnd, TurnError>, abort: Option<AbortReason>) -> Self {
        match result {
            Ok(end) => Self {
                state: RunState::Ok,
                text: end.text,
                messages: end.messages,
                stop_reason: Some(
                    match end.stop_reason {
                        StopReason::Stop => "stop",
                        other => other.as_str(),
                    }
                    .to_owned(),
                ),
                error: None,
                error_kind: None,
                usage: end.usage,
                model: Some(end.model),
            },
            Err(e) => {
                let aborted = match (&e.kind, abort) {
                    (TurnErrorKind::Aborted, reason) => Some(reason.unwrap_or(AbortReason::Rpc)),
                    _ => None,
                };
                Self {
                    state: if aborted.is_some() {
                        RunState::Aborted
                    } else {
                        RunState::Error
                    },
                    text: e.partial_text,
                    messages: e.messages,
                    stop_reason: Some(aborted.map_or("error", AbortReason::as_str).to_owned()),
                    error: aborted.is_none().then(|| e.message.clone()),
                    error_kind: aborted.is_none().then(|| e.kind.as_str().to_owned()),
                    usage: e.usage,
                    model: None,
                }
            }
        }
    }
}

/// What the run needs to know of its session.
struct Loaded {
    session: gateway_store::SessionRow,
    input: Option<MessageRow>,
    /// The conversation with the message to answer at its end.
    history: Vec<Arc<ChatMessage>>,
}

/// The same without a read, where the run begins right after its commit and what came before is still known.
fn known(tenant: &Tenant, cell: &RunCell) -> Option<Loaded> {
    let begun = *cell.begun.lock().take()?;
    if tenant.db().session_edits() != begun.session_edits {
        return None;
    }
    let (tails, now) = (&tenant.sessions().tails, tenant.now_ms());
    let mut history = tails.before(&cell.key, &cell.session_id, begun.input.seq, now)?;
    let input = Kept::new(&begun.input);
    history.push(input.message.clone());
    tails.append(&cell.key, &cell.session_id, input, now);
    Some(Loaded {
        session: begun.session,
        input: Some(begun.input),
        history,
    })
}

async fn load(tenant: &Tenant, cell: &RunCell) -> Result<Option<Loaded>, StoreError> {
    let key = cell.key.clone();
    let input_id = cell.input_message_id.clone();
    let session_id = cell.session_id.clone();
    let limit = i64::try_from(RUN_HISTORY_MESSAGES).unwrap_or(200);
    let read = tenant
        .db()
        .read(move |r| {
            let Some(session) = r.get_session(&key)? else {
                return Ok(None);
            };
            if session.session_id != session_id {
                return Ok(None);
            }
            let rows = r.conversation(&key, limit)?;
            let input = match input_id {
                Some(id) => match rows.iter().find(|m| m.id == id) {
                    Some(row) => Some(row.clone()),
                    None => r.get_message(&id)?,
                },
                None => None,
            };
            Ok(Some((session, input, rows)))
        })
        .await?;
    let Some((session, input, rows)) = read else {
        return Ok(None);
    };
    let kept: Vec<Kept> = rows.iter().map(Kept::new).collect();
    let mut history = Vec::with_capacity(kept.len());
    for (row, kept) in rows.iter().zip(&kept) {
        let waits = input.as_ref().is_some_and(|input| {
            // Messages that wait behind this one are not part of its conversation yet; its own stands at the end.
            row.id == input.id
                || row.seq > input.seq
                    && (row.role == Role::User.as_str() || row.role == Role::System.as_str())
        });
        if !waits {
            history.push(kept.message.clone());
        }
    }
    history.extend(input.as_ref().map(|input| Arc::new(to_chat_message(input))));
    let tails = &tenant.sessions().tails;
    tails.put(&cell.key, &cell.session_id, kept, tenant.now_ms());
    Ok(Some(Loaded {
        session,
        input,
        history,
    }))
}

async fn execute(tenant: &Arc<Tenant>, cell: &Arc<RunCell>) {
    let _slot = tenant.sessions().slots.acquire().await;
    cell.started_at.store(tenant.now_ms(), Ordering::Release);
    let loaded = match known(tenant, cell) {
        Some(loaded) => Ok(Some(loaded)),
        None => load(tenant, cell).await,
    };
    let loaded = match loaded {
        Ok(Some(loaded)) => loaded,
        Ok(None) => {
            cell.stop(AbortReason::SessionGone);
            let ended = aborted(AbortReason::SessionGone);
            conclude(tenant, cell, None, ended).await;
            return;
        }
        Err(error) => {
            let why = tenant.faults().internal("run load", &error.to_string());
            conclude(tenant, cell, None, Ended::failed("storage", why.message)).await;
            return;
        }
    };
    let events = RunEvents::new(tenant.clone(), cell);
    events.begin(&loaded.session, loaded.input.as_ref());
    if cell.cancel.is_cancelled() {
        let reason = cell.abort.lock().unwrap_or(AbortReason::Rpc);
        conclude(tenant, cell, Some(&events), aborted(reason)).await;
        return;
    }
    let time_left_ms = cell.time_left_ms(tenant.now_ms());
    if time_left_ms == Some(0) {
        // Its time passed before it came to its turn: the process that began it is dead, or all places were taken.
        cell.stop(AbortReason::Timeout);
        let ended = aborted(AbortReason::Timeout);
        conclude(tenant, cell, Some(&events), ended).await;
        return;
    }
    if !cell.marked_running.swap(true, Ordering::AcqRel) {
        // Taken along by the next commit; nobody waits for it. It only counts attempts after a crash.
        let run_id = cell.run_id.clone();
        let now = tenant.now_ms();
        drop(
            tenant
                .db()
                .write(move |w| w.start_run(&run_id, now).map(drop)),
        );
    }
    let agents = tenant.agents();
    let Some(agent) = agents.get(&cell.agent_id) else {
        let why = match agents.broken().get(&cell.agent_id) {
            Some(why) => format!("agent {} cannot answer: {why}", cell.agent_id),
            None => format!("there is no agent {}", cell.agent_id),
        };
        conclude(tenant, cell, Some(&events), Ended::failed("refused", why)).await;
        return;
    };
    let (Ok(run_id), Ok(session_key)) = (RunId::parse(&cell.run_id), SessionKey::parse(&cell.key))
    else {
        conclude(
            tenant,
            cell,
            Some(&events),
            Ended::failed("internal", "the run's ids are not valid".to_owned()),
        )
        .await;
        return;
    };
    let model = loaded.session.model.as_deref().map(Arc::from);
    let limits = TurnLimits {
        text_bytes: RUN_TEXT_MAX_BYTES,
        ..TurnLimits::default()
    };
    if let Some(to) = &cell.reply_to {
        stage(
            tenant,
            Stage::Run,
            to.trace.as_deref().unwrap_or("-"),
            Some(&cell.run_id),
        );
    }
    events.model(agent.backend.provider(), agent.backend.model());
    let sink = Sink::new(tenant, cell, &events);
    let turn = Turn {
        run_id,
        session_key,
        system_prompt: agent.system_prompt.clone(),
        history: loaded.history,
        tools: crate::policy::tools_of(tenant, &agent.tools),
        traceparent: told(tenant, cell),
        model,
        limits,
    };
    let backend = agent.backend.clone();
    let running = backend.run(turn, &sink, cell.cancel.clone());
    let result = {
        let limited = async {
            match time_left_ms {
                Some(ms) => {
                    tokio::pin!(running);
                    tokio::select! {
                        biased;
                        result = &mut running => result,
                        () = tokio::time::sleep(Duration::from_millis(ms)) => {
                            cell.stop(AbortReason::Timeout);
                            running.await
                        }
                    }
                }
                None => running.await,
            }
        };
        let revisions = sink.revise_loop();
        tokio::pin!(limited, revisions);
        tokio::select! {
            biased;
            result = &mut limited => result,
            never = &mut revisions => match never {},
            // The gateway stops and did not wait any longer: the row stays unfinished for the next start.
            () = tenant.stop_token().cancelled() => return,
        }
    };
    let abort = *cell.abort.lock();
    let mut ended = Ended::of(result, abort);
    ended
        .model
        .get_or_insert_with(|| agent.backend.model().to_owned());
    conclude(tenant, cell, Some(&events), ended).await;
}

/// The context that the model server is told: the run's own span where there is one, else what the caller sent.
fn told(tenant: &Tenant, cell: &RunCell) -> Option<TraceParent> {
    let exported = tenant.shared().telemetry.is_some();
    if cell.is_of_a_message() || !exported && cell.origin != Origin::Cron.as_str() {
        return cell.traceparent;
    }
    Some(TraceParent::of_run(tenant, &cell.run_id, cell.traceparent))
}

/// The span of a run that has no message whose stages would tell of it.
fn trace_end(tenant: &Tenant, cell: &RunCell, outcome: &RunOutcome) {
    if let Some(telemetry) = &tenant.shared().telemetry
        && !cell.is_of_a_message()
    {
        telemetry.run(RunSpan {
            tenant: tenant.slug().into(),
            run_id: cell.run_id.as_str().into(),
            origin: cell.origin.as_str().into(),
            state: outcome.state.as_str(),
            failed: outcome.state == RunState::Error,
            context: TraceParent::of_run(tenant, &cell.run_id, cell.traceparent),
            parent: cell.traceparent,
            from_ms: cell.accepted_at,
            to_ms: outcome.ended_at,
        });
    }
}

fn aborted(reason: AbortReason) -> Ended {
    Ended {
        state: RunState::Aborted,
        text: String::new(),
        messages: Vec::new(),
        stop_reason: Some(reason.as_str().to_owned()),
        error: None,
        error_kind: None,
        usage: Usage::default(),
        model: None,
    }
}

/// What the transaction that ends a run leaves.
struct Recorded {
    session: Option<gateway_store::SessionRow>,
    messages: Vec<MessageRow>,
    answer: Answer,
    /// The run was that of a job.
    job: Option<crate::cron::Finished>,
}

/// What the end of a run left for the channel that asked.
enum Answer {
    /// Nothing.
    None,
    /// A row that waits in the outbox.
    Queued,
    /// A row that this process has claimed, because the one who asked is still waiting for it.
    Claimed(Box<gateway_store::OutboxRow>),
}

/// Ends a run: one transaction, then the events, then those who wait.
async fn conclude(
    tenant: &Arc<Tenant>,
    cell: &Arc<RunCell>,
    events: Option<&RunEvents>,
    ended: Ended,
) {
    let ended = Arc::new(ended);
    let provider = tenant
        .agents()
        .get(&cell.agent_id)
        .map_or_else(String::new, |a| a.backend.provider().to_owned());
    let mut recorded = record(tenant, cell, &ended, &provider).await;
    let mut pause = Duration::from_millis(100);
    for _ in 1..END_TRIES {
        if !recorded.as_ref().is_err_and(StoreError::is_retryable) {
            break;
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
        recorded = record(tenant, cell, &ended, &provider).await;
    }
    let outcome = RunOutcome {
        run_id: cell.run_id.clone(),
        session_key: cell.key.clone(),
        state: ended.state,
        text: ended.text.clone(),
        error: ended.error.clone(),
        error_kind: ended.error_kind.clone(),
        stop_reason: ended.stop_reason.clone(),
        usage: ended.usage,
        provider: provider.clone(),
        model: ended.model.clone().unwrap_or_default(),
        accepted_at: cell.accepted_at,
        ended_at: tenant.now_ms(),
    };
    tenant.sessions().runs_ended.fetch_add(1, Ordering::Relaxed);
    let began = cell.started_at.load(Ordering::Acquire);
    let took_ms = u64::try_from(outcome.ended_at.saturating_sub(began)).unwrap_or(0);
    tenant.metrics().run_ended(ended.state, took_ms);
    trace_end(tenant, cell, &outcome);
    let own = RunEvents::new(tenant.clone(), cell);
    let events = events.unwrap_or(&own);
    match recorded {
        Ok(recorded) => {
            settle(tenant, cell, recorded, |session, messages| {
                events.end(&outcome, session, messages);
            });
            tell(tenant, cell, outcome);
        }
        Err(error) => {
            let internal = tenant.faults().internal("run end", &error.to_string());
            let text = match error {
                StoreError::Full => {
                    "storage is full: the answer is recorded when there is room again".to_owned()
                }
                _ => internal.message,
            };
            let outcome = RunOutcome {
                state: RunState::Error,
                error: Some(text),
                error_kind: Some("storage".to_owned()),
                ..outcome
            };
            events.end(&outcome, None, &[]);
            tell(tenant, cell, outcome);
            // Otherwise the row stays unfinished, and the next start takes the run up again.
            if error.is_retryable()
                && let Some(recorded) = record_late(tenant, cell, &ended, &provider).await
            {
                settle(tenant, cell, recorded, |session, messages| {
                    events.late(session, messages);
                });
            }
            release(tenant, cell);
        }
    }
}

/// Tries to record an end of which those who waited were told that it is not recorded. The session waits meanwhile, so that
/// what comes later in its transcript stands later. `None`: the gateway stops, or no further try is of use.
async fn record_late(
    tenant: &Arc<Tenant>,
    cell: &Arc<RunCell>,
    ended: &Arc<Ended>,
    provider: &str,
) -> Option<Recorded> {
    loop {
        tokio::select! {
            biased;
            () = tenant.stop_token().cancelled() => return None,
            () = tokio::time::sleep(Duration::from_millis(END_RETRY_MS)) => {}
        }
        if tenant.sessions().is_draining() {
            return None;
        }
        match record(tenant, cell, ended, provider).await {
            Ok(recorded) => return Some(recorded),
            Err(error) if error.is_retryable() => {}
            Err(error) => {
                tenant.faults().internal("run end", &error.to_string());
                return None;
            }
        }
    }
}

/// What follows the commit that ended a run. `announce` tells the clients.
fn settle(
    tenant: &Arc<Tenant>,
    cell: &Arc<RunCell>,
    recorded: Recorded,
    announce: impl FnOnce(Option<&gateway_store::SessionRow>, &[MessageRow]),
) {
    // Out of the table before anybody is told, so that who asks next finds the row.
    tenant.sessions().table.lock().by_run.remove(&cell.run_id);
    if let Some(session) = &recorded.session {
        let sessions = tenant.sessions();
        sessions.touched(&cell.key, &cell.agent_id, session.updated_at);
        if recorded.job.is_some() {
            // A job's turn may have been taken out of the conversation.
            sessions.tails.forget(&cell.key);
        } else {
            let now = tenant.now_ms();
            for row in &recorded.messages {
                let kept = Kept::new(row);
                sessions
                    .tails
                    .append(&cell.key, &cell.session_id, kept, now);
            }
        }
    }
    tenant.health().nudge();
    if let (Some(delivery), Some(to)) = (tenant.delivery(), &cell.reply_to) {
        let trace = to.trace.as_deref().unwrap_or("-");
        match recorded.answer {
            Answer::None => {}
            Answer::Queued => {
                stage(tenant, Stage::Outbox, trace, Some(&cell.run_id));
                delivery.wake(&to.kind, &to.account);
            }
            Answer::Claimed(row) => {
                stage(tenant, Stage::Outbox, trace, Some(&cell.run_id));
                delivery.deliver(*row, to.clone());
            }
        }
    }
    release(tenant, cell);
    announce(recorded.session.as_ref(), &recorded.messages);
    if let Some(job) = recorded.job {
        crate::cron::tell(tenant, job);
    }
}

/// Tells the log and those who wait.
fn tell(tenant: &Tenant, cell: &RunCell, outcome: RunOutcome) {
    tenant.log_run(
        if outcome.state == RunState::Error {
            "WARN"
        } else {
            "INFO"
        },
        &cell.run_id,
        &format!(
            "run {} of {} ended: {}{}",
            cell.run_id,
            cell.key,
            outcome.state.as_str(),
            outcome
                .error
                .as_deref()
                .map(|e| format!(" ({e})"))
                .unwrap_or_default()
        ),
    );
    cell.outcome.tell(outcome);
}

/// The session's row says `running` as long as something is queued behind this run.
fn release(tenant: &Tenant, cell: &RunCell) {
    let mut table = tenant.sessions().table.lock();
    if let Some(active) = table.active.get_mut(&cell.key)
        && active
            .current
            .as_ref()
            .is_some_and(|c| c.run_id == cell.run_id)
    {
        active.current = None;
    }
}

async fn record(
    tenant: &Arc<Tenant>,
    cell: &Arc<RunCell>,
    ended: &Arc<Ended>,
    provider: &str,
) -> Result<Recorded, StoreError> {
    let cell = cell.clone();
    let ended = ended.clone();
    let provider = provider.to_owned();
    let now = tenant.now_ms();
    let ids: Vec<String> = (0..=ended.messages.len())
        .map(|_| tenant.new_id())
        .collect();
    // The next run of the session starts with this commit, so that its attempt is counted without a commit of its own.
    let next = {
        let table = tenant.sessions().table.lock();
        table
            .active
            .get(&cell.key)
            .and_then(|a| a.queue.front().cloned())
    };
    let next_id = next.as_ref().map(|n| n.run_id.clone());
    let terms = match (tenant.delivery(), &cell.reply_to) {
        (Some(delivery), Some(to)) => Terms {
            held: to
                .hold
                .as_deref()
                .is_some_and(|hold| delivery.holds(&to.kind, &to.account, hold)),
            ttl_ms: delivery.ttl_ms(&to.kind, &to.account),
            max_text_bytes: delivery.max_text_bytes(&to.kind, &to.account),
        },
        _ => Terms {
            held: false,
            ttl_ms: 24 * 3_600_000,
            max_text_bytes: 0,
        },
    };
    let recorded = tenant
        .db()
        .write(move |w| {
            record_rows(
                w,
                &cell,
                &ended,
                &provider,
                &ids,
                next_id.as_deref(),
                terms,
                now,
            )
        })
        .await?;
    if let Some(next) = next {
        next.marked_running.store(true, Ordering::Release);
    }
    Ok(recorded)
}

#[allow(clippy::too_many_arguments)]
fn record_rows(
    w: &mut Write<'_>,
    cell: &RunCell,
    ended: &Ended,
    provider: &str,
    ids: &[String],
    next: Option<&str>,
    terms: Terms,
    now: i64,
) -> Result<Recorded, StoreError> {
    let session = w
        .get_session(&cell.key)?
        .filter(|s| s.session_id == cell.session_id);
    let mut messages = Vec::new();
    if session.is_some() {
        let last = ended.messages.len();
        for (i, (message, id)) in ended.messages.iter().zip(ids).enumerate() {
            let final_one = i + 1 == last;
            let meta = message_meta(message, ended, provider, final_one);
            let appended = w.append_message(
                &NewMessage {
                    id: id.clone(),
                    session_key: cell.key.clone(),
                    role: message.role.as_str().to_owned(),
                    content_json: content_json(&message.content)?,
                    run_id: Some(cell.run_id.clone()),
                    idempotency_key: Some(if final_one {
                        format!("{}:assistant", cell.run_id)
                    } else {
                        format!("{}:step:{i}", cell.run_id)
                    }),
                    meta_json: Some(meta),
                },
                now,
            )?;
            messages.push(appended.row);
        }
    }
    let row = w.finish_run(
        &cell.run_id,
        &RunEnd {
            state: ended.state,
            stop_reason: ended.stop_reason.clone(),
            error: ended.error.clone(),
            result_text: Some(ended.text.clone()),
            usage_json: serde_json::to_string(&ended.usage).ok(),
        },
        now,
    )?;
    let job = match row.origin.as_str() {
        "cron" => crate::cron::end_in_tx(w, &row, provider, ended.model.as_deref(), now)?,
        _ => None,
    };
    let answer = match &cell.reply_to {
        Some(to) if quiet(to, ended) => Answer::None,
        Some(to) => answer_rows(w, cell, ended, to, terms, now)?,
        None => Answer::None,
    };
    if let Some(next) = next {
        // It may have ended already (aborted while queued): then there is nothing to mark.
        match w.start_run(next, now) {
            Ok(_) | Err(StoreError::Conflict(_) | StoreError::NotFound) => {}
            Err(error) => return Err(error),
        }
    }
    let session = if session.is_some() {
        let status = if next.is_some() {
            "running"
        } else {
            super::events::status_word(ended.state, ended.stop_reason.as_deref())
        };
        w.set_session_status(&cell.key, status)?
    } else {
        None
    };
    w.append_event(
        "run.ended",
        Some(&cell.key),
        &serde_json::json!({"runId": cell.run_id, "state": ended.state.as_str()}).to_string(),
        now,
    )?;
    Ok(Recorded {
        session,
        messages,
        answer,
        job,
    })
}

fn message_meta(message: &TurnMessage, ended: &Ended, provider: &str, final_one: bool) -> String {
    let mut meta = serde_json::json!({"provider": provider, "model": ended.model});
    if let Some(map) = meta.as_object_mut()
        && final_one
        && message.role == Role::Assistant
    {
        let reason = match ended.state {
            RunState::Aborted => Some("aborted".to_owned()),
            _ => ended.stop_reason.clone(),
        };
        map.insert("stopReason".to_owned(), reason.into());
        if let Ok(usage) = serde_json::to_value(ended.usage) {
            map.insert("usage".to_owned(), usage);
        }
    }
    meta.to_string()
}

/// What the channel says about the delivery of an answer.
#[derive(Clone, Copy)]
struct Terms {
    /// The one who asked still waits for it.
    held: bool,
    ttl_ms: i64,
    /// 0: no limit.
    max_text_bytes: usize,
}

/// Whether nobody asked and there is nothing to say.
fn quiet(to: &ReplyTarget, ended: &Ended) -> bool {
    ended.error.is_none()
        && to
            .quiet
            .is_some_and(|most| crate::cron::is_silent(&ended.text, most))
}

/// The outbox rows of the answer: one, perhaps begun while the answer grew, and more where it is too long for one message.
fn answer_rows(
    w: &mut Write<'_>,
    cell: &RunCell,
    ended: &Ended,
    to: &ReplyTarget,
    terms: Terms,
    now: i64,
) -> Result<Answer, StoreError> {
    let text = answer_text(ended);
    let begun = w.find_outbox(&cell.run_id, 0)?;
    let text = match &begun {
        Some(row) if row.final_rev => return Ok(Answer::None),
        Some(row) if text.is_empty() => row.text.clone(),
        None if text.is_empty() && to.hold.is_none() => return Ok(Answer::None),
        _ => text,
    };
    // A held request has one answer, whatever its length.
    let max = if to.hold.is_some() {
        0
    } else {
        terms.max_text_bytes
    };
    let pieces = split(&text, max);
    let mut claimed = None;
    for (part, piece) in (0..).zip(pieces) {
        if let (0, Some(row)) = (part, &begun) {
            w.revise_outbox(row.id, piece, true, now)?;
            continue;
        }
        let row = NewOutbox {
            kind: to.kind.clone(),
            account: to.account.clone(),
            conversation_json: to.conversation_json.clone(),
            run_id: cell.run_id.clone(),
            part,
            text: piece.to_owned(),
            final_rev: true,
            next_at: now,
            expires_at: now.saturating_add(terms.ttl_ms),
            hold: to.hold.clone(),
        };
        if terms.held {
            // Claimed at once: the one who asked waits, and the claim costs no commit of its own.
            let row = w.enqueue_outbox_claimed(&row, now)?;
            claimed = (!row.duplicate).then(|| Box::new(row.row));
        } else {
            w.enqueue_outbox(&row, now)?;
        }
    }
    Ok(match (claimed, terms.held) {
        (Some(row), _) => Answer::Claimed(row),
        (None, true) => Answer::None,
        (None, false) => Answer::Queued,
    })
}

/// What a person on a channel reads: the answer, and a failure that is not hidden.
fn answer_text(ended: &Ended) -> String {
    match (&ended.error, ended.text.is_empty()) {
        (None, _) => ended.text.clone(),
        (Some(error), true) => format!("⚠️ {error}"),
        (Some(error), false) => format!("{}\n\n⚠️ {error}", ended.text),
    }
}

/// Takes what the backend produces: events to subscribers, text to a streaming HTTP caller and to a streaming channel.
struct Sink<'a> {
    tenant: &'a Arc<Tenant>,
    cell: &'a Arc<RunCell>,
    events: &'a RunEvents,
    grown: tokio::sync::Notify,
    streams: bool,
}

impl<'a> Sink<'a> {
    fn new(tenant: &'a Arc<Tenant>, cell: &'a Arc<RunCell>, events: &'a RunEvents) -> Self {
        let streams = match (tenant.delivery(), &cell.reply_to) {
            (Some(delivery), Some(to)) => {
                to.hold.is_none() && to.quiet.is_none() && delivery.streams(&to.kind, &to.account)
            }
            _ => false,
        };
        Self {
            tenant,
            cell,
            events,
            grown: tokio::sync::Notify::new(),
            streams,
        }
    }

    /// Keeps the outbox row of a growing answer up to date, at most once per interval. Never ends by itself.
    async fn revise_loop(&self) -> std::convert::Infallible {
        if !self.streams {
            return std::future::pending().await;
        }
        loop {
            self.grown.notified().await;
            let text = self.cell.partial.lock().clone();
            if !text.trim().is_empty() {
                if let Err(error) = self.revise(text).await {
                    // The end of the run writes the row all the same.
                    tracing::debug!(run = %self.cell.run_id, %error, "revision not written");
                }
                tokio::time::sleep(Duration::from_millis(REPLY_REVISION_INTERVAL_MS)).await;
            }
        }
    }

    async fn revise(&self, text: String) -> Result<(), StoreError> {
        let (Some(delivery), Some(to)) = (self.tenant.delivery(), self.cell.reply_to.clone())
        else {
            return Ok(());
        };
        let now = self.tenant.now_ms();
        let expires_at = now.saturating_add(delivery.ttl_ms(&to.kind, &to.account));
        let run_id = self.cell.run_id.clone();
        let (kind, account) = (to.kind.clone(), to.account.clone());
        // The first message grows; what does not fit into it comes with the end.
        let max = delivery.max_text_bytes(&kind, &account);
        let text = split(&text, max)
            .first()
            .map_or_else(String::new, |piece| (*piece).to_owned());
        self.tenant
            .db()
            .write(move |w| {
                match w.find_outbox(&run_id, 0)? {
                    Some(row) if row.final_rev => {}
                    Some(row) => {
                        w.revise_outbox(row.id, &text, false, now)?;
                    }
                    None => {
                        w.enqueue_outbox(
                            &NewOutbox {
                                kind: to.kind,
                                account: to.account,
                                conversation_json: to.conversation_json,
                                run_id,
                                part: 0,
                                text,
                                final_rev: false,
                                next_at: now,
                                expires_at,
                                hold: None,
                            },
                            now,
                        )?;
                    }
                }
                Ok(())
            })
            .await?;
        delivery.wake(&kind, &account);
        Ok(())
    }
}

impl TurnSink for Sink<'_> {
    fn text_delta(&self, delta: &str) {
        if let Some(tap) = &self.cell.tap {
            tap.delta(delta);
        }
        self.events.delta(delta);
        if self.streams {
            self.grown.notify_one();
        }
    }

    fn tool_start(&self, call_id: &str, name: &str, arguments: &serde_json::Value) {
        self.events.tool_start(call_id, name, arguments);
    }

    fn tool_result(&self, call_id: &str, name: &str, text: &str, is_error: bool) {
        self.events.tool_result(call_id, name, text, is_error);
    }

    fn usage(&self, usage: &Usage) {
        self.events.usage(usage);
    }

    fn status(&self, status: &TurnStatus) {
        if let TurnStatus::Waiting { ms, why } = status {
            self.tenant.log(
                "WARN",
                &format!("run {}: waiting {ms} ms: {why}", self.cell.run_id),
            );
        }
    }
}

/// Takes up what a dead process left: each run once more, at most [`RUN_ATTEMPTS_MAX`] times; then it ends with an
/// error that its session and its channel see. Gives the number of runs taken up.
///
/// # Errors
/// Those of the store.
pub async fn recover(tenant: &Arc<Tenant>) -> Result<usize, StoreError> {
    let mut count = 0;
    loop {
        let rows = tenant.db().read(|r| r.unfinished_runs()).await?;
        if rows.is_empty() {
            return Ok(count);
        }
        let cells = tenant
            .db()
            .write(move |w| {
                let mut cells = Vec::new();
                for old in rows {
                    let row = w.requeue_run(&old.run_id)?;
                    let session = w.get_session(&row.session_key)?;
                    let session_id = session.map(|s| s.session_id).unwrap_or_default();
                    let exhausted =
                        old.state == RunState::Running && old.attempt >= RUN_ATTEMPTS_MAX;
                    cells.push((cell_of_row(&row, session_id), exhausted));
                }
                Ok(cells)
            })
            .await?;
        for (cell, exhausted) in cells {
            count += 1;
            if exhausted {
                let why = format!(
                    "the gateway stopped {RUN_ATTEMPTS_MAX} times while it worked on this message; it is not tried again"
                );
                conclude(tenant, &cell, None, Ended::failed("attempts", why)).await;
            } else {
                enqueue(tenant, cell);
            }
        }
    }
}

/// Starts runs that were committed but whose caller went away before it could kick them.
///
/// # Errors
/// Those of the store.
pub async fn sweep(tenant: &Arc<Tenant>) -> Result<(), StoreError> {
    for run_id in tenant.sessions().sweep_list().take() {
        let found = tenant
            .db()
            .read(move |r| {
                let Some(row) = r.get_run(&run_id)? else {
                    return Ok(None);
                };
                let session = r.get_session(&row.session_key)?;
                Ok(Some((row, session)))
            })
            .await?;
        if let Some((row, session)) = found
            && !row.state.is_ended()
            && tenant.sessions().cell(&row.run_id).is_none()
        {
            let session_id = session.map(|s| s.session_id).unwrap_or_default();
            enqueue(tenant, cell_of_row(&row, session_id));
        }
    }
    Ok(())
}
