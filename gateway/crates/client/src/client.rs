//! One connection: handshake, requests with their one or two answers, events.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use gateway_egress::{CertPin, tls};
use gateway_protocol::PROTOCOL_VERSION;
use gateway_protocol::method::Method;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::details::{Credential, Target};
use crate::error::{ClientError, GatewayError};
use crate::identity::{DeviceIdentity, DeviceToken, SignedParts, now_ms};
use crate::limits::*;

/// The connection below the WebSocket: plain or TLS.
trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

type Socket = WebSocketStream<Box<dyn Wire>>;

/// How to connect. [`ClientOptions::new`] gives a command-line client with full operator scope.
#[derive(Clone)]
pub struct ClientOptions {
    /// `ws://host:port/…` or `wss://host:port/…`, possibly with `#sha256:FINGERPRINT`
    pub url: String,
    /// The only certificates that the gateway may show, whatever their name, date and issuer; needs `wss://`. Empty: those in
    /// the address, and without any a certificate that public authorities vouch for under the host's name.
    pub pins: Vec<CertPin>,
    /// What to prove ourselves with.
    pub credential: Option<Credential>,
    /// The identity to prove, if this is a device.
    pub device: Option<Arc<DeviceIdentity>>,
    /// The token that the gateway gave this device; used where there is no credential.
    pub device_token: Option<DeviceToken>,
    /// The credential of a setup code, for the one connect that it is good for; used before all others.
    pub bootstrap_token: Option<String>,
    /// `client.id` of the wire (default `cli`).
    pub client_id: String,
    /// `operator` (default) or `node`.
    pub role: String,
    /// `client.mode` of the wire (default `cli`).
    pub mode: String,
    /// A name that others see.
    pub display_name: Option<String>,
    /// Scopes to ask for (default `operator.admin`).
    pub scopes: Vec<String>,
    /// Capabilities to announce, such as `tool-events`.
    pub caps: Vec<String>,
    /// What it offers, if it connects as a node and not as an operator.
    pub node: Option<crate::node::NodeOffer>,
    /// Time for TCP, upgrade and handshake together.
    pub connect_timeout: Duration,
    /// Time for one answer, unless a call says otherwise.
    pub request_timeout: Duration,
}

impl std::fmt::Debug for ClientOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientOptions")
            .field("url", &self.url)
            .field("credential", &self.credential)
            .field("device", &self.device)
            .field("client_id", &self.client_id)
            .field("mode", &self.mode)
            .field("scopes", &self.scopes)
            .finish_non_exhaustive()
    }
}

impl ClientOptions {
    /// The defaults for an address.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            pins: Vec::new(),
            credential: None,
            device: None,
            device_token: None,
            bootstrap_token: None,
            role: "operator".to_owned(),
            client_id: "cli".to_owned(),
            mode: "cli".to_owned(),
            display_name: None,
            scopes: vec!["operator.admin".to_owned()],
            caps: Vec::new(),
            node: None,
            connect_timeout: Duration::from_millis(CONNECT_TIMEOUT_MS),
            request_timeout: Duration::from_millis(REQUEST_TIMEOUT_MS),
        }
    }
}

/// What the gateway said when it let us in.
#[derive(Debug, Clone, Default)]
pub struct Hello {
    /// Protocol version.
    pub protocol: u64,
    /// Version of the gateway.
    pub server_version: String,
    /// Our connection.
    pub conn_id: String,
    /// Methods that it offers.
    pub methods: Vec<String>,
    /// Scopes that we got.
    pub scopes: Vec<String>,
    /// The token that it gives this device for later connections.
    pub device_token: Option<DeviceToken>,
    /// The tokens for other roles that come with a setup code.
    pub other_tokens: Vec<DeviceToken>,
    /// The certificate that the gateway shows now and, while a change is prepared, the one after it: pin both in time.
    pub certificates: Vec<CertPin>,
    /// Milliseconds between two ticks.
    pub tick_interval_ms: u64,
    /// Everything, as sent.
    pub raw: Value,
}

/// An event.
#[derive(Debug, Clone, PartialEq)]
pub struct GatewayEvent {
    /// Its name, such as `chat`.
    pub name: String,
    /// Its payload; `Null` if there is none.
    pub payload: Value,
    /// Number of this event on this connection, from 1; targeted ones have none.
    pub seq: Option<u64>,
}

/// How one request is made.
#[derive(Default)]
pub struct RequestOptions {
    /// Time for the (final) answer; `None` for the client's default.
    pub timeout: Option<Duration>,
    /// Skip answers with `status: "accepted"` and wait for the final one.
    pub expect_final: bool,
    /// Gets the skipped answers.
    pub interim: Option<mpsc::Sender<Value>>,
}

impl std::fmt::Debug for RequestOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RequestOptions")
            .field("timeout", &self.timeout)
            .field("expect_final", &self.expect_final)
            .finish_non_exhaustive()
    }
}

type Answer = Result<Value, GatewayError>;

struct Pending {
    answer: oneshot::Sender<Answer>,
    expect_final: bool,
    interim: Option<mpsc::Sender<Value>>,
}

enum Command {
    Request {
        id: String,
        frame: String,
        pending: Pending,
    },
    /// The caller gave up; its answer is not wanted any more.
    Forget(String),
    Close,
}

/// How a connection ended.
type End = Option<(u16, String)>;

/// A connected client. Dropping it closes the connection.
#[derive(Debug)]
pub struct GatewayClient {
    commands: mpsc::Sender<Command>,
    events: Mutex<mpsc::Receiver<GatewayEvent>>,
    dropped_events: Arc<AtomicU64>,
    ended: watch::Receiver<End>,
    next_id: AtomicU64,
    request_timeout: Duration,
    hello: Hello,
}

impl GatewayClient {
    /// Connects, waits for the challenge, sends `connect` and waits for hello-ok.
    pub async fn connect(options: ClientOptions) -> Result<Self, ClientError> {
        let limit = options.connect_timeout;
        let target = Target::parse(&options.url)?;
        let (socket, hello) = timeout(limit, shake_hands(&options, &target))
            .await
            .map_err(|_| ClientError::Timeout {
                what: format!("connecting to {}", target.shown),
                timeout_ms: millis(limit),
            })??;
        let (commands, command_queue) = mpsc::channel(MAX_QUEUED_COMMANDS);
        let (event_sink, events) = mpsc::channel(MAX_QUEUED_EVENTS);
        let (end, ended) = watch::channel(None);
        let dropped_events = Arc::new(AtomicU64::new(0));
        let driver = Driver {
            socket,
            commands: command_queue,
            events: event_sink,
            dropped_events: dropped_events.clone(),
            pending: HashMap::new(),
            silence: Duration::from_millis(hello.tick_interval_ms.max(1_000).saturating_mul(2)),
        };
        tokio::spawn(async move {
            let how = driver.run().await;
            // Nobody may be left to hear it.
            let _ = end.send(Some(how));
        });
        Ok(Self {
            commands,
            events: Mutex::new(events),
            dropped_events,
            ended,
            next_id: AtomicU64::new(1),
            request_timeout: options.request_timeout,
            hello,
        })
    }

    /// What the gateway said when it let us in.
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Calls a method and waits for its (first) answer.
    pub async fn request(&self, method: &str, params: Value) -> Result<Value, ClientError> {
        self.request_with(method, params, RequestOptions::default())
            .await
    }

    /// Calls a method that answers twice (`agent`) and waits for the final answer.
    pub async fn request_expect_final(
        &self,
        method: &str,
        params: Value,
        limit: Duration,
    ) -> Result<Value, ClientError> {
        let options = RequestOptions {
            timeout: Some(limit),
            expect_final: true,
            interim: None,
        };
        self.request_with(method, params, options).await
    }

    /// Calls a method of the registry with its own parameter type; the result is read as `T`.
    pub async fn call<M: Method, T: DeserializeOwned>(
        &self,
        params: &M::Params,
    ) -> Result<T, ClientError> {
        let params =
            serde_json::to_value(params).map_err(|e| ClientError::TooMuch(e.to_string()))?;
        let result = self.request(M::NAME, params).await?;
        serde_json::from_value(result).map_err(|e| ClientError::NotAGateway {
            url: M::NAME.to_owned(),
            why: format!("its answer has another shape ({e})"),
        })
    }

    /// Calls a method. `Null` params are left out of the frame.
    pub async fn request_with(
        &self,
        method: &str,
        params: Value,
        options: RequestOptions,
    ) -> Result<Value, ClientError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed).to_string();
        let mut frame = json!({ "type": "req", "id": id, "method": method });
        if !params.is_null() {
            frame["params"] = params;
        }
        let frame = frame.to_string();
        if frame.len() > MAX_REQUEST_BYTES {
            return Err(ClientError::TooMuch(format!(
                "the request has {} bytes, the limit is {MAX_REQUEST_BYTES}",
                frame.len()
            )));
        }
        let limit = options.timeout.unwrap_or(self.request_timeout);
        let (answer, answered) = oneshot::channel();
        let pending = Pending {
            answer,
            expect_final: options.expect_final,
            interim: options.interim,
        };
        let command = Command::Request {
            id: id.clone(),
            frame,
            pending,
        };
        let deadline = Instant::now() + limit;
        let late = || ClientError::Timeout {
            what: method.to_owned(),
            timeout_ms: millis(limit),
        };
        match tokio::time::timeout_at(deadline, self.commands.send(command)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(self.end_error().await),
            Err(_) => return Err(late()),
        }
        match tokio::time::timeout_at(deadline, answered).await {
            Ok(Ok(Ok(payload))) => Ok(payload),
            Ok(Ok(Err(error))) => Err(ClientError::Rpc {
                method: method.to_owned(),
                error: Box::new(error),
            }),
            Ok(Err(_)) => Err(self.end_error().await),
            Err(_) => {
                // If the queue is full the driver is stuck anyway; the entry dies with the connection.
                let _ = self.commands.try_send(Command::Forget(id));
                Err(late())
            }
        }
    }

    /// The next event, or `None` when the connection ended and all were taken.
    pub async fn next_event(&self) -> Option<GatewayEvent> {
        self.events.lock().await.recv().await
    }

    /// How many events were dropped because nobody took them.
    pub fn dropped_events(&self) -> u64 {
        self.dropped_events.load(Ordering::Relaxed)
    }

    /// Waits until the connection has ended; close code (1006 when it just broke) and reason.
    pub async fn closed(&self) -> (u16, String) {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(end) => end.clone().unwrap_or((1006, String::new())),
            Err(_) => (1006, String::new()),
        }
    }

    /// Closes with code 1000 and waits for the end.
    pub async fn close(self) {
        if self.commands.send(Command::Close).await.is_ok() {
            self.closed().await;
        }
    }

    async fn end_error(&self) -> ClientError {
        let (code, reason) = self.closed().await;
        if code == TOO_MANY_PENDING {
            return ClientError::TooMuch(reason);
        }
        ClientError::Closed { code, reason }
    }
}

/// Never on the wire: marks an end that the client itself made because of its own limit.
const TOO_MANY_PENDING: u16 = 4998;
/// Close code of a client that hears nothing for two ticks.
const SILENT: u16 = 4000;

async fn shake_hands(
    options: &ClientOptions,
    target: &Target,
) -> Result<(Socket, Hello), ClientError> {
    let url = target.shown.clone();
    let unreachable = |e: std::io::Error| ClientError::Unreachable {
        url: url.clone(),
        why: e.to_string(),
    };
    let not_gateway = |why: String| ClientError::NotAGateway {
        url: url.clone(),
        why,
    };
    let tcp = TcpStream::connect((target.host.as_str(), target.port))
        .await
        .map_err(unreachable)?;
    // Small frames both ways: waiting for more to send would only add latency. Failure changes nothing else.
    let _ = tcp.set_nodelay(true);
    let wire = secure(options, target, tcp).await?;
    let config = WebSocketConfig::default()
        .read_buffer_size(16 * 1024)
        .write_buffer_size(0)
        .max_message_size(Some(MAX_ANSWER_BYTES))
        .max_frame_size(Some(MAX_ANSWER_BYTES));
    let (mut socket, _) = client_async_with_config(url.as_str(), wire, Some(config))
        .await
        .map_err(|e| match e {
            WsError::Http(response) => {
                upgrade_refused(&url, response.status().as_u16(), response.body().as_deref())
            }
            WsError::Io(e) => ClientError::NotAGateway {
                url: url.clone(),
                why: format!("the connection broke during the upgrade ({e})"),
            },
            other => not_gateway(format!("no WebSocket upgrade ({other})")),
        })?;

    let challenge = next_frame(&mut socket, &url).await?;
    let sound =
        challenge["event"] == "connect.challenge" && challenge["payload"]["nonce"].is_string();
    if !sound {
        return Err(not_gateway(
            "it does not begin with connect.challenge".to_owned(),
        ));
    }
    let frame = json!({ "type": "req", "id": "0", "method": "connect", "params": connect_params(options, &challenge["payload"]) });
    // If the gateway has closed already, its reason comes with the next frame.
    let _ = socket.send(Message::text(frame.to_string())).await;
    loop {
        let frame = next_frame(&mut socket, &url).await?;
        if frame["type"] != "res" || frame["id"] != "0" {
            continue;
        }
        if frame["ok"] != true {
            return Err(ClientError::Refused {
                url,
                error: Box::new(GatewayError::from_json(&frame["error"])),
            });
        }
        let raw = frame["payload"].clone();
        if raw["type"] != "hello-ok" {
            return Err(not_gateway(
                "its answer to connect is not hello-ok".to_owned(),
            ));
        }
        return Ok((socket, hello(raw)));
    }
}

/// TLS, where the address wants it. Not one byte of ours is sent before the certificate is found good.
async fn secure(
    options: &ClientOptions,
    target: &Target,
    tcp: TcpStream,
) -> Result<Box<dyn Wire>, ClientError> {
    let pins = if options.pins.is_empty() {
        &target.pins
    } else {
        &options.pins
    };
    let url = target.shown.clone();
    if !target.tls {
        return if pins.is_empty() {
            Ok(Box::new(tcp))
        } else {
            Err(ClientError::BadUrl {
                url,
                why: "a certificate is pinned, but ws:// shows none".to_owned(),
                next: "write wss:// in the address".to_owned(),
            })
        };
    }
    let config = tls::client_config(pins, &[]).map_err(|e| ClientError::NotAGateway {
        url: url.clone(),
        why: format!("TLS cannot be set up ({e})"),
    })?;
    let name = ServerName::try_from(target.host.clone()).map_err(|_| ClientError::BadUrl {
        url: url.clone(),
        why: "this host name cannot stand in a certificate".to_owned(),
        next: "use the name or address that the certificate is for".to_owned(),
    })?;
    match TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await
    {
        Ok(stream) => Ok(Box::new(stream)),
        Err(error) => Err(match tls::pin_mismatch(&error) {
            Some(mismatch) => ClientError::FingerprintMismatch {
                url,
                mismatch: Box::new(mismatch.clone()),
            },
            None if tls::is_untrusted(&error) => ClientError::Untrusted {
                url,
                why: error.to_string(),
            },
            None => ClientError::NotAGateway {
                url,
                why: format!("no TLS there ({error})"),
            },
        }),
    }
}

fn connect_params(options: &ClientOptions, challenge: &Value) -> Value {
    let role = match options.node {
        None => options.role.as_str(),
        Some(_) => "node",
    };
    let platform = std::env::consts::OS;
    let mut client = json!({
        "id": options.client_id,
        "version": env!("CARGO_PKG_VERSION"),
        "platform": platform,
        "mode": options.mode,
    });
    if let Some(name) = &options.display_name {
        client["displayName"] = json!(name);
    }
    let mut params = json!({
        "minProtocol": PROTOCOL_VERSION,
        "maxProtocol": PROTOCOL_VERSION,
        "client": client,
        "role": role,
        "scopes": options.scopes,
        "caps": options.caps,
    });
    if let Some(offer) = &options.node {
        params["commands"] = json!(offer.commands);
        params["permissions"] = json!(offer.permissions);
        if let Some(path) = &offer.path_env {
            params["pathEnv"] = json!(path);
        }
    }
    let signed_token = match (&options.credential, &options.device_token) {
        _ if options.bootstrap_token.is_some() => {
            params["auth"] = json!({ "bootstrapToken": options.bootstrap_token });
            options.bootstrap_token.as_deref().unwrap_or_default()
        }
        (Some(Credential::Token(token)), _) => {
            params["auth"] = json!({ "token": token });
            token.as_str()
        }
        (Some(Credential::Password(password)), _) => {
            params["auth"] = json!({ "password": password });
            ""
        }
        (None, Some(kept)) => {
            params["auth"] = json!({ "token": kept.token, "deviceToken": kept.token });
            kept.token.as_str()
        }
        (None, None) => "",
    };
    if let Some(identity) = &options.device {
        params["device"] = identity.prove(&SignedParts {
            client_id: &options.client_id,
            client_mode: &options.mode,
            role,
            scopes: &options.scopes,
            token: signed_token,
            platform,
            nonce: challenge["nonce"].as_str().unwrap_or_default(),
            // The gateway's own time, so that a clock that is wrong here does not matter.
            signed_at: challenge["ts"].as_u64().unwrap_or_else(now_ms),
        });
    }
    params
}

/// A token of `auth.deviceTokens` as it is kept.
fn given(token: &Value) -> Value {
    json!({
        "token": token["deviceToken"],
        "role": token["role"],
        "scopes": token["scopes"],
        "issuedAtMs": token["issuedAtMs"],
    })
}

fn hello(raw: Value) -> Hello {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let texts = |v: &Value| {
        v.as_array()
            .map(|a| a.iter().map(text).collect())
            .unwrap_or_default()
    };
    let other_tokens = raw["auth"]["deviceTokens"].as_array();
    Hello {
        other_tokens: other_tokens
            .into_iter()
            .flatten()
            .filter_map(|token| serde_json::from_value(given(token)).ok())
            .collect(),
        protocol: raw["protocol"].as_u64().unwrap_or_default(),
        server_version: text(&raw["server"]["version"]),
        conn_id: text(&raw["server"]["connId"]),
        methods: texts(&raw["features"]["methods"]),
        scopes: texts(&raw["auth"]["scopes"]),
        device_token: raw["auth"]["deviceToken"]
            .as_str()
            .map(|token| DeviceToken {
                token: token.to_owned(),
                role: text(&raw["auth"]["role"]),
                scopes: texts(&raw["auth"]["scopes"]),
                issued_at_ms: raw["auth"]["issuedAtMs"].as_u64().unwrap_or_default(),
            }),
        certificates: ["fingerprint", "nextFingerprint"]
            .iter()
            .filter_map(|key| CertPin::parse(raw["snapshot"]["health"]["tls"][*key].as_str()?))
            .collect(),
        tick_interval_ms: raw["policy"]["tickIntervalMs"].as_u64().unwrap_or(30_000),
        raw,
    }
}

/// A refusal over HTTP, before there is a socket. The body may be the gateway's error object.
fn upgrade_refused(url: &str, status: u16, body: Option<&[u8]>) -> ClientError {
    if status == 400 && body.is_some_and(|b| b.starts_with(b"this port speaks TLS")) {
        return ClientError::BadUrl {
            url: url.to_owned(),
            why: "this port speaks TLS".to_owned(),
            next: "write wss:// in the address".to_owned(),
        };
    }
    let json: Value = body
        .and_then(|b| serde_json::from_slice(b).ok())
        .unwrap_or(Value::Null);
    let error = GatewayError::from_json(&json["error"]);
    if !error.message.is_empty() && matches!(status, 401 | 403 | 421 | 429 | 503) {
        return ClientError::Refused {
            url: url.to_owned(),
            error: Box::new(error),
        };
    }
    ClientError::NotAGateway {
        url: url.to_owned(),
        why: format!("HTTP status {status} instead of a WebSocket upgrade"),
    }
}

/// The next JSON frame of the handshake.
async fn next_frame(socket: &mut Socket, url: &str) -> Result<Value, ClientError> {
    loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => {
                return serde_json::from_str(&text).map_err(|_| ClientError::NotAGateway {
                    url: url.to_owned(),
                    why: "it does not speak JSON".to_owned(),
                });
            }
            Some(Ok(Message::Close(frame))) => {
                let (code, reason) = close_parts(frame);
                return Err(ClientError::Closed { code, reason });
            }
            Some(Ok(_)) => {}
            Some(Err(_)) | None => {
                return Err(ClientError::Closed {
                    code: 1006,
                    reason: String::new(),
                });
            }
        }
    }
}

fn close_parts(frame: Option<CloseFrame>) -> (u16, String) {
    match frame {
        Some(frame) => (frame.code.into(), frame.reason.as_str().to_owned()),
        None => (1005, String::new()),
    }
}

/// Owns the socket.
struct Driver {
    socket: Socket,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<GatewayEvent>,
    dropped_events: Arc<AtomicU64>,
    pending: HashMap<String, Pending>,
    /// The gateway ticks; if nothing at all comes for this long, it is gone.
    silence: Duration,
}

impl Driver {
    async fn run(mut self) -> (u16, String) {
        let mut quiet_until = Instant::now() + self.silence;
        loop {
            tokio::select! {
                received = self.socket.next() => {
                    quiet_until = Instant::now() + self.silence;
                    match received {
                        Some(Ok(Message::Text(text))) => self.receive(&text),
                        Some(Ok(Message::Close(frame))) => return close_parts(frame),
                        // The next flush answers pings.
                        Some(Ok(Message::Ping(_))) => {
                            if self.socket.flush().await.is_err() {
                                return (1006, String::new());
                            }
                        }
                        Some(Ok(_)) => {}
                        Some(Err(WsError::Capacity(e))) => return self.shut(1009, &e.to_string()).await,
                        Some(Err(_)) | None => return (1006, String::new()),
                    }
                }
                command = self.commands.recv() => match command {
                    Some(Command::Request { id, frame, pending }) => {
                        if self.pending.len() >= MAX_PENDING_REQUESTS {
                            let why = format!("more than {MAX_PENDING_REQUESTS} requests wait for their answer");
                            self.shut(1000, "").await;
                            return (TOO_MANY_PENDING, why);
                        }
                        self.pending.insert(id, pending);
                        if self.socket.send(Message::text(frame)).await.is_err() {
                            return self.last_words().await;
                        }
                    }
                    Some(Command::Forget(id)) => {
                        self.pending.remove(&id);
                    }
                    Some(Command::Close) | None => return self.shut(1000, "").await,
                },
                () = tokio::time::sleep_until(quiet_until) => return self.shut(SILENT, "tick timeout").await,
            }
        }
    }

    fn receive(&mut self, text: &str) {
        let Ok(mut frame) = serde_json::from_str::<Value>(text) else {
            return;
        };
        match frame["type"].as_str() {
            Some("event") => {
                let event = GatewayEvent {
                    name: frame["event"].as_str().unwrap_or_default().to_owned(),
                    payload: frame["payload"].take(),
                    seq: frame["seq"].as_u64(),
                };
                if self.events.try_send(event).is_err() {
                    self.dropped_events.fetch_add(1, Ordering::Relaxed);
                }
            }
            Some("res") => {
                let id = frame["id"].as_str().unwrap_or_default().to_owned();
                let ok = frame["ok"] == true;
                let interim = ok && frame["payload"]["status"] == "accepted";
                let Some(pending) = self.pending.get(&id) else {
                    return;
                };
                if interim && pending.expect_final {
                    if let Some(sink) = &pending.interim {
                        // A caller that does not take them does not want them.
                        let _ = sink.try_send(frame["payload"].take());
                    }
                    return;
                }
                let answer = if ok {
                    Ok(frame["payload"].take())
                } else {
                    Err(GatewayError::from_json(&frame["error"]))
                };
                if let Some(pending) = self.pending.remove(&id) {
                    // The caller may have given up.
                    let _ = pending.answer.send(answer);
                }
            }
            _ => {}
        }
    }

    /// A write failed: the gateway's close frame may still be there to read.
    async fn last_words(&mut self) -> (u16, String) {
        let read = async {
            loop {
                match self.socket.next().await {
                    Some(Ok(Message::Text(text))) => self.receive(&text),
                    Some(Ok(Message::Close(frame))) => return close_parts(frame),
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return (1006, String::new()),
                }
            }
        };
        timeout(Duration::from_millis(CLOSE_TIMEOUT_MS), read)
            .await
            .unwrap_or((1006, String::new()))
    }

    /// Closes from our side and waits a moment for the other.
    async fn shut(&mut self, code: u16, reason: &str) -> (u16, String) {
        let frame = CloseFrame {
            code: CloseCode::from(code),
            reason: reason.to_owned().into(),
        };
        let closing = async {
            if self.socket.close(Some(frame)).await.is_ok() {
                while let Some(Ok(_)) = self.socket.next().await {}
            }
        };
        // The outcome is ours either way.
        let _ = timeout(Duration::from_millis(CLOSE_TIMEOUT_MS), closing).await;
        (code, reason.to_owned())
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
