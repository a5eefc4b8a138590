//! Bytes of a connection: request heads, v4 frames, `connect`, JSON-RPC.

use gateway_protocol::frame::{self, ClientFrame, Close, ServerFrame};
use gateway_protocol::jsonrpc::{self, Item, Parsed};
use gateway_protocol::limits::{MAX_BATCH_ITEMS, MAX_CLOSE_REASON_BYTES, MAX_REQUEST_ID_BYTES};
use gateway_protocol::methods::connect::ConnectParams;
use gateway_server::head::{self, BodyKind, HeadEnd};
use serde_json::Value;
use serde_json::value::RawValue;

/// A v4 frame: it is read as every other JSON reader would read it, and each answer to a bad one is a whole frame.
pub fn frame(bytes: &[u8]) {
    match ClientFrame::parse(bytes) {
        Ok(request) => {
            assert!(
                serde_json::from_slice::<&RawValue>(bytes).is_ok(),
                "an accepted frame is JSON"
            );
            // Half a surrogate pair is JSON and no text: it is passed on as it came, and nobody here reads it.
            let Ok(plain) = serde_json::from_slice::<Value>(bytes) else {
                return;
            };
            let id: String = serde_json::from_str(request.id.get()).expect("the id is a string");
            assert_eq!(plain["type"], "req");
            assert_eq!(plain["id"], id.as_str());
            assert_eq!(plain["method"], &*request.method);
            assert!(!request.method.is_empty() && request.id.get().len() <= MAX_REQUEST_ID_BYTES);
            assert_eq!(
                plain.get("params").is_some_and(|p| !p.is_null()),
                request.params.is_some_and(|p| p.get() != "null")
            );
            if let Some(params) = request.params {
                let params: Value =
                    serde_json::from_str(params.get()).expect("the params are JSON");
                assert_eq!(plain["params"], params);
            }
            let again = frame::encode_request(
                &id,
                &request.method,
                request.params.map(|p| p.get().as_bytes()),
            );
            let again = ClientFrame::parse(&again).expect("what was accepted is accepted again");
            assert_eq!(again.method, request.method);
            answer(&frame::encode_res_ok(request.id.get(), b"null"), Some(&id));
        }
        Err(fault) => {
            for reply in [fault.when_open(), fault.when_fresh()] {
                if let Some(response) = &reply.response {
                    answer(response, None);
                }
                if let Some(Close { reason, .. }) = &reply.close {
                    assert!(reason.len() <= MAX_CLOSE_REASON_BYTES);
                }
            }
        }
    }
}

/// A response frame of ours is whole; one to an id that is a text is one that our own client reads.
fn answer(bytes: &[u8], id: Option<&str>) {
    let Some(plain) = read(bytes) else { return };
    assert_eq!(plain["type"], "res");
    assert!(plain["ok"].is_boolean() && plain.get("id").is_some());
    if let Some(id) = id {
        match serde_json::from_slice::<ServerFrame>(bytes) {
            Ok(ServerFrame::Res(res)) => assert_eq!(res.id, id),
            other => panic!("{other:?} from {}", String::from_utf8_lossy(bytes)),
        }
    }
}

/// An answer of ours, which is JSON; `None` where it gives back half a surrogate pair of the caller, which is JSON and no text.
fn read(answer: &[u8]) -> Option<Value> {
    let value = serde_json::from_slice(answer).ok();
    let grammar = serde_json::from_slice::<&RawValue>(answer);
    assert!(grammar.is_ok(), "our answer is JSON: {grammar:?}");
    value
}

/// Parameters of `connect`: the quick decoder and the explaining one accept the same texts.
pub fn connect(bytes: &[u8]) {
    let Ok(raw) = serde_json::from_slice::<&RawValue>(bytes) else {
        return;
    };
    let quick = ConnectParams::quick(raw);
    let slow = ConnectParams::parse(Some(raw));
    match (&quick, &slow) {
        (Some(params), Ok(_)) => {
            let _ = (
                params.role(),
                params.check_protocol(),
                params.requested_scopes(),
            );
        }
        (None, Err(refusal)) => {
            assert!(refusal.close.reason.len() <= MAX_CLOSE_REASON_BYTES);
            answer(&frame::encode_res_err("\"c\"", &refusal.error), Some("c"));
        }
        // The explaining one also refuses what is nested too deeply; nothing that `connect` has can hold that.
        (Some(_), Err(refusal)) => {
            panic!("only the quick decoder accepts: {}", refusal.error.message)
        }
        (None, Ok(_)) => panic!("only the explaining decoder accepts"),
    }
}

/// A JSON-RPC text: calls and notifications are told apart as the specification says, and each answer of ours is valid.
pub fn jsonrpc(bytes: &[u8]) {
    match jsonrpc::parse(bytes) {
        Parsed::Fault(answer) => reply(&answer),
        Parsed::Single(one) => item(&one, serde_json::from_slice(bytes).ok().as_ref()),
        Parsed::Batch(items) => {
            assert!((1..=MAX_BATCH_ITEMS).contains(&items.len()));
            let plain: Vec<Value> = serde_json::from_slice(bytes).unwrap_or_default();
            for (at, one) in items.iter().enumerate() {
                item(one, plain.get(at));
            }
        }
    }
}

fn item(item: &Item<'_>, plain: Option<&Value>) {
    let has = |name: &str| plain.is_none_or(|p| p.get(name).is_some());
    match item {
        Item::Call { id, method, params } => {
            let Ok(given) = serde_json::from_str::<Value>(id.get()) else {
                return;
            };
            assert!(given.is_string() || given.is_number() || given.is_null());
            assert!(id.get().len() <= MAX_REQUEST_ID_BYTES && has("id"));
            assert!(plain.is_none_or(|p| p["method"] == **method && p["jsonrpc"] == "2.0"));
            assert!(params.is_none_or(|p| p.get().starts_with(['{', '['])));
            reply(&jsonrpc::encode_ok(id.get(), b"[1]"));
        }
        Item::Notification { params, .. } => {
            assert!(plain.is_none_or(|p| p.get("id").is_none()));
            assert!(params.is_none_or(|p| p.get().starts_with(['{', '['])));
        }
        Item::Invalid(answer) => reply(answer),
    }
}

/// One answer as the specification has it: the version, an id, and exactly one of result and error.
fn reply(bytes: &[u8]) {
    let Some(value) = read(bytes) else { return };
    assert_eq!(value["jsonrpc"], "2.0");
    assert!(value.get("id").is_some());
    assert!(value.get("result").is_some() != value.get("error").is_some());
    if let Some(error) = value.get("error") {
        assert!(error["code"].is_i64() && error["message"].is_string());
    }
}

/// A request head: its end does not depend on how the bytes arrive, and an accepted one has exactly one reading, also for another reader.
pub fn head(bytes: &[u8]) {
    let mut seen = 0;
    let whole = head::find_end(bytes, &mut seen);
    let mut seen = 0;
    let mut piecewise = HeadEnd::More;
    for n in 1..=bytes.len() {
        piecewise = head::find_end(&bytes[..n], &mut seen);
        if piecewise != HeadEnd::More {
            break;
        }
    }
    let HeadEnd::At(end) = whole else {
        assert!(
            !matches!(piecewise, HeadEnd::At(_)),
            "found only piece by piece"
        );
        return;
    };
    assert_eq!(piecewise, whole);
    let Ok(accepted) = head::inspect(&bytes[..end]) else {
        return;
    };
    let mut lines = [httparse::EMPTY_HEADER; 128];
    let mut other = httparse::Request::new(&mut lines);
    let parsed = other
        .parse(&bytes[..end])
        .expect("another reader refuses what we accept");
    assert_eq!(
        parsed,
        httparse::Status::Complete(end),
        "another reader sees another end"
    );
    assert_eq!(other.version, Some(1));
    let all = |name: &str| -> Vec<&[u8]> {
        other
            .headers
            .iter()
            .filter(|h| h.name.eq_ignore_ascii_case(name))
            .map(|h| h.value)
            .collect()
    };
    assert_eq!(all("host").len(), 1);
    let (lengths, codings) = (all("content-length"), all("transfer-encoding"));
    match accepted.body {
        BodyKind::None => {
            assert!(codings.is_empty() && lengths.iter().all(|l| l.iter().all(|b| *b == b'0')));
        }
        BodyKind::Length(n) => {
            assert!(codings.is_empty() && lengths.len() == 1);
            assert_eq!(
                std::str::from_utf8(lengths[0])
                    .ok()
                    .and_then(|l| l.trim().parse().ok()),
                Some(n)
            );
        }
        BodyKind::Chunked => assert!(lengths.is_empty() && codings.len() == 1),
    }
    if accepted.upgrade {
        assert_eq!(accepted.body, BodyKind::None);
    }
}
