//! Jobs that come due by themselves.
//!
//! ```text
//! job (store) ─ schedule.rs: when ─► plan.rs: what of it ─► claim.rs: one commit (occurrence, job moved on, run accepted)
//!                                                             │
//!                      event, webhook ◄─ finish.rs: one commit (run ended, job's state, announcement) ◄─ the session's run
//! ```
//!
//! A tenant has one task for this while it has jobs that come due, and none otherwise. The wall clock says what is due; the
//! task sleeps by the monotonic one and looks again at least every [`limits::RECHECK_MAX_MS`], so that a clock that was set
//! is noticed. What is due stands in the store, so a look costs nothing but a read, and a second look changes nothing.

mod claim;
mod expr;
mod finish;
pub(crate) mod heartbeat;
mod job;
pub mod limits;
mod plan;
mod quiet;
pub(crate) mod rpc;
pub mod schedule;
mod target;
mod webhook;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};
use std::time::Duration;

use gateway_store::{CronRunEnd, StoreError};
use parking_lot::Mutex;
use tokio::sync::Notify;

use self::claim::{Taken, Taking, take};
use self::finish::{pause_ms, settle};
use self::job::schedule_of;
use self::limits::{
    DUE_JOBS_PER_LOOK, RECHECK_MAX_MS, RUNNING_JOBS_MAX, SET_BACK_MIN_MS, STORE_PAUSE_MS,
    WEBHOOKS_IN_FLIGHT_MAX,
};
use crate::tenant::Tenant;

pub(crate) use self::finish::{Finished, end_in_tx, tell};
pub use self::quiet::is_silent;
pub(crate) use self::target::Announce;

/// The schedules of one tenant.
#[derive(Debug, Default)]
pub struct Cron {
    gate: Mutex<Gate>,
    changed: Notify,
    posting: Mutex<BTreeSet<String>>,
    /// When the heartbeats of each agent last ran; a handful each.
    beats: Mutex<HashMap<String, VecDeque<i64>>>,
    /// Whether an operator switched heartbeats off.
    beats_off: AtomicBool,
}

#[derive(Debug, Default)]
struct Gate {
    /// Whether the schedules were taken up at all.
    begun: bool,
    /// Whether jobs come due: after the start, unless the configuration says no.
    open: bool,
    /// Whether there is a task.
    working: bool,
    /// Something changed since the task last looked.
    again: bool,
}

impl Cron {
    /// Something may have come due, or come due earlier. Cheap, and safe to call at any time.
    pub(crate) fn nudge(tenant: &Arc<Tenant>) {
        let cron = tenant.cron();
        {
            let mut gate = cron.gate.lock();
            if !gate.open {
                return;
            }
            gate.again = true;
            if gate.working {
                cron.changed.notify_one();
                return;
            }
            gate.working = true;
        }
        let weak = Arc::downgrade(tenant);
        // Read here: the clock may be set before the task has its first turn.
        let seen = (tenant.now_ms(), tenant.clock().monotonic_ms());
        let tracker = tenant.tasks().clone();
        let stop = tenant.stop_token().clone();
        tracker.spawn(async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = work(weak, seen) => {}
            }
        });
    }

    /// Whether jobs come due.
    pub(crate) fn is_open(&self) -> bool {
        self.gate.lock().open
    }

    fn begin_post(&self, run_id: &str) -> bool {
        let mut posting = self.posting.lock();
        posting.len() < WEBHOOKS_IN_FLIGHT_MAX && posting.insert(run_id.to_owned())
    }

    fn end_post(&self, run_id: &str) {
        self.posting.lock().remove(run_id);
    }
}

/// Ends what a dead process left half done, and begins. Called once, when the channels are there.
pub(crate) async fn start(tenant: &Arc<Tenant>) {
    if let Err(error) = recover(tenant).await {
        tenant.log("ERROR", &format!("schedules not taken up: {error}"));
    }
    tenant.cron().gate.lock().begun = true;
    follow(tenant).await;
}

/// Ends it until [`start`] is called again: nothing comes due.
pub(crate) fn halt(tenant: &Arc<Tenant>) {
    let cron = tenant.cron();
    {
        let mut gate = cron.gate.lock();
        (gate.begun, gate.open) = (false, false);
    }
    cron.changed.notify_one();
}

/// Brings heartbeats and the runner in line with the tenant's settings: at the start, and after they changed.
pub(crate) async fn follow(tenant: &Arc<Tenant>) {
    if !tenant.cron().gate.lock().begun {
        // The start reads them.
        return;
    }
    if let Err(error) = heartbeat::sync(tenant).await {
        tenant.log("ERROR", &format!("heartbeats not set up: {error}"));
    }
    let open = tenant.settings().cron.enabled;
    let was_open = std::mem::replace(&mut tenant.cron().gate.lock().open, open);
    if !open {
        tenant.cron().changed.notify_one();
        return;
    }
    if !was_open && let Err(error) = rearm(tenant).await {
        tenant.log("ERROR", &format!("schedules not looked at: {error}"));
    }
    Cron::nudge(tenant);
}

/// Runs of a dead process: an agent's run was taken up by the sessions and ends its job's run itself; a request that was
/// under way is over, and nobody knows how.
async fn recover(tenant: &Arc<Tenant>) -> Result<(), StoreError> {
    loop {
        let rows = tenant.db().read(|r| r.unfinished_cron_runs()).await?;
        if rows.is_empty() {
            return Ok(());
        }
        let now = tenant.now_ms();
        let finished = tenant
            .db()
            .write(move |w| {
                let mut finished = Vec::new();
                for row in rows {
                    let goes_on = w
                        .get_run(&row.run_id)?
                        .is_some_and(|run| !run.state.is_ended());
                    if goes_on {
                        w.adopt_cron_run(&row.run_id)?;
                        continue;
                    }
                    let why = if row.kind == "webhook" {
                        "the gateway stopped while the request was under way; it is not sent again"
                    } else {
                        "the gateway stopped, and the run's session is gone"
                    };
                    let end = CronRunEnd {
                        status: "error".to_owned(),
                        error: Some(why.to_owned()),
                        ..CronRunEnd::default()
                    };
                    finished.push(settle(w, &row.run_id, end, now)?);
                }
                Ok(finished)
            })
            .await?;
        for one in finished {
            tell(tenant, one);
        }
    }
}

/// Makes sure that no job waits for a time that its schedule does not name next: after a start, and after a clock was set
/// back. What ran already is not run again: its occurrence is in the log.
async fn rearm(tenant: &Arc<Tenant>) -> Result<(), StoreError> {
    let now = tenant.now_ms();
    let jobs = tenant.db().read(|r| r.cron_jobs()).await?;
    let late: Vec<(String, Option<i64>, i64)> = jobs
        .iter()
        .filter(|job| job.enabled)
        .filter_map(|job| {
            let schedule = schedule_of(job).filter(schedule::Schedule::repeats)?;
            // A job that pauses after failures waits longer on purpose.
            let from = match job.consecutive_errors {
                0 => now,
                failures => now.saturating_add(pause_ms(failures)),
            };
            let next = schedule.next_ms(from)?;
            job.next_at
                .is_none_or(|at| at > next)
                .then(|| (job.id.clone(), job.next_at, next))
        })
        .collect();
    if late.is_empty() {
        return Ok(());
    }
    tenant
        .db()
        .write(move |w| {
            for (id, seen, next) in late {
                if let Some(mut job) = w.cron_job(&id)?
                    && job.next_at == seen
                    && job.enabled
                {
                    job.next_at = Some(next);
                    w.update_cron_job(&job)?;
                }
            }
            Ok(())
        })
        .await
}

/// The task of a tenant: looks, sleeps, and ends when nothing will ever come due. `seen` is what the clocks showed last, the
/// wall's and the steady one's, in ms.
async fn work(weak: Weak<Tenant>, mut seen: (i64, u64)) {
    let mut planned: Option<i64> = None;
    let mut changed = true;
    loop {
        let Some(tenant) = weak.upgrade() else { return };
        {
            let mut gate = tenant.cron().gate.lock();
            gate.again = false;
            if !gate.open || tenant.sessions().is_draining() {
                gate.working = false;
                return;
            }
        }
        let set_back = was_set_back(&tenant, &mut seen);
        // Nothing happened, and nothing is due: the store is left alone.
        let quiet = !changed && !set_back && planned.is_some_and(|at| tenant.now_ms() < at);
        let mut moved = false;
        if !quiet {
            match look(&tenant, set_back, &mut moved).await {
                Ok(Some(at)) => planned = Some(at),
                Ok(None) => {
                    let mut gate = tenant.cron().gate.lock();
                    if !gate.again {
                        gate.working = false;
                        return;
                    }
                    changed = true;
                    continue;
                }
                Err(
                    error @ (StoreError::Closed
                    | StoreError::Corrupt { .. }
                    | StoreError::Failed { .. }),
                ) => {
                    tracing::error!(tenant = tenant.slug(), %error, "schedules stop: the store is out of service");
                    tenant.cron().gate.lock().working = false;
                    return;
                }
                Err(error) => {
                    tracing::warn!(tenant = tenant.slug(), %error, "schedules not looked at");
                    planned = Some(tenant.now_ms().saturating_add(STORE_PAUSE_MS));
                }
            }
        }
        let wait = planned.map_or(i64::MAX, |at| at.saturating_sub(tenant.now_ms()));
        let pause = match u64::try_from(wait) {
            Ok(ms) if ms > 0 => ms.min(RECHECK_MAX_MS),
            // Due, but there is no room: the end of a run tells.
            _ if moved => 0,
            _ => RECHECK_MAX_MS,
        };
        let cron = tenant.cron().clone();
        drop(tenant);
        changed = tokio::select! {
            biased;
            () = cron.changed.notified() => true,
            () = tokio::time::sleep(Duration::from_millis(pause)) => false,
        };
    }
}

/// Whether the wall clock lost time against the steady one since the last call.
fn was_set_back(tenant: &Tenant, seen: &mut (i64, u64)) -> bool {
    let (now, steady) = (tenant.now_ms(), tenant.clock().monotonic_ms());
    let (then, then_steady) = std::mem::replace(seen, (now, steady));
    let passed = i64::try_from(steady.saturating_sub(then_steady)).unwrap_or(i64::MAX);
    now.saturating_sub(then) < passed.saturating_sub(SET_BACK_MIN_MS)
}

/// Takes what is due; `moved` tells whether anything was. Gives when the next thing comes due; `None`: nothing will.
async fn look(
    tenant: &Arc<Tenant>,
    set_back: bool,
    moved: &mut bool,
) -> Result<Option<i64>, StoreError> {
    if set_back {
        tenant.log(
            "WARN",
            "the clock was set back: schedules are looked at anew",
        );
        rearm(tenant).await?;
    }
    let now = tenant.now_ms();
    let (due, running) = tenant
        .db()
        .read(move |r| Ok((r.cron_due(now, DUE_JOBS_PER_LOOK)?, r.count_running_cron()?)))
        .await?;
    let mut room = (RUNNING_JOBS_MAX - running).max(0);
    for job in due {
        let Some(first) = job.next_at else { continue };
        // A job that makes up for everything waits for its own run; another one skips what comes meanwhile.
        let patient = job.running_at.is_some()
            && job::spec_of(&job).is_some_and(|spec| {
                spec.catch_up.is_some_and(|policy| {
                    policy.mode == gateway_protocol::methods::cron::CronCatchUpMode::All
                })
            });
        if patient || (room == 0 && job.running_at.is_none()) {
            continue;
        }
        match take(tenant, &job, Taking::Due(first), now).await? {
            Taken::Run(_) => {
                room -= 1;
                *moved = true;
            }
            Taken::Gone => {
                // Its description can't be read: it must not stay due for ever.
                switch_off(tenant, &job.id, now).await?;
                *moved = true;
            }
            Taken::Skipped | Taken::Nothing | Taken::Busy => *moved = true,
        }
    }
    finish::deliver_due(tenant, now).await?;
    tenant.db().read(|r| r.cron_next_wake()).await
}

async fn switch_off(tenant: &Arc<Tenant>, id: &str, now: i64) -> Result<(), StoreError> {
    tenant.log(
        "ERROR",
        &format!("job {id} can't be read and is switched off; next step: `gateway cron rm {id}`"),
    );
    let id = id.to_owned();
    tenant
        .db()
        .write(move |w| {
            if let Some(mut job) = w.cron_job(&id)? {
                job.enabled = false;
                job.next_at = None;
                job.last_error = Some("the job can't be read".to_owned());
                job.updated_at = now;
                let note = gateway_protocol::methods::cron::CronAutoDisabled {
                    reason: "schedule-errors".to_owned(),
                    at_ms: now,
                    consecutive_errors: 1,
                };
                job.auto_disabled_json = serde_json::to_string(&note).ok();
                w.update_cron_job(&job)?;
            }
            Ok(())
        })
        .await
}
