//! `node.*` for nodes: results and progress of their commands, signs of life, and what waits for them. Whose they are is known from
//! the connection, never from what is named.

use std::sync::Arc;

use gateway_protocol::error::{DetailCode, RpcError};
use gateway_protocol::ids::ConnId;
use gateway_protocol::methods::NoParams;
use gateway_protocol::methods::node_host::{
    NodeEventParams, NodeEventResult, NodeInvokeProgressParams, NodeInvokeResultParams,
    NodePendingAckParams, NodePendingAckResult, NodePendingDrainParams, NodePendingDrainResult,
    NodePendingPullResult, NodePluginToolsParams, NodePluginToolsResult, NodeRunnerInventoryParams,
    NodeRunnerInventoryResult, NodeSkillsParams, NodeSkillsResult, NodeTaken,
};
use gateway_protocol::methods::nodes::NodeHostStats;
use serde_json::Value;

use super::error;
use crate::cx::Cx;
use crate::limits::{NODE_DRAIN_DEFAULT_ITEMS, NODE_EXTRAS_MAX, NODE_EXTRAS_MAX_BYTES};
use crate::node::invoke::Outcome;
use crate::node::{self, Extras};

/// The node that calls, and its connection. One whose token ended is nobody, also while its socket is being closed.
fn own(cx: &Cx) -> Result<(Arc<str>, ConnId), RpcError> {
    let tokens = &cx.tenant.shared().device_tokens;
    match (&cx.caller.device, &cx.caller.conn) {
        (Some(pass), _) if tokens.find(&pass.token).is_none() => Err(RpcError::not_found("node")),
        (Some(pass), Some(conn)) => Ok((pass.id.clone(), conn.clone())),
        _ => Err(RpcError::new(
            DetailCode::DeviceIdentityRequired,
            "a node needs a connection and a device identity",
        )),
    }
}

const fn taken(by_somebody: bool) -> NodeTaken {
    NodeTaken {
        ok: true,
        ignored: if by_somebody { None } else { Some(true) },
    }
}

pub(super) async fn result(cx: Cx, p: NodeInvokeResultParams) -> Result<NodeTaken, RpcError> {
    let (node_id, conn) = own(&cx)?;
    if *p.node_id != *node_id {
        return Ok(taken(false));
    }
    let outcome = if p.ok {
        Outcome::Done {
            payload: match &p.payload_json {
                Some(text) => serde_json::from_str(text).unwrap_or(Value::Null),
                None => p.payload.unwrap_or(Value::Null),
            },
            payload_json: p.payload_json,
        }
    } else {
        let error = p.error.unwrap_or_default();
        Outcome::Failed {
            code: error
                .code
                .map_or_else(|| "UNAVAILABLE".to_owned(), |c| c.into_string()),
            message: error.message.map_or_else(
                || "the command failed, and the node does not say why".to_owned(),
                |m| m.into_string(),
            ),
        }
    };
    let by_somebody = node::give(&cx.tenant, &node_id, &conn, &p.id, outcome);
    Ok(taken(by_somebody))
}

pub(super) async fn progress(cx: Cx, p: NodeInvokeProgressParams) -> Result<NodeTaken, RpcError> {
    let (node_id, conn) = own(&cx)?;
    if *p.node_id != *node_id {
        return Ok(taken(false));
    }
    let chunk = p.chunk.into_string();
    let wanted = node::progress(&cx.tenant, &node_id, &conn, &p.invoke_id, p.seq, chunk);
    Ok(taken(wanted))
}

pub(super) async fn event(cx: Cx, p: NodeEventParams) -> Result<NodeEventResult, RpcError> {
    let (node_id, _) = own(&cx)?;
    let tenant = &cx.tenant;
    let payload = match &p.payload_json {
        Some(text) => serde_json::from_str(text).unwrap_or(Value::Null),
        None => p.payload.unwrap_or(Value::Null),
    };
    let (handled, reason) = match p.event.as_str() {
        "node.presence.alive" => {
            let written = node::alive(tenant, &node_id, payload["trigger"].as_str())
                .await
                .map_err(|e| error::store(tenant, &e))?;
            (true, if written { "persisted" } else { "updated" })
        }
        "node.host.stats" => match serde_json::from_value::<NodeHostStats>(payload) {
            Ok(stats) => {
                node::host_stats(tenant, &node_id, stats);
                (true, "updated")
            }
            Err(_) => (false, "invalid_payload"),
        },
        _ => (false, "unsupported_event"),
    };
    Ok(NodeEventResult {
        ok: true,
        event: p.event.into_string(),
        handled,
        reason: reason.to_owned(),
    })
}

pub(super) async fn pending_pull(cx: Cx, _: NoParams) -> Result<NodePendingPullResult, RpcError> {
    let (node_id, _) = own(&cx)?;
    Ok(NodePendingPullResult {
        actions: node::pull(&cx.tenant, &node_id).await?,
        node_id: node_id.to_string(),
    })
}

pub(super) async fn pending_ack(
    cx: Cx,
    p: NodePendingAckParams,
) -> Result<NodePendingAckResult, RpcError> {
    let (node_id, _) = own(&cx)?;
    if p.ids.len() > NODE_EXTRAS_MAX {
        return Err(RpcError::invalid_params(
            "node.pending.ack",
            format_args!("at /ids: at most {NODE_EXTRAS_MAX} at once"),
        ));
    }
    let ids = p.ids.into_iter().map(|id| id.into_string()).collect();
    let (acked_ids, remaining_count) = node::ack(&cx.tenant, &node_id, ids).await?;
    Ok(NodePendingAckResult {
        node_id: node_id.to_string(),
        acked_ids,
        remaining_count,
    })
}

pub(super) async fn pending_drain(
    cx: Cx,
    p: NodePendingDrainParams,
) -> Result<NodePendingDrainResult, RpcError> {
    let (node_id, _) = own(&cx)?;
    let max = p
        .max_items
        .and_then(|n| usize::try_from(n.get()).ok())
        .unwrap_or(NODE_DRAIN_DEFAULT_ITEMS);
    let drained = node::drain(&cx.tenant, &node_id, max).await?;
    Ok(NodePendingDrainResult {
        node_id: node_id.to_string(),
        revision: drained.revision,
        items: drained.items,
        has_more: drained.has_more,
    })
}

/// What a node offers besides commands is bounded.
fn bounded(method: &str, at: &str, list: &[Value]) -> Result<(), RpcError> {
    let bytes = serde_json::to_vec(list).map_or(usize::MAX, |b| b.len());
    if list.len() > NODE_EXTRAS_MAX || bytes > NODE_EXTRAS_MAX_BYTES {
        return Err(RpcError::invalid_params(
            method,
            format_args!(
                "at /{at}: at most {NODE_EXTRAS_MAX}, and {NODE_EXTRAS_MAX_BYTES} bytes in all"
            ),
        ));
    }
    Ok(())
}

pub(super) async fn plugin_tools(
    cx: Cx,
    p: NodePluginToolsParams,
) -> Result<NodePluginToolsResult, RpcError> {
    let (node_id, conn) = own(&cx)?;
    bounded("node.pluginTools.update", "tools", &p.tools)?;
    let kept = Extras::Tools(p.tools.clone());
    node::offers_more(&cx.tenant, &node_id, &conn, kept);
    Ok(NodePluginToolsResult {
        node_id: node_id.to_string(),
        tools: p.tools,
    })
}

pub(super) async fn skills(cx: Cx, p: NodeSkillsParams) -> Result<NodeSkillsResult, RpcError> {
    let (node_id, conn) = own(&cx)?;
    bounded("node.skills.update", "skills", &p.skills)?;
    let kept = Extras::Skills(p.skills.clone());
    node::offers_more(&cx.tenant, &node_id, &conn, kept);
    Ok(NodeSkillsResult {
        node_id: node_id.to_string(),
        skills: p.skills,
    })
}

pub(super) async fn runner_inventory(
    cx: Cx,
    _: NodeRunnerInventoryParams,
) -> Result<NodeRunnerInventoryResult, RpcError> {
    let (node_id, _) = own(&cx)?;
    node::inventory_changed(&cx.tenant, &node_id);
    Ok(NodeRunnerInventoryResult {
        node_id: node_id.to_string(),
    })
}
