//! Plugins that the program carries in itself: a release has the shipped guests without any directory of plugins.
//!
//! The build with the feature `bundled` is made and tried by `cargo xtask dist`; here the same way is gone with the built guests
//! as what is carried.

use std::path::Path;
use std::time::{Duration, Instant};

use gateway::{
    Bundled, GatewayServer, GatewayServerOptions, HostOptions, LoadRequest, Overrides,
    init_state_dir, load, start_gateway_server,
};
use gateway_tests::process::guests_dir;
use gateway_tests::ws::Ws;
use serde_json::{Value, json};

/// How long a test waits for something to happen; not a performance statement.
const PATIENCE: Duration = Duration::from_secs(90);

const SHIPPED: [&str; 4] = ["boot-md", "greeting", "telegram", "webhook"];

fn carried() -> Vec<Bundled> {
    SHIPPED
        .iter()
        .map(|id| {
            let dir = guests_dir().join(id);
            Bundled {
                id: (*id).into(),
                manifest: std::fs::read(dir.join("plugin.toml")).unwrap().into(),
                wasm: std::fs::read(dir.join(format!("{id}.wasm")))
                    .unwrap()
                    .into(),
            }
        })
        .collect()
}

/// A gateway in this process that carries the shipped guests, and its token.
async fn start(state: &Path, config: Option<Value>) -> (GatewayServer, String) {
    init_state_dir(state).unwrap();
    if let Some(config) = config {
        std::fs::write(state.join("gateway.json5"), config.to_string()).unwrap();
    }
    let settings = load(LoadRequest {
        state_dir: state.to_owned(),
        config_path: None,
        overrides: Overrides {
            port: Some(0),
            ..Overrides::default()
        },
        env: &|_| None,
    })
    .unwrap();
    let token = settings.main().auth.active().unwrap().expose().to_owned();
    let mut host = HostOptions::new(state, settings);
    host.bundled_plugins = carried();
    let server = start_gateway_server(GatewayServerOptions::new(host))
        .await
        .unwrap();
    let mut ready = server.host().ready();
    tokio::time::timeout(PATIENCE, ready.wait_for(|ready| *ready))
        .await
        .unwrap()
        .unwrap();
    (server, token)
}

async fn plugins(server: &GatewayServer, token: &str) -> Value {
    let mut ws = Ws::connect(server.local_addr().port(), "/", token)
        .await
        .unwrap();
    let health = ws.call("health", json!({})).await.unwrap();
    ws.close().await;
    health["plugins"].clone()
}

/// Posts a message to the webhook channel; status line and body of the answer.
fn post(port: u16, secret: &str, id: &str) -> String {
    use std::io::{Read, Write};
    let body = json!({"id": id, "from": {"id": "una"}, "text": "hello", "reply": "hold"});
    let body = body.to_string();
    let mut socket = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(
        socket,
        "POST /channels/webhook/default/inbound HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nx-webhook-secret: {secret}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}

/// A first start without a directory of plugins: the guests that the program carries are there, the webhook channel of the first
/// configuration takes a message, and the stranger gets a pairing code from it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bare_start_has_the_plugins_that_the_program_carries() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let (server, token) = start(&state, None).await;
    let told = plugins(&server, &token).await;
    assert_eq!(told["loaded"], json!(SHIPPED), "{told}");
    assert_eq!(told["errors"], json!([]), "{told}");
    let secret = std::fs::read_to_string(state.join("secrets/main/webhook-default-signing"));
    let secret = secret.unwrap().trim().to_owned();
    let port = server.local_addr().port();
    let begun = Instant::now();
    let answer = loop {
        // The account starts beside the listener.
        let (secret, id) = (secret.clone(), "1");
        let answer = tokio::task::spawn_blocking(move || post(port, &secret, id))
            .await
            .unwrap();
        if !answer.starts_with("HTTP/1.1 503") {
            break answer;
        }
        assert!(begun.elapsed() < PATIENCE, "{answer}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(answer.starts_with("HTTP/1.1 2"), "{answer}");
    let mut ws = Ws::connect(port, "/", &token).await.unwrap();
    let pending = ws.call("channels.pairing.list", json!({})).await.unwrap();
    ws.close().await;
    assert_eq!(pending["requests"][0]["senderId"], "una", "{pending}");
    let refused = tokio::task::spawn_blocking(move || post(port, "wrong", "2"))
        .await
        .unwrap();
    assert!(refused.starts_with("HTTP/1.1 401"), "{refused}");
    server.shutdown().await;
}

/// An operator who wants only what lies in the directory, or only what is pinned, gets that.
///
/// Covers: S3.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_decides_whether_they_are_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let (server, token) = start(
        &dir.path().join("off"),
        Some(json!({"plugins": {"bundled": false}})),
    )
    .await;
    let told = plugins(&server, &token).await;
    assert_eq!(told["loaded"], json!([]), "{told}");
    assert_eq!(told["errors"], json!([]), "{told}");
    server.shutdown().await;

    let (server, token) = start(
        &dir.path().join("pinned"),
        Some(json!({"plugins": {"pinnedOnly": true, "pins": {"webhook": "0".repeat(64)}}})),
    )
    .await;
    let told = plugins(&server, &token).await;
    assert_eq!(told["loaded"], json!([]), "{told}");
    let errors = told["errors"].as_array().unwrap();
    assert_eq!(errors.len(), SHIPPED.len(), "{told}");
    assert!(errors.iter().all(|e| e["origin"] == "bundled"), "{told}");
    let webhook = errors.iter().find(|e| e["id"] == "webhook").unwrap();
    let said = webhook["error"].as_str().unwrap();
    assert!(said.contains("plugins.pins says"), "{said}");
    server.shutdown().await;
}
