//! When a job comes due: pure functions from a schedule and a time to the next time. All times are Unix milliseconds.
//!
//! On a day whose clock is changed, a job with named times of day runs once: a time that the clock skips runs right after
//! the gap, a time that comes twice runs at the first. A job with a star as minute or hour follows the clock as it is.

use chrono::{DateTime, LocalResult, NaiveDateTime, Offset, TimeZone, Utc};
use chrono_tz::Tz;
use gateway_protocol::methods::cron::CronSchedule;
use sha2::{Digest, Sha256};

use super::expr::CronExpr;
use super::limits::{AT_MAX_MS, EVERY_MIN_MS, STAGGER_DEFAULT_MS, STAGGER_MAX_MS};

/// What is wrong with a schedule, and what to write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ScheduleError(String);

impl ScheduleError {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// A schedule, ready to be asked.
#[derive(Debug, Clone)]
pub enum Schedule {
    /// Once.
    At(i64),
    /// At `anchor + k * every`.
    Every {
        /// Milliseconds between two occurrences.
        every_ms: i64,
        /// One of them.
        anchor_ms: i64,
    },
    /// By a cron expression.
    Cron {
        /// The expression.
        expr: Box<CronExpr>,
        /// Whose wall clock it is about.
        zone: Tz,
        /// Milliseconds that this job comes later than the expression says.
        delay_ms: i64,
    },
}

/// The occurrences that came due.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Due {
    /// The last of them, oldest first.
    pub last: Vec<i64>,
    /// How many came before those.
    pub earlier: u64,
    /// Whether there were even more than `earlier` says.
    pub more: bool,
}

/// Occurrences that [`Schedule::due`] counts one by one.
const COUNTED_MAX: u64 = 1_000;

impl Schedule {
    /// Reads a schedule of the wire. `job` spreads jobs that are due at the full hour, each always by the same delay.
    ///
    /// # Errors
    /// A text for the one who wrote it.
    pub fn parse(schedule: &CronSchedule, job: &str) -> Result<Self, ScheduleError> {
        match schedule {
            CronSchedule::At { at } => Ok(Self::At(parse_at(at, None, Tz::UTC)?)),
            CronSchedule::Every {
                every_ms,
                anchor_ms,
            } => {
                let every_ms = i64::try_from(*every_ms).unwrap_or(i64::MAX);
                if !(EVERY_MIN_MS..=AT_MAX_MS).contains(&every_ms) {
                    return Err(ScheduleError::new(format!(
                        "everyMs must be from {EVERY_MIN_MS} to {AT_MAX_MS}"
                    )));
                }
                let anchor_ms = i64::try_from(anchor_ms.unwrap_or(0)).unwrap_or(i64::MAX);
                if anchor_ms > AT_MAX_MS {
                    return Err(ScheduleError::new(format!(
                        "anchorMs must be at most {AT_MAX_MS}"
                    )));
                }
                Ok(Self::Every {
                    every_ms,
                    anchor_ms,
                })
            }
            CronSchedule::Cron {
                expr,
                tz,
                stagger_ms,
            } => {
                let zone = match tz.as_deref().map(str::trim).filter(|tz| !tz.is_empty()) {
                    Some(name) => parse_zone(name)?,
                    None => Tz::UTC,
                };
                let expr = CronExpr::parse(expr)?;
                let spread = match stagger_ms {
                    Some(ms) => i64::try_from(*ms).unwrap_or(i64::MAX),
                    None if expr.is_top_of_hour() => STAGGER_DEFAULT_MS,
                    None => 0,
                };
                if spread > STAGGER_MAX_MS {
                    return Err(ScheduleError::new(format!(
                        "staggerMs must be at most {STAGGER_MAX_MS}"
                    )));
                }
                Ok(Self::Cron {
                    expr: Box::new(expr),
                    zone,
                    delay_ms: delay(job, spread),
                })
            }
            CronSchedule::OnExit { .. } => Err(ScheduleError::new(
                "schedule kind on-exit is not supported: the gateway runs no commands",
            )),
            CronSchedule::Stream { .. } => Err(ScheduleError::new(
                "schedule kind stream is not supported: the gateway runs no commands",
            )),
        }
    }

    /// The first occurrence after `after_ms`, if there is one.
    #[must_use]
    pub fn next_ms(&self, after_ms: i64) -> Option<i64> {
        match self {
            Self::At(at) => (*at > after_ms).then_some(*at),
            Self::Every {
                every_ms,
                anchor_ms,
            } => {
                if after_ms < *anchor_ms {
                    return Some(*anchor_ms);
                }
                let periods = (after_ms - anchor_ms) / every_ms + 1;
                anchor_ms.checked_add(periods.checked_mul(*every_ms)?)
            }
            Self::Cron {
                expr,
                zone,
                delay_ms,
            } => {
                let after = (after_ms - delay_ms).div_euclid(1_000);
                let next = if expr.is_fixed() {
                    next_fixed(expr, *zone, after)
                } else {
                    next_by_clock(expr, *zone, after)
                };
                next.map(|seconds| seconds * 1_000 + delay_ms)
            }
        }
    }

    /// Whether it can come due more than once.
    #[must_use]
    pub fn repeats(&self) -> bool {
        !matches!(self, Self::At(_))
    }

    /// The occurrences from `first` (one of them) to `now_ms`, the last `keep` of them one by one.
    #[must_use]
    pub fn due(&self, first: i64, now_ms: i64, keep: usize) -> Due {
        let keep = keep.max(1);
        let mut due = Due::default();
        if first > now_ms {
            return due;
        }
        let mut at = Some(first);
        let mut count = 0_u64;
        while let Some(occurrence) = at.filter(|at| *at <= now_ms) {
            if count == COUNTED_MAX {
                // Too many to go through: the last ones are looked for from the end.
                due.last = self.last_before(first, now_ms, keep);
                due.earlier = COUNTED_MAX;
                due.more = true;
                return due;
            }
            count += 1;
            due.last.push(occurrence);
            if due.last.len() > keep {
                due.last.remove(0);
            }
            at = self.next_ms(occurrence);
        }
        due.earlier = count - due.last.len() as u64;
        due
    }

    /// The last occurrences up to `now_ms` that are not before `first`, by windows that double.
    fn last_before(&self, first: i64, now_ms: i64, keep: usize) -> Vec<i64> {
        let mut window = 2_000_i64;
        loop {
            let from = now_ms.saturating_sub(window).max(first - 1);
            let mut found = std::collections::VecDeque::new();
            let mut at = self.next_ms(from);
            while let Some(occurrence) = at.filter(|at| *at <= now_ms) {
                found.push_back(occurrence);
                if found.len() > keep {
                    found.pop_front();
                }
                at = self.next_ms(occurrence);
            }
            if found.len() == keep || from < first {
                return found.into();
            }
            window = window.saturating_mul(2);
        }
    }
}

/// A time zone of the IANA database.
///
/// # Errors
/// When there is none of this name.
pub fn parse_zone(name: &str) -> Result<Tz, ScheduleError> {
    name.parse().map_err(|_| {
        ScheduleError::new(format!(
            "{:?} is not a time zone; write a name such as Europe/Berlin or UTC",
            gateway_protocol::error::echo(name)
        ))
    })
}

/// A point in time: RFC 3339; without zone a wall-clock time of `zone`; or, where `now_ms` is known, a time from now such
/// as `20m` or `1h30m`.
///
/// # Errors
/// A text that says what to write.
pub fn parse_at(text: &str, now_ms: Option<i64>, zone: Tz) -> Result<i64, ScheduleError> {
    let text = text.trim();
    let wrong = || {
        ScheduleError::new(format!(
            "{:?} is not a time; write it as 2026-12-24T18:00:00Z, with another zone as +01:00, or from now as 20m or 1h30m",
            gateway_protocol::error::echo(text)
        ))
    };
    let ms = if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        at.timestamp_millis()
    } else if let (Some(now), Ok(from_now)) = (now_ms, parse_duration(text)) {
        now.saturating_add(from_now)
    } else {
        let wall = [
            "%Y-%m-%dT%H:%M:%S%.f",
            "%Y-%m-%dT%H:%M",
            "%Y-%m-%d %H:%M:%S%.f",
            "%Y-%m-%d %H:%M",
        ]
        .iter()
        .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok())
        .ok_or_else(wrong)?;
        let millis = i64::from(wall.and_utc().timestamp_subsec_millis());
        instant(zone, wall) * 1_000 + millis
    };
    if (0..=AT_MAX_MS).contains(&ms) {
        Ok(ms)
    } else {
        Err(wrong())
    }
}

/// Milliseconds of `20m`, `1h30m`, `45s`, `500ms`, `2d`, `1w`.
///
/// # Errors
/// A text that says what to write.
pub fn parse_duration(text: &str) -> Result<i64, ScheduleError> {
    let wrong = || {
        ScheduleError::new(format!(
            "{:?} is not a length of time; write it as 45s, 20m, 1h30m or 2d",
            gateway_protocol::error::echo(text)
        ))
    };
    gateway_config::duration_ms(text)
        .and_then(|ms| i64::try_from(ms).ok())
        .filter(|ms| *ms <= AT_MAX_MS)
        .ok_or_else(wrong)
}

/// Unix milliseconds as RFC 3339 in UTC, with milliseconds.
#[must_use]
pub fn rfc3339(ms: i64) -> String {
    DateTime::<Utc>::from_timestamp_millis(ms)
        .unwrap_or_default()
        .to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}

/// Unix milliseconds as a person reads them in a zone: date, time, offset.
#[must_use]
pub fn in_zone(ms: i64, zone: Tz) -> String {
    DateTime::<Utc>::from_timestamp_millis(ms)
        .unwrap_or_default()
        .with_timezone(&zone)
        .format("%a %Y-%m-%d %H:%M:%S %:z")
        .to_string()
}

/// Minutes since midnight on the wall clock of a zone.
#[must_use]
pub fn minute_of_day(ms: i64, zone: Tz) -> u32 {
    use chrono::Timelike as _;
    let local = DateTime::<Utc>::from_timestamp_millis(ms)
        .unwrap_or_default()
        .with_timezone(&zone);
    local.hour() * 60 + local.minute()
}

/// A job's own part of the spread, the same in every process.
fn delay(job: &str, spread_ms: i64) -> i64 {
    if spread_ms <= 0 {
        return 0;
    }
    let hash = Sha256::digest(job.as_bytes());
    let mut first = [0_u8; 8];
    first.copy_from_slice(&hash[..8]);
    // Whole seconds: the expressions know nothing smaller.
    let seconds = u64::try_from(spread_ms / 1_000).unwrap_or(0).max(1);
    i64::try_from(u64::from_le_bytes(first) % seconds).unwrap_or(0) * 1_000
}

fn offset(zone: Tz, seconds: i64) -> i64 {
    let at = DateTime::<Utc>::from_timestamp(seconds, 0).unwrap_or_default();
    i64::from(
        zone.offset_from_utc_datetime(&at.naive_utc())
            .fix()
            .local_minus_utc(),
    )
}

fn wall(seconds: i64) -> NaiveDateTime {
    DateTime::<Utc>::from_timestamp(seconds, 0)
        .unwrap_or_default()
        .naive_utc()
}

/// The moment (in seconds) of a wall-clock time: the first of two, or the end of the gap that swallows it.
fn instant(zone: Tz, at: NaiveDateTime) -> i64 {
    match zone.from_local_datetime(&at) {
        LocalResult::Single(one) => one.timestamp(),
        LocalResult::Ambiguous(one, other) => one.timestamp().min(other.timestamp()),
        LocalResult::None => {
            // No offset is beyond 15 hours, so the gap lies between these two.
            let near = at.and_utc().timestamp();
            let (low, high) = (near - 15 * 3_600, near + 15 * 3_600);
            first_change(zone, low, high).unwrap_or(near)
        }
    }
}

/// The first second in (`low`, `high`] whose offset differs from the one at `low`.
fn first_change(zone: Tz, low: i64, high: i64) -> Option<i64> {
    const DAY: i64 = 86_400;
    let before = offset(zone, low);
    let mut same = low;
    loop {
        if same >= high {
            return None;
        }
        let probe = (same + DAY).min(high);
        if offset(zone, probe) != before {
            let (mut same, mut other) = (same, probe);
            while other - same > 1 {
                let middle = same + (other - same) / 2;
                if offset(zone, middle) == before {
                    same = middle;
                } else {
                    other = middle;
                }
            }
            return Some(other);
        }
        same = probe;
    }
}

/// Named times of day: each wall-clock time counts once.
fn next_fixed(expr: &CronExpr, zone: Tz, after: i64) -> Option<i64> {
    let mut at = wall(after + offset(zone, after));
    loop {
        at = expr.next(at)?;
        let found = instant(zone, at);
        // In the hour that comes again its times are over.
        if found > after {
            return Some(found);
        }
    }
}

/// By the clock as it runs: stretch by stretch between two changes of the offset.
fn next_by_clock(expr: &CronExpr, zone: Tz, after: i64) -> Option<i64> {
    let mut after = after;
    loop {
        let ahead = offset(zone, after + 1);
        let found = expr.next(wall(after + ahead))?.and_utc().timestamp() - ahead;
        match first_change(zone, after + 1, found) {
            None => return Some(found),
            Some(change) => after = change - 1,
        }
    }
}

#[cfg(test)]
mod tests;
