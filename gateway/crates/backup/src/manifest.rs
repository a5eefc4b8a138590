//! The first entry of an archive: what follows it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::limits::{MAX_FILES, MAX_UNPACKED_BYTES};
use crate::{BackupError, EntryPath, Result};

/// Its name in the archive.
pub(crate) const MANIFEST_NAME: &str = "manifest.json";
/// The layout that this build writes and the newest that it reads.
pub(crate) const FORMAT: u32 = 1;

/// What an archive is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ArchiveKind {
    /// A whole state directory.
    Gateway,
    /// One tenant.
    Tenant,
}

/// What an archive holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Manifest {
    /// Layout of the archive.
    pub format: u32,
    /// What it is of.
    pub kind: ArchiveKind,
    /// Version of the gateway that made it.
    pub made_by: String,
    /// When its databases were copied (before the copy began), milliseconds since the Unix epoch.
    pub made_at_ms: i64,
    /// Whether secrets, the host's key and certificates with their keys are in it.
    pub secrets: bool,
    /// Schema of the host's database; none in the archive of a tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_schema: Option<i64>,
    /// The tenants with a database.
    pub tenants: Vec<TenantEntry>,
    /// What is not in it, and why.
    pub left_out: Vec<String>,
    /// All further entries, in their order.
    pub files: Vec<FileEntry>,
}

/// A tenant of an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TenantEntry {
    /// Its name in the configuration.
    pub slug: String,
    /// Its directory below `tenants/`.
    pub dir: String,
    /// Schema of its database.
    pub schema: i64,
    /// Commits that it had made.
    pub commits: i64,
    /// Blobs that it refers to.
    pub blobs: u64,
}

/// A file of an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FileEntry {
    /// Where it belongs, below the state directory.
    pub path: EntryPath,
    /// Its size.
    pub bytes: u64,
    /// Lower-case hex SHA-256.
    pub sha256: String,
}

impl Manifest {
    /// Reads and checks one.
    ///
    /// # Errors
    /// When it is not one, is of a newer gateway, or contradicts itself.
    pub fn parse(json: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Probe {
            format: u32,
        }
        let broken = |e: serde_json::Error| BackupError::archive(format!("{MANIFEST_NAME}: {e}"));
        let Probe { format } = serde_json::from_slice(json).map_err(broken)?;
        if format != FORMAT {
            return Err(BackupError::new(
                format!("the archive has layout {format}, this gateway reads {FORMAT}"),
                "use the version of the gateway that made it, or a newer one",
            ));
        }
        let manifest: Self = serde_json::from_slice(json).map_err(broken)?;
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<()> {
        if self.files.len() > MAX_FILES {
            return Err(BackupError::archive(format!(
                "the archive names {} files, more than {MAX_FILES}",
                self.files.len()
            )));
        }
        let mut seen = BTreeSet::new();
        for file in &self.files {
            if !seen.insert(file.path.as_str()) {
                return Err(BackupError::archive(format!(
                    "the archive names {} twice",
                    file.path
                )));
            }
            let hex = |text: &str| {
                text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
            };
            let blob_fits = file.path.blob_hash().is_none_or(|hash| hash == file.sha256);
            if !hex(&file.sha256) || !blob_fits {
                return Err(BackupError::archive(format!(
                    "the digest of {} is not one",
                    file.path
                )));
            }
            if file.path.is_secret() && !self.secrets {
                return Err(BackupError::archive(format!(
                    "the archive says that it holds no secrets, and holds {}",
                    file.path
                )));
            }
        }
        self.total_bytes()?;
        let mut slugs = BTreeSet::new();
        let mut dirs = BTreeSet::new();
        for tenant in &self.tenants {
            let database = format!("tenants/{}/tenant.sqlite", tenant.dir);
            let fits = gateway_store::SnapshotId::parse(&tenant.dir).is_some()
                && seen.contains(database.as_str())
                && slugs.insert(tenant.slug.as_str())
                && dirs.insert(tenant.dir.as_str());
            if !fits {
                return Err(BackupError::archive(format!(
                    "tenant {:?} does not fit the files of the archive",
                    tenant.slug
                )));
            }
        }
        let host = seen.contains("host.sqlite");
        let whole = self.kind == ArchiveKind::Gateway;
        if host != whole
            || self.host_schema.is_some() != whole
            || (!whole && self.tenants.len() > 1)
        {
            return Err(BackupError::archive(
                "the archive does not hold what its kind asks for",
            ));
        }
        for path in &seen {
            if path
                .match_indices('/')
                .any(|(at, _)| seen.contains(&path[..at]))
            {
                return Err(BackupError::archive(format!(
                    "{path} lies below a file of the archive"
                )));
            }
            let owner = path
                .strip_prefix("tenants/")
                .and_then(|rest| rest.split('/').next());
            if owner.is_some_and(|dir| !dirs.contains(dir)) {
                return Err(BackupError::archive(format!(
                    "{path} belongs to no tenant of the archive"
                )));
            }
        }
        Ok(())
    }

    /// Bytes of all files.
    ///
    /// # Errors
    /// More than [`MAX_UNPACKED_BYTES`].
    pub fn total_bytes(&self) -> Result<u64> {
        self.files
            .iter()
            .try_fold(0u64, |sum, file| sum.checked_add(file.bytes))
            .filter(|sum| *sum <= MAX_UNPACKED_BYTES)
            .ok_or_else(|| BackupError::archive("the files of the archive are too large"))
    }

    /// The tenant of this slug.
    pub fn tenant(&self, slug: &str) -> Option<&TenantEntry> {
        self.tenants.iter().find(|tenant| tenant.slug == slug)
    }
}
