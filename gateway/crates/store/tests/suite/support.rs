//! One state directory with a tenant, and the workload that the crash tests run in a child process.

use gateway_store::*;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub const KEY: &str = "agent:main:main";

pub fn pool() -> StoreExec {
    StoreExec::Threads(WriterPool::new(2, 2).unwrap())
}

/// An open state directory with the databases of its tenants.
pub struct Opened {
    pub state: StateDir,
    pub host: HostDb,
}

impl Opened {
    pub fn at(path: &Path, sync: SyncMode) -> Self {
        let state = StateDir::open(path).unwrap();
        let host = HostDb::open(&state, StoreOptions { sync }).unwrap();
        Self { state, host }
    }

    pub fn tenant(&self, slug: &str, exec: StoreExec, sync: SyncMode) -> TenantDb {
        self.tenant_with(slug, exec, sync, limits::CHECKPOINT_PAGES)
    }

    pub fn tenant_with(
        &self,
        slug: &str,
        exec: StoreExec,
        sync: SyncMode,
        checkpoint_pages: i64,
    ) -> TenantDb {
        let row = self.host.ensure_tenant(slug, 1).unwrap();
        let dir = self.state.tenant_dir(&row);
        TenantDb::open_with_checkpoint(dir, row.id, self.host.epoch(), exec, sync, checkpoint_pages)
            .unwrap()
    }
}

/// A temporary directory with one open tenant.
pub fn one_tenant(exec: StoreExec) -> (tempfile::TempDir, Opened, TenantDb) {
    let tmp = tempfile::tempdir().unwrap();
    let opened = Opened::at(&tmp.path().join("state"), SyncMode::Full);
    let db = opened.tenant("main", exec, SyncMode::Full);
    (tmp, opened, db)
}

pub fn session(db: &TenantDb, key: &str) {
    let p = SessionPatch {
        key: key.into(),
        session_id: format!("sid-{key}"),
        agent_id: "main".into(),
        ..SessionPatch::default()
    };
    db.write(move |w| w.upsert_session(&p, 1)).wait().unwrap();
}

pub fn message(id: &str) -> NewMessage {
    NewMessage {
        id: id.into(),
        session_key: KEY.into(),
        role: "user".into(),
        content_json: format!(
            r#"[{{"type":"text","text":"{}"}}]"#,
            "x".repeat(id.len() * 37 % 900)
        ),
        ..NewMessage::default()
    }
}

/// One accepted message: four rows that belong together.
pub fn accept(w: &mut Write<'_>, id: &str) -> Result<()> {
    if w.insert_inbox("test", "a", "c", id, 1)? == InboxOutcome::Duplicate {
        return Err(StoreError::Conflict("accepted twice"));
    }
    w.append_message(&message(id), 1)?;
    let run = NewRun {
        run_id: format!("run-{id}"),
        session_key: KEY.into(),
        request_hash: id.into(),
        ..NewRun::default()
    };
    w.insert_run(&run, 1)?;
    w.append_event("message", Some(KEY), "{}", 1)?;
    Ok(())
}

pub const TENANTS: [&str; 2] = ["main", "acme"];

/// Makes the state directory of the workload and closes it cleanly.
pub fn prepare(path: &Path) {
    let opened = Opened::at(path, SyncMode::Full);
    for slug in TENANTS {
        let db = opened.tenant(slug, StoreExec::Inline, SyncMode::Full);
        session(&db, KEY);
        db.close().wait().unwrap();
    }
}

/// The workload: per tenant three producers and two readers; each accepted message is acknowledged by one `write` to
/// standard output after its commit was answered. Ends after `ops` messages per producer, without closing anything.
fn workload(path: &Path, sync: SyncMode, ops: u64, checkpoint_pages: i64) -> ! {
    // Only the tenants go without fsync where a test asks for it, so that what it finds is a lost message.
    let opened = Opened::at(path, SyncMode::Full);
    let exec = pool();
    ack(&format!("epoch {}", opened.host.epoch()));
    let left = Arc::new(AtomicU64::new(6));
    for slug in TENANTS {
        let db = opened.tenant_with(slug, exec.clone(), sync, checkpoint_pages);
        for producer in 0..3 {
            let (db, left, epoch) = (db.clone(), Arc::clone(&left), opened.host.epoch());
            std::thread::spawn(move || {
                for i in 0..ops {
                    let id = format!("{epoch}-{producer}-{i}");
                    let write_id = id.clone();
                    db.write(move |w| accept(w, &write_id)).wait().unwrap();
                    ack(&format!("ack {slug} {id}"));
                }
                left.fetch_sub(1, Ordering::SeqCst);
            });
        }
        for _ in 0..2 {
            let db = db.clone();
            std::thread::spawn(move || {
                loop {
                    db.read(|r| r.history(KEY, 20, None, 0)).wait().unwrap();
                    std::thread::yield_now();
                }
            });
        }
    }
    while left.load(Ordering::SeqCst) > 0 {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    ack("done");
    // No destructor runs: this is not a clean end.
    std::process::abort();
}

/// Accepts messages one after the other and says how each went.
fn one_by_one(path: &Path, writes: u64) -> ! {
    let opened = Opened::at(path, SyncMode::Full);
    let db = opened.tenant("main", pool(), SyncMode::Full);
    let neighbour = opened.tenant("acme", pool(), SyncMode::Full);
    for i in 0..writes {
        let id = format!("f{i}");
        let write_id = id.clone();
        match db.write(move |w| accept(w, &write_id)).wait() {
            Ok(()) => ack(&format!("ack main {id}")),
            Err(e) => ack(&format!(
                "err {id} {}",
                format!("{e:?}").split([' ', '{']).next().unwrap_or("")
            )),
        }
        // Reads go on whatever the disk does.
        let n = db.read(|r| r.count_messages(KEY)).wait();
        ack(&format!(
            "read {}",
            n.map_or_else(|e| format!("{e:?}"), |_| "ok".into())
        ));
        // So does the tenant next door.
        match neighbour.write(move |w| accept(w, &id)).wait() {
            Ok(()) => ack(&format!("ack acme f{i}")),
            Err(e) => ack(&format!("neighbour {e:?}")),
        }
    }
    std::process::abort();
}

fn ack(line: &str) {
    // One write call, so that a kill cuts between lines. The test harness captures macros only, not the handle.
    let _ = std::io::stdout().write_all(format!("#{line}\n").as_bytes());
    let _ = std::io::stdout().flush();
}

/// Not a test: the entry of the child process. Does nothing when it is run as a test.
#[test]
fn child_entry() {
    let Ok(dir) = std::env::var("GATEWAY_STORE_CHILD") else {
        return;
    };
    // The harness has begun a line of its own.
    let _ = std::io::stdout().write_all(b"\n");
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let sync = if std::env::var("GATEWAY_STORE_SYNC").as_deref() == Ok("off") {
        SyncMode::Off
    } else {
        SyncMode::Full
    };
    if std::env::var("GATEWAY_STORE_PROBE").is_ok() {
        let opened = Opened::at(Path::new(&dir), sync);
        let db = opened.tenant("main", StoreExec::Inline, sync);
        session(&db, KEY);
        // Left open, so that the sidecars are there to be looked at.
        std::process::exit(0);
    }
    if let Ok(writes) = std::env::var("GATEWAY_STORE_FAULTS") {
        one_by_one(Path::new(&dir), writes.parse().unwrap());
    }
    let checkpoint = number("GATEWAY_STORE_CHECKPOINT")
        .unwrap_or(1000)
        .cast_signed();
    workload(
        Path::new(&dir),
        sync,
        number("GATEWAY_STORE_OPS").unwrap_or(u64::MAX),
        checkpoint,
    );
}

/// This test binary again, as the child; `wrapper` comes before it on the command line.
pub fn child(dir: &Path, wrapper: &[&str], vars: &[(&str, &str)]) -> Child {
    let exe = std::env::current_exe().unwrap();
    let mut words: Vec<std::ffi::OsString> = wrapper.iter().map(|w| (*w).into()).collect();
    words.push(exe.into());
    words.extend(
        [
            "support::child_entry",
            "--exact",
            "--nocapture",
            "--test-threads=1",
        ]
        .map(Into::into),
    );
    Command::new(&words[0])
        .args(&words[1..])
        .env("GATEWAY_STORE_CHILD", dir)
        .envs(vars.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap_or_else(|e| panic!("start {:?}: {e}", words[0]))
}

/// What the acknowledgements say that must be there.
#[derive(Default, Clone)]
pub struct Acked {
    pub epoch: i64,
    pub ids: Vec<(String, String)>,
}

impl Acked {
    pub fn line(&mut self, line: &str) {
        let Some(line) = line.strip_prefix('#') else {
            return;
        };
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["epoch", n] => self.epoch = n.parse().unwrap(),
            ["ack", tenant, id] => self.ids.push((tenant.to_owned(), id.to_owned())),
            _ => {}
        }
    }
}

/// Opens what a crash left and compares. `Err` says what was lost or torn.
pub fn verify(path: &Path, acked: &Acked) -> std::result::Result<(), String> {
    let fail = |e: StoreError| e.to_string();
    let state = StateDir::open(path).map_err(fail)?;
    let host = HostDb::open(
        &state,
        StoreOptions {
            sync: SyncMode::Off,
        },
    )
    .map_err(fail)?;
    if host.epoch() <= acked.epoch {
        return Err(format!("epoch {} was given out twice", host.epoch()));
    }
    let rows = host.tenants().map_err(fail)?;
    for slug in TENANTS {
        let row = rows
            .iter()
            .find(|r| r.slug == slug)
            .ok_or_else(|| format!("tenant {slug} is gone"))?
            .clone();
        let dir = state.tenant_dir(&row);
        let db = TenantDb::open(&dir, row.id, host.epoch(), StoreExec::Inline, SyncMode::Off)
            .map_err(fail)?;
        let mine: Vec<String> = acked
            .ids
            .iter()
            .filter(|(t, _)| t == slug)
            .map(|(_, id)| id.clone())
            .collect();
        db.read_now(|r| {
            for id in &mine {
                if r.get_message(id)?.is_none() {
                    return Err(StoreError::Io(format!(
                        "{slug}: acknowledged message {id} is lost"
                    )));
                }
                if r.get_run(&format!("run-{id}"))?.is_none() {
                    return Err(StoreError::Io(format!("{slug}: run of {id} is lost")));
                }
            }
            Ok(())
        })
        .map_err(fail)?;
        drop(db);
        // All four rows of a message are there or none, the transcript has no hole, the whole file is sound.
        let conn =
            rusqlite::Connection::open(dir.join("tenant.sqlite")).map_err(|e| e.to_string())?;
        let n = |sql: &str| {
            conn.query_row(sql, [], |r| r.get::<_, i64>(0))
                .map_err(|e| e.to_string())
        };
        let messages = n("SELECT COUNT(*) FROM messages")?;
        for sql in [
            "SELECT COUNT(*) FROM inbox",
            "SELECT COUNT(*) FROM runs",
            "SELECT COUNT(*) FROM events",
            "SELECT COALESCE(MAX(seq), 0) FROM messages",
            "SELECT message_count FROM sessions",
            "SELECT last_seq FROM sessions",
            "SELECT COUNT(*) FROM messages m JOIN inbox i ON i.platform_id = m.id JOIN runs r ON r.run_id = 'run-' || m.id",
        ] {
            let found = n(sql)?;
            if found != messages {
                return Err(format!(
                    "{slug}: torn: {messages} messages, but {sql} gives {found}"
                ));
            }
        }
        let verdict: String = conn
            .query_row("PRAGMA integrity_check", [], |r| r.get(0))
            .map_err(|e| e.to_string())?;
        if verdict != "ok" {
            return Err(format!("{slug}: {verdict}"));
        }
    }
    Ok(())
}

/// Numbers that look random, from a seed.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 11) % n.max(1)
    }
}

/// The seed of this run: `GATEWAY_SEED`, or the clock.
pub fn seed() -> u64 {
    let clock = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(1, |d| d.subsec_nanos().into());
    std::env::var("GATEWAY_SEED")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(clock | 1)
}

/// Whether the long rounds are asked for.
pub fn long() -> bool {
    std::env::var("GATEWAY_LONG").as_deref() == Ok("1")
}
