//! Snapshots of the databases of a running gateway, for who can read its state directory.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::value::NonEmpty;

crate::methods! {
    /// Copies databases and blobs, as they are at one moment each, into a directory that the caller made on the gateway's machine. `gateway backup create` calls it.
    BackupSnapshot = "backup.snapshot", Operator(Admin), Wait, (BackupSnapshotParams) -> BackupSnapshotResult, ours;
}

crate::params! {
    /// Parameters of `backup.snapshot`.
    BackupSnapshotParams {
        required {
            /// Name of a directory below `snapshots/` of the state directory: 16 characters of `[a-z0-9]`. It must be there, so only who can write to the state directory gets anything.
            "snapshotId" snapshot_id: NonEmpty,
        }
        optional {
            /// `tenant` (default): the caller's tenant. `gateway`: the host's database and all tenants; only for the tenant `main`.
            "scope" scope: BackupScope,
        }
        ignored {}
        refused {}
    }
}

/// What is copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BackupScope {
    /// The caller's tenant.
    #[default]
    Tenant,
    /// Everything.
    Gateway,
}

/// Result of `backup.snapshot`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupSnapshotResult {
    /// When the copies were begun, milliseconds since the Unix epoch. What was answered before is in them.
    pub begun_at_ms: i64,
    /// Schema of the host's database, if it was copied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_schema: Option<i64>,
    /// The copied tenants.
    pub tenants: Vec<BackupTenant>,
}

/// A copied tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupTenant {
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
