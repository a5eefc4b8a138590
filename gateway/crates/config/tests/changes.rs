//! Edits of single values, and what a change does to a running gateway.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::sync::Arc;

use gateway_config::*;
use serde_json::{Value, json};

const STRONG: &str = "k3Jd92mXq8Zr1Vt5Nc7LyWpE0aBs";

fn file(dir: &Path) -> ConfigFile {
    init_state_dir(dir).unwrap();
    ConfigFile::new(dir, None, Overrides::default(), Arc::new(|_| None))
}

fn snapshot(text: &str) -> Snapshot {
    Snapshot {
        text: text.to_owned(),
        hash: String::new(),
    }
}

fn set(text: &str, path: &str, value: Option<Value>) -> Result<String, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let edit = KeyEdit {
        steps: split_path(path).unwrap(),
        value,
    };
    file(dir.path()).edited(&snapshot(text), &[edit])
}

#[test]
fn a_value_is_set_where_it_stands_and_the_rest_stays() {
    let text = "// head\n{\n  // the port\n  gateway: { port: 1, /* here */ bind: \"lan\" },\n  logging: {},\n}\n";
    assert_eq!(
        set(text, "gateway.port", Some(json!(2))).unwrap(),
        text.replace("port: 1", "port: 2")
    );
    let added = set(text, "logging.level", Some(json!("debug"))).unwrap();
    assert!(
        added.contains("// the port") && added.contains("/* here */"),
        "{added}"
    );
    assert_eq!(parse_value(&added).unwrap()["logging"]["level"], "debug");
    let deep = set(text, "tenants.acme.auth.token.store", Some(json!("t"))).unwrap();
    assert_eq!(
        parse_value(&deep).unwrap()["tenants"]["acme"]["auth"]["token"]["store"],
        "t"
    );
    let gone = set(text, "gateway.bind", None).unwrap();
    assert!(gone.contains("port: 1") && !gone.contains("bind"), "{gone}");
    let odd = set(
        text,
        "channels[\"a b\"]",
        Some(json!({"x": [1, null, "q\"uote"]})),
    )
    .unwrap();
    assert_eq!(
        parse_value(&odd).unwrap()["channels"]["a b"]["x"][2],
        "q\"uote"
    );
    assert_eq!(
        parse_value(&set("", "a.b", Some(json!(1))).unwrap()).unwrap(),
        json!({"a": {"b": 1}})
    );
    let list = "{ gateway: { allowedHosts: [\"a\", \"b\"] } }";
    let replaced = set(list, "gateway.allowedHosts[1]", Some(json!("c"))).unwrap();
    assert_eq!(
        parse_value(&replaced).unwrap()["gateway"]["allowedHosts"],
        json!(["a", "c"])
    );
    let shorter = set(list, "gateway.allowedHosts[0]", None).unwrap();
    assert_eq!(
        parse_value(&shorter).unwrap()["gateway"]["allowedHosts"],
        json!(["b"])
    );
    for (path, value) in [
        ("gateway.nothing", None),
        ("nothing.at.all", None),
        ("gateway.allowedHosts[7]", Some(json!("x"))),
    ] {
        assert!(set(list, path, value).is_err(), "{path}");
    }
    let broken = set("{ gateway: ", "gateway.port", Some(json!(1))).unwrap_err();
    assert!(broken.place().is_some(), "{broken}");
}

fn patch(dir: &Path, text: &str, patch: Value, replace: &[&str]) -> Result<String, String> {
    let file = file(dir);
    let running = file.check(text).map_err(|e| e.to_string())?;
    let replace: Vec<String> = replace.iter().map(|s| (*s).to_owned()).collect();
    let edits = file
        .patch_edits(&snapshot(text), &running, &patch, &replace)
        .map_err(|e| e.to_string())?;
    file.edited(&snapshot(text), &edits)
        .map_err(|e| e.to_string())
}

#[test]
fn a_merge_patch_joins_objects_removes_by_null_and_keeps_lists() {
    let dir = tempfile::tempdir().unwrap();
    let text = "{ /* c */ gateway: { port: 1, allowedHosts: [\"a\", \"b\"] }, logging: { level: \"warn\" } }";
    let done = patch(
        dir.path(),
        text,
        json!({"gateway": {"port": 2}, "logging": null, "session": {}}),
        &[],
    )
    .unwrap();
    assert!(done.contains("/* c */"));
    assert_eq!(
        parse_value(&done).unwrap(),
        json!({"gateway": {"port": 2, "allowedHosts": ["a", "b"]}, "session": {}})
    );
    assert_eq!(
        patch(dir.path(), text, json!({"gateway": {"port": 1}}), &[]).unwrap(),
        text,
        "nothing new"
    );
    let longer = patch(
        dir.path(),
        text,
        json!({"gateway": {"allowedHosts": ["a", "b", "c"]}}),
        &[],
    )
    .unwrap();
    assert_eq!(
        parse_value(&longer).unwrap()["gateway"]["allowedHosts"],
        json!(["a", "b", "c"])
    );
    let shorter = json!({"gateway": {"allowedHosts": ["b"]}});
    let refused = patch(dir.path(), text, shorter.clone(), &[]).unwrap_err();
    assert!(
        refused.contains("gateway.allowedHosts") && refused.contains("replacePaths"),
        "{refused}"
    );
    let done = patch(dir.path(), text, shorter, &["gateway.allowedHosts"]).unwrap();
    assert_eq!(
        parse_value(&done).unwrap()["gateway"]["allowedHosts"],
        json!(["b"])
    );
    // One reference to a secret replaces another; nulls of a new object are left out.
    let text2 =
        "{ gateway: { auth: { token: { file: \"secrets/main/gateway-token\" } } }, session: {} }";
    let done = patch(dir.path(), text2, json!({"gateway": {"auth": {"token": {"store": "gateway-token"}}}, "session": {"dmScope": null, "queueMode": "interrupt"}}), &[]).unwrap();
    assert_eq!(
        parse_value(&done).unwrap(),
        json!({"gateway": {"auth": {"token": {"store": "gateway-token"}}}, "session": {"queueMode": "interrupt"}})
    );
    // null takes out what is there; what is not there stays away.
    assert_eq!(
        patch(dir.path(), text, json!({"session": null}), &[]).unwrap(),
        text
    );
    assert!(patch(dir.path(), text, json!({"$include": "x.json5"}), &[]).is_err());
    // The default token counts without being written: it cannot be taken out.
    assert!(
        patch(
            dir.path(),
            text,
            json!({"gateway": {"auth": {"token": null}}}),
            &[]
        )
        .is_err()
    );
}

/// Covers: Z13.
#[test]
fn odd_keys_of_a_patch_reach_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    for odd in ["__proto__", "constructor", "prototype"] {
        let done = patch(
            dir.path(),
            "{}",
            json!({odd: {"gateway": {"port": 5}}}),
            &[],
        )
        .unwrap();
        let error = file(dir.path()).check(&done).unwrap_err().to_string();
        assert!(error.contains("unknown key"), "{error}");
        let value = parse_value(&done).unwrap();
        assert_eq!(value.as_object().unwrap().keys().collect::<Vec<_>>(), [odd]);
    }
}

/// A configuration with a secret in every place that can hold one.
fn full() -> (String, Vec<String>) {
    let secrets: Vec<String> = (0..7).map(|i| format!("canary-{i}-{STRONG}")).collect();
    let text = format!(
        r#"{{
  gateway: {{ auth: {{ mode: "token", token: "{0}", password: "{1}" }} }}, // main
  agents: {{ entries: {{ main: {{ backend: "openai", model: "m", baseUrl: "http://h/v1", apiKey: "{2}" }} }} }},
  channels: {{ webhook: {{ accounts: {{ a: {{ secrets: {{ signing: "{3}" }}, config: {{ clientSecret: "{6}", n: 1 }} }} }} }} }},
  tenants: {{ acme: {{ auth: {{ token: "{4}" }}, channels: {{ webhook: {{ accounts: {{ b: {{ secrets: {{ signing: "{5}" }} }} }} }} }} }} }},
}}"#,
        secrets[0], secrets[1], secrets[2], secrets[3], secrets[4], secrets[5], secrets[6]
    );
    (text, secrets)
}

/// Covers: Z14.
#[test]
fn what_was_shown_hidden_and_is_written_back_stays_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let file = file(dir.path());
    let (text, secrets) = full();
    let running = file.check(&text).unwrap();
    let shown = redacted_json(&running);
    for secret in &secrets {
        assert!(!shown.to_string().contains(secret.as_str()));
    }
    assert_eq!(shown.to_string().matches(REDACTED).count(), secrets.len());

    // As a whole: every secret is the one from before, in its place.
    let sent = format!("{shown:#}");
    let back = file.restored(&snapshot(&text), &running, &sent).unwrap();
    assert!(!back.contains(REDACTED));
    let again = file.check(&back).unwrap();
    let digests = |s: &Settings| s.secrets().iter().map(|s| s.digest()).collect::<Vec<_>>();
    assert_eq!(digests(&again), digests(&running));
    assert_eq!(
        again.main().channels[0].config["clientSecret"],
        secrets[6].as_str()
    );
    for secret in &secrets {
        assert_eq!(back.matches(secret.as_str()).count(), 1);
    }

    // As a patch: what is hidden is no change.
    let edits = file
        .patch_edits(&snapshot(&text), &running, &shown, &[])
        .unwrap();
    assert!(
        edits.iter().all(|e| !format!("{e:?}").contains(REDACTED)),
        "{edits:?}"
    );
    let edited = file.edited(&snapshot(&text), &edits).unwrap();
    assert_eq!(digests(&file.check(&edited).unwrap()), digests(&running));

    // The default token: shown, written nowhere, and still so.
    let running = file.check("{}").unwrap();
    let sent = format!("{{ gateway: {{ auth: {{ token: \"{REDACTED}\" }} }} }}");
    let back = file.restored(&snapshot("{}"), &running, &sent).unwrap();
    assert_eq!(
        parse_value(&back).unwrap(),
        json!({"gateway": {"auth": {}}})
    );

    // As a value it is refused: where nothing is hidden, in a list whose elements moved, by hand.
    let sent = format!("{{ agents: {{ entries: {{ main: {{ apiKey: \"{REDACTED}\" }} }} }} }}");
    assert!(file.restored(&snapshot("{}"), &running, &sent).is_err());
    let value: Value = parse_value(&sent).unwrap();
    assert!(
        file.patch_edits(&snapshot("{}"), &running, &value, &[])
            .is_err()
    );
    let by_hand = format!("{{ gateway: {{ auth: {{ token: \"{REDACTED}\" }} }} }}");
    let error = file.check(&by_hand).unwrap_err().to_string();
    assert!(error.contains("stands for a secret"), "{error}");
}

#[test]
fn differences_are_told_without_secrets() {
    let (text, secrets) = full();
    let other = text
        .replace(&secrets[0], "another-k3Jd92mXq8Zr1Vt5Nc7L")
        .replace("n: 1", "n: 2");
    let told = differences(&text, &other).unwrap();
    let paths: Vec<&str> = told.iter().map(|d| d.path.as_str()).collect();
    assert_eq!(
        paths,
        ["channels.webhook.accounts.a.config.n", "gateway.auth.token"]
    );
    assert_eq!(told[0].from, Some(json!(1)));
    assert_eq!(told[1].to, Some(json!(REDACTED)));
    let all = differences("{}", &text).unwrap();
    for secret in &secrets {
        assert!(!format!("{all:?}").contains(secret.as_str()), "{secret}");
    }
}

/// Every option says, itself or by what it stands in, what a change of it needs; every part of the top level itself.
#[test]
fn every_option_has_a_reload_class() {
    let schema = options_schema();
    for (key, part) in schema["properties"].as_object().unwrap() {
        let class = part["x-reload"].as_str();
        assert!(
            matches!(class, Some("live" | "restart-part" | "restart-process")),
            "{key}: {class:?}"
        );
    }
    for (path, class) in [
        ("gateway.port", Reload::Process),
        ("gateway.bind", Reload::Process),
        ("gateway.auth.token", Reload::Live),
        ("gateway.limits.maxConnections", Reload::Live),
        ("gateway.allowedHosts", Reload::Live),
        ("gateway.trustedProxies", Reload::Live),
        ("agents.entries.main.model", Reload::Live),
        ("session.dmScope", Reload::Live),
        ("channels.telegram.accounts.bot.http.allow", Reload::Part),
        (
            "channels.telegram.accounts.bot.config.anything",
            Reload::Part,
        ),
        ("boot.scripts.greeting.enabled", Reload::Process),
        ("plugins.dir", Reload::Process),
        ("plugins.bundled", Reload::Process),
        ("cron.enabled", Reload::Live),
        ("hooks.token", Reload::Live),
        ("agents.entries.main.heartbeat.every", Reload::Live),
        ("gateway.tls.enabled", Reload::Process),
        ("gateway.remote.url", Reload::Live),
        ("discovery.mdns.mode", Reload::Process),
        ("logging.level", Reload::Live),
        ("logging.format", Reload::Process),
        ("tenants.acme.hosts", Reload::Live),
        (
            "tenants.acme.channels.webhook.accounts.a.agent",
            Reload::Part,
        ),
        ("tenants.acme.boot.scripts.x.enabled", Reload::Process),
        ("tenants[\"a.b\"].session.queueMode", Reload::Live),
        ("nobody.knows", Reload::Process),
    ] {
        assert_eq!(Reload::of(path), class, "{path}");
    }
    assert!(doc_of("gateway.port").unwrap().contains("18789"));
    let node = look_up("gateway.auth").unwrap();
    let keys: Vec<&str> = node.children.iter().map(|(k, _)| k.as_str()).collect();
    assert_eq!(
        keys,
        [
            "mode",
            "token",
            "password",
            "trustedProxy",
            "allowTailscale"
        ]
    );
    assert!(node.children[1].1.secret && !node.children[0].1.secret);
    assert_eq!(look_up("gateway.nothing"), None);
    assert_eq!(
        look_up("channels.*.accounts.*").unwrap().reload,
        Reload::Part
    );
    assert!(!look_up("").unwrap().children.is_empty());
}

fn plan(dir: &Path, a: &str, b: &str) -> Plan {
    let file = file(dir);
    Plan::between(&file.check(a).unwrap(), &file.check(b).unwrap())
}

#[test]
fn a_plan_names_what_changes_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let same = plan(
        dir.path(),
        "{ logging: {} }",
        "{ /* other */ logging: { } }",
    );
    assert!(same.is_empty(), "{same:?}");

    let token = format!("auth: {{ token: \"{STRONG}\" }}");
    let old = format!(
        "{{ agents: {{ default: \"a\", entries: {{ a: {{}}, b: {{}} }} }},
           channels: {{ webhook: {{ accounts: {{ one: {{ enabled: false }}, two: {{ agent: \"b\", enabled: false }}, three: {{ enabled: false }} }} }} }},
           tenants: {{ acme: {{ {token} }} }} }}"
    );
    let new = "{ agents: { default: \"b\", entries: { a: {}, b: {} } },
           channels: { webhook: { accounts: { one: { enabled: false }, two: { agent: \"b\", enabled: false } } }, telegram: { accounts: { t: { enabled: false } } } },
           gateway: { port: 5, allowedHosts: [\"h.example\"], limits: { authFailures: 3 } }, logging: { level: \"debug\" } }";
    let plan = plan(dir.path(), &old, new);
    assert_eq!(plan.tenants["acme"], TenantChange::Removed);
    assert_eq!(plan.restart(), ["gateway.port"]);
    assert!(plan.names && plan.limits && plan.log_level);
    let TenantChange::Changed(main) = &plan.tenants["main"] else {
        panic!("{plan:?}");
    };
    assert!(main.agents && !main.session && !main.auth && !main.boot);
    let account = |kind: &str, id: &str| {
        main.accounts
            .get(&(kind.to_owned(), id.to_owned()))
            .copied()
    };
    // Its agent was the default one, which is another now.
    assert_eq!(account("webhook", "one"), Some(AccountChange::Changed));
    assert_eq!(account("webhook", "two"), None, "untouched");
    assert_eq!(account("webhook", "three"), Some(AccountChange::Removed));
    assert_eq!(account("telegram", "t"), Some(AccountChange::Added));
}

/// Hooks of every tenant, `main` too: what is only written there counts as a change of that tenant and of no other.
#[test]
fn an_edit_of_hooks_is_a_change_of_its_tenant() {
    let dir = tempfile::tempdir().unwrap();
    let with = |main: &str, acme: &str| {
        format!(
            "{{ hooks: {{ components: [{main}] }}, tenants: {{ acme: {{ auth: {{ token: \"{STRONG}\" }}, hooks: {{ components: [{acme}] }} }} }} }}"
        )
    };
    let hook = "{ plugin: \"hook-words\" }";
    for (slug, after) in [("main", with(hook, "")), ("acme", with("", hook))] {
        let plan = plan(dir.path(), &with("", ""), &after);
        let [(changed, TenantChange::Changed(parts))] =
            &plan.tenants.iter().collect::<Vec<_>>()[..]
        else {
            panic!("{plan:?}");
        };
        assert_eq!(*changed, slug);
        assert!(parts.hooks && !parts.agents && !parts.cron, "{plan:?}");
    }
}

#[test]
fn a_changed_secret_is_a_change_although_the_file_is_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let file = file(dir.path());
    let before = file.check("{}").unwrap();
    std::fs::write(dir.path().join("secrets/main/gateway-token"), STRONG).unwrap();
    let after = file.check("{}").unwrap();
    let plan = Plan::between(&before, &after);
    assert_eq!(plan.paths(), ["gateway.auth.token"]);
    let TenantChange::Changed(main) = &plan.tenants["main"] else {
        panic!("{plan:?}");
    };
    assert!(main.auth && !main.agents && main.accounts.is_empty());
    assert!(!format!("{plan:?} {after:?}").contains(STRONG));
}

#[test]
fn what_cannot_change_while_it_runs_stays_and_no_door_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let file = file(dir.path());
    let running = file
        .check("{ gateway: { bind: \"lan\" }, logging: { format: \"json\" } }")
        .unwrap();
    let new = file
        .check("{ gateway: { port: 5 } }")
        .unwrap()
        .beside(&running)
        .unwrap();
    assert_eq!(new.gateway.port, DEFAULT_PORT);
    assert_eq!(new.gateway.bind, Bind::Lan);
    assert_eq!(new.logging.format, LogFormat::Json);
    // Right for the next start, and an open door until then.
    let open = file
        .check("{ gateway: { auth: { mode: \"none\" } } }")
        .unwrap();
    let error = open.beside(&running).unwrap_err().to_string();
    assert!(error.contains("others can connect"), "{error}");
}
