//! What a certificate says about itself, read from its DER form: the few fields that people are shown and starts are judged
//! by. Whether a signature is right is never decided here.

use std::net::{Ipv4Addr, Ipv6Addr};

use time::{Date, Month, PrimitiveDateTime, Time};

/// The fields.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fields {
    /// Such as `CN=gateway, O=Example`.
    pub(super) subject: String,
    pub(super) names: Vec<String>,
    /// Unix epoch ms.
    pub(super) not_before_ms: i64,
    pub(super) not_after_ms: i64,
    /// Issuer and subject are the same.
    pub(super) self_issued: bool,
}

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OID: u8 = 0x06;
const OCTETS: u8 = 0x04;
const UTC_TIME: u8 = 0x17;
const LONG_TIME: u8 = 0x18;
/// `[3]` of a `TBSCertificate`: its extensions.
const EXTENSIONS: u8 = 0xa3;
/// `[0]` of a `TBSCertificate`: its version.
const VERSION: u8 = 0xa0;
const DNS_NAME: u8 = 0x82;
const IP_ADDRESS: u8 = 0x87;
/// 2.5.29.17
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];

/// One element: tag, content, what follows. Only the definite lengths of DER.
fn element(input: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = input.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match *first {
        short @ 0..=0x7f => (usize::from(short), rest),
        long @ 0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(long & 0x7f))?;
            let length = bytes
                .iter()
                .fold(0_usize, |n, b| (n << 8) | usize::from(*b));
            (length, rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

/// The next element, which must have this tag.
fn expect<'a>(input: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    let (found, content, rest) = element(input)?;
    *input = rest;
    (found == tag).then_some(content)
}

/// The elements in `input`, up to the first that is none.
fn elements(mut input: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (tag, content, rest) = element(input)?;
        input = rest;
        Some((tag, content))
    })
}

/// Reads a certificate; `None` if it is none.
pub(super) fn read(certificate: &[u8]) -> Option<Fields> {
    let mut outer = certificate;
    let mut whole = expect(&mut outer, SEQUENCE)?;
    let mut tbs = expect(&mut whole, SEQUENCE)?;
    if tbs.first() == Some(&VERSION) {
        expect(&mut tbs, VERSION)?;
    }
    let (_, _, rest) = element(tbs)?; // serial number
    tbs = rest;
    expect(&mut tbs, SEQUENCE)?; // signature algorithm
    let issuer = expect(&mut tbs, SEQUENCE)?;
    let mut validity = expect(&mut tbs, SEQUENCE)?;
    let subject = expect(&mut tbs, SEQUENCE)?;
    expect(&mut tbs, SEQUENCE)?; // public key
    let not_before_ms = moment(&mut validity)?;
    let not_after_ms = moment(&mut validity)?;
    let names = elements(tbs)
        .find(|(tag, _)| *tag == EXTENSIONS)
        .and_then(|(_, content)| {
            let mut content = content;
            expect(&mut content, SEQUENCE)
        })
        .map(alt_names)
        .unwrap_or_default();
    Some(Fields {
        subject: distinguished(subject),
        names,
        not_before_ms,
        not_after_ms,
        self_issued: issuer == subject,
    })
}

fn moment(input: &mut &[u8]) -> Option<i64> {
    let (tag, content, rest) = element(input)?;
    *input = rest;
    let text = std::str::from_utf8(content).ok()?.strip_suffix('Z')?;
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<u16>().ok();
    let (year, at) = match (tag, text.len()) {
        // Two digits: 1950 to 2049.
        (UTC_TIME, 12) => {
            let year = number(0, 2)?;
            (
                if year < 50 {
                    2_000 + year
                } else {
                    1_900 + year
                },
                2,
            )
        }
        (LONG_TIME, 14) => (number(0, 4)?, 4),
        _ => return None,
    };
    let part = |i: usize| u8::try_from(number(at + 2 * i, at + 2 * i + 2)?).ok();
    let date = Date::from_calendar_date(i32::from(year), Month::try_from(part(0)?).ok()?, part(1)?)
        .ok()?;
    let time = Time::from_hms(part(2)?, part(3)?, part(4)?).ok()?;
    let at = PrimitiveDateTime::new(date, time).assume_utc();
    Some(at.unix_timestamp().saturating_mul(1_000))
}

fn alt_names(extensions: &[u8]) -> Vec<String> {
    let found = elements(extensions).find_map(|(_, mut extension)| {
        if expect(&mut extension, OID)? != SUBJECT_ALT_NAME {
            return None;
        }
        let (_, mut value) = elements(extension).find(|(tag, _)| *tag == OCTETS)?;
        expect(&mut value, SEQUENCE)
    });
    elements(found.unwrap_or_default())
        .filter_map(|(tag, content)| match (tag, content.len()) {
            (DNS_NAME, _) => Some(String::from_utf8_lossy(content).into_owned()),
            (IP_ADDRESS, 4) => Some(Ipv4Addr::from(<[u8; 4]>::try_from(content).ok()?).to_string()),
            (IP_ADDRESS, 16) => {
                Some(Ipv6Addr::from(<[u8; 16]>::try_from(content).ok()?).to_string())
            }
            _ => None,
        })
        .collect()
}

/// `CN=…, O=…`; an attribute of another kind by its number's bytes.
fn distinguished(name: &[u8]) -> String {
    let mut parts = Vec::new();
    for (tag, set) in elements(name) {
        if tag != SET {
            continue;
        }
        for (_, mut attribute) in elements(set) {
            let Some(oid) = expect(&mut attribute, OID) else {
                continue;
            };
            let Some((_, value, _)) = element(attribute) else {
                continue;
            };
            let kind = match oid {
                [0x55, 0x04, 0x03] => "CN".to_owned(),
                [0x55, 0x04, 0x06] => "C".to_owned(),
                [0x55, 0x04, 0x07] => "L".to_owned(),
                [0x55, 0x04, 0x08] => "ST".to_owned(),
                [0x55, 0x04, 0x0a] => "O".to_owned(),
                [0x55, 0x04, 0x0b] => "OU".to_owned(),
                other => other.iter().map(|b| format!("{b:02x}")).collect(),
            };
            parts.push(format!("{kind}={}", String::from_utf8_lossy(value)));
        }
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn certificate() -> Vec<u8> {
        let key = rcgen::KeyPair::generate().unwrap();
        let names = vec![
            "localhost".to_owned(),
            "192.0.2.7".to_owned(),
            "2001:db8::1".to_owned(),
        ];
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "gätewäy");
        params
            .distinguished_name
            .push(rcgen::DnType::OrganizationName, "Example");
        params.not_before = rcgen::date_time_ymd(1999, 12, 31);
        // From 2050 on the other form of time is written.
        params.not_after = rcgen::date_time_ymd(2051, 2, 3);
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn the_fields_of_a_certificate() {
        let fields = read(&certificate()).unwrap();
        assert_eq!(fields.subject, "CN=gätewäy, O=Example");
        assert_eq!(fields.names, ["localhost", "192.0.2.7", "2001:db8::1"]);
        assert_eq!(fields.not_before_ms, 946_598_400_000);
        assert_eq!(fields.not_after_ms, 2_558_995_200_000);
        assert!(fields.self_issued);
    }

    #[test]
    fn cut_off_or_spoilt_it_is_read_or_refused_and_nothing_else() {
        let whole = certificate();
        for cut in 0..whole.len() {
            assert_eq!(read(&whole[..cut]), None, "{cut}");
        }
        for at in 0..whole.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut spoilt = whole.clone();
                spoilt[at] ^= flip;
                let _ = read(&spoilt);
            }
        }
        assert_eq!(read(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]), None);
        assert_eq!(read(&[0x30, 0x80, 0x00, 0x00]), None);
    }
}
