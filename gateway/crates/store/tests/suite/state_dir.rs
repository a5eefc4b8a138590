//! Lock, permissions, versions.

use crate::support::*;
use gateway_store::*;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

fn modes(dir: &Path, out: &mut Vec<(String, u32, bool)>) {
    let meta = std::fs::metadata(dir).unwrap();
    out.push((
        dir.to_string_lossy().into_owned(),
        meta.permissions().mode() & 0o777,
        meta.is_dir(),
    ));
    if meta.is_dir() {
        for e in std::fs::read_dir(dir).unwrap() {
            modes(&e.unwrap().path(), out);
        }
    }
}

/// Whatever the umask is, nobody else can enter the directories or read the files, sidecars included.
/// (The store's part of N12.)
#[test]
fn files_are_private_under_any_umask() {
    for umask in ["0000", "0022", "0377"] {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("state");
        let script = format!("umask {umask}; exec \"$@\"");
        let status = child(
            &dir,
            &["sh", "-c", &script, "sh"],
            &[("GATEWAY_STORE_PROBE", "1")],
        )
        .wait()
        .unwrap();
        assert!(status.success(), "umask {umask}");
        let mut found = Vec::new();
        modes(&dir, &mut found);
        for (path, mode, is_dir) in &found {
            let want = if *is_dir { 0o700 } else { 0o600 };
            assert_eq!(*mode, want, "umask {umask}: {path} has {mode:o}");
        }
        for name in [
            "host.key",
            "host.sqlite",
            "state.lock",
            "tenant.sqlite",
            "tenant.sqlite-wal",
            "tenant.sqlite-shm",
        ] {
            assert!(
                found.iter().any(|(p, ..)| p.ends_with(name)),
                "umask {umask}: no {name} in {found:?}"
            );
        }
    }
}

#[test]
fn an_open_directory_is_narrowed() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("state");
    std::fs::create_dir(&dir).unwrap();
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    drop(StateDir::open(&dir).unwrap());
    assert_eq!(
        std::fs::metadata(&dir).unwrap().permissions().mode() & 0o777,
        0o700
    );
}

#[test]
fn the_second_process_is_told_who_is_first() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("state");
    let first = StateDir::open(&dir).unwrap();
    let Err(StoreError::Locked(text)) = StateDir::open(&dir) else {
        panic!("two holders")
    };
    assert!(
        text.contains(&format!("process {}", std::process::id())),
        "{text}"
    );
    assert!(text.contains("--state-dir"), "{text}");
    drop(first);
    StateDir::open(&dir).unwrap();
}

/// The system closes the files of a killed process a little later than it says that the process is gone, and whoever asks for
/// the holder has the lock for a moment: a start waits for both, and not for ever.
#[test]
fn a_lock_without_a_living_holder_is_waited_for() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("state");
    drop(StateDir::open(&dir).unwrap());
    let mut ended = std::process::Command::new("true").spawn().unwrap();
    ended.wait().unwrap();
    let file = std::fs::File::options()
        .write(true)
        .open(dir.join("state.lock"))
        .unwrap();
    file.lock().unwrap();
    for holder in [format!("{}\n", ended.id()), String::new()] {
        std::fs::write(dir.join("state.lock"), holder).unwrap();
        assert!(matches!(StateDir::open(&dir), Err(StoreError::Locked(_))));
    }
    let later = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(200));
        drop(file);
    });
    StateDir::open(&dir).unwrap();
    later.join().unwrap();
}

/// A process that was killed leaves no lock behind.
///
/// Covers: F1.
#[test]
fn the_lock_dies_with_its_process() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("state");
    prepare(&dir);
    let mut child = child(&dir, &[], &[]);
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("#ack") {
        line.clear();
        assert!(std::io::BufRead::read_line(&mut out, &mut line).unwrap() > 0);
    }
    assert!(
        matches!(StateDir::open(&dir), Err(StoreError::Locked(t)) if t.contains(&child.id().to_string()))
    );
    child.kill().unwrap();
    child.wait().unwrap();
    StateDir::open(&dir).unwrap();
}

/// A schema of the future is refused with a clear text, and not one byte changes.
#[test]
fn a_newer_schema_is_refused_untouched() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("state");
    prepare(&dir);
    let tenant_file = {
        let opened = Opened::at(&dir, SyncMode::Full);
        let db = opened.tenant("main", StoreExec::Inline, SyncMode::Full);
        db.dir().unwrap().join("tenant.sqlite")
    };
    for file in [tenant_file, dir.join("host.sqlite")] {
        let conn = rusqlite::Connection::open(&file).unwrap();
        conn.pragma_update(None, "user_version", 99).unwrap();
        drop(conn);
        let before = std::fs::read(&file).unwrap();
        let refused = StateDir::open(&dir).and_then(|s| {
            let host = HostDb::open(&s, StoreOptions::default())?;
            let row = host.ensure_tenant("main", 1)?;
            TenantDb::open(
                s.tenant_dir(&row),
                row.id,
                host.epoch(),
                StoreExec::Inline,
                SyncMode::Full,
            )?
            .ensure_open()
            .wait()
        });
        let Err(StoreError::Newer(text)) = refused else {
            panic!("{refused:?}")
        };
        assert!(
            text.contains("schema 99") && text.contains("newer gateway"),
            "{text}"
        );
        assert_eq!(std::fs::read(&file).unwrap(), before);
    }
}

/// An older owner of the same tenant can't write any more.
#[test]
fn an_older_epoch_is_refused() {
    let (_tmp, opened, db) = one_tenant(StoreExec::Inline);
    session(&db, KEY);
    let (dir, id) = (db.dir().unwrap().to_owned(), db.tenant().clone());
    drop(db);
    let old = TenantDb::open(
        &dir,
        id,
        opened.host.epoch() - 1,
        StoreExec::Inline,
        SyncMode::Full,
    )
    .unwrap();
    assert!(
        matches!(old.ensure_open().wait(), Err(StoreError::Newer(t)) if t.contains("another gateway"))
    );
}

#[test]
fn a_broken_host_key_is_explained() {
    let tmp = tempfile::tempdir().unwrap();
    let state = StateDir::open(tmp.path().join("state")).unwrap();
    std::fs::write(state.path().join("host.key"), b"short").unwrap();
    let refused = HostDb::open(&state, StoreOptions::default()).unwrap_err();
    assert!(matches!(refused, StoreError::Unfit(t) if t.contains("5 bytes instead of 32")));
}

#[test]
fn a_damaged_host_database_is_explained() {
    let tmp = tempfile::tempdir().unwrap();
    let state = StateDir::open(tmp.path().join("state")).unwrap();
    std::fs::write(state.path().join("host.sqlite"), vec![7; 8192]).unwrap();
    let refused = HostDb::open(&state, StoreOptions::default()).unwrap_err();
    assert!(matches!(refused, StoreError::Unfit(t) if t.contains("restore it from a backup")));
}
