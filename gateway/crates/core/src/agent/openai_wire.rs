//! The part of the OpenAI chat completions format that we send and read.

use std::sync::Arc;

use gateway_protocol::content::{ChatMessage, ContentBlock, Role, Usage, plain_text};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::limits::{
    TOOL_ARGUMENTS_MAX_BYTES, TOOL_CALLS_PER_ROUND_MAX, UPSTREAM_ERROR_TEXT_MAX_CHARS,
};
use crate::tool::ToolSpec;

/// The body of `POST …/chat/completions`.
#[derive(Serialize)]
pub(crate) struct Request<'a> {
    pub model: &'a str,
    pub messages: &'a [Message],
    pub stream: bool,
    pub stream_options: StreamOptions,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<ToolDecl<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_choice: Option<&'static str>,
}

#[derive(Serialize)]
pub(crate) struct StreamOptions {
    pub include_usage: bool,
}

#[derive(Serialize)]
pub(crate) struct ToolDecl<'a> {
    r#type: &'static str,
    function: FunctionDecl<'a>,
}

#[derive(Serialize)]
struct FunctionDecl<'a> {
    name: &'a str,
    description: &'a str,
    parameters: &'a Value,
}

impl<'a> From<&'a ToolSpec> for ToolDecl<'a> {
    fn from(spec: &'a ToolSpec) -> Self {
        let function = FunctionDecl {
            name: &spec.name,
            description: &spec.description,
            parameters: &spec.parameters,
        };
        Self {
            r#type: "function",
            function,
        }
    }
}

/// One message of a request.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "role", rename_all = "lowercase")]
pub(crate) enum Message {
    System {
        content: String,
    },
    User {
        content: String,
    },
    Assistant {
        #[serde(skip_serializing_if = "Option::is_none")]
        content: Option<String>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        tool_calls: Vec<CallOut>,
    },
    Tool {
        tool_call_id: String,
        content: String,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct CallOut {
    pub id: String,
    pub r#type: &'static str,
    pub function: FunctionOut,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct FunctionOut {
    pub name: String,
    /// JSON text.
    pub arguments: String,
}

impl From<&Call> for CallOut {
    fn from(call: &Call) -> Self {
        let arguments = if call.arguments.trim().is_empty() {
            "{}".into()
        } else {
            call.arguments.clone()
        };
        Self {
            id: call.id.clone(),
            r#type: "function",
            function: FunctionOut {
                name: call.name.clone(),
                arguments,
            },
        }
    }
}

/// The conversation in the upstream's form. A tool call and its results go together: servers refuse a conversation in which
/// one of them is missing, which a cut history or an aborted run can leave behind, so such remains are left out.
pub(crate) fn messages(system: Option<&str>, history: &[Arc<ChatMessage>]) -> Vec<Message> {
    let mut out = Vec::with_capacity(history.len() + 1);
    if let Some(system) = system.filter(|s| !s.trim().is_empty()) {
        out.push(Message::System {
            content: system.to_string(),
        });
    }
    let mut rest = history;
    while let Some((message, after)) = rest.split_first() {
        rest = after;
        match message.role {
            Role::User => out.push(Message::User {
                content: shown(&message.content),
            }),
            Role::System => out.push(Message::System {
                content: shown(&message.content),
            }),
            // Results are taken together with their call, below; one that is met here has lost it.
            Role::ToolResult => {}
            Role::Assistant => {
                let calls: Vec<CallOut> = message.content.iter().filter_map(call_out).collect();
                let count = rest
                    .iter()
                    .take_while(|m| m.role == Role::ToolResult)
                    .count();
                let (results, after) = rest.split_at(count);
                rest = after;
                let results: Vec<(&str, &str)> = results
                    .iter()
                    .flat_map(|m| m.content.iter().filter_map(result))
                    .collect();
                let answered = |call: &CallOut| results.iter().find(|(id, _)| *id == call.id);
                let calls: Vec<CallOut> = calls
                    .into_iter()
                    .filter(|c| answered(c).is_some())
                    .collect();
                let tools: Vec<Message> = calls
                    .iter()
                    .filter_map(answered)
                    .map(|(id, text)| Message::Tool {
                        tool_call_id: (*id).to_string(),
                        content: (*text).to_string(),
                    })
                    .collect();
                let content = Some(shown(&message.content)).filter(|text| !text.is_empty());
                if content.is_some() || !calls.is_empty() {
                    out.push(Message::Assistant {
                        content,
                        tool_calls: calls,
                    });
                    out.extend(tools);
                }
            }
        }
    }
    out
}

fn call_out(block: &ContentBlock) -> Option<CallOut> {
    match block {
        ContentBlock::ToolCall {
            id,
            name,
            arguments,
        } => {
            let function = FunctionOut {
                name: name.clone(),
                arguments: arguments.to_string(),
            };
            Some(CallOut {
                id: id.clone(),
                r#type: "function",
                function,
            })
        }
        _ => None,
    }
}

fn result(block: &ContentBlock) -> Option<(&str, &str)> {
    match block {
        ContentBlock::ToolResult {
            tool_call_id, text, ..
        } => Some((tool_call_id, text)),
        _ => None,
    }
}

/// The text of a message; a file is named, since its bytes are not at hand here.
fn shown(blocks: &[ContentBlock]) -> String {
    let mut text = plain_text(blocks);
    for block in blocks {
        let note = match block {
            ContentBlock::Image {
                mime_type,
                size_bytes,
                ..
            } => format!("[picture, {mime_type}, {size_bytes} bytes]"),
            ContentBlock::File {
                mime_type,
                size_bytes,
                file_name,
                ..
            } => {
                format!(
                    "[file {}, {mime_type}, {size_bytes} bytes]",
                    file_name.as_deref().unwrap_or("without name")
                )
            }
            _ => continue,
        };
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&note);
    }
    text
}

/// One event of a stream, or (with `message` in place of `delta`) a whole answer.
#[derive(Debug, Deserialize)]
pub(crate) struct Chunk {
    #[serde(default)]
    pub choices: Vec<Choice>,
    #[serde(default)]
    pub usage: Option<WireUsage>,
    #[serde(default)]
    pub model: Option<String>,
    #[serde(default)]
    pub error: Option<Value>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Choice {
    #[serde(default)]
    pub index: u32,
    #[serde(default, alias = "message")]
    pub delta: Option<Delta>,
    #[serde(default)]
    pub finish_reason: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Delta {
    #[serde(default)]
    pub content: Option<String>,
    #[serde(default)]
    pub refusal: Option<String>,
    #[serde(default)]
    pub tool_calls: Option<Vec<CallDelta>>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct CallDelta {
    #[serde(default)]
    index: Option<usize>,
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    function: Option<FunctionDelta>,
}

#[derive(Debug, Deserialize)]
struct FunctionDelta {
    #[serde(default)]
    name: Option<String>,
    /// Text by the specification; some servers send the object itself.
    #[serde(default)]
    arguments: Option<Value>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct WireUsage {
    #[serde(default)]
    prompt_tokens: u64,
    #[serde(default)]
    completion_tokens: u64,
    #[serde(default)]
    total_tokens: Option<u64>,
    #[serde(default)]
    prompt_tokens_details: Option<PromptDetails>,
}

#[derive(Debug, Deserialize)]
struct PromptDetails {
    #[serde(default)]
    cached_tokens: Option<u64>,
}

impl WireUsage {
    /// The same in our form.
    pub(crate) fn to_usage(&self) -> Usage {
        let sum = self.prompt_tokens.saturating_add(self.completion_tokens);
        Usage {
            input: self.prompt_tokens,
            output: self.completion_tokens,
            cache_read: self
                .prompt_tokens_details
                .as_ref()
                .and_then(|d| d.cached_tokens)
                .unwrap_or(0),
            cache_write: 0,
            total_tokens: self.total_tokens.unwrap_or(sum),
        }
    }
}

/// Adds `more` to `all`.
pub(crate) fn add_usage(all: &mut Usage, more: &Usage) {
    all.input = all.input.saturating_add(more.input);
    all.output = all.output.saturating_add(more.output);
    all.cache_read = all.cache_read.saturating_add(more.cache_read);
    all.cache_write = all.cache_write.saturating_add(more.cache_write);
    all.total_tokens = all.total_tokens.saturating_add(more.total_tokens);
}

/// A tool call, put together from its fragments.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Call {
    pub id: String,
    pub name: String,
    /// JSON text as the model wrote it.
    pub arguments: String,
}

/// The tool calls of one answer while they come in.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    list: Vec<(usize, Call)>,
}

impl Calls {
    /// Adds a fragment; `Err` says which bound it breaks.
    pub(crate) fn add(&mut self, delta: CallDelta) -> Result<(), &'static str> {
        let id = delta.id.filter(|id| !id.is_empty());
        let at = match delta.index {
            Some(index) => self.list.iter().position(|(i, _)| *i == index),
            // Without an index a new id begins a new call and anything else goes on with the last one.
            None => match &id {
                Some(id) => self.list.iter().position(|(_, c)| c.id == *id),
                None => self.list.len().checked_sub(1),
            },
        };
        let at = match at {
            Some(at) => at,
            None if self.list.len() >= TOOL_CALLS_PER_ROUND_MAX => {
                return Err("the model asked for too many tools at once");
            }
            None => {
                self.list
                    .push((delta.index.unwrap_or(self.list.len()), Call::default()));
                self.list.len() - 1
            }
        };
        let Some((_, call)) = self.list.get_mut(at) else {
            return Ok(());
        };
        if let Some(id) = id {
            call.id = id;
        }
        let Some(function) = delta.function else {
            return Ok(());
        };
        if let Some(name) = function.name
            && call.name.is_empty()
        {
            call.name = name;
        }
        match function.arguments {
            None | Some(Value::Null) => {}
            Some(Value::String(text)) => call.arguments.push_str(&text),
            Some(other) => call.arguments.push_str(&other.to_string()),
        }
        if call.arguments.len() > TOOL_ARGUMENTS_MAX_BYTES
            || call.name.len() > 256
            || call.id.len() > 256
        {
            return Err("the model's tool call is too long");
        }
        Ok(())
    }

    /// The whole calls in order; a call without id gets one that is unique in its run.
    pub(crate) fn finish(mut self, round: u32) -> Vec<Call> {
        self.list.sort_by_key(|(index, _)| *index);
        let mut out: Vec<Call> = Vec::with_capacity(self.list.len());
        for (i, (_, mut call)) in self.list.into_iter().enumerate() {
            if call.id.is_empty() || out.iter().any(|c| c.id == call.id) {
                call.id = format!("call_{round}_{i}");
            }
            out.push(call);
        }
        out
    }
}

/// What an upstream's error body says, in one short line without control characters and without `secret`.
pub(crate) fn error_text(body: &[u8], secret: Option<&str>) -> String {
    let raw = String::from_utf8_lossy(body);
    let parsed: Option<Value> = serde_json::from_slice(body).ok();
    let told = parsed.as_ref().and_then(error_message).unwrap_or(&raw);
    clean(told, secret)
}

/// The text inside of an error object.
pub(crate) fn error_message(value: &Value) -> Option<&str> {
    let error = value.get("error").unwrap_or(value);
    error
        .as_str()
        .or_else(|| error.get("message").and_then(Value::as_str))
        .or_else(|| value.get("message").and_then(Value::as_str))
}

/// One short line for a person.
pub(crate) fn clean(text: &str, secret: Option<&str>) -> String {
    let text = match secret.filter(|s| !s.is_empty()) {
        Some(secret) => text.replace(secret, "***"),
        None => text.to_string(),
    };
    let line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(UPSTREAM_ERROR_TEXT_MAX_CHARS) {
        Some((at, _)) => format!("{}…", line.split_at(at).0),
        None => line,
    }
}

/// Milliseconds to wait by `retry-after-ms` or `Retry-After`, as seconds or as a date (counted from the response's `Date`).
pub(crate) fn retry_after_ms(header: &dyn Fn(&str) -> Option<String>) -> Option<u64> {
    let millis = |text: String| {
        text.trim()
            .parse::<f64>()
            .ok()
            .filter(|n| n.is_finite() && *n >= 0.0)
    };
    if let Some(ms) = header("retry-after-ms").and_then(millis) {
        return Some(ms.ceil().min(86_400_000.0) as u64);
    }
    let text = header("retry-after")?;
    if let Some(seconds) = millis(text.clone()) {
        return Some((seconds * 1000.0).ceil().min(86_400_000.0) as u64);
    }
    let (until, now) = (http_date(&text)?, http_date(&header("date")?)?);
    Some(u64::try_from((until - now).max(0)).ok()?.min(86_400) * 1000)
}

/// Seconds since the epoch of `Sun, 06 Nov 1994 08:49:37 GMT`.
fn http_date(text: &str) -> Option<i64> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let parts: Vec<&str> = text.split_whitespace().collect();
    let [_, day, month, year, time, "GMT"] = parts.as_slice() else {
        return None;
    };
    let month = i64::try_from(MONTHS.iter().position(|m| m == month)?).ok()? + 1;
    let (day, year): (i64, i64) = (day.parse().ok()?, year.parse().ok()?);
    let clock: Vec<i64> = time
        .split(':')
        .map(|n| n.parse().ok())
        .collect::<Option<_>>()?;
    let [h, m, s] = clock.as_slice() else {
        return None;
    };
    if !(1970..=9999).contains(&year) || !(1..=31).contains(&day) {
        return None;
    }
    // Days before this month, in a year that begins in March.
    let (y, shifted) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * shifted + 2) / 5 + day - 1 - 719_468;
    Some(days * 86_400 + h * 3600 + m * 60 + s)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use serde_json::json;

    fn message(role: Role, content: Vec<ContentBlock>) -> ChatMessage {
        ChatMessage {
            content,
            ..ChatMessage::text(role, "", 1)
        }
    }

    fn call(id: &str) -> ContentBlock {
        ContentBlock::ToolCall {
            id: id.into(),
            name: "t".into(),
            arguments: json!({"a": 1}),
        }
    }

    fn answer(id: &str) -> ChatMessage {
        let block = ContentBlock::ToolResult {
            tool_call_id: id.into(),
            name: "t".into(),
            text: format!("r-{id}"),
            is_error: false,
        };
        message(Role::ToolResult, vec![block])
    }

    #[test]
    fn calls_and_results_go_together_or_not_at_all() {
        let history = [
            answer("cut-off"),
            ChatMessage::text(Role::User, "q", 1),
            message(
                Role::Assistant,
                vec![
                    ContentBlock::text("let me see"),
                    call("1"),
                    call("lost"),
                    call("2"),
                ],
            ),
            answer("2"),
            answer("1"),
            message(Role::Assistant, vec![call("aborted")]),
            ChatMessage::text(Role::User, "again", 1),
        ];
        let history = history.map(Arc::new);
        let sent = serde_json::to_value(messages(Some("sys"), &history)).unwrap();
        let call = |id: &str| json!({"id": id, "type": "function", "function": {"name": "t", "arguments": "{\"a\":1}"}});
        let want = json!([
            {"role": "system", "content": "sys"},
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "let me see", "tool_calls": [call("1"), call("2")]},
            {"role": "tool", "tool_call_id": "1", "content": "r-1"},
            {"role": "tool", "tool_call_id": "2", "content": "r-2"},
            {"role": "user", "content": "again"},
        ]);
        assert_eq!(sent, want);
    }

    #[test]
    fn fragments_of_calls_are_put_together() {
        let mut calls = Calls::default();
        for delta in [
            json!({"index": 1, "id": "b", "function": {"name": "two"}}),
            json!({"index": 0, "id": "a", "function": {"name": "one", "arguments": "{\"x\""}}),
            json!({"index": 1, "function": {"arguments": "{}"}}),
            json!({"index": 0, "id": "", "function": {"name": null, "arguments": ":1}"}}),
            json!({"index": 2, "function": {"name": "three", "arguments": {"y": 2}}}),
        ] {
            calls.add(serde_json::from_value(delta).unwrap()).unwrap();
        }
        let got: Vec<_> = calls
            .finish(3)
            .into_iter()
            .map(|c| (c.id, c.name, c.arguments))
            .collect();
        let want = [
            ("a", "one", "{\"x\":1}"),
            ("b", "two", "{}"),
            ("call_3_2", "three", "{\"y\":2}"),
        ];
        assert_eq!(
            got,
            want.map(|(a, b, c)| (a.to_string(), b.to_string(), c.to_string()))
        );
        let mut calls = Calls::default();
        let many = (0..=TOOL_CALLS_PER_ROUND_MAX)
            .try_for_each(|i| calls.add(serde_json::from_value(json!({"index": i})).unwrap()));
        assert!(many.is_err());
    }

    #[test]
    fn waits_are_read_in_each_form() {
        let read = |pairs: &[(&str, &str)]| {
            retry_after_ms(&|name| {
                pairs
                    .iter()
                    .find(|(n, _)| *n == name)
                    .map(|(_, v)| (*v).to_string())
            })
        };
        assert_eq!(read(&[("retry-after", "2")]), Some(2000));
        assert_eq!(read(&[("retry-after", "0.25")]), Some(250));
        assert_eq!(
            read(&[("retry-after", "9"), ("retry-after-ms", "120")]),
            Some(120)
        );
        assert_eq!(
            read(&[
                ("retry-after", "Thu, 01 Mar 2040 00:00:05 GMT"),
                ("date", "Wed, 29 Feb 2040 23:59:50 GMT")
            ]),
            Some(15_000)
        );
        for odd in ["-1", "soon", "inf", "NaN", "Thu, 01 Foo 2040 00:00:05 GMT"] {
            assert_eq!(
                read(&[
                    ("retry-after", odd),
                    ("date", "Wed, 29 Feb 2040 23:59:50 GMT")
                ]),
                None,
                "{odd}"
            );
        }
        assert_eq!(
            http_date("Sun, 06 Nov 1994 08:49:37 GMT"),
            Some(784_111_777)
        );
    }

    #[test]
    fn error_texts_are_short_and_hold_no_key() {
        let body =
            json!({"error": {"message": format!("key sk-1234 is\nwrong {}", "x".repeat(5000))}})
                .to_string();
        let text = error_text(body.as_bytes(), Some("sk-1234"));
        assert!(
            text.starts_with("key *** is wrong x")
                && text.chars().count() <= UPSTREAM_ERROR_TEXT_MAX_CHARS + 1,
            "{text}"
        );
        assert_eq!(
            error_text(b"{\"error\":\"model not found\"}", None),
            "model not found"
        );
        assert_eq!(error_text(b"<html>\x00 502", None), "<html> 502");
        assert_eq!(error_text(b"\xff", None), "\u{fffd}");
    }
}
