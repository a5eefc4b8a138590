//! Commits at the will of a script instead of threads: slow ones, refused ones, and those after which the process dies.
//! For seeded simulations; the closures run on the thread that calls a verb of [`WaitingWrites`].

use crate::StoreError;
use crate::tenant_db::Inner;
use crate::writer::Job;
use std::sync::Arc;

/// Decides what becomes of waiting writes.
pub trait CommitScript: Send + Sync + std::fmt::Debug {
    /// A store has writes that wait. Called once for all that come until they are dealt with; `work` may be kept for later.
    fn waiting(&self, work: WaitingWrites);
}

/// The writes of one store that wait for their commit. Dropping it leaves them without an answer for ever, as the end of the
/// process does.
#[must_use = "nobody else deals with these writes"]
pub struct WaitingWrites(pub(crate) Arc<Inner>);

impl std::fmt::Debug for WaitingWrites {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WaitingWrites")
    }
}

/// Committed writes whose callers have not been told. As long as it lives they wait.
pub struct Unanswered {
    _jobs: Vec<Box<dyn Job>>,
}

impl std::fmt::Debug for Unanswered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Unanswered")
    }
}

impl WaitingWrites {
    /// Commits what waits by now and answers.
    pub fn commit(self) {
        while self.0.run_waiting() {}
    }

    /// Applies nothing and answers each with `error`.
    pub fn refuse(self, error: &StoreError) {
        self.0.refuse_waiting(error);
        // A store that is being closed is closed now.
        while self.0.run_waiting() {}
    }

    /// Commits what waits and answers nobody.
    pub fn commit_unanswered(self) -> Unanswered {
        Unanswered {
            _jobs: self.0.commit_waiting_unanswered(),
        }
    }
}
