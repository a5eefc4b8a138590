//! A name in a tailnet, with a stand-in for the `tailscale` program: a script that keeps what it was told in a folder, answers as
//! the program does, and can be told to fail.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gateway_tests::process::{Gateway, gateway_bin};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);
const NAME: &str = "box.tail1234.ts.net";
const UNA: (&str, &str) = ("100.64.0.7", "una@example.org");
const BOB: (&str, &str) = ("100.64.0.8", "bob@example.org");

/// `state` is what `BackendState` says, `proxy` what is served (by us or somebody else), `who` the login of each address.
const STAND_IN: &str = r#"#!/bin/sh
here=$(dirname "$0")
echo "$*" >> "$here/calls"
[ -f "$here/hang" ] && sleep 300
case "$1 $2" in
"status --json")
  if [ -f "$here/down" ]; then echo "failed to connect to local tailscaled; is it running?" >&2; exit 1; fi
  printf '{"BackendState":"%s","Self":{"DNSName":"box.tail1234.ts.net."}}' "$(cat "$here/state")" ;;
"serve status")
  if [ -f "$here/proxy" ]; then
    printf '{"TCP":{"443":{"HTTPS":true}},"Web":{"box.tail1234.ts.net:443":{"Handlers":{"/":{"Proxy":"%s"}}}},"AllowFunnel":{"box.tail1234.ts.net:443":%s}}' \
      "$(cat "$here/proxy")" "$(cat "$here/funnel")"
  else echo '{}'; fi ;;
"serve --bg"|"funnel --bg")
  printf %s "$5" > "$here/proxy"
  if [ "$1" = funnel ]; then echo true; else echo false; fi > "$here/funnel" ;;
"serve --https=443"|"funnel --https=443")
  [ "$3" = off ] && rm -f "$here/proxy" ;;
"whois --json")
  if [ -f "$here/who/$3" ]; then printf '{"Node":{},"UserProfile":{"LoginName":"%s"}}' "$(cat "$here/who/$3")"
  else echo "peer not found" >&2; exit 1; fi ;;
*) echo "unknown: $*" >&2; exit 2 ;;
esac
"#;

/// A state directory, and the stand-in beside it.
struct Place {
    _dir: tempfile::TempDir,
    state: PathBuf,
    tailnet: PathBuf,
}

impl Place {
    /// `gateway` is what stands in that part of the configuration besides bind and tailscale; `tailscale` likewise.
    fn new(gateway: &str, tailscale: &str, rest: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (state, tailnet) = (dir.path().join("state"), dir.path().join("tailnet"));
        std::fs::create_dir_all(tailnet.join("who")).unwrap();
        for (address, login) in [UNA, BOB] {
            std::fs::write(tailnet.join("who").join(address), login).unwrap();
        }
        std::fs::write(tailnet.join("state"), "Running").unwrap();
        let program = tailnet.join("tailscale");
        std::fs::write(&program, STAND_IN).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
        std::fs::create_dir_all(state.join("secrets/main")).unwrap();
        std::fs::write(
            state.join("gateway.json5"),
            format!(
                "{{ gateway: {{ {gateway} tailscale: {{ program: {program:?}, {tailscale} }} }}, {rest} }}"
            ),
        )
        .unwrap();
        Self {
            _dir: dir,
            state,
            tailnet,
        }
    }

    fn calls(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.tailnet.join("calls")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn served(&self) -> Option<String> {
        std::fs::read_to_string(self.tailnet.join("proxy")).ok()
    }

    fn put(&self, file: &str, text: &str) {
        std::fs::write(self.tailnet.join(file), text).unwrap();
    }
}

fn health(gateway: &Gateway) -> Value {
    let (ok, out, err) = gateway.cli(&["call", "health", "--json"]);
    assert!(ok, "{out}{err}");
    let told: Value = serde_json::from_str(&out).unwrap();
    told["tailscale"].clone()
}

/// The health of the name, as soon as it is this.
fn health_is(gateway: &Gateway, state: &str) -> Value {
    let started = Instant::now();
    loop {
        let told = health(gateway);
        if told["state"] == state {
            return told;
        }
        assert!(started.elapsed() < PATIENCE, "{told}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// One request by hand; gives the status line and all that came.
fn ask(gateway: &Gateway, head: &str) -> String {
    let mut socket = TcpStream::connect(("127.0.0.1", gateway.port)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
        .write_all(head.replace('\n', "\r\n").as_bytes())
        .unwrap();
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    // An upgrade leaves the connection open: the head is enough.
    while !bytes.windows(4).any(|w| w == b"\r\n\r\n") {
        match socket.read(&mut piece) {
            Ok(0) | Err(_) => break,
            Ok(n) => bytes.extend_from_slice(&piece[..n]),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The lines that Tailscale adds, for who has this address and login.
fn brought((address, login): (&str, &str)) -> String {
    format!(
        "host: {NAME}\nx-forwarded-host: {NAME}\nx-forwarded-proto: https\nx-forwarded-for: {address}\ntailscale-user-login: {login}\n"
    )
}

/// Opens `/rpc` as a page would; gives the status.
fn socket(gateway: &Gateway, lines: &str, token: Option<&str>) -> String {
    let offered = match token {
        Some(token) => format!("jsonrpc, gateway.bearer.{}", URL_SAFE_NO_PAD.encode(token)),
        None => "jsonrpc".to_owned(),
    };
    let answer = ask(
        gateway,
        &format!(
            "GET /rpc HTTP/1.1\n{lines}upgrade: websocket\nconnection: upgrade\nsec-websocket-version: 13\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\nsec-websocket-protocol: {offered}\n\n"
        ),
    );
    answer.get(9..12).unwrap_or_default().to_owned()
}

#[test]
fn the_name_is_served_recognized_and_given_back() {
    let place = Place::new("", "mode: \"serve\", resetOnExit: true", "");
    let gateway = Gateway::start(&place.state, &[]);
    let told = health_is(&gateway, "ok");
    assert_eq!(told["url"], format!("https://{NAME}/"), "{told}");
    assert_eq!(told["mode"], "serve");
    let target = format!("http://127.0.0.1:{}", gateway.port);
    assert_eq!(place.served(), Some(target.clone()));
    let claims = |place: &Place| {
        let calls = place.calls();
        calls.iter().filter(|c| c.contains("--bg")).count()
    };
    assert_eq!(
        place.calls().iter().find(|c| c.contains("--bg")),
        Some(&format!("serve --bg --yes --https=443 {target}"))
    );

    // The page is there for who came by the name, and for nobody who only says so.
    let page = |lines: &str| {
        ask(
            &gateway,
            &format!("GET / HTTP/1.1\n{lines}connection: close\n\n"),
        )
    };
    assert!(page(&brought(UNA)).starts_with("HTTP/1.1 200"));
    assert!(page(&format!("host: {NAME}\n")).starts_with("HTTP/1.1 421"));
    let half = brought(UNA).replace("x-forwarded-proto: https\n", "");
    assert!(page(&half).starts_with("HTTP/1.1 403"), "{}", page(&half));
    let local = format!("host: 127.0.0.1:{}\n", gateway.port);
    assert!(
        page(&format!("{local}tailscale-user-login: una@example.org\n"))
            .starts_with("HTTP/1.1 403")
    );
    // Its own page may connect, a foreign one may not; the token is needed and enough.
    let (own, token) = (
        format!("{}origin: https://{NAME}\n", brought(UNA)),
        gateway.token(),
    );
    assert_eq!(socket(&gateway, &own, Some(&token)), "101");
    assert_eq!(socket(&gateway, &own, None), "401", "allowTailscale is off");
    let foreign = format!("{}origin: https://evil.example\n", brought(UNA));
    assert_eq!(socket(&gateway, &foreign, Some(&token)), "403");
    assert!(
        !place.calls().iter().any(|c| c.starts_with("whois")),
        "nobody asked for it"
    );

    // What is not of this machine has no rights of this machine: strangers are limited by their own address.
    for _ in 0..12 {
        socket(&gateway, &own, Some("wrong-0123456789abcdef"));
    }
    assert_eq!(
        socket(&gateway, &own, Some(&token)),
        "429",
        "una is locked out"
    );
    let bob = format!("{}origin: https://{NAME}\n", brought(BOB));
    assert_eq!(socket(&gateway, &bob, Some(&token)), "101", "bob is not");

    assert_eq!(claims(&place), 1);
    let started = Instant::now();
    assert!(gateway.stop().success());
    assert!(started.elapsed() < PATIENCE);
    assert_eq!(place.served(), None, "{:?}", place.calls());
    assert!(place.calls().iter().any(|c| c == "serve --https=443 off"));
}

#[test]
fn a_login_is_let_in_when_tailscale_says_the_same() {
    let place = Place::new("auth: { allowTailscale: true },", "mode: \"serve\"", "");
    let gateway = Gateway::start(&place.state, &[]);
    health_is(&gateway, "ok");
    let of = |who: (&str, &str)| format!("{}origin: https://{NAME}\n", brought(who));
    assert_eq!(socket(&gateway, &of(UNA), None), "101");
    // Somebody else's address, an address of nobody, a device of nobody.
    assert_eq!(socket(&gateway, &of((BOB.0, UNA.1)), None), "401");
    assert_eq!(socket(&gateway, &of(("100.64.0.99", UNA.1)), None), "401");
    std::fs::write(place.tailnet.join("who/100.64.0.50"), "tagged-devices").unwrap();
    assert_eq!(
        socket(&gateway, &of(("100.64.0.50", "tagged-devices")), None),
        "401"
    );
    let two = format!("{}tailscale-user-login: bob@example.org\n", of(UNA));
    assert_eq!(socket(&gateway, &two, None), "401");
    // One question for an address, whatever the crowd.
    let asked = |place: &Place| {
        let calls = place.calls();
        calls
            .iter()
            .filter(|c| **c == format!("whois --json {}", UNA.0))
            .count()
    };
    for _ in 0..5 {
        assert_eq!(socket(&gateway, &of(UNA), None), "101");
    }
    assert_eq!(asked(&place), 1);
    // Never for the addresses of programs.
    let models = ask(
        &gateway,
        &format!(
            "GET /v1/models HTTP/1.1\n{}connection: close\n\n",
            brought(UNA)
        ),
    );
    assert!(models.starts_with("HTTP/1.1 401"), "{models}");
    let call = ask(
        &gateway,
        &format!(
            "POST /rpc HTTP/1.1\n{}content-type: application/json\ncontent-length: 2\nconnection: close\n\n{{}}",
            brought(UNA)
        ),
    );
    assert!(call.starts_with("HTTP/1.1 401"), "{call}");

    // Switched off while it runs: the sockets that it let in end.
    let mut held = TcpStream::connect(("127.0.0.1", gateway.port)).unwrap();
    held.set_read_timeout(Some(PATIENCE)).unwrap();
    let lines = of(UNA);
    let open = format!(
        "GET /rpc HTTP/1.1\n{lines}upgrade: websocket\nconnection: upgrade\nsec-websocket-version: 13\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\nsec-websocket-protocol: jsonrpc\n\n"
    );
    held.write_all(open.replace('\n', "\r\n").as_bytes())
        .unwrap();
    let mut first = [0; 12];
    held.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 101");
    let (ok, out, err) = gateway.cli(&["config", "set", "gateway.auth.allowTailscale", "false"]);
    assert!(ok, "{out}{err}");
    let mut rest = Vec::new();
    // The end of the stream, and not the end of patience.
    held.read_to_end(&mut rest).unwrap();
    assert_eq!(socket(&gateway, &of(UNA), None), "401");
}

/// Covers: MT1.
#[test]
fn with_two_tenants_only_listed_logins_are_let_in_each_into_its_own() {
    let tenants = "tenants: { acme: { auth: { token: \"acme-token-0123456789abcdef0123\" } } }";
    let auth = "auth: { allowTailscale: true, token: \"main-token-0123456789abcdef0123\" },";
    let open = Place::new(auth, "mode: \"serve\"", tenants);
    let gateway = Gateway::start(&open.state, &[]);
    health_with(&gateway, "main-token-0123456789abcdef0123");
    let of = |who: (&str, &str)| format!("{}origin: https://{NAME}\n", brought(who));
    assert_eq!(socket(&gateway, &of(UNA), None), "401", "nobody is listed");
    drop(gateway);

    let logins = "mode: \"serve\", logins: { \"una@example.org\": \"acme\" }";
    let place = Place::new(auth, logins, tenants);
    let gateway = Gateway::start(&place.state, &[]);
    health_with(&gateway, "main-token-0123456789abcdef0123");
    assert_eq!(socket(&gateway, &of(UNA), None), "101");
    assert_eq!(socket(&gateway, &of(BOB), None), "401", "bob is not listed");
    // The path of another tenant is as wrong as for anybody.
    let at = |path: &str| {
        let answer = ask(
            &gateway,
            &format!(
                "GET {path} HTTP/1.1\n{}upgrade: websocket\nconnection: upgrade\nsec-websocket-version: 13\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\nsec-websocket-protocol: jsonrpc\n\n",
                of(UNA)
            ),
        );
        answer.get(9..12).unwrap_or_default().to_owned()
    };
    assert_eq!(at("/t/acme/rpc"), "101");
    assert_eq!(at("/t/main/rpc"), "401");
    assert_eq!(at("/t/nobody/rpc"), "401");
}

/// Waits for the name, with a token that stands in the configuration.
fn health_with(gateway: &Gateway, token: &str) {
    let started = Instant::now();
    loop {
        let (ok, out, err) = gateway.cli(&["call", "health", "--json", "--token", token]);
        assert!(ok, "{out}{err}");
        let told: Value = serde_json::from_str(&out).unwrap();
        if told["tailscale"]["state"] == "ok" {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "{told}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn another_program_of_this_machine_cannot_vouch_for_anybody() {
    // Another user of the machine can write the same headers; its socket tells on it.
    let place = Place::new("auth: { allowTailscale: true },", "mode: \"serve\"", "");
    let gateway = Gateway::start(&place.state, &[]);
    health_is(&gateway, "ok");
    let forge = format!(
        "import socket,sys\ns=socket.create_connection(('127.0.0.1',{}))\ns.sendall({:?}.encode())\nprint(s.recv(64)[9:12].decode())",
        gateway.port,
        format!(
            "GET /rpc HTTP/1.1\n{}upgrade: websocket\nconnection: upgrade\nsec-websocket-version: 13\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\nsec-websocket-protocol: jsonrpc\n\n",
            brought(UNA)
        )
        .replace('\n', "\r\n")
    );
    let as_nobody = |user: &str| {
        Command::new("setpriv")
            .args(["--reuid", user, "--clear-groups", "/usr/bin/python3", "-c"])
            .arg(&forge)
            .stderr(Stdio::null())
            .output()
            .ok()
            .filter(|o| o.status.success())
            .map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
    };
    let Some(code) = as_nobody("65534") else {
        eprintln!("!!! LEFT OUT: no second user (root, setpriv, /usr/bin/python3)");
        return;
    };
    assert_eq!(code, "401");
    assert_eq!(as_nobody("0").as_deref(), Some("101"));
}

#[test]
fn a_funnel_needs_a_password_and_knows_no_logins() {
    let place = Place::new("", "mode: \"funnel\"", "");
    let refused = Command::new(gateway_bin())
        .args(["serve", "--port", "0", "--state-dir"])
        .arg(&place.state)
        .env_remove("GATEWAY_TOKEN")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(78), "{text}");
    assert!(text.contains("it needs a password"), "{text}");

    let password = "a long password of a person 0123";
    let auth =
        format!("auth: {{ mode: \"password\", password: {password:?}, allowTailscale: true }},");
    let place = Place::new(&auth, "mode: \"funnel\", resetOnExit: true", "");
    let gateway = Gateway::start(&place.state, &[]);
    let told = health_is(&gateway, "ok");
    assert_eq!(told["mode"], "funnel", "{told}");
    let claim = format!(
        "funnel --bg --yes --https=443 http://127.0.0.1:{}",
        gateway.port
    );
    assert!(place.calls().contains(&claim), "{:?}", place.calls());
    let lines = format!("{}origin: https://{NAME}\n", brought(UNA));
    assert_eq!(socket(&gateway, &lines, None), "401");
    assert_eq!(socket(&gateway, &lines, Some(password)), "101");
    // The password may not go while everybody can reach the gateway.
    let (ok, _, err) = gateway.cli(&["config", "set", "gateway.auth.mode", "token"]);
    assert!(!ok && err.contains("needs a password"), "{err}");
    gateway.stop();
    assert!(place.calls().iter().any(|c| c == "funnel --https=443 off"));
}

#[test]
fn what_is_wrong_is_one_field_and_is_mended_by_itself() {
    // Logged out, then not there at all, then in order: each is told, and everything else works.
    let place = Place::new("", "mode: \"serve\"", "");
    place.put("state", "NeedsLogin");
    let gateway = Gateway::start(&place.state, &[]);
    let told = health_is(&gateway, "degraded");
    assert!(
        told["message"].as_str().unwrap().contains("tailscale up"),
        "{told}"
    );
    let (ok, out, err) = gateway.cli(&["chat", "--message", "hello"]);
    assert!(ok && out.contains("hello"), "{out}{err}");
    assert!(gateway.stop().success());

    for (file, words) in [
        ("down", "is it running"),
        ("proxy", "serves something else"),
    ] {
        let place = Place::new("", "mode: \"serve\", resetOnExit: true", "");
        place.put(file, "http://127.0.0.1:3000");
        place.put("funnel", "false");
        let gateway = Gateway::start(&place.state, &[]);
        let told = health_is(&gateway, "degraded");
        assert!(told["message"].as_str().unwrap().contains(words), "{told}");
        assert!(gateway.stop().success());
        assert!(
            !place
                .calls()
                .iter()
                .any(|c| c.contains("--bg") || c.ends_with(" off")),
            "{:?}",
            place.calls()
        );
    }

    // A gateway that was killed left its claim: the next one, on another port, takes it over.
    let place = Place::new("", "mode: \"serve\"", "");
    let gateway = Gateway::start(&place.state, &[]);
    health_is(&gateway, "ok");
    let before = place.served();
    gateway.kill();
    assert_eq!(place.served(), before);
    let gateway = Gateway::start(&place.state, &[]);
    health_is(&gateway, "ok");
    assert_eq!(
        place.served(),
        Some(format!("http://127.0.0.1:{}", gateway.port))
    );
    // Without resetOnExit the name stays.
    gateway.stop();
    assert!(place.served().is_some());
}

#[test]
fn a_program_that_is_missing_or_hangs_holds_nothing_up() {
    let place = Place::new("", "mode: \"serve\", resetOnExit: true", "");
    std::fs::remove_file(place.tailnet.join("tailscale")).unwrap();
    let gateway = Gateway::start(&place.state, &[]);
    let told = health_is(&gateway, "degraded");
    assert!(
        told["message"].as_str().unwrap().contains("tailscale"),
        "{told}"
    );
    assert!(gateway.stop().success());

    let place = Place::new(
        "auth: { allowTailscale: true },",
        "mode: \"serve\", resetOnExit: true",
        "",
    );
    let gateway = Gateway::start(&place.state, &[]);
    health_is(&gateway, "ok");
    place.put("hang", "");
    // Somebody waits for an answer about an address while others go on, and the stop comes to its end.
    let port = gateway.port;
    let waiting = std::thread::spawn(move || {
        let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let head = format!(
            "GET /rpc HTTP/1.1\n{}upgrade: websocket\nconnection: upgrade\nsec-websocket-version: 13\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\nsec-websocket-protocol: jsonrpc\n\n",
            brought(("100.64.0.77", UNA.1))
        );
        socket
            .write_all(head.replace('\n', "\r\n").as_bytes())
            .unwrap();
        let mut all = Vec::new();
        let _ = socket.read_to_end(&mut all);
        String::from_utf8_lossy(&all).get(9..12).map(str::to_owned)
    });
    let (ok, out, err) = gateway.cli(&["chat", "--message", "hello"]);
    assert!(ok && out.contains("hello"), "{out}{err}");
    assert_eq!(waiting.join().unwrap().as_deref(), Some("401"));
    assert!(gateway.stop().success());
    let left = Command::new("pgrep")
        .args(["-f", place.tailnet.to_str().unwrap()])
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&left.stdout).trim(),
        "",
        "programs were left behind"
    );
}

#[test]
fn what_does_not_go_together_is_refused_with_its_place() {
    let refused = |gateway: &str, tailscale: &str, rest: &str| {
        let place = Place::new(gateway, tailscale, rest);
        let output = Command::new(gateway_bin())
            .args(["config", "validate", "--state-dir"])
            .arg(&place.state)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{text}");
        text
    };
    let token = "auth: { token: \"main-token-0123456789abcdef0123\" },";
    for (gateway, tailscale, rest, words) in [
        (
            format!("{token} bind: \"lan\","),
            "mode: \"serve\"",
            "",
            "stays on loopback",
        ),
        (
            "auth: { mode: \"none\" },".to_owned(),
            "mode: \"serve\"",
            "",
            "authentication is needed",
        ),
        (
            token.to_owned(),
            "mode: \"serve\", httpsPort: 80",
            "",
            "443, 8443 or 10000",
        ),
        (
            token.to_owned(),
            "mode: \"serve\", logins: { una: \"acme\" }",
            "",
            "no such tenant",
        ),
        (
            token.to_owned(),
            "mode: \"serve\"",
            "tenants: { acme: { auth: { token: \"acme-token-0123456789abcdef0123\", allowTailscale: true } } }",
            "set once for the gateway",
        ),
    ] {
        let text = refused(&gateway, tailscale, rest);
        assert!(text.contains(words), "{words}: {text}");
    }
    // The wire changes none of it: it names a program, and who is let in.
    let place = Place::new("", "mode: \"off\"", "");
    let gateway = Gateway::start(&place.state, &[]);
    let (ok, out, _) = gateway.cli(&["call", "config.get", "--json"]);
    assert!(ok, "{out}");
    let hash = serde_json::from_str::<Value>(&out).unwrap()["hash"]
        .as_str()
        .unwrap()
        .to_owned();
    let params = serde_json::json!({
        "baseHash": hash, "raw": "{ gateway: { tailscale: { logins: { eve: 'main' } } } }",
    });
    let (ok, out, err) = gateway.cli(&["call", "config.patch", "--params", &params.to_string()]);
    assert!(!ok && err.contains("gateway.tailscale"), "{out}{err}");
    assert!(
        !std::fs::read_to_string(Path::new(&place.state).join("gateway.json5"))
            .unwrap()
            .contains("eve")
    );
}
