//! Sessions.

use super::{Read, Write, page, page_limit};
use crate::{ListQuery, Page, Result, SessionPatch, SessionRow, StoreError};
use rusqlite::types::Value;
use rusqlite::{Row, params, params_from_iter};

const COLUMNS: &str = "key, session_id, agent_id, label, display_name, channel, account, peer, created_at, updated_at, last_seq, \
                       message_count, status, model, reset_count, deleted, meta_json";

fn map(r: &Row<'_>) -> rusqlite::Result<SessionRow> {
    Ok(SessionRow {
        key: r.get(0)?,
        session_id: r.get(1)?,
        agent_id: r.get(2)?,
        label: r.get(3)?,
        display_name: r.get(4)?,
        channel: r.get(5)?,
        account: r.get(6)?,
        peer: r.get(7)?,
        created_at: r.get(8)?,
        updated_at: r.get(9)?,
        last_seq: r.get(10)?,
        message_count: r.get(11)?,
        status: r.get(12)?,
        model: r.get(13)?,
        reset_count: r.get(14)?,
        deleted: r.get(15)?,
        meta_json: r.get(16)?,
    })
}

/// The text and the values of a list query. Kept apart so that a test can look at its plan.
pub(super) fn list_sql(q: &ListQuery, limit: i64) -> (String, Vec<Value>) {
    let mut sql = format!("SELECT {COLUMNS} FROM sessions WHERE deleted = 0");
    let mut values: Vec<Value> = Vec::new();
    let mut and = |clause: &str, value: Value, sql: &mut String| {
        values.push(value);
        sql.push_str(" AND ");
        sql.push_str(&clause.replace("?", &format!("?{}", values.len())));
    };
    if let Some(a) = &q.agent_id {
        and("agent_id = ?", a.clone().into(), &mut sql);
    }
    if let Some(l) = &q.label {
        and("label = ?", l.clone().into(), &mut sql);
    }
    if let Some(t) = q.active_since {
        and("updated_at >= ?", t.into(), &mut sql);
    }
    if let Some(s) = &q.search {
        let pattern = format!(
            "%{}%",
            s.replace('\\', "\\\\")
                .replace('%', "\\%")
                .replace('_', "\\_")
        );
        and(
            "(key LIKE ? ESCAPE '\\' OR label LIKE ? ESCAPE '\\' OR display_name LIKE ? ESCAPE '\\')",
            pattern.into(),
            &mut sql,
        );
    }
    values.push((limit + 1).into());
    values.push(q.offset.max(0).into());
    sql.push_str(&format!(
        " ORDER BY updated_at DESC, key LIMIT ?{} OFFSET ?{}",
        values.len() - 1,
        values.len()
    ));
    (sql, values)
}

impl Read<'_> {
    /// A session that is not deleted.
    pub fn get_session(&self, key: &str) -> Result<Option<SessionRow>> {
        self.one(
            &format!("SELECT {COLUMNS} FROM sessions WHERE key = ?1 AND deleted = 0"),
            [key],
            map,
        )
    }

    /// A page of sessions, the most recently changed first. `total` is there unless label, search or time narrow the
    /// list. The cost is that of the page (and of the rows skipped), except with `search`, which has to look at rows
    /// until the page is full.
    pub fn list_sessions(&self, q: &ListQuery) -> Result<Page<SessionRow>> {
        let limit = page_limit(q.limit);
        let (sql, values) = list_sql(q, limit);
        let items = self.all(&sql, params_from_iter(values), map)?;
        let total = if q.label.is_some() || q.search.is_some() || q.active_since.is_some() {
            None
        } else {
            Some(self.count_sessions(q.agent_id.as_deref())?)
        };
        Ok(page(items, limit, total))
    }

    /// How many sessions there are, of one agent or of all. Reads one row per agent.
    pub fn count_sessions(&self, agent_id: Option<&str>) -> Result<i64> {
        let sum = match agent_id {
            Some(a) => self.one(
                "SELECT n FROM session_counts WHERE agent_id = ?1",
                [a],
                |r| r.get(0),
            )?,
            None => self
                .one("SELECT SUM(n) FROM session_counts", [], |r| {
                    r.get::<_, Option<i64>>(0)
                })?
                .flatten(),
        };
        Ok(sum.unwrap_or(0))
    }
}

impl Write<'_> {
    /// Makes the session if it is not there (or was deleted: then it starts anew with the given transcript id);
    /// otherwise writes the fields that are `Some`. Answers the row.
    pub fn upsert_session(&mut self, p: &SessionPatch, now_ms: i64) -> Result<SessionRow> {
        if p.model.is_some() || p.meta_json.is_some() {
            self.session_edited();
        }
        self.exec(
            "INSERT INTO sessions (key, session_id, agent_id, label, display_name, channel, account, peer, created_at, updated_at, status, model, meta_json)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?9, COALESCE(?10, 'idle'), ?11, ?12)
                 ON CONFLICT (key) DO UPDATE SET
                   session_id = CASE WHEN deleted THEN excluded.session_id ELSE session_id END,
                   agent_id = excluded.agent_id,
                   label = CASE WHEN deleted THEN excluded.label ELSE COALESCE(excluded.label, label) END,
                   display_name = CASE WHEN deleted THEN excluded.display_name ELSE COALESCE(excluded.display_name, display_name) END,
                   channel = COALESCE(excluded.channel, channel),
                   account = COALESCE(excluded.account, account),
                   peer = COALESCE(excluded.peer, peer),
                   created_at = CASE WHEN deleted THEN excluded.created_at ELSE created_at END,
                   updated_at = MAX(updated_at, excluded.updated_at),
                   last_seq = CASE WHEN deleted THEN 0 ELSE last_seq END,
                   message_count = CASE WHEN deleted THEN 0 ELSE message_count END,
                   status = CASE WHEN deleted THEN excluded.status ELSE COALESCE(?10, status) END,
                   model = CASE WHEN deleted THEN excluded.model ELSE COALESCE(excluded.model, model) END,
                   meta_json = CASE WHEN deleted THEN excluded.meta_json ELSE COALESCE(excluded.meta_json, meta_json) END,
                   deleted = 0",
            params![
                p.key, p.session_id, p.agent_id, p.label, p.display_name, p.channel, p.account, p.peer, now_ms, p.status, p.model, p.meta_json
            ],
        )?;
        self.get_session(&p.key)?.ok_or(StoreError::NotFound)
    }

    /// One message more, at this time. `None`: no such session.
    pub(super) fn count_message(&self, key: &str, now_ms: i64) -> Result<Option<SessionRow>> {
        self.exec(
            "UPDATE sessions SET last_seq = last_seq + 1, message_count = message_count + 1, updated_at = MAX(updated_at, ?2)
             WHERE key = ?1 AND deleted = 0",
            params![key, now_ms],
        )?;
        self.get_session(key)
    }

    /// Sets what the session is doing. `None`: no such session.
    pub fn set_session_status(&mut self, key: &str, status: &str) -> Result<Option<SessionRow>> {
        self.exec(
            "UPDATE sessions SET status = ?2 WHERE key = ?1 AND deleted = 0",
            [key, status],
        )?;
        self.get_session(key)
    }

    /// Sets or clears label, model and other data of a session (what [`Self::upsert_session`] can't clear).
    pub fn set_session_fields(
        &mut self,
        key: &str,
        label: Option<&str>,
        model: Option<&str>,
        meta_json: Option<&str>,
        now_ms: i64,
    ) -> Result<SessionRow> {
        self.session_edited();
        self.one(
            &format!(
                "UPDATE sessions SET label = ?2, model = ?3, meta_json = ?4, updated_at = MAX(updated_at, ?5) WHERE key = ?1 AND deleted = 0 RETURNING {COLUMNS}"
            ),
            params![key, label, model, meta_json, now_ms],
            map,
        )?
        .ok_or(StoreError::NotFound)
    }

    /// Starts an empty transcript under a new id; the old one stays in the database. [`StoreError::NotFound`] if there
    /// is no such session.
    pub fn reset_session(
        &mut self,
        key: &str,
        new_session_id: &str,
        now_ms: i64,
    ) -> Result<SessionRow> {
        self.session_edited();
        self.one(
            &format!(
                "UPDATE sessions SET session_id = ?2, last_seq = 0, message_count = 0, reset_count = reset_count + 1, status = 'idle',
                   updated_at = MAX(updated_at, ?3) WHERE key = ?1 AND deleted = 0 RETURNING {COLUMNS}"
            ),
            params![key, new_session_id, now_ms],
            map,
        )?
        .ok_or(StoreError::NotFound)
    }

    /// Deletes a session; with `purge` its messages (of all its transcripts) too. `false`: there was none.
    pub fn delete_session(&mut self, key: &str, purge: bool, now_ms: i64) -> Result<bool> {
        self.session_edited();
        let found = self.exec(
            "UPDATE sessions SET deleted = 1, status = 'idle', updated_at = MAX(updated_at, ?2) WHERE key = ?1 AND deleted = 0",
            params![key, now_ms],
        )? > 0;
        if found && purge {
            self.exec("DELETE FROM messages WHERE session_key = ?1", [key])?;
        }
        Ok(found)
    }
}
