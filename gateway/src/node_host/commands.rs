//! The commands of our node.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::files::Root;

/// Programs that one `system.which` looks for.
const MAX_BINS: usize = 256;

/// Why a command failed.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault {
    /// A code.
    pub code: &'static str,
    /// A sentence.
    pub message: String,
}

impl Fault {
    /// A failure.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

/// What the node offers.
pub struct Commands {
    root: Option<Root>,
    only: Option<Vec<String>>,
}

impl Commands {
    /// `root`: the folder whose files are offered. `only`: no other commands than these.
    pub fn new(root: Option<Root>, only: Option<Vec<String>>) -> Self {
        Self { root, only }
    }

    /// A folder whose files are offered, and may be written.
    ///
    /// # Errors
    /// The folder cannot be opened.
    pub fn folder(path: &Path, writable: bool) -> std::io::Result<Root> {
        Root::open(path, writable)
    }

    /// Their names.
    pub fn names(&self) -> Vec<String> {
        let mut names = vec!["system.which"];
        if let Some(root) = &self.root {
            names.extend(["dir.list", "file.fetch", "file.stat"]);
            if root.writable() {
                names.push("file.write");
            }
        }
        names
            .into_iter()
            .map(str::to_owned)
            .filter(|name| self.only.as_ref().is_none_or(|only| only.contains(name)))
            .collect()
    }

    /// Their groups.
    pub fn caps(&self) -> Vec<String> {
        let mut caps = vec!["system".to_owned()];
        if self.root.is_some() {
            caps.push("file".to_owned());
        }
        caps
    }

    /// Runs one.
    pub fn run(&self, name: &str, params_json: Option<&str>) -> Result<Value, Fault> {
        if !self.names().iter().any(|n| n == name) {
            return Err(Fault::new("UNKNOWN_COMMAND", "this node does not offer it"));
        }
        let params: Value = match params_json {
            None => Value::Null,
            Some(text) => serde_json::from_str(text)
                .map_err(|e| Fault::new("INVALID_PARAMS", format!("not JSON: {e}")))?,
        };
        match (name, &self.root) {
            ("system.which", _) => which(&params),
            ("dir.list", Some(root)) => root.list(&params),
            ("file.stat", Some(root)) => root.stat(&params),
            ("file.fetch", Some(root)) => root.fetch(&params),
            ("file.write", Some(root)) => root.write(&params),
            _ => Err(Fault::new("UNKNOWN_COMMAND", "this node does not offer it")),
        }
    }
}

/// Where programs are: plain names, looked up in the search path.
fn which(params: &Value) -> Result<Value, Fault> {
    let bins = params["bins"]
        .as_array()
        .ok_or_else(|| Fault::new("INVALID_PARAMS", "bins has to be a list of names"))?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found = Map::new();
    for name in bins.iter().take(MAX_BINS).filter_map(Value::as_str) {
        if name.is_empty() || name.contains('/') || name.contains('\0') {
            continue;
        }
        let place = std::env::split_paths(&path)
            .filter(|dir| dir.is_absolute())
            .map(|dir| dir.join(name))
            .find(|file| {
                std::fs::metadata(file)
                    .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
            });
        if let Some(place) = place {
            found.insert(name.to_owned(), place.display().to_string().into());
        }
    }
    Ok(json!({ "bins": found }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn programs_are_found_by_plain_names() {
        let commands = Commands::new(None, None);
        let run = |params: &str| commands.run("system.which", Some(params));
        let found = run(r#"{"bins": ["sh", "no-such-program", "../bin/sh", ""]}"#).unwrap();
        let names: Vec<&String> = found["bins"].as_object().unwrap().keys().collect();
        assert_eq!(names, ["sh"]);
        assert_eq!(run("{}").unwrap_err().code, "INVALID_PARAMS");
        assert_eq!(run("{").unwrap_err().code, "INVALID_PARAMS");
        for not_offered in ["system.run", "file.stat", "file.write"] {
            assert_eq!(
                commands.run(not_offered, None).unwrap_err().code,
                "UNKNOWN_COMMAND"
            );
        }
        let none = Commands::new(None, Some(vec!["file.stat".to_owned()]));
        assert!(none.names().is_empty());
    }
}
