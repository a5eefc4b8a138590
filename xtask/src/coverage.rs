//! `docs/security/coverage.md`: which test covers which attack, fault or tenant id.
//!
//! A test says it in a comment: `/// Covers: B3, A11.` before a Rust test function (also `//! Covers:` for a whole file),
//! `# Covers:` in Python and `// Covers:` in JavaScript.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::sh;
use crate::ui::Result;

struct Id {
    id: String,
    title: String,
    owner: String,
}

/// The page and its figures.
pub struct Coverage {
    /// Text of `docs/security/coverage.md`.
    pub page: String,
    /// Ids with at least one test.
    pub covered: usize,
    /// Ids of the current stage (`spine`) without a test.
    pub spine_open: Vec<String>,
    /// All ids.
    pub total: usize,
}

impl Coverage {
    /// One line for the summary of the test command.
    pub fn line(&self) -> String {
        let open = self.total - self.covered;
        if self.spine_open.is_empty() {
            format!(
                "{} of {} security ids have a test, {open} have none (0 of the spine's)",
                self.covered, self.total
            )
        } else {
            format!(
                "{} of {} security ids have a test, {open} have none; of the spine's: {}",
                self.covered,
                self.total,
                self.spine_open.join(" ")
            )
        }
    }
}

/// Reads the ids and the sources.
///
/// # Errors
/// A file that cannot be read, or a comment that names an id which `docs/security/ids.json` does not have.
pub fn read() -> Result<Coverage> {
    let ids = read_ids()?;
    let mut tests: BTreeMap<String, Vec<String>> =
        ids.iter().map(|i| (i.id.clone(), Vec::new())).collect();
    let mut unknown = Vec::new();
    for file in sources()? {
        let text =
            std::fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
        let shown = file
            .strip_prefix(sh::root())
            .unwrap_or(&file)
            .display()
            .to_string();
        for (name, id) in marks(&text) {
            let place = if name.is_empty() {
                shown.clone()
            } else {
                format!("{shown}: {name}")
            };
            match tests.get_mut(&id) {
                Some(list) if list.contains(&place) => {}
                Some(list) => list.push(place),
                None => unknown.push(format!("{place}: {id}")),
            }
        }
    }
    if !unknown.is_empty() {
        return Err(format!(
            "ids that docs/security/ids.json does not have:\n  {}",
            unknown.join("\n  ")
        ));
    }
    Ok(page(&ids, &tests))
}

fn read_ids() -> Result<Vec<Id>> {
    let path = sh::root().join("docs/security/ids.json");
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let value: serde_json::Value =
        serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?;
    let rows = value
        .get("ids")
        .and_then(|v| v.as_array())
        .ok_or_else(|| format!("{}: no `ids`", path.display()))?;
    rows.iter()
        .map(|row| {
            let member = |key: &str| row.get(key).and_then(|v| v.as_str()).map(str::to_owned);
            match (member("id"), member("title"), member("owner")) {
                (Some(id), Some(title), Some(owner)) => Ok(Id { id, title, owner }),
                _ => Err(format!(
                    "{}: {row} needs id, title and owner",
                    path.display()
                )),
            }
        })
        .collect()
}

fn sources() -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for dir in ["gateway", "tests", "xtask", "guest-plugins", "boot-scripts"] {
        collect(&sh::root().join(dir), &mut files)?;
    }
    files.sort();
    Ok(files)
}

fn collect(dir: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Ok(());
    };
    for path in entries.flatten().map(|e| e.path()) {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
        if path.is_dir() {
            if !matches!(name, "target" | "node_modules" | "__pycache__") && !name.starts_with('.')
            {
                collect(&path, into)?;
            }
        } else if matches!(
            path.extension().and_then(|e| e.to_str()),
            Some("rs" | "py" | "mjs")
        ) && name != "coverage.rs"
        {
            into.push(path);
        }
    }
    Ok(())
}

/// Pairs of a test's name (empty: the whole file) and an id, in the order of the text.
fn marks(text: &str) -> Vec<(String, String)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let trimmed = line.trim_start();
        let Some(comment) = ["///", "//!", "//", "#"]
            .iter()
            .find_map(|p| trimmed.strip_prefix(p))
        else {
            continue;
        };
        let Some(list) = comment.trim_start().strip_prefix("Covers:") else {
            continue;
        };
        let whole_file = trimmed.starts_with("//!");
        let name = if whole_file {
            String::new()
        } else {
            lines[at + 1..]
                .iter()
                .take(30)
                .find_map(|l| function_name(l))
                .unwrap_or_default()
        };
        for id in list
            .split(|c: char| !c.is_ascii_alphanumeric())
            .filter(|id| is_id(id))
        {
            found.push((name.clone(), id.to_owned()));
        }
    }
    found
}

fn is_id(word: &str) -> bool {
    let digits = word.trim_start_matches(|c: char| c.is_ascii_uppercase());
    let letters = word.len() - digits.len();
    (1..=2).contains(&letters) && !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit())
}

/// The function that a line begins, in Rust, Python or JavaScript; for JavaScript also `check("name", …)`.
fn function_name(line: &str) -> Option<String> {
    let line = line.trim_start();
    for quoted in [
        "check(\"",
        "await check(\"",
        "check('",
        "await check('",
        "with check(\"",
    ] {
        if let Some(rest) = line.strip_prefix(quoted) {
            return rest.split(['"', '\'']).next().map(str::to_owned);
        }
    }
    let mut rest = line;
    for word in ["pub ", "async ", "export "] {
        rest = rest.strip_prefix(word).unwrap_or(rest);
    }
    let after = ["fn ", "def ", "function "]
        .iter()
        .find_map(|w| rest.strip_prefix(w))?;
    let name: String = after
        .chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect();
    (!name.is_empty()).then_some(name)
}

fn page(ids: &[Id], tests: &BTreeMap<String, Vec<String>>) -> Coverage {
    let none = Vec::new();
    let of = |id: &str| tests.get(id).unwrap_or(&none);
    let covered = ids.iter().filter(|i| !of(&i.id).is_empty()).count();
    let mut page = String::from(
        "# Attacks, faults and tenant rules, and the tests that cover them\n\n\
         Written by `cargo xtask schema` from `docs/security/ids.json` and the `Covers:` comments of the tests; `cargo xtask test` checks it.\n\n",
    );
    page += &format!(
        "{covered} of {} ids have a test.\n\n| stage | ids | with a test |\n|-|-|-|\n",
        ids.len()
    );
    let mut owners: Vec<&str> = Vec::new();
    for id in ids {
        if !owners.contains(&id.owner.as_str()) {
            owners.push(&id.owner);
        }
    }
    for owner in &owners {
        let own: Vec<&Id> = ids.iter().filter(|i| i.owner == *owner).collect();
        let with = own.iter().filter(|i| !of(&i.id).is_empty()).count();
        page += &format!("| {owner} | {} | {with} |\n", own.len());
    }
    page += "\n| id | what | stage | tests |\n|-|-|-|-|\n";
    for id in ids {
        let cell = of(&id.id)
            .iter()
            .map(|t| format!("`{t}`"))
            .collect::<Vec<_>>()
            .join("<br>");
        page += &format!(
            "| {} | {} | {} | {} |\n",
            id.id,
            id.title,
            id.owner,
            if cell.is_empty() { "–" } else { &cell }
        );
    }
    let spine_open = ids
        .iter()
        .filter(|i| i.owner == "spine" && of(&i.id).is_empty())
        .map(|i| i.id.clone())
        .collect();
    Coverage {
        page,
        covered,
        spine_open,
        total: ids.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_of_all_languages_are_found() {
        let text = "\
/// Covers: B3, A11.\n#[tokio::test]\nasync fn one() {}\n\
// Covers: F1\nawait check(\"two words\", async () => {});\n\
# Covers: N4 MT10.\ndef three():\n\
//! Covers: W3.\n\
/// Not it: B9.\nfn four() {}\n";
        let found = marks(text);
        let found: Vec<(&str, &str)> = found
            .iter()
            .map(|(n, i)| (n.as_str(), i.as_str()))
            .collect();
        assert_eq!(
            found,
            [
                ("one", "B3"),
                ("one", "A11"),
                ("two words", "F1"),
                ("three", "N4"),
                ("three", "MT10"),
                ("", "W3")
            ]
        );
    }

    #[test]
    fn words_that_are_no_ids_are_left_out() {
        for (word, expect) in [
            ("B3", true),
            ("MT10", true),
            ("A", false),
            ("3", false),
            ("ABC1", false),
            ("b3", false),
            ("B3x", false),
        ] {
            assert_eq!(is_id(word), expect, "{word}");
        }
    }
}
