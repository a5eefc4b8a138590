//! What answers: the backends of agents.
//!
//! A backend gets a [`Turn`] (the conversation up to and including the newest user message) and streams into a [`TurnSink`].
//! It knows no session, no store and no connection. Invariant, kept by each backend and tested: all text deltas of a run
//! joined are exactly [`TurnEnd::text`], or [`TurnError::partial_text`] where it failed.

mod echo;
pub mod limits;
mod openai;
mod openai_wire;
mod sse;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use gateway_config::{AgentBackend as BackendSettings, AgentSettings};
use gateway_egress::Egress;
use gateway_protocol::content::{ChatMessage, ContentBlock, Role, Usage};
use gateway_protocol::ids::RunId;
use gateway_protocol::session_key::SessionKey;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::tool::ToolCatalog;
use crate::trace::TraceParent;

pub use echo::EchoBackend;
pub use openai::{OpenAiBackend, ProbeError, ProbeFault, Probed, probe};

/// Answers turns. Object safe; one per configured agent, shared by all its runs.
pub trait AgentBackend: Send + Sync + 'static {
    /// Answers one turn. Ends soon after `cancel`, with [`TurnErrorKind::Aborted`] and the text so far.
    fn run<'a>(
        &'a self,
        turn: Turn,
        out: &'a dyn TurnSink,
        cancel: CancellationToken,
    ) -> BoxFuture<'a, Result<TurnEnd, TurnError>>;

    /// Name of the provider, as recorded with each answer: `echo`, `openai`.
    fn provider(&self) -> &'static str;

    /// The model that answers when a turn names none.
    fn model(&self) -> &str;

    /// The model that makes embeddings, where there is one.
    fn embedding_model(&self) -> Option<&str> {
        None
    }

    /// Makes embeddings: `body` is an OpenAI request with its model, the result the JSON of the answer.
    fn embed(&self, body: Bytes) -> BoxFuture<'_, Result<Bytes, TurnError>> {
        let _ = body;
        Box::pin(async {
            Err(TurnError {
                kind: TurnErrorKind::Refused,
                message: "this agent makes no embeddings".to_owned(),
                partial_text: String::new(),
                messages: Vec::new(),
                usage: Usage::default(),
            })
        })
    }
}

/// One turn of a conversation.
#[derive(Clone)]
pub struct Turn {
    /// The run.
    pub run_id: RunId,
    /// The session, for tools that tell about it.
    pub session_key: SessionKey,
    /// Instructions put before the conversation.
    pub system_prompt: Option<Arc<str>>,
    /// The conversation, oldest first; the last user message is the one to answer.
    pub history: Vec<Arc<ChatMessage>>,
    /// Tools that the model may call.
    pub tools: Arc<ToolCatalog>,
    /// Model to use in place of the configured one.
    pub model: Option<Arc<str>>,
    /// The trace that the run is part of; passed on to an upstream.
    pub traceparent: Option<TraceParent>,
    /// Bounds of this run.
    pub limits: TurnLimits,
}

/// Bounds of one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TurnLimits {
    /// Longest answer text, in bytes.
    pub text_bytes: usize,
    /// Most rounds of model and tools.
    pub tool_rounds: u32,
    /// Longest time in all.
    pub total: Duration,
}

impl Default for TurnLimits {
    fn default() -> Self {
        Self {
            text_bytes: limits::ANSWER_TEXT_MAX_BYTES,
            tool_rounds: limits::TOOL_ROUNDS_MAX,
            total: Duration::from_millis(limits::TURN_MAX_MS),
        }
    }
}

/// What is known while a run goes on, beside its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TurnStatus {
    /// The upstream was asked; `round` counts from 1.
    Asking {
        /// Round of model and tools.
        round: u32,
    },
    /// The upstream refused for now; the request is sent again after a pause.
    Waiting {
        /// The pause, in ms.
        ms: u64,
        /// Why, for a person.
        why: String,
    },
}

/// Takes what a run produces, in order. Must not block.
pub trait TurnSink: Send + Sync {
    /// More text.
    fn text_delta(&self, delta: &str);
    /// A tool is about to be called.
    fn tool_start(&self, call_id: &str, name: &str, arguments: &Value) {
        let _ = (call_id, name, arguments);
    }
    /// A tool answered.
    fn tool_result(&self, call_id: &str, name: &str, text: &str, is_error: bool) {
        let _ = (call_id, name, text, is_error);
    }
    /// Tokens used so far in this run.
    fn usage(&self, usage: &Usage) {
        let _ = usage;
    }
    /// Progress that is not text.
    fn status(&self, status: &TurnStatus) {
        let _ = status;
    }
}

/// One message that a run made, to be appended to the session in order.
#[derive(Debug, Clone, PartialEq)]
pub struct TurnMessage {
    /// [`Role::Assistant`] or [`Role::ToolResult`].
    pub role: Role,
    /// Text and tool-call blocks of an assistant message, one tool-result block of the other.
    pub content: Vec<ContentBlock>,
}

/// Why a model stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// It was done.
    Stop,
    /// Its own length limit; the text is cut there.
    Length,
    /// The provider's filter; the text is cut there.
    ContentFilter,
}

impl StopReason {
    /// The name in messages and events.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ContentFilter => "contentFilter",
        }
    }

    /// The name in the OpenAI API (`finish_reason`).
    #[must_use]
    pub fn as_openai(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ContentFilter => "content_filter",
        }
    }
}

/// A whole answer.
#[derive(Debug, Clone, PartialEq)]
pub struct TurnEnd {
    /// All text deltas joined.
    pub text: String,
    /// The messages made on the way, tool calls and results included; the last one is the assistant's.
    pub messages: Vec<TurnMessage>,
    /// Tokens used in all rounds; zero where the upstream told none.
    pub usage: Usage,
    /// Why it ended.
    pub stop_reason: StopReason,
    /// The model that answered, as the upstream named it.
    pub model: String,
}

/// Why a run failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TurnErrorKind {
    /// The upstream took too long: to its first byte, between two pieces, or in all.
    Timeout,
    /// The upstream wants fewer requests.
    RateLimited {
        /// Milliseconds to wait, as the upstream said.
        retry_after_ms: Option<u64>,
    },
    /// The upstream failed, broke off or spoke nonsense.
    Upstream,
    /// The upstream does not take this request or key as it is: settings must change.
    Refused,
    /// A bound of ours was reached.
    TooLarge,
    /// Cancelled by a person or the gateway.
    Aborted,
}

impl TurnErrorKind {
    /// A stable word for events and metrics.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::RateLimited { .. } => "rate_limited",
            Self::Upstream => "upstream",
            Self::Refused => "refused",
            Self::TooLarge => "too_large",
            Self::Aborted => "aborted",
        }
    }
}

/// A run that did not end well. What was already streamed stays.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct TurnError {
    /// Why.
    pub kind: TurnErrorKind,
    /// For a person; holds no key, no path and no prompt.
    pub message: String,
    /// All text deltas so far, joined.
    pub partial_text: String,
    /// Messages that were whole before the failure, and last an assistant message with the partial text if there is some.
    pub messages: Vec<TurnMessage>,
    /// Tokens used so far, as far as known.
    pub usage: Usage,
}

/// A setting that a backend cannot be built from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("agent {agent}: {why}")]
pub struct BackendProblem {
    /// The agent.
    pub agent: String,
    /// What is wrong and where to change it.
    pub why: String,
}

/// Builds the backend of an agent. `partition` is the tenant: no connection to an upstream is shared across it.
///
/// # Errors
/// If a setting is not usable.
pub fn build_backend(
    settings: &AgentSettings,
    egress: &Egress,
    partition: &Arc<str>,
) -> Result<Arc<dyn AgentBackend>, BackendProblem> {
    match &settings.backend {
        BackendSettings::Echo => Ok(Arc::new(EchoBackend)),
        BackendSettings::OpenAi(openai) => {
            let backend =
                OpenAiBackend::new(egress.clone(), partition.clone(), openai).map_err(|why| {
                    BackendProblem {
                        agent: settings.id.clone(),
                        why,
                    }
                })?;
            Ok(Arc::new(backend))
        }
    }
}

/// Collects the text of a run and passes it on, within its bound.
pub(crate) struct TextTap<'a> {
    out: &'a dyn TurnSink,
    text: String,
    max: usize,
}

impl<'a> TextTap<'a> {
    pub(crate) fn new(out: &'a dyn TurnSink, max: usize) -> Self {
        Self {
            out,
            text: String::new(),
            max,
        }
    }

    /// Passes `delta` on; false if the bound is reached (what fits, at a character boundary, was passed on).
    pub(crate) fn push(&mut self, delta: &str) -> bool {
        let room = self.max - self.text.len();
        let cut = delta.floor_char_boundary(room);
        let (fits, over) = delta.split_at(cut);
        if !fits.is_empty() {
            self.text.push_str(fits);
            self.out.text_delta(fits);
        }
        over.is_empty()
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn take(&mut self) -> String {
        std::mem::take(&mut self.text)
    }
}

/// The assistant message of a text that was broken off, if there is any text.
pub(crate) fn partial_message(text: &str) -> Vec<TurnMessage> {
    if text.is_empty() {
        return Vec::new();
    }
    vec![TurnMessage {
        role: Role::Assistant,
        content: vec![ContentBlock::text(text)],
    }]
}

#[cfg(test)]
pub(crate) mod testing;
