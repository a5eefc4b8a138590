//! Room for TLS handshakes: how many may begin in a second, and how many may be under way.
//!
//! A peer that says nothing holds no place here (only its place among the unauthenticated connections). When all places are
//! taken, the handshake that has lasted longest makes room: an honest peer is through in one round trip, one that stops
//! half way waits the longest.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::limits::{TLS_HANDSHAKE_BURST, TLS_HANDSHAKES_AT_ONCE, TLS_HANDSHAKES_PER_SECOND};

/// The handshakes of one listener.
#[derive(Debug, Default)]
pub(crate) struct Handshakes {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    // Oldest first, at most TLS_HANDSHAKES_AT_ONCE.
    live: VecDeque<(u64, Arc<Notify>)>,
    // When the last handshake that was let in would begin if they came evenly.
    booked: Option<Instant>,
}

/// A place of one handshake.
#[derive(Debug)]
pub(crate) struct Place {
    of: Arc<Handshakes>,
    number: u64,
    push_out: Arc<Notify>,
}

impl State {
    /// Books the next handshake: how long it has to wait for its turn, or `None` if that would be longer than `patience`.
    fn book(&mut self, now: Instant, patience: Duration) -> Option<Duration> {
        let step = Duration::from_secs(1) / TLS_HANDSHAKES_PER_SECOND;
        let booked = self.booked.map_or(now, |at| (at + step).max(now));
        let wait = booked.saturating_duration_since(now + step * TLS_HANDSHAKE_BURST);
        if wait > patience {
            return None;
        }
        self.booked = Some(booked);
        Some(wait)
    }
}

impl Handshakes {
    /// Waits for a turn and takes a place; `None` if there is no turn within `patience`.
    pub(crate) async fn enter(self: &Arc<Self>, patience: Duration) -> Option<Place> {
        let wait = self.state.lock().book(Instant::now(), patience)?;
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        Some(self.place())
    }

    fn place(self: &Arc<Self>) -> Place {
        let push_out = Arc::new(Notify::new());
        let mut state = self.state.lock();
        if state.live.len() >= TLS_HANDSHAKES_AT_ONCE
            && let Some((_, oldest)) = state.live.pop_front()
        {
            oldest.notify_one();
        }
        let number = state.next;
        state.next += 1;
        state.live.push_back((number, push_out.clone()));
        Place {
            of: self.clone(),
            number,
            push_out,
        }
    }
}

impl Place {
    /// Resolves when this handshake has to make room.
    pub(crate) async fn pushed_out(&self) {
        self.push_out.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.of.state.lock();
        if let Ok(at) = state.live.binary_search_by_key(&self.number, |(n, _)| *n) {
            state.live.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    /// Covers: R13.
    #[test]
    fn handshakes_begin_at_a_bounded_rate() {
        let start = Instant::now();
        let patience = Duration::from_secs(5);
        let mut state = State::default();
        let mut waits = Vec::new();
        while let Some(wait) = state.book(start, patience) {
            waits.push(wait);
            assert!(waits.len() < 1_000_000, "nothing bounds them");
        }
        // At one moment: the burst at once, the others one after the other, as many as fit into the patience.
        let at_once = waits.iter().filter(|w| w.is_zero()).count();
        assert_eq!(at_once, TLS_HANDSHAKE_BURST as usize + 1);
        let seconds = u32::try_from(patience.as_secs()).unwrap_or(0);
        let all = (TLS_HANDSHAKE_BURST + 1 + TLS_HANDSHAKES_PER_SECOND * seconds) as usize;
        assert!(waits.len().abs_diff(all) <= 1, "{} of {all}", waits.len());
        assert!(waits.is_sorted());
        // After a pause the burst is there again, and not more.
        let later = start + Duration::from_secs(60);
        let again = std::iter::from_fn(|| state.book(later, Duration::ZERO)).count();
        assert_eq!(again, at_once);
    }

    /// Covers: R13.
    #[test]
    fn the_oldest_makes_room_and_places_come_back() {
        let all = Arc::new(Handshakes::default());
        let mut places: Vec<Place> = (0..TLS_HANDSHAKES_AT_ONCE).map(|_| all.place()).collect();
        assert!(
            places
                .iter()
                .all(|p| p.pushed_out().now_or_never().is_none())
        );
        places.remove(5);
        let filled = all.place();
        assert!(
            places
                .iter()
                .all(|p| p.pushed_out().now_or_never().is_none())
        );
        let newest = all.place();
        let out: Vec<u64> = places
            .iter()
            .filter(|p| p.pushed_out().now_or_never().is_some())
            .map(|p| p.number)
            .collect();
        assert_eq!(out, [0]);
        drop((places, filled, newest));
        assert!(all.state.lock().live.is_empty());
    }
}
