//! A WebSocket client that speaks OpenClaw v4 frames and hides nothing.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, client_async, connect_async};

/// How long the client waits for one frame; not a performance statement.
const PATIENCE: Duration = Duration::from_secs(30);

/// One connection.
pub struct Ws {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    next_id: u64,
    /// Events that arrived while an answer was awaited, oldest first.
    pub events: VecDeque<Value>,
    /// hello-ok.
    pub hello: Value,
    /// Every byte that arrived, as text.
    pub received: String,
    /// Code and reason of the server's close frame, once it came.
    pub closed: Option<(u16, String)>,
}

impl Ws {
    /// Opens `ws://127.0.0.1:port{path}` and shakes hands as `cli` with `token` and all operator scopes.
    ///
    /// # Errors
    /// The error object of a refused handshake.
    pub async fn connect(port: u16, path: &str, token: &str) -> Result<Self, Value> {
        Self::connect_with(port, path, Self::params(token)).await
    }

    fn params(token: &str) -> Value {
        json!({
            "minProtocol": 4, "maxProtocol": 4,
            "client": {"id": "cli", "version": "1.0.0", "platform": "linux", "mode": "cli"},
            "role": "operator",
            "scopes": ["operator.admin", "operator.read", "operator.write", "operator.approvals", "operator.pairing"],
            "caps": ["tool-events"],
            "auth": {"token": token},
        })
    }

    /// The same from another address of this machine: what is counted for each address begins anew.
    ///
    /// # Errors
    /// The error object of a refused handshake.
    pub async fn connect_from(from: Ipv4Addr, port: u16, token: &str) -> Result<Self, Value> {
        let transport = |error: &dyn std::fmt::Display| json!({"transport": error.to_string()});
        let tcp = async {
            let socket = tokio::net::TcpSocket::new_v4()?;
            socket.bind((from, 0).into())?;
            socket.connect((Ipv4Addr::LOCALHOST, port).into()).await
        };
        let tcp = tcp.await.map_err(|e| transport(&e))?;
        let address = format!("ws://127.0.0.1:{port}/");
        let (socket, _) = client_async(address, MaybeTlsStream::Plain(tcp))
            .await
            .map_err(|e| transport(&e))?;
        Self::greeted(socket, Self::params(token)).await
    }

    /// The same with chosen connect params.
    ///
    /// # Errors
    /// The error object of a refused handshake.
    pub async fn connect_with(port: u16, path: &str, params: Value) -> Result<Self, Value> {
        let (socket, _) = connect_async(format!("ws://127.0.0.1:{port}{path}"))
            .await
            .map_err(|error| json!({"transport": error.to_string()}))?;
        Self::greeted(socket, params).await
    }

    async fn greeted(
        socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
        params: Value,
    ) -> Result<Self, Value> {
        let mut ws = Self {
            socket,
            next_id: 0,
            events: VecDeque::new(),
            hello: Value::Null,
            received: String::new(),
            closed: None,
        };
        let challenge = ws
            .frame()
            .await
            .ok_or_else(|| json!("closed before the challenge"))?;
        assert_eq!(challenge["event"], "connect.challenge");
        ws.hello = ws.call("connect", params).await?;
        Ok(ws)
    }

    /// Next frame of any kind; `None` when the server closed.
    pub async fn frame(&mut self) -> Option<Value> {
        loop {
            let message = tokio::time::timeout(PATIENCE, self.socket.next())
                .await
                .expect("a frame in time")?;
            match message {
                Ok(Message::Text(text)) => {
                    self.received.push_str(text.as_str());
                    self.received.push('\n');
                    return Some(serde_json::from_str(text.as_str()).expect("frames are JSON"));
                }
                Ok(Message::Close(frame)) => {
                    self.closed = frame.map(|f| (f.code.into(), f.reason.as_str().to_owned()));
                    return None;
                }
                Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// Sends a request and returns its id.
    pub async fn send(&mut self, method: &str, params: Value) -> String {
        self.next_id += 1;
        let id = format!("t-{}", self.next_id);
        let frame = json!({"type": "req", "id": id, "method": method, "params": params});
        let _ = self.socket.send(Message::text(frame.to_string())).await;
        id
    }

    /// The next response to `id`; events on the way are kept.
    ///
    /// # Errors
    /// The error object of the response, or a text when the connection ended.
    pub async fn answer(&mut self, id: &str) -> Result<Value, Value> {
        loop {
            let Some(frame) = self.frame().await else {
                return Err(json!("connection closed"));
            };
            if frame["type"] == "event" {
                self.events.push_back(frame);
            } else if frame["id"] == id {
                return if frame["ok"] == true {
                    Ok(frame["payload"].clone())
                } else {
                    Err(frame["error"].clone())
                };
            }
        }
    }

    /// Request and final answer.
    ///
    /// # Errors
    /// As [`Ws::answer`].
    pub async fn call(&mut self, method: &str, params: Value) -> Result<Value, Value> {
        let id = self.send(method, params).await;
        self.answer(&id).await
    }

    /// The next event that `wanted` accepts; others are dropped.
    pub async fn event(&mut self, mut wanted: impl FnMut(&Value) -> bool) -> Option<Value> {
        while let Some(event) = self.events.pop_front() {
            if wanted(&event) {
                return Some(event);
            }
        }
        loop {
            let frame = self.frame().await?;
            if frame["type"] == "event" && wanted(&frame) {
                return Some(frame);
            }
        }
    }

    /// Closes the socket.
    pub async fn close(mut self) {
        let _ = self.socket.close(None).await;
    }
}
