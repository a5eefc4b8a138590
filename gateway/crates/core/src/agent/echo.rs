//! The built-in agent that needs no key: it says back what it was told, streamed like any other answer.

use futures_util::future::BoxFuture;
use gateway_protocol::content::{ContentBlock, Role, Usage, plain_text};
use tokio_util::sync::CancellationToken;

use super::{
    AgentBackend, StopReason, TextTap, Turn, TurnEnd, TurnError, TurnErrorKind, TurnMessage,
    TurnSink,
};

/// What stands before the repeated text, so that an answer is told from its question.
pub const PREFIX: &str = "echo: ";

/// Deltas that one answer is streamed in, counted.
const DELTAS: usize = 4;

/// Answers `echo: ` and the text of the last user message. Deterministic; takes no path of its own through the gateway.
#[derive(Debug, Clone, Copy, Default)]
pub struct EchoBackend;

impl AgentBackend for EchoBackend {
    fn run<'a>(
        &'a self,
        turn: Turn,
        out: &'a dyn TurnSink,
        cancel: CancellationToken,
    ) -> BoxFuture<'a, Result<TurnEnd, TurnError>> {
        Box::pin(async move {
            let told = turn
                .history
                .iter()
                .rev()
                .find(|m| m.role == Role::User)
                .map(|m| plain_text(&m.content))
                .unwrap_or_default();
            let answer = format!("{PREFIX}{told}");
            let mut tap = TextTap::new(out, turn.limits.text_bytes);
            for delta in pieces(&answer, DELTAS) {
                if cancel.is_cancelled() {
                    return Err(failed(
                        &mut tap,
                        TurnErrorKind::Aborted,
                        "the run was aborted",
                    ));
                }
                if !tap.push(delta) {
                    return Err(failed(
                        &mut tap,
                        TurnErrorKind::TooLarge,
                        "the answer is longer than allowed",
                    ));
                }
                // Lets an abort, and everybody else, in between two deltas.
                tokio::task::yield_now().await;
            }
            let input = words(&told);
            let output = words(tap.text());
            let usage = Usage {
                input,
                output,
                total_tokens: input + output,
                ..Usage::default()
            };
            out.usage(&usage);
            let text = tap.take();
            let messages = vec![TurnMessage {
                role: Role::Assistant,
                content: vec![ContentBlock::text(text.clone())],
            }];
            Ok(TurnEnd {
                text,
                messages,
                usage,
                stop_reason: StopReason::Stop,
                model: self.model().to_string(),
            })
        })
    }

    fn provider(&self) -> &'static str {
        "echo"
    }

    fn model(&self) -> &str {
        "echo"
    }
}

fn failed(tap: &mut TextTap<'_>, kind: TurnErrorKind, message: &str) -> TurnError {
    let partial_text = tap.take();
    let messages = super::partial_message(&partial_text);
    TurnError {
        kind,
        message: message.into(),
        partial_text,
        messages,
        usage: Usage::default(),
    }
}

/// Words stand in for tokens, so that usage is never a made-up constant.
fn words(text: &str) -> u64 {
    text.split_whitespace().count() as u64
}

/// At most `count` pieces of about the same length, cut at character boundaries.
fn pieces(text: &str, count: usize) -> Vec<&str> {
    let step = text.len().div_ceil(count).max(1);
    let mut out = Vec::with_capacity(count);
    let mut rest = text;
    while !rest.is_empty() {
        let (piece, tail) = rest.split_at(rest.ceil_char_boundary(step.min(rest.len())));
        out.push(piece);
        rest = tail;
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use crate::agent::testing::{Recorder, turn};

    #[tokio::test]
    async fn answers_the_last_user_text_in_several_deltas() {
        for told in [
            "hello there",
            "a",
            "žluťoučký kůň 🐎 jede",
            &"long ".repeat(1000),
        ] {
            let out = Recorder::default();
            let end = EchoBackend
                .run(turn(&["first", told]), &out, CancellationToken::new())
                .await
                .unwrap();
            assert_eq!(end.text, format!("echo: {told}"));
            assert_eq!(out.text(), end.text, "the deltas are the text");
            assert!(out.deltas().len() > 1);
            assert_eq!(plain_text(&end.messages[0].content), end.text);
        }
    }

    #[tokio::test]
    async fn an_abort_keeps_what_was_said() {
        let cancel = CancellationToken::new();
        let out = Recorder::cancelling_after(1, cancel.clone());
        let error = EchoBackend
            .run(turn(&["some words to repeat"]), &out, cancel)
            .await
            .unwrap_err();
        assert_eq!(error.kind, TurnErrorKind::Aborted);
        assert!(!error.partial_text.is_empty());
        assert_eq!(out.text(), error.partial_text);
    }

    #[tokio::test]
    async fn the_text_bound_is_an_error_and_never_a_silent_cut() {
        let mut turn = turn(&["0123456789"]);
        turn.limits.text_bytes = 9;
        let out = Recorder::default();
        let error = EchoBackend
            .run(turn, &out, CancellationToken::new())
            .await
            .unwrap_err();
        assert_eq!(
            (error.kind, error.partial_text.as_str()),
            (TurnErrorKind::TooLarge, "echo: 012")
        );
    }
}
