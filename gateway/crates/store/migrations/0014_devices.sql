-- Devices that are paired with the tenant, their tokens by role, and those who wait for an operator. A token itself is kept
-- nowhere: it follows from the host's key and the row's salt, and here is its keyed hash.
CREATE TABLE devices (
  id TEXT PRIMARY KEY,
  public_key TEXT NOT NULL,
  display_name TEXT,
  label TEXT,
  platform TEXT NOT NULL,
  device_family TEXT,
  client_id TEXT NOT NULL,
  client_mode TEXT NOT NULL,
  approved_via TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  approved_at INTEGER NOT NULL,
  last_seen_at INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE device_tokens (
  device_id TEXT NOT NULL REFERENCES devices (id) ON DELETE CASCADE,
  role TEXT NOT NULL,
  scopes TEXT NOT NULL,
  salt BLOB NOT NULL,
  hash BLOB NOT NULL UNIQUE,
  created_at INTEGER NOT NULL,
  issued_at INTEGER NOT NULL,
  rotated_at INTEGER,
  revoked_at INTEGER,
  last_used_at INTEGER,
  PRIMARY KEY (device_id, role)
) STRICT, WITHOUT ROWID;

CREATE TABLE device_requests (
  id TEXT PRIMARY KEY,
  device_id TEXT NOT NULL UNIQUE,
  public_key TEXT NOT NULL,
  display_name TEXT,
  platform TEXT NOT NULL,
  device_family TEXT,
  client_id TEXT NOT NULL,
  client_mode TEXT NOT NULL,
  role TEXT NOT NULL,
  scopes TEXT NOT NULL,
  reason TEXT NOT NULL,
  address TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX device_requests_by_address ON device_requests (address);
