//! Is this text a secret, or only where one should be?

/// Shorter ones get a warning, in characters.
pub(crate) const GOOD_CHARS: usize = 24;

/// What is thought of a value.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Good,
    Short,
    Refused(&'static str),
}

/// Words that programs and examples leave where a secret should be, without case, blanks, `-`, `_` and brackets.
const PLACEHOLDERS: &[&str] = &[
    "undefined",
    "null",
    "nil",
    "none",
    "nan",
    "true",
    "false",
    "objectobject",
    "changeme",
    "changethis",
    "replaceme",
    "fixme",
    "todo",
    "tbd",
    "placeholder",
    "example",
    "sample",
    "dummy",
    "test",
    "default",
    "admin",
    "root",
    "secret",
    "mysecret",
    "yoursecret",
    "password",
    "mypassword",
    "yourpassword",
    "passw0rd",
    "token",
    "mytoken",
    "yourtoken",
    "yourtokenhere",
    "key",
    "apikey",
    "yourapikey",
    "yourapikeyhere",
    "inserttokenhere",
    "openclawredacted",
    "redacted",
    "hunter2",
    "letmein",
    "qwerty",
    "12345678",
    "123456789",
    "1234567890",
];

/// Judges a value. It is never repeated in the reason.
pub(crate) fn judge(value: &str) -> Verdict {
    if value.trim().is_empty() {
        return Verdict::Refused("this secret is blank");
    }
    if value.chars().any(char::is_control) {
        return Verdict::Refused("this secret has control characters (more than one line?)");
    }
    if value.trim() != value {
        return Verdict::Refused("this secret has blanks around it");
    }
    let core: String = value
        .chars()
        .filter(|c| c.is_alphanumeric())
        .flat_map(char::to_lowercase)
        .collect();
    let mut letters: Vec<char> = core.chars().collect();
    letters.dedup();
    if letters.len() <= 1 || PLACEHOLDERS.contains(&core.as_str()) {
        return Verdict::Refused("this is a placeholder, not a secret");
    }
    if value.chars().count() < GOOD_CHARS {
        return Verdict::Short;
    }
    Verdict::Good
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Covers: A12.
    #[test]
    fn placeholders_and_blanks_are_refused() {
        let bad = [
            "",
            " ",
            "\t\n",
            "undefined",
            "null",
            "NULL",
            "changeme",
            "change-me",
            "CHANGE_ME",
            "<your-token>",
            "${}",
            "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
            "***",
            "[object Object]",
            "__OPENCLAW_REDACTED__",
            "password",
            " padded-secret-padded-secret ",
            "two\nlines-two-lines-two-lines",
        ];
        for value in bad {
            assert!(matches!(judge(value), Verdict::Refused(_)), "{value:?}");
        }
        assert_eq!(judge("short-but-real"), Verdict::Short);
        assert_eq!(judge("8dK2m1Pq0aZr7Vt5Nc3LxYwE"), Verdict::Good);
    }
}
