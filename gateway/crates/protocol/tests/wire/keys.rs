use gateway_protocol::limits::MAX_SESSION_KEY_BYTES;
use gateway_protocol::session_key::{KeyError, KeyKind};
use gateway_protocol::{AgentId, DmScope, SessionKey};
use proptest::prelude::*;

fn main_agent() -> AgentId {
    AgentId::main()
}

#[test]
fn the_grammar() {
    for (text, canonical, kind) in [
        ("agent:main:main", "agent:main:main", KeyKind::Main),
        (" AGENT:Main:MAIN ", "agent:main:main", KeyKind::Main),
        ("main", "agent:main:main", KeyKind::Main),
        ("Lab1", "agent:main:lab1", KeyKind::Named),
        ("direct:42", "agent:main:direct:42", KeyKind::Direct),
        (
            "agent:ops:telegram:direct:42",
            "agent:ops:telegram:direct:42",
            KeyKind::Direct,
        ),
        (
            "agent:ops:telegram:bot-1:direct:42",
            "agent:ops:telegram:bot-1:direct:42",
            KeyKind::Direct,
        ),
        (
            "agent:ops:telegram:group:-100:topic:7",
            "agent:ops:telegram:group:-100:topic:7",
            KeyKind::Group,
        ),
        (
            "cron:nightly:run:3",
            "agent:main:cron:nightly:run:3",
            KeyKind::Internal,
        ),
        ("openai:6b1f", "agent:main:openai:6b1f", KeyKind::OpenAi),
        ("global", "global", KeyKind::Special),
        ("Unknown", "unknown", KeyKind::Special),
    ] {
        let key = SessionKey::qualify(text, &main_agent()).unwrap();
        assert_eq!((key.as_str(), key.kind()), (canonical, kind), "{text}");
    }
    let key = SessionKey::parse("agent:ops:telegram:group:-100:thread:9").unwrap();
    assert_eq!(key.agent(), Some("ops"));
    assert_eq!(key.rest(), "telegram:group:-100:thread:9");
    assert_eq!(
        key.split_thread(),
        ("agent:ops:telegram:group:-100", Some("9"))
    );
    assert_eq!(
        SessionKey::parse("agent:ops:thread:9")
            .unwrap()
            .split_thread()
            .1,
        None
    );
}

/// Keys that try to be paths, other tenants, other keys or terminals.
///
/// Covers: Z4, Z5.
#[test]
fn hostile_keys_are_refused() {
    let long = format!("agent:main:{}", "a".repeat(MAX_SESSION_KEY_BYTES));
    let hostile = [
        "",
        " ",
        "agent:",
        "agent::",
        "agent:main",
        "agent:main:",
        "agent:main::x",
        "agent:main:x:",
        ":main",
        "a::b",
        "a:",
        "..",
        "../../etc/passwd",
        "agent:main:..",
        "agent:main:../x",
        "agent:main:a:..:b",
        "agent:main:...",
        ".",
        "agent:../x:main",
        "agent:a/b:main",
        "agent::main",
        "agent:-x:main",
        "agent:ma in:main",
        "/",
        "a/b",
        "a\\b",
        "c:\\x",
        "file:///etc/passwd",
        "%2",
        "%zz",
        "a%",
        "%2e%2e/",
        "a\0b",
        "\0",
        "a\nb",
        "a\rb",
        "a\tb",
        "a b",
        "\u{7f}",
        "\u{1b}[31m",
        "\u{85}",
        "\u{a0}main",
        "ma\u{200b}in",
        "\u{feff}main",
        // Letters that only look like ASCII, or become it under NFKC.
        "mаin",
        "ｍａｉｎ",
        "main\u{301}",
        "ﬁle",
        "K\u{212a}",
        "ı",
        "İ",
        "agent：main：main",
        "agent\u{2236}main\u{2236}main",
        "\u{202e}niam",
        "emoji😀",
        "<script>",
        "\"",
        "a?b",
        "a{b}",
        "[a]",
        "a^b",
        "a`b`",
        long.as_str(),
    ];
    for text in hostile {
        let got = SessionKey::qualify(text, &main_agent());
        assert!(got.is_err(), "{text:?} became {got:?}");
        let got = SessionKey::parse(text);
        assert!(got.is_err(), "{text:?} became {got:?}");
    }
    assert_eq!(SessionKey::parse("lab1"), Err(KeyError::NotQualified));
    assert_eq!(SessionKey::parse(&long), Err(KeyError::TooLong));
    let just_fits = format!("agent:main:{}", "a".repeat(MAX_SESSION_KEY_BYTES - 11));
    assert!(SessionKey::parse(&just_fits).is_ok());
    // A short key that becomes too long by its agent.
    assert_eq!(
        SessionKey::qualify(&just_fits[11..], &AgentId::parse("longer").unwrap()),
        Err(KeyError::TooLong)
    );
}

/// A whole key of another agent does not slip past an agent that the request names.
///
/// Covers: Z4.
#[test]
fn the_named_agent_counts() {
    let (ops, main) = (AgentId::parse("ops").unwrap(), main_agent());
    assert_eq!(
        SessionKey::qualify_for("x", Some(&ops), &main)
            .unwrap()
            .as_str(),
        "agent:ops:x"
    );
    assert_eq!(
        SessionKey::qualify_for("agent:OPS:x", Some(&ops), &main)
            .unwrap()
            .as_str(),
        "agent:ops:x"
    );
    assert_eq!(
        SessionKey::qualify_for("agent:main:x", Some(&ops), &main),
        Err(KeyError::AgentMismatch)
    );
    assert_eq!(
        SessionKey::qualify_for("agent:ops:x", None, &main)
            .unwrap()
            .as_str(),
        "agent:ops:x"
    );
}

#[test]
fn builders_follow_the_scopes() {
    let agent = main_agent();
    let direct = |scope, peer| {
        SessionKey::direct(&agent, scope, "Telegram", "Bot", peer)
            .unwrap()
            .into_string()
    };
    assert_eq!(direct(DmScope::Main, "42"), "agent:main:main");
    assert_eq!(direct(DmScope::PerPeer, "42"), "agent:main:direct:42");
    assert_eq!(
        direct(DmScope::PerChannelPeer, " 42 "),
        "agent:main:telegram:direct:42"
    );
    assert_eq!(
        direct(DmScope::PerAccountChannelPeer, "42"),
        "agent:main:telegram:bot:direct:42"
    );
    assert_eq!(direct(DmScope::PerPeer, ""), "agent:main:main");
    let group = SessionKey::group(&agent, "", "group", "").unwrap();
    assert_eq!(group.as_str(), "agent:main:unknown:group:unknown");
    assert_eq!(
        group.topic("7").unwrap().as_str(),
        "agent:main:unknown:group:unknown:topic:7"
    );
    assert_eq!(group.thread(" ").unwrap(), group);
}

/// A name that a platform gives cannot add parts to a key, nor leave its character set.
///
/// Covers: Z4, Z5.
#[test]
fn names_from_platforms_are_neutralised() {
    let agent = main_agent();
    let key = SessionKey::direct(
        &agent,
        DmScope::PerChannelPeer,
        "web",
        "",
        "../a:thread:b/\0\u{212a}",
    )
    .unwrap();
    assert_eq!(
        key.as_str(),
        "agent:main:web:direct:..%2fa%3athread%3ab%2f%00k"
    );
    assert_eq!(key.split_thread().1, None);
    let key = SessionKey::direct(&agent, DmScope::PerChannelPeer, "web", "", "..").unwrap();
    assert_eq!(key.as_str(), "agent:main:web:direct:%2e%2e");
    assert!(SessionKey::direct(&agent, DmScope::PerPeer, "", "", &"é".repeat(200)).is_err());
}

proptest! {
    /// Canonical keys stay what they are, however often they are read.
    ///
    /// Covers: Z4.
    #[test]
    fn reading_is_idempotent(text in "\\PC{0,60}|(agent:)?[a-zA-Z0-9:._%-]{0,40}") {
        if let Ok(key) = SessionKey::qualify(&text, &main_agent()) {
            prop_assert_eq!(&SessionKey::parse(key.as_str()).unwrap(), &key);
            prop_assert_eq!(&SessionKey::qualify(key.as_str(), &AgentId::parse("other").unwrap()).unwrap(), &key);
            prop_assert!(key.as_str().len() <= MAX_SESSION_KEY_BYTES);
            prop_assert!(key.as_str().is_ascii() && !key.as_str().bytes().any(|b| b.is_ascii_uppercase() || b.is_ascii_control()));
            prop_assert!(!key.as_str().contains(['/', '\\', ' ']));
            if let Some(agent) = key.agent() {
                prop_assert_eq!(format!("agent:{}:{}", agent, key.rest()), key.as_str());
            }
        }
    }

    /// Case and white space around do not make another session.
    #[test]
    fn case_does_not_matter(text in "[a-z0-9._-]{1,20}(:[a-z0-9._-]{1,10}){0,3}") {
        if let Ok(key) = SessionKey::qualify(&text, &main_agent()) {
            prop_assert_eq!(SessionKey::qualify(&format!(" {}\n", text.to_ascii_uppercase()), &main_agent()).unwrap(), key);
        }
    }

    /// Whatever two peers are called: different ones have different keys, and a key has the parts that its
    /// scope says. (Peers that differ only in case are one peer, by the grammar.)
    ///
    /// Covers: Z4.
    #[test]
    fn peers_do_not_collide(a in "[^\\p{Lu}]{1,40}", b in "[^\\p{Lu}]{1,40}") {
        let build = |peer: &str| SessionKey::direct(&main_agent(), DmScope::PerChannelPeer, "web", "", peer);
        let (key_a, key_b) = (build(&a), build(&b));
        if let (Ok(key_a), Ok(key_b)) = (key_a, key_b) {
            let same = a.trim().to_lowercase() == b.trim().to_lowercase();
            prop_assert_eq!(key_a == key_b, same, "{:?} {:?}", a, b);
            for key in [key_a, key_b] {
                prop_assert!(key.kind() == KeyKind::Main || key.rest().split(':').count() == 3, "{}", key);
                prop_assert_eq!(SessionKey::parse(key.as_str()).unwrap(), key);
            }
        }
    }
}

#[test]
fn agent_ids() {
    for good in ["main", "A", "a1_b-c", &"a".repeat(64)] {
        assert_eq!(
            AgentId::parse(good).unwrap().as_str(),
            good.to_ascii_lowercase()
        );
    }
    for bad in [
        "",
        "-a",
        "_a",
        "a b",
        "a/b",
        "..",
        "ä",
        "a.b",
        "a:b",
        "a\0",
        &"a".repeat(65),
    ] {
        assert!(AgentId::parse(bad).is_err(), "{bad:?}");
    }
}
