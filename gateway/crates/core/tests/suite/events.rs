//! Who is sent what.

use std::sync::Arc;
use std::time::Duration;

use gateway_core::{EventPolicy, Role};
use gateway_protocol::{Scope, ScopeSet};
use serde_json::json;

use super::support::*;

async fn chat(
    host: &gateway_core::Host,
    t: &Arc<gateway_core::Tenant>,
    key: &str,
    text: &str,
    id: &str,
) {
    call(
        host,
        t,
        &admin(),
        "chat.send",
        json!({"sessionKey": key, "message": text, "idempotencyKey": id}),
    )
    .await
    .unwrap();
    settle(t).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
}

/// A canary said in one tenant reaches nobody of the other, and inside its tenant only operators with read.
/// Covers: Z7.
#[tokio::test(start_paused = true)]
async fn events_stay_with_their_audience() {
    let dir = tempfile::tempdir().unwrap();
    let host = start(dir.path(), &Arc::default(), 1).await;
    let a = host.main_tenant().unwrap().clone();
    let b = host.tenant("acme").unwrap().clone();
    let canary = "canary-51c2";
    let mut conns = Vec::new();
    for (tenant, own) in [(&a, true), (&b, false)] {
        for role in [Role::Operator, Role::Node] {
            for scopes in [ScopeSet::NONE, ScopeSet::ALL]
                .into_iter()
                .chain(Scope::ALL.into_iter().map(ScopeSet::of))
            {
                let conn = connect(&host, tenant, role, scopes, &["tool-events"]);
                if role == Role::Operator && scopes.allows(Scope::Read) {
                    call(&host, tenant, &conn.caller, "sessions.subscribe", json!({}))
                        .await
                        .unwrap();
                }
                conns.push((own, role, scopes, conn));
            }
        }
    }
    chat(&host, &a, "lab", canary, "r1").await;
    for (own, role, scopes, conn) in &conns {
        let may = *own && *role == Role::Operator && scopes.allows(Scope::Read);
        let bytes = conn.events.bytes();
        assert_eq!(
            bytes.contains(canary),
            may,
            "own={own} {role:?} {scopes:?}: {bytes}"
        );
        if !may {
            for (name, _) in conn.events.all() {
                assert!(
                    ["health", "tick", "shutdown", "presence"].contains(&name.as_str()),
                    "{name}"
                );
                assert!(
                    name != "presence" || (*role == Role::Operator && scopes.allows(Scope::Read))
                );
            }
        }
    }
}

/// `session-scoped-events`: run events only of followed sessions. Without it: of all.
#[tokio::test(start_paused = true)]
async fn session_scoped_connections_see_what_they_follow() {
    let dir = tempfile::tempdir().unwrap();
    let host = start(dir.path(), &Arc::default(), 1).await;
    let t = host.main_tenant().unwrap().clone();
    let scoped = connect(
        &host,
        &t,
        Role::Operator,
        ScopeSet::ALL,
        &["session-scoped-events"],
    );
    let open = connect(&host, &t, Role::Operator, ScopeSet::ALL, &[]);
    let follow = json!({"key": "mine"});
    let got = call(
        &host,
        &t,
        &scoped.caller,
        "sessions.messages.subscribe",
        follow.clone(),
    )
    .await
    .unwrap();
    assert_eq!(got, json!({"subscribed": true, "key": "agent:main:mine"}));
    chat(&host, &t, "mine", "a", "r1").await;
    chat(&host, &t, "other", "b", "r2").await;
    let keys = |c: &Conn| -> Vec<String> {
        let mut keys: Vec<String> = c
            .events
            .named("chat")
            .iter()
            .map(|p| p["sessionKey"].as_str().unwrap().to_owned())
            .collect();
        keys.dedup();
        keys
    };
    assert_eq!(keys(&scoped), ["agent:main:mine"]);
    assert_eq!(keys(&open), ["agent:main:mine", "agent:main:other"]);
    assert_eq!(scoped.events.named("session.message").len(), 2);
    assert!(
        open.events.named("session.message").is_empty(),
        "it follows nothing"
    );
    assert!(open.events.named("sessions.changed").is_empty());
    call(
        &host,
        &t,
        &scoped.caller,
        "sessions.messages.unsubscribe",
        follow,
    )
    .await
    .unwrap();
    chat(&host, &t, "mine", "c", "r3").await;
    assert_eq!(scoped.events.named("session.message").len(), 2);
}

/// A JSON-RPC connection is sent nothing before it asks.
#[tokio::test(start_paused = true)]
async fn json_rpc_connections_ask_first() {
    let dir = tempfile::tempdir().unwrap();
    let host = start(dir.path(), &Arc::default(), 1).await;
    let t = host.main_tenant().unwrap().clone();
    let quiet = connect_as(
        &host,
        &t,
        Role::Operator,
        ScopeSet::ALL,
        &[],
        EventPolicy::AfterSubscribe,
    );
    chat(&host, &t, "lab", "a", "r1").await;
    assert!(quiet.events.all().is_empty(), "{:?}", quiet.events.all());
    let got = call(
        &host,
        &t,
        &quiet.caller,
        "rpc.subscribe",
        json!({"events": ["chat"]}),
    )
    .await
    .unwrap();
    assert_eq!(got, json!({"events": ["chat"]}));
    chat(&host, &t, "lab", "b", "r2").await;
    let names: std::collections::BTreeSet<String> =
        quiet.events.all().into_iter().map(|(n, _)| n).collect();
    assert_eq!(names.into_iter().collect::<Vec<_>>(), ["chat"]);
    let got = call(&host, &t, &quiet.caller, "rpc.unsubscribe", json!({}))
        .await
        .unwrap();
    assert_eq!(got, json!({"events": []}));
    let before = quiet.events.all().len();
    chat(&host, &t, "lab", "c", "r3").await;
    assert_eq!(quiet.events.all().len(), before);
    host.shutdown(Duration::from_secs(1)).await;
    assert_eq!(
        quiet.events.named("shutdown").len(),
        1,
        "the end is told to everybody"
    );
}

/// Presence and its counts are current for who asks right after a change, and stamped.
#[tokio::test(start_paused = true)]
async fn presence_is_current() {
    let dir = tempfile::tempdir().unwrap();
    let host = start(dir.path(), &Arc::default(), 1).await;
    let t = host.main_tenant().unwrap().clone();
    let count = async |n: usize| {
        let list = call(&host, &t, &admin(), "system-presence", json!({}))
            .await
            .unwrap();
        assert_eq!(list.as_array().unwrap().len(), n);
        list
    };
    count(1).await;
    let version = t.presence().version();
    let one = connect(&host, &t, Role::Operator, ScopeSet::of(Scope::Read), &[]);
    let list = count(2).await;
    assert_eq!(list[1]["clientId"], "test");
    assert_eq!(list[1]["scopes"], json!(["operator.read"]));
    assert!(t.presence().version() > version);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!one.events.named("presence").is_empty());
    drop(one);
    count(1).await;
}
