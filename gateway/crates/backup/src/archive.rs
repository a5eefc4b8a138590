//! Reading an archive that may have been made by anybody.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};

use flate2::bufread::GzDecoder;
use gateway_store::{CheckedDatabase, DatabaseKind, check_database};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::limits::{COPY_BYTES, MAX_MANIFEST_BYTES};
use crate::manifest::MANIFEST_NAME;
use crate::pack::{hex, looking_room};
use crate::place::{dirs_between, need_room, new_file};
use crate::{ArchiveKind, BackupError, EntryPath, Manifest, Result, TenantEntry};

/// Bytes of a tar header; entries are padded to a multiple of it.
const BLOCK: u64 = 512;

/// An archive whose manifest was read.
#[derive(Debug)]
pub struct Archive {
    path: PathBuf,
    manifest: Manifest,
}

/// What a whole look at an archive found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verified {
    /// SHA-256 of the archive, lower-case hex.
    pub sha256: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// Bytes of its files.
    pub unpacked_bytes: u64,
    /// Files whose digest fits.
    pub files: usize,
    /// Databases that were opened and found whole.
    pub databases: usize,
}

impl Archive {
    /// Opens an archive and reads its manifest.
    ///
    /// # Errors
    /// When it is not one.
    pub fn open(path: &Path) -> Result<Self> {
        let archive = Self {
            path: path.to_owned(),
            manifest: Manifest::parse(&read_manifest(path)?)?,
        };
        Ok(archive)
    }

    /// What it says that it holds.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Reads everything: every digest, and every database by opening it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn verify(&self) -> Result<Verified> {
        let room = looking_room(&self.path)?;
        let is_database = |path: &EntryPath| path.as_str().ends_with(".sqlite");
        let bytes = self
            .manifest
            .files
            .iter()
            .filter(|f| is_database(&f.path))
            .map(|f| f.bytes)
            .sum();
        need_room(room.path(), bytes)?;
        self.unpack(room.path(), is_database)?;
        let databases = self.check_databases(room.path(), |_| true)?;
        let mut hash = Sha256::new();
        let fail = |e: std::io::Error| BackupError::io("read", &self.path, &e);
        let mut file = File::open(&self.path).map_err(fail)?;
        let bytes = std::io::copy(&mut file, &mut HashWriter(&mut hash)).map_err(fail)?;
        Ok(Verified {
            sha256: hex(&hash.finalize()),
            bytes,
            unpacked_bytes: self.manifest.total_bytes()?,
            files: self.manifest.files.len(),
            databases,
        })
    }

    /// Reads the whole archive, checks every digest, and writes the files that are `wanted` below `dir`, each synced.
    /// `dir` must be a directory of ours that nobody else writes to.
    pub(crate) fn unpack(&self, dir: &Path, wanted: impl Fn(&EntryPath) -> bool) -> Result<()> {
        let mut tar = open(&self.path, self.unpacked_limit()?)?;
        let broken = |e: std::io::Error| broken(&self.path, &e);
        let mut entries = tar.entries().map_err(broken)?.raw(true);
        // The manifest was read and checked when the archive was opened.
        let first = entries.next().transpose().map_err(broken)?;
        check_head(first.as_ref(), MANIFEST_NAME, None)?;
        drop(first);
        let mut buffer = vec![0; COPY_BYTES];
        for file in &self.manifest.files {
            let entry = entries.next().transpose().map_err(broken)?;
            check_head(entry.as_ref(), file.path.as_str(), Some(file.bytes))?;
            let Some(mut entry) = entry else {
                return Err(cut_off(&self.path));
            };
            let target = file.path.below(dir);
            let mut out = if wanted(&file.path) {
                dirs_between(dir, &target)?;
                Some(new_file(&target)?)
            } else {
                None
            };
            let mut hash = Sha256::new();
            let mut bytes = 0;
            loop {
                let n = entry.read(&mut buffer).map_err(broken)?;
                if n == 0 {
                    break;
                }
                hash.update(&buffer[..n]);
                bytes += n as u64;
                if let Some(out) = &mut out {
                    out.write_all(&buffer[..n])
                        .map_err(|e| BackupError::io("write", &target, &e))?;
                }
            }
            if bytes != file.bytes {
                return Err(cut_off(&self.path));
            }
            if hex(&hash.finalize()) != file.sha256 {
                return Err(BackupError::archive(format!(
                    "{}: the digest of {} is another than its manifest says",
                    self.path.display(),
                    file.path
                )));
            }
            if let Some(out) = out {
                out.sync_all()
                    .map_err(|e| BackupError::io("sync", &target, &e))?;
            }
        }
        if let Some(more) = entries.next() {
            more.map_err(broken)?;
            return Err(BackupError::archive(format!(
                "{} holds more than its manifest says",
                self.path.display()
            )));
        }
        at_end(tar.into_inner(), &self.path)
    }

    /// Opens the databases below `dir` whose tenant is `wanted` (the host's always), and checks that manifest, host and
    /// tenants fit each other. Gives how many they are.
    pub(crate) fn check_databases(
        &self,
        dir: &Path,
        wanted: impl Fn(&TenantEntry) -> bool,
    ) -> Result<usize> {
        let differs = |what: &str| {
            BackupError::archive(format!(
                "{}: {what} is another than the manifest says",
                self.path.display()
            ))
        };
        let mut count = 0;
        let host = if self.manifest.kind == ArchiveKind::Gateway {
            let host = checked(&dir.join("host.sqlite"), DatabaseKind::Host)?;
            if Some(host.schema) != self.manifest.host_schema {
                return Err(differs("the schema of host.sqlite"));
            }
            count += 1;
            Some(host)
        } else {
            None
        };
        for tenant in self.manifest.tenants.iter().filter(|t| wanted(t)) {
            let file = dir.join("tenants").join(&tenant.dir).join("tenant.sqlite");
            let found = checked(&file, DatabaseKind::Tenant)?;
            let blobs = format!("tenants/{}/blobs/", tenant.dir);
            let packed = self
                .manifest
                .files
                .iter()
                .filter(|f| f.path.as_str().starts_with(&blobs))
                .count() as u64;
            if found.schema != tenant.schema
                || found.commits != tenant.commits
                || found.blobs != tenant.blobs
                || found.blobs != packed
            {
                return Err(differs(&format!("the database of tenant {}", tenant.slug)));
            }
            let known = host.as_ref().is_none_or(|host| {
                host.tenants.iter().any(|(slug, id, dir)| {
                    *slug == tenant.slug
                        && *dir == tenant.dir
                        && found.sealed_by.as_ref().is_none_or(|by| by == id)
                })
            });
            if !known {
                return Err(differs(&format!(
                    "the owner of the database of tenant {}",
                    tenant.slug
                )));
            }
            count += 1;
        }
        Ok(count)
    }

    /// Most bytes that the archive may unpack to: what its manifest says, padding and headers.
    fn unpacked_limit(&self) -> Result<u64> {
        let entries = self.manifest.files.len() as u64 + 4;
        Ok(self
            .manifest
            .total_bytes()?
            .saturating_add(entries * 2 * BLOCK)
            .saturating_add(MAX_MANIFEST_BYTES + BLOCK)
            // Builders fill the last record.
            .saturating_add(64 * BLOCK))
    }
}

fn checked(path: &Path, kind: DatabaseKind) -> Result<CheckedDatabase> {
    check_database(path, kind).map_err(|e| {
        let mut error = BackupError::from(e);
        "use another backup; nothing was changed".clone_into(&mut error.next);
        error
    })
}

type Tar = tar::Archive<std::io::Take<GzDecoder<BufReader<File>>>>;

fn open(path: &Path, limit: u64) -> Result<Tar> {
    let fail = |e: std::io::Error| BackupError::io("open", path, &e);
    let file = File::open(path).map_err(fail)?;
    if !file.metadata().map_err(fail)?.is_file() {
        return Err(BackupError::new(
            format!("{} is not a file", path.display()),
            "name an archive that `gateway backup create` made",
        ));
    }
    let gz = GzDecoder::new(BufReader::with_capacity(COPY_BYTES, file));
    Ok(tar::Archive::new(gz.take(limit)))
}

fn read_manifest(path: &Path) -> Result<Vec<u8>> {
    let mut tar = open(path, MAX_MANIFEST_BYTES + 2 * BLOCK)?;
    let broken = |e: std::io::Error| broken(path, &e);
    let mut entries = tar.entries().map_err(broken)?.raw(true);
    let first = entries.next().transpose().map_err(broken)?;
    check_head(first.as_ref(), MANIFEST_NAME, None)?;
    let Some(entry) = first else {
        return Err(cut_off(path));
    };
    let said = entry.size();
    if said > MAX_MANIFEST_BYTES {
        return Err(BackupError::archive("the manifest is too large"));
    }
    let mut text = Vec::new();
    entry
        .take(MAX_MANIFEST_BYTES)
        .read_to_end(&mut text)
        .map_err(broken)?;
    if text.len() as u64 != said {
        return Err(cut_off(path));
    }
    Ok(text)
}

/// The entry is a regular file of this name and size: no link, no device, no extension of the format.
fn check_head<R: Read>(
    entry: Option<&tar::Entry<'_, R>>,
    name: &str,
    bytes: Option<u64>,
) -> Result<()> {
    let Some(entry) = entry else {
        return Err(BackupError::archive(format!(
            "the archive ends where {name} should come"
        )));
    };
    let header = entry.header();
    let found = header.path_bytes();
    if *found != *name.as_bytes() {
        return Err(BackupError::archive(format!(
            "the archive holds {:?} where its manifest says {name}",
            String::from_utf8_lossy(&found)
        )));
    }
    if header.entry_type() != tar::EntryType::Regular {
        return Err(BackupError::archive(format!(
            "the archive holds {name} as something else than a plain file ({:?})",
            header.entry_type()
        )));
    }
    if bytes.is_some_and(|bytes| bytes != entry.size()) {
        return Err(BackupError::archive(format!(
            "the archive holds {name} with {} bytes, its manifest says otherwise",
            entry.size()
        )));
    }
    Ok(())
}

/// Nothing comes after the end of the tar: neither in the stream (its checksum is read with that) nor behind it.
fn at_end(mut rest: std::io::Take<GzDecoder<BufReader<File>>>, path: &Path) -> Result<()> {
    let mut buffer = [0; 4096];
    loop {
        match rest.read(&mut buffer).map_err(|e| broken(path, &e))? {
            0 => break,
            n if buffer[..n].iter().all(|b| *b == 0) => {}
            _ => {
                return Err(BackupError::archive(format!(
                    "{} goes on after its end",
                    path.display()
                )));
            }
        }
    }
    if rest.limit() == 0 {
        return Err(BackupError::archive(format!(
            "{} unpacks to more than its manifest says",
            path.display()
        )));
    }
    let mut file = rest.into_inner().into_inner();
    match file.read(&mut buffer) {
        Ok(0) => Ok(()),
        Ok(_) => Err(BackupError::archive(format!(
            "{} goes on after its end",
            path.display()
        ))),
        Err(e) => Err(broken(path, &e)),
    }
}

fn broken(path: &Path, e: &std::io::Error) -> BackupError {
    if e.kind() == std::io::ErrorKind::UnexpectedEof {
        return cut_off(path);
    }
    BackupError::archive(format!("{} is damaged or no backup: {e}", path.display()))
}

fn cut_off(path: &Path) -> BackupError {
    BackupError::archive(format!("{} is cut off", path.display()))
}

struct HashWriter<'a>(&'a mut Sha256);

impl Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
