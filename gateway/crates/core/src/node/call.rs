//! One call of a command: what has to be true before, the request, and the wait for its one outcome.

use std::sync::Arc;
use std::time::Duration;

use gateway_protocol::error::{DetailCode, RpcError};
use gateway_protocol::event::{NodeInvokeCancel, NodeInvokeProgress, NodeInvokeRequest};
use gateway_protocol::ids::ConnId;
use gateway_protocol::methods::nodes::{
    NodeInvokeCancelPayload, NodeInvokeProgressPayload, NodeInvokeRequestPayload,
};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::invoke::{Begun, Key, NewCall, Outcome, Waiter};
use super::pending;
use super::policy::{Verdict, judge, runs_programs};
use crate::hub::{Pushed, targeted};
use crate::limits::{
    NODE_INVOKE_DEFAULT_MS, NODE_INVOKE_MAX_MS, NODE_PARAMS_MAX_BYTES, NODE_RESULT_MAX_BYTES,
};
use crate::pair::book::{Book, Device};
use crate::pair::{self, record};
use crate::rpc::error;
use crate::tenant::Tenant;

/// What a caller wants.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) node_id: String,
    pub(crate) command: String,
    pub(crate) key: String,
    pub(crate) params: Option<Value>,
    pub(crate) timeout_ms: Option<u64>,
    /// Who gets the progress.
    pub(crate) progress_to: Option<ConnId>,
    /// Whether it may wait for a node that is not connected.
    pub(crate) queue: bool,
}

fn refused(reason: &str, command: &str, text: String) -> RpcError {
    RpcError::invalid(format!("node command not allowed: {text}"))
        .with("reason", reason)
        .with("command", command)
}

/// Whether the settings let a command of this device be called at all.
pub(super) fn allowed(tenant: &Tenant, device: &Device, command: &str) -> Result<(), RpcError> {
    let settings = tenant.settings();
    let settings = &settings.node_commands;
    let platform = record::platform(device);
    match judge(command, platform, settings) {
        Verdict::Usual if runs_programs(command) && !settings.allow.contains(command) => {
            Err(refused(
                "exec approval required",
                command,
                format!(
                    "\"{command}\" runs programs and needs an exec approval, which this gateway cannot ask for yet; \
                     gateway.nodes.commands.allow lets it through without one"
                ),
            ))
        }
        Verdict::Usual => Ok(()),
        Verdict::NotAllowed => Err(refused(
            "command not allowlisted",
            command,
            format!("\"{command}\" requires explicit gateway.nodes.commands.allow opt-in"),
        )),
        Verdict::Denied => Err(refused(
            "command denied",
            command,
            format!("\"{command}\" is in gateway.nodes.commands.deny"),
        )),
    }
}

/// Whether a command was approved.
pub(super) fn approved(book: &Book, node_id: &str, command: &str) -> Result<(), RpcError> {
    if book
        .record(node_id)
        .is_some_and(|r| r.offer.offers(command))
    {
        return Ok(());
    }
    Err(match book.node_request_of(node_id) {
        Some(q) if q.offer.offers(command) => refused(
            "command not approved",
            command,
            format!(
                "\"{command}\" waits for an operator: gateway nodes approve {}",
                q.row.id
            ),
        ),
        _ => refused(
            "command not approved",
            command,
            format!(
                "\"{command}\" was not approved; the node asks for it when it connects and offers it"
            ),
        ),
    })
}

fn not_connected() -> RpcError {
    RpcError::new(DetailCode::NodeNotConnected, "node not connected")
        .with(
            "nodeError",
            serde_json::json!({"code": "NOT_CONNECTED", "message": "node not connected"}),
        )
        .with("nodeCommandDispatched", false)
}

fn failed(code: &str, message: &str) -> RpcError {
    let shown = if code.is_empty() {
        message.to_owned()
    } else {
        format!("{code}: {message}")
    };
    RpcError::new(DetailCode::NodeFailed, shown)
        .with(
            "nodeError",
            serde_json::json!({"code": code, "message": message}),
        )
        .with("nodeCommandDispatched", true)
}

/// An outcome as the caller gets it.
fn answer(outcome: &Outcome) -> Result<Outcome, RpcError> {
    match outcome {
        Outcome::Done { .. } | Outcome::Queued { .. } => Ok(outcome.clone()),
        Outcome::Failed { code, message } => Err(failed(code, message)),
        Outcome::TimedOut => Err(failed("TIMEOUT", "node invoke timed out")),
        Outcome::Disconnected => Err(failed(
            "NODE_DISCONNECTED",
            "the node's connection ended before it answered; the command may have run",
        )),
        Outcome::Cancelled => Err(failed(
            "CANCELLED",
            "whoever called went away before the node answered; the command may have run. To run it again, use another idempotencyKey",
        )),
        Outcome::NotSent => Err(not_connected()),
    }
}

/// A caller that waits; when it goes away before the end, the call may end with it.
struct Waiting<'a> {
    tenant: &'a Arc<Tenant>,
    node_id: &'a str,
    id: Arc<str>,
    place: u64,
    over: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let now = self.tenant.clock().monotonic_ms();
        let registry = self.tenant.nodes();
        let last = registry
            .state
            .lock()
            .invokes
            .leave(&self.id, self.place, now);
        if last {
            cancel(self.tenant, self.node_id, &self.id);
        }
    }
}

/// Tells the node that nobody waits any more.
fn cancel(tenant: &Tenant, node_id: &str, id: &str) {
    let payload = NodeInvokeCancelPayload {
        invoke_id: id.to_owned(),
        node_id: node_id.to_owned(),
    };
    if let Some(event) = targeted::<NodeInvokeCancel>(&payload) {
        tenant.nodes().tell(node_id, &event);
    }
}

/// Hash of a command and what it takes.
fn digest(command: &str, params: Option<&str>) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(command.as_bytes());
    hash.update([0, u8::from(params.is_some())]);
    hash.update(params.unwrap_or_default().as_bytes());
    hash.finalize().into()
}

/// Calls a command. Gives [`Outcome::Done`] or [`Outcome::Queued`].
pub(crate) async fn ask(tenant: &Arc<Tenant>, asked: Asked) -> Result<Outcome, RpcError> {
    let book = pair::load(tenant)
        .await
        .map_err(|e| error::store(tenant, &e))?;
    let device = book
        .node(&asked.node_id)
        .ok_or_else(|| RpcError::not_found("node"))?;
    allowed(tenant, device, &asked.command)?;
    let params = asked.params.as_ref().map(Value::to_string);
    if params.as_ref().map_or(0, String::len) > NODE_PARAMS_MAX_BYTES {
        return Err(RpcError::new(
            DetailCode::PayloadTooLarge,
            "what the command takes is too large",
        )
        .with("limitBytes", NODE_PARAMS_MAX_BYTES));
    }
    let key = Key {
        node: asked.node_id.as_str().into(),
        name: asked.key.clone(),
    };
    let digest = digest(&asked.command, params.as_deref());
    let registry = tenant.nodes();
    let now = tenant.clock().monotonic_ms();
    // What happened under this key is told whether the node is still there or not.
    let known = registry.state.lock().invokes.recall(&key, &digest, now);
    let waiter = match known {
        Some(begun) => begun_or(begun)?,
        None => {
            approved(&book, &asked.node_id, &asked.command)?;
            let connected = registry.state.lock().live.contains_key(&*asked.node_id);
            if !connected && asked.queue {
                let queued = pending::leave(tenant, &asked, params).await?;
                let mut state = registry.state.lock();
                state.invokes.note(key, digest, queued.clone(), now);
                return Ok(queued);
            }
            send(tenant, &asked, key, digest, params)?
        }
    };
    match waiter {
        Ok(waiter) => outcome(tenant, &asked.node_id, waiter).await,
        Err(known) => answer(&known),
    }
}

type Waited = Result<Waiter, Arc<Outcome>>;

fn begun_or(begun: Begun) -> Result<Waited, RpcError> {
    match begun {
        Begun::New(waiter) | Begun::Joined(waiter) => Ok(Ok(waiter)),
        Begun::Known(outcome) => Ok(Err(outcome)),
        Begun::Forgotten => Err(RpcError::new(
            DetailCode::Conflict,
            "this call was made and answered; its result was too large to be kept for a repetition",
        )),
        Begun::Conflict => Err(RpcError::new(
            DetailCode::IdempotencyConflict,
            "the idempotencyKey was used for another call of this node",
        )),
        Begun::Full(what) => Err(RpcError::new(
            DetailCode::Overloaded,
            format!("too many calls of nodes at once: {what}"),
        )
        .retry_after_ms(1_000)),
    }
}

/// Begins the call and sends it to the node.
fn send(
    tenant: &Arc<Tenant>,
    asked: &Asked,
    key: Key,
    digest: [u8; 32],
    params: Option<String>,
) -> Result<Waited, RpcError> {
    let timeout_ms = match asked.timeout_ms {
        None | Some(0) => NODE_INVOKE_DEFAULT_MS,
        Some(ms) => ms.min(NODE_INVOKE_MAX_MS),
    };
    let registry = tenant.nodes();
    let now = tenant.clock().monotonic_ms();
    let id: Arc<str> = tenant.new_id().into();
    let (waiter, sink) = {
        let mut state = registry.state.lock();
        let Some(live) = state.live.get(&*asked.node_id) else {
            return Err(not_connected());
        };
        if !live.declared.offer.offers(&asked.command) {
            return Err(refused(
                "command not declared",
                &asked.command,
                format!("the node does not offer \"{}\" now", asked.command),
            ));
        }
        let (conn, sink) = (live.conn.clone(), live.sink.clone());
        let call = NewCall {
            id: id.clone(),
            key,
            digest,
            conn,
            deadline_ms: now.saturating_add(timeout_ms),
            progress_to: asked.progress_to.clone(),
        };
        match state.invokes.begin(call, now) {
            Begun::New(waiter) => (waiter, sink),
            other => return begun_or(other),
        }
    };
    let request = targeted::<NodeInvokeRequest>(&NodeInvokeRequestPayload {
        id: id.to_string(),
        node_id: asked.node_id.clone(),
        command: asked.command.clone(),
        params_json: params,
        timeout_ms,
        idempotency_key: Some(asked.key.clone()),
    });
    let sent = request.is_some_and(|event| sink.push(&event) == Pushed::Queued);
    if !sent {
        registry
            .state
            .lock()
            .invokes
            .not_sent(&id, tenant.clock().monotonic_ms());
    }
    Ok(Ok(waiter))
}

/// Waits for the outcome of a call.
async fn outcome(
    tenant: &Arc<Tenant>,
    node_id: &str,
    mut waiter: Waiter,
) -> Result<Outcome, RpcError> {
    let mut waiting = Waiting {
        tenant,
        node_id,
        id: waiter.id.clone(),
        place: waiter.place,
        over: false,
    };
    let got = loop {
        let left = waiter
            .deadline_ms
            .saturating_sub(tenant.clock().monotonic_ms());
        tokio::select! {
            biased;
            got = &mut waiter.outcome => break got.ok(),
            () = tokio::time::sleep(Duration::from_millis(left)) => {
                let now = tenant.clock().monotonic_ms();
                if tenant.nodes().state.lock().invokes.expire(&waiter.id, now) {
                    cancel(tenant, node_id, &waiter.id);
                }
            }
        }
    };
    waiting.over = true;
    match got {
        Some(outcome) => answer(&outcome),
        None => Err(RpcError::unavailable("the call has ended")),
    }
}

/// A node gives a result. `false`: nobody waits for it from this connection.
pub(crate) fn give(
    tenant: &Tenant,
    node_id: &str,
    conn: &ConnId,
    id: &str,
    outcome: Outcome,
) -> bool {
    let large = match &outcome {
        Outcome::Done {
            payload,
            payload_json,
        } => {
            let bytes = payload_json.as_ref().map_or_else(
                || serde_json::to_vec(payload).map_or(usize::MAX, |b| b.len()),
                String::len,
            );
            bytes > NODE_RESULT_MAX_BYTES
        }
        Outcome::Failed { code, message } => code.len() + message.len() > 64 * 1024,
        _ => false,
    };
    let outcome = if large {
        Outcome::Failed {
            code: "RESULT_TOO_LARGE".to_owned(),
            message: format!("the node's result is larger than {NODE_RESULT_MAX_BYTES} bytes"),
        }
    } else {
        outcome
    };
    let now = tenant.clock().monotonic_ms();
    let registry = tenant.nodes();
    registry
        .state
        .lock()
        .invokes
        .result(id, node_id, conn, outcome, now)
}

/// A node says how far it is. `false`: nobody wants to know it from this connection.
pub(crate) fn progress(
    tenant: &Tenant,
    node_id: &str,
    conn: &ConnId,
    id: &str,
    seq: u64,
    chunk: String,
) -> bool {
    let registry = tenant.nodes();
    let wanted = registry
        .state
        .lock()
        .invokes
        .progress(id, node_id, conn, seq);
    let Some(wanted) = wanted else { return false };
    let event = targeted::<NodeInvokeProgress>(&NodeInvokeProgressPayload {
        invoke_id: id.to_owned(),
        node_id: node_id.to_owned(),
        idempotency_key: wanted.key,
        seq,
        chunk,
    });
    event.is_some_and(|event| tenant.hub().push_to(&wanted.to, &event))
}
