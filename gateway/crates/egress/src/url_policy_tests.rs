#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::address::AddressPolicy;

/// Spellings of targets inside, each refused by the parser or by the policy for public targets, before any look-up.
///
/// Covers: N1.
#[test]
fn hostile_spellings_of_inner_targets_are_refused() {
    let corpus = [
        // number hosts
        "http://127.0.0.1/",
        "http://127.1/",
        "http://127.0.1/",
        "http://2130706433/",
        "http://017700000001/",
        "http://0x7f000001/",
        "http://0x7f.0.0.1/",
        "http://0x7f.1/",
        "http://0177.0.0.1/",
        "http://127.0.0.01/",
        "http://127.0.0.0x1/",
        "http://127.000.000.001/",
        "http://0/",
        "http://0.0.0.0/",
        "http://00000000/",
        "http://0x0/",
        "http://0X7F000001/",
        "http://4294967295/",
        "http://425.510.425.510/",
        "http://127.0.0.1.1/",
        "http://1.2.3/",
        "http://example.1/",
        "http://foo.0x1/",
        "http://0x/",
        "http://127.0.0.256/",
        // names of this machine
        "http://localhost/",
        "http://LOCALHOST/",
        "http://LocalHost:80/",
        "http://localhost./",
        "http://localhost../",
        "http://a.localhost/",
        "http://a.b.LOCALHOST/",
        "http://localhost.localdomain/",
        "http://ip6-localhost/",
        "http://metadata/",
        "http://metadata.google.internal/",
        "http://metadata.google.internal./",
        "http://printer.local/",
        "http://kubernetes.default.svc.cluster.local/",
        "http://router.lan/",
        "http://1.0.0.127.in-addr.arpa/",
        "http://intranet/",
        // trailing and empty labels
        "http://127.0.0.1./",
        "http://127.0.0.1../",
        "http://.127.0.0.1/",
        "http://example.com./",
        "http://example..com/",
        "http://./",
        "http:///etc/passwd",
        "http://",
        "http://:80/",
        // IPv6
        "http://[::1]/",
        "http://[0:0:0:0:0:0:0:1]/",
        "http://[::]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:7f00:1]/",
        "http://[0:0:0:0:0:ffff:127.0.0.1]/",
        "http://[::127.0.0.1]/",
        "http://[::ffff:0:127.0.0.1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[64:ff9b:1::10.0.0.1]/",
        "http://[2002:7f00:1::]/",
        "http://[2001:0:7f00:1::]/",
        "http://[fe80::1]/",
        "http://[fe80::1%25eth0]/",
        "http://[fe80::1%eth0]/",
        "http://[::1%25lo]/",
        "http://[fc00::1]/",
        "http://[fd00:ec2::254]/",
        "http://[ff02::1]/",
        "http://[fec0::1]/",
        "http://[::1/",
        "http://::1/",
        "http://[::1]x/",
        "http://[v1.x]/",
        "http://[127.0.0.1]/",
        "http://[[::1]]/",
        "http://[::1]:/",
        // metadata and private networks
        "http://169.254.169.254/latest/meta-data/",
        "http://169.254.170.2/",
        "http://2852039166/",
        "http://0xa9fea9fe/",
        "http://0251.0376.0251.0376/",
        "http://[::ffff:169.254.169.254]/",
        "http://100.100.100.200/",
        "http://168.63.129.16/",
        "http://192.0.0.192/",
        "http://10.0.0.1/",
        "http://172.16.0.1/",
        "http://192.168.1.1/",
        "http://100.64.0.1/",
        "http://198.18.0.1/",
        "http://192.88.99.1/",
        "http://224.0.0.1/",
        "http://255.255.255.255/",
        "http://240.0.0.1/",
        // user names
        "http://user@127.0.0.1/",
        "http://example.com@127.0.0.1/",
        "http://example.com:80@127.0.0.1/",
        "http://a:b@example.com/",
        "http://@example.com/",
        "http://127.0.0.1:80@example.com/",
        "http://example.com%40127.0.0.1/",
        // two readings: backslash, tab, line feed, space, fragment and question mark in the authority
        "http:\\\\127.0.0.1\\",
        "http://example.com\\@127.0.0.1/",
        "http://127.0.0.1\\.example.com/",
        "http:/\\127.0.0.1/",
        "http:127.0.0.1",
        "http:/127.0.0.1/",
        "//127.0.0.1/",
        "http://127.0.0.1\t/",
        "http://127.\t0.0.1/",
        "ht\ntp://127.0.0.1/",
        "http://127.0.0.1\n.example.com/",
        " http://127.0.0.1/",
        "http://127.0.0.1 /",
        "http://example.com#@127.0.0.1/",
        "http://127.0.0.1#.example.com/",
        "http://127.0.0.1?.example.com/",
        "http://127.0.0.1%2f.example.com/",
        "http://127.0.0.1%00.example.com/",
        "http://127%2e0%2e0%2e1/",
        "http://%31%32%37.0.0.1/",
        "http://%6c%6f%63alhost/",
        "http://127.0.0.1\0.example.com/",
        // other scripts
        "http://１２７.0.0.1/",
        "http://①②⑦.⓪.⓪.①/",
        "http://127。0。0。1/",
        "http://127．0．0．1/",
        "http://127｡0｡0｡1/",
        "http://loc\u{ad}alhost/",
        "http://ⓛocalhost/",
        "http://localho\u{17f}t/",
        "http://locaⅼhost/",
        "http://١٢٧.0.0.1/",
        "http://127.0.0.1\u{200b}/",
        "http://ex\u{301}ample.com/",
        // ports and schemes
        "http://127.0.0.1:080/",
        "http://example.com:/",
        "http://example.com:0/",
        "http://example.com:080/",
        "http://example.com:65536/",
        "http://example.com:+80/",
        "http://example.com:80:80/",
        "http://example.com:８０/",
        "file:///etc/passwd",
        "ftp://example.com/",
        "gopher://127.0.0.1:6379/_",
        "dict://127.0.0.1:11211/",
        "javascript:alert(1)",
        "data:text/plain,x",
        "ws://127.0.0.1/",
        "unix:///run/x.sock",
        "http+unix://%2frun%2fx.sock/",
        "jar:http://127.0.0.1!/",
        "url:http://127.0.0.1/",
        "",
        "/",
        "127.0.0.1",
        // odd labels
        "http://-example.com/",
        "http://example-.com/",
        "http://exa mple.com/",
        "http://exam!ple.com/",
        "http://*.example.com/",
        "http://{x}.example.com/",
    ];
    let policy = AddressPolicy::any_public();
    let mut refused = 0;
    for text in corpus {
        let verdict = Url::parse(text)
            .map_err(|e| e.to_string())
            .and_then(|u| policy.check_target(&u).map_err(|e| e.to_string()));
        assert!(verdict.is_err(), "accepted: {text:?}");
        refused += 1;
    }
    assert!(refused >= 60, "{refused}");
    let long = format!("http://{}.com/", "a".repeat(64));
    assert!(Url::parse(&long).is_err());
    assert!(Url::parse(&format!("http://{}com/", "a.".repeat(130))).is_err());
    assert!(Url::parse(&format!("http://example.com/{}", "a".repeat(MAX_URL_BYTES))).is_err());
}

#[test]
fn ordinary_urls_have_one_spelling() {
    for (text, origin, target) in [
        ("https://api.example.com", "https://api.example.com", "/"),
        (
            "HTTPS://API.Example.COM:443/Path?Q=1&r=%20x",
            "https://api.example.com",
            "/Path?Q=1&r=%20x",
        ),
        (
            "http://example.com:8080?x",
            "http://example.com:8080",
            "/?x",
        ),
        ("http://93.184.216.34/", "http://93.184.216.34", "/"),
        (
            "http://[2606:4700:0:0::1111]:8080/a",
            "http://[2606:4700::1111]:8080",
            "/a",
        ),
        (
            "https://xn--bcher-kva.example/",
            "https://xn--bcher-kva.example",
            "/",
        ),
        (
            "https://example.com/a/..b/c.d/...?../x",
            "https://example.com",
            "/a/..b/c.d/...?../x",
        ),
        (
            "https://example.com/a%20b/%C3%A9?text=%0A",
            "https://example.com",
            "/a%20b/%C3%A9?text=%0A",
        ),
        (
            "https://my_host.example.com/",
            "https://my_host.example.com",
            "/",
        ),
    ] {
        let url = Url::parse(text).unwrap();
        assert_eq!(
            (url.origin().as_str(), url.target()),
            (origin, target),
            "{text}"
        );
        assert_eq!(
            Url::parse(&url.expose()),
            Ok(url.clone()),
            "the one spelling reads as itself"
        );
        assert!(
            !format!("{url:?} {url}").contains("Path"),
            "neither Debug nor Display shows a path"
        );
    }
    let base = Url::parse("http://example.com/v1/").unwrap();
    assert_eq!(
        base.join_path("/chat/completions").unwrap().target(),
        "/v1/chat/completions"
    );
    assert!(
        Url::parse("http://example.com/v1?x=1")
            .unwrap()
            .join_path("/y")
            .is_err()
    );
}

/// Covers: N1.
#[test]
fn paths_with_a_second_reading_are_refused() {
    for path in [
        "/../x",
        "/a/..",
        "/a/./b",
        "/.",
        "/%2e%2e/x",
        "/%2E./x",
        "/.%2e/x",
        "/a%2f..%2fb",
        "/a%5c..%5cb",
        "/a\\..\\b",
        "/%252e%252e/x",
        "/a%252f..%252fb",
        "/..;/x",
        "/..;a=b/x",
        "/%2e%2e;/x",
        "/a%00b",
        "/a%0ab",
        "/a%0d%0aHost:x",
        "/a%7fb",
        "/a%",
        "/a%2",
        "/a%zz",
        "/a b",
        "/a\tb",
        "/<x>",
        "/a{b}",
        "/a|b",
        "/{secret:x}",
        "/é",
        "/a?b=%",
        "/a?b=\"",
        "/a#b",
    ] {
        assert!(
            Url::parse(&format!("https://example.com{path}")).is_err(),
            "accepted {path}"
        );
    }
}

fn rule(text: &str) -> UrlRule {
    UrlRule::parse(text).unwrap()
}

fn allows(rule: &UrlRule, method: Method, url: &str) -> bool {
    UrlTemplate::parse(url).is_ok_and(|u| rule.matches(&method, &u))
}

/// Covers: N1, N3.
#[test]
fn rules_name_paths_and_nothing_beside_them() {
    let bot = rule("GET|POST https://api.example.com/bot{secret:token}/*");
    for (url, want) in [
        (
            "https://api.example.com/bot{secret:token}/getUpdates?offset=1",
            true,
        ),
        ("https://api.example.com/bot{secret:token}/a/b", true),
        ("https://api.example.com/bot{secret:token}/", true),
        ("https://api.example.com/bot{secret:token}", false),
        ("https://api.example.com/bot{secret:other}/getMe", false),
        (
            "https://api.example.com/bot{secret:token}/{secret:token}",
            false,
        ),
        ("https://api.example.com/botX/getMe", false),
        ("https://api.example.com/{secret:token}/getMe", false),
        ("https://api.example.com:444/bot{secret:token}/getMe", false),
        ("http://api.example.com:443/bot{secret:token}/getMe", false),
        ("https://evil.example/bot{secret:token}/getMe", false),
        ("https://api.example.com/bot{secret:token}/../x", false),
        ("https://api.example.com/bot{secret:token}/%2e%2e/x", false),
        (
            "https://api.example.com/bot{secret:token}/x?y={secret:token}",
            false,
        ),
        ("https://{secret:token}.example.com/", false),
    ] {
        assert_eq!(allows(&bot, Method::GET, url), want, "{url}");
    }
    assert!(!allows(
        &bot,
        Method::DELETE,
        "https://api.example.com/bot{secret:token}/getMe"
    ));
    assert_eq!(bot.secrets(), ["token"]);

    let inner = rule("https://example.com/a*c/*/end");
    for (path, want) in [
        ("/abc/x/end", true),
        ("/ac//end", true),
        ("/a/c/x/end", false),
        ("/abc/x/y/end", false),
        ("/abc/x/end/", false),
        ("/abcd/x/end", false),
    ] {
        assert_eq!(
            allows(&inner, Method::POST, &format!("https://example.com{path}")),
            want,
            "{path}"
        );
    }
    let rest = rule("https://example.com/files/v*.*");
    for (path, want) in [
        ("/files/v1.2", true),
        ("/files/v1.2/x/y", true),
        ("/files/v12", false),
        ("/files/x/v1.2", false),
        ("/files/v{secret:a}.1", false),
        ("/files/v1.{secret:a}", false),
        ("/files/v1.2/{secret:a}", false),
    ] {
        assert_eq!(
            allows(&rest, Method::GET, &format!("https://example.com{path}")),
            want,
            "{path}"
        );
    }
    let all = rule("https://example.com/*");
    assert!(
        allows(&all, Method::GET, "https://example.com")
            && allows(&all, Method::PUT, "https://example.com/a/b?c")
    );
    assert!(!allows(&all, Method::GET, "https://example.com/{secret:a}"));
    let exact = rule("https://example.com/hook");
    assert!(
        allows(&exact, Method::POST, "https://example.com/hook?x")
            && !allows(&exact, Method::POST, "https://example.com/hook/")
    );
    assert!(
        !allows(&exact, Method::POST, "https://example.com/Hook")
            && !allows(&exact, Method::POST, "https://example.com/%68ook")
    );

    for odd in [
        "",
        "*",
        "https://*/x",
        "https://*.example.com/",
        "GOT https://example.com/",
        "GET  https://example.com/",
        "https://example.com/?x",
        "https://example.com/a/../*",
        "https://example.com/{secret:}",
        "https://example.com/{other:x}",
        "https://example.com/*********",
    ] {
        assert!(UrlRule::parse(odd).is_err(), "accepted {odd:?}");
    }
}

/// Covers: N2.
#[test]
fn secrets_go_to_their_place_and_cannot_change_the_target() {
    let expand = |url: &str, value: &'static str| {
        UrlTemplate::parse(url)
            .unwrap()
            .expand(&|name| (name == "t").then(|| value.to_string()))
            .map(|u| u.expose())
    };
    let url = "https://example.com/bot{secret:t}/send?x=1";
    assert_eq!(
        expand(url, "123:AB-c_d").unwrap(),
        "https://example.com/bot123:AB-c_d/send?x=1"
    );
    assert_eq!(
        expand(url, "a/b?c#d e%\u{e9}").unwrap(),
        "https://example.com/bota%2Fb%3Fc%23d%20e%25%C3%A9/send?x=1"
    );
}

#[test]
fn a_value_that_is_missing_or_odd_is_an_error_without_the_value() {
    let url = UrlTemplate::parse("https://example.com/{secret:t}/x").unwrap();
    assert_eq!(url.secrets(), ["t"]);
    for value in [
        None,
        Some(""),
        Some("."),
        Some(".."),
        Some("s3cret/../x"),
        Some("s3cret\0"),
        Some("s3cret%2f.."),
    ] {
        let error = url
            .expand(&|_| value.map(String::from))
            .unwrap_err()
            .to_string();
        assert!(!error.contains("s3cret"), "{error}");
    }
    assert!(!format!("{url:?}").contains('{'));
}

mod properties {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// What is accepted reads as itself, and no text makes the parser panic.
        #[test]
        fn accepted_urls_are_stable(text in "(https?://)?[a-zA-Z0-9.:@\\[\\]%/\\\\?#é._~-]{0,40}") {
            if let Ok(url) = Url::parse(&text) {
                prop_assert_eq!(Url::parse(&url.expose()), Ok(url.clone()));
                prop_assert!(url.target().starts_with('/'));
            }
        }

        /// A pattern without stars matches exactly its own text; with one at the end, each text that begins with it.
        #[test]
        fn patterns_match_what_they_say(path in "/[a-z/]{0,12}", more in "[a-z/]{0,6}", other in "/[a-z/]{0,12}") {
            let of = |p: &str| format!("https://example.com{p}");
            prop_assert!(allows(&rule(&of(&path)), Method::GET, &of(&path)));
            prop_assert_eq!(allows(&rule(&of(&path)), Method::GET, &of(&other)), path == other);
            let open = format!("{path}*");
            let longer = format!("{path}{more}");
            prop_assert!(allows(&rule(&of(&open)), Method::GET, &of(&longer)));
            prop_assert_eq!(allows(&rule(&of(&open)), Method::GET, &of(&other)), other.starts_with(&path));
        }
    }
}

/// A rule is matched without going back: eight times the text takes about eight times as long, however many `*` the
/// rule has and however nearly the text fits. (A backtracking matcher would not end.)
/// Covers: R14.
#[test]
fn hostile_patterns_and_paths_cost_no_more_than_their_length() {
    use std::time::{Duration, Instant};
    let stars = format!("{}b", "a*".repeat(MAX_PATTERN_STARS));
    let shortest = |run: &dyn Fn() -> bool| -> Duration {
        let timed = |_| {
            let start = Instant::now();
            assert!(!run());
            start.elapsed()
        };
        (0..7).map(timed).min().unwrap()
    };
    let nearly = |n: usize| "a".repeat(n);
    for pattern in [
        format!("/{stars}"),
        format!("/{stars}/x"),
        format!("/{stars}*"),
        "/a*aaaaaaaaab".into(),
    ] {
        let time = |n: usize| {
            let path = format!("/{}", nearly(n));
            shortest(&|| path_matches(&pattern, &path))
        };
        let (short, long) = (time(50_000), time(400_000));
        assert!(
            long < short * 30 + Duration::from_millis(5),
            "{pattern}: {short:?} for 50,000 bytes, {long:?} for 400,000"
        );
    }
    // What is matched is bounded besides.
    let url = format!("https://h.example/{}", nearly(MAX_URL_BYTES));
    assert!(UrlTemplate::parse(&url).is_err());
    let rule = format!("https://h.example/{}", "a*".repeat(MAX_PATTERN_STARS + 1));
    assert!(UrlRule::parse(&rule).is_err());
}
