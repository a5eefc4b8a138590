//! Import of another gateway's file.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use gateway_config::*;
use serde_json::Value;

const STRONG: &str = "k3Jd92mXq8Zr1Vt5Nc7LyWpE0aBs";

fn old() -> String {
    // The shape of a recorded file, with parts of other real ones.
    format!(
        r#"{{
  // a comment
  "gateway": {{ "mode": "local", "port": 19789, "bind": "auto", "auth": {{ "mode": "token", "token": "{STRONG}-gw", "rateLimit": {{ "maxAttempts": 5 }} }},
    "tailscale": {{ "mode": "off" }}, "controlUi": {{ "allowedOrigins": ["https://app.example"] }},
    "http": {{ "endpoints": {{ "chatCompletions": {{ "enabled": true }}, "responses": {{ "enabled": true }} }} }}, "trustedProxies": ["10.0.0.1"] }},
  "agents": {{ "defaults": {{ "workspace": "/w", "model": {{ "primary": "mock/mock-1" }}, "skipBootstrap": true }},
    "list": [{{ "id": "Work", "default": true }}, {{ "id": "home", "model": "anthropic/claude" }}] }},
  "models": {{ "mode": "replace", "providers": {{
    "mock": {{ "baseUrl": "http://127.0.0.1:19801/v1", "apiKey": "{STRONG}-key", "api": "openai-completions", "models": [] }},
    "anthropic": {{ "baseUrl": "https://a.example", "apiKey": "${{ANTHROPIC}}", "api": "anthropic-messages" }} }} }},
  "messages": {{ "queue": {{ "mode": "steer" }} }},
  "channels": {{ "telegram": {{ "enabled": true, "botToken": "123456:{STRONG}", "dmPolicy": "allowlist", "allowFrom": ["*", 42, "tg:43"],
      "groups": {{ "-100": {{ "requireMention": false }} }}, "streaming": "partial" }}, "whatsapp": {{ "dmPolicy": "pairing" }} }},
  "cron": {{ "enabled": true }}, "ui": {{ "seamColor": "red" }}, "meta": {{ "lastTouchedVersion": "2026.9.6" }},
}}"#
    )
}

#[test]
fn what_has_an_equal_is_taken_over_and_every_key_is_accounted_for() {
    let import = import_openclaw(&old()).unwrap();
    for (name, secret) in [
        ("gateway-token", format!("{STRONG}-gw")),
        ("mock-api-key", format!("{STRONG}-key")),
        ("telegram-default-token", format!("123456:{STRONG}")),
    ] {
        assert_eq!(import.secrets[name].expose(), secret);
    }
    assert!(!import.text.contains(STRONG) && !format!("{:?}", import.report).contains(STRONG));

    // It is a file that a gateway starts with.
    let dir = tempfile::tempdir().unwrap();
    init_state_dir(dir.path()).unwrap();
    for (name, secret) in &import.secrets {
        secret_set(dir.path(), "main", name, secret).unwrap();
    }
    let file = ConfigFile::new(dir.path(), None, Overrides::default(), Arc::new(|_| None));
    let settings = file.check(&import.text).unwrap();
    assert_eq!(settings.gateway.port, 19_789);
    assert_eq!(settings.gateway.bind, Bind::Loopback);
    assert_eq!(settings.gateway.limits.auth_failures, 5);
    assert!(
        settings
            .gateway
            .allowed_origins
            .contains("https://app.example")
    );
    let main = settings.main();
    assert_eq!(main.auth.active().unwrap().expose(), format!("{STRONG}-gw"));
    assert_eq!(main.agents.default, "work");
    let AgentBackend::OpenAi(work) = &main.agents.entries["work"].backend else {
        panic!("{:?}", main.agents);
    };
    assert_eq!(
        (work.base_url.as_str(), work.model.as_str()),
        ("http://127.0.0.1:19801/v1", "mock-1")
    );
    assert_eq!(
        work.api_key.as_ref().unwrap().expose(),
        format!("{STRONG}-key")
    );
    assert!(matches!(
        main.agents.entries["home"].backend,
        AgentBackend::Echo
    ));
    assert_eq!(main.session.dm_scope, DmScope::Main);
    let telegram = &main.channels[0];
    assert_eq!(
        (telegram.kind.as_str(), telegram.account.as_str()),
        ("telegram", "default")
    );
    assert_eq!(telegram.dm_policy, DmPolicy::Allowlist);
    assert_eq!(telegram.allow_from.iter().collect::<Vec<_>>(), ["42", "43"]);
    assert_eq!(telegram.group_policy, GroupPolicy::Allowlist);
    assert!(telegram.groups.contains("-100") && !telegram.require_mention);

    let outcome = |path: &str| {
        let row = import.report.iter().find(|r| r.from == path);
        row.unwrap_or_else(|| panic!("{path} in {:#?}", import.report))
            .outcome
    };
    assert_eq!(outcome("gateway.port"), Outcome::Mapped);
    assert_eq!(outcome("gateway.bind"), Outcome::Changed);
    assert_eq!(outcome("gateway.auth.token"), Outcome::Changed);
    assert_eq!(outcome("gateway.trustedProxies"), Outcome::Mapped);
    assert_eq!(
        outcome("gateway.http.endpoints.responses"),
        Outcome::Unsupported
    );
    assert_eq!(outcome("messages.queue.mode"), Outcome::Changed);
    assert_eq!(outcome("channels.whatsapp"), Outcome::Unsupported);
    assert_eq!(outcome("channels.telegram.streaming"), Outcome::Unsupported);
    assert_eq!(outcome("ui"), Outcome::Unsupported);
    assert_eq!(outcome("meta"), Outcome::Mapped);
    // Every leaf of the old file is covered by a row.
    let old: Value = parse_value(&old()).unwrap();
    let mut leaves = Vec::new();
    gather(&old, &mut Vec::new(), &mut leaves);
    for leaf in leaves {
        let covered = import.report.iter().any(|r| {
            leaf == r.from
                || leaf.starts_with(&format!("{}.", r.from))
                || leaf.starts_with(&format!("{}[", r.from))
        });
        let known = ["agents.list", "models.providers", "gateway.customBindHost"]
            .iter()
            .any(|p| leaf.starts_with(p));
        assert!(covered || known, "{leaf} is not accounted for");
    }
}

fn gather(value: &Value, steps: &mut Vec<String>, out: &mut Vec<String>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                steps.push(key.clone());
                gather(value, steps, out);
                steps.pop();
            }
        }
        _ => out.push(join_path(steps)),
    }
}

#[test]
fn a_small_or_strange_file_is_imported_too() {
    for (text, default) in [
        ("{}", "main"),
        ("{ agents: { entries: { main: {} } } }", "main"),
        ("{ agents: { list: [{ id: \"Solo\" }] } }", "solo"),
        (
            "{ __proto__: { gateway: { port: 1 } }, gateway: null, channels: [] }",
            "main",
        ),
    ] {
        let import = import_openclaw(text).unwrap();
        let dir = tempfile::tempdir().unwrap();
        init_state_dir(dir.path()).unwrap();
        let file = ConfigFile::new(dir.path(), None, Overrides::default(), Arc::new(|_| None));
        let settings = file
            .check(&import.text)
            .unwrap_or_else(|e| panic!("{text}: {e}\n{}", import.text));
        assert_eq!(settings.main().agents.default, default, "{text}");
        assert_eq!(settings.gateway.port, DEFAULT_PORT);
    }
    for bad in ["", "[1]", "{", "{ a: 1, a: 2 }"] {
        assert!(import_openclaw(bad).is_err(), "{bad}");
    }
    let total: u64 = import_counts(
        &import_openclaw("{ x: 1, gateway: { port: 2 } }")
            .unwrap()
            .report,
    )
    .values()
    .filter_map(Value::as_u64)
    .sum();
    assert_eq!(total, 3, "x, gateway.port and the default of dmScope");
}
