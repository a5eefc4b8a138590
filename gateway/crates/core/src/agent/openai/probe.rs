//! A first question to a server, before anything is built on it: does it answer with this model and this key? Where it does
//! not, the list of its models says whether it was the name.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use gateway_config::OpenAiSettings;
use gateway_egress::{Egress, EgressOptions, EgressRequest, Method, Url};
use gateway_protocol::content::{ChatMessage, Role};
use gateway_protocol::ids::RunId;
use gateway_protocol::session_key::SessionKey;
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};

use super::{Fault, OpenAiBackend, Progress, limits, wire};
use crate::agent::{Turn, TurnErrorKind, TurnLimits, TurnSink};
use crate::tool::ToolCatalog;

/// What the server said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probed {
    /// Its answer, not empty.
    pub text: String,
    /// The model as it names it.
    pub model: String,
}

/// What is to blame for a probe that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeFault {
    /// The address, or the key, has a form that cannot be used.
    Settings,
    /// The server does not take the key (401, 403).
    Key,
    /// The server refused the request, and its list of models has not this one. The list, sorted, at most
    /// [`limits::PROBE_MODELS_MAX`].
    Model(Vec<String>),
    /// No connection came about, or it broke.
    Unreachable,
    /// It took too long.
    Slow,
    /// Anything else that it answered.
    Answer,
}

/// A probe that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ProbeError {
    /// What is to blame.
    pub fault: ProbeFault,
    /// What happened, with what the server said; holds no key.
    pub message: String,
}

/// Asks for one real completion. Takes at most `patience`, and the time for a list of models where it failed.
///
/// # Errors
/// What the server answered in its place.
pub async fn probe(
    settings: &OpenAiSettings,
    patience: Duration,
    out: &dyn TurnSink,
) -> Result<Probed, ProbeError> {
    let unusable = |message: String| ProbeError {
        fault: ProbeFault::Settings,
        message,
    };
    let egress =
        Egress::new(EgressOptions::default()).map_err(|e| unusable(format!("egress: {e}")))?;
    let settings = OpenAiSettings {
        first_byte_timeout_ms: u64::try_from(patience.as_millis()).unwrap_or(u64::MAX),
        ..settings.clone()
    };
    let backend = OpenAiBackend::new(egress, Arc::from("probe"), &settings).map_err(unusable)?;
    let turn = first_turn(patience).map_err(unusable)?;
    let mut p = Progress::new(out, turn.limits.text_bytes);
    let done = tokio::time::timeout(patience, backend.drive(&turn, &mut p))
        .await
        .unwrap_or_else(|_| {
            Err(Fault::new(
                TurnErrorKind::Timeout,
                format!(
                    "{} did not answer whole within {} ms",
                    backend.url,
                    patience.as_millis()
                ),
            ))
        });
    let text = p.tap.take();
    match done {
        Ok(_) if text.trim().is_empty() => Err(ProbeError {
            fault: ProbeFault::Answer,
            message: format!("{} answered, but with no text", backend.url),
        }),
        Ok(_) => Ok(Probed {
            text,
            model: p.model.unwrap_or_else(|| backend.model.clone()),
        }),
        Err(fault) => Err(backend.blame(fault, patience).await),
    }
}

fn first_turn(patience: Duration) -> Result<Turn, String> {
    Ok(Turn {
        run_id: RunId::parse("probe").map_err(|e| e.to_string())?,
        session_key: SessionKey::parse("agent:main:main").map_err(|e| e.to_string())?,
        system_prompt: None,
        history: vec![Arc::new(ChatMessage::text(
            Role::User,
            "Answer with the one word: ready",
            0,
        ))],
        tools: Arc::new(ToolCatalog::default()),
        model: None,
        traceparent: None,
        limits: TurnLimits {
            tool_rounds: 1,
            total: patience,
            ..TurnLimits::default()
        },
    })
}

/// The answer of `GET {base}/models`, as far as it matters.
#[derive(Deserialize)]
struct Models {
    data: Vec<Model>,
}

#[derive(Deserialize)]
struct Model {
    id: String,
}

impl OpenAiBackend {
    async fn blame(&self, fault: Fault, patience: Duration) -> ProbeError {
        let blamed = match (fault.status, &fault.kind) {
            (Some(401 | 403), _) => ProbeFault::Key,
            (Some(_), TurnErrorKind::Refused) => match self.models(patience).await {
                Some(models) if !models.is_empty() && !models.contains(&self.model) => {
                    ProbeFault::Model(models)
                }
                _ => ProbeFault::Answer,
            },
            (_, TurnErrorKind::Timeout) => ProbeFault::Slow,
            (None, TurnErrorKind::Upstream) if fault.counts && fault.again.is_some() => {
                ProbeFault::Unreachable
            }
            (None, TurnErrorKind::Refused) => ProbeFault::Settings,
            _ => ProbeFault::Answer,
        };
        ProbeError {
            fault: blamed,
            message: fault.message,
        }
    }

    /// The names of the models that the server has; nothing where it does not say.
    async fn models(&self, patience: Duration) -> Option<Vec<String>> {
        let list = self.url.expose();
        let list = Url::parse(&format!(
            "{}/models",
            list.strip_suffix("/chat/completions")?
        ));
        let mut request = EgressRequest::new(
            self.partition.clone(),
            Method::GET,
            list.ok()?,
            self.policy.clone(),
        );
        request.headers = self.headers.clone();
        request.headers.remove("content-type");
        request.headers.insert(
            "accept",
            gateway_egress::HeaderValue::from_static("application/json"),
        );
        request.deadline = patience.min(Duration::from_millis(limits::PROBE_MODELS_MAX_MS));
        request.max_response_bytes = limits::PROBE_MODELS_MAX_BYTES;
        let until = Instant::now() + request.deadline;
        let sent = AtomicBool::new(false);
        let mut stream = self.egress.stream(request, &sent).await.ok()?;
        if stream.status != 200 {
            return None;
        }
        let mut body = Vec::new();
        while let Some(piece) = timeout_at(until, stream.next()).await.ok()? {
            body.extend_from_slice(&piece.ok()?);
        }
        let models: Models = serde_json::from_slice(&body).ok()?;
        let mut names: Vec<String> = models
            .data
            .into_iter()
            .map(|m| wire::clean(&m.id, self.key_text()))
            .filter(|name| !name.is_empty())
            .collect();
        names.sort();
        names.dedup();
        names.truncate(limits::PROBE_MODELS_MAX);
        Some(names)
    }
}
