//! The program as a user has it: the real binary, real processes, real signals.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything may take before the test gives up; not a performance statement.
const PATIENCE: Duration = Duration::from_secs(60);
const STRONG: &str = "k3Jd92mXq8Zr1Vt5Nc7LyWpE0aBs";

/// What a command did.
struct Done {
    code: i32,
    out: String,
    err: String,
}

impl Done {
    fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{}", self.err);
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {}", self.out))
    }

    /// Failed with this code and a next step.
    fn failed(&self, code: i32, words: &[&str]) -> &Self {
        assert_eq!(self.code, code, "out: {}\nerr: {}", self.out, self.err);
        assert!(
            self.err.contains("error: ") && self.err.contains("\nnext: "),
            "{}",
            self.err
        );
        for word in words {
            assert!(self.err.contains(word), "no {word:?} in: {}", self.err);
        }
        self
    }
}

/// The program, with nothing of the environment that could change what it does.
fn program(state: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gateway"));
    for name in ["GATEWAY_TOKEN", "GATEWAY_URL", "XDG_STATE_HOME", "COMPLETE"] {
        command.env_remove(name);
    }
    command
        .env("GATEWAY_STATE_DIR", state)
        .env("HOME", state)
        .stdin(Stdio::null());
    command
}

fn finish(command: &mut Command, input: Option<&str>) -> Done {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    if input.is_some() {
        command.stdin(Stdio::piped());
    }
    let mut child = command.spawn().unwrap();
    if let Some(input) = input {
        // A command that fails early may not read it.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    }
    let output = child.wait_with_output().unwrap();
    Done {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

fn run(state: &Path, args: &[&str]) -> Done {
    finish(program(state).args(args), None)
}

fn run_with(state: &Path, args: &[&str], input: &str) -> Done {
    finish(program(state).args(args), Some(input))
}

/// A running `gateway serve`.
struct Gateway {
    child: Child,
    state: PathBuf,
    port: u16,
    /// What it printed until it was ready.
    said: String,
    log: PathBuf,
}

impl Gateway {
    fn start(state: &Path, extra: &[&str]) -> Self {
        Self::start_as(
            program(state).args(["serve", "--port", "0"]).args(extra),
            state,
        )
    }

    fn start_as(command: &mut Command, state: &Path) -> Self {
        let log = state.with_extension("log");
        let sink = std::fs::File::create(&log).unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(sink).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut said = String::new();
        // The last line is the next step (or the only one, with --json).
        while !said.contains("next ") && !said.contains("\"pid\"") {
            if lines.read_line(&mut said).unwrap() == 0 {
                let _ = child.wait();
                panic!(
                    "it did not start:\n{said}\n{}",
                    std::fs::read_to_string(&log).unwrap()
                );
            }
        }
        let run = std::fs::read_to_string(state.join("run/gateway.json")).unwrap();
        let run: Value = serde_json::from_str(&run).unwrap();
        let gateway = Self {
            port: u16::try_from(run["port"].as_u64().unwrap()).unwrap(),
            child,
            state: state.to_owned(),
            said,
            log,
        };
        gateway.wait_ready();
        gateway
    }

    fn wait_ready(&self) {
        let started = Instant::now();
        while !self.get("/readyz").starts_with("HTTP/1.1 200") {
            assert!(started.elapsed() < PATIENCE, "not ready: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn get(&self, path: &str) -> String {
        let mut socket = std::net::TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        write!(
            socket,
            "GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{}\r\nconnection: close\r\n\r\n",
            self.port
        )
        .unwrap();
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    fn run(&self, args: &[&str]) -> Done {
        run(&self.state, args)
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args([name, &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(status.success());
    }

    fn ended(&mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(started.elapsed() < PATIENCE, "does not end: {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A place for a state directory that is not there yet.
fn fresh() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    (dir, state)
}

#[test]
fn the_first_start_makes_everything_and_says_what_to_do() {
    let (_dir, state) = fresh();
    let mut gateway = Gateway::start(&state, &[]);
    let token_path = state.join("secrets/main/gateway-token");
    assert!(
        gateway
            .said
            .contains(&format!("http://127.0.0.1:{}/", gateway.port)),
        "{}",
        gateway.said
    );
    assert!(
        gateway.said.contains(&token_path.display().to_string()),
        "{}",
        gateway.said
    );
    assert_eq!(
        gateway.said.matches("http://").count(),
        1,
        "one address: {}",
        gateway.said
    );
    assert_eq!(
        gateway.said.matches("next ").count(),
        1,
        "one next step: {}",
        gateway.said
    );
    let token = std::fs::read_to_string(&token_path).unwrap();
    assert!(
        !gateway.said.contains(&token),
        "the token itself is not printed"
    );
    let config = std::fs::read_to_string(state.join("gateway.json5")).unwrap();
    assert!(config.contains("// "), "with comments");

    let mut open = Vec::new();
    find_open(&state, &mut open);
    assert!(open.is_empty(), "others can read {open:?}");

    gateway.signal("-TERM");
    assert_eq!(gateway.ended().code(), Some(0), "{}", gateway.log());
    assert!(!state.join("run/gateway.json").exists());

    // The second start uses what is there.
    let mut again = Gateway::start(&state, &["--json"]);
    let line: Value = serde_json::from_str(&again.said).unwrap();
    assert_eq!(line["port"], again.port);
    assert_eq!(std::fs::read_to_string(&token_path).unwrap(), token);
    assert_eq!(
        std::fs::read_to_string(state.join("gateway.json5")).unwrap(),
        config
    );
    again.signal("-INT");
    assert_eq!(again.ended().code(), Some(0), "{}", again.log());
}

/// Everything below `path` that group or others have a right on.
fn find_open(path: &Path, open: &mut Vec<PathBuf>) {
    use std::os::unix::fs::PermissionsExt;
    let found = std::fs::symlink_metadata(path).unwrap();
    if found.permissions().mode() & 0o077 != 0 {
        open.push(path.to_owned());
    }
    if found.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            find_open(&entry.unwrap().path(), open);
        }
    }
}

#[test]
fn every_command_answers_people_and_programs() {
    let (_dir, state) = fresh();
    let gateway = Gateway::start(&state, &[]);
    let health = gateway.run(&["call", "health"]).json();
    assert_eq!(health["ok"], true);
    assert_eq!(gateway.run(&["health", "--json"]).json()["ok"], true);
    let status = gateway.run(&["status", "--json"]).json();
    assert_eq!(status["tenant"], "main");
    assert!(gateway.run(&["channels", "status", "--json"]).json()["channelAccounts"].is_object());
    assert!(gateway.run(&["pairing", "list", "--json"]).json()["requests"].is_array());
    assert!(gateway.run(&["outbox", "list", "--json"]).json()["items"].is_array());
    assert!(gateway.run(&["boot", "list", "--json"]).json()["scripts"].is_array());
    let listed = gateway.run(&["channels", "list", "--json"]).json();
    assert_eq!(listed["accounts"][0]["channel"], "webhook");
    for (args, word) in [
        (vec!["health"], "ok"),
        (vec!["status"], "tenant    main"),
        (vec!["channels", "status"], "webhook"),
        (vec!["channels", "list"], "pairing"),
        (vec!["pairing", "list"], "nobody waits"),
        (vec!["outbox", "list"], "empty"),
        (vec!["outbox", "list", "--state", "unknown"], "empty"),
    ] {
        let done = gateway.run(&args);
        assert_eq!(done.code, 0, "{args:?}: {}", done.err);
        assert!(done.out.contains(word), "{args:?}: {}", done.out);
    }
    // Parameters, also from standard input, and the two answers of agent.
    let params = r#"{"message":"ping","agentId":"main","idempotencyKey":"cli-1"}"#;
    let accepted = gateway.run(&["call", "agent", "--params", params]).json();
    assert_eq!(accepted["status"], "accepted");
    let params = r#"{"message":"ping","agentId":"main","idempotencyKey":"cli-2"}"#;
    let last = run_with(
        &state,
        &["call", "agent", "--expect-final", "--params", "-"],
        params,
    )
    .json();
    assert_eq!(last["status"], "ok");
}

#[test]
fn chat_streams_an_answer() {
    let (_dir, state) = fresh();
    let gateway = Gateway::start(&state, &[]);
    let once = gateway.run(&["chat", "--message", "a word of mine"]);
    assert_eq!(once.code, 0, "{}", once.err);
    assert!(once.out.contains("a word of mine"), "{}", once.out);
    let json = gateway
        .run(&["chat", "--json", "--message", "second word"])
        .json();
    assert_eq!(json["state"], "final");
    assert!(json["text"].as_str().unwrap().contains("second word"));
    let lines = run_with(
        &state,
        &["chat", "--session", "elsewhere"],
        "first line\n\nlast line",
    );
    assert_eq!(lines.code, 0, "{}", lines.err);
    assert!(
        lines.out.contains("first line") && lines.out.contains("last line"),
        "{}",
        lines.out
    );
    // What a sender says cannot drive the terminal.
    let nasty = gateway.run(&["chat", "--message", "x\u{1b}[2Jy"]);
    assert!(!nasty.out.contains('\u{1b}'), "{:?}", nasty.out);
    gateway
        .run(&["chat", "--agent", "nobody", "--message", "hi"])
        .failed(1, &["nobody"]);
}

#[test]
fn failures_have_their_code_and_a_next_step() {
    let (_dir, state) = fresh();
    // Nothing there at all.
    run(
        &state,
        &["status", "--url", "ws://127.0.0.1:9", "--token", "t"],
    )
    .failed(3, &["cannot connect", "gateway serve"]);
    let gateway = Gateway::start(&state, &[]);
    let url = format!("ws://127.0.0.1:{}", gateway.port);
    gateway
        .run(&["status", "--token", "wrong-wrong-wrong"])
        .failed(4, &["token mismatch", "gateway-token"]);
    gateway
        .run(&["status", "--url", &url])
        .failed(2, &["without a credential", "--token"]);
    gateway
        .run(&["status", "--url", "ws://192.0.2.1:1", "--token", "t"])
        .failed(2, &["in clear", "ssh"]);
    gateway
        .run(&["call", "no.such.method"])
        .failed(1, &["unknown method", "rpc.discover"]);
    gateway
        .run(&["call", "chat.history", "--params", "{}"])
        .failed(1, &["sessionKey"]);
    gateway
        .run(&["call", "health", "--params", "nope"])
        .failed(2, &["not JSON"]);
    gateway
        .run(&["call", "health", "--params", "[]"])
        .failed(2, &["not an object"]);
    gateway
        .run(&["pairing", "approve", "NOPE-0000"])
        .failed(1, &["not found"]);
    gateway
        .run(&["status", "--tenant", "nobody"])
        .failed(78, &["no tenant"]);
    let done = gateway.run(&["status", "--json", "--token", "wrong-wrong-wrong"]);
    assert_eq!(done.code, 4);
    let error: Value = serde_json::from_str(&done.err).unwrap();
    assert_eq!(
        error["error"]["gateway"]["details"]["code"],
        "AUTH_TOKEN_MISMATCH"
    );
    assert!(error["error"]["next"].is_string());
    // A token by the environment, with a given address by the environment.
    let token = std::fs::read_to_string(state.join("secrets/main/gateway-token")).unwrap();
    let by_env = finish(
        program(&state)
            .args(["status", "--json"])
            .env("GATEWAY_URL", &url)
            .env("GATEWAY_TOKEN", &token),
        None,
    );
    assert_eq!(by_env.json()["tenant"], "main");
    // The usage itself.
    assert_eq!(gateway.run(&["serve", "--prot", "1"]).code, 2);
}

#[test]
fn two_gateways_cannot_have_one_state_directory_or_one_port() {
    let (_dir, state) = fresh();
    let first = Gateway::start(&state, &[]);
    run(&state, &["serve", "--port", "0"]).failed(1, &["--state-dir"]);
    let (_other_dir, other) = fresh();
    run(&other, &["serve", "--port", &first.port.to_string()])
        .failed(1, &["cannot listen", "--port"]);
    assert_eq!(
        first.run(&["health", "--json"]).json()["ok"],
        true,
        "the first is not hurt"
    );
}

#[test]
fn a_wrong_configuration_is_refused_with_its_place() {
    let (_dir, state) = fresh();
    std::fs::create_dir_all(&state).unwrap();
    let config = state.join("gateway.json5");
    std::fs::write(&config, "{\n  gateway: { prot: 1 },\n}\n").unwrap();
    let refused = run(&state, &["serve", "--port", "0"]);
    refused.failed(
        78,
        &[
            "gateway.json5:2:14",
            "unknown key `prot`",
            "did you mean `port`?",
        ],
    );
    run(&state, &["status"]).failed(78, &["did you mean"]);
    assert_eq!(
        std::fs::read_to_string(&config).unwrap(),
        "{\n  gateway: { prot: 1 },\n}\n"
    );
    std::fs::write(&config, "{}").unwrap();
    run(&state, &["serve", "--port", "0", "--token", "changeme"])
        .failed(78, &["--token", "placeholder"]);
    run(&state, &["serve", "--port", "0", "--model", "m"]).failed(78, &["--model", "--upstream"]);
    run(&state, &["serve", "--port", "0", "--bind", "everywhere"]).failed(78, &["--bind"]);
    run(
        &state,
        &["serve", "--port", "0", "--wasm-dir", "/nowhere/at/all"],
    )
    .failed(78, &["--wasm-dir"]);
    run(&state, &["serve", "--url", "ws://x"]).failed(2, &["--url"]);
}

#[test]
fn secrets_and_channels_are_added() {
    let (_dir, state) = fresh();
    drop(Gateway::start(&state, &[]));
    let set = run_with(&state, &["secret", "set", "my-key"], &format!("{STRONG}\n"));
    assert_eq!(set.code, 0, "{}", set.err);
    assert_eq!(
        std::fs::read_to_string(state.join("secrets/main/my-key")).unwrap(),
        STRONG
    );
    assert!(!set.out.contains(STRONG) && !set.err.contains(STRONG));
    let weak = run_with(&state, &["secret", "set", "my-key"], "short-but-real");
    assert!(weak.err.contains("warning: "), "{}", weak.err);
    run_with(&state, &["secret", "set", "my-key"], "changeme").failed(78, &["placeholder"]);
    run_with(&state, &["secret", "set", "../key"], STRONG).failed(78, &["not a name"]);

    let added = run(&state, &["channels", "add", "webhook", "--account", "two"]);
    assert_eq!(added.code, 0, "{}", added.err);
    assert!(
        added.out.contains("/channels/webhook/two/"),
        "{}",
        added.out
    );
    let bot = run_with(
        &state,
        &["channels", "add", "telegram", "--secret-stdin", "--json"],
        STRONG,
    );
    assert_eq!(bot.json()["enabled"], true);
    run(&state, &["channels", "add", "webhook", "--account", "two"]).failed(78, &["already there"]);
    let listed = run(&state, &["channels", "list", "--json"]).json();
    let names: Vec<String> = listed["accounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|a| format!("{}/{}", a["channel"], a["accountId"]).replace('"', ""))
        .collect();
    assert_eq!(
        names,
        ["telegram/default", "webhook/default", "webhook/two"]
    );
    assert!(
        std::fs::read_to_string(state.join("gateway.json5"))
            .unwrap()
            .contains("// ")
    );
}

#[test]
fn tenants_are_apart() {
    let (_dir, state) = fresh();
    std::fs::create_dir_all(&state).unwrap();
    std::fs::write(state.join("gateway.json5"), "{ tenants: { acme: {} } }").unwrap();
    run(&state, &["serve", "--port", "0"])
        .failed(78, &["gateway secret set gateway-token --tenant acme"]);
    let set = run_with(
        &state,
        &["secret", "set", "gateway-token", "--tenant", "acme"],
        STRONG,
    );
    assert_eq!(set.code, 0, "{}", set.err);
    let gateway = Gateway::start(&state, &[]);
    assert_eq!(gateway.run(&["status", "--json"]).json()["tenant"], "main");
    assert_eq!(
        gateway
            .run(&["status", "--json", "--tenant", "acme"])
            .json()["tenant"],
        "acme"
    );
    gateway.run(&["chat", "--message", "only for main"]);
    let sessions = gateway
        .run(&["call", "sessions.list", "--tenant", "acme"])
        .json();
    assert!(!sessions.to_string().contains("only for main"));
    // The token of one opens nothing of the other.
    gateway
        .run(&["status", "--token", STRONG])
        .run_as_main_or_refused();
}

impl Done {
    /// The token of acme without its path: it names acme by itself, never main.
    fn run_as_main_or_refused(&self) {
        if self.code == 0 {
            assert!(self.out.contains("tenant    acme"), "{}", self.out);
        } else {
            self.failed(4, &[]);
        }
    }
}

#[test]
fn the_log_holds_no_secret_and_no_control_characters() {
    let (_dir, state) = fresh();
    let mut command = program(&state);
    command
        .args(["serve", "--port", "0", "--log-level", "trace"])
        .env("GATEWAY_TOKEN", STRONG);
    let mut gateway = Gateway::start_as(&mut command, &state);
    let with_token = finish(
        program(&state)
            .args(["chat", "--message", "x\u{1b}[31m\u{7}y"])
            .env("GATEWAY_TOKEN", STRONG),
        None,
    );
    assert_eq!(with_token.code, 0, "{}", with_token.err);
    gateway
        .run(&["status", "--token", "not-the-token-of-it-at-all"])
        .failed(4, &[]);
    gateway.signal("-TERM");
    gateway.ended();
    let log = gateway.log();
    assert!(!log.is_empty());
    for secret in [STRONG, "not-the-token-of-it-at-all"] {
        assert!(!log.contains(secret), "{secret} in the log");
    }
    assert!(
        log.chars().all(|c| c == '\n' || !c.is_control()),
        "control characters in the log"
    );
}

#[test]
fn json_logs_are_json() {
    let (_dir, state) = fresh();
    let mut gateway = Gateway::start(&state, &["--log-format", "json", "--log-level", "debug"]);
    gateway.signal("-TERM");
    gateway.ended();
    let log = gateway.log();
    assert!(
        log.contains("\"listening\"") && log.contains("\"stopped\""),
        "{log}"
    );
    assert!(
        log.contains("boot script greeting"),
        "lines of tenants are in it: {log}"
    );
    for line in log.lines() {
        let _: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    }
}

/// A key is shown once, works over HTTP, outlives a restart with the time of its last use, and is unknown when it is revoked.
#[test]
fn api_keys_are_made_used_and_ended() {
    let (_tmp, state) = fresh();
    let gateway = Gateway::start(&state, &[]);
    let made = run(
        &state,
        &["apikey", "create", "--name", "ci", "--expires", "30d"],
    );
    assert_eq!(made.code, 0, "{}", made.err);
    let secret = made.out.trim().to_owned();
    assert!(secret.starts_with("gwk_") && !secret.contains(char::is_whitespace));
    assert!(made.err.contains("operator.write") && !made.err.contains(&secret));
    let status = |gateway: &Gateway, key: &str| {
        let mut socket = std::net::TcpStream::connect(("127.0.0.1", gateway.port)).unwrap();
        write!(
            socket,
            "GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n\r\n",
            gateway.port
        )
        .unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        answer[9..12].to_owned()
    };
    assert_eq!(status(&gateway, &secret), "200");
    run(&state, &["apikey", "create", "--name", "ci"])
        .failed(1, &["there is an API key of this name"]);
    run(
        &state,
        &["apikey", "create", "--name", "x", "--scope", "reed"],
    )
    .failed(1, &["operator.read"]);
    drop(gateway);
    let gateway = Gateway::start(&state, &[]);
    assert_eq!(status(&gateway, &secret), "200");
    let list = run(&state, &["apikey", "list", "--json"]).json();
    let key = &list["keys"][0];
    assert_eq!(
        (&key["name"], &key["expired"]),
        (&"ci".into(), &false.into())
    );
    assert!(key["lastUsedAt"].is_i64(), "{list}");
    assert!(!list.to_string().contains(&secret));
    let shown = run(&state, &["apikey", "list"]).out;
    assert!(
        shown.contains("ci") && shown.contains("operator.write"),
        "{shown}"
    );
    assert!(
        run(&state, &["apikey", "revoke", "ci"])
            .out
            .contains("has ended")
    );
    assert_eq!(status(&gateway, &secret), "401");
    run(&state, &["apikey", "revoke", "ci"]).failed(1, &["API key"]);
    // Neither the log nor any file of the state directory holds the secret.
    assert!(!gateway.log().contains(&secret));
    for file in ["host.sqlite", "host.sqlite-wal"] {
        let bytes = std::fs::read(state.join(file)).unwrap_or_default();
        assert!(
            !bytes.windows(secret.len()).any(|w| w == secret.as_bytes()),
            "{file}"
        );
    }
}

#[test]
fn shells_complete_method_names() {
    let (_dir, state) = fresh();
    let mut command = program(&state);
    command
        .args(["--", "gateway", "call", "chat."])
        .env("COMPLETE", "bash")
        .env("_CLAP_COMPLETE_INDEX", "2");
    command.env("_CLAP_IFS", "\n");
    let done = finish(&mut command, None);
    assert_eq!(done.code, 0, "{}", done.err);
    assert!(done.out.lines().any(|l| l == "chat.send"), "{}", done.out);
    let line = run(&state, &["completion", "bash"]);
    assert!(line.out.contains("COMPLETE=bash gateway"), "{}", line.out);
    assert!(run(&state, &["--help"]).out.contains("Exit codes:"));
}
