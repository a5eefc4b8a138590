//! The trace of one message through the gateway: one line per stage, under the target `gateway::trace`.
//!
//! Lines hold ids and the tenant's slug, and neither secrets nor what people write.

use crate::tenant::Tenant;

/// A stage of a message's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The webhook proved where it comes from.
    Verify,
    /// The guest turned it into messages.
    Guest,
    /// What the guest did is durable.
    Commit,
    /// Agent and session are known.
    Route,
    /// The agent began.
    Run,
    /// The answer waits in the outbox.
    Outbox,
    /// The platform has the answer.
    Send,
}

impl Stage {
    /// The word in the trace.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Verify => "verify",
            Self::Guest => "guest",
            Self::Commit => "commit",
            Self::Route => "route",
            Self::Run => "run",
            Self::Outbox => "outbox",
            Self::Send => "send",
        }
    }
}

/// Writes one stage, and tells the exporter of traces where there is one. `-` is no trace.
pub fn stage(tenant: &Tenant, stage: Stage, trace_id: &str, run_id: Option<&str>) {
    let slug = tenant.slug();
    tracing::debug!(target: "gateway::trace", stage = stage.as_str(), trace_id, tenant = slug, run_id, "stage");
    if let Some(telemetry) = &tenant.shared().telemetry
        && trace_id != "-"
    {
        telemetry.step(slug, stage, trace_id, run_id, tenant.now_ms());
    }
}
