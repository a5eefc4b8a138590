//! What messages are made of: lists of content blocks.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One piece of a message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(
    tag = "type",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub enum ContentBlock {
    /// Plain or Markdown text.
    Text {
        /// The text.
        text: String,
    },
    /// A picture in the tenant's blob store.
    Image {
        /// SHA-256 of the bytes, lower-case hex.
        sha256: String,
        /// Media type, for example `image/png`.
        mime_type: String,
        /// Size in bytes.
        size_bytes: u64,
    },
    /// Any other file in the tenant's blob store.
    File {
        /// SHA-256 of the bytes, lower-case hex.
        sha256: String,
        /// Media type.
        mime_type: String,
        /// Size in bytes.
        size_bytes: u64,
        /// Name to show; never a path.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        file_name: Option<String>,
    },
    /// The model asks for a tool.
    ToolCall {
        /// Id of the call, unique in its run.
        id: String,
        /// Name of the tool.
        name: String,
        /// Arguments as the model gave them.
        arguments: Value,
    },
    /// What the tool answered.
    ToolResult {
        /// Id of the call that this answers.
        tool_call_id: String,
        /// Name of the tool.
        name: String,
        /// The answer as text.
        text: String,
        /// Whether the tool failed.
        is_error: bool,
    },
}

impl ContentBlock {
    /// A text block.
    pub fn text(text: impl Into<String>) -> ContentBlock {
        ContentBlock::Text { text: text.into() }
    }
}

/// The text blocks joined by line feeds; other blocks are left out.
pub fn plain_text(blocks: &[ContentBlock]) -> String {
    let mut out = String::new();
    for block in blocks {
        if let ContentBlock::Text { text } = block {
            if !out.is_empty() {
                out.push('\n');
            }
            out.push_str(text);
        }
    }
    out
}

/// Who said a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    /// A person.
    User,
    /// The agent.
    Assistant,
    /// The gateway itself.
    System,
    /// The answer of a tool.
    ToolResult,
}

impl Role {
    /// The name on the wire and in the store.
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::System => "system",
            Role::ToolResult => "toolResult",
        }
    }

    /// Reads [`Role::as_str`].
    pub fn parse(text: &str) -> Option<Role> {
        [Role::User, Role::Assistant, Role::System, Role::ToolResult]
            .into_iter()
            .find(|r| r.as_str() == text)
    }
}

/// Tokens that a run used, in tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Prompt tokens.
    pub input: u64,
    /// Completion tokens.
    pub output: u64,
    /// Prompt tokens that came from a cache.
    #[serde(default)]
    pub cache_read: u64,
    /// Prompt tokens that were written to a cache.
    #[serde(default)]
    pub cache_write: u64,
    /// All tokens.
    #[serde(default, alias = "total")]
    pub total_tokens: u64,
}

/// The gateway's own facts about a message row.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MessageMeta {
    /// Id of the row.
    pub id: String,
    /// Position in its session, from 1.
    pub seq: u64,
    /// When it was recorded, milliseconds since the Unix epoch.
    pub record_timestamp_ms: i64,
    /// The run that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
    /// The idempotency key that the row was made with (`<runId>:user` for user rows).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// What hook components noted on the message, by plugin.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub annotations: serde_json::Map<String, serde_json::Value>,
}

/// A message as clients see it in history and events.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChatMessage {
    /// Who said it.
    pub role: Role,
    /// What was said.
    pub content: Vec<ContentBlock>,
    /// When, milliseconds since the Unix epoch.
    #[serde(rename = "timestamp")]
    pub timestamp_ms: i64,
    /// Idempotency key of the row (`<runId>:user` for user rows).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// Why the model stopped: `stop`, `length`, `aborted`, `error`, `toolUse`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<String>,
    /// Provider of the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Model that answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Tokens used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// On `toolResult` rows: the call that it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// On `toolResult` rows: the tool's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_name: Option<String>,
    /// On `toolResult` rows: whether the tool failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_error: Option<bool>,
    /// Facts about the row; absent on partial messages inside `chat` events.
    #[serde(
        default,
        rename = "__openclaw",
        skip_serializing_if = "Option::is_none"
    )]
    pub meta: Option<MessageMeta>,
}

impl ChatMessage {
    /// A message of one text block and nothing else.
    pub fn text(role: Role, text: impl Into<String>, timestamp_ms: i64) -> ChatMessage {
        ChatMessage {
            role,
            content: vec![ContentBlock::text(text)],
            timestamp_ms,
            idempotency_key: None,
            stop_reason: None,
            provider: None,
            model: None,
            usage: None,
            tool_call_id: None,
            tool_name: None,
            is_error: None,
            meta: None,
        }
    }
}
