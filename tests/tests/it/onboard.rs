//! `gateway onboard` on the real binary: from nothing to an agent that answers, with what goes wrong on the way.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use gateway_tests::process::{Gateway, gateway_bin};
use gateway_tests::upstream::Upstream;
use serde_json::{Value, json};

const KEY: &str = "sk-onboard-0123456789abcdef0123456789";
const MODEL: &str = "small-model";
const PATIENCE: Duration = Duration::from_secs(60);

struct Done {
    code: i32,
    out: String,
    err: String,
}

impl Done {
    fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{}{}", self.out, self.err);
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {}", self.out))
    }
}

/// Runs it with nobody at the keyboard.
fn onboard(state: &Path, args: &[&str], stdin: &str, env: &[(&str, &str)]) -> Done {
    let mut child = Command::new(gateway_bin())
        .arg("onboard")
        .args(args)
        .arg("--state-dir")
        .arg(state)
        .env_remove("GATEWAY_TOKEN")
        .env_remove("GATEWAY_URL")
        .envs(env.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(stdin.as_bytes()).unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    Done {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Runs it on a terminal and types. `None`, said loudly, where there is no Python.
fn talk(state: &Path, args: &[&str], steps: &[(&str, &str)]) -> Option<Done> {
    let python = std::env::var_os("GATEWAY_PYTHON").map_or(PathBuf::from("python3"), PathBuf::from);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/pty_talk.py");
    let output = Command::new(python)
        .arg(script)
        .arg(json!(steps).to_string())
        .arg(gateway_bin())
        .arg("onboard")
        .args(args)
        .arg("--state-dir")
        .arg(state)
        .env_remove("GATEWAY_TOKEN")
        .env_remove("GATEWAY_URL")
        .output();
    match output {
        Ok(output) => Some(Done {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }),
        Err(e) => {
            eprintln!("!!! LEFT OUT: no Python for a terminal ({e})");
            None
        }
    }
}

fn free_port() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port().to_string()
}

fn place() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    (dir, state)
}

fn config(state: &Path) -> String {
    std::fs::read_to_string(state.join("gateway.json5")).unwrap()
}

fn secret(state: &Path, name: &str) -> PathBuf {
    state.join("secrets/main").join(name)
}

/// The flags of a server, without its key.
fn server<'a>(upstream: &'a str, model: &'a str) -> Vec<&'a str> {
    vec![
        "--non-interactive",
        "--json",
        "--upstream",
        upstream,
        "--model",
        model,
    ]
}

#[test]
fn from_nothing_to_a_model_that_answers_and_once_more_changes_nothing() {
    let (_dir, state) = place();
    let upstream = Upstream::start(Some(KEY), MODEL, "ready, says the double");
    let (url, port) = (format!("{}/", upstream.url()), free_port());
    let mut args = server(&url, MODEL);
    args.extend(["--api-key-stdin", "--channel", "webhook", "--port", &port]);
    let told = onboard(&state, &args, KEY, &[]).json();
    assert_eq!(upstream.completions(), 1);
    assert_eq!(told["steps"][0]["checked"], true, "{told}");
    assert_eq!(told["steps"][0]["answeredBy"], MODEL);
    assert_eq!(told["running"], false);
    assert_eq!(told["url"], format!("http://127.0.0.1:{port}/"));
    assert!(
        told["next"]
            .as_str()
            .unwrap()
            .starts_with("gateway serve --state-dir")
    );
    assert!(Path::new(told["tokenPath"].as_str().unwrap()).exists());
    let text = config(&state);
    assert!(
        text.contains("// The echo agent repeats what it is told"),
        "{text}"
    );
    assert!(
        text.contains("agent-main-key") && !text.contains(KEY),
        "{text}"
    );
    let key = secret(&state, "agent-main-key");
    assert_eq!(
        std::fs::metadata(&key).unwrap().permissions().mode() & 0o777,
        0o600
    );

    // The same once more: nobody is asked, nothing is written.
    let again = onboard(&state, &args, KEY, &[]).json();
    assert_eq!(again["changed"], json!([]), "{again}");
    assert_eq!(config(&state), text);
    assert_eq!(upstream.completions(), 1);
    let bare = onboard(&state, &["--non-interactive", "--json"], "", &[]).json();
    assert_eq!(bare["changed"], json!([]), "{bare}");
    assert_eq!(config(&state), text);

    let gateway = Gateway::start(&state, &[]);
    let (ok, out, err) = gateway.cli(&["chat", "hello"]);
    assert!(ok && out.contains("ready, says the double"), "{out}{err}");
}

#[test]
fn what_is_missing_is_listed_and_nothing_is_made() {
    let (_dir, state) = place();
    let done = onboard(&state, &["--non-interactive"], "", &[]);
    assert_eq!(done.code, 2, "{}", done.err);
    for flag in ["--agent", "--channel"] {
        assert!(done.err.contains(flag), "{}", done.err);
    }
    let done = onboard(
        &state,
        &[
            "--agent",
            "openai",
            "--channel",
            "telegram",
            "--bind",
            "lan",
        ],
        "",
        &[],
    );
    assert_eq!(done.code, 2, "{}", done.err);
    for flag in [
        "--upstream",
        "--model",
        "--api-key-stdin",
        "--channel-token-stdin",
        "--tls",
    ] {
        assert!(done.err.contains(flag), "{flag}: {}", done.err);
    }
    let done = onboard(&state, &["--agent", "echo", "--model", "m"], "", &[]);
    assert!(
        done.code == 2 && done.err.contains("echo agent asks no server"),
        "{}",
        done.err
    );
    assert!(!state.exists());
}

#[test]
fn a_server_that_does_not_answer_leaves_everything_as_it_was() {
    let (_dir, state) = place();
    let upstream = Upstream::start(Some(KEY), MODEL, "never");
    let url = upstream.url();
    let refused = |args: &[&str], stdin: &str, words: &[&str]| {
        let done = onboard(&state, args, stdin, &[]);
        assert_eq!(done.code, 1, "{}", done.err);
        let told: Value = serde_json::from_str(&done.err).unwrap();
        let text = told["error"].to_string();
        for word in words {
            assert!(text.contains(word), "{word}: {text}");
        }
        assert!(!text.contains("sk-wrong"), "{text}");
        assert!(!secret(&state, "agent-main-key").exists());
        assert!(config(&state).contains("main: { backend: \"echo\" }"));
    };
    let mut args = server(&url, MODEL);
    args.extend(["--api-key-stdin", "--channel", "none"]);
    refused(
        &args,
        "sk-wrong-0123456789abcdef0123456789",
        &["(401)", "give another key"],
    );
    let mut args = server(&url, "large-model");
    args.extend(["--api-key-stdin", "--channel", "none"]);
    refused(
        &args,
        KEY,
        &[
            "(404)",
            "large-model",
            "does not exist",
            MODEL,
            "another-model",
        ],
    );
    let mut args = server(&url, MODEL);
    args.extend(["--no-api-key", "--channel", "none"]);
    refused(&args, "", &["(401)", "give its key"]);
    let nobody = format!("http://127.0.0.1:{}/v1", free_port());
    let mut args = server(&nobody, MODEL);
    args.extend(["--no-api-key", "--channel", "none"]);
    refused(&args, "", &["start the server", &nobody]);
    upstream.hold(true);
    let mut args = server(&url, MODEL);
    args.extend(["--api-key-stdin", "--channel", "none", "--timeout", "500"]);
    refused(&args, KEY, &["not done by the deadline", "wait longer"]);
    upstream.hold(false);
    let mut args = server("ftp://127.0.0.1/v1", MODEL);
    args.extend(["--no-api-key", "--channel", "none"]);
    refused(&args, "", &["write --upstream like"]);
}

#[test]
fn a_running_gateway_takes_it_up() {
    let (_dir, state) = place();
    let upstream = Upstream::start(None, MODEL, "by reload");
    let gateway = Gateway::start(&state, &[]);
    let url = upstream.url();
    let mut args = server(&url, MODEL);
    args.extend(["--no-api-key", "--channel", "none"]);
    let told = onboard(&state, &args, "", &[]).json();
    assert_eq!(told["running"], true);
    assert_eq!(told["restartNeeded"], json!([]), "{told}");
    assert!(
        told["url"]
            .as_str()
            .unwrap()
            .contains(&gateway.port.to_string()),
        "{told}"
    );
    let notes = told["notes"].to_string();
    assert!(!notes.contains("running gateway"), "{notes}");
    let (ok, out, err) = gateway.cli(&["chat", "--message", "hello"]);
    assert!(ok && out.contains("by reload"), "{out}{err}");

    // What cannot change while it runs is said.
    let port = free_port();
    let args = ["--non-interactive", "--json", "--port", &port];
    let told = onboard(&state, &args, "", &[]).json();
    assert_eq!(told["restartNeeded"], json!(["gateway.port"]), "{told}");
    assert!(told["next"].as_str().unwrap().contains("restart"), "{told}");

    // A key that only this command has: the gateway says that it goes on as before.
    let mut args = server(&url, "another-model");
    args.extend(["--api-key-env", "ONBOARD_KEY"]);
    let done = onboard(&state, &args, "", &[("ONBOARD_KEY", KEY)]);
    assert_eq!(done.code, 1, "the double has no such model: {}", done.err);
    let mut args = server(&url, MODEL);
    args.extend(["--api-key-env", "ONBOARD_KEY"]);
    let told = onboard(&state, &args, "", &[("ONBOARD_KEY", KEY)]).json();
    let notes = told["notes"].to_string();
    assert!(
        notes.contains("goes on as before") && notes.contains("ONBOARD_KEY"),
        "{notes}"
    );
}

/// Covers: F6.
#[test]
fn it_goes_on_where_it_was_killed() {
    let (_dir, state) = place();
    let upstream = Upstream::start(Some(KEY), MODEL, "ready");
    upstream.hold(true);
    let (url, port) = (upstream.url(), free_port());
    let mut child = Command::new(gateway_bin())
        .args([
            "onboard",
            "--agent",
            "openai",
            "--upstream",
            &url,
            "--model",
            MODEL,
        ])
        .args([
            "--api-key-env",
            "ONBOARD_KEY",
            "--channel",
            "none",
            "--port",
            &port,
        ])
        .arg("--state-dir")
        .arg(&state)
        .env("ONBOARD_KEY", KEY)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let started = Instant::now();
    while upstream.completions() == 0 {
        assert!(started.elapsed() < PATIENCE, "the server was not asked");
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    upstream.hold(false);
    // Asked and not answered: nothing of it counts, and what is there can be used.
    assert!(config(&state).contains("main: { backend: \"echo\" }"));
    Gateway::start(&state, &[]).stop();

    // On a terminal: the first step is decided, then it is killed at the second one.
    let steps = [
        ("What is to answer?", "openai"),
        ("address of the server", url.as_str()),
        ("model", MODEL),
        ("The server's key?", "type"),
        ("key (it is not shown)", KEY),
        ("Where are messages to come from", "\0kill"),
    ];
    let Some(killed) = talk(&state, &["--port", &port], &steps) else {
        return;
    };
    assert_eq!(killed.code, 137, "{}{}", killed.out, killed.err);
    assert!(
        !killed.out.contains(KEY),
        "the key was shown: {}",
        killed.out
    );
    assert!(config(&state).contains(MODEL));
    let asked = upstream.completions();

    // The next call does not ask for the agent again.
    let steps = [
        ("Where are messages to come from", "webhook"),
        ("Who is to start the gateway?", ""),
        ("next ", ""),
    ];
    let Some(done) = talk(&state, &["--port", &port], &steps) else {
        return;
    };
    assert_eq!(done.code, 0, "{}{}", done.out, done.err);
    assert!(!done.out.contains("What is to answer?"), "{}", done.out);
    assert!(done.out.contains("small-model"), "{}", done.out);
    assert_eq!(upstream.completions(), asked);

    // And the one after that asks nothing at all.
    let done = talk(&state, &[], &[("next ", "")]).unwrap();
    assert_eq!(done.code, 0, "{}{}", done.out, done.err);
    assert!(done.out.contains("changed   nothing"), "{}", done.out);
}

#[test]
fn a_person_is_asked_and_a_wrong_answer_is_told() {
    let (_dir, state) = place();
    let upstream = Upstream::start(Some(KEY), MODEL, "ready");
    let (url, port, wrong) = (
        upstream.url(),
        free_port(),
        "sk-wrong-0123456789abcdef0123456789",
    );
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let held = holder.local_addr().unwrap().port();
    // The port that the configuration names is taken: it is noticed, and another one is asked for.
    let args = ["--agent", "echo", "--channel", "none", "--non-interactive"];
    let port_flag = held.to_string();
    let done = onboard(
        &state,
        &[&args[..], &["--port", &port_flag]].concat(),
        "",
        &[],
    );
    assert!(
        done.code == 0 && done.out.contains("cannot be listened on"),
        "{}",
        done.out
    );
    let steps = [
        ("What is to answer?", "op"),
        ("address of the server", url.as_str()),
        ("model", MODEL),
        ("The server's key?", "type"),
        ("key (it is not shown)", wrong),
        ("(401)", ""),
        ("address of the server", ""),
        ("model", ""),
        ("The server's key?", "nonsense"),
        ("write one of", "type"),
        ("key (it is not shown)", KEY),
        ("Where are messages to come from", "none"),
        ("Who may connect?", "lan"),
        ("Speak TLS", "y"),
        ("another port", port.as_str()),
        ("Who is to start the gateway?", "none"),
        ("next ", ""),
    ];
    let Some(done) = talk(&state, &["--again"], &steps) else {
        return;
    };
    assert_eq!(done.code, 0, "{}{}", done.out, done.err);
    assert!(
        !done.out.contains(KEY) && !done.out.contains(wrong),
        "{}",
        done.out
    );
    let text = config(&state);
    for piece in [
        "bind: \"lan\"",
        "tls: { enabled: true }",
        &format!("port: {port}"),
        MODEL,
    ] {
        assert!(text.contains(piece), "{piece}: {text}");
    }
    assert!(
        done.out.contains(&format!("https://127.0.0.1:{port}/")),
        "{}",
        done.out
    );
    drop(holder);
    Gateway::start(&state, &[]).stop();

    // Ctrl-D is an end, and says how it goes on.
    let done = talk(&state, &["--again"], &[("What is to answer?", "\u{4}")]).unwrap();
    assert_eq!(done.code, 1, "{}", done.out);
    assert!(
        done.out.contains("run `gateway onboard` again"),
        "{}",
        done.out
    );
}

#[test]
fn a_bot_token_is_stored_and_stands_in_no_file_that_is_shared() {
    let (_dir, state) = place();
    let token = format!("123456:{}", "aB3_-".repeat(7));
    let args = [
        "--non-interactive",
        "--json",
        "--agent",
        "echo",
        "--channel",
        "telegram",
        "--account",
        "bot",
        "--channel-token-env",
        "BOT",
    ];
    let unset = onboard(&state, &args, "", &[]);
    assert!(
        unset.code == 2 && unset.err.contains("BOT is not set"),
        "{}",
        unset.err
    );
    let told = onboard(&state, &args, "", &[("BOT", &token)]).json();
    assert!(
        told["steps"][1]["text"]
            .as_str()
            .unwrap()
            .contains("gateway pairing approve"),
        "{told}"
    );
    let stored = secret(&state, "telegram-bot-token");
    assert_eq!(std::fs::read_to_string(&stored).unwrap(), token);
    let text = config(&state);
    assert!(
        !text.contains(&token) && text.contains("telegram-bot-token"),
        "{text}"
    );
    let again = onboard(&state, &args, "", &[("BOT", &token)]).json();
    assert_eq!(again["changed"], json!([]), "{again}");
    assert_eq!(config(&state), text);
    // Another token takes its place; what does not look like one is said.
    let other = onboard(
        &state,
        &args,
        "",
        &[("BOT", "not-a-bot-token-at-all-0123456789")],
    )
    .json();
    assert_eq!(
        other["changed"],
        json!(["secret telegram-bot-token"]),
        "{other}"
    );
    assert!(other["notes"].to_string().contains("@BotFather"), "{other}");
}

#[test]
fn a_service_is_installed_once() {
    let (dir, state) = place();
    let home = dir.path().join("config-home");
    let env = [("XDG_CONFIG_HOME", home.to_str().unwrap())];
    let args = [
        "--non-interactive",
        "--json",
        "--agent",
        "echo",
        "--channel",
        "none",
        "--service",
        "user",
        "--no-start",
    ];
    let told = onboard(&state, &args, "", &env).json();
    let unit = home.join("systemd/user/gateway.service");
    let text = std::fs::read_to_string(&unit).unwrap();
    assert!(
        text.contains("ExecStart=") && text.contains(state.to_str().unwrap()),
        "{text}"
    );
    assert_eq!(told["steps"][3]["unit"], unit.to_str().unwrap(), "{told}");
    let again = onboard(&state, &args, "", &env).json();
    assert_eq!(again["steps"][3]["changed"], false, "{again}");
    assert_eq!(std::fs::read_to_string(&unit).unwrap(), text);
}

#[test]
fn a_broken_file_and_a_gateway_elsewhere_are_refused() {
    let (_dir, state) = place();
    let args = ["--non-interactive", "--agent", "echo", "--channel", "none"];
    assert_eq!(onboard(&state, &args, "", &[]).code, 0);
    let good = config(&state);
    std::fs::write(state.join("gateway.json5"), "{\n  gatewai: 1,\n}").unwrap();
    let done = onboard(&state, &args, "", &[]);
    assert!(
        done.code == 78 && done.err.contains("gateway.json5:2:"),
        "{}",
        done.err
    );
    std::fs::write(
        state.join("gateway.json5"),
        "{ gateway: { mode: \"remote\", remote: { url: \"wss://127.0.0.1:1\" } } }",
    )
    .unwrap();
    let done = onboard(&state, &args, "", &[]);
    assert!(
        done.code == 78 && done.err.contains("gateway.mode"),
        "{}",
        done.err
    );
    std::fs::write(state.join("gateway.json5"), good).unwrap();
    let done = onboard(
        &state,
        &[&args[..], &["--tenant", "acme"]].concat(),
        "",
        &[],
    );
    assert!(
        done.code == 2 && done.err.contains("tenant main"),
        "{}",
        done.err
    );
}
