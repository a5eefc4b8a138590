//! What a change of the configuration does to a running gateway.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::error::{ConfigError, Problem};
use crate::path::split_path;
use crate::schema;
use crate::settings::{AuthMode, MAIN_TENANT, Settings, TailscaleMode, TenantSettings};
use crate::source::join_key;
use crate::written::below;

/// What has to begin anew for a change to count. Each option says it in the schema (`x-reload`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reload {
    /// Nothing: it counts at once.
    Live,
    /// The part that it belongs to (a channel account) is drained and started with the new settings.
    Part,
    /// The process: what runs keeps the old value until the next start.
    Process,
}

impl Reload {
    /// The word of the schema.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Part => "restart-part",
            Self::Process => "restart-process",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        [Self::Live, Self::Part, Self::Process]
            .into_iter()
            .find(|r| r.as_str() == word)
    }

    /// The class of the option at `path`. What no option says is [`Reload::Process`].
    pub fn of(path: &str) -> Self {
        Self::by_schema(&schema::options_schema(), path)
    }

    fn by_schema(root: &Value, path: &str) -> Self {
        let steps = split_path(path).unwrap_or_default();
        schema::step_by_step(root, &steps)
            .into_iter()
            .flatten()
            .filter_map(|s| schema::keyword(root, s, "x-reload")?.as_str())
            .filter_map(Self::parse)
            .next_back()
            .unwrap_or(Self::Process)
    }
}

/// One changed value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Path of its key.
    pub path: String,
    /// What it takes to count.
    pub reload: Reload,
}

/// What becomes of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccountChange {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// Its settings are others.
    Changed,
}

/// What becomes of a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TenantChange {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// Some of its settings are others.
    Changed(TenantPlan),
}

/// The parts of a tenant whose settings are others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TenantPlan {
    /// Host names.
    pub hosts: bool,
    /// How its operators prove themselves.
    pub auth: bool,
    /// Agents.
    pub agents: bool,
    /// Session rules.
    pub session: bool,
    /// Schedules.
    pub cron: bool,
    /// Boot scripts (they run at the next start).
    pub boot: bool,
    /// Hooks: addresses and components.
    pub hooks: bool,
    /// Which commands of nodes may be called.
    pub nodes: bool,
    /// Channel accounts by kind and id.
    pub accounts: BTreeMap<(String, String), AccountChange>,
}

/// The way from one configuration to another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Every changed value, sorted by path.
    pub changes: Vec<Change>,
    /// Tenants that change, by slug.
    pub tenants: BTreeMap<String, TenantChange>,
    /// Allowed hosts or origins.
    pub names: bool,
    /// Limits of the process.
    pub limits: bool,
    /// Log level.
    pub log_level: bool,
}

impl Plan {
    /// What differs between what runs and what shall run.
    pub fn between(old: &Settings, new: &Settings) -> Self {
        let root = schema::options_schema();
        let changes: Vec<Change> = old
            .written
            .changes(&new.written)
            .into_iter()
            .map(|path| Change {
                reload: Reload::by_schema(&root, &path),
                path,
            })
            .collect();
        let touched = |prefix: &str| changes.iter().any(|c| below(&c.path, prefix));
        let slugs: BTreeSet<&String> = old.tenants.keys().chain(new.tenants.keys()).collect();
        let tenants = slugs
            .into_iter()
            .filter_map(|slug| {
                let change = match (old.tenants.get(slug), new.tenants.get(slug)) {
                    (None, Some(_)) => TenantChange::Added,
                    (Some(_), None) => TenantChange::Removed,
                    (Some(old), Some(new)) => {
                        let plan = tenant(old, new, &touched);
                        if plan == TenantPlan::default() && !touched(&tenant_prefix(slug)) {
                            return None;
                        }
                        TenantChange::Changed(plan)
                    }
                    (None, None) => return None,
                };
                Some((slug.clone(), change))
            })
            .collect();
        Self {
            tenants,
            names: [
                "gateway.allowedHosts",
                "gateway.allowedOrigins",
                "gateway.trustedProxies",
            ]
            .iter()
            .any(|path| touched(path)),
            limits: touched("gateway.limits"),
            log_level: old.logging.level != new.logging.level
                || old.logging.targets != new.logging.targets,
            changes,
        }
    }

    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.tenants.is_empty()
    }

    /// Paths of the changes that wait for the next start of the process.
    pub fn restart(&self) -> Vec<String> {
        self.changes
            .iter()
            .filter(|c| c.reload == Reload::Process)
            .map(|c| c.path.clone())
            .collect()
    }

    /// Paths of all changes.
    pub fn paths(&self) -> Vec<String> {
        self.changes.iter().map(|c| c.path.clone()).collect()
    }
}

/// Prefix of the paths of a tenant's own keys; `main` has the top level, which cannot be told by a prefix.
fn tenant_prefix(slug: &str) -> String {
    match slug {
        // No key has this name: the parts of `main` are looked at one by one.
        MAIN_TENANT => "\u{0}".to_owned(),
        slug => join_key("tenants", slug),
    }
}

fn tenant(
    old: &TenantSettings,
    new: &TenantSettings,
    touched: &dyn Fn(&str) -> bool,
) -> TenantPlan {
    let main = new.slug == MAIN_TENANT;
    let base = if main {
        String::new()
    } else {
        join_key("tenants", &new.slug)
    };
    let at = |key: &str| match (main, key) {
        (true, "auth") => "gateway.auth".to_owned(),
        _ => join_key(&base, key),
    };
    let mut accounts = BTreeMap::new();
    let key = |a: &crate::settings::AccountSettings| (a.kind.clone(), a.account.clone());
    for account in &old.channels {
        if !new.channels.iter().any(|a| key(a) == key(account)) {
            accounts.insert(key(account), AccountChange::Removed);
        }
    }
    for account in &new.channels {
        let change = match old.channels.iter().find(|a| key(a) == key(account)) {
            None => AccountChange::Added,
            Some(before) => {
                let path = join_key(&at("channels"), &account.kind);
                let path = join_key(&join_key(&path, "accounts"), &account.account);
                // The agent may be the tenant's default, which is written elsewhere.
                if !touched(&path) && before.agent == account.agent {
                    continue;
                }
                AccountChange::Changed
            }
        };
        accounts.insert(key(account), change);
    }
    TenantPlan {
        hosts: old.hosts != new.hosts,
        auth: touched(&at("auth")) || old.auth.mode != new.auth.mode,
        agents: touched(&at("agents")),
        session: old.session != new.session,
        cron: touched(&at("cron")),
        boot: touched(&at("boot")),
        hooks: touched(&at("hooks")),
        nodes: old.node_commands != new.node_commands,
        accounts,
    }
}

impl Settings {
    /// These settings with what cannot change while `running` runs left as it is.
    ///
    /// # Errors
    /// When the two do not go together: authentication may not end while others can still connect.
    pub fn beside(mut self, running: &Settings) -> Result<Self, ConfigError> {
        self.gateway.port = running.gateway.port;
        self.gateway.bind = running.gateway.bind;
        self.gateway.tls.clone_from(&running.gateway.tls);
        self.gateway.remote_mode = running.gateway.remote_mode;
        self.gateway
            .tailscale
            .clone_from(&running.gateway.tailscale);
        self.discovery.clone_from(&running.discovery);
        self.plugins_dir.clone_from(&running.plugins_dir);
        self.otlp.clone_from(&running.otlp);
        self.plugin_pins.clone_from(&running.plugin_pins);
        self.plugins_pinned_only = running.plugins_pinned_only;
        self.plugins_bundled = running.plugins_bundled;
        self.logging.format = running.logging.format;
        self.logging.file.clone_from(&running.logging.file);
        let funnel = self
            .gateway
            .tailscale
            .as_ref()
            .is_some_and(|t| t.mode == TailscaleMode::Funnel);
        let open = self.tenants.values().any(|t| t.auth.mode == AuthMode::None);
        let weak = funnel && self.main().auth.mode != AuthMode::Password;
        if weak || (open && self.gateway.tailscale.is_some()) {
            return Err(ConfigError {
                file: Some(self.config_path.clone()),
                problems: vec![Problem {
                    path: "gateway.auth.mode".to_owned(),
                    help: "restart the gateway with gateway.tailscale.mode: \"off\" first"
                        .to_owned(),
                    ..Problem::unplaced(
                        "the running gateway is reached through Tailscale, which needs authentication (a funnel a password)",
                    )
                }],
                next: "the running gateway was left as it is".to_owned(),
                files: Vec::new(),
                disk: None,
            });
        }
        if open && !self.gateway.bind.is_loopback() {
            return Err(ConfigError {
                file: Some(self.config_path.clone()),
                problems: vec![Problem {
                    path: "gateway.auth.mode".to_owned(),
                    help: "restart the gateway with bind: \"loopback\" first".to_owned(),
                    ..Problem::unplaced(format!(
                        "the running gateway listens on {}, so others can connect: authentication is needed",
                        self.gateway.bind.label()
                    ))
                }],
                next: "the running gateway was left as it is".to_owned(),
                files: Vec::new(),
                disk: None,
            });
        }
        Ok(self)
    }
}

/// What the schema says of one place.
#[derive(Debug, Clone, PartialEq)]
pub struct SchemaNode {
    /// JSON Schema of the value, without what is below it.
    pub schema: Value,
    /// What it is.
    pub doc: Option<String>,
    /// What a change of it needs.
    pub reload: Reload,
    /// Whether it is a secret.
    pub secret: bool,
    /// What is below it, one step deep, by key (`*` is any). Empty for those that were not asked for.
    pub children: Vec<(String, SchemaNode)>,
    /// Whether there is something below it.
    pub deep: bool,
}

/// What the schema says of a place and of what is directly below it. `*` is any key; the empty path is the whole file.
pub fn look_up(path: &str) -> Option<SchemaNode> {
    let root = schema::options_schema();
    let steps = split_path(path)?;
    let here = schema::step_by_step(&root, &steps)
        .last()
        .copied()
        .flatten()?;
    let mut node = node(&root, here, path);
    for key in schema::keys(&root, here) {
        let below = match key.as_str() {
            "*" => schema::child(&root, here, "*").or_else(|| schema::item(&root, here))?,
            key => schema::child(&root, here, key)?,
        };
        let path = if path.is_empty() {
            key.clone()
        } else {
            format!("{path}.{key}")
        };
        node.children.push((key, self::node(&root, below, &path)));
    }
    Some(node)
}

fn node(root: &Value, here: &Value, path: &str) -> SchemaNode {
    let secret = schema::is_secret(root, here);
    SchemaNode {
        schema: schema::shallow(root, here),
        doc: schema::keyword(root, here, "description")
            .and_then(Value::as_str)
            .map(str::to_owned),
        reload: Reload::by_schema(root, path),
        secret,
        children: Vec::new(),
        deep: !secret && !schema::keys(root, here).is_empty(),
    }
}

/// What the schema says of an option, for people.
pub fn doc_of(path: &str) -> Option<String> {
    let root = schema::options_schema();
    let schema = schema::at(&root, path)?;
    Some(
        schema::keyword(&root, schema, "description")?
            .as_str()?
            .to_owned(),
    )
}
