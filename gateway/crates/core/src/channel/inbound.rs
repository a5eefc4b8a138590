//! What one guest event did, made durable: messages, kv, alarm, submits and the runs that the messages start, in ONE
//! transaction. The platform is answered after it.

use std::sync::Arc;

use gateway_protocol::ids::AgentId;
use gateway_store::{InboxOutcome, NewOutbox, NewPairing, PairingRequested, StoreError, Write};
use gateway_wasm::{
    Action, CommitReport, Effects, EventRef, HookEvent, HostError, InboundEvent, InboundMessage,
    PeerKind, Submit, WakeChange,
};

use super::access::{Access, Asking, ConversationKind, decide};
use super::account::Account;
use super::limits::{OUTBOX_TTL_MS, PAIRING_CODE_CHARS, PAIRING_PENDING_MAX, PAIRING_TTL_MS};
use crate::delivery::ReplyTarget;
use crate::guest_io::host_error;
use crate::policy::{self, Judged};
use crate::route::{RouteInput, resolve};
use crate::session::{self, AcceptRun, Accepted, Origin, SessionProfile};
use crate::tenant::Tenant;
use crate::trace::{Stage, TraceParent, stage};

/// One message with everything that needs the tenant, worked out before the transaction.
struct Prepared {
    message: InboundMessage,
    conversation_json: String,
    run: AcceptRun,
    code: String,
    /// What the hooks say; `None`: they were not asked, because nobody would have let it in.
    judged: Option<Judged>,
}

/// What the transaction decided.
#[derive(Default)]
struct Done {
    report: CommitReport,
    /// New runs with their traces.
    accepted: Vec<(Accepted, String)>,
    submits: Vec<(i64, Submit)>,
    denied: Vec<&'static str>,
    /// Holds whose message starts no run: nobody will ever answer them.
    released: Vec<String>,
    pairing_sent: bool,
}

/// Commits the effects and starts what they caused.
pub(super) async fn commit(
    account: &Arc<Account>,
    tenant: &Arc<Tenant>,
    fx: Effects,
) -> Result<CommitReport, HostError> {
    let now = tenant.now_ms();
    let mut traces: Vec<String> = fx
        .consumed
        .iter()
        .filter_map(|event| match event {
            EventRef::Webhook { handle } => Some(handle.clone()),
            EventRef::HttpResult { id } => Some(id.clone()),
            EventRef::Started | EventRef::Wake => None,
        })
        .collect();
    if traces.is_empty() {
        traces.push(tenant.new_id());
    }
    let trace_all = |what: Stage| {
        for trace in &traces {
            stage(tenant, what, trace, None);
        }
    };
    if !fx.emits.is_empty() {
        trace_all(Stage::Guest);
    }
    let agent = AgentId::parse(&account.settings.agent).unwrap_or_else(|_| tenant.default_agent());
    let mut prepared = Vec::with_capacity(fx.emits.len());
    for message in &fx.emits {
        prepared.push(prepare(
            account,
            tenant,
            &agent,
            message.clone(),
            &fx.actions,
            &traces,
        )?);
    }
    if policy::is_asked(tenant, policy::INBOUND) {
        for prepared in &mut prepared {
            prepared.judged = ask_hooks(account, tenant, prepared).await?;
        }
    } else {
        for prepared in &mut prepared {
            prepared.judged = Some(Judged::Passed(serde_json::Map::new()));
        }
    }
    let audit_key = tenant.shared().audit_key;
    let ended = account.ended_submits(&fx);
    let (kind, id) = (account.kind().to_owned(), account.id().to_owned());
    let (access, quota) = (
        account.access.clone(),
        account.ready.as_ref().map_or(0, |ready| ready.kv_quota),
    );
    let (wake, ended_rows, space) = (fx.wake, ended.clone(), account.kv_space());
    let write = move |w: &mut Write<'_>| -> Result<Done, StoreError> {
        let mut done = Done::default();
        space.apply(w, &fx.kv, quota)?;
        if let Some(state) = &fx.state {
            w.set_account_guest_state(&kind, &id, Some(state), now)?;
        }
        match fx.wake {
            Some(WakeChange::At(at)) => w.set_account_wake(&kind, &id, Some(at), now)?,
            Some(WakeChange::Clear) => w.set_account_wake(&kind, &id, None, now)?,
            // The alarm that fired is used up.
            None if fx.consumed.contains(&EventRef::Wake) => {
                w.set_account_wake(&kind, &id, None, now)?
            }
            None => {}
        }
        for row in &ended_rows {
            w.finish_submit(*row)?;
        }
        for submit in fx.submits {
            let text = serde_json::to_string(&submit)
                .map_err(|error| StoreError::Io(format!("submit: {error}")))?;
            let number =
                u64::from_str_radix(submit.id.get(..15).unwrap_or(&submit.id), 16).unwrap_or(0);
            let row = w.insert_submit(&kind, &id, number, &text, now)?;
            done.submits.push((row, submit));
        }
        for message in prepared {
            accept_message(w, &kind, &id, &access, &audit_key, message, now, &mut done)?;
        }
        Ok(done)
    };
    let done = tenant
        .db()
        .write(write)
        .await
        .map_err(|error| host_error(&error))?;
    trace_all(Stage::Commit);
    match wake {
        Some(WakeChange::At(at)) => account.arm(tenant, at),
        Some(WakeChange::Clear) => account.disarm(),
        None => {}
    }
    account.run_submits(tenant, &ended, done.submits);
    for handle in &done.released {
        account.release_hold(handle);
    }
    if done.report.accepted > 0 {
        account.seen.lock().last_inbound_at = Some(now);
        tenant
            .metrics()
            .inbound
            .add(u64::from(done.report.accepted));
    }
    for why in done.denied {
        tracing::debug!(
            tenant = tenant.slug(),
            channel = account.kind(),
            account = account.id(),
            why,
            "message not let in"
        );
    }
    let mode = tenant.settings().session.queue_mode;
    for (accepted, trace) in done.accepted {
        stage(tenant, Stage::Route, &trace, None);
        session::kick_with(tenant, accepted, mode);
    }
    if done.pairing_sent {
        account.wake_delivery(tenant);
    }
    Ok(done.report)
}

fn prepare(
    account: &Account,
    tenant: &Tenant,
    agent: &AgentId,
    message: InboundMessage,
    actions: &[Action],
    traces: &[String],
) -> Result<Prepared, HostError> {
    let conversation_json = serde_json::to_string(&message.conversation)
        .map_err(|error| HostError::Internal(error.to_string()))?;
    let key = resolve(&RouteInput {
        agent,
        dm_scope: tenant.settings().session.dm_scope,
        kind: account.kind(),
        account: account.id(),
        conversation: &message.conversation,
        sender_id: &message.sender.id,
    });
    if !tenant.sessions().has_room(key.as_str()) {
        return Err(HostError::Unavailable(
            "too many messages wait in this session; try again later".to_owned(),
        ));
    }
    // The same message always is the same run, whoever delivers it and however often.
    let run_id = format!(
        "ch-{}",
        &session::request_hash(&[
            account.kind(),
            account.id(),
            &conversation_json,
            &message.platform_message_id
        ])[..40]
    );
    // A hold that the guest did not also return as an action is answered already.
    let held = message.hold.clone().filter(|handle| {
        actions
            .iter()
            .any(|action| matches!(action, Action::Hold { handle: held, .. } if held == handle))
    });
    // Several requests may be served at once: a held one says which of them the message is of.
    let trace = match &message.hold {
        Some(handle) if traces.contains(handle) => handle.as_str(),
        _ => traces.first().map_or("-", String::as_str),
    };
    let mut run = AcceptRun::new(tenant, key, run_id, Origin::Channel, message.text.clone());
    let remote = account.remotes.lock().get(trace).copied();
    run.traceparent = (trace != "-").then(|| TraceParent::of_message(trace, remote));
    run.reply_to = Some(ReplyTarget {
        kind: account.kind().to_owned(),
        account: account.id().to_owned(),
        conversation_json: conversation_json.clone(),
        hold: held,
        reply_to: (message.conversation.kind != PeerKind::Direct)
            .then(|| message.platform_message_id.clone()),
        trace: Some(trace.to_owned()),
        quiet: None,
    });
    run.profile = SessionProfile {
        label: None,
        display_name: message.sender.display_name.clone(),
        channel: Some(account.kind().to_owned()),
        account: Some(account.id().to_owned()),
        peer: Some(match message.conversation.kind {
            PeerKind::Direct => message.sender.id.clone(),
            PeerKind::Group | PeerKind::Channel => message.conversation.id.clone(),
        }),
    };
    Ok(Prepared {
        judged: None,
        code: pairing_code(tenant),
        message,
        conversation_json,
        run,
    })
}

/// How the sender of a message stands to the account.
fn asking(message: &InboundMessage, paired: bool) -> Asking<'_> {
    Asking {
        kind: match message.conversation.kind {
            PeerKind::Direct => ConversationKind::Direct,
            PeerKind::Group | PeerKind::Channel => ConversationKind::Group,
        },
        sender_id: &message.sender.id,
        conversation_id: &message.conversation.id,
        is_bot: message.sender.is_bot,
        mentioned: message.mentioned,
        paired,
    }
}

/// Asks the hooks about a message that would be let in: a stranger can have none of them run.
async fn ask_hooks(
    account: &Account,
    tenant: &Arc<Tenant>,
    prepared: &Prepared,
) -> Result<Option<Judged>, HostError> {
    let message = &prepared.message;
    let (kind, id, sender) = (
        account.kind().to_owned(),
        account.id().to_owned(),
        message.sender.id.clone(),
    );
    let paired = tenant
        .db()
        .read(move |r| r.has_contact(&kind, &id, &sender))
        .await
        .map_err(|error| host_error(&error))?;
    if decide(&account.access, &asking(message, paired)) != Access::Allow {
        return Ok(None);
    }
    let event = HookEvent::MessageInbound(InboundEvent {
        channel: account.kind().to_owned(),
        account: account.id().to_owned(),
        platform_message_id: message.platform_message_id.clone(),
        conversation: message.conversation.clone(),
        sender: message.sender.clone(),
        text: message.text.clone(),
        mentioned: message.mentioned,
        agent: prepared.run.agent_id.clone(),
        session_key: prepared.run.key.as_str().to_owned(),
    });
    Ok(Some(policy::judge(tenant, &event).await))
}

#[allow(clippy::too_many_arguments)]
fn accept_message(
    w: &mut Write<'_>,
    kind: &str,
    account: &str,
    access: &super::access::AccessRules,
    audit_key: &gateway_store::AuditKey,
    prepared: Prepared,
    now: i64,
    done: &mut Done,
) -> Result<(), StoreError> {
    let Prepared {
        message,
        conversation_json,
        mut run,
        code,
        judged,
    } = prepared;
    let hold = message.hold.clone();
    if w.insert_inbox(
        kind,
        account,
        &conversation_json,
        &message.platform_message_id,
        now,
    )? == InboxOutcome::Duplicate
    {
        done.report.duplicates += 1;
        done.released.extend(hold);
        return Ok(());
    }
    done.report.accepted += 1;
    let paired = w.has_contact(kind, account, &message.sender.id)?;
    match decide(access, &asking(&message, paired)) {
        Access::Allow => {
            match judged {
                Some(Judged::Passed(noted)) => run.annotations = noted,
                Some(Judged::Denied(denial)) => {
                    done.released.extend(hold);
                    done.denied.push("denied by a hook");
                    let object = serde_json::json!({
                        "kind": kind, "account": account, "messageId": message.platform_message_id,
                        "conversation": message.conversation.id, "sender": message.sender.id,
                    });
                    return policy::record_denied(
                        w,
                        audit_key,
                        policy::INBOUND,
                        &denial,
                        object,
                        now,
                    );
                }
                // The sender was let in just now: the event is served once more, and the hooks are asked then.
                None => return Err(StoreError::Busy("who may talk has changed")),
            }
            let trace = run
                .reply_to
                .as_ref()
                .and_then(|target| target.trace.clone())
                .unwrap_or_default();
            let accepted = session::accept_in_tx(w, run)?;
            if accepted.is_new() {
                done.accepted.push((accepted, trace));
            } else {
                done.released.extend(hold);
            }
        }
        Access::OfferPairing => {
            // A request that waits for a reply gets the code as its reply.
            let held = run.reply_to.and_then(|target| target.hold);
            let told = offer_pairing(
                w,
                kind,
                account,
                &message,
                &conversation_json,
                code,
                held,
                now,
            )?;
            if told {
                done.pairing_sent = true;
            } else {
                done.released.extend(hold);
            }
            done.denied.push("sender is not paired");
        }
        Access::Deny(why) => {
            done.released.extend(hold);
            done.denied.push(why);
        }
    }
    Ok(())
}

#[allow(clippy::too_many_arguments)]
fn offer_pairing(
    w: &mut Write<'_>,
    kind: &str,
    account: &str,
    message: &InboundMessage,
    conversation_json: &str,
    code: String,
    hold: Option<String>,
    now: i64,
) -> Result<bool, StoreError> {
    let request = NewPairing {
        code,
        kind: kind.to_owned(),
        account: account.to_owned(),
        sender_id: message.sender.id.clone(),
        display: message.sender.display_name.clone(),
        conversation_json: Some(conversation_json.to_owned()),
        expires_at: now + PAIRING_TTL_MS,
    };
    // Only a new request is told: a stranger who writes again learns nothing and costs nothing.
    let PairingRequested::Created(row) = w.request_pairing(&request, PAIRING_PENDING_MAX, now)?
    else {
        return Ok(false);
    };
    let text = format!(
        "You are not known here yet. Pairing code: {}\nGive it to the owner of this bot. It is valid for {} minutes.",
        row.code,
        PAIRING_TTL_MS / 60_000
    );
    w.enqueue_outbox(
        &NewOutbox {
            kind: kind.to_owned(),
            account: account.to_owned(),
            conversation_json: conversation_json.to_owned(),
            run_id: format!("pairing-{}", row.code),
            text,
            final_rev: true,
            next_at: now,
            expires_at: now + OUTBOX_TTL_MS,
            hold,
            ..NewOutbox::default()
        },
        now,
    )?;
    w.append_event(
        "pairing.requested",
        None,
        &serde_json::json!({"kind": kind, "account": account}).to_string(),
        now,
    )?;
    Ok(true)
}

/// A code that is easily read out: no 0/O, 1/I/L.
fn pairing_code(tenant: &Tenant) -> String {
    const ALPHABET: &[u8; 31] = b"ABCDEFGHJKMNPQRSTUVWXYZ23456789";
    let mut code = String::with_capacity(PAIRING_CODE_CHARS);
    while code.len() < PAIRING_CODE_CHARS {
        let mut bytes = [0u8; 16];
        tenant.shared().random.fill(&mut bytes);
        // Bytes past the last whole round of the alphabet would make some letters likelier.
        let fair = bytes
            .iter()
            .filter(|byte| usize::from(**byte) < 256 / ALPHABET.len() * ALPHABET.len());
        for byte in fair.take(PAIRING_CODE_CHARS - code.len()) {
            code.push(char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]));
        }
    }
    code
}
