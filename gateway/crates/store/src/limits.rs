//! Every bound of this crate, with its unit in the name.

/// Writes that may wait for one tenant's writer; the next one is answered [`crate::StoreError::Busy`].
pub const MAX_QUEUED_WRITES_PER_TENANT: usize = 4_096;
/// Writes that one commit may carry. A bound on how long one tenant may hold its writer thread.
pub const MAX_WRITES_PER_COMMIT: usize = 512;
/// Reads that may wait in the whole process.
pub const MAX_QUEUED_READS: usize = 8_192;
/// Read connections that a tenant keeps open while nobody reads.
pub const MAX_IDLE_READERS_PER_TENANT: usize = 2;
/// WAL length, in pages of 4 KiB, from which the writer checkpoints (after it has answered).
pub const CHECKPOINT_PAGES: i64 = 2_000;
/// KiB of pages that the writer of a tenant may keep, once it has used them.
pub const WRITER_CACHE_KIB: i64 = 4 * 1024;
/// Log length, in multiples of [`CHECKPOINT_PAGES`], from which the writer waits for readers so that the log can start over.
pub const MAX_LOG_CHECKPOINTS: i64 = 8;
/// Milliseconds of that wait.
pub const RESTART_LOG_WAIT_MS: u64 = 50;
/// Milliseconds that one read may hold the log up once it is that long; then it is cut short.
pub const LONG_READ_PATIENCE_MS: u64 = 5_000;
/// Pages by which a WAL file is made longer at the least, before it is full (see `log_room`).
pub const LOG_STEP_MIN_PAGES: u64 = 32;
/// Pages of the longest such step.
pub const LOG_STEP_MAX_PAGES: u64 = 256;
/// Bytes of WAL file that are kept for reuse after a checkpoint.
pub const MAX_KEPT_WAL_BYTES: i64 = 16 * 1024 * 1024;
/// Database files up to this many bytes are checked page by page when they are opened.
pub const QUICK_CHECK_MAX_BYTES: u64 = 8 * 1024 * 1024;
/// Milliseconds that a statement waits for a lock. Only this process opens the files, so this is a last resort.
pub const BUSY_TIMEOUT_MS: u64 = 5_000;
/// How long a start waits for the state directory of a process that has ended and whose files the system still closes, in ms.
pub const DYING_HOLDER_WAIT_MS: u64 = 2_000;
/// Rows of one page of any list.
pub const MAX_PAGE_ROWS: i64 = 1_000;
/// Outbox rows of one account that may be queued.
pub const MAX_OPEN_OUTBOX_ROWS_PER_ACCOUNT: i64 = 10_000;
/// Bytes of keys and values that one plugin account may keep, unless the caller sets another bound.
pub const DEFAULT_KV_BYTES_PER_ACCOUNT: i64 = 16 * 1024 * 1024;
/// Bytes of one guest key.
pub const MAX_KV_KEY_BYTES: usize = 512;
/// Bytes of one guest value.
pub const MAX_KV_VALUE_BYTES: usize = 1024 * 1024;
/// Bytes of saved state of one guest account.
pub const MAX_GUEST_STATE_BYTES: usize = 1024 * 1024;
/// Bytes of one message's content blocks (JSON).
pub const MAX_CONTENT_BYTES: usize = 8 * 1024 * 1024;
/// Bytes of the text of one outbox row.
pub const MAX_OUTBOX_TEXT_BYTES: usize = 1024 * 1024;
/// Bytes of one remembered response.
pub const MAX_IDEMPOTENT_RESPONSE_BYTES: usize = 1024 * 1024;
/// Bytes of the largest file of an agent's workspace that is read.
pub const WORKSPACE_FILE_MAX_BYTES: u64 = 64 * 1024;
/// Bytes of one blob.
pub const MAX_BLOB_BYTES: usize = 64 * 1024 * 1024;
/// Guest requests of one account that may wait or be under way.
pub const MAX_SUBMITS_PER_ACCOUNT: i64 = 256;
/// Pairing requests of one account that may be open, unless the caller sets a smaller bound.
pub const MAX_PAIRING_REQUESTS_PER_ACCOUNT: i64 = 100;
/// Milliseconds for which a received platform message id is remembered at the least (longer than any platform's retries).
pub const MIN_INBOX_KEEP_MS: i64 = 48 * 3_600_000;
/// Milliseconds for which an idempotency key is remembered.
pub const IDEMPOTENCY_TTL_MS: i64 = 24 * 3_600_000;
/// Rows of the `events` table that are kept by default.
pub const MAX_EVENTS_KEPT: i64 = 100_000;
/// Rows that one call of a prune function removes at the most, so that a prune never holds the writer for long.
pub const MAX_PRUNED_ROWS: i64 = 5_000;
/// Jobs of a tenant, those of the gateway not counted.
pub const MAX_CRON_JOBS_PER_TENANT: i64 = 500;
/// Bytes of what is written about one job (JSON).
pub const MAX_CRON_SPEC_BYTES: usize = 160 * 1024;
/// Bytes of any text in the log of runs.
pub const MAX_CRON_LOG_TEXT_BYTES: usize = 8 * 1024;
/// Runs of one job that the log keeps.
pub const CRON_RUNS_KEPT_PER_JOB_ROWS: i64 = 200;
/// Runs of all jobs, deleted ones too, that the log of a tenant keeps.
pub const CRON_RUNS_KEPT_PER_TENANT_ROWS: i64 = 10_000;
/// Rows of the log that one commit removes at the most.
pub const MAX_PRUNED_CRON_RUNS: i64 = 50;
/// Rows of the audit log of a tenant that are kept at the least.
pub const MAX_AUDIT_ROWS: i64 = 100_000;
/// Rows beyond them after which that many are removed at once.
pub const MAX_PRUNED_AUDIT_ROWS: i64 = 500;
/// Bytes of each text of a row of the audit log.
pub const MAX_AUDIT_TEXT_BYTES: usize = 8 * 1024;
/// System events that wait in one session; the oldest makes room.
pub const MAX_SYSTEM_EVENTS_PER_SESSION: i64 = 50;
/// Bytes of one system event.
pub const MAX_SYSTEM_EVENT_BYTES: usize = 64 * 1024;
/// API keys of one tenant.
pub const MAX_API_KEYS_PER_TENANT: i64 = 1_000;
/// Responses of the Responses API that a tenant's store keeps.
pub const MAX_RESPONSES_KEPT: i64 = 100_000;
/// Rows of them that one commit removes at the most.
pub const MAX_PRUNED_RESPONSES: i64 = 10;
/// Bytes of what is kept about the request of one response (JSON).
pub const MAX_RESPONSE_REQUEST_BYTES: usize = 2 * 1024 * 1024;
/// Attempts to copy a tenant of which a blob is removed meanwhile.
pub const SNAPSHOT_MAX_ATTEMPTS: u32 = 3;
/// Devices that are paired with one tenant.
pub const MAX_DEVICES_PER_TENANT: i64 = 1_000;
/// Requests of devices of one tenant that may wait for an operator.
pub const MAX_DEVICE_REQUESTS_PER_TENANT: i64 = 100;
/// The same from one address.
pub const MAX_DEVICE_REQUESTS_PER_ADDRESS: i64 = 10;
/// Setup codes of one tenant that are kept.
pub const MAX_SETUP_CODES_PER_TENANT: i64 = 100;
/// Milliseconds for which a setup code is kept after its end, so that its maker can ask who used it.
pub const SETUP_CODE_KEPT_MS: i64 = 3_600_000;
/// Questions and calls that wait for the nodes of one tenant.
pub const MAX_NODE_PENDING_PER_TENANT: i64 = 1_000;
/// The same for one node.
pub const MAX_NODE_PENDING_PER_NODE: i64 = 64;
/// Bytes of what one waiting call takes along.
pub const MAX_NODE_PENDING_BYTES: usize = 64 * 1024;
