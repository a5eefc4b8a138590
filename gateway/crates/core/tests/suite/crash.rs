//! What a dead process leaves is taken up again.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::support::*;

/// Runs `work` on a runtime that is dropped in the middle: every task ends as in a killed process.
fn life<F: Future<Output = ()>>(work: F) {
    let rt = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    rt.block_on(work);
}

/// A run that was going on, and one behind it, end after a kill; each exactly once in the history.
/// Covers: F1.
#[test]
fn unfinished_runs_are_taken_up_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let script: Arc<Script> = Arc::default();
    life(async {
        let host = start(dir.path(), &script, 1).await;
        let t = host.main_tenant().unwrap().clone();
        for (id, text) in [("r0", "slow a b c d"), ("r1", "behind")] {
            let p = json!({"sessionKey": "lab", "message": text, "idempotencyKey": id});
            call(&host, &t, &admin(), "chat.send", p).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(70)).await;
    });
    assert_eq!(script.begun.lock()["r0"], 1);
    life(async {
        let host = start(dir.path(), &script, 2).await;
        let t = host.main_tenant().unwrap().clone();
        settle(&t).await;
        let lines = transcript(&host, &t, "lab").await;
        let said: Vec<&str> = lines.iter().map(|(r, _)| r.as_str()).collect();
        assert_eq!(said, ["user", "user", "assistant", "assistant"]);
        for id in ["r0", "r1"] {
            let got = call(&host, &t, &admin(), "agent.wait", json!({"runId": id}))
                .await
                .unwrap();
            assert_eq!(got["status"], "ok", "{id}");
        }
    });
    assert_eq!(script.begun.lock()["r0"], 2, "same run id, next attempt");
    assert_eq!(script.begun.lock()["r1"], 1);
}

/// A run that the process never survives is given up after three attempts, visibly.
#[test]
fn a_run_is_tried_three_times_at_most() {
    let dir = tempfile::tempdir().unwrap();
    let script: Arc<Script> = Arc::default();
    for life_no in 0..4 {
        life(async {
            let host = start(dir.path(), &script, life_no).await;
            let t = host.main_tenant().unwrap().clone();
            if life_no == 0 {
                let p =
                    json!({"sessionKey": "lab", "message": "hangafter x", "idempotencyKey": "r0"});
                call(&host, &t, &admin(), "chat.send", p).await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            if life_no == 3 {
                settle(&t).await;
                let got = call(&host, &t, &admin(), "agent.wait", json!({"runId": "r0"}))
                    .await
                    .unwrap();
                assert_eq!(got["status"], "error");
                assert!(got["error"].as_str().unwrap().contains("3 times"), "{got}");
            }
        });
    }
    assert_eq!(script.begun.lock()["r0"], 3);
}

/// A caller that goes away between the commit and its answer does not strand the run.
#[test]
fn an_accepted_run_without_its_caller_is_started() {
    let dir = tempfile::tempdir().unwrap();
    let script: Arc<Script> = Arc::default();
    life(async {
        let host = start(dir.path(), &script, 1).await;
        let t = host.main_tenant().unwrap().clone();
        let key = gateway_protocol::SessionKey::parse("agent:main:lab").unwrap();
        let run = gateway_core::session::AcceptRun::new(
            &t,
            key,
            "r0",
            gateway_core::session::Origin::Rpc,
            "left alone",
        );
        let accepted = t
            .db()
            .write(move |w| gateway_core::session::accept_in_tx(w, run))
            .await
            .unwrap();
        drop(accepted);
        tokio::time::sleep(Duration::from_millis(200)).await;
        settle(&t).await;
        assert_eq!(script.begun.lock().get("r0"), Some(&1));
        assert_eq!(transcript(&host, &t, "lab").await.len(), 2);
    });
}

/// Only one process has a state directory. Covers: F16.
#[test]
fn a_state_directory_has_one_owner() {
    let dir = tempfile::tempdir().unwrap();
    life(async {
        let _host = start(dir.path(), &Arc::default(), 1).await;
        let mut options = gateway_core::HostOptions::new(dir.path(), settings(dir.path()));
        options.guests = false;
        assert!(gateway_core::Host::start(options).await.is_err());
    });
}
