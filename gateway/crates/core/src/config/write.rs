//! Edits by clients: made in the text of the file, checked as a whole, built, then written, then swapped in.

use std::sync::Arc;

use gateway_config::{
    ConfigError, ConfigFile, DiskFault, KeyEdit, Settings, Snapshot, parse_value,
};
use gateway_protocol::error::{DetailCode, RpcError};
use serde_json::Value;

use super::{ConfigFault, Reloaded, own_part, part_hash, wire_hash};
use crate::host::Host;

/// What a client wants the file to be.
#[derive(Debug, Clone)]
pub enum ConfigWrite {
    /// This text.
    Whole(String),
    /// A JSON merge patch, and the lists that it may replace.
    Patch(String, Vec<String>),
    /// A JSON merge patch of the part of one tenant, by its own admin.
    Part {
        /// The tenant.
        slug: String,
        /// The patch, as the tenant sees its configuration.
        raw: String,
        /// The lists that it may replace, by the same paths.
        replace: Vec<String>,
    },
}

impl ConfigWrite {
    /// What a client is told of a configuration that was not taken.
    fn told(&self, fault: &ConfigFault) -> RpcError {
        match self {
            Self::Part { slug, .. } => own_part::told_fault(slug, fault),
            _ => invalid_fault(fault),
        }
    }
}

/// What a write did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written {
    /// The revision that is in force.
    pub revision: u64,
    /// Paths of the changed values.
    pub changed: Vec<String>,
    /// Paths of those that wait for the next start.
    pub restart: Vec<String>,
}

impl Written {
    /// Only what is of this tenant, by the paths of its own view.
    pub(crate) fn as_seen_by(&mut self, slug: &str) {
        for paths in [&mut self.changed, &mut self.restart] {
            *paths = paths
                .iter()
                .filter_map(|path| own_part::own_path(slug, path))
                .collect();
        }
    }
}

const NO_BASE: &str = "config base hash required; re-run config.get and retry";
const OLD_BASE: &str = "config changed since last load; re-run config.get and retry";

/// What a client may not write although it may write the rest: what names programs, code and files of this machine.
const LOCAL_ONLY: &[&str] = &[
    "plugins",
    "logging.file.path",
    "telemetry.otlp.endpoint",
    "gateway.tailscale",
];

struct Composed {
    base: Snapshot,
    text: String,
    settings: Settings,
}

impl Host {
    /// Writes the file for a client, if its `base` hash is that of the file, and lets it count.
    ///
    /// # Errors
    /// What is wrong with the request or the configuration; nothing was changed then.
    pub async fn write_config(
        self: &Arc<Self>,
        write: ConfigWrite,
        base: Option<String>,
    ) -> Result<Written, RpcError> {
        let _one = self.reloading.lock().await;
        let file = self.config_file().cloned().ok_or_else(|| {
            RpcError::unavailable("this gateway was started with settings and not from a file")
        })?;
        let configuration = &self.shared().configuration;
        let (key, running) = (configuration.key, self.settings());
        let composed = {
            let (file, running, write) = (file.clone(), running.clone(), write.clone());
            tokio::task::spawn_blocking(move || compose(&file, &key, &running, &write, base))
                .await
                .map_err(|_| RpcError::internal("config"))??
        };
        let prepared = self
            .prepare(composed.settings)
            .await
            .map_err(|fault| write.told(&fault))?;
        let (base, text) = (composed.base, composed.text);
        let replaced = tokio::task::spawn_blocking(move || file.replace(&base, &text))
            .await
            .map_err(|_| RpcError::internal("config"))?;
        match replaced {
            Ok(true) => {}
            Ok(false) => return Err(RpcError::invalid(OLD_BASE)),
            Err(error) => {
                tracing::error!(%error, "the configuration could not be written");
                return Err(disk_fault(
                    "written",
                    error.disk.unwrap_or(DiskFault::Other),
                ));
            }
        }
        let Some(prepared) = prepared else {
            return Ok(Written {
                revision: configuration.status().revision,
                ..Written::default()
            });
        };
        match self.commit(prepared).await {
            Ok(Reloaded::Applied {
                revision,
                changed,
                restart,
            }) => Ok(Written {
                revision,
                changed,
                restart,
            }),
            Ok(_) => Ok(Written {
                revision: configuration.status().revision,
                ..Written::default()
            }),
            Err(fault) => {
                let told = write.told(&fault);
                self.refuse(fault);
                Err(told)
            }
        }
    }
}

fn compose(
    file: &ConfigFile,
    key: &[u8; 32],
    running: &Settings,
    write: &ConfigWrite,
    base: Option<String>,
) -> Result<Composed, RpcError> {
    let snapshot = file.read().map_err(|e| invalid(&e))?;
    let written = file.check(&snapshot.text);
    if let ConfigWrite::Part { slug, raw, replace } = write {
        let part = (slug.as_str(), raw.as_str(), replace.as_slice());
        return compose_part(file, key, running, snapshot, written, part, base);
    }
    if !snapshot.text.is_empty() {
        let base = base.ok_or_else(|| RpcError::invalid(NO_BASE))?;
        let is = |settings: &Settings| wire_hash(key, &settings.hash) == base;
        match (&written, write) {
            (Ok(settings), _) if is(settings) => {}
            // A broken file can be replaced as a whole by who knows what runs.
            (Err(_), ConfigWrite::Whole(_)) if is(running) => {}
            (Err(error), _) if is(running) => return Err(invalid(error)),
            _ => return Err(RpcError::invalid(OLD_BASE)),
        }
    }
    let text = match write {
        ConfigWrite::Whole(raw) => file
            .restored(&snapshot, running, raw)
            .map_err(|e| invalid(&e))?,
        ConfigWrite::Patch(raw, replace) => {
            let edits: Vec<KeyEdit> = file
                .patch_edits(&snapshot, running, &patch_of(raw)?, replace)
                .map_err(|e| invalid(&e))?;
            file.edited(&snapshot, &edits).map_err(|e| invalid(&e))?
        }
        // Composed above.
        ConfigWrite::Part { .. } => return Err(RpcError::internal("config")),
    };
    local_only(&snapshot.text, &text)?;
    let settings = file.check(&text).map_err(|e| invalid(&e))?;
    Ok(Composed {
        base: snapshot,
        text,
        settings,
    })
}

fn patch_of(raw: &str) -> Result<Value, RpcError> {
    let patch = parse_value(raw).map_err(|(line, column, why)| {
        RpcError::invalid(format!("invalid config patch: {line}:{column}: {why}"))
    })?;
    if !patch.is_object() {
        return Err(RpcError::invalid("config.patch raw must be an object"));
    }
    Ok(patch)
}

/// The same for the part of one tenant: its own base, its own keys, and nothing beside them is changed or told.
fn compose_part(
    file: &ConfigFile,
    key: &[u8; 32],
    running: &Settings,
    snapshot: Snapshot,
    written: Result<Settings, ConfigError>,
    (slug, raw, replace): (&str, &str, &[String]),
    base: Option<String>,
) -> Result<Composed, RpcError> {
    let own = |error: &ConfigError| {
        // What the machine refuses is the same for everybody.
        if error.disk.is_some() {
            return invalid(error);
        }
        let issues = error.problems.iter();
        let issues = issues.map(|p| (p.path.clone(), p.message.clone(), p.help.clone()));
        own_part::told(slug, issues.collect())
    };
    let tenant = (running.tenants.get(slug))
        .ok_or_else(|| RpcError::unavailable("the configuration has no part for this tenant"))?;
    let patch = own_part::as_file_patch(tenant, patch_of(raw)?)?;
    let base = base.ok_or_else(|| RpcError::invalid(NO_BASE))?;
    let written = written.map_err(|error| match error.disk {
        Some(_) => invalid(&error),
        None => RpcError::unavailable(
            "the configuration file has a fault and takes no edits: ask the operator of this gateway",
        ),
    })?;
    if part_hash(key, &written, slug) != base {
        return Err(RpcError::invalid(OLD_BASE));
    }
    let replace: Vec<String> = replace
        .iter()
        .map(|path| format!("{}{path}", own_part::prefix(slug)))
        .collect();
    let edits = file
        .patch_edits(&snapshot, running, &patch, &replace)
        .map_err(|e| own(&e))?;
    let text = file.edited(&snapshot, &edits).map_err(|e| own(&e))?;
    if !own_part::only_own_differs(slug, &plain(&snapshot.text), &plain(&text)) {
        return Err(RpcError::internal("config"));
    }
    let settings = file.check(&text).map_err(|e| own(&e))?;
    Ok(Composed {
        base: snapshot,
        text,
        settings,
    })
}

fn plain(text: &str) -> Value {
    parse_value(text.strip_prefix('\u{feff}').unwrap_or(text)).unwrap_or(Value::Null)
}

/// Refuses what would let a client of the wire name programs or code of this machine.
fn local_only(before: &str, after: &str) -> Result<(), RpcError> {
    let (before, after) = (plain(before), plain(after));
    let refuse = |path: &str| {
        RpcError::new(
            DetailCode::CapabilityDenied,
            format!(
                "{path} is for those who can write on the gateway's machine: write it there (`gateway config set`)"
            ),
        )
    };
    for path in LOCAL_ONLY {
        let steps: Vec<&str> = path.split('.').collect();
        if gateway_config::value_at(&before, &steps) != gateway_config::value_at(&after, &steps) {
            return Err(refuse(path));
        }
    }
    let (mut had, mut has) = (Vec::new(), Vec::new());
    find(&before, &mut had);
    find(&after, &mut has);
    match has.iter().find(|one| !had.contains(one)) {
        Some(_) => Err(refuse("{exec: …}")),
        None => Ok(()),
    }
}

/// Every program and every included file that a configuration names, wherever.
fn find<'v>(value: &'v Value, out: &mut Vec<&'v Value>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                if key == "exec" || key == "$include" {
                    out.push(value);
                }
                find(value, out);
            }
        }
        Value::Array(list) => list.iter().for_each(|v| find(v, out)),
        _ => {}
    }
}

/// What the operating system refused, by its cause and with the next step; where the files are stays in the log.
fn disk_fault(what: &str, fault: DiskFault) -> RpcError {
    let code = match fault {
        DiskFault::Full => DetailCode::StorageFull,
        DiskFault::Descriptors => DetailCode::Overloaded,
        DiskFault::ReadOnly | DiskFault::Denied => DetailCode::StorageDenied,
        DiskFault::Failed | DiskFault::Other => DetailCode::StorageFailed,
    };
    let (why, next) = (fault.why(), fault.next());
    RpcError::new(
        code,
        format!("the configuration could not be {what}: {why}; nothing was changed: {next}"),
    )
    .with("reason", fault.reason())
    .with("next", next)
}

fn invalid(error: &ConfigError) -> RpcError {
    if let Some(fault) = error.disk {
        tracing::error!(%error, "the configuration could not be read");
        return disk_fault("read", fault);
    }
    let issues: Vec<Value> = error
        .problems
        .iter()
        .map(|p| {
            let mut issue = serde_json::json!({ "path": p.path, "message": p.message });
            if let Some((line, column)) = p.position {
                issue["line"] = line.into();
                issue["column"] = column.into();
            }
            if !p.help.is_empty() {
                issue["help"] = p.help.clone().into();
            }
            issue
        })
        .collect();
    let first = error.problems.first();
    let path = first
        .map(|p| p.path.as_str())
        .filter(|p| !p.is_empty())
        .unwrap_or("<root>");
    let message = first.map_or("", |p| p.message.as_str());
    RpcError::invalid(format!("invalid config: {path}: {message}")).with("issues", issues)
}

fn invalid_fault(fault: &ConfigFault) -> RpcError {
    RpcError::invalid(format!("invalid config: {}", fault.message)).with(
        "issues",
        vec![serde_json::json!({
            "path": fault.path.clone().unwrap_or_default(), "message": fault.message,
        })],
    )
}
