//! The log of changes, written in the transaction of the change.

use super::{Read, Write, page_limit};
use crate::limits::MAX_PRUNED_ROWS;
use crate::{EventRow, Result};
use rusqlite::params;

impl Read<'_> {
    /// Changes after an id, oldest first.
    pub fn events_after(&self, id: i64, limit: i64) -> Result<Vec<EventRow>> {
        self.all(
            "SELECT id, epoch, ts, kind, session_key, payload_json FROM events WHERE id > ?1 ORDER BY id LIMIT ?2",
            params![id, page_limit(limit)],
            |r| {
                Ok(EventRow {
                    id: r.get(0)?,
                    epoch: r.get(1)?,
                    ts: r.get(2)?,
                    kind: r.get(3)?,
                    session_key: r.get(4)?,
                    payload_json: r.get(5)?,
                })
            },
        )
    }

    /// Ids of the oldest and the newest change that are kept. A reader whose position is older than the first has
    /// missed some and must start over.
    pub fn event_bounds(&self) -> Result<Option<(i64, i64)>> {
        let bounds = self.one(
            "SELECT (SELECT MIN(id) FROM events), (SELECT MAX(id) FROM events)",
            [],
            |r| Ok((r.get::<_, Option<i64>>(0)?, r.get::<_, Option<i64>>(1)?)),
        )?;
        Ok(bounds.and_then(|(a, b)| a.zip(b)))
    }
}

impl Write<'_> {
    /// Writes a change with this epoch. Answers its id.
    pub fn append_event(
        &mut self,
        kind: &str,
        session_key: Option<&str>,
        payload_json: &str,
        now_ms: i64,
    ) -> Result<i64> {
        self.exec(
            "INSERT INTO events (epoch, ts, kind, session_key, payload_json) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![self.epoch(), now_ms, kind, session_key, payload_json],
        )?;
        Ok(self.conn.last_insert_rowid())
    }

    /// Keeps about the newest `keep` changes; removes at most [`MAX_PRUNED_ROWS`] at once. Answers how many.
    pub fn prune_events(&mut self, keep: i64) -> Result<usize> {
        let Some((first, last)) = self.event_bounds()? else {
            return Ok(0);
        };
        // Ids have next to no gaps, so the ids say how many rows there are.
        let cut = last
            .saturating_sub(keep.max(0))
            .min(first.saturating_add(MAX_PRUNED_ROWS - 1));
        self.exec("DELETE FROM events WHERE id <= ?1", [cut])
    }
}
