//! What all connections of a listener share.

use std::{collections::HashSet, sync::Arc};

use arc_swap::ArcSwap;
use axum::Router;
use gateway_config::Settings;
use gateway_core::{hold::HoldReason, host::Host};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{ServerLimits, budget, guard::Names, traffic::Traffic, ws::timer::Timer};

/// The listener's state. Everything in it is bounded by [`ServerLimits`] or [`crate::limits`].
pub(crate) struct App {
    pub(crate) host: Arc<Host>,
    /// The names of these settings; made anew when others count.
    pub(crate) names: ArcSwap<(Arc<Settings>, Names)>,
    /// The name in a tailnet, where there is one.
    pub(crate) tailscale: Option<Arc<crate::tailscale::Tailscale>>,
    pub(crate) limits: ServerLimits,
    /// The limits were given by the embedding program and not by the settings.
    pub(crate) own_limits: bool,
    pub(crate) budget: Arc<budget::Budget>,
    pub(crate) preauth_bytes: Arc<budget::Bytes>,
    pub(crate) event_bytes: Arc<budget::Bytes>,
    pub(crate) traffic: Arc<Traffic>,
    pub(crate) timer: Arc<Timer>,
    pub(crate) routes: Router,
    /// Methods that end with their caller.
    pub(crate) waits: HashSet<&'static str>,
    /// Methods that answer twice.
    pub(crate) interim: HashSet<&'static str>,
    pub(crate) ready: watch::Receiver<bool>,
    /// The listener is about to go to another process: HTTP connections end with their answers.
    pub(crate) handing_over: CancellationToken,
    /// HTTP connections from which a request may still come; only looked at in a hand-over.
    pub(crate) asking: TaskTracker,
    /// The gateway stops: nothing new is accepted.
    pub(crate) stop: CancellationToken,
    /// What was going on is over: connections end.
    pub(crate) closing: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

impl App {
    /// Until an HTTP connection without a request is to be ended because the listener goes to another process. A client
    /// that just came has some time to ask: its connection was accepted, so nobody else will answer.
    pub(crate) async fn retires(&self, asked: impl Fn() -> bool) {
        self.handing_over.cancelled().await;
        self.stop.cancelled().await;
        if !asked() {
            let grace = std::time::Duration::from_millis(crate::limits::HANDOVER_GRACE_MS);
            tokio::time::sleep(grace).await;
        }
    }

    /// The names that are answered now.
    pub(crate) fn names(&self) -> Arc<(Arc<Settings>, Names)> {
        let settings = self.host.settings();
        let names = self.names.load_full();
        if Arc::ptr_eq(&names.0, &settings) {
            return names;
        }
        let names = Arc::new((settings.clone(), Names::of(&settings)));
        self.names.store(names.clone());
        names
    }

    /// For a handshake, in ms.
    pub(crate) fn handshake_timeout_ms(&self) -> u64 {
        if self.own_limits {
            return self.limits.handshake_timeout_ms;
        }
        self.host.settings().gateway.limits.handshake_timeout_ms
    }

    /// For runs to end when the gateway stops, in ms.
    pub(crate) fn drain_timeout_ms(&self) -> u64 {
        if self.own_limits {
            return self.limits.drain_timeout_ms;
        }
        self.host.settings().gateway.limits.drain_timeout_ms
    }

    /// Follows the settings: places for connections that change while the gateway runs.
    pub(crate) async fn follow_settings(self: Arc<Self>) {
        let mut changes = self.host.config_changes();
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                changed = changes.changed() => if changed.is_err() { return },
            }
            if !self.own_limits {
                let limits = ServerLimits::of(&self.host.settings().gateway.limits);
                self.budget.set(
                    limits.max_connections,
                    limits.preauth_total,
                    limits.preauth_per_address,
                );
            }
        }
    }

    /// What keeps requests from being welcome, for a probe; `None`: nothing does. One word, the same for everybody.
    pub(crate) fn failing(&self, tenant: Option<&gateway_core::Tenant>) -> Option<&'static str> {
        if self.host.is_draining() || self.stop.is_cancelled() {
            return Some("draining");
        }
        if self.host.boot_aborted().borrow().is_some() {
            return Some("boot-scripts");
        }
        if !*self.ready.borrow() {
            return Some("startup");
        }
        tenant
            .and_then(gateway_core::Tenant::hold)
            .map(|hold| match hold.reason {
                HoldReason::BootScript => "boot-scripts",
                HoldReason::SafeMode => "safe-mode",
            })
    }

    /// Boot is over and nothing stops it: requests are welcome.
    pub(crate) fn ready(&self) -> bool {
        *self.ready.borrow() && !self.host.is_draining()
    }

    /// Wall clock of the host, Unix epoch ms.
    pub(crate) fn now_ms(&self) -> i64 {
        self.host.shared().clock.now_ms()
    }
}
