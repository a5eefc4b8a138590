//! Programs that cannot go on, and processes that are killed in the middle: one of the two serves.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use gateway_tests::process::{Gateway, gateway_bin};
use gateway_tests::ws::Ws;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{
    Orphan, PATIENCE, answers, is_ready, json_file, kill, lives, program, say, serving, stage,
    successor, upgrade,
};

/// A model that never answers, so that a gateway has something to wait for when it drains.
async fn silent_model(state: &std::path::Path, drain_ms: u64) {
    use std::os::unix::fs::PermissionsExt;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((socket, _)) = listener.accept().await {
            kept.push(socket);
        }
    });
    std::fs::create_dir_all(state).unwrap();
    let text = json!({
        "gateway": {"limits": {"drainTimeoutMs": drain_ms}},
        "agents": {"default": "echo", "entries": {
            "echo": {},
            "model": {"backend": "openai", "baseUrl": format!("http://127.0.0.1:{port}/v1"), "model": "m", "heartbeat": {"every": "0m"}},
        }},
    });
    let path = state.join("gateway.json5");
    std::fs::write(&path, text.to_string()).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// Asks for an upgrade without waiting for its end.
fn begin(gateway: &Gateway, program: Option<&std::path::Path>) -> std::process::Child {
    let mut command = Command::new(gateway_bin());
    command
        .args(["upgrade", "--json", "--state-dir"])
        .arg(&gateway.state);
    if let Some(program) = program {
        command.arg("--binary").arg(program);
    }
    command
        .env_remove("GATEWAY_TOKEN")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn said(command: std::process::Child) -> (i32, Value) {
    let output = command.wait_with_output().unwrap();
    let text = if output.status.success() {
        &output.stdout
    } else {
        &output.stderr
    };
    (
        output.status.code().unwrap_or(-1),
        serde_json::from_slice(text).unwrap_or(Value::Null),
    )
}

/// Covers: F9.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_cannot_go_on_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let gateway = Gateway::start(&state, &[]);
    let before = gateway.pid();
    let mut ws = Ws::connect(gateway.port, "/", &gateway.token())
        .await
        .unwrap();
    let mut count = 0;
    let newer = r#"GATEWAY_HANDOVER='{"role":"heir","hostSchema":3,"tenantSchema":9999}' exec "$REAL" "$@""#;
    for (serve, words) in [
        ("exit 3", "ended (exit status: 3) before it was prepared"),
        ("exec /bin/true", "before it was prepared"),
        ("kill -9 $$", "before it was prepared"),
        (
            "echo listening; echo '{\"handover\":\"serving\"}'; exec sleep 60",
            "out of turn",
        ),
        (newer, "the running gateway writes schema 9999"),
    ] {
        let path = program(dir.path(), serve);
        let (done, told) = upgrade(&gateway, &["--binary", path.to_str().unwrap()]);
        assert!(!done, "{serve}: {told}");
        let error = &told["error"];
        let message = error["message"].as_str().unwrap();
        assert!(
            message.contains(words) && message.contains("goes on as before"),
            "{serve}: {told}"
        );
        assert!(!error["next"].as_str().unwrap().is_empty(), "{told}");
        assert_eq!(error["gateway"]["stage"], "refused");
        if let Some(pid) = error["gateway"]["pid"].as_u64() {
            assert!(
                !lives(u32::try_from(pid).unwrap()),
                "{serve}: it was not ended"
            );
        }
        // The same process, and the same connection.
        assert_eq!(serving(&gateway.state), before);
        say(&mut ws, "agent:main:steady", &format!("word {count}")).await;
        count += 1;
    }
    for other in ["/bin/true", "/nowhere/gateway", "/etc/passwd"] {
        let (done, told) = upgrade(&gateway, &["--binary", other]);
        assert!(
            !done && told["error"]["message"].as_str().unwrap().contains(other),
            "{told}"
        );
    }
    // The running gateway goes on with the last good configuration; a new one is not to start with a broken one.
    let config = state.join("gateway.json5");
    let good = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, "{ gateway: { prot: 1 } }").unwrap();
    let (done, told) = upgrade(&gateway, &[]);
    let message = told["error"]["message"].as_str().unwrap().to_owned();
    assert!(
        !done && message.contains("gateway.json5") && message.contains("prot"),
        "{told}"
    );
    std::fs::write(&config, good).unwrap();
    // Nothing of it was in the way of one that works, nor does a check change anything.
    let (done, told) = upgrade(&gateway, &["--check"]);
    assert!(done && told["stage"] == "checked", "{told}");
    assert_eq!(serving(&gateway.state), before);
    let said = answers(&mut ws, "agent:main:steady", count).await;
    assert_eq!(said.len(), count);
    assert!(ws.closed.is_none());
    let (done, told) = upgrade(&gateway, &[]);
    assert!(done, "{told}");
    let now = successor(&gateway, before);
    let mut ws = Ws::connect(gateway.port, "/", &gateway.token())
        .await
        .unwrap();
    assert_eq!(answers(&mut ws, "agent:main:steady", count).await, said);
    drop(now);
}

/// Covers: F1.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_that_is_killed_before_it_is_prepared_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let gateway = Gateway::start(&state, &[]);
    let mut ws = Ws::connect(gateway.port, "/", &gateway.token())
        .await
        .unwrap();
    let path = program(dir.path(), "exec sleep 600");
    let asked = begin(&gateway, Some(&path));
    let told = stage(&gateway.state, &["preparing"]);
    // A second one is not taken meanwhile, and harms nothing.
    kill(gateway.pid(), "USR2");
    say(&mut ws, "agent:main:steady", "word 0").await;
    kill(
        u32::try_from(told["pid"].as_u64().unwrap()).unwrap(),
        "KILL",
    );
    let (code, told) = said(asked);
    assert_eq!(
        (code, &told["error"]["gateway"]["stage"]),
        (1, &json!("refused")),
        "{told}"
    );
    assert_eq!(serving(&gateway.state), gateway.pid());
    assert_eq!(
        answers(&mut ws, "agent:main:steady", 1).await,
        ["echo: word 0"]
    );
}

/// Covers: F1, F25.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_in_the_middle_ends_both() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let gateway = Gateway::start(&state, &[]);
    let path = program(dir.path(), "exec sleep 600");
    let mut asked = begin(&gateway, Some(&path));
    let told = stage(&gateway.state, &["preparing"]);
    let other = u32::try_from(told["pid"].as_u64().unwrap()).unwrap();
    assert!(gateway.stop().success());
    assert!(!lives(other));
    let _ = asked.kill();
    let _ = asked.wait();
}

/// Killed while the other one gets ready, and while it drains: the other one goes on with what was accepted.
///
/// Covers: F1, F25.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_old_gateway_is_killed_the_new_one_goes_on() {
    for at in ["preparing", "draining"] {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        silent_model(&state, 600_000).await;
        let mut gateway = Gateway::start(&state, &[]);
        let before = gateway.pid();
        let mut ws = Ws::connect(gateway.port, "/", &gateway.token())
            .await
            .unwrap();
        for n in 0..20 {
            say(&mut ws, "agent:echo:kept", &format!("word {n}")).await;
        }
        say(&mut ws, "agent:model:waits", "for ever").await;
        let slow = program(dir.path(), "sleep 2; exec \"$REAL\" \"$@\"");
        let asked = begin(&gateway, Some(&slow));
        stage(&gateway.state, &[at]);
        if at == "draining" {
            ws.event(|e| e["event"] == "shutdown").await.expect("told");
        }
        gateway.signal("KILL");
        let _ = tokio::task::block_in_place(|| gateway.ended());
        let began = Instant::now();
        let now = tokio::task::block_in_place(|| successor(&gateway, before));
        println!(
            "killed while {at}: the other one serves after {:?}",
            began.elapsed()
        );
        let mut ws = Ws::connect(gateway.port, "/", &gateway.token())
            .await
            .unwrap();
        let wanted: Vec<String> = (0..20).map(|n| format!("echo: word {n}")).collect();
        assert_eq!(answers(&mut ws, "agent:echo:kept", 20).await, wanted);
        let (code, told) = said(asked);
        assert_eq!((code, &told["pid"]), (0, &json!(now.0)), "{at}: {told}");
    }
}

/// Killed while the old one drains, and with the stores in its hands: the old one serves again, as the same process.
///
/// Covers: F1, F9.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_new_gateway_does_not_serve_the_old_one_does_again() {
    // Says that it is prepared, as this version would, and ends when the state directory is free.
    let pretends = r#"echo "$GATEWAY_HANDOVER" | sed 's/"role":"heir"/"handover":"prepared","version":"9"/'
while ! grep -q starting "$GATEWAY_TEST_STATE/run/upgrade.json"; do sleep 0.05; done; exit 7"#;
    for (serve, kills) in [("exec \"$REAL\" \"$@\"", true), (pretends, false)] {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        silent_model(&state, 3_000).await;
        let gateway = Gateway::start_env(
            &state,
            &[],
            &[("GATEWAY_TEST_STATE", state.to_str().unwrap())],
        );
        let before = gateway.pid();
        let mut ws = Ws::connect(gateway.port, "/", &gateway.token())
            .await
            .unwrap();
        for n in 0..20 {
            say(&mut ws, "agent:echo:kept", &format!("word {n}")).await;
        }
        say(&mut ws, "agent:model:waits", "for ever").await;
        let path = program(dir.path(), serve);
        let asked = begin(&gateway, Some(&path));
        let told = stage(&gateway.state, &["draining", "starting", "rolled-back"]);
        let other = u32::try_from(told["pid"].as_u64().unwrap()).unwrap();
        if kills {
            kill(other, "KILL");
        }
        // Comes in the middle, and is answered by whoever serves.
        let waits = tokio::task::spawn_blocking({
            let port = gateway.port;
            move || waiting_request(port)
        });
        let (code, told) = tokio::task::block_in_place(|| said(asked));
        assert_eq!(code, 1, "{told}");
        assert_eq!(told["error"]["gateway"]["stage"], "rolled-back", "{told}");
        let began = Instant::now();
        while !tokio::task::block_in_place(|| is_ready(&gateway)) {
            assert!(began.elapsed() < PATIENCE);
        }
        assert_eq!(serving(&gateway.state), before, "the same process");
        assert!(!lives(other));
        assert!(waits.await.unwrap().starts_with("HTTP/1.1 200"));
        let mut ws = Ws::connect(gateway.port, "/", &gateway.token())
            .await
            .unwrap();
        let wanted: Vec<String> = (0..20).map(|n| format!("echo: word {n}")).collect();
        assert_eq!(answers(&mut ws, "agent:echo:kept", 20).await, wanted);
        // What was started again can be upgraded like any other.
        let (done, told) = tokio::task::block_in_place(|| upgrade(&gateway, &["--check"]));
        assert!(done, "{told}");
        assert!(gateway.stop().success());
    }
}

fn waiting_request(port: u16) -> String {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(
        socket,
        "GET /readyz HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    let _ = socket.read_to_string(&mut answer);
    answer
}

/// At moments that nobody chose, each of the two: afterwards one serves, with all that was accepted.
///
/// Covers: F1.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_moment_leaves_one_that_serves() {
    let rounds = if std::env::var_os("GATEWAY_LONG").is_some() {
        40
    } else {
        6
    };
    for round in 0..rounds {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let mut gateway = Gateway::start(&state, &[]);
        let before = gateway.pid();
        let mut ws = Ws::connect(gateway.port, "/", &gateway.token())
            .await
            .unwrap();
        for n in 0..10 {
            say(&mut ws, "agent:main:kept", &format!("word {n}")).await;
        }
        let mut asked = begin(&gateway, None);
        let told = stage(
            &gateway.state,
            &["preparing", "draining", "starting", "done"],
        );
        let other = Orphan(u32::try_from(told["pid"].as_u64().unwrap()).unwrap());
        tokio::time::sleep(Duration::from_millis(170 * (round / 2))).await;
        let old_dies = round % 2 == 0;
        kill(if old_dies { before } else { other.0 }, "KILL");
        if old_dies {
            let _ = tokio::task::block_in_place(|| gateway.ended());
        }
        let began = Instant::now();
        let survivor = loop {
            let now = serving(&gateway.state);
            if now != 0 && lives(now) && tokio::task::block_in_place(|| is_ready(&gateway)) {
                break Some(now);
            }
            // Killed when it was the only one: then a start of the usual kind finds everything.
            if !lives(before) && !lives(other.0) {
                break None;
            }
            assert!(began.elapsed() < PATIENCE, "round {round}: nobody serves");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let _ = asked.kill();
        let _ = asked.wait();
        println!(
            "round {round}: the {} one was killed, {survivor:?} serves",
            if old_dies { "old" } else { "new" }
        );
        let gateway = match survivor {
            Some(_) => gateway,
            None => {
                assert!(!old_dies, "the new one has to go on");
                Gateway::start(&state, &[])
            }
        };
        let mut ws = Ws::connect(gateway.port, "/", &gateway.token())
            .await
            .unwrap();
        let wanted: Vec<String> = (0..10).map(|n| format!("echo: word {n}")).collect();
        assert_eq!(answers(&mut ws, "agent:main:kept", 10).await, wanted);
    }
}

/// With TLS, under systemd and with a socket from it: three upgrades, one after the other, the last two by SIGUSR2 alone. The
/// service is told which process it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_with_a_socket_of_its_own_is_upgraded_again_and_again() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let heard = UnixDatagram::bind(dir.path().join("notify")).unwrap();
    heard.set_read_timeout(Some(PATIENCE)).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let log = std::fs::File::create(dir.path().join("log")).unwrap();
    let child = Command::new("sh")
        .arg("-c")
        .arg("export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$0\" \"$@\" 3<&0 </dev/null")
        .arg(gateway_bin())
        .args(["serve", "--tls", "--port", "1", "--state-dir"])
        .arg(&state)
        .env_remove("GATEWAY_TOKEN")
        .env("NOTIFY_SOCKET", dir.path().join("notify"))
        .env("WATCHDOG_USEC", "400000")
        .env("WATCHDOG_PID", "1")
        .stdin(OwnedFd::from(listener))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    let mut process = Orphan(child.id());
    let mut child = Some(child);
    let hear = |wanted: &str| {
        let mut buffer = [0; 512];
        let begun = Instant::now();
        loop {
            assert!(begun.elapsed() < PATIENCE, "no {wanted}");
            let n = heard.recv(&mut buffer).unwrap();
            let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
            assert!(!text.contains("STOPPING"), "that would end the service");
            if text.contains(wanted) {
                return text;
            }
        }
    };
    hear("READY=1");
    let fingerprints = json_file(&state.join("run/gateway.json"))["tlsFingerprints"].clone();
    assert!(fingerprints[0].is_string());
    for round in 0..3 {
        let before = process.0;
        if round == 0 {
            let output = Command::new(gateway_bin())
                .args(["upgrade", "--json", "--state-dir"])
                .arg(&state)
                .output()
                .unwrap();
            assert!(output.status.success(), "{output:?}");
        } else {
            kill(before, "USR2");
        }
        let said = hear("MAINPID=");
        if let Some(mut child) = child.take() {
            assert!(child.wait().unwrap().success());
        }
        let pid: u32 = said
            .trim()
            .strip_prefix("MAINPID=")
            .unwrap()
            .parse()
            .unwrap();
        process = Orphan(pid);
        let run = json_file(&state.join("run/gateway.json"));
        assert_eq!((&run["pid"], &run["port"]), (&json!(pid), &json!(port)));
        assert_eq!(run["tlsFingerprints"], fingerprints);
        // It also says that it is alive.
        hear("WATCHDOG=1");
        let output = Command::new(gateway_bin())
            .args(["health", "--state-dir"])
            .arg(&state)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}
