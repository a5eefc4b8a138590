//! What the real binary tells about itself: its log under attack and behind a blocked pipe, and its numbers as others read them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use gateway_tests::process::{Gateway, gateway_bin, guests_dir};
use gateway_tests::upstream::Upstream;
use serde_json::{Value, json};

use crate::trace::post;

/// One answer on a connection that stays open: status and body.
fn answer(socket: &mut TcpStream) -> (u16, String) {
    let mut bytes = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        let head = bytes.windows(4).position(|w| w == b"\r\n\r\n");
        if let Some(end) = head {
            let text = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
            let length = text
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .map_or(0, |n| n.trim().parse::<usize>().unwrap());
            if bytes.len() >= end + 4 + length {
                let status = text[9..12].parse().unwrap();
                let body = bytes[end + 4..end + 4 + length].to_vec();
                return (status, String::from_utf8(body).unwrap());
            }
        }
        let n = socket.read(&mut buffer).expect("no answer in time");
        assert!(n > 0, "closed: {}", String::from_utf8_lossy(&bytes));
        bytes.extend_from_slice(&buffer[..n]);
    }
}

fn connect(port: u16) -> TcpStream {
    let socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.set_nodelay(true).unwrap();
    // What takes longer counts as stalled.
    socket
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    socket
}

fn get(port: u16, path: &str, token: &str) -> (u16, String) {
    let mut socket = connect(port);
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer {token}\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).unwrap();
    answer(&mut socket)
}

/// A process that is killed when the test ends.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the binary with pipes that nobody reads.
fn unread(state: &Path) -> (Killed, u16) {
    let child = Command::new(gateway_bin())
        .args([
            "serve",
            "--port",
            "0",
            "--log-level",
            "debug",
            "--state-dir",
        ])
        .arg(state)
        .env_remove("GATEWAY_TOKEN")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let child = Killed(child);
    let began = Instant::now();
    loop {
        let run = std::fs::read_to_string(state.join("run/gateway.json")).unwrap_or_default();
        let run: Value = serde_json::from_str(&run).unwrap_or_default();
        if run["pid"] == child.0.id() {
            return (child, u16::try_from(run["port"].as_u64().unwrap()).unwrap());
        }
        assert!(began.elapsed() < Duration::from_secs(60), "no start");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Covers: F35.
#[test]
fn logs_that_nobody_reads_or_that_find_no_room_stall_no_request() {
    const REQUESTS: usize = 10_000;
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    drop(Gateway::start(&state, &[]));
    // A file on a full disk beside the pipe.
    let config = state.join("gateway.json5");
    let text = std::fs::read_to_string(&config).unwrap();
    let full = text.replace(
        "logging: { level: \"info\", format: \"text\" }",
        "logging: { file: { path: \"/dev/full\" } }",
    );
    assert_ne!(text, full);
    std::fs::write(&config, full).unwrap();
    let (mut gateway, port) = unread(&state);
    let token = std::fs::read_to_string(state.join("secrets/main/gateway-token")).unwrap();
    let token = token.trim();
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"sessions.list"}"#;
    let request = format!(
        "POST /rpc HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer {token}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut slowest = Duration::ZERO;
    for _ in 0..REQUESTS / 500 {
        let mut socket = connect(port);
        for _ in 0..500 {
            let began = Instant::now();
            socket.write_all(request.as_bytes()).unwrap();
            let (status, body) = answer(&mut socket);
            assert!(
                status == 200 && body.contains("\"result\""),
                "{status} {body}"
            );
            slowest = slowest.max(began.elapsed());
        }
    }
    // Nothing waits for the log; what a busy machine takes is another matter.
    assert!(slowest < Duration::from_secs(10), "{slowest:?}");
    let (status, metrics) = get(port, "/metrics", token);
    assert_eq!(status, 200);
    let number = |name: &str| -> f64 {
        let line = metrics.lines().find_map(|l| l.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{name}\n{metrics}"))
            .trim()
            .parse()
            .unwrap()
    };
    // Each request made a record for each of two sinks.
    let dropped = number("gateway_log_lines_dropped_total");
    assert!(dropped > REQUESTS as f64, "{dropped}");
    let calls = "gateway_requests_total{tenant=\"main\",method=\"sessions.list\",outcome=\"ok\"}";
    assert!(number(calls) >= REQUESTS as f64);
    // The end does not wait for a reader either.
    let pid = gateway.0.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .unwrap()
            .success()
    );
    let began = Instant::now();
    let status = loop {
        if let Some(status) = gateway.0.try_wait().unwrap() {
            break status;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "does not stop");
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(status.success(), "{status}");
}

/// Text of strangers that would forge lines, drive a terminal or turn a line around.
const HOSTILE: [&str; 5] = [
    "\u{1b}[2J\u{1b}]0;owned\u{7}",
    "x\n{\"level\":\"ERROR\",\"target\":\"gateway\",\"message\":\"forged\"}",
    "x\r\n2026-11-25T00:00:00.000Z ERROR gateway: forged",
    "\u{202e}gpj.exe\u{2028}ERROR forged",
    "\u{9b}31m\u{85}ERROR forged\u{0}",
];

fn attack(gateway: &Gateway, secret: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    for (n, hostile) in HOSTILE.iter().enumerate() {
        // Headers as raw bytes, before anybody proved who he is.
        for name in ["user-agent", "origin", "x-forwarded-for", "authorization"] {
            let mut socket = connect(gateway.port);
            let head = format!(
                "GET / HTTP/1.1\r\nhost: 127.0.0.1:{}\r\nconnection: close\r\n{name}: {hostile}\r\n\r\n",
                gateway.port
            );
            let _ = socket.write_all(head.as_bytes());
            let _ = socket.read_to_end(&mut Vec::new());
        }
        // Names and texts inside of calls, and a credential in the wrong place.
        let token = gateway.token();
        let bearer = format!("Bearer {token}");
        let call =
            json!({"jsonrpc": "2.0", "id": 1, "method": hostile, "params": {"token": token}});
        let send = json!({"jsonrpc": "2.0", "id": 1, "method": "chat.send", "params": {
            "message": format!("{hostile} {token}"), "sessionKey": hostile, "idempotencyKey": hostile}});
        let good = json!({"jsonrpc": "2.0", "id": 1, "method": "chat.send", "params": {
            "message": format!("{hostile} {token}"), "sessionKey": "main", "idempotencyKey": format!("k{n}")}});
        // A platform's message, with its secret again where it does not belong.
        let event = json!({"id": format!("{hostile}{n}"), "from": {"id": hostile, "name": hostile},
            "text": format!("{hostile} {secret}"), "reply": "hold"});
        runtime.block_on(async {
            let auth = [("authorization", bearer.as_str())];
            for body in [&call, &send, &good] {
                post(gateway.port, "/rpc", &auth, body).await;
            }
            let signed = [("x-webhook-secret", secret)];
            post(
                gateway.port,
                "/channels/webhook/default/inbound",
                &signed,
                &event,
            )
            .await;
        });
    }
    // A broken edit of the configuration that talks to the log.
    let config = gateway.state.join("gateway.json5");
    let good = std::fs::read_to_string(&config).unwrap();
    for hostile in HOSTILE {
        let key = serde_json::to_string(hostile).unwrap();
        std::fs::write(&config, format!("{{ {key}: 1 }}")).unwrap();
        std::thread::sleep(Duration::from_millis(700));
    }
    std::fs::write(&config, good).unwrap();
}

fn is_hostile(c: char) -> bool {
    (c.is_control() && c != '\n') || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}')
}

/// Covers: N18.
#[test]
fn texts_of_strangers_forge_no_record_and_no_sink_holds_a_secret() {
    for format in ["json", "text"] {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        drop(Gateway::start(&state, &[]));
        let config = state.join("gateway.json5");
        let text = std::fs::read_to_string(&config).unwrap();
        let with_file = text.replace(
            "logging: { level: \"info\", format: \"text\" }",
            "logging: { file: { path: \"logs/gateway.log\" } }",
        );
        assert_ne!(text, with_file);
        std::fs::write(&config, with_file).unwrap();
        let wasm = guests_dir();
        let flags = [
            "--wasm-dir",
            wasm.to_str().unwrap(),
            "--log-level",
            "trace",
            "--log-format",
            format,
        ];
        let gateway = Gateway::start(&state, &flags);
        let secret = std::fs::read_to_string(state.join("secrets/main/webhook-default-signing"));
        let (secret, token) = (secret.unwrap().trim().to_owned(), gateway.token());
        attack(&gateway, &secret);
        let (ok, tail, error) = gateway.cli(&["call", "logs.tail", "--json"]);
        assert!(ok, "{error}");
        let tail: Value = serde_json::from_str(&tail).unwrap();
        let lines: Vec<String> = tail["lines"]
            .as_array()
            .unwrap()
            .iter()
            .map(|l| l.as_str().unwrap().to_owned())
            .collect();
        assert!(lines.len() >= 5, "{lines:?}");
        let (log, file) = (gateway.log.clone(), state.join("logs/gateway.log"));
        assert!(gateway.stop().success());
        let (log, file) = (
            std::fs::read_to_string(log).unwrap(),
            std::fs::read_to_string(file).unwrap(),
        );
        for (sink, text) in [
            ("stderr", &log),
            ("file", &file),
            ("logs.tail", &lines.join("\n")),
        ] {
            assert!(
                !text.contains(&token) && !text.contains(&secret),
                "{sink} has a secret"
            );
            let odd: Vec<char> = text.chars().filter(|c| is_hostile(*c)).collect();
            assert!(odd.is_empty(), "{sink} has {odd:?}");
            assert!(
                !text.lines().any(|l| l.starts_with("2026-11-25T00:00")),
                "{sink}"
            );
        }
        assert!(log.contains("ended: ok"), "{log}");
        assert!(
            file.contains("listening") && file.contains("ended: ok"),
            "{file}"
        );
        if format == "json" {
            for line in file.lines() {
                let record: Value =
                    serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
                for field in ["time", "level", "target", "message"] {
                    assert!(record[field].is_string(), "{line}");
                }
                assert_ne!(record["message"], "forged", "{line}");
                if record["target"] == "gateway::tenant" {
                    assert_eq!(record["tenant"], "main", "{line}");
                }
            }
            let run = file.lines().find(|l| l.contains("ended: ok")).unwrap();
            let run: Value = serde_json::from_str(run).unwrap();
            assert!(run["run_id"].is_string(), "{run}");
        }
    }
}

/// Reads the text with the library that Prometheus publishes, checks each distribution, and prints what is there.
const READER: &str = r#"
import json, sys
from prometheus_client.parser import text_string_to_metric_families
out = {}
for family in text_string_to_metric_families(sys.stdin.read()):
    assert family.documentation and family.type != "unknown", family.name
    assert family.name not in out, family.name
    out[family.name] = [family.type, len(family.samples)]
    if family.type != "histogram":
        continue
    series = {}
    for s in family.samples:
        labels = tuple(sorted((k, v) for k, v in s.labels.items() if k != "le"))
        one = series.setdefault(labels, {"buckets": []})
        if s.name.endswith("_bucket"):
            one["buckets"].append((float(s.labels["le"]), s.value))
        else:
            one[s.name.rsplit("_", 1)[1]] = s.value
    for labels, one in series.items():
        bounds = [b for b, _ in one["buckets"]]
        counts = [c for _, c in one["buckets"]]
        assert bounds == sorted(bounds) and bounds[-1] == float("inf"), (family.name, bounds)
        assert counts == sorted(counts) and counts[-1] == one["count"], (family.name, labels)
        assert one["sum"] >= 0
print(json.dumps(out))
"#;

#[test]
fn prometheus_reads_the_metrics() {
    let python =
        std::env::var_os("GATEWAY_PYTHON").expect("GATEWAY_PYTHON is set by `cargo xtask test`");
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let wasm = guests_dir();
    let gateway = Gateway::start(&state, &["--wasm-dir", wasm.to_str().unwrap()]);
    let secret = std::fs::read_to_string(state.join("secrets/main/webhook-default-signing"));
    let secret = secret.unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let event = json!({"id": "1", "from": {"id": "una"}, "text": "hello", "reply": "hold"});
    let signed = [("x-webhook-secret", secret.trim())];
    let path = "/channels/webhook/default/inbound";
    let (status, body) = runtime.block_on(post(gateway.port, path, &signed, &event));
    assert_eq!(status, 200, "{body}");
    let (ok, _, error) = gateway.cli(&["chat", "--message", "hello"]);
    assert!(ok, "{error}");
    let (status, text) = get(gateway.port, "/metrics", &gateway.token());
    assert_eq!(status, 200);
    let mut reader = Command::new(python)
        .args(["-c", READER])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    reader
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let read = reader.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&read.stderr);
    assert!(read.status.success(), "{error}\n{text}");
    let families: Value = serde_json::from_slice(&read.stdout).unwrap();
    for (name, kind) in [
        ("gateway_requests", "counter"),
        ("gateway_request_seconds", "histogram"),
        ("gateway_connections", "gauge"),
        ("gateway_runs", "counter"),
        ("gateway_run_seconds", "histogram"),
        ("gateway_outbox_messages", "gauge"),
        ("gateway_deliveries", "counter"),
        ("gateway_guest_events", "counter"),
        ("gateway_guest_cpu_seconds", "counter"),
        ("gateway_store_commit_seconds", "histogram"),
        ("gateway_store_commit_writes", "histogram"),
        ("gateway_events_dropped", "counter"),
        ("gateway_log_lines_dropped", "counter"),
        ("gateway_connects", "counter"),
        ("gateway_bytes", "counter"),
        ("gateway_build_info", "gauge"),
        ("process_cpu_seconds", "counter"),
    ] {
        assert_eq!(families[name][0], kind, "{name}: {families}");
        assert!(
            families[name][1].as_u64() > Some(0),
            "{name} has no samples"
        );
    }
    for line in [
        "gateway_guest_events_total{tenant=\"main\",outcome=\"ok\"} ",
        "gateway_runs_total{tenant=\"main\",outcome=\"ok\"} ",
        "gateway_connects_total{outcome=\"ok\"} ",
    ] {
        let value = text.lines().find_map(|l| l.strip_prefix(line)).unwrap();
        assert!(value.parse::<f64>().unwrap() > 0.0, "{line}{value}");
    }
}

/// A collector that keeps what it is sent; the first request is answered 503.
fn collector() -> (u16, std::sync::Arc<std::sync::Mutex<Vec<Value>>>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let kept: std::sync::Arc<std::sync::Mutex<Vec<Value>>> = std::sync::Arc::default();
    let keep = kept.clone();
    std::thread::spawn(move || {
        let mut requests = 0;
        for socket in listener.incoming() {
            let mut socket = socket.unwrap();
            socket
                .set_read_timeout(Some(Duration::from_secs(10)))
                .unwrap();
            let (mut bytes, mut buffer) = (Vec::new(), [0; 64 * 1024]);
            let body = loop {
                let n = socket.read(&mut buffer).unwrap_or(0);
                if n == 0 {
                    break None;
                }
                bytes.extend_from_slice(&buffer[..n]);
                let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else {
                    continue;
                };
                let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
                assert!(head.starts_with("post /v1/traces "), "{head}");
                assert!(head.contains("content-type: application/json"), "{head}");
                let length: usize = head
                    .lines()
                    .find_map(|l| l.strip_prefix("content-length: "))
                    .map_or(0, |n| n.trim().parse().unwrap());
                if bytes.len() >= end + 4 + length {
                    break Some(bytes[end + 4..end + 4 + length].to_vec());
                }
            };
            let Some(body) = body else { continue };
            requests += 1;
            let status = if requests == 1 { "503 Busy" } else { "200 OK" };
            if requests > 1 {
                keep.lock()
                    .unwrap()
                    .push(serde_json::from_slice(&body).unwrap());
            }
            let answer =
                format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{{}}");
            let _ = socket.write_all(answer.as_bytes());
        }
    });
    (port, kept)
}

#[test]
fn the_stages_of_a_message_reach_a_collector_as_one_trace() {
    let (port, kept) = collector();
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    drop(Gateway::start(&state, &[]));
    let config = state.join("gateway.json5");
    let text = std::fs::read_to_string(&config).unwrap();
    let traced = text.replace(
        "logging: {",
        &format!(
            "telemetry: {{ otlp: {{ endpoint: \"http://127.0.0.1:{port}\" }} }},\n  logging: {{"
        ),
    );
    let traced = traced.replace("dmPolicy: \"pairing\"", "dmPolicy: \"open\"");
    let upstream = Upstream::start(None, "m", "canary-text of the model");
    let agent = format!(
        "main: {{ backend: \"openai\", baseUrl: {:?}, model: \"m\" }}",
        upstream.url()
    );
    let traced = traced.replace("main: { backend: \"echo\" }", &agent);
    assert!(traced.contains(&agent), "{traced}");
    assert!(traced.contains("dmPolicy: \"open\""), "{traced}");
    std::fs::write(&config, traced).unwrap();
    let wasm = guests_dir();
    let gateway = Gateway::start(&state, &["--wasm-dir", wasm.to_str().unwrap()]);
    let secret = std::fs::read_to_string(state.join("secrets/main/webhook-default-signing"));
    let secret = secret.unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let event = json!({"id": "1", "from": {"id": "una"}, "text": "canary-text", "reply": "hold"});
    // The sender has a trace of its own, and its span is what comes before.
    let (trace, span) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
    let parent = format!("00-{trace}-{span}-01");
    let signed = [
        ("x-webhook-secret", secret.trim()),
        ("traceparent", &*parent),
    ];
    let path = "/channels/webhook/default/inbound";
    let (status, body) = runtime.block_on(post(gateway.port, path, &signed, &event));
    assert!(
        status == 200 && body.contains("canary-text"),
        "{status} {body}"
    );
    let began = Instant::now();
    let spans: Vec<Value> = loop {
        let spans: Vec<Value> = kept
            .lock()
            .unwrap()
            .iter()
            .flat_map(|batch| batch["resourceSpans"].as_array().unwrap().clone())
            .flat_map(|resource| resource["scopeSpans"].as_array().unwrap().clone())
            .flat_map(|scope| scope["spans"].as_array().unwrap().clone())
            .collect();
        if spans.iter().any(|span| span["name"] == "message") {
            break spans;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{spans:?}");
        std::thread::sleep(Duration::from_millis(100));
    };
    let root = spans.iter().find(|span| span["name"] == "message").unwrap();
    // The start has spans of its own.
    let root = root.clone();
    let spans: Vec<Value> = spans
        .into_iter()
        .filter(|span| span["traceId"] == root["traceId"])
        .collect();
    let root = &root;
    let names: Vec<&str> = spans.iter().map(|s| s["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "verify", "guest", "commit", "route", "run", "outbox", "send", "message"
        ]
    );
    let number = |span: &Value, key: &str| span[key].as_str().unwrap().parse::<u128>().unwrap();
    let mut before = number(root, "startTimeUnixNano");
    for span in &spans[..7] {
        assert_eq!(span["traceId"], root["traceId"]);
        assert_eq!(span["parentSpanId"], root["spanId"]);
        let (from, to) = (
            number(span, "startTimeUnixNano"),
            number(span, "endTimeUnixNano"),
        );
        assert!(from == before && to >= from, "{span}");
        before = to;
    }
    assert_eq!(number(root, "endTimeUnixNano"), before);
    assert_eq!(root["traceId"], trace);
    assert_eq!(root["parentSpanId"], span);
    // The model server is told whose trace it is, below the span of the message.
    let told = |n: usize| upstream.asked()[n].header("traceparent").map(str::to_owned);
    let below = format!("00-{trace}-{}-01", root["spanId"].as_str().unwrap());
    assert_eq!(told(0), Some(below));
    // The run of a program's request has a span in the trace that it names; without one, or with nonsense, in a trace of its own.
    let bearer = format!("Bearer {}", gateway.token());
    for (given, named) in [
        (Some(&*parent), true),
        (Some("00-nonsense"), false),
        (None, false),
    ] {
        let mut headers = vec![("authorization", &*bearer)];
        headers.extend(given.map(|given| ("traceparent", given)));
        let ask = json!({"model": "openclaw", "messages": [{"role": "user", "content": "hi"}]});
        let (status, body) =
            runtime.block_on(post(gateway.port, "/v1/chat/completions", &headers, &ask));
        assert_eq!(status, 200, "{body}");
        let told = told(upstream.asked().len() - 1).unwrap();
        assert_eq!(told.starts_with(&format!("00-{trace}-")), named, "{told}");
        assert!(told.len() == parent.len() && !told.contains(span), "{told}");
    }
    assert!(!json!(spans).to_string().contains("canary"), "{spans:?}");
    // It is counted when the collector has answered.
    let exported = "gateway_spans_total{outcome=\"exported\"} ";
    let count = |line: &str| line.strip_prefix(exported)?.parse::<u64>().ok();
    loop {
        let (_, metrics) = get(gateway.port, "/metrics", &gateway.token());
        if metrics.lines().filter_map(count).any(|n| n >= 8) {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(90), "{metrics}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// One request on a JSON-RPC socket.
async fn over_socket(port: u16, token: &str, request: &Value) -> Value {
    use futures_util::{SinkExt, StreamExt};
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::client::IntoClientRequest;
    let address = format!("ws://127.0.0.1:{port}/rpc");
    let mut upgrade = address.into_client_request().unwrap();
    let bearer = format!("Bearer {token}").parse().unwrap();
    upgrade.headers_mut().insert("authorization", bearer);
    let (mut socket, _) = tokio_tungstenite::connect_async(upgrade).await.unwrap();
    let text = Message::text(request.to_string());
    socket.send(text).await.unwrap();
    let answer = loop {
        let next = tokio::time::timeout(Duration::from_secs(60), socket.next()).await;
        let Message::Text(text) = next.unwrap().unwrap().unwrap() else {
            continue;
        };
        let frame: Value = serde_json::from_str(text.as_str()).unwrap();
        if frame["id"] == request["id"] {
            break frame;
        }
    };
    let _ = socket.close(None).await;
    answer
}

/// Runs that are no answer to a channel message: each is a span below the one that its request named (on a socket, in a posted call, at
/// a hook), that of a job begins a trace; the model server is told of the run's own span. Also after a kill.
#[test]
fn a_run_hangs_under_what_asked_for_it() {
    let (port, kept) = collector();
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    drop(Gateway::start(&state, &[]));
    let upstream = Upstream::start(None, "m", "canary-text of the model");
    let hooks_token = "the-token-of-the-hooks-0123456789abcdef";
    let config = json!({
        "gateway": {"auth": {"token": {"file": "secrets/main/gateway-token"}}},
        "telemetry": {"otlp": {"endpoint": format!("http://127.0.0.1:{port}")}},
        "hooks": {"enabled": true, "token": hooks_token},
        "agents": {"entries": {"main": {"backend": "openai", "baseUrl": upstream.url(), "model": "m"}}},
    });
    std::fs::write(state.join("gateway.json5"), config.to_string()).unwrap();
    let gateway = Gateway::start(&state, &[]);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let context = |n: u8| {
        (
            format!("4bf92f3577b34da6a3ce929d0e0e470{n}"),
            format!("00f067aa0ba902b{n}"),
        )
    };
    let parent = |n: u8| {
        let (trace, span) = context(n);
        format!("00-{trace}-{span}-01")
    };
    let say = |n: u8, meta: Option<Value>| {
        let mut params = json!({
            "sessionKey": format!("agent:main:t{n}"), "message": format!("canary-text {n}"),
            "idempotencyKey": format!("run-{n}"),
        });
        if let Some(meta) = meta {
            params["_meta"] = meta;
        }
        json!({"jsonrpc": "2.0", "id": n, "method": "chat.send", "params": params})
    };
    let bearer = format!("Bearer {}", gateway.token());
    let call = |request: &Value, traceparent: Option<&str>| -> Value {
        let mut headers = vec![("authorization", &*bearer)];
        headers.extend(traceparent.map(|given| ("traceparent", given)));
        let (status, body) = runtime.block_on(post(gateway.port, "/rpc", &headers, request));
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    };
    // 1: the socket; 2: the header of a posted call; 3: the call's own word counts before the header's.
    let meta = |n: u8| Some(json!({"traceparent": parent(n), "progressToken": 1}));
    let answer = runtime
        .block_on(async { over_socket(gateway.port, &gateway.token(), &say(1, meta(1))).await });
    assert!(answer["result"].is_object(), "{answer}");
    let answer = call(&say(2, None), Some(&parent(2)));
    assert!(answer["result"].is_object(), "{answer}");
    let answer = call(&say(3, meta(3)), Some(&parent(9)));
    assert!(answer["result"].is_object(), "{answer}");
    let wrong = call(&say(8, Some(json!("text"))), None);
    assert_eq!(wrong["error"]["code"], -32602, "{wrong}");
    // 4: a hook.
    let hook = format!("Bearer {hooks_token}");
    let given = parent(4);
    let headers = [("authorization", &*hook), ("traceparent", &*given)];
    let ask = json!({"message": "canary-text 4", "deliver": false, "waitForCompletion": true});
    let (status, body) = runtime.block_on(post(gateway.port, "/hooks/agent", &headers, &ask));
    assert_eq!(status, 200, "{body}");
    // 5: a job.
    let request = |method: &str, params: Value| json!({"jsonrpc": "2.0", "id": 5, "method": method, "params": params});
    let job = json!({
        "name": "j", "schedule": {"kind": "every", "everyMs": 86_400_000, "anchorMs": 0}, "sessionTarget": "isolated",
        "wakeMode": "now", "payload": {"kind": "agentTurn", "message": "canary-text 5"},
    });
    let job = call(&request("cron.add", job), None)["result"]["id"].clone();
    let begun = call(
        &request("cron.run", json!({"id": job, "mode": "force"})),
        None,
    );
    assert!(begun["result"].is_object(), "{begun}");

    let began = Instant::now();
    let spans_of_runs = |least: usize| loop {
        let spans: Vec<Value> = kept
            .lock()
            .unwrap()
            .iter()
            .flat_map(|batch| batch["resourceSpans"].as_array().unwrap().clone())
            .flat_map(|resource| resource["scopeSpans"].as_array().unwrap().clone())
            .flat_map(|scope| scope["spans"].as_array().unwrap().clone())
            .filter(|span| span["name"] == "run")
            .collect();
        if spans.len() >= least {
            break spans;
        }
        assert!(began.elapsed() < Duration::from_secs(90), "{spans:?}");
        std::thread::sleep(Duration::from_millis(100));
    };
    let spans = spans_of_runs(5);
    assert_eq!(spans.len(), 5, "{spans:?}");
    let attribute = |span: &Value, key: &str| {
        let all = span["attributes"].as_array().unwrap().iter();
        let found = all.clone().find(|a| a["key"] == key);
        found.map_or(Value::Null, |a| a["value"]["stringValue"].clone())
    };
    let told = |n: u8| {
        let text = format!("canary-text {n}");
        let asked = upstream.asked();
        let one = asked.iter().find(|a| a.body.to_string().contains(&text));
        one.unwrap().header("traceparent").unwrap().to_owned()
    };
    let context_of = |span: &Value| {
        let text = |key: &str| span[key].as_str().unwrap().to_owned();
        format!("00-{}-{}-01", text("traceId"), text("spanId"))
    };
    for (n, origin) in [(1, "rpc"), (2, "rpc"), (3, "rpc"), (4, "hook")] {
        let (trace, before) = context(n);
        let span = spans.iter().find(|span| span["traceId"] == trace);
        let span = span.unwrap_or_else(|| panic!("{n}: {spans:?}"));
        assert_eq!(span["parentSpanId"], before, "{span}");
        assert_eq!(attribute(span, "gateway.origin"), origin, "{span}");
        assert_eq!(attribute(span, "gateway.run_state"), "ok", "{span}");
        assert_eq!(told(n), context_of(span));
    }
    let own = spans
        .iter()
        .find(|span| attribute(span, "gateway.origin") == "cron")
        .unwrap();
    assert!(own.get("parentSpanId").is_none(), "{own}");
    assert_eq!(told(5), context_of(own));
    assert!(!json!(spans).to_string().contains("canary"), "{spans:?}");

    // 6: accepted, and the process is killed while the model thinks: the next attempt is the same span of the same trace.
    upstream.hold(true);
    let before = upstream.completions();
    let answer = call(&say(6, meta(6)), None);
    assert!(answer["result"].is_object(), "{answer}");
    let asked = |n: usize| {
        while upstream.completions() < n {
            assert!(began.elapsed() < Duration::from_secs(120));
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    asked(before + 1);
    gateway.kill();
    let gateway = Gateway::start(&state, &[]);
    asked(before + 2);
    upstream.hold(false);
    let spans = spans_of_runs(6);
    let (trace, span) = context(6);
    let run = spans.iter().find(|span| span["traceId"] == trace).unwrap();
    assert_eq!(run["parentSpanId"], span, "{run}");
    let contexts: Vec<String> = upstream
        .asked()
        .iter()
        .filter(|a| a.body.to_string().contains("canary-text 6"))
        .map(|a| a.header("traceparent").unwrap().to_owned())
        .collect();
    assert_eq!(contexts, [context_of(run), context_of(run)]);
    gateway.stop();
}

/// A secret that a command stores is written down, whether or not a gateway runs, and the chain stays whole.
#[test]
fn a_secret_that_a_command_stores_is_in_the_audit_log() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let set = |name: &str| {
        let mut child = std::process::Command::new(gateway_tests::process::gateway_bin())
            .args(["secret", "set", name, "--json", "--state-dir"])
            .arg(&state)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut input, b"canary-secret-0123456789abcdef").unwrap();
        drop(input);
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        serde_json::from_slice::<Value>(&output.stdout).unwrap()["audited"].clone()
    };
    // Before the first start there is no log to write to.
    assert_eq!(set("early"), false);
    Gateway::start(&state, &[]).stop();
    assert_eq!(set("provider-key"), true);
    assert_eq!(set("provider-key"), true);
    let gateway = Gateway::start(&state, &[]);
    assert_eq!(set("while-it-runs"), false, "its log is the gateway's own");
    let (ok, out, err) = gateway.cli(&["audit", "list", "--json"]);
    assert!(ok, "{out}{err}");
    assert!(!out.contains("canary-secret"), "{out}");
    let told: Value = serde_json::from_str(&out).unwrap();
    let entries: Vec<&Value> = told["entries"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|e| e["action"] == "secret.set")
        .collect();
    assert_eq!(entries.len(), 2, "{out}");
    let text = format!("{entries:?}");
    assert!(
        text.contains("provider-key") && text.contains("command"),
        "{text}"
    );
    let replaced = |n: usize| entries[n].to_string().contains("\"replaced\":true");
    assert!(replaced(0) != replaced(1), "{text}");
    let (ok, out, err) = gateway.cli(&["audit", "verify", "--json"]);
    assert!(ok, "{out}{err}");
    assert!(gateway.stop().success());
}
