//! The v4 frame codec: requests in, responses and events out. Pure functions over bytes.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::error::{DetailCode, RpcError};
use crate::json::{self, BorrowedKey};
use crate::limits::{MAX_CLOSE_REASON_BYTES, MAX_REQUEST_ID_BYTES, MAX_TRACEPARENT_BYTES};

/// A WebSocket close: code and reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close {
    /// Close code.
    pub code: u16,
    /// Reason, at most [`MAX_CLOSE_REASON_BYTES`] bytes.
    pub reason: String,
}

impl Close {
    /// Normal end; also for an idle handshake and an unparsable first frame.
    pub const NORMAL: u16 = 1000;
    /// Protocol versions do not meet.
    pub const PROTOCOL: u16 = 1002;
    /// Authentication, schema, role, origin, flood, slow consumer.
    pub const POLICY: u16 = 1008;
    /// Frame too large; the reason stays empty.
    pub const TOO_BIG: u16 = 1009;
    /// A fault of ours while a connection was admitted.
    pub const INTERNAL: u16 = 1011;
    /// The gateway restarts; clients come back.
    pub const RESTART: u16 = 1012;
    /// The gateway starts; clients come back.
    pub const STARTING: u16 = 1013;
    /// The credential was changed or revoked.
    pub const CREDENTIAL_CHANGED: u16 = 4001;

    /// A close whose reason is cut to what a close frame can carry.
    pub fn new(code: u16, reason: &str) -> Close {
        let mut end = reason.len().min(MAX_CLOSE_REASON_BYTES);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        Close {
            code,
            reason: reason[..end].to_owned(),
        }
    }
}

/// A request frame. Everything borrows from the received bytes.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The id as JSON text with its quotes, to be echoed as it came.
    pub id: &'a RawValue,
    /// Method name.
    pub method: Cow<'a, str>,
    /// Parameters, not yet decoded.
    pub params: Option<&'a RawValue>,
    /// W3C trace context of the caller.
    pub traceparent: Option<Cow<'a, str>>,
}

/// Why bytes are not a request frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FrameFault {
    /// Not JSON at all.
    NotJson,
    /// JSON, but not a request.
    Invalid {
        /// JSON text of the id to answer with: the received one, or `"invalid"`.
        id: String,
        /// What is wrong, in the words of the schema validator.
        problem: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Wire<'a> {
    #[serde(rename = "type", borrow)]
    kind: BorrowedKey<'a>,
    #[serde(borrow)]
    id: &'a RawValue,
    #[serde(borrow)]
    method: BorrowedKey<'a>,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
    #[serde(borrow, default)]
    traceparent: Option<BorrowedKey<'a>>,
    /// Published by newer clients; without effect here.
    #[serde(borrow, default)]
    expected_profile_id: Option<BorrowedKey<'a>>,
}

/// The frame types that a client may send.
pub struct ClientFrame;

impl ClientFrame {
    /// Reads a request frame. One pass, no allocation unless a string has escapes.
    pub fn parse(bytes: &[u8]) -> Result<Request<'_>, FrameFault> {
        match serde_json::from_slice::<Wire<'_>>(bytes) {
            Ok(wire) if wire.is_sound() => Ok(Request {
                id: wire.id,
                method: wire.method.0,
                params: wire.params,
                traceparent: wire.traceparent.map(|t| t.0),
            }),
            _ => Err(fault(bytes)),
        }
    }
}

impl Wire<'_> {
    fn is_sound(&self) -> bool {
        let id = self.id.get();
        self.kind.0 == "req"
            && id.len() > 2
            && id.len() <= MAX_REQUEST_ID_BYTES
            && id.starts_with('"')
            && !self.method.0.is_empty()
            && self
                .traceparent
                .as_ref()
                .is_none_or(|t| t.0.len() <= MAX_TRACEPARENT_BYTES)
            && self
                .expected_profile_id
                .as_ref()
                .is_none_or(|p| (1..=128).contains(&p.0.chars().count()))
    }
}

/// Says what is wrong with bytes that are not a request frame.
#[cold]
fn fault(bytes: &[u8]) -> FrameFault {
    // Skipping a raw value needs no stack, whatever the nesting.
    let Ok(raw) = serde_json::from_slice::<&RawValue>(bytes) else {
        return FrameFault::NotJson;
    };
    let invalid = |id: Option<&str>, problem: String| FrameFault::Invalid {
        id: id
            .filter(|id| id.len() <= MAX_REQUEST_ID_BYTES)
            .unwrap_or("\"invalid\"")
            .to_owned(),
        problem,
    };
    if !raw.get().starts_with('{') {
        return invalid(None, "must be object".to_owned());
    }
    let Ok(Entries(entries)) = serde_json::from_str::<Entries<'_>>(raw.get()) else {
        return invalid(None, "must be object".to_owned());
    };
    let get = |name: &str| {
        entries
            .iter()
            .rev()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.get())
    };
    let mut problems: Vec<String> = Vec::new();
    if let Some(missing) = ["type", "id", "method"]
        .into_iter()
        .find(|name| get(name).is_none())
    {
        problems.push(format!("must have required property '{missing}'"));
    }
    let known = [
        "type",
        "id",
        "method",
        "params",
        "traceparent",
        "expectedProfileId",
    ];
    for (i, (key, value)) in entries.iter().enumerate() {
        if problems.len() >= crate::limits::MAX_LISTED_PROBLEMS {
            break;
        }
        if !known.contains(&key.as_ref()) {
            problems.push(format!(
                "at root: unexpected property '{}'",
                crate::error::echo(key)
            ));
            continue;
        }
        if entries[..i].iter().any(|(earlier, _)| earlier == key) {
            problems.push(format!("at root: property '{key}' is given twice"));
            continue;
        }
        let text = serde_json::from_str::<String>(value.get()).ok();
        let (min, max) = match key.as_ref() {
            "params" => continue,
            "traceparent" => (0, MAX_TRACEPARENT_BYTES),
            "expectedProfileId" => (1, 128),
            _ => (1, usize::MAX),
        };
        match text {
            None if matches!(key.as_ref(), "traceparent" | "expectedProfileId")
                && value.get() == "null" => {}
            None => problems.push(format!("at /{key}: must be string")),
            Some(text) if text.chars().count() < min => {
                problems.push(format!(
                    "at /{key}: must not have fewer than {min} characters"
                ));
            }
            Some(text) if text.len() > max => {
                problems.push(format!(
                    "at /{key}: must not have more than {max} characters"
                ));
            }
            Some(text) if key == "type" && text != "req" => {
                problems.push("at /type: must be equal to constant".to_owned())
            }
            Some(_) if key == "id" && value.get().len() > MAX_REQUEST_ID_BYTES => {
                problems.push(format!(
                    "at /id: must not have more than {MAX_REQUEST_ID_BYTES} characters"
                ));
            }
            Some(_) => {}
        }
    }
    if problems.is_empty() {
        problems.push("must be a request".to_owned());
    }
    invalid(get("id"), problems.join("; "))
}

/// The entries of an object, in order, repeated keys and all.
struct Entries<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Entries<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> serde::de::Visitor<'de> for V {
            type Value = Vec<(Cow<'de, str>, &'de RawValue)>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<Self::Value, A::Error> {
                let mut out = Vec::new();
                while let Some((BorrowedKey(key), value)) = map.next_entry()? {
                    // Beyond this the object is wrong anyway; the rest is only checked for syntax.
                    if out.len() < 64 {
                        out.push((key, value));
                    }
                }
                Ok(out)
            }
        }
        d.deserialize_map(V).map(Entries)
    }
}

/// What to do about a faulty frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultAnswer {
    /// A response frame to send first.
    pub response: Option<Vec<u8>>,
    /// Then the socket is closed, if this is there.
    pub close: Option<Close>,
}

impl FrameFault {
    /// On a socket whose handshake is finished: text that is not JSON is ignored, everything else is answered
    /// and the socket stays open.
    pub fn when_open(&self) -> FaultAnswer {
        match self {
            FrameFault::NotJson => FaultAnswer {
                response: None,
                close: None,
            },
            FrameFault::Invalid { id, problem } => {
                let error = RpcError::new(
                    DetailCode::InvalidFrame,
                    format!("invalid request frame: {problem}"),
                );
                FaultAnswer {
                    response: Some(encode_res_err(id, &error)),
                    close: None,
                }
            }
        }
    }

    /// Before the handshake: no response, and the socket is closed.
    pub fn when_fresh(&self) -> FaultAnswer {
        let close = match self {
            FrameFault::NotJson => Close::new(Close::NORMAL, ""),
            FrameFault::Invalid { .. } => Close::new(Close::POLICY, "invalid request frame"),
        };
        FaultAnswer {
            response: None,
            close: Some(close),
        }
    }
}

/// A good request frame that is not `connect`, before the handshake.
pub fn first_must_be_connect(id: &RawValue) -> FaultAnswer {
    let text = "invalid handshake: first request must be connect";
    FaultAnswer {
        response: Some(encode_res_err(
            id.get(),
            &RpcError::new(DetailCode::InvalidFrame, text),
        )),
        close: Some(Close::new(Close::POLICY, text)),
    }
}

/// A good response frame: `id` and `payload` are JSON texts. One allocation.
pub fn encode_res_ok(id: &str, payload: &[u8]) -> Vec<u8> {
    const HEAD: &[u8] = br#"{"type":"res","id":"#;
    const MIDDLE: &[u8] = br#","ok":true,"payload":"#;
    let mut out = Vec::with_capacity(HEAD.len() + id.len() + MIDDLE.len() + payload.len() + 1);
    out.extend_from_slice(HEAD);
    out.extend_from_slice(id.as_bytes());
    out.extend_from_slice(MIDDLE);
    out.extend_from_slice(payload);
    out.push(b'}');
    out
}

/// As [`encode_res_ok`], serializing the payload into the frame. One allocation for most answers.
pub fn encode_res_value<T: Serialize>(id: &str, payload: &T) -> Result<Vec<u8>, serde_json::Error> {
    let mut out = Vec::with_capacity(id.len() + 512);
    out.extend_from_slice(br#"{"type":"res","id":"#);
    out.extend_from_slice(id.as_bytes());
    out.extend_from_slice(br#","ok":true,"payload":"#);
    serde_json::to_writer(&mut out, payload)?;
    out.push(b'}');
    Ok(out)
}

/// An error response frame; `id` is a JSON text.
pub fn encode_res_err(id: &str, error: &RpcError) -> Vec<u8> {
    let mut out = Vec::with_capacity(id.len() + error.message.len() + 160);
    out.extend_from_slice(br#"{"type":"res","id":"#);
    out.extend_from_slice(id.as_bytes());
    out.extend_from_slice(br#","ok":false,"error":"#);
    // An RpcError has string keys and plain values only: it cannot fail to serialize.
    let _ = serde_json::to_writer(&mut out, error);
    out.push(b'}');
    out
}

/// Versions of the two snapshots that clients keep.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema,
)]
pub struct StateVersion {
    /// Of the presence list.
    pub presence: u64,
    /// Of the health snapshot.
    pub health: u64,
}

/// An event frame without its end: `{"type":"event","event":…,"payload":…[,"stateVersion":…]`. Made once for
/// all receivers; each connection appends [`event_tail`] with its own number, or [`EVENT_TAIL_TARGETED`].
pub fn event_head(name: &str, payload: &[u8], state_version: Option<StateVersion>) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len() + payload.len() + 96);
    out.extend_from_slice(br#"{"type":"event","event":"#);
    json::push_string(&mut out, name);
    out.extend_from_slice(br#","payload":"#);
    out.extend_from_slice(payload);
    if let Some(version) = state_version {
        out.extend_from_slice(br#","stateVersion":{"presence":"#);
        push_number(&mut out, version.presence);
        out.extend_from_slice(br#","health":"#);
        push_number(&mut out, version.health);
        out.push(b'}');
    }
    out
}

/// The end of an event frame that has no sequence number (`connect.challenge` and other targeted events).
pub const EVENT_TAIL_TARGETED: &[u8] = b"}";

/// The end of an event frame for one connection: `,"seq":N}`.
pub fn event_tail(seq: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(28);
    push_event_tail(&mut out, seq);
    out
}

/// Appends [`event_tail`] to a buffer.
pub fn push_event_tail(out: &mut Vec<u8>, seq: u64) {
    out.extend_from_slice(br#","seq":"#);
    push_number(out, seq);
    out.push(b'}');
}

/// A whole event frame without a sequence number.
pub fn encode_targeted_event(name: &str, payload: &[u8]) -> Vec<u8> {
    let mut out = event_head(name, payload, None);
    out.extend_from_slice(EVENT_TAIL_TARGETED);
    out
}

fn push_number(out: &mut Vec<u8>, mut n: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// What the typed client of this project reads: a response or an event.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum ServerFrame {
    /// The answer to a request.
    Res(ResponseFrame),
    /// An event.
    Event(EventFrame),
}

/// A response frame as a client reads it.
#[derive(Clone, Debug, Deserialize)]
pub struct ResponseFrame {
    /// Id of the request.
    pub id: String,
    /// Whether it succeeded.
    pub ok: bool,
    /// The result, when it did.
    #[serde(default)]
    pub payload: serde_json::Value,
    /// The error, when it did not.
    #[serde(default)]
    pub error: Option<WireError>,
}

/// An event frame as a client reads it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventFrame {
    /// Event name.
    pub event: String,
    /// Its payload.
    #[serde(default)]
    pub payload: serde_json::Value,
    /// Number on this connection; targeted events have none.
    #[serde(default)]
    pub seq: Option<u64>,
    /// Versions of the snapshots.
    #[serde(default)]
    pub state_version: Option<StateVersion>,
}

/// An error as a client reads it; the codes are open here, since the server may be newer.
#[derive(Clone, Debug, PartialEq, Deserialize, thiserror::Error)]
#[serde(rename_all = "camelCase")]
#[error("{code}: {message}")]
pub struct WireError {
    /// Top-level code.
    pub code: String,
    /// One sentence.
    pub message: String,
    /// Details, with `code` inside when there is a precise one.
    #[serde(default)]
    pub details: Option<serde_json::Value>,
    /// Whether the same request may succeed later.
    #[serde(default)]
    pub retryable: bool,
    /// Milliseconds to wait before that.
    #[serde(default)]
    pub retry_after_ms: Option<u64>,
}

impl WireError {
    /// The precise code: `details.code`, or the top-level one.
    pub fn detail_code(&self) -> &str {
        self.details
            .as_ref()
            .and_then(|d| d.get("code"))
            .and_then(|c| c.as_str())
            .unwrap_or(&self.code)
    }
}

/// A request frame as a client writes it; `params` is a JSON text.
pub fn encode_request(id: &str, method: &str, params: Option<&[u8]>) -> Vec<u8> {
    let mut out = Vec::with_capacity(id.len() + method.len() + params.map_or(0, <[u8]>::len) + 64);
    out.extend_from_slice(br#"{"type":"req","id":"#);
    json::push_string(&mut out, id);
    out.extend_from_slice(br#","method":"#);
    json::push_string(&mut out, method);
    if let Some(params) = params {
        out.extend_from_slice(br#","params":"#);
        out.extend_from_slice(params);
    }
    out.push(b'}');
    out
}
