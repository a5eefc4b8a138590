//! The fingerprint of a certificate, as people and programs pass it on.

use std::fmt;

use serde::{Serialize, Serializer};

/// Pins that one list may hold: the certificate that is served, the next one, and a few of a fleet.
pub const MAX_CERT_PINS: usize = 8;

/// SHA-256 of the DER form of the one certificate (the leaf) that a server may show.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CertPin([u8; 32]);

/// A text that is no fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a SHA-256 fingerprint: 64 hexadecimal digits, with or without colons, with or without `sha256:` before them"
)]
pub struct NotACertPin;

impl CertPin {
    /// The pin of these 32 bytes.
    #[must_use]
    pub const fn new(digest: [u8; 32]) -> Self {
        Self(digest)
    }

    /// Reads 64 hex digits, with or without colons between the bytes, in either case, with or without `sha256:` before them.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = match text.get(..7) {
            Some(prefix) if prefix.eq_ignore_ascii_case("sha256:") => &text[7..],
            _ => text,
        };
        let digits = match text.len() {
            64 => text.to_owned(),
            // A colon after each pair and nowhere else: what was cut or pasted twice is not taken for a pin.
            95 if text.bytes().skip(2).step_by(3).all(|b| b == b':') => text.replace(':', ""),
            _ => return None,
        };
        if digits.len() != 64 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let mut digest = [0; 32];
        for (i, byte) in digest.iter_mut().enumerate() {
            *byte = u8::from_str_radix(digits.get(2 * i..2 * i + 2)?, 16).ok()?;
        }
        Some(Self(digest))
    }

    /// Reads one or several, separated by commas or blanks (two while a certificate is being changed).
    ///
    /// # Errors
    /// A part that is none, no part at all, or more than [`MAX_CERT_PINS`].
    pub fn parse_list(text: &str) -> Result<Vec<Self>, NotACertPin> {
        let mut pins = Vec::new();
        for part in text
            .split([',', ' ', '\t', '\n'])
            .filter(|part| !part.is_empty())
        {
            let pin = Self::parse(part).ok_or(NotACertPin)?;
            if !pins.contains(&pin) {
                pins.push(pin);
            }
        }
        if pins.is_empty() || pins.len() > MAX_CERT_PINS {
            return Err(NotACertPin);
        }
        Ok(pins)
    }

    /// `AA:BB:…`, as browsers and openssl show it.
    #[must_use]
    pub fn colons(&self) -> String {
        let bytes: Vec<String> = self.0.iter().map(|b| format!("{b:02X}")).collect();
        bytes.join(":")
    }
}

/// 64 lower-case hex digits.
impl fmt::Display for CertPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for CertPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CertPin({self})")
    }
}

impl Serialize for CertPin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_form_that_people_paste_is_the_same_pin() {
        let pin = CertPin::new(std::array::from_fn(|i| 0xa0 + u8::try_from(i).unwrap()));
        let hex = pin.to_string();
        assert_eq!(hex.len(), 64);
        for form in [
            hex.clone(),
            hex.to_uppercase(),
            format!("sha256:{hex}"),
            format!("SHA256:{}", pin.colons()),
            pin.colons(),
            pin.colons().to_lowercase(),
        ] {
            assert_eq!(CertPin::parse(&form), Some(pin), "{form}");
        }
        let other = CertPin::new([7; 32]);
        assert_eq!(
            CertPin::parse_list(&format!("{pin}, sha256:{other}\n{pin}")),
            Ok(vec![pin, other])
        );
    }

    #[test]
    fn what_is_no_pin_is_refused() {
        let hex = CertPin::new([0xab; 32]).to_string();
        for bad in [
            "",
            "sha256:",
            &hex[1..],
            &format!("{hex}0"),
            &format!("sha1:{hex}"),
            &format!("sha256:sha256:{hex}"),
            &hex.replacen('a', "g", 1),
            &hex.replacen("ab", "+b", 1),
            &format!("{}:{}", &hex[..32], &hex[32..]),
            &format!(" {hex}"),
            &"é".repeat(32),
        ] {
            assert_eq!(CertPin::parse(bad), None, "{bad:?}");
        }
        assert!(CertPin::parse_list(" , ").is_err());
        assert!(CertPin::parse_list(&format!("{hex} zz")).is_err());
        let many: Vec<String> = (0..9).map(|i| CertPin::new([i; 32]).to_string()).collect();
        assert!(CertPin::parse_list(&many.join(",")).is_err());
        assert_eq!(CertPin::parse_list(&many[..8].join(",")).unwrap().len(), 8);
    }
}
