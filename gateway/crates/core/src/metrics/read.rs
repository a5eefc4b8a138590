//! The numbers of one tenant, or of several together, at a moment.

use gateway_metrics::{Distribution, SECONDS_LONG, SECONDS_SHORT, SIZES};
use gateway_protocol::method;

use super::{GUEST_OUTCOMES, REQUEST_OUTCOMES, RUN_OUTCOMES, SEND_OUTCOMES};
use crate::tenant::Tenant;

/// The label of calls whose method does not exist.
const UNKNOWN_METHOD: &str = "unknown";
/// States of the outbox that are shown.
pub(super) const OUTBOX_STATES: usize = 4;

pub(super) struct MethodReading {
    pub(super) name: &'static str,
    pub(super) outcomes: [u64; REQUEST_OUTCOMES.len()],
    pub(super) times: Distribution,
}

pub(super) struct Reading {
    pub(super) methods: Vec<MethodReading>,
    pub(super) connections: u64,
    pub(super) events: u64,
    pub(super) events_dropped: u64,
    pub(super) slow_consumers: u64,
    pub(super) runs: [u64; RUN_OUTCOMES.len()],
    pub(super) run_times: Distribution,
    pub(super) runs_active: u64,
    pub(super) runs_queued: u64,
    pub(super) inbound: u64,
    pub(super) sends: [u64; SEND_OUTCOMES.len()],
    /// By state; `None` when the store did not say.
    pub(super) outbox: Option<[(&'static str, u64); OUTBOX_STATES]>,
    pub(super) guest_events: [u64; GUEST_OUTCOMES.len()],
    pub(super) guest_times: Distribution,
    pub(super) guest_cpu_us: u64,
    pub(super) commits: u64,
    pub(super) commit_failures: u64,
    pub(super) writes: u64,
    pub(super) writes_queued: u64,
    pub(super) commit_times: Distribution,
    pub(super) batches: Distribution,
}

impl Reading {
    pub(super) fn empty() -> Self {
        Self {
            methods: Vec::new(),
            connections: 0,
            events: 0,
            events_dropped: 0,
            slow_consumers: 0,
            runs: Default::default(),
            run_times: Distribution::empty(&SECONDS_LONG),
            runs_active: 0,
            runs_queued: 0,
            inbound: 0,
            sends: Default::default(),
            outbox: None,
            guest_events: Default::default(),
            guest_times: Distribution::empty(&SECONDS_SHORT),
            guest_cpu_us: 0,
            commits: 0,
            commit_failures: 0,
            writes: 0,
            writes_queued: 0,
            commit_times: Distribution::empty(&SECONDS_SHORT),
            batches: Distribution::empty(&SIZES),
        }
    }

    /// What is in memory; the outbox is asked for apart.
    pub(super) fn of(tenant: &Tenant) -> Self {
        let metrics = tenant.metrics();
        let names = method::all()
            .iter()
            .map(|spec| spec.name)
            .chain([UNKNOWN_METHOD]);
        let methods = names
            .zip(&metrics.methods)
            .filter_map(|(name, slot)| {
                let numbers = slot.get()?;
                Some(MethodReading {
                    name,
                    outcomes: numbers.outcomes.each_ref().map(|n| n.get()),
                    times: numbers.times.read(),
                })
            })
            .collect();
        let (runs_active, runs_queued) = tenant.sessions().run_counts();
        let (hub, store) = (tenant.hub(), tenant.db().stats());
        Self {
            methods,
            connections: hub.connections() as u64,
            events: hub.delivered(),
            events_dropped: hub.dropped(),
            slow_consumers: hub.fell_behind(),
            runs: metrics.runs.each_ref().map(|n| n.get()),
            run_times: metrics.run_times.read(),
            runs_active,
            runs_queued,
            inbound: metrics.inbound.get(),
            sends: metrics.sends.each_ref().map(|n| n.get()),
            outbox: None,
            guest_events: metrics.guest_events.each_ref().map(|n| n.get()),
            guest_times: metrics.guest_times.read(),
            guest_cpu_us: metrics.guest_cpu_us.get(),
            commits: store.commits.get(),
            commit_failures: store.failures.get(),
            writes: store.writes.get(),
            writes_queued: tenant.db().queued() as u64,
            commit_times: store.times.read(),
            batches: store.batches.read(),
        }
    }

    /// Adds another tenant's.
    pub(super) fn add(&mut self, other: Self) {
        for theirs in other.methods {
            match self.methods.iter_mut().find(|m| m.name == theirs.name) {
                None => self.methods.push(theirs),
                Some(mine) => {
                    sum(&mut mine.outcomes, &theirs.outcomes);
                    mine.times.add(&theirs.times);
                }
            }
        }
        self.connections += other.connections;
        self.events += other.events;
        self.events_dropped += other.events_dropped;
        self.slow_consumers += other.slow_consumers;
        sum(&mut self.runs, &other.runs);
        self.run_times.add(&other.run_times);
        self.runs_active += other.runs_active;
        self.runs_queued += other.runs_queued;
        self.inbound += other.inbound;
        sum(&mut self.sends, &other.sends);
        sum(&mut self.guest_events, &other.guest_events);
        self.guest_times.add(&other.guest_times);
        self.guest_cpu_us += other.guest_cpu_us;
        self.commits += other.commits;
        self.commit_failures += other.commit_failures;
        self.writes += other.writes;
        self.writes_queued += other.writes_queued;
        self.commit_times.add(&other.commit_times);
        self.batches.add(&other.batches);
    }
}

fn sum(mine: &mut [u64], theirs: &[u64]) {
    for (mine, theirs) in mine.iter_mut().zip(theirs) {
        *mine += theirs;
    }
}
