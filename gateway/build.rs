//! How the binary is linked.

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
