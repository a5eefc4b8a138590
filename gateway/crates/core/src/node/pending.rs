//! What waits for nodes that sleep: questions, and calls of commands. In the store, so that it outlives the gateway.

use std::sync::Arc;

use gateway_protocol::error::{DetailCode, RpcError};
use gateway_protocol::methods::node_host::NodePendingAction;
use gateway_protocol::methods::nodes::{NodePendingItem, NodePendingKind, NodePendingPriority};
use gateway_store::{NodePendingRow, StoreError};
use sha2::{Digest, Sha256};

use super::call::{Asked, allowed, approved};
use super::invoke::Outcome;
use crate::limits::NODE_PENDING_TTL_MS;
use crate::pair;
use crate::rpc::error;
use crate::tenant::Tenant;

const CALL: &str = "call";

fn failed(tenant: &Tenant, failure: &StoreError) -> RpcError {
    match failure {
        StoreError::Limit("MAX_NODE_PENDING_BYTES") => RpcError::new(
            DetailCode::PayloadTooLarge,
            "what the command takes is too large to wait for the node",
        ),
        StoreError::Limit(_) => RpcError::new(
            DetailCode::QuotaExceeded,
            "as much waits for nodes as may wait; it goes when the nodes fetch it or when it runs out",
        )
        .with("quota", "nodePending"),
        other => error::store(tenant, other),
    }
}

fn item(row: &NodePendingRow) -> NodePendingItem {
    NodePendingItem {
        id: row.id.clone(),
        kind: if row.kind == NodePendingKind::Location.as_str() {
            NodePendingKind::Location
        } else {
            NodePendingKind::Status
        },
        priority: if row.high {
            NodePendingPriority::High
        } else {
            NodePendingPriority::Normal
        },
        created_at_ms: row.created_at,
        expires_at_ms: row.expires_at,
    }
}

fn revision(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

/// Leaves a question for a node. Gives it and the revision of what waits.
pub(crate) async fn enqueue(
    tenant: &Arc<Tenant>,
    node_id: &str,
    kind: NodePendingKind,
    priority: NodePendingPriority,
    expires_in_ms: Option<u64>,
) -> Result<(NodePendingItem, u64), RpcError> {
    let book = pair::load(tenant)
        .await
        .map_err(|e| error::store(tenant, &e))?;
    if book.node(node_id).is_none() {
        return Err(RpcError::not_found("node"));
    }
    let now = tenant.now_ms();
    let ttl = expires_in_ms
        .and_then(|ms| i64::try_from(ms).ok())
        .unwrap_or(NODE_PENDING_TTL_MS);
    let row = NodePendingRow {
        id: tenant.new_id(),
        node_id: node_id.to_owned(),
        kind: kind.as_str().to_owned(),
        high: priority == NodePendingPriority::High,
        command: None,
        params: None,
        created_at: now,
        expires_at: now.saturating_add(ttl),
    };
    let queued = item(&row);
    let at = tenant
        .db()
        .write(move |w| w.put_node_pending(&row, now))
        .await
        .map_err(|e| failed(tenant, &e))?;
    Ok((queued, revision(at)))
}

/// Leaves a call for a node that is not connected.
pub(super) async fn leave(
    tenant: &Arc<Tenant>,
    asked: &Asked,
    params: Option<String>,
) -> Result<Outcome, RpcError> {
    let now = tenant.now_ms();
    let row = NodePendingRow {
        id: id_of(asked),
        node_id: asked.node_id.clone(),
        kind: CALL.to_owned(),
        high: false,
        command: Some(asked.command.clone()),
        params,
        created_at: now,
        expires_at: now.saturating_add(NODE_PENDING_TTL_MS),
    };
    let kept = tenant
        .db()
        .write(move |w| {
            // The same call may have been left before this process began.
            match w.node_pending_by_id(&row.id)? {
                Some(old) if old.expires_at > now => {
                    if (&old.command, &old.params) != (&row.command, &row.params) {
                        return Err(StoreError::Conflict(
                            "the idempotencyKey was used for another call of this node",
                        ));
                    }
                    Ok(old)
                }
                _ => {
                    w.put_node_pending(&row, now)?;
                    Ok(row)
                }
            }
        })
        .await
        .map_err(|e| failed(tenant, &e))?;
    Ok(Outcome::Queued {
        id: kept.id,
        expires_at_ms: kept.expires_at,
    })
}

/// The id of a call that waits follows from what makes it the same as another.
fn id_of(asked: &Asked) -> String {
    let mut hash = Sha256::new();
    hash.update(asked.node_id.as_bytes());
    hash.update([0]);
    hash.update(asked.key.as_bytes());
    hash.finalize()
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The calls that wait for a node and may still be called.
pub(crate) async fn pull(
    tenant: &Arc<Tenant>,
    node_id: &str,
) -> Result<Vec<NodePendingAction>, RpcError> {
    let book = pair::load(tenant)
        .await
        .map_err(|e| error::store(tenant, &e))?;
    let device = book
        .node(node_id)
        .ok_or_else(|| RpcError::not_found("node"))?;
    let (id, now) = (node_id.to_owned(), tenant.now_ms());
    let rows = tenant
        .db()
        .read(move |r| r.node_pending(&id, true, now))
        .await
        .map_err(|e| error::store(tenant, &e))?;
    let offered = |command: &str| {
        let state = tenant.nodes().state.lock();
        state
            .live
            .get(node_id)
            .is_some_and(|live| live.declared.offer.offers(command))
    };
    Ok(rows
        .into_iter()
        .filter_map(|row| {
            let command = row.command?;
            let may = offered(&command)
                && allowed(tenant, device, &command).is_ok()
                && approved(&book, node_id, &command).is_ok();
            may.then_some(NodePendingAction {
                id: row.id,
                command,
                params_json: row.params,
                enqueued_at_ms: row.created_at,
            })
        })
        .collect())
}

/// The node has dealt with these calls. Gives those that waited, and how many still do.
pub(crate) async fn ack(
    tenant: &Arc<Tenant>,
    node_id: &str,
    ids: Vec<String>,
) -> Result<(Vec<String>, u64), RpcError> {
    let (node, now) = (node_id.to_owned(), tenant.now_ms());
    tenant
        .db()
        .write(move |w| {
            let (taken, _) = w.take_node_pending(&node, &ids)?;
            let left = w.node_pending(&node, true, now)?.len();
            Ok((taken, u64::try_from(left).unwrap_or(u64::MAX)))
        })
        .await
        .map_err(|e| error::store(tenant, &e))
}

/// Questions for a node, taken away.
pub(crate) struct Drained {
    pub(crate) items: Vec<NodePendingItem>,
    pub(crate) revision: u64,
    pub(crate) has_more: bool,
}

/// Takes questions for a node away.
pub(crate) async fn drain(
    tenant: &Arc<Tenant>,
    node_id: &str,
    max: usize,
) -> Result<Drained, RpcError> {
    let (node, now) = (node_id.to_owned(), tenant.now_ms());
    tenant
        .db()
        .write(move |w| {
            let rows = w.node_pending(&node, false, now)?;
            let has_more = rows.len() > max;
            let rows = &rows[..rows.len().min(max)];
            let ids: Vec<String> = rows.iter().map(|row| row.id.clone()).collect();
            let (_, at) = w.take_node_pending(&node, &ids)?;
            Ok(Drained {
                items: rows.iter().map(item).collect(),
                revision: revision(at),
                has_more,
            })
        })
        .await
        .map_err(|e| error::store(tenant, &e))
}
