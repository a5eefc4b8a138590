//! Updates of the platform, read without trusting their shape.

use gateway_guest::json::{integer, string};
use gateway_guest::text::{cut_bytes, utf16_slice};
use serde_json::{Value, json};

/// Largest display name, in bytes.
const MAX_NAME_BYTES: usize = 256;
/// Largest text that is taken, in bytes. The platform's own limit is 4096 UTF-16 units.
const MAX_TEXT_BYTES: usize = 64 * 1024;

/// The bot itself, as `getMe` tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Me {
    /// Stable id.
    pub id: i64,
    /// Without `@`.
    pub username: String,
}

impl Me {
    /// Reads the answer of `getMe` (`{"ok":true,"result":{…}}`).
    #[must_use]
    pub fn from_answer(answer: &Value) -> Option<Self> {
        Self::from_value(answer.get("result")?)
    }

    /// Reads what [`Me::to_bytes`] wrote.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Self::from_value(&gateway_guest::json::parse(bytes).ok()?)
    }

    fn from_value(value: &Value) -> Option<Self> {
        Some(Self {
            id: integer(value, "id")?,
            username: string(value, "username").unwrap_or_default().to_owned(),
        })
    }

    /// For `kv`.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        json!({ "id": self.id, "username": self.username })
            .to_string()
            .into_bytes()
    }
}

/// A message that a person wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Unique in the chat.
    pub message_id: i64,
    /// Id of the chat.
    pub chat: i64,
    /// A private chat; else a group.
    pub direct: bool,
    /// Topic of a forum.
    pub thread: Option<i64>,
    /// Stable id of the person, or of the chat that an anonymous administrator speaks for. Never a name.
    pub sender: i64,
    /// For display only: people change it at will.
    pub sender_name: Option<String>,
    /// It comes from another bot.
    pub from_bot: bool,
    /// What was said.
    pub text: String,
    /// The bot was addressed.
    pub mentioned: bool,
    /// Message that this one answers.
    pub reply_to: Option<i64>,
    /// Milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
}

/// One update: its number, and the message in it if it is one that we take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// Grows by each update.
    pub id: i64,
    /// `None`: an edit, a service message, media without text, our own message, or something unknown.
    pub message: Option<Message>,
}

/// Reads one update. `None` when it has no number: then it is no update at all.
#[must_use]
pub fn read(update: &Value, me: Option<&Me>) -> Option<Update> {
    let id = integer(update, "update_id").filter(|id| *id >= 0)?;
    Some(Update {
        id,
        message: update.get("message").and_then(|m| message(m, me)),
    })
}

/// Reads the answer of `getUpdates`; entries that are no updates are left out. `None`: not an answer of the platform.
#[must_use]
pub fn read_batch(answer: &Value, me: Option<&Me>) -> Option<Vec<Update>> {
    if answer.get("ok")?.as_bool() != Some(true) {
        return None;
    }
    Some(
        answer
            .get("result")?
            .as_array()?
            .iter()
            .filter_map(|u| read(u, me))
            .collect(),
    )
}

fn message(message: &Value, me: Option<&Me>) -> Option<Message> {
    let message_id = integer(message, "message_id").filter(|id| *id > 0)?;
    let chat = message.get("chat")?;
    let chat_id = integer(chat, "id")?;
    let direct = match string(chat, "type")? {
        "private" => true,
        "group" | "supergroup" => false,
        _ => return None,
    };
    // A post that the platform itself copies from a linked channel is nobody's message.
    if message.get("is_automatic_forward").and_then(Value::as_bool) == Some(true) {
        return None;
    }
    let text =
        string(message, "text").filter(|t| !t.trim().is_empty() && t.len() <= MAX_TEXT_BYTES)?;
    let from = message.get("from");
    // In groups `sender_chat` speaks (an anonymous administrator); `from` is then a stand-in that all of them share.
    let sender_chat = message.get("sender_chat").filter(|_| !direct);
    let sender = sender_chat.or(from).and_then(|who| integer(who, "id"))?;
    if me.is_some_and(|me| me.id == sender) {
        return None;
    }
    let name = match sender_chat {
        Some(chat) => string(chat, "title").map(str::to_owned),
        None => from.and_then(person_name),
    };
    let from_bot = sender_chat.is_none()
        && from.and_then(|f| f.get("is_bot")).and_then(Value::as_bool) == Some(true);
    let in_topic = message.get("is_topic_message").and_then(Value::as_bool) == Some(true);
    let thread = if in_topic {
        integer(message, "message_thread_id")
    } else {
        None
    };
    let answered = message.get("reply_to_message").filter(|r| {
        // Each message of a topic "answers" the service message that opened the topic.
        r.get("forum_topic_created").is_none()
    });
    let answers_me = me.is_some_and(|me| {
        answered
            .and_then(|r| r.get("from"))
            .and_then(|f| integer(f, "id"))
            == Some(me.id)
    });
    let mentioned = direct || answers_me || me.is_some_and(|me| is_mentioned(message, text, me));
    Some(Message {
        message_id,
        chat: chat_id,
        direct,
        thread,
        sender,
        sender_name: name
            .filter(|n| !n.trim().is_empty())
            .map(|n| cut_bytes(&n, MAX_NAME_BYTES).to_owned()),
        from_bot,
        text: text.to_owned(),
        mentioned,
        reply_to: answered.and_then(|r| integer(r, "message_id")),
        timestamp_ms: integer(message, "date")
            .unwrap_or(0)
            .max(0)
            .saturating_mul(1_000),
    })
}

fn person_name(from: &Value) -> Option<String> {
    let first = string(from, "first_name").unwrap_or_default();
    let last = string(from, "last_name").unwrap_or_default();
    let name = format!("{first} {last}");
    if name.trim().is_empty() {
        string(from, "username").map(str::to_owned)
    } else {
        Some(name.trim().to_owned())
    }
}

/// Whether an entity of the text addresses the bot: `@name`, a link to its account, or `/command@name`.
fn is_mentioned(message: &Value, text: &str, me: &Me) -> bool {
    let Some(entities) = message.get("entities").and_then(Value::as_array) else {
        return false;
    };
    let part = |entity: &Value| {
        let offset = usize::try_from(integer(entity, "offset")?).ok()?;
        let length = usize::try_from(integer(entity, "length")?).ok()?;
        utf16_slice(text, offset, length)
    };
    let is_me = |name: &str| !me.username.is_empty() && name.eq_ignore_ascii_case(&me.username);
    entities
        .iter()
        .take(100)
        .any(|entity| match string(entity, "type") {
            Some("mention") => part(entity)
                .and_then(|t| t.strip_prefix('@'))
                .is_some_and(is_me),
            Some("bot_command") => part(entity)
                .and_then(|t| t.split_once('@'))
                .is_some_and(|(_, name)| is_me(name)),
            Some("text_mention") => {
                entity.get("user").and_then(|u| integer(u, "id")) == Some(me.id)
            }
            _ => false,
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
    use super::*;

    fn me() -> Me {
        Me {
            id: 4242,
            username: "gate_bot".to_owned(),
        }
    }

    fn base() -> Value {
        json!({
            "update_id": 10,
            "message": {
                "message_id": 5, "date": 1_700_000_000, "text": "hello",
                "chat": { "id": 77, "type": "private" },
                "from": { "id": 77, "is_bot": false, "first_name": "Ann", "last_name": "Lee", "username": "ann" },
            },
        })
    }

    fn group(text: &str, more: &Value) -> Option<Message> {
        let mut update = base();
        update["message"]["chat"] =
            json!({ "id": -100_123, "type": "supergroup", "title": "G", "is_forum": true });
        update["message"]["text"] = json!(text);
        for (key, value) in more.as_object().unwrap() {
            update["message"][key] = value.clone();
        }
        read(&update, Some(&me())).unwrap().message
    }

    #[test]
    fn a_private_message() {
        let message = read(&base(), None).unwrap().message.unwrap();
        assert_eq!(
            (message.message_id, message.chat, message.sender),
            (5, 77, 77)
        );
        assert!(message.direct && message.mentioned && !message.from_bot);
        assert_eq!(message.sender_name.as_deref(), Some("Ann Lee"));
        assert_eq!(
            (message.thread, message.reply_to, message.timestamp_ms),
            (None, None, 1_700_000_000_000)
        );
    }

    #[test]
    fn group_messages_are_mentions_only_when_the_bot_is_addressed() {
        let entity = |kind: &str, offset: u64, length: u64| json!({ "entities": [{ "type": kind, "offset": offset, "length": length }] });
        let check = |text: &str, more: Value, expect: bool| {
            assert_eq!(
                group(text, &more).unwrap().mentioned,
                expect,
                "{text} {more}"
            );
        };
        check("hello", json!({}), false);
        check("@gate_bot hi", entity("mention", 0, 9), true);
        check("@Gate_BOT hi", entity("mention", 0, 9), true);
        check("😀 @gate_bot", entity("mention", 3, 9), true);
        // the name without an entity is no mention, and neither is a name that only begins alike
        check("@gate_bot hi", json!({}), false);
        check("@gate_bot2 hi", entity("mention", 0, 10), false);
        check("@gate_bot hi", entity("mention", 400, 9), false);
        check(
            "@gate_bot hi",
            json!({ "entities": [{ "type": "mention", "offset": -1, "length": 9 }] }),
            false,
        );
        check("/start@gate_bot", entity("bot_command", 0, 15), true);
        check("/start@other_bot", entity("bot_command", 0, 16), false);
        check("/start", entity("bot_command", 0, 6), false);
        check(
            "Gate hi",
            json!({ "entities": [{ "type": "text_mention", "offset": 0, "length": 4, "user": { "id": 4242 } }] }),
            true,
        );
        check(
            "yes",
            json!({ "reply_to_message": { "message_id": 3, "from": { "id": 4242, "is_bot": true } } }),
            true,
        );
        check(
            "yes",
            json!({ "reply_to_message": { "message_id": 3, "from": { "id": 9 } } }),
            false,
        );
    }

    #[test]
    fn topics_and_reply_threads() {
        let topic = json!({ "message_thread_id": 9, "is_topic_message": true,
            "reply_to_message": { "message_id": 9, "from": { "id": 4242 }, "forum_topic_created": { "name": "T" } } });
        let message = group("x", &topic).unwrap();
        assert_eq!(
            (message.thread, message.reply_to, message.mentioned),
            (Some(9), None, false)
        );
        let thread = json!({ "message_thread_id": 9, "reply_to_message": { "message_id": 9, "from": { "id": 1 } } });
        let message = group("x", &thread).unwrap();
        assert_eq!((message.thread, message.reply_to), (None, Some(9)));
    }

    #[test]
    fn what_nobody_said_is_left_out() {
        let mut own = base();
        own["message"]["from"]["id"] = json!(4242);
        assert_eq!(read(&own, Some(&me())).unwrap().message, None);
        let mut edited = base();
        let message = edited.as_object_mut().unwrap().remove("message").unwrap();
        edited["edited_message"] = message;
        assert_eq!(
            read(&edited, Some(&me())).unwrap(),
            Update {
                id: 10,
                message: None
            }
        );
        for (key, value) in [
            ("text", Value::Null),
            ("text", json!("   ")),
            ("text", json!(7)),
            ("chat", json!({ "id": 1, "type": "channel" })),
            ("chat", json!({ "id": "1", "type": "private" })),
            ("from", Value::Null),
            ("from", json!({ "username": "ann" })),
            ("message_id", json!(0)),
            ("message_id", json!("5")),
            ("is_automatic_forward", json!(true)),
        ] {
            let mut update = base();
            update["message"][key] = value.clone();
            assert_eq!(
                read(&update, Some(&me())).unwrap().message,
                None,
                "{key} = {value}"
            );
        }
    }

    /// Covers: Z4.
    #[test]
    fn the_sender_is_a_stable_id_and_never_a_name() {
        let anonymous = json!({ "from": { "id": 1_087_968_824, "is_bot": true, "username": "GroupAnonymousBot" },
            "sender_chat": { "id": -100_123, "title": "77" } });
        let message = group("x", &anonymous).unwrap();
        assert_eq!((message.sender, message.from_bot), (-100_123, false));
        // in a private chat only `from` counts
        let mut update = base();
        update["message"]["sender_chat"] = json!({ "id": 1 });
        assert_eq!(read(&update, None).unwrap().message.unwrap().sender, 77);
        // a person whose name is another's id stays itself
        update["message"]["from"] = json!({ "id": 13, "first_name": "77", "username": "77" });
        assert_eq!(read(&update, None).unwrap().message.unwrap().sender, 13);
    }

    #[test]
    fn batches_survive_rubbish() {
        let answer = json!({ "ok": true, "result": [base(), 7, {}, { "update_id": "x" }, { "update_id": -1 }, { "update_id": 11, "poll": {} }] });
        let batch = read_batch(&answer, None).unwrap();
        assert_eq!(
            batch
                .iter()
                .map(|u| (u.id, u.message.is_some()))
                .collect::<Vec<_>>(),
            [(10, true), (11, false)]
        );
        for bad in [
            json!({}),
            json!({ "ok": false, "result": [] }),
            json!({ "ok": true }),
            json!({ "ok": true, "result": {} }),
            json!([]),
        ] {
            assert_eq!(read_batch(&bad, None), None);
        }
    }

    #[test]
    fn any_json_is_read_without_a_panic() {
        // each leaf of a real update replaced by each kind of odd value
        let odd = [
            Value::Null,
            json!(-1),
            json!(1e300),
            json!(u64::MAX),
            json!(""),
            json!("\u{0}\u{202e}"),
            json!([]),
            json!({}),
            json!(true),
        ];
        let paths = [
            "/update_id",
            "/message",
            "/message/message_id",
            "/message/date",
            "/message/text",
            "/message/chat",
            "/message/chat/id",
            "/message/chat/type",
            "/message/from",
            "/message/from/id",
            "/message/from/is_bot",
            "/message/from/first_name",
        ];
        for path in paths {
            for value in &odd {
                let mut update = base();
                *update.pointer_mut(path).unwrap() = value.clone();
                let _ = read(&update, Some(&me()));
            }
        }
    }

    #[test]
    fn me_survives_storage() {
        let answer =
            json!({ "ok": true, "result": { "id": 4242, "is_bot": true, "username": "gate_bot" } });
        assert_eq!(Me::from_answer(&answer), Some(me()));
        assert_eq!(Me::from_bytes(&me().to_bytes()), Some(me()));
        assert_eq!(Me::from_bytes(b"garbage"), None);
        assert_eq!(Me::from_answer(&json!({ "ok": true })), None);
    }
}
