//! Agent runs.

use super::{Read, Write, bad_word, page_limit};
use crate::{NewRun, Result, RunEnd, RunInserted, RunRow, RunState, StoreError};
use rusqlite::{Row, params};

const COLUMNS: &str = "run_id, session_key, agent_id, origin, state, attempt, owner_epoch, input_message_id, created_at, started_at, \
                       ended_at, stop_reason, error, result_text, usage_json, reply_to_json, request_hash, timeout_ms, deadline_at, traceparent";

fn map(r: &Row<'_>) -> rusqlite::Result<RunRow> {
    Ok(RunRow {
        run_id: r.get(0)?,
        session_key: r.get(1)?,
        agent_id: r.get(2)?,
        origin: r.get(3)?,
        state: RunState::parse(r.get_ref(4)?.as_str()?).ok_or_else(|| bad_word(4))?,
        attempt: r.get(5)?,
        owner_epoch: r.get(6)?,
        input_message_id: r.get(7)?,
        created_at: r.get(8)?,
        started_at: r.get(9)?,
        ended_at: r.get(10)?,
        stop_reason: r.get(11)?,
        error: r.get(12)?,
        result_text: r.get(13)?,
        usage_json: r.get(14)?,
        reply_to_json: r.get(15)?,
        request_hash: r.get(16)?,
        timeout_ms: r.get(17)?,
        deadline_at: r.get(18)?,
        traceparent: r.get(19)?,
    })
}

impl Read<'_> {
    /// A run by its id.
    pub fn get_run(&self, run_id: &str) -> Result<Option<RunRow>> {
        self.one(
            &format!("SELECT {COLUMNS} FROM runs WHERE run_id = ?1"),
            [run_id],
            map,
        )
    }

    /// Runs that an older epoch left queued or running, in the order of their acceptance (at most
    /// [`crate::limits::MAX_PAGE_ROWS`]; ask again after requeueing them).
    pub fn unfinished_runs(&self) -> Result<Vec<RunRow>> {
        self.all(
            &format!(
                "SELECT {COLUMNS} FROM runs WHERE state IN ('queued', 'running') AND owner_epoch < ?1 ORDER BY created_at, run_id LIMIT ?2"
            ),
            params![self.epoch(), crate::limits::MAX_PAGE_ROWS],
            map,
        )
    }

    /// The newest runs of a session.
    pub fn list_runs(&self, session_key: &str, limit: i64) -> Result<Vec<RunRow>> {
        self.all(
            &format!("SELECT {COLUMNS} FROM runs WHERE session_key = ?1 ORDER BY created_at DESC LIMIT ?2"),
            params![session_key, page_limit(limit)],
            map,
        )
    }
}

impl Write<'_> {
    /// Accepts a run (state `queued`, or `running` if it starts at once; attempt 1, held by this epoch). The same id with
    /// the same request hash answers the earlier run; with another hash it is a conflict.
    pub fn insert_run(&mut self, run: &NewRun, now_ms: i64) -> Result<RunInserted> {
        let state = if run.started {
            RunState::Running
        } else {
            RunState::Queued
        };
        let new = self.exec(
            "INSERT INTO runs (run_id, session_key, agent_id, origin, state, attempt, owner_epoch, input_message_id, created_at, started_at,
               reply_to_json, request_hash, timeout_ms, deadline_at, traceparent)
             VALUES (?1, ?2, ?3, ?4, ?10, 1, ?5, ?6, ?7, ?11, ?8, ?9, ?12, ?11 + ?12, ?13) ON CONFLICT (run_id) DO NOTHING",
            params![
                run.run_id,
                run.session_key,
                run.agent_id,
                run.origin,
                self.epoch(),
                run.input_message_id,
                now_ms,
                run.reply_to_json,
                run.request_hash,
                state.as_str(),
                run.started.then_some(now_ms),
                run.timeout_ms,
                run.traceparent
            ],
        )?;
        let found = self.get_run(&run.run_id)?.ok_or(StoreError::NotFound)?;
        if new > 0 {
            return Ok(RunInserted::New(found));
        }
        if found.request_hash != run.request_hash {
            return Err(StoreError::Conflict("run id used for another request"));
        }
        Ok(RunInserted::Existing(found))
    }

    /// `queued` → `running`, for a run that this epoch holds. Its first start sets its deadline.
    pub fn start_run(&mut self, run_id: &str, now_ms: i64) -> Result<RunRow> {
        let row = self.one(
            &format!(
                "UPDATE runs SET state = 'running', started_at = ?3, deadline_at = COALESCE(deadline_at, ?3 + timeout_ms) WHERE run_id = ?1 AND state = 'queued' AND owner_epoch = ?2 RETURNING {COLUMNS}"
            ),
            params![run_id, self.epoch(), now_ms],
            map,
        )?;
        self.run_or_why(run_id, row, "run is not queued by this epoch")
    }

    /// Ends a run that this epoch holds. A second end is a conflict, so that there is exactly one.
    pub fn finish_run(&mut self, run_id: &str, end: &RunEnd, now_ms: i64) -> Result<RunRow> {
        if !end.state.is_ended() {
            return Err(StoreError::Conflict("a run ends as ok, error or aborted"));
        }
        let ended = self.exec(
            "UPDATE runs SET state = ?3, stop_reason = ?4, error = ?5, result_text = ?6, usage_json = ?7, ended_at = ?8
             WHERE run_id = ?1 AND state IN ('queued', 'running') AND owner_epoch = ?2",
            params![
                run_id,
                self.epoch(),
                end.state.as_str(),
                end.stop_reason,
                end.error,
                end.result_text,
                end.usage_json,
                now_ms
            ],
        )?;
        match self.get_run(run_id)? {
            Some(row) if ended > 0 => Ok(row),
            Some(_) => Err(StoreError::Conflict(
                "run has ended, or another epoch holds it",
            )),
            None => Err(StoreError::NotFound),
        }
    }

    /// Takes over a run that an older epoch left: `queued`, held by this epoch; one attempt more if it had been started. Its
    /// deadline stays.
    pub fn requeue_run(&mut self, run_id: &str) -> Result<RunRow> {
        let row = self.one(
            &format!(
                "UPDATE runs SET state = 'queued', owner_epoch = ?2, attempt = attempt + (state = 'running'), started_at = NULL
                 WHERE run_id = ?1 AND state IN ('queued', 'running') AND owner_epoch < ?2 RETURNING {COLUMNS}"
            ),
            params![run_id, self.epoch()],
            map,
        )?;
        self.run_or_why(run_id, row, "run has ended, or this epoch holds it")
    }

    /// Names the message that started a run, where it is written after the run.
    pub fn set_run_input(&mut self, run_id: &str, message_id: &str) -> Result<()> {
        match self.exec(
            "UPDATE runs SET input_message_id = ?2 WHERE run_id = ?1",
            [run_id, message_id],
        )? {
            0 => Err(StoreError::NotFound),
            _ => Ok(()),
        }
    }

    fn run_or_why(&self, run_id: &str, row: Option<RunRow>, why: &'static str) -> Result<RunRow> {
        match row {
            Some(r) => Ok(r),
            None if self.get_run(run_id)?.is_none() => Err(StoreError::NotFound),
            None => Err(StoreError::Conflict(why)),
        }
    }
}
