//! Agents, models, and runs with an answer.

use std::time::Duration;

use gateway_protocol::error::{DetailCode, RpcError};
use gateway_protocol::methods::NoParams;
use gateway_protocol::methods::agents::{
    AgentFile, AgentModel, AgentParams, AgentPayload, AgentResult, AgentRow, AgentRunMeta,
    AgentRunResult, AgentWaitParams, AgentWaitResult, AgentsFilesGetParams, AgentsFilesGetResult,
    AgentsListResult, ModelRow, ModelsListParams, ModelsListResult, TerminalReply,
    agent_message_scope,
};
use gateway_store::{RunState, StoreError};

use super::{chat, error};
use crate::cx::Cx;
use crate::limits::{AGENT_WAIT_DEFAULT_MS, AGENT_WAIT_MAX_MS};
use crate::registry::Reply;
use crate::session::{AcceptOutcomeInfo, AcceptRun, Origin, RunOutcome, accept, request_hash};

pub(super) fn list(cx: &Cx, _: NoParams) -> Result<Reply<AgentsListResult>, RpcError> {
    let agents = cx.tenant.agents();
    Ok(Reply::Value(AgentsListResult {
        default_id: agents.default_id().to_owned(),
        main_key: "main".to_owned(),
        scope: "per-sender".to_owned(),
        agents: agents
            .ids()
            .map(|id| AgentRow {
                id: id.to_owned(),
                name: None,
                model: agents.get(id).map(|a| AgentModel {
                    primary: Some(format!("{}/{}", a.backend.provider(), a.backend.model())),
                }),
            })
            .collect(),
    }))
}

/// The files of a workspace that have a meaning here.
const WORKSPACE_FILES: &[&str] = &["BOOT.md"];
/// Label of the place where they are; never a path.
const WORKSPACE_LABEL: &str = "workspace";

pub(super) async fn file(
    cx: Cx,
    p: AgentsFilesGetParams,
) -> Result<AgentsFilesGetResult, RpcError> {
    let agent = error::agent_id(&cx.tenant.agents(), &p.agent_id)?;
    let name = WORKSPACE_FILES
        .iter()
        .find(|name| **name == p.name.as_str())
        .ok_or_else(|| {
            RpcError::invalid(format!(
                "the files of a workspace are {}",
                WORKSPACE_FILES.join(", ")
            ))
        })?;
    let (tenant, agent_id) = (cx.tenant.clone(), agent.as_str().to_owned());
    let id = agent_id.clone();
    let found = tokio::task::spawn_blocking(move || {
        let workspaces = &tenant.shared().workspaces;
        workspaces.read(tenant.slug(), &id, name)
    })
    .await
    .map_err(|_| RpcError::unavailable("the gateway is stopping"))?
    .map_err(|e| match e {
        StoreError::Limit(limit) => RpcError::new(
            DetailCode::PayloadTooLarge,
            format!("{name} is larger than the gateway reads"),
        )
        .with("limit", limit),
        StoreError::Unfit(why) => RpcError::invalid(why),
        other => error::store(&cx.tenant, &other),
    })?;
    Ok(AgentsFilesGetResult {
        agent_id,
        workspace: WORKSPACE_LABEL.to_owned(),
        file: AgentFile {
            name: (*name).to_owned(),
            path: (*name).to_owned(),
            missing: found.is_none(),
            size: found.as_ref().map(|file| file.bytes),
            updated_at_ms: found.as_ref().and_then(|file| file.changed_ms),
            content: found.map(|file| file.text),
        },
    })
}

pub(super) fn models(cx: &Cx, p: ModelsListParams) -> Result<Reply<ModelsListResult>, RpcError> {
    let agents = cx.tenant.agents();
    let only = p
        .agent_id
        .map(|id| error::agent_id(&agents, &id))
        .transpose()?;
    let mut models: Vec<ModelRow> = agents
        .ids()
        .filter(|id| only.as_ref().is_none_or(|o| o.as_str() == *id))
        .filter_map(|id| agents.get(id))
        .map(|a| ModelRow {
            id: a.backend.model().to_owned(),
            name: a.backend.model().to_owned(),
            provider: a.backend.provider().to_owned(),
            available: Some(true),
            context_window: None,
            supports_tools: Some(!a.tools.is_empty()),
        })
        .collect();
    models.sort_by(|a, b| (&a.provider, &a.id).cmp(&(&b.provider, &b.id)));
    models.dedup_by(|a, b| a.provider == b.provider && a.id == b.id);
    Ok(Reply::Value(ModelsListResult { models }))
}

/// `agent`: answers `accepted` as an interim result, then waits for the end of the run.
pub(super) async fn agent(cx: Cx, p: AgentParams) -> Result<AgentResult, RpcError> {
    let needed = agent_message_scope(&p.message);
    if !cx.caller.scopes.allows(needed) {
        return Err(RpcError::missing_scope(needed));
    }
    let text = p
        .session_key
        .as_deref()
        .filter(|k| !k.is_empty())
        .unwrap_or("main");
    let (key, agent_id) = error::session_key(&cx, text, p.agent_id.as_deref())?;
    chat::check_text(&p.message)?;
    let run_id = chat::run_id(&p.idempotency_key)?;
    let tenant = cx.tenant.clone();
    let mut message = p.message.as_str();
    if needed == gateway_protocol::Scope::Admin {
        // `/new text` and `/reset text`: a fresh history, then the text (if any) as its first message.
        // A repeat of the same request must not reset again.
        let id = run_id.clone();
        let repeated = tenant
            .db()
            .read(move |r| Ok(r.get_run(&id)?.is_some()))
            .await
            .map_err(|e| error::store(&tenant, &e))?;
        if !repeated {
            super::sessions::reset_now(&tenant, key.as_str(), &agent_id, "reset", &cx.audit)
                .await?;
        }
        message = message
            .trim_start()
            .split_once(char::is_whitespace)
            .map_or("", |(_, rest)| rest.trim());
        if message.is_empty() {
            return Ok(AgentResult {
                run_id,
                status: "ok".to_owned(),
                session_key: Some(key.as_str().to_owned()),
                agent_id: Some(agent_id),
                summary: Some("session reset".to_owned()),
                ..AgentResult::default()
            });
        }
    }
    if !tenant.sessions().has_room(key.as_str()) {
        return Err(chat::queue_full());
    }
    let mut run = AcceptRun::new(&tenant, key.clone(), run_id.clone(), Origin::Rpc, message);
    run.agent_id.clone_from(&agent_id);
    run.request_hash = request_hash(&["agent", key.as_str(), &p.message]);
    run.traceparent = cx.remote_trace();
    run.timeout_ms = p
        .timeout
        .map(|s| s.saturating_mul(1_000))
        .filter(|ms| *ms > 0);
    run.profile.label = p.label.map(|l| l.as_str().to_owned());
    run.expected_session_id = p
        .expected_existing_session_id
        .map(|s| s.as_str().to_owned())
        .or(p.session_id.filter(|s| !s.is_empty()));
    let accepted_at = match accept(&tenant, run)
        .await
        .map_err(|e| error::store(&tenant, &e))?
    {
        AcceptOutcomeInfo::New { accepted_at, .. } => accepted_at,
        AcceptOutcomeInfo::Existing(row) => row.created_at,
        AcceptOutcomeInfo::Conflict => return Err(chat::key_conflict()),
        AcceptOutcomeInfo::SessionChanged => return Err(chat::session_changed_error()),
    };
    if let Some(interim) = &cx.interim {
        let accepted = AgentResult {
            run_id: run_id.clone(),
            status: "accepted".to_owned(),
            session_key: Some(key.as_str().to_owned()),
            agent_id: Some(agent_id.clone()),
            accepted_at: Some(accepted_at),
            ..AgentResult::default()
        };
        if let Ok(bytes) = serde_json::to_vec(&accepted) {
            interim(bytes.into());
        }
    }
    let outcome = tokio::select! {
        biased;
        outcome = outcome_of(&cx, &run_id) => outcome?,
        () = cx.cancel.cancelled() => return Err(RpcError::unavailable("cancelled")),
        () = tenant.stop_token().cancelled() => return Err(chat::draining()),
    };
    final_result(&outcome, agent_id)
}

fn final_result(o: &RunOutcome, agent_id: String) -> Result<AgentResult, RpcError> {
    let status = match o.state {
        RunState::Ok => "ok",
        RunState::Aborted if o.stop_reason.as_deref() == Some("timeout") => "timeout",
        RunState::Aborted => "aborted",
        _ => {
            let text = o
                .error
                .clone()
                .unwrap_or_else(|| "the run failed".to_owned());
            return Err(RpcError::new(DetailCode::Upstream, text)
                .with("runId", o.run_id.as_str())
                .with("status", "error"));
        }
    };
    Ok(AgentResult {
        run_id: o.run_id.clone(),
        status: status.to_owned(),
        session_key: Some(o.session_key.clone()),
        agent_id: Some(agent_id),
        accepted_at: None,
        summary: Some(if status == "ok" { "completed" } else { status }.to_owned()),
        result: Some(AgentRunResult {
            payloads: vec![AgentPayload {
                text: o.text.clone(),
                media_url: None,
            }],
            meta: AgentRunMeta {
                duration_ms: u64::try_from(o.ended_at.saturating_sub(o.accepted_at)).unwrap_or(0),
                agent_meta: Some(serde_json::json!({
                    "provider": o.provider, "model": o.model, "usage": o.usage,
                })),
            },
        }),
    })
}

/// The end of a run: awaited if it is in work here, read if it ended.
pub(crate) async fn outcome_of(cx: &Cx, run_id: &str) -> Result<RunOutcome, RpcError> {
    let tenant = &cx.tenant;
    loop {
        if let Some(wait) = tenant.sessions().watch_run(run_id) {
            return Ok((*wait?.outcome().await).clone());
        }
        let id = run_id.to_owned();
        let row = tenant
            .db()
            .read(move |r| r.get_run(&id))
            .await
            .map_err(|e| error::store(tenant, &e))?
            .ok_or_else(|| RpcError::not_found("run"))?;
        if row.state.is_ended() {
            return Ok(RunOutcome::from_row(&row));
        }
        // Committed a moment ago and not kicked yet, or ended without its row (a failing store).
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(super) async fn wait(cx: Cx, p: AgentWaitParams) -> Result<AgentWaitResult, RpcError> {
    let run_id = p.run_id.as_str().to_owned();
    // An unknown run is told at once, not after the wait.
    if cx.tenant.sessions().cell(&run_id).is_none() {
        let id = run_id.clone();
        cx.tenant
            .db()
            .read(move |r| r.get_run(&id))
            .await
            .map_err(|e| error::store(&cx.tenant, &e))?
            .ok_or_else(|| RpcError::not_found("run"))?;
    }
    let ms = p
        .timeout_ms
        .unwrap_or(AGENT_WAIT_DEFAULT_MS)
        .min(AGENT_WAIT_MAX_MS);
    let waited = tokio::select! {
        biased;
        r = tokio::time::timeout(Duration::from_millis(ms), outcome_of(&cx, &run_id)) => r,
        () = cx.cancel.cancelled() => return Err(RpcError::unavailable("cancelled")),
        () = cx.tenant.stop_token().cancelled() => return Err(chat::draining()),
    };
    let Ok(outcome) = waited else {
        return Ok(AgentWaitResult {
            run_id,
            status: "timeout".to_owned(),
            ..AgentWaitResult::default()
        });
    };
    let o = outcome?;
    Ok(AgentWaitResult {
        run_id,
        status: o.state.as_str().to_owned(),
        started_at: Some(o.accepted_at),
        ended_at: Some(o.ended_at),
        stop_reason: o.stop_reason,
        error: o.error,
        terminal_reply: Some(TerminalReply {
            disposition: "visible".to_owned(),
            text: o.text,
        }),
    })
}
