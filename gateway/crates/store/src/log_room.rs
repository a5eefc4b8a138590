//! Room in the write-ahead log, made before it is needed.
//!
//! A commit that makes the log's file longer waits for the file system's own journal, some milliseconds; a commit into
//! blocks that the file has already waits for the data alone. So the file is made longer in steps, after the answers, with
//! zeros: SQLite takes a frame only if its salt and its checksum fit, so zeros behind the last frame are no frames, and
//! what of them a power loss takes away was nothing. The steps grow with the log, so that a tenant that says little has
//! little, and they end where the log starts over.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::limits::{LOG_STEP_MAX_PAGES, LOG_STEP_MIN_PAGES};

/// Bytes before the first frame, and of one frame (its head and a page).
const LOG_HEAD_BYTES: u64 = 32;
const FRAME_BYTES: u64 = 24 + 4_096;

/// The length in frames that a log with `used` frames should have, if `have` is too little. `restart` is where the log
/// starts over when nobody reads.
fn wanted(used: u64, have: u64, restart: u64) -> Option<u64> {
    let step = used.clamp(LOG_STEP_MIN_PAGES, LOG_STEP_MAX_PAGES);
    // Without a frame it has no head either, and nothing to continue.
    if used == 0 {
        return None;
    }
    // Half a step is left for the commit that comes before the next look.
    if have >= used + step / 2 {
        return None;
    }
    let (end, most) = (used + step, restart + LOG_STEP_MIN_PAGES);
    let end = if used < most { end.min(most) } else { end };
    (end > have).then_some(end)
}

/// Makes the log longer if its `used` frames come close to the end of its file. Only for the thread that writes it.
///
/// # Errors
/// Those of the file system; the file then has its old length.
pub(crate) fn make(log: &Path, used: u64, restart: u64) -> std::io::Result<()> {
    let bytes = std::fs::metadata(log)?.len();
    let have = bytes.saturating_sub(LOG_HEAD_BYTES) / FRAME_BYTES;
    let Some(frames) = wanted(used, have, restart) else {
        return Ok(());
    };
    let file = OpenOptions::new().write(true).open(log)?;
    let mut at = bytes;
    let end = LOG_HEAD_BYTES + frames * FRAME_BYTES;
    // Written and not only reserved: a reserved block costs the journal at its first write.
    let zeros = [0_u8; 16 * 1024];
    let grown = (|| {
        while at < end {
            let n = usize::try_from(end - at).map_or(zeros.len(), |left| left.min(zeros.len()));
            file.write_all_at(&zeros[..n], at)?;
            at += n as u64;
        }
        file.sync_data()
    })();
    if grown.is_err() {
        // A disk that is full keeps its last bytes for those who need them.
        file.set_len(bytes)?;
    }
    grown
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn steps_grow_with_the_log_and_end_where_it_starts_over() {
        let (mut used, mut have, mut steps) = (6, 6, 0);
        while used < 1_000 {
            if let Some(more) = wanted(used, have, 1_000) {
                assert!(more > have && more <= used + LOG_STEP_MAX_PAGES);
                (have, steps) = (more, steps + 1);
            }
            assert!(
                have >= used + LOG_STEP_MIN_PAGES / 2,
                "{used} of {have} frames"
            );
            used += 6;
        }
        assert!(have <= 1_000 + LOG_STEP_MIN_PAGES);
        assert!(steps <= 15, "{steps} steps");
        assert_eq!(wanted(0, 0, 1_000), None);
        assert_eq!(wanted(1_000, have, 1_000), None);
        assert_eq!(wanted(6, 6, 1_000), Some(6 + LOG_STEP_MIN_PAGES));
        // Readers that keep the log from starting over: it goes on growing in steps.
        assert_eq!(
            wanted(2_000, 1_064, 1_000),
            Some(2_000 + LOG_STEP_MAX_PAGES)
        );
    }

    #[test]
    fn the_file_gets_zeros_behind_what_it_has_and_no_more_than_a_step() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("t-wal");
        std::fs::write(&log, vec![7_u8; 10_000]).unwrap();
        make(&log, 2, 1_000).unwrap();
        let bytes = std::fs::read(&log).unwrap();
        assert_eq!(
            bytes.len() as u64,
            32 + (2 + LOG_STEP_MIN_PAGES) * FRAME_BYTES
        );
        assert!(bytes[..10_000].iter().all(|b| *b == 7));
        assert!(bytes[10_000..].iter().all(|b| *b == 0));
        make(&log, 3, 1_000).unwrap();
        assert_eq!(std::fs::read(&log).unwrap(), bytes, "there is room");
        assert!(make(&dir.path().join("none"), 2, 1_000).is_err());
    }
}
