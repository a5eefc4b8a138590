//! What `POST /v1/embeddings` calls: a request of a tenant's program, passed on to the server of one of its agents.

use bytes::Bytes;
use gateway_protocol::error::{DetailCode, RpcError, echo};
use gateway_protocol::scope::Scope;
use serde_json::{Map, Value};

use crate::agent::{TurnError, TurnErrorKind};
use crate::agents::Agent;
use crate::cx::Cx;
use crate::openai::{self, DEFAULT_MODEL, MODEL_PREFIX};

/// The agent whose server is asked, and the model there.
fn agent_for(cx: &Cx, model: &str) -> Result<(Agent, String), RpcError> {
    let agents = cx.tenant.agents();
    let names_agent = model.is_empty()
        || model == DEFAULT_MODEL
        || model.starts_with(MODEL_PREFIX)
        || model.starts_with("agent:");
    if !names_agent {
        // A program that knows only models names one that the operator has given to an agent: never another of that server.
        let default = openai::default_agent(cx);
        return std::iter::once(default.as_str())
            .chain(agents.ids())
            .filter(|id| openai::may_use(&cx.caller, id))
            .filter_map(|id| agents.get(id))
            .find(|agent| agent.backend.embedding_model() == Some(model))
            .map(|agent| (agent.clone(), model.to_owned()))
            .ok_or_else(|| {
                RpcError::new(
                    DetailCode::NotFound,
                    format!(
                        "no agent has the embedding model \"{}\" (agents.entries.<id>.embeddingModel names it)",
                        echo(model)
                    ),
                )
            });
    }
    let id = openai::agent_of(cx, model)?;
    let agent = agents.get(&id).cloned().ok_or_else(|| {
        RpcError::unavailable(format!(
            "agent \"{id}\" cannot answer: its settings are not usable"
        ))
    })?;
    match agent.backend.embedding_model().map(str::to_owned) {
        Some(model) => Ok((agent, model)),
        None => Err(RpcError::invalid(format!(
            "agent \"{id}\" makes no embeddings: it needs backend \"openai\" and embeddingModel, the name of a model of its server"
        ))),
    }
}

/// Passes a request on. `request` is the body of an OpenAI embeddings request without its model. The answer is the JSON of
/// the server.
///
/// # Errors
/// `MISSING_SCOPE` without write, an agent without embeddings, and what the server says.
pub async fn embed(
    cx: &Cx,
    model: &str,
    mut request: Map<String, Value>,
) -> Result<Bytes, RpcError> {
    if !cx.caller.scopes.allows(Scope::Write) {
        return Err(RpcError::missing_scope(Scope::Write));
    }
    let (agent, model) = agent_for(cx, model)?;
    request.insert("model".to_owned(), Value::String(model));
    let body = Bytes::from(Value::Object(request).to_string());
    tokio::select! {
        biased;
        answer = agent.backend.embed(body) => answer.map_err(|e| told(&e)),
        () = cx.tenant.stop_token().cancelled() => {
            Err(RpcError::new(DetailCode::Draining, "the gateway is shutting down")
                .with("reason", "gateway-restarting")
                .retry_after_ms(500))
        }
    }
}

fn told(e: &TurnError) -> RpcError {
    let message = e.message.clone();
    match e.kind {
        TurnErrorKind::RateLimited { retry_after_ms } => {
            RpcError::new(DetailCode::RateLimited, message)
                .retry_after_ms(retry_after_ms.unwrap_or(1_000))
        }
        TurnErrorKind::Timeout => RpcError::new(DetailCode::Deadline, message),
        TurnErrorKind::Refused => RpcError::invalid(message),
        TurnErrorKind::Aborted => RpcError::unavailable(message),
        TurnErrorKind::Upstream | TurnErrorKind::TooLarge => {
            RpcError::new(DetailCode::Upstream, message)
        }
    }
}
