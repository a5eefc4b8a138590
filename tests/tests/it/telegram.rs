//! Telegram through the real guest, against a double of the Bot API: 200 updates with repeats among them, while the guest traps at
//! random on one call in twenty and the gateway is killed again and again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use gateway_tests::process::{Gateway, target_dir};
use gateway_tests::telegram::BotApi;
use gateway_tests::ws::Ws;
use serde_json::{Value, json};

const TOKEN: &str = "4242:telegram-token-canary-AAAA";
const UPDATES: usize = 200;
const USERS: i64 = 20;
/// How long the whole may take before the test gives up; not a performance statement.
const PATIENCE: Duration = Duration::from_secs(240);

fn config(api: &BotApi) -> String {
    format!(
        r#"{{
          gateway: {{ auth: {{ mode: "token", token: {{ file: "secrets/main/gateway-token" }} }} }},
          channels: {{ telegram: {{ accounts: {{ default: {{
            dmPolicy: "open",
            secrets: {{ token: "{TOKEN}" }},
            config: {{ apiBase: "http://{addr}", pollTimeoutS: 1 }},
            http: {{ allow: ["http://{addr}/bot{{secret:token}}/*"], allowPrivate: true }},
          }} }} }} }},
        }}"#,
        addr = api.addr
    )
}

fn guests(dir: &Path) -> String {
    let built = target_dir().parent().unwrap().join("test-guests/telegram");
    assert!(
        built.exists(),
        "{} is missing: run `cargo xtask guests` first",
        built.display()
    );
    let to = dir.join("telegram");
    std::fs::create_dir_all(&to).unwrap();
    for file in ["plugin.toml", "telegram.wasm"] {
        std::fs::copy(built.join(file), to.join(file)).unwrap();
    }
    dir.to_str().unwrap().to_owned()
}

fn outbox(gateway: &Gateway, state: Option<&str>) -> Vec<Value> {
    let mut args = vec!["outbox", "list", "--json", "--limit", "1000"];
    if let Some(state) = state {
        args.extend(["--state", state]);
    }
    let (ok, out, err) = gateway.cli(&args);
    assert!(ok, "{err}");
    let listed: Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"));
    listed["items"].as_array().cloned().unwrap_or_default()
}

/// The user messages of every session, and how often each text stands there.
async fn transcripts(gateway: &Gateway) -> BTreeMap<String, usize> {
    let mut ws = Ws::connect(gateway.port, "/", &gateway.token())
        .await
        .unwrap();
    let mut seen = BTreeMap::new();
    for user in 0..USERS {
        let key = format!("agent:main:telegram:direct:{}", 500 + user);
        let history = ws
            .call("chat.history", json!({"sessionKey": key, "limit": 1000}))
            .await
            .unwrap();
        for message in history["messages"].as_array().unwrap() {
            if message["role"] == "user" {
                let text = match &message["content"] {
                    Value::String(text) => text.clone(),
                    blocks => blocks[0]["text"].as_str().unwrap().to_owned(),
                };
                *seen.entry(text).or_insert(0) += 1;
            }
        }
    }
    ws.close().await;
    seen
}

/// In the long round until 200 kills came together.
/// Covers: F1, F16, F21, N5, W9.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_update_starts_one_run_and_no_reply_is_sent_twice() {
    let wanted = match std::env::var("GATEWAY_LONG").as_deref() {
        Ok("1") => 200,
        _ => 5,
    };
    let (mut kills, mut rounds) = (0, 0);
    while kills < wanted {
        kills += updates_under_kills(rounds).await;
        rounds += 1;
    }
    println!("telegram: {kills} kills in {rounds} rounds");
}

/// 200 updates, six kills at places that differ from round to round; gives the number of kills.
async fn updates_under_kills(round: usize) -> usize {
    let dir = tempfile::tempdir().unwrap();
    let api = BotApi::start(TOKEN).await;
    let state = dir.path().join("state");
    std::fs::create_dir(&state).unwrap();
    std::fs::write(state.join("gateway.json5"), config(&api)).unwrap();
    let wasm_dir = guests(&dir.path().join("guests"));
    let flags = ["--wasm-dir", wasm_dir.as_str()];
    let started = Instant::now();
    let mut gateway = Gateway::start(&state, &flags);
    let mut updates: Vec<Value> = Vec::new();
    let mut kills = 0usize;
    let mut pushed = 0usize;
    // The kills, by the number of messages that the platform has by then. Odd ones fall between a request and its result.
    let mut plan: Vec<usize> = [15usize, 45, 75, 105, 135, 165]
        .map(|at| at + 7 * round % 23)
        .to_vec();
    while started.elapsed() < PATIENCE {
        while pushed < UPDATES && api.pending() < 15 {
            let user = 500 + i64::try_from(pushed).unwrap() % USERS;
            let text = format!("message {pushed}");
            let id = api.push_text(user, "private", user, &text);
            updates.push(api.update_of(id, user, "private", user, &text));
            // Every fifth comes again later, as platforms do.
            if pushed % 5 == 4 {
                api.repeat(updates[pushed - 3].clone());
            }
            pushed += 1;
        }
        let arrived = api.sent().len();
        if plan.first().is_some_and(|at| arrived >= *at) {
            plan.remove(0);
            if plan.len() % 2 == 1 {
                // The platform has the message and its answer is on hold: the result can't be recorded yet.
                api.delay_sends(Duration::from_millis(400));
                let before = api.sent().len();
                let waiting = Instant::now();
                while api.sent().len() == before && waiting.elapsed() < Duration::from_secs(20) {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
            gateway.kill();
            kills += 1;
            api.delay_sends(Duration::ZERO);
            gateway = Gateway::start(&state, &flags);
        }
        let waiting = outbox_busy(&gateway);
        if pushed == UPDATES && api.pending() == 0 && plan.is_empty() && !waiting {
            let rows = outbox(&gateway, None);
            if rows.len() == UPDATES {
                break;
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let rows = outbox(&gateway, None);
    assert!(
        kills >= 5,
        "only {kills} kills; {} rows, {} pending",
        rows.len(),
        api.pending()
    );
    assert_eq!(rows.len(), UPDATES, "one answer row for each update");
    // Each update started exactly one run: its text stands once in its session.
    let seen = transcripts(&gateway).await;
    assert_eq!(seen.len(), UPDATES);
    assert!(seen.values().all(|count| *count == 1), "{seen:?}");
    // The platform sees each reply at most once.
    let mut replies: BTreeMap<String, usize> = BTreeMap::new();
    for sent in api.sent().values() {
        *replies.entry(sent.text.clone()).or_insert(0) += 1;
    }
    let doubled: Vec<_> = replies.iter().filter(|(_, count)| **count > 1).collect();
    assert!(doubled.is_empty(), "sent twice: {doubled:?}");
    // What it did not see is listed as unknown, and is no more than what was in flight at the kills.
    let unknown: BTreeSet<String> = rows
        .iter()
        .filter(|row| row["state"] == "unknown")
        .map(|row| row["preview"].as_str().unwrap().to_owned())
        .collect();
    let lost: Vec<String> = (0..UPDATES)
        .map(|n| format!("echo: message {n}"))
        .filter(|text| !replies.contains_key(text))
        .collect();
    for text in &lost {
        assert!(
            unknown.contains(text),
            "{text} was neither seen nor listed; {rows:#?}"
        );
    }
    assert!(
        lost.len() <= kills,
        "{} lost by {kills} kills: {lost:?}",
        lost.len()
    );
    assert!(
        rows.iter()
            .all(|row| ["sent", "unknown"].contains(&row["state"].as_str().unwrap())),
        "{rows:#?}"
    );
    assert_eq!(api.wrong_token(), 0);
    // The token is nowhere where people or guests read.
    let log = std::fs::read_to_string(&gateway.log).unwrap();
    assert!(!log.contains("telegram-token-canary"));
    let (_, logs, _) = gateway.cli(&["call", "logs.tail", "--params", r#"{"limit":5000}"#]);
    assert!(!logs.contains("telegram-token-canary"));
    println!(
        "telegram: {UPDATES} updates, {kills} kills, {} replies seen, {} unknown of which {} not seen, calls {:?}, {:.1} s",
        replies.len(),
        unknown.len(),
        lost.len(),
        api.calls(),
        started.elapsed().as_secs_f64()
    );
    kills
}

fn outbox_busy(gateway: &Gateway) -> bool {
    !outbox(gateway, Some("queued")).is_empty() || !outbox(gateway, Some("sending")).is_empty()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rate_limit_is_waited_out_and_groups_need_a_mention() {
    let dir = tempfile::tempdir().unwrap();
    let api = BotApi::start(TOKEN).await;
    let state = dir.path().join("state");
    std::fs::create_dir(&state).unwrap();
    let text = config(&api).replace(
        "dmPolicy: \"open\"",
        "dmPolicy: \"open\", groupPolicy: \"allowlist\", groups: [\"-100\"]",
    );
    std::fs::write(state.join("gateway.json5"), text).unwrap();
    let wasm = gateway_tests::process::guests_dir();
    let gateway = Gateway::start(&state, &["--wasm-dir", wasm.to_str().unwrap()]);
    api.rate_limit_next(2);
    api.push_text(7, "private", 7, "hello");
    api.push_text(-100, "supergroup", 7, "not for you");
    api.push_text(-100, "supergroup", 7, "@gate_bot for you");
    api.push_text(
        -200,
        "supergroup",
        7,
        "@gate_bot in a group that is not on the list",
    );
    let started = Instant::now();
    while api.sent().len() < 2 && started.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let sent: Vec<_> = api.sent().into_values().collect();
    assert_eq!(sent.len(), 2, "{sent:?}");
    assert!(
        sent.iter()
            .any(|sent| sent.chat_id == 7 && sent.text == "echo: hello"),
        "{sent:?}"
    );
    assert!(
        sent.iter()
            .any(|sent| sent.chat_id == -100 && sent.text.contains("for you")),
        "{sent:?}"
    );
    drop(gateway);
}
