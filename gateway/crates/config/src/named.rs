//! The plugins that a tenant's settings name, with the place where they do.

use std::fmt;

use crate::settings::{MAIN_TENANT, TenantSettings};

/// What a plugin is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PluginUse {
    /// A channel account.
    Channel,
    /// A boot script.
    BootScript,
    /// A hook component.
    Hook,
}

impl fmt::Display for PluginUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Channel => "a channel",
            Self::BootScript => "a boot script",
            Self::Hook => "a hook component",
        })
    }
}

/// A plugin that is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedPlugin {
    /// Its id.
    pub id: String,
    /// What for.
    pub wanted: PluginUse,
    /// Path of the key that names it, from the top of the file.
    pub path: String,
}

impl NamedPlugin {
    /// What is wrong, given what the plugin of this id can be used as (`None`: there is none).
    #[must_use]
    pub fn fault(&self, there: Option<PluginUse>) -> Option<String> {
        let Self { id, wanted, path } = self;
        match there {
            Some(there) if there == *wanted => None,
            Some(there) => Some(format!(
                "{path} names the plugin {id} as {wanted}, and it is {there}"
            )),
            None => Some(format!(
                "{path} names the plugin {id} ({wanted}), which is not there"
            )),
        }
    }

    /// What mends it.
    #[must_use]
    pub fn next_step(&self) -> String {
        format!(
            "put the plugin {} into the directory of plugins (plugins.dir, --wasm-dir) and restart, or take {} out of gateway.json5",
            self.id, self.path
        )
    }
}

impl TenantSettings {
    /// What is enabled and names a plugin: accounts of channels, boot scripts, hook components.
    #[must_use]
    pub fn named_plugins(&self) -> Vec<NamedPlugin> {
        let at = match self.slug.as_str() {
            MAIN_TENANT => String::new(),
            slug => format!("tenants.{slug}."),
        };
        let channels = self.channels.iter().filter(|account| account.enabled);
        let channels = channels.map(|account| NamedPlugin {
            id: account.kind.clone(),
            wanted: PluginUse::Channel,
            path: format!("{at}channels.{}.accounts.{}", account.kind, account.account),
        });
        let scripts = self.boot.iter().filter(|script| script.enabled);
        let scripts = scripts.map(|script| NamedPlugin {
            id: script.id.clone(),
            wanted: PluginUse::BootScript,
            path: format!("{at}boot.scripts.{}", script.id),
        });
        let hooks = self.hook_components.iter().enumerate();
        let hooks = hooks.map(|(i, hook)| NamedPlugin {
            id: hook.plugin.clone(),
            wanted: PluginUse::Hook,
            path: format!("{at}hooks.components[{i}]"),
        });
        channels.chain(scripts).chain(hooks).collect()
    }
}
