//! Hook components in the real binary: what they deny is not done and is written down, and no tenant meets another's hook.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use gateway_tests::process::{Gateway, guests_dir};
use gateway_tests::ws::Ws;
use serde_json::{Value, json};

/// How long a test waits for something to happen; not a performance statement.
const PATIENCE: Duration = Duration::from_secs(60);

/// The signing secret of the webhook account of a tenant (`""` is `main`).
fn secret(tenant: &str) -> String {
    format!("a-signing-secret-of-this-test-0123456789{tenant}")
}

fn account(tenant: &str) -> Value {
    json!({"webhook": {"accounts": {"default": {
        "secrets": {"signing": secret(tenant)}, "dmPolicy": "allowlist", "allowFrom": ["una"],
    }}}})
}

fn configure(state: &Path, hooks: Value) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir_all(state).unwrap();
    let text = json!({
        "agents": {"default": "echo", "entries": {"echo": {"tools": ["current_time", "session_info"]}}},
        "channels": account(""),
        "hooks": {"components": hooks},
        "tenants": {"acme": {
            "auth": {"token": "the-token-of-acme-0123456789abcdefghijklmnopq"},
            "agents": {"default": "echo", "entries": {"echo": {}}},
            "channels": account("/t/acme"),
        }},
    });
    let path = state.join("gateway.json5");
    std::fs::write(&path, text.to_string()).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

fn start(state: &Path) -> Gateway {
    let guests = guests_dir();
    Gateway::start(state, &["--wasm-dir", guests.to_str().unwrap()])
}

fn post(port: u16, path: &str, head: &str, body: &Value) -> (u16, Value) {
    let body = body.to_string();
    let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(
        socket,
        "POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n{head}content-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    let _ = socket.read_to_string(&mut answer);
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok());
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (
        status.unwrap_or_else(|| panic!("{answer}")),
        serde_json::from_str(body).unwrap_or(Value::Null),
    )
}

fn say(port: u16, tenant: &str, id: &str, text: &str) {
    let (status, answer) = post(
        port,
        &format!("{tenant}/channels/webhook/default/inbound"),
        &format!("x-webhook-secret: {}\r\n", secret(tenant)),
        &json!({"id": id, "from": {"id": "una"}, "text": text}),
    );
    // Taken; whether a reply comes with it is not looked at here.
    assert!([200, 202].contains(&status), "{status}: {answer}");
}

async fn audit(ws: &mut Ws, action: &str) -> Vec<Value> {
    let entries = ws
        .call("audit.entries", json!({"limit": 500}))
        .await
        .unwrap();
    let entries = entries["entries"].as_array().cloned().unwrap_or_default();
    entries
        .into_iter()
        .filter(|e| e["action"] == action)
        .collect()
}

/// All messages of the tenant's sessions, as history shows them.
async fn messages(ws: &mut Ws) -> Vec<Value> {
    let sessions = ws.call("sessions.list", json!({})).await.unwrap();
    let mut all = Vec::new();
    for session in sessions["sessions"].as_array().into_iter().flatten() {
        let ask = json!({"sessionKey": session["key"], "limit": 1000});
        let history = ws.call("chat.history", ask).await.unwrap();
        all.extend(history["messages"].as_array().cloned().unwrap_or_default());
    }
    all
}

async fn answered(ws: &mut Ws, count: usize) -> Vec<Value> {
    let began = Instant::now();
    loop {
        let all = messages(ws).await;
        if all.iter().filter(|m| m["role"] == "assistant").count() >= count {
            return all;
        }
        assert!(began.elapsed() < PATIENCE, "{all:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn texts(messages: &[Value]) -> String {
    json!(messages).to_string()
}

/// A message that a hook denies starts no run and is in the audit log once, also when it comes again after a kill. The other
/// tenant has no hook, and its messages meet none.
///
/// Covers: F1.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denied_message_is_recorded_once_and_other_tenants_meet_no_hook() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    configure(
        &state,
        json!([{
            "plugin": "hook-words", "events": ["message.inbound"], "timeoutMs": 10_000,
            "config": {"deny": ["forbidden"], "mark": ["invoice"]},
        }]),
    );
    let gateway = start(&state);
    let port = gateway.port;
    say(port, "", "1", "this is Forbidden");
    say(port, "", "2", "an invoice, please");
    say(port, "/t/acme", "1", "this is forbidden there");
    // A stranger is turned away before any hook.
    let (status, _) = post(
        port,
        "/channels/webhook/default/inbound",
        &format!("x-webhook-secret: {}\r\n", secret("")),
        &json!({"id": "3", "from": {"id": "stranger"}, "text": "forbidden"}),
    );
    assert!([200, 202].contains(&status), "{status}");
    let mut main = Ws::connect(port, "/", &gateway.token()).await.unwrap();
    let shown = answered(&mut main, 1).await;
    assert!(!texts(&shown).contains("orbidden"), "{shown:?}");
    let noted = shown.iter().find(|m| m["role"] == "user").unwrap();
    assert_eq!(
        noted["__openclaw"]["annotations"],
        json!({"hook-words": {"words": ["invoice"]}}),
        "{noted}"
    );
    let denied = audit(&mut main, "hook.denied").await;
    assert_eq!(denied.len(), 1, "{denied:?}");
    let entry = denied[0].to_string();
    for word in [
        "message.inbound",
        "hook-words",
        "is not wanted here",
        "\"1\"",
        "una",
    ] {
        assert!(entry.contains(word), "{word}: {entry}");
    }
    let token = "the-token-of-acme-0123456789abcdefghijklmnopq";
    let mut acme = Ws::connect(port, "/", token).await.unwrap();
    let shown = answered(&mut acme, 1).await;
    assert!(
        texts(&shown).contains("echo: this is forbidden there"),
        "{shown:?}"
    );
    assert!(audit(&mut acme, "hook.denied").await.is_empty());

    gateway.kill();
    let gateway = start(&state);
    say(gateway.port, "", "1", "this is Forbidden");
    let mut main = Ws::connect(gateway.port, "/", &gateway.token())
        .await
        .unwrap();
    assert_eq!(audit(&mut main, "hook.denied").await.len(), 1);
    assert!(!texts(&messages(&mut main).await).contains("orbidden"));
    let (done, _, err) = gateway.cli(&["audit", "verify"]);
    assert!(done, "{err}");
}

/// A tool is not called and a reply not sent when a hook says so; what is noted about a tool is in the audit log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tools_and_replies_are_judged_too() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    configure(
        &state,
        json!([
            {"plugin": "hook-words", "events": ["tool.call"], "timeoutMs": 10_000, "config": {"deny": ["session_info"], "mark": ["current_time"]}},
            {"plugin": "hook-words", "events": ["message.outbound"], "timeoutMs": 10_000, "config": {"deny": ["echo"]}},
        ]),
    );
    let gateway = start(&state);
    let port = gateway.port;
    let head = format!("authorization: Bearer {}\r\n", gateway.token());
    let call = |tool: &str| post(port, "/tools/invoke", &head, &json!({"tool": tool}));
    let (status, answer) = call("current_time");
    assert_eq!(status, 200, "{answer}");
    let (_, answer) = call("session_info");
    assert!(
        answer.to_string().contains("denied by the hook hook-words"),
        "{answer}"
    );
    let mut main = Ws::connect(port, "/", &gateway.token()).await.unwrap();
    say(port, "", "1", "hello");
    answered(&mut main, 1).await;
    let began = Instant::now();
    let failed = loop {
        let (done, out, err) = gateway.cli(&["outbox", "list", "--state", "failed", "--json"]);
        assert!(done, "{err}");
        if out.contains("denied by the hook hook-words") {
            break out;
        }
        assert!(began.elapsed() < PATIENCE, "{out}");
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(failed.contains("is not wanted here"), "{failed}");
    let noted = audit(&mut main, "hook.annotated").await;
    assert!(
        json!(noted).to_string().contains("current_time"),
        "{noted:?}"
    );
    let denied = json!(audit(&mut main, "hook.denied").await).to_string();
    assert!(
        denied.contains("tool.call") && denied.contains("message.outbound"),
        "{denied}"
    );
}

/// A hook that cannot answer: nothing is done, unless the operator said otherwise; an edit of the configuration counts at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_failure_means_is_the_operators_word() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    // Its configuration is wrong, so that it returns an error.
    let hook = |on_failure: &str| {
        json!([
            {"plugin": "hook-words", "onFailure": on_failure, "timeoutMs": 10_000, "config": {"deny": "no list"}},
            {"plugin": "not-there", "onFailure": on_failure},
        ])
    };
    configure(&state, hook("deny"));
    let gateway = start(&state);
    let mut main = Ws::connect(gateway.port, "/", &gateway.token())
        .await
        .unwrap();
    say(gateway.port, "", "1", "first");
    let denied = audit(&mut main, "hook.denied").await;
    assert_eq!(denied.len(), 1);
    assert_eq!(denied[0]["outcome"], "failed", "{denied:?}");
    configure(&state, hook("allow"));
    let began = Instant::now();
    let mut n = 1;
    let shown = loop {
        n += 1;
        say(gateway.port, "", &n.to_string(), &format!("later {n}"));
        let all = messages(&mut main).await;
        if texts(&all).contains("later") {
            break all;
        }
        assert!(began.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    assert!(!texts(&shown).contains("first"));
    let (done, out, _) = gateway.cli(&["config", "validate"]);
    assert!(done, "{out}");
}
