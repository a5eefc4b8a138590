//! Numbers about what goes on: counting costs one atomic addition, reading costs a copy, and nothing waits for a lock.
//!
//! There is no registry and nothing global: whoever counts owns its numbers, and whoever shows them writes them down with
//! [`Exposition`].

mod exposition;
mod histogram;

use std::sync::atomic::{AtomicU64, Ordering};

pub use exposition::{Exposition, Kind};
pub use histogram::{Bounds, Distribution, Histogram, SECONDS_LONG, SECONDS_SHORT, SIZES};

/// A number that only rises.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn inc(&self) {
        self.add(1);
    }

    /// `n` more.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// How many by now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
