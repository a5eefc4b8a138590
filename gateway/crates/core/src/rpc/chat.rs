//! Chat: send, history, abort, inject.

use std::time::Duration;

use gateway_config::QueueMode as ConfigQueueMode;
use gateway_protocol::content::{ContentBlock, Role};
use gateway_protocol::error::{DetailCode, RpcError};
use gateway_protocol::ids::RunId;
use gateway_protocol::limits::MAX_TEXT_BYTES;
use gateway_protocol::methods::chat::{
    ChatAbortParams, ChatAbortResult, ChatHistoryParams, ChatHistoryResult, ChatInjectParams,
    ChatInjectResult, ChatSendParams, ChatSendResult, InFlightRun, QueueMode,
};
use gateway_store::{NewMessage, RunRow, SessionPatch};

use super::error;
use crate::cx::{Cx, Surface};
use crate::limits::{HISTORY_DEFAULT, HISTORY_MAX};
use crate::session::events::{
    message_added, session_changed, session_defaults, session_row, to_chat_message,
};
use crate::session::{
    AbortReason, AcceptOutcomeInfo, AcceptRun, Origin, accept_in_tx, kick_with, request_hash,
};

/// How long `chat.abort` waits for the runs that it stopped to be recorded, in ms.
const ABORT_WAIT_MS: u64 = 5_000;

pub(super) fn check_text(text: &str) -> Result<(), RpcError> {
    if text.len() > MAX_TEXT_BYTES {
        return Err(
            RpcError::new(DetailCode::PayloadTooLarge, "message is too long")
                .with("limitBytes", MAX_TEXT_BYTES),
        );
    }
    Ok(())
}

pub(super) fn run_id(key: &str) -> Result<String, RpcError> {
    RunId::parse(key)
        .map(RunId::into_string)
        .map_err(|e| RpcError::invalid(format!("invalid idempotencyKey: {e}")))
}

pub(super) fn queue_full() -> RpcError {
    RpcError::new(
        DetailCode::Overloaded,
        "too many messages wait in this session",
    )
    .retry_after_ms(1_000)
}

pub(super) fn key_conflict() -> RpcError {
    RpcError::new(
        DetailCode::IdempotencyConflict,
        "the idempotency key was used before with other parameters",
    )
}

pub(super) fn session_changed_error() -> RpcError {
    RpcError::new(
        DetailCode::SessionChanged,
        "the session is not the one that was expected",
    )
    .with("reason", "session-changed")
}

pub(super) fn draining() -> RpcError {
    RpcError::new(DetailCode::Draining, "the gateway is shutting down")
        .with("reason", "gateway-restarting")
        .retry_after_ms(500)
}

fn origin(cx: &Cx) -> Origin {
    match cx.caller.surface {
        Surface::Internal => Origin::Boot,
        Surface::OpenAi => Origin::Http,
        _ => Origin::Rpc,
    }
}

/// What a repeated `chat.send` is told.
fn known_status(cx: &Cx, row: &RunRow) -> &'static str {
    if !row.state.is_ended() || cx.tenant.sessions().cell(&row.run_id).is_some() {
        return "in_flight";
    }
    row.state.as_str()
}

pub(super) async fn send(cx: Cx, p: ChatSendParams) -> Result<ChatSendResult, RpcError> {
    if p.message.trim().is_empty() {
        return Err(RpcError::invalid("message or attachment required"));
    }
    check_text(&p.message)?;
    let (key, agent_id) = error::session_key(&cx, &p.session_key, p.agent_id.as_deref())?;
    let run_id = run_id(&p.idempotency_key)?;
    let tenant = cx.tenant.clone();
    if !tenant.sessions().has_room(key.as_str()) {
        return Err(queue_full());
    }
    let mode = match p.queue_mode {
        Some(QueueMode::Interrupt) => ConfigQueueMode::Interrupt,
        Some(QueueMode::Followup) => ConfigQueueMode::Followup,
        None => tenant.settings().session.queue_mode,
    };
    let mut run = AcceptRun::new(
        &tenant,
        key.clone(),
        run_id.clone(),
        origin(&cx),
        p.message.as_str(),
    );
    run.agent_id = agent_id;
    run.request_hash = request_hash(&["chat.send", key.as_str(), &p.message]);
    run.timeout_ms = p.timeout_ms.filter(|ms| *ms > 0);
    run.traceparent = cx.remote_trace();
    run.expected_session_id = p.session_id.map(|s| s.as_str().to_owned());
    let accepted = tenant
        .db()
        .write(move |w| accept_in_tx(w, run))
        .await
        .map_err(|e| error::store(&tenant, &e))?;
    let status = match kick_with(&tenant, accepted, mode) {
        AcceptOutcomeInfo::New { .. } => "started",
        AcceptOutcomeInfo::Existing(row) => known_status(&cx, &row),
        AcceptOutcomeInfo::Conflict => return Err(key_conflict()),
        AcceptOutcomeInfo::SessionChanged => return Err(session_changed_error()),
    };
    Ok(ChatSendResult {
        run_id,
        status: status.to_owned(),
    })
}

pub(super) async fn history(cx: Cx, p: ChatHistoryParams) -> Result<ChatHistoryResult, RpcError> {
    let (key, _) = error::session_key(&cx, &p.session_key, p.agent_id.as_deref())?;
    let key = key.into_string();
    let tenant = cx.tenant.clone();
    let limit = p
        .limit
        .map_or(HISTORY_DEFAULT, |n| {
            usize::try_from(n.get()).unwrap_or(HISTORY_MAX)
        })
        .min(HISTORY_MAX);
    let offset = i64::try_from(p.offset.unwrap_or(0)).unwrap_or(i64::MAX);
    let asked = key.clone();
    let (session, page) = tenant
        .db()
        .read(move |r| {
            let session = r.get_session(&asked)?;
            let page = r.history(
                &asked,
                i64::try_from(limit).unwrap_or(i64::MAX),
                None,
                offset,
            )?;
            Ok((session, page))
        })
        .await
        .map_err(|e| error::store(&tenant, &e))?;
    let mut has_more = page.has_more;
    let mut messages: Vec<_> = page.items.iter().map(to_chat_message).collect();
    if let Some(max) = p.max_chars {
        let max = usize::try_from(max.get()).unwrap_or(usize::MAX);
        for block in messages.iter_mut().flat_map(|m| &mut m.content) {
            if let ContentBlock::Text { text } = block
                && let Some((cut, _)) = text.char_indices().nth(max)
            {
                text.truncate(cut);
                text.push('…');
            }
        }
    }
    if let Some(max) = p.max_bytes {
        // The newest messages are kept; at least one is given.
        let max = usize::try_from(max.get()).unwrap_or(usize::MAX);
        let mut total = 0;
        let mut keep = 0;
        for m in messages.iter().rev() {
            total += serde_json::to_vec(m).map_or(0, |b| b.len());
            if total > max && keep > 0 {
                break;
            }
            keep += 1;
        }
        if keep < messages.len() {
            has_more = true;
            messages.drain(..messages.len() - keep);
        }
    }
    let in_flight_run = tenant.sessions().current(&key).map(|c| InFlightRun {
        run_id: c.run_id.clone(),
        text: c.partial.lock().clone(),
        started_at: c.started_at.load(std::sync::atomic::Ordering::Acquire),
    });
    Ok(ChatHistoryResult {
        session_id: session.as_ref().map(|s| s.session_id.clone()),
        session_info: session.as_ref().map(|s| session_row(&tenant, s)),
        messages,
        has_more,
        total_messages: page.total.and_then(|t| u64::try_from(t).ok()).unwrap_or(0),
        defaults: session_defaults(&tenant),
        in_flight_run,
        session_key: key,
    })
}

pub(super) async fn abort(cx: Cx, p: ChatAbortParams) -> Result<ChatAbortResult, RpcError> {
    let (key, _) = error::session_key(&cx, &p.session_key, p.agent_id.as_deref())?;
    let run = p.run_id.as_deref().map(str::to_owned);
    let run_ids = stop_runs(&cx.tenant, key.as_str(), run.as_deref(), AbortReason::Rpc).await;
    Ok(ChatAbortResult {
        ok: true,
        aborted: !run_ids.is_empty(),
        run_ids,
    })
}

/// Stops runs and waits (within bounds) until their end is recorded.
pub(crate) async fn stop_runs(
    tenant: &crate::tenant::Tenant,
    key: &str,
    run: Option<&str>,
    reason: AbortReason,
) -> Vec<String> {
    // Watched before they are told to stop: afterwards they may be gone. A run that waits behind one that goes on ends
    // when its turn comes; that is not waited for.
    let current = tenant.sessions().current(key).map(|c| c.run_id.clone());
    let waits_for_other = run.is_some() && current.as_deref() != run;
    let ids = if waits_for_other {
        Vec::new()
    } else {
        tenant.sessions().runs_of(key)
    };
    let waits: Vec<_> = ids
        .iter()
        .filter(|id| run.is_none_or(|r| r == **id))
        .filter_map(|id| tenant.sessions().watch_run(id)?.ok())
        .collect();
    let stopped = tenant.sessions().abort(key, run, reason);
    let all = async {
        for wait in waits {
            wait.outcome().await;
        }
    };
    let _ = tokio::time::timeout(Duration::from_millis(ABORT_WAIT_MS), all).await;
    stopped
}

pub(super) async fn inject(cx: Cx, p: ChatInjectParams) -> Result<ChatInjectResult, RpcError> {
    check_text(&p.message)?;
    let (key, agent_id) = error::session_key(&cx, &p.session_key, p.agent_id.as_deref())?;
    let key = key.into_string();
    let tenant = cx.tenant.clone();
    let text = match p.label.as_deref().filter(|l| !l.is_empty()) {
        Some(label) => format!("[{label}]\n\n{}", p.message.as_str()),
        None => p.message.as_str().to_owned(),
    };
    let message_id = tenant.new_id();
    let session_id = tenant.new_id();
    let now = tenant.now_ms();
    let content = serde_json::to_string(&[ContentBlock::text(text)])
        .map_err(|e| tenant.faults().internal("inject", &e.to_string()))?;
    let id = message_id.clone();
    let idempotency_key = cx.idempotency.as_deref().map(str::to_owned);
    let owner = agent_id.clone();
    let at = key.clone();
    let (created, session, appended) = tenant
        .db()
        .write(move |w| {
            let created = w.get_session(&at)?.is_none();
            w.upsert_session(
                &SessionPatch {
                    key: at.clone(),
                    session_id,
                    agent_id: owner,
                    ..SessionPatch::default()
                },
                now,
            )?;
            let appended = w.append_message(
                &NewMessage {
                    id,
                    idempotency_key,
                    session_key: at.clone(),
                    role: Role::Assistant.as_str().to_owned(),
                    content_json: content,
                    meta_json: Some(
                        r#"{"provider":"gateway","model":"gateway-injected","stopReason":"stop"}"#
                            .to_owned(),
                    ),
                    ..NewMessage::default()
                },
                now,
            )?;
            if !appended.duplicate {
                w.append_event("message.injected", Some(&at), "{}", now)?;
            }
            Ok((created, w.get_session(&at)?, appended))
        })
        .await
        .map_err(|e| error::store(&tenant, &e))?;
    if created {
        tenant.sessions().created(&agent_id);
    }
    tenant.sessions().touched(&key, &agent_id, now);
    tenant.health().nudge();
    if !appended.duplicate {
        message_added(&tenant, &agent_id, &appended.row);
        session_changed(&tenant, &key, &agent_id, "inject", session.as_ref());
    }
    Ok(ChatInjectResult {
        ok: true,
        message_id: appended.row.id,
    })
}
