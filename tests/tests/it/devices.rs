//! A command on another machine: it proves its device, waits for an operator, and goes on by its own token. Two network
//! namespaces; where they cannot be made the test says so and is left out.

use std::path::Path;
use std::process::Output;

use gateway_tests::process::gateway_bin;
use serde_json::{Value, json};

use crate::discovery::Nets;

const URL: &str = "wss://192.0.2.1:18789";

fn failure(output: &Output) -> Value {
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    serde_json::from_slice::<Value>(&output.stderr).unwrap()["error"].clone()
}

/// Covers: A3, A5.
#[test]
fn a_command_elsewhere_is_paired_and_unpaired() {
    let Some(nets) = Nets::new(2, "pair") else {
        return;
    };
    nets.cable();
    let dir = tempfile::tempdir().unwrap();
    let (state, laptop) = (dir.path().join("state"), dir.path().join("laptop"));
    let _gateway = nets.gateway(0, &state, &["--bind", "lan", "--tls"]);
    let here = |args: &[&str]| nets.ask(0, &state, args);
    let pin = here(&["tls", "show"])["fingerprint"]
        .as_str()
        .unwrap()
        .to_owned();
    let token = std::fs::read_to_string(state.join("secrets/main/gateway-token")).unwrap();
    // The method needs a scope, which a caller from elsewhere has as an approved device only.
    let elsewhere = |more: &[&str]| {
        nets.command(1, &gateway_bin())
            .args(["call", "sessions.list", "--json", "--url", URL])
            .args(["--tls-fingerprint", &pin, "--state-dir"])
            .arg(&laptop)
            .args(more)
            .output()
            .unwrap()
    };
    let with_token = ["--token", token.trim()];

    let nothing = elsewhere(&[]);
    assert_eq!(nothing.status.code(), Some(2), "no credential: {nothing:?}");
    let refused = failure(&elsewhere(&with_token));
    let details = &refused["gateway"]["details"];
    assert_eq!(details["code"], "PAIRING_REQUIRED", "{refused}");
    let request = details["requestId"].as_str().unwrap();
    let next = refused["next"].as_str().unwrap();
    assert!(
        next.contains(&format!("gateway devices approve {request}")),
        "{next}"
    );
    let listed = here(&["devices", "list"]);
    assert_eq!(listed["pending"][0]["requestId"], json!(request));
    assert_eq!(listed["pending"][0]["remoteIp"], "192.0.2.2");
    let approved = here(&["devices", "approve", request]);
    let id = approved["device"]["deviceId"].as_str().unwrap();
    assert_eq!(details["deviceId"], json!(id));

    let good = elsewhere(&with_token);
    assert!(good.status.success(), "{good:?}");
    // From now on the device's own token is enough.
    let by_itself = elsewhere(&[]);
    assert!(by_itself.status.success(), "{by_itself:?}");
    for name in ["device.json", "device-auth.json"] {
        let path = laptop.join("identity").join(name);
        assert_eq!(mode(&path), 0o600, "{name}");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            !text.contains(token.trim()),
            "{name} has the gateway's token"
        );
    }

    // A part of an id is enough to name a device; its token is replaced, then ended.
    here(&["devices", "rename", &id[..8], "laptop"]);
    assert_eq!(
        here(&["devices", "list"])["paired"][0]["operatorLabel"],
        "laptop"
    );
    let rotated = here(&["devices", "rotate", &id[..8]]);
    assert_eq!(rotated["tokenDelivery"], "withheld-cross-device");
    let old = failure(&elsewhere(&[]));
    assert_eq!(
        old["gateway"]["details"]["code"],
        "AUTH_DEVICE_TOKEN_MISMATCH"
    );
    assert!(old["next"].as_str().unwrap().contains("--token"), "{old}");
    assert!(elsewhere(&with_token).status.success(), "still approved");
    assert!(elsewhere(&[]).status.success(), "the new token was kept");
    here(&["devices", "revoke", &id[..8]]);
    let ended = failure(&elsewhere(&with_token));
    assert_eq!(ended["gateway"]["details"]["code"], "PAIRING_REQUIRED");
    let again = ended["gateway"]["details"]["requestId"].as_str().unwrap();
    here(&["devices", "reject", again]);
    here(&["devices", "remove", id]);
    let listed = here(&["devices", "list"]);
    assert_eq!(
        (&listed["pending"], &listed["paired"]),
        (&json!([]), &json!([]))
    );
}

/// A link that was made on the gateway's machine pairs another one, once: with its certificate, without an approval, and with the
/// rights that the link was made for.
/// Covers: A6.
#[test]
fn a_link_pairs_a_machine_elsewhere() {
    let Some(nets) = Nets::new(2, "link") else {
        return;
    };
    nets.cable();
    let dir = tempfile::tempdir().unwrap();
    let (state, laptop) = (dir.path().join("state"), dir.path().join("laptop"));
    let _gateway = nets.gateway(0, &state, &["--bind", "lan", "--tls"]);
    let here = |args: &[&str]| nets.ask(0, &state, args);
    let elsewhere = |args: &[&str]| {
        nets.command(1, &gateway_bin())
            .args(args)
            .args(["--json", "--state-dir"])
            .arg(&laptop)
            .output()
            .unwrap()
    };
    let pin = here(&["tls", "show"])["fingerprint"].clone();
    let made = here(&["devices", "setup-code", "--access", "limited"]);
    assert_eq!(made["gatewayUrl"], URL, "{made}");
    let link = made["link"].as_str().unwrap();
    let joined = elsewhere(&["pair", link]);
    assert!(joined.status.success(), "{joined:?}");
    let joined: Value = serde_json::from_slice(&joined.stdout).unwrap();
    assert_eq!(joined["roles"], json!(["operator", "node"]));
    assert_eq!(joined["tlsFingerprints"], json!([pin]));
    let address = joined["gatewayUrl"].as_str().unwrap();

    // No token, no fingerprint, no approval.
    let good = elsewhere(&["call", "sessions.list", "--url", address]);
    assert!(good.status.success(), "{good:?}");
    let wide = failure(&elsewhere(&["devices", "list", "--url", address]));
    assert_eq!(wide["gateway"]["details"]["code"], "AUTH_SCOPE_MISMATCH");
    let again = failure(&elsewhere(&["pair", link]));
    assert_eq!(
        again["gateway"]["details"]["code"],
        "AUTH_BOOTSTRAP_TOKEN_INVALID"
    );
    assert!(again["next"].as_str().unwrap().contains("setup-code"));
    let listed = here(&["devices", "list"]);
    assert_eq!(listed["pending"], json!([]));
    assert_eq!(listed["paired"][0]["approvedVia"], "bootstrap");
    assert_eq!(listed["paired"][0]["roles"], json!(["node", "operator"]));

    // The certificate is part of what was learnt.
    let kept = laptop.join("identity/device-auth.json");
    let text = std::fs::read_to_string(&kept).unwrap();
    let pin = pin.as_str().unwrap();
    assert!(text.contains(pin));
    std::fs::write(&kept, text.replace(pin, &"0".repeat(64))).unwrap();
    let forged = elsewhere(&["call", "health", "--url", address]);
    assert!(!forged.status.success(), "another certificate is refused");
    let said = String::from_utf8_lossy(&forged.stderr);
    assert!(
        said.contains("fingerprint") || said.contains("certificate"),
        "{said}"
    );

    // A code for a node makes no operator; what is no code is told so.
    let made = here(&["devices", "setup-code", "--access", "node"]);
    let other = dir.path().join("other");
    let node = nets
        .command(1, &gateway_bin())
        .args([
            "pair",
            made["setupCode"].as_str().unwrap(),
            "--json",
            "--state-dir",
        ])
        .arg(&other)
        .output()
        .unwrap();
    assert!(node.status.success(), "{node:?}");
    let node: Value = serde_json::from_slice(&node.stdout).unwrap();
    assert_eq!(node["roles"], json!(["node"]));
    let garbage = elsewhere(&["pair", "oc-pair://garbage"]);
    assert!(!garbage.status.success());
    assert!(!String::from_utf8_lossy(&garbage.stderr).contains("oc-pair://garbage"));

    // For a person there is a picture.
    let shown = nets
        .command(0, &gateway_bin())
        .args(["devices", "setup-code", "--state-dir"])
        .arg(&state)
        .output()
        .unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(
        shown.contains("oc-pair://") && shown.contains('\u{2588}'),
        "{shown}"
    );
}

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}
