//! A credential lets a request in only as long as it lasts: one that ends cuts off what it let in, within a moment.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use gateway_core::{auth::Proof, tenant::Tenant};
use http::{HeaderValue, Response, StatusCode, header};
use http_body::Frame;
use tokio::sync::SetOnce;

use super::reply;
use crate::{app::App, limits::ENDED_CREDENTIAL_GRACE_MS};

const ENDED: &str = "unauthorized: the credential of this request has ended";

/// By whose credential a request was let in; filled when that is known.
#[derive(Clone, Default)]
pub(crate) struct Admitted(Arc<SetOnce<(Arc<Tenant>, Proof)>>);

impl Admitted {
    /// Notes what let the request in.
    pub(crate) fn by(&self, tenant: &Arc<Tenant>, proof: Proof) {
        let _ = self.0.set((tenant.clone(), proof));
    }

    /// Ends when the credential that let the request in has ended; never for a request that none let in.
    async fn ended(&self, app: &App) {
        let mut changes = app.host.credential_changes();
        let (tenant, proof) = self.0.wait().await;
        while app.host.still_admits(tenant, proof) {
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Drives the answer of a request for as long as it may be answered, and a stream of events likewise.
    pub(crate) async fn guard(
        self,
        app: &Arc<App>,
        answer: impl Future<Output = Response<Body>>,
    ) -> Response<Body> {
        tokio::pin!(answer);
        let answer = tokio::select! {
            biased;
            answer = &mut answer => answer,
            () = self.ended(app) => {
                // Whoever changes its own credential is told that it worked.
                let grace = Duration::from_millis(ENDED_CREDENTIAL_GRACE_MS);
                match tokio::time::timeout(grace, answer).await {
                    Ok(answer) => answer,
                    Err(_) => return refused(),
                }
            }
        };
        let whole = http_body::Body::size_hint(answer.body()).exact().is_some();
        if whole || self.0.get().is_none() {
            return answer;
        }
        let app = app.clone();
        let ended = async move { self.ended(&app).await }.boxed();
        answer.map(|body| {
            Body::new(Guarded {
                body: Some(body),
                ended,
            })
        })
    }
}

fn refused() -> Response<Body> {
    let mut refused = reply::error(StatusCode::UNAUTHORIZED, ENDED);
    refused
        .headers_mut()
        .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    refused
}

/// A stream of events that ends with its credential, and says so.
struct Guarded {
    body: Option<Body>,
    ended: BoxFuture<'static, ()>,
}

impl http_body::Body for Guarded {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let Some(body) = &mut this.body else {
            return Poll::Ready(None);
        };
        if this.ended.poll_unpin(cx).is_ready() {
            // Dropped at once, and with it the run that it follows.
            this.body = None;
            let last = serde_json::json!({ "error": { "message": ENDED, "type": "unauthorized" } });
            let frame = Frame::data(Bytes::from(format!("data: {last}\n\n")));
            return Poll::Ready(Some(Ok(frame)));
        }
        Pin::new(body).poll_frame(cx)
    }
}
