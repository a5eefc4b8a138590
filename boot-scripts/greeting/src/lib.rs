//! Boot script: posts a greeting into a session, once for each start of the gateway.

use gateway_guest::json;
use serde_json::{Value, json};

#[cfg(target_arch = "wasm32")]
mod script;

/// Session that is greeted unless the configuration names another.
pub const DEFAULT_SESSION: &str = "agent:main:main";
/// Text unless the configuration has another.
pub const DEFAULT_TEXT: &str = "The gateway is up. Say something to try it.";
const MAX_TEXT_BYTES: usize = 4_096;

/// What to post.
#[derive(Debug, PartialEq, Eq)]
pub struct Greeting {
    /// Session key.
    pub session: String,
    /// Text of the message.
    pub text: String,
}

/// Reads the script's configuration: `{"sessionKey"?: string, "text"?: string}`.
///
/// # Errors
/// A sentence for the operator.
pub fn plan(config: &str) -> Result<Greeting, String> {
    let config = if config.trim().is_empty() {
        Value::Null
    } else {
        json::parse(config.as_bytes())?
    };
    let member = |key: &str, default: &str| match config.get(key) {
        None | Some(Value::Null) => Ok(default.to_owned()),
        Some(Value::String(text)) if !text.trim().is_empty() && text.len() <= MAX_TEXT_BYTES => {
            Ok(text.clone())
        }
        Some(_) => Err(format!(
            "`{key}` must be a text of 1 to {MAX_TEXT_BYTES} bytes"
        )),
    };
    if !matches!(config, Value::Null | Value::Object(_)) {
        return Err("the configuration must be an object".to_owned());
    }
    Ok(Greeting {
        session: member("sessionKey", DEFAULT_SESSION)?,
        text: member("text", DEFAULT_TEXT)?,
    })
}

/// Parameters of `chat.inject`.
#[must_use]
pub fn inject_params(greeting: &Greeting) -> String {
    json!({ "sessionKey": greeting.session, "message": greeting.text, "label": "greeting" })
        .to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn defaults_stand_in() {
        for config in ["", "{}", "null", r#"{"text":null}"#] {
            let plan = plan(config).unwrap();
            assert_eq!(
                (plan.session.as_str(), plan.text.as_str()),
                (DEFAULT_SESSION, DEFAULT_TEXT),
                "{config}"
            );
        }
    }

    #[test]
    fn configuration_wins_and_nonsense_is_refused() {
        assert_eq!(
            plan(r#"{"sessionKey":"agent:a:b","text":"hi"}"#).unwrap(),
            Greeting {
                session: "agent:a:b".into(),
                text: "hi".into()
            }
        );
        for bad in [
            "[]",
            "1",
            "{",
            r#"{"text":3}"#,
            r#"{"text":" "}"#,
            &format!(r#"{{"text":"{}"}}"#, "x".repeat(5_000)),
        ] {
            assert!(plan(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn text_is_escaped_in_the_parameters() {
        let params = inject_params(&Greeting {
            session: "s".into(),
            text: "a\"b\n".into(),
        });
        let back: Value = serde_json::from_str(&params).unwrap();
        assert_eq!(back["message"], "a\"b\n");
    }
}
