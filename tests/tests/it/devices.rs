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

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}
