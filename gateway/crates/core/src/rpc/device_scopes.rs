//! `device.scopes.*`: a device that wants more than it has.

use gateway_protocol::error::{DetailCode, RpcError};
use gateway_protocol::methods::devices::{
    DeviceRequestParams, DeviceScopesRequestUpgradeParams, DeviceScopesRequestUpgradeResult,
    DeviceScopesWaitUpgradeResult,
};
use gateway_protocol::scope::{Scope, ScopeSet};

use super::chat;
use super::devices::failed;
use crate::cx::{Cx, Role};
use crate::pair::upgrade::{self, Outcome};
use crate::pair::{self, DevicePass};

/// The device of the connection: who asks is nothing that a parameter says.
fn own(cx: &Cx) -> Result<&DevicePass, RpcError> {
    if cx.caller.role != Role::Operator {
        return Err(RpcError::wrong_role(cx.caller.role.as_str()));
    }
    cx.caller.device.as_ref().ok_or_else(|| {
        RpcError::new(
            DetailCode::DeviceIdentityRequired,
            "only a paired device can ask for more scopes; connect with a device identity",
        )
    })
}

pub(super) async fn request(
    cx: Cx,
    p: DeviceScopesRequestUpgradeParams,
) -> Result<DeviceScopesRequestUpgradeResult, RpcError> {
    let pass = own(&cx)?.clone();
    let wrong = |problem: String| {
        RpcError::invalid_params(
            "device.scopes.requestUpgrade",
            format!("at /scopes: {problem}"),
        )
    };
    let mut scopes = ScopeSet::NONE;
    for (i, name) in p.scopes.iter().enumerate() {
        let scope: Scope = name
            .parse()
            .map_err(|_| wrong(format!("{i} is no scope that this gateway knows")))?;
        scopes.insert(scope);
    }
    if !cx.caller.scopes.is_within(scopes) {
        return Err(wrong(
            "have to hold the current scopes of the connection".to_owned(),
        ));
    }
    let ip = cx.caller.ip.map(pair::address).unwrap_or_default();
    let request_id = upgrade::request(&cx.tenant, &pass, scopes, ip)
        .await
        .map_err(|e| failed(&cx.tenant, e))?;
    Ok(DeviceScopesRequestUpgradeResult { request_id })
}

pub(super) async fn wait(
    cx: Cx,
    p: DeviceRequestParams,
) -> Result<DeviceScopesWaitUpgradeResult, RpcError> {
    let pass = own(&cx)?.clone();
    let outcome = tokio::select! {
        biased;
        outcome = upgrade::wait(&cx.tenant, &pass, &p.request_id) => outcome,
        () = cx.cancel.cancelled() => return Err(RpcError::unavailable("cancelled")),
        () = cx.tenant.stop_token().cancelled() => return Err(chat::draining()),
    };
    let mut result = DeviceScopesWaitUpgradeResult {
        request_id: p.request_id.into_string(),
        ..DeviceScopesWaitUpgradeResult::default()
    };
    result.status = match outcome.map_err(|e| failed(&cx.tenant, e))? {
        Outcome::Approved { token, scopes } => {
            result.device_token = Some(token);
            result.scopes = Some(pair::book::names(scopes));
            "approved"
        }
        Outcome::Rejected => "rejected",
        Outcome::Expired => "expired",
    }
    .to_owned();
    Ok(result)
}
