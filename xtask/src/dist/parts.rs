//! What a release is made of: the crates that are linked into the binary and into the guests that it carries, as cargo resolves them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::sh;
use crate::ui::Result;

/// Name and version.
pub type Id = (String, String);

/// A crate of the release.
#[derive(Debug, Clone)]
pub struct Part {
    /// SPDX expression of its license; empty where it names none.
    pub license: String,
    /// Whether it is ours.
    pub own: bool,
    /// Whether its code is in the release; else it only makes code (a procedural macro and what that uses).
    pub linked: bool,
    /// SHA-256 of its package, as the lock file has it.
    pub checksum: Option<String>,
    /// Folder of its sources.
    pub dir: PathBuf,
    /// The parts that it uses.
    pub uses: BTreeSet<Id>,
}

/// What the release is made of.
#[derive(Debug, Default)]
pub struct Parts {
    /// All crates.
    pub all: BTreeMap<Id, Part>,
    /// The crates that are guests.
    pub guests: BTreeSet<Id>,
}

/// The package whose binary is released, and its features.
pub const PACKAGE: &str = "gateway";
/// The feature with which it carries the guests.
pub const FEATURE: &str = "bundled";
const GUEST_TARGET: &str = "wasm32-unknown-unknown";

impl Parts {
    /// Asks cargo. `target` is what the binary is built for, `guests` are the packages of the guests that it carries.
    pub fn find(target: &str, guests: &[String]) -> Result<Self> {
        let mut parts = Self::default();
        let root = sh::root();
        let package = vec![PACKAGE.to_owned()];
        parts.add(&root, &package, &["--features", FEATURE], target)?;
        parts.add(&root.join("guest-plugins"), guests, &[], GUEST_TARGET)?;
        parts.guests = parts
            .all
            .keys()
            .filter(|(name, _)| guests.contains(name))
            .cloned()
            .collect();
        Ok(parts)
    }

    fn add(&mut self, dir: &Path, packages: &[String], more: &[&str], target: &str) -> Result<()> {
        let tree = |edges: &str| {
            let mut cmd = sh::cargo();
            cmd.current_dir(dir).args(["tree", "--locked", "--target"]);
            cmd.args([target, "--prefix", "none", "--edges", edges]);
            for package in packages {
                cmd.args(["--package", package]);
            }
            cmd.args(more);
            sh::output(&mut cmd).map(|text| listed(&text))
        };
        let (all, linked) = (tree("normal")?, tree("normal,no-proc-macro")?);
        let mut cmd = sh::cargo();
        cmd.current_dir(dir)
            .args(["metadata", "--locked", "--format-version", "1"])
            .args(["--filter-platform", target]);
        let metadata: Value =
            serde_json::from_str(&sh::output(&mut cmd)?).map_err(|e| e.to_string())?;
        let lock = std::fs::read_to_string(dir.join("Cargo.lock")).map_err(|e| e.to_string())?;
        for (id, part) in joined(&metadata, &lock, &all, &linked)? {
            let had = self.all.entry(id).or_insert_with(|| part.clone());
            had.linked |= part.linked;
            had.uses.extend(part.uses);
        }
        Ok(())
    }
}

/// Names and versions of the lines of `cargo tree --prefix none`.
fn listed(tree: &str) -> BTreeSet<Id> {
    tree.lines()
        .filter_map(|line| {
            let (name, rest) = line.split_once(" v")?;
            let version = rest.split_whitespace().next()?;
            Some((name.to_owned(), version.to_owned()))
        })
        .collect()
}

/// SHA-256 of the packages of a lock file.
fn checksums(lock: &str) -> BTreeMap<Id, String> {
    let value = |block: &str, key: &str| {
        let rest = block.split_once(&format!("\n{key} = \""))?.1;
        rest.split('"').next().map(str::to_owned)
    };
    lock.split("[[package]]")
        .filter_map(|block| {
            let id = (value(block, "name")?, value(block, "version")?);
            Some((id, value(block, "checksum")?))
        })
        .collect()
}

/// The packages of `all` with what metadata and lock file say of them.
fn joined(
    metadata: &Value,
    lock: &str,
    all: &BTreeSet<Id>,
    linked: &BTreeSet<Id>,
) -> Result<BTreeMap<Id, Part>> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let checksums = checksums(lock);
    let mut by_cargo_id = BTreeMap::new();
    let mut parts = BTreeMap::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let id = (text(&package["name"]), text(&package["version"]));
        if !all.contains(&id) {
            continue;
        }
        by_cargo_id.insert(text(&package["id"]), id.clone());
        let manifest = PathBuf::from(text(&package["manifest_path"]));
        let part = Part {
            license: text(&package["license"]).replace('/', " OR "),
            own: package["source"].is_null(),
            linked: linked.contains(&id),
            checksum: checksums.get(&id).cloned(),
            dir: manifest.parent().map(Path::to_owned).unwrap_or_default(),
            uses: BTreeSet::new(),
        };
        parts.insert(id, part);
    }
    if let Some((name, version)) = all.iter().find(|id| !parts.contains_key(*id)) {
        return Err(format!("cargo metadata does not know {name} {version}"));
    }
    for node in metadata["resolve"]["nodes"]
        .as_array()
        .into_iter()
        .flatten()
    {
        let Some(id) = by_cargo_id.get(&text(&node["id"])) else {
            continue;
        };
        let uses: BTreeSet<Id> = node["deps"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|dep| {
                let kinds = dep["dep_kinds"].as_array();
                kinds.into_iter().flatten().any(|k| k["kind"].is_null())
            })
            .filter_map(|dep| by_cargo_id.get(&text(&dep["pkg"])).cloned())
            .collect();
        if let Some(part) = parts.get_mut(id) {
            part.uses = uses;
        }
    }
    Ok(parts)
}

/// The version of the SQLite that is compiled in: C code of a crate, which its version says nothing of.
pub fn sqlite_version(parts: &Parts) -> Result<String> {
    let crates = parts.all.iter();
    let sys = crates
        .into_iter()
        .find(|((name, _), _)| name == "libsqlite3-sys");
    let (_, sys) = sys.ok_or_else(|| "libsqlite3-sys is not linked".to_owned())?;
    let header = sys.dir.join("sqlite3/sqlite3.h");
    let text =
        std::fs::read_to_string(&header).map_err(|e| format!("{}: {e}", header.display()))?;
    text.lines()
        .filter_map(|l| l.strip_prefix("#define SQLITE_VERSION "))
        .find_map(|rest| rest.split('"').nth(1))
        .map(str::to_owned)
        .ok_or_else(|| format!("{} names no version", header.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lines_of_the_tree_are_read() {
        let text = "gateway v0.1.0 (/x y/gateway)\nclap v4.6.0\nclap_derive v4.6.0 (proc-macro)\nring v0.17.14 (*)\n\n";
        let id = |name: &str, version: &str| (name.to_owned(), version.to_owned());
        assert_eq!(
            listed(text),
            [
                id("gateway", "0.1.0"),
                id("clap", "4.6.0"),
                id("clap_derive", "4.6.0"),
                id("ring", "0.17.14"),
            ]
            .into()
        );
    }

    #[test]
    fn checksums_are_read_from_the_lock_file() {
        let lock = "version = 4\n\n[[package]]\nname = \"a\"\nversion = \"1.0.0\"\nsource = \"x\"\nchecksum = \"ab\"\ndependencies = [\n \"own\",\n]\n\n[[package]]\nname = \"own\"\nversion = \"0.1.0\"\n";
        let found = checksums(lock);
        assert_eq!(found.len(), 1);
        assert_eq!(found[&("a".to_owned(), "1.0.0".to_owned())], "ab");
    }
}
