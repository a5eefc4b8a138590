//! Key-value store of guests, apart for each plugin and account.

use super::{Read, Write, page_limit};
use crate::limits::{MAX_KV_KEY_BYTES, MAX_KV_VALUE_BYTES};
use crate::{Result, StoreError};
use rusqlite::params;

impl Read<'_> {
    /// A value.
    pub fn kv_get(&self, plugin: &str, account: &str, key: &str) -> Result<Option<Vec<u8>>> {
        self.one(
            "SELECT value FROM kv WHERE plugin = ?1 AND account = ?2 AND key = ?3",
            [plugin, account, key],
            |r| r.get(0),
        )
    }

    /// Keys that start with `prefix`, in byte order.
    pub fn kv_list(
        &self,
        plugin: &str,
        account: &str,
        prefix: &str,
        limit: i64,
    ) -> Result<Vec<String>> {
        // The index gives the first key not below the prefix; the page ends at the first key without it.
        let mut keys: Vec<String> = self.all(
            "SELECT key FROM kv WHERE plugin = ?1 AND account = ?2 AND key >= ?3 ORDER BY key LIMIT ?4",
            params![plugin, account, prefix, page_limit(limit)],
            |r| r.get(0),
        )?;
        if let Some(n) = keys.iter().position(|k| !k.starts_with(prefix)) {
            keys.truncate(n);
        }
        Ok(keys)
    }

    /// Bytes of keys and values that an account keeps.
    pub fn kv_usage(&self, plugin: &str, account: &str) -> Result<i64> {
        let n = self.one(
            "SELECT bytes FROM kv_usage WHERE plugin = ?1 AND account = ?2",
            [plugin, account],
            |r| r.get(0),
        )?;
        Ok(n.unwrap_or(0))
    }
}

impl Write<'_> {
    /// Sets a value. `quota_bytes` bounds keys and values of this plugin account together; what does not fit is refused
    /// and changes nothing.
    pub fn kv_set(
        &mut self,
        plugin: &str,
        account: &str,
        key: &str,
        value: &[u8],
        quota_bytes: i64,
    ) -> Result<()> {
        if key.len() > MAX_KV_KEY_BYTES {
            return Err(StoreError::Limit("MAX_KV_KEY_BYTES"));
        }
        if value.len() > MAX_KV_VALUE_BYTES {
            return Err(StoreError::Limit("MAX_KV_VALUE_BYTES"));
        }
        let old = self.entry_bytes(plugin, account, key)?;
        let new = i64::try_from(key.len() + value.len()).unwrap_or(i64::MAX);
        if new > old && self.kv_usage(plugin, account)? + (new - old) > quota_bytes {
            return Err(StoreError::Limit("kv quota"));
        }
        self.exec(
            "INSERT INTO kv (plugin, account, key, value) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE SET value = excluded.value",
            params![plugin, account, key, value],
        )?;
        self.add_usage(plugin, account, new - old)
    }

    /// Removes a value. `false`: there was none.
    pub fn kv_delete(&mut self, plugin: &str, account: &str, key: &str) -> Result<bool> {
        let old = self.entry_bytes(plugin, account, key)?;
        let gone = self.exec(
            "DELETE FROM kv WHERE plugin = ?1 AND account = ?2 AND key = ?3",
            [plugin, account, key],
        )? > 0;
        if gone {
            self.add_usage(plugin, account, -old)?;
        }
        Ok(gone)
    }

    fn entry_bytes(&self, plugin: &str, account: &str, key: &str) -> Result<i64> {
        let n = self.one(
            "SELECT LENGTH(CAST(key AS BLOB)) + LENGTH(value) FROM kv WHERE plugin = ?1 AND account = ?2 AND key = ?3",
            [plugin, account, key],
            |r| r.get(0),
        )?;
        Ok(n.unwrap_or(0))
    }

    fn add_usage(&self, plugin: &str, account: &str, bytes: i64) -> Result<()> {
        if bytes != 0 {
            self.exec(
                "INSERT INTO kv_usage (plugin, account, bytes) VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET bytes = bytes + excluded.bytes",
                params![plugin, account, bytes],
            )?;
        }
        Ok(())
    }
}
