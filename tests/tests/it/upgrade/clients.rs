//! A thousand clients, and programs that ask over HTTP all the time, while the gateway is replaced.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use gateway_tests::process::Gateway;
use gateway_tests::ws::Ws;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::{PATIENCE, answers, lives, successor, upgrade};

/// Clients that are connected.
const CLIENTS: usize = 1_000;
/// Those among them that send messages all the time.
const TALKERS: usize = 32;
/// Programs that keep their connection.
const KEEPING: usize = 8;
/// Programs that open one for each request.
const OPENING: usize = 8;

#[derive(Default)]
struct Crowd {
    port: u16,
    token: String,
    over: AtomicBool,
    inside: AtomicUsize,
    /// Goodbyes with 1012.
    sent_away: AtomicUsize,
    /// Answers that said: later.
    put_off: AtomicUsize,
    /// Requests over HTTP that were answered.
    answered: AtomicUsize,
    /// Connections that ended before anything came back, after an earlier answer: HTTP lets a client repeat there.
    ended_idle: AtomicUsize,
    /// Longest time for an answer over HTTP, in ms.
    longest_ms: AtomicUsize,
    /// What must not be.
    failed: Mutex<Vec<String>>,
    /// When a client was back.
    back: Mutex<Vec<Instant>>,
}

impl Crowd {
    fn fail(&self, why: impl Into<String>) {
        self.failed.lock().unwrap().push(why.into());
    }

    fn over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    async fn tcp(&self, n: usize) -> std::io::Result<TcpStream> {
        let octet = |n: usize| u8::try_from(n % 250).unwrap_or(0);
        let from = Ipv4Addr::new(127, 3, octet(n / 200), 1 + octet(n % 200));
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let socket = TcpSocket::new_v4()?;
        socket.bind((from, 0).into())?;
        let stream = socket.connect(to).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// A connection that is let in; `None` when it was told to come again.
    async fn open(&self, n: usize) -> Result<Option<WebSocketStream<TcpStream>>, String> {
        let stream = self.tcp(n).await.map_err(|e| format!("connect: {e}"))?;
        let shaken = client_async(format!("ws://127.0.0.1:{}/", self.port), stream).await;
        let (mut ws, _) = match shaken {
            Ok(shaken) => shaken,
            // A thousand at the same moment: some are told to come later, as after any restart.
            Err(Error::Http(answer)) if answer.status() == 503 => {
                assert!(answer.headers().contains_key("retry-after"), "{answer:?}");
                return Ok(None);
            }
            Err(e) => return Err(format!("handshake: {e}")),
        };
        let connect = json!({"type": "req", "id": "c", "method": "connect", "params": {
            "minProtocol": 4, "maxProtocol": 4,
            "client": {"id": "cli", "version": "1.0.0", "platform": "linux", "mode": "cli"},
            "role": "operator", "scopes": ["operator.read", "operator.write"], "auth": {"token": self.token},
        }});
        let mut asked = false;
        while let Some(message) = ws.next().await {
            match message {
                Ok(Message::Text(text)) => {
                    if let Some(frame) = response(&text) {
                        if frame["ok"] == true {
                            return Ok(Some(ws));
                        }
                        if frame["error"]["retryable"] == true {
                            return Ok(None);
                        }
                        return Err(format!("connect: {frame}"));
                    }
                    if !std::mem::replace(&mut asked, true) {
                        let _ = ws.send(Message::text(connect.to_string())).await;
                    }
                }
                Ok(Message::Close(Some(close)))
                    if [1012, 1013].contains(&u16::from(close.code)) =>
                {
                    return Ok(None);
                }
                Ok(_) => {}
                Err(e) => return Err(format!("connect: {e}")),
            }
        }
        Err("closed without a word while it connected".to_owned())
    }

    async fn entered(&self, n: usize) -> WebSocketStream<TcpStream> {
        loop {
            match self.open(n).await {
                Ok(Some(ws)) => {
                    self.inside.fetch_add(1, Ordering::SeqCst);
                    self.back.lock().unwrap().push(Instant::now());
                    return ws;
                }
                Ok(None) => {
                    self.put_off.fetch_add(1, Ordering::SeqCst);
                }
                Err(why) => self.fail(format!("client {n}: {why}")),
            }
            let pause = 100 + u64::try_from(n % 13).unwrap_or(0) * 20;
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    /// Sends messages (or now and then asks for the health), each until it is accepted; gives how many were.
    async fn client(self: Arc<Self>, n: usize) -> usize {
        let (session, mut done, mut id) = (format!("agent:main:crowd-{n}"), 0, 0u64);
        let mut ws = self.entered(n).await;
        'requests: while !self.over() {
            let (method, params) = if n < TALKERS {
                let text = format!("word {done}");
                let key = format!("{session}-{done}");
                (
                    "chat.send",
                    json!({"sessionKey": session, "message": text, "idempotencyKey": key}),
                )
            } else {
                ("health", json!({}))
            };
            loop {
                id += 1;
                let frame = json!({"type": "req", "id": id.to_string(), "method": method, "params": params});
                let answer = match ws.send(Message::text(frame.to_string())).await {
                    Ok(()) => self.answer(&mut ws, &id.to_string()).await,
                    Err(_) => None,
                };
                match answer {
                    Some(frame) if frame["ok"] == true => break,
                    Some(frame) if frame["error"]["retryable"] == true => {
                        self.put_off.fetch_add(1, Ordering::SeqCst);
                        let pause = frame["error"]["retryAfterMs"]
                            .as_u64()
                            .unwrap_or(50)
                            .min(500);
                        tokio::time::sleep(Duration::from_millis(pause)).await;
                    }
                    Some(frame) => {
                        self.fail(format!("client {n}: {frame}"));
                        break 'requests;
                    }
                    None => {
                        self.inside.fetch_sub(1, Ordering::SeqCst);
                        tokio::time::sleep(Duration::from_millis(
                            u64::try_from(n % 50).unwrap() * 20,
                        ))
                        .await;
                        ws = self.entered(n).await;
                    }
                }
            }
            done += 1;
            let pause = if n < TALKERS {
                100
            } else {
                4_000 + u64::try_from(n).unwrap()
            };
            if let Err(()) = self.pause(&mut ws, Duration::from_millis(pause)).await {
                self.inside.fetch_sub(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(u64::try_from(n % 50).unwrap() * 20))
                    .await;
                ws = self.entered(n).await;
            }
        }
        done
    }

    /// The answer to a request; `None` when the connection ended with 1012 before it came.
    async fn answer(&self, ws: &mut WebSocketStream<TcpStream>, id: &str) -> Option<Value> {
        while let Some(message) = ws.next().await {
            match message {
                Ok(Message::Text(text)) => {
                    if let Some(frame) = response(&text).filter(|frame| frame["id"] == id) {
                        return Some(frame);
                    }
                }
                Ok(Message::Close(close)) => self.left(close.map(|c| u16::from(c.code))),
                Ok(_) => {}
                Err(_) => return None,
            }
        }
        None
    }

    fn left(&self, code: Option<u16>) {
        if code == Some(1012) {
            self.sent_away.fetch_add(1, Ordering::SeqCst);
        } else {
            self.fail(format!("closed with {code:?}"));
        }
    }

    /// Reads events for some time.
    async fn pause(&self, ws: &mut WebSocketStream<TcpStream>, time: Duration) -> Result<(), ()> {
        let until = tokio::time::Instant::now() + time;
        loop {
            match tokio::time::timeout_at(until, ws.next()).await {
                Err(_) => return Ok(()),
                Ok(Some(Ok(Message::Close(close)))) => self.left(close.map(|c| u16::from(c.code))),
                Ok(Some(Ok(_))) => {}
                Ok(_) => return Err(()),
            }
            if self.over() {
                return Ok(());
            }
        }
    }

    /// Asks over HTTP until the end; half of the requests start a run.
    async fn program(self: Arc<Self>, n: usize, keeps: bool) {
        let (mut kept, mut count) = (None::<TcpStream>, 0);
        while !self.over() {
            count += 1;
            let began = Instant::now();
            let request = self.request(n, count);
            let status = loop {
                let reused = kept.is_some();
                let mut stream = match kept.take() {
                    Some(stream) => stream,
                    None => match self.tcp(CLIENTS + n).await {
                        Ok(stream) => stream,
                        Err(e) => break format!("connect: {e}"),
                    },
                };
                match exchange(&mut stream, &request).await {
                    Ok((status, stays)) => {
                        kept = (keeps && stays).then_some(stream);
                        break status;
                    }
                    Err(0) if reused => {
                        self.ended_idle.fetch_add(1, Ordering::SeqCst);
                    }
                    Err(bytes) => break format!("ended after {bytes} bytes, reused: {reused}"),
                }
            };
            if status == "200" {
                self.answered.fetch_add(1, Ordering::SeqCst);
            } else {
                self.fail(format!("program {n}, request {count}: {status}"));
            }
            let took = usize::try_from(began.elapsed().as_millis()).unwrap();
            self.longest_ms.fetch_max(took, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn request(&self, n: usize, count: usize) -> String {
        let head = format!(
            "host: 127.0.0.1:{}\r\nauthorization: Bearer {}\r\n",
            self.port, self.token
        );
        if count.is_multiple_of(2) {
            return format!("GET /v1/models HTTP/1.1\r\n{head}\r\n");
        }
        let body = json!({
            "model": "openclaw", "user": format!("program-{n}"),
            "messages": [{"role": "user", "content": format!("request {count}")}],
        })
        .to_string();
        format!(
            "POST /v1/chat/completions HTTP/1.1\r\n{head}content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    async fn all_inside(&self) {
        let began = Instant::now();
        while self.inside.load(Ordering::SeqCst) < CLIENTS {
            assert!(
                began.elapsed() < PATIENCE,
                "{} of {CLIENTS} are inside; {:?}",
                self.inside.load(Ordering::SeqCst),
                self.failed.lock().unwrap()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The frame, if it is an answer. Events are not decoded: a thousand clients are told of a thousand clients, and all of them
/// are in this one process.
fn response(text: &str) -> Option<Value> {
    text.starts_with(r#"{"type":"res""#)
        .then(|| serde_json::from_str(text).unwrap())
}

/// One request and its answer: the status, and whether the connection stays. The error is the count of bytes that came.
async fn exchange(stream: &mut TcpStream, request: &str) -> Result<(String, bool), usize> {
    stream
        .write_all(request.as_bytes())
        .await
        .map_err(|_| 0usize)?;
    let mut raw = Vec::new();
    loop {
        let mut chunk = [0; 8 * 1024];
        let n = stream.read(&mut chunk).await.unwrap_or(0);
        if n == 0 {
            return Err(raw.len());
        }
        raw.extend_from_slice(&chunk[..n]);
        let text = String::from_utf8_lossy(&raw);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let head = head.to_ascii_lowercase();
        let field = |name: &str| {
            head.lines()
                .find_map(|l| l.strip_prefix(name)?.strip_prefix(':').map(str::trim))
        };
        let length: usize = field("content-length").unwrap().parse().unwrap();
        if body.len() >= length {
            let status = head.split(' ').nth(1).unwrap_or_default();
            let status = match status {
                "200" => "200".to_owned(),
                _ => text.clone().into_owned(),
            };
            return Ok((status, field("connection") != Some("close")));
        }
    }
}

/// A thousand clients are connected, some of them talk, and programs ask over HTTP without a pause, while `gateway upgrade`
/// replaces the process. No connection is refused, no request fails, every accepted message is answered once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_clients_and_no_failed_request() {
    crate::storm::raise_descriptor_limit();
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let mut gateway = Gateway::start(&state, &[]);
    let before = gateway.pid();
    let crowd = Arc::new(Crowd {
        port: gateway.port,
        token: gateway.token(),
        ..Crowd::default()
    });
    let clients: Vec<_> = (0..CLIENTS)
        .map(|n| tokio::spawn(crowd.clone().client(n)))
        .collect();
    crowd.all_inside().await;
    let programs: Vec<_> = (0..KEEPING + OPENING)
        .map(|n| tokio::spawn(crowd.clone().program(n, n < KEEPING)))
        .collect();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (answered, longest) = (
        crowd.answered.load(Ordering::SeqCst),
        crowd.longest_ms.swap(0, Ordering::SeqCst),
    );
    crowd.back.lock().unwrap().clear();

    let began = Instant::now();
    let (gateway, (done, told)) = tokio::task::spawn_blocking(move || {
        let told = upgrade(&gateway, &[]);
        assert!(gateway.ended().success());
        (gateway, told)
    })
    .await
    .unwrap();
    let upgraded = began.elapsed();
    assert!(done, "{told}");
    assert_eq!(told["stage"], "done", "{told}");
    assert_eq!(told["pidBefore"], before);
    let (gateway, now) = tokio::task::spawn_blocking(move || {
        let now = successor(&gateway, before);
        (gateway, now)
    })
    .await
    .unwrap();
    assert_eq!(told["pid"], now.0);
    assert!(!lives(before));
    crowd.all_inside().await;
    let back = crowd.back.lock().unwrap().iter().max().copied().unwrap() - began;
    // Also after it.
    tokio::time::sleep(Duration::from_secs(2)).await;
    crowd.over.store(true, Ordering::SeqCst);
    for program in programs {
        program.await.unwrap();
    }
    let mut accepted = Vec::new();
    for client in clients {
        accepted.push(client.await.unwrap());
    }
    println!(
        "upgrade {upgraded:?}, gap {} ms; all {CLIENTS} clients back {back:?} after its start, {} of them sent away with 1012, {} answers said later; over HTTP {answered} answers before and {} after, longest {longest} ms and {} ms, {} kept connections ended idle",
        told["gapMs"],
        crowd.sent_away.load(Ordering::SeqCst),
        crowd.put_off.load(Ordering::SeqCst),
        crowd.answered.load(Ordering::SeqCst) - answered,
        crowd.longest_ms.load(Ordering::SeqCst),
        crowd.ended_idle.load(Ordering::SeqCst),
    );
    let failed = crowd.failed.lock().unwrap().clone();
    assert!(
        failed.is_empty(),
        "{} failed: {:?}",
        failed.len(),
        &failed[..failed.len().min(5)]
    );
    assert!(crowd.sent_away.load(Ordering::SeqCst) >= CLIENTS);
    let mut ws = Ws::connect(gateway.port, "/", &gateway.token())
        .await
        .unwrap();
    for (n, count) in accepted.iter().enumerate().take(TALKERS) {
        assert!(*count > 0);
        let said = answers(&mut ws, &format!("agent:main:crowd-{n}"), *count).await;
        let wanted: Vec<String> = (0..*count).map(|i| format!("echo: word {i}")).collect();
        assert_eq!(said, wanted);
    }
}
