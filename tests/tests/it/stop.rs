//! How the real binary stops under load: what was accepted survives, who is connected is told, and it ends in time.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use gateway_tests::process::Gateway;
use gateway_tests::ws::Ws;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// How long a test waits for something to happen; not a performance statement.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the slow answer takes.
const SLOW: Duration = Duration::from_millis(1_500);

/// A model server: a message with `HANG` is not answered while `hangs`, one with `SLOW` late, all others at once.
struct Model {
    port: u16,
    asked: Arc<AtomicUsize>,
}

impl Model {
    async fn start(hangs: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let count = count.clone();
                tokio::spawn(async move {
                    let mut raw = Vec::new();
                    let body = loop {
                        let mut chunk = [0; 16 * 1024];
                        let Ok(n @ 1..) = socket.read(&mut chunk).await else {
                            return;
                        };
                        raw.extend_from_slice(&chunk[..n]);
                        let text = String::from_utf8_lossy(&raw).into_owned();
                        let Some((head, body)) = text.split_once("\r\n\r\n") else {
                            continue;
                        };
                        let length = head
                            .lines()
                            .find_map(|l| {
                                l.to_ascii_lowercase()
                                    .strip_prefix("content-length:")
                                    .map(str::to_owned)
                            })
                            .and_then(|l| l.trim().parse::<usize>().ok())
                            .unwrap_or(0);
                        if body.len() >= length {
                            break body.to_owned();
                        }
                    };
                    count.fetch_add(1, Ordering::SeqCst);
                    let body: Value = serde_json::from_str(&body).unwrap_or_default();
                    let last = body["messages"]
                        .as_array()
                        .and_then(|m| m.last())
                        .map(Value::to_string)
                        .unwrap_or_default();
                    if hangs && last.contains("HANG") {
                        tokio::time::sleep(PATIENCE * 2).await;
                    }
                    if last.contains("SLOW") {
                        tokio::time::sleep(SLOW).await;
                    }
                    let chunk = |delta: Value, end: Value| {
                        let chunk = json!({
                            "id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m",
                            "choices": [{"index": 0, "delta": delta, "finish_reason": end}],
                        });
                        format!("data: {chunk}\n\n")
                    };
                    let answer = format!(
                        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n{}{}data: [DONE]\n\n",
                        chunk(
                            json!({"role": "assistant", "content": "done by the model"}),
                            Value::Null
                        ),
                        chunk(json!({}), json!("stop")),
                    );
                    let _ = socket.write_all(answer.as_bytes()).await;
                });
            }
        });
        Self { port, asked }
    }

    async fn asked(&self, times: usize) {
        let started = Instant::now();
        while self.asked.load(Ordering::SeqCst) < times {
            assert!(started.elapsed() < PATIENCE, "the model was not asked");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn configure(state: &Path, model: u16, drain_ms: u64) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir_all(state).unwrap();
    let text = json!({
        "gateway": {"limits": {"drainTimeoutMs": drain_ms}},
        "agents": {"default": "echo", "entries": {
            "echo": {},
            "model": {"backend": "openai", "baseUrl": format!("http://127.0.0.1:{model}/v1"), "model": "m", "heartbeat": {"every": "0m"}},
        }},
    });
    let path = state.join("gateway.json5");
    std::fs::write(&path, text.to_string()).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

async fn say(ws: &mut Ws, session: &str, text: &str, key: &str) -> Result<Value, Value> {
    let ask = json!({"sessionKey": session, "message": text, "idempotencyKey": key});
    ws.call("chat.send", ask).await
}

/// Texts of a session, each with who said it.
async fn said(ws: &mut Ws, session: &str) -> Vec<(String, String)> {
    let history = ws
        .call(
            "chat.history",
            json!({"sessionKey": session, "limit": 1000}),
        )
        .await
        .unwrap();
    let text = |content: &Value| match content {
        Value::String(text) => text.clone(),
        blocks => blocks
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|b| b["text"].as_str())
            .collect(),
    };
    let messages = history["messages"].as_array().cloned().unwrap_or_default();
    messages
        .iter()
        .map(|m| {
            (
                m["role"].as_str().unwrap_or_default().to_owned(),
                text(&m["content"]),
            )
        })
        .collect()
}

/// Waits until the assistant has answered this session so often, and gives the answers.
async fn answers(ws: &mut Ws, session: &str, count: usize) -> Vec<String> {
    let started = Instant::now();
    loop {
        let all = said(ws, session).await;
        let answers: Vec<String> = all
            .iter()
            .filter(|(who, _)| who == "assistant")
            .map(|(_, text)| text.clone())
            .collect();
        if answers.len() >= count {
            return answers;
        }
        assert!(started.elapsed() < PATIENCE, "{session}: {all:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A client that talks until the gateway refuses; how many of its messages were accepted, and the refusal.
async fn talker(port: u16, token: String, session: String) -> (usize, Value, Ws) {
    let mut ws = Ws::connect(port, "/", &token).await.unwrap();
    let mut accepted = 0;
    loop {
        let n = accepted;
        match say(
            &mut ws,
            &session,
            &format!("word {n}"),
            &format!("{session}-{n}"),
        )
        .await
        {
            Ok(_) => accepted += 1,
            // The agent is slower than this client: the same once more, later.
            Err(refusal) if refusal["details"]["code"] == "OVERLOADED" => {}
            Err(refusal) => return (accepted, refusal, ws),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A connection on which one request was answered and which stays open.
fn kept_alive(port: u16) -> TcpStream {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(probe(&mut socket, port).starts_with("HTTP/1.1 200"));
    socket
}

fn probe(socket: &mut TcpStream, port: u16) -> String {
    let request = format!("GET /readyz HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n\r\n");
    socket.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let mut byte = [0; 1024];
    while !answer.ends_with(b"}") {
        match socket.read(&mut byte) {
            Ok(0) | Err(_) => break,
            Ok(n) => answer.extend_from_slice(&byte[..n]),
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// Write-ahead logs below a directory that still hold something.
fn logs_left(dir: &Path, left: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            logs_left(&path, left);
        } else if path.to_string_lossy().ends_with("-wal") && entry.metadata().unwrap().len() > 0 {
            left.push(path);
        }
    }
}

/// Covers: F25.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_under_load_ends_in_order_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let model = Model::start(true).await;
    configure(&state, model.port, 4_000);
    let mut gateway = Gateway::start(&state, &[]);
    let (port, token) = (gateway.port, gateway.token());
    let talkers: Vec<_> = (0..8)
        .map(|n| tokio::spawn(talker(port, token.clone(), format!("agent:echo:talk-{n}"))))
        .collect();
    let mut ws = Ws::connect(port, "/", &token).await.unwrap();
    // One ends within the budget, one does not.
    let slow = say(&mut ws, "agent:model:slow", "SLOW", "slow")
        .await
        .unwrap()["runId"]
        .clone();
    say(&mut ws, "agent:model:hang", "HANG", "hang")
        .await
        .unwrap();
    model.asked(2).await;
    let mut socket = kept_alive(port);
    let began = Instant::now();
    gateway.signal("TERM");
    let told = ws.event(|e| e["event"] == "shutdown").await.expect("told");
    assert!(told["payload"]["restartExpectedMs"].is_u64(), "{told}");
    // Probes on a connection that is there, and connections that are not.
    let answer = probe(&mut socket, port);
    assert!(
        answer.starts_with("HTTP/1.1 503") && answer.contains(r#""failing":["draining"]"#),
        "{answer}"
    );
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    let refusal = say(&mut ws, "agent:echo:late", "late", "late")
        .await
        .unwrap_err();
    assert_eq!(refusal["code"], "UNAVAILABLE", "{refusal}");
    assert_eq!(refusal["details"]["reason"], "gateway-restarting");
    assert!(refusal["retryable"] == true && refusal["retryAfterMs"].is_u64());
    // What was under way ends, and is told to who waits for it.
    ws.event(|e| {
        e["event"] == "chat" && e["payload"]["runId"] == slow && e["payload"]["state"] == "final"
    })
    .await
    .expect("the slow answer");
    while ws.frame().await.is_some() {}
    assert_eq!(ws.closed, Some((1012, "service restart".to_owned())));
    let status = tokio::task::block_in_place(|| gateway.ended());
    println!("SIGTERM to the end: {} ms", began.elapsed().as_millis());
    assert!(status.success(), "{status}");
    // The run that hangs has the whole budget of 4 s, and not much more.
    let took = began.elapsed();
    assert!(
        took >= Duration::from_millis(3_900) && took < Duration::from_secs(4 + 20),
        "{took:?}"
    );
    let mut left = Vec::new();
    logs_left(&state, &mut left);
    assert!(left.is_empty(), "not checkpointed: {left:?}");
    let mut accepted = Vec::new();
    for talker in talkers {
        let (count, refusal, _) = talker.await.unwrap();
        assert_eq!(
            refusal["details"]["reason"], "gateway-restarting",
            "{refusal}"
        );
        accepted.push(count);
    }
    assert!(accepted.iter().sum::<usize>() > 0);

    // What was accepted is there, each once; the run that did not end in time is taken up again.
    let model = Model::start(false).await;
    configure(&state, model.port, 4_000);
    let gateway = Gateway::start(&state, &[]);
    let mut ws = Ws::connect(gateway.port, "/", &gateway.token())
        .await
        .unwrap();
    for (n, count) in accepted.into_iter().enumerate() {
        let session = format!("agent:echo:talk-{n}");
        let answered = answers(&mut ws, &session, count).await;
        let wanted: Vec<String> = (0..count).map(|i| format!("echo: word {i}")).collect();
        assert_eq!(answered, wanted);
    }
    assert_eq!(
        answers(&mut ws, "agent:model:slow", 1).await,
        ["done by the model"]
    );
    assert_eq!(
        answers(&mut ws, "agent:model:hang", 1).await,
        ["done by the model"]
    );
    assert!(said(&mut ws, "agent:echo:late").await.is_empty());
    gateway.stop();
}

/// A second signal does not wait for the budget.
///
/// Covers: F25.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let model = Model::start(true).await;
    configure(&state, model.port, 600_000);
    let mut gateway = Gateway::start(&state, &[]);
    let mut ws = Ws::connect(gateway.port, "/", &gateway.token())
        .await
        .unwrap();
    say(&mut ws, "agent:model:hang", "HANG", "hang")
        .await
        .unwrap();
    model.asked(1).await;
    gateway.signal("TERM");
    ws.event(|e| e["event"] == "shutdown").await.expect("told");
    let began = Instant::now();
    gateway.signal("TERM");
    let status = tokio::task::block_in_place(|| gateway.ended());
    println!(
        "second SIGTERM to the end: {} ms",
        began.elapsed().as_millis()
    );
    assert_eq!(status.code(), Some(1));
    // The budget is ten minutes.
    assert!(began.elapsed() < PATIENCE);
}

/// A drain that is cut off by SIGKILL loses no accepted message.
///
/// Covers: F25.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigkill_in_the_middle_of_a_drain_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let model = Model::start(true).await;
    configure(&state, model.port, 600_000);
    let mut gateway = Gateway::start(&state, &[]);
    let (port, token) = (gateway.port, gateway.token());
    let talker = tokio::spawn(talker(port, token.clone(), "agent:echo:talk".to_owned()));
    let mut ws = Ws::connect(port, "/", &token).await.unwrap();
    say(&mut ws, "agent:model:hang", "HANG", "hang")
        .await
        .unwrap();
    model.asked(1).await;
    gateway.signal("TERM");
    ws.event(|e| e["event"] == "shutdown").await.expect("told");
    gateway.signal("KILL");
    tokio::task::block_in_place(|| gateway.ended());
    let (accepted, ..) = talker.await.unwrap();
    let model = Model::start(false).await;
    configure(&state, model.port, 600_000);
    let gateway = Gateway::start(&state, &[]);
    let mut ws = Ws::connect(gateway.port, "/", &gateway.token())
        .await
        .unwrap();
    let answered = answers(&mut ws, "agent:echo:talk", accepted).await;
    // The answer to the last one may not have reached its sender.
    assert!(answered.len() == accepted || answered.len() == accepted + 1);
    for (n, answer) in answered.iter().enumerate() {
        assert_eq!(*answer, format!("echo: word {n}"));
    }
    answers(&mut ws, "agent:model:hang", 1).await;
    gateway.stop();
}
