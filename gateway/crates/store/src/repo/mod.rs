//! Typed repositories: methods of [`Read`] (queries) and [`Write`] (changes), one file per family. No SQL elsewhere.

mod access;
mod accounts;
mod audit;
pub mod blobs;
mod boot;
mod cron;
mod devices;
mod events;
mod idempotency;
mod inbox;
mod kv;
mod messages;
mod meta;
mod nodes;
mod outbox;
mod responses;
mod runs;
mod sessions;
mod setup_codes;
mod submits;
mod system_events;

use crate::limits::MAX_PAGE_ROWS;
use crate::{Page, Result};
use rusqlite::{CachedStatement, Connection, OptionalExtension as _, Params, Row};
use std::ops::Deref;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// A snapshot of a tenant's store.
pub struct Read<'c> {
    conn: &'c Connection,
    epoch: i64,
    dir: Option<&'c Path>,
}

/// The next commit of a tenant's store. Each closure can be undone alone: an error or a panic undoes all of it.
pub struct Write<'c> {
    read: Read<'c>,
    session_edits: &'c AtomicU64,
}

impl std::fmt::Debug for Read<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Read")
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Write<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Write")
            .field("epoch", &self.read.epoch)
            .finish_non_exhaustive()
    }
}

impl<'c> Read<'c> {
    pub(crate) fn new(conn: &'c Connection, epoch: i64, dir: Option<&'c Path>) -> Self {
        Self { conn, epoch, dir }
    }

    /// Epoch of the process, written with every claim.
    pub fn epoch(&self) -> i64 {
        self.epoch
    }

    fn stmt(&self, sql: &str) -> Result<CachedStatement<'c>> {
        Ok(self.conn.prepare_cached(sql)?)
    }

    fn one<T>(
        &self,
        sql: &str,
        p: impl Params,
        map: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>> {
        Ok(self.stmt(sql)?.query_row(p, map).optional()?)
    }

    fn all<T>(
        &self,
        sql: &str,
        p: impl Params,
        map: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>> {
        Ok(self
            .stmt(sql)?
            .query_map(p, map)?
            .collect::<rusqlite::Result<Vec<T>>>()?)
    }
}

impl<'c> Write<'c> {
    pub(crate) fn new(
        conn: &'c Connection,
        epoch: i64,
        dir: Option<&'c Path>,
        session_edits: &'c AtomicU64,
    ) -> Self {
        Self {
            read: Read::new(conn, epoch, dir),
            session_edits,
        }
    }

    /// As [`crate::TenantDb::session_edits`], up to this commit.
    pub fn session_edits(&self) -> u64 {
        self.session_edits.load(Ordering::Acquire)
    }

    /// Something happens to a session that is more than a message or a run more.
    fn session_edited(&self) {
        self.session_edits.fetch_add(1, Ordering::AcqRel);
    }

    /// Answers how many rows changed. Where a row is wanted that was written, reading it by its key is cheaper than
    /// `RETURNING`, for which SQLite opens a table of its own in each statement.
    fn exec(&self, sql: &str, p: impl Params) -> Result<usize> {
        Ok(self.read.stmt(sql)?.execute(p)?)
    }
}

impl<'c> Deref for Write<'c> {
    type Target = Read<'c>;

    fn deref(&self) -> &Read<'c> {
        &self.read
    }
}

/// The number of rows to ask for: one more than the page, to see whether there are more.
fn page_limit(limit: i64) -> i64 {
    limit.clamp(1, MAX_PAGE_ROWS)
}

/// Cuts the row too many off.
fn page<T>(mut items: Vec<T>, limit: i64, total: Option<i64>) -> Page<T> {
    let limit = usize::try_from(limit).unwrap_or(0);
    let has_more = items.len() > limit;
    items.truncate(limit);
    Page {
        items,
        has_more,
        total,
    }
}

/// The error of a word in a state column that no version of this gateway writes.
fn bad_word(column: usize) -> rusqlite::Error {
    rusqlite::Error::InvalidColumnType(column, "state".into(), rusqlite::types::Type::Text)
}

#[cfg(test)]
mod tests;
