//! Memory pressure: before the system ends the whole process, it gives up what costs the fewest people the least.
//!
//! From [`TIGHT_PERCENT`] of the limit on, new connections are refused, clients that do not read what waits for them are cut off,
//! and instances of guests without work are given back. From [`CRITICAL_PERCENT`] on the largest guest is ended, one at a time. The limit
//! is `gateway.limits.memoryMb`, or that of the control group; without either nothing is watched.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use crate::{
    app::App,
    limits::{CRITICAL_PERCENT, MEMORY_LOOK_MS, RELAX_PERCENT, SHED_QUEUE_BYTES, TIGHT_PERCENT},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Calm,
    Tight,
    Critical,
}

impl Level {
    /// The level at this share of the limit. It is left only when there is a good deal less, so that it does not flicker.
    fn next(self, percent: u64) -> Self {
        let reached = match percent {
            p if p >= CRITICAL_PERCENT => Self::Critical,
            p if p >= TIGHT_PERCENT => Self::Tight,
            _ => Self::Calm,
        };
        let kept = match percent + RELAX_PERCENT {
            p if p >= CRITICAL_PERCENT => Self::Critical,
            p if p >= TIGHT_PERCENT => Self::Tight,
            _ => Self::Calm,
        };
        reached.max(kept.min(self))
    }
}

/// Watches until the listener stops.
pub(crate) async fn watch(app: Arc<App>) {
    let group = control_group();
    let mut changes = app.host.config_changes();
    let mut level = Level::Calm;
    loop {
        let configured = app.host.settings().gateway.limits.memory_mb;
        let configured = configured.map(|mb| u64::from(mb) * 1024 * 1024);
        if configured.is_none() && group.is_none() && level == Level::Calm {
            tokio::select! {
                () = app.stop.cancelled() => return,
                changed = changes.changed() => if changed.is_err() { return },
            }
            continue;
        }
        let shares = [
            configured.and_then(|limit| Some((own_bytes()?, limit))),
            group.as_ref().and_then(Group::bytes),
        ];
        let percent = shares
            .into_iter()
            .flatten()
            .map(|(used, limit)| used.saturating_mul(100) / limit.max(1))
            .max()
            .unwrap_or(0);
        let now = level.next(percent);
        if now != level {
            tracing::warn!(percent, level = ?now, was = ?level, "memory of the process");
            level = now;
            app.budget.shed(level > Level::Calm);
        }
        if level > Level::Calm {
            let cut = app.timer.cut_slower_than(SHED_QUEUE_BYTES);
            if cut > 0 {
                tracing::warn!(cut, "clients that do not read are cut off: memory is short");
            }
            if let Some((owner, bytes)) = app.host.relieve_memory(level == Level::Critical) {
                tracing::warn!(%owner, bytes, "the largest guest is ended: memory is short");
            }
        }
        tokio::select! {
            () = app.stop.cancelled() => return,
            () = tokio::time::sleep(Duration::from_millis(MEMORY_LOOK_MS)) => {}
        }
    }
}

/// Bytes that this process alone holds; pages of files are not counted, the system can take those back.
fn own_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib = |name: &str| -> u64 {
        status
            .lines()
            .find_map(|line| {
                line.strip_prefix(name)?
                    .split_whitespace()
                    .next()?
                    .parse()
                    .ok()
            })
            .unwrap_or(0)
    };
    Some((kib("RssAnon:") + kib("RssShmem:")) * 1024)
}

/// A control group whose limit of memory counts for this process.
#[derive(Debug, PartialEq, Eq)]
struct Group {
    dir: PathBuf,
    files: &'static Files,
}

/// How a version of control groups names what it tells.
#[derive(Debug, PartialEq, Eq)]
struct Files {
    limit: &'static str,
    used: &'static str,
    /// Line of `memory.stat` with the pages of files that nobody used for a while, descendants included.
    inactive: &'static str,
}

const V2: Files = Files {
    limit: "memory.max",
    used: "memory.current",
    inactive: "inactive_file ",
};
const V1: Files = Files {
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    inactive: "total_inactive_file ",
};
/// Limits from here on are the first version's word for none, in bytes.
const NO_LIMIT_BYTES: u64 = 1 << 60;

/// The control group with the smallest limit of those that hold this process, if one of them has any.
fn control_group() -> Option<Group> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    group_of(&groups, Path::new("/sys/fs/cgroup"))
}

/// The same for what `/proc/self/cgroup` says, and where control groups are mounted.
fn group_of(groups: &str, mounted: &Path) -> Option<Group> {
    let mut smallest: Option<(u64, Group)> = None;
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(own)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let (bases, files): (&[&str], _) = if controllers.is_empty() {
            // Beside the first version the second one is mounted a step deeper.
            (&["", "unified"], &V2)
        } else if controllers.split(',').any(|c| c == "memory") {
            (&["memory"], &V1)
        } else {
            continue;
        };
        // Seen from inside of another group a path may lead out of what is mounted: then the top is what is known.
        let own = own.trim_start_matches('/');
        let own = if own.split('/').any(|step| step == "..") {
            ""
        } else {
            own
        };
        for base in bases {
            let top = mounted.join(base);
            let mut dir = top.join(own);
            while dir.starts_with(&top) {
                if let Some(limit) = number(&dir.join(files.limit))
                    && limit < NO_LIMIT_BYTES
                    && smallest.as_ref().is_none_or(|(least, _)| limit < *least)
                {
                    let dir = dir.clone();
                    smallest = Some((limit, Group { dir, files }));
                }
                if !dir.pop() {
                    break;
                }
            }
        }
    }
    smallest.map(|(_, group)| group)
}

impl Group {
    /// What the group holds and may hold, in bytes. Pages of files that nobody used for a while are not counted.
    fn bytes(&self) -> Option<(u64, u64)> {
        let limit = number(&self.dir.join(self.files.limit)).filter(|n| *n < NO_LIMIT_BYTES)?;
        let used = number(&self.dir.join(self.files.used))?;
        let stat = std::fs::read_to_string(self.dir.join("memory.stat")).ok()?;
        let inactive = stat
            .lines()
            .find_map(|line| line.strip_prefix(self.files.inactive)?.parse().ok())
            .unwrap_or(0);
        Some((used.saturating_sub(inactive), limit))
    }
}

/// `None` also for `max`.
fn number(file: &Path) -> Option<u64> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_left_later_than_they_are_reached() {
        let mut level = Level::Calm;
        let mut seen = Vec::new();
        for percent in [10, 84, 85, 80, 94, 95, 90, 84, 80, 74, 85, 99, 10] {
            level = level.next(percent);
            seen.push(level);
        }
        use Level::{Calm, Critical, Tight};
        assert_eq!(
            seen,
            [
                Calm, Calm, Tight, Tight, Tight, Critical, Critical, Tight, Tight, Calm, Tight,
                Critical, Calm
            ]
        );
    }

    fn put(root: &Path, dir: &str, files: &[(&str, &str)]) {
        std::fs::create_dir_all(root.join(dir)).unwrap();
        for (name, text) in files {
            std::fs::write(root.join(dir).join(name), text).unwrap();
        }
    }

    /// The texts are those of real systems: a unit of systemd, a container with a name space of its own, a container of the
    /// first version, and both versions side by side.
    #[test]
    fn the_smallest_limit_above_this_process_counts() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let of = |text: &str| {
            let group = group_of(text, root)?;
            let place = group.dir.strip_prefix(root).unwrap().to_owned();
            Some((place.to_string_lossy().into_owned(), group.bytes()?))
        };
        let unit = "0::/system.slice/gateway.service\n";
        assert_eq!(of(unit), None, "nothing is mounted");
        let stat = "anon 4096\nfile 8192\ninactive_file 1000\nactive_file 7192\n";
        let group = |max: &'static str| {
            [
                ("memory.max", max),
                ("memory.current", "50001000\n"),
                ("memory.stat", stat),
            ]
        };
        put(root, "system.slice", &group("max\n"));
        put(root, "system.slice/gateway.service", &group("max\n"));
        assert_eq!(of(unit), None, "nobody set a limit");
        put(root, "system.slice/gateway.service", &group("200000000\n"));
        let own = "system.slice/gateway.service".to_owned();
        assert_eq!(of(unit), Some((own, (50_000_000, 200_000_000))));
        put(root, "system.slice", &group("100000000\n"));
        let slice = "system.slice".to_owned();
        assert_eq!(of(unit), Some((slice.clone(), (50_000_000, 100_000_000))));
        // A path that is not there is that of another name space: what is above it counts.
        assert_eq!(
            of("0::/system.slice/gone.scope\n").map(|(dir, _)| dir),
            Some(slice)
        );
        assert_eq!(of("0::/../../elsewhere\n"), None);
        put(root, "", &group("300000000\n"));
        for container in ["0::/\n", "0::/../../elsewhere\n"] {
            assert_eq!(
                of(container),
                Some((String::new(), (50_000_000, 300_000_000)))
            );
        }
        for broken in ["", "\n", "0", "0:", "0::", "::/", "a:b\n0:x:/system.slice"] {
            let found = of(broken).map(|(dir, _)| dir);
            assert!(
                found.is_none() || found.as_deref() == Some(""),
                "{broken:?}: {found:?}"
            );
        }
    }

    #[test]
    fn the_first_version_is_read_as_well() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let text = "9:name=systemd:/\n5:cpu,cpuacct:/docker/ab\n4:memory:/docker/ab\n0::/\n";
        let group = |limit: &'static str| {
            [
                ("memory.limit_in_bytes", limit),
                ("memory.usage_in_bytes", "80000000\n"),
                (
                    "memory.stat",
                    "inactive_file 7\ntotal_inactive_file 30000000\n",
                ),
            ]
        };
        put(root, "memory", &group("9223372036854771712\n"));
        assert_eq!(group_of(text, root), None, "that is no limit");
        // In a container its own group is mounted at the top, and the path is that of the machine.
        put(root, "memory", &group("104857600\n"));
        let found = group_of(text, root).unwrap();
        assert_eq!(
            (found.dir.as_path(), found.files),
            (root.join("memory").as_path(), &V1)
        );
        assert_eq!(found.bytes(), Some((50_000_000, 104_857_600)));
        put(root, "unified", &[("memory.max", "1000\n")]);
        assert_eq!(group_of(text, root).unwrap().files, &V2);
    }

    #[test]
    fn this_process_holds_something() {
        assert!(own_bytes().unwrap() > 100_000);
    }
}
