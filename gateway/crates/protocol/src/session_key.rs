//! Session keys: `agent:<agent>:<rest>`, `global` or `unknown`.
//!
//! A key names a conversation, it never grants anything. It is canonical: ASCII, lower case, at most
//! [`MAX_SESSION_KEY_BYTES`] bytes, parts separated by `:` and none of them empty or made of dots.
//! Keys that clients write are refused when they contain anything else (white space, `/`, `\`, control
//! characters, letters that only look like ASCII). Names that platforms give (peers, accounts, threads) may
//! contain anything; the builders write what is not allowed as `%xx`, so that two names never make one key
//! and a name can never add a part.

use std::fmt;
use std::fmt::Write as _;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::AgentId;
use crate::limits::MAX_SESSION_KEY_BYTES;

/// A valid session key in canonical form.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct SessionKey(String);

/// Why a text is not a session key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Nothing there.
    #[error("session key must not be empty")]
    Empty,
    /// Longer than the limit.
    #[error("session key must not be longer than {MAX_SESSION_KEY_BYTES} bytes")]
    TooLong,
    /// Neither `agent:…:…` nor `global` nor `unknown`.
    #[error("session key must start with agent:<id>:")]
    NotQualified,
    /// The agent id breaks its grammar.
    #[error("session key has an invalid agent id")]
    BadAgent,
    /// Two colons side by side, or one at the end.
    #[error("session key has an empty part")]
    EmptyPart,
    /// A part made of dots only.
    #[error("session key has a part made of dots")]
    Dots,
    /// A character outside of `a-z 0-9 . _ - @ + = ~ ! $ & ' ( ) * , ; # |` and `%xx`.
    #[error("session key has a character that is not allowed")]
    BadCharacter,
    /// The key names another agent than the request does.
    #[error("session key belongs to another agent")]
    AgentMismatch,
}

impl From<KeyError> for crate::error::RpcError {
    fn from(error: KeyError) -> Self {
        crate::error::RpcError::new(
            crate::error::DetailCode::InvalidSessionKey,
            error.to_string(),
        )
    }
}

/// How direct messages are spread over sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DmScope {
    /// All direct messages share the agent's main session.
    Main,
    /// One session for a peer, whatever the channel.
    PerPeer,
    /// One session for a peer of a channel.
    #[default]
    PerChannelPeer,
    /// One session for a peer of one account of a channel.
    PerAccountChannelPeer,
}

/// What kind of conversation the rest of a key names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// The agent's main session.
    Main,
    /// A direct conversation.
    Direct,
    /// A group, room or channel.
    Group,
    /// Made by the gateway itself (`cron:`, `hook:`, `subagent:`, `acp:`, `boot:`).
    Internal,
    /// Made for the OpenAI-compatible addresses.
    OpenAi,
    /// Named by an operator.
    Named,
    /// `global` or `unknown`.
    Special,
}

impl SessionKey {
    /// Reads a whole key: white space around it is dropped, ASCII letters become lower case.
    pub fn parse(text: &str) -> Result<SessionKey, KeyError> {
        let text = text.trim_matches(|c: char| c.is_ascii_whitespace());
        if text.is_empty() {
            return Err(KeyError::Empty);
        }
        if text.len() > MAX_SESSION_KEY_BYTES {
            return Err(KeyError::TooLong);
        }
        let key = text.to_ascii_lowercase();
        if key == "global" || key == "unknown" {
            return Ok(SessionKey(key));
        }
        let rest = key.strip_prefix("agent:").ok_or(KeyError::NotQualified)?;
        let (agent, rest) = rest.split_once(':').ok_or(KeyError::NotQualified)?;
        AgentId::parse(agent).map_err(|_| KeyError::BadAgent)?;
        check_parts(rest)?;
        Ok(SessionKey(key))
    }

    /// Reads a whole or short key; a short one (`main`, `lab1`) gets the agent.
    pub fn qualify(text: &str, agent: &AgentId) -> Result<SessionKey, KeyError> {
        let text = text.trim_matches(|c: char| c.is_ascii_whitespace());
        if text.is_empty() {
            return Err(KeyError::Empty);
        }
        if text.len() > MAX_SESSION_KEY_BYTES {
            return Err(KeyError::TooLong);
        }
        let whole = text.len() >= 6 && text.as_bytes()[..6].eq_ignore_ascii_case(b"agent:");
        if whole || text.eq_ignore_ascii_case("global") || text.eq_ignore_ascii_case("unknown") {
            SessionKey::parse(text)
        } else {
            SessionKey::parse(&format!("agent:{agent}:{text}"))
        }
    }

    /// As [`SessionKey::qualify`], for requests that may also name an agent: a whole key of another agent is refused.
    pub fn qualify_for(
        text: &str,
        named: Option<&AgentId>,
        default: &AgentId,
    ) -> Result<SessionKey, KeyError> {
        let key = SessionKey::qualify(text, named.unwrap_or(default))?;
        match (named, key.agent()) {
            (Some(named), Some(agent)) if named.as_str() != agent => Err(KeyError::AgentMismatch),
            _ => Ok(key),
        }
    }

    /// The main session of an agent.
    pub fn main(agent: &AgentId) -> SessionKey {
        SessionKey(format!("agent:{agent}:main"))
    }

    /// The session of a direct conversation. An empty peer falls back to the main session, an empty channel
    /// becomes `unknown`.
    pub fn direct(
        agent: &AgentId,
        scope: DmScope,
        channel: &str,
        account: &str,
        peer: &str,
    ) -> Result<SessionKey, KeyError> {
        let peer = part(peer);
        if scope == DmScope::Main || peer.is_empty() {
            return Ok(SessionKey::main(agent));
        }
        let channel = part_or_unknown(channel);
        match scope {
            DmScope::Main => Ok(SessionKey::main(agent)),
            DmScope::PerPeer => SessionKey::parse(&format!("agent:{agent}:direct:{peer}")),
            DmScope::PerChannelPeer => {
                SessionKey::parse(&format!("agent:{agent}:{channel}:direct:{peer}"))
            }
            DmScope::PerAccountChannelPeer => {
                let account = part_or_unknown(account);
                SessionKey::parse(&format!("agent:{agent}:{channel}:{account}:direct:{peer}"))
            }
        }
    }

    /// The session of a group. `kind` is `group`, `channel` or `room`; empty names become `unknown`.
    pub fn group(
        agent: &AgentId,
        channel: &str,
        kind: &str,
        peer: &str,
    ) -> Result<SessionKey, KeyError> {
        let (channel, kind, peer) = (
            part_or_unknown(channel),
            part_or_unknown(kind),
            part_or_unknown(peer),
        );
        SessionKey::parse(&format!("agent:{agent}:{channel}:{kind}:{peer}"))
    }

    /// The session of a thread of this conversation; an empty id names the conversation itself.
    pub fn thread(&self, id: &str) -> Result<SessionKey, KeyError> {
        self.suffixed("thread", id)
    }

    /// The session of a topic of this conversation; an empty id names the conversation itself.
    pub fn topic(&self, id: &str) -> Result<SessionKey, KeyError> {
        self.suffixed("topic", id)
    }

    /// A session under a prefix that the gateway owns, for example `("boot", run_id)` or `("openai-user", user)`.
    pub fn owned(agent: &AgentId, prefix: &str, name: &str) -> Result<SessionKey, KeyError> {
        let (prefix, name) = (part_or_unknown(prefix), part_or_unknown(name));
        SessionKey::parse(&format!("agent:{agent}:{prefix}:{name}"))
    }

    fn suffixed(&self, word: &str, id: &str) -> Result<SessionKey, KeyError> {
        let id = part(id);
        if id.is_empty() {
            Ok(self.clone())
        } else {
            SessionKey::parse(&format!("{}:{word}:{id}", self.0))
        }
    }

    /// The canonical text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The canonical text, owned.
    pub fn into_string(self) -> String {
        self.0
    }

    /// The agent; `global` and `unknown` have none.
    pub fn agent(&self) -> Option<&str> {
        self.0
            .strip_prefix("agent:")
            .and_then(|r| r.split_once(':'))
            .map(|(agent, _)| agent)
    }

    /// The agent as an id; `global` and `unknown` have none.
    pub fn agent_id(&self) -> Option<AgentId> {
        self.agent().and_then(|a| AgentId::parse(a).ok())
    }

    /// What follows `agent:<id>:`, or the whole of `global` and `unknown`.
    pub fn rest(&self) -> &str {
        self.0
            .strip_prefix("agent:")
            .and_then(|r| r.split_once(':'))
            .map_or(self.0.as_str(), |(_, rest)| rest)
    }

    /// The key without its `:thread:` or `:topic:` suffix, and the id of that suffix.
    pub fn split_thread(&self) -> (&str, Option<&str>) {
        let start = self.0.len() - self.rest().len();
        let mut pieces = self.0[start..].rsplitn(3, ':');
        match (pieces.next(), pieces.next(), pieces.next()) {
            (Some(id), Some(word @ ("thread" | "topic")), Some(_)) => (
                &self.0[..self.0.len() - id.len() - word.len() - 2],
                Some(id),
            ),
            _ => (&self.0, None),
        }
    }

    /// What kind of conversation it names.
    pub fn kind(&self) -> KeyKind {
        if self.agent().is_none() {
            return KeyKind::Special;
        }
        let (base, _) = self.split_thread();
        let start = self.0.len() - self.rest().len();
        let parts: Vec<&str> = base[start..].split(':').collect();
        match parts.as_slice() {
            ["main"] => KeyKind::Main,
            ["cron" | "hook" | "subagent" | "acp" | "boot", ..] => KeyKind::Internal,
            [
                "openai" | "openai-user" | "openresponses" | "openresponses-user",
                ..,
            ] => KeyKind::OpenAi,
            ["direct", _] | [_, "direct", _] | [_, _, "direct", _] => KeyKind::Direct,
            [_, "group" | "channel" | "room", _] => KeyKind::Group,
            _ => KeyKind::Named,
        }
    }
}

impl fmt::Display for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for SessionKey {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl FromStr for SessionKey {
    type Err = KeyError;
    fn from_str(text: &str) -> Result<Self, KeyError> {
        SessionKey::parse(text)
    }
}

impl<'de> Deserialize<'de> for SessionKey {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        SessionKey::parse(&text).map_err(serde::de::Error::custom)
    }
}

fn allowed(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-@+=~!$&'()*,;#|".contains(&byte)
}

fn check_parts(rest: &str) -> Result<(), KeyError> {
    for piece in rest.split(':') {
        if piece.is_empty() {
            return Err(KeyError::EmptyPart);
        }
        if piece.bytes().all(|b| b == b'.') {
            return Err(KeyError::Dots);
        }
        let bytes = piece.as_bytes();
        let mut i = 0;
        while i < bytes.len() {
            if bytes[i] == b'%' {
                let hex = bytes.get(i + 1..i + 3).ok_or(KeyError::BadCharacter)?;
                if !hex.iter().all(u8::is_ascii_hexdigit) {
                    return Err(KeyError::BadCharacter);
                }
                i += 3;
            } else if allowed(bytes[i]) {
                i += 1;
            } else {
                return Err(KeyError::BadCharacter);
            }
        }
    }
    Ok(())
}

/// A platform's name as one part: trimmed, lower case, everything that is not allowed as `%xx`.
fn part(name: &str) -> String {
    let name = name.trim();
    let mut out = String::with_capacity(name.len());
    let dots = !name.is_empty() && name.bytes().all(|b| b == b'.');
    for byte in name.to_lowercase().bytes() {
        if allowed(byte) && !dots {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02x}");
        }
    }
    out
}

fn part_or_unknown(name: &str) -> String {
    let part = part(name);
    if part.is_empty() {
        "unknown".to_owned()
    } else {
        part
    }
}
