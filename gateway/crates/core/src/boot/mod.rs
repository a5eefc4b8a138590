//! Boot scripts: guests that run once at a start, through the same methods as every client.
//!
//! A boot has an id that lasts until all its scripts ran. A crash in the middle repeats the scripts under the same id, and
//! what they did under a key is not done again; a clean start has a new id and runs them anew.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use gateway_config::{BootOnError, BootScriptSettings};
use gateway_protocol::error::RpcError;
use gateway_protocol::methods::system::{BootHealth, BootListResult, BootScriptRow, PartState};
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

/// Why a start does not go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("boot script {script:?} of tenant {tenant} failed and its policy is abort: {why}")]
pub struct BootAbort {
    /// Slug of the tenant.
    pub tenant: String,
    /// The script.
    pub script: String,
    /// What it said.
    pub why: String,
}

impl BootAbort {
    /// What an operator can do.
    #[must_use]
    pub fn next_step(&self) -> String {
        let at = match self.tenant.as_str() {
            gateway_config::MAIN_TENANT => String::new(),
            slug => format!("tenants.{slug}."),
        };
        format!(
            "mend what it says, or set {at}boot.scripts.{}.onError to \"degrade\" (or enabled to false)",
            self.script
        )
    }
}

/// What its failure does: the operator's word, else the package's.
fn policy(tenant: &Tenant, settings: &BootScriptSettings) -> BootOnError {
    settings.on_error.unwrap_or_else(|| {
        let boot = plugin_of(tenant, &settings.id).and_then(|p| p.manifest.boot.as_ref());
        match boot.map_or_else(OnError::default, |boot| boot.on_error) {
            OnError::Continue => BootOnError::Continue,
            OnError::Degrade => BootOnError::Degrade,
            OnError::Abort => BootOnError::Abort,
        }
    })
}

fn plugin_of<'t>(tenant: &'t Tenant, id: &str) -> Option<&'t Arc<gateway_wasm::Plugin>> {
    let mut plugins = tenant.shared().plugin_set.iter();
    plugins.find(|plugin| plugin.manifest.id == id)
}

/// Why a script runs at a start of this tenant; `None`: it does not.
fn reason(tenant: &Tenant, boot: &gateway_wasm::manifest::Boot) -> Option<BootReason> {
    let main = tenant.slug() == gateway_config::MAIN_TENANT;
    if main && boot.when.contains(&BootWhen::HostStart) {
        Some(BootReason::HostStart)
    } else if boot.when.contains(&BootWhen::TenantStart) {
        Some(BootReason::TenantStart)
    } else {
        None
    }
}

/// Runs the scripts of one tenant at its start. Gives the first that failed and whose policy is `abort`; everything else is
/// recorded and shown in health.
pub(crate) async fn run_all(host: &Arc<Host>, tenant: &Arc<Tenant>) -> Option<BootAbort> {
    let scripts = tenant.settings().boot.clone();
    if scripts.iter().all(|script| !script.enabled) {
        return None;
    }
    let _one = tenant.booting().lock().await;
    let fresh = tenant.new_id();
    let begun = tenant
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
        .await;
    let boot_id = match begun {
        Ok(id) => id,
        Err(error) => {
            not_run(tenant, &error.to_string());
            return None;
        }
    };
    let mut abort = None;
    for script in scripts.iter().filter(|script| script.enabled) {
        if let Err(why) = run_one(host, tenant, script, &boot_id).await {
            abort = abort.or_else(|| aborts(tenant, script, why));
        }
    }
    let ended = tenant
        .db()
        .write(move |w| {
            w.meta_delete(BOOT_ID)?;
            w.prune_boot_runs(KEEP_RUNS)?;
            Ok(())
        })
        .await;
    if let Err(error) = ended {
        tenant.log(
            "error",
            &format!("the end of the boot is not recorded: {error}"),
        );
    }
    publish(tenant).await;
    abort
}

fn aborts(tenant: &Tenant, script: &BootScriptSettings, why: String) -> Option<BootAbort> {
    (policy(tenant, script) == BootOnError::Abort).then(|| BootAbort {
        tenant: tenant.slug().to_owned(),
        script: script.id.clone(),
        why,
    })
}

/// The store is out of order: no script can run, and health says so.
fn not_run(tenant: &Tenant, why: &str) {
    tenant.log("error", &format!("boot scripts did not run: {why}"));
    tenant.health().set_boot(Some(BootHealth {
        state: PartState::Degraded,
        message: Some(format!("boot scripts did not run: {why}")),
        ..BootHealth::default()
    }));
}

/// `boot.run`: the enabled scripts, or one of them, once more, under a boot id of its own. The tenant starts if a script
/// kept it from starting and none does any more.
///
/// # Errors
/// A script that is not configured or not enabled, and those of the store.
pub async fn run_again(
    host: &Arc<Host>,
    tenant: &Arc<Tenant>,
    only: Option<&str>,
) -> Result<BootListResult, RpcError> {
    let scripts: Vec<BootScriptSettings> = tenant
        .settings()
        .boot
        .iter()
        .filter(|script| only.map_or(script.enabled, |id| script.id == id))
        .cloned()
        .collect();
    if let Some(id) = only {
        match scripts.first() {
            None => {
                return Err(RpcError::not_found("boot script")
                    .with("scriptId", gateway_protocol::error::echo(id)));
            }
            Some(script) if !script.enabled => {
                return Err(RpcError::invalid(format!(
                    "boot script {id:?} is not enabled (boot.scripts.{id}.enabled)"
                )));
            }
            Some(_) => {}
        }
    }
    let _one = tenant.booting().lock().await;
    let boot_id = tenant.new_id();
    let id = boot_id.clone();
    tenant
        .db()
        .write(move |w| w.meta_set(LAST_BOOT_ID, &id))
        .await
        .map_err(|error| store_error(tenant, &error))?;
    for script in &scripts {
        // Recorded and shown; what it means for the tenant is decided below.
        let _ = run_one(host, tenant, script, &boot_id).await;
    }
    let listed = list(tenant).await?;
    let stuck = listed
        .scripts
        .iter()
        .any(|row| row.state == "failed" && row.on_error == BootOnError::Abort.as_str());
    tenant.health().set_boot(Some(health_of(&listed)));
    if !stuck {
        crate::start::resume(tenant).await;
    }
    Ok(listed)
}

/// Shows in health how the scripts are.
async fn publish(tenant: &Arc<Tenant>) {
    match list(tenant).await {
        Ok(listed) => tenant.health().set_boot(Some(health_of(&listed))),
        Err(error) => not_run(tenant, &error.message),
    }
}

fn health_of(listed: &BootListResult) -> BootHealth {
    let failed: Vec<String> = listed
        .scripts
        .iter()
        .filter(|row| row.state == "failed" && row.on_error != BootOnError::Continue.as_str())
        .map(|row| {
            let why = row.message.as_deref().unwrap_or("no reason given");
            format!("{}: {why}", row.id)
        })
        .collect();
    BootHealth {
        state: if failed.is_empty() {
            PartState::Ok
        } else {
            PartState::Degraded
        },
        message: (!failed.is_empty()).then(|| failed.join("; ")),
        boot_id: listed.boot_id.clone(),
        scripts: listed
            .scripts
            .iter()
            .filter(|row| !matches!(row.state.as_str(), "disabled" | "skipped"))
            .cloned()
            .collect(),
    }
}

async fn run_one(
    host: &Arc<Host>,
    tenant: &Arc<Tenant>,
    settings: &BootScriptSettings,
    boot_id: &str,
) -> Result<(), String> {
    let shared = tenant.shared();
    let refuse = async |why: String| {
        record(tenant, &settings.id, boot_id, Err(why.clone()), None).await;
        Err(why)
    };
    let (Some(engines), Some(plugin)) = (&shared.plugins, plugin_of(tenant, &settings.id)) else {
        return refuse(format!(
            "there is no plugin {:?} in the directory of --wasm-dir",
            settings.id
        ))
        .await;
    };
    let Some(boot) = plugin
        .manifest
        .boot
        .as_ref()
        .filter(|_| plugin.manifest.world == World::BootV0_1)
    else {
        return refuse(format!("plugin {:?} is not a boot script", settings.id)).await;
    };
    let Some(reason) = reason(tenant, boot) else {
        return Ok(());
    };
    let (script, id, now) = (settings.id.clone(), boot_id.to_owned(), tenant.now_ms());
    let begun = tenant
        .db()
        .write(move |w| w.begin_boot_run(&script, &id, now))
        .await;
    if let Err(error) = begun {
        let why = format!("it was not begun, since that could not be recorded: {error}");
        tenant.log("error", &format!("boot script {}: {why}", settings.id));
        return Err(why);
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
    let outcome = if report.ok {
        Ok(report.summary)
    } else {
        Err(report.summary)
    };
    record(tenant, &settings.id, boot_id, outcome.clone(), Some(log)).await;
    outcome.map(drop)
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
            let plugin = plugin_of(tenant, &script.id);
            // A plugin that is missing fails at the start, and is no reason to skip it.
            let skipped = plugin
                .and_then(|plugin| plugin.manifest.boot.as_ref())
                .is_some_and(|boot| reason(tenant, boot).is_none());
            let run = runs.iter().find(|run| run.script_id == script.id);
            BootScriptRow {
                id: script.id.clone(),
                version: plugin
                    .map(|plugin| plugin.manifest.version.clone())
                    .unwrap_or_default(),
                state: match (script.enabled, run) {
                    (false, _) => "disabled".to_owned(),
                    (true, _) if skipped => "skipped".to_owned(),
                    (true, None) => "pending".to_owned(),
                    (true, Some(run)) => run.state.clone(),
                },
                on_error: policy(tenant, script).as_str().to_owned(),
                tries: run.map_or(0, |run| u64::try_from(run.tries).unwrap_or(0)),
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
