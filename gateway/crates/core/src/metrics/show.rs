//! The numbers as text: a tenant's own for its operators, everybody's and those of the process for the operator of the host.

use std::sync::Arc;
use std::time::Duration;

use gateway_config::MAIN_TENANT;
use gateway_metrics::{Distribution, Exposition, Kind};

use super::read::{OUTBOX_STATES, Reading};
use super::{GUEST_OUTCOMES, REQUEST_OUTCOMES, RUN_OUTCOMES, SEND_OUTCOMES};
use crate::host::Host;
use crate::limits::{METRICS_STORE_PATIENCE_MS, METRICS_TENANTS_MAX};
use crate::tenant::Tenant;

/// The label of the tenants that have none of their own; no slug looks like it.
const OTHERS: &str = "_others";

/// Who reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Viewer {
    /// The operator of the host: the one of tenant `main`, whose the process and its configuration file are.
    Host,
    /// An operator of one of the other tenants.
    Tenant,
}

impl Viewer {
    /// What somebody with a credential of this tenant may see.
    #[must_use]
    pub fn of(tenant: &Tenant) -> Self {
        match tenant.slug() == MAIN_TENANT {
            true => Self::Host,
            false => Self::Tenant,
        }
    }
}

/// Writes the tenants' numbers that somebody with a credential of `tenant` may see.
pub async fn show(host: &Host, tenant: &Arc<Tenant>, out: &mut Exposition) {
    let tenants = match Viewer::of(tenant) {
        Viewer::Host => host.tenants(),
        Viewer::Tenant => vec![tenant.clone()],
    };
    let readings = readings(&tenants).await;
    write(&readings, out);
}

/// One reading for each of the first tenants, one for all others together.
async fn readings(tenants: &[Arc<Tenant>]) -> Vec<(String, Reading)> {
    let own = tenants.len().min(METRICS_TENANTS_MAX);
    let outboxes = futures_util::future::join_all(tenants[..own].iter().map(|t| outbox(t)));
    let patience = Duration::from_millis(METRICS_STORE_PATIENCE_MS);
    // A store that is stuck must not hide the rest.
    let outboxes = tokio::time::timeout(patience, outboxes)
        .await
        .unwrap_or_default();
    let mut out: Vec<(String, Reading)> = tenants[..own]
        .iter()
        .map(|tenant| (tenant.slug().to_owned(), Reading::of(tenant)))
        .collect();
    for ((_, reading), outbox) in out.iter_mut().zip(outboxes) {
        reading.outbox = outbox;
    }
    if own < tenants.len() {
        let mut others = Reading::empty();
        for tenant in &tenants[own..] {
            others.add(Reading::of(tenant));
        }
        out.push((OTHERS.to_owned(), others));
    }
    out
}

async fn outbox(tenant: &Tenant) -> Option<[(&'static str, u64); OUTBOX_STATES]> {
    let counted = tenant.db().read(|r| r.count_open_outbox()).await.ok()?;
    let counted: Vec<(&'static str, u64)> = counted
        .into_iter()
        .map(|(state, n)| (state.as_str(), u64::try_from(n).unwrap_or(0)))
        .collect();
    counted.try_into().ok()
}

fn write(readings: &[(String, Reading)], out: &mut Exposition) {
    use Kind::{Counter, Gauge};
    out.family(
        "gateway_requests_total",
        Counter,
        "Calls of RPC methods by how they ended; abandoned means that the caller went away.",
    );
    for (tenant, reading) in readings {
        for method in &reading.methods {
            for (outcome, n) in REQUEST_OUTCOMES.iter().zip(method.outcomes) {
                if n > 0 {
                    let labels = [
                        ("tenant", tenant.as_str()),
                        ("method", method.name),
                        ("outcome", *outcome),
                    ];
                    out.count(&labels, n);
                }
            }
        }
    }
    out.family(
        "gateway_request_seconds",
        Kind::Histogram,
        "From a decoded call to its result.",
    );
    for (tenant, reading) in readings {
        for method in reading.methods.iter().filter(|m| m.times.count() > 0) {
            out.histogram(
                &[("tenant", tenant.as_str()), ("method", method.name)],
                &method.times,
            );
        }
    }
    let all = |out: &mut Exposition, name, kind, help, of: &dyn Fn(&Reading) -> u64| {
        out.family(name, kind, help);
        for (tenant, reading) in readings {
            out.count(&[("tenant", tenant.as_str())], of(reading));
        }
    };
    let times = |out: &mut Exposition, name, help, of: &dyn Fn(&Reading) -> &Distribution| {
        out.family(name, Kind::Histogram, help);
        for (tenant, reading) in readings {
            out.histogram(&[("tenant", tenant.as_str())], of(reading));
        }
    };
    let by =
        |out: &mut Exposition, name, help, words: &[&str], of: &dyn Fn(&Reading) -> Vec<u64>| {
            out.family(name, Counter, help);
            for (tenant, reading) in readings {
                for (word, n) in words.iter().zip(of(reading)) {
                    out.count(&[("tenant", tenant.as_str()), ("outcome", *word)], n);
                }
            }
        };
    all(
        out,
        "gateway_connections",
        Gauge,
        "Authenticated WebSocket connections.",
        &|r| r.connections,
    );
    all(
        out,
        "gateway_events_sent_total",
        Counter,
        "Events put into the queues of connections.",
        &|r| r.events,
    );
    all(
        out,
        "gateway_events_dropped_total",
        Counter,
        "Events that were left out because their reader was slow and could do without them.",
        &|r| r.events_dropped,
    );
    all(
        out,
        "gateway_slow_consumers_total",
        Counter,
        "Connections that fell so far behind that they are closed.",
        &|r| r.slow_consumers,
    );
    by(
        out,
        "gateway_runs_total",
        "Runs of agents that ended.",
        &RUN_OUTCOMES,
        &|r| r.runs.to_vec(),
    );
    times(
        out,
        "gateway_run_seconds",
        "From the beginning of a run to its end.",
        &|r| &r.run_times,
    );
    all(
        out,
        "gateway_runs_active",
        Gauge,
        "Runs that agents work on.",
        &|r| r.runs_active,
    );
    all(
        out,
        "gateway_runs_queued",
        Gauge,
        "Runs that wait behind others of their session.",
        &|r| r.runs_queued,
    );
    all(
        out,
        "gateway_inbound_messages_total",
        Counter,
        "Messages of channels that were committed for an agent.",
        &|r| r.inbound,
    );
    by(
        out,
        "gateway_deliveries_total",
        "Attempts to give an answer (or a revision of it) to its platform.",
        &SEND_OUTCOMES,
        &|r| r.sends.to_vec(),
    );
    out.family(
        "gateway_outbox_messages",
        Gauge,
        "Messages that wait, are being sent, are of unknown fate or were given up.",
    );
    for (tenant, reading) in readings {
        for (state, n) in reading.outbox.iter().flatten() {
            out.count(&[("tenant", tenant.as_str()), ("state", *state)], *n);
        }
    }
    by(
        out,
        "gateway_guest_events_total",
        "Events given to sandboxed channels by how their calls ended; busy ones reached no guest.",
        &GUEST_OUTCOMES,
        &|r| r.guest_events.to_vec(),
    );
    times(
        out,
        "gateway_guest_event_seconds",
        "From an event to the commit of what the guest did, with its wait.",
        &|r| &r.guest_times,
    );
    out.family(
        "gateway_guest_cpu_seconds_total",
        Counter,
        "CPU time of guest calls that ended.",
    );
    for (tenant, reading) in readings {
        #[allow(clippy::cast_precision_loss)]
        let seconds = reading.guest_cpu_us as f64 / 1e6;
        out.sample(&[("tenant", tenant.as_str())], seconds);
    }
    all(
        out,
        "gateway_store_commits_total",
        Counter,
        "Commits that changed something; each was on the disk before anybody was answered.",
        &|r| r.commits,
    );
    all(
        out,
        "gateway_store_commit_failures_total",
        Counter,
        "Commits that were undone as a whole.",
        &|r| r.commit_failures,
    );
    all(
        out,
        "gateway_store_writes_total",
        Counter,
        "Writes that commits carried.",
        &|r| r.writes,
    );
    all(
        out,
        "gateway_store_writes_queued",
        Gauge,
        "Writes that wait for a commit.",
        &|r| r.writes_queued,
    );
    times(
        out,
        "gateway_store_commit_seconds",
        "From the first statement of a commit to its end on the disk.",
        &|r| &r.commit_times,
    );
    times(
        out,
        "gateway_store_commit_writes",
        "Writes that shared a commit.",
        &|r| &r.batches,
    );
}
