//! The methods about channels.

use std::sync::Arc;

use gateway_protocol::error::{DetailCode, RpcError};
use gateway_protocol::methods::channels::{
    ChannelAccountRow, ChannelsPairingApproveParams, ChannelsPairingApproveResult,
    ChannelsPairingListParams, ChannelsPairingListResult, ChannelsStartParams,
    ChannelsStatusParams, ChannelsStatusResult, ChannelsStopParams, ChannelsSwitchResult,
    OutboxItem, OutboxListParams, OutboxListResult, OutboxState, PairingAccount, PairingLimits,
    PairingRequest, SendParams, SendResult,
};
use gateway_protocol::methods::system::BootListResult;
use gateway_store::{NewOutbox, OutboxFilter, OutboxRow, StoreError};
use gateway_wasm::{AccountStatus, Peer, PeerKind, Receipt};

use super::limits::{OUTBOX_TTL_MS, PAIRING_PENDING_MAX, PAIRING_TTL_MS};
use super::{Account, Channels};
use crate::audit::Audit;
use crate::cron::schedule::rfc3339;
use crate::delivery::{ChannelControl, ControlResult};
use crate::rpc::error::store as store_error;
use crate::tenant::Tenant;

/// Characters of a message that a listing shows.
const PREVIEW_CHARS: usize = 120;

impl Channels {
    /// The rows of `channels.status`, of one kind or of all.
    #[must_use]
    pub fn status_rows(&self, now_ms: i64, channel: Option<&str>) -> ChannelsStatusResult {
        let mut result = ChannelsStatusResult {
            ts: now_ms,
            ..ChannelsStatusResult::default()
        };
        for account in self.accounts() {
            let kind = account.kind();
            if channel.is_some_and(|only| only != kind) {
                continue;
            }
            if !result.channel_order.iter().any(|known| known == kind) {
                result.channel_order.push(kind.to_owned());
                result
                    .channel_labels
                    .insert(kind.to_owned(), self.label(kind));
                result
                    .channel_default_account_id
                    .insert(kind.to_owned(), account.id().to_owned());
            }
            result
                .channel_accounts
                .entry(kind.to_owned())
                .or_default()
                .push(row(&account));
        }
        for (kind, rows) in &result.channel_accounts {
            let facts = serde_json::json!({
                "configured": rows.iter().any(|row| row.configured),
                "running": rows.iter().any(|row| row.running),
                "accounts": rows.len(),
            });
            result.channels.insert(kind.clone(), facts);
        }
        result
    }

    /// Tells health how the channels are; to be called when one of them changed.
    pub(super) fn publish(&self, tenant: &Tenant) {
        for (kind, rows) in self.status_rows(tenant.now_ms(), None).channel_accounts {
            let running = rows.iter().any(|row| row.running);
            let accounts: serde_json::Map<String, serde_json::Value> = rows
                .into_iter()
                .map(|row| {
                    let facts = serde_json::json!({
                        "running": row.running,
                        "healthState": row.health_state,
                        "lastError": row.last_error,
                    });
                    (row.account_id, facts)
                })
                .collect();
            tenant.health().set_channel(
                &kind,
                Some(serde_json::json!({ "running": running, "accounts": accounts })),
            );
        }
        tenant.health().nudge();
    }

    /// The accounts that a request names.
    fn named(&self, channel: &str, account: Option<&str>) -> Result<Vec<Arc<Account>>, RpcError> {
        let account = account.filter(|account| !account.is_empty());
        let found: Vec<_> = self
            .accounts()
            .filter(|one| one.kind() == channel && account.is_none_or(|id| one.id() == id))
            .collect();
        if found.is_empty() {
            return Err(RpcError::not_found("channel account"));
        }
        Ok(found)
    }
}

fn row(account: &Account) -> ChannelAccountRow {
    let seen = account.seen.lock().clone();
    let status = account.ready.as_ref().map(|ready| ready.guest().status());
    let (health, attempts) = match (&account.degraded, &status) {
        (Some(_), _) => ("degraded", None),
        (None, Some(AccountStatus::Quarantined { .. })) => ("quarantined", None),
        (None, Some(AccountStatus::Backoff { failures, .. })) => {
            ("degraded", Some(u64::from(*failures)))
        }
        (None, _) if account.is_running() => ("ok", None),
        (None, _) => ("stopped", None),
    };
    let routes = account.ready.as_ref().map(|ready| &ready.routes);
    ChannelAccountRow {
        account_id: account.id().to_owned(),
        name: None,
        enabled: account.settings.enabled,
        configured: account.degraded.is_none(),
        running: account.is_running(),
        connected: None,
        reconnect_attempts: attempts,
        last_error: account.degraded.clone().or(seen.last_error),
        health_state: Some(health.to_owned()),
        last_start_at: seen.last_start_at,
        last_stop_at: None,
        last_inbound_at: seen.last_inbound_at,
        last_outbound_at: seen.last_outbound_at,
        active_runs: None,
        mode: routes.map(|routes| {
            if routes.is_empty() {
                "polling"
            } else {
                "webhook"
            }
            .to_owned()
        }),
        dm_policy: Some(
            match account.access.dm {
                gateway_config::DmPolicy::Pairing => "pairing",
                gateway_config::DmPolicy::Allowlist => "allowlist",
                gateway_config::DmPolicy::Open => "open",
                gateway_config::DmPolicy::Disabled => "disabled",
            }
            .to_owned(),
        ),
        webhook_path: routes
            .and_then(|routes| routes.keys().next())
            .map(|route| format!("/channels/{}/{}/{route}", account.kind(), account.id())),
        guest: account.ready.as_ref().map(|ready| {
            serde_json::json!({
                "plugin": ready.plugin.manifest().id,
                "version": ready.plugin.manifest().version,
                "state": status.map(|status| status.to_string()),
            })
        }),
    }
}

impl Channels {
    fn owner(&self) -> Result<Arc<Tenant>, RpcError> {
        self.tenant
            .upgrade()
            .ok_or_else(|| RpcError::unavailable("the gateway is stopping"))
    }
}

impl ChannelControl for Channels {
    fn status(&self, p: ChannelsStatusParams) -> ControlResult<'_, ChannelsStatusResult> {
        Box::pin(async move {
            let tenant = self.owner()?;
            status(self, &tenant, &p)
        })
    }
    fn start(
        &self,
        p: ChannelsStartParams,
        audit: Audit,
    ) -> ControlResult<'_, ChannelsSwitchResult> {
        Box::pin(async move {
            switch(
                self,
                &self.owner()?,
                p.channel.as_str(),
                p.account_id.as_deref(),
                true,
                &audit,
            )
            .await
        })
    }
    fn stop(&self, p: ChannelsStopParams, audit: Audit) -> ControlResult<'_, ChannelsSwitchResult> {
        Box::pin(async move {
            switch(
                self,
                &self.owner()?,
                p.channel.as_str(),
                p.account_id.as_deref(),
                false,
                &audit,
            )
            .await
        })
    }
    fn pairing_list(
        &self,
        p: ChannelsPairingListParams,
    ) -> ControlResult<'_, ChannelsPairingListResult> {
        Box::pin(async move { pairing_list(self, &self.owner()?, p).await })
    }
    fn pairing_approve(
        &self,
        p: ChannelsPairingApproveParams,
        audit: Audit,
    ) -> ControlResult<'_, ChannelsPairingApproveResult> {
        Box::pin(async move { pairing_approve(&self.owner()?, p, audit).await })
    }
    fn send(&self, p: SendParams) -> ControlResult<'_, SendResult> {
        Box::pin(async move { send(self, &self.owner()?, p).await })
    }
    fn outbox_list(&self, p: OutboxListParams) -> ControlResult<'_, OutboxListResult> {
        Box::pin(async move { outbox_list(&self.owner()?, p).await })
    }
    fn boot_list(&self) -> ControlResult<'_, BootListResult> {
        Box::pin(async move { crate::boot::list(&self.owner()?).await })
    }
}

fn status(
    channels: &Channels,
    tenant: &Tenant,
    p: &ChannelsStatusParams,
) -> Result<ChannelsStatusResult, RpcError> {
    Ok(channels.status_rows(
        tenant.now_ms(),
        p.channel.as_ref().map(|channel| channel.as_str()),
    ))
}

async fn switch(
    channels: &Channels,
    tenant: &Arc<Tenant>,
    channel: &str,
    account: Option<&str>,
    on: bool,
    audit: &Audit,
) -> Result<ChannelsSwitchResult, RpcError> {
    let accounts = channels.named(channel, account)?;
    let mut ids = Vec::with_capacity(accounts.len());
    for account in accounts {
        if on && let Some(why) = &account.degraded {
            return Err(RpcError::unavailable(why.clone()));
        }
        // Remembered first: a restart in between ends in the state that was asked for.
        let (kind, id, now) = (
            account.kind().to_owned(),
            account.id().to_owned(),
            tenant.now_ms(),
        );
        tenant
            .db()
            .write({
                let audit = audit.clone();
                move |w| {
                    w.set_account_enabled(&kind, &id, Some(on), now)?;
                    let about = serde_json::json!({ "channel": kind, "accountId": id });
                    audit.record(w, &about, now)
                }
            })
            .await
            .map_err(|error| store_error(tenant, &error))?;
        if on {
            // Also lets an account out of quarantine that was running.
            account.stop().await;
            account.start(tenant).await.map_err(RpcError::unavailable)?;
        } else {
            account.stop().await;
        }
        ids.push(account.id().to_owned());
    }
    channels.publish(tenant);
    Ok(ChannelsSwitchResult {
        ok: true,
        channel: channel.to_owned(),
        account_ids: ids,
        running: on,
    })
}

/// `channels.pairing.list`
async fn pairing_list(
    channels: &Channels,
    tenant: &Arc<Tenant>,
    p: ChannelsPairingListParams,
) -> Result<ChannelsPairingListResult, RpcError> {
    let now = tenant.now_ms();
    let rows = tenant
        .db()
        .read(move |r| r.list_pairing(now))
        .await
        .map_err(|error| store_error(tenant, &error))?;
    let wanted = |kind: &str, account: &str| {
        p.channel
            .as_ref()
            .is_none_or(|channel| channel.as_str() == kind)
            && p.account_id
                .as_ref()
                .is_none_or(|id| id.as_str() == account)
    };
    let accounts = channels
        .accounts()
        .filter(|account| {
            account.access.dm == gateway_config::DmPolicy::Pairing
                && wanted(account.kind(), account.id())
        })
        .map(|account| PairingAccount {
            channel: account.kind().to_owned(),
            channel_label: channels.label(account.kind()),
            account_id: account.id().to_owned(),
            account_label: None,
            notify_supported: false,
        })
        .collect();
    let requests = rows
        .into_iter()
        .filter(|row| wanted(&row.kind, &row.account))
        .map(|row| PairingRequest {
            request_id: row.code,
            channel_label: channels.label(&row.kind),
            channel: row.kind,
            account_id: row.account,
            account_label: None,
            sender_label: row.display.unwrap_or_else(|| row.sender_id.clone()),
            sender_id: row.sender_id,
            created_at: rfc3339(row.created_at),
            last_seen_at: rfc3339(row.created_at),
            expires_at: rfc3339(row.expires_at),
            notify_supported: false,
        })
        .collect();
    Ok(ChannelsPairingListResult {
        accounts,
        requests,
        command_owner_configured: false,
        limits: PairingLimits {
            pending_per_account: PAIRING_PENDING_MAX.unsigned_abs(),
            ttl_ms: PAIRING_TTL_MS.unsigned_abs(),
        },
    })
}

/// `channels.pairing.approve`
async fn pairing_approve(
    tenant: &Arc<Tenant>,
    p: ChannelsPairingApproveParams,
    audit: Audit,
) -> Result<ChannelsPairingApproveResult, RpcError> {
    let code = p.request_id.as_str().trim().to_ascii_uppercase();
    let (channel, account) = (
        p.channel.map(|one| one.as_str().to_owned()),
        p.account_id.map(|one| one.as_str().to_owned()),
    );
    let now = tenant.now_ms();
    let asked = code.clone();
    let row = tenant
        .db()
        .write(move |w| {
            let row = w.approve_pairing(&asked, now)?;
            if channel.is_some_and(|kind| kind != row.kind)
                || account.is_some_and(|id| id != row.account)
            {
                // Rolls the approval back.
                return Err(StoreError::NotFound);
            }
            w.append_event(
                "pairing.approved",
                None,
                &serde_json::json!({"kind": row.kind, "account": row.account}).to_string(),
                now,
            )?;
            let about = serde_json::json!({
                "channel": row.kind, "accountId": row.account, "senderId": row.sender_id,
            });
            audit.record(w, &about, now)?;
            Ok(row)
        })
        .await
        .map_err(|error| match error {
            StoreError::NotFound => RpcError::not_found("pairing request"),
            other => store_error(tenant, &other),
        })?;
    tenant.log(
        "info",
        &format!(
            "channel {}/{}: a sender was let in by pairing",
            row.kind, row.account
        ),
    );
    Ok(ChannelsPairingApproveResult {
        request_id: code,
        sender_id: row.sender_id,
        notification: ChannelsPairingApproveResult::NOT_REQUESTED.to_owned(),
        command_owner_bootstrap: ChannelsPairingApproveResult::NOT_REQUESTED.to_owned(),
    })
}

/// `send`
async fn send(
    channels: &Channels,
    tenant: &Arc<Tenant>,
    p: SendParams,
) -> Result<SendResult, RpcError> {
    let text = p.message.unwrap_or_default();
    if text.trim().is_empty() {
        return Err(RpcError::invalid(
            "invalid send params: at /message: must be a text that is not empty",
        ));
    }
    let account = target(channels, p.channel.as_deref(), p.account_id.as_deref())?;
    let (kind, id) = (account.kind().to_owned(), account.id().to_owned());
    let peer = peer(
        p.to.as_str(),
        p.thread_id.filter(|thread| !thread.is_empty()),
    );
    let conversation_json = serde_json::to_string(&peer)
        .map_err(|_| RpcError::invalid("invalid send params: at /to"))?;
    let run_id = format!("send-{}", p.idempotency_key.as_str());
    let now = tenant.now_ms();
    let hash = crate::session::request_hash(&[&kind, &id, &conversation_json, &text]);
    let key = p.idempotency_key.as_str().to_owned();
    let row = NewOutbox {
        kind: kind.clone(),
        account: id.clone(),
        conversation_json,
        run_id,
        text,
        final_rev: true,
        next_at: now,
        expires_at: now + OUTBOX_TTL_MS,
        ..NewOutbox::default()
    };
    let row = tenant
        .db()
        .write(move |w| {
            w.remember("send", &key, &hash, "", now)?;
            Ok(w.enqueue_outbox(&row, now)?.row)
        })
        .await
        .map_err(|error| match error {
            StoreError::Conflict(_) => RpcError::new(
                DetailCode::IdempotencyConflict,
                "this idempotency key was used for another message; use a new key",
            ),
            other => store_error(tenant, &other),
        })?;
    account.wake_delivery(tenant);
    let message_id = row
        .receipt_json
        .as_deref()
        .and_then(|text| serde_json::from_str::<Receipt>(text).ok())
        .and_then(|receipt| receipt.message_ids.into_iter().next());
    Ok(SendResult {
        run_id: p.idempotency_key.as_str().to_owned(),
        channel: kind,
        account_id: id,
        outbox_id: row.id.to_string(),
        status: row.state.as_str().to_owned(),
        message_id,
    })
}

fn target(
    channels: &Channels,
    channel: Option<&str>,
    account: Option<&str>,
) -> Result<Arc<Account>, RpcError> {
    let (channel, account) = (
        channel.filter(|text| !text.is_empty()),
        account.filter(|text| !text.is_empty()),
    );
    let mut found = channels.accounts().filter(|one| {
        channel.is_none_or(|kind| one.kind() == kind) && account.is_none_or(|id| one.id() == id)
    });
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => Err(RpcError::not_found("channel account")),
        (Some(_), Some(_)) => Err(RpcError::invalid(
            "several channel accounts fit: name one with `channel` and `accountId`",
        )),
    }
}

/// `direct:ID`, `group:ID`, `channel:ID`; without a prefix it is a direct conversation.
pub(crate) fn peer(to: &str, thread: Option<String>) -> Peer {
    let (kind, id) = match to.split_once(':') {
        Some(("direct", id)) => (PeerKind::Direct, id),
        Some(("group", id)) => (PeerKind::Group, id),
        Some(("channel", id)) => (PeerKind::Channel, id),
        _ => (PeerKind::Direct, to),
    };
    Peer {
        kind,
        id: id.to_owned(),
        thread,
    }
}

/// `outbox.list`
async fn outbox_list(
    tenant: &Arc<Tenant>,
    p: OutboxListParams,
) -> Result<OutboxListResult, RpcError> {
    let (limit, skip) = (
        p.limit.map_or(100, |limit| limit.get()),
        p.offset.unwrap_or(0).min(1_000),
    );
    let filter = OutboxFilter {
        kind: p.channel.map(|one| one.as_str().to_owned()),
        account: p.account_id.map(|one| one.as_str().to_owned()),
        state: p
            .state
            .and_then(|state| gateway_store::OutboxState::parse(state.as_str())),
        run_id: None,
        limit: i64::try_from(limit.saturating_add(skip)).unwrap_or(1_000),
        before_id: None,
    };
    let page = tenant
        .db()
        .read(move |r| r.list_outbox(&filter))
        .await
        .map_err(|error| store_error(tenant, &error))?;
    Ok(OutboxListResult {
        items: page
            .items
            .into_iter()
            .skip(usize::try_from(skip).unwrap_or(usize::MAX))
            .map(item)
            .collect(),
        has_more: page.has_more,
    })
}

fn item(row: OutboxRow) -> OutboxItem {
    OutboxItem {
        id: row.id.to_string(),
        channel: row.kind,
        account_id: row.account,
        conversation: serde_json::from_str(&row.conversation_json).unwrap_or_default(),
        run_id: row.run_id,
        part: row.part.unsigned_abs(),
        preview: row.text.chars().take(PREVIEW_CHARS).collect(),
        state: match row.state {
            gateway_store::OutboxState::Queued => OutboxState::Queued,
            gateway_store::OutboxState::Sending => OutboxState::Sending,
            gateway_store::OutboxState::Sent => OutboxState::Sent,
            gateway_store::OutboxState::Unknown => OutboxState::Unknown,
            gateway_store::OutboxState::Failed => OutboxState::Failed,
        },
        attempts: row.attempts.unsigned_abs(),
        next_at: (row.state == gateway_store::OutboxState::Queued).then_some(row.next_at),
        expires_at: Some(row.expires_at),
        last_error: row.last_error,
        created_at: row.created_at,
        updated_at: row.updated_at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        assert_eq!(peer("42", None).kind, PeerKind::Direct);
        assert_eq!(
            peer("group:-100", Some("5".into())),
            Peer {
                kind: PeerKind::Group,
                id: "-100".into(),
                thread: Some("5".into())
            }
        );
        assert_eq!(peer("user:7", None).id, "user:7");
    }
}
