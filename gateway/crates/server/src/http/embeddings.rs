//! `POST /v1/embeddings`: passed on to the server of an agent. Nothing of it is kept.

use axum::{Extension, Router, body::Body, extract::Request, routing::post};
use gateway_core::embeddings::embed;
use gateway_protocol::json;
use http::{Response, StatusCode};
use serde_json::{Map, Value};

use super::{
    Ask,
    openai::{Posted, posted, wrong},
    reply,
};
use crate::limits::MAX_EMBEDDING_INPUTS;

/// `/v1/embeddings`.
pub(crate) fn routes() -> Router {
    Router::new().route("/v1/embeddings", post(create))
}

/// The model, and what is passed on: the members that this API has, each of the right shape.
#[allow(clippy::result_large_err)]
fn wanted(bytes: &[u8]) -> Result<(String, Map<String, Value>), Response<Body>> {
    let mut body = match json::parse_strict(bytes) {
        Ok(Value::Object(body)) => body,
        Ok(_) => return Err(wrong("the body must be an object", None)),
        Err(e) => return Err(wrong(&format!("the body cannot be read: {e}"), None)),
    };
    let model = match body.remove("model") {
        Some(Value::String(model)) => model,
        _ => return Err(wrong("model: must be a text", Some("model"))),
    };
    let mut out = Map::new();
    let input = body.remove("input").unwrap_or_default();
    if !is_input(&input) {
        return Err(wrong(
            &format!(
                "input: must be a text, or a list of 1 to {MAX_EMBEDDING_INPUTS} texts, tokens or lists of tokens"
            ),
            Some("input"),
        ));
    }
    out.insert("input".to_owned(), input);
    for (name, fits, what) in [
        (
            "encoding_format",
            (|v| matches!(v.as_str(), Some("float" | "base64"))) as fn(&Value) -> bool,
            "float or base64",
        ),
        (
            "dimensions",
            |v| v.as_u64().is_some_and(|n| n > 0),
            "a whole number from 1 on",
        ),
        ("user", Value::is_string, "a text"),
    ] {
        match body.remove(name) {
            None | Some(Value::Null) => {}
            Some(value) if fits(&value) => {
                out.insert(name.to_owned(), value);
            }
            Some(_) => return Err(wrong(&format!("{name}: must be {what}"), Some(name))),
        }
    }
    Ok((model, out))
}

fn is_input(input: &Value) -> bool {
    let is_token = |v: &Value| v.is_u64();
    let is_tokens = |v: &Value| matches!(v, Value::Array(list) if !list.is_empty() && list.iter().all(is_token));
    let is_text = |v: &Value| v.as_str().is_some_and(|t| !t.is_empty());
    match input {
        Value::Array(list) if list.is_empty() => false,
        Value::Array(list) if list.iter().all(is_token) => true,
        Value::Array(list) => {
            list.len() <= MAX_EMBEDDING_INPUTS
                && (list.iter().all(is_text) || list.iter().all(is_tokens))
        }
        other => is_text(other),
    }
}

async fn create(Extension(ask): Extension<Ask>, request: Request) -> Response<Body> {
    let Posted { cx, body, .. } = match posted(&ask, request, "chat.send").await {
        Ok(posted) => posted,
        Err(refusal) => return refusal,
    };
    let (model, passed) = match wanted(&body) {
        Ok(wanted) => wanted,
        Err(refusal) => return refusal,
    };
    drop(body);
    match embed(&cx, &model, passed).await {
        Ok(answer) => reply::json(StatusCode::OK, answer),
        Err(error) => reply::rpc_error(&error),
    }
}
