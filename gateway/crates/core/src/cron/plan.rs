//! What to do about a job that is due: a pure function of its schedule, its policy and the time.

use gateway_protocol::methods::cron::{CronCatchUp, CronCatchUpMode};

use super::limits::{CATCH_UP_ALL_DEFAULT, CATCH_UP_GRACE_MS, ON_TIME_MS};
use super::schedule::Schedule;

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    /// The occurrence to run.
    pub run: Option<i64>,
    /// Occurrences before it that nobody was there for.
    pub missed: Option<Missed>,
    /// When the job is to be looked at again.
    pub next: Option<i64>,
}

/// Occurrences that are not made up for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Missed {
    /// The last of them.
    pub occurrence: i64,
    /// How many there were.
    pub count: u64,
    /// Whether there were even more.
    pub more: bool,
}

impl Missed {
    /// For the log.
    pub fn text(&self) -> String {
        match (self.count, self.more) {
            (1, false) => "missed: the gateway was not there at that time".to_owned(),
            (n, more) => format!(
                "missed: {}{n} occurrences up to this one came due while the gateway was not there",
                if more { "more than " } else { "" }
            ),
        }
    }
}

/// `first` is the occurrence that is due.
pub(super) fn plan(
    schedule: &Schedule,
    policy: Option<&CronCatchUp>,
    first: i64,
    now: i64,
) -> Plan {
    let default = CronCatchUp::default();
    let policy = policy.unwrap_or(&default);
    let grace = policy
        .grace_ms
        .map(|ms| i64::try_from(ms).unwrap_or(i64::MAX))
        .unwrap_or(match policy.mode {
            CronCatchUpMode::None => ON_TIME_MS,
            CronCatchUpMode::Latest | CronCatchUpMode::All => CATCH_UP_GRACE_MS,
        });
    let wanted = match policy.mode {
        CronCatchUpMode::None | CronCatchUpMode::Latest => 1,
        CronCatchUpMode::All => usize::try_from(policy.max.unwrap_or(CATCH_UP_ALL_DEFAULT))
            .unwrap_or(1)
            .max(1),
    };
    // One more than wanted, to know the last one that is missed.
    let due = schedule.due(first, now, wanted + 1);
    let from = due.last.len().saturating_sub(wanted).max(
        due.last
            .partition_point(|at| now.saturating_sub(*at) > grace),
    );
    let (missed, runnable) = due.last.split_at(from.min(due.last.len()));
    let missed = missed.last().map(|last| Missed {
        occurrence: *last,
        count: if due.more {
            due.earlier
        } else {
            due.earlier + missed.len() as u64
        },
        more: due.more,
    });
    Plan {
        run: runnable.first().copied(),
        missed,
        next: runnable
            .get(1)
            .copied()
            .or_else(|| schedule.next_ms(now.max(first))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000;
    const FIRST: i64 = 1_800_000_000_000;

    fn minutely() -> Schedule {
        Schedule::Every {
            every_ms: MINUTE,
            anchor_ms: FIRST,
        }
    }

    fn policy(mode: CronCatchUpMode, max: Option<u64>, grace_ms: Option<u64>) -> CronCatchUp {
        CronCatchUp {
            mode,
            max,
            grace_ms,
        }
    }

    /// Covers: F31.
    #[test]
    fn an_occurrence_on_time_runs_under_every_policy() {
        for mode in [
            CronCatchUpMode::None,
            CronCatchUpMode::Latest,
            CronCatchUpMode::All,
        ] {
            let plan = plan(
                &minutely(),
                Some(&policy(mode, None, None)),
                FIRST,
                FIRST + 40,
            );
            assert_eq!(
                plan,
                Plan {
                    run: Some(FIRST),
                    missed: None,
                    next: Some(FIRST + MINUTE)
                }
            );
        }
    }

    /// Covers: F31.
    #[test]
    fn what_was_missed_follows_the_policy() {
        let now = FIRST + 10 * MINUTE + 30_000;
        let latest = plan(&minutely(), None, FIRST, now);
        assert_eq!(latest.run, Some(FIRST + 10 * MINUTE));
        assert_eq!(latest.next, Some(FIRST + 11 * MINUTE));
        let missed = latest.missed.unwrap_or_else(|| panic!("missed"));
        assert_eq!((missed.occurrence, missed.count), (FIRST + 9 * MINUTE, 10));
        assert!(missed.text().contains("10 occurrences"));

        let none = policy(CronCatchUpMode::None, None, Some(10_000));
        let none = plan(&minutely(), Some(&none), FIRST, now);
        assert_eq!((none.run, none.next), (None, Some(FIRST + 11 * MINUTE)));
        assert_eq!(
            none.missed.map(|m| (m.occurrence, m.count)),
            Some((FIRST + 10 * MINUTE, 11))
        );

        let all = policy(CronCatchUpMode::All, Some(3), None);
        let mut at = FIRST;
        let mut ran = Vec::new();
        let mut lost = 0;
        while at <= now {
            let step = plan(&minutely(), Some(&all), at, now);
            ran.extend(step.run);
            lost += step.missed.map_or(0, |m| m.count);
            at = step.next.unwrap_or(i64::MAX);
        }
        assert_eq!(
            ran,
            [FIRST + 8 * MINUTE, FIRST + 9 * MINUTE, FIRST + 10 * MINUTE]
        );
        assert_eq!(lost, 8);
    }

    /// Covers: F31.
    #[test]
    fn what_is_too_old_is_missed() {
        let hour = 3_600_000;
        let old = policy(CronCatchUpMode::Latest, None, Some(60_000));
        let once = Schedule::At(FIRST);
        let plan_ = plan(&once, Some(&old), FIRST, FIRST + hour);
        assert_eq!((plan_.run, plan_.next), (None, None));
        assert_eq!(plan_.missed.map(|m| m.count), Some(1));
        assert_eq!(plan(&once, None, FIRST, FIRST + hour).run, Some(FIRST));
        // A clock that jumped a year forward: one run, one note.
        let year = 365 * 24 * hour;
        let jump = plan(&minutely(), None, FIRST, FIRST + year);
        assert_eq!(jump.run, Some(FIRST + year));
        assert!(
            jump.missed
                .is_some_and(|m| m.more && m.text().contains("more than 1000"))
        );
    }
}
