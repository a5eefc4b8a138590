//! The built-in page in a headless browser.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use gateway_tests::process::{Gateway, guests_dir};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

/// How long one thing in the browser may take before the test gives up; not a performance statement.
const PATIENCE: Duration = Duration::from_secs(60);

/// The page and its files, as they are compiled in.
const SHIPPED: [(&str, &str, &str); 3] = [
    ("/", "text/html", include_str!("../../../web/index.html")),
    (
        "/app.js",
        "text/javascript",
        include_str!("../../../web/app.js"),
    ),
    (
        "/style.css",
        "text/css",
        include_str!("../../../web/style.css"),
    ),
];

/// A headless Chromium with one tab, driven over its debugging socket; dropped = killed.
struct Browser {
    child: Child,
    _profile: tempfile::TempDir,
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    next: u64,
    /// Every event that the browser told, oldest first.
    events: Vec<Value>,
}

impl Browser {
    async fn start() -> Self {
        let binary = ["chromium", "chromium-browser", "google-chrome"]
            .iter()
            .find_map(|name| on_path(name))
            .expect("chromium is missing: `apt-get install -y --no-install-recommends chromium`");
        let profile = tempfile::tempdir().unwrap();
        let child = Command::new(binary)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--disable-dev-shm-usage",
                "--window-size=900,900",
                "--remote-debugging-port=0",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start chromium");
        let told = profile.path().join("DevToolsActivePort");
        let started = Instant::now();
        let port: u16 = loop {
            let text = std::fs::read_to_string(&told).unwrap_or_default();
            if let Some(port) = text.lines().next().and_then(|line| line.parse().ok()) {
                break port;
            }
            assert!(started.elapsed() < PATIENCE, "chromium does not start");
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        let target = loop {
            let (_, body) = get(port, "/json/list").await;
            let list: Value = serde_json::from_str(&body).unwrap_or_default();
            let page = list
                .as_array()
                .into_iter()
                .flatten()
                .find(|t| t["type"] == "page");
            if let Some(url) = page.and_then(|t| t["webSocketDebuggerUrl"].as_str()) {
                break url.to_owned();
            }
            assert!(started.elapsed() < PATIENCE, "chromium opens no tab");
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        let (socket, _) = connect_async(target).await.expect("debugging socket");
        let mut browser = Self {
            child,
            _profile: profile,
            socket,
            next: 0,
            events: Vec::new(),
        };
        for domain in [
            "Page.enable",
            "Runtime.enable",
            "Log.enable",
            "Network.enable",
        ] {
            browser.call(domain, json!({})).await;
        }
        browser
    }

    async fn call(&mut self, method: &str, params: Value) -> Value {
        self.next += 1;
        let id = self.next;
        let text = json!({"id": id, "method": method, "params": params}).to_string();
        self.socket.send(Message::text(text)).await.unwrap();
        loop {
            let message = tokio::time::timeout(PATIENCE, self.socket.next())
                .await
                .expect("the browser answers")
                .expect("the browser lives")
                .unwrap();
            let Message::Text(text) = message else {
                continue;
            };
            let value: Value = serde_json::from_str(text.as_str()).unwrap();
            if value["id"] == id {
                assert!(value["error"].is_null(), "{method}: {}", value["error"]);
                return value["result"].clone();
            }
            if value["method"].is_string() {
                self.events.push(value);
            }
        }
    }

    /// The value of an expression in the page.
    async fn eval(&mut self, script: &str) -> Value {
        let params = json!({"expression": script, "returnByValue": true, "awaitPromise": true});
        let told = self.call("Runtime.evaluate", params).await;
        assert!(
            told["exceptionDetails"].is_null(),
            "{script}: {}",
            told["exceptionDetails"]
        );
        told["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    async fn until(&mut self, script: &str) {
        let started = Instant::now();
        while self.eval(script).await != true {
            if started.elapsed() >= PATIENCE {
                let body = self.eval("document.body?.innerText").await;
                panic!("never true: {script}\nthe page says: {body}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn open(&mut self, url: &str) {
        self.call("Page.navigate", json!({"url": url})).await;
        self.until("document.readyState === 'complete' && !!document.getElementById('token')")
            .await;
    }

    async fn sign_in(&mut self, token: &str) {
        self.typed("token", token).await;
        self.eval("document.getElementById('sign-in-button').click()")
            .await;
    }

    /// Types text as keys would.
    async fn typed(&mut self, field: &str, text: &str) {
        self.eval(&format!("document.getElementById('{field}').focus()"))
            .await;
        self.call("Input.insertText", json!({"text": text})).await;
    }

    async fn say(&mut self, text: &str) {
        self.until("!document.getElementById('send').disabled")
            .await;
        self.typed("draft", text).await;
        self.eval("document.getElementById('send').click()").await;
    }

    /// Keeps a picture where `GATEWAY_SCREENSHOTS` says, for people to look at.
    async fn picture(&mut self, name: &str) {
        let Ok(dir) = std::env::var("GATEWAY_SCREENSHOTS") else {
            return;
        };
        let told = self
            .call("Page.captureScreenshot", json!({"format": "png"}))
            .await;
        let file = PathBuf::from(dir).join(format!("{name}.png.b64"));
        std::fs::write(file, told["data"].as_str().unwrap()).unwrap();
    }

    /// Complaints of the page: exceptions, console errors, refused loads.
    fn complaints(&self) -> Vec<String> {
        let bad = |event: &&Value| match event["method"].as_str().unwrap_or_default() {
            "Runtime.exceptionThrown" => true,
            "Runtime.consoleAPICalled" => {
                matches!(event["params"]["type"].as_str(), Some("error" | "warning"))
            }
            // The browser asks for an icon by itself; there is none.
            "Log.entryAdded" => {
                let entry = &event["params"]["entry"];
                let icon = entry["url"]
                    .as_str()
                    .is_some_and(|url| url.ends_with("/favicon.ico"));
                !icon && matches!(entry["level"].as_str(), Some("error" | "warning"))
            }
            _ => false,
        };
        self.events
            .iter()
            .filter(bad)
            .map(Value::to_string)
            .collect()
    }

    /// Every address that the page asked for.
    fn asked_for(&self) -> Vec<String> {
        self.events
            .iter()
            .filter_map(|event| match event["method"].as_str()? {
                "Network.requestWillBeSent" => event["params"]["request"]["url"].as_str(),
                "Network.webSocketCreated" => event["params"]["url"].as_str(),
                _ => None,
            })
            .map(str::to_owned)
            .collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// Head and body of `GET path`.
async fn get(port: u16, path: &str) -> (String, String) {
    let Ok(mut socket) = TcpStream::connect(("127.0.0.1", port)).await else {
        return (String::new(), String::new());
    };
    let ask = format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n\r\n");
    socket.write_all(ask.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let mut piece = [0; 16_384];
    // The browser's own server keeps the connection open: its length says where the answer ends.
    loop {
        let n = socket.read(&mut piece).await.unwrap_or(0);
        answer.extend_from_slice(&piece[..n]);
        let text = String::from_utf8_lossy(&answer).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_ascii_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length:"))
                .and_then(|n| n.trim().parse().ok());
            if n == 0 || length.is_some_and(|length: usize| body.len() >= length) {
                return (head, body.to_owned());
            }
        } else if n == 0 {
            return (String::new(), String::new());
        }
    }
}

fn start() -> (tempfile::TempDir, Gateway) {
    let dir = tempfile::tempdir().unwrap();
    let guests = guests_dir();
    let gateway = Gateway::start(
        &dir.path().join("state"),
        &["--wasm-dir", guests.to_str().unwrap()],
    );
    (dir, gateway)
}

/// A listener that counts who comes and what they send.
async fn evil() -> (u16, Arc<AtomicUsize>, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (calls, bytes) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counters = (calls.clone(), bytes.clone());
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            counters.0.fetch_add(1, Ordering::SeqCst);
            let bytes = counters.1.clone();
            tokio::spawn(async move {
                let mut piece = [0; 4096];
                while let Ok(n) = socket.read(&mut piece).await {
                    if n == 0 {
                        break;
                    }
                    bytes.fetch_add(n, Ordering::SeqCst);
                }
            });
        }
    });
    (port, calls, bytes)
}

/// Sign in, status, next step, a chat whose streamed answer appears, history after a reload, sign out. What an agent says stays
/// text, and the policy of the page refuses what would make it more.
///
/// Covers: B9.
#[tokio::test(flavor = "multi_thread")]
async fn a_chat_in_the_page() {
    let (_dir, gateway) = start();
    let here = gateway.url();
    let mut browser = Browser::start().await;
    browser.open(&format!("{here}/")).await;
    browser.picture("1-sign-in").await;

    browser.sign_in("a-token-that-nobody-has-0123456789").await;
    browser
        .until("!document.getElementById('sign-in-error').hidden")
        .await;
    let said = browser
        .eval("document.getElementById('sign-in-error').textContent")
        .await;
    assert!(said.as_str().unwrap().contains("Next step"), "{said}");
    assert_eq!(
        browser.eval("document.getElementById('chat').hidden").await,
        true
    );
    browser.picture("2-refused").await;
    // The refused upgrade is an error of the network, and the only one that there may be.
    let refused = browser.complaints();
    assert!(
        refused
            .iter()
            .all(|c| c.contains("/rpc") && c.contains("Authentication failed")),
        "{refused:#?}"
    );
    let before = browser.events.len();

    browser.sign_in(&gateway.token()).await;
    browser
        .until("document.getElementById('state').dataset.state === 'open'")
        .await;
    browser
        .until("document.getElementById('status-list').innerText.includes('webhook/default')")
        .await;
    let status = browser
        .eval("document.getElementById('status-list').innerText")
        .await;
    assert!(
        status.as_str().unwrap().contains("Health") && status.as_str().unwrap().contains("ok"),
        "{status}"
    );
    browser
        .until("document.getElementById('next-step').innerText.length > 20")
        .await;
    // The boot script has spoken in the same session.
    browser
        .until("document.getElementById('messages').innerText.includes('The gateway is up')")
        .await;

    browser.say("hello from the page").await;
    browser
        .until(
            "document.querySelector('#messages li[data-role=assistant][data-state=done]')?.textContent === 'echo: hello from the page'",
        )
        .await;

    let hostile = r#"<img src=x onerror="window.pwned=1"><script>window.pwned=2</script><a href="javascript:pwned=3">x</a>"#;
    browser.say(hostile).await;
    browser
        .until("[...document.querySelectorAll('#messages li[data-state=done]')].at(-1)?.textContent.startsWith('echo: <img')")
        .await;
    assert_eq!(
        browser
            .eval("document.querySelectorAll('#messages li *').length")
            .await,
        0
    );
    assert_eq!(browser.eval("typeof window.pwned").await, "undefined");
    browser.picture("3-chat").await;

    // The same page again: the tab keeps the token and the gateway keeps the talk.
    browser.open(&format!("{here}/")).await;
    browser
        .until(
            "document.getElementById('messages').innerText.includes('echo: hello from the page')",
        )
        .await;
    assert_eq!(
        browser
            .eval("document.querySelectorAll('#messages li *').length")
            .await,
        0
    );
    assert_eq!(browser.eval("typeof window.pwned").await, "undefined");
    assert_eq!(browser.eval("localStorage.length").await, 0);
    assert_eq!(browser.eval("document.cookie").await, "");

    let noise: Vec<String> = browser
        .complaints()
        .into_iter()
        .skip(refused.len())
        .collect();
    assert!(noise.is_empty(), "{noise:#?}");
    let asked = browser.asked_for();
    let ours = [
        here.clone(),
        here.replace("http://", "ws://"),
        "about:".into(),
    ];
    assert!(
        browser.events.len() > before && asked.len() > 4,
        "{asked:?}"
    );
    for url in &asked {
        assert!(
            ours.iter().any(|own| url.starts_with(own.as_str())),
            "{url}"
        );
    }

    // What the policy refuses, tried from inside of the page.
    let tries = [
        "(() => { try { document.body.innerHTML = '<b>x</b>'; return 'set' } catch { return 'refused' } })()",
        "(() => { try { return String((0, eval)('1+1')) } catch { return 'refused' } })()",
        "new Promise((r) => { const s = document.createElement('img'); s.onload = () => r('loaded'); s.onerror = () => r('refused'); s.src = 'http://127.0.0.2:9/x.png' })",
        "(() => { window.inline = 0; try { const a = document.createElement('div'); a.setAttribute('onclick', 'window.inline = 1'); document.body.append(a); a.click() } catch { return 'refused' } return window.inline ? 'ran' : 'refused' })()",
        "fetch('http://127.0.0.2:9/').then(() => 'fetched', () => 'refused')",
    ];
    for script in tries {
        // `Runtime.evaluate` may itself evaluate; what it runs is bound by the page's policy.
        let params = json!({"expression": script, "returnByValue": true, "awaitPromise": true, "allowUnsafeEvalBlockedByCSP": false});
        let told = browser.call("Runtime.evaluate", params).await;
        assert_eq!(told["result"]["value"], "refused", "{script}: {told}");
    }

    browser
        .eval("document.getElementById('sign-out').click()")
        .await;
    browser
        .until("!document.getElementById('sign-in').hidden && document.getElementById('messages').childElementCount === 0")
        .await;
    assert_eq!(browser.eval("sessionStorage.length").await, 0);
}

/// An address in the query or the fragment is nothing to the page: whoever listens there gets no connection, and the page works.
///
/// Covers: B1.
#[tokio::test(flavor = "multi_thread")]
async fn the_page_talks_with_nobody_else() {
    let (_dir, gateway) = start();
    let (port, calls, bytes) = evil().await;
    let mut browser = Browser::start().await;
    let mut spoken = 0;
    for place in [
        format!("/?gatewayUrl=ws://127.0.0.1:{port}"),
        format!("/?gatewayUrl=ws%3A%2F%2F127.0.0.1%3A{port}&autoConnect=1"),
        format!("/?gateway=ws://127.0.0.1:{port}&url=ws://127.0.0.1:{port}&ws=127.0.0.1:{port}"),
        format!("/#gatewayUrl=ws://127.0.0.1:{port}"),
        format!("/?session=main#token=x&gatewayUrl=ws://127.0.0.1:{port}"),
    ] {
        browser.open(&format!("{}{place}", gateway.url())).await;
        if spoken == 0 {
            browser.sign_in(&gateway.token()).await;
        }
        browser
            .until("document.getElementById('state').dataset.state === 'open'")
            .await;
        spoken += 1;
        let text = format!("number {spoken}");
        browser.say(&text).await;
        browser
            .until(&format!(
                "document.getElementById('messages').innerText.includes('echo: {text}')"
            ))
            .await;
    }
    let sockets: Vec<String> = browser
        .asked_for()
        .into_iter()
        .filter(|url| url.starts_with("ws"))
        .collect();
    assert!(sockets.len() >= spoken, "{sockets:?}");
    assert!(
        sockets
            .iter()
            .all(|url| url == &format!("ws://127.0.0.1:{}/rpc", gateway.port)),
        "{sockets:?}"
    );
    assert_eq!(
        (calls.load(Ordering::SeqCst), bytes.load(Ordering::SeqCst)),
        (0, 0)
    );

    // The listener does count: a connection of ours is seen.
    let mut probe = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    probe.write_all(b"probe").await.unwrap();
    let started = Instant::now();
    while bytes.load(Ordering::SeqCst) < 5 {
        assert!(started.elapsed() < PATIENCE, "the listener counts nothing");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The served bytes are the shipped ones, under a policy that names no other place, and hold no address of another server.
///
/// Covers: B9, B11.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_served_names_no_other_server() {
    let (_dir, gateway) = start();
    for (path, kind, shipped) in SHIPPED {
        let (head, body) = get(gateway.port, path).await;
        assert!(head.starts_with("http/1.1 200"), "{path}: {head}");
        assert_eq!(body, shipped, "{path}");
        let header = |name: &str| {
            let mut found = head
                .lines()
                .filter_map(|line| line.strip_prefix(&format!("{name}: ")));
            let value = found.next().unwrap_or_default().to_owned();
            assert!(found.next().is_none(), "{path}: {name} is there twice");
            value
        };
        assert!(header("content-type").starts_with(kind), "{path}: {head}");
        assert_eq!(header("x-content-type-options"), "nosniff");
        assert_eq!(header("cross-origin-opener-policy"), "same-origin");
        assert_eq!(header("cross-origin-resource-policy"), "same-origin");
        assert_eq!(header("referrer-policy"), "no-referrer");
        let policy = header("content-security-policy");
        let rules: Vec<&str> = policy.split(';').map(str::trim).collect();
        for wanted in [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
        ] {
            assert!(
                rules.contains(&wanted),
                "{path}: {wanted} is not in {policy}"
            );
        }
        for bad in [
            "unsafe", "*", "http:", "https:", "data:", "blob:", "nonce", "sha256",
        ] {
            assert!(!policy.contains(bad), "{path}: {bad} in {policy}");
        }
        for bad in [
            "://",
            "src=\"//",
            "href=\"//",
            "@import",
            "url(",
            "import(",
            "importScripts",
        ] {
            assert!(!body.contains(bad), "{path} holds {bad}");
        }
    }
}
