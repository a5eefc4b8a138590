//! A double of the Bot API, made from its published description: long polling, sending, editing, faults on request.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Notify;

/// What the double did for one `sendMessage` or `editMessageText`.
#[derive(Debug, Clone)]
pub struct Sent {
    /// Chat that it went to.
    pub chat_id: i64,
    /// Topic of a forum group.
    pub thread_id: Option<i64>,
    /// Text as it stands after all edits.
    pub text: String,
    /// How often it was edited.
    pub edits: usize,
}

#[derive(Default)]
struct State {
    updates: VecDeque<Value>,
    next_update: i64,
    confirmed: i64,
    /// Updates that are handed out a second time although they were confirmed.
    repeats: VecDeque<Value>,
    sent: BTreeMap<i64, Sent>,
    next_message: i64,
    calls: BTreeMap<String, usize>,
    wrong_token: usize,
    rate_limit_next: usize,
    delay: Duration,
}

/// The running double; it stops with the runtime that it was started on.
#[derive(Clone)]
pub struct BotApi {
    state: Arc<Mutex<State>>,
    arrived: Arc<Notify>,
    /// Address that it listens on.
    pub addr: SocketAddr,
    token: String,
}

impl BotApi {
    /// Starts it on a free loopback port; only paths with `token` are answered.
    pub async fn start(token: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api = Self {
            state: Arc::new(Mutex::new(State {
                next_update: 1000,
                next_message: 1,
                ..State::default()
            })),
            arrived: Arc::new(Notify::new()),
            addr: listener.local_addr().unwrap(),
            token: token.to_owned(),
        };
        let serving = api.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let api = serving.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let api = api.clone();
                        async move { Ok::<_, Infallible>(api.answer(request).await) }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .timer(TokioTimer::new())
                        .serve_connection(TokioIo::new(socket), service)
                        .await;
                });
            }
        });
        api
    }

    /// The update that [`BotApi::push_text`] made, to be handed out again.
    #[must_use]
    pub fn update_of(&self, id: i64, chat: i64, chat_type: &str, user: i64, text: &str) -> Value {
        let mut update = json!({
            "update_id": id,
            "message": {
                "message_id": id, "date": 1_700_000_000 + id, "text": text,
                "chat": {"id": chat, "type": chat_type},
                "from": {"id": user, "is_bot": false, "first_name": format!("user{user}")},
            },
        });
        if let Some(length) = text
            .split_whitespace()
            .next()
            .filter(|word| word.starts_with('@'))
            .map(str::len)
        {
            update["message"]["entities"] =
                json!([{"type": "mention", "offset": 0, "length": length}]);
        }
        update
    }

    /// Queues a text message of `user` in `chat` and returns its update id.
    pub fn push_text(&self, chat: i64, chat_type: &str, user: i64, text: &str) -> i64 {
        let mut state = self.state.lock().unwrap();
        let id = state.next_update;
        state.next_update += 1;
        state
            .updates
            .push_back(self.update_of(id, chat, chat_type, user, text));
        drop(state);
        self.arrived.notify_waiters();
        id
    }

    /// Hands out an update again that was handed out before.
    pub fn repeat(&self, update: Value) {
        self.state.lock().unwrap().repeats.push_back(update);
        self.arrived.notify_waiters();
    }

    /// All updates that are still unconfirmed.
    pub fn pending(&self) -> usize {
        self.state.lock().unwrap().updates.len()
    }

    /// The messages that reached the platform, by message id.
    pub fn sent(&self) -> BTreeMap<i64, Sent> {
        self.state.lock().unwrap().sent.clone()
    }

    /// How often each API method was called.
    pub fn calls(&self) -> BTreeMap<String, usize> {
        self.state.lock().unwrap().calls.clone()
    }

    /// Requests that came with another token.
    pub fn wrong_token(&self) -> usize {
        self.state.lock().unwrap().wrong_token
    }

    /// The next `n` sends are answered 429 with `retry_after` 1.
    pub fn rate_limit_next(&self, n: usize) {
        self.state.lock().unwrap().rate_limit_next = n;
    }

    /// Holds the answer of each send for so long, after the message was stored: the window between a request and its result.
    pub fn delay_sends(&self, delay: Duration) {
        self.state.lock().unwrap().delay = delay;
    }

    async fn answer(&self, request: Request<hyper::body::Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path().to_owned();
        let query = request.uri().query().unwrap_or("").to_owned();
        let body = request
            .into_body()
            .collect()
            .await
            .map(|body| body.to_bytes())
            .unwrap_or_default();
        let Some(method) = path.strip_prefix(&format!("/bot{}/", self.token)) else {
            self.state.lock().unwrap().wrong_token += 1;
            return reply(
                401,
                &json!({"ok": false, "error_code": 401, "description": "Unauthorized"}),
            );
        };
        let mut params: Value = serde_json::from_slice(&body).unwrap_or_else(|_| json!({}));
        for (key, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            params[key] = value
                .parse::<i64>()
                .map_or_else(|_| json!(value), |number| json!(number));
        }
        *self
            .state
            .lock()
            .unwrap()
            .calls
            .entry(method.to_owned())
            .or_default() += 1;
        match method {
            "getMe" => ok(
                json!({"id": 4242, "is_bot": true, "first_name": "Gate", "username": "gate_bot"}),
            ),
            "setWebhook" | "deleteWebhook" => ok(json!(true)),
            "getUpdates" => self.updates(&params).await,
            "sendMessage" => self.send(&params).await,
            "editMessageText" => self.edit(&params).await,
            _ => reply(
                404,
                &json!({"ok": false, "error_code": 404, "description": "Not Found"}),
            ),
        }
    }

    async fn updates(&self, params: &Value) -> Response<Full<Bytes>> {
        let offset = params["offset"].as_i64().unwrap_or(0);
        let timeout = Duration::from_secs(params["timeout"].as_u64().unwrap_or(0).min(25));
        let deadline = tokio::time::Instant::now() + timeout;
        loop {
            let arrived = self.arrived.notified();
            tokio::pin!(arrived);
            arrived.as_mut().enable();
            {
                let mut state = self.state.lock().unwrap();
                state.confirmed = state.confirmed.max(offset);
                let confirmed = state.confirmed;
                state
                    .updates
                    .retain(|update| update["update_id"].as_i64().unwrap() >= confirmed);
                let mut batch: Vec<Value> = state.repeats.drain(..).collect();
                batch.extend(state.updates.iter().take(20).cloned());
                if !batch.is_empty() {
                    return ok(Value::Array(batch));
                }
            }
            if tokio::time::timeout_at(deadline, arrived).await.is_err() {
                return ok(json!([]));
            }
        }
    }

    async fn send(&self, params: &Value) -> Response<Full<Bytes>> {
        let (Some(chat_id), Some(text)) = (params["chat_id"].as_i64(), params["text"].as_str())
        else {
            return reply(
                400,
                &json!({"ok": false, "error_code": 400, "description": "Bad Request: chat_id and text"}),
            );
        };
        let (id, delay) = {
            let mut state = self.state.lock().unwrap();
            if state.rate_limit_next > 0 {
                state.rate_limit_next -= 1;
                return reply(
                    429,
                    &json!({"ok": false, "error_code": 429, "description": "Too Many Requests: retry after 1", "parameters": {"retry_after": 1}}),
                );
            }
            let id = state.next_message;
            state.next_message += 1;
            let thread_id = params["message_thread_id"].as_i64();
            state.sent.insert(
                id,
                Sent {
                    chat_id,
                    thread_id,
                    text: text.to_owned(),
                    edits: 0,
                },
            );
            (id, state.delay)
        };
        tokio::time::sleep(delay).await;
        ok(
            json!({"message_id": id, "date": 1_700_000_000, "chat": {"id": chat_id, "type": "private"}, "text": text}),
        )
    }

    async fn edit(&self, params: &Value) -> Response<Full<Bytes>> {
        let (Some(id), Some(text)) = (params["message_id"].as_i64(), params["text"].as_str())
        else {
            return reply(
                400,
                &json!({"ok": false, "error_code": 400, "description": "Bad Request: message_id and text"}),
            );
        };
        let mut state = self.state.lock().unwrap();
        match state.sent.get_mut(&id) {
            Some(sent) if sent.text == text => reply(
                400,
                &json!({"ok": false, "error_code": 400, "description": "Bad Request: message is not modified"}),
            ),
            Some(sent) => {
                sent.text = text.to_owned();
                sent.edits += 1;
                ok(
                    json!({"message_id": id, "date": 1_700_000_000, "chat": {"id": sent.chat_id, "type": "private"}, "text": text}),
                )
            }
            None => reply(
                400,
                &json!({"ok": false, "error_code": 400, "description": "Bad Request: message to edit not found"}),
            ),
        }
    }
}

fn ok(result: Value) -> Response<Full<Bytes>> {
    reply(200, &json!({"ok": true, "result": result}))
}

fn reply(status: u16, body: &Value) -> Response<Full<Bytes>> {
    Response::builder()
        .status(status)
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body.to_string())))
        .unwrap()
}
