//! Verification of webhook requests, over the raw bytes, before any guest code sees them.

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// A timestamp that the platform signs, and how old it may be.
#[derive(Debug, Clone)]
pub struct TimestampRule {
    /// Header with whole seconds since the Unix epoch.
    pub header: String,
    /// Largest distance from now, in seconds.
    pub window_s: u64,
}

/// How the request proves where it came from.
#[derive(Debug, Clone)]
pub enum VerifyRule {
    /// A header that holds the secret itself.
    HeaderEquals {
        /// Header name, lower case.
        header: String,
        /// Name of the secret.
        secret: String,
    },
    /// HMAC-SHA256 over `<timestamp>.<body>` when a timestamp is signed, else over the body.
    HmacSha256 {
        /// Header name, lower case.
        header: String,
        /// Text before the signature in the header, for example `sha256=`.
        prefix: String,
        /// Signature in base64 instead of hex.
        base64: bool,
        /// Name of the secret.
        secret: String,
        /// Signed timestamp, when the platform has one.
        timestamp: Option<TimestampRule>,
    },
}

impl VerifyRule {
    /// Name of the secret that the rule needs.
    #[must_use]
    pub fn secret_name(&self) -> &str {
        match self {
            Self::HeaderEquals { secret, .. } | Self::HmacSha256 { secret, .. } => secret,
        }
    }
}

/// A request that passed verification. It can be made in this module only, so no path leads an unverified body to a guest.
#[derive(Debug)]
pub struct Verified<T> {
    inner: T,
    by: &'static str,
}

impl<T> Verified<T> {
    /// The request, and the name of the rule that it passed.
    pub fn into_parts(self) -> (T, &'static str) {
        (self.inner, self.by)
    }
}

/// The parts of a request that verification reads.
pub trait Signed {
    /// First value of a header, by lower-case name; `None` when it is absent or given more than once.
    fn single_header(&self, name: &str) -> Option<&str>;
    /// The raw body.
    fn raw_body(&self) -> &[u8];
}

/// Why a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// No rule has its secret configured: the route does not exist.
    NoVerifier,
    /// The signature or secret is missing or wrong, or the timestamp is outside the window.
    Bad,
}

/// Checks a request against the rules whose secret is configured; one that holds is enough.
///
/// # Errors
/// [`Refusal::NoVerifier`] when no rule has a secret, [`Refusal::Bad`] when none holds.
pub fn verify<'s, T: Signed>(
    rules: &[VerifyRule],
    secret_of: impl Fn(&str) -> Option<&'s str>,
    now_ms: i64,
    request: T,
) -> Result<Verified<T>, Refusal> {
    let mut any_rule = false;
    let mut passed = None;
    for rule in rules {
        let Some(secret) = secret_of(rule.secret_name()).filter(|secret| !secret.is_empty()) else {
            continue;
        };
        any_rule = true;
        if holds(rule, secret, now_ms, &request) {
            passed = Some(match rule {
                VerifyRule::HeaderEquals { .. } => "header-equals",
                VerifyRule::HmacSha256 { .. } => "hmac-sha256",
            });
        }
    }
    match passed {
        Some(by) => Ok(Verified { inner: request, by }),
        None if any_rule => Err(Refusal::Bad),
        None => Err(Refusal::NoVerifier),
    }
}

fn holds(rule: &VerifyRule, secret: &str, now_ms: i64, request: &impl Signed) -> bool {
    match rule {
        VerifyRule::HeaderEquals { header, .. } => {
            request.single_header(header).is_some_and(|given| {
                // Digests have one length, so that the comparison tells nothing of the secret's.
                Sha256::digest(given.as_bytes())
                    .ct_eq(&Sha256::digest(secret.as_bytes()))
                    .into()
            })
        }
        VerifyRule::HmacSha256 {
            header,
            prefix,
            base64,
            timestamp,
            ..
        } => {
            let Some(given) = request
                .single_header(header)
                .and_then(|value| value.strip_prefix(prefix.as_str()))
            else {
                return false;
            };
            let Some(given) = decode(given.trim(), *base64) else {
                return false;
            };
            let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else {
                return false;
            };
            if let Some(rule) = timestamp {
                let Some(stamp) = request.single_header(&rule.header) else {
                    return false;
                };
                let Ok(seconds) = stamp.parse::<i64>() else {
                    return false;
                };
                if (now_ms / 1000).abs_diff(seconds) > rule.window_s {
                    return false;
                }
                mac.update(stamp.as_bytes());
                mac.update(b".");
            }
            mac.update(request.raw_body());
            mac.finalize().into_bytes().ct_eq(given.as_slice()).into()
        }
    }
}

fn decode(text: &str, base64: bool) -> Option<Vec<u8>> {
    use base64::Engine as _;
    if base64 {
        return base64::engine::general_purpose::STANDARD.decode(text).ok();
    }
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    struct Req<'a>(Vec<(&'a str, &'a str)>, &'a [u8]);

    impl Signed for Req<'_> {
        fn single_header(&self, name: &str) -> Option<&str> {
            let mut found = self.0.iter().filter(|(key, _)| *key == name);
            let first = found.next()?;
            found.next().is_none().then_some(first.1)
        }
        fn raw_body(&self) -> &[u8] {
            self.1
        }
    }

    fn hmac_rule(timestamp: Option<TimestampRule>) -> VerifyRule {
        VerifyRule::HmacSha256 {
            header: "x-signature-256".into(),
            prefix: "sha256=".into(),
            base64: false,
            secret: "signing".into(),
            timestamp,
        }
    }

    fn sign(parts: &[&[u8]]) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(b"k3y").unwrap();
        for part in parts {
            mac.update(part);
        }
        let hex: String = mac
            .finalize()
            .into_bytes()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        format!("sha256={hex}")
    }

    fn outcome(
        rules: &[VerifyRule],
        secret: Option<&str>,
        request: Req<'_>,
    ) -> Result<&'static str, Refusal> {
        verify(rules, |_| secret, 1_000_000, request).map(|verified| verified.into_parts().1)
    }

    /// Covers: N4, A13, A14.
    #[test]
    fn signatures_over_the_raw_bytes() {
        let body = b"{\"id\": \"1\"}";
        let good = sign(&[body]);
        let rule = [hmac_rule(None)];
        let with = |value: &str| {
            outcome(
                &rule,
                Some("k3y"),
                Req(vec![("x-signature-256", value)], body),
            )
        };
        assert_eq!(with(&good), Ok("hmac-sha256"));
        assert_eq!(
            with(&good.to_uppercase().replace("SHA256=", "sha256=")),
            Ok("hmac-sha256")
        );
        for bad in [
            "",
            "sha256=",
            &good[..good.len() - 1],
            &good[7..],
            "sha256=zz",
            "sha1=00",
            &sign(&[b"{\"id\":\"1\"}"]),
        ] {
            assert_eq!(with(bad), Err(Refusal::Bad), "{bad}");
        }
        assert_eq!(
            outcome(&rule, Some("k3y"), Req(vec![], body)),
            Err(Refusal::Bad),
            "missing"
        );
        let twice = Req(
            vec![("x-signature-256", &good), ("x-signature-256", &good)],
            body,
        );
        assert_eq!(
            outcome(&rule, Some("k3y"), twice),
            Err(Refusal::Bad),
            "given twice"
        );
        assert_eq!(
            outcome(
                &rule,
                Some("k3y"),
                Req(vec![("x-signature-256", &good)], b"")
            ),
            Err(Refusal::Bad),
            "empty body"
        );
        assert_eq!(
            outcome(&rule, None, Req(vec![("x-signature-256", &good)], body)),
            Err(Refusal::NoVerifier)
        );
        assert_eq!(
            outcome(&rule, Some(""), Req(vec![("x-signature-256", &good)], body)),
            Err(Refusal::NoVerifier)
        );
        assert_eq!(
            outcome(
                &[],
                Some("k3y"),
                Req(vec![("x-signature-256", &good)], body)
            ),
            Err(Refusal::NoVerifier)
        );
    }

    /// Covers: N5.
    #[test]
    fn a_signed_timestamp_has_a_window() {
        let rule = [hmac_rule(Some(TimestampRule {
            header: "x-timestamp".into(),
            window_s: 300,
        }))];
        for (stamp, expect) in [
            ("1000", Ok("hmac-sha256")),
            ("1300", Ok("hmac-sha256")),
            ("1301", Err(Refusal::Bad)),
            ("699", Err(Refusal::Bad)),
            ("x", Err(Refusal::Bad)),
        ] {
            let good = sign(&[stamp.as_bytes(), b".", b"body"]);
            let request = Req(
                vec![("x-signature-256", &good), ("x-timestamp", stamp)],
                b"body",
            );
            assert_eq!(outcome(&rule, Some("k3y"), request), expect, "{stamp}");
        }
        let unsigned = sign(&[b"body"]);
        let request = Req(
            vec![("x-signature-256", &unsigned), ("x-timestamp", "1000")],
            b"body",
        );
        assert_eq!(
            outcome(&rule, Some("k3y"), request),
            Err(Refusal::Bad),
            "timestamp must be in the signed material"
        );
    }

    /// Covers: N4, A14.
    #[test]
    fn a_header_that_holds_the_secret() {
        let rule = [VerifyRule::HeaderEquals {
            header: "x-webhook-secret".into(),
            secret: "signing".into(),
        }];
        let with = |value| {
            outcome(
                &rule,
                Some("k3y"),
                Req(vec![("x-webhook-secret", value)], b""),
            )
        };
        assert_eq!(with("k3y"), Ok("header-equals"));
        for bad in ["", "k3", "k3y ", "K3Y", "k3yk3y"] {
            assert_eq!(with(bad), Err(Refusal::Bad), "{bad:?}");
        }
    }
}
