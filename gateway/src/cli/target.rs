//! The gateway that a client command talks to.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use gateway_client::{
    ConfiguredGateway, ConnectionSources, Credential, GatewayClient, RequestOptions,
};
use gateway_config::{AuthMode, ClientView, ConfigFile, LoadRequest, Overrides, client_view};
use gateway_protocol::method::{self, Access};
use serde_json::Value;

use super::Global;
use super::output::Failure;
use crate::run_file::RunFile;

/// Everything that the command line, the environment and the state directory say about the gateway.
pub fn sources(global: &Global) -> Result<ConnectionSources, Failure> {
    let env = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
    let mut sources = ConnectionSources {
        url: global.url.clone(),
        credential: global.token.clone().map(Credential::Token),
        env_url: env("GATEWAY_URL"),
        env_token: env("GATEWAY_TOKEN"),
        configured: None,
        tenant: Some(global.tenant.clone()),
        allow_insecure: false,
    };
    if sources.url.is_none() && sources.env_url.is_none() {
        sources.configured = configured(global, &sources)?;
    }
    Ok(sources)
}

/// The gateway of the state directory: where it runs, or where the configuration says that it will.
fn configured(
    global: &Global,
    sources: &ConnectionSources,
) -> Result<Option<ConfiguredGateway>, Failure> {
    let state_dir = global.state_dir()?;
    let running = RunFile::of_running(&state_dir);
    // With an address and a credential at hand, a fault in the configuration is not this command's business.
    let known = sources.credential.is_some() || sources.env_token.is_some();
    let view = match (&running, known) {
        (Some(_), true) => None,
        _ => match look(global, state_dir.clone()) {
            Ok(view) => Some(view),
            Err(_)
                if running.is_none()
                    && !state_dir.join(gateway_config::CONFIG_FILE).exists()
                    && global.config.is_none() =>
            {
                return Ok(None);
            }
            Err(failure) => return Err(failure),
        },
    };
    let (host, port) = match (&running, &view) {
        (Some(run), _) => (reachable(run.address.ip()), run.port),
        (None, Some(view)) => (reachable(view.bind.ip()), view.port),
        (None, None) => return Ok(None),
    };
    let credential = view.as_ref().and_then(|v| {
        let secret = v.auth.active()?.expose().to_owned();
        Some(match v.auth.mode {
            AuthMode::Password => Credential::Password(secret),
            _ => Credential::Token(secret),
        })
    });
    let path = view.map_or(state_dir, |v| v.config_path);
    Ok(Some(ConfiguredGateway {
        host,
        port,
        credential,
        path: path.display().to_string(),
    }))
}

fn look(global: &Global, state_dir: std::path::PathBuf) -> Result<ClientView, Failure> {
    let request = LoadRequest {
        state_dir,
        config_path: global.config.clone(),
        overrides: Overrides::default(),
        env: &|name| std::env::var(name).ok(),
    };
    client_view(&request, &global.tenant).or_else(|error| {
        // A broken file does not keep anybody from the gateway that runs with the last good one.
        let file = ConfigFile::new(
            request.state_dir.clone(),
            global.config.clone(),
            Overrides::default(),
            Arc::new(|name| std::env::var(name).ok()),
        );
        file.last_good()
            .and_then(|settings| ClientView::of(&settings, &global.tenant))
            .ok_or_else(|| error.into())
    })
}

/// An address to connect to for one that is listened on.
fn reachable(ip: IpAddr) -> IpAddr {
    if ip.is_unspecified() {
        IpAddr::V4(Ipv4Addr::LOCALHOST)
    } else {
        ip
    }
}

/// The scopes that a method needs, and no more; for one that is not in the registry: all.
pub fn scopes_for(method: &str) -> Vec<String> {
    match method::find(method).map(|spec| spec.access) {
        Some(Access::Operator(scope)) => vec![scope.to_string()],
        Some(Access::Any) => vec!["operator.read".to_owned()],
        Some(Access::Node) | None => vec!["operator.admin".to_owned()],
    }
}

/// Connects with the scopes that `methods` need.
pub async fn connect(global: &Global, methods: &[&str]) -> Result<GatewayClient, Failure> {
    let mut scopes: Vec<String> = methods.iter().flat_map(|m| scopes_for(m)).collect();
    scopes.sort();
    scopes.dedup();
    Ok(gateway_client::connect(&sources(global)?, scopes, timeout(global)).await?)
}

/// One call on a connection of its own.
pub async fn call(global: &Global, method: &str, params: Value) -> Result<Value, Failure> {
    call_with(global, method, params, false).await
}

/// One call; with `expect_final` the final answer of a method that answers twice.
pub async fn call_with(
    global: &Global,
    method: &str,
    params: Value,
    expect_final: bool,
) -> Result<Value, Failure> {
    let client = connect(global, &[method]).await?;
    let options = RequestOptions {
        timeout: Some(timeout(global)),
        expect_final,
        interim: None,
    };
    let result = client.request_with(method, params, options).await;
    client.close().await;
    Ok(result?)
}

/// `--timeout`.
pub fn timeout(global: &Global) -> Duration {
    Duration::from_millis(global.timeout)
}
