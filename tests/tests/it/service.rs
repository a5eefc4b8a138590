//! The gateway under systemd: what it tells, the socket that it is given, the unit that it writes.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use gateway_tests::process::{Gateway, gateway_bin};

/// How long a message may take; not a performance statement.
const PATIENCE: Duration = Duration::from_secs(60);

fn heard(socket: &UnixDatagram, wanted: &str) -> String {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut buffer = [0; 512];
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < PATIENCE, "no {wanted}");
        let n = socket.recv(&mut buffer).unwrap();
        let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
        if text.contains(wanted) {
            return text;
        }
    }
}

#[test]
fn systemd_hears_of_readiness_of_life_and_of_the_stop() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let state = dir.path().join("state");
    let gateway = Gateway::start_env(
        &state,
        &[],
        &[
            ("NOTIFY_SOCKET", path.to_str().unwrap()),
            ("WATCHDOG_USEC", "200000"),
        ],
    );
    let ready = heard(&socket, "READY=1");
    assert!(
        ready.contains(&format!("127.0.0.1:{}", gateway.port)),
        "{ready}"
    );
    for _ in 0..3 {
        heard(&socket, "WATCHDOG=1");
    }
    let stopped = std::thread::spawn(move || gateway.stop());
    heard(&socket, "STOPPING=1");
    assert!(stopped.join().unwrap().success());
}

#[test]
fn a_socket_that_is_handed_over_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // A connection waits before the gateway is there, as with socket activation.
    let early = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut child = Command::new("sh")
        .arg("-c")
        .arg("export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$0\" \"$@\" 3<&0 </dev/null")
        .arg(gateway_bin())
        .args(["serve", "--port", "1", "--state-dir"])
        .arg(&state)
        .env_remove("GATEWAY_TOKEN")
        .stdin(OwnedFd::from(listener))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let answer = ask(early, port);
    let run = std::fs::read_to_string(state.join("run/gateway.json")).unwrap_or_default();
    let _ = Command::new("kill")
        .args(["-TERM", &child.id().to_string()])
        .status();
    let ended = child.wait().unwrap();
    assert!(answer.starts_with("HTTP/1.1 "), "{answer}");
    assert!(
        run.is_empty() || run.contains(&format!("\"port\":{port}")),
        "{run}"
    );
    assert!(ended.success());
}

fn ask(mut socket: std::net::TcpStream, port: u16) -> String {
    use std::io::{Read, Write};
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(
        socket,
        "GET /healthz HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn the_unit_is_sound_in_the_eyes_of_systemd() {
    let dir = tempfile::tempdir().unwrap();
    let units = dir.path().join("units");
    let state = dir.path().join("a state $HOME 100%");
    let service = |args: &[&str]| {
        let output = Command::new(gateway_bin())
            .arg("service")
            .args(args)
            .args(["--json", "--unit-dir"])
            .arg(&units)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    let there = std::path::Path::new("/usr/bin/systemd-analyze").exists();
    for more in [
        vec!["--system"],
        vec!["--state-dir", state.to_str().unwrap()],
    ] {
        let mut args = vec!["install", "--no-start"];
        args.extend(&more);
        let told = service(&args);
        if there {
            assert_eq!(told["verify"], "sound", "{told}");
            assert!(
                told["exposure"]
                    .as_str()
                    .unwrap()
                    .contains("exposure level"),
                "{told}"
            );
        }
        let unit = std::fs::read_to_string(units.join("gateway.service")).unwrap();
        assert!(unit.contains("Type=notify") && unit.contains("WatchdogSec="));
        let mut args = vec!["status"];
        args.extend(&more);
        let told = service(&args);
        assert_eq!(told["installed"], true, "{told}");
        assert_eq!(told["current"], true, "{told}");
    }
    let unit = std::fs::read_to_string(units.join("gateway.service")).unwrap();
    assert!(unit.contains("a state $$HOME 100%%\""), "{unit}");
    service(&["uninstall"]);
    assert!(!units.join("gateway.service").exists());
}
