//! Answers kept for repeated requests.

use super::{Read, Write};
use crate::limits::{IDEMPOTENCY_TTL_MS, MAX_IDEMPOTENT_RESPONSE_BYTES, MAX_PRUNED_ROWS};
use crate::{Remembered, Result, StoreError};
use rusqlite::params;

const OTHER_REQUEST: &str = "idempotency key used for another request";

impl Read<'_> {
    /// The response remembered for this key. The same key with another request hash is a conflict.
    pub fn recall(
        &self,
        scope: &str,
        key: &str,
        request_hash: &str,
        now_ms: i64,
    ) -> Result<Option<String>> {
        let found = self.one(
            "SELECT request_hash, response FROM idempotency WHERE scope = ?1 AND key = ?2 AND expires_at > ?3",
            params![scope, key, now_ms],
            |r| Ok((r.get::<_, String>(0)?, r.get::<_, String>(1)?)),
        )?;
        match found {
            Some((hash, _)) if hash != request_hash => Err(StoreError::Conflict(OTHER_REQUEST)),
            Some((_, response)) => Ok(Some(response)),
            None => Ok(None),
        }
    }
}

impl Write<'_> {
    /// Remembers a response for [`IDEMPOTENCY_TTL_MS`], or answers the one that is remembered. The same key with another
    /// request hash is a conflict.
    pub fn remember(
        &mut self,
        scope: &str,
        key: &str,
        request_hash: &str,
        response: &str,
        now_ms: i64,
    ) -> Result<Remembered> {
        if response.len() > MAX_IDEMPOTENT_RESPONSE_BYTES {
            return Err(StoreError::Limit("MAX_IDEMPOTENT_RESPONSE_BYTES"));
        }
        if let Some(known) = self.recall(scope, key, request_hash, now_ms)? {
            return Ok(Remembered::Same(known));
        }
        // What is in the way has run out.
        self.exec(
            "INSERT OR REPLACE INTO idempotency (scope, key, request_hash, response, expires_at) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![scope, key, request_hash, response, now_ms.saturating_add(IDEMPOTENCY_TTL_MS)],
        )?;
        Ok(Remembered::New)
    }

    /// Replaces the response of a remembered key (the final answer after an accepted one).
    pub fn update_remembered(&mut self, scope: &str, key: &str, response: &str) -> Result<()> {
        if response.len() > MAX_IDEMPOTENT_RESPONSE_BYTES {
            return Err(StoreError::Limit("MAX_IDEMPOTENT_RESPONSE_BYTES"));
        }
        match self.exec(
            "UPDATE idempotency SET response = ?3 WHERE scope = ?1 AND key = ?2",
            [scope, key, response],
        )? {
            0 => Err(StoreError::NotFound),
            _ => Ok(()),
        }
    }

    /// Forgets what ran out, at most [`MAX_PRUNED_ROWS`] at once. Answers how many.
    pub fn prune_idempotency(&mut self, now_ms: i64) -> Result<usize> {
        self.exec(
            "DELETE FROM idempotency WHERE (scope, key) IN
               (SELECT scope, key FROM idempotency WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2)",
            params![now_ms, MAX_PRUNED_ROWS],
        )
    }
}
