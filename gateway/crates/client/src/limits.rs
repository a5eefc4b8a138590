//! Limits of one client connection, each named with its unit.

/// Requests that wait for their answer at once.
pub const MAX_PENDING_REQUESTS: usize = 256;
/// Commands that wait to be written.
pub const MAX_QUEUED_COMMANDS: usize = 64;
/// Events that wait to be taken; when it is full the newest is dropped and counted.
pub const MAX_QUEUED_EVENTS: usize = 1_024;
/// Interim answers of one request that wait to be taken.
pub const MAX_QUEUED_INTERIMS: usize = 8;
/// Largest request frame, in bytes (the gateway's own limit).
pub const MAX_REQUEST_BYTES: usize = gateway_protocol::limits::MAX_FRAME_BYTES;
/// Largest answer, in bytes.
pub const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;
/// Default time for TCP, upgrade and handshake, in milliseconds.
pub const CONNECT_TIMEOUT_MS: u64 = 10_000;
/// Default time for one answer, in milliseconds.
pub const REQUEST_TIMEOUT_MS: u64 = 30_000;
/// Gateways that one search gives.
pub const MAX_DISCOVERED: usize = 256;
/// Bytes kept of each name or value that a gateway announces.
pub const MAX_DISCOVERED_TEXT_BYTES: usize = 255;
/// Time for the close handshake, in milliseconds.
pub const CLOSE_TIMEOUT_MS: u64 = 1_000;
/// Wait before the next attempt when a starting gateway does not say how long, in milliseconds.
pub const STARTING_RETRY_MS: u64 = 250;
/// Shortest wait between two attempts, in milliseconds.
pub const MIN_RETRY_MS: u64 = 50;
/// Longest wait between two attempts, in milliseconds.
pub const MAX_RETRY_MS: u64 = 2_000;
/// Bytes of a file of a device's identity that are read.
pub const MAX_IDENTITY_FILE_BYTES: u64 = 256 * 1024;
/// Gateways whose token for this device is kept; the one with the oldest makes room.
pub const MAX_KEPT_DEVICE_TOKENS: usize = 64;
/// Wait for an operator's decision about more scopes, in ms: longer than the gateway keeps the question.
pub const SCOPES_WAIT_MS: u64 = 310_000;
/// Bytes of a setup code that are looked at.
pub const MAX_SETUP_CODE_BYTES: usize = 8 * 1024;
