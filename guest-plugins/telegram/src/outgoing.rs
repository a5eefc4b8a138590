//! What is said to the platform, and what its answers mean.

use gateway_guest::answer::{Refused, seconds_to_ms};
use gateway_guest::json::{self, integer, string};
use gateway_guest::text::{cut_bytes, split_utf16};
use serde_json::{Map, Value, json};

use crate::config::Config;

/// Longest text of one message, in UTF-16 units.
pub const MAX_UTF16: usize = 4_096;

/// Where to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Chat.
    pub chat: i64,
    /// Topic.
    pub thread: Option<i64>,
}

impl Place {
    /// Reads the ids that the host keeps as text.
    ///
    /// # Errors
    /// [`Refused::Invalid`]: not ids of this platform.
    pub fn parse(chat: &str, thread: Option<&str>) -> Result<Self, Refused> {
        let number = |text: &str| {
            text.parse::<i64>().map_err(|_| {
                Refused::Invalid(format!("`{}` is no Telegram id", cut_bytes(text, 64)))
            })
        };
        Ok(Self {
            chat: number(chat)?,
            thread: thread.map(number).transpose()?,
        })
    }
}

/// Pieces that fit into one message each.
#[must_use]
pub fn pieces(text: &str) -> Vec<&str> {
    split_utf16(text, MAX_UTF16)
}

/// Body of `sendMessage`.
#[must_use]
pub fn send_body(config: &Config, place: Place, text: &str, reply_to: Option<i64>) -> Vec<u8> {
    let mut body = text_body(config, place, text);
    if let Some(thread) = place.thread {
        body.insert("message_thread_id".to_owned(), json!(thread));
    }
    if let Some(message) = reply_to {
        // The answered message may be gone by now: the reply is then sent without the link.
        let link = json!({ "message_id": message, "allow_sending_without_reply": true });
        body.insert("reply_parameters".to_owned(), link);
    }
    Value::Object(body).to_string().into_bytes()
}

/// Body of `editMessageText`.
#[must_use]
pub fn edit_body(config: &Config, place: Place, message: i64, text: &str) -> Vec<u8> {
    let mut body = text_body(config, place, text);
    body.insert("message_id".to_owned(), json!(message));
    Value::Object(body).to_string().into_bytes()
}

fn text_body(config: &Config, place: Place, text: &str) -> Map<String, Value> {
    let mut body = Map::new();
    body.insert("chat_id".to_owned(), json!(place.chat));
    body.insert("text".to_owned(), json!(text));
    if !config.link_preview {
        body.insert(
            "link_preview_options".to_owned(),
            json!({ "is_disabled": true }),
        );
    }
    body
}

/// Id of the message that `sendMessage` made.
///
/// # Errors
/// Why it was not sent.
pub fn read_sent(status: u16, body: &[u8]) -> Result<i64, Refused> {
    let answer = read(status, body)?;
    answer
        .get("result")
        .and_then(|r| integer(r, "message_id"))
        .ok_or_else(|| {
            Refused::Internal("sendMessage was answered ok, but without a message id".to_owned())
        })
}

/// Whether `editMessageText` left the message with the wanted text; "not modified" means that it already had it.
///
/// # Errors
/// Why it was not changed.
pub fn read_edited(status: u16, body: &[u8]) -> Result<(), Refused> {
    match read(status, body) {
        Ok(_) => Ok(()),
        Err(Refused::Invalid(why)) if why.contains("message is not modified") => Ok(()),
        Err(Refused::Invalid(why))
            if why.contains("message to edit not found")
                || why.contains("message can't be edited") =>
        {
            Err(Refused::NotFound(why))
        }
        Err(other) => Err(other),
    }
}

/// The JSON of a successful answer.
///
/// # Errors
/// What the platform's error means: 401 and 404 our token, 429 a pause, 403 and lost chats the place, other 4xx the request.
pub fn read(status: u16, body: &[u8]) -> Result<Value, Refused> {
    let answer = json::parse(body).ok();
    if (200..300).contains(&status) {
        return match answer {
            Some(answer) if answer.get("ok").and_then(Value::as_bool) == Some(true) => Ok(answer),
            _ => Err(Refused::Network(format!(
                "HTTP {status} without an answer of the Bot API"
            ))),
        };
    }
    let description = answer
        .as_ref()
        .and_then(|a| string(a, "description"))
        .unwrap_or("no description");
    let why = format!("HTTP {status}: {}", cut_bytes(description, 300));
    let parameters = answer.as_ref().and_then(|a| a.get("parameters"));
    Err(match status {
        401 | 404 => Refused::Auth(why),
        429 => {
            let seconds = parameters
                .and_then(|p| integer(p, "retry_after"))
                .and_then(|s| u32::try_from(s).ok());
            Refused::RateLimited(seconds.map_or(5_000, seconds_to_ms))
        }
        403 => Refused::NotFound(why),
        413 => Refused::TooLarge(why),
        400 if description.contains("chat not found")
            || description.contains("thread not found") =>
        {
            Refused::NotFound(why)
        }
        400 if description.contains("message is too long") => Refused::TooLarge(why),
        400 => match parameters.and_then(|p| integer(p, "migrate_to_chat_id")) {
            Some(chat) => Refused::NotFound(format!("{why}; the group is now {chat}")),
            None => Refused::Invalid(why),
        },
        402..=499 if status != 409 => Refused::Invalid(why),
        _ => Refused::Network(why),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
    use super::*;

    fn failure(status: u16, description: &str, parameters: Value) -> Refused {
        let body = json!({ "ok": false, "error_code": status, "description": description, "parameters": parameters });
        read(status, body.to_string().as_bytes()).unwrap_err()
    }

    #[test]
    fn requests_name_chat_topic_and_answered_message() {
        let place = Place::parse("-100123", Some("9")).unwrap();
        let body: Value =
            serde_json::from_slice(&send_body(&Config::default(), place, "hi", Some(5))).unwrap();
        assert_eq!(
            body,
            json!({ "chat_id": -100_123, "text": "hi", "message_thread_id": 9, "link_preview_options": { "is_disabled": true },
                "reply_parameters": { "message_id": 5, "allow_sending_without_reply": true } })
        );
        let body: Value = serde_json::from_slice(&edit_body(
            &Config {
                link_preview: true,
                ..Config::default()
            },
            place,
            8,
            "x",
        ))
        .unwrap();
        assert_eq!(
            body,
            json!({ "chat_id": -100_123, "message_id": 8, "text": "x" })
        );
        for (chat, thread) in [
            ("", None),
            ("@ann", None),
            ("1", Some("x")),
            ("99999999999999999999", None),
            ("1 ", None),
        ] {
            assert!(
                matches!(Place::parse(chat, thread), Err(Refused::Invalid(_))),
                "{chat} {thread:?}"
            );
        }
    }

    #[test]
    fn long_texts_are_split_by_utf16() {
        assert_eq!(pieces(&"x".repeat(4_096)).len(), 1);
        assert_eq!(pieces(&"x".repeat(4_097)).len(), 2);
        assert_eq!(pieces(&"😀".repeat(2_048)).len(), 1);
        assert_eq!(pieces(&"😀".repeat(2_049)).len(), 2);
    }

    #[test]
    fn answers_and_their_meaning() {
        assert_eq!(
            read_sent(200, br#"{"ok":true,"result":{"message_id":12}}"#),
            Ok(12)
        );
        assert!(matches!(
            read_sent(200, br#"{"ok":true,"result":{}}"#),
            Err(Refused::Internal(_))
        ));
        assert!(matches!(
            read_sent(200, b"<html>"),
            Err(Refused::Network(_))
        ));
        assert!(matches!(
            failure(401, "Unauthorized", json!({})),
            Refused::Auth(_)
        ));
        assert!(matches!(
            failure(404, "Not Found", json!({})),
            Refused::Auth(_)
        ));
        assert!(matches!(
            failure(403, "bot was blocked by the user", json!({})),
            Refused::NotFound(_)
        ));
        assert!(matches!(
            failure(400, "Bad Request: chat not found", json!({})),
            Refused::NotFound(_)
        ));
        assert!(matches!(
            failure(400, "Bad Request: message is too long", json!({})),
            Refused::TooLarge(_)
        ));
        assert!(matches!(
            failure(400, "Bad Request: can't parse entities", json!({})),
            Refused::Invalid(_)
        ));
        assert!(
            matches!(failure(400, "upgraded", json!({ "migrate_to_chat_id": -1001 })), Refused::NotFound(w) if w.contains("-1001"))
        );
        assert!(matches!(
            failure(409, "Conflict", json!({})),
            Refused::Network(_)
        ));
        assert!(matches!(
            failure(502, "Bad Gateway", json!({})),
            Refused::Network(_)
        ));
        assert!(matches!(read(502, b""), Err(Refused::Network(_))));
    }

    #[test]
    fn pauses_are_honoured_within_bounds() {
        assert_eq!(
            failure(429, "x", json!({ "retry_after": 7 })),
            Refused::RateLimited(7_000)
        );
        assert_eq!(
            failure(429, "x", json!({ "retry_after": 99_999_999_999_i64 })),
            Refused::RateLimited(5_000)
        );
        assert_eq!(
            failure(429, "x", json!({ "retry_after": -3 })),
            Refused::RateLimited(5_000)
        );
        assert_eq!(
            failure(429, "x", json!({ "retry_after": 0 })),
            Refused::RateLimited(1_000)
        );
        assert_eq!(failure(429, "x", json!(null)), Refused::RateLimited(5_000));
    }

    #[test]
    fn an_edit_to_the_same_text_is_a_success() {
        let same = br#"{"ok":false,"error_code":400,"description":"Bad Request: message is not modified: specified new message content"}"#;
        assert_eq!(read_edited(400, same), Ok(()));
        assert_eq!(
            read_edited(200, br#"{"ok":true,"result":{"message_id":1}}"#),
            Ok(())
        );
        let gone = br#"{"ok":false,"error_code":400,"description":"Bad Request: message to edit not found"}"#;
        assert!(matches!(read_edited(400, gone), Err(Refused::NotFound(_))));
    }
}
