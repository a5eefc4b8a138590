//! One configured account of a channel: its guest, what the guest may do, and what the host does for it.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use futures_util::future::BoxFuture;
use gateway_config::{AccountSettings, Secret};
use gateway_egress::Egress;
use gateway_wasm::{
    AccountHost, AccountStatus, CallError, CommitReport, Effects, FaultKind, GuestEvent,
    GuestRequest, GuestResponse, HostError, HttpFault, Level, Submit,
};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

use super::access::AccessRules;
use super::guest::{ChannelGuest, ChannelPlugin};
use super::http::HttpGrant;
use super::limits::{
    ACCOUNT_DRAIN_MAX_MS, EVENT_RETRY_MAX_MS, EVENT_RETRY_MS, FLUSH_LOOK_MS, WEBHOOK_FAILURES_MAX,
    WEBHOOK_LOCKOUT_MS, WEBHOOK_WINDOW_MS,
};
use super::verify::{TimestampRule, VerifyRule};
use crate::auth::limiter::{FailureLimiter, LimiterRules};
use crate::guest_io::{KvSpace, host_error, level_word};
use crate::tenant::Tenant;
use crate::trace::TraceParent;

/// A webhook route as the host checks it.
pub(super) struct Route {
    pub(super) rules: Vec<VerifyRule>,
    pub(super) methods: Vec<String>,
    pub(super) max_body: usize,
}

/// What an account needs to run; absent while it is degraded.
pub(super) struct Ready {
    pub(super) plugin: Arc<dyn ChannelPlugin>,
    io: Arc<Io>,
    guest: RwLock<Arc<dyn ChannelGuest>>,
    pub(super) http: HttpGrant,
    pub(super) routes: BTreeMap<String, Route>,
    pub(super) kv_quota: i64,
}

impl Ready {
    pub(super) fn guest(&self) -> Arc<dyn ChannelGuest> {
        self.guest.read().clone()
    }

    /// A fresh guest: a stopped one stays stopped.
    fn renew(&self) {
        *self.guest.write() = self.plugin.account(self.io.clone());
    }
}

struct PendingSubmit {
    row: i64,
    tag: String,
    cancel: CancellationToken,
}

/// How an account does, for listings.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Last message that came in, Unix epoch ms.
    pub last_inbound_at: Option<i64>,
    /// Last answer that went out, Unix epoch ms.
    pub last_outbound_at: Option<i64>,
    /// When it was started, Unix epoch ms.
    pub last_start_at: Option<i64>,
    /// The last thing that went wrong.
    pub last_error: Option<String>,
}

/// One account.
pub struct Account {
    pub(super) tenant: Weak<Tenant>,
    pub(super) settings: AccountSettings,
    pub(super) config_json: Arc<str>,
    pub(super) access: AccessRules,
    pub(super) ready: Option<Ready>,
    /// Why it cannot run; says what to do.
    pub(super) degraded: Option<String>,
    pub(super) running: AtomicBool,
    pub(super) seen: Mutex<Seen>,
    pub(super) holds: Mutex<HashMap<String, oneshot::Sender<gateway_wasm::HttpAnswer>>>,
    /// The traces that requests named, by handle, while they are served.
    pub(super) remotes: Mutex<HashMap<String, TraceParent>>,
    pub(super) limiter: FailureLimiter,
    pub(super) due: Notify,
    pub(super) delivering: AtomicBool,
    submits: Mutex<HashMap<String, PendingSubmit>>,
    alarm: Mutex<Option<CancellationToken>>,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Account({}/{})",
            self.settings.kind, self.settings.account
        )
    }
}

impl Account {
    pub(super) fn new(
        tenant: &Arc<Tenant>,
        settings: AccountSettings,
        plugin: Option<Arc<dyn ChannelPlugin>>,
        egress: &Egress,
        permits: &Arc<Semaphore>,
    ) -> Arc<Self> {
        Arc::new_cyclic(|me: &Weak<Self>| {
            let (ready, degraded) = match plugin {
                None => (
                    None,
                    Some(format!(
                        "there is no plugin {:?}: put it into the directory of --wasm-dir (plugins.dir), or set `enabled: false` for channels.{}.accounts.{}",
                        settings.kind, settings.kind, settings.account
                    )),
                ),
                Some(plugin) => match prepare(tenant, &settings, plugin, egress, permits, me) {
                    Ok(ready) => (Some(ready), None),
                    Err(why) => (None, Some(why)),
                },
            };
            Self {
                tenant: Arc::downgrade(tenant),
                config_json: settings.config.to_string().into(),
                access: AccessRules {
                    dm: settings.dm_policy,
                    group: settings.group_policy,
                    allow_from: settings.allow_from.iter().cloned().collect(),
                    groups: settings.groups.iter().cloned().collect(),
                    require_mention: settings.require_mention,
                },
                settings,
                ready,
                degraded,
                running: AtomicBool::new(false),
                seen: Mutex::default(),
                holds: Mutex::default(),
                remotes: Mutex::default(),
                limiter: FailureLimiter::new(LimiterRules {
                    failures: WEBHOOK_FAILURES_MAX,
                    window_ms: WEBHOOK_WINDOW_MS,
                    lockout_ms: WEBHOOK_LOCKOUT_MS,
                }),
                due: Notify::new(),
                delivering: AtomicBool::new(false),
                submits: Mutex::default(),
                alarm: Mutex::default(),
            }
        })
    }

    pub(super) fn kv_space(&self) -> KvSpace {
        KvSpace::new(self.kind(), self.id())
    }

    pub(crate) fn kind(&self) -> &str {
        &self.settings.kind
    }

    pub(crate) fn id(&self) -> &str {
        &self.settings.account
    }

    pub(super) fn is_running(&self) -> bool {
        self.running.load(Ordering::Acquire)
    }

    /// Why it cannot run.
    pub(crate) fn unusable(&self) -> Option<&str> {
        self.degraded.as_deref()
    }

    pub(super) fn is_delivering(&self) -> bool {
        self.delivering.load(Ordering::Acquire)
    }

    /// Stops it after it has sent what it is sending and answered who waits, or after a while.
    pub(super) async fn drain(&self) {
        let busy = || self.is_delivering() || !self.holds.lock().is_empty();
        let wait = async {
            while self.is_running() && busy() {
                tokio::time::sleep(std::time::Duration::from_millis(FLUSH_LOOK_MS)).await;
            }
        };
        let longest = std::time::Duration::from_millis(ACCOUNT_DRAIN_MAX_MS);
        let _ = tokio::time::timeout(longest, wait).await;
        self.stop().await;
    }

    pub(super) fn secret(&self, name: &str) -> Option<&Secret> {
        self.settings.secrets.get(name)
    }

    pub(super) fn failed(&self, tenant: &Tenant, what: &str) {
        tenant.log(
            "warn",
            &format!("channel {}/{}: {what}", self.kind(), self.id()),
        );
        self.seen.lock().last_error = Some(what.to_owned());
    }

    /// Starts it: events flow, and the guest hears of it. What was under way when the process died ends as `interrupted`.
    pub(super) async fn start(self: &Arc<Self>, tenant: &Arc<Tenant>) -> Result<(), String> {
        let Some(ready) = &self.ready else {
            return Err(self.degraded.clone().unwrap_or_default());
        };
        if self.running.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        ready.renew();
        self.seen.lock().last_start_at = Some(tenant.now_ms());
        let (kind, id) = (self.kind().to_owned(), self.id().to_owned());
        let interrupted = tenant
            .db()
            .write(move |w| w.take_submits(&kind, &id, i64::from(u16::MAX)))
            .await
            .map_err(|error| error.to_string())?;
        let (kind, id) = (self.kind().to_owned(), self.id().to_owned());
        let state = tenant
            .db()
            .read(move |r| r.account_state(&kind, &id))
            .await
            .map_err(|error| error.to_string())?;
        // A guest that neither polls nor sets alarms has nothing to do at a start.
        let active = ready
            .plugin
            .manifest()
            .capabilities
            .iter()
            .any(|capability| {
                matches!(
                    capability,
                    gateway_wasm::Capability::Http | gateway_wasm::Capability::Timer
                )
            });
        if active {
            self.feed(tenant, GuestEvent::Started);
        }
        for row in interrupted {
            let Ok(submit) = serde_json::from_str::<Submit>(&row.request_json) else {
                continue;
            };
            self.submits.lock().insert(
                submit.id.clone(),
                PendingSubmit {
                    row: row.id,
                    tag: submit.tag.clone(),
                    cancel: CancellationToken::new(),
                },
            );
            let fault = HttpFault {
                kind: FaultKind::Interrupted,
                request_sent: true,
                text: "the gateway was stopped while the request was under way".to_owned(),
            };
            self.feed(
                tenant,
                GuestEvent::HttpResult {
                    id: submit.id,
                    tag: submit.tag,
                    outcome: Err(fault),
                },
            );
        }
        if let Some(at) = state.and_then(|row| row.next_wake) {
            self.arm(tenant, at);
        }
        self.wake_delivery(tenant);
        Ok(())
    }

    /// Stops it: no event and no answer passes until it is started again. What waits in the outbox waits on.
    pub(super) async fn stop(&self) {
        if !self.running.swap(false, Ordering::AcqRel) {
            return;
        }
        if let Some(alarm) = self.alarm.lock().take() {
            alarm.cancel();
        }
        for (_, submit) in self.submits.lock().drain() {
            submit.cancel.cancel();
        }
        self.holds.lock().clear();
        if let Some(ready) = &self.ready {
            let guest = ready.guest();
            guest.stop().await;
        }
    }

    /// Gives an event to the guest in the background and tries again while the guest can't take it.
    fn feed(self: &Arc<Self>, tenant: &Arc<Tenant>, event: GuestEvent) {
        let (account, tenant) = (self.clone(), tenant.clone());
        let tracker = tenant.tasks().clone();
        tracker.spawn(async move { account.feed_until_done(&tenant, event).await });
    }

    async fn feed_until_done(self: Arc<Self>, tenant: &Arc<Tenant>, event: GuestEvent) {
        let Some(ready) = &self.ready else { return };
        let mut pause_ms = EVENT_RETRY_MS;
        loop {
            if !self.is_running() {
                return;
            }
            let (stop, guest) = (tenant.stop_token().clone(), ready.guest());
            let began = std::time::Instant::now();
            let outcome = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                outcome = guest.event(event.clone()) => outcome,
            };
            tenant
                .metrics()
                .guest_event_ended(&outcome, began.elapsed());
            let wait_ms = match outcome {
                Ok(_) | Err(CallError::Stopped) => return,
                Err(CallError::Busy { retry_after_ms }) => retry_after_ms.max(1),
                // A lost alarm or answer would leave a polling guest silent for ever: it starts anew, after a pause.
                Err(error) => {
                    self.failed(tenant, &error.to_string());
                    self.forget_submit(tenant, &event).await;
                    if matches!(error, CallError::PoisonedEvent(_) | CallError::Guest(_))
                        && event != GuestEvent::Started
                    {
                        let (account, tenant) = (self.clone(), tenant.clone());
                        let tracker = tenant.tasks().clone();
                        tracker.spawn(async move {
                            tokio::select! {
                                biased;
                                () = tenant.stop_token().cancelled() => {}
                                () = tokio::time::sleep(std::time::Duration::from_millis(EVENT_RETRY_MS)) => {
                                    account.feed_started(&tenant).await;
                                }
                            }
                        });
                        return;
                    }
                    pause_ms = pause_ms.saturating_mul(2).min(EVENT_RETRY_MAX_MS);
                    pause_ms
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(std::time::Duration::from_millis(wait_ms)) => {}
            }
        }
    }

    fn feed_started<'a>(self: &'a Arc<Self>, tenant: &'a Arc<Tenant>) -> BoxFuture<'a, ()> {
        Box::pin(self.clone().feed_until_done(tenant, GuestEvent::Started))
    }

    /// An answer that no guest will take must not be given again at the next start.
    async fn forget_submit(&self, tenant: &Tenant, event: &GuestEvent) {
        let GuestEvent::HttpResult { id, .. } = event else {
            return;
        };
        let row = self.submits.lock().remove(id).map(|submit| submit.row);
        if let Some(row) = row {
            let _ = tenant.db().write(move |w| w.finish_submit(row)).await;
        }
    }

    /// Row ids of submits that the given effects end: consumed ones, and those that a new one replaces by its tag.
    pub(super) fn ended_submits(&self, fx: &Effects) -> Vec<i64> {
        let submits = self.submits.lock();
        let consumed = fx.consumed.iter().filter_map(|event| match event {
            gateway_wasm::EventRef::HttpResult { id } => submits.get(id).map(|submit| submit.row),
            _ => None,
        });
        let replaced = submits
            .values()
            .filter(|submit| {
                !submit.tag.is_empty() && fx.submits.iter().any(|new| new.tag == submit.tag)
            })
            .map(|submit| submit.row);
        let mut rows: Vec<i64> = consumed.chain(replaced).collect();
        rows.sort_unstable();
        rows.dedup();
        rows
    }

    /// After the commit: forgets and cancels what ended, and starts what is new.
    pub(super) fn run_submits(
        self: &Arc<Self>,
        tenant: &Arc<Tenant>,
        ended: &[i64],
        new: Vec<(i64, Submit)>,
    ) {
        {
            let mut submits = self.submits.lock();
            submits.retain(|_, submit| {
                let ends = ended.contains(&submit.row);
                if ends {
                    submit.cancel.cancel();
                }
                !ends
            });
            for (row, submit) in &new {
                let entry = PendingSubmit {
                    row: *row,
                    tag: submit.tag.clone(),
                    cancel: tenant.stop_token().child_token(),
                };
                submits.insert(submit.id.clone(), entry);
            }
        }
        for (_, submit) in new {
            let cancel = match self.submits.lock().get(&submit.id) {
                Some(entry) => entry.cancel.clone(),
                None => continue,
            };
            let (account, tenant) = (self.clone(), tenant.clone());
            let tracker = tenant.tasks().clone();
            tracker.spawn(async move {
                let Some(ready) = &account.ready else { return };
                let sent = AtomicBool::new(false);
                let outcome = tokio::select! {
                    biased;
                    () = cancel.cancelled() => return,
                    outcome = ready.http.fetch(submit.request, &sent) => outcome,
                };
                account
                    .clone()
                    .feed_until_done(
                        &tenant,
                        GuestEvent::HttpResult {
                            id: submit.id,
                            tag: submit.tag,
                            outcome,
                        },
                    )
                    .await;
            });
        }
    }

    /// Sets the alarm.
    pub(super) fn arm(self: &Arc<Self>, tenant: &Arc<Tenant>, at_ms: i64) {
        let cancel = tenant.stop_token().child_token();
        if let Some(old) = self.alarm.lock().replace(cancel.clone()) {
            old.cancel();
        }
        let wait = u64::try_from(at_ms.saturating_sub(tenant.now_ms())).unwrap_or(0);
        let (account, tenant) = (self.clone(), tenant.clone());
        let tracker = tenant.tasks().clone();
        tracker.spawn(async move {
            tokio::select! {
                biased;
                () = cancel.cancelled() => {}
                () = tokio::time::sleep(std::time::Duration::from_millis(wait)) => {
                    account.feed_until_done(&tenant, GuestEvent::Wake).await;
                }
            }
        });
    }

    /// Takes the alarm away.
    pub(super) fn disarm(&self) {
        if let Some(old) = self.alarm.lock().take() {
            old.cancel();
        }
    }
}

fn prepare(
    tenant: &Arc<Tenant>,
    settings: &AccountSettings,
    plugin: Arc<dyn ChannelPlugin>,
    egress: &Egress,
    permits: &Arc<Semaphore>,
    me: &Weak<Account>,
) -> Result<Ready, String> {
    let manifest = plugin.manifest();
    let routes = manifest
        .webhooks
        .iter()
        .map(|(name, route)| {
            let route = Route {
                rules: route.verify.iter().map(verify_rule).collect(),
                methods: route.methods.clone(),
                max_body: route.max_body,
            };
            (name.clone(), route)
        })
        .collect();
    let http = HttpGrant::new(
        manifest,
        &settings.http.allow,
        settings.http.allow_private,
        settings.secrets.clone(),
        egress.clone(),
        Arc::from(tenant.id().as_str()),
        permits.clone(),
    )?;
    let kv_quota = i64::try_from(manifest.limits.kv).unwrap_or(i64::MAX);
    let io = Arc::new(Io {
        account: me.clone(),
        tenant_name: tenant.id().as_str().to_owned(),
    });
    Ok(Ready {
        guest: RwLock::new(plugin.account(io.clone())),
        io,
        http,
        routes,
        kv_quota,
        plugin,
    })
}

fn verify_rule(rule: &gateway_wasm::manifest::Verify) -> VerifyRule {
    use gateway_wasm::manifest::{SignatureEncoding, Verify};
    match rule {
        Verify::HeaderEquals { header, secret } => VerifyRule::HeaderEquals {
            header: header.clone(),
            secret: secret.clone(),
        },
        Verify::HmacSha256 {
            header,
            prefix,
            encoding,
            secret,
            timestamp,
        } => VerifyRule::HmacSha256 {
            header: header.clone(),
            prefix: prefix.clone(),
            base64: matches!(encoding, SignatureEncoding::Base64),
            secret: secret.clone(),
            timestamp: timestamp.as_ref().map(|rule| TimestampRule {
                header: rule.header.to_ascii_lowercase(),
                window_s: rule.window_s,
            }),
        },
    }
}

/// The host side of the account's guest. Weak, because the account owns the guest that owns this.
struct Io {
    account: Weak<Account>,
    tenant_name: String,
}

fn gone() -> HostError {
    HostError::Unavailable("the account is gone".to_owned())
}

impl Io {
    fn both(&self) -> Option<(Arc<Account>, Arc<Tenant>)> {
        let account = self.account.upgrade()?;
        let tenant = account.tenant.upgrade()?;
        Some((account, tenant))
    }
}

impl AccountHost for Io {
    fn tenant(&self) -> &str {
        &self.tenant_name
    }

    fn now_ms(&self) -> i64 {
        self.both().map_or(0, |(_, tenant)| tenant.now_ms())
    }

    fn monotonic_ms(&self) -> u64 {
        self.both()
            .map_or(0, |(_, tenant)| tenant.clock().monotonic_ms())
    }

    fn random(&self, n: usize) -> Vec<u8> {
        let mut bytes = vec![0; n];
        if let Some((_, tenant)) = self.both() {
            tenant.shared().random.fill(&mut bytes);
        }
        bytes
    }

    fn config_json(&self) -> Arc<str> {
        self.account
            .upgrade()
            .map_or_else(|| Arc::from("{}"), |account| account.config_json.clone())
    }

    fn log(&self, level: Level, line: &str) {
        let Some((account, tenant)) = self.both() else {
            return;
        };
        tenant.log(
            level_word(level),
            &format!("guest {}/{}: {line}", account.kind(), account.id()),
        );
    }

    fn used(&self, cpu: std::time::Duration) {
        if let Some((_, tenant)) = self.both() {
            tenant.metrics().guest_cpu(cpu);
        }
    }

    fn state(&self) -> BoxFuture<'_, Result<Option<Vec<u8>>, HostError>> {
        Box::pin(async move {
            let (account, tenant) = self.both().ok_or_else(gone)?;
            let (kind, id) = (account.kind().to_owned(), account.id().to_owned());
            let row = tenant
                .db()
                .read(move |r| r.account_state(&kind, &id))
                .await
                .map_err(|error| host_error(&error))?;
            Ok(row.and_then(|row| row.guest_state))
        })
    }

    fn kv_get(&self, key: String) -> BoxFuture<'_, Result<Option<Vec<u8>>, HostError>> {
        Box::pin(async move {
            let (account, tenant) = self.both().ok_or_else(gone)?;
            account.kv_space().get(&tenant, key).await
        })
    }

    fn kv_list(&self, prefix: String) -> BoxFuture<'_, Result<Vec<String>, HostError>> {
        Box::pin(async move {
            let (account, tenant) = self.both().ok_or_else(gone)?;
            account.kv_space().list(&tenant, prefix).await
        })
    }

    fn http_fetch(
        &self,
        req: GuestRequest,
        sent: Arc<AtomicBool>,
    ) -> BoxFuture<'_, Result<GuestResponse, HttpFault>> {
        Box::pin(async move {
            let account = self.account.upgrade();
            let Some(ready) = account.as_ref().and_then(|account| account.ready.as_ref()) else {
                return Err(HttpFault {
                    kind: FaultKind::Internal,
                    request_sent: false,
                    text: "the account is gone".into(),
                });
            };
            ready.http.fetch(req, &sent).await
        })
    }

    fn commit(&self, fx: Effects) -> BoxFuture<'_, Result<CommitReport, HostError>> {
        Box::pin(async move {
            let (account, tenant) = self.both().ok_or_else(gone)?;
            super::inbound::commit(&account, &tenant, fx).await
        })
    }

    fn status(&self, s: AccountStatus) {
        let Some((account, tenant)) = self.both() else {
            return;
        };
        match &s {
            AccountStatus::Backoff { why, .. } => {
                account.seen.lock().last_error = Some(why.clone())
            }
            AccountStatus::Quarantined { why } => {
                account.failed(
                    &tenant,
                    &format!(
                        "quarantined: {why} (next: `gateway channels start {} {}`)",
                        account.kind(),
                        account.id()
                    ),
                );
            }
            // The usual coming and going of instances is nobody's news.
            AccountStatus::Idle | AccountStatus::Running | AccountStatus::Stopped => return,
        }
        if let Some(channels) = tenant.channels() {
            channels.publish(&tenant);
        }
    }
}
