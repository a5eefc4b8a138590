//! API keys of all tenants: made, looked up, ended. The store has them; here they are in memory, by keyed hash, so that a
//! request costs no query and an ended key is unknown from the next request on.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gateway_protocol::scope::ScopeSet;
use gateway_store::{ApiKeyRow, HostDb, StoreError, TenantId};
use tokio::sync::watch;

use super::{CredentialHash, credential_hash};
use crate::limits::API_KEY_USE_STEP_MS;
use crate::random::Random;

/// What every secret begins with, so that people and scanners know one when they see it.
const PREFIX: &str = "gwk_";

/// A key in force.
pub struct ApiKey {
    row: ApiKeyRow,
    scopes: ScopeSet,
    agent: Option<Arc<str>>,
    last_used: AtomicI64,
    kept_use: AtomicI64,
}

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ApiKey({})", self.row.id)
    }
}

impl ApiKey {
    fn new(row: ApiKeyRow) -> Self {
        let used = row.last_used_at.unwrap_or(0);
        Self {
            scopes: ScopeSet::parse(&row.scopes),
            agent: row.agent.as_deref().map(Arc::from),
            last_used: AtomicI64::new(used),
            kept_use: AtomicI64::new(used),
            row,
        }
    }

    /// What is kept of it.
    #[must_use]
    pub fn row(&self) -> &ApiKeyRow {
        &self.row
    }

    /// The most that it may do.
    #[must_use]
    pub fn scopes(&self) -> ScopeSet {
        self.scopes
    }

    /// The only agent that it may use.
    #[must_use]
    pub fn agent(&self) -> Option<&Arc<str>> {
        self.agent.as_ref()
    }

    /// When it was used last, to the minute; `None`: never.
    #[must_use]
    pub fn last_used_ms(&self) -> Option<i64> {
        Some(self.last_used.load(Ordering::Relaxed)).filter(|ms| *ms > 0)
    }

    /// Whether its end has come.
    #[must_use]
    pub fn expired(&self, now_ms: i64) -> bool {
        self.row.expires_at.is_some_and(|end| end <= now_ms)
    }
}

/// A key to make.
#[derive(Debug, Clone)]
pub struct NewApiKey {
    /// Its id.
    pub id: String,
    /// Its tenant.
    pub tenant: TenantId,
    /// Its name.
    pub name: String,
    /// Its scopes.
    pub scopes: ScopeSet,
    /// The only agent that it may use.
    pub agent: Option<String>,
    /// When its end comes, Unix epoch ms.
    pub expires_at: Option<i64>,
    /// Now, Unix epoch ms.
    pub now_ms: i64,
}

/// The keys of all tenants.
pub struct ApiKeys {
    db: Arc<HostDb>,
    hash_key: [u8; 32],
    map: ArcSwap<HashMap<CredentialHash, Arc<ApiKey>>>,
    /// Raised whenever some credential may have ended or begun.
    changed: watch::Sender<u64>,
    /// Raised for those who go on by a credential, after connections were looked at.
    ended: watch::Sender<u64>,
}

impl std::fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ApiKeys({})", self.map.load().len())
    }
}

impl ApiKeys {
    /// Reads the keys of the store.
    ///
    /// # Errors
    /// Those of the store.
    pub fn open(db: Arc<HostDb>, hash_key: [u8; 32]) -> Result<Self, StoreError> {
        let map = db
            .api_keys()?
            .into_iter()
            .map(|row| (row.hash.0, Arc::new(ApiKey::new(row))))
            .collect();
        Ok(Self {
            db,
            hash_key,
            map: ArcSwap::from_pointee(map),
            changed: watch::Sender::new(0),
            ended: watch::Sender::new(0),
        })
    }

    /// The key of this hash, whether its end has come or not.
    pub(super) fn find(&self, hash: &CredentialHash) -> Option<Arc<ApiKey>> {
        self.map.load().get(hash).cloned()
    }

    /// Notes that a key let somebody in. Coarse, so that a busy key does not write all the time.
    pub(super) fn used(&self, key: &ApiKey, now_ms: i64) {
        let minute = now_ms - now_ms.rem_euclid(API_KEY_USE_STEP_MS);
        key.last_used.fetch_max(minute, Ordering::Relaxed);
    }

    /// Makes a key, durable when this returns, and gives its secret: the only time that it is told. Blocks for a commit.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] for a name that is taken, [`StoreError::Limit`] for a key too many.
    pub fn create(
        &self,
        new: NewApiKey,
        random: &dyn Random,
    ) -> Result<(Arc<ApiKey>, String), StoreError> {
        let mut bytes = [0_u8; 32];
        random.fill(&mut bytes);
        let secret = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes));
        let hash = credential_hash(&self.hash_key, &secret);
        let row = ApiKeyRow {
            id: new.id,
            tenant: new.tenant,
            name: new.name,
            hash: gateway_store::CredentialHash(hash),
            scopes: new.scopes.iter().map(|s| s.as_str().to_owned()).collect(),
            agent: new.agent,
            created_at: new.now_ms,
            expires_at: new.expires_at,
            last_used_at: None,
        };
        self.db.insert_api_key(&row)?;
        let key = Arc::new(ApiKey::new(row));
        self.map.rcu(|map| {
            let mut map = HashMap::clone(map);
            map.insert(hash, key.clone());
            map
        });
        self.tell_change();
        Ok((key, secret))
    }

    /// Ends a key of this tenant, by id or name. Whatever it let in is told by [`ApiKeys::changes`]. Blocks for a commit.
    ///
    /// # Errors
    /// Those of the store; then the key goes on.
    pub fn revoke(&self, tenant: &TenantId, key: &str) -> Result<Option<ApiKeyRow>, StoreError> {
        let Some(row) = self.db.remove_api_key(tenant, key)? else {
            return Ok(None);
        };
        self.map.rcu(|map| {
            let mut map = HashMap::clone(map);
            map.remove(&row.hash.0);
            map
        });
        self.tell_change();
        Ok(Some(row))
    }

    /// The keys of a tenant, the oldest first.
    #[must_use]
    pub fn of_tenant(&self, tenant: &TenantId) -> Vec<Arc<ApiKey>> {
        let mut keys: Vec<_> = self
            .map
            .load()
            .values()
            .filter(|key| key.row.tenant == *tenant)
            .cloned()
            .collect();
        keys.sort_by(|a, b| (a.row.created_at, &a.row.id).cmp(&(b.row.created_at, &b.row.id)));
        keys
    }

    /// Told whenever some credential (a key or a secret of the settings) may have ended or begun.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(crate) fn ended(&self) -> watch::Receiver<u64> {
        self.ended.subscribe()
    }

    pub(crate) fn wake_requests(&self) {
        self.ended.send_modify(|n| *n = n.wrapping_add(1));
    }

    pub(crate) fn tell_change(&self) {
        self.changed.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// When the next key ends that is still in force, Unix epoch ms.
    pub(crate) fn next_end_ms(&self, now_ms: i64) -> Option<i64> {
        self.map
            .load()
            .values()
            .filter_map(|key| key.row.expires_at)
            .filter(|end| *end > now_ms)
            .min()
    }

    /// Whether a use was not written down yet.
    pub(crate) fn has_unkept_use(&self) -> bool {
        self.map.load().values().any(|key| unkept(key).is_some())
    }

    /// Writes down when keys were used last. Blocks for a commit.
    ///
    /// # Errors
    /// Those of the store; the next call tries again.
    pub(crate) fn keep_use(&self) -> Result<(), StoreError> {
        let map = self.map.load();
        let used: Vec<_> = map
            .values()
            .filter_map(|key| Some((key, unkept(key)?)))
            .collect();
        if used.is_empty() {
            return Ok(());
        }
        let rows: Vec<(String, i64)> = used
            .iter()
            .map(|(key, at)| (key.row.id.clone(), *at))
            .collect();
        self.db.touch_api_keys(&rows)?;
        for (key, at) in used {
            key.kept_use.fetch_max(at, Ordering::Relaxed);
        }
        Ok(())
    }
}

fn unkept(key: &ApiKey) -> Option<i64> {
    let used = key.last_used.load(Ordering::Relaxed);
    (used > key.kept_use.load(Ordering::Relaxed)).then_some(used)
}
