//! What waits to be written to one WebSocket: whole frames, small ones gathered into one write, big payloads shared without a copy.
//!
//! Nothing is kept once it is written, so an idle connection holds no write buffer however big its hello was.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

use crate::limits::{WS_COPY_BYTES, WS_FRAGMENT_BYTES};

const FIN: u8 = 0x80;
/// Text frame opcode.
pub(crate) const TEXT: u8 = 0x1;
/// Binary frame opcode.
#[cfg(feature = "test-echo")]
pub(crate) const BINARY: u8 = 0x2;
const CONTINUE: u8 = 0x0;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;

#[derive(Debug)]
struct Piece {
    bytes: Bytes,
    /// A frame begins with the first byte: something else may be put in front of it.
    starts_frame: bool,
}

/// Frames on their way out.
#[derive(Debug, Default)]
pub(crate) struct Out {
    pieces: VecDeque<Piece>,
    front_started: bool,
    tail: Vec<u8>,
    tail_starts_frame: bool,
    tail_done: usize,
    len: usize,
}

impl Out {
    /// Bytes that are not written yet.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Everything is written.
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds one message made of `prefix`, `payload`, `suffix` (in that order).
    pub(crate) fn message(&mut self, opcode: u8, prefix: &[u8], payload: &Bytes, suffix: &[u8]) {
        let total = prefix.len() + payload.len() + suffix.len();
        if total <= WS_COPY_BYTES {
            self.header(opcode | FIN, total);
            self.copy(prefix);
            self.copy(payload);
            self.copy(suffix);
            return;
        }
        // The message as one list of bytes, cut into fragments.
        let mut parts = [
            Bytes::copy_from_slice(prefix),
            payload.clone(),
            Bytes::copy_from_slice(suffix),
        ];
        let (mut left, mut kind) = (total, opcode);
        while left > 0 {
            let size = left.min(WS_FRAGMENT_BYTES);
            left -= size;
            self.header(kind | if left == 0 { FIN } else { 0 }, size);
            kind = CONTINUE;
            let mut want = size;
            for part in &mut parts {
                let take = want.min(part.len());
                want -= take;
                let piece = part.split_to(take);
                if piece.len() > WS_COPY_BYTES {
                    self.share(piece)
                } else {
                    self.copy(&piece)
                }
            }
        }
    }

    /// Adds an empty ping.
    pub(crate) fn ping(&mut self) {
        self.header(PING | FIN, 0);
    }

    /// Adds a close frame; `code` 1005 sends one without a body.
    pub(crate) fn close(&mut self, code: u16, reason: &str) {
        let body = if code == 1005 { 0 } else { 2 + reason.len() };
        self.header(CLOSE | FIN, body);
        if body > 0 {
            self.copy(&code.to_be_bytes());
            self.copy(reason.as_bytes());
        }
    }

    /// Adds whole control frames of the library: before the next frame that has not begun.
    pub(crate) fn control(&mut self, frames: &[u8]) {
        let first = usize::from(self.front_started);
        let at = (first..self.pieces.len()).find(|i| self.pieces[*i].starts_frame);
        match at {
            Some(at) => {
                self.len += frames.len();
                self.pieces.insert(
                    at,
                    Piece {
                        bytes: Bytes::copy_from_slice(frames),
                        starts_frame: true,
                    },
                );
            }
            None => self.copy(frames),
        }
    }

    fn header(&mut self, first: u8, payload: usize) {
        if self.tail.len() > 4 * WS_COPY_BYTES {
            self.seal();
        }
        let mut head = [first, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let n = if payload < 126 {
            head[1] = payload as u8;
            2
        } else if let Ok(short) = u16::try_from(payload) {
            head[1] = 126;
            head[2..4].copy_from_slice(&short.to_be_bytes());
            4
        } else {
            head[1] = 127;
            head[2..10].copy_from_slice(&(payload as u64).to_be_bytes());
            10
        };
        if self.tail.is_empty() {
            self.tail_starts_frame = true;
            self.tail.reserve(n + payload.min(WS_COPY_BYTES));
        }
        self.copy(&head[..n]);
    }

    fn copy(&mut self, bytes: &[u8]) {
        self.len += bytes.len();
        self.tail.extend_from_slice(bytes);
    }

    fn share(&mut self, bytes: Bytes) {
        self.seal();
        self.len += bytes.len();
        self.pieces.push_back(Piece {
            bytes,
            starts_frame: false,
        });
    }

    /// Moves the tail into the list of pieces.
    fn seal(&mut self) {
        if self.tail.is_empty() {
            return;
        }
        let done = std::mem::take(&mut self.tail_done);
        let mut bytes = Bytes::from(std::mem::take(&mut self.tail));
        bytes.advance(done);
        let starts_frame = std::mem::take(&mut self.tail_starts_frame) && done == 0;
        if !bytes.is_empty() {
            if self.pieces.is_empty() {
                self.front_started = done > 0;
            }
            self.pieces.push_back(Piece {
                bytes,
                starts_frame,
            });
        }
    }

    /// Writes as much as the socket takes. Ready when nothing is left.
    pub(crate) fn poll_flush<S: AsyncWrite + Unpin>(
        &mut self,
        io: &mut S,
        cx: &mut Context<'_>,
        wrote: &mut bool,
    ) -> Poll<io::Result<()>> {
        while self.len > 0 {
            let n = if self.pieces.is_empty() {
                ready!(Pin::new(&mut *io).poll_write(cx, &self.tail[self.tail_done..]))?
            } else {
                let mut slices = [IoSlice::new(&[]); 8];
                let mut used = 0;
                for piece in self.pieces.iter().take(7) {
                    slices[used] = IoSlice::new(&piece.bytes);
                    used += 1;
                }
                if self.pieces.len() <= 7 {
                    slices[used] = IoSlice::new(&self.tail[self.tail_done..]);
                    used += 1;
                }
                ready!(Pin::new(&mut *io).poll_write_vectored(cx, &slices[..used]))?
            };
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            *wrote = true;
            self.advance(n);
        }
        Pin::new(io).poll_flush(cx)
    }

    fn advance(&mut self, mut n: usize) {
        self.len -= n;
        while n > 0 {
            let Some(front) = self.pieces.front_mut() else {
                self.tail_done += n;
                break;
            };
            let take = n.min(front.bytes.len());
            front.bytes.advance(take);
            self.front_started = true;
            n -= take;
            if front.bytes.is_empty() {
                self.pieces.pop_front();
                self.front_started = false;
            }
        }
        if self.len == 0 {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Takes `step` bytes at a time.
    struct Slow(Vec<u8>, usize);

    impl AsyncWrite for Slow {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            b: &[u8],
        ) -> Poll<io::Result<usize>> {
            let n = b.len().min(self.1);
            self.0.extend_from_slice(&b[..n]);
            Poll::Ready(Ok(n))
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn frames(mut b: &[u8]) -> Vec<(u8, Vec<u8>)> {
        let mut out = Vec::new();
        while !b.is_empty() {
            let first = b[0];
            let (n, at) = match b[1] {
                126 => (usize::from(u16::from_be_bytes([b[2], b[3]])), 4),
                127 => (
                    usize::try_from(u64::from_be_bytes(b[2..10].try_into().unwrap())).unwrap(),
                    10,
                ),
                n => (usize::from(n), 2),
            };
            out.push((first, b[at..at + n].to_vec()));
            b = &b[at + n..];
        }
        out
    }

    #[test]
    fn messages_of_all_sizes_in_order() {
        for step in [1_usize, 7, 4096, 1 << 20] {
            let mut out = Out::default();
            let sizes = [
                0_usize, 1, 125, 126, 4_000, 5_000, 65_536, 70_000, 200_000, 3,
            ];
            let mut want = Vec::new();
            for (i, size) in sizes.iter().enumerate() {
                let body = vec![b'a' + i as u8; *size];
                out.message(TEXT, b"<", &Bytes::from(body.clone()), b">>>");
                want.push([b"<".as_slice(), &body, b">>>"].concat());
            }
            let mut io = Slow(Vec::new(), step);
            let mut cx = Context::from_waker(std::task::Waker::noop());
            let mut wrote = false;
            assert!(
                out.poll_flush(&mut io, &mut cx, &mut wrote).is_ready() && wrote && out.is_empty()
            );
            let mut got: Vec<Vec<u8>> = Vec::new();
            let mut part: Option<Vec<u8>> = None;
            for (first, body) in frames(&io.0) {
                assert!(body.len() <= WS_FRAGMENT_BYTES);
                assert_eq!(first & 0x0f, if part.is_some() { CONTINUE } else { TEXT });
                let mut message = part.take().unwrap_or_default();
                message.extend_from_slice(&body);
                if first & FIN == 0 {
                    part = Some(message)
                } else {
                    got.push(message)
                }
            }
            assert_eq!(got, want, "step {step}");
        }
    }

    #[test]
    fn control_frames_go_between_whole_frames_only() {
        let mut out = Out::default();
        out.message(TEXT, b"", &Bytes::from(vec![b'x'; 300_000]), b"");
        // begin the first fragment, then a pong arrives
        let mut io = Vec::new();
        let begun = out.pieces[0].bytes.len() + 500;
        io.extend_from_slice(&out.pieces[0].bytes);
        io.extend_from_slice(&out.pieces[1].bytes[..500]);
        out.advance(begun);
        out.control(&[0x8a, 1, b'p']);
        out.ping();
        let mut io = Slow(io, 1000);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut wrote = false;
        assert!(out.poll_flush(&mut io, &mut cx, &mut wrote).is_ready());
        let got = frames(&io.0);
        assert_eq!(
            got[1],
            (0x8a, b"p".to_vec()),
            "the pong is not kept behind the big message"
        );
        assert_eq!(got.last().map(|f| f.0), Some(0x89));
        assert_eq!(
            got.iter()
                .filter(|f| f.0 & 0x0f < 3)
                .map(|f| f.1.len())
                .sum::<usize>(),
            300_000
        );
    }
}
