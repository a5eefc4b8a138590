//! `config.get`: the tenant's own configuration without secrets.

use gateway_config::{Settings, TenantSettings, redacted_tenant_json};
use gateway_protocol::error::RpcError;
use gateway_protocol::methods::NoParams;
use gateway_protocol::methods::config::{ConfigGetResult, ConfigIssue};
use serde_json::Value;

use crate::cx::Cx;
use crate::registry::Reply;

/// What `config.get` shows to one tenant.
#[derive(Debug, Clone)]
pub struct ConfigView {
    shown: Value,
    exists: bool,
    hash: Option<String>,
    warnings: Vec<String>,
}

impl ConfigView {
    /// The view of one tenant: nothing of another one is in it.
    #[must_use]
    pub fn new(settings: &Settings, tenant: &TenantSettings) -> Self {
        let main = tenant.slug == gateway_config::MAIN_TENANT;
        Self {
            shown: redacted_tenant_json(settings, tenant),
            exists: settings.config_exists,
            // The hash is of the whole file, which belongs to the host's owner.
            hash: (main && !settings.hash.is_empty()).then(|| settings.hash.clone()),
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
        }
    }
}

pub(super) fn get(cx: &Cx, _: NoParams) -> Result<Reply<ConfigGetResult>, RpcError> {
    let view = cx
        .tenant
        .shared()
        .config_view
        .get(cx.tenant.slug())
        .ok_or_else(|| RpcError::unavailable("no configuration"))?;
    Ok(Reply::Value(ConfigGetResult {
        path: "gateway.json5".to_owned(),
        exists: view.exists,
        raw: None,
        parsed: view.shown.clone(),
        source_config: view.shown.clone(),
        resolved: view.shown.clone(),
        config: view.shown.clone(),
        valid: true,
        hash: view.hash.clone(),
        issues: Vec::new(),
        warnings: view
            .warnings
            .iter()
            .map(|message| ConfigIssue {
                path: String::new(),
                message: message.clone(),
            })
            .collect(),
        included_paths: Vec::new(),
    }))
}
