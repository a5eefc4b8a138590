//! `/metrics` for Prometheus, behind a credential: a tenant's operators see their own series, the operator of the host all and
//! those of the process.

use axum::{Extension, Router, body::Body, routing::get};
use gateway_core::{
    cx::Surface,
    metrics::{self, Viewer},
};
use gateway_metrics::{Exposition, Kind};
use gateway_protocol::scope::Scope;
use http::{HeaderMap, HeaderValue, Response, header};

use super::{Ask, auth, reply};
use crate::app::App;

/// `/metrics`.
pub(crate) fn routes() -> Router {
    Router::new().route("/metrics", get(show))
}

async fn show(Extension(ask): Extension<Ask>, headers: HeaderMap) -> Response<Body> {
    let (found, caller) = match auth::caller(&ask, &headers, Surface::JsonRpcHttp, "backend") {
        Ok(found) => found,
        Err(refused) => return refused,
    };
    if !caller.scopes.allows(Scope::Read) {
        return reply::rpc_error(&gateway_protocol::RpcError::missing_scope(Scope::Read));
    }
    let mut out = Exposition::default();
    metrics::show(&ask.app.host, &found.tenant, &mut out).await;
    if Viewer::of(&found.tenant) == Viewer::Host {
        process(&ask.app, &mut out);
    }
    let mut answer = Response::new(Body::from(out.finish()));
    answer.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static(Exposition::CONTENT_TYPE),
    );
    answer
}

fn process(app: &App, out: &mut Exposition) {
    let (host, shared) = (&app.host, app.host.shared());
    let one = |out: &mut Exposition, name, kind, help, value: f64| {
        out.family(name, kind, help);
        out.sample(&[], value);
    };
    app.traffic.write(out);
    // Whole numbers of this size are exact.
    #[allow(clippy::cast_precision_loss)]
    let float = |n: u64| n as f64;
    let readiness = host.readiness();
    for (name, kind, help, value) in [
        (
            "gateway_sockets",
            Kind::Gauge,
            "TCP connections that hold a place.",
            app.budget.used() as u64,
        ),
        (
            "gateway_tenants",
            Kind::Gauge,
            "Tenants that are configured.",
            host.tenants().len() as u64,
        ),
        (
            "gateway_auth_failures_total",
            Kind::Counter,
            "Wrong or missing credentials.",
            host.auth_failures(),
        ),
        (
            "gateway_internal_errors_total",
            Kind::Counter,
            "Faults of the gateway itself, caught panics among them.",
            host.faults().count(),
        ),
        (
            "gateway_log_lines_dropped_total",
            Kind::Counter,
            "Log lines that came faster than they could be written.",
            host.log_lines_dropped(),
        ),
        (
            "gateway_guest_instances",
            Kind::Gauge,
            "Instances of sandboxed components that live.",
            shared.plugins.as_ref().map_or(0, |p| p.live_instances()) as u64,
        ),
        (
            "gateway_ready",
            Kind::Gauge,
            "1 when the gateway can take on work, as /readyz says.",
            u64::from(readiness.is_ready()),
        ),
    ] {
        one(out, name, kind, help, float(value));
    }
    if let Some(telemetry) = &shared.telemetry {
        out.family(
            "gateway_spans_total",
            Kind::Counter,
            "Spans for the collector of traces.",
        );
        out.count(&[("outcome", "exported")], telemetry.exported());
        out.count(&[("outcome", "dropped")], telemetry.dropped());
    }
    if let Some(age) = readiness.commit_age_ms {
        one(
            out,
            "gateway_commit_age_seconds",
            Kind::Gauge,
            "Since the last commit that is known to be on the disk.",
            float(age) / 1_000.0,
        );
    }
    out.family(
        "gateway_build_info",
        Kind::Gauge,
        "1, with the version as label.",
    );
    out.count(&[("version", shared.version)], 1);
    #[allow(clippy::cast_precision_loss)]
    let started = shared.started_ms as f64 / 1_000.0;
    one(
        out,
        "process_start_time_seconds",
        Kind::Gauge,
        "When the gateway started, seconds since the Unix epoch.",
        started,
    );
    system(out, &one);
}

/// What the system counts of this process, under the names that every exporter uses. Absent where there is no `/proc`.
fn system(
    out: &mut Exposition,
    one: &dyn Fn(&mut Exposition, &'static str, Kind, &'static str, f64),
) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let number = line.trim_start_matches(':').trim().split(' ').next()?;
        number.parse::<f64>().ok()
    };
    if let Some(rss) = kib("VmRSS") {
        one(
            out,
            "process_resident_memory_bytes",
            Kind::Gauge,
            "Resident memory.",
            rss * 1_024.0,
        );
    }
    if let Some(threads) = kib("Threads") {
        one(
            out,
            "process_threads",
            Kind::Gauge,
            "Threads of the process.",
            threads,
        );
    }
    let open = std::fs::read_dir("/proc/self/fd").map(Iterator::count);
    if let Ok(open) = open {
        #[allow(clippy::cast_precision_loss)]
        let open = open as f64;
        one(
            out,
            "process_open_fds",
            Kind::Gauge,
            "Open file descriptors.",
            open,
        );
    }
    if let Some(cpu) = cpu_seconds() {
        one(
            out,
            "process_cpu_seconds_total",
            Kind::Counter,
            "CPU time, of the system included.",
            cpu,
        );
    }
}

/// Fields 14 and 15 of `/proc/self/stat` (proc(5)): ticks of 1/100 s on every Linux that Rust supports.
fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the program's name in brackets, which may hold blanks.
    let rest = stat.rsplit_once(')')?.1;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / 100.0)
}
