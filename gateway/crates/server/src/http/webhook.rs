//! `/channels/<kind>/<account>/<route>`: requests of platforms, handed to the core with their raw bytes. Who sent them is checked
//! there, before any guest sees them; here only their size, their pace and their share of memory are kept.

use axum::{
    Extension, Router,
    body::Body,
    extract::{Path, Request},
    routing::get,
};
use gateway_core::{
    channel::{WebhookAnswer, WebhookHttp},
    host::TenantHint,
};
use http::{HeaderName, HeaderValue, Response, StatusCode, header};

use super::{Ask, body, reply};
use crate::limits::MAX_WEBHOOK_BODY_BYTES;

/// What a guest answers is shown with no rights at all, whatever it claims to be.
const GUEST_CSP: &str = "default-src 'none'; frame-ancestors 'none'; sandbox";

/// `/channels/…`.
pub(crate) fn routes() -> Router {
    Router::new().route(
        "/channels/{kind}/{account}/{route}",
        get(webhook).post(webhook),
    )
}

async fn webhook(
    Extension(ask): Extension<Ask>,
    Path(at): Path<(String, String, String)>,
    request: Request,
) -> Response<Body> {
    let (kind, account, route) = &at;
    let tenant = match &ask.hint {
        TenantHint::Named(tenant) => Some(tenant.clone()),
        TenantHint::Unnamed => ask.app.host.main_tenant(),
        TenantHint::Nobody => None,
    };
    if tenant.as_ref().is_some_and(|t| t.hold().is_some()) {
        // Platforms try again later.
        return reply::error(StatusCode::SERVICE_UNAVAILABLE, "the tenant takes no work");
    }
    let found = tenant
        .as_ref()
        .and_then(|t| t.channels())
        .and_then(|c| Some((c, c.webhook_limit(kind, account, route)?)));
    let Some((channels, limit)) = found else {
        return answer(WebhookAnswer::not_found());
    };
    let (parts, content) = request.into_parts();
    let mut held = ask.app.preauth_bytes.hold();
    let content = match body::read(
        &ask.app.limits,
        content,
        limit.min(MAX_WEBHOOK_BODY_BYTES),
        Some(&mut held),
    )
    .await
    {
        Ok(content) => content,
        Err(fault) => return fault.answer(),
    };
    let headers = parts
        .headers
        .iter()
        .filter_map(|(name, value)| {
            Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()))
        })
        .collect();
    let request = WebhookHttp {
        method: parts.method.as_str().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers,
        body: content.into(),
        peer: ask.ip(),
    };
    answer(channels.webhook(kind, account, route, request).await)
}

fn answer(from: WebhookAnswer) -> Response<Body> {
    let status = StatusCode::from_u16(from.status)
        .ok()
        .filter(|s| !s.is_informational())
        .unwrap_or(StatusCode::BAD_GATEWAY);
    let mut out = Response::new(Body::from(from.body));
    *out.status_mut() = status;
    let headers = out.headers_mut();
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(GUEST_CSP),
    );
    for (name, value) in from.headers {
        let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value))
        else {
            continue;
        };
        if may_set(&name) {
            headers.insert(name, value);
        }
    }
    out
}

/// Headers that a guest may set: those that describe its answer, none that speak for the gateway.
fn may_set(name: &HeaderName) -> bool {
    let own = reply::EVERYWHERE.iter().any(|(own, _)| name == *own);
    *name == header::CONTENT_TYPE
        || *name == header::RETRY_AFTER
        || *name == header::CONTENT_LANGUAGE
        || (name.as_str().starts_with("x-")
            && !own
            && !crate::guard::FORWARDING.contains(&name.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Covers: B9.
    #[test]
    fn a_guest_cannot_speak_for_the_gateway() {
        let headers = [
            "set-cookie",
            "location",
            "content-security-policy",
            "x-content-type-options",
            "transfer-encoding",
            "connection",
            "server",
            "access-control-allow-origin",
        ];
        let from = WebhookAnswer {
            status: 200,
            headers: headers.map(|h| (h.to_owned(), "evil".to_owned())).to_vec(),
            body: b"<script>".to_vec(),
        };
        let out = answer(from);
        assert!(out.headers().values().all(|v| v != "evil"));
        assert!(
            out.headers()[header::CONTENT_SECURITY_POLICY]
                .to_str()
                .is_ok_and(|v| v.contains("sandbox"))
        );
        assert_eq!(
            answer(WebhookAnswer {
                status: 101,
                headers: Vec::new(),
                body: Vec::new()
            })
            .status(),
            StatusCode::BAD_GATEWAY
        );
    }
}
