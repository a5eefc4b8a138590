//! One tenant's database: opening, group commit, snapshot reads, quarantine.

use crate::limits::{
    BUSY_TIMEOUT_MS, CHECKPOINT_PAGES, LONG_READ_PATIENCE_MS, MAX_IDLE_READERS_PER_TENANT,
    MAX_KEPT_WAL_BYTES, MAX_LOG_CHECKPOINTS, MAX_QUEUED_WRITES_PER_TENANT, MAX_WRITES_PER_COMMIT,
    QUICK_CHECK_MAX_BYTES, RESTART_LOG_WAIT_MS, WRITER_CACHE_KIB,
};
use crate::migrate::{self, Schema};
use crate::readings::Readings;
use crate::repo::{Read, Write};
use crate::scripted::{CommitScript, WaitingWrites};
use crate::state_dir::{private_dir, private_file, random_name, sync_dir};
use crate::stats::CommitStats;
use crate::writer::{Job, Pending, TypedJob, WriterPool};
use crate::{Result, StoreError, TenantId};
use parking_lot::Mutex;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, params};
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Name of the database file in the tenant's directory.
pub(crate) const DB_FILE: &str = "tenant.sqlite";

/// Where the closures run.
#[derive(Clone, Debug)]
pub enum StoreExec {
    /// On the pool's threads: the product.
    Threads(Arc<WriterPool>),
    /// On the caller's thread, at once, reads and writes on one connection: the deterministic simulation.
    /// A closure must not call its own database again.
    Inline,
    /// When the script says so, and with the faults that it wants; reads as for [`Self::Inline`]: seeded simulations.
    Scripted(Arc<dyn CommitScript>),
}

/// How much a commit does for durability.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncMode {
    /// One fsync per commit: an answered write survives a power loss.
    #[default]
    Full,
    /// None. For tests and simulations only.
    Off,
}

impl SyncMode {
    pub(crate) fn apply(self, conn: &Connection) -> Result<()> {
        let mode: String =
            conn.pragma_update_and_check(None, "journal_mode", "wal", |r| r.get(0))?;
        // A database in memory has no log.
        if mode != "wal" && mode != "memory" {
            return Err(StoreError::Unfit(format!(
                "SQLite could not switch to its write-ahead log (it says {mode})"
            )));
        }
        conn.pragma_update(
            None,
            "synchronous",
            if self == Self::Full { "FULL" } else { "OFF" },
        )?;
        Ok(())
    }
}

/// Handle of one tenant's store; cheap to clone. Files are opened by the first use.
#[derive(Clone)]
pub struct TenantDb(Arc<Inner>);

impl std::fmt::Debug for TenantDb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TenantDb")
            .field("tenant", &self.0.id)
            .finish_non_exhaustive()
    }
}

pub(crate) struct Inner {
    id: TenantId,
    /// `None`: in memory.
    dir: Option<PathBuf>,
    epoch: i64,
    exec: StoreExec,
    sync: SyncMode,
    checkpoint_pages: i64,
    queue: Mutex<Queue>,
    // Readers are dropped before the writer: the last connection to close checkpoints, and only the writer may write.
    readers: Mutex<Vec<Connection>>,
    readings: Readings,
    writer: Mutex<Option<Connection>>,
    /// Whether the writer is open.
    opened: AtomicBool,
    session_edits: AtomicU64,
    health: Mutex<Health>,
    stats: CommitStats,
}

struct Queue {
    jobs: VecDeque<Box<dyn Job>>,
    /// Whether the tenant is in its thread's queue (or being worked on).
    scheduled: bool,
    closed: bool,
    /// Who waits for the connections to be closed.
    closers: Vec<oneshot::Sender<Result<()>>>,
}

#[derive(Clone)]
enum Health {
    Ok,
    /// Every operation is answered with this.
    Corrupt(StoreError),
    /// Every write is answered with this; reads go on.
    Failed(StoreError),
}

impl TenantDb {
    /// A handle of the store in `dir` (made 0700 if missing). Nothing is opened yet: damage and a newer schema are
    /// reported by the first operation, or by [`Self::ensure_open`]. `epoch` comes from [`crate::HostDb::epoch`].
    pub fn open(
        dir: impl Into<PathBuf>,
        id: TenantId,
        epoch: i64,
        exec: StoreExec,
        sync: SyncMode,
    ) -> Result<Self> {
        let dir = dir.into();
        private_dir(&dir)?;
        Ok(Self::build(
            Some(dir),
            id,
            epoch,
            exec,
            sync,
            CHECKPOINT_PAGES,
        ))
    }

    /// As [`Self::open`], with another length of the log (pages of 4 KiB) from which it is checkpointed.
    pub fn open_with_checkpoint(
        dir: impl Into<PathBuf>,
        id: TenantId,
        epoch: i64,
        exec: StoreExec,
        sync: SyncMode,
        checkpoint_pages: i64,
    ) -> Result<Self> {
        let dir = dir.into();
        private_dir(&dir)?;
        Ok(Self::build(
            Some(dir),
            id,
            epoch,
            exec,
            sync,
            checkpoint_pages,
        ))
    }

    /// A store in memory, run inline; gone with its last handle. It has no blobs.
    pub fn in_memory(id: TenantId, epoch: i64) -> Self {
        Self::build(
            None,
            id,
            epoch,
            StoreExec::Inline,
            SyncMode::Off,
            CHECKPOINT_PAGES,
        )
    }

    fn build(
        dir: Option<PathBuf>,
        id: TenantId,
        epoch: i64,
        exec: StoreExec,
        sync: SyncMode,
        checkpoint_pages: i64,
    ) -> Self {
        Self(Arc::new(Inner {
            id,
            dir,
            epoch,
            exec,
            sync,
            checkpoint_pages,
            queue: Mutex::new(Queue {
                jobs: VecDeque::new(),
                scheduled: false,
                closed: false,
                closers: Vec::new(),
            }),
            readers: Mutex::new(Vec::new()),
            readings: Readings::default(),
            writer: Mutex::new(None),
            opened: AtomicBool::new(false),
            session_edits: AtomicU64::new(0),
            health: Mutex::new(Health::Ok),
            stats: CommitStats::default(),
        }))
    }

    /// The tenant.
    pub fn tenant(&self) -> &TenantId {
        &self.0.id
    }

    /// Epoch of the process that opened this store.
    pub fn epoch(&self) -> i64 {
        self.0.epoch
    }

    /// How often something happened to a session that is more than a message or a run more: it was reset, deleted, or
    /// given other fields. It rises before such a commit ends, so whoever holds what an earlier commit left of a session,
    /// and finds the same number still, holds what the store has but for messages that came later.
    pub fn session_edits(&self) -> u64 {
        self.0.session_edits.load(Ordering::Acquire)
    }

    /// What its writer did so far.
    pub fn stats(&self) -> &CommitStats {
        &self.0.stats
    }

    /// Writes that wait for a commit now.
    pub fn queued(&self) -> usize {
        self.0.queue.lock().jobs.len()
    }

    /// The tenant's directory; `None` for a store in memory.
    pub fn dir(&self) -> Option<&Path> {
        self.0.dir.as_deref()
    }

    /// Runs a closure in the next commit and answers after that commit. If the closure gives an error or panics, only
    /// its own effects are rolled back. What is queued first runs first. The write is under way when this returns.
    pub fn write<T, F>(&self, closure: F) -> Pending<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Write<'_>) -> Result<T> + Send + 'static,
    {
        let (answer, pending) = Pending::channel();
        let job = Box::new(TypedJob {
            closure: Some(closure),
            result: None,
            answer,
        });
        match &self.0.exec {
            StoreExec::Inline => {
                if self.0.queue.lock().closed {
                    return Pending::ready(Err(StoreError::Closed));
                }
                self.0.commit(vec![job]);
            }
            StoreExec::Threads(_) | StoreExec::Scripted(_) => {
                let schedule = {
                    let mut q = self.0.queue.lock();
                    if q.closed {
                        return Pending::ready(Err(StoreError::Closed));
                    }
                    if q.jobs.len() >= MAX_QUEUED_WRITES_PER_TENANT {
                        return Pending::ready(Err(StoreError::Busy(
                            "MAX_QUEUED_WRITES_PER_TENANT",
                        )));
                    }
                    q.jobs.push_back(job);
                    !std::mem::replace(&mut q.scheduled, true)
                };
                if schedule && !self.0.schedule() {
                    self.0.refuse_waiting(&StoreError::Closed);
                }
            }
        }
        pending
    }

    /// Runs a closure on a snapshot, on a reader thread.
    pub fn read<T, F>(&self, closure: F) -> Pending<T>
    where
        T: Send + 'static,
        F: FnOnce(&Read<'_>) -> Result<T> + Send + 'static,
    {
        match &self.0.exec {
            StoreExec::Inline | StoreExec::Scripted(_) => Pending::ready(self.read_now(closure)),
            StoreExec::Threads(pool) => {
                let (answer, pending) = Pending::channel();
                let inner = Arc::clone(&self.0);
                let job = Box::new(move || {
                    let _ = answer.send(inner.read(closure));
                });
                match pool.read(job) {
                    Ok(()) => pending,
                    Err(e) => Pending::ready(Err(e)),
                }
            }
        }
    }

    /// Runs a closure on a snapshot, on this thread: for point reads that take well under a millisecond. The very
    /// first use opens the files, which takes longer; see [`Self::ensure_open`].
    pub fn read_now<T, F>(&self, closure: F) -> Result<T>
    where
        F: FnOnce(&Read<'_>) -> Result<T>,
    {
        self.0.read(closure)
    }

    /// Opens the files, migrates and checks them now.
    pub fn ensure_open(&self) -> Pending<()> {
        self.write(|_| Ok(()))
    }

    /// Closes the connections if nothing waits; the next use opens them again. For tenants that sleep. Answers whether
    /// they are closed.
    pub fn release(&self) -> bool {
        let q = self.0.queue.lock();
        if q.scheduled || !q.jobs.is_empty() {
            return false;
        }
        // The queue stays locked, so no write can slip in between.
        self.0.close_connections();
        true
    }

    /// Refuses new writes, does what is queued, checkpoints and closes the files.
    pub fn close(&self) -> Pending<()> {
        let (answer, pending) = Pending::channel();
        let schedule = {
            let mut q = self.0.queue.lock();
            q.closed = true;
            q.closers.push(answer);
            !std::mem::replace(&mut q.scheduled, true)
        };
        if schedule && !self.0.schedule() {
            // Inline, or the pool is gone: nobody else will do it.
            while self.0.run_waiting() {}
        }
        pending
    }

    /// The error with which a damaged or failed store answers, if it is one.
    pub fn fault(&self) -> Option<StoreError> {
        match &*self.0.health.lock() {
            Health::Ok => None,
            Health::Corrupt(e) | Health::Failed(e) => Some(e.clone()),
        }
    }

    /// Moves the database file with its sidecars into a directory beside it, untouched, so that the next use starts an
    /// empty store. Only for a store that is reported [`StoreError::Corrupt`]. Answers the directory.
    pub fn set_aside(&self) -> Result<PathBuf> {
        let inner = &self.0;
        let Some(dir) = &inner.dir else {
            return Err(StoreError::Conflict("a store in memory has no files"));
        };
        let mut writer = inner.writer.lock();
        let Some(StoreError::Corrupt { incident }) = self.fault() else {
            return Err(StoreError::Conflict("the store is not damaged"));
        };
        let aside = dir.join(format!("corrupt-{incident}"));
        private_dir(&aside)?;
        inner.opened.store(false, Ordering::Release);
        inner.readers.lock().clear();
        inner.close_writer(&mut writer);
        // The database goes last: a crash in between leaves it where the next start finds it damaged again.
        for suffix in ["-wal", "-shm", ""] {
            let name = format!("{DB_FILE}{suffix}");
            let from = dir.join(&name);
            match std::fs::rename(&from, aside.join(&name)) {
                Ok(()) => {}
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(StoreError::io("set aside", &from, &e)),
            }
        }
        sync_dir(&aside)?;
        sync_dir(dir)?;
        *inner.health.lock() = Health::Ok;
        Ok(aside)
    }

    pub(crate) fn exec(&self) -> &StoreExec {
        &self.0.exec
    }
}

impl Inner {
    /// A number that is the same for the whole life of the tenant.
    pub(crate) fn shard_hash(&self) -> usize {
        self.id.as_str().bytes().fold(0usize, |h, b| {
            h.wrapping_mul(31).wrapping_add(usize::from(b))
        })
    }

    /// Has the waiting work done by somebody. `false`: there is nobody (inline, or the pool is gone).
    fn schedule(self: &Arc<Self>) -> bool {
        match &self.exec {
            StoreExec::Inline => false,
            StoreExec::Threads(pool) => pool.schedule(Arc::clone(self)),
            StoreExec::Scripted(script) => {
                script.waiting(WaitingWrites(Arc::clone(self)));
                true
            }
        }
    }

    /// Commits what waits and gives the jobs back without telling their callers.
    pub(crate) fn commit_waiting_unanswered(&self) -> Vec<Box<dyn Job>> {
        let mut jobs: Vec<Box<dyn Job>> = self.queue.lock().jobs.drain(..).collect();
        let mut guard = self.writer.lock();
        if let Err(error) = self.timed_commit(&mut guard, &mut jobs) {
            self.mark(error);
        }
        jobs
    }

    /// Commits what waits. Answers whether there is more.
    pub(crate) fn run_waiting(&self) -> bool {
        let jobs: Vec<Box<dyn Job>> = {
            let mut q = self.queue.lock();
            let n = q.jobs.len().min(MAX_WRITES_PER_COMMIT);
            q.jobs.drain(..n).collect()
        };
        if !jobs.is_empty() {
            self.commit(jobs);
        }
        let mut q = self.queue.lock();
        if !q.jobs.is_empty() {
            return true;
        }
        if q.closed {
            self.close_connections();
            for c in std::mem::take(&mut q.closers) {
                let _ = c.send(Ok(()));
            }
        }
        q.scheduled = false;
        false
    }

    /// Nobody will run these: they are answered with `error`.
    pub(crate) fn refuse_waiting(&self, error: &StoreError) {
        let jobs = {
            let mut q = self.queue.lock();
            q.scheduled = false;
            std::mem::take(&mut q.jobs)
        };
        for j in jobs {
            j.finish(Some(error.clone()));
        }
    }

    fn close_connections(&self) {
        let mut writer = self.writer.lock();
        self.opened.store(false, Ordering::Release);
        self.readers.lock().clear();
        self.close_writer(&mut writer);
    }

    /// Closing checkpoints the log, except for a store that is damaged or failed: what is on the disk stays as it is.
    fn close_writer(&self, writer: &mut Option<Connection>) {
        if let Some(conn) = writer.take()
            && !matches!(*self.health.lock(), Health::Ok)
        {
            let _ = conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
        }
    }

    /// Runs the jobs in order, each so that it can be undone alone, commits once, then answers all.
    fn commit(&self, mut jobs: Vec<Box<dyn Job>>) {
        let mut guard = self.writer.lock();
        let outcome = self
            .timed_commit(&mut guard, &mut jobs)
            .map_err(|e| self.mark(e));
        let own: Vec<Option<StoreError>> = match outcome {
            Ok(own) => own,
            Err(e) => vec![Some(e); jobs.len()],
        };
        for (job, fail) in jobs.into_iter().zip(own) {
            job.finish(fail);
        }
        if let Some(conn) = guard.as_ref() {
            self.checkpoint(conn);
        }
    }

    /// As [`Self::try_commit`], counted.
    fn timed_commit(
        &self,
        guard: &mut Option<Connection>,
        jobs: &mut [Box<dyn Job>],
    ) -> Result<Vec<Option<StoreError>>> {
        let began = Instant::now();
        let outcome = self.try_commit(guard, jobs);
        let changed = outcome.as_ref().ok().map(|(changed, _)| *changed);
        self.stats.ended(jobs.len(), began.elapsed(), changed);
        outcome.map(|(_, own)| own)
    }

    /// `Err`: nothing was applied. `Ok`: committed, and whether anything changed; the list holds an error for each job that has to be answered
    /// otherwise than its closure says.
    fn try_commit(
        &self,
        guard: &mut Option<Connection>,
        jobs: &mut [Box<dyn Job>],
    ) -> Result<(bool, Vec<Option<StoreError>>)> {
        match &*self.health.lock() {
            Health::Ok => {}
            Health::Corrupt(e) | Health::Failed(e) => return Err(e.clone()),
        }
        let conn = match guard {
            Some(conn) => conn,
            None => {
                let conn = guard.insert(self.open_writer()?);
                self.opened.store(true, Ordering::Release);
                conn
            }
        };
        conn.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let result = self.run_in_transaction(conn, jobs);
        if result.is_err() && !conn.is_autocommit() {
            // The error that matters is the first one.
            let _ = conn.execute_batch("ROLLBACK");
        }
        result
    }

    fn run_in_transaction(
        &self,
        conn: &Connection,
        jobs: &mut [Box<dyn Job>],
    ) -> Result<(bool, Vec<Option<StoreError>>)> {
        let mut before = conn.total_changes();
        let mut own = Vec::with_capacity(jobs.len());
        for (i, job) in jobs.iter_mut().enumerate() {
            // The first has the transaction for itself so far: undoing it is undoing everything, and without a savepoint
            // no page is copied before it is changed.
            let first = i == 0;
            if !first {
                conn.prepare_cached("SAVEPOINT job")?.execute([])?;
            }
            let error = job.run(&mut Write::new(
                conn,
                self.epoch,
                self.dir.as_deref(),
                &self.session_edits,
            ));
            if conn.is_autocommit() {
                // SQLite gave up the whole transaction (full disk, I/O error); so did everyone in it.
                return Err(error.unwrap_or(StoreError::Full));
            }
            match error {
                None if first => {}
                None => {
                    conn.prepare_cached("RELEASE job")?.execute([])?;
                }
                Some(
                    e @ (StoreError::Full | StoreError::Corrupt { .. } | StoreError::Failed { .. }),
                ) => return Err(e),
                Some(_) if first => {
                    conn.prepare_cached("ROLLBACK")?.execute([])?;
                    conn.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
                    before = conn.total_changes();
                }
                Some(_) => {
                    conn.prepare_cached("ROLLBACK TO job")?.execute([])?;
                    conn.prepare_cached("RELEASE job")?.execute([])?;
                }
            }
            own.push(None);
        }
        // Nothing changed: no fsync either.
        let changed = conn.total_changes() != before;
        if changed {
            conn.prepare_cached("UPDATE seal SET commits = commits + 1, epoch = ?1 WHERE id = 1")?
                .execute([self.epoch])?;
        }
        conn.prepare_cached("COMMIT")?.execute([])?;
        Ok((changed, own))
    }

    /// After the answers: moves the log into the database when it got long.
    fn checkpoint(&self, conn: &Connection) {
        if self.dir.is_none() || !matches!(*self.health.lock(), Health::Ok) {
            return;
        }
        // Answers whether somebody was in the way, how many frames the log has and how many of them are in the database.
        let run = |mode: &str| -> Result<(bool, i64, i64)> {
            let mut stmt = conn.prepare_cached(mode)?;
            Ok(stmt.query_row([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?)
        };
        let step = || -> Result<()> {
            let (_, frames, done) = run("PRAGMA wal_checkpoint(NOOP)")?;
            self.make_log_room(frames)?;
            if frames - done >= self.checkpoint_pages {
                run("PRAGMA wal_checkpoint(PASSIVE)")?;
            }
            if frames >= self.checkpoint_pages.saturating_mul(MAX_LOG_CHECKPOINTS) {
                // Readers that always overlap keep the log from starting over, so it would grow for ever. Wait a moment
                // for them; the next commit tries again, and in the end who stays in the way is cut short.
                conn.busy_timeout(Duration::from_millis(RESTART_LOG_WAIT_MS))?;
                let restarted = run("PRAGMA wal_checkpoint(RESTART)");
                conn.busy_timeout(Duration::from_millis(BUSY_TIMEOUT_MS))?;
                let in_the_way = match restarted {
                    Ok((busy, ..)) => busy,
                    Err(StoreError::Busy(_)) => true,
                    Err(e) => return Err(e),
                };
                if in_the_way {
                    let patience = Duration::from_millis(LONG_READ_PATIENCE_MS);
                    let cut = self.readings.cut_longer_than(patience);
                    if cut > 0 {
                        tracing::warn!(tenant = %self.id, reads = cut, frames, "the log is long: reads that hold it up are cut short");
                    }
                }
            }
            Ok(())
        };
        match step() {
            // No room for the database to grow: the log stays, and the next commit meets the full disk itself.
            Ok(()) | Err(StoreError::Full | StoreError::Busy(_)) => {}
            Err(e) => {
                self.mark(e);
            }
        }
    }

    /// So that the next commits need not make the log longer. Without it they work as well, only slower.
    fn make_log_room(&self, frames: i64) -> Result<()> {
        let (Some(dir), SyncMode::Full, Ok(frames)) = (&self.dir, self.sync, u64::try_from(frames))
        else {
            return Ok(());
        };
        let restart = u64::try_from(self.checkpoint_pages).unwrap_or(0);
        let log = dir.join(format!("{DB_FILE}-wal"));
        let Err(error) = crate::log_room::make(&log, frames, restart) else {
            return Ok(());
        };
        if matches!(
            error.kind(),
            ErrorKind::StorageFull
                | ErrorKind::QuotaExceeded
                | ErrorKind::FileTooLarge
                | ErrorKind::NotFound
        ) {
            tracing::debug!(tenant = %self.id, %error, "the write-ahead log was not made longer");
            return Ok(());
        }
        // A flush that failed says that the disk does, whoever asked for it.
        Err(StoreError::Failed {
            incident: format!("make room in the write-ahead log: {error}"),
        })
    }

    fn read<T>(&self, closure: impl FnOnce(&Read<'_>) -> Result<T>) -> Result<T> {
        if let Health::Corrupt(e) = &*self.health.lock() {
            return Err(e.clone());
        }
        let result = match (&self.exec, &self.dir) {
            (StoreExec::Threads(_), Some(_)) => self.pooled_read(closure),
            _ => {
                // Lock order everywhere: queue, writer, readers, health.
                let closed = self.queue.lock().closed;
                let mut guard = self.writer.lock();
                let conn = match &mut *guard {
                    Some(conn) => Ok(conn),
                    None if closed => return Err(StoreError::Closed),
                    None => self.open_writer().map(|c| guard.insert(c)),
                };
                conn.and_then(|conn| snapshot(conn, self.epoch, self.dir.as_deref(), closure))
            }
        };
        result.map_err(|e| match e {
            // A failing disk under a read does not say anything about the writes.
            StoreError::Failed { incident } => StoreError::Io(incident),
            e => self.mark(e),
        })
    }

    fn pooled_read<T>(&self, closure: impl FnOnce(&Read<'_>) -> Result<T>) -> Result<T> {
        let pooled = self.readers.lock().pop();
        let conn = match pooled {
            Some(conn) => conn,
            None => {
                if self.queue.lock().closed {
                    return Err(StoreError::Closed);
                }
                // The writer opens first: it makes, migrates and checks the files. Once it is open its lock is not
                // taken, because a commit holds that for the length of an fsync.
                if !self.opened.load(Ordering::Acquire) {
                    let mut writer = self.writer.lock();
                    if writer.is_none() {
                        *writer = Some(self.open_writer()?);
                        self.opened.store(true, Ordering::Release);
                    }
                }
                self.open_reader()?
            }
        };
        let result = {
            let _reading = self.readings.enter(&conn);
            snapshot(&conn, self.epoch, self.dir.as_deref(), closure)
        };
        let mut readers = self.readers.lock();
        // A closed or released store keeps no reader. `close_connections` clears the flag before it takes this lock.
        if self.opened.load(Ordering::Acquire)
            && readers.len() < MAX_IDLE_READERS_PER_TENANT
            && conn.is_autocommit()
        {
            readers.push(conn);
        }
        result
    }

    fn db_path(&self) -> Option<PathBuf> {
        self.dir.as_ref().map(|d| d.join(DB_FILE))
    }

    fn open_reader(&self) -> Result<Connection> {
        let path = self.db_path().ok_or(StoreError::Closed)?;
        let conn = Connection::open_with_flags(
            &path,
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )?;
        configure(&conn, 64)?;
        conn.pragma_update(None, "cache_size", -512)?;
        Ok(conn)
    }

    fn open_writer(&self) -> Result<Connection> {
        let Some(dir) = &self.dir else {
            let mut conn = Connection::open_in_memory()?;
            configure(&conn, 256)?;
            migrate::migrate(&mut conn, Schema::Tenant)?;
            self.check_seal(&conn, None)?;
            return Ok(conn);
        };
        let path = dir.join(DB_FILE);
        let is_new = !path.exists();
        // SQLite gives the sidecars the mode of this file.
        drop(private_file(&path)?);
        if is_new {
            sync_dir(dir)?;
        }
        let wal_path = dir.join(format!("{DB_FILE}-wal"));
        let has_wal = std::fs::metadata(&wal_path).is_ok_and(|m| m.len() > 0);
        let file_commits = if has_wal && !is_new {
            commits_without_wal(&path)
        } else {
            None
        };
        let mut conn = Connection::open_with_flags(
            &path,
            OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )?;
        // Until everything is known to be well, closing must not move the log into the file: the files stay as found.
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        configure(&conn, 256)?;
        let empty = migrate::inspect(&conn, Schema::Tenant)?;
        if !empty {
            let bytes = std::fs::metadata(&path)
                .map(|m| m.len())
                .map_err(|e| StoreError::io("look at", &path, &e))?;
            if bytes <= QUICK_CHECK_MAX_BYTES {
                let verdict: String = conn.query_row("PRAGMA quick_check(1)", [], |r| r.get(0))?;
                if verdict != "ok" {
                    return Err(StoreError::Corrupt { incident: verdict });
                }
            }
            self.check_seal(&conn, file_commits)?;
        }
        self.sync.apply(&conn)?;
        conn.pragma_update(None, "journal_size_limit", MAX_KEPT_WAL_BYTES)?;
        // Checkpoints run after the answers, see `checkpoint`.
        conn.pragma_update(None, "wal_autocheckpoint", 0)?;
        conn.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
        migrate::migrate(&mut conn, Schema::Tenant)?;
        if empty {
            self.check_seal(&conn, None)?;
        }
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
        Ok(conn)
    }

    /// Whether these files are this tenant's, of this owner's past, and with a log that continues the file.
    fn check_seal(&self, conn: &Connection, file_commits: Option<i64>) -> Result<()> {
        use rusqlite::OptionalExtension as _;
        let seal: Option<(String, i64, i64)> = conn
            .query_row(
                "SELECT tenant, commits, epoch FROM seal WHERE id = 1",
                [],
                |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)),
            )
            .optional()?;
        let Some((tenant, commits, epoch)) = seal else {
            conn.execute(
                "INSERT INTO seal (id, tenant, commits, epoch) VALUES (1, ?1, 0, ?2)",
                params![self.id.as_str(), self.epoch],
            )?;
            return Ok(());
        };
        if tenant != self.id.as_str() {
            return Err(StoreError::Corrupt {
                incident: "the files are sealed by another tenant".into(),
            });
        }
        if file_commits.is_some_and(|n| n > commits) {
            return Err(StoreError::Corrupt {
                incident: "the write-ahead log is older than its database".into(),
            });
        }
        if epoch > self.epoch {
            return Err(StoreError::Newer(format!(
                "tenant {} was last written by owner epoch {epoch}, this gateway has epoch {}: another gateway owns it, or host.sqlite was \
                 restored from an older backup than the tenant. Nothing was touched",
                self.id, self.epoch
            )));
        }
        Ok(())
    }

    /// Gives damage and disk failures an incident id, logs them once, and remembers them.
    fn mark(&self, e: StoreError) -> StoreError {
        let detail = match &e {
            StoreError::Corrupt { incident } | StoreError::Failed { incident } => incident.clone(),
            _ => return e,
        };
        let incident = random_name().unwrap_or_else(|_| "unnumbered".into());
        let marked = {
            let mut health = self.health.lock();
            match &*health {
                Health::Corrupt(known) => return known.clone(),
                Health::Failed(known) if matches!(e, StoreError::Failed { .. }) => {
                    return known.clone();
                }
                _ => {}
            }
            let (state, marked) = if matches!(e, StoreError::Corrupt { .. }) {
                let e = StoreError::Corrupt {
                    incident: incident.clone(),
                };
                (Health::Corrupt(e.clone()), e)
            } else {
                let e = StoreError::Failed {
                    incident: incident.clone(),
                };
                (Health::Failed(e.clone()), e)
            };
            *health = state;
            marked
        };
        tracing::error!(tenant = %self.id, incident, detail, "tenant database set out of service");
        marked
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close_connections();
    }
}

fn configure(conn: &Connection, statements: usize) -> Result<()> {
    conn.busy_timeout(Duration::from_millis(BUSY_TIMEOUT_MS))?;
    conn.set_prepared_statement_cache_capacity(statements);
    plan_once(conn)?;
    conn.pragma_update(None, "temp_store", "MEMORY")?;
    conn.pragma_update(None, "trusted_schema", false)?;
    conn.pragma_update(None, "cell_size_check", true)?;
    Ok(())
}

/// A statement keeps its plan. Without this, SQLite compiles each statement with a bound `LIMIT` again for each run, since the
/// plan could be another one for another value.
pub(crate) fn plan_once(conn: &Connection) -> Result<()> {
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(())
}

/// How many commits the database file has by itself, without its log; `None` when it can't say.
fn commits_without_wal(path: &Path) -> Option<i64> {
    // `immutable` makes SQLite look at nothing but the file. Characters with a meaning in a URI are escaped.
    let mut uri = String::from("file:");
    for b in path.to_str()?.bytes() {
        match b {
            b'?' | b'#' | b'%' => uri.push_str(&format!("%{b:02X}")),
            _ => uri.push(char::from(b)),
        }
    }
    if !path.to_str()?.is_ascii() {
        return None;
    }
    uri.push_str("?immutable=1");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(uri, flags).ok()?;
    conn.query_row("SELECT commits FROM seal WHERE id = 1", [], |r| r.get(0))
        .ok()
}

/// Runs the closure in one read transaction; a panic becomes an error.
fn snapshot<T>(
    conn: &Connection,
    epoch: i64,
    dir: Option<&Path>,
    closure: impl FnOnce(&Read<'_>) -> Result<T>,
) -> Result<T> {
    conn.prepare_cached("BEGIN")?.execute([])?;
    let read = Read::new(conn, epoch, dir);
    let result =
        catch_unwind(AssertUnwindSafe(|| closure(&read))).unwrap_or(Err(StoreError::Panicked));
    let ended = conn
        .prepare_cached("COMMIT")
        .and_then(|mut s| s.execute([]));
    match (result, ended) {
        (Ok(v), Ok(_)) => Ok(v),
        (Err(e), _) => Err(e),
        (Ok(_), Err(e)) => Err(e.into()),
    }
}
