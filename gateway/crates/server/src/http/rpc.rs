//! `POST /rpc`: JSON-RPC 2.0 with a bearer. Final results only; there is nothing to subscribe to.

use std::sync::Arc;

use axum::{Extension, Router, body::Body, extract::Request, routing::post};
use bytes::Bytes;
use gateway_core::cx::{Cx, Surface};
use gateway_protocol::jsonrpc;
use http::{Response, StatusCode};
use tokio_util::sync::CancellationToken;

use super::{Ask, auth, body, reply};
use crate::{
    limits::MAX_RPC_BODY_BYTES,
    rpc::{self, Started},
};

/// `/rpc`.
pub(crate) fn routes() -> Router {
    Router::new().route("/rpc", post(call))
}

async fn call(Extension(ask): Extension<Ask>, request: Request) -> Response<Body> {
    let (found, caller) =
        match auth::caller(&ask, request.headers(), Surface::JsonRpcHttp, "backend") {
            Ok(known) => known,
            Err(refusal) => return refusal,
        };
    if let Some(refusal) = auth::refuse_unless_json(request.headers()) {
        return refusal;
    }
    let traceparent = auth::traceparent(request.headers());
    let text = match body::read(
        &ask.app.limits,
        request.into_body(),
        MAX_RPC_BODY_BYTES,
        None,
    )
    .await
    {
        Ok(text) => text,
        Err(fault) => return fault.answer(),
    };
    // Dropped with the request when the caller hangs up; what must be finished then is handed to the tasks of the listener.
    let cancel = CancellationToken::new();
    let _hung_up = cancel.clone().drop_guard();
    let cx = Cx {
        tenant: found.tenant,
        caller: Arc::new(caller),
        cancel,
        interim: None,
        traceparent,
        idempotency: None,
        audit: Default::default(),
    };
    let (started, single) = match jsonrpc::parse(&text) {
        jsonrpc::Parsed::Fault(answer) => (Started::Done(answer), None),
        jsonrpc::Parsed::Single(item) => match rpc::start(&ask.app, cx, &item) {
            Started::Running(mut running) => {
                let id = running.id.take();
                (Started::Running(running), id)
            }
            other => (other, None),
        },
        jsonrpc::Parsed::Batch(items) => (
            rpc::batch(
                items
                    .iter()
                    .map(|item| rpc::start(&ask.app, cx.clone(), item))
                    .collect(),
            ),
            None,
        ),
    };
    let answer = match started {
        Started::Nothing => Bytes::new(),
        Started::Done(answer) => Bytes::from(answer),
        Started::Running(running) => {
            let result = if running.waits {
                running.future.await
            } else {
                match ask.app.tasks.spawn(running.future).await {
                    Ok(result) => result,
                    Err(_) => {
                        return reply::error(StatusCode::INTERNAL_SERVER_ERROR, "internal error");
                    }
                }
            };
            match (single, result) {
                (Some(id), result) => Bytes::from(rpc::encode(&id, result)),
                (None, result) => result.unwrap_or_default(),
            }
        }
    };
    if answer.is_empty() {
        let mut nothing = Response::new(Body::empty());
        *nothing.status_mut() = StatusCode::NO_CONTENT;
        return nothing;
    }
    reply::json(StatusCode::OK, answer)
}
