//! Who is connected, as operators of the tenant see it: a versioned list whose JSON is put together from parts
//! encoded once, when it is asked for after a change.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use gateway_protocol::ids::ConnId;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::cx::Role;
use crate::hub::ConnInfo;
use crate::limits::PRESENCE_SHOWN_MAX;

struct State {
    /// By order of arrival.
    entries: BTreeMap<u64, (ConnId, Box<[u8]>)>,
    next: u64,
    slots: std::collections::HashMap<ConnId, u64>,
    encoded: Option<(u64, Bytes)>,
}

/// The presence of one tenant.
pub struct Presence {
    own: Box<[u8]>,
    state: Mutex<State>,
    version: AtomicU64,
    health_version: Arc<AtomicU64>,
    changed: Notify,
}

impl std::fmt::Debug for Presence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Presence(v{})", self.version())
    }
}

impl Presence {
    /// Shows just the gateway itself, since `now_ms` (Unix epoch ms).
    #[must_use]
    pub fn new(now_ms: i64, version: &str, instance: &str, health_version: Arc<AtomicU64>) -> Self {
        let own = serde_json::json!({
            "host": "gateway", "version": version, "platform": std::env::consts::OS, "mode": "gateway",
            "reason": "self", "instanceId": instance, "ts": now_ms,
            "text": format!("Gateway: app {version} · mode gateway · reason self"),
        });
        Self {
            own: own.to_string().into_bytes().into(),
            state: Mutex::new(State {
                entries: BTreeMap::new(),
                next: 0,
                slots: std::collections::HashMap::new(),
                encoded: None,
            }),
            version: AtomicU64::new(1),
            health_version,
            changed: Notify::new(),
        }
    }

    /// Increases with each change.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// `(presence, health)` as events and hello-ok carry it.
    #[must_use]
    pub fn state_version(&self) -> (u64, u64) {
        (
            self.version.load(Ordering::Acquire),
            self.health_version.load(Ordering::Acquire),
        )
    }

    /// Waits for the next change.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    pub(crate) fn joined(&self, info: &ConnInfo) {
        let c = &info.client;
        let name = c.display_name.as_deref().unwrap_or(&c.id);
        let mut entry = serde_json::json!({
            "host": name, "version": c.version, "platform": c.platform, "mode": c.mode,
            "reason": "connect", "clientId": c.id, "roles": [info.role.as_str()],
            "scopes": info.scopes.iter().map(gateway_protocol::scope::Scope::as_str).collect::<Vec<_>>(),
            "onlineSince": info.connected_at_ms, "ts": info.connected_at_ms,
            "text": format!("{}: {name} · mode {}", if info.role == Role::Node { "Node" } else { "Client" }, c.mode),
        });
        if let Some(map) = entry.as_object_mut() {
            for (key, value) in [
                ("deviceFamily", &c.device_family),
                ("instanceId", &c.instance_id),
            ] {
                if let Some(v) = value {
                    map.insert(key.to_owned(), v.clone().into());
                }
            }
            if let Some(pass) = &info.device {
                map.insert("deviceId".to_owned(), (*pass.id).into());
            }
            if let Some(ip) = info.ip {
                map.insert("ip".to_owned(), ip.to_string().into());
            }
        }
        let bytes: Box<[u8]> = entry.to_string().into_bytes().into();
        let mut state = self.state.lock();
        let at = state.next;
        state.next += 1;
        state.slots.insert(info.conn.clone(), at);
        state.entries.insert(at, (info.conn.clone(), bytes));
        self.touched();
    }

    pub(crate) fn left(&self, conn: &ConnId) {
        let mut state = self.state.lock();
        if let Some(at) = state.slots.remove(conn) {
            state.entries.remove(&at);
        }
        self.touched();
    }

    fn touched(&self) {
        self.version.fetch_add(1, Ordering::AcqRel);
        self.changed.notify_one();
    }

    /// The list as JSON (`[PresenceEntry]`), current: the gateway first, then the newest connections.
    #[must_use]
    pub fn encoded(&self) -> Bytes {
        let mut state = self.state.lock();
        let version = self.version.load(Ordering::Acquire);
        if let Some((at, bytes)) = &state.encoded
            && *at == version
        {
            return bytes.clone();
        }
        let mut out = Vec::with_capacity(256 * (state.entries.len().min(PRESENCE_SHOWN_MAX) + 1));
        out.push(b'[');
        out.extend_from_slice(&self.own);
        for (_, entry) in state.entries.values().rev().take(PRESENCE_SHOWN_MAX) {
            out.push(b',');
            out.extend_from_slice(entry);
        }
        out.push(b']');
        let bytes = Bytes::from(out);
        state.encoded = Some((version, bytes.clone()));
        bytes
    }

    /// Sends the `presence` event.
    pub(crate) fn announce(&self, hub: &crate::hub::Hub) {
        if !hub.has_listeners() {
            return;
        }
        let list = self.encoded();
        let mut payload = Vec::with_capacity(list.len() + 16);
        payload.extend_from_slice(br#"{"presence":"#);
        payload.extend_from_slice(&list);
        payload.push(b'}');
        hub.emit_json::<gateway_protocol::event::Presence>(&payload, crate::hub::Routing::Everyone);
    }

    /// Connections shown or counted.
    #[must_use]
    pub fn count(&self) -> usize {
        self.state.lock().entries.len()
    }
}
