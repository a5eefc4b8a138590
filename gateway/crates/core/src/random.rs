//! Randomness as a capability, so that a simulation is the same for the same seed.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

/// A source of random bytes.
pub trait Random: Send + Sync + 'static {
    /// Fills the buffer.
    fn fill(&self, buf: &mut [u8]);
}

/// The operating system's generator.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsRandom;

impl Random for OsRandom {
    fn fill(&self, buf: &mut [u8]) {
        if getrandom::fill(buf).is_err() {
            // Without randomness ids could repeat and codes be guessed: there is no safe way on.
            std::process::abort();
        }
    }
}

/// A seeded generator (SplitMix64) for simulations. Never for anything secret.
#[derive(Debug)]
pub struct SeededRandom(AtomicU64);

impl SeededRandom {
    /// The same seed gives the same bytes.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// The next number.
    pub fn next_u64(&self) -> u64 {
        let mut z = self
            .0
            .fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed)
            .wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl Random for SeededRandom {
    fn fill(&self, buf: &mut [u8]) {
        for chunk in buf.chunks_mut(8) {
            let bytes = self.next_u64().to_le_bytes();
            let n = chunk.len();
            chunk.copy_from_slice(&bytes[..n]);
        }
    }
}

/// A random UUID (version 4) in its usual text form.
#[must_use]
pub fn uuid(random: &dyn Random) -> String {
    let mut b = [0u8; 16];
    random.fill(&mut b);
    b[6] = (b[6] & 0x0f) | 0x40;
    b[8] = (b[8] & 0x3f) | 0x80;
    text_of(b)
}

/// A UUID (version 7) of this moment: one that is made in a later millisecond sorts behind it. 74 bits are random.
#[must_use]
pub fn ordered_uuid(random: &dyn Random, now_ms: i64) -> String {
    let mut b = [0u8; 16];
    random.fill(&mut b);
    b[..6].copy_from_slice(&now_ms.max(0).to_be_bytes()[2..]);
    b[6] = (b[6] & 0x0f) | 0x70;
    b[8] = (b[8] & 0x3f) | 0x80;
    text_of(b)
}

fn text_of(b: [u8; 16]) -> String {
    let mut out = String::with_capacity(36);
    for (i, byte) in b.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            out.push('-');
        }
        let _ = write!(out, "{byte:02x}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordered_ids_sort_by_their_millisecond_and_differ_within_it() {
        let id = |ms| ordered_uuid(&OsRandom, ms);
        let (a, b, c) = (
            id(1_800_000_000_000),
            id(1_800_000_000_000),
            id(1_800_000_000_001),
        );
        assert!(a != b && a < c && b < c);
        assert_eq!((a.len(), &a[14..15]), (36, "7"));
        assert!(matches!(&a[19..20], "8" | "9" | "a" | "b"));
    }
}
