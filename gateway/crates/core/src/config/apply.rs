//! From the file to what runs: read → differ → build beside the old → look whether it works → swap → drain the old.
//!
//! Until the swap nothing that runs is touched, and any fault ends the reload with everything as it was.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use gateway_config::{
    AccountChange, ConfigError, Plan, Settings, TenantChange, TenantPlan, TenantSettings, join_path,
};
use gateway_protocol::event::{ConfigChanged, ConfigChangedPayload};

use super::{ConfigFault, ConfigState};
use crate::agents::Agents;
use crate::channel::Account;
use crate::host::{Directory, Host};
use crate::hub::Routing;
use crate::limits::{CONFIG_FILE_LABEL, TENANT_LEAVES_MAX_MS};
use crate::tenant::Tenant;

/// How a reload ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reloaded {
    /// The file says what runs already.
    Unchanged,
    /// It is in force.
    Applied {
        /// The new revision.
        revision: u64,
        /// Paths of the changed values.
        changed: Vec<String>,
        /// Paths of those that wait for the next start.
        restart: Vec<String>,
    },
    /// It was refused; what ran before runs on.
    Refused(ConfigFault),
    /// There is no file that could be read again.
    NoFile,
}

/// What is built beside what runs.
pub(super) struct Prepared {
    settings: Settings,
    plan: Plan,
    added: Vec<Arc<Tenant>>,
    changed: Vec<Next>,
    removed: Vec<Arc<Tenant>>,
}

/// The new parts of one tenant.
struct Next {
    tenant: Arc<Tenant>,
    settings: TenantSettings,
    plan: TenantPlan,
    agents: Option<Agents>,
    accounts: Vec<Arc<Account>>,
}

impl Host {
    /// Reads the file again and lets it count, if all of it is right. What cannot change while the process runs stays as
    /// it is and is named.
    pub async fn reload_config(self: &Arc<Self>) -> Reloaded {
        let _one = self.reloading.lock().await;
        let Some(file) = self.config_file().cloned() else {
            return Reloaded::NoFile;
        };
        // It reads files and may run programs.
        let loaded = match tokio::task::spawn_blocking(move || file.load()).await {
            Ok(loaded) => loaded,
            Err(_) => return Reloaded::Unchanged,
        };
        match loaded {
            Ok(settings) => {
                let done = self.apply(settings).await;
                if let (
                    Reloaded::Applied {
                        revision, changed, ..
                    },
                    Some(main),
                ) = (&done, self.main_tenant())
                {
                    crate::audit::config_reloaded(&main, *revision, changed);
                }
                done
            }
            Err(error) => self.refuse((&error).into()),
        }
    }

    /// Lets settings count. The caller holds `reloading`.
    pub(super) async fn apply(self: &Arc<Self>, settings: Settings) -> Reloaded {
        match self.prepare(settings).await {
            Ok(None) => {
                self.settled();
                Reloaded::Unchanged
            }
            Ok(Some(prepared)) => match self.commit(prepared).await {
                Ok(done) => done,
                Err(fault) => self.refuse(fault),
            },
            Err(fault) => self.refuse(fault),
        }
    }

    /// The file is what runs: a fault that was told is over.
    fn settled(&self) {
        let configuration = &self.shared().configuration;
        if configuration.status().state == ConfigState::Active {
            return;
        }
        configuration.update(|status| {
            status.state = ConfigState::Active;
            status.fault = None;
        });
        tracing::info!("the configuration file is in order again");
        if let Some(main) = self.main_tenant() {
            main.health().nudge();
        }
    }

    /// Notes that the file is not what counts.
    pub(super) fn refuse(&self, fault: ConfigFault) -> Reloaded {
        let configuration = &self.shared().configuration;
        let before = configuration.status();
        if before.fault.as_ref() != Some(&fault) {
            tracing::error!(
                error = %fault.message,
                "the edit of the configuration is refused; what ran before runs on"
            );
        }
        configuration.update(|status| {
            // A gateway that began with the last good one still does until the file is right.
            if status.state == ConfigState::Active {
                status.state = ConfigState::Rejected;
            }
            status.fault = Some(fault.clone());
        });
        if let Some(main) = self.main_tenant() {
            main.log(
                "error",
                &format!("configuration refused: {}", fault.message),
            );
            main.health().nudge();
        }
        Reloaded::Refused(fault)
    }

    /// Builds everything that is new, beside what runs. `None` when nothing is.
    pub(super) async fn prepare(
        self: &Arc<Self>,
        settings: Settings,
    ) -> Result<Option<Prepared>, ConfigFault> {
        if self.is_draining() {
            return Err(ConfigFault::plain("the gateway is stopping".to_owned()));
        }
        let running = self.settings();
        let plan = Plan::between(&running, &settings);
        if plan.is_empty() && settings.hash == running.hash {
            return Ok(None);
        }
        let settings = settings
            .beside(&running)
            .map_err(|e: ConfigError| ConfigFault::from(&e))?;
        let directory = self.directory();
        let (mut added, mut changed, mut removed) = (Vec::new(), Vec::new(), Vec::new());
        for (slug, change) in &plan.tenants {
            match (change, settings.tenants.get(slug)) {
                (TenantChange::Added, Some(new)) => {
                    added.push(self.build_tenant(&settings, new).await?);
                }
                (TenantChange::Removed, _) => removed.extend(directory.tenants.get(slug).cloned()),
                (TenantChange::Changed(plan), Some(new)) => {
                    if let Some(tenant) = directory.tenants.get(slug) {
                        changed.push(self.build_parts(&settings, tenant, new, plan)?);
                    }
                }
                (_, None) => {}
            }
        }
        Ok(Some(Prepared {
            settings,
            plan,
            added,
            changed,
            removed,
        }))
    }

    /// A new tenant with an open store, whose agents and channels could be made.
    async fn build_tenant(
        &self,
        settings: &Settings,
        new: &TenantSettings,
    ) -> Result<Arc<Tenant>, ConfigFault> {
        let path = join_path(&["tenants", &new.slug]);
        let fault = |why: String| ConfigFault::at(settings, &path, why);
        // The same tenant may just be leaving: its store has one owner at a time.
        if let Some(mut gone) = self.leaving(&new.slug) {
            let wait = Duration::from_millis(TENANT_LEAVES_MAX_MS);
            match tokio::time::timeout(wait, gone.wait_for(|gone| *gone)).await {
                Ok(_) => {}
                Err(_) => {
                    return Err(fault(
                        "the tenant of this name that was taken out still ends its work (try again later)"
                            .to_owned(),
                    ));
                }
            }
        }
        let tenant = self.make_tenant(new).map_err(|e| fault(e.to_string()))?;
        tenant
            .db()
            .ensure_open()
            .await
            .map_err(|e| fault(format!("its store cannot be opened: {e}")))?;
        if let Some((agent, why)) = tenant.agents().broken().iter().next() {
            return Err(fault(format!("agent {agent} cannot answer: {why}")));
        }
        for account in &new.channels {
            self.build_account(settings, &tenant, account)?;
        }
        Ok(tenant)
    }

    fn build_parts(
        &self,
        settings: &Settings,
        tenant: &Arc<Tenant>,
        new: &TenantSettings,
        plan: &TenantPlan,
    ) -> Result<Next, ConfigFault> {
        let agents = plan.agents.then(|| self.make_agents(tenant, new));
        if let Some(agents) = &agents {
            let running = tenant.agents();
            let worse = |id: &&String| !running.broken().contains_key(*id);
            if let Some(id) = agents.broken().keys().find(worse) {
                let path = own_path(new, &["agents", "entries", id]);
                let why = agents.broken().get(id).cloned().unwrap_or_default();
                return Err(ConfigFault::at(settings, &path, why));
            }
        }
        let mut accounts = Vec::new();
        for account in &new.channels {
            let key = (account.kind.clone(), account.account.clone());
            if let Some(AccountChange::Added | AccountChange::Changed) = plan.accounts.get(&key) {
                accounts.push(self.build_account(settings, tenant, account)?);
            }
        }
        Ok(Next {
            tenant: tenant.clone(),
            settings: new.clone(),
            plan: plan.clone(),
            agents,
            accounts,
        })
    }

    fn build_account(
        &self,
        settings: &Settings,
        tenant: &Arc<Tenant>,
        account: &gateway_config::AccountSettings,
    ) -> Result<Arc<Account>, ConfigFault> {
        let built = crate::channel::build_account(tenant, account.clone());
        match built.unusable() {
            Some(why) if account.enabled => {
                let slug = tenant.slug();
                let own = ["channels", &account.kind, "accounts", &account.account];
                let path = match settings.tenants.get(slug) {
                    Some(t) => own_path(t, &own),
                    None => join_path(&own),
                };
                Err(ConfigFault::at(settings, &path, why.to_owned()))
            }
            _ => Ok(built),
        }
    }

    /// The swap. A fault before it leaves everything as it was; after it there is none.
    pub(super) async fn commit(
        self: &Arc<Self>,
        prepared: Prepared,
    ) -> Result<Reloaded, ConfigFault> {
        let Prepared {
            settings,
            plan,
            added,
            changed,
            removed,
        } = prepared;
        let old = self.directory();
        // First, so that no new secret is ever logged.
        self.tell_settings(&settings, &old.settings);
        for next in &changed {
            let mut secrets = crate::host::secrets_of(&next.settings);
            secrets.extend(crate::host::secrets_of(&next.tenant.settings()));
            next.tenant
                .logs()
                .set_redactor(crate::logs::Redactor::new(secrets));
        }
        let mut tenants: BTreeMap<String, Arc<Tenant>> = old.tenants.clone();
        for tenant in &removed {
            tenants.remove(tenant.slug());
        }
        for tenant in &added {
            tenants.insert(tenant.slug().to_owned(), tenant.clone());
        }
        let settings = Arc::new(settings);
        self.set_directory(Directory::new(settings.clone(), tenants));
        if let Err(error) = self.sync_credentials(&settings) {
            let fault = ConfigFault::plain(error.to_string());
            let running = old.settings.clone();
            self.set_directory((*old).clone());
            if let Err(error) = self.sync_credentials(&running) {
                tracing::error!(%error, "credentials in the store are those of a refused configuration");
            }
            return Err(fault);
        }
        self.set_limits(&settings.gateway.limits);
        for next in changed {
            self.change(next).await;
        }
        for tenant in removed {
            self.retire(tenant);
        }
        for tenant in &added {
            self.admit_tenant(tenant).await;
        }
        Ok(self.announce(&settings, &plan))
    }

    async fn change(&self, next: Next) {
        let Next {
            tenant,
            settings,
            plan,
            agents,
            accounts,
        } = next;
        if let Some(agents) = agents {
            let before = tenant.set_agents(agents);
            let fresh: Vec<String> = tenant
                .agents()
                .ids()
                .filter(|id| !before.exists(id))
                .map(str::to_owned)
                .collect();
            for agent in fresh {
                let id = agent.clone();
                if let Ok(count) = tenant.db().read(move |r| r.count_sessions(Some(&id))).await {
                    tenant
                        .sessions()
                        .set_count(&agent, u64::try_from(count).unwrap_or(0));
                }
            }
        }
        tenant.set_settings(settings);
        if !plan.accounts.is_empty()
            && let Some(channels) = tenant.channels()
        {
            let gone = plan
                .accounts
                .into_iter()
                .filter(|(_, change)| *change == AccountChange::Removed)
                .map(|(key, _)| key)
                .collect();
            channels.change(&tenant, accounts, gone).await;
        }
        if plan.agents || plan.cron {
            crate::cron::follow(&tenant).await;
        }
        tenant.health().nudge();
    }

    /// Says that it is done: status, health, log, and one event to those who may see a change.
    fn announce(self: &Arc<Self>, settings: &Arc<Settings>, plan: &Plan) -> Reloaded {
        let configuration = &self.shared().configuration;
        let now_ms = self.shared().clock.now_ms();
        let restart = plan.restart();
        let changed_views = configuration.publish(settings);
        let hash = configuration
            .view(gateway_config::MAIN_TENANT)
            .and_then(|view| view.hash);
        configuration.update(|status| {
            status.state = ConfigState::Active;
            status.fault = None;
            status.revision += 1;
            status.hash.clone_from(&hash);
            status.applied_at_ms = now_ms;
            for path in &restart {
                if !status.restart.contains(path) {
                    status.restart.push(path.clone());
                }
            }
        });
        let revision = configuration.status().revision;
        let changed = plan.paths();
        tracing::info!(revision, changed = %changed.join(" "), "configuration applied");
        for path in &restart {
            tracing::warn!(%path, "this change counts from the next start of the gateway");
        }
        for warning in &settings.warnings {
            tracing::warn!("{warning}");
        }
        for slug in changed_views {
            let (Some(tenant), Some(view)) = (self.tenant(&slug), configuration.view(&slug)) else {
                continue;
            };
            tenant.health().nudge();
            tenant.hub().emit::<ConfigChanged>(
                &ConfigChangedPayload {
                    path: CONFIG_FILE_LABEL.to_owned(),
                    hash: view.hash.unwrap_or_default(),
                    ts: now_ms,
                    revision: view.revision,
                },
                Routing::Everyone,
            );
        }
        self.changes.send_replace(revision);
        self.keep_last_good();
        Reloaded::Applied {
            revision,
            changed,
            restart,
        }
    }

    /// Keeps what runs as the last good configuration, in the background.
    pub(crate) fn keep_last_good(self: &Arc<Self>) {
        let Some(file) = self.config_file().cloned() else {
            return;
        };
        if self.shared().configuration.status().state != ConfigState::Active {
            return;
        }
        let host = self.clone();
        tokio::task::spawn_blocking(move || {
            // Two reloads in a row must not end with the older one kept.
            let _one = host.keeping.lock();
            if let Err(error) = file.keep(&host.settings()) {
                tracing::warn!(%error, "the last good configuration could not be kept");
            }
        });
    }
}

/// Path of a tenant's key in the file.
fn own_path(tenant: &TenantSettings, steps: &[&str]) -> String {
    if tenant.slug == gateway_config::MAIN_TENANT {
        return join_path(steps);
    }
    let mut all = vec!["tenants", tenant.slug.as_str()];
    all.extend(steps);
    join_path(&all)
}
