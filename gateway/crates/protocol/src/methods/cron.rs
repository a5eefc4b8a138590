//! Schedules: jobs that come due by themselves, and the log of their runs. All times are milliseconds since the Unix epoch.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

mod job;
mod run;

pub use self::job::*;
pub use self::run::*;
use super::NoParams;
use crate::value::{NonEmpty, Text, Whole};

crate::methods! {
    /// The tenant's jobs, a page at a time.
    CronList = "cron.list", Operator(Read), Query, (CronListParams) -> CronListResult;
    /// Whether schedules run, how many jobs there are, and when the next one comes due.
    CronStatus = "cron.status", Operator(Read), Query, (NoParams) -> CronStatusResult;
    /// One job with its state.
    CronGet = "cron.get", Operator(Read), Query, (CronGetParams) -> CronJob;
    /// Make a job.
    CronAdd = "cron.add", Operator(Admin), Command, (CronAddParams) -> CronAddResult;
    /// Change a job; what the patch leaves out stays.
    CronUpdate = "cron.update", Operator(Admin), Command, (CronUpdateParams) -> CronJob;
    /// Delete a job; the log of its runs stays.
    CronRemove = "cron.remove", Operator(Admin), Command, (CronRemoveParams) -> CronRemoveResult;
    /// Run a job now; its schedule stays as it is.
    CronRun = "cron.run", Operator(Admin), Command, (CronRunParams) -> CronRunResult;
    /// The log of runs, newest first.
    CronRuns = "cron.runs", Operator(Read), Query, (CronRunsParams) -> CronRunsResult;
}

/// What `cron.list` filters by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum CronEnabledFilter {
    /// Both.
    #[default]
    All,
    /// Only those that come due.
    Enabled,
    /// Only those that do not.
    Disabled,
}

/// Which schedules `cron.list` shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum CronKindFilter {
    /// All.
    #[default]
    All,
    /// One-shot jobs.
    At,
    /// Periods.
    Every,
    /// Cron expressions.
    Cron,
    /// There are none.
    OnExit,
    /// There are none.
    Stream,
}

impl CronKindFilter {
    /// Whether a schedule of this kind is shown.
    pub fn admits(self, kind: &str) -> bool {
        match self {
            Self::All => true,
            Self::At => kind == "at",
            Self::Every => kind == "every",
            Self::Cron => kind == "cron",
            Self::OnExit | Self::Stream => false,
        }
    }
}

/// Which last outcome `cron.list` shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum CronLastStatusFilter {
    /// All.
    #[default]
    All,
    /// Ended well.
    Ok,
    /// Failed.
    Error,
    /// Skipped.
    Skipped,
    /// Never ran.
    Unknown,
}

/// Order of `cron.list`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub enum CronSort {
    /// Which comes due first; those that do not come last.
    #[default]
    NextRunAtMs,
    /// By the last change.
    UpdatedAtMs,
    /// By name.
    Name,
}

/// Direction of a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum SortDir {
    /// Smallest first.
    Asc,
    /// Greatest first.
    #[default]
    Desc,
}

crate::params! {
    /// Parameters of `cron.list`.
    CronListParams {
        required {}
        optional {
            /// Whether jobs are shown that are switched off (default false).
            "includeDisabled" include_disabled: bool,
            /// Most rows, 1 to 200 (default 50).
            "limit" limit: Whole<1, 200>,
            /// Rows to skip.
            "offset" offset: u64,
            /// Only jobs whose name or description contains this text.
            "query" query: String,
            /// Only jobs that are switched on, or off; wins over `includeDisabled`.
            "enabled" enabled: CronEnabledFilter,
            /// Only jobs with such a schedule.
            "scheduleKind" schedule_kind: CronKindFilter,
            /// Only jobs whose last run ended so.
            "lastRunStatus" last_run_status: CronLastStatusFilter,
            /// The order (default `nextRunAtMs`).
            "sortBy" sort_by: CronSort,
            /// The direction (default `asc`).
            "sortDir" sort_dir: SortDir,
            /// Only jobs of this agent.
            "agentId" agent_id: NonEmpty,
        }
        ignored {
            "compact": "Rows are whole; a short form would save nothing that a client could miss.",
            "includeDeliveryPreviews": "Where an outcome goes stands in `delivery`.",
            "trigger": "No job has a trigger script.",
        }
        refused {}
    }
}

/// Result of `cron.list`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CronListResult {
    /// The jobs of this page.
    pub jobs: Vec<CronListRow>,
    /// Hash of all jobs and their states: equal on all pages of one state.
    pub snapshot_revision: String,
    /// Jobs that fit, on all pages.
    pub total: u64,
    /// As asked.
    pub offset: u64,
    /// As asked.
    pub limit: u64,
    /// Whether there are further ones.
    pub has_more: bool,
    /// Where they begin.
    pub next_offset: Option<u64>,
}

/// A job in `cron.list`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CronListRow {
    /// The job.
    #[serde(flatten)]
    pub job: CronJob,
    /// The agent that runs it.
    pub effective_agent_id: String,
}

/// Result of `cron.status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CronStatusResult {
    /// Whether jobs come due (`cron.enabled` of the configuration).
    pub enabled: bool,
    /// Trigger scripts: never.
    pub triggers_enabled: bool,
    /// Name of the store; never a path.
    pub store_path: String,
    /// `sqlite`.
    pub storage: String,
    /// Jobs in all.
    pub jobs: u64,
    /// Runs that go on.
    pub running: u64,
    /// When the next one comes due.
    pub next_wake_at_ms: Option<i64>,
}

crate::params! {
    /// Parameters of `cron.get`: one of the two.
    CronGetParams {
        required {}
        optional {
            /// The job.
            "id" id: NonEmpty,
            /// The same under its older name.
            "jobId" job_id: NonEmpty,
        }
        ignored {}
        refused {}
    }
}

crate::params! {
    /// Parameters of `cron.remove`: one of the two.
    CronRemoveParams {
        required {}
        optional {
            /// The job.
            "id" id: NonEmpty,
            /// The same under its older name.
            "jobId" job_id: NonEmpty,
        }
        ignored {}
        refused {}
    }
}

/// Result of `cron.remove`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CronRemoveResult {
    /// Always true.
    pub ok: bool,
    /// Always true: a job that is not there is an error.
    pub removed: bool,
}

crate::params! {
    /// Parameters of `cron.add`.
    CronAddParams {
        required {
            /// Name, at most 200 characters.
            "name" name: Text<1, 200>,
            /// When it comes due.
            "schedule" schedule: CronSchedule,
            /// `main` (system events), `isolated` (a session for each run), `current` (the session of `sessionKey`) or `session:<key>`.
            "sessionTarget" session_target: NonEmpty,
            /// When a system event is looked at.
            "wakeMode" wake_mode: WakeMode,
            /// What it does.
            "payload" payload: CronPayload,
        }
        optional {
            /// Name to show.
            "displayName" display_name: Text<1, 200>,
            /// What it is for, at most 2000 characters.
            "description" description: Text<0, 2000>,
            /// Agent (default: the default agent).
            "agentId" agent_id: NonEmpty,
            /// Session that target `current` means.
            "sessionKey" session_key: NonEmpty,
            /// Whether it comes due (default true).
            "enabled" enabled: bool,
            /// Whether it is deleted after it ran well (default: true for one-shot jobs).
            "deleteAfterRun" delete_after_run: bool,
            /// Where the outcome goes (default: nowhere).
            "delivery" delivery: CronDelivery,
            /// What happens with missed occurrences (default: the last one is made up for within a day).
            "catchUp" catch_up: CronCatchUp,
        }
        ignored {
            "owner": "Jobs belong to the tenant.",
        }
        refused {
            "declarationKey": "Jobs are made one by one; there is no set of declared jobs.",
            "pacing": "Jobs do not choose their own pace.",
            "trigger": "The gateway runs no scripts of clients.",
            "failureAlert": "Failures stand in the log, in `state` and in the event; there is no second message about them.",
        }
    }
}

/// Result of `cron.add`: the job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CronAddResult {
    /// The job.
    #[serde(flatten)]
    pub job: CronJob,
    /// Where its outcome will go, in words.
    pub delivery_preview: CronDeliveryPreview,
}

/// Where an outcome will go, in words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CronDeliveryPreview {
    /// Short.
    pub label: String,
    /// Long.
    pub detail: String,
}

fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    d: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::<T>::deserialize(d).map(Some)
}

/// What changes about a job. Null takes a field away where that is allowed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CronPatch {
    /// Name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Text<1, 200>>,
    /// Name to show.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Option::is_none"
    )]
    pub display_name: Option<Option<Text<1, 200>>>,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<Text<0, 2000>>,
    /// Agent.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Option::is_none"
    )]
    pub agent_id: Option<Option<NonEmpty>>,
    /// Session that target `current` means.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Option::is_none"
    )]
    pub session_key: Option<Option<NonEmpty>>,
    /// Whether it comes due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Whether it is deleted after it ran well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delete_after_run: Option<bool>,
    /// When it comes due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<CronSchedule>,
    /// Session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_target: Option<NonEmpty>,
    /// When a system event is looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wake_mode: Option<WakeMode>,
    /// What it does: fields of a payload of the same kind, or a whole one of another kind. Null takes a field away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<Map<String, Value>>,
    /// Where the outcome goes: fields, null takes one away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery: Option<Map<String, Value>>,
    /// What happens with missed occurrences; null for the default.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Option::is_none"
    )]
    pub catch_up: Option<Option<CronCatchUp>>,
}

crate::params! {
    /// Parameters of `cron.update`: `id` or `jobId`, and the patch.
    CronUpdateParams {
        required {
            /// What changes.
            "patch" patch: CronPatch,
        }
        optional {
            /// The job.
            "id" id: NonEmpty,
            /// The same under its older name.
            "jobId" job_id: NonEmpty,
        }
        ignored {}
        refused {}
    }
}

/// Under which condition `cron.run` runs a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum CronRunMode {
    /// Only if its time has come.
    Due,
    /// In any case.
    #[default]
    Force,
    /// Only if it is switched on.
    IfEnabled,
}

crate::params! {
    /// Parameters of `cron.run`: `id` or `jobId`.
    CronRunParams {
        required {}
        optional {
            /// The job.
            "id" id: NonEmpty,
            /// The same under its older name.
            "jobId" job_id: NonEmpty,
            /// The condition (default `force`).
            "mode" mode: CronRunMode,
            /// Refuse unless this is the start of the process that the caller knows.
            "expectedProcessInstanceId" expected_process_instance_id: NonEmpty,
        }
        ignored {}
        refused {}
    }
}

/// Result of `cron.run`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CronRunResult {
    /// Always true.
    pub ok: bool,
    /// Whether a run was begun.
    pub enqueued: bool,
    /// The run, for `cron.runs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
    /// Why none was begun: `not-due`, `disabled` or `already-running`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Id of this start of the process.
    pub process_instance_id: String,
}

/// Of which jobs `cron.runs` tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum CronRunsScope {
    /// Of one.
    Job,
    /// Of all.
    #[default]
    All,
}

/// Which outcome `cron.runs` shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum CronStatusFilter {
    /// All.
    #[default]
    All,
    /// Ended well.
    Ok,
    /// Failed.
    Error,
    /// Skipped.
    Skipped,
}

crate::params! {
    /// Parameters of `cron.runs`.
    CronRunsParams {
        required {}
        optional {
            /// Only jobs of this agent.
            "agentId" agent_id: NonEmpty,
            /// `job` needs an id; `all` shows all jobs (default: `job` with an id, else `all`).
            "scope" scope: CronRunsScope,
            /// Only this job.
            "id" id: NonEmpty,
            /// The same under its older name.
            "jobId" job_id: NonEmpty,
            /// Only this run.
            "runId" run_id: NonEmpty,
            /// Most rows, 1 to 200 (default 50).
            "limit" limit: Whole<1, 200>,
            /// Rows to skip.
            "offset" offset: u64,
            /// Only runs that ended in one of these ways.
            "statuses" statuses: Vec<CronRunStatus>,
            /// Only runs that ended so.
            "status" status: CronStatusFilter,
            /// Only runs whose delivery stands so.
            "deliveryStatuses" delivery_statuses: Vec<CronDeliveryStatus>,
            /// Only runs whose delivery stands so.
            "deliveryStatus" delivery_status: CronDeliveryStatus,
            /// Only runs whose summary, error or job name contains this text.
            "query" query: String,
            /// The order in time (default `desc`).
            "sortDir" sort_dir: SortDir,
        }
        ignored {}
        refused {}
    }
}

/// Result of `cron.runs`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CronRunsResult {
    /// The runs of this page.
    pub entries: Vec<CronRunLogEntry>,
    /// Runs that fit, on all pages.
    pub total: u64,
    /// As asked.
    pub offset: u64,
    /// As asked.
    pub limit: u64,
    /// Whether there are further ones.
    pub has_more: bool,
    /// Where they begin.
    pub next_offset: Option<u64>,
}
