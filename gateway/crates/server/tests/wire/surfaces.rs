//! JSON-RPC over both transports, TLS, and the parameters of the start.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::support::*;

/// The examples of the specification that need no method of ours, and the rest with `health`: what goes in, what comes back.
fn examples() -> Vec<(&'static str, Value)> {
    let not_found = |id: Value| json!({ "jsonrpc": "2.0", "error": { "code": -32601, "message": "Method not found" }, "id": id });
    let invalid = || json!({ "jsonrpc": "2.0", "error": { "code": -32600, "message": "Invalid Request" }, "id": null });
    let parse = || json!({ "jsonrpc": "2.0", "error": { "code": -32700, "message": "Parse error" }, "id": null });
    vec![
        (
            r#"{"jsonrpc": "2.0", "method": "foobar", "id": "1"}"#,
            not_found(json!("1")),
        ),
        (
            r#"{"jsonrpc": "2.0", "method": "foobar, "params": "bar", "baz]"#,
            parse(),
        ),
        (
            r#"{"jsonrpc": "2.0", "method": 1, "params": "bar"}"#,
            invalid(),
        ),
        (
            r#"[{"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},{"jsonrpc": "2.0", "method"]"#,
            parse(),
        ),
        ("[]", invalid()),
        ("[1]", json!([invalid()])),
        ("[1,2,3]", json!([invalid(), invalid(), invalid()])),
        (
            r#"[{"jsonrpc":"2.0","method":"none","id":5},{"foo":"boo"},{"jsonrpc":"2.0","method":"gone"}]"#,
            json!([not_found(json!(5)), invalid()]),
        ),
    ]
}

/// `got` may say more (`data`), never something else.
fn within(want: &Value, got: &Value) -> bool {
    match (want, got) {
        (Value::Object(w), Value::Object(g)) => w
            .iter()
            .all(|(k, v)| g.get(k).is_some_and(|g| within(v, g))),
        (Value::Array(w), Value::Array(g)) => {
            w.len() == g.len() && w.iter().all(|v| g.iter().any(|g| within(v, g)))
        }
        _ => want == got,
    }
}

#[test]
fn the_examples_of_the_specification_on_both_transports() {
    let gw = plain();
    let mut ws = gw
        .upgrade("/rpc", &[("Authorization", &format!("Bearer {TOKEN}"))])
        .unwrap();
    for (send, want) in examples() {
        let got = gw.rpc(TOKEN, send).json();
        assert!(within(&want, &got), "POST {send}: {got}");
        ws.text(send);
        let got = ws.json();
        assert!(within(&want, &got), "WS {send}: {got}");
    }
    // notifications are never answered, whatever happens to them
    for send in [
        r#"{"jsonrpc":"2.0","method":"health"}"#,
        r#"{"jsonrpc":"2.0","method":"foobar"}"#,
        r#"[{"jsonrpc":"2.0","method":"health"},{"jsonrpc":"2.0","method":"none"}]"#,
    ] {
        let answer = gw.rpc(TOKEN, send);
        assert_eq!((answer.status, answer.body.as_str()), (204, ""), "{send}");
        ws.text(send);
    }
    ws.text(r#"{"jsonrpc":"2.0","method":"health","id":"last"}"#);
    let got = ws.json();
    assert_eq!(
        (&got["id"], &got["result"]["ok"]),
        (&json!("last"), &json!(true)),
        "{got}"
    );
    // strict: a parameter that nobody published is refused here
    assert_eq!(
        gw.rpc(
            TOKEN,
            r#"{"jsonrpc":"2.0","id":1,"method":"sessions.list","params":{"surprise":1}}"#
        )
        .json()["error"]["code"],
        -32602
    );
}

/// Covers: A16.
#[test]
fn the_socket_of_json_rpc_wants_its_bearer_at_the_upgrade() {
    let gw = plain();
    let offered =
        |token: &str| format!("jsonrpc, gateway.bearer.{}", URL_SAFE_NO_PAD.encode(token));
    assert_eq!(gw.upgrade("/rpc", &[]).err(), Some(401));
    assert_eq!(
        gw.upgrade("/rpc", &[("Authorization", "Bearer wrong")])
            .err(),
        Some(401)
    );
    assert_eq!(
        gw.upgrade("/rpc", &[("Authorization", "Basic eDp5")]).err(),
        Some(401)
    );
    assert_eq!(
        gw.upgrade("/rpc", &[("Sec-WebSocket-Protocol", &offered("wrong"))])
            .err(),
        Some(401)
    );
    assert_eq!(
        gw.upgrade(
            "/rpc",
            &[("Sec-WebSocket-Protocol", "jsonrpc, gateway.bearer.%%%")]
        )
        .err(),
        Some(401)
    );
    assert_eq!(
        gw.upgrade(&format!("/rpc?token={TOKEN}"), &[]).err(),
        Some(401),
        "never from an address"
    );
    assert_eq!(
        gw.upgrade(
            "/t/acme/rpc",
            &[("Sec-WebSocket-Protocol", &offered(TOKEN))]
        )
        .err(),
        Some(401)
    );
    let mut ws = gw
        .upgrade("/t/acme/rpc", &[("Sec-WebSocket-Protocol", &offered(ACME))])
        .unwrap();
    assert!(
        ws.head.contains("jsonrpc") && !ws.head.contains("bearer"),
        "the token is never selected: {}",
        ws.head
    );
    ws.text(r#"{"jsonrpc":"2.0","id":1,"method":"health"}"#);
    assert_eq!(ws.json()["id"], 1, "no challenge before it");
}

#[test]
fn events_come_as_notifications_after_a_subscription() {
    let gw = plain();
    let mut ws = gw
        .upgrade("/rpc", &[("Authorization", &format!("Bearer {TOKEN}"))])
        .unwrap();
    ws.text(r#"{"jsonrpc":"2.0","id":1,"method":"sessions.messages.subscribe","params":{"key":"main"}}"#);
    assert!(ws.json()["result"].is_object());
    ws.text(r#"{"jsonrpc":"2.0","id":2,"method":"chat.send","params":{"sessionKey":"main","message":"hi there","idempotencyKey":"r1"}}"#);
    let (mut answered, mut last, mut text) = (false, 0, String::new());
    loop {
        let got = ws.json();
        if got["id"] == 2 {
            assert_eq!(got["result"]["runId"], "r1");
            answered = true;
            continue;
        }
        assert_eq!(
            (&got["jsonrpc"], &got["method"]),
            (&json!("2.0"), &json!("event")),
            "{got}"
        );
        let (name, payload) = (&got["params"]["event"], &got["params"]["payload"]);
        let seq = got["params"]["seq"].as_u64().unwrap();
        assert_eq!(seq, last + 1);
        last = seq;
        if name == "chat" && payload["state"] == "final" {
            text.push_str(payload["message"]["content"][0]["text"].as_str().unwrap());
            break;
        }
    }
    assert!(answered && text.contains("hi there"), "{text}");
    // the first of two answers is a notification that names the request
    ws.text(r#"{"jsonrpc":"2.0","id":3,"method":"agent","params":{"message":"again","sessionKey":"main","idempotencyKey":"r2"}}"#);
    let mut accepted = false;
    loop {
        let got = ws.json();
        if got["method"] == "agent.accepted" {
            assert_eq!(
                (&got["params"]["id"], &got["params"]["result"]["status"]),
                (&json!(3), &json!("accepted")),
                "{got}"
            );
            accepted = true;
        }
        if got["id"] == 3 {
            assert_eq!(got["result"]["status"], "ok", "{got}");
            break;
        }
    }
    assert!(accepted, "accepted comes before the end");
}

#[test]
fn a_socket_that_was_bound_before_and_an_address_in_use() {
    let bound = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = bound.local_addr().unwrap().port();
    let gw = gateway(|o| o.listener = Some(bound));
    assert_eq!(
        (gw.addr.port(), gw.ask("GET", "/healthz", &[], b"").status),
        (port, 200)
    );
    let dir = tempfile::tempdir().unwrap();
    let request = gateway_config::LoadRequest {
        state_dir: dir.path().to_owned(),
        config_path: None,
        overrides: Default::default(),
        env: &|_| None,
    };
    let text = format!(r#"{{ gateway: {{ auth: {{ mode: "token", token: "{TOKEN}" }} }} }}"#);
    let settings =
        gateway_config::load_text(&text, &request, dir.path().join("gateway.json5")).unwrap();
    let mut options = gateway_server::GatewayServerOptions::new(
        gateway_core::host::HostOptions::new(dir.path(), settings),
    );
    options.port = Some(port);
    let error = gw
        .rt
        .block_on(gateway_server::start_gateway_server(options))
        .unwrap_err();
    assert!(error.to_string().contains("next step"), "{error}");
    // cancelling the token stops it as well as calling shutdown
    let token = tokio_util::sync::CancellationToken::new();
    let other = gateway(|o| o.shutdown = token.clone());
    token.cancel();
    other.rt.block_on(other.server.as_ref().unwrap().stopped());
}

/// A key and a certificate for `localhost`, made for this test; it expires in a hundred years and proves nothing.
const KEY: &str = include_str!("../golden/test-key.pem");
const CERT: &str = include_str!("../golden/test-cert.pem");

#[test]
fn tls_with_a_given_configuration() {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
    use std::io::{Read, Write};
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let cert = CertificateDer::from_pem_slice(CERT.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(KEY.as_bytes()).unwrap();
    let server = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.clone()], key)
        .unwrap();
    let gw = gateway(|o| o.tls = Some(Arc::new(server)));
    assert!(gw.server.as_ref().unwrap().url().starts_with("https://"));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(cert).unwrap();
    let mut client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let mut conn =
        rustls::ClientConnection::new(Arc::new(client), ServerName::try_from("localhost").unwrap())
            .unwrap();
    let mut tcp = gw.tcp();
    let mut tls = rustls::Stream::new(&mut conn, &mut tcp);
    let port = gw.addr.port();
    let head = format!(
        "GET / HTTP/1.1\r\nHost: localhost:{port}\r\nOrigin: https://localhost:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    tls.write_all(head.as_bytes()).unwrap();
    let mut seen = Vec::new();
    let mut buf = [0; 4096];
    while !String::from_utf8_lossy(&seen).contains("connect.challenge") {
        let n = tls.read(&mut buf).unwrap();
        assert!(n > 0, "{}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&buf[..n]);
    }
    tls.write_all(&frame(0x81, connect(json!({})).to_string().as_bytes()))
        .unwrap();
    while !String::from_utf8_lossy(&seen).contains("hello-ok") {
        let n = tls.read(&mut buf).unwrap();
        assert!(n > 0);
        seen.extend_from_slice(&buf[..n]);
    }
    assert_eq!(conn.alpn_protocol(), Some(b"http/1.1".as_slice()));
    // plain HTTP on the TLS port: one sentence for a person, nothing of the gateway; anything else: the end
    let quiet = std::time::Duration::from_secs(5);
    let plain = gw.raw(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", quiet);
    assert_eq!(plain.statuses(), [400]);
    assert!(
        plain.closed && plain.text().contains("https://"),
        "{}",
        plain.text()
    );
    let noise = gw.raw(b"\0\x01\x02\x03", quiet);
    assert!(noise.closed && noise.bytes.is_empty());
}
