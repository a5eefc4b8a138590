//! `POST /tools/invoke`: one tool of an agent, for a program.

use std::sync::Arc;

use axum::{Extension, Router, body::Body, extract::Request, routing::post};
use gateway_core::{
    cx::{Cx, Surface},
    invoke::{InvokeRequest, Invoked, invoke},
};
use gateway_protocol::{
    ConnRole,
    error::{RpcError, echo},
    json, method,
};
use http::{Response, StatusCode};
use serde_json::{Map, Value, json};

use super::{Ask, auth, body, reply};
use crate::limits::MAX_TOOL_BODY_BYTES;

/// `/tools/invoke`.
pub(crate) fn routes() -> Router {
    Router::new().route("/tools/invoke", post(call))
}

fn refused(status: StatusCode, kind: &str, message: &str) -> Response<Body> {
    let body = json!({ "ok": false, "error": { "type": kind, "message": message } });
    reply::json(status, body.to_string())
}

fn wrong(message: &str) -> Response<Body> {
    refused(StatusCode::BAD_REQUEST, "invalid_request", message)
}

/// An error of the core, with the mark that this address puts on all its answers.
fn failed(error: &RpcError) -> Response<Body> {
    let row = error.detail.row();
    let status = StatusCode::from_u16(row.http).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let kind = match row.http {
        403 => "forbidden",
        404 => "not_found",
        400..=499 => "invalid_request",
        _ => "tool_error",
    };
    refused(status, kind, &error.message)
}

#[allow(clippy::result_large_err)]
fn wanted(bytes: &[u8]) -> Result<InvokeRequest, Response<Body>> {
    let mut body = match json::parse_strict(bytes) {
        Ok(Value::Object(body)) => body,
        Ok(_) => return Err(wrong("the body must be an object")),
        Err(e) => return Err(wrong(&format!("the body cannot be read: {e}"))),
    };
    if body
        .get("dryRun")
        .is_some_and(|v| !matches!(v, Value::Null | Value::Bool(false)))
    {
        return Err(wrong("unsupported: dryRun"));
    }
    let mut text = |name: &str| match body.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(wrong(&format!("{name}: must be a text"))),
    };
    let tool = text("tool")?
        .filter(|t| !t.trim().is_empty())
        .ok_or_else(|| wrong("tool: is missing"))?;
    let (action, session_key) = (text("action")?, text("sessionKey")?);
    let args = match body.remove("args") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(args)) => args,
        Some(_) => return Err(wrong("args: must be an object")),
    };
    Ok(InvokeRequest {
        tool,
        action,
        args,
        session_key,
    })
}

async fn call(Extension(ask): Extension<Ask>, request: Request) -> Response<Body> {
    let (found, caller) = match auth::caller(&ask, request.headers(), Surface::Http, "backend") {
        Ok(known) => known,
        Err(refusal) => return refusal,
    };
    // What calls a tool can do what an agent can: the same right as to have one answer.
    if let Some(spec) = method::find("chat.send")
        && let Err(error) = spec.access.check(ConnRole::Operator, caller.scopes)
    {
        return failed(&error);
    }
    if !auth::is_json(request.headers()) {
        return refused(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "invalid_request",
            "the body has to be application/json",
        );
    }
    let bytes = match body::read(
        &ask.app.limits,
        request.into_body(),
        MAX_TOOL_BODY_BYTES,
        None,
    )
    .await
    {
        Ok(bytes) => bytes,
        Err(fault) => return fault.answer(),
    };
    let wanted = match wanted(&bytes) {
        Ok(wanted) => wanted,
        Err(refusal) => return refusal,
    };
    drop(bytes);
    let name = echo(&wanted.tool);
    match invoke(&Cx::new(found.tenant, Arc::new(caller)), wanted).await {
        Ok(Invoked::Text(text)) => {
            let body =
                json!({ "ok": true, "result": { "content": [{ "type": "text", "text": text }] } });
            reply::json(StatusCode::OK, body.to_string())
        }
        Ok(Invoked::NotAvailable) => refused(
            StatusCode::NOT_FOUND,
            "not_found",
            &format!("Tool not available: {name}"),
        ),
        Ok(Invoked::Failed(why)) => refused(StatusCode::BAD_REQUEST, "tool_error", &why),
        Err(error) => failed(&error),
    }
}
