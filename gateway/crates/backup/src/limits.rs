//! Every bound of this crate, with its unit in the name.

/// Bytes of the manifest of an archive.
pub const MAX_MANIFEST_BYTES: u64 = 64 * 1024 * 1024;
/// Files of an archive.
pub const MAX_FILES: usize = 250_000;
/// Bytes of all files of an archive, unpacked.
pub const MAX_UNPACKED_BYTES: u64 = 1024 * 1024 * 1024 * 1024;
/// Bytes of a name in an archive; what a plain tar header holds without extensions.
pub const MAX_PATH_BYTES: usize = 100;
/// Parts of a name in an archive.
pub const MAX_PATH_PARTS: usize = 8;
/// Bytes of one file of the configuration or of one secret.
pub const MAX_SMALL_FILE_BYTES: u64 = 16 * 1024 * 1024;
/// Percent of a file system that unpacking leaves free.
pub const ROOM_LEFT_PERCENT: u64 = 2;
/// Bytes of that at the most, however large the file system is: as much as a running gateway needs to go on.
pub const ROOM_LEFT_MAX_BYTES: u64 = 64 * 1024 * 1024;
/// Bytes that are copied at a time.
pub const COPY_BYTES: usize = 128 * 1024;
