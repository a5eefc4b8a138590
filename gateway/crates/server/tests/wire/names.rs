//! Host names, origins, forwarding headers, and what a stranger can see at all.

use gateway_config::Network;

use crate::support::*;

const PATHS: [&str; 10] = [
    "/",
    "/app.js",
    "/healthz",
    "/readyz",
    "/rpc",
    "/v1/models",
    "/v1/chat/completions",
    "/channels/webhook/default/in",
    "/t/acme/",
    "/nowhere",
];

/// Covers: B6.
#[test]
fn unknown_host_names_get_421_on_every_path() {
    let gw = plain();
    let port = gw.addr.port();
    for path in PATHS {
        for host in [
            "evil.example".to_owned(),
            format!("evil.example:{port}"),
            "localhost".to_owned(),
            "localhost:1".to_owned(),
            "0.0.0.0".to_owned(),
        ] {
            assert_eq!(
                gw.ask("GET", path, &[("Host", &host)], b"").status,
                421,
                "{path} {host}"
            );
            assert_eq!(
                gw.upgrade(path, &[("Host", &host)]).err(),
                Some(421),
                "{path} {host}"
            );
        }
        for host in [
            format!("localhost.:{port}"),
            format!("a@localhost:{port}"),
            "localhost:".to_owned(),
        ] {
            assert_eq!(
                gw.ask("GET", path, &[("Host", &host)], b"").status,
                400,
                "{path} {host}"
            );
        }
    }
    for host in [
        format!("localhost:{port}"),
        format!("127.0.0.1:{port}"),
        "x".to_owned(),
        "acme.example".to_owned(),
    ] {
        assert_eq!(
            gw.ask("GET", "/healthz", &[("Host", &host)], b"").status,
            200,
            "{host}"
        );
    }
}

/// Covers: B3, B8.
#[test]
fn foreign_origins_get_403_before_any_upgrade() {
    let gw = plain();
    let own = format!("http://{}", gw.addr);
    let bad = [
        "null",
        "file://",
        "http://evil.example",
        "http://LOCALHOST:1",
        "https://page.example.",
        "https://PAGE.example",
        "http://page.example",
        "https://page.example:8443",
        "http://127.0.0.1:1",
    ];
    for path in PATHS {
        for origin in bad {
            assert_eq!(
                gw.upgrade(path, &[("Origin", origin)]).err(),
                Some(403),
                "{path} {origin}"
            );
            assert_eq!(
                gw.ask("GET", path, &[("Origin", origin)], b"").status,
                403,
                "{path} {origin}"
            );
            assert_eq!(
                gw.ask("POST", path, &[("Origin", origin)], b"{}").status,
                403,
                "{path} {origin}"
            );
        }
    }
    for origin in [own.as_str(), "https://page.example"] {
        assert!(gw.upgrade("/", &[("Origin", origin)]).is_ok(), "{origin}");
    }
    // a tenant's page opens no door to another tenant, and none to a host name that is not its own
    assert_eq!(
        gw.upgrade(
            "/",
            &[("Origin", "http://acme.example"), ("Host", "acme.example")]
        )
        .err(),
        Some(403)
    );
    assert!(
        gw.upgrade(
            "/",
            &[("Origin", "https://acme.example"), ("Host", "acme.example")]
        )
        .is_ok()
    );
}

/// Covers: A15.
#[test]
fn nobody_on_this_machine_may_forward_for_others() {
    let gw = plain();
    for name in [
        "X-Forwarded-For",
        "Forwarded",
        "X-Real-IP",
        "X-Forwarded-Host",
        "Tailscale-User-Login",
    ] {
        assert_eq!(
            gw.ask("GET", "/healthz", &[(name, "127.0.0.1")], b"")
                .status,
            403,
            "{name}"
        );
        assert_eq!(
            gw.upgrade("/", &[(name, "127.0.0.1")]).err(),
            Some(403),
            "{name}"
        );
    }
    let behind = gateway(|o| {
        o.host.settings.gateway.trusted_proxies = vec![Network::parse("127.0.0.1").unwrap()];
    });
    let ask = |headers: &[(&str, &str)]| behind.ask("GET", "/healthz", headers, b"").status;
    let forwarded = ("X-Forwarded-For", "192.0.2.1");
    // A loopback name is not the name that a stranger asked for.
    assert_eq!(ask(&[forwarded]), 421);
    assert_eq!(ask(&[forwarded, ("Host", "acme.example")]), 200);
    let garbled = ("X-Forwarded-For", "me");
    assert_eq!(ask(&[garbled, ("Host", "acme.example")]), 400);
    assert_eq!(ask(&[]), 200, "a program of this machine is still local");
}

/// Covers: B10, A13, S6.
#[test]
fn strangers_see_the_page_and_two_words() {
    let gw = plain();
    let tenants = [vec![], vec![("Host", "acme.example")]];
    let open = [
        "/",
        "/app.js",
        "/style.css",
        "/healthz",
        "/health",
        "/readyz",
        "/ready",
    ];
    for path in open {
        let first = gw.ask("GET", path, &[], b"");
        assert_eq!(first.status, 200, "{path}");
        for headers in &tenants {
            assert_eq!(gw.ask("GET", path, headers, b"").body, first.body, "{path}");
        }
        for prefix in ["/t/main", "/t/acme", "/t/nobody"] {
            assert_eq!(
                gw.ask("GET", &format!("{prefix}{path}"), &[], b"").body,
                first.body,
                "{prefix}{path}"
            );
        }
        assert!(
            !first.body.contains(env!("CARGO_PKG_VERSION")) && !first.body.contains("acme"),
            "{path}"
        );
    }
    for (method, path) in [
        ("GET", "/v1/models"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/rpc"),
        ("GET", "/v1/models/openclaw"),
        ("GET", "/metrics"),
    ] {
        let plain = gw.ask(method, path, &[("Content-Type", "application/json")], b"{}");
        assert_eq!(plain.status, 401, "{path}");
        // a tenant that exists and one that does not are refused with the same bytes
        let known = gw.ask(
            method,
            &format!("/t/acme{path}"),
            &[("Authorization", "Bearer wrong")],
            b"{}",
        );
        let unknown = gw.ask(
            method,
            &format!("/t/nobody{path}"),
            &[("Authorization", "Bearer wrong")],
            b"{}",
        );
        assert_eq!((known.status, &known.body), (401, &unknown.body), "{path}");
    }
    for path in [
        "/config",
        "/.well-known/x",
        "/v1",
        "/channels/webhook/default/in",
        "/t/acme/channels/webhook/default/in",
        "/index.html",
    ] {
        assert_eq!(gw.ask("GET", path, &[], b"").status, 404, "{path}");
    }
}

/// Covers: S6, B9.
#[test]
fn every_answer_has_the_security_headers_and_no_name() {
    let gw = plain();
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/healthz"),
        ("GET", "/nowhere"),
        ("POST", "/healthz"),
        ("GET", "/v1/models"),
        ("DELETE", "/"),
        ("GET", "/%2e%2e/"),
    ] {
        let answer = gw.ask(method, path, &[], b"");
        for name in [
            "x-content-type-options",
            "referrer-policy",
            "content-security-policy",
            "cross-origin-opener-policy",
            "cross-origin-resource-policy",
            "cache-control",
        ] {
            assert!(
                answer.header(name).is_some(),
                "{path}: {name} in {}",
                answer.head
            );
        }
        let csp = answer.header("content-security-policy").unwrap();
        assert!(
            csp.contains("frame-ancestors 'none'") && !csp.contains("unsafe"),
            "{csp}"
        );
        assert!(
            answer.header("server").is_none()
                && answer.header("x-powered-by").is_none()
                && answer.header("access-control-allow-origin").is_none()
        );
    }
    let raw = gw
        .raw(
            b"GET / HTTP/1.1\r\n\r\n",
            std::time::Duration::from_millis(500),
        )
        .text();
    assert!(
        raw.contains("nosniff")
            && raw.contains("frame-ancestors")
            && !raw.to_lowercase().contains("server:")
    );
}

/// Covers: B7.
#[test]
fn changing_anything_takes_a_bearer_and_json() {
    let gw = plain();
    let bearer = format!("Bearer {TOKEN}");
    let body = br#"{"jsonrpc":"2.0","id":1,"method":"sessions.list"}"#;
    for kind in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/json-patch+json",
    ] {
        for path in ["/rpc", "/v1/chat/completions"] {
            assert_eq!(
                gw.ask(
                    "POST",
                    path,
                    &[("Authorization", &bearer), ("Content-Type", kind)],
                    body
                )
                .status,
                415,
                "{path} {kind}"
            );
        }
    }
    assert_eq!(
        gw.ask(
            "POST",
            "/rpc",
            &[("Content-Type", "application/json"), ("Cookie", "token=x")],
            body
        )
        .status,
        401
    );
    assert_eq!(
        gw.ask(
            "POST",
            "/rpc",
            &[
                ("Authorization", &bearer),
                ("Content-Type", "application/json; charset=utf-8")
            ],
            body
        )
        .status,
        200
    );
    // nothing but GET, HEAD and POST; GET changes nothing because no address that changes something knows it
    for method in ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"] {
        assert_eq!(
            gw.ask(method, "/rpc", &[("Authorization", &bearer)], b"")
                .status,
            405,
            "{method}"
        );
    }
    for path in ["/rpc", "/v1/chat/completions"] {
        assert_eq!(
            gw.ask("GET", path, &[("Authorization", &bearer)], b"")
                .status,
            405,
            "{path}"
        );
    }
    assert_eq!(gw.ask("HEAD", "/healthz", &[], b"").body, "");
}

/// Covers: A17, A16, Z4.
#[test]
fn the_tenant_comes_from_host_path_or_credential_and_they_must_agree() {
    let gw = plain();
    let ask = |token: &str, path: &str, host: Option<&str>| {
        let bearer = format!("Bearer {token}");
        let mut headers = vec![("Authorization", bearer.as_str())];
        headers.extend(host.map(|h| ("Host", h)));
        gw.ask("GET", path, &headers, b"").status
    };
    assert_eq!(ask(ACME, "/v1/models", None), 200);
    assert_eq!(ask(ACME, "/t/acme/v1/models", None), 200);
    assert_eq!(ask(ACME, "/v1/models", Some("acme.example")), 200);
    assert_eq!(ask(ACME, "/t/main/v1/models", None), 401);
    assert_eq!(ask(ACME, "/t/main/v1/models", Some("acme.example")), 401);
    assert_eq!(ask(TOKEN, "/t/acme/v1/models", None), 401);
    assert_eq!(ask(TOKEN, "/v1/models", Some("acme.example")), 401);
    assert_eq!(ask(TOKEN, "/t/nobody/v1/models", None), 401);
    assert_eq!(ask(TOKEN, "/v1/models", None), 200);
}
