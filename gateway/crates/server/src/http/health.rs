//! Liveness and readiness, for probes that have no credential: two words, the same for everybody.

use axum::{Extension, Router, body::Body, routing::get};
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

async fn ready(Extension(ask): Extension<Ask>) -> Response<Body> {
    if ask.app.ready() {
        reply::json(StatusCode::OK, r#"{"ready":true}"#)
    } else {
        reply::json(StatusCode::SERVICE_UNAVAILABLE, r#"{"ready":false}"#)
    }
}
