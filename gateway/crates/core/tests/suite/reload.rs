//! The configuration changes while the gateway runs: what counts at once, what is refused, who is told.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gateway_config::{ConfigFile, Overrides};
use gateway_core::auth::AuthAttempt;
use gateway_core::config::{ConfigState, Reloaded};
use gateway_core::{Caller, Host, HostOptions, Role, Surface, TenantHint};
use gateway_protocol::{DetailCode, RpcError, Scope, ScopeSet};
use gateway_store::SyncMode;
use serde_json::{Value, json};

use super::support::*;

const BETA_TOKEN: &str = "beta-token-0123456789abcdef0123456789abcdef";

fn text(main_token: &str, more: &str, tenants: &str) -> String {
    format!(
        "{{ gateway: {{ auth: {{ token: \"{main_token}\" }} }}, {more} tenants: {{ {tenants} }} }}"
    )
}

fn acme(more: &str) -> String {
    format!("acme: {{ hosts: [\"acme.example\"], auth: {{ token: \"{ACME_TOKEN}\" }}, {more} }},")
}

fn beta() -> String {
    format!("beta: {{ hosts: [\"beta.example\"], auth: {{ token: \"{BETA_TOKEN}\" }} }},")
}

fn write(dir: &Path, text: &str) {
    // As editors do it: beside, then renamed over.
    let beside = dir.join(".edit");
    std::fs::write(&beside, text).unwrap();
    std::fs::rename(&beside, dir.join("gateway.json5")).unwrap();
}

async fn start_on(dir: &Path, text: &str) -> Arc<Host> {
    write(dir, text);
    let file = ConfigFile::new(dir, None, Overrides::default(), Arc::new(|_| None));
    let started = file.start().unwrap();
    let mut options = HostOptions::new(dir, started.settings);
    options.config = Some(Arc::new(file));
    options.refused = started.refused;
    options.sync = SyncMode::Off;
    options.guests = false;
    let host = Host::start(options).await.unwrap();
    host.ready().wait_for(|ready| *ready).await.unwrap();
    host
}

/// Puts `text` in place and waits until it is decided on; the file's watch may be quicker than this call.
async fn edit(host: &Arc<Host>, dir: &Path, text: &str) -> Reloaded {
    write(dir, text);
    host.reload_config().await
}

fn knows(host: &Host, token: &str) -> Option<String> {
    let attempt = AuthAttempt {
        peer: "127.0.0.1".parse().unwrap(),
        loopback: true,
        origin: None,
        tenant_hint: &TenantHint::Unnamed,
        token: Some(token),
        password: None,
        device_token: None,
        bootstrap_token: None,
        vouched: None,
        device: None,
        surface: Surface::V4,
    };
    let found = host.authenticate(&attempt).ok()?;
    Some(found.tenant.slug().to_owned())
}

async fn say(host: &Arc<Host>, slug: &str, words: &str) {
    let tenant = host.tenant(slug).unwrap();
    let params = json!({"sessionKey": "main", "message": words, "idempotencyKey": words});
    call(host, &tenant, &admin(), "chat.send", params)
        .await
        .unwrap();
    settle(&tenant).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_come_and_go_and_what_they_have_stays_on_disk() {
    let dir = scratch();
    let host = start_on(dir.path(), &text(MAIN_TOKEN, "", &acme(""))).await;
    say(&host, "acme", "before").await;
    let main = host.main_tenant().unwrap();
    let old = host.tenant("acme").unwrap();

    edit(&host, dir.path(), &text(MAIN_TOKEN, "", &beta())).await;
    assert!(host.tenant("acme").is_none());
    assert_eq!(knows(&host, ACME_TOKEN), None);
    assert_eq!(knows(&host, BETA_TOKEN).as_deref(), Some("beta"));
    assert!(matches!(
        host.tenant_by_hints(Some("beta.example"), None).unwrap(),
        TenantHint::Named(t) if t.slug() == "beta"
    ));
    assert!(matches!(
        host.tenant_by_hints(Some("acme.example"), None).unwrap(),
        TenantHint::Unnamed
    ));
    say(&host, "beta", "hello").await;
    assert!(
        Arc::ptr_eq(&main, &host.main_tenant().unwrap()),
        "main is not touched"
    );

    // Who still holds the old tenant gets answers, and no work is begun.
    let params = json!({"sessionKey": "main", "message": "late", "idempotencyKey": "late"});
    let late = call(&host, &old, &admin(), "chat.send", params).await;
    assert!(late.is_err(), "{late:?}");

    // It comes back with what it had, also at once.
    edit(
        &host,
        dir.path(),
        &text(MAIN_TOKEN, "", &format!("{}{}", acme(""), beta())),
    )
    .await;
    let back = host.tenant("acme").unwrap();
    assert!(!Arc::ptr_eq(&old, &back));
    assert_eq!(old.id(), back.id());
    let history = transcript(&host, &back, "main").await;
    assert!(
        history.iter().any(|(_, text)| text.contains("before")),
        "{history:?}"
    );
    assert!(
        !history.iter().any(|(_, text)| text.contains("late")),
        "{history:?}"
    );
    say(&host, "acme", "after").await;
    host.shutdown(Duration::from_secs(5)).await;
}

/// Covers: F6.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_edit_touches_nothing_and_is_told_with_its_place() {
    let dir = scratch();
    let good = text(MAIN_TOKEN, "", &acme(""));
    let host = start_on(dir.path(), &good).await;
    let main = host.main_tenant().unwrap();
    let watcher = connect(&host, &main, Role::Operator, ScopeSet::of(Scope::Read), &[]);
    let other = host.tenant("acme").unwrap();
    let before = call(&host, &main, &admin(), "config.get", json!({}))
        .await
        .unwrap();
    for (wrong, line) in [
        ("{ gateway: ".to_owned(), 1),
        ("{\n  gateway: { prot: 1 } }".to_owned(), 2),
        (String::new(), 0),
        // The agent's tool is not there: told before anything is swapped.
        (
            text(
                MAIN_TOKEN,
                "agents: { entries: { main: {},\n x: { tools: [\"no-such-tool\"] } } },",
                &acme(""),
            ),
            2,
        ),
        // A new tenant whose channel has no plugin.
        (
            text(
                MAIN_TOKEN,
                "",
                &format!(
                    "{}\nnew: {{ auth: {{ token: \"{BETA_TOKEN}\" }}, channels: {{ nope: {{ accounts: {{ a: {{}} }} }} }} }}",
                    acme("")
                ),
            ),
            2,
        ),
        (text(ACME_TOKEN, "", &acme("")), 1),
    ] {
        let got = edit(&host, dir.path(), &wrong).await;
        let Reloaded::Refused(fault) = got else {
            panic!("{wrong}: {got:?}");
        };
        if line > 0 {
            assert_eq!(
                fault.position.map(|p| p.0),
                Some(line),
                "{wrong}: {fault:?}"
            );
        }
        let status = host.shared().configuration.status();
        assert_eq!((status.state, status.revision), (ConfigState::Rejected, 1));
        let health = call(&host, &main, &admin(), "health", json!({}))
            .await
            .unwrap();
        assert_eq!(health["config"]["state"], "rejected");
        assert!(health["config"]["error"]["message"].is_string());
        assert!(
            !health
                .to_string()
                .contains(&dir.path().display().to_string())
        );
        // Another tenant's operators learn nothing of it.
        let theirs = call(&host, &other, &admin(), "health", json!({}))
            .await
            .unwrap();
        assert_eq!(theirs["config"]["state"], "active");
        assert_eq!(theirs["config"]["error"], Value::Null);
        let shown = call(&host, &main, &admin(), "config.get", json!({}))
            .await
            .unwrap();
        assert_eq!(shown["config"], before["config"]);
        assert_eq!(shown["hash"], before["hash"]);
        assert_eq!(
            (&shown["valid"], shown["issues"].as_array().unwrap().len()),
            (&json!(false), 1)
        );
        assert!(host.tenant("new").is_none());
        assert_eq!(knows(&host, MAIN_TOKEN).as_deref(), Some("main"));
    }
    assert!(Arc::ptr_eq(&main, &host.main_tenant().unwrap()));
    assert!(
        watcher.events.named("config.changed").is_empty(),
        "none for a refused edit"
    );
    // Mended by putting the old text back: in order again, and still nothing to tell.
    edit(&host, dir.path(), &good).await;
    assert_eq!(
        host.shared().configuration.status().state,
        ConfigState::Active
    );
    assert!(watcher.events.named("config.changed").is_empty());
    let health = call(&host, &main, &admin(), "health", json!({}))
        .await
        .unwrap();
    assert_eq!(health["config"]["error"], Value::Null);
    host.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_applied_change_is_told_once_to_those_who_can_see_it() {
    let dir = scratch();
    let host = start_on(dir.path(), &text(MAIN_TOKEN, "", &acme(""))).await;
    let (main, other) = (host.main_tenant().unwrap(), host.tenant("acme").unwrap());
    let read = ScopeSet::of(Scope::Read);
    let reader = connect(&host, &main, Role::Operator, read, &[]);
    let blind = connect(&host, &main, Role::Operator, ScopeSet::NONE, &[]);
    let node = connect(&host, &main, Role::Node, ScopeSet::NONE, &[]);
    let theirs = connect(&host, &other, Role::Operator, read, &[]);

    // Only main's: acme does not hear of it.
    let agents = "agents: { default: \"b\", entries: { main: {}, b: { systemPrompt: \"x\" } } },";
    edit(&host, dir.path(), &text(MAIN_TOKEN, agents, &acme(""))).await;
    // The same text again, and once more with other spaces: the file's hash is another, what it says is not.
    edit(&host, dir.path(), &text(MAIN_TOKEN, agents, &acme(""))).await;
    assert_eq!(main.default_agent().as_str(), "b");
    let told = reader.events.named("config.changed");
    assert_eq!(told.len(), 1, "{told:?}");
    let shown = call(&host, &main, &admin(), "config.get", json!({}))
        .await
        .unwrap();
    assert_eq!(told[0]["hash"], shown["hash"]);
    assert_eq!(told[0]["revision"], 2);
    assert_eq!(told[0]["path"], "gateway.json5");
    assert!(theirs.events.named("config.changed").is_empty());

    // Only acme's: the owner of the file sees that the file is another, acme sees its own.
    let changed = acme("session: { queueMode: \"interrupt\" },");
    edit(&host, dir.path(), &text(MAIN_TOKEN, agents, &changed)).await;
    let own = theirs.events.named("config.changed");
    assert_eq!(own.len(), 1);
    assert_eq!(own[0]["revision"], 2);
    let shown = call(&host, &other, &admin(), "config.get", json!({}))
        .await
        .unwrap();
    assert_eq!(own[0]["hash"], shown["hash"]);
    let told = reader.events.named("config.changed");
    assert_eq!(told.len(), 2);
    assert_eq!(told[1]["revision"], 3);
    assert_ne!(told[1]["hash"], own[0]["hash"]);
    assert!(blind.events.named("config.changed").is_empty());
    assert!(node.events.named("config.changed").is_empty());
    host.shutdown(Duration::from_secs(5)).await;
}

/// Covers: A11.
#[tokio::test(flavor = "multi_thread")]
async fn a_changed_secret_counts_at_once_and_the_old_one_ends() {
    let dir = scratch();
    let host = start_on(dir.path(), &text(MAIN_TOKEN, "", &acme(""))).await;
    let fresh = "fresh-token-0123456789abcdef0123456789abcdef";
    edit(&host, dir.path(), &text(fresh, "", &acme(""))).await;
    assert_eq!(knows(&host, MAIN_TOKEN), None);
    assert_eq!(knows(&host, fresh).as_deref(), Some("main"));
    assert_eq!(knows(&host, ACME_TOKEN).as_deref(), Some("acme"));
    // A stored secret is watched too: no edit of the file is needed.
    let stored = |value: &str| {
        let dir = dir.path().join("secrets/main");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("t"), value).unwrap();
    };
    let by_reference = "{ gateway: { auth: { token: { store: \"t\" } } } }";
    stored(MAIN_TOKEN);
    edit(&host, dir.path(), by_reference).await;
    assert_eq!(knows(&host, MAIN_TOKEN).as_deref(), Some("main"));
    assert!(
        host.settings()
            .written
            .files()
            .iter()
            .any(|f| f.ends_with("secrets/main/t"))
    );
    stored(fresh);
    host.reload_config().await;
    assert_eq!(knows(&host, fresh).as_deref(), Some("main"));
    assert_eq!(knows(&host, MAIN_TOKEN), None);
    // Neither is ever in the log.
    host.main_tenant()
        .unwrap()
        .log("info", &format!("see {fresh}"));
    let tail = host.main_tenant().unwrap().logs().tail(None, 100, 100_000);
    assert!(
        tail.lines.iter().all(|l| !l.contains(fresh)),
        "{:?}",
        tail.lines
    );
    host.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_a_start_is_named_and_stays_as_it_runs() {
    let dir = scratch();
    let host = start_on(
        dir.path(),
        "{ gateway: { port: 0 } }"
            .replace(
                "port: 0",
                &format!("port: 0, auth: {{ token: \"{MAIN_TOKEN}\" }}"),
            )
            .as_str(),
    )
    .await;
    let main = host.main_tenant().unwrap();
    let edited = format!(
        "{{ gateway: {{ port: 7, auth: {{ token: \"{MAIN_TOKEN}\" }}, limits: {{ authFailures: 3 }} }}, logging: {{ format: \"json\", level: \"debug\" }} }}"
    );
    edit(&host, dir.path(), &edited).await;
    assert_eq!(host.settings().gateway.port, 0);
    assert_eq!(host.settings().gateway.limits.auth_failures, 3);
    let health = call(&host, &main, &admin(), "status", json!({}))
        .await
        .unwrap();
    assert_eq!(
        health["config"]["restartNeeded"],
        json!(["gateway.port", "logging.format"])
    );
    assert_eq!(health["config"]["state"], "active");
    host.shutdown(Duration::from_secs(5)).await;
}

/// What mends a refused edit may be another file than the configuration: it is watched too.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_missing_mends_the_edit_when_it_comes() {
    let dir = scratch();
    let host = start_on(dir.path(), &text(MAIN_TOKEN, "", "")).await;
    let secrets = dir.path().join("secrets/beta");
    std::fs::create_dir_all(&secrets).unwrap();
    let more = "session: { $include: \"session.json5\" },";
    let tenants = "beta: { auth: { token: { store: \"t\" } } }";
    write(dir.path(), &text(MAIN_TOKEN, more, tenants));
    let wait = |wanted: ConfigState| {
        let host = host.clone();
        async move {
            for _ in 0..3_000 {
                if host.shared().configuration.status().state == wanted {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            panic!("not {wanted:?}: {:?}", host.shared().configuration.status());
        }
    };
    wait(ConfigState::Rejected).await;
    std::fs::write(secrets.join("t"), BETA_TOKEN).unwrap();
    std::fs::write(dir.path().join("session.json5"), "{ dmScope: \"main\" }").unwrap();
    wait(ConfigState::Active).await;
    assert_eq!(knows(&host, BETA_TOKEN).as_deref(), Some("beta"));
    host.shutdown(Duration::from_secs(5)).await;
}

/// Covers: F5.
#[tokio::test(flavor = "multi_thread")]
async fn with_a_broken_file_it_serves_with_the_last_good_one_until_the_file_is_mended() {
    let dir = scratch();
    let good = text(MAIN_TOKEN, "", &acme(""));
    let host = start_on(dir.path(), &good).await;
    // It is kept in the background once the gateway is ready.
    let kept = dir.path().join("config/last-good.json");
    for _ in 0..1_000 {
        if kept.exists() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    host.shutdown(Duration::from_secs(5)).await;
    drop(host);

    let broken = good[..good.len() - 3].to_owned();
    let host = start_on(dir.path(), &broken).await;
    assert_eq!(
        std::fs::read_to_string(dir.path().join("gateway.json5")).unwrap(),
        broken
    );
    let main = host.main_tenant().unwrap();
    assert!(host.tenant("acme").is_some());
    let health = call(&host, &main, &admin(), "health", json!({}))
        .await
        .unwrap();
    assert_eq!(health["config"]["state"], "last-good");
    assert_eq!(health["config"]["error"]["line"], 1);
    let shown = call(&host, &main, &admin(), "config.get", json!({}))
        .await
        .unwrap();
    assert_eq!(shown["valid"], false);
    // Another fault is still that; a good file ends it without a start.
    edit(&host, dir.path(), "{").await;
    assert_eq!(
        host.shared().configuration.status().state,
        ConfigState::LastGood
    );
    edit(&host, dir.path(), &good).await;
    assert_eq!(
        host.shared().configuration.status().state,
        ConfigState::Active
    );
    host.shutdown(Duration::from_secs(5)).await;
}

async fn patch(host: &Arc<Host>, raw: Value, base: &Value) -> Result<Value, RpcError> {
    let main = host.main_tenant().unwrap();
    let params = json!({"raw": raw.to_string(), "baseHash": base});
    call(host, &main, &admin(), "config.patch", params).await
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_write_by_base_hash_and_comments_stay() {
    let dir = scratch();
    let first = text(MAIN_TOKEN, "/* mine */", &acme(""));
    let host = start_on(dir.path(), &first).await;
    let main = host.main_tenant().unwrap();
    let reader = connect(&host, &main, Role::Operator, ScopeSet::ALL, &[]);
    let get = || async {
        call(&host, &main, &admin(), "config.get", json!({}))
            .await
            .unwrap()
    };
    let shown = get().await;
    let base = shown["hash"].clone();
    assert!(base.as_str().unwrap().starts_with("hmac-sha256:v1:"));

    let done = patch(&host, json!({"session": {"dmScope": "main"}}), &base)
        .await
        .unwrap();
    assert_eq!(done["ok"], true);
    assert_eq!(done["changedPaths"], json!(["session.dmScope"]));
    assert_eq!(done["restartNeeded"], json!([]));
    assert_eq!(done["config"]["session"]["dmScope"], "main");
    assert_ne!(done["hash"], base);
    let file = std::fs::read_to_string(dir.path().join("gateway.json5")).unwrap();
    assert!(
        file.contains("/* mine */") && file.contains("dmScope"),
        "{file}"
    );
    assert!(!done.to_string().contains(MAIN_TOKEN));
    // The watch sees our own write and has nothing to do.
    tokio::time::sleep(Duration::from_millis(900)).await;
    host.reload_config().await;
    assert_eq!(reader.events.named("config.changed").len(), 1);
    assert_eq!(get().await["hash"], done["hash"]);

    // Old base, no base, a wrong value: nothing is changed.
    let stale = patch(&host, json!({"session": {"dmScope": "per-peer"}}), &base)
        .await
        .unwrap_err();
    assert_eq!(
        stale.message,
        "config changed since last load; re-run config.get and retry"
    );
    let params = json!({"raw": "{}"});
    for method in ["config.set", "config.apply", "config.patch"] {
        let error = call(&host, &main, &admin(), method, params.clone())
            .await
            .unwrap_err();
        assert_eq!(
            error.message,
            "config base hash required; re-run config.get and retry"
        );
        assert_eq!(error.detail, DetailCode::InvalidRequest);
    }
    let base = done["hash"].clone();
    let wrong = patch(&host, json!({"nonsenseKey": 1}), &base)
        .await
        .unwrap_err();
    assert!(wrong.message.starts_with("invalid config: "), "{wrong:?}");
    let gate = json!({"agents": {"entries": {"main": {"tools": ["no-such-tool"]}}}});
    assert!(patch(&host, gate, &base).await.is_err());
    assert_eq!(
        std::fs::read_to_string(dir.path().join("gateway.json5")).unwrap(),
        file
    );
    assert_eq!(reader.events.named("config.changed").len(), 1);

    // As a whole, from what was shown: secrets stay.
    let raw = get().await["config"].to_string();
    let done = call(
        &host,
        &main,
        &admin(),
        "config.set",
        json!({"raw": raw, "baseHash": base}),
    )
    .await;
    // acme is not in what is shown of main: it is gone, as the text says.
    done.unwrap();
    assert!(host.tenant("acme").is_none());
    assert_eq!(knows(&host, MAIN_TOKEN).as_deref(), Some("main"));

    // A file that somebody broke: a patch says so, a whole text mends it.
    let base = get().await["hash"].clone();
    std::fs::write(dir.path().join("gateway.json5"), "{ gateway: ").unwrap();
    let error = patch(&host, json!({"session": {}}), &base)
        .await
        .unwrap_err();
    assert!(error.message.contains("not JSON5"), "{error:?}");
    let params = json!({"raw": first, "baseHash": base});
    call(&host, &main, &admin(), "config.apply", params)
        .await
        .unwrap();
    assert!(host.tenant("acme").is_some());
    host.shutdown(Duration::from_secs(5)).await;
}

/// A tenant's admin changes its own part of the file by its own base, and sees and moves nothing of anybody else's: not by the patch, not
/// by the answer, not by an error, not by an event.
///
/// Covers: Z1, MT16.
#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_admin_edits_its_own_part_and_nothing_else() {
    let dir = scratch();
    let canary = "canary-prompt-of-beta";
    let both = format!(
        "{} beta: {{ auth: {{ token: \"{BETA_TOKEN}\" }}, agents: {{ entries: {{ main: {{}}, secretive: {{ systemPrompt: \"{canary}\" }} }} }} }},",
        acme(
            "/* of acme */ agents: { entries: { main: { systemPrompt: \"old\" } } }, session: { dmScope: \"per-peer\" },"
        )
    );
    let first = text(MAIN_TOKEN, "/* of main */", &both);
    let host = start_on(dir.path(), &first).await;
    let file = dir.path().join("gateway.json5");
    let main = host.main_tenant().unwrap();
    let (acme, beta) = (host.tenant("acme").unwrap(), host.tenant("beta").unwrap());
    let readers = [&main, &acme, &beta]
        .map(|t| connect(&host, t, Role::Operator, ScopeSet::of(Scope::Read), &[]));
    let told = || {
        readers
            .each_ref()
            .map(|r| r.events.named("config.changed").len())
    };
    let get = async |t: &Arc<gateway_core::Tenant>| {
        call(&host, t, &admin(), "config.get", json!({}))
            .await
            .unwrap()
    };
    // Writes are limited for each address.
    let from = std::cell::Cell::new(0_u8);
    let patch = async |raw: Value, base: &Value| {
        from.set(from.get() + 1);
        let mut caller = Caller::internal("test", ScopeSet::ALL, None);
        caller.surface = Surface::V4;
        caller.ip = Some([127, 0, 2, from.get()].into());
        let params = json!({"raw": raw.to_string(), "baseHash": base});
        call(&host, &acme, &Arc::new(caller), "config.patch", params).await
    };
    let (of_main, of_acme, of_beta) = (get(&main).await, get(&acme).await, get(&beta).await);

    // What it may write, and a key that it takes out.
    let raw = json!({
        "agents": {"entries": {"main": {"systemPrompt": "new", "tools": ["current_time"], "heartbeat": {"every": "2h"}}}},
        "session": {"dmScope": null, "queueMode": "interrupt"},
    });
    let done = patch(raw, &of_acme["hash"]).await.unwrap();
    assert_eq!(done["config"]["session"]["queueMode"], "interrupt");
    let changed = done["changedPaths"].as_array().unwrap();
    for path in [
        "agents.entries.main.systemPrompt",
        "session.dmScope",
        "session.queueMode",
    ] {
        assert!(changed.contains(&json!(path)), "{changed:?}");
    }
    let after = get(&acme).await;
    let sign = |of: &Value| (of["hash"].clone(), of["revision"].clone());
    assert_eq!(sign(&done), sign(&after));
    assert_ne!(done["hash"], of_acme["hash"]);
    let written = std::fs::read_to_string(&file).unwrap();
    for kept in ["/* of main */", "/* of acme */", canary, "\"new\""] {
        assert!(written.contains(kept), "{written}");
    }
    // The owner of the file and its own readers are told; the other tenant has what it had, by every sign.
    settle(&acme).await;
    assert_eq!(told(), [1, 1, 0]);
    assert_eq!(get(&beta).await, of_beta);
    assert_ne!(get(&main).await["hash"], of_main["hash"]);
    // The entry is written beside the answer.
    let waited = std::time::Instant::now();
    loop {
        let entries = call(
            &host,
            &acme,
            &admin(),
            "audit.entries",
            json!({"limit": 50}),
        )
        .await;
        let entries = entries.unwrap().to_string();
        if entries.contains("config.patch") {
            break;
        }
        assert!(waited.elapsed().as_secs() < 20, "{entries}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    // Nothing to change is no change.
    let base = &done["hash"];
    let same = patch(json!({"session": {"queueMode": "interrupt"}}), base).await;
    assert_eq!(same.unwrap()["changedPaths"], json!([]));

    let mut answers = vec![done.clone(), after];
    // What is not its own, or more than it says: not with the right base, nor as part of something that it may.
    for raw in [
        json!({"auth": {"token": "another-token-0123456789abcdef0123456789abcdef"}}),
        json!({"hosts": ["beta.example"]}),
        json!({"gateway": {"port": 1}}),
        json!({"tenants": {"beta": {"session": {"dmScope": "main"}}}}),
        json!({"session": {"dmScope": "main"}, "plugins": {"dir": "/tmp"}}),
        json!({"agents": {"entries": {"main": {"baseUrl": "http://169.254.169.254/"}}}}),
        json!({"agents": {"entries": {"main": {"apiKey": {"env": "HOME"}}}}}),
        json!({"agents": {"entries": {"another": {"systemPrompt": "x"}}}}),
        json!({"agents": {"entries": {"secretive": {"systemPrompt": "x"}}}}),
        json!({"agents": {"entries": {"main": {"systemPrompt": "${GATEWAY_TOKEN}"}}}}),
        json!({"agents": {"entries": {"main": null}}}),
        json!({"agents": null}),
        json!({"channels": {"webhook": {"accounts": {"default": {"enabled": true}}}}}),
        json!({"channels": {"webhook": {"accounts": {"default": {"http": {"allow": ["http://10.0.0.1/*"]}}}}}}),
        json!({"hooks": {"token": {"file": "secrets/main/gateway-token"}}}),
        json!({"hooks": {"mappings": {"m": {"template": "$${x} ${HOME}"}}}}),
        json!({"$include": "other.json5"}),
        json!({"cron": {"webhook": {"allow": ["http://127.0.0.1/*"]}}}),
        json!({"boot": {"scripts": {"greeting": {"enabled": true}}}}),
    ] {
        let error = patch(raw.clone(), base).await.unwrap_err();
        assert_eq!(error.detail, DetailCode::CapabilityDenied, "{raw}");
        let error = serde_json::to_value(&error).unwrap();
        let own = error["details"]["ownKeys"].as_array().unwrap();
        assert!(own.contains(&json!("session")), "{error}");
        answers.push(error);
    }
    // A wrong value, by its path and no place in a file; a wrong, foreign or missing base; what is no patch.
    let wrong = patch(json!({"session": {"queueMode": "nonsense"}}), base).await;
    let wrong = serde_json::to_value(wrong.unwrap_err()).unwrap();
    let issue = &wrong["details"]["issues"][0];
    assert_eq!(issue["path"], "session.queueMode", "{wrong}");
    assert!(issue.get("line").is_none(), "{wrong}");
    let gate = json!({"agents": {"entries": {"main": {"tools": ["no-such-tool"]}}}});
    let gate = serde_json::to_value(patch(gate, base).await.unwrap_err()).unwrap();
    assert!(!gate.to_string().contains("tenants."), "{gate}");
    answers.extend([wrong, gate]);
    for base in [&of_acme["hash"], &of_beta["hash"], &of_main["hash"]] {
        let stale = patch(json!({"session": {"dmScope": "main"}}), base).await;
        let stale = stale.unwrap_err();
        assert!(stale.message.contains("re-run config.get"), "{stale:?}");
    }
    let params = json!({"raw": "{session: {dmScope: 'main'}}"});
    let missing = call(&host, &acme, &admin(), "config.patch", params).await;
    let missing = missing.unwrap_err();
    assert!(
        missing.message.contains("base hash required"),
        "{missing:?}"
    );
    assert!(patch(json!([1]), base).await.is_err());
    // Without the scope.
    let mut caller = Caller::internal("x", ScopeSet::of(Scope::Write), None);
    caller.surface = Surface::V4;
    let params = json!({"raw": "{}", "baseHash": base});
    let error = call(&host, &acme, &Arc::new(caller), "config.patch", params).await;
    assert_eq!(error.unwrap_err().detail, DetailCode::MissingScope);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), written);
    assert_eq!(told(), [1, 1, 0]);

    // Somebody breaks the part of another tenant in the file: that it takes no edits is all that this one learns.
    std::fs::write(&file, written.replace(canary, "x\", broken: \"")).unwrap();
    let broken = patch(json!({"session": {"dmScope": "main"}}), base).await;
    let broken = serde_json::to_value(broken.unwrap_err()).unwrap();
    assert!(broken.to_string().contains("ask the operator"), "{broken}");
    answers.push(broken);
    let all = json!(answers).to_string();
    for foreign in [canary, "beta", MAIN_TOKEN, BETA_TOKEN, ACME_TOKEN] {
        assert!(!all.contains(foreign), "{foreign}: {all}");
    }
    host.shutdown(Duration::from_secs(5)).await;
}

/// Covers: Z1, MT16.
#[tokio::test(flavor = "multi_thread")]
async fn only_the_owner_of_the_file_writes_it_and_not_what_runs_on_the_machine() {
    let dir = scratch();
    let host = start_on(dir.path(), &text(MAIN_TOKEN, "", &acme(""))).await;
    let (main, other) = (host.main_tenant().unwrap(), host.tenant("acme").unwrap());
    let base = call(&host, &main, &admin(), "config.get", json!({}))
        .await
        .unwrap()["hash"]
        .clone();
    let before = std::fs::read_to_string(dir.path().join("gateway.json5")).unwrap();
    let theirs = call(&host, &other, &admin(), "config.get", json!({}))
        .await
        .unwrap()["hash"]
        .clone();
    for method in ["config.set", "config.patch", "config.apply"] {
        // A tenant's own admin, with any hash, also for its own part; that has a way of its own.
        for hash in [&base, &theirs] {
            let whole = (method != "config.patch").then(|| json!({}));
            for raw in whole.into_iter().chain([
                json!({"gateway": {"port": 1}}),
                json!({"tenants": {"acme": {"session": {}}}}),
            ]) {
                let params = json!({"raw": raw.to_string(), "baseHash": hash});
                let error = call(&host, &other, &admin(), method, params)
                    .await
                    .unwrap_err();
                assert_eq!(error.detail, DetailCode::CapabilityDenied, "{method}");
            }
        }
        // Whoever has not the scope, and guests and agents with all scopes.
        let params = json!({"raw": "{}", "baseHash": base});
        let mut caller = Caller::internal("x", ScopeSet::of(Scope::Write), None);
        caller.surface = Surface::V4;
        let error = call(&host, &main, &Arc::new(caller), method, params.clone())
            .await
            .unwrap_err();
        assert_eq!(error.detail, DetailCode::MissingScope);
        let guest = Arc::new(Caller::internal("boot", ScopeSet::ALL, None));
        let error = call(&host, &main, &guest, method, params)
            .await
            .unwrap_err();
        assert_eq!(error.detail, DetailCode::CapabilityDenied);
    }
    for raw in [
        json!({"plugins": {"dir": "/tmp"}}),
        json!({"gateway": {"auth": {"token": {"exec": {"argv": ["/bin/sh"]}}}}}),
        json!({"channels": {"webhook": {"accounts": {"a": {"enabled": false, "secrets": {"s": {"exec": {"argv": ["/bin/sh"]}}}}}}}}),
    ] {
        let error = patch(&host, raw.clone(), &base).await.unwrap_err();
        assert_eq!(error.detail, DetailCode::CapabilityDenied, "{raw}");
    }
    assert_eq!(
        std::fs::read_to_string(dir.path().join("gateway.json5")).unwrap(),
        before
    );
    host.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_of_clients_are_limited() {
    let dir = scratch();
    let host = start_on(dir.path(), &text(MAIN_TOKEN, "", "")).await;
    let mut limited = None;
    for _ in 0..31 {
        let got = patch(&host, json!({}), &json!("stale")).await.unwrap_err();
        if got.detail == DetailCode::RateLimited {
            limited = Some(got);
        }
    }
    let limited = limited.expect("the 31st of a minute is refused");
    assert!(
        limited
            .message
            .starts_with("rate limit exceeded for config.patch; retry after ")
    );
    host.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schema_tells_what_a_change_needs() {
    let dir = scratch();
    let host = start_on(dir.path(), &text(MAIN_TOKEN, "", "")).await;
    let main = host.main_tenant().unwrap();
    let schema = call(&host, &main, &admin(), "config.schema", json!({}))
        .await
        .unwrap();
    assert_eq!(
        schema["schema"]["properties"]["logging"]["x-reload"],
        "live"
    );
    assert_eq!(schema["uiHints"]["gateway.auth.token"]["sensitive"], true);
    assert!(schema["uiHints"]["channels.*.accounts.*.enabled"]["help"].is_string());
    let found = call(
        &host,
        &main,
        &admin(),
        "config.schema.lookup",
        json!({"path": "gateway"}),
    )
    .await
    .unwrap();
    let child = |key: &str| {
        let all = found["children"].as_array().unwrap();
        all.iter().find(|c| c["key"] == key).unwrap().clone()
    };
    assert_eq!(child("port")["reloadKind"], "restart");
    assert_eq!(child("auth")["reloadKind"], "hot");
    assert_eq!(child("auth")["hasChildren"], true);
    for (path, code) in [
        ("gateway.nothing", DetailCode::NotFound),
        ("a b", DetailCode::InvalidRequest),
    ] {
        let error = call(
            &host,
            &main,
            &admin(),
            "config.schema.lookup",
            json!({"path": path}),
        )
        .await
        .unwrap_err();
        assert_eq!(error.detail, code, "{path}");
    }
    host.shutdown(Duration::from_secs(5)).await;
}
