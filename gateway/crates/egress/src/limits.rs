//! Every limit of this crate, named with its unit.

use std::time::Duration;

/// Longest URL accepted, in bytes.
pub const MAX_URL_BYTES: usize = 8 * 1024;
/// Longest host name, in bytes (RFC 1035).
pub const MAX_HOST_BYTES: usize = 253;
/// Longest label of a host name, in bytes.
pub const MAX_LABEL_BYTES: usize = 63;
/// Most `*` in one path pattern.
pub const MAX_PATTERN_STARS: usize = 8;
/// Most `{secret:NAME}` in one URL.
pub const MAX_URL_SECRETS: usize = 4;
/// Longest name of a secret, in bytes.
pub const MAX_SECRET_NAME_BYTES: usize = 64;
/// Most addresses of one name that are looked at; a name with more is refused.
pub const MAX_ADDRESSES_PER_NAME: usize = 32;
/// Most system name look-ups at one time (each holds one blocking thread).
pub const MAX_PARALLEL_LOOKUPS: usize = 32;
/// Most request headers, counted.
pub const MAX_REQUEST_HEADERS: usize = 64;
/// Most bytes of request header names and values together.
pub const MAX_REQUEST_HEADER_BYTES: usize = 32 * 1024;
/// Most response headers, counted.
pub const MAX_RESPONSE_HEADERS: usize = 128;
/// Read buffer of one connection, in bytes; it bounds the response head.
pub const MAX_RESPONSE_BUFFER_BYTES: usize = 128 * 1024;
/// Response body cap unless the request sets another, in bytes.
pub const DEFAULT_MAX_RESPONSE_BYTES: usize = 8 * 1024 * 1024;
/// Requests in flight in the whole process.
pub const MAX_IN_FLIGHT: usize = 2048;
/// Requests in flight of one partition (tenant).
pub const MAX_IN_FLIGHT_PER_PARTITION: usize = 256;
/// Idle connections kept for one origin of one partition.
pub const MAX_IDLE_PER_ORIGIN: usize = 4;
/// Idle connections kept in all.
pub const MAX_IDLE: usize = 256;
/// How long an idle connection is kept.
pub const IDLE_KEEP: Duration = Duration::from_secs(30);
/// How long a connection taken from the pool may need to become ready.
pub const IDLE_READY: Duration = Duration::from_millis(250);
/// Pause before the next address of a name is tried beside the ones already under way.
pub const CONNECT_STAGGER: Duration = Duration::from_millis(300);
/// Default of [`crate::Timeouts::connect`].
pub const DEFAULT_CONNECT: Duration = Duration::from_secs(10);
/// Default of [`crate::Timeouts::head`].
pub const DEFAULT_HEAD: Duration = Duration::from_secs(60);
/// Default of [`crate::Timeouts::idle`].
pub const DEFAULT_IDLE: Duration = Duration::from_secs(30);
/// Default of [`crate::EgressRequest::deadline`].
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(90);
/// Default window of [`crate::MinRate`].
pub const DEFAULT_RATE_WINDOW: Duration = Duration::from_secs(10);
/// Default of [`crate::MinRate::bytes`] per window.
pub const DEFAULT_RATE_BYTES: usize = 256;
