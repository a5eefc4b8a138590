//! The configuration of the real binary: edits while it runs, broken files, signals, commands.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use gateway_tests::process::{Gateway, gateway_bin};
use gateway_tests::ws::Ws;
use serde_json::{Value, json};

/// How long a test waits for something to happen; not a performance statement.
const PATIENCE: Duration = Duration::from_secs(60);

fn long() -> bool {
    std::env::var_os("GATEWAY_LONG").is_some()
}

fn config(state: &Path) -> PathBuf {
    state.join("gateway.json5")
}

/// As editors do it: beside, then renamed over.
fn put(state: &Path, text: &str) {
    let beside = state.join(".gateway.json5.swp");
    std::fs::write(&beside, text).unwrap();
    std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::rename(&beside, config(state)).unwrap();
}

fn health(gateway: &Gateway) -> Value {
    let (ok, out, err) = gateway.cli(&["health", "--json"]);
    assert!(ok, "{err}");
    serde_json::from_str::<Value>(&out).unwrap()["config"].clone()
}

/// Waits until the configuration is as `wanted` says.
fn until(gateway: &Gateway, wanted: impl Fn(&Value) -> bool) -> Value {
    let started = Instant::now();
    loop {
        let seen = health(gateway);
        if wanted(&seen) {
            return seen;
        }
        assert!(
            started.elapsed() < PATIENCE,
            "{seen}\n{}",
            std::fs::read_to_string(&gateway.log).unwrap_or_default()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A fresh state directory with a small configuration and no plugins.
fn small() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    std::fs::create_dir(&state).unwrap();
    put(
        &state,
        "{\n  // mine\n  agents: { entries: { main: {} } },\n}\n",
    );
    (dir, state)
}

/// Covers: F6.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_edit_drops_nobody_who_streams() {
    let (_dir, state) = small();
    let gateway = Gateway::start(&state, &[]);
    let (port, token) = (gateway.port, gateway.token());
    let count = if long() { 1_000 } else { 100 };
    let mut clients = Vec::new();
    for n in 0..count {
        let mut ws = Ws::connect(port, "/", &token).await.unwrap();
        let key = format!("agent:main:stream-{n}");
        let (subscribe, say) = (
            json!({"key": key}),
            json!({"sessionKey": key, "message": format!("words of {n}"), "idempotencyKey": format!("i-{n}")}),
        );
        ws.call("sessions.messages.subscribe", subscribe)
            .await
            .unwrap();
        clients.push(tokio::spawn(async move {
            for round in 0..5 {
                let mut say = say.clone();
                say["idempotencyKey"] = format!("i-{n}-{round}").into();
                let run = ws.call("chat.send", say).await.unwrap()["runId"].clone();
                ws.event(|e| {
                    e["event"] == "chat"
                        && e["payload"]["runId"] == run
                        && e["payload"]["state"] == "final"
                })
                .await
                .expect("the answer ends");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            // Still the same socket.
            ws.call("health", json!({})).await.unwrap();
            let told = ws
                .events
                .iter()
                .filter(|e| e["event"] == "config.changed")
                .count();
            assert_eq!(told, 0, "a refused edit is no change");
        }));
    }
    let good = std::fs::read_to_string(config(&state)).unwrap();
    let writer = tokio::task::spawn_blocking(move || {
        for (wrong, line) in [
            ("{\n\n  gateway: { prot: 1 } }", 3),
            ("{ gateway: ", 1),
            (
                "{\n  agents: { entries: { main: { tools: [\"nope\"] } } } }",
                2,
            ),
        ] {
            put(&state, wrong);
            let seen = until(&gateway, |c| {
                c["state"] == "rejected" && c["error"]["line"] == line
            });
            assert_eq!(seen["revision"], 1, "{seen}");
            assert_eq!(std::fs::read_to_string(config(&state)).unwrap(), wrong);
            let (ok, out, _) = gateway.cli(&["status"]);
            assert!(ok && out.contains("rejected"), "{out}");
        }
        (gateway, state)
    });
    let (gateway, state) = writer.await.unwrap();
    for client in clients {
        client.await.unwrap();
    }
    put(&state, &good);
    let seen = until(&gateway, |c| c["state"] == "active");
    assert_eq!(seen["revision"], 1);
    assert_eq!(seen["watch"], "notify");
    gateway.stop();
}

/// Covers: F7.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_storm_of_edits_the_last_one_counts() {
    let (_dir, state) = small();
    let gateway = Gateway::start(&state, &[]);
    let mut ws = Ws::connect(gateway.port, "/", &gateway.token())
        .await
        .unwrap();
    let edits = 1_000;
    for n in 1..=edits {
        put(
            &state,
            &format!("{{ agents: {{ default: \"a{n}\", entries: {{ a{n}: {{}} }} }} }}"),
        );
        if n % 100 == 0 {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    let wanted = format!("a{edits}");
    let started = Instant::now();
    loop {
        let seen = ws.call("agents.list", json!({})).await.unwrap();
        if seen["defaultId"] == wanted {
            break;
        }
        assert!(started.elapsed() < PATIENCE, "{seen}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let seen = health(&gateway);
    let applied = seen["revision"].as_u64().unwrap() - 1;
    assert!(applied <= 20, "{applied} reloads for {edits} edits");
    // Exactly one event for each.
    ws.call("health", json!({})).await.unwrap();
    let told = ws
        .events
        .iter()
        .filter(|e| e["event"] == "config.changed")
        .count();
    assert_eq!(told as u64, applied);
    println!(
        "{edits} edits, {applied} reloads, last one in force {} ms after it",
        started.elapsed().as_millis()
    );
    gateway.stop();
}

fn serve(state: &Path) -> Command {
    let mut command = Command::new(gateway_bin());
    command
        .args(["serve", "--port", "0", "--state-dir"])
        .arg(state)
        .env_remove("GATEWAY_TOKEN");
    command
}

/// Covers: F5.
#[test]
fn a_gateway_starts_on_a_broken_file_and_takes_the_mended_one_up() {
    let (_dir, state) = small();
    // Without a last good one the start is refused, and says where.
    put(&state, "{\n  nonsense: 1 }");
    let refused = serve(&state).output().unwrap();
    assert_eq!(refused.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("gateway.json5:2:3"));

    let good = "{ tenants: { acme: { auth: { token: { store: \"t\" } } } } }";
    std::fs::create_dir_all(state.join("secrets/acme")).unwrap();
    std::fs::write(
        state.join("secrets/acme/t"),
        "acme-0123456789abcdef0123456789abcdef",
    )
    .unwrap();
    put(&state, good);
    let gateway = Gateway::start(&state, &[]);
    let started = Instant::now();
    while !state.join("config/last-good.json").exists() {
        assert!(started.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(20));
    }
    gateway.stop();
    for broken in [&good[..good.len() - 4], "", "\0\0\0\0"] {
        put(&state, broken);
        let gateway = Gateway::start(&state, &[]);
        let seen = health(&gateway);
        assert_eq!(seen["state"], "last-good", "{seen}");
        assert!(seen["error"]["message"].is_string());
        let said = std::fs::read_to_string(&gateway.log).unwrap();
        assert!(
            said.contains("config  broken, the last good one counts"),
            "{said}"
        );
        assert_eq!(std::fs::read_to_string(config(&state)).unwrap(), broken);
        let (ok, out, _) = gateway.cli(&["status"]);
        assert!(ok && out.contains("last-good"), "{out}");
        gateway.kill();
    }
    let gateway = Gateway::start(&state, &[]);
    assert_eq!(health(&gateway)["state"], "last-good");
    put(&state, "{ logging: { level: \"debug\" } }");
    let seen = until(&gateway, |c| c["state"] == "active");
    assert_eq!(seen["revision"], 2);
    assert_eq!(seen["error"], Value::Null);
    gateway.stop();
}

#[test]
fn a_signal_reads_the_file_and_the_secrets_again() {
    let (_dir, state) = small();
    let gateway = Gateway::start(&state, &[]);
    let before = health(&gateway)["hash"].clone();
    // A new token, stored by the command that stores secrets: the old one ends.
    let old = gateway.token();
    let mut set = Command::new(gateway_bin())
        .args(["secret", "set", "gateway-token", "--state-dir"])
        .arg(&state)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    use std::io::Write;
    set.stdin
        .take()
        .unwrap()
        .write_all(b"new-token-0123456789abcdef0123456789abcdef")
        .unwrap();
    assert!(set.wait().unwrap().success());
    let hup = Command::new("kill")
        .args(["-HUP", &gateway.pid().to_string()])
        .status()
        .unwrap();
    assert!(hup.success());
    let url = format!("ws://127.0.0.1:{}", gateway.port);
    let works = |token: &str| {
        Command::new(gateway_bin())
            .args(["health", "--json", "--url", &url, "--token", token])
            .env_remove("GATEWAY_TOKEN")
            .output()
            .unwrap()
            .status
            .code()
    };
    let started = Instant::now();
    while works("new-token-0123456789abcdef0123456789abcdef") != Some(0) {
        assert!(started.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(works(&old), Some(4), "refused");
    assert_eq!(health(&gateway)["hash"], before, "the file is the same");
    let log = std::fs::read_to_string(&gateway.log).unwrap();
    assert!(log.contains("SIGHUP"), "{log}");
    assert!(!log.contains("new-token-0123456789"));
    gateway.stop();
}

fn run(gateway: &Gateway, args: &[&str]) -> Value {
    let mut args = args.to_vec();
    args.push("--json");
    let (ok, out, err) = gateway.cli(&args);
    assert!(ok, "{args:?}: {err}");
    serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}"))
}

/// Everything below `path` that group or others have a right on.
fn open_to_others(path: &Path, open: &mut Vec<PathBuf>) {
    let facts = std::fs::symlink_metadata(path).unwrap();
    if !facts.is_symlink() && facts.permissions().mode() & 0o077 != 0 {
        open.push(path.to_owned());
    }
    if facts.is_dir() {
        for entry in std::fs::read_dir(path).unwrap().flatten() {
            open_to_others(&entry.path(), open);
        }
    }
}

fn assert_private(state: &Path, when: &str) {
    let mut open = Vec::new();
    open_to_others(state, &mut open);
    assert!(open.is_empty(), "{when}: others can read {open:?}");
}

/// Covers: N12, S5.
#[test]
fn commands_edit_the_file_and_the_running_gateway_follows() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let gateway = Gateway::start(&state, &["--log-level", "info"]);
    assert_private(&state, "start");
    let text = || std::fs::read_to_string(config(&state)).unwrap();
    let first = text();

    assert_eq!(
        run(&gateway, &["config", "get", "session.dmScope"]),
        "per-channel-peer"
    );
    let done = run(&gateway, &["config", "set", "session.dmScope", "per-peer"]);
    assert_eq!(done["changed"], json!(["session.dmScope"]));
    assert_eq!(done["restartNeeded"], json!([]));
    assert_eq!(
        text(),
        first.replace("\"per-channel-peer\",\n", "\"per-peer\",\n"),
        "comments stay"
    );
    until(&gateway, |c| c["revision"] == 2);
    assert_private(&state, "edit");
    let seen = run(&gateway, &["call", "config.get"]);
    assert_eq!(seen["config"]["session"]["dmScope"], "per-peer");

    // What needs a start is said, by the command and by the gateway.
    let done = run(&gateway, &["config", "set", "gateway.port", "18999"]);
    assert_eq!(done["restartNeeded"], json!(["gateway.port"]));
    let seen = until(&gateway, |c| c["revision"] == 3);
    assert_eq!(seen["restartNeeded"], json!(["gateway.port"]));

    // A wrong value is refused before anything is written.
    let before = text();
    for (args, word) in [
        (["config", "set", "logging.level", "loud"], "not known here"),
        (
            ["config", "set", "gateway.prot", "1"],
            "did you mean `port`",
        ),
        (
            ["config", "set", "agents.default", "nobody"],
            "not among the entries",
        ),
    ] {
        let (ok, _, err) = gateway.cli(&args);
        assert!(
            !ok && err.contains(word) && err.contains("next: "),
            "{args:?}: {err}"
        );
    }
    assert_eq!(text(), before);
    let (ok, _, err) = gateway.cli(&["config", "unset", "gateway.nothing"]);
    assert!(!ok && err.contains("gateway.nothing"), "{err}");

    let told = run(&gateway, &["config", "explain", "gateway.port"]);
    assert_eq!(told["origin"]["kind"], "flag");
    assert_eq!(told["reload"], "restart-process");
    let told = run(&gateway, &["config", "explain", "session.dmScope"]);
    assert_eq!(told["origin"]["kind"], "file");
    assert_eq!(told["value"], "per-peer");
    assert!(told["origin"]["line"].as_u64().unwrap() > 1 && told["doc"].is_string());
    let told = run(
        &gateway,
        &["config", "explain", "gateway.limits.authFailures"],
    );
    assert_eq!(told["origin"]["kind"], "default");

    let history = run(&gateway, &["config", "history"]);
    assert_eq!(history["backups"].as_array().unwrap().len(), 2);
    let differ = run(&gateway, &["config", "diff", "1", "file"]);
    assert_eq!(differ["changes"][0]["path"], "gateway.port");
    assert_eq!(differ["changes"][0]["to"], 18999);
    run(&gateway, &["config", "rollback", "2"]);
    assert_eq!(text(), first);
    until(&gateway, |c| c["revision"] == 4);
    assert_private(&state, "rollback");

    // An editor: a good change is taken, a bad one is not and stays as a draft.
    let editor = dir.path().join("editor");
    let edit = |script: &str| {
        std::fs::write(&editor, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&editor, std::fs::Permissions::from_mode(0o700)).unwrap();
        Command::new(gateway_bin())
            .args(["config", "edit", "--state-dir"])
            .arg(&state)
            .env("EDITOR", &editor)
            .env_remove("VISUAL")
            .output()
            .unwrap()
    };
    assert!(
        edit("sed -i 's/\"info\"/\"debug\"/' \"$1\"")
            .status
            .success()
    );
    assert!(text().contains("level: \"debug\""));
    let bad = edit("echo '{ nonsense: 1 }' > \"$1\"");
    assert_eq!(bad.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&bad.stderr).contains("gateway.draft.json5"));
    assert!(text().contains("level: \"debug\""));
    assert_private(&state, "editor");

    // Another file can be checked, also by a program.
    let other = dir.path().join("other.json5");
    std::fs::write(&other, "{\n prot: 1 }").unwrap();
    let (ok, out, _) = gateway.cli(&["config", "validate", other.to_str().unwrap(), "--json"]);
    assert!(!ok);
    let told: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&told["valid"], &told["issues"][0]["line"]),
        (&json!(false), &json!(2))
    );
    assert_eq!(run(&gateway, &["config", "validate"])["valid"], true);
    gateway.stop();
    assert_private(&state, "stop");
}

/// A write that fails (here for a limit on the size of files, as on a full disk) changes nothing.
#[test]
fn an_edit_that_cannot_be_written_changes_nothing() {
    let (_dir, state) = small();
    let gateway = Gateway::start(&state, &[]);
    gateway.stop();
    let long = "x".repeat(4_000);
    let before = std::fs::read_to_string(config(&state)).unwrap();
    let done = Command::new("sh")
        .args([
            "-c",
            "trap '' XFSZ; ulimit -f 1; exec \"$0\" config set agents.entries.main.systemPrompt \"$1\" --state-dir \"$2\"",
        ])
        .arg(gateway_bin())
        .arg(&long)
        .arg(&state)
        .output()
        .unwrap();
    assert!(!done.status.success());
    let told = String::from_utf8_lossy(&done.stderr);
    assert!(
        told.contains("cannot write") && told.contains("next: "),
        "{told}"
    );
    assert_eq!(std::fs::read_to_string(config(&state)).unwrap(), before);
    let left: Vec<_> = std::fs::read_dir(&state)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|n| n.ends_with(".tmp"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

/// A command that is killed while it writes leaves the old file or the new one.
#[test]
fn an_edit_that_is_killed_leaves_a_whole_file() {
    let (_dir, state) = small();
    let gateway = Gateway::start(&state, &[]);
    gateway.stop();
    let rounds = if long() { 200 } else { 20 };
    let mut kept = 0;
    for n in 0..rounds {
        let before = std::fs::read_to_string(config(&state)).unwrap();
        let mut child = Command::new(gateway_bin())
            .args([
                "config",
                "set",
                "gateway.limits.authFailures",
                &(n + 1).to_string(),
                "--state-dir",
            ])
            .arg(&state)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_micros(
            u64::try_from(n % 20).unwrap() * 6_000,
        ));
        let _ = child.kill();
        let _ = child.wait();
        let after = std::fs::read_to_string(config(&state)).unwrap();
        if after == before {
            kept += 1;
        } else {
            assert!(
                after.contains(&format!("authFailures: {}", n + 1))
                    || after.contains(&format!("\"authFailures\": {}", n + 1)),
                "{after}"
            );
            assert!(after.contains("// mine"));
        }
    }
    println!("{rounds} kills: {kept} kept the old file");
    // The lock of a killed command holds nobody up.
    let done = Command::new(gateway_bin())
        .args([
            "config",
            "set",
            "gateway.limits.authFailures",
            "7777",
            "--state-dir",
        ])
        .arg(&state)
        .output()
        .unwrap();
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
}
