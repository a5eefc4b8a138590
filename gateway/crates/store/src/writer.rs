//! The threads that touch the disk, and the answer that a caller waits for.
//!
//! A tenant always has the same writer thread. Its waiting writes are taken all at once and committed together
//! ([`crate::tenant_db`] does that), so that one fsync serves all of them; nobody waits for a timer.

use crate::limits::MAX_QUEUED_READS;
use crate::repo::Write;
use crate::tenant_db::Inner;
use crate::{Result, StoreError};
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Instant;
use tokio::sync::oneshot;

/// Answer of an operation. The operation is under way from the moment this value exists; dropping it does not undo
/// or stop anything.
#[must_use = "the answer says whether the operation worked"]
#[derive(Debug)]
pub struct Pending<T>(State<T>);

#[derive(Debug)]
enum State<T> {
    Ready(Option<Result<T>>),
    Waiting(oneshot::Receiver<Result<T>>),
}

impl<T> Pending<T> {
    pub(crate) fn ready(r: Result<T>) -> Self {
        Self(State::Ready(Some(r)))
    }

    pub(crate) fn channel() -> (oneshot::Sender<Result<T>>, Self) {
        let (tx, rx) = oneshot::channel();
        (tx, Self(State::Waiting(rx)))
    }

    /// Waits on this thread. Not for use on an async runtime's thread.
    pub fn wait(self) -> Result<T> {
        match self.0 {
            State::Ready(r) => r.unwrap_or(Err(StoreError::Closed)),
            State::Waiting(rx) => rx.blocking_recv().unwrap_or(Err(StoreError::Closed)),
        }
    }
}

// No field is pinned in place.
impl<T> Unpin for Pending<T> {}

impl<T> Future for Pending<T> {
    type Output = Result<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.get_mut().0 {
            State::Ready(r) => Poll::Ready(r.take().unwrap_or(Err(StoreError::Closed))),
            State::Waiting(rx) => Pin::new(rx)
                .poll(cx)
                .map(|r| r.unwrap_or(Err(StoreError::Closed))),
        }
    }
}

/// One write that waits for its commit.
pub(crate) trait Job: Send {
    /// Runs the closure; the answer is kept until [`Job::finish`]. The error, if the closure gave one.
    fn run(&mut self, w: &mut Write<'_>) -> Option<StoreError>;
    /// Answers: with what the closure gave, or with `fail`.
    fn finish(self: Box<Self>, fail: Option<StoreError>);
}

/// A closure with its answer's way back.
pub(crate) struct TypedJob<T, F> {
    pub(crate) closure: Option<F>,
    pub(crate) result: Option<Result<T>>,
    pub(crate) answer: oneshot::Sender<Result<T>>,
}

impl<T, F> Job for TypedJob<T, F>
where
    T: Send + 'static,
    F: FnOnce(&mut Write<'_>) -> Result<T> + Send + 'static,
{
    fn run(&mut self, w: &mut Write<'_>) -> Option<StoreError> {
        let result = match self.closure.take() {
            Some(f) => catch_unwind(AssertUnwindSafe(|| f(w))).unwrap_or(Err(StoreError::Panicked)),
            None => Err(StoreError::Closed),
        };
        let error = result.as_ref().err().cloned();
        self.result = Some(result);
        error
    }

    fn finish(self: Box<Self>, fail: Option<StoreError>) {
        let result = match fail {
            Some(e) => Err(e),
            None => self.result.unwrap_or(Err(StoreError::Closed)),
        };
        // The caller may have gone away; the commit stands.
        let _ = self.answer.send(result);
    }
}

type ReadJob = Box<dyn FnOnce() + Send>;

struct Shard {
    queue: Mutex<ShardQueue>,
    wake: Condvar,
    started: Instant,
    /// When the work under way began, in ms since `started`, plus one; 0: the thread waits for work.
    busy_since_ms: AtomicU64,
}

struct ShardQueue {
    /// Tenants with waiting writes, each at most once.
    ready: VecDeque<Arc<Inner>>,
    stop: bool,
}

struct Readers {
    queue: Mutex<ReadQueue>,
    wake: Condvar,
}

struct ReadQueue {
    jobs: VecDeque<ReadJob>,
    stop: bool,
}

/// The store's own threads: writers (a tenant always on the same one) and readers. Idle threads sleep on a condition.
pub struct WriterPool {
    shards: Vec<Arc<Shard>>,
    readers: Arc<Readers>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl std::fmt::Debug for WriterPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WriterPool")
            .field("writers", &self.shards.len())
            .finish_non_exhaustive()
    }
}

impl WriterPool {
    /// Starts `writers` writer threads and `readers` reader threads (at least one each).
    pub fn new(writers: usize, readers: usize) -> Result<Arc<Self>> {
        let spawn = |name: String, f: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new()
                .name(name)
                .stack_size(1024 * 1024)
                .spawn(f)
                .map_err(|e| StoreError::Io(format!("start a store thread: {e}")))
        };
        let pool = Arc::new(Self {
            shards: (0..writers.max(1))
                .map(|_| {
                    Arc::new(Shard {
                        queue: Mutex::new(ShardQueue {
                            ready: VecDeque::new(),
                            stop: false,
                        }),
                        wake: Condvar::new(),
                        started: Instant::now(),
                        busy_since_ms: AtomicU64::new(0),
                    })
                })
                .collect(),
            readers: Arc::new(Readers {
                queue: Mutex::new(ReadQueue {
                    jobs: VecDeque::new(),
                    stop: false,
                }),
                wake: Condvar::new(),
            }),
            threads: Mutex::new(Vec::new()),
        });
        // On an early return the pool is dropped, which stops the threads that were started.
        for (i, shard) in pool.shards.iter().enumerate() {
            let shard = Arc::clone(shard);
            pool.threads.lock().push(spawn(
                format!("store-write-{i}"),
                Box::new(move || shard.run()),
            )?);
        }
        for i in 0..readers.max(1) {
            let readers = Arc::clone(&pool.readers);
            pool.threads.lock().push(spawn(
                format!("store-read-{i}"),
                Box::new(move || readers.run()),
            )?);
        }
        Ok(pool)
    }

    /// Stops the threads after they have done what is queued, and waits for them. Later operations are answered
    /// [`StoreError::Closed`]. Not for use on an async runtime's thread.
    pub fn shutdown(&self) {
        self.stop();
        let threads = std::mem::take(&mut *self.threads.lock());
        let me = std::thread::current().id();
        for t in threads {
            if t.thread().id() != me {
                let _ = t.join();
            }
        }
    }

    fn stop(&self) {
        for s in &self.shards {
            s.queue.lock().stop = true;
            s.wake.notify_all();
        }
        self.readers.queue.lock().stop = true;
        self.readers.wake.notify_all();
    }

    /// For how long the writer thread has been at its present work that has been at it the longest, in ms; 0: all wait for
    /// work. A disk (or a lock) that does not answer shows here, whichever tenant's it is.
    pub fn longest_work_ms(&self) -> u64 {
        self.shards
            .iter()
            .map(|shard| match shard.busy_since_ms.load(Ordering::Acquire) {
                0 => 0,
                since => (shard.now_ms() + 1).saturating_sub(since),
            })
            .max()
            .unwrap_or(0)
    }

    /// Puts a tenant with waiting writes into its thread's queue. `false`: the pool is stopped.
    pub(crate) fn schedule(&self, tenant: Arc<Inner>) -> bool {
        let shard = &self.shards[tenant.shard_hash() % self.shards.len()];
        let mut q = shard.queue.lock();
        if q.stop {
            return false;
        }
        q.ready.push_back(tenant);
        drop(q);
        shard.wake.notify_one();
        true
    }

    /// Runs a closure on a reader thread.
    pub(crate) fn read(&self, job: ReadJob) -> Result<()> {
        let mut q = self.readers.queue.lock();
        if q.stop {
            return Err(StoreError::Closed);
        }
        if q.jobs.len() >= MAX_QUEUED_READS {
            return Err(StoreError::Busy("MAX_QUEUED_READS"));
        }
        q.jobs.push_back(job);
        drop(q);
        self.readers.wake.notify_one();
        Ok(())
    }
}

impl Drop for WriterPool {
    fn drop(&mut self) {
        // The last handle may go away on one of the pool's own threads, so nobody is waited for here.
        self.stop();
    }
}

impl Shard {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn run(&self) {
        loop {
            let tenant = {
                let mut q = self.queue.lock();
                loop {
                    if let Some(t) = q.ready.pop_front() {
                        break t;
                    }
                    if q.stop {
                        return;
                    }
                    self.wake.wait(&mut q);
                }
            };
            self.busy_since_ms
                .store(self.now_ms() + 1, Ordering::Release);
            let more = tenant.run_waiting();
            self.busy_since_ms.store(0, Ordering::Release);
            if more {
                // More came meanwhile: behind the other tenants of this thread, so that nobody starves. Also when the
                // pool is stopping, because what is queued is still done.
                self.queue.lock().ready.push_back(tenant);
            }
        }
    }
}

impl Readers {
    fn run(&self) {
        loop {
            let job = {
                let mut q = self.queue.lock();
                loop {
                    if let Some(j) = q.jobs.pop_front() {
                        break j;
                    }
                    if q.stop {
                        return;
                    }
                    self.wake.wait(&mut q);
                }
            };
            // A panicking closure has already been turned into an answer; this guards the thread itself.
            let _ = catch_unwind(AssertUnwindSafe(job));
        }
    }
}
