//! Identifiers that cross module borders, each validated once when it is made.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::limits::MAX_IDEMPOTENCY_KEY_BYTES;

/// Why a text is not an identifier of the wanted kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Nothing there.
    #[error("must not be empty")]
    Empty,
    /// More bytes than allowed.
    #[error("must not be longer than {0} bytes")]
    TooLong(usize),
    /// A character that this kind of id does not have.
    #[error("contains a character that is not allowed")]
    BadCharacter,
}

macro_rules! id {
    ($(#[$meta:meta])* $name:ident, $check:path) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Validates (and where the kind says so lower-cases) the text.
            pub fn parse(text: &str) -> Result<Self, IdError> {
                $check(text).map($name)
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The text, owned.
            pub fn into_string(self) -> String {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::parse(text)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "minLength": 1 })
            }
        }
    };
}

id!(
    /// An agent: `[a-z0-9][a-z0-9_-]{0,63}`, matched without regard to ASCII case and kept in lower case.
    AgentId,
    agent_id
);
id!(
    /// A channel kind or an account of it: `[a-z0-9][a-z0-9._-]{0,63}`, kept in lower case.
    ChannelName,
    channel_name
);
id!(
    /// A run. A client's idempotency key becomes one, so any printable text up to 256 bytes is allowed.
    RunId,
    run_id
);
id!(
    /// A connection, minted by the server.
    ConnId,
    run_id
);

impl AgentId {
    /// Most bytes of an agent id.
    pub const MAX_BYTES: usize = 64;

    /// The agent that a configuration without agents has: `main`.
    pub fn main() -> AgentId {
        AgentId("main".to_owned())
    }
}

fn lowered(text: &str, max: usize, extra: &[u8]) -> Result<String, IdError> {
    let Some(first) = text.bytes().next() else {
        return Err(IdError::Empty);
    };
    if text.len() > max {
        return Err(IdError::TooLong(max));
    }
    if !first.is_ascii_alphanumeric()
        || !text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || extra.contains(&b))
    {
        return Err(IdError::BadCharacter);
    }
    Ok(text.to_ascii_lowercase())
}

fn agent_id(text: &str) -> Result<String, IdError> {
    lowered(text, AgentId::MAX_BYTES, b"_-")
}

fn channel_name(text: &str) -> Result<String, IdError> {
    lowered(text, 64, b"._-")
}

fn run_id(text: &str) -> Result<String, IdError> {
    if text.is_empty() {
        return Err(IdError::Empty);
    }
    if text.len() > MAX_IDEMPOTENCY_KEY_BYTES {
        return Err(IdError::TooLong(MAX_IDEMPOTENCY_KEY_BYTES));
    }
    if text.chars().any(char::is_control) {
        return Err(IdError::BadCharacter);
    }
    Ok(text.to_owned())
}
