//! Boot scripts: one run in a fresh instance.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::host::BootHost;
use crate::plugin::{Plugin, PluginHost};
use crate::state::Io;
use crate::types::{CallError, Extra};
use crate::world::boot_v0_1::exports::gateway::boot::script;

/// Why the script runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum BootReason {
    HostStart,
    TenantStart,
    Reload,
}

/// What the script is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootContext {
    /// The same for all scripts of this start.
    pub boot_id: String,
    /// Why.
    pub reason: BootReason,
    /// The same again if this start is repeated after a crash.
    pub idempotency_key: String,
}

/// How a run ended. Never blocks the start by itself: what a failure means is the operator's or the manifest's `on_error`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootReport {
    /// The script's line, or why it failed.
    pub summary: String,
    /// It returned ok and its writes were stored.
    pub ok: bool,
    /// From the script.
    pub extra: Extra,
    /// Wall milliseconds.
    pub duration_ms: u64,
}

/// Runs a boot script once, in a fresh instance that is dropped afterwards. Its deadline is the manifest's.
/// Must be called inside of a tokio runtime.
pub async fn run_boot(
    host: &Arc<PluginHost>,
    plugin: &Arc<Plugin>,
    ctx: BootContext,
    io: Arc<dyn BootHost>,
) -> BootReport {
    let began = Instant::now();
    let result = run(host, plugin, ctx, io).await;
    let duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    match result {
        Ok(report) => BootReport {
            summary: report.summary,
            ok: true,
            extra: report.extra,
            duration_ms,
        },
        Err(e) => BootReport {
            summary: e.to_string(),
            ok: false,
            extra: Vec::new(),
            duration_ms,
        },
    }
}

async fn run(
    host: &Arc<PluginHost>,
    plugin: &Arc<Plugin>,
    ctx: BootContext,
    io: Arc<dyn BootHost>,
) -> Result<script::Report, CallError> {
    let Some(boot) = &plugin.manifest.boot else {
        return Err(CallError::Instantiate("not a boot script".to_owned()));
    };
    let wall_ms = boot.timeout_ms;
    let place = host.place(plugin.manifest.class).await;
    let context = script::Context {
        script_id: plugin.manifest.id.clone(),
        boot_id: ctx.boot_id,
        reason: match ctx.reason {
            BootReason::HostStart => script::Reason::HostStart,
            BootReason::TenantStart => script::Reason::TenantStart,
            BootReason::Reload => script::Reason::Reload,
        },
        idempotency_key: ctx.idempotency_key,
    };
    let spec = plugin.spec(
        Io::Boot(io.clone()),
        Some(tokio::runtime::Handle::current()),
        Arc::default(),
    );
    let (p, tenant) = (plugin.clone(), Arc::from(io.tenant()));
    let cpu = Duration::from_millis(plugin.manifest.limits.cpu_ms);
    let ended = host
        .lanes
        .run(
            tenant,
            Duration::from_millis(wall_ms),
            cpu,
            move |ctl| async move { crate::call::boot(&p, spec, ctl, context).await },
        )
        .await;
    drop(place);
    let (report, fx) = match ended {
        Ok(r) => r?,
        Err(lost) => return Err(crate::account::lost(lost, wall_ms)),
    };
    if !fx.is_empty() {
        io.commit(fx).await.map_err(CallError::Commit)?;
    }
    Ok(report)
}
