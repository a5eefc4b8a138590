//! Order, isolation and limits of the group commit.

use crate::support::*;
use gateway_store::*;
use std::sync::mpsc;

/// Stops the tenant's writer inside a closure until the sender is dropped.
fn hold_writer(db: &TenantDb) -> (mpsc::Sender<()>, Pending<()>) {
    let (release, held) = mpsc::channel::<()>();
    let (entered, inside) = mpsc::channel::<()>();
    let pending = db.write(move |_| {
        let _ = entered.send(());
        let _ = held.recv();
        Ok(())
    });
    inside.recv().unwrap();
    (release, pending)
}

fn commits(db: &TenantDb) -> i64 {
    let conn = rusqlite::Connection::open(db.dir().unwrap().join("tenant.sqlite")).unwrap();
    conn.query_row("SELECT commits FROM seal", [], |r| r.get(0))
        .unwrap()
}

/// What waits together is committed together, in order; a closure that fails or panics undoes only itself, whether it is
/// the first, the last or one in between.
#[test]
fn waiting_writes_share_one_commit_and_fail_alone() {
    for shift in 0..3 {
        share_one_commit(shift);
    }
}

fn share_one_commit(shift: i64) {
    let (_tmp, _opened, db) = one_tenant(pool());
    session(&db, KEY);
    let (release, held) = hold_writer(&db);
    let before = commits(&db);
    let mut good = Vec::new();
    let mut bad = Vec::new();
    for i in shift..shift + 30 {
        let id = format!("m{i:02}");
        match i % 3 {
            0 => good.push(db.write(move |w| Ok(w.append_message(&message(&id), i)?.row.seq))),
            1 => bad.push((
                StoreError::Conflict("on purpose"),
                db.write(move |w| {
                    w.append_message(&message(&id), i)?;
                    Err::<i64, _>(StoreError::Conflict("on purpose"))
                }),
            )),
            _ => bad.push((
                StoreError::Panicked,
                db.write(move |w| {
                    w.append_message(&message(&id), i).unwrap();
                    panic!("on purpose")
                }),
            )),
        }
    }
    drop(release);
    held.wait().unwrap();
    let seqs: Vec<i64> = good.into_iter().map(|p| p.wait().unwrap()).collect();
    assert_eq!(seqs, (1..=10).collect::<Vec<_>>());
    for (expected, pending) in bad {
        assert_eq!(pending.wait().unwrap_err(), expected);
    }
    let page = db.read(|r| r.history(KEY, 100, None, 0)).wait().unwrap();
    let ids: Vec<String> = page.items.iter().map(|m| m.id.clone()).collect();
    assert_eq!(
        ids,
        (shift..shift + 30)
            .filter(|i| i % 3 == 0)
            .map(|i| format!("m{i:02}"))
            .collect::<Vec<_>>()
    );
    // The held closure changed nothing; the thirty others were one commit.
    assert_eq!(commits(&db), before + 1);
}

/// An answer is given after the commit: another connection sees the row as soon as the answer is there.
#[test]
fn an_answer_means_committed() {
    let (_tmp, _opened, db) = one_tenant(pool());
    session(&db, KEY);
    let conn = rusqlite::Connection::open(db.dir().unwrap().join("tenant.sqlite")).unwrap();
    for i in 0..50 {
        db.write(move |w| w.append_message(&message(&format!("m{i}")), i))
            .wait()
            .unwrap();
        let n: i64 = conn
            .query_row("SELECT COUNT(*) FROM messages", [], |r| r.get(0))
            .unwrap();
        assert_eq!(n, i + 1);
    }
}

/// A tenant whose writer hangs does not hold up another one on another thread, nor its own readers.
#[test]
fn a_hanging_write_holds_up_neither_readers_nor_other_threads() {
    let tmp = tempfile::tempdir().unwrap();
    let opened = Opened::at(&tmp.path().join("state"), SyncMode::Full);
    let exec = StoreExec::Threads(WriterPool::new(16, 2).unwrap());
    let a = opened.tenant("a", exec.clone(), SyncMode::Full);
    session(&a, KEY);
    let (release, held) = hold_writer(&a);
    assert!(a.read(|r| r.get_session(KEY)).wait().unwrap().is_some());
    assert!(a.read_now(|r| r.get_session(KEY)).unwrap().is_some());
    // Ids are random, so one of a few tenants is on another thread than the first.
    let answered = (0..12).any(|i| {
        let (tx, rx) = mpsc::channel();
        let db = opened.tenant(&format!("b{i}"), exec.clone(), SyncMode::Full);
        std::thread::spawn(move || tx.send(db.write(|w| w.meta_set("k", "v")).wait()));
        rx.recv_timeout(std::time::Duration::from_secs(5))
            .is_ok_and(|r| r.is_ok())
    });
    assert!(answered);
    drop(release);
    held.wait().unwrap();
}

#[test]
fn a_full_queue_is_said_and_nothing_of_it_is_applied() {
    let (_tmp, _opened, db) = one_tenant(pool());
    session(&db, KEY);
    let (release, held) = hold_writer(&db);
    let waiting: Vec<_> = (0..limits::MAX_QUEUED_WRITES_PER_TENANT)
        .map(|i| db.write(move |w| w.meta_set(&format!("k{i}"), "v")))
        .collect();
    let refused = db
        .write(|w| w.meta_set("too many", "v"))
        .wait()
        .unwrap_err();
    assert_eq!(refused, StoreError::Busy("MAX_QUEUED_WRITES_PER_TENANT"));
    assert!(refused.is_retryable());
    drop(release);
    held.wait().unwrap();
    for p in waiting {
        p.wait().unwrap();
    }
    assert_eq!(db.read_now(|r| r.meta_get("too many")).unwrap(), None);
    db.write(|w| w.meta_set("now", "v")).wait().unwrap();
}

#[test]
fn closing_does_what_is_queued_and_leaves_one_file() {
    let (_tmp, _opened, db) = one_tenant(pool());
    session(&db, KEY);
    let (release, held) = hold_writer(&db);
    let last = db.write(|w| w.append_message(&message("last"), 5));
    let closed = db.close();
    assert_eq!(
        db.write(|w| w.meta_set("late", "v")).wait(),
        Err(StoreError::Closed)
    );
    drop(release);
    held.wait().unwrap();
    last.wait().unwrap();
    closed.wait().unwrap();
    let dir = db.dir().unwrap().to_owned();
    let names: Vec<_> = std::fs::read_dir(&dir)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(names, ["tenant.sqlite"], "the log was moved into the file");
    assert_eq!(
        db.read_now(|r| r.get_message("last")),
        Err(StoreError::Closed)
    );
    let conn = rusqlite::Connection::open(dir.join("tenant.sqlite")).unwrap();
    assert_eq!(
        conn.query_row("SELECT COUNT(*) FROM messages", [], |r| r.get::<_, i64>(0))
            .unwrap(),
        1
    );
}

#[test]
fn a_released_tenant_has_no_open_file_and_comes_back() {
    let (_tmp, _opened, db) = one_tenant(pool());
    session(&db, KEY);
    db.read(|r| r.get_session(KEY)).wait().unwrap();
    // The writer thread may be still busy with its checkpoint.
    while !db.release() {
        std::thread::yield_now();
    }
    let dir = db.dir().unwrap();
    let open = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|e| std::fs::read_link(e.unwrap().path()).ok());
    assert_eq!(open.filter(|p| p.starts_with(dir)).count(), 0);
    assert!(db.read(|r| r.get_session(KEY)).wait().unwrap().is_some());
    db.write(|w| w.append_message(&message("again"), 9))
        .wait()
        .unwrap();
}

#[test]
fn a_stopped_pool_does_what_is_queued_and_refuses_the_rest() {
    let workers = WriterPool::new(1, 1).unwrap();
    let (_tmp, _opened, db) = one_tenant(StoreExec::Threads(workers.clone()));
    session(&db, KEY);
    let (release, held) = hold_writer(&db);
    let queued = db.write(|w| w.meta_set("k", "v"));
    let stopper = std::thread::spawn(move || workers.shutdown());
    drop(release);
    held.wait().unwrap();
    queued.wait().unwrap();
    stopper.join().unwrap();
    assert_eq!(
        db.write(|w| w.meta_set("late", "v")).wait(),
        Err(StoreError::Closed)
    );
    assert_eq!(db.read(|r| r.meta_get("k")).wait(), Err(StoreError::Closed));
    assert_eq!(
        db.read_now(|r| r.meta_get("k")).unwrap().as_deref(),
        Some("v")
    );
    db.close().wait().unwrap();
}

/// The simulation's form: everything is done when the call returns, on a file and in memory.
#[test]
fn inline_execution_is_done_at_once() {
    let (_tmp, opened, db) = one_tenant(StoreExec::Inline);
    let row = opened.host.ensure_tenant("mem", 1).unwrap();
    for db in [db, TenantDb::in_memory(row.id, opened.host.epoch())] {
        session(&db, KEY);
        let pending = db.write(|w| w.append_message(&message("m"), 5));
        assert!(db.read_now(|r| r.get_message("m")).unwrap().is_some());
        assert_eq!(pending.wait().unwrap().row.seq, 1);
        assert_eq!(
            db.write(|_| -> Result<()> { panic!("on purpose") }).wait(),
            Err(StoreError::Panicked)
        );
        assert_eq!(
            db.read_now(|_| -> Result<()> { panic!("on purpose") }),
            Err(StoreError::Panicked)
        );
        assert_eq!(db.read(|r| r.count_messages(KEY)).wait().unwrap(), 1);
        db.close().wait().unwrap();
        assert_eq!(
            db.write(|w| w.meta_set("k", "v")).wait(),
            Err(StoreError::Closed)
        );
    }
}

/// A reader that never ends its snapshot does not stop writes, and the log starts over when it is gone.
#[test]
fn the_log_stays_short_under_readers() {
    let (_tmp, opened, _) = one_tenant(pool());
    let db = opened.tenant_with("busy", pool(), SyncMode::Off, 20);
    session(&db, KEY);
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let (db, stop) = (db.clone(), stop.clone());
            std::thread::spawn(move || {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    db.read_now(|r| r.history(KEY, 50, None, 0)).unwrap();
                }
            })
        })
        .collect();
    for i in 0..400 {
        db.write(move |w| w.append_message(&message(&format!("m{i}")), i))
            .wait()
            .unwrap();
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for r in readers {
        r.join().unwrap();
    }
    let wal = std::fs::metadata(db.dir().unwrap().join("tenant.sqlite-wal"))
        .unwrap()
        .len();
    // 400 commits of some 6 pages would be 10 MB; eight checkpoints' worth, and what came while it waited, is far less.
    assert!(wal < 3_000_000, "the log has {wal} bytes");
}

/// A read that would go on for a minute: the writes go on meanwhile, it is told to come again after a while, and the log does
/// not grow any more.
/// Covers: F30.
#[test]
fn a_read_that_holds_the_log_up_is_cut_short() {
    let (_tmp, opened, _) = one_tenant(pool());
    let db = opened.tenant_with("busy", pool(), SyncMode::Off, 20);
    session(&db, KEY);
    let reader = {
        let db = db.clone();
        std::thread::spawn(move || {
            let began = std::time::Instant::now();
            db.read_now(|r| {
                while began.elapsed() < std::time::Duration::from_secs(60) {
                    r.history(KEY, 50, None, 0)?;
                }
                Ok(())
            })
        })
    };
    let wal = || {
        let log = db.dir().unwrap().join("tenant.sqlite-wal");
        std::fs::metadata(log).unwrap().len()
    };
    let mut written = 0;
    let mut write = || {
        db.write(move |w| w.append_message(&message(&format!("m{written}")), written))
            .wait()
            .unwrap();
        written += 1;
    };
    while !reader.is_finished() {
        write();
    }
    assert_eq!(
        reader.join().unwrap(),
        Err(StoreError::Busy("LONG_READ_PATIENCE_MS"))
    );
    let longest = wal();
    for _ in 0..300 {
        write();
    }
    assert!(wal() <= longest, "{} bytes, then {}", longest, wal());
    println!("{written} writes, the log has {} bytes", wal());
}
