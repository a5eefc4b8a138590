//! What the tests of the backends share.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use parking_lot::Mutex;

/// A sink that remembers all it was given.
#[derive(Default)]
pub struct Recorder {
    deltas: Mutex<Vec<String>>,
    pub tools: Mutex<Vec<String>>,
    pub statuses: Mutex<Vec<TurnStatus>>,
    cancel: Option<(usize, CancellationToken)>,
}

impl Recorder {
    /// Cancels `token` at its delta number `count`.
    pub fn cancelling_after(count: usize, token: CancellationToken) -> Self {
        Self {
            cancel: Some((count, token)),
            ..Self::default()
        }
    }

    pub fn deltas(&self) -> Vec<String> {
        self.deltas.lock().clone()
    }

    pub fn text(&self) -> String {
        self.deltas.lock().concat()
    }
}

impl TurnSink for Recorder {
    fn text_delta(&self, delta: &str) {
        let mut deltas = self.deltas.lock();
        deltas.push(delta.to_string());
        if let Some((count, token)) = &self.cancel
            && deltas.len() >= *count
        {
            token.cancel();
        }
    }

    fn tool_start(&self, call_id: &str, name: &str, arguments: &Value) {
        self.tools
            .lock()
            .push(format!("start {call_id} {name} {arguments}"));
    }

    fn tool_result(&self, call_id: &str, name: &str, _text: &str, is_error: bool) {
        self.tools
            .lock()
            .push(format!("result {call_id} {name} {is_error}"));
    }

    fn status(&self, status: &TurnStatus) {
        self.statuses.lock().push(status.clone());
    }
}

/// A turn of these user texts, without tools.
pub fn turn(texts: &[&str]) -> Turn {
    Turn {
        run_id: RunId::parse("run-1").unwrap(),
        session_key: SessionKey::parse("agent:main:main").unwrap(),
        system_prompt: Some("Be brief.".into()),
        history: texts
            .iter()
            .map(|t| Arc::new(ChatMessage::text(Role::User, *t, 1)))
            .collect(),
        tools: Arc::new(ToolCatalog::default()),
        model: None,
        traceparent: None,
        limits: TurnLimits::default(),
    }
}
