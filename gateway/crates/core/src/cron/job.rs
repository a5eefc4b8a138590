//! What may be written about a job, and how a job is shown.

use gateway_protocol::error::{DetailCode, RpcError, echo};
use gateway_protocol::methods::cron::{
    CronAutoDisabled, CronCatchUpMode, CronDelivery, CronDeliveryMode, CronJob, CronJobState,
    CronPatch, CronPayload, CronRunStatus, CronSchedule, CronSpec,
};
use gateway_protocol::session_key::SessionKey;
use gateway_store::CronJobRow;
use serde_json::{Map, Value};

use super::limits::{
    AT_MAX_MS, AT_PAST_MAX_MS, CATCH_UP_ALL_MAX, CATCH_UP_GRACE_MAX_MS, NAME_MAX_CHARS,
    TEXT_MAX_BYTES, TIMEOUT_MAX_SECONDS,
};
use super::schedule::{Schedule, parse_at, rfc3339};
use super::{target, webhook};
use crate::tenant::Tenant;

/// A description that was found good.
pub(super) struct Checked {
    /// As it is kept: relative times made absolute, defaults of the moment filled in.
    pub spec: CronSpec,
    /// Ready to be asked.
    pub schedule: Schedule,
    /// The agent that runs it.
    pub agent: String,
}

fn invalid(method: &str, at: &str, why: impl std::fmt::Display) -> RpcError {
    RpcError::invalid_params(method, format_args!("at {at}: {why}"))
}

/// Checks everything about a job. `fresh` is true where the schedule is new: then a time that is over is refused.
///
/// # Errors
/// What is wrong, and where.
pub(super) fn check(
    tenant: &Tenant,
    method: &str,
    id: &str,
    mut spec: CronSpec,
    fresh: bool,
) -> Result<Checked, RpcError> {
    let now = tenant.now_ms();
    if spec.name.trim().is_empty() || spec.name.chars().count() > NAME_MAX_CHARS {
        return Err(invalid(
            method,
            "/name",
            format_args!("must have 1 to {NAME_MAX_CHARS} characters"),
        ));
    }
    let agents = tenant.agents();
    let agent = match spec.agent_id.as_deref() {
        Some(named) => crate::rpc::error::agent_id(&agents, named)?.into_string(),
        None => agents.default_id().to_owned(),
    };
    match &mut spec.schedule {
        CronSchedule::At { at } if fresh => {
            let when = parse_at(at, Some(now), chrono_tz::Tz::UTC)
                .map_err(|why| invalid(method, "/schedule/at", why))?;
            if when < now.saturating_sub(AT_PAST_MAX_MS) {
                return Err(invalid(
                    method,
                    "/schedule/at",
                    format_args!("{} is over", rfc3339(when)),
                ));
            }
            *at = rfc3339(when);
        }
        CronSchedule::Every {
            every_ms,
            anchor_ms,
        } => {
            // Only the phase: a clock that is set back to before this moment must not make the job wait for it.
            let now = u64::try_from(now).unwrap_or(0);
            anchor_ms.get_or_insert(now % (*every_ms).max(1));
        }
        _ => {}
    }
    let schedule =
        Schedule::parse(&spec.schedule, id).map_err(|why| invalid(method, "/schedule", why))?;
    if !schedule.repeats() {
        spec.delete_after_run.get_or_insert(true);
    }
    payload(tenant, method, &spec)?;
    session(tenant, method, &mut spec, &agent)?;
    if let Some(delivery) = &spec.delivery {
        check_delivery(tenant, method, delivery)?;
    }
    if let Some(policy) = &spec.catch_up {
        let all = policy.mode == CronCatchUpMode::All;
        if policy
            .max
            .is_some_and(|max| !all || !(1..=CATCH_UP_ALL_MAX).contains(&max))
        {
            return Err(invalid(
                method,
                "/catchUp/max",
                format_args!("must be from 1 to {CATCH_UP_ALL_MAX}, and belongs to mode all"),
            ));
        }
        let most = u64::try_from(CATCH_UP_GRACE_MAX_MS).unwrap_or(0);
        if policy.grace_ms.is_some_and(|ms| ms > most) {
            return Err(invalid(
                method,
                "/catchUp/graceMs",
                format_args!("must be at most {most}"),
            ));
        }
    }
    Ok(Checked {
        spec,
        schedule,
        agent,
    })
}

fn payload(tenant: &Tenant, method: &str, spec: &CronSpec) -> Result<(), RpcError> {
    let text = |at: &str, text: &str| {
        if text.trim().is_empty() {
            return Err(invalid(method, at, "must be a text that is not empty"));
        }
        if text.len() > TEXT_MAX_BYTES {
            return Err(
                RpcError::new(DetailCode::PayloadTooLarge, format!("{at} is too long"))
                    .with("limitBytes", TEXT_MAX_BYTES),
            );
        }
        Ok(())
    };
    match &spec.payload {
        CronPayload::SystemEvent { text: event } => text("/payload/text", event),
        CronPayload::AgentTurn {
            message,
            timeout_seconds,
            tools_allow,
            thinking,
            fallbacks,
            model,
        } => {
            text("/payload/message", message)?;
            if timeout_seconds.is_some_and(|s| !(0.0..=TIMEOUT_MAX_SECONDS).contains(&s)) {
                return Err(invalid(
                    method,
                    "/payload/timeoutSeconds",
                    format_args!("must be from 0 to {TIMEOUT_MAX_SECONDS}"),
                ));
            }
            if model.as_deref().is_some_and(|model| model.len() > 256) {
                return Err(invalid(method, "/payload/model", "is too long"));
            }
            // A run of a job has the tools of its agent: never more, and no way to say less.
            let all = tools_allow
                .as_ref()
                .is_none_or(|tools| tools.len() == 1 && tools[0] == "*");
            if !all {
                return Err(RpcError::unsupported("payload.toolsAllow"));
            }
            if thinking
                .as_deref()
                .is_some_and(|t| !t.is_empty() && t != "off")
            {
                return Err(RpcError::unsupported("payload.thinking"));
            }
            if fallbacks.as_ref().is_some_and(|f| !f.is_empty()) {
                return Err(RpcError::unsupported("payload.fallbacks"));
            }
            Ok(())
        }
        CronPayload::Webhook {
            url,
            text: body,
            secret,
        } => {
            if let Some(body) = body {
                text("/payload/text", body)?;
            }
            let hook = &tenant.settings().cron.webhook;
            if let Some(name) = secret
                && !hook.secrets.contains_key(name)
            {
                return Err(invalid(
                    method,
                    "/payload/secret",
                    format_args!(
                        "there is no secret \"{}\": add it to cron.webhook.secrets of the configuration",
                        echo(name)
                    ),
                ));
            }
            webhook::check(hook, url).map_err(|why| invalid(method, "/payload/url", why))
        }
        CronPayload::Heartbeat {} => Err(invalid(
            method,
            "/payload/kind",
            "heartbeats are made by the gateway; agents.entries.<id>.heartbeat of the configuration sets them",
        )),
        CronPayload::Command { .. } | CronPayload::Script { .. } => Err(RpcError::unsupported(
            &format!("payload.kind {}", spec.payload.kind()),
        )),
    }
}

/// Which session goes with which payload; `current` becomes a name.
fn session(
    tenant: &Tenant,
    method: &str,
    spec: &mut CronSpec,
    agent: &str,
) -> Result<(), RpcError> {
    let at = "/sessionTarget";
    let event = matches!(spec.payload, CronPayload::SystemEvent { .. });
    let turn = matches!(spec.payload, CronPayload::AgentTurn { .. });
    match spec.session_target.as_str() {
        "main" if turn => Err(invalid(
            method,
            at,
            "main is for system events; an agentTurn runs isolated or in session:<key>",
        )),
        "main" => Ok(()),
        _ if event => Err(invalid(method, at, "a systemEvent goes to main")),
        "isolated" => Ok(()),
        "current" => match spec.session_key.as_deref() {
            Some(key) => {
                spec.session_target = format!("session:{}", named(tenant, method, key, agent)?);
                Ok(())
            }
            None => Err(invalid(
                method,
                at,
                "current needs sessionKey; or write session:<key> or isolated",
            )),
        },
        other => match other.strip_prefix("session:") {
            Some(key) => {
                spec.session_target = format!("session:{}", named(tenant, method, key, agent)?);
                Ok(())
            }
            None => Err(invalid(
                method,
                at,
                "must be main, isolated, current or session:<key>",
            )),
        },
    }
}

fn named(tenant: &Tenant, method: &str, key: &str, agent: &str) -> Result<String, RpcError> {
    let owner =
        gateway_protocol::ids::AgentId::parse(agent).unwrap_or_else(|_| tenant.default_agent());
    SessionKey::qualify_for(key, Some(&owner), &owner)
        .map(SessionKey::into_string)
        .map_err(|why| invalid(method, "/sessionTarget", why))
}

fn check_delivery(tenant: &Tenant, method: &str, delivery: &CronDelivery) -> Result<(), RpcError> {
    for (name, asked) in [
        ("delivery.failureDestination", &delivery.failure_destination),
        (
            "delivery.completionDestination",
            &delivery.completion_destination,
        ),
    ] {
        if asked.as_ref().is_some_and(|value| !value.is_null()) {
            return Err(RpcError::unsupported(name));
        }
    }
    match delivery.mode {
        CronDeliveryMode::None => Ok(()),
        CronDeliveryMode::Webhook => match &delivery.to {
            Some(url) => webhook::check(&tenant.settings().cron.webhook, url)
                .map_err(|why| invalid(method, "/delivery/to", why)),
            None => Err(invalid(
                method,
                "/delivery/to",
                "a webhook needs its address",
            )),
        },
        CronDeliveryMode::Announce => match (delivery.channel.as_deref(), &delivery.to) {
            (None | Some("last"), None) => Ok(()),
            (None | Some("last"), Some(_)) => Err(invalid(
                method,
                "/delivery/channel",
                "a conversation needs its channel kind",
            )),
            (Some(_), None) => Err(invalid(
                method,
                "/delivery/to",
                "a channel needs a conversation: direct:ID, group:ID or channel:ID",
            )),
            (Some(kind), Some(to)) => {
                let thread = delivery.thread_id.as_ref().map(ToString::to_string);
                target::here(tenant, kind, delivery.account_id.as_deref(), to, thread)
                    .map(drop)
                    .map_err(|why| invalid(method, "/delivery", why))
            }
        },
    }
}

/// Writes a patch into a description.
///
/// # Errors
/// What of the patch makes no sense.
pub(super) fn patched(spec: &CronSpec, patch: CronPatch) -> Result<CronSpec, RpcError> {
    let mut spec = spec.clone();
    if let Some(name) = patch.name {
        spec.name = name.into_string();
    }
    if let Some(name) = patch.display_name {
        spec.display_name = name.map(String::from);
    }
    if let Some(text) = patch.description {
        spec.description = Some(text.into_string()).filter(|text| !text.is_empty());
    }
    if let Some(agent) = patch.agent_id {
        spec.agent_id = agent.map(String::from);
    }
    if let Some(key) = patch.session_key {
        spec.session_key = key.map(String::from);
    }
    if let Some(delete) = patch.delete_after_run {
        spec.delete_after_run = Some(delete);
    }
    if let Some(schedule) = patch.schedule {
        if patch.delete_after_run.is_none() {
            spec.delete_after_run = None;
        }
        spec.schedule = schedule;
    }
    if let Some(target) = patch.session_target {
        spec.session_target = target.into_string();
    }
    if let Some(mode) = patch.wake_mode {
        spec.wake_mode = mode;
    }
    if let Some(payload) = patch.payload {
        let same = payload
            .get("kind")
            .is_none_or(|kind| kind.as_str() == Some(spec.payload.kind()));
        let old = if same { Some(&spec.payload) } else { None };
        spec.payload = merged("/patch/payload", old, payload)?;
    }
    if let Some(delivery) = patch.delivery {
        let old = spec.delivery.clone().unwrap_or_default();
        // Another mode has another target.
        let same = delivery
            .get("mode")
            .is_none_or(|mode| serde_json::to_value(old.mode).is_ok_and(|known| known == *mode));
        spec.delivery = Some(merged("/patch/delivery", same.then_some(&old), delivery)?);
    }
    if let Some(policy) = patch.catch_up {
        spec.catch_up = policy;
    }
    Ok(spec)
}

/// The fields of `patch` over those of `old`; null takes a field away.
fn merged<T: serde::Serialize + serde::de::DeserializeOwned>(
    at: &str,
    old: Option<&T>,
    patch: Map<String, Value>,
) -> Result<T, RpcError> {
    let mut whole = match old.map(serde_json::to_value) {
        Some(Ok(Value::Object(map))) => map,
        _ => Map::new(),
    };
    for (name, value) in patch {
        if value.is_null() {
            whole.remove(&name);
        } else {
            whole.insert(name, value);
        }
    }
    serde_json::from_value(Value::Object(whole))
        .map_err(|why| RpcError::invalid_params("cron.update", format_args!("at {at}: {why}")))
}

/// Reads a stored description. What an older gateway wrote is always readable; damage shows as an empty job.
pub(super) fn spec_of(row: &CronJobRow) -> Option<CronSpec> {
    serde_json::from_str(&row.spec_json).ok()
}

/// The schedule of a stored job.
pub(super) fn schedule_of(row: &CronJobRow) -> Option<Schedule> {
    Schedule::parse(&spec_of(row)?.schedule, &row.id).ok()
}

/// Reads a status word of the store.
pub(super) fn status_of(word: Option<&str>) -> Option<CronRunStatus> {
    match word {
        Some("ok") => Some(CronRunStatus::Ok),
        Some("error") => Some(CronRunStatus::Error),
        Some("skipped") => Some(CronRunStatus::Skipped),
        _ => None,
    }
}

fn time(ms: i64) -> Option<i64> {
    (0..=AT_MAX_MS).contains(&ms).then_some(ms)
}

/// A job as the wire shows it.
pub(super) fn shown(row: &CronJobRow) -> CronJob {
    let spec = spec_of(row).unwrap_or_else(|| CronSpec {
        name: row.name.clone(),
        ..CronSpec::default()
    });
    let last = status_of(row.last_status.as_deref());
    let next = row.next_at.filter(|_| row.enabled).and_then(time);
    let ran = last.is_some();
    CronJob {
        id: row.id.clone(),
        declaration_key: row
            .system
            .as_ref()
            .map(|system| format!("{system}:{}", row.agent_id)),
        enabled: row.enabled,
        created_at_ms: row.created_at,
        updated_at_ms: row.updated_at,
        config_revision: Some(format!(
            "sha256:{}",
            crate::session::request_hash(&[&row.spec_json, if row.enabled { "on" } else { "off" }])
        )),
        spec,
        state: CronJobState {
            next_run_at_ms: next,
            running_at_ms: row.running_at,
            last_run_at_ms: row.last_run_at,
            last_run_status: last,
            last_status: last,
            last_error: row.last_error.clone(),
            last_duration_ms: row.last_duration_ms,
            consecutive_errors: ran.then_some(row.consecutive_errors),
            consecutive_skipped: ran.then_some(row.consecutive_skipped),
            auto_disabled: row
                .auto_disabled_json
                .as_deref()
                .and_then(|text| serde_json::from_str::<CronAutoDisabled>(text).ok()),
        },
        next_run_at_ms: next,
        last_run_at_ms: row.last_run_at,
        last_run_status: last,
        last_run_error: row.last_error.clone(),
    }
}
