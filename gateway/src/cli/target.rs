//! The gateway that a client command talks to.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use gateway_client::{
    CertPin, ConfiguredGateway, ConnectionSources, Credential, DeviceStore, GatewayClient,
    RemoteGateway, RequestOptions, UrlSource, build_gateway_connection_details,
};
use gateway_config::{
    AuthMode, ClientView, ClientWants, ConfigFile, LoadRequest, Overrides, Secret, client_view,
};
use gateway_protocol::method::{self, Access};
use serde_json::Value;

use super::Global;
use super::output::{Exit, Failure};
use crate::run_file::RunFile;

/// Everything that the command line, the environment and the state directory say about the gateway.
pub fn sources(global: &Global) -> Result<ConnectionSources, Failure> {
    let env = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
    let env_pins = match env("GATEWAY_TLS_FINGERPRINT") {
        None => Vec::new(),
        Some(text) => CertPin::parse_list(&text).map_err(|e| {
            Failure::new(
                Exit::Usage,
                format!("GATEWAY_TLS_FINGERPRINT: {e}"),
                "copy what `gateway tls show` prints on the gateway's machine, or unset it",
            )
        })?,
    };
    let device_dir = global.state_dir().ok().map(|dir| dir.join("identity"));
    let mut sources = ConnectionSources {
        url: global.url.clone(),
        credential: global.token.clone().map(Credential::Token),
        pins: global
            .tls_fingerprint
            .as_ref()
            .map(|pins| pins.0.clone())
            .unwrap_or_default(),
        env_url: env("GATEWAY_URL"),
        env_token: env("GATEWAY_TOKEN"),
        env_pins,
        remote: None,
        configured: None,
        tenant: Some(global.tenant.clone()),
        // Without a home there is no identity; a gateway elsewhere then says what it wants.
        paired_pins: device_dir.as_deref().map(paired_pins).unwrap_or_default(),
        device_dir,
        allow_insecure: false,
    };
    if sources.url.is_none() && sources.env_url.is_none() {
        ask_state_dir(global, &mut sources)?;
    }
    Ok(sources)
}

/// The certificates that pairing told. An identity that cannot be read says so when it is used.
fn paired_pins(dir: &std::path::Path) -> std::collections::BTreeMap<String, Vec<CertPin>> {
    DeviceStore::existing(dir)
        .ok()
        .flatten()
        .and_then(|store| store.pins().ok())
        .unwrap_or_default()
}

/// The gateway that the configuration names elsewhere; else that of the state directory: where it runs, or where the
/// configuration says that it will.
fn ask_state_dir(global: &Global, sources: &mut ConnectionSources) -> Result<(), Failure> {
    let state_dir = global.state_dir()?;
    let running = RunFile::of_running(&state_dir);
    let known = sources.credential.is_some() || sources.env_token.is_some();
    let wants = if known {
        ClientWants::Place
    } else {
        ClientWants::PlaceAndCredential
    };
    let view = match look(global, state_dir.clone(), wants) {
        Ok(view) => Some(view),
        // With an address and a credential at hand, a fault in the configuration is not this command's business.
        Err(_) if running.is_some() && known => None,
        Err(_)
            if running.is_none()
                && !state_dir.join(gateway_config::CONFIG_FILE).exists()
                && global.config.is_none() =>
        {
            return Ok(());
        }
        Err(failure) => return Err(failure),
    };
    let path = |view: &ClientView| view.config_path.display().to_string();
    if let Some((remote, path)) = view
        .as_ref()
        .and_then(|v| Some((v.remote.as_ref()?, path(v))))
    {
        let secret = |s: &Option<Secret>| s.as_ref().map(|s| s.expose().to_owned());
        sources.remote = Some(RemoteGateway {
            url: remote.url.clone(),
            credential: secret(&remote.token)
                .map(Credential::Token)
                .or_else(|| secret(&remote.password).map(Credential::Password)),
            pins: remote.pins.clone(),
            path,
        });
        return Ok(());
    }
    let credential = view.as_ref().and_then(|v| {
        let secret = v.auth.active()?.expose().to_owned();
        Some(match v.auth.mode {
            AuthMode::Password | AuthMode::TrustedProxy => Credential::Password(secret),
            _ => Credential::Token(secret),
        })
    });
    sources.configured = match (running, view) {
        (Some(run), _) => Some(ConfiguredGateway {
            host: reachable(run.address.ip()),
            port: run.port,
            running: true,
            tls: run.url.starts_with("https:"),
            pins: run
                .tls_fingerprints
                .iter()
                .filter_map(|pin| CertPin::parse(pin))
                .collect(),
            credential,
            path: state_dir.display().to_string(),
        }),
        (None, Some(view)) => Some(ConfiguredGateway {
            host: reachable(view.bind.ip()),
            port: view.port,
            running: false,
            tls: view.tls.enabled,
            pins: super::tls::pins_of(&view.tls, &state_dir),
            credential,
            path: path(&view),
        }),
        (None, None) => None,
    };
    Ok(())
}

fn look(
    global: &Global,
    state_dir: std::path::PathBuf,
    wants: ClientWants,
) -> Result<ClientView, Failure> {
    let request = LoadRequest {
        state_dir,
        config_path: global.config.clone(),
        overrides: Overrides::default(),
        env: &|name| std::env::var(name).ok(),
    };
    client_view(&request, &global.tenant, wants).or_else(|error| {
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
pub(super) fn reachable(ip: IpAddr) -> IpAddr {
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
    connect_as(global, scopes).await
}

/// Connects with these scopes.
pub async fn connect_as(global: &Global, scopes: Vec<String>) -> Result<GatewayClient, Failure> {
    let sources = sources(global)?;
    let client = gateway_client::connect(&sources, scopes, timeout(global)).await?;
    next_certificate(&sources, &client);
    Ok(client)
}

/// Tells who pinned by hand that another certificate will come: after the change the pin would not fit any more.
fn next_certificate(sources: &ConnectionSources, client: &GatewayClient) {
    let Ok(details) = build_gateway_connection_details(sources) else {
        return;
    };
    let by_hand = details.url_source != UrlSource::Running && !details.pins.is_empty();
    let certificates = &client.hello().certificates;
    for next in certificates
        .iter()
        .filter(|pin| by_hand && !details.pins.contains(pin))
    {
        let text = format!(
            "the gateway will change its certificate: pin sha256:{next} too ({} has the old one)",
            details.pin_source.unwrap_or("the pin")
        );
        super::secret::warn(Some(&text));
    }
}

/// One call on a connection of its own.
pub async fn call(global: &Global, method: &str, params: Value) -> Result<Value, Failure> {
    call_with(global, method, params, false).await
}

/// One call with these scopes, on a connection of its own.
pub async fn call_as(
    global: &Global,
    scopes: Vec<String>,
    method: &str,
    params: Value,
) -> Result<Value, Failure> {
    let client = connect_as(global, scopes).await?;
    let result = client.request(method, params).await;
    client.close().await;
    Ok(result?)
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
