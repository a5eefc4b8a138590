//! Traces for an OpenTelemetry collector: the stages of each message as spans, and each other run as one, sent as OTLP/HTTP
//! JSON in batches.
//!
//! Whoever works on a message only puts a step into a bounded queue. One task makes spans of the steps: a stage lasts from
//! the end of the one before it to its own. What finds no room, or no collector for too long, is dropped and counted.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use gateway_config::OtlpSettings;
use gateway_egress::{
    AddressPolicy, Egress, EgressRequest, HeaderName, HeaderValue, HostPortRule, Method, Url,
};
use gateway_metrics::Counter;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::limits::{
    OTLP_BATCH_SPANS, OTLP_DEADLINE_MS, OTLP_OPEN_TRACES_MAX, OTLP_PERIOD_MS, OTLP_QUEUE_STEPS,
    OTLP_TRACE_MAX_MS, OTLP_WAITING_SPANS_MAX,
};
use crate::random::Random;
use crate::trace::{Stage, TraceParent};

/// A stage of a message that was reached.
#[derive(Debug)]
pub(crate) struct Step {
    tenant: Box<str>,
    trace: [u8; 16],
    stage: Stage,
    run_id: Option<Box<str>>,
    at_ms: i64,
    remote: Option<TraceParent>,
}

/// A run that ended and was no answer to a channel message: a span of its own, below the one that asked for it.
#[derive(Debug)]
pub(crate) struct RunSpan {
    pub(crate) tenant: Box<str>,
    pub(crate) run_id: Box<str>,
    /// By which way it was asked for.
    pub(crate) origin: Box<str>,
    /// How it ended.
    pub(crate) state: &'static str,
    pub(crate) failed: bool,
    /// Its trace, and its own span.
    pub(crate) context: TraceParent,
    /// The span that comes before.
    pub(crate) parent: Option<TraceParent>,
    pub(crate) from_ms: i64,
    pub(crate) to_ms: i64,
}

#[derive(Debug)]
enum Told {
    Step(Step),
    Run(Box<RunSpan>),
}

/// The way to the exporter.
#[derive(Debug)]
pub struct Telemetry {
    queue: mpsc::Sender<Told>,
    numbers: Arc<Numbers>,
}

#[derive(Debug, Default)]
struct Numbers {
    exported: Counter,
    dropped: Counter,
}

/// The 16 bytes of a trace id: those of a UUID, else the beginning of a digest.
pub(crate) fn trace_id(text: &str) -> [u8; 16] {
    let hex: Vec<u8> = text
        .bytes()
        .filter(|b| *b != b'-')
        .filter_map(|b| u8::try_from(char::from(b).to_digit(16)?).ok())
        .collect();
    let mut id = [0; 16];
    if hex.len() == 32 && text.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit()) {
        for (byte, pair) in id.iter_mut().zip(hex.chunks(2)) {
            *byte = pair.iter().fold(0, |value, digit| (value << 4) | digit);
        }
    } else {
        let digest = Sha256::digest(text.as_bytes());
        for (byte, from) in id.iter_mut().zip(digest) {
            *byte = from;
        }
    }
    id
}

/// The id of the span of a whole message: always the same for one, so that others can name it before it is over.
pub(crate) fn root_of(trace: &[u8; 16]) -> [u8; 8] {
    let digest = Sha256::digest(trace);
    let mut id = [0; 8];
    for (byte, from) in id.iter_mut().zip(digest) {
        *byte = from;
    }
    // All zeros is no id.
    id[7] |= u8::from(id == [0; 8]);
    id
}

impl Telemetry {
    /// Starts the exporter.
    pub(crate) fn start(
        settings: &OtlpSettings,
        egress: Arc<Egress>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        stop: CancellationToken,
    ) -> Result<Self, String> {
        let url = Url::parse(&settings.endpoint)
            .and_then(|url| url.join_path("/v1/traces"))
            .map_err(|error| error.to_string())?;
        let (queue, steps) = mpsc::channel(OTLP_QUEUE_STEPS);
        let numbers: Arc<Numbers> = Arc::default();
        let exporter = Exporter {
            url,
            token: settings
                .token
                .as_ref()
                .map(|token| token.expose().to_owned()),
            egress,
            clock,
            random,
            numbers: numbers.clone(),
            open: HashMap::new(),
            waiting: VecDeque::new(),
        };
        tokio::spawn(exporter.run(steps, stop));
        Ok(Self { queue, numbers })
    }

    /// A stage was reached. Never waits.
    pub(crate) fn step(
        &self,
        tenant: &str,
        stage: Stage,
        trace: &str,
        run_id: Option<&str>,
        at_ms: i64,
        remote: Option<TraceParent>,
    ) {
        let step = Step {
            tenant: tenant.into(),
            trace: trace_id(trace),
            stage,
            run_id: run_id.map(Into::into),
            at_ms,
            remote,
        };
        self.tell(Told::Step(step));
    }

    /// A run ended. Never waits.
    pub(crate) fn run(&self, span: RunSpan) {
        self.tell(Told::Run(Box::new(span)));
    }

    fn tell(&self, told: Told) {
        if self.queue.try_send(told).is_err() {
            self.numbers.dropped.inc();
        }
    }

    /// Spans that a collector took, since the start.
    #[must_use]
    pub fn exported(&self) -> u64 {
        self.numbers.exported.get()
    }

    /// Spans (and steps) that were dropped, since the start.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.numbers.dropped.get()
    }
}

/// A message on its way.
struct Open {
    root: [u8; 8],
    /// The trace that the sender named, and its span.
    remote: Option<TraceParent>,
    tenant: Box<str>,
    first_ms: i64,
    last_ms: i64,
}

struct Exporter {
    url: Url,
    token: Option<String>,
    egress: Arc<Egress>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    numbers: Arc<Numbers>,
    open: HashMap<[u8; 16], Open>,
    waiting: VecDeque<Value>,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn nanos(ms: i64) -> String {
    format!("{}000000", ms.max(0))
}

impl Exporter {
    async fn run(mut self, mut steps: mpsc::Receiver<Told>, stop: CancellationToken) {
        let mut every = tokio::time::interval(Duration::from_millis(OTLP_PERIOD_MS));
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                step = steps.recv() => match step {
                    Some(told) => self.hear(told),
                    None => break,
                },
                _ = every.tick() => {
                    self.expire();
                    self.export().await;
                }
            }
        }
        // What the end of the process leaves.
        while let Ok(told) = steps.try_recv() {
            self.hear(told);
        }
        self.export().await;
    }

    fn span_id(&self) -> [u8; 8] {
        let mut id = [0; 8];
        self.random.fill(&mut id);
        // All zeros is no id.
        id[7] |= u8::from(id == [0; 8]);
        id
    }

    fn hear(&mut self, told: Told) {
        match told {
            Told::Step(step) => self.take(step),
            Told::Run(run) => self.ended(&run),
        }
    }

    fn ended(&mut self, run: &RunSpan) {
        let mut span = json!({
            "traceId": hex(&run.context.trace), "spanId": hex(&run.context.span), "name": "run", "kind": 1,
            "startTimeUnixNano": nanos(run.from_ms.min(run.to_ms)), "endTimeUnixNano": nanos(run.to_ms),
            "attributes": [
                text("gateway.tenant", &run.tenant), text("gateway.run_id", &run.run_id),
                text("gateway.origin", &run.origin), text("gateway.run_state", run.state),
            ],
        });
        if let Some(parent) = run.parent {
            span["parentSpanId"] = hex(&parent.span).into();
        }
        if run.failed {
            // STATUS_CODE_ERROR
            span["status"] = json!({"code": 2});
        }
        self.wait(span);
    }

    fn take(&mut self, step: Step) {
        if !self.open.contains_key(&step.trace) {
            if self.open.len() >= OTLP_OPEN_TRACES_MAX {
                return self.numbers.dropped.inc();
            }
            let open = Open {
                root: root_of(&step.trace),
                remote: step.remote,
                tenant: step.tenant.clone(),
                first_ms: step.at_ms,
                last_ms: step.at_ms,
            };
            self.open.insert(step.trace, open);
        }
        let id = self.span_id();
        let Some(open) = self.open.get_mut(&step.trace) else {
            return;
        };
        let begin = std::mem::replace(&mut open.last_ms, step.at_ms);
        let mut attributes = vec![text("gateway.tenant", &step.tenant)];
        attributes.extend(step.run_id.as_deref().map(|id| text("gateway.run_id", id)));
        let span = json!({
            "traceId": hex(&open.remote.map_or(step.trace, |r| r.trace)), "spanId": hex(&id), "parentSpanId": hex(&open.root),
            "name": step.stage.as_str(), "kind": 1,
            "startTimeUnixNano": nanos(begin.min(step.at_ms)), "endTimeUnixNano": nanos(step.at_ms),
            "attributes": attributes,
        });
        self.wait(span);
        if step.stage == Stage::Send {
            self.close(step.trace);
        }
    }

    /// The span of the whole message.
    fn close(&mut self, trace: [u8; 16]) {
        let Some(open) = self.open.remove(&trace) else {
            return;
        };
        let mut span = json!({
            "traceId": hex(&open.remote.map_or(trace, |r| r.trace)), "spanId": hex(&open.root), "name": "message", "kind": 2,
            "startTimeUnixNano": nanos(open.first_ms.min(open.last_ms)),
            "endTimeUnixNano": nanos(open.last_ms),
            "attributes": [text("gateway.tenant", &open.tenant)],
        });
        if let Some(remote) = open.remote {
            span["parentSpanId"] = hex(&remote.span).into();
        }
        self.wait(span);
    }

    /// Closes messages that got no answer.
    fn expire(&mut self) {
        let now = self.clock.now_ms();
        let old: Vec<[u8; 16]> = self
            .open
            .iter()
            .filter(|(_, open)| now.saturating_sub(open.last_ms) > OTLP_TRACE_MAX_MS)
            .map(|(trace, _)| *trace)
            .collect();
        for trace in old {
            self.close(trace);
        }
    }

    fn wait(&mut self, span: Value) {
        if self.waiting.len() >= OTLP_WAITING_SPANS_MAX {
            self.waiting.pop_front();
            self.numbers.dropped.inc();
        }
        self.waiting.push_back(span);
    }

    async fn export(&mut self) {
        while !self.waiting.is_empty() {
            let n = self.waiting.len().min(OTLP_BATCH_SPANS);
            let batch: Vec<Value> = self.waiting.drain(..n).collect();
            match self.post(&batch).await {
                Ok(()) => self.numbers.exported.add(n as u64),
                Err((why, again)) => {
                    tracing::debug!(target: "gateway::otlp", why, again, "spans not exported");
                    if !again {
                        self.numbers.dropped.add(n as u64);
                        continue;
                    }
                    for span in batch.into_iter().rev() {
                        self.waiting.push_front(span);
                    }
                    return;
                }
            }
        }
    }

    /// One batch. The error says whether the same may be taken later (OTLP's own list of statuses).
    async fn post(&self, spans: &[Value]) -> Result<(), (String, bool)> {
        let body = json!({"resourceSpans": [{
            "resource": {"attributes": [text("service.name", "gateway")]},
            "scopeSpans": [{"scope": {"name": "gateway.messages"}, "spans": spans}],
        }]});
        // The operator of the host named this address, and nobody else can.
        let policy = AddressPolicy::exact(vec![HostPortRule::of(&self.url, true)]);
        let mut request =
            EgressRequest::new("host/otlp", Method::POST, self.url.clone(), policy.into());
        let mut header = |name: &'static str, value: &str| {
            if let Ok(mut value) = HeaderValue::from_str(value) {
                value.set_sensitive(name == "authorization");
                request.headers.insert(HeaderName::from_static(name), value);
            }
        };
        header("content-type", "application/json");
        if let Some(token) = &self.token {
            header("authorization", &format!("Bearer {token}"));
        }
        request.body = Bytes::from(body.to_string());
        request.deadline = Duration::from_millis(OTLP_DEADLINE_MS);
        let sent = AtomicBool::new(false);
        let answer = self
            .egress
            .request(request, &sent)
            .await
            .map_err(|error| (error.message, true))?;
        match answer.status {
            200..=299 => Ok(()),
            status => Err((
                format!("the collector answered {status}"),
                matches!(status, 429 | 502 | 503 | 504),
            )),
        }
    }
}

fn text(key: &str, value: &str) -> Value {
    json!({"key": key, "value": {"stringValue": value}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trace_ids_are_those_of_the_log() {
        let id = trace_id("0190f0e1d2c3b4a5968778695a4b3c2d");
        assert_eq!(hex(&id), "0190f0e1d2c3b4a5968778695a4b3c2d");
        assert_eq!(trace_id("0190f0e1-d2c3-b4a5-9687-78695a4b3c2d"), id);
        assert_ne!(trace_id("x"), [0; 16]);
        assert_ne!(trace_id("x"), trace_id("y"));
    }
}
