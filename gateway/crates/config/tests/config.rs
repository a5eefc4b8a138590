//! The configuration from its bytes to its settings.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use gateway_config::*;
use proptest::prelude::*;
use serde_json::{Value, json};

const STRONG: &str = "k3Jd92mXq8Zr1Vt5Nc7LyWpE0aBs";

fn no_env(_: &str) -> Option<String> {
    None
}

fn request(dir: &Path) -> LoadRequest<'static> {
    LoadRequest {
        state_dir: dir.to_owned(),
        config_path: None,
        overrides: Overrides::default(),
        env: &no_env,
    }
}

/// A state directory with its token, and the settings of `text`.
fn load_in(dir: &Path, text: &str) -> Result<Settings, ConfigError> {
    init_state_dir(dir).unwrap();
    load_text(text, &request(dir), PathBuf::from("gateway.json5"))
}

fn try_load(text: &str) -> Result<Settings, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    load_in(dir.path(), text)
}

/// The whole message of a refusal.
fn refusal(text: &str) -> String {
    match try_load(text) {
        Ok(_) => panic!("accepted: {text}"),
        Err(e) => {
            assert!(!e.next.is_empty(), "a refusal without a next step: {e}");
            e.to_string()
        }
    }
}

fn check_refusal(text: &str, parts: &[&str]) {
    let message = refusal(text);
    for part in parts {
        assert!(
            message.contains(part),
            "{text}\n  gave: {message}\n  without: {part}"
        );
    }
}

#[test]
fn the_fresh_directory_loads_and_is_private() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("a/b/state");
    let report = init_state_dir(&state).unwrap();
    assert!(report.config_created && report.token_created);
    let settings = load(request(&state)).unwrap();
    assert!(settings.config_exists);
    assert_eq!(settings.warnings, Vec::<String>::new());
    assert_eq!(settings.gateway.port, DEFAULT_PORT);
    assert_eq!(settings.gateway.bind, Bind::Loopback);
    assert_eq!(settings.tenants.keys().collect::<Vec<_>>(), ["main"]);
    let token = settings.main().auth.active().unwrap();
    assert_eq!(token.len(), 64, "256 bits in hex");
    assert_eq!(
        token.expose(),
        std::fs::read_to_string(&report.token_path).unwrap()
    );
    assert!(matches!(
        settings.main().agents.entries["main"].backend,
        AgentBackend::Echo
    ));

    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = |p: &Path| std::fs::metadata(p).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&state), 0o700);
        assert_eq!(mode(&state.join("secrets/main")), 0o700);
        assert_eq!(mode(&report.config_path), 0o600);
        assert_eq!(mode(&report.token_path), 0o600);
        assert_eq!(mode(&report.webhook_secret_path), 0o600);
    }
    let left: Vec<_> = std::fs::read_dir(&state)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|n| n.ends_with(".tmp"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_second_start_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let first = init_state_dir(dir.path()).unwrap();
    let token = std::fs::read(&first.token_path).unwrap();
    std::fs::write(&first.config_path, "{ /* mine */ }").unwrap();
    let second = init_state_dir(dir.path()).unwrap();
    assert!(!second.config_created && !second.token_created);
    assert_eq!(std::fs::read(&first.token_path).unwrap(), token);
    assert_eq!(
        std::fs::read_to_string(&first.config_path).unwrap(),
        "{ /* mine */ }"
    );
}

#[test]
fn without_a_file_the_defaults_apply_but_a_named_file_must_be_there() {
    let dir = tempfile::tempdir().unwrap();
    let report = init_state_dir(dir.path()).unwrap();
    std::fs::remove_file(&report.config_path).unwrap();
    let settings = load(request(dir.path())).unwrap();
    assert!(!settings.config_exists);
    assert_eq!(settings.hash, "");
    let named = LoadRequest {
        config_path: Some(report.config_path),
        ..request(dir.path())
    };
    assert!(
        load(named)
            .unwrap_err()
            .to_string()
            .contains("no such file")
    );
}

/// Every object of the schema, as a document that reaches it and has one key too many.
fn documents_with_a_stray_key(
    root: &Value,
    schema: &Value,
    wrap: &dyn Fn(Value) -> Value,
    out: &mut Vec<Value>,
) {
    if let Some(name) = schema.get("$ref").and_then(Value::as_str) {
        let target = &root["$defs"][name.strip_prefix("#/$defs/").unwrap()];
        return documents_with_a_stray_key(root, target, wrap, out);
    }
    if schema.get("x-secret").is_some() {
        out.push(wrap(json!({ "env": "X", "strayKey": 1 })));
        return;
    }
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        assert_eq!(
            schema["additionalProperties"],
            json!(false),
            "an open object: {schema}"
        );
        out.push(wrap(json!({ "strayKey": 1 })));
        for (key, child) in properties {
            documents_with_a_stray_key(root, child, &|v| wrap(json!({ key: v })), out);
        }
    } else if let Some(child @ Value::Object(_)) = schema.get("additionalProperties") {
        documents_with_a_stray_key(root, child, &|v| wrap(json!({ "x1": v })), out);
    }
}

#[test]
fn an_unknown_key_is_refused_at_every_level_with_its_place() {
    let root = options_schema();
    let mut documents = Vec::new();
    documents_with_a_stray_key(&root, &root, &|v| v, &mut documents);
    assert!(documents.len() >= 32, "only {} levels", documents.len());
    for document in documents {
        let text = serde_json::to_string_pretty(&document).unwrap();
        let at = text.find("\"strayKey\"").unwrap();
        let line = text[..at].matches('\n').count() + 1;
        let column = at - text[..at].rfind('\n').map_or(0, |i| i + 1) + 1;
        let message = refusal(&text);
        assert!(
            message.contains("unknown key `strayKey`"),
            "{text}\n{message}"
        );
        assert!(
            message.contains(&format!("gateway.json5:{line}:{column}: ")),
            "{text}\n{message}"
        );
    }
}

#[test]
fn a_slip_of_the_pen_gets_a_suggestion() {
    check_refusal(
        "{\n  gateway: { prot: 1 },\n}",
        &[
            "gateway.json5:2:14: unknown key `prot` in `gateway`",
            "did you mean `port`?",
            "allowed here: ",
            "allowedHosts",
        ],
    );
    check_refusal(
        "{ gatway: {} }",
        &[
            "unknown key `gatway` at the top level",
            "did you mean `gateway`?",
        ],
    );
    check_refusal(
        "{ channels: { webhook: { accounts: { default: { dm_policy: 'open' } } } } }",
        &[
            "in `channels.webhook.accounts.default`",
            "did you mean `dmPolicy`?",
        ],
    );
    check_refusal(
        "{ channels: { webhook: { accounts: { default: { dmPolicy: 'pairng' } } } } }",
        &[
            "\"pairng\" is not known here",
            "did you mean \"pairing\"?",
            "allowlist, open, disabled",
        ],
    );
    check_refusal(
        "{ gateway: { auth: { token: { sotre: 'x' } } } }",
        &["did you mean `store`?"],
    );
}

#[test]
fn wrong_types_name_the_path_and_what_was_expected() {
    for (text, parts) in [
        (
            "{ gateway: { port: '1' } }",
            [
                "gateway.json5:1:20: gateway.port: ",
                "expected a whole number from 0 to 65535, found text",
            ],
        ),
        (
            "{ gateway: { port: 65536 } }",
            ["gateway.port", "from 0 to 65535"],
        ),
        (
            "{ gateway: { port: -1 } }",
            ["gateway.port", "from 0 to 65535"],
        ),
        (
            "{ gateway: { port: 1.5 } }",
            ["gateway.port", "from 0 to 65535"],
        ),
        (
            "{ gateway: { port: null } }",
            ["gateway.port", "null is not a value here"],
        ),
        (
            "{ gateway: [] }",
            ["gateway: ", "expected an object {…}, found a list"],
        ),
        ("[]", ["gateway.json5:1:1", "expected an object"]),
        (
            "{ gateway: { allowedOrigins: 'x' } }",
            ["gateway.allowedOrigins", "expected a list […], found text"],
        ),
        (
            "{ gateway: { allowedOrigins: [1] } }",
            [
                "gateway.allowedOrigins[0]",
                "expected text in quotes, found a number",
            ],
        ),
        (
            "{ gateway: { auth: { token: 5 } } }",
            ["gateway.auth.token", "expected a secret, found a number"],
        ),
        (
            "{ gateway: { auth: { token: {} } } }",
            ["gateway.auth.token", "exactly one of env, file, store"],
        ),
        (
            "{ gateway: { auth: { token: {env:'A',file:'b'} } } }",
            ["gateway.auth.token", "exactly one of"],
        ),
        (
            "{ gateway: { auth: { token: {env: 7} } } }",
            ["gateway.auth.token.env", "expected text"],
        ),
        (
            "{ gateway: { auth: { mode: true } } }",
            ["gateway.auth.mode", "expected one of none, token, password"],
        ),
        (
            "{ gateway: { limits: { handshakeTimeoutMs: 1 } } }",
            ["handshakeTimeoutMs", "from 100 to 600000"],
        ),
        (
            "{ boot: { scripts: { a: { enabled: 'yes' } } } }",
            ["boot.scripts.a.enabled", "expected true or false"],
        ),
        (
            "{ gateway: { port: Infinity } }",
            ["gateway.port", "this number cannot be used"],
        ),
        (
            "{ channels: { webhook: { accounts: { a: { config: { n: NaN } } } } } }",
            ["config.n", "cannot be used"],
        ),
    ] {
        check_refusal(text, &parts);
    }
}

#[test]
fn all_problems_are_told_at_once() {
    let message = refusal("{ gateway: { prot: 1, bind: 5 },\n  sesion: {} }");
    assert_eq!(message.lines().count(), 3, "{message}");
}

#[test]
fn syntax_duplicates_and_depth_are_refused() {
    check_refusal("{ gateway: { port: 1 ", &["gateway.json5:1:", "not JSON5"]);
    check_refusal(
        "{ gateway: {} agents: {} }",
        &["not JSON5", "expected comma"],
    );
    check_refusal("{}{}", &["not JSON5"]);
    check_refusal("", &["holds no configuration"]);
    check_refusal("// only a comment\n", &["holds no configuration"]);
    check_refusal(
        "{ gateway: { port: 1 },\n  'gateway': { port: 2 } }",
        &[
            "gateway.json5:2:3",
            "this key is there twice",
            "first on line 1",
        ],
    );
    check_refusal(
        "{ channels: { webhook: { accounts: { a: { config: { k: 1, 'k': 2 } } } } } }",
        &["twice"],
    );
    let deep = format!(
        "{{ channels: {{ webhook: {{ accounts: {{ a: {{ config: {{ x: {}1{} }} }} }} }} }} }}",
        "[".repeat(40),
        "]".repeat(40)
    );
    check_refusal(&deep, &["nested deeper than 32 levels"]);
    let abyss = "[".repeat(200_000);
    check_refusal(&abyss, &["not JSON5"]);
    check_refusal(&format!("{{}}{}", " ".repeat(1_100_000)), &["larger than"]);
}

#[test]
fn json5_forms_and_a_byte_order_mark_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let text = "\u{feff}// c\n{ 'gateway': { \"port\": 0x4965, allowedHosts: ['Gw.Example',], /* c */ }, }";
    let settings = load_in(dir.path(), text).unwrap();
    assert_eq!(settings.gateway.port, 18_789);
    assert_eq!(
        settings.gateway.allowed_hosts.iter().collect::<Vec<_>>(),
        ["gw.example"]
    );
}

/// A file cut anywhere (a crash of the editor, a full disk) is refused or is the same configuration; never a part of it.
#[test]
fn truncation_anywhere_never_half_loads() {
    let dir = tempfile::tempdir().unwrap();
    let whole = load_in(dir.path(), DEFAULT_CONFIG).unwrap();
    let expected = redacted_json(&whole);
    let mut accepted = 0;
    for end in 0..=DEFAULT_CONFIG.len() {
        let path = dir.path().join("cut.json5");
        std::fs::write(&path, &DEFAULT_CONFIG.as_bytes()[..end]).unwrap();
        let request = LoadRequest {
            config_path: Some(path),
            ..request(dir.path())
        };
        match load(request) {
            Ok(settings) => {
                accepted += 1;
                assert_eq!(redacted_json(&settings), expected, "cut at {end}");
            }
            Err(e) => assert!(!e.to_string().is_empty()),
        }
    }
    assert_eq!(
        accepted, 2,
        "the whole file, and the one without its last line end"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Bytes changed anywhere give a refusal or settings, never a panic.
    #[test]
    fn damage_never_panics(at in 0..DEFAULT_CONFIG.len(), byte in any::<u8>(), cut in 0usize..40) {
        let mut bytes = DEFAULT_CONFIG.as_bytes().to_vec();
        bytes[at] = byte;
        let end = (at + cut).min(bytes.len());
        bytes.drain(at + 1..end.max(at + 1));
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let _ = load_text(&text, &request(Path::new("/nonexistent")), PathBuf::from("g"));
    }

    /// Any text at all gives a refusal or settings, never a panic.
    #[test]
    fn any_text_never_panics(text in "[\\[\\]{}:,'\"a-z0-9/*\\\\ \n.+-]{0,80}") {
        let _ = load_text(&text, &request(Path::new("/nonexistent")), PathBuf::from("g"));
    }
}

#[test]
fn secrets_come_from_where_they_are_said_to_be() {
    let dir = tempfile::tempdir().unwrap();
    init_state_dir(dir.path()).unwrap();
    secret_set(
        dir.path(),
        "main",
        "stored",
        &Secret::new(format!("{STRONG}-store\n")),
    )
    .unwrap();
    std::fs::write(dir.path().join("mine.txt"), format!("{STRONG}-file\r\n")).unwrap();
    let env = |name: &str| (name == "GW_TEST").then(|| format!("{STRONG}-env"));
    let text = format!(
        "{{ channels: {{ webhook: {{ accounts: {{ a: {{ secrets: {{
            one: {{env: 'GW_TEST'}}, two: '${{GW_TEST}}', three: {{store: 'stored'}}, four: {{file: 'mine.txt'}},
            five: '{STRONG}-text',
        }} }} }} }} }} }}"
    );
    let request = LoadRequest {
        env: &env,
        ..request(dir.path())
    };
    let settings = load_text(&text, &request, PathBuf::from("gateway.json5")).unwrap();
    let secrets = &settings.main().channels[0].secrets;
    let got: BTreeMap<&str, &str> = secrets
        .iter()
        .map(|(k, v)| (k.as_str(), v.expose()))
        .collect();
    let end = |s: &str| format!("{STRONG}-{s}");
    assert_eq!(got["one"], end("env"));
    assert_eq!(got["two"], end("env"));
    assert_eq!(got["three"], end("store"));
    assert_eq!(got["four"], end("file"));
    assert_eq!(got["five"], end("text"));
    let warnings = settings.warnings.join("\n");
    assert!(
        warnings.contains("secrets.five: this secret stands in the file in clear"),
        "{warnings}"
    );
    assert!(
        warnings.contains("mine.txt can be read by other users"),
        "{warnings}"
    );
    assert!(!warnings.contains(STRONG));
}

#[test]
fn a_missing_secret_names_the_key_and_the_way_to_set_it() {
    let account = |s: &str| {
        format!(
            "{{ channels: {{ webhook: {{ accounts: {{ a: {{\n secrets: {{ signing: {s} }} }} }} }} }} }}"
        )
    };
    check_refusal(
        &account("{env: 'NOT_SET_X'}"),
        &[
            "gateway.json5:2:22: channels.webhook.accounts.a.secrets.signing: ",
            "the environment variable NOT_SET_X is not set",
        ],
    );
    check_refusal(
        &account("{store: 'nope'}"),
        &["signing: ", "no such file", "gateway secret set nope"],
    );
    check_refusal(&account("{file: 'nope'}"), &["signing: ", "no such file"]);
    check_refusal(&account("{file: '../up'}"), &["must not have .."]);
    check_refusal(&account("{file: 'secrets'}"), &["not a regular file"]);
    check_refusal(
        &account("{store: '../up'}"),
        &["not the name of a stored secret"],
    );
    check_refusal(&account("'pre-${X}'"), &["must be the whole text"]);
    check_refusal(
        &account("{env: 'A B'}"),
        &["not the name of an environment variable"],
    );
    check_refusal(
        "{ tenants: { acme: {} } }",
        &[
            "tenants.acme.auth.token: ",
            "gateway secret set gateway-token --tenant acme",
        ],
    );
    // A disabled account may wait for its secret.
    let waiting = "{ channels: { webhook: { accounts: { a: { enabled: false, secrets: { signing: {store: 'nope'} } } } } } }";
    assert!(
        try_load(waiting).unwrap().main().channels[0]
            .secrets
            .is_empty()
    );
}

/// Covers: A12.
#[test]
fn placeholder_secrets_are_refused_wherever_they_come_from() {
    for word in [
        "",
        " ",
        "undefined",
        "null",
        "changeme",
        "CHANGE_ME",
        "<your-token>",
        "__OPENCLAW_REDACTED__",
    ] {
        let message = refusal(&format!("{{ gateway: {{ auth: {{ token: '{word}' }} }} }}"));
        assert!(
            message.contains("gateway.auth.token: this"),
            "{word:?}: {message}"
        );
        let dir = tempfile::tempdir().unwrap();
        let report = init_state_dir(dir.path()).unwrap();
        std::fs::write(&report.token_path, word).unwrap();
        assert!(
            load(request(dir.path())).is_err(),
            "{word:?} from the token file"
        );
        let overrides = Overrides {
            token: Some(Secret::new(word.to_owned())),
            ..Overrides::default()
        };
        let e = load(LoadRequest {
            overrides,
            ..request(dir.path())
        })
        .unwrap_err();
        assert!(e.to_string().starts_with("--token: "), "{e}");
        assert!(secret_set(dir.path(), "main", "x", &Secret::new(word.to_owned())).is_err());
    }
    let short = try_load("{ gateway: { auth: { token: 'k3Jd92mXq8' } } }").unwrap();
    assert!(
        short.warnings.iter().any(|w| w.contains("shorter than 24")),
        "{:?}",
        short.warnings
    );
}

/// Covers: A13.
#[test]
fn an_open_gateway_is_only_possible_alone_and_on_loopback() {
    let lone = try_load("{ gateway: { auth: { mode: 'none' } } }").unwrap();
    assert!(lone.main().auth.active().is_none());
    assert!(lone.warnings.iter().any(|w| w.contains("without a secret")));
    for bind in ["lan", "0.0.0.0", "::", "192.0.2.7"] {
        check_refusal(
            &format!("{{ gateway: {{ bind: '{bind}', auth: {{ mode: 'none' }} }} }}"),
            &["gateway.auth.mode", "authentication is needed"],
        );
    }
    check_refusal(
        &format!(
            "{{ gateway: {{ auth: {{ mode: 'none' }} }}, tenants: {{ b: {{ auth: {{ token: '{STRONG}' }} }} }} }}"
        ),
        &["gateway.auth.mode", "more than one tenant"],
    );
    check_refusal(
        "{ gateway: { auth: { mode: 'password' } } }",
        &["gateway.auth.password", "there is none"],
    );
    // With a secret any address will do.
    assert!(
        !try_load("{ gateway: { bind: 'lan' } }")
            .unwrap()
            .gateway
            .bind
            .is_loopback()
    );
    check_refusal(
        "{ gateway: { bind: 'everywhere' } }",
        &["gateway.bind", "loopback, lan or one IP address"],
    );
}

/// Covers: A13, A15.
#[test]
fn the_word_of_a_proxy_counts_with_what_tells_it_apart() {
    let behind = |auth: &str| {
        format!(
            "{{ gateway: {{ trustedProxies: ['198.51.100.7'], auth: {{ mode: 'trusted-proxy', {auth} }} }} }}"
        )
    };
    let lone = try_load(&behind("trustedProxy: { userHeader: 'X-Forwarded-User' }")).unwrap();
    let proxy = lone.main().auth.proxy.as_ref().unwrap();
    assert_eq!(proxy.user_header, "x-forwarded-user");
    assert!(lone.main().auth.active().is_none() && !proxy.allow_loopback);
    assert!(lone.warnings.iter().any(|w| w.contains("allowUsers")));
    let shown = redacted_tenant_json(&lone, lone.main());
    assert_eq!(
        shown["gateway"]["auth"]["trustedProxy"]["userHeader"],
        "x-forwarded-user"
    );
    let named = try_load(&behind(&format!(
        "password: '{STRONG}', trustedProxy: {{ userHeader: 'x-user', requiredHeaders: ['X-Jwt'], allowUsers: ['una'], allowLoopback: true, secret: '{STRONG}2' }}"
    )))
    .unwrap();
    assert!(named.main().auth.active().is_some(), "for this machine");
    let text = redacted_tenant_json(&named, named.main()).to_string();
    assert!(!text.contains(STRONG), "{text}");
    assert_eq!(named.secrets().len(), 2);

    check_refusal(
        "{ gateway: { auth: { mode: 'trusted-proxy', trustedProxy: { userHeader: 'x-user' } } } }",
        &["gateway.auth.mode", "gateway.trustedProxies"],
    );
    check_refusal(&behind(""), &["trustedProxy.userHeader", "no header names"]);
    check_refusal(
        &behind("trustedProxy: { userHeader: 'Authorization' }"),
        &["trustedProxy.userHeader", "x-forwarded-user"],
    );
    check_refusal(
        &behind("trustedProxy: { userHeader: 'x-user', requiredHeaders: ['x y'] }"),
        &["trustedProxy.requiredHeaders[0]"],
    );
    check_refusal(
        &behind("trustedProxy: { userHeader: 'x-user', allowUsers: [] }"),
        &["trustedProxy.allowUsers", "lets nobody in"],
    );
    check_refusal(
        &behind("trustedProxy: { userHeader: 'x-user', allowLoopback: true }"),
        &[
            "trustedProxy.allowLoopback",
            "gateway secret set proxy-secret",
        ],
    );
    check_refusal(
        &behind(&format!(
            "token: '{STRONG}', trustedProxy: {{ userHeader: 'x-user' }}"
        )),
        &["gateway.auth.token", "opens nothing"],
    );
    check_refusal(
        &format!(
            "{{ gateway: {{ trustedProxies: ['198.51.100.7'], auth: {{ mode: 'trusted-proxy', trustedProxy: {{ userHeader: 'x-user' }} }} }}, tenants: {{ b: {{ auth: {{ token: '{STRONG}' }} }} }} }}"
        ),
        &["trustedProxy.allowUsers", "more than one tenant"],
    );
}

#[test]
fn nothing_may_name_two_tenants() {
    let two = |a: &str, b: &str| format!("{{ tenants: {{ a: {a}, b: {b} }} }}");
    let auth = |s: &str| format!("auth: {{ token: '{STRONG}{s}' }}");
    check_refusal(
        &two(
            &format!("{{ hosts: ['X.example'], {} }}", auth("1")),
            &format!("{{ hosts: ['x.Example.'], {} }}", auth("2")),
        ),
        &[
            "tenants.b.hosts",
            "x.example already belongs to the tenant a",
        ],
    );
    check_refusal(
        &two(
            &format!("{{ {} }}", auth("")),
            &format!("{{ {} }}", auth("")),
        ),
        &["tenants.b.auth.token", "the tenant a has the same secret"],
    );
    // A token of one that is the password of the other is as bad.
    let password = format!("{{ auth: {{ mode: 'password', password: '{STRONG}1' }} }}");
    check_refusal(
        &two(&format!("{{ {} }}", auth("1")), &password),
        &["tenants.b.auth.password", "same secret"],
    );
    check_refusal(
        &format!(
            "{{ gateway: {{ auth: {{ token: '{STRONG}' }} }}, tenants: {{ a: {{ {} }} }} }}",
            auth("")
        ),
        &["same secret"],
    );
    check_refusal(
        &format!("{{ tenants: {{ main: {{ {} }} }} }}", auth("")),
        &["tenants.main", "top level"],
    );
    for slug in [
        "A",
        "a b",
        "../x",
        "-a",
        "a_b",
        "x23456789012345678901234567890123456789012345678901234567890123456",
    ] {
        check_refusal(
            &format!("{{ tenants: {{ '{slug}': {{ {} }} }} }}", auth("")),
            &["not a tenant name"],
        );
    }
    let account = |s: &str| {
        format!(
            "channels: {{ telegram: {{ accounts: {{ x: {{ secrets: {{ token: '{STRONG}{s}' }} }} }} }} }}"
        )
    };
    check_refusal(
        &two(
            &format!("{{ {}, {} }}", auth("1"), account("t")),
            &format!("{{ {}, {} }}", auth("2"), account("t")),
        ),
        &[
            "tenants.b.channels.telegram.accounts.x.secrets.token",
            "an account belongs to one tenant",
        ],
    );
    check_refusal(
        "{ channels: { webhook: { accounts: { x: {}, x: {} } } } }",
        &["twice"],
    );
    check_refusal(
        "{ channels: { webhook: { accounts: { X: {} } } } }",
        &["not a channel or account name"],
    );
}

#[test]
fn an_empty_allow_list_means_nobody() {
    let settings = try_load("{ channels: { webhook: { accounts: { a: {} } } } }").unwrap();
    let account = &settings.main().channels[0];
    assert_eq!(account.dm_policy, DmPolicy::Pairing);
    assert_eq!(account.group_policy, GroupPolicy::Disabled);
    assert!(
        account.allow_from.is_empty() && account.groups.is_empty() && account.http.allow.is_empty()
    );
    assert!(account.require_mention && account.enabled && !account.http.allow_private);
    assert_eq!(account.agent, "main");
    for (key, list) in [
        ("allowFrom", "['*']"),
        ("groups", "['*']"),
        ("allowFrom", "['']"),
        ("allowFrom", "[' a']"),
    ] {
        check_refusal(
            &format!("{{ channels: {{ webhook: {{ accounts: {{ a: {{ {key}: {list} }} }} }} }} }}"),
            &[key],
        );
    }
    for list in ["['*']", "['https://*.example']", "['null']"] {
        check_refusal(
            &format!("{{ gateway: {{ allowedOrigins: {list} }} }}"),
            &["allowedOrigins[0]", "not a browser origin"],
        );
        check_refusal(
            &format!("{{ gateway: {{ allowedHosts: {list} }} }}").replace("null", "a/b"),
            &["allowedHosts[0]"],
        );
    }
    check_refusal(
        "{ channels: { webhook: { accounts: { a: { http: { allow: ['https://*/'] } } } } } }",
        &["http.allow[0]"],
    );
}

#[test]
fn agents_are_whole() {
    check_refusal(
        "{ agents: { entries: { a: { backend: 'openai' } } } }",
        &["needs baseUrl", "needs a model"],
    );
    check_refusal(
        "{ agents: { entries: { a: { model: 'm' } } } }",
        &["agents.entries.a.model", "backend: \"openai\""],
    );
    check_refusal(
        "{ agents: { entries: { a: { embeddingModel: 'm' } } } }",
        &["agents.entries.a.embeddingModel", "backend: \"openai\""],
    );
    check_refusal(
        "{ agents: { default: 'b', entries: { a: {} } } }",
        &["agents.default", "not among the entries"],
    );
    check_refusal(
        "{ agents: { entries: { a: {}, b: {} } } }",
        &["agents.default"],
    );
    check_refusal(
        "{ agents: { entries: { 'A b': {} } } }",
        &["not an agent name"],
    );
    check_refusal(
        "{ channels: { webhook: { accounts: { a: { agent: 'x' } } } } }",
        &["no such agent", "its agents: main"],
    );
    let settings = try_load("{ agents: { entries: { only: {} } } }").unwrap();
    assert_eq!(settings.main().agents.default, "only");
    let openai = "{ agents: { entries: { a: { backend: 'openai', baseUrl: 'http://h:1/v1/', model: 'm', embeddingModel: ' e ', idleTimeoutMs: 500 } } } }";
    let settings = try_load(openai).unwrap();
    let AgentBackend::OpenAi(o) = &settings.main().agents.entries["a"].backend else {
        panic!("not openai")
    };
    assert_eq!(
        (o.base_url.as_str(), o.model.as_str(), o.idle_timeout_ms),
        ("http://h:1/v1", "m", 500)
    );
    assert!(o.api_key.is_none());
    assert_eq!(o.embedding_model.as_deref(), Some("e"));
}

#[test]
fn flags_win_over_the_file() {
    let dir = tempfile::tempdir().unwrap();
    init_state_dir(dir.path()).unwrap();
    let env = |name: &str| (name == "KEY").then(|| STRONG.to_owned());
    let all = Overrides {
        port: Some(0),
        bind: Some("lan".to_owned()),
        token: Some(Secret::new(format!("{STRONG}-flag"))),
        upstream: Some("http://127.0.0.1:9/v1".to_owned()),
        model: Some("m".to_owned()),
        api_key_env: Some("KEY".to_owned()),
        plugins_dir: Some(PathBuf::from("guests")),
        log_level: Some(LogLevel::Debug),
        log_format: Some(LogFormat::Json),
        tls: true,
    };
    let text = "{ gateway: { port: 5, bind: 'loopback' }, plugins: { dir: 'p' }, logging: { level: 'warn' } }";
    let request = LoadRequest {
        overrides: all,
        env: &env,
        ..request(dir.path())
    };
    let s = load_text(text, &request, PathBuf::from("g")).unwrap();
    assert_eq!((s.gateway.port, s.gateway.bind), (0, Bind::Lan));
    assert!(s.gateway.tls.enabled);
    assert_eq!(
        s.main().auth.active().unwrap().expose(),
        format!("{STRONG}-flag")
    );
    let AgentBackend::OpenAi(o) = &s.main().agents.entries["main"].backend else {
        panic!("not openai")
    };
    assert_eq!(
        (o.base_url.as_str(), o.model.as_str()),
        ("http://127.0.0.1:9/v1", "m")
    );
    assert_eq!(o.api_key.as_ref().unwrap().expose(), STRONG);
    assert_eq!(s.plugins_dir, Some(PathBuf::from("guests")));
    assert_eq!(
        (s.logging.level, s.logging.format),
        (LogLevel::Debug, LogFormat::Json)
    );

    let flagged = |overrides| {
        let request = LoadRequest {
            overrides,
            env: &no_env,
            ..self::request(dir.path())
        };
        load_text("{}", &request, PathBuf::from("g"))
            .unwrap_err()
            .to_string()
    };
    let none = Overrides::default;
    let text = |s: &str| Some(s.to_owned());
    assert!(
        flagged(Overrides {
            model: text("m"),
            ..none()
        })
        .starts_with("--model: ")
    );
    assert!(
        flagged(Overrides {
            upstream: text("http://h/v1"),
            ..none()
        })
        .contains("--upstream: an openai agent needs a model")
    );
    assert!(
        flagged(Overrides {
            upstream: text("nope"),
            model: text("m"),
            ..none()
        })
        .starts_with("--upstream: not the address")
    );
    assert!(
        flagged(Overrides {
            bind: text("x"),
            ..none()
        })
        .starts_with("--bind: ")
    );
    let key = Overrides {
        upstream: text("http://h/v1"),
        model: text("m"),
        api_key_env: text("NO_KEY"),
        ..none()
    };
    assert!(flagged(key).starts_with("--api-key-env: the environment variable NO_KEY is not set"));
}

/// The key in the file belongs to the file's server; a server named by a flag does not get it.
#[test]
fn a_flagged_upstream_does_not_borrow_the_key_of_another() {
    let dir = tempfile::tempdir().unwrap();
    init_state_dir(dir.path()).unwrap();
    let text = format!(
        "{{ agents: {{ entries: {{ main: {{ backend: 'openai', baseUrl: 'http://a/v1', model: 'm', apiKey: '{STRONG}' }} }} }} }}"
    );
    let overrides = Overrides {
        upstream: Some("http://b/v1".to_owned()),
        ..Overrides::default()
    };
    let s = load_text(
        &text,
        &LoadRequest {
            overrides,
            ..request(dir.path())
        },
        PathBuf::from("g"),
    )
    .unwrap();
    let AgentBackend::OpenAi(o) = &s.main().agents.entries["main"].backend else {
        panic!("not openai")
    };
    assert_eq!(
        (o.base_url.as_str(), o.model.as_str()),
        ("http://b/v1", "m")
    );
    assert!(o.api_key.is_none());
}

/// A file with a secret in every place that takes one, each told apart.
fn full_of_secrets() -> (String, Vec<String>) {
    let mut all = Vec::new();
    let mut canary = |what: &str| {
        let secret = format!("CANARY-{what}-{STRONG}");
        all.push(secret.clone());
        secret
    };
    let tenant = |canary: &mut dyn FnMut(&str) -> String, t: &str| {
        format!(
            "agents: {{ entries: {{ main: {{ backend: 'openai', baseUrl: 'http://h/v1', model: 'm', apiKey: '{}' }} }} }},
             channels: {{ webhook: {{ accounts: {{ a: {{
                secrets: {{ signing: '{}', other: '{}' }},
                config: {{ token: '{}', nested: [{{ apiKey: '{}' }}], note: 'plain' }} }} }} }} }},
             boot: {{ scripts: {{ s: {{ config: {{ 'my-secret': '{}' }} }} }} }}",
            canary(&format!("{t}api")),
            canary(&format!("{t}sign")),
            canary(&format!("{t}other")),
            canary(&format!("{t}conf")),
            canary(&format!("{t}nest")),
            canary(&format!("{t}boot")),
        )
    };
    let main = tenant(&mut canary, "m");
    let acme = tenant(&mut canary, "a");
    let text = format!(
        "{{ gateway: {{ auth: {{ mode: 'token', token: '{}', password: '{}' }} }}, {main},
            tenants: {{ acme: {{ auth: {{ mode: 'password', token: '{}', password: '{}' }}, {acme} }} }} }}",
        canary("mt"),
        canary("mp"),
        canary("at"),
        canary("ap"),
    );
    (text, all)
}

/// Covers: A11, A12.
#[test]
fn no_secret_is_ever_shown() {
    let (text, canaries) = full_of_secrets();
    assert_eq!(canaries.len(), 16);
    let settings = try_load(&text).unwrap();
    let shown = redacted_json(&settings).to_string();
    assert_eq!(shown.matches(REDACTED).count(), 16, "{shown}");
    assert!(shown.contains("plain"));
    let main_only = redacted_tenant_json(&settings, settings.main()).to_string();
    let acme_only = redacted_tenant_json(&settings, &settings.tenants["acme"]).to_string();
    assert!(!main_only.contains("acme"));
    assert_eq!(main_only.matches(REDACTED).count(), 8);
    assert_eq!(acme_only.matches(REDACTED).count(), 8);
    let warnings = settings.warnings.join("\n");
    for out in [&shown, &main_only, &acme_only, &warnings] {
        assert!(!out.contains("CANARY"), "{out}");
    }
    // `config` of a plugin is not a secret field; everything that is must be silent in Debug too.
    let debug = format!("{settings:?}");
    for secret in canaries
        .iter()
        .filter(|c| !["conf", "nest", "boot"].iter().any(|w| c.contains(w)))
    {
        assert!(!debug.contains(secret.as_str()), "{secret} in Debug");
    }
}

/// A secret in a file that is refused is not repeated in the refusal, wherever the fault is.
#[test]
fn refusals_do_not_repeat_secrets() {
    let (text, _) = full_of_secrets();
    let faults = [
        text.replacen("gateway:", "gatway:", 1),
        text.replacen("mode: 'token'", "mode: 'tokn'", 1),
        text.replacen("token: 'CANARY", "tken: 'CANARY", 1),
        text.replacen("token: 'CANARY", "token: '${X}CANARY", 1),
        text.replacen("token: 'CANARY", "mode: 'CANARY", 1)
            .replacen("mode: 'token', ", "", 1)
            .replacen("CANARY-mt", "short", 0),
        text.replacen("password: '", "password: ['", 1).replacen(
            "' } }, agents",
            "'] } }, agents",
            1,
        ),
        text.replacen("CANARY", "CANARY\\u{zz}", 1),
        text.replacen("CANARY", "CANARY\\ud800", 1),
    ];
    for (i, fault) in faults.iter().enumerate() {
        if i == 4 {
            continue; // a value in an enumeration is repeated, and is no place for a secret
        }
        let message = refusal(fault);
        assert!(!message.contains("CANARY"), "fault {i}: {message}");
    }
    for cut in 0..text.len() {
        if text.is_char_boundary(cut)
            && let Err(e) = try_parse(&text[..cut])
        {
            assert!(!e.to_string().contains("CANARY-"), "cut at {cut}: {e}");
        }
    }
}

fn try_parse(text: &str) -> Result<Settings, ConfigError> {
    load_text(
        text,
        &request(Path::new("/nonexistent")),
        PathBuf::from("g"),
    )
}

#[test]
fn a_stored_secret_is_private_and_replaced_whole() {
    let dir = tempfile::tempdir().unwrap();
    let first = secret_set(
        dir.path(),
        "acme",
        "tok",
        &Secret::new(format!("{STRONG}\n")),
    )
    .unwrap();
    assert!(!first.replaced && first.warning.is_none());
    assert_eq!(first.path, dir.path().join("secrets/acme/tok"));
    let second = secret_set(
        dir.path(),
        "acme",
        "tok",
        &Secret::new("short-but-real".to_owned()),
    )
    .unwrap();
    assert!(second.replaced && second.warning.is_some());
    assert_eq!(
        std::fs::read_to_string(&first.path).unwrap(),
        "short-but-real"
    );
    assert_eq!(
        std::fs::read_dir(first.path.parent().unwrap())
            .unwrap()
            .count(),
        1,
        "no temporary file is left"
    );
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(
            std::fs::metadata(&first.path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
    for (tenant, name) in [
        ("../x", "a"),
        ("main", "../a"),
        ("main", ".a"),
        ("main", ""),
        ("A", "a"),
        ("", "a"),
    ] {
        assert!(
            secret_set(dir.path(), tenant, name, &Secret::new(STRONG.to_owned())).is_err(),
            "{tenant} {name}"
        );
    }
}

#[test]
fn adding_a_channel_keeps_the_file_as_it_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let report = init_state_dir(dir.path()).unwrap();
    let before = std::fs::read_to_string(&report.config_path).unwrap();
    let added = channels_add(dir.path(), "main", "webhook", "second").unwrap();
    assert!(added.enabled && added.secret_created);
    let after = std::fs::read_to_string(&report.config_path).unwrap();
    let comments = |text: &str| {
        text.lines()
            .filter(|l| l.contains("//"))
            .map(|l| l.trim().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(comments(&before), comments(&after));
    let settings = load(request(dir.path())).unwrap();
    let account = settings
        .main()
        .channels
        .iter()
        .find(|a| a.account == "second")
        .unwrap();
    assert_eq!(
        (account.kind.as_str(), account.account.as_str()),
        ("webhook", "second")
    );
    assert_eq!(account.secrets["signing"].len(), 64);

    let again = channels_add(dir.path(), "main", "webhook", "second").unwrap_err();
    assert!(again.to_string().contains("already there"), "{again}");
    // One from a platform waits for its secret.
    let telegram = channels_add(dir.path(), "main", "telegram", "bot").unwrap();
    assert!(
        !telegram.enabled
            && telegram
                .next
                .contains("gateway secret set telegram-bot-token"),
        "{telegram:?}"
    );
    let settings = load(request(dir.path())).unwrap();
    assert!(
        !settings.main().channels[0].enabled,
        "telegram sorts before webhook"
    );
    secret_set(
        dir.path(),
        "main",
        "telegram-two-token",
        &Secret::new(STRONG.to_owned()),
    )
    .unwrap();
    assert!(
        channels_add(dir.path(), "main", "telegram", "two")
            .unwrap()
            .enabled
    );
    assert_eq!(load(request(dir.path())).unwrap().main().channels.len(), 4);
    for (tenant, kind, account) in [
        ("nope", "webhook", "a"),
        ("main", "We", "a"),
        ("main", "webhook", "a/b"),
        ("main", "", "a"),
    ] {
        assert!(
            channels_add(dir.path(), tenant, kind, account).is_err(),
            "{tenant} {kind} {account}"
        );
    }
}

#[test]
fn adding_a_channel_finds_its_place_in_other_files() {
    let dir = tempfile::tempdir().unwrap();
    let report = init_state_dir(dir.path()).unwrap();
    for text in [
        "{}".to_owned(),
        "{ 'channels': { \"webhook\": {} } }".to_owned(),
        "{ channels: { webhook: { accounts: { /* none yet */ } } } }".to_owned(),
        "{\n  channels: {\n    webhook: { accounts: { b: {}, } }, // b\n  },\n}\n".to_owned(),
    ] {
        std::fs::write(&report.config_path, &text).unwrap();
        channels_add(dir.path(), "main", "webhook", "default").unwrap();
        let settings = load(request(dir.path())).unwrap();
        assert!(
            settings
                .main()
                .channels
                .iter()
                .any(|a| a.account == "default" && a.enabled),
            "{text}"
        );
    }
    let tenant = format!("{{ tenants: {{ acme: {{ auth: {{ token: '{STRONG}' }} }} }} }}");
    std::fs::write(&report.config_path, tenant).unwrap();
    let added = channels_add(dir.path(), "acme", "webhook", "x").unwrap();
    assert!(
        added
            .secret_path
            .starts_with(dir.path().join("secrets/acme"))
    );
    let settings = load(request(dir.path())).unwrap();
    assert!(settings.main().channels.is_empty());
    assert_eq!(settings.tenants["acme"].channels.len(), 1);
    // A file with a fault is not edited.
    std::fs::write(&report.config_path, "{ gatway: {} }").unwrap();
    assert!(channels_add(dir.path(), "main", "webhook", "y").is_err());
    assert_eq!(
        std::fs::read_to_string(&report.config_path).unwrap(),
        "{ gatway: {} }"
    );
}

#[test]
fn the_examples_in_the_comments_of_the_default_file_are_right() {
    // Uncomment the indented example blocks (lines of code, not of prose: they end with a bracket, a comma or a comment).
    let mut text = String::new();
    for line in DEFAULT_CONFIG.lines() {
        let trimmed = line.trim_start();
        let code = trimmed.strip_prefix("// ").filter(|c| {
            let c = c.trim();
            line.starts_with("    ")
                && (c.ends_with('{') || c.starts_with('}') || c.contains(": ") && c.contains(','))
                && !c.starts_with(|c: char| c.is_uppercase())
                && !c.starts_with(['"', '{'])
        });
        text.push_str(code.unwrap_or(line));
        text.push('\n');
    }
    let text = text.replacen("main: { backend: \"echo\" },", "", 1);
    let dir = tempfile::tempdir().unwrap();
    init_state_dir(dir.path()).unwrap();
    let put = |t, n| secret_set(dir.path(), t, n, &Secret::new(format!("{STRONG}{t}{n}"))).unwrap();

    put("acme", "gateway-token");
    let env = |_: &str| Some(STRONG.to_owned());
    let request = LoadRequest {
        env: &env,
        ..request(dir.path())
    };
    let settings =
        load_text(&text, &request, PathBuf::from("g")).unwrap_or_else(|e| panic!("{e}\n{text}"));
    assert!(matches!(
        settings.main().agents.entries["main"].backend,
        AgentBackend::OpenAi(_)
    ));
    assert_eq!(settings.main().channels.len(), 1);
    assert_eq!(settings.main().boot.len(), 1);
    assert!(settings.tenants.contains_key("acme"));
}

#[test]
fn the_schema_describes_every_key() {
    fn walk(path: &str, schema: &Value) {
        if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
            for (key, child) in properties {
                let described = child.get("description").is_some();
                assert!(
                    described || path.contains("SecretRef"),
                    "{path}.{key} has no description"
                );
            }
        }
    }
    let schema = options_schema();
    walk("", &schema);
    for (name, definition) in schema["$defs"].as_object().unwrap() {
        walk(name, definition);
    }
    assert!(!schema.to_string().contains("\"null\""));
}

#[test]
fn tls_is_off_made_by_us_or_a_whole_pair_of_the_operator() {
    let own = |generate| TlsSource::Own { generate };
    let tls = |text: &str| {
        let dir = tempfile::tempdir().unwrap();
        let settings = load_in(dir.path(), &format!("{{ gateway: {{ tls: {text} }} }}")).unwrap();
        let tls = settings.gateway.tls;
        let below = |path: &Path| path.strip_prefix(dir.path()).unwrap_or(path).to_owned();
        match tls.source {
            TlsSource::Files { cert, key } => (
                tls.enabled,
                TlsSource::Files {
                    cert: below(&cert),
                    key: below(&key),
                },
            ),
            own => (tls.enabled, own),
        }
    };
    assert_eq!(tls("{}"), (false, own(true)));
    assert_eq!(tls("{ enabled: true }"), (true, own(true)));
    assert_eq!(
        tls("{ enabled: true, autoGenerate: false }"),
        (true, own(false))
    );
    let files = TlsSource::Files {
        cert: "tls/c.pem".into(),
        key: "/etc/k.pem".into(),
    };
    assert_eq!(
        tls("{ enabled: true, certPath: 'tls/c.pem', keyPath: '/etc/k.pem' }"),
        (true, files)
    );
    check_refusal(
        "{\n gateway: { tls: { certPath: 'c.pem' } } }",
        &["gateway.json5:2:", "gateway.tls.certPath", "no keyPath"],
    );
    check_refusal(
        "{ gateway: { tls: { keyPath: 'k.pem' } } }",
        &["gateway.tls.keyPath", "no certPath"],
    );
    check_refusal(
        "{ gateway: { tls: { certPath: '', keyPath: 'k' } } }",
        &["gateway.tls.certPath", "must not be empty"],
    );
    // The flag turns it on whatever the file says.
    let dir = tempfile::tempdir().unwrap();
    init_state_dir(dir.path()).unwrap();
    let mut flagged = request(dir.path());
    flagged.overrides.tls = true;
    let settings = load_text(
        "{ gateway: { tls: { enabled: false } } }",
        &flagged,
        "g".into(),
    );
    assert!(settings.unwrap().gateway.tls.enabled);
}

/// Covers: N16.
#[test]
fn clear_text_beyond_this_machine_is_warned_of() {
    let warned = |text: &str| {
        let settings = try_load(text).unwrap();
        settings.warnings.iter().any(|w| w.contains("in clear"))
    };
    for bind in ["lan", "192.0.2.7", "::"] {
        assert!(warned(&format!("{{ gateway: {{ bind: '{bind}' }} }}")));
        assert!(!warned(&format!(
            "{{ gateway: {{ bind: '{bind}', tls: {{ enabled: true }} }} }}"
        )));
    }
    assert!(!warned("{ gateway: { bind: '127.0.0.2' } }"));
}

#[test]
fn a_gateway_elsewhere_is_named_whole() {
    let dir = tempfile::tempdir().unwrap();
    let report = init_state_dir(dir.path()).unwrap();
    secret_set(dir.path(), "main", "far", &Secret::new(STRONG.to_owned())).unwrap();
    let pin = "ab".repeat(32);
    let view = |text: &str, wants| {
        std::fs::write(&report.config_path, text).unwrap();
        client_view(&request(dir.path()), "main", wants)
    };
    let text = format!(
        "{{ gateway: {{ mode: 'remote', remote: {{ url: 'wss://far.example:1', token: {{ store: 'far' }}, tlsFingerprint: '{pin}, sha256:{}' }} }} }}",
        "CD:".repeat(31) + "CD"
    );
    let remote = view(&text, ClientWants::PlaceAndCredential)
        .unwrap()
        .remote
        .unwrap();
    assert_eq!(remote.url, "wss://far.example:1");
    assert_eq!(remote.token.unwrap().expose(), STRONG);
    assert_eq!(remote.pins.len(), 2);
    // Who brings a credential does not need the one of the file.
    let text = text.replace("'far'", "'gone'");
    assert!(view(&text, ClientWants::PlaceAndCredential).is_err());
    let remote = view(&text, ClientWants::Place).unwrap().remote.unwrap();
    assert!(remote.token.is_none() && remote.pins.len() == 2);
    let local = text.replace("mode: 'remote', ", "");
    assert!(view(&local, ClientWants::Place).unwrap().remote.is_none());
    let none = view("{ gateway: { mode: 'remote' } }", ClientWants::Place).unwrap_err();
    assert!(none.to_string().contains("gateway.remote.url"), "{none}");
    for (bad, words) in [
        ("url: 'far.example'", "gateway.remote.url"),
        ("url: 'wss://u:p@far.example'", "gateway.remote.url"),
        ("url: 'wss://far.example/?token=x'", "gateway.remote.url"),
        (
            "url: 'wss://far.example', tlsFingerprint: 'ab'",
            "64 hexadecimal digits",
        ),
    ] {
        check_refusal(
            &format!("{{ gateway: {{ remote: {{ {bad} }} }} }}"),
            &[words],
        );
    }
    assert!(
        try_load("{ gateway: { mode: 'remote', remote: { url: 'wss://a.example' } } }")
            .unwrap()
            .gateway
            .remote_mode
    );
}

#[test]
fn discovery_names_a_mode_and_a_domain() {
    let found = try_load(
        "{ discovery: { mdns: { mode: 'full' }, wideArea: { domain: 'GW.Example.org.' } } }",
    );
    let found = found.unwrap().discovery;
    assert_eq!(found.mode, MdnsMode::Full);
    assert_eq!(found.wide_area_domain.as_deref(), Some("gw.example.org"));
    for bad in ["org", "192.0.2.7", "a b.example", "../x.example", ""] {
        check_refusal(
            &format!("{{ discovery: {{ wideArea: {{ domain: '{bad}' }} }} }}"),
            &["discovery.wideArea.domain"],
        );
    }
    check_refusal(
        "{ discovery: { mdns: { mode: 'minmal' } } }",
        &["did you mean \"minimal\""],
    );
}

#[test]
fn a_client_sees_port_and_credential_without_the_gateways_other_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let report = init_state_dir(dir.path()).unwrap();
    let text = format!(
        "{{ gateway: {{ port: 4321 }},
            agents: {{ entries: {{ a: {{ backend: 'openai', baseUrl: 'http://h/v1', model: 'm', apiKey: {{env: 'NOT_HERE'}} }} }} }},
            tenants: {{ acme: {{ auth: {{ mode: 'password', password: '{STRONG}' }} }} }} }}"
    );
    std::fs::write(&report.config_path, text).unwrap();
    assert!(load(request(dir.path())).is_err());
    let main = client_view(
        &request(dir.path()),
        "main",
        ClientWants::PlaceAndCredential,
    )
    .unwrap();
    assert_eq!((main.port, main.auth.active().unwrap().len()), (4321, 64));
    let acme = client_view(
        &request(dir.path()),
        "acme",
        ClientWants::PlaceAndCredential,
    )
    .unwrap();
    assert_eq!(acme.auth.mode, AuthMode::Password);
    assert_eq!(acme.auth.active().unwrap().expose(), STRONG);
    assert!(
        client_view(
            &request(dir.path()),
            "nope",
            ClientWants::PlaceAndCredential
        )
        .is_err()
    );
    std::fs::write(&report.config_path, "{ gatway: {} }").unwrap();
    assert!(
        client_view(
            &request(dir.path()),
            "main",
            ClientWants::PlaceAndCredential
        )
        .is_err()
    );
}

#[test]
fn schedules_and_heartbeats_are_checked() {
    let openai = r#"backend: "openai", baseUrl: "http://h/v1", model: "m""#;
    let settings = try_load(&format!(
        "{{ agents: {{ entries: {{ main: {{ {openai} }}, echo: {{}} }} }} }}"
    ))
    .unwrap();
    let agents = &settings.main().agents.entries;
    assert_eq!(
        agents["main"].heartbeat.every_ms,
        30 * 60_000,
        "a model looks by itself"
    );
    assert_eq!(
        agents["echo"].heartbeat.every_ms, 0,
        "an echo would only repeat the question"
    );
    assert_eq!(agents["main"].heartbeat.target, HeartbeatTarget::Owner);
    assert!(settings.main().cron.enabled && settings.main().cron.webhook.allow.is_empty());
    let beat = |text: &str| {
        format!("{{ agents: {{ entries: {{ main: {{ heartbeat: {{ {text} }} }} }} }} }}")
    };
    let settings = try_load(&beat(
        r#"every: "1h30m", target: "telegram", to: "direct:7", activeHours: { start: "22:00", end: "06:00", timezone: "Europe/Berlin" }"#,
    ))
    .unwrap();
    let heartbeat = &settings.main().agents.entries["main"].heartbeat;
    assert_eq!(heartbeat.every_ms, 5_400_000);
    assert!(heartbeat.active_hours.as_ref().unwrap().contains(23 * 60));
    assert!(
        matches!(&heartbeat.target, HeartbeatTarget::Channel { kind, to, .. } if kind == "telegram" && to == "direct:7")
    );
    for (text, parts) in [
        (
            r#"every: "often""#,
            ["heartbeat.every", "not a length of time"],
        ),
        (r#"every: "5s""#, ["heartbeat.every", "from 30s to 31d"]),
        (
            r#"target: "telegram""#,
            ["heartbeat.target", "a channel needs a conversation"],
        ),
        (r#"to: "direct:7""#, ["heartbeat.to", "only with a channel"]),
        (
            r#"activeHours: { start: "25:00" }"#,
            ["heartbeat.activeHours", "not a time of day"],
        ),
        (
            r#"activeHours: { start: "08:00", end: "08:00" }"#,
            ["heartbeat.activeHours", "the same"],
        ),
        (
            r#"activeHours: { timezone: "Mars/Olympus" }"#,
            ["heartbeat.activeHours.timezone", "not a time zone"],
        ),
    ] {
        check_refusal(&beat(text), &parts);
    }
    check_refusal(
        r#"{ cron: { webhook: { allow: ["example.org"] } } }"#,
        &["cron.webhook.allow[0]", "not a URL pattern"],
    );
    check_refusal(
        r#"{ tenants: { acme: { auth: { token: "k3Jd92mXq8Zr1Vt5Nc7LyWpE0aBsZZ" }, cron: { webhook: { secrets: { ci: { store: "ci" } } } } } } }"#,
        &["tenants.acme.cron.webhook.secrets.ci"],
    );
}

#[test]
fn hooks_that_judge_are_read_in_order_and_wrong_ones_named() {
    let settings = try_load(
        r#"{
            hooks: { components: [
                { plugin: "second-of-all", events: ["tool.call"], onFailure: "allow", timeoutMs: 50, config: { a: [1] } },
                { plugin: "hook-words" },
            ] },
            tenants: { acme: { auth: { token: "the-token-of-acme-0123456789abcdefghijklmnopq" } } },
        }"#,
    )
    .unwrap();
    let [first, second] = &settings.tenants["main"].hook_components[..] else {
        panic!("two");
    };
    assert_eq!(first.plugin, "second-of-all");
    assert!(first.tools && !first.inbound && !first.outbound && first.fails_open);
    assert_eq!(
        (first.timeout_ms, &first.config["a"][0]),
        (50, &serde_json::json!(1))
    );
    // Everything is judged, and a failure denies, where nothing else is written.
    assert!(second.tools && second.inbound && second.outbound && !second.fails_open);
    assert_eq!(second.timeout_ms, 1_000);
    assert!(settings.tenants["main"].hooks.is_none());
    assert!(settings.tenants["acme"].hook_components.is_empty());
    for (text, words) in [
        (
            r#"{hooks: {components: [{plugin: "../x"}]}}"#,
            "not an id of a plugin",
        ),
        (r#"{hooks: {components: [{events: []}]}}"#, "plugin"),
        (
            r#"{hooks: {components: [{plugin: "a", events: ["message.lost"]}]}}"#,
            "message",
        ),
        (
            r#"{hooks: {components: [{plugin: "a", onFailure: "ignore"}]}}"#,
            "onFailure",
        ),
        (
            r#"{hooks: {components: [{plugin: "a", timeoutMs: 0}]}}"#,
            "timeoutMs",
        ),
    ] {
        let refused = refusal(text);
        assert!(refused.contains(words), "{text}: {refused}");
    }
}
