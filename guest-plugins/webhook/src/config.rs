//! The account's configuration.

use serde::Deserialize;

/// How the reply goes back when the message does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReplyMode {
    /// In the answer to the request, which stays open until then.
    Hold,
    /// By a request of ours to the configured address.
    Callback,
}

/// Where replies are posted.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Callback {
    /// Absolute URL. Must be on the account's `http.allow` too.
    pub url: String,
    /// Header that carries the secret `callback`; absent: no secret is sent.
    #[serde(default)]
    pub secret_header: Option<String>,
    /// Text before the secret, for example `Bearer `.
    #[serde(default)]
    pub secret_prefix: String,
    /// Whole exchange, in milliseconds (100 to 10000).
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u32,
}

fn default_timeout_ms() -> u32 {
    10_000
}

/// Longest time that a request is held open, in milliseconds.
pub const MAX_HOLD_MS: u32 = 60_000;

/// `channels.webhook.accounts.<id>.config`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// Way back of messages that do not name one. Default: `callback` if one is configured, else `hold`.
    #[serde(default)]
    pub reply: Option<ReplyMode>,
    /// Where replies are posted.
    #[serde(default)]
    pub callback: Option<Callback>,
    /// How long a request is held, in milliseconds (1000 to 60000, default 60000).
    #[serde(default)]
    pub hold_ms: Option<u32>,
}

impl Config {
    /// Reads and checks the configuration. Empty text and `null` mean defaults.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn parse(text: &str) -> Result<Self, String> {
        if matches!(text.trim(), "" | "null") {
            return Ok(Self::default());
        }
        // serde would take an array as a struct.
        if !text.trim_start().starts_with('{') {
            return Err("webhook configuration: must be an object".to_owned());
        }
        let config: Self =
            serde_json::from_str(text).map_err(|e| format!("webhook configuration: {e}"))?;
        if config
            .hold_ms
            .is_some_and(|ms| !(1_000..=MAX_HOLD_MS).contains(&ms))
        {
            return Err(format!(
                "webhook configuration: `holdMs` must be 1000 to {MAX_HOLD_MS}"
            ));
        }
        if config.reply == Some(ReplyMode::Callback) && config.callback.is_none() {
            return Err(
                "webhook configuration: `reply: \"callback\"` needs `callback.url`".to_owned(),
            );
        }
        if let Some(callback) = &config.callback {
            let plain = callback
                .url
                .strip_prefix("https://")
                .or_else(|| callback.url.strip_prefix("http://"));
            if plain.is_none_or(|rest| rest.is_empty() || rest.starts_with('/'))
                || callback.url.contains('{')
            {
                return Err("webhook configuration: `callback.url` must be an absolute http or https address".to_owned());
            }
            let header_ok = |name: &str| {
                !name.is_empty()
                    && name
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            };
            if callback
                .secret_header
                .as_deref()
                .is_some_and(|name| !header_ok(name))
            {
                return Err(
                    "webhook configuration: `callback.secretHeader` is no header name".to_owned(),
                );
            }
            if callback.secret_prefix.contains(['{', '\r', '\n']) {
                return Err("webhook configuration: `callback.secretPrefix` must not hold braces or line ends".to_owned());
            }
            if !(100..=10_000).contains(&callback.timeout_ms) {
                return Err(
                    "webhook configuration: `callback.timeoutMs` must be 100 to 10000".to_owned(),
                );
            }
        }
        Ok(config)
    }

    /// Way back of a message that does not name one.
    #[must_use]
    pub fn default_reply(&self) -> ReplyMode {
        self.reply.unwrap_or(if self.callback.is_some() {
            ReplyMode::Callback
        } else {
            ReplyMode::Hold
        })
    }

    /// How long a request is held, in milliseconds.
    #[must_use]
    pub fn hold_ms(&self) -> u32 {
        self.hold_ms.unwrap_or(MAX_HOLD_MS)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn defaults() {
        for text in ["", " ", "null", "{}"] {
            let config = Config::parse(text).unwrap();
            assert_eq!(
                (config.default_reply(), config.hold_ms()),
                (ReplyMode::Hold, 60_000),
                "{text}"
            );
        }
        let config = Config::parse(r#"{"callback":{"url":"https://a.example/cb"}}"#).unwrap();
        assert_eq!(config.default_reply(), ReplyMode::Callback);
    }

    #[test]
    fn bad_configurations_are_refused_with_the_key_in_the_text() {
        let check = |text: &str, word: &str| {
            let why = Config::parse(text).unwrap_err();
            assert!(why.contains(word), "{text}: {why}");
        };
        check(r#"{"holdMs":0}"#, "holdMs");
        check(r#"{"holdMs":60001}"#, "holdMs");
        check(r#"{"reply":"callback"}"#, "callback.url");
        check(r#"{"reply":"pigeon"}"#, "pigeon");
        check(r#"{"callback":{"url":"ftp://a"}}"#, "callback.url");
        check(r#"{"callback":{"url":"https://"}}"#, "callback.url");
        check(
            r#"{"callback":{"url":"https://a/{secret:callback}"}}"#,
            "callback.url",
        );
        check(
            r#"{"callback":{"url":"https://a/","secretHeader":"a b"}}"#,
            "secretHeader",
        );
        check(
            r#"{"callback":{"url":"https://a/","secretPrefix":"{"}}"#,
            "secretPrefix",
        );
        check(
            r#"{"callback":{"url":"https://a/","timeoutMs":99999}}"#,
            "timeoutMs",
        );
        check(r#"{"calback":{}}"#, "calback");
        check("[1]", "webhook configuration");
    }
}
