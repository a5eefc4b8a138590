//! Full disks and failing disks: `strace` makes the calls on the tenant's files fail.

use crate::power_loss::skipped;
use crate::support::*;
use gateway_store::*;
use std::path::{Path, PathBuf};

/// A prepared directory and the database file of its tenant `main`.
fn prepared() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().canonicalize().unwrap().join("state");
    prepare(&dir);
    let opened = Opened::at(&dir, SyncMode::Full);
    let row = opened.host.ensure_tenant("main", 1).unwrap();
    let file = opened.state.tenant_dir(&row).join("tenant.sqlite");
    (tmp, dir, file)
}

/// Runs the child with a fault; answers what it said, line by line.
fn with_fault(dir: &Path, file: &Path, inject: &str, writes: &str) -> Vec<String> {
    let trace = dir.parent().unwrap().join("trace");
    let words = [
        "strace",
        "-f",
        "-qq",
        "-P",
        file.to_str().unwrap(),
        "-e",
        "signal=none",
        "-e",
        inject,
        "-o",
        trace.to_str().unwrap(),
    ];
    let out = child(dir, &words, &[("GATEWAY_STORE_FAULTS", writes)])
        .wait_with_output()
        .unwrap();
    String::from_utf8_lossy(&out.stdout)
        .lines()
        .filter_map(|l| l.strip_prefix('#'))
        .map(str::to_owned)
        .collect()
}

/// How the writes of the tenant with the fault went. Those of its neighbour all went well.
fn own(lines: &[String]) -> Vec<&String> {
    assert!(
        !lines.iter().any(|l| l.starts_with("neighbour")),
        "{lines:#?}"
    );
    lines
        .iter()
        .filter(|l| l.starts_with("ack main") || l.starts_with("err"))
        .collect()
}

fn acked(lines: &[String]) -> Acked {
    let mut acked = Acked::default();
    for l in lines {
        acked.line(&format!("#{l}"));
    }
    acked
}

/// A disk that is full for a while: the writes of that time are refused and leave nothing, reads go on, and the store
/// works again by itself when there is room. (The store's part of F3.)
#[test]
fn a_full_disk_refuses_writes_and_comes_back() {
    if skipped() {
        return;
    }
    let (_tmp, dir, file) = prepared();
    let wal = PathBuf::from(format!("{}-wal", file.display()));
    let lines = with_fault(
        &dir,
        &wal,
        "inject=pwrite64:error=ENOSPC:when=400..415",
        "60",
    );
    let outcome: Vec<&String> = own(&lines);
    let first_error = outcome
        .iter()
        .position(|l| l.starts_with("err"))
        .expect("the fault was not met");
    let last_error = outcome.iter().rposition(|l| l.starts_with("err")).unwrap();
    assert!(
        first_error > 0 && last_error < outcome.len() - 1,
        "{outcome:#?}"
    );
    assert_eq!(outcome.len(), 60);
    for l in &outcome {
        assert!(l.starts_with("ack") || l.ends_with("Full"), "{l}");
    }
    assert!(
        lines
            .iter()
            .filter(|l| l.starts_with("read"))
            .all(|l| l == "read ok")
    );
    verify(&dir, &acked(&lines)).unwrap();
    // A refused message left nothing, and can be delivered again.
    let opened = Opened::at(&dir, SyncMode::Full);
    let db = opened.tenant("main", StoreExec::Inline, SyncMode::Full);
    let refused = outcome[first_error].split(' ').nth(1).unwrap().to_owned();
    db.write(move |w| accept(w, &refused)).wait().unwrap();
}

/// An fsync that fails is not tried again: the store takes no further write, says so, and keeps reading. What was
/// acknowledged before is there at the next start.
///
/// Covers: F4.
#[test]
fn a_failed_fsync_ends_the_writing() {
    if skipped() {
        return;
    }
    let (_tmp, dir, file) = prepared();
    let wal = PathBuf::from(format!("{}-wal", file.display()));
    let lines = with_fault(&dir, &wal, "inject=fdatasync,fsync:error=EIO:when=12", "30");
    let outcome: Vec<&String> = own(&lines);
    let first_error = outcome
        .iter()
        .position(|l| l.starts_with("err"))
        .expect("the fault was not met");
    assert!(first_error > 0);
    assert_eq!(outcome.len(), 30);
    // Only one fsync failed, but all later writes are refused.
    assert!(
        outcome[first_error..].iter().all(|l| l.ends_with("Failed")),
        "{outcome:#?}"
    );
    assert!(
        lines
            .iter()
            .filter(|l| l.starts_with("read"))
            .all(|l| l == "read ok"),
        "{lines:#?}"
    );
    verify(&dir, &acked(&lines)).unwrap();
}
