//! What can go wrong in the store.

/// The error of every operation of this crate. `Clone`, because one failed commit answers many callers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The disk (or the file's size limit) is full. Nothing of the operation was applied; it may be repeated later.
    #[error("storage is full")]
    Full,
    /// The tenant's files are damaged, or not this tenant's. They are left as they are; see [`crate::TenantDb::set_aside`].
    #[error("the database is damaged (incident {incident})")]
    Corrupt {
        /// Id under which the log holds the details.
        incident: String,
    },
    /// The disk failed under a write or an fsync. Whether the last commits are on the disk is unknown, and no further
    /// write is tried before the process restarts.
    #[error("the database failed while it wrote (incident {incident})")]
    Failed {
        /// Id under which the log holds the details.
        incident: String,
    },
    /// The row is not in the state that the operation needs; the text says which rule was hit.
    #[error("conflict: {0}")]
    Conflict(&'static str),
    /// No such row.
    #[error("not found")]
    NotFound,
    /// A limit was reached; the text names it.
    #[error("limit reached: {0}")]
    Limit(&'static str),
    /// Too much is waiting; the text names the queue. Nothing was applied.
    #[error("busy: {0}")]
    Busy(&'static str),
    /// The database or the pool is closed.
    #[error("the store is closed")]
    Closed,
    /// The closure of the operation panicked; its effects were rolled back.
    #[error("a store operation panicked")]
    Panicked,
    /// Another process holds the state directory.
    #[error("{0}")]
    Locked(String),
    /// The files were written by a newer gateway (newer schema or newer owner epoch) and were not touched.
    #[error("{0}")]
    Newer(String),
    /// The environment can't be used: the file system, the SQLite version, the directory.
    #[error("{0}")]
    Unfit(String),
    /// An operating system error outside SQLite.
    #[error("i/o: {0}")]
    Io(String),
    /// Any other SQLite error (a bug, or a constraint that no method explains).
    #[error("sql: {0}")]
    Sql(String),
}

impl StoreError {
    /// Whether the same operation may succeed later without anybody's help.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Full | Self::Busy(_))
    }

    pub(crate) fn io(what: &str, path: &std::path::Path, e: &std::io::Error) -> Self {
        if e.kind() == std::io::ErrorKind::StorageFull
            || e.kind() == std::io::ErrorKind::QuotaExceeded
        {
            return Self::Full;
        }
        Self::Io(format!("{what} {}: {e}", path.display()))
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(e: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode as C;
        use rusqlite::ffi;
        let Some(code) = e.sqlite_error().copied() else {
            return match e {
                rusqlite::Error::QueryReturnedNoRows => Self::NotFound,
                // Tables are STRICT and only this crate writes them: a text that is none, or a value of another type,
                // was changed on the disk.
                rusqlite::Error::Utf8Error(..)
                | rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::InvalidColumnType(..) => Self::Corrupt {
                    incident: e.to_string(),
                },
                other => Self::Sql(other.to_string()),
            };
        };
        match code.code {
            C::DiskFull => Self::Full,
            // The shared-memory file could not grow: the same full disk, met by another path.
            C::SystemIoFailure if code.extended_code == ffi::SQLITE_IOERR_SHMSIZE => Self::Full,
            // The incident id is filled in by the database handle, which also logs.
            C::SystemIoFailure => Self::Failed {
                incident: e.to_string(),
            },
            C::DatabaseCorrupt | C::NotADatabase => Self::Corrupt {
                incident: e.to_string(),
            },
            C::OperationInterrupted => Self::Busy("LONG_READ_PATIENCE_MS"),
            C::DatabaseBusy | C::DatabaseLocked => Self::Busy("database lock"),
            C::ConstraintViolation
                if code.extended_code == ffi::SQLITE_CONSTRAINT_UNIQUE
                    || code.extended_code == ffi::SQLITE_CONSTRAINT_PRIMARYKEY =>
            {
                Self::Conflict("a row with this key exists")
            }
            _ => Self::Sql(e.to_string()),
        }
    }
}
