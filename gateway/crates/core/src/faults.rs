//! Panics that were caught: each is counted and logged under an id that the caller gets.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gateway_protocol::error::RpcError;

use crate::random::Random;

/// The fault counter of a host.
#[derive(Clone)]
pub struct Faults {
    count: Arc<AtomicU64>,
    random: Arc<dyn Random>,
}

impl std::fmt::Debug for Faults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Faults({})", self.count())
    }
}

impl Faults {
    /// Nothing happened yet.
    #[must_use]
    pub fn new(random: Arc<dyn Random>) -> Self {
        Self {
            count: Arc::default(),
            random,
        }
    }

    /// Panics caught since the start.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Logs a caught panic and makes the caller's answer; the text of the panic stays in the log.
    pub fn panicked(&self, place: &str, panic: &(dyn Any + Send)) -> RpcError {
        let text = panic
            .downcast_ref::<&str>()
            .map(|s| (*s).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "no text".to_owned());
        self.internal(place, &text)
    }

    /// Logs a fault of ours and makes the caller's answer.
    pub fn internal(&self, place: &str, text: &str) -> RpcError {
        self.count.fetch_add(1, Ordering::Relaxed);
        let id = crate::random::uuid(&*self.random);
        tracing::error!(error_id = %id, place, text, "internal error");
        RpcError::internal(id)
    }
}
