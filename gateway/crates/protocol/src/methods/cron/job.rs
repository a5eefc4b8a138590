//! A job: when, what, where to, and its state.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

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
        /// A moment from which it counts; left out: one that makes the first run come `everyMs` from now.
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
    /// Not supported: a failure stands in the log, in `state` and in the event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_destination: Option<Value>,
    /// Not supported: a job has one destination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_destination: Option<Value>,
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
