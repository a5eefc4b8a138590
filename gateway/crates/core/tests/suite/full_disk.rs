//! A disk that stays full for longer than anybody waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gateway_core::{Host, HostOptions, Role};
use gateway_protocol::{DetailCode, ScopeSet};
use gateway_store::{CommitScript, StoreError, StoreExec, SyncMode, WaitingWrites};
use serde_json::json;

use super::support::*;

#[derive(Debug, Default)]
struct Disk {
    full: AtomicBool,
}

impl CommitScript for Disk {
    fn waiting(&self, work: WaitingWrites) {
        if self.full.load(Ordering::SeqCst) {
            work.refuse(&StoreError::Full);
        } else {
            work.commit();
        }
    }
}

/// A run that ends while nothing can be written: who waits is told after a while, what is new is refused, and when there is room
/// the answer stands in the transcript where it belongs: before that of the run that waited behind it. No run is done twice.
/// Covers: F3.
#[tokio::test(start_paused = true)]
async fn an_answer_that_met_a_full_disk_is_recorded_when_there_is_room() {
    let dir = scratch();
    let (disk, script) = (Arc::new(Disk::default()), Arc::new(Script::default()));
    let mut options = HostOptions::new(dir.path(), settings(dir.path()));
    options.backends = Some(Arc::new(Scripts(script.clone())));
    options.exec = Some(StoreExec::Scripted(disk.clone()));
    options.sync = SyncMode::Off;
    options.guests = false;
    let host = Host::start(options).await.unwrap();
    let t = host.main_tenant().unwrap().clone();
    let watcher = connect(&host, &t, Role::Operator, ScopeSet::ALL, &[]);
    let send = |text: &'static str, id: &'static str| {
        let p = json!({"sessionKey": "lab", "message": text, "idempotencyKey": id});
        let (host, t) = (host.clone(), t.clone());
        async move { call(&host, &t, &admin(), "chat.send", p).await }
    };
    send("slow first", "run-1").await.unwrap();
    send("plain second", "run-2").await.unwrap();
    disk.full.store(true, Ordering::SeqCst);

    let p = json!({"runId": "run-1", "timeoutMs": 120_000});
    let ended = call(&host, &t, &admin(), "agent.wait", p.clone())
        .await
        .unwrap();
    assert_eq!(ended["status"], "error", "{ended}");
    assert!(
        ended["error"].as_str().unwrap().contains("storage is full"),
        "{ended}"
    );
    let refused = send("plain third", "run-3").await.unwrap_err();
    assert_eq!(
        (refused.detail, refused.retryable),
        (DetailCode::StorageFull, true)
    );
    tokio::time::sleep(Duration::from_secs(300)).await;
    let says = |role: &str, text: &str| (role.to_owned(), text.to_owned());
    assert_eq!(
        transcript(&host, &t, "lab").await,
        [says("user", "slow first"), says("user", "plain second")]
    );

    disk.full.store(false, Ordering::SeqCst);
    settle(&t).await;
    let mut all = transcript(&host, &t, "lab").await;
    assert_eq!(all.pop().unwrap(), says("assistant", "plain second"));
    assert_eq!(all.pop().unwrap(), says("assistant", "slow first"));
    let ended = call(&host, &t, &admin(), "agent.wait", p).await.unwrap();
    assert_eq!(ended["status"], "ok", "{ended}");
    assert_eq!(
        script.begun.lock().values().copied().collect::<Vec<_>>(),
        [1, 1]
    );
    // Its end was told once; the answer came as a row.
    let ends = watcher.events.named("chat");
    let ends = ends
        .iter()
        .filter(|p| p["runId"] == "run-1" && p["state"] != "delta" && p["state"] != "status");
    assert_eq!(ends.count(), 1);
}
