//! Archives of a state directory.
//!
//! * [`pack`] writes one: a gzipped tar whose first entry, the [`Manifest`], says what follows, with sizes and SHA-256.
//! * [`Archive`] reads one, and believes nothing: regular files only, in the order and of the size that the manifest says,
//!   below names that cannot lead elsewhere.
//! * [`restore`] puts one back by a single exchange of two directory names, [`restore_tenant`] by a single commit.
//!
//! Databases come as snapshots from `gateway-store`; whether a gateway runs is the caller's business.

mod archive;
mod collect;
mod entry;
mod error;
pub mod limits;
mod manifest;
mod pack;
mod place;
mod restore;

pub use archive::{Archive, Verified};
pub use collect::{Collected, Wanted, collect};
pub use entry::EntryPath;
pub use error::BackupError;
pub use manifest::{ArchiveKind, FileEntry, Manifest, TenantEntry};
pub use pack::{Packed, pack};
pub use place::{Room, Unfinished, room, sweep_snapshots};
pub use restore::{Restored, RestoredTenant, TenantOf, restore, restore_tenant};

/// Result of this crate.
pub type Result<T, E = BackupError> = std::result::Result<T, E>;
