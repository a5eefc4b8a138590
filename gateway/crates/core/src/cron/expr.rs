//! Cron expressions with the meaning of crontab(5), on top of the calendar search of the `cron` crate.
//!
//! That crate has a dialect of its own: Sunday is 1, seconds are a must, and both day fields must fit. Here a field is
//! first read into the set of its values; the crate then gets plain lists, one schedule, or two where either day field
//! may fit. It searches wall-clock time only: time zones are the work of [`super::schedule`].

use std::str::FromStr;

use chrono::NaiveDateTime;

use super::schedule::ScheduleError;

const MONTHS: [&str; 12] = [
    "JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC",
];
const WEEKDAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

/// A field of an expression: what it is called, its range, and names for its values.
struct Kind {
    name: &'static str,
    min: u32,
    max: u32,
    names: &'static [&'static str],
    /// Value of the first name.
    first: u32,
}

const SECOND: Kind = plain("second", 0, 59);
const MINUTE: Kind = plain("minute", 0, 59);
const HOUR: Kind = plain("hour", 0, 23);
const DAY: Kind = plain("day of month", 1, 31);
const MONTH: Kind = Kind {
    names: &MONTHS,
    first: 1,
    ..plain("month", 1, 12)
};
// 7 is Sunday too.
const WEEKDAY: Kind = Kind {
    names: &WEEKDAYS,
    first: 0,
    ..plain("day of week", 0, 7)
};

const fn plain(name: &'static str, min: u32, max: u32) -> Kind {
    Kind {
        name,
        min,
        max,
        names: &[],
        first: 0,
    }
}

/// The values of one field.
#[derive(Clone, Copy)]
struct Values {
    bits: u64,
    /// Whether it was written with a star, which makes a day field unrestricted.
    star: bool,
}

/// A cron expression, ready to be searched.
#[derive(Debug, Clone)]
pub struct CronExpr {
    parts: Vec<cron::Schedule>,
    fixed: bool,
    top_of_hour: bool,
}

impl CronExpr {
    /// Reads 5 fields (minute, hour, day of month, month, day of week), 6 (a second before them), or one of `@hourly`,
    /// `@daily`, `@midnight`, `@weekly`, `@monthly`, `@yearly`, `@annually`.
    ///
    /// # Errors
    /// A text that names the field and says what to write.
    pub fn parse(text: &str) -> Result<Self, ScheduleError> {
        let text = text.trim();
        let text = match text.strip_prefix('@') {
            Some(name) => nickname(name)?,
            None => text,
        };
        let fields: Vec<&str> = text.split_ascii_whitespace().collect();
        let (second, rest) = match fields.as_slice() {
            [minute, hour, day, month, weekday] => ("0", [*minute, *hour, *day, *month, *weekday]),
            [second, minute, hour, day, month, weekday] => {
                (*second, [*minute, *hour, *day, *month, *weekday])
            }
            _ => {
                return Err(ScheduleError::new(format!(
                    "a cron expression has 5 fields (minute hour day-of-month month day-of-week) or 6 with a second before \
                     them, this one has {}",
                    fields.len()
                )));
            }
        };
        let [minute, hour, day, month, weekday] = rest;
        let second = SECOND.read(second)?;
        let minute = MINUTE.read(minute)?;
        let hour = HOUR.read(hour)?;
        let day = DAY.read(day)?;
        let month = MONTH.read(month)?;
        let weekday = WEEKDAY.read(weekday)?.sunday_once();
        let build = |day: &str, weekday: &str| {
            let line = format!(
                "{} {} {} {day} {} {weekday}",
                second.list(0, 59, 0),
                minute.list(0, 59, 0),
                hour.list(0, 23, 0),
                month.list(1, 12, 0),
            );
            cron::Schedule::from_str(&line)
                .map_err(|error| ScheduleError::new(format!("cron expression: {error}")))
        };
        let (days, weekdays) = (day.list(1, 31, 0), weekday.list(0, 6, 1));
        let parts = if day.star || weekday.star {
            vec![build(&days, &weekdays)?]
        } else {
            vec![build(&days, "*")?, build("*", &weekdays)?]
        };
        let expr = Self {
            parts,
            fixed: !minute.star && !hour.star,
            top_of_hour: second.bits == 1 && minute.bits == 1 && hour.star,
        };
        let begin = chrono::NaiveDate::from_ymd_opt(2024, 1, 1)
            .and_then(|day| day.and_hms_opt(0, 0, 0))
            .unwrap_or_default();
        if expr.next(begin).is_none() {
            return Err(ScheduleError::new(
                "this cron expression never comes due: no month has such a day",
            ));
        }
        Ok(expr)
    }

    /// The first fitting wall-clock time after `after` (whole seconds).
    pub(super) fn next(&self, after: NaiveDateTime) -> Option<NaiveDateTime> {
        // The crate wants a time zone; in UTC every wall-clock time exists exactly once.
        let after = after.and_utc();
        self.parts
            .iter()
            .filter_map(|part| part.after(&after).next())
            .min()
            .map(|found| found.naive_utc())
    }

    /// Whether it names times of day. Such a job runs once on a day whose clock is changed; one that has a star as minute
    /// or hour follows the clock as it is.
    pub(super) fn is_fixed(&self) -> bool {
        self.fixed
    }

    /// Whether it comes due in every hour of some range, at minute 0: the moment at which everybody's jobs come due.
    pub(super) fn is_top_of_hour(&self) -> bool {
        self.top_of_hour
    }
}

fn nickname(name: &str) -> Result<&'static str, ScheduleError> {
    Ok(match name.to_ascii_lowercase().as_str() {
        "hourly" => "0 * * * *",
        "daily" | "midnight" => "0 0 * * *",
        "weekly" => "0 0 * * 0",
        "monthly" => "0 0 1 * *",
        "yearly" | "annually" => "0 0 1 1 *",
        "reboot" => {
            return Err(ScheduleError::new(
                "@reboot is not a time; a boot script runs at each start",
            ));
        }
        other => {
            return Err(ScheduleError::new(format!(
                "@{} is not known; use @hourly, @daily, @weekly, @monthly or @yearly",
                gateway_protocol::error::echo(other)
            )));
        }
    })
}

impl Kind {
    fn wrong(&self, text: &str, why: &str) -> ScheduleError {
        ScheduleError::new(format!(
            "{} {:?}: {why}",
            self.name,
            gateway_protocol::error::echo(text)
        ))
    }

    fn read(&self, text: &str) -> Result<Values, ScheduleError> {
        let mut values = Values {
            bits: 0,
            star: text.starts_with(['*', '?']),
        };
        for item in text.split(',') {
            let (range, step) = match item.split_once('/') {
                Some((range, step)) => {
                    let step: u32 = step
                        .parse()
                        .ok()
                        .filter(|step| (1..=self.max).contains(step))
                        .ok_or_else(|| {
                            self.wrong(item, &format!("a step is a number from 1 to {}", self.max))
                        })?;
                    (range, Some(step))
                }
                None => (item, None),
            };
            let (from, to) = match range {
                "*" => (self.min, self.top()),
                "?" if self.name.starts_with("day") => (self.min, self.top()),
                _ => match range.split_once('-') {
                    Some((from, to)) => self.range(item, from, to)?,
                    None if step.is_some() => {
                        return Err(self.wrong(
                            item,
                            "a step belongs to * or to a range, as in */15 or 10-40/15",
                        ));
                    }
                    None => {
                        let value = self.value(item, range)?;
                        (value, value)
                    }
                },
            };
            let mut value = from;
            while value <= to {
                values.bits |= 1 << value;
                value += step.unwrap_or(1);
            }
        }
        Ok(values)
    }

    /// The greatest value that a star stands for: 7 is only another name of 0.
    fn top(&self) -> u32 {
        if self.max == 7 { 6 } else { self.max }
    }

    fn range(&self, item: &str, from: &str, to: &str) -> Result<(u32, u32), ScheduleError> {
        let (from, mut to) = (self.value(item, from)?, self.value(item, to)?);
        if self.max == 7 && to == 0 && from > 0 {
            to = 7;
        }
        if from > to {
            return Err(self.wrong(
                item,
                "the range ends before it begins; write two ranges with a comma",
            ));
        }
        Ok((from, to))
    }

    fn value(&self, item: &str, text: &str) -> Result<u32, ScheduleError> {
        if let Ok(number) = text.parse::<u32>()
            && text.bytes().all(|b| b.is_ascii_digit())
        {
            return if (self.min..=self.max).contains(&number) {
                Ok(number)
            } else {
                Err(self.wrong(item, &format!("must be from {} to {}", self.min, self.max)))
            };
        }
        let named = self
            .names
            .iter()
            .position(|name| name.eq_ignore_ascii_case(text));
        if let Some(at) = named {
            return Ok(self.first + u32::try_from(at).unwrap_or(0));
        }
        let upper = text.to_ascii_uppercase();
        if upper.contains(['L', 'W', '#']) {
            return Err(self.wrong(
                item,
                "L, W and # are not supported; name the days, as in 1-7 or 22-28 together with a day of week",
            ));
        }
        Err(self.wrong(item, &format!("must be from {} to {}", self.min, self.max)))
    }
}

impl Values {
    fn sunday_once(self) -> Self {
        Self {
            bits: (self.bits & 0x7f) | (self.bits >> 7 & 1),
            ..self
        }
    }

    /// The values as the crate wants them; `shift` is added to each (its Sunday is 1).
    fn list(self, min: u32, max: u32, shift: u32) -> String {
        let all = (min..=max).fold(0_u64, |bits, value| bits | 1 << value);
        if self.bits & all == all {
            return "*".to_owned();
        }
        (min..=max)
            .filter(|value| self.bits >> value & 1 == 1)
            .map(|value| (value + shift).to_string())
            .collect::<Vec<_>>()
            .join(",")
    }
}
