//! Who may talk: contacts and pairing requests.

use super::{Read, Write, page_limit};
use crate::limits::MAX_PAIRING_REQUESTS_PER_ACCOUNT;
use crate::{ContactRow, NewPairing, PairingRequested, PairingRow, Result, StoreError};
use rusqlite::{Row, params};

const PAIRING: &str =
    "code, kind, account, sender_id, display, conversation_json, created_at, expires_at";

fn pairing(r: &Row<'_>) -> rusqlite::Result<PairingRow> {
    Ok(PairingRow {
        code: r.get(0)?,
        kind: r.get(1)?,
        account: r.get(2)?,
        sender_id: r.get(3)?,
        display: r.get(4)?,
        conversation_json: r.get(5)?,
        created_at: r.get(6)?,
        expires_at: r.get(7)?,
    })
}

impl Read<'_> {
    /// Whether this sender was approved.
    pub fn has_contact(&self, kind: &str, account: &str, sender_id: &str) -> Result<bool> {
        let found = self.one(
            "SELECT 1 FROM contacts WHERE kind = ?1 AND account = ?2 AND sender_id = ?3",
            [kind, account, sender_id],
            |_| Ok(()),
        )?;
        Ok(found.is_some())
    }

    /// Approved senders, of one channel kind or of all.
    pub fn list_contacts(&self, kind: Option<&str>, limit: i64) -> Result<Vec<ContactRow>> {
        self.all(
            "SELECT kind, account, sender_id, display, created_at FROM contacts WHERE ?1 IS NULL OR kind = ?1
             ORDER BY kind, account, sender_id LIMIT ?2",
            params![kind, page_limit(limit)],
            |r| {
                Ok(ContactRow {
                    kind: r.get(0)?,
                    account: r.get(1)?,
                    sender_id: r.get(2)?,
                    display: r.get(3)?,
                    created_at: r.get(4)?,
                })
            },
        )
    }

    /// Open pairing requests, oldest first.
    pub fn list_pairing(&self, now_ms: i64) -> Result<Vec<PairingRow>> {
        self.all(
            &format!("SELECT {PAIRING} FROM pairing_requests WHERE expires_at > ?1 ORDER BY created_at, code LIMIT ?2"),
            params![now_ms, crate::limits::MAX_PAGE_ROWS],
            pairing,
        )
    }
}

impl Write<'_> {
    /// Approves a sender. `false`: was approved before.
    pub fn add_contact(
        &mut self,
        kind: &str,
        account: &str,
        sender_id: &str,
        display: Option<&str>,
        now_ms: i64,
    ) -> Result<bool> {
        let n = self.exec(
            "INSERT INTO contacts (kind, account, sender_id, display, created_at) VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING",
            params![kind, account, sender_id, display, now_ms],
        )?;
        Ok(n > 0)
    }

    /// Takes an approval back. `false`: there was none.
    pub fn remove_contact(&mut self, kind: &str, account: &str, sender_id: &str) -> Result<bool> {
        Ok(self.exec(
            "DELETE FROM contacts WHERE kind = ?1 AND account = ?2 AND sender_id = ?3",
            [kind, account, sender_id],
        )? > 0)
    }

    /// Opens a pairing request of a stranger. A sender has one at a time; an account has at most `cap` (and never more
    /// than [`MAX_PAIRING_REQUESTS_PER_ACCOUNT`]). Requests that ran out make room.
    pub fn request_pairing(
        &mut self,
        p: &NewPairing,
        cap: i64,
        now_ms: i64,
    ) -> Result<PairingRequested> {
        self.exec(
            "DELETE FROM pairing_requests WHERE kind = ?1 AND account = ?2 AND expires_at <= ?3",
            params![p.kind, p.account, now_ms],
        )?;
        let open = self.one(
            &format!("SELECT {PAIRING} FROM pairing_requests WHERE kind = ?1 AND account = ?2 AND sender_id = ?3"),
            [&p.kind, &p.account, &p.sender_id],
            pairing,
        )?;
        if let Some(row) = open {
            return Ok(PairingRequested::Existing(row));
        }
        let n: i64 = self
            .one(
                "SELECT COUNT(*) FROM pairing_requests WHERE kind = ?1 AND account = ?2",
                [&p.kind, &p.account],
                |r| r.get(0),
            )?
            .unwrap_or(0);
        if n >= cap.min(MAX_PAIRING_REQUESTS_PER_ACCOUNT) {
            return Ok(PairingRequested::CapReached);
        }
        let row = self.one(
            &format!(
                "INSERT INTO pairing_requests ({PAIRING}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) RETURNING {PAIRING}"
            ),
            params![p.code, p.kind, p.account, p.sender_id, p.display, p.conversation_json, now_ms, p.expires_at],
            pairing,
        )?;
        row.map(PairingRequested::Created)
            .ok_or(StoreError::NotFound)
    }

    /// Approves a request by its code: the sender becomes a contact, the code is used up. A code that ran out, was used
    /// or never was is [`StoreError::NotFound`].
    pub fn approve_pairing(&mut self, code: &str, now_ms: i64) -> Result<PairingRow> {
        let row = self
            .one(&format!("DELETE FROM pairing_requests WHERE code = ?1 AND expires_at > ?2 RETURNING {PAIRING}"), params![code, now_ms], pairing)?
            .ok_or(StoreError::NotFound)?;
        self.add_contact(
            &row.kind,
            &row.account,
            &row.sender_id,
            row.display.as_deref(),
            now_ms,
        )?;
        Ok(row)
    }

    /// Turns a request down. `false`: there was none.
    pub fn reject_pairing(&mut self, code: &str) -> Result<bool> {
        Ok(self.exec("DELETE FROM pairing_requests WHERE code = ?1", [code])? > 0)
    }
}
