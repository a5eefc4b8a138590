//! The pair that handshakes are made with now, and the watch over its files.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use gateway_config::TlsSource;
use gateway_core::clock::Clock;
use gateway_protocol::CertPin;
use gateway_protocol::methods::system::{PartState, TlsHealth};
use rustls::ServerConfig;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::{CertificateInfo, CertificateNames, CertificatePair, PairFiles, TlsError, make_own};
use crate::limits::{CERT_EXPIRY_WARNING_DAYS, CERT_POLL_MS};

const MS_PER_DAY: i64 = 86_400_000;

/// What is served, what comes after it, and what is wrong with the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateStatus {
    /// The certificate of new handshakes.
    pub served: CertificateInfo,
    /// The prepared one, announced ahead so that clients can pin both.
    pub next: Option<CertPin>,
    /// Why the files as they are now are not taken, or what will soon be wrong. Names no path.
    pub fault: Option<String>,
}

impl CertificateStatus {
    /// What a client may be shown: the served certificate, and the next one.
    pub fn pins(&self) -> impl Iterator<Item = CertPin> {
        [Some(self.served.fingerprint), self.next]
            .into_iter()
            .flatten()
    }

    pub(crate) fn health(&self) -> TlsHealth {
        TlsHealth {
            state: match self.fault {
                None => PartState::Ok,
                Some(_) => PartState::Degraded,
            },
            fingerprint: self.served.fingerprint.to_string(),
            next_fingerprint: self.next.map(|pin| pin.to_string()),
            expires_at_ms: self.served.not_after_ms,
            message: self.fault.clone(),
        }
    }
}

/// How files look from outside (time of change in s and ns, size, inode): enough to know that they may have changed.
/// The time of change and not of modification, because loosened permissions are a change too.
type Stamp = Vec<Option<(i64, i64, u64, u64)>>;

/// The listener's certificate.
pub struct Certificates {
    config: ArcSwap<ServerConfig>,
    files: Option<Watched>,
}

struct Watched {
    files: PairFiles,
    next: PathBuf,
    clock: Arc<dyn Clock>,
    pair: ArcSwap<CertificatePair>,
    status: watch::Sender<CertificateStatus>,
    asked: Notify,
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificates")
            .field("status", &self.status().map(|s| s.borrow().clone()))
            .finish_non_exhaustive()
    }
}

impl Certificates {
    /// A configuration of the embedder, served as long as the gateway runs. Only HTTP/1.1 is offered by ALPN.
    #[must_use]
    pub fn fixed(config: &ServerConfig) -> Self {
        let mut config = config.clone();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self {
            config: ArcSwap::from_pointee(config),
            files: None,
        }
    }

    /// The pair that the settings name; made if it is ours to make and not there.
    ///
    /// # Errors
    /// A pair that cannot be served, with the way out.
    pub fn open(
        source: &TlsSource,
        state_dir: &Path,
        names: &CertificateNames,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, TlsError> {
        let now = clock.now_ms();
        let files = PairFiles::of(source, state_dir);
        if *source == (TlsSource::Own { generate: true }) && make_own(state_dir, names, now)? {
            tracing::info!(path = %files.cert.display(), "certificate made");
        }
        let pair = CertificatePair::load(&files, now)?;
        let next = match source {
            TlsSource::Own { .. } => PairFiles::next(state_dir).cert,
            // Who brings the certificate announces the next one where the pins are kept.
            TlsSource::Files { .. } => PathBuf::new(),
        };
        let status = CertificateStatus {
            served: pair.info.clone(),
            next: announced(&next),
            fault: running_out(&pair.info, now),
        };
        Ok(Self {
            config: ArcSwap::new(pair.config()),
            files: Some(Watched {
                files,
                next,
                clock,
                pair: ArcSwap::from_pointee(pair),
                status: watch::Sender::new(status),
                asked: Notify::new(),
            }),
        })
    }

    /// What a handshake that begins now is made with.
    #[must_use]
    pub fn config(&self) -> Arc<ServerConfig> {
        self.config.load_full()
    }

    /// What is served, as it changes; `None` for a configuration of the embedder.
    #[must_use]
    pub fn status(&self) -> Option<watch::Receiver<CertificateStatus>> {
        self.files.as_ref().map(|w| w.status.subscribe())
    }

    /// Looks at the files now instead of at the next turn.
    pub fn recheck(&self) {
        if let Some(watched) = &self.files {
            watched.asked.notify_one();
        }
    }

    /// Looks at the files every [`CERT_POLL_MS`]. A sound new pair is served from then on; connections that stand go on.
    /// A bad one changes nothing and is told once it is seen twice: two files are not replaced at one moment.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let Some(watched) = &self.files else { return };
        // Unknown at first: what changed between the start and now is seen too.
        let mut known = Stamp::new();
        let mut suspect = None;
        let mut look = false;
        let mut turns = tokio::time::interval(Duration::from_millis(CERT_POLL_MS));
        turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let stamp = watched.stamp();
            if look || stamp != known {
                let files = watched.files.clone();
                let now = watched.clock.now_ms();
                let read = move || CertificatePair::load(&files, now);
                match tokio::task::spawn_blocking(read).await {
                    Ok(Ok(pair)) => {
                        known = stamp;
                        suspect = None;
                        self.take(watched, pair);
                    }
                    Ok(Err(error)) if suspect.as_ref() == Some(&stamp) => {
                        known = stamp;
                        suspect = None;
                        tracing::warn!(%error, next = error.next, "the new certificate is not taken; the old one stays");
                        watched.tell(Some(format!(
                            "{}; the certificate before it is still served",
                            error.why
                        )));
                    }
                    Ok(Err(_)) => suspect = Some(stamp),
                    Err(_) => return,
                }
            } else {
                watched.age();
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = watched.asked.notified() => look = true,
                _ = turns.tick() => look = false,
            }
        }
    }

    fn take(&self, watched: &Watched, pair: CertificatePair) {
        let fault = running_out(&pair.info, watched.clock.now_ms());
        if !pair.same_as(&watched.pair.load()) {
            tracing::info!(
                fingerprint = %pair.info.fingerprint,
                before = %watched.pair.load().info.fingerprint,
                "new certificate; connections that stand go on"
            );
            self.config.store(pair.config());
            watched.pair.store(Arc::new(pair));
        }
        watched.tell(fault);
    }
}

impl Watched {
    fn stamp(&self) -> Stamp {
        use std::os::unix::fs::MetadataExt;
        [&self.files.cert, &self.files.key, &self.next]
            .into_iter()
            .map(|file| {
                let meta = std::fs::metadata(file).ok()?;
                Some((meta.ctime(), meta.ctime_nsec(), meta.len(), meta.ino()))
            })
            .collect()
    }

    fn tell(&self, fault: Option<String>) {
        let status = CertificateStatus {
            served: self.pair.load().info.clone(),
            next: announced(&self.next),
            fault,
        };
        self.status.send_if_modified(|old| {
            let differs = *old != status;
            *old = status;
            differs
        });
    }

    /// Nothing changed but the time.
    fn age(&self) {
        let now = self.clock.now_ms();
        self.status.send_if_modified(|status| {
            let fault = running_out(&status.served, now);
            let news = fault.is_some() && status.fault.is_none();
            if news {
                tracing::warn!("{}", fault.as_deref().unwrap_or_default());
                status.fault = fault;
            }
            news
        });
    }
}

fn announced(next: &Path) -> Option<CertPin> {
    if next.as_os_str().is_empty() || !next.exists() {
        return None;
    }
    CertificateInfo::read(next)
        .ok()
        .map(|info| info.fingerprint)
}

fn running_out(info: &CertificateInfo, now_ms: i64) -> Option<String> {
    let left = info.not_after_ms.saturating_sub(now_ms);
    if left < 0 {
        Some("the certificate has expired".to_owned())
    } else if left < CERT_EXPIRY_WARNING_DAYS * MS_PER_DAY {
        Some(format!(
            "the certificate expires in {} days",
            left / MS_PER_DAY
        ))
    } else {
        None
    }
}
