//! Edits by clients: made in the text of the file, checked as a whole, built, then written, then swapped in.

use std::sync::Arc;

use gateway_config::{ConfigError, ConfigFile, KeyEdit, Settings, Snapshot, parse_value};
use gateway_protocol::error::{DetailCode, RpcError};
use serde_json::Value;

use super::{ConfigFault, Reloaded, wire_hash};
use crate::host::Host;

/// What a client wants the file to be.
#[derive(Debug, Clone)]
pub enum ConfigWrite {
    /// This text.
    Whole(String),
    /// A JSON merge patch, and the lists that it may replace.
    Patch(String, Vec<String>),
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
            let (file, running) = (file.clone(), running.clone());
            tokio::task::spawn_blocking(move || compose(&file, &key, &running, &write, base))
                .await
                .map_err(|_| RpcError::internal("config"))??
        };
        let prepared = self
            .prepare(composed.settings)
            .await
            .map_err(|fault| invalid_fault(&fault))?;
        let (base, text) = (composed.base, composed.text);
        let replaced = tokio::task::spawn_blocking(move || file.replace(&base, &text))
            .await
            .map_err(|_| RpcError::internal("config"))?;
        match replaced {
            Ok(true) => {}
            Ok(false) => return Err(RpcError::invalid(OLD_BASE)),
            Err(error) => {
                tracing::error!(%error, "the configuration could not be written");
                return Err(RpcError::new(
                    DetailCode::StorageFull,
                    "the configuration file could not be written; nothing was changed",
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
                self.refuse(fault.clone());
                Err(invalid_fault(&fault))
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
    if !snapshot.text.is_empty() {
        let base = base.ok_or_else(|| RpcError::invalid(NO_BASE))?;
        let is = |settings: &Settings| wire_hash(key, &settings.hash) == base;
        match (&written, write) {
            (Ok(settings), _) if is(settings) => {}
            // A broken file can be replaced as a whole by who knows what runs.
            (Err(_), ConfigWrite::Whole(_)) if is(running) => {}
            (Err(error), ConfigWrite::Patch(..)) if is(running) => return Err(invalid(error)),
            _ => return Err(RpcError::invalid(OLD_BASE)),
        }
    }
    let text = match write {
        ConfigWrite::Whole(raw) => file
            .restored(&snapshot, running, raw)
            .map_err(|e| invalid(&e))?,
        ConfigWrite::Patch(raw, replace) => {
            let patch = parse_value(raw).map_err(|(line, column, why)| {
                RpcError::invalid(format!("invalid config patch: {line}:{column}: {why}"))
            })?;
            if !patch.is_object() {
                return Err(RpcError::invalid("config.patch raw must be an object"));
            }
            let edits: Vec<KeyEdit> = file
                .patch_edits(&snapshot, running, &patch, replace)
                .map_err(|e| invalid(&e))?;
            file.edited(&snapshot, &edits).map_err(|e| invalid(&e))?
        }
    };
    local_only(&snapshot.text, &text)?;
    let settings = file.check(&text).map_err(|e| invalid(&e))?;
    Ok(Composed {
        base: snapshot,
        text,
        settings,
    })
}

/// Refuses what would let a client of the wire name programs or code of this machine.
fn local_only(before: &str, after: &str) -> Result<(), RpcError> {
    let read = |text: &str| {
        let plain = text.strip_prefix('\u{feff}').unwrap_or(text);
        parse_value(plain).unwrap_or(Value::Null)
    };
    let (before, after) = (read(before), read(after));
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

fn invalid(error: &ConfigError) -> RpcError {
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
