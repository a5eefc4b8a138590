//! One HTTP request: who may ask at all (host name, origin, forwarding headers, path), then upgrade or route.

pub(crate) mod admitted;
pub(crate) mod auth;
pub(crate) mod body;
pub(crate) mod embeddings;
pub(crate) mod health;
pub(crate) mod history;
pub(crate) mod hooks;
pub(crate) mod metrics;
pub(crate) mod openai;
pub(crate) mod openapi;
pub(crate) mod page;
pub(crate) mod reply;
pub(crate) mod responses;
pub(crate) mod rpc;
pub(crate) mod run;
pub(crate) mod tools;
pub(crate) mod webhook;

use std::{borrow::Cow, convert::Infallible, sync::Arc};

use axum::{Router, body::Body};
use gateway_config::TailscaleLogins;
use gateway_core::{auth::Vouched, host::TenantHint};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use tower_service::Service;

use crate::{
    accept::Wire,
    app::App,
    forwarded,
    guard::{HostName, Refused, Socket},
    limits::MAX_REQUESTS_PER_CONNECTION,
    openapi as described,
    tailscale::Front,
    ws,
};

/// What a handler knows about its request besides the request.
#[derive(Clone)]
pub(crate) struct Ask {
    pub(crate) app: Arc<App>,
    pub(crate) wire: Arc<Wire>,
    /// The tenant that host name and path point to.
    pub(crate) hint: TenantHint,
    pub(crate) origin: Option<Box<str>>,
    /// The socket that it came in on; its peer is the client of whoever brought it, where somebody did.
    pub(crate) socket: Socket,
    /// Set for a request that Tailscale brought.
    pub(crate) front: Option<Front>,
    /// What a trusted proxy says of the user, where it says anything.
    pub(crate) vouched: Option<Arc<Vouched>>,
    /// What let the request in.
    pub(crate) admitted: admitted::Admitted,
}

impl Ask {
    /// Whether the request is of this machine: both ends are here, and nobody brought it from elsewhere.
    pub(crate) fn local(&self) -> bool {
        self.socket.loopback()
    }

    /// The address whose request it is.
    pub(crate) fn ip(&self) -> std::net::IpAddr {
        self.socket.peer.ip()
    }
}

/// All addresses but the sockets. Everything that is not here is 404.
pub(crate) fn routes() -> Router {
    page::routes()
        .merge(health::routes())
        .merge(rpc::routes())
        .merge(openai::routes())
        .merge(responses::routes())
        .merge(embeddings::routes())
        .merge(tools::routes())
        .merge(history::routes())
        .merge(openapi::routes())
        .merge(webhook::routes())
        .merge(hooks::routes())
        .merge(metrics::routes())
        .fallback(|| async { reply::error(StatusCode::NOT_FOUND, "nothing is here") })
        .method_not_allowed_fallback(|| async {
            reply::error(
                StatusCode::METHOD_NOT_ALLOWED,
                "this address wants another method",
            )
        })
}

/// Answers one request of a connection.
pub(crate) async fn serve(
    app: Arc<App>,
    wire: Arc<Wire>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let number = wire.count();
    let last = number >= MAX_REQUESTS_PER_CONNECTION || app.stop.is_cancelled();
    let mut response = match wire.refusal(number) {
        Some(fault) => reply::refusal(
            StatusCode::from_u16(fault.status).unwrap_or(StatusCode::BAD_REQUEST),
            fault.why,
        ),
        None => match admit(&app, &wire, brought(&app, &wire, &request).await, request) {
            Ok(Admitted::Socket(upgraded)) => upgraded,
            Ok(Admitted::Request(request)) => {
                let mut routes = app.routes.clone();
                let admitted = request
                    .extensions()
                    .get::<Ask>()
                    .map(|ask| ask.admitted.clone())
                    .unwrap_or_default();
                let answer = async {
                    match routes.call(request).await {
                        Ok(response) => response,
                        Err(never) => match never {},
                    }
                };
                admitted.guard(&app, answer).await
            }
            Err(refused) => refused,
        },
    };
    app.traffic.answered(response.status().as_u16());
    reply::secure(response.headers_mut());
    let is_socket = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let last = last || app.handing_over.is_cancelled();
    if last && !is_socket {
        response
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if last || is_socket {
        wire.asked_all();
    }
    Ok(response)
}

enum Admitted {
    Socket(Response<Body>),
    Request(Request<Body>),
}

// An answer is what a refusal is; boxing it would only move the allocation.
#[allow(clippy::result_large_err)]
fn admit(
    app: &Arc<App>,
    wire: &Arc<Wire>,
    front: Option<Front>,
    mut request: Request<Incoming>,
) -> Result<Admitted, Response<Body>> {
    let names = app.names();
    let names = &names.1;
    let is_proxy = |ip| names.is_proxy(ip);
    let vouched = forwarded::vouched(
        request.headers_mut(),
        &wire.socket,
        &names.identity,
        is_proxy,
    )
    .map_err(refused)?;
    let mut socket = match &front {
        Some(front) => forwarded::brought(request.headers_mut(), &wire.socket, front.client),
        None => {
            forwarded::socket(request.headers_mut(), &wire.socket, is_proxy).map_err(refused)?
        }
    };
    // Whom a proxy vouches for is nobody of this machine, even where it does not say for whom it asks.
    socket.forwarded |= vouched.is_some();
    let raw_host = text(&request, header::HOST)
        .map_err(|()| refused(Refused::BadHost))?
        .unwrap_or_default();
    let host = match (names.host(&raw_host, &socket), &front) {
        // The name in the tailnet is answered while it is held, and for who came by it.
        (Err(Refused::UnknownHost), Some(_)) => HostName {
            name: raw_host.to_ascii_lowercase(),
            own: false,
            tenant: None,
        },
        (host, _) => host.map_err(refused)?,
    };
    let origin = text(&request, header::ORIGIN).map_err(|()| refused(Refused::Origin))?;
    let own_page = front.as_ref().map(|front| front.name.origin());
    if let Some(origin) = origin
        .as_ref()
        .filter(|origin| own_page.as_ref() != Some(*origin))
    {
        names
            .origin(origin, &host, &raw_host, &socket)
            .map_err(refused)?;
    }
    let raw_path = request.uri().path().to_owned();
    let placed = place(&raw_path);
    let served = match *request.method() {
        Method::GET | Method::HEAD | Method::POST => true,
        // Nothing else can be deleted by its address.
        Method::DELETE => placed.is_some_and(|(_, path)| path.starts_with("/v1/responses/")),
        _ => false,
    };
    if !served {
        let mut refused = reply::refusal(
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET, HEAD and POST are served",
        );
        let allowed = described::allowed(placed.map_or("", |(_, path)| path));
        if let Ok(allowed) = HeaderValue::try_from(allowed) {
            refused.headers_mut().insert(header::ALLOW, allowed);
        }
        return Err(refused);
    }
    let (slug, path) =
        placed.ok_or_else(|| reply::refusal(StatusCode::BAD_REQUEST, "malformed path"))?;
    if raw_path == format!("/t/{}", slug.unwrap_or_default()) {
        // The page's own files are named relative to it.
        let mut to = reply::error(
            StatusCode::PERMANENT_REDIRECT,
            "the address ends with a slash",
        );
        let target = HeaderValue::from_str(&format!("{raw_path}/"))
            .map_err(|_| reply::refusal(StatusCode::BAD_REQUEST, "malformed path"))?;
        to.headers_mut().insert(header::LOCATION, target);
        return Err(to);
    }
    // Host name and path that disagree name nobody.
    let hint = app
        .host
        .tenant_by_hints(host.tenant.map(|_| &*host.name), slug)
        .unwrap_or(TenantHint::Nobody);
    let ask = Ask {
        app: app.clone(),
        wire: wire.clone(),
        hint,
        origin: origin.map(Into::into),
        socket,
        front,
        vouched: vouched.map(Arc::new),
        admitted: admitted::Admitted::default(),
    };
    if request.headers().contains_key(header::UPGRADE) {
        return ws::upgrade::answer(ask, path, &mut request).map(Admitted::Socket);
    }
    let target = match request.uri().query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let uri = target
        .parse()
        .map_err(|_| reply::refusal(StatusCode::BAD_REQUEST, "malformed target"))?;
    let (mut parts, body) = request.into_parts();
    parts.uri = uri;
    parts.extensions.insert(ask);
    Ok(Admitted::Request(Request::from_parts(
        parts,
        Body::new(body),
    )))
}

/// The request as Tailscale brought it, and for a socket also whose it is; `None` for any other.
async fn brought(app: &App, wire: &Wire, request: &Request<Incoming>) -> Option<Front> {
    let tailscale = app.tailscale.as_ref()?;
    let mut front = tailscale.front(&wire.socket, request.headers())?;
    let asked = request.headers().contains_key(header::UPGRADE)
        && app.host.settings().gateway.tailscale_logins != TailscaleLogins::Nobody;
    if asked {
        front.identity = tailscale
            .identify(&wire.socket, front.client, request.headers())
            .await;
    }
    Some(front)
}

fn refused(why: Refused) -> Response<Body> {
    match why {
        Refused::BadHost => reply::refusal(StatusCode::BAD_REQUEST, "malformed Host"),
        Refused::UnknownHost => reply::refusal(
            StatusCode::MISDIRECTED_REQUEST,
            "this host name is not served here; add it to gateway.allowedHosts if it should be",
        ),
        Refused::Origin => reply::refusal(
            StatusCode::FORBIDDEN,
            "this origin is not allowed; add it to gateway.allowedOrigins if it should be",
        ),
        Refused::Forwarded => reply::refusal(
            StatusCode::FORBIDDEN,
            "forwarding headers from a peer that is not a configured proxy; name it in gateway.trustedProxies if it is one",
        ),
        Refused::BadForwarding => reply::refusal(
            StatusCode::BAD_REQUEST,
            "the proxy's X-Forwarded-For cannot be read: one line, addresses separated by commas",
        ),
    }
}

/// The one value of a header; an error when it is there twice or is not text.
fn text<B>(request: &Request<B>, name: header::HeaderName) -> Result<Option<String>, ()> {
    let mut values = request.headers().get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(|v| Some(v.to_owned())).map_err(|_| ()),
        (Some(_), Some(_)) => Err(()),
    }
}

/// Splits `/t/<slug>` off a path. `None` when the path is not canonical after one decoding.
fn place(path: &str) -> Option<(Option<&str>, &str)> {
    if !canonical(path) {
        return None;
    }
    let Some(rest) = path.strip_prefix("/t/") else {
        return Some((None, path));
    };
    let (slug, rest) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    let ok = !slug.is_empty()
        && slug.len() <= 63
        && slug
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if ok { Some((Some(slug), rest)) } else { None }
}

fn canonical(path: &str) -> bool {
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(raw) = segments.next() {
        let last = segments.peek().is_none();
        let Some(decoded) = decode(raw) else {
            return false;
        };
        let bad = |b: u8| b.is_ascii_control() || matches!(b, b'\\' | b'%');
        if (raw.is_empty() && !last)
            || decoded == "."
            || decoded == ".."
            || decoded.bytes().any(bad)
        {
            return false;
        }
        // A model name may hold a slash; nothing else may.
        if decoded.contains('/')
            && (!path.contains("/v1/models/")
                || decoded
                    .split('/')
                    .any(|s| s.is_empty() || s == "." || s == ".."))
        {
            return false;
        }
    }
    path.starts_with('/')
}

/// Percent-decodes once; `None` for malformed escapes or bytes that are not UTF-8.
pub(crate) fn decode(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(Cow::Borrowed(text));
    }
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        if b != b'%' {
            out.push(b);
            continue;
        }
        let hex = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
        let (high, low) = (hex(bytes.next())?, hex(bytes.next())?);
        out.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(out).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_one_spelling() {
        let good = [
            ("/", None, "/"),
            ("/rpc", None, "/rpc"),
            ("/t/acme/", Some("acme"), "/"),
            ("/t/acme", Some("acme"), "/"),
            ("/t/acme/v1/models", Some("acme"), "/v1/models"),
            (
                "/v1/models/gateway%2Fmain",
                None,
                "/v1/models/gateway%2Fmain",
            ),
            (
                "/channels/webhook/default/in%20a",
                None,
                "/channels/webhook/default/in%20a",
            ),
        ];
        for (path, slug, rest) in good {
            assert_eq!(place(path), Some((slug, rest)), "{path}");
        }
        let bad = [
            "",
            "x",
            "//",
            "/a//b",
            "/..",
            "/a/../b",
            "/%2e%2e/ok",
            "/%2E%2e/ok",
            "/a/%2e",
            "/a%2fb",
            "/a%5cb",
            "/a\\b",
            "/a%00",
            "/a%0a",
            "/%252e%252e/ok",
            "/a%",
            "/a%4",
            "/a%zz",
            "/a%ff",
            "/t/",
            "/t//",
            "/t/Acme/",
            "/t/a_b/",
            "/t/%61cme/",
            "/t/acme/../beta/",
            "/v1/models/..%2Fx",
            "/v1/models/a%2F",
        ];
        for path in bad {
            assert_eq!(place(path), None, "{path}");
        }
    }
}
