//! A fresh state directory: a commented configuration and a token.

use std::path::{Path, PathBuf};

use crate::durable::{self, Existing};
use crate::error::ConfigError;
use crate::load::{CONFIG_FILE, TOKEN_NAME, secret_path};
use crate::settings::MAIN_TENANT;

/// Random bytes in a token made by us.
const TOKEN_BYTES: usize = 32;

/// The configuration that a fresh state directory gets.
pub const DEFAULT_CONFIG: &str = include_str!("default.json5");

/// What [`init_state_dir`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitReport {
    /// The configuration file.
    pub config_path: PathBuf,
    /// True if it was written now.
    pub config_created: bool,
    /// The file that holds the token of the tenant `main`.
    pub token_path: PathBuf,
    /// True if it was written now.
    pub token_created: bool,
    /// The file that holds the signing secret of the webhook account of the fresh configuration.
    pub webhook_secret_path: PathBuf,
}

/// Name of the stored secret that the webhook account of [`DEFAULT_CONFIG`] refers to.
const WEBHOOK_SECRET: &str = "webhook-default-signing";

/// Makes a state directory usable: the directory (0700), `gateway.json5` with comments, the token of the tenant `main`
/// and, with a fresh configuration, the signing secret of its webhook account (256 random bits each; all 0600). What is already there is left as it is. Each file appears whole or not at all.
pub fn init_state_dir(state_dir: &Path) -> Result<InitReport, ConfigError> {
    let config_path = state_dir.join(CONFIG_FILE);
    let token_path = secret_path(state_dir, MAIN_TENANT, TOKEN_NAME);
    let refuse = |what: &Path, e: std::io::Error| {
        ConfigError::plain(
            None,
            format!("cannot write {}: {e}", what.display()),
            "choose a directory that you may write to with --state-dir",
        )
    };
    if let Some(dir) = token_path.parent() {
        durable::create_dirs(dir).map_err(|e| refuse(dir, e))?;
    }
    let secret = |path: &Path| {
        if path.exists() {
            return Ok(false);
        }
        random_token()
            .and_then(|token| durable::write(path, token.as_bytes(), Existing::Keep))
            .map_err(|e| refuse(path, e))
    };
    // Secrets first: a configuration that names one which is not there would be refused.
    let token_created = secret(&token_path)?;
    let webhook_secret_path = secret_path(state_dir, MAIN_TENANT, WEBHOOK_SECRET);
    // Where a gateway ran before, its file is missing and not yet to be written.
    let ran = state_dir.join("config").join("last-good.json").exists();
    let config_created = if config_path.exists() || ran {
        false
    } else {
        secret(&webhook_secret_path)?;
        durable::write(&config_path, DEFAULT_CONFIG.as_bytes(), Existing::Keep)
            .map_err(|e| refuse(&config_path, e))?
    };
    Ok(InitReport {
        config_path,
        config_created,
        token_path,
        token_created,
        webhook_secret_path,
    })
}

/// 256 random bits as 64 hexadecimal digits.
pub(crate) fn random_token() -> std::io::Result<String> {
    let mut bytes = [0u8; TOKEN_BYTES];
    getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
    Ok(crate::load::hex(&bytes))
}
