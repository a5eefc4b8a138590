//! The outbox against a model of the platform: any order of operations, crashes in between.

use crate::support::*;
use gateway_store::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone)]
enum Step {
    Enqueue {
        run: u8,
        conversation: u8,
        claimed: bool,
        last: bool,
    },
    Revise {
        pick: u8,
        text: u8,
        last: bool,
    },
    Claim {
        limit: u8,
    },
    /// The platform takes the revision and the result is recorded.
    Sent {
        pick: u8,
    },
    Retry {
        pick: u8,
        after: u8,
    },
    Unknown {
        pick: u8,
    },
    Failed {
        pick: u8,
    },
    /// The platform may have taken what is in flight; the process is gone.
    Crash {
        reached: u8,
    },
    Tick {
        ms: u16,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0u8..12, 0u8..3, prop::bool::weighted(0.2), any::<bool>()).prop_map(|(run, conversation, claimed, last)| Step::Enqueue { run, conversation, claimed, last }),
        3 => (any::<u8>(), 0u8..4, prop::bool::weighted(0.3)).prop_map(|(pick, text, last)| Step::Revise { pick, text, last }),
        4 => (1u8..4).prop_map(|limit| Step::Claim { limit }),
        4 => any::<u8>().prop_map(|pick| Step::Sent { pick }),
        1 => (any::<u8>(), 0u8..50).prop_map(|(pick, after)| Step::Retry { pick, after }),
        1 => any::<u8>().prop_map(|pick| Step::Unknown { pick }),
        1 => any::<u8>().prop_map(|pick| Step::Failed { pick }),
        1 => any::<u8>().prop_map(|reached| Step::Crash { reached }),
        2 => (1u16..400).prop_map(|ms| Step::Tick { ms }),
    ]
}

struct World {
    dir: std::path::PathBuf,
    opened: Option<(Opened, TenantDb)>,
    now: i64,
    /// What this process has claimed and not recorded: id → revision and whether it creates.
    in_flight: BTreeMap<i64, (i64, bool)>,
    /// How often the platform created each row.
    created: BTreeMap<i64, u32>,
    finished: BTreeMap<i64, OutboxState>,
    ids: BTreeSet<i64>,
}

impl World {
    fn db(&self) -> &TenantDb {
        &self.opened.as_ref().unwrap().1
    }

    fn rows(&self) -> Vec<OutboxRow> {
        let mut rows = self
            .db()
            .read_now(|r| {
                r.list_outbox(&OutboxFilter {
                    limit: 1_000,
                    ..OutboxFilter::default()
                })
            })
            .unwrap()
            .items;
        rows.reverse();
        rows
    }

    fn flying(&self, pick: u8) -> Option<i64> {
        (!self.in_flight.is_empty()).then(|| {
            *self
                .in_flight
                .keys()
                .nth(usize::from(pick) % self.in_flight.len())
                .unwrap()
        })
    }

    fn claim(&mut self, row: &OutboxRow) {
        assert_eq!(row.state, OutboxState::Sending);
        assert_eq!(row.owner_epoch, self.db().epoch());
        assert!(row.sent_rev < row.desired_rev, "nothing to send: {row:?}");
        let twice = self
            .in_flight
            .insert(row.id, (row.desired_rev, row.receipt_json.is_none()));
        assert!(twice.is_none(), "claimed twice: {row:?}");
    }

    /// The platform gets the message.
    fn reach(&mut self, id: i64, creates: bool) {
        if creates {
            *self.created.entry(id).or_default() += 1;
        }
    }

    fn apply(&mut self, step: &Step) {
        let now = self.now;
        match *step {
            Step::Enqueue {
                run,
                conversation,
                claimed,
                last,
            } => {
                let m = NewOutbox {
                    kind: "k".into(),
                    account: "a".into(),
                    conversation_json: format!("c{conversation}"),
                    run_id: format!("run{run}"),
                    text: "0".into(),
                    final_rev: last,
                    next_at: now,
                    expires_at: now + 2_000,
                    ..NewOutbox::default()
                };
                let done = self
                    .db()
                    .write(move |w| {
                        if claimed {
                            w.enqueue_outbox_claimed(&m, now)
                        } else {
                            w.enqueue_outbox(&m, now)
                        }
                    })
                    .wait()
                    .unwrap();
                assert_eq!(
                    done.duplicate,
                    !self.ids.insert(done.row.id),
                    "one row per run and part"
                );
                if claimed && !done.duplicate {
                    self.claim(&done.row);
                }
            }
            Step::Revise { pick, text, last } => {
                let rows = self.rows();
                if rows.is_empty() {
                    return;
                }
                let row = rows[usize::from(pick) % rows.len()].clone();
                let text = text.to_string();
                let (id, new_text) = (row.id, text.clone());
                match self
                    .db()
                    .write(move |w| w.revise_outbox(id, &new_text, last, now))
                    .wait()
                {
                    Ok(new) => {
                        assert_eq!(new.text, text);
                        assert!(
                            new.desired_rev >= row.desired_rev
                                && new.desired_rev <= row.desired_rev + 1
                        );
                        assert!(!row.final_rev || new == row);
                    }
                    Err(e) => {
                        assert_eq!(e, StoreError::Conflict("the final revision is set"));
                        assert!(row.final_rev);
                    }
                }
            }
            Step::Claim { limit } => {
                let rows = self
                    .db()
                    .write(move |w| w.claim_due("k", "a", now, limit.into()))
                    .wait()
                    .unwrap();
                assert!(rows.len() <= limit.into());
                for row in &rows {
                    assert!(row.next_at <= now && row.expires_at > now);
                    if row.receipt_json.is_none() {
                        // Nothing older of the conversation is still to be created.
                        let older = self.rows().into_iter().find(|o| {
                            o.id < row.id
                                && o.conversation_json == row.conversation_json
                                && o.receipt_json.is_none()
                                && matches!(o.state, OutboxState::Queued | OutboxState::Sending)
                        });
                        assert_eq!(older, None, "overtaken by {row:?}");
                    }
                    self.claim(row);
                }
            }
            Step::Sent { pick } => {
                let Some(id) = self.flying(pick) else { return };
                let (rev, creates) = self.in_flight.remove(&id).unwrap();
                self.reach(id, creates);
                let row = self
                    .db()
                    .write(move |w| w.record_sent(id, rev, creates.then_some("{}"), now))
                    .wait()
                    .unwrap();
                let complete = row.final_rev && row.sent_rev == row.desired_rev;
                assert_eq!(row.state == OutboxState::Sent, complete, "{row:?}");
                assert!(row.state == OutboxState::Sent || row.state == OutboxState::Queued);
                assert!(
                    self.db()
                        .write(move |w| w.record_sent(id, rev, None, now))
                        .wait()
                        .is_err(),
                    "recorded twice"
                );
            }
            Step::Retry { pick, after } => {
                let Some(id) = self.flying(pick) else { return };
                self.in_flight.remove(&id);
                let row = self
                    .db()
                    .write(move |w| w.record_retry(id, now + i64::from(after), "busy", now))
                    .wait()
                    .unwrap();
                assert!(matches!(
                    row.state,
                    OutboxState::Queued | OutboxState::Failed
                ));
            }
            Step::Unknown { pick } => {
                let Some(id) = self.flying(pick) else { return };
                let (_, creates) = self.in_flight.remove(&id).unwrap();
                self.reach(id, creates);
                let row = self
                    .db()
                    .write(move |w| w.record_unknown(id, "reset", now))
                    .wait()
                    .unwrap();
                assert_eq!(
                    row.state,
                    if creates {
                        OutboxState::Unknown
                    } else {
                        OutboxState::Queued
                    }
                );
            }
            Step::Failed { pick } => {
                let Some(id) = self.flying(pick) else { return };
                self.in_flight.remove(&id);
                assert_eq!(
                    self.db()
                        .write(move |w| w.record_failed(id, "no", now))
                        .wait()
                        .unwrap()
                        .state,
                    OutboxState::Failed
                );
            }
            Step::Crash { reached } => {
                let flying = std::mem::take(&mut self.in_flight);
                for (n, (id, (_, creates))) in flying.iter().enumerate() {
                    if (reached >> (n % 8)) & 1 == 1 {
                        self.reach(*id, *creates);
                    }
                }
                let before = self.rows();
                self.opened = None;
                self.start();
                let done = self
                    .db()
                    .write(move |w| w.recover_outbox(now))
                    .wait()
                    .unwrap();
                let unknown: Vec<i64> = flying
                    .iter()
                    .filter(|(_, (_, creates))| *creates)
                    .map(|(id, _)| *id)
                    .collect();
                let again: Vec<i64> = flying
                    .iter()
                    .filter(|(_, (_, creates))| !*creates)
                    .map(|(id, _)| *id)
                    .collect();
                let sorted = |mut v: Vec<i64>| {
                    v.sort_unstable();
                    v
                };
                assert_eq!(
                    (sorted(done.unknown), sorted(done.requeued)),
                    (unknown, again),
                    "never more than were in flight"
                );
                assert_eq!(before.len(), self.rows().len());
                assert_eq!(
                    self.db()
                        .write(move |w| w.recover_outbox(now))
                        .wait()
                        .unwrap(),
                    OutboxRecovery::default()
                );
            }
            Step::Tick { ms } => self.now += i64::from(ms),
        }
    }

    fn start(&mut self) {
        let opened = Opened::at(&self.dir, SyncMode::Off);
        let db = opened.tenant("main", StoreExec::Inline, SyncMode::Off);
        self.opened = Some((opened, db));
    }

    fn check(&mut self) {
        for row in self.rows() {
            assert!(row.sent_rev <= row.desired_rev);
            assert_eq!(
                row.state == OutboxState::Sending,
                self.in_flight.contains_key(&row.id),
                "{row:?}"
            );
            assert!(
                self.created.get(&row.id).copied().unwrap_or(0) <= 1,
                "created twice: {row:?}"
            );
            if row.state == OutboxState::Sent {
                assert!(
                    row.final_rev && row.sent_rev == row.desired_rev && row.receipt_json.is_some()
                );
            }
            // `sent`, `unknown` and `failed` are ends: nothing leaves them by itself.
            if let Some(end) = self.finished.get(&row.id) {
                assert_eq!(row.state, *end, "{row:?}");
            }
            if matches!(
                row.state,
                OutboxState::Sent | OutboxState::Unknown | OutboxState::Failed
            ) {
                self.finished.insert(row.id, row.state);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if long() { 1_000 } else { 40 }, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens in whatever order: a row is claimed by one at a time, created at most once, and never leaves an
    /// end by itself; after a crash exactly the creations that were in flight are unknown.
    #[test]
    fn nothing_is_created_twice_and_no_end_is_left(steps in prop::collection::vec(step(), 1..80)) {
        let tmp = tempfile::tempdir().unwrap();
        let mut world = World {
            dir: tmp.path().join("state"),
            opened: None,
            now: 1_000,
            in_flight: BTreeMap::new(),
            created: BTreeMap::new(),
            finished: BTreeMap::new(),
            ids: BTreeSet::new(),
        };
        world.start();
        for s in &steps {
            world.apply(s);
            world.check();
        }
    }
}

/// A streamed reply: one row, one creation, edits to the newest revision only, `sent` at the final one.
#[test]
fn a_streamed_reply_is_one_row() {
    let (_tmp, _opened, db) = one_tenant(StoreExec::Inline);
    let m = NewOutbox {
        kind: "k".into(),
        account: "a".into(),
        conversation_json: "c".into(),
        run_id: "r".into(),
        text: "He".into(),
        expires_at: 10_000,
        ..NewOutbox::default()
    };
    let id = db
        .write(move |w| w.enqueue_outbox(&m, 1))
        .wait()
        .unwrap()
        .row
        .id;
    let claim = |at| {
        db.write(move |w| w.claim_due("k", "a", at, 9))
            .wait()
            .unwrap()
    };
    let first = claim(1);
    assert_eq!(
        (first.len(), first[0].text.as_str(), first[0].attempts),
        (1, "He", 1)
    );
    // Two revisions come while the first is on its way.
    db.write(move |w| w.revise_outbox(id, "Hello", false, 2))
        .wait()
        .unwrap();
    db.write(move |w| w.revise_outbox(id, "Hello wor", false, 3))
        .wait()
        .unwrap();
    assert_eq!(claim(3), []);
    let row = db
        .write(move |w| w.record_sent(id, 1, Some(r#"{"id":7}"#), 4))
        .wait()
        .unwrap();
    assert_eq!(
        (row.state, row.sent_rev, row.desired_rev),
        (OutboxState::Queued, 1, 3)
    );
    let edit = claim(5);
    assert_eq!(
        (edit[0].text.as_str(), edit[0].receipt_json.as_deref()),
        ("Hello wor", Some(r#"{"id":7}"#))
    );
    // An edit whose outcome is lost may be repeated.
    assert_eq!(
        db.write(move |w| w.record_unknown(id, "reset", 6))
            .wait()
            .unwrap()
            .state,
        OutboxState::Queued
    );
    let edit = claim(7);
    let rev = edit[0].desired_rev;
    let row = db
        .write(move |w| w.record_sent(id, rev, None, 8))
        .wait()
        .unwrap();
    assert_eq!(
        (row.state, row.receipt_json.as_deref()),
        (OutboxState::Queued, Some(r#"{"id":7}"#))
    );
    assert_eq!(claim(9), [], "it shows the newest text");
    assert_eq!(db.read_now(|r| r.next_outbox_due("k", "a")).unwrap(), None);
    // The final revision brings no new text: done without a delivery.
    let row = db
        .write(move |w| w.revise_outbox(id, "Hello wor", true, 10))
        .wait()
        .unwrap();
    assert_eq!((row.state, row.desired_rev), (OutboxState::Sent, 3));
    assert!(
        db.write(move |w| w.revise_outbox(id, "more", true, 11))
            .wait()
            .is_err()
    );
    assert_eq!(claim(12), []);
}

#[test]
fn what_runs_out_fails_and_an_operator_may_send_again() {
    let (_tmp, _opened, db) = one_tenant(StoreExec::Inline);
    let m = NewOutbox {
        kind: "k".into(),
        account: "a".into(),
        conversation_json: "c".into(),
        run_id: "r".into(),
        text: "t".into(),
        final_rev: true,
        expires_at: 100,
        ..NewOutbox::default()
    };
    let id = db
        .write(move |w| w.enqueue_outbox_claimed(&m, 1))
        .wait()
        .unwrap()
        .row
        .id;
    let late = db
        .write(move |w| w.record_retry(id, 200, "busy", 50))
        .wait()
        .unwrap();
    assert_eq!(
        late.state,
        OutboxState::Failed,
        "the next try would come too late"
    );
    assert_eq!(
        db.write(move |w| w.requeue_outbox(id, 1_000, 60))
            .wait()
            .unwrap()
            .state,
        OutboxState::Queued
    );
    assert!(
        db.write(move |w| w.requeue_outbox(id, 1_000, 60))
            .wait()
            .is_err()
    );
    assert_eq!(
        db.read_now(|r| r.outbox_accounts()).unwrap(),
        [("k".to_owned(), "a".to_owned())]
    );
    assert_eq!(
        db.write(|w| w.claim_due("k", "a", 1_000, 9))
            .wait()
            .unwrap(),
        []
    );
    let row = db.read_now(|r| r.get_outbox(id)).unwrap().unwrap();
    assert_eq!(
        (row.state, row.last_error.as_deref()),
        (OutboxState::Failed, Some("busy; expired"))
    );
    let failed = OutboxFilter {
        state: Some(OutboxState::Failed),
        limit: 10,
        ..OutboxFilter::default()
    };
    assert_eq!(
        db.read_now(|r| r.list_outbox(&failed)).unwrap().items,
        [row]
    );
    assert_eq!(db.write(|w| w.prune_outbox(5_000, 100)).wait(), Ok(1));
}
