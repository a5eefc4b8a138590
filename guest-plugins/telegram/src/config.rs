//! The account's configuration.

use serde::Deserialize;

/// How updates come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// We ask (default; needs no public address).
    #[default]
    Poll,
    /// The platform calls route `updates`. Set it up with the platform's `setWebhook` and its `secret_token`.
    Webhook,
}

/// The platform's public address.
pub const DEFAULT_API_BASE: &str = "https://api.telegram.org";
/// Longest time that the platform holds an empty poll, in seconds.
pub const MAX_POLL_TIMEOUT_S: u32 = 50;

/// `channels.telegram.accounts.<id>.config`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// How updates come in.
    #[serde(default)]
    pub mode: Mode,
    /// Address of the Bot API without a final slash: a server of your own, or a double in tests. Another one than the
    /// default must be on the account's `http.allow`, with the place of the token:
    /// `https://bots.example/bot{secret:token}/*`.
    #[serde(default = "default_api_base")]
    pub api_base: String,
    /// How long the platform holds an empty poll, in seconds (0 to 50, default 25).
    #[serde(default = "default_poll_timeout_s")]
    pub poll_timeout_s: u32,
    /// Shows previews of links in replies. Default: no.
    #[serde(default)]
    pub link_preview: bool,
}

fn default_api_base() -> String {
    DEFAULT_API_BASE.to_owned()
}

fn default_poll_timeout_s() -> u32 {
    25
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            api_base: default_api_base(),
            poll_timeout_s: default_poll_timeout_s(),
            link_preview: false,
        }
    }
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
            return Err("telegram configuration: must be an object".to_owned());
        }
        let mut config: Self =
            serde_json::from_str(text).map_err(|e| format!("telegram configuration: {e}"))?;
        while config.api_base.ends_with('/') {
            config.api_base.pop();
        }
        let plain = config
            .api_base
            .strip_prefix("https://")
            .or_else(|| config.api_base.strip_prefix("http://"));
        if plain.is_none_or(|rest| {
            rest.is_empty() || rest.starts_with('/') || rest.contains(['?', '#', '{', '@'])
        }) {
            return Err(
                "telegram configuration: `apiBase` must be an absolute http or https address"
                    .to_owned(),
            );
        }
        if config.poll_timeout_s > MAX_POLL_TIMEOUT_S {
            return Err(format!(
                "telegram configuration: `pollTimeoutS` must be 0 to {MAX_POLL_TIMEOUT_S}"
            ));
        }
        Ok(config)
    }

    /// Address of an API method. The host replaces the placeholder; the token is never here.
    #[must_use]
    pub fn url(&self, method: &str) -> String {
        format!("{}/bot{{secret:token}}/{method}", self.api_base)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn defaults_and_urls() {
        let config = Config::parse("{}").unwrap();
        assert_eq!(config, Config::default());
        assert_eq!(
            config.url("getMe"),
            "https://api.telegram.org/bot{secret:token}/getMe"
        );
        let config = Config::parse(
            r#"{"apiBase":"http://127.0.0.1:81//","mode":"webhook","pollTimeoutS":0}"#,
        )
        .unwrap();
        assert_eq!(
            (config.url("x").as_str(), config.mode),
            ("http://127.0.0.1:81/bot{secret:token}/x", Mode::Webhook)
        );
    }

    #[test]
    fn bad_configurations_are_refused() {
        for bad in [
            r#"{"apiBase":"api.telegram.org"}"#,
            r#"{"apiBase":"https://"}"#,
            r#"{"apiBase":"https://u@h"}"#,
            r#"{"apiBase":"https://h/{secret:token}"}"#,
            r#"{"apiBase":"https://h?x="}"#,
            r#"{"pollTimeoutS":51}"#,
            r#"{"mode":"pigeon"}"#,
            r#"{"token":"123:abc"}"#,
            "[]",
        ] {
            assert!(Config::parse(bad).is_err(), "{bad}");
        }
    }
}
