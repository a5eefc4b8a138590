//! The tenant's own log lines: a bounded ring that `logs.tail` reads, with secrets taken out before a line is kept.
//!
//! Offsets are bytes since the process started, as if the ring were the tail of an endless file, so that a
//! client can go on from the cursor it was given and learns how much it missed.

mod redact;

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

pub use self::redact::{REDACTED, Redactor, escape, is_secret_name, turns_text};
use crate::limits::{LOG_LINE_MAX_BYTES, LOG_RING_MAX_BYTES};

/// A line of a tenant, without secrets, control characters and line breaks.
#[derive(Debug, Clone, Copy)]
pub struct TenantLine<'a> {
    /// Slug of the tenant.
    pub tenant: &'a str,
    /// `ERROR` to `TRACE`.
    pub level: &'a str,
    /// The run that it is about.
    pub run_id: Option<&'a str>,
    /// What happened.
    pub text: &'a str,
}

/// Where kept lines also go (the log of the embedding program); called outside any lock of the ring.
pub trait LogSink: Send + Sync + 'static {
    /// Takes one line. Must not block.
    fn append(&self, line: &TenantLine<'_>);
    /// Lines that were lost because they came faster than they could be written, since the start.
    fn dropped_lines(&self) -> u64;
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

/// The ring of one tenant.
pub struct LogBook {
    tenant: Box<str>,
    ring: Mutex<Ring>,
    redactor: arc_swap::ArcSwap<Redactor>,
    sink: Option<Arc<dyn LogSink>>,
}

impl LogBook {
    /// An empty ring.
    #[must_use]
    pub fn new(tenant: &str, redactor: Redactor, sink: Option<Arc<dyn LogSink>>) -> Self {
        Self {
            tenant: tenant.into(),
            ring: Mutex::new(Ring::default()),
            redactor: arc_swap::ArcSwap::from_pointee(redactor),
            sink,
        }
    }

    /// Replaces the known secrets (after a rotation).
    pub fn set_redactor(&self, redactor: Redactor) {
        self.redactor.store(Arc::new(redactor));
    }

    /// Keeps one line: secrets go, control characters are escaped, overlong lines are cut.
    pub fn line(&self, now_ms: i64, level: &str, text: &str) {
        self.line_of(now_ms, level, None, text);
    }

    /// As [`LogBook::line`], about a run.
    pub fn line_of(&self, now_ms: i64, level: &str, run_id: Option<&str>, text: &str) {
        let mut text = escape(&self.redactor.load().clean(text)).into_owned();
        if text.len() > LOG_LINE_MAX_BYTES {
            let mut cut = LOG_LINE_MAX_BYTES;
            while !text.is_char_boundary(cut) {
                cut -= 1;
            }
            text.truncate(cut);
            text.push('…');
        }
        let level = level.to_ascii_uppercase();
        if let Some(sink) = &self.sink {
            sink.append(&TenantLine {
                tenant: &self.tenant,
                level: &level,
                run_id,
                text: &text,
            });
        }
        let line = format!("{now_ms} {level} {text}");
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
        LogBook::new("t", Redactor::new(["hunter2-secret".to_owned()]), None)
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
