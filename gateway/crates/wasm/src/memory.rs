//! Memory of all instances that are alive, so that the largest can be ended when the process runs out.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

/// What one instance holds in its linear memories.
#[derive(Debug)]
pub(crate) struct Held {
    bytes: AtomicUsize,
    doomed: AtomicBool,
    /// `plugin/tenant`, for the log.
    owner: String,
}

impl Held {
    pub(crate) fn set(&self, bytes: usize) {
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    /// The instance has to end.
    pub(crate) fn is_doomed(&self) -> bool {
        self.doomed.load(Ordering::Relaxed)
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Instances(Mutex<Vec<Weak<Held>>>);

impl Instances {
    pub(crate) fn add(&self, owner: String) -> Arc<Held> {
        let held = Arc::new(Held {
            bytes: AtomicUsize::new(0),
            doomed: AtomicBool::new(false),
            owner,
        });
        let mut all = self.0.lock();
        // Those that ended are forgotten before the list grows.
        if all.len() == all.capacity() {
            all.retain(|one| one.strong_count() > 0);
        }
        all.push(Arc::downgrade(&held));
        held
    }

    /// Dooms the instance that holds the most; gives whose it was and its bytes.
    pub(crate) fn doom_largest(&self) -> Option<(String, usize)> {
        let all = self.0.lock();
        let largest = all
            .iter()
            .filter_map(Weak::upgrade)
            .filter(|one| !one.is_doomed())
            .max_by_key(|one| one.bytes.load(Ordering::Relaxed))?;
        largest.doomed.store(true, Ordering::Relaxed);
        Some((largest.owner.clone(), largest.bytes.load(Ordering::Relaxed)))
    }
}
