//! What is wrong with the configuration, told so that it can be mended at once.

use std::fmt;
use std::path::PathBuf;

use crate::disk::DiskFault;

/// Problems told at once; more are counted only.
const MAX_PROBLEMS_SHOWN: usize = 20;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The included file that it is in; `None` when it is in the configuration itself or in no file.
    pub file: Option<PathBuf>,
    /// Line and column, both from 1, in characters; `None` when the problem is not at a place in the file.
    pub position: Option<(usize, usize)>,
    /// Dotted path of the key (`gateway.auth.token`), the flag (`--port`), or empty.
    pub path: String,
    /// What is wrong. Never holds the value of a secret.
    pub message: String,
    /// What was probably meant, what is allowed. May be empty.
    pub help: String,
}

/// The configuration is refused as a whole.
#[derive(Debug, Clone)]
pub struct ConfigError {
    /// The file, when one was read.
    pub file: Option<PathBuf>,
    /// At least one.
    pub problems: Vec<Problem>,
    /// What to do now.
    pub next: String,
    /// Files besides [`ConfigError::file`] that were read or looked for: a change of one may mend it.
    pub files: Vec<PathBuf>,
    /// What the operating system refused, if that is the reason.
    pub disk: Option<DiskFault>,
}

impl Problem {
    /// A problem that has no place in a file.
    pub(crate) fn unplaced(message: impl Into<String>) -> Self {
        Self {
            file: None,
            position: None,
            path: String::new(),
            message: message.into(),
            help: String::new(),
        }
    }
}

impl ConfigError {
    /// One problem that has no place in the file.
    pub(crate) fn plain(
        file: Option<PathBuf>,
        message: impl Into<String>,
        next: impl Into<String>,
    ) -> Self {
        Self {
            file,
            problems: vec![Problem::unplaced(message)],
            files: Vec::new(),
            next: next.into(),
            disk: None,
        }
    }
}

impl ConfigError {
    /// File, line and column of the first problem that has a place.
    pub fn place(&self) -> Option<(PathBuf, usize, usize)> {
        self.problems.iter().find_map(|p| {
            let (line, column) = p.position?;
            let file = p.file.clone().or_else(|| self.file.clone())?;
            Some((file, line, column))
        })
    }
}

impl fmt::Display for ConfigError {
    /// One line a problem: `file:line:column: path: message; help`. The next step is in [`ConfigError::next`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, p) in self.problems.iter().take(MAX_PROBLEMS_SHOWN).enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            match (p.file.as_ref().or(self.file.as_ref()), p.position) {
                (Some(file), Some((line, column))) => {
                    write!(f, "{}:{line}:{column}: ", file.display())?;
                }
                (Some(file), None) if !p.path.starts_with("--") => {
                    write!(f, "{}: ", file.display())?;
                }
                _ => {}
            }
            if !p.path.is_empty() {
                write!(f, "{}: ", p.path)?;
            }
            f.write_str(&p.message)?;
            if !p.help.is_empty() {
                write!(f, " ({})", p.help)?;
            }
        }
        if self.problems.len() > MAX_PROBLEMS_SHOWN {
            write!(
                f,
                "\n… and {} more",
                self.problems.len() - MAX_PROBLEMS_SHOWN
            )?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}
