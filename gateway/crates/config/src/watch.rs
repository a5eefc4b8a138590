//! Tells when a file of the configuration changed.
//!
//! The folders are watched and not the files: an editor that writes beside and renames over makes a new file of the same
//! name. Many changes in a row are one: it is told when there was none for a while, and after a longer while anyway.
//! Where the system gives no watch, or loses one, a look at sizes and times does the same more slowly.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};

/// No change for so long: it is told.
const SETTLE_MS: u64 = 200;
/// Changes without a pause for so long: it is told all the same.
const LONGEST_SETTLE_MS: u64 = 2_000;
/// Between two looks at the files where there is no watch.
const POLL_MS: u64 = 1_000;
/// Between two looks at the files beside a watch, for file systems that tell nothing.
const BACKSTOP_MS: u64 = 15_000;
/// Signals that wait; more say the same.
const QUEUE_SIGNALS: usize = 16;

/// How changes are seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchMode {
    /// The system tells.
    Notify,
    /// Somebody has to look; the text says why.
    Poll(String),
}

enum Signal {
    Changed,
    Files(Vec<PathBuf>),
    End,
}

/// Watches until it is dropped.
pub struct Watcher {
    signals: SyncSender<Signal>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watcher")
    }
}

impl Watcher {
    /// Watches `files`. `changed` is called on a thread of the watcher, once when the watch begins (also of other files) and
    /// whenever changes have settled, and must be quick; `mode` is called whenever the way of watching is decided anew.
    ///
    /// # Errors
    /// When there is no thread for it.
    pub fn start(
        files: Vec<PathBuf>,
        changed: impl Fn() + Send + 'static,
        mode: impl Fn(WatchMode) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (signals, inbox) = sync_channel(QUEUE_SIGNALS);
        let back = signals.clone();
        let thread = std::thread::Builder::new()
            .name("config watch".to_owned())
            .spawn(move || run(files, &inbox, &back, &changed, &mode))?;
        Ok(Self {
            signals,
            thread: Some(thread),
        })
    }

    /// Watches these files from now on.
    pub fn set_files(&self, files: Vec<PathBuf>) {
        // Without a receiver the thread has ended, and with it the watch.
        let _ = self.signals.send(Signal::Files(files));
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.signals.send(Signal::End);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What a file looks like from outside. Equal looks are taken for an equal file.
#[derive(Debug, PartialEq, Eq)]
struct Look {
    size: u64,
    changed: Option<SystemTime>,
    #[cfg(unix)]
    id: (u64, u64, i64, i64),
}

fn look(path: &Path) -> Option<Look> {
    let facts = std::fs::metadata(path).ok()?;
    #[cfg(unix)]
    use std::os::unix::fs::MetadataExt;
    Some(Look {
        size: facts.len(),
        changed: facts.modified().ok(),
        #[cfg(unix)]
        id: (facts.dev(), facts.ino(), facts.ctime(), facts.ctime_nsec()),
    })
}

fn run(
    mut files: Vec<PathBuf>,
    inbox: &Receiver<Signal>,
    back: &SyncSender<Signal>,
    changed: &dyn Fn(),
    mode: &dyn Fn(WatchMode),
) {
    let ms = Duration::from_millis;
    let mut watch = watch(&files, back, mode);
    let mut looks: Vec<Option<Look>> = files.iter().map(|f| look(f)).collect();
    // What changed before there was a watch.
    changed();
    // When the first and the last change of a row came.
    let mut row: Option<(Instant, Instant)> = None;
    loop {
        let wait = match row {
            Some((first, last)) => {
                let due = (last + ms(SETTLE_MS)).min(first + ms(LONGEST_SETTLE_MS));
                due.saturating_duration_since(Instant::now())
            }
            None if watch.is_some() => ms(BACKSTOP_MS),
            None => ms(POLL_MS),
        };
        match inbox.recv_timeout(wait) {
            Ok(Signal::End) | Err(RecvTimeoutError::Disconnected) => return,
            Ok(Signal::Files(new)) => {
                if new != files {
                    files = new;
                    watch = self::watch(&files, back, mode);
                    looks = files.iter().map(|f| look(f)).collect();
                    changed();
                }
            }
            Ok(Signal::Changed) => {
                let now = Instant::now();
                row = Some((row.map_or(now, |(first, _)| first), now));
            }
            Err(RecvTimeoutError::Timeout) => {
                let now: Vec<Option<Look>> = files.iter().map(|f| look(f)).collect();
                let differs = now != looks;
                looks = now;
                match row.take() {
                    // The look is taken before it is told, so that a change during the reading is seen again.
                    Some(_) => changed(),
                    None if differs => row = Some((Instant::now(), Instant::now())),
                    None => {}
                }
            }
        }
    }
}

/// Asks the system to tell of changes in the folders of `files`. `None` when somebody has to look.
fn watch(
    files: &[PathBuf],
    back: &SyncSender<Signal>,
    mode: &dyn Fn(WatchMode),
) -> Option<RecommendedWatcher> {
    let names: BTreeSet<_> = files
        .iter()
        .filter_map(|f| f.file_name())
        .map(ToOwned::to_owned)
        .collect();
    let back = back.clone();
    let made = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // An error (an overflow of the queue) may have hidden a change.
        let ours = event.as_ref().map_or(true, |event| {
            !event.kind.is_access()
                && (event.need_rescan()
                    || event.paths.is_empty()
                    || event.paths.iter().any(|p| {
                        // `..data` is the link that a mounted configuration is switched with.
                        p.file_name()
                            .is_some_and(|n| names.contains(n) || n == "..data")
                    }))
        });
        if ours {
            match back.try_send(Signal::Changed) {
                // A full queue holds the same signal already.
                Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
            }
        }
    });
    let folders: BTreeSet<&Path> = files.iter().filter_map(|f| f.parent()).collect();
    let watched = made.and_then(|mut watcher| {
        for folder in folders.iter().filter(|f| f.is_dir()) {
            watcher.watch(folder, RecursiveMode::NonRecursive)?;
        }
        Ok(watcher)
    });
    match watched {
        Ok(watcher) => {
            mode(WatchMode::Notify);
            Some(watcher)
        }
        Err(e) => {
            mode(WatchMode::Poll(e.to_string()));
            None
        }
    }
}
