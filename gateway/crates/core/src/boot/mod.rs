//! Boot scripts: guests that run once at a start, through the same methods as every client.
//!
//! A boot has an id that lasts until all its scripts ran. A crash in the middle repeats the scripts under the same id, and
//! what they did under a key is not done again; a clean start has a new id and runs them anew.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use gateway_config::BootScriptSettings;
use gateway_protocol::error::RpcError;
use gateway_protocol::methods::system::{BootListResult, BootScriptRow};
use gateway_protocol::scope::ScopeSet;
use gateway_wasm::manifest::{BootWhen, OnError, World};
use gateway_wasm::{
    BootContext, BootHost, BootReason, CommitReport, Effects, GatewayCallError, HostError, Level,
};
use serde_json::value::RawValue;

use crate::cx::{Caller, Cx};
use crate::dispatch::dispatch;
use crate::guest_io::{KvSpace, host_error, level_word};
use crate::host::Host;
use crate::rpc::error::store as store_error;
use crate::tenant::Tenant;

/// Where the id of a boot that is not over is kept.
const BOOT_ID: &str = "boot.id";
/// Where the id of the last boot is kept.
const LAST_BOOT_ID: &str = "boot.last";
/// Runs that are remembered.
const KEEP_RUNS: i64 = 200;
/// Runs that a listing looks through.
const LISTED_RUNS: i64 = 100;

/// Runs the scripts of one tenant.
///
/// # Errors
/// A text when a script failed whose manifest says `abort`. Everything else is recorded and reported.
pub async fn run_all(host: &Arc<Host>, tenant: &Arc<Tenant>) -> Result<(), String> {
    let scripts = tenant.settings().boot.clone();
    if scripts.iter().all(|script| !script.enabled) {
        return Ok(());
    }
    let fresh = tenant.new_id();
    let boot_id = tenant
        .db()
        .write(move |w| {
            let id = match w.meta_get(BOOT_ID)? {
                Some(unfinished) => unfinished,
                None => {
                    w.meta_set(BOOT_ID, &fresh)?;
                    fresh
                }
            };
            w.meta_set(LAST_BOOT_ID, &id)?;
            Ok(id)
        })
        .await
        .map_err(|error| error.to_string())?;
    let mut abort = None;
    for script in scripts.iter().filter(|script| script.enabled) {
        if let Err(why) = run_one(host, tenant, script, &boot_id).await {
            abort.get_or_insert(why);
        }
    }
    tenant
        .db()
        .write(move |w| {
            w.meta_delete(BOOT_ID)?;
            w.prune_boot_runs(KEEP_RUNS)?;
            Ok(())
        })
        .await
        .map_err(|error| error.to_string())?;
    abort.map_or(Ok(()), Err)
}

async fn run_one(
    host: &Arc<Host>,
    tenant: &Arc<Tenant>,
    settings: &BootScriptSettings,
    boot_id: &str,
) -> Result<(), String> {
    let shared = tenant.shared();
    let plugin = shared
        .plugin_set
        .iter()
        .find(|plugin| plugin.manifest.id == settings.id);
    let (Some(engines), Some(plugin)) = (&shared.plugins, plugin) else {
        record(
            tenant,
            &settings.id,
            boot_id,
            Err(format!(
                "there is no plugin {:?} in the directory of --wasm-dir",
                settings.id
            )),
            None,
        )
        .await;
        return Ok(());
    };
    let Some(boot) = plugin
        .manifest
        .boot
        .as_ref()
        .filter(|_| plugin.manifest.world == World::BootV0_1)
    else {
        record(
            tenant,
            &settings.id,
            boot_id,
            Err(format!("plugin {:?} is not a boot script", settings.id)),
            None,
        )
        .await;
        return Ok(());
    };
    let main = tenant.slug() == gateway_config::MAIN_TENANT;
    let reason = if main && boot.when.contains(&BootWhen::HostStart) {
        BootReason::HostStart
    } else if boot.when.contains(&BootWhen::TenantStart) {
        BootReason::TenantStart
    } else {
        return Ok(());
    };
    let (script, id, now) = (settings.id.clone(), boot_id.to_owned(), tenant.now_ms());
    let begun = tenant
        .db()
        .write(move |w| w.begin_boot_run(&script, &id, now))
        .await;
    if let Err(error) = begun {
        tenant.log("error", &format!("boot script {}: {error}", settings.id));
        return Ok(());
    }
    let io = Arc::new(Io {
        host: Arc::downgrade(host),
        tenant: tenant.clone(),
        script: settings.id.clone(),
        boot_id: boot_id.to_owned(),
        config: settings.config.to_string().into(),
        caller: Arc::new(Caller::internal(
            "boot",
            ScopeSet::ALL,
            Some(
                boot.methods
                    .iter()
                    .map(|method| method.as_str().into())
                    .collect(),
            ),
        )),
        log: parking_lot::Mutex::default(),
    });
    let context = BootContext {
        boot_id: boot_id.to_owned(),
        reason,
        idempotency_key: format!("{}:{boot_id}", settings.id),
    };
    let report = gateway_wasm::run_boot(engines, plugin, context, io.clone()).await;
    let log = io.log.lock().join("\n");
    let failed = (!report.ok).then(|| report.summary.clone());
    record(
        tenant,
        &settings.id,
        boot_id,
        if report.ok {
            Ok(report.summary)
        } else {
            Err(report.summary)
        },
        Some(log),
    )
    .await;
    match (failed, boot.on_error) {
        (Some(why), OnError::Abort) => Err(format!(
            "boot script {:?} failed and its manifest says abort: {why}",
            settings.id
        )),
        _ => Ok(()),
    }
}

async fn record(
    tenant: &Tenant,
    script: &str,
    boot_id: &str,
    outcome: Result<String, String>,
    log: Option<String>,
) {
    let level = if outcome.is_ok() { "info" } else { "error" };
    let text = outcome.as_ref().unwrap_or_else(|why| why).clone();
    tenant.log(level, &format!("boot script {script}: {text}"));
    let (script, boot_id, now) = (script.to_owned(), boot_id.to_owned(), tenant.now_ms());
    let written = tenant
        .db()
        .write(move |w| {
            if w.get_boot_run(&script, &boot_id)?.is_none() {
                w.begin_boot_run(&script, &boot_id, now)?;
            }
            let log = match (&outcome, log) {
                (Ok(summary), Some(log)) if log.is_empty() => Some(summary.clone()),
                (Ok(summary), Some(log)) => Some(format!("{summary}\n{log}")),
                (Ok(summary), None) => Some(summary.clone()),
                (Err(_), log) => log,
            };
            w.end_boot_run(
                &script,
                &boot_id,
                if outcome.is_ok() { "ok" } else { "failed" },
                outcome.as_ref().err().map(String::as_str),
                log.as_deref(),
                now,
            )
        })
        .await;
    if let Err(error) = written {
        tenant.log(
            "error",
            &format!("boot script result not recorded: {error}"),
        );
    }
    tenant.health().nudge();
}

/// `boot.list`: the scripts of the settings with their last run.
///
/// # Errors
/// Those of the store.
pub async fn list(tenant: &Arc<Tenant>) -> Result<BootListResult, RpcError> {
    let (boot_id, runs) = tenant
        .db()
        .read(|r| Ok((r.meta_get(LAST_BOOT_ID)?, r.list_boot_runs(LISTED_RUNS)?)))
        .await
        .map_err(|error| store_error(tenant, &error))?;
    let scripts = tenant
        .settings()
        .boot
        .iter()
        .map(|script| {
            let plugin = tenant
                .shared()
                .plugin_set
                .iter()
                .find(|plugin| plugin.manifest.id == script.id);
            let run = runs.iter().find(|run| run.script_id == script.id);
            BootScriptRow {
                id: script.id.clone(),
                version: plugin
                    .map(|plugin| plugin.manifest.version.clone())
                    .unwrap_or_default(),
                state: match (script.enabled, run) {
                    (false, _) => "disabled".to_owned(),
                    (true, None) => "pending".to_owned(),
                    (true, Some(run)) => run.state.clone(),
                },
                started_at: run.map(|run| run.started_at),
                duration_ms: run.and_then(|run| u64::try_from(run.ended_at? - run.started_at).ok()),
                message: run.and_then(|run| {
                    run.error.clone().or_else(|| {
                        run.log
                            .as_deref()
                            .and_then(|log| log.lines().next())
                            .map(str::to_owned)
                    })
                }),
            }
        })
        .collect();
    Ok(BootListResult {
        boot_id: boot_id.unwrap_or_default(),
        scripts,
    })
}

struct Io {
    host: std::sync::Weak<Host>,
    tenant: Arc<Tenant>,
    script: String,
    boot_id: String,
    config: Arc<str>,
    caller: Arc<Caller>,
    log: parking_lot::Mutex<Vec<String>>,
}

/// Lines of a script's log that are kept with its run.
const LOG_LINES_MAX: usize = 200;

impl Io {
    async fn call_once(&self, method: &str, params: &str, key: &str) -> Result<String, RpcError> {
        let host = self
            .host
            .upgrade()
            .ok_or_else(|| RpcError::unavailable("the gateway is stopping"))?;
        let raw = if params.trim().is_empty() {
            "{}"
        } else {
            params
        };
        if !gateway_protocol::json::depth_within(
            raw.as_bytes(),
            gateway_protocol::limits::JSON_MAX_DEPTH,
        ) {
            return Err(RpcError::invalid("params are nested too deep"));
        }
        let raw: Box<RawValue> = serde_json::from_str(raw)
            .map_err(|error| RpcError::invalid(format!("params are not JSON: {error}")))?;
        let mut cx = Cx::new(self.tenant.clone(), self.caller.clone());
        cx.idempotency = (!key.is_empty()).then(|| key.into());
        let bytes = dispatch(&host, cx, method, Some(&raw), true).wait().await?;
        String::from_utf8(bytes.to_vec()).map_err(|_| RpcError::internal("boot"))
    }
}

impl BootHost for Io {
    fn tenant(&self) -> &str {
        self.tenant.id().as_str()
    }

    fn config_json(&self) -> Arc<str> {
        self.config.clone()
    }

    fn log(&self, level: Level, line: &str) {
        self.tenant.log(
            level_word(level),
            &format!("boot script {}: {line}", self.script),
        );
        let mut log = self.log.lock();
        if log.len() < LOG_LINES_MAX {
            log.push(line.to_owned());
        }
    }

    fn kv_get(&self, key: String) -> BoxFuture<'_, Result<Option<Vec<u8>>, HostError>> {
        Box::pin(KvSpace::new(&self.script, "boot").get(&self.tenant, key))
    }

    fn kv_list(&self, prefix: String) -> BoxFuture<'_, Result<Vec<String>, HostError>> {
        Box::pin(KvSpace::new(&self.script, "boot").list(&self.tenant, prefix))
    }

    fn commit(&self, fx: Effects) -> BoxFuture<'_, Result<CommitReport, HostError>> {
        Box::pin(async move {
            let space = KvSpace::new(&self.script, "boot");
            let quota = self
                .tenant
                .shared()
                .plugin_set
                .iter()
                .find(|plugin| plugin.manifest.id == self.script)
                .map_or(0, |plugin| {
                    i64::try_from(plugin.manifest.limits.kv).unwrap_or(i64::MAX)
                });
            self.tenant
                .db()
                .write(move |w| {
                    space.apply(w, &fx.kv, quota)?;
                    Ok(CommitReport::default())
                })
                .await
                .map_err(|error| host_error(&error))
        })
    }

    fn call(
        &self,
        method: String,
        params: String,
        key: String,
    ) -> BoxFuture<'_, Result<String, GatewayCallError>> {
        Box::pin(async move {
            let wire = |error: RpcError| GatewayCallError {
                code: error.detail.row().name.to_owned(),
                message: error.message,
                retryable: error.retryable,
            };
            if key.is_empty() {
                return self.call_once(&method, &params, "").await.map_err(wire);
            }
            let scope = format!("boot:{}:{}", self.script, self.boot_id);
            let hash = crate::session::request_hash(&[&method, &params]);
            let (at, asked, wanted) = (self.tenant.now_ms(), scope.clone(), key.clone());
            let known = self
                .tenant
                .db()
                .read(move |r| r.recall(&asked, &wanted, &hash, at))
                .await;
            match known {
                Ok(Some(answer)) => return Ok(answer),
                Ok(None) => {}
                Err(error) => return Err(wire(store_error(&self.tenant, &error))),
            }
            // The method itself knows the key as well, for a crash between its commit and the one below.
            let answer = self
                .call_once(&method, &params, &format!("{scope}:{key}"))
                .await
                .map_err(wire)?;
            let hash = crate::session::request_hash(&[&method, &params]);
            let (at, kept) = (self.tenant.now_ms(), answer.clone());
            let remembered = self
                .tenant
                .db()
                .write(move |w| w.remember(&scope, &key, &hash, &kept, at))
                .await;
            remembered.map_err(|error| wire(store_error(&self.tenant, &error)))?;
            Ok(answer)
        })
    }
}
