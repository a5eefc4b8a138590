//! Runs of boot scripts.

use super::{Read, Write, page_limit};
use crate::{BootRow, Result, StoreError};
use rusqlite::{Row, params};

const COLUMNS: &str = "script_id, boot_id, state, started_at, ended_at, error, log, tries";

fn map(r: &Row<'_>) -> rusqlite::Result<BootRow> {
    Ok(BootRow {
        script_id: r.get(0)?,
        boot_id: r.get(1)?,
        state: r.get(2)?,
        started_at: r.get(3)?,
        ended_at: r.get(4)?,
        error: r.get(5)?,
        log: r.get(6)?,
        tries: r.get(7)?,
    })
}

impl Read<'_> {
    /// One run of a script.
    pub fn get_boot_run(&self, script_id: &str, boot_id: &str) -> Result<Option<BootRow>> {
        self.one(
            &format!("SELECT {COLUMNS} FROM boot_runs WHERE script_id = ?1 AND boot_id = ?2"),
            [script_id, boot_id],
            map,
        )
    }

    /// The newest runs.
    pub fn list_boot_runs(&self, limit: i64) -> Result<Vec<BootRow>> {
        self.all(
            &format!("SELECT {COLUMNS} FROM boot_runs ORDER BY started_at DESC LIMIT ?1"),
            [page_limit(limit)],
            map,
        )
    }
}

impl Write<'_> {
    /// Marks a script as running in this boot; a repeat after a crash while booting starts the same row again.
    pub fn begin_boot_run(&mut self, script_id: &str, boot_id: &str, now_ms: i64) -> Result<()> {
        self.exec(
            "INSERT INTO boot_runs (script_id, boot_id, state, started_at) VALUES (?1, ?2, 'running', ?3)
             ON CONFLICT DO UPDATE SET state = 'running', started_at = excluded.started_at, ended_at = NULL, error = NULL, log = NULL, tries = tries + 1",
            params![script_id, boot_id, now_ms],
        )?;
        Ok(())
    }

    /// Records how it ended.
    pub fn end_boot_run(
        &mut self,
        script_id: &str,
        boot_id: &str,
        state: &str,
        error: Option<&str>,
        log: Option<&str>,
        now_ms: i64,
    ) -> Result<()> {
        let n = self.exec(
            "UPDATE boot_runs SET state = ?3, error = ?4, log = ?5, ended_at = ?6 WHERE script_id = ?1 AND boot_id = ?2",
            params![script_id, boot_id, state, error, log, now_ms],
        )?;
        if n == 0 {
            Err(StoreError::NotFound)
        } else {
            Ok(())
        }
    }

    /// Keeps the newest `keep` runs. Answers how many went.
    pub fn prune_boot_runs(&mut self, keep: i64) -> Result<usize> {
        self.exec(
            "DELETE FROM boot_runs WHERE (script_id, boot_id) IN
               (SELECT script_id, boot_id FROM boot_runs ORDER BY started_at DESC LIMIT ?1 OFFSET ?2)",
            params![crate::limits::MAX_PRUNED_ROWS, keep.max(0)],
        )
    }
}
