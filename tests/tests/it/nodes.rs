//! Our own node on another machine: it pins the gateway's certificate, is let in, its commands are approved, it answers; the cable is cut
//! in between. Two network namespaces; where they cannot be made the test says so and is left out.

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use gateway_tests::process::gateway_bin;
use serde_json::{Value, json};

use crate::discovery::Nets;

/// How long one thing may take before the test gives up; not a performance statement.
const PATIENCE: Duration = Duration::from_secs(90);

/// A program that ends with this.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Covers: A9, F19, X10.
#[test]
fn a_machine_elsewhere_is_a_node() {
    let Some(nets) = Nets::new(2, "node") else {
        return;
    };
    nets.cable();
    let dir = tempfile::tempdir().unwrap();
    let (state, laptop) = (dir.path().join("state"), dir.path().join("laptop"));
    let offered = dir.path().join("offered");
    std::fs::create_dir_all(&offered).unwrap();
    std::fs::write(offered.join("a.txt"), "hello").unwrap();
    std::fs::write(dir.path().join("secret"), "not offered").unwrap();
    let _gateway = nets.gateway(0, &state, &["--bind", "lan", "--tls"]);
    let here = |args: &[&str]| nets.ask(0, &state, args);
    here(&[
        "config",
        "set",
        "gateway.nodes.commands.allow",
        r#"["dir.list", "file.stat", "file.fetch"]"#,
    ]);
    let pin = here(&["tls", "show"])["fingerprint"]
        .as_str()
        .unwrap()
        .to_owned();
    let token = std::fs::read_to_string(state.join("secrets/main/gateway-token")).unwrap();
    let run = |pin: &str| {
        let out = std::fs::File::create(dir.path().join("node.log")).unwrap();
        let mut command = nets.command(1, &gateway_bin());
        command
            .args(["node", "run", "--json", "--display-name", "lab"])
            .args(["--url", "wss://192.0.2.1:18789", "--tls-fingerprint", pin])
            .args(["--token", token.trim(), "--state-dir"])
            .arg(&laptop)
            .arg("--root")
            .arg(&offered)
            .stdout(out.try_clone().unwrap())
            .stderr(out);
        command
    };
    // Another certificate than the pinned one: nothing is sent, and it does not go on.
    let wrong = run(&"ab".repeat(32)).status().unwrap();
    assert!(!wrong.success());
    assert_eq!(here(&["devices", "list"])["pending"], json!([]));

    let node = Program(run(&pin).spawn().unwrap());
    // First the device, then what it offers.
    let request = until("the device's request", || {
        here(&["devices", "list"])["pending"][0]["requestId"]
            .as_str()
            .map(str::to_owned)
    });
    here(&["devices", "approve", &request]);
    let waits = until("the node's request", || {
        let listed = here(&["nodes", "pending"]);
        listed["pending"][0]["requestId"]
            .is_string()
            .then(|| listed["pending"][0].clone())
    });
    assert_eq!(
        waits["commands"],
        json!(["system.which", "dir.list", "file.fetch", "file.stat"])
    );
    let invoke = |command: &str, params: Value, wait: &str| -> Result<Value, String> {
        let output = nets
            .command(0, &gateway_bin())
            .args(["nodes", "invoke", "lab", command, "--wait", wait, "--json"])
            .args(["--params", &params.to_string(), "--state-dir"])
            .arg(&state)
            .output()
            .unwrap();
        if output.status.success() {
            let got: Value = serde_json::from_slice(&output.stdout).unwrap();
            Ok(got["payload"].clone())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    };
    let early = invoke("system.which", json!({ "bins": ["sh"] }), "5000").unwrap_err();
    assert!(early.contains("gateway nodes approve"), "{early}");
    here(&["nodes", "approve", waits["requestId"].as_str().unwrap()]);
    let found = invoke("system.which", json!({ "bins": ["sh"] }), "10000").unwrap();
    assert!(found["bins"]["sh"].is_string(), "{found}");
    let file = invoke("file.fetch", json!({ "path": "a.txt" }), "10000").unwrap();
    assert_eq!(
        (&file["size"], &file["base64"]),
        (&json!(5), &json!("aGVsbG8="))
    );
    let outside = invoke("file.fetch", json!({ "path": "../secret" }), "10000").unwrap_err();
    assert!(outside.contains("OUTSIDE"), "{outside}");
    let run = invoke("system.run", json!({ "command": ["true"] }), "10000").unwrap_err();
    assert!(run.contains("exec approval"), "{run}");
    let seen = here(&["nodes", "describe", "lab"]);
    assert_eq!(
        (&seen["approvalState"], &seen["connected"]),
        (&json!("approved"), &json!(true))
    );
    until("its numbers", || {
        here(&["nodes", "status"])["nodes"][0]["hostStats"]["cpuCount"].as_u64()
    });

    // The cable is cut: a call ends by its deadline, once; with the cable the node is there again.
    let link = |state: &str| {
        let of = nets.name(1);
        let done = Command::new("ip")
            .args(["-n", of, "link", "set", "gwv1", state])
            .status();
        assert!(done.unwrap().success());
    };
    link("down");
    let cut = invoke("system.which", json!({ "bins": ["sh"] }), "2000").unwrap_err();
    assert!(
        cut.contains("TIMEOUT") || cut.contains("NODE_DISCONNECTED"),
        "{cut}"
    );
    link("up");
    until("an answer over the mended cable", || {
        invoke("system.which", json!({ "bins": ["sh"] }), "3000").ok()
    });

    // Killed, it is away; started again it needs neither the gateway's token nor another approval. Removed, it is a stranger.
    drop(node);
    until("that it is away", || {
        (here(&["nodes", "list"])["nodes"][0]["connected"] == false).then_some(())
    });
    let gone = invoke("system.which", json!({ "bins": ["sh"] }), "2000").unwrap_err();
    assert!(gone.contains("node not connected"), "{gone}");
    let _again = Program(
        nets.command(1, &gateway_bin())
            .args(["node", "run", "--url", "wss://192.0.2.1:18789"])
            .args(["--tls-fingerprint", &pin, "--state-dir"])
            .arg(&laptop)
            .spawn()
            .unwrap(),
    );
    until("an answer after the restart", || {
        invoke("system.which", json!({ "bins": ["sh"] }), "3000").ok()
    });
    here(&["nodes", "rename", "lab", "kitchen"]);
    here(&["nodes", "remove", "kitchen"]);
    assert_eq!(here(&["nodes", "list"])["nodes"], json!([]));
}
