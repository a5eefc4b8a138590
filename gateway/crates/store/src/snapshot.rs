//! Copies of the databases as they are at one moment, made beside a running gateway or without one; and the checks of
//! a copy that came back.
//!
//! A copy is made by a read transaction of its own (`VACUUM INTO`): writers go on, and everything that was answered
//! before it began is in it. The host's database is copied first, so that every tenant that it names has its directory.

use crate::limits::{BUSY_TIMEOUT_MS, SNAPSHOT_MAX_ATTEMPTS};
use crate::migrate::{self, Schema};
use crate::repo::blobs::BlobId;
use crate::state_dir::{private_file, random_name, sync_dir};
use crate::tenant_db::DB_FILE;
use crate::{Result, StateDir, StoreError, TenantRow};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Directory of the state directory in which snapshots are made.
const SNAPSHOTS_DIR: &str = "snapshots";
/// File of the host's database.
pub(crate) const HOST_FILE: &str = "host.sqlite";

/// Name of a snapshot: 16 characters of `[a-z0-9]`, so that it cannot lead out of its directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotId(String);

impl SnapshotId {
    /// A new one.
    pub fn random() -> Result<Self> {
        Ok(Self(random_name()?))
    }

    /// Reads one.
    pub fn parse(text: &str) -> Option<Self> {
        let fits = text.len() == 16
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        fits.then(|| Self(text.to_owned()))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Where its files are.
    pub fn path(&self, state_dir: &Path) -> PathBuf {
        state_dir.join(SNAPSHOTS_DIR).join(&self.0)
    }

    /// The directory of all snapshots.
    pub fn parent(state_dir: &Path) -> PathBuf {
        state_dir.join(SNAPSHOTS_DIR)
    }
}

/// What is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotOf<'a> {
    /// The host's database and all tenants.
    Everything,
    /// One tenant, by its slug.
    Tenant(&'a str),
}

/// What a snapshot holds, below its directory: `host.sqlite`, `tenants/<dir>/tenant.sqlite`, `tenants/<dir>/blobs/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Schema of the host's database, if that was copied.
    pub host_schema: Option<i64>,
    /// The tenants that have a database.
    pub tenants: Vec<TenantSnapshot>,
}

/// A copied tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantSnapshot {
    /// Its name in the configuration.
    pub slug: String,
    /// Name of its directory below `tenants/`.
    pub dir: String,
    /// Schema of its database.
    pub schema: i64,
    /// Commits that it had made.
    pub commits: i64,
    /// Blobs that it refers to.
    pub blobs: u64,
}

/// Copies the databases of `state` into the directory of `id`, which is there. Blocks for as long as the disk takes.
///
/// # Errors
/// [`StoreError::NotFound`] without that directory, and for a tenant that the host does not know; [`StoreError::Unfit`]
/// names the file that cannot be copied.
pub fn snapshot(state: &StateDir, id: &SnapshotId, of: SnapshotOf<'_>) -> Result<Snapshot> {
    let into = &id.path(state.path());
    // A link could lead the copies elsewhere.
    if !std::fs::symlink_metadata(into).is_ok_and(|m| m.is_dir()) {
        return Err(StoreError::NotFound);
    }
    let host_from = state.path().join(HOST_FILE);
    let host_to = into.join(HOST_FILE);
    let host_schema = copy_database(&host_from, &host_to, Schema::Host)?;
    let rows = tenants_of(&host_to)?;
    let wanted: Vec<TenantRow> = match of {
        SnapshotOf::Everything => rows,
        SnapshotOf::Tenant(slug) => {
            std::fs::remove_file(&host_to).map_err(|e| StoreError::io("remove", &host_to, &e))?;
            let row = rows.into_iter().find(|row| row.slug == slug);
            vec![row.ok_or(StoreError::NotFound)?]
        }
    };
    own_dir(&into.join("tenants"))?;
    let mut tenants = Vec::with_capacity(wanted.len());
    for row in &wanted {
        let from = state.tenant_dir(row);
        // A tenant that nobody ever used has no file yet.
        if from.join(DB_FILE).exists() {
            tenants.push(copy_tenant(
                &from,
                &into.join("tenants").join(&row.dir),
                row,
            )?);
        }
    }
    sync_dir(&into.join("tenants"))?;
    sync_dir(into)?;
    Ok(Snapshot {
        host_schema: (of == SnapshotOf::Everything).then_some(host_schema),
        tenants,
    })
}

fn copy_tenant(from: &Path, to: &Path, row: &TenantRow) -> Result<TenantSnapshot> {
    let mut attempt = 1;
    loop {
        own_dir(to)?;
        let copy = to.join(DB_FILE);
        let schema = copy_database(&from.join(DB_FILE), &copy, Schema::Tenant)?;
        let conn = open_copy(&copy)?;
        let commits = seal(&conn)?.map_or(0, |(_, commits)| commits);
        match link_blobs(&conn, from, to) {
            Ok(blobs) => {
                sync_dir(to)?;
                return Ok(TenantSnapshot {
                    slug: row.slug.clone(),
                    dir: row.dir.clone(),
                    schema,
                    commits,
                    blobs,
                });
            }
            // It was let go between the copy and the link: the next copy does not refer to it any more.
            Err(StoreError::NotFound) if attempt < SNAPSHOT_MAX_ATTEMPTS => {
                drop(conn);
                std::fs::remove_dir_all(to).map_err(|e| StoreError::io("remove", to, &e))?;
                attempt += 1;
            }
            Err(StoreError::NotFound) => {
                return Err(StoreError::Unfit(format!(
                    "tenant {} refers to a blob below {} that is not there: its files are damaged",
                    row.slug,
                    from.join("blobs").display()
                )));
            }
            Err(e) => return Err(e),
        }
    }
}

/// Blobs never change, so a second name for the file is a copy.
fn link_blobs(conn: &Connection, from: &Path, to: &Path) -> Result<u64> {
    let mut stmt = conn.prepare("SELECT sha256 FROM blobs WHERE refs > 0")?;
    let mut rows = stmt.query([])?;
    let mut count = 0;
    while let Some(row) = rows.next()? {
        let text: String = row.get(0)?;
        let Some(id) = BlobId::parse(&text) else {
            return Err(StoreError::Corrupt {
                incident: "a blob without a hash".to_owned(),
            });
        };
        let (source, target) = (id.path(from), id.path(to));
        own_dir(&to.join("blobs"))?;
        if let Some(parent) = target.parent() {
            own_dir(parent)?;
        }
        match std::fs::hard_link(&source, &target) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::NotFound => return Err(StoreError::NotFound),
            Err(_) => {
                std::fs::copy(&source, &target).map_err(|e| StoreError::io("copy", &source, &e))?;
            }
        }
        count += 1;
    }
    Ok(count)
}

/// Makes a directory, but not the one above it: when who asked for the snapshot has gone and taken its place away, nothing is
/// made anew there.
fn own_dir(path: &Path) -> Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(StoreError::io("create", path, &e)),
        _ => Ok(()),
    }
}

/// Copies one database as its readers see it now. Gives its schema.
fn copy_database(from: &Path, to: &Path, schema: Schema) -> Result<i64> {
    // Made first: SQLite would give the file the mode that the umask says.
    drop(private_file(to)?);
    let copied = || -> Result<i64> {
        let conn = Connection::open_with_flags(
            from,
            OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )?;
        conn.busy_timeout(Duration::from_millis(BUSY_TIMEOUT_MS))?;
        // What is on the disk stays as it is, also where no gateway runs.
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        guard(&conn)?;
        migrate::inspect(&conn, schema)?;
        let Some(target) = to.to_str() else {
            return Err(StoreError::Unfit(format!(
                "the path {} is not UTF-8: choose a --state-dir whose name is",
                to.display()
            )));
        };
        conn.execute("VACUUM INTO ?1", [target])?;
        let version = conn.pragma_query_value(None, "user_version", |r| r.get(0))?;
        Ok(version)
    };
    let version = copied().map_err(|e| match e {
        StoreError::Corrupt { incident } | StoreError::Failed { incident } => {
            StoreError::Unfit(format!(
                "{} is damaged ({incident}) and was not copied",
                from.display()
            ))
        }
        e => e,
    })?;
    std::fs::File::open(to)
        .and_then(|f| f.sync_all())
        .map_err(|e| StoreError::io("sync", to, &e))?;
    Ok(version)
}

fn guard(conn: &Connection) -> Result<()> {
    conn.pragma_update(None, "temp_store", "MEMORY")?;
    conn.pragma_update(None, "trusted_schema", false)?;
    conn.pragma_update(None, "cell_size_check", true)?;
    Ok(())
}

fn open_copy(path: &Path) -> Result<Connection> {
    let conn = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    guard(&conn)?;
    Ok(conn)
}

fn tenants_of(host: &Path) -> Result<Vec<TenantRow>> {
    let conn = open_copy(host)?;
    let mut stmt = conn.prepare("SELECT id, slug, dir FROM tenants ORDER BY slug")?;
    let rows = stmt
        .query_map([], crate::host_db::tenant_row)?
        .collect::<Result<Vec<_>, _>>()?;
    // The name becomes part of a path.
    if rows.iter().any(|row| SnapshotId::parse(&row.dir).is_none()) {
        return Err(StoreError::Corrupt {
            incident: "a tenant's directory has a name that the gateway does not give".to_owned(),
        });
    }
    Ok(rows)
}

fn seal(conn: &Connection) -> Result<Option<(String, i64)>> {
    use rusqlite::OptionalExtension as _;
    Ok(conn
        .query_row("SELECT tenant, commits FROM seal WHERE id = 1", [], |r| {
            Ok((r.get(0)?, r.get(1)?))
        })
        .optional()?)
}

/// Which database a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatabaseKind {
    /// `host.sqlite`.
    Host,
    /// `tenant.sqlite`.
    Tenant,
}

/// What a copy says about itself after it was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedDatabase {
    /// Its schema.
    pub schema: i64,
    /// Id of the tenant that sealed it (tenant's database).
    pub sealed_by: Option<String>,
    /// Commits by its seal (tenant's database).
    pub commits: i64,
    /// Blobs that it refers to (tenant's database).
    pub blobs: u64,
    /// Slug, id and directory of the tenants (host's database).
    pub tenants: Vec<(String, String, String)>,
}

/// Opens a copy, without writing, and checks it: that it is this kind of database, of a schema that this gateway knows,
/// with exactly the tables of that schema and nothing planted beside them, and whole by `integrity_check`.
///
/// # Errors
/// [`StoreError::Unfit`] or [`StoreError::Newer`], with the file's name.
pub fn check_database(path: &Path, kind: DatabaseKind) -> Result<CheckedDatabase> {
    let schema = match kind {
        DatabaseKind::Host => Schema::Host,
        DatabaseKind::Tenant => Schema::Tenant,
    };
    let check = || -> Result<CheckedDatabase> {
        let conn = open_copy(path)?;
        migrate::inspect(&conn, schema)?;
        let version: i64 = conn.pragma_query_value(None, "user_version", |r| r.get(0))?;
        let verdict: String = conn.query_row("PRAGMA integrity_check(1)", [], |r| r.get(0))?;
        if verdict != "ok" {
            return Err(StoreError::Corrupt { incident: verdict });
        }
        if migrate::statements(schema, version)? != migrate::statements_of(&conn)? {
            return Err(StoreError::Corrupt {
                incident: format!("its tables are not those of schema {version}"),
            });
        }
        let sealed = match kind {
            DatabaseKind::Tenant => seal(&conn)?,
            DatabaseKind::Host => None,
        };
        let blobs: i64 = match kind {
            DatabaseKind::Tenant => {
                conn.query_row("SELECT count(*) FROM blobs WHERE refs > 0", [], |r| {
                    r.get(0)
                })?
            }
            DatabaseKind::Host => 0,
        };
        let tenants = match kind {
            DatabaseKind::Host => tenants_of(path)?,
            DatabaseKind::Tenant => Vec::new(),
        };
        Ok(CheckedDatabase {
            schema: version,
            commits: sealed.as_ref().map_or(0, |s| s.1),
            sealed_by: sealed.map(|s| s.0),
            blobs: u64::try_from(blobs).unwrap_or(0),
            tenants: tenants
                .into_iter()
                .map(|row| (row.slug, row.id.to_string(), row.dir))
                .collect(),
        })
    };
    check().map_err(|e| match e {
        StoreError::Newer(why) => StoreError::Newer(format!("{}: {why}", path.display())),
        e => StoreError::Unfit(format!("{}: {e}", path.display())),
    })
}

/// Makes a checked copy of some tenant's database that of `tenant`, as written by owner `epoch`.
///
/// # Errors
/// When it cannot be written.
pub fn reseal(path: &Path, tenant: &TenantRow, epoch: i64) -> Result<()> {
    let conn = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    guard(&conn)?;
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.execute(
        "UPDATE seal SET tenant = ?1, epoch = ?2 WHERE id = 1",
        rusqlite::params![tenant.id.as_str(), epoch],
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn a_snapshot_id_stays_in_its_directory() {
        let id = SnapshotId::random().unwrap();
        assert_eq!(SnapshotId::parse(id.as_str()), Some(id));
        for bad in [
            "",
            "..",
            "../../../etc/pas",
            "ABCDEFGHIJKLMNOP",
            "abcdefghijklmno/",
        ] {
            assert_eq!(SnapshotId::parse(bad), None, "{bad}");
        }
    }
}
