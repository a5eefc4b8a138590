//! The OpenAI-compatible API: `GET /v1/models` and `POST /v1/chat/completions`, whole and streaming.
//!
//! A request is a run like any other: durable before it is answered, in a session of its own, or in one per `user` when the
//! caller names one. It asks for the same scopes as `chat.send` and `models.list`.

use std::{collections::VecDeque, sync::Arc};

use axum::{
    Extension, Router,
    body::Body,
    extract::{Path, Request},
    routing::{get, post},
};
use bytes::Bytes;
use gateway_core::{
    cx::{Caller, Cx, Surface},
    openai::{Completion, CompletionMessage, CompletionRequest, models as models_of, start},
    tenant::Tenant,
};
use gateway_protocol::{
    ConnRole,
    error::{DetailCode, RpcError},
    json, method,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Ask, auth, body, reply,
    run::{self, Follow, Next, Running},
};
use crate::limits::{MAX_OPENAI_BODY_BYTES, MAX_OPENAI_MESSAGES};

/// Names the session in place of `user`.
pub(crate) const SESSION_HEADER: &str = "x-openclaw-session-key";
/// A repeat with the same key gives the result of the first request.
pub(crate) const IDEMPOTENCY_HEADER: &str = "idempotency-key";

/// `/v1/models`, `/v1/models/{model}`, `/v1/chat/completions`.
pub(crate) fn routes() -> Router {
    Router::new()
        .route("/v1/models", get(models))
        .route("/v1/models/{*model}", get(model))
        .route("/v1/chat/completions", post(completions))
}

/// The caller, who must hold what `like` asks for on the other surfaces.
#[allow(clippy::result_large_err)]
pub(crate) fn admitted(
    ask: &Ask,
    headers: &HeaderMap,
    like: &str,
) -> Result<(Arc<Tenant>, Caller), Response<Body>> {
    let (found, caller) = auth::caller(ask, headers, Surface::OpenAi, "backend")?;
    let spec =
        method::find(like).ok_or_else(|| reply::error(StatusCode::NOT_FOUND, "nothing is here"))?;
    spec.access
        .check(ConnRole::Operator, caller.scopes)
        .map_err(|e| reply::rpc_error(&e))?;
    Ok((found.tenant, caller))
}

/// What an admitted caller posted.
pub(crate) struct Posted {
    pub cx: Cx,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Admits the caller (see [`admitted`]) and reads its JSON body, of at most [`MAX_OPENAI_BODY_BYTES`].
#[allow(clippy::result_large_err)]
pub(crate) async fn posted(
    ask: &Ask,
    request: Request,
    like: &str,
) -> Result<Posted, Response<Body>> {
    let (tenant, caller) = admitted(ask, request.headers(), like)?;
    if let Some(refusal) = auth::refuse_unless_json(request.headers()) {
        return Err(refusal);
    }
    if !ask.app.ready() {
        return Err(reply::rpc_error(
            &RpcError::new(DetailCode::Draining, "the gateway is not ready").retry_after_ms(500),
        ));
    }
    let (parts, content) = request.into_parts();
    let body = body::read(&ask.app.limits, content, MAX_OPENAI_BODY_BYTES, None)
        .await
        .map_err(|fault| fault.answer())?;
    Ok(Posted {
        cx: Cx {
            traceparent: auth::traceparent(&parts.headers),
            ..Cx::new(tenant, Arc::new(caller))
        },
        headers: parts.headers,
        body,
    })
}

fn described(id: &str) -> Value {
    json!({ "id": id, "object": "model", "created": 0, "owned_by": "gateway" })
}

async fn models(Extension(ask): Extension<Ask>, request: Request) -> Response<Body> {
    let (tenant, caller) = match admitted(&ask, request.headers(), "models.list") {
        Ok(known) => known,
        Err(refusal) => return refusal,
    };
    let list: Vec<Value> = models_of(&tenant, &caller)
        .iter()
        .map(|id| described(id))
        .collect();
    reply::json(
        StatusCode::OK,
        json!({ "object": "list", "data": list }).to_string(),
    )
}

async fn model(
    Extension(ask): Extension<Ask>,
    Path(name): Path<String>,
    request: Request,
) -> Response<Body> {
    let (tenant, caller) = match admitted(&ask, request.headers(), "models.list") {
        Ok(known) => known,
        Err(refusal) => return refusal,
    };
    if models_of(&tenant, &caller).contains(&name) {
        return reply::json(StatusCode::OK, described(&name).to_string());
    }
    let body = json!({ "error": {
        "message": "there is no such model (GET /v1/models lists them)", "type": "invalid_request_error", "code": "model_not_found", "param": "model",
    } });
    reply::json(StatusCode::NOT_FOUND, body.to_string())
}

#[derive(Deserialize)]
struct Ask1 {
    model: String,
    messages: Vec<Message>,
    #[serde(default)]
    stream: Option<bool>,
    #[serde(default)]
    stream_options: Option<StreamOptions>,
    #[serde(default)]
    user: Option<String>,
    #[serde(default)]
    n: Option<u64>,
    #[serde(default)]
    tools: Option<Vec<Value>>,
    #[serde(default)]
    functions: Option<Vec<Value>>,
    #[serde(default)]
    response_format: Option<Value>,
    #[serde(default)]
    logprobs: Option<bool>,
    #[serde(default)]
    audio: Option<Value>,
}

#[derive(Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: Option<bool>,
}

#[derive(Deserialize)]
struct Message {
    role: String,
    #[serde(default)]
    content: Option<Content>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize)]
struct Part {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    text: Option<String>,
}

pub(crate) fn wrong(message: &str, param: Option<&str>) -> Response<Body> {
    let body = json!({ "error": { "message": message, "type": "invalid_request_error", "code": Value::Null, "param": param } });
    reply::json(StatusCode::BAD_REQUEST, body.to_string())
}

/// A good request, and how it wants its answer.
struct Wanted {
    request: CompletionRequest,
    stream: bool,
    include_usage: bool,
}

// The error is the answer.
#[allow(clippy::result_large_err)]
fn wanted(headers: &HeaderMap, text: &[u8]) -> Result<Wanted, Response<Body>> {
    let value = json::parse_strict(text)
        .map_err(|e| wrong(&format!("the body cannot be read: {e}"), None))?;
    let ask: Ask1 = serde_json::from_value(value).map_err(|e| {
        wrong(
            &format!("the body is not a chat completion request: {e}"),
            None,
        )
    })?;
    let refused = [
        ("n", ask.n.is_some_and(|n| n != 1)),
        ("tools", ask.tools.is_some_and(|t| !t.is_empty())),
        ("functions", ask.functions.is_some_and(|t| !t.is_empty())),
        (
            "response_format",
            ask.response_format.is_some_and(|f| {
                !f.is_null() && f.get("type").and_then(Value::as_str) != Some("text")
            }),
        ),
        ("logprobs", ask.logprobs == Some(true)),
        ("audio", ask.audio.is_some_and(|a| !a.is_null())),
    ];
    if let Some((name, _)) = refused.iter().find(|(_, asked)| *asked) {
        return Err(wrong(&format!("unsupported: {name}"), Some(name)));
    }
    if ask.messages.len() > MAX_OPENAI_MESSAGES {
        return Err(wrong(
            &format!("more than {MAX_OPENAI_MESSAGES} messages"),
            Some("messages"),
        ));
    }
    let mut messages = Vec::with_capacity(ask.messages.len());
    for message in ask.messages {
        if !matches!(
            message.role.as_str(),
            "system" | "developer" | "user" | "assistant"
        ) {
            return Err(wrong(
                "messages: only the roles system, developer, user and assistant are supported",
                Some("messages"),
            ));
        }
        messages.push(CompletionMessage {
            text: plain(message.content)?,
            role: message.role,
        });
    }
    if messages
        .last()
        .is_none_or(|m| m.role != "user" || m.text.trim().is_empty())
    {
        return Err(wrong(
            "messages: the last message must be a user message with text",
            Some("messages"),
        ));
    }
    let named = |name| {
        headers
            .get(name)
            .and_then(|v: &HeaderValue| v.to_str().ok())
            .map(str::to_owned)
    };
    let request = CompletionRequest {
        model: ask.model,
        messages,
        user: ask.user,
        session_key: named(SESSION_HEADER),
        idempotency_key: named(IDEMPOTENCY_HEADER),
        tap: None,
    };
    let include_usage = ask
        .stream_options
        .and_then(|o| o.include_usage)
        .unwrap_or(false);
    Ok(Wanted {
        request,
        stream: ask.stream.unwrap_or(false),
        include_usage,
    })
}

#[allow(clippy::result_large_err)]
fn plain(content: Option<Content>) -> Result<String, Response<Body>> {
    match content {
        None => Ok(String::new()),
        Some(Content::Text(text)) => Ok(text),
        Some(Content::Parts(parts)) => {
            let mut out = String::new();
            for part in parts {
                let Some(text) = part.text.filter(|_| part.kind == "text") else {
                    return Err(wrong(
                        "messages: only text content is supported",
                        Some("messages"),
                    ));
                };
                if !out.is_empty() {
                    out.push('\n');
                }
                out.push_str(&text);
            }
            Ok(out)
        }
    }
}

async fn completions(Extension(ask): Extension<Ask>, request: Request) -> Response<Body> {
    let Posted { cx, headers, body } = match posted(&ask, request, "chat.send").await {
        Ok(posted) => posted,
        Err(refusal) => return refusal,
    };
    let Wanted {
        mut request,
        stream,
        include_usage,
    } = match wanted(&headers, &body) {
        Ok(wanted) => wanted,
        Err(refusal) => return refusal,
    };
    drop(body);
    let (tap, deltas) = run::tap();
    request.tap = stream.then_some(tap);
    let started = match start(cx, request).await {
        Ok(started) => started,
        Err(error) => return reply::rpc_error(&error),
    };
    let names = Names {
        id: format!("chatcmpl-{}", started.run_id),
        created: started.created_ms / 1_000,
        model: started.model.clone(),
    };
    if !stream {
        return match started.finish().await {
            Ok(completion) => names.whole(&completion),
            Err(error) => reply::rpc_error(&error),
        };
    }
    let mut running = Running::new(deltas, started.finish());
    // A run that fails before its first word is answered with a status of its own.
    let first = match running.next().await {
        Next::End(outcome) => match *outcome {
            Err(error) => return reply::rpc_error(&error),
            Ok(completion) => Next::End(Box::new(Ok(completion))),
        },
        delta => delta,
    };
    let mut chunks = Chunks {
        names,
        include_usage,
    };
    let hello = json!({ "role": "assistant", "content": "" });
    let mut queue = VecDeque::from([chunks.names.chunk(hello, None)]);
    let over = chunks.follow(&mut queue, first);
    run::stream(running, chunks, queue, over)
}

/// The events of one completion.
struct Chunks {
    names: Names,
    include_usage: bool,
}

/// Names of one completion.
struct Names {
    id: String,
    created: i64,
    model: String,
}

fn usage(completion: &Completion) -> Value {
    let u = &completion.usage;
    let total = if u.total_tokens == 0 {
        u.input + u.output
    } else {
        u.total_tokens
    };
    json!({ "prompt_tokens": u.input, "completion_tokens": u.output, "total_tokens": total })
}

impl Names {
    fn whole(&self, completion: &Completion) -> Response<Body> {
        let message =
            json!({ "role": "assistant", "content": completion.text, "refusal": Value::Null });
        let body = json!({
            "id": self.id, "object": "chat.completion", "created": self.created, "model": self.model,
            "choices": [{ "index": 0, "message": message, "logprobs": Value::Null, "finish_reason": completion.finish_reason }],
            "usage": usage(completion),
        });
        reply::json(StatusCode::OK, body.to_string())
    }

    fn chunk(&self, delta: Value, finish: Option<&str>) -> String {
        let choice =
            json!({ "index": 0, "delta": delta, "logprobs": Value::Null, "finish_reason": finish });
        let body = json!({ "id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": self.model, "choices": [choice] });
        format!("data: {body}\n\n")
    }
}

impl Follow for Chunks {
    fn follow(&mut self, out: &mut VecDeque<String>, next: Next) -> bool {
        let names = &self.names;
        let outcome = match next {
            Next::Delta(text) => {
                out.push_back(names.chunk(json!({ "content": text }), None));
                return false;
            }
            Next::End(outcome) => *outcome,
        };
        match outcome {
            Ok(completion) => {
                out.push_back(names.chunk(json!({}), Some(&completion.finish_reason)));
                if self.include_usage {
                    let body = json!({
                        "id": names.id, "object": "chat.completion.chunk", "created": names.created, "model": names.model,
                        "choices": [], "usage": usage(&completion),
                    });
                    out.push_back(format!("data: {body}\n\n"));
                }
            }
            // An answer that breaks off says so; it never just ends.
            Err(error) => {
                let body = json!({ "error": { "message": error.message, "type": "server_error", "code": error.detail.row().name, "param": Value::Null } });
                out.push_back(format!("data: {body}\n\n"));
            }
        }
        out.push_back("data: [DONE]\n\n".to_owned());
        true
    }
}
