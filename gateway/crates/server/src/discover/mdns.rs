//! The advertiser: a task of its own. Whatever goes wrong in it is one field in health; it is tried again, at most once a
//! minute.

use std::sync::Weak;
use std::time::Duration;

use gateway_config::Bind;
use gateway_core::host::Host;
use gateway_protocol::CertPin;
use gateway_protocol::methods::system::{DiscoveryHealth, PartState};
use mdns_sd::{DaemonEvent, IfKind, Receiver, ServiceDaemon, ServiceInfo};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Advertisement, SERVICE};
use crate::limits::{MDNS_ANNOUNCE_WAIT_MS, MDNS_GOODBYE_MS, MDNS_RETRY_MS};
use crate::tls::CertificateStatus;

/// Where to tell how it goes.
pub(crate) struct Teller {
    pub(crate) host: Weak<Host>,
    pub(crate) mode: &'static str,
}

impl Teller {
    pub(crate) fn tell(&self, fault: Option<&str>) {
        let Some(host) = self.host.upgrade() else {
            return;
        };
        host.set_discovery_health(DiscoveryHealth {
            state: match fault {
                None => PartState::Ok,
                Some(_) => PartState::Degraded,
            },
            mode: self.mode.to_owned(),
            message: fault.map(str::to_owned),
        });
    }
}

type Certificate = Option<watch::Receiver<CertificateStatus>>;

/// Announces until `stop` what `now` gives for the certificate that is served.
pub(crate) async fn advertise(
    teller: Teller,
    now: impl Fn(Option<CertPin>) -> Option<Advertisement> + Send + Sync,
    mut certificate: Certificate,
    stop: CancellationToken,
) {
    loop {
        let Err(why) = announce(&teller, &now, &mut certificate, &stop).await else {
            return;
        };
        tracing::warn!(why, "discovery: not announced; everything else goes on");
        teller.tell(Some(&why));
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(Duration::from_millis(MDNS_RETRY_MS)) => {}
        }
    }
}

/// One daemon, until `stop` or a fault.
async fn announce(
    teller: &Teller,
    now: &(impl Fn(Option<CertPin>) -> Option<Advertisement> + Send + Sync),
    certificate: &mut Certificate,
    stop: &CancellationToken,
) -> Result<(), String> {
    let text = |e: mdns_sd::Error| e.to_string();
    let Some(first) = now(pin(certificate)) else {
        return Ok(());
    };
    let daemon = Daemon(ServiceDaemon::new().map_err(text)?);
    let events = daemon.0.monitor().map_err(text)?;
    let mut told = register(&daemon.0, &first)?;
    let mut silent = Box::pin(tokio::time::sleep(Duration::from_millis(
        MDNS_ANNOUNCE_WAIT_MS,
    )));
    let mut heard = false;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => {
                goodbye(&daemon.0, &told).await;
                return Ok(());
            }
            event = next(&events) => match event? {
                DaemonEvent::Announce(..) => {
                    heard = true;
                    teller.tell(None);
                }
                DaemonEvent::NameChange(change) => {
                    tracing::warn!(old = change.original, new = change.new_name, "discovery: the name was taken");
                }
                DaemonEvent::Error(error) => return Err(text(error)),
                _ => {}
            },
            () = changed(certificate) => if let Some(next) = now(pin(certificate)) {
                told = register(&daemon.0, &next)?;
            },
            () = &mut silent, if !heard => {
                // Not an error of the library: there may be no network yet. It announces when one comes.
                heard = true;
                teller.tell(Some("no network took the announcement"));
            }
        }
    }
}

fn pin(certificate: &mut Certificate) -> Option<CertPin> {
    let status = certificate.as_mut()?;
    Some(status.borrow_and_update().served.fingerprint)
}

/// The next change of the certificate; never, without TLS.
async fn changed(certificate: &mut Certificate) {
    if let Some(status) = certificate
        && status.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

async fn next(events: &Receiver<DaemonEvent>) -> Result<DaemonEvent, String> {
    events
        .recv_async()
        .await
        .map_err(|_| "the advertiser ended".to_owned())
}

/// Gives the full name under which the service stands.
fn register(daemon: &ServiceDaemon, what: &Advertisement) -> Result<String, String> {
    let text = |e: mdns_sd::Error| e.to_string();
    let txt = what.lan_txt();
    let host = format!("{}.local.", what.name);
    let service = format!("{SERVICE}.local.");
    let of = |ip: &str| ServiceInfo::new(&service, &what.name, &host, ip, what.port, &txt[..]);
    // Only what the listener can be reached at: its family, not loopback, one address if it has one.
    let other = if what.bind.ip().is_ipv4() {
        IfKind::IPv6
    } else {
        IfKind::IPv4
    };
    daemon
        .disable_interface(vec![other, IfKind::LoopbackV4, IfKind::LoopbackV6])
        .map_err(text)?;
    let info = match what.bind {
        Bind::Addr(ip) if !ip.is_unspecified() => of(&ip.to_string()).map_err(text)?,
        Bind::Addr(_) | Bind::Lan | Bind::Loopback => of("").map_err(text)?.enable_addr_auto(),
    };
    let name = info.get_fullname().to_owned();
    daemon.register(info).map_err(text)?;
    Ok(name)
}

async fn goodbye(daemon: &ServiceDaemon, name: &str) {
    let Ok(done) = daemon.unregister(name) else {
        return;
    };
    // Others forget it by its lifetime too.
    let _ = tokio::time::timeout(Duration::from_millis(MDNS_GOODBYE_MS), done.recv_async()).await;
}

/// Its thread ends with it.
struct Daemon(ServiceDaemon);

impl Drop for Daemon {
    fn drop(&mut self) {
        // A daemon that has ended already cannot be ended again.
        let _ = self.0.shutdown();
    }
}
