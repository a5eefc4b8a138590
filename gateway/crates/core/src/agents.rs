//! The agents of a tenant: settings turned into backends and tool catalogs.

use std::collections::BTreeMap;
use std::sync::Arc;

use gateway_config::{AgentSettings, TenantSettings};
use gateway_egress::Egress;

use crate::agent::{AgentBackend, build_backend};
use crate::clock::Clock;
use crate::tool::ToolCatalog;

/// One agent, ready to answer.
#[derive(Clone)]
pub struct Agent {
    /// Its id.
    pub id: String,
    /// What answers.
    pub backend: Arc<dyn AgentBackend>,
    /// Tools that it may call.
    pub tools: Arc<ToolCatalog>,
    /// Instructions put before each conversation.
    pub system_prompt: Option<Arc<str>>,
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Agent({}: {})", self.id, self.backend.provider())
    }
}

/// Makes backends; the tests and the simulation put their own in its place.
pub trait BackendFactory: Send + Sync + 'static {
    /// The backend of an agent, or what is wrong with its settings.
    ///
    /// # Errors
    /// A sentence for the operator.
    fn build(
        &self,
        settings: &AgentSettings,
        tenant: &Arc<str>,
    ) -> Result<Arc<dyn AgentBackend>, String>;
}

/// The backends that settings name.
#[derive(Debug, Clone)]
pub struct ConfiguredBackends {
    /// The way out to upstreams.
    pub egress: Egress,
}

impl BackendFactory for ConfiguredBackends {
    fn build(
        &self,
        settings: &AgentSettings,
        tenant: &Arc<str>,
    ) -> Result<Arc<dyn AgentBackend>, String> {
        build_backend(settings, &self.egress, tenant).map_err(|e| e.to_string())
    }
}

/// The agents of one tenant.
#[derive(Debug, Clone)]
pub struct Agents {
    default: String,
    map: BTreeMap<String, Agent>,
    broken: BTreeMap<String, String>,
}

impl Agents {
    /// Builds all agents. One that cannot be built is remembered with its reason and answers nothing.
    #[must_use]
    pub fn build(
        settings: &TenantSettings,
        tenant: &Arc<str>,
        factory: &dyn BackendFactory,
        clock: &Arc<dyn Clock>,
    ) -> Self {
        let mut map = BTreeMap::new();
        let mut broken = BTreeMap::new();
        for (id, agent) in &settings.agents.entries {
            let built = factory.build(agent, tenant).and_then(|backend| {
                let tools = ToolCatalog::builtin(&agent.tools, clock).map_err(|e| e.to_string())?;
                Ok(Agent {
                    id: id.clone(),
                    backend,
                    tools: Arc::new(tools),
                    system_prompt: agent.system_prompt.as_deref().map(Arc::from),
                })
            });
            match built {
                Ok(agent) => {
                    map.insert(id.clone(), agent);
                }
                Err(why) => {
                    broken.insert(id.clone(), why);
                }
            }
        }
        Self {
            default: settings.agents.default.clone(),
            map,
            broken,
        }
    }

    /// The agent of this id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Agent> {
        self.map.get(id)
    }

    /// Whether this id is configured, usable or not.
    #[must_use]
    pub fn exists(&self, id: &str) -> bool {
        self.map.contains_key(id) || self.broken.contains_key(id)
    }

    /// Id of the agent that answers when none is named.
    #[must_use]
    pub fn default_id(&self) -> &str {
        &self.default
    }

    /// All configured ids, in order.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        let mut ids: Vec<&str> = self
            .map
            .keys()
            .chain(self.broken.keys())
            .map(String::as_str)
            .collect();
        ids.sort_unstable();
        ids.into_iter()
    }

    /// Agents that could not be built, with the reason.
    #[must_use]
    pub fn broken(&self) -> &BTreeMap<String, String> {
        &self.broken
    }
}
