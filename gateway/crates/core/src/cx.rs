//! What a handler knows about its call: the tenant and the caller, both decided before the handler runs.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use gateway_protocol::ids::ConnId;
use gateway_protocol::scope::ScopeSet;
use tokio_util::sync::CancellationToken;

use crate::tenant::Tenant;

pub use gateway_protocol::method::ConnRole as Role;

/// Reads the role that a `connect` names; none is operator, anything else is no role.
#[must_use]
pub fn parse_role(text: Option<&str>) -> Option<Role> {
    match text {
        None | Some("operator") => Some(Role::Operator),
        Some("node") => Some(Role::Node),
        Some(_) => None,
    }
}

/// The way a call came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Surface {
    /// WebSocket with v4 frames.
    V4,
    /// JSON-RPC over WebSocket.
    JsonRpcWs,
    /// JSON-RPC over POST.
    JsonRpcHttp,
    /// The OpenAI-compatible API.
    OpenAi,
    /// Other addresses for programs: tools, histories, the description of the addresses.
    Http,
    /// Inside the process (boot scripts, guests).
    Internal,
}

/// Caps that change what a connection is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Caps {
    /// `session-scoped-events`: run events only of subscribed sessions.
    pub session_scoped_events: bool,
    /// `tool-events`: tool streams inside `agent`.
    pub tool_events: bool,
}

impl Caps {
    /// Reads the names; unknown ones change nothing.
    pub fn parse<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> Self {
        let mut caps = Self::default();
        for name in names {
            match name.as_ref() {
                "session-scoped-events" => caps.session_scoped_events = true,
                "tool-events" => caps.tool_events = true,
                _ => {}
            }
        }
        caps
    }
}

/// How a client described itself; shown, never trusted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientInfo {
    /// `client.id`.
    pub id: String,
    /// `client.mode`.
    pub mode: String,
    /// `client.version`.
    pub version: String,
    /// `client.platform`.
    pub platform: String,
    /// `client.displayName`.
    pub display_name: Option<String>,
    /// `client.deviceFamily`.
    pub device_family: Option<String>,
    /// `client.instanceId`.
    pub instance_id: Option<String>,
}

/// Who calls. Built by the authenticator, the boot runner or a guest's host, never from params.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The connection, when there is one that can get events.
    pub conn: Option<ConnId>,
    /// Operator or node.
    pub role: Role,
    /// Scopes it holds.
    pub scopes: ScopeSet,
    /// The API key that it proved itself with, if it was one.
    pub key: Option<Arc<crate::auth::ApiKey>>,
    /// The paired device that it is, if it is one.
    pub device: Option<crate::pair::DevicePass>,
    /// Methods it is restricted to (boot scripts, guests); `None` for no restriction beyond the scopes.
    pub only_methods: Option<Arc<[Box<str>]>>,
    /// Its caps.
    pub caps: Caps,
    /// Its description of itself.
    pub client: ClientInfo,
    /// The way in.
    pub surface: Surface,
    /// Its address.
    pub ip: Option<IpAddr>,
    /// What let it in, by a name that says nothing about the secret; `None` inside of the process.
    pub credential: Option<Box<str>>,
}

impl Caller {
    /// The only agent that it may use; `None`: all of the tenant.
    #[must_use]
    pub fn agent(&self) -> Option<&str> {
        self.key.as_ref()?.agent().map(|id| &**id)
    }

    /// A caller inside the process with exactly these scopes and methods.
    #[must_use]
    pub fn internal(name: &str, scopes: ScopeSet, only_methods: Option<Arc<[Box<str>]>>) -> Self {
        Self {
            conn: None,
            role: Role::Operator,
            scopes,
            key: None,
            device: None,
            only_methods,
            caps: Caps::default(),
            client: ClientInfo {
                id: name.to_owned(),
                mode: "backend".to_owned(),
                ..ClientInfo::default()
            },
            surface: Surface::Internal,
            ip: None,
            credential: None,
        }
    }
}

/// Takes results that come before the final one (`agent` answers `accepted` first); must not block.
pub type InterimSink = Arc<dyn Fn(Bytes) + Send + Sync>;

/// The context of one call.
#[derive(Clone)]
pub struct Cx {
    /// The tenant; everything a handler may touch hangs on it.
    pub tenant: Arc<Tenant>,
    /// Who calls.
    pub caller: Arc<Caller>,
    /// Cancelled when the caller went away (a `Command` goes on all the same).
    pub cancel: CancellationToken,
    /// Where results before the final one go; `None` where the transport has no such thing.
    pub interim: Option<InterimSink>,
    /// W3C trace context of the caller, if it sent one.
    pub traceparent: Option<Box<str>>,
    /// Key by which a repeated call of an internal caller is recognised, where the params have no such field.
    pub idempotency: Option<Box<str>>,
    /// Where the call is written down; set by the dispatcher.
    pub audit: crate::audit::Audit,
}

impl Cx {
    /// The trace that the caller named.
    #[must_use]
    pub fn remote_trace(&self) -> Option<crate::trace::TraceParent> {
        crate::trace::TraceParent::parse(self.traceparent.as_deref()?)
    }

    /// A context without interim results and with a token of its own.
    #[must_use]
    pub fn new(tenant: Arc<Tenant>, caller: Arc<Caller>) -> Self {
        Self {
            tenant,
            caller,
            cancel: CancellationToken::new(),
            interim: None,
            traceparent: None,
            idempotency: None,
            audit: crate::audit::Audit::default(),
        }
    }
}

impl std::fmt::Debug for Cx {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Cx({}, {:?}, {:?})",
            self.tenant.slug(),
            self.caller.role,
            self.caller.surface
        )
    }
}
