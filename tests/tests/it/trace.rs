//! One webhook message from the wire to the reply: every stage is in the trace, and nothing of the message is.

use gateway_tests::process::{Gateway, guests_dir};
use gateway_tests::ws::Ws;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

/// Posts JSON and returns status and body.
pub async fn post(port: u16, path: &str, headers: &[(&str, &str)], body: &Value) -> (u16, String) {
    let socket = tokio::net::TcpStream::connect(("127.0.0.1", port))
        .await
        .unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket))
        .await
        .unwrap();
    tokio::spawn(connection);
    let mut request = http::Request::post(path)
        .header("host", format!("127.0.0.1:{port}"))
        .header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request
        .body(Full::new(bytes::Bytes::from(body.to_string())))
        .unwrap();
    let answer = sender.send_request(request).await.unwrap();
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_message_names_each_stage() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let wasm = guests_dir();
    let flags = [
        "--wasm-dir",
        wasm.to_str().unwrap(),
        "--log-level",
        "debug",
        "--log-format",
        "json",
    ];
    let gateway = Gateway::start(&state, &flags);
    let secret =
        std::fs::read_to_string(state.join("secrets/main/webhook-default-signing")).unwrap();
    let secret = [("x-webhook-secret", secret.trim())];
    let message = |id: &str| json!({"id": id, "from": {"id": "una", "name": "Una"}, "text": "canary-text-of-a-person", "reply": "hold"});
    // A stranger gets a code, is approved by the operator, and then an answer.
    let (status, body) = post(
        gateway.port,
        "/channels/webhook/default/inbound",
        &secret,
        &message("m1"),
    )
    .await;
    assert_eq!(status, 200, "{body}");
    let (ok, listed, _) = gateway.cli(&["pairing", "list", "--json"]);
    assert!(ok, "{listed}");
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let code = listed["requests"][0]["requestId"].as_str().unwrap();
    assert!(body.contains(code), "{body}");
    let (ok, _, error) = gateway.cli(&["pairing", "approve", code]);
    assert!(ok, "{error}");
    let (status, body) = post(
        gateway.port,
        "/channels/webhook/default/inbound",
        &secret,
        &message("m2"),
    )
    .await;
    assert_eq!(status, 200);
    assert!(body.contains("echo: canary-text-of-a-person"), "{body}");
    // The boot script left its greeting in the main session.
    let mut ws = Ws::connect(gateway.port, "/", &gateway.token())
        .await
        .unwrap();
    let history = ws
        .call("chat.history", json!({"sessionKey": "main"}))
        .await
        .unwrap();
    assert!(
        !history["messages"].as_array().unwrap().is_empty(),
        "{history}"
    );
    ws.close().await;
    let log = gateway.log.clone();
    assert!(gateway.stop().success());
    let text = std::fs::read_to_string(log).unwrap();
    let mut stages: Vec<(String, String)> = Vec::new();
    for line in text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
    {
        if line["target"] == "gateway::trace" {
            let field = |name: &str| {
                let value = if line["fields"][name].is_null() {
                    &line[name]
                } else {
                    &line["fields"][name]
                };
                value.as_str().unwrap_or("").to_owned()
            };
            stages.push((field("trace_id"), field("stage")));
        }
    }
    let last = stages
        .iter()
        .rev()
        .find(|(_, stage)| stage == "run")
        .map(|(id, _)| id.clone())
        .expect("a run in the trace");
    let of_message: Vec<&str> = stages
        .iter()
        .filter(|(id, _)| *id == last)
        .map(|(_, stage)| stage.as_str())
        .collect();
    assert_eq!(
        of_message,
        [
            "verify", "guest", "commit", "route", "run", "outbox", "send"
        ],
        "{stages:?}"
    );
    for line in text.lines().filter(|line| line.contains("gateway::trace")) {
        assert!(!line.contains("canary-text"), "{line}");
    }
    assert!(!text.contains(secret[0].1), "the secret is in the log");
}
