//! Bounds of channels, each with its unit in its name.

/// HTTP requests of all guests of one tenant that may be under way.
pub const GUEST_HTTP_IN_FLIGHT_PER_TENANT: usize = 32;
/// Bytes of an answer that a guest gets.
pub const GUEST_HTTP_RESPONSE_MAX_BYTES: usize = gateway_wasm::limits::MAX_HTTP_RESPONSE_BYTES;
/// Webhook requests of one account that wait for a reply.
pub const HOLDS_MAX_PER_ACCOUNT: usize = 1_024;
/// Refused webhook requests of one address at one account before it has to wait.
pub const WEBHOOK_FAILURES_MAX: u32 = 10;
/// Window in which they count, in ms.
pub const WEBHOOK_WINDOW_MS: u64 = 60_000;
/// How long such an address waits, in ms.
pub const WEBHOOK_LOCKOUT_MS: u64 = 60_000;
/// Addresses that are remembered per account.
pub const WEBHOOK_TRACKED_MAX: usize = 4_096;
/// Open pairing requests per account.
pub const PAIRING_PENDING_MAX: i64 = 3;
/// How long a pairing code is valid, in ms.
pub const PAIRING_TTL_MS: i64 = 3_600_000;
/// Characters of a pairing code.
pub const PAIRING_CODE_CHARS: usize = 8;
/// How long an answer waits before it is given up, in ms.
pub const OUTBOX_TTL_MS: i64 = 3_600_000;
/// Attempts for one outbox row.
pub const OUTBOX_ATTEMPTS_MAX: i64 = 10;
/// Rows that are claimed at once. A guest sends one at a time: what is claimed and not sent when the process dies is `unknown`.
pub const OUTBOX_CLAIM_MAX_ROWS: i64 = 1;
/// First pause after a failed attempt, in ms; it doubles.
pub const OUTBOX_BACKOFF_FIRST_MS: u64 = 1_000;
/// Longest pause after a failed attempt, in ms.
pub const OUTBOX_BACKOFF_MAX_MS: u64 = 300_000;
/// Wait before events are tried again that an account could not take, in ms.
pub const EVENT_RETRY_MS: u64 = 1_000;
/// Longest wait before an event is tried again, in ms.
pub const EVENT_RETRY_MAX_MS: u64 = 60_000;
/// Pause between two looks at whether deliveries ended, in ms.
pub const FLUSH_LOOK_MS: u64 = 20;

/// How long an account that is replaced or taken out may end what it is doing, in ms.
pub const ACCOUNT_DRAIN_MAX_MS: u64 = 5_000;
