//! The tenant's own log lines: a bounded ring that `logs.tail` reads, with secrets taken out before a line is kept.
//!
//! Offsets are bytes since the process started, as if the ring were the tail of an endless file, so that a
//! client can go on from the cursor it was given and learns how much it missed.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::limits::{LOG_LINE_MAX_BYTES, LOG_RING_MAX_BYTES};

/// Text put in the place of a secret.
pub const REDACTED: &str = "__OPENCLAW_REDACTED__";
/// Secrets shorter than this (bytes) are not searched for: they would hide ordinary words.
const MIN_SECRET_BYTES: usize = 6;

/// Replaces known secret values in text.
#[derive(Clone, Default)]
pub struct Redactor {
    secrets: Arc<[Box<str>]>,
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Redactor({} secrets)", self.secrets.len())
    }
}

impl Redactor {
    /// Knows these secret values; very short ones are left out.
    #[must_use]
    pub fn new(secrets: impl IntoIterator<Item = String>) -> Self {
        let mut list: Vec<Box<str>> = secrets
            .into_iter()
            .filter(|s| s.len() >= MIN_SECRET_BYTES)
            .map(String::into_boxed_str)
            .collect();
        // A longer secret may contain a shorter one: it has to go first.
        list.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        list.dedup();
        Self {
            secrets: list.into(),
        }
    }

    /// `text` without any known secret.
    #[must_use]
    pub fn clean(&self, text: &str) -> String {
        let mut out = text.to_owned();
        for secret in self.secrets.iter() {
            if out.contains(&**secret) {
                out = out.replace(&**secret, REDACTED);
            }
        }
        out
    }
}

/// Where kept lines also go (a log file opened by the embedding program); called outside any lock of the ring.
pub trait LogSink: Send + Sync + 'static {
    /// Appends one line that has no line break.
    fn append(&self, line: &str);
}

/// What [`LogBook::tail`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tail {
    /// Where the next read goes on, in bytes.
    pub cursor: u64,
    /// Bytes written since the start.
    pub size: u64,
    /// The lines, oldest first.
    pub lines: Vec<String>,
    /// Whether lines were left out because of a limit.
    pub truncated: bool,
    /// Whether the given cursor was not of this log (it was beyond its end).
    pub reset: bool,
    /// Bytes between the given cursor and the first line given.
    pub skipped_bytes: u64,
}

#[derive(Default)]
struct Ring {
    lines: VecDeque<(u64, Box<str>)>,
    kept_bytes: usize,
    end: u64,
}

/// The ring of one tenant (or of the host itself).
pub struct LogBook {
    ring: Mutex<Ring>,
    redactor: arc_swap::ArcSwap<Redactor>,
    sink: Option<Arc<dyn LogSink>>,
}

impl LogBook {
    /// An empty ring.
    #[must_use]
    pub fn new(redactor: Redactor, sink: Option<Arc<dyn LogSink>>) -> Self {
        Self {
            ring: Mutex::new(Ring::default()),
            redactor: arc_swap::ArcSwap::from_pointee(redactor),
            sink,
        }
    }

    /// Replaces the known secrets (after a rotation).
    pub fn set_redactor(&self, redactor: Redactor) {
        self.redactor.store(Arc::new(redactor));
    }

    /// Keeps one line: line breaks become spaces, secrets go, overlong lines are cut.
    pub fn line(&self, now_ms: i64, level: &str, text: &str) {
        let mut text = self.redactor.load().clean(text);
        if text.len() > LOG_LINE_MAX_BYTES {
            let mut cut = LOG_LINE_MAX_BYTES;
            while !text.is_char_boundary(cut) {
                cut -= 1;
            }
            text.truncate(cut);
            text.push('…');
        }
        let level = level.to_ascii_uppercase();
        let line = format!("{now_ms} {level} {}", text.replace(['\n', '\r'], " "));
        if let Some(sink) = &self.sink {
            sink.append(&line);
        }
        let mut ring = self.ring.lock();
        let start = ring.end;
        ring.end += line.len() as u64 + 1;
        ring.kept_bytes += line.len() + 1;
        ring.lines.push_back((start, line.into_boxed_str()));
        while ring.kept_bytes > LOG_RING_MAX_BYTES {
            let Some((_, old)) = ring.lines.pop_front() else {
                break;
            };
            ring.kept_bytes -= old.len() + 1;
        }
    }

    /// Lines from `cursor` (or the newest ones without it), at most `limit` lines and `max_bytes` bytes.
    #[must_use]
    pub fn tail(&self, cursor: Option<u64>, limit: usize, max_bytes: usize) -> Tail {
        let ring = self.ring.lock();
        let reset = cursor.is_some_and(|c| c > ring.end);
        let cursor = cursor.filter(|_| !reset);
        let from = cursor.map_or(0, |c| ring.lines.partition_point(|(start, _)| *start < c));
        let available = ring.lines.len() - from;
        let mut bytes = 0;
        let mut count = 0;
        let fits = |bytes: &mut usize, count: &mut usize, line: &str| {
            *bytes += line.len() + 1;
            let ok = *count < limit && (*bytes <= max_bytes || *count == 0);
            *count += usize::from(ok);
            ok
        };
        let lines: Vec<(u64, &str)> = if cursor.is_some() {
            // Going on: oldest first, the rest comes with the next call.
            ring.lines
                .iter()
                .skip(from)
                .take_while(|(_, l)| fits(&mut bytes, &mut count, l))
                .map(|(s, l)| (*s, &**l))
                .collect()
        } else {
            let mut newest: Vec<(u64, &str)> = ring
                .lines
                .iter()
                .rev()
                .take_while(|(_, l)| fits(&mut bytes, &mut count, l))
                .map(|(s, l)| (*s, &**l))
                .collect();
            newest.reverse();
            newest
        };
        let next = lines
            .last()
            .map_or(ring.end, |(start, line)| start + line.len() as u64 + 1);
        let skipped = match (cursor, lines.first()) {
            (Some(c), Some((start, _))) => start.saturating_sub(c),
            _ => 0,
        };
        Tail {
            cursor: next,
            size: ring.end,
            truncated: lines.len() < available,
            reset,
            skipped_bytes: skipped,
            lines: lines.into_iter().map(|(_, l)| l.to_owned()).collect(),
        }
    }
}

impl std::fmt::Debug for LogBook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LogBook(end={})", self.ring.lock().end)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn book() -> LogBook {
        LogBook::new(Redactor::new(["hunter2-secret".to_owned()]), None)
    }

    #[test]
    fn secrets_never_reach_the_ring() {
        let log = book();
        log.line(1, "INFO", "token is hunter2-secret\nsecond");
        let tail = log.tail(None, 10, 1000);
        assert_eq!(tail.lines.len(), 1);
        assert!(!tail.lines[0].contains("hunter2"));
        assert!(tail.lines[0].contains(REDACTED));
        assert!(!tail.lines[0].contains('\n'));
    }

    #[test]
    fn a_cursor_goes_on_where_it_ended_and_gaps_are_told() {
        let log = book();
        for i in 0..5 {
            log.line(i, "INFO", &format!("line {i}"));
        }
        let first = log.tail(None, 2, 1000);
        assert!(first.truncated);
        assert!(first.lines[1].ends_with("line 4"));
        log.line(9, "INFO", "new");
        let next = log.tail(Some(first.cursor), 10, 1000);
        assert_eq!(next.lines.len(), 1);
        assert_eq!(next.skipped_bytes, 0);
        assert!(log.tail(Some(1_000_000), 10, 1000).reset);
        // Fill until the first lines are gone.
        for _ in 0..2 * LOG_RING_MAX_BYTES / 1000 {
            log.line(1, "INFO", &"x".repeat(1000));
        }
        let gap = log.tail(Some(next.cursor), 1, 10_000);
        assert!(gap.skipped_bytes > 0);
        assert!(log.ring.lock().kept_bytes <= LOG_RING_MAX_BYTES);
    }
}
