//! `GET /openapi.json`: the description of these addresses, for those who may read.

use axum::{Extension, Router, body::Body, extract::Request, routing::get};
use gateway_core::cx::Surface;
use gateway_protocol::{error::RpcError, scope::Scope};
use http::{Response, StatusCode};

use super::{Ask, auth, reply};

/// `/openapi.json`.
pub(crate) fn routes() -> Router {
    Router::new().route("/openapi.json", get(describe))
}

async fn describe(Extension(ask): Extension<Ask>, request: Request) -> Response<Body> {
    let caller = match auth::caller(&ask, request.headers(), Surface::Http, "backend") {
        Ok((_, caller)) => caller,
        Err(refusal) => return refusal,
    };
    if !caller.scopes.allows(Scope::Read) {
        return reply::rpc_error(&RpcError::missing_scope(Scope::Read));
    }
    reply::json(StatusCode::OK, crate::openapi::document().to_string())
}
