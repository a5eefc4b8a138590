-- Jobs that come due by themselves. What is written about a job is one JSON text; the rest is its state.
CREATE TABLE cron_jobs (
  id TEXT PRIMARY KEY,
  agent_id TEXT NOT NULL,
  name TEXT NOT NULL,
  -- 'heartbeat' for those that the gateway makes itself.
  system TEXT,
  enabled INTEGER NOT NULL,
  spec_json TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL,
  next_at INTEGER,
  -- Occurrences up to this one are over although their rows in the log may be gone.
  done_through INTEGER NOT NULL DEFAULT 0,
  last_run_at INTEGER,
  last_status TEXT,
  last_error TEXT,
  last_duration_ms INTEGER,
  consecutive_errors INTEGER NOT NULL DEFAULT 0,
  consecutive_skipped INTEGER NOT NULL DEFAULT 0,
  auto_disabled_json TEXT
) STRICT;
CREATE INDEX cron_jobs_due ON cron_jobs (next_at, id) WHERE enabled = 1 AND next_at IS NOT NULL;
CREATE UNIQUE INDEX cron_jobs_system ON cron_jobs (system, agent_id) WHERE system IS NOT NULL;

-- The log. A row is written when an occurrence is claimed (in the transaction that accepts the agent's run), so that no
-- occurrence of a job is ever claimed twice.
CREATE TABLE cron_runs (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  run_id TEXT NOT NULL UNIQUE,
  job_id TEXT NOT NULL,
  job_name TEXT NOT NULL,
  agent_id TEXT NOT NULL,
  kind TEXT NOT NULL,
  occurrence INTEGER NOT NULL,
  -- 0 for the schedule, else the number of the request of that millisecond.
  manual INTEGER NOT NULL,
  state TEXT NOT NULL,
  owner_epoch INTEGER NOT NULL,
  claimed_at INTEGER NOT NULL,
  ended_at INTEGER,
  status TEXT,
  error TEXT,
  summary TEXT,
  session_key TEXT,
  session_id TEXT,
  next_at INTEGER,
  usage_json TEXT,
  -- Where the outcome goes (JSON) and what became of it: 'outbox' (the outbox row tells), 'pending', 'delivered', 'failed'.
  delivery_json TEXT,
  delivery_state TEXT,
  delivery_attempts INTEGER NOT NULL DEFAULT 0,
  delivery_next_at INTEGER,
  delivery_error TEXT,
  UNIQUE (job_id, occurrence, manual)
) STRICT;
CREATE INDEX cron_runs_running ON cron_runs (job_id) WHERE state = 'running';
CREATE INDEX cron_runs_pending ON cron_runs (delivery_next_at) WHERE delivery_state = 'pending';
CREATE INDEX cron_runs_job ON cron_runs (job_id, seq);

-- Texts that stand before the next message of a session.
CREATE TABLE system_events (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  session_key TEXT NOT NULL,
  text TEXT NOT NULL,
  created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX system_events_session ON system_events (session_key, id);

-- Turns that nobody needs to see again (a heartbeat without news) are not given to the agent with the next message.
ALTER TABLE messages ADD COLUMN silent INTEGER NOT NULL DEFAULT 0;
