//! `run/gateway.json` in the state directory: where the running gateway listens. Written at start, removed at a clean end.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunFile {
    /// Process id.
    pub pid: u32,
    /// Port.
    pub port: u16,
    /// Address that it listens on.
    pub address: SocketAddr,
    /// Address of the built-in page.
    pub url: String,
    /// Version of the gateway.
    pub version: String,
    /// SHA-256 fingerprints of the certificate that it shows now and of the next one; empty without TLS.
    #[serde(default)]
    pub tls_fingerprints: Vec<String>,
    /// Values of the configuration that a flag overrides: path → flag.
    #[serde(default)]
    pub flags: BTreeMap<String, String>,
    /// Whether it takes SIGUSR2 as the wish to hand its socket to another program; the signal ends older ones.
    #[serde(default)]
    pub hands_over: bool,
}

const NAME: &str = "gateway.json";

/// Where a file about the running gateway is.
pub fn place(state_dir: &Path, name: &str) -> PathBuf {
    state_dir.join("run").join(name)
}

/// Writes such a file whole, for its owner only.
pub fn write_private(state_dir: &Path, name: &str, bytes: &[u8]) -> io::Result<PathBuf> {
    let path = place(state_dir, name);
    if let Some(dir) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    let temp = path.with_extension(format!("json.{}", std::process::id()));
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(&temp)?.write_all(bytes)?;
    std::fs::rename(&temp, &path)?;
    Ok(path)
}

impl RunFile {
    /// Writes the file whole.
    pub fn write(&self, state_dir: &Path) -> io::Result<()> {
        write_private(state_dir, NAME, &serde_json::to_vec(self)?)?;
        Ok(())
    }

    /// Removes the file if it is ours.
    pub fn remove(&self, state_dir: &Path) {
        if read(state_dir).as_ref() == Some(self) {
            // A file that stays is recognised as stale by its process id.
            let _ = std::fs::remove_file(place(state_dir, NAME));
        }
    }

    /// The gateway that runs on this state directory, or `None`.
    pub fn of_running(state_dir: &Path) -> Option<Self> {
        read(state_dir).filter(|run| is_alive(run.pid))
    }
}

/// What the last gateway wrote, whether it still runs or not.
pub fn read(state_dir: &Path) -> Option<RunFile> {
    serde_json::from_slice(&std::fs::read(place(state_dir, NAME)).ok()?).ok()
}

/// Where it cannot be known the file is believed; the connection then fails and says so.
fn is_alive(pid: u32) -> bool {
    let proc = Path::new("/proc");
    !proc.join("self").exists() || proc.join(pid.to_string()).exists()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_stale_file_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(RunFile::of_running(dir.path()), None);
        let mut run = RunFile {
            pid: std::process::id(),
            port: 1,
            address: "127.0.0.1:1".parse().unwrap(),
            url: "http://127.0.0.1:1/".to_owned(),
            version: "0".to_owned(),
            tls_fingerprints: Vec::new(),
            flags: BTreeMap::new(),
            hands_over: true,
        };
        run.write(dir.path()).unwrap();
        assert_eq!(RunFile::of_running(dir.path()), Some(run.clone()));
        let other = RunFile {
            port: 2,
            ..run.clone()
        };
        other.remove(dir.path());
        assert!(
            RunFile::of_running(dir.path()).is_some(),
            "another's file is not removed"
        );
        run.remove(dir.path());
        assert_eq!(RunFile::of_running(dir.path()), None);
        if Path::new("/proc/self").exists() {
            run.pid = u32::MAX;
            run.write(dir.path()).unwrap();
            assert_eq!(RunFile::of_running(dir.path()), None);
        }
    }
}
