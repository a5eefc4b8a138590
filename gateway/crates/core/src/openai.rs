//! What the OpenAI-compatible HTTP surface calls: a chat completion as a run like any other (same session, store and
//! limits), and the agents as models.

use std::sync::Arc;

use gateway_protocol::content::{Role, Usage};
use gateway_protocol::error::{DetailCode, RpcError};
use gateway_protocol::scope::Scope;
use gateway_protocol::session_key::SessionKey;
use gateway_store::RunState;

use crate::cx::Cx;
use crate::rpc::error as rpc_error;
use crate::session::{
    AbortReason, AcceptOutcomeInfo, AcceptRun, Origin, RunTap, accept, request_hash,
};

/// Name of the default agent as a model.
pub const DEFAULT_MODEL: &str = "openclaw";
/// Prefix of an agent as a model.
pub const MODEL_PREFIX: &str = "openclaw/";

/// One message of the request, text parts joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompletionMessage {
    /// `system`, `developer`, `user`, `assistant` or `tool`.
    pub role: String,
    /// Its text.
    pub text: String,
}

/// A chat completion as the HTTP surface decoded it.
#[derive(Clone, Default)]
pub struct CompletionRequest {
    /// `openclaw`, `openclaw/<agent>` (or `agent:<agent>`).
    pub model: String,
    /// The conversation; the last user message is the one to answer.
    pub messages: Vec<CompletionMessage>,
    /// `user`: names a session that lasts.
    pub user: Option<String>,
    /// The session header: whole or short key, in place of `user`.
    pub session_key: Option<String>,
    /// `Idempotency-Key` header: a repeat gives the result of the first run.
    pub idempotency_key: Option<String>,
    /// Gets the text as it grows.
    pub tap: Option<Arc<dyn RunTap>>,
}

/// A finished completion.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// The run; the id of the answer is made of it.
    pub run_id: String,
    /// The model as it was asked for.
    pub model: String,
    /// When it was accepted, Unix epoch ms.
    pub created_ms: i64,
    /// The answer.
    pub text: String,
    /// `stop`, `length` or `content_filter`.
    pub finish_reason: String,
    /// Tokens used.
    pub usage: Usage,
}

/// An accepted completion: its run goes on by itself; wait for its end with [`Started::finish`]. Dropping it stops
/// the run (the HTTP client went away).
pub struct Started {
    /// The run.
    pub run_id: String,
    /// The model as it was asked for.
    pub model: String,
    /// When it was accepted, Unix epoch ms.
    pub created_ms: i64,
    cx: Cx,
    key: String,
    finished: bool,
}

impl std::fmt::Debug for Started {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Started({})", self.run_id)
    }
}

/// The agents that a caller may use as models, `openclaw` (its default agent) first.
#[must_use]
pub fn models(tenant: &crate::tenant::Tenant, caller: &crate::cx::Caller) -> Vec<String> {
    std::iter::once(DEFAULT_MODEL.to_owned())
        .chain(
            tenant
                .agents()
                .ids()
                .filter(|id| may_use(caller, id))
                .map(|id| format!("{MODEL_PREFIX}{id}")),
        )
        .collect()
}

/// Whether a caller may use this agent: a key of one agent knows no other.
pub(crate) fn may_use(caller: &crate::cx::Caller, agent: &str) -> bool {
    caller.agent().is_none_or(|only| only == agent)
}

/// The agent that answers a caller who names none.
pub(crate) fn default_agent(cx: &Cx) -> String {
    let agents = cx.tenant.agents();
    cx.caller.agent().unwrap_or(agents.default_id()).to_owned()
}

/// The agent that a model name means.
pub(crate) fn agent_of(cx: &Cx, model: &str) -> Result<String, RpcError> {
    let agents = cx.tenant.agents();
    let default = default_agent(cx);
    let id = match model {
        "" | DEFAULT_MODEL => &default,
        other => other
            .strip_prefix(MODEL_PREFIX)
            .or_else(|| other.strip_prefix("agent:"))
            .unwrap_or(other),
    };
    let id = if id == "default" { &default } else { id };
    match gateway_protocol::ids::AgentId::parse(id) {
        Ok(id) if agents.exists(id.as_str()) && may_use(&cx.caller, id.as_str()) => {
            Ok(id.into_string())
        }
        _ => Err(RpcError::new(
            DetailCode::NotFound,
            format!(
                "there is no model \"{}\"",
                gateway_protocol::error::echo(model)
            ),
        )),
    }
}

/// Accepts a completion. The answer of this function comes after the commit that made it durable.
///
/// # Errors
/// `MISSING_SCOPE` without write, bad requests, and those of the store.
pub async fn start(cx: Cx, mut req: CompletionRequest) -> Result<Started, RpcError> {
    if !cx.caller.scopes.allows(Scope::Write) {
        return Err(RpcError::missing_scope(Scope::Write));
    }
    if let Some(hold) = cx.tenant.hold() {
        return Err(hold.refusal(cx.tenant.now_ms()));
    }
    let agent_id = agent_of(&cx, &req.model)?;
    let last = req
        .messages
        .iter()
        .rposition(|m| m.role == "user")
        .ok_or_else(|| RpcError::invalid("messages must hold a user message"))?;
    let text = req.messages[last].text.clone();
    if text.trim().is_empty() {
        return Err(RpcError::invalid("the last user message is empty"));
    }
    let total: usize = req.messages.iter().map(|m| m.text.len()).sum();
    if total > gateway_protocol::limits::MAX_TEXT_BYTES {
        return Err(
            RpcError::new(DetailCode::PayloadTooLarge, "the conversation is too long")
                .with("limitBytes", gateway_protocol::limits::MAX_TEXT_BYTES),
        );
    }
    let tenant = cx.tenant.clone();
    let agent = gateway_protocol::ids::AgentId::parse(&agent_id)
        .map_err(|e| RpcError::invalid(e.to_string()))?;
    let key = session_key(
        &cx,
        req.session_key.as_deref(),
        req.user.as_deref(),
        &agent,
        "openai",
    )?;
    has_room(&tenant, &key)?;
    let run_id = match &req.idempotency_key {
        Some(idem) => format!("http:{}", &request_hash(&[idem])[..40]),
        None => tenant.new_id(),
    };
    let mut parts: Vec<&str> = vec!["openai", &req.model];
    for m in &req.messages {
        parts.push(&m.role);
        parts.push(&m.text);
    }
    let hash = request_hash(&parts);
    let mut run = AcceptRun::new(&tenant, key.clone(), run_id.clone(), Origin::Http, text);
    run.agent_id = agent_id;
    run.request_hash = hash;
    run.traceparent = cx.remote_trace();
    run.tap = req.tap.take();
    // A new session is given the conversation that came along; one that lasts has it already.
    run.preface = preface(&req.messages[..last]);
    let created_ms = accepted_at(
        accept(&tenant, run)
            .await
            .map_err(|e| rpc_error::store(&tenant, &e))?,
    )?;
    Ok(Started::new(
        cx,
        run_id,
        told_model(req.model),
        created_ms,
        key,
    ))
}

/// The model as the answer names it.
pub(crate) fn told_model(asked: String) -> String {
    if asked.is_empty() {
        DEFAULT_MODEL.to_owned()
    } else {
        asked
    }
}

/// Refuses work for a session that has enough waiting.
pub(crate) fn has_room(tenant: &crate::tenant::Tenant, key: &SessionKey) -> Result<(), RpcError> {
    if tenant.sessions().has_room(key.as_str()) {
        return Ok(());
    }
    Err(RpcError::new(
        DetailCode::Overloaded,
        "too many messages wait in this session",
    )
    .retry_after_ms(1_000))
}

/// The messages that go before the one to answer.
pub(crate) fn preface(messages: &[CompletionMessage]) -> Vec<(Role, String)> {
    messages
        .iter()
        .filter_map(|m| {
            let role = match m.role.as_str() {
                "assistant" => Role::Assistant,
                "user" => Role::User,
                "system" | "developer" => Role::System,
                _ => return None,
            };
            Some((role, m.text.clone()))
        })
        .collect()
}

/// When a run was accepted, or why it was not.
pub(crate) fn accepted_at(outcome: AcceptOutcomeInfo) -> Result<i64, RpcError> {
    match outcome {
        AcceptOutcomeInfo::New { accepted_at, .. } => Ok(accepted_at),
        AcceptOutcomeInfo::Existing(row) => Ok(row.created_at),
        AcceptOutcomeInfo::Conflict => Err(RpcError::new(
            DetailCode::IdempotencyConflict,
            "the idempotency key was used before with another request",
        )),
        AcceptOutcomeInfo::SessionChanged => Err(RpcError::new(
            DetailCode::SessionChanged,
            "the session changed",
        )),
    }
}

/// The session of a request: the named one, that of its user, or a new one. `prefix` is that of the surface.
pub(crate) fn session_key(
    cx: &Cx,
    named: Option<&str>,
    user: Option<&str>,
    agent: &gateway_protocol::ids::AgentId,
    prefix: &str,
) -> Result<SessionKey, RpcError> {
    let invalid = |e: &dyn std::fmt::Display| {
        RpcError::new(
            DetailCode::InvalidSessionKey,
            format!("invalid session key: {e}"),
        )
    };
    if let Some(text) = named.filter(|t| !t.trim().is_empty()) {
        let key = SessionKey::qualify(text.trim(), agent).map_err(|e| invalid(&e))?;
        // These belong to the gateway's own parts; HTTP callers may not choose them.
        if ["subagent:", "cron:", "acp:", "boot:", "hook:"]
            .iter()
            .any(|p| key.rest().starts_with(p))
        {
            return Err(invalid(&"this prefix is reserved"));
        }
        // A session of no agent is shared by all: not for a key of one.
        let fits = match key.agent() {
            Some(of) => of == agent.as_str(),
            None => cx.caller.agent().is_none(),
        };
        if !fits {
            return Err(invalid(&"the session belongs to another agent"));
        }
        return Ok(key);
    }
    match user.map(str::trim).filter(|u| !u.is_empty()) {
        // Any text may be a user name; what the key grammar does not take is hashed.
        Some(user) => {
            let prefix = format!("{prefix}-user");
            SessionKey::owned(agent, &prefix, user)
                .or_else(|_| SessionKey::owned(agent, &prefix, &request_hash(&[user])[..32]))
        }
        None => SessionKey::owned(agent, prefix, &cx.tenant.new_id()),
    }
    .map_err(|e| invalid(&e))
}

impl Started {
    pub(crate) fn new(
        cx: Cx,
        run_id: String,
        model: String,
        created_ms: i64,
        key: SessionKey,
    ) -> Self {
        Self {
            run_id,
            model,
            created_ms,
            cx,
            key: key.into_string(),
            finished: false,
        }
    }

    /// Waits for the end of the run.
    ///
    /// # Errors
    /// The run's error: `UPSTREAM`, `RATE_LIMITED`, `DEADLINE`, or `UNAVAILABLE` when it was stopped.
    pub async fn finish(mut self) -> Result<Completion, RpcError> {
        let stop = self.cx.tenant.stop_token().clone();
        let outcome = tokio::select! {
            biased;
            o = crate::rpc::agents::outcome_of(&self.cx, &self.run_id) => o?,
            () = stop.cancelled() => {
                self.finished = true;
                return Err(RpcError::new(DetailCode::Draining, "the gateway is shutting down")
                    .with("reason", "gateway-restarting")
                    .retry_after_ms(500));
            }
        };
        self.finished = true;
        match outcome.state {
            RunState::Ok => Ok(Completion {
                run_id: self.run_id.clone(),
                model: self.model.clone(),
                created_ms: self.created_ms,
                text: outcome.text,
                finish_reason: match outcome.stop_reason.as_deref() {
                    Some("length") => "length",
                    Some("contentFilter") => "content_filter",
                    _ => "stop",
                }
                .to_owned(),
                usage: outcome.usage,
            }),
            RunState::Aborted => Err(RpcError::unavailable("the run was stopped")),
            _ => {
                let code = match outcome.error_kind.as_deref() {
                    Some("rate_limited") => DetailCode::RateLimited,
                    Some("timeout") => DetailCode::Deadline,
                    Some("too_large") => DetailCode::PayloadTooLarge,
                    Some("storage") => DetailCode::StorageFull,
                    _ => DetailCode::Upstream,
                };
                Err(RpcError::new(
                    code,
                    outcome.error.unwrap_or_else(|| "the run failed".to_owned()),
                ))
            }
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if !self.finished {
            self.cx
                .tenant
                .sessions()
                .abort(&self.key, Some(&self.run_id), AbortReason::Rpc);
        }
    }
}
