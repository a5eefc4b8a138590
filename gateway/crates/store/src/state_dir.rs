//! The state directory: private, on a local disk, held by one process.

use crate::limits::DYING_HOLDER_WAIT_MS;
use crate::{Result, StoreError, TenantRow};
use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// File systems whose locks or fsync can't be relied on over the network.
const NETWORK_FS: &[&str] = &[
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "ncpfs",
    "afs",
    "coda",
    "ceph",
    "glusterfs",
    "lustre",
    "beegfs",
    "fuse.sshfs",
    "fuse.glusterfs",
    "fuse.s3fs",
    "fuse.rclone",
    "fuse.ceph",
];

/// The open state directory. The lock is held as long as this value (or a clone of the `Arc` around it) lives.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    lock: File,
}

impl StateDir {
    /// Makes the directory (0700) if it is not there, refuses a network file system, and takes the exclusive lock
    /// (`state.lock`). The error names the process that holds it. One that is just ending is waited for, at most
    /// [`DYING_HOLDER_WAIT_MS`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        crate::migrate::assert_sqlite_version()?;
        let path = path.as_ref();
        private_dir(path)?;
        let path = path
            .canonicalize()
            .map_err(|e| StoreError::io("resolve", path, &e))?;
        refuse_network_fs(&path)?;
        let lock_path = path.join("state.lock");
        let mut lock = private_file(&lock_path)?;
        take_lock(&mut lock, &path, &lock_path)?;
        let pid = format!("{}\n", std::process::id());
        lock.set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| lock.write_all(pid.as_bytes()))
            .map_err(|e| StoreError::io("write", &lock_path, &e))?;
        Ok(Self { path, lock })
    }

    /// The process that holds the directory now, if one does. Nothing is made and nothing is kept locked.
    ///
    /// # Errors
    /// Those of the file system; [`StoreError::Locked`] when the holder is not known.
    pub fn holder(path: impl AsRef<Path>) -> Result<Option<u32>> {
        let lock_path = path.as_ref().join("state.lock");
        let mut lock = match File::open(&lock_path) {
            Ok(lock) => lock,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(StoreError::io("open", &lock_path, &e)),
        };
        match lock.try_lock_shared() {
            Ok(()) => return Ok(None),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(e)) => return Err(StoreError::io("lock", &lock_path, &e)),
        }
        let mut holder = String::new();
        let _ = lock.read_to_string(&mut holder);
        let pid = holder.trim().parse();
        pid.map(Some).map_err(|_| {
            StoreError::Locked(format!(
                "{} is held by another process",
                lock_path.display()
            ))
        })
    }

    /// Lets another process have the directory while this value still lives. The stores must be closed: this process
    /// writes nothing there any more.
    ///
    /// # Errors
    /// Those of the system's lock.
    pub fn release(&self) -> Result<()> {
        self.lock
            .unlock()
            .map_err(|e| StoreError::io("unlock", &self.path.join("state.lock"), &e))
    }

    /// The directory, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The workspaces of its agents.
    pub fn workspaces(&self) -> crate::Workspaces {
        crate::Workspaces::new(self.path.join("workspaces"))
    }

    /// Where a tenant's files are.
    pub fn tenant_dir(&self, tenant: &TenantRow) -> PathBuf {
        self.path.join("tenants").join(&tenant.dir)
    }
}

/// Makes a directory that only its owner can enter, whatever the umask is; narrows one that is there.
pub(crate) fn private_dir(path: &Path) -> Result<()> {
    if let Some(parent) = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty() && !p.exists())
    {
        std::fs::create_dir_all(parent).map_err(|e| StoreError::io("create", parent, &e))?;
    }
    let made = match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => true,
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => false,
        Err(e) => return Err(StoreError::io("create", path, &e)),
    };
    let meta = std::fs::metadata(path).map_err(|e| StoreError::io("look at", path, &e))?;
    if !meta.is_dir() {
        return Err(StoreError::Unfit(format!(
            "{} is not a directory",
            path.display()
        )));
    }
    if meta.permissions().mode() & 0o777 != 0o700 {
        std::fs::set_permissions(path, Permissions::from_mode(0o700))
            .map_err(|e| StoreError::io("make private", path, &e))?;
    }
    if made && let Some(parent) = path.parent() {
        sync_dir(if parent.as_os_str().is_empty() {
            Path::new(".")
        } else {
            parent
        })?;
    }
    Ok(())
}

/// The exclusive lock. A process that was killed holds it until its last thread is gone, and one that only asks who holds it
/// ([`StateDir::holder`]) has it for a moment: neither is in the way of a start.
fn take_lock(lock: &mut File, path: &Path, lock_path: &Path) -> Result<()> {
    let begun = Instant::now();
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(e)) => return Err(StoreError::io("lock", lock_path, &e)),
        }
        let mut holder = String::new();
        let _ = lock.rewind();
        let _ = lock.read_to_string(&mut holder);
        let pid = holder.lines().next().unwrap_or("").trim();
        if !is_alive(pid) && begun.elapsed() < Duration::from_millis(DYING_HOLDER_WAIT_MS) {
            std::thread::sleep(Duration::from_millis(10));
            continue;
        }
        let (who, stop) = if pid.is_empty() {
            ("another process".to_owned(), "stop it".to_owned())
        } else {
            (format!("process {pid}"), format!("stop it (kill {pid})"))
        };
        return Err(StoreError::Locked(format!(
            "the state directory {} is in use by {who}: {stop}, talk to it with `gateway call`, or choose another --state-dir",
            path.display()
        )));
    }
}

/// Whether a process runs, as far as the system tells: one that has ended and was not waited for does not.
fn is_alive(pid: &str) -> bool {
    if pid.parse::<u32>().is_err() {
        return false;
    }
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid).join("stat"));
    let state = stat.as_deref().ok().and_then(|line| {
        // The name before it may hold brackets and blanks.
        line.rsplit_once(')')?.1.trim_start().chars().next()
    });
    !matches!(state, None | Some('Z' | 'X'))
}

/// Opens (and makes) a file that only its owner can read, whatever the umask is; narrows one that is there.
pub(crate) fn private_file(path: &Path) -> Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|e| StoreError::io("open", path, &e))?;
    let mode = file
        .metadata()
        .map_err(|e| StoreError::io("look at", path, &e))?
        .permissions()
        .mode();
    if mode & 0o777 != 0o600 {
        file.set_permissions(Permissions::from_mode(0o600))
            .map_err(|e| StoreError::io("make private", path, &e))?;
    }
    Ok(file)
}

/// Writes a whole private file so that it is there completely or not at all, also after a power loss.
pub(crate) fn write_private_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let tmp = dir.join(format!(".tmp-{}", random_name()?));
    let written = private_file(&tmp).and_then(|mut f| {
        f.write_all(bytes)
            .and_then(|()| f.sync_all())
            .map_err(|e| StoreError::io("write", &tmp, &e))?;
        std::fs::rename(&tmp, path).map_err(|e| StoreError::io("rename to", path, &e))
    });
    if let Err(e) = written {
        let _ = std::fs::remove_file(&tmp);
        return Err(e);
    }
    sync_dir(dir)
}

/// Makes the entries of a directory durable.
pub(crate) fn sync_dir(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|d| d.sync_all())
        .map_err(|e| StoreError::io("sync", path, &e))
}

/// 16 random characters of `[a-z0-9]` (82 bits).
pub(crate) fn random_name() -> Result<String> {
    const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut name = String::with_capacity(16);
    while name.len() < 16 {
        let mut bytes = [0u8; 32];
        getrandom::fill(&mut bytes).map_err(|e| StoreError::Io(format!("random numbers: {e}")))?;
        // 252 is the largest multiple of 36 below 256: no letter is likelier than another.
        name.extend(
            bytes
                .iter()
                .filter(|b| **b < 252)
                .take(16 - name.len())
                .map(|b| char::from(ALPHABET[usize::from(b % 36)])),
        );
    }
    Ok(name)
}

fn refuse_network_fs(path: &Path) -> Result<()> {
    // Linux only; elsewhere the table is missing and nothing is refused.
    let Ok(table) = std::fs::read_to_string("/proc/self/mountinfo") else {
        return Ok(());
    };
    match network_fs(&table, path) {
        None => Ok(()),
        Some(fs) => Err(StoreError::Unfit(format!(
            "the state directory {} is on a network file system ({fs}), where SQLite can lose data: choose a --state-dir on a local disk",
            path.display()
        ))),
    }
}

/// The file system type of the mount that holds `path`, if it is one over the network.
fn network_fs(mountinfo: &str, path: &Path) -> Option<String> {
    let mut best: Option<(usize, &str)> = None;
    for line in mountinfo.lines() {
        let mut halves = line.splitn(2, " - ");
        let (Some(left), Some(right)) = (halves.next(), halves.next()) else {
            continue;
        };
        let (Some(point), Some(fs)) = (left.split(' ').nth(4), right.split(' ').next()) else {
            continue;
        };
        let point = point.replace("\\040", " ");
        // Later lines cover earlier ones of the same length.
        if path.starts_with(&point) && best.is_none_or(|(len, _)| point.len() >= len) {
            best = Some((point.len(), fs));
        }
    }
    best.map(|(_, fs)| fs)
        .filter(|fs| NETWORK_FS.contains(fs))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn the_mount_that_counts_is_the_longest() {
        let table = "22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n\
                     40 22 0:40 / /srv/share rw - nfs4 host:/x rw\n\
                     41 40 8:2 / /srv/share/local\\040disk rw - ext4 /dev/sdb1 rw\n";
        assert_eq!(network_fs(table, Path::new("/var/lib")), None);
        assert_eq!(
            network_fs(table, Path::new("/srv/share/gateway")).as_deref(),
            Some("nfs4")
        );
        assert_eq!(network_fs(table, Path::new("/srv/shared")), None);
        assert_eq!(
            network_fs(table, Path::new("/srv/share/local disk/g")),
            None
        );
    }

    #[test]
    fn random_names_have_the_shape_and_differ() {
        let a = random_name().unwrap();
        assert_eq!(a.len(), 16);
        assert!(
            a.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        );
        assert_ne!(a, random_name().unwrap());
    }
}
