//! TLS of the client: which certificate it talks to, and that nothing is said to any other.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use gateway_client::*;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{ServerConfig, SupportedProtocolVersion, version};
use tokio_tungstenite::accept_async;
use tokio_tungstenite::tungstenite::Message;

/// A certificate and its key.
struct Pair {
    cert: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl Pair {
    /// For `name` (also the common name), within these years.
    fn new(name: &str, years: (i32, i32)) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "gateway");
        params.not_before = rcgen::date_time_ymd(years.0, 1, 1);
        params.not_after = rcgen::date_time_ymd(years.1, 1, 1);
        let cert = params.self_signed(&key).unwrap().der().clone();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        Self { cert, key }
    }

    fn good() -> Self {
        Self::new("localhost", (2020, 2120))
    }

    fn pin(&self) -> CertPin {
        gateway_egress::tls::pin_of(&self.cert)
    }
}

/// Shows whatever it is told to, fitting or not.
#[derive(Debug)]
struct Shows(Arc<CertifiedKey>);

impl ResolvesServerCert for Shows {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn shows(
    chain: Vec<CertificateDer<'static>>,
    key: &PrivateKeyDer<'static>,
    versions: &[&'static SupportedProtocolVersion],
) -> ServerConfig {
    let signer = provider()
        .key_provider
        .load_private_key(key.clone_key())
        .unwrap();
    ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Shows(Arc::new(CertifiedKey::new(chain, signer)))))
}

const BOTH: &[&SupportedProtocolVersion] = &[&version::TLS13, &version::TLS12];

/// A gateway of a few lines behind this configuration.
struct Server {
    url: String,
    /// Bytes that came out of finished handshakes.
    told: Arc<AtomicUsize>,
    finished: Arc<AtomicUsize>,
}

impl Server {
    async fn start(config: ServerConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (told, finished) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let counts = (told.clone(), finished.clone());
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                tokio::spawn(serve(
                    acceptor.clone(),
                    tcp,
                    counts.0.clone(),
                    counts.1.clone(),
                ));
            }
        });
        Self {
            url: format!("wss://localhost:{port}/"),
            told,
            finished,
        }
    }

    fn of(pair: &Pair) -> ServerConfig {
        shows(vec![pair.cert.clone()], &pair.key, BOTH)
    }

    async fn ask(&self, pins: &[CertPin]) -> Result<Value, ClientError> {
        let mut options = ClientOptions::new(&self.url);
        options.pins = pins.to_vec();
        options.credential = Some(Credential::Token("t0k".to_owned()));
        let client = GatewayClient::connect(options).await?;
        let answer = client.request("health", Value::Null).await;
        client.close().await;
        answer
    }

    /// The connection fails with this error, and the server got not one byte of ours.
    async fn refused(&self, pins: &[CertPin]) -> ClientError {
        let before = self.told.load(Ordering::SeqCst);
        let error = self.ask(pins).await.unwrap_err();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(self.told.load(Ordering::SeqCst), before, "{error}");
        error
    }
}

async fn serve(
    acceptor: TlsAcceptor,
    tcp: TcpStream,
    told: Arc<AtomicUsize>,
    finished: Arc<AtomicUsize>,
) {
    let Ok(mut stream) = acceptor.accept(tcp).await else {
        return;
    };
    // In TLS 1.3 the server may be done before the client has judged: the first bytes tell.
    let mut first = [0_u8; 1];
    match stream.read(&mut first).await {
        Ok(1) => told.fetch_add(1, Ordering::SeqCst),
        _ => return,
    };
    finished.fetch_add(1, Ordering::SeqCst);
    let stream = Rewound {
        first: Some(first[0]),
        stream,
    };
    let mut socket = accept_async(stream).await.unwrap();
    let mut say = async |frame: Value| {
        let _ = socket.send(Message::text(frame.to_string())).await;
        match socket.next().await {
            Some(Ok(Message::Text(text))) => serde_json::from_str(&text).unwrap(),
            _ => Value::Null,
        }
    };
    let connect =
        say(json!({"type":"event","event":"connect.challenge","payload":{"nonce":"n","ts":1}}))
            .await;
    let hello = json!({
        "type": "hello-ok", "protocol": 4, "server": {"version": "9.9", "connId": "c1"},
        "features": {"methods": ["health"], "events": []},
        "snapshot": {"health": {"tls": {"fingerprint": "11".repeat(32), "nextFingerprint": "22".repeat(32)}}},
        "auth": {"role": "operator", "scopes": ["operator.read"]},
        "policy": {"maxPayload": 1, "maxBufferedBytes": 1, "tickIntervalMs": 30_000},
    });
    let request = say(json!({"type":"res","id":connect["id"],"ok":true,"payload":hello})).await;
    say(json!({"type":"res","id":request["id"],"ok":true,"payload":{"tls":true}})).await;
}

/// A stream whose first byte was looked at.
struct Rewound<S> {
    first: Option<u8>,
    stream: S,
}

impl<S: tokio::io::AsyncRead + Unpin> tokio::io::AsyncRead for Rewound<S> {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        if let Some(byte) = self.first.take() {
            buf.put_slice(&[byte]);
            return std::task::Poll::Ready(Ok(()));
        }
        std::pin::Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: tokio::io::AsyncWrite + Unpin> tokio::io::AsyncWrite for Rewound<S> {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::pin::Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn a_pinned_gateway_is_talked_to_over_both_versions() {
    let pair = Pair::good();
    for versions in [BOTH, &[&version::TLS13][..], &[&version::TLS12]] {
        let server = Server::start(shows(vec![pair.cert.clone()], &pair.key, versions)).await;
        assert_eq!(
            server.ask(&[pair.pin()]).await.unwrap(),
            json!({"tls": true})
        );
        assert_eq!(server.finished.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test]
async fn the_address_may_carry_the_pin_and_hello_announces_the_next() {
    let pair = Pair::good();
    let server = Server::start(Server::of(&pair)).await;
    let url = format!("{}#sha256:{}", server.url, pair.pin().colons());
    let client = GatewayClient::connect(ClientOptions::new(url))
        .await
        .unwrap();
    assert_eq!(
        client.hello().certificates,
        [CertPin::new([0x11; 32]), CertPin::new([0x22; 32])]
    );
    let other = format!("{}#{}", server.url, CertPin::new([1; 32]));
    let error = GatewayClient::connect(ClientOptions::new(other))
        .await
        .unwrap_err();
    assert!(matches!(error, ClientError::FingerprintMismatch { .. }));
    let error = GatewayClient::connect(ClientOptions::new(format!("{}#top", server.url)))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
}

/// Covers: N16.
#[tokio::test]
async fn a_man_in_the_middle_with_the_same_names_hears_nothing() {
    let (ours, his) = (Pair::good(), Pair::good());
    let server = Server::start(Server::of(&his)).await;
    let error = server.refused(&[ours.pin()]).await;
    let ClientError::FingerprintMismatch { mismatch, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(
        (&mismatch.expected, mismatch.seen),
        (&vec![ours.pin()], his.pin())
    );
    let text = error.to_string();
    for words in [
        "gateway tls fingerprint mismatch",
        &ours.pin().to_string(),
        &his.pin().to_string(),
    ] {
        assert!(text.contains(words), "{text}");
    }
    assert!(error.next_step().contains("gateway tls show"));
    assert_eq!(error.kind(), ErrorKind::Connect);
}

/// Covers: N16.
#[tokio::test]
async fn the_pinned_certificate_behind_another_leaf_or_without_its_key_is_nobody() {
    let (ours, his) = (Pair::good(), Pair::good());
    // His leaf first, ours after it as if it had signed it.
    let chain = vec![his.cert.clone(), ours.cert.clone()];
    let server = Server::start(shows(chain, &his.key, BOTH)).await;
    let error = server.refused(&[ours.pin()]).await;
    assert!(
        matches!(error, ClientError::FingerprintMismatch { .. }),
        "{error:?}"
    );
    // Everybody has seen our certificate; he has not our key, and cannot sign the handshake.
    for version in [&[&version::TLS13][..], &[&version::TLS12]] {
        let server = Server::start(shows(vec![ours.cert.clone()], &his.key, version)).await;
        let error = server.refused(&[ours.pin()]).await;
        assert!(
            !matches!(error, ClientError::FingerprintMismatch { .. }),
            "{error:?}"
        );
        assert_eq!(error.kind(), ErrorKind::Connect, "{error:?}");
    }
}

/// The pin takes the place of date, name and issuer: whoever pins has looked. The gateway itself refuses to start with an
/// expired certificate.
///
/// Covers: N16.
#[tokio::test]
async fn a_pin_holds_for_an_expired_certificate_and_one_of_another_name() {
    for pair in [
        Pair::new("localhost", (2000, 2001)),
        Pair::new("elsewhere.example", (2020, 2120)),
    ] {
        let server = Server::start(Server::of(&pair)).await;
        server.ask(&[pair.pin()]).await.unwrap();
    }
}

/// Covers: N16, F23.
#[tokio::test]
async fn after_a_rotation_the_old_pin_is_refused_and_both_pins_hold_before_and_after() {
    let (old, new) = (Pair::good(), Pair::good());
    let before = Server::start(Server::of(&old)).await;
    let after = Server::start(Server::of(&new)).await;
    let both = [old.pin(), new.pin()];
    before.ask(&both).await.unwrap();
    after.ask(&both).await.unwrap();
    let error = after.refused(&[old.pin()]).await;
    assert!(matches!(error, ClientError::FingerprintMismatch { .. }));
}

/// Covers: N16.
#[tokio::test]
async fn a_pin_is_never_dropped_for_a_plain_address() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut options = ClientOptions::new(format!("ws://{}/", listener.local_addr().unwrap()));
    options.pins = vec![CertPin::new([7; 32])];
    let connecting = GatewayClient::connect(options);
    let heard = async {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let mut all = Vec::new();
        tcp.read_to_end(&mut all).await.unwrap();
        all
    };
    let (error, heard) = tokio::join!(connecting, heard);
    assert!(
        matches!(error, Err(ClientError::BadUrl { .. })),
        "{error:?}"
    );
    assert_eq!(heard, b"");
}

/// Covers: N16.
#[tokio::test]
async fn without_a_pin_a_certificate_of_its_own_making_is_not_trusted() {
    let pair = Pair::good();
    let server = Server::start(Server::of(&pair)).await;
    let error = server.refused(&[]).await;
    assert!(matches!(error, ClientError::Untrusted { .. }), "{error:?}");
    assert!(error.next_step().contains("--tls-fingerprint"));
}

#[tokio::test]
async fn a_port_without_tls_is_told_apart() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let _ = tokio::io::AsyncWriteExt::write_all(&mut tcp, b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .await;
    });
    let mut options = ClientOptions::new(format!("wss://127.0.0.1:{port}/"));
    options.pins = vec![CertPin::new([7; 32])];
    let error = GatewayClient::connect(options).await.unwrap_err();
    let ClientError::NotAGateway { why, .. } = &error else {
        panic!("{error:?}");
    };
    assert!(why.contains("no TLS there"), "{why}");
}
