//! The trace of one message through the gateway: one line per stage, under the target `gateway::trace`.
//!
//! Lines hold ids and the tenant's slug, and neither secrets nor what people write.

use crate::tenant::Tenant;

/// W3C trace context: the trace that a request belongs to, and the span in it that comes before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    pub(crate) trace: [u8; 16],
    pub(crate) span: [u8; 8],
}

impl TraceParent {
    /// Reads the value of a `traceparent` header; `None` for what is not one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().split('-');
        let (version, trace, span, flags) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        // A later version may say more behind the flags, this one may not.
        let known = version == "00" && parts.next().is_none();
        if !(known || version > "00" && version != "ff") || flags.len() != 2 {
            return None;
        }
        bytes::<1>(version)?;
        bytes::<1>(flags)?;
        let (trace, span) = (bytes(trace)?, bytes(span)?);
        (trace != [0; 16] && span != [0; 8]).then_some(Self { trace, span })
    }

    /// The context of what is done for a message of our own: in the caller's trace, if it named one.
    pub(crate) fn of_message(trace: &str, remote: Option<Self>) -> Self {
        let own = crate::telemetry::trace_id(trace);
        Self {
            trace: remote.map_or(own, |remote| remote.trace),
            span: crate::telemetry::root_of(&own),
        }
    }

    /// The context of what is done for a run that is no answer to a channel message: in the caller's trace, if it named one, else
    /// in one of its own. The same for each attempt. Run ids are chosen by clients, so that two tenants may use the same.
    pub(crate) fn of_run(tenant: &Tenant, run_id: &str, remote: Option<Self>) -> Self {
        Self::of_message(&format!("{}/{run_id}", tenant.id().as_str()), remote)
    }
}

impl std::fmt::Display for TraceParent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("00-")?;
        self.trace.iter().try_for_each(|b| write!(f, "{b:02x}"))?;
        f.write_str("-")?;
        self.span.iter().try_for_each(|b| write!(f, "{b:02x}"))?;
        f.write_str("-01")
    }
}

/// Exactly so many bytes in lower-case hex.
fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    let lower = |b: &u8| b.is_ascii_digit() || (b'a'..=b'f').contains(b);
    if digits.len() != N * 2 || !digits.iter().all(lower) {
        return None;
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(out)
}

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
    stage_from(tenant, stage, trace_id, run_id, None);
}

/// As [`stage`], for the first stage of a message whose sender named a trace of its own.
pub(crate) fn stage_from(
    tenant: &Tenant,
    stage: Stage,
    trace_id: &str,
    run_id: Option<&str>,
    remote: Option<TraceParent>,
) {
    let slug = tenant.slug();
    tracing::debug!(target: "gateway::trace", stage = stage.as_str(), trace_id, tenant = slug, run_id, "stage");
    if let Some(telemetry) = &tenant.shared().telemetry
        && trace_id != "-"
    {
        telemetry.step(slug, stage, trace_id, run_id, tenant.now_ms(), remote);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The texts are those of the W3C recommendation.
    #[test]
    fn contexts_are_read_and_written() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let parsed = TraceParent::parse(text);
        assert_eq!(parsed.map(|p| p.to_string()).as_deref(), Some(text));
        let later =
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-the-future-brings";
        assert_eq!(TraceParent::parse(later), parsed);
        for bad in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473\u{e9}-00f067aa0ba902b7-01",
            "zz-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceParent::parse(bad), None, "{bad}");
        }
    }
}
