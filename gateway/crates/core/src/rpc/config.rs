//! `config.*`: the tenant's own configuration without secrets, its schema, and edits by the owner of the file.

use gateway_config::{MAIN_TENANT, Reload, SchemaNode, look_up, options_schema};
use gateway_protocol::error::{DetailCode, RpcError};
use gateway_protocol::methods::NoParams;
use gateway_protocol::methods::config::{
    ConfigApplyParams, ConfigGetResult, ConfigHint, ConfigIssue, ConfigPatchParams,
    ConfigSchemaChild, ConfigSchemaLookupParams, ConfigSchemaLookupResult, ConfigSchemaResult,
    ConfigSetParams, ConfigWriteResult,
};
use serde_json::{Map, Value};

use crate::config::{ConfigState, ConfigWrite};
use crate::cx::{Cx, Surface};
use crate::limits::CONFIG_FILE_LABEL;
use crate::registry::Reply;

/// Lists that one patch may name.
const REPLACE_PATHS_MAX: usize = 256;
/// Longest path that is looked up, in bytes.
const LOOKUP_PATH_MAX_BYTES: usize = 1_024;

pub(super) fn get(cx: &Cx, _: NoParams) -> Result<Reply<ConfigGetResult>, RpcError> {
    let configuration = &cx.tenant.shared().configuration;
    let view = configuration
        .view(cx.tenant.slug())
        .ok_or_else(|| RpcError::unavailable("no configuration"))?;
    let status = configuration.status();
    // What is wrong with the file is the business of whose file it is.
    let fault = status
        .fault
        .as_ref()
        .filter(|_| cx.tenant.slug() == MAIN_TENANT);
    Ok(Reply::Value(ConfigGetResult {
        path: CONFIG_FILE_LABEL.to_owned(),
        exists: view.exists,
        raw: None,
        parsed: view.shown.clone(),
        source_config: view.shown.clone(),
        resolved: view.shown.clone(),
        config: view.shown,
        valid: fault.is_none() || status.state == ConfigState::Active,
        hash: view.hash,
        revision: view.revision,
        issues: fault
            .map(|fault| ConfigIssue {
                path: fault.path.clone().unwrap_or_default(),
                message: fault.message.clone(),
                line: fault.position.map(|(line, _)| line as u64),
                column: fault.position.map(|(_, column)| column as u64),
            })
            .into_iter()
            .collect(),
        warnings: view
            .warnings
            .into_iter()
            .map(|message| ConfigIssue {
                message,
                ..ConfigIssue::default()
            })
            .collect(),
        included_paths: view.included,
    }))
}

pub(super) async fn set(cx: Cx, p: ConfigSetParams) -> Result<ConfigWriteResult, RpcError> {
    let base = p.base_hash.map(|h| h.as_str().to_owned());
    let write = ConfigWrite::Whole(p.raw.as_str().to_owned());
    written(cx, write, base).await
}

pub(super) async fn apply(cx: Cx, p: ConfigApplyParams) -> Result<ConfigWriteResult, RpcError> {
    let base = p.base_hash.map(|h| h.as_str().to_owned());
    let write = ConfigWrite::Whole(p.raw.as_str().to_owned());
    written(cx, write, base).await
}

pub(super) async fn patch(cx: Cx, p: ConfigPatchParams) -> Result<ConfigWriteResult, RpcError> {
    let base = p.base_hash.map(|h| h.as_str().to_owned());
    let replace = p.replace_paths.unwrap_or_default();
    if replace.len() > REPLACE_PATHS_MAX {
        return Err(RpcError::invalid(format!(
            "replacePaths names more than {REPLACE_PATHS_MAX} lists"
        )));
    }
    let raw = p.raw.as_str().to_owned();
    let write = match cx.tenant.slug() {
        MAIN_TENANT => ConfigWrite::Patch(raw, replace),
        slug => ConfigWrite::Part {
            slug: slug.to_owned(),
            raw,
            replace,
        },
    };
    written(cx, write, base).await
}

async fn written(
    cx: Cx,
    write: ConfigWrite,
    base: Option<String>,
) -> Result<ConfigWriteResult, RpcError> {
    // Guests and agents never write it, whatever they were granted.
    if cx.caller.surface == Surface::Internal {
        return Err(RpcError::new(
            DetailCode::CapabilityDenied,
            "guests and agents do not write the configuration",
        ));
    }
    let own = matches!(write, ConfigWrite::Part { .. });
    // The file holds the operator's settings and every tenant's; only its owner writes it as a whole.
    if cx.tenant.slug() != MAIN_TENANT && !own {
        return Err(RpcError::new(
            DetailCode::CapabilityDenied,
            "the configuration file belongs to the operator of this gateway: change your part of it with config.patch, or ask them",
        ));
    }
    let configuration = || &cx.tenant.shared().configuration;
    let host = configuration()
        .host()
        .ok_or_else(|| RpcError::unavailable("the gateway is stopping"))?;
    // What is begun is finished, also when the caller has gone away or the deadline has passed.
    let work = tokio::spawn(async move { host.write_config(write, base).await });
    let mut done = work.await.map_err(|_| RpcError::internal("config"))??;
    if own {
        done.as_seen_by(cx.tenant.slug());
    }
    cx.audit.about(serde_json::json!({
        "revision": done.revision, "changed": crate::audit::first(&done.changed),
    }));
    let view = configuration()
        .view(cx.tenant.slug())
        .ok_or_else(|| RpcError::unavailable("no configuration"))?;
    Ok(ConfigWriteResult {
        ok: true,
        path: CONFIG_FILE_LABEL.to_owned(),
        hash: view.hash.unwrap_or_default(),
        revision: if own { view.revision } else { done.revision },
        config: view.shown,
        changed_paths: done.changed,
        restart_needed: done.restart,
    })
}

pub(super) fn schema(cx: &Cx, _: NoParams) -> Result<Reply<ConfigSchemaResult>, RpcError> {
    let mut hints = Map::new();
    gather_hints("", &mut hints);
    Ok(Reply::Value(ConfigSchemaResult {
        schema: options_schema(),
        ui_hints: Value::Object(hints),
        version: cx.tenant.shared().version.to_owned(),
        generated_at: crate::cron::schedule::rfc3339(cx.tenant.shared().started_ms),
    }))
}

fn gather_hints(path: &str, out: &mut Map<String, Value>) {
    let Some(node) = look_up(path) else { return };
    for (key, child) in node.children {
        let path = join(path, &key);
        if let Ok(hint) = serde_json::to_value(hint(&key, &child)) {
            out.insert(path.clone(), hint);
        }
        gather_hints(&path, out);
    }
}

pub(super) fn lookup(
    _: &Cx,
    p: ConfigSchemaLookupParams,
) -> Result<Reply<ConfigSchemaLookupResult>, RpcError> {
    let path = p.path.as_str();
    let good = path.len() <= LOOKUP_PATH_MAX_BYTES
        && path
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_./[]-*".contains(c));
    if !good {
        return Err(RpcError::invalid(
            "invalid config.schema.lookup params: path must be 1 to 1024 of letters, digits and _./[]-*",
        ));
    }
    let dotted = path.replace('/', ".");
    let node = look_up(&dotted).ok_or_else(|| RpcError::not_found("config schema path"))?;
    let key = dotted.rsplit('.').next().unwrap_or_default().to_owned();
    Ok(Reply::Value(ConfigSchemaLookupResult {
        path: path.to_owned(),
        reload_kind: Some(kind(node.reload).to_owned()),
        hint: Some(hint(&key, &node)),
        hint_path: Some(path.to_owned()),
        children: node
            .children
            .iter()
            .map(|(key, child)| {
                let path = join(&dotted, key);
                ConfigSchemaChild {
                    key: key.clone(),
                    kind: child.schema.get("type").cloned(),
                    required: false,
                    has_children: !child.children.is_empty() || child.deep,
                    reload_kind: Some(kind(child.reload).to_owned()),
                    hint: Some(hint(key, child)),
                    hint_path: Some(path.clone()),
                    path,
                }
            })
            .collect(),
        schema: node.schema,
    }))
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

fn hint(key: &str, node: &SchemaNode) -> ConfigHint {
    ConfigHint {
        label: Some(key.to_owned()),
        help: node.doc.clone(),
        sensitive: node.secret.then_some(true),
    }
}

/// The words of the protocol for what a change needs.
fn kind(reload: Reload) -> &'static str {
    match reload {
        Reload::Live | Reload::Part => "hot",
        Reload::Process => "restart",
    }
}
