//! Clients of others against the real binary: `tests/clients/*`.
//!
//! Each script gets URL and TOKEN, prints one line for each check (`ok …` or `not ok …`) and fails if one failed.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::ui::{Result, Steps};
use crate::{guests, scan, serve, sh, tools};

/// How long a start may take; no statement about speed.
const START_PATIENCE: Duration = Duration::from_secs(120);

/// Runs all scripts as steps.
pub fn run(steps: &mut Steps, python: &Path, node: &tools::Node, long: bool) {
    let mut stage = None;
    if !steps.check("start a gateway for the clients", || {
        let started = Stage::start(node)?;
        let note = started.url.clone();
        stage = Some(started);
        Ok(note)
    }) {
        return;
    }
    let Some(stage) = stage else { return };
    let dir = sh::root().join("tests/clients");
    let scripts_dir = node_scripts(node);
    let scripts: [(&str, &Path, &str); 7] = [
        (
            "OpenClaw's gateway-client",
            &node.node,
            "gateway_client.mjs",
        ),
        ("OpenAI SDK for JavaScript", &node.node, "openai_sdk.mjs"),
        ("OpenAI SDK for Python", python, "openai_sdk.py"),
        ("JSON-RPC clients (Python)", python, "jsonrpc_client.py"),
        (
            "JSON-RPC client (JavaScript)",
            &node.node,
            "jsonrpc_client.mjs",
        ),
        (
            "OpenAPI conformance (schemathesis)",
            python,
            "openapi_run.py",
        ),
        ("WebSocket conformance (kosoku)", python, "kosoku_run.py"),
    ];
    for (name, program, script) in scripts {
        steps.run_counted(name, || {
            let mut cmd = Command::new(program);
            cmd.arg(if script.ends_with(".mjs") {
                scripts_dir.join(script)
            } else {
                dir.join(script)
            })
            .current_dir(&stage.dir);
            cmd.env("URL", &stage.url)
                .env("TOKEN", &stage.token)
                .env("PYTHONDONTWRITEBYTECODE", "1")
                .env("OPENAPI_FILE", sh::root().join("docs/openapi.json"));
            cmd.env("PATH", path_with(python))
                .env("GATEWAY_NODE_MODULES", node.home.join("node_modules"));
            if long {
                cmd.env("GATEWAY_LONG", "1");
            }
            let (count, result) = sh::run_counting(&mut cmd);
            let result = match result {
                Ok(()) if count.passed == 0 => Err("the script made no check".to_owned()),
                Ok(()) => Ok(String::new()),
                Err(why) => Err(format!(
                    "{why}; log of the gateway: {}",
                    stage.log.display()
                )),
            };
            (count, result)
        });
    }
    let plain = steps.check("stop the gateway", || stage.stop());
    let tls = run_tls(steps, python, node);
    if plain && tls {
        return;
    }
    println!(
        "[xtask test] the gateway's log is kept in {}",
        sh::target_dir().join("clients").display()
    );
}

/// The published client with a pin, and the scanners, against a gateway that speaks TLS.
fn run_tls(steps: &mut Steps, python: &Path, node: &tools::Node) -> bool {
    let mut stage = None;
    if !steps.check("start a gateway with TLS", || {
        let started = TlsStage::start()?;
        let note = format!("https://127.0.0.1:{}", started.port);
        stage = Some(started);
        Ok(note)
    }) {
        return false;
    }
    let Some(stage) = stage else { return false };
    let scan = sh::root().join("tests/clients/tls_scan.py");
    let client = node_scripts(node).join("gateway_client_tls.mjs");
    let scripts: [(&str, &Path, &Path); 2] = [
        ("OpenClaw's gateway-client over TLS", &node.node, &client),
        ("sslyze", python, &scan),
    ];
    let mut all = true;
    for (name, program, script) in scripts {
        all &= steps.run_counted(name, || {
            let mut cmd = Command::new(program);
            cmd.arg(script).current_dir(&stage.dir);
            cmd.env("URL", format!("https://127.0.0.1:{}", stage.port))
                .env("TOKEN", &stage.token)
                .env("TLS_FINGERPRINT", &stage.fingerprint)
                .env("PYTHONDONTWRITEBYTECODE", "1");
            let (count, result) = sh::run_counting(&mut cmd);
            match result {
                Ok(()) if count.passed == 0 => (count, Err("the script made no check".to_owned())),
                other => (count, other.map(|()| String::new())),
            }
        });
    }
    all &= steps.run_counted("testssl.sh", || scan::testssl(stage.port, &stage.dir));
    all & steps.check("stop the gateway with TLS", || {
        stop(stage.gateway, &stage.log)
    })
}

/// A gateway that made its own certificate.
struct TlsStage {
    gateway: Killed,
    dir: PathBuf,
    log: PathBuf,
    port: u16,
    token: String,
    fingerprint: String,
}

impl TlsStage {
    fn start() -> Result<Self> {
        let dir = sh::target_dir().join("clients-tls");
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        let state = dir.join("state");
        let log = dir.join("gateway.log");
        let sink = File::create(&log).map_err(|e| format!("{}: {e}", log.display()))?;
        let copy = sink.try_clone().map_err(|e| e.to_string())?;
        let token = random_hex()?;
        let mut cmd = Command::new(serve::binary_path("dev"));
        cmd.args(["serve", "--tls", "--port", "0", "--state-dir"])
            .arg(&state)
            .env("GATEWAY_TOKEN", &token)
            .stdin(Stdio::null())
            .stdout(sink)
            .stderr(copy);
        println!("  $ {}", sh::shown(&cmd));
        let mut gateway = Killed(
            cmd.spawn()
                .map_err(|e| format!("the gateway did not start: {e}"))?,
        );
        let started = Instant::now();
        while started.elapsed() < START_PATIENCE {
            if let Ok(Some(status)) = gateway.0.try_wait() {
                let log = tail(&log);
                return Err(format!("the gateway ended at start with {status}\n{log}"));
            }
            if let Some(port) = read_port(&state, gateway.0.id()) {
                // `health` waits until the gateway is ready, and pins what the state directory tells.
                let mut health = Command::new(serve::binary_path("dev"));
                health
                    .args(["health", "--json", "--state-dir"])
                    .arg(&state)
                    .env("GATEWAY_TOKEN", &token);
                let text = sh::output(&mut health)?;
                let health: serde_json::Value =
                    serde_json::from_str(&text).map_err(|e| e.to_string())?;
                let fingerprint = health["tls"]["fingerprint"].as_str();
                return Ok(Self {
                    fingerprint: fingerprint.unwrap_or_default().to_owned(),
                    gateway,
                    dir,
                    log,
                    port,
                    token,
                });
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err(format!("the gateway does not start\n{}", tail(&log)))
    }
}

fn node_scripts(node: &tools::Node) -> PathBuf {
    node.home.join("checks")
}

/// Node looks for packages beside the script and above it: the scripts are copied to where the packages are.
fn copy_scripts(node: &tools::Node) -> Result<()> {
    let from = sh::root().join("tests/clients");
    let entries = std::fs::read_dir(&from).map_err(|e| format!("{}: {e}", from.display()))?;
    for path in entries.flatten().map(|e| e.path()) {
        if let (true, Some(name)) = (
            path.extension().is_some_and(|e| e == "mjs"),
            path.file_name(),
        ) {
            let bytes = std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            sh::write_atomic(&node_scripts(node).join(name), &bytes)?;
        }
    }
    Ok(())
}

fn path_with(python: &Path) -> std::ffi::OsString {
    let mut dirs: Vec<PathBuf> = python.parent().map(Path::to_path_buf).into_iter().collect();
    if let Some(path) = std::env::var_os("PATH") {
        dirs.extend(std::env::split_paths(&path));
    }
    std::env::join_paths(dirs).unwrap_or_default()
}

/// A gateway with two agents (echo, and a slow one behind a model double) and the double.
struct Stage {
    gateway: Killed,
    _upstream: Killed,
    dir: PathBuf,
    log: PathBuf,
    url: String,
    token: String,
}

/// A child process that is ended when this is dropped.
pub struct Killed(pub Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Stage {
    fn start(node: &tools::Node) -> Result<Self> {
        copy_scripts(node)?;
        let dir = sh::target_dir().join("clients");
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        let (upstream, port) = start_upstream(node)?;
        let state = dir.join("state");
        let token = random_hex()?;
        make_state(&state, port)?;
        let log = dir.join("gateway.log");
        let sink = File::create(&log).map_err(|e| format!("{}: {e}", log.display()))?;
        let copy = sink.try_clone().map_err(|e| e.to_string())?;
        let mut cmd = Command::new(serve::binary_path("dev"));
        cmd.args(["serve", "--port", "0", "--state-dir"])
            .arg(&state)
            .arg("--wasm-dir")
            .arg(guests::guests_dir());
        cmd.env("GATEWAY_TOKEN", &token)
            .stdin(Stdio::null())
            .stdout(sink)
            .stderr(copy);
        println!("  $ {}", sh::shown(&cmd));
        let mut gateway = Killed(
            cmd.spawn()
                .map_err(|e| format!("the gateway did not start: {e}"))?,
        );
        let port = wait_ready(&mut gateway.0, &state, &log)?;
        Ok(Self {
            gateway,
            _upstream: upstream,
            dir,
            log,
            url: format!("http://127.0.0.1:{port}"),
            token,
        })
    }

    fn stop(self) -> Result<String> {
        stop(self.gateway, &self.log)
    }
}

/// Asks a gateway to stop; it must do so by itself, with exit code 0.
pub fn stop(mut gateway: Killed, log: &Path) -> Result<String> {
    let pid = gateway.0.id().to_string();
    sh::output(Command::new("kill").args(["-TERM", &pid]))?;
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(30) {
        match gateway.0.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(String::new()),
            Ok(Some(status)) => {
                return Err(format!("the gateway ended with {status}\n{}", tail(log)));
            }
            Ok(None) => std::thread::sleep(Duration::from_millis(20)),
            Err(e) => return Err(e.to_string()),
        }
    }
    Err(format!(
        "the gateway did not stop within 30 s\n{}",
        tail(log)
    ))
}

/// The model double prints its port on the first line.
fn start_upstream(node: &tools::Node) -> Result<(Killed, u16)> {
    let mut child = Command::new(&node.node)
        .arg(node_scripts(node).join("slow_upstream.mjs"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| format!("the model double did not start: {e}"))?;
    let out = child.stdout.take();
    let child = Killed(child);
    let mut line = String::new();
    if let Some(out) = out {
        BufReader::new(out)
            .read_line(&mut line)
            .map_err(|e| e.to_string())?;
    }
    let port = line
        .trim()
        .parse()
        .map_err(|_| format!("the model double said `{}`", line.trim()))?;
    Ok((child, port))
}

/// A state directory with an agent `slow` behind the double, beside the default one.
fn make_state(state: &Path, upstream_port: u16) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir_all(state).map_err(|e| format!("{}: {e}", state.display()))?;
    std::fs::set_permissions(state, std::fs::Permissions::from_mode(0o700))
        .map_err(|e| e.to_string())?;
    let config = state.join("gateway.json5");
    let text = format!(
        "{{\n  agents: {{ default: \"main\", entries: {{\n    main: {{ backend: \"echo\", tools: [\"current_time\", \"session_info\"] }},\n    slow: {{ backend: \"openai\", model: \"double\", embeddingModel: \"double-embedding\", baseUrl: \"http://127.0.0.1:{upstream_port}/v1\" }},\n  }} }},\n}}\n"
    );
    sh::write_atomic(&config, text.as_bytes())?;
    std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o600))
        .map_err(|e| e.to_string())
}

fn random_hex() -> Result<String> {
    let mut bytes = [0_u8; 32];
    File::open("/dev/urandom")
        .and_then(|mut f| f.read_exact(&mut bytes))
        .map_err(|e| format!("/dev/urandom: {e}"))?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

/// Waits until `run/gateway.json` names the port and `/readyz` answers 200.
pub fn wait_ready(child: &mut Child, state: &Path, log: &Path) -> Result<u16> {
    let started = Instant::now();
    while started.elapsed() < START_PATIENCE {
        if let Ok(Some(status)) = child.try_wait() {
            return Err(format!(
                "the gateway ended at start with {status}\n{}",
                tail(log)
            ));
        }
        if let Some(port) = read_port(state, child.id()).filter(|port| ready(*port)) {
            return Ok(port);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Err(format!(
        "the gateway is not ready after {} s\n{}",
        START_PATIENCE.as_secs(),
        tail(log)
    ))
}

fn read_port(state: &Path, pid: u32) -> Option<u16> {
    let text = std::fs::read_to_string(state.join("run/gateway.json")).ok()?;
    let value: serde_json::Value = serde_json::from_str(&text).ok()?;
    let own = value.get("pid").and_then(serde_json::Value::as_u64) == Some(u64::from(pid));
    u16::try_from(value.get("port")?.as_u64()?)
        .ok()
        .filter(|_| own)
}

fn ready(port: u16) -> bool {
    use std::io::Write;
    let Ok(mut socket) = std::net::TcpStream::connect(("127.0.0.1", port)) else {
        return false;
    };
    let _ = socket.set_read_timeout(Some(Duration::from_secs(2)));
    let request =
        format!("GET /readyz HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n\r\n");
    let mut answer = Vec::new();
    socket.write_all(request.as_bytes()).is_ok()
        && socket.read_to_end(&mut answer).is_ok()
        && answer.starts_with(b"HTTP/1.1 200")
}

pub fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(25)..].join("\n")
}
