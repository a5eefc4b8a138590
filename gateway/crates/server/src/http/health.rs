//! Liveness and readiness. Without a credential: two words, the same for everybody; an operator is told why.

use axum::{Extension, Router, body::Body, routing::get};
use gateway_core::cx::Surface;
use gateway_protocol::scope::Scope;
use http::{HeaderMap, Response, StatusCode, header};

use super::{Ask, auth, reply};

/// `/healthz` and `/readyz`, each under the short name too.
pub(crate) fn routes() -> Router {
    Router::new()
        .route("/health", get(live))
        .route("/healthz", get(live))
        .route("/ready", get(ready))
        .route("/readyz", get(ready))
}

async fn live() -> Response<Body> {
    reply::json(StatusCode::OK, r#"{"ok":true,"status":"live"}"#)
}

async fn ready(Extension(ask): Extension<Ask>, headers: HeaderMap) -> Response<Body> {
    let found = ask.app.host.readiness();
    let status = match found.is_ready() {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    if !headers.contains_key(header::AUTHORIZATION) {
        return match found.is_ready() {
            true => reply::json(status, r#"{"ready":true}"#),
            false => reply::json(status, r#"{"ready":false}"#),
        };
    }
    let caller = match auth::caller(&ask, &headers, Surface::JsonRpcHttp, "probe") {
        Ok((_, caller)) => caller,
        Err(refused) => return refused,
    };
    if !caller.scopes.allows(Scope::Read) {
        return reply::error(StatusCode::FORBIDDEN, "this needs the scope operator.read");
    }
    let failing: Vec<&str> = found.reasons.iter().map(|r| r.as_str()).collect();
    let shared = ask.app.host.shared();
    let body = serde_json::json!({
        "ready": found.is_ready(),
        "failing": failing,
        "uptimeMs": shared.clock.now_ms().saturating_sub(shared.started_ms).max(0),
        "commitAgeMs": found.commit_age_ms,
        "eventLoop": { "ageMs": found.tick_age_ms },
    });
    reply::json(status, body.to_string())
}
