//! Every limit of the guest side, with its unit. Defaults and hard ceilings are those of the plugin design; a manifest may ask
//! for less or, up to the ceiling, for more.

/// Bytes of all linear memories of one instance together, if the manifest asks for nothing else.
pub const DEFAULT_MEMORY_BYTES: usize = 24 << 20;
/// Ceiling of the memory sum for class `small` (pooled).
pub const MAX_SMALL_MEMORY_BYTES: usize = 64 << 20;
/// Ceiling of the memory sum for class `large` (on demand).
pub const MAX_LARGE_MEMORY_BYTES: usize = 256 << 20;
/// Elements of all tables of one instance together.
pub const MAX_TABLE_ELEMENTS: usize = 10_000;
/// Core instances in one component instance.
pub const MAX_INSTANCES: usize = 16;
/// Linear memories in one component instance.
pub const MAX_MEMORIES: usize = 4;
/// Tables in one component instance.
pub const MAX_TABLES: usize = 16;
/// Resource handles that a guest can hold in each of its tables.
pub const MAX_COMPONENT_HANDLES: usize = 1_000;
/// Bytes that one host call may copy out of the guest.
pub const HOSTCALL_FUEL_BYTES: usize = 2 << 20;
/// Stack of WebAssembly code, class `small`.
pub const SMALL_WASM_STACK_BYTES: usize = 512 << 10;
/// Fibre stack, class `small`.
pub const SMALL_FIBRE_STACK_BYTES: usize = 1 << 20;
/// Stack of WebAssembly code, class `large`.
pub const LARGE_WASM_STACK_BYTES: usize = 3 << 20;
/// Fibre stack, class `large`.
pub const LARGE_FIBRE_STACK_BYTES: usize = 4 << 20;
/// Instances that the pool of class `small` can hold.
pub const DEFAULT_POOL_INSTANCES: u32 = 1_000;
/// Live instances of class `large` in the process.
pub const MAX_LARGE_INSTANCES: usize = 64;

/// Epoch tick. A guest is interrupted on tick boundaries only.
pub const EPOCH_TICK_MS: u64 = 1;
/// Ticks after which a call is looked at for the first time.
pub const FAST_SLICE_TICKS: u64 = 2;
/// CPU time (microseconds) that a call may use in the fast lane before it moves.
pub const FAST_SLICE_CPU_US: u64 = 2_000;
/// Ticks of one turn in the slow lane.
pub const SLOW_SLICE_TICKS: u64 = 10;
/// Wall time of one call, host waits included, if the manifest asks for nothing else.
pub const DEFAULT_CALL_MS: u64 = 5_000;
/// Ceiling of the wall time of one call.
pub const MAX_CALL_MS: u64 = 30_000;
/// CPU time of one call, if the manifest asks for nothing else.
pub const DEFAULT_CALL_CPU_MS: u64 = 1_000;
/// Ceiling of the CPU time of one call.
pub const MAX_CALL_CPU_MS: u64 = 10_000;
/// Wall time of a boot script, if the manifest asks for nothing else.
pub const DEFAULT_BOOT_MS: u64 = 5_000;
/// Calls of host functions in one call of an export.
pub const MAX_HOST_CALLS: u32 = 2_000;
/// HTTP requests that one call may make or submit.
pub const MAX_HTTP_PER_CALL: u32 = 8;
/// Bytes of a request body that a guest gives.
pub const MAX_HTTP_REQUEST_BYTES: usize = 1 << 20;
/// Bytes of a response body that a guest gets.
pub const MAX_HTTP_RESPONSE_BYTES: usize = 8 << 20;
/// Headers of one request.
pub const MAX_HTTP_HEADERS: usize = 64;
/// Bytes of one header's name and value.
pub const MAX_HTTP_HEADER_BYTES: usize = 8 << 10;
/// Bytes of a URL.
pub const MAX_URL_BYTES: usize = 8 << 10;
/// Bytes of a submit's tag.
pub const MAX_TAG_BYTES: usize = 64;
/// Longest exchange of `fetch`.
pub const MAX_FETCH_MS: u32 = 10_000;
/// Longest exchange of `submit`.
pub const MAX_SUBMIT_MS: u32 = 120_000;
/// Bytes of one log line; the rest is cut.
pub const MAX_LOG_LINE_BYTES: usize = 4 << 10;
/// Log lines of one account in a minute; the rest is counted.
pub const MAX_LOG_LINES_PER_MIN: u32 = 600;
/// Messages that one event may emit.
pub const MAX_EMITS_PER_CALL: usize = 100;
/// Bytes of the text of one emitted message.
pub const MAX_EMIT_TEXT_BYTES: usize = 64 << 10;
/// Bytes of an id in a message (platform message, peer, sender, thread).
pub const MAX_ID_BYTES: usize = 256;
/// Pairs of `extra`.
pub const MAX_EXTRA_PAIRS: usize = 32;
/// Bytes of all of `extra`.
pub const MAX_EXTRA_BYTES: usize = 16 << 10;
/// Bytes of all that one export returns.
pub const MAX_EXPORT_OUTPUT_BYTES: usize = 1 << 20;
/// Actions that one event may return.
pub const MAX_ACTIONS: usize = 64;
/// Longest hold of a webhook request.
pub const MAX_HOLD_MS: u32 = 60_000;
/// Bytes of what `save` returns.
pub const MAX_STATE_BYTES: usize = 64 << 10;
/// Bytes of a kv key.
pub const MAX_KV_KEY_BYTES: usize = 256;
/// Bytes of a kv value.
pub const MAX_KV_VALUE_BYTES: usize = 256 << 10;
/// Bytes of all kv writes that one event stages.
pub const MAX_KV_STAGED_BYTES: usize = 4 << 20;
/// Keys that `kv.list` returns.
pub const MAX_KV_LIST: usize = 1_000;
/// Bytes that one call of `random` gives.
pub const MAX_RANDOM_BYTES: u32 = 4_096;
/// Longest alarm of `timer`: 40 days (longer ones are cut).
pub const MAX_WAKE_MS: u32 = 40 * 24 * 3_600 * 1_000;
/// Methods that one boot script may call in one run.
pub const MAX_GATEWAY_CALLS: u32 = 100;
/// Bytes of a boot report's summary.
pub const MAX_SUMMARY_BYTES: usize = 1 << 10;

/// Webhook requests that one call of a guest may serve when several wait (`[run] batch`). Small enough that the limits of one call (emits, actions, host
/// calls) are enough for all; where they are not, each is served for itself.
pub const MAX_EVENTS_PER_CALL: usize = 32;
/// Events that wait for one account.
pub const MAX_MAILBOX_EVENTS: usize = 256;
/// Bytes of the events that wait for one account.
pub const MAX_MAILBOX_BYTES: usize = 4 << 20;
/// Sends and edits of one account that follow each other on a guest thread before others get their turn.
pub const MAX_SENDS_PER_TURN: usize = 32;
/// Sends and edits that wait for one account.
pub const MAX_MAILBOX_SENDS: usize = 64;
/// Events that one `burst` instance serves before it is replaced.
pub const MAX_EVENTS_PER_INSTANCE: u32 = 10_000;
/// Age at which a `burst` instance is replaced.
pub const MAX_INSTANCE_AGE_MS: u64 = 60_000;
/// Time that a `burst` instance without work is kept.
pub const INSTANCE_LINGER_MS: u64 = 200;
/// Waits before the next instance after 1, 2, 3, … failures in a row, in milliseconds; the last repeats.
pub const BACKOFF_MS: [u64; 6] = [0, 1_000, 2_000, 5_000, 15_000, 60_000];
/// Longest sleep in one piece while backing off.
pub const BACKOFF_STEP_MS: u64 = 200;
/// Failures in a row that put an account into quarantine.
pub const QUARANTINE_CONSECUTIVE: u32 = 10;
/// Failed events of the last 100 above which an account is put into quarantine.
pub const QUARANTINE_PER_100: u32 = 20;

/// Bytes of a component file or core module.
pub const MAX_COMPONENT_BYTES: u64 = 32 << 20;
/// Bytes of a compiled component in the cache.
pub const MAX_COMPILED_BYTES: u64 = 128 << 20;
/// Bytes of a `plugin.toml`.
pub const MAX_MANIFEST_BYTES: u64 = 64 << 10;
/// Plugins in one directory.
pub const MAX_PLUGINS: usize = 256;

/// A limit that a guest went over. It ends the call (and the instance), or it is the text of a typed error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("limit exceeded: {name} (at most {max} {unit})")]
pub struct LimitExceeded {
    /// What is limited.
    pub name: &'static str,
    /// The value.
    pub max: u64,
    /// Its unit.
    pub unit: &'static str,
}

impl LimitExceeded {
    /// Names a limit.
    #[must_use]
    pub fn new(name: &'static str, max: u64, unit: &'static str) -> Self {
        Self { name, max, unit }
    }
}
