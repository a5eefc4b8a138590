//! What the tests of this crate share: a host that keeps everything in memory, and the hostile guest.
#![allow(clippy::unwrap_used, clippy::expect_used, dead_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use gateway_wasm::{
    Account, AccountHost, AccountStatus, CommitReport, Effects, FaultKind, GuestEvent,
    GuestRequest, GuestResponse, HostError, HttpFault, Level, Outbound, Peer, PeerKind, Plugin,
    PluginHost, WasmOptions, WebhookRequest,
};
use parking_lot::Mutex;

/// How the test host answers a fetch.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Net {
    /// With 200.
    Ok,
    /// With this status.
    Status(u16),
    /// Not at all; the request has left.
    HangSent,
    /// With a fault; the request has not left.
    RefusedUnsent,
    /// With a fault; the request has left.
    LostSent,
}

/// Sets a flag when it is dropped.
struct Dropped(Arc<AtomicUsize>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Everything in memory. A commit is all or nothing, as in the real store.
pub struct TestHost {
    pub tenant: String,
    pub began: Instant,
    /// Monotonic milliseconds go this many times as fast: back-off without waiting.
    pub speed: u64,
    pub inbox: Mutex<Vec<gateway_wasm::InboundMessage>>,
    pub seen: Mutex<BTreeSet<(String, String)>>,
    pub kv: Mutex<BTreeMap<String, Vec<u8>>>,
    pub guest_state: Mutex<Option<Vec<u8>>>,
    pub commits: Mutex<Vec<Effects>>,
    pub lines: Mutex<Vec<(Level, String)>>,
    pub statuses: Mutex<Vec<AccountStatus>>,
    pub net: Mutex<Net>,
    pub fetches: AtomicUsize,
    pub fetches_dropped: Arc<AtomicUsize>,
    pub commit_fails: AtomicBool,
    /// Milliseconds that a commit takes.
    pub commit_ms: Mutex<u64>,
    pub panics: AtomicBool,
    pub commit_panics: AtomicBool,
    pub counter: AtomicU64,
}

impl TestHost {
    pub fn new(tenant: &str) -> Arc<Self> {
        Arc::new(Self {
            tenant: tenant.to_owned(),
            began: Instant::now(),
            speed: 1_000,
            inbox: Mutex::default(),
            seen: Mutex::default(),
            kv: Mutex::default(),
            guest_state: Mutex::default(),
            commits: Mutex::default(),
            lines: Mutex::default(),
            statuses: Mutex::default(),
            net: Mutex::new(Net::Ok),
            fetches: AtomicUsize::new(0),
            fetches_dropped: Arc::default(),
            commit_fails: AtomicBool::new(false),
            commit_ms: Mutex::new(0),
            panics: AtomicBool::new(false),
            commit_panics: AtomicBool::new(false),
            counter: AtomicU64::new(0),
        })
    }

    pub fn ids(&self) -> Vec<String> {
        self.inbox
            .lock()
            .iter()
            .map(|m| m.platform_message_id.clone())
            .collect()
    }
}

impl AccountHost for TestHost {
    fn tenant(&self) -> &str {
        &self.tenant
    }
    fn now_ms(&self) -> i64 {
        assert!(
            !self.panics.load(Ordering::SeqCst),
            "the test host was told to panic"
        );
        1_800_000_000_000
    }
    fn monotonic_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap() * self.speed
    }
    fn random(&self, n: usize) -> Vec<u8> {
        let c = self.counter.fetch_add(1, Ordering::SeqCst);
        (0..n)
            .map(|i| u8::try_from((c + i as u64) % 251).unwrap())
            .collect()
    }
    fn config_json(&self) -> Arc<str> {
        Arc::from("{}")
    }
    fn log(&self, level: Level, line: &str) {
        self.lines.lock().push((level, line.to_owned()));
    }
    fn state(&self) -> BoxFuture<'_, Result<Option<Vec<u8>>, HostError>> {
        Box::pin(async { Ok(self.guest_state.lock().clone()) })
    }
    fn kv_get(&self, key: String) -> BoxFuture<'_, Result<Option<Vec<u8>>, HostError>> {
        Box::pin(async move { Ok(self.kv.lock().get(&key).cloned()) })
    }
    fn kv_list(&self, prefix: String) -> BoxFuture<'_, Result<Vec<String>, HostError>> {
        Box::pin(async move {
            Ok(self
                .kv
                .lock()
                .keys()
                .filter(|k| k.starts_with(&prefix))
                .cloned()
                .collect())
        })
    }
    fn http_fetch(
        &self,
        _req: GuestRequest,
        sent: Arc<AtomicBool>,
    ) -> BoxFuture<'_, Result<GuestResponse, HttpFault>> {
        self.fetches.fetch_add(1, Ordering::SeqCst);
        let net = *self.net.lock();
        let dropped = Dropped(self.fetches_dropped.clone());
        Box::pin(async move {
            let _dropped = dropped;
            let answer = |status| {
                Ok(GuestResponse {
                    status,
                    headers: vec![("content-type".into(), "text/plain".into())],
                    body: b"hello".to_vec(),
                })
            };
            let fault = |kind, request_sent| {
                Err(HttpFault {
                    kind,
                    request_sent,
                    text: "test".into(),
                })
            };
            sent.store(net != Net::RefusedUnsent, Ordering::SeqCst);
            match net {
                Net::Ok => answer(200),
                Net::Status(s) => answer(s),
                Net::RefusedUnsent => fault(FaultKind::Connect, false),
                Net::LostSent => fault(FaultKind::Protocol, true),
                Net::HangSent => std::future::pending().await,
            }
        })
    }
    fn commit(&self, fx: Effects) -> BoxFuture<'_, Result<CommitReport, HostError>> {
        Box::pin(async move {
            let takes = *self.commit_ms.lock();
            tokio::time::sleep(Duration::from_millis(takes)).await;
            assert!(
                !self.commit_panics.swap(false, Ordering::SeqCst),
                "the test store was told to panic"
            );
            if self.commit_fails.load(Ordering::SeqCst) {
                return Err(HostError::Unavailable("the test store is full".into()));
            }
            let mut report = CommitReport::default();
            for m in &fx.emits {
                if self
                    .seen
                    .lock()
                    .insert((m.conversation.id.clone(), m.platform_message_id.clone()))
                {
                    self.inbox.lock().push(m.clone());
                    report.accepted += 1;
                } else {
                    report.duplicates += 1;
                }
            }
            for w in &fx.kv {
                match &w.value {
                    Some(v) => self.kv.lock().insert(w.key.clone(), v.clone()),
                    None => self.kv.lock().remove(&w.key),
                };
            }
            if let Some(s) = &fx.state {
                *self.guest_state.lock() = Some(s.clone());
            }
            self.commits.lock().push(fx);
            Ok(report)
        })
    }
    fn status(&self, s: AccountStatus) {
        self.statuses.lock().push(s);
    }
}

/// Makes a core module a guest of a world: what the bindings generator of a language does.
pub fn guest(wat: &str, world: &str) -> Vec<u8> {
    let mut module = wat::parse_str(wat).expect("the test's WAT");
    let mut resolve = wit_parser::Resolve::default();
    let wit = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../wit");
    let (package, _) = resolve.push_dir(&wit).expect("wit/");
    let world = resolve
        .select_world(&[package], Some(world))
        .expect("world");
    wit_component::embed_component_metadata(
        &mut module,
        &resolve,
        world,
        wit_component::StringEncoding::UTF8,
    )
    .expect("metadata");
    module
}

pub const HOSTILE: &str = include_str!("../guests/hostile.wat");

pub const CAPABILITIES: &str = r#"["log", "clock", "random", "kv", "http", "inbound", "timer"]"#;

/// A manifest; `more` is added at the end.
pub fn manifest(id: &str, capabilities: &str, more: &str) -> String {
    format!(
        "schema = 1\nid = \"{id}\"\nversion = \"0.1.0\"\nworld = \"gateway:channel/channel@0.1.0\"\ncomponent = {{ file = \"{id}.wasm\" }}\ncapabilities = {capabilities}\n{more}\n"
    )
}

pub fn plugin_host(pool: u32) -> Arc<PluginHost> {
    PluginHost::new(WasmOptions {
        pool_instances: pool,
        ..WasmOptions::new()
    })
    .expect("plugin host")
}

/// The hostile guest with these manifest lines.
pub async fn hostile(host: &Arc<PluginHost>, more: &str) -> Arc<Plugin> {
    host.load_bytes(
        &manifest("hostile", CAPABILITIES, more),
        &guest(HOSTILE, "channel"),
    )
    .await
    .expect("the hostile guest loads")
}

pub fn account(host: &Arc<PluginHost>, plugin: &Arc<Plugin>, io: &Arc<TestHost>) -> Account {
    Account::new(host.clone(), plugin.clone(), io.clone())
}

/// A webhook whose body is a command of the hostile guest.
pub fn command(c: &str) -> GuestEvent {
    GuestEvent::Webhook(WebhookRequest {
        handle: "h1".into(),
        route: "in".into(),
        method: "POST".into(),
        query: String::new(),
        headers: vec![("content-type".into(), "text/plain".into())],
        body: format!("{c}\0").into_bytes(),
        verified_by: "header-equals".into(),
    })
}

/// A message whose text is a command of the hostile guest.
pub fn message(text: &str) -> Outbound {
    Outbound {
        conversation: Peer {
            kind: PeerKind::Direct,
            id: "c1".into(),
            thread: None,
        },
        text: text.into(),
        reply_to: None,
        run_id: "run".into(),
        part: 0,
        revision: 1,
        is_final: true,
        hold: None,
        extra: Vec::new(),
    }
}

/// Resident bytes of this process.
pub fn rss() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("statm");
    statm
        .split(' ')
        .nth(1)
        .and_then(|p| p.parse::<usize>().ok())
        .expect("pages")
        * 4096
}

/// Waits until something is so; fails after a long time.
pub async fn until(what: &str, mut so: impl FnMut() -> bool) {
    for _ in 0..3_000 {
        if so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}
