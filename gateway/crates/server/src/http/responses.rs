//! The Responses API: `POST /v1/responses` (whole and as typed events), `GET` and `DELETE /v1/responses/{id}`,
//! `POST /v1/responses/{id}/cancel`.
//!
//! A response is a run like any other. One that is stored can be asked for again and continued by its id, also after a
//! restart; it continues the session that it was made in.

use std::{collections::VecDeque, sync::Arc};

use axum::{
    Extension, Router,
    body::Body,
    extract::{Path, Request},
    routing::{get, post},
};
use gateway_core::{
    cx::{Caller, Cx},
    openai::{Completion, CompletionMessage},
    responses::{self, Kept, ResponseRequest, Status},
    tenant::Tenant,
};
use gateway_protocol::{
    content::Usage,
    error::{DetailCode, RpcError, echo},
    json,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde_json::{Map, Value, json};

use super::{
    Ask, auth, body,
    openai::{IDEMPOTENCY_HEADER, SESSION_HEADER, admitted, wrong},
    reply,
    run::{self, Follow, Next, Running},
};
use crate::limits::{
    MAX_METADATA_ENTRIES, MAX_METADATA_NAME_CHARS, MAX_METADATA_VALUE_CHARS, MAX_OPENAI_BODY_BYTES,
    MAX_OPENAI_MESSAGES,
};

/// The addresses of the Responses API.
pub(crate) fn routes() -> Router {
    Router::new()
        .route("/v1/responses", post(create))
        .route("/v1/responses/{id}", get(look).delete(forget))
        .route("/v1/responses/{id}/cancel", post(cancel))
}

/// A request that was read.
struct Wanted {
    request: ResponseRequest,
    stream: bool,
}

/// What a request may not ask for: its name, and whether it does.
fn refused(body: &Map<String, Value>) -> Option<&'static str> {
    let asks = |name: &str| body.get(name).is_some_and(|v| !v.is_null());
    let list = |name: &str| {
        body.get(name)
            .is_some_and(|v| v.as_array().map_or(!v.is_null(), |l| !l.is_empty()))
    };
    let format = body.get("text").and_then(|t| t.get("format"));
    [
        ("tools", list("tools")),
        (
            "tool_choice",
            asks("tool_choice")
                && !matches!(
                    body.get("tool_choice").and_then(Value::as_str),
                    Some("auto" | "none")
                ),
        ),
        (
            "background",
            body.get("background").and_then(Value::as_bool) == Some(true),
        ),
        ("conversation", asks("conversation")),
        ("prompt", asks("prompt")),
        ("include", list("include")),
        (
            "text.format",
            format.is_some_and(|f| {
                !f.is_null() && f.get("type").and_then(Value::as_str) != Some("text")
            }),
        ),
        (
            "top_logprobs",
            body.get("top_logprobs")
                .is_some_and(|n| n.as_u64().is_none_or(|n| n > 0) && !n.is_null()),
        ),
    ]
    .into_iter()
    .find(|(_, asked)| *asked)
    .map(|(name, _)| name)
}

/// A member that is a text or is not there.
#[allow(clippy::result_large_err)]
fn text(body: &Map<String, Value>, name: &'static str) -> Result<Option<String>, Response<Body>> {
    match body.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(wrong(&format!("{name}: must be a text"), Some(name))),
    }
}

#[allow(clippy::result_large_err)]
fn flag(body: &Map<String, Value>, name: &'static str) -> Result<Option<bool>, Response<Body>> {
    match body.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(b)) => Ok(Some(*b)),
        Some(_) => Err(wrong(&format!("{name}: must be true or false"), Some(name))),
    }
}

// The error is the answer.
#[allow(clippy::result_large_err)]
fn wanted(headers: &HeaderMap, bytes: &[u8]) -> Result<Wanted, Response<Body>> {
    let body = match json::parse_strict(bytes) {
        Ok(Value::Object(body)) => body,
        Ok(_) => return Err(wrong("the body must be an object", None)),
        Err(e) => return Err(wrong(&format!("the body cannot be read: {e}"), None)),
    };
    if let Some(name) = refused(&body) {
        return Err(wrong(&format!("unsupported: {name}"), Some(name)));
    }
    let model = text(&body, "model")?.ok_or_else(|| {
        wrong(
            "model: is missing (GET /v1/models lists them)",
            Some("model"),
        )
    })?;
    let input = match body.get("input") {
        Some(Value::String(text)) => vec![CompletionMessage {
            role: "user".to_owned(),
            text: text.clone(),
        }],
        Some(Value::Array(items)) if items.len() > MAX_OPENAI_MESSAGES => {
            let why = format!("input: more than {MAX_OPENAI_MESSAGES} items");
            return Err(wrong(&why, Some("input")));
        }
        Some(Value::Array(items)) => items.iter().map(item).collect::<Result<_, _>>()?,
        _ => {
            return Err(wrong(
                "input: must be a text or a list of items",
                Some("input"),
            ));
        }
    };
    if input
        .last()
        .is_none_or(|m: &CompletionMessage| m.role != "user" || m.text.trim().is_empty())
    {
        return Err(wrong(
            "input: the last item must be a user message with text",
            Some("input"),
        ));
    }
    let named = |name| {
        headers
            .get(name)
            .and_then(|v: &HeaderValue| v.to_str().ok())
            .map(str::to_owned)
    };
    Ok(Wanted {
        stream: flag(&body, "stream")?.unwrap_or(false),
        request: ResponseRequest {
            model,
            input,
            instructions: text(&body, "instructions")?.filter(|t| !t.trim().is_empty()),
            previous: text(&body, "previous_response_id")?,
            user: text(&body, "user")?,
            session_key: named(SESSION_HEADER),
            store: flag(&body, "store")?.unwrap_or(true),
            metadata: metadata(&body)?,
            idempotency_key: named(IDEMPOTENCY_HEADER),
            tap: None,
        },
    })
}

/// One input item: a message of texts.
#[allow(clippy::result_large_err)]
fn item(value: &Value) -> Result<CompletionMessage, Response<Body>> {
    let bad = |why: &str| wrong(&format!("input: {why}"), Some("input"));
    let kind = match value.get("type") {
        None | Some(Value::Null) => "message",
        Some(kind) => kind.as_str().unwrap_or_default(),
    };
    if !value.is_object() {
        return Err(bad("each item must be an object"));
    }
    if kind != "message" {
        return Err(wrong(
            &format!("unsupported: {}", echo(kind)),
            Some("input"),
        ));
    }
    let role = match value.get("role").and_then(Value::as_str) {
        Some(role @ ("system" | "developer" | "user" | "assistant")) => role.to_owned(),
        _ => return Err(bad("the roles are system, developer, user and assistant")),
    };
    let text = match value.get("content") {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => {
            let mut out: Vec<&str> = Vec::with_capacity(parts.len());
            for part in parts {
                let kind = part.get("type").and_then(Value::as_str).unwrap_or_default();
                match (kind, part.get("text").and_then(Value::as_str)) {
                    ("input_text" | "output_text" | "text", Some(text)) => out.push(text),
                    ("input_text" | "output_text" | "text", None) => {
                        return Err(bad("a part of text has no text"));
                    }
                    (other, _) => {
                        return Err(wrong(
                            &format!("unsupported: {}", echo(other)),
                            Some("input"),
                        ));
                    }
                }
            }
            out.join("\n")
        }
        _ => return Err(bad("content must be a text or a list of parts")),
    };
    Ok(CompletionMessage { role, text })
}

#[allow(clippy::result_large_err)]
fn metadata(body: &Map<String, Value>) -> Result<Map<String, Value>, Response<Body>> {
    match body.get("metadata") {
        None | Some(Value::Null) => Ok(Map::new()),
        Some(Value::Object(map))
            if map.len() <= MAX_METADATA_ENTRIES
                && map.iter().all(|(name, value)| {
                    name.chars().count() <= MAX_METADATA_NAME_CHARS
                        && value
                            .as_str()
                            .is_some_and(|v| v.chars().count() <= MAX_METADATA_VALUE_CHARS)
                }) =>
        {
            Ok(map.clone())
        }
        Some(_) => Err(wrong(
            &format!(
                "metadata: must be an object of at most {MAX_METADATA_ENTRIES} texts, names of up to {MAX_METADATA_NAME_CHARS} and values of up to {MAX_METADATA_VALUE_CHARS} characters"
            ),
            Some("metadata"),
        )),
    }
}

/// An error of the core as this API tells it.
fn failed(error: &RpcError) -> Response<Body> {
    let previous = error
        .details
        .as_deref()
        .and_then(|d| d.get("param"))
        .and_then(Value::as_str)
        == Some("previous_response_id");
    if !(previous && error.detail == DetailCode::NotFound) {
        return reply::rpc_error(error);
    }
    let body = json!({ "error": {
        "message": "there is no such previous response; it may have been deleted, or its session",
        "type": "invalid_request_error", "code": "previous_response_not_found", "param": "previous_response_id",
    } });
    reply::json(StatusCode::BAD_REQUEST, body.to_string())
}

async fn create(Extension(ask): Extension<Ask>, request: Request) -> Response<Body> {
    let (tenant, caller) = match admitted(&ask, request.headers(), "chat.send") {
        Ok(known) => known,
        Err(refusal) => return refusal,
    };
    if let Some(refusal) = auth::refuse_unless_json(request.headers()) {
        return refusal;
    }
    if !ask.app.ready() {
        return reply::rpc_error(
            &RpcError::new(DetailCode::Draining, "the gateway is not ready").retry_after_ms(500),
        );
    }
    let (parts, content) = request.into_parts();
    let bytes = match body::read(&ask.app.limits, content, MAX_OPENAI_BODY_BYTES, None).await {
        Ok(bytes) => bytes,
        Err(fault) => return fault.answer(),
    };
    let Wanted {
        mut request,
        stream,
    } = match wanted(&parts.headers, &bytes) {
        Ok(wanted) => wanted,
        Err(refusal) => return refusal,
    };
    drop(bytes);
    let (tap, deltas) = run::tap();
    request.tap = stream.then_some(tap);
    let cx = Cx {
        traceparent: auth::traceparent(&parts.headers),
        ..Cx::new(tenant, Arc::new(caller))
    };
    let started = match responses::start(cx, request).await {
        Ok(started) => started,
        Err(error) => return failed(&error),
    };
    let names = Names {
        item: item_id(&started.run.run_id),
        id: started.run.run_id.clone(),
        created: started.run.created_ms / 1_000,
        request: started.request,
    };
    if !stream {
        return match started.run.finish().await {
            Ok(completion) => reply::json(StatusCode::OK, names.ended(&completion).to_string()),
            Err(error) => reply::rpc_error(&error),
        };
    }
    let mut typed = Typed {
        names,
        number: 0,
        text: None,
    };
    let mut queue = VecDeque::new();
    let begun = typed.names.begun();
    typed.push(&mut queue, "response.created", json!({ "response": begun }));
    typed.push(
        &mut queue,
        "response.in_progress",
        json!({ "response": begun }),
    );
    let running = Running::new(deltas, started.run.finish());
    run::stream(running, typed, queue, false)
}

fn item_id(id: &str) -> String {
    format!("msg_{}", id.strip_prefix("resp_").unwrap_or(id))
}

/// What is the same in all that is told of one response.
struct Names {
    id: String,
    item: String,
    created: i64,
    request: responses::Request,
}

fn usage(u: &Usage) -> Value {
    let total = if u.total_tokens == 0 {
        u.input + u.output
    } else {
        u.total_tokens
    };
    json!({
        "input_tokens": u.input,
        "input_tokens_details": { "cached_tokens": u.cache_read, "cache_write_tokens": u.cache_write },
        "output_tokens": u.output,
        "output_tokens_details": { "reasoning_tokens": 0 },
        "total_tokens": total,
    })
}

fn part(text: &str) -> Value {
    json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": [] })
}

impl Names {
    fn message(&self, text: &str, status: &str) -> Value {
        json!({
            "type": "message", "id": self.item, "role": "assistant", "status": status, "content": [part(text)],
        })
    }

    fn object(&self, status: &str, output: Value, used: Value) -> Value {
        let r = &self.request;
        json!({
            "id": self.id, "object": "response", "created_at": self.created, "status": status,
            "background": false, "error": null, "incomplete_details": null, "instructions": r.instructions,
            "max_output_tokens": null, "metadata": r.metadata, "model": r.model, "output": output,
            "parallel_tool_calls": true, "previous_response_id": r.previous, "store": r.store,
            "temperature": null, "text": { "format": { "type": "text" } }, "tool_choice": "auto", "tools": [],
            "top_p": null, "truncation": "disabled", "usage": used, "user": r.user,
        })
    }

    fn begun(&self) -> Value {
        self.object("in_progress", json!([]), Value::Null)
    }

    fn told(&self, status: Status, text: &str, error: Option<&str>, used: &Usage) -> Value {
        let word = match status {
            Status::Queued => "queued",
            Status::InProgress => "in_progress",
            Status::Completed => "completed",
            Status::CutByLength | Status::CutByFilter => "incomplete",
            Status::Failed => "failed",
            Status::Cancelled => "cancelled",
        };
        let over = !matches!(status, Status::Queued | Status::InProgress);
        let of_item = match status {
            Status::Completed => "completed",
            Status::Queued | Status::InProgress => "in_progress",
            _ => "incomplete",
        };
        let output = if text.is_empty() && status != Status::Completed {
            json!([])
        } else {
            json!([self.message(text, of_item)])
        };
        let used = if over { usage(used) } else { Value::Null };
        let mut object = self.object(word, output, used);
        match status {
            Status::CutByLength => {
                object["incomplete_details"] = json!({ "reason": "max_output_tokens" });
            }
            Status::CutByFilter => {
                object["incomplete_details"] = json!({ "reason": "content_filter" });
            }
            Status::Failed => {
                let message = error.unwrap_or("the run failed");
                object["error"] = json!({ "code": "server_error", "message": message });
            }
            _ => {}
        }
        object
    }

    fn ended(&self, completion: &Completion) -> Value {
        self.told(
            status_of(completion),
            &completion.text,
            None,
            &completion.usage,
        )
    }
}

fn status_of(completion: &Completion) -> Status {
    match completion.finish_reason.as_str() {
        "length" => Status::CutByLength,
        "content_filter" => Status::CutByFilter,
        _ => Status::Completed,
    }
}

/// The typed events of one response.
struct Typed {
    names: Names,
    number: u64,
    /// The text so far, once there is any.
    text: Option<String>,
}

impl Typed {
    fn push(&mut self, out: &mut VecDeque<String>, kind: &str, mut data: Value) {
        data["type"] = json!(kind);
        data["sequence_number"] = json!(self.number);
        self.number += 1;
        out.push_back(format!("event: {kind}\ndata: {data}\n\n"));
    }

    /// The message begins.
    fn open(&mut self, out: &mut VecDeque<String>) {
        if self.text.is_some() {
            return;
        }
        self.text = Some(String::new());
        let mut item = self.names.message("", "in_progress");
        item["content"] = json!([]);
        self.push(
            out,
            "response.output_item.added",
            json!({ "output_index": 0, "item": item }),
        );
        let mut data = self.place();
        data["part"] = part("");
        self.push(out, "response.content_part.added", data);
    }

    fn place(&self) -> Value {
        json!({ "item_id": self.names.item, "output_index": 0, "content_index": 0 })
    }

    /// The message ends.
    fn close(&mut self, out: &mut VecDeque<String>, text: &str, status: &str) {
        let mut data = self.place();
        data["text"] = json!(text);
        data["logprobs"] = json!([]);
        self.push(out, "response.output_text.done", data);
        let mut data = self.place();
        data["part"] = part(text);
        self.push(out, "response.content_part.done", data);
        let item = self.names.message(text, status);
        self.push(
            out,
            "response.output_item.done",
            json!({ "output_index": 0, "item": item }),
        );
    }
}

impl Follow for Typed {
    fn follow(&mut self, out: &mut VecDeque<String>, next: Next) -> bool {
        let outcome = match next {
            Next::Delta(delta) => {
                self.open(out);
                if let Some(text) = &mut self.text {
                    text.push_str(&delta);
                }
                let mut data = self.place();
                data["delta"] = json!(delta);
                data["logprobs"] = json!([]);
                self.push(out, "response.output_text.delta", data);
                return false;
            }
            Next::End(outcome) => *outcome,
        };
        match outcome {
            Ok(completion) => {
                self.open(out);
                let (kind, of_item) = match status_of(&completion) {
                    Status::Completed => ("response.completed", "completed"),
                    _ => ("response.incomplete", "incomplete"),
                };
                self.close(out, &completion.text, of_item);
                let response = self.names.ended(&completion);
                self.push(out, kind, json!({ "response": response }));
            }
            // An answer that breaks off says so; it never just ends.
            Err(error) => {
                let text = self.text.take();
                if let Some(text) = &text {
                    self.close(out, text, "incomplete");
                }
                let mut response = self.names.told(
                    Status::Failed,
                    text.as_deref().unwrap_or_default(),
                    Some(&error.message),
                    &Usage::default(),
                );
                if matches!(
                    error.detail,
                    DetailCode::RateLimited | DetailCode::QuotaExceeded
                ) {
                    response["error"]["code"] = json!("rate_limit_exceeded");
                }
                self.push(out, "response.failed", json!({ "response": response }));
            }
        }
        out.push_back("data: [DONE]\n\n".to_owned());
        true
    }
}

fn kept(kept: &Kept) -> Response<Body> {
    let names = Names {
        item: item_id(&kept.id),
        id: kept.id.clone(),
        created: kept.created_ms / 1_000,
        request: kept.request.clone(),
    };
    let told = names.told(kept.status, &kept.text, kept.error.as_deref(), &kept.usage);
    reply::json(StatusCode::OK, told.to_string())
}

/// The caller of a kept response, by what it may do.
#[allow(clippy::result_large_err)]
fn known(ask: &Ask, headers: &HeaderMap, like: &str) -> Result<Cx, Response<Body>> {
    let (tenant, caller): (Arc<Tenant>, Caller) = admitted(ask, headers, like)?;
    Ok(Cx::new(tenant, Arc::new(caller)))
}

async fn look(
    Extension(ask): Extension<Ask>,
    Path(id): Path<String>,
    request: Request,
) -> Response<Body> {
    let cx = match known(&ask, request.headers(), "chat.history") {
        Ok(cx) => cx,
        Err(refusal) => return refusal,
    };
    let streams = request.uri().query().is_some_and(|query| {
        query
            .split('&')
            .any(|pair| matches!(pair.split_once('='), Some(("stream", on)) if on != "false"))
    });
    if streams {
        return wrong("unsupported: stream", Some("stream"));
    }
    match responses::get(&cx, &id).await {
        Ok(found) => kept(&found),
        Err(error) => reply::rpc_error(&error),
    }
}

async fn cancel(
    Extension(ask): Extension<Ask>,
    Path(id): Path<String>,
    request: Request,
) -> Response<Body> {
    let cx = match known(&ask, request.headers(), "chat.abort") {
        Ok(cx) => cx,
        Err(refusal) => return refusal,
    };
    match responses::cancel(&cx, &id).await {
        Ok(found) => kept(&found),
        Err(error) => reply::rpc_error(&error),
    }
}

async fn forget(
    Extension(ask): Extension<Ask>,
    Path(id): Path<String>,
    request: Request,
) -> Response<Body> {
    let cx = match known(&ask, request.headers(), "chat.abort") {
        Ok(cx) => cx,
        Err(refusal) => return refusal,
    };
    match responses::delete(&cx, &id).await {
        Ok(()) => {
            let gone = json!({ "id": id, "object": "response", "deleted": true });
            reply::json(StatusCode::OK, gone.to_string())
        }
        Err(error) => reply::rpc_error(&error),
    }
}
