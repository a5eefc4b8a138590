//! The end of a run: its row, the state of its job and what is due to others, in one transaction; then the event.

use std::sync::Arc;

use gateway_protocol::event::Cron as CronEvent;
use gateway_protocol::methods::cron::{
    CronAction, CronAutoDisabled, CronDeliveryMode, CronEventPayload, CronPayload, CronRunStatus,
};
use gateway_store::{CronJobRow, CronRunEnd, CronRunRow, RunRow, RunState, StoreError, Write};
use serde_json::json;

use super::claim::RunDelivery;
use super::heartbeat;
use super::job::{schedule_of, shown, spec_of, status_of};
use super::limits::{
    FAILURE_PAUSES_MS, FAILURES_MAX, SUMMARY_MAX_BYTES, WEBHOOK_PAUSE_MS, WEBHOOK_TRIES,
    WEBHOOKS_IN_FLIGHT_MAX,
};
use super::quiet::is_silent;
use super::{Cron, webhook};
use crate::hub::Routing;
use crate::tenant::Tenant;

/// What the end of a run leaves.
#[derive(Debug)]
pub(crate) struct Finished {
    /// The job after it; `None`: it was deleted before.
    pub(super) job: Option<CronJobRow>,
    /// Whether the job was deleted with it.
    pub(super) removed: bool,
    /// The run.
    pub(super) run: CronRunRow,
    /// Sessions of old runs that went (key, agent).
    pub(super) sessions: Vec<(String, String)>,
    /// A heartbeat that ended: what is told about it.
    pub(super) heartbeat: Option<gateway_protocol::methods::heartbeat::HeartbeatPayload>,
}

/// The pause after so many failures in a row, in ms.
pub(super) fn pause_ms(failures: i64) -> i64 {
    let at = usize::try_from(failures.saturating_sub(1)).unwrap_or(0);
    FAILURE_PAUSES_MS
        .get(at)
        .or(FAILURE_PAUSES_MS.last())
        .copied()
        .unwrap_or(0)
}

/// Ends the run of a job in the transaction that ends the agent's run. `None`: it is not the run of a job.
///
/// # Errors
/// Those of the store.
pub(crate) fn end_in_tx(
    w: &mut Write<'_>,
    ended: &RunRow,
    provider: &str,
    model: Option<&str>,
    now: i64,
) -> Result<Option<Finished>, StoreError> {
    let Some(row) = w.cron_run(&ended.run_id)?.filter(|row| !row.ended) else {
        return Ok(None);
    };
    let delivery: RunDelivery = row
        .delivery_json
        .as_deref()
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    let text = ended.result_text.as_deref().unwrap_or_default();
    let silent = ended.error.is_none() && is_silent(text, delivery.ack_max_chars);
    let beat = row.kind == "heartbeat" || row.kind == "systemEvent";
    if silent && beat {
        w.silence_run(&ended.session_key, &ended.run_id)?;
    }
    let (status, error) = match ended.state {
        RunState::Ok => (CronRunStatus::Ok, None),
        RunState::Aborted => (
            CronRunStatus::Error,
            Some(format!(
                "stopped: {}",
                ended.stop_reason.as_deref().unwrap_or("aborted")
            )),
        ),
        _ => (
            CronRunStatus::Error,
            Some(ended.error.clone().unwrap_or_else(|| "failed".to_owned())),
        ),
    };
    let routed = ended.reply_to_json.is_some();
    let state = match delivery.mode {
        CronDeliveryMode::Announce if routed && !silent => Some("outbox".to_owned()),
        CronDeliveryMode::Announce if !silent => Some("failed".to_owned()),
        CronDeliveryMode::Webhook if !silent => Some("pending".to_owned()),
        _ => None,
    };
    let usage: gateway_protocol::content::Usage = ended
        .usage_json
        .as_deref()
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    let end = CronRunEnd {
        status: status.as_str().to_owned(),
        error,
        summary: Some(text[..text.floor_char_boundary(SUMMARY_MAX_BYTES)].to_owned())
            .filter(|text| !text.is_empty()),
        usage_json: Some(
            json!({"provider": provider, "model": model, "input": usage.input, "output": usage.output})
                .to_string(),
        ),
        delivery_state: state,
        ..CronRunEnd::default()
    };
    let mut finished = settle(w, &row.run_id, end, now)?;
    if beat {
        let told = heartbeat::told(&finished.run, silent, routed, delivery, now);
        heartbeat::remember(w, &told)?;
        finished.heartbeat = Some(told);
    }
    Ok(Some(finished))
}

/// Ends the run of a job and moves the job's state on: counters, pause after a failure, switching off, deletion.
pub(super) fn settle(
    w: &mut Write<'_>,
    run_id: &str,
    mut end: CronRunEnd,
    now: i64,
) -> Result<Finished, StoreError> {
    let before = w.cron_run(run_id)?.ok_or(StoreError::NotFound)?;
    let mut job = w.cron_job(&before.job_id)?;
    let mut removed = false;
    if let Some(job) = &mut job {
        let status = status_of(Some(&end.status)).unwrap_or(CronRunStatus::Error);
        job.last_status = Some(end.status.clone());
        job.last_error.clone_from(&end.error);
        if status == CronRunStatus::Skipped {
            job.consecutive_skipped = job.consecutive_skipped.saturating_add(1);
        } else {
            job.last_run_at = Some(before.claimed_at);
            job.last_duration_ms = Some(now.saturating_sub(before.claimed_at).max(0));
            job.consecutive_skipped = 0;
        }
        match status {
            CronRunStatus::Ok => {
                job.consecutive_errors = 0;
                job.auto_disabled_json = None;
            }
            CronRunStatus::Error => failed(job, now),
            CronRunStatus::Skipped => {}
        }
        let schedule = schedule_of(job);
        let spent = schedule.as_ref().is_none_or(|s| !s.repeats())
            && before.manual == 0
            && job.next_at.is_none();
        if spent {
            let wished = spec_of(job).is_some_and(|spec| spec.delete_after_run == Some(true));
            removed = wished && status == CronRunStatus::Ok && job.system.is_none();
            job.enabled = false;
        }
        end.next_at = job.next_at.filter(|_| job.enabled);
        w.update_cron_job(job)?;
    }
    let run = w.end_cron_run(run_id, &end, now)?;
    if removed && let Some(job) = &job {
        w.delete_cron_job(&job.id)?;
    }
    let sessions = w.prune_cron_runs(&before.job_id)?;
    if let Some(job) = &mut job {
        job.running_at = None;
    }
    Ok(Finished {
        job,
        removed,
        run,
        sessions,
        heartbeat: None,
    })
}

/// After a failure a job pauses; after many in a row it is switched off.
fn failed(job: &mut CronJobRow, now: i64) {
    job.consecutive_errors = job.consecutive_errors.saturating_add(1);
    if job.system.is_none() && job.consecutive_errors >= FAILURES_MAX && job.enabled {
        job.enabled = false;
        job.next_at = None;
        let note = CronAutoDisabled {
            reason: "consecutive-failures".to_owned(),
            at_ms: now,
            consecutive_errors: job.consecutive_errors.unsigned_abs(),
        };
        job.auto_disabled_json = serde_json::to_string(&note).ok();
        return;
    }
    if let (Some(next), Some(schedule)) = (job.next_at, schedule_of(job))
        && schedule.repeats()
    {
        let resume = now.saturating_add(pause_ms(job.consecutive_errors));
        if next < resume {
            job.next_at = schedule.next_ms(resume - 1);
        }
    }
}

/// Tells that a run began.
pub(super) fn tell_started(tenant: &Tenant, job: &CronJobRow, run: &CronRunRow) {
    emit(
        tenant,
        CronEventPayload {
            run_id: Some(run.run_id.clone()),
            run_at_ms: Some(run.occurrence),
            session_key: run.session_key.clone(),
            ..payload(CronAction::Started, &job.id, Some(job))
        },
    );
}

/// An event about a job without anything about a run.
pub(super) fn payload(action: CronAction, id: &str, job: Option<&CronJobRow>) -> CronEventPayload {
    CronEventPayload {
        job_id: id.to_owned(),
        action,
        job: job.map(shown),
        run_id: None,
        run_at_ms: None,
        status: None,
        error: None,
        summary: None,
        session_key: None,
        duration_ms: None,
        next_run_at_ms: job.and_then(|job| job.next_at.filter(|_| job.enabled)),
    }
}

pub(super) fn emit(tenant: &Tenant, payload: CronEventPayload) {
    tenant.hub().emit::<CronEvent>(&payload, Routing::Everyone);
}

/// Tells that a run ended, and wakes the runner: there may be room for another one, or something to deliver.
pub(crate) fn tell(tenant: &Arc<Tenant>, finished: Finished) {
    let run = &finished.run;
    let status = status_of(run.status.as_deref());
    for (key, agent) in &finished.sessions {
        tenant.sessions().deleted(key, agent);
    }
    if status == Some(CronRunStatus::Error) {
        tenant.log(
            "WARN",
            &format!(
                "job {} ({}): {}",
                run.job_id,
                run.job_name,
                run.error.as_deref().unwrap_or("failed")
            ),
        );
        if let Some(job) = &finished.job
            && job.auto_disabled_json.is_some()
        {
            tenant.log(
                "ERROR",
                &format!(
                    "job {} ({}) is switched off after {} failures in a row; next step: `gateway cron enable {}`",
                    job.id, job.name, job.consecutive_errors, job.id
                ),
            );
        }
    }
    emit(
        tenant,
        CronEventPayload {
            run_id: Some(run.run_id.clone()),
            run_at_ms: Some(run.occurrence),
            status,
            error: run.error.clone(),
            summary: run.summary.clone(),
            session_key: run.session_key.clone(),
            duration_ms: Some(run.ended_at.unwrap_or(run.claimed_at) - run.claimed_at),
            ..payload(CronAction::Finished, &run.job_id, finished.job.as_ref())
        },
    );
    if finished.removed {
        emit(
            tenant,
            payload(CronAction::Removed, &run.job_id, finished.job.as_ref()),
        );
    }
    if let Some(told) = finished.heartbeat {
        heartbeat::announce(tenant, &told);
    }
    Cron::nudge(tenant);
}

/// Sends the request of a job whose payload it is, and records how it went.
pub(super) fn post_payload(tenant: &Arc<Tenant>, job: CronJobRow, run: CronRunRow) {
    let tenant = tenant.clone();
    let tracker = tenant.tasks().clone();
    tracker.spawn(async move {
        let sent = send_payload(&tenant, &job, &run).await;
        let now = tenant.now_ms();
        let end = match &sent {
            Ok(()) => CronRunEnd {
                status: CronRunStatus::Ok.as_str().to_owned(),
                ..CronRunEnd::default()
            },
            Err(why) => CronRunEnd {
                status: CronRunStatus::Error.as_str().to_owned(),
                error: Some(why.clone()),
                ..CronRunEnd::default()
            },
        };
        let id = run.run_id.clone();
        match tenant.db().write(move |w| settle(w, &id, end, now)).await {
            Ok(finished) => tell(&tenant, finished),
            // The row stays as running; the next start ends it.
            Err(error) => tenant.log("ERROR", &format!("run {}: {error}", run.run_id)),
        }
    });
}

async fn send_payload(
    tenant: &Arc<Tenant>,
    job: &CronJobRow,
    run: &CronRunRow,
) -> Result<(), String> {
    let Some(CronPayload::Webhook { url, text, secret }) = spec_of(job).map(|spec| spec.payload)
    else {
        return Err("the job has no webhook payload".to_owned());
    };
    let settings = tenant.settings();
    let bearer = match &secret {
        None => None,
        Some(name) => Some(settings.cron.webhook.secrets.get(name).ok_or_else(|| {
            format!("there is no secret {name} in cron.webhook.secrets of the configuration")
        })?),
    };
    let body = json!({
        "jobId": job.id, "jobName": job.name, "runId": run.run_id, "scheduledAtMs": run.occurrence,
        "sentAtMs": tenant.now_ms(), "text": text,
    });
    webhook::post(tenant, &url, &run.run_id, bearer, &body)
        .await
        .map_err(|refusal| refusal.text)
}

/// Starts the deliveries that are due. Each goes on by itself and writes down how it went.
pub(super) async fn deliver_due(tenant: &Arc<Tenant>, now: i64) -> Result<(), StoreError> {
    let limit = i64::try_from(WEBHOOKS_IN_FLIGHT_MAX).unwrap_or(1);
    let due = tenant
        .db()
        .read(move |r| r.pending_cron_deliveries(now, limit * 2))
        .await?;
    for run in due {
        if !tenant.cron().begin_post(&run.run_id) {
            continue;
        }
        let tenant = tenant.clone();
        let tracker = tenant.tasks().clone();
        tracker.spawn(async move {
            let done = deliver(&tenant, &run).await;
            tenant.cron().end_post(&run.run_id);
            match done {
                Ok(()) => Cron::nudge(&tenant),
                Err(error) => tenant.log("ERROR", &format!("run {}: {error}", run.run_id)),
            }
        });
    }
    Ok(())
}

async fn deliver(tenant: &Arc<Tenant>, run: &CronRunRow) -> Result<(), StoreError> {
    let delivery: RunDelivery = run
        .delivery_json
        .as_deref()
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    let id = run.run_id.clone();
    let text = tenant
        .db()
        .read(move |r| r.get_run(&id))
        .await?
        .and_then(|row| row.result_text);
    let body = json!({
        "jobId": run.job_id, "jobName": run.job_name, "runId": run.run_id, "scheduledAtMs": run.occurrence,
        "status": run.status, "error": run.error, "summary": text.as_ref().or(run.summary.as_ref()),
        "sessionKey": run.session_key, "endedAtMs": run.ended_at,
    });
    let settings = tenant.settings();
    let token = settings.cron.webhook.token.as_ref();
    let url = delivery.to.unwrap_or_default();
    let sent = webhook::post(tenant, &url, &run.run_id, token, &body).await;
    let tries = run.delivery_attempts + 1;
    let now = tenant.now_ms();
    let (state, next, error) = match sent {
        Ok(()) => ("delivered", None, None),
        Err(refusal) if refusal.again && tries < WEBHOOK_TRIES => {
            let pause = WEBHOOK_PAUSE_MS << (tries - 1).clamp(0, 10);
            ("pending", Some(now + pause), Some(refusal.text))
        }
        Err(refusal) => ("failed", None, Some(refusal.text)),
    };
    let id = run.run_id.clone();
    tenant
        .db()
        .write(move |w| w.record_cron_delivery(&id, state, next, error.as_deref()))
        .await
}
