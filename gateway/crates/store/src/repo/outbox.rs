//! Outgoing messages: `queued → sending → sent | unknown | failed`.
//!
//! A streamed reply is one row. Its first delivery creates it on the platform and may happen once; later deliveries
//! edit it and may be repeated. So a creation whose outcome is lost is `unknown` and stays so, an edit whose outcome
//! is lost is queued again.

use super::{Read, Write, bad_word, page, page_limit};
use crate::limits::{MAX_OPEN_OUTBOX_ROWS_PER_ACCOUNT, MAX_OUTBOX_TEXT_BYTES};
use crate::{
    Enqueued, NewOutbox, OutboxFilter, OutboxRecovery, OutboxRow, OutboxState, Page, Result,
    StoreError,
};
use rusqlite::types::Value;
use rusqlite::{Row, params, params_from_iter};

const COLUMNS: &str = "id, kind, account, conversation_json, run_id, part, text, desired_rev, sent_rev, final_rev, state, attempts, next_at, \
                       expires_at, receipt_json, hold, last_error, owner_epoch, created_at, updated_at";

const NOT_CLAIMED: &str = "outbox row is not claimed by this epoch";

fn map(r: &Row<'_>) -> rusqlite::Result<OutboxRow> {
    Ok(OutboxRow {
        id: r.get(0)?,
        kind: r.get(1)?,
        account: r.get(2)?,
        conversation_json: r.get(3)?,
        run_id: r.get(4)?,
        part: r.get(5)?,
        text: r.get(6)?,
        desired_rev: r.get(7)?,
        sent_rev: r.get(8)?,
        final_rev: r.get(9)?,
        state: OutboxState::parse(r.get_ref(10)?.as_str()?).ok_or_else(|| bad_word(10))?,
        attempts: r.get(11)?,
        next_at: r.get(12)?,
        expires_at: r.get(13)?,
        receipt_json: r.get(14)?,
        hold: r.get(15)?,
        last_error: r.get(16)?,
        owner_epoch: r.get(17)?,
        created_at: r.get(18)?,
        updated_at: r.get(19)?,
    })
}

/// Rows that may go out now: due, and (for a creation) the oldest of its conversation that is not created yet, so that
/// the messages of one conversation keep their order.
pub(super) const DUE: &str = "SELECT id FROM outbox o WHERE kind = ?1 AND account = ?2 AND state = 'queued' AND sent_rev < desired_rev AND next_at <= ?3
     AND (receipt_json IS NOT NULL OR NOT EXISTS (
       SELECT 1 FROM outbox e WHERE e.kind = o.kind AND e.account = o.account AND e.conversation_json = o.conversation_json
         AND e.id < o.id AND e.state IN ('queued', 'sending') AND e.receipt_json IS NULL))
     ORDER BY next_at, id LIMIT ?4";

impl Read<'_> {
    /// A row by its id.
    pub fn get_outbox(&self, id: i64) -> Result<Option<OutboxRow>> {
        self.one(
            &format!("SELECT {COLUMNS} FROM outbox WHERE id = ?1"),
            [id],
            map,
        )
    }

    /// A row by run and part.
    pub fn find_outbox(&self, run_id: &str, part: i64) -> Result<Option<OutboxRow>> {
        self.one(
            &format!("SELECT {COLUMNS} FROM outbox WHERE run_id = ?1 AND part = ?2"),
            params![run_id, part],
            map,
        )
    }

    /// A page of rows, newest first.
    pub fn list_outbox(&self, f: &OutboxFilter) -> Result<Page<OutboxRow>> {
        let limit = page_limit(f.limit);
        let mut sql = format!("SELECT {COLUMNS} FROM outbox WHERE id < ?1");
        let mut values: Vec<Value> = vec![f.before_id.unwrap_or(i64::MAX).into()];
        let filters = [
            ("kind", f.kind.clone()),
            ("account", f.account.clone()),
            ("state", f.state.map(|s| s.as_str().to_owned())),
            ("run_id", f.run_id.clone()),
        ];
        for (column, value) in filters {
            if let Some(v) = value {
                values.push(v.into());
                sql.push_str(&format!(" AND {column} = ?{}", values.len()));
            }
        }
        values.push((limit + 1).into());
        sql.push_str(&format!(" ORDER BY id DESC LIMIT ?{}", values.len()));
        let items = self.all(&sql, params_from_iter(values), map)?;
        Ok(page(items, limit, None))
    }

    /// When the next row of an account is due (it may wait for an earlier one of its conversation); `None` if none is.
    pub fn next_outbox_due(&self, kind: &str, account: &str) -> Result<Option<i64>> {
        self.one(
            "SELECT MIN(next_at) FROM outbox WHERE kind = ?1 AND account = ?2 AND state = 'queued' AND sent_rev < desired_rev",
            [kind, account],
            |r| r.get::<_, Option<i64>>(0),
        )
        .map(Option::flatten)
    }

    /// How many messages are in each state, but those that were sent.
    pub fn count_open_outbox(&self) -> Result<Vec<(OutboxState, i64)>> {
        [
            OutboxState::Queued,
            OutboxState::Sending,
            OutboxState::Unknown,
            OutboxState::Failed,
        ]
        .into_iter()
        .map(|state| {
            let n = self.one(
                "SELECT COUNT(*) FROM outbox WHERE state = ?1",
                [state.as_str()],
                |r| r.get(0),
            )?;
            Ok((state, n.unwrap_or(0)))
        })
        .collect()
    }

    /// Accounts that have rows to send, for the start.
    pub fn outbox_accounts(&self) -> Result<Vec<(String, String)>> {
        self.all(
            "SELECT DISTINCT kind, account FROM outbox WHERE state = 'queued' AND sent_rev < desired_rev",
            [],
            |r| Ok((r.get(0)?, r.get(1)?)),
        )
    }
}

impl Write<'_> {
    /// Queues a message. (`run_id`, `part`) is the idempotency key: a second one writes nothing and answers the first.
    pub fn enqueue_outbox(&mut self, m: &NewOutbox, now_ms: i64) -> Result<Enqueued> {
        self.insert_outbox(m, OutboxState::Queued, now_ms)
    }

    /// Queues a message that the caller sends at once: the row is made in state `sending`, claimed by this epoch, which
    /// saves the commit of a claim. A duplicate is answered as it is and is not claimed.
    pub fn enqueue_outbox_claimed(&mut self, m: &NewOutbox, now_ms: i64) -> Result<Enqueued> {
        self.insert_outbox(m, OutboxState::Sending, now_ms)
    }

    fn insert_outbox(
        &mut self,
        m: &NewOutbox,
        state: OutboxState,
        now_ms: i64,
    ) -> Result<Enqueued> {
        if m.text.len() > MAX_OUTBOX_TEXT_BYTES {
            return Err(StoreError::Limit("MAX_OUTBOX_TEXT_BYTES"));
        }
        // A row that is there already counts as well: it may be the one.
        let full = self.one(
            "SELECT 1 FROM outbox WHERE kind = ?1 AND account = ?2 AND state = 'queued' LIMIT 1 OFFSET ?3",
            params![m.kind, m.account, MAX_OPEN_OUTBOX_ROWS_PER_ACCOUNT - 1],
            |_| Ok(()),
        )?;
        if full.is_some() {
            return match self.find_outbox(&m.run_id, m.part)? {
                Some(row) => Ok(Enqueued {
                    row,
                    duplicate: true,
                }),
                None => Err(StoreError::Limit("MAX_OPEN_OUTBOX_ROWS_PER_ACCOUNT")),
            };
        }
        let attempts = i64::from(state == OutboxState::Sending);
        let new = self.exec(
            "INSERT INTO outbox (kind, account, conversation_json, run_id, part, text, desired_rev, sent_rev, final_rev, state, attempts,
                   next_at, expires_at, hold, owner_epoch, created_at, updated_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, 1, 0, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?14)
                 ON CONFLICT (run_id, part) DO NOTHING",
            params![
                m.kind,
                m.account,
                m.conversation_json,
                m.run_id,
                m.part,
                m.text,
                m.final_rev,
                state.as_str(),
                attempts,
                m.next_at,
                m.expires_at,
                m.hold,
                self.epoch(),
                now_ms
            ],
        )?;
        let row = self
            .find_outbox(&m.run_id, m.part)?
            .ok_or(StoreError::NotFound)?;
        Ok(Enqueued {
            row,
            duplicate: new == 0,
        })
    }

    /// Writes a newer text. The revision rises if the text differs; a row that is `sent`, or whose final revision was
    /// set, is a conflict. On a row that is `unknown` or `failed` the text is kept for listings and nothing is sent.
    pub fn revise_outbox(
        &mut self,
        id: i64,
        text: &str,
        final_rev: bool,
        now_ms: i64,
    ) -> Result<OutboxRow> {
        if text.len() > MAX_OUTBOX_TEXT_BYTES {
            return Err(StoreError::Limit("MAX_OUTBOX_TEXT_BYTES"));
        }
        let row = self.get_outbox(id)?.ok_or(StoreError::NotFound)?;
        if row.final_rev {
            if row.text == text && final_rev {
                return Ok(row);
            }
            return Err(StoreError::Conflict("the final revision is set"));
        }
        let desired = row.desired_rev + i64::from(row.text != text);
        // The platform already shows the final text: nothing is left to send.
        let state = if final_rev && row.state == OutboxState::Queued && row.sent_rev == desired {
            OutboxState::Sent
        } else {
            row.state
        };
        let row = self.one(
            &format!(
                "UPDATE outbox SET text = ?2, desired_rev = ?3, final_rev = ?4, state = ?5, updated_at = ?6 WHERE id = ?1 RETURNING {COLUMNS}"
            ),
            params![id, text, desired, final_rev, state.as_str(), now_ms],
            map,
        )?;
        row.ok_or(StoreError::NotFound)
    }

    /// Claims what is due for this epoch: state `sending`, one attempt more. Rows that ran out become `failed` first.
    /// The messages of one conversation are created in order.
    pub fn claim_due(
        &mut self,
        kind: &str,
        account: &str,
        now_ms: i64,
        limit: i64,
    ) -> Result<Vec<OutboxRow>> {
        self.exec(
            "UPDATE outbox SET state = 'failed', last_error = COALESCE(last_error || '; ', '') || 'expired', updated_at = ?3
             WHERE kind = ?1 AND account = ?2 AND state = 'queued' AND expires_at <= ?3",
            params![kind, account, now_ms],
        )?;
        let ids: Vec<i64> = self.all(
            DUE,
            params![kind, account, now_ms, page_limit(limit)],
            |r| r.get(0),
        )?;
        let mut rows = Vec::with_capacity(ids.len());
        for id in ids {
            let row = self.one(
                &format!(
                    "UPDATE outbox SET state = 'sending', attempts = attempts + 1, owner_epoch = ?2, updated_at = ?3
                     WHERE id = ?1 AND state = 'queued' RETURNING {COLUMNS}"
                ),
                params![id, self.epoch(), now_ms],
                map,
            )?;
            rows.extend(row);
        }
        Ok(rows)
    }

    /// The platform has revision `rev`. With the newest revision there and final, the row is `sent`; otherwise it is
    /// queued again, for the edit to the next revision. A receipt of `None` keeps the one that is stored.
    pub fn record_sent(
        &mut self,
        id: i64,
        rev: i64,
        receipt_json: Option<&str>,
        now_ms: i64,
    ) -> Result<OutboxRow> {
        // A message is created once. Where the platform gives no receipt, an empty one says that it was.
        let sent = self.exec(
            "UPDATE outbox SET sent_rev = ?2, receipt_json = COALESCE(?3, receipt_json, 'null'),
               state = CASE WHEN ?2 = desired_rev AND final_rev THEN 'sent' ELSE 'queued' END,
               next_at = MAX(next_at, ?4), last_error = NULL, updated_at = ?4
             WHERE id = ?1 AND state = 'sending' AND owner_epoch = ?5 AND ?2 BETWEEN sent_rev AND desired_rev",
            params![id, rev, receipt_json, now_ms, self.epoch()],
        )?;
        if sent == 0 {
            self.claimed(id)?;
            return Err(StoreError::Conflict("no such revision"));
        }
        self.get_outbox(id)?.ok_or(StoreError::NotFound)
    }

    /// The platform certainly did not take it: queued again for `next_at`, or `failed` if it runs out before.
    pub fn record_retry(
        &mut self,
        id: i64,
        next_at: i64,
        error: &str,
        now_ms: i64,
    ) -> Result<OutboxRow> {
        let row = self.claimed(id)?;
        let state = if next_at >= row.expires_at {
            OutboxState::Failed
        } else {
            OutboxState::Queued
        };
        self.set_outbox(id, state, next_at, error, now_ms)
    }

    /// The outcome is lost. A creation becomes `unknown` and is never sent again by itself; an edit is queued again.
    pub fn record_unknown(&mut self, id: i64, error: &str, now_ms: i64) -> Result<OutboxRow> {
        let row = self.claimed(id)?;
        let state = if row.receipt_json.is_some() {
            OutboxState::Queued
        } else {
            OutboxState::Unknown
        };
        self.set_outbox(id, state, row.next_at, error, now_ms)
    }

    /// Given up.
    pub fn record_failed(&mut self, id: i64, error: &str, now_ms: i64) -> Result<OutboxRow> {
        self.claimed(id)?;
        self.set_outbox(id, OutboxState::Failed, now_ms, error, now_ms)
    }

    /// At the start: what older epochs were sending. Creations become `unknown`, edits are queued again.
    pub fn recover_outbox(&mut self, now_ms: i64) -> Result<OutboxRecovery> {
        let rows = self.all(
            "UPDATE outbox SET state = CASE WHEN receipt_json IS NULL THEN 'unknown' ELSE 'queued' END,
               last_error = 'the gateway stopped while it sent this', updated_at = ?2
             WHERE state = 'sending' AND owner_epoch < ?1 RETURNING id, state",
            params![self.epoch(), now_ms],
            |r| Ok((r.get::<_, i64>(0)?, r.get::<_, String>(1)?)),
        )?;
        let mut done = OutboxRecovery::default();
        for (id, state) in rows {
            if state == "unknown" {
                done.unknown.push(id)
            } else {
                done.requeued.push(id)
            }
        }
        Ok(done)
    }

    /// Queues an `unknown` or `failed` row again because an operator says so (it may arrive twice), or because the
    /// channel says that the message never arrived.
    pub fn requeue_outbox(&mut self, id: i64, expires_at: i64, now_ms: i64) -> Result<OutboxRow> {
        let row = self.one(
            &format!(
                "UPDATE outbox SET state = 'queued', next_at = ?2, expires_at = ?3, updated_at = ?2
                 WHERE id = ?1 AND state IN ('unknown', 'failed') AND sent_rev < desired_rev RETURNING {COLUMNS}"
            ),
            params![id, now_ms, expires_at],
            map,
        )?;
        match row {
            Some(r) => Ok(r),
            None if self.get_outbox(id)?.is_none() => Err(StoreError::NotFound),
            None => Err(StoreError::Conflict(
                "only unknown and failed rows can be queued again",
            )),
        }
    }

    /// Forgets sent, unknown and failed rows that did not change for `keep_ms`. Answers how many.
    pub fn prune_outbox(&mut self, now_ms: i64, keep_ms: i64) -> Result<usize> {
        let mut n = 0;
        for state in ["sent", "unknown", "failed"] {
            n += self.exec(
                "DELETE FROM outbox WHERE id IN (SELECT id FROM outbox WHERE state = ?1 ORDER BY id LIMIT ?2) AND updated_at < ?3",
                params![state, crate::limits::MAX_PRUNED_ROWS, now_ms.saturating_sub(keep_ms.max(0))],
            )?;
        }
        Ok(n)
    }

    fn claimed(&self, id: i64) -> Result<OutboxRow> {
        let row = self.get_outbox(id)?.ok_or(StoreError::NotFound)?;
        if row.state != OutboxState::Sending || row.owner_epoch != self.epoch() {
            return Err(StoreError::Conflict(NOT_CLAIMED));
        }
        Ok(row)
    }

    fn set_outbox(
        &self,
        id: i64,
        state: OutboxState,
        next_at: i64,
        error: &str,
        now_ms: i64,
    ) -> Result<OutboxRow> {
        self.one(
            &format!("UPDATE outbox SET state = ?2, next_at = ?3, last_error = ?4, updated_at = ?5 WHERE id = ?1 RETURNING {COLUMNS}"),
            params![id, state.as_str(), next_at, error, now_ms],
            map,
        )?
        .ok_or(StoreError::NotFound)
    }
}
