//! Every bound of the core, each with its unit in its name. Wire limits are in `gateway_protocol::limits`.

/// Longest log line kept, in bytes (longer ones are cut).
pub const LOG_LINE_MAX_BYTES: usize = 8 * 1024;
/// Log lines kept per tenant, in bytes.
pub const LOG_RING_MAX_BYTES: usize = 1024 * 1024;

/// Failed authentications per address and credential class before a lockout.
pub const AUTH_FAILURES_MAX: u32 = 10;
/// Window in which they count, in ms.
pub const AUTH_WINDOW_MS: u64 = 60_000;
/// Length of a lockout, in ms.
pub const AUTH_LOCKOUT_MS: u64 = 300_000;
/// Addresses (and classes) remembered by the limiter; beyond that the oldest entry that is not locked goes.
pub const AUTH_TRACKED_MAX: usize = 16_384;
/// Longest credential that is looked at, in bytes; a longer one is wrong.
pub const AUTH_CREDENTIAL_MAX_BYTES: usize = 1024;
/// Precision of the time when an API key was used last, in ms.
pub const API_KEY_USE_STEP_MS: i64 = 60_000;
/// Longest time until the end of an API key is looked for again, in ms (a clock that jumps is noticed then).
pub const API_KEY_LOOK_MAX_MS: i64 = 60_000;

/// How long a device waits for an operator before its request ends by itself, in ms.
pub const DEVICE_REQUEST_TTL_MS: i64 = 300_000;
/// When a device for whose request there was no room may come back, in ms.
pub const DEVICE_REQUEST_RETRY_MS: u64 = 60_000;
/// Precision of the time when a device connected last, in ms.
pub const DEVICE_SEEN_STEP_MS: i64 = 60_000;
/// Time for the answer to a device that ended its own token, before its connection is closed, in ms.
pub const DEVICE_SELF_END_MS: u64 = 200;
/// Decisions of a tenant about its devices that are kept for those who wait for them.
pub const DEVICE_DECISIONS_KEPT: usize = 100;
/// How long a setup code is good, in ms.
pub const SETUP_CODE_TTL_MS: i64 = 600_000;
/// Bytes of a setup code's picture, as an address: clients take no more.
pub const SETUP_PICTURE_MAX_BYTES: usize = 16_384;
/// Bytes of the address in a setup code.
pub const SETUP_URL_MAX_BYTES: usize = 512;
/// Characters that are kept of each text in which a device describes itself.
pub const DEVICE_TEXT_MAX_CHARS: usize = 128;

/// Names of each kind (commands, groups, permissions) that a node may offer; further ones are left out.
pub const NODE_NAMES_MAX: usize = 256;
/// Longest name of a command, group or permission of a node, in bytes; a longer one is not offered.
pub const NODE_NAME_MAX_BYTES: usize = 128;
/// Bytes of a node's search path that are kept.
pub const NODE_PATH_MAX_BYTES: usize = 8 * 1024;
/// Tools or skills that a node may offer.
pub const NODE_EXTRAS_MAX: usize = 64;
/// The same in bytes of JSON.
pub const NODE_EXTRAS_MAX_BYTES: usize = 256 * 1024;
/// Precision of the time when a node gave a sign of life, as it is kept over restarts, in ms.
pub const NODE_SEEN_STEP_MS: i64 = 10_000;
/// Shortest time between two `node.hostStats` events of one node, in ms.
pub const NODE_STATS_STEP_MS: i64 = 1_000;
/// Characters of the word in which a node says why it gave a sign of life.
pub const NODE_REASON_MAX_CHARS: usize = 64;
/// Time for the answer of a node where the caller names none, in ms.
pub const NODE_INVOKE_DEFAULT_MS: u64 = 30_000;
/// Longest time for the answer of a node, in ms.
pub const NODE_INVOKE_MAX_MS: u64 = 3_600_000;
/// Bytes of what a command takes (JSON).
pub const NODE_PARAMS_MAX_BYTES: usize = 2 * 1024 * 1024;
/// Bytes of what a command gives (JSON).
pub const NODE_RESULT_MAX_BYTES: usize = 16 * 1024 * 1024;
/// Calls under way on one node; a further one is refused.
pub const NODE_INVOKES_PER_NODE_MAX: usize = 32;
/// Calls under way on all nodes of a tenant.
pub const NODE_INVOKES_PER_TENANT_MAX: usize = 256;
/// Callers that wait for the same call.
pub const NODE_CALLERS_PER_INVOKE_MAX: usize = 8;
/// Pieces of progress of one call that are passed on.
pub const NODE_PROGRESS_PIECES_MAX: usize = 4_096;
/// How long a call that ended is known by its idempotency key, in ms.
pub const NODE_OUTCOME_KEPT_MS: u64 = 300_000;
/// Calls that ended and are known, per tenant; the oldest makes room.
pub const NODE_KEPT_OUTCOMES_MAX: usize = 1_000;
/// Bytes of the results that are kept of them.
pub const NODE_KEPT_OUTCOMES_MAX_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of a result that is kept; of a larger one only that it was given.
pub const NODE_KEPT_OUTCOME_MAX_BYTES: usize = 256 * 1024;
/// How long a question or call waits for a node where the caller names no time, in ms.
pub const NODE_PENDING_TTL_MS: i64 = 86_400_000;
/// Questions that one `node.pending.drain` gives without a number.
pub const NODE_DRAIN_DEFAULT_ITEMS: usize = 4;

/// Connections per tenant hub.
pub const HUB_CONNECTIONS_MAX: usize = 65_536;
/// `sessions.messages.subscribe` keys per connection.
pub const HUB_KEYS_PER_CONNECTION_MAX: usize = 256;
/// Entries of `system-presence` that are shown (the newest); the rest is only counted.
pub const PRESENCE_SHOWN_MAX: usize = 64;

/// Sessions with a run going on or queued, per tenant.
pub const ACTIVE_SESSIONS_MAX: usize = 65_536;
/// Runs waiting in one session behind the one that is going on.
pub const SESSION_QUEUE_MAX: usize = 256;
/// Runs of a tenant that are worked on at the same time; further ones wait for their turn.
pub const CONCURRENT_RUNS_MAX: usize = 1_024;
/// Times a run is started in all (first start included) when the gateway dies under it.
pub const RUN_ATTEMPTS_MAX: i64 = 3;
/// Longest text of a run's answer, in bytes; a longer one is cut with an error.
pub const RUN_TEXT_MAX_BYTES: usize = 1024 * 1024;
/// Messages of history given to an agent.
pub const RUN_HISTORY_MESSAGES: usize = 200;
/// Bytes of one session's newest messages that are kept decoded for its next turn.
pub const KEPT_HISTORY_BYTES_PER_SESSION: usize = 1024 * 1024;
/// The same of all sessions of a tenant.
pub const KEPT_HISTORY_BYTES_PER_TENANT: usize = 8 * 1024 * 1024;
/// Milliseconds without a turn after which they are forgotten.
pub const KEPT_HISTORY_MS: i64 = 30_000;
/// Bytes of a message that a run which begins at once takes along; a longer one is read again.
pub const RUN_INPUT_KEPT_BYTES: usize = 64 * 1024;
/// Callers waiting for runs (`agent`, `agent.wait`, `/v1`) per run.
pub const RUN_WAITERS_MAX: usize = 64;
/// Finished runs whose result is kept in memory for those that ask again, per tenant.
pub const RECENT_RUNS_MAX: usize = 1_024;
/// Default and longest wait of `agent.wait`, in ms.
pub const AGENT_WAIT_DEFAULT_MS: u64 = 30_000;
/// Longest wait of `agent.wait`, in ms.
pub const AGENT_WAIT_MAX_MS: u64 = 3_600_000;
/// Streaming deltas are sent to a channel as one revision per this many ms.
pub const REPLY_REVISION_INTERVAL_MS: u64 = 700;

/// Heartbeats and wakes of one agent within [`HEARTBEAT_WINDOW_MS`]; further texts wait.
pub const HEARTBEATS_PER_WINDOW_MAX: usize = 5;
/// Window in which they count, in ms.
pub const HEARTBEAT_WINDOW_MS: i64 = 60_000;
/// Shortest time between a heartbeat and the next planned one, in ms.
pub const HEARTBEAT_GAP_MIN_MS: i64 = 30_000;

/// Longest text of a hook, in bytes.
pub const HOOK_TEXT_MAX_BYTES: usize = 64 * 1024;
/// Longest `Idempotency-Key` of a hook, in bytes.
pub const HOOK_KEY_MAX_BYTES: usize = 256;
/// Longest wait of a hook for the end of its run, in ms.
pub const HOOK_WAIT_MAX_MS: u64 = 120_000;

/// Page of `sessions.list` without a limit.
pub const SESSIONS_LIST_DEFAULT: usize = 100;
/// Longest page of `sessions.list`.
pub const SESSIONS_LIST_MAX: usize = 1_000;
/// Page of `chat.history` without a limit.
pub const HISTORY_DEFAULT: usize = 200;
/// Longest page of `chat.history`.
pub const HISTORY_MAX: usize = 1_000;

/// Writes of schedules and configuration within [`CONTROL_WRITES_WINDOW_MS`], per tenant, method and network address.
pub const CONTROL_WRITES_MAX: usize = 30;
/// Window of [`CONTROL_WRITES_MAX`], in ms.
pub const CONTROL_WRITES_WINDOW_MS: u64 = 60_000;
/// Methods and addresses whose writes are counted at a time, per tenant; a further address has to wait.
pub const CONTROL_WRITES_TRACKED_MAX: usize = 1_024;
/// Name of the configuration file as clients see it: where it is kept is not for the wire.
pub const CONFIG_FILE_LABEL: &str = "gateway.json5";
/// How long a tenant that comes back waits for the end of the one that was taken out, in ms.
pub const TENANT_LEAVES_MAX_MS: u64 = 20_000;

/// Period of the health reconciler, in ms (it is also nudged by changes).
pub const HEALTH_RECONCILE_MS: u64 = 10_000;
/// Period of the task that shows that the runtime turns, in ms.
pub const RUNTIME_TICK_MS: u64 = 1_000;
/// Age at which its last turn no longer shows that, in ms.
pub const RUNTIME_TICK_STALE_MS: u64 = 5_000;
/// Pause between two proofs that commits reach the disk, in ms.
pub const COMMIT_PROBE_MS: u64 = 3_000;
/// How long a commit, or a writer thread's piece of work, may take before the store counts as stuck, in ms.
pub const COMMIT_PATIENCE_MS: u64 = 3_000;
/// Refusals that the audit log of a tenant takes within [`AUDIT_REFUSALS_WINDOW_MS`]; the rest is counted.
pub const AUDIT_REFUSALS_MAX: usize = 30;
/// Window of [`AUDIT_REFUSALS_MAX`], in ms.
pub const AUDIT_REFUSALS_WINDOW_MS: u64 = 60_000;
/// Paths of changed settings that one entry of the audit log holds.
pub const AUDIT_PATHS_MAX: usize = 50;
/// Characters of what a client says of itself that the audit log keeps.
pub const AUDIT_TEXT_MAX_CHARS: usize = 128;
/// Steps of messages that wait for the exporter of traces; a further one is dropped.
pub const OTLP_QUEUE_STEPS: usize = 4_096;
/// Messages whose spans are put together at a time; steps of further ones are dropped.
pub const OTLP_OPEN_TRACES_MAX: usize = 4_096;
/// Spans that wait for a collector; the oldest is dropped for a further one.
pub const OTLP_WAITING_SPANS_MAX: usize = 8_192;
/// Spans of one request to the collector.
pub const OTLP_BATCH_SPANS: usize = 512;
/// Pause between two exports, in ms.
pub const OTLP_PERIOD_MS: u64 = 1_000;
/// Deadline of one request to the collector, in ms.
pub const OTLP_DEADLINE_MS: u64 = 5_000;
/// Time without a step after which a message counts as over, in ms.
pub const OTLP_TRACE_MAX_MS: i64 = 120_000;
/// Tenants that have series of their own in `/metrics`; the others share one.
pub const METRICS_TENANTS_MAX: usize = 256;
/// How long `/metrics` waits for what stores have to count, in ms.
pub const METRICS_STORE_PATIENCE_MS: u64 = 2_000;
/// Deadline of a handler of class `Query`, in ms.
pub const QUERY_DEADLINE_MS: u64 = 10_000;
/// Deadline of a handler of class `Command`, in ms.
pub const COMMAND_DEADLINE_MS: u64 = 60_000;
/// How long a shutdown waits for a tenant's loops after its runs were drained, in ms.
pub const STOP_GRACE_MS: u64 = 2_000;

/// Messages waiting in one bus subscription; a slower reader loses the subscription.
pub const BUS_QUEUE_MAX_MESSAGES: usize = 1_024;
/// Subscriptions of one bus.
pub const BUS_SUBSCRIPTIONS_MAX: usize = 4_096;
/// Longest bus message, in bytes.
pub const BUS_MESSAGE_MAX_BYTES: usize = 1024 * 1024;

/// Tenants whose boot scripts run at the same time.
pub const BOOTING_TENANTS_MAX: usize = 4;
/// How long a caller of a tenant that takes no work is told to wait, in ms.
pub const HELD_RETRY_AFTER_MS: u64 = 5_000;

/// Starts within [`SAFE_MODE_WINDOW_MS`] that did not come up, from which safe mode begins.
pub const SAFE_MODE_STARTS: usize = 3;
/// Window in which they count, in ms.
pub const SAFE_MODE_WINDOW_MS: i64 = 300_000;
/// How long a gateway that is ready has to live until its start counts as a good one, in ms.
pub const SAFE_MODE_SETTLE_MS: u64 = 5_000;
/// The same for one tenant in safe mode, until it is the next one's turn, in ms.
pub const SAFE_MODE_TENANT_SETTLE_MS: u64 = 250;
/// Longest time that a tenant is kept off, in ms.
pub const SAFE_MODE_RETRY_MAX_MS: u64 = 6 * 3_600_000;

/// When a client of a gateway that stops may look for it again, in ms: a hint.
pub const RESTART_EXPECTED_MS: u64 = 2_000;

/// Bytes of what a hook notes on one event that go into the audit log.
pub const HOOK_ANNOTATIONS_AUDITED_MAX_BYTES: usize = 4 * 1024;
