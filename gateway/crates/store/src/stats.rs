//! What a tenant's writer did, counted.

use std::time::Duration;

use gateway_metrics::{Counter, Histogram, SECONDS_SHORT, SIZES};

/// Counts of one tenant's store since it was opened first.
#[derive(Debug)]
pub struct CommitStats {
    /// Commits that changed something; each was on the disk before anybody was answered.
    pub commits: Counter,
    /// Writes that were answered by a commit or by its failure.
    pub writes: Counter,
    /// Commits that were undone as a whole.
    pub failures: Counter,
    /// Microseconds from the first statement to the answer of [`Self::commits`] and of [`Self::failures`].
    pub times: Histogram,
    /// Writes that shared a commit.
    pub batches: Histogram,
}

impl Default for CommitStats {
    fn default() -> Self {
        Self {
            commits: Counter::default(),
            writes: Counter::default(),
            failures: Counter::default(),
            times: Histogram::new(&SECONDS_SHORT),
            batches: Histogram::new(&SIZES),
        }
    }
}

impl CommitStats {
    /// `changed`: `None` for a commit that failed, else whether anything changed.
    pub(crate) fn ended(&self, writes: usize, time: Duration, changed: Option<bool>) {
        let writes = u64::try_from(writes).unwrap_or(u64::MAX);
        self.writes.add(writes);
        match changed {
            // Reads in the writer's place are no commits.
            Some(false) => return,
            Some(true) => self.commits.inc(),
            None => self.failures.inc(),
        }
        self.batches.observe(writes);
        self.times.observe_time(time);
    }
}
