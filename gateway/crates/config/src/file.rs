//! The configuration of a running gateway as a file: read again, replaced whole, kept for bad days.
//!
//! The user's file is only ever written by an edit that was asked for, and only when all of it is right. What a gateway
//! started or went on with is kept beside it as the last good one, so that a broken file does not keep it from starting.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::disk::DiskFault;
use crate::durable::{self, Existing};
use crate::error::ConfigError;
use crate::history;
use crate::include::Files;
use crate::load::{self, CONFIG_FILE, LoadRequest, Overrides, ReadFault, hex, read_bounded};
use crate::settings::Settings;
use crate::source::MAX_FILE_BYTES;

/// Reads an environment variable.
pub type EnvReader = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// Folder in the state directory for what the gateway itself keeps about the configuration.
const KEPT_DIR: &str = "config";
/// The last good configuration, in that folder.
const LAST_GOOD: &str = "last-good.json";
/// Held while the file is replaced, in that folder.
const LOCK: &str = "edit.lock";
/// Largest kept configuration, in bytes.
const MAX_KEPT_BYTES: u64 = 16 * MAX_FILE_BYTES;

/// Where a configuration is, and what overrides it.
#[derive(Clone)]
pub struct ConfigFile {
    state_dir: PathBuf,
    config_path: Option<PathBuf>,
    overrides: Overrides,
    env: EnvReader,
}

impl fmt::Debug for ConfigFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConfigFile({})", self.path().display())
    }
}

/// What a gateway starts with.
#[derive(Debug)]
pub struct Started {
    /// The settings.
    pub settings: Settings,
    /// Why the file is not what counts, when the last good configuration has to do.
    pub refused: Option<ConfigError>,
}

/// The file's text at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The text; empty when there is no file.
    pub text: String,
    /// Hash of the bytes of this file alone; an edit is written only while it is still the same.
    pub hash: String,
}

/// A configuration as it is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    version: u32,
    /// Name and text of each file, the configuration itself first.
    texts: Vec<(String, String)>,
}

impl ConfigFile {
    /// The configuration of a state directory, or another file.
    pub fn new(
        state_dir: impl Into<PathBuf>,
        config_path: Option<PathBuf>,
        overrides: Overrides,
        env: EnvReader,
    ) -> Self {
        Self {
            state_dir: state_dir.into(),
            config_path,
            overrides,
            env,
        }
    }

    /// The file.
    pub fn path(&self) -> PathBuf {
        self.config_path
            .clone()
            .unwrap_or_else(|| self.state_dir.join(CONFIG_FILE))
    }

    /// The state directory that it belongs to.
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// What flags say.
    pub fn overrides(&self) -> &Overrides {
        &self.overrides
    }

    fn kept_dir(&self) -> PathBuf {
        self.state_dir.join(KEPT_DIR)
    }

    fn with<T>(&self, work: impl FnOnce(&LoadRequest<'_>) -> T) -> T {
        let env = |name: &str| (self.env)(name);
        work(&LoadRequest {
            state_dir: self.state_dir.clone(),
            config_path: self.config_path.clone(),
            overrides: self.overrides.clone(),
            env: &env,
        })
    }

    /// The settings as the file says them now.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(&self) -> Result<Settings, ConfigError> {
        self.with(|request| {
            load::load(LoadRequest {
                state_dir: request.state_dir.clone(),
                config_path: request.config_path.clone(),
                overrides: request.overrides.clone(),
                env: request.env,
            })
        })
    }

    /// The settings of a text that could be the file.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn check(&self, text: &str) -> Result<Settings, ConfigError> {
        if text.len() as u64 > MAX_FILE_BYTES {
            return Err(ConfigError::plain(
                Some(self.path()),
                ReadFault::TooBig(MAX_FILE_BYTES).to_string(),
                "take some of it out, or put parts into other files with $include",
            ));
        }
        self.with(|request| load::load_text(text, request, self.path()))
    }

    /// What to start with: the file, or the last good configuration when the file is broken or gone. The file is never
    /// changed.
    ///
    /// # Errors
    /// The fault of the file, when there is no last good configuration that could be used.
    pub fn start(&self) -> Result<Started, ConfigError> {
        let gone = !self.path().exists() && self.config_path.is_none();
        let fault = match self.load() {
            // Without a file the defaults count, but not where there was one.
            Ok(settings) if gone && self.kept_texts().is_some() => {
                drop(settings);
                ConfigError::plain(
                    Some(self.path()),
                    ReadFault::Missing.to_string(),
                    "write it again (`gateway config rollback` brings the last edit's predecessor back)",
                )
            }
            Ok(settings) => {
                return Ok(Started {
                    settings,
                    refused: None,
                });
            }
            Err(fault) => fault,
        };
        match self.last_good() {
            Some(settings) => Ok(Started {
                settings,
                refused: Some(fault),
            }),
            None => Err(fault),
        }
    }

    /// The last configuration that a gateway of this directory ran with, if it still can be used.
    pub fn last_good(&self) -> Option<Settings> {
        let texts = self.kept_texts()?;
        let (_, main) = texts.first()?.clone();
        let included: BTreeMap<String, String> = texts.into_iter().skip(1).collect();
        self.with(|request| {
            load::load_from(&main, request, self.path(), &Files::Kept(&included)).ok()
        })
    }

    /// Whether there is a last good configuration, usable or not.
    pub fn has_last_good(&self) -> bool {
        self.kept_texts().is_some()
    }

    fn kept_texts(&self) -> Option<Vec<(String, String)>> {
        let bytes = read_bounded(&self.kept_dir().join(LAST_GOOD), MAX_KEPT_BYTES).ok()?;
        let kept: Kept = serde_json::from_slice(&bytes).ok()?;
        (kept.version == 1 && !kept.texts.is_empty()).then_some(kept.texts)
    }

    /// Keeps what `settings` were made of as the last good configuration (mode 0600, whole or not at all).
    ///
    /// # Errors
    /// When it cannot be written; the one from before is then still there.
    pub fn keep(&self, settings: &Settings) -> Result<(), ConfigError> {
        let texts = settings.written.texts();
        if texts.is_empty() || self.kept_texts().as_ref() == Some(&texts) {
            return Ok(());
        }
        let kept = Kept { version: 1, texts };
        let dir = self.kept_dir();
        let written = serde_json::to_vec(&kept)
            .map_err(std::io::Error::other)
            .and_then(|bytes| {
                durable::create_dirs(&dir)?;
                durable::write(&dir.join(LAST_GOOD), &bytes, Existing::Replace)
            });
        written
            .map(|_| ())
            .map_err(|e| self.unwritable(&dir.join(LAST_GOOD), &e))
    }

    /// The file's text now.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&self) -> Result<Snapshot, ConfigError> {
        let path = self.path();
        match read_bounded(&path, MAX_FILE_BYTES) {
            Ok(bytes) => Ok(Snapshot {
                hash: hex(&Sha256::digest(&bytes)),
                text: load::utf8(bytes, &path)?,
            }),
            Err(ReadFault::Missing) if !load::is_link(&path) => Ok(Snapshot {
                hash: String::new(),
                text: String::new(),
            }),
            Err(fault) => Err(fault.told(path)),
        }
    }

    /// Replaces the file by `text`, if it is still what `base` says. The text before it goes into the ring of backups.
    /// The new file is there whole or not at all, with mode 0600. Gives false, and changes nothing, when somebody else
    /// was faster. `text` must have been checked.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn replace(&self, base: &Snapshot, text: &str) -> Result<bool, ConfigError> {
        let dir = self.kept_dir();
        // A link is kept, and what it leads to is replaced.
        let path = self.path();
        let path = path.canonicalize().unwrap_or(path);
        let work = || -> std::io::Result<bool> {
            durable::create_dirs(&dir)?;
            let lock = durable::private_file(&dir.join(LOCK))?;
            lock.lock()?;
            if !base.text.is_empty() {
                history::push(&dir, &base.text)?;
            }
            durable::write_if(&path, text.as_bytes(), || self.is_still(&base.hash))
        };
        work().map_err(|e| self.unwritable(&path, &e))
    }

    /// Whether the file has this hash. What cannot be read for a reason that lies in the file is another one.
    fn is_still(&self, hash: &str) -> std::io::Result<bool> {
        match read_bounded(&self.path(), MAX_FILE_BYTES) {
            Ok(bytes) => Ok(hex(&Sha256::digest(&bytes)) == hash),
            Err(ReadFault::Missing) => Ok(hash.is_empty()),
            Err(ReadFault::Io(e)) => Err(e),
            Err(_) => Ok(false),
        }
    }

    /// The text of the last good configuration.
    pub fn last_good_text(&self) -> Option<String> {
        Some(self.kept_texts()?.into_iter().next()?.1)
    }

    /// Puts a text where an editor can change it: beside the file, so that it includes the same files; mode 0600.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn draft(&self, text: &str) -> Result<PathBuf, ConfigError> {
        let path = self.path();
        let draft = path.with_file_name(format!(
            "{}.draft.json5",
            path.file_stem().unwrap_or_default().to_string_lossy()
        ));
        durable::write(&draft, text.as_bytes(), Existing::Replace)
            .map_err(|e| self.unwritable(&draft, &e))?;
        Ok(draft)
    }

    /// The text of a draft after the editor.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read_draft(&self, draft: &Path) -> Result<String, ConfigError> {
        let bytes = read_bounded(draft, MAX_FILE_BYTES).map_err(|fault| {
            ConfigError::plain(
                Some(draft.to_owned()),
                fault.to_string(),
                "nothing was changed",
            )
        })?;
        load::utf8(bytes, draft)
    }

    /// Earlier texts of the file, the newest first.
    ///
    /// # Errors
    /// When the ring cannot be read.
    pub fn history(&self) -> Result<Vec<history::Backup>, ConfigError> {
        history::list(&self.kept_dir()).map_err(|e| self.unwritable(&self.kept_dir(), &e))
    }

    fn unwritable(&self, path: &Path, e: &std::io::Error) -> ConfigError {
        let disk = DiskFault::of(e);
        ConfigError {
            disk: Some(disk),
            ..ConfigError::plain(
                None,
                format!("cannot write {}: {e}", path.display()),
                disk.next(),
            )
        }
    }
}
