//! Files and directories that are being made beside the place where they belong, and the disk under them.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::limits::{ROOM_LEFT_MAX_BYTES, ROOM_LEFT_PERCENT};
use crate::{BackupError, Result};

/// File by which a directory is known as unfinished. It holds the lock of who works on it.
const UNFINISHED: &str = "unfinished.lock";

/// A directory (0700) that goes away when it is dropped, unless it is kept; and that [`sweep`] removes if its maker died.
#[derive(Debug)]
pub struct Unfinished {
    path: PathBuf,
    _lock: File,
    keep: bool,
}

impl Unfinished {
    /// Makes `<dir>/<prefix><random>`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn make(dir: &Path, prefix: &str) -> Result<Self> {
        let id = gateway_store::SnapshotId::random()?;
        let path = dir.join(format!("{prefix}{}", id.as_str()));
        private_dir(&path)?;
        let lock_path = path.join(UNFINISHED);
        let lock = new_file(&lock_path)?;
        lock.lock()
            .map_err(|e| BackupError::io("lock", &lock_path, &e))?;
        Ok(Self {
            path,
            _lock: lock,
            keep: false,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its name: what the prefix left, random.
    pub fn name(&self) -> &str {
        let name = self.path.file_name().and_then(|n| n.to_str());
        name.map_or("", |n| &n[n.len().saturating_sub(16)..])
    }

    /// What is at the path now is not to be removed: it was exchanged, or is finished.
    pub(crate) fn kept(mut self) {
        self.keep = true;
    }

    /// Whether a directory bears the mark of the unfinished.
    pub(crate) fn is_marked(dir: &Path) -> bool {
        dir.join(UNFINISHED).exists()
    }

    /// Takes the mark of the unfinished away from a directory that is finished.
    pub(crate) fn finish(dir: &Path) {
        // Where it stays nothing is lost: only directories with a name of `sweep` are looked at.
        let _ = std::fs::remove_file(dir.join(UNFINISHED));
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.keep {
            // What stays is removed by the next `sweep`.
            let _ = remove_marked(&self.path);
        }
    }
}

/// Removes a directory, its mark last: who is killed meanwhile leaves one that still says what it is.
fn remove_marked(dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name() == UNFINISHED {
            continue;
        }
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    std::fs::remove_dir_all(dir)
}

/// Removes what died makers left in `dir` under names that begin with `prefix`: files (of [`crate::pack`]) and directories
/// that bear the mark of the unfinished. What somebody works on is left alone. Gives how many were removed.
pub fn sweep(dir: &Path, prefix: &str) -> usize {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return 0;
    };
    let mut removed = 0;
    for entry in entries.flatten() {
        if !entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.starts_with(prefix) && name.len() == prefix.len() + 16)
        {
            continue;
        }
        let path = entry.path();
        let is_dir = entry.file_type().is_ok_and(|t| t.is_dir());
        let mark = if is_dir {
            path.join(UNFINISHED)
        } else {
            path.clone()
        };
        if is_dir && !mark.exists() {
            // Made, and its maker died before it could mark it: empty. Anything else is not ours to remove.
            removed += usize::from(std::fs::remove_dir(&path).is_ok());
            continue;
        }
        let abandoned = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(NO_FOLLOW)
            .open(&mark)
            .is_ok_and(|file| file.try_lock().is_ok());
        let gone = abandoned
            && if is_dir {
                remove_marked(&path).is_ok()
            } else {
                std::fs::remove_file(&path).is_ok()
            };
        removed += usize::from(gone);
    }
    removed
}

/// As [`sweep`], for the directory of snapshots, where everything is the gateway's: also what bears no mark, because a
/// gateway was still writing to it when it was swept the last time.
pub fn sweep_snapshots(dir: &Path) -> usize {
    let mut removed = sweep(dir, "");
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let ours = entry.file_name().to_str().is_some_and(|n| n.len() == 16);
        if ours && !path.join(UNFINISHED).exists() {
            removed += usize::from(std::fs::remove_dir_all(&path).is_ok());
        }
    }
    removed
}

/// The last part of a link is not followed.
pub(crate) const NO_FOLLOW: i32 = rustix::fs::OFlags::NOFOLLOW.bits() as i32;

/// Makes a directory that must not be there yet.
pub(crate) fn private_dir(path: &Path) -> Result<()> {
    DirBuilder::new()
        .mode(0o700)
        .create(path)
        .map_err(|e| BackupError::io("make", path, &e))
}

/// Makes the directories between `root` and a file below it.
pub(crate) fn dirs_between(root: &Path, file: &Path) -> Result<()> {
    let Some(parent) = file.parent().and_then(|p| p.strip_prefix(root).ok()) else {
        return Ok(());
    };
    let mut at = root.to_owned();
    for part in parent.components() {
        at.push(part);
        match DirBuilder::new().mode(0o700).create(&at) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(BackupError::io("make", &at, &e)),
        }
    }
    Ok(())
}

/// Makes a file (0600) that must not be there yet, links included.
pub(crate) fn new_file(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(NO_FOLLOW)
        .open(path)
        .map_err(|e| BackupError::io("make", path, &e))
}

/// Makes the entries of a directory durable.
pub(crate) fn sync_dir(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|d| d.sync_all())
        .map_err(|e| BackupError::io("sync", path, &e))
}

/// Makes the entries of a directory and of all below it durable.
pub(crate) fn sync_tree(path: &Path) -> Result<()> {
    for entry in std::fs::read_dir(path)
        .map_err(|e| BackupError::io("read", path, &e))?
        .flatten()
    {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            sync_tree(&entry.path())?;
        }
    }
    sync_dir(path)
}

/// The directory that a path stands in.
pub(crate) fn parent_of(path: &Path) -> &Path {
    path.parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// How much room a file system has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes for ordinary users.
    pub free_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
    /// Files that may still be made; none where the file system does not count them.
    pub free_files: Option<u64>,
    /// Files in all, as above.
    pub total_files: Option<u64>,
}

/// The room on the file system of a path.
///
/// # Errors
/// When it cannot be asked.
pub fn room(path: &Path) -> io::Result<Room> {
    let stat = rustix::fs::statvfs(path)?;
    let counted = stat.f_files > 0;
    Ok(Room {
        free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
        total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
        free_files: counted.then_some(stat.f_favail),
        total_files: counted.then_some(stat.f_files),
    })
}

/// Refuses what would fill the disk.
pub(crate) fn need_room(dir: &Path, bytes: u64) -> Result<()> {
    let Ok(room) = room(dir) else { return Ok(()) };
    let reserve = (room.total_bytes / 100 * ROOM_LEFT_PERCENT).min(ROOM_LEFT_MAX_BYTES);
    if bytes.saturating_add(reserve) > room.free_bytes {
        return Err(BackupError::new(
            format!(
                "{} has {} MiB free, {} MiB are needed and {} MiB stay reserved",
                dir.display(),
                room.free_bytes / 1_048_576,
                bytes.div_ceil(1_048_576),
                reserve / 1_048_576
            ),
            "make room, or use a directory on another disk",
        ));
    }
    Ok(())
}
