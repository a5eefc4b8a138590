//! Taking an occurrence: one transaction that records it, moves the job on, and accepts the agent's run. Whoever comes
//! second (another look, a restart, a clock that was set back) finds the row and does nothing.

use std::sync::Arc;

use gateway_protocol::methods::cron::{
    CronDeliveryMode, CronPayload, CronRunStatus, CronSpec, WakeMode,
};
use gateway_protocol::session_key::SessionKey;
use gateway_store::{CronJobRow, CronRunEnd, CronRunRow, StoreError, Write};
use serde::{Deserialize, Serialize};

use super::finish::{Finished, settle};
use super::job::{schedule_of, spec_of};
use super::plan::{Missed, Plan, plan};
use super::target::Announce;
use super::{finish, heartbeat};
use crate::delivery::ReplyTarget;
use crate::session::{AcceptRun, Accepted, Origin, accept_in_tx, kick, request_hash};
use crate::tenant::Tenant;

/// Where an outcome is meant to go; kept with the run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RunDelivery {
    /// How.
    pub mode: CronDeliveryMode,
    /// Channel kind, `last`, `owner` or `webhook`.
    pub channel: String,
    /// Conversation or address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Characters of [`super::is_silent`].
    #[serde(default)]
    pub ack_max_chars: usize,
}

/// What an occurrence is taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taking {
    /// The schedule says so; at this time.
    Due(i64),
    /// Somebody asked; the number tells requests of one millisecond apart.
    Asked(i64),
}

/// What became of it.
#[derive(Debug)]
pub(super) enum Taken {
    /// It runs (or is over already).
    Run(String),
    /// It was recorded as skipped.
    Skipped,
    /// The job changed, or the occurrence was taken before; there is nothing to do.
    Nothing,
    /// A run of this job goes on.
    Busy,
    /// A millisecond with too many requests, or the job is gone.
    Gone,
}

/// What happens when a run is taken, prepared outside of the transaction.
enum Work {
    /// The agent answers.
    Turn(Box<AcceptRun>),
    /// A text is put before the main session; with a run it is looked at now.
    Event {
        key: String,
        text: String,
        run: Option<Box<AcceptRun>>,
    },
    /// A request is posted after the commit.
    Post,
    /// It does not run.
    Skip(String),
}

/// Everything that the transaction leaves.
struct Left {
    taken: Taken,
    accepted: Option<Accepted>,
    finished: Vec<Finished>,
    started: Option<(CronJobRow, CronRunRow)>,
    post: bool,
}

impl Left {
    fn only(taken: Taken) -> Self {
        Self {
            taken,
            accepted: None,
            finished: Vec::new(),
            started: None,
            post: false,
        }
    }
}

/// Takes an occurrence of a job.
///
/// # Errors
/// Those of the store; then nothing happened.
pub(super) async fn take(
    tenant: &Arc<Tenant>,
    job: &CronJobRow,
    taking: Taking,
    now: i64,
) -> Result<Taken, StoreError> {
    let Some(spec) = spec_of(job) else {
        return Ok(Taken::Gone);
    };
    let plan = match (taking, schedule_of(job)) {
        (Taking::Due(first), Some(schedule)) => plan(&schedule, spec.catch_up.as_ref(), first, now),
        (Taking::Asked(_), _) => Plan {
            run: Some(now),
            missed: None,
            next: job.next_at,
        },
        (Taking::Due(_), None) => return Ok(Taken::Gone),
    };
    let number = match taking {
        Taking::Due(_) => 0,
        Taking::Asked(n) => n,
    };
    let run_id = match (plan.run, number) {
        (Some(at), 0) => format!("cron:{}:{at}", job.id),
        (Some(at), n) => format!("manual:{}:{at}:{n}", job.id),
        (None, _) => String::new(),
    };
    let mut delivery = RunDelivery::default();
    let mut refusal = None;
    let work = if plan.run.is_some() {
        let reply_to;
        (reply_to, refusal, delivery) = way_back(tenant, job, &spec).await?;
        prepare(tenant, job, &spec, &run_id, taking, reply_to, now).await?
    } else {
        Work::Post
    };
    let wanted = job.clone();
    let delivery_json = (delivery.mode != CronDeliveryMode::None)
        .then(|| serde_json::to_string(&delivery).ok())
        .flatten();
    let mut row = CronRunRow {
        run_id,
        job_id: job.id.clone(),
        job_name: job.name.clone(),
        agent_id: job.agent_id.clone(),
        kind: spec.payload.kind().to_owned(),
        occurrence: plan.run.unwrap_or(0),
        manual: number,
        delivery_json,
        delivery_error: refusal,
        ..CronRunRow::default()
    };
    let left = tenant
        .db()
        .write(move |w| {
            let Some(mut job) = w.cron_job(&wanted.id)? else {
                return Ok(Left::only(Taken::Gone));
            };
            let due = match taking {
                Taking::Due(first) => job.enabled && job.next_at == Some(first),
                Taking::Asked(_) => job.spec_json == wanted.spec_json,
            };
            if !due {
                return Ok(Left::only(Taken::Nothing));
            }
            take_in_tx(w, &mut job, &mut row, plan, work, now)
        })
        .await?;
    Ok(after(tenant, left))
}

fn take_in_tx(
    w: &mut Write<'_>,
    job: &mut CronJobRow,
    row: &mut CronRunRow,
    plan: Plan,
    work: Work,
    now: i64,
) -> Result<Left, StoreError> {
    let manual = row.manual > 0;
    let mut left = Left::only(Taken::Nothing);
    if manual && job.running_at.is_some() && job.system.is_none() {
        return Ok(Left::only(Taken::Busy));
    }
    if let Some(missed) = &plan.missed {
        job.next_at = plan.next;
        left.finished
            .extend(skip(w, job, row, missed.occurrence, &missed.text(), now)?);
        left.taken = Taken::Skipped;
        skipped_too_many(job, missed);
    }
    job.next_at = plan.next;
    let occurrence = match plan.run {
        Some(at) if manual || at > job.done_through => at,
        // Over already: the clock was set back, and the log of that time is gone.
        _ => {
            w.update_cron_job(job)?;
            return Ok(left);
        }
    };
    if !manual && w.cron_occurrence(&job.id, occurrence)?.is_some() {
        w.update_cron_job(job)?;
        return Ok(left);
    }
    let why = match (&work, job.running_at) {
        (Work::Skip(why), _) => Some(why.clone()),
        // A wake during a heartbeat waits behind it in the session: it may have news that the first did not see.
        (_, Some(_)) if !(manual && job.system.is_some()) => {
            Some("overlap: the run before this one goes on".to_owned())
        }
        _ => None,
    };
    if let Some(why) = why {
        left.finished
            .extend(skip(w, job, row, occurrence, &why, now)?);
        left.taken = Taken::Skipped;
        return Ok(left);
    }
    row.occurrence = occurrence;
    let accepted = match work {
        Work::Turn(run) => Some(accept_in_tx(w, *run)?),
        Work::Event { key, text, run } => {
            if !text.is_empty() {
                w.push_system_event(&key, &text, now)?;
            }
            row.session_key = Some(key);
            run.map(|run| accept_in_tx(w, *run)).transpose()?
        }
        Work::Post => {
            left.post = true;
            None
        }
        Work::Skip(_) => None,
    };
    if accepted.as_ref().is_some_and(|accepted| !accepted.is_new()) {
        // The agent's run is there without this row: the log of that time is gone, and the work is done.
        w.update_cron_job(job)?;
        return Ok(left);
    }
    if let Some(accepted) = &accepted
        && let crate::session::AcceptOutcome::New(new) = accepted.outcome()
    {
        row.session_key = Some(new.session.key.clone());
        row.session_id = Some(new.session.session_id.clone());
    }
    if !w.claim_cron_run(row, now)? {
        // Only a request can meet this: another one came in the same millisecond.
        return Err(StoreError::Conflict("this run was begun before"));
    }
    job.last_run_at = Some(now);
    w.update_cron_job(job)?;
    job.running_at = Some(now);
    left.taken = Taken::Run(row.run_id.clone());
    row.claimed_at = now;
    left.started = Some((job.clone(), row.clone()));
    if accepted.is_none() && !left.post {
        // A text that waits for the next message: there is nothing more to this run.
        let end = CronRunEnd {
            status: CronRunStatus::Ok.as_str().to_owned(),
            ..CronRunEnd::default()
        };
        left.finished.push(settle(w, &row.run_id, end, now)?);
    }
    left.accepted = accepted;
    Ok(left)
}

/// Nobody needs to look at each of a thousand missed occurrences, but they count.
fn skipped_too_many(job: &mut CronJobRow, missed: &Missed) {
    let more = i64::try_from(missed.count.saturating_sub(1)).unwrap_or(0);
    job.consecutive_skipped = job.consecutive_skipped.saturating_add(more);
}

/// Records an occurrence that does not run.
fn skip(
    w: &mut Write<'_>,
    job: &mut CronJobRow,
    row: &CronRunRow,
    occurrence: i64,
    why: &str,
    now: i64,
) -> Result<Option<Finished>, StoreError> {
    let run = CronRunRow {
        run_id: if row.manual > 0 {
            row.run_id.clone()
        } else {
            format!("cron:{}:{occurrence}", job.id)
        },
        occurrence,
        delivery_json: None,
        delivery_error: None,
        session_key: None,
        session_id: None,
        ..row.clone()
    };
    w.update_cron_job(job)?;
    if !w.claim_cron_run(&run, now)? {
        return Ok(None);
    }
    let end = CronRunEnd {
        status: CronRunStatus::Skipped.as_str().to_owned(),
        error: Some(why.to_owned()),
        ..CronRunEnd::default()
    };
    let mut finished = settle(w, &run.run_id, end, now)?;
    if run.kind == heartbeat::SYSTEM {
        let told = heartbeat::told_skipped(&finished.run, now);
        heartbeat::remember(w, &told)?;
        finished.heartbeat = Some(told);
    }
    if let Some(settled) = &finished.job {
        let running = job.running_at;
        *job = settled.clone();
        job.running_at = running;
    }
    Ok(Some(finished))
}

/// Where the answer goes, and why it can't where it can't.
async fn way_back(
    tenant: &Arc<Tenant>,
    job: &CronJobRow,
    spec: &CronSpec,
) -> Result<(Option<ReplyTarget>, Option<String>, RunDelivery), StoreError> {
    let (announce, mut delivery) = match &spec.payload {
        CronPayload::Heartbeat {} | CronPayload::SystemEvent { .. } => {
            let settings = tenant.settings();
            let Some(heartbeat) = settings
                .agents
                .entries
                .get(&job.agent_id)
                .map(|a| &a.heartbeat)
            else {
                return Ok((None, None, RunDelivery::default()));
            };
            let delivery = RunDelivery {
                channel: heartbeat.target.as_str().to_owned(),
                ack_max_chars: heartbeat.ack_max_chars,
                ..RunDelivery::default()
            };
            (Announce::of_heartbeat(&heartbeat.target), delivery)
        }
        _ => {
            let Some(asked) = &spec.delivery else {
                return Ok((None, None, RunDelivery::default()));
            };
            let mut delivery = RunDelivery {
                mode: asked.mode,
                channel: asked.channel.clone().unwrap_or_else(|| "last".to_owned()),
                to: asked.to.clone(),
                ack_max_chars: 0,
            };
            match asked.mode {
                CronDeliveryMode::None => return Ok((None, None, RunDelivery::default())),
                CronDeliveryMode::Webhook => {
                    delivery.channel = "webhook".to_owned();
                    return Ok((None, None, delivery));
                }
                CronDeliveryMode::Announce => {}
            }
            let announce = match (&asked.to, delivery.channel.as_str()) {
                (Some(to), kind) => Announce::Here {
                    kind: kind.to_owned(),
                    account: asked.account_id.clone(),
                    to: to.clone(),
                    thread: asked.thread_id.as_ref().map(ToString::to_string),
                },
                (None, _) => Announce::Last,
            };
            (Some(announce), delivery)
        }
    };
    let Some(announce) = announce else {
        return Ok((None, None, delivery));
    };
    delivery.mode = CronDeliveryMode::Announce;
    Ok(match announce.find(tenant, &job.agent_id).await? {
        Ok(mut way) => {
            way.quiet = Some(delivery.ack_max_chars);
            delivery
                .to
                .get_or_insert_with(|| way.conversation_json.clone());
            delivery.channel.clone_from(&way.kind);
            (Some(way), None, delivery)
        }
        Err(why) => (None, Some(why), delivery),
    })
}

async fn prepare(
    tenant: &Arc<Tenant>,
    job: &CronJobRow,
    spec: &CronSpec,
    run_id: &str,
    taking: Taking,
    reply_to: Option<ReplyTarget>,
    now: i64,
) -> Result<Work, StoreError> {
    let agent = gateway_protocol::ids::AgentId::parse(&job.agent_id)
        .unwrap_or_else(|_| tenant.default_agent());
    if !tenant.agents().exists(agent.as_str()) {
        return Ok(Work::Skip(format!("there is no agent {agent} any more")));
    }
    let main = SessionKey::main(&agent);
    let run_in = |key: SessionKey, text: &str| {
        let mut run = AcceptRun::new(tenant, key, run_id, Origin::Cron, text);
        run.agent_id = agent.as_str().to_owned();
        run.request_hash = request_hash(&["cron", run_id]);
        run.reply_to.clone_from(&reply_to);
        run.now_ms = now;
        Box::new(run)
    };
    Ok(match &spec.payload {
        CronPayload::SystemEvent { text } => Work::Event {
            run: (spec.wake_mode == WakeMode::Now && heartbeat::admits_wake(tenant, &agent, now))
                .then(|| run_in(main.clone(), &heartbeat::prompt(tenant, agent.as_str()))),
            key: main.into_string(),
            text: text.clone(),
        },
        CronPayload::Heartbeat {} => {
            let scheduled = matches!(taking, Taking::Due(_));
            match heartbeat::admits(tenant, &agent, scheduled, reply_to.is_some(), now).await? {
                Err(why) => Work::Skip(why),
                Ok(()) => Work::Event {
                    run: Some(run_in(
                        main.clone(),
                        &heartbeat::prompt(tenant, agent.as_str()),
                    )),
                    key: main.into_string(),
                    text: String::new(),
                },
            }
        }
        CronPayload::AgentTurn {
            message,
            model,
            timeout_seconds,
            ..
        } => {
            let key = match spec.session_target.strip_prefix("session:") {
                Some(key) => SessionKey::parse(key),
                None => SessionKey::parse(&format!(
                    "agent:{agent}:cron:{}:run:{}",
                    job.id,
                    tenant.new_id()
                )),
            };
            match key {
                Err(why) => Work::Skip(why.to_string()),
                Ok(key) if !tenant.sessions().has_room(key.as_str()) => {
                    Work::Skip("too many messages wait in the session".to_owned())
                }
                Ok(key) => {
                    let own = !spec.session_target.starts_with("session:");
                    let mut run = run_in(key, message);
                    if own {
                        run.profile.label = Some(job.name.clone());
                        run.model.clone_from(model);
                    }
                    // Whole milliseconds; the bound was checked when the job was written.
                    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
                    let ms = timeout_seconds.map(|s| (s * 1_000.0) as u64);
                    run.timeout_ms = ms.filter(|ms| *ms > 0);
                    Work::Turn(run)
                }
            }
        }
        CronPayload::Webhook { .. } => Work::Post,
        other => Work::Skip(format!("payload kind {} is not supported", other.kind())),
    })
}

/// What follows the commit.
fn after(tenant: &Arc<Tenant>, left: Left) -> Taken {
    if let Some((job, run)) = &left.started {
        finish::tell_started(tenant, job, run);
        if run.kind == "heartbeat" || (run.kind == "systemEvent" && left.accepted.is_some()) {
            heartbeat::ran(tenant, &run.agent_id, run.claimed_at);
        }
    }
    for finished in left.finished {
        finish::tell(tenant, finished);
    }
    if let Some(accepted) = left.accepted {
        kick(tenant, accepted);
    }
    if left.post
        && let Some((job, run)) = left.started
    {
        finish::post_payload(tenant, job, run);
    }
    left.taken
}
