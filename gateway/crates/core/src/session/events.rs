//! What clients see of sessions and runs: rows as the wire shows them, and the events of a run in their order.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use gateway_protocol::content::{ChatMessage, ContentBlock, MessageMeta, Role, Usage};
use gateway_protocol::event::{
    self, AgentEvent, AgentStream, ChatErrorKind, ChatEvent, ChatState, LifecycleData,
    SessionMessagePayload, SessionsChangedPayload, StartupPhase, ToolData,
};
use gateway_protocol::methods::sessions::{
    ChatType, SessionDefaults, SessionKind, SessionRow as WireRow, SessionStatus,
};
use gateway_protocol::session_key::{KeyKind, SessionKey};
use gateway_store::{MessageRow, RunState, SessionRow};

use super::{RunCell, RunOutcome};
use crate::hub::Routing;
use crate::tenant::Tenant;

/// `direct`, `group`, `global` or `unknown`, from the key alone.
#[must_use]
pub fn kind_of(key: &str) -> &'static str {
    match session_kind(key) {
        SessionKind::Direct => "direct",
        SessionKind::Group => "group",
        SessionKind::Global => "global",
        SessionKind::Unknown => "unknown",
    }
}

fn session_kind(key: &str) -> SessionKind {
    match key {
        "global" => SessionKind::Global,
        "unknown" => SessionKind::Unknown,
        _ => match SessionKey::parse(key).map(|k| k.kind()) {
            Ok(KeyKind::Group) => SessionKind::Group,
            _ => SessionKind::Direct,
        },
    }
}

/// A stored session as a row of the wire.
#[must_use]
pub fn session_row(tenant: &Tenant, s: &SessionRow) -> WireRow {
    let active = tenant.sessions().runs_of(&s.key);
    let agents = tenant.agents();
    let agent = agents.get(&s.agent_id);
    let kind = session_kind(&s.key);
    WireRow {
        kind,
        session_id: Some(s.session_id.clone()),
        label: s.label.clone(),
        display_name: s.display_name.clone(),
        channel: s.channel.clone(),
        account_id: s.account.clone(),
        agent_id: Some(s.agent_id.clone()),
        is_main: Some(s.key == format!("agent:{}:main", s.agent_id)),
        chat_type: Some(match kind {
            SessionKind::Group => ChatType::Group,
            _ => ChatType::Direct,
        }),
        created_at: Some(s.created_at),
        updated_at: Some(s.updated_at),
        last_activity_at: Some(s.updated_at),
        status: if active.is_empty() {
            // A session that never ran has no run to tell about.
            match s.status.as_str() {
                "idle" => None,
                "failed" => Some(SessionStatus::Failed),
                "killed" => Some(SessionStatus::Killed),
                "timeout" => Some(SessionStatus::Timeout),
                "running" => Some(SessionStatus::Queued),
                _ => Some(SessionStatus::Done),
            }
        } else {
            Some(SessionStatus::Running)
        },
        has_active_run: Some(!active.is_empty()),
        active_run_ids: Some(active),
        model_provider: agent.map(|a| a.backend.provider().to_owned()),
        model: s
            .model
            .clone()
            .or_else(|| agent.map(|a| a.backend.model().to_owned())),
        key: s.key.clone(),
        ..WireRow::default()
    }
}

/// The word kept with a session when its last run ended like this.
pub(super) fn status_word(state: RunState, stop_reason: Option<&str>) -> &'static str {
    match (state, stop_reason) {
        (RunState::Aborted, Some("timeout")) => "timeout",
        (RunState::Aborted, _) => "killed",
        (RunState::Error, _) => "failed",
        _ => "done",
    }
}

/// What a new session of this tenant gets.
#[must_use]
pub fn session_defaults(tenant: &Tenant) -> SessionDefaults {
    let agents = tenant.agents();
    let agent = agents.get(agents.default_id());
    SessionDefaults {
        model_provider: agent.map(|a| a.backend.provider().to_owned()),
        model: agent.map(|a| a.backend.model().to_owned()),
        context_tokens: None,
    }
}

/// A stored message as the wire shows it.
#[must_use]
pub fn to_chat_message(m: &MessageRow) -> ChatMessage {
    let content: Vec<ContentBlock> = serde_json::from_str(&m.content_json).unwrap_or_default();
    let role = Role::parse(&m.role).unwrap_or(Role::System);
    let mut message = ChatMessage::text(role, "", m.created_at);
    if let (
        Role::ToolResult,
        Some(ContentBlock::ToolResult {
            tool_call_id,
            name,
            is_error,
            ..
        }),
    ) = (role, content.first())
    {
        message.tool_call_id = Some(tool_call_id.clone());
        message.tool_name = Some(name.clone());
        message.is_error = Some(*is_error);
    }
    message.content = content;
    message.idempotency_key.clone_from(&m.idempotency_key);
    message.meta = Some(MessageMeta {
        id: m.id.clone(),
        seq: u64::try_from(m.seq).unwrap_or(0),
        record_timestamp_ms: m.created_at,
        run_id: m.run_id.clone(),
        idempotency_key: m.idempotency_key.clone(),
        annotations: serde_json::Map::new(),
    });
    if let Some(meta) = m
        .meta_json
        .as_deref()
        .and_then(|j| serde_json::from_str::<serde_json::Value>(j).ok())
    {
        let text = |key: &str| meta.get(key).and_then(|v| v.as_str()).map(str::to_owned);
        message.provider = text("provider");
        message.model = text("model");
        message.stop_reason = text("stopReason");
        if let (Some(shown), Some(noted)) = (
            &mut message.meta,
            meta.get("annotations").and_then(|n| n.as_object()),
        ) {
            shown.annotations.clone_from(noted);
        }
        message.usage = meta
            .get("usage")
            .and_then(|u| serde_json::from_value(u.clone()).ok());
    }
    message
}

/// Tells subscribers that a session changed.
pub fn session_changed(
    tenant: &Tenant,
    key: &str,
    agent: &str,
    reason: &str,
    s: Option<&SessionRow>,
) {
    if !tenant.hub().has_listeners() {
        return;
    }
    tenant.hub().emit::<event::SessionsChanged>(
        &SessionsChangedPayload {
            session_key: key.to_owned(),
            reason: Some(reason.to_owned()),
            phase: None,
            run_id: None,
            ts: tenant.now_ms(),
            agent_id: Some(agent.to_owned()),
            session: s.map(|s| session_row(tenant, s)),
        },
        Routing::SessionList(key),
    );
}

/// Tells subscribers about a row that was added to a history.
pub fn message_added(tenant: &Tenant, agent: &str, m: &MessageRow) {
    if !tenant.hub().has_listeners() {
        return;
    }
    tenant.hub().emit::<event::SessionMessage>(
        &SessionMessagePayload {
            session_key: m.session_key.clone(),
            session_id: m.session_id.clone(),
            agent_id: Some(agent.to_owned()),
            message_id: m.id.clone(),
            message_seq: u64::try_from(m.seq).unwrap_or(0),
            message: to_chat_message(m),
            run_id: m.run_id.clone(),
            session: None,
        },
        Routing::SessionMessages(&m.session_key),
    );
}

/// The events of one run, in their order. Numbers count within the run; an `agent` event and the `chat` event that
/// tells the same share one.
pub(crate) struct RunEvents {
    tenant: Arc<Tenant>,
    cell: Arc<RunCell>,
}

impl RunEvents {
    pub(crate) fn new(tenant: Arc<Tenant>, cell: &Arc<RunCell>) -> Self {
        Self {
            tenant,
            cell: cell.clone(),
        }
    }

    fn next(&self) -> u64 {
        self.cell.seq.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn listened(&self) -> bool {
        self.tenant.hub().has_listeners()
    }

    fn chat(&self, seq: u64, state: ChatState) {
        self.tenant.hub().emit::<event::Chat>(
            &ChatEvent {
                run_id: self.cell.run_id.clone(),
                session_key: self.cell.key.clone(),
                agent_id: Some(self.cell.agent_id.clone()),
                seq,
                state,
            },
            Routing::Run(&self.cell.key),
        );
    }

    fn agent(&self, seq: u64, stream: AgentStream) {
        let routing = match stream {
            AgentStream::Tool(_) => Routing::RunTools(&self.cell.key),
            _ => Routing::Run(&self.cell.key),
        };
        self.tenant.hub().emit::<event::Agent>(
            &AgentEvent {
                run_id: self.cell.run_id.clone(),
                seq,
                ts: self.tenant.now_ms(),
                session_key: self.cell.key.clone(),
                agent_id: self.cell.agent_id.clone(),
                stream,
            },
            routing,
        );
    }

    fn status(&self, phase: StartupPhase) {
        let seq = self.next();
        self.chat(seq, ChatState::Status { phase });
        self.agent(seq, AgentStream::RunStatus { phase });
    }

    /// Everything up to the model: the session, the preparation, the user's row, the start.
    pub(crate) fn begin(&self, session: &SessionRow, input: Option<&MessageRow>) {
        if !self.listened() {
            self.cell.seq.store(4, Ordering::Relaxed);
            return;
        }
        self.status(StartupPhase::PreparingWorkspace);
        self.status(StartupPhase::PreparingContext);
        if let Some(input) = input {
            message_added(&self.tenant, &self.cell.agent_id, input);
        }
        let seq = self.next();
        self.agent(
            seq,
            AgentStream::Lifecycle(LifecycleData::Start {
                started_at: self.cell.started_at.load(Ordering::Acquire),
            }),
        );
        self.status(StartupPhase::StartingModel);
        session_changed(
            &self.tenant,
            &self.cell.key,
            &self.cell.agent_id,
            "agent.run.started",
            Some(session),
        );
    }

    pub(crate) fn model(&self, provider: &str, model: &str) {
        let seq = self.next();
        if self.listened() {
            self.agent(
                seq,
                AgentStream::Lifecycle(LifecycleData::Model {
                    provider: provider.to_owned(),
                    model: model.to_owned(),
                }),
            );
        }
    }

    /// More text. Keeps the text so far.
    pub(crate) fn delta(&self, delta: &str) {
        let text = {
            let mut partial = self.cell.partial.lock();
            partial.push_str(delta);
            if !self.listened() {
                self.next();
                return;
            }
            partial.clone()
        };
        let seq = self.next();
        self.agent(
            seq,
            AgentStream::Assistant {
                text: text.clone(),
                delta: delta.to_owned(),
                item_id: format!("{}:1", self.cell.run_id),
                replace: None,
            },
        );
        self.chat(
            seq,
            ChatState::Delta {
                message: Some(ChatMessage::text(
                    Role::Assistant,
                    text,
                    self.tenant.now_ms(),
                )),
                delta_text: delta.to_owned(),
                replace: None,
            },
        );
    }

    pub(crate) fn tool_start(&self, call_id: &str, name: &str, arguments: &serde_json::Value) {
        let seq = self.next();
        if self.listened() {
            self.agent(
                seq,
                AgentStream::Tool(ToolData::Start {
                    name: name.to_owned(),
                    tool_call_id: call_id.to_owned(),
                    args: arguments.clone(),
                }),
            );
        }
    }

    pub(crate) fn tool_result(&self, call_id: &str, name: &str, text: &str, is_error: bool) {
        let seq = self.next();
        if self.listened() {
            self.agent(
                seq,
                AgentStream::Tool(ToolData::Result {
                    name: name.to_owned(),
                    tool_call_id: call_id.to_owned(),
                    is_error,
                    result: text.into(),
                }),
            );
        }
    }

    pub(crate) fn usage(&self, usage: &Usage) {
        let seq = self.next();
        if self.listened() {
            self.agent(
                seq,
                AgentStream::Usage {
                    input_tokens: Some(usage.input),
                    output_tokens: Some(usage.output),
                },
            );
        }
    }

    /// Everything after the commit that ended the run.
    pub(crate) fn end(
        &self,
        o: &RunOutcome,
        session: Option<&SessionRow>,
        messages: &[MessageRow],
    ) {
        if !self.listened() {
            return;
        }
        let partial = (!o.text.is_empty())
            .then(|| ChatMessage::text(Role::Assistant, o.text.clone(), o.ended_at));
        let usage = serde_json::to_value(o.usage).ok();
        match o.state {
            RunState::Aborted => {
                // The stop is told first, as clients expect it; the row of the partial text follows.
                self.chat(
                    self.next(),
                    ChatState::Aborted {
                        message: partial,
                        error_message: None,
                        stop_reason: o.stop_reason.clone(),
                    },
                );
                self.agent(
                    self.next(),
                    AgentStream::Lifecycle(LifecycleData::Error {
                        ended_at: o.ended_at,
                        error: None,
                        aborted: Some(true),
                        stop_reason: o.stop_reason.clone(),
                    }),
                );
                self.rows(messages);
            }
            RunState::Error => {
                self.rows(messages);
                self.agent(
                    self.next(),
                    AgentStream::Lifecycle(LifecycleData::Error {
                        ended_at: o.ended_at,
                        error: o.error.clone(),
                        aborted: None,
                        stop_reason: o.stop_reason.clone(),
                    }),
                );
                self.chat(
                    self.next(),
                    ChatState::Error {
                        message: partial,
                        error_message: o.error.clone(),
                        error_kind: Some(match o.error_kind.as_deref() {
                            Some("timeout") => ChatErrorKind::Timeout,
                            Some("rate_limited") => ChatErrorKind::RateLimit,
                            _ => ChatErrorKind::Unknown,
                        }),
                        error_detail: None,
                        usage,
                        stop_reason: o.stop_reason.clone(),
                    },
                );
            }
            _ => {
                self.rows(messages);
                self.agent(
                    self.next(),
                    AgentStream::Lifecycle(LifecycleData::Finishing {
                        ended_at: o.ended_at,
                        stop_reason: o.stop_reason.clone(),
                    }),
                );
                self.agent(
                    self.next(),
                    AgentStream::Lifecycle(LifecycleData::End {
                        ended_at: o.ended_at,
                        stop_reason: o.stop_reason.clone(),
                    }),
                );
                // The message stands even when it is empty: clients end their display with it.
                let message = messages
                    .iter()
                    .rev()
                    .find(|m| m.role == Role::Assistant.as_str())
                    .map(to_chat_message)
                    .or(partial);
                self.chat(
                    self.next(),
                    ChatState::Final {
                        message,
                        usage,
                        stop_reason: o.stop_reason.clone(),
                    },
                );
            }
        }
        session_changed(
            &self.tenant,
            &self.cell.key,
            &self.cell.agent_id,
            "agent.input.settled",
            session,
        );
    }

    /// The rows of a run whose end was told before they could be written.
    pub(crate) fn late(&self, session: Option<&SessionRow>, messages: &[MessageRow]) {
        self.rows(messages);
        session_changed(
            &self.tenant,
            &self.cell.key,
            &self.cell.agent_id,
            "agent.input.settled",
            session,
        );
    }

    fn rows(&self, messages: &[MessageRow]) {
        for m in messages {
            message_added(&self.tenant, &self.cell.agent_id, m);
        }
    }
}
