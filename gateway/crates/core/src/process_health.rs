//! Health of what all tenants share. Its owners (the listener, the advertiser) tell; every tenant's snapshot shows it.

use gateway_protocol::methods::system::{DiscoveryHealth, TailscaleHealth, TlsHealth};
use parking_lot::Mutex;

/// What was told last.
#[derive(Debug, Default)]
pub struct ProcessHealth {
    tls: Mutex<Option<TlsHealth>>,
    discovery: Mutex<Option<DiscoveryHealth>>,
    tailscale: Mutex<Option<TailscaleHealth>>,
}

impl ProcessHealth {
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
