//! Which steps were decided already: `config/onboard.json` in the state directory. What was decided stands where it counts (the
//! configuration, the stored secrets); this only says that nobody has to be asked again.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use gateway_config::durable::{self, Existing};
use serde::{Deserialize, Serialize};

/// A step of `gateway onboard`, in the order in which they are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// What answers.
    Agent,
    /// Where messages come from.
    Channel,
    /// Who may connect, and whether in clear.
    Listener,
    /// Who starts the gateway.
    Service,
}

/// Largest file that is believed, in bytes.
const MAX_BYTES: u64 = 4_096;

#[derive(Default, Serialize, Deserialize)]
struct Written {
    version: u32,
    done: BTreeSet<Step>,
}

/// The steps that were taken.
pub struct Progress {
    path: PathBuf,
    done: BTreeSet<Step>,
}

impl Progress {
    /// What the state directory says; nothing where it says nothing that can be read.
    pub fn read(state_dir: &Path) -> Self {
        let path = state_dir.join("config").join("onboard.json");
        let small = std::fs::metadata(&path).is_ok_and(|m| m.is_file() && m.len() <= MAX_BYTES);
        let done = small
            .then(|| std::fs::read(&path).ok())
            .flatten()
            .and_then(|bytes| serde_json::from_slice::<Written>(&bytes).ok())
            .filter(|written| written.version == 1)
            .map(|written| written.done)
            .unwrap_or_default();
        Self { path, done }
    }

    /// Whether this step was taken.
    pub fn has(&self, step: Step) -> bool {
        self.done.contains(&step)
    }

    /// Forgets all of them, here and not yet on the disk.
    pub fn forget(&mut self) {
        self.done.clear();
    }

    /// Remembers a step.
    pub fn add(&mut self, step: Step) -> std::io::Result<()> {
        if !self.done.insert(step) {
            return Ok(());
        }
        let bytes = serde_json::to_vec(&Written {
            version: 1,
            done: self.done.clone(),
        })
        .map_err(std::io::Error::other)?;
        if let Some(dir) = self.path.parent() {
            durable::create_dirs(dir)?;
        }
        durable::write(&self.path, &bytes, Existing::Replace).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn steps_are_remembered_and_rubbish_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let mut progress = Progress::read(dir.path());
        assert!(!progress.has(Step::Agent));
        progress.add(Step::Agent).unwrap();
        progress.add(Step::Service).unwrap();
        let again = Progress::read(dir.path());
        assert!(again.has(Step::Agent) && again.has(Step::Service) && !again.has(Step::Channel));
        std::fs::write(dir.path().join("config/onboard.json"), "{\"version\":2}").unwrap();
        assert!(!Progress::read(dir.path()).has(Step::Agent));
    }
}
