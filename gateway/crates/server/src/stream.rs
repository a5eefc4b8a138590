//! The socket below everything: plain or TLS, and the guard that lets hyper see only vetted request heads.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep},
};
use tokio_rustls::server::TlsStream;

use crate::{
    head::{BodyKind, HeadEnd, HeadFault, find_end, inspect},
    limits::{LINGER_BYTES, LINGER_MS, WRITE_STALL_MS},
};

/// A connection of the listener.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// Ready when a read may give something; a plain socket that has nothing registers the waker and needs no buffer for that.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Plain(s) => s.poll_read_ready(cx).map(|_| ()),
            Self::Tls(_) => Poll::Ready(()),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_read(cx, buf),
            Self::Tls(s) => Pin::new(s).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_write(cx, buf),
            Self::Tls(s) => Pin::new(s).poll_write(cx, buf),
        }
    }
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_write_vectored(cx, bufs),
            Self::Tls(s) => Pin::new(s).poll_write_vectored(cx, bufs),
        }
    }
    fn is_write_vectored(&self) -> bool {
        true
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_flush(cx),
            Self::Tls(s) => Pin::new(s).poll_flush(cx),
        }
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_shutdown(cx),
            Self::Tls(s) => Pin::new(s).poll_shutdown(cx),
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
    /// Another protocol, if we agree to it: hyper gets nothing more.
    Hold,
    /// Nothing; hyper sees the end of the stream.
    End,
}

/// Stands between the socket and hyper, follows the boundaries of requests and passes on only heads that
/// [`inspect`] accepts. A refused one is answered here, after the answers before it, and ends the connection.
#[derive(Debug)]
pub(crate) struct HeadGuard<S> {
    inner: S,
    buf: Vec<u8>,
    /// How much of the front of `buf` may be handed on.
    vetted: usize,
    seen: usize,
    next: Next,
    fault: Option<Refusal>,
    stall: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug)]
struct Refusal {
    answer: Vec<u8>,
    written: usize,
    discarded: usize,
    until: Option<Pin<Box<Sleep>>>,
}

const READ_STEP: usize = 2 * 1024;
const CLOSE_LINE: &[u8] = b"connection: close\r\n";

impl<S: AsyncRead + AsyncWrite + Unpin> HeadGuard<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self {
            inner,
            buf: Vec::new(),
            vetted: 0,
            seen: 0,
            next: Next::Head,
            fault: None,
            stall: None,
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
        self.fault = Some(Refusal {
            answer: crate::http::reply::raw_refusal(fault),
            written: 0,
            discarded: 0,
            until: None,
        });
        self.next = Next::End;
        self.buf = Vec::new();
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
                HeadEnd::Fault(fault) => self.refuse(fault),
                HeadEnd::At(end) => match inspect(&self.buf[..end]) {
                    Err(fault) => self.refuse(fault),
                    Ok(head) => {
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
                },
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

    fn hand_on(&mut self, out: &mut ReadBuf<'_>) {
        let n = self.vetted.min(out.remaining());
        out.put_slice(&self.buf[..n]);
        self.vetted -= n;
        if n == self.buf.len() {
            self.buf = Vec::new()
        } else {
            drop(self.buf.drain(..n))
        }
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

    /// Writes the refusal, ends our side, and reads on for a moment: data that nobody read would turn the answer into a reset.
    fn poll_refusal(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(refusal) = &mut self.fault else {
            return Poll::Ready(Ok(()));
        };
        while refusal.written < refusal.answer.len() {
            let n = ready!(
                Pin::new(&mut self.inner).poll_write(cx, &refusal.answer[refusal.written..])
            )?;
            if n == 0 {
                return Poll::Ready(Ok(()));
            }
            refusal.written += n;
        }
        if refusal.until.is_none() {
            ready!(Pin::new(&mut self.inner).poll_shutdown(cx))?;
        }
        let until = refusal.until.get_or_insert_with(|| {
            Box::pin(tokio::time::sleep_until(
                Instant::now() + Duration::from_millis(LINGER_MS),
            ))
        });
        let mut waste = [0_u8; READ_STEP];
        while refusal.discarded < LINGER_BYTES && until.as_mut().poll(cx).is_pending() {
            let mut space = ReadBuf::new(&mut waste);
            ready!(Pin::new(&mut self.inner).poll_read(cx, &mut space))?;
            let n = space.filled().len();
            if n == 0 {
                break;
            }
            refusal.discarded += n;
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
                Next::End => return Poll::Ready(Ok(())),
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
        let polled = if this.fault.is_some() {
            this.poll_refusal(cx)
        } else {
            Pin::new(&mut this.inner).poll_shutdown(cx)
        };
        this.watch_stall(cx, polled)
    }
}
