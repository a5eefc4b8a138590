//! The ring of backups: what the file was before each edit by us.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::durable::{self, Existing};
use crate::load::{hex, read_bounded};
use crate::source::MAX_FILE_BYTES;
use sha2::{Digest, Sha256};

/// Backups that are kept.
pub const HISTORY_MAX_FILES: usize = 20;
/// Folder of the backups.
const DIR: &str = "history";

/// What the file was before an edit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// 1 for the newest; what `gateway config rollback` and `diff` take.
    pub number: usize,
    /// When it was replaced, milliseconds since the Unix epoch.
    pub replaced_at_ms: u64,
    /// Lower-case hex SHA-256 of its bytes.
    pub hash: String,
    /// The text.
    pub text: String,
    /// Where it is.
    pub path: PathBuf,
}

/// Keeps a text and lets the oldest ones go.
pub(crate) fn push(kept_dir: &Path, text: &str) -> io::Result<()> {
    let dir = kept_dir.join(DIR);
    durable::create_dirs(&dir)?;
    let had = names(&dir)?;
    let next = had.last().map_or(1, |(number, ..)| number + 1);
    let now_ms = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_millis());
    let path = dir.join(format!("{next:08}-{now_ms}.json5"));
    durable::write(&path, text.as_bytes(), Existing::Replace)?;
    let surplus = (had.len() + 1).saturating_sub(HISTORY_MAX_FILES);
    for (_, _, old) in had.into_iter().take(surplus) {
        // One too many is no reason to refuse the edit.
        let _ = std::fs::remove_file(old);
    }
    Ok(())
}

/// The backups, newest first. A file that cannot be read is left out.
pub(crate) fn list(kept_dir: &Path) -> io::Result<Vec<Backup>> {
    let mut had = names(&kept_dir.join(DIR))?;
    had.reverse();
    Ok(had
        .into_iter()
        .enumerate()
        .filter_map(|(i, (_, replaced_at_ms, path))| {
            let bytes = read_bounded(&path, MAX_FILE_BYTES).ok()?;
            Some(Backup {
                number: i + 1,
                replaced_at_ms,
                hash: hex(&Sha256::digest(&bytes)),
                text: String::from_utf8(bytes).ok()?,
                path,
            })
        })
        .collect())
}

/// Sequence number, time and path of each backup, oldest first.
fn names(dir: &Path) -> io::Result<Vec<(u64, u64, PathBuf)>> {
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut found: Vec<(u64, u64, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let (number, time) = name.strip_suffix(".json5")?.split_once('-')?;
            Some((number.parse().ok()?, time.parse().ok()?, entry.path()))
        })
        .collect();
    found.sort();
    Ok(found)
}
