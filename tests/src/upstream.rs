//! A double of an OpenAI-compatible server: one model, perhaps a key, and everything that it was asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

/// One request.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Its path.
    pub path: String,
    /// Its header lines, in lower case but for their values.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: Value,
}

impl Asked {
    /// The value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(n, _)| n == name)?;
        Some(value)
    }
}

struct Inner {
    key: Option<String>,
    model: String,
    answer: String,
    held: AtomicBool,
    asked: Mutex<Vec<Asked>>,
}

/// The running double. Its threads end with the test program.
pub struct Upstream {
    port: u16,
    inner: Arc<Inner>,
}

impl Upstream {
    /// Starts it on a free port of loopback.
    #[must_use]
    pub fn start(key: Option<&str>, model: &str, answer: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let inner = Arc::new(Inner {
            key: key.map(str::to_owned),
            model: model.to_owned(),
            answer: answer.to_owned(),
            held: AtomicBool::new(false),
            asked: Mutex::default(),
        });
        let shared = inner.clone();
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let inner = shared.clone();
                std::thread::spawn(move || serve(&socket, &inner));
            }
        });
        Self { port, inner }
    }

    /// `http://127.0.0.1:PORT/v1`
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/v1", self.port)
    }

    /// Whether completions wait.
    pub fn hold(&self, held: bool) {
        self.inner.held.store(held, Ordering::SeqCst);
    }

    /// All requests so far.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        self.inner.asked.lock().unwrap().clone()
    }

    /// How many completions it was asked for.
    #[must_use]
    pub fn completions(&self) -> usize {
        let asked = self.asked();
        asked
            .iter()
            .filter(|a| a.path.ends_with("/chat/completions"))
            .count()
    }
}

fn serve(socket: &TcpStream, inner: &Inner) {
    let mut reader = BufReader::new(socket);
    while let Some(asked) = read(&mut reader) {
        inner.asked.lock().unwrap().push(asked.clone());
        while inner.held.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(10));
        }
        if answer(socket, inner, &asked).is_err() {
            return;
        }
    }
}

fn read(reader: &mut BufReader<&TcpStream>) -> Option<Asked> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
    let path = line.split(' ').nth(1)?.to_owned();
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = headers
        .iter()
        .find(|(name, _)| name == "content-length")
        .map_or(0, |(_, value)| value.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    Some(Asked {
        path,
        headers,
        body,
    })
}

fn answer(mut socket: &TcpStream, inner: &Inner, asked: &Asked) -> std::io::Result<()> {
    let mut tell = |line: &str, kind: &str, body: &str| {
        let head = format!(
            "HTTP/1.1 {line}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        socket.write_all(format!("{head}{body}").as_bytes())
    };
    let error = |why: &str| json!({ "error": { "message": why } }).to_string();
    let wanted = inner.key.as_ref().map(|key| format!("Bearer {key}"));
    if wanted.is_some() && asked.header("authorization") != wanted.as_deref() {
        return tell("401 Unauthorized", "application/json", &error("wrong key"));
    }
    if asked.path.ends_with("/models") {
        let list = json!({ "data": [{ "id": inner.model }, { "id": "another-model" }] });
        return tell("200 OK", "application/json", &list.to_string());
    }
    if asked.body["model"] != inner.model.as_str() {
        let why = format!("the model {} does not exist", asked.body["model"]);
        return tell("404 Not Found", "application/json", &error(&why));
    }
    let chunk = |delta: Value, finish: Value| {
        let choice = json!({ "index": 0, "delta": delta, "finish_reason": finish });
        let chunk = json!({ "model": inner.model, "choices": [choice] });
        format!("data: {chunk}\n\n")
    };
    let events = [
        chunk(json!({ "content": inner.answer }), Value::Null),
        chunk(json!({}), json!("stop")),
        "data: [DONE]\n\n".to_owned(),
    ];
    tell("200 OK", "text/event-stream", &events.concat())
}
