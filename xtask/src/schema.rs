//! `cargo xtask schema [--check]`: the generated pages under `docs/`.

use std::path::Path;

use crate::ui::{Result, Steps};
use crate::{coverage, sh};

/// Files that the example `schema` of package `gateway` writes.
const GENERATED: [&str; 5] = [
    "protocol.md",
    "compat.md",
    "openrpc.json",
    "openapi.json",
    "config.schema.json",
];

/// The command.
pub fn main(args: &[String]) -> Result<()> {
    let check = match args {
        [] => false,
        [flag] if flag == "--check" => true,
        _ => return Err("usage: cargo xtask schema [--check]".to_owned()),
    };
    let mut steps = Steps::new("schema");
    steps.run("security coverage", || {
        settle_coverage(check).map(|c| c.line())
    });
    steps.run("protocol and config pages", || {
        let out = sh::target_dir().join("schema");
        let mut cmd = sh::cargo();
        cmd.args(["run", "--locked", "--quiet", "-p", "gateway"])
            .args(["--example", "schema"]);
        sh::run(crate::test::with_features(&mut cmd).arg("--").arg(&out))?;
        settle(&out, check)
    });
    steps.summary();
    steps.into_result()
}

/// Compares what an example that is built already writes. For the test command.
pub fn check_with(example: &Path) -> Result<String> {
    let out = sh::target_dir().join("schema");
    std::fs::create_dir_all(&out).map_err(|e| format!("{}: {e}", out.display()))?;
    sh::run(
        std::process::Command::new(example)
            .arg(&out)
            .current_dir(sh::root()),
    )?;
    settle(&out, true)
}

fn settle(out: &Path, check: bool) -> Result<String> {
    let mut changed = Vec::new();
    for name in GENERATED {
        let made = std::fs::read(out.join(name))
            .map_err(|e| format!("{}: {e}", out.join(name).display()))?;
        if settle_file(&sh::root().join("docs").join(name), &made, check)? {
            changed.push(format!("docs/{name}"));
        }
    }
    outcome(&changed, check)
}

/// Writes or checks the coverage page.
///
/// # Errors
/// Unknown ids, or with `check` a page that is not what the sources give.
pub fn settle_coverage(check: bool) -> Result<coverage::Coverage> {
    let found = coverage::read()?;
    let path = sh::root().join("docs/security/coverage.md");
    if settle_file(&path, found.page.as_bytes(), check)? && check {
        return outcome(&["docs/security/coverage.md".to_owned()], true).map(|_| found);
    }
    Ok(found)
}

/// True when the file is not (or was not) what was made.
fn settle_file(path: &Path, made: &[u8], check: bool) -> Result<bool> {
    if std::fs::read(path).is_ok_and(|had| had == made) {
        return Ok(false);
    }
    if !check {
        sh::write_atomic(path, made)?;
    }
    Ok(true)
}

fn outcome(changed: &[String], check: bool) -> Result<String> {
    match (changed.is_empty(), check) {
        (true, _) => Ok("up to date".to_owned()),
        (false, false) => Ok(format!("wrote {}", changed.join(" "))),
        (false, true) => Err(format!(
            "out of date: {}\nNext: cargo xtask schema, and commit what it writes",
            changed.join(" ")
        )),
    }
}
