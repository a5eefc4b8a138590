//! Files that are whole or not there: written beside, synced, then put in place.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Whether a file that is already there may be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// What is there stays.
    Keep,
    /// What is there is replaced.
    Replace,
}

/// Writes `bytes` to `path` with mode 0600. Returns false if there was a file and `Existing::Keep` was asked.
/// At no time is there a file at `path` with other than the old or the new bytes, also after a power loss.
pub fn write(path: &Path, bytes: &[u8], existing: Existing) -> io::Result<bool> {
    place(path, bytes, |temp| match existing {
        Existing::Replace => std::fs::rename(temp, path).map(|()| true),
        // A hard link, unlike a rename, fails if there is a file, so that two starters cannot overwrite each other.
        Existing::Keep => match std::fs::hard_link(temp, path) {
            Ok(()) => {
                let _ = std::fs::remove_file(temp);
                Ok(true)
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(e) => Err(e),
        },
    })
}

/// As [`write`] with [`Existing::Replace`], if `still` holds at the last moment. Returns whether it did. An error means that the
/// file is as it was, also where the disk has failed only to confirm the change.
pub(crate) fn write_if(
    path: &Path,
    bytes: &[u8],
    still: impl FnOnce() -> io::Result<bool>,
) -> io::Result<bool> {
    let mut before = Before::Lost;
    let placed = place(path, bytes, |temp| {
        if !still()? {
            return Ok(false);
        }
        let had = Before::of(path, temp.with_extension("old.tmp"))?;
        match std::fs::rename(temp, path) {
            Ok(()) => before = had,
            Err(e) => {
                had.forget();
                return Err(e);
            }
        }
        Ok(true)
    });
    match placed.is_ok() {
        true => before.forget(),
        false => before.bring_back(path),
    }
    placed
}

/// What a file was before it was replaced.
enum Before {
    /// The old file, under a second name.
    Named(PathBuf),
    /// There was none.
    Absent,
    /// It is not known any more, or nothing was replaced.
    Lost,
}

impl Before {
    fn of(path: &Path, second: PathBuf) -> io::Result<Self> {
        match std::fs::hard_link(path, &second) {
            Ok(()) => Ok(Self::Named(second)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Self::Absent),
            // A file system without second names.
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied
                ) =>
            {
                Ok(Self::Lost)
            }
            Err(e) => Err(e),
        }
    }

    fn forget(self) {
        if let Self::Named(second) = self {
            let _ = std::fs::remove_file(second);
        }
    }

    /// Both names are on the same disk, which has just failed: this is all that can be tried.
    fn bring_back(self, path: &Path) {
        let _ = match self {
            Self::Named(second) => std::fs::rename(second, path),
            Self::Absent => std::fs::remove_file(path),
            Self::Lost => Ok(()),
        };
    }
}

/// Writes and syncs a file beside `path`, which `put` gives its name or does not.
fn place(
    path: &Path,
    bytes: &[u8],
    put: impl FnOnce(&Path) -> io::Result<bool>,
) -> io::Result<bool> {
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty());
    let dir = dir.unwrap_or(Path::new("."));
    // Opened before anything is changed: without descriptors the change is refused as a whole.
    let folder = File::open(dir)?;
    let (mut file, temp) = create_beside(dir, path)?;
    let placed = file
        .write_all(bytes)
        .and_then(|()| file.sync_all())
        .and_then(|()| put(&temp));
    if !matches!(placed, Ok(true)) {
        // Left behind it would only be clutter with mode 0600; the outcome does not depend on it.
        let _ = std::fs::remove_file(&temp);
    }
    let placed = placed?;
    folder.sync_all()?;
    Ok(placed)
}

/// Opens a file that only its owner can read, and makes it where it is not there.
pub(crate) fn private_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    options.open(path)
}

/// Creates `path` and its missing parents below `top` with mode 0700 and syncs each parent.
pub fn create_dirs(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
    if let Some(parent) = parent {
        create_dirs(parent)?;
    }
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt;
        builder.mode(0o700);
    }
    match builder.create(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        other => other?,
    }
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

fn create_beside(dir: &Path, path: &Path) -> io::Result<(File, PathBuf)> {
    let mut random = [0u8; 8];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temp = dir.join(format!(".{name}.{}.tmp", crate::load::hex(&random)));
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    Ok((options.open(&temp)?, temp))
}
