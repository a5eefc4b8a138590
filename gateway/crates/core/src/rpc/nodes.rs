//! `node.*` for operators: who is there, what was approved, and calls of commands.

use gateway_protocol::error::{DetailCode, RpcError};
use gateway_protocol::methods::NoParams;
use gateway_protocol::methods::nodes::{
    NodeDescribeResult, NodeIdParams, NodeInvokeParams, NodeInvokeResult, NodeListResult,
    NodePairApproveResult, NodePairListResult, NodePairRejectResult, NodePairRemoveResult,
    NodePendingEnqueueParams, NodePendingEnqueueResult, NodeQueuedCall, NodeRenameParams,
    NodeRenameResult, NodeRequestParams,
};
use gateway_protocol::scope::Scope;
use serde_json::{Value, json};

use super::devices::{by, no_api_key};
use super::error;
use crate::cx::Cx;
use crate::node::invoke::Outcome;
use crate::node::policy::invoke_scope;
use crate::node::{self, Asked};
use crate::pair::book::Refusal;
use crate::pair::{self, Failed};
use crate::tenant::Tenant;

fn failed(tenant: &Tenant, failed: Failed) -> RpcError {
    match failed {
        Failed::Refused(Refusal::NoRequest) => RpcError::not_found("node request"),
        Failed::Refused(Refusal::Beyond(scope)) => RpcError::missing_scope(scope),
        Failed::Refused(_) => RpcError::not_found("node"),
        Failed::Store(other) => error::store(tenant, &other),
    }
}

/// A key that is for one agent has nothing to do with machines.
fn no_agent_key(cx: &Cx) -> Result<(), RpcError> {
    if cx.caller.agent().is_some() {
        return Err(RpcError::new(
            DetailCode::CapabilityDenied,
            "this API key is for one agent, and nodes belong to none",
        ));
    }
    Ok(())
}

/// A device without admin looks after no other one.
fn no_other_device(cx: &Cx, node_id: &str) -> Result<(), RpcError> {
    match &cx.caller.device {
        Some(pass) if *pass.id != *node_id && !cx.caller.scopes.allows(Scope::Admin) => {
            Err(RpcError::missing_scope(Scope::Admin))
        }
        _ => Ok(()),
    }
}

pub(super) async fn list(cx: Cx, _: NoParams) -> Result<NodeListResult, RpcError> {
    let tenant = &cx.tenant;
    let book = pair::load(tenant)
        .await
        .map_err(|e| error::store(tenant, &e))?;
    let mut nodes: Vec<_> = book
        .nodes()
        .map(|device| node::node_view(tenant, &book, device))
        .collect();
    nodes.sort_by(|a, b| {
        (b.connected, b.approved_at_ms, &a.node_id).cmp(&(
            a.connected,
            a.approved_at_ms,
            &b.node_id,
        ))
    });
    Ok(NodeListResult {
        ts: tenant.now_ms(),
        nodes,
    })
}

pub(super) async fn describe(cx: Cx, p: NodeIdParams) -> Result<NodeDescribeResult, RpcError> {
    let tenant = &cx.tenant;
    let book = pair::load(tenant)
        .await
        .map_err(|e| error::store(tenant, &e))?;
    let device = book
        .node(&p.node_id)
        .ok_or_else(|| RpcError::not_found("node"))?;
    Ok(NodeDescribeResult {
        ts: tenant.now_ms(),
        node: node::node_view(tenant, &book, device),
    })
}

pub(super) async fn rename(cx: Cx, p: NodeRenameParams) -> Result<NodeRenameResult, RpcError> {
    no_other_device(&cx, &p.node_id)?;
    let tenant = &cx.tenant;
    let name = p.display_name.trim().to_owned();
    if name.is_empty() || name.chars().any(char::is_control) {
        return Err(RpcError::invalid_params(
            "node.rename",
            "at /displayName: must be a name without control characters",
        ));
    }
    let book = pair::load(tenant)
        .await
        .map_err(|e| error::store(tenant, &e))?;
    if book.node(&p.node_id).is_none() {
        return Err(RpcError::not_found("node"));
    }
    pair::rename(tenant, &by(&cx), &p.node_id, &name)
        .await
        .map_err(|e| failed(tenant, e))?;
    Ok(NodeRenameResult {
        node_id: p.node_id.into_string(),
        display_name: name,
    })
}

pub(super) async fn pair_list(cx: Cx, _: NoParams) -> Result<NodePairListResult, RpcError> {
    let tenant = &cx.tenant;
    let book = pair::load(tenant)
        .await
        .map_err(|e| error::store(tenant, &e))?;
    let mut pending: Vec<_> = book
        .node_requests()
        .map(|q| node::request_view(&book, q))
        .collect();
    pending.sort_by(|a, b| (b.ts, &a.request_id).cmp(&(a.ts, &b.request_id)));
    let mut paired: Vec<_> = book
        .nodes()
        .filter_map(|device| {
            let record = book.record(&device.row.id)?;
            Some(node::approved_view(tenant.nodes(), device, record))
        })
        .collect();
    paired.sort_by(|a, b| (b.approved_at_ms, &a.node_id).cmp(&(a.approved_at_ms, &b.node_id)));
    Ok(NodePairListResult { pending, paired })
}

pub(super) async fn approve(
    cx: Cx,
    p: NodeRequestParams,
) -> Result<NodePairApproveResult, RpcError> {
    no_api_key(&cx)?;
    let tenant = &cx.tenant;
    let node_id = node::approve(tenant, &by(&cx), &p.request_id)
        .await
        .map_err(|e| failed(tenant, e))?;
    let book = pair::load(tenant)
        .await
        .map_err(|e| error::store(tenant, &e))?;
    let (Some(device), Some(record)) = (book.node(&node_id), book.record(&node_id)) else {
        // Approved, and forgotten by somebody else right after.
        return Err(RpcError::not_found("node"));
    };
    tenant.log(
        "INFO",
        &format!(
            "{} commands of node {node_id} were approved",
            record.offer.commands.len()
        ),
    );
    Ok(NodePairApproveResult {
        request_id: p.request_id.into_string(),
        node: node::approved_view(tenant.nodes(), device, record),
    })
}

pub(super) async fn reject(cx: Cx, p: NodeRequestParams) -> Result<NodePairRejectResult, RpcError> {
    let node_id = node::reject(&cx.tenant, &by(&cx), &p.request_id)
        .await
        .map_err(|e| failed(&cx.tenant, e))?;
    Ok(NodePairRejectResult {
        request_id: p.request_id.into_string(),
        node_id,
    })
}

pub(super) async fn remove(cx: Cx, p: NodeIdParams) -> Result<NodePairRemoveResult, RpcError> {
    no_other_device(&cx, &p.node_id)?;
    node::remove(&cx.tenant, &by(&cx), &p.node_id)
        .await
        .map_err(|e| failed(&cx.tenant, e))?;
    let node_id = p.node_id.into_string();
    cx.tenant
        .log("INFO", &format!("node {node_id} was removed"));
    Ok(NodePairRemoveResult { node_id })
}

pub(super) async fn invoke(cx: Cx, p: NodeInvokeParams) -> Result<NodeInvokeResult, RpcError> {
    no_agent_key(&cx)?;
    let scope = invoke_scope(&p.command);
    if !cx.caller.scopes.allows(scope) {
        return Err(RpcError::missing_scope(scope));
    }
    let (node_id, command) = (p.node_id.into_string(), p.command.into_string());
    cx.audit
        .about(json!({ "nodeId": gateway_protocol::error::echo(&node_id), "command": gateway_protocol::error::echo(&command) }));
    let asked = Asked {
        node_id: node_id.clone(),
        command: command.clone(),
        key: p.idempotency_key.into_string(),
        params: p.params,
        timeout_ms: p.timeout_ms,
        progress_to: cx
            .caller
            .conn
            .clone()
            .filter(|_| p.progress.unwrap_or(false)),
        queue: p.queue.unwrap_or(false),
    };
    let mut result = NodeInvokeResult {
        ok: true,
        node_id,
        command,
        payload: Value::Null,
        payload_json: None,
        queued: None,
    };
    match node::ask(&cx.tenant, asked).await? {
        Outcome::Done {
            payload,
            payload_json,
        } => {
            result.payload = payload;
            result.payload_json = payload_json;
        }
        Outcome::Queued { id, expires_at_ms } => {
            result.queued = Some(NodeQueuedCall { id, expires_at_ms });
        }
        other => {
            let faults = cx.tenant.faults();
            return Err(faults.internal("node.invoke", &format!("{other:?} is no result")));
        }
    }
    Ok(result)
}

pub(super) async fn pending_enqueue(
    cx: Cx,
    p: NodePendingEnqueueParams,
) -> Result<NodePendingEnqueueResult, RpcError> {
    no_agent_key(&cx)?;
    let (queued, revision) = node::enqueue(
        &cx.tenant,
        &p.node_id,
        p.kind,
        p.priority.unwrap_or_default(),
        p.expires_in_ms.map(|ms| ms.get()),
    )
    .await?;
    Ok(NodePendingEnqueueResult {
        node_id: p.node_id.into_string(),
        revision,
        queued,
        wake_triggered: false,
    })
}
