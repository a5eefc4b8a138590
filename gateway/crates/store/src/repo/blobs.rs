//! Blobs: files named by their SHA-256, with a row that counts who refers to them.
//!
//! A blob is put first (a durable file that nobody refers to), then referred to in the transaction of the message.
//! A file without a reference is removed by [`TenantDb::sweep_blobs`].

use super::{Read, Write};
use crate::limits::{MAX_BLOB_BYTES, MAX_PRUNED_ROWS};
use crate::state_dir::{private_dir, write_private_file};
use crate::writer::Pending;
use crate::{Result, StoreError, StoreExec, TenantDb};
use rusqlite::params;
use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};

/// SHA-256 of a blob, 64 lower-case hex digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BlobId(String);

impl BlobId {
    /// Reads an id; `None` unless it is 64 lower-case hex digits (so it can't leave the directory).
    pub fn parse(s: &str) -> Option<Self> {
        (s.len() == 64 && s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
            .then(|| Self(s.to_owned()))
    }

    /// The id of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        use std::fmt::Write as _;
        let mut hex = String::with_capacity(64);
        for b in Sha256::digest(bytes) {
            // Writing to a String can't fail.
            let _ = write!(hex, "{b:02x}");
        }
        Self(hex)
    }

    /// The hex digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn path(&self, tenant_dir: &Path) -> PathBuf {
        tenant_dir
            .join("blobs")
            .join(&self.0[..2])
            .join(&self.0[2..])
    }
}

impl Read<'_> {
    /// How many references a blob has.
    pub fn blob_refs(&self, id: &BlobId) -> Result<i64> {
        Ok(self
            .one(
                "SELECT refs FROM blobs WHERE sha256 = ?1",
                [id.as_str()],
                |r| r.get(0),
            )?
            .unwrap_or(0))
    }
}

impl Write<'_> {
    /// Adds a reference. [`StoreError::NotFound`] if the file is not there: put it (again) first.
    pub fn ref_blob(&mut self, id: &BlobId, now_ms: i64) -> Result<()> {
        let size = self
            .dir
            .and_then(|d| std::fs::metadata(id.path(d)).ok())
            .ok_or(StoreError::NotFound)?
            .len();
        self.exec(
            "INSERT INTO blobs (sha256, size, refs, created_at) VALUES (?1, ?2, 1, ?3) ON CONFLICT DO UPDATE SET refs = refs + 1",
            params![id.as_str(), i64::try_from(size).unwrap_or(i64::MAX), now_ms],
        )?;
        Ok(())
    }

    /// Takes a reference away. [`StoreError::NotFound`] if there is none.
    pub fn unref_blob(&mut self, id: &BlobId) -> Result<()> {
        match self.exec(
            "UPDATE blobs SET refs = refs - 1 WHERE sha256 = ?1 AND refs > 0",
            [id.as_str()],
        )? {
            0 => Err(StoreError::NotFound),
            _ => Ok(()),
        }
    }
}

impl TenantDb {
    /// Writes a blob's file durably (0600), unless it is there. Runs on a reader thread.
    pub fn put_blob(&self, bytes: Vec<u8>) -> Pending<BlobId> {
        self.file_job(move |dir| {
            if bytes.len() > MAX_BLOB_BYTES {
                return Err(StoreError::Limit("MAX_BLOB_BYTES"));
            }
            let id = BlobId::of(&bytes);
            let path = id.path(dir);
            if std::fs::metadata(&path).is_ok_and(|m| m.len() == bytes.len() as u64) {
                return Ok(id);
            }
            private_dir(&dir.join("blobs"))?;
            if let Some(parent) = path.parent() {
                private_dir(parent)?;
            }
            write_private_file(&path, &bytes)?;
            Ok(id)
        })
    }

    /// Reads a blob and checks that it still has its hash. Runs on a reader thread.
    pub fn get_blob(&self, id: BlobId) -> Pending<Vec<u8>> {
        self.file_job(move |dir| {
            let path = id.path(dir);
            let bytes = match std::fs::read(&path) {
                Ok(b) => b,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                    return Err(StoreError::NotFound);
                }
                Err(e) => return Err(StoreError::io("read", &path, &e)),
            };
            if BlobId::of(&bytes) != id {
                return Err(StoreError::Io(format!(
                    "{} does not have its hash",
                    path.display()
                )));
            }
            Ok(bytes)
        })
    }

    /// Removes blobs without references that were first used before `before_ms`. Runs as a write, so that no reference
    /// can be added meanwhile. If its commit fails, rows without file and without reference stay, which nothing uses.
    pub fn sweep_blobs(&self, before_ms: i64) -> Pending<usize> {
        self.write(move |w| {
            let Some(dir) = w.dir else { return Ok(0) };
            let ids: Vec<String> = w.all(
                "SELECT sha256 FROM blobs WHERE refs = 0 AND created_at < ?1 ORDER BY created_at LIMIT ?2",
                params![before_ms, MAX_PRUNED_ROWS],
                |r| r.get(0),
            )?;
            for id in ids.iter().filter_map(|s| BlobId::parse(s)) {
                w.exec("DELETE FROM blobs WHERE sha256 = ?1", [id.as_str()])?;
                let path = id.path(dir);
                match std::fs::remove_file(&path) {
                    Ok(()) => {}
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                    Err(e) => return Err(StoreError::io("remove", &path, &e)),
                }
            }
            Ok(ids.len())
        })
    }

    fn file_job<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Path) -> Result<T> + Send + 'static,
    ) -> Pending<T> {
        let Some(dir) = self.dir().map(Path::to_owned) else {
            return Pending::ready(Err(StoreError::Conflict("a store in memory has no files")));
        };
        match self.exec() {
            StoreExec::Inline | StoreExec::Scripted(_) => Pending::ready(job(&dir)),
            StoreExec::Threads(pool) => {
                let (answer, pending) = Pending::channel();
                match pool.read(Box::new(move || {
                    let _ = answer.send(job(&dir));
                })) {
                    Ok(()) => pending,
                    Err(e) => Pending::ready(Err(e)),
                }
            }
        }
    }
}
