//! The table of `HTTP/1.1` spellings: what is refused, and that nothing hidden behind it is ever answered.

use std::{io::Write, time::Duration};

use crate::support::*;

const QUIET: Duration = Duration::from_millis(700);

/// One row: name, the request, and the statuses that the first answer may have.
struct Row(&'static str, Vec<u8>, &'static [u16]);

fn rows() -> Vec<Row> {
    // What an attacker would like to have answered as a second request.
    const HIDDEN: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    let post = |headers: &str, body: &[u8]| {
        [
            b"POST /rpc HTTP/1.1\r\nHost: x\r\n",
            headers.as_bytes(),
            b"\r\n",
            body,
        ]
        .concat()
    };
    let with_hidden = |headers: &str, body: &[u8]| [post(headers, body), HIDDEN.to_vec()].concat();
    let get = |rest: &str| format!("GET /healthz HTTP/1.1\r\nHost: x\r\n{rest}\r\n").into_bytes();
    let many: String = (0..101).map(|i| format!("X-{i}: a\r\n")).collect();
    vec![
        Row(
            "length beside coding",
            with_hidden(
                "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
                b"0\r\n\r\n",
            ),
            &[400],
        ),
        Row(
            "coding beside length",
            with_hidden(
                "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
                b"0\r\n\r\n",
            ),
            &[400],
        ),
        Row(
            "two lengths, different",
            with_hidden("Content-Length: 1\r\nContent-Length: 5\r\n", b"a"),
            &[400],
        ),
        Row(
            "two lengths, equal",
            with_hidden("Content-Length: 1\r\nContent-Length: 1\r\n", b"a"),
            &[400],
        ),
        Row(
            "length with a plus",
            with_hidden("Content-Length: +1\r\n", b"a"),
            &[400],
        ),
        Row(
            "list of lengths",
            with_hidden("Content-Length: 1, 1\r\n", b"a"),
            &[400],
        ),
        Row(
            "negative length",
            with_hidden("Content-Length: -1\r\n", b""),
            &[400],
        ),
        Row(
            "hex length",
            with_hidden("Content-Length: 0x1\r\n", b"a"),
            &[400],
        ),
        Row(
            "unknown coding",
            with_hidden("Transfer-Encoding: xchunked\r\n", b"0\r\n\r\n"),
            &[400, 501],
        ),
        Row(
            "coding after chunked",
            with_hidden("Transfer-Encoding: chunked, identity\r\n", b"0\r\n\r\n"),
            &[400, 501],
        ),
        Row(
            "coding before chunked",
            with_hidden("Transfer-Encoding: gzip, chunked\r\n", b"0\r\n\r\n"),
            &[400, 501],
        ),
        Row(
            "two codings",
            with_hidden(
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                b"0\r\n\r\n",
            ),
            &[400, 501],
        ),
        Row(
            "coding on 1.0",
            [
                b"POST /rpc HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                HIDDEN,
            ]
            .concat(),
            &[400, 505],
        ),
        Row(
            "version 1.0",
            b"GET /healthz HTTP/1.0\r\nHost: x\r\n\r\n".to_vec(),
            &[505],
        ),
        Row(
            "version 2 preface",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            &[400, 505],
        ),
        Row(
            "blank before colon",
            with_hidden("Content-Length : 1\r\n", b"a"),
            &[400],
        ),
        Row("folded line", get("X-A: a\r\n b\r\n"), &[400]),
        Row(
            "bare LF",
            b"GET /healthz HTTP/1.1\nHost: x\n\n".to_vec(),
            &[400],
        ),
        Row(
            "one bare LF",
            b"GET /healthz HTTP/1.1\r\nHost: x\nX-A: b\r\n\r\n".to_vec(),
            &[400],
        ),
        Row("bare CR", get("X-A: a\rb\r\n"), &[400]),
        Row("NUL", get("X-A: a\0b\r\n"), &[400]),
        Row("no Host", b"GET /healthz HTTP/1.1\r\n\r\n".to_vec(), &[400]),
        Row(
            "two Hosts",
            b"GET /healthz HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n".to_vec(),
            &[400],
        ),
        Row(
            "two equal Hosts",
            b"GET /healthz HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n".to_vec(),
            &[400],
        ),
        Row(
            "foreign absolute form",
            b"GET http://evil/healthz HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
            &[400, 421],
        ),
        Row(
            "extension of 1 MB",
            [
                post("Transfer-Encoding: chunked\r\n", b"1;"),
                vec![b'a'; 1_000_000],
                b"\r\nA\r\n0\r\n\r\n".to_vec(),
                HIDDEN.to_vec(),
            ]
            .concat(),
            &[0, 400, 401],
        ),
        Row(
            "hex prefix in a chunk size",
            with_hidden("Transfer-Encoding: chunked\r\n", b"0x1\r\nA\r\n0\r\n\r\n"),
            &[400, 401],
        ),
        Row(
            "LF after a chunk size",
            with_hidden("Transfer-Encoding: chunked\r\n", b"1\nA\r\n0\r\n\r\n"),
            &[400, 401],
        ),
        Row("101 headers", get(&many), &[431]),
        Row(
            "500 KB header",
            get(&format!("X: {}\r\n", "a".repeat(500_000))),
            &[431],
        ),
        Row(
            "encoded dots",
            b"GET /%2e%2e/healthz HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
            &[400, 404],
        ),
        Row("body on GET", with_get_body(HIDDEN), &[400]),
        Row("garbage", b"\x16\x03\x01\x00\xa5\x01\x00".to_vec(), &[400]),
    ]
}

fn with_get_body(hidden: &[u8]) -> Vec<u8> {
    [
        b"GET /readyz HTTP/1.1\r\nHost: x\r\nContent-Length: 34\r\n\r\n",
        hidden,
    ]
    .concat()
}

/// Covers: R4, R9, N10.
#[test]
fn no_ambiguous_request_is_served_and_nothing_behind_it() {
    let gw = plain();
    for Row(name, bytes, allowed) in rows() {
        let raw = gw.raw(&bytes, QUIET);
        let statuses = raw.statuses();
        assert!(
            statuses.len() <= 1,
            "{name}: a second answer in {:?}",
            raw.text()
        );
        let first = statuses.first().copied().unwrap_or(0);
        assert!(
            allowed.contains(&first),
            "{name}: {first} in {:?}",
            raw.text()
        );
        // A kept-alive connection is fine only where the request itself was.
        assert!(
            raw.closed || first == 404,
            "{name}: still open after {first}"
        );
    }
}

/// Covers: R9.
#[test]
fn a_chunked_request_is_the_last_of_its_connection() {
    let gw = plain();
    let bytes = b"POST /rpc HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    let raw = gw.raw(bytes, QUIET);
    assert_eq!(
        (raw.statuses(), raw.closed),
        (vec![401], true),
        "{:?}",
        raw.text()
    );
}

/// Covers: R9.
#[test]
fn good_requests_share_a_connection_each_judged_for_itself() {
    let gw = plain();
    let good = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    let with_body = format!(
        "POST /rpc HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\nContent-Length: 40\r\n\r\n"
    );
    let call = br#"{"jsonrpc":"2.0","id":1,"method":"none"}"#;
    assert_eq!(call.len(), 40);
    let all = [good.as_slice(), with_body.as_bytes(), call, good].concat();
    assert_eq!(gw.raw(&all, QUIET).statuses(), [200, 200, 200]);
    // the same byte by byte
    let mut s = gw.tcp();
    s.set_read_timeout(Some(QUIET)).unwrap();
    for b in &all {
        s.write_all(&[*b]).unwrap();
    }
    assert_eq!(read_all(&mut s).statuses(), [200, 200, 200]);
    // a bad one behind good ones is refused as if it had come alone
    let bad = [
        good.as_slice(),
        good,
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        good,
    ]
    .concat();
    let raw = gw.raw(&bad, QUIET);
    assert_eq!((raw.statuses(), raw.closed), (vec![200, 200, 400], true));
    // a body that looks like a request is a body
    let inner = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    let outer = format!(
        "POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
        inner.len()
    );
    assert_eq!(
        gw.raw(&[outer.as_bytes(), inner].concat(), QUIET)
            .statuses(),
        [404]
    );
}

/// Covers: R3.
#[test]
fn slow_heads_and_slow_bodies_are_ended() {
    let gw = gateway(|o| {
        o.limits = Some(gateway_server::ServerLimits {
            header_read_timeout_ms: 600,
            body_grace_ms: 600,
            body_deadline_ms: 2_000,
            preauth_per_address: 200,
            ..Default::default()
        });
    });
    let long = Duration::from_secs(8);
    let auth = format!(
        "POST /rpc HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\na"
    );
    for (what, bytes) in [
        ("half a head", "GET /healthz HTTP/1.1\r\nHost: x\r\n"),
        ("nothing", ""),
        ("half a body", &auth),
        ("idle", "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"),
    ] {
        let raw = gw.raw(bytes.as_bytes(), long);
        assert!(raw.closed, "{what}: still open");
        if what == "half a body" {
            assert_eq!(raw.statuses(), [408]);
        }
    }
    // many of them do not keep others out
    let slow: Vec<_> = (0..100)
        .map(|_| {
            let mut s = gw.tcp();
            s.write_all(b"GET / HTTP/1.1\r\n").unwrap();
            s
        })
        .collect();
    assert_eq!(gw.ask("GET", "/healthz", &[], b"").status, 200);
    drop(slow);
}

/// Covers: R15.
#[test]
fn deep_and_repeated_json_is_refused_on_every_entry() {
    let gw = plain();
    let deep = "[".repeat(100_000);
    let deep_value = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"health","params":{{"a":{}}}}}"#,
        "[".repeat(50_000) + &"]".repeat(50_000)
    );
    assert_eq!(gw.rpc(TOKEN, &deep).json()["error"]["code"], -32700);
    assert!(gw.rpc(TOKEN, &deep_value).json()["error"]["code"].is_i64());
    let bearer = format!("Bearer {TOKEN}");
    let headers = [
        ("Authorization", bearer.as_str()),
        ("Content-Type", "application/json"),
    ];
    for body in [
        deep.as_str(),
        r#"{"model":"openclaw","model":"openclaw","messages":[]}"#,
        &format!(r#"{{"model":{deep}"#),
    ] {
        assert_eq!(
            gw.ask("POST", "/v1/chat/completions", &headers, body.as_bytes())
                .status,
            400
        );
    }
    let mut ws = gw.connected();
    ws.text(&deep);
    ws.call("after", "health", serde_json::json!({}));
    assert_eq!(ws.answer("after")["ok"], true);
}

/// Covers: N7.
#[test]
fn bodies_have_limits_while_they_stream() {
    let gw = plain();
    let auth = format!("Authorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n");
    // declared too large: refused without waiting for it
    let big = format!("POST /rpc HTTP/1.1\r\nHost: x\r\n{auth}Content-Length: 999999999\r\n\r\n");
    assert_eq!(gw.raw(big.as_bytes(), QUIET).statuses(), [413]);
    // not declared: refused when it got too large
    let mut s = gw.tcp();
    s.write_all(
        format!("POST /rpc HTTP/1.1\r\nHost: x\r\n{auth}Transfer-Encoding: chunked\r\n\r\n")
            .as_bytes(),
    )
    .unwrap();
    let chunk = [b"10000\r\n".to_vec(), vec![b' '; 65_536], b"\r\n".to_vec()].concat();
    for _ in 0..100 {
        if s.write_all(&chunk).is_err() {
            break;
        }
    }
    assert_eq!(read_all(&mut s).statuses(), [413]);
    // who sends much to where nothing is gets to read so
    let mut s = gw.tcp();
    s.write_all(b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\n")
        .unwrap();
    s.write_all(&vec![b'a'; 3_000_000]).unwrap();
    assert_eq!(read_all(&mut s).statuses(), [404]);
    // without a credential nothing is read at all
    let stranger = gw.raw(b"POST /rpc HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n", QUIET);
    assert_eq!(stranger.statuses(), [401]);
}

/// HTTP/2 is not spoken, so its floods have nothing to flood: the preface is refused and an upgrade to it is not taken.
/// Covers: R10, R11.
#[test]
fn http2_is_not_there() {
    let gw = plain();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
    let raw = gw.raw(preface, QUIET);
    assert!(raw.closed, "{}", raw.text());
    assert!(
        raw.statuses().iter().all(|status| *status >= 400),
        "{}",
        raw.text()
    );
    let port = gw.addr.port();
    let upgrade = format!(
        "GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n"
    );
    let raw = gw.raw(upgrade.as_bytes(), QUIET);
    assert!(!raw.statuses().contains(&101), "{}", raw.text());
}
