//! The failure limiter: a place is taken *before* a credential is looked at, so that a thousand parallel
//! attempts get no more verifications than ten that come one after the other.

use std::collections::HashMap;
use std::net::IpAddr;

use parking_lot::{Mutex, RwLock};

use crate::limits::{AUTH_FAILURES_MAX, AUTH_LOCKOUT_MS, AUTH_TRACKED_MAX, AUTH_WINDOW_MS};

/// How many failures, in what time, lock out for how long.
#[derive(Debug, Clone, Copy)]
pub struct LimiterRules {
    /// Failures that lock.
    pub failures: u32,
    /// Window, ms.
    pub window_ms: u64,
    /// Lockout, ms.
    pub lockout_ms: u64,
}

impl Default for LimiterRules {
    fn default() -> Self {
        Self {
            failures: AUTH_FAILURES_MAX,
            window_ms: AUTH_WINDOW_MS,
            lockout_ms: AUTH_LOCKOUT_MS,
        }
    }
}

/// What kind of credential an attempt gives; each has its own count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CredentialClass {
    /// The gateway's token or password over WebSocket or JSON-RPC.
    SharedSecret,
    /// A bearer of the HTTP surfaces.
    HttpBearer,
    /// The secret of a webhook.
    Webhook,
    /// A pairing or setup code.
    Code,
}

/// The network part of an address that is counted as one: IPv4 whole, IPv6 by its /64 (what one host gets).
pub(crate) fn bucket(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => {
            let mut s = v6.segments();
            s[4..].fill(0);
            IpAddr::V6(s.into())
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Start of the window, monotonic ms.
    since: u64,
    failures: u32,
    in_flight: u32,
    locked_until: u64,
}

/// Counts failures per (address, class). Bounded.
#[derive(Debug, Default)]
pub struct FailureLimiter {
    rules: RwLock<LimiterRules>,
    entries: Mutex<HashMap<(IpAddr, CredentialClass), Entry>>,
}

/// A place for one verification. Dropped without a verdict it counts as a failure (the caller went away).
#[derive(Debug)]
#[must_use]
pub struct Reservation<'a> {
    limiter: &'a FailureLimiter,
    key: (IpAddr, CredentialClass),
    now: u64,
    open: bool,
}

impl FailureLimiter {
    /// A limiter with these rules.
    #[must_use]
    pub fn new(rules: LimiterRules) -> Self {
        Self {
            rules: RwLock::new(rules),
            entries: Mutex::default(),
        }
    }

    /// Goes on with other rules. What was counted stays counted.
    pub fn set_rules(&self, rules: LimiterRules) {
        *self.rules.write() = rules;
    }

    fn rules(&self) -> LimiterRules {
        *self.rules.read()
    }

    /// Takes a place at monotonic time `now` (ms).
    ///
    /// # Errors
    /// The ms to wait when the address is locked out, or has as many attempts in work as it has failures left.
    pub fn reserve(
        &self,
        ip: IpAddr,
        class: CredentialClass,
        now: u64,
    ) -> Result<Reservation<'_>, u64> {
        let key = (bucket(ip), class);
        let rules = self.rules();
        let mut map = self.entries.lock();
        if !map.contains_key(&key) && map.len() >= AUTH_TRACKED_MAX {
            make_room(&mut map, now, rules.window_ms);
            if map.len() >= AUTH_TRACKED_MAX {
                // Everything is locked or in work: refuse rather than forget a lockout.
                return Err(rules.window_ms);
            }
        }
        let entry = map.entry(key).or_insert(Entry {
            since: now,
            failures: 0,
            in_flight: 0,
            locked_until: 0,
        });
        if entry.locked_until > now {
            return Err(entry.locked_until - now);
        }
        if now.saturating_sub(entry.since) >= rules.window_ms {
            entry.since = now;
            entry.failures = 0;
        }
        if entry.failures + entry.in_flight >= rules.failures {
            return Err(1_000);
        }
        entry.in_flight += 1;
        Ok(Reservation {
            limiter: self,
            key,
            now,
            open: true,
        })
    }

    /// Whether (and for how many ms) an address is locked out.
    #[must_use]
    pub fn locked_ms(&self, ip: IpAddr, class: CredentialClass, now: u64) -> Option<u64> {
        let map = self.entries.lock();
        let entry = map.get(&(bucket(ip), class))?;
        (entry.locked_until > now).then(|| entry.locked_until - now)
    }

    /// Entries remembered now.
    #[must_use]
    pub fn tracked(&self) -> usize {
        self.entries.lock().len()
    }

    /// Forgets entries that no longer matter.
    pub fn sweep(&self, now: u64) {
        let window = self.rules().window_ms;
        self.entries.lock().retain(|_, e| useful(e, now, window));
    }

    fn finish(&self, key: (IpAddr, CredentialClass), now: u64, ok: bool) {
        let rules = self.rules();
        let mut map = self.entries.lock();
        let Some(entry) = map.get_mut(&key) else {
            return;
        };
        entry.in_flight = entry.in_flight.saturating_sub(1);
        if ok {
            entry.failures = 0;
            entry.since = now;
            if entry.in_flight == 0 {
                map.remove(&key);
            }
            return;
        }
        entry.failures += 1;
        if entry.failures >= rules.failures {
            entry.locked_until = now + rules.lockout_ms;
            entry.failures = 0;
            entry.since = now;
        }
    }
}

fn useful(e: &Entry, now: u64, window_ms: u64) -> bool {
    e.in_flight > 0
        || e.locked_until > now
        || (e.failures > 0 && now.saturating_sub(e.since) < window_ms)
}

fn make_room(map: &mut HashMap<(IpAddr, CredentialClass), Entry>, now: u64, window_ms: u64) {
    map.retain(|_, e| useful(e, now, window_ms));
    if map.len() < AUTH_TRACKED_MAX {
        return;
    }
    // Oldest windows first, an eighth at once so that a flood does not pay this for each attempt.
    let mut old: Vec<(u64, (IpAddr, CredentialClass))> = map
        .iter()
        .filter(|(_, e)| e.in_flight == 0 && e.locked_until <= now)
        .map(|(k, e)| (e.since, *k))
        .collect();
    old.sort_by_key(|(since, _)| *since);
    for (_, key) in old.into_iter().take(AUTH_TRACKED_MAX / 8) {
        map.remove(&key);
    }
}

impl Reservation<'_> {
    /// The credential was right.
    pub fn succeeded(mut self) {
        self.open = false;
        self.limiter.finish(self.key, self.now, true);
    }

    /// The credential was wrong.
    pub fn failed(mut self) {
        self.open = false;
        self.limiter.finish(self.key, self.now, false);
    }

    /// Nothing was verified (no credential was there to compare): the place is given back uncounted.
    pub fn release(mut self) {
        self.open = false;
        let window_ms = self.limiter.rules().window_ms;
        let mut map = self.limiter.entries.lock();
        if let Some(e) = map.get_mut(&self.key) {
            e.in_flight = e.in_flight.saturating_sub(1);
            if !useful(e, self.now, window_ms) {
                map.remove(&self.key);
            }
        }
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if self.open {
            self.limiter.finish(self.key, self.now, false);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    const C: CredentialClass = CredentialClass::SharedSecret;

    fn ip(n: u32) -> IpAddr {
        IpAddr::V4(std::net::Ipv4Addr::from(n))
    }

    /// Covers: B4.
    #[test]
    fn ten_failures_lock_for_five_minutes() {
        let l = FailureLimiter::default();
        for i in 0..10 {
            l.reserve(ip(1), C, i * 100).unwrap().failed();
        }
        let wait = l.reserve(ip(1), C, 2_000).unwrap_err();
        assert!(wait > AUTH_LOCKOUT_MS - 2_000 && wait <= AUTH_LOCKOUT_MS);
        assert!(
            l.reserve(ip(2), C, 2_000).is_ok(),
            "another address is free"
        );
        assert!(
            l.reserve(ip(1), CredentialClass::Code, 2_000).is_ok(),
            "another class is free"
        );
        assert!(l.reserve(ip(1), C, 900 + AUTH_LOCKOUT_MS).is_ok());
    }

    #[test]
    fn nine_failures_and_a_pause_do_not_lock() {
        let l = FailureLimiter::default();
        for round in 0..5 {
            for _ in 0..9 {
                l.reserve(ip(1), C, round * AUTH_WINDOW_MS)
                    .unwrap()
                    .failed();
            }
        }
        assert!(l.locked_ms(ip(1), C, 5 * AUTH_WINDOW_MS).is_none());
    }

    /// Parallel attempts are counted before they are verified. Covers: B4.
    #[test]
    fn parallel_attempts_get_no_more_than_the_limit() {
        let l = FailureLimiter::default();
        let held: Vec<_> = (0..1_000)
            .filter_map(|_| l.reserve(ip(1), C, 5).ok())
            .collect();
        assert_eq!(held.len(), 10);
        drop(held); // went away without a verdict: failures
        assert!(l.locked_ms(ip(1), C, 6).is_some());
    }

    /// Covers: R12.
    #[test]
    fn success_forgets_failures_and_memory_is_bounded() {
        let l = FailureLimiter::default();
        for _ in 0..9 {
            l.reserve(ip(1), C, 1).unwrap().failed();
        }
        l.reserve(ip(1), C, 1).unwrap().succeeded();
        assert_eq!(l.tracked(), 0);
        for n in 0..u32::try_from(AUTH_TRACKED_MAX).unwrap() + 5_000 {
            if let Ok(r) = l.reserve(ip(n), C, u64::from(n)) {
                r.failed();
            }
        }
        assert!(l.tracked() <= AUTH_TRACKED_MAX);
    }

    #[test]
    fn a_lockout_survives_a_flood_of_addresses() {
        let l = FailureLimiter::default();
        for _ in 0..10 {
            l.reserve(ip(7), C, 1).unwrap().failed();
        }
        for n in 100..100 + 2 * u32::try_from(AUTH_TRACKED_MAX).unwrap() {
            if let Ok(r) = l.reserve(ip(n), C, 2) {
                r.failed();
            }
        }
        assert!(l.locked_ms(ip(7), C, 3).is_some());
    }

    #[test]
    fn one_ipv6_network_is_one_address() {
        let l = FailureLimiter::default();
        for i in 0..10u16 {
            let a: IpAddr = format!("2001:db8:1:2::{i:x}").parse().unwrap();
            l.reserve(a, C, 1).unwrap().failed();
        }
        let other: IpAddr = "2001:db8:1:2:ffff::1".parse().unwrap();
        assert!(l.reserve(other, C, 2).is_err());
    }
}
