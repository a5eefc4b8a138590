//! `/hooks/<name>` (or another first part that the configuration names): requests of programs that hold the hooks' token.
//! Who asks is checked in the core; here only size, pace and the share of memory are kept.

use axum::{
    Extension, Router,
    body::Body,
    extract::{Path, Request},
    routing::any,
};
use gateway_core::{
    hooks::{HookAnswer, HookBody, HookRequest, body_limit, serve},
    host::TenantHint,
};
use http::{HeaderValue, Method, Response, StatusCode, header};

use super::{Ask, auth, body, reply};

/// `/<root>/<name>`. More specific addresses win over this one.
pub(crate) fn routes() -> Router {
    Router::new().route("/{root}/{name}", any(hook))
}

async fn hook(
    Extension(ask): Extension<Ask>,
    Path(at): Path<(String, String)>,
    request: Request,
) -> Response<Body> {
    let nothing = || reply::error(StatusCode::NOT_FOUND, "nothing is here");
    let (root, name) = at;
    let tenant = match &ask.hint {
        TenantHint::Named(tenant) => Some(tenant.clone()),
        TenantHint::Unnamed => ask.app.host.main_tenant(),
        TenantHint::Nobody => None,
    };
    let Some((tenant, limit)) = tenant.and_then(|t| {
        let limit = body_limit(&t, &root)?;
        Some((t, limit))
    }) else {
        return nothing();
    };
    if request.method() != Method::POST {
        return reply::error(StatusCode::METHOD_NOT_ALLOWED, "a hook is a POST request");
    }
    let (parts, content) = request.into_parts();
    let mut held = ask.app.preauth_bytes.hold();
    let content = match body::read(&ask.app.limits, content, limit, Some(&mut held)).await {
        Ok(content) => content,
        Err(fault) => return fault.answer(),
    };
    let token_in_query = parts.uri.query().is_some_and(|query| {
        query
            .split('&')
            .any(|pair| pair.split('=').next() == Some("token"))
    });
    let mut keys = parts.headers.get_all("idempotency-key").iter();
    let idempotency_key = match (keys.next(), keys.next()) {
        (None, _) => None,
        // Given twice, or no text: an empty key is refused with a text.
        (Some(key), None) => Some(key.to_str().unwrap_or_default().to_owned()),
        (Some(_), Some(_)) => Some(String::new()),
    };
    let bearer = auth::bearer(&parts.headers).or_else(|| {
        parts
            .headers
            .get("x-openclaw-token")
            .and_then(|value| value.to_str().ok())
    });
    let request = HookRequest {
        name,
        bearer: bearer.map(str::to_owned),
        token_in_query,
        is_json: auth::is_json(&parts.headers),
        idempotency_key,
        peer: ask.ip(),
        traceparent: auth::traceparent(&parts.headers),
        body: content.into(),
    };
    answer(serve(&tenant, request).await)
}

fn answer(from: HookAnswer) -> Response<Body> {
    let status = StatusCode::from_u16(from.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut out = match from.body {
        HookBody::Json(value) => reply::json(status, value.to_string()),
        HookBody::Text(text) => {
            let mut out = Response::new(Body::from(text));
            *out.status_mut() = status;
            out.headers_mut().insert(
                header::CONTENT_TYPE,
                HeaderValue::from_static("text/plain; charset=utf-8"),
            );
            out
        }
    };
    if let Some(seconds) = from.retry_after_s {
        out.headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if status == StatusCode::UNAUTHORIZED {
        out.headers_mut()
            .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    out
}
