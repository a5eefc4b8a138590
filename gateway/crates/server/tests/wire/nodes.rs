//! Nodes over sockets: the frames of the recorded node host, and what a socket that ends or is ended does to its calls.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::devices::{Device, as_node};
use crate::support::*;

/// The connect of the recorded node host.
fn node_host(commands: &[&str]) -> Value {
    as_node(json!({
        "client": {
            "id": "node-host", "displayName": "labhost", "version": "2026.9.6", "platform": "linux", "deviceFamily": "Linux",
            "mode": "node", "instanceId": "ee3b30ea-a264-4311-897a-d8309b47fb0d",
        },
        "caps": ["browser", "file", "local-inference", "mcp", "system"],
        "commands": commands,
        "permissions": { "screen.record": false },
        "pathEnv": "/usr/bin:/bin",
    }))
}

/// The next frame that is this event, whole.
fn event_frame(ws: &mut Ws, name: &str) -> Value {
    loop {
        let got = ws.json();
        if got["event"] == name {
            return got;
        }
    }
}

/// What `node.describe` says once `when` is true of it.
fn described(operator: &mut Ws, id: &str, when: impl Fn(&Value) -> bool) -> Value {
    for n in 0.. {
        let call = format!("d{n}");
        operator.call(&call, "node.describe", json!({ "nodeId": id }));
        let got = operator.answer(&call)["payload"].clone();
        if when(&got) {
            return got;
        }
        assert!(n < 500, "{got}");
        std::thread::sleep(Duration::from_millis(10));
    }
    unreachable!()
}

/// A node that connected and whose commands were approved.
fn ready(gw: &Gateway, operator: &mut Ws, device: &Device, commands: &[&str]) -> Ws {
    let (ws, hello) = device.let_in(gw, node_host(commands));
    assert_eq!(hello["payload"]["auth"]["role"], "node");
    let seen = described(operator, &device.id, |n| n["pendingRequestId"].is_string());
    operator.call(
        "ok",
        "node.pair.approve",
        json!({ "requestId": seen["pendingRequestId"] }),
    );
    let approved = operator.answer("ok");
    assert_eq!(approved["ok"], true, "{approved}");
    ws
}

/// Connect, approval on the live socket, a call with its answer, and an end in the middle of the next: frame by frame as recorded;
/// what is for the node alone has no number.
/// Covers: A9, F19, X10.
#[test]
fn a_node_is_asked_and_answers() {
    let gw = plain();
    let mut operator = gw.connected();
    let device = Device::new(41);
    let (mut node, _) = device.let_in(&gw, node_host(&["system.which", "device.info", "dir.list"]));
    let asked = event_frame(&mut operator, "node.pair.requested")["payload"].clone();
    assert_eq!(
        asked,
        json!({
            "requestId": asked["requestId"], "nodeId": device.id, "clientId": "node-host", "clientMode": "node",
            "displayName": "labhost", "platform": "linux", "version": "2026.9.6", "deviceFamily": "Linux",
            "caps": ["browser", "file", "local-inference", "mcp", "system"], "commands": ["system.which"],
            "requiredApproveScopes": ["operator.pairing", "operator.admin"],
            "permissions": { "screen.record": false }, "silent": false, "ts": asked["ts"],
        })
    );
    let which = json!({ "nodeId": device.id, "command": "system.which", "params": { "bins": ["uname"] }, "timeoutMs": 8000, "idempotencyKey": "w1" });
    operator.call("early", "node.invoke", which.clone());
    let refused = operator.answer("early");
    assert_eq!(
        refused["error"]["details"]["reason"],
        "command not approved"
    );
    operator.call(
        "ok",
        "node.pair.approve",
        json!({ "requestId": asked["requestId"] }),
    );
    let approved = operator.answer("ok");
    assert_eq!(
        approved["payload"]["node"]["commands"],
        json!(["system.which"])
    );
    let told = event_frame(&mut node, "node.pair.resolved");
    assert_eq!(told["payload"]["decision"], "approved");
    assert!(told.get("seq").is_none(), "{told}");
    let seen = described(&mut operator, &device.id, |_| true);
    assert_eq!(
        (&seen["approvalState"], &seen["commands"], &seen["pathEnv"]),
        (
            &json!("approved"),
            &json!(["system.which"]),
            &json!("/usr/bin:/bin")
        )
    );

    operator.call("w", "node.invoke", which);
    let request = event_frame(&mut node, "node.invoke.request");
    assert!(request.get("seq").is_none(), "{request}");
    let request = request["payload"].clone();
    assert_eq!(request["paramsJSON"], "{\"bins\":[\"uname\"]}");
    node.call(
        "r",
        "node.invoke.result",
        json!({ "id": request["id"], "nodeId": device.id, "ok": true, "payloadJSON": "{\"bins\":{\"uname\":\"/usr/bin/uname\"}}" }),
    );
    assert_eq!(node.answer("r")["payload"], json!({ "ok": true }));
    let got = operator.answer("w");
    assert_eq!(
        got["payload"]["payload"],
        json!({ "bins": { "uname": "/usr/bin/uname" } })
    );

    // The socket ends in the middle of a call.
    operator.call(
        "cut",
        "node.invoke",
        json!({ "nodeId": device.id, "command": "system.which", "timeoutMs": 60_000, "idempotencyKey": "w2" }),
    );
    event_frame(&mut node, "node.invoke.request");
    let since = Instant::now();
    drop(node);
    let cut = operator.answer("cut");
    assert_eq!(
        cut["error"]["details"]["nodeError"]["code"], "NODE_DISCONNECTED",
        "{cut}"
    );
    assert!(since.elapsed() < Duration::from_secs(30));
    let seen = described(&mut operator, &device.id, |n| n["connected"] == false);
    assert_eq!(seen["lastSeenReason"], "disconnect");
}

/// A caller that goes away takes its call along: the node hears that nobody waits.
/// Covers: F19.
#[test]
fn a_caller_that_goes_away_takes_its_call_along() {
    let gw = plain();
    let mut operator = gw.connected();
    let device = Device::new(42);
    let mut node = ready(&gw, &mut operator, &device, &["system.notify"]);
    let mut caller = gw.connected();
    caller.call(
        "c",
        "node.invoke",
        json!({ "nodeId": device.id, "command": "system.notify", "timeoutMs": 60_000, "idempotencyKey": "k" }),
    );
    let request = event_frame(&mut node, "node.invoke.request")["payload"].clone();
    drop(caller);
    let cancel = event_frame(&mut node, "node.invoke.cancel");
    assert_eq!(
        cancel["payload"],
        json!({ "invokeId": request["id"], "nodeId": device.id })
    );
    assert!(cancel.get("seq").is_none(), "{cancel}");
    node.call(
        "late",
        "node.invoke.result",
        json!({ "id": request["id"], "nodeId": device.id, "ok": true }),
    );
    assert_eq!(
        node.answer("late")["payload"],
        json!({ "ok": true, "ignored": true })
    );
}

/// A node that is removed, or whose token ends, is gone within a second, and its calls with it; nothing of it comes back by connecting.
/// Covers: A5, A9.
#[test]
fn a_node_that_is_removed_is_gone() {
    let gw = plain();
    let mut operator = gw.connected();
    let device = Device::new(43);
    let mut node = ready(&gw, &mut operator, &device, &["system.notify"]);
    operator.call(
        "c",
        "node.invoke",
        json!({ "nodeId": device.id, "command": "system.notify", "timeoutMs": 60_000, "idempotencyKey": "k" }),
    );
    event_frame(&mut node, "node.invoke.request");
    operator.call("rm", "node.pair.remove", json!({ "nodeId": device.id }));
    let mut answers = [Value::Null, Value::Null];
    while answers.iter().any(Value::is_null) {
        let got = operator.json();
        match got["id"].as_str() {
            Some("c") => answers[0] = got,
            Some("rm") => answers[1] = got,
            _ => {}
        }
    }
    assert_eq!(answers[1]["payload"], json!({ "nodeId": device.id }));
    assert_eq!(
        answers[0]["error"]["details"]["nodeError"]["code"], "NODE_DISCONNECTED",
        "{}",
        answers[0]
    );
    assert_eq!(node.closed().unwrap().0, 4001);
    let (_, refused) = device.attempt(&gw, node_host(&["system.notify"]));
    assert_eq!(refused["error"]["details"]["code"], "PAIRING_REQUIRED");
    operator.call("d", "node.describe", json!({ "nodeId": device.id }));
    assert_eq!(
        operator.answer("d")["error"]["details"]["code"],
        "NOT_FOUND"
    );
}

/// The same device is a node in two tenants: each tenant sees, approves and calls its own connection, and hears nothing of the other's.
/// Covers: MT5, Z7.
#[test]
fn a_node_belongs_to_its_tenant() {
    let gw = plain();
    let mut operator = gw.connected();
    let device = Device::new(44);
    let mut node = ready(&gw, &mut operator, &device, &["system.notify"]);
    let mut acme = gw.ws();
    acme.json();
    acme.text(&connect(json!({ "auth": { "token": ACME } })).to_string());
    assert_eq!(acme.json()["ok"], true);
    for (id, method, params) in [
        ("1", "node.describe", json!({ "nodeId": device.id })),
        (
            "2",
            "node.invoke",
            json!({ "nodeId": device.id, "command": "system.notify", "idempotencyKey": "k" }),
        ),
        ("3", "node.pair.remove", json!({ "nodeId": device.id })),
        (
            "4",
            "node.pending.enqueue",
            json!({ "nodeId": device.id, "type": "status.request" }),
        ),
        (
            "5",
            "node.rename",
            json!({ "nodeId": device.id, "displayName": "mine" }),
        ),
    ] {
        acme.call(id, method, params);
        let got = acme.answer(id);
        assert_eq!(got["error"]["details"]["code"], "NOT_FOUND", "{method}");
    }
    acme.call("l", "node.list", json!({}));
    assert_eq!(acme.answer("l")["payload"]["nodes"], json!([]));
    // It still answers its own tenant, and heard nothing meanwhile.
    operator.call(
        "c",
        "node.invoke",
        json!({ "nodeId": device.id, "command": "system.notify", "idempotencyKey": "own" }),
    );
    let request = event_frame(&mut node, "node.invoke.request")["payload"].clone();
    assert_eq!(request["idempotencyKey"], "own");
    node.call(
        "r",
        "node.invoke.result",
        json!({ "id": request["id"], "nodeId": device.id, "ok": true }),
    );
    assert_eq!(operator.answer("c")["ok"], true);
}

/// Nodes call what is for nodes and nothing else; operators do not call that.
/// Covers: A18.
#[test]
fn nodes_and_operators_call_their_own() {
    let gw = plain();
    let mut operator = gw.connected();
    let device = Device::new(45);
    let mut node = ready(&gw, &mut operator, &device, &["system.notify"]);
    for method in ["sessions.list", "node.list", "node.invoke", "chat.send"] {
        node.call("x", method, json!({}));
        let got = node.answer("x");
        assert_eq!(
            got["error"]["message"], "unauthorized role: node",
            "{method}"
        );
    }
    for method in ["node.event", "node.invoke.result", "node.pending.pull"] {
        operator.call("x", method, json!({}));
        let got = operator.answer("x");
        assert_eq!(
            got["error"]["message"], "unauthorized role: operator",
            "{method}"
        );
    }
    // What the recorded host sends after its hello.
    for (method, params) in [
        (
            "node.event",
            json!({ "event": "node.host.stats", "payloadJSON": "{\"cpuCount\":2,\"loadAverage\":[9.41,8.69,5.19],\"memoryTotalBytes\":25276502016,\"memoryFreeBytes\":19172274176,\"diskTotalBytes\":270553174016,\"diskAvailableBytes\":73362620416}" }),
        ),
        (
            "node.runnerInventory.update",
            json!({ "protocolFeatures": ["node-worker-supervisor-v6"], "workerHost": { "enabled": false } }),
        ),
        ("node.skills.update", json!({ "skills": [] })),
        ("node.pluginTools.update", json!({ "tools": [] })),
        ("node.pending.pull", json!({})),
        ("node.pending.drain", json!({})),
    ] {
        node.call("h", method, params);
        let got = node.answer("h");
        assert_eq!(got["ok"], true, "{method}: {got}");
    }
    let told = event_frame(&mut operator, "node.hostStats");
    assert_eq!(
        told["payload"]["hostStats"]["memoryFreeBytes"],
        19_172_274_176_u64
    );
}
