//! Health of what all tenants share. Its owners (the listener, the advertiser) tell; every tenant's snapshot shows it.

use gateway_protocol::methods::system::{DiscoveryHealth, TlsHealth};
use parking_lot::Mutex;

/// What was told last.
#[derive(Debug, Default)]
pub struct ProcessHealth {
    tls: Mutex<Option<TlsHealth>>,
    discovery: Mutex<Option<DiscoveryHealth>>,
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

    /// How the gateway lets itself be found; `None` when it does not.
    #[must_use]
    pub fn discovery(&self) -> Option<DiscoveryHealth> {
        self.discovery.lock().clone()
    }
}
