//! Answers: one place for the security headers, for error bodies and for refusals that never reach a handler.

use axum::body::Body;
use bytes::Bytes;
use gateway_protocol::error::RpcError;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

/// Policy of the built-in page: its own files and its own socket, nothing else.
pub(crate) const PAGE_CSP: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'";
const DATA_CSP: &str = "default-src 'none'; frame-ancestors 'none'";

/// Headers that every answer carries, whatever it is. Nothing here names the program or its version.
pub(crate) const EVERYWHERE: [(&str, &str); 6] = [
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    (
        "permissions-policy",
        "camera=(), microphone=(), geolocation=()",
    ),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cache-control", "no-store"),
];

/// Adds the common headers where the answer has not set its own.
pub(crate) fn secure(headers: &mut HeaderMap) {
    for (name, value) in EVERYWHERE {
        headers
            .entry(HeaderName::from_static(name))
            .or_insert(HeaderValue::from_static(value));
    }
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static(DATA_CSP));
}

fn error_body(status: u16, message: &str) -> Bytes {
    let kind = match status {
        401 => "unauthorized",
        403 => "forbidden",
        404 => "not_found",
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        _ => "server_error",
    };
    Bytes::from(serde_json::json!({ "error": { "message": message, "type": kind } }).to_string())
}

/// A JSON answer of given bytes.
pub(crate) fn json(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    let mut out = Response::new(Body::from(body.into()));
    *out.status_mut() = status;
    out.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    out
}

/// An error in the shape of the OpenAI API, which is the shape of all our HTTP errors.
pub(crate) fn error(status: StatusCode, message: &str) -> Response<Body> {
    json(status, error_body(status.as_u16(), message))
}

/// An error after which the connection is closed.
pub(crate) fn refusal(status: StatusCode, message: &str) -> Response<Body> {
    let mut out = error(status, message);
    out.headers_mut()
        .insert(header::CONNECTION, HeaderValue::from_static("close"));
    out
}

/// An [`RpcError`] as an HTTP answer: status and `Retry-After` from its row in the error table.
pub(crate) fn rpc_error(e: &RpcError) -> Response<Body> {
    let row = e.detail.row();
    let status = StatusCode::from_u16(row.http).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let kind = match status.as_u16() {
        401 => "unauthorized",
        403 => "forbidden",
        404 => "not_found",
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        _ => "server_error",
    };
    let body = serde_json::json!({ "error": { "message": e.message, "type": kind, "code": row.name, "param": null } });
    let mut out = json(status, body.to_string());
    if status == StatusCode::UNAUTHORIZED {
        out.headers_mut()
            .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if let Some(ms) = e.retry_after_ms {
        out.headers_mut().insert(
            header::RETRY_AFTER,
            HeaderValue::from(ms.div_ceil(1_000).max(1)),
        );
    }
    out
}

/// Sent to a connection that there is no place for.
pub(crate) const TOO_BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: 1\r\nconnection: close\r\n\r\n";

/// Answer to plain HTTP on a port that speaks TLS.
pub(crate) const WANTS_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: 62\r\nconnection: close\r\n\r\nthis port speaks TLS: write https:// (wss://) in the address\r\n";
