//! The state directory and the files in it.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::doctor::{Finding, Place};

/// Files that are looked at in all; a state directory has some dozens and its blobs.
const MAX_FILES: usize = 100_000;
/// Loose files that are named in a finding.
const MAX_NAMED: usize = 5;

/// `state-dir`: it is there, a directory, and ours.
pub fn state_dir(place: &Place) -> Vec<Finding> {
    const ID: &str = "state-dir";
    let dir = &place.state_dir;
    vec![match std::fs::metadata(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Finding::error(
            ID,
            format!("{} is not there", dir.display()),
            "`gateway serve` makes it, or name another with --state-dir",
        ),
        Err(e) => Finding::error(
            ID,
            format!("{} cannot be looked at: {e}", dir.display()),
            "run this as the user that the gateway runs as",
        ),
        Ok(meta) if !meta.is_dir() => Finding::error(
            ID,
            format!("{} is not a directory", dir.display()),
            "name another with --state-dir",
        ),
        Ok(meta) => match own_uid() {
            Some(uid) if uid != meta.uid() => Finding::error(
                ID,
                format!(
                    "{} belongs to user {}, this is user {uid}",
                    dir.display(),
                    meta.uid()
                ),
                "run this as the user that the gateway runs as, or chown the directory",
            ),
            _ => Finding::ok(ID, dir.display().to_string()),
        },
    }]
}

/// The user that we are, as `/proc` tells it; where there is none, nobody is refused for it.
fn own_uid() -> Option<u32> {
    std::fs::metadata("/proc/self").ok().map(|m| m.uid())
}

/// `permissions`: nobody else can read or enter anything.
pub fn permissions(place: &Place) -> Vec<Finding> {
    const ID: &str = "permissions";
    let mut loose = Vec::new();
    let mut left = MAX_FILES;
    find_loose(&place.state_dir, &mut loose, &mut left);
    if loose.is_empty() {
        return vec![Finding::ok(
            ID,
            "only the owner can read the state directory",
        )];
    }
    let named: Vec<String> = loose
        .iter()
        .take(MAX_NAMED)
        .map(|(path, mode)| format!("{} ({mode:o})", path.display()))
        .collect();
    let more = match loose.len().saturating_sub(MAX_NAMED) {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    vec![
        Finding::error(
            ID,
            format!("others can get at {}{more}", named.join(", ")),
            format!(
                "gateway doctor --fix, or chmod -R go= {}",
                place.state_dir.display()
            ),
        )
        .with_fix(move || {
            for (path, mode) in &loose {
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode & 0o700))
                    .map_err(|e| format!("{}: {e}", path.display()))?;
            }
            Ok(format!(
                "took {} files and directories from others",
                loose.len()
            ))
        }),
    ]
}

/// Files and directories with rights for others. Links are not followed; their own mode says nothing.
fn find_loose(path: &Path, loose: &mut Vec<(PathBuf, u32)>, left: &mut usize) {
    let Some(n) = left.checked_sub(1) else { return };
    *left = n;
    let Ok(meta) = std::fs::symlink_metadata(path) else {
        return;
    };
    if meta.is_symlink() {
        return;
    }
    let mode = meta.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        loose.push((path.to_owned(), mode));
    }
    if meta.is_dir() {
        for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
            find_loose(&entry.path(), loose, left);
        }
    }
}

/// `leftovers`: copies of databases that a backup which was cut off left behind.
pub fn leftovers(place: &Place) -> Vec<Finding> {
    const ID: &str = "leftovers";
    let snapshots = gateway_store::SnapshotId::parent(&place.state_dir);
    let count = std::fs::read_dir(&snapshots).map_or(0, |d| d.flatten().count());
    if count == 0 {
        return vec![Finding::ok(ID, "nothing unfinished lies about")];
    }
    vec![
        Finding::warning(
            ID,
            format!(
                "{count} unfinished copies of databases in {} (a backup that runs, or that was cut off)",
                snapshots.display()
            ),
            "gateway doctor --fix removes those that nobody works on",
        )
        .with_fix(move || {
            Ok(format!(
                "removed {} unfinished copies",
                gateway_backup::sweep_snapshots(&snapshots)
            ))
        }),
    ]
}
