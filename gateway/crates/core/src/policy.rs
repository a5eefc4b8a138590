//! Hook components: guests of a tenant that judge what is about to happen. They can deny and annotate, and nothing else.
//!
//! They are asked in the order of the settings, each in a fresh instance; the first that denies decides. What keeps a hook from
//! answering (a trap, a limit, the deadline, a plugin that is not there) is a failure, and what a failure means the operator says:
//! not doing it, unless `onFailure` is `allow`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::BoxFuture;
use gateway_config::HookComponentSettings;
use gateway_store::{NewAudit, StoreError, Write};
use gateway_wasm::manifest::World;
use gateway_wasm::{
    HookEvent, HookHost, HookLog, Level, OutboundEvent, Plugin, ToolEvent, Verdict,
};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use crate::guest_io::level_word;
use crate::limits::HOOK_ANNOTATIONS_AUDITED_MAX_BYTES;
use crate::tenant::Tenant;
use crate::tool::{ToolCatalog, ToolCx, ToolGuard};

/// Log budgets of a tenant's hooks by plugin; as many as there are plugins.
#[derive(Debug, Default)]
pub(crate) struct HookLogs(Mutex<BTreeMap<String, HookLog>>);

impl HookLogs {
    fn of(&self, plugin: &str) -> HookLog {
        self.0.lock().entry(plugin.to_owned()).or_default().clone()
    }
}

/// What the hooks of a tenant say together.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Judged {
    /// Nothing against it; with what they noted, by plugin.
    Passed(Map<String, Value>),
    /// It is not to be done.
    Denied(Denial),
}

/// Why something is not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Denial {
    /// The plugin.
    pub(crate) hook: String,
    /// Its words, or why it had none.
    pub(crate) reason: String,
    /// It failed, and failures deny.
    pub(crate) failed: bool,
}

impl Denial {
    /// As a model or an operator reads it.
    pub(crate) fn text(&self) -> String {
        if self.failed {
            format!("not done: the hook {} failed ({})", self.hook, self.reason)
        } else {
            format!("denied by the hook {}: {}", self.hook, self.reason)
        }
    }
}

/// The events by their names in the configuration.
pub(crate) const INBOUND: &str = "message.inbound";
pub(crate) const TOOL: &str = "tool.call";
pub(crate) const OUTBOUND: &str = "message.outbound";

fn name_of(event: &HookEvent) -> &'static str {
    match event {
        HookEvent::MessageInbound(_) => INBOUND,
        HookEvent::ToolCall(_) => TOOL,
        HookEvent::MessageOutbound(_) => OUTBOUND,
    }
}

fn asks(hook: &HookComponentSettings, event: &str) -> bool {
    match event {
        INBOUND => hook.inbound,
        TOOL => hook.tools,
        _ => hook.outbound,
    }
}

/// Whether any hook of the tenant is asked about such events.
pub(crate) fn is_asked(tenant: &Tenant, event: &str) -> bool {
    tenant
        .settings()
        .hook_components
        .iter()
        .any(|hook| asks(hook, event))
}

/// Asks the hooks of this tenant.
pub(crate) async fn judge(tenant: &Arc<Tenant>, event: &HookEvent) -> Judged {
    let settings = tenant.settings();
    let name = name_of(event);
    let mut noted = Map::new();
    for hook in settings.hook_components.iter().filter(|h| asks(h, name)) {
        let began = Instant::now();
        let said = ask(tenant, hook, event).await;
        let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let word = match &said {
            Ok(Verdict::Pass) => "pass",
            Ok(Verdict::Annotate(_)) => "annotate",
            Ok(Verdict::Deny(_)) => "deny",
            Err(_) => "failed",
        };
        tracing::debug!(
            target: "gateway::trace",
            stage = "hook",
            tenant = tenant.slug(),
            hook = hook.plugin,
            event = name,
            verdict = word,
            micros,
            "stage"
        );
        match said {
            Ok(Verdict::Pass) => {}
            Ok(Verdict::Annotate(pairs)) => {
                let pairs: Map<String, Value> = pairs
                    .into_iter()
                    .map(|(key, value)| {
                        // What is no JSON is a text.
                        let value = serde_json::from_str(&value).unwrap_or(Value::String(value));
                        (key, value)
                    })
                    .collect();
                noted.insert(hook.plugin.clone(), Value::Object(pairs));
            }
            Ok(Verdict::Deny(reason)) => {
                return Judged::Denied(Denial {
                    hook: hook.plugin.clone(),
                    reason,
                    failed: false,
                });
            }
            Err(why) => {
                tenant.log("error", &format!("hook {} ({name}): {why}", hook.plugin));
                if !hook.fails_open {
                    return Judged::Denied(Denial {
                        hook: hook.plugin.clone(),
                        reason: why,
                        failed: true,
                    });
                }
            }
        }
    }
    Judged::Passed(noted)
}

async fn ask(
    tenant: &Arc<Tenant>,
    hook: &HookComponentSettings,
    event: &HookEvent,
) -> Result<Verdict, String> {
    let shared = tenant.shared();
    let (Some(engines), Some(plugin)) = (&shared.plugins, plugin_of(tenant, &hook.plugin)) else {
        return Err(format!(
            "there is no plugin {:?} in the directory of --wasm-dir",
            hook.plugin
        ));
    };
    if plugin.manifest.world != World::HookV0_1 {
        return Err(format!("plugin {:?} is not a hook", hook.plugin));
    }
    let io = Arc::new(Io {
        tenant: tenant.clone(),
        plugin: hook.plugin.clone(),
        config: hook.config.to_string().into(),
    });
    let log = tenant.hook_logs().of(&hook.plugin);
    gateway_wasm::judge(engines, plugin, event.clone(), hook.timeout_ms, io, &log)
        .await
        .map_err(|error| short(&error.to_string()))
}

fn plugin_of<'t>(tenant: &'t Tenant, id: &str) -> Option<&'t Arc<Plugin>> {
    let mut plugins = tenant.shared().plugin_set.iter();
    plugins.find(|plugin| plugin.manifest.id == id)
}

/// The first line, without what would not fit an audit entry: a trap has a backtrace.
fn short(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    line[..line.floor_char_boundary(gateway_wasm::limits::MAX_SUMMARY_BYTES)].to_owned()
}

struct Io {
    tenant: Arc<Tenant>,
    plugin: String,
    config: Arc<str>,
}

impl HookHost for Io {
    fn tenant(&self) -> &str {
        self.tenant.id().as_str()
    }

    fn monotonic_ms(&self) -> u64 {
        self.tenant.clock().monotonic_ms()
    }

    fn config_json(&self) -> Arc<str> {
        self.config.clone()
    }

    fn log(&self, level: Level, line: &str) {
        self.tenant
            .log(level_word(level), &format!("hook {}: {line}", self.plugin));
    }
}

fn entry(action: &str, outcome: &str, hook: &str, object: Value) -> NewAudit {
    NewAudit {
        action: action.to_owned(),
        outcome: outcome.to_owned(),
        actor_json: json!({"surface": "internal", "hook": hook}).to_string(),
        object_json: Some(object.to_string()),
    }
}

fn denied(event: &str, denial: &Denial, mut object: Value) -> NewAudit {
    object["event"] = event.into();
    object["reason"] = denial.reason.as_str().into();
    let outcome = if denial.failed { "failed" } else { "denied" };
    entry("hook.denied", outcome, &denial.hook, object)
}

/// Writes down that something was denied, in the transaction that decides it. `object` holds ids, never contents.
pub(crate) fn record_denied(
    w: &mut Write<'_>,
    key: &gateway_store::AuditKey,
    event: &str,
    denial: &Denial,
    object: Value,
    now_ms: i64,
) -> Result<(), StoreError> {
    w.append_audit(key, &denied(event, denial, object), now_ms)
        .map(drop)
}

/// The same for what no transaction of its own decides; and what was noted on it.
fn write_down(tenant: &Tenant, event: &str, judged: &Judged, object: Value) {
    let entries: Vec<NewAudit> = match judged {
        Judged::Denied(denial) => vec![denied(event, denial, object)],
        Judged::Passed(noted) => noted
            .iter()
            .map(|(hook, pairs)| {
                let mut object = object.clone();
                object["event"] = event.into();
                if pairs.to_string().len() <= HOOK_ANNOTATIONS_AUDITED_MAX_BYTES {
                    object["annotations"] = pairs.clone();
                }
                entry("hook.annotated", "ok", hook, object)
            })
            .collect(),
    };
    if entries.is_empty() {
        return;
    }
    let (key, now) = (tenant.shared().audit_key, tenant.now_ms());
    // Under way when this returns; nobody waits for it.
    drop(tenant.db().write(move |w| {
        for entry in &entries {
            w.append_audit(&key, entry, now)?;
        }
        Ok(())
    }));
}

/// Whether a message may be put on its platform; why not otherwise.
pub(crate) async fn outbound(tenant: &Arc<Tenant>, event: OutboundEvent) -> Result<(), Denial> {
    if !is_asked(tenant, OUTBOUND) {
        return Ok(());
    }
    let object = json!({
        "kind": event.channel, "account": event.account, "runId": event.run_id, "part": event.part,
    });
    let judged = judge(tenant, &HookEvent::MessageOutbound(event)).await;
    write_down(tenant, OUTBOUND, &judged, object);
    match judged {
        Judged::Passed(_) => Ok(()),
        Judged::Denied(denial) => Err(denial),
    }
}

/// The tools of an agent as its tenant's hooks let them be called. Settings that change meanwhile count for the next call.
pub(crate) fn tools_of(tenant: &Arc<Tenant>, tools: &Arc<ToolCatalog>) -> Arc<ToolCatalog> {
    if tools.is_empty() {
        return tools.clone();
    }
    Arc::new(tools.guarded(Arc::new(HookedTools(tenant.clone()))))
}

/// Asks the hooks of a tenant before a tool is called.
struct HookedTools(Arc<Tenant>);

impl ToolGuard for HookedTools {
    fn check<'a>(
        &'a self,
        cx: &'a ToolCx,
        tool: &'a str,
        arguments: &'a str,
    ) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            if !is_asked(&self.0, TOOL) {
                return Ok(());
            }
            let event = HookEvent::ToolCall(ToolEvent {
                session_key: cx.session_key.as_str().to_owned(),
                run_id: cx.run_id.as_str().to_owned(),
                tool: tool.to_owned(),
                arguments: arguments.to_owned(),
            });
            let object = json!({
                "tool": tool, "runId": cx.run_id.as_str(), "sessionKey": cx.session_key.as_str(),
            });
            let judged = judge(&self.0, &event).await;
            write_down(&self.0, TOOL, &judged, object);
            match judged {
                Judged::Passed(_) => Ok(()),
                Judged::Denied(denial) => Err(denial.text()),
            }
        })
    }
}
