//! `backup.snapshot`: copies of the databases for an archive.

use gateway_config::MAIN_TENANT;
use gateway_protocol::error::{DetailCode, RpcError};
use gateway_protocol::methods::backup::{
    BackupScope, BackupSnapshotParams, BackupSnapshotResult, BackupTenant,
};
use gateway_store::{SnapshotId, SnapshotOf, StoreError};

use super::error;
use crate::cx::{Cx, Surface};

pub(super) async fn snapshot(
    cx: Cx,
    p: BackupSnapshotParams,
) -> Result<BackupSnapshotResult, RpcError> {
    // Guests and agents never copy stores, whatever they were granted.
    if cx.caller.surface == Surface::Internal {
        return Err(RpcError::new(
            DetailCode::CapabilityDenied,
            "guests and agents do not copy the stores",
        ));
    }
    let everything = p.scope.unwrap_or_default() == BackupScope::Gateway;
    if everything && cx.tenant.slug() != MAIN_TENANT {
        return Err(RpcError::new(
            DetailCode::CapabilityDenied,
            "the whole gateway is the operator's to back up: ask them, or take scope \"tenant\"",
        ));
    }
    let id = SnapshotId::parse(p.snapshot_id.as_str())
        .ok_or_else(|| RpcError::not_found("snapshot directory"))?;
    let shared = cx.tenant.shared();
    let host = shared
        .configuration
        .host()
        .ok_or_else(|| RpcError::unavailable("the gateway is stopping"))?;
    let begun_at_ms = shared.clock.now_ms();
    let slug = cx.tenant.slug().to_owned();
    let of = (!everything).then_some(slug);
    // What is begun is finished on a thread of its own: the copy may take minutes and must not hold the store's readers.
    let work = tokio::task::spawn_blocking(move || {
        host.snapshot(
            &id,
            of.as_deref()
                .map_or(SnapshotOf::Everything, SnapshotOf::Tenant),
        )
    });
    let made = work
        .await
        .map_err(|_| RpcError::internal("backup"))?
        .map_err(|e| match &e {
            StoreError::NotFound => RpcError::not_found("snapshot directory"),
            // Who may ask this is who can read the files anyway, and the text says which one is damaged.
            StoreError::Unfit(why) => RpcError::unavailable(why.clone()),
            e => error::store(&cx.tenant, e),
        })?;
    Ok(BackupSnapshotResult {
        begun_at_ms,
        host_schema: made.host_schema,
        tenants: made
            .tenants
            .into_iter()
            .map(|t| BackupTenant {
                slug: t.slug,
                dir: t.dir,
                schema: t.schema,
                commits: t.commits,
                blobs: t.blobs,
            })
            .collect(),
    })
}
