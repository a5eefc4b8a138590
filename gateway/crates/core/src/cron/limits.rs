//! Bounds of schedules, each with its unit in its name. Those of the store are in `gateway_store::limits`.

/// Shortest period of an `every` job, in ms.
pub const EVERY_MIN_MS: i64 = 1_000;
/// Latest time that a schedule may name, Unix epoch ms: the end of the year 9999, the last that RFC 3339 can write.
pub const AT_MAX_MS: i64 = 253_402_300_799_999;
/// Longest spread of jobs that are due at the same moment, in ms.
pub const STAGGER_MAX_MS: i64 = 300_000;
/// Spread of jobs that are due at every full hour, in ms, where a job names none.
pub const STAGGER_DEFAULT_MS: i64 = 300_000;
/// How long after its time a one-shot job may still be added, in ms.
pub const AT_PAST_MAX_MS: i64 = 60_000;

/// Longest sleep of the runner, in ms: a clock that was set is noticed after this time at the latest.
pub const RECHECK_MAX_MS: u64 = 30_000;
/// Difference between wall clock and monotonic clock that counts as a clock that was set back, in ms.
pub const SET_BACK_MIN_MS: i64 = 2_000;
/// Pause of the runner after the store failed, in ms.
pub const STORE_PAUSE_MS: i64 = 5_000;
/// Jobs that one look of the runner takes up.
pub const DUE_JOBS_PER_LOOK: i64 = 64;
/// Runs of jobs that go on at the same time, per tenant; further ones wait.
pub const RUNNING_JOBS_MAX: i64 = 8;

/// Age up to which an occurrence is on time where nothing missed is made up for, in ms.
pub const ON_TIME_MS: i64 = 60_000;
/// Age up to which a missed occurrence is made up for where a job names none, in ms.
pub const CATCH_UP_GRACE_MS: i64 = 86_400_000;
/// Oldest occurrence that a job may ask to be made up for, in ms.
pub const CATCH_UP_GRACE_MAX_MS: i64 = 31 * 86_400_000;
/// Missed occurrences that policy `all` makes up for where a job names no number.
pub const CATCH_UP_ALL_DEFAULT: u64 = 10;
/// Most missed occurrences that a job may ask to be made up for.
pub const CATCH_UP_ALL_MAX: u64 = 100;

/// Pauses after 1, 2, 3, … failures in a row, in ms; the last one stays.
pub const FAILURE_PAUSES_MS: [i64; 5] = [30_000, 60_000, 300_000, 900_000, 3_600_000];
/// Failures in a row after which a job is switched off.
pub const FAILURES_MAX: i64 = 10;

/// Longest name of a job, in characters.
pub const NAME_MAX_CHARS: usize = 200;
/// Longest text that a job gives to an agent or a webhook, in bytes.
pub const TEXT_MAX_BYTES: usize = 64 * 1024;
/// Summary of a run that is kept, in bytes.
pub const SUMMARY_MAX_BYTES: usize = 2_000;
/// Longest time of a run that a job may set, in seconds.
pub const TIMEOUT_MAX_SECONDS: f64 = 86_400.0;

/// Deadline of a webhook request, in ms.
pub const WEBHOOK_DEADLINE_MS: u64 = 15_000;
/// Longest answer of a webhook that is read, in bytes.
pub const WEBHOOK_ANSWER_MAX_BYTES: usize = 64 * 1024;
/// Tries of a webhook delivery.
pub const WEBHOOK_TRIES: i64 = 4;
/// Pause before the second try of a webhook delivery, in ms; it doubles.
pub const WEBHOOK_PAUSE_MS: i64 = 5_000;
/// Webhook requests of schedules that are under way, per tenant.
pub const WEBHOOKS_IN_FLIGHT_MAX: usize = 4;
