//! Where records go: a bounded queue and a thread that may wait for its writer as long as that likes.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gateway_config::LogFormat;
use gateway_core::logs::Redactor;

use super::lock;
use super::record::Record;

/// Records that wait to be written; a further one is dropped and counted.
const MAX_QUEUED_RECORDS: usize = 4_096;
/// The same in bytes.
const MAX_QUEUED_BYTES: usize = 4 * 1024 * 1024;
/// How long the end of the process waits for a sink, in ms.
const FINISH_PATIENCE_MS: u64 = 1_000;

enum Job {
    Write(Arc<Record>),
    /// Everything before it is written.
    End(SyncSender<()>),
}

/// One sink.
#[derive(Debug)]
pub struct Sink {
    queue: SyncSender<Job>,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    queued_bytes: AtomicUsize,
    /// Lost since the sink said so last.
    lost: AtomicU64,
    /// Lost of all sinks since the start.
    dropped: Arc<AtomicU64>,
    redactor: Arc<Mutex<Redactor>>,
    format: LogFormat,
}

impl State {
    fn lose(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

impl Sink {
    /// Starts the thread.
    pub fn start(
        name: &str,
        format: LogFormat,
        (redactor, dropped): (Arc<Mutex<Redactor>>, Arc<AtomicU64>),
        mut out: impl Write + Send + 'static,
    ) -> io::Result<Self> {
        let (queue, jobs) = sync_channel(MAX_QUEUED_RECORDS);
        let state = Arc::new(State {
            queued_bytes: AtomicUsize::new(0),
            lost: AtomicU64::new(0),
            dropped,
            redactor,
            format,
        });
        std::thread::Builder::new().name(name.to_owned()).spawn({
            let state = state.clone();
            move || write_all(&jobs, &state, &mut out)
        })?;
        Ok(Self { queue, state })
    }

    /// Takes a record, or counts that it could not. Never waits.
    pub fn offer(&self, record: &Arc<Record>) {
        let weight = record.weight();
        let before = self.state.queued_bytes.fetch_add(weight, Ordering::AcqRel);
        let taken = before + weight <= MAX_QUEUED_BYTES
            && match self.queue.try_send(Job::Write(record.clone())) {
                Ok(()) => true,
                // The thread has ended: so does the process.
                Err(TrySendError::Disconnected(_)) => return,
                Err(TrySendError::Full(_)) => false,
            };
        if !taken {
            self.state.queued_bytes.fetch_sub(weight, Ordering::AcqRel);
            self.state.lose();
        }
    }

    /// Waits until what is queued is written, but not for a writer that is stuck.
    pub fn finish(&self) {
        let (tell, done) = sync_channel(1);
        // A full queue means that the writer does not keep up: it is not waited for.
        if self.queue.try_send(Job::End(tell)).is_ok() {
            let _ = done.recv_timeout(Duration::from_millis(FINISH_PATIENCE_MS));
        }
    }
}

fn write_all(jobs: &Receiver<Job>, state: &State, out: &mut dyn Write) {
    // After a failed write the line is half there.
    let mut torn = false;
    while let Ok(job) = jobs.recv() {
        let record = match job {
            Job::Write(record) => record,
            Job::End(tell) => {
                let _ = out.flush();
                let _ = tell.try_send(());
                continue;
            }
        };
        state
            .queued_bytes
            .fetch_sub(record.weight(), Ordering::AcqRel);
        let mut line = record.line(state.format, &lock(&state.redactor));
        let lost = state.lost.load(Ordering::Relaxed);
        if lost > 0 {
            line.insert_str(0, &notice(state.format, lost));
        }
        if torn {
            line.insert(0, '\n');
        }
        match out.write_all(line.as_bytes()) {
            Ok(()) => {
                torn = false;
                state.lost.fetch_sub(lost, Ordering::Relaxed);
            }
            // There is nowhere to say so but the counter.
            Err(_) => {
                torn = true;
                state.lose();
            }
        }
    }
}

fn notice(format: LogFormat, lost: u64) -> String {
    let text = format!("{lost} log lines dropped: they came faster than they could be written");
    match format {
        LogFormat::Text => format!("{text}\n"),
        LogFormat::Json => format!(
            "{{\"level\":\"WARN\",\"target\":\"gateway::logs\",\"message\":\"{text}\",\"dropped\":{lost}}}\n"
        ),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::mpsc;

    /// Takes nothing until it is told to, then fails as often as it is told to.
    struct Gate {
        open: mpsc::Receiver<usize>,
        failures: Option<usize>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let failures = self.failures.take();
            let left = failures.unwrap_or_else(|| self.open.recv().unwrap_or(0));
            self.failures = Some(left.saturating_sub(1));
            if left > 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.written.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn record(text: &str) -> Arc<Record> {
        Arc::new(Record::plain_text(text))
    }

    /// Covers: F35.
    #[test]
    fn a_stuck_or_full_sink_loses_records_counts_them_and_delays_nobody() {
        let (open, gate) = mpsc::channel();
        let (dropped, written) = (Arc::new(AtomicU64::new(0)), Arc::default());
        let gate = Gate {
            open: gate,
            failures: None,
            written: Arc::clone(&written),
        };
        let shared = (Arc::new(Mutex::new(Redactor::default())), dropped.clone());
        let sink = Sink::start("test", LogFormat::Text, shared, gate).unwrap();
        for n in 0..2 * MAX_QUEUED_RECORDS {
            sink.offer(&record(&format!("line {n}")));
        }
        let lost = dropped.load(Ordering::Relaxed);
        // One more may be in the hand of the thread.
        assert!(lost == MAX_QUEUED_RECORDS as u64 || lost == MAX_QUEUED_RECORDS as u64 - 1);
        // The end does not wait for it either.
        sink.finish();
        open.send(2).unwrap();
        let mut text = String::new();
        for _ in 0..1_000 {
            text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
            if text.lines().count() > MAX_QUEUED_RECORDS / 2 {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let first: Vec<&str> = text.lines().take(3).collect();
        assert_eq!(first[0], "", "{text:.300}");
        assert_eq!(
            first[1],
            format!(
                "{} log lines dropped: they came faster than they could be written",
                lost + 2
            )
        );
        assert!(first[2].ends_with(": line 2"), "{first:?}");
        assert_eq!(dropped.load(Ordering::Relaxed), lost + 2);
        assert_eq!(text.matches("dropped").count(), 1);
    }

    /// Covers: F35.
    #[test]
    fn big_records_count_by_their_size() {
        let (open, gate) = mpsc::channel();
        let dropped = Arc::new(AtomicU64::new(0));
        let gate = Gate {
            open: gate,
            failures: None,
            written: Arc::default(),
        };
        let shared = (Arc::new(Mutex::new(Redactor::default())), dropped.clone());
        let sink = Sink::start("test", LogFormat::Json, shared, gate).unwrap();
        let big = record(&"x".repeat(10_000));
        for _ in 0..1_000 {
            sink.offer(&big);
        }
        assert!(sink.state.queued_bytes.load(Ordering::Relaxed) <= MAX_QUEUED_BYTES);
        assert!(dropped.load(Ordering::Relaxed) > 500);
        drop(open);
    }
}
