//! What the outside world knows of one tenant.

use std::collections::BTreeMap;
use std::sync::Arc;

use gateway_core::agent::AgentBackend;
use gateway_core::agents::BackendFactory;
use parking_lot::Mutex;

use super::super::support::Script;
use gateway_config::AgentSettings;

/// A person's message on the platform.
#[derive(Clone, Debug)]
pub struct Post {
    pub from: String,
    pub text: String,
    /// The gateway said that it has it.
    pub acknowledged: bool,
}

#[derive(Debug, Default)]
pub struct World {
    pub slug: String,
    /// Stands in every text of this tenant and must be seen nowhere else.
    pub canary: String,
    /// Run id → (session, text): answered with success.
    pub accepted: BTreeMap<String, (String, String)>,
    /// Run id → (session, text): offered; the answer may not have come.
    pub offered: BTreeMap<String, (String, String)>,
    /// Message id → message on the platform.
    pub posts: BTreeMap<String, Post>,
    pub next: u64,
    /// What happened, for comparing two runs of one seed.
    pub story: Vec<String>,
    pub broken: Vec<String>,
}

pub type Shared = Arc<Mutex<World>>;

impl World {
    pub fn new(slug: &str, seed: u64) -> Shared {
        Arc::new(Mutex::new(Self {
            slug: slug.to_owned(),
            canary: format!("canary-{slug}-{seed}"),
            ..Self::default()
        }))
    }

    pub fn text(&mut self, verb: &str) -> (u64, String) {
        self.next += 1;
        let n = self.next;
        (n, format!("{verb} message number {n} of {}", self.canary))
    }
}

/// A scripted agent for each tenant: their runs have the same ids on purpose.
#[derive(Default)]
pub struct ScriptsByTenant(pub Mutex<BTreeMap<String, Arc<Script>>>);

impl BackendFactory for ScriptsByTenant {
    fn build(&self, _: &AgentSettings, tenant: &Arc<str>) -> Result<Arc<dyn AgentBackend>, String> {
        let script = self.0.lock().entry(tenant.to_string()).or_default().clone();
        Ok(script)
    }
}
