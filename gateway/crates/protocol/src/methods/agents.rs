//! Agents, models and runs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::NoParams;
use crate::scope::Scope;
use crate::value::{NonEmpty, Text};

crate::methods! {
    /// The configured agents.
    AgentsList = "agents.list", Operator(Read), Query, (NoParams) -> AgentsListResult;
    /// The models of the configured agents.
    ModelsList = "models.list", Operator(Read), Query, (ModelsListParams) -> ModelsListResult;
    /// Run an agent: one answer when the run is accepted, one when it is over (`/new` and `/reset` need admin).
    Agent = "agent", Operator(Write), Wait, (AgentParams) -> AgentResult;
    /// A text of an agent's workspace.
    AgentsFilesGet = "agents.files.get", Operator(Read), Query, (AgentsFilesGetParams) -> AgentsFilesGetResult;
    /// Wait for a run to end.
    AgentWait = "agent.wait", Operator(Write), Wait, (AgentWaitParams) -> AgentWaitResult;
}

/// The scope that a message to `agent` needs: admin for the commands `/new` and `/reset`, else write.
pub fn agent_message_scope(message: &str) -> Scope {
    let word = message.split_whitespace().next().unwrap_or_default();
    if word.eq_ignore_ascii_case("/new") || word.eq_ignore_ascii_case("/reset") {
        Scope::Admin
    } else {
        Scope::Write
    }
}

/// Result of `agents.list`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentsListResult {
    /// The agent that answers when none is named.
    pub default_id: String,
    /// Rest of the key of an agent's main session: `main`.
    pub main_key: String,
    /// `per-sender`.
    pub scope: String,
    /// The agents.
    pub agents: Vec<AgentRow>,
}

/// An agent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AgentRow {
    /// Its id.
    pub id: String,
    /// Name to show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its model. Clients take an agent without one for not set up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<AgentModel>,
}

/// The model of an agent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AgentModel {
    /// `provider/model`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary: Option<String>,
}

crate::params! {
    /// Parameters of `agents.files.get`.
    AgentsFilesGetParams {
        required {
            /// The agent.
            "agentId" agent_id: NonEmpty,
            /// The file: `BOOT.md`.
            "name" name: NonEmpty,
        }
        optional {}
        ignored {}
        refused {}
    }
}

/// Result of `agents.files.get`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentsFilesGetResult {
    /// The agent.
    pub agent_id: String,
    /// Where its files are; a label, not a path.
    pub workspace: String,
    /// The file.
    pub file: AgentFile,
}

/// A text of an agent's workspace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentFile {
    /// Its name.
    pub name: String,
    /// The same: files are named, not their places.
    pub path: String,
    /// There is no such file; the rest is absent then.
    pub missing: bool,
    /// Its length in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// When it changed, milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_at_ms: Option<i64>,
    /// Its text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
}

crate::params! {
    /// Parameters of `models.list`.
    ModelsListParams {
        required {}
        optional {
            /// Only the model of this agent.
            "agentId" agent_id: NonEmpty,
        }
        ignored {
            "view": "All views are the same: the configured models.",
            "includeDetails": "All details are always there.",
            "includeProviderCapabilities": "All details are always there.",
            "preparedOnly": "Every configured model is ready.",
            "refresh": "The list comes from the configuration.",
        }
        refused {}
    }
}

/// Result of `models.list`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ModelsListResult {
    /// The models.
    pub models: Vec<ModelRow>,
}

/// A model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelRow {
    /// Its id, as the provider calls it.
    pub id: String,
    /// Name to show.
    pub name: String,
    /// Provider: `openai` or `gateway`.
    pub provider: String,
    /// Whether it can be used now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub available: Option<bool>,
    /// Context window in tokens, when it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_window: Option<u64>,
    /// Whether it can call tools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supports_tools: Option<bool>,
}

crate::params! {
    /// Parameters of `agent`.
    AgentParams {
        required {
            /// The text.
            "message" message: NonEmpty,
            /// Names the run; a repeat returns the state of that run.
            "idempotencyKey" idempotency_key: Text<1, 256>,
        }
        optional {
            /// The agent.
            "agentId" agent_id: NonEmpty,
            /// The session, whole or short key; absent: the agent's main session.
            "sessionKey" session_key: Text<0, 512>,
            /// Run only if this is still the session's id.
            "sessionId" session_id: String,
            /// Run only if the session exists and this is its id.
            "expectedExistingSessionId" expected_existing_session_id: NonEmpty,
            /// Longest time for the run from its first start, in seconds, also across a crash; 0: none.
            "timeout" timeout: u64,
            /// Label for a session that this makes.
            "label" label: Text<1, 512>,
        }
        ignored {
            "bestEffortDeliver": "Nothing is delivered.",
            "lane": "Each session is its own lane.",
            "cleanupBundleMcpOnRunEnd": "There are no bundled MCP servers.",
            "voiceWakeTrigger": "A hint for statistics.",
            "bootstrapContextMode": "A run gets no files of the workspace.",
            "bootstrapContextRunKind": "A run gets no files of the workspace.",
        }
        refused {
            "provider": "The agent's configuration names the model.",
            "model": "The agent's configuration names the model.",
            "to": "A session is named by its key.",
            "replyTo": "Replies of this method are not sent to a channel.",
            "thinking": "The agent's configuration decides.",
            "deliver": "Replies of this method are not sent to a channel; use `send`.",
            "attachments": "Attachments are not stored yet.",
            "channel": "Replies of this method are not sent to a channel.",
            "replyChannel": "Replies of this method are not sent to a channel.",
            "accountId": "Replies of this method are not sent to a channel.",
            "replyAccountId": "Replies of this method are not sent to a channel.",
            "threadId": "Replies of this method are not sent to a channel.",
            "groupId": "A session is named by its key.",
            "groupChannel": "A session is named by its key.",
            "groupSpace": "A session is named by its key.",
            "cwd": "Runs have no working directory.",
            "modelRun": "Not offered.",
            "promptMode": "The agent's configuration decides.",
            "extraSystemPrompt": "The agent's configuration holds its instructions.",
            "acpTurnSource": "There are no ACP agents yet.",
            "internalRuntimeHandoffId": "Only for OpenClaw's own parts.",
            "internalExecutionIdentityRetry": "Only for OpenClaw's own parts.",
            "internalExecutionIdentityRecoveryAttempt": "Only for OpenClaw's own parts.",
            "execApprovalFollowupExpectedSessionId": "Only for OpenClaw's own parts.",
            "internalEvents": "Only for OpenClaw's own parts.",
            "inputProvenance": "Only for OpenClaw's own parts.",
            "suppressPromptPersistence": "Every message is recorded.",
            "sessionEffects": "Every message is recorded.",
            "sourceReplyDeliveryMode": "Replies of this method are not sent to a channel.",
            "disableMessageTool": "The agent's configuration decides.",
            "swarmCollector": "There are no swarms.",
            "swarmOutputSchema": "There are no swarms.",
            "forceRestartSafeTools": "The agent's configuration decides.",
            "forceCodeModeTools": "The agent's configuration decides.",
        }
    }
}

/// Result of `agent`, in both of its answers: first `status: "accepted"` with `acceptedAt`, then `ok`, `error`,
/// `aborted` or `timeout` with `summary` and `result`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentResult {
    /// The run.
    pub run_id: String,
    /// `accepted`, `in_flight`, `ok`, `error`, `aborted` or `timeout`.
    pub status: String,
    /// Canonical key of the session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_key: Option<String>,
    /// The agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<String>,
    /// When it was accepted, milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted_at: Option<i64>,
    /// `completed`, or why it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// What it answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<AgentRunResult>,
}

/// What a run answered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AgentRunResult {
    /// The replies.
    pub payloads: Vec<AgentPayload>,
    /// Facts about the run.
    pub meta: AgentRunMeta,
}

/// A reply of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentPayload {
    /// The text.
    pub text: String,
    /// A picture or file; there are none yet.
    pub media_url: Option<String>,
}

/// Facts about a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentRunMeta {
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// Model, session and tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_meta: Option<Value>,
}

crate::params! {
    /// Parameters of `agent.wait`.
    AgentWaitParams {
        required {
            /// The run.
            "runId" run_id: NonEmpty,
        }
        optional {
            /// Longest wait, in milliseconds.
            "timeoutMs" timeout_ms: u64,
        }
        ignored {}
        refused {}
    }
}

/// Result of `agent.wait`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentWaitResult {
    /// The run.
    pub run_id: String,
    /// `ok`, `error`, `aborted`, or `timeout` when the wait ended before the run.
    pub status: String,
    /// When the run began, milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<i64>,
    /// When it ended, milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<i64>,
    /// Why the model stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<String>,
    /// Why the run failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What it answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal_reply: Option<TerminalReply>,
}

/// The answer of a run that is over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TerminalReply {
    /// `visible`.
    pub disposition: String,
    /// The text.
    pub text: String,
}
