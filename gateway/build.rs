//! How the binary is linked, and which plugins it carries.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The first glibc whose loader reads packed relocations.
const RELR_SINCE: (u32, u32) = (2, 36);

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let target = |name: &str| std::env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    let here = std::env::var("HOST").ok() == std::env::var("TARGET").ok();
    // The loader reads the table of relocations as a whole at each start, and it stays resident: 24 bytes for each, or a
    // few bits when they are packed. A binary that is built on an older system, or for another one, keeps the table.
    if here && target("OS") == "linux" && target("ENV") == "gnu" && glibc() >= Some(RELR_SINCE) {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
    if std::env::var_os("CARGO_FEATURE_BUNDLED").is_some()
        && let Err(why) = bundle()
    {
        println!("cargo::error=feature `bundled`: {why}");
    }
}

/// Writes the list of plugins that `src/bundled.rs` includes, with copies of their files, so that a build that is under way sees no
/// other ones.
fn bundle() -> Result<(), String> {
    println!("cargo:rerun-if-env-changed=GATEWAY_BUNDLED_DIR");
    let var = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let from = var("GATEWAY_BUNDLED_DIR")
        .or_else(|| Some(var("CARGO_MANIFEST_DIR")?.join("../target/guests")))
        .ok_or("cargo names no directory of the package")?;
    let out = var("OUT_DIR").ok_or("cargo names no directory for output")?;
    println!("cargo:rerun-if-changed={}", from.display());
    let mut dirs: Vec<PathBuf> = std::fs::read_dir(&from)
        .map_err(|e| format!("{}: {e}; `cargo xtask guests` builds them", from.display()))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|dir| dir.join("plugin.toml").is_file())
        .collect();
    dirs.sort();
    let mut list = String::from("&[\n");
    for dir in dirs {
        let id = dir.file_name().and_then(|n| n.to_str());
        let id = id.ok_or_else(|| format!("{}: not a name", dir.display()))?;
        let component = format!("{id}.wasm");
        let mut copies = Vec::new();
        for name in ["plugin.toml", component.as_str()] {
            copies.push(copied(
                &dir.join(name),
                &out.join("bundled").join(id),
                name,
            )?);
        }
        // Writing into a String does not fail.
        let _ = writeln!(
            list,
            "({id:?}, include_bytes!({:?}), include_bytes!({:?})),",
            copies[0], copies[1]
        );
    }
    list.push(']');
    let path = out.join("bundled.rs");
    std::fs::write(&path, list).map_err(|e| format!("{}: {e}", path.display()))
}

fn copied(file: &Path, into: &Path, name: &str) -> Result<PathBuf, String> {
    println!("cargo:rerun-if-changed={}", file.display());
    let to = into.join(name);
    std::fs::create_dir_all(into).map_err(|e| format!("{}: {e}", into.display()))?;
    std::fs::copy(file, &to).map_err(|e| format!("{}: {e}", file.display()))?;
    Ok(to)
}

/// The version of this system's glibc.
fn glibc() -> Option<(u32, u32)> {
    let out = Command::new("getconf")
        .arg("GNU_LIBC_VERSION")
        .output()
        .ok()?;
    let text = String::from_utf8(out.stdout).ok()?;
    let (major, minor) = text.trim().strip_prefix("glibc ")?.split_once('.')?;
    let minor = minor.split('.').next()?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
