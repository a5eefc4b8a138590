//! Telling the local network where the gateway is: what is told ([`Advertisement`]), over mDNS ([`mdns`]) and as a DNS zone
//! ([`zone`]). It is a hint and nothing else: whom a client trusts is decided by its pin.

pub(crate) mod mdns;
pub mod zone;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Weak;

use gateway_config::{Bind, DiscoverySettings, GatewaySettings, MdnsMode};
use gateway_core::host::Host;
use gateway_protocol::CertPin;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::tls::{self, CertificateStatus};

/// The service type of the field.
pub const SERVICE: &str = "_openclaw-gw._tcp";

/// What is told. In mode minimal nothing in it names this machine, a path, or how many tenants there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advertisement {
    /// First label of the instance and of the host that it points to.
    pub name: String,
    /// Port of the gateway.
    pub port: u16,
    /// Where the listener is bound.
    pub bind: Bind,
    txt: Vec<(&'static str, String)>,
    lan_host: String,
}

impl Advertisement {
    /// What `mode` tells of the gateway with this identity (`gateway.identity.get`). `None` where there is nothing to tell:
    /// switched off, or not reachable from elsewhere.
    #[must_use]
    pub fn of(
        gateway: &GatewaySettings,
        mode: MdnsMode,
        device_id: &str,
        port: u16,
        certificate: Option<CertPin>,
    ) -> Option<Self> {
        if mode == MdnsMode::Off || gateway.bind.is_loopback() {
            return None;
        }
        // Enough to tell gateways apart, and always the same for one.
        let opaque = format!("gateway-{}", device_id.get(..8).unwrap_or("0"));
        let host = tls::host_name().filter(|_| mode == MdnsMode::Full);
        let name = host.unwrap_or_else(|| opaque.clone());
        let mut txt = vec![
            ("role", "gateway".to_owned()),
            ("transport", "gateway".to_owned()),
            ("displayName", name.clone()),
            ("gatewayPort", port.to_string()),
            ("gatewayDirectReachable", "1".to_owned()),
        ];
        if gateway.tls.enabled {
            txt.push(("gatewayTls", "1".to_owned()));
        }
        if let Some(pin) = certificate {
            txt.push(("gatewayTlsSha256", pin.to_string()));
        }
        if mode == MdnsMode::Full
            && let Ok(program) = std::env::current_exe()
        {
            txt.push(("cliPath", program.display().to_string()));
        }
        Some(Self {
            lan_host: format!("{name}.local"),
            name,
            port,
            bind: gateway.bind,
            txt,
        })
    }

    /// The TXT entries for mDNS.
    pub(crate) fn lan_txt(&self) -> Vec<(&'static str, String)> {
        let mut txt = self.txt.clone();
        txt.push(("lanHost", self.lan_host.clone()));
        txt
    }

    /// The TXT entries for a zone that is read from elsewhere: names of the local network mean nothing there.
    #[must_use]
    pub fn wide_txt(&self) -> &[(&'static str, String)] {
        &self.txt
    }

    /// The addresses of this machine that the listener can be reached at.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        reachable(self.bind.ip())
    }
}

/// The addresses at which other machines reach a listener on this one.
pub(crate) fn reachable(bound: IpAddr) -> Vec<IpAddr> {
    if bound.is_loopback() {
        return Vec::new();
    }
    if !bound.is_unspecified() {
        return vec![bound];
    }
    let all = if_addrs::get_if_addrs().unwrap_or_default();
    let mut ips: Vec<IpAddr> = all
        .iter()
        .map(if_addrs::Interface::ip)
        .filter(|ip| !ip.is_loopback() && ip.is_ipv4() == bound.is_ipv4())
        .collect();
    ips.sort();
    ips
}

/// A listener that is to be found.
pub(crate) struct Findable {
    pub(crate) gateway: GatewaySettings,
    pub(crate) discovery: DiscoverySettings,
    pub(crate) state_dir: PathBuf,
    pub(crate) port: u16,
    pub(crate) certificate: Option<watch::Receiver<CertificateStatus>>,
}

impl Findable {
    /// Writes the zone, then announces until `stop`. Begins when channels and schedules have started; `begun` ends when boot
    /// scripts may run.
    pub(crate) async fn run(
        self,
        host: Weak<Host>,
        mut sidecars: watch::Receiver<bool>,
        begun: oneshot::Sender<()>,
        stop: CancellationToken,
    ) {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            up = sidecars.wait_for(|up| *up) => if up.is_err() {
                return;
            },
        }
        let Some(device_id) = host
            .upgrade()
            .map(|host| host.shared().identity.device_id.clone())
        else {
            return;
        };
        let now = |pin: Option<CertPin>| {
            let mode = self.discovery.mode;
            Advertisement::of(&self.gateway, mode, &device_id, self.port, pin)
        };
        let pin = self.certificate.as_ref();
        let Some(first) = now(pin.map(|c| c.borrow().served.fingerprint)) else {
            return;
        };
        let teller = mdns::Teller {
            host,
            mode: self.discovery.mode.as_str(),
        };
        if let Some(domain) = &self.discovery.wide_area_domain {
            let zone = zone::text(&first, domain, &first.addresses(), zone::serial());
            match zone::write(&self.state_dir, domain, &zone) {
                Ok(path) => tracing::info!(path = %path.display(), "zone written"),
                Err(error) => {
                    tracing::warn!(%error, domain, "zone not written; everything else goes on");
                    teller.tell(Some("the zone could not be written"));
                }
            }
        }
        let _ = begun.send(());
        mdns::advertise(teller, now, self.certificate.clone(), stop).await;
    }
}

#[cfg(test)]
mod tests;
