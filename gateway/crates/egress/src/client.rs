//! The HTTP client: HTTP/1.1, one checked connection, no proxy, no redirect, no cookie, no transparent decoding.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::header::{ACCEPT, ACCEPT_ENCODING, HOST, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use http_body::Body as _;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use crate::address::{AddressPolicy, Granted};
use crate::error::{EgressError, ErrorKind};
use crate::limits;
use crate::pool::{AbortOnDrop, Conn, InFlight, Pool, PoolKey};
use crate::resolve::{BoxIo, Dial, Resolve, SystemResolver, TcpDialer};
use crate::tls::{self, CertPin};
use crate::url_policy::{Host, Scheme, Url};

/// What an [`Egress`] is built from.
pub struct EgressOptions {
    /// Names to addresses.
    pub resolver: Arc<dyn Resolve>,
    /// Addresses to connections.
    pub dialer: Arc<dyn Dial>,
    /// Certificates that may end a chain beside the public roots.
    pub extra_roots: Vec<CertificateDer<'static>>,
}

impl Default for EgressOptions {
    fn default() -> Self {
        Self {
            resolver: Arc::new(SystemResolver::default()),
            dialer: Arc::new(TcpDialer),
            extra_roots: Vec::new(),
        }
    }
}

/// How long each phase may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Look-up, connection and TLS together.
    pub connect: Duration,
    /// From the first byte of the request to the response head.
    pub head: Duration,
    /// The longest pause between two pieces of the body.
    pub idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: limits::DEFAULT_CONNECT,
            head: limits::DEFAULT_HEAD,
            idle: limits::DEFAULT_IDLE,
        }
    }
}

/// The least speed of a body, judged over whole windows of time spent waiting for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MinRate {
    /// Bytes that must come in each window.
    pub bytes: usize,
    /// The window.
    pub window: Duration,
}

impl Default for MinRate {
    fn default() -> Self {
        Self {
            bytes: limits::DEFAULT_RATE_BYTES,
            window: limits::DEFAULT_RATE_WINDOW,
        }
    }
}

/// One request.
#[derive(Clone)]
pub struct EgressRequest {
    /// Whose request it is: the tenant, or a finer part of it. Connections are never shared across partitions.
    pub partition: Arc<str>,
    /// The method.
    pub method: Method,
    /// Where to.
    pub url: Url,
    /// Headers. `Host`, framing and hop-by-hop headers are ours and refused here.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// Where requests of this caller may go.
    pub policy: Arc<AddressPolicy>,
    /// The one certificate that the server may show.
    pub pin: Option<CertPin>,
    /// Time for everything, from the call to the last byte of the body.
    pub deadline: Duration,
    /// Time for each phase.
    pub timeouts: Timeouts,
    /// The least speed of the body; `None` where pauses are natural and [`Timeouts::idle`] is enough.
    pub min_rate: Option<MinRate>,
    /// Cap on the body as it comes from the wire (nothing is decoded here), in bytes.
    pub max_response_bytes: usize,
}

impl EgressRequest {
    /// A request without headers and body, with the default times and caps.
    #[must_use]
    pub fn new(
        partition: impl Into<Arc<str>>,
        method: Method,
        url: Url,
        policy: Arc<AddressPolicy>,
    ) -> Self {
        Self {
            partition: partition.into(),
            method,
            url,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            policy,
            pin: None,
            deadline: limits::DEFAULT_DEADLINE,
            timeouts: Timeouts::default(),
            min_rate: Some(MinRate::default()),
            max_response_bytes: limits::DEFAULT_MAX_RESPONSE_BYTES,
        }
    }
}

impl fmt::Debug for EgressRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EgressRequest")
            .field("method", &self.method)
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

/// A whole response.
#[derive(Clone)]
pub struct EgressResponse {
    /// The status; a redirect is returned as it came.
    pub status: u16,
    /// The headers as they came.
    pub headers: HeaderMap,
    /// The body as it came from the wire, not decoded.
    pub body: Bytes,
    /// The address that answered.
    pub peer: SocketAddr,
}

impl fmt::Debug for EgressResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EgressResponse")
            .field("status", &self.status)
            .field("body_bytes", &self.body.len())
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

/// A response whose body is still coming. Dropping it closes the connection.
pub struct EgressStream {
    /// The status.
    pub status: u16,
    /// The headers as they came.
    pub headers: HeaderMap,
    /// The address that answered.
    pub peer: SocketAddr,
    body: Body,
}

impl fmt::Debug for EgressStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EgressStream")
            .field("status", &self.status)
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

struct Body {
    incoming: Incoming,
    /// Taken when the body is at its end and the connection goes back to the pool.
    conn: Option<(PoolKey, Conn)>,
    pool: Arc<Pool>,
    _in_flight: InFlight,
    origin: String,
    end: Instant,
    idle: Duration,
    min_rate: Option<MinRate>,
    left: usize,
    cap: usize,
    waited: Duration,
    window_bytes: usize,
    done: bool,
}

/// The way out. Cheap to clone; one for the whole process.
#[derive(Clone)]
pub struct Egress {
    inner: Arc<Inner>,
}

struct Inner {
    resolver: Arc<dyn Resolve>,
    dialer: Arc<dyn Dial>,
    extra_roots: Vec<CertificateDer<'static>>,
    default_tls: Arc<ClientConfig>,
    pool: Arc<Pool>,
}

impl fmt::Debug for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Egress")
            .field("idle", &self.inner.pool.idle())
            .field("in_flight", &self.inner.pool.in_flight())
            .finish()
    }
}

impl Egress {
    /// Builds the client; starts nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Tls`] if an extra root is no certificate.
    pub fn new(options: EgressOptions) -> Result<Self, EgressError> {
        let default_tls = tls::client_config(&[], &options.extra_roots).map_err(|e| {
            EgressError::new(ErrorKind::Tls, format!("the TLS roots cannot be used: {e}"))
        })?;
        Ok(Self {
            inner: Arc::new(Inner {
                resolver: options.resolver,
                dialer: options.dialer,
                extra_roots: options.extra_roots,
                default_tls: Arc::new(default_tls),
                pool: Arc::new(Pool::default()),
            }),
        })
    }

    /// Idle connections that are kept, counted.
    #[must_use]
    pub fn idle_connections(&self) -> usize {
        self.inner.pool.idle()
    }

    /// Requests whose response is not read to its end, counted.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.inner.pool.in_flight()
    }

    /// Sends a request and reads the whole response.
    ///
    /// `sent` becomes true before the first byte of the request may reach the peer and is never set back; it tells the truth
    /// also where this future is dropped half-way.
    ///
    /// # Errors
    /// Any [`ErrorKind`]; [`EgressError::request_sent`] says whether the peer may have seen the request.
    pub async fn request(
        &self,
        request: EgressRequest,
        sent: &AtomicBool,
    ) -> Result<EgressResponse, EgressError> {
        let mut stream = self.stream(request, sent).await?;
        let mut pieces: Vec<Bytes> = Vec::new();
        let mut total = 0;
        while let Some(piece) = stream.next().await {
            let piece = piece?;
            total += piece.len();
            pieces.push(piece);
        }
        let body = match pieces.len() {
            0 | 1 => pieces.pop().unwrap_or_default(),
            _ => {
                let mut whole = Vec::with_capacity(total);
                for piece in &pieces {
                    whole.extend_from_slice(piece);
                }
                whole.into()
            }
        };
        Ok(EgressResponse {
            status: stream.status,
            headers: stream.headers,
            body,
            peer: stream.peer,
        })
    }

    /// Sends a request and returns when the response head is there.
    ///
    /// # Errors
    /// As [`Egress::request`].
    pub async fn stream(
        &self,
        request: EgressRequest,
        sent: &AtomicBool,
    ) -> Result<EgressStream, EgressError> {
        let end = Instant::now() + request.deadline;
        let granted = request.policy.check_target(&request.url)?;
        let mut wire = build(&request)?;
        let in_flight = self.inner.pool.enter(&request.partition).ok_or_else(|| {
            EgressError::new(
                ErrorKind::Busy,
                "too many requests are under way; try again later",
            )
        })?;
        let key = PoolKey {
            partition: request.partition.clone(),
            scheme: request.url.scheme(),
            host: request.url.host().clone(),
            port: request.url.port(),
            pin: request.pin,
        };
        loop {
            let (mut conn, reused) = match self.reuse(&key, granted).await {
                Some(conn) => (conn, true),
                None => {
                    let connect_end = end.min(Instant::now() + request.timeouts.connect);
                    (
                        self.connect(&request.url, granted, request.pin, connect_end)
                            .await?,
                        false,
                    )
                }
            };
            let head_end = end.min(Instant::now() + request.timeouts.head);
            sent.store(true, Ordering::SeqCst);
            let answer = timeout_at(head_end, conn.sender.try_send_request(wire)).await;
            let response = match answer {
                Err(_) if head_end == end => return Err(deadline(&request.url).sent()),
                Err(_) => {
                    let text = format!("{} sent no response head in time", request.url.origin());
                    return Err(EgressError::new(ErrorKind::HeadTimeout, text).sent());
                }
                Ok(Err(mut e)) => match e.take_message() {
                    // The pooled connection was already closed and nothing was written: a new one may be used.
                    Some(unsent) if reused => {
                        wire = unsent;
                        continue;
                    }
                    Some(_) => {
                        return Err(EgressError::new(
                            ErrorKind::Connect,
                            format!("{} closed the connection", request.url.origin()),
                        ));
                    }
                    None => return Err(broken(&request.url.origin(), e.error()).sent()),
                },
                Ok(Ok(response)) => response,
            };
            let (head, incoming) = response.into_parts();
            if head.status.as_u16() == 101 {
                let text = format!(
                    "{} switched protocols without being asked",
                    request.url.origin()
                );
                return Err(EgressError::new(ErrorKind::Broken, text).sent());
            }
            let cap = request.max_response_bytes;
            if request.method != Method::HEAD && incoming.size_hint().lower() > cap as u64 {
                return Err(too_large(&request.url.origin(), cap).sent());
            }
            let peer = conn.peer;
            return Ok(EgressStream {
                status: head.status.as_u16(),
                headers: head.headers,
                peer,
                body: Body {
                    incoming,
                    conn: Some((key, conn)),
                    pool: self.inner.pool.clone(),
                    _in_flight: in_flight,
                    origin: request.url.origin(),
                    end,
                    idle: request.timeouts.idle,
                    min_rate: request.min_rate,
                    left: cap,
                    cap,
                    waited: Duration::ZERO,
                    window_bytes: 0,
                    done: false,
                },
            });
        }
    }

    /// Opens a checked byte stream (TLS where the scheme says so), for protocols other than HTTP requests such as WebSocket.
    ///
    /// # Errors
    /// Kinds up to [`ErrorKind::Tls`], and [`ErrorKind::Deadline`]; `request_sent` is always false.
    pub async fn dial(
        &self,
        url: &Url,
        policy: &AddressPolicy,
        pin: Option<CertPin>,
        within: Duration,
    ) -> Result<(BoxIo, SocketAddr), EgressError> {
        let granted = policy.check_target(url)?;
        self.open(url, granted, pin, Instant::now() + within).await
    }

    async fn reuse(&self, key: &PoolKey, granted: Granted) -> Option<Conn> {
        loop {
            let mut conn = self.inner.pool.take(key)?;
            // The rules may have changed since the connection was made.
            if granted.check(conn.peer.ip()).is_err() {
                continue;
            }
            if let Ok(Ok(())) = tokio::time::timeout(limits::IDLE_READY, conn.sender.ready()).await
            {
                return Some(conn);
            }
        }
    }

    async fn connect(
        &self,
        url: &Url,
        granted: Granted,
        pin: Option<CertPin>,
        end: Instant,
    ) -> Result<Conn, EgressError> {
        let (io, peer) = self.open(url, granted, pin, end).await?;
        let mut builder = hyper::client::conn::http1::Builder::new();
        builder
            .max_headers(limits::MAX_RESPONSE_HEADERS)
            .max_buf_size(limits::MAX_RESPONSE_BUFFER_BYTES);
        let (sender, driver) = builder
            .handshake::<_, Full<Bytes>>(TokioIo::new(io))
            .await
            .map_err(|e| broken(&url.origin(), &e))?;
        let driver = AbortOnDrop(tokio::spawn(async move {
            // Its errors reach the request that waits; an idle connection that ends is seen as closed by the pool.
            let _ = driver.await;
        }));
        Ok(Conn {
            sender,
            _driver: driver,
            peer,
        })
    }

    async fn open(
        &self,
        url: &Url,
        granted: Granted,
        pin: Option<CertPin>,
        end: Instant,
    ) -> Result<(BoxIo, SocketAddr), EgressError> {
        let addresses = self.addresses(url, granted, end).await?;
        let (io, peer) = self.dial_first(url, &addresses, end).await?;
        if url.scheme() == Scheme::Http {
            return Ok((io, peer));
        }
        let tls_error = |e: &dyn fmt::Display| {
            EgressError::new(
                ErrorKind::Tls,
                format!("TLS with {} failed: {e}", url.origin()),
            )
        };
        let config = match pin {
            None => self.inner.default_tls.clone(),
            Some(_) => Arc::new(
                tls::client_config(pin.as_slice(), &self.inner.extra_roots)
                    .map_err(|e| tls_error(&e))?,
            ),
        };
        let name = match url.host() {
            Host::Name(name) => ServerName::try_from(name.clone()).map_err(|e| tls_error(&e))?,
            Host::V4(ip) => ServerName::from(IpAddr::V4(*ip)),
            Host::V6(ip) => ServerName::from(IpAddr::V6(*ip)),
        };
        match timeout_at(end, TlsConnector::from(config).connect(name, io)).await {
            Err(_) => Err(EgressError::new(
                ErrorKind::Connect,
                format!("TLS with {} took too long", url.origin()),
            )),
            Ok(Err(e)) => Err(tls_error(&e)),
            Ok(Ok(io)) => Ok((Box::new(io), peer)),
        }
    }

    /// Looks the host up once and checks every address: one bad address refuses the name.
    async fn addresses(
        &self,
        url: &Url,
        granted: Granted,
        end: Instant,
    ) -> Result<Vec<SocketAddr>, EgressError> {
        let dns = |why: &str| {
            EgressError::new(
                ErrorKind::Dns,
                format!("the name of {} {why}", url.origin()),
            )
        };
        let ips = match url.host() {
            Host::V4(ip) => vec![IpAddr::V4(*ip)],
            Host::V6(ip) => vec![IpAddr::V6(*ip)],
            Host::Name(name) => match timeout_at(end, self.inner.resolver.resolve(name)).await {
                Err(_) => return Err(dns("was not resolved in time")),
                Ok(Err(_)) => return Err(dns("cannot be resolved")),
                Ok(Ok(ips)) => ips,
            },
        };
        if ips.is_empty() {
            return Err(dns("has no address"));
        }
        if ips.len() > limits::MAX_ADDRESSES_PER_NAME {
            return Err(dns("has too many addresses"));
        }
        for ip in &ips {
            granted.check(*ip)?;
        }
        Ok(ips
            .into_iter()
            .map(|ip| SocketAddr::new(ip, url.port()))
            .collect())
    }

    /// The first address that answers; each next one is tried beside the others after a short pause or a failure.
    async fn dial_first(
        &self,
        url: &Url,
        addresses: &[SocketAddr],
        end: Instant,
    ) -> Result<(BoxIo, SocketAddr), EgressError> {
        let mut waiting = addresses.iter().copied();
        let mut attempts = FuturesUnordered::new();
        let mut last = "no address".to_string();
        loop {
            let next = waiting.next();
            let more = next.is_some();
            if let Some(addr) = next {
                let dialer = self.inner.dialer.clone();
                attempts.push(async move { (addr, dialer.dial(addr).await) });
            } else if attempts.is_empty() {
                return Err(EgressError::new(
                    ErrorKind::Connect,
                    format!("{} cannot be reached: {last}", url.origin()),
                ));
            }
            let pause = if more {
                end.min(Instant::now() + limits::CONNECT_STAGGER)
            } else {
                end
            };
            match timeout_at(pause, attempts.next()).await {
                Ok(Some((addr, Ok(io)))) => return Ok((io, addr)),
                Ok(Some((_, Err(e)))) => last = e.kind().to_string(),
                Ok(None) => {}
                Err(_) if Instant::now() >= end => {
                    return Err(EgressError::new(
                        ErrorKind::Connect,
                        format!("connecting to {} took too long", url.origin()),
                    ));
                }
                Err(_) => {}
            }
        }
    }
}

impl EgressStream {
    /// The next piece of the body, as it came from the wire; `None` at its proper end.
    ///
    /// # Errors
    /// A pause or the whole taking too long, too slow, too large, or a connection that ended before the body did. After an
    /// error there is nothing more.
    pub async fn next(&mut self) -> Option<Result<Bytes, EgressError>> {
        if self.body.done {
            return None;
        }
        let answer = self.body.step().await;
        if !matches!(answer, Some(Ok(_))) {
            self.body.done = true;
            // After an error the connection is closed at once.
            let conn = self.body.conn.take();
            if answer.is_none()
                && let Some((key, conn)) = conn
            {
                self.body.pool.put(key, conn);
            }
        }
        answer.map(|piece| piece.map_err(EgressError::sent))
    }

    /// The body as a [`futures_util::Stream`].
    pub fn into_stream(
        self,
    ) -> impl futures_util::Stream<Item = Result<Bytes, EgressError>> + Send {
        futures_util::stream::unfold(self, |mut stream| async move {
            stream.next().await.map(|piece| (piece, stream))
        })
    }
}

impl Body {
    async fn step(&mut self) -> Option<Result<Bytes, EgressError>> {
        loop {
            let begun = Instant::now();
            let until = self.end.min(begun + self.idle);
            let frame = timeout_at(until, self.incoming.frame()).await;
            let now = Instant::now();
            self.waited += now.duration_since(begun);
            let frame = match frame {
                Err(_) if now >= self.end => {
                    return Some(Err(EgressError::new(
                        ErrorKind::Deadline,
                        format!("{} was not done by the deadline", self.origin),
                    )));
                }
                Err(_) => {
                    let text = format!("{} paused for too long within its response", self.origin);
                    return Some(Err(EgressError::new(ErrorKind::IdleTimeout, text)));
                }
                Ok(None) => return None,
                Ok(Some(Err(e))) => return Some(Err(broken(&self.origin, &e))),
                Ok(Some(Ok(frame))) => frame,
            };
            // Trailers are dropped: nothing here reads them.
            let Ok(piece) = frame.into_data() else {
                continue;
            };
            let Some(left) = self.left.checked_sub(piece.len()) else {
                return Some(Err(too_large(&self.origin, self.cap)));
            };
            self.left = left;
            if let Some(rate) = self.min_rate {
                self.window_bytes += piece.len();
                if self.waited >= rate.window {
                    if self.window_bytes < rate.bytes {
                        let text = format!("{} sent its response too slowly", self.origin);
                        return Some(Err(EgressError::new(ErrorKind::TooSlow, text)));
                    }
                    self.waited = Duration::ZERO;
                    self.window_bytes = 0;
                }
            }
            if !piece.is_empty() {
                return Some(Ok(piece));
            }
        }
    }
}

/// Builds the request as it goes onto the wire; refuses what a caller may not set.
fn build(request: &EgressRequest) -> Result<Request<Full<Bytes>>, EgressError> {
    let refuse = |why: String| EgressError::new(ErrorKind::Request, why);
    if request.headers.len() > limits::MAX_REQUEST_HEADERS {
        return Err(refuse("the request has too many headers".into()));
    }
    let bytes: usize = request
        .headers
        .iter()
        .map(|(n, v)| n.as_str().len() + v.len())
        .sum();
    if bytes > limits::MAX_REQUEST_HEADER_BYTES {
        return Err(refuse("the request's headers are too big".into()));
    }
    if let Some(name) = request.headers.keys().find(|name| is_ours(name)) {
        return Err(refuse(format!("the header {name} is set by the gateway")));
    }
    if matches!(request.method, Method::CONNECT | Method::TRACE) {
        return Err(refuse(format!("the method {} is refused", request.method)));
    }
    let mut wire = Request::new(Full::new(request.body.clone()));
    *wire.method_mut() = request.method.clone();
    *wire.uri_mut() = request
        .url
        .target()
        .parse()
        .map_err(|_| refuse("the path cannot be sent".into()))?;
    let host = HeaderValue::try_from(request.url.authority())
        .map_err(|_| refuse("the host cannot be sent".into()))?;
    let headers = wire.headers_mut();
    headers.insert(HOST, host);
    for (name, value) in &request.headers {
        headers.append(name.clone(), value.clone());
    }
    headers
        .entry(ACCEPT)
        .or_insert(HeaderValue::from_static("*/*"));
    headers
        .entry(ACCEPT_ENCODING)
        .or_insert(HeaderValue::from_static("identity"));
    headers
        .entry(USER_AGENT)
        .or_insert(HeaderValue::from_static(concat!(
            "gateway/",
            env!("CARGO_PKG_VERSION")
        )));
    Ok(wire)
}

/// Headers that say where a message begins and ends or concern one hop only.
fn is_ours(name: &HeaderName) -> bool {
    const OURS: [&str; 11] = [
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "keep-alive",
        "te",
        "trailer",
        "upgrade",
        "expect",
        "http2-settings",
        "proxy-connection",
    ];
    OURS.contains(&name.as_str()) || name.as_str().starts_with("proxy-")
}

fn deadline(url: &Url) -> EgressError {
    EgressError::new(
        ErrorKind::Deadline,
        format!("{} was not done by the deadline", url.origin()),
    )
}

fn too_large(origin: &str, cap: usize) -> EgressError {
    EgressError::new(
        ErrorKind::TooLarge,
        format!("the response of {origin} is bigger than {cap} bytes"),
    )
}

fn broken(origin: &str, e: &hyper::Error) -> EgressError {
    let why = if e.is_incomplete_message() {
        "closed the connection before the end of the response"
    } else if e.is_parse() {
        "sent something that is not HTTP/1.1"
    } else {
        "broke the connection"
    };
    EgressError::new(ErrorKind::Broken, format!("{origin} {why}"))
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
