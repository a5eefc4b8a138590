//! What goes into an archive: the files of a snapshot, the configuration and, if asked for, secrets.

use std::fs::OpenOptions;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::entry::EntryPath;
use crate::limits::{MAX_FILES, MAX_SMALL_FILE_BYTES};
use crate::place::NO_FOLLOW;
use crate::{BackupError, Result};

/// What is wanted in an archive.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The state directory.
    pub state_dir: &'a Path,
    /// A snapshot of its databases.
    pub snapshot_dir: &'a Path,
    /// Only this tenant.
    pub tenant: Option<&'a str>,
    /// Also secrets, the host's key, certificates and their keys.
    pub with_secrets: bool,
    /// Files that the configuration includes, below the state directory.
    pub included: &'a [String],
}

/// Files to be packed, in order.
#[derive(Debug)]
pub struct Collected {
    pub(crate) files: Vec<(EntryPath, Source)>,
    /// What is left out, and why.
    pub left_out: Vec<String>,
}

/// Where the bytes are.
#[derive(Debug)]
pub(crate) enum Source {
    /// A file of the snapshot, which nobody changes.
    File(PathBuf),
    /// A file of the state directory, as it was when it was read.
    Bytes(Vec<u8>),
}

/// Finds the files. Links are not followed and not packed.
///
/// # Errors
/// When a file cannot be read.
pub fn collect(wanted: &Wanted<'_>) -> Result<Collected> {
    let mut found = Collected {
        files: Vec::new(),
        left_out: Vec::new(),
    };
    found.snapshot(wanted.snapshot_dir, wanted.snapshot_dir)?;
    let state = wanted.state_dir;
    match wanted.tenant {
        None => {
            found.configuration(state, wanted.included)?;
            if wanted.with_secrets {
                found.small(state, Path::new("host.key"))?;
                for dir in ["secrets", "gateway"] {
                    found.tree(state, Path::new(dir))?;
                }
            } else {
                found.left_out.push(
                    "secrets/, host.key and gateway/tls*/ (secrets; --with-secrets takes them in)"
                        .to_owned(),
                );
            }
        }
        Some(slug) => {
            found.left_out.push(format!(
                "the settings of tenant {slug} (they stand in gateway.json5, which belongs to the operator)"
            ));
            if wanted.with_secrets {
                found.tree(state, &Path::new("secrets").join(slug))?;
            } else {
                found.left_out.push(format!(
                    "secrets/{slug}/ (secrets; --with-secrets takes them in)"
                ));
            }
        }
    }
    found.files.sort_by(|a, b| a.0.cmp(&b.0));
    found.files.dedup_by(|a, b| a.0 == b.0);
    if found.files.len() > MAX_FILES {
        return Err(BackupError::new(
            format!(
                "there are {} files, an archive holds at most {MAX_FILES}",
                found.files.len()
            ),
            "back up tenant by tenant (--tenant)",
        ));
    }
    Ok(found)
}

impl Collected {
    fn snapshot(&mut self, root: &Path, dir: &Path) -> Result<()> {
        for path in children(dir)? {
            if path.is_dir() {
                self.snapshot(root, &path)?;
            } else if let Some(entry) = path.strip_prefix(root).ok().and_then(entry_of) {
                self.files.push((entry, Source::File(path)));
            }
        }
        Ok(())
    }

    fn configuration(&mut self, state: &Path, included: &[String]) -> Result<()> {
        for path in children(state)? {
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
            if (name.ends_with(".json5") || name.ends_with(".json")) && !path.is_dir() {
                self.small(state, Path::new(name))?;
            }
        }
        self.tree(state, Path::new("config"))?;
        for name in included {
            self.small(state, Path::new(name))?;
        }
        Ok(())
    }

    fn tree(&mut self, state: &Path, below: &Path) -> Result<()> {
        let dir = state.join(below);
        if !std::fs::symlink_metadata(&dir).is_ok_and(|m| m.is_dir()) {
            return Ok(());
        }
        for path in children(&dir)? {
            let Ok(relative) = path.strip_prefix(state).map(Path::to_owned) else {
                continue;
            };
            if std::fs::symlink_metadata(&path).is_ok_and(|m| m.is_dir()) {
                self.tree(state, &relative)?;
            } else {
                self.small(state, &relative)?;
            }
        }
        Ok(())
    }

    /// One file of the state directory; one that is not there is none.
    fn small(&mut self, state: &Path, relative: &Path) -> Result<()> {
        let path = state.join(relative);
        let leave = |why: &str| format!("{} ({why})", relative.display());
        let Ok(meta) = std::fs::symlink_metadata(&path) else {
            return Ok(());
        };
        let Some(entry) = entry_of(relative) else {
            self.left_out
                .push(leave("its name does not fit an archive"));
            return Ok(());
        };
        if !meta.is_file() {
            self.left_out.push(leave("a link or no file"));
            return Ok(());
        }
        if temporary(relative) {
            return Ok(());
        }
        let mut bytes = Vec::new();
        OpenOptions::new()
            .read(true)
            .custom_flags(NO_FOLLOW)
            .open(&path)
            .and_then(|file| file.take(MAX_SMALL_FILE_BYTES + 1).read_to_end(&mut bytes))
            .map_err(|e| BackupError::io("read", &path, &e))?;
        if bytes.len() as u64 > MAX_SMALL_FILE_BYTES {
            self.left_out.push(leave("larger than 16 MiB"));
            return Ok(());
        }
        self.files.push((entry, Source::Bytes(bytes)));
        Ok(())
    }
}

/// Files that are there for a moment only.
fn temporary(relative: &Path) -> bool {
    relative
        .file_name()
        .and_then(|n| n.to_str())
        .is_some_and(|n| {
            n.ends_with(".lock") || n.starts_with(".tmp") || n.ends_with(".draft.json5")
        })
}

fn entry_of(relative: &Path) -> Option<EntryPath> {
    EntryPath::parse(relative.to_str()?).ok()
}

fn children(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(dir)
        .map_err(|e| BackupError::io("read", dir, &e))?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    Ok(paths)
}
