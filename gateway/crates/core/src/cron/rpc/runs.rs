//! `cron.runs`

use gateway_protocol::error::RpcError;
use gateway_protocol::methods::cron::{
    CronCompletion, CronDeliveryStatus, CronDeliveryTarget, CronDeliveryTrace, CronRunLogEntry,
    CronRunStatus, CronRunsParams, CronRunsResult, CronRunsScope, CronStatusFilter, CronUsage,
    SortDir,
};
use gateway_store::{CronRunQuery, CronRunRow};

use super::super::claim::RunDelivery;
use super::super::job::status_of;
use super::{PAGE_DEFAULT, job_id, rest};
use crate::cx::Cx;
use crate::rpc::error::store;

pub(crate) async fn runs(cx: Cx, p: CronRunsParams) -> Result<CronRunsResult, RpcError> {
    let tenant = cx.tenant;
    let wanted = match (p.id.as_ref(), p.job_id.as_ref()) {
        (None, None) => None,
        (id, older) => Some(job_id("cron.runs", id, older)?),
    };
    if wanted.is_none() && p.scope == Some(CronRunsScope::Job) {
        return Err(RpcError::invalid_params(
            "cron.runs",
            "must have required property 'id' with scope job",
        ));
    }
    let mut statuses: Vec<String> = p
        .statuses
        .iter()
        .flatten()
        .map(|s| s.as_str().to_owned())
        .collect();
    match p.status.unwrap_or_default() {
        CronStatusFilter::All => {}
        CronStatusFilter::Ok => statuses.push("ok".to_owned()),
        CronStatusFilter::Error => statuses.push("error".to_owned()),
        CronStatusFilter::Skipped => statuses.push("skipped".to_owned()),
    }
    let delivery_statuses = p
        .delivery_statuses
        .iter()
        .flatten()
        .chain(p.delivery_status.iter())
        .map(|s| delivery_word(*s).to_owned())
        .collect();
    let offset = p.offset.unwrap_or(0);
    let limit = p.limit.map_or(PAGE_DEFAULT, |n| n.get());
    let query = CronRunQuery {
        job_id: wanted.filter(|_| p.scope != Some(CronRunsScope::All)),
        agent_id: p.agent_id.map(String::from),
        run_id: p.run_id.map(String::from),
        statuses,
        delivery_statuses,
        search: p.query.filter(|q| !q.is_empty()),
        ascending: p.sort_dir == Some(SortDir::Asc),
        limit: i64::try_from(limit).unwrap_or(200),
        offset: i64::try_from(offset).unwrap_or(i64::MAX),
    };
    let page = tenant
        .db()
        .read(move |r| r.cron_runs(&query))
        .await
        .map_err(|e| store(&tenant, &e))?;
    let total = page.total.and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
    let entries: Vec<CronRunLogEntry> = page.items.iter().map(entry).collect();
    let (has_more, next_offset) = rest(offset, entries.len(), total);
    Ok(CronRunsResult {
        entries,
        total,
        offset,
        limit,
        has_more,
        next_offset,
    })
}

fn delivery_word(status: CronDeliveryStatus) -> &'static str {
    match status {
        CronDeliveryStatus::Delivered => "delivered",
        CronDeliveryStatus::NotDelivered => "not-delivered",
        CronDeliveryStatus::Unknown => "unknown",
        CronDeliveryStatus::NotRequested => "not-requested",
    }
}

fn entry(row: &CronRunRow) -> CronRunLogEntry {
    let status = status_of(row.status.as_deref()).unwrap_or(CronRunStatus::Error);
    let delivery_status = match row.delivery_status.as_str() {
        "delivered" => CronDeliveryStatus::Delivered,
        "not-delivered" => CronDeliveryStatus::NotDelivered,
        "unknown" => CronDeliveryStatus::Unknown,
        _ => CronDeliveryStatus::NotRequested,
    };
    let delivered = delivery_status == CronDeliveryStatus::Delivered;
    let delivery: Option<RunDelivery> = row
        .delivery_json
        .as_deref()
        .and_then(|text| serde_json::from_str(text).ok());
    let usage: serde_json::Value = row
        .usage_json
        .as_deref()
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    let word = |key: &str| {
        usage[key]
            .as_str()
            .map(str::to_owned)
            .filter(|w| !w.is_empty())
    };
    let count = |key: &str| usage[key].as_u64().unwrap_or(0);
    let ended = row.ended_at.unwrap_or(row.claimed_at);
    CronRunLogEntry {
        ts: ended,
        job_id: row.job_id.clone(),
        action: "finished".to_owned(),
        status,
        completion_status: match status {
            CronRunStatus::Ok => Some(CronCompletion::Succeeded),
            CronRunStatus::Error => Some(CronCompletion::Failed),
            CronRunStatus::Skipped => None,
        },
        error: row.error.clone(),
        summary: row.summary.clone(),
        run_id: row.run_id.clone(),
        run_at_ms: row.occurrence,
        duration_ms: ended.saturating_sub(row.claimed_at).max(0),
        next_run_at_ms: row.next_at,
        delivered,
        delivery_status,
        delivery_error: row.delivery_error.clone(),
        delivery: delivery.map(|delivery| CronDeliveryTrace {
            intended: Some(CronDeliveryTarget {
                source: if delivery.to.is_some() {
                    "explicit"
                } else {
                    "last"
                }
                .to_owned(),
                channel: delivery.channel,
                to: delivery.to,
            }),
            fallback_used: false,
            delivered,
        }),
        session_id: row.session_id.clone(),
        session_key: row.session_key.clone(),
        model: word("model"),
        provider: word("provider"),
        usage: (count("input") + count("output") > 0).then(|| CronUsage {
            input_tokens: count("input"),
            output_tokens: count("output"),
            total_tokens: count("input") + count("output"),
        }),
        job_name: Some(row.job_name.clone()),
    }
}
