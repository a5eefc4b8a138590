//! One call over a connection of its own.

use std::time::Duration;

use serde_json::Value;

use crate::client::{ClientOptions, GatewayClient, RequestOptions};
use crate::details::{ConnectionSources, UrlSource, build_gateway_connection_details};
use crate::error::ClientError;
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
    if details.url_source == UrlSource::Flag && details.credential.is_none() {
        return Err(ClientError::NoCredential { url: details.url });
    }
    let mut options = ClientOptions::new(details.url);
    options.pins = details.pins;
    options.credential = details.credential;
    options.scopes = scopes;
    options.connect_timeout = options.connect_timeout.min(timeout);
    options.request_timeout = timeout;
    // A gateway that is starting says so and when to come again.
    let deadline = tokio::time::Instant::now() + options.connect_timeout;
    loop {
        let refusal = match GatewayClient::connect(options.clone()).await {
            Ok(client) => return Ok(client),
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
