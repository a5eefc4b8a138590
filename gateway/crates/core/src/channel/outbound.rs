//! Delivery of answers: `queued → sending → sent | unknown | failed`.
//!
//! A row is claimed in one commit before the guest is asked, and its result is recorded in another after. What a crash
//! leaves in `sending` is `unknown` and is never sent again by itself: the platform may have it. Edits may be repeated.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use gateway_store::{OutboxRow, StoreError};
use gateway_wasm::{Outbound, OutboundEvent, Peer, Receipt, SendOutcome};

use super::account::Account;
use super::limits::{
    OUTBOX_ATTEMPTS_MAX, OUTBOX_BACKOFF_FIRST_MS, OUTBOX_BACKOFF_MAX_MS, OUTBOX_CLAIM_MAX_ROWS,
};
use crate::delivery::ReplyTarget;
use crate::tenant::Tenant;
use crate::trace::{Stage, stage};

/// Why a held answer was not given.
const CALLER_GONE: &str = "the webhook's caller had gone before the reply was there";

impl Account {
    /// There may be something to send. Starts the delivery task unless one runs.
    pub(super) fn wake_delivery(self: &Arc<Self>, tenant: &Arc<Tenant>) {
        self.due.notify_one();
        if self.delivering.swap(true, Ordering::AcqRel) {
            return;
        }
        let (account, tenant) = (self.clone(), tenant.clone());
        let tracker = tenant.tasks().clone();
        tracker.spawn(async move {
            loop {
                account.deliver_all(&tenant).await;
                account.delivering.store(false, Ordering::Release);
                // A wake-up between the last look and the store above found the task still marked as running.
                let missed = tokio::time::timeout(Duration::ZERO, account.due.notified())
                    .await
                    .is_ok();
                if !missed || account.delivering.swap(true, Ordering::AcqRel) {
                    return;
                }
            }
        });
    }

    /// Sends what is due until nothing waits.
    async fn deliver_all(self: &Arc<Self>, tenant: &Arc<Tenant>) {
        let mut trouble_ms = OUTBOX_BACKOFF_FIRST_MS;
        while self.is_running() && !tenant.stop_token().is_cancelled() {
            let (kind, id, now) = (
                self.kind().to_owned(),
                self.id().to_owned(),
                tenant.now_ms(),
            );
            let claimed = tenant
                .db()
                .write(move |w| {
                    let rows = w.claim_due(&kind, &id, now, OUTBOX_CLAIM_MAX_ROWS)?;
                    let next = if rows.is_empty() {
                        w.next_outbox_due(&kind, &id)?
                    } else {
                        None
                    };
                    Ok((rows, next))
                })
                .await;
            let (rows, next) = match claimed {
                Ok(claimed) => {
                    trouble_ms = OUTBOX_BACKOFF_FIRST_MS;
                    claimed
                }
                Err(error) => {
                    self.failed(tenant, &format!("outbox: {error}"));
                    if !self.pause(tenant, trouble_ms).await {
                        return;
                    }
                    trouble_ms = trouble_ms.saturating_mul(2).min(OUTBOX_BACKOFF_MAX_MS);
                    continue;
                }
            };
            if rows.is_empty() {
                let Some(next) = next else { return };
                // Due already and still not claimed: it waits for an earlier row of its conversation, which will wake us.
                let wait = u64::try_from(next.saturating_sub(tenant.now_ms())).unwrap_or(0);
                let wait = if wait == 0 {
                    OUTBOX_BACKOFF_FIRST_MS
                } else {
                    wait
                };
                if !self.pause(tenant, wait).await {
                    return;
                }
                continue;
            }
            for row in rows {
                let target = self.target_of(tenant, &row).await;
                self.deliver_row(tenant, row, target).await;
            }
        }
    }

    /// Waits until `ms` passed or something new is due; `false` when the tenant stops.
    async fn pause(&self, tenant: &Tenant, ms: u64) -> bool {
        tokio::select! {
            biased;
            () = tenant.stop_token().cancelled() => false,
            () = self.due.notified() => true,
            () = tokio::time::sleep(Duration::from_millis(ms)) => true,
        }
    }

    /// Sends one claimed row and records what came of it.
    pub(super) async fn deliver_row(
        self: &Arc<Self>,
        tenant: &Arc<Tenant>,
        row: OutboxRow,
        target: Option<ReplyTarget>,
    ) {
        let outcome = self.attempt(tenant, &row, target.as_ref()).await;
        tenant.metrics().send_ended(&outcome);
        let sent = matches!(outcome, SendOutcome::Sent(_));
        // Each edit of a growing answer is an attempt: those are bounded by the time to live.
        let is_edit = row.receipt_json.is_some();
        let (id, rev, attempts, expires_at) =
            (row.id, row.desired_rev, row.attempts, row.expires_at);
        let retry_at = match &outcome {
            SendOutcome::Retry { after_ms, .. } => Some(
                tenant
                    .now_ms()
                    .saturating_add_unsigned(self.backoff(tenant, attempts, *after_ms)),
            ),
            _ => None,
        };
        if let SendOutcome::Retry { why, .. }
        | SendOutcome::Failed { why }
        | SendOutcome::Unknown { why } = &outcome
        {
            self.failed(
                tenant,
                &format!("answer {} to {}: {why}", row.id, row.run_id),
            );
        }
        let record = |outcome: SendOutcome, now: i64| {
            move |w: &mut gateway_store::Write<'_>| -> Result<OutboxRow, StoreError> {
                match outcome {
                    SendOutcome::Sent(receipt) => {
                        let receipt = serde_json::to_string(&Receipt {
                            answer: None,
                            ..receipt
                        })
                        .map_err(|error| StoreError::Io(format!("receipt: {error}")))?;
                        w.record_sent(id, rev, Some(&receipt), now)
                    }
                    SendOutcome::Retry { why, .. }
                        if !is_edit && attempts >= OUTBOX_ATTEMPTS_MAX =>
                    {
                        w.record_failed(
                            id,
                            &format!("given up after {attempts} attempts: {why}"),
                            now,
                        )
                    }
                    SendOutcome::Retry { why, .. } => {
                        w.record_retry(id, retry_at.unwrap_or(expires_at), &why, now)
                    }
                    SendOutcome::Failed { why } => w.record_failed(id, &why, now),
                    SendOutcome::Unknown { why } => w.record_unknown(id, &why, now),
                }
            }
        };
        // What was sent must be recorded: a full or busy store is tried again until the tenant stops.
        let mut pause_ms = OUTBOX_BACKOFF_FIRST_MS;
        loop {
            match tenant
                .db()
                .write(record(outcome.clone(), tenant.now_ms()))
                .await
            {
                Ok(_) => break,
                Err(StoreError::Full | StoreError::Busy(_))
                    if !tenant.stop_token().is_cancelled() =>
                {
                    tokio::select! {
                        biased;
                        () = tenant.stop_token().cancelled() => {}
                        () = tokio::time::sleep(Duration::from_millis(pause_ms)) => {}
                    }
                    pause_ms = pause_ms.saturating_mul(2).min(OUTBOX_BACKOFF_MAX_MS);
                }
                Err(error) => {
                    self.failed(
                        tenant,
                        &format!("answer {id}: result not recorded: {error}"),
                    );
                    break;
                }
            }
        }
        if sent {
            self.seen.lock().last_outbound_at = Some(tenant.now_ms());
            let trace = target
                .as_ref()
                .and_then(|target| target.trace.as_deref())
                .unwrap_or("-");
            stage(tenant, Stage::Send, trace, Some(&row.run_id));
        }
    }

    async fn attempt(
        &self,
        tenant: &Arc<Tenant>,
        row: &OutboxRow,
        target: Option<&ReplyTarget>,
    ) -> SendOutcome {
        let Some(ready) = &self.ready else {
            return SendOutcome::Retry {
                after_ms: OUTBOX_BACKOFF_MAX_MS,
                why: self.degraded.clone().unwrap_or_default(),
            };
        };
        let Ok(conversation) = serde_json::from_str::<Peer>(&row.conversation_json) else {
            return SendOutcome::Failed {
                why: "the conversation can't be read".to_owned(),
            };
        };
        let waiting = row
            .hold
            .as_ref()
            .map(|handle| self.holds.lock().remove(handle));
        if let Some(None) = waiting {
            return SendOutcome::Failed {
                why: CALLER_GONE.to_owned(),
            };
        }
        let event = OutboundEvent {
            channel: self.kind().to_owned(),
            account: self.id().to_owned(),
            conversation: conversation.clone(),
            run_id: row.run_id.clone(),
            part: u32::try_from(row.part).unwrap_or(u32::MAX),
            is_final: row.final_rev,
            text: row.text.clone(),
        };
        if let Err(denial) = crate::policy::outbound(tenant, event).await {
            return SendOutcome::Failed { why: denial.text() };
        }
        let message = Outbound {
            conversation,
            text: row.text.clone(),
            reply_to: target.and_then(|target| target.reply_to.clone()),
            run_id: row.run_id.clone(),
            part: u32::try_from(row.part).unwrap_or(u32::MAX),
            revision: u32::try_from(row.desired_rev).unwrap_or(u32::MAX),
            is_final: row.final_rev,
            hold: row.hold.clone(),
            extra: Vec::new(),
        };
        let receipt = row
            .receipt_json
            .as_deref()
            .and_then(|text| serde_json::from_str::<Receipt>(text).ok());
        let outcome = match receipt {
            Some(receipt) => ready.guest().edit(receipt, message).await,
            None => ready.guest().send(message).await,
        };
        match (waiting.flatten(), outcome) {
            (Some(caller), SendOutcome::Sent(mut receipt)) => match receipt.answer.take() {
                Some(answer) => match caller.send(answer) {
                    Ok(()) => SendOutcome::Sent(receipt),
                    Err(_) => SendOutcome::Failed {
                        why: CALLER_GONE.to_owned(),
                    },
                },
                None => SendOutcome::Failed {
                    why: "the guest gave no answer for the held request".to_owned(),
                },
            },
            // The caller is answered (by the end of its place) and can't be answered again.
            (Some(_), SendOutcome::Retry { why, .. }) => SendOutcome::Failed { why },
            (_, outcome) => outcome,
        }
    }

    /// What the run says about the message that it answers.
    async fn target_of(&self, tenant: &Tenant, row: &OutboxRow) -> Option<ReplyTarget> {
        let run_id = row.run_id.clone();
        let run = tenant
            .db()
            .read(move |r| r.get_run(&run_id))
            .await
            .ok()
            .flatten()?;
        serde_json::from_str(&run.reply_to_json?).ok()
    }

    fn backoff(&self, tenant: &Tenant, attempts: i64, after_ms: u64) -> u64 {
        let doubled = OUTBOX_BACKOFF_FIRST_MS
            .saturating_mul(1 << u32::try_from(attempts.clamp(1, 16) - 1).unwrap_or(0))
            .min(OUTBOX_BACKOFF_MAX_MS);
        let mut byte = [0u8; 1];
        tenant.shared().random.fill(&mut byte);
        // Up to a quarter more, so that many accounts do not come back in one moment.
        let jitter = doubled / 4 * u64::from(byte[0]) / 256;
        after_ms.max(doubled + jitter)
    }
}
