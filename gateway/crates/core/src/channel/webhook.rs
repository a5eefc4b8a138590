//! Webhook requests: verified here, then given to the guest, then answered after the commit.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use gateway_wasm::{Action, CallError, GuestEvent, Headers, HostError, HttpAnswer, WebhookRequest};
use tokio::sync::oneshot;

use super::account::Account;
use super::limits::HOLDS_MAX_PER_ACCOUNT;
use super::verify::{Refusal, Signed, verify};
use crate::auth::limiter::CredentialClass;
use crate::tenant::Tenant;
use crate::trace::{Stage, TraceParent, stage_from};

/// An HTTP request for a channel account, as it came.
#[derive(Debug, Clone)]
pub struct WebhookHttp {
    /// Method, upper case.
    pub method: String,
    /// Without `?`.
    pub query: String,
    /// Names in lower case, in order.
    pub headers: Headers,
    /// Raw bytes; the caller has kept them within [`super::Channels::webhook_limit`].
    pub body: Vec<u8>,
    /// Who sent it.
    pub peer: IpAddr,
}

/// The answer to a webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookAnswer {
    /// Status.
    pub status: u16,
    /// Names and values; checked by whoever writes them.
    pub headers: Headers,
    /// Body.
    pub body: Vec<u8>,
}

impl WebhookAnswer {
    fn plain(status: u16, text: &str) -> Self {
        let body = serde_json::json!({"ok": status < 400, "error": text})
            .to_string()
            .into_bytes();
        Self {
            status,
            headers: vec![("content-type".into(), "application/json".into())],
            body,
        }
    }

    fn wait(status: u16, text: &str, seconds: u64) -> Self {
        let mut answer = Self::plain(status, text);
        answer
            .headers
            .push(("retry-after".into(), seconds.max(1).to_string()));
        answer
    }

    /// The one answer for whatever is not there.
    #[must_use]
    pub fn not_found() -> Self {
        Self::plain(404, "not found")
    }
}

impl From<HttpAnswer> for WebhookAnswer {
    fn from(answer: HttpAnswer) -> Self {
        Self {
            status: answer.status,
            headers: answer.headers,
            body: answer.body,
        }
    }
}

impl Signed for WebhookHttp {
    fn single_header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(key, _)| key == name);
        let first = found.next()?;
        found.next().is_none().then_some(first.1.as_str())
    }

    fn raw_body(&self) -> &[u8] {
        &self.body
    }
}

/// Keeps a hold's place in the map for as long as its request lives.
struct HoldPlace<'a> {
    account: &'a Account,
    handle: &'a str,
}

impl Drop for HoldPlace<'_> {
    fn drop(&mut self) {
        self.account.remotes.lock().remove(self.handle);
        self.account.release_hold(self.handle);
    }
}

impl Account {
    /// Serves one request.
    pub(super) async fn webhook(
        self: &Arc<Self>,
        tenant: &Arc<Tenant>,
        route: &str,
        request: WebhookHttp,
    ) -> WebhookAnswer {
        let Some((ready, rules)) = self
            .ready
            .as_ref()
            .and_then(|ready| Some((ready, ready.routes.get(route)?)))
        else {
            return WebhookAnswer::not_found();
        };
        if !self.is_running() {
            return WebhookAnswer::not_found();
        }
        // The place is taken before anything is compared, so that parallel guesses count as well.
        let now = tenant.clock().monotonic_ms();
        let place = match self
            .limiter
            .reserve(request.peer, CredentialClass::Webhook, now)
        {
            Ok(place) => place,
            Err(wait_ms) => {
                return WebhookAnswer::wait(
                    429,
                    "too many refused requests",
                    wait_ms.div_ceil(1000),
                );
            }
        };
        let secret_of = |name: &str| self.secret(name).map(gateway_config::Secret::expose);
        let verified = match verify(&rules.rules, secret_of, tenant.now_ms(), request) {
            Ok(verified) => {
                place.succeeded();
                verified
            }
            Err(Refusal::NoVerifier) => {
                place.release();
                return WebhookAnswer::not_found();
            }
            Err(Refusal::Bad) => {
                place.failed();
                return WebhookAnswer::plain(401, "the signature or secret is missing or wrong");
            }
        };
        let (request, verified_by) = verified.into_parts();
        if !rules.methods.contains(&request.method) {
            return WebhookAnswer::plain(405, "this route does not take this method");
        }
        let handle = tenant.new_id().replace('-', "");
        let remote = request
            .headers
            .iter()
            .find(|(name, _)| name == "traceparent")
            .and_then(|(_, value)| TraceParent::parse(value));
        stage_from(tenant, Stage::Verify, &handle, None, remote);
        let (answered, mut answer) = oneshot::channel();
        {
            let mut holds = self.holds.lock();
            if holds.len() >= HOLDS_MAX_PER_ACCOUNT {
                return WebhookAnswer::wait(503, "too many requests wait for an answer", 1);
            }
            // Before the guest runs: the reply may be there before its `hold` action is.
            holds.insert(handle.clone(), answered);
            if let Some(remote) = remote {
                // As many as there are holds, at most.
                self.remotes.lock().insert(handle.clone(), remote);
            }
        }
        let _place = HoldPlace {
            account: self,
            handle: &handle,
        };
        let proofs: Vec<&str> = rules
            .rules
            .iter()
            .map(|rule| match rule {
                super::verify::VerifyRule::HeaderEquals { header, .. }
                | super::verify::VerifyRule::HmacSha256 { header, .. } => header.as_str(),
            })
            .collect();
        let event = GuestEvent::Webhook(WebhookRequest {
            handle: handle.clone(),
            route: route.to_owned(),
            method: request.method,
            query: request.query,
            // A header that holds the secret itself must not reach the guest.
            headers: request
                .headers
                .into_iter()
                .filter(|(name, _)| !proofs.contains(&name.as_str()))
                .collect(),
            body: request.body,
            verified_by: verified_by.to_owned(),
        });
        let began = std::time::Instant::now();
        let outcome = ready.guest().event(event).await;
        tenant
            .metrics()
            .guest_event_ended(&outcome, began.elapsed());
        match outcome {
            Ok(actions) => self.answer(&handle, actions, &mut answer).await,
            Err(error) => self.refuse(tenant, &error),
        }
    }

    async fn answer(
        &self,
        handle: &str,
        actions: Vec<Action>,
        answer: &mut oneshot::Receiver<HttpAnswer>,
    ) -> WebhookAnswer {
        for action in actions {
            match action {
                Action::Respond { handle: of, answer } if of == handle => return answer.into(),
                Action::Hold {
                    handle: of,
                    timeout_ms,
                } if of == handle => {
                    return match tokio::time::timeout(
                        Duration::from_millis(u64::from(timeout_ms)),
                        answer,
                    )
                    .await
                    {
                        Ok(Ok(answer)) => answer.into(),
                        // The message was taken and starts no run (a repeat, or a sender who may not talk).
                        Ok(Err(_)) => WebhookAnswer {
                            status: 202,
                            headers: vec![("content-type".into(), "application/json".into())],
                            body: br#"{"ok":true,"reply":null}"#.to_vec(),
                        },
                        Err(_) => {
                            WebhookAnswer::plain(504, "no reply in time; the message was taken")
                        }
                    };
                }
                Action::Respond { .. } | Action::Hold { .. } => {}
            }
        }
        WebhookAnswer {
            status: 200,
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    fn refuse(&self, tenant: &Tenant, error: &CallError) -> WebhookAnswer {
        match error {
            CallError::Busy { retry_after_ms } => {
                WebhookAnswer::wait(503, "busy; try again", retry_after_ms.div_ceil(1000))
            }
            CallError::Stopped => WebhookAnswer::wait(503, "the account is stopped", 60),
            CallError::Quarantined(_) => {
                WebhookAnswer::wait(503, "the channel is out of order", 60)
            }
            CallError::Commit(HostError::Unavailable(_)) => {
                WebhookAnswer::wait(503, "not stored; try again", 1)
            }
            _ => {
                self.failed(tenant, &error.to_string());
                WebhookAnswer::plain(500, "the channel failed on this request")
            }
        }
    }

    /// Lets go of a held request that will get no reply.
    pub(super) fn release_hold(&self, handle: &str) {
        self.holds.lock().remove(handle);
    }
}
