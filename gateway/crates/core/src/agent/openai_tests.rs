#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::SocketAddr;

use gateway_egress::EgressOptions;
use gateway_protocol::content::plain_text;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::*;
use crate::agent::testing::{Recorder, turn};
use crate::clock::{Clock, ManualClock};
use crate::tool::ToolCatalog;

const KEY: &str = "sk-canary-5f1e";

/// What the double does with one request, step by step.
#[derive(Clone)]
enum Step {
    /// Writes these bytes as they are.
    Raw(Vec<u8>),
    /// Writes the head of an event stream.
    Stream,
    /// One event of a stream, as a chunk of the body.
    Data(Value),
    /// One chunk of the body with this text.
    Text(String),
    /// The proper end of a chunked body; the connection stays.
    End,
    /// Waits until the client closes, and tells it.
    Hang,
    /// Writes a byte of a comment or of an unfinished line now and then, for ever.
    Drip,
    /// Closes with a reset.
    Reset,
    /// Closes properly.
    Close,
}

fn delta(text: &str) -> Step {
    Step::Data(
        json!({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": null}]}),
    )
}

fn finish(reason: &str) -> Step {
    Step::Data(json!({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}))
}

fn done() -> Step {
    Step::Text("data: [DONE]\n\n".into())
}

fn status(line: &str, headers: &str, body: &str) -> Step {
    Step::Raw(
        format!(
            "HTTP/1.1 {line}\r\n{headers}content-length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes(),
    )
}

/// A server that answers its requests by the script, in order, the last one for ever.
struct Upstream {
    addr: SocketAddr,
    requests: Arc<Mutex<Vec<(String, Value)>>>,
    connections: Arc<Mutex<usize>>,
    closed: mpsc::UnboundedReceiver<()>,
}

impl Upstream {
    async fn start(script: Vec<Vec<Step>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (tell, closed) = mpsc::unbounded_channel();
        let upstream = Self {
            addr,
            requests: Arc::default(),
            connections: Arc::default(),
            closed,
        };
        let (requests, connections) = (upstream.requests.clone(), upstream.connections.clone());
        tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    return;
                };
                stream.set_nodelay(true).unwrap();
                *connections.lock() += 1;
                tokio::spawn(connection(
                    stream,
                    script.clone(),
                    requests.clone(),
                    tell.clone(),
                ));
            }
        });
        upstream
    }

    fn backend(&self, first_byte_ms: u64, idle_ms: u64) -> OpenAiBackend {
        let settings = OpenAiSettings {
            base_url: format!("http://{}/v1", self.addr),
            model: "small".into(),
            embedding_model: None,
            api_key: Some(Secret::new(KEY.into())),
            first_byte_timeout_ms: first_byte_ms,
            idle_timeout_ms: idle_ms,
        };
        OpenAiBackend::new(
            Egress::new(EgressOptions::default()).unwrap(),
            "tenant-a".into(),
            &settings,
        )
        .unwrap()
    }

    /// A backend that waits long enough for every answer that comes.
    fn patient(&self) -> OpenAiBackend {
        self.backend(30_000, 30_000)
    }

    fn count(&self) -> usize {
        self.requests.lock().len()
    }
}

async fn connection(
    mut stream: TcpStream,
    script: Vec<Vec<Step>>,
    requests: Arc<Mutex<Vec<(String, Value)>>>,
    closed: mpsc::UnboundedSender<()>,
) {
    while let Some(request) = read_request(&mut stream).await {
        let at = {
            let mut requests = requests.lock();
            requests.push(request);
            (requests.len() - 1).min(script.len() - 1)
        };
        for step in script.get(at).cloned().unwrap_or_default() {
            let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len()).into_bytes();
            let bytes = match step {
                Step::Raw(bytes) => bytes,
                Step::Stream => b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n".to_vec(),
                Step::Data(json) => chunk(&format!("data: {json}\n\n")),
                Step::Text(text) => chunk(&text),
                Step::End => b"0\r\n\r\n".to_vec(),
                Step::Hang => {
                    let mut rest = [0; 64];
                    while stream.read(&mut rest).await.is_ok_and(|n| n > 0) {}
                    let _ = closed.send(());
                    return;
                }
                Step::Drip => {
                    let _ = stream.write_all(&chunk(": working\n\ndata: ")).await;
                    while stream.write_all(&chunk(" ")).await.is_ok() {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                    let _ = closed.send(());
                    return;
                }
                Step::Reset => {
                    // Lets the client read what was written first: a reset throws away what is still under way.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    stream.set_zero_linger().unwrap();
                    return;
                }
                Step::Close => return,
            };
            if stream.write_all(&bytes).await.is_err() {
                let _ = closed.send(());
                return;
            }
        }
    }
}

async fn read_request(stream: &mut TcpStream) -> Option<(String, Value)> {
    let mut seen = Vec::new();
    loop {
        if let Some(end) = seen.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&seen[..end]).to_string();
            let length = head.to_ascii_lowercase().lines().find_map(|l| {
                l.strip_prefix("content-length: ")
                    .and_then(|n| n.parse::<usize>().ok())
            })?;
            if seen.len() >= end + 4 + length {
                return Some((
                    head,
                    serde_json::from_slice(&seen[end + 4..end + 4 + length]).unwrap(),
                ));
            }
        }
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return None,
            Ok(n) => seen.extend_from_slice(&buffer[..n]),
        }
    }
}

async fn run(backend: &OpenAiBackend, turn: Turn, out: &Recorder) -> Result<TurnEnd, TurnError> {
    let result = backend.run(turn, out, CancellationToken::new()).await;
    // The invariants of every run, however it ends.
    let (text, messages, told) = match &result {
        Ok(end) => (&end.text, &end.messages, format!("{end:?}")),
        Err(e) => (&e.partial_text, &e.messages, format!("{e:?} {e}")),
    };
    assert_eq!(&out.text(), text, "the deltas joined are the text");
    let said: Vec<String> = messages
        .iter()
        .filter(|m| m.role == Role::Assistant)
        .map(|m| plain_text(&m.content))
        .filter(|t| !t.is_empty())
        .collect();
    assert_eq!(
        &said.join("\n\n"),
        text,
        "the messages say what was streamed"
    );
    assert!(
        !told.contains(KEY),
        "the key leaves in one header only: {told}"
    );
    result
}

#[tokio::test]
async fn an_answer_streams_and_the_connection_is_kept() {
    let usage = json!({"choices": [], "model": "small-2026", "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10, "prompt_tokens_details": {"cached_tokens": 4}}});
    let answer = vec![
        Step::Stream,
        delta(""),
        delta("Hel"),
        delta("lo "),
        delta("🐎"),
        finish("stop"),
        Step::Data(usage),
        done(),
        Step::End,
    ];
    let upstream = Upstream::start(vec![answer]).await;
    let backend = upstream.patient();
    for _ in 0..2 {
        let out = Recorder::default();
        let end = run(&backend, turn(&["first", "hi"]), &out).await.unwrap();
        assert_eq!(
            (end.text.as_str(), end.stop_reason, end.model.as_str()),
            ("Hello 🐎", StopReason::Stop, "small-2026")
        );
        assert_eq!(out.deltas(), ["Hel", "lo ", "🐎"]);
        assert_eq!(
            end.usage,
            Usage {
                input: 7,
                output: 3,
                cache_read: 4,
                cache_write: 0,
                total_tokens: 10
            }
        );
        assert_eq!(
            end.messages,
            [TurnMessage {
                role: Role::Assistant,
                content: vec![ContentBlock::text("Hello 🐎")]
            }]
        );
    }
    assert_eq!(
        *upstream.connections.lock(),
        1,
        "the second run used the same connection"
    );
    let (head, body) = upstream.requests.lock()[0].clone();
    assert!(
        head.starts_with("POST /v1/chat/completions HTTP/1.1\r\n"),
        "{head}"
    );
    assert!(
        head.contains(&format!("authorization: Bearer {KEY}")),
        "{head}"
    );
    let want = json!({
        "model": "small", "stream": true, "stream_options": {"include_usage": true},
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "first"}, {"role": "user", "content": "hi"}],
    });
    assert_eq!(body, want);
}

#[tokio::test]
async fn a_server_that_does_not_stream_is_understood() {
    let body = json!({"choices": [{"message": {"role": "assistant", "content": "whole"}, "finish_reason": "length"}], "usage": {"prompt_tokens": 1, "completion_tokens": 2}}).to_string();
    let upstream = Upstream::start(vec![vec![status(
        "200 OK",
        "content-type: application/json; charset=utf-8\r\n",
        &body,
    )]])
    .await;
    let end = run(&upstream.patient(), turn(&["hi"]), &Recorder::default())
        .await
        .unwrap();
    assert_eq!(
        (end.text.as_str(), end.stop_reason, end.usage.total_tokens),
        ("whole", StopReason::Length, 3)
    );
    assert_eq!(
        end.model, "small",
        "where the server names none, the asked one"
    );
}

/// The stream arrives in pieces of one byte, with CRLF, comments, an event name and data on two lines.
#[tokio::test]
async fn framing_does_not_matter() {
    let text = ": hi\r\n\r\nevent: message\r\ndata: {\"choices\":[{\"delta\":\r\ndata: {\"content\":\"žluť 🐎\"}}]}\r\n\r\ndata: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\r\n\r\ndata: [DONE]\r\n\r\n";
    let mut steps = vec![Step::Stream];
    steps.extend(
        text.as_bytes()
            .iter()
            .map(|b| Step::Raw([b"1\r\n".as_slice(), &[*b], b"\r\n"].concat())),
    );
    steps.push(Step::End);
    let upstream = Upstream::start(vec![steps]).await;
    assert_eq!(
        run(&upstream.patient(), turn(&["hi"]), &Recorder::default())
            .await
            .unwrap()
            .text,
        "žluť 🐎"
    );
}

/// Covers: F18.
#[tokio::test]
async fn a_stream_that_breaks_off_is_a_visible_error_and_is_not_asked_again() {
    let garbage = |text: &str| Step::Text(format!("data: {text}\n\n"));
    let cases: Vec<(&str, Vec<Step>)> = vec![
        ("reset", vec![Step::Reset]),
        ("closed inside of the body", vec![Step::Close]),
        (
            "proper end of the body without a finish reason",
            vec![Step::End],
        ),
        ("not JSON", vec![garbage("{\"choices\":[{\"del")]),
        ("not a completion", vec![garbage("[1,2]")]),
        (
            "wrong types",
            vec![garbage("{\"choices\":[{\"delta\":{\"content\":5}}]}")],
        ),
        (
            "not UTF-8",
            vec![Step::Raw(b"9\r\ndata: \xff\n\n\r\n".to_vec())],
        ),
        (
            "error object",
            vec![Step::Data(
                json!({"error": {"message": format!("overloaded {KEY}"), "code": 500}}),
            )],
        ),
        ("bad chunk", vec![Step::Raw(b"zz\r\n".to_vec())]),
    ];
    for (name, end) in cases {
        let mut steps = vec![Step::Stream, delta("kept "), delta("text")];
        steps.extend(end);
        let upstream = Upstream::start(vec![steps]).await;
        let error = run(&upstream.patient(), turn(&["hi"]), &Recorder::default())
            .await
            .unwrap_err();
        assert_eq!(
            (error.kind, error.partial_text.as_str()),
            (TurnErrorKind::Upstream, "kept text"),
            "{name}: {}",
            error.message
        );
        assert!(!error.message.is_empty());
        assert_eq!(
            upstream.count(),
            1,
            "{name}: never sent again after the first token"
        );
    }
}

/// Covers: F18.
#[tokio::test]
async fn an_answer_that_said_its_end_is_whole_whatever_follows() {
    for tail in [
        vec![done(), Step::End],
        vec![Step::End],
        vec![Step::Reset],
        vec![Step::Close],
        vec![done(), Step::Hang],
        vec![Step::Hang],
    ] {
        let mut steps = vec![Step::Stream, delta("all of it"), finish("stop")];
        steps.extend(tail);
        let upstream = Upstream::start(vec![steps]).await;
        let end = run(
            &upstream.backend(30_000, 200),
            turn(&["hi"]),
            &Recorder::default(),
        )
        .await
        .unwrap();
        assert_eq!(
            (end.text.as_str(), end.stop_reason),
            ("all of it", StopReason::Stop)
        );
    }
    for (reason, want) in [
        ("length", StopReason::Length),
        ("content_filter", StopReason::ContentFilter),
        ("eos", StopReason::Stop),
    ] {
        let upstream = Upstream::start(vec![vec![
            Step::Stream,
            delta("cut"),
            finish(reason),
            done(),
            Step::End,
        ]])
        .await;
        let end = run(&upstream.patient(), turn(&["hi"]), &Recorder::default())
            .await
            .unwrap();
        assert_eq!((end.text.as_str(), end.stop_reason), ("cut", want));
    }
}

/// Covers: F17, N9.
#[tokio::test]
async fn a_server_that_hangs_or_drips_frees_the_run() {
    let begun = Instant::now();
    let silent = Upstream::start(vec![vec![Step::Hang]]).await;
    let head_only = Upstream::start(vec![vec![Step::Stream, Step::Hang]]).await;
    let dripping = Upstream::start(vec![vec![Step::Stream, Step::Drip]]).await;
    for mut upstream in [silent, head_only, dripping] {
        let error = run(
            &upstream.backend(150, 60_000),
            turn(&["hi"]),
            &Recorder::default(),
        )
        .await
        .unwrap_err();
        assert_eq!(
            (error.kind, error.partial_text.as_str()),
            (TurnErrorKind::Timeout, ""),
            "{}",
            error.message
        );
        assert!(error.message.contains("did not begin"), "{}", error.message);
        assert_eq!(upstream.count(), 1, "a timeout is not tried again");
        upstream
            .closed
            .recv()
            .await
            .expect("the connection was closed");
    }
    for tail in [Step::Hang, Step::Drip] {
        let mut upstream = Upstream::start(vec![vec![Step::Stream, delta("kept"), tail]]).await;
        let error = run(
            &upstream.backend(60_000, 150),
            turn(&["hi"]),
            &Recorder::default(),
        )
        .await
        .unwrap_err();
        assert_eq!(
            (error.kind, error.partial_text.as_str()),
            (TurnErrorKind::Timeout, "kept"),
            "{}",
            error.message
        );
        assert!(error.message.contains("paused"), "{}", error.message);
        upstream
            .closed
            .recv()
            .await
            .expect("the connection was closed");
    }
    let mut upstream = Upstream::start(vec![vec![Step::Stream, delta("kept"), Step::Hang]]).await;
    let mut bounded = turn(&["hi"]);
    bounded.limits.total = Duration::from_millis(150);
    let error = run(&upstream.patient(), bounded, &Recorder::default())
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind, error.partial_text.as_str()),
        (TurnErrorKind::Timeout, "kept")
    );
    upstream
        .closed
        .recv()
        .await
        .expect("the connection was closed");
    // Each time the short bound was the one that ended it; the others are a minute.
    assert!(begun.elapsed() < Duration::from_secs(50));
}

#[tokio::test]
async fn an_abort_closes_the_connection_and_keeps_the_text() {
    let mut upstream = Upstream::start(vec![vec![
        Step::Stream,
        delta("so "),
        delta("far"),
        Step::Hang,
    ]])
    .await;
    let cancel = CancellationToken::new();
    let out = Recorder::cancelling_after(2, cancel.clone());
    let backend = upstream.patient();
    let error = backend.run(turn(&["hi"]), &out, cancel).await.unwrap_err();
    assert_eq!(
        (error.kind, error.partial_text.as_str()),
        (TurnErrorKind::Aborted, "so far")
    );
    assert_eq!(
        error.messages,
        [TurnMessage {
            role: Role::Assistant,
            content: vec![ContentBlock::text("so far")]
        }]
    );
    upstream
        .closed
        .recv()
        .await
        .expect("the connection was closed");
    let before = CancellationToken::new();
    before.cancel();
    let error = backend
        .run(turn(&["hi"]), &Recorder::default(), before)
        .await
        .unwrap_err();
    assert_eq!(error.kind, TurnErrorKind::Aborted);
    assert_eq!(
        upstream.count(),
        1,
        "a run that was aborted before it began asks nobody"
    );
}

fn good() -> Vec<Step> {
    vec![
        Step::Stream,
        delta("fine"),
        finish("stop"),
        done(),
        Step::End,
    ]
}

/// Covers: F18.
#[tokio::test]
async fn a_refusal_before_the_first_token_is_asked_again_when_the_server_says() {
    let cases = [
        (
            status("429 Too Many Requests", "retry-after: 0.2\r\n", "{}"),
            200,
        ),
        (
            status("503 Service Unavailable", "retry-after-ms: 120\r\n", "busy"),
            120,
        ),
        (
            status("500 Internal Server Error", "", ""),
            limits::UPSTREAM_RETRY_FIRST_MS,
        ),
        (Step::Reset, limits::UPSTREAM_RETRY_FIRST_MS),
    ];
    for (refusal, wait) in cases {
        let upstream = Upstream::start(vec![vec![refusal], good()]).await;
        let out = Recorder::default();
        let begun = Instant::now();
        let end = run(&upstream.patient(), turn(&["hi"]), &out).await.unwrap();
        assert_eq!((end.text.as_str(), upstream.count()), ("fine", 2));
        assert!(
            begun.elapsed() >= Duration::from_millis(wait),
            "the pause is kept"
        );
        let waits: Vec<u64> = out
            .statuses
            .lock()
            .iter()
            .filter_map(|s| {
                if let TurnStatus::Waiting { ms, .. } = s {
                    Some(*ms)
                } else {
                    None
                }
            })
            .collect();
        assert_eq!(waits, [wait]);
    }
}

/// Covers: F18.
#[tokio::test]
async fn a_server_that_goes_on_refusing_is_a_visible_error() {
    let told = format!("{{\"error\":{{\"message\":\"quota of {KEY} used up\"}}}}");
    let upstream = Upstream::start(vec![vec![status(
        "429 Too Many Requests",
        "retry-after-ms: 5\r\n",
        &told,
    )]])
    .await;
    let error = run(&upstream.patient(), turn(&["hi"]), &Recorder::default())
        .await
        .unwrap_err();
    assert_eq!(
        error.kind,
        TurnErrorKind::RateLimited {
            retry_after_ms: Some(5)
        }
    );
    assert!(
        error.message.contains("quota of *** used up"),
        "{}",
        error.message
    );
    assert_eq!(upstream.count(), 1 + limits::UPSTREAM_RETRIES_MAX as usize);

    // Longer than we wait: told to the caller at once.
    let upstream = Upstream::start(vec![vec![status(
        "429 Too Many Requests",
        "retry-after: 3600\r\n",
        "",
    )]])
    .await;
    let error = run(&upstream.patient(), turn(&["hi"]), &Recorder::default())
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind, upstream.count()),
        (
            TurnErrorKind::RateLimited {
                retry_after_ms: Some(3_600_000)
            },
            1
        )
    );

    for (line, body, want) in [
        (
            "400 Bad Request",
            "{\"error\":\"no such field\"}",
            "no such field",
        ),
        (
            "401 Unauthorized",
            "{\"error\":{\"message\":\"Incorrect API key sk-canary\"}}",
            "check apiKey",
        ),
        (
            "404 Not Found",
            "{\"error\":{\"message\":\"no model small\"}}",
            "no model small",
        ),
        ("302 Found", "", "redirects"),
        ("204 No Content", "", "204"),
    ] {
        let upstream = Upstream::start(vec![vec![status(line, "", body)]]).await;
        let error = run(&upstream.patient(), turn(&["hi"]), &Recorder::default())
            .await
            .unwrap_err();
        assert_eq!(
            (error.kind, upstream.count()),
            (TurnErrorKind::Refused, 1),
            "{line}"
        );
        assert!(
            error.message.contains(want) && !error.message.contains("sk-"),
            "{line}: {}",
            error.message
        );
    }

    let endless = format!(
        "HTTP/1.1 500 Internal Server Error\r\nretry-after: 9999\r\ncontent-length: 10000000\r\n\r\n{}",
        "é\n".repeat(50_000)
    );
    let upstream = Upstream::start(vec![vec![Step::Raw(endless.into_bytes()), Step::Hang]]).await;
    let error = run(&upstream.patient(), turn(&["hi"]), &Recorder::default())
        .await
        .unwrap_err();
    assert_eq!(error.kind, TurnErrorKind::Upstream);
    assert!(
        error.message.len() < 1000 && !error.message.contains('\n'),
        "{}",
        error.message
    );
}

/// Covers: F18.
#[tokio::test]
async fn a_server_that_is_down_is_left_alone_for_a_while() {
    let upstream = Upstream::start(vec![vec![status(
        "500 Internal Server Error",
        "retry-after-ms: 1\r\n",
        "",
    )]])
    .await;
    let backend = upstream.patient();
    for _ in 0..2 {
        run(&backend, turn(&["hi"]), &Recorder::default())
            .await
            .unwrap_err();
    }
    let asked = upstream.count();
    assert_eq!(asked, limits::UPSTREAM_BREAKER_FAILURES as usize);
    let error = run(&backend, turn(&["hi"]), &Recorder::default())
        .await
        .unwrap_err();
    assert!(
        error.message.contains("left alone") && upstream.count() == asked,
        "{}",
        error.message
    );
    // Its time is over: one more try, and one more failure is enough.
    backend.breaker.lock().open_until = Some(Instant::now());
    run(&backend, turn(&["hi"]), &Recorder::default())
        .await
        .unwrap_err();
    assert_eq!(upstream.count(), asked + 1);
}

/// Runs beyond the places at an upstream wait and are not refused; an aborted one gives its place back.
#[tokio::test]
async fn runs_wait_for_a_place_at_the_upstream() {
    let hold = vec![Step::Stream, delta("held"), Step::Hang];
    let upstream = Upstream::start(vec![hold, good()]).await;
    let mut backend = upstream.patient();
    backend.places = Semaphore::new(1);
    let cancel = CancellationToken::new();
    let (first_out, second_out) = (Recorder::default(), Recorder::default());
    let first = backend.run(turn(&["one"]), &first_out, cancel.clone());
    let second = run(&backend, turn(&["two"]), &second_out);
    let judge = async {
        while second_out.statuses.lock().is_empty() || first_out.text().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(matches!(
            second_out.statuses.lock()[0],
            TurnStatus::Waiting { .. }
        ));
        assert_eq!(upstream.count(), 1);
        cancel.cancel();
    };
    let (first, second, ()) = tokio::join!(first, second, judge);
    assert_eq!(first.unwrap_err().kind, TurnErrorKind::Aborted);
    assert_eq!(second.unwrap().text, "fine");
}

/// Covers: N1, N2.
#[tokio::test]
async fn a_redirect_of_the_server_gets_neither_prompt_nor_key() {
    let other = Upstream::start(vec![good()]).await;
    for code in [301, 302, 303, 307, 308] {
        let line = format!("{code} Elsewhere");
        let headers = format!("location: http://{}/v1/chat/completions\r\n", other.addr);
        let upstream = Upstream::start(vec![vec![status(&line, &headers, "")]]).await;
        let error = run(&upstream.patient(), turn(&["hi"]), &Recorder::default())
            .await
            .unwrap_err();
        assert_eq!(error.kind, TurnErrorKind::Refused);
        assert!(error.message.contains("baseUrl"), "{}", error.message);
    }
    assert_eq!(*other.connections.lock(), 0);
}

/// Covers: N7.
#[tokio::test]
async fn an_answer_that_floods_is_bounded() {
    let line = "x".repeat(64 * 1024);
    let mut steps = vec![Step::Stream, delta("kept"), Step::Text("data: ".into())];
    steps.extend(
        (0..=limits::UPSTREAM_EVENT_MAX_BYTES / line.len()).map(|_| Step::Text(line.clone())),
    );
    steps.push(Step::Hang);
    let upstream = Upstream::start(vec![steps]).await;
    let error = run(&upstream.patient(), turn(&["hi"]), &Recorder::default())
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind, error.partial_text.as_str()),
        (TurnErrorKind::TooLarge, "kept"),
        "{}",
        error.message
    );

    let upstream = Upstream::start(vec![vec![
        Step::Stream,
        delta("0123é"),
        delta("6789"),
        Step::Hang,
    ]])
    .await;
    let mut small = turn(&["hi"]);
    small.limits.text_bytes = 5;
    let error = run(&upstream.patient(), small, &Recorder::default())
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind, error.partial_text.as_str()),
        (TurnErrorKind::TooLarge, "0123")
    );
}

fn with_tools(texts: &[&str]) -> Turn {
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(1_709_210_096_789));
    let mut turn = turn(texts);
    turn.tools = Arc::new(ToolCatalog::builtin(&["current_time".into()], &clock).unwrap());
    turn
}

fn call_parts(id: &str, name: &str, parts: &[&str]) -> Vec<Step> {
    let mut steps = vec![Step::Data(
        json!({"choices": [{"delta": {"tool_calls": [{"index": 0, "id": id, "type": "function", "function": {"name": name, "arguments": ""}}]}}]}),
    )];
    steps.extend(parts.iter().map(|p| Step::Data(json!({"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"arguments": p}}]}}]}))));
    steps
}

#[tokio::test]
async fn a_tool_is_called_and_its_result_goes_back_to_the_model() {
    let usage = |n: u64| {
        Step::Data(json!({"choices": [], "usage": {"prompt_tokens": n, "completion_tokens": 1}}))
    };
    let mut first = vec![Step::Stream, delta("Let me look.")];
    first.extend(call_parts(
        "call_a",
        "current_time",
        &["{\"utc_offset", "_minutes\": 60}"],
    ));
    first.extend([finish("tool_calls"), usage(5), done(), Step::End]);
    let mut second = vec![Step::Stream];
    second.extend(call_parts("call_b", "no_such_tool", &["{}"]));
    second.extend([finish("tool_calls"), usage(6), done(), Step::End]);
    let third = vec![
        Step::Stream,
        delta("It is "),
        delta("half past one."),
        finish("stop"),
        usage(7),
        done(),
        Step::End,
    ];
    let upstream = Upstream::start(vec![first, second, third]).await;
    let out = Recorder::default();
    let end = run(&upstream.patient(), with_tools(&["what time is it?"]), &out)
        .await
        .unwrap();
    assert_eq!(end.text, "Let me look.\n\nIt is half past one.");
    assert_eq!(
        (end.usage.input, end.usage.output, end.usage.total_tokens),
        (18, 3, 21)
    );
    let tools = out.tools.lock().clone();
    let want = [
        "start call_a current_time {\"utc_offset_minutes\":60}",
        "result call_a current_time false",
        "start call_b no_such_tool {}",
        "result call_b no_such_tool true",
    ];
    assert_eq!(tools, want);
    let roles: Vec<Role> = end.messages.iter().map(|m| m.role).collect();
    assert_eq!(
        roles,
        [
            Role::Assistant,
            Role::ToolResult,
            Role::Assistant,
            Role::ToolResult,
            Role::Assistant
        ]
    );
    let result = ContentBlock::ToolResult {
        tool_call_id: "call_a".into(),
        name: "current_time".into(),
        text: "2024-02-29T13:34:56+01:00, Thursday".into(),
        is_error: false,
    };
    assert_eq!(end.messages[1].content, [result]);

    let requests = upstream.requests.lock().clone();
    assert_eq!(
        requests[0].1["tools"][0]["function"]["name"],
        "current_time"
    );
    let sent = requests[1].1["messages"].as_array().unwrap();
    assert_eq!(
        sent[2],
        json!({"role": "assistant", "content": "Let me look.", "tool_calls": [{"id": "call_a", "type": "function", "function": {"name": "current_time", "arguments": "{\"utc_offset_minutes\": 60}"}}]})
    );
    assert_eq!(
        sent[3],
        json!({"role": "tool", "tool_call_id": "call_a", "content": "2024-02-29T13:34:56+01:00, Thursday"})
    );
    assert!(
        requests[2].1["messages"][5]["content"]
            .as_str()
            .unwrap()
            .contains("no tool named")
    );
}

#[tokio::test]
async fn a_model_that_calls_tools_for_ever_is_stopped() {
    let mut again = vec![Step::Stream];
    again.extend(call_parts("", "current_time", &[""]));
    again.extend([finish("tool_calls"), done(), Step::End]);
    let upstream = Upstream::start(vec![again]).await;
    let mut turn = with_tools(&["loop"]);
    turn.limits.tool_rounds = 3;
    let error = run(&upstream.patient(), turn, &Recorder::default())
        .await
        .unwrap_err();
    assert_eq!(error.kind, TurnErrorKind::TooLarge);
    assert!(error.message.contains("3 rounds"), "{}", error.message);
    let choices: Vec<Value> = upstream
        .requests
        .lock()
        .iter()
        .map(|(_, body)| body["tool_choice"].clone())
        .collect();
    assert_eq!(
        choices,
        [Value::Null, Value::Null, json!("none")],
        "the last round is asked to answer without tools"
    );
    let ids: Vec<String> = error
        .messages
        .iter()
        .flat_map(|m| &m.content)
        .filter_map(|b| {
            if let ContentBlock::ToolCall { id, .. } = b {
                Some(id.clone())
            } else {
                None
            }
        })
        .collect();
    assert_eq!(
        ids,
        ["call_1_0", "call_2_0"],
        "calls without id get their own"
    );
}

/// An answer that was cut by a limit inside of a tool call does not run half a call.
#[tokio::test]
async fn a_cut_tool_call_is_not_executed() {
    let mut steps = vec![Step::Stream, delta("I will")];
    steps.extend(call_parts("call_a", "current_time", &["{\"utc_off"]));
    steps.extend([finish("length"), done(), Step::End]);
    let upstream = Upstream::start(vec![steps]).await;
    let out = Recorder::default();
    let end = run(&upstream.patient(), with_tools(&["hi"]), &out)
        .await
        .unwrap();
    assert_eq!(
        (end.text.as_str(), end.stop_reason, out.tools.lock().len()),
        ("I will", StopReason::Length, 0)
    );
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused_when_the_backend_is_built() {
    let build = |base_url: &str, key: &str| {
        let settings = OpenAiSettings {
            base_url: base_url.into(),
            model: "m".into(),
            embedding_model: None,
            api_key: Some(Secret::new(key.into())),
            first_byte_timeout_ms: 1,
            idle_timeout_ms: 1,
        };
        OpenAiBackend::new(
            Egress::new(EgressOptions::default()).unwrap(),
            "t".into(),
            &settings,
        )
    };
    assert!(build("https://api.example.com/v1", "k").is_ok());
    for (base_url, key) in [
        ("ftp://x/v1", "k"),
        ("http://user:pw@example.com/v1", "k"),
        ("http://example.com/v1?k=1", "k"),
        ("http://0x7f.1/v1", "k"),
        ("http://example.com/v1", "a\nb"),
    ] {
        let why = build(base_url, key).err().unwrap();
        assert!(!why.contains("a\nb"), "{why}");
    }
}
