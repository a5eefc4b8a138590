//! The audit log of a tenant: who did what to it. What changes the store is written in the transaction of the change; what
//! was refused, and what changes nothing there, right after.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use gateway_protocol::error::RpcError;
use gateway_store::{
    AuditKey, DatabaseKind, HostDb, NewAudit, StateDir, StoreError, StoreExec, StoreOptions,
    SyncMode, TenantDb, Write, has_newest_schema,
};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use crate::auth::AuthAttempt;
use crate::cx::{Caller, Cx, Surface};
use crate::limits::{
    AUDIT_PATHS_MAX, AUDIT_REFUSALS_MAX, AUDIT_REFUSALS_WINDOW_MS, AUDIT_TEXT_MAX_CHARS,
};
use crate::logs::escape;
use crate::tenant::Tenant;

/// The methods whose calls are written down.
const AUDITED: [&str; 25] = [
    "channels.pairing.approve",
    "channels.start",
    "channels.stop",
    "config.apply",
    "config.patch",
    "config.set",
    "cron.add",
    "cron.remove",
    "cron.run",
    "cron.update",
    "device.pair.approve",
    "device.pair.reject",
    "device.pair.remove",
    "device.pair.rename",
    "device.pair.setupCode",
    "device.token.revoke",
    "device.token.rotate",
    "node.invoke",
    "node.pair.approve",
    "node.pair.reject",
    "node.pair.remove",
    "node.rename",
    "sessions.delete",
    "sessions.reset",
    "set-heartbeats",
];

/// Whether calls of this method are written down.
pub(crate) fn is_audited(method: &str) -> bool {
    AUDITED.contains(&method)
}

struct Entry {
    key: AuditKey,
    action: &'static str,
    actor: String,
    object: Mutex<Option<Value>>,
    /// A transaction has it.
    recorded: AtomicBool,
}

/// The entry of one call, while the call goes on; empty for calls that are not written down.
#[derive(Clone, Default)]
pub struct Audit(Option<Arc<Entry>>);

impl std::fmt::Debug for Audit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Audit({})", self.0.as_ref().map_or("-", |e| e.action))
    }
}

fn short(text: &str) -> String {
    let cut: String = text.chars().take(AUDIT_TEXT_MAX_CHARS).collect();
    escape(&cut).into_owned()
}

fn surface(surface: Surface) -> &'static str {
    match surface {
        Surface::V4 => "v4",
        Surface::JsonRpcWs => "jsonrpc",
        Surface::JsonRpcHttp => "jsonrpc-post",
        Surface::Http => "http",
        Surface::OpenAi => "openai",
        Surface::Internal => "internal",
    }
}

fn actor(caller: &Caller) -> String {
    let mut out = Map::new();
    let mut put = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            out.insert(name.to_owned(), value.into());
        }
    };
    put(
        "credential",
        caller.credential.as_deref().map(str::to_owned),
    );
    put(
        "device",
        caller.device.as_ref().map(|pass| pass.id.to_string()),
    );
    put("conn", caller.conn.as_ref().map(|c| c.as_str().to_owned()));
    put("address", caller.ip.map(|ip| ip.to_string()));
    put("surface", Some(surface(caller.surface).to_owned()));
    put("client", Some(short(&caller.client.id)));
    Value::Object(out).to_string()
}

impl Audit {
    /// Begins the entry of a call.
    pub(crate) fn begin(cx: &Cx, action: &'static str) -> Self {
        Self(Some(Arc::new(Entry {
            key: cx.tenant.shared().audit_key,
            action,
            actor: actor(&cx.caller),
            object: Mutex::default(),
            recorded: AtomicBool::new(false),
        })))
    }

    /// Begins the entry of something that the gateway does by itself, by a rule of the settings.
    pub(crate) fn by_itself(tenant: &Tenant, action: &'static str) -> Self {
        Self(Some(Arc::new(Entry {
            key: tenant.shared().audit_key,
            action,
            actor: json!({"surface": "internal"}).to_string(),
            object: Mutex::default(),
            recorded: AtomicBool::new(false),
        })))
    }

    /// What it is about, where no transaction says so.
    pub(crate) fn about(&self, object: Value) {
        if let Some(entry) = &self.0 {
            *entry.object.lock() = Some(object);
        }
    }

    /// Writes that it was done, in the transaction that does it. `object` holds ids, never contents.
    pub(crate) fn record(
        &self,
        w: &mut Write<'_>,
        object: &Value,
        now_ms: i64,
    ) -> Result<(), StoreError> {
        let Some(entry) = &self.0 else { return Ok(()) };
        w.append_audit(
            &entry.key,
            &NewAudit {
                action: entry.action.to_owned(),
                outcome: "ok".to_owned(),
                actor_json: entry.actor.clone(),
                object_json: Some(object.to_string()),
            },
            now_ms,
        )?;
        entry.recorded.store(true, Ordering::Release);
        Ok(())
    }

    /// Writes how the call ended, unless a transaction that was committed has it.
    pub(crate) fn end(&self, tenant: &Tenant, result: &Result<Bytes, RpcError>) {
        let Some(entry) = &self.0 else { return };
        let outcome = match result {
            Ok(_) if entry.recorded.load(Ordering::Acquire) => return,
            Ok(_) => "ok",
            Err(error) => error.detail.row().name,
        };
        let mut object = entry.object.lock().take();
        if result.is_err() {
            let Some(left_out) = tenant.refusals().admit(tenant.clock().monotonic_ms()) else {
                return;
            };
            note_left_out(&mut object, left_out);
        }
        append(
            tenant,
            NewAudit {
                action: entry.action.to_owned(),
                outcome: outcome.to_owned(),
                actor_json: entry.actor.clone(),
                object_json: object.map(|o| o.to_string()),
            },
        );
    }
}

fn note_left_out(object: &mut Option<Value>, left_out: u64) {
    if left_out > 0 {
        let object = object.get_or_insert_with(|| json!({}));
        object["leftOut"] = left_out.into();
    }
}

/// Under way when this returns; nobody waits for it.
fn append(tenant: &Tenant, new: NewAudit) {
    let (key, now) = (tenant.shared().audit_key, tenant.now_ms());
    drop(
        tenant
            .db()
            .write(move |w| w.append_audit(&key, &new, now).map(drop)),
    );
}

/// Somebody could not prove who he is.
pub(crate) fn sign_in_refused(tenant: &Tenant, attempt: &AuthAttempt<'_>, error: &RpcError) {
    let Some(left_out) = tenant.refusals().admit(tenant.clock().monotonic_ms()) else {
        return;
    };
    let mut object = None;
    note_left_out(&mut object, left_out);
    let address: IpAddr = attempt.peer;
    let mut actor = json!({"address": address.to_string(), "surface": surface(attempt.surface)});
    if let Some(origin) = attempt.origin {
        actor["origin"] = short(origin).into();
    }
    append(
        tenant,
        NewAudit {
            action: "auth.failed".to_owned(),
            outcome: error.detail.row().name.to_owned(),
            actor_json: actor.to_string(),
            object_json: object.map(|o: Value| o.to_string()),
        },
    );
}

/// The entry of a start, for the first transaction of a tenant's store.
pub(crate) fn started(tenant: &Tenant) -> NewAudit {
    let shared = tenant.shared();
    let plugins: Vec<String> = shared
        .plugin_set
        .iter()
        .map(|p| format!("{} {}", p.manifest.id, p.manifest.version))
        .collect();
    NewAudit {
        action: "gateway.started".to_owned(),
        outcome: "ok".to_owned(),
        actor_json: json!({"surface": "internal"}).to_string(),
        object_json: Some(
            json!({"version": shared.version, "bootId": shared.boot_id, "plugins": plugins})
                .to_string(),
        ),
    }
}

/// Those of a list that an entry has room for.
pub(crate) fn first(paths: &[String]) -> &[String] {
    &paths[..paths.len().min(AUDIT_PATHS_MAX)]
}

/// The file of the configuration was edited, and what it says counts now.
pub(crate) fn config_reloaded(tenant: &Tenant, revision: u64, changed: &[String]) {
    append(
        tenant,
        NewAudit {
            action: "config.reload".to_owned(),
            outcome: "ok".to_owned(),
            actor_json: json!({"surface": "file"}).to_string(),
            object_json: Some(json!({"revision": revision, "changed": first(changed)}).to_string()),
        },
    );
}

/// The key of the audit logs of a state directory.
pub(crate) fn key_of(host_db: &HostDb) -> AuditKey {
    AuditKey(host_db.derive_key("audit log"))
}

/// What became of an entry that a command of this machine wanted to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aside {
    /// It is in the tenant's log.
    Written,
    /// There is no store of this tenant yet.
    NoStore,
    /// A gateway runs: its log is its own.
    Running,
    /// The stores wait for a start that brings them up to date; no command does that by the way.
    OldStore,
}

/// Writes what a command of this machine did into the audit log of a tenant, while no gateway runs on the state directory.
///
/// # Errors
/// When the stores cannot be used.
pub async fn append_aside(
    state_dir: &Path,
    slug: &str,
    action: &str,
    object: Value,
    now_ms: i64,
) -> Result<Aside, StoreError> {
    let host_file = state_dir.join("host.sqlite");
    if !host_file.exists() {
        return Ok(Aside::NoStore);
    }
    let state = match StateDir::open(state_dir) {
        Err(StoreError::Locked(_)) => return Ok(Aside::Running),
        opened => opened?,
    };
    if !has_newest_schema(&host_file, DatabaseKind::Host)? {
        return Ok(Aside::OldStore);
    }
    let host_db = HostDb::open(&state, StoreOptions::default())?;
    let Some(row) = host_db.tenants()?.into_iter().find(|t| t.slug == slug) else {
        return Ok(Aside::NoStore);
    };
    let dir = state.tenant_dir(&row);
    let file = dir.join("tenant.sqlite");
    if !file.exists() {
        return Ok(Aside::NoStore);
    }
    if !has_newest_schema(&file, DatabaseKind::Tenant)? {
        return Ok(Aside::OldStore);
    }
    let (key, exec) = (key_of(&host_db), StoreExec::Inline);
    let db = TenantDb::open(dir, row.id, host_db.epoch(), exec, SyncMode::Full)?;
    let new = NewAudit {
        action: action.to_owned(),
        outcome: "ok".to_owned(),
        actor_json: json!({"surface": "command"}).to_string(),
        object_json: Some(object.to_string()),
    };
    db.write(move |w| w.append_audit(&key, &new, now_ms).map(drop))
        .await?;
    db.close().await?;
    host_db.checkpoint()?;
    Ok(Aside::Written)
}

/// Bounds how many refusals are written down: a stranger must not be able to fill the log.
#[derive(Debug, Default)]
pub(crate) struct Refusals(Mutex<Window>);

#[derive(Debug, Default)]
struct Window {
    since_ms: u64,
    written: usize,
    left_out: u64,
}

impl Refusals {
    /// How many were left out since the last one, if this one is to be written.
    fn admit(&self, now_ms: u64) -> Option<u64> {
        let mut window = self.0.lock();
        if now_ms.saturating_sub(window.since_ms) >= AUDIT_REFUSALS_WINDOW_MS {
            window.since_ms = now_ms;
            window.written = 0;
        }
        if window.written >= AUDIT_REFUSALS_MAX {
            window.left_out += 1;
            return None;
        }
        window.written += 1;
        Some(std::mem::take(&mut window.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_bounded_and_those_left_out_are_counted() {
        let refusals = Refusals::default();
        let written = (0..100).filter(|n| refusals.admit(*n).is_some()).count();
        assert_eq!(written, AUDIT_REFUSALS_MAX);
        let left_out = 100 - AUDIT_REFUSALS_MAX as u64;
        let next = refusals.admit(AUDIT_REFUSALS_WINDOW_MS);
        assert_eq!(next, Some(left_out));
        assert_eq!(refusals.admit(AUDIT_REFUSALS_WINDOW_MS), Some(0));
    }
}
