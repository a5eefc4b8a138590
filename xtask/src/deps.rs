//! `cargo xtask deps`: licenses, sources, double versions and banned crates of everything in the lock files.
//!
//! No advisory database can be asked from everywhere, so what is known to be bad stands in `xtask/deps.json`, with the date
//! of the last look. Every entry that is not needed any more is a fault too: the lists stay short.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::sh;
use crate::ui::{Result, Steps};

/// Folders with a lock file of their own.
const WORKSPACES: [&str; 3] = [".", "guest-plugins", "fuzz"];
/// A dependency of ours that names no registry: where it is from, all foreign code has to be from.
const FROM_THE_DEFAULT: &str = "serde_json";

/// The command.
pub fn main() -> Result<()> {
    let mut steps = Steps::new("deps");
    steps.check("dependencies", check);
    steps.into_result()
}

/// Checks all lock files.
pub fn check() -> Result<String> {
    let text = std::fs::read_to_string(sh::root().join("xtask/deps.json"))
        .map_err(|e| format!("xtask/deps.json: {e}"))?;
    let rules = Rules::parse(&text)?;
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut faults = Vec::new();
    let mut crates = BTreeSet::new();
    let mut double: BTreeMap<String, usize> = BTreeMap::new();
    let mut registry: Option<String> = None;
    for workspace in WORKSPACES {
        let out = sh::output(
            sh::cargo()
                .args(["metadata", "--locked", "--format-version", "1"])
                // What is linked here: crates of other systems need not be downloaded.
                .args(["--filter-platform", &platform])
                .current_dir(sh::root().join(workspace)),
        )?;
        let metadata: Value =
            serde_json::from_str(&out).map_err(|e| format!("cargo metadata: {e}"))?;
        let packages = packages(&metadata);
        let registry = registry.get_or_insert_with(|| default_registry(&packages));
        for (name, count) in rules.look(&packages, registry, &mut faults) {
            let most = double.entry(name).or_default();
            *most = count.max(*most);
        }
        crates.extend(packages.into_iter().map(|p| (p.name, p.version)));
    }
    for (name, allowed) in &rules.duplicates {
        let found = double.get(name).copied().unwrap_or(1);
        if found < *allowed {
            faults.push(format!(
                "{name}: {found} versions are left, xtask/deps.json allows {allowed}: lower it"
            ));
        }
    }
    if faults.is_empty() {
        Ok(format!(
            "{} crates, rules of {}",
            crates.len(),
            rules.looked
        ))
    } else {
        faults.sort();
        faults.dedup();
        Err(format!(
            "{}\nNext: use another crate or version, or change xtask/deps.json with a reason",
            faults.join("\n")
        ))
    }
}

struct Package {
    name: String,
    version: String,
    license: String,
    source: Option<String>,
}

fn packages(metadata: &Value) -> Vec<Package> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|p| Package {
            name: text(&p["name"]),
            version: text(&p["version"]),
            license: text(&p["license"]),
            source: p["source"].as_str().map(str::to_owned),
        })
        .collect()
}

/// Empty, so that nothing passes, where it is not known.
fn default_registry(packages: &[Package]) -> String {
    let known = packages.iter().find(|p| p.name == FROM_THE_DEFAULT);
    known.and_then(|p| p.source.clone()).unwrap_or_default()
}

struct Ban {
    name: String,
    /// Versions from this one on are well; none is without it.
    below: Option<Vec<u64>>,
    why: String,
}

struct Rules {
    looked: String,
    licenses: BTreeSet<String>,
    banned: Vec<Ban>,
    duplicates: BTreeMap<String, usize>,
}

impl Rules {
    fn parse(text: &str) -> Result<Self> {
        let json: Value =
            serde_json::from_str(text).map_err(|e| format!("xtask/deps.json: {e}"))?;
        let string = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        Ok(Self {
            looked: string(&json["looked"]),
            licenses: json["licenses"]
                .as_array()
                .into_iter()
                .flatten()
                .map(string)
                .collect(),
            banned: json["banned"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|b| Ban {
                    name: string(&b["name"]),
                    below: b["below"].as_str().map(version),
                    why: string(&b["why"]),
                })
                .collect(),
            duplicates: json["duplicates"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, n)| {
                    let n = n.as_u64().and_then(|n| usize::try_from(n).ok());
                    (name.clone(), n.unwrap_or(1))
                })
                .collect(),
        })
    }

    /// Adds what is wrong with the packages of one lock file; gives the names with more than one version.
    fn look(
        &self,
        packages: &[Package],
        registry: &str,
        faults: &mut Vec<String>,
    ) -> Vec<(String, usize)> {
        let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for p in packages {
            versions.entry(&p.name).or_default().insert(&p.version);
            if p.source.as_deref().is_some_and(|s| s != registry) {
                faults.push(format!("{} {}: from {:?}", p.name, p.version, p.source));
            }
            if !permits(&p.license, &self.licenses) {
                faults.push(format!(
                    "{} {}: license {:?} is not in the list",
                    p.name, p.version, p.license
                ));
            }
            for ban in self.banned.iter().filter(|b| b.name == p.name) {
                let bad = ban
                    .below
                    .as_ref()
                    .is_none_or(|least| version(&p.version) < *least);
                if bad {
                    faults.push(format!("{} {}: {}", p.name, p.version, ban.why));
                }
            }
        }
        let mut double = Vec::new();
        for (name, found) in versions.into_iter().filter(|(_, found)| found.len() > 1) {
            let allowed = self.duplicates.get(name).copied().unwrap_or(1);
            if found.len() > allowed {
                faults.push(format!("{name}: {} versions ({found:?})", found.len()));
            }
            double.push((name.to_owned(), found.len()));
        }
        double
    }
}

/// The numbers of a version, without pre-release and build.
fn version(text: &str) -> Vec<u64> {
    text.split(['-', '+'])
        .next()
        .unwrap_or_default()
        .split('.')
        .map(|n| n.parse().unwrap_or(0))
        .collect()
}

/// Whether one may use it under licenses of the list only: an SPDX expression, or the old form with `/` for OR.
fn permits(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace('/', " OR ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let verdict = any(&tokens, &mut at, allowed);
    verdict && at == tokens.len() && !tokens.is_empty()
}

fn any(tokens: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let mut verdict = all(tokens, at, allowed);
    while tokens.get(*at) == Some(&"OR") {
        *at += 1;
        let right = all(tokens, at, allowed);
        verdict |= right;
    }
    verdict
}

fn all(tokens: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let mut verdict = one(tokens, at, allowed);
    while tokens.get(*at) == Some(&"AND") {
        *at += 1;
        let right = one(tokens, at, allowed);
        verdict &= right;
    }
    verdict
}

fn one(tokens: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let Some(token) = tokens.get(*at) else {
        return false;
    };
    *at += 1;
    if *token == "(" {
        let verdict = any(tokens, at, allowed);
        let closed = tokens.get(*at) == Some(&")");
        *at += 1;
        return verdict && closed;
    }
    let mut name = (*token).to_owned();
    if tokens.get(*at) == Some(&"WITH") {
        name = format!("{name} WITH {}", tokens.get(*at + 1).unwrap_or(&""));
        *at += 2;
    }
    allowed.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, version: &str, license: &str, source: Option<&str>) -> Package {
        Package {
            name: name.to_owned(),
            version: version.to_owned(),
            license: license.to_owned(),
            source: source.map(str::to_owned),
        }
    }

    /// Covers: S4.
    #[test]
    fn what_is_banned_is_found() {
        let rules = Rules::parse(
            r#"{"licenses": ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-3-Clause"],
                "banned": [{"name": "atty", "why": "old"}, {"name": "tar", "below": "0.4.36", "why": "links"}],
                "duplicates": {"syn": 2}}"#,
        );
        let Ok(rules) = rules else {
            panic!("the rules were not read");
        };
        let look = |p: Vec<Package>| {
            let mut faults = Vec::new();
            rules.look(&p, "registry+here", &mut faults);
            faults.len()
        };
        let ok = Some("registry+here");
        assert_eq!(
            look(vec![
                package("a", "1.0.0", "MIT", ok),
                package("own", "0.1.0", "MIT", None)
            ]),
            0
        );
        assert_eq!(look(vec![package("atty", "0.2.14", "MIT", ok)]), 1);
        assert_eq!(look(vec![package("tar", "0.4.35", "MIT", ok)]), 1);
        assert_eq!(
            look(vec![
                package("tar", "0.4.36", "MIT", ok),
                package("tar", "0.10.0", "MIT", ok)
            ]),
            1
        );
        assert_eq!(
            look(vec![
                package("syn", "1.0.0", "MIT", ok),
                package("syn", "2.0.0", "MIT", ok)
            ]),
            0
        );
        assert_eq!(
            look(vec![package(
                "b",
                "1.0.0",
                "MIT",
                Some("git+https://example.org/b")
            )]),
            1
        );
        assert_eq!(look(vec![package("b", "1.0.0", "GPL-3.0", ok)]), 1);
        assert_eq!(look(vec![package("b", "1.0.0", "", ok)]), 1);
    }

    /// Covers: S4.
    #[test]
    fn license_expressions_are_understood() {
        let allowed: BTreeSet<String> = ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"]
            .into_iter()
            .map(str::to_owned)
            .collect();
        for good in [
            "MIT",
            "MIT/GPL-3.0",
            "GPL-3.0 OR MIT",
            "(GPL-3.0 OR MIT) AND Apache-2.0",
            "Apache-2.0 WITH LLVM-exception",
        ] {
            assert!(permits(good, &allowed), "{good}");
        }
        for bad in [
            "",
            "GPL-3.0",
            "MIT AND GPL-3.0",
            "(MIT",
            "MIT MIT",
            "Apache-2.0 WITH other",
            "MIT AND (GPL-3.0 OR X)",
        ] {
            assert!(!permits(bad, &allowed), "{bad}");
        }
    }

    /// The real lock files.
    ///
    /// Covers: S4.
    #[test]
    fn our_own_dependencies_pass() {
        if let Err(why) = check() {
            panic!("{why}");
        }
    }
}
