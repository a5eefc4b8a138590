//! Gateways that announce themselves in the local network. Anybody can announce anything: what is found is a hint where to
//! look, and never a reason to trust.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use gateway_egress::CertPin;
use mdns_sd::{ResolvedService, ServiceDaemon, ServiceEvent};
use serde::Serialize;

use crate::limits::{MAX_DISCOVERED, MAX_DISCOVERED_TEXT_BYTES};

/// The service type of the field.
const SERVICE: &str = "_openclaw-gw._tcp.local.";

/// A gateway as it announces itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DiscoveredGateway {
    /// Name of the instance.
    pub name: String,
    /// Name of the host that it points to.
    pub host: String,
    /// Addresses, the IPv4 ones first.
    pub addresses: Vec<IpAddr>,
    /// Port.
    pub port: u16,
    /// Whether it says that it speaks TLS.
    pub tls: bool,
    /// The fingerprint that it claims. A hint: it must come from the gateway's machine by another way before it is pinned.
    pub claimed_fingerprint: Option<CertPin>,
    /// An address to try, `wss://…` or `ws://…`.
    pub url: Option<String>,
    /// Everything that it says.
    pub txt: BTreeMap<String, String>,
}

/// Listens for `window` and gives all that announced themselves, by name.
///
/// # Errors
/// In words: this machine cannot send or receive in the local network.
pub async fn discover(window: Duration) -> Result<Vec<DiscoveredGateway>, String> {
    let text = |e: mdns_sd::Error| e.to_string();
    let daemon = ServiceDaemon::new().map_err(text)?;
    let found = browse(&daemon, window).await;
    // Its thread would otherwise go on; one that has ended cannot be ended again.
    let _ = daemon.shutdown();
    found
}

async fn browse(
    daemon: &ServiceDaemon,
    window: Duration,
) -> Result<Vec<DiscoveredGateway>, String> {
    let events = daemon.browse(SERVICE).map_err(|e| e.to_string())?;
    let until = tokio::time::Instant::now() + window;
    let mut found = BTreeMap::new();
    while let Ok(event) = tokio::time::timeout_at(until, events.recv_async()).await {
        match event {
            Ok(ServiceEvent::ServiceResolved(service))
                if found.len() < MAX_DISCOVERED || found.contains_key(&service.fullname) =>
            {
                found.insert(service.fullname.clone(), read(&service));
            }
            Ok(ServiceEvent::ServiceRemoved(_, name)) => {
                found.remove(&name);
            }
            Ok(_) => {}
            Err(_) => return Err("the search in the local network broke off".to_owned()),
        }
    }
    Ok(found.into_values().collect())
}

fn read(service: &ResolvedService) -> DiscoveredGateway {
    let short = |text: &str| -> String {
        let mut out = String::new();
        for c in text.chars() {
            if out.len() + c.len_utf8() > MAX_DISCOVERED_TEXT_BYTES {
                break;
            }
            out.push(c);
        }
        out
    };
    let txt: BTreeMap<String, String> = service
        .txt_properties
        .iter()
        .map(|p| (short(p.key()), short(p.val_str())))
        .collect();
    let mut addresses: Vec<IpAddr> = service.addresses.iter().map(|a| a.to_ip_addr()).collect();
    addresses.sort();
    let tls = txt.get("gatewayTls").is_some_and(|v| v == "1");
    let scheme = if tls { "wss" } else { "ws" };
    let url = addresses.first().map(|ip| {
        format!(
            "{scheme}://{}",
            std::net::SocketAddr::new(*ip, service.port)
        )
    });
    let suffix = format!(".{SERVICE}");
    let name = service.fullname.strip_suffix(&suffix);
    DiscoveredGateway {
        name: short(name.unwrap_or(&service.fullname)),
        host: short(service.host.trim_end_matches('.')),
        addresses,
        port: service.port,
        tls,
        claimed_fingerprint: txt.get("gatewayTlsSha256").and_then(|v| CertPin::parse(v)),
        url,
        txt,
    }
}
