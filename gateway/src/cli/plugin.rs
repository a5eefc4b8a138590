//! `gateway plugin list`: what lies in the directory of plugins, with the digests that can be pinned.

use std::path::PathBuf;

use clap::Subcommand;
use gateway_config::{LoadRequest, Overrides, load};
use gateway_wasm::{Pins, packages};
use serde_json::{Value, json};

use super::Global;
use super::output::{Exit, Failure, print, table, text};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Plugins of the directory, each with the digest over its manifest and its component; nothing is run.
    List {
        /// Directory of plugin folders [default: plugins.dir of gateway.json5].
        #[arg(long, value_name = "DIR")]
        wasm_dir: Option<PathBuf>,
    },
}

pub fn run(global: &Global, command: Command) -> Result<(), Failure> {
    let Command::List { wasm_dir } = command;
    let settings = load(LoadRequest {
        state_dir: std::path::absolute(global.state_dir()?)?,
        config_path: global.config.clone(),
        overrides: Overrides::default(),
        env: &|name| std::env::var(name).ok(),
    })?;
    let dir = wasm_dir.or(settings.plugins_dir).ok_or_else(|| {
        Failure::new(
            Exit::Usage,
            "no directory of plugins is configured",
            "set plugins.dir in gateway.json5, or name one with --wasm-dir",
        )
    })?;
    let pins = Pins {
        digests: settings.plugin_pins,
        only: settings.plugins_pinned_only,
    };
    let rows: Vec<Value> = packages(&dir)
        .into_iter()
        .map(|(path, package)| match package {
            Ok(p) => {
                let pin = match pins.check(&p) {
                    Err(_) => "refused",
                    Ok(()) if pins.digests.contains_key(&p.manifest.id) => "pinned",
                    Ok(()) => "none",
                };
                json!({
                    "id": p.manifest.id, "version": p.manifest.version, "world": p.manifest.world.name(),
                    "capabilities": p.manifest.capabilities.iter().map(|c| c.name()).collect::<Vec<_>>(),
                    "sha256": p.digest, "pin": pin, "path": path,
                })
            }
            Err(e) => json!({ "path": path, "error": e.kind.to_string() }),
        })
        .collect();
    print(global.json, &json!({ "plugins": rows }), |told| {
        let rows: Vec<Vec<String>> = told["plugins"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|row| {
                let id = if row["error"].is_string() {
                    "path"
                } else {
                    "id"
                };
                let last = if row["error"].is_string() {
                    "error"
                } else {
                    "sha256"
                };
                vec![
                    text(row, id),
                    kind(row),
                    text(row, "version"),
                    text(row, "pin"),
                    text(row, last),
                ]
            })
            .collect();
        let shown = table(
            &["PLUGIN", "KIND", "VERSION", "PIN", "SHA-256"],
            &rows,
            "there are none",
        );
        format!(
            "{shown}\nnext: gateway config set plugins.pins.ID SHA-256 has only that one loaded"
        )
    })
}

/// `channel`, `boot-script` or `hook`: the world's name without its package.
fn kind(row: &Value) -> String {
    let world = row["world"].as_str().unwrap_or("-");
    let name = world.rsplit('/').next().unwrap_or(world);
    name.split('@').next().unwrap_or(name).to_owned()
}
