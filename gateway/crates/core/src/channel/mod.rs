//! Channels of a tenant: accounts with their guests, who may talk, webhooks, delivery.
//!
//! ```text
//! webhook.rs ─ verify.rs ─► guest ─► inbound.rs (one commit: dedupe, access.rs, route, run)
//! session end ─► outbox row ─► outbound.rs ─► guest ─► http.rs ─► platform
//! ```

pub mod access;
mod account;

pub mod guest;
pub mod http;
mod inbound;
pub mod limits;
mod outbound;
pub mod rpc;
pub mod verify;
mod webhook;

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use gateway_store::OutboxRow;

pub(crate) use self::account::host_error;
pub use self::account::{Account, Seen};
pub use self::guest::{ChannelGuest, ChannelPlugin, WasmChannel};
pub use self::webhook::{WebhookAnswer, WebhookHttp};
use crate::delivery::{Delivery, ReplyTarget};
use crate::tenant::Tenant;

/// The channel accounts of one tenant.
pub struct Channels {
    tenant: Weak<Tenant>,
    accounts: BTreeMap<(String, String), Arc<Account>>,
    labels: BTreeMap<String, String>,
}

impl std::fmt::Debug for Channels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Channels({} accounts)", self.accounts.len())
    }
}

impl Channels {
    /// Builds the accounts of the tenant's settings. Nothing runs yet; an account whose plugin is missing is degraded.
    #[must_use]
    pub fn new(tenant: &Arc<Tenant>, plugins: &[Arc<dyn ChannelPlugin>]) -> Arc<Self> {
        let permits = http::tenant_permits();
        let mut accounts = BTreeMap::new();
        let mut labels = BTreeMap::new();
        for settings in tenant.settings().channels.iter().cloned() {
            let plugin = plugins
                .iter()
                .find(|plugin| plugin.manifest().id == settings.kind)
                .cloned();
            let label = plugin
                .as_ref()
                .and_then(|plugin| plugin.descriptor())
                .map_or_else(
                    || settings.kind.clone(),
                    |descriptor| descriptor.name.clone(),
                );
            labels.insert(settings.kind.clone(), label);
            let key = (settings.kind.clone(), settings.account.clone());
            accounts.insert(
                key,
                Account::new(tenant, settings, plugin, &tenant.shared().egress, &permits),
            );
        }
        Arc::new(Self {
            tenant: Arc::downgrade(tenant),
            accounts,
            labels,
        })
    }

    /// Starts every account that the settings enable and no operator stopped. What can't start is degraded and keeps nothing
    /// else from starting.
    pub async fn start_all(&self) {
        let Some(tenant) = self.tenant.upgrade() else {
            return;
        };
        let stored = tenant
            .db()
            .read(|r| r.account_states())
            .await
            .unwrap_or_default();
        for account in self.accounts.values() {
            let wish = stored
                .iter()
                .find(|row| row.kind == account.kind() && row.account == account.id())
                .and_then(|row| row.enabled);
            if !account.settings.enabled || wish == Some(false) {
                continue;
            }
            if let Err(why) = account.start(&tenant).await {
                account.failed(&tenant, &why);
            }
        }
        self.publish(&tenant);
    }

    /// Waits until no account is sending what is due.
    pub async fn flush(&self) {
        while self.accounts.values().any(|account| {
            account
                .delivering
                .load(std::sync::atomic::Ordering::Acquire)
        }) {
            tokio::time::sleep(std::time::Duration::from_millis(limits::FLUSH_LOOK_MS)).await;
        }
    }

    /// Stops every account.
    pub async fn stop_all(&self) {
        for account in self.accounts.values() {
            account.stop().await;
        }
    }

    /// Largest body that the route takes; `None` when there is no such route (to be answered as not found).
    #[must_use]
    pub fn webhook_limit(&self, kind: &str, account: &str, route: &str) -> Option<usize> {
        let account = self.accounts.get(&(kind.to_owned(), account.to_owned()))?;
        Some(account.ready.as_ref()?.routes.get(route)?.max_body)
    }

    /// Serves a webhook request.
    pub async fn webhook(
        &self,
        kind: &str,
        account: &str,
        route: &str,
        request: WebhookHttp,
    ) -> WebhookAnswer {
        let found = self.accounts.get(&(kind.to_owned(), account.to_owned()));
        let (Some(account), Some(tenant)) = (found, self.tenant.upgrade()) else {
            return WebhookAnswer::not_found();
        };
        account.webhook(&tenant, route, request).await
    }

    /// One account, for tests and listings.
    #[must_use]
    pub fn account(&self, kind: &str, account: &str) -> Option<&Arc<Account>> {
        self.accounts.get(&(kind.to_owned(), account.to_owned()))
    }

    /// All accounts, by kind and id.
    pub fn accounts(&self) -> impl Iterator<Item = &Arc<Account>> {
        self.accounts.values()
    }

    fn with(&self, kind: &str, account: &str) -> Option<(&Arc<Account>, Arc<Tenant>)> {
        Some((self.account(kind, account)?, self.tenant.upgrade()?))
    }
}

impl Delivery for Channels {
    fn streams(&self, kind: &str, account: &str) -> bool {
        self.account(kind, account)
            .and_then(|account| account.ready.as_ref())
            .and_then(|ready| ready.plugin.descriptor())
            .is_some_and(|descriptor| descriptor.can_edit)
    }

    fn ttl_ms(&self, _kind: &str, _account: &str) -> i64 {
        limits::OUTBOX_TTL_MS
    }

    fn max_text_bytes(&self, kind: &str, account: &str) -> usize {
        self.account(kind, account)
            .and_then(|account| account.ready.as_ref())
            .and_then(|ready| ready.plugin.descriptor())
            .map_or(0, |descriptor| {
                usize::try_from(descriptor.max_text_bytes).unwrap_or(usize::MAX)
            })
    }

    fn wake(&self, kind: &str, account: &str) {
        if let Some((account, tenant)) = self.with(kind, account) {
            account.wake_delivery(&tenant);
        }
    }

    fn holds(&self, kind: &str, account: &str, hold: &str) -> bool {
        self.account(kind, account)
            .is_some_and(|account| account.holds.lock().contains_key(hold))
    }

    fn deliver(&self, row: OutboxRow, target: ReplyTarget) {
        let Some((account, tenant)) = self.with(&row.kind, &row.account) else {
            return;
        };
        let account = account.clone();
        let tracker = tenant.tasks().clone();
        tracker.spawn(async move { account.deliver_row(&tenant, row, Some(target)).await });
    }
}
