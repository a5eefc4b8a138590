//! `cargo xtask dist`: what a person downloads. One archive with the program, which carries the shipped guests in itself, its manual
//! pages, completions, files to deploy it and documents; its bill of materials; and the sums of both. It is tried before it is told of.

mod archive;
mod notices;
mod parts;
mod sbom;
mod trial;

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use archive::Entry;
use parts::{FEATURE, PACKAGE, Parts};

use crate::ui::{Result, Steps};
use crate::{guests, sh, tools};

/// The largest archive that is released, in bytes.
const MAX_ARCHIVE_BYTES: usize = 30_000_000;
/// Files of the project's folder that go along.
const FILES: [&str; 7] = [
    "README.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "LICENSE-APACHE",
    "LICENSE-MIT",
];
/// Folders that go along, as they are.
const FOLDERS: [&str; 3] = ["deploy", "docs", "wit"];
/// Shells whose completion goes along, with the name of its file.
const SHELLS: [(&str, &str); 3] = [
    ("bash", "gateway.bash"),
    ("zsh", "_gateway"),
    ("fish", "gateway.fish"),
];

/// Where the archive and its companions are put.
fn dist_dir() -> PathBuf {
    sh::target_dir().join("dist")
}

/// How the program is built.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Build {
    /// For others: no path of this machine is in it. The flags for that are its own, and so is its folder.
    Release,
    /// To try the rest on this machine: what other release builds have compiled is used again.
    Quick,
}

impl Build {
    fn dir(self) -> PathBuf {
        match self {
            Self::Release => sh::target_dir().join("dist-build"),
            Self::Quick => sh::target_dir(),
        }
    }

    fn binary(self) -> PathBuf {
        self.dir().join("release").join(PACKAGE)
    }
}

/// The command.
pub fn main(args: &[String]) -> Result<()> {
    let how = match args {
        [] => Build::Release,
        [flag] if flag == "--quick" => Build::Quick,
        _ => return Err("usage: cargo xtask dist [--quick]".to_owned()),
    };
    let mut steps = Steps::new("dist");
    let done = run(&mut steps, how).is_some();
    steps.summary();
    steps.into_result()?;
    if done {
        println!("\nin {}", dist_dir().display());
        if how == Build::Quick {
            println!("not for others: paths of this machine are in the program");
        }
    }
    Ok(())
}

fn run(steps: &mut Steps, how: Build) -> Option<()> {
    steps.run("C compiler", || tools::ensure_cc().map(|()| String::new()))?;
    if !guests::build(steps) {
        return None;
    }
    let mut target = String::new();
    steps.run("build gateway", || {
        target = sh::host_target()?;
        build(&target, how)?;
        let size = std::fs::metadata(how.binary())
            .map_err(|e| e.to_string())?
            .len();
        Ok(format!("{target}, {}", megabytes(size)))
    })?;
    let mut made = None;
    steps.run("dependencies", || {
        let bill = Bill::make(&target, how)?;
        let note = format!("{} crates", bill.crates);
        made = Some(bill);
        Ok(note)
    })?;
    let bill = made?;
    let name = format!("{PACKAGE}-{}-{target}", env!("CARGO_PKG_VERSION"));
    let packed = dist_dir().join(format!("{name}.tar.gz"));
    steps.run("archive", || {
        let _ = std::fs::remove_dir_all(dist_dir());
        std::fs::create_dir_all(dist_dir()).map_err(|e| e.to_string())?;
        let entries = entries(&bill, how)?;
        let count = entries.len();
        let bytes = archive::pack(&name, entries, bill.time)?;
        let size = bytes.len();
        let listed = dist_dir().join(format!("{name}.cdx.json"));
        sh::write_atomic(&packed, &bytes)?;
        sh::write_atomic(&listed, bill.sbom.as_bytes())?;
        let sums = archive::sums(&[&packed, &listed])?;
        sh::write_atomic(&dist_dir().join("SHA256SUMS"), sums.as_bytes())?;
        let note = format!("{count} files, {}", megabytes(size as u64));
        if size > MAX_ARCHIVE_BYTES {
            return Err(format!(
                "{note}: more than {}",
                megabytes(MAX_ARCHIVE_BYTES as u64)
            ));
        }
        Ok(note)
    })?;
    steps.run("try it", || trial::run(&packed, &name))?;
    Some(())
}

fn megabytes(bytes: u64) -> String {
    format!("{}.{} MB", bytes / 1_000_000, bytes % 1_000_000 / 100_000)
}

fn build(target: &str, how: Build) -> Result<()> {
    // The sources have to be there: their places are part of the flags.
    sh::run(sh::cargo().args(["fetch", "--locked", "--target", target]))?;
    let mut cmd = sh::cargo();
    cmd.args(["build", "--locked", "--release", "--package", PACKAGE])
        .args(["--bin", PACKAGE, "--features", FEATURE, "--target-dir"])
        .arg(how.dir())
        .env("GATEWAY_BUNDLED_DIR", guests::guests_dir());
    if how == Build::Release {
        cmd.env("CARGO_ENCODED_RUSTFLAGS", rust_flags()?.join("\u{1f}"));
    }
    sh::run(&mut cmd)
}

/// The flags of the user, and those that take the places of this machine out of the program.
fn rust_flags() -> Result<Vec<String>> {
    let given = std::env::var("RUSTFLAGS").unwrap_or_default();
    let mut flags: Vec<String> = given.split_whitespace().map(str::to_owned).collect();
    let mut remap = |from: &Path, to: &str| {
        flags.push(format!("--remap-path-prefix={}={to}", from.display()));
    };
    remap(&sh::root(), "/gateway");
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|h| Path::new(&h).join(".cargo")))
        .ok_or("neither CARGO_HOME nor HOME is set")?;
    let sources = home.join("registry/src");
    let dirs = std::fs::read_dir(&sources).map_err(|e| format!("{}: {e}", sources.display()))?;
    let mut dirs: Vec<PathBuf> = dirs.flatten().map(|e| e.path()).collect();
    dirs.sort();
    for dir in dirs {
        remap(&dir, "/crates");
    }
    Ok(flags)
}

/// What is told of the parts.
struct Bill {
    crates: usize,
    sbom: String,
    notices: String,
    /// When the release counts as made, Unix seconds: the same sources give the same archive.
    time: u64,
}

impl Bill {
    fn make(target: &str, how: Build) -> Result<Self> {
        let packages: Vec<String> = guests::names()?.into_values().collect();
        let parts = Parts::find(target, &packages)?;
        let time = source_time()?;
        let binary = std::fs::read(how.binary()).map_err(|e| e.to_string())?;
        let release = sbom::Release {
            target,
            binary: archive::sha256(&binary),
            time: &sh::output(Command::new("date").args([
                "-u",
                "-d",
                &format!("@{time}"),
                "+%Y-%m-%dT%H:%M:%SZ",
            ]))?,
            sqlite: parts::sqlite_version(&parts)?,
        };
        let document = sbom::document(&parts, &release)?;
        Ok(Self {
            crates: parts.all.values().filter(|p| p.linked).count(),
            sbom: serde_json::to_string_pretty(&document).map_err(|e| e.to_string())? + "\n",
            notices: notices::text(&parts, &release.sqlite)?,
            time,
        })
    }
}

/// `SOURCE_DATE_EPOCH`, else the time of the commit, else the epoch.
fn source_time() -> Result<u64> {
    if let Ok(given) = std::env::var("SOURCE_DATE_EPOCH") {
        return given
            .parse()
            .map_err(|_| format!("SOURCE_DATE_EPOCH={given} is not a number of seconds"));
    }
    let mut git = Command::new("git");
    git.args(["log", "-1", "--format=%ct"])
        .current_dir(sh::root());
    Ok(sh::output(&mut git)
        .ok()
        .and_then(|t| t.parse().ok())
        .unwrap_or(0))
}

/// Everything that goes into the archive.
fn entries(bill: &Bill, how: Build) -> Result<Vec<Entry>> {
    let read = |path: &Path| std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()));
    let mut entries = vec![
        Entry {
            program: true,
            ..Entry::file(PACKAGE, read(&how.binary())?)
        },
        Entry::file("sbom.cdx.json", bill.sbom.clone().into_bytes()),
        Entry::file("THIRD-PARTY-NOTICES.txt", bill.notices.clone().into_bytes()),
    ];
    for name in FILES {
        entries.push(Entry::file(name, read(&sh::root().join(name))?));
    }
    for name in FOLDERS {
        folder(&sh::root().join(name), name, &mut entries)?;
    }
    let pages = sh::target_dir().join("dist-man");
    let _ = std::fs::remove_dir_all(&pages);
    sh::output(Command::new(how.binary()).arg("man").arg(&pages))?;
    folder(&pages, "man/man1", &mut entries)?;
    for (shell, file) in SHELLS {
        // What it prints names the program as it was called.
        let script = sh::output(
            Command::new(how.binary())
                .arg0(PACKAGE)
                .env("COMPLETE", shell),
        )?;
        entries.push(Entry::file(
            format!("completions/{file}"),
            (script + "\n").into_bytes(),
        ));
    }
    Ok(entries)
}

fn folder(dir: &Path, under: &str, into: &mut Vec<Entry>) -> Result<()> {
    let found = std::fs::read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    for entry in found.flatten() {
        let path = entry.path();
        let name = format!("{under}/{}", entry.file_name().to_string_lossy());
        if path.is_dir() {
            folder(&path, &name, into)?;
        } else {
            let bytes = std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            into.push(Entry::file(name, bytes));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_goes_along_is_there() {
        for name in FILES {
            assert!(sh::root().join(name).is_file(), "{name}");
        }
        for name in FOLDERS {
            let mut files = Vec::new();
            folder(&sh::root().join(name), name, &mut files).unwrap();
            assert!(
                files
                    .iter()
                    .all(|f| f.path.starts_with(&format!("{name}/")))
            );
            assert!(!files.is_empty(), "{name}");
        }
    }

    #[test]
    fn sizes_are_told_in_megabytes() {
        assert_eq!(megabytes(29_990_000), "29.9 MB");
        assert_eq!(megabytes(1_000), "0.0 MB");
    }
}
