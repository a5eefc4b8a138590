//! What the Responses API calls: an answer as a run like any other, which can be asked for again and continued.
//!
//! A response and its run have one id. What is told of the request is written in the same commit that accepts the run,
//! so that an id which was told is known after any crash.

use std::sync::Arc;

use gateway_protocol::content::Usage;
use gateway_protocol::error::{DetailCode, RpcError};
use gateway_protocol::ids::AgentId;
use gateway_protocol::scope::Scope;
use gateway_protocol::session_key::SessionKey;
use gateway_store::{ResponseRow, RunState, StoreError};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::cx::Cx;
use crate::openai::{self, CompletionMessage, Started};
use crate::rpc::error as rpc_error;
use crate::session::{
    AbortReason, AcceptOutcome, AcceptOutcomeInfo, AcceptRun, Origin, RunOutcome, RunTap,
    accept_in_tx, kick, request_hash,
};

/// What every id begins with.
const PREFIX: &str = "resp_";

/// A request as the HTTP surface decoded it.
#[derive(Clone, Default)]
pub struct ResponseRequest {
    /// `openclaw`, `openclaw/<agent>` (or `agent:<agent>`).
    pub model: String,
    /// What is said, oldest first; the last one is of the user.
    pub input: Vec<CompletionMessage>,
    /// Put before it.
    pub instructions: Option<String>,
    /// The response that this one continues.
    pub previous: Option<String>,
    /// `user`: names a session that lasts, where nothing is continued.
    pub user: Option<String>,
    /// The session header: whole or short key, in place of `user`.
    pub session_key: Option<String>,
    /// Whether it can be asked for again and continued.
    pub store: bool,
    /// Given back as it is.
    pub metadata: Map<String, Value>,
    /// `Idempotency-Key` header: a repeat gives the result of the first run.
    pub idempotency_key: Option<String>,
    /// Gets the text as it grows.
    pub tap: Option<Arc<dyn RunTap>>,
}

/// What is told of a request in each answer about it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// The model as it was asked for.
    pub model: String,
    /// Put before the input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instructions: Option<String>,
    /// The response that it continues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
    /// `user`, as given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Given back as it is.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub metadata: Map<String, Value>,
    /// Whether it is kept.
    #[serde(default)]
    pub store: bool,
}

/// Where a response is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Behind others of its session.
    Queued,
    /// Being answered.
    InProgress,
    /// Answered.
    Completed,
    /// Cut at a limit of the model.
    CutByLength,
    /// Cut by the filter of the provider.
    CutByFilter,
    /// Failed.
    Failed,
    /// Stopped.
    Cancelled,
}

/// A response that is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    /// Its id.
    pub id: String,
    /// When it was accepted, Unix epoch ms.
    pub created_ms: i64,
    /// What was asked.
    pub request: Request,
    /// Where it is.
    pub status: Status,
    /// The text so far.
    pub text: String,
    /// Why it failed, for a person.
    pub error: Option<String>,
    /// Tokens used.
    pub usage: Usage,
}

/// An accepted response; see [`Started`].
#[derive(Debug)]
pub struct StartedResponse {
    /// What was asked.
    pub request: Request,
    /// Its run, of the same id.
    pub run: Started,
}

fn not_found() -> RpcError {
    RpcError::not_found("response")
}

/// The error of a `previous_response_id` that is none.
fn no_previous() -> RpcError {
    RpcError::not_found("previous response").with("param", "previous_response_id")
}

/// A kept response that this caller may know of.
async fn find(cx: &Cx, id: &str) -> Result<Option<ResponseRow>, RpcError> {
    if !id.starts_with(PREFIX) {
        return Ok(None);
    }
    let id = id.to_owned();
    let row = cx
        .tenant
        .db()
        .read(move |r| r.get_response(&id))
        .await
        .map_err(|e| rpc_error::store(&cx.tenant, &e))?;
    Ok(row.filter(|row| openai::may_use(&cx.caller, &row.agent_id)))
}

fn request_of(row: &ResponseRow) -> Result<Request, StoreError> {
    serde_json::from_str(&row.request_json).map_err(|e| StoreError::Io(format!("response: {e}")))
}

/// Where a new response goes, and what it says before the message to answer.
struct Place {
    key: SessionKey,
    expected_session_id: Option<String>,
    instructions_are_news: bool,
}

async fn place(cx: &Cx, req: &ResponseRequest, agent: &AgentId) -> Result<Place, RpcError> {
    let Some(previous) = &req.previous else {
        return Ok(Place {
            key: openai::session_key(
                cx,
                req.session_key.as_deref(),
                req.user.as_deref(),
                agent,
                "openresponses",
            )?,
            expected_session_id: None,
            instructions_are_news: true,
        });
    };
    let row = find(cx, previous)
        .await?
        .filter(|row| row.agent_id == agent.as_str())
        .ok_or_else(no_previous)?;
    let before = request_of(&row).map_err(|e| rpc_error::store(&cx.tenant, &e))?;
    Ok(Place {
        key: SessionKey::parse(&row.session_key).map_err(|_| no_previous())?,
        // A session that was reset or deleted meanwhile does not hold what is continued.
        expected_session_id: Some(row.session_id),
        instructions_are_news: before.instructions != req.instructions,
    })
}

/// Accepts a response. The answer of this function comes after the commit that made it durable.
///
/// # Errors
/// `MISSING_SCOPE` without write, bad requests, an unknown model or previous response, and those of the store.
pub async fn start(cx: Cx, mut req: ResponseRequest) -> Result<StartedResponse, RpcError> {
    if !cx.caller.scopes.allows(Scope::Write) {
        return Err(RpcError::missing_scope(Scope::Write));
    }
    let agent_id = openai::agent_of(&cx, &req.model)?;
    let Some((last, earlier)) = req.input.split_last().filter(|(m, _)| m.role == "user") else {
        return Err(RpcError::invalid("the last input must be a user message"));
    };
    if last.text.trim().is_empty() {
        return Err(RpcError::invalid("the last user message is empty"));
    }
    let total: usize = req
        .input
        .iter()
        .map(|m| m.text.len())
        .chain(req.instructions.iter().map(String::len))
        .sum();
    if total > gateway_protocol::limits::MAX_TEXT_BYTES {
        return Err(
            RpcError::new(DetailCode::PayloadTooLarge, "the input is too long")
                .with("limitBytes", gateway_protocol::limits::MAX_TEXT_BYTES),
        );
    }
    let tenant = cx.tenant.clone();
    let agent = AgentId::parse(&agent_id).map_err(|e| RpcError::invalid(e.to_string()))?;
    let place = place(&cx, &req, &agent).await?;
    openai::has_room(&tenant, &place.key)?;
    let id = match &req.idempotency_key {
        Some(idem) => format!("{PREFIX}{}", &request_hash(&["responses", idem])[..40]),
        None => format!("{PREFIX}{}", tenant.new_id().replace('-', "")),
    };
    let mut run = AcceptRun::new(
        &tenant,
        place.key.clone(),
        id.clone(),
        Origin::Http,
        last.text.as_str(),
    );
    run.agent_id.clone_from(&agent_id);
    run.request_hash = hash_of(&req);
    run.traceparent = cx.remote_trace();
    run.tap = req.tap.take();
    run.expected_session_id = place.expected_session_id;
    run.preface_always = req.previous.is_some();
    run.preface = req
        .instructions
        .iter()
        .filter(|_| place.instructions_are_news)
        .map(|text| (gateway_protocol::content::Role::System, text.clone()))
        .chain(openai::preface(earlier))
        .collect();
    let request = Request {
        model: openai::told_model(req.model),
        instructions: req.instructions,
        previous: req.previous,
        user: req.user,
        metadata: req.metadata,
        store: req.store,
    };
    let request_json = serde_json::to_string(&request)
        .map_err(|e| tenant.faults().internal("responses", &e.to_string()))?;
    let row_id = id.clone();
    let keep = req.store;
    let accepted = tenant
        .db()
        .write(move |w| {
            let accepted = accept_in_tx(w, run)?;
            if let (true, AcceptOutcome::New(new)) = (keep, accepted.outcome()) {
                w.insert_response(&ResponseRow {
                    id: row_id,
                    session_key: new.session.key.clone(),
                    session_id: new.session.session_id.clone(),
                    agent_id,
                    request_json,
                    created_at: new.run.created_at,
                })?;
            }
            Ok(accepted)
        })
        .await
        .map_err(|e| rpc_error::store(&tenant, &e))?;
    let created_ms = match kick(&tenant, accepted) {
        AcceptOutcomeInfo::SessionChanged => return Err(no_previous()),
        other => openai::accepted_at(other)?,
    };
    Ok(StartedResponse {
        run: Started::new(cx, id, request.model.clone(), created_ms, place.key),
        request,
    })
}

/// The same key with another request is a conflict.
fn hash_of(req: &ResponseRequest) -> String {
    let metadata = Value::Object(req.metadata.clone()).to_string();
    let mut parts: Vec<&str> = vec![
        "responses",
        &req.model,
        req.instructions.as_deref().unwrap_or(""),
        req.previous.as_deref().unwrap_or(""),
        req.user.as_deref().unwrap_or(""),
        req.session_key.as_deref().unwrap_or(""),
        if req.store { "kept" } else { "" },
        &metadata,
    ];
    for m in &req.input {
        parts.push(&m.role);
        parts.push(&m.text);
    }
    request_hash(&parts)
}

/// A kept response, as it is now.
///
/// # Errors
/// `MISSING_SCOPE` without read, `NOT_FOUND`, and those of the store.
pub async fn get(cx: &Cx, id: &str) -> Result<Kept, RpcError> {
    if !cx.caller.scopes.allows(Scope::Read) {
        return Err(RpcError::missing_scope(Scope::Read));
    }
    let row = find(cx, id).await?.ok_or_else(not_found)?;
    let tenant = &cx.tenant;
    let run_id = row.id.clone();
    let run = tenant
        .db()
        .read(move |r| r.get_run(&run_id))
        .await
        .map_err(|e| rpc_error::store(tenant, &e))?
        .ok_or_else(not_found)?;
    let outcome = RunOutcome::from_row(&run);
    let status = match (run.state, outcome.stop_reason.as_deref()) {
        (RunState::Queued, _) => Status::Queued,
        (RunState::Running, _) => Status::InProgress,
        (RunState::Ok, Some("length")) => Status::CutByLength,
        (RunState::Ok, Some("contentFilter")) => Status::CutByFilter,
        (RunState::Ok, _) => Status::Completed,
        (RunState::Error, _) => Status::Failed,
        (RunState::Aborted, _) => Status::Cancelled,
    };
    let text = match tenant.sessions().cell(&row.id) {
        Some(cell) if !run.state.is_ended() => cell.partial.lock().clone(),
        _ => outcome.text,
    };
    Ok(Kept {
        request: request_of(&row).map_err(|e| rpc_error::store(tenant, &e))?,
        id: row.id,
        created_ms: row.created_at,
        status,
        text,
        error: outcome.error,
        usage: outcome.usage,
    })
}

/// Stops a response that is not over yet, and tells what it is then.
///
/// # Errors
/// As [`get`], with the scope to write.
pub async fn cancel(cx: &Cx, id: &str) -> Result<Kept, RpcError> {
    if !cx.caller.scopes.allows(Scope::Write) {
        return Err(RpcError::missing_scope(Scope::Write));
    }
    let row = find(cx, id).await?.ok_or_else(not_found)?;
    crate::rpc::stop_runs(
        &cx.tenant,
        &row.session_key,
        Some(&row.id),
        AbortReason::Rpc,
    )
    .await;
    get(cx, id).await
}

/// Forgets a response: it can neither be asked for nor continued any more, and is stopped if it is not over. What was said
/// stays in its session.
///
/// # Errors
/// As [`cancel`].
pub async fn delete(cx: &Cx, id: &str) -> Result<(), RpcError> {
    cancel(cx, id).await?;
    let tenant = cx.tenant.clone();
    let id = id.to_owned();
    let gone = tenant
        .db()
        .write(move |w| w.delete_response(&id))
        .await
        .map_err(|e| rpc_error::store(&tenant, &e))?;
    if gone { Ok(()) } else { Err(not_found()) }
}
