//! Why the operating system did not let a file be read or written, in kinds that have a next step each.

use std::io;

/// The kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskFault {
    /// No room, or the quota is used up.
    Full,
    /// The disk failed.
    Failed,
    /// The process or the machine has no file descriptor left.
    Descriptors,
    /// The file system takes no writes.
    ReadOnly,
    /// The gateway's user may not.
    Denied,
    /// Anything else.
    Other,
}

impl DiskFault {
    /// The kind of an error.
    #[must_use]
    pub fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly,
            io::ErrorKind::PermissionDenied => Self::Denied,
            _ => by_number(error.raw_os_error()),
        }
    }

    /// It says something about the machine, whatever file was meant.
    #[must_use]
    pub fn is_of_the_machine(self) -> bool {
        matches!(self, Self::Full | Self::Failed | Self::Descriptors)
    }

    /// One word for programs.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Full => "disk-full",
            Self::Failed => "disk-failed",
            Self::Descriptors => "file-descriptors",
            Self::ReadOnly => "read-only",
            Self::Denied => "permission",
            Self::Other => "input-output",
        }
    }

    /// What is the matter.
    #[must_use]
    pub fn why(self) -> &'static str {
        match self {
            Self::Full => "the disk or its quota is full",
            Self::Failed => "the disk failed (EIO)",
            Self::Descriptors => "no file descriptor is left",
            Self::ReadOnly => "the file system is mounted read-only",
            Self::Denied => "the gateway's user has no permission",
            Self::Other => "the operating system refused it",
        }
    }

    /// What to do.
    #[must_use]
    pub fn next(self) -> &'static str {
        match self {
            Self::Full => "make room on the gateway's disk or raise the quota, then try again",
            Self::Failed => {
                "look at the disk (the kernel's log names the fault) and take a backup before you try again"
            }
            Self::Descriptors => {
                "try again when fewer connections are open, or raise the limit of open files (LimitNOFILE, ulimit -n) and restart"
            }
            Self::ReadOnly => {
                "mount the file system of the state directory writable, then try again"
            }
            Self::Denied => {
                "let the gateway's user write to the state directory and the configuration file (`gateway doctor --fix` mends modes)"
            }
            Self::Other => {
                "the gateway's log has the words of the operating system; `gateway doctor` looks at the state directory"
            }
        }
    }
}

#[cfg(unix)]
fn by_number(number: Option<i32>) -> DiskFault {
    use nix::errno::Errno;
    match number.map(Errno::from_raw) {
        Some(Errno::EIO) => DiskFault::Failed,
        Some(Errno::EMFILE | Errno::ENFILE) => DiskFault::Descriptors,
        Some(Errno::EPERM) => DiskFault::Denied,
        _ => DiskFault::Other,
    }
}

#[cfg(not(unix))]
fn by_number(_: Option<i32>) -> DiskFault {
    DiskFault::Other
}

#[cfg(all(test, unix))]
mod tests {
    use nix::errno::Errno;

    use super::*;

    #[test]
    fn each_errno_has_its_kind_and_each_kind_its_words() {
        let cases = [
            (Errno::ENOSPC, DiskFault::Full),
            (Errno::EDQUOT, DiskFault::Full),
            (Errno::EIO, DiskFault::Failed),
            (Errno::EMFILE, DiskFault::Descriptors),
            (Errno::ENFILE, DiskFault::Descriptors),
            (Errno::EROFS, DiskFault::ReadOnly),
            (Errno::EACCES, DiskFault::Denied),
            (Errno::EPERM, DiskFault::Denied),
            (Errno::ELOOP, DiskFault::Other),
        ];
        for (number, kind) in cases {
            let error = io::Error::from_raw_os_error(number as i32);
            assert_eq!(DiskFault::of(&error), kind, "{number}");
        }
        let kinds = [
            DiskFault::Full,
            DiskFault::Failed,
            DiskFault::Descriptors,
            DiskFault::ReadOnly,
            DiskFault::Denied,
            DiskFault::Other,
        ];
        let said: std::collections::BTreeSet<_> = kinds
            .iter()
            .map(|k| (k.reason(), k.why(), k.next()))
            .collect();
        assert_eq!(said.len(), kinds.len());
    }
}
