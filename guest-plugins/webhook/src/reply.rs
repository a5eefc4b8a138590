//! The way back: the held answer, or a request to the configured callback.

use gateway_guest::answer::{Refused, refused};
use serde_json::{Value, json};

use crate::config::Callback;
use crate::inbound::Kind;

/// One part of a reply.
#[derive(Debug, Clone)]
pub struct Reply<'a> {
    /// Run that it belongs to.
    pub run_id: &'a str,
    /// 0 for the first part.
    pub part: u32,
    /// Kind of the place.
    pub kind: Kind,
    /// Id of the place.
    pub conversation: &'a str,
    /// Thread inside of the place.
    pub thread: Option<&'a str>,
    /// Message that is answered.
    pub reply_to: Option<&'a str>,
    /// What is said.
    pub text: &'a str,
}

impl Reply<'_> {
    /// The same for each attempt of the same part, so that a receiver can drop repeats.
    #[must_use]
    pub fn idempotency_key(&self) -> String {
        format!("{}:{}", self.run_id, self.part)
    }

    fn json(&self) -> Value {
        let kind = match self.kind {
            Kind::Direct => "direct",
            Kind::Group => "group",
            Kind::Channel => "channel",
        };
        json!({
            "id": self.idempotency_key(),
            "runId": self.run_id,
            "part": self.part,
            "conversation": { "id": self.conversation, "kind": kind, "thread": self.thread },
            "replyTo": self.reply_to,
            "text": self.text,
        })
    }

    /// Body of the answer to a held request.
    #[must_use]
    pub fn held_body(&self) -> Vec<u8> {
        json!({ "ok": true, "reply": self.json() })
            .to_string()
            .into_bytes()
    }

    /// Body of the request to the callback.
    #[must_use]
    pub fn callback_body(&self) -> Vec<u8> {
        json!({ "type": "reply", "reply": self.json() })
            .to_string()
            .into_bytes()
    }

    /// Headers of the request to the callback. The host replaces the placeholder; the value is never here.
    #[must_use]
    pub fn callback_headers(&self, callback: &Callback) -> Vec<(String, String)> {
        let mut headers = vec![
            ("content-type".to_owned(), "application/json".to_owned()),
            ("idempotency-key".to_owned(), self.idempotency_key()),
        ];
        if let Some(name) = &callback.secret_header {
            headers.push((
                name.clone(),
                format!("{}{{secret:callback}}", callback.secret_prefix),
            ));
        }
        headers
    }
}

/// Body of the answer to a request that is not held.
#[must_use]
pub fn accepted_body() -> Vec<u8> {
    br#"{"ok":true}"#.to_vec()
}

/// What the callback's answer means: the receiver's own id of the message, if it tells one (`{"id": …}`).
///
/// # Errors
/// Why it was not taken.
pub fn read_answer(
    status: u16,
    headers: &[(String, String)],
    body: &[u8],
) -> Result<Option<String>, Refused> {
    if !(200..300).contains(&status) {
        return Err(refused(status, headers, &String::from_utf8_lossy(body)));
    }
    let told = gateway_guest::json::parse(body).ok();
    Ok(gateway_guest::json::id(
        told.as_ref().and_then(|v| v.get("id")),
        256,
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
    use super::*;
    use crate::config::Config;

    fn reply() -> Reply<'static> {
        Reply {
            run_id: "run-1",
            part: 2,
            kind: Kind::Group,
            conversation: "room",
            thread: None,
            reply_to: Some("m1"),
            text: "he\"y\u{1F600}",
        }
    }

    #[test]
    fn bodies_are_json_with_the_text_whole() {
        let held: Value = serde_json::from_slice(&reply().held_body()).unwrap();
        assert_eq!(
            (held["ok"].as_bool(), held["reply"]["text"].as_str()),
            (Some(true), Some("he\"y\u{1F600}"))
        );
        let sent: Value = serde_json::from_slice(&reply().callback_body()).unwrap();
        assert_eq!(sent["reply"]["id"], "run-1:2");
        assert_eq!(sent["reply"]["conversation"]["kind"], "group");
    }

    #[test]
    fn the_secret_is_a_placeholder_and_only_when_asked_for() {
        let plain = Config::parse(r#"{"callback":{"url":"https://a.example/"}}"#)
            .unwrap()
            .callback
            .unwrap();
        assert!(
            reply()
                .callback_headers(&plain)
                .iter()
                .all(|(_, v)| !v.contains("secret"))
        );
        let secret =
            Config::parse(r#"{"callback":{"url":"https://a.example/","secretHeader":"authorization","secretPrefix":"Bearer "}}"#).unwrap();
        let headers = reply().callback_headers(&secret.callback.unwrap());
        assert!(headers.contains(&(
            "authorization".to_owned(),
            "Bearer {secret:callback}".to_owned()
        )));
        assert!(headers.contains(&("idempotency-key".to_owned(), "run-1:2".to_owned())));
    }

    #[test]
    fn answers_of_the_callback() {
        assert_eq!(
            read_answer(200, &[], b"{\"id\":\"x9\"}"),
            Ok(Some("x9".to_owned()))
        );
        assert_eq!(read_answer(204, &[], b""), Ok(None));
        assert_eq!(read_answer(200, &[], b"<html>"), Ok(None));
        assert_eq!(read_answer(200, &[], b"{\"id\":\"\\u0000\"}"), Ok(None));
        assert!(matches!(
            read_answer(302, &[], b""),
            Err(Refused::Network(_))
        ));
        assert!(matches!(
            read_answer(500, &[], b""),
            Err(Refused::Network(_))
        ));
        assert!(matches!(
            read_answer(400, &[], b"no"),
            Err(Refused::Invalid(_))
        ));
    }
}
