//! Embeddings: one request to `POST {base}/embeddings`, never sent again. The answer is passed on as it came, once it is
//! known to be one.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use gateway_egress::{EgressError, EgressRequest, EgressStream, ErrorKind, Method, Timeouts};
use serde::Deserialize;
use serde::de::IgnoredAny;
use tokio::time::{Instant, timeout_at};

use super::{Fault, OpenAiBackend, header, limits, wire};
use crate::agent::{TurnError, TurnErrorKind};

/// What an answer has to have.
#[derive(Deserialize)]
struct Shape {
    #[allow(dead_code)]
    data: Vec<IgnoredAny>,
}

impl OpenAiBackend {
    pub(super) async fn embeddings(&self, body: Bytes) -> Result<Bytes, TurnError> {
        let total = Duration::from_millis(limits::EMBEDDINGS_MAX_MS);
        let until = Instant::now() + total;
        let done = match timeout_at(until, self.ask_embeddings(body, total)).await {
            Ok(done) => done,
            Err(_) => Err(Fault::new(
                TurnErrorKind::Timeout,
                format!(
                    "{} took longer than {} ms",
                    self.embeddings_url,
                    limits::EMBEDDINGS_MAX_MS
                ),
            )),
        };
        match done {
            Ok(answer) => {
                *self.breaker.lock() = super::Breaker::default();
                Ok(answer)
            }
            Err(fault) => {
                if fault.counts {
                    self.breaker_failure();
                }
                Err(TurnError {
                    kind: fault.kind,
                    message: fault.message,
                    partial_text: String::new(),
                    messages: Vec::new(),
                    usage: gateway_protocol::content::Usage::default(),
                })
            }
        }
    }

    async fn ask_embeddings(&self, body: Bytes, total: Duration) -> Result<Bytes, Fault> {
        let closed = |_| Fault::new(TurnErrorKind::Aborted, "the gateway is stopping");
        let _place = self.places.acquire().await.map_err(closed)?;
        self.breaker_check()?;
        let mut request = EgressRequest::new(
            self.partition.clone(),
            Method::POST,
            self.embeddings_url.clone(),
            self.policy.clone(),
        );
        request.headers = self.headers.clone();
        request.headers.insert(
            "accept",
            gateway_egress::HeaderValue::from_static("application/json"),
        );
        request.body = body;
        request.deadline = total;
        request.timeouts = Timeouts {
            connect: Timeouts::default().connect.min(self.first_byte),
            head: self.first_byte,
            idle: self.idle,
        };
        request.min_rate = None;
        request.max_response_bytes = limits::UPSTREAM_RESPONSE_MAX_BYTES;
        let sent = AtomicBool::new(false);
        let mut stream = self
            .egress
            .stream(request, &sent)
            .await
            .map_err(|e| failed(&e))?;
        if stream.status != 200 {
            return Err(self.refused_embeddings(stream).await);
        }
        let mut answer = Vec::new();
        while let Some(piece) = stream.next().await {
            answer.extend_from_slice(&piece.map_err(|e| failed(&e))?);
        }
        if serde_json::from_slice::<Shape>(&answer).is_err() {
            return Err(Fault::new(
                TurnErrorKind::Upstream,
                format!(
                    "{} sent something that is not a list of embeddings",
                    self.embeddings_url
                ),
            ));
        }
        Ok(Bytes::from(answer))
    }

    async fn refused_embeddings(&self, stream: EgressStream) -> Fault {
        let status = stream.status;
        let after = wire::retry_after_ms(&|name| header(&stream, name));
        let told = self.told(stream).await;
        let url = &self.embeddings_url;
        match status {
            429 => Fault::new(
                TurnErrorKind::RateLimited {
                    retry_after_ms: after,
                },
                format!("{url} wants fewer requests (429){told}"),
            ),
            // The caller's request was wrong, and only that is its business.
            400 | 413 | 422 => Fault::new(
                TurnErrorKind::Refused,
                format!("{url} refused the request ({status}){told}"),
            ),
            // Servers repeat parts of the key in this one.
            401 | 403 => Fault {
                counts: false,
                ..Fault::new(
                    TurnErrorKind::Upstream,
                    format!("{url} does not take the key ({status}); check apiKey"),
                )
            },
            404 => Fault {
                counts: false,
                ..Fault::new(
                    TurnErrorKind::Upstream,
                    format!(
                        "{url} has no such model or makes no embeddings (404){told}; check embeddingModel"
                    ),
                )
            },
            _ => Fault::new(
                TurnErrorKind::Upstream,
                format!("{url} failed ({status}){told}"),
            ),
        }
    }
}

fn failed(e: &EgressError) -> Fault {
    let kind = match e.kind {
        ErrorKind::TooLarge => TurnErrorKind::TooLarge,
        kind if kind.is_timeout() => TurnErrorKind::Timeout,
        _ => TurnErrorKind::Upstream,
    };
    Fault {
        counts: !matches!(e.kind, ErrorKind::Busy | ErrorKind::TooLarge),
        ..Fault::new(kind, e.message.clone())
    }
}
