//! The Responses API.

use serde_json::{Value, json};

use crate::support::*;

fn ask(gw: &Gateway, token: &str, method: &str, path: &str, body: &Value) -> Answer {
    let bearer = format!("Bearer {token}");
    let body = if method == "POST" && !body.is_null() {
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

fn post(gw: &Gateway, body: &Value) -> Answer {
    ask(gw, TOKEN, "POST", "/v1/responses", body)
}

fn get(gw: &Gateway, token: &str, id: &Value) -> Answer {
    let path = format!("/v1/responses/{}", id.as_str().unwrap());
    ask(gw, token, "GET", &path, &Value::Null)
}

fn said(response: &Value) -> &str {
    response["output"][0]["content"][0]["text"]
        .as_str()
        .unwrap_or_else(|| panic!("{response}"))
}

/// Type and data of each event; the last one is the end mark.
fn events(answer: &Answer) -> Vec<Value> {
    let mut events: Vec<&str> = answer
        .body
        .split("\n\n")
        .filter(|e| !e.is_empty())
        .collect();
    assert_eq!(events.pop(), Some("data: [DONE]"), "{answer:?}");
    events
        .into_iter()
        .enumerate()
        .map(|(i, event)| {
            let (kind, data) = event.split_once('\n').unwrap();
            let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
            assert_eq!(kind, format!("event: {}", data["type"].as_str().unwrap()));
            assert_eq!(data["sequence_number"], i, "{data}");
            data
        })
        .collect()
}

#[test]
fn whole_and_as_typed_events() {
    let gw = plain();
    let body = |stream: bool| json!({ "model": "openclaw", "input": "one two three", "instructions": "be brief", "metadata": { "a": "b" }, "stream": stream });
    let whole = post(&gw, &body(false)).json();
    assert_eq!(
        (&whole["object"], &whole["status"], &whole["error"]),
        (&json!("response"), &json!("completed"), &Value::Null)
    );
    assert!(said(&whole).contains("one two three"), "{whole}");
    assert_eq!(
        (&whole["metadata"], &whole["instructions"], &whole["store"]),
        (&json!({ "a": "b" }), &json!("be brief"), &json!(true))
    );
    assert!(whole["usage"]["total_tokens"].is_u64());
    // Asked for again it is the same.
    assert_eq!(get(&gw, TOKEN, &whole["id"]).json(), whole);

    let stream = post(&gw, &body(true));
    assert!(
        stream
            .header("content-type")
            .unwrap()
            .starts_with("text/event-stream")
    );
    let events = events(&stream);
    let kinds: Vec<&str> = events.iter().map(|e| e["type"].as_str().unwrap()).collect();
    assert_eq!(
        &kinds[..4],
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added"
        ]
    );
    assert_eq!(
        &kinds[kinds.len() - 4..],
        [
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed"
        ]
    );
    let deltas: String = events
        .iter()
        .filter(|e| e["type"] == "response.output_text.delta")
        .map(|e| e["delta"].as_str().unwrap())
        .collect();
    let last = &events[events.len() - 1]["response"];
    assert_eq!((deltas.as_str(), said(last)), (said(&whole), said(&whole)));
    assert_eq!(&get(&gw, TOKEN, &last["id"]).json(), last);
    assert_eq!(events[0]["response"]["id"], last["id"]);
    // A name that the agent does not have, and a body that is none.
    let unknown = post(&gw, &json!({ "model": "gpt-9", "input": "x" }));
    assert_eq!(unknown.status, 404, "{unknown:?}");
}

/// Continued by its id, in the same session; instructions that did not change are not said twice.
#[test]
fn continued_by_its_id() {
    let gw = plain();
    let first = post(
        &gw,
        &json!({ "model": "openclaw", "input": "first", "instructions": "be kind" }),
    )
    .json();
    let second = post(
        &gw,
        &json!({ "model": "openclaw", "previous_response_id": first["id"], "instructions": "be kind",
            "input": [
                { "role": "user", "content": "aside" },
                { "type": "message", "role": "assistant", "content": [{ "type": "output_text", "text": "noted" }] },
                { "role": "user", "content": [{ "type": "input_text", "text": "second" }] },
            ] }),
    )
    .json();
    assert_eq!(second["previous_response_id"], first["id"], "{second}");
    let third = post(
        &gw,
        &json!({ "model": "openclaw", "previous_response_id": second["id"], "instructions": "be short", "input": "third" }),
    )
    .json();
    assert!(said(&third).contains("third"), "{third}");
    let call = |method: &str, params: Value| {
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        gw.rpc(TOKEN, &body.to_string()).json()["result"].clone()
    };
    let sessions = call("sessions.list", json!({}));
    assert_eq!(sessions["sessions"].as_array().unwrap().len(), 1);
    let key = sessions["sessions"][0]["key"].as_str().unwrap().to_owned();
    assert!(key.starts_with("agent:main:openresponses:"), "{key}");
    let history = call("chat.history", json!({ "sessionKey": key }));
    let lines: Vec<(String, String)> = history["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| {
            let text = m["content"][0]["text"].as_str().unwrap();
            (m["role"].as_str().unwrap().to_owned(), text.to_owned())
        })
        .filter(|(role, text)| role != "assistant" || text == "noted")
        .collect();
    let lines: Vec<(&str, &str)> = lines.iter().map(|(r, t)| (&**r, &**t)).collect();
    assert_eq!(
        lines,
        [
            ("system", "be kind"),
            ("user", "first"),
            ("user", "aside"),
            ("assistant", "noted"),
            ("user", "second"),
            ("system", "be short"),
            ("user", "third"),
        ]
    );
    // A session that is gone does not hold what is continued.
    call("sessions.delete", json!({ "key": key }));
    let gone = post(
        &gw,
        &json!({ "model": "openclaw", "previous_response_id": third["id"], "input": "x" }),
    );
    assert_eq!(
        (gone.status, &gone.json()["error"]["code"]),
        (400, &json!("previous_response_not_found"))
    );
}

/// An id of another tenant, of another agent, one that was not stored and one that never was are all the same.
/// Covers: MT5.
#[test]
fn an_id_is_worth_something_to_its_owner_only() {
    let gw = configured(
        r#"agents: { entries: { main: { backend: "echo" }, other: { backend: "echo" } } },"#,
        |_| {},
    );
    let mine = post(&gw, &json!({ "model": "openclaw", "input": "mine" })).json();
    let passing = post(
        &gw,
        &json!({ "model": "openclaw", "input": "passing", "store": false }),
    )
    .json();
    assert_eq!(passing["store"], false);
    let never = json!("resp_0123456789abcdef0123456789abcdef");
    let unknown = get(&gw, TOKEN, &never);
    assert_eq!(unknown.status, 404, "{unknown:?}");
    for (token, id) in [(ACME, &mine["id"]), (TOKEN, &passing["id"])] {
        let answer = get(&gw, token, id);
        assert_eq!((answer.status, &answer.body), (404, &unknown.body));
    }
    let made = json!({ "jsonrpc": "2.0", "id": 1, "method": "apikeys.create", "params": { "name": "k", "agentId": "other" } });
    let key = gw.rpc(TOKEN, &made.to_string()).json()["result"]["secret"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(get(&gw, &key, &mine["id"]).body, unknown.body);
    let continued = |token: &str, model: &str, id: &Value| {
        let body = json!({ "model": model, "input": "x", "previous_response_id": id });
        let answer = ask(&gw, token, "POST", "/v1/responses", &body);
        (answer.status, answer.body)
    };
    let refused = continued(TOKEN, "openclaw", &never);
    assert_eq!(refused.0, 400, "{refused:?}");
    assert_eq!(continued(ACME, "openclaw", &mine["id"]), refused);
    assert_eq!(continued(&key, "openclaw", &mine["id"]), refused);
    assert_eq!(continued(TOKEN, "openclaw/other", &mine["id"]), refused);
    assert_eq!(continued(TOKEN, "openclaw", &passing["id"]), refused);
    // Nor can they be deleted or stopped by others.
    let path = format!("/v1/responses/{}", mine["id"].as_str().unwrap());
    for token in [ACME, &key] {
        assert_eq!(ask(&gw, token, "DELETE", &path, &Value::Null).status, 404);
        let cancel = format!("{path}/cancel");
        assert_eq!(ask(&gw, token, "POST", &cancel, &Value::Null).status, 404);
    }
    assert_eq!(get(&gw, TOKEN, &mine["id"]).json(), mine);
    let deleted = ask(&gw, TOKEN, "DELETE", &path, &Value::Null).json();
    assert_eq!(
        deleted,
        json!({ "id": mine["id"], "object": "response", "deleted": true })
    );
    assert_eq!(get(&gw, TOKEN, &mine["id"]).body, unknown.body);
    assert_eq!(continued(TOKEN, "openclaw", &mine["id"]), refused);
    assert_eq!(
        ask(&gw, TOKEN, "DELETE", "/v1/models", &Value::Null).status,
        405
    );
}

/// The same idempotency key gives the same response; another request with it is a conflict.
#[test]
fn repeated_with_an_idempotency_key() {
    let gw = plain();
    let bearer = format!("Bearer {TOKEN}");
    let post = |input: &str| {
        let body = json!({ "model": "openclaw", "input": input });
        gw.ask(
            "POST",
            "/v1/responses",
            &[
                ("Authorization", &bearer),
                ("Content-Type", "application/json"),
                ("Idempotency-Key", "k1"),
            ],
            body.to_string().as_bytes(),
        )
    };
    let first = post("one").json();
    assert_eq!(post("one").json(), first);
    assert_eq!(post("two").status, 409);
}

#[test]
fn what_cannot_be_done_is_refused_by_name() {
    let gw = plain();
    let tool = json!([{ "type": "function", "name": "f", "parameters": {} }]);
    let image =
        json!([{ "role": "user", "content": [{ "type": "input_image", "image_url": "x" }] }]);
    let result = json!([{ "type": "function_call_output", "call_id": "c", "output": "x" }]);
    let many: serde_json::Map<String, Value> =
        (0..17).map(|i| (i.to_string(), json!("x"))).collect();
    let table = [
        (json!({ "tools": tool }), "unsupported: tools"),
        (
            json!({ "tool_choice": "required" }),
            "unsupported: tool_choice",
        ),
        (json!({ "background": true }), "unsupported: background"),
        (json!({ "conversation": "c" }), "unsupported: conversation"),
        (json!({ "prompt": { "id": "p" } }), "unsupported: prompt"),
        (json!({ "include": ["x"] }), "unsupported: include"),
        (
            json!({ "text": { "format": { "type": "json_object" } } }),
            "unsupported: text.format",
        ),
        (json!({ "input": image }), "unsupported: input_image"),
        (
            json!({ "input": result }),
            "unsupported: function_call_output",
        ),
        (json!({ "input": [] }), "input: the last item"),
        (json!({ "input": " " }), "input: the last item"),
        (json!({ "input": 5 }), "input: must be"),
        (
            json!({ "input": [{ "role": "assistant", "content": "x" }] }),
            "input: the last item",
        ),
        (
            json!({ "input": [{ "role": "wizard", "content": "x" }] }),
            "input: the roles",
        ),
        (json!({ "model": 5 }), "model: must be"),
        (json!({ "model": null }), "model: is missing"),
        (json!({ "stream": "yes" }), "stream: must be"),
        (json!({ "metadata": many }), "metadata: must be"),
        (json!({ "metadata": { "a": 1 } }), "metadata: must be"),
    ];
    for (change, message) in table {
        let mut body = json!({ "model": "openclaw", "input": "hi" });
        body.as_object_mut()
            .unwrap()
            .extend(change.as_object().unwrap().clone());
        let answer = post(&gw, &body);
        assert_eq!(answer.status, 400, "{body} {answer:?}");
        let told = answer.json()["error"]["message"]
            .as_str()
            .unwrap()
            .to_owned();
        assert!(told.starts_with(message), "{body}: {told}");
    }
    // What asks for nothing is no reason to refuse.
    let idle = json!({ "model": "openclaw", "input": "hi", "tools": [], "tool_choice": "auto", "text": { "format": { "type": "text" } },
        "temperature": 0.5, "max_output_tokens": 100, "include": [], "background": false, "reasoning": null });
    assert_eq!(post(&gw, &idle).status, 200);
}

/// A response that goes on is told as such, can be stopped, and its stream then says that it failed.
#[test]
fn stopped_while_it_goes_on() {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let gw = upstream(listener.local_addr().unwrap());
    let asked = std::thread::spawn(move || listener.accept().unwrap().0);
    let body = json!({ "model": "openclaw", "stream": true, "input": "hi" }).to_string();
    let mut caller = gw.tcp();
    let head = format!(
        "POST /v1/responses HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    caller.write_all(head.as_bytes()).unwrap();
    let mut seen = String::new();
    let mut buf = [0; 4096];
    while !seen.contains("response.in_progress") {
        let n = caller.read(&mut buf).unwrap();
        assert!(n > 0, "{seen}");
        seen.push_str(&String::from_utf8_lossy(&buf[..n]));
    }
    let _model = asked.join().unwrap();
    let at = seen.find("resp_").unwrap();
    let id = json!(&seen[at..at + 37]);
    assert_eq!(get(&gw, TOKEN, &id).json()["status"], "in_progress");
    let cancel = format!("/v1/responses/{}/cancel", id.as_str().unwrap());
    let stopped = ask(&gw, TOKEN, "POST", &cancel, &Value::Null).json();
    assert_eq!(stopped["status"], "cancelled", "{stopped}");
    let rest = read_all(&mut caller).text();
    assert!(rest.contains("response.failed"), "{rest}");
    assert_eq!(get(&gw, TOKEN, &id).json()["status"], "cancelled");
}
