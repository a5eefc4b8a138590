//! Liveness and readiness. Without a credential: in which time of its life the gateway is, the same for everybody; an operator is
//! told why.

use axum::{Extension, Router, body::Body, routing::get};
use gateway_core::cx::Surface;
use gateway_protocol::scope::Scope;
use http::{HeaderMap, Response, StatusCode, header};
use serde_json::json;

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

/// A stranger learns of the process and of `main`, whose operator is the host's; how another tenant is, its operators alone.
async fn ready(Extension(ask): Extension<Ask>, headers: HeaderMap) -> Response<Body> {
    let app = &ask.app;
    let found = app.host.readiness();
    let status = |ready| match ready {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    if !headers.contains_key(header::AUTHORIZATION) {
        let time = app.failing(app.host.main_tenant().as_deref());
        let ready = time.is_none() && found.is_ready();
        let body = match time {
            Some(time) => json!({ "ready": ready, "failing": [time] }),
            None => json!({ "ready": ready }),
        };
        return reply::json(status(ready), body.to_string());
    }
    let (known, caller) = match auth::caller(&ask, &headers, Surface::JsonRpcHttp, "probe") {
        Ok(found) => found,
        Err(refused) => return refused,
    };
    if !caller.scopes.allows(Scope::Read) {
        return reply::error(StatusCode::FORBIDDEN, "this needs the scope operator.read");
    }
    let faults = found.reasons.iter().filter(|reason| reason.is_fault());
    let failing: Vec<&str> = app
        .failing(Some(&known.tenant))
        .into_iter()
        .chain(faults.map(|reason| reason.as_str()))
        .collect();
    let shared = app.host.shared();
    let body = json!({
        "ready": failing.is_empty(),
        "failing": failing,
        "uptimeMs": shared.clock.now_ms().saturating_sub(shared.started_ms).max(0),
        "commitAgeMs": found.commit_age_ms,
        "eventLoop": { "ageMs": found.tick_age_ms },
    });
    reply::json(status(failing.is_empty()), body.to_string())
}
