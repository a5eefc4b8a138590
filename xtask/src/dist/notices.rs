//! `THIRD-PARTY-NOTICES.txt`: what the licenses of the linked crates ask to be passed on, from the files of their packages.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use super::archive::sha256;
use super::parts::{Part, Parts};
use crate::ui::Result;

/// Beginnings of the names of files that hold licenses and notices, in capitals.
const NAMES: [&str; 6] = [
    "LICENSE",
    "LICENCE",
    "COPYING",
    "COPYRIGHT",
    "NOTICE",
    "UNLICENSE",
];
/// A file that is longer is no license, in bytes.
const MAX_TEXT_BYTES: u64 = 256 * 1024;

/// The texts of one folder, in order of their names.
fn texts(dir: &Path) -> Result<Vec<String>> {
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .map_err(|e| format!("{}: {e}", dir.display()))?
        .flatten()
        .filter(|entry| {
            let name = entry.file_name().to_string_lossy().to_uppercase();
            // `license.rs` is code.
            NAMES.iter().any(|n| name.starts_with(n)) && !name.ends_with(".RS")
        })
        .filter(|entry| {
            entry
                .metadata()
                .is_ok_and(|m| m.is_file() && m.len() <= MAX_TEXT_BYTES)
        })
        .map(|entry| entry.path())
        .collect();
    files.sort();
    files
        .iter()
        .map(|path| {
            let bytes = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
            let text = String::from_utf8_lossy(&bytes);
            let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
            Ok(lines.join("\n").trim_matches('\n').to_owned())
        })
        .collect()
}

/// The whole text: who is in the release under which license, then each license once with those whom it is of.
pub fn text(parts: &Parts, sqlite: &str) -> Result<String> {
    let foreign: Vec<(String, &Part)> = parts
        .all
        .iter()
        .filter(|(_, part)| part.linked && !part.own)
        .map(|((name, version), part)| (format!("{name} {version}"), part))
        .collect();
    let mut of_text: BTreeMap<String, (String, BTreeSet<&str>)> = BTreeMap::new();
    let mut without = Vec::new();
    for (name, part) in &foreign {
        let texts = texts(&part.dir)?;
        if texts.is_empty() {
            without.push(name.as_str());
        }
        for text in texts {
            let entry = of_text
                .entry(sha256(text.as_bytes()))
                .or_insert_with(|| (text, BTreeSet::new()));
            entry.1.insert(name);
        }
    }
    let mut out = String::from(
        "This program contains code of others. Each is used under a license that it names itself; the texts follow.\n\n",
    );
    for (name, part) in &foreign {
        // Writing into a String does not fail.
        let _ = writeln!(out, "{name}: {}", part.license);
    }
    let _ = writeln!(out, "SQLite {sqlite}: public domain");
    if !without.is_empty() {
        let _ = writeln!(
            out,
            "\nThe packages of these hold no text of the license that they name: {}.",
            without.join(", ")
        );
    }
    // By whom they are of first, so that a new text does not move all others.
    let mut all: Vec<_> = of_text.into_values().collect();
    all.sort_by(|a, b| (&a.1, &a.0).cmp(&(&b.1, &b.0)));
    for (text, of) in all {
        let names: Vec<&str> = of.into_iter().collect();
        let _ = write!(
            out,
            "\n{}\n{}\n{}\n\n{text}\n",
            "=".repeat(78),
            names.join(", "),
            "=".repeat(78)
        );
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn each_text_is_told_once_with_all_whom_it_is_of() {
        let dir = std::env::temp_dir().join(format!("xtask-notices-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        let part = |name: &str, files: &[(&str, &str)]| {
            let place = dir.join(name);
            std::fs::create_dir_all(&place).unwrap();
            for (file, text) in files {
                std::fs::write(place.join(file), text).unwrap();
            }
            Part {
                license: "MIT".to_owned(),
                own: false,
                linked: true,
                checksum: None,
                dir: place,
                uses: BTreeSet::new(),
            }
        };
        let mut parts = Parts::default();
        let mut add = |name: &str, part: Part| {
            parts
                .all
                .insert((name.to_owned(), "1.0.0".to_owned()), part);
        };
        add(
            "one",
            part("one", &[("LICENSE-MIT", "Copyright (c) shared\n")]),
        );
        add(
            "two",
            part(
                "two",
                &[
                    ("license.txt", "Copyright (c) shared  \r\n"),
                    ("NOTICE", "Two says hello"),
                    ("license.rs", "fn code() {}"),
                ],
            ),
        );
        add("bare", part("bare", &[("README.md", "nothing")]));
        let mut own = part("own", &[("LICENSE", "ours")]);
        own.own = true;
        add("own", own);
        let mut macros = part("macros", &[("LICENSE", "not in the program")]);
        macros.linked = false;
        add("macros", macros);
        let said = text(&parts, "3.1").unwrap();
        assert_eq!(said.matches("Copyright (c) shared").count(), 1, "{said}");
        assert!(said.contains("\none 1.0.0, two 1.0.0\n"), "{said}");
        assert!(said.contains("Two says hello"), "{said}");
        assert!(
            said.contains("license that they name: bare 1.0.0."),
            "{said}"
        );
        assert!(said.contains("SQLite 3.1: public domain"), "{said}");
        for absent in ["code()", "ours", "not in the program", "nothing"] {
            assert!(!said.contains(absent), "{absent}: {said}");
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
