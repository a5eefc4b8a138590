//! What the host sides of guests have in common, whatever world the guest is of: log levels, errors, and the keys and values
//! under its name.

use gateway_store::{StoreError, Write};
use gateway_wasm::{HostError, KvWrite, Level};

use crate::tenant::Tenant;

/// Two names under which a guest's keys are kept: kind and account, or script and `boot`.
#[derive(Debug, Clone)]
pub(crate) struct KvSpace {
    pub(crate) kind: String,
    pub(crate) account: String,
}

impl KvSpace {
    pub(crate) fn new(kind: &str, account: &str) -> Self {
        Self {
            kind: kind.to_owned(),
            account: account.to_owned(),
        }
    }

    pub(crate) async fn get(
        self,
        tenant: &Tenant,
        key: String,
    ) -> Result<Option<Vec<u8>>, HostError> {
        tenant
            .db()
            .read(move |r| r.kv_get(&self.kind, &self.account, &key))
            .await
            .map_err(|error| host_error(&error))
    }

    pub(crate) async fn list(
        self,
        tenant: &Tenant,
        prefix: String,
    ) -> Result<Vec<String>, HostError> {
        let limit = i64::try_from(gateway_wasm::limits::MAX_KV_LIST).unwrap_or(i64::MAX);
        tenant
            .db()
            .read(move |r| r.kv_list(&self.kind, &self.account, &prefix, limit))
            .await
            .map_err(|error| host_error(&error))
    }

    /// Writes staged changes; `quota_bytes` is of all that the guest keeps.
    pub(crate) fn apply(
        &self,
        w: &mut Write<'_>,
        changes: &[KvWrite],
        quota_bytes: i64,
    ) -> Result<(), StoreError> {
        for change in changes {
            match &change.value {
                Some(value) => {
                    w.kv_set(&self.kind, &self.account, &change.key, value, quota_bytes)?;
                }
                None => {
                    w.kv_delete(&self.kind, &self.account, &change.key)?;
                }
            }
        }
        Ok(())
    }
}

/// A guest's level in the words of the tenant's log.
pub(crate) fn level_word(level: Level) -> &'static str {
    match level {
        Level::Trace => "trace",
        Level::Debug => "debug",
        Level::Info => "info",
        Level::Warn => "warn",
        Level::Error => "error",
    }
}

/// A store error as a guest is told it.
pub(crate) fn host_error(error: &StoreError) -> HostError {
    match error {
        StoreError::Limit(name) => HostError::Limit((*name).to_owned()),
        StoreError::Full | StoreError::Busy(_) | StoreError::Closed => {
            HostError::Unavailable(error.to_string())
        }
        _ => HostError::Internal(error.to_string()),
    }
}
