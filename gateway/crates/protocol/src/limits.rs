//! Every limit of the wire, each named with its unit.
//!
//! Limits of other layers (queues, guest memory, rows) live in the crate that enforces them.

/// A limit as data, for the documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Name of the constant.
    pub name: &'static str,
    /// Its value.
    pub value: u64,
    /// What it limits, and in which unit.
    pub doc: &'static str,
}

macro_rules! limits {
    ($( $(#[doc = $doc:literal])+ $name:ident: $ty:ty = $value:expr; )*) => {
        $( $(#[doc = $doc])+ pub const $name: $ty = $value; )*

        /// All limits of the wire.
        pub const ALL: &[Limit] = &[
            $( Limit { name: stringify!($name), value: $name as u64, doc: concat!($($doc),+).trim_ascii() }, )*
        ];
    };
}

limits! {
    /// Largest frame that a client may send before its handshake is finished, in bytes.
    MAX_PREAUTH_FRAME_BYTES: usize = 65_536;
    /// Largest frame that a client may send after its handshake, in bytes (advertised as `policy.maxPayload`).
    MAX_FRAME_BYTES: usize = 26_214_400;
    /// Outbound bytes that one connection may have waiting before it counts as slow (advertised as `policy.maxBufferedBytes`).
    MAX_BUFFERED_BYTES: usize = 4 * 1024 * 1024;
    /// Milliseconds between two `tick` events.
    TICK_INTERVAL_MS: u64 = 30_000;
    /// Milliseconds from the opening of a socket to the end of its handshake.
    HANDSHAKE_TIMEOUT_MS: u64 = 15_000;
    /// Milliseconds in which a WebSocket ping must be answered.
    PONG_TIMEOUT_MS: u64 = 25_000;
    /// Unauthenticated connections per client address.
    PREAUTH_PER_IP: usize = 32;
    /// Frames that may wait behind a `connect` that is being processed; the next one closes the socket.
    MAX_PENDING_HANDSHAKE_FRAMES: usize = 15;
    /// Longest session key, in bytes of UTF-8.
    MAX_SESSION_KEY_BYTES: usize = 512;
    /// Longest request id, in bytes of its JSON text (it is echoed in every answer).
    MAX_REQUEST_ID_BYTES: usize = 1_024;
    /// Longest method name that is looked up, in bytes. A longer one is unknown.
    MAX_METHOD_NAME_BYTES: usize = 128;
    /// Longest text of one chat message, in bytes.
    MAX_TEXT_BYTES: usize = 1024 * 1024;
    /// Longest `idempotencyKey` (and with that longest run id that a client can choose), in bytes.
    MAX_IDEMPOTENCY_KEY_BYTES: usize = 256;
    /// Deepest nesting of arrays and objects that any decoder of ours follows, in levels.
    JSON_MAX_DEPTH: usize = 64;
    /// Calls in one JSON-RPC batch.
    MAX_BATCH_ITEMS: usize = 64;
    /// Longest WebSocket close reason, in bytes (the protocol allows 123, OpenClaw cuts at 120).
    MAX_CLOSE_REASON_BYTES: usize = 120;
    /// Longest `traceparent` of a request frame, in bytes.
    MAX_TRACEPARENT_BYTES: usize = 128;
    /// Calls with the wrong role or scope in a row, after which a socket is closed.
    MAX_UNAUTHORIZED_CALLS: u32 = 10;
    /// Most characters of a piece of client input that is repeated inside an error message.
    MAX_ECHO_CHARS: usize = 64;
    /// Most problems that one validation message lists.
    MAX_LISTED_PROBLEMS: usize = 8;
    /// Milliseconds by which the time of a device's signature may differ from the gateway's.
    DEVICE_SIGNATURE_SKEW_MS: u64 = 120_000;
    /// Frames that may wait while a `connect` is being decided.
    MAX_FRAMES_DURING_CONNECT: usize = 15;
}
