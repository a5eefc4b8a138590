//! `audit.*`: the tenant's own audit log.

use gateway_protocol::error::RpcError;
use gateway_protocol::methods::NoParams;
use gateway_protocol::methods::audit::{
    AuditEntriesParams, AuditEntriesResult, AuditEntry, AuditVerifyResult,
};
use gateway_store::AuditFault;
use serde_json::Value;

use super::error;
use crate::cx::Cx;

/// Entries of a page without a limit.
const PAGE_DEFAULT: u64 = 100;

fn number(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

pub(super) async fn entries(cx: Cx, p: AuditEntriesParams) -> Result<AuditEntriesResult, RpcError> {
    let before = p.before.map(|n| i64::try_from(n).unwrap_or(i64::MAX));
    let limit = p.limit.map_or(PAGE_DEFAULT, |n| n.get());
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let page = cx
        .tenant
        .db()
        .read(move |r| r.audit_page(before, limit))
        .await
        .map_err(|e| error::store(&cx.tenant, &e))?;
    // What cannot be read was not written by us: `audit.verify` says more.
    let read = |text: &str| serde_json::from_str(text).unwrap_or(Value::Null);
    Ok(AuditEntriesResult {
        has_more: page.has_more,
        entries: page
            .items
            .into_iter()
            .map(|row| AuditEntry {
                seq: number(row.seq),
                ts: row.ts,
                action: row.action,
                outcome: row.outcome,
                actor: read(&row.actor_json),
                object: row.object_json.as_deref().map(read),
            })
            .collect(),
    })
}

pub(super) async fn verify(cx: Cx, _: NoParams) -> Result<AuditVerifyResult, RpcError> {
    let key = cx.tenant.shared().audit_key;
    let found = cx
        .tenant
        .db()
        .read(move |r| r.verify_audit(&key))
        .await
        .map_err(|e| error::store(&cx.tenant, &e))?;
    Ok(AuditVerifyResult {
        ok: found.fault.is_none(),
        entries: number(found.rows),
        at: found.fault.map(|(seq, _)| number(seq)),
        fault: found.fault.map(|(_, fault)| {
            match fault {
                AuditFault::NoChain => "no-chain",
                AuditFault::ChainChanged => "chain-changed",
                AuditFault::Missing => "missing",
                AuditFault::Changed => "changed",
            }
            .to_owned()
        }),
    })
}
