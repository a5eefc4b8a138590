//! A gateway that dies under many clients, all of which come back at once.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use gateway_tests::process::Gateway;
use gateway_tests::ws::Ws;
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

/// What the clients of the storm share.
#[derive(Default)]
struct Storm {
    port: AtomicU16,
    token: String,
    inside: AtomicUsize,
    /// Answers that told a client to come later.
    put_off: AtomicUsize,
    /// Time from the attempt that succeeded to hello-ok.
    waits: Mutex<Vec<Duration>>,
}

enum Refusal {
    /// The gateway said: later.
    Later,
    /// Nobody listens, or the connection broke.
    Broken,
}

impl Storm {
    /// Connects from an address of its own, as a client of its own does.
    async fn open(&self, n: usize) -> Result<WebSocketStream<TcpStream>, Refusal> {
        let broken = |_| Refusal::Broken;
        let octet = |n: usize| u8::try_from(n % 250).unwrap_or(0);
        let from = Ipv4Addr::new(127, 2, octet(n / 200), 1 + octet(n % 200));
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port.load(Ordering::SeqCst)));
        let socket = TcpSocket::new_v4().map_err(broken)?;
        socket.bind((from, 0).into()).map_err(broken)?;
        let stream = socket.connect(to).await.map_err(broken)?;
        let (mut ws, _) = client_async(format!("ws://{to}/"), stream)
            .await
            .map_err(|error| match error {
                Error::Http(answer) if answer.status() == 503 => {
                    assert!(answer.headers().contains_key("retry-after"), "{answer:?}");
                    Refusal::Later
                }
                _ => Refusal::Broken,
            })?;
        let connect = json!({"type": "req", "id": "1", "method": "connect", "params": {
            "minProtocol": 4, "maxProtocol": 4,
            "client": {"id": "cli", "version": "1.0.0", "platform": "linux", "mode": "cli"},
            "role": "operator", "scopes": ["operator.read"], "auth": {"token": self.token},
        }});
        let mut asked = false;
        while let Some(Ok(message)) = ws.next().await {
            match message {
                Message::Text(text) => {
                    let frame: Value = serde_json::from_str(&text).unwrap();
                    if frame["type"] == "res" {
                        assert_eq!(frame["ok"], true, "{frame}");
                        return Ok(ws);
                    }
                    if !std::mem::replace(&mut asked, true) {
                        let text = Message::text(connect.to_string());
                        ws.send(text).await.map_err(|_| Refusal::Broken)?;
                    }
                }
                Message::Close(Some(close)) if u16::from(close.code) == 1013 => {
                    return Err(Refusal::Later);
                }
                _ => {}
            }
        }
        Err(Refusal::Broken)
    }

    /// Stays connected, and comes back at once when the connection breaks.
    async fn client(self: Arc<Self>, n: usize) {
        loop {
            let began = Instant::now();
            match self.open(n).await {
                Ok(mut ws) => {
                    self.waits.lock().unwrap().push(began.elapsed());
                    self.inside.fetch_add(1, Ordering::SeqCst);
                    while let Some(Ok(_)) = ws.next().await {}
                    self.inside.fetch_sub(1, Ordering::SeqCst);
                }
                Err(Refusal::Later) => {
                    self.put_off.fetch_add(1, Ordering::SeqCst);
                    let pause = 1_000 + u64::try_from(n % 17).unwrap_or(0) * 50;
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                }
                Err(Refusal::Broken) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    async fn all_inside(&self, clients: usize) {
        let began = Instant::now();
        while self.inside.load(Ordering::SeqCst) < clients {
            assert!(
                began.elapsed() < Duration::from_secs(240),
                "{} of {clients} are inside",
                self.inside.load(Ordering::SeqCst)
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A thousand sockets are more than many systems give a program that does not ask.
pub fn raise_descriptor_limit() {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find(|l| l.starts_with("Max open files"));
    let hard = line.unwrap().split_whitespace().nth(4).unwrap();
    let own = std::process::id().to_string();
    let status = Command::new("prlimit")
        .args(["--pid", &own, &format!("--nofile={hard}:")])
        .status();
    assert!(status.unwrap().success());
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// A thousand clients (ten thousand in the long round) are connected when the gateway is killed. All come back at the same
/// moment, without any pause between their tries, and all get in; so does an operator who comes in the middle of it.
/// Covers: F12.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_comes_back_at_once_and_gets_in() {
    let clients = if std::env::var_os("GATEWAY_LONG").is_some() {
        9_900
    } else {
        1_000
    };
    raise_descriptor_limit();
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let gateway = Gateway::start(&state, &[]);
    let storm = Arc::new(Storm {
        port: gateway.port.into(),
        token: gateway.token(),
        ..Storm::default()
    });
    let all: Vec<_> = (0..clients)
        .map(|n| tokio::spawn(storm.clone().client(n)))
        .collect();
    storm.all_inside(clients).await;
    let first = resident_kib(gateway.pid());

    gateway.kill();
    while storm.inside.load(Ordering::SeqCst) > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    storm.waits.lock().unwrap().clear();
    let put_off = storm.put_off.swap(0, Ordering::SeqCst);
    let gateway = Gateway::start(&state, &[]);
    storm.port.store(gateway.port, Ordering::SeqCst);
    let began = Instant::now();
    // In the middle of it.
    let mut tries = 0;
    let mut operator = loop {
        match Ws::connect(gateway.port, "/", &gateway.token()).await {
            Ok(ws) => break ws,
            Err(_) => tries += 1,
        }
        assert!(tries < 50, "the operator does not get in");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    operator.call("health", json!({})).await.unwrap();
    let operator_in = began.elapsed();
    storm.all_inside(clients).await;
    let steady = began.elapsed();
    operator.call("status", json!({})).await.unwrap();
    let mut waits = storm.waits.lock().unwrap().clone();
    waits.sort_unstable();
    println!(
        "{clients} clients: {} put off at first, {} after the kill; hello p50 {:?}, p99 {:?}; operator in after {operator_in:?} and {tries} tries; all in after {steady:?}; {first} KiB, then {} KiB",
        put_off,
        storm.put_off.load(Ordering::SeqCst),
        waits[waits.len() / 2],
        waits[waits.len() * 99 / 100],
        resident_kib(gateway.pid()),
    );
    for client in all {
        client.abort();
    }
}
