//! What the embedding gateway gives to guests. One object for each (tenant, plugin, account): tenant and account are
//! in the object and never in an argument, so no guest can name another's.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::types::{
    AccountStatus, CommitReport, Effects, GuestRequest, GuestResponse, HostError, HttpFault, Level,
};

/// The host side of one account. Futures are run on the tokio runtime of the caller of [`crate::Account`], never on a guest
/// thread; the plain functions are called on guest threads and must not block.
pub trait AccountHost: Send + Sync + 'static {
    /// A stable name of the tenant: guest threads serve tenants in turn by it.
    fn tenant(&self) -> &str;
    /// Milliseconds since the Unix epoch.
    fn now_ms(&self) -> i64;
    /// Milliseconds since some fixed moment; never goes back.
    fn monotonic_ms(&self) -> u64;
    /// `n` random bytes (`n` ≤ 4096).
    fn random(&self, n: usize) -> Vec<u8>;
    /// The account's configuration as JSON, without secrets.
    fn config_json(&self) -> Arc<str>;
    /// One line: at most 4 KiB, without control characters.
    fn log(&self, level: Level, line: &str);
    /// The state of the last commit ([`Effects::state`]); `None` at first. Asked for once for each instance.
    fn state(&self) -> BoxFuture<'_, Result<Option<Vec<u8>>, HostError>>;
    /// A committed value. Staged writes are laid over it by this crate.
    fn kv_get(&self, key: String) -> BoxFuture<'_, Result<Option<Vec<u8>>, HostError>>;
    /// Committed keys that begin with `prefix`, in byte order, at most [`crate::limits::MAX_KV_LIST`].
    fn kv_list(&self, prefix: String) -> BoxFuture<'_, Result<Vec<String>, HostError>>;
    /// Makes an exchange. `sent` must be true before the first byte of the request leaves; it is read also when this future is
    /// dropped in the middle.
    fn http_fetch(
        &self,
        req: GuestRequest,
        sent: Arc<AtomicBool>,
    ) -> BoxFuture<'_, Result<GuestResponse, HttpFault>>;
    /// Stores all of it in one transaction, or nothing.
    fn commit(&self, fx: Effects) -> BoxFuture<'_, Result<CommitReport, HostError>>;
    /// A call, or a few that followed each other in one turn, used so much CPU time. Called on a guest thread; must not block.
    fn used(&self, cpu: Duration) {
        let _ = cpu;
    }
    /// The status changed. Called on the runtime of the caller; must not block.
    fn status(&self, s: AccountStatus);
}

/// The host side of one run of a boot script.
pub trait BootHost: Send + Sync + 'static {
    /// A stable name of the tenant.
    fn tenant(&self) -> &str;
    /// The script's configuration as JSON.
    fn config_json(&self) -> Arc<str>;
    /// One line.
    fn log(&self, level: Level, line: &str);
    /// A committed value.
    fn kv_get(&self, key: String) -> BoxFuture<'_, Result<Option<Vec<u8>>, HostError>>;
    /// Committed keys.
    fn kv_list(&self, prefix: String) -> BoxFuture<'_, Result<Vec<String>, HostError>>;
    /// Stores the kv writes of a run that ended ok ([`Effects::kv`] is all that is set).
    fn commit(&self, fx: Effects) -> BoxFuture<'_, Result<CommitReport, HostError>>;
    /// Calls a method of the gateway as the `boot` caller. `method` is one that the manifest lists. `params` is JSON text of the
    /// guest's, not yet parsed. `key` is empty or the guest's suffix: the host puts script and boot id before it.
    fn call(
        &self,
        method: String,
        params: String,
        key: String,
    ) -> BoxFuture<'_, Result<String, GatewayCallError>>;
}

/// The host side of a hook of one tenant. All of it is called on guest threads and must not block.
pub trait HookHost: Send + Sync + 'static {
    /// A stable name of the tenant.
    fn tenant(&self) -> &str;
    /// Milliseconds since some fixed moment; never goes back.
    fn monotonic_ms(&self) -> u64;
    /// The hook's configuration as JSON.
    fn config_json(&self) -> Arc<str>;
    /// One line.
    fn log(&self, level: Level, line: &str);
}

/// Why a method call of a boot script failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct GatewayCallError {
    /// Code as on the wire.
    pub code: String,
    /// For people.
    pub message: String,
    /// Trying again may help.
    pub retryable: bool,
}
