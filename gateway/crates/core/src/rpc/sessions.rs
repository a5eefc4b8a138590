//! Sessions: list, describe, create, reset, delete, subscribe.

use std::collections::BTreeMap;
use std::sync::Arc;

use gateway_protocol::error::RpcError;
use gateway_protocol::methods::NoParams;
use gateway_protocol::methods::sessions::{
    ApprovalReplay, ResetReason, SessionResetEntry, SessionsCreateParams, SessionsCreateResult,
    SessionsDeleteParams, SessionsDeleteResult, SessionsDescribeParams, SessionsDescribeResult,
    SessionsListParams, SessionsListResult, SessionsMessagesSubscribeParams,
    SessionsMessagesSubscribedResult, SessionsMessagesUnsubscribeParams, SessionsResetParams,
    SessionsResetResult, SessionsSubscribeParams, SubscribedResult,
};
use gateway_store::{ListQuery, SessionPatch, SessionRow, StoreError};

use serde_json::json;

use super::{chat, error};
use crate::audit::Audit;
use crate::cx::Cx;
use crate::hub::HubError;
use crate::limits::{SESSIONS_LIST_DEFAULT, SESSIONS_LIST_MAX};
use crate::registry::Reply;
use crate::session::events::{session_changed, session_defaults, session_row};
use crate::session::{
    AbortReason, AcceptOutcome, AcceptOutcomeInfo, AcceptRun, Accepted, Origin, accept_in_tx, kick,
    request_hash,
};
use crate::tenant::Tenant;

pub(super) async fn list(cx: Cx, p: SessionsListParams) -> Result<SessionsListResult, RpcError> {
    let tenant = cx.tenant.clone();
    let limit = p
        .limit
        .map_or(SESSIONS_LIST_DEFAULT, |n| {
            usize::try_from(n.get()).unwrap_or(SESSIONS_LIST_MAX)
        })
        .clamp(1, SESSIONS_LIST_MAX);
    let offset = p.offset.unwrap_or(0);
    let now = tenant.now_ms();
    let agent_id = p
        .agent_id
        .map(|id| error::agent_id(&tenant.agents(), &id))
        .transpose()?;
    let query = ListQuery {
        limit: i64::try_from(limit).unwrap_or(i64::MAX),
        offset: i64::try_from(offset).unwrap_or(i64::MAX),
        agent_id: agent_id.map(|a| a.into_string()),
        search: p.search.filter(|s| !s.is_empty()),
        label: p.label.map(|l| l.as_str().to_owned()),
        active_since: p.active_minutes.map(|m| {
            let minutes = i64::try_from(m.get()).unwrap_or(i64::MAX);
            now.saturating_sub(minutes.saturating_mul(60_000))
        }),
    };
    let page = tenant
        .db()
        .read(move |r| r.list_sessions(&query))
        .await
        .map_err(|e| error::store(&tenant, &e))?;
    let count = page.items.len() as u64;
    let seen = offset.saturating_add(count);
    Ok(SessionsListResult {
        ts: now,
        path: "store".to_owned(),
        count,
        // Where counting would mean reading all rows, it is what is known: at least one more when there is more.
        total_count: page
            .total
            .and_then(|t| u64::try_from(t).ok())
            .unwrap_or(seen + u64::from(page.has_more)),
        limit_applied: limit as u64,
        next_offset: page.has_more.then_some(seen),
        has_more: page.has_more,
        defaults: session_defaults(&tenant),
        sessions: page.items.iter().map(|s| session_row(&tenant, s)).collect(),
    })
}

pub(super) async fn describe(
    cx: Cx,
    p: SessionsDescribeParams,
) -> Result<SessionsDescribeResult, RpcError> {
    let (key, _) = error::session_key(&cx, &p.key, p.agent_id.as_deref())?;
    let tenant = cx.tenant.clone();
    let session = tenant
        .db()
        .read(move |r| r.get_session(key.as_str()))
        .await
        .map_err(|e| error::store(&tenant, &e))?;
    Ok(SessionsDescribeResult {
        session: session.map(|s| session_row(&tenant, &s)),
    })
}

fn entry(s: &SessionRow) -> BTreeMap<String, serde_json::Value> {
    let mut entry = BTreeMap::new();
    entry.insert("sessionId".to_owned(), s.session_id.clone().into());
    entry.insert("updatedAt".to_owned(), s.updated_at.into());
    entry.insert("createdAt".to_owned(), s.created_at.into());
    if let Some(label) = &s.label {
        entry.insert("label".to_owned(), label.clone().into());
    }
    entry
}

/// What the transaction of `sessions.create` did.
struct Created {
    result: SessionsCreateResult,
    session: Option<SessionRow>,
    new: bool,
    run: Option<Accepted>,
    repeated: bool,
}

pub(super) async fn create(
    cx: Cx,
    p: SessionsCreateParams,
) -> Result<SessionsCreateResult, RpcError> {
    let tenant = cx.tenant.clone();
    // A key that is not given is made of the idempotency key where there is one, so that a repeat names the same session.
    let minted = match (&p.key, &p.idempotency_key) {
        (Some(key), _) => key.as_str().to_owned(),
        (None, Some(idem)) => format!("session-{}", &request_hash(&[idem.as_str()])[..32]),
        (None, None) => format!("session-{}", tenant.new_id()),
    };
    let (key, agent_id) = error::session_key(&cx, &minted, p.agent_id.as_deref())?;
    let message = p.message.filter(|m| !m.trim().is_empty());
    if let Some(text) = &message {
        chat::check_text(text)?;
        if !tenant.sessions().has_room(key.as_str()) {
            return Err(chat::queue_full());
        }
    }
    let idem = p.idempotency_key.map(|k| k.as_str().to_owned());
    let label = p.label.map(|l| l.as_str().to_owned());
    let display_name = p.display_name.map(|l| l.as_str().to_owned());
    let hash = request_hash(&[
        key.as_str(),
        label.as_deref().unwrap_or(""),
        display_name.as_deref().unwrap_or(""),
        message.as_deref().unwrap_or(""),
    ]);
    let now = tenant.now_ms();
    let session_id = tenant.new_id();
    let mut run = message.map(|text| {
        let run_id = match &idem {
            Some(idem) => format!("create:{}", &request_hash(&[idem])[..40]),
            None => tenant.new_id(),
        };
        let mut run = AcceptRun::new(&tenant, key.clone(), run_id, Origin::Rpc, text);
        run.agent_id.clone_from(&agent_id);
        run.session_id.clone_from(&session_id);
        run
    });
    let owner = agent_id.clone();
    let at = key.as_str().to_owned();
    let done = tenant
        .db()
        .write(move |w| {
            if let Some(idem) = &idem
                && let Some(before) = w.recall("sessions.create", idem, &hash, now)?
            {
                return Ok(Created {
                    result: serde_json::from_str(&before)
                        .map_err(|e| StoreError::Io(format!("remembered answer: {e}")))?,
                    session: None,
                    new: false,
                    run: None,
                    repeated: true,
                });
            }
            let new = w.get_session(&at)?.is_none();
            w.upsert_session(
                &SessionPatch {
                    key: at.clone(),
                    session_id,
                    agent_id: owner,
                    label,
                    display_name,
                    ..SessionPatch::default()
                },
                now,
            )?;
            w.append_event("session.created", Some(&at), "{}", now)?;
            let accepted = run.take().map(|run| accept_in_tx(w, run)).transpose()?;
            let session = w.get_session(&at)?.ok_or(StoreError::NotFound)?;
            let mut result = SessionsCreateResult {
                ok: true,
                key: at.clone(),
                session_id: Some(session.session_id.clone()),
                entry: Some(entry(&session)),
                run_started: Some(accepted.as_ref().is_some_and(Accepted::is_new)),
                ..SessionsCreateResult::default()
            };
            if let Some(AcceptOutcome::New(run)) = accepted.as_ref().map(Accepted::outcome) {
                result.run_id = Some(run.run.run_id.clone());
                result.message_seq = u64::try_from(run.message_seq).ok();
            }
            if let Some(idem) = &idem {
                let answer = serde_json::to_string(&result)
                    .map_err(|e| StoreError::Io(format!("answer: {e}")))?;
                w.remember("sessions.create", idem, &hash, &answer, now)?;
            }
            Ok(Created {
                result,
                session: Some(session),
                new,
                run: accepted,
                repeated: false,
            })
        })
        .await
        .map_err(|e| match e {
            StoreError::Conflict(_) => chat::key_conflict(),
            e => error::store(&tenant, &e),
        })?;
    if done.repeated {
        return Ok(done.result);
    }
    if done.new {
        tenant.sessions().created(&agent_id);
    }
    tenant.sessions().touched(key.as_str(), &agent_id, now);
    tenant.health().nudge();
    session_changed(
        &tenant,
        key.as_str(),
        &agent_id,
        "create",
        done.session.as_ref(),
    );
    if let Some(run) = done.run
        && let AcceptOutcomeInfo::Conflict = kick(&tenant, run)
    {
        return Err(chat::key_conflict());
    }
    Ok(done.result)
}

/// Gives a session a new, empty history; what it was doing is stopped first.
pub(super) async fn reset_now(
    tenant: &Arc<Tenant>,
    key: &str,
    agent_id: &str,
    reason: &str,
    audit: &Audit,
) -> Result<Option<SessionRow>, RpcError> {
    chat::stop_runs(tenant, key, None, AbortReason::SessionGone).await;
    let (at, audit) = (key.to_owned(), audit.clone());
    let session_id = tenant.new_id();
    let now = tenant.now_ms();
    let reset = tenant
        .db()
        .write(move |w| {
            if w.get_session(&at)?.is_none() {
                return Ok(None);
            }
            let row = w.reset_session(&at, &session_id, now)?;
            w.append_event("session.reset", Some(&at), "{}", now)?;
            audit.record(w, &json!({ "sessionKey": at }), now)?;
            Ok(Some(row))
        })
        .await
        .map_err(|e| error::store(tenant, &e))?;
    if let Some(row) = &reset {
        tenant.sessions().touched(key, agent_id, row.updated_at);
        tenant.health().nudge();
        session_changed(tenant, key, agent_id, reason, Some(row));
    }
    Ok(reset)
}

pub(super) async fn reset(cx: Cx, p: SessionsResetParams) -> Result<SessionsResetResult, RpcError> {
    let (key, agent_id) = error::session_key(&cx, &p.key, p.agent_id.as_deref())?;
    let reason = match p.reason {
        Some(ResetReason::New) => "new",
        _ => "reset",
    };
    let row = reset_now(&cx.tenant, key.as_str(), &agent_id, reason, &cx.audit)
        .await?
        .ok_or_else(|| RpcError::not_found("session"))?;
    Ok(SessionsResetResult {
        ok: true,
        key: key.into_string(),
        entry: SessionResetEntry {
            session_id: row.session_id,
            updated_at: row.updated_at,
            label: row.label,
        },
    })
}

pub(super) async fn delete(
    cx: Cx,
    p: SessionsDeleteParams,
) -> Result<SessionsDeleteResult, RpcError> {
    let (key, agent_id) = error::session_key(&cx, &p.key, p.agent_id.as_deref())?;
    let key = key.into_string();
    let (tenant, audit) = (cx.tenant.clone(), cx.audit.clone());
    let expected = p.expected_session_id.map(|s| s.as_str().to_owned());
    // Checked before anything is stopped, and again in the transaction.
    if let Some(expected) = &expected {
        let at = key.clone();
        let now = tenant
            .db()
            .read(move |r| r.get_session(&at))
            .await
            .map_err(|e| error::store(&tenant, &e))?;
        if now.is_some_and(|s| s.session_id != *expected) {
            return Err(chat::session_changed_error());
        }
    }
    chat::stop_runs(&tenant, &key, None, AbortReason::SessionGone).await;
    let at = key.clone();
    let now = tenant.now_ms();
    let deleted = tenant
        .db()
        .write(move |w| {
            if let (Some(expected), Some(row)) = (&expected, w.get_session(&at)?)
                && row.session_id != *expected
            {
                return Err(StoreError::Conflict("session changed"));
            }
            let deleted = w.delete_session(&at, true, now)?;
            if deleted {
                w.append_event("session.deleted", Some(&at), "{}", now)?;
            }
            let about = json!({ "sessionKey": at, "deleted": deleted });
            audit.record(w, &about, now)?;
            Ok(deleted)
        })
        .await
        .map_err(|e| match e {
            StoreError::Conflict(_) => chat::session_changed_error(),
            e => error::store(&tenant, &e),
        })?;
    if deleted {
        tenant.sessions().deleted(&key, &agent_id);
        tenant.health().nudge();
        session_changed(&tenant, &key, &agent_id, "delete", None);
    }
    Ok(SessionsDeleteResult {
        ok: true,
        key,
        deleted,
        archived: Vec::new(),
    })
}

fn conn(cx: &Cx) -> Result<&gateway_protocol::ids::ConnId, RpcError> {
    cx.caller
        .conn
        .as_ref()
        .ok_or_else(|| error::hub(HubError::NotConnected))
}

pub(super) fn subscribe(
    cx: &Cx,
    _: SessionsSubscribeParams,
) -> Result<Reply<SubscribedResult>, RpcError> {
    cx.tenant
        .hub()
        .subscribe_sessions(conn(cx)?, true)
        .map_err(error::hub)?;
    Ok(Reply::Value(SubscribedResult { subscribed: true }))
}

pub(super) fn unsubscribe(cx: &Cx, _: NoParams) -> Result<Reply<SubscribedResult>, RpcError> {
    cx.tenant
        .hub()
        .subscribe_sessions(conn(cx)?, false)
        .map_err(error::hub)?;
    Ok(Reply::Value(SubscribedResult { subscribed: false }))
}

pub(super) fn messages_subscribe(
    cx: &Cx,
    p: SessionsMessagesSubscribeParams,
) -> Result<Reply<SessionsMessagesSubscribedResult>, RpcError> {
    let (key, _) = error::session_key(cx, &p.key, p.agent_id.as_deref())?;
    let key = key.into_string();
    cx.tenant
        .hub()
        .subscribe_messages(conn(cx)?, &key)
        .map_err(error::hub)?;
    Ok(Reply::Value(SessionsMessagesSubscribedResult {
        subscribed: true,
        approval_replay: p.include_approvals.map(|_| ApprovalReplay {
            session_key: key.clone(),
            updated_at_ms: cx.tenant.now_ms(),
            ..ApprovalReplay::default()
        }),
        key,
    }))
}

pub(super) fn messages_unsubscribe(
    cx: &Cx,
    p: SessionsMessagesUnsubscribeParams,
) -> Result<Reply<SessionsMessagesSubscribedResult>, RpcError> {
    let (key, _) = error::session_key(cx, &p.key, p.agent_id.as_deref())?;
    let key = key.into_string();
    cx.tenant
        .hub()
        .unsubscribe_messages(conn(cx)?, &key)
        .map_err(error::hub)?;
    Ok(Reply::Value(SessionsMessagesSubscribedResult {
        subscribed: false,
        key,
        approval_replay: None,
    }))
}
