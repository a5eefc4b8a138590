//! The bearer of an HTTP request. One authenticator serves every transport; this only finds the credential.

use std::sync::Arc;

use axum::body::Body;
use gateway_core::{
    auth::{AuthAttempt, Authenticated},
    cx::{Caller, ClientInfo, Role, Surface},
};
use gateway_protocol::{
    error::RpcError, limits::MAX_TRACEPARENT_BYTES, methods::connect::ConnectAuth,
};
use http::{HeaderMap, Response, StatusCode, header};

use super::{Ask, reply};

/// The token of `Authorization: Bearer …`; `None` when there is no such header, an empty text when it is malformed.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers
        .get(header::AUTHORIZATION)?
        .to_str()
        .unwrap_or_default();
    let token = value
        .split_once(' ')
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map_or("", |(_, token)| token.trim());
    Some(token)
}

/// The trace that a request says that it belongs to.
pub(crate) fn traceparent(headers: &HeaderMap) -> Option<Box<str>> {
    let value = headers.get("traceparent")?.to_str().ok()?;
    (value.len() <= MAX_TRACEPARENT_BYTES).then(|| value.into())
}

/// What a request shows of itself.
#[derive(Default)]
struct Shown<'a> {
    token: Option<&'a str>,
    password: Option<&'a str>,
    device_token: Option<&'a str>,
    bootstrap_token: Option<&'a str>,
    device: Option<(&'a str, Role)>,
}

/// Checks a credential against whatever host name and path say about the tenant.
pub(crate) fn check(
    ask: &Ask,
    token: Option<&str>,
    password: Option<&str>,
    surface: Surface,
) -> Result<Authenticated, RpcError> {
    let shown = Shown {
        token,
        password,
        ..Shown::default()
    };
    authenticate(ask, &shown, surface)
}

/// The same for a `connect`, which may be a device's.
pub(crate) fn check_connect(
    ask: &Ask,
    credentials: Option<&ConnectAuth>,
    device: Option<(&str, Role)>,
) -> Result<Authenticated, RpcError> {
    let shown = Shown {
        token: credentials.and_then(|a| a.token.as_deref()),
        password: credentials.and_then(|a| a.password.as_deref()),
        device_token: credentials.and_then(|a| a.device_token.as_deref()),
        bootstrap_token: credentials.and_then(|a| a.bootstrap_token.as_deref()),
        device,
    };
    authenticate(ask, &shown, Surface::V4)
}

fn authenticate(ask: &Ask, shown: &Shown<'_>, surface: Surface) -> Result<Authenticated, RpcError> {
    let sockets = matches!(surface, Surface::V4 | Surface::JsonRpcWs);
    let bare = [
        shown.token,
        shown.password,
        shown.device_token,
        shown.bootstrap_token,
    ]
    .iter()
    .all(Option::is_none);
    if let Some(identity) = ask.front.as_ref().and_then(|front| front.identity.as_ref())
        && sockets
        && bare
    {
        return identity.admit(ask);
    }
    let attempt = AuthAttempt {
        peer: ask.ip(),
        loopback: ask.local(),
        origin: ask.origin.as_deref(),
        tenant_hint: &ask.hint,
        token: shown.token,
        password: shown.password,
        device_token: shown.device_token,
        bootstrap_token: shown.bootstrap_token,
        vouched: ask.vouched.as_deref(),
        device: shown.device,
        surface,
    };
    ask.app
        .host
        .authenticate(&attempt)
        .map_err(|refusal| refusal.error)
}

/// The caller of an HTTP request; its place among the strangers is given back.
#[allow(clippy::result_large_err)]
pub(crate) fn caller(
    ask: &Ask,
    headers: &HeaderMap,
    surface: Surface,
    mode: &str,
) -> Result<(Authenticated, Caller), Response<Body>> {
    let found = check(ask, bearer(headers), None, surface).map_err(|e| reply::rpc_error(&e))?;
    ask.wire.authenticated();
    ask.admitted.by(&found.tenant, found.proof);
    let caller = Caller {
        conn: None,
        role: Role::Operator,
        scopes: found.ceiling,
        only_methods: methods_of(&found, surface),
        key: found.key.clone(),
        device: None,
        caps: Default::default(),
        client: ClientInfo {
            id: "http".to_owned(),
            mode: mode.to_owned(),
            ..ClientInfo::default()
        },
        surface,
        ip: Some(ask.ip()),
        credential: Some(found.proof.name(found.method)),
    };
    Ok((found, caller))
}

/// A key of one agent is for the addresses that ask for the agent. Methods can name any session: none of them is for it.
pub(crate) fn methods_of(found: &Authenticated, surface: Surface) -> Option<Arc<[Box<str>]>> {
    let of_one = found.key.as_ref().is_some_and(|key| key.agent().is_some());
    let methods = matches!(surface, Surface::JsonRpcHttp | Surface::JsonRpcWs);
    (of_one && methods).then(|| Arc::from([]))
}

/// The refusal (415) of a body that is not said to be JSON.
pub(crate) fn refuse_unless_json(headers: &HeaderMap) -> Option<Response<Body>> {
    (!is_json(headers)).then(|| {
        reply::error(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "the body has to be application/json",
        )
    })
}

/// The media type of a request with a body that changes something: only JSON (or `application/json-rpc`, as some JSON-RPC
/// clients say), which no form of a foreign page can send.
pub(crate) fn is_json(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.split(';').next())
        .is_some_and(|v| {
            ["application/json", "application/json-rpc"]
                .iter()
                .any(|known| v.trim().eq_ignore_ascii_case(known))
        })
}
