//! The OpenAI-compatible API.

use serde_json::{Value, json};

use crate::support::*;

fn post(gw: &Gateway, body: &Value) -> Answer {
    let bearer = format!("Bearer {TOKEN}");
    gw.ask(
        "POST",
        "/v1/chat/completions",
        &[
            ("Authorization", &bearer),
            ("Content-Type", "application/json"),
        ],
        body.to_string().as_bytes(),
    )
}

#[test]
fn whole_and_streaming_completions() {
    let gw = plain();
    let ask = |extra: Value| {
        let mut body = json!({ "model": "openclaw", "messages": [{ "role": "system", "content": "be brief" }, { "role": "user", "content": [{ "type": "text", "text": "one two three" }] }] });
        body.as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        post(&gw, &body)
    };
    let whole = ask(json!({})).json();
    let text = whole["choices"][0]["message"]["content"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(text.contains("one two three"), "{whole}");
    assert_eq!(
        (&whole["object"], &whole["choices"][0]["finish_reason"]),
        (&json!("chat.completion"), &json!("stop"))
    );
    assert!(
        whole["usage"]["total_tokens"].is_u64()
            && whole["id"].as_str().unwrap().starts_with("chatcmpl-")
    );

    let stream = ask(json!({ "stream": true, "stream_options": { "include_usage": true } }));
    assert!(
        stream
            .header("content-type")
            .unwrap()
            .starts_with("text/event-stream"),
        "{stream:?}"
    );
    let events: Vec<&str> = stream
        .body
        .split("\n\n")
        .filter(|e| !e.is_empty())
        .map(|e| e.strip_prefix("data: ").unwrap())
        .collect();
    assert_eq!(events.last(), Some(&"[DONE]"));
    let chunks: Vec<Value> = events[..events.len() - 1]
        .iter()
        .map(|e| serde_json::from_str(e).unwrap())
        .collect();
    let said: String = chunks
        .iter()
        .filter_map(|c| c["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(said, text);
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(
        chunks[chunks.len() - 2]["choices"][0]["finish_reason"],
        "stop"
    );
    assert_eq!(
        (
            &chunks[chunks.len() - 1]["choices"],
            chunks[chunks.len() - 1]["usage"].is_object()
        ),
        (&json!([]), true)
    );
    assert!(
        chunks
            .iter()
            .all(|c| c["object"] == "chat.completion.chunk" && c["id"] == chunks[0]["id"])
    );
}

#[test]
fn models_and_errors_have_the_shape_that_clients_read() {
    let gw = plain();
    let bearer = format!("Bearer {TOKEN}");
    let list = gw
        .ask("GET", "/v1/models", &[("Authorization", &bearer)], b"")
        .json();
    assert_eq!(list["object"], "list");
    let ids: Vec<&str> = list["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["id"].as_str().unwrap())
        .collect();
    assert!(ids.contains(&"openclaw/main"), "{ids:?}");
    for path in [
        "/v1/models/openclaw/main",
        "/v1/models/openclaw%2Fmain",
        "/v1/models/openclaw",
    ] {
        assert_eq!(
            gw.ask("GET", path, &[("Authorization", &bearer)], b"")
                .status,
            200,
            "{path}"
        );
    }
    assert_eq!(
        gw.ask(
            "GET",
            "/v1/models/gpt-9",
            &[("Authorization", &bearer)],
            b""
        )
        .status,
        404
    );
    let user = json!([{ "role": "user", "content": "hi" }]);
    let table = [
        (json!({ "model": "gpt-9", "messages": user }), 404),
        (json!({ "model": "openclaw", "messages": [] }), 400),
        (
            json!({ "model": "openclaw", "messages": [{ "role": "assistant", "content": "hi" }] }),
            400,
        ),
        (
            json!({ "model": "openclaw", "messages": [{ "role": "user", "content": " " }] }),
            400,
        ),
        (
            json!({ "model": "openclaw", "messages": [{ "role": "wizard", "content": "hi" }] }),
            400,
        ),
        (
            json!({ "model": "openclaw", "messages": [{ "role": "user", "content": [{ "type": "image_url", "image_url": {} }] }] }),
            400,
        ),
        (
            json!({ "model": "openclaw", "messages": user, "n": 2 }),
            400,
        ),
        (
            json!({ "model": "openclaw", "messages": user, "tools": [{}] }),
            400,
        ),
        (json!({ "model": 5, "messages": user }), 400),
        (json!({ "messages": user }), 400),
    ];
    for (body, status) in table {
        let answer = post(&gw, &body);
        assert_eq!(answer.status, status, "{body} {answer:?}");
        assert!(
            answer.json()["error"]["message"].is_string()
                && answer.json()["error"]["type"].is_string(),
            "{answer:?}"
        );
    }
}

/// A server that takes a chat completion request and never says a word.
fn silent_model() -> (
    std::net::SocketAddr,
    std::sync::mpsc::Receiver<std::net::TcpStream>,
) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let (tell, asked) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            if tell.send(stream.unwrap()).is_err() {
                return;
            }
        }
    });
    (addr, asked)
}

#[test]
fn hanging_up_stops_the_run() {
    use std::{
        io::{Read, Write},
        time::Duration,
    };
    let (model, asked) = silent_model();
    for stream in [false, true] {
        let gw = upstream(model);
        let body = json!({ "model": "openclaw", "stream": stream, "messages": [{ "role": "user", "content": "hi" }] }).to_string();
        let mut caller = gw.tcp();
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        caller.write_all(head.as_bytes()).unwrap();
        caller.write_all(body.as_bytes()).unwrap();
        let mut upstream = asked
            .recv_timeout(Duration::from_secs(10))
            .expect("the model is asked");
        drop(caller);
        // The run ends, so the gateway hangs up on the model too.
        upstream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let mut buf = [0; 4096];
        while upstream
            .read(&mut buf)
            .expect("the model server sees the end, not silence")
            > 0
        {}
        until("the run is over", || {
            gw.server
                .as_ref()
                .unwrap()
                .host()
                .main_tenant()
                .unwrap()
                .sessions()
                .active_runs()
                == 0
        });
    }
}

/// Covers: R3.
#[test]
fn a_client_that_half_closes_still_gets_its_answer() {
    use std::io::Write;
    let gw = plain();
    let mut s = gw.tcp();
    s.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    s.shutdown(std::net::Shutdown::Write).unwrap();
    let raw = read_all(&mut s);
    assert_eq!((raw.statuses(), raw.closed), (vec![200], true));
}
