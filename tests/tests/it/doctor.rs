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
    doctor(&state, &[]).says(
        "plugins",
        "error",
        &["channels.webhook.accounts.default names the plugin webhook"],
    );
    copy("webhook");
    copy("greeting");
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

/// What the configuration names and the directory of plugins has not, or has as something else: told before a start, and by the
/// running gateway's health; each place by its path, until it is mended.
#[test]
fn a_boot_script_a_hook_and_a_channel_without_their_plugin_are_told() {
    let (dir, state) = place();
    let plugins = dir.path().join("plugins");
    let copy = |id: &str| {
        std::fs::create_dir_all(plugins.join(id)).unwrap();
        for file in std::fs::read_dir(guests_dir().join(id)).unwrap().flatten() {
            std::fs::copy(file.path(), plugins.join(id).join(file.file_name())).unwrap();
        }
    };
    doctor(&state, &[]).says(
        "plugins",
        "warning",
        &["names the plugin webhook", "--wasm-dir"],
    );
    copy("webhook");
    let path = state.join("gateway.json5");
    let write = |channels: Value| {
        let config = serde_json::json!({
            "plugins": {"dir": plugins},
            "channels": channels,
            "boot": {"scripts": {"greeting": {}, "webhook": {}}},
            "hooks": {"components": [{"plugin": "hook-words"}, {"plugin": "webhook"}]},
            "gateway": {"port": port_of(&state), "auth": {"token": {"store": "gateway-token"}}},
            "tenants": {"acme": {
                "auth": {"token": "the-token-of-acme-0123456789abcdefghijklmnopq"},
                "hooks": {"components": [{"plugin": "hook-acme"}]},
            }},
        });
        std::fs::write(&path, config.to_string()).unwrap();
    };
    // The account that is off names nothing.
    write(serde_json::json!({"telegram": {"accounts": {"off": {"enabled": false}}}}));
    let told = [
        "boot.scripts.greeting names the plugin greeting (a boot script), which is not there",
        "boot.scripts.webhook names the plugin webhook as a boot script, and it is a channel",
        "hooks.components[0] names the plugin hook-words (a hook component), which is not there",
        "hooks.components[1] names the plugin webhook as a hook component, and it is a channel",
    ];
    let acme = "tenants.acme.hooks.components[0] names the plugin hook-acme";
    let look = doctor(&state, &[]);
    assert_eq!(look.code, 1, "{}", look.told);
    for words in told.into_iter().chain([acme]) {
        look.says("plugins", "error", &[words, "plugins.dir"]);
    }
    assert_eq!(look.of("plugins").len(), told.len() + 1, "{}", look.told);

    let gateway = Gateway::start(&state, &[]);
    let look = doctor(&state, &[]);
    for words in told {
        look.says("gateway", "error", &[words]);
    }
    // What another tenant's settings name is not in this tenant's health.
    assert!(
        look.of("gateway").iter().all(|(_, t)| !t.contains("acme")),
        "{}",
        look.told
    );
    gateway.stop();

    copy("greeting");
    copy("hook-words");
    write(serde_json::json!({}));
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text.replace(r#","webhook":{}"#, "");
    let text = text.replace(r#",{"plugin":"webhook"}"#, "");
    std::fs::write(&path, text.replace("hook-acme", "hook-words")).unwrap();
    doctor(&state, &[]).well("plugins");
    let gateway = Gateway::start(&state, &[]);
    let look = doctor(&state, &[]);
    look.well("plugins");
    look.well("gateway");
    gateway.stop();
}

#[test]
fn secrets_that_cannot_be_read_or_are_empty_are_told_with_whose_they_are() {
    let (_dir, state) = place();
    let of = state.join("secrets/acme");
    std::fs::create_dir_all(of.join("a-directory")).unwrap();
    std::fs::write(of.join("empty"), "").unwrap();
    for path in [&of, &of.join("a-directory")] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).unwrap();
    }
    std::fs::set_permissions(of.join("empty"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let look = doctor(&state, &[]);
    look.says(
        "secrets",
        "error",
        &["a-directory", "cannot be read", "chmod 600"],
    );
    look.says(
        "secrets",
        "error",
        &["empty is empty", "gateway secret set empty --tenant acme"],
    );
    assert_eq!(look.code, 1);
    std::fs::remove_dir_all(&of).unwrap();
    doctor(&state, &[]).well("secrets");
}

#[test]
fn a_secret_that_its_owner_may_not_read_is_found() {
    let (dir, state) = place();
    std::fs::set_permissions(
        state.join("secrets/main/gateway-token"),
        std::fs::Permissions::from_mode(0o000),
    )
    .unwrap();
    // Root reads everything, so somebody else has to look at a place of his own.
    let given = Command::new("chown")
        .args(["-R", "65534:65534"])
        .arg(dir.path())
        .stderr(Stdio::null())
        .status();
    let output = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(gateway_bin())
        .args(["doctor", "--json", "--state-dir"])
        .arg(&state)
        .env_remove("GATEWAY_URL")
        .stdin(Stdio::null())
        .output();
    let (Ok(true), Ok(output)) = (given.map(|s| s.success()), output) else {
        eprintln!("!!! LEFT OUT: no second user (root, setpriv)");
        return;
    };
    let Ok(told) = serde_json::from_slice(&output.stdout) else {
        eprintln!("!!! LEFT OUT: the second user cannot run the program");
        return;
    };
    let code = output.status.code().unwrap();
    let look = Look { told, code };
    look.says(
        "secrets",
        "error",
        &["gateway-token", "Permission denied", "chmod 600"],
    );
    look.says("config", "error", &["gateway-token"]);
}

#[test]
fn copies_of_a_backup_that_was_killed_are_swept() {
    let (dir, state) = place();
    // The copies stand still while they are packed: then it is killed.
    let archive = dir.path().join("backup.tar.gz");
    let snapshots = state.join("snapshots");
    let mut left = false;
    for _ in 0..20 {
        let mut child = Command::new(gateway_bin())
            .args(["backup", "create"])
            .arg(&archive)
            .arg("--state-dir")
            .arg(&state)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while child.try_wait().unwrap().is_none() {
            left = std::fs::read_dir(&snapshots).is_ok_and(|d| d.flatten().count() > 0);
            if left {
                let _ = child.kill();
                break;
            }
        }
        child.wait().unwrap();
        left = left && std::fs::read_dir(&snapshots).is_ok_and(|d| d.flatten().count() > 0);
        if left {
            break;
        }
        let _ = std::fs::remove_file(&archive);
    }
    assert!(left, "no backup could be cut off");
    doctor(&state, &[]).says("leftovers", "warning", &["1 unfinished", "doctor --fix"]);
    let after = doctor(&state, &["--fix"]);
    after.well("leftovers");
    assert!(
        after.told["fixed"].to_string().contains("removed 1"),
        "{}",
        after.told
    );
}

#[test]
fn files_of_nobody_and_a_clock_that_was_set_back_are_told() {
    let (_dir, state) = place();
    let tenants = state.join("tenants");
    let own = std::fs::read_dir(&tenants)
        .unwrap()
        .flatten()
        .next()
        .unwrap()
        .path();
    let lost = tenants.join("aaaaaaaaaaaaaaaa");
    std::fs::create_dir(&lost).unwrap();
    std::fs::set_permissions(&lost, std::fs::Permissions::from_mode(0o700)).unwrap();
    std::fs::copy(own.join("tenant.sqlite"), lost.join("tenant.sqlite")).unwrap();
    let look = doctor(&state, &[]);
    look.says("orphans", "warning", &["aaaaaaaaaaaaaaaa", "remove them"]);
    look.well("stores");
    std::fs::remove_dir_all(&lost).unwrap();
    doctor(&state, &[]).well("orphans");

    let file = std::fs::File::options()
        .append(true)
        .open(state.join("host.sqlite"))
        .unwrap();
    let ahead = std::time::SystemTime::now() + std::time::Duration::from_secs(2 * 3_600);
    file.set_modified(ahead).unwrap();
    let look = doctor(&state, &[]);
    look.says(
        "clock",
        "warning",
        &["minutes newer than now", "timedatectl"],
    );
    assert_eq!(look.code, 0, "{}", look.told);
    file.set_modified(std::time::SystemTime::now()).unwrap();
    doctor(&state, &[]).well("clock");
}

#[test]
fn another_version_that_runs_is_told() {
    let (_dir, state) = place();
    let gateway = Gateway::start(&state, &[]);
    let file = state.join("run/gateway.json");
    let mut run: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    run["version"] = "0.0.1".into();
    std::fs::write(&file, run.to_string()).unwrap();
    let look = doctor(&state, &[]);
    look.says("gateway", "warning", &["0.0.1 runs", "restart the gateway"]);
    gateway.stop();
}

/// In a network that nobody else is in: no multicast, and the running gateway says so.
#[test]
fn a_gateway_that_cannot_announce_itself_is_told() {
    let (_dir, state) = place();
    let mut child = match Command::new("unshare")
        .args(["-n", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh"])
        .arg(gateway_bin())
        .args([
            "serve",
            "--tls",
            "--bind",
            "lan",
            "--port",
            "0",
            "--state-dir",
        ])
        .arg(&state)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
    {
        Ok(child) => child,
        Err(e) => {
            eprintln!("!!! LEFT OUT: no network namespaces ({e})");
            return;
        }
    };
    let started = std::time::Instant::now();
    let patience = std::time::Duration::from_secs(60);
    let said = loop {
        if let Ok(Some(status)) = child.try_wait() {
            eprintln!("!!! LEFT OUT: this user may not make network namespaces ({status})");
            return;
        }
        let output = Command::new("nsenter")
            .args(["-t", &child.id().to_string(), "-n"])
            .arg(gateway_bin())
            .args(["doctor", "--json", "--state-dir"])
            .arg(&state)
            .env_remove("GATEWAY_URL")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        if let Ok(told) = serde_json::from_slice(&output.stdout) {
            let code = output.status.code().unwrap();
            let look = Look { told, code };
            if look.of("discovery").iter().any(|(s, _)| s == "warning") {
                break look;
            }
        }
        assert!(
            started.elapsed() < patience,
            "{}",
            String::from_utf8_lossy(&output.stdout)
        );
        std::thread::sleep(std::time::Duration::from_millis(200));
    };
    said.says(
        "discovery",
        "warning",
        &["cannot announce itself", "discovery.mdns.mode"],
    );
    let _ = child.kill();
    let _ = child.wait();
}
