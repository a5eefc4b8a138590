//! Safe mode: what a gateway does about a crash loop.
//!
//! Each start is recorded in the host's store before it does anything, and again when it has settled or is ended in order.
//! After one that did neither, the next start records whose turn it is before it starts a tenant. After three such starts
//! within five minutes the gateway comes up with every tenant held and starts them one after the other; if that ends the
//! process, the next start knows whose turn it was, and keeps that tenant off and starts the others. A tenant that is kept
//! off is tried again after a while, twice as long after each time that it ended the process again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gateway_protocol::methods::system::{PartState, SafeModeHealth};
use gateway_store::{HostDb, KeptOff, StartStage, StoreError, TenantId};
use parking_lot::Mutex;

use crate::hold::{Hold, HoldReason};
use crate::host::Host;
use crate::limits::{
    SAFE_MODE_RETRY_MAX_MS, SAFE_MODE_SETTLE_MS, SAFE_MODE_STARTS, SAFE_MODE_TENANT_SETTLE_MS,
    SAFE_MODE_WINDOW_MS,
};
use crate::tenant::Tenant;

/// Whether crash loops are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SafeModeChoice {
    /// Nothing is recorded and nobody is kept off.
    #[default]
    Off,
    /// After a crash loop.
    Auto,
    /// Now: no guest is loaded and every tenant is held, until the next start.
    On,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Care {
    Off,
    /// The start before went well.
    Normal,
    /// The start before did not: whose turn it is is recorded.
    Careful,
    /// A crash loop: one tenant after the other.
    OneByOne,
    /// It was asked for.
    Asked,
}

/// Gives a tenant the name under which people know it; `None`: there is no such tenant.
pub(crate) type SlugOf<'a> = &'a dyn Fn(&TenantId) -> Option<String>;

/// What this start does about those before it.
#[derive(Debug)]
pub struct SafeMode {
    care: Care,
    guests: bool,
    since: i64,
    crashes: usize,
    retry_ms: u64,
    kept_off: Mutex<BTreeMap<TenantId, KeptOff>>,
    /// All others have started.
    over: AtomicBool,
}

/// Whose turn it is, as long as it lives.
pub(crate) struct Mark<'h>(Option<&'h HostDb>);

impl Drop for Mark<'_> {
    fn drop(&mut self) {
        if let Some(db) = self.0
            && let Err(error) = db.mark_start(None)
        {
            tracing::warn!(%error, "the end of a tenant's start is not recorded");
        }
    }
}

impl SafeMode {
    /// Records this start and decides what to do.
    pub(crate) fn begin(
        db: &HostDb,
        choice: SafeModeChoice,
        now_ms: i64,
        retry_ms: u64,
    ) -> Result<Self, StoreError> {
        let mut this = Self {
            care: Care::Off,
            guests: true,
            since: now_ms,
            crashes: 0,
            retry_ms,
            kept_off: Mutex::default(),
            over: AtomicBool::new(false),
        };
        if choice == SafeModeChoice::Off {
            return Ok(this);
        }
        let history = db.begin_start(now_ms)?;
        if choice == SafeModeChoice::On {
            (this.care, this.guests) = (Care::Asked, false);
            return Ok(this);
        }
        this.crashes = history
            .unclean
            .iter()
            .filter(|at| now_ms.saturating_sub(**at) <= SAFE_MODE_WINDOW_MS)
            .count();
        this.care = match this.crashes {
            0 => Care::Normal,
            n if n < SAFE_MODE_STARTS => Care::Careful,
            _ => Care::OneByOne,
        };
        let mut kept_off: BTreeMap<_, _> = history
            .kept_off
            .into_iter()
            .map(|row| (row.tenant.clone(), row))
            .collect();
        match history.stage {
            Some(StartStage::Guests) => this.guests = this.care != Care::OneByOne,
            // It was tried again, or this is a loop: nothing more has to be known.
            Some(StartStage::Tenant(tenant))
                if this.care == Care::OneByOne || kept_off.contains_key(&tenant) =>
            {
                let before = kept_off.get(&tenant);
                let crashes = before.map_or(0, |row| row.crashes).saturating_add(1);
                let row = KeptOff {
                    since: before.map_or(now_ms, |row| row.since),
                    crashes,
                    retry_at: now_ms.saturating_add(this.pause_ms(crashes)),
                    tenant: tenant.clone(),
                };
                db.keep_off(&row)?;
                kept_off.insert(tenant, row);
            }
            _ => {}
        }
        this.kept_off = Mutex::new(kept_off);
        Ok(this)
    }

    /// How long a tenant stays off whose start ended the process so often, in ms.
    fn pause_ms(&self, crashes: u32) -> i64 {
        let times = 1_u64 << crashes.saturating_sub(1).min(32);
        let pause = self.retry_ms.saturating_mul(times);
        i64::try_from(pause.min(SAFE_MODE_RETRY_MAX_MS)).unwrap_or(i64::MAX)
    }

    /// Whether guests are loaded.
    pub(crate) fn guests(&self) -> bool {
        self.guests
    }

    /// Whether tenants are started one after the other, and whose turn it is is recorded.
    pub(crate) fn is_careful(&self) -> bool {
        matches!(self.care, Care::Careful | Care::OneByOne)
    }

    /// Whether starts are recorded at all.
    pub(crate) fn records(&self) -> bool {
        self.care != Care::Off
    }

    /// Records that guests are loaded next, where the start before did not end well.
    pub(crate) fn mark_guests<'h>(&self, db: &'h HostDb) -> Mark<'h> {
        self.mark_stage(db, &StartStage::Guests)
    }

    /// Records that it is this tenant's turn, where the start before did not end well.
    pub(crate) fn mark<'h>(&self, host: &'h Host, tenant: &Tenant) -> Mark<'h> {
        self.mark_stage(host.host_db(), &StartStage::Tenant(tenant.id().clone()))
    }

    fn mark_stage<'h>(&self, db: &'h HostDb, stage: &StartStage) -> Mark<'h> {
        if !self.is_careful() {
            return Mark(None);
        }
        set_mark(db, stage)
    }

    /// Why a tenant does not start with the others.
    pub(crate) fn hold(&self, tenant: &TenantId, now_ms: i64) -> Option<Hold> {
        let kept = self.kept_off.lock().get(tenant).cloned();
        let (message, since, retry_at) = match (self.care, kept) {
            (Care::Asked, _) => (
                "the gateway was started with --safe-mode: start it without to let tenants work"
                    .to_owned(),
                self.since,
                None,
            ),
            (_, Some(row)) => (
                format!(
                    "its start ended the gateway {} times, so it is kept off and tried again later; see the log for what happened, mend it, and start the gateway with --no-safe-mode to try at once",
                    row.crashes
                ),
                row.since,
                Some(row.retry_at),
            ),
            (Care::OneByOne, None) => (
                "safe mode after a crash loop: tenants start one after the other, this one soon"
                    .to_owned(),
                now_ms,
                None,
            ),
            _ => return None,
        };
        Some(Hold {
            reason: HoldReason::SafeMode,
            message,
            since,
            retry_at,
        })
    }

    /// As health shows it: `slug_of` names tenants, for the tenant `main` only.
    pub(crate) fn health(&self, slug_of: Option<SlugOf<'_>>) -> Option<SafeModeHealth> {
        let kept_off = self.kept_off.lock();
        let message = match self.care {
            Care::Asked => {
                "asked for by --safe-mode: no guest is loaded and no tenant works".to_owned()
            }
            Care::OneByOne if !self.over.load(Ordering::Acquire) => format!(
                "{} starts within five minutes did not come up: tenants are started one after the other, to find the one that is the reason",
                self.crashes
            ),
            _ if !kept_off.is_empty() => format!(
                "{} of the tenants kept off, since its start ended the gateway; all others work",
                kept_off.len()
            ),
            Care::OneByOne if !self.guests => {
                "loading guests ended the gateway: none is loaded until the next start".to_owned()
            }
            _ => return None,
        };
        Some(SafeModeHealth {
            state: PartState::Degraded,
            message,
            since: self.since,
            tenants: slug_of.map_or_else(Vec::new, |slug_of| {
                kept_off.keys().filter_map(slug_of).collect()
            }),
        })
    }

    fn next_retry(&self) -> Option<KeptOff> {
        let kept_off = self.kept_off.lock();
        kept_off.values().min_by_key(|row| row.retry_at).cloned()
    }

    fn let_in(&self, db: &HostDb, tenant: &TenantId) {
        if self.kept_off.lock().remove(tenant).is_some()
            && let Err(error) = db.let_in(tenant)
        {
            tracing::warn!(%error, "it is not recorded that a tenant works again");
        }
    }
}

fn set_mark<'h>(db: &'h HostDb, stage: &StartStage) -> Mark<'h> {
    if let Err(error) = db.mark_start(Some(stage)) {
        tracing::warn!(%error, "whose turn it is is not recorded");
        return Mark(None);
    }
    Mark(Some(db))
}

/// After the start: tenants that wait for their turn, the word that this start has settled, and later those that are kept
/// off.
pub(crate) fn watch_over(host: &Arc<Host>) {
    let safe = host.safe_mode();
    if !safe.records() {
        return;
    }
    let (weak, stop) = (Arc::downgrade(host), host.stop_token().clone());
    let work = async move {
        let waiting: Vec<Arc<Tenant>> = {
            let Some(host) = weak.upgrade() else { return };
            let kept_off = host.safe_mode().kept_off.lock();
            host.tenants()
                .into_iter()
                .filter(|t| t.hold().is_some_and(|h| h.reason == HoldReason::SafeMode))
                .filter(|t| {
                    host.safe_mode().care == Care::OneByOne && !kept_off.contains_key(t.id())
                })
                .collect()
        };
        for tenant in waiting {
            let Some(host) = weak.upgrade() else { return };
            admit(&host, &tenant).await;
        }
        {
            let Some(host) = weak.upgrade() else { return };
            host.safe_mode().over.store(true, Ordering::Release);
            host.nudge_health();
        }
        tokio::time::sleep(Duration::from_millis(SAFE_MODE_SETTLE_MS)).await;
        {
            let Some(host) = weak.upgrade() else { return };
            if let Err(error) = host.host_db().start_settled() {
                tracing::warn!(%error, "it is not recorded that the gateway came up");
            }
        }
        loop {
            let pause = {
                let Some(host) = weak.upgrade() else { return };
                if host.safe_mode().care == Care::Asked {
                    return;
                }
                let Some(next) = host.safe_mode().next_retry() else {
                    return;
                };
                let now = host.shared().clock.now_ms();
                if next.retry_at <= now {
                    try_again(&host, &next).await;
                    continue;
                }
                u64::try_from(next.retry_at.saturating_sub(now)).unwrap_or(0)
            };
            // In steps, so that a clock that is set is noticed.
            tokio::time::sleep(Duration::from_millis(
                pause.min(SAFE_MODE_WINDOW_MS.unsigned_abs()),
            ))
            .await;
        }
    };
    tokio::spawn(async move {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = work => {}
        }
    });
}

async fn try_again(host: &Arc<Host>, row: &KeptOff) {
    let tenants = host.tenants();
    match tenants.iter().find(|t| *t.id() == row.tenant) {
        Some(tenant) => {
            tracing::info!(
                tenant = tenant.slug(),
                crashes = row.crashes,
                "a tenant that ended the gateway is tried again"
            );
            admit(host, tenant).await;
        }
        // It is no longer configured.
        None => host.safe_mode().let_in(host.host_db(), &row.tenant),
    }
    host.nudge_health();
}

/// Starts one held tenant, with its name on record until it has run for a moment.
async fn admit(host: &Arc<Host>, tenant: &Arc<Tenant>) {
    let mark = set_mark(host.host_db(), &StartStage::Tenant(tenant.id().clone()));
    host.take_up_held(tenant).await;
    tokio::time::sleep(Duration::from_millis(SAFE_MODE_TENANT_SETTLE_MS)).await;
    drop(mark);
    host.safe_mode().let_in(host.host_db(), tenant.id());
    host.nudge_health();
    if tenant
        .hold()
        .is_some_and(|hold| hold.reason == HoldReason::SafeMode)
    {
        tenant.set_hold(None);
    }
    tenant.log("info", "started after safe mode");
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use gateway_store::{StateDir, StoreOptions};

    use super::*;

    const RETRY_MS: u64 = 300_000;

    /// The next process on this directory.
    fn process(
        dir: &std::path::Path,
        at: i64,
        choice: SafeModeChoice,
    ) -> (StateDir, HostDb, SafeMode) {
        let state = StateDir::open(dir).unwrap();
        let db = HostDb::open(&state, StoreOptions::default()).unwrap();
        let safe = SafeMode::begin(&db, choice, at, RETRY_MS).unwrap();
        (state, db, safe)
    }

    /// Covers: F26.
    #[test]
    fn three_starts_that_do_not_come_up_are_a_loop_and_the_marked_tenant_is_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let auto = SafeModeChoice::Auto;
        let mut acme = None;
        for (n, care) in [Care::Normal, Care::Careful, Care::Careful]
            .into_iter()
            .enumerate()
        {
            let (_state, db, safe) = process(dir.path(), 1_000 * (n as i64 + 1), auto);
            assert_eq!(safe.care, care, "start {n}");
            let id = db.ensure_tenant("acme", 1).unwrap().id;
            assert_eq!(safe.hold(&id, 1), None);
            let mark = safe.mark_stage(&db, &StartStage::Tenant(id.clone()));
            acme = Some(id);
            // The process ends here.
            std::mem::forget(mark);
        }
        let acme = acme.unwrap();
        let (state, db, safe) = process(dir.path(), 10_000, auto);
        let beta = db.ensure_tenant("beta", 1).unwrap().id;
        assert_eq!(safe.care, Care::OneByOne);
        let hold = safe.hold(&acme, 10_000).unwrap();
        assert_eq!(hold.retry_at, Some(10_000 + RETRY_MS as i64));
        assert_eq!(safe.hold(&beta, 10_000).unwrap().retry_at, None);
        let slug_of = |id: &TenantId| (*id == acme).then(|| "acme".to_owned());
        assert_eq!(safe.health(Some(&slug_of)).unwrap().tenants, ["acme"]);
        assert!(safe.health(None).unwrap().tenants.is_empty());
        // It settles; then the tenant is tried again and ends the process once more: one crash is enough.
        db.start_settled().unwrap();
        std::mem::forget(set_mark(&db, &StartStage::Tenant(acme.clone())));
        drop((state, db, safe));
        let (state, db, safe) = process(dir.path(), 400_000, auto);
        assert_eq!(safe.care, Care::Normal);
        let hold = safe.hold(&acme, 400_000).unwrap();
        assert_eq!(hold.retry_at, Some(400_000 + 2 * RETRY_MS as i64));
        assert_eq!(safe.hold(&beta, 400_000), None);
        // It comes up, and all is as before.
        safe.let_in(&db, &acme);
        assert!(safe.health(Some(&slug_of)).is_none());
        db.start_stopped().unwrap();
        drop((state, db, safe));
        let (_state, _db, safe) = process(dir.path(), 500_000, auto);
        assert_eq!(safe.care, Care::Normal);
        assert_eq!(safe.hold(&acme, 500_000), None);
    }

    /// Covers: F26.
    #[test]
    fn crashes_that_lie_apart_are_no_loop_and_nobody_is_kept_off_for_long() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..6 {
            let at = n * (SAFE_MODE_WINDOW_MS / 2 + 1);
            let (_state, _db, safe) = process(dir.path(), at, SafeModeChoice::Auto);
            assert_ne!(safe.care, Care::OneByOne, "start {n}");
        }
        let (_state, db, safe) = process(dir.path(), 1, SafeModeChoice::Off);
        assert_eq!(safe.care, Care::Off);
        assert_eq!(db.begin_start(2).unwrap().unclean.len(), 6);
        assert_eq!(safe.pause_ms(1), RETRY_MS as i64);
        assert_eq!(safe.pause_ms(u32::MAX), SAFE_MODE_RETRY_MAX_MS as i64);
    }
}
