//! One timer for all WebSockets, and what of a connection others may touch.
//!
//! A connection says when it next has to look at its deadlines; the timer wakes those that are due. Without connections it sleeps.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use gateway_core::hub::{EventSink, Pushed, WireEvent};
use gateway_protocol::{frame::Close, limits::MAX_BUFFERED_BYTES};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    budget,
    limits::{QUEUED_EVENT_OVERHEAD_BYTES, TIMER_STEP_MS},
};

/// What waits for a connection: results that come before the final one, and events.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    pub(crate) frames: VecDeque<Bytes>,
    pub(crate) events: VecDeque<Arc<WireEvent>>,
    bytes: usize,
    /// Frames and events that the connection took so far, and how many when it was looked at last.
    taken: u64,
    looked_at: Option<u64>,
    behind: bool,
    // Boxed: an idle connection pays for a pointer.
    ended: Option<Box<Close>>,
}

/// The part of a connection that hub, handlers and timer reach.
#[derive(Debug)]
pub(crate) struct Shared {
    waker: AtomicWaker,
    due_ms: AtomicU64,
    stopping: AtomicBool,
    queue: Mutex<Queue>,
    all: Arc<budget::Bytes>,
}

impl Shared {
    /// `all` is the budget that the queues of all connections share.
    pub(crate) fn new(all: Arc<budget::Bytes>) -> Arc<Self> {
        Arc::new(Self {
            waker: AtomicWaker::new(),
            due_ms: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            queue: Mutex::default(),
            all,
        })
    }

    pub(crate) fn listen(&self, cx: &std::task::Context<'_>) {
        self.waker.register(cx.waker());
    }

    /// The next time (monotonic ms of the timer) at which the connection wants to run.
    pub(crate) fn due(&self, ms: u64) {
        self.due_ms.store(ms, Ordering::Release);
    }

    pub(crate) fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// The connection fell so far behind that an event was lost to it: it has to be closed.
    pub(crate) fn fell_behind(&self) -> bool {
        self.queue.lock().behind
    }

    /// Why the connection has to end, when somebody else said so.
    pub(crate) fn ended(&self) -> Option<Close> {
        self.queue.lock().ended.as_deref().cloned()
    }

    /// Something waits to be written.
    pub(crate) fn waiting(&self) -> bool {
        let queue = self.queue.lock();
        !queue.events.is_empty() || !queue.frames.is_empty()
    }

    /// A result that comes before the final one.
    pub(crate) fn frame(&self, frame: Bytes) {
        // A caller that does not read is closed; the loss is its own.
        let _ = self.take_in(frame.len(), false, |q| q.frames.push_back(frame));
    }

    pub(crate) fn next_frame(&self) -> Option<Bytes> {
        let mut queue = self.queue.lock();
        let frame = queue.frames.pop_front()?;
        self.gone(&mut queue, frame.len());
        Some(frame)
    }

    pub(crate) fn next_event(&self) -> Option<Arc<WireEvent>> {
        let mut queue = self.queue.lock();
        let event = queue.events.pop_front()?;
        self.gone(&mut queue, event.head.len());
        if queue.events.is_empty() && queue.events.capacity() > 32 {
            queue.events = VecDeque::new();
        }
        Some(event)
    }

    fn gone(&self, queue: &mut Queue, len: usize) {
        let cost = len + QUEUED_EVENT_OVERHEAD_BYTES;
        queue.bytes -= cost;
        queue.taken += 1;
        self.all.give(cost);
    }

    /// Whether more than so many bytes waited and nothing was taken since the look before; then they are gone, and the connection
    /// has to be closed.
    fn cut_if_above(&self, bytes: usize) -> bool {
        let mut queue = self.queue.lock();
        let taken = queue.taken;
        let before = queue.looked_at.replace(taken);
        if queue.behind || queue.bytes <= bytes || before != Some(taken) {
            return false;
        }
        queue.behind = true;
        self.all.give(std::mem::take(&mut queue.bytes));
        let waiting = (
            std::mem::take(&mut queue.events),
            std::mem::take(&mut queue.frames),
        );
        drop(queue);
        drop(waiting);
        self.waker.wake();
        true
    }

    fn take_in(&self, len: usize, may_drop: bool, add: impl FnOnce(&mut Queue)) -> Pushed {
        let cost = len + QUEUED_EVENT_OVERHEAD_BYTES;
        let mut queue = self.queue.lock();
        if queue.behind {
            return Pushed::Ending;
        }
        let pushed = if queue.bytes + cost <= MAX_BUFFERED_BYTES && self.all.take(cost) {
            queue.bytes += cost;
            add(&mut queue);
            Pushed::Queued
        } else if may_drop {
            return Pushed::Dropped;
        } else {
            queue.behind = true;
            Pushed::FellBehind
        };
        drop(queue);
        self.waker.wake();
        pushed
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.all.give(self.queue.get_mut().bytes);
    }
}

impl EventSink for Shared {
    fn push(&self, ev: &Arc<WireEvent>) -> Pushed {
        self.take_in(ev.head.len(), ev.drop_if_slow, |q| {
            q.events.push_back(ev.clone())
        })
    }

    fn close(&self, close: Close) {
        self.queue
            .lock()
            .ended
            .get_or_insert_with(|| Box::new(close));
        self.waker.wake();
    }
}

/// The timer and the list of all connections.
#[derive(Debug)]
pub(crate) struct Timer {
    start: Instant,
    conns: Mutex<Conns>,
    some: Notify,
}

#[derive(Debug, Default)]
struct Conns {
    next: u64,
    live: HashMap<u64, Arc<Shared>>,
    stopping: bool,
}

/// Keeps a connection in the list.
#[derive(Debug)]
pub(crate) struct Listed {
    timer: Arc<Timer>,
    key: u64,
}

impl Timer {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            start: Instant::now(),
            conns: Mutex::default(),
            some: Notify::new(),
        })
    }

    /// Milliseconds since the timer was made; never goes back.
    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(crate) fn add(self: &Arc<Self>, shared: &Arc<Shared>) -> Listed {
        let mut conns = self.conns.lock();
        let key = conns.next;
        conns.next += 1;
        shared.stopping.store(conns.stopping, Ordering::Release);
        let first = conns.live.is_empty();
        conns.live.insert(key, shared.clone());
        drop(conns);
        if first {
            self.some.notify_one();
        }
        Listed {
            timer: self.clone(),
            key,
        }
    }

    /// Cuts off every connection for which more than so many bytes wait and that took nothing since the call before, and gives them back at once; says how many there were.
    pub(crate) fn cut_slower_than(&self, bytes: usize) -> usize {
        let conns = self.conns.lock();
        conns
            .live
            .values()
            .filter(|shared| shared.cut_if_above(bytes))
            .count()
    }

    /// Tells every connection, present and future, to end.
    pub(crate) fn stop_all(&self) {
        let mut conns = self.conns.lock();
        conns.stopping = true;
        for shared in conns.live.values() {
            shared.stopping.store(true, Ordering::Release);
            shared.waker.wake();
        }
    }

    /// Runs until `stop`.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut step = tokio::time::interval(Duration::from_millis(TIMER_STEP_MS));
        step.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            if self.conns.lock().live.is_empty() {
                tokio::select! { () = self.some.notified() => {}, () = stop.cancelled() => return }
            }
            tokio::select! { _ = step.tick() => {}, () = stop.cancelled() => return }
            let now = self.now_ms();
            for shared in self.conns.lock().live.values() {
                if shared.due_ms.load(Ordering::Acquire) <= now {
                    shared.due(u64::MAX);
                    shared.waker.wake();
                }
            }
        }
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        let mut conns = self.timer.conns.lock();
        conns.live.remove(&self.key);
        if conns.live.is_empty() {
            conns.live.shrink_to(64);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn event(len: usize, drop_if_slow: bool) -> Arc<WireEvent> {
        Arc::new(WireEvent {
            name: "presence",
            head: Bytes::from(vec![b'x'; len]),
            payload: Bytes::new(),
            drop_if_slow,
            targeted: false,
        })
    }

    /// Covers: R8.
    #[test]
    fn a_reader_that_is_behind_loses_only_what_it_may_lose() {
        let all = budget::Bytes::new(usize::MAX);
        let shared = Shared::new(all);
        let big = event(1024 * 1024, true);
        let mut dropped = 0;
        for _ in 0..10 {
            dropped += usize::from(shared.push(&big) == Pushed::Dropped);
        }
        assert!(dropped > 0);
        assert!(!shared.fell_behind());
        let mut kept = 0;
        while shared.next_event().is_some() {
            kept += 1;
        }
        assert!(kept > 0 && kept * 1024 * 1024 <= MAX_BUFFERED_BYTES);
        for _ in 0..10 {
            shared.push(&event(1024 * 1024, false));
        }
        assert!(shared.fell_behind());
    }

    /// Covers: R8.
    #[test]
    fn all_connections_share_one_budget_and_give_it_back() {
        let all = budget::Bytes::new(1000 + QUEUED_EVENT_OVERHEAD_BYTES);
        let (a, b) = (Shared::new(all.clone()), Shared::new(all.clone()));
        a.push(&event(1000, false));
        b.push(&event(1, true));
        assert!(b.next_event().is_none());
        drop(a);
        b.push(&event(1000, false));
        assert!(!b.fell_behind() && b.next_event().is_some());
        assert!(all.take(1000));
    }
}
