//! Hooks: what they can say, and what becomes of those that trap, loop or want too much.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{guest, plugin_host};
use gateway_wasm::{
    CallError, HookEvent, HookHost, HookLog, InboundEvent, Level, LoadErrorKind, Peer, PeerKind,
    Plugin, PluginHost, Sender, ToolEvent, Verdict, judge,
};

const HOOK: &str = include_str!("guests/hook.wat");
/// Far above what a call takes on a machine that does other things as well.
const PATIENCE: Duration = Duration::from_secs(60);

struct Nobody;

impl HookHost for Nobody {
    fn tenant(&self) -> &str {
        "acme"
    }
    fn monotonic_ms(&self) -> u64 {
        0
    }
    fn config_json(&self) -> Arc<str> {
        "{}".into()
    }
    fn log(&self, _: Level, _: &str) {}
}

fn manifest(capabilities: &str) -> String {
    format!(
        "schema = 1\nid = \"hook\"\nversion = \"0.1.0\"\nworld = \"gateway:hook/hook@0.1.0\"\ncomponent = {{ file = \"hook.wasm\" }}\ncapabilities = {capabilities}\n[limits]\nmemory = \"2MiB\"\ncpu_ms = 2000\n"
    )
}

fn message(text: &str) -> HookEvent {
    HookEvent::MessageInbound(InboundEvent {
        channel: "webhook".into(),
        account: "default".into(),
        platform_message_id: "m1".into(),
        conversation: Peer {
            kind: PeerKind::Direct,
            id: "una".into(),
            thread: Some("t".into()),
        },
        sender: Sender {
            id: "una".into(),
            display_name: Some("Una".into()),
            is_bot: false,
        },
        text: text.into(),
        mentioned: true,
        agent: "main".into(),
        session_key: "agent:main:main".into(),
    })
}

async fn ask(host: &Arc<PluginHost>, hook: &Arc<Plugin>, text: &str) -> Result<Verdict, CallError> {
    // What loops is to be ended soon; everything else has time, also on a busy machine.
    let timeout_ms = if text == "loop" { 300 } else { 5_000 };
    let log = HookLog::default();
    judge(
        host,
        hook,
        message(text),
        timeout_ms,
        Arc::new(Nobody),
        &log,
    )
    .await
}

/// Covers: W3, W5, W9.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hook_answers_or_fails_and_the_next_call_is_a_new_one() {
    let host = plugin_host(8);
    let hook = host
        .load_bytes(&manifest("[]"), &guest(HOOK, "hook"))
        .await
        .unwrap();
    assert_eq!(ask(&host, &hook, "pass").await.unwrap(), Verdict::Pass);
    assert_eq!(
        ask(&host, &hook, "deny").await.unwrap(),
        Verdict::Deny("not with me".into())
    );
    assert_eq!(
        ask(&host, &hook, "annotate").await.unwrap(),
        Verdict::Annotate(vec![("key".into(), "\"value\"".into())])
    );
    let log = HookLog::default();
    let tool = HookEvent::ToolCall(ToolEvent {
        session_key: "agent:main:main".into(),
        run_id: "r".into(),
        tool: "current_time".into(),
        arguments: "{}".into(),
    });
    let said = judge(&host, &hook, tool, 5_000, Arc::new(Nobody), &log).await;
    assert_eq!(said.unwrap(), Verdict::Pass);
    for (text, wanted) in [
        ("trap", "trap"),
        ("loop", "timeout"),
        ("memory", "memory"),
        ("x", "extra"),
        ("zz", ""),
        ("error", "guest"),
    ] {
        let began = Instant::now();
        let error = ask(&host, &hook, text).await.unwrap_err().to_string();
        assert!(error.contains(wanted), "{text}: {error}");
        assert!(began.elapsed() < PATIENCE, "{text}");
        // Nothing of it is left.
        assert_eq!(ask(&host, &hook, "pass").await.unwrap(), Verdict::Pass);
    }
    // Each call has an instance of its own.
    for _ in 0..3 {
        assert_eq!(ask(&host, &hook, "k").await.unwrap(), Verdict::Pass);
    }
    assert_eq!(host.live_instances(), 0);
}

/// Other tenants' calls go on while hooks loop.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn looping_hooks_hold_nobody_up() {
    let host = plugin_host(16);
    let hook = host
        .load_bytes(&manifest("[]"), &guest(HOOK, "hook"))
        .await
        .unwrap();
    let loops: Vec<_> = (0..8)
        .map(|_| {
            let (host, hook) = (host.clone(), hook.clone());
            tokio::spawn(async move { ask(&host, &hook, "loop").await })
        })
        .collect();
    let began = Instant::now();
    assert_eq!(ask(&host, &hook, "pass").await.unwrap(), Verdict::Pass);
    assert!(began.elapsed() < PATIENCE);
    for looped in loops {
        assert!(looped.await.unwrap().is_err());
    }
}

#[tokio::test]
async fn a_hook_has_no_way_out() {
    let host = plugin_host(4);
    for capability in ["http", "kv", "gateway-call", "inbound", "clock"] {
        let refused = host
            .load_bytes(
                &manifest(&format!("[{capability:?}]")),
                &guest(HOOK, "hook"),
            )
            .await
            .unwrap_err();
        assert!(
            matches!(&refused, LoadErrorKind::Manifest(e) if e.0.contains(capability)),
            "{refused}"
        );
    }
    // A guest of another world is no hook.
    let refused = host
        .load_bytes(&manifest("[]"), &guest(common::HOSTILE, "channel"))
        .await
        .unwrap_err();
    assert!(
        matches!(refused, LoadErrorKind::Imports(_) | LoadErrorKind::World(_)),
        "{refused}"
    );
}
