//! The process log: lines to stderr that never block the gateway, never hold a secret and never control a terminal.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use gateway_config::{LogFormat, LogLevel, LoggingSettings};
use gateway_core::logs::{LogSink, Redactor};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, reload};

/// Lines that wait to be written; a further one is dropped and counted.
const MAX_QUEUED_LINES: usize = 4_096;
/// Longest line, in bytes; the rest of a longer one is cut.
const MAX_LINE_BYTES: usize = 16 * 1024;

/// Keeps the writer thread; dropping it writes what is left.
#[derive(Debug)]
pub struct LogGuard {
    queue: Option<SyncSender<Vec<u8>>>,
    thread: Option<JoinHandle<()>>,
    control: LogControl,
}

impl LogGuard {
    /// What changes the log while it is written.
    pub fn control(&self) -> LogControl {
        self.control.clone()
    }
}

/// Changes the log while it is written.
#[derive(Debug, Clone)]
pub struct LogControl {
    targets: reload::Handle<Targets, Registry>,
    redactor: Arc<Mutex<Redactor>>,
}

impl LogControl {
    /// Lines of this level and above are written from now on.
    pub fn set_level(&self, level: LogLevel) {
        // It fails only when nothing is logged any more.
        let _ = self.targets.reload(targets(level));
    }

    /// What is taken out of every line from now on.
    pub fn set_redactor(&self, redactor: Redactor) {
        *lock(&self.redactor) = redactor;
    }
}

fn lock(redactor: &Mutex<Redactor>) -> MutexGuard<'_, Redactor> {
    redactor.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        // An empty line is the end mark: the subscriber, which is never dropped, keeps a sender.
        if let Some(queue) = self.queue.take() {
            let _ = queue.send(Vec::new());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Starts logging to stderr for the rest of the process.
pub fn start(settings: LoggingSettings, redactor: Redactor) -> io::Result<LogGuard> {
    let (queue, lines) = sync_channel(MAX_QUEUED_LINES);
    let dropped = Arc::new(AtomicU64::new(0));
    let writer = LogWriter {
        queue: queue.clone(),
        dropped: dropped.clone(),
        escape: settings.format == LogFormat::Text,
    };
    let redactor = Arc::new(Mutex::new(redactor));
    let thread = std::thread::Builder::new().name("log".to_owned()).spawn({
        let redactor = redactor.clone();
        move || write_lines(&lines, &dropped, &redactor, &mut io::stderr())
    })?;
    let (filter, handle) = reload::Layer::new(targets(settings.level));
    let registry = tracing_subscriber::registry().with(filter);
    match settings.format {
        LogFormat::Text => registry
            .with(
                tracing_subscriber::fmt::layer()
                    .with_ansi(false)
                    .with_writer(writer),
            )
            .init(),
        LogFormat::Json => registry
            .with(
                tracing_subscriber::fmt::layer()
                    .json()
                    .flatten_event(true)
                    .with_writer(writer),
            )
            .init(),
    }
    Ok(LogGuard {
        queue: Some(queue),
        thread: Some(thread),
        control: LogControl {
            targets: handle,
            redactor,
        },
    })
}

fn targets(level: LogLevel) -> Targets {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    // Libraries are only let through from `warn` on: their debug lines can hold headers, and headers hold secrets.
    let quiet = if level == LevelFilter::ERROR {
        LevelFilter::ERROR
    } else {
        LevelFilter::WARN
    };
    // A target is matched by its beginning, so this covers every crate of ours.
    Targets::new()
        .with_default(quiet)
        .with_target("gateway", level)
}

/// Takes the lines of the tenants' own logs into the process log.
#[derive(Debug)]
pub struct TenantLines;

impl LogSink for TenantLines {
    fn append(&self, line: &str) {
        // `<ms> <level> <text>`; the process log writes the time itself.
        let mut parts = line.splitn(3, ' ').skip(1);
        let (level, text) = (
            parts.next().unwrap_or_default(),
            parts.next().unwrap_or_default(),
        );
        match level.to_ascii_lowercase().as_str() {
            "error" => tracing::error!(target: "gateway::tenant", "{text}"),
            "warn" => tracing::warn!(target: "gateway::tenant", "{text}"),
            "debug" => tracing::debug!(target: "gateway::tenant", "{text}"),
            "trace" => tracing::trace!(target: "gateway::tenant", "{text}"),
            _ => tracing::info!(target: "gateway::tenant", "{text}"),
        }
    }
}

fn write_lines(
    lines: &Receiver<Vec<u8>>,
    dropped: &AtomicU64,
    redactor: &Mutex<Redactor>,
    out: &mut dyn Write,
) {
    while let Ok(line) = lines.recv() {
        if line.is_empty() {
            break;
        }
        let text = lock(redactor).clean(&String::from_utf8_lossy(&line));
        // There is nowhere to report that the report cannot be written.
        let _ = out.write_all(text.as_bytes());
        let lost = dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let _ = writeln!(
                out,
                "{lost} log lines dropped: they came faster than they could be written"
            );
        }
    }
    let _ = out.flush();
}

#[derive(Debug)]
struct LogWriter {
    queue: SyncSender<Vec<u8>>,
    dropped: Arc<AtomicU64>,
    escape: bool,
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line {
            bytes: Vec::with_capacity(160),
            log: self,
        }
    }
}

/// One line while it is formatted.
#[derive(Debug)]
pub struct Line<'a> {
    bytes: Vec<u8>,
    log: &'a LogWriter,
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = MAX_LINE_BYTES.saturating_sub(self.bytes.len());
        self.bytes
            .extend_from_slice(&bytes[..bytes.len().min(room)]);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        let line = std::mem::take(&mut self.bytes);
        let end = line.iter().rposition(|b| *b != b'\n').map_or(0, |i| i + 1);
        if end == 0 {
            return;
        }
        let mut line = if self.log.escape {
            escape(&line[..end])
        } else {
            line[..end].to_vec()
        };
        line.push(b'\n');
        if let Err(TrySendError::Full(_)) = self.log.queue.try_send(line) {
            self.log.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Control characters (line breaks too, so that nobody can forge a line) as `\u{…}`.
fn escape(line: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(line);
    crate::cli::output::clean(&text).into_bytes()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lines_are_escaped_cut_counted_and_without_secrets() {
        let (queue, lines) = sync_channel(2);
        let dropped = Arc::new(AtomicU64::new(0));
        let writer = LogWriter {
            queue,
            dropped: dropped.clone(),
            escape: true,
        };
        let say = |text: &str| writer.make_writer().write_all(text.as_bytes()).unwrap();
        say("a\u{1b}[31mred\nforged hunter2hunter2\n");
        say(&"x".repeat(3 * MAX_LINE_BYTES));
        say("too much\n");
        drop(writer);
        let mut out = Vec::new();
        let redactor = Mutex::new(Redactor::new(["hunter2hunter2".to_owned()]));
        write_lines(&lines, &dropped, &redactor, &mut out);
        let out = String::from_utf8(out).unwrap();
        let mut written = out.lines();
        assert_eq!(
            written.next(),
            Some("a\\u{1b}[31mred\\nforged __OPENCLAW_REDACTED__")
        );
        assert!(out.contains("1 log lines dropped"), "{out}");
        assert!(!out.contains("hunter2"));
        assert!(out.lines().all(|l| l.len() <= MAX_LINE_BYTES));
    }
}
