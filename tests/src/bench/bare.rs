//! What the gateway is compared with: a tokio-tungstenite server that does nothing but answer with as many bytes as it is
//! told, the same behind rustls, and a model server that answers at once. Each runs in a process of its own.

use std::convert::Infallible;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, SinkExt, StreamExt};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

/// Largest answer, in bytes.
const TEMPLATE_BYTES: usize = 4 << 20;
const READ_BUFFER_BYTES: usize = 4096;
/// All answers of one read batch go out with one flush.
const WRITE_BUFFER_BYTES: usize = 65_536;
const CHALLENGE_BYTES: usize = 130;
/// Events that may wait for one connection.
const EVENTS_WAITING: usize = 256;
/// Tokens of a model answer.
pub const TOKENS: usize = 20;
/// Stands before the time at which a token was sent, in nanoseconds since 1970.
pub const STAMP: &str = "sent@";

type Subscribers = Arc<Mutex<Vec<mpsc::Sender<Utf8Bytes>>>>;

/// Nanoseconds since 1970, which two processes can compare.
pub fn unix_ns() -> u128 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default()
        .as_nanos()
}

/// How the model server answers.
#[derive(Debug, Clone, Copy)]
struct Script {
    tokens: usize,
    /// Time between two tokens of a stream; 0: all at once.
    pace: Duration,
}

/// `mock-model[:TOKENS[:PACE_MS]]`
fn script(kind: &str) -> Script {
    let mut numbers = kind.split(':').skip(1).map(|n| n.parse().unwrap());
    Script {
        tokens: numbers.next().unwrap_or(TOKENS),
        pace: Duration::from_millis(numbers.next().unwrap_or(0) as u64),
    }
}

/// Runs `bench bare-ws`, `bench bare-wss:DIR` (certificate and key as the gateway makes them in DIR) or
/// `bench mock-model[:TOKENS[:PACE_MS]]` until it is killed or its stdin ends.
pub fn main(kind: &str) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    // The parent holds the other end; when it is gone, so are we.
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        println!("{}", listener.local_addr().unwrap());
        std::io::stdout().flush().unwrap();
        match kind.split_once(':') {
            None if kind == "bare-ws" => websocket(listener, None).await,
            Some(("bare-wss", dir)) => {
                websocket(listener, Some(acceptor(Path::new(dir)).unwrap())).await;
            }
            _ => model(listener, script(kind)).await,
        }
    });
}

/// The settings of the gateway's own TLS: all versions and suites of the library, HTTP/1.1, tickets as they come.
fn acceptor(dir: &Path) -> io::Result<TlsAcceptor> {
    let pem = |name: &str| dir.join(name);
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_file_iter(pem("gateway-cert.pem"))
            .and_then(Iterator::collect)
            .map_err(io::Error::other)?;
    let key = PrivateKeyDer::from_pem_file(pem("gateway-key.pem")).map_err(io::Error::other)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|config| config.with_no_client_auth().with_single_cert(chain, key))
        .map_err(io::Error::other)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config).into())
}

async fn websocket(listener: TcpListener, tls: Option<TlsAcceptor>) {
    let mut text = String::from(r#"{"type":"res","id":"1","ok":true,"payload":""#);
    text.extend(std::iter::repeat_n('x', TEMPLATE_BYTES));
    let answers: Arc<str> = text.into();
    let mut text = String::from(r#"{"type":"event","event":"session.message","payload":""#);
    text.extend(std::iter::repeat_n('x', 65_536));
    let events: Arc<str> = text.into();
    let subscribers = Subscribers::default();
    while let Ok((socket, _)) = listener.accept().await {
        let _ = socket.set_nodelay(true);
        let (answers, events) = (answers.clone(), events.clone());
        let subscribers = subscribers.clone();
        match tls.clone() {
            None => {
                tokio::spawn(connection(socket, answers, events, subscribers));
            }
            Some(tls) => {
                tokio::spawn(async move {
                    if let Ok(socket) = tls.accept(socket).await {
                        connection(socket, answers, events, subscribers).await;
                    }
                });
            }
        }
    }
}

async fn connection(
    socket: impl AsyncRead + AsyncWrite + Unpin,
    answers: Arc<str>,
    events: Arc<str>,
    subscribers: Subscribers,
) {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_write_buffer_size(4 * TEMPLATE_BYTES);
    let Ok(mut ws) = tokio_tungstenite::accept_async_with_config(socket, Some(config)).await else {
        return;
    };
    if ws
        .send(Message::text(&answers[..CHALLENGE_BYTES]))
        .await
        .is_err()
    {
        return;
    }
    let (sender, mut inbox) = mpsc::channel::<Utf8Bytes>(EVENTS_WAITING);
    loop {
        let mut next = tokio::select! {
            message = ws.next() => Some(message),
            event = inbox.recv() => {
                let Some(event) = event else { return };
                if ws.feed(Message::Text(event)).await.is_err() { return }
                while let Ok(event) = inbox.try_recv() {
                    if ws.feed(Message::Text(event)).await.is_err() { return }
                }
                None
            }
        };
        while let Some(message) = next {
            let Some(Ok(message)) = message else { return };
            if let Message::Text(text) = message {
                let (order, size) = parse(text.as_str());
                match order {
                    'f' => {
                        let event = Utf8Bytes::from(&events[..size]);
                        for subscriber in subscribers.lock().unwrap().iter() {
                            let _ = subscriber.try_send(event.clone());
                        }
                    }
                    's' => subscribers.lock().unwrap().push(sender.clone()),
                    _ => {}
                }
                let size = if order == 'n' { size } else { CHALLENGE_BYTES };
                if ws.feed(Message::text(&answers[..size])).await.is_err() {
                    return;
                }
            }
            next = ws.next().now_or_never();
        }
        if ws.flush().await.is_err() {
            return;
        }
    }
}

/// `{"n":SIZE…`: answer with so many bytes; `{"f":SIZE…`: such an event to all subscribers; `{"s":0…`: subscribe.
fn parse(text: &str) -> (char, usize) {
    let order = text.chars().nth(2).unwrap_or('n');
    let digits = text.get(5..).unwrap_or("");
    let end = digits
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(digits.len());
    (
        order,
        digits[..end]
            .parse::<usize>()
            .unwrap_or(CHALLENGE_BYTES)
            .min(TEMPLATE_BYTES),
    )
}

/// A request for the bare server, `bytes` long as the one for the gateway.
pub fn order(letter: char, size: usize, bytes: usize) -> String {
    let mut text = format!(r#"{{"{letter}":{size},"p":""#);
    while text.len() + 2 < bytes {
        text.push('x');
    }
    text + "\"}"
}

async fn model(listener: TcpListener, script: Script) {
    while let Ok((socket, _)) = listener.accept().await {
        let _ = socket.set_nodelay(true);
        tokio::spawn(async move {
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(
                    TokioIo::new(socket),
                    service_fn(move |request| completion(request, script)),
                )
                .await;
        });
    }
}

fn event(delta: &str, finish: &str) -> String {
    format!(
        "data: {{\"id\":\"c1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"mock\",\"choices\":[{{\"index\":0,\"delta\":{delta},\"finish_reason\":{finish}}}]}}\n\n"
    )
}

/// Events of an answer, each of its own when they are paced.
async fn speak(script: Script, usage: &str, out: mpsc::Sender<Bytes>) {
    let paced = !script.pace.is_zero();
    let mut text = String::new();
    for i in 0..script.tokens {
        if paced {
            tokio::time::sleep(script.pace).await;
            text.push_str(&event(
                &format!("{{\"content\":\"{STAMP}{} \"}}", unix_ns()),
                "null",
            ));
            if out.send(std::mem::take(&mut text).into()).await.is_err() {
                return;
            }
        } else {
            text.push_str(&event(&format!("{{\"content\":\"tok{i} \"}}"), "null"));
        }
    }
    text.push_str(&event("{}", "\"stop\""));
    text.push_str(&format!(
        "data: {{\"id\":\"c1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"mock\",\"choices\":[],\"usage\":{usage}}}\n\n"
    ));
    text.push_str("data: [DONE]\n\n");
    let _ = out.send(text.into()).await;
}

async fn completion(
    request: Request<hyper::body::Incoming>,
    script: Script,
) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
    let body = request
        .into_body()
        .collect()
        .await
        .map(|b| b.to_bytes())
        .unwrap_or_default();
    let value: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    let usage = format!(
        r#"{{"prompt_tokens":5,"completion_tokens":{},"total_tokens":{}}}"#,
        script.tokens,
        script.tokens + 5
    );
    let (kind, body) = if value["stream"] == true {
        let (sender, mut events) = mpsc::channel(1);
        if script.pace.is_zero() {
            speak(script, &usage, sender).await;
            let whole = events.recv().await.unwrap_or_default();
            ("text/event-stream", Full::new(whole).boxed())
        } else {
            tokio::spawn(async move { speak(script, &usage, sender).await });
            let frames = futures_util::stream::poll_fn(move |cx| events.poll_recv(cx))
                .map(|piece| Ok(Frame::data(piece)));
            ("text/event-stream", BodyExt::boxed(StreamBody::new(frames)))
        }
    } else {
        let said: String = (0..script.tokens).map(|i| format!("tok{i} ")).collect();
        let whole = format!(
            "{{\"id\":\"c1\",\"object\":\"chat.completion\",\"created\":1,\"model\":\"mock\",\"choices\":[{{\"index\":0,\"message\":{{\"role\":\"assistant\",\"content\":\"{said}\"}},\"finish_reason\":\"stop\"}}],\"usage\":{usage}}}"
        );
        ("application/json", Full::new(Bytes::from(whole)).boxed())
    };
    Ok(Response::builder()
        .header("content-type", kind)
        .body(body)
        .unwrap())
}
