//! Heartbeats: an agent that looks by itself, in its main session, whether something is due. One job of the gateway's own
//! per agent; a wake is the same run, asked for.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use gateway_protocol::event::Heartbeat as HeartbeatEvent;
use gateway_protocol::ids::AgentId;
use gateway_protocol::methods::cron::{
    CronDeliveryMode, CronPayload, CronSchedule, CronSpec, WakeMode,
};
use gateway_protocol::methods::heartbeat::{HeartbeatPayload, HeartbeatStatus};
use gateway_protocol::session_key::SessionKey;
use gateway_store::{CronJobRow, CronRunRow, StoreError, Write};
use sha2::{Digest, Sha256};

use super::Cron;
use super::claim::{RunDelivery, Taken, Taking, take};
use super::schedule::{Schedule, minute_of_day, parse_zone};
use crate::hub::Routing;
use crate::limits::{HEARTBEAT_GAP_MIN_MS, HEARTBEAT_WINDOW_MS, HEARTBEATS_PER_WINDOW_MAX};
use crate::tenant::Tenant;

/// What the gateway calls its own job.
pub(super) const SYSTEM: &str = "heartbeat";
/// Where the last heartbeat is kept.
const LAST: &str = "heartbeat.last";
/// Where it is kept that an operator switched heartbeats off.
const SWITCH: &str = "heartbeat.enabled";
/// Period of a job that is switched off, so that it has a schedule.
const NOMINAL_MS: u64 = 30 * 60_000;
/// Begin of a reply that is shown.
const PREVIEW_CHARS: usize = 200;

/// What an agent is told where the configuration says nothing.
const PROMPT: &str = "This is a heartbeat: nobody wrote, it is time to look. System messages above say what is new. Do what is due. \
                      If nothing needs attention, reply NO_REPLY.";

/// What this agent is told.
pub(super) fn prompt(tenant: &Tenant, agent: &str) -> String {
    tenant
        .settings()
        .agents
        .entries
        .get(agent)
        .and_then(|a| a.heartbeat.prompt.clone())
        .unwrap_or_else(|| PROMPT.to_owned())
}

/// The heartbeat of an agent as health and status show it.
pub(crate) fn shown(tenant: &Tenant, agent: &str) -> gateway_protocol::methods::system::Heartbeat {
    let settings = tenant.settings();
    let Some(heartbeat) = settings.agents.entries.get(agent).map(|a| &a.heartbeat) else {
        return gateway_protocol::methods::system::Heartbeat::default();
    };
    let on = heartbeat.every_ms > 0
        && settings.cron.enabled
        && !tenant.cron().beats_off.load(Ordering::Relaxed);
    gateway_protocol::methods::system::Heartbeat {
        enabled: on,
        every: every(heartbeat.every_ms),
        every_ms: on.then_some(heartbeat.every_ms),
        prompt: prompt(tenant, agent),
        target: heartbeat.target.as_str().to_owned(),
        ack_max_chars: heartbeat.ack_max_chars as u64,
    }
}

/// A length of time as it would be written in the configuration.
fn every(ms: u64) -> String {
    match ms {
        ms if ms % 3_600_000 == 0 && ms > 0 => format!("{}h", ms / 3_600_000),
        ms if ms % 60_000 == 0 => format!("{}m", ms / 60_000),
        ms => format!("{}s", ms / 1_000),
    }
}

/// Remembers that a heartbeat of this agent runs.
pub(super) fn ran(tenant: &Tenant, agent: &str, at: i64) {
    let mut beats = tenant.cron().beats.lock();
    let times = beats.entry(agent.to_owned()).or_default();
    times.push_back(at);
    while times.len() > HEARTBEATS_PER_WINDOW_MAX {
        times.pop_front();
    }
}

/// Whether another heartbeat may run although nobody planned it: not more than a few in a minute.
pub(super) fn admits_wake(tenant: &Tenant, agent: &AgentId, now: i64) -> bool {
    let beats = tenant.cron().beats.lock();
    beats.get(agent.as_str()).is_none_or(|times| {
        let recent = times
            .iter()
            .filter(|at| now.saturating_sub(**at).abs() < HEARTBEAT_WINDOW_MS);
        recent.count() < HEARTBEATS_PER_WINDOW_MAX
    })
}

/// Whether a heartbeat runs now, or why not.
///
/// # Errors
/// Those of the store.
pub(super) async fn admits(
    tenant: &Arc<Tenant>,
    agent: &AgentId,
    scheduled: bool,
    has_route: bool,
    now: i64,
) -> Result<Result<(), String>, StoreError> {
    if !admits_wake(tenant, agent, now) {
        return Ok(Err("flood".to_owned()));
    }
    let main = SessionKey::main(agent);
    if !tenant.sessions().has_room(main.as_str()) {
        return Ok(Err("requests-in-flight".to_owned()));
    }
    if !scheduled {
        return Ok(Ok(()));
    }
    let settings = tenant.settings();
    let Some(heartbeat) = settings
        .agents
        .entries
        .get(agent.as_str())
        .map(|a| &a.heartbeat)
    else {
        return Ok(Err("disabled".to_owned()));
    };
    if let Some(hours) = &heartbeat.active_hours
        && let Ok(zone) = parse_zone(&hours.zone)
        && !hours.contains(minute_of_day(now, zone))
    {
        return Ok(Err("quiet-hours".to_owned()));
    }
    if !tenant.sessions().is_idle(main.as_str()) {
        return Ok(Err("requests-in-flight".to_owned()));
    }
    let recent = tenant
        .cron()
        .beats
        .lock()
        .get(agent.as_str())
        .and_then(|times| times.back().copied())
        .is_some_and(|at| now.saturating_sub(at).abs() < HEARTBEAT_GAP_MIN_MS);
    if recent {
        return Ok(Err("too-soon".to_owned()));
    }
    // Without news, and without anybody who could be told, asking the model would only cost.
    if !has_route && heartbeat.target != gateway_config::HeartbeatTarget::None {
        let key = main.into_string();
        let news = tenant.db().read(move |r| r.system_events(&key)).await?;
        if news.is_empty() {
            return Ok(Err("no-route".to_owned()));
        }
    }
    Ok(Ok(()))
}

/// What is told about a heartbeat that ran.
pub(super) fn told(
    run: &CronRunRow,
    silent: bool,
    routed: bool,
    delivery: RunDelivery,
    now: i64,
) -> HeartbeatPayload {
    let failed = run.status.as_deref() != Some("ok");
    let (status, reason) = match (failed, silent) {
        (true, _) => (HeartbeatStatus::Failed, run.error.clone()),
        (false, true) => (HeartbeatStatus::OkToken, None),
        (false, false) if routed => (HeartbeatStatus::Sent, None),
        (false, false) if delivery.mode == CronDeliveryMode::None => {
            (HeartbeatStatus::Skipped, Some("target-none".to_owned()))
        }
        (false, false) => (HeartbeatStatus::Skipped, Some("no-route".to_owned())),
    };
    HeartbeatPayload {
        ts: now,
        status,
        agent_id: run.agent_id.clone(),
        preview: run
            .summary
            .as_deref()
            .map(|text| text.chars().take(PREVIEW_CHARS).collect()),
        channel: routed.then(|| delivery.channel.clone()),
        message: (reason.as_deref() == Some("no-route")).then(|| {
            "There is no conversation to tell it in yet: write to the agent once over a channel, or set agents.entries.<id>.heartbeat.target."
                .to_owned()
        }),
        reason,
        has_media: false,
        duration_ms: now.saturating_sub(run.claimed_at).max(0),
    }
}

/// What is told about a heartbeat that did not run.
pub(super) fn told_skipped(run: &CronRunRow, now: i64) -> HeartbeatPayload {
    HeartbeatPayload {
        ts: now,
        status: HeartbeatStatus::Skipped,
        agent_id: run.agent_id.clone(),
        preview: None,
        channel: None,
        message: None,
        reason: run.error.clone(),
        has_media: false,
        duration_ms: 0,
    }
}

/// Keeps it for `last-heartbeat`.
///
/// # Errors
/// Those of the store.
pub(super) fn remember(w: &mut Write<'_>, told: &HeartbeatPayload) -> Result<(), StoreError> {
    let text =
        serde_json::to_string(told).map_err(|e| StoreError::Io(format!("heartbeat: {e}")))?;
    w.meta_set(LAST, &text)
}

/// The last heartbeat.
///
/// # Errors
/// Those of the store.
pub(super) async fn last(tenant: &Tenant) -> Result<Option<HeartbeatPayload>, StoreError> {
    let text = tenant.db().read(|r| r.meta_get(LAST)).await?;
    Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
}

/// Sends the event.
pub(super) fn announce(tenant: &Tenant, told: &HeartbeatPayload) {
    tenant.hub().emit::<HeartbeatEvent>(told, Routing::Everyone);
}

/// Switches all heartbeats of the tenant on (as far as the configuration has them) or off.
///
/// # Errors
/// Those of the store.
pub(super) async fn switch(tenant: &Arc<Tenant>, on: bool) -> Result<(), StoreError> {
    tenant
        .db()
        .write(move |w| {
            if on {
                w.meta_delete(SWITCH).map(drop)
            } else {
                w.meta_set(SWITCH, "false")
            }
        })
        .await?;
    sync(tenant).await?;
    Cron::nudge(tenant);
    Ok(())
}

/// Whether an operator left heartbeats on.
///
/// # Errors
/// Those of the store.
pub(super) async fn switched_on(tenant: &Tenant) -> Result<bool, StoreError> {
    let word = tenant.db().read(|r| r.meta_get(SWITCH)).await?;
    Ok(word.as_deref() != Some("false"))
}

/// Makes, changes and deletes the gateway's own jobs so that they say what the settings say.
///
/// # Errors
/// Those of the store.
pub(crate) async fn sync(tenant: &Arc<Tenant>) -> Result<(), StoreError> {
    let settings = tenant.settings();
    let now = tenant.now_ms();
    let on = switched_on(tenant).await?;
    tenant.cron().beats_off.store(!on, Ordering::Relaxed);
    let wanted: Vec<CronJobRow> = settings
        .agents
        .entries
        .values()
        .map(|agent| wanted(tenant, &agent.id, agent.heartbeat.every_ms, on, now))
        .collect();
    let known = tenant.db().read(|r| r.cron_jobs()).await?;
    let same = |a: &CronJobRow, b: &CronJobRow| {
        a.agent_id == b.agent_id && a.spec_json == b.spec_json && a.enabled == b.enabled
    };
    let own: Vec<&CronJobRow> = known
        .iter()
        .filter(|row| row.system.as_deref() == Some(SYSTEM))
        .collect();
    // An agent without heartbeats needs no row before somebody wakes it.
    let wanted: Vec<CronJobRow> = wanted
        .into_iter()
        .filter(|job| job.enabled || own.iter().any(|row| row.agent_id == job.agent_id))
        .collect();
    let settled = own.len() == wanted.len()
        && wanted
            .iter()
            .all(|job| own.iter().any(|row| same(row, job)));
    if settled {
        return Ok(());
    }
    tenant
        .db()
        .write(move |w| {
            for row in w.cron_jobs()? {
                if row.system.as_deref() != Some(SYSTEM) {
                    continue;
                }
                match wanted.iter().find(|job| job.agent_id == row.agent_id) {
                    None => {
                        w.delete_cron_job(&row.id)?;
                    }
                    Some(job) if !same(&row, job) => {
                        w.update_cron_job(&CronJobRow {
                            name: job.name.clone(),
                            enabled: job.enabled,
                            spec_json: job.spec_json.clone(),
                            updated_at: now,
                            next_at: job.next_at,
                            ..row
                        })?;
                    }
                    Some(_) => {}
                }
            }
            for job in &wanted {
                match w.insert_cron_job(job) {
                    Ok(()) | Err(StoreError::Conflict(_)) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        })
        .await
}

fn wanted(tenant: &Tenant, agent: &str, every_ms: u64, on: bool, now: i64) -> CronJobRow {
    let period = if every_ms == 0 { NOMINAL_MS } else { every_ms };
    // Tenants and agents are spread over the period, each always at the same place.
    let hash = Sha256::digest(format!("{}/{agent}", tenant.id().as_str()).as_bytes());
    let mut first = [0_u8; 8];
    first.copy_from_slice(&hash[..8]);
    let anchor = u64::from_le_bytes(first) % period;
    let spec = CronSpec {
        name: format!("heartbeat-{agent}"),
        display_name: Some(format!("Heartbeat ({agent})")),
        agent_id: Some(agent.to_owned()),
        schedule: CronSchedule::Every {
            every_ms: period,
            anchor_ms: Some(anchor),
        },
        session_target: "main".to_owned(),
        wake_mode: WakeMode::NextHeartbeat,
        payload: CronPayload::Heartbeat {},
        ..CronSpec::default()
    };
    let enabled = on && every_ms > 0;
    let next = Schedule::parse(&spec.schedule, agent)
        .ok()
        .and_then(|schedule| schedule.next_ms(now));
    CronJobRow {
        id: tenant.new_id(),
        agent_id: agent.to_owned(),
        name: spec.name.clone(),
        system: Some(SYSTEM.to_owned()),
        enabled,
        spec_json: serde_json::to_string(&spec).unwrap_or_default(),
        created_at: now,
        updated_at: now,
        next_at: next.filter(|_| enabled),
        ..CronJobRow::default()
    }
}

/// Puts a text before the agent's next message; with `run` the agent looks at it now. The text is durable when this
/// answers.
///
/// # Errors
/// Those of the store.
pub(crate) async fn wake(
    tenant: &Arc<Tenant>,
    agent: &AgentId,
    key: &SessionKey,
    text: &str,
    run: bool,
) -> Result<(), StoreError> {
    let now = tenant.now_ms();
    let (to, text) = (key.as_str().to_owned(), text.to_owned());
    tenant
        .db()
        .write(move |w| w.push_system_event(&to, &text, now))
        .await?;
    if run {
        look(tenant, agent).await
    } else {
        Ok(())
    }
}

/// Has the agent look now at what waits in its main session. After too many looks in a minute it waits for the next
/// heartbeat or message.
///
/// # Errors
/// Those of the store.
pub(crate) async fn look(tenant: &Arc<Tenant>, agent: &AgentId) -> Result<(), StoreError> {
    if !admits_wake(tenant, agent, tenant.now_ms()) {
        return Ok(());
    }
    let job = own_job(tenant, agent).await?;
    for number in 1..=HEARTBEATS_PER_WINDOW_MAX as i64 {
        match take(tenant, &job, Taking::Asked(number), tenant.now_ms()).await {
            Ok(Taken::Run(_) | Taken::Skipped | Taken::Busy) => break,
            Ok(Taken::Nothing | Taken::Gone) | Err(StoreError::Conflict(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The heartbeat job of an agent; made, switched off, where there is none.
async fn own_job(tenant: &Arc<Tenant>, agent: &AgentId) -> Result<CronJobRow, StoreError> {
    let fresh = wanted(tenant, agent.as_str(), 0, false, tenant.now_ms());
    let agent = agent.as_str().to_owned();
    tenant
        .db()
        .write(move |w| {
            let found = w
                .cron_jobs()?
                .into_iter()
                .find(|row| row.system.as_deref() == Some(SYSTEM) && row.agent_id == agent);
            match found {
                Some(row) => Ok(row),
                None => {
                    w.insert_cron_job(&fresh)?;
                    Ok(fresh)
                }
            }
        })
        .await
}
