//! What `POST /tools/invoke` calls: one tool of an agent, for a program instead of a model.
//!
//! The same catalog as for the agent's own calls: what the agent may not call, a program may not call through it. Besides,
//! names that elsewhere run programs or write files are never available here, whatever the catalog has.

use std::sync::Arc;

use gateway_protocol::error::RpcError;
use gateway_protocol::ids::RunId;
use gateway_protocol::scope::Scope;
use serde_json::{Map, Value};

use crate::cx::Cx;
use crate::openai;
use crate::rpc::error;
use crate::tool::ToolCx;

/// Tools that no HTTP request may call.
const NEVER: [&str; 12] = [
    "apply_patch",
    "exec",
    "fs_delete",
    "fs_move",
    "fs_write",
    "gateway",
    "nodes",
    "process",
    "sessions_send",
    "sessions_spawn",
    "shell",
    "spawn",
];

/// A request as the HTTP surface decoded it.
#[derive(Debug, Clone, Default)]
pub struct InvokeRequest {
    /// Name of the tool.
    pub tool: String,
    /// Put into the arguments where the tool takes an `action` and they have none.
    pub action: Option<String>,
    /// The arguments.
    pub args: Map<String, Value>,
    /// The session for which it is called (default: the main session of the agent).
    pub session_key: Option<String>,
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq)]
pub enum Invoked {
    /// The text of the tool.
    Text(String),
    /// There is no such tool for this caller.
    NotAvailable,
    /// The tool does not take these arguments, or failed; a sentence says why.
    Failed(String),
}

/// Calls a tool.
///
/// # Errors
/// `MISSING_SCOPE` without write, a wrong session key, and those of the store.
pub async fn invoke(cx: &Cx, request: InvokeRequest) -> Result<Invoked, RpcError> {
    if !cx.caller.scopes.allows(Scope::Write) {
        return Err(RpcError::missing_scope(Scope::Write));
    }
    let named = request
        .session_key
        .as_deref()
        .map(str::trim)
        .filter(|k| !k.is_empty());
    // A short key is one of the caller's agent.
    let text = named.unwrap_or("main");
    let agent = cx.caller.agent().filter(|_| !text.starts_with("agent:"));
    let (key, agent_id) = error::session_key(cx, text, agent)?;
    let shared = key.agent().is_none() && cx.caller.agent().is_some();
    if shared || !openai::may_use(&cx.caller, &agent_id) {
        return Err(RpcError::not_found("session"));
    }
    let agents = cx.tenant.agents();
    let tool = agents
        .get(&agent_id)
        .filter(|_| !NEVER.contains(&&*request.tool))
        .and_then(|agent| {
            Some((
                crate::policy::tools_of(&cx.tenant, &agent.tools),
                agent.tools.get(&request.tool)?.clone(),
                agent,
            ))
        });
    let Some((tools, tool, agent)) = tool else {
        return Ok(Invoked::NotAvailable);
    };
    let mut args = request.args;
    let takes_action = tool
        .spec()
        .parameters
        .pointer("/properties/action")
        .is_some();
    if let (true, Some(action)) = (takes_action, request.action) {
        args.entry("action").or_insert(Value::String(action));
    }
    let asked = key.as_str().to_owned();
    let messages = cx
        .tenant
        .db()
        .read(move |r| r.count_messages(&asked))
        .await
        .map_err(|e| error::store(&cx.tenant, &e))?;
    let tool_cx = ToolCx {
        run_id: RunId::parse(&cx.tenant.new_id()).map_err(|e| RpcError::invalid(e.to_string()))?,
        session_key: key,
        model: Arc::from(agent.backend.model()),
        messages: usize::try_from(messages).unwrap_or(0),
    };
    let outcome = tools
        .call(&tool_cx, &request.tool, &Value::Object(args).to_string())
        .await;
    Ok(if outcome.is_error {
        Invoked::Failed(outcome.text)
    } else {
        Invoked::Text(outcome.text)
    })
}
