//! The recipe for a public certificate, with real nginx and the file in `deploy/`.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use gateway_tests::process::{Gateway, guests_dir};
use gateway_tests::ws::Ws;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::Message;

use crate::deploy::{deploy, get};
use crate::discovery::Nets;

/// How long a test waits for something to happen; not a performance statement.
const PATIENCE: Duration = Duration::from_secs(60);
/// The name in the shipped file.
const NAME: &str = "gw.example.org";

/// A running nginx; dropped = ended.
struct Nginx {
    child: Child,
    port: u16,
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn nginx_program() -> Option<PathBuf> {
    let program =
        std::env::var_os("GATEWAY_NGINX").map_or_else(|| PathBuf::from("nginx"), PathBuf::from);
    let there = Command::new(&program)
        .arg("-v")
        .stderr(Stdio::null())
        .status();
    if there.is_ok_and(|s| s.success()) {
        return Some(program);
    }
    eprintln!("!!! LEFT OUT: there is no nginx (`cargo xtask tools` gets it)");
    None
}

/// Replaces what must be there exactly once.
fn once(text: &str, from: &str, to: &str) -> String {
    assert_eq!(text.matches(from).count(), 1, "{from}");
    text.replace(from, to)
}

impl Nginx {
    /// nginx with the shipped file: only addresses, ports and paths are this test's.
    fn start(program: &Path, dir: &Path, gateway: u16, cert: &Path, key: &Path) -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let shipped = deploy("nginx/gateway.conf");
        let site = once(
            &shipped,
            "listen 443 ssl;",
            &format!("listen 127.0.0.1:{port} ssl;"),
        );
        let site = once(&site, "127.0.0.1:18789", &format!("127.0.0.1:{gateway}"));
        let paths = "/etc/letsencrypt/live/gw.example.org";
        let site = once(
            &site,
            &format!("{paths}/fullchain.pem"),
            cert.to_str().unwrap(),
        );
        let site = once(
            &site,
            &format!("{paths}/privkey.pem"),
            key.to_str().unwrap(),
        );
        std::fs::write(dir.join("site.conf"), site).unwrap();
        let at = dir.display();
        let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|kind| format!("{kind}_temp_path {at}/{kind};\n"))
            .collect();
        let main = dir.join("nginx.conf");
        let text = format!(
            "daemon off;\nmaster_process off;\npid {at}/nginx.pid;\nerror_log {at}/error.log;\nevents {{}}\nhttp {{\naccess_log off;\n{temp}include {at}/site.conf;\n}}\n"
        );
        std::fs::write(&main, text).unwrap();
        let command = || {
            let mut command = Command::new(program);
            command.arg("-p").arg(dir).arg("-c").arg(&main);
            command.arg("-e").arg(dir.join("error.log"));
            command.stdin(Stdio::null()).stdout(Stdio::null());
            command
        };
        let tested = command().arg("-t").output().unwrap();
        let said = String::from_utf8_lossy(&tested.stderr).into_owned();
        assert!(tested.status.success(), "{said}");
        let child = command().stderr(Stdio::null()).spawn().unwrap();
        let nginx = Self { child, port };
        let begun = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(begun.elapsed() < PATIENCE, "nginx does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        nginx
    }
}

/// A certificate for [`NAME`] that an authority made for this test vouches for; gives the authority's.
fn certificate(cert: &Path, key: &Path) -> rustls::pki_types::CertificateDer<'static> {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root = authority.self_signed(&authority_key).unwrap();
    let own_key = rcgen::KeyPair::generate().unwrap();
    let own = rcgen::CertificateParams::new(vec![NAME.to_owned()]).unwrap();
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let own = own.signed_by(&own_key, &issuer).unwrap();
    std::fs::write(cert, pem("CERTIFICATE", own.der())).unwrap();
    std::fs::write(key, pem("PRIVATE KEY", &own_key.serialize_der())).unwrap();
    root.der().clone()
}

fn pem(kind: &str, der: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for (n, three) in der.chunks(3).enumerate() {
        if n % 16 == 0 {
            text.push('\n');
        }
        let bits = three
            .iter()
            .chain([0, 0].iter())
            .take(3)
            .fold(0_usize, |all, byte| all << 8 | usize::from(*byte));
        for place in 0..4 {
            text.push(match place > three.len() {
                true => '=',
                false => char::from(DIGITS[bits >> (18 - 6 * place) & 63]),
            });
        }
    }
    format!("-----BEGIN {kind}-----{text}\n-----END {kind}-----\n")
}

/// A client elsewhere, which knows the authority and the name and nothing else.
struct Outside {
    connector: tokio_rustls::TlsConnector,
    port: u16,
}

impl Outside {
    fn new(root: rustls::pki_types::CertificateDer<'static>, port: u16) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(root).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self {
            connector: tokio_rustls::TlsConnector::from(Arc::new(config)),
            port,
        }
    }

    async fn connect(&self) -> TlsStream<TcpStream> {
        let tcp = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let name = ServerName::try_from(NAME).unwrap();
        self.connector.connect(name, tcp).await.unwrap()
    }

    /// One request on a connection of its own; the whole answer.
    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> String {
        let mut stream = self.connect().await;
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {NAME}\r\nconnection: close\r\n");
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += &format!("content-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        let _ = tokio::time::timeout(PATIENCE, read).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// A WebSocket on which the handshake of the protocol went well.
    async fn socket(&self, token: &str) -> Socket {
        let request = http::Request::builder()
            .uri(format!("wss://{NAME}/"))
            .header("host", NAME)
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            // A claim to be local: the proxy overwrites it.
            .header("x-forwarded-for", "127.0.0.1")
            .body(())
            .unwrap();
        let stream = self.connect().await;
        let (stream, _) = tokio_tungstenite::client_async(request, stream)
            .await
            .unwrap();
        let mut socket = Socket(stream);
        let challenge = socket.frame().await;
        assert_eq!(challenge["event"], "connect.challenge", "{challenge}");
        let hello = socket
            .call(
                "connect",
                json!({
                    "minProtocol": 4, "maxProtocol": 4,
                    "client": {"id": "cli", "version": "1.0.0", "platform": "linux", "mode": "cli"},
                    "role": "operator",
                    "scopes": ["operator.admin", "operator.read", "operator.write"],
                    "auth": {"token": token},
                }),
            )
            .await;
        assert_eq!(hello["ok"], true, "{hello}");
        socket
    }
}

struct Socket(tokio_tungstenite::WebSocketStream<TlsStream<TcpStream>>);

impl Socket {
    async fn frame(&mut self) -> Value {
        loop {
            let message = tokio::time::timeout(PATIENCE, self.0.next()).await;
            match message.unwrap().unwrap().unwrap() {
                Message::Text(text) => return serde_json::from_str(text.as_str()).unwrap(),
                Message::Close(close) => panic!("closed: {close:?}"),
                _ => {}
            }
        }
    }

    async fn call(&mut self, method: &str, params: Value) -> Value {
        let frame = json!({"type": "req", "id": method, "method": method, "params": params});
        self.0.send(Message::text(frame.to_string())).await.unwrap();
        loop {
            let frame = self.frame().await;
            if frame["id"] == method {
                return frame;
            }
        }
    }
}

/// The recipe of docs/deploy.md with real nginx and the shipped file: HTTPS under a public name, WebSocket, OpenAI's API with a
/// stream, webhooks. Before the proxy is named in the configuration it is refused; after that, who comes through it is not taken
/// for somebody on this machine.
///
/// Covers: A15.
#[test]
fn nginx_with_a_certificate_stands_before_the_gateway() {
    let Some(program) = nginx_program() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let guests = guests_dir();
    let gateway = Gateway::start(
        &dir.path().join("state"),
        &["--wasm-dir", guests.to_str().unwrap()],
    );
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let root = certificate(&cert, &key);
    let place = dir.path().join("nginx");
    std::fs::create_dir(&place).unwrap();
    let nginx = Nginx::start(&program, &place, gateway.port, &cert, &key);
    let outside = Outside::new(root, nginx.port);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(through(&gateway, &outside));
}

fn set(gateway: &Gateway, path: &str, value: &str) {
    let (ok, _, err) = gateway.cli(&["config", "set", path, value]);
    assert!(ok, "{path}: {err}");
}

async fn through(gateway: &Gateway, outside: &Outside) {
    let token = gateway.token();
    let bearer = format!("Bearer {token}");
    let refused = outside.ask("GET", "/healthz", &[], "").await;
    assert!(refused.starts_with("HTTP/1.1 403"), "{refused}");
    assert!(refused.contains("gateway.trustedProxies"), "{refused}");
    set(gateway, "gateway.trustedProxies", "[\"127.0.0.1\"]");
    set(gateway, "gateway.allowedHosts", &format!("[\"{NAME}\"]"));
    let begun = Instant::now();
    loop {
        let answer = outside.ask("GET", "/healthz", &[], "").await;
        if answer.starts_with("HTTP/1.1 200") {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{answer}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    // OpenAI's API, whole and as a stream; no credential, no answer.
    let models = outside
        .ask("GET", "/v1/models", &[("authorization", &bearer)], "")
        .await;
    assert!(models.starts_with("HTTP/1.1 200"), "{models}");
    assert!(models.contains("\"object\":\"list\""), "{models}");
    let stranger = outside.ask("GET", "/v1/models", &[], "").await;
    assert!(stranger.starts_with("HTTP/1.1 401"), "{stranger}");
    let ask = json!({"model": "openclaw", "stream": true, "messages": [{"role": "user", "content": "through nginx"}]});
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
    ];
    let stream = outside
        .ask("POST", "/v1/chat/completions", &headers, &ask.to_string())
        .await;
    assert!(stream.starts_with("HTTP/1.1 200"), "{stream}");
    assert!(
        stream.contains("data: [DONE]") && stream.contains("nginx"),
        "{stream}"
    );

    // The protocol. The token alone opens less from elsewhere than on this machine, whatever the client claims.
    let mut socket = outside.socket(&token).await;
    let health = socket.call("health", json!({})).await;
    assert_eq!(health["ok"], true, "{health}");
    let refused = socket.call("sessions.list", json!({})).await;
    assert_eq!(refused["ok"], false, "{refused}");
    let mut local = Ws::connect(gateway.port, "/", &token).await.unwrap();
    let sessions = local.call("sessions.list", json!({})).await;
    assert!(sessions.is_ok(), "{sessions:?}");

    // A webhook: the host checks the secret over the raw body.
    let secret =
        std::fs::read_to_string(gateway.state.join("secrets/main/webhook-default-signing"));
    let secret = secret.unwrap();
    let message = json!({"id": "1", "from": {"id": "una"}, "text": "hello"}).to_string();
    for (secret, status) in [(secret.trim(), "HTTP/1.1 2"), ("wrong", "HTTP/1.1 401")] {
        let headers = [
            ("x-webhook-secret", secret),
            ("content-type", "application/json"),
        ];
        let path = "/channels/webhook/default/inbound";
        let answer = outside.ask("POST", path, &headers, &message).await;
        assert!(answer.starts_with(status), "{answer}");
    }
    let pending = local
        .call("channels.pairing.list", json!({}))
        .await
        .unwrap();
    assert_eq!(pending["requests"][0]["senderId"], "una", "{pending}");

    // Who guesses through the proxy is stopped; programs of this machine are not.
    let mut stopped = String::new();
    for _ in 0..40 {
        let guess = [("authorization", "Bearer guessed-guessed-guessed-guessed")];
        stopped = outside.ask("GET", "/v1/models", &guess, "").await;
        if stopped.starts_with("HTTP/1.1 429") {
            break;
        }
    }
    assert!(stopped.starts_with("HTTP/1.1 429"), "{stopped}");
    let own = get(gateway.port, "/v1/models", &token);
    assert!(own.starts_with("HTTP/1.1 200"), "{own}");
    local.close().await;
}

/// A request in a namespace, sent as it is by a shell; the whole answer.
fn plainly(nets: &Nets, net: usize, address: &str, port: u16, headers: &str) -> String {
    let script = format!(
        "exec 3<>/dev/tcp/{address}/{port}; printf 'GET /v1/models HTTP/1.1\\r\\nHost: gw.example\\r\\nConnection: close\\r\\n{headers}\\r\\n' >&3; cat <&3"
    );
    let output = nets
        .command(net, Path::new("bash"))
        .args(["-c", &script])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Who signs in at a real nginx on another machine is a user, and is who nginx says and not who they say. A program of the gateway's
/// own machine is not taken for the proxy, by neither of its addresses.
/// Covers: A15.
#[test]
fn who_signs_in_at_nginx_is_a_user() {
    let Some(nginx) = nginx_program() else {
        return;
    };
    let Some(nets) = Nets::new(2, "proxy") else {
        return;
    };
    nets.cable();
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    std::fs::create_dir(&state).unwrap();
    let config = state.join("gateway.json5");
    std::fs::write(
        &config,
        r#"{ gateway: { trustedProxies: ["192.0.2.0/24"], allowedHosts: ["gw.example"],
            auth: { mode: "trusted-proxy", trustedProxy: { userHeader: "x-forwarded-user", allowUsers: ["una"] } } } }"#,
    )
    .unwrap();
    for (path, mode) in [(&state, 0o700), (&config, 0o600)] {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let _gateway = nets.gateway(0, &state, &["--bind", "lan"]);

    let at = dir.path().join("nginx");
    std::fs::create_dir(&at).unwrap();
    std::fs::write(at.join("users"), "una:{PLAIN}u\nbo:{PLAIN}b\n").unwrap();
    let at = at.display();
    let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("{kind}_temp_path {at}/{kind};\n"))
        .collect();
    let text = format!(
        "daemon off;\nmaster_process off;\nuser root;\npid {at}/nginx.pid;\nerror_log {at}/error.log;\nevents {{}}\nhttp {{\naccess_log off;\n{temp}
        server {{ listen 127.0.0.1:8080; location / {{
            auth_basic gateway; auth_basic_user_file {at}/users;
            proxy_http_version 1.1; proxy_pass http://192.0.2.1:18789; proxy_set_header Host $host;
            proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-User $remote_user;
        }} }}\n}}\n"
    );
    let main = dir.path().join("nginx/nginx.conf");
    std::fs::write(&main, text).unwrap();
    let child = nets
        .command(1, &nginx)
        .args(["-c", main.to_str().unwrap(), "-e"])
        .arg(dir.path().join("nginx/error.log"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _nginx = Nginx { child, port: 8080 };
    let through = |headers: &str| plainly(&nets, 1, "127.0.0.1", 8080, headers);
    // una:u and bo:b
    let (una, bo) = (
        "Authorization: Basic dW5hOnU=\\r\\n",
        "Authorization: Basic Ym86Yg==\\r\\n",
    );
    let begun = Instant::now();
    while !through(una).starts_with("HTTP/1.1 200") {
        assert!(begun.elapsed() < PATIENCE, "{}", through(una));
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(through("").starts_with("HTTP/1.1 401"), "nginx asks");
    let stranger = through(bo);
    assert!(stranger.contains("this user is not let in"), "{stranger}");
    let lies = through(&format!("{bo}X-Forwarded-User: una\\r\\n"));
    assert!(lies.contains("this user is not let in"), "{lies}");

    // On the gateway's own machine.
    let claims = "X-Forwarded-For: 192.0.2.9\\r\\nX-Forwarded-User: una\\r\\n";
    let near = plainly(&nets, 0, "192.0.2.1", 18_789, claims);
    assert!(near.contains("is not believed"), "{near}");
    let nearer = plainly(&nets, 0, "127.0.0.1", 18_789, claims);
    assert!(nearer.starts_with("HTTP/1.1 403"), "{nearer}");
}
