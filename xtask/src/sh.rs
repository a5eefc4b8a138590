//! Running other programs, and where the project is.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::ui::{Count, Result};

/// Folder of the workspace (the parent of this package).
pub fn root() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent().map(Path::to_path_buf).unwrap_or(here)
}

/// Cargo's target folder: everything that this program makes goes below it.
pub fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) if !dir.is_empty() => root().join(dir),
        _ => root().join("target"),
    }
}

/// A cargo command of the toolchain that runs this program, in the workspace folder.
pub fn cargo() -> Command {
    let mut cmd = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cmd.current_dir(root());
    scrub(&mut cmd);
    cmd
}

/// Removes what the outer `cargo run` has put into the environment, so that an inner cargo sees a clean one
/// (otherwise its fingerprints differ from those of a cargo run by hand, and everything is built twice).
pub fn scrub(cmd: &mut Command) {
    for (key, _) in std::env::vars_os() {
        let Some(name) = key.to_str() else { continue };
        let inner = (name.starts_with("CARGO_") && !keep_cargo_var(name))
            || name == "CARGO"
            || name == "OUT_DIR"
            || name == "RUSTC_BOOTSTRAP";
        if inner {
            cmd.env_remove(&key);
        }
    }
}

fn keep_cargo_var(name: &str) -> bool {
    const KEEP: [&str; 9] = [
        "CARGO_HOME",
        "CARGO_TARGET_DIR",
        "CARGO_INCREMENTAL",
        "CARGO_BUILD_JOBS",
        "CARGO_NET_OFFLINE",
        "CARGO_HTTP_CAINFO",
        "CARGO_HTTP_PROXY",
        "CARGO_HTTP_TIMEOUT",
        "CARGO_TERM_COLOR",
    ];
    KEEP.contains(&name)
        || name.starts_with("CARGO_REGISTR")
        || name.starts_with("CARGO_NET_")
        || name.starts_with("CARGO_SOURCE_")
}

/// The command as a person would type it.
pub fn shown(cmd: &Command) -> String {
    let mut line = cmd.get_program().to_string_lossy().into_owned();
    for arg in cmd.get_args() {
        line.push(' ');
        line.push_str(&arg.to_string_lossy());
    }
    line
}

/// Runs a command with its output on ours.
pub fn run(cmd: &mut Command) -> Result<()> {
    let line = shown(cmd);
    println!("  $ {line}");
    let status = cmd
        .status()
        .map_err(|e| format!("`{line}` did not start: {e}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("`{line}` ended with {status}"))
    }
}

/// Runs a command and gives back its standard output, trimmed. Its standard error is in the failure text.
pub fn output(cmd: &mut Command) -> Result<String> {
    let line = shown(cmd);
    let out = cmd
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("`{line}` did not start: {e}"))?;
    if out.status.success() {
        Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
    } else {
        let err = String::from_utf8_lossy(&out.stderr);
        let tail: Vec<&str> = err.lines().rev().take(8).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        Err(format!(
            "`{line}` ended with {}\n{}",
            out.status,
            tail.join("\n")
        ))
    }
}

/// The triple that this machine's compiler builds for.
pub fn host_target() -> Result<String> {
    let text = output(Command::new("rustc").arg("-vV"))?;
    text.lines()
        .find_map(|l| l.strip_prefix("host: "))
        .map(str::to_owned)
        .ok_or_else(|| "rustc does not tell its host".to_owned())
}

/// Runs a command that may hang; it is ended after `limit`.
pub fn run_at_most(cmd: &mut Command, limit: Duration) -> Result<()> {
    let line = shown(cmd);
    println!("  $ {line}");
    let mut child = cmd
        .stdin(Stdio::null())
        .spawn()
        .map_err(|e| format!("`{line}` did not start: {e}"))?;
    let started = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(format!("`{line}` ended with {status}")),
            Ok(None) if started.elapsed() > limit => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("`{line}` did not end within {} s", limit.as_secs()));
            }
            Ok(None) => std::thread::sleep(Duration::from_millis(100)),
            Err(e) => return Err(format!("`{line}`: {e}")),
        }
    }
}

/// Runs a command, shows its output as it comes, and counts the checks in it (see [`count_line`]).
pub fn run_counting(cmd: &mut Command) -> (Count, Result<()>) {
    let line = shown(cmd);
    println!("  $ {line}");
    let mut count = Count::default();
    let child = cmd
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(e) => return (count, Err(format!("`{line}` did not start: {e}"))),
    };
    let (tx, rx) = mpsc::channel::<(bool, String)>();
    let readers = [
        child.stdout.take().map(|s| tee(s, false, tx.clone())),
        child.stderr.take().map(|s| tee(s, true, tx)),
    ];
    for (is_err, text) in rx {
        count.add(count_line(&text));
        if is_err {
            let _ = writeln!(std::io::stderr(), "{text}");
        } else {
            let _ = writeln!(std::io::stdout(), "{text}");
        }
    }
    for reader in readers.into_iter().flatten() {
        let _ = reader.join();
    }
    match child.wait() {
        Ok(status) if status.success() => (count, Ok(())),
        Ok(status) => (count, Err(format!("`{line}` ended with {status}"))),
        Err(e) => (count, Err(format!("`{line}`: {e}"))),
    }
}

fn tee(
    stream: impl Read + Send + 'static,
    is_err: bool,
    tx: mpsc::Sender<(bool, String)>,
) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        while matches!(reader.read_until(b'\n', &mut line), Ok(n) if n > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            if tx.send((is_err, text)).is_err() {
                return;
            }
        }
    })
}

/// Checks told by one line of a test runner: cargo test's `test result:`, nextest's `Summary`, and TAP's `ok`/`not ok`.
pub fn count_line(line: &str) -> Count {
    let line = line.trim();
    if let Some(rest) = line.strip_prefix("test result:") {
        return Count {
            passed: number_before(rest, " passed"),
            failed: number_before(rest, " failed"),
        };
    }
    if line.starts_with("Summary [")
        && (line.contains(" tests run:") || line.contains(" test run:"))
    {
        let failed = number_before(line, " failed")
            + number_before(line, " timed out")
            + number_before(line, " exec failed");
        return Count {
            passed: number_before(line, " passed"),
            failed,
        };
    }
    if line.starts_with("not ok ") {
        return Count {
            passed: 0,
            failed: 1,
        };
    }
    if line.starts_with("ok ") {
        return Count {
            passed: 1,
            failed: 0,
        };
    }
    Count::default()
}

fn number_before(text: &str, word: &str) -> u64 {
    let Some(end) = text.find(word) else { return 0 };
    let digits: String = text[..end]
        .chars()
        .rev()
        .take_while(char::is_ascii_digit)
        .collect();
    digits
        .chars()
        .rev()
        .collect::<String>()
        .parse()
        .unwrap_or(0)
}

/// The first of these programs that is on PATH.
pub fn which(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|p| is_executable(p))
}

/// Whether a file is there and may be run.
pub fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata()
        .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// Writes a file through a temporary one, so that a reader or an ended run never sees half of it.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    }
    let tmp = path.with_extension(format!("tmp{}", std::process::id()));
    std::fs::write(&tmp, bytes).map_err(|e| format!("{}: {e}", tmp.display()))?;
    std::fs::rename(&tmp, path).map_err(|e| format!("{}: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_test_runners_are_counted() {
        let c = |passed, failed| Count { passed, failed };
        assert_eq!(
            count_line("test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured"),
            c(12, 0)
        );
        assert_eq!(
            count_line("test result: FAILED. 3 passed; 2 failed; 0 ignored"),
            c(3, 2)
        );
        assert_eq!(
            count_line(
                "     Summary [   1.234s] 8 tests run: 6 passed (1 slow), 1 failed, 1 timed out, 4 skipped"
            ),
            c(6, 2)
        );
        assert_eq!(
            count_line("     Summary [   0.004s] 1 test run: 1 passed, 0 skipped"),
            c(1, 0)
        );
        assert_eq!(count_line("ok 1 - connect"), c(1, 0));
        assert_eq!(count_line("not ok 2 - chat.send"), c(0, 1));
        assert_eq!(count_line("okay then"), c(0, 0));
        assert_eq!(count_line("12 passed"), c(0, 0));
    }

    #[test]
    fn outer_cargo_variables_do_not_reach_the_inner_cargo() {
        assert!(keep_cargo_var("CARGO_HOME"));
        assert!(keep_cargo_var("CARGO_TARGET_DIR"));
        assert!(!keep_cargo_var("CARGO_MANIFEST_DIR"));
        assert!(!keep_cargo_var("CARGO_PKG_NAME"));
    }

    #[test]
    fn a_hanging_command_is_ended() {
        let started = Instant::now();
        let result = run_at_most(Command::new("sleep").arg("30"), Duration::from_millis(200));
        assert!(result.is_err_and(|e| e.contains("did not end")));
        assert!(started.elapsed() < Duration::from_secs(20));
    }
}
