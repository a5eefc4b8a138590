//! Channel methods: thin calls to the tenant's channels.

use gateway_protocol::error::RpcError;
use gateway_protocol::methods::NoParams;
use gateway_protocol::methods::channels::{
    ChannelsPairingApproveParams, ChannelsPairingApproveResult, ChannelsPairingListParams,
    ChannelsPairingListResult, ChannelsStartParams, ChannelsStatusParams, ChannelsStatusResult,
    ChannelsStopParams, ChannelsSwitchResult, OutboxListParams, OutboxListResult, SendParams,
    SendResult,
};
use gateway_protocol::methods::system::{BootListResult, BootRunParams};
use std::sync::Arc;

use crate::cx::Cx;
use crate::delivery::ChannelControl;

fn control(cx: &Cx) -> Result<Arc<dyn ChannelControl>, RpcError> {
    cx.tenant
        .channel_control()
        .cloned()
        .ok_or_else(|| RpcError::unavailable("channels are not running"))
}

pub(super) async fn status(
    cx: Cx,
    p: ChannelsStatusParams,
) -> Result<ChannelsStatusResult, RpcError> {
    match cx.tenant.channel_control() {
        Some(channels) => channels.status(p).await,
        None => Ok(ChannelsStatusResult {
            ts: cx.tenant.now_ms(),
            ..ChannelsStatusResult::default()
        }),
    }
}

pub(super) async fn start(
    cx: Cx,
    p: ChannelsStartParams,
) -> Result<ChannelsSwitchResult, RpcError> {
    control(&cx)?.start(p, cx.audit.clone()).await
}

pub(super) async fn stop(cx: Cx, p: ChannelsStopParams) -> Result<ChannelsSwitchResult, RpcError> {
    control(&cx)?.stop(p, cx.audit.clone()).await
}

pub(super) async fn pairing_list(
    cx: Cx,
    p: ChannelsPairingListParams,
) -> Result<ChannelsPairingListResult, RpcError> {
    match cx.tenant.channel_control() {
        Some(channels) => channels.pairing_list(p).await,
        None => Ok(ChannelsPairingListResult::default()),
    }
}

pub(super) async fn pairing_approve(
    cx: Cx,
    p: ChannelsPairingApproveParams,
) -> Result<ChannelsPairingApproveResult, RpcError> {
    control(&cx)?.pairing_approve(p, cx.audit.clone()).await
}

pub(super) async fn send(cx: Cx, p: SendParams) -> Result<SendResult, RpcError> {
    control(&cx)?.send(p).await
}

pub(super) async fn outbox_list(cx: Cx, p: OutboxListParams) -> Result<OutboxListResult, RpcError> {
    match cx.tenant.channel_control() {
        Some(channels) => channels.outbox_list(p).await,
        None => Ok(OutboxListResult::default()),
    }
}

pub(super) async fn boot_list(cx: Cx, _: NoParams) -> Result<BootListResult, RpcError> {
    match cx.tenant.channel_control() {
        Some(channels) => channels.boot_list().await,
        None => Ok(BootListResult {
            boot_id: cx.tenant.shared().boot_id.clone(),
            scripts: Vec::new(),
        }),
    }
}

pub(super) async fn boot_run(cx: Cx, p: BootRunParams) -> Result<BootListResult, RpcError> {
    let Some(host) = cx.tenant.shared().configuration.host() else {
        return Err(RpcError::unavailable("the gateway is stopping"));
    };
    let tenant = cx.tenant.clone();
    // Beside the caller: a script that has begun ends, also when nobody waits for it any more.
    let work = cx.tenant.tasks().spawn(async move {
        let only = p.script_id.as_ref().map(|id| id.as_str());
        crate::boot::run_again(&host, &tenant, only).await
    });
    work.await
        .unwrap_or_else(|_| Err(RpcError::unavailable("the gateway is stopping")))
}
