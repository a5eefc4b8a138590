-- Setup codes: good for one device, once. The code is kept by its holder only; here is its keyed hash.
CREATE TABLE setup_codes (
  id TEXT PRIMARY KEY,
  hash BLOB NOT NULL UNIQUE,
  access TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL,
  used_at INTEGER,
  device_id TEXT,
  device_name TEXT
) STRICT, WITHOUT ROWID;
