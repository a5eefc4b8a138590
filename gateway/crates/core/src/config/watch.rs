//! The task that follows the file.

use std::path::PathBuf;
use std::sync::Arc;

use gateway_config::{ConfigFile, WatchMode, Watcher};
use tokio::sync::Notify;

use super::{Reloaded, Watching};
use crate::host::Host;

impl Host {
    /// Follows the configuration file until the host stops. Without a file there is nothing to follow.
    pub(crate) fn watch_config(self: &Arc<Self>) {
        let Some(file) = self.config_file().cloned() else {
            return;
        };
        let host = Arc::downgrade(self);
        let stop = self.stop_token().clone();
        let changed = Arc::new(Notify::new());
        let Some(watcher) = self.watcher(&file, &changed) else {
            return;
        };
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => break,
                    () = changed.notified() => {}
                }
                let Some(host) = host.upgrade() else { break };
                let files = match host.reload_config().await {
                    Reloaded::Refused(fault) => watched(&host, &file, fault.files),
                    Reloaded::Applied { .. } => watched(&host, &file, Vec::new()),
                    Reloaded::Unchanged | Reloaded::NoFile => continue,
                };
                watcher.set_files(files);
            }
            // It waits for its thread: not on a thread of the runtime.
            let _ = tokio::task::spawn_blocking(move || drop(watcher)).await;
        });
    }

    fn watcher(self: &Arc<Self>, file: &ConfigFile, changed: &Arc<Notify>) -> Option<Watcher> {
        let files = watched(self, file, Vec::new());
        let changed = changed.clone();
        let host = Arc::downgrade(self);
        let started = Watcher::start(
            files,
            move || changed.notify_one(),
            move |mode| {
                if let Some(host) = host.upgrade() {
                    host.set_watching(match mode {
                        WatchMode::Notify => Watching::Notify,
                        WatchMode::Poll(why) => Watching::Poll(why),
                    });
                }
            },
        );
        match started {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                tracing::error!(%error, "the configuration is not watched; send SIGHUP after an edit");
                self.set_watching(Watching::Off);
                None
            }
        }
    }

    fn set_watching(&self, watching: Watching) {
        if let Watching::Poll(why) = &watching {
            tracing::warn!(%why, "the system does not tell of changed files: the configuration is looked at once a second");
        }
        self.shared()
            .configuration
            .update(|status| status.watching = watching.clone());
        if let Some(main) = self.main_tenant() {
            main.health().nudge();
        }
    }
}

/// The files of what runs, the file itself (also when its last good copy is what runs), and those that may mend a fault.
fn watched(host: &Host, file: &ConfigFile, more: Vec<PathBuf>) -> Vec<PathBuf> {
    let mut files = more;
    files.extend(host.settings().written.files().iter().cloned());
    files.push(file.path());
    files.sort();
    files.dedup();
    files
}
