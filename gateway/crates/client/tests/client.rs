//! The client against a gateway of a few lines, which does just what the test says.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::future::Future;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use gateway_client::*;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::{WebSocketStream, accept_async};

type Socket = WebSocketStream<TcpStream>;

/// Listens on a free port and gives the first connection to `serve`.
async fn listen<F, Fut>(serve: F) -> String
where
    F: FnOnce(TcpStream) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        serve(tcp).await;
    });
    format!("ws://127.0.0.1:{port}/")
}

async fn send(socket: &mut Socket, frame: Value) {
    socket.send(Message::text(frame.to_string())).await.unwrap();
}

async fn receive(socket: &mut Socket) -> Value {
    loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => return serde_json::from_str(&text).unwrap(),
            Some(Ok(_)) => {}
            _ => return Value::Null,
        }
    }
}

async fn close(socket: &mut Socket, code: u16, reason: &str) {
    let frame = CloseFrame {
        code: code.into(),
        reason: reason.to_owned().into(),
    };
    let _ = socket.close(Some(frame)).await;
    while let Some(Ok(_)) = socket.next().await {}
}

/// Challenge and connect; gives the params of connect.
async fn challenge(tcp: TcpStream) -> (Socket, Value) {
    let mut socket = accept_async(tcp).await.unwrap();
    send(
        &mut socket,
        json!({"type":"event","event":"connect.challenge","payload":{"nonce":"n","ts":1}}),
    )
    .await;
    let connect = receive(&mut socket).await;
    assert_eq!(connect["method"], "connect");
    (socket, connect)
}

/// A full handshake; gives the params of connect.
async fn admit(tcp: TcpStream, tick_ms: u64) -> (Socket, Value) {
    let (mut socket, connect) = challenge(tcp).await;
    let hello = json!({
        "type": "hello-ok", "protocol": 4, "server": {"version": "9.9", "connId": "c1"},
        "features": {"methods": ["health"], "events": []}, "snapshot": {},
        "auth": {"role": "operator", "scopes": ["operator.read"]},
        "policy": {"maxPayload": 1, "maxBufferedBytes": 1, "tickIntervalMs": tick_ms},
    });
    send(
        &mut socket,
        json!({"type":"res","id":connect["id"],"ok":true,"payload":hello}),
    )
    .await;
    (socket, connect["params"].clone())
}

fn options(url: &str) -> ClientOptions {
    let mut options = ClientOptions::new(url);
    options.credential = Some(Credential::Token("t0k".to_owned()));
    options
}

async fn fails(url: &str) -> ClientError {
    let error = GatewayClient::connect(options(url)).await.unwrap_err();
    assert!(!error.to_string().is_empty() && !error.next_step().is_empty());
    assert!(
        !format!("{error} {error:?} {}", error.next_step()).contains("t0k"),
        "{error:?}"
    );
    error
}

#[tokio::test]
async fn handshake_and_answers() {
    let url = listen(|tcp| async move {
        let (mut socket, params) = admit(tcp, 30_000).await;
        assert_eq!(params["minProtocol"], 4);
        assert_eq!(params["client"]["id"], "cli");
        assert_eq!(params["client"]["mode"], "cli");
        assert_eq!(params["auth"]["token"], "t0k");
        assert_eq!(params["scopes"], json!(["operator.admin"]));
        // Two requests, answered in the other order; one with an error.
        let first = receive(&mut socket).await;
        let second = receive(&mut socket).await;
        let error = json!({"code":"INVALID_REQUEST","message":"no","details":{"code":"NOT_FOUND"},"retryAfterMs":1500});
        send(&mut socket, json!({"type":"res","id":second["id"],"ok":false,"error":error})).await;
        send(&mut socket, json!({"type":"event","event":"tick","seq":1,"payload":{"ts":1}})).await;
        send(&mut socket, json!({"type":"res","id":"unknown","ok":true,"payload":{}})).await;
        send(&mut socket, json!({"type":"res","id":first["id"],"ok":true,"payload":{"echo":first["params"]}})).await;
        receive(&mut socket).await;
    })
    .await;
    let client = GatewayClient::connect(options(&url)).await.unwrap();
    assert_eq!(
        (
            client.hello().protocol,
            client.hello().server_version.as_str()
        ),
        (4, "9.9")
    );
    assert_eq!(client.hello().scopes, ["operator.read"]);
    let (a, b) = tokio::join!(
        client.request("a", json!({"x": 1})),
        client.request("b", Value::Null)
    );
    assert_eq!(a.unwrap(), json!({"echo": {"x": 1}}));
    let ClientError::Rpc { method, error } = b.unwrap_err() else {
        panic!("not an rpc error")
    };
    assert_eq!(
        (method.as_str(), error.detail_code(), error.retry_after_ms),
        ("b", "NOT_FOUND", Some(1500))
    );
    let tick = client.next_event().await.unwrap();
    assert_eq!((tick.name.as_str(), tick.seq), ("tick", Some(1)));
    client.close().await;
}

#[tokio::test]
async fn the_two_answers_of_agent() {
    let url = listen(|tcp| async move {
        let (mut socket, _) = admit(tcp, 30_000).await;
        for _ in 0..2 {
            let request = receive(&mut socket).await;
            let id = &request["id"];
            send(
                &mut socket,
                json!({"type":"res","id":id,"ok":true,"payload":{"status":"accepted","runId":"r"}}),
            )
            .await;
            send(
                &mut socket,
                json!({"type":"res","id":id,"ok":true,"payload":{"status":"ok","runId":"r"}}),
            )
            .await;
        }
        receive(&mut socket).await;
    })
    .await;
    let client = GatewayClient::connect(options(&url)).await.unwrap();
    let (interim, mut interims) = tokio::sync::mpsc::channel(2);
    let request = RequestOptions {
        expect_final: true,
        interim: Some(interim),
        timeout: None,
    };
    let last = client
        .request_with("agent", json!({}), request)
        .await
        .unwrap();
    assert_eq!(last["status"], "ok");
    assert_eq!(interims.recv().await.unwrap()["status"], "accepted");
    // Who does not ask for the final one gets the first.
    assert_eq!(
        client.request("agent", json!({})).await.unwrap()["status"],
        "accepted"
    );
}

#[tokio::test]
async fn a_wrong_token_says_what_to_do() {
    let url = listen(|tcp| async move {
        let (mut socket, connect) = challenge(tcp).await;
        let message = "unauthorized: gateway token mismatch (provide gateway auth token)";
        let error = json!({"code":"INVALID_REQUEST","message":message,"details":{"code":"AUTH_TOKEN_MISMATCH"}});
        send(&mut socket, json!({"type":"res","id":connect["id"],"ok":false,"error":error})).await;
        close(&mut socket, 1008, message).await;
    })
    .await;
    let error = fails(&url).await;
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains("token mismatch"), "{error}");
    assert!(
        error.next_step().contains("gateway-token"),
        "{}",
        error.next_step()
    );
}

#[tokio::test]
async fn nothing_there_and_something_else_there() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let error = fails(&format!("ws://127.0.0.1:{port}")).await;
    assert_eq!(error.kind(), ErrorKind::Connect);
    assert!(
        error.next_step().contains("gateway serve"),
        "{}",
        error.next_step()
    );

    for answer in [
        "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
        "SSH-2.0-OpenSSH_9.9\r\n",
        "",
    ] {
        let url = listen(move |mut tcp| async move {
            let mut request = [0u8; 1024];
            let _ = tcp.read(&mut request).await;
            let _ = tcp.write_all(answer.as_bytes()).await;
        })
        .await;
        let error = fails(&url).await;
        assert!(
            matches!(error, ClientError::NotAGateway { .. }),
            "{answer:?}: {error:?}"
        );
        assert_eq!(error.kind(), ErrorKind::Connect);
        assert!(error.next_step().contains("port"), "{}", error.next_step());
    }

    // A WebSocket server that is no gateway.
    let url = listen(|tcp| async move {
        let mut socket = accept_async(tcp).await.unwrap();
        send(&mut socket, json!({"hello": "world"})).await;
        receive(&mut socket).await;
    })
    .await;
    assert!(matches!(fails(&url).await, ClientError::NotAGateway { .. }));
}

#[tokio::test]
async fn refusals_before_the_upgrade_are_told() {
    let url = listen(|mut tcp| async move {
        let mut request = [0u8; 1024];
        let _ = tcp.read(&mut request).await;
        let body = r#"{"error":{"code":"INVALID_REQUEST","message":"host not allowed","details":{"code":"HOST_NOT_ALLOWED"}}}"#;
        let head = format!("HTTP/1.1 421 Misdirected\r\ncontent-length: {}\r\n\r\n", body.len());
        let _ = tcp.write_all(format!("{head}{body}").as_bytes()).await;
    })
    .await;
    let error = fails(&url).await;
    assert!(error.to_string().contains("host not allowed"), "{error}");
    assert_eq!(error.kind(), ErrorKind::Refused);
}

#[tokio::test]
async fn silence_is_a_timeout_and_a_late_answer_harms_nobody() {
    let url = listen(|tcp| async move {
        let (mut socket, _) = admit(tcp, 30_000).await;
        let first = receive(&mut socket).await;
        let second = receive(&mut socket).await;
        send(
            &mut socket,
            json!({"type":"res","id":first["id"],"ok":true,"payload":1}),
        )
        .await;
        send(
            &mut socket,
            json!({"type":"res","id":second["id"],"ok":true,"payload":2}),
        )
        .await;
        receive(&mut socket).await;
    })
    .await;
    let client = GatewayClient::connect(options(&url)).await.unwrap();
    let short = RequestOptions {
        timeout: Some(Duration::from_millis(50)),
        ..RequestOptions::default()
    };
    let error = client
        .request_with("slow", Value::Null, short)
        .await
        .unwrap_err();
    assert_eq!(
        error,
        ClientError::Timeout {
            what: "slow".to_owned(),
            timeout_ms: 50
        }
    );
    assert_eq!(client.request("fast", Value::Null).await.unwrap(), json!(2));

    // A server that accepts and says nothing.
    let url = listen(|tcp| async move {
        tokio::time::sleep(Duration::from_secs(60)).await;
        drop(tcp);
    })
    .await;
    let mut options = options(&url);
    options.connect_timeout = Duration::from_millis(50);
    assert!(matches!(
        GatewayClient::connect(options).await,
        Err(ClientError::Timeout { .. })
    ));
}

#[tokio::test]
async fn an_end_in_the_middle_fails_what_waits() {
    for (code, reason, kind, word) in [
        (1012, "service restart", ErrorKind::Failed, "restarts"),
        (1008, "slow consumer", ErrorKind::Refused, "faster"),
        (4001, "", ErrorKind::Refused, "credential"),
    ] {
        let url = listen(move |tcp| async move {
            let (mut socket, _) = admit(tcp, 30_000).await;
            receive(&mut socket).await;
            close(&mut socket, code, reason).await;
        })
        .await;
        let client = GatewayClient::connect(options(&url)).await.unwrap();
        let error = client.request("x", Value::Null).await.unwrap_err();
        assert_eq!(
            error,
            ClientError::Closed {
                code,
                reason: reason.to_owned()
            }
        );
        assert_eq!(error.kind(), kind);
        assert!(error.next_step().contains(word), "{}", error.next_step());
        assert_eq!(client.closed().await, (code, reason.to_owned()));
        assert!(matches!(
            client.request("y", Value::Null).await,
            Err(ClientError::Closed { .. })
        ));
        assert_eq!(client.next_event().await, None);
    }
    // The line just breaks.
    let url = listen(|tcp| async move {
        let (mut socket, _) = admit(tcp, 30_000).await;
        receive(&mut socket).await;
    })
    .await;
    let client = GatewayClient::connect(options(&url)).await.unwrap();
    let error = client.request("x", Value::Null).await.unwrap_err();
    assert!(
        matches!(error, ClientError::Closed { code: 1006, .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_gateway_that_stops_ticking_is_left() {
    let url = listen(|tcp| async move {
        let (mut socket, _) = admit(tcp, 1).await;
        let tick = json!({"type":"event","event":"tick","payload":{}});
        send(&mut socket, tick).await;
        tokio::time::sleep(Duration::from_secs(600)).await;
    })
    .await;
    let client = GatewayClient::connect(options(&url)).await.unwrap();
    assert_eq!(client.closed().await.0, 4000);
    assert_eq!(client.next_event().await.unwrap().name, "tick");
    assert_eq!(client.next_event().await, None);
}

#[tokio::test]
async fn events_that_nobody_takes_are_dropped_and_counted() {
    let extra = 10;
    let url = listen(move |tcp| async move {
        let (mut socket, _) = admit(tcp, 30_000).await;
        for seq in 1..=limits::MAX_QUEUED_EVENTS + extra {
            send(
                &mut socket,
                json!({"type":"event","event":"e","seq":seq,"payload":{}}),
            )
            .await;
        }
        let request = receive(&mut socket).await;
        send(
            &mut socket,
            json!({"type":"res","id":request["id"],"ok":true,"payload":null}),
        )
        .await;
        receive(&mut socket).await;
    })
    .await;
    let client = GatewayClient::connect(options(&url)).await.unwrap();
    client.request("sync", Value::Null).await.unwrap();
    assert_eq!(client.dropped_events(), extra as u64);
    assert_eq!(client.next_event().await.unwrap().seq, Some(1));
}

#[tokio::test]
async fn too_large_a_request_is_not_sent() {
    let url = listen(|tcp| async move {
        let (mut socket, _) = admit(tcp, 30_000).await;
        assert_eq!(receive(&mut socket).await, Value::Null);
    })
    .await;
    let client = GatewayClient::connect(options(&url)).await.unwrap();
    let big = "x".repeat(limits::MAX_REQUEST_BYTES);
    assert!(matches!(
        client.request("x", json!(big)).await,
        Err(ClientError::TooMuch(_))
    ));
    client.close().await;
}

#[tokio::test]
async fn one_call() {
    let url = listen(|tcp| async move {
        let (mut socket, params) = admit(tcp, 30_000).await;
        assert_eq!(params["scopes"], json!(["operator.read"]));
        let request = receive(&mut socket).await;
        assert_eq!(request["method"], "health");
        send(
            &mut socket,
            json!({"type":"res","id":request["id"],"ok":true,"payload":{"ok":true}}),
        )
        .await;
        receive(&mut socket).await;
    })
    .await;
    let mut options = CallGatewayOptions::new("health", Value::Null);
    options.sources.url = Some(url.clone());
    options.scopes = vec!["operator.read".to_owned()];
    // An address of the user's without its own credential: nothing is sent, not even what is configured.
    options.sources.env_token = Some("borrowed".to_owned());
    let error = call_gateway(options.clone()).await.unwrap_err();
    assert!(
        matches!(error, ClientError::NoCredential { .. }),
        "{error:?}"
    );
    assert_eq!(error.kind(), ErrorKind::Usage);
    options.sources.credential = Some(Credential::Token("t0k".to_owned()));
    assert_eq!(call_gateway(options).await.unwrap(), json!({"ok": true}));
}

fn sources() -> ConnectionSources {
    ConnectionSources {
        configured: Some(ConfiguredGateway {
            host: "127.0.0.1".parse().unwrap(),
            port: 4000,
            running: false,
            tls: false,
            pins: Vec::new(),
            credential: Some(Credential::Token("configured".to_owned())),
            path: "/s/gateway.json5".to_owned(),
        }),
        ..ConnectionSources::default()
    }
}

#[test]
fn the_address_comes_from_the_first_that_says_one() {
    let text = |s: &str| Some(s.to_owned());
    let token = |s: &str| Some(Credential::Token(s.to_owned()));
    let check =
        |s: &ConnectionSources, url: &str, source: UrlSource, credential: Option<Credential>| {
            let details = build_gateway_connection_details(s).unwrap();
            assert_eq!((details.url.as_str(), details.url_source), (url, source));
            assert_eq!(details.credential, credential, "{s:?}");
            for secret in ["configured", "from-env", "from-flag"] {
                assert!(!details.message.contains(secret), "{}", details.message);
                assert!(!format!("{details:?}").contains(secret));
            }
        };
    check(
        &ConnectionSources::default(),
        "ws://127.0.0.1:18789/",
        UrlSource::Default,
        None,
    );
    check(
        &sources(),
        "ws://127.0.0.1:4000/",
        UrlSource::Config,
        token("configured"),
    );
    let acme = ConnectionSources {
        tenant: text("acme"),
        ..sources()
    };
    check(
        &acme,
        "ws://127.0.0.1:4000/t/acme/",
        UrlSource::Config,
        token("configured"),
    );
    let env = ConnectionSources {
        env_token: text("from-env"),
        ..sources()
    };
    check(
        &env,
        "ws://127.0.0.1:4000/",
        UrlSource::Config,
        token("from-env"),
    );
    let env = ConnectionSources {
        env_url: text("ws://localhost:5/x"),
        ..sources()
    };
    check(&env, "ws://localhost:5/x", UrlSource::Env, None);
    let env = ConnectionSources {
        env_token: text("from-env"),
        ..env
    };
    check(
        &env,
        "ws://localhost:5/x",
        UrlSource::Env,
        token("from-env"),
    );
    let flag = ConnectionSources {
        url: text("http://[::1]:7"),
        ..env
    };
    check(&flag, "ws://[::1]:7/", UrlSource::Flag, None);
    let flag = ConnectionSources {
        credential: token("from-flag"),
        ..flag
    };
    check(&flag, "ws://[::1]:7/", UrlSource::Flag, token("from-flag"));
}

/// Covers: N14, N16.
#[test]
fn pins_come_with_the_address_that_they_are_for() {
    let (a, b, c) = (
        CertPin::new([1; 32]),
        CertPin::new([2; 32]),
        CertPin::new([3; 32]),
    );
    let own = ConnectionSources {
        configured: Some(ConfiguredGateway {
            running: true,
            tls: true,
            pins: vec![a, b],
            ..sources().configured.unwrap()
        }),
        ..ConnectionSources::default()
    };
    let check = |s: &ConnectionSources, url: &str, source: UrlSource, pins: &[CertPin]| {
        let details = build_gateway_connection_details(s).unwrap();
        assert_eq!((details.url.as_str(), details.url_source), (url, source));
        assert_eq!(details.pins, pins, "{details:?}");
        assert_eq!(details.pin_source.is_some(), !pins.is_empty());
        let used: Vec<_> = details.steps.iter().filter(|s| s.used).collect();
        assert_eq!((used.len(), used[0].source), (1, source));
        assert_eq!(details.steps.len(), UrlSource::ORDER.len());
        assert!(details.steps.iter().all(|s| !s.why.is_empty()));
    };
    check(&own, "wss://127.0.0.1:4000/", UrlSource::Running, &[a, b]);
    let remote = ConnectionSources {
        remote: Some(RemoteGateway {
            url: "wss://far.example".to_owned(),
            credential: None,
            pins: vec![c],
            path: "/s/gateway.json5".to_owned(),
        }),
        ..own.clone()
    };
    let far = "wss://far.example:443/";
    check(&remote, far, UrlSource::Remote, &[c]);
    let env = ConnectionSources {
        env_url: Some("https://other.example:1".to_owned()),
        ..remote.clone()
    };
    // Neither the pins of another address nor those of this machine are taken over.
    check(&env, "wss://other.example:1/", UrlSource::Env, &[]);
    let env = ConnectionSources {
        env_pins: vec![b],
        ..env
    };
    check(&env, "wss://other.example:1/", UrlSource::Env, &[b]);
    let flag = ConnectionSources {
        url: Some(format!("wss://third.example#{c}")),
        ..env
    };
    check(&flag, "wss://third.example:443/", UrlSource::Flag, &[c]);
    let flag = ConnectionSources {
        pins: vec![a],
        ..flag
    };
    check(&flag, "wss://third.example:443/", UrlSource::Flag, &[a]);
    // What is pinned is not talked to without TLS.
    let plain = ConnectionSources {
        url: Some("ws://127.0.0.1:9".to_owned()),
        ..flag
    };
    let error = build_gateway_connection_details(&plain).unwrap_err();
    assert!(error.to_string().contains("pinned"), "{error}");
    let plain = ConnectionSources {
        remote: Some(RemoteGateway {
            url: "ws://far.example:1".to_owned(),
            ..remote.remote.clone().unwrap()
        }),
        ..remote
    };
    assert!(build_gateway_connection_details(&plain).is_err());
}

#[test]
fn an_address_that_would_leak_or_makes_no_sense_is_refused() {
    let check = |url: &str, word: &str| {
        let sources = ConnectionSources {
            url: Some(url.to_owned()),
            ..ConnectionSources::default()
        };
        let error = build_gateway_connection_details(&sources).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        let text = format!("{error} {}", error.next_step());
        assert!(text.contains(word), "{url}: {text}");
        assert!(!text.contains("hunter"), "{text}");
    };
    check("ws://192.168.1.5:18789", "ssh -N -L 18789");
    check("ws://example.org", "tunnel");
    check("ws://localhost.example.org:1", "tunnel");
    check("ws://127.0.0.1.example.org:1", "tunnel");
    check("ws://0.0.0.0:1", "tunnel");
    check("ws://gateway.local:18789", "wss://");
    check("wss://127.0.0.1:0", "not a port");
    check("wss://user:hunter@127.0.0.1:1/", "user name");
    check("wss://127.0.0.1:1/#top", "fingerprint");
    check("ftp://127.0.0.1", "ws://127.0.0.1:PORT");
    check("127.0.0.1:18789", "ws://127.0.0.1:PORT");
    check("ws://127.0.0.1:0", "not a port");
    check("ws://127.0.0.1:99999", "ws://127.0.0.1:PORT");
    check("ws://127.0.0.1:", "ws://127.0.0.1:PORT");
    check("ws://user:hunter@127.0.0.1:1/", "user name");
    check("ws://a b/", "not an address");
}

#[tokio::test]
async fn a_starting_gateway_is_asked_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let served = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let (mut socket, connect) = challenge(tcp).await;
        let error = json!({"code":"UNAVAILABLE","message":"gateway starting","details":{"code":"STARTING"},"retryable":true,"retryAfterMs":60});
        send(
            &mut socket,
            json!({"type":"res","id":connect["id"],"ok":false,"error":error}),
        )
        .await;
        close(&mut socket, 1013, "gateway starting").await;
        let (tcp, _) = listener.accept().await.unwrap();
        let (mut socket, _) = admit(tcp, 30_000).await;
        let request = receive(&mut socket).await;
        send(
            &mut socket,
            json!({"type":"res","id":request["id"],"ok":true,"payload":"second"}),
        )
        .await;
        receive(&mut socket).await;
    });
    let mut options = CallGatewayOptions::new("x", Value::Null);
    options.sources.url = Some(format!("ws://127.0.0.1:{port}"));
    options.sources.credential = Some(Credential::Token("t0k".to_owned()));
    assert_eq!(call_gateway(options).await.unwrap(), json!("second"));
    served.await.unwrap();
}
