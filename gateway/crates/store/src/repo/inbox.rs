//! What platforms delivered: the dedupe table.

use super::Write;
use crate::limits::{MAX_PRUNED_ROWS, MIN_INBOX_KEEP_MS};
use crate::{InboxOutcome, Result};
use rusqlite::params;

impl Write<'_> {
    /// Remembers a platform's message id; in the same transaction as whatever the message causes.
    pub fn insert_inbox(
        &mut self,
        kind: &str,
        account: &str,
        conversation: &str,
        platform_id: &str,
        now_ms: i64,
    ) -> Result<InboxOutcome> {
        let n = self.exec(
            "INSERT INTO inbox (kind, account, conversation, platform_id, received_at) VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING",
            params![kind, account, conversation, platform_id, now_ms],
        )?;
        Ok(if n == 0 {
            InboxOutcome::Duplicate
        } else {
            InboxOutcome::Inserted
        })
    }

    /// Forgets ids older than `keep_ms` (never less than [`MIN_INBOX_KEEP_MS`]), at most [`MAX_PRUNED_ROWS`] at once.
    /// Answers how many.
    pub fn prune_inbox(&mut self, now_ms: i64, keep_ms: i64) -> Result<usize> {
        self.exec(
            "DELETE FROM inbox WHERE (kind, account, conversation, platform_id) IN
               (SELECT kind, account, conversation, platform_id FROM inbox WHERE received_at < ?1 ORDER BY received_at LIMIT ?2)",
            params![now_ms.saturating_sub(keep_ms.max(MIN_INBOX_KEEP_MS)), MAX_PRUNED_ROWS],
        )
    }
}
