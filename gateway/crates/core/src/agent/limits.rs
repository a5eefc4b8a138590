//! Every bound of the agent backends and tools, each with its unit in its name.

/// Longest text of one run's answer, in bytes.
pub const ANSWER_TEXT_MAX_BYTES: usize = 1024 * 1024;
/// Rounds of model and tools in one run (the last one may not call tools).
pub const TOOL_ROUNDS_MAX: u32 = 8;
/// Tool calls that a model may make in one round.
pub const TOOL_CALLS_PER_ROUND_MAX: usize = 32;
/// Longest arguments of one tool call, in bytes of JSON.
pub const TOOL_ARGUMENTS_MAX_BYTES: usize = 256 * 1024;
/// Longest result of one tool call, in bytes; a longer one is cut and says so.
pub const TOOL_RESULT_MAX_BYTES: usize = 64 * 1024;
/// Time that one tool call may take, in ms.
pub const TOOL_CALL_MAX_MS: u64 = 10_000;
/// Tools in one catalog.
pub const TOOLS_MAX: usize = 128;

/// Longest run, in ms, whatever the upstream does.
pub const TURN_MAX_MS: u64 = 900_000;
/// Most bytes that an upstream may send for one answer (the framing included).
pub const UPSTREAM_RESPONSE_MAX_BYTES: usize = 32 * 1024 * 1024;
/// Longest single event of an upstream's stream, in bytes.
pub const UPSTREAM_EVENT_MAX_BYTES: usize = 1024 * 1024;
/// Most of an upstream's error body that is read, in bytes.
pub const UPSTREAM_ERROR_BODY_MAX_BYTES: usize = 16 * 1024;
/// Most of an upstream's error text that is shown, in characters.
pub const UPSTREAM_ERROR_TEXT_MAX_CHARS: usize = 300;
/// Times a request is sent again when the upstream refused it before its first token.
pub const UPSTREAM_RETRIES_MAX: u32 = 2;
/// First pause before sending again where the upstream names none, in ms; it doubles.
pub const UPSTREAM_RETRY_FIRST_MS: u64 = 500;
/// Longest `Retry-After` that is waited for, in ms; a longer one ends the run with an error that names it.
pub const UPSTREAM_RETRY_AFTER_MAX_MS: u64 = 20_000;
/// Requests of one agent that its upstream gets at the same time; further runs wait for a place.
pub const UPSTREAM_PARALLEL_MAX: usize = 96;
/// Failures in a row after which an upstream is left alone for a while.
pub const UPSTREAM_BREAKER_FAILURES: u32 = 5;
/// How long it is left alone, in ms.
pub const UPSTREAM_BREAKER_OPEN_MS: u64 = 15_000;
/// How long the proper end of a stream is waited for after its last event, in ms, so that the connection can be kept.
pub const UPSTREAM_TAIL_MAX_MS: u64 = 100;
/// Longest request for embeddings, in ms.
pub const EMBEDDINGS_MAX_MS: u64 = 60_000;
/// Longest wait for a server's list of models, in ms.
pub const PROBE_MODELS_MAX_MS: u64 = 10_000;
/// Largest list of models that is read, in bytes.
pub const PROBE_MODELS_MAX_BYTES: usize = 1024 * 1024;
/// Models of a list that are told.
pub const PROBE_MODELS_MAX: usize = 50;
