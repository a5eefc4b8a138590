//! Putting an archive back: everything is unpacked and checked beside its place, then it takes the place at once.

use std::path::{Path, PathBuf};

use gateway_store::{HostDb, SnapshotId, StateDir, StoreOptions, TenantRow, reseal};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::place::{
    Unfinished, dirs_between, need_room, new_file, parent_of, private_dir, sweep, sweep_snapshots,
    sync_dir, sync_tree,
};
use crate::{Archive, ArchiveKind, BackupError, Result};

/// A state directory that was restored.
#[derive(Debug)]
pub struct Restored {
    /// Where what was there before is now, if there was something.
    pub kept: Option<PathBuf>,
    /// Names that the archive has not and that were taken over from what was there before (secrets).
    pub taken_over: Vec<String>,
    /// Files.
    pub files: usize,
}

/// Restores a whole state directory to `target`. No gateway may run on it (its lock is taken). With `force` it may hold
/// something, which is kept beside under `<target>.before-restore-<stamp>`; secrets that the archive does not have are
/// taken over from there.
///
/// # Errors
/// When one is told nothing was changed.
pub fn restore(archive: &Archive, target: &Path, force: bool, stamp: &str) -> Result<Restored> {
    let manifest = archive.manifest();
    if manifest.kind != ArchiveKind::Gateway {
        return Err(BackupError::new(
            "the archive is of one tenant, not of a whole gateway",
            "restore it into a state directory with `gateway backup restore FILE --tenant SLUG`",
        ));
    }
    let parent = parent_of(target);
    let name = target.file_name().ok_or_else(|| {
        BackupError::new(
            "that is no place for a directory",
            "name it with --state-dir",
        )
    })?;
    if std::fs::symlink_metadata(target).is_ok_and(|m| m.is_symlink()) {
        return Err(BackupError::new(
            format!("{} is a link", target.display()),
            "name the directory that it leads to with --state-dir",
        ));
    }
    std::fs::create_dir_all(parent).map_err(|e| BackupError::io("make", parent, &e))?;
    let there = target.exists();
    let full = there && !is_empty(target)?;
    // Held to the end: no gateway begins on the old files meanwhile.
    let old = if full {
        Some(StateDir::open(target)?)
    } else {
        None
    };
    if full && !force {
        return Err(BackupError::new(
            format!("{} holds something already", target.display()),
            "choose another --state-dir, or say --force: what is there is kept beside it",
        ));
    }
    let kept = beside(parent, name, &format!(".before-restore-{stamp}"));
    if full && std::fs::symlink_metadata(&kept).is_ok() {
        return Err(BackupError::new(
            format!("{} is there already", kept.display()),
            "try again in a second",
        ));
    }
    let prefix = format!(".{}.restore-", name.to_string_lossy());
    sweep(parent, &prefix);
    rescue(parent, name, &prefix, stamp);
    need_room(parent, manifest.total_bytes()?)?;
    let staged = Unfinished::make(parent, &prefix)?;
    archive.unpack(staged.path(), |_| true)?;
    archive.check_databases(staged.path(), |_| true)?;
    let taken_over = if old.is_some() && !manifest.secrets {
        take_over(target, staged.path())?
    } else {
        Vec::new()
    };
    sync_tree(staged.path())?;
    // Nobody opens the new files before all is done.
    let lock = StateDir::open(staged.path())?;
    if there {
        // A mark that an earlier restore left would make what is kept look like something unfinished.
        Unfinished::finish(target);
        exchange(staged.path(), target)?;
        let path = staged.path().to_owned();
        staged.kept();
        if full {
            std::fs::rename(&path, &kept).map_err(|e| BackupError::io("rename", &path, &e))?;
        } else {
            // It was empty.
            let _ = std::fs::remove_dir(&path);
        }
    } else {
        renameat_with(CWD, staged.path(), CWD, target, RenameFlags::NOREPLACE)
            .or_else(|e| match e {
                rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS => {
                    std::fs::rename(staged.path(), target)
                }
                e => Err(e.into()),
            })
            .map_err(|e| BackupError::io("make", target, &e))?;
        staged.kept();
    }
    sync_dir(parent)?;
    Unfinished::finish(target);
    drop(lock);
    drop(old);
    Ok(Restored {
        kept: full.then_some(kept),
        taken_over,
        files: manifest.files.len(),
    })
}

/// A restore that was killed between the exchange and the last rename left what was there before under the name of
/// something unfinished, without its mark. It gets the name that it should have.
fn rescue(parent: &Path, name: &std::ffi::OsStr, prefix: &str, stamp: &str) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let found = entry.file_name();
        let Some(id) = found.to_str().and_then(|n| n.strip_prefix(prefix)) else {
            continue;
        };
        let left = SnapshotId::parse(id).is_some()
            && entry.path().join("host.sqlite").exists()
            && !Unfinished::is_marked(&entry.path());
        if left {
            let to = beside(parent, name, &format!(".before-restore-{stamp}-{id}"));
            // Under its old name it is found by the next restore.
            let _ = std::fs::rename(entry.path(), to);
        }
    }
}

fn beside(parent: &Path, name: &std::ffi::OsStr, ending: &str) -> PathBuf {
    let mut with = name.to_owned();
    with.push(ending);
    parent.join(with)
}

/// Two directories change places at one moment. Where the file system cannot do that, there is a moment without either.
fn exchange(staged: &Path, target: &Path) -> Result<()> {
    match renameat_with(CWD, staged, CWD, target, RenameFlags::EXCHANGE) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            let third = staged.with_extension("old");
            let fail = |e: std::io::Error| BackupError::io("replace", target, &e);
            std::fs::rename(target, &third).map_err(fail)?;
            if let Err(e) = std::fs::rename(staged, target) {
                let _ = std::fs::rename(&third, target);
                return Err(fail(e));
            }
            std::fs::rename(&third, staged).map_err(fail)
        }
        Err(rustix::io::Errno::BUSY) => Err(BackupError::new(
            format!(
                "{} cannot be replaced: it is a mount point",
                target.display()
            ),
            "restore to a directory below it, and name that with --state-dir",
        )),
        Err(e) => Err(BackupError::io("replace", target, &e.into())),
    }
}

fn is_empty(dir: &Path) -> Result<bool> {
    let mut entries = std::fs::read_dir(dir).map_err(|e| BackupError::io("look into", dir, &e))?;
    Ok(entries.next().is_none())
}

/// Copies what is secret from the old files to the new ones.
fn take_over(old: &Path, new: &Path) -> Result<Vec<String>> {
    let mut taken = Vec::new();
    for name in ["host.key", "secrets", "gateway"] {
        let from = old.join(name);
        match std::fs::symlink_metadata(&from) {
            Ok(meta) if meta.is_file() => copy_file(&from, &new.join(name))?,
            Ok(meta) if meta.is_dir() => copy_tree(&from, &new.join(name))?,
            _ => continue,
        }
        taken.push(name.to_owned());
    }
    Ok(taken)
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    private_dir(to)?;
    for entry in std::fs::read_dir(from)
        .map_err(|e| BackupError::io("read", from, &e))?
        .flatten()
    {
        let target = to.join(entry.file_name());
        match entry.file_type() {
            Ok(t) if t.is_dir() => copy_tree(&entry.path(), &target)?,
            Ok(t) if t.is_file() => copy_file(&entry.path(), &target)?,
            // Links lead out of the directory; the gateway makes none.
            _ => {}
        }
    }
    Ok(())
}

fn copy_file(from: &Path, to: &Path) -> Result<()> {
    let fail = |e: std::io::Error| BackupError::io("copy", from, &e);
    let mut source = std::fs::File::open(from).map_err(fail)?;
    let mut target = new_file(to)?;
    std::io::copy(&mut source, &mut target).map_err(fail)?;
    target.sync_all().map_err(fail)
}

/// Which tenant of an archive goes where.
#[derive(Debug, Clone, Copy)]
pub struct TenantOf<'a> {
    /// Its name in the archive.
    pub slug: &'a str,
    /// Its name in the state directory.
    pub to: &'a str,
}

/// A tenant that was restored.
#[derive(Debug)]
pub struct RestoredTenant {
    /// Where its files from before are now, if it had some.
    pub kept: Option<PathBuf>,
    /// Secrets that were put in place.
    pub secrets: usize,
}

/// Restores one tenant into a state directory on which no gateway runs. Everything else there stays as it is. The tenant
/// gets the restored files by one commit of the host's database; its files from before stay, no longer referred to. With
/// `force` it may have some.
///
/// # Errors
/// When one is told nothing was changed.
pub fn restore_tenant(
    archive: &Archive,
    state_dir: &Path,
    which: TenantOf<'_>,
    force: bool,
    now_ms: i64,
) -> Result<RestoredTenant> {
    let manifest = archive.manifest();
    let entry = manifest.tenant(which.slug).ok_or_else(|| {
        let slugs: Vec<&str> = manifest.tenants.iter().map(|t| t.slug.as_str()).collect();
        BackupError::new(
            format!("the archive holds no tenant {}", which.slug),
            format!("it holds: {}", slugs.join(", ")),
        )
    })?;
    if !state_dir.join("host.sqlite").exists() {
        return Err(BackupError::new(
            format!("{} is no state directory of a gateway", state_dir.display()),
            "name it with --state-dir; a new one is made by the first `gateway serve`",
        ));
    }
    let state = StateDir::open(state_dir)?;
    let snapshots = SnapshotId::parent(state.path());
    match private_dir(&snapshots) {
        Err(e) if !snapshots.is_dir() => return Err(e),
        _ => {}
    }
    sweep_snapshots(&snapshots);
    let bytes = manifest.files.iter().map(|f| f.bytes).sum();
    need_room(&snapshots, bytes)?;
    let staged = Unfinished::make(&snapshots, "")?;
    let files = format!("tenants/{}/", entry.dir);
    let secrets = format!("secrets/{}/", which.slug);
    archive.unpack(staged.path(), |path| {
        path.as_str() == "host.sqlite"
            || path.as_str().starts_with(&files)
            || path.as_str().starts_with(&secrets)
    })?;
    archive.check_databases(staged.path(), |t| t.slug == which.slug)?;
    let host = HostDb::open(&state, StoreOptions::default())?;
    let known = host.tenants()?.into_iter().find(|t| t.slug == which.to);
    let used = known
        .as_ref()
        .is_some_and(|row| state.tenant_dir(row).join("tenant.sqlite").exists());
    if used && !force {
        return Err(BackupError::new(
            format!("tenant {} has files already", which.to),
            "restore it under another name (--tenant), or say --force: what is there stays beside",
        ));
    }
    let row: TenantRow = match known {
        Some(row) => row,
        None => host.ensure_tenant(which.to, now_ms)?,
    };
    let ready = staged.path().join("tenants").join(&entry.dir);
    reseal(&ready.join("tenant.sqlite"), &row, host.epoch())?;
    sync_tree(&ready)?;
    // Secrets come before the commit: one more without its tenant does no harm, one less with it would.
    let placed = place_secrets(
        &staged.path().join("secrets").join(which.slug),
        &state.path().join("secrets").join(which.to),
        state.path(),
    )?;
    let before = host.place_tenant(&row, &ready)?;
    if !used {
        // It is empty, made only for the row.
        let _ = std::fs::remove_dir(&before);
    }
    Ok(RestoredTenant {
        kept: used.then_some(before),
        secrets: placed,
    })
}

/// Secrets that are not there yet. One that is there counts: it may be newer.
fn place_secrets(from: &Path, to: &Path, root: &Path) -> Result<usize> {
    let Ok(entries) = std::fs::read_dir(from) else {
        return Ok(0);
    };
    dirs_between(root, &to.join("x"))?;
    let mut placed = 0;
    for entry in entries.flatten().filter(|e| e.path().is_file()) {
        let target = to.join(entry.file_name());
        match std::fs::hard_link(entry.path(), &target) {
            Ok(()) => placed += 1,
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(BackupError::io("make", &target, &e)),
        }
    }
    sync_dir(to)?;
    Ok(placed)
}
