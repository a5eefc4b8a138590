//! The repositories: each rule once.

use crate::support::*;
use gateway_store::*;
use std::sync::{Arc, Barrier};

const HOUR: i64 = 3_600_000;

/// Ten deliveries of one platform message at the same time, and again after a restart and a day later: one is new.
///
/// Covers: F21.
#[test]
fn a_platform_message_is_accepted_once() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("state");
    let t0 = 1_700_000_000_000;
    {
        let opened = Opened::at(&dir, SyncMode::Full);
        let db = opened.tenant("main", pool(), SyncMode::Full);
        let gate = Arc::new(Barrier::new(10));
        let new: usize = (0..10)
            .map(|_| {
                let (db, gate) = (db.clone(), gate.clone());
                std::thread::spawn(move || {
                    gate.wait();
                    db.write(move |w| w.insert_inbox("telegram", "default", "42", "7", t0))
                        .wait()
                        .unwrap()
                })
            })
            .collect::<Vec<_>>()
            .into_iter()
            .filter(|_| true)
            .map(|t| usize::from(t.join().unwrap() == InboxOutcome::Inserted))
            .sum();
        assert_eq!(new, 1);
    }
    let opened = Opened::at(&dir, SyncMode::Full);
    let db = opened.tenant("main", StoreExec::Inline, SyncMode::Full);
    let insert = |kind: &'static str,
                  account: &'static str,
                  conversation: &'static str,
                  id: &'static str,
                  at: i64| {
        db.write(move |w| w.insert_inbox(kind, account, conversation, id, at))
            .wait()
            .unwrap()
    };
    assert_eq!(
        insert("telegram", "default", "42", "7", t0 + 24 * HOUR),
        InboxOutcome::Duplicate
    );
    for other in [
        ("webhook", "default", "42", "7"),
        ("telegram", "b", "42", "7"),
        ("telegram", "default", "43", "7"),
        ("telegram", "default", "42", "8"),
    ] {
        assert_eq!(
            insert(other.0, other.1, other.2, other.3, t0),
            InboxOutcome::Inserted
        );
    }
    // Nobody can ask for a shorter memory than two days.
    assert_eq!(
        db.write(move |w| w.prune_inbox(t0 + 47 * HOUR, 0))
            .wait()
            .unwrap(),
        0
    );
    assert_eq!(
        insert("telegram", "default", "42", "7", t0 + 47 * HOUR),
        InboxOutcome::Duplicate
    );
    assert_eq!(
        db.write(move |w| w.prune_inbox(t0 + 49 * HOUR, 0))
            .wait()
            .unwrap(),
        5
    );
}

/// One key: one request. In parallel, after a restart, with another payload, in another tenant, after a day.
///
/// Covers: F22.
#[test]
fn an_idempotency_key_belongs_to_one_request() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("state");
    {
        let opened = Opened::at(&dir, SyncMode::Full);
        let db = opened.tenant("main", pool(), SyncMode::Full);
        let gate = Arc::new(Barrier::new(2));
        let threads: Vec<_> = (0..2)
            .map(|i| {
                let (db, gate) = (db.clone(), gate.clone());
                std::thread::spawn(move || {
                    gate.wait();
                    db.write(move |w| {
                        w.remember("chat.send", "k", "hash", &format!("run {i}"), 1_000)
                    })
                    .wait()
                    .unwrap()
                })
            })
            .collect();
        let answers: Vec<_> = threads.into_iter().map(|t| t.join().unwrap()).collect();
        let kept = db
            .read_now(|r| r.recall("chat.send", "k", "hash", 1_000))
            .unwrap()
            .unwrap();
        assert_eq!(answers.iter().filter(|a| **a == Remembered::New).count(), 1);
        assert!(answers.contains(&Remembered::Same(kept)));
    }
    let opened = Opened::at(&dir, SyncMode::Full);
    let db = opened.tenant("main", StoreExec::Inline, SyncMode::Full);
    let day = limits::IDEMPOTENCY_TTL_MS;
    let again = db
        .write(move |w| w.remember("chat.send", "k", "hash", "other", 1_000 + day - 1))
        .wait()
        .unwrap();
    assert!(matches!(again, Remembered::Same(ref s) if s.starts_with("run ")));
    let conflict = StoreError::Conflict("idempotency key used for another request");
    assert_eq!(
        db.write(|w| w.remember("chat.send", "k", "another hash", "x", 2_000))
            .wait(),
        Err(conflict.clone())
    );
    assert_eq!(
        db.read_now(|r| r.recall("chat.send", "k", "another hash", 2_000)),
        Err(conflict)
    );
    assert_eq!(
        db.write(|w| w.remember("agent", "k", "another hash", "x", 2_000))
            .wait(),
        Ok(Remembered::New)
    );
    let other = opened.tenant("acme", StoreExec::Inline, SyncMode::Full);
    assert_eq!(
        other
            .write(|w| w.remember("chat.send", "k", "another hash", "x", 2_000))
            .wait(),
        Ok(Remembered::New)
    );
    // After a day the key is free.
    assert_eq!(
        db.write(move |w| w.remember("chat.send", "k", "third", "y", 1_000 + day))
            .wait(),
        Ok(Remembered::New)
    );
    assert_eq!(
        db.write(move |w| w.prune_idempotency(3_000 + day)).wait(),
        Ok(1)
    );
}

/// A message with an idempotency key is appended once, and a run id is one request's.
///
/// Covers: F22.
#[test]
fn repeated_messages_and_runs_answer_the_first() {
    let (_tmp, _opened, db) = one_tenant(StoreExec::Inline);
    session(&db, KEY);
    let with_key = |id: &str| NewMessage {
        idempotency_key: Some("k".into()),
        ..message(id)
    };
    let (a, b) = (with_key("a"), with_key("b"));
    let first = db.write(move |w| w.append_message(&a, 5)).wait().unwrap();
    let second = db.write(move |w| w.append_message(&b, 6)).wait().unwrap();
    assert!(!first.duplicate && second.duplicate);
    assert_eq!(first.row, second.row);
    assert_eq!(db.read_now(|r| r.count_messages(KEY)).unwrap(), 1);
    let run = |hash: &str| NewRun {
        run_id: "r".into(),
        session_key: KEY.into(),
        request_hash: hash.into(),
        ..NewRun::default()
    };
    let (one, same, other) = (run("h"), run("h"), run("x"));
    assert!(
        matches!(db.write(move |w| w.insert_run(&one, 1)).wait(), Ok(RunInserted::New(r)) if r.attempt == 1)
    );
    assert!(
        matches!(db.write(move |w| w.insert_run(&same, 2)).wait(), Ok(RunInserted::Existing(r)) if r.created_at == 1)
    );
    assert_eq!(
        db.write(move |w| w.insert_run(&other, 2)).wait(),
        Err(StoreError::Conflict("run id used for another request"))
    );
    assert_eq!(
        db.write(|w| w.append_message(
            &NewMessage {
                session_key: "agent:main:nobody".into(),
                ..message("z")
            },
            5
        ))
        .wait(),
        Err(StoreError::NotFound)
    );
}

#[test]
fn sessions_are_listed_reset_deleted_and_counted() {
    let (_tmp, _opened, db) = one_tenant(StoreExec::Inline);
    let put = |key: &str, agent: &str, label: Option<&str>, at: i64| {
        let p = SessionPatch {
            key: key.into(),
            session_id: format!("s-{key}-{at}"),
            agent_id: agent.into(),
            label: label.map(Into::into),
            ..SessionPatch::default()
        };
        db.write(move |w| w.upsert_session(&p, at)).wait().unwrap()
    };
    for i in 0..7 {
        put(
            &format!("agent:main:{i}"),
            "main",
            (i % 2 == 0).then_some("even"),
            10 + i,
        );
    }
    put("agent:ops:x%y", "ops", None, 50);
    let list = |q: ListQuery| db.read_now(|r| r.list_sessions(&q)).unwrap();
    let keys = |p: &Page<SessionRow>| p.items.iter().map(|s| s.key.clone()).collect::<Vec<_>>();
    let all = list(ListQuery {
        limit: 3,
        ..ListQuery::default()
    });
    assert_eq!(
        keys(&all),
        ["agent:ops:x%y", "agent:main:6", "agent:main:5"]
    );
    assert_eq!((all.has_more, all.total), (true, Some(8)));
    let rest = list(ListQuery {
        limit: 100,
        offset: 3,
        ..ListQuery::default()
    });
    assert_eq!((rest.items.len(), rest.has_more), (5, false));
    assert_eq!(
        list(ListQuery {
            limit: 10,
            agent_id: Some("ops".into()),
            ..ListQuery::default()
        })
        .total,
        Some(1)
    );
    assert_eq!(
        list(ListQuery {
            limit: 10,
            label: Some("even".into()),
            ..ListQuery::default()
        })
        .items
        .len(),
        4
    );
    assert_eq!(
        list(ListQuery {
            limit: 10,
            active_since: Some(15),
            ..ListQuery::default()
        })
        .items
        .len(),
        3
    );
    // A percent sign is a character, not a pattern.
    assert_eq!(
        keys(&list(ListQuery {
            limit: 10,
            search: Some("X%".into()),
            ..ListQuery::default()
        })),
        ["agent:ops:x%y"]
    );
    assert_eq!(
        list(ListQuery {
            limit: 10,
            search: Some("MAIN:3".into()),
            ..ListQuery::default()
        })
        .items
        .len(),
        1
    );

    // An update keeps what it does not name.
    let same = put("agent:main:0", "main", None, 60);
    assert_eq!(
        (
            same.label.as_deref(),
            same.created_at,
            same.updated_at,
            same.session_id.as_str()
        ),
        (Some("even"), 10, 60, "s-agent:main:0-10")
    );

    db.write(|w| {
        w.append_message(
            &NewMessage {
                session_key: "agent:main:0".into(),
                ..message("m")
            },
            70,
        )
    })
    .wait()
    .unwrap();
    let reset = db
        .write(|w| w.reset_session("agent:main:0", "new", 80))
        .wait()
        .unwrap();
    assert_eq!(
        (
            reset.session_id.as_str(),
            reset.message_count,
            reset.last_seq,
            reset.reset_count
        ),
        ("new", 0, 0, 1)
    );
    assert_eq!(
        db.read_now(|r| r.history("agent:main:0", 10, None, 0))
            .unwrap()
            .items,
        []
    );
    assert!(
        db.read_now(|r| r.get_message("m")).unwrap().is_some(),
        "the old transcript is kept"
    );

    assert_eq!(
        db.write(|w| w.delete_session("agent:main:0", true, 90))
            .wait(),
        Ok(true)
    );
    assert_eq!(
        db.write(|w| w.delete_session("agent:main:0", true, 90))
            .wait(),
        Ok(false)
    );
    assert_eq!(
        db.read_now(|r| r.get_session("agent:main:0")).unwrap(),
        None
    );
    assert_eq!(db.read_now(|r| r.get_message("m")).unwrap(), None);
    assert_eq!(db.read_now(|r| r.count_sessions(None)).unwrap(), 7);
    let anew = put("agent:main:0", "main", None, 100);
    assert_eq!(
        (anew.session_id.as_str(), anew.label, anew.deleted),
        ("s-agent:main:0-100", None, false)
    );
    assert_eq!(db.read_now(|r| r.count_sessions(Some("main"))).unwrap(), 7);
}

#[test]
fn history_pages_backwards() {
    let (_tmp, _opened, db) = one_tenant(StoreExec::Inline);
    session(&db, KEY);
    for i in 1..=10 {
        db.write(move |w| w.append_message(&message(&format!("m{i}")), i))
            .wait()
            .unwrap();
    }
    let seqs = |limit, before, offset| {
        let p = db
            .read_now(|r| r.history(KEY, limit, before, offset))
            .unwrap();
        assert_eq!(p.total, Some(10));
        (
            p.items.iter().map(|m| m.seq).collect::<Vec<_>>(),
            p.has_more,
        )
    };
    assert_eq!(seqs(3, None, 0), (vec![8, 9, 10], true));
    assert_eq!(seqs(3, Some(8), 0), (vec![5, 6, 7], true));
    assert_eq!(seqs(3, None, 2), (vec![6, 7, 8], true));
    assert_eq!(seqs(30, Some(3), 0), (vec![1, 2], false));
    assert_eq!(
        db.read_now(|r| r.history("agent:main:none", 3, None, 0))
            .unwrap()
            .items,
        []
    );
}

/// A run is ended once, by the epoch that holds it; what an older epoch left is taken over with one attempt more.
#[test]
fn runs_are_taken_over_by_the_next_epoch() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("state");
    let new = |id: &str| NewRun {
        run_id: id.into(),
        session_key: KEY.into(),
        request_hash: "h".into(),
        ..NewRun::default()
    };
    let end = |state| RunEnd {
        state,
        stop_reason: None,
        error: None,
        result_text: Some("hi".into()),
        usage_json: None,
    };
    let first = Opened::at(&dir, SyncMode::Full);
    let epoch = first.host.epoch();
    let db = first.tenant("main", StoreExec::Inline, SyncMode::Full);
    for id in ["a", "b", "c"] {
        let run = new(id);
        db.write(move |w| w.insert_run(&run, 1)).wait().unwrap();
    }
    db.write(|w| w.start_run("b", 2)).wait().unwrap();
    db.write(|w| w.start_run("c", 2)).wait().unwrap();
    assert_eq!(
        db.write(|w| w.start_run("c", 2)).wait(),
        Err(StoreError::Conflict("run is not queued by this epoch"))
    );
    db.write(move |w| w.finish_run("c", &end(RunState::Ok), 3))
        .wait()
        .unwrap();
    assert!(
        db.write(move |w| w.finish_run("c", &end(RunState::Error), 3))
            .wait()
            .is_err()
    );
    assert_eq!(
        db.write(|w| w.start_run("z", 2)).wait(),
        Err(StoreError::NotFound)
    );
    assert_eq!(
        db.read_now(|r| r.unfinished_runs()).unwrap(),
        [],
        "its own runs are not left over"
    );
    drop((db, first));

    let second = Opened::at(&dir, SyncMode::Full);
    assert_eq!(second.host.epoch(), epoch + 1);
    let db = second.tenant("main", StoreExec::Inline, SyncMode::Full);
    let left: Vec<_> = db
        .read_now(|r| r.unfinished_runs())
        .unwrap()
        .into_iter()
        .map(|r| r.run_id)
        .collect();
    assert_eq!(left, ["a", "b"]);
    assert!(
        db.write(move |w| w.finish_run("b", &end(RunState::Ok), 4))
            .wait()
            .is_err(),
        "not held by this epoch yet"
    );
    let b = db.write(|w| w.requeue_run("b")).wait().unwrap();
    assert_eq!(
        (b.state, b.attempt, b.owner_epoch, b.started_at),
        (RunState::Queued, 2, epoch + 1, None)
    );
    assert!(db.write(|w| w.requeue_run("b")).wait().is_err());
    assert!(db.write(|w| w.requeue_run("c")).wait().is_err());
    db.write(|w| w.start_run("b", 5)).wait().unwrap();
    let b = db
        .write(move |w| w.finish_run("b", &end(RunState::Ok), 6))
        .wait()
        .unwrap();
    assert_eq!(
        (b.state, b.result_text.as_deref(), b.ended_at),
        (RunState::Ok, Some("hi"), Some(6))
    );
}

#[test]
fn guest_keys_have_a_quota_and_a_space_of_their_own() {
    let (_tmp, _opened, db) = one_tenant(StoreExec::Inline);
    let set = |plugin: &'static str, key: &str, n: usize| {
        let key = key.to_owned();
        db.write(move |w| w.kv_set(plugin, "a", &key, &vec![7; n], 100))
            .wait()
    };
    set("p", "k1", 48).unwrap();
    set("p", "k2", 48).unwrap();
    assert_eq!(set("p", "k3", 0), Err(StoreError::Limit("kv quota")));
    assert_eq!(set("p", "k1", 49), Err(StoreError::Limit("kv quota")));
    set("p", "k1", 10).unwrap();
    set("p", "k3", 30).unwrap();
    set("q", "k1", 90).unwrap();
    assert_eq!(db.read_now(|r| r.kv_usage("p", "a")).unwrap(), 12 + 50 + 32);
    assert_eq!(
        db.read_now(|r| r.kv_get("p", "a", "k1")).unwrap(),
        Some(vec![7; 10])
    );
    assert_eq!(db.read_now(|r| r.kv_get("p", "b", "k1")).unwrap(), None);
    assert_eq!(
        db.read_now(|r| r.kv_list("p", "a", "k", 2)).unwrap(),
        ["k1", "k2"]
    );
    assert_eq!(
        db.read_now(|r| r.kv_list("p", "a", "k3", 9)).unwrap(),
        ["k3"]
    );
    assert_eq!(
        db.read_now(|r| r.kv_list("p", "a", "z", 9)).unwrap(),
        Vec::<String>::new()
    );
    assert_eq!(db.write(|w| w.kv_delete("p", "a", "k2")).wait(), Ok(true));
    assert_eq!(db.write(|w| w.kv_delete("p", "a", "k2")).wait(), Ok(false));
    assert_eq!(db.read_now(|r| r.kv_usage("p", "a")).unwrap(), 12 + 32);
}

#[test]
fn strangers_get_one_code_each_up_to_the_cap() {
    let (_tmp, _opened, db) = one_tenant(StoreExec::Inline);
    let ask = |sender: &str, code: &str, at: i64| {
        let p = NewPairing {
            code: code.into(),
            kind: "webhook".into(),
            account: "a".into(),
            sender_id: sender.into(),
            expires_at: at + 100,
            ..NewPairing::default()
        };
        db.write(move |w| w.request_pairing(&p, 2, at))
            .wait()
            .unwrap()
    };
    assert!(matches!(ask("s1", "c1", 0), PairingRequested::Created(_)));
    assert!(matches!(ask("s1", "other", 1), PairingRequested::Existing(r) if r.code == "c1"));
    assert!(matches!(ask("s2", "c2", 50), PairingRequested::Created(_)));
    assert_eq!(ask("s3", "c3", 60), PairingRequested::CapReached);
    assert_eq!(db.read_now(|r| r.list_pairing(60)).unwrap().len(), 2);
    assert_eq!(
        db.write(|w| w.approve_pairing("c1", 100)).wait(),
        Err(StoreError::NotFound),
        "it ran out"
    );
    assert!(
        matches!(ask("s3", "c3", 101), PairingRequested::Created(_)),
        "what ran out makes room"
    );
    assert_eq!(
        db.write(|w| w.approve_pairing("c2", 120))
            .wait()
            .unwrap()
            .sender_id,
        "s2"
    );
    assert_eq!(
        db.write(|w| w.approve_pairing("c2", 120)).wait(),
        Err(StoreError::NotFound),
        "a code works once"
    );
    assert!(
        db.read_now(|r| r.has_contact("webhook", "a", "s2"))
            .unwrap()
    );
    assert!(
        !db.read_now(|r| r.has_contact("webhook", "b", "s2"))
            .unwrap()
    );
    assert!(
        !db.read_now(|r| r.has_contact("webhook", "a", "s1"))
            .unwrap()
    );
    assert_eq!(db.write(|w| w.reject_pairing("c3")).wait(), Ok(true));
    assert_eq!(
        db.write(|w| w.remove_contact("webhook", "a", "s2")).wait(),
        Ok(true)
    );
    assert_eq!(db.read_now(|r| r.list_contacts(None, 10)).unwrap(), []);
}

#[test]
fn submits_that_were_cut_off_are_said_so() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("state");
    {
        let opened = Opened::at(&dir, SyncMode::Full);
        let db = opened.tenant("main", StoreExec::Inline, SyncMode::Full);
        for i in 0..3 {
            db.write(move |w| w.insert_submit("telegram", "a", u64::MAX - i, "{}", 1))
                .wait()
                .unwrap();
        }
        assert!(
            db.write(|w| w.insert_submit("telegram", "a", u64::MAX, "{}", 1))
                .wait()
                .is_err()
        );
        let taken = db
            .write(|w| w.take_submits("telegram", "a", 2))
            .wait()
            .unwrap();
        assert_eq!(
            taken
                .iter()
                .map(|s| (s.guest_id, s.interrupted, s.attempts))
                .collect::<Vec<_>>(),
            [(u64::MAX, false, 1), (u64::MAX - 1, false, 1)]
        );
        let first = taken[0].id;
        assert_eq!(db.write(move |w| w.finish_submit(first)).wait(), Ok(true));
        assert_eq!(db.write(move |w| w.finish_submit(first)).wait(), Ok(false));
    }
    let opened = Opened::at(&dir, SyncMode::Full);
    let db = opened.tenant("main", StoreExec::Inline, SyncMode::Full);
    let taken = db
        .write(|w| w.take_submits("telegram", "a", 9))
        .wait()
        .unwrap();
    assert_eq!(
        taken
            .iter()
            .map(|s| (s.guest_id, s.interrupted))
            .collect::<Vec<_>>(),
        [(u64::MAX - 1, true), (u64::MAX - 2, false)]
    );
    assert_eq!(
        db.write(|w| w.take_submits("telegram", "a", 9))
            .wait()
            .unwrap(),
        []
    );
    assert_eq!(db.write(|w| w.drop_submits("telegram", "a")).wait(), Ok(2));
}

#[test]
fn blobs_are_kept_while_someone_refers_to_them() {
    let (_tmp, _opened, db) = one_tenant(pool());
    let id = db.put_blob(b"picture".to_vec()).wait().unwrap();
    assert_eq!(id, db.put_blob(b"picture".to_vec()).wait().unwrap());
    let (a, b, c) = (id.clone(), id.clone(), id.clone());
    db.write(move |w| w.ref_blob(&a, 5).and_then(|()| w.ref_blob(&a, 6)))
        .wait()
        .unwrap();
    assert_eq!(db.get_blob(id.clone()).wait().unwrap(), b"picture");
    db.write(move |w| w.unref_blob(&b)).wait().unwrap();
    assert_eq!(db.sweep_blobs(100).wait(), Ok(0));
    db.write(move |w| w.unref_blob(&c)).wait().unwrap();
    assert_eq!(db.sweep_blobs(100).wait(), Ok(1));
    let (d, e) = (id.clone(), id.clone());
    assert_eq!(db.get_blob(d).wait(), Err(StoreError::NotFound));
    assert_eq!(
        db.write(move |w| w.ref_blob(&e, 7)).wait(),
        Err(StoreError::NotFound)
    );
    assert!(
        BlobId::parse("../../etc/passwd").is_none() && BlobId::parse(&"A".repeat(64)).is_none()
    );
    assert_eq!(BlobId::parse(id.as_str()), Some(id));
}

#[test]
fn events_carry_the_epoch_and_are_pruned_from_the_front() {
    let (_tmp, opened, db) = one_tenant(StoreExec::Inline);
    for i in 0..20 {
        db.write(move |w| w.append_event("k", Some(KEY), &i.to_string(), i))
            .wait()
            .unwrap();
    }
    // Rolled back with its change; the next one does not leave a hole that a reader would take for a loss.
    let _ = db
        .write(|w| {
            w.append_event("k", None, "lost", 1)
                .and(Err::<(), _>(StoreError::NotFound))
        })
        .wait();
    let events = db.read_now(|r| r.events_after(17, 10)).unwrap();
    assert_eq!(
        events
            .iter()
            .map(|e| (e.id, e.epoch, e.payload_json.as_str()))
            .collect::<Vec<_>>(),
        [
            (18, opened.host.epoch(), "17"),
            (19, opened.host.epoch(), "18"),
            (20, opened.host.epoch(), "19")
        ]
    );
    assert_eq!(db.write(|w| w.prune_events(5)).wait(), Ok(15));
    assert_eq!(db.write(|w| w.prune_events(5)).wait(), Ok(0));
    assert_eq!(db.read_now(|r| r.event_bounds()).unwrap(), Some((16, 20)));
    assert_eq!(db.write(|w| w.prune_events(0)).wait(), Ok(5));
    assert_eq!(
        db.write(|w| w.append_event("k", None, "", 1)).wait(),
        Ok(21),
        "an id is never used twice"
    );
}

#[test]
fn account_and_boot_rows_keep_what_others_set() {
    let (_tmp, _opened, db) = one_tenant(StoreExec::Inline);
    db.write(|w| {
        w.set_account_wake("k", "a", Some(99), 1)?;
        w.set_account_guest_state("k", "a", Some(b"state"), 2)?;
        w.set_account_enabled("k", "a", Some(false), 3)?;
        w.set_account_error("k", "a", Some("why"), 4)?;
        w.set_account_error("k", "a", None, 5)?;
        w.begin_boot_run("greeting", "boot1", 6)?;
        w.end_boot_run("greeting", "boot1", "ok", None, Some("log"), 7)
    })
    .wait()
    .unwrap();
    let row = db.read_now(|r| r.account_state("k", "a")).unwrap().unwrap();
    assert_eq!(
        row,
        AccountRow {
            kind: "k".into(),
            account: "a".into(),
            next_wake: Some(99),
            guest_state: Some(b"state".to_vec()),
            enabled: Some(false),
            last_error: None,
            updated_at: 5
        }
    );
    assert_eq!(db.read_now(|r| r.account_states()).unwrap(), [row]);
    let boot = db.read_now(|r| r.list_boot_runs(5)).unwrap();
    assert_eq!(
        (boot.len(), boot[0].state.as_str(), boot[0].ended_at),
        (1, "ok", Some(7))
    );
    assert_eq!(
        db.write(|w| w.end_boot_run("x", "y", "ok", None, None, 8))
            .wait(),
        Err(StoreError::NotFound)
    );
}

/// Two tenants of one process share no file, no row and no answer.
///
/// Covers: MT7.
#[test]
fn tenants_have_directories_of_their_own() {
    let tmp = tempfile::tempdir().unwrap();
    let opened = Opened::at(&tmp.path().join("state"), SyncMode::Full);
    let exec = pool();
    let a = opened.tenant("a", exec.clone(), SyncMode::Full);
    let b = opened.tenant("b", exec, SyncMode::Full);
    assert_eq!(
        opened.host.ensure_tenant("a", 9).unwrap().id,
        *a.tenant(),
        "the same at every start"
    );
    assert_ne!(a.dir(), b.dir());
    assert!(
        !a.dir().unwrap().to_string_lossy().ends_with("/a")
            && !b
                .dir()
                .unwrap()
                .to_string_lossy()
                .contains(b.tenant().as_str())
    );
    session(&a, KEY);
    a.write(|w| {
        w.append_message(
            &NewMessage {
                content_json: "canary-7f3a".into(),
                ..message("m")
            },
            1,
        )
    })
    .wait()
    .unwrap();
    b.ensure_open().wait().unwrap();
    assert_eq!(b.read_now(|r| r.get_session(KEY)).unwrap(), None);
    assert_eq!(b.read_now(|r| r.get_message("m")).unwrap(), None);
    for entry in std::fs::read_dir(b.dir().unwrap()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(11).any(|w| w == b"canary-7f3a"));
    }
}

#[test]
fn credentials_are_keyed_hashes_of_one_tenant() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("state");
    let opened = Opened::at(&dir, SyncMode::Full);
    let (a, b) = (
        opened.host.ensure_tenant("a", 1).unwrap(),
        opened.host.ensure_tenant("b", 1).unwrap(),
    );
    let hash = |s: &str| opened.host.credential_hash("token", s.as_bytes());
    opened
        .host
        .replace_credentials(vec![
            (hash("ta"), a.id.clone(), "token".into()),
            (hash("tb"), b.id.clone(), "token".into()),
        ])
        .unwrap();
    assert_eq!(
        opened
            .host
            .find_credential(&hash("tb"))
            .unwrap()
            .unwrap()
            .tenant,
        b.id
    );
    assert_eq!(opened.host.find_credential(&hash("tc")).unwrap(), None);
    assert_ne!(hash("ta"), opened.host.credential_hash("password", b"ta"));
    // A table with a clash is refused as a whole.
    let clash = vec![
        (hash("x"), a.id.clone(), "token".into()),
        (hash("x"), b.id, "token".into()),
    ];
    assert!(matches!(
        opened.host.replace_credentials(clash),
        Err(StoreError::Conflict(_))
    ));
    assert_eq!(opened.host.credentials().unwrap().len(), 2);
    // The file holds neither the token nor its plain hash.
    let other = Opened::at(&tmp.path().join("other"), SyncMode::Full);
    assert_ne!(other.host.credential_hash("token", b"ta"), hash("ta"));
    assert_eq!(
        other.host.derive_key("cache"),
        other.host.derive_key("cache")
    );
    assert_ne!(
        other.host.derive_key("cache"),
        opened.host.derive_key("cache")
    );
    opened
        .host
        .replace_credentials(vec![(hash("ta"), a.id, "token".into())])
        .unwrap();
    assert_eq!(opened.host.find_credential(&hash("tb")).unwrap(), None);
}

#[test]
fn api_keys_belong_to_one_tenant_and_end_with_their_row() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("state");
    let opened = Opened::at(&dir, SyncMode::Full);
    let (a, b) = (
        opened.host.ensure_tenant("a", 1).unwrap(),
        opened.host.ensure_tenant("b", 1).unwrap(),
    );
    let key = |id: &str, tenant: &TenantId, name: &str, at: i64| ApiKeyRow {
        id: id.into(),
        tenant: tenant.clone(),
        name: name.into(),
        hash: opened.host.credential_hash("key", id.as_bytes()),
        scopes: vec!["operator.read".into(), "operator.write".into()],
        agent: Some("main".into()),
        created_at: at,
        expires_at: Some(99),
        last_used_at: None,
    };
    let rows = [
        key("1", &a.id, "ci", 5),
        key("2", &b.id, "ci", 6),
        // Named as the id of another.
        key("3", &a.id, "1", 7),
    ];
    for row in &rows {
        opened.host.insert_api_key(row).unwrap();
    }
    assert_eq!(opened.host.api_keys().unwrap(), rows);
    assert!(matches!(
        opened.host.insert_api_key(&key("4", &a.id, "ci", 8)),
        Err(StoreError::Conflict(_))
    ));
    opened
        .host
        .touch_api_keys(&[("1".into(), 60), ("gone".into(), 60)])
        .unwrap();
    opened.host.touch_api_keys(&[("1".into(), 50)]).unwrap();
    assert_eq!(opened.host.api_keys().unwrap()[0].last_used_at, Some(60));
    // Neither by id nor by name can one tenant reach the other's.
    assert_eq!(opened.host.remove_api_key(&a.id, "2").unwrap(), None);
    let gone = opened.host.remove_api_key(&a.id, "1").unwrap().unwrap();
    assert_eq!((gone.id.as_str(), gone.name.as_str()), ("1", "ci"));
    drop(opened);
    let again = Opened::at(&dir, SyncMode::Full);
    let left: Vec<String> = again
        .host
        .api_keys()
        .unwrap()
        .into_iter()
        .map(|k| k.id)
        .collect();
    assert_eq!(left, ["2", "3"]);
}

#[test]
fn a_response_is_kept_until_it_is_forgotten() {
    let (_tmp, _opened, db) = one_tenant(pool());
    let row = ResponseRow {
        id: "resp_1".into(),
        session_key: KEY.into(),
        session_id: "s".into(),
        agent_id: "main".into(),
        request_json: "{}".into(),
        created_at: 7,
    };
    let new = row.clone();
    db.write(move |w| w.insert_response(&new)).wait().unwrap();
    assert_eq!(
        db.read_now(|r| r.get_response("resp_1")).unwrap(),
        Some(row.clone())
    );
    assert_eq!(db.read_now(|r| r.get_response("resp_2")).unwrap(), None);
    let long = ResponseRow {
        id: "resp_2".into(),
        request_json: "x".repeat(limits::MAX_RESPONSE_REQUEST_BYTES + 1),
        ..row
    };
    assert!(matches!(
        db.write(move |w| w.insert_response(&long)).wait(),
        Err(StoreError::Limit("MAX_RESPONSE_REQUEST_BYTES"))
    ));
    assert!(db.write(|w| w.delete_response("resp_1")).wait().unwrap());
    assert!(!db.write(|w| w.delete_response("resp_1")).wait().unwrap());
    assert_eq!(db.read_now(|r| r.get_response("resp_1")).unwrap(), None);
}

/// What is kept of a node goes with its device, all of it; a question takes the place of one of its kind; the caps hold, and what ran
/// out makes room.
#[test]
fn a_node_goes_with_its_device() {
    let (_tmp, _opened, db) = one_tenant(pool());
    let device = |id: &str| DeviceRow {
        id: id.into(),
        public_key: "k".into(),
        display_name: None,
        label: None,
        platform: "linux".into(),
        device_family: None,
        client_id: "node-host".into(),
        client_mode: "node".into(),
        approved_via: "operator".into(),
        created_at: 1,
        approved_at: 1,
        last_seen_at: None,
    };
    let pending = |id: &str, node: &str, call: bool| NodePendingRow {
        id: id.into(),
        node_id: node.into(),
        kind: "k".into(),
        high: false,
        command: call.then(|| "c".into()),
        params: None,
        created_at: 1,
        expires_at: 100,
    };
    let put =
        |row: NodePendingRow, now: i64| db.write(move |w| w.put_node_pending(&row, now)).wait();
    for id in ["a", "b"] {
        let (row, id) = (device(id), id.to_owned());
        db.write(move |w| {
            w.put_device(&row)?;
            w.put_node(&NodeRow {
                id: id.clone(),
                surface_json: "{}".into(),
                created_at: 1,
                approved_at: 2,
            })?;
            w.put_node_request(&NodeRequestRow {
                id: format!("r-{id}"),
                node_id: id.clone(),
                surface_json: "{}".into(),
                version: "1".into(),
                created_at: 3,
            })?;
            w.put_node_seen(&NodeSeenRow {
                id,
                version: "1".into(),
                connected_at: 4,
                seen_at: 5,
                seen_reason: "connect".into(),
                stats_json: None,
            })
        })
        .wait()
        .unwrap();
    }
    // Of a device that is not there nothing is kept.
    let stranger = NodeSeenRow {
        id: "x".into(),
        version: "1".into(),
        connected_at: 4,
        seen_at: 5,
        seen_reason: "connect".into(),
        stats_json: None,
    };
    db.write(move |w| w.put_node_seen(&stranger))
        .wait()
        .unwrap();
    assert!(put(pending("p", "x", false), 1).is_err());
    assert_eq!(put(pending("q1", "a", false), 1).unwrap(), 1);
    assert_eq!(put(pending("q2", "a", false), 1).unwrap(), 2);
    for n in 0..limits::MAX_NODE_PENDING_PER_NODE - 1 {
        put(pending(&format!("c{n}"), "a", true), 1).unwrap();
    }
    assert!(matches!(
        put(pending("more", "a", true), 1),
        Err(StoreError::Limit("MAX_NODE_PENDING_PER_NODE"))
    ));
    let long = NodePendingRow {
        params: Some("x".repeat(limits::MAX_NODE_PENDING_BYTES + 1)),
        ..pending("long", "b", true)
    };
    assert!(matches!(
        put(long, 1),
        Err(StoreError::Limit("MAX_NODE_PENDING_BYTES"))
    ));
    let of = |node: &'static str, calls: bool, now: i64| {
        db.read_now(move |r| r.node_pending(node, calls, now))
            .unwrap()
    };
    let questions: Vec<String> = of("a", false, 1).into_iter().map(|p| p.id).collect();
    assert_eq!(questions, ["q2"], "one of a kind");
    assert_eq!(of("a", true, 1).len(), 63);
    assert!(of("a", true, 100).is_empty(), "run out");
    let late = NodePendingRow {
        expires_at: 300,
        ..pending("late", "a", true)
    };
    put(late, 100).unwrap();
    assert_eq!(of("a", true, 100).len(), 1);
    // Nobody takes what waits for another.
    let stolen = db
        .write(|w| w.take_node_pending("b", &["late".to_owned()]))
        .wait()
        .unwrap();
    assert_eq!(stolen, (Vec::new(), 0));
    assert!(db.write(|w| w.remove_device("a")).wait().unwrap());
    db.read_now(|r| {
        assert_eq!(r.nodes()?.len(), 1);
        assert_eq!(r.node_requests()?.len(), 1);
        assert_eq!(r.nodes_seen()?.len(), 1);
        assert!(r.node_pending_by_id("late")?.is_none());
        Ok(())
    })
    .unwrap();
}
