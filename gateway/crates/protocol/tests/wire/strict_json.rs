use gateway_protocol::json::{NoDup, StrictError, depth_within, parse_strict};
use gateway_protocol::limits::JSON_MAX_DEPTH;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{nested, on_small_stack};

#[test]
fn depth_counts_brackets_outside_of_strings() {
    assert!(depth_within(
        nested(JSON_MAX_DEPTH).as_bytes(),
        JSON_MAX_DEPTH
    ));
    assert!(!depth_within(
        nested(JSON_MAX_DEPTH + 1).as_bytes(),
        JSON_MAX_DEPTH
    ));
    let text = format!(r#"["{}\"{}"]"#, "[".repeat(500), "{".repeat(500));
    assert!(depth_within(text.as_bytes(), 1));
    // Unfinished strings and escapes at the end do not read past it.
    for text in ["\"", "\"\\", "[\"a\\", "\\\"[[[["] {
        let _ = depth_within(text.repeat(40).as_bytes(), 3);
    }
    let wide = "[],".repeat(1000);
    assert!(depth_within(wide.as_bytes(), 1));
}

/// Covers: R15.
#[test]
fn strict_parsing_refuses_depth_without_stack() {
    on_small_stack(|| {
        for text in [
            nested(100_000),
            "[".repeat(100_000),
            r#"{"a":"#.repeat(100_000),
            r#"[{"a":"#.repeat(100_000),
        ] {
            assert!(matches!(
                parse_strict(text.as_bytes()),
                Err(StrictError::TooDeep)
            ));
        }
        assert!(parse_strict(nested(JSON_MAX_DEPTH).as_bytes()).is_ok());
    });
}

/// Covers: R15.
#[test]
fn strict_parsing_refuses_repeated_keys_at_every_depth() {
    for text in [
        r#"{"a":1,"a":2}"#,
        r#"[{"x":{"a":1,"b":2,"a":1}}]"#,
        r#"{"a":1,"\u0061":2}"#,
    ] {
        let error = parse_strict(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("duplicate key \"a\""), "{error}");
    }
    assert_eq!(
        parse_strict(br#"{"a":{"a":{"a":1}}}"#).unwrap(),
        json!({ "a": { "a": { "a": 1 } } })
    );
}

/// Covers: R15.
#[test]
fn huge_numbers_do_no_harm() {
    assert!(parse_strict(b"1e999").is_err());
    assert!(parse_strict(format!("[{}]", "9".repeat(10_000)).as_bytes()).is_err());
    assert_eq!(
        parse_strict(b"[18446744073709551615,-9223372036854775808,0.5]").unwrap()[0],
        json!(u64::MAX)
    );
}

proptest! {
    /// Without repeated keys the strict parser agrees with the plain one.
    #[test]
    fn agrees_with_the_plain_parser(text in "[\\[\\]{},:\"a0-2 .\\\\-]{0,30}") {
        let strict = serde_json::from_str::<NoDup>(&text);
        match (serde_json::from_str::<Value>(&text), strict) {
            (Ok(plain), Ok(NoDup(strict))) => prop_assert_eq!(plain, strict),
            (Err(_), Err(_)) => {}
            (Ok(_), Err(error)) => prop_assert!(error.to_string().contains("duplicate key")),
            (Err(error), Ok(_)) => prop_assert!(false, "{}: {}", text, error),
        }
    }
}
