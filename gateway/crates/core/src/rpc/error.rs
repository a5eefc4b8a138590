//! Domain errors as the wire tells them, in one place.

use gateway_protocol::error::{DetailCode, RpcError};
use gateway_protocol::ids::AgentId;
use gateway_protocol::session_key::SessionKey;
use gateway_store::StoreError;

use crate::cx::Cx;
use crate::hub::HubError;
use crate::tenant::Tenant;

/// A store error; texts that could tell about the machine stay in the log.
pub fn store(tenant: &Tenant, error: &StoreError) -> RpcError {
    match error {
        StoreError::Full => RpcError::new(
            DetailCode::StorageFull,
            "storage is full; nothing was accepted",
        ),
        StoreError::NotFound => RpcError::not_found("object"),
        StoreError::Conflict(what) => RpcError::new(DetailCode::Conflict, *what),
        StoreError::Limit(what) => {
            RpcError::new(DetailCode::PayloadTooLarge, "over a limit of the store")
                .with("limit", *what)
        }
        StoreError::Busy(_) => {
            RpcError::new(DetailCode::Overloaded, "the store is busy").retry_after_ms(100)
        }
        StoreError::Closed => RpcError::new(DetailCode::Draining, "the gateway is shutting down")
            .with("reason", "gateway-restarting")
            .retry_after_ms(500),
        StoreError::Corrupt { incident } | StoreError::Failed { incident } => RpcError::new(
            DetailCode::TenantUnavailable,
            "the tenant's store is out of service",
        )
        .with("incident", incident.as_str()),
        other => tenant.faults().internal("store", &other.to_string()),
    }
}

/// A subscription that the hub refused.
pub fn hub(error: HubError) -> RpcError {
    match error {
        HubError::NotConnected => RpcError::unavailable("events need a WebSocket connection"),
        HubError::TooManyConnections | HubError::TooManyKeys => {
            RpcError::new(DetailCode::Overloaded, error.to_string())
        }
    }
}

/// The session that a text names: a whole key, or a short one of the named or default agent. The agent must exist.
///
/// # Errors
/// `INVALID_SESSION_KEY` or `UNKNOWN_AGENT_ID`.
pub fn session_key(
    cx: &Cx,
    text: &str,
    agent: Option<&str>,
) -> Result<(SessionKey, String), RpcError> {
    let agents = cx.tenant.agents();
    let named = agent.map(|id| agent_id(&agents, id)).transpose()?;
    let key =
        SessionKey::qualify_for(text, named.as_ref(), &cx.tenant.default_agent()).map_err(|e| {
            RpcError::new(
                DetailCode::InvalidSessionKey,
                format!("invalid session key: {e}"),
            )
        })?;
    let owner = match key.agent() {
        Some(id) => agent_id(&agents, id)?.into_string(),
        None => agents.default_id().to_owned(),
    };
    Ok((key, owner))
}

/// A configured agent.
///
/// # Errors
/// `UNKNOWN_AGENT_ID`.
pub fn agent_id(agents: &crate::agents::Agents, text: &str) -> Result<AgentId, RpcError> {
    let unknown = || {
        let shown = gateway_protocol::error::echo(text);
        RpcError::new(
            DetailCode::UnknownAgent,
            format!("unknown agent id \"{shown}\""),
        )
        .with("agentId", shown)
    };
    let id = AgentId::parse(text).map_err(|_| unknown())?;
    if agents.exists(id.as_str()) {
        Ok(id)
    } else {
        Err(unknown())
    }
}
