//! Figures of the plugin host, with a guest as `cargo xtask guests` builds it:
//! `cargo run --release -p gateway-wasm --example bench -- target/guests/webhook`. Prints JSON, times in microseconds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, join_all};
use gateway_wasm::{
    Account, AccountHost, AccountStatus, CommitReport, Effects, FaultKind, GuestEvent,
    GuestRequest, GuestResponse, HostError, HttpFault, Level, PluginHost, WasmOptions,
    WebhookRequest,
};

struct Nothing {
    began: Instant,
    commits: AtomicU64,
    emits: AtomicU64,
}

impl AccountHost for Nothing {
    fn tenant(&self) -> &str {
        "main"
    }
    fn now_ms(&self) -> i64 {
        1_800_000_000_000
    }
    fn monotonic_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(0)
    }
    fn random(&self, n: usize) -> Vec<u8> {
        vec![7; n]
    }
    fn config_json(&self) -> Arc<str> {
        Arc::from("{}")
    }
    fn log(&self, _: Level, _: &str) {}
    fn state(&self) -> BoxFuture<'_, Result<Option<Vec<u8>>, HostError>> {
        Box::pin(async { Ok(None) })
    }
    fn kv_get(&self, _: String) -> BoxFuture<'_, Result<Option<Vec<u8>>, HostError>> {
        Box::pin(async { Ok(None) })
    }
    fn kv_list(&self, _: String) -> BoxFuture<'_, Result<Vec<String>, HostError>> {
        Box::pin(async { Ok(Vec::new()) })
    }
    fn http_fetch(
        &self,
        _: GuestRequest,
        _: Arc<AtomicBool>,
    ) -> BoxFuture<'_, Result<GuestResponse, HttpFault>> {
        Box::pin(async {
            Err(HttpFault {
                kind: FaultKind::Denied,
                request_sent: false,
                text: "bench".into(),
            })
        })
    }
    fn commit(&self, fx: Effects) -> BoxFuture<'_, Result<CommitReport, HostError>> {
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.emits
            .fetch_add(fx.emits.len() as u64, Ordering::Relaxed);
        Box::pin(async { Ok(CommitReport::default()) })
    }
    fn status(&self, _: AccountStatus) {}
}

fn event(n: usize) -> GuestEvent {
    let text = "x".repeat(850);
    GuestEvent::Webhook(WebhookRequest {
        handle: format!("h{n}"),
        route: "inbound".into(),
        method: "POST".into(),
        query: String::new(),
        headers: vec![("content-type".into(), "application/json".into())],
        body: format!("{{\"id\":\"m{n}\",\"from\":{{\"id\":\"u1\"}},\"conversation\":{{\"id\":\"c1\",\"kind\":\"direct\"}},\"text\":\"{text}\"}}").into_bytes(),
        verified_by: "hmac-sha256".into(),
    })
}

fn report(name: &str, mut us: Vec<f64>) {
    us.sort_by(f64::total_cmp);
    let at = |q: usize| us[us.len() * q / 100];
    println!(
        "{{\"name\":\"{name}\",\"n\":{},\"min\":{:.1},\"p50\":{:.1},\"p99\":{:.1}}}",
        us.len(),
        us[0],
        at(50),
        at(99)
    );
}

fn rss() -> usize {
    std::fs::read_to_string("/proc/self/statm")
        .unwrap()
        .split(' ')
        .nth(1)
        .unwrap()
        .parse::<usize>()
        .unwrap()
        * 4096
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let dir = PathBuf::from(
        std::env::args()
            .nth(1)
            .expect("a directory with plugin.toml"),
    );
    let cache = std::env::temp_dir().join(format!("gateway-wasm-bench-{}", std::process::id()));
    let options = || WasmOptions {
        cache_dir: Some(cache.clone()),
        cache_key: [1; 32],
        ..WasmOptions::new()
    };
    let host = PluginHost::new(options()).unwrap();
    let load = async |n| {
        let mut us = Vec::new();
        for _ in 0..n {
            let began = Instant::now();
            let plugin = host.load(&dir).await.unwrap();
            us.push(began.elapsed().as_secs_f64() * 1e6);
            assert_eq!(plugin.from_cache, n > 1);
        }
        us
    };
    report("load, compiled", load(1).await);
    report("load, from cache", load(20).await);
    let io = Arc::new(Nothing {
        began: Instant::now(),
        commits: AtomicU64::new(0),
        emits: AtomicU64::new(0),
    });
    for (name, lifecycle) in [
        (
            "fresh store + instantiate + init + event 1 KiB + commit + drop",
            "fresh",
        ),
        ("event 1 KiB on a busy instance, with commit", "burst"),
    ] {
        // The same guest under another manifest.
        let text = std::fs::read_to_string(dir.join("plugin.toml")).unwrap();
        let file = format!("{}.wasm", dir.file_name().unwrap().to_str().unwrap());
        let wasm = std::fs::read(dir.join(file)).unwrap();
        let plugin = host
            .load_bytes(
                &format!("{text}\n[run]\nlifecycle = \"{lifecycle}\"\n"),
                &wasm,
            )
            .await
            .unwrap();
        let account = Account::new(host.clone(), plugin, io.clone());
        let mut us = Vec::new();
        for n in 0..3_000 {
            let e = event(n);
            let began = Instant::now();
            account.event(e).await.unwrap();
            us.push(began.elapsed().as_secs_f64() * 1e6);
        }
        report(name, us);
    }
    let plugin = host.load(&dir).await.unwrap();
    let before = rss();
    let idle: Vec<Account> = (0..100_000)
        .map(|_| Account::new(host.clone(), plugin.clone(), io.clone()))
        .collect();
    println!(
        "{{\"name\":\"bytes of an idle account (without its AccountHost)\",\"value\":{}}}",
        (rss() - before) / idle.len()
    );
    let mut us = Vec::new();
    for a in idle.iter().step_by(100) {
        let began = Instant::now();
        a.event(event(0)).await.unwrap();
        us.push(began.elapsed().as_secs_f64() * 1e6);
    }
    report("wake of an idle account", us);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let began = Instant::now();
    for round in 0..20 {
        for r in join_all(idle.iter().take(1_000).map(|a| a.event(event(round)))).await {
            r.unwrap();
        }
    }
    println!(
        "{{\"name\":\"events/s through 1,000 accounts\",\"value\":{:.0}}}",
        20_000.0 / began.elapsed().as_secs_f64()
    );
    println!(
        "{{\"name\":\"commits and emits seen\",\"value\":[{},{}]}}",
        io.commits.load(Ordering::Relaxed),
        io.emits.load(Ordering::Relaxed)
    );
    std::fs::remove_dir_all(&cache).unwrap();
}
