//! API keys: what each opens, and how each ends.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::*;

fn call(gw: &Gateway, token: &str, method: &str, params: Value) -> Value {
    let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
    gw.rpc(token, &body.to_string()).json()
}

/// Makes a key; its id and secret.
fn make(gw: &Gateway, token: &str, params: Value) -> (String, String) {
    let made = call(gw, token, "apikeys.create", params);
    let text = |v: &Value| v.as_str().unwrap_or_else(|| panic!("{made}")).to_owned();
    (
        text(&made["result"]["key"]["id"]),
        text(&made["result"]["secret"]),
    )
}

fn with(gw: &Gateway, key: &str, method: &str, path: &str, body: &[u8]) -> Answer {
    let bearer = format!("Bearer {key}");
    gw.ask(
        method,
        path,
        &[
            ("Authorization", &bearer),
            ("Content-Type", "application/json"),
        ],
        body,
    )
}

const HELLO: &[u8] = br#"{"model":"openclaw","messages":[{"role":"user","content":"hi"}]}"#;

/// A key opens what its scopes say and nothing else, in its own tenant only; what is wrong with a key is not told.
/// Covers: A17, A19.
#[test]
fn a_key_opens_what_its_scopes_say() {
    let gw = plain();
    let (_, read) = make(
        &gw,
        TOKEN,
        json!({ "name": "read", "scopes": ["operator.read"] }),
    );
    let (_, write) = make(&gw, TOKEN, json!({ "name": "write" }));
    let (_, acme) = make(&gw, ACME, json!({ "name": "write" }));
    let status = |key: &str, path: &str, method: &str, body: &[u8]| {
        with(&gw, key, method, path, body).status
    };
    assert_eq!(status(&read, "/v1/models", "GET", b""), 200);
    assert_eq!(status(&read, "/v1/chat/completions", "POST", HELLO), 403);
    assert_eq!(status(&write, "/v1/chat/completions", "POST", HELLO), 200);
    // On another tenant's address a key is as wrong as one that never was.
    let foreign = with(&gw, &acme, "GET", "/t/main/v1/models", b"");
    let unknown = with(&gw, "gwk_never", "GET", "/t/main/v1/models", b"");
    assert_eq!((foreign.status, &foreign.body), (401, &unknown.body));
    assert_eq!(status(&acme, "/t/acme/v1/models", "GET", b""), 200);
    // The same scopes count for methods.
    let code = |answer: &Value| answer["error"]["data"]["code"].clone();
    let sessions = call(&gw, &read, "sessions.list", json!({}));
    assert!(sessions["result"]["sessions"].is_array(), "{sessions}");
    let denied = call(
        &gw,
        &read,
        "chat.send",
        json!({ "sessionKey": "main", "message": "x", "idempotencyKey": "k" }),
    );
    assert_eq!(code(&denied), "MISSING_SCOPE", "{denied}");
    let listed = call(&gw, &write, "apikeys.list", json!({}));
    assert_eq!(code(&listed), "MISSING_SCOPE", "{listed}");
    // A key, even one that may do everything, makes no keys.
    let (_, admin) = make(
        &gw,
        TOKEN,
        json!({ "name": "admin", "scopes": ["operator.admin"] }),
    );
    let more = call(&gw, &admin, "apikeys.create", json!({ "name": "more" }));
    assert_eq!(code(&more), "CAPABILITY_DENIED", "{more}");
    // The list tells no secret, and nothing of the other tenant.
    let list = call(&gw, TOKEN, "apikeys.list", json!({}));
    let names: Vec<&str> = list["result"]["keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|k| k["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["read", "write", "admin"]);
    assert!(!list.to_string().contains("gwk_"), "{list}");
    // Not on the v4 socket.
    let mut ws = gw.ws();
    ws.json();
    ws.text(&connect(json!({ "auth": { "token": admin } })).to_string());
    let refused = ws.answer("c");
    assert_eq!(refused["ok"], false, "{refused}");
}

/// A key of one agent knows no other, and calls no methods: those can name any session.
#[test]
fn a_key_of_one_agent() {
    let gw = configured(
        r#"agents: { entries: { main: { backend: "echo" }, other: { backend: "echo" } } },"#,
        |_| {},
    );
    let (_, key) = make(&gw, TOKEN, json!({ "name": "k", "agentId": "other" }));
    let models = with(&gw, &key, "GET", "/v1/models", b"").json();
    let ids: Vec<&str> = models["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, ["openclaw", "openclaw/other"]);
    let ask = |model: &str| {
        let body = json!({ "model": model, "user": "u", "messages": [{ "role": "user", "content": "hi" }] });
        with(
            &gw,
            &key,
            "POST",
            "/v1/chat/completions",
            body.to_string().as_bytes(),
        )
        .status
    };
    assert_eq!((ask("openclaw"), ask("openclaw/other")), (200, 200));
    assert_eq!((ask("openclaw/main"), ask("openclaw/none")), (404, 404));
    // What it said went to its own agent.
    let list = call(&gw, TOKEN, "sessions.list", json!({}));
    let sessions = list["result"]["sessions"].as_array().unwrap();
    assert_eq!(sessions.len(), 1, "{list}");
    assert_eq!(sessions[0]["key"], "agent:other:openai-user:u");
    let denied = call(&gw, &key, "sessions.list", json!({}));
    assert_eq!(
        denied["error"]["data"]["code"], "CAPABILITY_DENIED",
        "{denied}"
    );
    let wide = call(
        &gw,
        TOKEN,
        "apikeys.create",
        json!({ "name": "w", "agentId": "other", "scopes": ["operator.admin"] }),
    );
    assert_eq!(wide["error"]["code"], -32602, "{wide}");
}

/// Opens a stream at a model that says one word and then nothing.
fn stream(gw: &Gateway, key: &str) -> std::net::TcpStream {
    let body = json!({ "model": "openclaw", "stream": true, "messages": [{ "role": "user", "content": "hi" }] })
        .to_string();
    let mut s = gw.tcp();
    s.write_all(
        format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .as_bytes(),
    )
    .unwrap();
    let mut seen = String::new();
    let mut buf = [0; 4096];
    while !seen.contains("word") {
        let n = s.read(&mut buf).unwrap();
        assert!(n > 0, "{seen}");
        seen.push_str(&String::from_utf8_lossy(&buf[..n]));
    }
    s
}

/// A model that says one word and then waits for ever.
fn slow_model() -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        for stream in listener.incoming() {
            let mut s = stream.unwrap();
            let mut head = [0; 8192];
            let _ = s.read(&mut head);
            let event = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"word\"}}]}\n\n";
            let _ = s.write_all(
                format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{event}\r\n",
                    event.len()
                )
                .as_bytes(),
            );
            kept.push(s);
        }
    });
    addr
}

/// Reads to the end of a stream; what came and how long it took.
fn rest(mut s: std::net::TcpStream) -> (String, Duration) {
    let from = Instant::now();
    s.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let raw = read_all(&mut s);
    (raw.text(), from.elapsed())
}

/// What a key let in ends within a second of the key: sockets, streams, and the run behind a stream. So does what the
/// gateway's own token let in when that is changed.
/// Covers: A11.
#[test]
fn what_a_key_let_in_ends_with_it() {
    let gw = upstream(slow_model());
    let (_, key) = make(&gw, TOKEN, json!({ "name": "k" }));
    let (id, other) = make(&gw, TOKEN, json!({ "name": "other" }));
    let going = stream(&gw, &key);
    let by_token = stream(&gw, TOKEN);
    let bearer = format!("Bearer {key}");
    let mut socket = gw.upgrade("/rpc", &[("Authorization", &bearer)]).unwrap();
    let bearer = format!("Bearer {other}");
    let mut unhurt = gw.upgrade("/rpc", &[("Authorization", &bearer)]).unwrap();
    let ended = call(&gw, TOKEN, "apikeys.revoke", json!({ "key": "k" }));
    assert_eq!(ended["result"]["ok"], true, "{ended}");
    // From the answer on the key is as unknown as any other text.
    let refused = with(&gw, &key, "GET", "/v1/models", b"");
    let unknown = with(&gw, "gwk_never", "GET", "/v1/models", b"");
    assert_eq!((refused.status, &refused.body), (401, &unknown.body));
    let from = Instant::now();
    assert_eq!(socket.closed().map(|c| c.0), Some(4001));
    let (text, took) = rest(going);
    assert!(text.contains("credential"), "{text}");
    assert!(from.elapsed() < Duration::from_secs(5) && took < Duration::from_secs(5));
    until("the run behind the stream is over", || {
        let host = gw.server.as_ref().unwrap().host();
        host.main_tenant().unwrap().sessions().active_runs() == 1
    });
    // Others go on.
    unhurt.text(&json!({ "jsonrpc": "2.0", "id": 7, "method": "health" }).to_string());
    assert_eq!(unhurt.json()["id"], 7);
    gw.rotate("another-token-of-more-than-enough-length-0123456789");
    let (text, _) = rest(by_token);
    assert!(text.contains("credential"), "{text}");
    assert_eq!(with(&gw, &other, "GET", "/v1/models", b"").status, 200);
    let gone = call(
        &gw,
        "another-token-of-more-than-enough-length-0123456789",
        "apikeys.revoke",
        json!({ "key": id }),
    );
    assert_eq!(gone["result"]["name"], "other", "{gone}");
}

/// A key ends by itself at its time, with what it let in, and answers then like one that never was.
/// Covers: A11.
#[test]
fn a_key_ends_at_its_time() {
    let gw = plain();
    let (_, key) = make(&gw, TOKEN, json!({ "name": "short", "expiresInMs": 3_000 }));
    let bearer = format!("Bearer {key}");
    let mut socket = gw.upgrade("/rpc", &[("Authorization", &bearer)]).unwrap();
    assert_eq!(socket.closed().map(|c| c.0), Some(4001));
    let refused = with(&gw, &key, "GET", "/v1/models", b"");
    let unknown = with(&gw, "gwk_never", "GET", "/v1/models", b"");
    assert_eq!((refused.status, &refused.body), (401, &unknown.body));
    let list = call(&gw, TOKEN, "apikeys.list", json!({}));
    let row = &list["result"]["keys"][0];
    assert_eq!(row["expired"], true, "{list}");
    assert!(row["lastUsedAt"].is_i64(), "{list}");
}

/// What a credential may not do, it may not do by another way either: every method over both transports, the addresses for
/// programs, hooks, and words in a message.
/// Covers: Z2, Z3.
#[test]
fn a_right_has_no_side_door() {
    use gateway_protocol::method::{self, Access};
    use gateway_protocol::{Scope, ScopeSet};

    let gw = plain();
    let (_, read) = make(
        &gw,
        TOKEN,
        json!({ "name": "r", "scopes": ["operator.read"] }),
    );
    let (_, write) = make(
        &gw,
        TOKEN,
        json!({ "name": "w", "scopes": ["operator.write"] }),
    );
    let bearer = format!("Bearer {read}");
    let mut ws = gw.upgrade("/rpc", &[("Authorization", &bearer)]).unwrap();
    let mut tried = 0;
    for spec in method::all() {
        let allowed = match spec.access {
            Access::Any => true,
            Access::Operator(scope) => ScopeSet::of(Scope::Read).allows(scope),
            Access::Node => false,
        };
        if allowed || spec.name == "connect" {
            continue;
        }
        tried += 1;
        let wanted = if spec.access == Access::Node {
            "WRONG_ROLE"
        } else {
            "MISSING_SCOPE"
        };
        let over_post = call(&gw, &read, spec.name, json!({}));
        let body = json!({ "jsonrpc": "2.0", "id": spec.name, "method": spec.name, "params": {} });
        ws.text(&body.to_string());
        let over_ws = loop {
            let got = ws.json();
            if got["id"] == spec.name {
                break got;
            }
        };
        for got in [over_post, over_ws] {
            assert_eq!(got["error"]["data"]["code"], wanted, "{}: {got}", spec.name);
        }
    }
    assert!(tried > 30, "{tried}");
    // The addresses that do the same as a method.
    let body = br#"{"model":"openclaw","input":"hi","messages":[{"role":"user","content":"hi"}],"tool":"current_time"}"#;
    for path in ["/v1/chat/completions", "/v1/responses", "/tools/invoke"] {
        let got = with(&gw, &read, "POST", path, body);
        assert!(
            matches!(got.status, 400 | 403),
            "{path}: {} {}",
            got.status,
            got.body
        );
    }
    // No hooks are configured: no credential of operators opens one.
    for path in ["/hooks/wake", "/hooks/agent"] {
        let got = with(&gw, TOKEN, "POST", path, br#"{"text":"hi","message":"hi"}"#);
        assert_eq!(got.status, 404, "{path}");
    }
    let listed = call(&gw, &read, "sessions.list", json!({}));
    assert_eq!(listed["result"]["sessions"], json!([]), "nothing was begun");

    // Who may write may talk, and does not reset a session by a word.
    let session = || {
        let got = call(&gw, &write, "sessions.describe", json!({ "key": "main" }));
        got["result"]["session"]["sessionId"].clone()
    };
    let say = |key: &str, words: &str| {
        let params = json!({ "sessionKey": "main", "message": words, "idempotencyKey": key });
        call(&gw, &write, "chat.send", params)
    };
    assert!(say("1", "hello")["result"].is_object());
    let before = session();
    assert!(before.is_string(), "{before}");
    let reset = call(&gw, &write, "sessions.reset", json!({ "key": "main" }));
    assert_eq!(reset["error"]["data"]["code"], "MISSING_SCOPE", "{reset}");
    for (n, words) in ["/reset", "/new", " /RESET now"].iter().enumerate() {
        let params =
            json!({ "message": words, "sessionKey": "main", "idempotencyKey": format!("a{n}") });
        let agent = call(&gw, &write, "agent", params);
        assert_eq!(agent["error"]["data"]["code"], "MISSING_SCOPE", "{agent}");
        say(&format!("c{n}"), words);
        let body = json!({ "model": "openclaw", "user": "main", "messages": [{ "role": "user", "content": words }] });
        with(
            &gw,
            &write,
            "POST",
            "/v1/chat/completions",
            body.to_string().as_bytes(),
        );
        assert_eq!(session(), before, "{words}");
    }
}
