//! The order of a start: [`Phase`] names its steps.

use std::sync::Arc;

use futures_util::StreamExt as _;
use gateway_wasm::manifest::World;
use gateway_wasm::{Plugin, PluginHost};

use crate::boot::BootAbort;
use crate::channel::{ChannelPlugin, Channels, WasmChannel};
use crate::hold::{Hold, HoldReason};
use crate::host::Host;
use crate::limits::BOOTING_TENANTS_MAX;
use crate::tenant::Tenant;

/// Sets up what runs rely on (where their answers go) before the first run is taken up.
pub(crate) async fn before_runs(tenant: &Arc<Tenant>) {
    let now = tenant.now_ms();
    let (key, started) = (tenant.shared().audit_key, crate::audit::started(tenant));
    let recovered = tenant.db().write(move |w| {
        w.append_audit(&key, &started, now)?;
        w.recover_outbox(now)
    });
    match recovered.await {
        Ok(found) if !found.unknown.is_empty() => tenant.log(
            "warn",
            &format!(
                "{} answers were being sent when the gateway stopped: whether they arrived is unknown (`gateway outbox list --state unknown`)",
                found.unknown.len()
            ),
        ),
        Ok(_) => {}
        Err(error) => tenant.log("error", &format!("outbox not recovered: {error}")),
    }
    let channels = Channels::new(tenant);
    tenant.set_delivery(channels.clone());
    tenant.set_channel_control(channels.clone());
    tenant.set_channels(channels);
}

/// The channel kinds of a host: those given, then the loaded plugins.
pub(crate) fn channel_plugins(
    mut given: Vec<Arc<dyn ChannelPlugin>>,
    engines: Option<&Arc<PluginHost>>,
    loaded: &[Arc<Plugin>],
) -> Vec<Arc<dyn ChannelPlugin>> {
    let Some(engines) = engines else { return given };
    for plugin in loaded
        .iter()
        .filter(|plugin| plugin.manifest.world == World::ChannelV0_1)
    {
        given.push(Arc::new(WasmChannel::new(engines.clone(), plugin.clone())));
    }
    given
}

/// A step of the start that is over. They come in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The configuration was read.
    Config,
    /// The stores are open and of this schema.
    Migrate,
    /// There is a certificate to show.
    Tls,
    /// The socket listens. Clients are told to wait.
    Listener,
    /// Channel accounts run.
    Channels,
    /// Jobs come due, agents have their heartbeats.
    Schedules,
    /// The gateway lets itself be found.
    Discovery,
    /// Boot scripts ran.
    BootScripts,
    /// Requests are welcome.
    Ready,
}

impl Phase {
    /// The word in the trace (target `gateway::start`).
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Migrate => "migrate",
            Self::Tls => "tls",
            Self::Listener => "listener",
            Self::Channels => "channels",
            Self::Schedules => "schedules",
            Self::Discovery => "discovery",
            Self::BootScripts => "boot-scripts",
            Self::Ready => "ready",
        }
    }
}

/// Is told of each step when it is over, on the task that starts the gateway.
pub type OnPhase = Arc<dyn Fn(Phase) + Send + Sync>;

/// Starts channels and schedules, waits for `announced`, runs boot scripts, then says ready. Runs beside the listener:
/// clients are told to wait until it is over.
pub(crate) fn begin(host: &Arc<Host>, announced: impl Future<Output = ()> + Send + 'static) {
    let host = host.clone();
    let stop = host.stop_token().clone();
    let work = async move {
        let tenants: Vec<_> = host
            .tenants()
            .into_iter()
            .filter(|tenant| tenant.hold().is_none())
            .collect();
        for tenant in &tenants {
            let _mark = host.safe_mode().mark(&host, tenant);
            if let Some(channels) = tenant.channels() {
                channels.start_all().await;
            }
        }
        host.phase(Phase::Channels);
        for tenant in &tenants {
            let _mark = host.safe_mode().mark(&host, tenant);
            crate::cron::start(tenant).await;
        }
        host.phase(Phase::Schedules);
        // What announces the gateway waits for this.
        host.set_sidecars();
        announced.await;
        host.phase(Phase::Discovery);
        let at_once = if host.safe_mode().is_careful() {
            1
        } else {
            BOOTING_TENANTS_MAX
        };
        let scripts = futures_util::stream::iter(&tenants).for_each_concurrent(at_once, |tenant| {
            let host = &host;
            async move {
                let _mark = host.safe_mode().mark(host, tenant);
                boot_scripts(host, tenant).await;
            }
        });
        scripts.await;
        host.phase(Phase::BootScripts);
        if host.boot_aborted().borrow().is_some() {
            // Not ready; whoever runs the host ends it and says why.
            return;
        }
        host.set_ready();
        host.phase(Phase::Ready);
        host.keep_last_good();
        crate::safe_mode::watch_over(&host);
    };
    tokio::spawn(async move {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = work => {}
        }
    });
}

/// Runs the boot scripts of a tenant, and does what the policy of those that failed says: one of `main` keeps the whole
/// gateway from starting, one of another tenant that tenant only. Tenants do not trust each other.
pub(crate) async fn boot_scripts(host: &Arc<Host>, tenant: &Arc<Tenant>) {
    let Some(abort) = crate::boot::run_all(host, tenant).await else {
        return;
    };
    tracing::error!(
        tenant = tenant.slug(),
        script = abort.script,
        why = abort.why,
        "start aborted by a boot script"
    );
    tenant.log("error", &format!("{abort}; {}", abort.next_step()));
    if tenant.slug() == gateway_config::MAIN_TENANT && !*host.ready().borrow() {
        host.abort_start(abort);
        return;
    }
    halt(tenant, &abort).await;
}

/// Ends what the tenant does by itself, and lets it take no work.
async fn halt(tenant: &Arc<Tenant>, abort: &BootAbort) {
    tenant.set_hold(Some(Hold {
        reason: HoldReason::BootScript,
        message: format!(
            "{abort} (next step: {}, then `gateway boot run`)",
            abort.next_step()
        ),
        since: tenant.now_ms(),
        retry_at: None,
    }));
    crate::cron::halt(tenant);
    if let Some(channels) = tenant.channels() {
        channels.stop_all().await;
    }
}

/// Starts the tenant after all, when a boot script kept it from it and none does any more.
pub(crate) async fn resume(tenant: &Arc<Tenant>) {
    let held = tenant
        .hold()
        .is_some_and(|hold| hold.reason == HoldReason::BootScript);
    if !held {
        return;
    }
    if let Some(channels) = tenant.channels() {
        channels.start_all().await;
    }
    crate::cron::start(tenant).await;
    tenant.set_hold(None);
    tenant.log("info", "the boot scripts are well: the tenant takes work");
}
