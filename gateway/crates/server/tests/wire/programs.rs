//! Addresses for programs beside the chat: embeddings, tools, histories.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::mpsc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::*;

fn with(gw: &Gateway, token: &str, method: &str, path: &str, body: &Value) -> Answer {
    let bearer = format!("Bearer {token}");
    let body = if method == "POST" {
        body.to_string()
    } else {
        String::new()
    };
    gw.ask(
        method,
        path,
        &[
            ("Authorization", &bearer),
            ("Content-Type", "application/json"),
        ],
        body.as_bytes(),
    )
}

fn call(gw: &Gateway, token: &str, method: &str, params: Value) -> Value {
    let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
    gw.rpc(token, &body.to_string()).json()["result"].clone()
}

fn key(gw: &Gateway, params: Value) -> String {
    call(gw, TOKEN, "apikeys.create", params)["secret"]
        .as_str()
        .unwrap()
        .to_owned()
}

/// A server that answers each request with the next of `answers` and tells what it was asked: head and body.
fn server(answers: Vec<String>) -> (SocketAddr, mpsc::Receiver<(String, Value)>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let (tell, asked) = mpsc::channel();
    std::thread::spawn(move || {
        for answer in answers {
            let mut s = listener.accept().unwrap().0;
            let mut seen = Vec::new();
            let mut buf = [0; 8192];
            let (head, body) = loop {
                let n = s.read(&mut buf).unwrap();
                assert!(n > 0);
                seen.extend_from_slice(&buf[..n]);
                let text = String::from_utf8_lossy(&seen).into_owned();
                if let Some((head, body)) = text.split_once("\r\n\r\n")
                    && let Ok(body) = serde_json::from_str(body)
                {
                    break (head.to_owned(), body);
                }
            };
            tell.send((head, body)).unwrap();
            s.write_all(answer.as_bytes()).unwrap();
        }
    });
    (addr, asked)
}

fn http(status: &str, headers: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[test]
fn embeddings_are_passed_on_to_the_server_of_the_agent() {
    let good = r#"{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.5,-1]}],"model":"e-1","usage":{"prompt_tokens":2,"total_tokens":2}}"#;
    let (addr, asked) = server(vec![
        http("200 OK", "", good),
        http("200 OK", "", good),
        http(
            "400 Bad Request",
            "",
            r#"{"error":{"message":"too many tokens sk-upstream-key-0001"}}"#,
        ),
        http("429 Too Many Requests", "retry-after: 7\r\n", "{}"),
        http(
            "401 Unauthorized",
            "",
            r#"{"error":{"message":"bad key sk-upstream-key-0001"}}"#,
        ),
        http("200 OK", "", r#"{"hello":1}"#),
    ]);
    let gw = configured(
        &format!(
            r#"agents: {{ entries: {{
                main: {{ backend: "openai", baseUrl: "http://{addr}/v1", model: "m", apiKey: "sk-upstream-key-0001", embeddingModel: "e-1" }},
                plain: {{ backend: "echo" }},
            }} }},"#
        ),
        |_| {},
    );
    let ask = |body: Value| with(&gw, TOKEN, "POST", "/v1/embeddings", &body);
    // By the name of the agent, and by that of the model.
    let answer = ask(
        json!({ "model": "openclaw", "input": ["a", "b"], "encoding_format": "float", "unheard": 1 }),
    );
    assert_eq!((answer.status, answer.body.as_str()), (200, good));
    let (head, body) = asked.recv_timeout(Duration::from_secs(10)).unwrap();
    assert!(head.starts_with("POST /v1/embeddings "), "{head}");
    assert!(
        head.contains("Bearer sk-upstream-key-0001") && !head.contains(TOKEN),
        "{head}"
    );
    assert_eq!(
        body,
        json!({ "model": "e-1", "input": ["a", "b"], "encoding_format": "float" })
    );
    assert_eq!(
        ask(json!({ "model": "e-1", "input": [[1, 2]] })).status,
        200
    );
    // What the server says comes back in the shape of this API, without its key.
    let wrong = ask(json!({ "model": "e-1", "input": "x" }));
    assert_eq!(wrong.status, 400, "{wrong:?}");
    assert!(
        wrong.body.contains("too many tokens") && !wrong.body.contains("0001"),
        "{wrong:?}"
    );
    let many = ask(json!({ "model": "e-1", "input": "x" }));
    assert_eq!(
        (many.status, many.header("retry-after").as_deref()),
        (429, Some("7"))
    );
    let unpaid = ask(json!({ "model": "e-1", "input": "x" }));
    assert_eq!(unpaid.status, 502, "{unpaid:?}");
    assert!(!unpaid.body.contains("0001"), "{unpaid:?}");
    assert_eq!(ask(json!({ "model": "e-1", "input": "x" })).status, 502);
    // Only models that the operator named.
    assert_eq!(ask(json!({ "model": "e-2", "input": "x" })).status, 404);
    let none = ask(json!({ "model": "openclaw/plain", "input": "x" }));
    assert_eq!(none.status, 400, "{none:?}");
    assert!(none.body.contains("embeddingModel"), "{none:?}");
    for bad in [
        json!({ "input": "x" }),
        json!({ "model": "e-1" }),
        json!({ "model": "e-1", "input": "" }),
        json!({ "model": "e-1", "input": [] }),
        json!({ "model": "e-1", "input": ["a", 1] }),
        json!({ "model": "e-1", "input": [[]] }),
        json!({ "model": "e-1", "input": vec!["a"; 2_049] }),
        json!({ "model": "e-1", "input": "x", "encoding_format": "hex" }),
        json!({ "model": "e-1", "input": "x", "dimensions": 0 }),
        json!([]),
    ] {
        let answer = ask(bad.clone());
        assert_eq!(answer.status, 400, "{bad} {answer:?}");
    }
    let reader = key(&gw, json!({ "name": "r", "scopes": ["operator.read"] }));
    let plain = key(&gw, json!({ "name": "p", "agentId": "plain" }));
    let body = json!({ "model": "e-1", "input": "x" });
    assert_eq!(
        with(&gw, &reader, "POST", "/v1/embeddings", &body).status,
        403
    );
    assert_eq!(
        with(&gw, &plain, "POST", "/v1/embeddings", &body).status,
        404
    );
}

/// Covers: Z3.
#[test]
fn tools_of_the_agent_and_no_others() {
    let gw = configured(
        r#"agents: { entries: { main: { backend: "echo", tools: ["current_time", "session_info"] }, bare: { backend: "echo" } } },"#,
        |_| {},
    );
    let ask = |token: &str, body: Value| with(&gw, token, "POST", "/tools/invoke", &body);
    let time = ask(
        TOKEN,
        json!({ "tool": "current_time", "args": { "utc_offset_minutes": 60 } }),
    )
    .json();
    assert_eq!(
        (&time["ok"], &time["result"]["content"][0]["type"]),
        (&json!(true), &json!("text"))
    );
    let text = time["result"]["content"][0]["text"].as_str().unwrap();
    assert!(text.contains("+01:00"), "{text}");
    let info = ask(
        TOKEN,
        json!({ "tool": "session_info", "action": "x", "sessionKey": "lab" }),
    )
    .json();
    assert!(info.to_string().contains("agent:main:lab"), "{info}");
    let refused = [
        (json!({ "tool": "nope" }), 404, "Tool not available: nope"),
        (json!({ "tool": "exec" }), 404, "Tool not available: exec"),
        (
            json!({ "tool": "current_time", "sessionKey": "agent:bare:main" }),
            404,
            "Tool not available: current_time",
        ),
        (
            json!({ "tool": "current_time", "args": { "utc_offset_minutes": "x" } }),
            400,
            "arguments.utc_offset_minutes",
        ),
        (
            json!({ "tool": "current_time", "args": { "other": 1 } }),
            400,
            "arguments.other",
        ),
        (json!({ "tool": "current_time", "args": [] }), 400, "args"),
        (
            json!({ "tool": "current_time", "dryRun": true }),
            400,
            "unsupported: dryRun",
        ),
        (
            json!({ "tool": "current_time", "sessionKey": "agent:none:main" }),
            404,
            "unknown agent",
        ),
        (json!({ "tool": 5 }), 400, "tool"),
        (json!({}), 400, "tool"),
    ];
    for (body, status, message) in refused {
        let answer = ask(TOKEN, body.clone());
        assert_eq!(answer.status, status, "{body} {answer:?}");
        let told = answer.json();
        assert_eq!(told["ok"], false, "{told}");
        assert!(
            told["error"]["message"].as_str().unwrap().contains(message),
            "{told}"
        );
    }
    let reader = key(&gw, json!({ "name": "r", "scopes": ["operator.read"] }));
    let bare = key(&gw, json!({ "name": "b", "agentId": "bare" }));
    let body = json!({ "tool": "current_time" });
    assert_eq!(ask(&reader, body.clone()).status, 403);
    assert_eq!(ask(&bare, body.clone()).status, 404);
    let foreign = json!({ "tool": "current_time", "sessionKey": "agent:main:main" });
    assert_eq!(ask(&bare, foreign).status, 404);
    assert_eq!(ask("gwk_never", body).status, 401);
    let catalog = call(&gw, TOKEN, "tools.catalog", json!({}));
    let ids: Vec<&str> = catalog["groups"][0]["tools"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, ["current_time", "session_info"]);
    let none = call(&gw, TOKEN, "tools.catalog", json!({ "agentId": "bare" }));
    assert_eq!(none["groups"], json!([]), "{none}");
}

fn inject(gw: &Gateway, session: &str, text: &str) {
    let done = call(
        gw,
        TOKEN,
        "chat.inject",
        json!({ "sessionKey": session, "message": text }),
    );
    assert_eq!(done["ok"], true, "{done}");
}

/// The key of another tenant's session opens nothing.
/// Covers: Z4.
#[test]
fn a_history_by_pages() {
    let gw = plain();
    for n in 1..=5 {
        inject(&gw, "lab", &format!("note {n}"));
    }
    let get = |token: &str, path: &str| with(&gw, token, "GET", path, &Value::Null);
    let texts = |page: &Value| -> Vec<String> {
        page["messages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| m["content"][0]["text"].as_str().unwrap().to_owned())
            .collect()
    };
    let first = get(TOKEN, "/sessions/agent:main:lab/history?limit=2").json();
    assert_eq!(first["sessionKey"], "agent:main:lab");
    assert_eq!(first["items"], first["messages"]);
    assert_eq!(texts(&first), ["note 4", "note 5"]);
    let mut seen = texts(&first);
    let mut page = first;
    while let Some(cursor) = page["nextCursor"].as_str() {
        assert_eq!(page["hasMore"], true);
        page = get(
            TOKEN,
            &format!("/sessions/lab/history?limit=2&cursor={cursor}"),
        )
        .json();
        let mut older = texts(&page);
        older.append(&mut seen);
        seen = older;
    }
    assert_eq!(seen, ["note 1", "note 2", "note 3", "note 4", "note 5"]);
    for bad in [
        "limit=0",
        "limit=x",
        "limit=1001",
        "cursor=x",
        "cursor=seq:0",
        "includeTools=2",
    ] {
        assert_eq!(
            get(TOKEN, &format!("/sessions/lab/history?{bad}")).status,
            400,
            "{bad}"
        );
    }
    // One that is not there is like one of somebody else.
    let never = get(TOKEN, "/sessions/never/history");
    assert_eq!(never.status, 404);
    let foreign = get(ACME, "/sessions/agent:main:lab/history");
    assert_eq!((foreign.status, foreign.body), (404, never.body));
    let pairing = key(&gw, json!({ "name": "p", "scopes": ["operator.pairing"] }));
    assert_eq!(get(&pairing, "/sessions/lab/history").status, 403);
    assert_eq!(get("gwk_never", "/sessions/lab/history").status, 401);
}

/// A stream begins with what there is, then tells each message once, says when the session is another, and ends with the
/// key that let it in.
/// Covers: A11.
#[test]
fn a_history_that_is_followed() {
    let gw = plain();
    inject(&gw, "lab", "note 1");
    let follow = |token: &str, session: &str| {
        let mut s = gw.tcp();
        s.write_all(
            format!(
                "GET /sessions/{session}/history HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nAccept: text/event-stream\r\n\r\n"
            )
            .as_bytes(),
        )
        .unwrap();
        s
    };
    fn until_seen(s: &mut std::net::TcpStream, what: &str) -> String {
        let mut seen = String::new();
        let mut buf = [0; 8192];
        while !seen.contains(what) {
            let n = s.read(&mut buf).unwrap();
            assert!(n > 0, "no {what} in {seen}");
            seen.push_str(&String::from_utf8_lossy(&buf[..n]));
        }
        seen
    }
    let reader = key(&gw, json!({ "name": "r", "scopes": ["operator.read"] }));
    let mut stream = follow(TOKEN, "lab");
    let mut other = follow(&reader, "lab");
    let begin = until_seen(&mut stream, "note 1");
    assert!(
        begin.contains("text/event-stream") && begin.contains("event: history"),
        "{begin}"
    );
    until_seen(&mut other, "note 1");
    inject(&gw, "elsewhere", "not for this stream");
    for n in 2..=4 {
        inject(&gw, "lab", &format!("note {n}"));
    }
    let more = until_seen(&mut stream, "note 4");
    for n in 2..=4 {
        assert_eq!(more.matches(&format!("note {n}")).count(), 1, "{more}");
    }
    assert!(
        more.contains("event: message") && more.contains("\"messageSeq\":4"),
        "{more}"
    );
    assert!(
        !more.contains("not for this stream") && !more.contains("note 1"),
        "{more}"
    );
    until_seen(&mut other, "note 4");
    let ended = call(&gw, TOKEN, "apikeys.revoke", json!({ "key": "r" }));
    assert_eq!(ended["ok"], true, "{ended}");
    other
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let raw = read_all(&mut other).text();
    assert!(
        raw.contains("credential") || raw.ends_with("0\r\n\r\n"),
        "{raw}"
    );
    call(&gw, TOKEN, "sessions.reset", json!({ "key": "lab" }));
    inject(&gw, "lab", "after the reset");
    let last = until_seen(&mut stream, "event: changed");
    assert!(!last.contains("after the reset"), "{last}");
}
