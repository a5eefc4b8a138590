//! The limiter of writes to the control plane: schedules and configuration. It keeps a client in a loop from wearing out the
//! disk; reads and messages are not counted.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use gateway_protocol::error::{DetailCode, RpcError};
use parking_lot::Mutex;

use crate::auth::limiter::bucket;
use crate::limits::{CONTROL_WRITES_MAX, CONTROL_WRITES_TRACKED_MAX, CONTROL_WRITES_WINDOW_MS};

/// The methods that are counted, each for itself.
const COUNTED: [&str; 7] = [
    "config.apply",
    "config.patch",
    "config.set",
    "cron.add",
    "cron.remove",
    "cron.run",
    "cron.update",
];

/// Whether calls of this method are counted.
pub(crate) fn is_counted(method: &str) -> bool {
    COUNTED.contains(&method)
}

/// A method, and the address from which it was called.
type Writer = (&'static str, Option<IpAddr>);

/// When what was written from where. Bounded.
#[derive(Debug, Default)]
pub(crate) struct WriteLimiter {
    // Of each method and address the times (monotonic ms) of the last window, oldest first.
    times: Mutex<HashMap<Writer, VecDeque<u64>>>,
}

impl WriteLimiter {
    /// Counts a call, or says that there were too many.
    pub(crate) fn admit(
        &self,
        method: &'static str,
        from: Option<IpAddr>,
        now_ms: u64,
    ) -> Result<(), RpcError> {
        let key = (method, from.map(bucket));
        let old = |at: &u64| now_ms.saturating_sub(*at) >= CONTROL_WRITES_WINDOW_MS;
        let mut times = self.times.lock();
        if !times.contains_key(&key) && times.len() >= CONTROL_WRITES_TRACKED_MAX {
            times.retain(|_, of| of.back().is_some_and(|at| !old(at)));
            if times.len() >= CONTROL_WRITES_TRACKED_MAX {
                return Err(refusal(method, CONTROL_WRITES_WINDOW_MS));
            }
        }
        let of = times.entry(key).or_default();
        while of.front().is_some_and(old) {
            of.pop_front();
        }
        if of.len() >= CONTROL_WRITES_MAX {
            let oldest = of.front().copied().unwrap_or(now_ms);
            let wait = CONTROL_WRITES_WINDOW_MS.saturating_sub(now_ms.saturating_sub(oldest));
            return Err(refusal(method, wait));
        }
        of.push_back(now_ms);
        Ok(())
    }
}

fn refusal(method: &'static str, wait_ms: u64) -> RpcError {
    let seconds = wait_ms.div_ceil(1_000);
    RpcError::new(
        DetailCode::RateLimited,
        format!("rate limit exceeded for {method}; retry after {seconds}s"),
    )
    .with("method", method)
    .with(
        "limit",
        format!(
            "{CONTROL_WRITES_MAX} per {}s",
            CONTROL_WRITES_WINDOW_MS / 1_000
        ),
    )
    .retry_after_ms(wait_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv6Addr;

    #[test]
    fn each_method_and_network_has_its_own_window() {
        let limiter = WriteLimiter::default();
        let from = |last: u16| {
            Some(IpAddr::V6(Ipv6Addr::new(
                0x2001, 0xdb8, 0, 1, 0, 0, 0, last,
            )))
        };
        for n in 0..CONTROL_WRITES_MAX as u64 {
            assert!(limiter.admit("cron.add", from(1), 1_000 + n).is_ok());
        }
        let refused = limiter.admit("cron.add", from(2), 2_000);
        assert_eq!(
            refused.map_err(|e| (e.message, e.retry_after_ms)),
            Err((
                "rate limit exceeded for cron.add; retry after 59s".to_owned(),
                Some(59_000)
            ))
        );
        assert!(limiter.admit("cron.run", from(1), 2_000).is_ok());
        assert!(limiter.admit("cron.add", None, 2_000).is_ok());
        // A refused call does not count; the window slides.
        assert!(limiter.admit("cron.add", from(1), 61_000).is_ok());
        assert!(limiter.admit("cron.add", from(1), 61_000).is_err());
        assert!(limiter.admit("cron.add", from(1), 61_001).is_ok());
    }

    #[test]
    fn addresses_that_write_no_more_make_room() {
        let limiter = WriteLimiter::default();
        let from = |n: usize| {
            let n = u16::try_from(n).unwrap_or(u16::MAX);
            Some(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, n, 0, 0, 0, 1)))
        };
        for n in 0..CONTROL_WRITES_TRACKED_MAX {
            assert!(limiter.admit("cron.add", from(n), 0).is_ok());
        }
        let one_more = from(CONTROL_WRITES_TRACKED_MAX);
        assert!(limiter.admit("cron.add", one_more, 1).is_err());
        let later = CONTROL_WRITES_WINDOW_MS;
        assert!(limiter.admit("cron.add", one_more, later).is_ok());
        assert_eq!(limiter.times.lock().len(), 1);
    }
}
