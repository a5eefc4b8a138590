//! The listener's certificate: made at first use or given by the operator, checked before it is served, changed while the
//! gateway runs.
//!
//! ```text
//! gateway/tls/gateway-{cert,key}.pem        the pair that is served
//! gateway/tls-next/gateway-{cert,key}.pem   the pair after it, made ahead so that clients can pin both
//! ```
//! A pair lives in a folder of its own and is put in place by renaming that folder: a half pair cannot come from us.

mod der;
mod live;
mod make;
mod pair;

use std::fmt;
use std::path::{Path, PathBuf};

use gateway_config::TlsSource;

pub use live::{CertificateStatus, Certificates};
pub(crate) use make::host_name;
pub use make::{CertificateNames, finish_next, make_own, prepare_next};
pub use pair::{CertificateInfo, CertificatePair};

/// File name of a certificate that we made.
pub const CERT_FILE: &str = "gateway-cert.pem";
/// File name of a key that we made.
pub const KEY_FILE: &str = "gateway-key.pem";

/// Where a certificate (chain) and its key are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairFiles {
    /// PEM, the leaf first.
    pub cert: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

impl PairFiles {
    fn in_dir(dir: &Path) -> Self {
        Self {
            cert: dir.join(CERT_FILE),
            key: dir.join(KEY_FILE),
        }
    }

    /// The pair that the gateway of this state directory makes for itself.
    #[must_use]
    pub fn own(state_dir: &Path) -> Self {
        Self::in_dir(&own_dir(state_dir))
    }

    /// The pair after it, if one was prepared.
    #[must_use]
    pub fn next(state_dir: &Path) -> Self {
        Self::in_dir(&next_dir(state_dir))
    }

    /// The pair that the settings name.
    #[must_use]
    pub fn of(source: &TlsSource, state_dir: &Path) -> Self {
        match source {
            TlsSource::Own { .. } => Self::own(state_dir),
            TlsSource::Files { cert, key } => Self {
                cert: cert.clone(),
                key: key.clone(),
            },
        }
    }
}

fn own_dir(state_dir: &Path) -> PathBuf {
    state_dir.join("gateway").join("tls")
}

fn next_dir(state_dir: &Path) -> PathBuf {
    state_dir.join("gateway").join("tls-next")
}

/// Why a certificate is not served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsError {
    /// The file that is at fault.
    pub file: PathBuf,
    /// What is wrong, without a path: any tenant's health may show it.
    pub why: String,
    /// What to do.
    pub next: String,
}

impl TlsError {
    fn new(file: &Path, why: impl Into<String>, next: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            why: why.into(),
            next: next.into(),
        }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file.display(), self.why)
    }
}

impl std::error::Error for TlsError {}

#[cfg(test)]
mod tests;
