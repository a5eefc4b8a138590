//! Ways in without a credential of one's own: none at all, and the word of a reverse proxy.

use serde_json::{Value, json};

use crate::devices::{Device, as_node, as_tui};
use crate::support::*;

const SECRET: &str = "k7Q2v9XbT4mZr8Lw3NcY6hJd5FsG1pAe";
const PASSWORD: &str = "Zp4Wc8RfM1xKt6BvQ9sLd3HyN7gJu2Ea";

/// A connect on a socket of its own; the answer, or the status of a refused upgrade.
fn enter(gw: &Gateway, headers: &[(&str, &str)], change: Value) -> Result<Value, u16> {
    let mut ws = gw.upgrade("/", headers)?;
    ws.json();
    ws.text(&connect(change).to_string());
    Ok(ws.json())
}

fn code(answer: &Value) -> &str {
    answer["error"]["details"]["code"].as_str().unwrap_or("ok")
}

/// The page, with no identity of its own.
fn as_page(more: Value) -> Value {
    let mut change = json!({
        "auth": null,
        "client": { "id": "openclaw-control-ui", "version": "1", "platform": "linux", "mode": "webchat" },
    });
    for (key, value) in more.as_object().unwrap() {
        change[key] = value.clone();
    }
    change
}

/// Without a secret a program of this machine gets in, and nobody else: no page, nobody whom a proxy brings.
/// Covers: A7, A13, B3, S5.
#[test]
fn none_is_for_programs_of_this_machine() {
    let gw = just(
        r#"{ gateway: { auth: { mode: "none" }, allowedHosts: ["gw.example"], trustedProxies: ["127.0.0.1"] } }"#,
    );
    let bare = json!({ "auth": null });
    let hello = enter(&gw, &[], bare.clone()).unwrap();
    let auth = &hello["payload"]["auth"];
    assert_eq!(auth["method"], "none", "{hello}");
    assert!(
        auth["scopes"].to_string().contains("operator.admin"),
        "{auth}"
    );
    assert_eq!(hello["payload"]["snapshot"]["authMode"], "none");
    // A device is paired without a person, and a node needs to be one.
    let mut change = as_tui(&["operator.read"]);
    change["auth"] = Value::Null;
    let (_ws, hello) = Device::new(61).attempt(&gw, change.clone());
    assert!(
        hello["payload"]["auth"]["deviceToken"].is_string(),
        "{hello}"
    );
    let node = enter(&gw, &[], as_node(json!({ "auth": null }))).unwrap();
    assert_eq!(code(&node), "DEVICE_IDENTITY_REQUIRED");
    let models = |headers: &[(&str, &str)]| gw.ask("GET", "/v1/models", headers, b"").status;
    assert_eq!(models(&[]), 200);

    // Somebody elsewhere, as the proxy says.
    let far = [("Host", "gw.example"), ("X-Forwarded-For", "192.0.2.9")];
    let refused = enter(&gw, &far, bare.clone()).unwrap();
    assert_eq!(code(&refused), "DEVICE_IDENTITY_REQUIRED", "{refused}");
    let ws = gw.upgrade("/", &far).unwrap();
    let (_ws, refused) = Device::new(62).attempt_on(ws, change);
    assert_eq!(code(&refused), "AUTH_TOKEN_MISSING", "{refused}");
    assert_eq!(models(&far), 401);
    // Who claims that the proxy is here does not become local by that.
    let near = [("Host", "gw.example"), ("X-Forwarded-For", "127.0.0.1")];
    assert_eq!(models(&near), 401);
    // A page has no secret to steal here, so it gets nothing at all.
    let own = format!("http://{}", gw.addr);
    let page = enter(&gw, &[("Origin", &own)], bare).unwrap();
    assert_eq!(page["ok"], false, "{page}");
    assert_eq!(models(&[("Origin", &own)]), 401);
    assert_eq!(
        gw.upgrade("/", &[("Origin", "https://evil.example")]).err(),
        Some(403)
    );
}

/// Whom a proxy signs in is in on every surface, with the rights of an operator, and is kept out wherever a part of the proof is
/// missing: the address, the secret, the user, the origin of the page.
/// Covers: A15, A16, A20, B8.
#[test]
fn the_proxy_says_who_it_is() {
    let gw = just(&format!(
        r#"{{ gateway: {{ allowedHosts: ["gw.example"], allowedOrigins: ["https://gw.example"], trustedProxies: ["127.0.0.1"],
            auth: {{ mode: "trusted-proxy", password: "{PASSWORD}", trustedProxy: {{
                userHeader: "x-forwarded-user", allowUsers: ["una@example.org"], allowLoopback: true, secret: "{SECRET}" }} }} }} }}"#
    ));
    let host = ("Host", "gw.example");
    let far = ("X-Forwarded-For", "192.0.2.9");
    let una = ("X-Forwarded-User", "una@example.org");
    let secret = ("X-Gateway-Proxy-Secret", SECRET);
    let origin = ("Origin", "https://gw.example");
    let models = |headers: &[(&str, &str)]| gw.ask("GET", "/v1/models", headers, b"").status;

    // The page needs no device identity, and may administer.
    let hello = enter(&gw, &[host, far, una, secret, origin], as_page(json!({}))).unwrap();
    let auth = &hello["payload"]["auth"];
    assert_eq!(auth["method"], "trusted-proxy", "{hello}");
    assert!(
        auth["scopes"].to_string().contains("operator.admin"),
        "{auth}"
    );
    assert_eq!(hello["payload"]["snapshot"]["authMode"], "trusted-proxy");
    assert_eq!(models(&[host, far, una, secret]), 200);
    let mut rpc = gw
        .upgrade("/rpc", &[host, far, una, secret, origin])
        .unwrap();
    rpc.text(r#"{"jsonrpc":"2.0","id":1,"method":"config.get","params":{}}"#);
    let answer = rpc.json();
    assert!(answer["result"].is_object(), "{answer}");
    let shown = answer.to_string();
    assert!(!shown.contains(SECRET) && !shown.contains(PASSWORD));
    // What a parameter says of the user is nothing.
    let named =
        json!({ "jsonrpc": "2.0", "id": 1, "method": "health", "params": { "user": "root" } });
    let headers = [host, far, una, secret, ("Content-Type", "application/json")];
    let body = gw.ask("POST", "/rpc", &headers, named.to_string().as_bytes());
    assert!(body.body.contains("error"), "{}", body.body);

    // Without one part each.
    let kim = ("X-Forwarded-User", "kim@example.org");
    let wrong = ("X-Gateway-Proxy-Secret", PASSWORD);
    for (headers, reason) in [
        (vec![host, far, secret], "trusted_proxy_user_missing"),
        (
            vec![host, far, kim, secret],
            "trusted_proxy_user_not_allowed",
        ),
        // Any program of this machine could do this.
        (vec![host, far, una], "trusted_proxy_secret_mismatch"),
        (vec![host, una, wrong], "trusted_proxy_secret_mismatch"),
        (vec![], "trusted_proxy_untrusted_source"),
    ] {
        let refused = enter(&gw, &headers, as_page(json!({}))).unwrap();
        assert_eq!(
            refused["error"]["details"]["authReason"], reason,
            "{refused}"
        );
        assert_eq!(models(&headers), 401, "{headers:?}");
    }
    // The proxy's word and its client's cannot be told apart.
    assert_eq!(models(&[host, far, una, kim, secret]), 400);
    assert_eq!(models(&[host, far, una, secret, secret]), 400);
    // A foreign page that the user looks at while they are signed in at the proxy.
    let evil = ("Origin", "https://evil.example");
    assert_eq!(
        gw.upgrade("/", &[host, far, una, secret, evil]).err(),
        Some(403)
    );
    assert_eq!(models(&[host, far, una, secret, evil]), 403);

    // Programs of this machine have the password, which opens nothing from elsewhere.
    let by_password = json!({ "auth": { "password": PASSWORD } });
    let hello = enter(&gw, &[], by_password.clone()).unwrap();
    assert_eq!(hello["payload"]["auth"]["method"], "password", "{hello}");
    let refused = enter(&gw, &[host, far], by_password).unwrap();
    assert_eq!(code(&refused), "AUTH_PASSWORD_MISMATCH");
    let bearer = format!("Bearer {PASSWORD}");
    assert_eq!(models(&[("Authorization", &bearer)]), 200);
    assert_eq!(models(&[host, far, ("Authorization", &bearer)]), 401);
    assert_eq!(models(&[origin, ("Authorization", &bearer)]), 401);
    // A device that an operator approves is a device here too; the word of a proxy makes nobody a node.
    let ws = gw.upgrade("/", &[host, far, una, secret]).unwrap();
    let (_ws, node) = Device::new(63).attempt_on(ws, as_node(json!({ "auth": null })));
    assert_eq!(code(&node), "PAIRING_REQUIRED", "{node}");
}

/// A proxy of this machine is not believed unless it is said so: its address is everybody's here.
/// Covers: A15.
#[test]
fn a_proxy_of_this_machine_is_not_believed_by_its_address() {
    let gw = just(
        r#"{ gateway: { allowedHosts: ["gw.example"], trustedProxies: ["127.0.0.1"],
            auth: { mode: "trusted-proxy", trustedProxy: { userHeader: "x-auth-request-email" } } } }"#,
    );
    let una = ("X-Auth-Request-Email", "una@example.org");
    for headers in [
        vec![una],
        vec![
            ("Host", "gw.example"),
            ("X-Forwarded-For", "192.0.2.9"),
            una,
        ],
    ] {
        // Whom a proxy brings is not local: the name that only this machine has does not answer.
        let Ok(refused) = enter(&gw, &headers, as_page(json!({}))) else {
            assert_eq!(headers.len(), 1);
            continue;
        };
        assert_eq!(
            refused["error"]["details"]["authReason"], "trusted_proxy_loopback_source",
            "{refused}"
        );
    }
}
