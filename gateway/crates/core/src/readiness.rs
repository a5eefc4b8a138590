//! Whether the gateway can take on work, proven and not assumed: the runtime turned, a commit reached the disk, and no
//! writer thread has been at one piece of work for too long. Readers get the proofs with their ages; an old proof is none.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use gateway_protocol::methods::system::{PartState, ReadinessHealth};
use gateway_store::{StoreError, TenantDb, TenantId, WriterPool};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::host::Host;
use crate::limits::{COMMIT_PATIENCE_MS, COMMIT_PROBE_MS, RUNTIME_TICK_MS, RUNTIME_TICK_STALE_MS};

/// Name of the value that a probe writes.
const PROBE_KEY: &str = "readiness.probe";

/// Why the gateway is not ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// It has not ended its start.
    Starting,
    /// It stops.
    Draining,
    /// The runtime that serves connections has not turned for [`RUNTIME_TICK_STALE_MS`].
    RuntimeStalled,
    /// A commit has been under way for [`COMMIT_PATIENCE_MS`], or a writer thread as long at one piece of work.
    StoreStuck,
    /// The disk has no room for a commit.
    StoreFull,
    /// Commits fail, or no store is usable.
    StoreFailed,
}

impl Reason {
    /// The word in `/readyz` and in health.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Draining => "draining",
            Self::RuntimeStalled => "runtime-stalled",
            Self::StoreStuck => "store-stuck",
            Self::StoreFull => "store-full",
            Self::StoreFailed => "store-failed",
        }
    }

    /// It is a fault, and not a time of the gateway's life.
    #[must_use]
    pub fn is_fault(self) -> bool {
        !matches!(self, Self::Starting | Self::Draining)
    }
}

/// What is known at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    /// Why it is not ready, in a fixed order; empty when it is.
    pub reasons: Vec<Reason>,
    /// Milliseconds since the last commit that is known to be on the disk; `None` before the first.
    pub commit_age_ms: Option<u64>,
    /// Milliseconds since the runtime turned last.
    pub tick_age_ms: u64,
}

impl Readiness {
    /// Requests are welcome.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.reasons.is_empty()
    }

    /// The faults alone: what health shows.
    #[must_use]
    pub fn health(&self) -> ReadinessHealth {
        let faults: Vec<&str> = self
            .reasons
            .iter()
            .filter(|reason| reason.is_fault())
            .map(|reason| reason.as_str())
            .collect();
        ReadinessHealth {
            state: match faults.is_empty() {
                true => PartState::Ok,
                false => PartState::Degraded,
            },
            message: (!faults.is_empty()).then(|| faults.join(", ")),
            commit_age_ms: self.commit_age_ms,
            tick_age_ms: self.tick_age_ms,
        }
    }
}

#[derive(Debug, Default)]
struct Commits {
    /// When one was proven last (monotonic ms).
    proven_ms: Option<u64>,
    /// Since when a probe has been waiting for its commit.
    asked_ms: Option<u64>,
    /// What became of the last probe, if it failed.
    fault: Option<Reason>,
}

/// The proofs of one process.
pub struct Proofs {
    clock: Arc<dyn Clock>,
    pool: Option<Arc<WriterPool>>,
    tick_ms: AtomicU64,
    commits: Mutex<Commits>,
}

impl std::fmt::Debug for Proofs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Proofs({:?})", self.commits.lock())
    }
}

impl Proofs {
    pub(crate) fn new(clock: Arc<dyn Clock>, pool: Option<Arc<WriterPool>>) -> Self {
        Self {
            tick_ms: AtomicU64::new(clock.monotonic_ms()),
            clock,
            pool,
            commits: Mutex::default(),
        }
    }

    /// What is proven now, without what the host knows of its own start and end.
    #[must_use]
    pub fn read(&self) -> Readiness {
        let now = self.clock.monotonic_ms();
        let mut reasons = Vec::new();
        let tick_age_ms = now.saturating_sub(self.tick_ms.load(Ordering::Acquire));
        if tick_age_ms > RUNTIME_TICK_STALE_MS {
            reasons.push(Reason::RuntimeStalled);
        }
        let commits = self.commits.lock();
        let commit_age_ms = commits.proven_ms.map(|at| now.saturating_sub(at));
        let waits = commits
            .asked_ms
            .is_some_and(|at| now.saturating_sub(at) > COMMIT_PATIENCE_MS);
        let works = self
            .pool
            .as_ref()
            .is_some_and(|pool| pool.longest_work_ms() > COMMIT_PATIENCE_MS);
        // Nobody has even asked for so long: the one who asks is stuck himself.
        let old = commit_age_ms.is_some_and(|age| age > COMMIT_PROBE_MS + 2 * COMMIT_PATIENCE_MS);
        if waits || works {
            reasons.push(Reason::StoreStuck);
        } else if let Some(fault) = commits.fault {
            reasons.push(fault);
        } else if old {
            reasons.push(Reason::StoreStuck);
        }
        Readiness {
            reasons,
            commit_age_ms,
            tick_age_ms,
        }
    }

    fn ticked(&self) {
        self.tick_ms
            .store(self.clock.monotonic_ms(), Ordering::Release);
    }

    fn asked(&self) {
        let now = self.clock.monotonic_ms();
        self.commits.lock().asked_ms.get_or_insert(now);
    }

    fn answered(&self, result: Result<(), Reason>) {
        let mut commits = self.commits.lock();
        commits.asked_ms = None;
        match result {
            Ok(()) => {
                commits.proven_ms = Some(self.clock.monotonic_ms());
                commits.fault = None;
            }
            Err(reason) => commits.fault = Some(reason),
        }
    }
}

fn reason_of(error: &StoreError) -> Reason {
    match error {
        StoreError::Full => Reason::StoreFull,
        StoreError::Busy(_) => Reason::StoreStuck,
        _ => Reason::StoreFailed,
    }
}

/// A commit that is on the disk: one of the tenants' own since the last look, or one made for this. False if the store of this
/// tenant cannot be used at all: that is its own affair.
async fn prove(proofs: &Proofs, db: &TenantDb, seen: &mut u64, now_ms: i64) -> bool {
    let commits = db.stats().commits.get();
    if commits != std::mem::replace(seen, commits) {
        proofs.answered(Ok(()));
        return true;
    }
    proofs.asked();
    let written = db
        .write(move |w| w.meta_set(PROBE_KEY, &now_ms.to_string()))
        .await;
    *seen = db.stats().commits.get();
    let usable = !matches!(written, Err(StoreError::Newer(_) | StoreError::Unfit(_)));
    proofs.answered(written.map_err(|error| reason_of(&error)));
    usable
}

/// Turns the runtime, and tells every tenant's health when a fault comes or goes.
async fn tick(host: std::sync::Weak<Host>, stop: CancellationToken) {
    let mut every = tokio::time::interval(Duration::from_millis(RUNTIME_TICK_MS));
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut told: Vec<Reason> = Vec::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = every.tick() => {}
        }
        let Some(host) = host.upgrade() else { return };
        let proofs = &host.shared().proofs;
        proofs.ticked();
        let now = proofs.read().reasons;
        if now == told {
            continue;
        }
        let words: Vec<&str> = now.iter().map(|reason| reason.as_str()).collect();
        match now.is_empty() {
            true => tracing::info!("the gateway can take on work again"),
            false => tracing::error!(
                reasons = words.join(", "),
                "the gateway cannot take on work"
            ),
        }
        told = now;
        for tenant in host.tenants() {
            tenant.health().nudge();
        }
    }
}

/// Proves commits, one store at a time: that of the first tenant whose store is well. A tenant's broken store is its own.
async fn probe(host: std::sync::Weak<Host>, stop: CancellationToken) {
    let mut seen = 0;
    let mut of = None;
    let mut unusable: Vec<TenantId> = Vec::new();
    loop {
        let Some(alive) = host.upgrade() else { return };
        let working = working(&alive);
        let nobody = working.is_empty();
        let well = working
            .into_iter()
            .find(|db| db.fault().is_none() && !unusable.contains(db.tenant()));
        let (shared, now_ms) = (alive.shared().clone(), alive.shared().clock.now_ms());
        drop(alive);
        match well {
            None if nobody => shared.proofs.answered(Ok(())),
            None => shared.proofs.answered(Err(Reason::StoreFailed)),
            Some(db) => {
                if of.as_ref() != Some(db.tenant()) {
                    of = Some(db.tenant().clone());
                    seen = db.stats().commits.get();
                }
                let usable = tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    usable = prove(&shared.proofs, &db, &mut seen, now_ms) => usable,
                };
                if !usable {
                    unusable.push(db.tenant().clone());
                    continue;
                }
            }
        }
        drop(shared);
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(Duration::from_millis(COMMIT_PROBE_MS)) => {}
        }
    }
}

/// The stores of the tenants that take work. That of one which is held is left alone: it may be what ends the process.
fn working(host: &Host) -> Vec<TenantDb> {
    host.tenants()
        .into_iter()
        .filter(|tenant| tenant.hold().is_none())
        .map(|tenant| tenant.db().clone())
        .collect()
}

/// The first proof, before anybody is told that the gateway is ready; a store that does not answer is waited for no longer
/// than until it counts as stuck.
pub(crate) async fn first(host: &Host) {
    let (proofs, now_ms) = (&host.shared().proofs, host.shared().clock.now_ms());
    let patience = Duration::from_millis(COMMIT_PATIENCE_MS + 1);
    let proven = async {
        for db in working(host) {
            // The first look finds commits of the start, or makes one.
            if db.fault().is_none() && prove(proofs, &db, &mut 0, now_ms).await {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(patience, proven).await;
}

/// Starts both.
pub(crate) fn watch(host: &Arc<Host>) {
    let stop = host.stop_token().clone();
    tokio::spawn(tick(Arc::downgrade(host), stop.clone()));
    tokio::spawn(probe(Arc::downgrade(host), stop));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    #[test]
    fn old_proofs_are_none() {
        let clock = Arc::new(ManualClock::new(0));
        let proofs = Proofs::new(clock.clone(), None);
        assert!(proofs.read().is_ready());
        assert_eq!(proofs.read().commit_age_ms, None);
        proofs.asked();
        clock.advance(COMMIT_PATIENCE_MS);
        proofs.ticked();
        assert!(proofs.read().is_ready(), "slow is not stuck");
        clock.advance(1);
        assert_eq!(proofs.read().reasons, [Reason::StoreStuck]);
        proofs.answered(Err(Reason::StoreFull));
        assert_eq!(proofs.read().reasons, [Reason::StoreFull]);
        proofs.answered(Ok(()));
        let well = proofs.read();
        assert_eq!((well.is_ready(), well.commit_age_ms), (true, Some(0)));
        clock.advance(RUNTIME_TICK_STALE_MS + 1);
        assert_eq!(proofs.read().reasons, [Reason::RuntimeStalled]);
        clock.advance(COMMIT_PROBE_MS + 2 * COMMIT_PATIENCE_MS);
        assert_eq!(
            proofs.read().reasons,
            [Reason::RuntimeStalled, Reason::StoreStuck]
        );
        assert_eq!(
            proofs.read().health().message.as_deref(),
            Some("runtime-stalled, store-stuck")
        );
    }
}
