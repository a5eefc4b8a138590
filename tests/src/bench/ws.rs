//! The load generator: a WebSocket client that does as little as possible, the same for both servers.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const MASK: [u8; 4] = [0x5a, 0x13, 0xc7, 0x2e];
/// Longest wait for one message; a server that is silent for so long is broken.
const PATIENCE: Duration = Duration::from_secs(60);

/// A masked text frame.
pub fn frame(text: &str) -> Vec<u8> {
    frame_of(0x81, text.as_bytes())
}

fn frame_of(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 14);
    out.push(first);
    match body.len() {
        n if n < 126 => out.push(0x80 | u8::try_from(n).unwrap()),
        n if n < 65_536 => {
            out.push(0x80 | 126);
            out.extend_from_slice(&u16::try_from(n).unwrap().to_be_bytes());
        }
        n => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(n as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&MASK);
    out.extend(body.iter().enumerate().map(|(i, b)| b ^ MASK[i % 4]));
    out
}

/// Where a server listens, and what its certificate has to be if it speaks TLS.
#[derive(Clone)]
pub struct Endpoint {
    addr: SocketAddr,
    tls: Option<TlsConnector>,
}

impl From<SocketAddr> for Endpoint {
    fn from(addr: SocketAddr) -> Self {
        Self { addr, tls: None }
    }
}

impl Endpoint {
    /// A server that shows this certificate (PEM), and no other. Sessions are not resumed: each handshake is a whole one.
    pub fn tls(addr: SocketAddr, certificate: &Path) -> io::Result<Self> {
        let certificate = CertificateDer::from_pem_file(certificate).map_err(io::Error::other)?;
        let config =
            gateway_egress::tls::client_config(&[gateway_egress::tls::pin_of(&certificate)], &[])
                .map_err(io::Error::other)?;
        Ok(Self {
            addr,
            tls: Some(Arc::new(config).into()),
        })
    }

    async fn connect(&self) -> io::Result<Socket> {
        let socket = TcpStream::connect(self.addr).await?;
        socket.set_nodelay(true)?;
        Ok(match &self.tls {
            None => Socket::Plain(socket),
            Some(tls) => {
                let name = ServerName::IpAddress(self.addr.ip().into());
                Socket::Tls(Box::new(tls.connect(name, socket).await?))
            }
        })
    }
}

enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Socket {
    async fn read_buf(&mut self, buf: &mut Vec<u8>) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read_buf(buf).await,
            Self::Tls(socket) => socket.read_buf(buf).await,
        }
    }

    async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.write_all(bytes).await,
            Self::Tls(socket) => {
                socket.write_all(bytes).await?;
                socket.flush().await
            }
        }
    }
}

/// One connection after its handshake.
pub struct Conn {
    socket: Socket,
    buf: Vec<u8>,
    at: usize,
    whole: Vec<u8>,
    /// Bytes of the answer to the first request.
    pub hello_bytes: usize,
}

impl Conn {
    /// Upgrades, takes the challenge, sends `connect` and takes the hello.
    pub async fn open(server: impl Into<Endpoint>, connect: &str) -> io::Result<Self> {
        let server = server.into();
        let mut conn = Self {
            socket: server.connect().await?,
            buf: Vec::new(),
            at: 0,
            whole: Vec::new(),
            hello_bytes: 0,
        };
        let addr = server.addr;
        let upgrade = format!(
            "GET / HTTP/1.1\r\nHost: {addr}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        );
        conn.socket.write_all(upgrade.as_bytes()).await?;
        loop {
            if let Some(end) = conn.buf.windows(4).position(|w| w == b"\r\n\r\n") {
                if !conn.buf.starts_with(b"HTTP/1.1 101") {
                    return Err(io::Error::other(
                        String::from_utf8_lossy(&conn.buf).into_owned(),
                    ));
                }
                conn.at = end + 4;
                break;
            }
            conn.fill().await?;
        }
        conn.message(|_| ()).await?;
        conn.send(&frame(connect)).await?;
        loop {
            let hello = conn
                .message(|m| {
                    if is_event(m) {
                        Ok(None)
                    } else if contains(m, br#""ok":false"#) {
                        Err(io::Error::other(String::from_utf8_lossy(m).into_owned()))
                    } else {
                        Ok(Some(m.len()))
                    }
                })
                .await??;
            if let Some(bytes) = hello {
                conn.hello_bytes = bytes;
                return Ok(conn);
            }
        }
    }

    async fn fill(&mut self) -> io::Result<()> {
        if self.at == self.buf.len() {
            self.buf.clear();
            self.at = 0;
        } else if self.at > 65_536 {
            self.buf.drain(..self.at);
            self.at = 0;
        }
        self.buf.reserve(16_384);
        let read = self.socket.read_buf(&mut self.buf);
        match tokio::time::timeout(PATIENCE, read).await {
            Ok(Ok(0)) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Sends bytes that are frames already.
    pub async fn send(&mut self, frames: &[u8]) -> io::Result<()> {
        self.socket.write_all(frames).await
    }

    /// Gives the next text message to `with`. Pings are answered.
    pub async fn message<T>(&mut self, with: impl FnOnce(&[u8]) -> T) -> io::Result<T> {
        self.whole.clear();
        loop {
            let Some((first, start, end)) = self.header() else {
                self.fill().await?;
                continue;
            };
            if self.buf.len() < end {
                self.fill().await?;
                continue;
            }
            self.at = end;
            match first & 0x0f {
                0x8 => {
                    let why =
                        String::from_utf8_lossy(self.buf.get(start + 2..end).unwrap_or_default())
                            .into_owned();
                    return Err(io::Error::other(format!("closed by the server: {why}")));
                }
                0x9 => {
                    let pong = frame_of(0x8a, &self.buf[start..end]);
                    self.socket.write_all(&pong).await?;
                }
                0xa => {}
                _ if first & 0x80 != 0 && self.whole.is_empty() => {
                    return Ok(with(&self.buf[start..end]));
                }
                _ => {
                    self.whole.extend_from_slice(&self.buf[start..end]);
                    if first & 0x80 != 0 {
                        return Ok(with(&self.whole));
                    }
                }
            }
        }
    }

    fn header(&self) -> Option<(u8, usize, usize)> {
        let b = self.buf.get(self.at..)?;
        let (first, second) = (*b.first()?, *b.get(1)?);
        let (size, head) = match second & 0x7f {
            126 => (
                usize::from(u16::from_be_bytes(b.get(2..4)?.try_into().ok()?)),
                4,
            ),
            127 => (
                usize::try_from(u64::from_be_bytes(b.get(2..10)?.try_into().ok()?)).ok()?,
                10,
            ),
            n => (usize::from(n), 2),
        };
        Some((first, self.at + head, self.at + head + size))
    }

    /// The next message that is no event; its bytes, and whether it was an error.
    pub async fn answer(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(bytes) = self.message(|m| (!is_event(m)).then(|| m.to_vec())).await? {
                return Ok(bytes);
            }
        }
    }

    /// Request and answer; an error answer is an error.
    pub async fn call(&mut self, text: &str) -> io::Result<Vec<u8>> {
        self.send(&frame(text)).await?;
        let bytes = self.answer().await?;
        if contains(&bytes, br#""ok":false"#) {
            return Err(io::Error::other(
                String::from_utf8_lossy(&bytes).into_owned(),
            ));
        }
        Ok(bytes)
    }
}

/// The frame is an event (both servers put the type first).
pub fn is_event(message: &[u8]) -> bool {
    message.starts_with(br#"{"type":"event""#)
}

/// `needle` is somewhere in `message`.
pub fn contains(message: &[u8], needle: &[u8]) -> bool {
    message.windows(needle.len()).any(|w| w == needle)
}

/// Requests per second, and latencies in milliseconds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rate {
    pub per_s: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
}

/// From single latencies and the time of all.
pub fn rate(mut latencies: Vec<f64>, all: Duration) -> Rate {
    latencies.sort_by(f64::total_cmp);
    let at = |q: f64| latencies[((latencies.len() - 1) as f64 * q).round() as usize];
    Rate {
        per_s: latencies.len() as f64 / all.as_secs_f64(),
        p50_ms: at(0.5),
        p99_ms: at(0.99),
    }
}

/// `conns` connections, each with `requests` in flight, until each has sent `batches` batches.
pub async fn load(
    server: impl Into<Endpoint>,
    connect: &str,
    conns: usize,
    requests: &[String],
    batches: usize,
) -> io::Result<Rate> {
    let depth = requests.len();
    let bytes: Vec<u8> = requests.iter().flat_map(|r| frame(r)).collect();
    let server = server.into();
    let mut open = Vec::new();
    for _ in 0..conns {
        open.push(Conn::open(server.clone(), connect).await?);
    }
    let local = tokio::task::LocalSet::new();
    let started = Instant::now();
    let tasks: Vec<_> = open
        .into_iter()
        .map(|mut conn| {
            let bytes = bytes.clone();
            local.spawn_local(async move {
                let mut latencies = Vec::with_capacity(batches * depth);
                for _ in 0..batches {
                    let begun = Instant::now();
                    conn.send(&bytes).await?;
                    let mut left = depth;
                    while left > 0 {
                        match conn
                            .message(|m| (is_event(m), m.starts_with(b"{\"type\":\"res\"")))
                            .await?
                        {
                            (true, _) => {}
                            (false, true) => {
                                left -= 1;
                                latencies.push(begun.elapsed().as_secs_f64() * 1e3);
                            }
                            _ => return Err(io::Error::other("neither answer nor event")),
                        }
                    }
                }
                Ok(latencies)
            })
        })
        .collect();
    let mut latencies = Vec::new();
    local
        .run_until(async {
            for task in tasks {
                latencies.extend(task.await.map_err(io::Error::other)??);
            }
            io::Result::Ok(())
        })
        .await?;
    Ok(rate(latencies, started.elapsed()))
}

/// `total` handshakes by 8 tasks.
pub async fn handshakes(
    server: impl Into<Endpoint>,
    connect: &str,
    total: usize,
) -> io::Result<Rate> {
    let server = server.into();
    let started = Instant::now();
    let workers = (0..8).map(|_| async {
        let mut latencies = Vec::new();
        for _ in 0..total / 8 {
            let begun = Instant::now();
            drop(Conn::open(server.clone(), connect).await?);
            latencies.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        io::Result::Ok(latencies)
    });
    let mut latencies = Vec::new();
    for result in futures_util::future::join_all(workers).await {
        latencies.extend(result?);
    }
    Ok(rate(latencies, started.elapsed()))
}

/// Opens `n` connections, at most 8 at once.
pub async fn open_many(
    server: impl Into<Endpoint>,
    connect: &str,
    n: usize,
) -> io::Result<Vec<Conn>> {
    let server = server.into();
    let mut open = Vec::with_capacity(n);
    while open.len() < n {
        let batch = (0..8.min(n - open.len())).map(|_| Conn::open(server.clone(), connect));
        for conn in futures_util::future::join_all(batch).await {
            open.push(conn?);
        }
    }
    Ok(open)
}
