//! Writing an archive: beside its place, whole and checked before it gets its name.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest as _, Sha256};

use crate::collect::Source;
use crate::limits::{COPY_BYTES, MAX_MANIFEST_BYTES};
use crate::manifest::MANIFEST_NAME;
use crate::place::{Unfinished, new_file, parent_of, sweep, sync_dir};
use crate::{Archive, BackupError, Collected, FileEntry, Manifest, Result, Verified};

/// An archive that was written.
#[derive(Debug)]
pub struct Packed {
    /// What it holds.
    pub manifest: Manifest,
    /// What reading it again said.
    pub verified: Verified,
}

/// Packs `collected` into `out` (0600). `out` appears whole, synced and read again, or not at all; a file that is there
/// already stays. `manifest` comes without its files.
///
/// # Errors
/// See [`BackupError`].
pub fn pack(collected: Collected, mut manifest: Manifest, out: &Path) -> Result<Packed> {
    let there = || {
        BackupError::new(
            format!("{} is there already", out.display()),
            "choose another name; backups are not overwritten",
        )
    };
    if std::fs::symlink_metadata(out).is_ok() {
        return Err(there());
    }
    let dir = parent_of(out);
    let prefix = partial_prefix(out);
    sweep(dir, &prefix);
    manifest.left_out = collected.left_out;
    for (path, source) in &collected.files {
        let (bytes, sha256) = match source {
            Source::Bytes(bytes) => (bytes.len() as u64, hex(&Sha256::digest(bytes))),
            Source::File(file) => digest_of(file)?,
        };
        manifest.files.push(FileEntry {
            path: path.clone(),
            bytes,
            sha256,
        });
    }
    let partial = Partial::make(dir, &prefix)?;
    write(&partial, &collected.files, &manifest)?;
    let verified = Archive::open(&partial.path)?.verify()?;
    // A hard link, unlike a rename, does not replace what somebody else put there meanwhile.
    std::fs::hard_link(&partial.path, out).map_err(|e| match e.kind() {
        std::io::ErrorKind::AlreadyExists => there(),
        _ => BackupError::io("name", out, &e),
    })?;
    drop(partial);
    sync_dir(dir)?;
    Ok(Packed { manifest, verified })
}

/// What unfinished archives of this name begin with.
pub(crate) fn partial_prefix(out: &Path) -> String {
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    format!(".{name}.partial-")
}

/// The file that is being written; locked, and gone when this is dropped.
struct Partial {
    path: std::path::PathBuf,
    file: File,
}

impl Partial {
    fn make(dir: &Path, prefix: &str) -> Result<Self> {
        let id = gateway_store::SnapshotId::random()?;
        let path = dir.join(format!("{prefix}{}", id.as_str()));
        let file = new_file(&path)?;
        let partial = Self { path, file };
        partial
            .file
            .lock()
            .map_err(|e| BackupError::io("lock", &partial.path, &e))?;
        Ok(partial)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // What stays is removed by the next backup of this name.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn write(
    partial: &Partial,
    files: &[(crate::EntryPath, Source)],
    manifest: &Manifest,
) -> Result<()> {
    let fail = |e: std::io::Error| BackupError::io("write", &partial.path, &e);
    let gz = GzEncoder::new(
        BufWriter::with_capacity(COPY_BYTES, &partial.file),
        Compression::fast(),
    );
    let mut tar = tar::Builder::new(gz);
    let text = serde_json::to_vec_pretty(manifest).map_err(|e| fail(e.into()))?;
    if text.len() as u64 > MAX_MANIFEST_BYTES {
        return Err(BackupError::new(
            "there are too many files for one archive",
            "back up tenant by tenant (--tenant)",
        ));
    }
    let head = |name: &str, bytes: u64| -> std::io::Result<tar::Header> {
        let mut header = tar::Header::new_ustar();
        header.set_path(name)?;
        header.set_size(bytes);
        header.set_mode(0o600);
        header.set_mtime(u64::try_from(manifest.made_at_ms / 1_000).unwrap_or(0));
        header.set_entry_type(tar::EntryType::Regular);
        header.set_cksum();
        Ok(header)
    };
    head(MANIFEST_NAME, text.len() as u64)
        .and_then(|h| tar.append(&h, text.as_slice()))
        .map_err(fail)?;
    for ((path, source), entry) in files.iter().zip(&manifest.files) {
        let header = head(path.as_str(), entry.bytes).map_err(fail)?;
        match source {
            Source::Bytes(bytes) => tar.append(&header, bytes.as_slice()).map_err(fail)?,
            Source::File(file) => {
                let data = File::open(file).map_err(|e| BackupError::io("open", file, &e))?;
                tar.append(&header, data.take(entry.bytes)).map_err(fail)?;
            }
        }
    }
    tar.into_inner()
        .and_then(GzEncoder::finish)
        .and_then(|mut out| out.flush())
        .and_then(|()| partial.file.sync_all())
        .map_err(fail)
}

fn digest_of(path: &Path) -> Result<(u64, String)> {
    let fail = |e: std::io::Error| BackupError::io("read", path, &e);
    let mut file = File::open(path).map_err(fail)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; COPY_BYTES];
    let mut bytes = 0;
    loop {
        match file.read(&mut buffer).map_err(fail)? {
            0 => return Ok((bytes, hex(&hash.finalize()))),
            n => {
                hash.update(&buffer[..n]);
                bytes += n as u64;
            }
        }
    }
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut out, b| {
        // Writing to a String does not fail.
        let _ = write!(out, "{b:02x}");
        out
    })
}

/// A directory beside `near` (or, where that cannot be written, among the temporary files) to look at databases in.
pub(crate) fn looking_room(near: &Path) -> Result<Unfinished> {
    const PREFIX: &str = ".gateway-verify-";
    sweep(parent_of(near), PREFIX);
    Unfinished::make(parent_of(near), PREFIX)
        .or_else(|_| Unfinished::make(&std::env::temp_dir(), PREFIX))
}
