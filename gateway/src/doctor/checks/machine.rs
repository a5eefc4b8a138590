//! What the machine gives: room, time, file descriptors.

use std::time::UNIX_EPOCH;

use gateway_backup::{Room, room};

use crate::doctor::{Finding, Place};

/// Free bytes below which nothing works for long.
const ROOM_ERROR_BYTES: u64 = 64 * 1024 * 1024;
/// Free bytes below which somebody should look.
const ROOM_WARNING_BYTES: u64 = 512 * 1024 * 1024;
/// Percent of the inodes below which somebody should look.
const INODES_WARNING_PERCENT: u64 = 3;
/// Descriptors besides those of connections: stores, listeners, pipes, outgoing requests.
const SPARE_DESCRIPTORS: u64 = 256;
/// 2025-01-01, Unix epoch ms: no clock is right before it.
const NOT_BEFORE_MS: i64 = 1_735_689_600_000;
/// How far a file's time may lie in the future, in ms.
const FUTURE_MS: i64 = 120_000;

/// `disk-room` and `inodes`: of the file system that the state directory is on.
pub fn disk(place: &Place) -> Vec<Finding> {
    match room(&place.state_dir) {
        Ok(room) => judge_room(&room),
        Err(e) => vec![Finding::warning(
            "disk-room",
            format!("the room on the disk cannot be asked: {e}"),
            "look with df",
        )],
    }
}

fn judge_room(room: &Room) -> Vec<Finding> {
    const ID: &str = "disk-room";
    const NEXT: &str = "make room: without it nothing is accepted (storage is full)";
    let mib = room.free_bytes / 1_048_576;
    let said = format!("{mib} MiB of {} MiB are free", room.total_bytes / 1_048_576);
    let mut found = vec![if room.free_bytes < ROOM_ERROR_BYTES {
        Finding::error(ID, said, NEXT)
    } else if room.free_bytes < ROOM_WARNING_BYTES {
        Finding::warning(ID, said, NEXT)
    } else {
        Finding::ok(ID, said)
    }];
    if let (Some(free), Some(total)) = (room.free_files, room.total_files) {
        let said = format!("{free} of {total} inodes are free");
        found.push(
            if free < total / 100 * INODES_WARNING_PERCENT || free < 100 {
                Finding::warning(
                    "inodes",
                    said,
                    "remove small files: no new ones can be made soon",
                )
            } else {
                Finding::ok("inodes", said)
            },
        );
    }
    found
}

/// `clock`: not before this program was made, and not before files of the gateway were written.
pub fn clock(place: &Place) -> Vec<Finding> {
    const ID: &str = "clock";
    const NEXT: &str =
        "set the clock (timedatectl set-ntp true): schedules, certificates and logs go by it";
    if place.now_ms < NOT_BEFORE_MS {
        return vec![Finding::error(
            ID,
            "the clock says a time before 2025",
            NEXT,
        )];
    }
    let newest = [
        "host.sqlite",
        "host.sqlite-wal",
        "gateway.json5",
        "run/gateway.json",
    ]
    .iter()
    .filter_map(|name| place.state_dir.join(name).metadata().ok()?.modified().ok())
    .filter_map(|at| i64::try_from(at.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok())
    .max()
    .unwrap_or(0);
    vec![if newest > place.now_ms + FUTURE_MS {
        Finding::warning(
            ID,
            format!(
                "files of the gateway are {} minutes newer than now: the clock was set back",
                (newest - place.now_ms) / 60_000
            ),
            NEXT,
        )
    } else {
        Finding::ok(ID, "not behind what was written")
    }]
}

/// `descriptors`: as many as connections are allowed.
pub fn descriptors(place: &Place) -> Vec<Finding> {
    let (Ok(settings), Ok(limits)) = (
        &place.settings,
        std::fs::read_to_string("/proc/self/limits"),
    ) else {
        return Vec::new();
    };
    let wanted = u64::from(settings.gateway.limits.max_connections) + SPARE_DESCRIPTORS;
    open_files(&limits).map_or_else(Vec::new, |(soft, _)| vec![judge_descriptors(soft, wanted)])
}

fn judge_descriptors(limit: u64, wanted: u64) -> Finding {
    const ID: &str = "descriptors";
    let said = format!(
        "{limit} files may be open, {wanted} are needed for all connections that are allowed"
    );
    if limit < wanted {
        Finding::warning(
            ID,
            said,
            "raise it (ulimit -n, LimitNOFILE= of the unit), or lower gateway.limits.maxConnections",
        )
    } else {
        Finding::ok(ID, said)
    }
}

/// Soft and hard limit of open files in the text of `/proc/…/limits`.
fn open_files(text: &str) -> Option<(u64, u64)> {
    let line = text.lines().find(|l| l.starts_with("Max open files"))?;
    let number = |word: &str| match word {
        "unlimited" => Some(u64::MAX),
        n => n.parse().ok(),
    };
    let mut words = line.split_whitespace().skip(3);
    Some((number(words.next()?)?, number(words.next()?)?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::doctor::Severity;

    #[test]
    fn little_room_is_told() {
        let judge = |free_bytes, free_files| {
            judge_room(&Room {
                free_bytes,
                total_bytes: 1 << 40,
                free_files: Some(free_files),
                total_files: Some(1_000_000),
            })
            .iter()
            .map(|f| f.severity)
            .collect::<Vec<_>>()
        };
        assert_eq!(judge(1 << 30, 500_000), [Severity::Ok, Severity::Ok]);
        assert_eq!(judge(100 << 20, 500_000), [Severity::Warning, Severity::Ok]);
        assert_eq!(judge(1 << 20, 10), [Severity::Error, Severity::Warning]);
    }

    #[test]
    fn the_limit_of_open_files_is_read() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max open files            1024                 unlimited            files     \n";
        assert_eq!(open_files(text), Some((1024, u64::MAX)));
        assert_eq!(open_files("nothing"), None);
        assert_eq!(judge_descriptors(1024, 10_256).severity, Severity::Warning);
        assert_eq!(judge_descriptors(65_536, 10_256).severity, Severity::Ok);
    }
}
