//! Damaged files: only that tenant is out of service, and its files stay as they were found.

use crate::support::*;
use gateway_store::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A closed store with enough rows that its pages matter; answers where it is.
fn filled() -> (tempfile::TempDir, PathBuf, TenantRow) {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("state");
    let opened = Opened::at(&dir, SyncMode::Off);
    let row = opened.host.ensure_tenant("main", 1).unwrap();
    let db = opened.tenant("main", StoreExec::Inline, SyncMode::Off);
    session(&db, KEY);
    for i in 0..300 {
        db.write(move |w| accept(w, &format!("m{i}")))
            .wait()
            .unwrap();
    }
    db.close().wait().unwrap();
    (tmp, dir, row)
}

fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let all = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.is_file());
    // The shared memory is no data: SQLite builds it anew.
    all.filter(|p| !p.to_string_lossy().ends_with("-shm"))
        .map(|p| (p.clone(), std::fs::read(&p).unwrap()))
        .collect()
}

/// Flips bytes of the file. Each time the store either does not notice, because what it reads is as written, or says
/// `Corrupt` and leaves the files alone; it never panics, and the tenant next door works.
///
/// Covers: F8.
#[test]
fn flipped_bytes_put_only_their_tenant_out_of_service() {
    let (_tmp, dir, row) = filled();
    let opened = Opened::at(&dir, SyncMode::Off);
    let tenant_dir = opened.state.tenant_dir(&row);
    let file = tenant_dir.join("tenant.sqlite");
    let good = std::fs::read(&file).unwrap();
    let neighbour = opened.tenant("acme", StoreExec::Inline, SyncMode::Off);
    session(&neighbour, KEY);
    let seed = seed();
    let mut rng = Rng(seed);
    let (mut noticed, rounds) = (0, if long() { 2_000 } else { 60 });
    for round in 0..rounds {
        let mut bad = good.clone();
        // A page header, or somewhere else; one byte, or a whole sector of nonsense.
        let page = usize::try_from(rng.below(good.len() as u64 / 4096)).unwrap() * 4096;
        let at = if round % 2 == 0 {
            page + usize::try_from(rng.below(12)).unwrap()
        } else {
            usize::try_from(rng.below(good.len() as u64)).unwrap()
        };
        let n = if round % 3 == 0 { 512 } else { 1 };
        for b in bad.iter_mut().skip(at).take(n) {
            *b ^= u8::try_from(rng.below(255)).unwrap() + 1;
        }
        std::fs::write(&file, &bad).unwrap();
        for side in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(tenant_dir.join(format!("tenant.sqlite{side}")));
        }
        let db = TenantDb::open(
            &tenant_dir,
            row.id.clone(),
            opened.host.epoch(),
            StoreExec::Inline,
            SyncMode::Off,
        )
        .unwrap();
        let all = db.read_now(|r| {
            for i in 0..300 {
                r.get_message(&format!("m{i}"))?;
            }
            r.history(KEY, 300, None, 0)
        });
        match (all, db.fault()) {
            (Err(StoreError::Corrupt { incident }), Some(fault)) => {
                noticed += 1;
                assert_eq!(
                    fault,
                    StoreError::Corrupt {
                        incident: incident.clone()
                    },
                    "seed {seed}"
                );
                assert_eq!(incident.len(), 16, "an id, not SQLite's text");
                let answer = db.write(|w| w.meta_set("k", "v")).wait();
                assert_eq!(answer, Err(StoreError::Corrupt { incident }));
                drop(db);
                assert_eq!(
                    std::fs::read(&file).unwrap(),
                    bad,
                    "seed {seed}, round {round}: the file was touched"
                );
            }
            (Ok(_), None) => drop(db),
            (Err(StoreError::Newer(_)), None) => drop(db),
            other => panic!("seed {seed}, round {round}, byte {at}: {other:?}"),
        }
        neighbour
            .write(move |w| w.append_message(&message(&format!("n{round}")), 1))
            .wait()
            .unwrap();
    }
    println!("{noticed} of {rounds} damages noticed");
    assert!(noticed > rounds / 4, "only {noticed} of {rounds} noticed");
}

/// A damaged store is moved aside on demand only, whole, and the tenant starts with an empty one.
///
/// Covers: F8.
#[test]
fn set_aside_keeps_the_files_and_starts_anew() {
    let (_tmp, dir, row) = filled();
    let opened = Opened::at(&dir, SyncMode::Off);
    let tenant_dir = opened.state.tenant_dir(&row);
    let file = tenant_dir.join("tenant.sqlite");
    let mut bad = std::fs::read(&file).unwrap();
    bad[4096..8192].fill(0xa5);
    std::fs::write(&file, &bad).unwrap();
    let db = opened.tenant("main", pool(), SyncMode::Full);
    assert!(matches!(
        db.ensure_open().wait(),
        Err(StoreError::Corrupt { .. })
    ));
    let aside = db.set_aside().unwrap();
    assert_eq!(std::fs::read(aside.join("tenant.sqlite")).unwrap(), bad);
    assert_eq!(db.fault(), None);
    session(&db, KEY);
    assert_eq!(db.read(|r| r.count_messages(KEY)).wait().unwrap(), 0);
    assert!(db.set_aside().is_err(), "not a sound store");
}

/// Takes the files of a store that was not closed: the log holds what the file does not.
fn with_log(
    opened: &Opened,
    slug: &str,
    canary: &str,
    n: usize,
) -> (TenantRow, BTreeMap<PathBuf, Vec<u8>>) {
    let row = opened.host.ensure_tenant(slug, 1).unwrap();
    let db = opened.tenant(slug, StoreExec::Inline, SyncMode::Off);
    session(&db, KEY);
    for i in 0..n {
        let m = NewMessage {
            content_json: format!("[\"{canary}\"]"),
            ..message(&format!("{slug}{i}"))
        };
        db.write(move |w| w.append_message(&m, 1)).wait().unwrap();
    }
    let found = files(db.dir().unwrap());
    db.close().wait().unwrap();
    (row, found)
}

/// The log of another tenant beside a tenant's file: SQLite would take it for its own. The seal in it says whose it is.
///
/// Covers: F8, MT7.
#[test]
fn the_log_of_another_tenant_is_refused() {
    let tmp = tempfile::tempdir().unwrap();
    let opened = Opened::at(&tmp.path().join("state"), SyncMode::Off);
    let (_, of_a) = with_log(&opened, "a", "canary-of-a", 5);
    let (b, _) = with_log(&opened, "b", "own", 5);
    let dir_b = opened.state.tenant_dir(&b);
    let (_, wal_a) = of_a
        .iter()
        .find(|(p, _)| p.to_string_lossy().ends_with("-wal"))
        .unwrap();
    assert!(!wal_a.is_empty());
    std::fs::write(dir_b.join("tenant.sqlite-wal"), wal_a).unwrap();
    let before = files(&dir_b);
    let db = opened.tenant("b", StoreExec::Inline, SyncMode::Off);
    let seen = db.read_now(|r| r.history(KEY, 10, None, 0));
    assert!(matches!(seen, Err(StoreError::Corrupt { .. })), "{seen:?}");
    assert!(matches!(
        db.write(|w| w.meta_set("k", "v")).wait(),
        Err(StoreError::Corrupt { .. })
    ));
    drop(db);
    assert_eq!(files(&dir_b), before, "left as found");
}

/// The log of an older copy of the same tenant would take newer rows back.
///
/// Covers: F8.
#[test]
fn the_log_of_an_older_copy_is_refused() {
    let tmp = tempfile::tempdir().unwrap();
    let opened = Opened::at(&tmp.path().join("state"), SyncMode::Off);
    let (row, old) = with_log(&opened, "a", "old", 2);
    let dir = opened.state.tenant_dir(&row);
    let db = opened.tenant("a", StoreExec::Inline, SyncMode::Off);
    for i in 0..20 {
        db.write(move |w| w.append_message(&message(&format!("new{i}")), 2))
            .wait()
            .unwrap();
    }
    db.close().wait().unwrap();
    let (_, wal) = old
        .iter()
        .find(|(p, _)| p.to_string_lossy().ends_with("-wal"))
        .unwrap();
    std::fs::write(dir.join("tenant.sqlite-wal"), wal).unwrap();
    let before = files(&dir);
    let db = opened.tenant("a", StoreExec::Inline, SyncMode::Off);
    assert!(matches!(
        db.ensure_open().wait(),
        Err(StoreError::Corrupt { .. })
    ));
    drop(db);
    assert_eq!(files(&dir), before);
}

/// A log cut short or with flipped bytes loses its tail and nothing before it; a missing shared memory loses nothing.
///
/// Covers: F8.
#[test]
fn a_damaged_log_is_cut_at_the_damage() {
    let tmp = tempfile::tempdir().unwrap();
    let opened = Opened::at(&tmp.path().join("state"), SyncMode::Off);
    let (row, found) = with_log(&opened, "a", "x", 40);
    let dir = opened.state.tenant_dir(&row);
    let name = |p: &Path| dir.join(p.file_name().unwrap());
    let seed = seed();
    let mut rng = Rng(seed);
    for round in 0..25 {
        for side in ["tenant.sqlite-wal", "tenant.sqlite-shm"] {
            let _ = std::fs::remove_file(dir.join(side));
        }
        for (path, bytes) in &found {
            let mut bytes = bytes.clone();
            if path.to_string_lossy().ends_with("-wal") && round > 0 {
                let at = usize::try_from(rng.below(bytes.len() as u64 - 32)).unwrap() + 32;
                if round % 2 == 0 {
                    bytes.truncate(at)
                } else {
                    bytes[at] ^= 0x40
                }
            }
            std::fs::write(name(path), bytes).unwrap();
        }
        let db = opened.tenant("a", StoreExec::Inline, SyncMode::Off);
        // Before its first commit the log makes the schema: with that gone the store is new.
        let page = db
            .read_now(|r| r.history(KEY, 100, None, 0))
            .unwrap_or_else(|e| panic!("seed {seed}, round {round}: {e}"));
        let seqs: Vec<i64> = page.items.iter().map(|m| m.seq).collect();
        assert_eq!(
            seqs,
            (1..=seqs.len() as i64).collect::<Vec<_>>(),
            "seed {seed}, round {round}"
        );
        if round == 0 {
            assert_eq!(seqs.len(), 40);
        }
        drop(db);
    }
}

/// The shared memory of an open store is deleted under it.
///
/// Covers: F8.
#[test]
fn deleting_the_shared_memory_of_an_open_store_loses_nothing() {
    let (_tmp, _opened, db) = one_tenant(pool());
    session(&db, KEY);
    for i in 0..20 {
        db.write(move |w| accept(w, &format!("m{i}")))
            .wait()
            .unwrap();
        if i == 10 {
            std::fs::remove_file(db.dir().unwrap().join("tenant.sqlite-shm")).unwrap();
        }
        assert_eq!(db.read(|r| r.count_messages(KEY)).wait().unwrap(), i + 1);
    }
    db.close().wait().unwrap();
    let conn = rusqlite::Connection::open(db.dir().unwrap().join("tenant.sqlite")).unwrap();
    assert_eq!(
        conn.query_row("PRAGMA integrity_check", [], |r| r.get::<_, String>(0))
            .unwrap(),
        "ok"
    );
    assert_eq!(
        conn.query_row("SELECT COUNT(*) FROM messages", [], |r| r.get::<_, i64>(0))
            .unwrap(),
        20
    );
}
