//! Liveness and readiness, for probes that have no credential: two words, the same for everybody.

use axum::{Extension, Router, body::Body, routing::get};
use gateway_core::host::TenantHint;
use http::{Response, StatusCode};

use super::{Ask, reply};

/// `/healthz` and `/readyz`.
pub(crate) fn routes() -> Router {
    Router::new()
        .route(
            "/healthz",
            get(|| async { reply::json(StatusCode::OK, r#"{"ok":true}"#) }),
        )
        .route("/readyz", get(ready))
}

/// Of the tenant that the address names, else of `main`.
async fn ready(Extension(ask): Extension<Ask>) -> Response<Body> {
    let tenant = match &ask.hint {
        TenantHint::Named(tenant) => Some(tenant.clone()),
        TenantHint::Unnamed | TenantHint::Nobody => ask.app.host.main_tenant(),
    };
    match ask.app.failing(tenant.as_deref()) {
        None => reply::json(StatusCode::OK, r#"{"ready":true}"#),
        Some(what) => reply::json(
            StatusCode::SERVICE_UNAVAILABLE,
            format!(r#"{{"ready":false,"failing":["{what}"]}}"#),
        ),
    }
}
