//! Typed repositories: methods of [`Read`] (queries) and [`Write`] (changes), one file per family. No SQL elsewhere.

mod access;
mod accounts;
pub mod blobs;
mod boot;
mod cron;
mod events;
mod idempotency;
mod inbox;
mod kv;
mod messages;
mod meta;
mod outbox;
mod runs;
mod sessions;
mod submits;
mod system_events;

use crate::limits::MAX_PAGE_ROWS;
use crate::{Page, Result};
use rusqlite::{CachedStatement, Connection, OptionalExtension as _, Params, Row};
use std::ops::Deref;
use std::path::Path;

/// A snapshot of a tenant's store.
pub struct Read<'c> {
    conn: &'c Connection,
    epoch: i64,
    dir: Option<&'c Path>,
}

/// The next commit of a tenant's store. Each closure has a savepoint of its own: an error or a panic undoes all of it.
pub struct Write<'c>(Read<'c>);

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
            .field("epoch", &self.0.epoch)
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
    pub(crate) fn new(conn: &'c Connection, epoch: i64, dir: Option<&'c Path>) -> Self {
        Self(Read::new(conn, epoch, dir))
    }

    /// Answers how many rows changed.
    fn exec(&self, sql: &str, p: impl Params) -> Result<usize> {
        Ok(self.0.stmt(sql)?.execute(p)?)
    }
}

impl<'c> Deref for Write<'c> {
    type Target = Read<'c>;

    fn deref(&self) -> &Read<'c> {
        &self.0
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
