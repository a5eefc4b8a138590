//! The second step for nodes: a device in the role node is let in by its token, and what it offers is approved as a record. Part
//! of the [`Book`], so that a device that ends takes its record along in the same transaction.

use std::collections::BTreeMap;
use std::sync::Arc;

use gateway_config::NodeCommandSettings;
use gateway_protocol::scope::ScopeSet;
use gateway_store::{NodeRequestRow, NodeRow};

use super::book::{Book, Change, Device, Refusal};
use crate::cx::Role;
use crate::node::policy::{Platform, approve_scopes};
use crate::node::surface::Offer;

/// What was approved of a node.
#[derive(Debug, Clone)]
pub struct Record {
    /// What is kept of it.
    pub row: NodeRow,
    /// What may be called.
    pub offer: Offer,
}

/// What a node offers beyond its record.
#[derive(Debug, Clone)]
pub struct NodeRequest {
    /// What is kept of it.
    pub row: NodeRequestRow,
    /// What it offers.
    pub offer: Offer,
}

/// Records and requests of nodes.
#[derive(Debug, Clone, Default)]
pub(super) struct Records {
    /// By node.
    approved: BTreeMap<String, Arc<Record>>,
    /// By node: there is one request of each.
    waiting: BTreeMap<String, Arc<NodeRequest>>,
}

impl Records {
    pub(super) fn put(&mut self, row: &NodeRow) {
        let offer = Offer::from_json(&row.surface_json);
        let row = row.clone();
        self.approved
            .insert(row.id.clone(), Arc::new(Record { row, offer }));
    }

    pub(super) fn forget(&mut self, id: &str) {
        self.approved.remove(id);
        self.waiting.remove(id);
    }

    pub(super) fn ask(&mut self, row: &NodeRequestRow) {
        let offer = Offer::from_json(&row.surface_json);
        let row = row.clone();
        self.waiting
            .insert(row.node_id.clone(), Arc::new(NodeRequest { row, offer }));
    }

    pub(super) fn decided(&mut self, request_id: &str) {
        self.waiting.retain(|_, q| q.row.id != request_id);
    }
}

/// The platform with which a device was approved.
#[must_use]
pub fn platform(device: &Device) -> Platform {
    Platform::of(&device.row.platform)
}

impl Book {
    /// The device of this id, if it may connect as a node.
    #[must_use]
    pub fn node(&self, id: &str) -> Option<&Arc<Device>> {
        self.device(id).filter(|d| d.token(Role::Node).is_some())
    }

    /// The devices that may connect as nodes, by id.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Device>> {
        self.devices().filter(|d| d.token(Role::Node).is_some())
    }

    /// What was approved of a node that may connect.
    #[must_use]
    pub fn record(&self, id: &str) -> Option<&Arc<Record>> {
        self.node(id)?;
        self.records.approved.get(id)
    }

    /// What a node that may connect offers beyond its record.
    #[must_use]
    pub fn node_request_of(&self, id: &str) -> Option<&Arc<NodeRequest>> {
        self.node(id)?;
        self.records.waiting.get(id)
    }

    /// Requests of nodes that may connect.
    pub fn node_requests(&self) -> impl Iterator<Item = &Arc<NodeRequest>> {
        self.records
            .waiting
            .values()
            .filter(|q| self.node(&q.row.node_id).is_some())
    }

    fn node_request(&self, request_id: &str) -> Result<&Arc<NodeRequest>, Refusal> {
        self.node_requests()
            .find(|q| q.row.id == request_id)
            .ok_or(Refusal::NoRequest)
    }

    /// What is to be written when a node connects and offers this: a request, if it is more than was approved and was not asked for
    /// already; the end of a request that asks for nothing new. `offer` is what the policy leaves of what the node declares.
    #[must_use]
    pub fn offered(
        &self,
        node_id: &str,
        offer: &Offer,
        version: &str,
        id: String,
        now_ms: i64,
    ) -> Option<Change> {
        self.node(node_id)?;
        let nothing = Offer::default();
        let approved = self.record(node_id).map_or(&nothing, |r| &r.offer);
        let waiting = self.node_request_of(node_id);
        if offer.is_within(approved) {
            return waiting.map(|q| Change::NodeDecided(q.row.id.clone()));
        }
        if waiting.is_some_and(|q| q.offer == *offer) {
            return None;
        }
        Some(Change::NodeRequest(NodeRequestRow {
            id,
            node_id: node_id.to_owned(),
            surface_json: offer.to_json(),
            version: version.to_owned(),
            created_at: now_ms,
        }))
    }

    /// Approves what a node offers: from then on the record is what the request says, without what the settings no longer allow.
    /// Whoever approves has every scope that it takes. Gives the node.
    ///
    /// # Errors
    /// [`Refusal::NoRequest`], [`Refusal::Beyond`].
    pub fn approve_node(
        &self,
        request_id: &str,
        ceiling: ScopeSet,
        settings: &NodeCommandSettings,
        now_ms: i64,
    ) -> Result<(Vec<Change>, String), Refusal> {
        let q = self.node_request(request_id)?;
        let id = &q.row.node_id;
        let device = self.node(id).ok_or(Refusal::NoRequest)?;
        let commands = q.offer.commands.iter().map(String::as_str);
        for scope in approve_scopes(commands) {
            if !ceiling.allows(scope) {
                return Err(Refusal::Beyond(scope));
            }
        }
        let offer = q.offer.within_policy(platform(device), settings);
        let row = NodeRow {
            id: id.clone(),
            surface_json: offer.to_json(),
            created_at: self.record(id).map_or(now_ms, |r| r.row.created_at),
            approved_at: now_ms,
        };
        let decided = Change::NodeDecided(q.row.id.clone());
        Ok((vec![Change::Node(row), decided], id.clone()))
    }

    /// Turns down what a node offers. Gives the node.
    ///
    /// # Errors
    /// [`Refusal::NoRequest`].
    pub fn reject_node(&self, request_id: &str) -> Result<(Vec<Change>, String), Refusal> {
        let q = self.node_request(request_id)?;
        let decided = Change::NodeDecided(q.row.id.clone());
        Ok((vec![decided], q.row.node_id.clone()))
    }

    /// Forgets a node: its record and its token in this role, and the device too if it has no other role.
    ///
    /// # Errors
    /// [`Refusal::NoDevice`].
    pub fn remove_node(&self, id: &str, now_ms: i64) -> Result<Vec<Change>, Refusal> {
        let device = self.node(id).ok_or(Refusal::NoDevice)?;
        if device.roles().any(|role| role != Role::Node) {
            self.revoke(id, Role::Node, now_ms)
        } else {
            self.remove(id)
        }
    }
}
