//! Runs from acceptance to their last event: order, idempotency, queueing, abort, reset, delete, commits.

use std::sync::Arc;
use std::time::Duration;

use gateway_core::Role;
use gateway_protocol::{DetailCode, ScopeSet};
use serde_json::{Value, json};

use super::support::*;

async fn send(
    host: &gateway_core::Host,
    t: &Arc<gateway_core::Tenant>,
    key: &str,
    text: &str,
    id: &str,
) -> Result<Value, gateway_protocol::RpcError> {
    call(
        host,
        t,
        &admin(),
        "chat.send",
        json!({"sessionKey": key, "message": text, "idempotencyKey": id}),
    )
    .await
}

/// The events of a turn in the order that clients rely on; several clients see the same.
#[tokio::test(start_paused = true)]
async fn a_turn_tells_its_events_in_order_to_every_subscriber() {
    let dir = tempfile::tempdir().unwrap();
    let host = start(dir.path(), &Arc::default(), 1).await;
    let t = host.main_tenant().unwrap().clone();
    let a = connect(&host, &t, Role::Operator, ScopeSet::ALL, &[]);
    let b = connect(&host, &t, Role::Operator, ScopeSet::ALL, &[]);
    for c in [&a, &b] {
        call(&host, &t, &c.caller, "sessions.subscribe", json!({}))
            .await
            .unwrap();
    }
    let answer = send(&host, &t, "lab", "hello there friend", "run-1")
        .await
        .unwrap();
    assert_eq!(answer, json!({"runId": "run-1", "status": "started"}));
    settle(&t).await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    let story: Vec<String> = a
        .events
        .all()
        .iter()
        .filter(|(n, _)| {
            ["chat", "agent", "session.message", "sessions.changed"].contains(&n.as_str())
        })
        .map(|(n, p)| match n.as_str() {
            "chat" => format!(
                "chat {} {}",
                p["state"].as_str().unwrap(),
                p["phase"].as_str().unwrap_or("")
            ),
            "agent" => format!(
                "agent {} {}",
                p["stream"].as_str().unwrap(),
                p["data"]["phase"].as_str().unwrap_or("")
            ),
            "session.message" => format!("message {} ", p["message"]["role"].as_str().unwrap()),
            _ => format!("changed {} ", p["reason"].as_str().unwrap_or("")),
        })
        .map(|s| s.trim().to_owned())
        .collect();
    assert_eq!(
        story,
        [
            "changed create",
            "chat status preparing_workspace",
            "agent run_status preparing_workspace",
            "chat status preparing_context",
            "agent run_status preparing_context",
            "message user",
            "agent lifecycle start",
            "chat status starting_model",
            "agent run_status starting_model",
            "changed agent.run.started",
            "agent lifecycle model",
            "agent assistant",
            "chat delta",
            "agent assistant",
            "chat delta",
            "agent assistant",
            "chat delta",
            "agent usage",
            "message assistant",
            "agent lifecycle finishing",
            "agent lifecycle end",
            "chat final",
            "changed agent.input.settled",
        ]
    );
    let story_of = |c: &Conn| -> Vec<Value> {
        c.events
            .all()
            .into_iter()
            .filter(|(n, _)| n == "chat" || n == "agent")
            .map(|(_, p)| p)
            .collect()
    };
    assert_eq!(story_of(&a), story_of(&b), "both see the same");
    let user = &a.events.named("session.message")[0];
    assert_eq!(user["message"]["idempotencyKey"], "run-1:user");
    assert_eq!(user["message"]["__openclaw"]["seq"], 1);
    let fin = a.events.named("chat").pop().unwrap();
    assert_eq!(fin["message"]["content"][0]["text"], "hello there friend");
    assert_eq!(fin["stopReason"], "stop");
    let settled = a.events.named("sessions.changed").pop().unwrap();
    assert_eq!(settled["session"]["hasActiveRun"], false);
    assert_eq!(settled["session"]["status"], "done");
    // Numbers grow within the run.
    let seqs: Vec<u64> = story_of(&a)
        .iter()
        .map(|p| p["seq"].as_u64().unwrap())
        .collect();
    assert!(seqs.windows(2).all(|w| w[0] <= w[1]), "{seqs:?}");
}

/// Same key and payload: one run, known state. Same key, other payload: conflict, also after a restart.
/// Covers: F22.
#[tokio::test(start_paused = true)]
async fn an_idempotency_key_starts_one_run() {
    let dir = tempfile::tempdir().unwrap();
    let script: Arc<Script> = Arc::default();
    {
        let host = start(dir.path(), &script, 1).await;
        let t = host.main_tenant().unwrap().clone();
        let (a, b) = tokio::join!(
            send(&host, &t, "lab", "slow one two", "k1"),
            send(&host, &t, "lab", "slow one two", "k1")
        );
        let mut both =
            [a.unwrap()["status"].clone(), b.unwrap()["status"].clone()].map(|v| v.to_string());
        both.sort();
        assert_eq!(both, [r#""in_flight""#, r#""started""#]);
        let conflict = send(&host, &t, "lab", "something else", "k1")
            .await
            .unwrap_err();
        assert_eq!(conflict.detail, DetailCode::IdempotencyConflict);
        settle(&t).await;
        assert_eq!(
            send(&host, &t, "lab", "slow one two", "k1").await.unwrap()["status"],
            "ok"
        );
        assert_eq!(transcript(&host, &t, "lab").await.len(), 2);
        host.shutdown(Duration::from_secs(1)).await;
    }
    let host = start(dir.path(), &script, 2).await;
    let t = host.main_tenant().unwrap().clone();
    assert_eq!(
        send(&host, &t, "lab", "slow one two", "k1").await.unwrap()["status"],
        "ok"
    );
    let conflict = send(&host, &t, "lab", "something else", "k1")
        .await
        .unwrap_err();
    assert_eq!(conflict.detail, DetailCode::IdempotencyConflict);
    assert_eq!(script.begun.lock()["k1"], 1);
}

/// Followup: the second message waits, and its conversation holds the first answer before it.
#[tokio::test(start_paused = true)]
async fn messages_behind_a_run_wait_for_their_turn() {
    let dir = tempfile::tempdir().unwrap();
    let script: Arc<Script> = Arc::default();
    let host = start(dir.path(), &script, 1).await;
    let t = host.main_tenant().unwrap().clone();
    for i in 0..4 {
        send(&host, &t, "lab", &format!("slow m{i}"), &format!("r{i}"))
            .await
            .unwrap();
    }
    settle(&t).await;
    assert_eq!(script.overlaps.load(std::sync::atomic::Ordering::SeqCst), 0);
    let seen = script.seen.lock();
    assert_eq!(seen["r0"], [("user".into(), "slow m0".into())]);
    let texts: Vec<&str> = seen["r3"].iter().map(|(_, t)| t.as_str()).collect();
    assert_eq!(
        texts,
        [
            "slow m0", "slow m1", "slow m2", "slow m0", "slow m1", "slow m2", "slow m3"
        ]
    );
    assert_eq!(
        seen["r3"].last().unwrap().1,
        "slow m3",
        "its own message is the one to answer"
    );
}

#[tokio::test(start_paused = true)]
async fn interrupt_stops_the_run_and_keeps_its_text() {
    let dir = tempfile::tempdir().unwrap();
    let host = start(dir.path(), &Arc::default(), 1).await;
    let t = host.main_tenant().unwrap().clone();
    let a = connect(&host, &t, Role::Operator, ScopeSet::ALL, &[]);
    send(&host, &t, "lab", "hangafter this never ends", "r0")
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    call(
        &host,
        &t,
        &admin(),
        "chat.send",
        json!({"sessionKey": "lab", "message": "quick", "idempotencyKey": "r1", "queueMode": "interrupt"}),
    )
    .await
    .unwrap();
    settle(&t).await;
    let states: Vec<(String, String)> = a
        .events
        .named("chat")
        .iter()
        .filter(|p| ["final", "aborted", "error"].contains(&p["state"].as_str().unwrap()))
        .map(|p| {
            (
                p["runId"].as_str().unwrap().to_owned(),
                p["state"].as_str().unwrap().to_owned(),
            )
        })
        .collect();
    assert_eq!(
        states,
        [
            ("r0".into(), "aborted".into()),
            ("r1".into(), "final".into())
        ]
    );
}

/// Abort: the partial text stays, the events say so, a second abort finds nothing.
#[tokio::test(start_paused = true)]
async fn an_aborted_run_keeps_its_partial_text() {
    let dir = tempfile::tempdir().unwrap();
    let host = start(dir.path(), &Arc::default(), 1).await;
    let t = host.main_tenant().unwrap().clone();
    let a = connect(&host, &t, Role::Operator, ScopeSet::ALL, &[]);
    call(&host, &t, &a.caller, "sessions.subscribe", json!({}))
        .await
        .unwrap();
    send(&host, &t, "lab", "hangafter more text", "r0")
        .await
        .unwrap();
    send(&host, &t, "lab", "waits behind", "r1").await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    let history = call(
        &host,
        &t,
        &admin(),
        "chat.history",
        json!({"sessionKey": "lab"}),
    )
    .await
    .unwrap();
    assert_eq!(history["inFlightRun"]["runId"], "r0");
    assert_eq!(history["inFlightRun"]["text"], "hangafter ");
    let got = call(
        &host,
        &t,
        &admin(),
        "chat.abort",
        json!({"sessionKey": "lab"}),
    )
    .await
    .unwrap();
    assert_eq!(
        got,
        json!({"ok": true, "aborted": true, "runIds": ["r0", "r1"]})
    );
    settle(&t).await;
    let chat = a.events.named("chat");
    let end = chat
        .iter()
        .find(|p| p["runId"] == "r0" && p["state"] == "aborted")
        .unwrap();
    assert_eq!(end["stopReason"], "rpc");
    assert_eq!(end["message"]["content"][0]["text"], "hangafter ");
    assert!(a.events.named("agent").iter().any(|p| p["runId"] == "r0"
        && p["data"]["phase"] == "error"
        && p["data"]["aborted"] == true));
    let lines = transcript(&host, &t, "lab").await;
    assert_eq!(
        lines.last().unwrap(),
        &("assistant".to_owned(), "hangafter ".to_owned())
    );
    let again = call(
        &host,
        &t,
        &admin(),
        "chat.abort",
        json!({"sessionKey": "lab"}),
    )
    .await
    .unwrap();
    assert_eq!(again["aborted"], false);
}

/// A failing upstream is told, its text so far stays, and a panic in a backend ends only its run.
#[tokio::test(start_paused = true)]
async fn failures_are_visible_and_contained() {
    let dir = tempfile::tempdir().unwrap();
    let host = start(dir.path(), &Arc::default(), 1).await;
    let t = host.main_tenant().unwrap().clone();
    let a = connect(&host, &t, Role::Operator, ScopeSet::ALL, &[]);
    send(&host, &t, "lab", "fail after some words", "r0")
        .await
        .unwrap();
    send(&host, &t, "lab", "panic now", "r1").await.unwrap();
    send(&host, &t, "lab", "fine", "r2").await.unwrap();
    settle(&t).await;
    let states: Vec<String> = a
        .events
        .named("chat")
        .iter()
        .filter(|p| ["final", "aborted", "error"].contains(&p["state"].as_str().unwrap()))
        .map(|p| p["state"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(states, ["error", "error", "final"]);
    let first = a
        .events
        .named("chat")
        .into_iter()
        .find(|p| p["state"] == "error")
        .unwrap();
    assert_eq!(first["errorMessage"], "the upstream broke off");
    assert_eq!(host.faults().count(), 1, "the panic is counted");
    let bytes = a.events.bytes();
    assert!(
        !bytes.contains("a scripted panic"),
        "its text stays in the log"
    );
    let waited = call(&host, &t, &admin(), "agent.wait", json!({"runId": "r0"}))
        .await
        .unwrap();
    assert_eq!(waited["status"], "error");
}

/// `agent` answers twice; `agent.wait` sees the same end.
#[tokio::test(start_paused = true)]
async fn agent_answers_accepted_and_then_the_result() {
    let dir = tempfile::tempdir().unwrap();
    let host = start(dir.path(), &Arc::default(), 1).await;
    let t = host.main_tenant().unwrap().clone();
    let interim: Arc<parking_lot::Mutex<Vec<Value>>> = Arc::default();
    let mut cx = gateway_core::Cx::new(t.clone(), admin());
    let seen = interim.clone();
    cx.interim = Some(Arc::new(move |b| {
        seen.lock().push(serde_json::from_slice(&b).unwrap())
    }));
    let params =
        serde_json::value::to_raw_value(&json!({"message": "hi there", "idempotencyKey": "a1"}))
            .unwrap();
    let bytes = gateway_core::dispatch(&host, cx, "agent", Some(&params), false)
        .wait()
        .await
        .unwrap();
    let result: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(interim.lock().len(), 1);
    assert_eq!(interim.lock()[0]["status"], "accepted");
    assert_eq!(result["status"], "ok");
    assert_eq!(result["summary"], "completed");
    assert_eq!(result["result"]["payloads"][0]["text"], "hi there");
    let waited = call(&host, &t, &admin(), "agent.wait", json!({"runId": "a1"}))
        .await
        .unwrap();
    assert_eq!(waited["status"], "ok");
    assert_eq!(waited["terminalReply"]["text"], "hi there");
    let unknown = call(&host, &t, &admin(), "agent.wait", json!({"runId": "nope"}))
        .await
        .unwrap_err();
    assert_eq!(unknown.detail, DetailCode::NotFound);
    // A wait shorter than the run ends as a timeout.
    send(&host, &t, "lab", "hangafter x", "h1").await.unwrap();
    let waited = call(
        &host,
        &t,
        &admin(),
        "agent.wait",
        json!({"runId": "h1", "timeoutMs": 50}),
    )
    .await
    .unwrap();
    assert_eq!(waited["status"], "timeout");
    // A caller without admin cannot reset through the message.
    let caller = Arc::new(gateway_core::Caller::internal(
        "w",
        ScopeSet::of(gateway_protocol::Scope::Write),
        None,
    ));
    let refused = call(
        &host,
        &t,
        &caller,
        "agent",
        json!({"message": "/reset now", "idempotencyKey": "a2"}),
    )
    .await
    .unwrap_err();
    assert_eq!(refused.detail, DetailCode::MissingScope);
}

#[tokio::test(start_paused = true)]
async fn sessions_are_made_listed_reset_and_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let host = start(dir.path(), &Arc::default(), 1).await;
    let t = host.main_tenant().unwrap().clone();
    let create = json!({"key": "lab", "label": "L", "idempotencyKey": "c1"});
    let made = call(&host, &t, &admin(), "sessions.create", create.clone())
        .await
        .unwrap();
    assert_eq!(made["key"], "agent:main:lab");
    assert_eq!(made["runStarted"], false);
    assert_eq!(
        call(&host, &t, &admin(), "sessions.create", create)
            .await
            .unwrap(),
        made,
        "a repeat is the same answer"
    );
    let other = json!({"key": "lab", "label": "other", "idempotencyKey": "c1"});
    let conflict = call(&host, &t, &admin(), "sessions.create", other)
        .await
        .unwrap_err();
    assert_eq!(conflict.detail, DetailCode::IdempotencyConflict);
    let with_message = json!({"key": "two", "message": "first words"});
    let two = call(&host, &t, &admin(), "sessions.create", with_message)
        .await
        .unwrap();
    assert_eq!(two["runStarted"], true);
    settle(&t).await;
    let list = call(&host, &t, &admin(), "sessions.list", json!({"limit": 1}))
        .await
        .unwrap();
    assert_eq!(
        (list["count"].as_u64(), list["totalCount"].as_u64()),
        (Some(1), Some(2))
    );
    assert_eq!(list["nextOffset"], 1);
    assert_eq!(list["sessions"][0]["key"], "agent:main:two");
    let health = call(&host, &t, &admin(), "health", json!({}))
        .await
        .unwrap();
    assert_eq!(health["sessions"]["count"], 2);

    let before = two["sessionId"].clone();
    let reset = call(&host, &t, &admin(), "sessions.reset", json!({"key": "two"}))
        .await
        .unwrap();
    assert_ne!(reset["entry"]["sessionId"], before);
    assert!(transcript(&host, &t, "two").await.is_empty());
    let stale =
        json!({"sessionKey": "two", "message": "x", "idempotencyKey": "s1", "sessionId": before});
    let changed = call(&host, &t, &admin(), "chat.send", stale)
        .await
        .unwrap_err();
    assert_eq!(changed.detail, DetailCode::SessionChanged);

    let gone = call(
        &host,
        &t,
        &admin(),
        "sessions.delete",
        json!({"key": "two"}),
    )
    .await
    .unwrap();
    assert_eq!(gone["deleted"], true);
    let described = call(
        &host,
        &t,
        &admin(),
        "sessions.describe",
        json!({"key": "two"}),
    )
    .await
    .unwrap();
    assert_eq!(described, json!({"session": null}));
    let again = call(&host, &t, &admin(), "sessions.reset", json!({"key": "two"}))
        .await
        .unwrap_err();
    assert_eq!(again.detail, DetailCode::NotFound);
    let health = call(&host, &t, &admin(), "health", json!({}))
        .await
        .unwrap();
    assert_eq!(health["sessions"]["count"], 1, "counts are current");

    let injected = call(
        &host,
        &t,
        &admin(),
        "chat.inject",
        json!({"sessionKey": "lab", "message": "note", "label": "by hand"}),
    )
    .await
    .unwrap();
    assert_eq!(injected["ok"], true);
    assert_eq!(
        transcript(&host, &t, "lab").await,
        [("assistant".to_owned(), "[by hand]\n\nnote".to_owned())]
    );
    let unknown = send(&host, &t, "agent:nobody:x", "hi", "z")
        .await
        .unwrap_err();
    assert_eq!(unknown.detail, DetailCode::UnknownAgent);
}

/// A run whose session is deleted under it ends, and leaves nothing behind in a new session of the same key.
#[tokio::test(start_paused = true)]
async fn deleting_a_session_stops_what_it_does() {
    let dir = tempfile::tempdir().unwrap();
    let host = start(dir.path(), &Arc::default(), 1).await;
    let t = host.main_tenant().unwrap().clone();
    send(&host, &t, "lab", "hangafter x", "r0").await.unwrap();
    send(&host, &t, "lab", "behind", "r1").await.unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    call(
        &host,
        &t,
        &admin(),
        "sessions.delete",
        json!({"key": "lab"}),
    )
    .await
    .unwrap();
    settle(&t).await;
    send(&host, &t, "lab", "fresh", "r2").await.unwrap();
    settle(&t).await;
    assert_eq!(
        transcript(&host, &t, "lab").await,
        [
            ("user".to_owned(), "fresh".to_owned()),
            ("assistant".to_owned(), "fresh".to_owned())
        ]
    );
    for (id, status) in [("r0", "aborted"), ("r1", "aborted"), ("r2", "ok")] {
        let waited = call(&host, &t, &admin(), "agent.wait", json!({"runId": id}))
            .await
            .unwrap();
        assert_eq!(waited["status"], status, "{id}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_completion_is_a_run_and_its_session_lasts_with_a_user() {
    use gateway_core::openai::{CompletionMessage, CompletionRequest, models, start as begin};
    let dir = tempfile::tempdir().unwrap();
    let script: Arc<Script> = Arc::default();
    let host = start(dir.path(), &script, 1).await;
    let t = host.tenant("acme").unwrap().clone();
    assert_eq!(
        models(&t, &admin()),
        ["openclaw", "openclaw/helper", "openclaw/main"]
    );
    let message = |role: &str, text: &str| CompletionMessage {
        role: role.into(),
        text: text.into(),
    };
    let request = |user: Option<&str>, text: &str| CompletionRequest {
        model: "openclaw/helper".into(),
        messages: vec![
            message("user", "before"),
            message("assistant", "yes"),
            message("user", text),
        ],
        user: user.map(str::to_owned),
        ..CompletionRequest::default()
    };
    let cx = gateway_core::Cx::new(t.clone(), admin());
    let started = begin(cx.clone(), request(Some("alice"), "one"))
        .await
        .unwrap();
    let first = started.finish().await.unwrap();
    assert_eq!(
        (first.text.as_str(), first.finish_reason.as_str()),
        ("one", "stop")
    );
    begin(cx.clone(), request(Some("alice"), "two"))
        .await
        .unwrap()
        .finish()
        .await
        .unwrap();
    let lines = transcript(&host, &t, "agent:helper:openai-user:alice").await;
    let texts: Vec<&str> = lines.iter().map(|(_, t)| t.as_str()).collect();
    assert_eq!(
        texts,
        ["before", "yes", "one", "one", "two", "two"],
        "the preface is taken once"
    );
    let unknown = CompletionRequest {
        model: "gpt-9".into(),
        ..request(None, "x")
    };
    assert_eq!(
        begin(cx.clone(), unknown).await.unwrap_err().detail,
        DetailCode::NotFound
    );
    let reserved = CompletionRequest {
        session_key: Some("cron:1".into()),
        ..request(None, "x")
    };
    assert_eq!(
        begin(cx.clone(), reserved).await.unwrap_err().detail,
        DetailCode::InvalidSessionKey
    );
    // The HTTP client going away stops the run.
    let started = begin(cx, request(None, "hangafter x")).await.unwrap();
    drop(started);
    settle(&t).await;
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_leaves_unfinished_work_for_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let script: Arc<Script> = Arc::default();
    {
        let host = start(dir.path(), &script, 1).await;
        let t = host.main_tenant().unwrap().clone();
        send(&host, &t, "lab", "slow a b c", "r0").await.unwrap();
        send(&host, &t, "lab", "queued", "r1").await.unwrap();
        host.shutdown(Duration::from_secs(30)).await;
        let refused = send(&host, &t, "lab", "late", "r2").await.unwrap_err();
        assert_eq!(refused.detail, DetailCode::Draining);
    }
    let host = start(dir.path(), &script, 2).await;
    let t = host.main_tenant().unwrap().clone();
    settle(&t).await;
    assert_eq!(script.begun.lock()["r0"], 1, "it was let end");
    assert_eq!(script.begun.lock()["r1"], 1, "it was taken up");
    assert_eq!(transcript(&host, &t, "lab").await.len(), 4);
}

/// An id that was told is known after a restart, and continues its session.
#[tokio::test(start_paused = true)]
async fn a_response_outlives_the_gateway() {
    use gateway_core::openai::CompletionMessage;
    use gateway_core::responses::{ResponseRequest, Status, get, start as begin};
    let dir = tempfile::tempdir().unwrap();
    let script: Arc<Script> = Arc::default();
    let request = |text: &str, previous: Option<&str>| ResponseRequest {
        model: "openclaw".into(),
        input: vec![CompletionMessage {
            role: "user".into(),
            text: text.into(),
        }],
        previous: previous.map(str::to_owned),
        store: true,
        ..ResponseRequest::default()
    };
    let id = {
        let host = start(dir.path(), &script, 1).await;
        let t = host.main_tenant().unwrap();
        let cx = gateway_core::Cx::new(t, admin());
        let started = begin(cx, request("first words", None)).await.unwrap();
        let id = started.run.run_id.clone();
        started.run.finish().await.unwrap();
        host.shutdown(Duration::from_secs(1)).await;
        id
    };
    let host = start(dir.path(), &script, 2).await;
    let t = host.main_tenant().unwrap();
    let cx = gateway_core::Cx::new(t.clone(), admin());
    let kept = get(&cx, &id).await.unwrap();
    assert_eq!(
        (kept.status, kept.text.as_str()),
        (Status::Completed, "first words")
    );
    let second = begin(cx.clone(), request("second words", Some(&id)))
        .await
        .unwrap();
    let second_id = second.run.run_id.clone();
    second.run.finish().await.unwrap();
    assert_eq!(
        get(&cx, &second_id)
            .await
            .unwrap()
            .request
            .previous
            .as_deref(),
        Some(&*id)
    );
    let sessions = call(&host, &t, &admin(), "sessions.list", json!({}))
        .await
        .unwrap();
    assert_eq!(sessions["sessions"].as_array().unwrap().len(), 1);
    let key = sessions["sessions"][0]["key"].as_str().unwrap().to_owned();
    let lines = transcript(&host, &t, &key).await;
    let texts: Vec<&str> = lines.iter().map(|(_, t)| t.as_str()).collect();
    assert_eq!(
        texts,
        ["first words", "first words", "second words", "second words"]
    );
    let foreign = gateway_core::Cx::new(host.tenant("acme").unwrap(), admin());
    assert_eq!(
        get(&foreign, &id).await.unwrap_err().detail,
        DetailCode::NotFound
    );
}
