use gateway_protocol::error::DetailCode;
use gateway_protocol::jsonrpc::{
    Item, Parsed, by_name, encode_batch, encode_err, encode_notification, encode_ok,
    method_not_found, parse, split_meta,
};
use gateway_protocol::{RpcError, limits};
use proptest::prelude::*;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::{json, nested, on_small_stack};

/// A little server with the methods that the specification's examples use.
fn answer(method: &str, id: &str, params: Option<&RawValue>) -> Vec<u8> {
    let params: Value = params.map_or(json!([]), |p| serde_json::from_str(p.get()).unwrap());
    let number = |i: usize, name: &str| {
        params
            .get(i)
            .or(params.get(name))
            .and_then(Value::as_i64)
            .unwrap_or(0)
    };
    let result = match method {
        "subtract" => json!(number(0, "minuend") - number(1, "subtrahend")),
        "sum" => json!((0..3).map(|i| number(i, "")).sum::<i64>()),
        "get_data" => json!(["hello", 5]),
        _ => return method_not_found(id),
    };
    encode_ok(id, result.to_string().as_bytes())
}

fn one(item: Item<'_>) -> Option<Vec<u8>> {
    match item {
        Item::Call { id, method, params } => Some(answer(&method, id.get(), params)),
        Item::Notification { .. } => None,
        Item::Invalid(bytes) => Some(bytes),
    }
}

fn serve(text: &str) -> Option<Value> {
    let bytes = match parse(text.as_bytes()) {
        Parsed::Single(item) => one(item),
        Parsed::Batch(items) => {
            encode_batch(&items.into_iter().filter_map(one).collect::<Vec<_>>())
        }
        Parsed::Fault(bytes) => Some(bytes),
    };
    bytes.map(|b| json(&b))
}

/// The examples of the specification, section 7.
#[test]
fn examples_of_the_specification() {
    let invalid = || json!({"jsonrpc": "2.0", "error": {"code": -32600, "message": "Invalid Request"}, "id": null});
    let parse_error = || json!({"jsonrpc": "2.0", "error": {"code": -32700, "message": "Parse error"}, "id": null});
    let cases: Vec<(&str, Option<Value>)> = vec![
        (
            r#"{"jsonrpc": "2.0", "method": "subtract", "params": [42, 23], "id": 1}"#,
            Some(json!({"jsonrpc": "2.0", "result": 19, "id": 1})),
        ),
        (
            r#"{"jsonrpc": "2.0", "method": "subtract", "params": [23, 42], "id": 2}"#,
            Some(json!({"jsonrpc": "2.0", "result": -19, "id": 2})),
        ),
        (
            r#"{"jsonrpc": "2.0", "method": "subtract", "params": {"subtrahend": 23, "minuend": 42}, "id": 3}"#,
            Some(json!({"jsonrpc": "2.0", "result": 19, "id": 3})),
        ),
        (
            r#"{"jsonrpc": "2.0", "method": "subtract", "params": {"minuend": 42, "subtrahend": 23}, "id": 4}"#,
            Some(json!({"jsonrpc": "2.0", "result": 19, "id": 4})),
        ),
        (
            r#"{"jsonrpc": "2.0", "method": "update", "params": [1,2,3,4,5]}"#,
            None,
        ),
        (r#"{"jsonrpc": "2.0", "method": "foobar"}"#, None),
        (
            r#"{"jsonrpc": "2.0", "method": "foobar", "id": "1"}"#,
            Some(
                json!({"jsonrpc": "2.0", "error": {"code": -32601, "message": "Method not found"}, "id": "1"}),
            ),
        ),
        (
            r#"{"jsonrpc": "2.0", "method": "foobar, "params": "bar", "baz]"#,
            Some(parse_error()),
        ),
        (
            r#"[{"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"}, {"jsonrpc": "2.0", "method"]"#,
            Some(parse_error()),
        ),
        ("[]", Some(invalid())),
        ("[1]", Some(json!([invalid()]))),
        ("[1,2,3]", Some(json!([invalid(), invalid(), invalid()]))),
        (
            r#"[
                {"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},
                {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]},
                {"jsonrpc": "2.0", "method": "subtract", "params": [42,23], "id": "2"},
                {"foo": "boo"},
                {"jsonrpc": "2.0", "method": "foo.get", "params": {"name": "myself"}, "id": "5"},
                {"jsonrpc": "2.0", "method": "get_data", "id": "9"}
            ]"#,
            Some(json!([
                {"jsonrpc": "2.0", "result": 7, "id": "1"},
                {"jsonrpc": "2.0", "result": 19, "id": "2"},
                {"jsonrpc": "2.0", "error": {"code": -32600, "message": "Invalid Request"}, "id": null},
                {"jsonrpc": "2.0", "error": {"code": -32601, "message": "Method not found"}, "id": "5"},
                {"jsonrpc": "2.0", "result": ["hello", 5], "id": "9"}
            ])),
        ),
        (
            r#"[{"jsonrpc": "2.0", "method": "notify_sum", "params": [1,2,4]}, {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]}]"#,
            None,
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(serve(text), expected, "{text}");
    }
    // The one example whose answer gets a reason on top: params is a string, and the id cannot be told.
    let got = serve(r#"{"jsonrpc": "2.0", "method": 1, "params": "bar"}"#).unwrap();
    assert_eq!(
        (&got["error"]["code"], &got["error"]["message"], &got["id"]),
        (&json!(-32600), &json!("Invalid Request"), &json!(null))
    );
}

#[test]
fn what_a_request_is() {
    let code = |text: &str| serve(text).map(|v| (v["error"]["code"].as_i64(), v["id"].clone()));
    // A null id is an id: it is answered.
    assert_eq!(
        code(r#"{"jsonrpc":"2.0","method":"nope","id":null}"#),
        Some((Some(-32601), json!(null)))
    );
    // Ids come back as they came.
    for id in [
        r#""a\u00e9""#,
        "-1",
        "1.5",
        "12345678901234567890123",
        r#""""#,
    ] {
        let Parsed::Single(Item::Call { id: got, .. }) =
            parse_owned(&format!(r#"{{"jsonrpc":"2.0","method":"x","id":{id}}}"#))
        else {
            panic!("a call")
        };
        assert_eq!(got.get(), id);
    }
    for (text, id) in [
        (r#"{"jsonrpc":"1.0","method":"x","id":1}"#, json!(1)),
        (r#"{"jsonrpc":2.0,"method":"x","id":1}"#, json!(1)),
        (r#"{"method":"x","id":1}"#, json!(1)),
        (r#"{"jsonrpc":"2.0","id":1}"#, json!(1)),
        (r#"{"jsonrpc":"2.0","method":null,"id":"q"}"#, json!("q")),
        (r#"{"jsonrpc":"2.0","method":"x","id":{}}"#, json!(null)),
        (r#"{"jsonrpc":"2.0","method":"x","id":[1]}"#, json!(null)),
        (r#"{"jsonrpc":"2.0","method":"x","id":true}"#, json!(null)),
        (
            r#"{"jsonrpc":"2.0","method":"x","params":"bar","id":1}"#,
            json!(1),
        ),
        (
            r#"{"jsonrpc":"2.0","method":"x","params":null,"id":1}"#,
            json!(1),
        ),
        (
            r#"{"jsonrpc":"2.0","method":"x","method":"y","id":1}"#,
            json!(1),
        ),
        (r#"{"jsonrpc":"2.0","method":"x","params":7}"#, json!(null)),
        (r#"{"type":"req","id":"1","method":"health"}"#, json!("1")),
        ("\"x\"", json!(null)),
    ] {
        assert_eq!(code(text), Some((Some(-32600), id)), "{text}");
    }
    // Unknown members are ignored.
    assert_eq!(
        code(r#"{"jsonrpc":"2.0","method":"nope","id":1,"x":2}"#),
        Some((Some(-32601), json!(1)))
    );
    let huge = format!(
        r#"{{"jsonrpc":"2.0","method":"x","id":"{}"}}"#,
        "i".repeat(limits::MAX_REQUEST_ID_BYTES)
    );
    assert_eq!(code(&huge), Some((Some(-32600), json!(null))));
}

/// Leaks the text: enough for a test that wants to keep what was parsed.
fn parse_owned(text: &str) -> Parsed<'static> {
    parse(text.to_owned().leak().as_bytes())
}

#[test]
fn batches_are_limited_as_a_whole() {
    let call = r#"{"jsonrpc":"2.0","method":"sum","params":[1],"id":1}"#;
    let batch = |n: usize| format!("[{}]", vec![call; n].join(","));
    assert_eq!(
        serve(&batch(limits::MAX_BATCH_ITEMS))
            .unwrap()
            .as_array()
            .unwrap()
            .len(),
        limits::MAX_BATCH_ITEMS
    );
    let refused = serve(&batch(limits::MAX_BATCH_ITEMS + 1)).unwrap();
    assert_eq!(
        (&refused["error"]["code"], &refused["id"]),
        (&json!(-32600), &json!(null))
    );
}

/// Covers: R15.
#[test]
fn deep_texts_do_not_overflow() {
    on_small_stack(|| {
        let deep = nested(100_000);
        for text in [
            deep.clone(),
            "[".repeat(100_000),
            r#"{"jsonrpc":"#.repeat(100_000),
            format!(r#"{{"jsonrpc":"2.0","method":{deep},"id":{deep}}}"#),
            format!(r#"[{deep},{{"jsonrpc":"2.0","method":"x","params":{deep},"id":1}}]"#),
        ] {
            drop(parse(text.as_bytes()));
        }
    });
}

#[test]
fn parameters_are_given_by_name() {
    let raw = |text: &str| -> Option<Box<RawValue>> { Some(serde_json::from_str(text).unwrap()) };
    for (params, good) in [
        ("{}", true),
        ("[]", true),
        ("[ ]", true),
        ("[1]", false),
        ("[[]]", false),
        (r#"{"a":1}"#, true),
    ] {
        let params = raw(params);
        assert_eq!(
            by_name("health", params.as_deref()).is_ok(),
            good,
            "{params:?}"
        );
    }
    assert!(by_name("health", raw("[]").as_deref()).unwrap().is_none());
    assert!(by_name("health", None).unwrap().is_none());
}

/// `_meta` is no parameter of a method: it is taken out, and the rest is left as it was written.
#[test]
fn what_a_call_says_of_itself_stands_beside_its_parameters() {
    let raw = |text: &str| -> Option<Box<RawValue>> { Some(serde_json::from_str(text).unwrap()) };
    let split = |text: &str| {
        let params = raw(text);
        split_meta("health", params.as_deref()).map(|(rest, meta)| {
            let rest = rest.map(|rest| rest.get().to_owned());
            (rest.unwrap(), meta.traceparent)
        })
    };
    let long = "x".repeat(limits::MAX_TRACEPARENT_BYTES);
    for (text, rest, traceparent) in [
        (r#"{"a":1}"#, r#"{"a":1}"#, None),
        // No member of that name, but a text that has it.
        (r#"{"a":"\"_meta\""}"#, r#"{"a":"\"_meta\""}"#, None),
        (r#"{"a":{"_meta":5}}"#, r#"{"a":{"_meta":5}}"#, None),
        (r#"{"_meta":{}}"#, "{}", None),
        (r#"{"_meta":{"progressToken":7}}"#, "{}", None),
        (r#"{"_meta":{"traceparent":null}}"#, "{}", None),
        (
            r#"{"n":1.50, "_meta" : {"traceparent":"00-ab"}, "a":[ 1e400 ]}"#,
            r#"{"n":1.50,"a":[ 1e400 ]}"#,
            Some("00-ab"),
        ),
        // What is given twice is for the method's own check.
        (
            r#"{"a":1,"_meta":{"traceparent":"00-ab"},"a":2}"#,
            r#"{"a":1,"a":2}"#,
            Some("00-ab"),
        ),
        (
            &format!(r#"{{"_meta":{{"traceparent":"{long}"}}}}"#),
            "{}",
            Some(&*long),
        ),
    ] {
        let got = split(text).unwrap();
        assert_eq!(got, (rest.to_owned(), traceparent.map(str::to_owned)));
    }
    for bad in [
        r#"{"_meta":5}"#.to_owned(),
        r#"{"_meta":[]}"#.to_owned(),
        r#"{"_meta":null}"#.to_owned(),
        r#"{"_meta":{},"_meta":{}}"#.to_owned(),
        r#"{"_meta":{"traceparent":5}}"#.to_owned(),
        format!(r#"{{"_meta":{{"traceparent":"{long}x"}}}}"#),
    ] {
        let error = split(&bad).unwrap_err();
        assert_eq!(error.detail, DetailCode::InvalidParams, "{bad}");
        assert!(error.message.contains("/_meta"), "{}", error.message);
    }
    let (rest, meta) = split_meta("health", None).unwrap();
    assert!(rest.is_none() && meta.traceparent.is_none());
}

#[test]
fn errors_carry_their_row() {
    let error = RpcError::not_found("session");
    assert_eq!(
        json(&encode_err("7", &error)),
        json!({
            "jsonrpc": "2.0",
            "error": {
                "code": -32004, "message": "session not found",
                "data": { "code": "NOT_FOUND", "category": "INVALID_REQUEST" },
            },
            "id": 7,
        })
    );
    let error = RpcError::new(DetailCode::RateLimited, "slow down")
        .retry_after_ms(250)
        .with("method", "health");
    assert_eq!(
        json(&encode_err("\"a\"", &error))["error"]["data"],
        json!({ "code": "RATE_LIMITED", "category": "UNAVAILABLE", "retryable": true, "retryAfterMs": 250, "method": "health" })
    );
    assert_eq!(
        encode_notification("tick", br#"{"ts":1}"#),
        br#"{"jsonrpc":"2.0","method":"tick","params":{"ts":1}}"#
    );
}

proptest! {
    /// Whatever comes in, what goes out is JSON-RPC.
    #[test]
    fn any_text(text in "[\\[\\]{},:\" a-c0-2]{0,40}|\\PC{0,40}") {
        if let Some(answer) = serve(&text) {
            for answer in answer.as_array().cloned().unwrap_or_else(|| vec![answer]) {
                prop_assert_eq!(&answer["jsonrpc"], "2.0");
                prop_assert!(answer.get("id").is_some());
                prop_assert!(answer.get("result").is_some() != answer.get("error").is_some());
            }
        }
    }
}
