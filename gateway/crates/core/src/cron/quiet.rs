//! Replies that say that there is nothing to say.

/// Whether a reply of a job or heartbeat is not to be told to anybody: `NO_REPLY`, `HEARTBEAT_OK`, or `HEARTBEAT_OK` at its
/// begin or end with at most `ack_max_chars` characters besides. Marks of emphasis around the word do not count.
#[must_use]
pub fn is_silent(text: &str, ack_max_chars: usize) -> bool {
    let bare = |text: &str| -> String {
        text.trim()
            .trim_matches(['*', '_', '`', '"', '.', '!'])
            .to_owned()
    };
    let text = text.trim();
    if text.is_empty() {
        return true;
    }
    let word = bare(text);
    if word.eq_ignore_ascii_case("NO_REPLY") || word.eq_ignore_ascii_case("HEARTBEAT_OK") {
        return true;
    }
    let rest = text
        .strip_prefix("HEARTBEAT_OK")
        .or_else(|| text.strip_suffix("HEARTBEAT_OK"));
    rest.is_some_and(|rest| rest.trim().chars().count() <= ack_max_chars)
}

#[cfg(test)]
mod tests {
    use super::is_silent;

    #[test]
    fn silent_replies() {
        for text in [
            "NO_REPLY",
            " no_reply\n",
            "**NO_REPLY**",
            "HEARTBEAT_OK",
            "HEARTBEAT_OK all well",
            "All quiet.\nHEARTBEAT_OK",
            "",
            "  ",
        ] {
            assert!(is_silent(text, 300), "{text:?}");
        }
        for text in [
            "The build is red.",
            "I would say NO_REPLY here",
            "NO_REPLY but wait",
        ] {
            assert!(!is_silent(text, 300), "{text:?}");
        }
        let long = format!("HEARTBEAT_OK {}", "x".repeat(301));
        assert!(!is_silent(&long, 300) && is_silent(&long, 301));
        assert!(!is_silent("HEARTBEAT_OK all well", 0));
    }
}
