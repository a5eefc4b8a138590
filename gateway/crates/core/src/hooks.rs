//! Hooks: `POST /hooks/wake`, `/hooks/agent` and the addresses of `hooks.mappings`. A program that holds the hooks' token
//! may put texts before an agent and have it answer; it can read nothing and change nothing else.

mod ask;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use gateway_config::HooksSettings;
use gateway_protocol::ids::AgentId;
use gateway_protocol::session_key::SessionKey;
use gateway_store::{Remembered, StoreError};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use self::ask::{Ask, Work, asked_agent, asked_wake, mapped};
use crate::auth::CredentialClass;
use crate::cron::{Announce, heartbeat, is_silent};
use crate::delivery::ReplyTarget;
use crate::limits::{HOOK_KEY_MAX_BYTES, HOOK_TEXT_MAX_BYTES, HOOK_WAIT_MAX_MS};
use crate::rpc::error as rpc_error;
use crate::session::{
    AcceptOutcomeInfo, AcceptRun, Origin, RunOutcome, accept_in_tx, kick, request_hash,
};
use crate::tenant::Tenant;
use crate::trace::TraceParent;

/// Prefixes of sessions that belong to the gateway's own parts.
const RESERVED: [&str; 5] = ["subagent:", "cron:", "acp:", "boot:", "hook:"];

/// A request as the HTTP surface took it.
#[derive(Debug)]
pub struct HookRequest {
    /// What follows the root of the address.
    pub name: String,
    /// The bearer, if there is one.
    pub bearer: Option<String>,
    /// Whether the address has a `token` parameter: credentials in addresses end up in logs.
    pub token_in_query: bool,
    /// Whether the body says that it is JSON.
    pub is_json: bool,
    /// `Idempotency-Key`.
    pub idempotency_key: Option<String>,
    /// Who asks.
    pub peer: IpAddr,
    /// W3C trace context of who asks, if it sent one.
    pub traceparent: Option<Box<str>>,
    /// The raw body.
    pub body: Vec<u8>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub struct HookAnswer {
    /// HTTP status.
    pub status: u16,
    /// JSON, or plain text.
    pub body: HookBody,
    /// `Retry-After`, in seconds.
    pub retry_after_s: Option<u64>,
}

/// Body of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum HookBody {
    /// `application/json`.
    Json(Value),
    /// `text/plain`.
    Text(&'static str),
}

impl HookAnswer {
    fn ok(body: Value) -> Self {
        Self::json(200, body)
    }

    fn json(status: u16, body: Value) -> Self {
        Self {
            status,
            body: HookBody::Json(body),
            retry_after_s: None,
        }
    }

    fn text(status: u16, text: &'static str) -> Self {
        Self {
            status,
            body: HookBody::Text(text),
            retry_after_s: None,
        }
    }

    fn wrong(error: impl Into<String>) -> Self {
        Self::json(400, json!({"ok": false, "error": error.into()}))
    }

    /// There is no such address.
    #[must_use]
    pub fn not_found() -> Self {
        Self::text(404, "Not Found")
    }

    fn of_rpc(error: &gateway_protocol::RpcError) -> Self {
        Self {
            retry_after_s: error.retry_after_ms.map(|ms| ms.div_ceil(1_000).max(1)),
            ..Self::json(
                error.detail.row().http,
                json!({"ok": false, "error": error.message}),
            )
        }
    }

    fn of_store(tenant: &Tenant, error: &StoreError) -> Self {
        Self::of_rpc(&rpc_error::store(tenant, error))
    }
}

/// Largest body of a tenant's hooks below this root; `None`: there are none.
#[must_use]
pub fn body_limit(tenant: &Tenant, root: &str) -> Option<usize> {
    let settings = tenant.settings();
    settings
        .hooks
        .as_ref()
        .filter(|hooks| hooks.root == root)
        .map(|hooks| hooks.max_body_bytes)
}

/// Serves a request. Who asks is checked before anything of the body is looked at.
pub async fn serve(tenant: &Arc<Tenant>, request: HookRequest) -> HookAnswer {
    let settings = tenant.settings();
    let Some(hooks) = &settings.hooks else {
        return HookAnswer::not_found();
    };
    if request.token_in_query {
        return HookAnswer::text(
            400,
            "the hooks' token belongs into the header Authorization: Bearer, not into the address",
        );
    }
    // Reserved before the token is looked at, so that many guesses at once count as many.
    let now = tenant.clock().monotonic_ms();
    let place = match tenant
        .hook_limiter()
        .reserve(request.peer, CredentialClass::Webhook, now)
    {
        Ok(place) => place,
        Err(wait_ms) => {
            return HookAnswer {
                retry_after_s: Some(wait_ms.div_ceil(1_000).max(1)),
                ..HookAnswer::text(429, "Too Many Requests")
            };
        }
    };
    let given = request.bearer.as_deref().unwrap_or_default();
    // Digests have one length, so that the comparison tells nothing of the token's.
    let right: bool = Sha256::digest(given.as_bytes())
        .ct_eq(&Sha256::digest(hooks.token.expose().as_bytes()))
        .into();
    if !right {
        place.failed();
        return HookAnswer::text(401, "Unauthorized");
    }
    place.succeeded();
    let mapping = hooks.mappings.get(&request.name);
    if mapping.is_none() && request.name != "wake" && request.name != "agent" {
        return HookAnswer::not_found();
    }
    if !request.is_json {
        return HookAnswer::json(
            415,
            json!({"ok": false, "error": "the body must be JSON (content-type: application/json)"}),
        );
    }
    let body = match gateway_protocol::json::parse_strict(&request.body) {
        Ok(Value::Object(map)) => map,
        Ok(_) => return HookAnswer::wrong("the body must be a JSON object"),
        Err(error) => return HookAnswer::wrong(format!("the body is not JSON: {error}")),
    };
    if request
        .idempotency_key
        .as_ref()
        .is_some_and(|key| key.is_empty() || key.len() > HOOK_KEY_MAX_BYTES)
    {
        return HookAnswer::wrong(format!(
            "Idempotency-Key must have 1 to {HOOK_KEY_MAX_BYTES} bytes"
        ));
    }
    let work = match (mapping, request.name.as_str()) {
        (Some(mapping), _) => mapped(mapping, &body),
        (None, "wake") => asked_wake(&body),
        (None, _) => asked_agent(hooks, &body),
    };
    match work {
        Ok(work) => run(tenant, hooks, work, &request).await,
        Err(why) => HookAnswer::wrong(why),
    }
}

async fn run(
    tenant: &Arc<Tenant>,
    hooks: &HooksSettings,
    work: Work,
    request: &HookRequest,
) -> HookAnswer {
    if tenant.hold().is_some() {
        return HookAnswer {
            retry_after_s: Some(crate::limits::HELD_RETRY_AFTER_MS / 1_000),
            ..HookAnswer::json(
                503,
                json!({"ok": false, "error": "the tenant takes no work"}),
            )
        };
    }
    if tenant.sessions().is_draining() {
        return HookAnswer {
            retry_after_s: Some(1),
            ..HookAnswer::json(
                503,
                json!({"ok": false, "error": "the gateway is shutting down"}),
            )
        };
    }
    let (named, length) = match &work {
        Work::Wake { agent, text, .. } => (agent, text.len()),
        Work::Agent(ask) => (&ask.agent, ask.message.len()),
    };
    if length > HOOK_TEXT_MAX_BYTES {
        return HookAnswer::json(
            413,
            json!({"ok": false, "error": format!("the text is longer than {HOOK_TEXT_MAX_BYTES} bytes")}),
        );
    }
    let agent = match named.as_deref() {
        None => tenant.default_agent(),
        Some(id) => {
            let known = AgentId::parse(id).ok().filter(|id| {
                tenant.agents().exists(id.as_str())
                    && hooks
                        .allowed_agents
                        .as_ref()
                        .is_none_or(|ids| ids.contains(id.as_str()))
            });
            match known {
                Some(id) => id,
                None => return HookAnswer::wrong("unknown agentId"),
            }
        }
    };
    match work {
        Work::Wake { text, now, .. } => wake(tenant, &agent, text, now, request).await,
        Work::Agent(ask) => answer(tenant, hooks, &agent, *ask, request).await,
    }
}

async fn wake(
    tenant: &Arc<Tenant>,
    agent: &AgentId,
    text: String,
    now: bool,
    request: &HookRequest,
) -> HookAnswer {
    let mode = if now { "now" } else { "next-heartbeat" };
    let answer = json!({"ok": true, "mode": mode, "eventOutcome": "queued"});
    if let Some(key) = &request.idempotency_key {
        let hash = request_hash(&[&request.name, mode, agent.as_str(), &text]);
        let (key, kept, at) = (key.clone(), answer.to_string(), tenant.now_ms());
        let session = SessionKey::main(agent).into_string();
        // The text and the key that it came under are one commit.
        let pushed = text.clone();
        let known = tenant
            .db()
            .write(move |w| {
                let known = w.remember("hook", &key, &hash, &kept, at)?;
                if matches!(known, Remembered::New) {
                    w.push_system_event(&session, &pushed, at)?;
                }
                Ok(known)
            })
            .await;
        match known {
            Ok(Remembered::Same(_)) => return HookAnswer::ok(answer),
            Ok(Remembered::New) => {}
            Err(StoreError::Conflict(_)) => return conflict(),
            Err(error) => return HookAnswer::of_store(tenant, &error),
        }
        if !now {
            return HookAnswer::ok(answer);
        }
        return match heartbeat::look(tenant, agent).await {
            Ok(()) => HookAnswer::ok(answer),
            Err(error) => HookAnswer::of_store(tenant, &error),
        };
    }
    match heartbeat::wake(tenant, agent, &SessionKey::main(agent), &text, now).await {
        Ok(()) => HookAnswer::ok(answer),
        Err(error) => HookAnswer::of_store(tenant, &error),
    }
}

fn conflict() -> HookAnswer {
    HookAnswer::json(
        409,
        json!({"ok": false, "error": "this Idempotency-Key was used for another request"}),
    )
}

async fn answer(
    tenant: &Arc<Tenant>,
    hooks: &HooksSettings,
    agent: &AgentId,
    ask: Ask,
    request: &HookRequest,
) -> HookAnswer {
    let given = request_hash(&[
        "hook",
        &request.name,
        agent.as_str(),
        &ask.message,
        ask.session_key.as_deref().unwrap_or_default(),
    ]);
    // The same key is the same run, and the same session where a new one is made for it.
    let id = match &request.idempotency_key {
        Some(key) => request_hash(&["hook key", key])[..32].to_owned(),
        None => tenant.new_id(),
    };
    let run_id = format!("hook:{id}");
    let key = match session(hooks, agent, ask.session_key.as_deref(), &id) {
        Ok(key) => key,
        Err(why) => return HookAnswer::wrong(why),
    };
    if !tenant.sessions().has_room(key.as_str()) {
        return HookAnswer {
            retry_after_s: Some(1),
            ..HookAnswer::json(
                503,
                json!({"ok": false, "error": "too many messages wait in this session"}),
            )
        };
    }
    let reply_to = match way_back(tenant, agent, &ask).await {
        Ok(way) => way,
        Err(answer) => return answer,
    };
    let attempted = reply_to.is_some();
    let mut run = AcceptRun::new(tenant, key, run_id.clone(), Origin::Hook, ask.message);
    run.agent_id = agent.as_str().to_owned();
    run.request_hash = given;
    run.reply_to = reply_to;
    run.timeout_ms = ask.timeout_ms;
    run.traceparent = (request.traceparent.as_deref()).and_then(TraceParent::parse);
    run.profile.label = ask.name.map(|name| name.chars().take(200).collect());
    run.model = ask.model;
    let accepted = tenant.db().write(move |w| accept_in_tx(w, run)).await;
    let accepted = match accepted {
        Ok(accepted) => accepted,
        Err(error) => return HookAnswer::of_store(tenant, &error),
    };
    let ended = match kick(tenant, accepted) {
        AcceptOutcomeInfo::New { .. } => None,
        AcceptOutcomeInfo::Existing(row) => row
            .state
            .is_ended()
            .then(|| Arc::new(RunOutcome::from_row(&row))),
        AcceptOutcomeInfo::Conflict => return conflict(),
        AcceptOutcomeInfo::SessionChanged => return HookAnswer::wrong("the session changed"),
    };
    let mut body = json!({"ok": true, "runId": run_id});
    if ask.wait {
        body["completion"] = completion(tenant, &run_id, ended, attempted).await;
    }
    HookAnswer::ok(body)
}

fn session(
    hooks: &HooksSettings,
    agent: &AgentId,
    asked: Option<&str>,
    id: &str,
) -> Result<SessionKey, String> {
    let named = asked
        .or(hooks.default_session_key.as_deref())
        .filter(|key| !key.trim().is_empty());
    let Some(text) = named else {
        return SessionKey::owned(agent, "hook", id).map_err(|why| why.to_string());
    };
    let key = SessionKey::qualify_for(text.trim(), Some(agent), agent)
        .map_err(|why| format!("sessionKey: {why}"))?;
    if RESERVED.iter().any(|prefix| key.rest().starts_with(prefix)) {
        return Err("sessionKey: this prefix belongs to the gateway".to_owned());
    }
    Ok(key)
}

/// Where the answer goes. A conversation that was named must be there; without one there may be none yet.
async fn way_back(
    tenant: &Arc<Tenant>,
    agent: &AgentId,
    ask: &Ask,
) -> Result<Option<ReplyTarget>, HookAnswer> {
    if !ask.deliver {
        return Ok(None);
    }
    let announce = match (&ask.channel, &ask.to) {
        (Some(kind), Some(to)) => Announce::Here {
            kind: kind.clone(),
            account: None,
            to: to.clone(),
            thread: None,
        },
        _ => Announce::Last,
    };
    match announce.find(tenant, agent.as_str()).await {
        Ok(Ok(way)) => Ok(Some(way)),
        Ok(Err(why)) if ask.channel.is_some() => Err(HookAnswer::wrong(why)),
        Ok(Err(_)) => Ok(None),
        Err(error) => Err(HookAnswer::of_store(tenant, &error)),
    }
}

async fn completion(
    tenant: &Arc<Tenant>,
    run_id: &str,
    ended: Option<Arc<RunOutcome>>,
    attempted: bool,
) -> Value {
    let ended = match ended {
        Some(ended) => Some(ended),
        None => match tenant.sessions().watch_run(run_id) {
            Some(Ok(wait)) => {
                let limit = Duration::from_millis(HOOK_WAIT_MAX_MS);
                tokio::select! {
                    biased;
                    ended = tokio::time::timeout(limit, wait.outcome()) => ended.ok(),
                    () = tenant.stop_token().cancelled() => None,
                }
            }
            Some(Err(_)) => None,
            // It ended between the two.
            None => {
                let id = run_id.to_owned();
                let row = tenant.db().read(move |r| r.get_run(&id)).await;
                row.ok()
                    .flatten()
                    .filter(|row| row.state.is_ended())
                    .map(|row| Arc::new(RunOutcome::from_row(&row)))
            }
        },
    };
    let Some(ended) = ended else {
        return json!({"status": "timeout", "delivered": false, "deliveryAttempted": false});
    };
    let silent = ended.error.is_none() && is_silent(&ended.text, 0);
    let mut told = json!({
        "status": match ended.state {
            gateway_store::RunState::Ok => "ok",
            gateway_store::RunState::Aborted => "aborted",
            _ => "error",
        },
        "replyDisposition": if silent { "silent" } else { "reply" },
        // The outbox has it; whether it arrived is known later (`outbox.list`).
        "delivered": false,
        "deliveryAttempted": attempted && !silent,
    });
    if let Some(error) = &ended.error {
        told["error"] = json!(error);
    }
    told
}
