//! What the command and the running gateway tell each other: two files in `run/` of the state directory, which only its
//! owner can write. A method of the protocol would let whoever has a token choose a program.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::MAX_LINE_BYTES;
use crate::run_file;

/// What the command wants (`run/upgrade-request.json`; the gateway takes it away). Without it, SIGUSR2 means the program that
/// the gateway was started from, as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// Tells this request from others.
    pub id: String,
    /// The program to go on with.
    #[serde(default)]
    pub program: Option<PathBuf>,
    /// Only find out whether it would work.
    #[serde(default)]
    pub check: bool,
}

/// How far an upgrade is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// The program is asked for its version.
    Checking,
    /// It runs, and makes ready what needs no store.
    Preparing,
    /// It was prepared, and that was all that was asked for.
    Checked,
    /// This gateway ends its work; connections wait.
    Draining,
    /// The stores are closed; the program opens them.
    Starting,
    /// The program serves.
    Done,
    /// Nothing changed: this gateway goes on.
    Refused,
    /// The program did not serve; the gateway before it was started again.
    RolledBack,
}

impl Stage {
    /// Whether nothing comes after it.
    pub fn is_last(self) -> bool {
        matches!(
            self,
            Self::Checked | Self::Done | Self::Refused | Self::RolledBack
        )
    }
}

/// What the gateway says of an upgrade (`run/upgrade.json`). It stays until the next one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// Of the request; empty for a bare SIGUSR2.
    pub id: String,
    /// How far it is.
    pub stage: Stage,
    /// The program.
    pub program: PathBuf,
    /// Its version, once it said it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Its process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Time in which no connection was accepted, in ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap_ms: Option<u64>,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

const REQUEST: &str = "upgrade-request.json";
const PROGRESS: &str = "upgrade.json";

impl Request {
    /// Puts it down for the gateway. Written by root for another user's gateway, it becomes that user's.
    pub fn write(&self, state_dir: &Path) -> io::Result<()> {
        use std::os::unix::fs::MetadataExt;
        let path = run_file::write_private(state_dir, REQUEST, &serde_json::to_vec(self)?)?;
        let (dir, own) = (std::fs::metadata(state_dir)?, std::fs::metadata(&path)?);
        if dir.uid() != own.uid() {
            std::os::unix::fs::chown(&path, Some(dir.uid()), Some(dir.gid()))?;
        }
        Ok(())
    }

    /// Takes it away; `None` when there is none that can be read.
    pub fn take(state_dir: &Path) -> Option<Self> {
        let request = read(&run_file::place(state_dir, REQUEST));
        Self::withdraw(state_dir);
        request
    }

    /// Takes it back.
    pub fn withdraw(state_dir: &Path) {
        let _ = std::fs::remove_file(run_file::place(state_dir, REQUEST));
    }
}

impl Progress {
    /// Tells it. The upgrade goes on where it cannot be told.
    pub fn write(&self, state_dir: &Path) {
        let told = serde_json::to_vec(self)
            .map_err(io::Error::from)
            .and_then(|bytes| run_file::write_private(state_dir, PROGRESS, &bytes));
        if let Err(error) = told {
            tracing::warn!(%error, "run/upgrade.json not written: the command does not hear of the upgrade");
        }
    }

    /// What was told last.
    pub fn read(state_dir: &Path) -> Option<Self> {
        read(&run_file::place(state_dir, PROGRESS))
    }
}

fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Option<T> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .ok()?
        .take(MAX_LINE_BYTES)
        .read_to_end(&mut bytes)
        .ok()?;
    serde_json::from_slice(&bytes).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_request_is_taken_once() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Request::take(dir.path()), None);
        let request = Request {
            id: "a".to_owned(),
            program: Some("/bin/gateway".into()),
            check: true,
        };
        request.write(dir.path()).unwrap();
        assert_eq!(Request::take(dir.path()), Some(request));
        assert_eq!(Request::take(dir.path()), None);
        std::fs::write(dir.path().join("run").join(REQUEST), "{").unwrap();
        assert_eq!(Request::take(dir.path()), None, "what is no request");
        assert!(!dir.path().join("run").join(REQUEST).exists());
    }
}
