//! What a tenant's traffic does, counted where it happens. Each tenant owns its numbers; nobody looks one up by a name.

mod read;
mod show;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use gateway_metrics::{Counter, Histogram, SECONDS_LONG, SECONDS_SHORT};
use gateway_protocol::error::RpcError;
use gateway_protocol::ids::ConnId;
use gateway_protocol::method;
use gateway_store::RunState;
use gateway_wasm::{CallError, SendOutcome};

pub use show::{Viewer, show};

use crate::audit::Audit;
use crate::cx::Cx;
use crate::tenant::Tenant;

/// How a call ended, in the words of the label `outcome`.
pub(crate) const REQUEST_OUTCOMES: [&str; 9] = [
    "ok",
    "invalid",
    "denied",
    "not_found",
    "conflict",
    "limited",
    "unavailable",
    "failed",
    "abandoned",
];
/// The last of [`REQUEST_OUTCOMES`]: the caller went away.
const ABANDONED: usize = REQUEST_OUTCOMES.len() - 1;

/// How a run ended.
pub(crate) const RUN_OUTCOMES: [&str; 3] = ["ok", "error", "aborted"];
/// What became of an attempt to deliver an answer.
pub(crate) const SEND_OUTCOMES: [&str; 4] = ["sent", "retry", "unknown", "failed"];
/// How an event that was given to a guest ended.
pub(crate) const GUEST_OUTCOMES: [&str; 7] = [
    "ok", "refused", "trap", "deadline", "limit", "busy", "failed",
];

fn request_outcome(result: &Result<Bytes, RpcError>) -> usize {
    match result.as_ref().map_err(RpcError::http_status) {
        Ok(_) => 0,
        Err(401 | 403) => 2,
        Err(404) => 3,
        Err(409) => 4,
        Err(429) => 5,
        Err(503 | 504 | 507) => 6,
        Err(400..=499) => 1,
        Err(_) => 7,
    }
}

#[derive(Debug)]
pub(crate) struct MethodNumbers {
    pub(crate) outcomes: [Counter; REQUEST_OUTCOMES.len()],
    pub(crate) times: Histogram,
}

impl Default for MethodNumbers {
    fn default() -> Self {
        Self {
            outcomes: Default::default(),
            times: Histogram::new(&SECONDS_SHORT),
        }
    }
}

/// The numbers of one tenant.
#[derive(Debug)]
pub struct Metrics {
    /// By place in the method table; one more for names that no method has. Made when a method is called first.
    pub(crate) methods: Box<[OnceLock<Box<MethodNumbers>>]>,
    pub(crate) runs: [Counter; RUN_OUTCOMES.len()],
    pub(crate) run_times: Histogram,
    pub(crate) sends: [Counter; SEND_OUTCOMES.len()],
    pub(crate) guest_events: [Counter; GUEST_OUTCOMES.len()],
    pub(crate) guest_times: Histogram,
    pub(crate) guest_cpu_us: Counter,
    /// Messages of platforms that were accepted.
    pub(crate) inbound: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            methods: (0..=method::all().len()).map(|_| OnceLock::new()).collect(),
            runs: Default::default(),
            run_times: Histogram::new(&SECONDS_LONG),
            sends: Default::default(),
            guest_events: Default::default(),
            guest_times: Histogram::new(&SECONDS_SHORT),
            guest_cpu_us: Counter::default(),
            inbound: Counter::default(),
        }
    }
}

/// The place of a method in the table; beyond its end for a name that no method has.
pub(crate) fn place_of(name: &str) -> usize {
    let all = method::all();
    all.binary_search_by(|spec| spec.name.cmp(name))
        .unwrap_or(all.len())
}

impl Metrics {
    fn method(&self, place: usize) -> Option<&MethodNumbers> {
        self.methods
            .get(place)
            .map(|slot| &**slot.get_or_init(Box::default))
    }

    pub(crate) fn run_ended(&self, state: RunState, time_ms: u64) {
        let place = match state {
            RunState::Ok => 0,
            RunState::Aborted => 2,
            RunState::Error | RunState::Queued | RunState::Running => 1,
        };
        self.runs[place].inc();
        self.run_times.observe(time_ms.saturating_mul(1_000));
    }

    pub(crate) fn send_ended(&self, outcome: &SendOutcome) {
        let place = match outcome {
            SendOutcome::Sent(_) => 0,
            SendOutcome::Retry { .. } => 1,
            SendOutcome::Unknown { .. } => 2,
            SendOutcome::Failed { .. } => 3,
        };
        self.sends[place].inc();
    }

    pub(crate) fn guest_cpu(&self, cpu: Duration) {
        self.guest_cpu_us
            .add(u64::try_from(cpu.as_micros()).unwrap_or(u64::MAX));
    }

    pub(crate) fn guest_event_ended<T>(&self, result: &Result<T, CallError>, time: Duration) {
        fn place(error: &CallError) -> usize {
            match error {
                CallError::Guest(_) => 1,
                CallError::Trap(_) | CallError::Protocol(_) | CallError::Instantiate(_) => 2,
                CallError::Deadline(_) => 3,
                CallError::Limit(_) => 4,
                CallError::Busy { .. } | CallError::Quarantined(_) | CallError::Stopped => 5,
                CallError::Commit(_) => 6,
                CallError::PoisonedEvent(why) => place(why),
            }
        }
        self.guest_events[result.as_ref().err().map_or(0, place)].inc();
        self.guest_times.observe_time(time);
    }
}

/// A call under way. Dropped without an end, it was abandoned.
pub(crate) struct Timed {
    tenant: Arc<Tenant>,
    place: usize,
    began: Instant,
    /// For the record of the call, where somebody wants those.
    conn: Option<ConnId>,
    audit: Audit,
    ended: bool,
}

impl Timed {
    pub(crate) fn begin(cx: &Cx, place: usize) -> Self {
        let recorded = tracing::enabled!(target: "gateway::call", tracing::Level::DEBUG);
        Self {
            tenant: cx.tenant.clone(),
            place,
            began: Instant::now(),
            conn: if recorded {
                cx.caller.conn.clone()
            } else {
                None
            },
            audit: cx.audit.clone(),
            ended: false,
        }
    }

    pub(crate) fn end(mut self, result: Result<Bytes, RpcError>) -> Result<Bytes, RpcError> {
        self.ended = true;
        let time = self.began.elapsed();
        let outcome = request_outcome(&result);
        if let Some(method) = self.tenant.metrics().method(self.place) {
            method.outcomes[outcome].inc();
            method.times.observe_time(time);
        }
        self.record(outcome, time);
        self.audit.end(&self.tenant, &result);
        result
    }

    fn record(&self, outcome: usize, time: Duration) {
        tracing::debug!(
            target: "gateway::call",
            tenant = self.tenant.slug(),
            conn = self.conn.as_ref().map(ConnId::as_str),
            method = method::all().get(self.place).map_or("unknown", |spec| spec.name),
            outcome = REQUEST_OUTCOMES[outcome],
            duration_us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX),
            "call"
        );
    }
}

impl Drop for Timed {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        if let Some(method) = self.tenant.metrics().method(self.place) {
            method.outcomes[ABANDONED].inc();
        }
        self.record(ABANDONED, self.began.elapsed());
    }
}
