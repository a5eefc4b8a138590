//! Edits of the state directory by commands: a stored secret, a channel account. Comments of the file are kept.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use gateway_protocol::ids::ChannelName;
use jsonc_parser::cst::{CstInputValue, CstObject, CstRootNode};

use crate::disk::DiskFault;
use crate::durable::{self, Existing};
use crate::error::ConfigError;
use crate::file::ConfigFile;
use crate::include::Files;
use crate::init::random_token;
use crate::load::{CONFIG_FILE, Overrides, ReadFault, secret_path, valid_slug};
use crate::secret::Secret;
use crate::settings::MAIN_TENANT;
use crate::strength;
use crate::{source, validate};

/// What [`secret_set`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretSet {
    /// The file that holds the secret now (mode 0600).
    pub path: PathBuf,
    /// True if there was one before.
    pub replaced: bool,
    /// Set if the secret is weak but allowed.
    pub warning: Option<String>,
}

/// Stores a secret of a tenant; `{store: "NAME"}` refers to it. One trailing line end is dropped (it comes with
/// `echo`). The value replaces an older one at once and whole. A running gateway that refers to it takes
/// it up.
pub fn secret_set(
    state_dir: &Path,
    tenant: &str,
    name: &str,
    value: &Secret,
) -> Result<SecretSet, ConfigError> {
    if !valid_slug(tenant) {
        return Err(refused(
            "not a tenant name",
            "use a slug from `tenants` in gateway.json5, or main",
        ));
    }
    if !validate::secret_name(name) {
        return Err(refused(
            "not a name for a secret",
            "use 1 to 64 of letters, digits, -, _ and ., not beginning with a dot",
        ));
    }
    let text = value.expose();
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    let warning = match strength::judge(text) {
        strength::Verdict::Refused(why) => {
            return Err(refused(why, "give the secret on standard input"));
        }
        strength::Verdict::Short => Some(format!(
            "this secret is shorter than {} characters",
            strength::GOOD_CHARS
        )),
        strength::Verdict::Good => None,
    };
    let path = secret_path(state_dir, tenant, name);
    let replaced = path.exists();
    write(&path, text.as_bytes(), Existing::Replace)?;
    Ok(SecretSet {
        path,
        replaced,
        warning,
    })
}

/// What [`channels_add`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelAdded {
    /// The file that was edited.
    pub config_path: PathBuf,
    /// Whether the account will be started (its secret is there).
    pub enabled: bool,
    /// Where the secret of the account is, or has to be put.
    pub secret_path: PathBuf,
    /// True if a random secret was made now.
    pub secret_created: bool,
    /// What to do next.
    pub next: String,
}

/// How an account of a kind is begun. What its plugin must reach stands in the plugin's manifest.
struct Template {
    secret: &'static str,
    /// Whether the secret is ours to choose (a random one is made) or comes from the platform.
    ours: bool,
}

/// The name of the secret that an account of this kind begins with; it is stored as `<kind>-<account>-<name>`.
pub fn channel_secret_name(kind: &str) -> &'static str {
    template(kind).secret
}

fn template(kind: &str) -> Template {
    match kind {
        "webhook" => Template {
            secret: "signing",
            ours: true,
        },
        "telegram" => Template {
            secret: "token",
            ours: false,
        },
        _ => Template {
            secret: "token",
            ours: false,
        },
    }
}

/// Adds `channels.<kind>.accounts.<account>` for a tenant to `gateway.json5`, keeping everything else as it is
/// written, and checks the result before it replaces the file. An account whose secret comes from the platform and is
/// not stored yet is added with `enabled: false`. Refuses an account that is already there.
pub fn channels_add(
    state_dir: &Path,
    tenant: &str,
    kind: &str,
    account: &str,
) -> Result<ChannelAdded, ConfigError> {
    for name in [kind, account] {
        let parsed = ChannelName::parse(name).map(ChannelName::into_string);
        if parsed.as_deref() != Ok(name) {
            return Err(refused(
                &format!("{name:?} is not a channel or account name"),
                "use 1 to 64 of a-z, 0-9, -, _ and ., beginning with a letter or digit",
            ));
        }
    }
    let config_path = state_dir.join(CONFIG_FILE);
    let file = ConfigFile::new(
        state_dir,
        None,
        Overrides::default(),
        Arc::new(|name| std::env::var(name).ok()),
    );
    let base = file.read()?;
    if base.text.is_empty() {
        return Err(ConfigError::plain(
            Some(config_path),
            ReadFault::Missing.to_string(),
            "run `gateway serve` once, it makes the file",
        ));
    }
    let text = base
        .text
        .strip_prefix('\u{feff}')
        .unwrap_or(&base.text)
        .to_owned();
    // The old file must be right, or the edit could land in the wrong place.
    let env = |name: &str| std::env::var(name).ok();
    let parsed = source::parse(&text, &config_path, &Files::Disk, &env)?;
    if tenant != MAIN_TENANT && !parsed.options.tenants.contains_key(tenant) {
        return Err(refused(
            &format!("there is no tenant {tenant:?}"),
            "add it to `tenants` in gateway.json5 first",
        ));
    }
    let channels = match parsed.options.tenants.get(tenant) {
        Some(t) if tenant != MAIN_TENANT => &t.channels,
        _ => &parsed.options.channels,
    };
    if channels
        .get(kind)
        .is_some_and(|c| c.accounts.contains_key(account))
    {
        return Err(refused(
            &format!("the {kind} account {account} is already there"),
            "give the new one another name with --account NAME",
        ));
    }

    let template = template(kind);
    let store_name = format!("{kind}-{account}-{}", template.secret);
    if !validate::secret_name(&store_name) {
        return Err(refused(
            "this account name is too long",
            "choose a shorter one",
        ));
    }
    let secret_path = secret_path(state_dir, tenant, &store_name);
    let mut secret_created = false;
    if template.ours && !secret_path.exists() {
        let token =
            random_token().map_err(|e| refused(&format!("no randomness: {e}"), "try again"))?;
        secret_created = write(&secret_path, token.as_bytes(), Existing::Keep)?;
    }
    let enabled = secret_path.exists();

    let broken = || {
        refused(
            "gateway.json5 could not be edited",
            "add the account by hand",
        )
    };
    let root = CstRootNode::parse(&text, &source::parse_options()).map_err(|_| broken())?;
    let top = root.object_value_or_create().ok_or_else(broken)?;
    let owner = if tenant == MAIN_TENANT {
        top
    } else {
        child(&child(&top, "tenants").ok_or_else(broken)?, tenant).ok_or_else(broken)?
    };
    let accounts = ["channels", kind, "accounts"]
        .into_iter()
        .try_fold(owner, |object, key| child(&object, key))
        .ok_or_else(broken)?;
    accounts.append(account, account_value(&template, &store_name, enabled));
    let edited = root.to_string();
    let check = source::parse(&edited, &config_path, &Files::Disk, &env)?;
    let there = match check.options.tenants.get(tenant) {
        Some(t) if tenant != MAIN_TENANT => t.channels.get(kind),
        _ => check.options.channels.get(kind),
    };
    if !there.is_some_and(|c| c.accounts.contains_key(account)) {
        return Err(broken());
    }
    if !file.replace(&base, &edited)? {
        return Err(refused(
            "the file was changed by somebody else in the meantime",
            "run the command again",
        ));
    }

    let suffix = if tenant == MAIN_TENANT {
        String::new()
    } else {
        format!(" --tenant {tenant}")
    };
    let next = if enabled {
        "a running gateway takes it up; `gateway channels status` shows it".to_owned()
    } else {
        format!(
            "run `gateway secret set {store_name}{suffix}`, set enabled: true for the account in gateway.json5"
        )
    };
    Ok(ChannelAdded {
        config_path,
        enabled,
        secret_path,
        secret_created,
        next,
    })
}

/// The object at `key`, made if it is not there.
fn child(object: &CstObject, key: &str) -> Option<CstObject> {
    // `get` compares decoded names, so quoted keys are found too.
    object.object_value_or_create(key)
}

fn account_value(template: &Template, store_name: &str, enabled: bool) -> CstInputValue {
    let text = |s: &str| CstInputValue::String(s.to_owned());
    let object = |members: Vec<(&str, CstInputValue)>| {
        CstInputValue::Object(
            members
                .into_iter()
                .map(|(k, v)| (k.to_owned(), v))
                .collect(),
        )
    };
    object(vec![
        ("enabled", CstInputValue::Bool(enabled)),
        ("dmPolicy", text("pairing")),
        ("allowFrom", CstInputValue::Array(Vec::new())),
        ("groupPolicy", text("disabled")),
        (
            "secrets",
            object(vec![(
                template.secret,
                object(vec![("store", text(store_name))]),
            )]),
        ),
        (
            "http",
            object(vec![("allow", CstInputValue::Array(Vec::new()))]),
        ),
    ])
}

fn write(path: &Path, bytes: &[u8], existing: Existing) -> Result<bool, ConfigError> {
    let written = path
        .parent()
        .map_or(Ok(()), durable::create_dirs)
        .and_then(|()| durable::write(path, bytes, existing));
    written.map_err(|e| {
        let disk = DiskFault::of(&e);
        ConfigError {
            disk: Some(disk),
            ..refused(
                &format!("cannot write {}: {e}", path.display()),
                disk.next(),
            )
        }
    })
}

fn refused(message: &str, next: &str) -> ConfigError {
    ConfigError::plain(None, message, next)
}
