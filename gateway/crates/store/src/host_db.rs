//! `host.sqlite`: which tenants there are, which credential belongs to which, and who owns the state directory.

mod keys;

pub use keys::ApiKeyRow;

use crate::migrate::{self, Schema};
use crate::state_dir::{private_dir, private_file, random_name, sync_dir, write_private_file};
use crate::{Result, StateDir, StoreError, SyncMode};
use hmac::{Hmac, KeyInit as _, Mac as _};
use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, TransactionBehavior, params};
use sha2::Sha256;
use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

/// How the host database is opened.
#[derive(Debug, Clone, Copy, Default)]
pub struct StoreOptions {
    /// `Full` outside tests.
    pub sync: SyncMode,
}

/// Id of a tenant. Minted by [`HostDb::ensure_tenant`] only: 16 characters of `[a-z0-9]`. There is no way to make one
/// from a client's text, and none to read one from JSON.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantId(pub(crate) String);

impl TenantId {
    /// The id as text, for labels and logs.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for TenantId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantRow {
    /// Its id.
    pub id: TenantId,
    /// Its name in the configuration and in addresses. Never part of a path of the file system.
    pub slug: String,
    /// Name of its directory below `tenants/`, random.
    pub dir: String,
}

/// Keyed hash (HMAC-SHA-256 with the host key) of a credential.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CredentialHash(pub [u8; 32]);

impl std::fmt::Debug for CredentialHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CredentialHash(…)")
    }
}

/// What a credential opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// Its tenant.
    pub tenant: TenantId,
    /// `token`, `password`, …, in the words of `core`.
    pub kind: String,
}

/// The host database. Small and rarely written: one connection behind a lock, calls block for at most one commit.
pub struct HostDb {
    pub(crate) conn: Mutex<Connection>,
    tenants_dir: std::path::PathBuf,
    key: HostKey,
    epoch: i64,
}

impl std::fmt::Debug for HostDb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostDb")
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

impl HostDb {
    /// Opens `host.sqlite` and `host.key` in the state directory (0600, made if missing) and takes the next owner epoch.
    pub fn open(state: &StateDir, options: StoreOptions) -> Result<Self> {
        Self::open_file(state, options).map_err(|e| match e {
            StoreError::Corrupt { incident } | StoreError::Failed { incident } => StoreError::Unfit(format!(
                "{} can't be used ({incident}): restore it from a backup. Don't delete it, it names the tenants' directories",
                state.path().join("host.sqlite").display()
            )),
            e => e,
        })
    }

    fn open_file(state: &StateDir, options: StoreOptions) -> Result<Self> {
        migrate::assert_sqlite_version()?;
        let key = HostKey::open(state.path())?;
        let tenants_dir = state.path().join("tenants");
        private_dir(&tenants_dir)?;
        let path = state.path().join("host.sqlite");
        let is_new = !path.exists();
        drop(private_file(&path)?);
        if is_new {
            sync_dir(state.path())?;
        }
        let mut conn = Connection::open_with_flags(
            &path,
            OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )?;
        conn.busy_timeout(Duration::from_millis(crate::limits::BUSY_TIMEOUT_MS))?;
        crate::tenant_db::plan_once(&conn)?;
        conn.set_db_config(
            rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE,
            true,
        )?;
        migrate::inspect(&conn, Schema::Host)?;
        options.sync.apply(&conn)?;
        migrate::migrate(&mut conn, Schema::Host)?;
        conn.set_db_config(
            rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE,
            false,
        )?;
        let epoch = conn.query_row(
            "UPDATE owner SET epoch = epoch + 1 WHERE id = 1 RETURNING epoch",
            [],
            |r| r.get(0),
        )?;
        Ok(Self {
            conn: Mutex::new(conn),
            tenants_dir,
            key,
            epoch,
        })
    }

    /// Moves the log into the file, so that nothing of it is left when the process ends in order.
    pub fn checkpoint(&self) -> Result<()> {
        let conn = self.conn.lock();
        Ok(conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?)
    }

    /// Owner epoch of this process: one more than that of any earlier opener.
    pub fn epoch(&self) -> i64 {
        self.epoch
    }

    /// The tenant of this slug, made (row and 0700 directory) if it is new. The slug was checked by the configuration.
    pub fn ensure_tenant(&self, slug: &str, now_ms: i64) -> Result<TenantRow> {
        let mut conn = self.conn.lock();
        let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let found = tx
            .query_row(
                "SELECT id, slug, dir FROM tenants WHERE slug = ?1",
                [slug],
                tenant_row,
            )
            .optional()?;
        let row = match found {
            Some(row) => row,
            None => {
                let row = TenantRow {
                    id: TenantId(random_name()?),
                    slug: slug.to_owned(),
                    dir: random_name()?,
                };
                tx.execute(
                    "INSERT INTO tenants (id, slug, dir, created_at) VALUES (?1, ?2, ?3, ?4)",
                    params![row.id.0, row.slug, row.dir, now_ms],
                )?;
                row
            }
        };
        // The directory comes first: a row never points to nothing. One without a row is empty and harms nobody.
        private_dir(&self.tenants_dir.join(&row.dir))?;
        tx.commit()?;
        Ok(row)
    }

    /// Puts a directory with a tenant's files in place of the one that the tenant has: the files of `staged` are the
    /// tenant's from the moment of one commit, and before it nothing changed. The database in `staged` must be sealed for
    /// this tenant. Gives the directory that was the tenant's until then, which stays as it is.
    pub fn place_tenant(&self, tenant: &TenantRow, staged: &Path) -> Result<std::path::PathBuf> {
        let dir = random_name()?;
        let to = self.tenants_dir.join(&dir);
        std::fs::rename(staged, &to).map_err(|e| StoreError::io("rename", staged, &e))?;
        sync_dir(&self.tenants_dir)?;
        let placed = self.conn.lock().execute(
            "UPDATE tenants SET dir = ?1 WHERE id = ?2 AND dir = ?3",
            params![dir, tenant.id.0, tenant.dir],
        )?;
        if placed == 1 {
            Ok(self.tenants_dir.join(&tenant.dir))
        } else {
            Err(StoreError::NotFound)
        }
    }

    /// All tenants, by slug.
    pub fn tenants(&self) -> Result<Vec<TenantRow>> {
        let conn = self.conn.lock();
        let mut stmt = conn.prepare_cached("SELECT id, slug, dir FROM tenants ORDER BY slug")?;
        let rows = stmt.query_map([], tenant_row)?.collect::<Result<_, _>>()?;
        Ok(rows)
    }

    /// Replaces the whole table of credentials, at once or not at all. Two tenants with one credential are a conflict.
    pub fn replace_credentials(&self, rows: Vec<(CredentialHash, TenantId, String)>) -> Result<()> {
        let mut wanted: BTreeMap<[u8; 32], (String, String)> = BTreeMap::new();
        for (hash, tenant, kind) in rows {
            let entry = wanted
                .entry(hash.0)
                .or_insert_with(|| (tenant.0.clone(), kind));
            if entry.0 != tenant.0 {
                return Err(StoreError::Conflict("two tenants have the same credential"));
            }
        }
        let known = self.credentials()?;
        let same = |(h, c): &(CredentialHash, Credential)| {
            wanted
                .get(&h.0)
                .is_some_and(|(t, k)| *t == c.tenant.0 && *k == c.kind)
        };
        if known.len() == wanted.len() && known.iter().all(same) {
            // The usual start: nothing to write, no fsync.
            return Ok(());
        }
        let mut conn = self.conn.lock();
        let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        tx.execute("DELETE FROM credentials", [])?;
        for (hash, (tenant, kind)) in wanted {
            tx.execute(
                "INSERT INTO credentials (hash, tenant, kind) VALUES (?1, ?2, ?3)",
                params![&hash[..], tenant, kind],
            )?;
        }
        tx.commit()?;
        Ok(())
    }

    /// Whose credential this is.
    pub fn find_credential(&self, hash: &CredentialHash) -> Result<Option<Credential>> {
        let conn = self.conn.lock();
        let mut stmt =
            conn.prepare_cached("SELECT tenant, kind FROM credentials WHERE hash = ?1")?;
        let found = stmt
            .query_row([&hash.0[..]], |r| {
                Ok(Credential {
                    tenant: TenantId(r.get(0)?),
                    kind: r.get(1)?,
                })
            })
            .optional()?;
        Ok(found)
    }

    /// All credentials, so that `core` can hold them in memory.
    pub fn credentials(&self) -> Result<Vec<(CredentialHash, Credential)>> {
        let conn = self.conn.lock();
        let mut stmt = conn.prepare_cached("SELECT hash, tenant, kind FROM credentials")?;
        let rows = stmt
            .query_map([], |r| {
                Ok((
                    CredentialHash(r.get(0)?),
                    Credential {
                        tenant: TenantId(r.get(1)?),
                        kind: r.get(2)?,
                    },
                ))
            })?
            .collect::<Result<_, _>>()?;
        Ok(rows)
    }

    /// The host key: 32 random bytes of `host.key`.
    pub fn host_key(&self) -> &[u8; 32] {
        &self.key.0
    }

    /// Keyed hash of a credential of a kind (`token`, …): what [`Self::replace_credentials`] takes.
    pub fn credential_hash(&self, kind: &str, secret: &[u8]) -> CredentialHash {
        CredentialHash(self.key.keyed(&[b"credential", kind.as_bytes(), secret]))
    }

    /// A key for one purpose, derived from the host key.
    pub fn derive_key(&self, purpose: &str) -> [u8; 32] {
        self.key.derive(purpose)
    }
}

/// The key of a state directory, `host.key`: other keys are derived from it.
#[derive(Clone)]
pub struct HostKey([u8; 32]);

impl std::fmt::Debug for HostKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HostKey(…)")
    }
}

impl HostKey {
    /// Reads `host.key` of a state directory, or makes it. Needs no lock: once it is there it stays.
    ///
    /// # Errors
    /// A file that cannot be read or is none of ours.
    pub fn open(state_dir: &Path) -> Result<Self> {
        host_key(&state_dir.join("host.key")).map(Self)
    }

    /// A key for one purpose.
    pub fn derive(&self, purpose: &str) -> [u8; 32] {
        self.keyed(&[b"derive", purpose.as_bytes()])
    }

    fn keyed(&self, parts: &[&[u8]]) -> [u8; 32] {
        // HMAC pads a short key with zeros to its block; done here, so that no error has to be thought of.
        let mut block = [0u8; 64];
        block[..32].copy_from_slice(&self.0);
        let mut mac = Hmac::<Sha256>::new(&block.into());
        for part in parts {
            mac.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }
}

pub(crate) fn tenant_row(r: &rusqlite::Row<'_>) -> rusqlite::Result<TenantRow> {
    Ok(TenantRow {
        id: TenantId(r.get(0)?),
        slug: r.get(1)?,
        dir: r.get(2)?,
    })
}

fn host_key(path: &Path) -> Result<[u8; 32]> {
    if !path.exists() {
        let mut key = [0u8; 32];
        getrandom::fill(&mut key).map_err(|e| StoreError::Io(format!("random numbers: {e}")))?;
        write_private_file(path, &key)?;
    }
    let mut bytes = Vec::with_capacity(33);
    private_file(path)?
        .take(33)
        .read_to_end(&mut bytes)
        .map_err(|e| StoreError::io("read", path, &e))?;
    <[u8; 32]>::try_from(bytes).map_err(|b| {
        StoreError::Unfit(format!(
            "{} holds {} bytes instead of 32: restore it from a backup, or remove it (a new one is made, and caches are built again)",
            path.display(),
            b.len()
        ))
    })
}
