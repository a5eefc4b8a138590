//! TLS of the real binary: made at first use, pinned, changed while it runs, refused when it is not sound; and where the
//! commands connect.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use gateway_client::{CertPin, ClientError, ClientOptions, Credential, GatewayClient};
use gateway_tests::process::{Gateway, gateway_bin};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(30);

fn command(state: &Path, args: &[&str], env: &[(&str, &str)]) -> (i32, String, String) {
    let mut command = std::process::Command::new(gateway_bin());
    for name in ["GATEWAY_TOKEN", "GATEWAY_URL", "GATEWAY_TLS_FINGERPRINT"] {
        command.env_remove(name);
    }
    let output = command
        .args(args)
        .arg("--state-dir")
        .arg(state)
        .envs(env.iter().copied())
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    (
        output.status.code().unwrap_or(-1),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

/// Runs a verb with `--json` that must succeed.
fn ask(state: &Path, args: &[&str]) -> Value {
    let (code, out, err) = command(state, &[args, &["--json"]].concat(), &[]);
    assert_eq!(code, 0, "{args:?}: {err}");
    serde_json::from_str(&out).unwrap()
}

/// Asks until the answer fits.
fn until(state: &Path, args: &[&str], fits: impl Fn(&Value) -> bool) -> Value {
    let start = Instant::now();
    loop {
        let answer = ask(state, args);
        if fits(&answer) {
            return answer;
        }
        assert!(start.elapsed() < PATIENCE, "{args:?}: {answer}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn fails(state: &Path, args: &[&str], env: &[(&str, &str)], code: i32, words: &[&str]) {
    let (got, out, err) = command(state, args, env);
    assert_eq!(got, code, "{args:?}\n{out}\n{err}");
    assert!(err.contains("\nnext: "), "{err}");
    for word in words {
        assert!(err.contains(word), "no {word:?} in: {err}");
    }
}

fn pin(value: &Value) -> CertPin {
    CertPin::parse(value.as_str().unwrap()).unwrap()
}

async fn client(gateway: &Gateway, pins: &[CertPin]) -> Result<GatewayClient, ClientError> {
    let mut options = ClientOptions::new(gateway.url());
    options.pins = pins.to_vec();
    options.credential = Some(Credential::Token(gateway.token()));
    let start = Instant::now();
    loop {
        match GatewayClient::connect(options.clone()).await {
            // A gateway that has just bound its socket says to come again.
            Err(ClientError::Refused { error, .. }) if error.retryable => {
                assert!(start.elapsed() < PATIENCE, "{error:?}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            other => return other,
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

#[test]
fn a_certificate_is_made_at_first_use_and_the_commands_of_this_machine_pin_it() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    fails(&state, &["tls", "show"], &[], 78, &["gateway-token"]);
    let gateway = Gateway::start(&state, &["--tls"]);
    assert!(gateway.tls);
    let shown = ask(&state, &["tls", "show"]);
    let own = pin(&shown["fingerprint"]);
    assert_eq!(pin(&shown["fingerprintColons"]), own);
    assert_eq!(shown["selfSigned"], true);
    assert_eq!(shown["served"], json!(own));
    for (file, mode) in [
        ("gateway/tls/gateway-cert.pem", 0o600),
        ("gateway/tls/gateway-key.pem", 0o600),
        ("gateway/tls", 0o700),
        ("run/gateway.json", 0o600),
    ] {
        let meta = std::fs::metadata(state.join(file)).unwrap();
        assert_eq!(meta.permissions().mode() & 0o777, mode, "{file}");
    }
    let said = std::fs::read_to_string(&gateway.log).unwrap();
    assert!(
        said.contains(&format!("open    https://127.0.0.1:{}/", gateway.port)),
        "{said}"
    );
    assert!(said.contains(&format!("pin     sha256:{own}")), "{said}");

    let status = until(&state, &["status"], |_| true);
    let connection = &status["connection"];
    assert_eq!(connection["source"], "running gateway", "{connection}");
    assert_eq!(connection["pins"], json!([own]));
    assert_eq!(connection["tls"], true);
    let health = ask(&state, &["health"]);
    assert_eq!(health["tls"]["state"], "ok");
    assert_eq!(pin(&health["tls"]["fingerprint"]), own);

    // From elsewhere: by a pin, and by nothing else.
    let other = dir.path().join("other");
    let url = format!("wss://127.0.0.1:{}", gateway.port);
    let token = gateway.token();
    let with = |fingerprint: &str| -> Vec<String> {
        let mut args = vec!["status", "--url", &url, "--token", &token];
        if !fingerprint.is_empty() {
            args.extend(["--tls-fingerprint", fingerprint]);
        }
        args.into_iter().map(str::to_owned).collect()
    };
    let run = |args: Vec<String>, code: i32, words: &[&str]| {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        if code == 0 {
            let (got, _, err) = command(&other, &args, &[]);
            assert_eq!(got, 0, "{err}");
        } else {
            fails(&other, &args, &[], code, words);
        }
    };
    run(with(&own.to_string()), 0, &[]);
    run(with(&own.colons()), 0, &[]);
    let wrong = CertPin::new([9; 32]);
    run(
        with(&format!("sha256:{wrong}")),
        3,
        &[
            "gateway tls fingerprint mismatch",
            &own.to_string(),
            &wrong.to_string(),
            "gateway tls show",
        ],
    );
    run(with(""), 3, &["not trusted", "--tls-fingerprint"]);
    // Plain words to a TLS port.
    let plain = url.replace("wss://", "ws://");
    fails(
        &other,
        &["status", "--url", &plain, "--token", &token],
        &[],
        2,
        &["speaks TLS", "wss://"],
    );
    assert!(gateway.stop().success());
}

/// Covers: F23.
#[test]
fn rotation_with_overlap_breaks_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let gateway = Gateway::start(&state, &["--tls"]);
    let old = pin(&ask(&state, &["tls", "show"])["fingerprint"]);
    let rt = runtime();
    let live = rt.block_on(client(&gateway, &[old])).unwrap();
    assert_eq!(live.hello().certificates, [old]);

    // Made ahead and announced, not served.
    let told = ask(&state, &["tls", "rotate"]);
    let next = pin(&told["next"]["fingerprint"]);
    assert_ne!(old, next);
    assert_eq!(pin(&told["served"]["fingerprint"]), old);
    until(&state, &["health"], |h| {
        h["tls"]["nextFingerprint"] == json!(next)
    });
    let announced = rt.block_on(client(&gateway, &[old])).unwrap();
    assert_eq!(announced.hello().certificates, [old, next]);
    // Who pinned by hand is told.
    let url = gateway.url();
    let (code, _, err) = command(
        dir.path(),
        &[
            "status",
            "--url",
            &url,
            "--token",
            &gateway.token(),
            "--tls-fingerprint",
            &old.to_string(),
        ],
        &[],
    );
    assert_eq!(code, 0, "{err}");
    assert!(err.contains(&format!("pin sha256:{next} too")), "{err}");

    // Put in place: new handshakes show it, what stands goes on, this machine's commands follow.
    let start = Instant::now();
    ask(&state, &["tls", "rotate", "--finish"]);
    loop {
        let tried = rt.block_on(client(&gateway, &[next]));
        if tried.is_ok() {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "{tried:?}");
    }
    println!("new handshakes after {} ms", start.elapsed().as_millis());
    let answer = rt.block_on(live.request("health", Value::Null)).unwrap();
    assert_eq!(answer["ok"], true);
    let both = rt.block_on(client(&gateway, &[old, next])).unwrap();
    assert_eq!(both.hello().certificates, [next]);
    let refused = rt.block_on(client(&gateway, &[old])).unwrap_err();
    assert!(
        matches!(refused, ClientError::FingerprintMismatch { .. }),
        "{refused:?}"
    );
    let status = until(&state, &["status"], |s| {
        s["connection"]["pins"] == json!([next])
    });
    assert_eq!(status["connection"]["source"], "running gateway");
    fails(
        &state,
        &["tls", "rotate", "--finish"],
        &[],
        78,
        &["prepared"],
    );
    // At once, without overlap.
    let told = ask(&state, &["tls", "rotate", "--now"]);
    let third = pin(&told["served"]["fingerprint"]);
    until(&state, &["health"], |h| {
        h["tls"]["fingerprint"] == json!(third)
    });
    assert!(gateway.stop().success());
}

/// Covers: F23.
#[test]
fn a_bad_pair_changes_nothing_while_it_runs_and_is_refused_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let gateway = Gateway::start(&state, &["--tls"]);
    let old = pin(&ask(&state, &["tls", "show"])["fingerprint"]);
    let cert = state.join("gateway/tls/gateway-cert.pem");
    let good = std::fs::read(&cert).unwrap();
    std::fs::write(
        &cert,
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    )
    .unwrap();
    let health = until(&state, &["health"], |h| h["tls"]["state"] == "degraded");
    let message = health["tls"]["message"].as_str().unwrap();
    assert!(
        message.contains("X.509") && message.contains("still served"),
        "{message}"
    );
    assert!(!message.contains(dir.path().to_str().unwrap()), "{message}");
    assert_eq!(pin(&health["tls"]["fingerprint"]), old);
    let (_, text, _) = command(&state, &["health"], &[]);
    assert!(text.contains("tls: degraded"), "{text}");
    std::fs::write(&cert, &good).unwrap();
    until(&state, &["health"], |h| h["tls"]["state"] == "ok");

    std::fs::remove_file(&cert).unwrap();
    until(&state, &["health"], |h| h["tls"]["state"] == "degraded");
    assert!(gateway.stop().success());
    let serve = ["serve", "--tls", "--port", "0"];
    fails(
        &state,
        &serve,
        &[],
        78,
        &["gateway-cert.pem", "the key is there"],
    );
    std::fs::write(&cert, &good).unwrap();
    let key = state.join("gateway/tls/gateway-key.pem");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    fails(
        &state,
        &serve,
        &[],
        78,
        &["gateway-key.pem", "other users", "chmod 600"],
    );
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let gateway = Gateway::start(&state, &["--tls"]);
    assert_eq!(pin(&ask(&state, &["tls", "show"])["served"]), old);
    assert!(gateway.stop().success());
}

/// Flag, environment, `gateway.remote`, the running gateway, the configuration, the default: in this order.
///
/// Covers: N14, N16.
#[test]
fn where_a_command_connects_is_decided_in_one_order_and_explained() {
    let dir = tempfile::tempdir().unwrap();
    let far = dir.path().join("far");
    let gateway = Gateway::start(&far, &["--tls"]);
    let own = pin(&ask(&far, &["tls", "show"])["fingerprint"]);
    let token = gateway.token();
    let here = dir.path().join("here");
    let place = |state: &Path, args: &[&str], env: &[(&str, &str)]| -> Value {
        let (code, out, err) = command(state, &[&["status", "--json"], args].concat(), env);
        assert_eq!(code, 0, "{err}");
        serde_json::from_str::<Value>(&out).unwrap()["connection"].clone()
    };
    let url = gateway.url();
    let own_text = own.to_string();
    let env = [
        ("GATEWAY_URL", url.as_str()),
        ("GATEWAY_TOKEN", token.as_str()),
        ("GATEWAY_TLS_FINGERPRINT", own_text.as_str()),
    ];
    // Nothing at all: the default, and nobody is there (or something that is no gateway of ours).
    let (code, _, err) = command(&here, &["status"], &[]);
    assert_ne!(code, 0);
    assert!(err.contains("Address from: default"), "{err}");

    let by_env = place(&here, &[], &env);
    assert_eq!(by_env["source"], "env GATEWAY_URL");
    assert_eq!(by_env["pinnedBy"], "env GATEWAY_TLS_FINGERPRINT");
    assert_eq!(by_env["credentialFrom"], "env GATEWAY_TOKEN");
    let flags = [
        "--url",
        &url,
        "--token",
        &token,
        "--tls-fingerprint",
        &own_text,
    ];
    let by_flag = place(&here, &flags, &env);
    assert_eq!(by_flag["source"], "--url");
    assert_eq!(by_flag["steps"][0]["used"], true);
    assert!(
        by_flag["steps"][1]["why"]
            .as_str()
            .unwrap()
            .contains("later"),
        "{by_flag}"
    );

    std::fs::create_dir_all(&here).unwrap();
    let wrong = CertPin::new([5; 32]);
    let config = |pins: &str, mode: &str| {
        std::fs::write(here.join("token"), &token).unwrap();
        std::fs::set_permissions(here.join("token"), std::fs::Permissions::from_mode(0o600))
            .unwrap();
        let text = format!(
            "{{ gateway: {{ mode: \"{mode}\", remote: {{ url: \"{url}\", token: {{ file: \"token\" }}, tlsFingerprint: \"{pins}\" }} }} }}"
        );
        std::fs::write(here.join("gateway.json5"), text).unwrap();
    };
    config(&format!("{wrong}, sha256:{own}"), "remote");
    let by_config = place(&here, &[], &[]);
    assert_eq!(by_config["source"], "gateway.remote");
    assert_eq!(by_config["pins"], json!([wrong, own]));
    assert_eq!(by_config["credentialFrom"], "configuration");
    let (_, text, _) = command(&here, &["status"], &[]);
    for words in [
        "asked",
        "because gateway.remote",
        "not     --url: not given",
        "pinned by gateway.remote.tlsFingerprint",
    ] {
        assert!(text.contains(words), "no {words:?} in {text}");
    }
    // The credential of another address is not sent to a given one.
    fails(
        &here,
        &["status", "--url", &url, "--tls-fingerprint", &own_text],
        &[],
        2,
        &["credential"],
    );
    config(&wrong.to_string(), "remote");
    fails(
        &here,
        &["status"],
        &[],
        3,
        &[
            "gateway tls fingerprint mismatch",
            "Address from: gateway.remote",
        ],
    );
    config("sha256:beef", "remote");
    fails(
        &here,
        &["status"],
        &[],
        78,
        &["gateway.remote.tlsFingerprint", "64 hexadecimal digits"],
    );
    config(&own_text, "remote");
    fails(
        &here,
        &["serve", "--port", "0"],
        &[],
        78,
        &["gateway.mode", "local"],
    );
    let plain = url.replace("https://127.0.0.1", "ws://192.0.2.1");
    let text = format!(
        "{{ gateway: {{ mode: \"remote\", remote: {{ url: \"{plain}\", token: {{ file: \"token\" }} }} }} }}"
    );
    std::fs::write(here.join("gateway.json5"), text).unwrap();
    fails(&here, &["status"], &[], 2, &["in clear", "wss://"]);
    // Not in mode remote it is not asked: this state directory's own gateway is.
    let by_run = place(&far, &[], &[]);
    assert_eq!(by_run["source"], "running gateway");
    assert_eq!(by_run["steps"][2]["why"], "gateway.mode is not \"remote\"");
    assert!(gateway.stop().success());
}
