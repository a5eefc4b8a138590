//! Nodes of a tenant: machines that offer commands. A node is a device in the role node ([`crate::pair`]); what it offers is
//! approved as a record of its own ([`crate::pair::record`]), and what can be called is what it offers now, what was approved, and
//! what the settings allow ([`policy`]). Calls are in [`invoke`].

pub mod invoke;
pub mod policy;
pub mod surface;

mod call;
mod pending;
mod view;

use std::collections::HashMap;
use std::sync::Arc;

use gateway_protocol::event::{NodeHostStats as NodeHostStatsEvent, NodePairRequested};
use gateway_protocol::event::{NodePairResolved, NodeRunnerInventoryChanged};
use gateway_protocol::frame::Close;
use gateway_protocol::ids::ConnId;
use gateway_protocol::methods::nodes::{
    NodeChangedPayload, NodeHostStats, NodeHostStatsPayload, NodePairResolvedPayload,
};
use gateway_store::{NodeSeenRow, StoreError};
use parking_lot::Mutex;
use serde_json::{Value, json};

pub(crate) use self::call::{Asked, ask, give, progress};
pub(crate) use self::pending::{ack, drain, enqueue, pull};
pub(crate) use self::view::{approved_view, node_view, request_view};

use self::invoke::Invokes;
use self::surface::Offer;
use crate::audit::Audit;
use crate::cx::Role;
use crate::hub::{ConnInfo, EventSink, Routing, targeted};
use crate::limits::{
    DEVICE_TEXT_MAX_CHARS, NODE_PATH_MAX_BYTES, NODE_REASON_MAX_CHARS, NODE_SEEN_STEP_MS,
    NODE_STATS_STEP_MS,
};
use crate::pair::book::Change;
use crate::pair::record::platform;
use crate::pair::{self, Failed, Operator};
use crate::tenant::Tenant;

/// What a node says in `connect`, besides who it is.
#[derive(Debug, Clone, Default)]
pub struct Declared {
    /// What it offers.
    pub offer: Offer,
    /// Its search path.
    pub path_env: Option<String>,
}

/// A node that is connected.
struct Live {
    conn: ConnId,
    sink: Arc<dyn EventSink>,
    declared: Declared,
    connected_at_ms: i64,
    tools: Vec<Value>,
    skills: Vec<Value>,
}

#[derive(Default)]
struct State {
    live: HashMap<Arc<str>, Live>,
    seen: HashMap<String, Seen>,
    invokes: Invokes,
}

/// When a node was seen, and when that was written last.
struct Seen {
    row: NodeSeenRow,
    written_ms: i64,
    stats_told_ms: i64,
}

/// The nodes of one tenant: who is connected, when each was seen, and the calls that are under way. Records and requests are with
/// the devices.
#[derive(Default)]
pub struct NodeRegistry {
    state: Mutex<State>,
}

impl std::fmt::Debug for NodeRegistry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.state.lock();
        write!(
            f,
            "NodeRegistry({} connected, {:?})",
            state.live.len(),
            state.invokes
        )
    }
}

impl NodeRegistry {
    /// What the store has; what is known since counts more.
    pub(crate) fn loaded(&self, rows: Vec<NodeSeenRow>) {
        let mut state = self.state.lock();
        for row in rows {
            state.seen.entry(row.id.clone()).or_insert_with(|| Seen {
                written_ms: row.seen_at,
                stats_told_ms: 0,
                row,
            });
        }
    }

    /// Nodes that are connected.
    #[must_use]
    pub fn connected(&self) -> usize {
        self.state.lock().live.len()
    }

    /// Calls that are under way.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.state.lock().invokes.open()
    }

    /// Gives a node an event that is for it alone. `false`: it is not connected, or does not keep up.
    fn tell(&self, node_id: &str, event: &Arc<crate::hub::WireEvent>) -> bool {
        let sink = self
            .state
            .lock()
            .live
            .get(node_id)
            .map(|live| live.sink.clone());
        sink.is_some_and(|sink| sink.push(event) == crate::hub::Pushed::Queued)
    }

    /// Notes a sign of life. Gives the row if it is worth writing.
    fn saw(
        &self,
        node_id: &str,
        now_ms: i64,
        always: bool,
        change: impl FnOnce(&mut NodeSeenRow),
    ) -> Option<NodeSeenRow> {
        let mut state = self.state.lock();
        let seen = state
            .seen
            .entry(node_id.to_owned())
            .or_insert_with(|| Seen {
                row: NodeSeenRow {
                    id: node_id.to_owned(),
                    version: String::new(),
                    connected_at: now_ms,
                    seen_at: now_ms,
                    seen_reason: "connect".to_owned(),
                    stats_json: None,
                },
                written_ms: i64::MIN,
                stats_told_ms: i64::MIN,
            });
        seen.row.seen_at = now_ms;
        change(&mut seen.row);
        let due = always || now_ms.saturating_sub(seen.written_ms) >= NODE_SEEN_STEP_MS;
        due.then(|| {
            seen.written_ms = now_ms;
            seen.row.clone()
        })
    }
}

/// Keeps a node registered. With it end the calls that its connection was asked.
pub struct NodeGuard {
    tenant: Arc<Tenant>,
    node_id: Arc<str>,
    conn: ConnId,
}

impl std::fmt::Debug for NodeGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NodeGuard({})", self.node_id)
    }
}

impl Drop for NodeGuard {
    fn drop(&mut self) {
        let tenant = &self.tenant;
        let registry = tenant.nodes();
        {
            let mut state = registry.state.lock();
            state
                .invokes
                .disconnect(&self.conn, tenant.clock().monotonic_ms());
            // A newer connection of the node may have taken its place.
            match state.live.get(&self.node_id) {
                Some(live) if live.conn == self.conn => state.live.remove(&self.node_id),
                _ => return,
            };
        }
        let now = tenant.now_ms();
        let row = registry.saw(&self.node_id, now, true, |row| {
            row.seen_reason = "disconnect".to_owned();
        });
        write_seen(tenant, row);
    }
}

/// Under way when this returns; nobody waits for it.
fn write_seen(tenant: &Tenant, row: Option<NodeSeenRow>) {
    if let Some(row) = row {
        drop(tenant.db().write(move |w| w.put_node_seen(&row)));
    }
}

fn cut(text: &str, max_chars: usize) -> String {
    text.chars()
        .filter(|c| !c.is_control())
        .take(max_chars)
        .collect()
}

/// Registers a node that was let in. `None`: it is no node. An older connection of the same node ends.
#[must_use]
pub fn attach(
    tenant: &Arc<Tenant>,
    info: &ConnInfo,
    sink: Arc<dyn EventSink>,
    mut declared: Declared,
) -> Option<NodeGuard> {
    let pass = info.device.as_ref().filter(|_| info.role == Role::Node)?;
    if let Some(path) = &mut declared.path_env {
        let mut end = path.len().min(NODE_PATH_MAX_BYTES);
        while !path.is_char_boundary(end) {
            end -= 1;
        }
        path.truncate(end);
    }
    let node_id = pass.id.clone();
    let registry = tenant.nodes();
    let older = {
        let mut state = registry.state.lock();
        let live = Live {
            conn: info.conn.clone(),
            sink,
            declared,
            connected_at_ms: info.connected_at_ms,
            tools: Vec::new(),
            skills: Vec::new(),
        };
        let older = state.live.insert(node_id.clone(), live);
        if let Some(older) = &older {
            state
                .invokes
                .disconnect(&older.conn, tenant.clock().monotonic_ms());
        }
        older
    };
    if let Some(older) = older {
        older
            .sink
            .close(Close::new(Close::POLICY, "this node connected anew"));
    }
    let version = cut(&info.client.version, DEVICE_TEXT_MAX_CHARS);
    let connected_at = info.connected_at_ms;
    let row = registry.saw(&node_id, tenant.now_ms(), true, |row| {
        row.version.clone_from(&version);
        row.connected_at = connected_at;
        row.seen_reason = "connect".to_owned();
    });
    write_seen(tenant, row);
    let (owner, id) = (tenant.clone(), node_id.clone());
    tenant.tasks().spawn(async move {
        if let Err(error) = offered(&owner, &id, &version).await {
            let text = format!("what node {id} offers could not be asked for: {error}");
            owner.log("ERROR", &text);
        }
    });
    Some(NodeGuard {
        tenant: tenant.clone(),
        node_id,
        conn: info.conn.clone(),
    })
}

/// A node connected: what it offers beyond its record becomes a request.
async fn offered(tenant: &Arc<Tenant>, node_id: &str, version: &str) -> Result<(), StoreError> {
    let _turn = tenant.devices().turn().await;
    let book = pair::loaded(tenant).await?;
    let now = tenant.now_ms();
    let declared = {
        let state = tenant.nodes().state.lock();
        state
            .live
            .get(node_id)
            .map(|live| live.declared.offer.clone())
    };
    let (Some(device), Some(declared)) = (book.node(node_id), declared) else {
        return Ok(());
    };
    let offer = declared.within_policy(platform(device), &tenant.settings().node_commands);
    let id = tenant.new_id();
    let Some(change) = book.offered(node_id, &offer, version, id, now) else {
        return Ok(());
    };
    let asks = matches!(change, Change::NodeRequest(_));
    let (next, _) = pair::commit(tenant, &book, vec![change], &Audit::default(), json!({})).await?;
    if let (true, Some(q)) = (asks, next.node_request_of(node_id)) {
        let view = request_view(&next, q);
        tenant
            .hub()
            .emit::<NodePairRequested>(&view, Routing::Everyone);
        tenant.log(
            "INFO",
            &format!(
                "node {node_id} offers {} commands that wait for an approval: gateway nodes approve {}",
                view.commands.len(),
                view.request_id
            ),
        );
    }
    Ok(())
}

/// Tells operators and the node itself what was decided.
fn resolved(tenant: &Tenant, request_id: &str, node_id: &str, decision: &str) {
    let payload = NodePairResolvedPayload {
        request_id: request_id.to_owned(),
        node_id: node_id.to_owned(),
        decision: decision.to_owned(),
        ts: tenant.now_ms(),
    };
    if let Some(event) = targeted::<NodePairResolved>(&payload) {
        tenant.nodes().tell(node_id, &event);
    }
    tenant
        .hub()
        .emit::<NodePairResolved>(&payload, Routing::Everyone);
}

/// Approves what a node offers. Gives the node.
pub(crate) async fn approve(
    tenant: &Arc<Tenant>,
    by: &Operator,
    request_id: &str,
) -> Result<String, Failed> {
    let object = json!({ "requestId": request_id });
    let (id, ceiling) = (request_id.to_owned(), by.ceiling);
    let (_, node_id) = pair::change(tenant, by, object, false, move |tenant, book, now| {
        book.approve_node(&id, ceiling, &tenant.settings().node_commands, now)
    })
    .await?;
    resolved(tenant, request_id, &node_id, "approved");
    Ok(node_id)
}

/// Turns down what a node offers. Gives the node.
pub(crate) async fn reject(
    tenant: &Arc<Tenant>,
    by: &Operator,
    request_id: &str,
) -> Result<String, Failed> {
    let object = json!({ "requestId": request_id });
    let id = request_id.to_owned();
    let (_, node_id) = pair::change(tenant, by, object, false, move |_, book, _| {
        book.reject_node(&id)
    })
    .await?;
    resolved(tenant, request_id, &node_id, "rejected");
    Ok(node_id)
}

/// Forgets a node.
pub(crate) async fn remove(
    tenant: &Arc<Tenant>,
    by: &Operator,
    node_id: &str,
) -> Result<(), Failed> {
    let object = json!({ "nodeId": node_id });
    let id = node_id.to_owned();
    pair::change(tenant, by, object, false, move |_, book, now| {
        Ok((book.remove_node(&id, now)?, ()))
    })
    .await?;
    {
        let mut state = tenant.nodes().state.lock();
        state.seen.remove(node_id);
        // Its socket is closed by itself; nobody has to wait for that.
        if let Some(conn) = state.live.get(node_id).map(|live| live.conn.clone()) {
            let now = tenant.clock().monotonic_ms();
            state.invokes.disconnect(&conn, now);
        }
    }
    resolved(tenant, "", node_id, "removed");
    Ok(())
}

/// The node is alive. Gives whether that was written.
pub(crate) async fn alive(
    tenant: &Tenant,
    node_id: &str,
    reason: Option<&str>,
) -> Result<bool, StoreError> {
    let reason = reason.map(|r| cut(r, NODE_REASON_MAX_CHARS));
    let row = tenant.nodes().saw(node_id, tenant.now_ms(), false, |row| {
        if let Some(reason) = reason {
            row.seen_reason = reason;
        }
    });
    match row {
        None => Ok(false),
        Some(row) => {
            tenant.db().write(move |w| w.put_node_seen(&row)).await?;
            Ok(true)
        }
    }
}

/// The node told the numbers of its machine.
pub(crate) fn host_stats(tenant: &Tenant, node_id: &str, mut stats: NodeHostStats) {
    let now = tenant.now_ms();
    stats.updated_at_ms = now;
    if let Some(load) = &mut stats.load_average {
        load.truncate(3);
    }
    let registry = tenant.nodes();
    let json = serde_json::to_string(&stats).ok();
    let row = registry.saw(node_id, now, false, |row| row.stats_json = json);
    write_seen(tenant, row);
    let tell = {
        let mut state = registry.state.lock();
        match state.seen.get_mut(node_id) {
            Some(seen) if now.saturating_sub(seen.stats_told_ms) >= NODE_STATS_STEP_MS => {
                seen.stats_told_ms = now;
                true
            }
            _ => false,
        }
    };
    if tell {
        tenant.hub().emit::<NodeHostStatsEvent>(
            &NodeHostStatsPayload {
                node_id: node_id.to_owned(),
                host_stats: stats,
            },
            Routing::Everyone,
        );
    }
}

/// What a connected node offers besides commands.
pub(crate) enum Extras {
    /// Tools of its plugins.
    Tools(Vec<Value>),
    /// Its skills.
    Skills(Vec<Value>),
}

/// Keeps it as long as the connection lasts.
pub(crate) fn offers_more(tenant: &Tenant, node_id: &str, conn: &ConnId, extras: Extras) {
    let mut state = tenant.nodes().state.lock();
    let live = state.live.get_mut(node_id).filter(|l| l.conn == *conn);
    if let Some(live) = live {
        match extras {
            Extras::Tools(tools) => live.tools = tools,
            Extras::Skills(skills) => live.skills = skills,
        }
    }
}

/// Operators hear that the node told anew what it could run.
pub(crate) fn inventory_changed(tenant: &Tenant, node_id: &str) {
    tenant.hub().emit::<NodeRunnerInventoryChanged>(
        &NodeChangedPayload {
            node_id: node_id.to_owned(),
        },
        Routing::Everyone,
    );
}
