//! Accounts: a map entry while idle, an actor with one instance while there is work.

use std::sync::Arc;

use crate::host::AccountHost;
use crate::plugin::{Plugin, PluginHost};
use crate::types::{AccountStatus, Action, CallError, GuestEvent, Outbound, Receipt, SendOutcome};

/// One account of one tenant at one plugin. Cheap while idle: no task, no channel, no instance.
/// Must be used inside of a tokio runtime: the host's futures run there.
#[derive(Clone)]
pub struct Account {
    #[allow(dead_code)]
    host: Arc<PluginHost>,
    #[allow(dead_code)]
    plugin: Arc<Plugin>,
    #[allow(dead_code)]
    io: Arc<dyn AccountHost>,
}

impl Account {
    /// A handle. Runs nothing.
    #[must_use]
    pub fn new(host: Arc<PluginHost>, plugin: Arc<Plugin>, io: Arc<dyn AccountHost>) -> Self {
        Self { host, plugin, io }
    }

    /// Gives one event to the guest and returns what it wants done, after the commit.
    ///
    /// The event is served even if the caller goes away.
    ///
    /// # Errors
    /// See [`CallError`]. Nothing of a failed event is stored. An event whose guest crashed was tried twice.
    pub async fn event(&self, _event: GuestEvent) -> Result<Vec<Action>, CallError> {
        Err(CallError::Instantiate(
            "guest calls are not built yet".to_owned(),
        ))
    }

    /// Puts one part of a reply on the platform. Goes before all waiting events.
    pub async fn send(&self, _message: Outbound) -> SendOutcome {
        SendOutcome::Retry {
            after_ms: 1_000,
            why: "guest calls are not built yet".to_owned(),
        }
    }

    /// Changes a sent part.
    pub async fn edit(&self, _receipt: Receipt, _message: Outbound) -> SendOutcome {
        SendOutcome::Retry {
            after_ms: 1_000,
            why: "guest calls are not built yet".to_owned(),
        }
    }

    /// Ends the account: waiting calls get [`CallError::Stopped`], the instance is dropped after the call under way.
    pub async fn stop(&self) {}

    /// Takes the account out of quarantine and back-off.
    pub fn release(&self) {}

    /// Now.
    #[must_use]
    pub fn state(&self) -> AccountStatus {
        AccountStatus::Idle
    }
}
