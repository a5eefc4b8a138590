//! Paired devices, their tokens, and those who wait for an operator.

use super::{Read, Write};
use crate::limits::{
    MAX_DEVICE_REQUESTS_PER_ADDRESS, MAX_DEVICE_REQUESTS_PER_TENANT, MAX_DEVICES_PER_TENANT,
};
use crate::{CredentialHash, DeviceRequestRow, DeviceRow, DeviceTokenRow, Result, StoreError};
use rusqlite::{Row, params};

const DEVICE: &str = "id, public_key, display_name, label, platform, device_family, client_id, client_mode, approved_via, created_at, approved_at, last_seen_at";
const TOKEN: &str = "device_id, role, scopes, salt, hash, created_at, issued_at, rotated_at, revoked_at, last_used_at";
const REQUEST: &str = "id, device_id, public_key, display_name, platform, device_family, client_id, client_mode, role, scopes, reason, address, created_at, expires_at";

fn words(row: &Row<'_>, column: usize) -> rusqlite::Result<Vec<String>> {
    Ok(row
        .get_ref(column)?
        .as_str()?
        .split_whitespace()
        .map(str::to_owned)
        .collect())
}

fn device(r: &Row<'_>) -> rusqlite::Result<DeviceRow> {
    Ok(DeviceRow {
        id: r.get(0)?,
        public_key: r.get(1)?,
        display_name: r.get(2)?,
        label: r.get(3)?,
        platform: r.get(4)?,
        device_family: r.get(5)?,
        client_id: r.get(6)?,
        client_mode: r.get(7)?,
        approved_via: r.get(8)?,
        created_at: r.get(9)?,
        approved_at: r.get(10)?,
        last_seen_at: r.get(11)?,
    })
}

fn token(r: &Row<'_>) -> rusqlite::Result<DeviceTokenRow> {
    Ok(DeviceTokenRow {
        device_id: r.get(0)?,
        role: r.get(1)?,
        scopes: words(r, 2)?,
        salt: r.get(3)?,
        hash: CredentialHash(r.get(4)?),
        created_at: r.get(5)?,
        issued_at: r.get(6)?,
        rotated_at: r.get(7)?,
        revoked_at: r.get(8)?,
        last_used_at: r.get(9)?,
    })
}

fn request(r: &Row<'_>) -> rusqlite::Result<DeviceRequestRow> {
    Ok(DeviceRequestRow {
        id: r.get(0)?,
        device_id: r.get(1)?,
        public_key: r.get(2)?,
        display_name: r.get(3)?,
        platform: r.get(4)?,
        device_family: r.get(5)?,
        client_id: r.get(6)?,
        client_mode: r.get(7)?,
        role: r.get(8)?,
        scopes: words(r, 9)?,
        reason: r.get(10)?,
        address: r.get(11)?,
        created_at: r.get(12)?,
        expires_at: r.get(13)?,
    })
}

impl Read<'_> {
    /// All paired devices; the cap bounds them.
    pub fn devices(&self) -> Result<Vec<DeviceRow>> {
        self.all(
            &format!("SELECT {DEVICE} FROM devices ORDER BY created_at, id"),
            [],
            device,
        )
    }

    /// All tokens of devices, ended ones too.
    pub fn device_tokens(&self) -> Result<Vec<DeviceTokenRow>> {
        self.all(
            &format!("SELECT {TOKEN} FROM device_tokens ORDER BY device_id, role"),
            [],
            token,
        )
    }

    /// Requests that have not run out, the oldest first.
    pub fn device_requests(&self, now_ms: i64) -> Result<Vec<DeviceRequestRow>> {
        self.all(
            &format!(
                "SELECT {REQUEST} FROM device_requests WHERE expires_at > ?1 ORDER BY created_at, id"
            ),
            [now_ms],
            request,
        )
    }
}

impl Write<'_> {
    /// Keeps a device, new or changed. A new one beyond the tenant's cap is [`StoreError::Limit`].
    pub fn put_device(&mut self, d: &DeviceRow) -> Result<()> {
        let (count, known): (i64, bool) = self
            .one(
                "SELECT COUNT(*), COALESCE(MAX(id = ?1), 0) FROM devices",
                [&d.id],
                |r| Ok((r.get(0)?, r.get(1)?)),
            )?
            .unwrap_or((0, false));
        if !known && count >= MAX_DEVICES_PER_TENANT {
            return Err(StoreError::Limit("MAX_DEVICES_PER_TENANT"));
        }
        self.exec(
            &format!(
                "INSERT INTO devices ({DEVICE}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
                 ON CONFLICT (id) DO UPDATE SET public_key = ?2, display_name = ?3, label = ?4, platform = ?5, device_family = ?6,
                   client_id = ?7, client_mode = ?8, approved_via = ?9, approved_at = ?11, last_seen_at = ?12"
            ),
            params![
                d.id,
                d.public_key,
                d.display_name,
                d.label,
                d.platform,
                d.device_family,
                d.client_id,
                d.client_mode,
                d.approved_via,
                d.created_at,
                d.approved_at,
                d.last_seen_at
            ],
        )?;
        Ok(())
    }

    /// Keeps the token of a device in a role, new or changed.
    pub fn put_device_token(&mut self, t: &DeviceTokenRow) -> Result<()> {
        self.exec(
            &format!(
                "INSERT INTO device_tokens ({TOKEN}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
                 ON CONFLICT (device_id, role) DO UPDATE SET scopes = ?3, salt = ?4, hash = ?5, created_at = ?6, issued_at = ?7,
                   rotated_at = ?8, revoked_at = ?9, last_used_at = ?10"
            ),
            params![
                t.device_id,
                t.role,
                t.scopes.join(" "),
                &t.salt[..],
                &t.hash.0[..],
                t.created_at,
                t.issued_at,
                t.rotated_at,
                t.revoked_at,
                t.last_used_at
            ],
        )?;
        Ok(())
    }

    /// Forgets a device with its tokens, its request and what is kept of it as a node. `false`: there was none.
    pub fn remove_device(&mut self, id: &str) -> Result<bool> {
        self.remove_node_of_device(id)?;
        self.exec("DELETE FROM device_tokens WHERE device_id = ?1", [id])?;
        self.exec("DELETE FROM device_requests WHERE device_id = ?1", [id])?;
        Ok(self.exec("DELETE FROM devices WHERE id = ?1", [id])? > 0)
    }

    /// Keeps a request in the place of an older one of the same device. Requests that ran out make room; nobody else's does:
    /// one too many is [`StoreError::Limit`].
    pub fn put_device_request(&mut self, q: &DeviceRequestRow, now_ms: i64) -> Result<()> {
        self.exec(
            "DELETE FROM device_requests WHERE expires_at <= ?1 OR device_id = ?2",
            params![now_ms, q.device_id],
        )?;
        let (all, here): (i64, i64) = self
            .one(
                "SELECT COUNT(*), COALESCE(SUM(address = ?1), 0) FROM device_requests",
                [&q.address],
                |r| Ok((r.get(0)?, r.get(1)?)),
            )?
            .unwrap_or((0, 0));
        if all >= MAX_DEVICE_REQUESTS_PER_TENANT {
            return Err(StoreError::Limit("MAX_DEVICE_REQUESTS_PER_TENANT"));
        }
        if here >= MAX_DEVICE_REQUESTS_PER_ADDRESS {
            return Err(StoreError::Limit("MAX_DEVICE_REQUESTS_PER_ADDRESS"));
        }
        self.exec(
            &format!(
                "INSERT INTO device_requests ({REQUEST}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)"
            ),
            params![
                q.id,
                q.device_id,
                q.public_key,
                q.display_name,
                q.platform,
                q.device_family,
                q.client_id,
                q.client_mode,
                q.role,
                q.scopes.join(" "),
                q.reason,
                q.address,
                q.created_at,
                q.expires_at
            ],
        )?;
        Ok(())
    }

    /// Takes a request away. `false`: there was none.
    pub fn remove_device_request(&mut self, id: &str) -> Result<bool> {
        Ok(self.exec("DELETE FROM device_requests WHERE id = ?1", [id])? > 0)
    }

    /// Notes that a device connected with this token. One that was replaced or forgotten meanwhile is left alone.
    pub fn touch_device(&mut self, hash: &CredentialHash, now_ms: i64) -> Result<()> {
        self.exec(
            "UPDATE devices SET last_seen_at = ?2 WHERE id = (SELECT device_id FROM device_tokens WHERE hash = ?1)",
            params![&hash.0[..], now_ms],
        )?;
        self.exec(
            "UPDATE device_tokens SET last_used_at = ?2 WHERE hash = ?1",
            params![&hash.0[..], now_ms],
        )?;
        Ok(())
    }
}
