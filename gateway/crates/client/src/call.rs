//! One call over a connection of its own.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::client::{ClientOptions, GatewayClient, RequestOptions};
use crate::details::{
    ConnectionSources, GatewayConnectionDetails, Target, UrlSource,
    build_gateway_connection_details,
};
use crate::error::ClientError;
use crate::identity::DeviceStore;
use crate::limits::{MAX_RETRY_MS, MIN_RETRY_MS, REQUEST_TIMEOUT_MS, STARTING_RETRY_MS};

/// A call and where it goes.
#[derive(Debug, Clone)]
pub struct CallGatewayOptions {
    /// Method name.
    pub method: String,
    /// Parameters; `Null` for none.
    pub params: Value,
    /// What says where the gateway is.
    pub sources: ConnectionSources,
    /// Scopes to ask for.
    pub scopes: Vec<String>,
    /// Time for the answer.
    pub timeout: Duration,
    /// Wait for the final answer of a method that answers twice.
    pub expect_final: bool,
}

impl CallGatewayOptions {
    /// A call with the defaults: the gateway of this machine, full operator scope, 30 s.
    pub fn new(method: impl Into<String>, params: Value) -> Self {
        Self {
            method: method.into(),
            params,
            sources: ConnectionSources::default(),
            scopes: vec!["operator.admin".to_owned()],
            timeout: Duration::from_millis(REQUEST_TIMEOUT_MS),
            expect_final: false,
        }
    }
}

/// Connects, calls, closes, and gives the result.
pub async fn call_gateway(options: CallGatewayOptions) -> Result<Value, ClientError> {
    let client = connect(&options.sources, options.scopes, options.timeout).await?;
    let request = RequestOptions {
        timeout: Some(options.timeout),
        expect_final: options.expect_final,
        interim: None,
    };
    let result = client
        .request_with(&options.method, options.params, request)
        .await;
    client.close().await;
    result
}

/// Connects to the gateway that the sources name. A given address without a credential of its own is refused here,
/// before anything is sent. A gateway that is starting is asked again until the time to connect is over.
pub async fn connect(
    sources: &ConnectionSources,
    scopes: Vec<String>,
    timeout: Duration,
) -> Result<GatewayClient, ClientError> {
    let details = build_gateway_connection_details(sources)?;
    let device = match &sources.device_dir {
        Some(dir) => device(dir, &details)?,
        None => None,
    };
    let kept = match &device {
        Some(store) => store.token(&details.url)?,
        None => None,
    };
    if details.url_source == UrlSource::Flag && details.credential.is_none() && kept.is_none() {
        return Err(ClientError::NoCredential { url: details.url });
    }
    let url = details.url.clone();
    let mut options = ClientOptions::new(details.url);
    options.pins = details.pins;
    options.credential = details.credential;
    options.device = device.as_ref().map(DeviceStore::identity).cloned();
    options.device_token = kept;
    options.scopes = scopes;
    options.connect_timeout = options.connect_timeout.min(timeout);
    options.request_timeout = timeout;
    // A gateway that is starting says so and when to come again.
    let deadline = tokio::time::Instant::now() + options.connect_timeout;
    loop {
        let refusal = match GatewayClient::connect(options.clone()).await {
            Ok(client) => {
                if let (Some(store), Some(token)) = (&device, &client.hello().device_token) {
                    store.keep(&url, Some(token.clone()))?;
                }
                return Ok(client);
            }
            Err(refusal) => refusal,
        };
        let Some(wait) = starting(&refusal) else {
            return Err(refusal);
        };
        if tokio::time::Instant::now() + wait >= deadline {
            return Err(refusal);
        }
        tokio::time::sleep(wait).await;
    }
}

/// The identity to prove to a gateway. One on this machine needs none: there the credential says enough, unless only a token
/// of this device is at hand.
fn device(
    dir: &Path,
    details: &GatewayConnectionDetails,
) -> Result<Option<DeviceStore>, ClientError> {
    if !Target::parse(&details.url)?.loopback {
        return Ok(Some(DeviceStore::open(dir)?));
    }
    if details.credential.is_some() {
        return Ok(None);
    }
    Ok(match DeviceStore::existing(dir)? {
        Some(store) if store.token(&details.url)?.is_some() => Some(store),
        _ => None,
    })
}

/// How long to wait before the next attempt, if the gateway is only starting.
fn starting(refusal: &ClientError) -> Option<Duration> {
    match refusal {
        ClientError::Refused { error, .. } if error.detail_code() == "STARTING" => {
            let ms = error.retry_after_ms.unwrap_or(STARTING_RETRY_MS);
            Some(Duration::from_millis(ms.clamp(MIN_RETRY_MS, MAX_RETRY_MS)))
        }
        ClientError::Closed { code: 1013, .. } => Some(Duration::from_millis(STARTING_RETRY_MS)),
        _ => None,
    }
}
