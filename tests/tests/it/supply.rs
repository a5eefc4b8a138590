//! What the gateway takes from where it happens to be started: nothing.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use gateway_tests::process::{Gateway, gateway_bin};
use gateway_tests::ws::Ws;
use serde_json::json;

/// The gateway is started in a directory full of bait: `.env` files, configurations, plugins, programs. It behaves as anywhere
/// else, and the system calls show that it opened, listed and ran nothing there.
///
/// Covers: S1.
#[test]
fn nothing_is_taken_from_the_working_directory() {
    let dir = tempfile::tempdir().unwrap();
    let (bait, state) = (dir.path().join("bait"), dir.path().join("state"));
    std::fs::create_dir(&bait).unwrap();
    let token = "bait0bait1bait2bait3bait4bait5bait6bait7";
    for name in [".env", ".env.local", ".envrc"] {
        std::fs::write(
            bait.join(name),
            format!("GATEWAY_TOKEN={token}\nGATEWAY_STATE_DIR={}\nOPENAI_API_KEY=x\nOPENAI_BASE_URL=http://127.0.0.1:1\n", bait.display()),
        )
        .unwrap();
    }
    for name in [
        "gateway.json5",
        "gateway.json",
        "openclaw.json",
        "config.json5",
    ] {
        std::fs::write(
            bait.join(name),
            format!("{{ gateway: {{ port: 1, auth: {{ token: '{token}' }} }} }}"),
        )
        .unwrap();
    }
    for folder in [
        "plugins",
        "wasm",
        "guests",
        "extensions",
        ".openclaw",
        ".gateway",
        "boot-scripts",
        "node_modules",
    ] {
        let plugin = bait.join(folder).join("webhook");
        std::fs::create_dir_all(&plugin).unwrap();
        std::fs::write(plugin.join("plugin.toml"), "schema = 1").unwrap();
    }
    for program in ["sh", "tailscale", "getent", "avahi-browse"] {
        let path = bait.join(program);
        std::fs::write(&path, format!("#!/bin/sh\ntouch {}/ran\n", bait.display())).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let strace =
        std::env::var_os("GATEWAY_STRACE").map_or_else(|| PathBuf::from("strace"), PathBuf::from);
    let calls = dir.path().join("calls");
    let mut child = Command::new(strace)
        .args(["-f", "-qq", "-s", "4096", "-e", "trace=%file", "-o"])
        .arg(&calls)
        .arg(gateway_bin())
        .args(["serve", "--port", "0", "--json", "--state-dir"])
        .arg(&state)
        .current_dir(&bait)
        .env_clear()
        .env("HOME", dir.path())
        .env("PATH", "/usr/bin:/bin")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("strace runs the gateway");
    let begun = Instant::now();
    let run = state.join("run/gateway.json");
    while !run.exists() {
        assert!(child.try_wait().unwrap().is_none(), "it ended");
        assert!(
            begun.elapsed() < Duration::from_secs(120),
            "it does not start"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    let told: serde_json::Value = serde_json::from_slice(&std::fs::read(&run).unwrap()).unwrap();
    let pid = told["pid"].as_u64().unwrap().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .unwrap()
            .success()
    );
    child.wait().unwrap();
    let made = std::fs::read_to_string(state.join("secrets/main/gateway-token")).unwrap();
    assert_ne!(made.trim(), token);
    let log = std::fs::read_to_string(&calls).unwrap();
    assert!(log.lines().count() > 50, "strace saw nothing:\n{log}");
    let bait_text = bait.display().to_string();
    let touched: Vec<&str> = log
        .lines()
        .filter(|l| l.contains(&bait_text) || relative(l))
        // Asking where one is takes nothing from there.
        .filter(|l| !l.contains("getcwd("))
        .collect();
    assert!(touched.is_empty(), "{}", touched.join("\n"));
    let mut left: Vec<String> = std::fs::read_dir(&bait)
        .unwrap()
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    left.retain(|n| n == "ran" || n.contains("sqlite"));
    assert!(left.is_empty());
}

/// Whether a call names a file by a path that counts from the working directory.
fn relative(line: &str) -> bool {
    let Some((head, rest)) = line.split_once('"') else {
        return false;
    };
    let path = rest.split('"').next().unwrap_or("");
    let call = head.split('(').next().unwrap_or("").trim_end();
    let at_directory = (call.ends_with("at") || call.ends_with("at2") || call.ends_with("statx"))
        && !call.ends_with("stat")
        && !head.contains("AT_FDCWD");
    let at_directory = at_directory || (call.ends_with("newfstatat") && !head.contains("AT_FDCWD"));
    !path.is_empty() && !path.starts_with('/') && !at_directory
}

/// The program reads a short, known list of environment variables by name; everything else is read only because the
/// configuration names it.
///
/// Covers: S1.
#[test]
fn the_environment_that_is_read_is_a_short_list() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let allowed: BTreeSet<&str> = [
        "GATEWAY_STATE_DIR",
        "GATEWAY_TOKEN",
        "GATEWAY_URL",
        "GATEWAY_TLS_FINGERPRINT",
        "HOME",
        "XDG_STATE_HOME",
        "XDG_CONFIG_HOME",
        "VISUAL",
        "EDITOR",
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "WATCHDOG_PID",
        // Where `tailscale` is looked for, when it is used and no path of it is configured.
        "PATH",
        "LISTEN_FDS",
        "LISTEN_FDS_FIRST_FD",
        "LISTEN_PID",
        // Of builds and tests.
        "GATEWAY_LONG",
        "GATEWAY_TEST_SCHEMA",
        "CARGO_PKG_VERSION",
    ]
    .into();
    let mut files = Vec::new();
    for dir in ["gateway/src", "gateway/crates"] {
        collect(&root.join(dir), &mut files);
    }
    let mut seen = BTreeSet::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let product = text.split("#[cfg(test)]").next().unwrap();
        for call in [
            "env::var(\"",
            "env::var_os(\"",
            "env = \"",
            "env(\"",
            "set(\"",
        ] {
            for (at, _) in product.match_indices(call) {
                let name = product[at + call.len()..].split('"').next().unwrap();
                let is_name =
                    name.len() > 3 && name.chars().all(|c| c.is_ascii_uppercase() || c == '_');
                if is_name {
                    assert!(allowed.contains(name), "{}: {name}", file.display());
                    seen.insert(name.to_owned());
                }
            }
        }
    }
    assert!(
        seen.contains("GATEWAY_TOKEN") && seen.contains("HOME"),
        "{seen:?}"
    );
}

fn collect(dir: &Path, into: &mut Vec<PathBuf>) {
    for path in std::fs::read_dir(dir).unwrap().flatten().map(|e| e.path()) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "tests" && name != "examples" {
            collect(&path, into);
        } else if name.ends_with(".rs") {
            into.push(path);
        }
    }
}

/// Which code is loaded is decided on the machine: no client, whatever its scopes, moves the directory of plugins or takes a
/// pin away.
///
/// Covers: S2.
#[tokio::test(flavor = "multi_thread")]
async fn no_client_decides_which_plugins_are_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(&dir.path().join("state"), &[]);
    let mut ws = Ws::connect(gateway.port, "/", &gateway.token())
        .await
        .unwrap();
    for patch in [
        "{ plugins: { dir: '/tmp' } }",
        "{ plugins: { pinnedOnly: true } }",
        "{ plugins: { pins: { webhook: '0000000000000000000000000000000000000000000000000000000000000000' } } }",
    ] {
        let before = ws.call("config.get", json!({})).await.unwrap();
        let refused = ws
            .call(
                "config.patch",
                json!({"raw": patch, "baseHash": before["hash"]}),
            )
            .await
            .unwrap_err();
        assert!(
            refused["message"].as_str().unwrap().contains("plugins"),
            "{refused}"
        );
        let after = ws.call("config.get", json!({})).await.unwrap();
        assert_eq!(before["hash"], after["hash"], "{patch}");
    }
    ws.close().await;
}
