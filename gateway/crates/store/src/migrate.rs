//! Schema versions. Each migration runs in one transaction; a database of a newer schema is refused untouched.

use crate::{Result, StoreError};
use rusqlite::Connection;
use rusqlite_migration::{M, Migrations};
use std::collections::BTreeMap;

/// Set by the first migration: `application_id` of a tenant file ("gwtn") and of the host file ("gwho").
pub(crate) const TENANT_APPLICATION_ID: i64 = 0x6777_746e;
pub(crate) const HOST_APPLICATION_ID: i64 = 0x6777_686f;

/// SQLite before this version can lose committed data (WAL reset race).
const MIN_SQLITE: i32 = 3_051_003;

macro_rules! tenant {
    ($($more:expr)?) => {
        &[
            M::up(include_str!("../migrations/0001_tenant.sql")),
            M::up(include_str!("../migrations/0002_cron.sql")),
            M::up(include_str!("../migrations/0003_tenant.sql")),
            M::up(include_str!("../migrations/0004_tenant_audit.sql")),
            M::up(include_str!("../migrations/0005_responses.sql")),
            M::up(include_str!("../migrations/0014_devices.sql")),
            M::up(include_str!("../migrations/0015_setup_codes.sql")),
            M::up(include_str!("../migrations/0016_runs.sql")),
            M::up(include_str!("../migrations/0017_nodes.sql")),
            $($more)?
        ]
    };
}
macro_rules! host {
    ($($more:expr)?) => {
        &[
            M::up(include_str!("../migrations/0001_host.sql")),
            M::up(include_str!("../migrations/0003_host.sql")),
            M::up(include_str!("../migrations/0005_host_api_keys.sql")),
            $($more)?
        ]
    };
}
const TENANT: &[M<'static>] = tenant!();
const HOST: &[M<'static>] = host!();

/// The schemas of a version after this one, which only test builds know and only where their environment says so: what
/// an upgrade over a change of schema does can be shown with one program.
#[cfg(feature = "test-schema")]
mod next {
    use super::M;

    const MORE: &str = "CREATE TABLE of_the_next_version (id INTEGER PRIMARY KEY) STRICT;";
    pub(super) const TENANT: &[M<'static>] = tenant!(M::up(MORE));
    pub(super) const HOST: &[M<'static>] = host!(M::up(MORE));

    pub(super) fn is_this() -> bool {
        std::env::var_os("GATEWAY_TEST_SCHEMA").is_some_and(|which| which == "next")
    }
}

fn tenant_set() -> &'static [M<'static>] {
    #[cfg(feature = "test-schema")]
    if next::is_this() {
        return next::TENANT;
    }
    TENANT
}

fn host_set() -> &'static [M<'static>] {
    #[cfg(feature = "test-schema")]
    if next::is_this() {
        return next::HOST;
    }
    HOST
}

/// The schemas that this build writes. A file of a newer one is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchemaVersions {
    /// Of `host.sqlite`.
    pub host: usize,
    /// Of each tenant's file.
    pub tenant: usize,
}

impl SchemaVersions {
    /// Those of this build.
    #[must_use]
    pub fn ours() -> Self {
        Self {
            host: host_set().len(),
            tenant: tenant_set().len(),
        }
    }
}

/// Which set of migrations a file takes.
#[derive(Clone, Copy)]
pub(crate) enum Schema {
    Tenant,
    Host,
}

impl Schema {
    fn set(self) -> (&'static [M<'static>], i64, &'static str) {
        match self {
            Self::Tenant => (tenant_set(), TENANT_APPLICATION_ID, "tenant"),
            Self::Host => (host_set(), HOST_APPLICATION_ID, "host"),
        }
    }
}

/// Refuses a SQLite with the WAL reset race.
pub(crate) fn assert_sqlite_version() -> Result<()> {
    check_version(rusqlite::version_number(), rusqlite::version())
}

fn check_version(number: i32, text: &str) -> Result<()> {
    if number < MIN_SQLITE {
        return Err(StoreError::Unfit(format!(
            "SQLite {text} can lose committed data (WAL reset race); 3.51.3 or newer is needed: build with the bundled SQLite"
        )));
    }
    Ok(())
}

/// Looks at the file's schema without writing. `Ok(true)`: a new, empty file.
pub(crate) fn inspect(conn: &Connection, schema: Schema) -> Result<bool> {
    let (set, app_id, what) = schema.set();
    let version: i64 = conn.pragma_query_value(None, "user_version", |r| r.get(0))?;
    let found: i64 = conn.pragma_query_value(None, "application_id", |r| r.get(0))?;
    if found != app_id && !(found == 0 && version == 0) {
        return Err(StoreError::Corrupt {
            incident: format!("not a {what} database (application id {found:#x})"),
        });
    }
    let known = i64::try_from(set.len()).unwrap_or(i64::MAX);
    if version > known {
        return Err(StoreError::Newer(format!(
            "the {what} database has schema {version}, this gateway knows up to {known}: it was written by a newer gateway and was not touched. \
             Start that version again, or restore a backup made by this one"
        )));
    }
    Ok(version == 0)
}

/// Whether a database has the newest schema that this build knows; looks and changes nothing.
///
/// # Errors
/// When it is no such database, or of a newer gateway.
pub fn has_newest_schema(path: &std::path::Path, kind: crate::DatabaseKind) -> Result<bool> {
    let schema = match kind {
        crate::DatabaseKind::Host => Schema::Host,
        crate::DatabaseKind::Tenant => Schema::Tenant,
    };
    let conn = Connection::open_with_flags(
        path,
        rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE | rusqlite::OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    conn.set_db_config(
        rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE,
        true,
    )?;
    inspect(&conn, schema)?;
    let version: i64 = conn.pragma_query_value(None, "user_version", |r| r.get(0))?;
    Ok(usize::try_from(version) == Ok(schema.set().0.len()))
}

/// Brings the schema up to date, in one transaction.
pub(crate) fn migrate(conn: &mut Connection, schema: Schema) -> Result<()> {
    let (set, _, what) = schema.set();
    Migrations::from_slice(set)
        .to_latest(conn)
        .map_err(|e| match e {
            rusqlite_migration::Error::RusqliteError { err, .. } => StoreError::from(err),
            other => StoreError::Sql(format!("{what} migration: {other}")),
        })?;
    Ok(())
}

/// The statements of the tables, indexes and the rest of a new database of schema `version`, by kind and name. Empty for a
/// version that this build does not know.
pub(crate) fn statements(
    schema: Schema,
    version: i64,
) -> Result<BTreeMap<(String, String), String>> {
    let (set, _, what) = schema.set();
    let Ok(version) = usize::try_from(version) else {
        return Ok(BTreeMap::new());
    };
    if version == 0 || version > set.len() {
        return Ok(BTreeMap::new());
    }
    let mut conn = Connection::open_in_memory()?;
    Migrations::from_slice(set)
        .to_version(&mut conn, version)
        .map_err(|e| StoreError::Sql(format!("{what} migration: {e}")))?;
    statements_of(&conn)
}

/// The same of an open database.
pub(crate) fn statements_of(conn: &Connection) -> Result<BTreeMap<(String, String), String>> {
    let mut stmt = conn.prepare(
        "SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'",
    )?;
    let rows = stmt
        .query_map([], |r| Ok(((r.get(0)?, r.get(1)?), r.get(2)?)))?
        .collect::<Result<_, _>>()?;
    Ok(rows)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn the_linked_sqlite_is_new_enough_and_an_old_one_is_refused() {
        assert_sqlite_version().unwrap();
        assert!(
            matches!(check_version(3_050_002, "3.50.2"), Err(StoreError::Unfit(m)) if m.contains("3.51.3"))
        );
    }

    #[test]
    fn migrations_are_valid() {
        Migrations::from_slice(TENANT).validate().unwrap();
        Migrations::from_slice(HOST).validate().unwrap();
        for schema in [Schema::Tenant, Schema::Host] {
            let mut conn = Connection::open_in_memory().unwrap();
            assert!(inspect(&conn, schema).unwrap());
            migrate(&mut conn, schema).unwrap();
            assert!(!inspect(&conn, schema).unwrap());
        }
    }
}
