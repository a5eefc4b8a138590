//! One WebSocket: a single task that decodes what has arrived, runs or starts the calls, and writes everything with one flush.
//!
//! Between frames it holds no buffer: the frame reader is made when bytes arrive and dropped at the next frame boundary, and
//! the write buffer lives until its bytes are gone.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use gateway_protocol::{error::RpcError, frame::Close};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::{
    Error as WsError, Message,
    protocol::{Role as WsRole, WebSocketConfig, WebSocketContext},
};

use crate::{
    app::App,
    budget::Permit,
    limits::{
        LINGER_BYTES, WS_CLOSE_DEADLINE_MS, WS_CONTROL_BYTES, WS_FRAMES_PER_BATCH,
        WS_READ_BUFFER_BYTES, WS_WRITE_HIGH_WATER_BYTES,
    },
    stream::Stream,
    ws::{
        Mode,
        out::{Out, TEXT},
        scan::{ScanFault, Scanner},
        timer::{Listed, Shared},
    },
};

/// Whom the result of a call goes to.
#[derive(Debug)]
pub(crate) enum CallKind {
    /// A v4 request; the id is JSON text.
    V4(Box<str>),
    /// A JSON-RPC request; the id is JSON text.
    Rpc(Box<str>),
    /// The result is the whole message; an empty one is not sent.
    Raw,
}

/// A call that has not ended yet.
pub(crate) struct Call {
    pub(crate) kind: CallKind,
    /// The call ends with its caller; others go on when the connection is gone.
    pub(crate) waits: bool,
    pub(crate) future: BoxFuture<'static, Result<Bytes, RpcError>>,
}

impl Future for Call {
    type Output = (CallKind, Result<Bytes, RpcError>);
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.future
            .as_mut()
            .poll(cx)
            .map(|result| (std::mem::replace(&mut self.kind, CallKind::Raw), result))
    }
}

/// What the codecs use of a connection.
pub(crate) struct Link {
    pub(crate) app: Arc<App>,
    /// The value of the Origin header, if there was one.
    pub(crate) origin: Option<Box<str>>,
    pub(crate) out: Out,
    pub(crate) shared: Arc<Shared>,
    pub(crate) calls: FuturesUnordered<Call>,
    pub(crate) permit: Permit,
    /// Largest message that the peer may send now, in bytes.
    pub(crate) max_message: usize,
    pub(crate) now_ms: u64,
    seq: u64,
    close: Option<Close>,
}

impl Link {
    /// The number of the next event on this connection.
    pub(crate) fn next_seq(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }

    /// Sends a text message.
    pub(crate) fn text(&mut self, bytes: impl Into<Bytes>) {
        self.out.message(TEXT, b"", &bytes.into(), b"");
    }

    /// Ends the connection after what is queued is written. The first reason counts.
    pub(crate) fn close(&mut self, close: Close) {
        self.close.get_or_insert(close);
    }

    /// The connection is about to end.
    pub(crate) fn closing(&self) -> bool {
        self.close.is_some()
    }
}

/// Where the connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    /// The last bytes are being written.
    Flushing,
    /// Our side is shut; what still arrives is thrown away, so that the peer gets to read our last words.
    Lingering,
}

/// A WebSocket connection. It is a future that ends with the connection.
pub(crate) struct Conn {
    io: Stream,
    /// Bytes that came together with the upgrade request.
    early: Vec<u8>,
    reader: Option<Box<WebSocketContext>>,
    scan: Scanner,
    control_pending: usize,
    link: Link,
    mode: Mode,
    phase: Phase,
    paused: bool,
    last_write_ms: u64,
    end_by_ms: u64,
    discarded: usize,
    opened: bool,
    _listed: Listed,
}

/// The socket as the frame reader sees it.
struct Port<'a, 'b> {
    io: &'a mut Stream,
    cx: &'a mut Context<'b>,
    early: &'a mut Vec<u8>,
    scan: &'a mut Scanner,
    out: &'a mut Out,
    control_pending: &'a mut usize,
    fault: &'a mut Option<ScanFault>,
    now_ms: u64,
}

impl io::Read for Port<'_, '_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = if self.early.is_empty() {
            let mut space = ReadBuf::new(buf);
            match Pin::new(&mut *self.io).poll_read(self.cx, &mut space) {
                Poll::Pending => return Err(io::ErrorKind::WouldBlock.into()),
                Poll::Ready(r) => r?,
            }
            space.filled().len()
        } else {
            let n = buf.len().min(self.early.len());
            buf[..n].copy_from_slice(&self.early[..n]);
            if n == self.early.len() {
                *self.early = Vec::new()
            } else {
                drop(self.early.drain(..n))
            }
            n
        };
        match self.scan.feed(&buf[..n], self.now_ms) {
            Ok(()) => Ok(n),
            Err(fault) => {
                *self.fault = Some(fault);
                Err(io::ErrorKind::InvalidData.into())
            }
        }
    }
}

// The frame reader writes only answers to control frames.
impl io::Write for Port<'_, '_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if *self.control_pending + buf.len() > WS_CONTROL_BYTES {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        *self.control_pending += buf.len();
        self.out.control(buf);
        Ok(buf.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Parts of a new connection.
pub(crate) struct Start {
    pub(crate) app: Arc<App>,
    pub(crate) origin: Option<Box<str>>,
    pub(crate) io: Stream,
    pub(crate) early: Vec<u8>,
    pub(crate) permit: Permit,
    pub(crate) shared: Arc<Shared>,
    pub(crate) max_message: usize,
    pub(crate) mode: Mode,
}

impl Conn {
    pub(crate) fn new(start: Start) -> Self {
        let now_ms = start.app.timer.now_ms();
        let listed = start.app.timer.add(&start.shared);
        Self {
            io: start.io,
            early: start.early,
            reader: None,
            scan: Scanner::new(now_ms),
            control_pending: 0,
            mode: start.mode,
            phase: Phase::Running,
            paused: false,
            last_write_ms: now_ms,
            end_by_ms: u64::MAX,
            discarded: 0,
            opened: false,
            _listed: listed,
            link: Link {
                app: start.app,
                origin: start.origin,
                out: Out::default(),
                shared: start.shared,
                calls: FuturesUnordered::new(),
                permit: start.permit,
                max_message: start.max_message,
                now_ms,
                seq: 0,
                close: None,
            },
        }
    }

    fn config(&self) -> WebSocketConfig {
        WebSocketConfig::default()
            .read_buffer_size(WS_READ_BUFFER_BYTES)
            .write_buffer_size(0)
            .max_write_buffer_size(2 * WS_CONTROL_BYTES)
            .max_message_size(Some(self.link.max_message))
            .max_frame_size(Some(self.link.max_message))
    }

    /// Decodes frames until there are none, the batch is full or the connection is about to end. `false`: the stream is over.
    fn read(&mut self, cx: &mut Context<'_>) -> bool {
        self.paused = false;
        for _ in 0..WS_FRAMES_PER_BATCH {
            if self.link.closing() {
                return true;
            }
            if self.link.out.len() >= WS_WRITE_HIGH_WATER_BYTES {
                self.paused = true;
                return true;
            }
            if self.reader.is_none() {
                if self.early.is_empty() && self.io.poll_readable(cx).is_pending() {
                    return true;
                }
                self.reader = Some(Box::new(WebSocketContext::new(
                    WsRole::Server,
                    Some(self.config()),
                )));
            }
            let Some(reader) = &mut self.reader else {
                return true;
            };
            if reader.get_config().max_message_size != Some(self.link.max_message) {
                let max = Some(self.link.max_message);
                reader.set_config(|c| {
                    c.max_message_size = max;
                    c.max_frame_size = max;
                });
            }
            let mut fault = None;
            let mut port = Port {
                io: &mut self.io,
                cx,
                early: &mut self.early,
                scan: &mut self.scan,
                out: &mut self.link.out,
                control_pending: &mut self.control_pending,
                fault: &mut fault,
                now_ms: self.link.now_ms,
            };
            match reader.read(&mut port) {
                Ok(Message::Text(text)) => {
                    self.mode.message(&mut self.link, Bytes::from(text), false)
                }
                Ok(Message::Binary(bytes)) => self.mode.message(&mut self.link, bytes, true),
                Ok(Message::Pong(_)) => self.mode.pong(),
                Ok(Message::Ping(_) | Message::Close(_) | Message::Frame(_)) => {}
                Err(WsError::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => {
                    if self.scan.at_boundary() && self.control_pending < WS_CONTROL_BYTES / 2 {
                        self.reader = None;
                    }
                    return true;
                }
                Err(error) => return self.read_failed(&error, fault),
            }
        }
        cx.waker().wake_by_ref(); // there may be more: let others run first
        true
    }

    fn read_failed(&mut self, error: &WsError, fault: Option<ScanFault>) -> bool {
        self.reader = None;
        let close = match (error, fault) {
            (_, Some(ScanFault::Fragments)) => Close::new(Close::POLICY, "too many fragments"),
            (_, Some(ScanFault::Controls)) => Close::new(Close::POLICY, "too many control frames"),
            // The peer's close is answered by the frame reader; then it is over.
            (WsError::ConnectionClosed | WsError::AlreadyClosed, None) => {
                self.phase = Phase::Flushing;
                return true;
            }
            (WsError::Capacity(_), None) => Close::new(Close::TOO_BIG, ""),
            (WsError::Utf8(_), None) => Close::new(1007, ""),
            (WsError::Protocol(p), None) if !matches!(p, tokio_tungstenite::tungstenite::error::ProtocolError::ResetWithoutClosingHandshake) => {
                Close::new(1002, "")
            }
            _ => return false,
        };
        self.link.close(close);
        true
    }

    fn finished_calls(&mut self, cx: &mut Context<'_>) {
        while !self.link.calls.is_empty() {
            let Poll::Ready(Some((kind, result))) = self.link.calls.poll_next_unpin(cx) else {
                return;
            };
            // What the call sent before its end goes first.
            self.interim();
            self.mode.answer(&mut self.link, kind, result);
        }
    }

    fn interim(&mut self) {
        while let Some(frame) = self.link.shared.next_frame() {
            self.link.text(frame);
        }
    }

    fn events(&mut self) {
        self.interim();
        while self.link.out.len() < WS_WRITE_HIGH_WATER_BYTES {
            let Some(event) = self.link.shared.next_event() else {
                return;
            };
            self.mode.event(&mut self.link, &event);
        }
    }

    /// The peer broke a deadline, or the mode has something to say.
    fn deadlines(&mut self) -> bool {
        let now = self.link.now_ms;
        if !self.link.out.is_empty()
            && now >= self.last_write_ms + self.link.app.limits.write_stall_ms
        {
            return false;
        }
        if self
            .scan
            .partial_since_ms()
            .is_some_and(|since| now >= since + self.link.app.limits.message_deadline_ms)
        {
            self.link
                .close(Close::new(Close::POLICY, "message not finished in time"));
        }
        if let Some(close) = self.link.shared.ended() {
            self.link.close(close);
        }
        if self.link.shared.fell_behind() {
            // Events are not sent again: with the number of the last one the client knows from where on to fetch the state anew.
            let reason = format!("slow consumer (last seq {})", self.link.seq);
            self.link.close(Close::new(Close::POLICY, &reason));
        }
        if self.link.shared.stopping() && !self.link.closing() {
            self.link
                .close(Close::new(Close::RESTART, "service restart"));
        }
        if !self.link.closing() {
            self.mode.tick(&mut self.link);
        }
        true
    }

    fn next_due(&self) -> u64 {
        let mut due = self.mode.due();
        if !self.link.out.is_empty() {
            due = due.min(self.last_write_ms + self.link.app.limits.write_stall_ms);
        }
        if let Some(since) = self.scan.partial_since_ms() {
            due = due.min(since + self.link.app.limits.message_deadline_ms);
        }
        due.min(self.end_by_ms)
    }

    /// Writes; `None` when the socket is broken, else whether all is out.
    fn flush(&mut self, cx: &mut Context<'_>) -> Option<bool> {
        if self.link.out.is_empty() {
            return Some(true);
        }
        let mut wrote = false;
        let polled = self.link.out.poll_flush(&mut self.io, cx, &mut wrote);
        if wrote {
            self.last_write_ms = self.link.now_ms;
        }
        match polled {
            Poll::Pending => Some(false),
            Poll::Ready(Ok(())) => {
                self.control_pending = 0;
                Some(true)
            }
            Poll::Ready(Err(_)) => None,
        }
    }

    fn run(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.opened {
            self.opened = true;
            self.mode.open(&mut self.link);
        }
        loop {
            if self.link.out.is_empty() {
                self.last_write_ms = self.link.now_ms;
            }
            if self.phase == Phase::Running {
                if !self.deadlines() {
                    return Poll::Ready(());
                }
                if !self.read(cx) {
                    return Poll::Ready(());
                }
                self.finished_calls(cx);
                if !self.link.closing() {
                    self.events();
                }
                if self.phase == Phase::Running
                    && let Some(close) = self.link.close.take()
                {
                    self.link.out.close(close.code, &close.reason);
                    self.phase = Phase::Flushing;
                }
                if self.phase == Phase::Flushing {
                    self.reader = None;
                    self.end_by_ms = self.link.now_ms + WS_CLOSE_DEADLINE_MS;
                }
            }
            if self.phase != Phase::Running && self.link.now_ms >= self.end_by_ms {
                return Poll::Ready(());
            }
            let was_empty = self.link.out.is_empty();
            match self.flush(cx) {
                None => return Poll::Ready(()),
                Some(false) => break,
                Some(true) => {}
            }
            match self.phase {
                Phase::Running if self.paused || (!was_empty && self.has_events()) => {}
                Phase::Running => break,
                Phase::Flushing => match Pin::new(&mut self.io).poll_shutdown(cx) {
                    Poll::Pending => break,
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Ready(Ok(())) => self.phase = Phase::Lingering,
                },
                Phase::Lingering => {
                    std::task::ready!(self.discard(cx));
                    return Poll::Ready(());
                }
            }
        }
        Poll::Pending
    }

    fn has_events(&self) -> bool {
        self.link.shared.waiting()
    }

    fn discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut waste = [0_u8; 2048];
        while self.discarded < LINGER_BYTES {
            let mut space = ReadBuf::new(&mut waste);
            match Pin::new(&mut self.io).poll_read(cx, &mut space) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) if !space.filled().is_empty() => {
                    self.discarded += space.filled().len()
                }
                Poll::Ready(_) => break,
            }
        }
        Poll::Ready(())
    }
}

impl Future for Conn {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        this.link.shared.listen(cx);
        this.link.now_ms = this.link.app.timer.now_ms();
        let polled = this.run(cx);
        if polled.is_pending() {
            this.link.shared.due(this.next_due());
        }
        polled
    }
}

impl Drop for Conn {
    /// A command that has begun is finished although its caller is gone.
    fn drop(&mut self) {
        self.mode.gone();
        let calls: Vec<_> = std::mem::take(&mut self.link.calls)
            .into_iter()
            .filter(|c| !c.waits)
            .collect();
        if !calls.is_empty() && tokio::runtime::Handle::try_current().is_ok() {
            self.link
                .app
                .tasks
                .spawn(futures_util::future::join_all(calls));
        }
    }
}
