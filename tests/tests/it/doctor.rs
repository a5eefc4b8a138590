//! `gateway doctor` on places that are really broken: before, what it says, after.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use gateway_tests::process::{Gateway, gateway_bin, guests_dir};
use serde_json::Value;

struct Look {
    told: Value,
    code: i32,
}

impl Look {
    /// Severity and text of the findings of a check, of the last round.
    fn of(&self, id: &str) -> Vec<(String, String)> {
        let round = if self.told["after"].is_array() {
            "after"
        } else {
            "before"
        };
        let all = self.told[round].as_array().unwrap();
        all.iter()
            .filter(|f| f["id"] == id)
            .map(|f| {
                let text = format!(
                    "{} {}",
                    f["what"].as_str().unwrap(),
                    f["next"].as_str().unwrap()
                );
                (f["severity"].as_str().unwrap().to_owned(), text)
            })
            .collect()
    }

    /// The check says this severity, with these words, and says what to do.
    fn says(&self, id: &str, severity: &str, words: &[&str]) {
        let found = self.of(id);
        let hit = found
            .iter()
            .any(|(s, text)| s == severity && words.iter().all(|w| text.contains(w)));
        assert!(hit, "{id}: no {severity} with {words:?} in {found:?}");
    }

    fn well(&self, id: &str) {
        let found = self.of(id);
        assert!(
            !found.is_empty() && found.iter().all(|(s, _)| s == "ok"),
            "{id}: {found:?}"
        );
    }
}

fn doctor(state: &Path, args: &[&str]) -> Look {
    let output = Command::new(gateway_bin())
        .args(["doctor", "--json"])
        .args(args)
        .env_remove("GATEWAY_TOKEN")
        .env_remove("GATEWAY_URL")
        .env("GATEWAY_STATE_DIR", state)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let told = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| {
        panic!("{e}: {}", String::from_utf8_lossy(&output.stderr));
    });
    Look {
        told,
        code: output.status.code().unwrap(),
    }
}

/// A state directory of a gateway that ran and stopped, on a port that is free.
fn place() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    Gateway::start(&state, &[]).stop();
    let config = state.join("gateway.json5");
    let text = std::fs::read_to_string(&config).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    assert!(text.contains("port: 18789"));
    let text = text.replace("port: 18789", &format!("port: {port}"));
    std::fs::write(&config, text).unwrap();
    (dir, state)
}

fn port_of(state: &Path) -> u16 {
    let output = Command::new(gateway_bin())
        .args(["config", "get", "gateway.port", "--json"])
        .env("GATEWAY_STATE_DIR", state)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.chars()
        .filter(char::is_ascii_digit)
        .collect::<String>()
        .parse()
        .unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[test]
fn a_sound_place_is_sound() {
    let (_dir, state) = place();
    let look = doctor(&state, &[]);
    assert_eq!(look.code, 0, "{}", look.told);
    for id in [
        "state-dir",
        "permissions",
        "leftovers",
        "clock",
        "config",
        "secrets",
        "certificate",
        "stores",
        "port",
        "last-stop",
        "gateway",
    ] {
        look.well(id);
    }
    // How much room this machine has is its own affair; that it was looked at is not.
    assert_eq!(look.of("disk-room").len(), 1, "{}", look.told);
    let gone = doctor(&state.join("none"), &[]);
    gone.says("state-dir", "error", &["is not there", "gateway serve"]);
    assert_eq!(gone.code, 1);
}

#[test]
fn loose_files_are_found_and_closed() {
    let (_dir, state) = place();
    let token = state.join("secrets/main/gateway-token");
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o755)).unwrap();
    let before = doctor(&state, &[]);
    before.says(
        "permissions",
        "error",
        &["gateway-token (644)", "doctor --fix"],
    );
    assert_eq!(before.code, 1);
    let after = doctor(&state, &["--fix"]);
    assert_eq!(
        after.told["fixed"][0]["id"], "permissions",
        "{}",
        after.told
    );
    after.well("permissions");
    assert_eq!(after.code, 0, "{}", after.told);
    let mode = |p: &Path| std::fs::metadata(p).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&token), mode(&state)), (0o600, 0o700));
}

#[test]
fn a_broken_configuration_is_told_with_its_place() {
    let (_dir, state) = place();
    let config = state.join("gateway.json5");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, "{\n  gatewai: { port: 1 },\n}").unwrap();
    let look = doctor(&state, &[]);
    look.says(
        "config",
        "error",
        &["gatewai", "gateway.json5:2:", "rollback"],
    );
    std::fs::write(&config, text).unwrap();
    let secret = state.join("secrets/main/gateway-token");
    std::fs::write(&secret, "").unwrap();
    doctor(&state, &[]).says(
        "secrets",
        "error",
        &["gateway-token is empty", "secret set"],
    );
}

#[test]
fn who_holds_the_port_is_told() {
    let (_dir, state) = place();
    let _holder = std::net::TcpListener::bind(("127.0.0.1", port_of(&state))).unwrap();
    let me = format!("process {}", std::process::id());
    let look = doctor(&state, &[]);
    look.says(
        "port",
        "error",
        &["is in use by", &me, "config set gateway.port"],
    );
}

#[test]
fn a_killed_gateway_is_noticed_and_cleared_up() {
    let (_dir, state) = place();
    Gateway::start(&state, &[]).kill();
    let before = doctor(&state, &[]);
    before.says(
        "last-stop",
        "warning",
        &["without a chance to stop", "--fix"],
    );
    let after = doctor(&state, &["--fix"]);
    after.well("last-stop");
    assert!(!state.join("run/gateway.json").exists());
}

#[test]
fn damage_in_a_store_is_found_and_half_a_certificate() {
    let (_dir, state) = place();
    let tenants = std::fs::read_dir(state.join("tenants")).unwrap();
    let file = tenants
        .flatten()
        .next()
        .unwrap()
        .path()
        .join("tenant.sqlite");
    let mut bytes = std::fs::read(&file).unwrap();
    assert!(bytes.len() > 40_000);
    let middle = bytes.len() / 2;
    bytes[middle..middle + 12_288].fill(0x5a);
    std::fs::write(&file, bytes).unwrap();
    let look = doctor(&state, &[]);
    look.says("stores", "error", &["tenant main", "backup restore"]);

    let (_dir, state) = place();
    Gateway::start(&state, &["--tls"]).stop();
    doctor(&state, &[]).well("certificate");
    std::fs::remove_file(state.join("gateway/tls/gateway-key.pem")).unwrap();
    let look = doctor(&state, &[]);
    assert!(
        look.of("certificate").iter().any(|(s, _)| s == "error"),
        "{}",
        look.told
    );
}

#[test]
fn plugins_that_are_missing_or_another_are_told() {
    let (dir, state) = place();
    let plugins = dir.path().join("plugins");
    let copy = |id: &str| {
        std::fs::create_dir_all(plugins.join(id)).unwrap();
        for file in std::fs::read_dir(guests_dir().join(id)).unwrap().flatten() {
            std::fs::copy(file.path(), plugins.join(id).join(file.file_name())).unwrap();
        }
    };
    let set = |path: &str, value: &str| {
        let output = Command::new(gateway_bin())
            .args(["config", "set", path, value])
            .env("GATEWAY_STATE_DIR", &state)
            .env_remove("GATEWAY_URL")
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    set("plugins.dir", plugins.to_str().unwrap());
    doctor(&state, &[]).says("plugins", "error", &["is not there"]);
    copy("telegram");
    doctor(&state, &[]).says("plugins", "error", &["channels.webhook is configured"]);
    copy("webhook");
    doctor(&state, &[]).well("plugins");
    let output = Command::new(gateway_bin())
        .args(["plugin", "list", "--json"])
        .env("GATEWAY_STATE_DIR", &state)
        .output()
        .unwrap();
    let listed: Value = serde_json::from_slice(&output.stdout).unwrap();
    let webhook = listed["plugins"]
        .as_array()
        .unwrap()
        .iter()
        .find(|p| p["id"] == "webhook")
        .unwrap();
    assert_eq!(webhook["pin"], "none");
    set("plugins.pins.webhook", webhook["sha256"].as_str().unwrap());
    doctor(&state, &[]).well("plugins");
    let manifest = plugins.join("webhook/plugin.toml");
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, format!("{text}\n# another one\n")).unwrap();
    doctor(&state, &[]).says("plugins", "error", &["plugins.pins says"]);
    // The gateway does not load it either, and its health says why; the doctor then hears it from there.
    let gateway = Gateway::start(&state, &[]);
    let look = doctor(&state, &[]);
    look.says(
        "gateway",
        "error",
        &["plugin webhook was not loaded", "plugins.pins"],
    );
    look.well("port");
    gateway.stop();
}
