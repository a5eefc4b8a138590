//! What was approved of nodes, what they offer beyond it, when they were seen, and what waits for them.

use super::{Read, Write};
use crate::limits::{
    MAX_NODE_PENDING_BYTES, MAX_NODE_PENDING_PER_NODE, MAX_NODE_PENDING_PER_TENANT,
};
use crate::{NodePendingRow, NodeRequestRow, NodeRow, NodeSeenRow, Result, StoreError};
use rusqlite::{Row, params};

const PENDING: &str = "id, node_id, kind, high, command, params, created_at, expires_at";

fn pending(r: &Row<'_>) -> rusqlite::Result<NodePendingRow> {
    Ok(NodePendingRow {
        id: r.get(0)?,
        node_id: r.get(1)?,
        kind: r.get(2)?,
        high: r.get(3)?,
        command: r.get(4)?,
        params: r.get(5)?,
        created_at: r.get(6)?,
        expires_at: r.get(7)?,
    })
}

impl Read<'_> {
    /// What was approved; at most one row per device.
    pub fn nodes(&self) -> Result<Vec<NodeRow>> {
        self.all(
            "SELECT id, surface, created_at, approved_at FROM nodes ORDER BY id",
            [],
            |r| {
                Ok(NodeRow {
                    id: r.get(0)?,
                    surface_json: r.get(1)?,
                    created_at: r.get(2)?,
                    approved_at: r.get(3)?,
                })
            },
        )
    }

    /// What nodes offer beyond that; at most one row per device.
    pub fn node_requests(&self) -> Result<Vec<NodeRequestRow>> {
        self.all(
            "SELECT id, node_id, surface, version, created_at FROM node_requests ORDER BY created_at, id",
            [],
            |r| {
                Ok(NodeRequestRow {
                    id: r.get(0)?,
                    node_id: r.get(1)?,
                    surface_json: r.get(2)?,
                    version: r.get(3)?,
                    created_at: r.get(4)?,
                })
            },
        )
    }

    /// When nodes were seen; at most one row per device.
    pub fn nodes_seen(&self) -> Result<Vec<NodeSeenRow>> {
        self.all(
            "SELECT id, version, connected_at, seen_at, seen_reason, stats FROM node_seen ORDER BY id",
            [],
            |r| {
                Ok(NodeSeenRow {
                    id: r.get(0)?,
                    version: r.get(1)?,
                    connected_at: r.get(2)?,
                    seen_at: r.get(3)?,
                    seen_reason: r.get(4)?,
                    stats_json: r.get(5)?,
                })
            },
        )
    }

    /// What waits for a node and has not run out: questions (`calls` false) or calls of commands; those with high priority first,
    /// then the oldest.
    pub fn node_pending(
        &self,
        node_id: &str,
        calls: bool,
        now_ms: i64,
    ) -> Result<Vec<NodePendingRow>> {
        self.all(
            &format!(
                "SELECT {PENDING} FROM node_pending WHERE node_id = ?1 AND (command IS NOT NULL) = ?2 AND expires_at > ?3
                 ORDER BY high DESC, created_at, id"
            ),
            params![node_id, calls, now_ms],
            pending,
        )
    }

    /// What waits under this id, run out or not.
    pub fn node_pending_by_id(&self, id: &str) -> Result<Option<NodePendingRow>> {
        self.one(
            &format!("SELECT {PENDING} FROM node_pending WHERE id = ?1"),
            [id],
            pending,
        )
    }
}

impl Write<'_> {
    /// Keeps what was approved of a node.
    pub fn put_node(&mut self, n: &NodeRow) -> Result<()> {
        self.exec(
            "INSERT INTO nodes (id, surface, created_at, approved_at) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (id) DO UPDATE SET surface = ?2, approved_at = ?4",
            params![n.id, n.surface_json, n.created_at, n.approved_at],
        )?;
        Ok(())
    }

    /// Forgets what was approved of a node, what it offers and what waits for it. When it was seen stays with its device.
    pub fn remove_node(&mut self, id: &str) -> Result<()> {
        self.exec("DELETE FROM nodes WHERE id = ?1", [id])?;
        self.exec("DELETE FROM node_requests WHERE node_id = ?1", [id])?;
        self.exec("DELETE FROM node_pending WHERE node_id = ?1", [id])?;
        Ok(())
    }

    /// The rest of what is kept of a node, with its device.
    pub(super) fn remove_node_of_device(&mut self, id: &str) -> Result<()> {
        self.remove_node(id)?;
        self.exec("DELETE FROM node_seen WHERE id = ?1", [id])?;
        self.exec("DELETE FROM node_revisions WHERE node_id = ?1", [id])?;
        Ok(())
    }

    /// Keeps what a node offers, in the place of an older request of it.
    pub fn put_node_request(&mut self, q: &NodeRequestRow) -> Result<()> {
        self.exec("DELETE FROM node_requests WHERE node_id = ?1", [&q.node_id])?;
        self.exec(
            "INSERT INTO node_requests (id, node_id, surface, version, created_at) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![q.id, q.node_id, q.surface_json, q.version, q.created_at],
        )?;
        Ok(())
    }

    /// Takes a request away. `false`: there was none.
    pub fn remove_node_request(&mut self, id: &str) -> Result<bool> {
        Ok(self.exec("DELETE FROM node_requests WHERE id = ?1", [id])? > 0)
    }

    /// Notes when a node was seen. Of one whose device is forgotten nothing is kept.
    pub fn put_node_seen(&mut self, s: &NodeSeenRow) -> Result<()> {
        self.exec(
            "INSERT INTO node_seen (id, version, connected_at, seen_at, seen_reason, stats)
             SELECT ?1, ?2, ?3, ?4, ?5, ?6 WHERE EXISTS (SELECT 1 FROM devices WHERE id = ?1)
             ON CONFLICT (id) DO UPDATE SET version = ?2, connected_at = ?3, seen_at = ?4, seen_reason = ?5, stats = ?6",
            params![s.id, s.version, s.connected_at, s.seen_at, s.seen_reason, s.stats_json],
        )?;
        Ok(())
    }

    /// Something waits for a node. A question takes the place of an older one of its kind. What ran out makes room; one too many is
    /// [`StoreError::Limit`]. Gives the revision.
    pub fn put_node_pending(&mut self, p: &NodePendingRow, now_ms: i64) -> Result<i64> {
        if p.params.as_ref().map_or(0, String::len) > MAX_NODE_PENDING_BYTES {
            return Err(StoreError::Limit("MAX_NODE_PENDING_BYTES"));
        }
        self.exec("DELETE FROM node_pending WHERE expires_at <= ?1", [now_ms])?;
        if p.command.is_none() {
            self.exec(
                "DELETE FROM node_pending WHERE node_id = ?1 AND kind = ?2 AND command IS NULL",
                [&p.node_id, &p.kind],
            )?;
        }
        let (all, here): (i64, i64) = self
            .one(
                "SELECT COUNT(*), COALESCE(SUM(node_id = ?1), 0) FROM node_pending",
                [&p.node_id],
                |r| Ok((r.get(0)?, r.get(1)?)),
            )?
            .unwrap_or((0, 0));
        if all >= MAX_NODE_PENDING_PER_TENANT {
            return Err(StoreError::Limit("MAX_NODE_PENDING_PER_TENANT"));
        }
        if here >= MAX_NODE_PENDING_PER_NODE {
            return Err(StoreError::Limit("MAX_NODE_PENDING_PER_NODE"));
        }
        self.exec(
            &format!(
                "INSERT INTO node_pending ({PENDING}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)"
            ),
            params![
                p.id,
                p.node_id,
                p.kind,
                p.high,
                p.command,
                p.params,
                p.created_at,
                p.expires_at
            ],
        )?;
        self.node_revised(&p.node_id)
    }

    /// Takes what waits for a node away, if it does. Gives what was there and the revision.
    pub fn take_node_pending(
        &mut self,
        node_id: &str,
        ids: &[String],
    ) -> Result<(Vec<String>, i64)> {
        let mut taken = Vec::new();
        for id in ids {
            let gone = self.exec(
                "DELETE FROM node_pending WHERE id = ?1 AND node_id = ?2",
                [id.as_str(), node_id],
            )?;
            if gone > 0 {
                taken.push(id.clone());
            }
        }
        let revision = if taken.is_empty() {
            self.one(
                "SELECT revision FROM node_revisions WHERE node_id = ?1",
                [node_id],
                |r| r.get(0),
            )?
            .unwrap_or(0)
        } else {
            self.node_revised(node_id)?
        };
        Ok((taken, revision))
    }

    fn node_revised(&mut self, node_id: &str) -> Result<i64> {
        self.exec(
            "INSERT INTO node_revisions (node_id, revision) VALUES (?1, 1)
             ON CONFLICT (node_id) DO UPDATE SET revision = revision + 1",
            [node_id],
        )?;
        Ok(self
            .one(
                "SELECT revision FROM node_revisions WHERE node_id = ?1",
                [node_id],
                |r| r.get(0),
            )?
            .unwrap_or(0))
    }
}
