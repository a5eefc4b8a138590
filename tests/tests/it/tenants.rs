//! Two tenants in one gateway, both at once: nothing of one reaches the other.
//!
//! Every text that a tenant has (messages, labels, keys, ids, secrets, addresses) holds its canary. What comes back on any of its
//! sockets, answers and calls is kept, and so is what its tenant directory holds; the other's canary must be in none of it.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use gateway_tests::process::{Gateway, guests_dir};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::{Error, Message, client::IntoClientRequest};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

/// How long one answer may take before the test gives up; not a performance statement.
const PATIENCE: Duration = Duration::from_secs(60);
/// Rounds of the whole flow, each for both tenants at once.
const ROUNDS: usize = 3;

/// Where a tenant is reached.
#[derive(Clone, Debug)]
struct Door {
    port: u16,
    prefix: &'static str,
    host: Option<&'static str>,
}

impl Door {
    fn host(&self) -> String {
        self.host.map_or_else(
            || format!("127.0.0.1:{}", self.port),
            |host| format!("{host}:{}", self.port),
        )
    }
}

/// One tenant as the test knows it, and all that came back to it.
struct Side {
    slug: &'static str,
    canary: &'static str,
    doors: Vec<Door>,
    seen: Mutex<Vec<u8>>,
}

impl Side {
    fn token(&self) -> String {
        format!("{}-token-0123456789abcdef", self.canary)
    }

    fn hook_secret(&self) -> String {
        format!("{}-hook-0123456789abcdef", self.canary)
    }

    fn keep(&self, bytes: &[u8]) {
        let mut seen = self.seen.lock().unwrap();
        seen.extend_from_slice(bytes);
        seen.push(b'\n');
    }

    fn bearer(&self) -> (String, String) {
        ("authorization".into(), format!("Bearer {}", self.token()))
    }
}

/// An HTTP answer.
#[derive(Debug, Clone)]
struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }
}

async fn http(
    door: &Door,
    method: &str,
    path: &str,
    headers: &[(String, String)],
    body: &str,
) -> Reply {
    let mut socket = TcpStream::connect(("127.0.0.1", door.port)).await.unwrap();
    let mut ask = format!(
        "{method} {}{path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n",
        door.prefix,
        door.host()
    );
    for (name, value) in headers {
        ask.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() {
        ask.push_str("content-type: application/json\r\n");
    }
    ask.push_str(&format!("content-length: {}\r\n\r\n{body}", body.len()));
    socket.write_all(ask.as_bytes()).await.unwrap();
    let mut raw = Vec::new();
    tokio::time::timeout(PATIENCE, socket.read_to_end(&mut raw))
        .await
        .expect("an answer in time")
        .unwrap();
    let text = String::from_utf8(raw).unwrap();
    let (head, rest) = text.split_once("\r\n\r\n").expect("a head");
    let head = head.to_ascii_lowercase();
    let body = if head.contains("transfer-encoding: chunked") {
        unchunk(rest)
    } else {
        rest.to_owned()
    };
    Reply {
        status: head[9..12].parse().unwrap(),
        head,
        body,
    }
}

fn unchunk(mut rest: &str) -> String {
    let mut out = String::new();
    while let Some((size, tail)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            break;
        }
        out.push_str(&tail[..size]);
        rest = &tail[size + 2..];
    }
    out
}

impl Side {
    /// A request of this tenant; the answer is kept.
    async fn http(
        &self,
        door: &Door,
        method: &str,
        path: &str,
        headers: &[(String, String)],
        body: &str,
    ) -> Reply {
        let reply = http(door, method, path, headers, body).await;
        self.keep(reply.head.as_bytes());
        self.keep(reply.body.as_bytes());
        reply
    }

    /// One JSON-RPC call by POST.
    async fn post(&self, door: &Door, method: &str, params: &Value) -> Value {
        let body =
            json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string();
        let reply = self
            .http(door, "POST", "/rpc", &[self.bearer()], &body)
            .await;
        assert_eq!(reply.status, 200, "{method}: {reply:?}");
        reply.json()
    }

    /// A message on a webhook account.
    async fn hook(&self, door: &Door, account: &str, body: &Value) -> Reply {
        let headers = [("x-webhook-secret".to_owned(), self.hook_secret())];
        let path = format!("/channels/webhook/{account}/inbound");
        self.http(door, "POST", &path, &headers, &body.to_string())
            .await
    }
}

/// A WebSocket of one tenant that keeps every byte.
struct Sock<'a> {
    side: &'a Side,
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    next: u64,
    events: Vec<Value>,
}

/// Opens a socket; a refused upgrade is its answer.
async fn open(
    door: &Door,
    path: &str,
    bearer: Option<&str>,
) -> Result<WebSocketStream<MaybeTlsStream<TcpStream>>, Reply> {
    let url = format!("ws://127.0.0.1:{}{}{path}", door.port, door.prefix);
    let mut request = url.into_client_request().unwrap();
    request
        .headers_mut()
        .insert("host", door.host().parse().unwrap());
    if let Some(token) = bearer {
        let value = format!("Bearer {token}").parse().unwrap();
        request.headers_mut().insert("authorization", value);
    }
    match connect_async(request).await {
        Ok((socket, _)) => Ok(socket),
        Err(Error::Http(response)) => {
            let mut head = format!("http/1.1 {}", response.status().as_u16());
            for (name, value) in response.headers() {
                head.push_str(&format!("\r\n{name}: {}", value.to_str().unwrap()));
            }
            let body = response.body().clone().unwrap_or_default();
            Err(Reply {
                status: response.status().as_u16(),
                head,
                body: String::from_utf8(body).unwrap(),
            })
        }
        Err(error) => panic!("no socket at {door:?}: {error}"),
    }
}

fn connect_params(token: &str) -> Value {
    json!({
        "minProtocol": 4, "maxProtocol": 4,
        "client": {"id": "cli", "version": "1.0.0", "platform": "linux", "mode": "cli"},
        "role": "operator",
        "scopes": ["operator.admin", "operator.read", "operator.write", "operator.approvals", "operator.pairing"],
        "caps": ["tool-events"],
        "auth": {"token": token},
    })
}

impl<'a> Sock<'a> {
    async fn v4(side: &'a Side, door: &Door) -> Self {
        let socket = open(door, "/", None).await.unwrap();
        let mut sock = Self {
            side,
            socket,
            next: 0,
            events: Vec::new(),
        };
        assert_eq!(
            sock.frame().await.unwrap()["event"],
            "connect.challenge",
            "{door:?}"
        );
        let mut params = connect_params(&side.token());
        params["client"]["displayName"] = json!(format!("{} desk", side.canary));
        params["client"]["instanceId"] = json!(format!("{}-instance", side.canary));
        sock.call("connect", params).await.unwrap();
        sock
    }

    async fn rpc(side: &'a Side, door: &Door) -> Self {
        let socket = open(door, "/rpc", Some(&side.token())).await.unwrap();
        Self {
            side,
            socket,
            next: 0,
            events: Vec::new(),
        }
    }

    async fn frame(&mut self) -> Option<Value> {
        loop {
            let message = tokio::time::timeout(PATIENCE, self.socket.next())
                .await
                .expect("a frame in time")?;
            match message {
                Ok(Message::Text(text)) => {
                    self.side.keep(text.as_bytes());
                    return Some(serde_json::from_str(text.as_str()).unwrap());
                }
                Ok(Message::Close(_)) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    async fn send(&mut self, frame: Value) {
        self.socket
            .send(Message::text(frame.to_string()))
            .await
            .unwrap();
    }

    async fn ask(&mut self, method: &str, params: Value) -> String {
        self.next += 1;
        let id = format!("{}-{}", self.side.canary, self.next);
        self.send(json!({"type": "req", "id": id, "method": method, "params": params}))
            .await;
        id
    }

    async fn answer(&mut self, id: &str) -> Result<Value, Value> {
        loop {
            let frame = self.frame().await.expect("the connection lives");
            if frame["type"] == "event" {
                self.events.push(frame);
            } else if frame["id"] == id {
                return if frame["ok"] == true {
                    Ok(frame["payload"].clone())
                } else {
                    Err(frame["error"].clone())
                };
            }
        }
    }

    async fn call(&mut self, method: &str, params: Value) -> Result<Value, Value> {
        let id = self.ask(method, params).await;
        self.answer(&id).await
    }

    async fn call_rpc(&mut self, method: &str, params: Value) -> Value {
        self.next += 1;
        let id = format!("{}-{}", self.side.canary, self.next);
        self.send(json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}))
            .await;
        loop {
            let frame = self.frame().await.expect("the connection lives");
            if frame["id"] == id.as_str() {
                return frame;
            }
            self.events.push(frame);
        }
    }

    /// Chat events of a run, up to the one that ends it.
    async fn chat_events(&mut self, run: &str) -> Vec<Value> {
        let mut found = Vec::new();
        loop {
            let event = if self.events.is_empty() {
                self.frame().await.expect("the connection lives")
            } else {
                self.events.remove(0)
            };
            let payload = event["payload"].clone();
            if event["event"] == "chat" && payload["runId"] == run {
                let state = payload["state"].as_str().unwrap_or_default().to_owned();
                found.push(payload);
                if !matches!(state.as_str(), "delta" | "status") {
                    return found;
                }
            }
        }
    }

    /// The first delta of a run.
    async fn chat_delta(&mut self, run: &str) {
        loop {
            let event = if self.events.is_empty() {
                self.frame().await.expect("the connection lives")
            } else {
                self.events.remove(0)
            };
            if event["event"] == "chat"
                && event["payload"]["runId"] == run
                && event["payload"]["state"] == "delta"
            {
                return;
            }
        }
    }

    /// Takes whatever is still on its way.
    async fn drain(&mut self) {
        let quiet = Duration::from_millis(300);
        while let Ok(Some(Ok(message))) = tokio::time::timeout(quiet, self.socket.next()).await {
            self.side.keep(&message.into_data());
        }
    }
}

/// What a request to the double looked like.
#[derive(Debug, Clone)]
struct Asked {
    path: String,
    all: String,
}

/// A model server whose answers begin and never end, and the receiver of callbacks.
#[derive(Clone)]
struct Double {
    port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Double {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let double = Self {
            port: listener.local_addr().unwrap().port(),
            asked: Arc::default(),
        };
        let serving = double.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let double = serving.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let double = double.clone();
                        async move { Ok::<_, Infallible>(double.answer(request).await) }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(socket), service)
                        .await;
                });
            }
        });
        double
    }

    async fn answer(
        &self,
        request: Request<hyper::body::Incoming>,
    ) -> Response<BoxBody<Bytes, Infallible>> {
        let path = request.uri().path().to_owned();
        let head = format!("{} {:?}", request.uri(), request.headers());
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&body).into_owned();
        let body: Value = serde_json::from_str(&text).unwrap_or_default();
        self.asked.lock().unwrap().push(Asked {
            path: path.clone(),
            all: format!("{head}\n{text}"),
        });
        if !path.ends_with("/chat/completions") {
            return Response::new(Full::new(Bytes::from_static(b"{}")).boxed());
        }
        let said = body["messages"].as_array().and_then(|m| m.last()).cloned();
        let chunk = json!({
            "id": "c", "object": "chat.completion.chunk", "created": 1, "model": body["model"],
            "choices": [{"index": 0, "delta": {"role": "assistant", "content": format!("model heard {}", said.unwrap_or_default())}, "finish_reason": null}],
        });
        let first = Frame::data(Bytes::from(format!("data: {chunk}\n\n")));
        let stream = futures_util::stream::once(async move { Ok(first) })
            .chain(futures_util::stream::pending());
        Response::builder()
            .header("content-type", "text/event-stream")
            .body(BodyExt::boxed(StreamBody::new(stream)))
            .unwrap()
    }

    /// Requests of which the path holds `word`.
    fn of(&self, word: &str) -> Vec<Asked> {
        let asked = self.asked.lock().unwrap();
        asked
            .iter()
            .filter(|a| a.path.contains(word))
            .cloned()
            .collect()
    }
}

fn tenant_options(side: &Side, double: u16) -> Value {
    let canary = side.canary;
    let file = |name: &str| json!({"file": format!("secrets/{}/{name}", side.slug)});
    let account = |policy: &str| {
        json!({
            "enabled": true, "dmPolicy": policy, "allowFrom": [format!("{canary}-friend")], "groupPolicy": "disabled",
            "secrets": {"signing": file("hook")}, "config": {"holdMs": 30_000},
        })
    };
    let callback = format!("http://127.0.0.1:{double}/cb/{canary}");
    let mut back = account("open");
    back["secrets"]["callback"] = file("callback");
    back["config"] = json!({"callback": {"url": callback, "secretHeader": "x-callback-secret"}});
    back["http"] = json!({"allow": [callback], "allowPrivate": true});
    json!({
        "agents": {"default": "main", "entries": {
            "main": {"backend": "echo"},
            "slow": {
                "backend": "openai", "baseUrl": format!("http://127.0.0.1:{double}/m/{canary}/v1"),
                "model": format!("{canary}-model"), "apiKey": file("api-key"),
                "systemPrompt": format!("you are of {canary}"),
            },
            format!("only-{canary}"): {"backend": "echo"},
        }},
        "channels": {"webhook": {"accounts": {
            "default": account("allowlist"),
            "pairs": account("pairing"),
            format!("of-{canary}"): back,
        }}},
        "boot": {"scripts": {"greeting": {"enabled": true, "config": {"text": format!("welcome to {canary}")}}}},
    })
}

fn private(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

struct World {
    _dir: tempfile::TempDir,
    gateway: Gateway,
    double: Double,
    main: Side,
    acme: Side,
}

async fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let double = Double::start().await;
    let side = |slug, canary| Side {
        slug,
        canary,
        doors: Vec::new(),
        seen: Mutex::default(),
    };
    let (mut main, mut acme) = (side("main", "kanari7q2xvb"), side("acme", "zeisig4w9ntp"));
    let mut config = tenant_options(&main, double.port);
    config["gateway"] = json!({"auth": {"mode": "token", "token": {"file": "secrets/main/token"}}, "allowedHosts": ["plain.test"]});
    let mut second = tenant_options(&acme, double.port);
    second["hosts"] = json!(["acme.test"]);
    second["auth"] = json!({"mode": "token", "token": {"file": "secrets/acme/token"}});
    config["tenants"] = json!({"acme": second});
    for side in [&main, &acme] {
        let secrets = state.join("secrets").join(side.slug);
        private(&secrets.join("token"), &side.token());
        private(&secrets.join("hook"), &side.hook_secret());
        let more = |name: &str| format!("{}-{name}-0123456789abcdef", side.canary);
        private(&secrets.join("callback"), &more("callback"));
        private(&secrets.join("api-key"), &more("api-key"));
    }
    for part in ["", "secrets", "secrets/main", "secrets/acme"] {
        let mode = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(state.join(part), mode).unwrap();
    }
    private(&state.join("gateway.json5"), &config.to_string());
    let guests = guests_dir();
    let gateway = Gateway::start(&state, &["--wasm-dir", guests.to_str().unwrap()]);
    let door = |prefix, host| Door {
        port: gateway.port,
        prefix,
        host,
    };
    main.doors = vec![
        door("", None),
        door("/t/main", None),
        door("", Some("plain.test")),
    ];
    acme.doors = vec![
        door("/t/acme", None),
        door("", Some("acme.test")),
        door("", None),
        door("/t/acme", Some("acme.test")),
    ];
    World {
        _dir: dir,
        gateway,
        double,
        main,
        acme,
    }
}

/// What a tenant has that another one may try.
#[derive(Debug, Clone, Default)]
struct Ids(BTreeMap<&'static str, String>);

/// The whole flow of one tenant, once; `round` picks the door and makes the ids fresh.
async fn flow(side: &Side, double: &Double, round: usize) -> Ids {
    let canary = side.canary;
    let door = &side.doors[round % side.doors.len()];
    // A webhook says nothing about its tenant but by path or host name; of the top level it is `main`'s.
    let hooks = &side.doors[round % 2];
    let mut ids = Ids::default();

    let mut watcher = Sock::v4(side, door).await;
    watcher.call("sessions.subscribe", json!({})).await.unwrap();
    let mut events = Sock::rpc(side, door).await;
    let subscribed = events
        .call_rpc("rpc.subscribe", json!({"events": ["chat", "session.message", "sessions.changed", "presence", "health"]}))
        .await;
    assert!(subscribed["error"].is_null(), "{subscribed}");
    let mut ws = Sock::v4(side, door).await;

    // The greeting runs at the start of the host only, for the tenant of the top level; the other one's talk is empty before its
    // first word.
    let history = ws
        .call("chat.history", json!({"sessionKey": "main"}))
        .await
        .unwrap();
    assert_eq!(
        history
            .to_string()
            .contains(&format!("welcome to {canary}")),
        side.slug == "main",
        "{history}"
    );

    // Chat: the same session names and idempotency keys on both sides, and ones that only this side has.
    let own = format!("agent:main:{canary}-{round}");
    for (key, run) in [
        ("main", format!("shared-run-{round}")),
        (own.as_str(), format!("{canary}-run-{round}")),
    ] {
        watcher
            .call("sessions.messages.subscribe", json!({"key": key}))
            .await
            .unwrap();
        // Streamed in four pieces: at least one of them holds a whole canary.
        let said =
            format!("hello of {canary} {round} {canary} {canary} {canary} {canary} {canary}");
        let sent = ws
            .call(
                "chat.send",
                json!({"sessionKey": key, "message": said, "idempotencyKey": run}),
            )
            .await
            .unwrap();
        assert_eq!(sent["status"], "started", "{sent}");
        let told = ws.chat_events(&run).await;
        assert_eq!(told.last().unwrap()["state"], "final", "{told:?}");
        assert!(
            told.iter().filter(|e| e["state"] == "delta").count() >= 1,
            "{told:?}"
        );
        assert!(
            told.last()
                .unwrap()
                .to_string()
                .contains(&format!("echo: {said}"))
        );
        let seen = watcher.chat_events(&run).await;
        assert_eq!(seen.last().unwrap()["state"], "final", "{seen:?}");
    }
    ids.0.insert("runId", format!("{canary}-run-{round}"));
    ids.0
        .insert("idempotencyKey", format!("{canary}-run-{round}"));

    // An answer that would never end is stopped.
    let slow = format!("agent:slow:{canary}-{round}");
    let run = format!("{canary}-slow-{round}");
    ws.call(
        "chat.send",
        json!({"sessionKey": slow, "message": format!("wait, {canary}"), "idempotencyKey": run}),
    )
    .await
    .unwrap();
    ws.chat_delta(&run).await;
    let stopped = ws
        .call("chat.abort", json!({"sessionKey": slow, "runId": run}))
        .await
        .unwrap();
    assert_eq!(stopped["aborted"], true, "{stopped}");
    let told = ws.chat_events(&run).await;
    assert_eq!(told.last().unwrap()["state"], "aborted", "{told:?}");

    // agent: two answers.
    let run = format!("{canary}-agent-{round}");
    let id = ws
        .ask(
            "agent",
            json!({"message": format!("work, {canary}"), "sessionKey": own, "idempotencyKey": run, "label": format!("{canary} job")}),
        )
        .await;
    assert_eq!(ws.answer(&id).await.unwrap()["status"], "accepted");
    assert_eq!(ws.answer(&id).await.unwrap()["status"], "ok");
    let waited = ws
        .call("agent.wait", json!({"runId": run, "timeoutMs": 5_000}))
        .await
        .unwrap();
    assert_eq!(waited["status"], "ok", "{waited}");

    // A job, run once by hand.
    let job = ws
        .call(
            "cron.add",
            json!({
                "name": format!("{canary} job {round}"), "schedule": {"kind": "every", "everyMs": 86_400_000}, "sessionTarget": "isolated",
                "wakeMode": "now", "payload": {"kind": "agentTurn", "message": format!("daily work of {canary}")},
            }),
        )
        .await
        .unwrap();
    let job = job["id"].as_str().unwrap().to_owned();
    let begun = ws.call("cron.run", json!({"id": job})).await.unwrap();
    assert_eq!(begun["enqueued"], true, "{begun}");
    let patience = std::time::Instant::now();
    loop {
        let log = ws.call("cron.runs", json!({"id": job})).await.unwrap();
        if log["total"] == 1 {
            assert!(log.to_string().contains(canary), "{log}");
            break;
        }
        assert!(patience.elapsed().as_secs() < 30, "{log}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    ids.0.insert("id", job.clone());
    ids.0.insert("jobId", job);

    // Sessions.
    let made = ws
        .call(
            "sessions.create",
            json!({
                "key": format!("agent:main:made-{canary}-{round}"), "label": format!("{canary} label {round}"),
                "displayName": format!("{canary} name"), "message": format!("first words of {canary}"),
            }),
        )
        .await
        .unwrap();
    let made_key = made["key"].as_str().unwrap().to_owned();
    let described = ws
        .call("sessions.describe", json!({"key": made_key}))
        .await
        .unwrap();
    assert!(described.to_string().contains(canary), "{described}");
    ws.call("sessions.reset", json!({"key": made_key}))
        .await
        .unwrap();
    let gone = format!("agent:main:gone-{canary}-{round}");
    ws.call("sessions.create", json!({"key": gone}))
        .await
        .unwrap();
    let deleted = ws
        .call("sessions.delete", json!({"key": gone}))
        .await
        .unwrap();
    assert_eq!(deleted["deleted"], true, "{deleted}");
    let list = ws
        .call("sessions.list", json!({"search": canary}))
        .await
        .unwrap();
    let row = list["sessions"]
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["key"] == own.as_str())
        .unwrap_or_else(|| panic!("{list}"));
    ids.0
        .insert("sessionId", row["sessionId"].as_str().unwrap().to_owned());
    ids.0.insert("key", own.clone());
    ids.0.insert("label", format!("{canary} label {round}"));

    // Webhook: held, by callback, repeated, wrong secret, a stranger and the pairing.
    let message = |id: &str, from: &str, reply: &str| {
        let mut body = json!({
            "id": format!("{canary}-{id}-{round}"), "from": {"id": from, "name": format!("Name {canary}")},
            "text": format!("hook {id} of {canary}"),
        });
        if !reply.is_empty() {
            body["reply"] = json!(reply);
        }
        body
    };
    let friend = format!("{canary}-friend");
    let held = side
        .hook(hooks, "default", &message("held", &friend, "hold"))
        .await;
    assert_eq!(held.status, 200, "{held:?}");
    assert_eq!(
        held.json()["reply"]["text"],
        format!("echo: hook held of {canary}").as_str()
    );
    let again = side
        .hook(hooks, "default", &message("held", &friend, "hold"))
        .await;
    assert_eq!(again.status, 202, "a repeat starts nothing: {again:?}");
    let bad = side
        .http(
            hooks,
            "POST",
            "/channels/webhook/default/inbound",
            &[("x-webhook-secret".into(), format!("{canary}-wrong"))],
            &message("bad", &friend, "hold").to_string(),
        )
        .await;
    assert_eq!(bad.status, 401, "{bad:?}");
    let before = double.of(&format!("/cb/{canary}")).len();
    let back = side
        .hook(
            hooks,
            &format!("of-{canary}"),
            &message("back", &format!("{canary}-anyone"), "callback"),
        )
        .await;
    assert_eq!(back.status, 200, "{back:?}");
    let started = Instant::now();
    while double.of(&format!("/cb/{canary}")).len() == before {
        assert!(started.elapsed() < PATIENCE, "no callback");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let stranger = format!("{canary}-stranger-{round}");
    let asked = side
        .hook(hooks, "pairs", &message("pair", &stranger, "hold"))
        .await;
    assert!(!asked.body.contains("echo:"), "{asked:?}");
    let pending = ws.call("channels.pairing.list", json!({})).await.unwrap();
    let code = pending["requests"]
        .as_array()
        .unwrap()
        .iter()
        .find(|r| r["senderId"] == stranger.as_str())
        .unwrap_or_else(|| panic!("{pending}"))["requestId"]
        .as_str()
        .unwrap()
        .to_owned();
    let approved = ws
        .call("channels.pairing.approve", json!({"requestId": code}))
        .await
        .unwrap();
    assert_eq!(approved["senderId"], stranger.as_str(), "{approved}");
    let known = side
        .hook(hooks, "pairs", &message("known", &stranger, "hold"))
        .await;
    assert_eq!(
        known.json()["reply"]["text"],
        format!("echo: hook known of {canary}").as_str()
    );
    // One who goes on waiting, for the matrix (only so many may wait at an account: always the same one).
    let waiting = format!("{canary}-waiting");
    side.hook(hooks, "pairs", &message("wait", &waiting, "hold"))
        .await;
    let pending = ws.call("channels.pairing.list", json!({})).await.unwrap();
    let request = pending["requests"]
        .as_array()
        .unwrap()
        .iter()
        .find(|r| r["senderId"] == waiting.as_str())
        .unwrap_or_else(|| panic!("{pending}"));
    ids.0.insert(
        "requestId",
        request["requestId"].as_str().unwrap().to_owned(),
    );

    // An own message out.
    let out = ws
        .call(
            "send",
            json!({
                "to": format!("{canary}-anyone"), "message": format!("news of {canary}"), "channel": "webhook",
                "accountId": format!("of-{canary}"), "idempotencyKey": format!("{canary}-send-{round}"),
            }),
        )
        .await
        .unwrap();
    ids.0
        .insert("outboxId", out["outboxId"].as_str().unwrap().to_owned());
    ids.0.insert("to", format!("{canary}-anyone"));
    ids.0.insert("accountId", format!("of-{canary}"));
    ids.0.insert("agentId", format!("only-{canary}"));
    ids.0.insert("search", canary.to_owned());
    let outbox = ws.call("outbox.list", json!({})).await.unwrap();
    assert!(outbox.to_string().contains(canary), "{outbox}");

    // JSON-RPC, single and batch, over POST and the socket.
    let listed = side
        .post(door, "sessions.list", &json!({"search": canary}))
        .await;
    assert!(listed["result"].to_string().contains(canary), "{listed}");
    let batch = json!([
        {"jsonrpc": "2.0", "id": format!("{canary}-1"), "method": "health"},
        {"jsonrpc": "2.0", "id": format!("{canary}-2"), "method": format!("{canary}.nothing")},
        {"jsonrpc": "2.0", "id": 3, "method": "chat.history", "params": {"sessionKey": own}},
        {"jsonrpc": "2.0", "id": 4, "method": "chat.history", "params": {format!("{canary}-unknown"): 1}},
    ]);
    let reply = side
        .http(door, "POST", "/rpc", &[side.bearer()], &batch.to_string())
        .await;
    assert_eq!(reply.json().as_array().unwrap().len(), 4, "{reply:?}");
    let over = events
        .call_rpc("chat.history", json!({"sessionKey": own}))
        .await;
    assert!(over["result"].to_string().contains(canary), "{over}");

    // OpenAI-compatible.
    let models = side
        .http(door, "GET", "/v1/models", &[side.bearer()], "")
        .await;
    let model = models.json()["data"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|m| m["id"].as_str())
        .find(|id| id.ends_with("main") || id.ends_with("default"))
        .unwrap_or_else(|| panic!("{models:?}"))
        .to_owned();
    for stream in [false, true] {
        let body = json!({
            "model": model, "stream": stream, "user": format!("{canary}-user"),
            "messages": [{"role": "user", "content": format!("completion of {canary} {canary} {canary} {canary} {canary} {canary} {canary} {canary}")}],
        });
        let reply = side
            .http(
                door,
                "POST",
                "/v1/chat/completions",
                &[side.bearer()],
                &body.to_string(),
            )
            .await;
        assert_eq!(reply.status, 200, "{reply:?}");
        assert!(reply.body.contains(canary), "{reply:?}");
        assert_eq!(reply.body.contains("[DONE]"), stream, "{reply:?}");
    }
    let wrong = json!({"model": format!("{canary}-nope"), "messages": []}).to_string();
    side.http(
        door,
        "POST",
        "/v1/chat/completions",
        &[side.bearer()],
        &wrong,
    )
    .await;
    side.http(door, "GET", &format!("/{canary}/nothing"), &[], "")
        .await;

    let node = node(side, &mut ws, round).await;
    ids.0.insert("nodeId", node);

    // What tells about the whole gateway.
    for method in [
        "health",
        "status",
        "system-presence",
        "agents.list",
        "models.list",
        "config.get",
        "channels.status",
        "gateway.identity.get",
    ] {
        let answer = ws.call(method, json!({})).await.unwrap();
        if matches!(method, "agents.list" | "config.get" | "channels.status") {
            assert!(
                answer.to_string().contains(canary),
                "{method} shows its own: {answer}"
            );
        }
        side.post(door, method, &json!({})).await;
    }
    ws.call("logs.tail", json!({"limit": 5000, "maxBytes": 1_000_000}))
        .await
        .unwrap();

    // Errors that repeat what was asked.
    ws.call(&format!("{canary}.method"), json!({}))
        .await
        .unwrap_err();
    ws.call(
        "sessions.describe",
        json!({"key": format!("{canary} / bad key")}),
    )
    .await
    .ok();
    ws.call("chat.send", json!({"sessionKey": canary}))
        .await
        .unwrap_err();

    ws.drain().await;
    watcher.drain().await;
    events.drain().await;
    assert!(
        events.events.iter().any(|e| e.to_string().contains(canary)),
        "events over JSON-RPC"
    );
    ids
}

/// A machine of this tenant: let in, approved, asked once. Gives its id.
async fn node(side: &Side, ws: &mut Sock<'_>, round: usize) -> String {
    use gateway_client::{
        ClientError, ConnectionSources, Credential, DeviceStore, NodeOffer, connect_node,
    };
    let canary = side.canary;
    let dir = tempfile::tempdir().unwrap();
    let store = DeviceStore::open(dir.path()).unwrap();
    let sources = ConnectionSources {
        url: Some(format!("ws://127.0.0.1:{}", side.doors[0].port)),
        credential: Some(Credential::Token(side.token())),
        ..ConnectionSources::default()
    };
    let connect = || {
        let offer = NodeOffer {
            caps: vec![canary.to_owned()],
            commands: vec!["system.notify".to_owned()],
            ..NodeOffer::default()
        };
        connect_node(
            &sources,
            &store,
            offer,
            Some(format!("machine of {canary}")),
            PATIENCE,
        )
    };
    let Err(ClientError::Refused { error, .. }) = connect().await else {
        panic!("a stranger was let in");
    };
    side.keep(error.details.to_string().as_bytes());
    let request = json!({ "requestId": error.details["requestId"] });
    ws.call("device.pair.approve", request).await.unwrap();
    let node = connect().await.unwrap();
    let id = store.identity().id().to_owned();
    let request = loop {
        let seen = ws
            .call("node.describe", json!({ "nodeId": id }))
            .await
            .unwrap();
        if seen["pendingRequestId"].is_string() {
            break seen["pendingRequestId"].clone();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    ws.call("node.pair.approve", json!({ "requestId": request }))
        .await
        .unwrap();
    let asked = ws
        .ask(
            "node.invoke",
            json!({
                "nodeId": id, "command": "system.notify", "params": { "title": canary },
                "idempotencyKey": format!("shared-call-{round}"),
            }),
        )
        .await;
    let request = loop {
        let event = node.next_event().await.expect("the node is connected");
        side.keep(event.payload.to_string().as_bytes());
        if event.name == "node.invoke.request" {
            break event.payload;
        }
    };
    let said =
        json!({ "id": request["id"], "nodeId": id, "ok": true, "payload": { "said": canary } });
    let taken = node.request("node.invoke.result", said).await.unwrap();
    assert_eq!(taken, json!({ "ok": true }));
    let got = ws.answer(&asked).await.unwrap();
    assert_eq!(got["payload"]["said"], canary);
    node.close().await;
    id
}

fn hits(bytes: &[u8], word: &str) -> usize {
    let low = bytes.to_ascii_lowercase();
    let word = word.to_ascii_lowercase();
    low.windows(word.len())
        .filter(|window| *window == word.as_bytes())
        .count()
}

/// The text around the first hit.
fn around(bytes: &[u8], word: &str) -> String {
    let low = bytes.to_ascii_lowercase();
    let at = low
        .windows(word.len())
        .position(|window| window == word.as_bytes())
        .unwrap_or(0);
    String::from_utf8_lossy(&bytes[at.saturating_sub(300)..(at + 300).min(bytes.len())])
        .into_owned()
}

fn assert_apart(what: &str, bytes: &[u8], own: Option<&str>, other: &str) {
    if let Some(own) = own {
        assert!(hits(bytes, own) > 0, "{what} holds nothing of its own");
    }
    assert_eq!(
        hits(bytes, other),
        0,
        "{what} holds the other's: {}",
        around(bytes, other)
    );
}

/// All bytes of the files below a directory.
fn bytes_below(dir: &Path) -> Vec<u8> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        // The name counts as well.
        out.extend_from_slice(path.as_os_str().as_encoded_bytes());
        out.push(b'\n');
        if path.is_dir() {
            out.extend(bytes_below(&path));
        } else {
            out.extend(std::fs::read(&path).unwrap_or_default());
        }
    }
    out
}

/// The whole flow for both at once, several times, through every door of each: no byte that one got, no log line, no error, no
/// request to its platforms and no file of its directory holds the canary of the other.
///
/// Covers: MT2, MT9, MT10, Z7.
#[tokio::test(flavor = "multi_thread")]
async fn both_at_once_and_nothing_crosses() {
    let world = world().await;
    let (main, acme) = (&world.main, &world.acme);
    for round in 0..ROUNDS.max(acme.doors.len()) {
        tokio::join!(
            flow(main, &world.double, round),
            flow(acme, &world.double, round)
        );
    }
    for (side, other) in [(main, acme), (acme, main)] {
        let seen = side.seen.lock().unwrap();
        assert!(seen.len() > 100_000, "{}", seen.len());
        assert_apart(side.slug, &seen, Some(side.canary), other.canary);
        for secret in ["callback", "api-key", "hook", "token"] {
            let secret = format!("{}-{secret}-0123456789", side.canary);
            assert_eq!(
                hits(&seen, &secret),
                0,
                "{secret}: {}",
                around(&seen, &secret)
            );
        }
        if side.slug == "main" {
            assert_eq!(
                hits(&seen, "acme"),
                0,
                "a tenant learns of another's existence: {}",
                around(&seen, "acme")
            );
        }
        let platform: String = world
            .double
            .of(side.canary)
            .into_iter()
            .map(|a| a.all)
            .collect();
        assert_apart(
            "the platform",
            platform.as_bytes(),
            Some(side.canary),
            other.canary,
        );
        assert!(
            platform.contains(&format!("{}-callback-0123456789abcdef", side.canary))
                && platform.contains(&format!("{}-api-key-0123456789abcdef", side.canary))
        );
    }
    assert_eq!(
        world.double.of("/").len(),
        world.double.of(main.canary).len() + world.double.of(acme.canary).len()
    );

    let (state, log) = (world.gateway.state.clone(), world.gateway.log.clone());
    assert!(world.gateway.stop().success());
    let mut owners = Vec::new();
    for entry in std::fs::read_dir(state.join("tenants")).unwrap() {
        let dir = entry.unwrap().path();
        let bytes = bytes_below(&dir);
        let (of_main, of_acme) = (hits(&bytes, main.canary), hits(&bytes, acme.canary));
        assert!(
            (of_main > 0) != (of_acme > 0),
            "{}: {of_main} and {of_acme}",
            dir.display()
        );
        owners.push(if of_main > 0 { main.slug } else { acme.slug });
        for secret in ["callback", "api-key", "hook", "token"] {
            for side in [main, acme] {
                let secret = format!("{}-{secret}-0123456789", side.canary);
                assert_eq!(hits(&bytes, &secret), 0, "{secret} is in a store");
            }
        }
    }
    owners.sort_unstable();
    assert_eq!(owners, ["acme", "main"]);
    // What belongs to the host itself knows neither's texts.
    let mut host = std::fs::read(state.join("host.sqlite")).unwrap();
    host.extend(std::fs::read(state.join("host.sqlite-wal")).unwrap_or_default());
    let log = std::fs::read(log).unwrap();
    for side in [main, acme] {
        assert_eq!(
            hits(&host, side.canary),
            0,
            "{}",
            around(&host, side.canary)
        );
        for secret in ["callback", "api-key", "hook", "token"] {
            let secret = format!("{}-{secret}-0123456789", side.canary);
            assert_eq!(hits(&log, &secret), 0, "{secret} is in the process log");
        }
        let said = format!("hello of {}", side.canary);
        assert_eq!(hits(&log, &said), 0, "a message is in the process log");
    }
}

/// Replaces what differs between any two answers: uuids, long numbers, times, and the given words.
fn masked(text: &str, words: &[(&str, &str)]) -> String {
    let mut text = text.to_owned();
    for (from, to) in words {
        text = text.replace(from, to);
    }
    // How long a run took.
    let mut parts = text.split("\"durationMs\":");
    let mut timed = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        timed.push_str("\"durationMs\":#");
        timed.push_str(part.trim_start_matches(|c: char| c.is_ascii_digit()));
    }
    let text = timed;
    let mut out = String::with_capacity(text.len());
    let mut word = String::new();
    for c in text.chars().chain(std::iter::once(' ')) {
        if c.is_ascii_hexdigit() || (c == '-' && !word.is_empty()) {
            word.push(c);
            continue;
        }
        let digits = word.chars().filter(|c| *c != '-').count();
        let hex = word.matches('-').count() == 4 && digits == 32;
        let long = word.len() >= 10 && word.chars().all(|c| c.is_ascii_digit());
        out.push_str(if hex || digits >= 24 {
            "#id"
        } else if long {
            "#time"
        } else {
            &word
        });
        word.clear();
        out.push(c);
    }
    out
}

/// Status, sorted headers without date, body: with ids and times masked.
fn shape(reply: &Reply) -> String {
    let mut lines: Vec<&str> = reply
        .head
        .lines()
        .skip(1)
        .filter(|line| !line.starts_with("date:"))
        .collect();
    lines.sort_unstable();
    masked(
        &format!("{}\n{}\n\n{}", reply.status, lines.join("\n"), reply.body),
        &[],
    )
}

/// The first answer to a v4 `connect`, and how the socket ends.
async fn knock(door: &Door, token: &str) -> String {
    let mut socket = open(door, "/", None).await.unwrap();
    let frame =
        json!({"type": "req", "id": "k", "method": "connect", "params": connect_params(token)});
    socket.send(Message::text(frame.to_string())).await.unwrap();
    let mut out = String::new();
    while let Ok(Some(Ok(message))) = tokio::time::timeout(PATIENCE, socket.next()).await {
        match message {
            Message::Text(text) if text.contains("connect.challenge") => {}
            other => out.push_str(&format!("{other:?}\n")),
        }
    }
    masked(&out, &[])
}

/// Everything that a credential can be tried on, at one door.
async fn tries(door: &Door, token: &str, hook_secret: &str) -> Vec<(String, String)> {
    let bearer = [("authorization".to_owned(), format!("Bearer {token}"))];
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "health"}).to_string();
    let chat = json!({"model": "gateway/main", "messages": [{"role": "user", "content": "x"}]})
        .to_string();
    let mut out = vec![("connect".to_owned(), knock(door, token).await)];
    let upgrade = open(door, "/rpc", Some(token)).await;
    out.push((
        "upgrade".into(),
        upgrade.map_or_else(|reply| shape(&reply), |_| "101".to_owned()),
    ));
    for (method, path, body) in [
        ("POST", "/rpc", call.as_str()),
        ("POST", "/v1/chat/completions", chat.as_str()),
        ("GET", "/v1/models", ""),
    ] {
        let reply = http(door, method, path, &bearer, body).await;
        out.push((format!("{method} {path}"), shape(&reply)));
    }
    let secret = [("x-webhook-secret".to_owned(), hook_secret.to_owned())];
    let message = json!({"id": "m", "from": {"id": "u"}, "text": "t", "reply": "hold"}).to_string();
    for account in [
        "default",
        "pairs",
        "of-kanari7q2xvb",
        "of-zeisig4w9ntp",
        "nope",
    ] {
        let path = format!("/channels/webhook/{account}/inbound");
        let reply = http(door, "POST", &path, &secret, &message).await;
        out.push((path, shape(&reply)));
    }
    out
}

/// A credential of one tenant at the door of the other is answered byte for byte like one that nobody has, on every transport; and
/// a door whose host name and path disagree, or whose tenant does not exist, is closed to everybody in the same way.
///
/// Covers: MT2, MT3.
#[tokio::test(flavor = "multi_thread")]
async fn a_credential_at_the_wrong_door_is_unknown() {
    let world = world().await;
    let (main, acme) = (&world.main, &world.acme);
    let port = world.gateway.port;
    let door = |prefix, host| Door { port, prefix, host };
    let unknown = "nobody-has-this-0123456789abcdef0123";
    // (door, whose credential is tried there)
    let cases = [
        (door("/t/acme", None), main),
        (door("", Some("acme.test")), main),
        (door("/t/acme", Some("acme.test")), main),
        (door("/t/main", None), acme),
        (door("/t/main", Some("acme.test")), main),
        (door("/t/main", Some("acme.test")), acme),
        (door("/t/nobody", None), main),
        (door("/t/nobody", None), acme),
        (door("/t/nobody", Some("acme.test")), acme),
    ];
    for (door, side) in &cases {
        let theirs = tries(door, &side.token(), &side.hook_secret()).await;
        let random = tries(door, unknown, unknown).await;
        for ((what, theirs), (_, random)) in theirs.iter().zip(&random) {
            assert_eq!(
                theirs, random,
                "{what} with the credential of {} at {door:?}",
                side.slug
            );
            assert!(
                !theirs.starts_with("101") && !theirs.starts_with("200"),
                "{what} at {door:?}: {theirs}"
            );
        }
    }
    // A tenant that is not there looks like one that is, to somebody with a wrong credential; only the webhooks of the other's own
    // account names differ from those of nobody, and these names are its secrets' business.
    let there = tries(&door("/t/acme", None), unknown, unknown).await;
    let nowhere = tries(&door("/t/nobody", None), unknown, unknown).await;
    for ((what, there), (_, nowhere)) in there.iter().zip(&nowhere) {
        if !what.starts_with("/channels") {
            assert_eq!(there, nowhere, "{what}");
        }
    }
    // And the right credentials do work at these doors.
    for side in [main, acme] {
        for own in &side.doors {
            let answer = side.post(own, "health", &json!({})).await;
            assert!(answer["result"].is_object(), "{own:?}: {answer}");
        }
    }
}

/// A value for a parameter: an id of the chosen set, or the smallest that the schema takes.
fn value_for(name: &str, schema: &Value, doc: &Value, ids: &Ids) -> Value {
    let key = match name {
        "sessionKey" => "key",
        "expectedSessionId" | "expectedExistingSessionId" => "sessionId",
        name => name,
    };
    if let Some(id) = ids.0.get(key) {
        return json!(id);
    }
    match name {
        "channel" => return json!("webhook"),
        "timeoutMs" | "timeout" => return json!(1_000),
        "maxBytes" => return json!(100_000),
        _ => {}
    }
    let mut schema = schema.clone();
    while let Some(target) = schema["$ref"].as_str() {
        schema = doc
            .pointer(target.trim_start_matches('#'))
            .cloned()
            .unwrap_or_default();
    }
    if let Some(any) = schema["anyOf"].as_array().or(schema["oneOf"].as_array()) {
        return value_for(name, &any[0], doc, ids);
    }
    if !schema["const"].is_null() {
        return schema["const"].clone();
    }
    if let Some(first) = schema["enum"].as_array().and_then(|list| list.first()) {
        return first.clone();
    }
    let kind = match &schema["type"] {
        Value::Array(kinds) => kinds[0].as_str().unwrap_or("string").to_owned(),
        kind => kind.as_str().unwrap_or("string").to_owned(),
    };
    match kind.as_str() {
        "integer" | "number" => json!(schema["minimum"].as_u64().unwrap_or(0).max(1)),
        "boolean" => json!(true),
        "array" => json!([]),
        "object" => json!({}),
        _ => json!("x"),
    }
}

/// What a tenant has, as it sees it itself, without what time alone changes.
async fn inventory(side: &Side) -> String {
    let door = &side.doors[0];
    let mut out = String::new();
    for (method, params) in [
        ("sessions.list", json!({"limit": 500})),
        ("channels.pairing.list", json!({})),
        ("outbox.list", json!({})),
        ("chat.history", json!({"sessionKey": "main"})),
        (
            "chat.history",
            json!({"sessionKey": format!("agent:main:{}-0", side.canary)}),
        ),
        ("agents.list", json!({})),
        ("cron.list", json!({"includeDisabled": true})),
        ("cron.runs", json!({})),
        ("node.list", json!({})),
        ("node.pair.list", json!({})),
    ] {
        let answer = side.post(door, method, &params).await;
        assert!(answer["error"].is_null(), "{method}: {answer}");
        out.push_str(&masked(&answer["result"].to_string(), &[]));
        out.push('\n');
    }
    let status = side.post(door, "channels.status", &json!({})).await;
    for row in status["result"]["channelAccounts"]["webhook"]
        .as_array()
        .unwrap()
    {
        out.push_str(&format!("{} {}\n", row["accountId"], row["running"]));
    }
    out
}

/// Every method that `rpc.discover` tells of, each of its parameters that can name a thing, over POST and v4 frames: asked by one
/// tenant with the ids of the other it answers as for ids that nobody has, and the other's things stay as they were.
///
/// Covers: MT5, Z4.
#[tokio::test(flavor = "multi_thread")]
async fn ids_of_another_tenant_are_ids_of_nobody() {
    let world = world().await;
    let ids_of = [
        flow(&world.main, &world.double, 0).await,
        flow(&world.acme, &world.double, 0).await,
    ];
    for (owner, ids, caller) in [
        (&world.main, &ids_of[0], &world.acme),
        (&world.acme, &ids_of[1], &world.main),
    ] {
        let before = inventory(owner).await;
        matrix(owner, ids, caller).await;
        assert_eq!(
            inventory(owner).await,
            before,
            "the things of {} changed",
            owner.slug
        );
        let seen = caller.seen.lock().unwrap().clone();
        // The caller's own questions named these ids, so only what it could not have known counts.
        for word in [
            format!("hello of {}", owner.canary),
            format!("welcome to {}", owner.canary),
            format!("echo: hook held of {}", owner.canary),
            format!("name {}", owner.canary),
            format!("{}-waiting", owner.canary),
            format!("{}-model", owner.canary),
            format!("machine of {}", owner.canary),
        ] {
            assert_eq!(hits(&seen, &word), 0, "{}", around(&seen, &word));
        }
    }
}

async fn matrix(owner: &Side, ids: &Ids, caller: &Side) {
    let door = &caller.doors[0];
    let doc = caller.post(door, "rpc.discover", &json!({})).await["result"].clone();
    // As long and of the same letters as the true ones, and of nobody.
    let nobody = |seed: &str| {
        let swap =
            |text: &str| -> String { text.replace(owner.canary, seed).chars().collect::<String>() };
        Ids(ids
            .0
            .iter()
            .map(|(name, id)| {
                let made = if id.contains(owner.canary) {
                    swap(id)
                } else {
                    // Host-made: digits and letters turned one on.
                    let hex = id.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
                    id.chars()
                        .map(|c| match c {
                            '0'..='8' => char::from(c as u8 + 1),
                            'a'..='e' | 'A'..='E' => char::from(c as u8 + 1),
                            'f'..='y' | 'F'..='Y' if !hex => char::from(c as u8 + 1),
                            c => c,
                        })
                        .collect()
                };
                (*name, made)
            })
            .collect())
    };
    let random = nobody("amsel5k8rjcz");
    let again = nobody("dohle3h6ygmd");
    let words = |ids: &Ids, canary: &str| {
        let mut list: Vec<(String, String)> = ids
            .0
            .iter()
            // Numbers of rows are no words: they are in every uuid.
            .filter(|(_, id)| id.len() >= 6)
            .map(|(name, id)| (id.clone(), format!("#{name}")))
            .collect();
        list.sort_by_key(|(id, _)| std::cmp::Reverse(id.len()));
        list.push((canary.to_owned(), "#canary".to_owned()));
        list
    };
    let mut methods: Vec<Value> = doc["methods"].as_array().unwrap().clone();
    assert!(methods.len() > 25, "{}", methods.len());
    // First those that make nothing, so that the caller has nothing of its own under these names yet.
    let makes = [
        "agent",
        "chat.send",
        "chat.inject",
        "sessions.create",
        "send",
    ];
    methods.sort_by_key(|m| makes.contains(&m["name"].as_str().unwrap()));
    let mut compared = 0;
    let mut told = BTreeMap::new();
    for method in &methods {
        let name = method["name"].as_str().unwrap();
        // `connect` comes once for each socket and has its own test; a key is made anew by each call, with a secret of its own.
        if ["connect", "apikeys.create"].contains(&name) {
            continue;
        }
        let params = method["params"].as_array().unwrap();
        let required: Vec<&Value> = params.iter().filter(|p| p["required"] == true).collect();
        let optional: Vec<Option<&Value>> = std::iter::once(None)
            .chain(params.iter().filter(|p| p["required"] != true).map(Some))
            .collect();
        // Thirty writes of schedules a minute are all that a tenant may make: those that name something.
        let names_something = |param: &Value| {
            let key = match param["name"].as_str().unwrap() {
                "sessionKey" => "key",
                name => name,
            };
            ids.0.contains_key(key)
        };
        let few = name.starts_with("cron.");
        let optional = optional
            .into_iter()
            .filter(|extra| !few || extra.is_none_or(names_something));
        for extra in optional {
            let build = |ids: &Ids| {
                let mut object = serde_json::Map::new();
                for param in required.iter().copied().chain(extra) {
                    let key = param["name"].as_str().unwrap();
                    object.insert(key.into(), value_for(key, &param["schema"], &doc, ids));
                }
                Value::Object(object)
            };
            let mut answers = Vec::new();
            for (set, canary) in [
                (ids, owner.canary),
                (&random, "amsel5k8rjcz"),
                (&again, "dohle3h6ygmd"),
            ] {
                let params = build(set);
                let list = words(set, canary);
                let list: Vec<(&str, &str)> =
                    list.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
                let quiet = Side {
                    slug: caller.slug,
                    canary: caller.canary,
                    doors: Vec::new(),
                    seen: Mutex::default(),
                };
                let post = quiet.post(door, name, &params).await;
                caller.keep(post.to_string().as_bytes());
                let mut ws = Sock::v4(&quiet, door).await;
                let v4 = ws.call(name, params.clone()).await;
                let text = format!("{params}\nPOST {}\nv4 {v4:?}", post);
                answers.push((masked(&text, &list), post["error"]["data"]["code"].clone()));
            }
            assert_eq!(
                steady(name, &answers[1].0),
                steady(name, &answers[2].0),
                "{name}: two ids of nobody differ, the mask is not enough"
            );
            assert_eq!(
                steady(name, &answers[0].0),
                steady(name, &answers[1].0),
                "{name} of {} as {}",
                owner.slug,
                caller.slug
            );
            told.insert(name.to_owned(), answers[0].1.clone());
            compared += 1;
        }
    }
    assert!(compared > 60, "{compared}");
    // The answers are not all one refusal of the caller: most methods said yes or named what they do not know.
    let forbidden = told
        .values()
        .filter(|code| {
            code.as_str()
                .is_some_and(|c| c.contains("SCOPE") || c.contains("AUTH"))
        })
        .count();
    assert_eq!(forbidden, 0, "{told:?}");
}

/// Answers that tell about the gateway as a whole change by themselves (a socket closed a moment ago may still be there): of them only
/// the words count, each once.
fn steady(name: &str, text: &str) -> String {
    let moving = [
        "health",
        "status",
        "system-presence",
        "logs.tail",
        "audit.entries",
        "audit.verify",
        "boot.run",
        "channels.status",
        "sessions.list",
        "outbox.list",
    ];
    if !moving.contains(&name) {
        return text.to_owned();
    }
    if matches!(name, "logs.tail" | "audit.entries" | "audit.verify") {
        // Each call leaves lines itself.
        return String::new();
    }
    let words: BTreeSet<&str> = text
        .split(|c: char| !(c.is_ascii_alphabetic() || c == '#'))
        // The instance of a guest goes when it has had nothing to do for a while.
        .filter(|word| !matches!(*word, "idle" | "running"))
        .filter(|word| word.len() > 3)
        .collect();
    words.into_iter().collect::<Vec<_>>().join(" ")
}
