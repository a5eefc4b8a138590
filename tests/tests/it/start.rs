//! How the real binary starts: boot scripts and their policies, schema changes that are cut off, crash loops.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use gateway_tests::process::{Gateway, gateway_bin, guests_dir};
use gateway_tests::ws::Ws;
use serde_json::{Value, json};

/// How long a test waits for something to happen; not a performance statement.
const PATIENCE: Duration = Duration::from_secs(90);

fn put(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// Token of a tenant of these tests.
fn token(slug: &str) -> String {
    format!("{slug}-token-0123456789abcdef0123456789")
}

/// A state directory with tenants `main`, `acme` and `beta`, and this configuration over theirs.
fn three(over: Value) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().canonicalize().unwrap().join("state");
    let mut config = json!({
        "tenants": {
            "acme": {"auth": {"token": {"store": "t"}}},
            "beta": {"auth": {"token": {"store": "t"}}},
        },
    });
    merge(&mut config, over);
    put(&state.join("gateway.json5"), &config.to_string());
    put(&state.join("secrets/main/gateway-token"), &token("main"));
    for slug in ["acme", "beta"] {
        put(&state.join("secrets").join(slug).join("t"), &token(slug));
    }
    (dir, state)
}

fn merge(into: &mut Value, over: Value) {
    match (into, over) {
        (Value::Object(into), Value::Object(over)) => {
            for (key, value) in over {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, over) => *into = over,
    }
}

fn get(port: u16, path: &str) -> String {
    ask(port, path, None)
}

fn ask(port: u16, path: &str, token: Option<&str>) -> String {
    use std::io::{Read, Write};
    let mut socket = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let bearer = token.map_or_else(String::new, |t| format!("authorization: Bearer {t}\r\n"));
    let ask = format!(
        "GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n{bearer}connection: close\r\n\r\n"
    );
    socket.write_all(ask.as_bytes()).unwrap();
    let mut answer = String::new();
    let _ = socket.read_to_string(&mut answer);
    answer
}

async fn call(port: u16, slug: &str, method: &str, params: Value) -> Result<Value, Value> {
    let mut ws = Ws::connect(port, "/", &token(slug)).await?;
    let answer = ws.call(method, params).await;
    ws.close().await;
    answer
}

async fn health(port: u16, slug: &str) -> Value {
    call(port, slug, "health", json!({})).await.unwrap()
}

async fn send(port: u16, slug: &str) -> Result<Value, Value> {
    let key = format!("k-{}", std::process::id());
    let say = json!({"sessionKey": "main", "message": "hello", "idempotencyKey": key});
    call(port, slug, "chat.send", say).await
}

/// Runs `gateway serve` until it ends by itself.
fn serve_to_end(state: &Path, before: &[&str], extra: &[&str]) -> Output {
    let bin = gateway_bin();
    let words = [before, &[bin.to_str().unwrap()][..]].concat();
    Command::new(words[0])
        .args(&words[1..])
        .args(["serve", "--port", "0", "--state-dir"])
        .arg(state)
        .args(extra)
        .env_remove("GATEWAY_TOKEN")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_boot_script_does_what_its_policy_says() {
    let wasm = guests_dir();
    let flags = ["--wasm-dir", wasm.to_str().unwrap()];
    // `greeting` takes no number for a text.
    let script = |policy: Value| json!({"boot": {"scripts": {"greeting": {"onError": policy, "config": {"text": 3}}}}});
    // By default the tenant is degraded, and the gateway works.
    for (policy, state_word) in [
        (Value::Null, "degraded"),
        (json!("degrade"), "degraded"),
        (json!("continue"), "ok"),
    ] {
        let mut over = script(policy.clone());
        if policy.is_null() {
            over["boot"]["scripts"]["greeting"]
                .as_object_mut()
                .unwrap()
                .remove("onError");
        }
        let (_dir, state) = three(over);
        let gateway = Gateway::start(&state, &flags);
        let seen = health(gateway.port, "main").await["boot"].clone();
        assert_eq!(seen["state"], state_word, "{seen}");
        let row = &seen["scripts"][0];
        assert_eq!(row["state"], "failed");
        assert_eq!(row["tries"], 1);
        assert!(
            row["startedAt"].is_i64() && row["durationMs"].is_u64(),
            "{row}"
        );
        assert!(row["message"].as_str().unwrap().contains("text"), "{row}");
        assert!(get(gateway.port, "/readyz").starts_with("HTTP/1.1 200"));
        send(gateway.port, "main").await.unwrap();
        let (ok, listed, _) = gateway.cli(&["boot", "list", "--json"]);
        let listed: Value = serde_json::from_str(&listed).unwrap();
        assert!(
            ok && listed["scripts"][0]["onError"].is_string(),
            "{listed}"
        );
        let (ok, _, why) = gateway.cli(&["boot", "run", "greeting"]);
        assert!(!ok && why.contains("failed: greeting"), "{why}");
        let (ok, _, why) = gateway.cli(&["boot", "run", "nobody"]);
        assert!(!ok && why.contains("boot script"), "{why}");
        gateway.stop();
    }
    // `abort` of the tenant `main` keeps the gateway from starting.
    let (_dir, state) = three(script(json!("abort")));
    let ended = serve_to_end(&state, &[], &flags);
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(
        said.contains("boot script \"greeting\" of tenant main failed"),
        "{said}"
    );
    assert!(said.contains("boot.scripts.greeting.onError"), "{said}");
}

/// What a configuration names and the directory of plugins has not is a degraded entry of the health of that tenant alone; the
/// gateway is ready all the same, unless the policy of a boot script is `abort`. An edit that takes a hook or a channel out counts at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plugins_that_are_not_there_degrade_and_only_an_abort_keeps_it_from_being_ready() {
    let wasm = guests_dir();
    let flags = ["--wasm-dir", wasm.to_str().unwrap()];
    let secret = "a-signing-secret-of-this-test-0123456789";
    let (_dir, state) = three(json!({
        "boot": {"scripts": {"not-a-script": {"onError": "continue"}}},
        "hooks": {"components": [{"plugin": "not-a-hook"}]},
        "channels": {"not-a-channel": {"accounts": {"default": {"secrets": {"token": secret}}}}},
    }));
    let gateway = Gateway::start(&state, &flags);
    let port = gateway.port;
    let seen = health(port, "main").await["plugins"].clone();
    assert_eq!(seen["state"], "degraded", "{seen}");
    for (id, path) in [
        ("not-a-script", "boot.scripts.not-a-script"),
        ("not-a-hook", "hooks.components[0]"),
        ("not-a-channel", "channels.not-a-channel.accounts.default"),
    ] {
        let entry = seen["errors"].as_array().unwrap().iter();
        let entry: Vec<&Value> = entry.filter(|e| e["id"] == id).collect();
        assert_eq!(entry.len(), 1, "{seen}");
        assert_eq!(entry[0]["origin"], "config", "{seen}");
        assert_eq!(entry[0]["activated"], true, "{seen}");
        let said = entry[0]["error"].as_str().unwrap();
        assert!(
            said.starts_with(path) && said.contains("plugins.dir"),
            "{said}"
        );
    }
    let acme = health(port, "acme").await["plugins"].clone();
    assert_eq!(acme["state"], "ok", "{acme}");
    assert_eq!(acme["errors"], json!([]), "{acme}");
    assert!(get(port, "/readyz").starts_with("HTTP/1.1 200"));
    send(port, "main").await.unwrap();
    let (ok, told, _) = gateway.cli(&["health"]);
    assert!(ok && told.contains("not-a-hook"), "{told}");

    let base = call(port, "main", "config.get", json!({})).await.unwrap();
    let patch = json!({"hooks": {"components": null}, "channels": null});
    let done = call(
        port,
        "main",
        "config.patch",
        json!({"raw": patch.to_string(), "baseHash": base["hash"], "replacePaths": ["hooks.components"]}),
    )
    .await;
    assert!(done.is_ok(), "{done:?}");
    let seen = health(port, "main").await["plugins"].clone();
    let left: Vec<&Value> = seen["errors"].as_array().unwrap().iter().collect();
    assert!(left.len() == 1 && left[0]["id"] == "not-a-script", "{seen}");
    gateway.stop();

    // A tenant's abort is its own; that of `main` is everybody's.
    let scripts = json!({"scripts": {"not-a-script": {"onError": "abort"}}});
    let (_dir, state) = three(json!({"tenants": {"acme": {"boot": scripts}}}));
    let gateway = Gateway::start(&state, &flags);
    let answer = ask(gateway.port, "/readyz", Some(&token("acme")));
    assert!(
        answer.starts_with("HTTP/1.1 503") && answer.contains("boot-scripts"),
        "{answer}"
    );
    assert!(get(gateway.port, "/readyz").starts_with("HTTP/1.1 200"));
    gateway.stop();
    let (_dir, state) = three(json!({"boot": scripts}));
    let ended = serve_to_end(&state, &[], &flags);
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(
        said.contains("there is no plugin \"not-a-script\""),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn boot_md_is_an_agents_turn_and_a_tenants_abort_is_its_own() {
    let wasm = guests_dir();
    let flags = ["--wasm-dir", wasm.to_str().unwrap()];
    let scripts = json!({"scripts": {"boot-md": {"onError": "abort"}}});
    let (_dir, state) = three(json!({
        "boot": scripts,
        "agents": {"entries": {"main": {}, "second": {}, "third": {}}, "default": "main"},
        "tenants": {"acme": {"boot": scripts}, "beta": {"boot": scripts}},
    }));
    let file = |slug: &str, agent: &str| {
        state
            .join("workspaces")
            .join(slug)
            .join(agent)
            .join("BOOT.md")
    };
    put(&file("main", "main"), "Look at the mail.\n");
    put(&file("main", "second"), "  \n");
    std::fs::create_dir_all(file("acme", "main").parent().unwrap()).unwrap();
    std::fs::write(file("acme", "main"), [0xff, 0xfe, 0x00]).unwrap();
    let gateway = Gateway::start(&state, &flags);
    let port = gateway.port;

    // One turn, of the one agent with a text; the others have nothing to do, and no tenant sees another's.
    let seen = health(port, "main").await["boot"].clone();
    assert_eq!(seen["state"], "ok", "{seen}");
    assert_eq!(seen["scripts"][0]["message"], "given to main", "{seen}");
    let key = format!("agent:main:boot:{}", seen["bootId"].as_str().unwrap());
    let started = Instant::now();
    loop {
        let history = call(port, "main", "chat.history", json!({"sessionKey": key}))
            .await
            .unwrap();
        if history.to_string().contains("echo: Look at the mail.") {
            break;
        }
        assert!(started.elapsed() < PATIENCE, "{history}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let beta = health(port, "beta").await["boot"].clone();
    assert_eq!(
        beta["scripts"][0]["message"], "no agent has a BOOT.md",
        "{beta}"
    );

    // The tenant whose script failed takes no work, and its operator sees why; the others do not feel it.
    let held = health(port, "acme").await["held"].clone();
    assert_eq!(held["reason"], "boot-script", "{held}");
    assert!(
        held["message"].as_str().unwrap().contains("UTF-8"),
        "{held}"
    );
    let refusal = send(port, "acme").await.unwrap_err();
    assert_eq!(refusal["details"]["reason"], "boot-script", "{refusal}");
    assert_eq!(refusal["code"], "UNAVAILABLE");
    let answer = ask(port, "/readyz", Some(&token("acme")));
    assert!(
        answer.starts_with("HTTP/1.1 503") && answer.contains("boot-scripts"),
        "{answer}"
    );
    // Strangers, and other tenants, learn nothing of it.
    for who in [None, Some(token("beta"))] {
        let answer = ask(port, "/readyz", who.as_deref());
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    send(port, "main").await.unwrap();
    send(port, "beta").await.unwrap();

    // Mended, it starts without a new start of the gateway.
    put(&file("acme", "main"), "Mended.");
    let listed = call(port, "acme", "boot.run", json!({})).await.unwrap();
    assert_eq!(listed["scripts"][0]["state"], "ok", "{listed}");
    assert!(health(port, "acme").await["held"].is_null());
    send(port, "acme").await.unwrap();
    assert!(get(port, "/t/acme/readyz").starts_with("HTTP/1.1 200"));
    let got = call(
        port,
        "acme",
        "agents.files.get",
        json!({"agentId": "main", "name": "BOOT.md"}),
    )
    .await;
    assert_eq!(got.unwrap()["file"]["content"], "Mended.");
    for name in ["../main/main/BOOT.md", "/etc/passwd", "gateway.json5"] {
        let got = call(
            port,
            "acme",
            "agents.files.get",
            json!({"agentId": "main", "name": name}),
        )
        .await;
        assert_eq!(got.unwrap_err()["code"], "INVALID_REQUEST");
    }
    gateway.stop();
}

fn require_strace() {
    let there = Command::new("strace")
        .arg("-V")
        .stdout(Stdio::null())
        .status();
    assert!(
        there.is_ok_and(|s| s.success()),
        "this test needs strace (apt-get install strace)"
    );
}

/// The database of a tenant.
fn database(state: &Path, slug: &str) -> PathBuf {
    let host = rusqlite::Connection::open(state.join("host.sqlite")).unwrap();
    let dir: String = host
        .query_row("SELECT dir FROM tenants WHERE slug = ?1", [slug], |r| {
            r.get(0)
        })
        .unwrap();
    state.join("tenants").join(dir).join("tenant.sqlite")
}

/// A `gateway serve` that is killed when it opens the file; under strace, and as users start it.
struct Doomed {
    strace: std::process::Child,
    pid: u64,
    port: u16,
}

impl Drop for Doomed {
    fn drop(&mut self) {
        if let Ok(None) = self.strace.try_wait() {
            let _ = Command::new("kill")
                .args(["-KILL", &self.pid.to_string()])
                .status();
            let _ = self.strace.wait();
        }
    }
}

impl Doomed {
    fn start(state: &Path, file: &Path) -> Result<Self, String> {
        let run = state.join("run/gateway.json");
        let _ = std::fs::remove_file(&run);
        let log = state.with_extension("log");
        let sink = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap();
        // Without `--seccomp-bpf`: with it strace 6.1 loses the signal where a thread opens the file late.
        let mut strace = Command::new("strace")
            .args(["-f", "-o", "/dev/null", "-P"])
            .arg(file)
            .args(["-e", "trace=openat", "-e", "inject=openat:signal=SIGKILL"])
            .arg(gateway_bin())
            .args(["serve", "--port", "0", "--state-dir"])
            .arg(state)
            .env_remove("GATEWAY_TOKEN")
            .stdin(Stdio::null())
            .stdout(sink.try_clone().unwrap())
            .stderr(sink)
            .spawn()
            .unwrap();
        let started = Instant::now();
        loop {
            if let Ok(Some(status)) = strace.try_wait() {
                return Err(format!("{status}"));
            }
            let text = std::fs::read_to_string(&run).unwrap_or_default();
            let seen: Value = serde_json::from_str(&text).unwrap_or_default();
            if let Some(port) = seen["port"].as_u64().and_then(|p| u16::try_from(p).ok())
                && get(port, "/readyz").starts_with("HTTP/1.1 200")
            {
                let pid = seen["pid"].as_u64().unwrap();
                return Ok(Self { strace, pid, port });
            }
            assert!(
                started.elapsed() < PATIENCE,
                "{}",
                std::fs::read_to_string(&log).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn ended(mut self) {
        let started = Instant::now();
        while self.strace.try_wait().unwrap().is_none() {
            assert!(started.elapsed() < PATIENCE, "it lives on");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Covers: F26.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_crash_loop_only_the_tenant_that_is_the_reason_is_off() {
    require_strace();
    let (_dir, state) = three(json!({"gateway": {"limits": {"safeModeRetryMs": 6_000}}}));
    Gateway::start(&state, &[]).stop();
    let file = database(&state, "acme");
    // The third crash in a row makes it a loop.
    for n in 1..=3 {
        assert!(Doomed::start(&state, &file).is_err(), "start {n} came up");
    }
    let safe = Doomed::start(&state, &file).expect("safe mode comes up");
    let started = Instant::now();
    while send(safe.port, "beta").await.is_err() {
        assert!(started.elapsed() < PATIENCE, "the others do not work");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    send(safe.port, "main").await.unwrap();
    let main = health(safe.port, "main").await["safeMode"].clone();
    assert_eq!(main["tenants"], json!(["acme"]), "{main}");
    // Who that is is nobody else's business.
    let beta = health(safe.port, "beta").await["safeMode"].clone();
    assert!(
        beta["tenants"].is_null() && beta["message"].is_string(),
        "{beta}"
    );
    let acme = health(safe.port, "acme").await["held"].clone();
    assert_eq!(acme["reason"], "safe-mode", "{acme}");
    assert!(acme["retryAt"].is_i64(), "{acme}");
    let refusal = send(safe.port, "acme").await.unwrap_err();
    assert_eq!(refusal["code"], "UNAVAILABLE", "{refusal}");
    assert_eq!(refusal["details"]["reason"], "safe-mode");
    let answer = ask(safe.port, "/readyz", Some(&token("acme")));
    assert!(
        answer.starts_with("HTTP/1.1 503") && answer.contains("safe-mode"),
        "{answer}"
    );
    // After a while it is tried again; it is still broken, and one crash is enough to keep it off again.
    tokio::task::block_in_place(|| safe.ended());
    let gateway = Gateway::start_plain(&state, &[], &[]);
    let acme = health(gateway.port, "acme").await["held"].clone();
    assert_eq!(acme["reason"], "safe-mode", "{acme}");
    send(gateway.port, "beta").await.unwrap();
    // Now nothing kills: by itself it comes back.
    let started = Instant::now();
    while send(gateway.port, "acme").await.is_err() {
        assert!(
            started.elapsed() < PATIENCE,
            "{}",
            health(gateway.port, "acme").await
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(health(gateway.port, "acme").await["held"].is_null());
    assert!(health(gateway.port, "main").await["safeMode"].is_null());
    gateway.stop();
}

/// Covers: F26.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn safe_mode_can_be_asked_for() {
    let (_dir, state) = three(json!({}));
    let log = state.with_extension("log");
    let sink = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log)
        .unwrap();
    let mut child = Command::new(gateway_bin())
        .args(["serve", "--safe-mode", "--port", "0", "--state-dir"])
        .arg(&state)
        .env_remove("GATEWAY_TOKEN")
        .stdin(Stdio::null())
        .stdout(sink.try_clone().unwrap())
        .stderr(sink)
        .spawn()
        .unwrap();
    let started = Instant::now();
    let port = loop {
        let text = std::fs::read_to_string(state.join("run/gateway.json")).unwrap_or_default();
        let seen: Value = serde_json::from_str(&text).unwrap_or_default();
        if let Some(port) = seen["port"].as_u64().and_then(|p| u16::try_from(p).ok())
            && let Ok(seen) = call(port, "main", "health", json!({})).await
        {
            assert!(
                seen["safeMode"]["message"]
                    .as_str()
                    .unwrap()
                    .contains("--safe-mode"),
                "{seen}"
            );
            break port;
        }
        assert!(
            started.elapsed() < PATIENCE,
            "{}",
            std::fs::read_to_string(&log).unwrap_or_default()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    for slug in ["main", "acme"] {
        assert_eq!(health(port, slug).await["held"]["reason"], "safe-mode");
        assert_eq!(
            send(port, slug).await.unwrap_err()["details"]["reason"],
            "safe-mode"
        );
    }
    assert!(get(port, "/readyz").contains("safe-mode"));
    let _ = Command::new("kill")
        .args(["-TERM", &child.id().to_string()])
        .status();
    let status = tokio::task::block_in_place(|| child.wait()).unwrap();
    assert!(status.success());
    // The next start without it is an ordinary one.
    let gateway = Gateway::start_plain(&state, &[], &[]);
    send(gateway.port, "acme").await.unwrap();
    gateway.stop();
}

/// Covers: F9.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_of_a_newer_gateway_is_refused_untouched() {
    let (_dir, state) = three(json!({}));
    Gateway::start(&state, &[]).stop();
    // A tenant's file: that tenant is out of service, the others are not.
    let file = database(&state, "acme");
    let version = |file: &Path, to: i64| {
        let db = rusqlite::Connection::open(file).unwrap();
        let was: i64 = db
            .pragma_query_value(None, "user_version", |r| r.get(0))
            .unwrap();
        db.pragma_update(None, "user_version", to).unwrap();
        was
    };
    let was = version(&file, 99);
    let before = std::fs::read(&file).unwrap();
    let gateway = Gateway::start(&state, &[]);
    send(gateway.port, "main").await.unwrap();
    assert!(send(gateway.port, "acme").await.is_err());
    gateway.stop();
    assert_eq!(std::fs::read(&file).unwrap(), before);
    version(&file, was);
    // The host's file: nothing starts, and the message says what to do.
    let host = state.join("host.sqlite");
    version(&host, 99);
    let before = std::fs::read(&host).unwrap();
    let ended = serve_to_end(&state, &[], &[]);
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(
        said.contains("schema 99") && said.contains("newer gateway"),
        "{said}"
    );
    assert!(
        said.contains("next: start the newer gateway again"),
        "{said}"
    );
    assert_eq!(std::fs::read(&host).unwrap(), before);
}
