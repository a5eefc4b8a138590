//! `gateway plugin list`: the plugins that would be loaded, with where they are from and the digests that can be pinned.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use gateway_config::{LoadRequest, Overrides, load};
use gateway_wasm::{Bundled, Pins, candidates};
use serde_json::{Value, json};

use super::Global;
use super::output::{Exit, Failure, print, table, text};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Plugins that the program carries and those of the directory, each with the digest over its manifest and its component;
    /// nothing is run.
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
    let dir = wasm_dir.or(settings.plugins_dir);
    let bundled = match settings.plugins_bundled {
        true => gateway::bundled_plugins(),
        false => Vec::new(),
    };
    if dir.is_none() && bundled.is_empty() {
        return Err(Failure::new(
            Exit::Usage,
            "no directory of plugins is configured, and this program carries none",
            "set plugins.dir in gateway.json5, or name one with --wasm-dir",
        ));
    }
    let pins = Pins {
        digests: settings.plugin_pins,
        only: settings.plugins_pinned_only,
    };
    let rows = listing(dir.as_deref(), &bundled, &pins);
    print(global.json, &json!({ "plugins": rows }), shown)
}

/// One row for each plugin, or for the directory if it can't be read.
fn listing(dir: Option<&Path>, bundled: &[Bundled], pins: &Pins) -> Vec<Value> {
    let found = match candidates(dir, bundled) {
        Ok(found) => found,
        Err(e) => {
            return vec![json!({
                "source": e.source.name(), "path": e.source.path(), "error": e.kind.to_string(),
            })];
        }
    };
    found
        .iter()
        .map(|candidate| {
            let source = candidate.source();
            let mut row = json!({
                "id": candidate.id, "source": source.name(), "path": source.path(),
                "replacesBundled": candidate.replaces_bundled,
            });
            let more = match candidate.read() {
                Err(e) => json!({ "error": e.to_string() }),
                Ok(p) => {
                    let pin = match pins.check(&p) {
                        Err(_) => "refused",
                        Ok(()) if pins.digests.contains_key(&p.manifest.id) => "pinned",
                        Ok(()) => "none",
                    };
                    json!({
                        "version": p.manifest.version, "world": p.manifest.world.name(),
                        "capabilities": p.manifest.capabilities.iter().map(|c| c.name()).collect::<Vec<_>>(),
                        "sha256": p.digest, "pin": pin,
                    })
                }
            };
            if let (Value::Object(row), Value::Object(more)) = (&mut row, more) {
                row.extend(more);
            }
            row
        })
        .collect()
}

fn shown(told: &Value) -> String {
    let rows: Vec<Vec<String>> = told["plugins"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|row| {
            let broken = row["error"].is_string();
            vec![
                text(row, if row["id"].is_string() { "id" } else { "path" }),
                kind(row),
                text(row, "version"),
                match row["replacesBundled"].as_bool() {
                    Some(true) => format!("{} (replaces bundled)", text(row, "source")),
                    _ => text(row, "source"),
                },
                text(row, "pin"),
                text(row, if broken { "error" } else { "sha256" }),
            ]
        })
        .collect();
    let shown = table(
        &["PLUGIN", "KIND", "VERSION", "SOURCE", "PIN", "SHA-256"],
        &rows,
        "there are none",
    );
    format!("{shown}\nnext: gateway config set plugins.pins.ID SHA-256 has only that one loaded")
}

/// `channel`, `boot-script` or `hook`: the world's name without its package.
fn kind(row: &Value) -> String {
    let world = row["world"].as_str().unwrap_or("-");
    let name = world.rsplit('/').next().unwrap_or(world);
    name.split('@').next().unwrap_or(name).to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn manifest(id: &str) -> String {
        format!(
            "schema = 1\nid = \"{id}\"\nversion = \"0.1.0\"\nworld = \"gateway:channel/channel@0.1.0\"\ncomponent = {{ file = \"{id}.wasm\" }}\ncapabilities = [\"log\"]\n"
        )
    }

    fn carried(id: &'static str) -> Bundled {
        Bundled {
            id: id.into(),
            manifest: manifest(id).into_bytes().into(),
            wasm: b"not read here".into(),
        }
    }

    #[test]
    fn bundled_plugins_and_those_of_the_directory_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let put = |id: &str, text: &str| {
            let place = dir.path().join(id);
            std::fs::create_dir(&place).unwrap();
            std::fs::write(place.join("plugin.toml"), text).unwrap();
            std::fs::write(place.join(format!("{id}.wasm")), b"another").unwrap();
        };
        put("both", &manifest("both"));
        put("broken", "schema = 1");
        let bundled = [carried("both"), carried("own"), carried("pinned")];
        let mut pins = Pins::default();
        let alone = listing(None, &bundled, &pins);
        assert!(alone.iter().all(|row| row["source"] == "bundled"));
        assert!(alone.iter().all(|row| row["path"].is_null()));
        let digest = alone[2]["sha256"].as_str().unwrap().to_owned();
        pins.digests.insert("pinned".to_owned(), digest);
        pins.digests.insert("own".to_owned(), "0".repeat(64));

        let rows = listing(Some(dir.path()), &bundled, &pins);
        let told: Vec<(&str, &str, bool, &str)> = rows
            .iter()
            .map(|row| {
                (
                    row["id"].as_str().unwrap(),
                    row["source"].as_str().unwrap(),
                    row["replacesBundled"].as_bool().unwrap(),
                    row["pin"].as_str().unwrap_or("-"),
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                ("both", "directory", true, "none"),
                ("broken", "directory", false, "-"),
                ("own", "bundled", false, "refused"),
                ("pinned", "bundled", false, "pinned"),
            ]
        );
        assert_ne!(rows[0]["sha256"], alone[0]["sha256"]);
        assert_eq!(rows[0]["path"].as_str(), dir.path().join("both").to_str());
        let page = shown(&json!({ "plugins": rows }));
        assert!(page.contains("directory (replaces bundled)"), "{page}");
        let missing = listing(Some(Path::new("/nowhere")), &bundled, &pins);
        assert_eq!(missing.len(), 1);
        assert!(missing[0]["error"].as_str().unwrap().contains("/nowhere"));
    }
}
