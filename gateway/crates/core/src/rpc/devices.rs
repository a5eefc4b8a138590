//! `device.*`: who is paired, who waits, and what operators decide about them.

use std::collections::HashSet;

use gateway_config::AuthMode;
use gateway_protocol::error::{DetailCode, RpcError};
use gateway_protocol::methods::NoParams;
use gateway_protocol::methods::device_setup::{
    DevicePairSetupCodeParams, DevicePairSetupCodeResult, DevicePairSetupStatusParams,
    DevicePairSetupStatusResult, SetupAccess, SetupCompletion,
};
use gateway_protocol::methods::devices::{
    DevicePairApproveResult, DevicePairListResult, DevicePairRejectResult, DevicePairRemoveParams,
    DevicePairRemoveResult, DevicePairRenameParams, DevicePairRenameResult, DeviceRequestParams,
    DeviceTokenRevokeParams, DeviceTokenRevokeResult, DeviceTokenRotateParams,
    DeviceTokenRotateResult,
};
use gateway_protocol::scope::{Scope, ScopeSet};
use gateway_store::StoreError;

use super::error;
use crate::cx::{Cx, Role};
use crate::pair::{self, Failed, Operator, book::Refusal};
use crate::tenant::Tenant;

pub(super) fn by(cx: &Cx) -> Operator {
    Operator {
        ceiling: cx.caller.scopes,
        device: cx.caller.device.clone(),
        audit: cx.audit.clone(),
    }
}

/// What a device gets outlives the key of whoever gave it.
pub(super) fn no_api_key(cx: &Cx) -> Result<(), RpcError> {
    if cx.caller.key.is_some() {
        return Err(RpcError::new(
            DetailCode::CapabilityDenied,
            "an API key cannot give devices anything; use the gateway's own token or a paired device",
        ));
    }
    Ok(())
}

/// A device without admin looks after its own token as an operator, and after nothing else.
fn own_only(cx: &Cx, device_id: &str, role: Role) -> Result<(), RpcError> {
    let Some(pass) = &cx.caller.device else {
        return Ok(());
    };
    let own = *pass.id == *device_id && role == Role::Operator;
    if own || cx.caller.scopes.allows(Scope::Admin) {
        return Ok(());
    }
    Err(RpcError::missing_scope(Scope::Admin))
}

fn role(method: &str, name: &str) -> Result<Role, RpcError> {
    pair::token::role_of(name)
        .ok_or_else(|| RpcError::invalid_params(method, "at /role: must be operator or node"))
}

pub(super) fn failed(tenant: &Tenant, failed: Failed) -> RpcError {
    match failed {
        Failed::Refused(Refusal::NoRequest) => RpcError::not_found("device pairing request"),
        Failed::Refused(Refusal::NoDevice) => RpcError::not_found("device"),
        Failed::Refused(Refusal::NoToken) => RpcError::not_found("device token"),
        Failed::Refused(Refusal::Beyond(scope)) => RpcError::missing_scope(scope),
        Failed::Refused(Refusal::Has) => RpcError::invalid(
            "the device has these scopes already; connect again and ask for them",
        ),
        Failed::Refused(Refusal::Wider) => RpcError::invalid_params(
            "device.token.rotate",
            "at /scopes: must be a part of the scopes that the token has (wider ones need a new approval)",
        ),
        Failed::Store(StoreError::Limit("MAX_SETUP_CODES_PER_TENANT")) => RpcError::new(
            DetailCode::QuotaExceeded,
            "too many setup codes were made; they end after ten minutes, and are forgotten an hour later",
        )
        .with("quota", "setupCodes"),
        Failed::Store(StoreError::Limit("MAX_DEVICES_PER_TENANT")) => pair::too_many_devices(),
        Failed::Store(StoreError::Limit(_)) => pair::too_many_requests(),
        Failed::Store(other) => error::store(tenant, &other),
    }
}

pub(super) async fn list(cx: Cx, _: NoParams) -> Result<DevicePairListResult, RpcError> {
    let tenant = &cx.tenant;
    let book = pair::load(tenant)
        .await
        .map_err(|e| error::store(tenant, &e))?;
    let mut connected: HashSet<std::sync::Arc<str>> = HashSet::new();
    tenant
        .hub()
        .for_each(|conn| connected.extend(conn.device.as_ref().map(|pass| pass.id.clone())));
    let mut paired: Vec<_> = book
        .devices()
        .map(|d| pair::device_view(d, connected.contains(d.row.id.as_str())))
        .collect();
    paired.sort_by(|a, b| (b.approved_at_ms, &b.device_id).cmp(&(a.approved_at_ms, &a.device_id)));
    let pending = book
        .requests(tenant.now_ms())
        .into_iter()
        .map(|q| pair::request_view(q, book.device(&q.device_id).is_some()))
        .collect();
    Ok(DevicePairListResult { pending, paired })
}

pub(super) async fn approve(
    cx: Cx,
    p: DeviceRequestParams,
) -> Result<DevicePairApproveResult, RpcError> {
    no_api_key(&cx)?;
    let device = pair::approve(&cx.tenant, &by(&cx), &p.request_id)
        .await
        .map_err(|e| failed(&cx.tenant, e))?;
    cx.tenant.log(
        "INFO",
        &format!(
            "device {} was approved as {}",
            device.row.id,
            device
                .roles()
                .map(Role::as_str)
                .collect::<Vec<_>>()
                .join(" ")
        ),
    );
    Ok(DevicePairApproveResult {
        request_id: p.request_id.into_string(),
        device: pair::device_view(&device, false),
    })
}

pub(super) async fn reject(
    cx: Cx,
    p: DeviceRequestParams,
) -> Result<DevicePairRejectResult, RpcError> {
    let device_id = pair::reject(&cx.tenant, &by(&cx), &p.request_id)
        .await
        .map_err(|e| failed(&cx.tenant, e))?;
    Ok(DevicePairRejectResult {
        request_id: p.request_id.into_string(),
        device_id,
    })
}

pub(super) async fn remove(
    cx: Cx,
    p: DevicePairRemoveParams,
) -> Result<DevicePairRemoveResult, RpcError> {
    own_only(&cx, &p.device_id, Role::Operator)?;
    pair::remove(&cx.tenant, &by(&cx), &p.device_id)
        .await
        .map_err(|e| failed(&cx.tenant, e))?;
    let device_id = p.device_id.into_string();
    cx.tenant
        .log("INFO", &format!("device {device_id} was removed"));
    Ok(DevicePairRemoveResult { device_id })
}

pub(super) async fn rename(
    cx: Cx,
    p: DevicePairRenameParams,
) -> Result<DevicePairRenameResult, RpcError> {
    own_only(&cx, &p.device_id, Role::Operator)?;
    let label = p.label.trim().to_owned();
    if label.is_empty() || label.chars().any(char::is_control) {
        return Err(RpcError::invalid_params(
            "device.pair.rename",
            "at /label: must be a name without control characters",
        ));
    }
    pair::rename(&cx.tenant, &by(&cx), &p.device_id, &label)
        .await
        .map_err(|e| failed(&cx.tenant, e))?;
    Ok(DevicePairRenameResult {
        device_id: p.device_id.into_string(),
        label,
    })
}

pub(super) async fn rotate(
    cx: Cx,
    p: DeviceTokenRotateParams,
) -> Result<DeviceTokenRotateResult, RpcError> {
    const METHOD: &str = "device.token.rotate";
    no_api_key(&cx)?;
    let role = role(METHOD, &p.role)?;
    own_only(&cx, &p.device_id, role)?;
    let scopes = p
        .scopes
        .map(|names| {
            names
                .iter()
                .enumerate()
                .map(|(i, name)| {
                    name.parse::<Scope>().map_err(|_| {
                        RpcError::invalid_params(
                            METHOD,
                            format_args!("at /scopes/{i}: is not a scope"),
                        )
                    })
                })
                .collect::<Result<ScopeSet, _>>()
        })
        .transpose()?;
    let rotated = pair::rotate(&cx.tenant, &by(&cx), &p.device_id, role, scopes)
        .await
        .map_err(|e| failed(&cx.tenant, e))?;
    Ok(DeviceTokenRotateResult {
        device_id: p.device_id.into_string(),
        role: role.as_str().to_owned(),
        scopes: rotated.row.scopes,
        rotated_at_ms: rotated.row.issued_at,
        token_delivery: match rotated.token {
            Some(_) => "in-band",
            None => "withheld-cross-device",
        }
        .to_owned(),
        token: rotated.token,
    })
}

pub(super) async fn revoke(
    cx: Cx,
    p: DeviceTokenRevokeParams,
) -> Result<DeviceTokenRevokeResult, RpcError> {
    let role = role("device.token.revoke", &p.role)?;
    own_only(&cx, &p.device_id, role)?;
    let revoked_at_ms = pair::revoke(&cx.tenant, &by(&cx), &p.device_id, role)
        .await
        .map_err(|e| failed(&cx.tenant, e))?;
    let device_id = p.device_id.into_string();
    cx.tenant.log(
        "INFO",
        &format!(
            "the token of device {device_id} as {} was revoked",
            role.as_str()
        ),
    );
    Ok(DeviceTokenRevokeResult {
        device_id,
        role: role.as_str().to_owned(),
        revoked_at_ms,
    })
}

pub(super) async fn setup_code(
    cx: Cx,
    p: DevicePairSetupCodeParams,
) -> Result<DevicePairSetupCodeResult, RpcError> {
    no_api_key(&cx)?;
    let (place, source) = match &p.public_url {
        Some(url) => {
            let place = pair::setup::Place::parse(url).ok_or_else(|| {
                RpcError::invalid_params(
                    "device.pair.setupCode",
                    "at /publicUrl: must be wss://host[:port][/path] (ws:// on this machine only)",
                )
            })?;
            (place, "param")
        }
        None => pair::setup::Place::own(&cx.tenant).ok_or_else(|| {
            RpcError::invalid(
                "no address for the device: the gateway has none with TLS that other machines reach; give `publicUrl` (wss://HOST:PORT), or set gateway.bind and gateway.tls, or gateway.tailscale.mode",
            )
        })?,
    };
    let access = p.bootstrap_profile.unwrap_or_default();
    let made = pair::setup::make(&cx.tenant, &by(&cx), access, &place)
        .await
        .map_err(|e| failed(&cx.tenant, e))?;
    cx.tenant.log(
        "INFO",
        &format!("setup code {} was made ({})", made.row.id, made.row.access),
    );
    Ok(DevicePairSetupCodeResult {
        qr_data_url: p
            .include_qr
            .unwrap_or_default()
            .then(|| pair::picture::data_url(&made.code))
            .flatten(),
        setup_code: made.code,
        gateway_url: place.url,
        auth: match cx.tenant.settings().auth.mode {
            AuthMode::None | AuthMode::Token => "token",
            AuthMode::Password | AuthMode::TrustedProxy => "password",
        }
        .to_owned(),
        url_source: source.to_owned(),
        setup_id: made.row.id,
        access,
        expires_at_ms: made.row.expires_at,
    })
}

pub(super) async fn setup_status(
    cx: Cx,
    p: DevicePairSetupStatusParams,
) -> Result<DevicePairSetupStatusResult, RpcError> {
    let book = pair::load(&cx.tenant)
        .await
        .map_err(|e| error::store(&cx.tenant, &e))?;
    let code = book
        .code(&p.setup_id)
        .ok_or_else(|| RpcError::not_found("setup code"))?;
    Ok(DevicePairSetupStatusResult {
        completion: code
            .used_at
            .zip(code.device_id.clone())
            .map(|(ts, device_id)| SetupCompletion {
                setup_id: code.id.clone(),
                device_id,
                access: SetupAccess::from_name(&code.access).unwrap_or_default(),
                ts,
                device_name: code.device_name.clone(),
            }),
    })
}
