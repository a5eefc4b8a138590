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

use arc_swap::ArcSwap;
use gateway_config::AccountSettings;
use gateway_store::OutboxRow;

pub use self::account::{Account, Seen};
pub use self::guest::{ChannelGuest, ChannelPlugin, WasmChannel};
pub use self::webhook::{WebhookAnswer, WebhookHttp};
use crate::delivery::{Delivery, ReplyTarget};
use crate::tenant::Tenant;

type Accounts = BTreeMap<(String, String), Arc<Account>>;

/// The channel accounts of one tenant.
pub struct Channels {
    tenant: Weak<Tenant>,
    accounts: ArcSwap<Accounts>,
    /// Held while accounts are started or replaced.
    changing: tokio::sync::Mutex<()>,
}

/// Builds one account of a tenant. Nothing of it runs; where its plugin is missing it is degraded.
pub(crate) fn build_account(tenant: &Arc<Tenant>, settings: AccountSettings) -> Arc<Account> {
    let shared = tenant.shared();
    let plugin = shared
        .channel_plugins
        .iter()
        .find(|plugin| plugin.manifest().id == settings.kind)
        .cloned();
    Account::new(
        tenant,
        settings,
        plugin,
        &shared.egress,
        tenant.http_permits(),
    )
}

impl std::fmt::Debug for Channels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Channels({} accounts)", self.accounts.load().len())
    }
}

impl Channels {
    /// Builds the accounts of the tenant's settings. Nothing runs yet; an account whose plugin is missing is degraded.
    #[must_use]
    pub fn new(tenant: &Arc<Tenant>) -> Arc<Self> {
        let accounts: Accounts = tenant
            .settings()
            .channels
            .iter()
            .cloned()
            .map(|settings| {
                let key = (settings.kind.clone(), settings.account.clone());
                (key, build_account(tenant, settings))
            })
            .collect();
        Arc::new(Self {
            tenant: Arc::downgrade(tenant),
            accounts: ArcSwap::from_pointee(accounts),
            changing: tokio::sync::Mutex::new(()),
        })
    }

    /// Puts `next` in the place of the accounts of the same name, and takes those in `gone` out. An account that is
    /// replaced or taken out first ends what it is doing; the others are not touched.
    pub(crate) async fn change(
        &self,
        tenant: &Arc<Tenant>,
        next: Vec<Arc<Account>>,
        gone: Vec<(String, String)>,
    ) {
        let _one = self.changing.lock().await;
        let before = self.accounts.load_full();
        let key = |account: &Account| (account.kind().to_owned(), account.id().to_owned());
        let ending: Vec<Arc<Account>> = next
            .iter()
            .map(|account| key(account))
            .chain(gone.iter().cloned())
            .filter_map(|key| before.get(&key).cloned())
            .collect();
        futures_util::future::join_all(ending.iter().map(|account| account.drain())).await;
        let mut accounts = (*before).clone();
        for key in &gone {
            accounts.remove(key);
        }
        for account in &next {
            accounts.insert(key(account), account.clone());
        }
        for (kind, _) in before.keys() {
            if !accounts.keys().any(|(other, _)| other == kind) {
                tenant.health().set_channel(kind, None);
            }
        }
        self.accounts.store(Arc::new(accounts));
        self.start(tenant, &next).await;
    }

    /// Starts every account that the settings enable and no operator stopped. What can't start is degraded and keeps nothing
    /// else from starting.
    pub async fn start_all(&self) {
        let Some(tenant) = self.tenant.upgrade() else {
            return;
        };
        let _one = self.changing.lock().await;
        let accounts: Vec<Arc<Account>> = self.accounts().collect();
        self.start(&tenant, &accounts).await;
    }

    async fn start(&self, tenant: &Arc<Tenant>, accounts: &[Arc<Account>]) {
        let stored = tenant
            .db()
            .read(|r| r.account_states())
            .await
            .unwrap_or_default();
        for account in accounts {
            let wish = stored
                .iter()
                .find(|row| row.kind == account.kind() && row.account == account.id())
                .and_then(|row| row.enabled);
            if !account.settings.enabled || wish == Some(false) {
                continue;
            }
            if let Err(why) = account.start(tenant).await {
                account.failed(tenant, &why);
            }
        }
        self.publish(tenant);
    }

    /// Waits until no account is sending what is due.
    pub async fn flush(&self) {
        while self.accounts().any(|account| account.is_delivering()) {
            tokio::time::sleep(std::time::Duration::from_millis(limits::FLUSH_LOOK_MS)).await;
        }
    }

    /// Stops every account.
    pub async fn stop_all(&self) {
        for account in self.accounts() {
            account.stop().await;
        }
    }

    /// Largest body that the route takes; `None` when there is no such route (to be answered as not found).
    #[must_use]
    pub fn webhook_limit(&self, kind: &str, account: &str, route: &str) -> Option<usize> {
        let account = self.account(kind, account)?;
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
        let found = self.account(kind, account);
        let (Some(account), Some(tenant)) = (found, self.tenant.upgrade()) else {
            return WebhookAnswer::not_found();
        };
        account.webhook(&tenant, route, request).await
    }

    /// One account, for tests and listings.
    #[must_use]
    pub fn account(&self, kind: &str, account: &str) -> Option<Arc<Account>> {
        let key = (kind.to_owned(), account.to_owned());
        self.accounts.load().get(&key).cloned()
    }

    /// All accounts of now, by kind and id.
    pub fn accounts(&self) -> impl Iterator<Item = Arc<Account>> + use<> {
        let all: Vec<Arc<Account>> = self.accounts.load().values().cloned().collect();
        all.into_iter()
    }

    /// What a channel kind is called.
    pub(super) fn label(&self, kind: &str) -> String {
        let plugins = self.tenant.upgrade();
        plugins
            .as_ref()
            .and_then(|tenant| {
                let plugins = &tenant.shared().channel_plugins;
                plugins.iter().find(|plugin| plugin.manifest().id == kind)
            })
            .and_then(|plugin| plugin.descriptor())
            .map_or_else(|| kind.to_owned(), |descriptor| descriptor.name.clone())
    }

    fn with(&self, kind: &str, account: &str) -> Option<(Arc<Account>, Arc<Tenant>)> {
        Some((self.account(kind, account)?, self.tenant.upgrade()?))
    }
}

impl Delivery for Channels {
    fn streams(&self, kind: &str, account: &str) -> bool {
        self.account(kind, account).is_some_and(|account| {
            let ready = account.ready.as_ref();
            ready
                .and_then(|ready| ready.plugin.descriptor())
                .is_some_and(|descriptor| descriptor.can_edit)
        })
    }

    fn ttl_ms(&self, _kind: &str, _account: &str) -> i64 {
        limits::OUTBOX_TTL_MS
    }

    fn max_text_bytes(&self, kind: &str, account: &str) -> usize {
        self.account(kind, account).map_or(0, |account| {
            let ready = account.ready.as_ref();
            ready
                .and_then(|ready| ready.plugin.descriptor())
                .map_or(0, |descriptor| {
                    usize::try_from(descriptor.max_text_bytes).unwrap_or(usize::MAX)
                })
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
        let tracker = tenant.tasks().clone();
        tracker.spawn(async move { account.deliver_row(&tenant, row, Some(target)).await });
    }
}
