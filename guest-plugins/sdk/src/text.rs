//! Cutting text where platforms count UTF-16 code units.

/// Length in UTF-16 code units.
#[must_use]
pub fn utf16_len(text: &str) -> usize {
    text.chars().map(char::len_utf16).sum()
}

/// Splits text into pieces of at most `max` UTF-16 units: at a blank line, else a line end, else a space, else anywhere
/// between two characters. Breaks in the first half of a piece are not taken. Never gives an empty piece, except one for an empty text.
/// `max` must be at least 2.
#[must_use]
pub fn split_utf16(text: &str, max: usize) -> Vec<&str> {
    let max = max.max(2);
    let mut rest = text;
    let mut pieces = Vec::new();
    loop {
        let Some(limit) = byte_at_utf16(rest, max) else {
            if !rest.is_empty() || pieces.is_empty() {
                pieces.push(rest);
            }
            return pieces;
        };
        let window = rest.get(..limit).unwrap_or(rest);
        let half = byte_at_utf16(window, max / 2).unwrap_or(0);
        let cut = ["\n\n", "\n", " "].iter().find_map(|sep| {
            window
                .rfind(sep)
                .filter(|at| *at >= half && *at > 0)
                .map(|at| (at, sep.len()))
        });
        let (end, skip) = cut.unwrap_or((limit, 0));
        let piece = rest.get(..end).unwrap_or(rest);
        if !piece.trim().is_empty() {
            pieces.push(piece);
        }
        rest = rest.get(end + skip..).unwrap_or("");
    }
}

/// Byte position before the first character that no longer fits into `max` units; `None` when all fit.
fn byte_at_utf16(text: &str, max: usize) -> Option<usize> {
    let mut units = 0;
    for (at, c) in text.char_indices() {
        units += c.len_utf16();
        if units > max {
            return Some(at);
        }
    }
    None
}

/// The part of a text that a platform names by offset and length in UTF-16 units; `None` when it is out of range or
/// cuts a character.
#[must_use]
pub fn utf16_slice(text: &str, offset: usize, len: usize) -> Option<&str> {
    let end_units = offset.checked_add(len)?;
    let mut units = 0;
    let (mut start, mut end) = (None, None);
    for (at, c) in text
        .char_indices()
        .map(|(at, c)| (at, Some(c)))
        .chain(std::iter::once((text.len(), None)))
    {
        if units == offset && start.is_none() {
            start = Some(at);
        }
        if units == end_units {
            end = Some(at);
            break;
        }
        units += c.map_or(0, char::len_utf16);
    }
    text.get(start?..end?)
}

/// Cuts to at most `max` bytes between two characters.
#[must_use]
pub fn cut_bytes(text: &str, max: usize) -> &str {
    if text.len() <= max {
        return text;
    }
    let mut end = max;
    while end > 0 && !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_count_surrogate_pairs_twice() {
        assert_eq!(utf16_len("a😀é"), 4);
    }

    #[test]
    fn pieces_fit_and_hold_everything() {
        for text in [
            "",
            "short",
            &"x".repeat(10_000),
            &"😀".repeat(5_000),
            &"word ".repeat(3_000),
            &"line\n".repeat(2_500),
        ] {
            for max in [2, 3, 7, 4096] {
                let pieces = split_utf16(text, max);
                assert!(
                    pieces.iter().all(|p| utf16_len(p) <= max),
                    "too long at {max}"
                );
                let glue = |s: &str| s.chars().filter(|c| !c.is_whitespace()).collect::<String>();
                assert_eq!(glue(&pieces.concat()), glue(text));
            }
        }
    }

    #[test]
    fn cuts_at_the_best_place() {
        assert_eq!(split_utf16("aaaa bbbb cccc", 10), ["aaaa bbbb", "cccc"]);
        assert_eq!(
            split_utf16("aaaaaa\n\nbb cc dd", 12),
            ["aaaaaa", "bb cc dd"]
        );
        assert_eq!(split_utf16("", 10), [""]);
        // a break in the first half would make tiny pieces
        assert_eq!(
            split_utf16("a bbbbbbbbbbbbbb", 10),
            ["a bbbbbbbb", "bbbbbb"]
        );
        // an odd limit never cuts a surrogate pair
        assert_eq!(split_utf16("😀😀😀", 3), ["😀", "😀", "😀"]);
    }

    #[test]
    fn slices_by_utf16_are_checked() {
        let text = "hi 😀 @bot!";
        assert_eq!(utf16_slice(text, 6, 4), Some("@bot"));
        assert_eq!(utf16_slice(text, 3, 2), Some("😀"));
        assert_eq!(utf16_slice(text, 4, 1), None);
        assert_eq!(utf16_slice(text, 0, 99), None);
        assert_eq!(utf16_slice(text, usize::MAX, 2), None);
        assert_eq!(utf16_slice(text, 11, 0), Some(""));
        assert_eq!(utf16_slice("", 0, 0), Some(""));
    }

    #[test]
    fn byte_cuts_keep_characters_whole() {
        assert_eq!(cut_bytes("aé", 2), "a");
        assert_eq!(cut_bytes("aé", 3), "aé");
        assert_eq!(cut_bytes("é", 0), "");
    }
}
