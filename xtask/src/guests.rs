//! `cargo xtask guests`: builds every Rust guest to `target/guests/<id>/{plugin.toml,<id>.wasm}`.
//!
//! The guests are core modules for wasm32-unknown-unknown; the gateway makes components of them when it loads them.
//! A guest whose inputs did not change is not built again.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::ui::{Result, Steps};
use crate::{sh, tools};

const TARGET: &str = "wasm32-unknown-unknown";

/// A guest: a package with a `plugin.toml`.
#[derive(Debug, Clone)]
struct Guest {
    id: String,
    package: String,
    dir: PathBuf,
}

/// Where the built guests are.
pub fn guests_dir() -> PathBuf {
    sh::target_dir().join("guests")
}

/// The command.
pub fn main() -> Result<()> {
    let mut steps = Steps::new("guests");
    build(&mut steps);
    steps.summary();
    steps.into_result()
}

/// Builds the guests as steps of a longer command; false if one failed.
pub fn build(steps: &mut Steps) -> bool {
    let mut guests = Vec::new();
    let found = steps.run("find guests", || {
        guests = find_guests()?;
        Ok(guests
            .iter()
            .map(|g| g.id.as_str())
            .collect::<Vec<_>>()
            .join(" "))
    });
    if found.is_none() {
        return false;
    }
    let mut stale = Vec::new();
    let checked = steps.run("compare inputs", || {
        for guest in &guests {
            let hash = input_hash(guest)?;
            let built = guests_dir()
                .join(&guest.id)
                .join(format!("{}.wasm", guest.id))
                .exists();
            let same = std::fs::read_to_string(stamp_path(guest)).is_ok_and(|had| had == hash);
            if !(built && same) {
                stale.push((guest.clone(), hash));
            }
        }
        Ok(format!(
            "{} up to date, {} to build",
            guests.len() - stale.len(),
            stale.len()
        ))
    });
    if checked.is_none() {
        return false;
    }
    remove_others(&guests);
    if stale.is_empty() {
        return true;
    }
    let mut toolchain = None;
    let chosen = steps.run("wasm toolchain", || {
        let found = Toolchain::find()?;
        let note = found.describe();
        toolchain = Some(found);
        Ok(note)
    });
    let (Some(_), Some(toolchain)) = (chosen, toolchain) else {
        return false;
    };
    let built = steps.run("build guests", || {
        let build_dir = sh::target_dir().join("guests-build");
        let mut cmd = toolchain.cargo();
        cmd.current_dir(sh::root().join("guest-plugins"));
        cmd.args([
            "build",
            "--locked",
            "--release",
            "--target",
            TARGET,
            "--target-dir",
        ])
        .arg(&build_dir)
        .args(toolchain.build_flags());
        for (guest, _) in &stale {
            cmd.args(["-p", &guest.package]);
        }
        sh::run(&mut cmd)?;
        let mut notes = Vec::new();
        for (guest, hash) in &stale {
            notes.push(place(guest, hash, &build_dir)?);
        }
        Ok(notes.join(", "))
    });
    if built.is_none() {
        return false;
    }
    let Some((telegram, _)) = stale.iter().find(|(guest, _)| guest.id == "telegram") else {
        return true;
    };
    let chaos = steps.run("build the trapping test guest", || {
        let build_dir = sh::target_dir().join("guests-build");
        let mut cmd = toolchain.cargo();
        cmd.current_dir(sh::root().join("guest-plugins"));
        cmd.args(["build", "--locked", "--release", "--features", "chaos"]);
        cmd.args(["--target", TARGET, "-p", &telegram.package, "--target-dir"]);
        cmd.arg(&build_dir).args(toolchain.build_flags());
        sh::run(&mut cmd)?;
        place_files(telegram, &build_dir, &test_guests_dir())
    });
    chaos.is_some()
}

/// Where guests are that only tests use: Telegram's with traps at random.
pub fn test_guests_dir() -> PathBuf {
    sh::target_dir().join("test-guests")
}

/// Id → package of all guests.
pub fn names() -> Result<BTreeMap<String, String>> {
    Ok(find_guests()?
        .into_iter()
        .map(|guest| (guest.id, guest.package))
        .collect())
}

/// All folders of `guest-plugins/` and `boot-scripts/` with a `plugin.toml`.
fn find_guests() -> Result<Vec<Guest>> {
    let mut guests = Vec::new();
    for parent in ["guest-plugins", "boot-scripts"] {
        let parent = sh::root().join(parent);
        let Ok(entries) = std::fs::read_dir(&parent) else {
            continue;
        };
        for dir in entries.flatten().map(|e| e.path()) {
            if !dir.join("plugin.toml").is_file() || !dir.join("Cargo.toml").is_file() {
                continue;
            }
            let id = toml_string(&dir.join("plugin.toml"), "id")?;
            let package = toml_string(&dir.join("Cargo.toml"), "name")?;
            guests.push(Guest { id, package, dir });
        }
    }
    guests.sort_by(|a, b| a.id.cmp(&b.id));
    if let Some(pair) = guests.windows(2).find(|p| p[0].id == p[1].id) {
        return Err(format!(
            "{} and {} have the same id `{}`",
            pair[0].dir.display(),
            pair[1].dir.display(),
            pair[0].id
        ));
    }
    Ok(guests)
}

/// The first `key = "value"` of a TOML file. Enough for `id` and `name`, which stand at the top.
fn toml_string(path: &Path, key: &str) -> Result<String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    text.lines()
        .filter_map(|line| {
            line.trim()
                .strip_prefix(key)?
                .trim_start()
                .strip_prefix('=')
        })
        .filter_map(|rest| {
            rest.trim()
                .strip_prefix('"')?
                .split('"')
                .next()
                .map(str::to_owned)
        })
        .find(|value| {
            !value.is_empty()
                && value
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
        })
        .ok_or_else(|| format!("{}: no `{key} = \"…\"`", path.display()))
}

fn stamp_path(guest: &Guest) -> PathBuf {
    sh::target_dir().join("guests-build/stamps").join(&guest.id)
}

/// A hash over all that the guest is built from.
fn input_hash(guest: &Guest) -> Result<String> {
    let root = sh::root();
    let plugins = root.join("guest-plugins");
    let mut files = Vec::new();
    for dir in [&guest.dir, &plugins.join("sdk"), &root.join("wit")] {
        collect_files(dir, &mut files)?;
    }
    files.push(plugins.join("Cargo.toml"));
    files.push(plugins.join("Cargo.lock"));
    files.sort();
    let mut hasher = DefaultHasher::new();
    for file in files {
        let bytes = std::fs::read(&file).map_err(|e| format!("{}: {e}", file.display()))?;
        file.strip_prefix(&root).unwrap_or(&file).hash(&mut hasher);
        bytes.hash(&mut hasher);
    }
    Ok(format!("{:016x}", hasher.finish()))
}

fn collect_files(dir: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    let entries = std::fs::read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    for path in entries.flatten().map(|e| e.path()) {
        if path.is_dir() {
            if path
                .file_name()
                .is_some_and(|n| n != "target" && n != "node_modules")
            {
                collect_files(&path, into)?;
            }
        } else {
            into.push(path);
        }
    }
    Ok(())
}

/// Puts the module and its manifest where the gateway looks for them.
fn place(guest: &Guest, hash: &str, build_dir: &Path) -> Result<String> {
    let note = place_files(guest, build_dir, &guests_dir())?;
    // Last, so that a run that was ended before builds again.
    sh::write_atomic(&stamp_path(guest), hash.as_bytes())?;
    Ok(note)
}

fn place_files(guest: &Guest, build_dir: &Path, into: &Path) -> Result<String> {
    let module = build_dir
        .join(TARGET)
        .join("release")
        .join(format!("{}.wasm", guest.package.replace('-', "_")));
    let bytes = std::fs::read(&module).map_err(|e| format!("{}: {e}", module.display()))?;
    if !bytes.starts_with(b"\0asm") {
        return Err(format!("{} is not a wasm module", module.display()));
    }
    let to = into.join(&guest.id);
    sh::write_atomic(&to.join(format!("{}.wasm", guest.id)), &bytes)?;
    let manifest = std::fs::read(guest.dir.join("plugin.toml")).map_err(|e| e.to_string())?;
    sh::write_atomic(&to.join("plugin.toml"), &manifest)?;
    Ok(format!("{} {} KiB", guest.id, bytes.len().div_ceil(1024)))
}

/// Folders of guests that are gone from the sources.
fn remove_others(guests: &[Guest]) {
    let Ok(entries) = std::fs::read_dir(guests_dir()) else {
        return;
    };
    for path in entries.flatten().map(|e| e.path()) {
        let known = path
            .file_name()
            .and_then(|n| n.to_str())
            .is_some_and(|n| guests.iter().any(|g| g.id == n));
        if !known && path.join("plugin.toml").is_file() && std::fs::remove_dir_all(&path).is_ok() {
            println!("  removed {}", path.display());
        }
    }
}

/// How wasm32-unknown-unknown is built on this machine.
enum Toolchain {
    /// The toolchain that runs us has the target.
    Rustup,
    /// Debian's compiler with the standard library's sources (`-Zbuild-std`), linked by rustup's rust-lld.
    Debian {
        root: PathBuf,
        lld: PathBuf,
        version: String,
    },
}

impl Toolchain {
    /// Takes what is there, else gets it: `rustup target add`, else Debian's packages.
    /// `GATEWAY_WASM_TOOLCHAIN` = rustup | debian | unpack picks one (unpack: Debian's packages below target/).
    fn find() -> Result<Self> {
        let wish = std::env::var("GATEWAY_WASM_TOOLCHAIN").unwrap_or_default();
        match wish.as_str() {
            "rustup" => return Self::rustup().or_else(|_| Self::rustup_add()),
            "debian" => return Self::debian(Path::new("/")),
            "unpack" => return Self::unpacked(),
            "" => {}
            other => {
                return Err(format!(
                    "GATEWAY_WASM_TOOLCHAIN={other}: must be rustup, debian or unpack"
                ));
            }
        }
        if let Ok(found) = Self::rustup()
            .or_else(|_| Self::debian(Path::new("/")))
            .or_else(|_| Self::debian(&tools::deb_root()))
        {
            return Ok(found);
        }
        let rustup = match Self::rustup_add() {
            Ok(found) => return Ok(found),
            Err(why) => why,
        };
        println!("  {rustup}; trying Debian's rustc-web");
        if sh::which("apt-get").is_none() {
            return Err(format!(
                "no way to compile for {TARGET}: {rustup}, and there is no apt-get.\nNext: rustup target add {TARGET}"
            ));
        }
        let installed = tools::apt_install(&["rustc-web", "cargo-web", "rust-web-src"])
            .and_then(|()| Self::debian(Path::new("/")));
        match installed {
            Ok(found) => Ok(found),
            Err(why) => {
                println!(
                    "  {why}; unpacking the packages below {}",
                    tools::deb_root().display()
                );
                Self::unpacked().map_err(|e| {
                    format!("no way to compile for {TARGET}: {rustup}; {e}\nNext: rustup target add {TARGET}, or sudo apt-get install rustc-web cargo-web rust-web-src")
                })
            }
        }
    }

    fn rustup() -> Result<Self> {
        Self::rustup_of(Path::new("rustc"))
    }

    /// The toolchain of this compiler, if it has the standard library of the target.
    fn rustup_of(rustc: &Path) -> Result<Self> {
        let dir =
            sh::output(Command::new(rustc).args(["--print", "target-libdir", "--target", TARGET]))?;
        let has_std = std::fs::read_dir(&dir)
            .map_err(|e| format!("{dir}: {e}"))?
            .flatten()
            .any(|f| f.file_name().to_string_lossy().starts_with("libstd-"));
        if has_std {
            Ok(Self::Rustup)
        } else {
            Err(format!("{dir} holds no standard library"))
        }
    }

    fn rustup_add() -> Result<Self> {
        let rustup = sh::which("rustup").ok_or_else(|| "no rustup on PATH".to_owned())?;
        Self::rustup_add_by(&rustup, Path::new("rustc"))
    }

    fn rustup_add_by(rustup: &Path, rustc: &Path) -> Result<Self> {
        sh::run_at_most(
            Command::new(rustup).args(["target", "add", TARGET]),
            Duration::from_secs(120),
        )?;
        Self::rustup_of(rustc)
    }

    fn unpacked() -> Result<Self> {
        tools::apt_unpack(&[
            "rustc-web",
            "cargo-web",
            "rust-web-src",
            "libstd-rust-web-dev",
        ])?;
        Self::debian(&tools::deb_root())
    }

    fn debian(root: &Path) -> Result<Self> {
        let missing = |p: PathBuf| {
            if p.exists() {
                Ok(())
            } else {
                Err(format!("no {}", p.display()))
            }
        };
        let rustc = root.join("usr/bin/rustc");
        missing(rustc.clone())?;
        missing(root.join("usr/bin/cargo"))?;
        missing(root.join("usr/lib/rustlib/src/rust/library/std/Cargo.toml"))?;
        let mut ask = Command::new(&rustc);
        with_libraries(&mut ask, root);
        let version = sh::output(ask.arg("--version"))?;
        let sysroot = sh::output(Command::new("rustc").args(["--print", "sysroot"]))?;
        let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let lld = PathBuf::from(sysroot)
            .join("lib/rustlib")
            .join(host)
            .join("bin/rust-lld");
        let lld = if lld.exists() {
            lld
        } else {
            sh::which("wasm-ld").ok_or_else(|| format!("no {} and no wasm-ld", lld.display()))?
        };
        Ok(Self::Debian {
            root: root.to_path_buf(),
            lld,
            version,
        })
    }

    fn describe(&self) -> String {
        match self {
            Self::Rustup => format!("rustup's {TARGET}"),
            Self::Debian { root, version, .. } if root == Path::new("/") => {
                format!("Debian's {version} with build-std")
            }
            Self::Debian { root, version, .. } => {
                format!("Debian's {version} below {} with build-std", root.display())
            }
        }
    }

    /// Debian's compiler is older than the one of the project. What guests use of the language is in it (this build is the test).
    fn build_flags(&self) -> &'static [&'static str] {
        match self {
            Self::Rustup => &[],
            Self::Debian { .. } => &["--ignore-rust-version"],
        }
    }

    fn cargo(&self) -> Command {
        match self {
            Self::Rustup => sh::cargo(),
            Self::Debian { root, lld, .. } => {
                let mut cmd = Command::new(root.join("usr/bin/cargo"));
                sh::scrub(&mut cmd);
                with_libraries(&mut cmd, root);
                cmd.env("RUSTC_BOOTSTRAP", "1")
                    .env("RUSTC", root.join("usr/bin/rustc"))
                    .env_remove("RUSTUP_TOOLCHAIN")
                    .env("RUSTFLAGS", format!("-Clinker={}", lld.display()))
                    .arg("-Zbuild-std=std,panic_abort");
                cmd
            }
        }
    }
}

fn with_libraries(cmd: &mut Command, root: &Path) {
    if root != Path::new("/") {
        cmd.env("LD_LIBRARY_PATH", tools::deb_library_path());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(path: &Path, text: &str) {
        use std::os::unix::fs::PermissionsExt;
        assert!(std::fs::write(path, format!("#!/bin/sh\n{text}\n")).is_ok());
        assert!(std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).is_ok());
    }

    /// With stand-ins for `rustc` and `rustup`: where the target can't be had, this is all that can be shown of that way.
    #[test]
    fn a_toolchain_that_has_the_target_is_taken_and_one_that_gets_it_too() {
        let dir = std::env::temp_dir().join(format!("xtask-rustup-{}", std::process::id()));
        let libraries = dir.join("lib");
        assert!(std::fs::create_dir_all(&libraries).is_ok());
        let (rustc, rustup, broken) = (dir.join("rustc"), dir.join("rustup"), dir.join("broken"));
        script(
            &rustc,
            &format!(
                "[ \"$*\" = '--print target-libdir --target {TARGET}' ] && echo '{}'",
                libraries.display()
            ),
        );
        script(&broken, "echo 'the network is not there' >&2; exit 1");
        script(
            &rustup,
            &format!(
                "[ \"$*\" = 'target add {TARGET}' ] && touch '{}/libstd-0123456789abcdef.rlib'",
                libraries.display()
            ),
        );
        let without = Toolchain::rustup_of(&rustc);
        assert!(without.is_err_and(|why| why.contains("no standard library")));
        assert!(Toolchain::rustup_of(&dir.join("none")).is_err());
        assert!(Toolchain::rustup_add_by(&broken, &rustc).is_err());
        let got = Toolchain::rustup_add_by(&rustup, &rustc);
        assert!(matches!(got, Ok(Toolchain::Rustup)));
        assert!(matches!(
            Toolchain::rustup_of(&rustc),
            Ok(Toolchain::Rustup)
        ));
        assert!(std::fs::remove_dir_all(&dir).is_ok());
    }

    #[test]
    fn manifest_strings_are_read_and_odd_ones_refused() {
        let dir = std::env::temp_dir().join(format!("xtask-guests-{}", std::process::id()));
        assert!(std::fs::create_dir_all(&dir).is_ok());
        let check = |text: &str, expect: Option<&str>| {
            let path = dir.join("plugin.toml");
            assert!(std::fs::write(&path, text).is_ok());
            assert_eq!(toml_string(&path, "id").ok().as_deref(), expect, "{text}");
        };
        check("schema = 1\nid = \"web-hook\" # the id\n", Some("web-hook"));
        check("id=\"a\"", Some("a"));
        check("identity = \"x\"\nid = \"b\"", Some("b"));
        check("id = \"../x\"", None);
        check("id = \"\"", None);
        check("name = \"b\"", None);
        assert!(std::fs::remove_dir_all(&dir).is_ok());
    }
}
