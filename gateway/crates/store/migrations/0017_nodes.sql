-- What was approved of nodes (devices in the role node), what they offer beyond it, when they were seen, and what waits for them.
CREATE TABLE nodes (
  id TEXT PRIMARY KEY REFERENCES devices (id) ON DELETE CASCADE,
  surface TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  approved_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE node_requests (
  id TEXT PRIMARY KEY,
  node_id TEXT NOT NULL UNIQUE REFERENCES devices (id) ON DELETE CASCADE,
  surface TEXT NOT NULL,
  version TEXT NOT NULL,
  created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE node_seen (
  id TEXT PRIMARY KEY REFERENCES devices (id) ON DELETE CASCADE,
  version TEXT NOT NULL,
  connected_at INTEGER NOT NULL,
  seen_at INTEGER NOT NULL,
  seen_reason TEXT NOT NULL,
  stats TEXT
) STRICT, WITHOUT ROWID;

CREATE TABLE node_pending (
  id TEXT PRIMARY KEY,
  node_id TEXT NOT NULL REFERENCES devices (id) ON DELETE CASCADE,
  kind TEXT NOT NULL,
  high INTEGER NOT NULL,
  command TEXT,
  params TEXT,
  created_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX node_pending_by_node ON node_pending (node_id, high DESC, created_at, id);

CREATE TABLE node_revisions (
  node_id TEXT PRIMARY KEY REFERENCES devices (id) ON DELETE CASCADE,
  revision INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
