//! `/readyz` and `/metrics` over the wire.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gateway_store::{CommitScript, StoreExec, WaitingWrites};
use parking_lot::Mutex;

use crate::support::{ACME, Gateway, TOKEN, gateway, plain};

/// A disk that can stop to answer.
#[derive(Debug, Default)]
struct Disk {
    stuck: AtomicBool,
    held: Mutex<Vec<WaitingWrites>>,
}

impl CommitScript for Disk {
    fn waiting(&self, work: WaitingWrites) {
        match self.stuck.load(Ordering::SeqCst) {
            true => self.held.lock().push(work),
            false => work.commit(),
        }
    }
}

fn becomes(gw: &Gateway, status: u16) {
    let began = Instant::now();
    while gw.ask("GET", "/readyz", &[], b"").status != status {
        assert!(began.elapsed() < Duration::from_secs(40), "never {status}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Covers: B10.
#[test]
fn a_stuck_writer_shows_in_readyz_and_only_an_operator_learns_why() {
    let disk = Arc::new(Disk::default());
    let gw = gateway(|options| {
        options.host.exec = Some(StoreExec::Scripted(disk.clone()));
    });
    let bearer = format!("Bearer {TOKEN}");
    let operator = [("Authorization", bearer.as_str())];
    for path in ["/readyz", "/ready"] {
        let well = gw.ask("GET", path, &operator, b"");
        assert_eq!(well.status, 200, "{well:?}");
        let well = well.json();
        assert_eq!(well["ready"], true);
        assert!(well["commitAgeMs"].is_u64() && well["eventLoop"]["ageMs"].is_u64());
    }
    disk.stuck.store(true, Ordering::SeqCst);
    becomes(&gw, 503);
    let told = gw.ask("GET", "/readyz", &[], b"");
    assert_eq!(told.body, r#"{"ready":false}"#);
    let why = gw.ask("GET", "/readyz", &operator, b"");
    assert_eq!(why.status, 503);
    assert_eq!(why.json()["failing"], serde_json::json!(["store-stuck"]));
    let wrong = [("Authorization", "Bearer wrong")];
    assert_eq!(gw.ask("GET", "/readyz", &wrong, b"").status, 401);
    // It lives all the same.
    for path in ["/healthz", "/health"] {
        let live = gw.ask("GET", path, &[], b"");
        assert_eq!(live.body, r#"{"ok":true,"status":"live"}"#, "{path}");
    }
    disk.stuck.store(false, Ordering::SeqCst);
    for work in std::mem::take(&mut *disk.held.lock()) {
        work.commit();
    }
    becomes(&gw, 200);
}

/// Covers: MT6, S6.
#[test]
fn metrics_are_for_operators_and_a_tenant_sees_its_own() {
    let gw = plain();
    for headers in [vec![], vec![("Authorization", "Bearer wrong")]] {
        for path in ["/metrics", "/t/acme/metrics", "/t/nobody/metrics"] {
            let refused = gw.ask("GET", path, &headers, b"");
            assert_eq!(refused.status, 401, "{path}");
            assert!(!refused.body.contains("gateway_"), "{refused:?}");
            assert!(!refused.body.contains(env!("CARGO_PKG_VERSION")));
        }
    }
    let host = format!("Bearer {TOKEN}");
    let call = br#"{"jsonrpc":"2.0","id":1,"method":"health"}"#;
    let posted = [
        ("Authorization", host.as_str()),
        ("Content-Type", "application/json"),
    ];
    for _ in 0..2 {
        assert_eq!(gw.ask("POST", "/rpc", &posted, call).status, 200);
    }
    let all = gw.ask("GET", "/metrics", &[("Authorization", &host)], b"");
    assert_eq!(all.status, 200);
    assert_eq!(
        all.header("content-type").as_deref(),
        Some("text/plain; version=0.0.4; charset=utf-8")
    );
    let has = |text: &str, line: &str| text.lines().any(|l| l == line);
    assert!(
        has(
            &all.body,
            "gateway_requests_total{tenant=\"main\",method=\"health\",outcome=\"ok\"} 2"
        ),
        "{}",
        all.body
    );
    assert!(all.body.contains("gateway_connections{tenant=\"acme\"} 0"));
    assert!(has(&all.body, "gateway_ready 1"), "{}", all.body);
    assert!(
        has(&all.body, "gateway_auth_failures_total 6"),
        "{}",
        all.body
    );
    for process in [
        "gateway_build_info{version=",
        "process_resident_memory_bytes ",
        "gateway_bytes_total{direction=\"in\"} ",
        "gateway_http_responses_total{class=\"4xx\"} 6",
    ] {
        assert!(all.body.contains(process), "{process}\n{}", all.body);
    }
    let own = format!("Bearer {ACME}");
    let own = gw.ask("GET", "/metrics", &[("Authorization", &own)], b"");
    assert_eq!(own.status, 200);
    assert!(own.body.contains("tenant=\"acme\""));
    for foreign in [
        "main",
        "process_",
        "build_info",
        "gateway_bytes",
        "gateway_tenants",
    ] {
        assert!(!own.body.contains(foreign), "{foreign}");
    }
}
