//! One call over a connection of its own.

use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gateway_egress::CertPin;
use gateway_protocol::methods::device_setup::{SETUP_SCHEME, SetupPayload};
use serde_json::{Value, json};

use crate::client::{ClientOptions, GatewayClient, Hello, RequestOptions};
use crate::details::{
    ConnectionSources, GatewayConnectionDetails, PAIRED_PINS, Target, UrlSource,
    build_gateway_connection_details,
};
use crate::error::ClientError;
use crate::identity::{DeviceStore, DeviceToken, now_ms};
use crate::limits::{
    MAX_RETRY_MS, MAX_SETUP_CODE_BYTES, MIN_RETRY_MS, REQUEST_TIMEOUT_MS, SCOPES_WAIT_MS,
    STARTING_RETRY_MS,
};

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
    let by_pairing = details.pin_source == Some(PAIRED_PINS);
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
                let told = &client.hello().certificates;
                if let Some(store) = &device
                    && by_pairing
                    && told.iter().any(|pin| options.pins.contains(pin))
                {
                    // The certificate after this one was announced: the pin moves with it.
                    store.keep_pins(&url, told)?;
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

/// What a setup code says.
///
/// # Errors
/// [`ClientError::BadUrl`] for text that is no setup code.
pub fn read_setup_code(text: &str) -> Result<SetupPayload, ClientError> {
    let bad = |why: &str| ClientError::BadUrl {
        // The code is a credential: it is not repeated.
        url: "the setup code".to_owned(),
        why: why.to_owned(),
        next: "copy the whole link that `gateway devices setup-code` printed".to_owned(),
    };
    let text = text.trim();
    let code = text.strip_prefix(SETUP_SCHEME).unwrap_or(text);
    if code.len() > MAX_SETUP_CODE_BYTES {
        return Err(bad("it is too long"));
    }
    let json = URL_SAFE_NO_PAD
        .decode(code.trim_end_matches('='))
        .map_err(|_| bad("it is not base64url"))?;
    serde_json::from_slice(&json).map_err(|_| bad("it is damaged"))
}

/// A device that a setup code paired.
#[derive(Debug, Clone)]
pub struct Joined {
    /// Address of the gateway, as tokens and certificates are kept for it.
    pub url: String,
    /// The roles that it has there now.
    pub roles: Vec<String>,
    /// The only certificates that the gateway may show from now on. Empty: those that public authorities vouch for.
    pub pins: Vec<CertPin>,
    /// What the gateway said.
    pub hello: Hello,
}

/// Pairs this device by a setup code, and keeps the tokens that come of it and the gateway's certificate.
///
/// # Errors
/// [`ClientError`]
pub async fn join(dir: &Path, text: &str, timeout: Duration) -> Result<Joined, ClientError> {
    let payload = read_setup_code(text)?;
    let target = Target::parse(&payload.url)?;
    let pins = match &payload.tls_fingerprint {
        None => Vec::new(),
        Some(pin) => CertPin::parse_list(pin).map_err(|_| ClientError::BadUrl {
            url: target.shown.clone(),
            why: "the fingerprint in the setup code is none".to_owned(),
            next: "make another code on the gateway's machine".to_owned(),
        })?,
    };
    if !target.tls && !target.loopback {
        return Err(ClientError::BadUrl {
            url: target.shown,
            why: "plain ws:// would send the code over the network in clear".to_owned(),
            next: "make a code for a wss:// address".to_owned(),
        });
    }
    let store = DeviceStore::open(dir)?;
    let mut options = ClientOptions::new(payload.url);
    options.pins = pins.clone();
    options.device = Some(store.identity().clone());
    options.bootstrap_token = Some(payload.bootstrap_token);
    // What the code gives is fixed in it; the connection itself needs nothing.
    options.scopes = Vec::new();
    options.connect_timeout = options.connect_timeout.min(timeout);
    let client = match GatewayClient::connect(options.clone()).await {
        // A code for nodes makes no operator, and is not used up by the attempt.
        Err(ClientError::Refused { error, .. })
            if error.detail_code() == "AUTH_BOOTSTRAP_TOKEN_INVALID" =>
        {
            options.role = "node".to_owned();
            options.mode = "node".to_owned();
            options.client_id = "node-host".to_owned();
            GatewayClient::connect(options).await?
        }
        other => other?,
    };
    let hello = client.hello().clone();
    client.close().await;
    let mut roles = Vec::new();
    for token in hello.device_token.iter().chain(&hello.other_tokens) {
        roles.push(token.role.clone());
        store.keep(&target.shown, Some(token.clone()))?;
    }
    store.keep_pins(&target.shown, &pins)?;
    Ok(Joined {
        url: target.shown,
        roles,
        pins,
        hello,
    })
}

/// What an operator decided about [`ask_for_scopes`].
#[derive(Debug, Clone)]
pub struct ScopesDecided {
    /// `approved`, `rejected` or `expired`.
    pub status: String,
    /// The request.
    pub request_id: String,
    /// The scopes that this device has from now on, if it was approved.
    pub scopes: Vec<String>,
}

/// Asks an operator for more scopes for this device, waits for the decision (5 minutes at most), and keeps the new token.
/// `pending` is told the id of the request.
///
/// # Errors
/// [`ClientError`]
pub async fn ask_for_scopes(
    sources: &ConnectionSources,
    scopes: Vec<String>,
    timeout: Duration,
    pending: impl FnOnce(&str),
) -> Result<ScopesDecided, ClientError> {
    let client = connect(sources, Vec::new(), timeout).await?;
    let asked = client
        .request("device.scopes.requestUpgrade", json!({ "scopes": scopes }))
        .await?;
    let request_id = asked["requestId"].as_str().unwrap_or_default().to_owned();
    pending(&request_id);
    let patient = RequestOptions {
        timeout: Some(Duration::from_millis(SCOPES_WAIT_MS)),
        ..RequestOptions::default()
    };
    let params = json!({ "requestId": request_id });
    let decided = client
        .request_with("device.scopes.waitUpgrade", params, patient)
        .await?;
    client.close().await;
    let scopes: Vec<String> = serde_json::from_value(decided["scopes"].clone()).unwrap_or_default();
    if let (Some(token), Some(dir)) = (decided["deviceToken"].as_str(), &sources.device_dir) {
        let details = build_gateway_connection_details(sources)?;
        DeviceStore::open(dir)?.keep(
            &details.url,
            Some(DeviceToken {
                token: token.to_owned(),
                role: "operator".to_owned(),
                scopes: scopes.clone(),
                issued_at_ms: now_ms(),
            }),
        )?;
    }
    Ok(ScopesDecided {
        status: decided["status"].as_str().unwrap_or_default().to_owned(),
        request_id,
        scopes,
    })
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
