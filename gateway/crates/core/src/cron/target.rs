//! Where the outcome of a run goes: a conversation of a channel, found when the run is accepted.

use std::sync::Arc;

use gateway_config::HeartbeatTarget;
use gateway_protocol::session_key::{KeyKind, SessionKey};
use gateway_store::{ListQuery, StoreError};

use crate::delivery::ReplyTarget;
use crate::tenant::Tenant;

/// Sessions that are looked through for the conversation used last.
const LOOKED_SESSIONS: i64 = 200;
/// Runs of a session that are looked through for its way back.
const LOOKED_RUNS: i64 = 20;

/// Where something is to be announced.
#[derive(Debug, Clone)]
pub(crate) enum Announce {
    /// In the conversation used last.
    Last,
    /// In the direct conversation last used by someone who was let in.
    Owner,
    /// Here.
    Here {
        /// Channel kind.
        kind: String,
        /// Its account; `None`: the only one.
        account: Option<String>,
        /// `direct:ID`, `group:ID`, `channel:ID`, or a bare id.
        to: String,
        /// Thread.
        thread: Option<String>,
    },
}

impl Announce {
    pub fn of_heartbeat(target: &HeartbeatTarget) -> Option<Self> {
        match target {
            HeartbeatTarget::None => None,
            HeartbeatTarget::Last => Some(Self::Last),
            HeartbeatTarget::Owner => Some(Self::Owner),
            HeartbeatTarget::Channel { kind, account, to } => Some(Self::Here {
                kind: kind.clone(),
                account: account.clone(),
                to: to.clone(),
                thread: None,
            }),
        }
    }

    /// Finds the conversation.
    ///
    /// # Errors
    /// Inside: a text that says why there is none and what to do. Outside: those of the store.
    pub async fn find(
        &self,
        tenant: &Arc<Tenant>,
        agent: &str,
    ) -> Result<Result<ReplyTarget, String>, StoreError> {
        match self {
            Self::Here {
                kind,
                account,
                to,
                thread,
            } => Ok(here(tenant, kind, account.as_deref(), to, thread.clone())),
            Self::Last | Self::Owner => used_last(tenant, agent, matches!(self, Self::Owner)).await,
        }
    }
}

/// A named conversation; the account must exist.
pub(super) fn here(
    tenant: &Tenant,
    kind: &str,
    account: Option<&str>,
    to: &str,
    thread: Option<String>,
) -> Result<ReplyTarget, String> {
    let channels = tenant
        .channels()
        .ok_or_else(|| "the channels are not there yet".to_owned())?;
    let mut found = channels
        .accounts()
        .filter(|one| one.kind() == kind && account.is_none_or(|id| one.id() == id));
    let one = match (found.next(), found.next()) {
        (Some(one), None) => one,
        (None, _) => {
            return Err(format!(
                "there is no channel account {kind}{}; `gateway channels list` shows them",
                account.map(|id| format!("/{id}")).unwrap_or_default()
            ));
        }
        (Some(_), Some(_)) => {
            return Err(format!(
                "channel {kind} has several accounts: name one with accountId"
            ));
        }
    };
    let peer = crate::channel::rpc::peer(to, thread.filter(|thread| !thread.is_empty()));
    if peer.id.trim().is_empty() {
        return Err(
            "the conversation is empty: write direct:ID, group:ID or channel:ID".to_owned(),
        );
    }
    let conversation_json =
        serde_json::to_string(&peer).map_err(|_| "not a conversation".to_owned())?;
    Ok(ReplyTarget {
        kind: one.kind().to_owned(),
        account: one.id().to_owned(),
        conversation_json,
        hold: None,
        reply_to: None,
        trace: None,
        quiet: Some(0),
    })
}

async fn used_last(
    tenant: &Arc<Tenant>,
    agent: &str,
    owner: bool,
) -> Result<Result<ReplyTarget, String>, StoreError> {
    let settings = tenant.settings();
    let agent = agent.to_owned();
    let found = tenant
        .db()
        .read(move |r| {
            let page = r.list_sessions(&ListQuery {
                limit: LOOKED_SESSIONS,
                agent_id: Some(agent),
                ..ListQuery::default()
            })?;
            for session in page.items {
                let (Some(kind), Some(account), Some(peer)) =
                    (&session.channel, &session.account, &session.peer)
                else {
                    continue;
                };
                if owner {
                    let direct = SessionKey::parse(&session.key)
                        .is_ok_and(|key| matches!(key.kind(), KeyKind::Direct | KeyKind::Main));
                    let listed = settings.channels.iter().any(|a| {
                        a.kind == *kind && a.account == *account && a.allow_from.contains(peer)
                    });
                    if !direct || !(listed || r.has_contact(kind, account, peer)?) {
                        continue;
                    }
                }
                let way = r
                    .list_runs(&session.key, LOOKED_RUNS)?
                    .into_iter()
                    .filter(|run| run.origin == "channel")
                    .find_map(|run| serde_json::from_str::<ReplyTarget>(&run.reply_to_json?).ok());
                if way.is_some() {
                    return Ok(way);
                }
            }
            Ok(None)
        })
        .await?;
    Ok(match found {
        Some(way) => Ok(ReplyTarget {
            hold: None,
            reply_to: None,
            trace: None,
            quiet: Some(0),
            ..way
        }),
        None => Err(
            "there is no conversation yet: write to the agent once over a channel, or name one"
                .to_owned(),
        ),
    })
}
