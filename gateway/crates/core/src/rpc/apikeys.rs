//! `apikeys.*`: a tenant's credentials for programs.

use gateway_protocol::error::{DetailCode, RpcError};
use gateway_protocol::methods::NoParams;
use gateway_protocol::methods::apikeys::{
    ApiKeyView, ApiKeysCreateParams, ApiKeysCreateResult, ApiKeysListResult, ApiKeysRevokeParams,
    ApiKeysRevokeResult,
};
use gateway_protocol::scope::{Scope, ScopeSet};
use gateway_store::StoreError;

use super::error;
use crate::auth::{ApiKey, NewApiKey};
use crate::cx::Cx;
use crate::registry::Reply;

fn view(key: &ApiKey, now_ms: i64) -> ApiKeyView {
    let row = key.row();
    ApiKeyView {
        id: row.id.clone(),
        name: row.name.clone(),
        scopes: row.scopes.clone(),
        agent_id: row.agent.clone(),
        created_at: row.created_at,
        expires_at: row.expires_at,
        expired: key.expired(now_ms),
        last_used_at: key.last_used_ms(),
    }
}

/// A key that made keys would outlive its own end.
fn by_a_person(cx: &Cx) -> Result<(), RpcError> {
    if cx.caller.key.is_some() {
        return Err(RpcError::new(
            DetailCode::CapabilityDenied,
            "an API key can neither make nor end API keys; use the gateway's own token",
        ));
    }
    Ok(())
}

pub(super) async fn create(
    cx: Cx,
    p: ApiKeysCreateParams,
) -> Result<ApiKeysCreateResult, RpcError> {
    by_a_person(&cx)?;
    let wrong = |what: String| RpcError::invalid_params("apikeys.create", what);
    let name = p.name.trim().to_owned();
    if name.is_empty() || name.chars().any(char::is_control) {
        return Err(wrong(
            "at /name: must be a name without control characters".to_owned(),
        ));
    }
    let scopes = match p.scopes {
        None => ScopeSet::of(Scope::Write),
        Some(names) => names
            .iter()
            .enumerate()
            .map(|(i, name)| {
                name.parse::<Scope>().map_err(|_| {
                    let known: Vec<&str> = Scope::ALL.iter().map(|s| s.as_str()).collect();
                    wrong(format!(
                        "at /scopes/{i}: must be one of {}",
                        known.join(", ")
                    ))
                })
            })
            .collect::<Result<ScopeSet, _>>()?,
    };
    if scopes.is_empty() {
        return Err(wrong(
            "at /scopes: must not be empty: a key without a scope opens nothing".to_owned(),
        ));
    }
    if !scopes.is_within(cx.caller.scopes) {
        return Err(RpcError::missing_scope(Scope::Admin));
    }
    let agent = p
        .agent_id
        .map(|id| error::agent_id(&cx.tenant.agents(), &id))
        .transpose()?
        .map(|id| id.into_string());
    if agent.is_some()
        && scopes
            .iter()
            .any(|s| !matches!(s, Scope::Read | Scope::Write))
    {
        return Err(wrong(
            "at /scopes: a key of one agent can have operator.read and operator.write only"
                .to_owned(),
        ));
    }
    let tenant = cx.tenant.clone();
    let now_ms = tenant.now_ms();
    let new = NewApiKey {
        id: tenant.new_id(),
        tenant: tenant.id().clone(),
        name,
        scopes,
        agent,
        expires_at: p
            .expires_in_ms
            .map(|ms| now_ms.saturating_add(i64::try_from(ms.get()).unwrap_or(i64::MAX))),
        now_ms,
    };
    let shared = tenant.shared().clone();
    let made = tokio::task::spawn_blocking(move || shared.api_keys.create(new, &*shared.random))
        .await
        .map_err(|e| tenant.faults().internal("apikeys.create", &e.to_string()))?;
    let (key, secret) = made.map_err(|e| match e {
        StoreError::Limit(_) => RpcError::new(
            DetailCode::QuotaExceeded,
            "the tenant has as many API keys as it may have; revoke those that are not used",
        )
        .with("quota", "apiKeys"),
        e => error::store(&tenant, &e),
    })?;
    tenant.log(
        "INFO",
        &format!(
            "API key {} ({:?}) was made: {}",
            key.row().id,
            key.row().name,
            key.row().scopes.join(" ")
        ),
    );
    Ok(ApiKeysCreateResult {
        key: view(&key, now_ms),
        secret,
    })
}

pub(super) fn list(cx: &Cx, _: NoParams) -> Result<Reply<ApiKeysListResult>, RpcError> {
    let now_ms = cx.tenant.now_ms();
    let keys = cx.tenant.shared().api_keys.of_tenant(cx.tenant.id());
    Ok(Reply::Value(ApiKeysListResult {
        keys: keys.iter().map(|key| view(key, now_ms)).collect(),
    }))
}

pub(super) async fn revoke(
    cx: Cx,
    p: ApiKeysRevokeParams,
) -> Result<ApiKeysRevokeResult, RpcError> {
    by_a_person(&cx)?;
    let tenant = cx.tenant.clone();
    let (owner, name) = (tenant.clone(), p.key.into_string());
    let ended =
        tokio::task::spawn_blocking(move || owner.shared().api_keys.revoke(owner.id(), &name))
            .await
            .map_err(|e| tenant.faults().internal("apikeys.revoke", &e.to_string()))?
            .map_err(|e| error::store(&tenant, &e))?
            .ok_or_else(|| RpcError::not_found("API key"))?;
    tenant.log(
        "INFO",
        &format!("API key {} ({:?}) was revoked", ended.id, ended.name),
    );
    Ok(ApiKeysRevokeResult {
        ok: true,
        id: ended.id,
        name: ended.name,
    })
}
