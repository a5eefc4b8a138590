//! The order of a start, what callers are told before it is over, and a gateway whose threads for blocking work are all taken.

use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use gateway_core::start::Phase;
use serde_json::json;

use crate::support::*;

/// How long a test waits for something to happen; not a performance statement.
const PATIENCE: Duration = Duration::from_secs(30);

fn runtime(blocking: usize) -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(3)
        .max_blocking_threads(blocking)
        .enable_all()
        .build()
        .unwrap()
}

/// The order of the steps, and the answer to those who come too early.
#[test]
fn a_start_has_its_order_and_early_callers_are_told_to_wait() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (reached, at_scripts) = mpsc::channel();
    let (go, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let record = seen.clone();
    let gw = starting(runtime(8), "", move |options| {
        options.host.on_phase = Some(Arc::new(move |phase: Phase| {
            record.lock().unwrap().push(phase);
            if phase == Phase::Discovery {
                // Boot scripts are next.
                reached.send(()).unwrap();
                let _ = gate.lock().unwrap().recv_timeout(PATIENCE);
            }
        }));
    });
    at_scripts.recv_timeout(PATIENCE).unwrap();
    let mut ws = gw.ws();
    assert_eq!(ws.json()["event"], "connect.challenge");
    ws.text(&connect(json!({})).to_string());
    let answer = ws.json();
    let error = &answer["error"];
    assert_eq!(error["code"], "UNAVAILABLE", "{answer}");
    assert_eq!(error["retryable"], true);
    assert_eq!(error["retryAfterMs"], 500);
    assert_eq!(error["details"]["reason"], "startup-sidecars");
    assert_eq!(ws.closed(), Some((1013, "gateway starting".to_owned())));
    let probe = gw.ask("GET", "/readyz", &[], b"");
    assert_eq!(probe.status, 503);
    assert_eq!(
        probe.json(),
        json!({"ready": false, "failing": ["startup"]})
    );
    assert_eq!(gw.ask("GET", "/healthz", &[], b"").status, 200);
    go.send(()).unwrap();
    gw.wait_ready();
    gw.connected();
    let started = Instant::now();
    while seen.lock().unwrap().last() != Some(&Phase::Ready) {
        assert!(started.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(
        *seen.lock().unwrap(),
        [
            Phase::Config,
            Phase::Migrate,
            Phase::Tls,
            Phase::Listener,
            Phase::Channels,
            Phase::Schedules,
            Phase::Discovery,
            Phase::BootScripts,
            Phase::Ready,
        ]
    );
    gw.stop();
}

/// Covers: F33.
#[test]
fn with_all_blocking_threads_taken_it_is_served_and_stopped_all_the_same() {
    const THREADS: usize = 4;
    let gw = starting(runtime(THREADS), "", |options| {
        options.limits = Some(gateway_server::ServerLimits {
            ping_interval_ms: 200,
            drain_timeout_ms: 5_000,
            ..gateway_server::ServerLimits::default()
        });
    });
    gw.wait_ready();
    let mut ws = gw.connected();
    let (began, all) = mpsc::channel();
    let (free, held) = mpsc::channel::<()>();
    let held = Arc::new(Mutex::new(held));
    // Twice as many as there are threads: some wait in the queue, too.
    for _ in 0..2 * THREADS {
        let (began, held) = (began.clone(), held.clone());
        gw.rt.spawn_blocking(move || {
            let _ = began.send(());
            let _ = held.lock().unwrap().recv();
        });
    }
    for _ in 0..THREADS {
        all.recv_timeout(PATIENCE).unwrap();
    }
    assert!(all.recv_timeout(Duration::from_millis(100)).is_err());
    // The heartbeat of a connection, health, a commit, an agent's answer, probes and new connections.
    let started = Instant::now();
    while ws.json()["event"] != "tick" {
        assert!(started.elapsed() < PATIENCE);
    }
    let health = gw.rpc(TOKEN, r#"{"jsonrpc":"2.0","id":1,"method":"health"}"#);
    assert_eq!(health.json()["result"]["ok"], true, "{health:?}");
    let say = json!({"jsonrpc": "2.0", "id": 2, "method": "agent", "params": {"message": "hello", "idempotencyKey": "k"}});
    let said = gw.rpc(TOKEN, &say.to_string());
    assert_eq!(said.json()["result"]["status"], "ok", "{said:?}");
    assert_eq!(gw.ask("GET", "/readyz", &[], b"").status, 200);
    drop(gw.connected());
    // What SIGTERM does.
    let (ended, stopped) = mpsc::channel();
    std::thread::spawn(move || {
        let mut gw = gw;
        let server = gw.server.take().unwrap();
        gw.rt.block_on(server.shutdown());
        ended.send(()).unwrap();
        gw
    });
    stopped
        .recv_timeout(PATIENCE)
        .expect("it stops while all blocking threads are taken");
    drop(free);
}
