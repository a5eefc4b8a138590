//! Wakes, system events, and the switch of heartbeats.

use gateway_protocol::error::{DetailCode, RpcError};
use gateway_protocol::ids::AgentId;
use gateway_protocol::limits::MAX_TEXT_BYTES;
use gateway_protocol::methods::cron::WakeMode;
use gateway_protocol::methods::heartbeat::{
    LastHeartbeatResult, SetHeartbeatsParams, SetHeartbeatsResult, SystemEventParams, WakeParams,
};
use gateway_protocol::methods::{NoParams, OkResult};
use gateway_protocol::session_key::SessionKey;

use super::super::heartbeat;
use crate::cx::Cx;
use crate::rpc::error::{self, store};

fn check_event(method: &str, text: &str) -> Result<(), RpcError> {
    if text.trim().is_empty() {
        return Err(RpcError::invalid_params(
            method,
            "at /text: must be a text that is not empty",
        ));
    }
    let most = gateway_store::limits::MAX_SYSTEM_EVENT_BYTES.min(MAX_TEXT_BYTES);
    if text.len() > most {
        return Err(
            RpcError::new(DetailCode::PayloadTooLarge, "text is too long").with("limitBytes", most),
        );
    }
    Ok(())
}

pub(crate) async fn wake(cx: Cx, p: WakeParams) -> Result<OkResult, RpcError> {
    check_event("wake", &p.text)?;
    let named = p.session_key.as_deref();
    let (key, agent) = match named {
        Some(key) => error::session_key(&cx, key, p.agent_id.as_deref())?,
        None => main_session(&cx, p.agent_id.as_deref())?,
    };
    let agent = AgentId::parse(&agent).unwrap_or_else(|_| cx.tenant.default_agent());
    let now = p.mode == WakeMode::Now;
    // A heartbeat looks at the main session; the text of another one waits for its next message.
    let looks = now && key == SessionKey::main(&agent);
    if now && !looks {
        return Err(RpcError::invalid_params(
            "wake",
            "at /mode: now is for the main session; a text for another session waits for its next message (next-heartbeat)",
        ));
    }
    heartbeat::wake(&cx.tenant, &agent, &key, &p.text, looks)
        .await
        .map_err(|e| store(&cx.tenant, &e))?;
    Ok(OkResult::OK)
}

fn main_session(cx: &Cx, agent: Option<&str>) -> Result<(SessionKey, String), RpcError> {
    let agents = cx.tenant.agents();
    let agent = match agent {
        Some(id) => error::agent_id(&agents, id)?,
        None => cx.tenant.default_agent(),
    };
    Ok((SessionKey::main(&agent), agent.into_string()))
}

pub(crate) async fn system_event(cx: Cx, p: SystemEventParams) -> Result<OkResult, RpcError> {
    check_event("system-event", &p.text)?;
    let (key, agent) = main_session(&cx, None)?;
    let agent = AgentId::parse(&agent).unwrap_or_else(|_| cx.tenant.default_agent());
    heartbeat::wake(&cx.tenant, &agent, &key, &p.text, false)
        .await
        .map_err(|e| store(&cx.tenant, &e))?;
    Ok(OkResult::OK)
}

pub(crate) async fn last_heartbeat(cx: Cx, _: NoParams) -> Result<LastHeartbeatResult, RpcError> {
    heartbeat::last(&cx.tenant)
        .await
        .map(LastHeartbeatResult)
        .map_err(|e| store(&cx.tenant, &e))
}

pub(crate) async fn set_heartbeats(
    cx: Cx,
    p: SetHeartbeatsParams,
) -> Result<SetHeartbeatsResult, RpcError> {
    cx.audit.about(serde_json::json!({ "enabled": p.enabled }));
    heartbeat::switch(&cx.tenant, p.enabled)
        .await
        .map_err(|e| store(&cx.tenant, &e))?;
    cx.tenant.health().nudge();
    Ok(SetHeartbeatsResult {
        ok: true,
        enabled: p.enabled,
    })
}
