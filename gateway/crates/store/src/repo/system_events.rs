//! Texts that wait for the next message of a session.

use super::{Read, Write};
use crate::limits::{MAX_SYSTEM_EVENT_BYTES, MAX_SYSTEM_EVENTS_PER_SESSION};
use crate::{Result, StoreError, SystemEventRow};
use rusqlite::params;

impl Read<'_> {
    /// What waits in a session, oldest first.
    pub fn system_events(&self, session_key: &str) -> Result<Vec<SystemEventRow>> {
        self.all(
            "SELECT id, text, created_at FROM system_events WHERE session_key = ?1 ORDER BY id LIMIT ?2",
            params![session_key, MAX_SYSTEM_EVENTS_PER_SESSION],
            |r| {
                Ok(SystemEventRow {
                    id: r.get(0)?,
                    text: r.get(1)?,
                    created_at: r.get(2)?,
                })
            },
        )
    }
}

impl Write<'_> {
    /// Puts a text into a session. Beyond [`MAX_SYSTEM_EVENTS_PER_SESSION`] the oldest one goes.
    pub fn push_system_event(&mut self, session_key: &str, text: &str, now_ms: i64) -> Result<()> {
        if text.len() > MAX_SYSTEM_EVENT_BYTES {
            return Err(StoreError::Limit("MAX_SYSTEM_EVENT_BYTES"));
        }
        self.exec(
            "INSERT INTO system_events (session_key, text, created_at) VALUES (?1, ?2, ?3)",
            params![session_key, text, now_ms],
        )?;
        self.exec(
            "DELETE FROM system_events WHERE session_key = ?1 AND id IN
               (SELECT id FROM system_events WHERE session_key = ?1 ORDER BY id DESC LIMIT -1 OFFSET ?2)",
            params![session_key, MAX_SYSTEM_EVENTS_PER_SESSION],
        )?;
        Ok(())
    }

    /// Takes everything out that waits in a session, oldest first.
    pub fn take_system_events(&mut self, session_key: &str) -> Result<Vec<SystemEventRow>> {
        let events = self.system_events(session_key)?;
        if !events.is_empty() {
            self.exec(
                "DELETE FROM system_events WHERE session_key = ?1",
                [session_key],
            )?;
        }
        Ok(events)
    }
}
