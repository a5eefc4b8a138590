//! Messages between gateways that share the work (one gateway per tenant owns it, any gateway may hold its sockets).
//!
//! Today there is the in-process form. A later form over an engine has to pass the same [`conformance`] suite.
//! The bus is *not* durable: what must not be lost goes through [`crate::intake::Intake`].

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::limits::{BUS_MESSAGE_MAX_BYTES, BUS_QUEUE_MAX_MESSAGES, BUS_SUBSCRIPTIONS_MAX};

/// A subject: tenant-scoped address of messages, dot separated, no wildcards.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Subject(Arc<str>);

impl Subject {
    /// The subject `name` of a tenant. Two tenants never share a subject.
    #[must_use]
    pub fn tenant(tenant: &gateway_store::TenantId, name: &str) -> Self {
        Self(format!("t.{}.{name}", tenant.as_str()).into())
    }

    #[cfg(test)]
    fn raw(name: &str) -> Self {
        Self(name.into())
    }
}

/// Why a bus operation failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// The message is longer than [`BUS_MESSAGE_MAX_BYTES`].
    #[error("bus message too large")]
    TooLarge,
    /// There are too many subscriptions.
    #[error("too many bus subscriptions")]
    Full,
    /// Nobody answers on the subject.
    #[error("nobody answers on this subject")]
    NoResponder,
    /// The bus was closed or the answerer went away.
    #[error("bus closed")]
    Closed,
}

/// A message as a subscriber gets it.
pub struct BusMessage {
    /// Its bytes.
    pub payload: Bytes,
    /// Where an answer goes, for a request.
    pub reply: Option<tokio::sync::oneshot::Sender<Bytes>>,
}

impl std::fmt::Debug for BusMessage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "BusMessage({} bytes, reply={})",
            self.payload.len(),
            self.reply.is_some()
        )
    }
}

/// A subscription: messages in the order they were published. Ends (`None`) when its reader was too slow or the bus closed.
#[derive(Debug)]
pub struct Subscription {
    rx: mpsc::Receiver<BusMessage>,
}

impl Subscription {
    /// The next message.
    pub async fn next(&mut self) -> Option<BusMessage> {
        self.rx.recv().await
    }
}

/// Publish/subscribe and request/reply between gateways.
pub trait Bus: Send + Sync + 'static {
    /// Gives `payload` to each subscription of `subject` that exists now; at most once each.
    fn publish<'a>(
        &'a self,
        subject: &'a Subject,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<(), BusError>>;
    /// Starts a subscription; messages published after it returned are seen.
    fn subscribe<'a>(
        &'a self,
        subject: &'a Subject,
    ) -> BoxFuture<'a, Result<Subscription, BusError>>;
    /// Asks one subscriber and waits for its answer (the caller sets the deadline by dropping the future).
    fn request<'a>(
        &'a self,
        subject: &'a Subject,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, BusError>>;
}

/// The bus of a single process.
#[derive(Debug, Default)]
pub struct InProcessBus {
    subs: Mutex<HashMap<Subject, Vec<mpsc::Sender<BusMessage>>>>,
}

impl InProcessBus {
    /// A bus without subscriptions.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Bus for InProcessBus {
    fn publish<'a>(
        &'a self,
        subject: &'a Subject,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<(), BusError>> {
        Box::pin(async move {
            if payload.len() > BUS_MESSAGE_MAX_BYTES {
                return Err(BusError::TooLarge);
            }
            let mut subs = self.subs.lock();
            if let Some(list) = subs.get_mut(subject) {
                // A full or closed subscription ends: its reader sees the end instead of a hole.
                list.retain(|tx| {
                    tx.try_send(BusMessage {
                        payload: payload.clone(),
                        reply: None,
                    })
                    .is_ok()
                });
                if list.is_empty() {
                    subs.remove(subject);
                }
            }
            Ok(())
        })
    }

    fn subscribe<'a>(
        &'a self,
        subject: &'a Subject,
    ) -> BoxFuture<'a, Result<Subscription, BusError>> {
        Box::pin(async move {
            let mut subs = self.subs.lock();
            let mut count = 0;
            subs.retain(|_, list| {
                list.retain(|tx| !tx.is_closed());
                count += list.len();
                !list.is_empty()
            });
            if count >= BUS_SUBSCRIPTIONS_MAX {
                return Err(BusError::Full);
            }
            let (tx, rx) = mpsc::channel(BUS_QUEUE_MAX_MESSAGES);
            subs.entry(subject.clone()).or_default().push(tx);
            Ok(Subscription { rx })
        })
    }

    fn request<'a>(
        &'a self,
        subject: &'a Subject,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, BusError>> {
        Box::pin(async move {
            if payload.len() > BUS_MESSAGE_MAX_BYTES {
                return Err(BusError::TooLarge);
            }
            let (tx, rx) = tokio::sync::oneshot::channel();
            {
                let subs = self.subs.lock();
                let target = subs
                    .get(subject)
                    .and_then(|l| l.iter().find(|tx| !tx.is_closed()))
                    .ok_or(BusError::NoResponder)?;
                target
                    .try_send(BusMessage {
                        payload,
                        reply: Some(tx),
                    })
                    .map_err(|_| BusError::NoResponder)?;
            }
            rx.await.map_err(|_| BusError::Closed)
        })
    }
}

/// What every bus must do; run by the tests of each form with fresh subjects.
///
/// # Errors
/// The name of the broken rule.
pub async fn conformance<B: Bus>(bus: &B, a: &Subject, b: &Subject) -> Result<(), String> {
    let fail = |rule: &str| Err(rule.to_owned());
    // 1. A request with nobody there says so at once.
    if bus.request(a, Bytes::from_static(b"x")).await != Err(BusError::NoResponder) {
        return fail("request without responder");
    }
    // 2. Each subscription of the subject gets each message once, in order; other subjects get nothing.
    let mut one = bus.subscribe(a).await.map_err(|e| e.to_string())?;
    let mut two = bus.subscribe(a).await.map_err(|e| e.to_string())?;
    let mut other = bus.subscribe(b).await.map_err(|e| e.to_string())?;
    for i in 0..100u8 {
        bus.publish(a, Bytes::copy_from_slice(&[i]))
            .await
            .map_err(|e| e.to_string())?;
    }
    for sub in [&mut one, &mut two] {
        for i in 0..100u8 {
            match sub.next().await {
                Some(m) if m.payload[..] == [i] && m.reply.is_none() => {}
                _ => return fail("order of messages"),
            }
        }
    }
    bus.publish(b, Bytes::from_static(b"b"))
        .await
        .map_err(|e| e.to_string())?;
    match other.next().await {
        Some(m) if m.payload[..] == *b"b" => {}
        _ => return fail("subjects are apart"),
    }
    // 3. Request and reply.
    drop(two);
    let answer = async {
        match one.next().await {
            Some(BusMessage {
                payload,
                reply: Some(reply),
            }) => {
                let mut back = payload.to_vec();
                back.reverse();
                reply.send(Bytes::from(back)).is_ok()
            }
            _ => false,
        }
    };
    let (asked, answered) = tokio::join!(bus.request(a, Bytes::from_static(b"abc")), answer);
    if !answered || asked.as_deref() != Ok(b"cba".as_slice()) {
        return fail("request and reply");
    }
    // 4. An answerer that goes away ends the wait.
    let (asked, ()) = tokio::join!(bus.request(a, Bytes::from_static(b"x")), async {
        drop(one.next().await);
    });
    if asked != Err(BusError::Closed) {
        return fail("lost answerer");
    }
    // 5. Too large is refused.
    if bus
        .publish(a, Bytes::from(vec![0; BUS_MESSAGE_MAX_BYTES + 1]))
        .await
        != Err(BusError::TooLarge)
    {
        return fail("size limit");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[tokio::test]
    async fn the_in_process_bus_conforms() {
        let bus = InProcessBus::new();
        conformance(&bus, &Subject::raw("t.a.x"), &Subject::raw("t.b.x"))
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn a_slow_reader_loses_its_subscription_not_messages_in_between() {
        let bus = InProcessBus::new();
        let s = Subject::raw("t.a.slow");
        let mut sub = bus.subscribe(&s).await.unwrap();
        for i in 0..BUS_QUEUE_MAX_MESSAGES + 10 {
            bus.publish(&s, Bytes::from(i.to_string())).await.unwrap();
        }
        for i in 0..BUS_QUEUE_MAX_MESSAGES {
            assert_eq!(
                sub.next().await.unwrap().payload,
                Bytes::from(i.to_string())
            );
        }
        assert!(sub.next().await.is_none(), "the end is visible");
    }
}
