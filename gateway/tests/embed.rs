//! The library inside another program: listener, runtime, port and shutdown are parameters, and nothing is global.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::time::Duration;

use gateway::{
    CallGatewayOptions, ClientError, Credential, GatewayServerOptions, HostOptions, LoadRequest,
    Overrides, PROTOCOL_VERSION, call_gateway, core_gateway_handlers, init_state_dir, load,
    start_gateway_server,
};
use serde_json::{Value, json};

/// Options for a fresh state directory and the token of its tenant `main`.
fn options(state: &Path) -> (GatewayServerOptions, String) {
    init_state_dir(state).unwrap();
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
    (
        GatewayServerOptions::new(HostOptions::new(state, settings)),
        token,
    )
}

async fn call(
    address: std::net::SocketAddr,
    token: &str,
    method: &str,
    params: Value,
) -> Result<Value, ClientError> {
    let mut call = CallGatewayOptions::new(method, params);
    call.sources.url = Some(format!("ws://{address}/"));
    call.sources.credential = Some(Credential::Token(token.to_owned()));
    call.expect_final = true;
    call.timeout = Duration::from_secs(30);
    call_gateway(call).await
}

#[test]
fn two_gateways_in_one_process_with_given_listener_runtime_and_shutdown() {
    let dir = tempfile::tempdir().unwrap();
    let own = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let here = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (mut first, first_token) = options(&dir.path().join("one"));
    let (mut second, second_token) = options(&dir.path().join("two"));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let bound = listener.local_addr().unwrap();
    first.listener = Some(listener);
    first.runtime = Some(own.handle().clone());
    second.runtime = Some(own.handle().clone());
    let stop_second = second.shutdown.clone();

    here.block_on(async {
        let first = start_gateway_server(first).await.unwrap();
        let second = start_gateway_server(second).await.unwrap();
        assert_eq!(first.local_addr(), bound, "the given listener is used");
        for (server, token, word) in [
            (&first, &first_token, "one"),
            (&second, &second_token, "two"),
        ] {
            let params = json!({ "message": word, "agentId": "main", "idempotencyKey": word });
            let answer = call(server.local_addr(), token, "agent", params)
                .await
                .unwrap();
            assert!(
                answer["result"]["payloads"][0]["text"]
                    .as_str()
                    .unwrap()
                    .contains(word)
            );
        }
        // The token of one is nothing to the other.
        let crossed = call(second.local_addr(), &first_token, "status", json!({}))
            .await
            .unwrap_err();
        assert!(
            matches!(crossed, ClientError::Refused { .. }),
            "{crossed:?}"
        );

        stop_second.cancel();
        second.stopped().await;
        assert!(
            call(second.local_addr(), &second_token, "health", json!({}))
                .await
                .is_err()
        );
        assert_eq!(
            call(first.local_addr(), &first_token, "health", json!({}))
                .await
                .unwrap()["ok"],
            true
        );
        first.shutdown().await;
    });
}

#[test]
fn the_registry_has_a_handler_for_each_method() {
    assert_eq!(PROTOCOL_VERSION, 4);
    let registry = core_gateway_handlers().unwrap();
    let names: Vec<&str> = registry.specs().map(|spec| spec.name).collect();
    for name in [
        "health",
        "chat.send",
        "agent",
        "sessions.list",
        "rpc.discover",
    ] {
        assert!(names.contains(&name), "{name}");
    }
}
