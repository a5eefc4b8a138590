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
            group.as_deref().and_then(group_bytes),
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

/// The control group (v2) with the smallest limit of those that hold this process, if one of them has any.
fn control_group() -> Option<PathBuf> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let mut dir = PathBuf::from("/sys/fs/cgroup").join(own);
    let mut smallest: Option<(u64, PathBuf)> = None;
    while dir.starts_with("/sys/fs/cgroup") {
        if let Some(limit) = number(dir.join("memory.max"))
            && smallest.as_ref().is_none_or(|(least, _)| limit < *least)
        {
            smallest = Some((limit, dir.clone()));
        }
        if !dir.pop() {
            break;
        }
    }
    smallest.map(|(_, dir)| dir)
}

/// What the group holds and may hold, in bytes. Pages of files that nobody used for a while are not counted.
fn group_bytes(dir: &Path) -> Option<(u64, u64)> {
    let limit = number(dir.join("memory.max"))?;
    let current = number(dir.join("memory.current"))?;
    let stat = std::fs::read_to_string(dir.join("memory.stat")).ok()?;
    let inactive = stat
        .lines()
        .find_map(|line| line.strip_prefix("inactive_file ")?.parse().ok())
        .unwrap_or(0);
    Some((current.saturating_sub(inactive), limit))
}

/// `None` also for `max`.
fn number(file: PathBuf) -> Option<u64> {
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

    #[test]
    fn this_process_holds_something() {
        assert!(own_bytes().unwrap() > 100_000);
    }
}
