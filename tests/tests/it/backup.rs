//! Backups of a real gateway: under load, and with kills in the middle.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gateway_tests::process::{Gateway, gateway_bin};
use gateway_tests::ws::Ws;
use serde_json::{Value, json};

fn long() -> bool {
    std::env::var_os("GATEWAY_LONG").is_some()
}

fn program(state: &Path) -> Command {
    let mut command = Command::new(gateway_bin());
    command
        .env_remove("GATEWAY_TOKEN")
        .env_remove("GATEWAY_URL")
        .env("GATEWAY_STATE_DIR", state)
        .stdin(Stdio::null());
    command
}

fn backup(state: &Path, args: &[&str]) -> Result<Value, String> {
    let output = program(state)
        .arg("backup")
        .args(args)
        .arg("--json")
        .output()
        .unwrap();
    if output.status.success() {
        Ok(serde_json::from_slice(&output.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

async fn texts(gateway: &Gateway) -> Vec<String> {
    let mut ws = Ws::connect(gateway.port, "/", &gateway.token())
        .await
        .unwrap();
    let history = ws
        .call("chat.history", json!({"sessionKey": "main", "limit": 1000}))
        .await
        .unwrap();
    let found = history["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["content"].to_string())
        .collect();
    ws.close().await;
    found
}

/// While one client writes without a pause, a backup is made; then the gateway is killed and the backup is put where
/// nothing is. Everything that was answered before `create` was called is there, the texts are a gapless beginning of what
/// was written, and the restored gateway takes the old token.
///
/// Covers: F32.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_under_load_has_everything_that_was_accepted_before() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let gateway = Gateway::start(&state, &[]);
    let stop = Arc::new(AtomicBool::new(false));
    let accepted = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let writer = {
        let (stop, accepted) = (stop.clone(), accepted.clone());
        let (port, token) = (gateway.port, gateway.token());
        tokio::spawn(async move {
            let mut ws = Ws::connect(port, "/", &token).await.unwrap();
            while !stop.load(Ordering::Acquire) {
                let n = accepted.load(Ordering::Acquire);
                ws.call(
                    "chat.inject",
                    json!({"sessionKey": "main", "message": format!("text-{n:06}")}),
                )
                .await
                .unwrap();
                accepted.store(n + 1, Ordering::Release);
                // A history shows at most 1,000 texts.
                tokio::time::sleep(Duration::from_millis(15)).await;
            }
        })
    };
    while accepted.load(Ordering::Acquire) < 50 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let before = accepted.load(Ordering::Acquire);
    let file = dir.path().join("live.tar.gz");
    let at = state.clone();
    let out = file.clone();
    let made = tokio::task::spawn_blocking(move || {
        backup(&at, &["create", out.to_str().unwrap(), "--with-secrets"])
    })
    .await
    .unwrap()
    .unwrap();
    let after = accepted.load(Ordering::Acquire);
    stop.store(true, Ordering::Release);
    writer.await.unwrap();
    assert_eq!(made["live"], true, "{made}");
    assert!(after > before, "nothing was written meanwhile");
    let token = gateway.token();
    gateway.kill();

    let restored = dir.path().join("elsewhere");
    backup(&restored, &["restore", file.to_str().unwrap()]).unwrap();
    let gateway = Gateway::start(&restored, &[]);
    assert_eq!(gateway.token(), token);
    let found = texts(&gateway).await;
    assert!(
        found.len() >= before,
        "{} of {before} texts are there",
        found.len()
    );
    for (n, text) in found.iter().enumerate() {
        assert!(text.contains(&format!("text-{n:06}")), "{n}: {text}");
    }
    // The gateway that runs is not replaced, and says who holds the place.
    let refused = backup(&restored, &["restore", file.to_str().unwrap(), "--force"]).unwrap_err();
    assert!(
        refused.contains("in use by process") && refused.contains("next"),
        "{refused}"
    );
}

/// Only the tenant's own operator gets its snapshot; another tenant's cannot have the whole; an unknown place is not found.
#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_backs_up_itself_and_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    // The first start makes the files.
    Gateway::start(&state, &[]).stop();
    let config = std::fs::read_to_string(state.join("gateway.json5")).unwrap();
    std::fs::create_dir_all(state.join("secrets/acme")).unwrap();
    std::fs::write(
        state.join("secrets/acme/acme-token"),
        "f0e1d2c3b4a5968778695a4b3c2d1e0f00112233",
    )
    .unwrap();
    for path in ["secrets/acme", "secrets/acme/acme-token"] {
        use std::os::unix::fs::PermissionsExt;
        let mode = if path.ends_with("token") {
            0o600
        } else {
            0o700
        };
        std::fs::set_permissions(state.join(path), std::fs::Permissions::from_mode(mode)).unwrap();
    }
    assert!(config.contains("\n  tenants: {"));
    let config = config.replacen(
        "\n  tenants: {",
        "\n  tenants: { acme: { auth: { token: { store: 'acme-token' } } },",
        1,
    );
    std::fs::write(state.join("gateway.json5"), config).unwrap();
    let gateway = Gateway::start(&state, &[]);
    let token = "f0e1d2c3b4a5968778695a4b3c2d1e0f00112233";
    let mut acme = Ws::connect(gateway.port, "/t/acme/", token).await.unwrap();
    acme.call(
        "chat.inject",
        json!({"sessionKey": "main", "message": "only of acme"}),
    )
    .await
    .unwrap();
    let refused = acme
        .call(
            "backup.snapshot",
            json!({"snapshotId": "abcdefghijklmnop", "scope": "gateway"}),
        )
        .await
        .unwrap_err();
    assert_eq!(refused["details"]["code"], "CAPABILITY_DENIED", "{refused}");
    for id in ["abcdefghijklmnop", "../../../../tmp/x", "."] {
        let refused = acme
            .call("backup.snapshot", json!({"snapshotId": id}))
            .await
            .unwrap_err();
        assert_eq!(refused["details"]["code"], "NOT_FOUND", "{id}: {refused}");
    }
    let file = dir.path().join("acme.tar.gz");
    let made = backup(
        &state,
        &["create", file.to_str().unwrap(), "--tenant", "acme"],
    )
    .unwrap();
    let slugs: Vec<&str> = made["tenants"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t["slug"].as_str().unwrap())
        .collect();
    assert_eq!(slugs, ["acme"]);
    assert_eq!(made["kind"], "tenant");
    assert_eq!(made["files"], 1, "{made}");
    gateway.stop();
    let refused = backup(&state, &["restore", file.to_str().unwrap()]).unwrap_err();
    assert!(refused.contains("has files already"), "{refused}");
    let done = backup(
        &state,
        &["restore", file.to_str().unwrap(), "--tenant", "fresh"],
    )
    .unwrap();
    assert_eq!(done["tenant"], "fresh");
    // Without a running gateway the files themselves are read.
    let all = dir.path().join("all.tar.gz");
    let made = backup(&state, &["create", all.to_str().unwrap()]).unwrap();
    assert_eq!(made["live"], false);
    let slugs: Vec<&str> = made["tenants"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t["slug"].as_str().unwrap())
        .collect();
    assert_eq!(slugs, ["acme", "fresh", "main"]);
    let seen = backup(&state, &["verify", all.to_str().unwrap()]).unwrap();
    assert_eq!(seen["verified"]["databases"], 4);
}

/// Runs `gateway backup …` and kills it after `wait`. Gives whether it was cut off.
fn cut_off(state: &Path, args: &[&str], wait: Duration) -> bool {
    let mut child = program(state)
        .arg("backup")
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while begun.elapsed() < wait {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let _ = child.kill();
    let _ = child.wait();
    true
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// `create` and `restore` are killed at many moments. There is never a half archive under its name, and the state directory is
/// always the whole old one or the whole new one; what the killed left is cleared by the next one.
///
/// Covers: F32.
#[tokio::test(flavor = "multi_thread")]
async fn kills_in_the_middle_leave_nothing_half() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let gateway = Gateway::start(&state, &[]);
    let mut ws = Ws::connect(gateway.port, "/", &gateway.token())
        .await
        .unwrap();
    for n in 0..40 {
        let text = format!("old {n} {}", "x".repeat(4_000));
        ws.call(
            "chat.inject",
            json!({"sessionKey": "main", "message": text}),
        )
        .await
        .unwrap();
    }
    let out = dir.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let file: PathBuf = out.join("b.tar.gz");
    let begun = Instant::now();
    backup(
        &state,
        &["create", file.to_str().unwrap(), "--with-secrets"],
    )
    .unwrap();
    let whole = begun.elapsed();
    let rounds = if long() { 100 } else { 14 };
    let mut cut = 0;
    for round in 0..rounds {
        let again = out.join("again.tar.gz");
        let wait = whole.mul_f64(f64::from(round) / f64::from(rounds));
        if cut_off(&state, &["create", again.to_str().unwrap()], wait) {
            cut += 1;
        }
        if again.exists() {
            backup(&state, &["verify", again.to_str().unwrap()]).unwrap();
            std::fs::remove_file(&again).unwrap();
        }
    }
    assert!(cut * 2 > rounds, "only {cut} of {rounds} were cut off");
    let again = out.join("again.tar.gz");
    backup(&state, &["create", again.to_str().unwrap()]).unwrap();
    assert_eq!(names(&out), ["again.tar.gz", "b.tar.gz"]);
    assert_eq!(names(&state.join("snapshots")), Vec::<String>::new());
    // From here on the state directory differs from the archive.
    ws.call(
        "chat.inject",
        json!({"sessionKey": "main", "message": "newer than the backup"}),
    )
    .await
    .unwrap();
    ws.close().await;
    gateway.stop();
    let host = std::fs::read(state.join("host.key")).unwrap();
    let begun = Instant::now();
    let scratch = dir.path().join("scratch/state");
    backup(&scratch, &["restore", file.to_str().unwrap()]).unwrap();
    let whole = begun.elapsed();
    let mut restored = 0;
    for round in 0..rounds {
        let wait = whole.mul_f64(f64::from(round) / f64::from(rounds) * 1.3);
        cut_off(
            &state,
            &["restore", file.to_str().unwrap(), "--force"],
            wait,
        );
        assert_eq!(
            std::fs::read(state.join("host.key")).unwrap(),
            host,
            "round {round}"
        );
        let check = out.join("check.tar.gz");
        // Opens every database of the directory, whichever it is.
        backup(&state, &["create", check.to_str().unwrap()]).unwrap();
        std::fs::remove_file(&check).unwrap();
        restored = names(dir.path())
            .iter()
            .filter(|n| n.starts_with("state.before-restore"))
            .count();
        if restored > 0 {
            break;
        }
    }
    if restored == 0 {
        backup(&state, &["restore", file.to_str().unwrap(), "--force"]).unwrap();
    }
    let gateway = Gateway::start(&state, &[]);
    let found = texts(&gateway).await;
    assert_eq!(found.len(), 40);
    gateway.stop();
    // What was there before is beside, whole.
    let mut before = Vec::new();
    for kept in names(dir.path()) {
        if kept.starts_with("state.before-restore") && !kept.ends_with(".log") {
            let gateway = Gateway::start(&dir.path().join(kept), &[]);
            before.push(texts(&gateway).await.len());
            gateway.stop();
        }
    }
    assert!(before.contains(&41), "{before:?}");
}
