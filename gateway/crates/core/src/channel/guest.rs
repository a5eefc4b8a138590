//! The seam to the guest of an account: a WebAssembly instance in the product, a double in the seeded simulation.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use gateway_wasm::{
    Account as WasmAccount, AccountHost, AccountStatus, Action, CallError, Descriptor, GuestEvent,
    Manifest, Outbound, Plugin, PluginHost, Receipt, SendOutcome,
};

/// What an account asks its guest.
pub trait ChannelGuest: Send + Sync + 'static {
    /// One event; answers after its effects were committed through the account's [`AccountHost`].
    fn event(&self, event: GuestEvent) -> BoxFuture<'_, Result<Vec<Action>, CallError>>;
    /// Puts one part of a reply on the platform.
    fn send(&self, message: Outbound) -> BoxFuture<'_, SendOutcome>;
    /// Changes a part that is there.
    fn edit(&self, receipt: Receipt, message: Outbound) -> BoxFuture<'_, SendOutcome>;
    /// Ends it; waiting calls are answered `Stopped`.
    fn stop(&self) -> BoxFuture<'_, ()>;
    /// Lets it out of quarantine.
    fn release(&self);
    /// How it is.
    fn status(&self) -> AccountStatus;
}

impl ChannelGuest for WasmAccount {
    fn event(&self, event: GuestEvent) -> BoxFuture<'_, Result<Vec<Action>, CallError>> {
        Box::pin(Self::event(self, event))
    }
    fn send(&self, message: Outbound) -> BoxFuture<'_, SendOutcome> {
        Box::pin(Self::send(self, message))
    }
    fn edit(&self, receipt: Receipt, message: Outbound) -> BoxFuture<'_, SendOutcome> {
        Box::pin(Self::edit(self, receipt, message))
    }
    fn stop(&self) -> BoxFuture<'_, ()> {
        Box::pin(Self::stop(self))
    }
    fn release(&self) {
        Self::release(self);
    }
    fn status(&self) -> AccountStatus {
        self.state()
    }
}

/// What the host needs to know of a channel kind before it runs any of its code.
pub trait ChannelPlugin: Send + Sync + 'static {
    /// Its checked manifest.
    fn manifest(&self) -> &Manifest;
    /// What it says about itself.
    fn descriptor(&self) -> Option<&Descriptor>;
    /// A guest for one account. Runs nothing yet.
    fn account(&self, io: Arc<dyn AccountHost>) -> Arc<dyn ChannelGuest>;
}

/// A plugin loaded from a directory.
pub struct WasmChannel {
    host: Arc<PluginHost>,
    plugin: Arc<Plugin>,
}

impl WasmChannel {
    /// Joins the engines and the plugin.
    #[must_use]
    pub fn new(host: Arc<PluginHost>, plugin: Arc<Plugin>) -> Self {
        Self { host, plugin }
    }
}

impl ChannelPlugin for WasmChannel {
    fn manifest(&self) -> &Manifest {
        &self.plugin.manifest
    }
    fn descriptor(&self) -> Option<&Descriptor> {
        self.plugin.descriptor.as_ref()
    }
    fn account(&self, io: Arc<dyn AccountHost>) -> Arc<dyn ChannelGuest> {
        Arc::new(WasmAccount::new(self.host.clone(), self.plugin.clone(), io))
    }
}
