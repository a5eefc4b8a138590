//! The audit log shows whether somebody changed it.

use gateway_store::*;
use rusqlite::Connection;

use crate::support::one_tenant;

const KEY: AuditKey = AuditKey([7; 32]);

fn entry(n: i64) -> NewAudit {
    NewAudit {
        action: format!("cron.add {n}"),
        outcome: "ok".into(),
        actor_json: r#"{"credential":"token:00"}"#.into(),
        object_json: (n % 2 == 0).then(|| format!(r#"{{"jobId":"{n}"}}"#)),
    }
}

fn append(db: &TenantDb, from: i64, to: i64) {
    db.write(move |w| {
        for n in from..=to {
            w.append_audit(&KEY, &entry(n), 1_000 + n)?;
        }
        Ok(())
    })
    .wait()
    .unwrap();
}

fn verify(db: &TenantDb, key: AuditKey) -> AuditVerdict {
    db.read(move |r| r.verify_audit(&key)).wait().unwrap()
}

/// Covers: MT18.
#[test]
fn every_change_of_the_audit_log_is_found() {
    let tampers: [(&str, i64, AuditFault); 17] = [
        (
            "UPDATE audit SET action = 'cron.add 33' WHERE seq = 3",
            3,
            AuditFault::Changed,
        ),
        (
            "UPDATE audit SET outcome = 'OK' WHERE seq = 1",
            1,
            AuditFault::Changed,
        ),
        (
            "UPDATE audit SET actor_json = '{}' WHERE seq = 6",
            6,
            AuditFault::Changed,
        ),
        (
            "UPDATE audit SET object_json = NULL WHERE seq = 4",
            4,
            AuditFault::Changed,
        ),
        (
            "UPDATE audit SET object_json = '' WHERE seq = 3",
            3,
            AuditFault::Changed,
        ),
        (
            "UPDATE audit SET ts = ts + 1 WHERE seq = 2",
            2,
            AuditFault::Changed,
        ),
        (
            "UPDATE audit SET code = zeroblob(32) WHERE seq = 5",
            5,
            AuditFault::Changed,
        ),
        // Text moves from one column into the next.
        (
            "UPDATE audit SET action = 'cron.add 3o', outcome = 'k' WHERE seq = 3",
            3,
            AuditFault::Changed,
        ),
        ("DELETE FROM audit WHERE seq = 3", 3, AuditFault::Missing),
        ("DELETE FROM audit WHERE seq = 1", 1, AuditFault::Missing),
        ("DELETE FROM audit WHERE seq >= 5", 5, AuditFault::Missing),
        ("DELETE FROM audit", 1, AuditFault::Missing),
        (
            "UPDATE audit SET seq = -2 WHERE seq = 2; UPDATE audit SET seq = 2 WHERE seq = 3; UPDATE audit SET seq = 3 WHERE seq = -2",
            2,
            AuditFault::Changed,
        ),
        (
            "INSERT INTO audit SELECT 7, ts, action, outcome, actor_json, object_json, code FROM audit WHERE seq = 6",
            7,
            AuditFault::Changed,
        ),
        // The end of the chain is moved back with the rows.
        (
            "DELETE FROM audit WHERE seq = 6; UPDATE audit_chain SET head_seq = 5, head_code = (SELECT code FROM audit WHERE seq = 5)",
            5,
            AuditFault::ChainChanged,
        ),
        (
            "UPDATE audit_chain SET code = x'00'",
            6,
            AuditFault::ChainChanged,
        ),
        (
            "DELETE FROM audit; DELETE FROM audit_chain",
            0,
            AuditFault::NoChain,
        ),
    ];
    for (tamper, at, fault) in tampers {
        let (_tmp, _opened, db) = one_tenant(StoreExec::Inline);
        append(&db, 1, 6);
        let well = verify(&db, KEY);
        assert_eq!((well.rows, well.head_seq, well.fault), (6, Some(6), None));
        let file = Connection::open(db.dir().unwrap().join("tenant.sqlite")).unwrap();
        file.execute_batch(tamper).unwrap();
        let found = verify(&db, KEY);
        assert_eq!(found.fault, Some((at, fault)), "{tamper}");
        assert_eq!(found.head_seq, None);
        // What comes later does not mend it.
        // But for a row at the end, whose place the next one takes, and a log that was begun anew.
        if fault != AuditFault::NoChain && at != 7 {
            append(&db, 7, 8);
            assert!(verify(&db, KEY).fault.is_some(), "{tamper}");
        }
    }
    let (_tmp, _opened, db) = one_tenant(StoreExec::Inline);
    append(&db, 1, 2);
    let other = verify(&db, AuditKey([8; 32]));
    assert_eq!(other.fault, Some((2, AuditFault::ChainChanged)));
}

#[test]
fn an_entry_is_in_the_transaction_of_the_change_or_not_at_all() {
    let (_tmp, _opened, db) = one_tenant(StoreExec::Inline);
    append(&db, 1, 1);
    let undone: Result<()> = db
        .write(|w| {
            w.append_audit(&KEY, &entry(2), 2)?;
            w.meta_set("k", "v")?;
            Err(StoreError::Conflict("no"))
        })
        .wait();
    assert!(undone.is_err());
    append(&db, 3, 3);
    let page = db.read(|r| r.audit_page(None, 10)).wait().unwrap();
    let actions: Vec<&str> = page.items.iter().map(|row| row.action.as_str()).collect();
    assert_eq!(actions, ["cron.add 3", "cron.add 1"]);
    assert_eq!(verify(&db, KEY).head_seq, Some(2));
    let older = db.read(|r| r.audit_page(Some(2), 1)).wait().unwrap();
    assert_eq!((older.items[0].seq, older.has_more), (1, false));
    let long = NewAudit {
        actor_json: "x".repeat(limits::MAX_AUDIT_TEXT_BYTES + 1),
        ..entry(4)
    };
    let refused = db
        .write(move |w| w.append_audit(&KEY, &long, 4))
        .wait()
        .unwrap_err();
    assert!(matches!(refused, StoreError::Limit(_)), "{refused:?}");
}

#[test]
fn the_oldest_entries_go_and_the_chain_holds() {
    let (_tmp, _opened, db) = one_tenant(StoreExec::Inline);
    let most = limits::MAX_AUDIT_ROWS + limits::MAX_PRUNED_AUDIT_ROWS;
    append(&db, 1, most + 10);
    let found = verify(&db, KEY);
    assert_eq!((found.head_seq, found.fault), (Some(most + 10), None));
    assert!(
        found.rows >= limits::MAX_AUDIT_ROWS && found.rows <= most,
        "{found:?}"
    );
    let file = Connection::open(db.dir().unwrap().join("tenant.sqlite")).unwrap();
    file.execute(
        "DELETE FROM audit WHERE seq = (SELECT MIN(seq) FROM audit)",
        [],
    )
    .unwrap();
    let first = most + 11 - found.rows;
    assert_eq!(verify(&db, KEY).fault, Some((first, AuditFault::Missing)));
}
