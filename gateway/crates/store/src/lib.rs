//! The only owner of SQLite: one host database, one directory with one database file per tenant.
//!
//! * [`StateDir`] is the lock: one process per state directory.
//! * [`HostDb`] knows tenants, credential hashes and the owner epoch.
//! * [`TenantDb`] is one tenant's store. Writes are closures; everything that waits for one tenant is committed at once
//!   (one fsync), each closure undone alone if it fails, and is answered only after the commit. Reads see a snapshot.
//! * [`Read`] and [`Write`] carry the typed repositories; no SQL leaves this crate.
//!
//! Files are 0600 and directories 0700 whatever the umask is. WAL with `synchronous=FULL`.

mod error;
mod host_db;
pub mod limits;
mod log_room;
mod migrate;
mod model;
mod readings;
mod repo;
mod scripted;
mod snapshot;
mod starts;
mod state_dir;
mod stats;
mod tenant_db;
mod workspace;
mod writer;

pub use error::StoreError;
pub use host_db::{
    ApiKeyRow, Credential, CredentialHash, HostDb, HostKey, StoreOptions, TenantId, TenantRow,
};
pub use migrate::SchemaVersions;
pub use migrate::has_newest_schema;
pub use model::*;
pub use repo::blobs::BlobId;
pub use repo::{Read, Write};
pub use scripted::{CommitScript, Unanswered, WaitingWrites};
pub use snapshot::{
    CheckedDatabase, DatabaseKind, Snapshot, SnapshotId, SnapshotOf, TenantSnapshot,
    check_database, reseal, snapshot,
};
pub use starts::{KeptOff, StartHistory, StartStage};
pub use state_dir::StateDir;
pub use stats::CommitStats;
pub use tenant_db::{StoreExec, SyncMode, TenantDb};
pub use workspace::{WorkspaceFile, Workspaces};
pub use writer::{Pending, WriterPool};

/// Result of this crate.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;
