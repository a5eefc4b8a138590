//! What all suites share: settings, a host on a directory, scripted agents, callers, recorded events.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use gateway_config::{AgentSettings, LoadRequest, Overrides, Settings, load};
use gateway_core::agent::{
    AgentBackend, StopReason, Turn, TurnEnd, TurnError, TurnErrorKind, TurnMessage, TurnSink,
};
use gateway_core::agents::BackendFactory;
use gateway_core::clock::{Clock, SimClock};
use gateway_core::random::SeededRandom;
use gateway_core::{
    Caller, Caps, ClientInfo, ConnInfo, Cx, EventPolicy, EventSink, Host, HostOptions, HubGuard,
    Role, Surface, Tenant, WireEvent, dispatch,
};
use gateway_protocol::content::{ContentBlock, Role as Says, Usage, plain_text};
use gateway_protocol::frame::Close;
use gateway_protocol::{RpcError, ScopeSet};
use gateway_store::{StoreExec, SyncMode};
use parking_lot::Mutex;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

pub const MAIN_TOKEN: &str = "main-token-0123456789abcdef0123456789abcdef";
pub const ACME_TOKEN: &str = "acme-token-0123456789abcdef0123456789abcdef";

/// Settings of two tenants, `main` and `acme`, each with an echo agent `main` (and `acme` with one more, `helper`).
pub fn settings(dir: &Path) -> Settings {
    settings_with(dir, MAIN_TOKEN)
}

pub fn settings_with(dir: &Path, main_token: &str) -> Settings {
    std::fs::create_dir_all(dir).unwrap();
    let text = format!(
        r#"{{
            gateway: {{ auth: {{ mode: "token", token: "{main_token}" }} }},
            agents: {{ default: "main", entries: {{ main: {{ backend: "echo" }} }} }},
            tenants: {{ acme: {{ hosts: ["acme.example"], auth: {{ mode: "token", token: "{ACME_TOKEN}" }},
                agents: {{ default: "main", entries: {{ main: {{ backend: "echo" }}, helper: {{ backend: "echo" }} }} }} }} }},
        }}"#
    );
    let path = dir.join("gateway.json5");
    std::fs::write(&path, text).unwrap();
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    load(LoadRequest {
        state_dir: dir.to_owned(),
        config_path: None,
        overrides: Overrides::default(),
        env: &|_| None,
    })
    .unwrap()
}

/// A directory in memory where the machine has one: the suites are about order and loss of processes, not of power.
pub fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap()
}

/// What the scripted agent does with a message; chosen by the message's first word.
#[derive(Default)]
pub struct Script {
    /// Times each run id was begun.
    pub begun: Mutex<HashMap<String, usize>>,
    /// Session keys with a run going on; a second one at once is a fault.
    busy: Mutex<HashMap<String, String>>,
    /// Overlaps seen.
    pub overlaps: AtomicUsize,
    /// What each run was given: (role, text).
    pub seen: Mutex<HashMap<String, Vec<(String, String)>>>,
}

struct BusyGuard<'a>(&'a Script, String);

impl Drop for BusyGuard<'_> {
    fn drop(&mut self) {
        self.0.busy.lock().remove(&self.1);
    }
}

impl AgentBackend for Script {
    fn run<'a>(
        &'a self,
        turn: Turn,
        out: &'a dyn TurnSink,
        cancel: CancellationToken,
    ) -> BoxFuture<'a, Result<TurnEnd, TurnError>> {
        Box::pin(async move {
            let run = turn.run_id.as_str().to_owned();
            let key = turn.session_key.as_str().to_owned();
            *self.begun.lock().entry(run.clone()).or_default() += 1;
            if self.busy.lock().insert(key.clone(), run.clone()).is_some() {
                self.overlaps.fetch_add(1, Ordering::SeqCst);
            }
            let _busy = BusyGuard(self, key);
            let texts: Vec<(String, String)> = turn
                .history
                .iter()
                .map(|m| (m.role.as_str().to_owned(), plain_text(&m.content)))
                .collect();
            let asked = texts.last().map(|(_, t)| t.clone()).unwrap_or_default();
            self.seen.lock().insert(run.clone(), texts);
            let mut text = String::new();
            let fail = |kind: TurnErrorKind, message: &str, text: &str| TurnError {
                kind,
                message: message.to_owned(),
                partial_text: text.to_owned(),
                messages: if text.is_empty() {
                    Vec::new()
                } else {
                    vec![TurnMessage {
                        role: Says::Assistant,
                        content: vec![ContentBlock::text(text)],
                    }]
                },
                usage: Usage::default(),
            };
            let mode = asked.split(' ').next().unwrap_or_default().to_owned();
            assert!(mode != "panic", "a scripted panic");
            for piece in asked.split_inclusive(' ') {
                let pause = match mode.as_str() {
                    "slow" => 50,
                    "hang" => 3_600_000,
                    _ => 1,
                };
                tokio::select! {
                    biased;
                    () = cancel.cancelled() => return Err(fail(TurnErrorKind::Aborted, "aborted", &text)),
                    () = tokio::time::sleep(Duration::from_millis(pause)) => {}
                }
                text.push_str(piece);
                out.text_delta(piece);
                if mode == "fail" && text.len() > 5 {
                    return Err(fail(
                        TurnErrorKind::Upstream,
                        "the upstream broke off",
                        &text,
                    ));
                }
                if mode == "hangafter" {
                    cancel.cancelled().await;
                    return Err(fail(TurnErrorKind::Aborted, "aborted", &text));
                }
            }
            out.usage(&Usage {
                input: 3,
                output: 4,
                ..Usage::default()
            });
            Ok(TurnEnd {
                messages: vec![TurnMessage {
                    role: Says::Assistant,
                    content: vec![ContentBlock::text(text.clone())],
                }],
                text,
                usage: Usage {
                    input: 3,
                    output: 4,
                    ..Usage::default()
                },
                stop_reason: StopReason::Stop,
                model: "script-1".to_owned(),
            })
        })
    }

    fn provider(&self) -> &'static str {
        "script"
    }

    fn model(&self) -> &str {
        "script-1"
    }
}

pub struct Scripts(pub Arc<Script>);

impl BackendFactory for Scripts {
    fn build(&self, _: &AgentSettings, _: &Arc<str>) -> Result<Arc<dyn AgentBackend>, String> {
        Ok(self.0.clone())
    }
}

pub async fn start(dir: &Path, script: &Arc<Script>, seed: u64) -> Arc<Host> {
    start_with(
        dir,
        script,
        seed,
        settings(dir),
        Arc::new(SimClock::new(1_800_000_000_000)),
    )
    .await
}

pub async fn start_with(
    dir: &Path,
    script: &Arc<Script>,
    seed: u64,
    settings: Settings,
    clock: Arc<dyn Clock>,
) -> Arc<Host> {
    let mut options = HostOptions::new(dir, settings);
    options.clock = clock;
    options.random = Arc::new(SeededRandom::new(seed));
    options.backends = Some(Arc::new(Scripts(script.clone())));
    options.exec = Some(StoreExec::Inline);
    options.sync = SyncMode::Off;
    options.guests = false;
    Host::start(options).await.unwrap()
}

/// Records what a connection is sent.
#[derive(Default)]
pub struct Recorder {
    events: Mutex<Vec<(String, Value)>>,
    pub closed: Mutex<Option<Close>>,
}

impl EventSink for Recorder {
    fn push(&self, ev: &Arc<WireEvent>) -> gateway_core::hub::Pushed {
        let payload = serde_json::from_slice(&ev.payload).unwrap();
        let mut frame = ev.head.to_vec();
        frame.extend_from_slice(b",\"seq\":1}");
        let whole: Value = serde_json::from_slice(&frame).unwrap();
        assert_eq!(
            whole["payload"], payload,
            "head and payload are the same event"
        );
        self.events.lock().push((ev.name.to_owned(), payload));
        gateway_core::hub::Pushed::Queued
    }

    fn close(&self, close: Close) {
        self.closed.lock().get_or_insert(close);
    }
}

impl Recorder {
    pub fn all(&self) -> Vec<(String, Value)> {
        self.events.lock().clone()
    }

    pub fn named(&self, name: &str) -> Vec<Value> {
        self.all()
            .into_iter()
            .filter(|(n, _)| n == name)
            .map(|(_, p)| p)
            .collect()
    }

    pub fn bytes(&self) -> String {
        self.all()
            .iter()
            .map(|(n, p)| format!("{n} {p}\n"))
            .collect()
    }
}

pub struct Conn {
    pub caller: Arc<Caller>,
    pub events: Arc<Recorder>,
    pub _guard: HubGuard,
}

pub fn connect(
    host: &Host,
    tenant: &Arc<Tenant>,
    role: Role,
    scopes: ScopeSet,
    caps: &[&str],
) -> Conn {
    connect_as(host, tenant, role, scopes, caps, EventPolicy::Always)
}

pub fn connect_as(
    host: &Host,
    tenant: &Arc<Tenant>,
    role: Role,
    scopes: ScopeSet,
    caps: &[&str],
    events: EventPolicy,
) -> Conn {
    let conn = host.new_conn_id();
    let client = ClientInfo {
        id: "test".into(),
        mode: "test".into(),
        ..ClientInfo::default()
    };
    let info = ConnInfo {
        conn: conn.clone(),
        role,
        proof: gateway_core::auth::Proof::Open,
        device: None,
        scopes,
        caps: Caps::parse(caps),
        client: client.clone(),
        ip: None,
        events,
        connected_at_ms: tenant.now_ms(),
    };
    let recorder = Arc::new(Recorder::default());
    let guard = tenant.hub().register(info, recorder.clone()).unwrap();
    let mut caller = Caller::internal("test", scopes, None);
    caller.conn = Some(conn);
    caller.role = role;
    caller.client = client;
    caller.caps = Caps::parse(caps);
    caller.surface = Surface::V4;
    Conn {
        caller: Arc::new(caller),
        events: recorder,
        _guard: guard,
    }
}

/// An operator with every scope and no connection.
pub fn admin() -> Arc<Caller> {
    let mut caller = Caller::internal("test", ScopeSet::ALL, None);
    caller.surface = Surface::V4;
    Arc::new(caller)
}

pub async fn call(
    host: &Host,
    tenant: &Arc<Tenant>,
    caller: &Arc<Caller>,
    method: &str,
    params: Value,
) -> Result<Value, RpcError> {
    let raw = serde_json::value::to_raw_value(&params).unwrap();
    let cx = Cx::new(tenant.clone(), caller.clone());
    let bytes = dispatch(host, cx, method, Some(&raw), false).wait().await?;
    Ok(serde_json::from_slice(&bytes).unwrap())
}

/// Waits (in virtual time) until no run is queued or going on.
pub async fn settle(tenant: &Tenant) {
    for _ in 0..100_000 {
        if tenant.sessions().active_runs() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("runs do not end: {:?}", tenant.sessions());
}

/// Role and text of a session's history.
pub async fn transcript(host: &Host, tenant: &Arc<Tenant>, key: &str) -> Vec<(String, String)> {
    let got = call(
        host,
        tenant,
        &admin(),
        "chat.history",
        serde_json::json!({"sessionKey": key, "limit": 1000}),
    )
    .await
    .unwrap();
    got["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| {
            let text = m["content"]
                .as_array()
                .unwrap()
                .iter()
                .filter_map(|b| b["text"].as_str())
                .collect::<String>();
            (m["role"].as_str().unwrap().to_owned(), text)
        })
        .collect()
}
