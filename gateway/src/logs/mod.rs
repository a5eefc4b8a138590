//! The process log: records to standard error and to a file that never block the gateway, never hold a secret and never control
//! a terminal. A sink that does not keep up loses records, and says how many.

mod file;
mod record;
mod sink;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gateway_config::{LogLevel, LoggingSettings};
use gateway_core::logs::{LogSink, Redactor, TenantLine};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, reload};

use file::RotatingFile;
use record::Record;
use sink::Sink;

/// Keeps the writer threads; dropping it writes what is left, as far as the sinks take it.
#[derive(Debug)]
pub struct LogGuard {
    sinks: Arc<[Sink]>,
    control: LogControl,
}

impl LogGuard {
    /// What changes the log while it is written.
    pub fn control(&self) -> LogControl {
        self.control.clone()
    }
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        for sink in self.sinks.iter() {
            sink.finish();
        }
    }
}

/// Changes the log while it is written.
#[derive(Debug, Clone)]
pub struct LogControl {
    targets: reload::Handle<Targets, Registry>,
    redactor: Arc<Mutex<Redactor>>,
    dropped: Arc<AtomicU64>,
}

impl LogControl {
    /// Records of these levels and above are written from now on.
    pub fn set_levels(&self, settings: &LoggingSettings) {
        // It fails only when nothing is logged any more.
        let _ = self.targets.reload(targets(settings));
    }

    /// What is taken out of every record from now on.
    pub fn set_redactor(&self, redactor: Redactor) {
        *lock(&self.redactor) = redactor;
    }

    /// Takes the lines of tenants.
    pub fn tenant_lines(&self) -> TenantLines {
        TenantLines {
            dropped: self.dropped.clone(),
        }
    }
}

fn lock(redactor: &Mutex<Redactor>) -> MutexGuard<'_, Redactor> {
    redactor.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts logging for the rest of the process.
///
/// # Errors
/// The file of the settings cannot be written.
pub fn start(settings: &LoggingSettings, redactor: Redactor) -> io::Result<LogGuard> {
    let redactor = Arc::new(Mutex::new(redactor));
    let dropped = Arc::new(AtomicU64::new(0));
    let (format, shared) = (settings.format, (redactor.clone(), dropped.clone()));
    let mut sinks = vec![Sink::start("log", format, shared.clone(), io::stderr())?];
    if let Some(file) = &settings.file {
        let file = RotatingFile::open(&file.path, file.max_bytes, file.keep)?;
        sinks.push(Sink::start("log-file", format, shared, file)?);
    }
    let sinks: Arc<[Sink]> = sinks.into();
    let (filter, handle) = reload::Layer::new(targets(settings));
    tracing_subscriber::registry()
        .with(filter)
        .with(Records {
            sinks: sinks.clone(),
        })
        .init();
    Ok(LogGuard {
        sinks,
        control: LogControl {
            targets: handle,
            redactor,
            dropped,
        },
    })
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

fn targets(settings: &LoggingSettings) -> Targets {
    let level = filter(settings.level);
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
        .with_targets(
            settings
                .targets
                .iter()
                .map(|(target, level)| (target.clone(), filter(*level))),
        )
}

/// Gives each event to the sinks. What it costs the thread that logs is the record; it is written elsewhere.
struct Records {
    sinks: Arc<[Sink]>,
}

impl<S: tracing::Subscriber> Layer<S> for Records {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let record = Arc::new(Record::of(event));
        for sink in self.sinks.iter() {
            sink.offer(&record);
        }
    }
}

/// Takes the lines of the tenants' own logs into the process log.
#[derive(Debug)]
pub struct TenantLines {
    dropped: Arc<AtomicU64>,
}

impl LogSink for TenantLines {
    fn append(&self, line: &TenantLine<'_>) {
        let TenantLine {
            tenant,
            level,
            run_id,
            text,
        } = *line;
        match level.to_ascii_lowercase().as_str() {
            "error" => tracing::error!(target: "gateway::tenant", tenant, run_id, "{text}"),
            "warn" => tracing::warn!(target: "gateway::tenant", tenant, run_id, "{text}"),
            "debug" => tracing::debug!(target: "gateway::tenant", tenant, run_id, "{text}"),
            "trace" => tracing::trace!(target: "gateway::tenant", tenant, run_id, "{text}"),
            _ => tracing::info!(target: "gateway::tenant", tenant, run_id, "{text}"),
        }
    }

    fn dropped_lines(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}
