//! How often a value fell into which range.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The upper ends of the ranges, in the unit in which values are observed; one more range without an end follows.
#[derive(Debug, PartialEq)]
pub struct Bounds {
    /// Rising.
    pub upper: &'static [u64],
    /// What an observed value is multiplied with when it is shown.
    pub scale: f64,
}

/// Microseconds of what is over in well under a second, shown in seconds: 0.5 ms to 10 s.
pub const SECONDS_SHORT: Bounds = Bounds {
    upper: &[
        500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 2_500_000,
        10_000_000,
    ],
    scale: 1e-6,
};
/// Microseconds of what may take minutes, shown in seconds: 10 ms to 10 min.
pub const SECONDS_LONG: Bounds = Bounds {
    upper: &[
        10_000,
        50_000,
        250_000,
        1_000_000,
        2_500_000,
        5_000_000,
        10_000_000,
        30_000_000,
        60_000_000,
        300_000_000,
        600_000_000,
    ],
    scale: 1e-6,
};
/// How many things came together: 1 to 512.
pub const SIZES: Bounds = Bounds {
    upper: &[1, 2, 4, 8, 16, 64, 256, 512],
    scale: 1.0,
};

/// Counts values by range.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static Bounds,
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Histogram {
    /// Nothing observed yet.
    #[must_use]
    pub fn new(bounds: &'static Bounds) -> Self {
        Self {
            bounds,
            counts: (0..=bounds.upper.len())
                .map(|_| AtomicU64::new(0))
                .collect(),
            sum: AtomicU64::new(0),
        }
    }

    /// Counts a value.
    pub fn observe(&self, value: u64) {
        let place = self.bounds.upper.partition_point(|upper| *upper < value);
        if let Some(count) = self.counts.get(place) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// Counts a time, for bounds in microseconds.
    pub fn observe_time(&self, time: Duration) {
        self.observe(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    /// What was counted by now.
    #[must_use]
    pub fn read(&self) -> Distribution {
        Distribution {
            bounds: self.bounds,
            counts: self
                .counts
                .iter()
                .map(|count| count.load(Ordering::Relaxed))
                .collect(),
            sum: self.sum.load(Ordering::Relaxed),
        }
    }
}

/// What a histogram counted up to a moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Distribution {
    pub(crate) bounds: &'static Bounds,
    pub(crate) counts: Vec<u64>,
    pub(crate) sum: u64,
}

impl Distribution {
    /// Without any value.
    #[must_use]
    pub fn empty(bounds: &'static Bounds) -> Self {
        Self {
            bounds,
            counts: vec![0; bounds.upper.len() + 1],
            sum: 0,
        }
    }

    /// Adds what another one of the same bounds counted.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.sum += other.sum;
    }

    /// How many values.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_on_a_bound_belongs_below_it() {
        let histogram = Histogram::new(&SIZES);
        for value in [0, 1, 2, 3, 512, 513, 100_000] {
            histogram.observe(value);
        }
        let read = histogram.read();
        assert_eq!(read.counts, [2, 1, 1, 0, 0, 0, 0, 1, 2]);
        assert_eq!(read.sum, 101_031);
        let mut both = Distribution::empty(&SIZES);
        both.add(&read);
        both.add(&read);
        assert_eq!((both.count(), both.sum), (14, 202_062));
    }
}
