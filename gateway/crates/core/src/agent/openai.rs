//! The backend for any OpenAI-compatible server: `POST {base}/chat/completions`, streamed, with tools.
//!
//! What can fail does so visibly: before the first piece of an answer a request may be sent again (as often and as late as the
//! server allows it), after it never; a stream that ends without saying why it ended is an error that keeps the text so far.

mod embeddings;
mod probe;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use gateway_config::OpenAiSettings;
use gateway_config::Secret;
use gateway_egress::{
    AddressPolicy, Egress, EgressError, EgressRequest, EgressStream, ErrorKind, HeaderMap,
    HeaderValue, HostPortRule, Method, Timeouts, Url,
};
use gateway_protocol::content::{ContentBlock, Role, Usage};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::openai_wire::{self as wire, Call, Calls, Chunk, Message};
use super::sse::{SseFault, SseReader};
use super::{
    AgentBackend, StopReason, TextTap, Turn, TurnEnd, TurnError, TurnErrorKind, TurnMessage,
    TurnSink, TurnStatus, limits,
};
use crate::tool::{ToolCx, parse_arguments};

pub use probe::{ProbeError, ProbeFault, Probed, probe};

/// Answers through an OpenAI-compatible server. The key stays here: it goes into one header and nowhere else.
pub struct OpenAiBackend {
    egress: Egress,
    partition: Arc<str>,
    url: Url,
    embeddings_url: Url,
    embedding_model: Option<String>,
    policy: Arc<AddressPolicy>,
    model: String,
    key: Option<Secret>,
    headers: HeaderMap,
    first_byte: Duration,
    idle: Duration,
    breaker: Mutex<Breaker>,
    /// One place per request under way.
    places: Semaphore,
}

/// Failures in a row, and until when the server is left alone for them.
#[derive(Default)]
struct Breaker {
    failures: u32,
    open_until: Option<Instant>,
}

/// Why a round failed.
struct Fault {
    kind: TurnErrorKind,
    message: String,
    /// Set where the same request may be sent again: the pause that the server asked for, if it did.
    again: Option<Option<u64>>,
    /// The server is to blame, so that the breaker counts it.
    counts: bool,
    /// The status, where the server answered with another one than 200.
    status: Option<u16>,
}

impl Fault {
    fn new(kind: TurnErrorKind, message: impl Into<String>) -> Self {
        let counts = matches!(kind, TurnErrorKind::Upstream | TurnErrorKind::Timeout);
        Self {
            kind,
            message: message.into(),
            again: None,
            counts,
            status: None,
        }
    }

    fn retryable(mut self, after_ms: Option<u64>) -> Self {
        self.again = Some(after_ms);
        self
    }
}

/// What a run has made so far; outlives the future that makes it, so that nothing is lost where that is dropped.
struct Progress<'a> {
    out: &'a dyn TurnSink,
    tap: TextTap<'a>,
    messages: Vec<TurnMessage>,
    usage: Usage,
    /// Text of the round that is going on.
    round_text: String,
    /// The model as the upstream named it.
    model: Option<String>,
}

impl<'a> Progress<'a> {
    fn new(out: &'a dyn TurnSink, text_bytes: usize) -> Self {
        Self {
            out,
            tap: TextTap::new(out, text_bytes),
            messages: Vec::new(),
            usage: Usage::default(),
            round_text: String::new(),
            model: None,
        }
    }

    fn text(&mut self, delta: &str) -> Result<(), Fault> {
        if delta.is_empty() {
            return Ok(());
        }
        // Texts of two rounds (a tool was called in between) are two paragraphs.
        let fits =
            !self.round_text.is_empty() || self.tap.text().is_empty() || self.tap.push("\n\n");
        let before = self.tap.text().len();
        let fits = fits && self.tap.push(delta);
        self.round_text
            .push_str(self.tap.text().get(before..).unwrap_or_default());
        if fits {
            Ok(())
        } else {
            Err(Fault::new(
                TurnErrorKind::TooLarge,
                "the answer is longer than allowed",
            ))
        }
    }
}

/// One whole answer of the model.
struct Answer {
    calls: Vec<Call>,
    finish: StopReason,
}

impl OpenAiBackend {
    /// Builds the backend; `partition` is the tenant.
    ///
    /// # Errors
    /// A text for the operator if the address or the key cannot be used.
    pub fn new(
        egress: Egress,
        partition: Arc<str>,
        settings: &OpenAiSettings,
    ) -> Result<Self, String> {
        let url_of = |path| {
            Url::parse(&settings.base_url)
                .and_then(|base| base.join_path(path))
                .map_err(|e| format!("baseUrl cannot be used: {e}"))
        };
        let url = url_of("/chat/completions")?;
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("application/json"));
        headers.insert("accept", HeaderValue::from_static("text/event-stream"));
        if let Some(key) = &settings.api_key {
            let mut value =
                HeaderValue::try_from(format!("Bearer {}", key.expose())).map_err(|_| {
                    "apiKey holds a character that cannot stand in a header".to_string()
                })?;
            value.set_sensitive(true);
            headers.insert("authorization", value);
        }
        // The operator named this very host and port, so it may be one of the local network.
        let policy = Arc::new(AddressPolicy::exact(vec![HostPortRule::of(&url, true)]));
        Ok(Self {
            egress,
            partition,
            url,
            embeddings_url: url_of("/embeddings")?,
            embedding_model: settings.embedding_model.clone(),
            policy,
            model: settings.model.clone(),
            key: settings.api_key.clone(),
            headers,
            first_byte: Duration::from_millis(settings.first_byte_timeout_ms),
            idle: Duration::from_millis(settings.idle_timeout_ms),
            breaker: Mutex::new(Breaker::default()),
            places: Semaphore::new(limits::UPSTREAM_PARALLEL_MAX),
        })
    }

    async fn drive(&self, turn: &Turn, p: &mut Progress<'_>) -> Result<StopReason, Fault> {
        let mut messages = wire::messages(turn.system_prompt.as_deref(), &turn.history);
        let model = turn.model.as_deref().unwrap_or(&self.model);
        let cx = ToolCx {
            run_id: turn.run_id.clone(),
            session_key: turn.session_key.clone(),
            model: model.into(),
            messages: turn.history.len(),
        };
        let mut round = 0;
        loop {
            round += 1;
            let may_call = round < turn.limits.tool_rounds;
            let answer = self.ask(turn, model, &messages, round, may_call, p).await?;
            p.out.usage(&p.usage);
            let text = std::mem::take(&mut p.round_text);
            if answer.calls.is_empty() {
                p.messages.push(TurnMessage {
                    role: Role::Assistant,
                    content: vec![ContentBlock::text(text)],
                });
                return Ok(answer.finish);
            }
            if !may_call {
                p.round_text = text;
                let why = format!(
                    "the model went on calling tools after {} rounds",
                    turn.limits.tool_rounds
                );
                return Err(Fault::new(TurnErrorKind::TooLarge, why));
            }
            let content = Some(text.clone()).filter(|t| !t.is_empty());
            messages.push(Message::Assistant {
                content,
                tool_calls: answer.calls.iter().map(Into::into).collect(),
            });
            // The call and its results are added together, so that an abort in between leaves no half of them.
            let mut made = vec![TurnMessage {
                role: Role::Assistant,
                content: call_blocks(&text, &answer.calls),
            }];
            p.round_text = text;
            for call in &answer.calls {
                p.out
                    .tool_start(&call.id, &call.name, &shown_arguments(call));
                let outcome = turn.tools.call(&cx, &call.name, &call.arguments).await;
                p.out
                    .tool_result(&call.id, &call.name, &outcome.text, outcome.is_error);
                messages.push(Message::Tool {
                    tool_call_id: call.id.clone(),
                    content: outcome.text.clone(),
                });
                let block = ContentBlock::ToolResult {
                    tool_call_id: call.id.clone(),
                    name: call.name.clone(),
                    text: outcome.text,
                    is_error: outcome.is_error,
                };
                made.push(TurnMessage {
                    role: Role::ToolResult,
                    content: vec![block],
                });
            }
            p.messages.append(&mut made);
            p.round_text.clear();
        }
    }

    /// One round, sent again where that is allowed.
    async fn ask(
        &self,
        turn: &Turn,
        model: &str,
        messages: &[Message],
        round: u32,
        may_call: bool,
        p: &mut Progress<'_>,
    ) -> Result<Answer, Fault> {
        let request = wire::Request {
            model,
            messages,
            stream: true,
            stream_options: wire::StreamOptions {
                include_usage: true,
            },
            tools: turn.tools.specs().map(Into::into).collect(),
            tool_choice: (!turn.tools.is_empty() && !may_call).then_some("none"),
        };
        let body = serde_json::to_vec(&request).map_err(|e| {
            Fault::new(
                TurnErrorKind::TooLarge,
                format!("the conversation cannot be written as JSON: {e}"),
            )
        })?;
        let body = Bytes::from(body);
        let mut attempt = 0;
        loop {
            let place = self.place(p.out).await?;
            self.breaker_check()?;
            p.out.status(&TurnStatus::Asking { round });
            let result = self.exchange(turn, body.clone(), round, p).await;
            // Neither a pause nor a tool keeps others waiting.
            drop(place);
            let fault = match result {
                Ok(answer) => {
                    *self.breaker.lock() = Breaker::default();
                    return Ok(answer);
                }
                Err(fault) => fault,
            };
            if fault.counts {
                self.breaker_failure();
            }
            let Some(asked) = fault.again else {
                return Err(fault);
            };
            let pause = asked.unwrap_or(limits::UPSTREAM_RETRY_FIRST_MS << attempt);
            if attempt >= limits::UPSTREAM_RETRIES_MAX
                || pause > limits::UPSTREAM_RETRY_AFTER_MAX_MS
            {
                return Err(fault);
            }
            attempt += 1;
            p.out.status(&TurnStatus::Waiting {
                ms: pause,
                why: fault.message,
            });
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    /// One request and its answer.
    async fn exchange(
        &self,
        turn: &Turn,
        body: Bytes,
        round: u32,
        p: &mut Progress<'_>,
    ) -> Result<Answer, Fault> {
        let first_byte_end = Instant::now() + self.first_byte;
        let mut request = EgressRequest::new(
            self.partition.clone(),
            Method::POST,
            self.url.clone(),
            self.policy.clone(),
        );
        request.headers = self.headers.clone();
        if let Some(value) = turn
            .traceparent
            .and_then(|parent| HeaderValue::try_from(parent.to_string()).ok())
        {
            request.headers.insert("traceparent", value);
        }
        request.body = body;
        request.deadline = turn.limits.total;
        request.timeouts = Timeouts {
            connect: Timeouts::default().connect.min(self.first_byte),
            head: self.first_byte,
            idle: self.first_byte.max(self.idle),
        };
        // Models pause by nature: the time between two events is bounded below, in place of a rate.
        request.min_rate = None;
        request.max_response_bytes = limits::UPSTREAM_RESPONSE_MAX_BYTES;
        let sent = AtomicBool::new(false);
        let stream = self
            .egress
            .stream(request, &sent)
            .await
            .map_err(|e| self.before_first_byte(&e))?;
        match stream.status {
            200 => {}
            status => return Err(self.refusal(status, stream).await),
        }
        let whole = header(&stream, "content-type")
            .is_some_and(|t| t.trim_start().starts_with("application/json"));
        if whole {
            self.read_whole(stream, round, p).await
        } else {
            self.read_events(stream, first_byte_end, round, p).await
        }
    }

    /// The answer of a server that does not stream.
    async fn read_whole(
        &self,
        mut stream: EgressStream,
        round: u32,
        p: &mut Progress<'_>,
    ) -> Result<Answer, Fault> {
        let mut body = Vec::new();
        while let Some(piece) = stream.next().await {
            body.extend_from_slice(&piece.map_err(|e| self.while_reading(&e))?);
        }
        let mut state = Reading::default();
        self.take(&body, &mut state, p)?;
        self.finish(state, round, p)
    }

    async fn read_events(
        &self,
        mut stream: EgressStream,
        first_byte_end: Instant,
        round: u32,
        p: &mut Progress<'_>,
    ) -> Result<Answer, Fault> {
        let mut reader = SseReader::new(limits::UPSTREAM_EVENT_MAX_BYTES);
        let mut events = Vec::new();
        let mut state = Reading::default();
        let mut until = first_byte_end;
        let mut seen = false;
        loop {
            let piece = match timeout_at(until, stream.next()).await {
                Ok(Some(Ok(piece))) => piece,
                Ok(None) => break,
                // The text is whole; only the farewell is missing.
                Ok(Some(Err(_))) | Err(_) if state.finish.is_some() => break,
                Ok(Some(Err(e))) => return Err(self.while_reading(&e)),
                Err(_) if seen => {
                    let why = format!(
                        "{} paused for longer than {} ms within its answer",
                        self.url,
                        self.idle.as_millis()
                    );
                    return Err(Fault::new(TurnErrorKind::Timeout, why));
                }
                Err(_) => return Err(self.no_first_byte()),
            };
            let fault = reader.push(&piece, &mut events).err();
            for data in events.drain(..) {
                // Whole events count, not bytes: a server that drips or only sends comments makes no progress.
                seen = true;
                until = Instant::now() + self.idle;
                if data == "[DONE]" {
                    state.finish.get_or_insert(StopReason::Stop);
                    // Read to its end, the connection can be used again.
                    let tail = Instant::now() + Duration::from_millis(limits::UPSTREAM_TAIL_MAX_MS);
                    while let Ok(Some(Ok(_))) = timeout_at(tail, stream.next()).await {}
                    return self.finish(state, round, p);
                }
                if !data.trim().is_empty() {
                    self.take(data.as_bytes(), &mut state, p)?;
                }
            }
            match fault {
                None => {}
                Some(_) if state.finish.is_some() => break,
                Some(SseFault::TooLarge) => {
                    let why = format!(
                        "{} sent an event of more than {} bytes",
                        self.url,
                        limits::UPSTREAM_EVENT_MAX_BYTES
                    );
                    return Err(Fault::new(TurnErrorKind::TooLarge, why));
                }
                Some(SseFault::NotText) => {
                    return Err(Fault::new(
                        TurnErrorKind::Upstream,
                        format!("{} sent something that is not text", self.url),
                    ));
                }
            }
        }
        self.finish(state, round, p)
    }

    /// Takes one chunk.
    fn take(&self, json: &[u8], state: &mut Reading, p: &mut Progress<'_>) -> Result<(), Fault> {
        let chunk: Chunk = serde_json::from_slice(json).map_err(|_| {
            Fault::new(
                TurnErrorKind::Upstream,
                format!("{} sent something that is not a chat completion", self.url),
            )
        })?;
        if let Some(error) = chunk.error.filter(|e| !e.is_null()) {
            let told = wire::clean(
                wire::error_message(&error).unwrap_or("no reason given"),
                self.key_text(),
            );
            return Err(Fault::new(
                TurnErrorKind::Upstream,
                format!("{} broke off its answer: {told}", self.url),
            ));
        }
        if let Some(model) = chunk.model.filter(|m| !m.is_empty()) {
            p.model = Some(wire::clean(&model, self.key_text()));
        }
        if let Some(usage) = chunk.usage {
            state.usage = Some(usage.to_usage());
        }
        for choice in chunk.choices.into_iter().filter(|c| c.index == 0) {
            if let Some(delta) = choice.delta {
                for text in [delta.content, delta.refusal].into_iter().flatten() {
                    p.text(&text)?;
                }
                for call in delta.tool_calls.into_iter().flatten() {
                    state
                        .calls
                        .add(call)
                        .map_err(|why| Fault::new(TurnErrorKind::TooLarge, why))?;
                }
            }
            if let Some(reason) = choice.finish_reason {
                state.finish = Some(match reason.as_str() {
                    "length" => StopReason::Length,
                    "content_filter" => StopReason::ContentFilter,
                    _ => StopReason::Stop,
                });
            }
        }
        Ok(())
    }

    fn finish(&self, state: Reading, round: u32, p: &mut Progress<'_>) -> Result<Answer, Fault> {
        if let Some(usage) = &state.usage {
            wire::add_usage(&mut p.usage, usage);
        }
        let Some(finish) = state.finish else {
            return Err(Fault::new(
                TurnErrorKind::Upstream,
                format!(
                    "{} ended its answer without saying that it is whole",
                    self.url
                ),
            ));
        };
        // A call that was cut by a limit or a filter is no call.
        let calls = if finish == StopReason::Stop {
            state.calls.finish(round)
        } else {
            Vec::new()
        };
        Ok(Answer { calls, finish })
    }

    fn key_text(&self) -> Option<&str> {
        self.key.as_ref().map(Secret::expose)
    }

    fn no_first_byte(&self) -> Fault {
        Fault::new(
            TurnErrorKind::Timeout,
            format!(
                "{} did not begin to answer within {} ms",
                self.url,
                self.first_byte.as_millis()
            ),
        )
    }

    /// No response head came.
    fn before_first_byte(&self, e: &EgressError) -> Fault {
        match e.kind {
            ErrorKind::HeadTimeout => self.no_first_byte(),
            ErrorKind::Deadline => Fault::new(TurnErrorKind::Timeout, e.message.clone()),
            // Nothing of an answer was seen, and asking a model twice changes nothing but its bill.
            ErrorKind::Dns | ErrorKind::Connect | ErrorKind::Broken => {
                Fault::new(TurnErrorKind::Upstream, e.message.clone()).retryable(None)
            }
            // Our own crowd, of which the upstream knows nothing.
            ErrorKind::Busy => Fault {
                counts: false,
                ..Fault::new(TurnErrorKind::Upstream, e.message.clone()).retryable(None)
            },
            ErrorKind::TooLarge => Fault::new(TurnErrorKind::TooLarge, e.message.clone()),
            _ => Fault::new(TurnErrorKind::Refused, e.message.clone()),
        }
    }

    fn while_reading(&self, e: &EgressError) -> Fault {
        let kind = match e.kind {
            ErrorKind::TooLarge => TurnErrorKind::TooLarge,
            kind if kind.is_timeout() => TurnErrorKind::Timeout,
            _ => TurnErrorKind::Upstream,
        };
        Fault::new(kind, e.message.clone())
    }

    /// A status other than 200.
    async fn refusal(&self, status: u16, stream: EgressStream) -> Fault {
        let after = wire::retry_after_ms(&|name| header(&stream, name));
        let told = self.told(stream).await;
        let url = &self.url;
        let fault = match status {
            429 => Fault::new(
                TurnErrorKind::RateLimited {
                    retry_after_ms: after,
                },
                format!("{url} wants fewer requests (429){told}"),
            )
            .retryable(after),
            300..=399 => Fault::new(
                TurnErrorKind::Refused,
                format!(
                    "{url} redirects ({status}), which is not followed; set baseUrl to the final address"
                ),
            ),
            // Servers repeat parts of the key in this one.
            401 => Fault::new(
                TurnErrorKind::Refused,
                format!("{url} does not take the key (401); check apiKey"),
            ),
            408 | 409 | 425 | 500..=599 => Fault::new(
                TurnErrorKind::Upstream,
                format!("{url} failed ({status}){told}"),
            )
            .retryable(after),
            _ => Fault::new(
                TurnErrorKind::Refused,
                format!("{url} refused the request ({status}){told}"),
            ),
        };
        Fault {
            status: Some(status),
            ..fault
        }
    }

    /// What the server says about a refusal, behind a colon; empty if nothing.
    async fn told(&self, mut stream: EgressStream) -> String {
        let mut body = Vec::new();
        let until = Instant::now() + self.idle.min(Duration::from_secs(5));
        while let Ok(Some(Ok(piece))) = timeout_at(until, stream.next()).await {
            body.extend_from_slice(&piece);
            if body.len() >= limits::UPSTREAM_ERROR_BODY_MAX_BYTES {
                body.truncate(limits::UPSTREAM_ERROR_BODY_MAX_BYTES);
                break;
            }
        }
        let told = wire::error_text(&body, self.key_text());
        if told.is_empty() {
            String::new()
        } else {
            format!(": {told}")
        }
    }

    /// Waits for one of the places at the upstream; the run's own bound ends a wait that is too long.
    async fn place(&self, out: &dyn TurnSink) -> Result<SemaphorePermit<'_>, Fault> {
        if let Ok(place) = self.places.try_acquire() {
            return Ok(place);
        }
        out.status(&TurnStatus::Waiting {
            ms: 0,
            why: format!("{} has as many requests as it may get at once", self.url),
        });
        let closed = |_| Fault::new(TurnErrorKind::Aborted, "the gateway is stopping");
        self.places.acquire().await.map_err(closed)
    }

    fn breaker_check(&self) -> Result<(), Fault> {
        let mut breaker = self.breaker.lock();
        let Some(until) = breaker.open_until else {
            return Ok(());
        };
        let now = Instant::now();
        if now >= until {
            // One more failure closes the door again at once.
            breaker.open_until = None;
            return Ok(());
        }
        let ms = until.duration_since(now).as_millis();
        let why = format!(
            "{} failed {} times in a row and is left alone for {ms} ms more",
            self.url, breaker.failures
        );
        Err(Fault::new(TurnErrorKind::Upstream, why))
    }

    fn breaker_failure(&self) {
        let mut breaker = self.breaker.lock();
        breaker.failures = breaker.failures.saturating_add(1);
        if breaker.failures >= limits::UPSTREAM_BREAKER_FAILURES {
            breaker.open_until =
                Some(Instant::now() + Duration::from_millis(limits::UPSTREAM_BREAKER_OPEN_MS));
        }
    }
}

impl AgentBackend for OpenAiBackend {
    fn run<'a>(
        &'a self,
        turn: Turn,
        out: &'a dyn TurnSink,
        cancel: CancellationToken,
    ) -> BoxFuture<'a, Result<TurnEnd, TurnError>> {
        Box::pin(async move {
            let mut p = Progress::new(out, turn.limits.text_bytes);
            // Dropping the work closes the connection to the upstream.
            let done = tokio::select! {
                biased;
                () = cancel.cancelled() => Err(Fault::new(TurnErrorKind::Aborted, "the run was aborted")),
                done = tokio::time::timeout(turn.limits.total, self.drive(&turn, &mut p)) => done.unwrap_or_else(|_| {
                    Err(Fault::new(TurnErrorKind::Timeout, format!("the run took longer than {} ms", turn.limits.total.as_millis())))
                }),
            };
            let text = p.tap.take();
            match done {
                Ok(stop_reason) => {
                    let model = p
                        .model
                        .or_else(|| turn.model.as_deref().map(String::from))
                        .unwrap_or_else(|| self.model.clone());
                    Ok(TurnEnd {
                        text,
                        messages: p.messages,
                        usage: p.usage,
                        stop_reason,
                        model,
                    })
                }
                Err(fault) => {
                    p.messages.extend(super::partial_message(&p.round_text));
                    Err(TurnError {
                        kind: fault.kind,
                        message: fault.message,
                        partial_text: text,
                        messages: p.messages,
                        usage: p.usage,
                    })
                }
            }
        })
    }

    fn provider(&self) -> &'static str {
        "openai"
    }

    fn model(&self) -> &str {
        &self.model
    }

    fn embedding_model(&self) -> Option<&str> {
        self.embedding_model.as_deref()
    }

    fn embed(&self, body: Bytes) -> BoxFuture<'_, Result<Bytes, TurnError>> {
        Box::pin(self.embeddings(body))
    }
}

/// What was read of one answer.
#[derive(Default)]
struct Reading {
    calls: Calls,
    finish: Option<StopReason>,
    usage: Option<Usage>,
}

fn call_blocks(text: &str, calls: &[Call]) -> Vec<ContentBlock> {
    let text = Some(text).filter(|t| !t.is_empty()).map(ContentBlock::text);
    let calls = calls.iter().map(|call| ContentBlock::ToolCall {
        id: call.id.clone(),
        name: call.name.clone(),
        arguments: shown_arguments(call),
    });
    text.into_iter().chain(calls).collect()
}

/// The arguments as JSON; what is not JSON is shown as the text that it is.
fn shown_arguments(call: &Call) -> serde_json::Value {
    parse_arguments(&call.arguments)
        .unwrap_or_else(|_| serde_json::Value::String(call.arguments.clone()))
}

fn header(stream: &EgressStream, name: &str) -> Option<String> {
    stream
        .headers
        .get(name)?
        .to_str()
        .ok()
        .map(str::to_ascii_lowercase)
}

#[cfg(test)]
#[path = "openai_tests.rs"]
mod tests;
