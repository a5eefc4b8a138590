//! API keys: who may use the HTTP surfaces of which tenant, and how far.

use super::{CredentialHash, HostDb, TenantId};
use crate::limits::MAX_API_KEYS_PER_TENANT;
use crate::{Result, StoreError};
use rusqlite::{OptionalExtension as _, Row, TransactionBehavior, params};

/// An API key without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKeyRow {
    /// Its public id.
    pub id: String,
    /// Its tenant.
    pub tenant: TenantId,
    /// What its maker calls it; once per tenant.
    pub name: String,
    /// Keyed hash of the secret.
    pub hash: CredentialHash,
    /// Names of its scopes, in the words of `core`.
    pub scopes: Vec<String>,
    /// The only agent that it may use; `None`: all.
    pub agent: Option<String>,
    /// Unix epoch ms.
    pub created_at: i64,
    /// From when it is worth nothing, Unix epoch ms; `None`: never.
    pub expires_at: Option<i64>,
    /// About when it was used last, Unix epoch ms.
    pub last_used_at: Option<i64>,
}

const COLUMNS: &str = "id, tenant, name, hash, scopes, agent, created_at, expires_at, last_used_at";

fn map(r: &Row<'_>) -> rusqlite::Result<ApiKeyRow> {
    Ok(ApiKeyRow {
        id: r.get(0)?,
        tenant: TenantId(r.get(1)?),
        name: r.get(2)?,
        hash: CredentialHash(r.get(3)?),
        scopes: r
            .get_ref(4)?
            .as_str()?
            .split_whitespace()
            .map(str::to_owned)
            .collect(),
        agent: r.get(5)?,
        created_at: r.get(6)?,
        expires_at: r.get(7)?,
        last_used_at: r.get(8)?,
    })
}

impl HostDb {
    /// Keeps a new key; when this returns it is durable. A name that the tenant has already is a conflict.
    pub fn insert_api_key(&self, key: &ApiKeyRow) -> Result<()> {
        let mut conn = self.conn.lock();
        let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let (count, taken): (i64, bool) = tx.query_row(
            "SELECT COUNT(*), COALESCE(MAX(name = ?2), 0) FROM api_keys WHERE tenant = ?1",
            params![key.tenant.0, key.name],
            |r| Ok((r.get(0)?, r.get(1)?)),
        )?;
        if taken {
            return Err(StoreError::Conflict("there is an API key of this name"));
        }
        if count >= MAX_API_KEYS_PER_TENANT {
            return Err(StoreError::Limit("MAX_API_KEYS_PER_TENANT"));
        }
        tx.execute(
            &format!(
                "INSERT INTO api_keys ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)"
            ),
            params![
                key.id,
                key.tenant.0,
                key.name,
                &key.hash.0[..],
                key.scopes.join(" "),
                key.agent,
                key.created_at,
                key.expires_at,
                key.last_used_at
            ],
        )?;
        tx.commit()?;
        Ok(())
    }

    /// Takes a key of this tenant away, by its id or its name. `None`: it has none such.
    pub fn remove_api_key(&self, tenant: &TenantId, id_or_name: &str) -> Result<Option<ApiKeyRow>> {
        let mut conn = self.conn.lock();
        let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // An id wins over a name that looks like one.
        let found = tx
            .query_row(
                &format!(
                    "SELECT {COLUMNS} FROM api_keys WHERE tenant = ?1 AND (id = ?2 OR name = ?2) ORDER BY id = ?2 DESC LIMIT 1"
                ),
                params![tenant.0, id_or_name],
                map,
            )
            .optional()?;
        if let Some(row) = &found {
            tx.execute("DELETE FROM api_keys WHERE id = ?1", [&row.id])?;
        }
        tx.commit()?;
        Ok(found)
    }

    /// All keys of all tenants, so that `core` can hold them in memory.
    pub fn api_keys(&self) -> Result<Vec<ApiKeyRow>> {
        let conn = self.conn.lock();
        let mut stmt = conn.prepare_cached(&format!(
            "SELECT {COLUMNS} FROM api_keys ORDER BY created_at, id"
        ))?;
        let rows = stmt.query_map([], map)?.collect::<Result<_, _>>()?;
        Ok(rows)
    }

    /// Notes when keys (by id) were used last. Keys that are gone by now are left out.
    pub fn touch_api_keys(&self, used: &[(String, i64)]) -> Result<()> {
        let mut conn = self.conn.lock();
        let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for (id, at) in used {
            tx.execute(
                "UPDATE api_keys SET last_used_at = ?2 WHERE id = ?1 AND COALESCE(last_used_at, 0) < ?2",
                params![id, at],
            )?;
        }
        tx.commit()?;
        Ok(())
    }
}
