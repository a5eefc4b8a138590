//! The JSON-RPC 2.0 codec, strictly by the specification, over single texts (a WebSocket message or a POST body).

use std::borrow::Cow;
use std::fmt;

use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::error::{DetailCode, RpcError};
use crate::json::{self, BorrowedKey};
use crate::limits::{MAX_BATCH_ITEMS, MAX_REQUEST_ID_BYTES, MAX_TRACEPARENT_BYTES};

/// What a text holds.
#[derive(Debug)]
pub enum Parsed<'a> {
    /// One call, notification or invalid request.
    Single(Item<'a>),
    /// A batch; its answers are joined by [`encode_batch`] in any order, without answers for notifications.
    Batch(Vec<Item<'a>>),
    /// Nothing that could be called; this is the whole answer.
    Fault(Vec<u8>),
}

/// One entry of a text.
#[derive(Debug)]
pub enum Item<'a> {
    /// A request that wants an answer.
    Call {
        /// The id as JSON text: a string, a number or `null`.
        id: &'a RawValue,
        /// Method name.
        method: Cow<'a, str>,
        /// Parameters: an object, an array, or absent.
        params: Option<&'a RawValue>,
    },
    /// A request that wants none, whatever happens.
    Notification {
        /// Method name.
        method: Cow<'a, str>,
        /// Parameters: an object, an array, or absent.
        params: Option<&'a RawValue>,
    },
    /// Not a request object; this is its answer.
    Invalid(Vec<u8>),
}

/// Reads a text. Faults: not JSON (-32700), an empty batch, a batch of more than [`MAX_BATCH_ITEMS`] entries
/// (-32600; nothing of it runs).
pub fn parse(text: &[u8]) -> Parsed<'_> {
    let first = text.iter().find(|b| !b.is_ascii_whitespace());
    if first != Some(&b'[') {
        return match serde_json::from_slice::<&RawValue>(text) {
            Ok(raw) => Parsed::Single(item(raw)),
            Err(_) => Parsed::Fault(parse_error()),
        };
    }
    match serde_json::from_slice::<Entries<'_>>(text) {
        Err(_) => Parsed::Fault(parse_error()),
        Ok(Entries { items, .. }) if items.is_empty() => {
            Parsed::Fault(invalid_request("null", None))
        }
        Ok(Entries { too_many: true, .. }) => Parsed::Fault(invalid_request(
            "null",
            Some(&format!(
                "a batch may not have more than {MAX_BATCH_ITEMS} entries"
            )),
        )),
        Ok(Entries { items, .. }) => Parsed::Batch(items.into_iter().map(item).collect()),
    }
}

/// The entries of an array, up to the limit; the rest is only checked for syntax.
struct Entries<'a> {
    items: Vec<&'a RawValue>,
    too_many: bool,
}

impl<'de: 'a, 'a> Deserialize<'de> for Entries<'a> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Entries<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let (mut items, mut too_many) = (Vec::new(), false);
                while let Some(raw) = seq.next_element::<&RawValue>()? {
                    if items.len() < MAX_BATCH_ITEMS {
                        items.push(raw);
                    } else {
                        too_many = true;
                    }
                }
                Ok(Entries { items, too_many })
            }
        }
        d.deserialize_seq(V)
    }
}

/// The members of a request object as they came; extra members are ignored, repeated ones make it invalid.
#[derive(Default)]
struct Members<'a> {
    version: Option<&'a RawValue>,
    id: Option<&'a RawValue>,
    method: Option<&'a RawValue>,
    params: Option<&'a RawValue>,
    repeated: bool,
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut out = Members::default();
                while let Some(BorrowedKey(key)) = map.next_key()? {
                    let value: &'de RawValue = map.next_value()?;
                    let slot = match key.as_ref() {
                        "jsonrpc" => &mut out.version,
                        "id" => &mut out.id,
                        "method" => &mut out.method,
                        "params" => &mut out.params,
                        _ => continue,
                    };
                    out.repeated |= slot.replace(value).is_some();
                }
                Ok(out)
            }
        }
        d.deserialize_map(V)
    }
}

fn item(raw: &RawValue) -> Item<'_> {
    let Ok(members) = serde_json::from_str::<Members<'_>>(raw.get()) else {
        return Item::Invalid(invalid_request("null", None));
    };
    // An id that could not be told is answered with null, as the specification wants.
    let id = members.id.filter(|id| id_is_sound(id.get()));
    let invalid =
        |why: Option<&str>| Item::Invalid(invalid_request(id.map_or("null", |id| id.get()), why));
    if members.repeated {
        return invalid(Some("a member is given twice"));
    }
    if members.version.is_none_or(|v| v.get() != "\"2.0\"") {
        return invalid(None);
    }
    if members.id.is_some() && id.is_none() {
        return invalid(Some("id must be a string, a number or null"));
    }
    let Some(method) = members
        .method
        .and_then(|m| serde_json::from_str::<BorrowedKey<'_>>(m.get()).ok())
    else {
        return invalid(None);
    };
    if members
        .params
        .is_some_and(|p| !p.get().starts_with(['{', '[']))
    {
        return invalid(Some("params must be an object or an array"));
    }
    match id {
        Some(id) => Item::Call {
            id,
            method: method.0,
            params: members.params,
        },
        None => Item::Notification {
            method: method.0,
            params: members.params,
        },
    }
}

fn id_is_sound(id: &str) -> bool {
    id.len() <= MAX_REQUEST_ID_BYTES
        && (id == "null" || id.starts_with(|c: char| c == '"' || c == '-' || c.is_ascii_digit()))
}

/// Positional parameters are not offered: an empty array counts as none, any other is an error.
pub fn by_name<'a>(
    method: &str,
    params: Option<&'a RawValue>,
) -> Result<Option<&'a RawValue>, RpcError> {
    match params {
        Some(p) if p.get().starts_with('[') => {
            if p.get().trim_start_matches('[').trim_start() == "]" {
                Ok(None)
            } else {
                Err(RpcError::invalid_params(
                    method,
                    "must be object (parameters are given by name)",
                ))
            }
        }
        other => Ok(other),
    }
}

/// What a call says of itself beside its parameters: the member `_meta` of `params`, as the Model Context Protocol has it. Members
/// that are not known are no concern of ours.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Meta {
    /// W3C trace context, at most [`MAX_TRACEPARENT_BYTES`].
    #[serde(default)]
    pub traceparent: Option<String>,
}

/// The members of an object as they came.
struct Pairs<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Pairs<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(BorrowedKey(key)) = map.next_key()? {
                    pairs.push((key, map.next_value()?));
                }
                Ok(Pairs(pairs))
            }
        }
        d.deserialize_map(V)
    }
}

/// Takes `_meta` out of parameters; what is left is what the method published.
///
/// # Errors
/// `INVALID_PARAMS` for a `_meta` that is given twice or has not its shape.
pub fn split_meta<'a>(
    method: &str,
    params: Option<&'a RawValue>,
) -> Result<(Option<Cow<'a, RawValue>>, Meta), RpcError> {
    const KEY: &str = "_meta";
    let whole = |raw: &'a RawValue| Ok((Some(Cow::Borrowed(raw)), Meta::default()));
    let Some(raw) = params else {
        return Ok((None, Meta::default()));
    };
    if !raw.get().contains("\"_meta\"") {
        return whole(raw);
    }
    // What cannot be read is refused by the method's own check, in its words.
    let Ok(Pairs(pairs)) = serde_json::from_str::<Pairs<'a>>(raw.get()) else {
        return whole(raw);
    };
    let bad = |why: &str| RpcError::invalid_params(method, why);
    let mut metas = pairs.iter().filter(|(key, _)| key == KEY);
    let meta: Meta = match (metas.next(), metas.next()) {
        (None, _) => return whole(raw),
        (Some(_), Some(_)) => return Err(bad("at /_meta: is given twice")),
        (Some((_, value)), None) if value.get().starts_with('{') => {
            serde_json::from_str(value.get())
                .map_err(|_| bad("at /_meta/traceparent: must be string"))?
        }
        _ => return Err(bad("at /_meta: must be object")),
    };
    if (meta.traceparent.as_ref()).is_some_and(|t| t.len() > MAX_TRACEPARENT_BYTES) {
        return Err(bad(&format!(
            "at /_meta/traceparent: must not have more than {MAX_TRACEPARENT_BYTES} bytes"
        )));
    }
    let mut out = Vec::with_capacity(raw.get().len());
    for (key, value) in pairs.iter().filter(|(key, _)| key != KEY) {
        out.push(if out.is_empty() { b'{' } else { b',' });
        json::push_string(&mut out, key);
        out.push(b':');
        out.extend_from_slice(value.get().as_bytes());
    }
    if out.is_empty() {
        out.push(b'{');
    }
    out.push(b'}');
    let rest = String::from_utf8(out)
        .ok()
        .and_then(|text| RawValue::from_string(text).ok())
        .ok_or_else(|| bad("must be object"))?;
    Ok((Some(Cow::Owned(rest)), meta))
}

/// The answer to a text that is not JSON.
pub fn parse_error() -> Vec<u8> {
    encode_standard("null", DetailCode::ParseError, "Parse error", None)
}

/// The answer to something that is not a request; `id` is a JSON text.
pub fn invalid_request(id: &str, why: Option<&str>) -> Vec<u8> {
    encode_standard(id, DetailCode::InvalidFrame, "Invalid Request", why)
}

/// The answer to a method that does not exist; `id` is a JSON text.
pub fn method_not_found(id: &str) -> Vec<u8> {
    encode_standard(id, DetailCode::UnknownMethod, "Method not found", None)
}

fn encode_standard(id: &str, code: DetailCode, message: &str, why: Option<&str>) -> Vec<u8> {
    let mut out = Vec::with_capacity(96 + id.len());
    out.extend_from_slice(br#"{"jsonrpc":"2.0","error":{"code":"#);
    out.extend_from_slice(code.row().jsonrpc.to_string().as_bytes());
    out.extend_from_slice(br#","message":"#);
    json::push_string(&mut out, message);
    if let Some(why) = why {
        out.extend_from_slice(br#","data":"#);
        json::push_string(&mut out, why);
    }
    out.extend_from_slice(br#"},"id":"#);
    out.extend_from_slice(id.as_bytes());
    out.push(b'}');
    out
}

/// A good response; `id` and `result` are JSON texts.
pub fn encode_ok(id: &str, result: &[u8]) -> Vec<u8> {
    const HEAD: &[u8] = br#"{"jsonrpc":"2.0","result":"#;
    const MIDDLE: &[u8] = br#","id":"#;
    let mut out = Vec::with_capacity(HEAD.len() + result.len() + MIDDLE.len() + id.len() + 1);
    out.extend_from_slice(HEAD);
    out.extend_from_slice(result);
    out.extend_from_slice(MIDDLE);
    out.extend_from_slice(id.as_bytes());
    out.push(b'}');
    out
}

/// An error response; `id` is a JSON text.
pub fn encode_err(id: &str, error: &RpcError) -> Vec<u8> {
    let mut out = Vec::with_capacity(id.len() + error.message.len() + 160);
    out.extend_from_slice(br#"{"jsonrpc":"2.0","error":"#);
    // String keys and plain values only: it cannot fail to serialize.
    let _ = serde_json::to_writer(&mut out, &error.to_jsonrpc());
    out.extend_from_slice(br#","id":"#);
    out.extend_from_slice(id.as_bytes());
    out.push(b'}');
    out
}

/// A notification from the gateway; `params` is a JSON text of an object.
pub fn encode_notification(method: &str, params: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(method.len() + params.len() + 48);
    out.extend_from_slice(br#"{"jsonrpc":"2.0","method":"#);
    json::push_string(&mut out, method);
    out.extend_from_slice(br#","params":"#);
    out.extend_from_slice(params);
    out.push(b'}');
    out
}

/// The answer to a batch from the answers of its calls; `None` when there are none (all were notifications),
/// and then nothing at all is sent.
pub fn encode_batch(answers: &[impl AsRef<[u8]>]) -> Option<Vec<u8>> {
    if answers.is_empty() {
        return None;
    }
    let mut out =
        Vec::with_capacity(answers.iter().map(|a| a.as_ref().len() + 1).sum::<usize>() + 1);
    for answer in answers {
        out.push(if out.is_empty() { b'[' } else { b',' });
        out.extend_from_slice(answer.as_ref());
    }
    out.push(b']');
    Some(out)
}

/// Name of the notification that carries the first of the two answers of `agent` on this surface.
pub const AGENT_ACCEPTED: &str = "agent.accepted";
