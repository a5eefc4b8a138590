//! Health of what all tenants share. Its owners (the listener, the advertiser) tell; every tenant's snapshot shows it.

use std::net::IpAddr;
use std::sync::Arc;

use gateway_protocol::methods::system::{DiscoveryHealth, TailscaleHealth, TlsHealth};
use parking_lot::Mutex;

/// Where the gateway listens.
#[derive(Clone)]
pub struct Listener {
    /// Its port.
    pub port: u16,
    /// Whether it speaks TLS.
    pub tls: bool,
    /// The addresses at which other machines reach it now, the best first; none where it listens for this machine only.
    pub addresses: Arc<dyn Fn() -> Vec<IpAddr> + Send + Sync>,
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Listener(port {}, tls {})", self.port, self.tls)
    }
}

/// What was told last.
#[derive(Debug, Default)]
pub struct ProcessHealth {
    tls: Mutex<Option<TlsHealth>>,
    discovery: Mutex<Option<DiscoveryHealth>>,
    tailscale: Mutex<Option<TailscaleHealth>>,
    listener: Mutex<Option<Listener>>,
}

impl ProcessHealth {
    pub(crate) fn set_listener(&self, listener: Listener) {
        *self.listener.lock() = Some(listener);
    }

    /// Where the gateway listens; `None` while it does not.
    #[must_use]
    pub fn listener(&self) -> Option<Listener> {
        self.listener.lock().clone()
    }

    pub(crate) fn set_tls(&self, state: TlsHealth) {
        *self.tls.lock() = Some(state);
    }

    /// The listener's certificate; `None` without TLS.
    #[must_use]
    pub fn tls(&self) -> Option<TlsHealth> {
        self.tls.lock().clone()
    }

    /// True if it is news.
    pub(crate) fn set_discovery(&self, state: DiscoveryHealth) -> bool {
        let mut told = self.discovery.lock();
        let news = told.as_ref() != Some(&state);
        *told = Some(state);
        news
    }

    /// True if it is news.
    pub(crate) fn set_tailscale(&self, state: TailscaleHealth) -> bool {
        let mut told = self.tailscale.lock();
        let news = told.as_ref() != Some(&state);
        *told = Some(state);
        news
    }

    /// The name in a tailnet; `None` without one.
    #[must_use]
    pub fn tailscale(&self) -> Option<TailscaleHealth> {
        self.tailscale.lock().clone()
    }

    /// How the gateway lets itself be found; `None` when it does not.
    #[must_use]
    pub fn discovery(&self) -> Option<DiscoveryHealth> {
        self.discovery.lock().clone()
    }
}
