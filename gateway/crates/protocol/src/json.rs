//! Strict JSON helpers: a depth cap that needs no stack, duplicate-key detection, and a walk over the
//! top-level keys of an object.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Number, Value};

use crate::limits::JSON_MAX_DEPTH;

/// True when arrays and objects in the text are nested no deeper than `max`. Looks at brackets outside of
/// strings only; whether the text is JSON at all is for the parser to say.
pub fn depth_within(text: &[u8], max: usize) -> bool {
    // A text this short cannot nest deeper.
    if text.len() <= max {
        return true;
    }
    let mut depth = 0usize;
    let mut i = 0;
    while i < text.len() {
        match text[i] {
            b'[' | b'{' => {
                depth += 1;
                if depth > max {
                    return false;
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'"' => {
                i += 1;
                while i < text.len() && text[i] != b'"' {
                    i += if text[i] == b'\\' { 2 } else { 1 };
                }
            }
            _ => {}
        }
        i += 1;
    }
    true
}

/// Why strict parsing refused a text.
#[derive(Debug, thiserror::Error)]
pub enum StrictError {
    /// Nested deeper than [`JSON_MAX_DEPTH`].
    #[error("nested deeper than {JSON_MAX_DEPTH} levels")]
    TooDeep,
    /// Not JSON, or an object with the same key twice (the text says which and where).
    #[error("{0}")]
    Json(#[from] serde_json::Error),
}

/// Parses a text into a value; refuses depth beyond [`JSON_MAX_DEPTH`] and objects that repeat a key.
pub fn parse_strict(text: &[u8]) -> Result<Value, StrictError> {
    if !depth_within(text, JSON_MAX_DEPTH) {
        return Err(StrictError::TooDeep);
    }
    let NoDup(value) = serde_json::from_slice(text)?;
    Ok(value)
}

/// A JSON value whose objects, at every depth, have each key once.
#[derive(Clone, Debug, PartialEq)]
pub struct NoDup(pub Value);

impl<'de> Deserialize<'de> for NoDup {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(NoDupVisitor).map(NoDup)
    }
}

struct NoDupVisitor;

impl<'de> Visitor<'de> for NoDupVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without repeated keys")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }
    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(Number::from_f64(v).map_or(Value::Null, Value::Number))
    }
    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut out = Vec::new();
        while let Some(NoDup(item)) = seq.next_element()? {
            out.push(item);
        }
        Ok(Value::Array(out))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if out.contains_key(&key) {
                return Err(A::Error::custom(format_args!(
                    "duplicate key {:?}",
                    crate::error::echo(&key)
                )));
            }
            let NoDup(value) = map.next_value()?;
            out.insert(key, value);
        }
        Ok(Value::Object(out))
    }
}

/// What a value asks for, without its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asks {
    /// `null`, `false`, `""`, `"off"`, `[]` or `{}`: the same as leaving the parameter out.
    Nothing,
    /// Anything else.
    Something,
}

impl<'de> Deserialize<'de> for Asks {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Asks;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any value")
            }
            fn visit_unit<E>(self) -> Result<Asks, E> {
                Ok(Asks::Nothing)
            }
            fn visit_bool<E>(self, v: bool) -> Result<Asks, E> {
                Ok(if v { Asks::Something } else { Asks::Nothing })
            }
            fn visit_i64<E>(self, _: i64) -> Result<Asks, E> {
                Ok(Asks::Something)
            }
            fn visit_u64<E>(self, _: u64) -> Result<Asks, E> {
                Ok(Asks::Something)
            }
            fn visit_f64<E>(self, _: f64) -> Result<Asks, E> {
                Ok(Asks::Something)
            }
            fn visit_str<E>(self, v: &str) -> Result<Asks, E> {
                Ok(if v.is_empty() || v == "off" {
                    Asks::Nothing
                } else {
                    Asks::Something
                })
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Asks, A::Error> {
                let mut asks = Asks::Nothing;
                while seq.next_element::<IgnoredAny>()?.is_some() {
                    asks = Asks::Something;
                }
                Ok(asks)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Asks, A::Error> {
                let mut asks = Asks::Nothing;
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
                    asks = Asks::Something;
                }
                Ok(asks)
            }
        }
        d.deserialize_any(V)
    }
}

/// What [`walk_keys`] is told about a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Walk {
    /// Skip the value.
    Skip,
    /// Tell me whether the value asks for anything.
    Look,
}

/// Visits the top-level keys of an object in one pass, without building anything. `key` says whether to look
/// at the value; `seen` is called with what it asks for, and may stop the walk with an error. A text that is
/// not an object visits nothing. Returns the first repeated key, if `no_repeats`.
pub fn walk_keys<E>(
    text: &str,
    no_repeats: bool,
    mut key: impl FnMut(&str) -> Result<Walk, E>,
    mut seen: impl FnMut(&str, Asks) -> Result<(), E>,
) -> Result<Option<String>, E> {
    let mut failed = None;
    let mut repeated = None;
    let seed = KeyWalk {
        no_repeats,
        key: &mut key,
        seen: &mut seen,
        failed: &mut failed,
        repeated: &mut repeated,
    };
    // A syntax error is the business of the parser that follows.
    let _ = seed.deserialize(&mut serde_json::Deserializer::from_str(text));
    match failed {
        Some(error) => Err(error),
        None => Ok(repeated),
    }
}

struct KeyWalk<'a, E, K, S> {
    no_repeats: bool,
    key: &'a mut K,
    seen: &'a mut S,
    failed: &'a mut Option<E>,
    repeated: &'a mut Option<String>,
}

impl<'de, E, K, S> DeserializeSeed<'de> for KeyWalk<'_, E, K, S>
where
    K: FnMut(&str) -> Result<Walk, E>,
    S: FnMut(&str, Asks) -> Result<(), E>,
{
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de, E, K, S> Visitor<'de> for KeyWalk<'_, E, K, S>
where
    K: FnMut(&str) -> Result<Walk, E>,
    S: FnMut(&str, Asks) -> Result<(), E>,
{
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut known: HashSet<Cow<'de, str>> = HashSet::new();
        while let Some(BorrowedKey(name)) = map.next_key()? {
            let step = (self.key)(&name).map(|walk| match walk {
                Walk::Skip => map.next_value::<IgnoredAny>().map(|_| None),
                Walk::Look => map.next_value::<Asks>().map(Some),
            });
            match step {
                Err(error) => {
                    *self.failed = Some(error);
                    return Err(A::Error::custom("stopped"));
                }
                Ok(Err(error)) => return Err(error),
                Ok(Ok(Some(asks))) => {
                    if let Err(error) = (self.seen)(&name, asks) {
                        *self.failed = Some(error);
                        return Err(A::Error::custom("stopped"));
                    }
                }
                Ok(Ok(None)) => {}
            }
            if self.no_repeats && self.repeated.is_none() {
                if known.contains(&name) {
                    *self.repeated = Some(name.into_owned());
                } else {
                    known.insert(name);
                }
            }
        }
        Ok(())
    }
}

/// A key that borrows from the text unless it has escapes.
#[derive(PartialEq, Eq, Hash)]
pub(crate) struct BorrowedKey<'a>(pub(crate) Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for BorrowedKey<'a> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Cow<'de, str>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, v: &'de str) -> Result<Self::Value, E> {
                Ok(Cow::Borrowed(v))
            }
            fn visit_str<E>(self, v: &str) -> Result<Self::Value, E> {
                Ok(Cow::Owned(v.to_owned()))
            }
            fn visit_string<E>(self, v: String) -> Result<Self::Value, E> {
                Ok(Cow::Owned(v))
            }
        }
        d.deserialize_str(V).map(BorrowedKey)
    }
}

/// For `deserialize_with` of a field that is an object: a derived struct alone would also read an array, by position.
///
/// # Errors
/// Those of the struct, and that it is no object.
pub fn by_name<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    struct ByName<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for ByName<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            T::deserialize(MapAccessDeserializer::new(map))
        }
    }
    from.deserialize_map(ByName(PhantomData))
}

/// As [`by_name`], for a field that may be `null` or, with `default`, not there.
///
/// # Errors
/// Those of [`by_name`].
pub fn by_name_if_any<'de, D, T>(from: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct IfAny<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for IfAny<T> {
        type Value = Option<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object or null")
        }

        fn visit_none<E>(self) -> Result<Option<T>, E> {
            Ok(None)
        }

        fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<Option<T>, D::Error> {
            by_name(from).map(Some)
        }
    }
    from.deserialize_option(IfAny(PhantomData))
}

/// Appends a string as JSON, with quotes and escapes.
pub fn push_string(out: &mut Vec<u8>, text: &str) {
    // Writing a str into a Vec cannot fail.
    let _ = serde_json::to_writer(out, text);
}
