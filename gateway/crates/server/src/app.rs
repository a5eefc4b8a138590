//! What all connections of a listener share.

use std::{collections::HashSet, sync::Arc};

use axum::Router;
use gateway_core::host::Host;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{ServerLimits, budget, guard::Names, ws::timer::Timer};

/// The listener's state. Everything in it is bounded by [`ServerLimits`] or [`crate::limits`].
pub(crate) struct App {
    pub(crate) host: Arc<Host>,
    pub(crate) names: Names,
    /// Peers whose forwarding headers are tolerated (and not believed).
    pub(crate) proxies: Vec<std::net::IpAddr>,
    pub(crate) limits: ServerLimits,
    pub(crate) budget: Arc<budget::Budget>,
    pub(crate) preauth_bytes: Arc<budget::Bytes>,
    pub(crate) event_bytes: Arc<budget::Bytes>,
    pub(crate) timer: Arc<Timer>,
    pub(crate) routes: Router,
    /// Methods that end with their caller.
    pub(crate) waits: HashSet<&'static str>,
    /// Methods that answer twice.
    pub(crate) interim: HashSet<&'static str>,
    pub(crate) ready: watch::Receiver<bool>,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

impl App {
    /// Boot is over and nothing stops it: requests are welcome.
    pub(crate) fn ready(&self) -> bool {
        *self.ready.borrow() && !self.host.is_draining()
    }

    /// Wall clock of the host, Unix epoch ms.
    pub(crate) fn now_ms(&self) -> i64 {
        self.host.shared().clock.now_ms()
    }
}
