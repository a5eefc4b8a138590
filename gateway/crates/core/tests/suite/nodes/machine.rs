//! The state machine of calls, whatever comes in whatever order.

use std::collections::BTreeMap;
use std::sync::Arc;

use gateway_core::node::invoke::{Begun, Invokes, Key, NewCall, Outcome, Waiter};
use gateway_protocol::ConnId;
use proptest::prelude::*;
use serde_json::json;
use tokio::sync::oneshot::error::TryRecvError;

#[derive(Debug, Clone)]
enum Step {
    /// A caller asks node `node` under key `key`; `other` asks for something else.
    Call {
        node: u8,
        key: u8,
        other: bool,
        ms: u64,
    },
    /// Connection `conn` of node `node` answers open call number `call`.
    Result { node: u8, conn: u8, call: usize },
    /// The same says how far it is.
    Progress { call: usize, seq: u64 },
    /// Caller number `waiter` goes away.
    Leave { waiter: usize },
    /// Connection `conn` ends.
    Disconnect { node: u8, conn: u8 },
    /// Time goes on, and deadlines are looked at.
    Wait { ms: u64 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (node, conn) = (0..2_u8, 0..2_u8);
    proptest::collection::vec(
        prop_oneof![
            5 => (node.clone(), 0..4_u8, prop::bool::weighted(0.1), 1..400_u64)
                .prop_map(|(node, key, other, ms)| Step::Call { node, key, other, ms }),
            4 => (node.clone(), conn.clone(), 0..4_usize)
                .prop_map(|(node, conn, call)| Step::Result { node, conn, call }),
            1 => (0..4_usize, 0..6_u64).prop_map(|(call, seq)| Step::Progress { call, seq }),
            2 => (0..6_usize).prop_map(|waiter| Step::Leave { waiter }),
            1 => (node, conn).prop_map(|(node, conn)| Step::Disconnect { node, conn }),
            2 => (0..300_u64).prop_map(|ms| Step::Wait { ms }),
        ],
        1..80,
    )
}

fn conn_id(node: u8, conn: u8) -> ConnId {
    ConnId::parse(&format!("conn-{node}-{conn}")).unwrap()
}

struct Model {
    node: u8,
    conn: u8,
    deadline: u64,
    next_seq: u64,
    /// Who waits.
    places: Vec<u64>,
    ended: Option<Outcome>,
}

proptest! {
    /// Results, deadlines, callers who go away and connections that end, in any order: each call ends once; all who still wait get the
    /// same outcome, once, and who left gets none; only the connection that was asked can answer; a key is one call.
    /// Covers: F19, X10.
    #[test]
    fn a_call_ends_once(steps in steps()) {
        let mut machine = Invokes::default();
        let mut now = 0_u64;
        let mut calls: BTreeMap<String, Model> = BTreeMap::new();
        let mut by_key: BTreeMap<(u8, u8), String> = BTreeMap::new();
        let mut waiting: Vec<Waiter> = Vec::new();
        for (n, step) in steps.into_iter().enumerate() {
            let open: Vec<String> = calls
                .iter()
                .filter(|(_, m)| m.ended.is_none())
                .map(|(id, _)| id.clone())
                .collect();
            match step {
                Step::Call { node, key, other, ms } => {
                    let id = format!("call-{n:03}");
                    let call = NewCall {
                        id: id.as_str().into(),
                        key: Key { node: format!("node-{node}").into(), name: format!("key-{key}") },
                        digest: [u8::from(other); 32],
                        conn: conn_id(node, 0),
                        deadline_ms: now + ms,
                        progress_to: Some(ConnId::parse("caller").unwrap()),
                    };
                    let known = by_key.get(&(node, key)).cloned();
                    match machine.begin(call, now) {
                        Begun::New(waiter) => {
                            prop_assert!(known.is_none(), "a key is one call");
                            prop_assert_eq!(waiter.deadline_ms, now + ms);
                            calls.insert(id.clone(), Model {
                                node, conn: 0, deadline: now + ms, next_seq: 0,
                                places: vec![waiter.place], ended: None,
                            });
                            by_key.insert((node, key), id);
                            waiting.push(waiter);
                        }
                        Begun::Joined(waiter) => {
                            let of = calls.get_mut(&*waiter.id).unwrap();
                            prop_assert!(of.ended.is_none() && known.as_deref() == Some(&*waiter.id));
                            of.places.push(waiter.place);
                            waiting.push(waiter);
                        }
                        Begun::Known(outcome) => {
                            let of = &calls[&known.unwrap()];
                            prop_assert_eq!(of.ended.as_ref(), Some(&*outcome));
                        }
                        Begun::Conflict => prop_assert!(known.is_some()),
                        Begun::Full(_) => prop_assert!(calls.values().any(|m| m.places.len() >= 8)),
                        Begun::Forgotten => prop_assert!(false, "small results are kept"),
                    }
                }
                Step::Result { node, conn, call } => {
                    let Some(id) = open.get(call) else { continue };
                    let outcome = Outcome::Done { payload: json!(n), payload_json: None };
                    let of = calls.get_mut(id).unwrap();
                    let asked = of.node == node && of.conn == conn;
                    let taken = machine.result(id, &format!("node-{node}"), &conn_id(node, conn), outcome.clone(), now);
                    prop_assert_eq!(taken, asked, "only who was asked");
                    if taken {
                        of.ended = Some(outcome);
                        let again = machine.result(id, &format!("node-{node}"), &conn_id(node, conn), Outcome::TimedOut, now);
                        prop_assert!(!again, "and once");
                    }
                }
                Step::Progress { call, seq } => {
                    let Some(id) = open.get(call) else { continue };
                    let of = calls.get_mut(id).unwrap();
                    let got = machine.progress(id, &format!("node-{}", of.node), &conn_id(of.node, 0), seq);
                    prop_assert_eq!(got.is_some(), seq >= of.next_seq);
                    if got.is_some() {
                        of.next_seq = seq + 1;
                    }
                }
                Step::Leave { waiter } => {
                    if waiter >= waiting.len() {
                        continue;
                    }
                    let gone = waiting.swap_remove(waiter);
                    let of = calls.get_mut(&*gone.id).unwrap();
                    let last = machine.leave(&gone.id, gone.place, now);
                    of.places.retain(|p| *p != gone.place);
                    prop_assert_eq!(last, of.ended.is_none() && of.places.is_empty());
                    if last {
                        of.ended = Some(Outcome::Cancelled);
                    }
                }
                Step::Disconnect { node, conn } => {
                    let lost = machine.disconnect(&conn_id(node, conn), now);
                    let mut expected = 0;
                    for of in calls.values_mut().filter(|m| m.ended.is_none() && m.node == node && m.conn == conn) {
                        of.ended = Some(Outcome::Disconnected);
                        expected += 1;
                    }
                    prop_assert_eq!(lost, expected);
                }
                Step::Wait { ms } => {
                    now += ms;
                    for id in &open {
                        let of = calls.get_mut(id).unwrap();
                        let ended = machine.expire(id, now);
                        prop_assert_eq!(ended, of.deadline <= now);
                        if ended {
                            of.ended = Some(Outcome::TimedOut);
                        }
                        prop_assert!(!machine.expire(id, now) || !ended);
                    }
                }
            }
            // Who waits has the outcome exactly when the call has ended.
            for waiter in &mut waiting {
                if calls[&*waiter.id].ended.is_none() {
                    prop_assert_eq!(waiter.outcome.try_recv(), Err(TryRecvError::Empty));
                }
            }
            prop_assert_eq!(machine.open(), calls.values().filter(|m| m.ended.is_none()).count());
        }
        for mut waiter in waiting {
            match &calls[&*waiter.id].ended {
                None => prop_assert_eq!(waiter.outcome.try_recv(), Err(TryRecvError::Empty)),
                Some(outcome) => {
                    let got: Arc<Outcome> = waiter.outcome.try_recv().unwrap();
                    prop_assert_eq!(&*got, outcome);
                    prop_assert!(waiter.outcome.try_recv().is_err(), "once");
                }
            }
        }
    }
}
