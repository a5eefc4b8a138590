//! Edits of the configuration on a disk that fails: each call that an edit makes on the way to the file is made to fail, by strace.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use gateway_tests::process::{Gateway, gateway_bin};
use gateway_tests::ws::Ws;
use serde_json::{Value, json};

/// How long a test waits for something to happen; not a performance statement.
const PATIENCE: Duration = Duration::from_secs(60);
/// What a disk and a process can run out of.
const ERRORS: [&str; 3] = ["ENOSPC", "EIO", "EMFILE"];
/// Calls that open, write, confirm or rename.
const CALLS: &str =
    "openat,mkdir,write,fsync,fdatasync,ftruncate,link,linkat,rename,renameat,renameat2,flock";

fn strace() -> Option<PathBuf> {
    let program =
        std::env::var_os("GATEWAY_STRACE").map_or_else(|| PathBuf::from("strace"), PathBuf::from);
    let there = Command::new(&program)
        .arg("-V")
        .stdout(Stdio::null())
        .status();
    if there.is_ok_and(|s| s.success()) {
        return Some(program);
    }
    eprintln!("!!! LEFT OUT: there is no strace (`cargo xtask tools` gets it)");
    None
}

/// `gateway config set logging.level LEVEL` under strace with these arguments.
fn edit(strace: &Path, state: &Path, level: &str, words: &[&str]) -> Output {
    Command::new(strace)
        .args(["-f", "-qq", "-e", "signal=none"])
        .args(words)
        .arg(gateway_bin())
        .args(["config", "set", "logging.level", level, "--state-dir"])
        .arg(state)
        .env_remove("GATEWAY_TOKEN")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// The calls of an edit that touch the state directory: name, how many of that name came before, and whether it changes something.
fn calls(strace: &Path, state: &Path, dir: &Path) -> Vec<(String, usize, bool)> {
    let log = dir.join("calls");
    let filter = format!("trace={CALLS}");
    let out = log.to_str().unwrap();
    let done = edit(
        strace,
        state,
        "warn",
        &["-y", "-s", "0", "-e", &filter, "-o", out],
    );
    assert!(done.status.success(), "{done:?}");
    let text = std::fs::read_to_string(&log).unwrap();
    let place = state.display().to_string();
    let mut counts = std::collections::BTreeMap::new();
    let mut found = Vec::new();
    let mut process = None;
    for line in text.lines() {
        let (pid, rest) = line.split_once(' ').unwrap();
        // Calls are counted for each thread by itself.
        assert_eq!(*process.get_or_insert(pid.to_owned()), pid, "{line}");
        let Some((name, arguments)) = rest.trim_start().split_once('(') else {
            continue;
        };
        let number = counts.entry(name.to_owned()).or_insert(0);
        *number += 1;
        if arguments.contains(&place) {
            // What fails anyway (a folder that is there already) is not needed.
            let reads =
                name == "openat" && !arguments.contains("O_CREAT") || arguments.contains(" = -1 E");
            found.push((name.to_owned(), *number, !reads));
        }
    }
    found
}

fn leftovers(state: &Path) -> Vec<String> {
    let mut left = Vec::new();
    for dir in [
        state.to_owned(),
        state.join("config"),
        state.join("config/history"),
    ] {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            // The running gateway keeps what it runs with, in a file of its own.
            if name.ends_with(".tmp") && !name.starts_with(".last-good") {
                left.push(name);
            }
        }
    }
    left
}

async fn settled(gateway: &Gateway) -> Value {
    let mut ws = Ws::connect(gateway.port, "/", &gateway.token())
        .await
        .unwrap();
    let config = ws.call("config.get", json!({})).await.unwrap();
    ws.close().await;
    config
}

/// Each call by which `gateway config set` comes to the file fails once with each of the errors, while a gateway runs on it: the file is
/// the old one, whole; the command fails and says what to do; nothing is left behind; the gateway goes on as it was. Where the call was
/// not needed for the edit, the new text is there, whole.
///
/// Covers: F3, F4.
#[test]
fn an_edit_that_meets_a_failing_disk_changes_nothing() {
    let Some(strace) = strace() else { return };
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().canonicalize().unwrap();
    let state = dir.join("state");
    let gateway = Gateway::start(&state, &[]);
    let file = state.join("gateway.json5");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let set = |level: &str| {
        let (ok, _, err) = gateway.cli(&["config", "set", "logging.level", level]);
        assert!(ok, "{err}");
    };
    // From here on each edit makes the same calls: the folder of earlier texts is there.
    set("warn");
    set("info");
    let calls = calls(&strace, &state, &dir);
    set("info");
    let names: BTreeSet<&str> = calls.iter().map(|(name, ..)| name.as_str()).collect();
    for wanted in ["openat", "write", "fsync"] {
        assert!(names.contains(wanted), "{calls:?}");
    }
    assert!(names.iter().any(|n| n.starts_with("rename")), "{calls:?}");
    let old = std::fs::read_to_string(&file).unwrap();
    let wait = |level: &str| {
        let begun = Instant::now();
        loop {
            let config = runtime.block_on(settled(&gateway));
            if config["config"]["logging"]["level"] == level {
                return config;
            }
            assert!(begun.elapsed() < PATIENCE, "{config}");
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    let before = wait("info");
    let mut refused = 0;
    for (name, number, changes) in &calls {
        for error in ERRORS {
            let inject = format!("inject={name}:error={error}:when={number}");
            let filter = format!("trace={name}");
            let done = edit(
                &strace,
                &state,
                "debug",
                &["-e", &filter, "-e", &inject, "-o", "/dev/null"],
            );
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            let now = std::fs::read_to_string(&file).unwrap();
            let case = format!("{name} {number} {error}: {:?} {said}", done.status.code());
            if done.status.success() {
                assert!(!changes, "{case}");
                assert_eq!(now.matches("level: \"debug\"").count(), 1, "{case}\n{now}");
                set("info");
                assert_eq!(std::fs::read_to_string(&file).unwrap(), old, "{case}");
            } else {
                assert_eq!(now, old, "{case}");
                assert!(
                    said.contains("error: ") && said.contains("\nnext: "),
                    "{case}"
                );
                refused += 1;
            }
            assert_eq!(leftovers(&state), [""; 0], "{case}");
        }
    }
    assert!(refused >= 15, "{refused} of {calls:?}");
    let after = wait("info");
    assert_eq!(after["hash"], before["hash"]);
    assert!(gateway.stop().success());
}

/// The same for `config.patch` of a running gateway: its calls to open, to confirm and to rename fail, the first of each thread that
/// makes some, then the second, and so on until the edit goes through. The client is told the cause and the next step, the file and the
/// running configuration stay, and the gateway works on.
///
/// Covers: F3, F4.
#[test]
fn a_patch_that_meets_a_failing_disk_changes_nothing() {
    let Some(strace) = strace() else { return };
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().canonicalize().unwrap().join("state");
    let gateway = Gateway::start(&state, &[]);
    let file = state.join("gateway.json5");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(patches(&strace, &gateway, &file));
    assert!(gateway.stop().success());
}

/// Makes calls of the gateway fail while it lives.
struct Failing(std::process::Child);

impl Failing {
    fn attach(strace: &Path, gateway: &Gateway, inject: &str) -> Self {
        let name = inject.split([':', '=']).nth(1).unwrap().to_owned();
        let mut child = Command::new(strace)
            .args(["-f", "-e", "signal=none", "-e"])
            .arg(format!("trace={name}"))
            .args(["-e", inject, "-o", "/dev/null", "-p"])
            .arg(gateway.pid().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It says so when it has hold of the process.
        let mut said = std::io::BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        std::io::BufRead::read_line(&mut said, &mut line).unwrap();
        assert!(line.contains("attached"), "{line}");
        // What else it says is let go of, so that it never waits for a reader.
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        Self(child)
    }

    fn detach(mut self) {
        let pid = self.0.id().to_string();
        let _ = Command::new("kill").args(["-INT", &pid]).status();
        let _ = self.0.wait();
    }
}

/// What a client is told when a call fails with this: code, reason, and a part of the next step.
fn cause(error: &str) -> (&'static str, &'static str, &'static str) {
    match error {
        "ENOSPC" | "EDQUOT" => ("STORAGE_FULL", "disk-full", "make room"),
        "EIO" => ("STORAGE_FAILED", "disk-failed", "kernel's log"),
        "EMFILE" => ("OVERLOADED", "file-descriptors", "limit of open files"),
        "EROFS" => ("STORAGE_DENIED", "read-only", "writable"),
        "EACCES" => ("STORAGE_DENIED", "permission", "let the gateway's user"),
        other => panic!("{other}"),
    }
}

async fn patches(strace: &Path, gateway: &Gateway, file: &Path) {
    let token = gateway.token();
    let patch = json!({"logging": {"level": "debug"}}).to_string();
    let (mut refused, mut tries) = (0, 0_u8);
    let mut told = BTreeSet::new();
    for (name, errors) in [
        ("openat", &ERRORS[..]),
        ("fsync", &["EIO", "ENOSPC"][..]),
        (
            "rename",
            &["EIO", "ENOSPC", "EDQUOT", "EROFS", "EACCES"][..],
        ),
        ("link,linkat", &["EIO", "ENOSPC"][..]),
    ] {
        for error in errors {
            let mut through = false;
            for number in 1..=30 {
                // Writes are limited for each address.
                tries += 1;
                let from = Ipv4Addr::new(127, 0, 1, tries);
                let mut ws = Ws::connect_from(from, gateway.port, &token).await.unwrap();
                let before = ws.call("config.get", json!({})).await.unwrap();
                let old = std::fs::read_to_string(file).unwrap();
                let inject = format!("inject={name}:error={error}:when={number}");
                let failing = Failing::attach(strace, gateway, &inject);
                let answer = ws
                    .call(
                        "config.patch",
                        json!({"raw": patch, "baseHash": before["hash"]}),
                    )
                    .await;
                failing.detach();
                let now = std::fs::read_to_string(file).unwrap();
                let after = ws.call("config.get", json!({})).await.unwrap();
                let case = format!("{inject}: {answer:?}");
                match &answer {
                    Ok(_) => {
                        assert_ne!(now, old, "{case}");
                        through = true;
                        let back =
                            json!({"raw": "{logging: {level: null}}", "baseHash": after["hash"]});
                        ws.call("config.patch", back).await.unwrap();
                        break;
                    }
                    Err(why) => {
                        let (code, word, step) = cause(error);
                        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                        let (message, details) = (text(&why["message"]), &why["details"]);
                        assert_eq!(text(&details["code"]), code, "{case}");
                        assert_eq!(text(&details["reason"]), word, "{case}");
                        assert!(text(&details["next"]).contains(step), "{case}");
                        assert!(message.contains("nothing was changed"), "{case}");
                        assert!(message.contains(step), "{case}");
                        // Where the files are is not for the wire.
                        assert!(!message.contains('/'), "{case}");
                        told.insert(code);
                        assert_eq!(now, old, "{case}");
                        assert_eq!(after["hash"], before["hash"], "{case}");
                        refused += 1;
                    }
                }
            }
            assert!(through, "{name} {error}: the edit never went through");
        }
    }
    assert!(refused >= 6, "{refused}");
    assert_eq!(told.len(), 4, "{told:?}");
    let mut ws = Ws::connect(gateway.port, "/", &token).await.unwrap();
    let answer = ws
        .call(
            "chat.send",
            json!({"sessionKey": "main", "message": "hello", "idempotencyKey": "after"}),
        )
        .await;
    assert!(answer.is_ok(), "{answer:?}");
    ws.close().await;
}
