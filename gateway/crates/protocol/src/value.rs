//! Small value types with the limits that the published schemas give their fields.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

/// Text of `MIN` to `MAX` characters (`MAX` 0 = no upper limit of its own).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Text<const MIN: usize, const MAX: usize>(String);

/// Text of at least one character.
pub type NonEmpty = Text<1, 0>;

/// The text is too short or too long, or the number too small or too big.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("out of range")]
pub struct OutOfRange;

impl<const MIN: usize, const MAX: usize> Text<MIN, MAX> {
    /// Checks the length, counted in characters.
    pub fn new(text: impl Into<String>) -> Result<Self, OutOfRange> {
        let text = text.into();
        // Bytes bound characters from above and, divided by four, from below: long texts are rarely counted.
        let short = text.len() < MIN * 4 && text.chars().count() < MIN;
        let long = MAX > 0 && text.len() > MAX && text.chars().count() > MAX;
        if short || long {
            Err(OutOfRange)
        } else {
            Ok(Text(text))
        }
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

impl<const MIN: usize, const MAX: usize> Deref for Text<MIN, MAX> {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl<const MIN: usize, const MAX: usize> AsRef<str> for Text<MIN, MAX> {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl<const MIN: usize, const MAX: usize> fmt::Display for Text<MIN, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<const MIN: usize, const MAX: usize> From<Text<MIN, MAX>> for String {
    fn from(text: Text<MIN, MAX>) -> String {
        text.0
    }
}

impl<'de, const MIN: usize, const MAX: usize> Deserialize<'de> for Text<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Text::new(String::deserialize(d)?).map_err(D::Error::custom)
    }
}

impl<const MIN: usize, const MAX: usize> JsonSchema for Text<MIN, MAX> {
    fn schema_name() -> Cow<'static, str> {
        format!("Text{MIN}To{MAX}").into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let mut schema = json_schema!({ "type": "string" });
        if MIN > 0 {
            schema.insert("minLength".to_owned(), MIN.into());
        }
        if MAX > 0 {
            schema.insert("maxLength".to_owned(), MAX.into());
        }
        schema
    }
}

/// A whole number from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Whole<const MIN: u64, const MAX: u64>(u64);

/// A whole number from 1 on (to 2^53-1, which JavaScript can hold).
pub type Positive = Whole<1, 9_007_199_254_740_991>;

impl<const MIN: u64, const MAX: u64> Whole<MIN, MAX> {
    /// Checks the range.
    pub fn new(n: u64) -> Result<Self, OutOfRange> {
        if (MIN..=MAX).contains(&n) {
            Ok(Whole(n))
        } else {
            Err(OutOfRange)
        }
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl<const MIN: u64, const MAX: u64> Default for Whole<MIN, MAX> {
    fn default() -> Self {
        Whole(MIN)
    }
}

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for Whole<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Whole::new(u64::deserialize(d)?).map_err(D::Error::custom)
    }
}

impl<const MIN: u64, const MAX: u64> JsonSchema for Whole<MIN, MAX> {
    fn schema_name() -> Cow<'static, str> {
        format!("Whole{MIN}To{MAX}").into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": MIN, "maximum": MAX })
    }
}
