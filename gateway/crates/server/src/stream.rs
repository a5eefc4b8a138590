//! The socket below everything: plain or TLS, and the guard that lets hyper see only vetted request heads.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Sleep,
};
use tokio_rustls::server::TlsStream;

use crate::{
    accept::Wire,
    head::{BodyKind, Head, HeadEnd, HeadFault, find_end, inspect},
    limits::{HALF_CLOSE_MS, LINGER_BYTES, LINGER_MS, WRITE_STALL_MS},
    traffic::Traffic,
};

/// What a connection's bytes go through.
#[derive(Debug)]
pub(crate) enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A connection of the listener, whose bytes are counted.
#[derive(Debug)]
pub(crate) struct Stream {
    transport: Transport,
    traffic: Arc<Traffic>,
}

impl Stream {
    pub(crate) fn new(transport: Transport, traffic: Arc<Traffic>) -> Self {
        Self { transport, traffic }
    }

    pub(crate) fn is_tls(&self) -> bool {
        matches!(self.transport, Transport::Tls(_))
    }

    /// Ready when a read may give something; a plain socket that has nothing registers the waker and needs no buffer for that.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &self.transport {
            Transport::Plain(s) => s.poll_read_ready(cx).map(|_| ()),
            Transport::Tls(_) => Poll::Ready(()),
        }
    }

    fn wrote(&self, polled: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(n)) = polled {
            self.traffic.bytes_out.add(*n as u64);
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let polled = match &mut this.transport {
            Transport::Plain(s) => Pin::new(s).poll_read(cx, buf),
            Transport::Tls(s) => Pin::new(s).poll_read(cx, buf),
        };
        let read = buf.filled().len() - before;
        if read > 0 {
            this.traffic.bytes_in.add(read as u64);
        }
        polled
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = match &mut this.transport {
            Transport::Plain(s) => Pin::new(s).poll_write(cx, buf),
            Transport::Tls(s) => Pin::new(s).poll_write(cx, buf),
        };
        this.wrote(&polled);
        polled
    }
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = match &mut this.transport {
            Transport::Plain(s) => Pin::new(s).poll_write_vectored(cx, bufs),
            Transport::Tls(s) => Pin::new(s).poll_write_vectored(cx, bufs),
        };
        this.wrote(&polled);
        polled
    }
    fn is_write_vectored(&self) -> bool {
        true
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Plain(s) => Pin::new(s).poll_flush(cx),
            Transport::Tls(s) => Pin::new(s).poll_flush(cx),
        }
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Plain(s) => Pin::new(s).poll_shutdown(cx),
            Transport::Tls(s) => Pin::new(s).poll_shutdown(cx),
        }
    }
}

/// What the next bytes from the peer are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// A request head.
    Head,
    /// This many bytes of a body.
    Body(u64),
    /// A chunked body: hyper reads it and, told by the `connection: close` put into the head, nothing after it.
    Last,
    /// Nothing for hyper: another protocol, or what follows a refused head.
    Hold,
    /// The peer has ended its side.
    End,
}

/// Stands between the socket and hyper, follows the boundaries of requests and hands on only heads that [`inspect`] accepts.
///
/// In place of a refused head hyper gets [`STAND_IN`], and [`Wire`] remembers the number of that request: the service answers
/// it with the refusal, after the answers before it, and the connection ends.
#[derive(Debug)]
pub(crate) struct HeadGuard<S> {
    inner: S,
    wire: Arc<Wire>,
    buf: Vec<u8>,
    /// How much of the front of `buf` may be handed on.
    vetted: usize,
    seen: usize,
    next: Next,
    heads: u32,
    stall: Option<Pin<Box<Sleep>>>,
    /// Until when the end of the peer's side is kept back, or what still comes is thrown away.
    until: Option<Pin<Box<Sleep>>>,
    refused: bool,
    discarded: usize,
}

const READ_STEP: usize = 2 * 1024;
const CLOSE_LINE: &[u8] = b"connection: close\r\n";
/// A request that hyper understands, in place of one that nobody should have to.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nhost: refused\r\nconnection: close\r\n\r\n";

impl<S: AsyncRead + AsyncWrite + Unpin> HeadGuard<S> {
    pub(crate) fn new(inner: S, wire: Arc<Wire>) -> Self {
        Self {
            inner,
            wire,
            buf: Vec::new(),
            vetted: 0,
            seen: 0,
            next: Next::Head,
            heads: 0,
            stall: None,
            until: None,
            refused: false,
            discarded: 0,
        }
    }

    /// The socket and what was read from it but not handed on.
    pub(crate) fn into_parts(self) -> (S, Vec<u8>) {
        (self.inner, self.buf)
    }

    fn refuse(&mut self, fault: HeadFault) {
        tracing::debug!(
            status = fault.status,
            why = fault.why,
            "request head refused"
        );
        self.wire.refuse(self.heads, fault);
        self.refused = true;
        self.next = Next::Hold;
        self.buf = STAND_IN.to_vec();
        self.vetted = self.buf.len();
    }

    /// Reads more into `buf`; `false` at the end of the stream.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let old = self.buf.len();
        self.buf.resize(old + READ_STEP, 0);
        let mut space = ReadBuf::new(&mut self.buf[old..]);
        let polled = Pin::new(&mut self.inner).poll_read(cx, &mut space);
        let n = space.filled().len();
        self.buf.truncate(old + n);
        if self.buf.is_empty() {
            self.buf = Vec::new(); // an idle connection keeps nothing
        }
        ready!(polled)?;
        Poll::Ready(Ok(n > 0))
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match find_end(&self.buf, &mut self.seen) {
                HeadEnd::Fault(fault) => {
                    self.heads += 1;
                    self.refuse(fault);
                }
                HeadEnd::At(end) => {
                    self.heads += 1;
                    match inspect(&self.buf[..end]) {
                        Err(fault) => self.refuse(fault),
                        Ok(head) => self.accept(end, head),
                    }
                }
                HeadEnd::More => {
                    if ready!(self.poll_fill(cx))? {
                        continue;
                    }
                    self.next = Next::End;
                    self.buf = Vec::new();
                }
            }
            self.seen = 0;
            return Poll::Ready(Ok(()));
        }
    }

    fn accept(&mut self, end: usize, head: Head) {
        self.vetted = end;
        self.next = match head.body {
            _ if head.upgrade => Next::Hold,
            BodyKind::None => Next::Head,
            BodyKind::Length(n) => Next::Body(n),
            BodyKind::Chunked => {
                self.buf
                    .splice(end - 2..end - 2, CLOSE_LINE.iter().copied());
                self.vetted += CLOSE_LINE.len();
                Next::Last
            }
        };
    }

    fn hand_on(&mut self, out: &mut ReadBuf<'_>) {
        let n = self.vetted.min(out.remaining());
        out.put_slice(&self.buf[..n]);
        self.vetted -= n;
        if n == self.buf.len() {
            self.buf = Vec::new();
        } else {
            self.buf.drain(..n);
        }
    }

    fn poll_until(&mut self, cx: &mut Context<'_>, ms: u64) -> Poll<()> {
        let until = self
            .until
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(Duration::from_millis(ms))));
        until.as_mut().poll(cx)
    }

    /// Gives an error when the peer has taken nothing for too long.
    fn watch_stall<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.stall = None;
            return polled;
        }
        let stall = self.stall.get_or_insert_with(|| {
            Box::pin(tokio::time::sleep(Duration::from_millis(WRITE_STALL_MS)))
        });
        ready!(stall.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Reads on for a moment after our side is shut. Data that nobody read would turn the answer into a reset.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut waste = [0_u8; READ_STEP];
        while self.discarded < LINGER_BYTES && self.poll_until(cx, LINGER_MS).is_pending() {
            let mut space = ReadBuf::new(&mut waste);
            ready!(Pin::new(&mut self.inner).poll_read(cx, &mut space))?;
            let n = space.filled().len();
            if n == 0 {
                break;
            }
            self.discarded += n;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for HeadGuard<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.vetted > 0 {
                this.hand_on(out);
                return Poll::Ready(Ok(()));
            }
            match this.next {
                Next::Head => ready!(this.poll_head(cx))?,
                Next::Body(0) => this.next = Next::Head,
                Next::Body(left) => {
                    if this.buf.is_empty() {
                        let most = usize::try_from(left)
                            .unwrap_or(usize::MAX)
                            .min(out.remaining());
                        let mut part = ReadBuf::new(out.initialize_unfilled_to(most));
                        ready!(Pin::new(&mut this.inner).poll_read(cx, &mut part))?;
                        let n = part.filled().len();
                        out.advance(n);
                        this.next = Next::Body(left - n as u64);
                        return Poll::Ready(Ok(()));
                    }
                    this.vetted = usize::try_from(left)
                        .unwrap_or(usize::MAX)
                        .min(this.buf.len());
                    this.next = Next::Body(left - this.vetted as u64);
                }
                Next::Last if this.buf.is_empty() => {
                    return Pin::new(&mut this.inner).poll_read(cx, out);
                }
                Next::Last => this.vetted = this.buf.len(),
                Next::Hold => return Poll::Pending,
                // A peer that half-closes still gets a quick answer; hyper drops what is still going on when it sees the end.
                Next::End => {
                    ready!(this.poll_until(cx, HALF_CLOSE_MS));
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for HeadGuard<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.inner).poll_write(cx, buf);
        this.watch_stall(cx, polled)
    }
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.inner).poll_write_vectored(cx, bufs);
        this.watch_stall(cx, polled)
    }
    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.inner).poll_flush(cx);
        this.watch_stall(cx, polled)
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.inner).poll_shutdown(cx);
        ready!(this.watch_stall(cx, polled))?;
        // Only where something may still be coming that nobody will read.
        let unread = matches!(this.next, Next::Body(1..) | Next::Last);
        if this.refused || unread {
            this.poll_linger(cx)
        } else {
            Poll::Ready(Ok(()))
        }
    }
}
