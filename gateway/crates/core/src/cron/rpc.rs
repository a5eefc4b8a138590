//! The methods `cron.*`, and (below) those about heartbeats and system events.

mod beats;
mod runs;

use std::sync::Arc;

use gateway_protocol::error::{DetailCode, RpcError, echo};
use gateway_protocol::methods::NoParams;
use gateway_protocol::methods::cron::{
    CronAction, CronAddParams, CronAddResult, CronDeliveryMode, CronDeliveryPreview,
    CronEnabledFilter, CronGetParams, CronJob, CronLastStatusFilter, CronListParams,
    CronListResult, CronListRow, CronRemoveParams, CronRemoveResult, CronRunMode, CronRunParams,
    CronRunResult, CronSort, CronSpec, CronStatusResult, CronUpdateParams, SortDir,
};
use gateway_protocol::value::NonEmpty;
use gateway_store::{CronJobRow, StoreError};

use super::claim::{Taken, Taking, take};
use super::job::{check, patched, shown, spec_of};
use super::schedule::Schedule;
use super::{Cron, finish};
use crate::cx::Cx;
use crate::rpc::error::store;
use crate::tenant::Tenant;

pub(crate) use self::beats::{last_heartbeat, set_heartbeats, system_event, wake};
pub(crate) use self::runs::runs;

/// Rows of a page without a limit.
const PAGE_DEFAULT: u64 = 50;
/// Requests to run one job in one millisecond.
const ASKED_PER_MS_MAX: i64 = 100;

/// For the audit log.
fn about(id: &str) -> serde_json::Value {
    serde_json::json!({ "jobId": echo(id) })
}

fn gone(id: &str) -> RpcError {
    RpcError::new(DetailCode::CronJobNotFound, "cron job not found").with("jobId", echo(id))
}

/// The id under one of its two names.
fn job_id(
    method: &str,
    id: Option<&NonEmpty>,
    older: Option<&NonEmpty>,
) -> Result<String, RpcError> {
    match (id, older) {
        (Some(id), None) | (None, Some(id)) => Ok(id.as_str().to_owned()),
        (Some(id), Some(older)) if id == older => Ok(id.as_str().to_owned()),
        (Some(_), Some(_)) => Err(RpcError::invalid_params(
            method,
            "at /jobId: names another job than id",
        )),
        (None, None) => Err(RpcError::invalid_params(
            method,
            "must have required property 'id'",
        )),
    }
}

async fn find(tenant: &Arc<Tenant>, id: &str) -> Result<CronJobRow, RpcError> {
    let wanted = id.to_owned();
    tenant
        .db()
        .read(move |r| r.cron_job(&wanted))
        .await
        .map_err(|e| store(tenant, &e))?
        .ok_or_else(|| gone(id))
}

pub(crate) async fn list(cx: Cx, p: CronListParams) -> Result<CronListResult, RpcError> {
    let tenant = cx.tenant;
    let mut jobs = tenant
        .db()
        .read(|r| r.cron_jobs())
        .await
        .map_err(|e| store(&tenant, &e))?;
    // Equal as long as no job changed: what a page shows is of the same moment as the page before.
    let parts: Vec<String> = jobs
        .iter()
        .map(|job| {
            format!(
                "{}|{}|{:?}|{:?}",
                job.id, job.updated_at, job.next_at, job.last_status
            )
        })
        .collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let revision = format!("sha256:{}", crate::session::request_hash(&parts));
    let enabled = match p.enabled {
        Some(CronEnabledFilter::Enabled) => Some(true),
        Some(CronEnabledFilter::Disabled) => Some(false),
        Some(CronEnabledFilter::All) => None,
        None => (!p.include_disabled.unwrap_or(false)).then_some(true),
    };
    let query = p
        .query
        .as_deref()
        .map(str::to_lowercase)
        .filter(|q| !q.is_empty());
    jobs.retain(|job| {
        let spec = spec_of(job).unwrap_or_default();
        let text = || {
            format!(
                "{}\n{}\n{}",
                job.name,
                spec.display_name.as_deref().unwrap_or_default(),
                spec.description.as_deref().unwrap_or_default()
            )
            .to_lowercase()
        };
        enabled.is_none_or(|on| job.enabled == on)
            && p.agent_id
                .as_ref()
                .is_none_or(|id| job.agent_id == id.as_str())
            && p.schedule_kind
                .is_none_or(|kind| kind.admits(spec.schedule.kind()))
            && query.as_ref().is_none_or(|q| text().contains(q.as_str()))
            && match p.last_run_status.unwrap_or_default() {
                CronLastStatusFilter::All => true,
                CronLastStatusFilter::Unknown => job.last_status.is_none(),
                CronLastStatusFilter::Ok => job.last_status.as_deref() == Some("ok"),
                CronLastStatusFilter::Error => job.last_status.as_deref() == Some("error"),
                CronLastStatusFilter::Skipped => job.last_status.as_deref() == Some("skipped"),
            }
    });
    match p.sort_by.unwrap_or_default() {
        CronSort::NextRunAtMs => {
            jobs.sort_by_key(|job| (job.next_at.unwrap_or(i64::MAX), job.id.clone()))
        }
        CronSort::UpdatedAtMs => jobs.sort_by_key(|job| (job.updated_at, job.id.clone())),
        CronSort::Name => jobs.sort_by_key(|job| (job.name.to_lowercase(), job.id.clone())),
    }
    if p.sort_dir == Some(SortDir::Desc) {
        jobs.reverse();
    }
    let total = jobs.len() as u64;
    let offset = p.offset.unwrap_or(0);
    let limit = p.limit.map_or(PAGE_DEFAULT, |n| n.get());
    let jobs: Vec<CronListRow> = jobs
        .iter()
        .skip(usize::try_from(offset).unwrap_or(usize::MAX))
        .take(usize::try_from(limit).unwrap_or(usize::MAX))
        .map(|job| CronListRow {
            job: shown(job),
            effective_agent_id: job.agent_id.clone(),
        })
        .collect();
    let (has_more, next_offset) = rest(offset, jobs.len(), total);
    Ok(CronListResult {
        jobs,
        snapshot_revision: revision,
        total,
        offset,
        limit,
        has_more,
        next_offset,
    })
}

fn rest(offset: u64, shown: usize, total: u64) -> (bool, Option<u64>) {
    let end = offset.saturating_add(shown as u64);
    let more = shown > 0 && end < total;
    (more, more.then_some(end))
}

pub(crate) async fn status(cx: Cx, _: NoParams) -> Result<CronStatusResult, RpcError> {
    let tenant = cx.tenant;
    let (jobs, running, next) = tenant
        .db()
        .read(|r| {
            Ok((
                r.cron_jobs()?.len(),
                r.count_running_cron()?,
                r.cron_next_wake()?,
            ))
        })
        .await
        .map_err(|e| store(&tenant, &e))?;
    Ok(CronStatusResult {
        enabled: tenant.settings().cron.enabled,
        triggers_enabled: false,
        store_path: crate::health::STORE_LABEL.to_owned(),
        storage: "sqlite".to_owned(),
        jobs: jobs as u64,
        running: u64::try_from(running).unwrap_or(0),
        next_wake_at_ms: next.filter(|_| tenant.cron().is_open()),
    })
}

pub(crate) async fn get(cx: Cx, p: CronGetParams) -> Result<CronJob, RpcError> {
    let id = job_id("cron.get", p.id.as_ref(), p.job_id.as_ref())?;
    find(&cx.tenant, &id).await.map(|job| shown(&job))
}

pub(crate) async fn add(cx: Cx, p: CronAddParams) -> Result<CronAddResult, RpcError> {
    let (tenant, audit) = (cx.tenant, cx.audit);
    let enabled = p.enabled.unwrap_or(true);
    let spec = CronSpec {
        name: p.name.into_string(),
        display_name: p.display_name.map(String::from),
        description: p
            .description
            .map(String::from)
            .filter(|text| !text.is_empty()),
        agent_id: p.agent_id.map(String::from),
        session_key: p.session_key.map(String::from),
        delete_after_run: p.delete_after_run,
        schedule: p.schedule,
        session_target: p.session_target.into_string(),
        wake_mode: p.wake_mode,
        payload: p.payload,
        delivery: p.delivery,
        catch_up: p.catch_up,
    };
    let id = tenant.new_id();
    let checked = check(&tenant, "cron.add", &id, spec, true)?;
    let now = tenant.now_ms();
    let job = CronJobRow {
        id,
        agent_id: checked.agent,
        name: checked.spec.name.clone(),
        enabled,
        spec_json: encoded(&checked.spec)?,
        created_at: now,
        updated_at: now,
        next_at: first(&checked.schedule, now).filter(|_| enabled),
        ..CronJobRow::default()
    };
    let kept = job.clone();
    tenant
        .db()
        .write(move |w| {
            w.insert_cron_job(&kept)?;
            audit.record(w, &about(&kept.id), now)
        })
        .await
        .map_err(|e| full(&tenant, &e))?;
    told(&tenant, CronAction::Added, &job);
    Ok(CronAddResult {
        delivery_preview: preview(&checked.spec),
        job: shown(&job),
    })
}

fn full(tenant: &Tenant, error: &StoreError) -> RpcError {
    match error {
        StoreError::Limit("MAX_CRON_JOBS_PER_TENANT") => RpcError::new(
            DetailCode::QuotaExceeded,
            format!(
                "there are {} jobs already: delete one first (`gateway cron rm ID`)",
                gateway_store::limits::MAX_CRON_JOBS_PER_TENANT
            ),
        )
        .with("quota", "cronJobs"),
        other => store(tenant, other),
    }
}

fn encoded(spec: &CronSpec) -> Result<String, RpcError> {
    serde_json::to_string(spec).map_err(|_| RpcError::internal("encode"))
}

/// When a job comes due that is written now. A one-shot time that is just over is due at once.
fn first(schedule: &Schedule, now: i64) -> Option<i64> {
    match schedule {
        Schedule::At(at) => Some(*at),
        other => other.next_ms(now),
    }
}

fn preview(spec: &CronSpec) -> CronDeliveryPreview {
    let delivery = spec.delivery.clone().unwrap_or_default();
    let (label, detail) = match delivery.mode {
        CronDeliveryMode::None => ("not requested".to_owned(), "not requested".to_owned()),
        CronDeliveryMode::Webhook => (
            "webhook".to_owned(),
            format!("POST {}", delivery.to.unwrap_or_default()),
        ),
        CronDeliveryMode::Announce => match (delivery.channel, delivery.to) {
            (Some(kind), Some(to)) => (kind.clone(), format!("{kind} {to}")),
            _ => (
                "last".to_owned(),
                "the conversation that the agent was last talked to in".to_owned(),
            ),
        },
    };
    CronDeliveryPreview { label, detail }
}

fn told(tenant: &Arc<Tenant>, action: CronAction, job: &CronJobRow) {
    finish::emit(tenant, finish::payload(action, &job.id, Some(job)));
    Cron::nudge(tenant);
}

/// The gateway's own jobs are what the configuration says.
fn not_own(job: &CronJobRow) -> Result<(), RpcError> {
    if job.system.is_some() {
        return Err(RpcError::invalid(format!(
            "this is the heartbeat of agent {0}: agents.entries.{0}.heartbeat of the configuration sets it, `gateway system heartbeat disable` switches all off",
            job.agent_id
        )));
    }
    Ok(())
}

pub(crate) async fn update(cx: Cx, p: CronUpdateParams) -> Result<CronJob, RpcError> {
    let id = job_id("cron.update", p.id.as_ref(), p.job_id.as_ref())?;
    let (tenant, audit) = (cx.tenant, cx.audit);
    let before = find(&tenant, &id).await?;
    not_own(&before)?;
    let old = spec_of(&before).unwrap_or_default();
    let enabled = p.patch.enabled.unwrap_or(before.enabled);
    let spec = patched(&old, p.patch)?;
    let new_times = spec.schedule != old.schedule;
    let resumed = enabled && !before.enabled;
    let checked = check(&tenant, "cron.update", &id, spec, new_times || resumed)?;
    let now = tenant.now_ms();
    let spec_json = encoded(&checked.spec)?;
    let schedule = checked.schedule;
    let job = tenant
        .db()
        .write(move |w| {
            let mut job = w.cron_job(&id)?.ok_or(StoreError::NotFound)?;
            if job.spec_json != before.spec_json || job.enabled != before.enabled {
                return Err(StoreError::Conflict("the job changed; read it again"));
            }
            job.agent_id = checked.agent;
            job.name = checked.spec.name;
            job.spec_json = spec_json;
            job.enabled = enabled;
            job.updated_at = now;
            if resumed {
                job.consecutive_errors = 0;
                job.auto_disabled_json = None;
            }
            if !enabled {
                job.next_at = None;
            } else if new_times || resumed {
                job.next_at = first(&schedule, now);
                job.done_through = 0;
            }
            w.update_cron_job(&job)?;
            audit.record(w, &about(&job.id), now)?;
            Ok(job)
        })
        .await
        .map_err(|e| match e {
            StoreError::NotFound => gone(&before_id(&p.id, &p.job_id)),
            other => store(&tenant, &other),
        })?;
    told(&tenant, CronAction::Updated, &job);
    Ok(shown(&job))
}

fn before_id(id: &Option<NonEmpty>, older: &Option<NonEmpty>) -> String {
    id.as_ref()
        .or(older.as_ref())
        .map(|id| id.as_str().to_owned())
        .unwrap_or_default()
}

pub(crate) async fn remove(cx: Cx, p: CronRemoveParams) -> Result<CronRemoveResult, RpcError> {
    let id = job_id("cron.remove", p.id.as_ref(), p.job_id.as_ref())?;
    let (tenant, audit) = (cx.tenant, cx.audit);
    let job = find(&tenant, &id).await?;
    not_own(&job)?;
    let (wanted, now) = (id.clone(), tenant.now_ms());
    let found = tenant
        .db()
        .write(move |w| {
            let found = w.delete_cron_job(&wanted)?;
            audit.record(w, &about(&wanted), now)?;
            Ok(found)
        })
        .await
        .map_err(|e| store(&tenant, &e))?;
    if !found {
        return Err(gone(&id));
    }
    told(&tenant, CronAction::Removed, &job);
    Ok(CronRemoveResult {
        ok: true,
        removed: true,
    })
}

pub(crate) async fn run(cx: Cx, p: CronRunParams) -> Result<CronRunResult, RpcError> {
    let id = job_id("cron.run", p.id.as_ref(), p.job_id.as_ref())?;
    cx.audit.about(about(&id));
    let tenant = cx.tenant;
    let process = tenant.shared().boot_id.clone();
    if let Some(expected) = &p.expected_process_instance_id
        && expected.as_str() != process
    {
        return Err(RpcError::new(
            DetailCode::Conflict,
            "the gateway was started anew since then",
        )
        .with("processInstanceId", process));
    }
    let job = find(&tenant, &id).await?;
    let now = tenant.now_ms();
    let refused = |reason: &str| {
        Ok(CronRunResult {
            ok: true,
            enqueued: false,
            run_id: None,
            reason: Some(reason.to_owned()),
            process_instance_id: process.clone(),
        })
    };
    match p.mode.unwrap_or_default() {
        CronRunMode::Force => {}
        CronRunMode::IfEnabled if job.enabled => {}
        CronRunMode::IfEnabled => return refused("disabled"),
        CronRunMode::Due if job.enabled && job.next_at.is_some_and(|at| at <= now) => {}
        CronRunMode::Due => return refused("not-due"),
    }
    let running = tenant
        .db()
        .read(|r| r.count_running_cron())
        .await
        .map_err(|e| store(&tenant, &e))?;
    if running >= super::limits::RUNNING_JOBS_MAX {
        return Err(RpcError::new(
            DetailCode::Overloaded,
            format!("{running} runs of jobs go on; try again when one of them ended"),
        )
        .retry_after_ms(1_000));
    }
    for number in 1..=ASKED_PER_MS_MAX {
        return match take(&tenant, &job, Taking::Asked(number), now).await {
            Ok(Taken::Run(run_id)) => Ok(CronRunResult {
                ok: true,
                enqueued: true,
                run_id: Some(run_id),
                reason: None,
                process_instance_id: process,
            }),
            Ok(Taken::Skipped) => refused("skipped"),
            Ok(Taken::Busy) => refused("already-running"),
            Ok(Taken::Nothing) => Err(RpcError::new(
                DetailCode::Conflict,
                "the job changed; try again",
            )),
            Ok(Taken::Gone) => Err(gone(&id)),
            Err(StoreError::Conflict(_)) => continue,
            Err(error) => Err(store(&tenant, &error)),
        };
    }
    Err(RpcError::new(
        DetailCode::Overloaded,
        "too many requests to run this job; try again",
    )
    .retry_after_ms(10))
}
