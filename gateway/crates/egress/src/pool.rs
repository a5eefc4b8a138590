//! Idle connections, and the count of requests under way. Every key begins with the partition: nothing crosses tenants.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::SendRequest;
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::limits::{
    IDLE_KEEP, MAX_IDLE, MAX_IDLE_PER_ORIGIN, MAX_IN_FLIGHT, MAX_IN_FLIGHT_PER_PARTITION,
};
use crate::tls::CertPin;
use crate::url_policy::{Host, Scheme};

/// What two requests must have in common to use one connection.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct PoolKey {
    pub partition: Arc<str>,
    pub scheme: Scheme,
    pub host: Host,
    pub port: u16,
    pub pin: Option<CertPin>,
}

/// One connection; dropping it closes the socket at once.
pub(crate) struct Conn {
    pub sender: SendRequest<Full<Bytes>>,
    pub _driver: AbortOnDrop,
    pub peer: SocketAddr,
}

/// Ends a task with its owner.
pub(crate) struct AbortOnDrop(pub JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[derive(Default)]
struct State {
    idle: HashMap<PoolKey, Vec<(Instant, Conn)>>,
    idle_count: usize,
    in_flight: HashMap<Arc<str>, usize>,
    in_flight_count: usize,
    sweeping: bool,
}

impl State {
    fn prune(&mut self, now: Instant) {
        for list in self.idle.values_mut() {
            list.retain(|(since, conn)| {
                now.duration_since(*since) < IDLE_KEEP && !conn.sender.is_closed()
            });
        }
        self.idle.retain(|_, list| !list.is_empty());
        self.idle_count = self.idle.values().map(Vec::len).sum();
    }
}

#[derive(Default)]
pub(crate) struct Pool {
    state: Mutex<State>,
}

impl Pool {
    /// The idle connection used last, if there is one.
    pub fn take(&self, key: &PoolKey) -> Option<Conn> {
        let mut state = self.state.lock();
        let list = state.idle.get_mut(key)?;
        let (_, conn) = list.pop()?;
        if list.is_empty() {
            state.idle.remove(key);
        }
        state.idle_count = state.idle_count.saturating_sub(1);
        Some(conn)
    }

    /// Keeps a connection whose response was read to its end.
    pub fn put(self: &Arc<Self>, key: PoolKey, conn: Conn) {
        if conn.sender.is_closed() {
            return;
        }
        let now = Instant::now();
        let mut state = self.state.lock();
        if state.idle_count >= MAX_IDLE {
            state.prune(now);
        }
        if state.idle_count >= MAX_IDLE {
            return;
        }
        let list = state.idle.entry(key).or_default();
        if list.len() >= MAX_IDLE_PER_ORIGIN {
            return;
        }
        list.push((now, conn));
        state.idle_count += 1;
        if !state.sweeping {
            state.sweeping = true;
            tokio::spawn(sweep(Arc::downgrade(self)));
        }
    }

    /// Counts a request in; `None` if there are too many.
    pub fn enter(self: &Arc<Self>, partition: &Arc<str>) -> Option<InFlight> {
        let mut state = self.state.lock();
        if state.in_flight_count >= MAX_IN_FLIGHT {
            return None;
        }
        let mine = state.in_flight.entry(partition.clone()).or_default();
        if *mine >= MAX_IN_FLIGHT_PER_PARTITION {
            return None;
        }
        *mine += 1;
        state.in_flight_count += 1;
        Some(InFlight {
            pool: self.clone(),
            partition: partition.clone(),
        })
    }

    /// Idle connections, counted.
    pub fn idle(&self) -> usize {
        let mut state = self.state.lock();
        state.prune(Instant::now());
        state.idle_count
    }

    /// Requests under way, counted.
    pub fn in_flight(&self) -> usize {
        self.state.lock().in_flight_count
    }
}

/// Lives while there are idle connections, so that none outlasts [`IDLE_KEEP`] by more than that time.
async fn sweep(pool: Weak<Pool>) {
    loop {
        tokio::time::sleep(IDLE_KEEP).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut state = pool.state.lock();
        state.prune(Instant::now());
        if state.idle.is_empty() {
            state.sweeping = false;
            return;
        }
    }
}

/// One counted request.
pub(crate) struct InFlight {
    pool: Arc<Pool>,
    partition: Arc<str>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut state = self.pool.state.lock();
        state.in_flight_count = state.in_flight_count.saturating_sub(1);
        let now = state
            .in_flight
            .get(&self.partition)
            .map_or(0, |n| n.saturating_sub(1));
        if now == 0 {
            state.in_flight.remove(&self.partition);
        } else {
            state.in_flight.insert(self.partition.clone(), now);
        }
    }
}
