//! Events: what they are called, what they carry, and who may receive them. What is not listed goes to nobody.

use schemars::{JsonSchema, Schema};
use serde::Serialize;
use serde_json::Value;

use crate::content::ChatMessage;
use crate::error::DetailCode;
use crate::method::ConnRole;
use crate::methods::cron::CronEventPayload;
use crate::methods::devices::{
    DevicePairChangedPayload, DevicePairResolvedPayload, DeviceRequestView,
};
use crate::methods::heartbeat::HeartbeatPayload;
use crate::methods::nodes::{
    NodeChangedPayload, NodeHostStatsPayload, NodeInvokeCancelPayload, NodeInvokeProgressPayload,
    NodeInvokeRequestPayload, NodePairResolvedPayload, NodeRequestView,
};
use crate::methods::sessions::SessionRow;
use crate::methods::system::{HealthSnapshot, PresenceEntry};
use crate::scope::{Scope, ScopeSet};

/// Who may receive an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Every authenticated connection of the tenant, nodes too.
    Any,
    /// Operators with this scope.
    Scope(Scope),
    /// Only the connection that it is addressed to; it carries no sequence number.
    Targeted,
}

impl Audience {
    /// Whether a broadcast may go to a connection. Targeted events are never broadcast.
    pub fn admits(self, role: ConnRole, scopes: ScopeSet) -> bool {
        match self {
            Audience::Any => true,
            Audience::Scope(scope) => role == ConnRole::Operator && scopes.allows(scope),
            Audience::Targeted => false,
        }
    }
}

/// An event of the registry.
pub trait Event: Send + Sync + 'static {
    /// Name on the wire.
    const NAME: &'static str;
    /// Who may receive it.
    const AUDIENCE: Audience;
    /// Whether it may be skipped for a connection that reads too slowly. The others close such a connection.
    const DROP_IF_SLOW: bool;
    /// What it carries.
    type Payload: Serialize + JsonSchema + Send;
    /// The row of this event in the registry.
    const SPEC: &'static EventSpec;
}

/// An event as data.
#[derive(Debug)]
pub struct EventSpec {
    /// Name on the wire.
    pub name: &'static str,
    /// One sentence.
    pub doc: &'static str,
    /// Who may receive it.
    pub audience: Audience,
    /// Whether it may be skipped for a connection that reads too slowly.
    pub drop_if_slow: bool,
    /// Schema of the payload.
    pub payload_schema: fn() -> Schema,
}

macro_rules! events {
    ($( $(#[doc = $doc:literal])+ $marker:ident = $name:literal, $audience:expr, $slow:ident, $payload:ty; )*) => {
        $(
            $(#[doc = $doc])+
            #[derive(Clone, Copy, Debug)]
            pub struct $marker;
            impl Event for $marker {
                const NAME: &'static str = $name;
                const AUDIENCE: Audience = $audience;
                const DROP_IF_SLOW: bool = events!(@slow $slow);
                type Payload = $payload;
                const SPEC: &'static EventSpec = &EventSpec {
                    name: $name,
                    doc: concat!($($doc),+).trim_ascii(),
                    audience: $audience,
                    drop_if_slow: events!(@slow $slow),
                    payload_schema: crate::method::schema_of::<$payload>,
                };
            }
        )*
        static ALL: &[&EventSpec] = &[$( $marker::SPEC, )*];
    };
    (@slow keep) => { false };
    (@slow skip) => { true };
}

events! {
    /// Progress of a run, for programs: lifecycle, text, tools, usage.
    Agent = "agent", Audience::Scope(Scope::Read), keep, AgentEvent;
    /// Progress of a run, for people: status, delta, and one of final, aborted, error.
    Chat = "chat", Audience::Scope(Scope::Read), keep, ChatEvent;
    /// A changed configuration is in force.
    ConfigChanged = "config.changed", Audience::Scope(Scope::Read), keep, ConfigChangedPayload;
    /// First frame of a v4 socket: the nonce that a device identity signs.
    ConnectChallenge = "connect.challenge", Audience::Targeted, keep, ChallengePayload;
    /// A job was made, changed, deleted, began or ended.
    Cron = "cron", Audience::Scope(Scope::Read), keep, CronEventPayload;
    /// The list of devices changed in some other way than by a request.
    DevicePairChanged = "device.pair.changed", Audience::Scope(Scope::Pairing), skip, DevicePairChangedPayload;
    /// A device asks to be let in.
    DevicePairRequested = "device.pair.requested", Audience::Scope(Scope::Pairing), keep, DeviceRequestView;
    /// A request of a device was decided.
    DevicePairResolved = "device.pair.resolved", Audience::Scope(Scope::Pairing), keep, DevicePairResolvedPayload;
    /// A new health snapshot.
    Health = "health", Audience::Any, skip, HealthSnapshot;
    /// A heartbeat ran or was skipped.
    Heartbeat = "heartbeat", Audience::Scope(Scope::Read), keep, HeartbeatPayload;
    /// A node told the numbers of its machine.
    NodeHostStats = "node.hostStats", Audience::Scope(Scope::Read), skip, NodeHostStatsPayload;
    /// To a node: nobody waits for the answer of a call any more.
    NodeInvokeCancel = "node.invoke.cancel", Audience::Targeted, keep, NodeInvokeCancelPayload;
    /// To the caller who asked for it: a piece of what a command says while it runs.
    NodeInvokeProgress = "node.invoke.progress", Audience::Targeted, skip, NodeInvokeProgressPayload;
    /// To a node: run a command.
    NodeInvokeRequest = "node.invoke.request", Audience::Targeted, keep, NodeInvokeRequestPayload;
    /// A node offers commands that nobody approved yet.
    NodePairRequested = "node.pair.requested", Audience::Scope(Scope::Pairing), keep, NodeRequestView;
    /// What a node offers was decided; to the node itself too.
    NodePairResolved = "node.pair.resolved", Audience::Scope(Scope::Pairing), keep, NodePairResolvedPayload;
    /// A node told anew what it could run for others.
    NodeRunnerInventoryChanged = "node.runnerInventory.changed", Audience::Scope(Scope::Read), skip, NodeChangedPayload;
    /// Who is connected.
    Presence = "presence", Audience::Scope(Scope::Read), skip, PresencePayload;
    /// A row was added to a session's history.
    SessionMessage = "session.message", Audience::Scope(Scope::Read), keep, SessionMessagePayload;
    /// A session was made, changed, reset or deleted.
    SessionsChanged = "sessions.changed", Audience::Scope(Scope::Read), keep, SessionsChangedPayload;
    /// The gateway is about to stop.
    Shutdown = "shutdown", Audience::Any, keep, ShutdownPayload;
    /// Sign of life.
    Tick = "tick", Audience::Any, skip, TickPayload;
}

/// All events, sorted by name.
pub fn all() -> &'static [&'static EventSpec] {
    ALL
}

/// The event of this name.
pub fn find(name: &str) -> Option<&'static EventSpec> {
    ALL.iter().copied().find(|e| e.name == name)
}

/// Payload of `connect.challenge`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ChallengePayload {
    /// Fresh for each connection.
    pub nonce: String,
    /// The gateway's time, milliseconds since the Unix epoch.
    pub ts: i64,
}

/// Payload of `config.changed`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ConfigChangedPayload {
    /// Name of the configuration file.
    pub path: String,
    /// Hash of what is in force, as in `config.get`.
    pub hash: String,
    /// When, milliseconds since the Unix epoch.
    pub ts: i64,
    /// Rises by one with each change that this tenant can see.
    pub revision: u64,
}

/// Payload of `tick`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct TickPayload {
    /// The gateway's time, milliseconds since the Unix epoch.
    pub ts: i64,
}

/// Payload of `shutdown`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ShutdownPayload {
    /// Why, for example `gateway stopping`.
    pub reason: String,
    /// Milliseconds until the gateway is back, when it restarts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart_expected_ms: Option<u64>,
}

/// Payload of `presence`.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct PresencePayload {
    /// Everybody who is there.
    pub presence: Vec<PresenceEntry>,
}

/// What a run prepares before the model starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StartupPhase {
    /// Looks up the session.
    PreparingWorkspace,
    /// Collects the history.
    PreparingContext,
    /// Waits for the model's first byte.
    StartingModel,
}

/// What kind of failure ended a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChatErrorKind {
    /// The model refused.
    Refusal,
    /// A deadline passed.
    Timeout,
    /// The model server limited us.
    RateLimit,
    /// The history is too long for the model.
    ContextLength,
    /// Anything else.
    Unknown,
}

/// Facts about a failed model call; each text at most 300 characters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChatErrorDetail {
    /// Provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Type of the error in the provider's words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider_error_type: Option<String>,
    /// HTTP status of the model server, 100 to 599.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_status: Option<u16>,
    /// Begin of the provider's message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider_error_message_preview: Option<String>,
}

impl ChatErrorDetail {
    /// Longest text of a field, in characters.
    pub const MAX_TEXT_CHARS: usize = 300;
}

/// Payload of `chat`. `seq` counts within the run.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChatEvent {
    /// The run.
    pub run_id: String,
    /// The session, canonical key.
    pub session_key: String,
    /// The agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<String>,
    /// Number within the run, shared with `agent` events.
    pub seq: u64,
    /// What happened.
    #[serde(flatten)]
    pub state: ChatState,
}

/// What happened in a run.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(
    tag = "state",
    rename_all = "lowercase",
    rename_all_fields = "camelCase"
)]
pub enum ChatState {
    /// It is being prepared.
    Status {
        /// How far it is.
        phase: StartupPhase,
    },
    /// More text.
    Delta {
        /// Everything so far, as a message.
        #[serde(skip_serializing_if = "Option::is_none")]
        message: Option<ChatMessage>,
        /// What is new.
        delta_text: String,
        /// True when `delta_text` replaces everything so far.
        #[serde(skip_serializing_if = "Option::is_none")]
        replace: Option<bool>,
    },
    /// It is done.
    Final {
        /// The whole answer.
        #[serde(skip_serializing_if = "Option::is_none")]
        message: Option<ChatMessage>,
        /// Tokens used.
        #[serde(skip_serializing_if = "Option::is_none")]
        usage: Option<Value>,
        /// Why the model stopped.
        #[serde(skip_serializing_if = "Option::is_none")]
        stop_reason: Option<String>,
    },
    /// It was stopped.
    Aborted {
        /// What there was of an answer.
        #[serde(skip_serializing_if = "Option::is_none")]
        message: Option<ChatMessage>,
        /// Why, for people.
        #[serde(skip_serializing_if = "Option::is_none")]
        error_message: Option<String>,
        /// Why: `rpc`, `timeout`, `interrupt`, `shutdown`.
        #[serde(skip_serializing_if = "Option::is_none")]
        stop_reason: Option<String>,
    },
    /// It failed.
    Error {
        /// What there was of an answer.
        #[serde(skip_serializing_if = "Option::is_none")]
        message: Option<ChatMessage>,
        /// Why, for people.
        #[serde(skip_serializing_if = "Option::is_none")]
        error_message: Option<String>,
        /// What kind of failure.
        #[serde(skip_serializing_if = "Option::is_none")]
        error_kind: Option<ChatErrorKind>,
        /// Facts about the model call.
        #[serde(skip_serializing_if = "Option::is_none")]
        error_detail: Option<ChatErrorDetail>,
        /// Tokens used until then.
        #[serde(skip_serializing_if = "Option::is_none")]
        usage: Option<Value>,
        /// Why the model stopped.
        #[serde(skip_serializing_if = "Option::is_none")]
        stop_reason: Option<String>,
    },
}

/// Payload of `agent`.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentEvent {
    /// The run.
    pub run_id: String,
    /// Number within the run, shared with `chat` events.
    pub seq: u64,
    /// The gateway's time, milliseconds since the Unix epoch.
    pub ts: i64,
    /// The session, canonical key.
    pub session_key: String,
    /// The agent.
    pub agent_id: String,
    /// What happened: `stream` names the kind, `data` holds the facts.
    #[serde(flatten)]
    pub stream: AgentStream,
}

/// The streams of a run.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(
    tag = "stream",
    content = "data",
    rename_all = "snake_case",
    rename_all_fields = "camelCase"
)]
pub enum AgentStream {
    /// Begin, model start and end of a run.
    Lifecycle(LifecycleData),
    /// Text of the model.
    Assistant {
        /// Everything so far.
        text: String,
        /// What is new.
        delta: String,
        /// The item that the text belongs to.
        item_id: String,
        /// True when the new text does not continue the old one.
        #[serde(skip_serializing_if = "Option::is_none")]
        replace: Option<bool>,
    },
    /// A tool call.
    Tool(ToolData),
    /// Tokens used.
    Usage {
        /// Prompt tokens so far.
        #[serde(skip_serializing_if = "Option::is_none")]
        input_tokens: Option<u64>,
        /// Completion tokens so far.
        #[serde(skip_serializing_if = "Option::is_none")]
        output_tokens: Option<u64>,
    },
    /// How far the preparation is.
    RunStatus {
        /// The step.
        phase: StartupPhase,
    },
}

/// The lifecycle of a run.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(
    tag = "phase",
    rename_all = "lowercase",
    rename_all_fields = "camelCase"
)]
pub enum LifecycleData {
    /// It began.
    Start {
        /// When, milliseconds since the Unix epoch.
        started_at: i64,
    },
    /// The model was asked.
    Model {
        /// Provider.
        provider: String,
        /// Model.
        model: String,
    },
    /// The answer is complete and being recorded.
    Finishing {
        /// When, milliseconds since the Unix epoch.
        ended_at: i64,
        /// Why the model stopped.
        #[serde(skip_serializing_if = "Option::is_none")]
        stop_reason: Option<String>,
    },
    /// It is over.
    End {
        /// When, milliseconds since the Unix epoch.
        ended_at: i64,
        /// Why the model stopped.
        #[serde(skip_serializing_if = "Option::is_none")]
        stop_reason: Option<String>,
    },
    /// It failed or was stopped.
    Error {
        /// When, milliseconds since the Unix epoch.
        ended_at: i64,
        /// Why, for people.
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<String>,
        /// True when somebody stopped it.
        #[serde(skip_serializing_if = "Option::is_none")]
        aborted: Option<bool>,
        /// Why it stopped.
        #[serde(skip_serializing_if = "Option::is_none")]
        stop_reason: Option<String>,
    },
}

/// A tool call of a run.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(
    tag = "phase",
    rename_all = "lowercase",
    rename_all_fields = "camelCase"
)]
pub enum ToolData {
    /// It began.
    Start {
        /// Name of the tool.
        name: String,
        /// Id of the call.
        tool_call_id: String,
        /// What it was called with.
        args: Value,
    },
    /// It is over.
    Result {
        /// Name of the tool.
        name: String,
        /// Id of the call.
        tool_call_id: String,
        /// Whether it failed.
        is_error: bool,
        /// What it answered.
        result: Value,
    },
}

/// Payload of `session.message`.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionMessagePayload {
    /// The session, canonical key.
    pub session_key: String,
    /// The session's present id.
    pub session_id: String,
    /// The agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<String>,
    /// Id of the row.
    pub message_id: String,
    /// Position in the session, from 1.
    pub message_seq: u64,
    /// The row.
    pub message: ChatMessage,
    /// The run that it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
    /// The session's row as in `sessions.list`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionRow>,
}

/// Payload of `sessions.changed`.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionsChangedPayload {
    /// The session, canonical key.
    pub session_key: String,
    /// Why: `create`, `send`, `reset`, `delete`, `inject`, `agent.run.started`, `agent.input.settled`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Instead of a reason, the phase of a run: `start`, `end`, `error`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// The run that the phase is of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
    /// When, milliseconds since the Unix epoch.
    pub ts: i64,
    /// The agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<String>,
    /// The session's row as in `sessions.list`; absent when it was deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionRow>,
}

impl From<DetailCode> for ChatErrorKind {
    fn from(code: DetailCode) -> Self {
        match code {
            DetailCode::Deadline => ChatErrorKind::Timeout,
            DetailCode::RateLimited | DetailCode::QuotaExceeded | DetailCode::Overloaded => {
                ChatErrorKind::RateLimit
            }
            _ => ChatErrorKind::Unknown,
        }
    }
}
