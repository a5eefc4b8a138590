//! Hooks: guests that judge what is about to happen. One call in a fresh instance, without any effect.

use std::sync::Arc;
use std::time::Duration;

use crate::host::HookHost;
use crate::plugin::{Plugin, PluginHost};
use crate::state::{Io, LogBudget};
use crate::types::{CallError, Extra, Peer, Sender};

/// A message of a channel that was let in, before it starts a run.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct InboundEvent {
    pub channel: String,
    pub account: String,
    pub platform_message_id: String,
    pub conversation: Peer,
    pub sender: Sender,
    pub text: String,
    pub mentioned: bool,
    pub agent: String,
    pub session_key: String,
}

/// A tool that is about to be called.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct ToolEvent {
    pub session_key: String,
    pub run_id: String,
    pub tool: String,
    /// JSON as it was written.
    pub arguments: String,
}

/// A message that is about to be put on a platform.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct OutboundEvent {
    pub channel: String,
    pub account: String,
    pub conversation: Peer,
    pub run_id: String,
    pub part: u32,
    pub is_final: bool,
    pub text: String,
}

/// What is about to happen.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum HookEvent {
    MessageInbound(InboundEvent),
    ToolCall(ToolEvent),
    MessageOutbound(OutboundEvent),
}

/// What a hook says. There is no verdict that permits what would not happen without it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing against it.
    Pass,
    /// Nothing against it, and these pairs are kept.
    Annotate(Extra),
    /// It is not done; why, at most 1 KiB without control characters.
    Deny(String),
}

/// Log lines of one hook of one tenant in the minute; kept by whoever calls it.
#[derive(Clone, Default)]
pub struct HookLog(Arc<LogBudget>);

impl std::fmt::Debug for HookLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HookLog")
    }
}

/// Asks a hook, in a fresh instance that is dropped afterwards. Must be called inside of a tokio runtime. `timeout_ms` counts from
/// the moment at which there is a place for the instance, and is cut to what the manifest allows for a call.
///
/// # Errors
/// Whatever kept the hook from saying something: a trap, a limit, the deadline, its own error.
pub async fn judge(
    host: &Arc<PluginHost>,
    plugin: &Arc<Plugin>,
    event: HookEvent,
    timeout_ms: u64,
    io: Arc<dyn HookHost>,
    log: &HookLog,
) -> Result<Verdict, CallError> {
    let limits = plugin.manifest.limits;
    let wall_ms = timeout_ms.min(limits.call_ms).max(1);
    let wall = Duration::from_millis(wall_ms);
    // Whoever asks may have a place of its own meanwhile: nobody waits for one without an end.
    let place = tokio::time::timeout(wall, host.place(plugin.manifest.class))
        .await
        .map_err(|_| CallError::Deadline(wall_ms))?;
    let tenant = Arc::from(io.tenant());
    let spec = plugin.spec(Io::Hook(io), None, log.0.clone());
    let p = plugin.clone();
    let ended = host
        .lanes
        .run(
            tenant,
            wall,
            Duration::from_millis(limits.cpu_ms),
            move |ctl| async move { crate::call::hook(&p, spec, ctl, event).await },
        )
        .await;
    drop(place);
    ended.unwrap_or_else(|lost| Err(crate::account::lost(lost, wall_ms)))
}
