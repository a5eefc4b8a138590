//! Health, status, presence, identity, logs, and the registry about itself.

use gateway_protocol::error::RpcError;
use gateway_protocol::methods::NoParams;
use gateway_protocol::methods::logs::{LogsTailParams, LogsTailResult};
use gateway_protocol::methods::rpc::{RpcDiscoverResult, RpcSubscribeParams, RpcSubscribeResult};
use gateway_protocol::methods::system::{
    GatewayIdentityResult, HealthParams, HealthSnapshot, PresenceEntry, StatusParams, StatusResult,
};

use super::error;
use crate::cx::Cx;
use crate::hub::HubError;
use crate::registry::Reply;

/// Lines of `logs.tail` without a limit.
const LOG_LINES_DEFAULT: usize = 500;
/// Bytes of `logs.tail` without a limit.
const LOG_BYTES_DEFAULT: usize = 250_000;

pub(super) fn health(cx: &Cx, _: HealthParams) -> Result<Reply<HealthSnapshot>, RpcError> {
    Ok(Reply::Encoded(cx.tenant.health().encoded(&cx.tenant)))
}

pub(super) fn status(cx: &Cx, _: StatusParams) -> Result<Reply<StatusResult>, RpcError> {
    Ok(Reply::Encoded(cx.tenant.health().status(&cx.tenant)))
}

pub(super) fn presence(cx: &Cx, _: NoParams) -> Result<Reply<Vec<PresenceEntry>>, RpcError> {
    Ok(Reply::Encoded(cx.tenant.presence().encoded()))
}

pub(super) fn identity(cx: &Cx, _: NoParams) -> Result<Reply<GatewayIdentityResult>, RpcError> {
    let identity = &cx.tenant.shared().identity;
    Ok(Reply::Value(GatewayIdentityResult {
        device_id: identity.device_id.clone(),
        public_key: identity.public_key.clone(),
    }))
}

pub(super) fn logs_tail(cx: &Cx, p: LogsTailParams) -> Result<Reply<LogsTailResult>, RpcError> {
    let size = |n: u64, most: usize| usize::try_from(n).map_or(most, |n| n.min(most));
    let limit = p.limit.map_or(LOG_LINES_DEFAULT, |n| size(n.get(), 5_000));
    let max_bytes = p
        .max_bytes
        .map_or(LOG_BYTES_DEFAULT, |n| size(n.get(), 1_000_000));
    let tail = cx.tenant.logs().tail(p.cursor, limit, max_bytes);
    Ok(Reply::Value(LogsTailResult {
        file: "gateway.log".to_owned(),
        cursor: tail.cursor,
        size: tail.size,
        lines: tail.lines,
        truncated: tail.truncated.then_some(true),
        reset: tail.reset.then_some(true),
        skipped_bytes: (tail.skipped_bytes > 0).then_some(tail.skipped_bytes),
    }))
}

pub(super) fn discover(_: &Cx, _: NoParams) -> Result<Reply<RpcDiscoverResult>, RpcError> {
    Ok(Reply::Value(RpcDiscoverResult(
        gateway_protocol::openrpc::document(),
    )))
}

pub(super) fn subscribe(
    cx: &Cx,
    p: RpcSubscribeParams,
) -> Result<Reply<RpcSubscribeResult>, RpcError> {
    events(cx, p, true)
}

pub(super) fn unsubscribe(
    cx: &Cx,
    p: RpcSubscribeParams,
) -> Result<Reply<RpcSubscribeResult>, RpcError> {
    events(cx, p, false)
}

fn events(cx: &Cx, p: RpcSubscribeParams, on: bool) -> Result<Reply<RpcSubscribeResult>, RpcError> {
    let conn = cx
        .caller
        .conn
        .as_ref()
        .ok_or_else(|| error::hub(HubError::NotConnected))?;
    if let Some(unknown) = p
        .events
        .iter()
        .flatten()
        .find(|n| gateway_protocol::event::find(n).is_none())
    {
        return Err(
            RpcError::not_found("event").with("event", gateway_protocol::error::echo(unknown))
        );
    }
    let events = cx
        .tenant
        .hub()
        .want_events(conn, p.events.as_deref(), on)
        .map_err(error::hub)?;
    Ok(Reply::Value(RpcSubscribeResult { events }))
}
