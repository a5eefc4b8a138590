-- What was done to the tenant. Each row's code covers the row and the code of the row before, under a key that is not in
-- this file; `audit_chain` says where the chain begins and ends, under the same key.
CREATE TABLE audit (
  seq INTEGER PRIMARY KEY,
  ts INTEGER NOT NULL,
  action TEXT NOT NULL,
  outcome TEXT NOT NULL,
  actor_json TEXT NOT NULL,
  object_json TEXT,
  code BLOB NOT NULL
) STRICT;
CREATE TABLE audit_chain (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  -- The newest row that was pruned (0: none), whose code the oldest row continues.
  base_seq INTEGER NOT NULL,
  base_code BLOB NOT NULL,
  head_seq INTEGER NOT NULL,
  head_code BLOB NOT NULL,
  code BLOB NOT NULL
) STRICT;
