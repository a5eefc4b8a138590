//! Devices at the door: proofs, approval, tokens, and how they end.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gateway_protocol::device::{ProofFields, ProofVersion};
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::*;

/// A device of the tests: its key follows from one number.
pub struct Device {
    pair: Ed25519KeyPair,
    pub id: String,
}

/// A connect of a node, with more changes.
pub fn as_node(more: Value) -> Value {
    let mut change = json!({
        "role": "node", "scopes": [],
        "client": { "id": "node-host", "version": "1", "platform": "linux", "mode": "node" },
    });
    for (key, value) in more.as_object().unwrap() {
        change[key] = value.clone();
    }
    change
}

/// A connect of the terminal page, with these scopes.
pub fn as_tui(scopes: &[&str]) -> Value {
    json!({
        "scopes": scopes,
        "client": { "id": "openclaw-tui", "version": "1", "platform": "linux", "mode": "ui" },
    })
}

fn with_device_token(mut change: Value, token: &str) -> Value {
    change["auth"] = json!({ "token": token, "deviceToken": token });
    change
}

impl Device {
    pub fn new(n: u8) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[n; 32]).unwrap();
        let id = Sha256::digest(pair.public_key().as_ref())
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        Self { pair, id }
    }

    /// The `connect` frame that answers a challenge.
    pub fn connect(&self, challenge: &Value, change: Value) -> Value {
        let mut frame = connect(change);
        let p = &frame["params"];
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let scopes: Vec<String> = p["scopes"]
            .as_array()
            .into_iter()
            .flatten()
            .map(text)
            .collect();
        let scopes: Vec<&str> = scopes.iter().map(String::as_str).collect();
        let nonce = text(&challenge["payload"]["nonce"]);
        let (client_id, mode, role) = (
            text(&p["client"]["id"]),
            text(&p["client"]["mode"]),
            text(&p["role"]),
        );
        let token = ["token", "deviceToken", "bootstrapToken"]
            .iter()
            .find_map(|name| p["auth"][*name].as_str())
            .unwrap_or_default()
            .to_owned();
        let (platform, family) = (
            text(&p["client"]["platform"]),
            text(&p["client"]["deviceFamily"]),
        );
        let fields = ProofFields {
            device_id: &self.id,
            client_id: &client_id,
            client_mode: &mode,
            role: &role,
            scopes: &scopes,
            signed_at: challenge["payload"]["ts"].as_u64().unwrap(),
            token: &token,
            nonce: &nonce,
            platform: &platform,
            device_family: &family,
        };
        let signature = self.pair.sign(fields.text(ProofVersion::V3).as_bytes());
        frame["params"]["device"] = json!({
            "id": self.id,
            "publicKey": URL_SAFE_NO_PAD.encode(self.pair.public_key().as_ref()),
            "signature": URL_SAFE_NO_PAD.encode(signature.as_ref()),
            "signedAt": fields.signed_at,
            "nonce": nonce,
        });
        frame
    }

    /// One attempt on a socket of its own, and its answer.
    pub fn attempt_on(&self, mut ws: Ws, change: Value) -> (Ws, Value) {
        let challenge = ws.json();
        ws.text(&self.connect(&challenge, change).to_string());
        let answer = ws.json();
        (ws, answer)
    }

    pub fn attempt(&self, gw: &Gateway, change: Value) -> (Ws, Value) {
        self.attempt_on(gw.ws(), change)
    }

    /// Refused, approved by an operator, let in.
    pub fn let_in(&self, gw: &Gateway, change: Value) -> (Ws, Value) {
        let (_, refused) = self.attempt(gw, change.clone());
        let request = &refused["error"]["details"]["requestId"];
        assert!(request.is_string(), "{refused}");
        let approved = gw.decide("device.pair.approve", json!({ "requestId": request }));
        assert_eq!(approved["ok"], true, "{approved}");
        let (ws, hello) = self.attempt(gw, change);
        assert_eq!(hello["ok"], true, "{hello}");
        (ws, hello)
    }
}

impl Gateway {
    /// One call of an operator with all scopes.
    pub fn decide(&self, method: &str, params: Value) -> Value {
        let mut ws = self.connected();
        ws.call("d", method, params);
        ws.answer("d")
    }
}

fn code(answer: &Value) -> &str {
    answer["error"]["details"]["code"]
        .as_str()
        .unwrap_or_default()
}

fn token_of(hello: &Value) -> String {
    let token = hello["payload"]["auth"]["deviceToken"].as_str();
    token.unwrap_or_else(|| panic!("{hello}")).to_owned()
}

/// The event of this name, before anything else takes longer than the socket's patience.
fn event(ws: &mut Ws, name: &str) -> Value {
    loop {
        let got = ws.json();
        if got["event"] == name {
            return got["payload"].clone();
        }
    }
}

/// A signed device with the tenant's own token gets nothing, not one call, until an operator approved it; then it gets what it
/// asked for, and a token that is as good.
/// Covers: A3.
#[test]
fn a_device_waits_for_an_operator() {
    let gw = plain();
    let device = Device::new(1);
    let scopes = ["operator.read", "operator.write"];
    let mut operator = gw.connected();
    let mut reader = gw.ws();
    reader.json();
    reader.text(&connect(json!({ "scopes": ["operator.read"] })).to_string());
    assert_eq!(reader.json()["ok"], true);

    let mut ws = gw.ws();
    let challenge = ws.json();
    let frame = device.connect(&challenge, as_tui(&scopes)).to_string();
    ws.text(&frame);
    ws.call(
        "x",
        "chat.send",
        json!({ "sessionKey": "main", "message": "m", "idempotencyKey": "i" }),
    );
    let refused = ws.json();
    let request = refused["error"]["details"]["requestId"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(
        refused["error"],
        json!({
            "code": "NOT_PAIRED",
            "message": "pairing required: device is not approved yet",
            "details": {
                "code": "PAIRING_REQUIRED", "reason": "not-paired", "requestId": request,
                "remediationHint": "Approve this device from the pending pairing requests.",
                "deviceId": device.id, "requestedRole": "operator", "requestedScopes": scopes,
            },
        })
    );
    let (close, reason) = ws.closed().unwrap();
    assert_eq!(close, 1008);
    assert!(
        reason.contains(&format!("(requestId: {request})")),
        "{reason}"
    );

    let asked = event(&mut operator, "device.pair.requested");
    assert_eq!(
        (
            &asked["requestId"],
            &asked["deviceId"],
            &asked["isRepair"],
            &asked["scopes"]
        ),
        (
            &json!(request),
            &json!(device.id),
            &json!(false),
            &json!(scopes)
        )
    );
    // The same question again is the same request; another one takes its place.
    let (_, again) = device.attempt(&gw, as_tui(&scopes));
    assert_eq!(again["error"]["details"]["requestId"], json!(request));
    let (_, other) = device.attempt(&gw, as_tui(&["operator.read"]));
    let newer = other["error"]["details"]["requestId"].clone();
    assert_ne!(newer, json!(request));
    operator.call(
        "old",
        "device.pair.approve",
        json!({ "requestId": request }),
    );
    assert_eq!(code(&operator.answer("old")), "NOT_FOUND", "superseded");
    operator.call("ok", "device.pair.approve", json!({ "requestId": newer }));
    let approved = operator.answer("ok");
    assert_eq!(
        approved["payload"]["device"]["scopes"],
        json!(["operator.read"])
    );
    operator.call(
        "twice",
        "device.pair.approve",
        json!({ "requestId": newer }),
    );
    assert_eq!(code(&operator.answer("twice")), "NOT_FOUND", "decided once");

    let (_ws, hello) = device.attempt(&gw, as_tui(&["operator.read"]));
    let auth = &hello["payload"]["auth"];
    assert_eq!(
        (&auth["method"], &auth["role"], &auth["scopes"]),
        (
            &json!("token"),
            &json!("operator"),
            &json!(["operator.read"])
        )
    );
    assert!(auth["issuedAtMs"].is_u64());
    let token = token_of(&hello);
    assert_eq!(token.len(), 43);
    // The token is as good as the secret, for this device and role only.
    let by_token = with_device_token(as_tui(&["operator.read"]), &token);
    let (_alive, hello) = device.attempt(&gw, by_token.clone());
    assert_eq!(hello["payload"]["auth"]["method"], "device-token");
    assert_eq!(token_of(&hello), token, "the same until it is replaced");
    let (_, stolen) = Device::new(2).attempt(&gw, by_token);
    assert_eq!(code(&stolen), "AUTH_DEVICE_TOKEN_MISMATCH");
    let (_, bare) = {
        let mut ws = gw.ws();
        ws.json();
        ws.text(&connect(json!({ "auth": { "token": token } })).to_string());
        let answer = ws.json();
        (ws, answer)
    };
    assert_eq!(
        code(&bare),
        "AUTH_TOKEN_MISMATCH",
        "without the key it is nothing"
    );
    let (_, wider) = device.attempt(&gw, with_device_token(as_tui(&["operator.write"]), &token));
    assert_eq!(code(&wider), "AUTH_SCOPE_MISMATCH");
    let (_, role) = device.attempt(&gw, with_device_token(as_node(json!({})), &token));
    assert_eq!(code(&role), "AUTH_DEVICE_TOKEN_MISMATCH");

    // More scopes, another role and another machine are new questions.
    let (_, more) = device.attempt(&gw, as_tui(&["operator.admin"]));
    let details = &more["error"]["details"];
    assert_eq!(details["reason"], "scope-upgrade");
    assert_eq!(details["approvedScopes"], json!(["operator.read"]));
    let (_, node) = device.attempt(&gw, as_node(json!({})));
    assert_eq!(node["error"]["details"]["reason"], "role-upgrade");
    let mut moved = as_tui(&["operator.read"]);
    moved["client"]["platform"] = json!("ios");
    let (_, moved) = device.attempt(&gw, moved);
    assert_eq!(moved["error"]["details"]["reason"], "metadata-upgrade");

    // Only who may pair devices heard of it.
    reader.call("h", "health", json!({}));
    loop {
        let got = reader.json();
        if got["id"] == "h" {
            break;
        }
        let name = got["event"].as_str().unwrap_or_default();
        assert!(!name.starts_with("device."), "{got}");
    }
}

/// Proofs that do not hold are refused with the recorded errors, also for the helper of a local program; a proof is good for
/// the socket that it was made for, once.
#[test]
fn proofs_that_do_not_hold_are_refused() {
    let gw = plain();
    let device = Device::new(3);
    let cases: [(&str, &str, &str, Value); 5] = [
        (
            "device identity mismatch",
            "DEVICE_AUTH_DEVICE_ID_MISMATCH",
            "device-id-mismatch",
            json!({ "id": "f".repeat(64) }),
        ),
        (
            "device identity mismatch",
            "DEVICE_AUTH_DEVICE_ID_MISMATCH",
            "device-id-mismatch",
            json!({ "publicKey": "AAAA" }),
        ),
        (
            "device signature expired",
            "DEVICE_AUTH_SIGNATURE_EXPIRED",
            "device-signature-stale",
            json!({ "signedAt": 1 }),
        ),
        (
            "device nonce mismatch",
            "DEVICE_AUTH_NONCE_MISMATCH",
            "device-nonce-mismatch",
            json!({ "nonce": "deadbeef" }),
        ),
        (
            "device nonce required",
            "DEVICE_AUTH_NONCE_REQUIRED",
            "device-nonce-missing",
            json!({ "nonce": " " }),
        ),
    ];
    for (message, code, reason, change) in cases {
        let mut ws = gw.ws();
        let mut frame = device.connect(&ws.json(), json!({}));
        for (key, value) in change.as_object().unwrap() {
            frame["params"]["device"][key] = value.clone();
        }
        ws.text(&frame.to_string());
        let want = json!({ "code": "INVALID_REQUEST", "message": message, "details": { "code": code, "reason": reason } });
        assert_eq!(ws.json()["error"], want);
        assert_eq!(ws.closed(), Some((1008, message.to_owned())));
    }
    // Signed for read, sent with admin.
    let mut ws = gw.ws();
    let mut frame = device.connect(&ws.json(), as_tui(&["operator.read"]));
    frame["params"]["scopes"] = json!(["operator.admin"]);
    ws.text(&frame.to_string());
    assert_eq!(code(&ws.json()), "DEVICE_AUTH_SIGNATURE_INVALID");
    // A replay: the whole good frame of one socket on another.
    let (mut first, mut second) = (gw.ws(), gw.ws());
    let frame = device.connect(&first.json(), json!({})).to_string();
    second.json();
    second.text(&frame);
    assert_eq!(code(&second.json()), "DEVICE_AUTH_NONCE_MISMATCH");
    first.text(&frame);
    let hello = first.json();
    assert_eq!(hello["ok"], true);
    assert!(
        hello["payload"]["auth"].get("deviceToken").is_none(),
        "a local helper is no device"
    );
    // A device without a credential, a node and the Control UI without a device.
    let (_, nothing) = device.attempt(&gw, json!({ "auth": null }));
    assert_eq!(code(&nothing), "AUTH_TOKEN_MISSING");
    for (change, want) in [
        (as_node(json!({})), "DEVICE_IDENTITY_REQUIRED"),
        (
            json!({ "client": { "id": "openclaw-control-ui", "version": "1", "platform": "web", "mode": "webchat" } }),
            "CONTROL_UI_DEVICE_IDENTITY_REQUIRED",
        ),
    ] {
        let mut ws = gw.ws();
        ws.json();
        ws.text(&connect(change).to_string());
        assert_eq!(code(&ws.json()), want);
    }
}

/// Without a person a device is paired only on this machine, as the only tenant's, with no page and no proxy in between; and
/// even there not for another machine's name, not as a node, and not again after an operator ended it.
/// Covers: A7.
#[test]
fn only_a_local_program_is_paired_silently() {
    let read = || as_tui(&["operator.read"]);
    let required = |answer: &Value| assert_eq!(code(answer), "PAIRING_REQUIRED", "{answer}");
    // Two tenants.
    required(&Device::new(1).attempt(&plain(), read()).1);
    // Switched off.
    let off = alone("nodes: { pairing: { autoApproveLocal: false } }");
    required(&Device::new(1).attempt(&off, read()).1);

    let gw = alone("");
    let device = Device::new(1);
    let (_ws, hello) = device.attempt(&gw, read());
    assert_eq!(hello["ok"], true, "{hello}");
    let token = token_of(&hello);
    // More scopes by the secret: quietly, with another token. By the device's token: never.
    let by_token = |scopes: &[&str], token: &str| with_device_token(as_tui(scopes), token);
    let (_, narrow) = device.attempt(&gw, by_token(&["operator.write"], &token));
    assert_eq!(code(&narrow), "AUTH_SCOPE_MISMATCH");
    let (_ws, wider) = device.attempt(&gw, as_tui(&["operator.write"]));
    assert_eq!(wider["payload"]["auth"]["scopes"][1], "operator.write");
    assert_ne!(token_of(&wider), token);
    let (_, old) = device.attempt(&gw, by_token(&["operator.read"], &token));
    assert_eq!(code(&old), "AUTH_DEVICE_TOKEN_MISMATCH");
    // A page, even an allowed one.
    let page = gw
        .upgrade("/", &[("Origin", "https://page.example")])
        .unwrap();
    required(&Device::new(2).attempt_on(page, read()).1);
    // Another machine's name, and a node.
    let mut moved = read();
    moved["client"]["platform"] = json!("ios");
    required(&device.attempt(&gw, moved).1);
    required(&device.attempt(&gw, as_node(json!({}))).1);
    let (_node, hello) = Device::new(4).attempt(&gw, as_node(json!({})));
    assert_eq!(hello["ok"], true, "a new device may be a node: {hello}");
    // Ended by an operator.
    let ended = gw.decide(
        "device.token.revoke",
        json!({ "deviceId": device.id, "role": "operator" }),
    );
    assert_eq!(ended["ok"], true, "{ended}");
    required(&device.attempt(&gw, read()).1);
}

/// Replacing, ending and removing closes the sockets of that device in that role within a second, whatever let them in, and no
/// others; the old token is refused from then on.
/// Covers: A5, Z8.
#[test]
fn an_ended_token_closes_its_sockets() {
    let gw = plain();
    let read = || as_tui(&["operator.read"]);
    for (n, method, params) in [
        (
            11,
            "device.token.rotate",
            json!({ "role": "operator", "scopes": ["operator.read"] }),
        ),
        (12, "device.token.revoke", json!({ "role": "operator" })),
        (13, "device.pair.remove", json!({})),
    ] {
        let device = Device::new(n);
        let (mut by_secret, hello) = device.let_in(&gw, read());
        let token = token_of(&hello);
        let (mut by_token, hello) = device.attempt(&gw, with_device_token(read(), &token));
        assert_eq!(hello["ok"], true);
        let (mut other, _) = Device::new(n + 50).let_in(&gw, read());
        let mut params = params.clone();
        params["deviceId"] = json!(device.id);
        let began = Instant::now();
        let done = gw.decide(method, params);
        assert_eq!(done["ok"], true, "{done}");
        assert!(
            done["payload"].get("token").is_none(),
            "told to nobody else"
        );
        for ws in [&mut by_secret, &mut by_token] {
            assert_eq!(
                ws.closed(),
                Some((4001, "device removed".to_owned())),
                "{method}"
            );
        }
        assert!(
            began.elapsed() < Duration::from_secs(1),
            "{method}: {:?}",
            began.elapsed()
        );
        let (_, refused) = device.attempt(&gw, with_device_token(read(), &token));
        assert_eq!(code(&refused), "AUTH_DEVICE_TOKEN_MISMATCH", "{method}");
        // With the secret: a replaced token is told; who was ended or removed asks again.
        let (_, again) = device.attempt(&gw, read());
        if method == "device.token.rotate" {
            assert_ne!(token_of(&again), token);
        } else {
            assert_eq!(code(&again), "PAIRING_REQUIRED", "{method}");
        }
        other.call("h", "health", json!({}));
        assert_eq!(other.answer("h")["ok"], true, "{method}");
    }
}

/// A device replaces its own token and is told the new one; its connection ends after the answer. Without admin it looks after
/// nobody else's.
/// Covers: A4.
#[test]
fn a_device_looks_after_its_own_token() {
    let gw = plain();
    let device = Device::new(21);
    let (mut ws, hello) = device.let_in(&gw, as_tui(&["operator.pairing"]));
    let old = token_of(&hello);
    let (_other, _) = Device::new(22).let_in(&gw, as_tui(&["operator.read"]));
    let other = Device::new(22).id;
    for (method, params) in [
        (
            "device.token.rotate",
            json!({ "deviceId": other, "role": "operator" }),
        ),
        (
            "device.token.revoke",
            json!({ "deviceId": other, "role": "operator" }),
        ),
        ("device.pair.remove", json!({ "deviceId": other })),
        (
            "device.pair.rename",
            json!({ "deviceId": other, "label": "mine" }),
        ),
        (
            "device.token.rotate",
            json!({ "deviceId": device.id, "role": "node" }),
        ),
        // Nobody gives what they do not have.
        (
            "device.token.rotate",
            json!({ "deviceId": device.id, "role": "operator", "scopes": ["operator.pairing", "operator.admin"] }),
        ),
    ] {
        ws.call("no", method, params);
        let got = ws.answer("no");
        assert_eq!(got["ok"], false, "{method}: {got}");
    }
    ws.call(
        "r",
        "device.token.rotate",
        json!({ "deviceId": device.id, "role": "operator" }),
    );
    let got = ws.answer("r");
    assert_eq!(got["payload"]["tokenDelivery"], "in-band", "{got}");
    let new = got["payload"]["token"].as_str().unwrap().to_owned();
    assert_eq!(ws.closed(), Some((4001, "device removed".to_owned())));
    let by = |token: &str| with_device_token(as_tui(&["operator.pairing"]), token);
    assert_eq!(
        code(&device.attempt(&gw, by(&old)).1),
        "AUTH_DEVICE_TOKEN_MISMATCH"
    );
    let (mut ws, hello) = device.attempt(&gw, by(&new));
    assert_eq!(hello["ok"], true);
    // It may approve what it has, and no more.
    for (n, scope, ok) in [
        (23, "operator.pairing", true),
        (24, "operator.admin", false),
    ] {
        let (_, refused) = Device::new(n).attempt(&gw, as_tui(&[scope]));
        let request = &refused["error"]["details"]["requestId"];
        ws.call("a", "device.pair.approve", json!({ "requestId": request }));
        let got = ws.answer("a");
        assert_eq!(got["ok"], ok, "{got}");
        if !ok {
            assert_eq!(got["error"]["details"]["missingScope"], scope);
        }
    }
}

/// A device is one tenant's: approved in `main` it is a stranger in `acme`, and its token there is as wrong as any text.
/// Covers: MT5, A19.
#[test]
fn a_device_belongs_to_one_tenant() {
    let gw = plain();
    let device = Device::new(31);
    let read = as_tui(&["operator.read"]);
    let (_ws, hello) = device.let_in(&gw, read.clone());
    let token = token_of(&hello);
    let acme = || gw.upgrade("/", &[("Host", "acme.example")]).unwrap();
    let (_, foreign) = device.attempt_on(acme(), with_device_token(read.clone(), &token));
    let (_, random) = device.attempt_on(acme(), with_device_token(read.clone(), &"x".repeat(43)));
    assert_eq!(foreign["error"], random["error"]);
    assert_eq!(code(&foreign), "AUTH_DEVICE_TOKEN_MISMATCH");
    let mut in_acme = read;
    in_acme["auth"] = json!({ "token": ACME });
    let (_, stranger) = device.attempt_on(acme(), in_acme);
    assert_eq!(stranger["error"]["details"]["reason"], "not-paired");
    // Operators of `main` do not see, approve or remove what is acme's.
    let listed = gw.decide("device.pair.list", json!({}));
    assert_eq!(listed["payload"]["pending"], json!([]));
    assert_eq!(listed["payload"]["paired"][0]["deviceId"], json!(device.id));
    let request = &stranger["error"]["details"]["requestId"];
    for method in ["device.pair.approve", "device.pair.reject"] {
        let foreign = gw.decide(method, json!({ "requestId": request }));
        let random = gw.decide(
            method,
            json!({ "requestId": "01990000-0000-7000-8000-000000000000" }),
        );
        assert_eq!(foreign["error"], random["error"]);
        assert_eq!(code(&foreign), "NOT_FOUND");
    }
}

/// Frames behind a `connect` that is being decided wait for it, fifteen of them.
#[test]
fn frames_behind_a_connect_wait() {
    let gw = alone("");
    for (n, behind, fits) in [(1_u8, 15, true), (2, 16, false)] {
        let mut ws = gw.ws();
        let challenge = ws.json();
        let connect = Device::new(n).connect(&challenge, as_tui(&["operator.read"]));
        let mut bytes = frame(0x81, connect.to_string().as_bytes());
        for call in 0..behind {
            let call = json!({ "type": "req", "id": call.to_string(), "method": "health" });
            bytes.extend(frame(0x81, call.to_string().as_bytes()));
        }
        std::io::Write::write_all(&mut ws.s, &bytes).unwrap();
        if fits {
            assert_eq!(ws.json()["payload"]["type"], "hello-ok");
            for call in 0..behind {
                assert_eq!(ws.answer(&call.to_string())["ok"], true);
            }
        } else {
            let reason = "too many pending handshake frames".to_owned();
            assert_eq!(ws.closed(), Some((1008, reason)));
        }
    }
}

/// A stranger that makes up devices fills neither the list nor the store: there are ten requests from one address, and the
/// eleventh is told to come back.
/// Covers: A10.
#[test]
fn requests_from_one_address_are_bounded() {
    let gw = plain();
    let answers: Vec<Value> = (100..112)
        .map(|n| Device::new(n).attempt(&gw, as_tui(&["operator.read"])).1)
        .collect();
    for (n, answer) in answers.iter().enumerate() {
        if n < 10 {
            assert_eq!(code(answer), "PAIRING_REQUIRED", "{n}");
        } else {
            assert_eq!(code(answer), "RATE_LIMITED", "{n}: {answer}");
            assert_eq!(answer["error"]["retryAfterMs"], 60_000);
        }
    }
    let listed = gw.decide("device.pair.list", json!({}));
    let pending = listed["payload"]["pending"].as_array().unwrap();
    assert_eq!(pending.len(), 10);
    assert_eq!(
        pending[0]["deviceId"],
        json!(Device::new(100).id),
        "the oldest stays"
    );
}

/// What a setup code says.
fn payload_of(made: &Value) -> Value {
    let code = made["payload"]["setupCode"]
        .as_str()
        .unwrap_or_else(|| panic!("{made}"));
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(code).unwrap()).unwrap()
}

fn by_code(mut change: Value, payload: &Value) -> Value {
    change["auth"] = json!({ "bootstrapToken": payload["bootstrapToken"] });
    change
}

/// A setup code pairs one device, once, with rights that were fixed when it was made, in the tenant that it was made in.
/// Covers: A6.
#[test]
fn a_setup_code_is_good_once() {
    let gw = plain();
    let make = |params: Value| {
        let mut params = params;
        params["publicUrl"] = json!("wss://gw.example:18789");
        gw.decide("device.pair.setupCode", params)
    };
    let made = make(json!({ "bootstrapProfile": "limited" }));
    let payload = payload_of(&made);
    assert_eq!(payload["url"], "wss://gw.example:18789");
    assert!(made["payload"].get("qrDataUrl").is_none());
    let drawn = make(json!({ "includeQr": true }))["payload"]["qrDataUrl"].clone();
    let drawn = drawn.as_str().unwrap();
    assert!(drawn.starts_with("data:image/png;base64,") && drawn.len() <= 16_384);
    assert_eq!(payload["expiresAtMs"], made["payload"]["expiresAtMs"]);
    let device = Device::new(71);
    // Wider than the code: refused, and the code is not used up.
    for scope in ["operator.admin", "operator.pairing"] {
        let (_, wide) = device.attempt(&gw, by_code(as_tui(&[scope]), &payload));
        assert_eq!(code(&wide), "AUTH_BOOTSTRAP_TOKEN_INVALID", "{wide}");
    }
    // In another tenant it is as wrong as any text.
    let acme = || gw.upgrade("/", &[("Host", "acme.example")]).unwrap();
    let (_, foreign) = device.attempt_on(acme(), by_code(as_tui(&[]), &payload));
    let (_, random) = device.attempt_on(
        acme(),
        by_code(as_tui(&[]), &json!({ "bootstrapToken": "x".repeat(43) })),
    );
    assert_eq!(foreign["error"], random["error"]);
    assert_eq!(code(&foreign), "AUTH_BOOTSTRAP_TOKEN_INVALID");
    // Without a device it opens nothing.
    let mut ws = gw.ws();
    ws.json();
    ws.text(&connect(by_code(as_tui(&[]), &payload)).to_string());
    assert_eq!(code(&ws.json()), "DEVICE_IDENTITY_REQUIRED");

    let (_ws, hello) = device.attempt(&gw, by_code(as_tui(&["operator.write"]), &payload));
    let auth = &hello["payload"]["auth"];
    assert_eq!(auth["method"], "bootstrap-token", "{hello}");
    assert_eq!(auth["deviceTokens"][0]["role"], "node");
    assert_eq!(auth["deviceTokens"][0]["scopes"], json!([]));
    let status = gw.decide(
        "device.pair.setupStatus",
        json!({ "setupId": made["payload"]["setupId"] }),
    );
    assert_eq!(
        status["payload"]["completion"]["deviceId"],
        json!(device.id)
    );
    // Used up, for it and for everybody.
    for n in [71, 72] {
        let (_, again) = Device::new(n).attempt(&gw, by_code(as_tui(&[]), &payload));
        assert_eq!(code(&again), "AUTH_BOOTSTRAP_TOKEN_INVALID", "{n}");
    }
    // The tokens that came of it are tokens like others.
    let token = token_of(&hello);
    let (_alive, hello) = device.attempt(
        &gw,
        with_device_token(as_tui(&["operator.approvals"]), &token),
    );
    assert_eq!(hello["payload"]["auth"]["method"], "device-token");
    let (_, wider) = device.attempt(
        &gw,
        with_device_token(as_tui(&["operator.pairing"]), &token),
    );
    assert_eq!(code(&wider), "AUTH_SCOPE_MISMATCH");
    let node_token = auth["deviceTokens"][0]["deviceToken"].as_str().unwrap();
    let (_node, hello) = device.attempt(&gw, with_device_token(as_node(json!({})), node_token));
    assert_eq!(hello["payload"]["auth"]["role"], "node", "{hello}");

    // A node's code makes no operator.
    let payload = payload_of(&make(json!({ "bootstrapProfile": "node" })));
    let (_, operator) = Device::new(73).attempt(&gw, by_code(as_tui(&[]), &payload));
    assert_eq!(code(&operator), "AUTH_BOOTSTRAP_TOKEN_INVALID");
    let (_node, hello) = Device::new(73).attempt(&gw, by_code(as_node(json!({})), &payload));
    assert_eq!(hello["ok"], true, "{hello}");

    // Of many who come at once with one code, one is let in.
    let payload = payload_of(&make(json!({})));
    let let_in = std::thread::scope(|scope| {
        let tries: Vec<_> = (80..90)
            .map(|n| {
                let (gw, payload) = (&gw, &payload);
                scope.spawn(move || {
                    let (_, answer) = Device::new(n).attempt(gw, by_code(as_tui(&[]), payload));
                    answer["ok"] == true
                })
            })
            .collect();
        let let_in = tries.into_iter().map(|t| usize::from(t.join().unwrap()));
        let_in.sum::<usize>()
    });
    assert_eq!(let_in, 1);
    // An address that would send the code in clear, or that is none, is refused, and so is a link that nobody serves.
    for params in [
        json!({ "publicUrl": "ws://gw.example:1" }),
        json!({ "publicUrl": "https://gw.example" }),
        json!({ "publicUrl": "wss://user@gw.example" }),
        json!({ "publicUrl": "wss://gw.example/?token=x" }),
        json!({ "publicUrl": "wss://gw.example:0" }),
        json!({ "publicUrl": "wss://[::1" }),
        // This one listens for this machine only.
        json!({}),
        json!({ "publicUrl": "wss://gw.example", "joinUrl": true }),
    ] {
        let got = gw.decide("device.pair.setupCode", params);
        assert_eq!(got["ok"], false, "{got}");
    }
}

/// A paired device asks for more on the connection that it has; an operator decides, the token changes, and nobody learns of it
/// but the device itself.
/// Covers: A4, A20, Z8.
#[test]
fn a_device_asks_for_more_scopes() {
    let gw = plain();
    let device = Device::new(91);
    let (mut ws, hello) = device.let_in(&gw, as_tui(&["operator.read"]));
    let old = token_of(&hello);
    let asks = |ws: &mut Ws, id: &str, scopes: &[&str]| {
        ws.call(
            id,
            "device.scopes.requestUpgrade",
            json!({ "scopes": scopes }),
        );
        ws.answer(id)
    };
    let more = ["operator.read", "operator.write"];
    let asked = asks(&mut ws, "1", &more);
    let request = asked["payload"]["requestId"]
        .as_str()
        .unwrap_or_else(|| panic!("{asked}"));
    let again = asks(&mut ws, "2", &more);
    assert_eq!(again["payload"]["requestId"], *request, "one question");
    for (scopes, words) in [
        (vec!["operator.approvals"], "current scopes"),
        (vec!["operator.read", "operator.root"], "no scope"),
        (vec!["operator.read"], "already"),
    ] {
        let refused = asks(&mut ws, "3", &scopes);
        let message = refused["error"]["message"].as_str().unwrap_or_default();
        assert!(message.contains(words), "{refused}");
    }
    // Another device's question is nobody's.
    let (mut other, _) = Device::new(92).let_in(&gw, as_tui(&["operator.read"]));
    other.call(
        "w",
        "device.scopes.waitUpgrade",
        json!({ "requestId": request }),
    );
    assert_eq!(code(&other.answer("w")), "NOT_FOUND");
    // Without a device there is nobody to ask for, and a node never is an operator.
    let mut tool = gw.connected();
    assert_eq!(
        code(&asks(&mut tool, "1", &more)),
        "DEVICE_IDENTITY_REQUIRED"
    );
    let (mut node, _) = Device::new(93).let_in(&gw, as_node(json!({})));
    assert_eq!(
        asks(&mut node, "1", &more)["error"]["message"],
        "unauthorized role: node"
    );

    // Turned down, it stays as it is. A decision that came first is told to who asks later.
    assert_eq!(
        gw.decide("device.pair.reject", json!({ "requestId": request }))["ok"],
        true
    );
    ws.call(
        "w1",
        "device.scopes.waitUpgrade",
        json!({ "requestId": request }),
    );
    assert_eq!(ws.answer("w1")["payload"]["status"], "rejected");
    let asked = asks(&mut ws, "4", &more);
    let request = asked["payload"]["requestId"].clone();
    ws.call(
        "w2",
        "device.scopes.waitUpgrade",
        json!({ "requestId": request }),
    );
    let listed = gw.decide("device.pair.list", json!({}));
    assert_eq!(listed["payload"]["pending"][0]["scopes"], json!(more));
    let approved = gw.decide("device.pair.approve", json!({ "requestId": request }));
    assert_eq!(approved["ok"], true, "{approved}");
    let told = ws.answer("w2");
    assert_eq!(told["payload"]["status"], "approved", "{told}");
    let new = told["payload"]["deviceToken"].as_str().unwrap().to_owned();
    assert_ne!(new, old);
    // The connection was let in with less, and ends.
    assert_eq!(ws.closed().map(|(code, _)| code), Some(4001));
    let (_, refused) = device.attempt(&gw, with_device_token(as_tui(&["operator.read"]), &old));
    assert_eq!(code(&refused), "AUTH_DEVICE_TOKEN_MISMATCH");
    let (_ws, hello) = device.attempt(&gw, with_device_token(as_tui(&["operator.write"]), &new));
    assert_eq!(hello["ok"], true, "{hello}");
}
