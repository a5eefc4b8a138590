//! The v4 handshake and its faults, against golden tables made after the recorded frames of the protocol's first gateway.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    devices::{Device, as_node},
    support::*,
};

const FAULTS: &str = include_str!("../golden/handshake-faults.jsonl");
const OPEN: &str = include_str!("../golden/open-faults.jsonl");
const CALLS: &str = include_str!("../golden/open-calls.jsonl");

fn lines(text: &str) -> impl Iterator<Item = Value> + '_ {
    text.lines()
        .filter(|l| !l.is_empty())
        .map(|l| serde_json::from_str(l).unwrap())
}

/// `want` is what `got` has to be; `"*"` fits anything.
fn fits(want: &Value, got: &Value) -> bool {
    match (want, got) {
        (Value::String(any), _) if any == "*" => true,
        (Value::Object(w), Value::Object(g)) => {
            w.len() == g.len() && w.iter().all(|(k, v)| g.get(k).is_some_and(|g| fits(v, g)))
        }
        _ => want == got,
    }
}

/// Covers: A1.
#[test]
fn handshake_faults_are_as_recorded() {
    let gw = plain();
    for case in lines(FAULTS) {
        let name = case["name"].as_str().unwrap();
        let mut ws = gw.ws();
        let challenge = ws.json();
        assert_eq!(challenge["event"], "connect.challenge");
        assert!(
            challenge["payload"]["nonce"]
                .as_str()
                .is_some_and(|n| n.len() == 36)
                && challenge["payload"]["ts"].is_u64()
        );
        assert!(
            challenge.get("seq").is_none() && challenge["payload"].get("capabilities").is_none()
        );
        match (&case["raw"], &case["pad"], &case["connect"]) {
            (Value::String(raw), ..) => ws.text(raw),
            (_, Value::Number(n), _) => ws.text(
                &connect(json!({ "pad": "a".repeat(n.as_u64().unwrap() as usize) })).to_string(),
            ),
            (.., change) => ws.text(&connect(change.clone()).to_string()),
        }
        for want in case["want"].as_array().unwrap() {
            if let Some(error) = want.get("res") {
                let got = ws.json();
                assert_eq!(
                    (&got["type"], &got["id"], &got["ok"]),
                    (&json!("res"), &json!("c"), &json!(false)),
                    "{name}"
                );
                assert!(fits(error, &got["error"]), "{name}: {}", got["error"]);
            } else {
                let (code, reason) = ws
                    .closed()
                    .unwrap_or_else(|| panic!("{name}: no close frame"));
                assert_eq!(json!([code, reason]), want["close"], "{name}");
            }
        }
        assert_eq!(ws.frame(), None, "{name}: nothing after the close");
    }
}

#[test]
fn malformed_frames_after_the_handshake_are_answered_and_the_socket_stays() {
    let gw = plain();
    let mut ws = gw.connected();
    ws.text("not json at all");
    for case in lines(OPEN) {
        ws.text(case["send"].as_str().unwrap());
        let got = loop {
            let got = ws.json();
            if got["type"] == "res" {
                break got;
            }
        };
        assert_eq!(
            (&got["id"], &got["error"]["code"]),
            (&case["want"]["id"], &json!("INVALID_REQUEST")),
            "{case}"
        );
        assert_eq!(got["error"]["message"], case["want"]["message"], "{case}");
    }
    // a binary frame is JSON all the same
    ws.send(0x82, br#"{"type":"req","id":"b","method":"health"}"#);
    assert_eq!(ws.answer("b")["ok"], true);
    // a second connect is a method that nobody may call
    ws.text(&connect(json!({})).to_string());
    assert_eq!(ws.answer("c")["ok"], false);
}

/// The recorded calls of a client with the scope `operator.read`, in their order on one socket: whole answers.
/// Covers: A2.
#[test]
fn calls_of_a_reader_are_answered_as_recorded() {
    let gw = plain();
    let mut ws = gw.ws();
    ws.json();
    let mut cases = 0;
    for case in lines(CALLS) {
        let name = case["case"].as_str().unwrap();
        if let Some(hello) = case.get("hello") {
            ws.text(&connect(case["connect"].clone()).to_string());
            let got = ws.json();
            assert_eq!(got["ok"], true, "{name}: {got}");
            assert!(fits(hello, &got["payload"]), "{name}: {}", got["payload"]);
        } else {
            ws.text(&case["send"].to_string());
            let got = ws.answer(case["send"]["id"].as_str().unwrap());
            assert!(fits(&case["want"], &got), "{name}: {got}");
        }
        cases += 1;
    }
    assert_eq!(cases, 7);
}

/// A frame beyond the limit after the handshake closes without a reason, as recorded (c16).
#[test]
fn a_frame_beyond_the_limit_is_too_big_after_the_handshake_too() {
    let gw = plain();
    let mut ws = gw.connected();
    // Only the head of the frame: its length alone decides.
    let length = (gateway_protocol::limits::MAX_FRAME_BYTES as u64 + 1).to_be_bytes();
    let head = [&[0x81, 0xff][..], &length, &[0; 4]].concat();
    std::io::Write::write_all(&mut ws.s, &head).unwrap();
    assert_eq!(ws.closed(), Some((1009, String::new())));
}

#[test]
fn a_password_field_may_hold_the_token_and_a_probe_may_be_older() {
    let gw = plain();
    let mut ws = gw.ws();
    ws.json();
    ws.text(&connect(json!({ "auth": { "password": TOKEN } })).to_string());
    assert_eq!(ws.json()["ok"], true);
    let mut probe = gw.ws();
    probe.json();
    let client =
        json!({ "id": "openclaw-probe", "version": "1", "platform": "linux", "mode": "probe" });
    probe.text(
        &connect(json!({ "minProtocol": 3, "maxProtocol": 3, "client": client })).to_string(),
    );
    let hello = probe.json();
    assert_eq!(
        (&hello["ok"], &hello["payload"]["auth"]["scopes"]),
        (&json!(true), &json!([])),
        "{hello}"
    );
    // So may a node (recorded as c4b).
    let old = json!({ "minProtocol": 3, "maxProtocol": 3 });
    let (_node, hello) = Device::new(41).let_in(&gw, as_node(old));
    assert_eq!(hello["payload"]["protocol"], 4);
    probe.call("h", "health", json!({}));
    assert_eq!(probe.answer("h")["ok"], true);
    probe.call("s", "sessions.list", json!({}));
    assert_eq!(
        probe.answer("s")["error"]["details"]["code"],
        "MISSING_SCOPE"
    );
}

/// Covers: A2.
#[test]
fn only_local_tools_keep_the_scopes_that_they_declare() {
    let gw = plain();
    let scopes = |client: &str, mode: &str, origin: Option<&str>| {
        let mut ws = match origin {
            Some(o) => gw.upgrade("/", &[("Origin", o)]).unwrap(),
            None => gw.ws(),
        };
        ws.json();
        let client = json!({ "id": client, "version": "1", "platform": "linux", "mode": mode });
        ws.text(
            &connect(
                json!({ "client": client, "scopes": ["operator.read", "operator.everything"] }),
            )
            .to_string(),
        );
        ws.json()["payload"]["auth"]["scopes"].clone()
    };
    let own = format!("http://{}", gw.addr);
    assert_eq!(
        scopes("gateway-client", "backend", None),
        json!(["operator.read"])
    );
    assert_eq!(scopes("cli", "cli", None), json!(["operator.read"]));
    for (client, mode) in [
        ("webchat-ui", "webchat"),
        ("cli", "backend"),
        ("gateway-client", "ui"),
        ("openclaw-tui", "ui"),
        ("test", "test"),
    ] {
        assert_eq!(scopes(client, mode, None), json!([]), "{client}/{mode}");
    }
    assert_eq!(
        scopes("gateway-client", "backend", Some(&own)),
        json!([]),
        "a page is no local tool"
    );
}

#[test]
fn a_silent_socket_is_closed_at_its_deadline() {
    let gw = gateway(|o| {
        o.limits = Some(gateway_server::ServerLimits {
            handshake_timeout_ms: 800,
            ..Default::default()
        })
    });
    let mut ws = gw.ws();
    let start = Instant::now();
    ws.json();
    assert_eq!(ws.closed(), Some((1000, String::new())));
    assert!(start.elapsed() >= Duration::from_millis(700));
}

/// Covers: B4, B5.
#[test]
fn guessing_from_a_page_is_slowed_down_even_on_this_machine() {
    let gw = plain();
    let own = format!("http://{}", gw.addr);
    let (mut refused, mut limited) = (0, 0);
    for n in 0..40 {
        let mut ws = gw.upgrade("/", &[("Origin", &own)]).unwrap();
        ws.json();
        let auth = if n % 2 == 0 {
            json!({ "token": "guess" })
        } else {
            json!({ "token": "guess", "deviceToken": "x", "password": "y" })
        };
        ws.text(&connect(json!({ "auth": auth })).to_string());
        let got = ws.json();
        match got["error"]["details"]["code"].as_str().unwrap() {
            "AUTH_TOKEN_MISMATCH" => refused += 1,
            "AUTH_RATE_LIMITED" => {
                limited += 1;
                assert!(
                    got["error"]["retryAfterMs"]
                        .as_u64()
                        .is_some_and(|ms| ms > 0)
                        && got["error"]["retryable"] == true
                );
            }
            other => panic!("{other}"),
        }
    }
    assert!(
        refused <= 10 && limited >= 30,
        "{refused} verified, {limited} limited"
    );
    // the right token does not help while the address is locked out, and a local tool is not locked out with the page
    let mut page = gw.upgrade("/", &[("Origin", &own)]).unwrap();
    page.json();
    page.text(&connect(json!({})).to_string());
    assert_eq!(page.json()["error"]["details"]["code"], "AUTH_RATE_LIMITED");
    gw.connected();
}

#[test]
fn wrong_roles_are_told_a_few_times() {
    let gw = plain();
    let (mut ws, hello) = Device::new(42).let_in(&gw, as_node(json!({})));
    assert_eq!(hello["payload"]["auth"]["role"], "node");
    for n in 0..11 {
        ws.call(&n.to_string(), "sessions.list", json!({}));
        let got = ws.answer(&n.to_string());
        assert_eq!(got["error"]["message"], "unauthorized role: node");
    }
    assert_eq!(
        ws.closed(),
        Some((1008, "repeated unauthorized calls".to_owned()))
    );
}

/// A new token of one tenant closes the sockets that the old one let in, at once and with the code that says so; nothing else is touched.
/// Covers: A11.
#[test]
fn a_rotated_token_closes_its_sockets_and_no_others() {
    const FRESH: &str = "mN4rT8vWqZ2yB6dF0hJ3kL7pS1uXcE5gA9iOoKtRfQw";
    let gw = plain();
    let bearer = |token: &str| format!("Bearer {token}");
    let rpc = |token: &str| gw.upgrade("/rpc", &[("Authorization", &bearer(token))]);
    let mut old = vec![gw.connected(), rpc(TOKEN).unwrap()];
    let mut kept_v4 = gw.ws();
    kept_v4.json();
    kept_v4.text(&connect(json!({ "auth": { "token": ACME } })).to_string());
    assert_eq!(kept_v4.json()["ok"], true);
    let mut kept_rpc = rpc(ACME).unwrap();
    // One that has not said who it is, and one in the middle of a call that waits.
    let mut undecided = gw.ws();
    undecided.json();
    let mut waiting = gw.connected();
    waiting.call(
        "w",
        "agent.wait",
        json!({ "runId": "nobody", "timeoutMs": 30_000 }),
    );

    // The same settings again end nothing.
    gw.rotate(TOKEN);
    old[0].call("h", "health", json!({}));
    assert_eq!(old[0].answer("h")["ok"], true);

    gw.rotate(FRESH);
    let closed = Some((4001, "gateway auth changed".to_owned()));
    for ws in &mut old {
        // What was under way when the credential ended is not begun any more.
        ws.text(r#"{"jsonrpc":"2.0","method":"health","id":1}"#);
        assert_eq!(ws.closed(), closed);
    }
    waiting.call("late", "sessions.create", json!({ "key": "late" }));
    assert_eq!(waiting.closed(), closed);
    kept_v4.call("h", "health", json!({}));
    assert_eq!(kept_v4.answer("h")["ok"], true);
    kept_rpc.text(r#"{"jsonrpc":"2.0","method":"health","id":1}"#);
    assert!(kept_rpc.json()["result"].is_object());

    // The old token is as wrong as any other, on every way in.
    undecided.text(&connect(json!({})).to_string());
    let refused = undecided.json();
    assert_eq!(refused["error"]["details"]["code"], "AUTH_TOKEN_MISMATCH");
    assert_eq!(rpc(TOKEN).err(), Some(401));
    let call = r#"{"jsonrpc":"2.0","method":"sessions.list","id":1}"#;
    assert_eq!(gw.rpc(TOKEN, call).status, 401);
    let fresh = gw.rpc(FRESH, call);
    assert_eq!(fresh.status, 200);
    assert!(!fresh.body.contains("late"), "{}", fresh.body);
    assert!(rpc(FRESH).is_ok());
}
