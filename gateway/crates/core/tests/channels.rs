//! Channels with a real store and a double in place of the guest: dedupe, access, holds, delivery, restart.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use gateway_config::{LoadRequest, Settings};
use gateway_core::audit::Audit;
use gateway_core::channel::{ChannelGuest, ChannelPlugin, WebhookAnswer, WebhookHttp};
use gateway_core::delivery::ChannelControl;
use gateway_core::{Host, HostOptions, Tenant};
use gateway_store::{OutboxFilter, OutboxRow, OutboxState, SyncMode};
use gateway_wasm::{
    AccountHost, AccountStatus, Action, CallError, Descriptor, Effects, EventRef, GuestEvent,
    HttpAnswer, InboundMessage, Manifest, Outbound, Peer, PeerKind, Receipt, SendOutcome, Sender,
};
use parking_lot::Mutex;
use serde_json::{Value, json};

const MANIFEST: &str = r#"
schema = 1
id = "double"
version = "1.0.0"
world = "gateway:channel/channel@0.1.0"
component = { file = "double.wasm" }
capabilities = ["log", "kv", "inbound", "config"]
[webhook.inbound]
verify = { kind = "header-equals", header = "X-Secret", secret = "signing" }
max_body = "64KiB"
"#;

/// What all guests of the double share.
#[derive(Default)]
struct Wire {
    sent: Mutex<Vec<Outbound>>,
    script: Mutex<VecDeque<SendOutcome>>,
    events: AtomicUsize,
    headers_seen: Mutex<Vec<String>>,
    configs: Mutex<Vec<String>>,
}

struct Double {
    manifest: Manifest,
    descriptor: Descriptor,
    wire: Arc<Wire>,
}

struct Guest {
    io: Arc<dyn AccountHost>,
    wire: Arc<Wire>,
}

impl ChannelPlugin for Double {
    fn manifest(&self) -> &Manifest {
        &self.manifest
    }
    fn descriptor(&self) -> Option<&Descriptor> {
        Some(&self.descriptor)
    }
    fn account(&self, io: Arc<dyn AccountHost>) -> Arc<dyn ChannelGuest> {
        self.wire.configs.lock().push(io.config_json().to_string());
        Arc::new(Guest {
            io,
            wire: self.wire.clone(),
        })
    }
}

impl ChannelGuest for Guest {
    fn event(&self, event: GuestEvent) -> BoxFuture<'_, Result<Vec<Action>, CallError>> {
        Box::pin(async move {
            self.wire.events.fetch_add(1, Ordering::SeqCst);
            let GuestEvent::Webhook(request) = event else {
                return Ok(Vec::new());
            };
            self.wire.headers_seen.lock().extend(
                request
                    .headers
                    .iter()
                    .map(|(name, value)| format!("{name}: {value}")),
            );
            let body: Value = serde_json::from_slice(&request.body).unwrap_or(Value::Null);
            if body["trap"] == true {
                return Err(CallError::Trap("unreachable".into()));
            }
            let hold = body["hold"] == true;
            let actions = if hold {
                vec![Action::Hold {
                    handle: request.handle.clone(),
                    timeout_ms: 10_000,
                }]
            } else {
                let answer = HttpAnswer {
                    status: 200,
                    headers: Vec::new(),
                    body: b"{\"ok\":true}".to_vec(),
                };
                vec![Action::Respond {
                    handle: request.handle.clone(),
                    answer,
                }]
            };
            let kind = match body["kind"].as_str() {
                Some("group") => PeerKind::Group,
                _ => PeerKind::Direct,
            };
            let from = body["from"].as_str().unwrap_or("").to_owned();
            let message = InboundMessage {
                platform_message_id: body["id"].as_str().unwrap_or("").to_owned(),
                conversation: Peer {
                    kind,
                    id: body["conversation"].as_str().unwrap_or(&from).to_owned(),
                    thread: None,
                },
                sender: Sender {
                    id: from,
                    display_name: Some("Some Body".into()),
                    is_bot: body["bot"] == true,
                },
                text: body["text"].as_str().unwrap_or("").to_owned(),
                mentioned: body["mentioned"] == true,
                reply_to: None,
                timestamp_ms: 0,
                hold: hold.then(|| request.handle.clone()),
                extra: Vec::new(),
            };
            let fx = Effects {
                emits: vec![message],
                consumed: vec![EventRef::Webhook {
                    handle: request.handle,
                }],
                actions: actions.clone(),
                ..Effects::default()
            };
            self.io.commit(fx).await.map_err(CallError::Commit)?;
            Ok(actions)
        })
    }

    fn send(&self, message: Outbound) -> BoxFuture<'_, SendOutcome> {
        Box::pin(async move {
            let held = message.hold.is_some();
            let text = message.text.clone();
            let count = {
                let mut sent = self.wire.sent.lock();
                sent.push(message);
                sent.len()
            };
            if let Some(outcome) = self.wire.script.lock().pop_front() {
                return outcome;
            }
            let answer = held.then(|| HttpAnswer {
                status: 200,
                headers: Vec::new(),
                body: text.into_bytes(),
            });
            SendOutcome::Sent(Receipt {
                message_ids: vec![count.to_string()],
                answer,
                extra: Vec::new(),
            })
        })
    }

    fn edit(&self, _: Receipt, message: Outbound) -> BoxFuture<'_, SendOutcome> {
        self.send(message)
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
    fn release(&self) {}
    fn status(&self) -> AccountStatus {
        AccountStatus::Idle
    }
}

fn settings(dir: &Path, account: &str) -> Settings {
    let text = format!(
        r#"{{
          gateway: {{ auth: {{ mode: "token", token: "0123456789abcdef0123456789abcdef" }} }},
          channels: {{ double: {{ accounts: {{ default: {{ secrets: {{ signing: "s3cr3t-canary-of-the-webhook" }}, config: {{ plain: 1 }}, {account} }} }} }} }},
        }}"#
    );
    let request = LoadRequest {
        state_dir: dir.to_owned(),
        config_path: None,
        overrides: Default::default(),
        env: &|_| None,
    };
    gateway_config::load_text(&text, &request, dir.join("gateway.json5")).unwrap()
}

struct Rig {
    host: Arc<Host>,
    tenant: Arc<Tenant>,
    wire: Arc<Wire>,
}

impl Rig {
    async fn start(dir: &Path, account: &str) -> Self {
        Self::start_with(dir, account, Arc::default(), false).await
    }

    async fn start_with(dir: &Path, account: &str, wire: Arc<Wire>, can_edit: bool) -> Self {
        let descriptor = Descriptor {
            name: "Double".into(),
            max_text_bytes: 0,
            can_edit,
            routes: vec!["inbound".into()],
            extra: Vec::new(),
        };
        let double = Double {
            manifest: Manifest::parse(MANIFEST).unwrap(),
            descriptor,
            wire: wire.clone(),
        };
        let mut options = HostOptions::new(dir, settings(dir, account));
        options.sync = SyncMode::Off;
        options.guests = false;
        options.channel_plugins = vec![Arc::new(double)];
        let host = Host::start(options).await.unwrap();
        let mut ready = host.ready();
        ready.wait_for(|ready| *ready).await.unwrap();
        let tenant = host.main_tenant().unwrap();
        Self { host, tenant, wire }
    }

    fn tenant(&self) -> &Arc<Tenant> {
        &self.tenant
    }

    async fn post_as(&self, secret: Option<&str>, peer: &str, body: &Value) -> WebhookAnswer {
        let request = WebhookHttp {
            method: "POST".into(),
            query: String::new(),
            headers: secret
                .map(|secret| ("x-secret".to_owned(), secret.to_owned()))
                .into_iter()
                .collect(),
            body: body.to_string().into_bytes(),
            peer: peer.parse().unwrap(),
        };
        self.tenant()
            .channels()
            .unwrap()
            .webhook("double", "default", "inbound", request)
            .await
    }

    async fn post(&self, body: Value) -> WebhookAnswer {
        self.post_as(Some("s3cr3t-canary-of-the-webhook"), "127.0.0.1", &body)
            .await
    }

    async fn outbox(&self) -> Vec<OutboxRow> {
        let filter = OutboxFilter {
            limit: 1000,
            ..OutboxFilter::default()
        };
        self.tenant()
            .db()
            .read(move |r| r.list_outbox(&filter))
            .await
            .unwrap()
            .items
    }

    async fn settled(&self, count: usize, state: OutboxState) -> Vec<OutboxRow> {
        for _ in 0..2_000 {
            let rows = self.outbox().await;
            if rows.iter().filter(|row| row.state == state).count() >= count {
                return rows;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!(
            "outbox never had {count} rows {state:?}: {:#?}",
            self.outbox().await
        );
    }

    fn runs_ended(&self) -> u64 {
        self.tenant().sessions().runs_ended()
    }

    async fn stop(self) {
        self.host.shutdown(Duration::from_secs(5)).await;
    }
}

const OPEN: &str = r#"dmPolicy: "open""#;

fn dir() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// Covers: F21.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_message_starts_one_run_however_often_it_comes() {
    let dir = dir();
    let rig = Rig::start(dir.path(), OPEN).await;
    let message = json!({"id": "m1", "from": "u1", "text": "hello"});
    let answers = join_all((0..10).map(|_| rig.post(message.clone()))).await;
    assert!(
        answers.iter().all(|answer| answer.status == 200),
        "{answers:?}"
    );
    let rows = rig.settled(1, OutboxState::Sent).await;
    assert_eq!(rows.len(), 1);
    assert_eq!(rig.runs_ended(), 1);
    // The same id in another conversation is another message.
    assert_eq!(
        rig.post(json!({"id": "m1", "from": "u2", "text": "hello"}))
            .await
            .status,
        200
    );
    rig.settled(2, OutboxState::Sent).await;
    let wire = rig.wire.clone();
    rig.stop().await;
    // And after a restart it is still known.
    let rig = Rig::start_with(dir.path(), OPEN, wire, false).await;
    assert_eq!(rig.post(message).await.status, 200);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(rig.outbox().await.len(), 2);
    assert_eq!(rig.runs_ended(), 0);
    rig.stop().await;
}

/// Covers: A13, N4, N6.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_request_reaches_no_guest() {
    let dir = dir();
    let rig = Rig::start(dir.path(), OPEN).await;
    let body = json!({"id": "m1", "from": "u1", "text": "hello"});
    for secret in [
        None,
        Some(""),
        Some("wrong"),
        Some("s3cr3t-canary-of-the-webhoo"),
        Some("S3CR3T-CANARY-OF-THE-WEBHOOK"),
    ] {
        assert_eq!(
            rig.post_as(secret, "127.0.0.2", &body).await.status,
            401,
            "{secret:?}"
        );
    }
    let tenant = rig.tenant().clone();
    let channels = tenant.channels().unwrap();
    let request = || WebhookHttp {
        method: "POST".into(),
        query: String::new(),
        headers: Vec::new(),
        body: Vec::new(),
        peer: "127.0.0.3".parse().unwrap(),
    };
    for (kind, account, route) in [
        ("double", "default", "nope"),
        ("double", "nope", "inbound"),
        ("nope", "default", "inbound"),
    ] {
        assert_eq!(
            channels.webhook(kind, account, route, request()).await,
            WebhookAnswer::not_found()
        );
        assert_eq!(channels.webhook_limit(kind, account, route), None);
    }
    // Guessing is stopped before the comparison; another address is not hurt.
    let mut statuses = Vec::new();
    for n in 0..20 {
        statuses.push(
            rig.post_as(Some(&format!("guess{n}")), "127.0.0.4", &body)
                .await
                .status,
        );
    }
    assert_eq!(
        statuses.iter().filter(|status| **status == 401).count(),
        10,
        "{statuses:?}"
    );
    assert_eq!(statuses[19], 429);
    assert_eq!(
        rig.post_as(Some("s3cr3t-canary-of-the-webhook"), "127.0.0.4", &body)
            .await
            .status,
        429
    );
    assert_eq!(
        rig.wire.events.load(Ordering::SeqCst),
        0,
        "the guest saw none of them"
    );
    assert_eq!(rig.post(body).await.status, 200);
    assert_eq!(rig.wire.events.load(Ordering::SeqCst), 1);
    rig.stop().await;
}

/// Covers: A13.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_without_its_secret_does_not_exist() {
    let dir = dir();
    let text = r#"{ gateway: { auth: { mode: "token", token: "0123456789abcdef0123456789abcdef" } }, channels: { double: { accounts: { default: { dmPolicy: "open" } } } } }"#;
    let request = LoadRequest {
        state_dir: dir.path().to_owned(),
        config_path: None,
        overrides: Default::default(),
        env: &|_| None,
    };
    let settings =
        gateway_config::load_text(text, &request, dir.path().join("gateway.json5")).unwrap();
    let wire: Arc<Wire> = Arc::default();
    let descriptor = Descriptor {
        name: "Double".into(),
        max_text_bytes: 0,
        can_edit: false,
        routes: Vec::new(),
        extra: Vec::new(),
    };
    let mut options = HostOptions::new(dir.path(), settings);
    options.sync = SyncMode::Off;
    options.guests = false;
    options.channel_plugins = vec![Arc::new(Double {
        manifest: Manifest::parse(MANIFEST).unwrap(),
        descriptor,
        wire: wire.clone(),
    })];
    let host = Host::start(options).await.unwrap();
    host.ready().wait_for(|ready| *ready).await.unwrap();
    let rig = Rig {
        tenant: host.main_tenant().unwrap(),
        host,
        wire,
    };
    for secret in [None, Some(""), Some("anything")] {
        let answer = rig
            .post_as(
                secret,
                "127.0.0.1",
                &json!({"id": "1", "from": "u", "text": "x"}),
            )
            .await;
        assert_eq!(answer, WebhookAnswer::not_found());
    }
    assert_eq!(rig.wire.events.load(Ordering::SeqCst), 0);
    rig.stop().await;
}

/// An address belongs to one account: its own secret opens it and no other's does, its own policy counts, and no spelling of its
/// name leads to it. Two of one name are refused when the configuration is read.
/// Covers: Z11.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_belongs_to_one_account() {
    let dir = dir();
    let load = |accounts: &str| {
        let text = format!(
            r#"{{ gateway: {{ auth: {{ mode: "token", token: "0123456789abcdef0123456789abcdef" }} }},
              channels: {{ double: {{ accounts: {{ {accounts} }} }} }} }}"#
        );
        let request = LoadRequest {
            state_dir: dir.path().to_owned(),
            config_path: None,
            overrides: Default::default(),
            env: &|_| None,
        };
        gateway_config::load_text(&text, &request, dir.path().join("gateway.json5"))
    };
    const OPEN_SECRET: &str = "s3cr3t-canary-of-the-webhook";
    const SHUT_SECRET: &str = "an0ther-canary-of-the-webhook";
    let open = format!(r#"open: {{ secrets: {{ signing: "{OPEN_SECRET}" }}, dmPolicy: "open" }}"#);
    let shut = format!(
        r#"shut: {{ secrets: {{ signing: "{SHUT_SECRET}" }}, dmPolicy: "allowlist", allowFrom: ["kim"] }}"#
    );
    for twice in [
        format!("{open}, {open}"),
        format!(r#"{open}, "op\u0065n": {{ secrets: {{ signing: "{SHUT_SECRET}" }} }}"#),
        format!(r#"{open}, "open/../open": {{ secrets: {{ signing: "{SHUT_SECRET}" }} }}"#),
        format!(r#"{open}, "open ": {{ secrets: {{ signing: "{SHUT_SECRET}" }} }}"#),
    ] {
        assert!(load(&twice).is_err(), "{twice}");
    }
    let wire: Arc<Wire> = Arc::default();
    let mut options = HostOptions::new(dir.path(), load(&format!("{open}, {shut}")).unwrap());
    options.sync = SyncMode::Off;
    options.guests = false;
    options.channel_plugins = vec![Arc::new(Double {
        manifest: Manifest::parse(MANIFEST).unwrap(),
        descriptor: Descriptor {
            name: "Double".into(),
            max_text_bytes: 0,
            can_edit: false,
            routes: vec!["inbound".into()],
            extra: Vec::new(),
        },
        wire: wire.clone(),
    })];
    let host = Host::start(options).await.unwrap();
    host.ready().wait_for(|ready| *ready).await.unwrap();
    let rig = Rig {
        tenant: host.main_tenant().unwrap(),
        host,
        wire,
    };
    let post = async |account: &str, secret: &str, id: &str| {
        let request = WebhookHttp {
            method: "POST".into(),
            query: String::new(),
            headers: vec![("x-secret".to_owned(), secret.to_owned())],
            body: json!({"id": id, "from": "una", "text": "hello"})
                .to_string()
                .into_bytes(),
            peer: "127.0.0.1".parse().unwrap(),
        };
        let channels = rig.tenant().channels().unwrap();
        channels
            .webhook("double", account, "inbound", request)
            .await
            .status
    };
    assert_eq!(post("open", SHUT_SECRET, "1").await, 401);
    assert_eq!(post("shut", OPEN_SECRET, "1").await, 401);
    for name in [
        "Open",
        "open/",
        "open%20",
        " open",
        "",
        "open/../shut",
        "OPEN",
        "default",
    ] {
        assert_eq!(post(name, OPEN_SECRET, "1").await, 404, "{name}");
    }
    assert_eq!(rig.wire.events.load(Ordering::SeqCst), 0);
    // The same message for each: what one lets in, the other does not.
    assert_eq!(post("shut", SHUT_SECRET, "1").await, 200);
    assert_eq!(post("open", OPEN_SECRET, "1").await, 200);
    let rows = rig.settled(1, OutboxState::Sent).await;
    assert!(rows.iter().all(|row| row.account == "open"), "{rows:#?}");
    assert_eq!(rig.runs_ended(), 1);
    rig.stop().await;
}

/// Covers: Z9, Z10.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_strangers_start_no_run() {
    let dir = dir();
    let rig = Rig::start(dir.path(), r#"groupPolicy: "allowlist", groups: ["g1"]"#).await;
    for chunk in (0..1_000).collect::<Vec<_>>().chunks(50) {
        let posts = chunk.iter().map(|n| {
            rig.post(
                json!({"id": format!("m{n}"), "from": format!("stranger{n}"), "text": "let me in"}),
            )
        });
        assert!(
            join_all(posts)
                .await
                .iter()
                .all(|answer| answer.status == 200)
        );
    }
    for (id, body) in [
        (
            "g-a",
            json!({"kind": "group", "conversation": "g2", "mentioned": true}),
        ),
        (
            "g-b",
            json!({"kind": "group", "conversation": "g1", "mentioned": false}),
        ),
        (
            "g-c",
            json!({"kind": "group", "conversation": "G1", "mentioned": true}),
        ),
    ] {
        let mut body = body;
        body["id"] = json!(id);
        body["from"] = json!("stranger1");
        assert_eq!(rig.post(body).await.status, 200);
    }
    assert_eq!(rig.runs_ended(), 0);
    assert_eq!(rig.tenant().sessions().active_runs(), 0);
    let rows = rig.settled(3, OutboxState::Sent).await;
    assert_eq!(rows.len(), 3, "three codes and nothing else");
    let pairing = rig
        .tenant()
        .channels()
        .unwrap()
        .pairing_list(Default::default())
        .await
        .unwrap();
    assert_eq!(pairing.requests.len(), 3);
    for row in &rows {
        assert!(
            pairing
                .requests
                .iter()
                .any(|request| row.text.contains(&request.request_id))
        );
    }
    // Approved once, the sender is let in; the code is used up.
    let request = &pairing.requests[0];
    let approve = || {
        let p = serde_json::from_value(
            json!({"requestId": request.request_id.to_lowercase(), "channel": "double"}),
        )
        .unwrap();
        rig.tenant()
            .channels()
            .unwrap()
            .pairing_approve(p, Audit::default())
    };
    assert_eq!(approve().await.unwrap().sender_id, request.sender_id);
    assert!(approve().await.is_err(), "a code is used once");
    assert_eq!(
        rig.post(json!({"id": "again", "from": request.sender_id, "text": "hello"}))
            .await
            .status,
        200
    );
    rig.settled(4, OutboxState::Sent).await;
    assert_eq!(rig.runs_ended(), 1);
    // The approval counts for direct messages, not for a group that is not on the list.
    assert_eq!(
        rig.post(json!({"id": "again2", "from": request.sender_id, "kind": "group", "conversation": "g2", "mentioned": true})).await.status,
        200
    );
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(rig.runs_ended(), 1);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_channel_does_not_use_the_code_up() {
    let dir = dir();
    let rig = Rig::start(dir.path(), r#"dmPolicy: "pairing""#).await;
    rig.post(json!({"id": "1", "from": "u1", "text": "hi"}))
        .await;
    let channels = rig.tenant().channels().unwrap().clone();
    let code = channels
        .pairing_list(Default::default())
        .await
        .unwrap()
        .requests[0]
        .request_id
        .clone();
    let wrong = serde_json::from_value(json!({"requestId": code, "channel": "telegram"})).unwrap();
    assert!(
        channels
            .pairing_approve(wrong, Audit::default())
            .await
            .is_err()
    );
    let right = serde_json::from_value(json!({"requestId": code})).unwrap();
    assert!(
        channels
            .pairing_approve(right, Audit::default())
            .await
            .is_ok()
    );
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_request_gets_the_reply() {
    let dir = dir();
    let rig = Rig::start(dir.path(), OPEN).await;
    let answer = rig
        .post(json!({"id": "m1", "from": "u1", "text": "hello", "hold": true}))
        .await;
    assert_eq!(answer.status, 200);
    assert!(
        String::from_utf8_lossy(&answer.body).contains("hello"),
        "{answer:?}"
    );
    let rows = rig.settled(1, OutboxState::Sent).await;
    assert_eq!(rows.len(), 1);
    // A repeat of a held message is taken and has no reply of its own.
    let again = rig
        .post(json!({"id": "m1", "from": "u1", "text": "hello", "hold": true}))
        .await;
    assert_eq!(again.status, 202, "{again:?}");
    // So has one of a stranger's that nobody will answer.
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_who_went_away_makes_the_reply_fail_visibly() {
    let dir = dir();
    let rig = Rig::start(dir.path(), OPEN).await;
    let body = json!({"id": "m1", "from": "u1", "text": "hello", "hold": true});
    // Dropped at its first await point after the guest was asked, or at any later one.
    for n in 0..20 {
        let mut body = body.clone();
        body["id"] = json!(format!("gone{n}"));
        let post = rig.post(body);
        let _ = tokio::time::timeout(Duration::from_micros(n * 150), post).await;
    }
    for _ in 0..400 {
        if rig.tenant().sessions().active_runs() == 0
            && rig
                .outbox()
                .await
                .iter()
                .all(|row| row.state != OutboxState::Sending)
        {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for row in rig.outbox().await {
        assert!(
            matches!(row.state, OutboxState::Sent | OutboxState::Failed),
            "{row:?}"
        );
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_came_of_a_send_is_recorded() {
    let dir = dir();
    let rig = Rig::start(dir.path(), OPEN).await;
    let why = || "because".to_owned();
    for (id, outcomes, state, sends) in [
        (
            "retry",
            vec![SendOutcome::Retry {
                after_ms: 1,
                why: why(),
            }],
            OutboxState::Sent,
            2,
        ),
        (
            "failed",
            vec![SendOutcome::Failed { why: why() }],
            OutboxState::Failed,
            1,
        ),
        (
            "unknown",
            vec![SendOutcome::Unknown { why: why() }],
            OutboxState::Unknown,
            1,
        ),
    ] {
        let before = rig.wire.sent.lock().len();
        rig.wire.script.lock().extend(outcomes);
        assert_eq!(
            rig.post(json!({"id": id, "from": id, "text": "hello"}))
                .await
                .status,
            200
        );
        rig.settled(1, state).await;
        let row = rig
            .outbox()
            .await
            .into_iter()
            .find(|row| row.conversation_json.contains(id))
            .unwrap();
        assert_eq!(row.state, state, "{row:?}");
        assert_eq!(rig.wire.sent.lock().len() - before, sends, "{id}");
    }
    // Nothing unknown is sent again by a restart.
    let wire = rig.wire.clone();
    rig.stop().await;
    let before = wire.sent.lock().len();
    let rig = Rig::start_with(dir.path(), OPEN, wire, false).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(rig.wire.sent.lock().len(), before);
    let listed = rig
        .tenant()
        .channels()
        .unwrap()
        .outbox_list(serde_json::from_value(json!({"state": "unknown"})).unwrap())
        .await
        .unwrap();
    assert_eq!(listed.items.len(), 1);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn send_is_idempotent_by_its_key() {
    let dir = dir();
    let rig = Rig::start(dir.path(), OPEN).await;
    let channels = rig.tenant().channels().unwrap().clone();
    let send = |text: &str| {
        let p = serde_json::from_value(
            json!({"to": "group:g1", "idempotencyKey": "k1", "message": text}),
        )
        .unwrap();
        channels.send(p)
    };
    let both = tokio::join!(send("hello"), send("hello"));
    assert_eq!(both.0.unwrap().outbox_id, both.1.unwrap().outbox_id);
    rig.settled(1, OutboxState::Sent).await;
    let error = send("other").await.unwrap_err();
    assert_eq!(error.detail.row().name, "IDEMPOTENCY_CONFLICT");
    assert_eq!(rig.wire.sent.lock().len(), 1);
    assert_eq!(
        rig.wire.sent.lock()[0].conversation,
        Peer {
            kind: PeerKind::Group,
            id: "g1".into(),
            thread: None
        }
    );
    rig.stop().await;
}

/// Covers: N4.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_secret_of_a_webhook_reaches_no_guest_and_no_log() {
    let dir = dir();
    let rig = Rig::start(dir.path(), OPEN).await;
    rig.post(json!({"id": "m1", "from": "u1", "text": "hello"}))
        .await;
    rig.post_as(Some("wrong"), "127.0.0.9", &json!({})).await;
    rig.settled(1, OutboxState::Sent).await;
    let canary = "s3cr3t-canary";
    assert!(
        rig.wire
            .configs
            .lock()
            .iter()
            .all(|config| !config.contains(canary))
    );
    assert!(
        rig.wire
            .headers_seen
            .lock()
            .iter()
            .all(|header| !header.contains(canary))
    );
    let tail = rig.tenant().logs().tail(None, 5_000, 1_000_000);
    assert!(!format!("{tail:?}").contains(canary));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_account_stays_stopped_over_a_restart() {
    let dir = dir();
    let rig = Rig::start(dir.path(), OPEN).await;
    let stop = serde_json::from_value(json!({"channel": "double"})).unwrap();
    assert!(
        !rig.tenant()
            .channels()
            .unwrap()
            .clone()
            .stop(stop, Audit::default())
            .await
            .unwrap()
            .running
    );
    assert_eq!(
        rig.post(json!({"id": "m1", "from": "u1", "text": "x"}))
            .await
            .status,
        404
    );
    rig.stop().await;
    let rig = Rig::start(dir.path(), OPEN).await;
    assert_eq!(
        rig.post(json!({"id": "m1", "from": "u1", "text": "x"}))
            .await
            .status,
        404
    );
    let start = serde_json::from_value(json!({"channel": "double"})).unwrap();
    assert!(
        ChannelControl::start(&**rig.tenant().channels().unwrap(), start, Audit::default())
            .await
            .unwrap()
            .running
    );
    assert_eq!(
        rig.post(json!({"id": "m1", "from": "u1", "text": "x"}))
            .await
            .status,
        200
    );
    rig.settled(1, OutboxState::Sent).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_plugin_degrades_its_account_only() {
    let dir = dir();
    let mut options = HostOptions::new(dir.path(), settings(dir.path(), OPEN));
    options.sync = SyncMode::Off;
    options.guests = false;
    let host = Host::start(options).await.unwrap();
    host.ready().wait_for(|ready| *ready).await.unwrap();
    let rows = host
        .main_tenant()
        .unwrap()
        .channels()
        .unwrap()
        .status_rows(0, None);
    let row = &rows.channel_accounts["double"][0];
    assert_eq!(row.health_state.as_deref(), Some("degraded"));
    assert!(
        row.last_error.as_deref().unwrap().contains("--wasm-dir"),
        "{row:?}"
    );
    host.shutdown(Duration::from_secs(1)).await;
}

/// Covers: F16.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_accepted_is_answered_after_a_crash() {
    let dir = dir();
    let wire: Arc<Wire> = Arc::default();
    let rig = Rig::start_with(dir.path(), OPEN, wire.clone(), false).await;
    // A guest that trapped stored nothing: the platform gets an error and delivers again.
    assert_eq!(
        rig.post(json!({"id": "m0", "from": "u0", "trap": true}))
            .await
            .status,
        500
    );
    assert_eq!(
        rig.post(json!({"id": "m0", "from": "u0", "text": "now it works"}))
            .await
            .status,
        200
    );
    rig.settled(1, OutboxState::Sent).await;
    for n in 1..=5 {
        assert_eq!(
            rig.post(json!({"id": format!("m{n}"), "from": format!("u{n}"), "text": "hello"}))
                .await
                .status,
            200
        );
    }
    // Dropped without a shutdown, at whatever point the runs are.
    drop(rig);
    let rig = Rig::start_with(dir.path(), OPEN, wire, false).await;
    for _ in 0..2_000 {
        let rows = rig.outbox().await;
        let done = rows
            .iter()
            .filter(|row| matches!(row.state, OutboxState::Sent | OutboxState::Unknown))
            .count();
        if done == 6 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let rows = rig.outbox().await;
    assert_eq!(rows.len(), 6, "{rows:#?}");
    let mut seen = std::collections::BTreeMap::new();
    for message in rig.wire.sent.lock().iter() {
        *seen.entry(message.run_id.clone()).or_insert(0) += 1;
    }
    assert!(
        seen.values().all(|count| *count == 1),
        "sent twice: {seen:?}"
    );
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_who_waits_for_a_reply_gets_the_code_as_the_reply() {
    let dir = dir();
    let rig = Rig::start(dir.path(), r#"dmPolicy: "pairing""#).await;
    let first = rig
        .post(json!({"id": "1", "from": "u1", "text": "hi", "hold": true}))
        .await;
    let code = rig
        .tenant()
        .channels()
        .unwrap()
        .pairing_list(Default::default())
        .await
        .unwrap()
        .requests[0]
        .request_id
        .clone();
    assert_eq!(first.status, 200);
    assert!(
        String::from_utf8_lossy(&first.body).contains(&code),
        "{first:?}"
    );
    // Who writes again learns nothing new.
    let second = rig
        .post(json!({"id": "2", "from": "u1", "text": "hi", "hold": true}))
        .await;
    assert_eq!(second.status, 202);
    assert_eq!(rig.runs_ended(), 0);
    rig.stop().await;
}

impl Rig {
    async fn ask(&self, method: &str, params: Value) -> Value {
        let raw = serde_json::value::to_raw_value(&params).unwrap();
        let caller = gateway_core::Caller::internal("test", gateway_protocol::ScopeSet::ALL, None);
        let cx = gateway_core::Cx::new(self.tenant().clone(), Arc::new(caller));
        let bytes = gateway_core::dispatch(&self.host, cx, method, Some(&raw), false)
            .wait()
            .await
            .unwrap_or_else(|error| panic!("{method}: {error:?}"));
        serde_json::from_slice(&bytes).unwrap()
    }

    /// Makes a job and runs it to its end; gives its row in the log.
    async fn run_job(&self, message: &str, delivery: Value) -> Value {
        let job = self
            .ask(
                "cron.add",
                json!({"name": "job", "schedule": {"kind": "cron", "expr": "0 3 * * *"}, "sessionTarget": "isolated", "wakeMode": "now",
                       "payload": {"kind": "agentTurn", "message": message}, "delivery": delivery}),
            )
            .await;
        self.run_to_end(job["id"].as_str().unwrap()).await
    }

    async fn run_to_end(&self, id: &str) -> Value {
        let run = self.ask("cron.run", json!({"id": id})).await;
        for _ in 0..2_000 {
            let page = self.ask("cron.runs", json!({"runId": run["runId"]})).await;
            if let Some(entry) = page["entries"].get(0) {
                return entry.clone();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{run} does not end");
    }
}

/// The outcome of a job goes to the conversation that it names, or to the one used last, and nowhere if there is nothing to say.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_announces_its_outcome() {
    let dir = dir();
    let rig = Rig::start(dir.path(), OPEN).await;
    let nobody = rig.run_job("to whom?", json!({"mode": "announce"})).await;
    assert_eq!(nobody["status"], "ok");
    assert_eq!(nobody["deliveryStatus"], "not-delivered");
    assert!(
        nobody["deliveryError"]
            .as_str()
            .unwrap()
            .contains("no conversation yet"),
        "{nobody}"
    );
    rig.run_job(
        "good morning",
        json!({"mode": "announce", "channel": "double", "to": "group:g1"}),
    )
    .await;
    let rows = rig.settled(1, OutboxState::Sent).await;
    assert_eq!(rows.len(), 1);
    let first = rig.wire.sent.lock()[0].clone();
    assert_eq!(
        (first.conversation.id.as_str(), first.conversation.kind),
        ("g1", PeerKind::Group)
    );
    assert!(first.text.contains("good morning"));
    let log = rig
        .ask("cron.runs", json!({"deliveryStatus": "delivered"}))
        .await;
    assert_eq!(log["total"], 1, "{log}");
    assert_eq!(
        log["entries"][0]["delivery"]["intended"]["channel"],
        "double"
    );
    rig.post(json!({"id": "m1", "from": "u1", "text": "hello"}))
        .await;
    rig.settled(2, OutboxState::Sent).await;
    rig.run_job("for you", json!({"mode": "announce", "channel": "last"}))
        .await;
    rig.settled(3, OutboxState::Sent).await;
    let last = rig.wire.sent.lock()[2].clone();
    assert_eq!(
        (last.conversation.id.as_str(), last.conversation.kind),
        ("u1", PeerKind::Direct)
    );
    rig.stop().await;
}

/// `owner` is who was let in, not whoever wrote last.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_heartbeat_tells_its_owner() {
    let dir = dir();
    let rig = Rig::start(dir.path(), r#"dmPolicy: "open", allowFrom: ["u1"]"#).await;
    for (id, from) in [("m1", "u1"), ("m2", "stranger")] {
        rig.post(json!({"id": id, "from": from, "text": "hello"}))
            .await;
    }
    rig.settled(2, OutboxState::Sent).await;
    rig.ask("wake", json!({"mode": "now", "text": "mail came"}))
        .await;
    rig.settled(3, OutboxState::Sent).await;
    let told = rig.wire.sent.lock()[2].clone();
    assert_eq!(told.conversation.id, "u1");
    let last = rig.ask("last-heartbeat", json!({})).await;
    assert_eq!(
        (last["status"].as_str(), last["channel"].as_str()),
        (Some("sent"), Some("double"))
    );
    rig.stop().await;
}

/// A small HTTP server: what it was sent, and what it answers.
struct Hook {
    addr: std::net::SocketAddr,
    seen: Arc<Mutex<Vec<(String, Value)>>>,
    answers: Arc<Mutex<VecDeque<u16>>>,
}

impl Hook {
    async fn start() -> Self {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (seen, answers) = (
            Arc::<Mutex<Vec<_>>>::default(),
            Arc::<Mutex<VecDeque<u16>>>::default(),
        );
        let (put, take) = (seen.clone(), answers.clone());
        tokio::spawn(async move {
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                let (put, take) = (put.clone(), take.clone());
                tokio::spawn(async move {
                    let mut bytes = Vec::new();
                    loop {
                        let mut piece = [0; 4096];
                        let n = socket.read(&mut piece).await.unwrap_or(0);
                        bytes.extend_from_slice(&piece[..n]);
                        let text = String::from_utf8_lossy(&bytes).into_owned();
                        let whole = text.split_once("\r\n\r\n").filter(|(head, body)| {
                            let head = head.to_ascii_lowercase();
                            let length = head
                                .split("content-length: ")
                                .nth(1)
                                .and_then(|rest| rest.split("\r\n").next()?.parse::<usize>().ok());
                            length == Some(body.len())
                        });
                        if let Some((head, body)) = whole {
                            put.lock()
                                .push((head.to_owned(), serde_json::from_str(body).unwrap()));
                            break;
                        }
                        if n == 0 {
                            return;
                        }
                    }
                    let status = take.lock().pop_front().unwrap_or(200);
                    let answer = format!(
                        "HTTP/1.1 {status} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                    );
                    let _ = socket.write_all(answer.as_bytes()).await;
                });
            }
        });
        Self {
            addr,
            seen,
            answers,
        }
    }
}

/// Requests of jobs go only where the configuration allows, once, with their secret; outcomes are tried again with the same key.
/// Covers: B2.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_post_where_the_configuration_allows() {
    let hook = Hook::start().await;
    let dir = dir();
    let text = format!(
        r#"{{
          gateway: {{ auth: {{ mode: "token", token: "0123456789abcdef0123456789abcdef" }} }},
          cron: {{ webhook: {{ allow: ["http://{addr}/cron/*"], allowPrivate: true, token: "delivery-canary-4711-x",
            secrets: {{ ci: "payload-canary-0815-y" }} }} }},
        }}"#,
        addr = hook.addr
    );
    let request = LoadRequest {
        state_dir: dir.path().to_owned(),
        config_path: None,
        overrides: Default::default(),
        env: &|_| None,
    };
    let settings =
        gateway_config::load_text(&text, &request, dir.path().join("gateway.json5")).unwrap();
    let mut options = HostOptions::new(dir.path(), settings);
    options.sync = SyncMode::Off;
    options.guests = false;
    let host = Host::start(options).await.unwrap();
    host.ready().wait_for(|ready| *ready).await.unwrap();
    let rig = Rig {
        tenant: host.main_tenant().unwrap(),
        host,
        wire: Arc::default(),
    };
    let url = format!("http://{}/cron/build", hook.addr);
    let job = rig
        .ask(
            "cron.add",
            json!({"name": "build", "schedule": {"kind": "every", "everyMs": 3_600_000}, "sessionTarget": "isolated", "wakeMode": "now",
                   "payload": {"kind": "webhook", "url": url, "text": "go", "secret": "ci"}}),
        )
        .await;
    let id = job["id"].as_str().unwrap();
    let run = rig.run_to_end(id).await;
    assert_eq!(run["status"], "ok", "{run}");
    {
        let seen = hook.seen.lock();
        assert_eq!(seen.len(), 1);
        let (head, body) = &seen[0];
        assert!(head.starts_with("POST /cron/build HTTP/1.1"), "{head}");
        assert!(head.contains("Bearer payload-canary-0815-y"), "{head}");
        assert!(head.contains(run["runId"].as_str().unwrap()), "{head}");
        assert_eq!(
            (body["text"].as_str(), body["jobName"].as_str()),
            (Some("go"), Some("build"))
        );
    }
    hook.answers.lock().push_back(500);
    let run = rig.run_to_end(id).await;
    assert_eq!(run["status"], "error");
    assert!(run["error"].as_str().unwrap().contains("500"), "{run}");
    assert_eq!(hook.seen.lock().len(), 2, "a payload is sent once");
    // An outcome: refused for good at once, tried again after a 5xx.
    let other = format!("http://{}/elsewhere", hook.addr);
    let raw =
        serde_json::value::to_raw_value(&json!({"id": id, "patch": {"payload": {"url": other}}}))
            .unwrap();
    let caller = gateway_core::Caller::internal("test", gateway_protocol::ScopeSet::ALL, None);
    let cx = gateway_core::Cx::new(rig.tenant().clone(), Arc::new(caller));
    let error = gateway_core::dispatch(&rig.host, cx, "cron.update", Some(&raw), false)
        .wait()
        .await
        .unwrap_err();
    assert!(
        error.message.contains("cron.webhook.allow"),
        "{}",
        error.message
    );
    hook.answers.lock().push_back(404);
    rig.run_job("outcome", json!({"mode": "webhook", "to": url}))
        .await;
    hook.answers.lock().push_back(503);
    let again = rig
        .run_job("outcome again", json!({"mode": "webhook", "to": url}))
        .await;
    let find = |text: &'static str| {
        let seen = hook.seen.clone();
        move || -> Vec<(String, Value)> {
            seen.lock()
                .iter()
                .filter(|(_, body)| body["summary"].as_str().is_some_and(|s| s.ends_with(text)))
                .cloned()
                .collect()
        }
    };
    for _ in 0..2_000 {
        if find("outcome again")().len() == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let twice = find("outcome again")();
    assert_eq!(twice.len(), 2, "tried again after a pause");
    for (head, body) in &twice {
        assert!(head.contains("Bearer delivery-canary-4711-x"), "{head}");
        assert!(
            head.contains(again["runId"].as_str().unwrap()),
            "the same key"
        );
        assert_eq!(body["status"], "ok");
    }
    assert_eq!(find("outcome")().len(), 1, "404 is final");
    for (status, count) in [("delivered", 1), ("not-delivered", 1)] {
        for _ in 0..500 {
            let page = rig
                .ask("cron.runs", json!({"deliveryStatus": status}))
                .await;
            if page["total"] == count {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let page = rig
            .ask("cron.runs", json!({"deliveryStatus": status}))
            .await;
        assert_eq!(page["total"], count, "{page}");
    }
    // The secrets are in no answer and in no log.
    let mut shown = String::new();
    for method in ["cron.list", "cron.runs", "config.get", "logs.tail"] {
        shown.push_str(&rig.ask(method, json!({})).await.to_string());
    }
    assert!(!shown.contains("canary-4711") && !shown.contains("canary-0815"));
    rig.stop().await;
}

/// An edit of one account drains and renews that one; the others, their held requests too, are not touched.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_renews_only_the_accounts_that_it_is_about() {
    let dir = dir();
    let path = dir.path().join("gateway.json5");
    let account = |policy: &str| {
        format!(
            "{{ secrets: {{ signing: \"s3cr3t-canary-of-the-webhook\" }}, dmPolicy: \"{policy}\" }}"
        )
    };
    let text = |accounts: &[(&str, &str)]| {
        let accounts: String = accounts
            .iter()
            .map(|(id, policy)| format!("{id}: {},", account(policy)))
            .collect();
        format!(
            r#"{{ gateway: {{ auth: {{ token: "0123456789abcdef0123456789abcdef" }} }},
                 channels: {{ double: {{ accounts: {{ {accounts} }} }} }} }}"#
        )
    };
    let edit = |text: String| std::fs::write(&path, text).unwrap();
    edit(text(&[
        ("kept", "open"),
        ("changed", "open"),
        ("gone", "open"),
    ]));
    let file = gateway_config::ConfigFile::new(
        dir.path(),
        None,
        gateway_config::Overrides::default(),
        Arc::new(|_| None),
    );
    let wire: Arc<Wire> = Arc::default();
    let double = Double {
        manifest: Manifest::parse(MANIFEST).unwrap(),
        descriptor: Descriptor {
            name: "Double".into(),
            max_text_bytes: 0,
            can_edit: false,
            routes: vec!["inbound".into()],
            extra: Vec::new(),
        },
        wire: wire.clone(),
    };
    let mut options = HostOptions::new(dir.path(), file.load().unwrap());
    options.config = Some(Arc::new(file));
    options.sync = SyncMode::Off;
    options.guests = false;
    options.channel_plugins = vec![Arc::new(double)];
    let host = Host::start(options).await.unwrap();
    host.ready().wait_for(|ready| *ready).await.unwrap();
    let tenant = host.main_tenant().unwrap();
    let channels = tenant.channels().unwrap().clone();
    let find = |id: &str| channels.account("double", id);
    let post = |id: &'static str, body: Value| {
        let channels = channels.clone();
        async move {
            let request = WebhookHttp {
                method: "POST".into(),
                query: String::new(),
                headers: vec![("x-secret".into(), "s3cr3t-canary-of-the-webhook".into())],
                body: body.to_string().into_bytes(),
                peer: "127.0.0.1".parse().unwrap(),
            };
            channels.webhook("double", id, "inbound", request).await
        }
    };
    let (kept, changed) = (find("kept").unwrap(), find("changed").unwrap());
    // Both wait for an answer while the edit is applied.
    let held = |id: &'static str| {
        tokio::spawn(post(
            id,
            json!({"id": format!("h-{id}"), "from": "u", "text": "held", "hold": true}),
        ))
    };
    let waiting = [held("kept"), held("changed")];
    tokio::time::sleep(Duration::from_millis(50)).await;

    edit(text(&[
        ("kept", "open"),
        ("changed", "disabled"),
        ("added", "open"),
    ]));
    host.reload_config().await;
    for waits in waiting {
        assert_eq!(waits.await.unwrap().status, 200);
    }
    assert!(Arc::ptr_eq(&kept, &find("kept").unwrap()), "untouched");
    assert!(!Arc::ptr_eq(&changed, &find("changed").unwrap()), "renewed");
    assert!(find("gone").is_none());
    for (id, status, runs) in [
        ("kept", 200, true),
        ("changed", 200, false),
        ("added", 200, true),
    ] {
        let ended = tenant.sessions().runs_ended();
        let body = json!({"id": format!("n-{id}"), "from": format!("n-{id}"), "text": "new"});
        assert_eq!(post(id, body).await.status, status, "{id}");
        let until = std::time::Instant::now() + Duration::from_secs(if runs { 30 } else { 1 });
        while tenant.sessions().runs_ended() == ended && std::time::Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(tenant.sessions().runs_ended() > ended, runs, "{id}");
    }
    assert_eq!(post("gone", json!({})).await.status, 404);
    let rows = channels.status_rows(0, None);
    let ids: Vec<&str> = rows.channel_accounts["double"]
        .iter()
        .map(|r| r.account_id.as_str())
        .collect();
    assert_eq!(ids, ["added", "changed", "kept"]);
    assert!(rows.channel_accounts["double"].iter().all(|r| r.running));
    // The last ones go: the kind is not in health any more.
    edit("{ gateway: { auth: { token: \"0123456789abcdef0123456789abcdef\" } } }".to_owned());
    host.reload_config().await;
    assert_eq!(channels.accounts().count(), 0);
    let health: Value = serde_json::from_slice(&tenant.health().encoded(&tenant)).unwrap();
    assert_eq!(health["channels"], json!({}));
    host.shutdown(Duration::from_secs(5)).await;
}
