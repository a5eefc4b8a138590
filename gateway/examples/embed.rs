//! A gateway inside another program: on a runtime of its own, on a port that the system chooses, with a client in the
//! same process. Prints what the echo agent answers and stops in order.
//!
//! `cargo run -p gateway --example embed`

use std::error::Error;
use std::time::Duration;

use gateway::{
    CallGatewayOptions, Credential, GatewayServerOptions, HostOptions, LoadRequest, Overrides,
    call_gateway, init_state_dir, load, start_gateway_server,
};
use serde_json::json;

fn main() -> Result<(), Box<dyn Error>> {
    let state_dir = std::env::temp_dir().join(format!("gateway-embed-{}", std::process::id()));
    let done = run(&state_dir);
    std::fs::remove_dir_all(&state_dir)?;
    done
}

fn run(state_dir: &std::path::Path) -> Result<(), Box<dyn Error>> {
    // The gateway's own runtime; this thread has none.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;

    init_state_dir(state_dir)?;
    let settings = load(LoadRequest {
        state_dir: state_dir.to_owned(),
        config_path: None,
        overrides: Overrides {
            port: Some(0),
            ..Overrides::default()
        },
        env: &|name| std::env::var(name).ok(),
    })?;
    let token = settings
        .main()
        .auth
        .active()
        .ok_or("no token")?
        .expose()
        .to_owned();
    let mut options = GatewayServerOptions::new(HostOptions::new(state_dir, settings));
    options.runtime = Some(runtime.handle().clone());

    runtime.block_on(async {
        let server = start_gateway_server(options).await?;
        println!("running at {}", server.url());

        let mut call = CallGatewayOptions::new(
            "agent",
            json!({ "message": "hello from inside", "agentId": "main", "idempotencyKey": "embed-1" }),
        );
        call.sources.url = Some(format!("ws://{}/", server.local_addr()));
        call.sources.credential = Some(Credential::Token(token));
        call.expect_final = true;
        call.timeout = Duration::from_secs(20);
        let answer = call_gateway(call).await?;
        println!("answer: {}", answer["result"]["payloads"][0]["text"]);

        server.shutdown().await;
        println!("stopped");
        Ok(())
    })
}
