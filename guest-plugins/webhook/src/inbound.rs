//! The message that comes in.
//!
//! ```json
//! { "id": "m-1", "from": { "id": "u-1", "name": "Ann" }, "text": "hello",
//!   "conversation": { "id": "room-1", "kind": "group", "thread": "t-1" }, "mentioned": true,
//!   "reply": "hold", "replyTo": "m-0", "timestamp": 1790000000000 }
//! ```
//! `id`, `from.id` and `text` are needed. Without `conversation` the message is direct. The way back is never an address
//! from the message: only `hold` or the callback of the account's configuration.

use gateway_guest::json;
use serde_json::Value;

use crate::config::{Config, ReplyMode};

const MAX_ID_BYTES: usize = 256;
const MAX_NAME_BYTES: usize = 256;
/// Longest text, in bytes.
pub const MAX_TEXT_BYTES: usize = 64 * 1024;
/// Largest body, in bytes; the manifest gives the same bound to the host.
pub const MAX_BODY_BYTES: usize = 256 * 1024;

/// Where it is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One person.
    Direct,
    /// Several people.
    Group,
    /// A broadcast place or room.
    Channel,
}

/// A checked message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The sender's id of the message.
    pub id: String,
    /// Stable id of the person.
    pub from_id: String,
    /// For display.
    pub from_name: Option<String>,
    /// The person says of itself that it is a program.
    pub from_bot: bool,
    /// Kind of the place.
    pub kind: Kind,
    /// Id of the place.
    pub conversation: String,
    /// Thread inside of the place.
    pub thread: Option<String>,
    /// The agent was addressed; always true when direct.
    pub mentioned: bool,
    /// What was said.
    pub text: String,
    /// Message that this one answers.
    pub reply_to: Option<String>,
    /// Milliseconds since the Unix epoch, if told.
    pub timestamp_ms: Option<i64>,
    /// Way back.
    pub reply: ReplyMode,
}

/// Why a request is answered with an error: HTTP status, stable code, and a sentence for the sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// HTTP status.
    pub status: u16,
    /// For programs.
    pub code: &'static str,
    /// For people.
    pub message: String,
}

impl Rejected {
    fn invalid(message: impl Into<String>) -> Self {
        Self {
            status: 400,
            code: "INVALID_REQUEST",
            message: message.into(),
        }
    }

    fn too_large(message: impl Into<String>) -> Self {
        Self {
            status: 413,
            code: "PAYLOAD_TOO_LARGE",
            message: message.into(),
        }
    }

    /// Body of the HTTP answer.
    #[must_use]
    pub fn body(&self) -> Vec<u8> {
        serde_json::json!({ "ok": false, "error": { "code": self.code, "message": self.message } })
            .to_string()
            .into_bytes()
    }
}

/// Reads a request.
///
/// # Errors
/// [`Rejected`] names what is wrong; nothing of the message is taken then.
pub fn parse(method: &str, body: &[u8], config: &Config) -> Result<Message, Rejected> {
    if method != "POST" {
        return Err(Rejected {
            status: 405,
            code: "METHOD_NOT_ALLOWED",
            message: "send messages with POST".to_owned(),
        });
    }
    if body.len() > MAX_BODY_BYTES {
        return Err(Rejected::too_large(format!(
            "the body has {} bytes, at most {MAX_BODY_BYTES} are taken",
            body.len()
        )));
    }
    let root = json::parse(body).map_err(Rejected::invalid)?;
    if !root.is_object() {
        return Err(Rejected::invalid("the body must be a JSON object"));
    }
    let id = needed_id(&root, "id", "`id`: the sender's id of the message")?;
    let from = root
        .get("from")
        .ok_or_else(|| Rejected::invalid("`from` is missing: {\"id\": …, \"name\"?: …}"))?;
    let from_id = needed_id(from, "id", "`from.id`: a stable id of the person")?;
    let from_name = optional_text(from, "name", "from.name")?
        .map(|name| gateway_guest::text::cut_bytes(&name, MAX_NAME_BYTES).to_owned());
    let (kind, conversation, thread) = conversation(&root, &from_id)?;
    let text = optional_text(&root, "text", "text")?
        .ok_or_else(|| Rejected::invalid("`text` is missing"))?;
    if text.trim().is_empty() {
        return Err(Rejected::invalid("`text` is empty"));
    }
    if text.len() > MAX_TEXT_BYTES {
        return Err(Rejected::too_large(format!(
            "`text` has {} bytes, at most {MAX_TEXT_BYTES} are taken",
            text.len()
        )));
    }
    let reply = match root.get("reply") {
        None | Some(Value::Null) => config.default_reply(),
        Some(Value::String(mode)) if mode == "hold" => ReplyMode::Hold,
        Some(Value::String(mode)) if mode == "callback" => ReplyMode::Callback,
        Some(_) => {
            return Err(Rejected::invalid(
                "`reply` must be \"hold\" or \"callback\"; addresses are taken from the configuration only",
            ));
        }
    };
    if reply == ReplyMode::Callback && config.callback.is_none() {
        return Err(Rejected::invalid(
            "`reply` is \"callback\", but this account has no `callback.url`",
        ));
    }
    let timestamp_ms = match root.get("timestamp") {
        None | Some(Value::Null) => None,
        Some(value) => Some(
            value
                .as_i64()
                .filter(|ms| *ms >= 0)
                .ok_or_else(|| Rejected::invalid("`timestamp` must be milliseconds since 1970"))?,
        ),
    };
    let mentioned = kind == Kind::Direct || boolean(&root, "mentioned", "mentioned")?;
    Ok(Message {
        id,
        from_id,
        from_name,
        from_bot: boolean(from, "isBot", "from.isBot")?,
        kind,
        conversation,
        thread,
        mentioned,
        text,
        reply_to: optional_id(&root, "replyTo", "replyTo")?,
        timestamp_ms,
        reply,
    })
}

fn conversation(root: &Value, from_id: &str) -> Result<(Kind, String, Option<String>), Rejected> {
    let Some(place) = root.get("conversation").filter(|v| !v.is_null()) else {
        return Ok((Kind::Direct, from_id.to_owned(), None));
    };
    let kind = match place.get("kind") {
        None | Some(Value::Null) => Kind::Direct,
        Some(Value::String(kind)) if kind == "direct" => Kind::Direct,
        Some(Value::String(kind)) if kind == "group" => Kind::Group,
        Some(Value::String(kind)) if kind == "channel" => Kind::Channel,
        Some(_) => {
            return Err(Rejected::invalid(
                "`conversation.kind` must be \"direct\", \"group\" or \"channel\"",
            ));
        }
    };
    let id = needed_id(place, "id", "`conversation.id`")?;
    Ok((
        kind,
        id,
        optional_id(place, "thread", "conversation.thread")?,
    ))
}

fn needed_id(value: &Value, key: &str, what: &str) -> Result<String, Rejected> {
    match value.get(key) {
        None | Some(Value::Null) => Err(Rejected::invalid(format!("missing {what}"))),
        given => json::id(given, MAX_ID_BYTES)
            .ok_or_else(|| Rejected::invalid(format!("{what} must be a whole number or a text of 1 to {MAX_ID_BYTES} bytes without control characters"))),
    }
}

fn optional_id(value: &Value, key: &str, name: &str) -> Result<Option<String>, Rejected> {
    match value.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(_) => needed_id(value, key, &format!("`{name}`")).map(Some),
    }
}

fn optional_text(value: &Value, key: &str, name: &str) -> Result<Option<String>, Rejected> {
    match value.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(Rejected::invalid(format!("`{name}` must be a text"))),
    }
}

fn boolean(value: &Value, key: &str, name: &str) -> Result<bool, Rejected> {
    match value.get(key) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(given)) => Ok(*given),
        Some(_) => Err(Rejected::invalid(format!("`{name}` must be true or false"))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
    use super::*;

    fn with_callback() -> Config {
        Config::parse(r#"{"callback":{"url":"https://a.example/cb"}}"#).unwrap()
    }

    fn ok(body: &str) -> Message {
        parse("POST", body.as_bytes(), &Config::default()).unwrap()
    }

    #[test]
    fn the_least_message_is_direct_and_held() {
        let message = ok(r#"{"id":"m1","from":{"id":7},"text":"hi"}"#);
        assert_eq!(message.from_id, "7");
        assert_eq!(message.conversation, "7");
        assert_eq!(
            (message.kind, message.mentioned, message.reply),
            (Kind::Direct, true, ReplyMode::Hold)
        );
        assert_eq!(
            (message.timestamp_ms, message.reply_to, message.thread),
            (None, None, None)
        );
    }

    #[test]
    fn all_members_are_read() {
        let message = ok(
            r#"{"id":"m1","from":{"id":"u","name":"Ann","isBot":true},"text":"hi","mentioned":false,"unknown":{"x":1},
                "conversation":{"id":"room","kind":"group","thread":"t"},"reply":"hold","replyTo":9,"timestamp":1790000000000}"#,
        );
        assert_eq!(message.from_name.as_deref(), Some("Ann"));
        assert!(message.from_bot && !message.mentioned);
        assert_eq!(
            (
                message.kind,
                message.conversation.as_str(),
                message.thread.as_deref()
            ),
            (Kind::Group, "room", Some("t"))
        );
        assert_eq!(
            (message.reply_to.as_deref(), message.timestamp_ms),
            (Some("9"), Some(1_790_000_000_000))
        );
    }

    #[test]
    fn broken_requests_are_refused_with_a_reason() {
        let long_id = "x".repeat(257);
        let cases = [
            ("", "JSON"),
            ("{", "JSON"),
            ("[]", "object"),
            ("\"x\"", "object"),
            (r#"{"from":{"id":"u"},"text":"t"}"#, "`id`"),
            (r#"{"id":"","from":{"id":"u"},"text":"t"}"#, "`id`"),
            (r#"{"id":1.5,"from":{"id":"u"},"text":"t"}"#, "`id`"),
            (r#"{"id":{},"from":{"id":"u"},"text":"t"}"#, "`id`"),
            (
                &format!(r#"{{"id":"{long_id}","from":{{"id":"u"}},"text":"t"}}"#),
                "`id`",
            ),
            (r#"{"id":"a\u0000b","from":{"id":"u"},"text":"t"}"#, "`id`"),
            (r#"{"id":"m","text":"t"}"#, "from"),
            (r#"{"id":"m","from":"u","text":"t"}"#, "from.id"),
            (r#"{"id":"m","from":{"name":"Ann"},"text":"t"}"#, "from.id"),
            (r#"{"id":"m","from":{"id":"u"}}"#, "text"),
            (r#"{"id":"m","from":{"id":"u"},"text":"  \n "}"#, "text"),
            (r#"{"id":"m","from":{"id":"u"},"text":7}"#, "text"),
            (
                r#"{"id":"m","from":{"id":"u"},"text":"t","conversation":{"kind":"group"}}"#,
                "conversation.id",
            ),
            (
                r#"{"id":"m","from":{"id":"u"},"text":"t","conversation":{"id":"c","kind":"party"}}"#,
                "conversation.kind",
            ),
            (
                r#"{"id":"m","from":{"id":"u"},"text":"t","conversation":"c"}"#,
                "conversation.id",
            ),
            (
                r#"{"id":"m","from":{"id":"u"},"text":"t","timestamp":"now"}"#,
                "timestamp",
            ),
            (
                r#"{"id":"m","from":{"id":"u"},"text":"t","timestamp":-1}"#,
                "timestamp",
            ),
            (
                r#"{"id":"m","from":{"id":"u"},"text":"t","reply":true}"#,
                "reply",
            ),
            (
                r#"{"id":"m","from":{"id":"u"},"text":"t","reply":"callback"}"#,
                "callback.url",
            ),
            (
                r#"{"id":"m","from":{"id":"u"},"text":"t","mentioned":"yes","conversation":{"id":"c","kind":"group"}}"#,
                "mentioned",
            ),
        ];
        for (body, word) in cases {
            let refused = parse("POST", body.as_bytes(), &Config::default()).unwrap_err();
            assert_eq!(refused.status, 400, "{body}");
            assert!(
                refused.message.contains(word),
                "{body}: {}",
                refused.message
            );
            let answer: Value = serde_json::from_slice(&refused.body()).unwrap();
            assert_eq!(
                (answer["ok"].as_bool(), answer["error"]["code"].as_str()),
                (Some(false), Some("INVALID_REQUEST"))
            );
        }
        assert_eq!(
            parse("GET", b"{}", &Config::default()).unwrap_err().status,
            405
        );
    }

    /// Covers: N3.
    #[test]
    fn an_address_in_the_message_is_never_taken() {
        let body = r#"{"id":"m","from":{"id":"u"},"text":"t","reply":"https://evil.example/"}"#;
        assert_eq!(
            parse("POST", body.as_bytes(), &with_callback())
                .unwrap_err()
                .status,
            400
        );
        let body = r#"{"id":"m","from":{"id":"u"},"text":"t","callback":{"url":"https://evil.example/"},"callbackUrl":"https://evil.example/","serviceUrl":"x"}"#;
        let message = parse("POST", body.as_bytes(), &with_callback()).unwrap();
        assert_eq!(message.reply, ReplyMode::Callback);
        assert!(!format!("{message:?}").contains("evil"));
    }

    /// Covers: R15.
    #[test]
    fn too_large_and_too_deep_are_refused() {
        let text = |bytes: usize| {
            format!(
                r#"{{"id":"m","from":{{"id":"u"}},"text":"{}"}}"#,
                "x".repeat(bytes)
            )
        };
        let check = |body: String| {
            parse("POST", body.as_bytes(), &Config::default())
                .map(|m| m.text.len())
                .map_err(|e| e.status)
        };
        assert_eq!(check(text(MAX_TEXT_BYTES)), Ok(MAX_TEXT_BYTES));
        assert_eq!(check(text(MAX_TEXT_BYTES + 1)), Err(413));
        assert_eq!(check(text(MAX_BODY_BYTES)), Err(413));
        assert_eq!(check("[".repeat(100_000)), Err(400));
    }

    #[test]
    fn any_bytes_are_answered_without_a_panic() {
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let good = br#"{"id":"m1","from":{"id":"u","name":"Ann"},"text":"hi","conversation":{"id":"c","kind":"group"}}"#;
        for _ in 0..20_000 {
            let mut body = good.to_vec();
            for _ in 0..3 {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                let at = usize::try_from(seed % body.len() as u64).unwrap();
                body[at] = (seed >> 32) as u8;
            }
            if let Ok(message) = parse("POST", &body, &Config::default()) {
                assert!(
                    !message.id.is_empty()
                        && !message.from_id.is_empty()
                        && !message.text.trim().is_empty()
                );
            }
        }
    }
}
