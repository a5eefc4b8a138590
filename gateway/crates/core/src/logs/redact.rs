//! What no log may hold: secrets, and characters that make a line look like something else.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

/// Text put in the place of a secret.
pub const REDACTED: &str = "__OPENCLAW_REDACTED__";
/// Secrets shorter than this (bytes) are not searched for: they would hide ordinary words.
const MIN_SECRET_BYTES: usize = 6;
/// Shortest credential behind `Bearer` or `Basic` (bytes); what is shorter is a word of a sentence.
const MIN_CREDENTIAL_BYTES: usize = 8;

/// What the names of secret values hold, lower case, without `-` and `_`.
const SECRET_NAMES: [&str; 10] = [
    "token",
    "password",
    "passwd",
    "passphrase",
    "secret",
    "apikey",
    "accesskey",
    "privatekey",
    "authorization",
    "cookie",
];
/// The same as they stand before a value inside of a text.
const NAMES_IN_TEXT: [&str; 11] = [
    "token",
    "password",
    "passwd",
    "passphrase",
    "secret",
    "apikey",
    "api_key",
    "api-key",
    "access_key",
    "authorization",
    "cookie",
];

/// Whether a value of this name is a secret whatever it is.
#[must_use]
pub fn is_secret_name(name: &str) -> bool {
    let plain: String = name
        .chars()
        .filter(|c| !matches!(c, '-' | '_'))
        .map(|c| c.to_ascii_lowercase())
        .collect();
    SECRET_NAMES.iter().any(|secret| plain.contains(secret))
}

/// Marks that make a line read otherwise than it is stored, and those that break it although they are no control characters.
#[must_use]
pub fn turns_text(c: char) -> bool {
    matches!(c,
        '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Text without characters that could drive a terminal, forge a line or turn its direction: `\u{…}` stands for each, `\n` for
/// a line break, a blank for a tab.
#[must_use]
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.chars().any(|c| c.is_control() || turns_text(c)) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\t' => out.push(' '),
            c if c.is_control() || turns_text(c) => {
                // Writing into a String does not fail.
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// Replaces secrets in text: those that are known by value, and what stands where secrets stand.
#[derive(Clone, Default)]
pub struct Redactor {
    secrets: Arc<[Box<str>]>,
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Redactor({} secrets)", self.secrets.len())
    }
}

impl Redactor {
    /// Knows these secret values; very short ones are left out.
    #[must_use]
    pub fn new(secrets: impl IntoIterator<Item = String>) -> Self {
        let mut list: Vec<Box<str>> = secrets
            .into_iter()
            .filter(|s| s.len() >= MIN_SECRET_BYTES)
            .map(String::into_boxed_str)
            .collect();
        // A longer secret may contain a shorter one: it has to go first.
        list.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        list.dedup();
        Self {
            secrets: list.into(),
        }
    }

    /// `text` without any known secret, without credentials behind `Bearer`, `name=` and `"name":`, and without user names and
    /// passwords in addresses.
    #[must_use]
    pub fn clean(&self, text: &str) -> String {
        let mut out = Cow::Borrowed(text);
        for secret in self.secrets.iter() {
            if out.contains(&**secret) {
                out = Cow::Owned(out.replace(&**secret, REDACTED));
            }
        }
        let places = places(&out);
        if places.is_empty() {
            return out.into_owned();
        }
        let (mut clean, mut at) = (String::with_capacity(out.len()), 0);
        for (from, to) in places {
            if from < at {
                continue;
            }
            clean.push_str(out.get(at..from).unwrap_or_default());
            clean.push_str(REDACTED);
            at = to;
        }
        clean.push_str(out.get(at..).unwrap_or_default());
        clean
    }
}

/// Where secrets of unknown value stand, in order.
fn places(text: &str) -> Vec<(usize, usize)> {
    // Byte for byte as long as the text.
    let lower = text.to_ascii_lowercase();
    let mut found = Vec::new();
    for word in ["bearer ", "basic "] {
        for (at, _) in lower.match_indices(word) {
            let from = at + word.len();
            let to = from + run(&text[from..], is_credential);
            if to - from >= MIN_CREDENTIAL_BYTES {
                found.push((from, to));
            }
        }
    }
    for name in NAMES_IN_TEXT {
        for (at, _) in lower.match_indices(name) {
            let from = at + name.len();
            let Some((skip, quoted)) = before_value(&text[from..]) else {
                continue;
            };
            let from = from + skip;
            let to = from
                + match quoted {
                    true => run(&text[from..], |c| {
                        !c.is_control() && !matches!(c, '"' | '\'' | '\\')
                    }),
                    false => run(&text[from..], |c| !is_end_of_value(c)),
                };
            if to > from && !text[from..to].starts_with(REDACTED) {
                found.push((from, to));
            }
        }
    }
    for (at, _) in lower.match_indices("://") {
        let from = at + 3;
        let authority = run(&text[from..], |c| {
            !c.is_whitespace() && !matches!(c, '/' | '?' | '#' | '"' | '\'')
        });
        if let Some(end) = text[from..from + authority].rfind('@') {
            found.push((from, from + end));
        }
    }
    found.sort_unstable();
    found
}

/// Bytes of the beginning whose characters all fit.
fn run(text: &str, fits: impl Fn(char) -> bool) -> usize {
    text.find(|c| !fits(c)).unwrap_or(text.len())
}

fn is_credential(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '~' | '+' | '/' | '=' | '-')
}

fn is_end_of_value(c: char) -> bool {
    c.is_whitespace()
        || c.is_control()
        || matches!(c, '&' | ',' | ';' | '"' | '\'' | ')' | '}' | ']')
}

/// Bytes between a name and its value in `name=value`, `name="value"` and `"name": "value"` (also when the quotes are escaped),
/// and whether the value ends with a quote.
fn before_value(text: &str) -> Option<(usize, bool)> {
    if let Some(rest) = text.strip_prefix('=') {
        let quoted = rest.starts_with(['"', '\'']);
        return Some((1 + usize::from(quoted), quoted));
    }
    let quoted = text
        .strip_prefix("\\\"")
        .or_else(|| text.strip_prefix(['"', '\'']))?;
    let value = quoted.trim_start().strip_prefix(':')?.trim_start();
    let value = value
        .strip_prefix("\\\"")
        .or_else(|| value.strip_prefix(['"', '\'']))?;
    Some((text.len() - value.len(), true))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Covers: N18.
    #[test]
    fn secrets_go_whether_their_value_is_known_or_their_place() {
        let redactor = Redactor::new(["hunter2-secret".to_owned(), "short".to_owned()]);
        for (text, clean) in [
            ("token is hunter2-secret!", "token is #!"),
            ("a short word stays", "a short word stays"),
            ("GET /x?token=abc&b=1", "GET /x?token=#&b=1"),
            ("x_access_token=\"abc\" y", "x_access_token=\"#\" y"),
            (
                r#"{"password": "p, q", "b": 1}"#,
                r##"{"password": "#", "b": 1}"##,
            ),
            (r#"{\"apiKey\":\"abc\"}"#, r##"{\"apiKey\":\"#\"}"##),
            (
                "Authorization: Bearer abcdefgh12",
                "Authorization: Bearer #",
            ),
            ("the bearer is ill", "the bearer is ill"),
            ("wss://una:pw@host:1/x", "wss://#@host:1/x"),
            ("mail una@example.org", "mail una@example.org"),
            (
                "tokens used: 5, token mismatch",
                "tokens used: 5, token mismatch",
            ),
            ("TOKEN=ä€x end", "TOKEN=# end"),
        ] {
            assert_eq!(redactor.clean(text), clean.replace('#', REDACTED), "{text}");
        }
        // What is clean stays as it is.
        let once = redactor.clean("token=abc hunter2-secret Bearer abcdefgh12");
        assert_eq!(redactor.clean(&once), once);
        for (name, secret) in [
            ("api_key", true),
            ("x-webhook-Secret", true),
            ("authToken", true),
            ("method", false),
        ] {
            assert_eq!(is_secret_name(name), secret, "{name}");
        }
    }

    /// Covers: N18.
    #[test]
    fn no_character_drives_a_terminal_or_breaks_a_line() {
        let hostile = "a\u{1b}[2J\nb\rc\td\u{85}e\u{2028}f\u{202e}g\u{9b}h\u{7f}\u{feff}i";
        let clean = escape(hostile);
        assert_eq!(
            clean,
            "a\\u{1b}[2J\\nb\\u{d}c d\\u{85}e\\u{2028}f\\u{202e}g\\u{9b}h\\u{7f}\\u{feff}i"
        );
        assert!(matches!(escape("täxt 你好"), Cow::Borrowed(_)));
    }
}
