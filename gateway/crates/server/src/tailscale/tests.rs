use http::{HeaderMap, HeaderName, HeaderValue};

use super::*;
use crate::guard::Socket;

fn held(port: u16) -> Arc<Tailscale> {
    let tailscale = Tailscale::new(TailscaleSettings {
        mode: gateway_config::TailscaleMode::Serve,
        reset_on_exit: false,
        program: None,
        https_port: port,
    });
    tailscale.name.store(Some(Arc::new(Name {
        host: "box.tail1234.ts.net".to_owned(),
        port,
    })));
    tailscale
}

fn socket(peer: &str) -> Socket {
    #[allow(clippy::unwrap_used)]
    Socket {
        local: "127.0.0.1:18789".parse().unwrap(),
        peer: peer.parse().unwrap(),
        tls: false,
        forwarded: false,
    }
}

fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in lines {
        map.append(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
    }
    map
}

const WHOLE: [(&str, &str); 4] = [
    ("host", "box.tail1234.ts.net"),
    ("x-forwarded-host", "box.tail1234.ts.net"),
    ("x-forwarded-proto", "https"),
    ("x-forwarded-for", "100.64.0.7"),
];

#[test]
fn only_the_whole_set_of_headers_on_loopback_is_a_request_of_the_tailnet() {
    let tailscale = held(443);
    let here = socket("127.0.0.1:50000");
    let front = tailscale.front(&here, &headers(&WHOLE));
    assert_eq!(
        front.map(|f| f.client.to_string()).as_deref(),
        Some("100.64.0.7")
    );
    for left_out in 0..WHOLE.len() {
        let mut lines = WHOLE.to_vec();
        lines.remove(left_out);
        assert!(
            tailscale.front(&here, &headers(&lines)).is_none(),
            "{left_out}"
        );
    }
    for (name, value) in [
        ("host", "localhost:18789"),
        ("host", "box.tail1234.ts.net:8443"),
        ("host", "evil.box.tail1234.ts.net"),
        ("x-forwarded-host", "other.ts.net"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-for", "100.64.0.7, 10.0.0.1"),
        ("x-forwarded-for", "nobody"),
    ] {
        let mut lines = WHOLE.to_vec();
        lines.retain(|(n, _)| *n != name);
        lines.push((name, value));
        assert!(
            tailscale.front(&here, &headers(&lines)).is_none(),
            "{name}: {value}"
        );
    }
    // Twice is as good as not at all.
    let mut twice = WHOLE.to_vec();
    twice.push(("x-forwarded-for", "100.64.0.8"));
    assert!(tailscale.front(&here, &headers(&twice)).is_none());
    assert!(
        tailscale
            .front(&socket("192.0.2.9:50000"), &headers(&WHOLE))
            .is_none()
    );
    tailscale.name.store(None);
    assert!(tailscale.front(&here, &headers(&WHOLE)).is_none());
}

#[test]
fn names_have_their_port() {
    let name = Name {
        host: "box.tail1234.ts.net".to_owned(),
        port: 8443,
    };
    assert!(name.is("box.tail1234.ts.net:8443") && name.is("BOX.tail1234.ts.net:8443"));
    assert!(!name.is("box.tail1234.ts.net") && !name.is("box.tail1234.ts.net:443"));
    assert_eq!(name.origin(), "https://box.tail1234.ts.net:8443");
    let usual = Name { port: 443, ..name };
    assert!(usual.is("box.tail1234.ts.net") && usual.is("box.tail1234.ts.net:443"));
    assert_eq!(usual.url(), "https://box.tail1234.ts.net/");
}

#[test]
fn what_a_program_says_is_one_short_line() {
    assert_eq!(
        told(b"  access\n denied \x1b[2J\n"),
        "access denied \\u{1b}[2J"
    );
    assert_eq!(told(b""), "it failed and said nothing");
    assert!(told(&[b'x'; 5_000]).len() <= TAILSCALE_TOLD_MAX_CHARS);
}
