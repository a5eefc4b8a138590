//! A tenant that takes no work: its operators can connect and look why, and nothing else is done for it.

use gateway_protocol::error::{DetailCode, RpcError};
use gateway_protocol::methods::system::{HeldHealth, PartState};

use crate::cx::{Caller, Surface};
use crate::limits::HELD_RETRY_AFTER_MS;

/// Why a tenant is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HoldReason {
    /// A boot script failed whose policy is `abort`.
    BootScript,
    /// The gateway is in safe mode, or this tenant's start ended the process. Its store is not open.
    SafeMode,
}

impl HoldReason {
    /// The word on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BootScript => "boot-script",
            Self::SafeMode => "safe-mode",
        }
    }
}

/// Why a tenant takes no work, and until when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// Why.
    pub reason: HoldReason,
    /// For its operators: why, and what to do.
    pub message: String,
    /// Since when, Unix epoch ms.
    pub since: i64,
    /// When it is tried again by itself, Unix epoch ms.
    pub retry_at: Option<i64>,
}

/// Methods that need neither store nor guests: how a held tenant is looked at.
const LOOK: &[&str] = &[
    "health",
    "status",
    "system-presence",
    "gateway.identity.get",
    "logs.tail",
    "rpc.discover",
    "config.get",
    "config.set",
    "config.patch",
    "config.apply",
    "config.schema",
    "config.schema.lookup",
];
/// Methods that help out of a boot script's failure.
const BOOT: &[&str] = &["boot.list", "boot.run"];

impl Hold {
    /// Whether a call goes through all the same.
    #[must_use]
    pub fn lets(&self, method: &str, caller: &Caller) -> bool {
        // Boot scripts that run again are what may end the hold.
        caller.surface == Surface::Internal
            || LOOK.contains(&method)
            || (self.reason == HoldReason::BootScript && BOOT.contains(&method))
    }

    /// The answer to all other calls.
    #[must_use]
    pub fn refusal(&self, now_ms: i64) -> RpcError {
        let wait = self
            .retry_at
            .and_then(|at| u64::try_from(at.saturating_sub(now_ms)).ok())
            .unwrap_or(HELD_RETRY_AFTER_MS)
            .clamp(500, HELD_RETRY_AFTER_MS);
        RpcError::new(DetailCode::TenantUnavailable, "the tenant takes no work")
            .with("reason", self.reason.as_str())
            .with("why", self.message.as_str())
            .retry_after_ms(wait)
    }

    /// As health shows it.
    #[must_use]
    pub fn health(&self) -> HeldHealth {
        HeldHealth {
            state: PartState::Degraded,
            reason: self.reason.as_str().to_owned(),
            message: self.message.clone(),
            since: self.since,
            retry_at: self.retry_at,
        }
    }
}
