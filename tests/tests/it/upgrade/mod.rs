//! The real binary hands its socket to another process of the same binary: nobody is refused, nothing accepted is lost, and
//! whatever goes wrong, one of the two serves.

mod clients;
mod faults;
mod schema;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use gateway_tests::process::{Gateway, gateway_bin};
use gateway_tests::ws::Ws;
use serde_json::{Value, json};

/// How long a test waits for something to happen; not a performance statement.
const PATIENCE: Duration = Duration::from_secs(120);

/// A process that nobody waits for; killed when this is dropped.
struct Orphan(u32);

impl Drop for Orphan {
    fn drop(&mut self) {
        kill(self.0, "KILL");
        let begun = Instant::now();
        while lives(self.0) && begun.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn kill(pid: u32, signal: &str) {
    let _ = Command::new("kill")
        .args([&format!("-{signal}"), &pid.to_string()])
        .status();
}

/// Whether there is such a process and it has not ended.
fn lives(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    // The name may hold anything; the state comes after its last parenthesis.
    !stat
        .rsplit(") ")
        .next()
        .is_some_and(|rest| rest.starts_with('Z'))
}

fn json_file(path: &Path) -> Value {
    let text = std::fs::read(path).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or(Value::Null)
}

/// The process that serves, as `run/gateway.json` says.
fn serving(state: &Path) -> u32 {
    let pid = &json_file(&state.join("run/gateway.json"))["pid"];
    u32::try_from(pid.as_u64().unwrap_or(0)).unwrap()
}

/// Waits until the upgrade is at a stage, and gives what is told of it.
fn stage(state: &Path, wanted: &[&str]) -> Value {
    let begun = Instant::now();
    loop {
        let told = json_file(&state.join("run/upgrade.json"));
        if wanted.iter().any(|w| told["stage"] == **w) {
            return told;
        }
        assert!(begun.elapsed() < PATIENCE, "not {wanted:?}: {told}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Waits until another process than `pid` serves, and readily.
fn successor(gateway: &Gateway, pid: u32) -> Orphan {
    let begun = Instant::now();
    loop {
        let now = serving(&gateway.state);
        if now != pid && now != 0 && lives(now) && is_ready(gateway) {
            return Orphan(now);
        }
        assert!(
            begun.elapsed() < PATIENCE,
            "nobody goes on:\n{}",
            std::fs::read_to_string(&gateway.log).unwrap_or_default()
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn is_ready(gateway: &Gateway) -> bool {
    gateway.cli(&["health", "--timeout", "5000"]).0
}

/// `gateway upgrade --json` and its answer.
fn upgrade(gateway: &Gateway, more: &[&str]) -> (bool, Value) {
    let args = [&["upgrade", "--json"], more].concat();
    let (done, out, err) = gateway.cli(&args);
    let text = if done { &out } else { &err };
    let value = serde_json::from_str(text).unwrap_or_else(|_| panic!("{args:?}: {out}\n{err}"));
    (done, value)
}

/// A program that is `gateway` but for what `serve` does: a line of shell, with the real one in `$REAL`.
fn program(dir: &Path, serve: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = dir.join("other-gateway");
    let text = format!(
        "#!/bin/sh\nREAL='{}'\nif [ \"$1\" = serve ]; then\n{serve}\nfi\nexec \"$REAL\" \"$@\"\n",
        gateway_bin().display()
    );
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

async fn say(ws: &mut Ws, session: &str, text: &str) -> Value {
    let ask = json!({"sessionKey": session, "message": text, "idempotencyKey": text});
    ws.call("chat.send", ask).await.unwrap()
}

/// What the assistant said in a session, once it said so much.
async fn answers(ws: &mut Ws, session: &str, count: usize) -> Vec<String> {
    let begun = Instant::now();
    loop {
        let ask = json!({"sessionKey": session, "limit": 1000});
        let history = ws.call("chat.history", ask).await.unwrap();
        let said: Vec<String> = history["messages"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|m| m["role"] == "assistant")
            .map(|m| match &m["content"] {
                Value::String(text) => text.clone(),
                blocks => blocks
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(|b| b["text"].as_str())
                    .collect(),
            })
            .collect();
        if said.len() >= count {
            return said;
        }
        assert!(begun.elapsed() < PATIENCE, "{session}: {}", said.len());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
