//! Health of what all tenants share. Its owners (the listener, the advertiser) tell; every tenant's snapshot shows it.

use gateway_protocol::methods::system::TlsHealth;
use parking_lot::Mutex;

/// What was told last.
#[derive(Debug, Default)]
pub struct ProcessHealth {
    tls: Mutex<Option<TlsHealth>>,
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
}
