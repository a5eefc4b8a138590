//! What can go wrong, and what to do then.

use std::path::Path;

use gateway_store::StoreError;

/// Why an archive could not be made, read or put back. Nothing is half done when it is told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct BackupError {
    /// What happened.
    pub why: String,
    /// What to do.
    pub next: String,
}

impl BackupError {
    pub(crate) fn new(why: impl Into<String>, next: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            next: next.into(),
        }
    }

    /// An archive that is not to be trusted.
    pub(crate) fn archive(why: impl Into<String>) -> Self {
        Self::new(why, "use another backup; nothing was changed")
    }

    pub(crate) fn io(what: &str, path: &Path, e: &std::io::Error) -> Self {
        let next = match e.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                "make room on the disk, or name a place on another one"
            }
            std::io::ErrorKind::PermissionDenied => {
                "run it as the user that the state directory belongs to"
            }
            _ => "check the path, the disk and the permissions",
        };
        Self::new(format!("cannot {what} {}: {e}", path.display()), next)
    }
}

impl From<StoreError> for BackupError {
    fn from(e: StoreError) -> Self {
        let next = match &e {
            StoreError::Locked(_) => "stop the gateway that uses this state directory first",
            StoreError::Newer(_) => "use the version of the gateway that wrote it, or a newer one",
            StoreError::Full => "make room on the disk",
            StoreError::NotFound => {
                "`gateway status` lists the tenants' agents; name a tenant of this gateway"
            }
            _ => "check the disk; `gateway doctor` looks at the stores",
        };
        Self::new(e.to_string(), next)
    }
}
