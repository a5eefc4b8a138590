//! What the queries cost and which indexes they use: counted in steps of SQLite's machine, never in time.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::migrate::{Schema, migrate};
use crate::{ListQuery, NewMessage, NewOutbox, SessionPatch};
use rusqlite::{StatementStatus, params, params_from_iter};

fn store() -> Connection {
    let mut conn = Connection::open_in_memory().unwrap();
    migrate(&mut conn, Schema::Tenant).unwrap();
    conn.set_prepared_statement_cache_capacity(256);
    conn
}

fn fill_sessions(w: &mut Write<'_>, n: i64) {
    for i in 0..n {
        let p = SessionPatch {
            key: format!("agent:main:peer-{i:06}"),
            session_id: format!("s{i}"),
            agent_id: "main".into(),
            ..SessionPatch::default()
        };
        w.upsert_session(&p, 1_000 + i).unwrap();
    }
}

/// Steps of the virtual machine, and rows stepped over by full scans or sorts.
fn steps(conn: &Connection, sql: &str, p: impl Params) -> (i32, i32) {
    let mut stmt = conn.prepare(sql).unwrap();
    let mut rows = stmt.query(p).unwrap();
    while rows.next().unwrap().is_some() {}
    drop(rows);
    (
        stmt.get_status(StatementStatus::VmStep),
        stmt.get_status(StatementStatus::FullscanStep) + stmt.get_status(StatementStatus::Sort),
    )
}

#[test]
fn a_page_of_ten_thousand_sessions_costs_what_it_costs_of_sixty() {
    let measure = |n: i64| {
        let conn = store();
        fill_sessions(&mut Write::new(&conn, 1, None, &AtomicU64::new(0)), n);
        let mut cost = Vec::new();
        for agent in [None, Some("main".to_owned())] {
            let q = ListQuery {
                limit: 50,
                agent_id: agent,
                ..ListQuery::default()
            };
            let (sql, values) = sessions::list_sql(&q, 50);
            cost.push(steps(&conn, &sql, params_from_iter(values)));
        }
        let r = Read::new(&conn, 1, None);
        let page = r
            .list_sessions(&ListQuery {
                limit: 50,
                ..ListQuery::default()
            })
            .unwrap();
        assert_eq!(
            (page.items.len(), page.has_more, page.total),
            (50, true, Some(n))
        );
        assert_eq!(page.items[0].updated_at, 1_000 + n - 1);
        cost
    };
    let (small, big) = (measure(60), measure(10_000));
    assert_eq!(small, big);
    // A walk along an index counts as scanned; it ends with the page.
    assert!(
        big.iter().all(|(_, scanned)| *scanned <= 51),
        "a full scan or a sort: {big:?}"
    );
}

#[test]
fn a_page_of_a_long_transcript_costs_what_it_costs_of_a_short_one() {
    let measure = |n: i64| {
        let conn = store();
        let edits = AtomicU64::new(0);
        let mut w = Write::new(&conn, 1, None, &edits);
        fill_sessions(&mut w, 3);
        for i in 0..n {
            let m = NewMessage {
                id: format!("m{i}"),
                session_key: "agent:main:peer-000001".into(),
                role: "user".into(),
                content_json: "[]".into(),
                ..NewMessage::default()
            };
            w.append_message(&m, i).unwrap();
        }
        let page = w.history("agent:main:peer-000001", 50, None, 0).unwrap();
        assert_eq!(
            (page.items.len(), page.total, page.has_more),
            (50, Some(n), true)
        );
        assert_eq!((page.items[0].seq, page.items[49].seq), (n - 49, n));
        steps(
            &conn,
            messages::HISTORY,
            params!["agent:main:peer-000001", "s1", i64::MAX, 51, 0],
        )
    };
    let (small, big) = (measure(60), measure(10_000));
    assert_eq!(small, big);
    assert_eq!(big.1, 0, "a full scan or a sort");
}

#[test]
fn looking_for_due_rows_does_not_grow_with_what_was_sent() {
    let measure = |n: i64| {
        let conn = store();
        let edits = AtomicU64::new(0);
        let mut w = Write::new(&conn, 1, None, &edits);
        for i in 0..n {
            let m = NewOutbox {
                kind: "k".into(),
                account: "a".into(),
                conversation_json: format!("c{}", i % 7),
                run_id: format!("r{i}"),
                text: "t".into(),
                final_rev: true,
                expires_at: i64::MAX,
                ..NewOutbox::default()
            };
            let id = w.enqueue_outbox_claimed(&m, 1).unwrap().row.id;
            w.record_sent(id, 1, None, 2).unwrap();
        }
        for i in 0..5 {
            let m = NewOutbox {
                kind: "k".into(),
                account: "a".into(),
                conversation_json: format!("c{i}"),
                run_id: format!("open{i}"),
                expires_at: i64::MAX,
                ..NewOutbox::default()
            };
            w.enqueue_outbox(&m, 3).unwrap();
        }
        steps(&conn, outbox::DUE, params!["k", "a", 10, 10])
    };
    assert_eq!(measure(10), measure(2_000));
}

/// Every query of the hot path walks an index; none scans a table.
#[test]
fn hot_queries_use_their_indexes() {
    let conn = store();
    let plan = |sql: &str| -> String {
        let mut stmt = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let n = stmt.parameter_count();
        let lines: Vec<String> = stmt
            .query_map(params_from_iter((0..n).map(|_| "x")), |r| r.get(3))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        lines.join("; ")
    };
    for (sql, index) in [
        (
            "SELECT * FROM inbox WHERE received_at < ?1 ORDER BY received_at LIMIT ?2",
            "inbox_age",
        ),
        (
            "SELECT * FROM runs WHERE state IN ('queued', 'running') AND owner_epoch < ?1 ORDER BY created_at, run_id LIMIT ?2",
            "runs_unfinished",
        ),
        (
            "UPDATE outbox SET state = 'failed' WHERE kind = ?1 AND account = ?2 AND state = 'queued' AND expires_at <= ?3",
            "outbox_queued",
        ),
        (
            "SELECT 1 FROM outbox WHERE kind = ?1 AND account = ?2 AND state = 'queued' LIMIT 1 OFFSET ?3",
            "outbox_",
        ),
        (
            "UPDATE outbox SET state = 'unknown' WHERE state = 'sending' AND owner_epoch < ?1",
            "outbox_state",
        ),
        (outbox::DUE, "outbox_first"),
        (outbox::DUE, "outbox_due"),
        (
            "SELECT * FROM messages WHERE session_key = ?1 AND idempotency_key = ?2",
            "messages_idempotency",
        ),
        (
            "SELECT scope, key FROM idempotency WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2",
            "idempotency_age",
        ),
    ] {
        let plan = plan(sql);
        assert!(plan.contains(index), "{sql}\n{plan}");
        // A walk along a partial index is called a scan too.
        assert!(
            plan.split("; ")
                .all(|line| !line.contains("SCAN") || line.contains("INDEX")),
            "{sql}\n{plan}"
        );
    }
}
