//! What was written, beside what came of it: to tell two configurations apart, and to say where a value is from.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::load::hex;
use crate::schema;
use crate::source::{Source, join_key};

/// Where a value is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Written in a file, at line and column (both from 1).
    File {
        /// The file.
        file: PathBuf,
        /// Line.
        line: usize,
        /// Column, in characters.
        column: usize,
        /// Environment variables that are put into the text.
        env: Vec<String>,
    },
    /// Written nowhere.
    Default,
}

#[derive(Default)]
struct Inner {
    source: Option<Source>,
    /// Everything that is written; a secret is replaced by a digest of its value.
    tree: Value,
    /// Digests of secrets that count although nothing is written for them.
    unwritten: BTreeMap<String, String>,
    /// Files that were read: the configuration, what it includes, files of secrets.
    files: Vec<PathBuf>,
}

/// What was written. Shown by nothing: it holds the texts of the files.
#[derive(Clone, Default)]
pub struct Written(Arc<Inner>);

impl fmt::Debug for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Written")
    }
}

impl Written {
    pub(crate) fn new(
        source: Option<Source>,
        mut digests: BTreeMap<String, [u8; 32]>,
        secrets: Vec<PathBuf>,
        config_path: &Path,
    ) -> Self {
        let mut tree = source.as_ref().map_or(Value::Null, |s| s.tree.clone());
        let root = schema::options_schema();
        schema::each_secret(&root, &root, &mut tree, "", &mut |path, value| {
            let digest = digests
                .remove(path)
                // Not resolved (a disabled account waits for it): what is written is all that can change.
                .unwrap_or_else(|| Sha256::digest(value.to_string().as_bytes()).into());
            *value = Value::String(hex(&digest));
        });
        let mut files = vec![config_path.to_owned()];
        if let Some(source) = &source {
            let folder = config_path.parent().unwrap_or(Path::new(""));
            files.extend(source.included().map(|name| folder.join(name)));
        }
        files.extend(secrets);
        files.sort();
        files.dedup();
        Self(Arc::new(Inner {
            source,
            tree,
            unwritten: digests.into_iter().map(|(k, d)| (k, hex(&d))).collect(),
            files,
        }))
    }

    /// Files whose change may change the settings.
    pub fn files(&self) -> &[PathBuf] {
        &self.0.files
    }

    /// Names and texts of the configuration and of what it includes; nothing when there is no file.
    pub(crate) fn texts(&self) -> Vec<(String, String)> {
        self.0
            .source
            .iter()
            .flat_map(Source::texts)
            .map(|(name, text)| (name.to_string_lossy().into_owned(), text.to_owned()))
            .collect()
    }

    /// Names of the included files, below the folder of the configuration.
    pub fn included(&self) -> Vec<String> {
        self.0
            .source
            .iter()
            .flat_map(Source::included)
            .map(|name| name.to_string_lossy().into_owned())
            .collect()
    }

    /// Where the value at `path` is from.
    pub fn origin(&self, path: &str) -> Origin {
        let found = self.0.source.as_ref().and_then(|s| {
            let (file, (line, column)) = s.exact_place(path)?;
            Some(Origin::File {
                file: file.unwrap_or_else(|| s.file.clone()),
                line,
                column,
                env: s.env_of(path).to_vec(),
            })
        });
        found.unwrap_or(Origin::Default)
    }

    /// Whether something counts at `path`: written in a file, or a secret that counts without being written.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.0.unwritten.contains_key(path)
            || crate::path::split_path(path)
                .and_then(|steps| crate::path::value_at(&self.0.tree, &steps).map(|_| ()))
                .is_some()
    }

    /// What a tenant's part is, in a form that changes exactly when it does. It holds digests of secrets: hash it.
    pub fn part(&self, steps: &[&str]) -> String {
        let own =
            crate::path::value_at(&self.0.tree, steps).map_or(String::new(), Value::to_string);
        let prefix = crate::path::join_path(steps);
        let unwritten: Vec<_> = self
            .0
            .unwritten
            .iter()
            .filter(|(path, _)| below(path, &prefix))
            .collect();
        format!("{own}{unwritten:?}")
    }

    /// Paths of the values that are not the same in `other`, sorted. A list counts as one value.
    pub fn changes(&self, other: &Self) -> Vec<String> {
        let mut changed = BTreeSet::new();
        differ(&self.0.tree, &other.0.tree, "", &mut changed);
        let keys = self.0.unwritten.keys().chain(other.0.unwritten.keys());
        for path in keys {
            if self.0.unwritten.get(path) != other.0.unwritten.get(path) {
                changed.insert(path.clone());
            }
        }
        changed.into_iter().collect()
    }
}

/// Whether `path` is `prefix` or stands below it.
pub(crate) fn below(path: &str, prefix: &str) -> bool {
    prefix.is_empty()
        || path
            .strip_prefix(prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// Paths of the values that two trees do not share.
pub(crate) fn changed_paths(a: &Value, b: &Value) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    differ(a, b, "", &mut out);
    out
}

fn differ(a: &Value, b: &Value, path: &str, out: &mut BTreeSet<String>) {
    let empty = serde_json::Map::new();
    let object = |v: &Value| v.is_object() || v.is_null();
    if a == b {
        return;
    }
    // A missing object and an empty one are the same, so that each leaf of a new object is named.
    if object(a) && object(b) {
        let (a, b) = (
            a.as_object().unwrap_or(&empty),
            b.as_object().unwrap_or(&empty),
        );
        let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
        for key in keys {
            let (x, y) = (a.get(key), b.get(key));
            if x.is_none() != y.is_none()
                && [x, y]
                    .iter()
                    .flatten()
                    .all(|v| v.as_object().is_some_and(|o| o.is_empty()))
            {
                // An empty object that comes or goes: an account without settings, for example.
                out.insert(join_key(path, key));
                continue;
            }
            differ(
                x.unwrap_or(&Value::Null),
                y.unwrap_or(&Value::Null),
                &join_key(path, key),
                out,
            );
        }
    } else {
        out.insert(path.to_owned());
    }
}
