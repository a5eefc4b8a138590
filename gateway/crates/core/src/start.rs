//! The order of a tenant's start and stop beyond its store: channels, then boot scripts, then readiness.

use std::sync::Arc;

use gateway_wasm::manifest::World;
use gateway_wasm::{Plugin, PluginHost};

use crate::channel::{ChannelPlugin, Channels, WasmChannel};
use crate::host::Host;
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

/// Starts channels and schedules, runs boot scripts, then says ready. Runs beside the listener: clients are told to wait until it is over.
pub(crate) async fn boot(host: &Arc<Host>) {
    let host = host.clone();
    let stop = host.stop_token().clone();
    let work = async move {
        for tenant in host.tenants() {
            if let Some(channels) = tenant.channels() {
                channels.start_all().await;
            }
        }
        for tenant in host.tenants() {
            crate::cron::start(&tenant).await;
        }
        // What announces the gateway waits for this: channels, then schedules, then discovery, then boot scripts.
        host.set_sidecars();
        for tenant in &host.tenants() {
            if let Err(why) = crate::boot::run_all(&host, tenant).await {
                tracing::error!(
                    tenant = tenant.slug(),
                    why,
                    "start aborted by a boot script"
                );
                tenant.log("error", &why);
                // Not ready, and says why: the operator decides.
                return;
            }
        }
        host.set_ready();
        host.keep_last_good();
    };
    tokio::spawn(async move {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = work => {}
        }
    });
}
