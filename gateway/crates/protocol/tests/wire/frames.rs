use gateway_protocol::error::DetailCode;
use gateway_protocol::frame::{
    ClientFrame, Close, FrameFault, ServerFrame, StateVersion, encode_request, encode_res_err,
    encode_res_ok, encode_res_value, encode_targeted_event, event_head, event_tail,
    first_must_be_connect,
};
use gateway_protocol::{RpcError, limits};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{json as parse, nested, on_small_stack};

#[test]
fn a_request_is_borrowed_from_its_bytes() {
    let text = r#"{"type":"req","id":"a1-1","method":"chat.send","params":{"x":[1,2]},"traceparent":"00-ab","expectedProfileId":"p"}"#;
    let request = ClientFrame::parse(text.as_bytes()).unwrap();
    assert_eq!(request.id.get(), r#""a1-1""#);
    assert_eq!(request.method, "chat.send");
    assert!(matches!(request.method, std::borrow::Cow::Borrowed(_)));
    assert_eq!(request.params.unwrap().get(), r#"{"x":[1,2]}"#);
    assert_eq!(request.traceparent.as_deref(), Some("00-ab"));
    let request = ClientFrame::parse(
        br#" {"id":"\u00e9","method":"he\u0061lth","type":"req","params":null} "#,
    )
    .unwrap();
    assert_eq!(request.method, "health");
    assert_eq!(request.id.get(), r#""\u00e9""#);
}

/// The answers that were recorded, byte for byte, to frames that are not requests on an open socket.
#[test]
fn recorded_answers_to_malformed_frames() {
    let answer = |text: &str| -> Option<Value> {
        let fault = ClientFrame::parse(text.as_bytes()).unwrap_err();
        let answer = fault.when_open();
        assert_eq!(answer.close, None, "an open socket stays open");
        answer.response.map(|bytes| parse(&bytes))
    };
    assert_eq!(answer("not json"), None);
    assert_eq!(answer(""), None);
    for (text, id, problem) in [
        (
            r#"{"foo":1}"#,
            json!("invalid"),
            "must have required property 'type'; at root: unexpected property 'foo'",
        ),
        (
            r#"{"type":"req","method":"health"}"#,
            json!("invalid"),
            "must have required property 'id'",
        ),
        (
            r#"{"type":"req","id":"","method":"health"}"#,
            json!(""),
            "at /id: must not have fewer than 1 characters",
        ),
        (
            r#"{"type":"req","id":5,"method":"health"}"#,
            json!(5),
            "at /id: must be string",
        ),
        ("[]", json!("invalid"), "must be object"),
        ("7", json!("invalid"), "must be object"),
        ("null", json!("invalid"), "must be object"),
    ] {
        let expected = json!({
            "type": "res", "id": id, "ok": false,
            "error": { "code": "INVALID_REQUEST", "message": format!("invalid request frame: {problem}") },
        });
        assert_eq!(answer(text), Some(expected), "{text}");
    }
    // Not recorded, same rules.
    for (text, problem) in [
        (
            r#"{"type":"res","id":"1","method":"x"}"#,
            "at /type: must be equal to constant",
        ),
        (
            r#"{"type":"req","id":"1"}"#,
            "must have required property 'method'",
        ),
        (
            r#"{"type":"req","id":"1","method":""}"#,
            "at /method: must not have fewer than 1 characters",
        ),
        (
            r#"{"type":"req","id":"1","method":7}"#,
            "at /method: must be string",
        ),
        (
            r#"{"type":"req","id":"1","id":"2","method":"x"}"#,
            "at root: property 'id' is given twice",
        ),
        (
            r#"{"type":"req","id":"1","method":"x","traceparent":5}"#,
            "at /traceparent: must be string",
        ),
    ] {
        let message = answer(text).unwrap()["error"]["message"]
            .as_str()
            .unwrap()
            .to_owned();
        assert_eq!(
            message,
            format!("invalid request frame: {problem}"),
            "{text}"
        );
    }
    let long = format!(
        r#"{{"type":"req","id":"1","method":"x","traceparent":"{}"}}"#,
        "a".repeat(129)
    );
    assert!(answer(&long).is_some());
}

/// The recorded ends of sockets whose first frame was wrong.
#[test]
fn recorded_ends_before_the_handshake() {
    let end = |text: &str| {
        ClientFrame::parse(text.as_bytes())
            .unwrap_err()
            .when_fresh()
    };
    let not_json = end("hello");
    assert_eq!(
        (not_json.response, not_json.close),
        (None, Some(Close::new(1000, "")))
    );
    let rpc = end(r#"{"jsonrpc":"2.0","id":1,"method":"connect","params":{}}"#);
    assert_eq!(
        (rpc.response, rpc.close),
        (None, Some(Close::new(1008, "invalid request frame")))
    );
    let request =
        ClientFrame::parse(br#"{"type":"req","id":"c7-nonconnect-first-1","method":"health"}"#)
            .unwrap();
    let answer = first_must_be_connect(request.id);
    assert_eq!(
        parse(&answer.response.unwrap()),
        json!({
            "type": "res", "id": "c7-nonconnect-first-1", "ok": false,
            "error": { "code": "INVALID_REQUEST", "message": "invalid handshake: first request must be connect" },
        })
    );
    assert_eq!(
        answer.close,
        Some(Close::new(
            1008,
            "invalid handshake: first request must be connect"
        ))
    );
}

/// Deep nesting anywhere in a frame costs no stack, on the good path and on the one that explains.
///
/// Covers: R15.
#[test]
fn deep_frames_do_not_overflow() {
    on_small_stack(|| {
        let deep = nested(100_000);
        let open = "[".repeat(100_000);
        let objects = r#"{"a":"#.repeat(100_000);
        for text in [
            deep.clone(),
            open.clone(),
            objects.clone(),
            format!(r#"{{"type":"req","id":"1","method":"health","params":{open}"#),
            format!(r#"{{"type":"req","id":{deep},"method":"health"}}"#),
            format!(r#"{{"type":{deep}}}"#),
            format!(r#"{{"foo":{deep}}}"#),
        ] {
            let fault = ClientFrame::parse(text.as_bytes()).unwrap_err();
            let _ = (fault.when_open(), fault.when_fresh());
        }
        let text = format!(r#"{{"type":"req","id":"1","method":"health","params":{deep}}}"#);
        let request = ClientFrame::parse(text.as_bytes()).unwrap();
        let decoded = gateway_protocol::method::decode::<gateway_protocol::methods::chat::ChatSend>(
            request.params,
            false,
        );
        assert!(
            decoded
                .unwrap_err()
                .message
                .starts_with("invalid chat.send params: ")
        );
        let text = format!(
            r#"{{"sessionKey":"main","message":{deep},"idempotencyKey":"1","attachments":{deep},"x":{deep}}}"#
        );
        let raw = serde_json::from_str(&text).unwrap();
        for strict in [false, true] {
            let decoded = gateway_protocol::method::decode::<
                gateway_protocol::methods::chat::ChatSend,
            >(Some(raw), strict);
            assert!(decoded.is_err());
        }
    });
}

#[test]
fn ids_are_limited() {
    let id = "x".repeat(limits::MAX_REQUEST_ID_BYTES);
    let text = format!(r#"{{"type":"req","id":"{id}","method":"health"}}"#);
    let FrameFault::Invalid { id, .. } = ClientFrame::parse(text.as_bytes()).unwrap_err() else {
        panic!("JSON")
    };
    assert_eq!(id, "\"invalid\"", "a huge id is not sent back");
}

#[test]
fn bad_utf8_is_not_json() {
    assert_eq!(
        ClientFrame::parse(b"{\"type\":\"req\",\"id\":\"\xff\",\"method\":\"x\"}").unwrap_err(),
        FrameFault::NotJson
    );
}

#[test]
fn answers_and_events() {
    assert_eq!(
        encode_res_ok("\"1\"", b"{}"),
        br#"{"type":"res","id":"1","ok":true,"payload":{}}"#
    );
    assert_eq!(
        encode_res_value("\"1\"", &json!({})).unwrap(),
        encode_res_ok("\"1\"", b"{}")
    );
    let mut event = event_head(
        "tick",
        br#"{"ts":1}"#,
        Some(StateVersion {
            presence: 3,
            health: 10,
        }),
    );
    event.extend(event_tail(18_446_744_073_709_551_615));
    assert_eq!(
        String::from_utf8(event).unwrap(),
        r#"{"type":"event","event":"tick","payload":{"ts":1},"stateVersion":{"presence":3,"health":10},"seq":18446744073709551615}"#
    );
    assert_eq!(
        encode_targeted_event("connect.challenge", b"{}"),
        br#"{"type":"event","event":"connect.challenge","payload":{}}"#
    );
    assert_eq!(event_tail(0), br#","seq":0}"#);
    let ServerFrame::Res(response) = serde_json::from_slice(&encode_res_err(
        "\"7\"",
        &RpcError::new(DetailCode::RateLimited, "slow").retry_after_ms(5),
    ))
    .unwrap() else {
        panic!("a response")
    };
    let error = response.error.unwrap();
    assert_eq!(
        (
            error.code.as_str(),
            error.detail_code(),
            error.retryable,
            error.retry_after_ms
        ),
        ("UNAVAILABLE", "RATE_LIMITED", true, Some(5))
    );
}

#[test]
fn close_reasons_are_cut_between_characters() {
    let close = Close::new(1008, &"é".repeat(100));
    assert_eq!(close.reason.len(), 120);
    assert_eq!(
        Close::new(1008, &format!("a{}", "é".repeat(100)))
            .reason
            .len(),
        119
    );
}

proptest! {
    /// Whatever the client sends, the codec answers or stays silent; answers are JSON with the id as it came.
    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let fault = ClientFrame::parse(&bytes).err();
        if let Some(answer) = fault.and_then(|f| f.when_open().response) {
            parse(&answer);
        }
    }

    /// Objects of all shapes: what is accepted is exactly what the closed schema accepts.
    #[test]
    fn any_object(
        kind in prop_oneof![3 => Just(json!("req")), 1 => Just(json!("res")), 1 => Just(json!(1))],
        id in prop_oneof![3 => "\\PC{0,12}".prop_map(Value::from), 1 => Just(json!(null)), 1 => any::<i64>().prop_map(Value::from)],
        method in prop_oneof![3 => "\\PC{0,12}".prop_map(Value::from), 1 => Just(json!([]))],
        extra in proptest::option::of("[a-z]{1,6}"),
    ) {
        let mut frame = json!({ "type": kind, "id": id, "method": method });
        if let Some(name) = &extra {
            frame[name] = json!({});
        }
        let text = frame.to_string();
        let full = |v: &Value| v.as_str().is_some_and(|s| !s.is_empty());
        let good = frame["type"] == "req" && full(&frame["id"]) && full(&frame["method"])
            && frame.as_object().unwrap().keys().all(|k| ["type", "id", "method", "params"].contains(&k.as_str()));
        match ClientFrame::parse(text.as_bytes()) {
            Ok(request) => {
                prop_assert!(good, "{}", text);
                prop_assert_eq!(serde_json::from_str::<Value>(request.id.get()).unwrap(), frame["id"].clone());
                prop_assert_eq!(request.method.as_ref(), frame["method"].as_str().unwrap());
            }
            Err(fault) => {
                prop_assert!(!good, "{}", text);
                let answer = parse(&fault.when_open().response.unwrap());
                prop_assert_eq!(&answer["id"], &frame["id"]);
            }
        }
    }

    /// What our client writes, our server reads.
    #[test]
    fn requests_round_trip(id in "\\PC{1,20}", method in "\\PC{1,20}", params in proptest::option::of("\\PC{0,20}")) {
        let params = params.map(|p| json!({ "p": p }).to_string());
        let bytes = encode_request(&id, &method, params.as_deref().map(str::as_bytes));
        let request = ClientFrame::parse(&bytes).unwrap();
        prop_assert_eq!(serde_json::from_str::<String>(request.id.get()).unwrap(), id);
        prop_assert_eq!(request.method.as_ref(), method.as_str());
        prop_assert_eq!(request.params.map(|p| p.get().to_owned()), params);
    }
}
