//! Boot scripts: one run in a fresh instance.

use std::sync::Arc;

use crate::host::BootHost;
use crate::plugin::{Plugin, PluginHost};
use crate::types::Extra;

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

/// How a run ended. Never blocks the start by itself: what a failure means is in the manifest's `on_error`.
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

/// Runs a boot script once. Its deadline is the manifest's.
pub async fn run_boot(
    _host: &Arc<PluginHost>,
    plugin: &Plugin,
    _ctx: BootContext,
    _io: Arc<dyn BootHost>,
) -> BootReport {
    BootReport {
        summary: format!("{}: guest calls are not built yet", plugin.manifest.id),
        ok: false,
        extra: Vec::new(),
        duration_ms: 0,
    }
}
