//! A run in the log, and what is told about jobs as it happens.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{CronDeliveryStatus, CronJob, CronRunStatus};

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
