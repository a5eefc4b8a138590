//! `gateway doctor`: what is wrong with a gateway's place, why, and what mends it.
//!
//! A check looks and gives [`Finding`]s; it changes nothing. A finding may carry a [`Fix`], which is safe to do by itself.
//! With `--fix` the checks run, the fixes are done, and the checks run again: before, what was done, after.

mod checks;

use std::path::PathBuf;

use gateway_config::{ConfigError, Settings};
use serde::Serialize;

use crate::run_file::RunFile;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It is as it should be.
    Ok,
    /// It works, and somebody should look.
    Warning,
    /// It does not work, or is not safe.
    Error,
}

/// Something that can be done without asking.
pub type Fix = Box<dyn FnOnce() -> Result<String, String>>;

/// What a check found.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// Stable id of the check.
    pub id: &'static str,
    /// How bad.
    pub severity: Severity,
    /// What was found.
    pub what: String,
    /// What to do; empty where all is well.
    pub next: String,
    /// Whether `--fix` does it.
    pub fixable: bool,
    /// How `--fix` does it.
    #[serde(skip)]
    pub fix: Option<Fix>,
}

impl Finding {
    fn ok(id: &'static str, what: impl Into<String>) -> Self {
        Self::new(id, Severity::Ok, what, "")
    }

    fn warning(id: &'static str, what: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(id, Severity::Warning, what, next)
    }

    fn error(id: &'static str, what: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(id, Severity::Error, what, next)
    }

    fn new(
        id: &'static str,
        severity: Severity,
        what: impl Into<String>,
        next: impl Into<String>,
    ) -> Self {
        Self {
            id,
            severity,
            what: what.into(),
            next: next.into(),
            fixable: false,
            fix: None,
        }
    }

    fn with_fix(mut self, fix: impl FnOnce() -> Result<String, String> + 'static) -> Self {
        self.fixable = true;
        self.fix = Some(Box::new(fix));
        self
    }
}

/// What the checks look at.
pub struct Place {
    /// The state directory, absolute.
    pub state_dir: PathBuf,
    /// The configuration, or what is wrong with it.
    pub settings: Result<Settings, ConfigError>,
    /// What the last gateway left in `run/`, alive or not.
    pub run_file: Option<RunFile>,
    /// The gateway that runs on the directory.
    pub running: Option<RunFile>,
    /// What that gateway says of itself: its version and health, or why it does not answer.
    pub answer: Option<Result<serde_json::Value, String>>,
    /// Wall clock, Unix epoch ms.
    pub now_ms: i64,
}

/// Runs all checks, in an order that a person would follow.
pub fn look(place: &Place) -> Vec<Finding> {
    let mut found = checks::files::state_dir(place);
    if !place.state_dir.is_dir() {
        return found;
    }
    for check in [
        checks::files::permissions,
        checks::files::leftovers,
        checks::machine::disk,
        checks::machine::clock,
        checks::machine::descriptors,
        checks::config::file,
        checks::config::secrets,
        checks::config::certificate,
        checks::config::plugins,
        checks::stores::databases,
        checks::running::port,
        checks::running::stops,
        checks::running::gateway,
        checks::running::discovery,
        checks::running::tailscale,
    ] {
        found.extend(check(place));
    }
    found
}
