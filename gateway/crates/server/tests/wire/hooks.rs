//! Hooks from outside: who may post, what comes back, and what a repeat does.

use serde_json::{Value, json};

use crate::support::*;

const HOOKS: &str = "hooks-Qm3Vt8Zr1Nc7LyWpE0aBsK5Jd92mX";

fn hooked(more: &str) -> Gateway {
    configured(
        &format!(r#"hooks: {{ enabled: true, token: "{HOOKS}", {more} }},"#),
        |_| {},
    )
}

fn post(gw: &Gateway, path: &str, more: &[(&str, &str)], body: &Value) -> Answer {
    let bearer = format!("Bearer {HOOKS}");
    let mut headers = vec![
        ("Authorization", bearer.as_str()),
        ("Content-Type", "application/json"),
    ];
    headers.extend_from_slice(more);
    gw.ask("POST", path, &headers, body.to_string().as_bytes())
}

fn rpc(gw: &Gateway, method: &str, params: Value) -> Value {
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
    gw.rpc(TOKEN, &call.to_string()).json()["result"].clone()
}

/// Only the hooks' own token opens hooks, only in a header, only with JSON; and it opens nothing else.
/// Covers: B7, N4.
#[test]
fn hooks_have_a_token_of_their_own() {
    let gw = hooked("");
    let body = json!({"text": "hello"}).to_string();
    let json_type = ("Content-Type", "application/json");
    for token in [None, Some("wrong"), Some(TOKEN), Some(ACME)] {
        let bearer = token.map(|token| format!("Bearer {token}"));
        let mut headers = vec![json_type];
        headers.extend(bearer.as_deref().map(|b| ("Authorization", b)));
        let got = gw.ask("POST", "/hooks/wake", &headers, body.as_bytes());
        assert_eq!(
            (got.status, got.body.as_str()),
            (401, "Unauthorized"),
            "{token:?}"
        );
    }
    let query = gw.ask(
        "POST",
        &format!("/hooks/wake?token={HOOKS}"),
        &[json_type],
        body.as_bytes(),
    );
    assert_eq!(query.status, 400);
    let bearer = format!("Bearer {HOOKS}");
    let form = gw.ask(
        "POST",
        "/hooks/wake",
        &[("Authorization", &bearer), ("Content-Type", "text/plain")],
        body.as_bytes(),
    );
    assert_eq!(form.status, 415);
    assert_eq!(
        gw.ask("GET", "/hooks/wake", &[("Authorization", &bearer)], b"")
            .status,
        405
    );
    // Another tenant has none, and the token operates nothing.
    assert_eq!(
        gw.ask(
            "POST",
            "/t/acme/hooks/wake",
            &[("Authorization", &bearer), json_type],
            body.as_bytes()
        )
        .status,
        404
    );
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "status", "params": {}}).to_string();
    assert_eq!(gw.rpc(HOOKS, &call).status, 401);
    assert_eq!(
        post(&gw, "/hooks/wake", &[], &json!({"text": "hello"})).status,
        200
    );
    let off = plain();
    assert_eq!(
        post(&off, "/hooks/wake", &[], &json!({"text": "hello"})).status,
        404
    );
}

/// Guesses are counted before they are looked at; the right token does not help while an address is locked out.
/// Covers: N6.
#[test]
fn guesses_lock_an_address_out() {
    let gw = hooked("");
    let guess = |token: &str| {
        gw.ask(
            "POST",
            "/hooks/wake",
            &[
                ("Authorization", &format!("Bearer {token}")),
                ("Content-Type", "application/json"),
            ],
            br#"{"text":"x"}"#,
        )
    };
    let mut refused = 0;
    for i in 0..30 {
        match guess(&format!("guess-{i}")).status {
            401 => refused += 1,
            429 => break,
            other => panic!("{other}"),
        }
    }
    assert!(refused <= 10, "{refused} guesses were looked at");
    let locked = guess(HOOKS);
    assert_eq!(locked.status, 429);
    assert!(locked.header("retry-after").is_some());
}

#[test]
fn a_wake_puts_a_text_before_the_agent() {
    let gw = hooked("");
    for (body, error) in [
        (json!({}), "text required"),
        (json!({"text": " "}), "text required"),
        (
            json!({"text": "x", "mode": "later"}),
            "mode must be now or next-heartbeat",
        ),
        (json!({"text": 7}), "text must be text"),
        (json!({"text": "x", "agentId": "nobody"}), "unknown agentId"),
        (json!([]), "the body must be a JSON object"),
    ] {
        let got = post(&gw, "/hooks/wake", &[], &body);
        assert_eq!(
            (got.status, got.json()),
            (400, json!({"ok": false, "error": error})),
            "{body}"
        );
    }
    for _ in 0..2 {
        let got = post(
            &gw,
            "/hooks/wake",
            &[("Idempotency-Key", "k1")],
            &json!({"text": "mail came", "mode": "next-heartbeat"}),
        );
        assert_eq!(
            got.json(),
            json!({"ok": true, "mode": "next-heartbeat", "eventOutcome": "queued"})
        );
    }
    let other = post(
        &gw,
        "/hooks/wake",
        &[("Idempotency-Key", "k1")],
        &json!({"text": "something else"}),
    );
    assert_eq!(other.status, 409);
    rpc(
        &gw,
        "chat.send",
        json!({"sessionKey": "main", "message": "hello", "idempotencyKey": "r1"}),
    );
    rpc(
        &gw,
        "agent.wait",
        json!({"runId": "r1", "timeoutMs": 20_000}),
    );
    let history = rpc(&gw, "chat.history", json!({"sessionKey": "main"}));
    let text = history.to_string();
    assert_eq!(text.matches("mail came").count(), 1, "{text}");
    assert!(!text.contains("something else"));
}

#[test]
fn an_agent_hook_runs_once_per_key_and_tells_its_end() {
    let gw = hooked(r#"allowedAgents: ["main"],"#);
    for (body, error) in [
        (json!({}), "message required"),
        (
            json!({"message": "x", "sessionKey": "lab"}),
            "sessionKey is not allowed",
        ),
        (
            json!({"message": "x", "thinking": "high"}),
            "unsupported: thinking",
        ),
        (
            json!({"message": "x", "channel": "telegram"}),
            "belong together",
        ),
        (
            json!({"message": "x", "channel": "telegram", "to": "1"}),
            "there is no channel account telegram",
        ),
        (
            json!({"message": "x", "timeoutSeconds": -1}),
            "timeoutSeconds",
        ),
    ] {
        let got = post(&gw, "/hooks/agent", &[], &body);
        assert_eq!(got.status, 400, "{body}");
        assert!(
            got.json()["error"].as_str().unwrap().contains(error),
            "{body}: {}",
            got.body
        );
    }
    let ask = json!({"message": "build is red", "name": "ci", "waitForCompletion": true});
    let first = post(&gw, "/hooks/agent", &[("Idempotency-Key", "build-1")], &ask).json();
    assert_eq!(first["ok"], true);
    assert_eq!(first["completion"]["status"], "ok");
    assert_eq!(first["completion"]["replyDisposition"], "reply");
    assert_eq!(
        first["completion"]["deliveryAttempted"], false,
        "nobody to tell yet"
    );
    let second = post(&gw, "/hooks/agent", &[("Idempotency-Key", "build-1")], &ask).json();
    assert_eq!(first["runId"], second["runId"]);
    let third = post(&gw, "/hooks/agent", &[], &ask).json();
    assert_ne!(first["runId"], third["runId"]);
    let sessions = rpc(&gw, "sessions.list", json!({}));
    let keys: Vec<&str> = sessions["sessions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["key"].as_str().unwrap())
        .collect();
    assert_eq!(keys.len(), 2, "{keys:?}");
    assert!(
        keys.iter().all(|key| key.starts_with("agent:main:hook:")),
        "{keys:?}"
    );
}

#[test]
fn mappings_are_addresses_of_their_own() {
    let gw = hooked(
        r#"path: "/in", mappings: { build: { action: "wake", now: false, template: "build {{status}} of {{repo.name}}" },
           ask: { template: "about {{topic}}", sessionKey: "topic-{{id}}", deliver: false },
           free: { template: "x", sessionKey: "{{key}}", deliver: false } },"#,
    );
    assert_eq!(post(&gw, "/hooks/build", &[], &json!({})).status, 404);
    assert_eq!(post(&gw, "/in/unknown", &[], &json!({})).status, 404);
    let woke = post(
        &gw,
        "/in/build",
        &[],
        &json!({"status": "red", "repo": {"name": "{{secret}}"}}),
    );
    assert_eq!(woke.json()["mode"], "next-heartbeat");
    let asked = post(
        &gw,
        "/in/ask",
        &[],
        &json!({"topic": "tea", "id": 7, "waitForCompletion": true}),
    );
    assert_eq!(asked.json()["completion"]["status"], "ok", "{}", asked.body);
    let history = rpc(&gw, "chat.history", json!({"sessionKey": "topic-7"}));
    assert!(history.to_string().contains("about tea"));
    // A value can't name a session that belongs to the gateway's own parts.
    for key in ["cron:x", "agent:main:boot:x", "agent:other:x", "a b"] {
        let bad = post(&gw, "/in/free", &[], &json!({"key": key}));
        assert_eq!(bad.status, 400, "{key}: {}", bad.body);
    }
    rpc(
        &gw,
        "chat.send",
        json!({"sessionKey": "main", "message": "hi", "idempotencyKey": "r2"}),
    );
    rpc(
        &gw,
        "agent.wait",
        json!({"runId": "r2", "timeoutMs": 20_000}),
    );
    let main = rpc(&gw, "chat.history", json!({"sessionKey": "main"})).to_string();
    assert!(main.contains("build red of {{secret}}"), "{main}");
}

/// A body over the limit is not read, and deep or broken JSON is a plain refusal.
#[test]
fn hook_bodies_are_bounded() {
    let gw = hooked("maxBodyBytes: 2048,");
    let big = post(
        &gw,
        "/hooks/agent",
        &[],
        &json!({"message": "x".repeat(3_000)}),
    );
    assert_eq!(big.status, 413);
    let bearer = format!("Bearer {HOOKS}");
    let headers = [
        ("Authorization", bearer.as_str()),
        ("Content-Type", "application/json"),
    ];
    let deep = format!("{}{}", "[".repeat(900), "]".repeat(900));
    for body in ["", "{", "{\"text\":\"a\",\"text\":\"b\"}", deep.as_str()] {
        let got = gw.ask("POST", "/hooks/wake", &headers, body.as_bytes());
        assert_eq!(got.status, 400, "{body:.20}");
    }
}
