//! What `GET /sessions/{key}/history` calls: the messages of a session by pages, and those that come while somebody looks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gateway_protocol::content::{ChatMessage, Role};
use gateway_protocol::error::{DetailCode, RpcError};
use gateway_protocol::frame::Close;
use gateway_protocol::scope::Scope;
use gateway_store::MessageRow;
use tokio::sync::Notify;

use crate::auth::Proof;
use crate::cx::{Caps, Cx};
use crate::host::Host;
use crate::hub::{ConnInfo, EventPolicy, EventSink, HubGuard, Pushed, WireEvent};
use crate::limits::{HISTORY_DEFAULT, HISTORY_MAX};
use crate::openai;
use crate::rpc::error;
use crate::session::events::to_chat_message;

/// Messages that are read first when something may be new: mostly it is one.
const FEW: i64 = 16;

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub struct HistoryRequest {
    /// Whole or short session key.
    pub key: String,
    /// Most messages, at most [`HISTORY_MAX`].
    pub limit: Option<usize>,
    /// Only messages before this number.
    pub before: Option<i64>,
    /// Calls of tools and their results too.
    pub tools: bool,
}

/// A page of messages, the oldest first.
#[derive(Debug, Clone, PartialEq)]
pub struct HistoryPage {
    /// The whole session key.
    pub key: String,
    /// The messages.
    pub messages: Vec<ChatMessage>,
    /// The number to ask before for the next page; `None`: there is nothing older.
    pub next: Option<i64>,
    /// Id of the session, which changes when it is reset.
    pub session_id: String,
    /// Number of the newest message that was looked at; 0 without any.
    pub last: i64,
}

fn shown(rows: &[MessageRow], tools: bool) -> Vec<ChatMessage> {
    rows.iter()
        .map(to_chat_message)
        .filter(|m| tools || m.role != Role::ToolResult)
        .collect()
}

fn key_of(cx: &Cx, text: &str) -> Result<String, RpcError> {
    if !cx.caller.scopes.allows(Scope::Read) {
        return Err(RpcError::missing_scope(Scope::Read));
    }
    // A short key is one of the caller's agent.
    let agent = cx.caller.agent().filter(|_| !text.starts_with("agent:"));
    let (key, owner) = error::session_key(cx, text, agent)?;
    // A session of no agent is shared by all: not for a key of one.
    let shared = key.agent().is_none() && cx.caller.agent().is_some();
    if shared || !openai::may_use(&cx.caller, &owner) {
        return Err(not_found());
    }
    Ok(key.into_string())
}

fn not_found() -> RpcError {
    RpcError::not_found("session")
}

/// A page of a session's messages.
///
/// # Errors
/// `MISSING_SCOPE` without read, a wrong key, `NOT_FOUND`, and those of the store.
pub async fn page(cx: &Cx, request: &HistoryRequest) -> Result<HistoryPage, RpcError> {
    let key = key_of(cx, &request.key)?;
    let limit = request
        .limit
        .unwrap_or(HISTORY_DEFAULT)
        .clamp(1, HISTORY_MAX);
    let (asked, before) = (key.clone(), request.before);
    let (session, page) = cx
        .tenant
        .db()
        .read(move |r| {
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            Ok((r.get_session(&asked)?, r.history(&asked, limit, before, 0)?))
        })
        .await
        .map_err(|e| error::store(&cx.tenant, &e))?;
    let session = session.ok_or_else(not_found)?;
    Ok(HistoryPage {
        messages: shown(&page.items, request.tools),
        next: page.items.first().map(|m| m.seq).filter(|_| page.has_more),
        last: page.items.last().map_or(0, |m| m.seq),
        session_id: session.session_id,
        key,
    })
}

/// Somebody looks at a session as it grows. Dropping it ends that.
pub struct Follower {
    cx: Cx,
    key: String,
    session_id: String,
    last: i64,
    tools: bool,
    sink: Arc<Bell>,
    _hub: HubGuard,
}

impl std::fmt::Debug for Follower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Follower({})", self.key)
    }
}

/// What happened to a session that is followed.
#[derive(Debug, Clone, PartialEq)]
pub enum Followed {
    /// Messages more, the oldest first.
    Messages(Vec<ChatMessage>),
    /// It was reset or is gone: what was told is not what it is.
    Changed,
    /// Nothing for a while.
    Quiet,
    /// It is not told any more: the credential has ended or the gateway stops.
    Ended,
}

/// Rings when something may be new. What is new is read from the store: nothing waits here, so a reader may be slow.
#[derive(Default)]
struct Bell {
    rung: Notify,
    closed: AtomicBool,
}

impl EventSink for Bell {
    fn push(&self, _: &Arc<WireEvent>) -> Pushed {
        self.rung.notify_one();
        Pushed::Queued
    }

    fn close(&self, _: Close) {
        self.closed.store(true, Ordering::Release);
        self.rung.notify_one();
    }
}

/// Follows a session from a page on, which is told with it: no message is missed or told twice.
///
/// # Errors
/// As [`page`], and too many connections.
pub async fn follow(
    host: &Host,
    cx: Cx,
    proof: Proof,
    request: &HistoryRequest,
) -> Result<(HistoryPage, Follower), RpcError> {
    let key = key_of(&cx, &request.key)?;
    let sink = Arc::new(Bell::default());
    let conn = host.new_conn_id();
    let info = ConnInfo {
        conn: conn.clone(),
        role: cx.caller.role,
        proof,
        device: cx.caller.device.clone(),
        scopes: cx.caller.scopes,
        caps: Caps::default(),
        client: cx.caller.client.clone(),
        ip: cx.caller.ip,
        events: EventPolicy::AfterSubscribe,
        connected_at_ms: cx.tenant.now_ms(),
    };
    // Listening begins before the page is read.
    let guard = host
        .register(&cx.tenant, info, sink.clone())
        .and_then(|guard| {
            cx.tenant.hub().subscribe_messages(&conn, &key)?;
            Ok(guard)
        })
        .map_err(|_| {
            RpcError::new(DetailCode::Overloaded, "too many connections").retry_after_ms(1_000)
        })?;
    let page = page(&cx, request).await?;
    let follower = Follower {
        key,
        session_id: page.session_id.clone(),
        last: page.last,
        tools: request.tools,
        sink,
        _hub: guard,
        cx,
    };
    Ok((page, follower))
}

impl Follower {
    /// What happens next, or that nothing did for the time `quiet`.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn next(&mut self, quiet: Duration) -> Result<Followed, RpcError> {
        let stop = self.cx.tenant.stop_token().clone();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(Followed::Ended),
                () = self.sink.rung.notified() => {}
                // Only the wait ends: what was rung for is always looked at.
                () = tokio::time::sleep(quiet) => return Ok(Followed::Quiet),
            }
            if self.sink.closed.load(Ordering::Acquire) {
                return Ok(Followed::Ended);
            }
            let (key, last) = (self.key.clone(), self.last);
            let found = self
                .cx
                .tenant
                .db()
                .read(move |r| {
                    let session = r.get_session(&key)?;
                    let mut page = r.history(&key, FEW, None, 0)?;
                    if page.items.first().is_some_and(|m| m.seq > last + 1) {
                        let all = i64::try_from(HISTORY_MAX).unwrap_or(i64::MAX);
                        page = r.history(&key, all, None, 0)?;
                    }
                    Ok(session.map(|s| (s.session_id, page.items, last)))
                })
                .await
                .map_err(|e| error::store(&self.cx.tenant, &e))?;
            let Some((session_id, mut rows, last)) = found else {
                return Ok(Followed::Changed);
            };
            if session_id != self.session_id {
                return Ok(Followed::Changed);
            }
            rows.retain(|row| row.seq > last);
            let Some(newest) = rows.last() else { continue };
            self.last = newest.seq;
            let messages = shown(&rows, self.tools);
            if !messages.is_empty() {
                return Ok(Followed::Messages(messages));
            }
        }
    }
}
