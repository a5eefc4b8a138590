//! Guest threads. Guest code runs here and nowhere else, so that no guest can hold up a connection.
//!
//! Two lanes, each a set of OS threads with a queue that serves tenants in turn. A call begins in the fast lane; when the
//! epoch interrupts it for the first time it moves to the slow lane, whose threads have the lowest priority. A call is a future
//! (a wasmtime fibre); moving it is queueing it elsewhere. One more thread ticks the epoch while guests run, watches the
//! wall deadlines of calls, and sleeps while there is nothing to watch.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;
use wasmtime::Engine;

use crate::limits::{EPOCH_TICK_MS, FAST_SLICE_CPU_US, LimitExceeded, SLOW_SLICE_TICKS};

/// Turns of the ticker without a running guest before it sleeps.
const IDLE_TURNS: u32 = 20;
/// Ticks between two looks at the wall deadlines.
const DEADLINE_TICKS: u32 = 4;

type Job = Pin<Box<dyn Future<Output = ()> + Send>>;

const IDLE: u8 = 0;
const QUEUED: u8 = 1;
const RUNNING: u8 = 2;
const NOTIFIED: u8 = 3;
const DONE: u8 = 4;

/// Why a call was ended from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lost {
    /// Its wall deadline passed.
    Deadline,
    /// A panic of host code under it.
    Panic,
    /// The host is going away.
    Closed,
}

/// The account of one call: who runs it, what it used, whether it must end. Short calls of one account may follow each
/// other in one turn on a thread; each then has a budget and a deadline of its own ([`Ctl::next_call`]).
pub(crate) struct Ctl {
    slow: AtomicBool,
    cancelled: AtomicBool,
    panicked: AtomicBool,
    cpu_used_us: AtomicU64,
    /// What one call may use.
    cpu_call_us: u64,
    /// What may be used until the end of the call under way.
    cpu_budget_us: AtomicU64,
    /// Thread CPU time at the beginning of the turn under way.
    turn_began_us: AtomicU64,
    wall: Duration,
    began: Instant,
    /// Deadline of the call under way, counted from `began`.
    deadline_us: AtomicU64,
}

/// What the epoch callback does.
pub(crate) enum Tick {
    /// Go on, and ask again in so many ticks.
    Continue(u64),
    /// Go to the end of the queue, and ask again so many ticks after the next turn began.
    Yield(u64),
    /// End the call.
    Stop(LimitExceeded),
}

impl Ctl {
    /// Called on the thread that runs the guest, at an epoch deadline.
    pub(crate) fn tick(&self) -> Tick {
        let used = self.used_us();
        if used >= self.cpu_budget_us.load(Ordering::Relaxed) {
            return Tick::Stop(LimitExceeded::new(
                "cpu time of a call",
                self.cpu_call_us / 1_000,
                "ms",
            ));
        }
        if self.cancelled.load(Ordering::Relaxed) {
            return Tick::Yield(1);
        }
        // Ticks are wall time: a call that waited for the host, or for a busy machine, has not had its slice yet.
        if used < FAST_SLICE_CPU_US && !self.slow.load(Ordering::Relaxed) {
            return Tick::Continue(1);
        }
        self.slow.store(true, Ordering::Relaxed);
        Tick::Yield(SLOW_SLICE_TICKS)
    }

    /// The call was given up: nothing new may begin in it.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }

    /// Time left to the wall deadline.
    pub(crate) fn remaining(&self) -> Duration {
        self.deadline().saturating_sub(self.began.elapsed())
    }

    fn deadline(&self) -> Duration {
        Duration::from_micros(self.deadline_us.load(Ordering::Relaxed))
    }

    /// CPU time used so far. Only on the thread that runs the guest.
    pub(crate) fn used_us(&self) -> u64 {
        let turn = thread_cpu_us().saturating_sub(self.turn_began_us.load(Ordering::Relaxed));
        self.cpu_used_us.load(Ordering::Relaxed) + turn
    }

    /// Another short call of the same account may follow on this thread, whose turn began at `turn`: it is a short one so
    /// far.
    pub(crate) fn has_time(&self, turn: Instant) -> bool {
        !self.is_cancelled()
            && !self.slow.load(Ordering::Relaxed)
            && turn.elapsed() < Duration::from_micros(FAST_SLICE_CPU_US)
            && self.used_us() < FAST_SLICE_CPU_US / 2
    }

    /// Begins the next call of this turn, with a budget and a deadline as the first one had.
    pub(crate) fn next_call(&self) {
        self.cpu_budget_us
            .store(self.used_us() + self.cpu_call_us, Ordering::Relaxed);
        self.deadline_us
            .store(micros(self.began.elapsed() + self.wall), Ordering::Relaxed);
    }

    /// The call moved to the slow lane.
    #[cfg(test)]
    pub(crate) fn is_slow(&self) -> bool {
        self.slow.load(Ordering::Relaxed)
    }

    fn lost(&self) -> Lost {
        if self.panicked.load(Ordering::Acquire) {
            Lost::Panic
        } else if self.cancelled.load(Ordering::Acquire) {
            Lost::Deadline
        } else {
            Lost::Closed
        }
    }
}

/// A sender that can be dropped by whoever shares it.
trait HangUp: Send + Sync {
    fn hang_up(&self);
}

impl<T: Send> HangUp for Mutex<Option<oneshot::Sender<T>>> {
    fn hang_up(&self) {
        let sender = self.lock().take();
        drop(sender);
    }
}

struct Task {
    id: u64,
    tenant: Arc<str>,
    state: AtomicU8,
    job: Mutex<Option<Job>>,
    /// The sender of the call's output, shared with the future: who waits is told when the reason is noted, and not by an unwinding
    /// that drops the future's parts before.
    answer: Arc<dyn HangUp>,
    ctl: Arc<Ctl>,
    lanes: Arc<Inner>,
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        loop {
            let (from, to) = match self.state.load(Ordering::Acquire) {
                IDLE => (IDLE, QUEUED),
                RUNNING => (RUNNING, NOTIFIED),
                _ => return,
            };
            if self
                .state
                .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
                .is_ok()
            {
                if to == QUEUED {
                    self.lanes.queue(self).push(self.clone());
                }
                return;
            }
        }
    }
}

/// A queue that serves tenants in turn.
#[derive(Default)]
struct Queue {
    state: Mutex<QueueState>,
    ready: Condvar,
}

#[derive(Default)]
struct QueueState {
    turn: VecDeque<Arc<str>>,
    waiting: HashMap<Arc<str>, VecDeque<Arc<Task>>>,
    closed: bool,
}

impl Queue {
    fn push(&self, task: Arc<Task>) {
        let mut s = self.state.lock();
        if s.closed {
            drop(s);
            task.finish();
            return;
        }
        let tenant = task.tenant.clone();
        let waiting = s.waiting.entry(tenant.clone()).or_default();
        waiting.push_back(task);
        if waiting.len() == 1 {
            s.turn.push_back(tenant);
        }
        drop(s);
        self.ready.notify_one();
    }

    /// Waits for a task. `None` once closed.
    fn pop(&self) -> Option<Arc<Task>> {
        let mut s = self.state.lock();
        loop {
            if s.closed {
                return None;
            }
            if let Some(tenant) = s.turn.pop_front() {
                let task = s.waiting.get_mut(&tenant).and_then(VecDeque::pop_front);
                match s.waiting.get(&tenant).is_some_and(|w| !w.is_empty()) {
                    true => s.turn.push_back(tenant),
                    false => {
                        s.waiting.remove(&tenant);
                    }
                }
                if task.is_some() {
                    return task;
                }
            } else {
                self.ready.wait(&mut s);
            }
        }
    }

    fn close(&self) -> Vec<Arc<Task>> {
        let mut s = self.state.lock();
        s.closed = true;
        s.turn.clear();
        let left = s.waiting.drain().flat_map(|(_, w)| w).collect();
        drop(s);
        self.ready.notify_all();
        left
    }
}

struct Inner {
    fast: Queue,
    slow: Queue,
    /// Calls that have not ended, wherever they are.
    active: Mutex<HashMap<u64, Arc<Task>>>,
    next_id: AtomicU64,
    /// Threads that run guest code now.
    running: AtomicUsize,
    /// The ticker sleeps.
    parked: AtomicBool,
    closed: AtomicBool,
    ticker: Mutex<Option<Thread>>,
}

impl Inner {
    fn queue(&self, task: &Task) -> &Queue {
        if task.ctl.slow.load(Ordering::Relaxed) {
            &self.slow
        } else {
            &self.fast
        }
    }

    fn wake_ticker(&self) {
        if self.parked.swap(false, Ordering::SeqCst)
            && let Some(t) = self.ticker.lock().as_ref()
        {
            t.unpark();
        }
    }
}

impl Task {
    /// Runs one turn on the thread of the caller.
    fn turn(self: Arc<Self>) {
        self.state.store(RUNNING, Ordering::Release);
        if self.ctl.cancelled.load(Ordering::Acquire) {
            self.finish();
            return;
        }
        let waker = Waker::from(self.clone());
        self.lanes.running.fetch_add(1, Ordering::SeqCst);
        self.lanes.wake_ticker();
        self.ctl
            .turn_began_us
            .store(thread_cpu_us(), Ordering::Relaxed);
        let polled = {
            let mut job = self.job.lock();
            match job.as_mut() {
                None => Ok(Poll::Ready(())),
                // A panic of host code under a guest ends that guest's call and nothing else. The future is not polled again.
                Some(f) => std::panic::catch_unwind(AssertUnwindSafe(|| {
                    f.as_mut().poll(&mut Context::from_waker(&waker))
                })),
            }
        };
        let used = thread_cpu_us().saturating_sub(self.ctl.turn_began_us.load(Ordering::Relaxed));
        self.ctl.cpu_used_us.fetch_add(used, Ordering::Relaxed);
        self.lanes.running.fetch_sub(1, Ordering::SeqCst);
        match polled {
            Ok(Poll::Ready(())) => self.finish(),
            Ok(Poll::Pending) => {
                if self
                    .state
                    .compare_exchange(RUNNING, IDLE, Ordering::AcqRel, Ordering::Acquire)
                    .is_err()
                {
                    // Woken while it ran (a yield wakes itself).
                    self.state.store(QUEUED, Ordering::Release);
                    let lanes = self.lanes.clone();
                    lanes.queue(&self).push(self);
                }
            }
            Err(_) => {
                self.ctl.panicked.store(true, Ordering::Release);
                self.finish();
            }
        }
    }

    /// Drops the future (and with it the Store) on this thread.
    fn finish(&self) {
        self.state.store(DONE, Ordering::Release);
        self.lanes.active.lock().remove(&self.id);
        let job = self.job.lock().take();
        if std::panic::catch_unwind(AssertUnwindSafe(move || drop(job))).is_err() {
            self.ctl.panicked.store(true, Ordering::Release);
        }
        // The last: who waits is told now, and finds the reason.
        self.answer.hang_up();
    }
}

/// The threads.
pub(crate) struct Lanes {
    inner: Arc<Inner>,
}

impl Lanes {
    /// Starts the threads. The ticker increments the epoch of each engine.
    pub(crate) fn start(fast: usize, slow: usize, engines: Vec<Engine>) -> std::io::Result<Self> {
        let inner = Arc::new(Inner {
            fast: Queue::default(),
            slow: Queue::default(),
            active: Mutex::default(),
            next_id: AtomicU64::new(1),
            running: AtomicUsize::new(0),
            parked: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            ticker: Mutex::new(None),
        });
        let lanes = Self { inner };
        let i = lanes.inner.clone();
        let ticker = std::thread::Builder::new()
            .name("guest-epoch".into())
            .spawn(move || tick(&i, &engines))?;
        *lanes.inner.ticker.lock() = Some(ticker.thread().clone());
        for n in 0..fast.max(1) {
            let i = lanes.inner.clone();
            std::thread::Builder::new()
                .name(format!("guest-fast-{n}"))
                .spawn(move || {
                    while let Some(task) = i.fast.pop() {
                        task.turn();
                    }
                })?;
        }
        for n in 0..slow.max(1) {
            let i = lanes.inner.clone();
            std::thread::Builder::new()
                .name(format!("guest-slow-{n}"))
                .spawn(move || {
                    lowest_priority();
                    while let Some(task) = i.slow.pop() {
                        task.turn();
                    }
                })?;
        }
        Ok(lanes)
    }

    /// Runs what `make` makes on the guest threads and gives its output, or says why there is none. The returned future
    /// only waits; dropping it does not end the call.
    pub(crate) fn run<T, F, M>(
        &self,
        tenant: Arc<str>,
        wall: Duration,
        cpu: Duration,
        make: M,
    ) -> impl Future<Output = Result<T, Lost>> + use<T, F, M>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
        M: FnOnce(Arc<Ctl>) -> F,
    {
        let ctl = Arc::new(Ctl {
            slow: AtomicBool::new(false),
            cancelled: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
            cpu_used_us: AtomicU64::new(0),
            cpu_call_us: micros(cpu),
            cpu_budget_us: AtomicU64::new(micros(cpu)),
            turn_began_us: AtomicU64::new(0),
            wall,
            began: Instant::now(),
            deadline_us: AtomicU64::new(micros(wall)),
        });
        let (tx, rx) = oneshot::channel();
        let future = make(ctl.clone());
        let tx = Arc::new(Mutex::new(Some(tx)));
        let answer: Arc<dyn HangUp> = tx.clone();
        let job: Job = Box::pin(async move {
            let output = future.await;
            if let Some(tx) = tx.lock().take() {
                // Nobody listens any more: the output (an instance, perhaps) is dropped here, on a guest thread.
                drop(tx.send(output));
            }
        });
        let id = self.inner.next_id.fetch_add(1, Ordering::Relaxed);
        let task = Arc::new(Task {
            id,
            tenant,
            state: AtomicU8::new(QUEUED),
            job: Mutex::new(Some(job)),
            answer,
            ctl: ctl.clone(),
            lanes: self.inner.clone(),
        });
        self.inner.active.lock().insert(id, task.clone());
        self.inner.fast.push(task);
        async move { rx.await.map_err(|_| ctl.lost()) }
    }

    /// Calls that have not ended.
    #[cfg(test)]
    pub(crate) fn active(&self) -> usize {
        self.inner.active.lock().len()
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        self.inner.closed.store(true, Ordering::SeqCst);
        let mut left = self.inner.fast.close();
        left.extend(self.inner.slow.close());
        for task in left {
            task.finish();
        }
        let waiting: Vec<_> = self.inner.active.lock().values().cloned().collect();
        for task in waiting {
            // Those that wait for the host are dropped by `push` on the closed queue; a running one at its next yield.
            task.ctl.cancelled.store(true, Ordering::Release);
            task.wake_by_ref();
        }
        self.inner.parked.store(false, Ordering::SeqCst);
        if let Some(t) = self.inner.ticker.lock().as_ref() {
            t.unpark();
        }
    }
}

/// The ticker's thread.
fn tick(lanes: &Inner, engines: &[Engine]) {
    let mut idle = 0;
    let mut turn = 0;
    while !(lanes.closed.load(Ordering::SeqCst) && lanes.running.load(Ordering::SeqCst) == 0) {
        if lanes.running.load(Ordering::SeqCst) > 0 {
            idle = 0;
            for engine in engines {
                engine.increment_epoch();
            }
        } else {
            idle += 1;
        }
        turn += 1;
        if turn >= DEADLINE_TICKS || idle > IDLE_TURNS {
            turn = 0;
            let next = end_overdue(lanes);
            if idle > IDLE_TURNS {
                lanes.parked.store(true, Ordering::SeqCst);
                // A guest that started in between has either seen `parked`, or is seen here.
                if lanes.running.load(Ordering::SeqCst) == 0 && !lanes.closed.load(Ordering::SeqCst)
                {
                    match next {
                        Some(d) => std::thread::park_timeout(d.max(Duration::from_millis(1))),
                        None => std::thread::park(),
                    }
                }
                lanes.parked.store(false, Ordering::SeqCst);
                continue;
            }
        }
        std::thread::sleep(Duration::from_millis(EPOCH_TICK_MS));
    }
}

/// Ends calls past their deadline; says when the next one is due.
fn end_overdue(lanes: &Inner) -> Option<Duration> {
    let now = Instant::now();
    let mut next = None;
    let mut overdue = Vec::new();
    for task in lanes.active.lock().values() {
        let deadline = task.ctl.began + task.ctl.deadline();
        if deadline <= now {
            overdue.push(task.clone());
        } else {
            let left = deadline - now;
            next = Some(next.map_or(left, |n: Duration| n.min(left)));
        }
    }
    for task in overdue {
        // A guest that runs yields at its next epoch deadline, and its thread sees the flag then; one that waits is queued.
        // Who asked is told now: the slow lane may be long, and its threads have the lowest priority.
        task.ctl.cancelled.store(true, Ordering::SeqCst);
        task.answer.hang_up();
        task.ctl.slow.store(true, Ordering::Relaxed);
        task.wake_by_ref();
        next = Some(Duration::from_millis(EPOCH_TICK_MS));
    }
    next
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// CPU time of this thread in microseconds. Where the platform has none, wall time.
fn thread_cpu_us() -> u64 {
    #[cfg(target_os = "linux")]
    if let Ok(t) = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID) {
        return u64::try_from(Duration::from(t).as_micros()).unwrap_or(u64::MAX);
    }
    thread_local!(static START: Instant = Instant::now());
    START.with(|s| u64::try_from(s.elapsed().as_micros()).unwrap_or(u64::MAX))
}

/// Nice 19 for this thread.
fn lowest_priority() {
    #[cfg(target_os = "linux")]
    if let Err(e) =
        thread_priority::set_current_thread_priority(thread_priority::ThreadPriority::Min)
    {
        tracing::warn!(error = ?e, "the slow guest lane runs at normal priority");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn lanes() -> Lanes {
        Lanes::start(1, 1, Vec::new()).unwrap()
    }

    const LONG: Duration = Duration::from_secs(20);

    /// Gives the thread away once, as a guest does at an epoch deadline.
    async fn yield_once() {
        let mut first = true;
        std::future::poll_fn(|cx| {
            if std::mem::take(&mut first) {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(())
        })
        .await;
    }

    fn spin(cpu: Duration) {
        let began = thread_cpu_us();
        while u128::from(thread_cpu_us() - began) < cpu.as_micros() {
            std::hint::spin_loop();
        }
    }

    /// Waits until no call is counted: its answer is told a moment before the lane is done with it.
    async fn at_rest(lanes: &Lanes) {
        for _ in 0..1_000 {
            if lanes.active() == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{} calls are still counted", lanes.active());
    }

    #[tokio::test]
    async fn a_long_call_moves_to_the_slow_lane_whose_priority_is_lowest() {
        let lanes = lanes();
        let names = lanes
            .run(Arc::from("t"), LONG, LONG, |ctl| async move {
                let name = || std::thread::current().name().unwrap_or("").to_owned();
                let first = name();
                assert!(
                    matches!(ctl.tick(), Tick::Continue(_)),
                    "its slice is not used up"
                );
                spin(Duration::from_micros(FAST_SLICE_CPU_US));
                assert!(matches!(ctl.tick(), Tick::Yield(_)));
                assert!(ctl.is_slow());
                yield_once().await;
                let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
                // Field 19 of stat(5), counted after the name, which may hold spaces.
                let nice: i32 = stat
                    .rsplit(") ")
                    .next()
                    .unwrap()
                    .split(' ')
                    .nth(16)
                    .unwrap()
                    .parse()
                    .unwrap();
                (first, name(), nice)
            })
            .await
            .unwrap();
        assert_eq!(
            names,
            ("guest-fast-0".to_owned(), "guest-slow-0".to_owned(), 19)
        );
        at_rest(&lanes).await;
    }

    #[tokio::test]
    async fn tenants_take_turns_however_many_calls_one_has() {
        let lanes = lanes();
        let order = Arc::new(Mutex::new(Vec::new()));
        let gate = Arc::new(AtomicBool::new(false));
        let g = gate.clone();
        let first = lanes.run(Arc::from("x"), LONG, LONG, move |_| async move {
            while !g.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
        });
        let mut calls = Vec::new();
        for tenant in ["a", "a", "a", "a", "b", "c", "b"] {
            let o = order.clone();
            calls.push(
                lanes.run(Arc::from(tenant), LONG, LONG, move |_| async move {
                    o.lock().push(tenant)
                }),
            );
        }
        gate.store(true, Ordering::SeqCst);
        first.await.unwrap();
        for c in calls {
            c.await.unwrap();
        }
        assert_eq!(*order.lock(), ["a", "b", "c", "a", "b", "a", "a"]);
    }

    /// Covers: W4, W5.
    #[tokio::test]
    async fn a_panic_and_a_deadline_are_told_apart_and_the_thread_lives() {
        let lanes = lanes();
        let r = lanes
            .run(Arc::from("t"), LONG, LONG, |_| async move {
                assert!(std::hint::black_box(false), "on purpose")
            })
            .await;
        assert_eq!(r, Err(Lost::Panic));
        let r = lanes
            .run(Arc::from("t"), Duration::from_millis(30), LONG, |_| {
                std::future::pending::<()>()
            })
            .await;
        assert_eq!(r, Err(Lost::Deadline));
        assert_eq!(
            lanes.run(Arc::from("t"), LONG, LONG, |_| async { 7 }).await,
            Ok(7)
        );
        let waits = lanes.run(Arc::from("t"), LONG, LONG, |_| std::future::pending::<()>());
        drop(lanes);
        assert!(waits.await.is_err());
    }

    /// Covers: W5.
    #[tokio::test]
    async fn calls_that_share_a_turn_have_a_budget_and_a_deadline_each() {
        let lanes = lanes();
        let (wall, cpu) = (Duration::from_millis(400), Duration::from_millis(20));
        let seen = lanes
            .run(Arc::from("t"), wall, cpu, |ctl| async move {
                let turn = Instant::now();
                assert!(ctl.has_time(turn));
                spin(Duration::from_millis(15));
                assert!(!ctl.has_time(turn), "the turn is no short one any more");
                let left = ctl.remaining();
                ctl.next_call();
                assert!(ctl.remaining() > left);
                spin(Duration::from_millis(15));
                let second = matches!(ctl.tick(), Tick::Stop(_));
                spin(Duration::from_millis(10));
                (second, matches!(ctl.tick(), Tick::Stop(_)))
            })
            .await
            .unwrap();
        assert_eq!(seen, (false, true));
        at_rest(&lanes).await;
    }

    #[tokio::test]
    async fn the_cpu_budget_is_of_all_turns_together() {
        let lanes = lanes();
        let stopped = lanes
            .run(
                Arc::from("t"),
                LONG,
                Duration::from_millis(20),
                |ctl| async move {
                    for turn in 0..100 {
                        spin(Duration::from_millis(5));
                        if matches!(ctl.tick(), Tick::Stop(_)) {
                            return turn;
                        }
                        yield_once().await;
                    }
                    100
                },
            )
            .await
            .unwrap();
        assert!((2..=5).contains(&stopped), "stopped in turn {stopped}");
    }
}
