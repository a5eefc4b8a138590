//! Durable accept of inbound work: when `accept` answered, the work survives a power cut; the same work offered again
//! is recognised. Today that is a commit in the tenant's store; a later form over an engine has to pass the same
//! [`conformance`] suite.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use gateway_protocol::session_key::SessionKey;
use gateway_store::StoreError;

use crate::session::{self, AcceptOutcomeInfo, AcceptRun, Origin};
use crate::tenant::Tenant;

/// A piece of inbound work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Work {
    /// Names the work: offered twice, it is done once.
    pub id: String,
    /// The session that it belongs to.
    pub session: SessionKey,
    /// The text.
    pub text: String,
}

/// What became of an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// Durable now.
    New,
    /// Was taken before.
    Duplicate,
    /// The id was used for other work.
    Conflict,
}

/// Takes work durably.
pub trait Intake: Send + Sync + 'static {
    /// Answers after the work is durable, or with an error when it is certain that it is not.
    fn accept(&self, work: Work) -> BoxFuture<'_, Result<Taken, StoreError>>;
    /// Whether work of this id was taken.
    fn has<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<bool, StoreError>>;
}

/// Intake by local commit.
#[derive(Debug, Clone)]
pub struct LocalIntake {
    tenant: Arc<Tenant>,
}

impl LocalIntake {
    /// The intake of one tenant.
    #[must_use]
    pub fn new(tenant: Arc<Tenant>) -> Self {
        Self { tenant }
    }
}

impl Intake for LocalIntake {
    fn accept(&self, work: Work) -> BoxFuture<'_, Result<Taken, StoreError>> {
        Box::pin(async move {
            let run = AcceptRun::new(&self.tenant, work.session, work.id, Origin::Rpc, work.text);
            Ok(match session::accept(&self.tenant, run).await? {
                AcceptOutcomeInfo::New { .. } => Taken::New,
                AcceptOutcomeInfo::Existing(_) => Taken::Duplicate,
                AcceptOutcomeInfo::Conflict | AcceptOutcomeInfo::SessionChanged => Taken::Conflict,
            })
        })
    }

    fn has<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<bool, StoreError>> {
        let id = id.to_owned();
        Box::pin(async move {
            self.tenant
                .db()
                .read(move |r| Ok(r.get_run(&id)?.is_some()))
                .await
        })
    }
}

/// What every intake must do. `reopen` gives the intake as a later process finds it.
///
/// # Errors
/// The name of the broken rule.
pub async fn conformance<I, F, Fut>(first: I, session: &SessionKey, reopen: F) -> Result<(), String>
where
    I: Intake,
    F: FnOnce(I) -> Fut,
    Fut: std::future::Future<Output = I>,
{
    let work = |id: &str, text: &str| Work {
        id: id.to_owned(),
        session: session.clone(),
        text: text.to_owned(),
    };
    let offer = |r: Result<Taken, StoreError>| r.map_err(|e| format!("accept: {e}"));
    if offer(first.accept(work("w1", "one")).await)? != Taken::New {
        return Err("first offer is new".to_owned());
    }
    if offer(first.accept(work("w1", "one")).await)? != Taken::Duplicate {
        return Err("second offer is a duplicate".to_owned());
    }
    if offer(first.accept(work("w1", "other")).await)? != Taken::Conflict {
        return Err("same id with other work is a conflict".to_owned());
    }
    let many =
        futures_util::future::join_all((0..20).map(|_| first.accept(work("w2", "two")))).await;
    let new = many.iter().filter(|r| **r == Ok(Taken::New)).count();
    if new != 1 {
        return Err(format!("twenty offers at once: {new} new"));
    }
    let later = reopen(first).await;
    for id in ["w1", "w2"] {
        if later.has(id).await != Ok(true) {
            return Err(format!("{id} is lost"));
        }
    }
    if offer(later.accept(work("w1", "one")).await)? != Taken::Duplicate {
        return Err("a duplicate after a restart".to_owned());
    }
    if later.has("w3").await != Ok(false) {
        return Err("work that was never offered".to_owned());
    }
    Ok(())
}
