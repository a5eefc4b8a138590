//! From an HTTP request to a WebSocket: the handshake, the credential of `/rpc`, and taking the socket over from hyper.

use std::time::Duration;

use axum::body::Body;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use gateway_core::cx::Surface;
use gateway_protocol::limits::{MAX_FRAME_BYTES, MAX_PREAUTH_FRAME_BYTES};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use std::sync::Arc;

use super::{
    Mode,
    conn::{Conn, Start},
    rpc::Rpc,
    timer::Shared,
    v4::V4,
};
use crate::{
    app::App,
    budget::Permit,
    http::{Ask, auth, reply},
    stream::{HeadGuard, Stream},
};

/// Name of the JSON-RPC subprotocol.
const SUBPROTOCOL: &str = "jsonrpc";
/// A browser cannot set headers on a WebSocket, so it may offer its token as a second subprotocol with this prefix, base64url.
/// It is a request header like any other: it is in no address, no history and no log, and is never selected.
const BEARER: &str = "gateway.bearer.";

/// What becomes of the socket once the answer is out.
pub(crate) struct Upgrade {
    on: OnUpgrade,
    ask: Ask,
    kind: Kind,
}

enum Kind {
    V4,
    Rpc(Box<Rpc>),
    #[cfg(feature = "test-echo")]
    Echo,
}

impl std::fmt::Debug for Upgrade {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Upgrade")
    }
}

/// Answers an upgrade request for `path`.
#[allow(clippy::result_large_err)]
pub(crate) fn answer(
    ask: Ask,
    path: &str,
    request: &mut Request<Incoming>,
) -> Result<Response<Body>, Response<Body>> {
    let bad = |why| reply::refusal(StatusCode::BAD_REQUEST, why);
    let headers = request.headers();
    if request.method() != Method::GET
        || !has_token(headers, header::UPGRADE, "websocket")
        || !has_token(headers, header::CONNECTION, "upgrade")
    {
        return Err(bad("only WebSocket upgrades are served"));
    }
    if headers
        .get(header::SEC_WEBSOCKET_VERSION)
        .is_none_or(|v| v != "13")
    {
        let mut old = reply::refusal(
            StatusCode::UPGRADE_REQUIRED,
            "only WebSocket version 13 is served",
        );
        old.headers_mut().insert(
            header::SEC_WEBSOCKET_VERSION,
            HeaderValue::from_static("13"),
        );
        return Err(old);
    }
    let key = headers
        .get(header::SEC_WEBSOCKET_KEY)
        .map(HeaderValue::as_bytes)
        .filter(|k| k.len() == 24)
        .ok_or_else(|| bad("malformed WebSocket key"))?;
    let accept = derive_accept_key(key);
    let mut subprotocol = false;
    let kind = match path {
        "/" => Kind::V4,
        "/rpc" => {
            let (offered, token) = offers(headers);
            subprotocol = offered;
            let token = auth::bearer(headers).map(str::to_owned).or(token);
            let found = auth::check(&ask, token.as_deref(), None, Surface::JsonRpcWs)
                .map_err(|e| closing(reply::rpc_error(&e)))?;
            Kind::Rpc(Box::new(Rpc::new(&ask, found)))
        }
        #[cfg(feature = "test-echo")]
        "/test-echo" => Kind::Echo,
        _ => {
            return Err(reply::refusal(
                StatusCode::NOT_FOUND,
                "no WebSocket is here",
            ));
        }
    };
    let wire = ask.wire.clone();
    wire.upgrade(Upgrade {
        on: hyper::upgrade::on(request),
        ask,
        kind,
    });
    let mut switch = Response::new(Body::empty());
    *switch.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = switch.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(
        header::SEC_WEBSOCKET_ACCEPT,
        HeaderValue::from_str(&accept).map_err(|_| bad("malformed WebSocket key"))?,
    );
    if subprotocol {
        headers.insert(
            header::SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static(SUBPROTOCOL),
        );
    }
    Ok(switch)
}

fn closing(mut answer: Response<Body>) -> Response<Body> {
    answer
        .headers_mut()
        .insert(header::CONNECTION, HeaderValue::from_static("close"));
    answer
}

/// All members of a list header.
fn members(headers: &HeaderMap, name: header::HeaderName) -> impl Iterator<Item = &str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(str::trim)
}

fn has_token(headers: &HeaderMap, name: header::HeaderName, token: &str) -> bool {
    members(headers, name).any(|t| t.eq_ignore_ascii_case(token))
}

/// Whether JSON-RPC was offered, and the token offered beside it.
fn offers(headers: &HeaderMap) -> (bool, Option<String>) {
    let offered = || members(headers, header::SEC_WEBSOCKET_PROTOCOL);
    let token = offered().find_map(|o| o.strip_prefix(BEARER)).map(|t| {
        // What cannot be decoded is a wrong token, not a missing one.
        URL_SAFE_NO_PAD
            .decode(t)
            .ok()
            .and_then(|t| String::from_utf8(t).ok())
            .unwrap_or_default()
    });
    (offered().any(|o| o == SUBPROTOCOL), token)
}

impl Upgrade {
    /// Takes the socket over. `None` when it broke meanwhile.
    pub(crate) async fn finish(self, app: Arc<App>, mut permit: Permit) -> Option<Conn> {
        let upgraded = tokio::time::timeout(Duration::from_secs(5), self.on)
            .await
            .ok()?
            .ok()?;
        let parts = upgraded.downcast::<TokioIo<HeadGuard<Stream>>>().ok()?;
        let (io, held) = parts.io.into_inner().into_parts();
        let mut early = parts.read_buf.to_vec();
        early.extend_from_slice(&held);
        let shared = Shared::new(app.event_bytes.clone());
        let now_ms = app.timer.now_ms();
        let origin = self.ask.origin.clone();
        let (mode, max_message) = match self.kind {
            Kind::V4 => (
                Mode::V4(Box::new(V4::new(self.ask, now_ms))),
                MAX_PREAUTH_FRAME_BYTES,
            ),
            Kind::Rpc(rpc) => {
                permit.authenticated();
                (Mode::Rpc(rpc), MAX_FRAME_BYTES)
            }
            #[cfg(feature = "test-echo")]
            Kind::Echo => {
                permit.authenticated();
                (Mode::Echo, MAX_FRAME_BYTES)
            }
        };
        Some(Conn::new(Start {
            app,
            origin,
            io,
            early,
            permit,
            shared,
            max_message,
            mode,
        }))
    }
}
