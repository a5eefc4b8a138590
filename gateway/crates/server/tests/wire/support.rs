//! A real gateway on a real socket, and clients that send exactly the bytes that a test wants.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use gateway_config::{LoadRequest, Overrides, Settings, load_text};
use gateway_core::host::HostOptions;
use gateway_server::{GatewayServer, GatewayServerOptions, start_gateway_server};
use gateway_store::SyncMode;
use serde_json::{Value, json};

/// Token of the tenant `main`.
pub const TOKEN: &str = "k7Q2v9XbT4mZr8Lw3NcY6hJd5FsG1pAeUoIqWxVtRy0";
/// Token of the tenant `acme`.
pub const ACME: &str = "Zp4Wc8RfM1xKt6BvQ9sLd3HyN7gJu2EaTo5IkXwCmVq";

/// A gateway for one test.
pub struct Gateway {
    pub rt: tokio::runtime::Runtime,
    pub server: Option<GatewayServer>,
    pub addr: SocketAddr,
    dir: tempfile::TempDir,
}

/// Starts a gateway; `change` sees the options before the start.
pub fn gateway(change: impl FnOnce(&mut GatewayServerOptions)) -> Gateway {
    configured("", change)
}

/// A gateway whose agent is the model server at `model`.
pub fn upstream(model: SocketAddr) -> Gateway {
    let agents = format!(
        r#"agents: {{ entries: {{ main: {{ backend: "openai", baseUrl: "http://{model}/v1", model: "m" }} }} }},"#
    );
    configured(&agents, |_| {})
}

/// A gateway with the tenant `main` alone, and more text in its configuration.
pub fn alone(more: &str) -> Gateway {
    let rt = runtime();
    let dir = tempfile::tempdir().unwrap();
    let text = format!(
        r#"{{ gateway: {{ auth: {{ mode: "token", token: "{TOKEN}" }}, allowedOrigins: ["https://page.example"], {more} }} }}"#
    );
    let gw = placed(rt, dir, &text, |_| {});
    gw.wait_ready();
    gw
}

/// A gateway with exactly this configuration.
pub fn just(text: &str) -> Gateway {
    let gw = placed(runtime(), tempfile::tempdir().unwrap(), text, |_| {});
    gw.wait_ready();
    gw
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// As [`gateway`], with more text in its configuration.
pub fn configured(more: &str, change: impl FnOnce(&mut GatewayServerOptions)) -> Gateway {
    let gw = starting(runtime(), more, change);
    gw.wait_ready();
    gw
}

/// A gateway on this runtime that listens, and may not be ready.
pub fn starting(
    rt: tokio::runtime::Runtime,
    more: &str,
    change: impl FnOnce(&mut GatewayServerOptions),
) -> Gateway {
    let dir = tempfile::tempdir().unwrap();
    placed(rt, dir, &text(TOKEN, more), change)
}

fn placed(
    rt: tokio::runtime::Runtime,
    dir: tempfile::TempDir,
    text: &str,
    change: impl FnOnce(&mut GatewayServerOptions),
) -> Gateway {
    let settings = parsed(dir.path(), text);
    let mut host = HostOptions::new(dir.path(), settings);
    host.guests = false;
    host.sync = SyncMode::Off;
    let mut options = GatewayServerOptions::new(host);
    options.port = Some(0);
    change(&mut options);
    options.runtime = Some(rt.handle().clone());
    let server = rt.block_on(start_gateway_server(options)).unwrap();
    Gateway {
        addr: server.local_addr(),
        rt,
        server: Some(server),
        dir,
    }
}

/// The settings of these tests, with this token of `main` and more text.
fn settings(dir: &std::path::Path, token: &str, more: &str) -> Settings {
    parsed(dir, &text(token, more))
}

fn text(token: &str, more: &str) -> String {
    format!(
        r#"{{
            gateway: {{ auth: {{ mode: "token", token: "{token}" }}, allowedHosts: ["x"], allowedOrigins: ["https://page.example", "https://acme.example"] }},
            {more}
            tenants: {{ acme: {{ hosts: ["acme.example"], auth: {{ mode: "token", token: "{ACME}" }} }} }},
        }}"#
    )
}

fn parsed(dir: &std::path::Path, text: &str) -> Settings {
    let request = LoadRequest {
        state_dir: dir.to_owned(),
        config_path: None,
        overrides: Overrides::default(),
        env: &|_| None,
    };
    load_text(text, &request, dir.join("gateway.json5")).unwrap()
}

/// A gateway as it comes.
pub fn plain() -> Gateway {
    gateway(|_| {})
}

impl Gateway {
    pub fn wait_ready(&self) {
        let mut ready = self.server.as_ref().unwrap().host().ready();
        self.rt.block_on(async {
            ready.wait_for(|r| *r).await.unwrap();
        });
    }

    pub fn tcp(&self) -> TcpStream {
        let s = TcpStream::connect(self.addr).unwrap();
        s.set_nodelay(true).unwrap();
        s.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        s
    }

    /// Sends bytes and reads until the connection ends or nothing came for `quiet`.
    pub fn raw(&self, bytes: &[u8], quiet: Duration) -> Raw {
        let mut s = self.tcp();
        s.set_read_timeout(Some(quiet)).unwrap();
        let _ = s.write_all(bytes);
        read_all(&mut s)
    }

    /// One request with its own connection; the answer's status, head and body.
    pub fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut head = format!("{method} {path} HTTP/1.1\r\n");
        if !headers.iter().any(|(n, _)| n.eq_ignore_ascii_case("host")) {
            head.push_str(&format!("Host: {}\r\n", self.addr));
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if method == "POST" {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head.push_str("Connection: close\r\n\r\n");
        let raw = self.raw(&[head.as_bytes(), body].concat(), Duration::from_secs(20));
        Answer::of(&raw.text())
    }

    pub fn rpc(&self, token: &str, body: &str) -> Answer {
        let bearer = format!("Bearer {token}");
        self.ask(
            "POST",
            "/rpc",
            &[
                ("Authorization", &bearer),
                ("Content-Type", "application/json"),
            ],
            body.as_bytes(),
        )
    }

    /// Upgrades; the socket, or the status of the refusal.
    pub fn upgrade(&self, path: &str, headers: &[(&str, &str)]) -> Result<Ws, u16> {
        let mut s = self.tcp();
        let mut head = format!(
            "GET {path} HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        );
        if !headers.iter().any(|(n, _)| n.eq_ignore_ascii_case("host")) {
            head.push_str(&format!("Host: {}\r\n", self.addr));
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        s.write_all(head.as_bytes()).unwrap();
        let mut seen = Vec::new();
        let mut byte = [0_u8; 1];
        while !seen.ends_with(b"\r\n\r\n") {
            match s.read(&mut byte) {
                Ok(1) => seen.push(byte[0]),
                _ => return Err(0),
            }
        }
        let head = String::from_utf8(seen).unwrap();
        match status(&head) {
            101 => Ok(Ws {
                s,
                head,
                buf: Vec::new(),
            }),
            other => Err(other),
        }
    }

    pub fn ws(&self) -> Ws {
        self.upgrade("/", &[]).unwrap()
    }

    /// A v4 socket whose handshake is finished, with all scopes.
    pub fn connected(&self) -> Ws {
        let mut ws = self.ws();
        assert_eq!(ws.json()["event"], "connect.challenge");
        ws.text(&connect(json!({})).to_string());
        let hello = ws.json();
        assert_eq!(hello["payload"]["type"], "hello-ok", "{hello}");
        ws.buf = Vec::new();
        ws
    }

    /// Changes the token of `main`, as a reload of the configuration does.
    pub fn rotate(&self, token: &str) {
        let host = self.server.as_ref().unwrap().host();
        host.sync_credentials(&settings(self.dir.path(), token, ""))
            .unwrap();
    }

    pub fn stop(mut self) {
        let server = self.server.take().unwrap();
        self.rt.block_on(server.shutdown());
    }
}

/// A good `connect`, with `change` merged into its params.
pub fn connect(change: Value) -> Value {
    let mut params = json!({
        "minProtocol": 4, "maxProtocol": 4,
        "client": { "id": "gateway-client", "version": "1.0.0", "platform": "linux", "mode": "backend" },
        "role": "operator", "scopes": ["operator.admin", "operator.read", "operator.write"],
        "auth": { "token": TOKEN },
    });
    for (key, value) in change.as_object().unwrap() {
        if value.is_null() {
            params.as_object_mut().unwrap().remove(key)
        } else {
            params
                .as_object_mut()
                .unwrap()
                .insert(key.clone(), value.clone())
        };
    }
    json!({ "type": "req", "id": "c", "method": "connect", "params": params })
}

/// What came back on a raw socket.
pub struct Raw {
    pub bytes: Vec<u8>,
    pub closed: bool,
}

impl Raw {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// Statuses of all answers that came.
    pub fn statuses(&self) -> Vec<u16> {
        let text = self.text();
        let lines = text
            .match_indices("HTTP/1.1 ")
            .map(|(at, _)| status(&text[at..]));
        lines.filter(|s| *s != 0).collect()
    }
}

pub fn read_all(s: &mut TcpStream) -> Raw {
    let mut bytes = Vec::new();
    let mut buf = [0; 65536];
    loop {
        match s.read(&mut buf) {
            Ok(0) => {
                return Raw {
                    bytes,
                    closed: true,
                };
            }
            Ok(n) => bytes.extend_from_slice(&buf[..n]),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Raw {
                    bytes,
                    closed: false,
                };
            }
            Err(_) => {
                return Raw {
                    bytes,
                    closed: true,
                };
            }
        }
    }
}

fn status(head: &str) -> u16 {
    head.get(9..12).and_then(|s| s.parse().ok()).unwrap_or(0)
}

/// One HTTP answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    fn of(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
        let body = if head
            .to_ascii_lowercase()
            .contains("transfer-encoding: chunked")
        {
            unchunk(body)
        } else {
            body.to_owned()
        };
        Self {
            status: status(head),
            head: head.to_owned(),
            body,
        }
    }

    pub fn header(&self, name: &str) -> Option<String> {
        self.head
            .lines()
            .filter_map(|l| l.split_once(": "))
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v.to_owned())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

fn unchunk(mut body: &str) -> String {
    let mut out = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            break;
        }
        out.push_str(&rest[..size]);
        body = &rest[size + 2..];
    }
    out
}

/// A WebSocket client that hides nothing.
pub struct Ws {
    pub s: TcpStream,
    pub head: String,
    buf: Vec<u8>,
}

/// A frame from the server.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    pub fin: bool,
    pub opcode: u8,
    pub payload: Vec<u8>,
}

/// A masked frame (with a mask of zeros).
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    match payload.len() {
        n @ 0..=125 => out.push(0x80 | n as u8),
        n @ 126..=65_535 => {
            out.push(0xfe);
            out.extend_from_slice(&(n as u16).to_be_bytes());
        }
        n => {
            out.push(0xff);
            out.extend_from_slice(&(n as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(payload);
    out
}

impl Ws {
    pub fn send(&mut self, first: u8, payload: &[u8]) {
        self.s.write_all(&frame(first, payload)).unwrap();
    }

    pub fn text(&mut self, text: &str) {
        self.send(0x81, text.as_bytes());
    }

    pub fn call(&mut self, id: &str, method: &str, params: Value) {
        self.text(
            &json!({ "type": "req", "id": id, "method": method, "params": params }).to_string(),
        );
    }

    /// The next frame; `None` when the stream is over or silent.
    pub fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some((frame, used)) = parse(&self.buf) {
                self.buf.drain(..used);
                return Some(frame);
            }
            let mut more = [0; 65536];
            match self.s.read(&mut more) {
                Ok(n) if n > 0 => self.buf.extend_from_slice(&more[..n]),
                _ => return None,
            }
        }
    }

    /// The next whole message, pings and pongs left out.
    pub fn message(&mut self) -> Option<Frame> {
        let mut whole: Option<Frame> = None;
        loop {
            let frame = self.frame()?;
            match (frame.opcode, &mut whole) {
                (8, _) => return Some(frame),
                (9 | 10, _) => continue,
                (0, Some(w)) => {
                    w.payload.extend_from_slice(&frame.payload);
                    w.fin = frame.fin;
                }
                _ => whole = Some(frame),
            }
            if whole.as_ref().is_some_and(|w| w.fin) {
                return whole;
            }
        }
    }

    pub fn json(&mut self) -> Value {
        let message = self.message().expect("a message");
        assert_eq!(message.opcode, 1, "{message:?}");
        serde_json::from_slice(&message.payload).unwrap()
    }

    /// The answer to a request, events left out.
    pub fn answer(&mut self, id: &str) -> Value {
        loop {
            let value = self.json();
            if value["type"] == "res" && value["id"] == id {
                return value;
            }
        }
    }

    /// Reads to the close frame: code and reason. `None` when the stream ended without one.
    pub fn closed(&mut self) -> Option<(u16, String)> {
        loop {
            let frame = self.frame()?;
            if frame.opcode == 8 {
                let code = if frame.payload.len() < 2 {
                    1005
                } else {
                    u16::from_be_bytes([frame.payload[0], frame.payload[1]])
                };
                return Some((
                    code,
                    String::from_utf8_lossy(frame.payload.get(2..).unwrap_or_default())
                        .into_owned(),
                ));
            }
        }
    }
}

fn parse(b: &[u8]) -> Option<(Frame, usize)> {
    let (first, second) = (*b.first()?, *b.get(1)?);
    assert_eq!(second & 0x80, 0, "a server does not mask");
    let (len, at) = match second {
        126 => (usize::from(u16::from_be_bytes([*b.get(2)?, *b.get(3)?])), 4),
        127 => (
            usize::try_from(u64::from_be_bytes(b.get(2..10)?.try_into().unwrap())).unwrap(),
            10,
        ),
        n => (usize::from(n), 2),
    };
    let payload = b.get(at..at + len)?.to_vec();
    assert_eq!(first & 0x70, 0, "no extension was negotiated");
    Some((
        Frame {
            fin: first & 0x80 != 0,
            opcode: first & 0x0f,
            payload,
        },
        at + len,
    ))
}

/// Resident memory of this process, in KiB.
pub fn rss_kib() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    text.lines()
        .find_map(|l| l.strip_prefix("VmRSS:"))
        .and_then(|l| l.trim().split(' ').next())
        .unwrap()
        .parse()
        .unwrap()
}

/// Waits until `f` is true.
pub fn until(what: &str, mut f: impl FnMut() -> bool) {
    let start = Instant::now();
    while !f() {
        assert!(start.elapsed() < Duration::from_secs(20), "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
