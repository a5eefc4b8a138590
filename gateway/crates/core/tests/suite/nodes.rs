//! Nodes: what has to be true before a command is called, and the one result of each call.

mod calls;
mod machine;

use std::sync::Arc;

use gateway_core::node::{self, Declared, NodeGuard, surface::Offer};
use gateway_core::pair::book::Claim;
use gateway_core::pair::{Paired, Pairing};
use gateway_core::{Caller, Caps, ClientInfo, ConnInfo, EventPolicy, Host, HubGuard, Role, Tenant};
use gateway_protocol::methods::connect::ConnectRefusal;
use gateway_protocol::{DetailCode, RpcError, Scope, ScopeSet};
use serde_json::{Value, json};

use super::support::*;

/// A node that is connected.
pub struct Node {
    pub id: String,
    pub caller: Arc<Caller>,
    pub events: Arc<Recorder>,
    _node: Option<NodeGuard>,
    _hub: HubGuard,
}

fn claim(n: u8, platform: &str) -> Claim {
    Claim {
        device_id: format!("{n:064x}"),
        public_key: format!("key-{n}"),
        display_name: Some(format!("node-{n}")),
        platform: platform.into(),
        device_family: None,
        client_id: "node-host".into(),
        client_mode: "node".into(),
        role: Role::Node,
        scopes: ScopeSet::NONE,
        address: "192.0.2.7".into(),
    }
}

async fn admit(host: &Host, t: &Arc<Tenant>, claim: Claim) -> Result<Paired, ConnectRefusal> {
    match host.pair(t, claim, false, true) {
        Pairing::Now(decided) => *decided,
        Pairing::Later(work) => work.await,
    }
}

/// Device `n`, paired as a node by an operator if it is not yet.
pub async fn paired(host: &Host, t: &Arc<Tenant>, n: u8, platform: &str) -> Paired {
    match admit(host, t, claim(n, platform)).await {
        Ok(paired) => paired,
        Err(refused) => {
            let refused = serde_json::to_value(refused.error).unwrap();
            let params = json!({ "requestId": refused["details"]["requestId"] });
            call(host, t, &admin(), "device.pair.approve", params)
                .await
                .unwrap();
            admit(host, t, claim(n, platform)).await.unwrap()
        }
    }
}

/// A connection of a paired node that offers these commands.
pub fn attach(host: &Host, t: &Arc<Tenant>, paired: &Paired, commands: &[&str]) -> Node {
    let conn = host.new_conn_id();
    let client = ClientInfo {
        id: "node-host".into(),
        mode: "node".into(),
        version: "1.0.0".into(),
        ..ClientInfo::default()
    };
    let info = ConnInfo {
        conn: conn.clone(),
        role: Role::Node,
        proof: gateway_core::auth::Proof::Open,
        device: Some(paired.pass.clone()),
        scopes: ScopeSet::NONE,
        caps: Caps::default(),
        client: client.clone(),
        ip: None,
        events: EventPolicy::Always,
        connected_at_ms: t.now_ms(),
    };
    let events = Arc::new(Recorder::default());
    let hub = t.hub().register(info.clone(), events.clone()).unwrap();
    let declared = Declared {
        offer: Offer::declared(["system"], commands.iter().copied(), []),
        path_env: Some("/usr/bin".into()),
    };
    let guard = node::attach(t, &info, events.clone(), declared);
    assert!(guard.is_some());
    let mut caller = Caller::internal("node-host", ScopeSet::NONE, None);
    caller.conn = Some(conn);
    caller.role = Role::Node;
    caller.device = Some(paired.pass.clone());
    caller.client = client;
    Node {
        id: paired.pass.id.to_string(),
        caller: Arc::new(caller),
        events,
        _node: guard,
        _hub: hub,
    }
}

/// Waits for what a connect makes on the side.
pub async fn quiet() {
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
}

/// A node whose commands an operator approved.
pub async fn approved(host: &Host, t: &Arc<Tenant>, n: u8, commands: &[&str]) -> Node {
    let paired = paired(host, t, n, "linux").await;
    let node = attach(host, t, &paired, commands);
    quiet().await;
    let request = described(host, t, &node.id).await["pendingRequestId"].clone();
    let params = json!({ "requestId": request });
    call(host, t, &admin(), "node.pair.approve", params)
        .await
        .unwrap();
    node
}

pub async fn described(host: &Host, t: &Arc<Tenant>, id: &str) -> Value {
    call(host, t, &admin(), "node.describe", json!({ "nodeId": id }))
        .await
        .unwrap()
}

fn with(scopes: &[Scope]) -> Arc<Caller> {
    let mut caller = Caller::internal("test", scopes.iter().copied().collect(), None);
    caller.surface = gateway_core::Surface::V4;
    Arc::new(caller)
}

async fn invoke(
    host: &Host,
    t: &Arc<Tenant>,
    caller: &Arc<Caller>,
    id: &str,
    command: &str,
) -> RpcError {
    let params =
        json!({ "nodeId": id, "command": command, "idempotencyKey": command, "timeoutMs": 10 });
    call(host, t, caller, "node.invoke", params)
        .await
        .unwrap_err()
}

fn reason(error: &RpcError) -> String {
    let shown = serde_json::to_value(error).unwrap();
    shown["details"]["reason"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

/// A paired device has no commands; an operator approves what it offers, with the scopes that it takes; what it offers beyond that
/// is not called and asks again; and nothing of it comes back after its end, or on another kind of machine.
/// Covers: A5, A8, A9.
#[tokio::test(start_paused = true)]
async fn commands_are_approved_as_a_second_step() {
    let dir = scratch();
    let host = start(dir.path(), &Arc::default(), 1).await;
    let t = host.main_tenant().unwrap();
    let operator = connect(&host, &t, Role::Operator, ScopeSet::ALL, &[]);
    let pass = paired(&host, &t, 1, "linux").await;
    let node = attach(
        &host,
        &t,
        &pass,
        &[
            "system.notify",
            "system.which",
            "canvas.present",
            "file.write",
            "bad name",
        ],
    );
    quiet().await;
    let seen = described(&host, &t, &node.id).await;
    assert_eq!(seen["approvalState"], "pending-approval", "{seen}");
    assert_eq!(
        (&seen["commands"], &seen["caps"], &seen["connected"]),
        (&json!([]), &json!([]), &json!(true))
    );
    assert_eq!(
        seen["pendingDeclaredCommands"],
        json!(["system.notify", "system.which"]),
        "without what the platform does not have"
    );
    let asked = operator.events.named("node.pair.requested");
    assert_eq!(asked.len(), 1);
    assert_eq!(
        asked[0]["requiredApproveScopes"],
        json!(["operator.pairing", "operator.admin"])
    );
    assert_eq!(asked[0]["requestId"], seen["pendingRequestId"]);
    assert!(node.events.named("node.pair.requested").is_empty());
    let refused = invoke(&host, &t, &admin(), &node.id, "system.notify").await;
    assert_eq!(reason(&refused), "command not approved");
    assert!(refused.message.contains("gateway nodes approve"));
    assert!(node.events.named("node.invoke.request").is_empty());

    // Who approves has what it takes.
    let approve = json!({ "requestId": seen["pendingRequestId"] });
    let few = with(&[Scope::Pairing, Scope::Write]);
    let refused = call(&host, &t, &few, "node.pair.approve", approve.clone())
        .await
        .unwrap_err();
    assert_eq!(refused.detail, DetailCode::MissingScope);
    let done = call(&host, &t, &admin(), "node.pair.approve", approve.clone())
        .await
        .unwrap();
    assert_eq!(
        done["node"]["commands"],
        json!(["system.notify", "system.which"])
    );
    for events in [&node.events, &operator.events] {
        let told = events.named("node.pair.resolved");
        assert_eq!(told.len(), 1, "the node hears of it too");
        assert_eq!(told[0]["decision"], "approved");
    }
    let twice = call(&host, &t, &admin(), "node.pair.approve", approve)
        .await
        .unwrap_err();
    assert_eq!(twice.detail, DetailCode::NotFound);
    let seen = described(&host, &t, &node.id).await;
    assert_eq!(
        (&seen["approvalState"], &seen["commands"]),
        (
            &json!("approved"),
            &json!(["system.notify", "system.which"])
        )
    );

    // Less is fine; more is asked for, and what was approved goes on.
    drop(node);
    let node = attach(&host, &t, &pass, &["system.notify"]);
    quiet().await;
    let seen = described(&host, &t, &node.id).await;
    assert_eq!(
        (&seen["approvalState"], &seen["commands"]),
        (&json!("approved"), &json!(["system.notify"]))
    );
    let refused = invoke(&host, &t, &admin(), &node.id, "system.which").await;
    assert_eq!(reason(&refused), "command not declared");
    drop(node);
    let node = attach(&host, &t, &pass, &["system.notify", "fs.listDir"]);
    quiet().await;
    let seen = described(&host, &t, &node.id).await;
    assert_eq!(
        (&seen["approvalState"], &seen["commands"]),
        (&json!("pending-reapproval"), &json!(["system.notify"]))
    );
    let refused = invoke(&host, &t, &admin(), &node.id, "fs.listDir").await;
    assert_eq!(reason(&refused), "command not approved");
    let wider = json!({ "requestId": seen["pendingRequestId"] });
    call(&host, &t, &admin(), "node.pair.reject", wider)
        .await
        .unwrap();
    let seen = described(&host, &t, &node.id).await;
    assert_eq!(
        (&seen["approvalState"], &seen["commands"]),
        (&json!("approved"), &json!(["system.notify"])),
        "turned down, and what was approved stays"
    );
    drop(node);

    // Its token ends, and it is paired again: nothing of what was approved comes back.
    let revoke = json!({ "deviceId": seen["nodeId"], "role": "node" });
    call(&host, &t, &admin(), "device.token.revoke", revoke)
        .await
        .unwrap();
    let gone = call(
        &host,
        &t,
        &admin(),
        "node.describe",
        json!({ "nodeId": seen["nodeId"] }),
    )
    .await
    .unwrap_err();
    assert_eq!(gone.detail, DetailCode::NotFound);
    let pass = paired(&host, &t, 1, "linux").await;
    let node = attach(&host, &t, &pass, &["system.notify"]);
    quiet().await;
    let seen = described(&host, &t, &node.id).await;
    assert_eq!(
        (&seen["approvalState"], &seen["commands"]),
        (&json!("pending-approval"), &json!([]))
    );
    let again = json!({ "requestId": seen["pendingRequestId"] });
    call(&host, &t, &admin(), "node.pair.approve", again)
        .await
        .unwrap();
    drop(node);

    // Another kind of machine with the same key is a new question for its commands too.
    let pass = paired(&host, &t, 1, "macos").await;
    let node = attach(&host, &t, &pass, &["system.notify"]);
    quiet().await;
    let seen = described(&host, &t, &node.id).await;
    assert_eq!(
        (&seen["approvalState"], &seen["commands"]),
        (&json!("pending-approval"), &json!([]))
    );

    // Forgotten: the device too, which was nothing but a node.
    let params = json!({ "nodeId": node.id });
    call(&host, &t, &admin(), "node.pair.remove", params)
        .await
        .unwrap();
    let told = operator.events.named("node.pair.resolved");
    assert_eq!(told.last().unwrap()["decision"], "removed");
    let listed = call(&host, &t, &admin(), "device.pair.list", json!({}))
        .await
        .unwrap();
    assert_eq!(listed["paired"], json!([]));
    let listed = call(&host, &t, &admin(), "node.pair.list", json!({}))
        .await
        .unwrap();
    assert_eq!(listed, json!({ "pending": [], "paired": [] }));
}

/// What was approved, what waits and when a node was seen is there after a restart; what was turned down is not.
#[tokio::test(start_paused = true)]
async fn approvals_survive_a_restart() {
    let dir = scratch();
    let before = {
        let host = start(dir.path(), &Arc::default(), 1).await;
        let t = host.main_tenant().unwrap();
        let node = approved(&host, &t, 1, &["system.notify"]).await;
        let stats = json!({ "event": "node.host.stats", "payloadJSON": "{\"cpuCount\":2,\"memoryTotalBytes\":100,\"memoryFreeBytes\":50,\"loadAverage\":[1.5,1,0]}" });
        let got = call(&host, &t, &node.caller, "node.event", stats)
            .await
            .unwrap();
        assert_eq!(
            (&got["handled"], &got["reason"]),
            (&json!(true), &json!("updated"))
        );
        let pass = paired(&host, &t, 2, "linux").await;
        let other = attach(&host, &t, &pass, &["system.notify"]);
        quiet().await;
        drop((node, other));
        quiet().await;
        let listed = call(&host, &t, &admin(), "node.list", json!({}))
            .await
            .unwrap();
        host.shutdown(std::time::Duration::from_secs(1)).await;
        listed["nodes"].clone()
    };
    assert_eq!(before.as_array().unwrap().len(), 2);
    assert_eq!(before.to_string().matches("\"approved\"").count(), 1);
    assert!(before.to_string().contains("\"memoryFreeBytes\":50"));
    assert!(before.to_string().contains("\"disconnect\""));
    let host = start(dir.path(), &Arc::default(), 2).await;
    let t = host.main_tenant().unwrap();
    let listed = call(&host, &t, &admin(), "node.list", json!({}))
        .await
        .unwrap();
    assert_eq!(listed["nodes"], before);
}

/// Each thing that has to be true for a call is missing once, and the node hears nothing.
/// Covers: X10, A18.
#[tokio::test(start_paused = true)]
async fn a_call_needs_all_of_it() {
    let dir = scratch();
    let host = start(dir.path(), &Arc::default(), 1).await;
    let t = host.main_tenant().unwrap();
    let node = approved(
        &host,
        &t,
        1,
        &[
            "system.notify",
            "system.run",
            "browser.proxy",
            "camera.snap",
        ],
    )
    .await;
    let id = node.id.clone();
    let foreign = host.tenant("acme").unwrap();
    // The tenant.
    let refused = invoke(&host, &foreign, &admin(), &id, "system.notify").await;
    assert_eq!(refused.detail, DetailCode::NotFound);
    let nobody = invoke(&host, &foreign, &admin(), &"f".repeat(64), "system.notify").await;
    assert_eq!(refused, nobody, "another tenant's node is nobody's");
    // The scope.
    let reader = with(&[Scope::Read]);
    let refused = invoke(&host, &t, &reader, &id, "system.notify").await;
    assert_eq!(refused.detail, DetailCode::MissingScope);
    let writer = with(&[Scope::Write]);
    for deep in [
        "browser.proxy",
        "system.run",
        "fs.listDir",
        "system.execApprovals.set",
    ] {
        let refused = invoke(&host, &t, &writer, &id, deep).await;
        assert_eq!(refused.detail, DetailCode::MissingScope, "{deep}");
    }
    // The settings.
    let refused = invoke(&host, &t, &admin(), &id, "camera.snap").await;
    assert_eq!(
        serde_json::to_value(&refused).unwrap(),
        json!({
            "code": "INVALID_REQUEST",
            "message": "node command not allowed: \"camera.snap\" requires explicit gateway.nodes.commands.allow opt-in",
            "details": { "reason": "command not allowlisted", "command": "camera.snap" },
        })
    );
    // An exec approval.
    let refused = invoke(&host, &t, &admin(), &id, "system.run").await;
    assert_eq!(reason(&refused), "exec approval required");
    // The approval.
    let refused = invoke(&host, &t, &admin(), &id, "system.which").await;
    assert_eq!(reason(&refused), "command not approved");
    assert!(node.events.named("node.invoke.request").is_empty());
    // The connection.
    drop(node);
    let refused = invoke(&host, &t, &admin(), &id, "system.notify").await;
    assert_eq!(
        serde_json::to_value(&refused).unwrap(),
        json!({
            "code": "UNAVAILABLE", "message": "node not connected",
            "details": {
                "code": "NOT_CONNECTED",
                "nodeError": { "code": "NOT_CONNECTED", "message": "node not connected" },
                "nodeCommandDispatched": false,
            },
        })
    );
    // A key for one agent has nothing to do with machines, and no key approves anything.
    let made = call(
        &host,
        &t,
        &admin(),
        "apikeys.create",
        json!({ "name": "k", "scopes": ["operator.read", "operator.write"], "agentId": "main" }),
    )
    .await
    .unwrap();
    let attempt = gateway_core::auth::AuthAttempt {
        peer: "192.0.2.7".parse().unwrap(),
        loopback: false,
        origin: None,
        tenant_hint: &gateway_core::TenantHint::Unnamed,
        token: made["secret"].as_str(),
        password: None,
        device_token: None,
        bootstrap_token: None,
        device: None,
        vouched: None,
        surface: gateway_core::Surface::JsonRpcHttp,
    };
    let mut caller = Caller::internal("key", ScopeSet::ALL, None);
    caller.key = host.authenticate(&attempt).unwrap().key;
    let caller = Arc::new(caller);
    let refused = invoke(&host, &t, &caller, &id, "system.notify").await;
    assert_eq!(refused.detail, DetailCode::CapabilityDenied);
    let refused = call(
        &host,
        &t,
        &caller,
        "node.pair.approve",
        json!({ "requestId": "r" }),
    )
    .await
    .unwrap_err();
    assert_eq!(refused.detail, DetailCode::CapabilityDenied);
}
