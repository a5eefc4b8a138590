//! Requests that the host performs for a guest, whose answers come back as events.

use super::{Read, Write, page_limit};
use crate::limits::MAX_SUBMITS_PER_ACCOUNT;
use crate::{Result, StoreError, SubmitRow};
use rusqlite::{Row, params};

fn map(r: &Row<'_>) -> rusqlite::Result<SubmitRow> {
    Ok(SubmitRow {
        id: r.get(0)?,
        kind: r.get(1)?,
        account: r.get(2)?,
        guest_id: r.get::<_, i64>(3)?.cast_unsigned(),
        request_json: r.get(4)?,
        interrupted: r.get(5)?,
        attempts: r.get(6)?,
        created_at: r.get(7)?,
    })
}

impl Read<'_> {
    /// Requests of an account that wait or are under way.
    pub fn count_submits(&self, kind: &str, account: &str) -> Result<i64> {
        let n = self.one(
            "SELECT COUNT(*) FROM submits WHERE kind = ?1 AND account = ?2",
            [kind, account],
            |r| r.get(0),
        )?;
        Ok(n.unwrap_or(0))
    }
}

impl Write<'_> {
    /// Stores a request under the guest's number, which must not be in use. Answers the row id.
    pub fn insert_submit(
        &mut self,
        kind: &str,
        account: &str,
        guest_id: u64,
        request_json: &str,
        now_ms: i64,
    ) -> Result<i64> {
        if self.count_submits(kind, account)? >= MAX_SUBMITS_PER_ACCOUNT {
            return Err(StoreError::Limit("MAX_SUBMITS_PER_ACCOUNT"));
        }
        self.one(
            "INSERT INTO submits (kind, account, guest_id, request_json, owner_epoch, created_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT DO NOTHING RETURNING id",
            params![kind, account, guest_id.cast_signed(), request_json, self.epoch(), now_ms],
            |r| r.get(0),
        )?
        .ok_or(StoreError::Conflict("the guest has a request with this number"))
    }

    /// Claims requests for this epoch, oldest first: those not taken, and those that an older epoch took and did not
    /// finish (`interrupted`: the platform may have seen them).
    pub fn take_submits(
        &mut self,
        kind: &str,
        account: &str,
        limit: i64,
    ) -> Result<Vec<SubmitRow>> {
        // `RETURNING` shows the new values, so whether it was taken before is read first.
        let rows = self.all(
            "SELECT id, kind, account, guest_id, request_json, taken, attempts + 1, created_at FROM submits
             WHERE kind = ?1 AND account = ?2 AND (taken = 0 OR owner_epoch < ?3) ORDER BY id LIMIT ?4",
            params![kind, account, self.epoch(), page_limit(limit)],
            map,
        )?;
        for r in &rows {
            self.exec(
                "UPDATE submits SET taken = 1, attempts = attempts + 1, owner_epoch = ?2 WHERE id = ?1",
                params![r.id, self.epoch()],
            )?;
        }
        Ok(rows)
    }

    /// Removes a request, in the transaction that consumes its answer. `false`: it is not there (a repeated answer).
    pub fn finish_submit(&mut self, id: i64) -> Result<bool> {
        Ok(self.exec("DELETE FROM submits WHERE id = ?1", [id])? > 0)
    }

    /// Removes all requests of an account (it was stopped). Answers how many.
    pub fn drop_submits(&mut self, kind: &str, account: &str) -> Result<usize> {
        self.exec(
            "DELETE FROM submits WHERE kind = ?1 AND account = ?2",
            [kind, account],
        )
    }
}
