PRAGMA application_id = 1735881838;
-- The seal is rewritten by every commit. It says whose files these are and how far they got, so that a write-ahead log
-- of another tenant or of an older copy is noticed when the database is opened (SQLite itself can't know that).
CREATE TABLE seal (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  tenant TEXT NOT NULL,
  commits INTEGER NOT NULL,
  epoch INTEGER NOT NULL
) STRICT;

CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE sessions (
  key TEXT PRIMARY KEY,
  session_id TEXT NOT NULL,
  agent_id TEXT NOT NULL,
  label TEXT,
  display_name TEXT,
  channel TEXT,
  account TEXT,
  peer TEXT,
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL,
  last_seq INTEGER NOT NULL DEFAULT 0,
  message_count INTEGER NOT NULL DEFAULT 0,
  status TEXT NOT NULL DEFAULT 'idle',
  model TEXT,
  reset_count INTEGER NOT NULL DEFAULT 0,
  deleted INTEGER NOT NULL DEFAULT 0,
  meta_json TEXT
) STRICT;
CREATE INDEX sessions_recent ON sessions (updated_at DESC, key) WHERE deleted = 0;
CREATE INDEX sessions_agent_recent ON sessions (agent_id, updated_at DESC, key) WHERE deleted = 0;
CREATE INDEX sessions_label ON sessions (label, updated_at DESC, key) WHERE deleted = 0 AND label IS NOT NULL;

-- Sessions of each agent that are not deleted: the total of a list without reading the list.
CREATE TABLE session_counts (agent_id TEXT PRIMARY KEY, n INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TRIGGER sessions_counted_insert AFTER INSERT ON sessions WHEN NEW.deleted = 0 BEGIN
  INSERT INTO session_counts (agent_id, n) VALUES (NEW.agent_id, 1) ON CONFLICT (agent_id) DO UPDATE SET n = n + 1;
END;
CREATE TRIGGER sessions_counted_update AFTER UPDATE OF deleted, agent_id ON sessions
WHEN OLD.deleted <> NEW.deleted OR OLD.agent_id <> NEW.agent_id BEGIN
  UPDATE session_counts SET n = n - 1 WHERE agent_id = OLD.agent_id AND OLD.deleted = 0;
  INSERT INTO session_counts (agent_id, n) SELECT NEW.agent_id, 1 WHERE NEW.deleted = 0
    ON CONFLICT (agent_id) DO UPDATE SET n = n + 1;
END;
CREATE TRIGGER sessions_counted_delete AFTER DELETE ON sessions WHEN OLD.deleted = 0 BEGIN
  UPDATE session_counts SET n = n - 1 WHERE agent_id = OLD.agent_id;
END;

CREATE TABLE messages (
  id TEXT NOT NULL UNIQUE,
  session_key TEXT NOT NULL,
  session_id TEXT NOT NULL,
  seq INTEGER NOT NULL,
  role TEXT NOT NULL,
  content_json TEXT NOT NULL,
  run_id TEXT,
  idempotency_key TEXT,
  created_at INTEGER NOT NULL,
  meta_json TEXT
) STRICT;
CREATE UNIQUE INDEX messages_order ON messages (session_key, session_id, seq);
CREATE UNIQUE INDEX messages_idempotency ON messages (session_key, idempotency_key) WHERE idempotency_key IS NOT NULL;

CREATE TABLE runs (
  run_id TEXT PRIMARY KEY,
  session_key TEXT NOT NULL,
  agent_id TEXT NOT NULL,
  origin TEXT NOT NULL,
  state TEXT NOT NULL,
  attempt INTEGER NOT NULL,
  owner_epoch INTEGER NOT NULL,
  input_message_id TEXT,
  created_at INTEGER NOT NULL,
  started_at INTEGER,
  ended_at INTEGER,
  stop_reason TEXT,
  error TEXT,
  result_text TEXT,
  usage_json TEXT,
  reply_to_json TEXT,
  request_hash TEXT NOT NULL
) STRICT;
CREATE INDEX runs_unfinished ON runs (created_at, run_id) WHERE state IN ('queued', 'running');
CREATE INDEX runs_session ON runs (session_key, created_at DESC);

CREATE TABLE inbox (
  kind TEXT NOT NULL,
  account TEXT NOT NULL,
  conversation TEXT NOT NULL,
  platform_id TEXT NOT NULL,
  received_at INTEGER NOT NULL,
  PRIMARY KEY (kind, account, conversation, platform_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX inbox_age ON inbox (received_at);

CREATE TABLE outbox (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  kind TEXT NOT NULL,
  account TEXT NOT NULL,
  conversation_json TEXT NOT NULL,
  run_id TEXT NOT NULL,
  part INTEGER NOT NULL,
  text TEXT NOT NULL,
  desired_rev INTEGER NOT NULL,
  sent_rev INTEGER NOT NULL,
  final_rev INTEGER NOT NULL,
  state TEXT NOT NULL,
  attempts INTEGER NOT NULL,
  next_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL,
  receipt_json TEXT,
  hold TEXT,
  last_error TEXT,
  owner_epoch INTEGER NOT NULL,
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL,
  UNIQUE (run_id, part)
) STRICT;
-- What may have to go out now; a row that waits for its next revision (sent_rev = desired_rev) is not in it.
CREATE INDEX outbox_due ON outbox (kind, account, next_at, id) WHERE state = 'queued' AND sent_rev < desired_rev;
CREATE INDEX outbox_queued ON outbox (kind, account, expires_at) WHERE state = 'queued';
CREATE INDEX outbox_first ON outbox (kind, account, conversation_json, id) WHERE state IN ('queued', 'sending') AND receipt_json IS NULL;
CREATE INDEX outbox_state ON outbox (state, id);

CREATE TABLE kv (
  plugin TEXT NOT NULL,
  account TEXT NOT NULL,
  key TEXT NOT NULL,
  value BLOB NOT NULL,
  PRIMARY KEY (plugin, account, key)
) STRICT, WITHOUT ROWID;
CREATE TABLE kv_usage (
  plugin TEXT NOT NULL,
  account TEXT NOT NULL,
  bytes INTEGER NOT NULL,
  PRIMARY KEY (plugin, account)
) STRICT, WITHOUT ROWID;

CREATE TABLE idempotency (
  scope TEXT NOT NULL,
  key TEXT NOT NULL,
  request_hash TEXT NOT NULL,
  response TEXT NOT NULL,
  expires_at INTEGER NOT NULL,
  PRIMARY KEY (scope, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_age ON idempotency (expires_at);

CREATE TABLE events (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  epoch INTEGER NOT NULL,
  ts INTEGER NOT NULL,
  kind TEXT NOT NULL,
  session_key TEXT,
  payload_json TEXT NOT NULL
) STRICT;

CREATE TABLE accounts (
  kind TEXT NOT NULL,
  account TEXT NOT NULL,
  next_wake INTEGER,
  guest_state BLOB,
  enabled INTEGER,
  last_error TEXT,
  updated_at INTEGER NOT NULL,
  PRIMARY KEY (kind, account)
) STRICT, WITHOUT ROWID;
CREATE INDEX accounts_wake ON accounts (next_wake) WHERE next_wake IS NOT NULL;

CREATE TABLE submits (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  kind TEXT NOT NULL,
  account TEXT NOT NULL,
  guest_id INTEGER NOT NULL,
  request_json TEXT NOT NULL,
  taken INTEGER NOT NULL DEFAULT 0,
  attempts INTEGER NOT NULL DEFAULT 0,
  owner_epoch INTEGER NOT NULL,
  created_at INTEGER NOT NULL,
  UNIQUE (kind, account, guest_id)
) STRICT;

CREATE TABLE contacts (
  kind TEXT NOT NULL,
  account TEXT NOT NULL,
  sender_id TEXT NOT NULL,
  display TEXT,
  created_at INTEGER NOT NULL,
  PRIMARY KEY (kind, account, sender_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE pairing_requests (
  code TEXT PRIMARY KEY,
  kind TEXT NOT NULL,
  account TEXT NOT NULL,
  sender_id TEXT NOT NULL,
  display TEXT,
  conversation_json TEXT,
  created_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL,
  UNIQUE (kind, account, sender_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE blobs (
  sha256 TEXT PRIMARY KEY,
  size INTEGER NOT NULL,
  refs INTEGER NOT NULL,
  created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX blobs_unused ON blobs (created_at) WHERE refs = 0;

CREATE TABLE boot_runs (
  script_id TEXT NOT NULL,
  boot_id TEXT NOT NULL,
  state TEXT NOT NULL,
  started_at INTEGER NOT NULL,
  ended_at INTEGER,
  error TEXT,
  log TEXT,
  PRIMARY KEY (script_id, boot_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX boot_recent ON boot_runs (started_at DESC);
