//! What the gateway says of itself: readiness that is proven, and numbers that stay with their tenant.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use gateway_core::clock::SimClock;
use gateway_core::limits::{COMMIT_PATIENCE_MS, COMMIT_PROBE_MS};
use gateway_core::random::SeededRandom;
use gateway_core::readiness::Reason;
use gateway_core::{Host, HostOptions};
use gateway_protocol::error::DetailCode;
use gateway_store::{CommitScript, StoreError, StoreExec, SyncMode, WaitingWrites};
use parking_lot::Mutex;
use serde_json::json;

use crate::support::{Script, Scripts, admin, call, scratch, settings, start};

const WELL: u8 = 0;
const STUCK: u8 = 1;
const FULL: u8 = 2;

/// A disk that answers, does not answer, or has no room.
#[derive(Debug, Default)]
struct Disk {
    mode: AtomicU8,
    held: Mutex<Vec<WaitingWrites>>,
}

impl CommitScript for Disk {
    fn waiting(&self, work: WaitingWrites) {
        match self.mode.load(Ordering::SeqCst) {
            STUCK => self.held.lock().push(work),
            FULL => work.refuse(&StoreError::Full),
            _ => work.commit(),
        }
    }
}

impl Disk {
    fn set(&self, mode: u8) {
        self.mode.store(mode, Ordering::SeqCst);
        for work in std::mem::take(&mut *self.held.lock()) {
            match mode {
                STUCK => self.held.lock().push(work),
                FULL => work.refuse(&StoreError::Full),
                _ => work.commit(),
            }
        }
    }
}

async fn pass(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

/// The longest time until a fault, or its end, shows.
const SHOWS_MS: u64 = COMMIT_PROBE_MS + COMMIT_PATIENCE_MS + 1_500;

/// Covers: F3.
#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_commit_makes_the_gateway_unready_and_back() {
    let dir = scratch();
    let disk = Arc::new(Disk::default());
    let mut options = HostOptions::new(dir.path(), settings(dir.path()));
    options.clock = Arc::new(SimClock::new(1_800_000_000_000));
    options.random = Arc::new(SeededRandom::new(1));
    options.backends = Some(Arc::new(Scripts(Arc::new(Script::default()))));
    options.exec = Some(StoreExec::Scripted(disk.clone()));
    options.sync = SyncMode::Off;
    options.guests = false;
    let host = Host::start(options).await.unwrap();
    host.ready().wait_for(|ready| *ready).await.unwrap();
    let well = host.readiness();
    assert!(well.is_ready(), "{well:?}");
    let acme = host.tenant("acme").unwrap();
    for (mode, reason) in [(STUCK, Reason::StoreStuck), (FULL, Reason::StoreFull)] {
        disk.set(mode);
        pass(SHOWS_MS).await;
        let found = host.readiness();
        assert_eq!(found.reasons, [reason]);
        assert!(
            found.commit_age_ms.unwrap() >= COMMIT_PATIENCE_MS,
            "{found:?}"
        );
        assert!(found.tick_age_ms <= 1_000, "{found:?}");
        // Reads that need no store are answered, and say it to every tenant.
        let health = call(&host, &acme, &admin(), "health", json!({}))
            .await
            .unwrap();
        assert_eq!(health["ok"], false);
        assert_eq!(health["readiness"]["message"], reason.as_str());
        disk.set(WELL);
        pass(SHOWS_MS).await;
        let found = host.readiness();
        assert!(found.is_ready(), "{found:?}");
        assert!(
            found.commit_age_ms.unwrap() <= COMMIT_PROBE_MS + 100,
            "{found:?}"
        );
        let health = call(&host, &acme, &admin(), "health", json!({}))
            .await
            .unwrap();
        assert_eq!(health["ok"], true);
    }
    host.shutdown(Duration::from_secs(1)).await;
    assert_eq!(host.readiness().reasons.first(), Some(&Reason::Draining));
}

/// Covers: MT9.
#[tokio::test(start_paused = true)]
async fn numbers_stay_with_their_tenant_and_names_of_strangers_make_no_series() {
    let dir = scratch();
    let host = start(dir.path(), &Arc::new(Script::default()), 7).await;
    let (main, acme) = (host.main_tenant().unwrap(), host.tenant("acme").unwrap());
    for n in 0..3 {
        call(&host, &main, &admin(), "sessions.list", json!({}))
            .await
            .unwrap();
        let odd = format!("no.such.method{n}\"\n");
        call(&host, &acme, &admin(), &odd, json!({}))
            .await
            .unwrap_err();
    }
    let run = json!({"message": "hello", "sessionKey": "main", "idempotencyKey": "k"});
    call(&host, &acme, &admin(), "chat.send", run)
        .await
        .unwrap();
    crate::support::settle(&acme).await;
    let shown = |tenant: Arc<gateway_core::Tenant>| {
        let host = host.clone();
        async move {
            let mut out = gateway_metrics::Exposition::default();
            gateway_core::metrics::show(&host, &tenant, &mut out).await;
            out.finish()
        }
    };
    let (own, all) = (shown(acme).await, shown(main).await);
    for line in [
        "gateway_requests_total{tenant=\"acme\",method=\"unknown\",outcome=\"not_found\"} 3",
        "gateway_requests_total{tenant=\"acme\",method=\"chat.send\",outcome=\"ok\"} 1",
        "gateway_runs_total{tenant=\"acme\",outcome=\"ok\"} 1",
        "gateway_run_seconds_count{tenant=\"acme\"} 1",
    ] {
        assert!(own.lines().any(|l| l == line), "{line}\n{own}");
        assert!(all.lines().any(|l| l == line), "{line}");
    }
    let mine = "gateway_requests_total{tenant=\"main\",method=\"sessions.list\",outcome=\"ok\"} 3";
    assert!(all.lines().any(|l| l == mine), "{all}");
    assert!(!own.contains("main\"") && !own.contains("no.such"), "{own}");
    host.shutdown(Duration::from_secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn writes_of_schedules_are_limited_for_each_method_and_tenant() {
    let dir = scratch();
    let host = start(dir.path(), &Arc::new(Script::default()), 8).await;
    let (main, acme) = (host.main_tenant().unwrap(), host.tenant("acme").unwrap());
    let remove = |tenant: Arc<gateway_core::Tenant>| {
        let host = host.clone();
        async move {
            call(&host, &tenant, &admin(), "cron.remove", json!({"id": "x"}))
                .await
                .unwrap_err()
        }
    };
    for _ in 0..30 {
        assert_eq!(
            remove(main.clone()).await.detail,
            DetailCode::CronJobNotFound
        );
    }
    let refused = remove(main.clone()).await;
    assert_eq!(refused.detail, DetailCode::RateLimited);
    assert_eq!(
        refused.message,
        "rate limit exceeded for cron.remove; retry after 60s"
    );
    let shown = serde_json::to_value(&refused).unwrap();
    assert_eq!(shown["details"]["method"], "cron.remove");
    assert_eq!(shown["details"]["limit"], "30 per 60s");
    assert_eq!(remove(acme).await.detail, DetailCode::CronJobNotFound);
    let run = call(&host, &main, &admin(), "cron.run", json!({"id": "x"})).await;
    assert_eq!(run.unwrap_err().detail, DetailCode::CronJobNotFound);
    pass(60_000).await;
    assert_eq!(remove(main).await.detail, DetailCode::CronJobNotFound);
    host.shutdown(Duration::from_secs(1)).await;
}

/// What an entry says without its time and number.
fn brief(entry: &serde_json::Value) -> (String, String, serde_json::Value) {
    (
        entry["action"].as_str().unwrap().to_owned(),
        entry["outcome"].as_str().unwrap().to_owned(),
        entry["object"].clone(),
    )
}

/// Covers: MT18.
#[tokio::test(start_paused = true)]
async fn who_did_what_is_written_down_for_the_tenant_alone() {
    let dir = scratch();
    let host = start(dir.path(), &Arc::new(Script::default()), 9).await;
    let (main, acme) = (host.main_tenant().unwrap(), host.tenant("acme").unwrap());
    let job = json!({
        "name": "canary-name", "schedule": {"kind": "every", "everyMs": 3_600_000},
        "sessionTarget": "main", "wakeMode": "now",
        "payload": {"kind": "systemEvent", "text": "canary-text"},
    });
    let added = call(&host, &acme, &admin(), "cron.add", job).await.unwrap();
    let id = added["id"].as_str().unwrap().to_owned();
    let patch = json!({"id": id, "patch": {"enabled": false}});
    call(&host, &acme, &admin(), "cron.update", patch)
        .await
        .unwrap();
    call(&host, &acme, &admin(), "cron.remove", json!({"id": id}))
        .await
        .unwrap();
    call(&host, &acme, &admin(), "cron.remove", json!({"id": id}))
        .await
        .unwrap_err();
    let said = json!({"message": "canary-text", "sessionKey": "main", "idempotencyKey": "k"});
    call(&host, &acme, &admin(), "chat.send", said)
        .await
        .unwrap();
    crate::support::settle(&acme).await;
    for method in ["sessions.reset", "sessions.delete"] {
        call(&host, &acme, &admin(), method, json!({"key": "main"}))
            .await
            .unwrap();
    }
    let mut reader = (*admin()).clone();
    reader.scopes = gateway_protocol::ScopeSet::NONE;
    reader.ip = Some("192.0.2.7".parse().unwrap());
    let denied = call(&host, &acme, &Arc::new(reader), "cron.add", json!({})).await;
    assert_eq!(denied.unwrap_err().detail, DetailCode::MissingScope);
    // A stranger at the door of acme, and one who names nobody.
    let wrong = |hint: &gateway_core::TenantHint| {
        host.authenticate(&gateway_core::auth::AuthAttempt {
            peer: "192.0.2.9".parse().unwrap(),
            loopback: false,
            origin: Some("https://x\u{1b}[31m.example"),
            tenant_hint: hint,
            token: Some("canary-guess"),
            password: None,
            device_token: None,
            bootstrap_token: None,
            vouched: None,
            device: None,
            surface: gateway_core::Surface::V4,
        })
        .unwrap_err();
    };
    wrong(&gateway_core::TenantHint::Named(acme.clone()));
    wrong(&gateway_core::TenantHint::Unnamed);
    let all = call(&host, &acme, &admin(), "audit.entries", json!({}))
        .await
        .unwrap();
    let mut entries: Vec<_> = all["entries"].as_array().unwrap().clone();
    entries.reverse();
    let shown: Vec<_> = entries.iter().map(brief).collect();
    let job = json!({"jobId": id});
    let none = serde_json::Value::Null;
    let session = json!({"sessionKey": "agent:main:main"});
    let deleted = json!({"sessionKey": "agent:main:main", "deleted": true});
    let expected = [
        ("cron.add", "ok", &job),
        ("cron.update", "ok", &job),
        ("cron.remove", "ok", &job),
        ("cron.remove", "CRON_JOB_NOT_FOUND", &none),
        ("sessions.reset", "ok", &session),
        ("sessions.delete", "ok", &deleted),
        ("cron.add", "MISSING_SCOPE", &none),
        ("auth.failed", "AUTH_TOKEN_MISMATCH", &none),
    ]
    .map(|(action, outcome, object)| (action.to_owned(), outcome.to_owned(), object.clone()));
    assert_eq!(shown[0].0, "gateway.started");
    assert_eq!(shown[1..], expected);
    let last = entries.last().unwrap();
    assert_eq!(last["actor"]["address"], "192.0.2.9");
    assert_eq!(last["actor"]["origin"], "https://x\\u{1b}[31m.example");
    assert_eq!(entries[7]["actor"]["address"], "192.0.2.7");
    assert_eq!(entries[1]["actor"]["client"], "test");
    assert!(!all.to_string().contains("canary"), "{all}");
    let others = call(&host, &main, &admin(), "audit.entries", json!({}))
        .await
        .unwrap();
    let others: Vec<_> = others["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(brief)
        .collect();
    let actions: Vec<&str> = others.iter().map(|(action, ..)| action.as_str()).collect();
    assert_eq!(actions, ["auth.failed", "gateway.started"]);
    for tenant in [&main, &acme] {
        let verdict = call(&host, tenant, &admin(), "audit.verify", json!({}))
            .await
            .unwrap();
        assert_eq!(verdict["ok"], true, "{verdict}");
    }
    // A flood of refusals leaves a bounded trace.
    for _ in 0..200 {
        wrong(&gateway_core::TenantHint::Named(acme.clone()));
    }
    let page = call(&host, &acme, &admin(), "audit.entries", json!({"limit": 1}))
        .await
        .unwrap();
    assert!(page["entries"][0]["seq"].as_u64() < Some(50), "{page}");
    host.shutdown(Duration::from_secs(1)).await;
}
