//! Nodes as operators see them.

use std::sync::Arc;

use gateway_protocol::methods::nodes::{ApprovedNodeView, NodeRequestView, NodeView};

use super::NodeRegistry;
use super::policy::approve_scopes;
use super::surface::Offer;
use crate::pair::book::{Book, Device};
use crate::pair::record::{NodeRequest, Record, platform};
use crate::tenant::Tenant;

fn name(device: &Device) -> Option<String> {
    let row = &device.row;
    row.label.clone().or_else(|| row.display_name.clone())
}

/// A request. Also the payload of its event.
pub(crate) fn request_view(book: &Book, q: &NodeRequest) -> NodeRequestView {
    let device = book.node(&q.row.node_id);
    let row = device.map(|d| &d.row);
    NodeRequestView {
        request_id: q.row.id.clone(),
        node_id: q.row.node_id.clone(),
        client_id: row.map(|r| r.client_id.clone()).unwrap_or_default(),
        client_mode: row.map(|r| r.client_mode.clone()).unwrap_or_default(),
        display_name: device.and_then(|d| name(d)),
        platform: row.map(|r| r.platform.clone()).unwrap_or_default(),
        version: q.row.version.clone(),
        device_family: row.and_then(|r| r.device_family.clone()),
        caps: q.offer.caps.clone(),
        commands: q.offer.commands.clone(),
        required_approve_scopes: approve_scopes(q.offer.commands.iter().map(String::as_str))
            .into_iter()
            .map(|scope| scope.as_str().to_owned())
            .collect(),
        permissions: q.offer.shown_permissions(),
        silent: false,
        ts: q.row.created_at,
    }
}

/// What was approved of a node.
pub(crate) fn approved_view(
    registry: &NodeRegistry,
    device: &Device,
    record: &Record,
) -> ApprovedNodeView {
    let state = registry.state.lock();
    let seen = state.seen.get(&device.row.id).map(|seen| &seen.row);
    ApprovedNodeView {
        node_id: device.row.id.clone(),
        client_id: device.row.client_id.clone(),
        client_mode: device.row.client_mode.clone(),
        display_name: name(device),
        platform: device.row.platform.clone(),
        version: seen.map(|s| s.version.clone()),
        device_family: device.row.device_family.clone(),
        caps: record.offer.caps.clone(),
        commands: record.offer.commands.clone(),
        permissions: record.offer.shown_permissions(),
        created_at_ms: record.row.created_at,
        approved_at_ms: record.row.approved_at,
        last_seen_at_ms: seen.map(|s| s.seen_at),
        last_seen_reason: seen.map(|s| s.seen_reason.clone()),
    }
}

/// A node.
pub(crate) fn node_view(tenant: &Tenant, book: &Book, device: &Arc<Device>) -> NodeView {
    let id = device.row.id.as_str();
    let record = book.record(id);
    let request = book.node_request_of(id);
    let state = tenant.nodes().state.lock();
    let live = state.live.get(id);
    let seen = state.seen.get(id).map(|seen| &seen.row);
    let offer = record.map(|r| {
        let allowed = r
            .offer
            .within_policy(platform(device), &tenant.settings().node_commands);
        live.map_or_else(|| allowed.clone(), |l| allowed.and(&l.declared.offer))
    });
    let shown = offer.unwrap_or_default();
    let extras = live.filter(|_| record.is_some());
    let waiting = |f: fn(&Offer) -> Vec<String>| request.map(|q| f(&q.offer));
    NodeView {
        node_id: id.to_owned(),
        display_name: name(device),
        platform: device.row.platform.clone(),
        version: seen.map(|s| s.version.clone()),
        client_id: device.row.client_id.clone(),
        client_mode: device.row.client_mode.clone(),
        device_family: device.row.device_family.clone(),
        caps: shown.sorted_caps(),
        commands: shown.sorted_commands(),
        session_host: false,
        node_plugin_tools: extras.map(|l| l.tools.clone()),
        node_skills: extras
            .filter(|l| !l.skills.is_empty())
            .map(|l| l.skills.clone()),
        host_stats: seen
            .and_then(|s| s.stats_json.as_deref())
            .and_then(|text| serde_json::from_str(text).ok()),
        permissions: shown.shown_permissions(),
        path_env: live.and_then(|l| l.declared.path_env.clone()),
        approval_state: match (record, request) {
            (Some(_), None) => "approved",
            (Some(_), Some(_)) => "pending-reapproval",
            (None, Some(_)) => "pending-approval",
            (None, None) => "unapproved",
        }
        .to_owned(),
        pending_request_id: request.map(|q| q.row.id.clone()),
        pending_declared_caps: waiting(Offer::sorted_caps),
        pending_declared_commands: waiting(Offer::sorted_commands),
        pending_declared_permissions: request.and_then(|q| q.offer.shown_permissions()),
        connected_at_ms: live.map(|l| l.connected_at_ms),
        last_connected_at_ms: seen.map(|s| s.connected_at),
        last_seen_at_ms: seen.map(|s| s.seen_at).or_else(|| device.last_seen_ms()),
        last_seen_reason: seen.map(|s| s.seen_reason.clone()),
        approved_at_ms: record.map_or(device.row.approved_at, |r| r.row.approved_at),
        paired: true,
        connected: live.is_some(),
    }
}
