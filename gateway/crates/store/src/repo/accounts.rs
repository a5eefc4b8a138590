//! What the host keeps about each channel account.

use super::{Read, Write};
use crate::limits::MAX_GUEST_STATE_BYTES;
use crate::{AccountRow, Result, StoreError};
use rusqlite::{Row, params};

const COLUMNS: &str = "kind, account, next_wake, guest_state, enabled, last_error, updated_at";

fn map(r: &Row<'_>) -> rusqlite::Result<AccountRow> {
    Ok(AccountRow {
        kind: r.get(0)?,
        account: r.get(1)?,
        next_wake: r.get(2)?,
        guest_state: r.get(3)?,
        enabled: r.get(4)?,
        last_error: r.get(5)?,
        updated_at: r.get(6)?,
    })
}

impl Read<'_> {
    /// One account's row; `None` if nothing was ever kept.
    pub fn account_state(&self, kind: &str, account: &str) -> Result<Option<AccountRow>> {
        self.one(
            &format!("SELECT {COLUMNS} FROM accounts WHERE kind = ?1 AND account = ?2"),
            [kind, account],
            map,
        )
    }

    /// All rows.
    pub fn account_states(&self) -> Result<Vec<AccountRow>> {
        self.all(
            &format!("SELECT {COLUMNS} FROM accounts ORDER BY kind, account LIMIT ?1"),
            [crate::limits::MAX_PAGE_ROWS],
            map,
        )
    }
}

impl Write<'_> {
    /// Sets or clears the time at which the guest wants to be woken.
    pub fn set_account_wake(
        &mut self,
        kind: &str,
        account: &str,
        next_wake: Option<i64>,
        now_ms: i64,
    ) -> Result<()> {
        self.exec(
            "INSERT INTO accounts (kind, account, next_wake, updated_at) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT DO UPDATE SET next_wake = excluded.next_wake, updated_at = excluded.updated_at",
            params![kind, account, next_wake, now_ms],
        )?;
        Ok(())
    }

    /// Sets or clears what the guest saved.
    pub fn set_account_guest_state(
        &mut self,
        kind: &str,
        account: &str,
        state: Option<&[u8]>,
        now_ms: i64,
    ) -> Result<()> {
        if state.is_some_and(|s| s.len() > MAX_GUEST_STATE_BYTES) {
            return Err(StoreError::Limit("MAX_GUEST_STATE_BYTES"));
        }
        self.exec(
            "INSERT INTO accounts (kind, account, guest_state, updated_at) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT DO UPDATE SET guest_state = excluded.guest_state, updated_at = excluded.updated_at",
            params![kind, account, state, now_ms],
        )?;
        Ok(())
    }

    /// Starts, stops, or follows the configuration (`None`).
    pub fn set_account_enabled(
        &mut self,
        kind: &str,
        account: &str,
        enabled: Option<bool>,
        now_ms: i64,
    ) -> Result<()> {
        self.exec(
            "INSERT INTO accounts (kind, account, enabled, updated_at) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT DO UPDATE SET enabled = excluded.enabled, updated_at = excluded.updated_at",
            params![kind, account, enabled, now_ms],
        )?;
        Ok(())
    }

    /// Sets or clears the last error.
    pub fn set_account_error(
        &mut self,
        kind: &str,
        account: &str,
        error: Option<&str>,
        now_ms: i64,
    ) -> Result<()> {
        self.exec(
            "INSERT INTO accounts (kind, account, last_error, updated_at) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT DO UPDATE SET last_error = excluded.last_error, updated_at = excluded.updated_at",
            params![kind, account, error, now_ms],
        )?;
        Ok(())
    }
}
