//! Hooks: requests of other programs that wake an agent or have it answer. As written, as resolved, and the way between.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::Deserialize;

use crate::Secret;
use crate::load::Resolver;
use crate::options::SecretRef;
use crate::settings::TenantSettings;
use crate::source::join_key;

/// Body of a hook request, in bytes, where nothing else is written.
const BODY_DEFAULT_BYTES: u32 = 256 * 1024;
/// First parts of paths that are taken.
const TAKEN: [&str; 9] = [
    "channels", "v1", "rpc", "t", "health", "healthz", "ready", "readyz", "metrics",
];

/// Hooks.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HooksOptions {
    /// Whether there are hooks (default false).
    pub enabled: Option<bool>,
    /// What a request proves itself with (`Authorization: Bearer …`); another one than the gateway's.
    pub token: Option<SecretRef>,
    /// First part of the address (default `/hooks`).
    pub path: Option<String>,
    /// Session of `POST /hooks/agent` without one (default: a new one for each request).
    pub default_session_key: Option<String>,
    /// Whether a request may name its session (default false).
    pub allow_request_session_key: Option<bool>,
    /// Agents that requests may name (default: all of the tenant). Empty means only the default agent.
    pub allowed_agents: Option<Vec<String>>,
    /// Largest body (default 262144).
    #[schemars(range(min = 1_024, max = 1_048_576))]
    pub max_body_bytes: Option<u32>,
    /// Further addresses `/hooks/<name>`, each with what it does.
    pub mappings: BTreeMap<String, HookMappingOptions>,
    /// Plugins that judge what is about to happen, asked in this order; the first that denies decides. They count whether the
    /// addresses above are enabled or not.
    #[schemars(length(max = 16))]
    pub components: Vec<HookComponentOptions>,
}

/// A plugin that judges.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HookComponentOptions {
    /// Id of the plugin (its directory's name in `plugins.dir`).
    #[serde(default)]
    pub plugin: String,
    /// What it is asked about (default: everything).
    #[serde(default)]
    pub events: Option<Vec<HookEventOption>>,
    /// What its failure means: a trap, a limit, no answer in time, a plugin that is not there. `deny` (default) does not do what was
    /// asked about, `allow` does it.
    #[serde(default)]
    pub on_failure: Option<HookFailureOption>,
    /// Longest time for one answer, in ms (default 1000).
    #[serde(default)]
    #[schemars(range(min = 1, max = 10_000))]
    pub timeout_ms: Option<u32>,
    /// Given to the plugin as it is.
    #[serde(default)]
    pub config: BTreeMap<String, serde_json::Value>,
}

/// What a hook can be asked about, as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum HookEventOption {
    /// A message of a channel that was let in, before it starts a run.
    #[serde(rename = "message.inbound")]
    MessageInbound,
    /// A tool, before it is called.
    #[serde(rename = "tool.call")]
    ToolCall,
    /// A message, before it is put on a platform.
    #[serde(rename = "message.outbound")]
    MessageOutbound,
}

/// What the failure of a hook means, as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum HookFailureOption {
    /// It is not done.
    Deny,
    /// It is done.
    Allow,
}

/// A plugin that judges.
#[derive(Debug, Clone, PartialEq)]
pub struct HookComponentSettings {
    /// Id of the plugin.
    pub plugin: String,
    /// Asked about messages of channels.
    pub inbound: bool,
    /// Asked about tools.
    pub tools: bool,
    /// Asked about messages to platforms.
    pub outbound: bool,
    /// Its failure lets things happen.
    pub fails_open: bool,
    /// Longest time for one answer.
    pub timeout_ms: u64,
    /// Given to the guest as JSON. Always an object.
    pub config: serde_json::Value,
}

/// Time for one answer of a hook, in ms, where nothing else is written.
const COMPONENT_TIMEOUT_DEFAULT_MS: u32 = 1_000;
/// Hooks of a tenant that judge.
const COMPONENTS_MAX: usize = 16;

fn component(o: &HookComponentOptions) -> HookComponentSettings {
    let asks = |event| {
        o.events
            .as_ref()
            .is_none_or(|events| events.contains(&event))
    };
    HookComponentSettings {
        plugin: o.plugin.clone(),
        inbound: asks(HookEventOption::MessageInbound),
        tools: asks(HookEventOption::ToolCall),
        outbound: asks(HookEventOption::MessageOutbound),
        fails_open: o.on_failure == Some(HookFailureOption::Allow),
        timeout_ms: u64::from(o.timeout_ms.unwrap_or(COMPONENT_TIMEOUT_DEFAULT_MS)),
        config: serde_json::Value::Object(o.config.clone().into_iter().collect()),
    }
}

/// A further address. Templates take values of the request's JSON as `{{path.to.field}}`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HookMappingOptions {
    /// `wake` (a text before the next message) or `agent` (the agent answers; default).
    pub action: Option<HookActionOption>,
    /// Template of the text or message (default: the request's JSON).
    pub template: Option<String>,
    /// Name to show.
    pub name: Option<String>,
    /// Agent (default: the default agent).
    pub agent_id: Option<String>,
    /// `agent`: template of the session (default: as without mapping).
    pub session_key: Option<String>,
    /// `wake`: whether the agent looks at once (default true).
    pub now: Option<bool>,
    /// `agent`: whether the answer goes to a channel (default true).
    pub deliver: Option<bool>,
    /// `agent`: channel kind, or `last` (default).
    pub channel: Option<String>,
    /// `agent`: conversation of the channel kind.
    pub to: Option<String>,
    /// `agent`: longest time of the run, in seconds.
    #[schemars(range(min = 1, max = 86_400))]
    pub timeout_seconds: Option<u32>,
}

/// What a mapping does, as written.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum HookActionOption {
    /// A text before the next message.
    Wake,
    /// The agent answers.
    Agent,
}

/// Resolved hooks of a tenant that has them.
#[derive(Debug, Clone)]
pub struct HooksSettings {
    /// What a request proves itself with.
    pub token: Secret,
    /// First part of the address, without slashes.
    pub root: String,
    /// Session of requests without one.
    pub default_session_key: Option<String>,
    /// Whether a request may name its session.
    pub allow_request_session_key: bool,
    /// Agents that requests may name; `None`: all.
    pub allowed_agents: Option<BTreeSet<String>>,
    /// Largest body.
    pub max_body_bytes: usize,
    /// Further addresses.
    pub mappings: BTreeMap<String, HookMapping>,
}

/// A further address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookMapping {
    /// Whether it only wakes.
    pub wake: bool,
    /// Template of the text; `None`: the request's JSON.
    pub template: Option<String>,
    /// Name to show.
    pub name: Option<String>,
    /// Agent; `None`: the default agent.
    pub agent: Option<String>,
    /// Template of the session.
    pub session_key: Option<String>,
    /// Whether the agent looks at once.
    pub now: bool,
    /// Whether the answer goes to a channel.
    pub deliver: bool,
    /// Channel kind; `None`: the conversation used last.
    pub channel: Option<String>,
    /// Conversation.
    pub to: Option<String>,
    /// Longest time of the run, in seconds.
    pub timeout_s: Option<u64>,
}

impl Resolver<'_> {
    pub(crate) fn with_hooks(
        &mut self,
        mut tenant: TenantSettings,
        path: &str,
        o: &HooksOptions,
    ) -> TenantSettings {
        tenant.hooks = self.hooks(path, &tenant, o);
        let at = join_key(&join_key(path, "hooks"), "components");
        if o.components.len() > COMPONENTS_MAX {
            self.bad(
                &at,
                format!("more than {COMPONENTS_MAX} hooks"),
                "put what they do into fewer plugins",
            );
        }
        for (i, written) in o.components.iter().enumerate() {
            let good = (1..=64).contains(&written.plugin.len())
                && written
                    .plugin
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
            if !good {
                self.bad(
                    &format!("{at}[{i}].plugin"),
                    "not an id of a plugin",
                    "use the name of its directory: 1 to 64 of a-z, 0-9 and -",
                );
            }
        }
        tenant.hook_components = o.components.iter().map(component).collect();
        tenant
    }

    fn hooks(
        &mut self,
        path: &str,
        tenant: &TenantSettings,
        o: &HooksOptions,
    ) -> Option<HooksSettings> {
        let path = join_key(path, "hooks");
        let (slug, auth, agents) = (&tenant.slug, &tenant.auth, &tenant.agents);
        if !o.enabled.unwrap_or(false) {
            return None;
        }
        let token_path = format!("{path}.token");
        let Some(written) = &o.token else {
            self.bad(
                &token_path,
                "hooks need a token of their own",
                "write token: { store: \"hooks-token\" } and `openssl rand -hex 32 | gateway secret set hooks-token`",
            );
            return None;
        };
        let token = self.secret(&token_path, slug, written)?;
        let same = [&auth.token, &auth.password]
            .into_iter()
            .flatten()
            .any(|own| own.expose() == token.expose());
        if same {
            self.bad(
                &token_path,
                "this is the gateway's own credential",
                "use another one: a program that may post a hook must not be able to operate the gateway",
            );
        }
        let root = o
            .path
            .as_deref()
            .unwrap_or("/hooks")
            .trim_matches('/')
            .to_owned();
        let good = !root.is_empty()
            && root.len() <= 64
            && root
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_');
        if !good || TAKEN.contains(&root.as_str()) {
            self.bad(
                &format!("{path}.path"),
                "not a path for hooks",
                "write one part of a-z, 0-9, - and _ that is not taken, such as /hooks",
            );
        }
        let mut known = |at: String, id: &str| {
            if !agents.entries.contains_key(id) {
                let ids: Vec<&str> = agents.entries.keys().map(String::as_str).collect();
                self.bad(
                    &at,
                    "this tenant has no such agent",
                    format!("its agents: {}", ids.join(", ")),
                );
            }
        };
        for (i, id) in o.allowed_agents.iter().flatten().enumerate() {
            known(format!("{path}.allowedAgents[{i}]"), id);
        }
        for (name, mapping) in &o.mappings {
            if let Some(id) = &mapping.agent_id {
                let at = join_key(&format!("{path}.mappings"), name);
                known(format!("{at}.agentId"), id);
            }
        }
        let mut mappings = BTreeMap::new();
        for (name, mapping) in &o.mappings {
            let at = join_key(&format!("{path}.mappings"), name);
            let good = (1..=64).contains(&name.len())
                && name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
            if !good || name == "wake" || name == "agent" {
                self.bad(
                    &at,
                    "not a name for a mapping",
                    "use 1 to 64 of a-z, A-Z, 0-9, - and _; wake and agent are taken",
                );
                continue;
            }
            if mapping.channel.as_deref().is_some_and(|c| c != "last") && mapping.to.is_none() {
                self.bad(
                    &format!("{at}.channel"),
                    "a channel needs a conversation",
                    "add to: \"direct:ID\", or leave channel out",
                );
            }
            mappings.insert(
                name.clone(),
                HookMapping {
                    wake: matches!(mapping.action, Some(HookActionOption::Wake)),
                    template: mapping.template.clone(),
                    name: mapping.name.clone(),
                    agent: mapping.agent_id.clone(),
                    session_key: mapping.session_key.clone(),
                    now: mapping.now.unwrap_or(true),
                    deliver: mapping.deliver.unwrap_or(true),
                    channel: mapping.channel.clone().filter(|c| c != "last"),
                    to: mapping.to.clone(),
                    timeout_s: mapping.timeout_seconds.map(u64::from),
                },
            );
        }
        Some(HooksSettings {
            token,
            root,
            default_session_key: o.default_session_key.clone(),
            allow_request_session_key: o.allow_request_session_key.unwrap_or(false),
            allowed_agents: o
                .allowed_agents
                .as_ref()
                .map(|ids| ids.iter().cloned().collect()),
            max_body_bytes: usize::try_from(o.max_body_bytes.unwrap_or(BODY_DEFAULT_BYTES))
                .unwrap_or(0),
            mappings,
        })
    }
}
