//! Calls of commands on a connected node: results, deadlines, lost connections, repetitions, progress, and what waits for a node.

use std::sync::Arc;
use std::time::Duration;

use gateway_core::{Caller, Host, Role, Tenant};
use gateway_protocol::{DetailCode, RpcError, ScopeSet};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::{Node, approved, attach, paired, quiet};
use crate::support::*;

type Called = JoinHandle<Result<Value, RpcError>>;

/// A call that goes on by itself.
fn begin(host: &Arc<Host>, t: &Arc<Tenant>, caller: &Arc<Caller>, params: Value) -> Called {
    let (host, t, caller) = (host.clone(), t.clone(), caller.clone());
    tokio::spawn(async move { call(&host, &t, &caller, "node.invoke", params).await })
}

fn params(node: &Node, key: &str) -> Value {
    json!({ "nodeId": node.id, "command": "system.notify", "params": { "x": 1 }, "timeoutMs": 5000, "idempotencyKey": key })
}

fn requests(node: &Node) -> Vec<Value> {
    node.events.named("node.invoke.request")
}

/// The node answers; gives what the gateway says to that.
async fn answer(host: &Host, t: &Arc<Tenant>, node: &Node, request: &Value, more: Value) -> Value {
    let mut params = json!({ "id": request["id"], "nodeId": node.id, "ok": true });
    for (key, value) in more.as_object().unwrap() {
        params[key] = value.clone();
    }
    call(host, t, &node.caller, "node.invoke.result", params)
        .await
        .unwrap()
}

/// The recorded answers: a result as text and as a value, an error of the node, a deadline; late, repeated and foreign results
/// change nothing.
/// Covers: X10, F19.
#[tokio::test(start_paused = true)]
async fn a_call_has_one_result() {
    let dir = scratch();
    let host = start(dir.path(), &Arc::default(), 1).await;
    let t = host.main_tenant().unwrap();
    let node = approved(&host, &t, 1, &["system.notify"]).await;
    let other = approved(&host, &t, 2, &["system.notify"]).await;

    let called = begin(&host, &t, &admin(), params(&node, "ok"));
    quiet().await;
    let request = requests(&node)[0].clone();
    assert_eq!(
        request,
        json!({
            "id": request["id"], "nodeId": node.id, "command": "system.notify",
            "paramsJSON": "{\"x\":1}", "timeoutMs": 5000, "idempotencyKey": "ok",
        })
    );
    assert!(requests(&other).is_empty());
    // Of another node, and under a foreign name: nothing happens.
    let foreign = json!({ "id": request["id"], "nodeId": other.id, "ok": true });
    for caller in [&other.caller, &node.caller] {
        let got = call(&host, &t, caller, "node.invoke.result", foreign.clone())
            .await
            .unwrap();
        assert_eq!(got, json!({ "ok": true, "ignored": true }));
    }
    let text = json!({ "payloadJSON": "{\"model\":\"lab\"}" });
    let taken = answer(&host, &t, &node, &request, text).await;
    assert_eq!(taken, json!({ "ok": true }));
    let got = called.await.unwrap().unwrap();
    assert_eq!(
        got,
        json!({
            "ok": true, "nodeId": node.id, "command": "system.notify",
            "payload": { "model": "lab" }, "payloadJSON": "{\"model\":\"lab\"}",
        })
    );
    let again = answer(&host, &t, &node, &request, json!({})).await;
    assert_eq!(
        again,
        json!({ "ok": true, "ignored": true }),
        "a repeated result"
    );

    let called = begin(&host, &t, &admin(), params(&node, "value"));
    quiet().await;
    answer(
        &host,
        &t,
        &node,
        &requests(&node)[1],
        json!({ "payload": { "done": true } }),
    )
    .await;
    let got = called.await.unwrap().unwrap();
    assert_eq!(
        (&got["payload"], &got["payloadJSON"]),
        (&json!({ "done": true }), &json!(null))
    );

    let called = begin(&host, &t, &admin(), params(&node, "err"));
    quiet().await;
    let no = json!({ "ok": false, "error": { "code": "UNAVAILABLE", "message": "lab says no" } });
    answer(&host, &t, &node, &requests(&node)[2], no).await;
    let error = called.await.unwrap().unwrap_err();
    assert_eq!(
        serde_json::to_value(&error).unwrap(),
        json!({
            "code": "UNAVAILABLE", "message": "UNAVAILABLE: lab says no",
            "details": {
                "nodeError": { "code": "UNAVAILABLE", "message": "lab says no" },
                "nodeCommandDispatched": true,
            },
        })
    );

    let mut late = params(&node, "late");
    late["timeoutMs"] = json!(1500);
    let called = begin(&host, &t, &admin(), late);
    quiet().await;
    assert!(!called.is_finished());
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let error = called.await.unwrap().unwrap_err();
    assert_eq!(
        serde_json::to_value(&error).unwrap(),
        json!({
            "code": "UNAVAILABLE", "message": "TIMEOUT: node invoke timed out",
            "details": {
                "nodeError": { "code": "TIMEOUT", "message": "node invoke timed out" },
                "nodeCommandDispatched": true,
            },
        })
    );
    let request = requests(&node)[3].clone();
    assert_eq!(
        node.events.named("node.invoke.cancel"),
        [json!({ "invokeId": request["id"], "nodeId": node.id })]
    );
    let got = answer(&host, &t, &node, &request, json!({})).await;
    assert_eq!(got, json!({ "ok": true, "ignored": true }));
    assert_eq!(t.nodes().calls(), 0);
}

/// The connection of the node ends in the middle, or is replaced: the caller hears it at once, and a result over the new connection
/// is too late.
/// Covers: F19, X10.
#[tokio::test(start_paused = true)]
async fn a_node_that_vanishes_ends_its_calls() {
    let dir = scratch();
    let host = start(dir.path(), &Arc::default(), 1).await;
    let t = host.main_tenant().unwrap();
    let node = approved(&host, &t, 1, &["system.notify"]).await;
    let called = begin(&host, &t, &admin(), params(&node, "cut"));
    quiet().await;
    let request = requests(&node)[0].clone();
    let pass = paired(&host, &t, 1, "linux").await;
    // The new connection comes before the old one is noticed to be dead.
    let newer = attach(&host, &t, &pass, &["system.notify"]);
    let error = called.await.unwrap().unwrap_err();
    let shown = serde_json::to_value(&error).unwrap();
    assert_eq!(shown["details"]["nodeError"]["code"], "NODE_DISCONNECTED");
    assert_eq!(shown["details"]["nodeCommandDispatched"], true);
    assert!(
        node.events.closed.lock().is_some(),
        "the older one is ended"
    );
    for of in [&node, &newer] {
        let got = answer(&host, &t, of, &request, json!({})).await;
        assert_eq!(got, json!({ "ok": true, "ignored": true }));
    }
    drop(node);
    assert_eq!(t.nodes().connected(), 1, "the newer one stays");
    let called = begin(&host, &t, &admin(), params(&newer, "cut 2"));
    quiet().await;
    drop(newer);
    let error = called.await.unwrap().unwrap_err();
    assert_eq!(error.detail, DetailCode::NodeFailed);
    assert_eq!((t.nodes().connected(), t.nodes().calls()), (0, 0));
    // The same call again is not a second one.
    let again = begin(
        &host,
        &t,
        &admin(),
        json!({ "nodeId": format!("{:064x}", 1), "command": "system.notify", "params": { "x": 1 }, "idempotencyKey": "cut 2" }),
    );
    assert_eq!(again.await.unwrap().unwrap_err(), error);
}

/// The same call twice, at once and later, is one; another call under its name is refused; the last caller who goes away takes the
/// call along.
#[tokio::test(start_paused = true)]
async fn a_repeated_call_is_one() {
    let dir = scratch();
    let host = start(dir.path(), &Arc::default(), 1).await;
    let t = host.main_tenant().unwrap();
    let node = approved(&host, &t, 1, &["system.notify"]).await;
    let both: Vec<_> = (0..2)
        .map(|_| begin(&host, &t, &admin(), params(&node, "k")))
        .collect();
    quiet().await;
    assert_eq!(requests(&node).len(), 1);
    let mut other = params(&node, "k");
    other["params"] = json!({ "x": 2 });
    let refused = begin(&host, &t, &admin(), other).await.unwrap();
    assert_eq!(refused.unwrap_err().detail, DetailCode::IdempotencyConflict);
    answer(
        &host,
        &t,
        &node,
        &requests(&node)[0],
        json!({ "payload": 7 }),
    )
    .await;
    for one in both {
        assert_eq!(one.await.unwrap().unwrap()["payload"], 7);
    }
    let later = begin(&host, &t, &admin(), params(&node, "k"));
    assert_eq!(later.await.unwrap().unwrap()["payload"], 7);
    assert_eq!(requests(&node).len(), 1, "asked once");

    let both: Vec<_> = (0..2)
        .map(|_| begin(&host, &t, &admin(), params(&node, "gone")))
        .collect();
    quiet().await;
    both[0].abort();
    quiet().await;
    assert!(node.events.named("node.invoke.cancel").is_empty());
    both[1].abort();
    quiet().await;
    let told = node.events.named("node.invoke.cancel");
    assert_eq!(told.len(), 1);
    assert_eq!(told[0]["invokeId"], requests(&node)[1]["id"]);
    let again = begin(&host, &t, &admin(), params(&node, "gone"));
    let error = again.await.unwrap().unwrap_err();
    assert!(error.message.starts_with("CANCELLED:"), "{error}");
    // After five minutes nothing of it is known.
    tokio::time::sleep(Duration::from_millis(300_001)).await;
    let anew = begin(&host, &t, &admin(), params(&node, "k"));
    quiet().await;
    assert_eq!(requests(&node).len(), 3);
    drop(node);
    assert!(anew.await.unwrap().is_err());
}

/// Calls under way are bounded per node; what a caller asked for is passed on in its order to that caller alone.
#[tokio::test(start_paused = true)]
async fn calls_are_bounded_and_progress_is_in_order() {
    let dir = scratch();
    let host = start(dir.path(), &Arc::default(), 1).await;
    let t = host.main_tenant().unwrap();
    let node = approved(&host, &t, 1, &["system.notify"]).await;
    let many: Vec<_> = (0..33)
        .map(|n| begin(&host, &t, &admin(), params(&node, &format!("n{n}"))))
        .collect();
    quiet().await;
    assert_eq!(requests(&node).len(), 32);
    for request in requests(&node) {
        answer(&host, &t, &node, &request, json!({})).await;
    }
    let mut refused = 0;
    for one in many {
        if let Err(error) = one.await.unwrap() {
            assert_eq!(error.detail, DetailCode::Overloaded);
            refused += 1;
        }
    }
    assert_eq!(refused, 1);

    let caller = connect(&host, &t, Role::Operator, ScopeSet::ALL, &[]);
    let bystander = connect(&host, &t, Role::Operator, ScopeSet::ALL, &[]);
    let mut asked = params(&node, "progress");
    asked["progress"] = json!(true);
    let called = begin(&host, &t, &caller.caller, asked);
    quiet().await;
    let request = requests(&node).pop().unwrap();
    let mut ignored = Vec::new();
    for (seq, chunk) in [(0, "a"), (1, "b"), (1, "b again"), (0, "a again"), (5, "c")] {
        let piece =
            json!({ "invokeId": request["id"], "nodeId": node.id, "seq": seq, "chunk": chunk });
        let got = call(&host, &t, &node.caller, "node.invoke.progress", piece)
            .await
            .unwrap();
        ignored.push(got["ignored"] == true);
    }
    assert_eq!(ignored, [false, false, true, true, false]);
    let chunks: Vec<Value> = caller
        .events
        .named("node.invoke.progress")
        .into_iter()
        .map(|p| p["chunk"].clone())
        .collect();
    assert_eq!(chunks, ["a", "b", "c"]);
    assert!(bystander.events.named("node.invoke.progress").is_empty());
    assert!(bystander.events.named("node.invoke.request").is_empty());
    answer(&host, &t, &node, &request, json!({})).await;
    called.await.unwrap().unwrap();
    // Nobody asked for it: as recorded.
    let called = begin(&host, &t, &admin(), params(&node, "silent"));
    quiet().await;
    let request = requests(&node).pop().unwrap();
    let piece = json!({ "invokeId": request["id"], "nodeId": node.id, "seq": 0, "chunk": "x" });
    let got = call(&host, &t, &node.caller, "node.invoke.progress", piece)
        .await
        .unwrap();
    assert_eq!(got, json!({ "ok": true, "ignored": true }));
    answer(&host, &t, &node, &request, json!({})).await;
    called.await.unwrap().unwrap();
}

/// Questions and calls wait for a node over a restart of the gateway; a call waits once whatever is repeated, and is given only as long
/// as it may be called.
#[tokio::test(start_paused = true)]
async fn work_waits_for_a_node_that_sleeps() {
    let dir = scratch();
    let id = {
        let host = start(dir.path(), &Arc::default(), 1).await;
        let t = host.main_tenant().unwrap();
        let node = approved(&host, &t, 1, &["system.notify", "system.which"]).await;
        let id = node.id.clone();
        drop(node);
        let mut revisions = Vec::new();
        for (kind, priority) in [
            ("status.request", "normal"),
            ("location.request", "high"),
            ("status.request", "normal"),
        ] {
            let asked = json!({ "nodeId": id, "type": kind, "priority": priority });
            let got = call(&host, &t, &admin(), "node.pending.enqueue", asked)
                .await
                .unwrap();
            let queued = &got["queued"];
            let left =
                queued["expiresAtMs"].as_i64().unwrap() - queued["createdAtMs"].as_i64().unwrap();
            assert_eq!((left, &got["wakeTriggered"]), (86_400_000, &json!(false)));
            revisions.push(got["revision"].as_u64().unwrap());
        }
        assert_eq!(revisions, [1, 2, 3]);
        for (command, key) in [
            ("system.notify", "a"),
            ("system.notify", "a"),
            ("system.which", "b"),
        ] {
            let left = json!({ "nodeId": id, "command": command, "params": { "x": 1 }, "idempotencyKey": key, "queue": true });
            let got = call(&host, &t, &admin(), "node.invoke", left)
                .await
                .unwrap();
            assert!(got["queued"]["id"].is_string(), "{got}");
            assert_eq!(got["payload"], json!(null));
            quiet().await;
        }
        host.shutdown(Duration::from_secs(1)).await;
        id
    };
    let host = start(dir.path(), &Arc::default(), 2).await;
    let t = host.main_tenant().unwrap();
    let left = json!({ "nodeId": id, "command": "system.notify", "params": { "x": 1 }, "idempotencyKey": "a", "queue": true });
    call(&host, &t, &admin(), "node.invoke", left)
        .await
        .unwrap();
    let pass = paired(&host, &t, 1, "linux").await;
    let node = attach(&host, &t, &pass, &["system.notify", "system.which"]);
    let ask = |method: &'static str, params: Value| {
        let (host, t, caller) = (host.clone(), t.clone(), node.caller.clone());
        async move { call(&host, &t, &caller, method, params).await.unwrap() }
    };
    let got = ask("node.pending.drain", json!({ "maxItems": 1 })).await;
    assert_eq!(
        (&got["items"][0]["type"], &got["hasMore"]),
        (&json!("location.request"), &json!(true)),
        "what is urgent first: {got}"
    );
    let got = ask("node.pending.drain", json!({})).await;
    assert_eq!(
        got["items"].as_array().unwrap().len(),
        1,
        "one of a kind: {got}"
    );
    assert_eq!(got["hasMore"], false);
    let got = ask("node.pending.drain", json!({})).await;
    assert_eq!(got["items"], json!([]));

    let got = ask("node.pending.pull", json!({})).await;
    let actions = got["actions"].as_array().unwrap().clone();
    let commands: Vec<&Value> = actions.iter().map(|a| &a["command"]).collect();
    assert_eq!(commands, ["system.notify", "system.which"]);
    assert_eq!(actions[0]["paramsJSON"], "{\"x\":1}");
    let again = ask("node.pending.pull", json!({})).await;
    assert_eq!(
        again["actions"], got["actions"],
        "until they are acknowledged"
    );
    let acked = ask(
        "node.pending.ack",
        json!({ "ids": [actions[0]["id"], "nobody's"] }),
    )
    .await;
    assert_eq!(
        (&acked["ackedIds"], &acked["remainingCount"]),
        (&json!([actions[0]["id"]]), &json!(1))
    );
    // Another node has nothing of it.
    let other = approved(&host, &t, 2, &["system.which"]).await;
    let theirs = call(&host, &t, &other.caller, "node.pending.pull", json!({}))
        .await
        .unwrap();
    assert_eq!(theirs["actions"], json!([]));
    let stolen = json!({ "ids": [actions[1]["id"]] });
    let theirs = call(&host, &t, &other.caller, "node.pending.ack", stolen)
        .await
        .unwrap();
    assert_eq!(theirs["ackedIds"], json!([]));
    // What may no longer be called is no longer given.
    let revoke = json!({ "deviceId": node.id, "role": "node" });
    call(&host, &t, &admin(), "device.token.revoke", revoke)
        .await
        .unwrap();
    let gone = call(&host, &t, &node.caller, "node.pending.pull", json!({}))
        .await
        .unwrap_err();
    assert_eq!(gone.detail, DetailCode::NotFound);
}

/// Signs of life and numbers are noted and shown; what nobody knows is said to be so; a node cannot forge what happens to calls.
/// Covers: A18.
#[tokio::test(start_paused = true)]
async fn events_of_a_node() {
    let dir = scratch();
    let host = start(dir.path(), &Arc::default(), 1).await;
    let t = host.main_tenant().unwrap();
    let operator = connect(&host, &t, Role::Operator, ScopeSet::ALL, &[]);
    let node = approved(&host, &t, 1, &["system.notify"]).await;
    let say = |params: Value| {
        let (host, t, caller) = (host.clone(), t.clone(), node.caller.clone());
        async move {
            call(&host, &t, &caller, "node.event", params)
                .await
                .unwrap()
        }
    };
    tokio::time::sleep(Duration::from_secs(11)).await;
    let alive = json!({ "event": "node.presence.alive", "payloadJSON": "{\"trigger\":\"manual\",\"sentAtMs\":1}" });
    let got = say(alive.clone()).await;
    assert_eq!(
        got,
        json!({ "ok": true, "event": "node.presence.alive", "handled": true, "reason": "persisted" })
    );
    assert_eq!(
        say(alive).await["reason"],
        "updated",
        "not each one is written"
    );
    let stats = json!({ "event": "node.host.stats", "payload": { "cpuCount": 2, "memoryTotalBytes": 100, "memoryFreeBytes": 50 } });
    say(stats.clone()).await;
    say(stats).await;
    let told = operator.events.named("node.hostStats");
    assert_eq!(told.len(), 1, "at most one a second");
    assert_eq!(told[0]["hostStats"]["memoryFreeBytes"], 50);
    let seen = super::described(&host, &t, &node.id).await;
    assert_eq!(seen["lastSeenReason"], "manual");
    assert_eq!(seen["hostStats"], told[0]["hostStats"]);
    for (event, reason) in [
        ("bogus.event", "unsupported_event"),
        ("exec.finished", "unsupported_event"),
        ("chat.subscribe", "unsupported_event"),
    ] {
        let got = say(json!({ "event": event, "payload": {} })).await;
        assert_eq!(
            (&got["handled"], &got["reason"]),
            (&json!(false), &json!(reason))
        );
    }
    let bad = say(json!({ "event": "node.host.stats", "payload": { "cpuCount": "two" } })).await;
    assert_eq!(bad["reason"], "invalid_payload");
    let tools = json!({ "tools": [{ "name": "t" }] });
    let got = call(&host, &t, &node.caller, "node.pluginTools.update", tools)
        .await
        .unwrap();
    assert_eq!(got["tools"], json!([{ "name": "t" }]));
    let seen = super::described(&host, &t, &node.id).await;
    assert_eq!(seen["nodePluginTools"], json!([{ "name": "t" }]));
    let many: Vec<Value> = (0..65).map(|n| json!({ "name": n })).collect();
    let refused = call(
        &host,
        &t,
        &node.caller,
        "node.skills.update",
        json!({ "skills": many }),
    )
    .await
    .unwrap_err();
    assert_eq!(refused.detail, DetailCode::InvalidParams);
    // The events that are for nodes alone come to nobody else, and a node gets none that operators get.
    assert!(!node.events.bytes().contains("node.hostStats"));
    assert!(!node.events.bytes().contains("presence"));
}
