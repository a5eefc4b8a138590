//! The event fan-out of one tenant: who is connected, what each may see, and the bytes of an event encoded once.
//!
//! There is one hub per tenant, so an event cannot reach another tenant's socket: the hub does not know it.
//! Inside the tenant the audience of the event type decides first (unknown types do not exist: events are typed),
//! then the subscriptions and caps of the connection.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use gateway_metrics::Counter;
use gateway_protocol::event::{self, Audience, Event};
use gateway_protocol::frame::{Close, StateVersion, event_head};
use gateway_protocol::ids::ConnId;
use gateway_protocol::scope::ScopeSet;
use parking_lot::{Mutex, RwLock};

use crate::auth::Proof;
use crate::cx::{Caps, ClientInfo, Role};
use crate::limits::{HUB_CONNECTIONS_MAX, HUB_KEYS_PER_CONNECTION_MAX};

/// An event ready for any number of connections.
#[derive(Debug)]
pub struct WireEvent {
    /// Event name.
    pub name: &'static str,
    /// The v4 frame without `seq` and closing brace; a connection appends `,"seq":N}`.
    pub head: Bytes,
    /// The payload alone (JSON), for the JSON-RPC notification.
    pub payload: Bytes,
    /// A connection that is behind may leave this event out instead of being closed.
    pub drop_if_slow: bool,
    /// For one connection alone: it takes no number.
    pub targeted: bool,
}

/// What became of an event for one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It waits to be written.
    Queued,
    /// The connection is behind, and the event may be left out.
    Dropped,
    /// The connection is behind: with this event it lost one that it may not lose.
    FellBehind,
    /// The connection is about to end anyway.
    Ending,
}

/// A connection's inbox for events. `push` is called with the hub's read lock held: it must not block and
/// must not call the hub.
pub trait EventSink: Send + Sync {
    /// Takes one event, or says why not.
    fn push(&self, ev: &Arc<WireEvent>) -> Pushed;
    /// Ends the connection: nothing that it sent and that has not begun is begun any more. The first reason counts.
    fn close(&self, close: Close);
}

/// What of an event a connection has to qualify for, beyond the audience of its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Routing<'a> {
    /// Everyone in the audience.
    Everyone,
    /// `agent` and `chat`: everyone, except connections with the cap `session-scoped-events` that did not subscribe this key.
    Run(&'a str),
    /// Like [`Routing::Run`], and only connections with the cap `tool-events`.
    RunTools(&'a str),
    /// `session.message`: connections that subscribed to this session's messages or to all sessions.
    SessionMessages(&'a str),
    /// `sessions.changed`: connections that subscribed to the list.
    SessionList(&'a str),
    /// Everyone but this connection.
    Except(&'a ConnId),
}

/// When a connection gets events at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventPolicy {
    /// From the start (v4).
    Always,
    /// Only after a subscription (JSON-RPC): those named in `rpc.subscribe`, those of sessions that it follows, and
    /// `shutdown`.
    AfterSubscribe,
}

/// The events that a connection asked for by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum Wanted {
    #[default]
    None,
    All,
    Named(BTreeSet<&'static str>),
}

impl Wanted {
    fn has(&self, name: &str) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Named(names) => names.contains(name),
        }
    }
}

/// What the hub knows about a connection; fixed for its life.
#[derive(Debug, Clone)]
pub struct ConnInfo {
    /// The connection's id.
    pub conn: ConnId,
    /// Operator or node.
    pub role: Role,
    /// What let it in.
    pub proof: Proof,
    /// The paired device that it is, if it is one: it ends with its token too.
    pub device: Option<crate::pair::DevicePass>,
    /// Scopes it was granted.
    pub scopes: ScopeSet,
    /// Its caps.
    pub caps: Caps,
    /// How it described itself.
    pub client: ClientInfo,
    /// Where it comes from; shown to operators of the same tenant.
    pub ip: Option<IpAddr>,
    /// When events begin.
    pub events: EventPolicy,
    /// When it connected (Unix epoch ms).
    pub connected_at_ms: i64,
}

struct Conn {
    info: ConnInfo,
    sink: Arc<dyn EventSink>,
    all_sessions: AtomicBool,
    keys: RwLock<BTreeSet<String>>,
    wanted: RwLock<Wanted>,
}

impl Conn {
    fn follows(&self, key: &str) -> bool {
        self.all_sessions.load(Ordering::Relaxed) || self.keys.read().contains(key)
    }

    fn wants(&self, name: &str, audience: Audience, routing: Routing<'_>) -> bool {
        if !audience.admits(self.info.role, self.info.scopes) {
            return false;
        }
        let by_routing = match routing {
            Routing::Everyone => true,
            Routing::Run(key) => !self.info.caps.session_scoped_events || self.follows(key),
            Routing::RunTools(key) => {
                self.info.caps.tool_events
                    && (!self.info.caps.session_scoped_events || self.follows(key))
            }
            Routing::SessionMessages(key) => self.follows(key),
            Routing::SessionList(_) => self.all_sessions.load(Ordering::Relaxed),
            Routing::Except(conn) => self.info.conn != *conn,
        };
        if !by_routing || self.info.events == EventPolicy::Always || name == "shutdown" {
            return by_routing;
        }
        match routing {
            Routing::Run(key) | Routing::RunTools(key) => {
                self.follows(key) || self.wanted.read().has(name)
            }
            // Its routing is a subscription already.
            Routing::SessionMessages(_) | Routing::SessionList(_) => true,
            Routing::Everyone | Routing::Except(_) => self.wanted.read().has(name),
        }
    }
}

#[derive(Default)]
struct Table {
    slots: Vec<Option<Arc<Conn>>>,
    free: Vec<usize>,
    by_id: HashMap<ConnId, usize>,
}

/// Why a connection was not taken or a subscription refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HubError {
    /// The tenant has [`HUB_CONNECTIONS_MAX`] connections.
    #[error("too many connections")]
    TooManyConnections,
    /// The connection follows [`HUB_KEYS_PER_CONNECTION_MAX`] sessions already.
    #[error("too many session subscriptions on this connection")]
    TooManyKeys,
    /// The connection is not registered (it went away, or has no event stream).
    #[error("this connection has no event stream")]
    NotConnected,
}

/// The hub of one tenant.
pub struct Hub {
    table: RwLock<Table>,
    presence: Arc<crate::presence::Presence>,
    delivered: AtomicU64,
    dropped: Counter,
    fell_behind: Counter,
    // Keeps the order of events the same for all connections of the tenant.
    order: Mutex<()>,
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hub({} connections)", self.connections())
    }
}

/// Keeps a connection registered; dropping it removes the connection and its presence.
#[derive(Debug)]
pub struct HubGuard {
    hub: Arc<Hub>,
    slot: usize,
    conn: ConnId,
}

impl Drop for HubGuard {
    fn drop(&mut self) {
        {
            let mut table = self.hub.table.write();
            if let Some(slot) = table.slots.get_mut(self.slot) {
                *slot = None;
            }
            table.free.push(self.slot);
            table.by_id.remove(&self.conn);
        }
        self.hub.presence.left(&self.conn);
    }
}

impl Hub {
    /// A hub without connections.
    #[must_use]
    pub fn new(presence: Arc<crate::presence::Presence>) -> Arc<Self> {
        Arc::new(Self {
            table: RwLock::default(),
            presence,
            delivered: AtomicU64::new(0),
            dropped: Counter::default(),
            fell_behind: Counter::default(),
            order: Mutex::new(()),
        })
    }

    /// Adds a connection. From the return on it gets events.
    ///
    /// # Errors
    /// [`HubError::TooManyConnections`].
    pub fn register(
        self: &Arc<Self>,
        info: ConnInfo,
        sink: Arc<dyn EventSink>,
    ) -> Result<HubGuard, HubError> {
        let conn_id = info.conn.clone();
        let slot = {
            let mut table = self.table.write();
            if table.by_id.len() >= HUB_CONNECTIONS_MAX {
                return Err(HubError::TooManyConnections);
            }
            self.presence.joined(&info);
            let conn = Some(Arc::new(Conn {
                info,
                sink,
                all_sessions: AtomicBool::new(false),
                keys: RwLock::default(),
                wanted: RwLock::default(),
            }));
            let slot = match table.free.pop() {
                Some(slot) => {
                    table.slots[slot] = conn;
                    slot
                }
                None => {
                    table.slots.push(conn);
                    table.slots.len() - 1
                }
            };
            table.by_id.insert(conn_id.clone(), slot);
            slot
        };
        Ok(HubGuard {
            hub: self.clone(),
            slot,
            conn: conn_id,
        })
    }

    fn find(&self, conn: &ConnId) -> Result<Arc<Conn>, HubError> {
        let table = self.table.read();
        table
            .by_id
            .get(conn)
            .and_then(|slot| table.slots.get(*slot))
            .and_then(Clone::clone)
            .ok_or(HubError::NotConnected)
    }

    /// The connection follows the session list and all sessions' messages.
    ///
    /// # Errors
    /// [`HubError::NotConnected`].
    pub fn subscribe_sessions(&self, conn: &ConnId, on: bool) -> Result<(), HubError> {
        self.find(conn)?.all_sessions.store(on, Ordering::Relaxed);
        Ok(())
    }

    /// The connection follows one session.
    ///
    /// # Errors
    /// [`HubError::NotConnected`] or [`HubError::TooManyKeys`].
    pub fn subscribe_messages(&self, conn: &ConnId, key: &str) -> Result<(), HubError> {
        let conn = self.find(conn)?;
        let mut keys = conn.keys.write();
        if keys.len() >= HUB_KEYS_PER_CONNECTION_MAX && !keys.contains(key) {
            return Err(HubError::TooManyKeys);
        }
        keys.insert(key.to_owned());
        Ok(())
    }

    /// The connection no longer follows one session.
    ///
    /// # Errors
    /// [`HubError::NotConnected`].
    pub fn unsubscribe_messages(&self, conn: &ConnId, key: &str) -> Result<(), HubError> {
        self.find(conn)?.keys.write().remove(key);
        Ok(())
    }

    /// The connection asks for (or no longer asks for) events by name; `None` means all. Names that no event has are
    /// left out. Gives the names that it now gets, as far as its scopes allow, sorted.
    ///
    /// # Errors
    /// [`HubError::NotConnected`].
    pub fn want_events(
        &self,
        conn: &ConnId,
        names: Option<&[String]>,
        on: bool,
    ) -> Result<Vec<String>, HubError> {
        let conn = self.find(conn)?;
        let known: BTreeSet<&'static str> = event::all().iter().map(|e| e.name).collect();
        let asked: BTreeSet<&'static str> = names.map_or_else(
            || known.clone(),
            |names| {
                known
                    .iter()
                    .copied()
                    .filter(|k| names.iter().any(|n| n == k))
                    .collect()
            },
        );
        let mut wanted = conn.wanted.write();
        let mut set = match &*wanted {
            Wanted::None => BTreeSet::new(),
            Wanted::All => known.clone(),
            Wanted::Named(set) => set.clone(),
        };
        if on {
            set.extend(asked);
        } else {
            set.retain(|n| !asked.contains(n));
        }
        *wanted = match set.len() {
            0 => Wanted::None,
            n if n == known.len() => Wanted::All,
            _ => Wanted::Named(set.clone()),
        };
        Ok(set
            .into_iter()
            .filter(|n| {
                event::find(n).is_some_and(|e| e.audience.admits(conn.info.role, conn.info.scopes))
            })
            .map(str::to_owned)
            .collect())
    }

    /// Tells each connection for which `which` says so to end. Gives their number; they leave the hub when they have ended.
    pub fn close_where(&self, close: &Close, mut which: impl FnMut(&ConnInfo) -> bool) -> usize {
        let table = self.table.read();
        let mut told = 0;
        for conn in table.slots.iter().flatten().filter(|c| which(&c.info)) {
            conn.sink.close(close.clone());
            told += 1;
        }
        told
    }

    /// Connections registered now.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.table.read().by_id.len()
    }

    /// Events given to connections since the start.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    /// Events left out because a connection was slow, since the start.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.get()
    }

    /// Connections that lost an event which they may not lose, since the start.
    #[must_use]
    pub fn fell_behind(&self) -> u64 {
        self.fell_behind.get()
    }

    /// Whether anybody is connected: without listeners an event need not be encoded.
    #[must_use]
    pub fn has_listeners(&self) -> bool {
        !self.table.read().by_id.is_empty()
    }

    /// Encodes a typed event once and gives it to everyone who may and wants to see it.
    pub fn emit<E: Event>(&self, payload: &E::Payload, routing: Routing<'_>) {
        if !self.has_listeners() {
            return;
        }
        match serde_json::to_vec(payload) {
            Ok(json) => self.emit_raw(E::NAME, E::AUDIENCE, &json, routing, E::DROP_IF_SLOW),
            Err(error) => tracing::error!(event = E::NAME, %error, "event not encoded"),
        }
    }

    /// As [`Hub::emit`] for a payload that is JSON already.
    pub fn emit_json<E: Event>(&self, payload_json: &[u8], routing: Routing<'_>) {
        if self.has_listeners() {
            self.emit_raw(E::NAME, E::AUDIENCE, payload_json, routing, E::DROP_IF_SLOW);
        }
    }

    fn emit_raw(
        &self,
        name: &'static str,
        audience: Audience,
        payload: &[u8],
        routing: Routing<'_>,
        drop_if_slow: bool,
    ) {
        let version = matches!(name, "presence" | "health").then(|| self.presence.state_version());
        let event = Arc::new(encode(name, payload, version, drop_if_slow));
        let _order = self.order.lock();
        let table = self.table.read();
        let mut count = 0;
        for conn in table.slots.iter().flatten() {
            if conn.wants(name, audience, routing) {
                match conn.sink.push(&event) {
                    Pushed::Queued => count += 1,
                    Pushed::Dropped => self.dropped.inc(),
                    Pushed::FellBehind => self.fell_behind.inc(),
                    Pushed::Ending => {}
                }
            }
        }
        self.delivered.fetch_add(count, Ordering::Relaxed);
    }

    /// Gives one connection an event that is for it alone. `false`: it is gone, or behind.
    pub fn push_to(&self, conn: &ConnId, event: &Arc<WireEvent>) -> bool {
        let pushed = self.find(conn).map(|conn| conn.sink.push(event));
        if pushed == Ok(Pushed::Queued) {
            self.delivered.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        false
    }

    /// The connections as presence shows them, with the scopes each holds; for tests and diagnostics.
    pub fn for_each(&self, mut f: impl FnMut(&ConnInfo)) {
        for conn in self.table.read().slots.iter().flatten() {
            f(&conn.info);
        }
    }
}

/// Builds the shared bytes of an event; `version` is `(presence, health)`.
#[must_use]
pub fn encode(
    name: &'static str,
    payload: &[u8],
    version: Option<(u64, u64)>,
    drop_if_slow: bool,
) -> WireEvent {
    let version = version.map(|(presence, health)| StateVersion { presence, health });
    let head = Bytes::from(event_head(name, payload, version));
    // The payload stands behind the name; it is shared with the frame, not copied.
    let start = head
        .windows(PAYLOAD_KEY.len())
        .position(|w| w == PAYLOAD_KEY)
        .map_or(head.len(), |at| at + PAYLOAD_KEY.len());
    WireEvent {
        name,
        payload: head.slice(start..(start + payload.len()).min(head.len())),
        head,
        drop_if_slow,
        targeted: false,
    }
}

/// An event for one connection alone; `None` where its payload is no JSON.
pub(crate) fn targeted<E: Event>(payload: &E::Payload) -> Option<Arc<WireEvent>> {
    match serde_json::to_vec(payload) {
        Ok(json) => Some(Arc::new(WireEvent {
            targeted: true,
            ..encode(E::NAME, &json, None, E::DROP_IF_SLOW)
        })),
        Err(error) => {
            tracing::error!(event = E::NAME, %error, "event not encoded");
            None
        }
    }
}

const PAYLOAD_KEY: &[u8] = br#","payload":"#;
