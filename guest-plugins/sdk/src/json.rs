//! Reading JSON of strangers without trusting its shape.

use serde_json::Value;

/// Deepest nesting that is parsed; deeper input is refused before any parsing.
pub const MAX_DEPTH: usize = 64;

/// Parses bytes as JSON.
///
/// # Errors
/// A sentence for the sender: not UTF-8, not JSON, or nested deeper than [`MAX_DEPTH`].
pub fn parse(bytes: &[u8]) -> Result<Value, String> {
    if depth(bytes) > MAX_DEPTH {
        return Err(format!("the JSON is nested deeper than {MAX_DEPTH}"));
    }
    serde_json::from_slice(bytes).map_err(|e| format!("the body is not JSON: {e}"))
}

/// Deepest nesting of arrays and objects; strings are skipped. Meaningful for any bytes, costs one pass.
#[must_use]
pub fn depth(bytes: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0_usize);
    let mut in_string = false;
    let mut escaped = false;
    for byte in bytes {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// An id: a string of 1 to `max` bytes without control characters, or a whole number. Anything else is no id.
#[must_use]
pub fn id(value: Option<&Value>, max: usize) -> Option<String> {
    match value? {
        Value::String(text) if is_id(text, max) => Some(text.clone()),
        Value::Number(number) => number.as_i64().map(|n| n.to_string()),
        _ => None,
    }
}

fn is_id(text: &str, max: usize) -> bool {
    !text.is_empty()
        && text.len() <= max
        && text.trim() == text
        && !text.chars().any(char::is_control)
}

/// A string member.
#[must_use]
pub fn string<'v>(value: &'v Value, key: &str) -> Option<&'v str> {
    value.get(key)?.as_str()
}

/// A whole-number member.
#[must_use]
pub fn integer(value: &Value, key: &str) -> Option<i64> {
    value.get(key)?.as_i64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn depth_counts_brackets_outside_of_strings() {
        let check =
            |text: &str, expect: usize| assert_eq!(depth(text.as_bytes()), expect, "{text}");
        check("", 0);
        check("[[]]", 2);
        check(r#"{"a":"[[[[\"[["}"#, 1);
        check("]]]][", 1);
        check(r#"{"a":{"b":[1,2]}}"#, 3);
    }

    /// Covers: R15.
    #[test]
    fn a_hundred_thousand_brackets_are_refused_before_parsing() {
        let bomb = vec![b'['; 100_000];
        assert!(parse(&bomb).is_err_and(|e| e.contains("deeper")));
        assert!(parse(b"{\"a\":1}").is_ok());
        assert!(parse(b"\xff\xfe").is_err());
        assert!(parse(b"").is_err());
    }

    #[test]
    fn ids_are_strings_or_whole_numbers() {
        let check = |value: Value, expect: Option<&str>| {
            assert_eq!(id(Some(&value), 8).as_deref(), expect, "{value}")
        };
        check(json!("abc"), Some("abc"));
        check(json!(-42), Some("-42"));
        check(json!(""), None);
        check(json!("123456789"), None);
        check(json!(" a"), None);
        check(json!("a\nb"), None);
        check(json!("a\u{0}"), None);
        check(json!(1.5), None);
        check(json!(u64::MAX), None);
        check(json!(null), None);
        check(json!(["a"]), None);
        assert_eq!(id(None, 8), None);
    }
}
