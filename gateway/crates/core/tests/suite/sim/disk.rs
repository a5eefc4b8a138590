//! A disk with faults: commits that take long, that find no room (one, or all for a while), and the one after which the process dies
//! before anybody is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gateway_core::random::SeededRandom;
use gateway_store::{CommitScript, StoreError, Unanswered, WaitingWrites};
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Dice;

/// Shorter than the time for which the end of a run is tried again.
const FULL_FOR_MS: u64 = 300;

#[derive(Debug)]
pub struct Disk {
    dice: Dice,
    calm: AtomicBool,
    may_crash: bool,
    full_until: Mutex<Option<Instant>>,
    /// Cancelled when the process is to die.
    pub crash: CancellationToken,
    held: Mutex<Vec<Unanswered>>,
    /// Commits that were slow, refused, and followed by the end.
    pub faults: Mutex<[u64; 3]>,
}

impl Disk {
    /// Without faults until [`Disk::stir`].
    pub fn new(seed: u64, may_crash: bool) -> Arc<Self> {
        Arc::new(Self {
            dice: Dice(SeededRandom::new(seed)),
            calm: AtomicBool::new(true),
            may_crash,
            full_until: Mutex::new(None),
            crash: CancellationToken::new(),
            held: Mutex::default(),
            faults: Mutex::default(),
        })
    }

    pub fn stir(&self) {
        self.calm.store(false, Ordering::SeqCst);
    }

    pub fn settle(&self) {
        self.calm.store(true, Ordering::SeqCst);
    }

    fn is_full(&self) -> bool {
        let mut full = self.full_until.lock();
        if full.is_some_and(|until| Instant::now() >= until) {
            *full = None;
        }
        full.is_some()
    }
}

impl CommitScript for Disk {
    fn waiting(&self, work: WaitingWrites) {
        if self.calm.load(Ordering::SeqCst) {
            return work.commit();
        }
        let count = |which: usize| self.faults.lock()[which] += 1;
        if self.is_full() {
            count(1);
            return work.refuse(&StoreError::Full);
        }
        match self.dice.below(100) {
            0..=2 => {
                count(1);
                work.refuse(&StoreError::Full);
            }
            3 => {
                count(1);
                *self.full_until.lock() =
                    Some(Instant::now() + Duration::from_millis(self.dice.below(FULL_FOR_MS)));
                work.refuse(&StoreError::Full);
            }
            4 if self.may_crash => {
                count(2);
                self.held.lock().push(work.commit_unanswered());
                self.crash.cancel();
            }
            5..=24 => {
                // What comes meanwhile is in the same commit.
                count(0);
                let pause = Duration::from_millis(1 + self.dice.below(60));
                tokio::spawn(async move {
                    tokio::time::sleep(pause).await;
                    work.commit();
                });
            }
            _ => work.commit(),
        }
    }
}
