//! Setup codes: what pairs one device without an operator at hand.

use super::{Read, Write};
use crate::limits::{MAX_SETUP_CODES_PER_TENANT, SETUP_CODE_KEPT_MS};
use crate::{CredentialHash, Result, SetupCodeRow, StoreError};
use rusqlite::{Row, params};

const CODE: &str = "id, hash, access, created_at, expires_at, used_at, device_id, device_name";

fn code(r: &Row<'_>) -> rusqlite::Result<SetupCodeRow> {
    Ok(SetupCodeRow {
        id: r.get(0)?,
        hash: CredentialHash(r.get(1)?),
        access: r.get(2)?,
        created_at: r.get(3)?,
        expires_at: r.get(4)?,
        used_at: r.get(5)?,
        device_id: r.get(6)?,
        device_name: r.get(7)?,
    })
}

impl Read<'_> {
    /// The setup codes that are kept, used ones too; the cap bounds them.
    pub fn setup_codes(&self) -> Result<Vec<SetupCodeRow>> {
        self.all(
            &format!("SELECT {CODE} FROM setup_codes ORDER BY created_at, id"),
            [],
            code,
        )
    }
}

impl Write<'_> {
    /// Keeps a new code. Those that ended long ago make room; one too many is [`StoreError::Limit`].
    pub fn add_setup_code(&mut self, c: &SetupCodeRow, now_ms: i64) -> Result<()> {
        self.exec(
            "DELETE FROM setup_codes WHERE expires_at <= ?1",
            [now_ms.saturating_sub(SETUP_CODE_KEPT_MS)],
        )?;
        let n: i64 = self
            .one("SELECT COUNT(*) FROM setup_codes", [], |r| r.get(0))?
            .unwrap_or(0);
        if n >= MAX_SETUP_CODES_PER_TENANT {
            return Err(StoreError::Limit("MAX_SETUP_CODES_PER_TENANT"));
        }
        self.exec(
            &format!("INSERT INTO setup_codes ({CODE}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)"),
            params![
                c.id,
                &c.hash.0[..],
                c.access,
                c.created_at,
                c.expires_at,
                c.used_at,
                c.device_id,
                c.device_name
            ],
        )?;
        Ok(())
    }

    /// Notes that a code was used. One that was used before, or is not there, is a conflict.
    pub fn use_setup_code(&mut self, c: &SetupCodeRow) -> Result<()> {
        let n = self.exec(
            "UPDATE setup_codes SET used_at = ?2, device_id = ?3, device_name = ?4 WHERE id = ?1 AND used_at IS NULL",
            params![c.id, c.used_at, c.device_id, c.device_name],
        )?;
        if n == 1 {
            Ok(())
        } else {
            Err(StoreError::Conflict("the setup code was used"))
        }
    }
}
