//! Workspaces of agents: folders in which their owner puts texts for them. Only read from here.

use crate::limits::WORKSPACE_FILE_MAX_BYTES;
use crate::{Result, StoreError};
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::PathBuf;
use std::time::UNIX_EPOCH;

/// All workspaces of a state directory: `workspaces/<tenant>/<agent>/`.
#[derive(Debug, Clone)]
pub struct Workspaces {
    root: PathBuf,
}

/// A file of a workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkspaceFile {
    /// Its text.
    pub text: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// When it changed, Unix epoch ms.
    pub changed_ms: Option<i64>,
}

impl Workspaces {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// A file of an agent's workspace; `None` when there is none. A symbolic link is not followed: whoever may write
    /// into a workspace is not to read other files through it.
    ///
    /// # Errors
    /// A name that is not one plain word, a file that is no text or too large, and faults of the disk.
    pub fn read(&self, tenant: &str, agent: &str, name: &str) -> Result<Option<WorkspaceFile>> {
        let plain = |word: &str| {
            !word.is_empty()
                && word.len() <= 128
                && !word.starts_with('.')
                && word
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        };
        if ![tenant, agent, name].iter().all(|word| plain(word)) {
            return Err(StoreError::NotFound);
        }
        let path = self.root.join(tenant).join(agent).join(name);
        let meta = match std::fs::symlink_metadata(&path) {
            Ok(meta) => meta,
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(e) => return Err(StoreError::io("look at", &path, &e)),
        };
        // A link could lead anywhere, and a pipe would hold the thread.
        if !meta.is_file() {
            return Err(StoreError::Unfit(format!(
                "{name} in the workspace of {agent} is not a plain file"
            )));
        }
        let file = File::open(&path).map_err(|e| StoreError::io("open", &path, &e))?;
        let mut bytes = Vec::new();
        file.take(WORKSPACE_FILE_MAX_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(|e| StoreError::io("read", &path, &e))?;
        if bytes.len() as u64 > WORKSPACE_FILE_MAX_BYTES {
            return Err(StoreError::Limit("WORKSPACE_FILE_MAX_BYTES"));
        }
        let changed_ms = meta
            .modified()
            .ok()
            .and_then(|at| at.duration_since(UNIX_EPOCH).ok())
            .and_then(|since| i64::try_from(since.as_millis()).ok());
        let length = bytes.len() as u64;
        let text = String::from_utf8(bytes).map_err(|_| {
            StoreError::Unfit(format!("{name} in the workspace of {agent} is not UTF-8"))
        })?;
        Ok(Some(WorkspaceFile {
            text,
            bytes: length,
            changed_ms,
        }))
    }
}
