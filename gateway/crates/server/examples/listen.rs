//! Listens on a given port with a throw-away state directory, for raw probes and conformance suites:
//! `cargo run -p gateway-server --features test-echo --example listen -- 9105`. The token is printed; the host name `x` is served.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use gateway_config::{LoadRequest, Overrides, load_text};
use gateway_core::host::HostOptions;
use gateway_server::{GatewayServerOptions, ServerLimits, start_gateway_server};

fn main() {
    let port = std::env::args()
        .nth(1)
        .and_then(|p| p.parse().ok())
        .unwrap_or(0);
    let dir = tempfile::tempdir().unwrap();
    let token = "k7Q2v9XbT4mZr8Lw3NcY6hJd5FsG1pAeUoIqWxVtRy0";
    let text = format!(
        r#"{{ gateway: {{ auth: {{ mode: "token", token: "{token}" }}, allowedHosts: ["x"] }} }}"#
    );
    let request = LoadRequest {
        state_dir: dir.path().to_owned(),
        config_path: None,
        overrides: Overrides::default(),
        env: &|_| None,
    };
    let settings = load_text(&text, &request, dir.path().join("gateway.json5")).unwrap();
    let mut host = HostOptions::new(dir.path(), settings);
    host.guests = false;
    let mut options = GatewayServerOptions::new(host);
    options.port = Some(port);
    // One machine opens everything here.
    options.limits = Some(ServerLimits {
        preauth_per_address: 5_000,
        preauth_total: 5_000,
        ..ServerLimits::default()
    });
    let rt = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    rt.block_on(async {
        let server = start_gateway_server(options).await.unwrap();
        println!(
            "pid {} at {} token {token}",
            std::process::id(),
            server.url()
        );
        server.stopped().await;
    });
}
