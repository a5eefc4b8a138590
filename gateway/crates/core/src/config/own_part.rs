//! The part of the file that a tenant's own admin may write: some keys of `tenants.<slug>`, told by their paths in the tenant's view.
//!
//! What is listed widens nothing that the operator decided: no address that is asked, no credential, no name by which the tenant is
//! found, nothing new to run. A text is taken as it stands: `${NAME}` would be a variable of the gateway's own environment.

use gateway_config::{TenantSettings, join_path};
use gateway_protocol::error::{DetailCode, RpcError};
use serde_json::{Map, Value};

use super::ConfigFault;

/// Paths that a tenant's admin may write, with all that stands below them. `*` is the name of something that the operator made.
pub const OWN_KEYS: &[&str] = &[
    "agents.default",
    "agents.entries.*.heartbeat",
    "agents.entries.*.systemPrompt",
    "agents.entries.*.tools",
    "boot.scripts.*.enabled",
    "boot.scripts.*.onError",
    "channels.*.accounts.*.agent",
    "channels.*.accounts.*.allowFrom",
    "channels.*.accounts.*.dmPolicy",
    "channels.*.accounts.*.enabled",
    "channels.*.accounts.*.groupPolicy",
    "channels.*.accounts.*.groups",
    "channels.*.accounts.*.requireMention",
    "cron.enabled",
    "hooks.allowRequestSessionKey",
    "hooks.allowedAgents",
    "hooks.defaultSessionKey",
    "hooks.mappings",
    "session",
];

/// Where the part of a tenant stands in the file, as the beginning of a path.
pub(super) fn prefix(slug: &str) -> String {
    format!("{}.", join_path(&["tenants", slug]))
}

/// A path of the file as the tenant sees it; `None` for what is not its own.
pub(super) fn own_path(slug: &str, path: &str) -> Option<String> {
    path.strip_prefix(&prefix(slug)).map(str::to_owned)
}

/// A patch of the tenant's view as a patch of the file.
///
/// # Errors
/// `CAPABILITY_DENIED` for what is not in [`OWN_KEYS`], or names what the operator did not make.
pub(super) fn as_file_patch(tenant: &TenantSettings, patch: Value) -> Result<Value, RpcError> {
    allowed(tenant, &patch, &mut Vec::new())?;
    let mut of_tenant = Map::new();
    of_tenant.insert(tenant.slug.clone(), patch);
    let mut file = Map::new();
    file.insert("tenants".to_owned(), Value::Object(of_tenant));
    Ok(Value::Object(file))
}

fn allowed<'p>(
    tenant: &TenantSettings,
    patch: &'p Value,
    steps: &mut Vec<&'p str>,
) -> Result<(), RpcError> {
    if OWN_KEYS.iter().any(|key| covers(key, steps)) {
        return match (is_made(tenant, steps), refers(patch)) {
            (false, _) => Err(denied(
                steps,
                "is not there: the operator of this gateway makes agents, accounts and scripts",
            )),
            (_, true) => Err(denied(steps, "refers to a variable, a file or a program")),
            _ => Ok(()),
        };
    }
    match patch {
        Value::Object(map) if leads_on(steps) => {
            for (key, value) in map {
                steps.push(key);
                allowed(tenant, value, steps)?;
                steps.pop();
            }
            Ok(())
        }
        _ => Err(denied(steps, "is written by the operator of this gateway")),
    }
}

fn denied(steps: &[&str], what: &str) -> RpcError {
    let path = gateway_protocol::error::echo(&join_path(steps));
    RpcError::new(
        DetailCode::CapabilityDenied,
        format!("{path} {what}; what you may write is in `ownKeys`"),
    )
    .with("ownKeys", OWN_KEYS.to_vec())
}

/// Whether `key` is the beginning of these steps, or they themselves.
fn covers(key: &str, steps: &[&str]) -> bool {
    let key: Vec<&str> = key.split('.').collect();
    key.len() <= steps.len() && alike(&key, steps)
}

/// Whether one of the keys stands below these steps.
fn leads_on(steps: &[&str]) -> bool {
    OWN_KEYS.iter().any(|key| {
        let key: Vec<&str> = key.split('.').collect();
        key.len() > steps.len() && alike(&key, steps)
    })
}

fn alike(key: &[&str], steps: &[&str]) -> bool {
    key.iter().zip(steps).all(|(k, s)| *k == "*" || k == s)
}

/// Whether what the steps name by its own name is there.
fn is_made(tenant: &TenantSettings, steps: &[&str]) -> bool {
    match steps {
        ["agents", "entries", id, ..] => tenant.agents.entries.contains_key(*id),
        ["channels", kind, "accounts", id, ..] => tenant
            .channels
            .iter()
            .any(|account| account.kind == **kind && account.account == **id),
        ["boot", "scripts", id, ..] => tenant.boot.iter().any(|script| script.id == **id),
        _ => true,
    }
}

/// Whether a value, wherever in it, is more than it says: a variable, or a reference as secrets have it.
fn refers(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains("${"),
        Value::Array(list) => list.iter().any(refers),
        Value::Object(map) => map.iter().any(|(key, value)| {
            key.contains("${") || matches!(key.as_str(), "$include" | "exec") || refers(value)
        }),
        _ => false,
    }
}

/// The same two texts of the file, but for the part of this tenant.
pub(super) fn only_own_differs(slug: &str, before: &Value, after: &Value) -> bool {
    without(slug, before) == without(slug, after)
}

fn without(slug: &str, file: &Value) -> Value {
    let mut file = file.clone();
    if let Some(tenants) = file.get_mut("tenants").and_then(Value::as_object_mut) {
        tenants.remove(slug);
        if tenants.is_empty()
            && let Some(top) = file.as_object_mut()
        {
            top.remove("tenants");
        }
    }
    file
}

/// What is wrong with the configuration as this tenant may know it: its own keys, and no place in a file that it cannot read.
pub(super) fn told(slug: &str, issues: Vec<(String, String, String)>) -> RpcError {
    let own: Vec<Value> = issues
        .into_iter()
        .filter_map(|(path, message, help)| {
            let path = own_path(slug, &path)?;
            Some(serde_json::json!({ "path": path, "message": message, "help": help }))
        })
        .collect();
    let Some(first) = own.first() else {
        return RpcError::invalid(
            "invalid config: this does not go together with the rest of the configuration: ask the operator of this gateway",
        );
    };
    let word = |key: &str| first[key].as_str().unwrap_or_default();
    RpcError::invalid(format!(
        "invalid config: {}: {}",
        word("path"),
        word("message")
    ))
    .with("issues", own)
}

/// The same for what building it found.
pub(super) fn told_fault(slug: &str, fault: &ConfigFault) -> RpcError {
    let path = fault.path.clone().unwrap_or_default();
    let message = fault.message.strip_prefix(&path).unwrap_or(&fault.message);
    let message = message.trim_start_matches(": ").to_owned();
    told(slug, vec![(path, message, String::new())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_cover_what_stands_below_them_and_nothing_beside() {
        for (steps, covered, on) in [
            (vec!["session"], true, false),
            (vec!["session", "dmScope"], true, false),
            (vec!["sessions"], false, false),
            (vec!["agents"], false, true),
            (vec!["agents", "entries", "x"], false, true),
            (vec!["agents", "entries", "x", "systemPrompt"], true, false),
            (vec!["agents", "entries", "x", "baseUrl"], false, false),
            (
                vec!["channels", "a", "accounts", "b", "secrets"],
                false,
                false,
            ),
            (
                vec!["channels", "a", "accounts", "b", "enabled"],
                true,
                false,
            ),
            (vec!["hooks", "token"], false, false),
            (vec!["auth"], false, false),
            (vec![], false, true),
        ] {
            let any = OWN_KEYS.iter().any(|key| covers(key, &steps));
            assert_eq!((any, leads_on(&steps)), (covered, on), "{steps:?}");
        }
    }

    #[test]
    fn what_is_more_than_it_says_is_found_wherever_it_stands() {
        for (value, more) in [
            (serde_json::json!("plain $5 {x}"), false),
            (serde_json::json!("${HOME}"), true),
            (serde_json::json!("a $${ literal"), true),
            (serde_json::json!({"a": ["b", {"c": "x${Y}"}]}), true),
            (serde_json::json!({"${K}": 1}), true),
            (serde_json::json!({"a": {"exec": {"argv": []}}}), true),
            (serde_json::json!({"$include": "x"}), true),
            (serde_json::json!({"a": null}), false),
        ] {
            assert_eq!(refers(&value), more, "{value}");
        }
    }
}
