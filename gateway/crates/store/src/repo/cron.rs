//! Jobs that come due by themselves, and the log of their runs.

use super::{Read, Write, page, page_limit};
use crate::limits::{
    CRON_RUNS_KEPT_PER_JOB_ROWS, CRON_RUNS_KEPT_PER_TENANT_ROWS, MAX_CRON_JOBS_PER_TENANT,
    MAX_CRON_LOG_TEXT_BYTES, MAX_CRON_SPEC_BYTES, MAX_PAGE_ROWS, MAX_PRUNED_CRON_RUNS,
};
use crate::{CronJobRow, CronRunEnd, CronRunQuery, CronRunRow, Page, Result, StoreError};
use rusqlite::types::Value;
use rusqlite::{Row, params, params_from_iter};

const JOB: &str = "id, agent_id, name, system, enabled, spec_json, created_at, updated_at, next_at, done_through, last_run_at, \
                   last_status, last_error, last_duration_ms, consecutive_errors, consecutive_skipped, auto_disabled_json, \
                   (SELECT claimed_at FROM cron_runs r WHERE r.job_id = cron_jobs.id AND r.state = 'running' LIMIT 1)";

fn job(r: &Row<'_>) -> rusqlite::Result<CronJobRow> {
    Ok(CronJobRow {
        id: r.get(0)?,
        agent_id: r.get(1)?,
        name: r.get(2)?,
        system: r.get(3)?,
        enabled: r.get(4)?,
        spec_json: r.get(5)?,
        created_at: r.get(6)?,
        updated_at: r.get(7)?,
        next_at: r.get(8)?,
        done_through: r.get(9)?,
        last_run_at: r.get(10)?,
        last_status: r.get(11)?,
        last_error: r.get(12)?,
        last_duration_ms: r.get(13)?,
        consecutive_errors: r.get(14)?,
        consecutive_skipped: r.get(15)?,
        auto_disabled_json: r.get(16)?,
        running_at: r.get(17)?,
    })
}

/// What became of a delivery; an announcement is told by its outbox row.
const DELIVERY: &str = "CASE delivery_state WHEN 'delivered' THEN 'delivered' WHEN 'failed' THEN 'not-delivered' WHEN 'pending' THEN 'unknown' \
                        WHEN 'outbox' THEN COALESCE((SELECT CASE o.state WHEN 'sent' THEN 'delivered' WHEN 'failed' THEN 'not-delivered' \
                        ELSE 'unknown' END FROM outbox o WHERE o.run_id = cron_runs.run_id AND o.part = 0), 'unknown') ELSE 'not-requested' END";

const RUN: &str = "seq, run_id, job_id, job_name, agent_id, kind, occurrence, manual, state = 'ended', owner_epoch, claimed_at, ended_at, \
                   status, error, summary, session_key, session_id, next_at, usage_json, delivery_json, delivery_state, \
                   delivery_attempts, delivery_next_at, delivery_error";

fn run(r: &Row<'_>) -> rusqlite::Result<CronRunRow> {
    Ok(CronRunRow {
        seq: r.get(0)?,
        run_id: r.get(1)?,
        job_id: r.get(2)?,
        job_name: r.get(3)?,
        agent_id: r.get(4)?,
        kind: r.get(5)?,
        occurrence: r.get(6)?,
        manual: r.get(7)?,
        ended: r.get(8)?,
        owner_epoch: r.get(9)?,
        claimed_at: r.get(10)?,
        ended_at: r.get(11)?,
        status: r.get(12)?,
        error: r.get(13)?,
        summary: r.get(14)?,
        session_key: r.get(15)?,
        session_id: r.get(16)?,
        next_at: r.get(17)?,
        usage_json: r.get(18)?,
        delivery_json: r.get(19)?,
        delivery_state: r.get(20)?,
        delivery_attempts: r.get(21)?,
        delivery_next_at: r.get(22)?,
        delivery_error: r.get(23)?,
        delivery_status: r.get(24)?,
    })
}

fn columns() -> String {
    format!("{RUN}, {DELIVERY}")
}

/// At most [`MAX_CRON_LOG_TEXT_BYTES`] of a text, cut between characters.
fn short(text: Option<&str>) -> Option<&str> {
    text.map(|text| &text[..text.floor_char_boundary(MAX_CRON_LOG_TEXT_BYTES)])
}

impl Read<'_> {
    /// A job by its id.
    pub fn cron_job(&self, id: &str) -> Result<Option<CronJobRow>> {
        self.one(
            &format!("SELECT {JOB} FROM cron_jobs WHERE id = ?1"),
            [id],
            job,
        )
    }

    /// All jobs, by name and id (there are at most [`MAX_CRON_JOBS_PER_TENANT`] and those of the gateway).
    pub fn cron_jobs(&self) -> Result<Vec<CronJobRow>> {
        self.all(
            &format!("SELECT {JOB} FROM cron_jobs ORDER BY name, id"),
            [],
            job,
        )
    }

    /// Jobs whose time has come, the longest due first.
    pub fn cron_due(&self, now_ms: i64, limit: i64) -> Result<Vec<CronJobRow>> {
        self.all(
            &format!(
                "SELECT {JOB} FROM cron_jobs WHERE enabled = 1 AND next_at IS NOT NULL AND next_at <= ?1 ORDER BY next_at, id LIMIT ?2"
            ),
            params![now_ms, page_limit(limit)],
            job,
        )
    }

    /// When the next job comes due, or a delivery is to be tried again.
    pub fn cron_next_wake(&self) -> Result<Option<i64>> {
        let job = self.one(
            "SELECT next_at FROM cron_jobs WHERE enabled = 1 AND next_at IS NOT NULL ORDER BY next_at LIMIT 1",
            [],
            |r| r.get::<_, i64>(0),
        )?;
        let delivery = self.one(
            "SELECT delivery_next_at FROM cron_runs WHERE delivery_state = 'pending' ORDER BY delivery_next_at LIMIT 1",
            [],
            |r| r.get::<_, i64>(0),
        )?;
        Ok(job.into_iter().chain(delivery).min())
    }

    /// Runs that go on.
    pub fn count_running_cron(&self) -> Result<i64> {
        let n = self.one(
            "SELECT COUNT(*) FROM cron_runs WHERE state = 'running'",
            [],
            |r| r.get(0),
        )?;
        Ok(n.unwrap_or(0))
    }

    /// One run.
    pub fn cron_run(&self, run_id: &str) -> Result<Option<CronRunRow>> {
        self.one(
            &format!("SELECT {} FROM cron_runs WHERE run_id = ?1", columns()),
            [run_id],
            run,
        )
    }

    /// The run of this occurrence, if it was claimed.
    pub fn cron_occurrence(&self, job_id: &str, occurrence: i64) -> Result<Option<CronRunRow>> {
        self.one(
            &format!(
                "SELECT {} FROM cron_runs WHERE job_id = ?1 AND occurrence = ?2 AND manual = 0",
                columns()
            ),
            params![job_id, occurrence],
            run,
        )
    }

    /// Runs that an older epoch left.
    pub fn unfinished_cron_runs(&self) -> Result<Vec<CronRunRow>> {
        self.all(
            &format!(
                "SELECT {} FROM cron_runs WHERE state = 'running' AND owner_epoch < ?1 ORDER BY seq LIMIT ?2",
                columns()
            ),
            params![self.epoch(), MAX_PAGE_ROWS],
            run,
        )
    }

    /// Runs whose outcome is to be posted now.
    pub fn pending_cron_deliveries(&self, now_ms: i64, limit: i64) -> Result<Vec<CronRunRow>> {
        self.all(
            &format!(
                "SELECT {} FROM cron_runs WHERE delivery_state = 'pending' AND delivery_next_at <= ?1 ORDER BY delivery_next_at, seq LIMIT ?2",
                columns()
            ),
            params![now_ms, page_limit(limit)],
            run,
        )
    }

    /// A page of the log; only runs that are over.
    pub fn cron_runs(&self, q: &CronRunQuery) -> Result<Page<CronRunRow>> {
        let mut clause = String::from("state = 'ended'");
        let mut values: Vec<Value> = Vec::new();
        let mut and = |text: &str, value: Value| {
            values.push(value);
            clause.push_str(" AND ");
            clause.push_str(&text.replace('?', &format!("?{}", values.len())));
        };
        for (column, value) in [
            ("job_id = ?", &q.job_id),
            ("agent_id = ?", &q.agent_id),
            ("run_id = ?", &q.run_id),
        ] {
            if let Some(value) = value {
                and(column, value.clone().into());
            }
        }
        let list = |words: &[String]| Value::from(serde_words(words));
        if !q.statuses.is_empty() {
            and(
                "status IN (SELECT value FROM json_each(?))",
                list(&q.statuses),
            );
        }
        if !q.delivery_statuses.is_empty() {
            and(
                &format!("{DELIVERY} IN (SELECT value FROM json_each(?))"),
                list(&q.delivery_statuses),
            );
        }
        if let Some(search) = &q.search {
            let pattern = format!(
                "%{}%",
                search
                    .replace('\\', "\\\\")
                    .replace('%', "\\%")
                    .replace('_', "\\_")
            );
            and(
                "(job_name LIKE ? ESCAPE '\\' OR summary LIKE ? ESCAPE '\\' OR error LIKE ? ESCAPE '\\')",
                pattern.into(),
            );
        }
        let total = self
            .one(
                &format!("SELECT COUNT(*) FROM cron_runs WHERE {clause}"),
                params_from_iter(values.iter()),
                |r| r.get(0),
            )?
            .unwrap_or(0);
        let limit = page_limit(q.limit);
        values.push((limit + 1).into());
        values.push(q.offset.max(0).into());
        let order = if q.ascending { "ASC" } else { "DESC" };
        let items = self.all(
            &format!(
                "SELECT {} FROM cron_runs WHERE {clause} ORDER BY seq {order} LIMIT ?{} OFFSET ?{}",
                columns(),
                values.len() - 1,
                values.len()
            ),
            params_from_iter(values),
            run,
        )?;
        Ok(page(items, limit, Some(total)))
    }
}

/// A list of plain words as JSON.
fn serde_words(words: &[String]) -> String {
    let quoted: Vec<String> = words
        .iter()
        .filter(|word| word.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'))
        .map(|word| format!("\"{word}\""))
        .collect();
    format!("[{}]", quoted.join(","))
}

impl Write<'_> {
    /// Adds a job. [`StoreError::Limit`] beyond [`MAX_CRON_JOBS_PER_TENANT`] jobs of the tenant, [`StoreError::Conflict`]
    /// if the id is taken.
    pub fn insert_cron_job(&mut self, job: &CronJobRow) -> Result<()> {
        if job.spec_json.len() > MAX_CRON_SPEC_BYTES {
            return Err(StoreError::Limit("MAX_CRON_SPEC_BYTES"));
        }
        if job.system.is_none() {
            let count: i64 = self
                .one(
                    "SELECT COUNT(*) FROM cron_jobs WHERE system IS NULL",
                    [],
                    |r| r.get(0),
                )?
                .unwrap_or(0);
            if count >= MAX_CRON_JOBS_PER_TENANT {
                return Err(StoreError::Limit("MAX_CRON_JOBS_PER_TENANT"));
            }
        }
        let added = self.exec(
            "INSERT INTO cron_jobs (id, agent_id, name, system, enabled, spec_json, created_at, updated_at, next_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT DO NOTHING",
            params![
                job.id, job.agent_id, job.name, job.system, job.enabled, job.spec_json, job.created_at, job.updated_at, job.next_at
            ],
        )?;
        if added == 0 {
            return Err(StoreError::Conflict("there is such a job already"));
        }
        Ok(())
    }

    /// Writes everything about a job that can change.
    pub fn update_cron_job(&mut self, job: &CronJobRow) -> Result<()> {
        if job.spec_json.len() > MAX_CRON_SPEC_BYTES {
            return Err(StoreError::Limit("MAX_CRON_SPEC_BYTES"));
        }
        let changed = self.exec(
            "UPDATE cron_jobs SET agent_id = ?2, name = ?3, enabled = ?4, spec_json = ?5, updated_at = ?6, next_at = ?7, done_through = ?8,
               last_run_at = ?9, last_status = ?10, last_error = ?11, last_duration_ms = ?12, consecutive_errors = ?13,
               consecutive_skipped = ?14, auto_disabled_json = ?15 WHERE id = ?1",
            params![
                job.id,
                job.agent_id,
                job.name,
                job.enabled,
                job.spec_json,
                job.updated_at,
                job.next_at,
                job.done_through,
                job.last_run_at,
                job.last_status,
                short(job.last_error.as_deref()),
                job.last_duration_ms,
                job.consecutive_errors,
                job.consecutive_skipped,
                job.auto_disabled_json
            ],
        )?;
        if changed == 0 {
            return Err(StoreError::NotFound);
        }
        Ok(())
    }

    /// Deletes a job; its log stays. `false`: there was none.
    pub fn delete_cron_job(&mut self, id: &str) -> Result<bool> {
        Ok(self.exec("DELETE FROM cron_jobs WHERE id = ?1", [id])? > 0)
    }

    /// Claims an occurrence: a run that goes on, held by this epoch. `false`: this occurrence was claimed before, and
    /// nothing was written.
    pub fn claim_cron_run(&mut self, run: &CronRunRow, now_ms: i64) -> Result<bool> {
        let added = self.exec(
            "INSERT INTO cron_runs (run_id, job_id, job_name, agent_id, kind, occurrence, manual, state, owner_epoch, claimed_at,
               session_key, session_id, delivery_json, delivery_error)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 'running', ?8, ?9, ?10, ?11, ?12, ?13) ON CONFLICT DO NOTHING",
            params![
                run.run_id,
                run.job_id,
                run.job_name,
                run.agent_id,
                run.kind,
                run.occurrence,
                run.manual,
                self.epoch(),
                now_ms,
                run.session_key,
                run.session_id,
                run.delivery_json,
                run.delivery_error
            ],
        )?;
        Ok(added > 0)
    }

    /// Takes over a run that an older epoch left, so that it is not found again.
    pub fn adopt_cron_run(&mut self, run_id: &str) -> Result<()> {
        self.exec(
            "UPDATE cron_runs SET owner_epoch = ?2 WHERE run_id = ?1 AND state = 'running'",
            params![run_id, self.epoch()],
        )?;
        Ok(())
    }

    /// Ends a run that goes on. A second end is a conflict.
    pub fn end_cron_run(
        &mut self,
        run_id: &str,
        end: &CronRunEnd,
        now_ms: i64,
    ) -> Result<CronRunRow> {
        let ended = self.exec(
            "UPDATE cron_runs SET state = 'ended', ended_at = ?2, status = ?3, error = ?4, summary = ?5, next_at = ?6, usage_json = ?7,
               delivery_state = ?8, delivery_next_at = ?2, delivery_error = COALESCE(?9, delivery_error)
             WHERE run_id = ?1 AND state = 'running'",
            params![
                run_id,
                now_ms,
                end.status,
                short(end.error.as_deref()),
                short(end.summary.as_deref()),
                end.next_at,
                end.usage_json,
                end.delivery_state,
                short(end.delivery_error.as_deref())
            ],
        )?;
        match self.cron_run(run_id)? {
            Some(row) if ended > 0 => Ok(row),
            Some(_) => Err(StoreError::Conflict("the run has ended")),
            None => Err(StoreError::NotFound),
        }
    }

    /// Records a try of a delivery: `delivered`, `failed`, or `pending` with the time of the next one.
    pub fn record_cron_delivery(
        &mut self,
        run_id: &str,
        state: &str,
        next_at: Option<i64>,
        error: Option<&str>,
    ) -> Result<()> {
        self.exec(
            "UPDATE cron_runs SET delivery_state = ?2, delivery_next_at = ?3, delivery_error = ?4, delivery_attempts = delivery_attempts + 1
             WHERE run_id = ?1 AND delivery_state = 'pending'",
            params![run_id, state, next_at, short(error)],
        )?;
        Ok(())
    }

    /// Removes old runs of a job and of the tenant with the sessions that were made for them alone (their keys hold
    /// `:cron:<job>:run:`), and remembers with the job up to where its occurrences are over. Answers the sessions
    /// (key, agent) that went.
    pub fn prune_cron_runs(&mut self, job_id: &str) -> Result<Vec<(String, String)>> {
        let old = |r: &Row<'_>| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?, r.get(4)?));
        type Old = (i64, String, i64, Option<String>, String);
        let mut rows: Vec<Old> = self.all(
            "SELECT seq, job_id, CASE manual WHEN 0 THEN occurrence ELSE 0 END, session_key, agent_id FROM cron_runs WHERE job_id = ?1 AND state = 'ended'
             AND delivery_state IS NOT 'pending' ORDER BY seq DESC LIMIT ?2 OFFSET ?3",
            params![job_id, MAX_PRUNED_CRON_RUNS, CRON_RUNS_KEPT_PER_JOB_ROWS],
            old,
        )?;
        if rows.is_empty() {
            rows = self.all(
                "SELECT seq, job_id, CASE manual WHEN 0 THEN occurrence ELSE 0 END, session_key, agent_id FROM cron_runs
                 WHERE seq <= (SELECT MAX(seq) FROM cron_runs) - ?2 AND state = 'ended' AND delivery_state IS NOT 'pending'
                 ORDER BY seq LIMIT ?1",
                params![MAX_PRUNED_CRON_RUNS, CRON_RUNS_KEPT_PER_TENANT_ROWS],
                old,
            )?;
        }
        let mut sessions = Vec::new();
        for (seq, job, occurrence, session, agent) in rows {
            self.exec("DELETE FROM cron_runs WHERE seq = ?1", [seq])?;
            self.exec(
                "UPDATE cron_jobs SET done_through = MAX(done_through, ?2) WHERE id = ?1",
                params![job, occurrence],
            )?;
            let own = format!(":cron:{job}:run:");
            if let Some(key) = session.filter(|key| key.contains(&own)) {
                self.exec("DELETE FROM messages WHERE session_key = ?1", [&key])?;
                self.exec(
                    "DELETE FROM runs WHERE session_key = ?1 AND state NOT IN ('queued', 'running')",
                    [&key],
                )?;
                if self.exec("DELETE FROM sessions WHERE key = ?1", [&key])? > 0 {
                    sessions.push((key, agent));
                }
            }
        }
        Ok(sessions)
    }
}
