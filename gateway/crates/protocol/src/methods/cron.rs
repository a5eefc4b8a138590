//! Schedules: jobs that come due by themselves, and the log of their runs. All times are milliseconds since the Unix epoch.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

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

/// When a job comes due.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    tag = "kind",
    rename_all = "kebab-case",
    rename_all_fields = "camelCase"
)]
pub enum CronSchedule {
    /// Once.
    At {
        /// RFC 3339 (without a zone: UTC), or from now as `20m`.
        at: String,
    },
    /// Again and again after the same time.
    Every {
        /// The time between two runs.
        every_ms: u64,
        /// A moment from which it counts; left out: now.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        anchor_ms: Option<u64>,
    },
    /// By the wall clock.
    Cron {
        /// Minute, hour, day of month, month, day of week, as in crontab(5); with a sixth field before them the second.
        expr: String,
        /// IANA time zone; left out: UTC.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tz: Option<String>,
        /// The job is spread over so many milliseconds, at most 300000. Left out: 300000 for jobs of every full hour, else 0.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stagger_ms: Option<u64>,
    },
    /// When a command ends. Not supported.
    OnExit {
        /// The command.
        command: String,
        /// Its directory.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cwd: Option<String>,
    },
    /// On output of a command. Not supported.
    Stream {
        /// The command.
        command: Vec<String>,
    },
}

impl Default for CronSchedule {
    fn default() -> Self {
        Self::At { at: String::new() }
    }
}

impl CronSchedule {
    /// The word on the wire.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::At { .. } => "at",
            Self::Every { .. } => "every",
            Self::Cron { .. } => "cron",
            Self::OnExit { .. } => "on-exit",
            Self::Stream { .. } => "stream",
        }
    }
}

/// What a job does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(
    tag = "kind",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub enum CronPayload {
    /// Puts a text before the agent's main session.
    SystemEvent {
        /// The text.
        text: String,
    },
    /// Has the agent answer a message.
    AgentTurn {
        /// The message.
        message: String,
        /// Model in place of the agent's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        model: Option<String>,
        /// Longest time of the run.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timeout_seconds: Option<f64>,
        /// Tools of the run. Only the agent's own, `["*"]`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tools_allow: Option<Vec<String>>,
        /// Not supported.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        thinking: Option<String>,
        /// Not supported.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fallbacks: Option<Vec<String>>,
    },
    /// Sends a POST request to an address that `cron.webhook.allow` of the configuration names. Not an OpenClaw payload.
    Webhook {
        /// The address.
        url: String,
        /// Text put into the request.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        text: Option<String>,
        /// Name of a secret of `cron.webhook.secrets` that is sent as bearer token.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        secret: Option<String>,
    },
    /// The heartbeat of an agent; made by the gateway only.
    Heartbeat {},
    /// Not supported.
    Command {
        /// The command.
        argv: Vec<String>,
    },
    /// Not supported.
    Script {
        /// The script.
        script: String,
    },
}

impl Default for CronPayload {
    fn default() -> Self {
        Self::SystemEvent {
            text: String::new(),
        }
    }
}

impl CronPayload {
    /// The word on the wire.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::SystemEvent { .. } => "systemEvent",
            Self::AgentTurn { .. } => "agentTurn",
            Self::Webhook { .. } => "webhook",
            Self::Heartbeat {} => "heartbeat",
            Self::Command { .. } => "command",
            Self::Script { .. } => "script",
        }
    }
}

/// When a system event is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum WakeMode {
    /// With the next heartbeat, or the next message of the session.
    NextHeartbeat,
    /// At once.
    #[default]
    Now,
}

/// Where the outcome of a run goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CronDelivery {
    /// `none`, `announce` or `webhook`.
    pub mode: CronDeliveryMode,
    /// `announce`: channel kind, or `last` for the conversation that the agent was last talked to in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// `announce`: `direct:ID`, `group:ID` or `channel:ID`; without prefix a direct conversation. `webhook`: the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// `announce`: account of the channel, where it has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account_id: Option<String>,
    /// `announce`: thread of the conversation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread_id: Option<ThreadId>,
    /// Whether a failed delivery leaves the run's outcome as it is. A run's outcome never depends on its delivery.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best_effort: Option<bool>,
}

/// A thread, as text or as number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum ThreadId {
    /// As text.
    Text(String),
    /// As number.
    Number(i64),
}

impl std::fmt::Display for ThreadId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Number(number) => write!(f, "{number}"),
        }
    }
}

/// How the outcome of a run is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum CronDeliveryMode {
    /// Not at all; it stands in the session and in the log.
    #[default]
    None,
    /// As a message of a channel.
    Announce,
    /// As a POST request.
    Webhook,
}

/// What happens with occurrences that nobody was there for. Not an OpenClaw field.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CronCatchUp {
    /// `none`, `latest` (default) or `all`.
    pub mode: CronCatchUpMode,
    /// `all`: at most so many, the last ones (default 10, at most 100).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u64>,
    /// Only occurrences that are not older than this (default 86400000; `none`: 60000).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_ms: Option<u64>,
}

/// Which missed occurrences are made up for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum CronCatchUpMode {
    /// None.
    None,
    /// The last one.
    #[default]
    Latest,
    /// All, one after the other.
    All,
}

/// What is written about a job: everything but its state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CronSpec {
    /// Name.
    pub name: String,
    /// Name to show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Agent; left out: the default agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<String>,
    /// Session that target `current` means.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_key: Option<String>,
    /// Whether it is deleted after it ran well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delete_after_run: Option<bool>,
    /// When.
    pub schedule: CronSchedule,
    /// `main` (system events), `isolated` (a session for each run), `current` or `session:<key>`.
    pub session_target: String,
    /// When a system event is looked at.
    pub wake_mode: WakeMode,
    /// What it does.
    pub payload: CronPayload,
    /// Where the outcome goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery: Option<CronDelivery>,
    /// What happens with missed occurrences.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub catch_up: Option<CronCatchUp>,
}

/// How the last run of a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum CronRunStatus {
    /// Well.
    Ok,
    /// With an error.
    Error,
    /// It did not run; the text says why.
    Skipped,
}

impl CronRunStatus {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Error => "error",
            Self::Skipped => "skipped",
        }
    }
}

/// What became of the delivery of a run's outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum CronDeliveryStatus {
    /// The other side has it.
    Delivered,
    /// It was given up.
    NotDelivered,
    /// It is on its way, or its fate is unknown.
    Unknown,
    /// None was asked for.
    NotRequested,
}

/// Why a job was switched off by the gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CronAutoDisabled {
    /// `consecutive-failures` or `schedule-errors`.
    pub reason: String,
    /// When.
    pub at_ms: i64,
    /// Failures in a row.
    pub consecutive_errors: u64,
}

/// State of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CronJobState {
    /// When it comes due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_run_at_ms: Option<i64>,
    /// Since when it runs, while it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running_at_ms: Option<i64>,
    /// When it last began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_run_at_ms: Option<i64>,
    /// How it last ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_run_status: Option<CronRunStatus>,
    /// The same under its older name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_status: Option<CronRunStatus>,
    /// Why it last failed or was skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// How long it last took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_duration_ms: Option<i64>,
    /// Failures in a row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consecutive_errors: Option<i64>,
    /// Skipped occurrences in a row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consecutive_skipped: Option<i64>,
    /// Set when the gateway switched it off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_disabled: Option<CronAutoDisabled>,
}

/// A job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CronJob {
    /// Its id.
    pub id: String,
    /// `heartbeat:<agent>` where the gateway made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub declaration_key: Option<String>,
    /// Whether it comes due.
    pub enabled: bool,
    /// When it was made.
    pub created_at_ms: i64,
    /// When it last changed.
    pub updated_at_ms: i64,
    /// What is written about it.
    #[serde(flatten)]
    pub spec: CronSpec,
    /// Hash of what is written about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_revision: Option<String>,
    /// Its state.
    pub state: CronJobState,
    /// As in `state`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_run_at_ms: Option<i64>,
    /// As in `state`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_run_at_ms: Option<i64>,
    /// As in `state`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_run_status: Option<CronRunStatus>,
    /// As `lastError` in `state`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_run_error: Option<String>,
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

/// How a run is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum CronCompletion {
    /// It did what it should.
    Succeeded,
    /// It did not.
    Failed,
    /// Nobody knows: it was cut off.
    Unknown,
}

/// Where an outcome went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CronDeliveryTrace {
    /// What the job asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intended: Option<CronDeliveryTarget>,
    /// Whether another way was taken.
    pub fallback_used: bool,
    /// Whether the other side has it.
    pub delivered: bool,
}

/// A target of a delivery.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CronDeliveryTarget {
    /// Channel kind, `last` or `webhook`.
    pub channel: String,
    /// Conversation or address.
    pub to: Option<String>,
    /// `explicit` or `last`.
    pub source: String,
}

/// Tokens of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CronUsage {
    /// Prompt.
    pub input_tokens: u64,
    /// Answer.
    pub output_tokens: u64,
    /// Both.
    pub total_tokens: u64,
}

/// A run in the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CronRunLogEntry {
    /// When it ended.
    pub ts: i64,
    /// The job.
    pub job_id: String,
    /// Always `finished`.
    pub action: String,
    /// How it ended.
    pub status: CronRunStatus,
    /// How it is counted; a skipped occurrence is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_status: Option<CronCompletion>,
    /// Why it failed or was skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Begin of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// The run.
    pub run_id: String,
    /// When it was due.
    pub run_at_ms: i64,
    /// How long it took.
    pub duration_ms: i64,
    /// When the job comes due again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_run_at_ms: Option<i64>,
    /// Whether the outcome was delivered.
    pub delivered: bool,
    /// What became of the delivery.
    pub delivery_status: CronDeliveryStatus,
    /// Why it was not delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery_error: Option<String>,
    /// Where the outcome went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery: Option<CronDeliveryTrace>,
    /// The session's id at that time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// The session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_key: Option<String>,
    /// Model that answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Provider of the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Tokens used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<CronUsage>,
    /// Name of the job at that time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_name: Option<String>,
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

/// What happened to a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum CronAction {
    /// It was made.
    Added,
    /// It was changed.
    Updated,
    /// It was deleted.
    Removed,
    /// A run began.
    Started,
    /// A run ended, or an occurrence was skipped.
    Finished,
}

/// Payload of the event `cron`.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CronEventPayload {
    /// The job.
    pub job_id: String,
    /// What happened.
    pub action: CronAction,
    /// The job after it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<CronJob>,
    /// The run, of `started` and `finished`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
    /// When it was due.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_at_ms: Option<i64>,
    /// How it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<CronRunStatus>,
    /// Why it failed or was skipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Begin of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// The session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_key: Option<String>,
    /// How long it took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<i64>,
    /// When the job comes due again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_run_at_ms: Option<i64>,
}
