//! What an HTTP answer of a platform means for a send.

use serde_json::Value;

/// Why a platform did not take a message; the same cases as `error` of the interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// Our credentials were refused.
    Auth(String),
    /// Try again after so many milliseconds.
    RateLimited(u32),
    /// The place or message does not exist (any more), or we may not write there.
    NotFound(String),
    /// The text is too long for the platform.
    TooLarge(String),
    /// The platform calls the request wrong: repeating it is useless.
    Invalid(String),
    /// The platform could not be reached or failed: try again later.
    Network(String),
    /// The platform broke its own interface.
    Internal(String),
}

/// Longest pause that a platform may ask for, in milliseconds.
pub const MAX_RETRY_AFTER_MS: u32 = 3_600_000;

/// Seconds to wait as told by a `Retry-After` header (whole seconds only) in milliseconds, within 1 s and one hour.
#[must_use]
pub fn retry_after_ms(headers: &[(String, String)], default_ms: u32) -> u32 {
    headers
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case("retry-after"))
        .and_then(|(_, value)| value.trim().parse::<u32>().ok())
        .map_or(default_ms, seconds_to_ms)
}

/// Whole seconds in milliseconds, within 1 s and one hour.
#[must_use]
pub fn seconds_to_ms(seconds: u32) -> u32 {
    seconds
        .saturating_mul(1_000)
        .clamp(1_000, MAX_RETRY_AFTER_MS)
}

/// Cause of a plain HTTP status that is no success.
#[must_use]
pub fn refused(status: u16, headers: &[(String, String)], text: &str) -> Refused {
    let why = format!("HTTP {status}: {}", crate::text::cut_bytes(text, 300));
    match status {
        401 | 407 => Refused::Auth(why),
        429 => Refused::RateLimited(retry_after_ms(headers, 5_000)),
        403 | 404 | 410 => Refused::NotFound(why),
        413 => Refused::TooLarge(why),
        503 if headers
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("retry-after")) =>
        {
            Refused::RateLimited(retry_after_ms(headers, 5_000))
        }
        400..=499 => Refused::Invalid(why),
        _ => Refused::Network(why),
    }
}

/// The header of a JSON body.
#[must_use]
pub fn json_headers() -> Vec<(String, String)> {
    vec![("content-type".to_owned(), "application/json".to_owned())]
}

/// Names with JSON values, as `extra` of the interface wants them.
#[must_use]
pub fn extra(pairs: &[(&str, Value)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.to_string()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_map_to_causes() {
        let none: [(String, String); 0] = [];
        let after = |value: &str| [("Retry-After".to_owned(), value.to_owned())];
        assert!(matches!(refused(401, &none, ""), Refused::Auth(_)));
        assert!(matches!(refused(403, &none, ""), Refused::NotFound(_)));
        assert!(matches!(refused(400, &none, "x"), Refused::Invalid(_)));
        assert!(matches!(refused(413, &none, ""), Refused::TooLarge(_)));
        assert!(matches!(refused(500, &none, ""), Refused::Network(_)));
        assert!(matches!(refused(302, &none, ""), Refused::Network(_)));
        assert_eq!(refused(429, &after("7"), ""), Refused::RateLimited(7_000));
        assert_eq!(refused(429, &none, ""), Refused::RateLimited(5_000));
        assert_eq!(refused(503, &after("2"), ""), Refused::RateLimited(2_000));
        assert!(matches!(refused(503, &none, ""), Refused::Network(_)));
    }

    #[test]
    fn a_platform_cannot_stop_us_for_ever() {
        let after =
            |value: &str| retry_after_ms(&[("retry-after".to_owned(), value.to_owned())], 5_000);
        assert_eq!(after("4294967295"), MAX_RETRY_AFTER_MS);
        assert_eq!(after("0"), 1_000);
        assert_eq!(after("-1"), 5_000);
        assert_eq!(after("Wed, 21 Oct 2015 07:28:00 GMT"), 5_000);
    }
}
