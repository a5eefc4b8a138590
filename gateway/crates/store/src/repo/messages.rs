//! Transcripts.

use super::{Read, Write, page, page_limit};
use crate::limits::MAX_CONTENT_BYTES;
use crate::{Appended, MessageRow, NewMessage, Page, Result, StoreError};
use rusqlite::{Row, params};

const COLUMNS: &str = "id, session_key, session_id, seq, role, content_json, run_id, idempotency_key, created_at, meta_json";

/// The newest first from below a sequence number; the index gives the order.
pub(super) const HISTORY: &str = "SELECT id, session_key, session_id, seq, role, content_json, run_id, idempotency_key, created_at, meta_json
     FROM messages WHERE session_key = ?1 AND session_id = ?2 AND seq < ?3 ORDER BY seq DESC LIMIT ?4 OFFSET ?5";

fn map(r: &Row<'_>) -> rusqlite::Result<MessageRow> {
    Ok(MessageRow {
        id: r.get(0)?,
        session_key: r.get(1)?,
        session_id: r.get(2)?,
        seq: r.get(3)?,
        role: r.get(4)?,
        content_json: r.get(5)?,
        run_id: r.get(6)?,
        idempotency_key: r.get(7)?,
        created_at: r.get(8)?,
        meta_json: r.get(9)?,
    })
}

impl Read<'_> {
    /// A page of the present transcript, oldest first within the page: the newest `limit` messages before `before_seq`
    /// (without it: the newest of all) after skipping `offset`. `total` is the length of the transcript. An unknown
    /// session has an empty page.
    pub fn history(
        &self,
        key: &str,
        limit: i64,
        before_seq: Option<i64>,
        offset: i64,
    ) -> Result<Page<MessageRow>> {
        let Some((session_id, total)) = self.one(
            "SELECT session_id, message_count FROM sessions WHERE key = ?1 AND deleted = 0",
            [key],
            |r| Ok((r.get::<_, String>(0)?, r.get::<_, i64>(1)?)),
        )?
        else {
            return Ok(Page {
                items: Vec::new(),
                has_more: false,
                total: Some(0),
            });
        };
        let limit = page_limit(limit);
        let before = before_seq.unwrap_or(i64::MAX);
        let items = self.all(
            HISTORY,
            params![key, session_id, before, limit + 1, offset.max(0)],
            map,
        )?;
        let mut page = page(items, limit, Some(total));
        page.items.reverse();
        Ok(page)
    }

    /// The newest messages of the present transcript for an agent, oldest first: without turns that were marked silent.
    pub fn conversation(&self, key: &str, limit: i64) -> Result<Vec<MessageRow>> {
        let mut items = self.all(
            &format!(
                "SELECT {COLUMNS} FROM messages WHERE session_key = ?1 AND silent = 0
                   AND session_id = (SELECT session_id FROM sessions WHERE key = ?1 AND deleted = 0)
                 ORDER BY seq DESC LIMIT ?2"
            ),
            params![key, page_limit(limit)],
            map,
        )?;
        items.reverse();
        Ok(items)
    }

    /// Length of the present transcript; 0 for an unknown session.
    pub fn count_messages(&self, key: &str) -> Result<i64> {
        let n = self.one(
            "SELECT message_count FROM sessions WHERE key = ?1 AND deleted = 0",
            [key],
            |r| r.get(0),
        )?;
        Ok(n.unwrap_or(0))
    }

    /// A message by its id.
    pub fn get_message(&self, id: &str) -> Result<Option<MessageRow>> {
        self.one(
            &format!("SELECT {COLUMNS} FROM messages WHERE id = ?1"),
            [id],
            map,
        )
    }

    /// A message by its idempotency key.
    pub fn find_message(
        &self,
        session_key: &str,
        idempotency_key: &str,
    ) -> Result<Option<MessageRow>> {
        self.one(
            &format!(
                "SELECT {COLUMNS} FROM messages WHERE session_key = ?1 AND idempotency_key = ?2"
            ),
            [session_key, idempotency_key],
            map,
        )
    }
}

impl Write<'_> {
    /// Keeps the messages of a run that just ended (its newest thousand at most) out of [`Read::conversation`]. They stay
    /// in the history.
    pub fn silence_run(&mut self, session_key: &str, run_id: &str) -> Result<usize> {
        self.session_edited();
        self.exec(
            "UPDATE messages SET silent = 1 WHERE session_key = ?1 AND run_id = ?2
               AND session_id = (SELECT session_id FROM sessions WHERE key = ?1)
               AND seq > (SELECT last_seq FROM sessions WHERE key = ?1) - 1000",
            [session_key, run_id],
        )
    }

    /// Appends to the present transcript and moves the session to the top of the list. With an idempotency key that
    /// the session has seen, nothing is written and the earlier message is answered.
    pub fn append_message(&mut self, m: &NewMessage, now_ms: i64) -> Result<Appended> {
        if m.content_json.len() > MAX_CONTENT_BYTES {
            return Err(StoreError::Limit("MAX_CONTENT_BYTES"));
        }
        if let Some(k) = &m.idempotency_key
            && let Some(row) = self.find_message(&m.session_key, k)?
        {
            return Ok(Appended {
                row,
                duplicate: true,
                session: None,
            });
        }
        let session = self
            .count_message(&m.session_key, now_ms)?
            .ok_or(StoreError::NotFound)?;
        let (session_id, seq) = (session.session_id.clone(), session.last_seq);
        self.exec(
            "INSERT INTO messages (id, session_key, session_id, seq, role, content_json, run_id, idempotency_key, created_at, meta_json)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            params![m.id, m.session_key, session_id, seq, m.role, m.content_json, m.run_id, m.idempotency_key, now_ms, m.meta_json],
        )?;
        let row = MessageRow {
            id: m.id.clone(),
            session_key: m.session_key.clone(),
            session_id,
            seq,
            role: m.role.clone(),
            content_json: m.content_json.clone(),
            run_id: m.run_id.clone(),
            idempotency_key: m.idempotency_key.clone(),
            created_at: now_ms,
            meta_json: m.meta_json.clone(),
        };
        Ok(Appended {
            row,
            duplicate: false,
            session: Some(session),
        })
    }
}
