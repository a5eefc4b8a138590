-- Answers of the Responses API that can be asked for again and continued. The run of the same id has what became of it.
CREATE TABLE responses (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,
  session_key TEXT NOT NULL,
  session_id TEXT NOT NULL,
  agent_id TEXT NOT NULL,
  request_json TEXT NOT NULL,
  created_at INTEGER NOT NULL
) STRICT;
