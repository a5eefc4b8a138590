//! When to ask the platform again.

use gateway_guest::answer::Refused;
use serde_json::{Value, json};

use crate::config::Config;

/// Longest pause after failures, in milliseconds.
pub const MAX_BACKOFF_MS: u32 = 60_000;
/// Extra time of the HTTP exchange over the platform's own hold, in milliseconds.
const SLACK_MS: u32 = 15_000;

/// Body of `getUpdates`. Only new messages are asked for.
#[must_use]
pub fn body(config: &Config, offset: i64) -> Vec<u8> {
    let body: Value = json!({ "offset": offset, "timeout": config.poll_timeout_s, "limit": 100, "allowed_updates": ["message"] });
    body.to_string().into_bytes()
}

/// Time of the whole exchange, in milliseconds.
#[must_use]
pub fn timeout_ms(config: &Config) -> u32 {
    config
        .poll_timeout_s
        .saturating_mul(1_000)
        .saturating_add(SLACK_MS)
}

/// Pause after the `failures`-th failure in a row (from 1): 1, 2, 4 … 60 s, with up to a quarter more by `random`, so that many
/// accounts do not come back together.
#[must_use]
pub fn backoff_ms(failures: u32, random: u8) -> u32 {
    let base = 1_000_u32
        .checked_shl(failures.saturating_sub(1).min(16))
        .unwrap_or(MAX_BACKOFF_MS)
        .min(MAX_BACKOFF_MS);
    base + base / 4 * u32::from(random) / 255
}

/// What to do after a request of the poll failed.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// The token is wrong: an operator must act.
    Stop(String),
    /// Ask again after so many milliseconds. `counts`: one more failure in a row.
    Wait {
        /// Pause.
        ms: u32,
        /// It was a failure, not a pause that the platform asked for.
        counts: bool,
    },
}

/// Decides after a failure.
#[must_use]
pub fn after_failure(cause: &Refused, failures: u32, random: u8) -> Next {
    match cause {
        Refused::Auth(why) => Next::Stop(why.clone()),
        Refused::RateLimited(ms) => Next::Wait {
            ms: *ms,
            counts: false,
        },
        _ => Next::Wait {
            ms: backoff_ms(failures.saturating_add(1), random),
            counts: true,
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn pauses_double_up_to_a_minute() {
        let pauses: Vec<u32> = (1..=8).map(|n| backoff_ms(n, 0)).collect();
        assert_eq!(
            pauses,
            [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]
        );
        assert_eq!(backoff_ms(0, 0), 1_000);
        assert_eq!(backoff_ms(u32::MAX, 255), 75_000);
        assert_eq!(backoff_ms(1, 255), 1_250);
    }

    #[test]
    fn the_exchange_outlasts_the_hold_and_fits_the_hosts_limit() {
        let config = Config {
            poll_timeout_s: crate::config::MAX_POLL_TIMEOUT_S,
            ..Config::default()
        };
        assert!(timeout_ms(&config) > config.poll_timeout_s * 1_000);
        assert!(timeout_ms(&config) <= 120_000);
    }

    #[test]
    fn causes_lead_to_pauses_or_a_stop() {
        assert_eq!(
            after_failure(&Refused::Auth("no".into()), 0, 0),
            Next::Stop("no".into())
        );
        assert_eq!(
            after_failure(&Refused::RateLimited(7_000), 3, 9),
            Next::Wait {
                ms: 7_000,
                counts: false
            }
        );
        assert_eq!(
            after_failure(&Refused::Network("x".into()), 2, 0),
            Next::Wait {
                ms: 4_000,
                counts: true
            }
        );
    }

    #[test]
    fn only_new_messages_are_asked_for() {
        let body: Value = serde_json::from_slice(&body(&Config::default(), 42)).unwrap();
        assert_eq!(
            body,
            json!({ "offset": 42, "timeout": 25, "limit": 100, "allowed_updates": ["message"] })
        );
    }
}
