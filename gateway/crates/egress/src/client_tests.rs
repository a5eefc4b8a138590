#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::AtomicUsize;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::address::HostPortRule;

/// A scripted server on loopback: `script` gets each connection with its number from 0.
async fn server<F, R>(script: F) -> SocketAddr
where
    F: Fn(usize, TcpStream) -> R + Send + Sync + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for n in 0.. {
            let Ok((stream, _)) = listener.accept().await else {
                return;
            };
            tokio::spawn(script(n, stream));
        }
    });
    addr
}

/// Reads one request with its body; `None` where the client closed instead.
async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut seen = Vec::new();
    loop {
        if let Some(end) = seen.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&seen[..end]).to_ascii_lowercase();
            let length = head
                .lines()
                .find_map(|l| l.strip_prefix("content-length: "))
                .map_or(0, |n| n.parse().unwrap());
            if seen.len() >= end + 4 + length {
                return Some(String::from_utf8_lossy(&seen).into_owned());
            }
        }
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return None,
            Ok(n) => seen.extend_from_slice(&buffer[..n]),
        }
    }
}

/// Answers each request of each connection with its number of connection and request.
async fn counting(n: usize, mut stream: TcpStream) {
    let mut request = 0;
    while read_request(&mut stream).await.is_some() {
        let body = format!("c{n}r{request}");
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
        request += 1;
    }
}

/// A script that reads one request, writes `bytes` and closes.
fn fixed(
    bytes: &'static [u8],
) -> impl Fn(usize, TcpStream) -> BoxFuture<'static, ()> + Send + Sync {
    move |_, mut stream| {
        Box::pin(async move {
            if read_request(&mut stream).await.is_some() {
                let _ = stream.write_all(bytes).await;
            }
        })
    }
}

/// Answers from a list, the last one for ever; counts its calls.
struct Names {
    answers: Mutex<VecDeque<Vec<&'static str>>>,
    asked: AtomicUsize,
}

impl Names {
    fn new(answers: &[&[&'static str]]) -> Arc<Self> {
        Arc::new(Self {
            answers: Mutex::new(answers.iter().map(|a| a.to_vec()).collect()),
            asked: AtomicUsize::new(0),
        })
    }
}

impl Resolve for Names {
    fn resolve(&self, _host: &str) -> BoxFuture<'_, io::Result<Vec<IpAddr>>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let mut answers = self.answers.lock();
        let answer = if answers.len() > 1 {
            answers.pop_front()
        } else {
            answers.front().cloned()
        };
        Box::pin(async move {
            Ok(answer
                .unwrap_or_default()
                .into_iter()
                .map(|ip| ip.parse().unwrap())
                .collect())
        })
    }
}

/// Notes where it was sent and connects to `to` instead, so that public addresses can be played.
struct Wires {
    to: SocketAddr,
    dialled: Mutex<Vec<IpAddr>>,
}

impl Dial for Wires {
    fn dial(&self, addr: SocketAddr) -> BoxFuture<'_, io::Result<BoxIo>> {
        self.dialled.lock().push(addr.ip());
        Box::pin(async move { TcpDialer.dial(self.to).await })
    }
}

fn system() -> Egress {
    Egress::new(EgressOptions::default()).unwrap()
}

fn staged(names: Arc<Names>, to: SocketAddr) -> (Egress, Arc<Wires>) {
    let wires = Arc::new(Wires {
        to,
        dialled: Mutex::default(),
    });
    let egress = Egress::new(EgressOptions {
        resolver: names,
        dialer: wires.clone(),
        ..EgressOptions::default()
    })
    .unwrap();
    (egress, wires)
}

/// A GET that an operator allowed for exactly this local address.
fn local(addr: SocketAddr, path: &str) -> EgressRequest {
    let url = Url::parse(&format!("http://{addr}{path}")).unwrap();
    let policy = AddressPolicy::exact(vec![HostPortRule::of(&url, true)]);
    EgressRequest::new("tenant-a", Method::GET, url, Arc::new(policy))
}

fn public(url: &str) -> EgressRequest {
    EgressRequest::new(
        "tenant-a",
        Method::GET,
        Url::parse(url).unwrap(),
        Arc::new(AddressPolicy::any_public()),
    )
}

async fn fails(egress: &Egress, request: EgressRequest) -> (ErrorKind, bool) {
    let sent = AtomicBool::new(false);
    let error = egress.request(request, &sent).await.unwrap_err();
    assert!(
        sent.load(Ordering::SeqCst) || !error.request_sent,
        "request_sent implies the flag: {error:?}"
    );
    assert!(
        !error.message.contains("hidden"),
        "no path, query or header in a text: {error}"
    );
    (error.kind, error.request_sent)
}

#[tokio::test]
async fn a_request_goes_out_as_written_and_comes_back_whole() {
    let addr = server(|_, mut stream| async move {
        let request = read_request(&mut stream).await.unwrap();
        let answer = format!("HTTP/1.1 201 Created\r\nx-one: 1\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{request}\r\n0\r\n\r\n", request.len());
        stream.write_all(answer.as_bytes()).await.unwrap();
    })
    .await;
    let mut request = local(addr, "/a%20b?c=d&e");
    request.method = Method::POST;
    request.body = Bytes::from_static(b"hello");
    request
        .headers
        .insert("x-two", HeaderValue::from_static("2"));
    let sent = AtomicBool::new(false);
    let response = system().request(request, &sent).await.unwrap();
    assert_eq!(
        (
            response.status,
            response.headers["x-one"].to_str().unwrap(),
            response.peer
        ),
        (201, "1", addr)
    );
    let seen = String::from_utf8(response.body.to_vec())
        .unwrap()
        .to_ascii_lowercase();
    assert!(
        seen.starts_with("post /a%20b?c=d&e http/1.1\r\n") && seen.ends_with("\r\n\r\nhello"),
        "{seen}"
    );
    assert!(
        seen.contains(&format!("\r\nhost: {addr}\r\n")) && seen.contains("\r\nx-two: 2\r\n"),
        "{seen}"
    );
    assert!(
        seen.contains("\r\naccept-encoding: identity\r\n")
            && seen.contains("\r\ncontent-length: 5\r\n"),
        "{seen}"
    );
    assert!(sent.load(Ordering::SeqCst));
}

/// Covers: N1, N2.
#[tokio::test]
async fn a_redirect_is_returned_and_never_followed() {
    let hits = Arc::new(AtomicUsize::new(0));
    let counted = hits.clone();
    let other = server(move |_, _stream| {
        counted.fetch_add(1, Ordering::SeqCst);
        async {}
    })
    .await;
    let addr = server(move |_, mut stream| async move {
        read_request(&mut stream).await.unwrap();
        let answer = format!("HTTP/1.1 307 Temporary Redirect\r\nlocation: http://{other}/steal\r\ncontent-length: 0\r\n\r\n");
        stream.write_all(answer.as_bytes()).await.unwrap();
    })
    .await;
    let mut request = local(addr, "/");
    request
        .headers
        .insert("authorization", HeaderValue::from_static("Bearer hidden"));
    let response = system()
        .request(request, &AtomicBool::new(false))
        .await
        .unwrap();
    assert_eq!(response.status, 307);
    assert_eq!(
        response.headers["location"].to_str().unwrap(),
        format!("http://{other}/steal")
    );
    tokio::task::yield_now().await;
    assert_eq!(hits.load(Ordering::SeqCst), 0);
}

/// A name that is public when checked and private when connected to would need a second look-up: there is none.
///
/// Covers: N1.
#[tokio::test]
async fn a_name_is_resolved_once_and_rebinding_finds_nothing() {
    let addr = server(fixed(
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
    ))
    .await;
    let names = Names::new(&[&["93.184.216.34"], &["127.0.0.1"]]);
    let (egress, wires) = staged(names.clone(), addr);
    let response = egress
        .request(
            public("http://rebind.example.com/"),
            &AtomicBool::new(false),
        )
        .await
        .unwrap();
    assert_eq!(&response.body[..], b"ok");
    assert_eq!(
        names.asked.load(Ordering::SeqCst),
        1,
        "the check and the connection share one answer"
    );
    let second = fails(&egress, public("http://rebind.example.com/")).await;
    assert_eq!(second, (ErrorKind::Address, false));
    assert_eq!(
        *wires.dialled.lock(),
        ["93.184.216.34".parse::<IpAddr>().unwrap()]
    );
}

/// Covers: N1.
#[tokio::test]
async fn one_bad_address_among_good_ones_refuses_the_name() {
    for bad in [
        "127.0.0.1",
        "10.0.0.5",
        "169.254.169.254",
        "0.0.0.0",
        "::1",
        "::ffff:127.0.0.1",
        "fd00:ec2::254",
        "fe80::1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
    ] {
        for answer in [
            vec![bad],
            vec!["93.184.216.34", bad],
            vec![bad, "2606:4700::1111"],
        ] {
            let (egress, wires) = staged(Names::new(&[&answer]), "127.0.0.1:9".parse().unwrap());
            // As wildcard DNS services do it: the name says the address.
            let refused = fails(&egress, public("http://127.0.0.1.nip.example.com/hidden")).await;
            assert_eq!(refused, (ErrorKind::Address, false), "{answer:?}");
            assert!(wires.dialled.lock().is_empty(), "nothing was connected to");
        }
    }
    let (egress, _) = staged(Names::new(&[&[]]), "127.0.0.1:9".parse().unwrap());
    assert_eq!(
        fails(&egress, public("http://example.com/")).await,
        (ErrorKind::Dns, false)
    );
    let many: Vec<&'static str> = vec!["93.184.216.34"; limits::MAX_ADDRESSES_PER_NAME + 1];
    let (egress, _) = staged(Names::new(&[&many]), "127.0.0.1:9".parse().unwrap());
    assert_eq!(
        fails(&egress, public("http://example.com/")).await,
        (ErrorKind::Dns, false)
    );
}

/// Covers: N1.
#[tokio::test]
async fn a_private_address_behind_a_name_needs_the_operators_rule_for_that_name() {
    let addr = server(counting).await;
    let names = || Names::new(&[&["10.0.0.5"]]);
    let rule = |private| {
        let mut request = public("http://inner.example.com/");
        request.policy = Arc::new(AddressPolicy::exact(vec![HostPortRule::of(
            &request.url,
            private,
        )]));
        request
    };
    let (egress, _) = staged(names(), addr);
    assert_eq!(
        fails(&egress, rule(false)).await,
        (ErrorKind::Address, false)
    );
    assert_eq!(
        egress
            .request(rule(true), &AtomicBool::new(false))
            .await
            .unwrap()
            .body,
        "c0r0"
    );
    // The connection that now idles was allowed by that rule only.
    assert_eq!(egress.idle_connections(), 1);
    assert_eq!(
        fails(&egress, rule(false)).await,
        (ErrorKind::Address, false)
    );
    let (egress, _) = staged(Names::new(&[&["169.254.169.254"]]), addr);
    assert_eq!(
        fails(&egress, rule(true)).await,
        (ErrorKind::Address, false)
    );
}

#[tokio::test]
async fn whether_the_request_may_have_been_sent_is_told_truly() {
    let egress = system();
    // Nobody listens.
    let free = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let sent = AtomicBool::new(false);
    let error = egress
        .request(local(free, "/hidden"), &sent)
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind, error.request_sent, sent.load(Ordering::SeqCst)),
        (ErrorKind::Connect, false, false)
    );
    // Not allowed at all.
    let mut request = local(free, "/hidden");
    request.policy = Arc::default();
    let error = egress.request(request, &sent).await.unwrap_err();
    assert_eq!(
        (error.kind, sent.load(Ordering::SeqCst)),
        (ErrorKind::NotAllowed, false)
    );
    // The peer talks no TLS.
    let plain = server(|_, mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad\r\n\r\n").await;
    })
    .await;
    let mut request = local(plain, "/hidden");
    request.url = Url::parse(&format!("https://{plain}/hidden")).unwrap();
    request.policy = Arc::new(AddressPolicy::exact(vec![HostPortRule::of(
        &request.url,
        true,
    )]));
    let error = egress.request(request, &sent).await.unwrap_err();
    assert_eq!(
        (error.kind, error.request_sent, sent.load(Ordering::SeqCst)),
        (ErrorKind::Tls, false, false)
    );
    // The peer takes the request and closes.
    let mute = server(fixed(b"")).await;
    let error = egress
        .request(local(mute, "/hidden"), &sent)
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind, error.request_sent, sent.load(Ordering::SeqCst)),
        (ErrorKind::Broken, true, true)
    );
}

#[tokio::test]
async fn a_dropped_request_that_was_sent_has_said_so() {
    let addr = server(|_, mut stream| async move {
        read_request(&mut stream).await;
        std::future::pending::<()>().await;
    })
    .await;
    let egress = system();
    let sent = AtomicBool::new(false);
    let begun = tokio::time::timeout(
        Duration::from_millis(300),
        egress.request(local(addr, "/"), &sent),
    )
    .await;
    assert!(begun.is_err() && sent.load(Ordering::SeqCst));
    assert_eq!(egress.in_flight(), 0, "a dropped request is counted out");
}

/// Each way to be slow ends in its own error, long before the others would.
///
/// Covers: N9.
#[tokio::test]
async fn a_slow_peer_is_given_up() {
    let egress = system();
    let long = Duration::from_secs(60);
    let short = Duration::from_millis(80);
    let base = |addr| {
        let mut request = local(addr, "/hidden");
        request.deadline = long;
        request.timeouts = Timeouts {
            connect: long,
            head: long,
            idle: long,
        };
        request.min_rate = None;
        request
    };
    let silent = server(|_, mut stream| async move {
        read_request(&mut stream).await;
        std::future::pending::<()>().await;
    })
    .await;
    let mut request = base(silent);
    request.timeouts.head = short;
    assert_eq!(
        fails(&egress, request).await,
        (ErrorKind::HeadTimeout, true)
    );
    let mut request = base(silent);
    request.deadline = short;
    assert_eq!(fails(&egress, request).await, (ErrorKind::Deadline, true));

    // A head that comes byte by byte.
    let head_drip = server(|_, mut stream| async move {
        read_request(&mut stream).await;
        while stream.write_all(b"H").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let kind = {
        let mut request = base(head_drip);
        request.timeouts.head = short;
        fails(&egress, request).await.0
    };
    assert!(
        matches!(kind, ErrorKind::HeadTimeout | ErrorKind::Broken),
        "{kind:?}"
    );

    let stuck = server(|_, mut stream| async move {
        read_request(&mut stream).await;
        let _ = stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nabc")
            .await;
        std::future::pending::<()>().await;
    })
    .await;
    let mut request = base(stuck);
    request.timeouts.idle = short;
    assert_eq!(
        fails(&egress, request).await,
        (ErrorKind::IdleTimeout, true)
    );

    let drip = server(|_, mut stream| async move {
        read_request(&mut stream).await;
        let _ = stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
            .await;
        while stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let mut request = base(drip);
    request.min_rate = Some(MinRate {
        bytes: 1000,
        window: short,
    });
    assert_eq!(fails(&egress, request).await, (ErrorKind::TooSlow, true));
    let mut request = base(drip);
    request.deadline = short;
    assert_eq!(fails(&egress, request).await, (ErrorKind::Deadline, true));
}

/// Covers: N7, N8.
#[tokio::test]
async fn a_response_bigger_than_its_cap_is_cut_off_while_it_streams() {
    let egress = system();
    let told = server(fixed(
        b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000000\r\n\r\nabc",
    ))
    .await;
    let mut request = local(told, "/");
    request.max_response_bytes = 1000;
    assert_eq!(fails(&egress, request).await, (ErrorKind::TooLarge, true));

    let wrote = Arc::new(AtomicUsize::new(0));
    let counter = wrote.clone();
    let endless = server(move |_, mut stream| {
        let counter = counter.clone();
        async move {
            read_request(&mut stream).await;
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
                .await;
            while stream.write_all(b"400\r\n").await.is_ok()
                && stream.write_all(&[b'x'; 1024]).await.is_ok()
                && stream.write_all(b"\r\n").await.is_ok()
            {
                counter.fetch_add(1024, Ordering::SeqCst);
            }
        }
    })
    .await;
    let mut request = local(endless, "/");
    request.max_response_bytes = 100_000;
    let mut stream = egress
        .stream(request, &AtomicBool::new(false))
        .await
        .unwrap();
    let mut got = 0;
    let error = loop {
        match stream.next().await.unwrap() {
            Ok(piece) => got += piece.len(),
            Err(e) => break e,
        }
    };
    assert_eq!(error.kind, ErrorKind::TooLarge);
    assert!(got <= 100_000, "{got}");
    assert!(
        stream.next().await.is_none(),
        "after an error there is nothing more"
    );

    // Nothing is decoded: a bomb stays as small as it came.
    let packed = server(fixed(
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\n\x1f\x8b\x08\x00",
    ))
    .await;
    let response = egress
        .request(local(packed, "/"), &AtomicBool::new(false))
        .await
        .unwrap();
    assert_eq!(&response.body[..], b"\x1f\x8b\x08\x00");
    let mut exact = local(packed, "/");
    exact.max_response_bytes = 4;
    assert!(
        egress.request(exact, &AtomicBool::new(false)).await.is_ok(),
        "the cap itself is allowed"
    );
}

#[tokio::test]
async fn a_response_that_is_not_whole_or_not_http_is_an_error() {
    let egress = system();
    for bytes in [
        &b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc"[..],
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 2",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"\x00\x01\x02\x03\r\n\r\n",
    ] {
        let addr = server(fixed(bytes)).await;
        assert_eq!(
            fails(&egress, local(addr, "/hidden")).await,
            (ErrorKind::Broken, true),
            "{:?}",
            String::from_utf8_lossy(bytes)
        );
    }
    let many = Arc::new(format!(
        "HTTP/1.1 200 OK\r\n{}\r\n",
        "a: b\r\n".repeat(limits::MAX_RESPONSE_HEADERS + 1)
    ));
    let big = Arc::new(format!(
        "HTTP/1.1 200 OK\r\na: {}\r\n\r\n",
        "b".repeat(2 * limits::MAX_RESPONSE_BUFFER_BYTES)
    ));
    for head in [many, big] {
        let addr = server(move |_, mut stream| {
            let head = head.clone();
            async move {
                read_request(&mut stream).await;
                let _ = stream.write_all(head.as_bytes()).await;
                std::future::pending::<()>().await;
            }
        })
        .await;
        assert_eq!(
            fails(&egress, local(addr, "/")).await,
            (ErrorKind::Broken, true)
        );
    }
}

/// Covers: N2.
#[tokio::test]
async fn connections_are_reused_within_a_partition_and_never_across() {
    let addr = server(counting).await;
    let egress = system();
    let ask = async |partition: &str| {
        let mut request = local(addr, "/");
        request.partition = partition.into();
        egress
            .request(request, &AtomicBool::new(false))
            .await
            .unwrap()
            .body
    };
    assert_eq!(ask("tenant-a").await, "c0r0");
    assert_eq!(ask("tenant-a").await, "c0r1", "the connection is kept");
    assert_eq!(ask("tenant-b").await, "c1r0", "another tenant has its own");
    assert_eq!(ask("tenant-a").await, "c0r2");
    assert_eq!(ask("tenant-b").await, "c1r1");
    assert_eq!(egress.idle_connections(), 2);
}

/// A response that nobody asked for is not taken for the answer of the next request.
#[tokio::test]
async fn a_second_response_on_a_kept_connection_poisons_nothing() {
    let addr = server(|n, mut stream| async move {
        while read_request(&mut stream).await.is_some() {
            let two: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil";
            let one: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
            let _ = stream.write_all(if n == 0 { two } else { one }).await;
        }
    })
    .await;
    let egress = system();
    for _ in 0..5 {
        // Either the poisoned connection is noticed and replaced, or the request on it fails; it never gets the other answer.
        match egress
            .request(local(addr, "/"), &AtomicBool::new(false))
            .await
        {
            Ok(response) => assert_eq!(response.body, "ok"),
            Err(e) => assert_eq!(e.kind, ErrorKind::Broken),
        }
    }
}

#[tokio::test]
async fn a_kept_connection_that_the_peer_closed_is_replaced() {
    let addr = server(|_, mut stream| async move {
        read_request(&mut stream).await;
        let _ = stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            .await;
    })
    .await;
    let egress = system();
    for _ in 0..20 {
        let response = egress
            .request(local(addr, "/"), &AtomicBool::new(false))
            .await
            .unwrap();
        assert_eq!(response.body, "ok");
        // Lets the close arrive.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn dropping_a_stream_closes_its_connection() {
    let (closed, mut was_closed) = tokio::sync::mpsc::channel(1);
    let addr = server(move |_, mut stream| {
        let closed = closed.clone();
        async move {
            read_request(&mut stream).await;
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")
                .await;
            let mut rest = [0; 16];
            let _ = closed.send(stream.read(&mut rest).await.unwrap_or(0)).await;
        }
    })
    .await;
    let egress = system();
    let mut stream = egress
        .stream(local(addr, "/"), &AtomicBool::new(false))
        .await
        .unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap(), "abc");
    assert_eq!(egress.in_flight(), 1);
    drop(stream);
    assert_eq!(was_closed.recv().await, Some(0));
    assert_eq!((egress.in_flight(), egress.idle_connections()), (0, 0));
}

/// Covers: N2.
#[tokio::test]
async fn headers_that_frame_a_message_are_not_the_callers() {
    let egress = system();
    for name in [
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "upgrade",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "expect",
        "keep-alive",
    ] {
        let mut request = local("127.0.0.1:9".parse().unwrap(), "/");
        request.headers.insert(
            HeaderName::from_static(name),
            HeaderValue::from_static("hidden"),
        );
        assert_eq!(
            fails(&egress, request).await,
            (ErrorKind::Request, false),
            "{name}"
        );
    }
    let mut request = local("127.0.0.1:9".parse().unwrap(), "/");
    for i in 0..=limits::MAX_REQUEST_HEADERS {
        request.headers.insert(
            HeaderName::try_from(format!("x-{i}")).unwrap(),
            HeaderValue::from_static("1"),
        );
    }
    assert_eq!(fails(&egress, request).await, (ErrorKind::Request, false));
    let mut request = local("127.0.0.1:9".parse().unwrap(), "/");
    request.headers.insert(
        "x-big",
        HeaderValue::try_from("x".repeat(limits::MAX_REQUEST_HEADER_BYTES)).unwrap(),
    );
    assert_eq!(fails(&egress, request).await, (ErrorKind::Request, false));
    let mut request = local("127.0.0.1:9".parse().unwrap(), "/");
    request.method = Method::CONNECT;
    assert_eq!(fails(&egress, request).await, (ErrorKind::Request, false));
}

#[tokio::test]
async fn one_partition_cannot_take_all_places() {
    let addr = server(|_, mut stream| async move {
        read_request(&mut stream).await;
        let _ = stream
            .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            .await;
        std::future::pending::<()>().await;
    })
    .await;
    let egress = system();
    let mut held = Vec::new();
    for _ in 0..limits::MAX_IN_FLIGHT_PER_PARTITION {
        held.push(
            egress
                .stream(local(addr, "/"), &AtomicBool::new(false))
                .await
                .unwrap(),
        );
    }
    assert_eq!(
        fails(&egress, local(addr, "/")).await,
        (ErrorKind::Busy, false)
    );
    let mut other = local(addr, "/");
    other.partition = "tenant-b".into();
    held.push(egress.stream(other, &AtomicBool::new(false)).await.unwrap());
    held.clear();
    assert_eq!(egress.in_flight(), 0);
    assert!(
        egress
            .stream(local(addr, "/"), &AtomicBool::new(false))
            .await
            .is_ok()
    );
}

/// The second address answers where the first does not.
#[tokio::test]
async fn a_dead_address_does_not_hide_a_live_one() {
    struct FirstDead(SocketAddr);
    impl Dial for FirstDead {
        fn dial(&self, addr: SocketAddr) -> BoxFuture<'_, io::Result<BoxIo>> {
            Box::pin(async move {
                match addr.ip().to_string().as_str() {
                    "93.184.216.34" => std::future::pending().await,
                    "93.184.216.35" => Err(io::ErrorKind::ConnectionRefused.into()),
                    _ => TcpDialer.dial(self.0).await,
                }
            })
        }
    }
    let addr = server(counting).await;
    let names = Names::new(&[&["93.184.216.34", "93.184.216.35", "2606:4700::1111"]]);
    let egress = Egress::new(EgressOptions {
        resolver: names,
        dialer: Arc::new(FirstDead(addr)),
        ..EgressOptions::default()
    })
    .unwrap();
    let response = egress
        .request(public("http://example.com/"), &AtomicBool::new(false))
        .await
        .unwrap();
    assert_eq!(
        (response.body, response.peer.ip().to_string().as_str()),
        (Bytes::from("c0r0"), "2606:4700::1111")
    );
}

/// Environment variables name a proxy in a process of its own (this test run again): nothing goes there.
///
/// Covers: N1.
#[tokio::test]
async fn proxies_of_the_environment_are_ignored() {
    let hits = Arc::new(AtomicUsize::new(0));
    let counted = hits.clone();
    let proxy = server(move |_, _stream| {
        counted.fetch_add(1, Ordering::SeqCst);
        async {}
    })
    .await;
    let mut again = tokio::process::Command::new(std::env::current_exe().unwrap());
    again.args([
        "--exact",
        "client::tests::a_request_goes_out_as_written_and_comes_back_whole",
    ]);
    for name in [
        "http_proxy",
        "HTTP_PROXY",
        "https_proxy",
        "HTTPS_PROXY",
        "all_proxy",
        "ALL_PROXY",
    ] {
        again.env(name, format!("http://{proxy}"));
    }
    let output = again.output().await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
    assert_eq!(hits.load(Ordering::SeqCst), 0);
}

mod tls_checks {
    use super::*;

    struct TlsServer {
        addr: SocketAddr,
        certificate: CertificateDer<'static>,
    }

    /// Answers `ok` once per connection, with a certificate of its own for `example.com`.
    async fn tls_server() -> TlsServer {
        let made = rcgen::generate_simple_self_signed(["example.com".to_string()]).unwrap();
        let certificate = made.cert.der().clone();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let addr = server(move |_, stream| {
            let acceptor = acceptor.clone();
            async move {
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    return;
                };
                let mut buffer = [0; 4096];
                let _ = stream.read(&mut buffer).await;
                let _ = stream
                    .write_all(
                        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
                    )
                    .await;
                let _ = stream.shutdown().await;
            }
        })
        .await;
        TlsServer { addr, certificate }
    }

    fn egress(server: &TlsServer, roots: &[CertificateDer<'static>]) -> Egress {
        let wires = Arc::new(Wires {
            to: server.addr,
            dialled: Mutex::default(),
        });
        let options = EgressOptions {
            resolver: Names::new(&[&["93.184.216.34"]]),
            dialer: wires,
            extra_roots: roots.to_vec(),
        };
        Egress::new(options).unwrap()
    }

    #[tokio::test]
    async fn a_certificate_must_be_trusted_and_of_that_name() {
        let server = tls_server().await;
        let plain = egress(&server, &[]);
        assert_eq!(
            fails(&plain, public("https://example.com/hidden")).await,
            (ErrorKind::Tls, false)
        );
        let trusting = egress(&server, std::slice::from_ref(&server.certificate));
        let response = trusting
            .request(public("https://example.com/"), &AtomicBool::new(false))
            .await
            .unwrap();
        assert_eq!(response.body, "ok");
        assert_eq!(
            fails(&trusting, public("https://www.example.com/")).await,
            (ErrorKind::Tls, false)
        );
        assert_eq!(
            fails(&trusting, public("https://93.184.216.34/")).await,
            (ErrorKind::Tls, false)
        );
    }

    #[tokio::test]
    async fn a_pin_accepts_exactly_its_certificate() {
        let server = tls_server().await;
        let other = tls_server().await;
        let egress = egress(&server, &[]);
        let pin = crate::tls::pin_of(&server.certificate);
        assert_eq!(CertPin::parse(&pin.to_string().to_uppercase()), Some(pin));
        let mut request = public("https://gateway.example.com/");
        request.pin = Some(pin);
        assert_eq!(
            egress
                .request(request.clone(), &AtomicBool::new(false))
                .await
                .unwrap()
                .body,
            "ok"
        );
        request.pin = Some(crate::tls::pin_of(&other.certificate));
        assert_eq!(fails(&egress, request).await, (ErrorKind::Tls, false));
        for odd in ["", "abc", &"g".repeat(64), &"a".repeat(63), &"a".repeat(66)] {
            assert_eq!(CertPin::parse(odd), None);
        }
    }

    #[tokio::test]
    async fn a_byte_stream_is_checked_like_a_request() {
        let server = tls_server().await;
        let egress = egress(&server, std::slice::from_ref(&server.certificate));
        let url = Url::parse("https://example.com/").unwrap();
        let within = Duration::from_secs(20);
        let (mut io, peer) = egress
            .dial(&url, &AddressPolicy::any_public(), None, within)
            .await
            .unwrap();
        assert_eq!(peer, "93.184.216.34:443".parse().unwrap());
        io.write_all(b"x\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        let _ = io.read_to_string(&mut answer).await;
        assert!(answer.ends_with("ok"), "{answer}");
        let refused = egress
            .dial(&url, &AddressPolicy::default(), None, within)
            .await;
        assert!(refused.is_err_and(|e| e.kind == ErrorKind::NotAllowed && !e.request_sent));
    }
}
