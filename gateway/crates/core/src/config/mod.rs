//! The configuration that is in force: what each tenant may see of it, how it got there, and how it is changed while the
//! gateway runs ([`apply`], [`write`]).

mod apply;
mod own_part;
mod watch;
mod write;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, Weak};

use arc_swap::ArcSwap;
use gateway_config::{
    ConfigError, MAIN_TENANT, Origin, Settings, TenantSettings, redacted_tenant_json,
};
use gateway_protocol::methods::system::{ConfigFaultView, ConfigHealth};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::Sha256;

pub use self::apply::Reloaded;
pub use self::own_part::OWN_KEYS;
pub use self::write::{ConfigWrite, Written};
use crate::host::Host;

/// What is wrong with a configuration that was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFault {
    /// All that is wrong, one line each.
    pub message: String,
    /// Path of the key, if it is about one.
    pub path: Option<String>,
    /// The file, if it is about one.
    pub file: Option<String>,
    /// Line and column, both from 1.
    pub position: Option<(usize, usize)>,
    /// Files whose change may mend it.
    pub files: Vec<PathBuf>,
}

impl ConfigFault {
    fn plain(message: String) -> Self {
        Self {
            message,
            path: None,
            file: None,
            position: None,
            files: Vec::new(),
        }
    }

    fn at(settings: &Settings, path: &str, message: String) -> Self {
        let (file, position) = match settings.written.origin(path) {
            Origin::File {
                file, line, column, ..
            } => (Some(file.display().to_string()), Some((line, column))),
            Origin::Default => (None, None),
        };
        Self {
            message: format!("{path}: {message}"),
            path: Some(path.to_owned()),
            file,
            position,
            files: settings.written.files().to_vec(),
        }
    }
}

impl From<&ConfigError> for ConfigFault {
    fn from(e: &ConfigError) -> Self {
        let first = e.problems.first();
        let place = e.place();
        Self {
            message: told(e),
            path: first.map(|p| p.path.clone()).filter(|p| !p.is_empty()),
            file: place
                .as_ref()
                .map(|(file, ..)| file)
                .or(e.file.as_ref())
                .map(|f| f.display().to_string()),
            position: place.map(|(_, line, column)| (line, column)),
            files: e.files.clone(),
        }
    }
}

/// All problems, one line each, with the name of the file and not where it is kept.
fn told(e: &ConfigError) -> String {
    use std::fmt::Write;
    let mut out = String::new();
    for (i, p) in e.problems.iter().take(PROBLEMS_TOLD_MAX).enumerate() {
        if i > 0 {
            out.push('\n');
        }
        // Writing into a String does not fail.
        if let (Some(file), Some((line, column))) =
            (p.file.as_ref().or(e.file.as_ref()), p.position)
        {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            let _ = write!(out, "{name}:{line}:{column}: ");
        }
        if !p.path.is_empty() {
            let _ = write!(out, "{}: ", p.path);
        }
        out.push_str(&p.message);
        if !p.help.is_empty() {
            let _ = write!(out, " ({})", p.help);
        }
    }
    if e.problems.len() > PROBLEMS_TOLD_MAX {
        let _ = write!(out, "\n… and {} more", e.problems.len() - PROBLEMS_TOLD_MAX);
    }
    out
}

/// Problems told at once; more are counted only.
const PROBLEMS_TOLD_MAX: usize = 20;

/// Whether the file is what counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigState {
    /// It is.
    Active,
    /// Its last edit was refused: what ran before runs on.
    Rejected,
    /// It was broken at the start: the last good configuration counts.
    LastGood,
}

impl ConfigState {
    /// The word in health.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Rejected => "rejected",
            Self::LastGood => "last-good",
        }
    }
}

/// How changes of the file are seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Watching {
    /// Not at all: the settings were given by the embedding program.
    Off,
    /// The system tells.
    Notify,
    /// By looking; the text says why.
    Poll(String),
}

impl Watching {
    fn word(&self) -> String {
        match self {
            Self::Off => "off".to_owned(),
            Self::Notify => "notify".to_owned(),
            Self::Poll(why) => format!("poll ({why})"),
        }
    }
}

/// How the configuration is.
#[derive(Debug, Clone)]
pub struct ConfigStatus {
    /// Whether the file is what counts.
    pub state: ConfigState,
    /// Why not.
    pub fault: Option<ConfigFault>,
    /// Rises by one with each applied change; 1 at the start.
    pub revision: u64,
    /// Keyed hash of the file that is in force; `None` without a file.
    pub hash: Option<String>,
    /// When it came into force, Unix epoch ms.
    pub applied_at_ms: i64,
    /// Paths of changes that wait for the next start.
    pub restart: Vec<String>,
    /// How changes are seen.
    pub watching: Watching,
}

/// What one tenant may see.
#[derive(Debug, Clone)]
pub struct ConfigView {
    pub(crate) shown: Value,
    pub(crate) exists: bool,
    /// Of the file for `main`, of its own part for another tenant.
    pub(crate) hash: Option<String>,
    /// Applied changes that this tenant could see, and one.
    pub(crate) revision: u64,
    pub(crate) warnings: Vec<String>,
    pub(crate) included: Vec<String>,
}

impl ConfigView {
    fn new(settings: &Settings, tenant: &TenantSettings, key: &[u8; 32]) -> Self {
        let main = tenant.slug == MAIN_TENANT;
        Self {
            shown: redacted_tenant_json(settings, tenant),
            exists: settings.config_exists,
            hash: if main {
                (!settings.hash.is_empty()).then(|| wire_hash(key, &settings.hash))
            } else {
                Some(part_hash(key, settings, &tenant.slug))
            },
            revision: 1,
            // A warning begins with the path of its key; those of another tenant name its accounts.
            warnings: settings
                .warnings
                .iter()
                .filter_map(|warning| {
                    if main {
                        return (!warning.starts_with("tenants.")).then(|| warning.clone());
                    }
                    let own = warning
                        .strip_prefix("tenants.")?
                        .strip_prefix(&tenant.slug)?;
                    own.strip_prefix('.').map(str::to_owned)
                })
                .collect(),
            included: if main {
                settings.written.included()
            } else {
                Vec::new()
            },
        }
    }

    fn same(&self, other: &Self) -> bool {
        self.shown == other.shown && self.hash == other.hash && self.exists == other.exists
    }
}

/// The hash of a configuration as clients see it: it tells nothing about the text to who does not have the key.
fn wire_hash(key: &[u8; 32], text: &str) -> String {
    use std::fmt::Write;
    let mut out = "hmac-sha256:v1:".to_owned();
    // HMAC takes keys of any length.
    if let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) {
        mac.update(text.as_bytes());
        for byte in mac.finalize().into_bytes() {
            let _ = write!(out, "{byte:02x}");
        }
    }
    out
}

/// The same for the part of one tenant.
fn part_hash(key: &[u8; 32], settings: &Settings, slug: &str) -> String {
    let part = settings.written.part(&["tenants", slug]);
    wire_hash(key, &format!("{slug} {part}"))
}

/// The configuration of a host as its tenants reach it.
pub struct Configuration {
    key: [u8; 32],
    views: ArcSwap<BTreeMap<String, ConfigView>>,
    status: ArcSwap<ConfigStatus>,
    host: OnceLock<Weak<Host>>,
}

impl std::fmt::Debug for Configuration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Configuration(revision {})", self.status.load().revision)
    }
}

impl Configuration {
    pub(crate) fn new(
        key: [u8; 32],
        settings: &Settings,
        refused: Option<&ConfigError>,
        now_ms: i64,
    ) -> Self {
        let state = if refused.is_some() {
            ConfigState::LastGood
        } else {
            ConfigState::Active
        };
        Self {
            views: ArcSwap::from_pointee(views(settings, &key)),
            status: ArcSwap::from_pointee(ConfigStatus {
                state,
                fault: refused.map(ConfigFault::from),
                revision: 1,
                hash: (!settings.hash.is_empty()).then(|| wire_hash(&key, &settings.hash)),
                applied_at_ms: now_ms,
                restart: Vec::new(),
                watching: Watching::Off,
            }),
            key,
            host: OnceLock::new(),
        }
    }

    /// How it is.
    #[must_use]
    pub fn status(&self) -> Arc<ConfigStatus> {
        self.status.load_full()
    }

    /// What a tenant may see of it.
    pub(crate) fn view(&self, slug: &str) -> Option<ConfigView> {
        self.views.load().get(slug).cloned()
    }

    pub(crate) fn set_host(&self, host: Weak<Host>) {
        let _ = self.host.set(host);
    }

    /// The host that can change it.
    pub(crate) fn host(&self) -> Option<Arc<Host>> {
        self.host.get()?.upgrade()
    }

    fn update(&self, change: impl Fn(&mut ConfigStatus)) {
        self.status.rcu(|status| {
            let mut status = (**status).clone();
            change(&mut status);
            status
        });
    }

    /// Publishes what tenants see. Gives the slugs of those for whom it is not what it was.
    fn publish(&self, settings: &Settings) -> Vec<String> {
        let old = self.views.load_full();
        let mut new = views(settings, &self.key);
        let mut changed = Vec::new();
        for (slug, view) in &mut new {
            let Some(before) = old.get(slug) else {
                continue;
            };
            view.revision = before.revision;
            if !view.same(before) {
                view.revision += 1;
                changed.push(slug.clone());
            }
        }
        self.views.store(Arc::new(new));
        changed
    }

    /// As health and status show it to a tenant: only the owner of the file learns what is wrong with it.
    pub(crate) fn health(&self, slug: &str) -> ConfigHealth {
        let status = self.status.load();
        if slug != MAIN_TENANT {
            let views = self.views.load();
            let view = views.get(slug);
            return ConfigHealth {
                state: ConfigState::Active.as_str().to_owned(),
                revision: view.map_or(1, |v| v.revision),
                hash: view.and_then(|v| v.hash.clone()),
                ..ConfigHealth::default()
            };
        }
        ConfigHealth {
            state: status.state.as_str().to_owned(),
            revision: status.revision,
            hash: status.hash.clone(),
            applied_at: Some(status.applied_at_ms),
            error: status.fault.as_ref().map(|fault| ConfigFaultView {
                message: fault.message.clone(),
                path: fault.path.clone(),
                file: fault.file.as_deref().map(file_name),
                line: fault.position.map(|(line, _)| line as u64),
                column: fault.position.map(|(_, column)| column as u64),
            }),
            restart_needed: status.restart.clone(),
            watch: Some(status.watching.word()),
        }
    }
}

/// The last part of a path: where the state is kept is not for the wire.
fn file_name(path: &str) -> String {
    path.rsplit('/').next().unwrap_or(path).to_owned()
}

fn views(settings: &Settings, key: &[u8; 32]) -> BTreeMap<String, ConfigView> {
    settings
        .tenants
        .values()
        .map(|t| (t.slug.clone(), ConfigView::new(settings, t, key)))
        .collect()
}
