//! A run that an HTTP request waits for: its text as it grows, its end, and both as a stream of events.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::body::Body;
use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use gateway_core::{openai::Completion, session::RunTap};
use gateway_protocol::error::RpcError;
use http::{HeaderValue, Response, header};
use http_body::Frame;
use tokio::sync::mpsc;

/// Bytes of events that are joined into one piece of the answer.
const PIECE_BYTES: usize = 16 * 1024;

struct Tap(mpsc::UnboundedSender<String>);

impl RunTap for Tap {
    // Bounded by the longest text that a run may have.
    fn delta(&self, text: &str) {
        let _ = self.0.send(text.to_owned());
    }
}

/// What a run says, piece by piece.
pub(crate) type Deltas = mpsc::UnboundedReceiver<String>;

/// The two ends of a run's text.
pub(crate) fn tap() -> (Arc<dyn RunTap>, Deltas) {
    let (tap, deltas) = mpsc::unbounded_channel();
    (Arc::new(Tap(tap)), deltas)
}

/// How a run ended.
pub(crate) type Outcome = Result<Completion, RpcError>;

/// A run on its way. Dropping it stops the run: nobody waits for its answer any more.
pub(crate) struct Running {
    deltas: Deltas,
    outcome: BoxFuture<'static, Outcome>,
}

/// What happens next to a run.
pub(crate) enum Next {
    Delta(String),
    End(Box<Outcome>),
}

impl Running {
    pub(crate) fn new(
        deltas: Deltas,
        outcome: impl Future<Output = Outcome> + Send + 'static,
    ) -> Self {
        Self {
            deltas,
            outcome: Box::pin(outcome),
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        if let Poll::Ready(Some(text)) = self.deltas.poll_recv(cx) {
            return Poll::Ready(Next::Delta(text));
        }
        let outcome = ready!(self.outcome.poll_unpin(cx));
        // What was said before the end and came in between the two looks.
        if let Ok(text) = self.deltas.try_recv() {
            self.outcome = Box::pin(std::future::ready(outcome));
            return Poll::Ready(Next::Delta(text));
        }
        Poll::Ready(Next::End(Box::new(outcome)))
    }

    pub(crate) async fn next(&mut self) -> Next {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }
}

/// Turns what happens to a run into the events of one API.
pub(crate) trait Follow: Send + Unpin + 'static {
    /// Adds what `next` means to the events; `true` when they are complete.
    fn follow(&mut self, out: &mut VecDeque<String>, next: Next) -> bool;
}

/// The answer that streams a run: `queue` first, then what follows, unless it is `over` already.
pub(crate) fn stream(
    running: Running,
    follow: impl Follow,
    queue: VecDeque<String>,
    over: bool,
) -> Response<Body> {
    let mut answer = Response::new(Body::new(Events {
        running,
        follow,
        queue,
        over,
    }));
    answer.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream; charset=utf-8"),
    );
    answer
}

/// The stream of events of one run as a body.
struct Events<F> {
    running: Running,
    follow: F,
    queue: VecDeque<String>,
    over: bool,
}

impl<F: Follow> http_body::Body for Events<F> {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let mut piece = String::new();
        loop {
            while let Some(event) = this.queue.pop_front() {
                piece.push_str(&event);
            }
            if this.over || piece.len() >= PIECE_BYTES {
                break;
            }
            match this.running.poll_next(cx) {
                Poll::Ready(next) => this.over = this.follow.follow(&mut this.queue, next),
                Poll::Pending if piece.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        Poll::Ready((!piece.is_empty()).then(|| Ok(Frame::data(Bytes::from(piece)))))
    }
}
