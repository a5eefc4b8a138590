//! `GET /sessions/{key}/history`: the messages of a session by pages; with `Accept: text/event-stream` the newest page and then
//! what comes.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    Extension, Router,
    body::Body,
    extract::{Path, Request},
    routing::get,
};
use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use gateway_core::{
    cx::{Cx, Surface},
    history::{Followed, Follower, HistoryPage, HistoryRequest, follow, page},
};
use gateway_protocol::{ConnRole, content::ChatMessage, error::RpcError, method};
use http::{HeaderValue, Response, StatusCode, header};
use http_body::Frame;
use serde_json::{Value, json};

use super::{Ask, auth, decode, reply};
use crate::limits::EVENT_STREAM_COMMENT_MS;

/// `/sessions/{key}/history`.
pub(crate) fn routes() -> Router {
    Router::new().route("/sessions/{key}/history", get(history))
}

fn wrong(message: &str) -> Response<Body> {
    reply::error(StatusCode::BAD_REQUEST, message)
}

/// What the query asks for. Other members are left alone.
#[allow(clippy::result_large_err)]
fn wanted(key: String, query: &str) -> Result<HistoryRequest, Response<Body>> {
    let mut wanted = HistoryRequest {
        key,
        ..HistoryRequest::default()
    };
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = decode(value).unwrap_or_default();
        match name {
            "limit" => {
                wanted.limit = match value.parse() {
                    Ok(n @ 1..=1_000) => Some(n),
                    _ => return Err(wrong("limit: must be a whole number from 1 to 1000")),
                };
            }
            "cursor" => {
                wanted.before = match value.strip_prefix("seq:").unwrap_or(&value).parse() {
                    Ok(n @ 1..) => Some(n),
                    _ => return Err(wrong("cursor: must be the nextCursor of a page")),
                };
            }
            "includeTools" => {
                wanted.tools = match &*value {
                    "1" | "true" => true,
                    "0" | "false" => false,
                    _ => return Err(wrong("includeTools: must be 1 or 0")),
                };
            }
            _ => {}
        }
    }
    Ok(wanted)
}

fn body_of(page: &HistoryPage) -> Value {
    // Two names for one list: clients of either know it.
    let messages = serde_json::to_value(&page.messages).unwrap_or_default();
    let mut body = json!({
        "sessionKey": page.key, "items": messages, "messages": messages, "hasMore": page.next.is_some(),
    });
    if let Some(next) = page.next {
        body["nextCursor"] = json!(format!("seq:{next}"));
    }
    body
}

async fn history(
    Extension(ask): Extension<Ask>,
    Path(key): Path<String>,
    request: Request,
) -> Response<Body> {
    let (found, caller) = match auth::caller(&ask, request.headers(), Surface::Http, "backend") {
        Ok(known) => known,
        Err(refusal) => return refusal,
    };
    if let Some(spec) = method::find("chat.history")
        && let Err(error) = spec.access.check(ConnRole::Operator, caller.scopes)
    {
        return reply::rpc_error(&error);
    }
    let wanted = match wanted(key, request.uri().query().unwrap_or_default()) {
        Ok(wanted) => wanted,
        Err(refusal) => return refusal,
    };
    let streams = request
        .headers()
        .get(header::ACCEPT)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|v| v.to_ascii_lowercase().contains("text/event-stream"));
    let cx = Cx::new(found.tenant, Arc::new(caller));
    if !streams {
        return match page(&cx, &wanted).await {
            Ok(page) => reply::json(StatusCode::OK, body_of(&page).to_string()),
            Err(error) => reply::rpc_error(&error),
        };
    }
    if wanted.before.is_some() {
        return wrong("cursor: a stream begins with the newest page");
    }
    let (page, follower) = match follow(&ask.app.host, cx, found.proof, &wanted).await {
        Ok(begun) => begun,
        Err(error) => return reply::rpc_error(&error),
    };
    let first = event("history", &body_of(&page));
    let events = Events {
        key: page.key,
        piece: Some(first),
        next: Some(wait(follower)),
    };
    let mut answer = Response::new(Body::new(events));
    answer.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream; charset=utf-8"),
    );
    answer
}

fn event(name: &str, data: &Value) -> String {
    format!("event: {name}\ndata: {data}\n\n")
}

/// The follower, and what happened.
type Step = (Follower, Result<Followed, RpcError>);

fn wait(mut follower: Follower) -> BoxFuture<'static, Step> {
    async move {
        let quiet = Duration::from_millis(EVENT_STREAM_COMMENT_MS);
        let happened = follower.next(quiet).await;
        (follower, happened)
    }
    .boxed()
}

/// A session as it grows, as a body.
struct Events {
    key: String,
    piece: Option<String>,
    next: Option<BoxFuture<'static, Step>>,
}

impl Events {
    fn told(&self, message: &ChatMessage) -> String {
        let mut data = json!({ "sessionKey": self.key, "message": message });
        if let Some(meta) = &message.meta {
            data["messageId"] = json!(meta.id);
            data["messageSeq"] = json!(meta.seq);
        }
        event("message", &data)
    }
}

impl http_body::Body for Events {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        if let Some(piece) = this.piece.take() {
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from(piece)))));
        }
        let Some(next) = &mut this.next else {
            return Poll::Ready(None);
        };
        let (follower, happened) = ready!(next.poll_unpin(cx));
        this.next = None;
        let text = match happened {
            // Shows both sides, and everything between them, that the stream is alive.
            Ok(Followed::Quiet) => {
                this.next = Some(wait(follower));
                ": nothing new\n\n".to_owned()
            }
            Ok(Followed::Messages(messages)) => {
                this.next = Some(wait(follower));
                messages.iter().map(|m| this.told(m)).collect()
            }
            Ok(Followed::Changed) => event("changed", &json!({ "sessionKey": this.key })),
            Ok(Followed::Ended) => return Poll::Ready(None),
            Err(error) => event(
                "error",
                &json!({ "error": { "message": error.message, "type": "server_error", "code": error.detail.row().name } }),
            ),
        };
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(text)))))
    }
}
