//! Schedules on the real binary: killed around the moment at which a job comes due, and with a clock that is set under it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use gateway_tests::process::Gateway;
use gateway_tests::ws::Ws;
use serde_json::{Value, json};

const CONFIG: &str = r#"{
  gateway: { auth: { mode: "token", token: { file: "secrets/main/gateway-token" } } },
  agents: { entries: { main: { backend: "echo" } } },
}"#;
const TOKEN: &str = "schedule-token-0123456789abcdef0123456789abcdef";

fn long() -> bool {
    std::env::var("GATEWAY_LONG").as_deref() == Ok("1")
}

fn prepare(dir: &Path) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let state = dir.join("state");
    std::fs::create_dir_all(state.join("secrets/main")).unwrap();
    let private = |path: PathBuf, text: &str| {
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    private(state.join("gateway.json5"), CONFIG);
    private(state.join("secrets/main/gateway-token"), TOKEN);
    state
}

async fn connect(gateway: &Gateway) -> Ws {
    Ws::connect(gateway.port, "/", TOKEN).await.unwrap()
}

async fn add(ws: &mut Ws, every_ms: u64) -> String {
    let job = ws
        .call(
            "cron.add",
            json!({"name": "tick", "schedule": {"kind": "every", "everyMs": every_ms, "anchorMs": 0}, "sessionTarget": "isolated",
                   "wakeMode": "now", "payload": {"kind": "agentTurn", "message": "tick tock"}}),
        )
        .await
        .unwrap();
    job["id"].as_str().unwrap().to_owned()
}

/// The last runs of a job, by run id.
async fn log(ws: &mut Ws, id: &str) -> BTreeMap<String, Value> {
    let page = ws
        .call("cron.runs", json!({"id": id, "limit": 200}))
        .await
        .unwrap();
    page["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (entry["runId"].as_str().unwrap().to_owned(), entry.clone()))
        .collect()
}

fn wall_ms() -> i64 {
    i64::try_from(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_millis(),
    )
    .unwrap()
}

/// How many occurrences a row of the log stands for.
fn stands_for(entry: &Value) -> i64 {
    let why = entry["error"].as_str().unwrap_or_default();
    match why
        .strip_prefix("missed: ")
        .and_then(|rest| rest.split_once(" occurrences"))
    {
        Some((count, _)) => count.parse().unwrap(),
        None => 1,
    }
}

/// Killed within 50 ms of the moment at which a job comes due, again and again: every occurrence of the whole time is in the
/// log exactly once, as run or as missed, and every run has one question and one answer.
/// Covers: F31.
#[tokio::test(flavor = "multi_thread")]
async fn kills_around_the_moment_leave_one_run_per_occurrence() {
    let rounds: i64 = if long() { 100 } else { 10 };
    let dir = tempfile::tempdir().unwrap();
    let state = prepare(dir.path());
    let mut gateway = Gateway::start(&state, &[]);
    let mut ws = connect(&gateway).await;
    let id = add(&mut ws, 1_000).await;
    let mut seen: BTreeMap<String, Value> = BTreeMap::new();
    let mut near = 0_i64;
    for round in 0..rounds {
        // ±50 ms around the next full second that is far enough away to be waited for.
        let offset = (round * 37 + 11) % 101 - 50;
        let due = (wall_ms() / 1_000 + 2) * 1_000;
        let wait = due + offset - wall_ms();
        tokio::time::sleep(Duration::from_millis(wait.unsigned_abs())).await;
        let missed_by = (wall_ms() - due).abs();
        gateway.kill();
        near += i64::from(missed_by <= 80);
        gateway = Gateway::start(&state, &[]);
        ws = connect(&gateway).await;
        for (run, entry) in log(&mut ws, &id).await {
            if let Some(before) = seen.insert(run.clone(), entry.clone()) {
                assert_eq!(
                    before["status"], entry["status"],
                    "{run} changed its outcome"
                );
                assert_eq!(before["ts"], entry["ts"], "{run} ended twice");
            }
        }
    }
    assert!(
        near * 2 >= rounds,
        "only {near} of {rounds} kills were near the moment"
    );
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    ws.call(
        "cron.update",
        json!({"id": id, "patch": {"enabled": false}}),
    )
    .await
    .unwrap();
    let patience = Instant::now();
    loop {
        let status = ws.call("cron.status", json!({})).await.unwrap();
        if status["running"] == 0 {
            break;
        }
        assert!(patience.elapsed() < Duration::from_secs(30), "{status}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    seen.extend(log(&mut ws, &id).await);
    let times: Vec<i64> = seen
        .values()
        .map(|entry| entry["runAtMs"].as_i64().unwrap())
        .collect();
    let unique: BTreeSet<i64> = times.iter().copied().collect();
    assert_eq!(unique.len(), times.len(), "an occurrence twice: {times:?}");
    let (first, last) = (*unique.first().unwrap(), *unique.last().unwrap());
    // A row about missed occurrences carries the time of the last of them.
    let earliest = seen
        .values()
        .map(|entry| entry["runAtMs"].as_i64().unwrap() - (stands_for(entry) - 1) * 1_000)
        .min()
        .unwrap();
    let counted: i64 = seen.values().map(stands_for).sum();
    assert_eq!(
        counted,
        (last - earliest) / 1_000 + 1,
        "every second from {first} to {last} is accounted for"
    );
    let mut ran = 0_i64;
    for entry in seen.values().filter(|entry| entry["status"] != "skipped") {
        assert_eq!(entry["status"], "ok", "{entry}");
        ran += 1;
        let history = ws
            .call(
                "chat.history",
                json!({"sessionKey": entry["sessionKey"], "limit": 100}),
            )
            .await
            .unwrap();
        let roles: Vec<&str> = history["messages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|message| message["role"].as_str().unwrap())
            .collect();
        // The log keeps 200 runs, and a session goes with its run.
        assert!(
            roles == ["user", "assistant"] || (roles.is_empty() && long()),
            "{entry}: {roles:?}"
        );
    }
    assert!(ran >= rounds, "{ran} runs in {rounds} rounds");
    ws.close().await;
}

/// The wall clock of the process is set forward and back under it (libfaketime): what came due in between is handled by
/// policy, nothing runs twice, and the job does not wait for the future to come again.
/// Covers: F10.
#[tokio::test(flavor = "multi_thread")]
async fn a_wall_clock_that_is_set_under_the_process() {
    let usual = [
        "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
        "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
    ];
    let library = std::env::var("GATEWAY_FAKETIME")
        .ok()
        .into_iter()
        .chain(usual.map(str::to_owned))
        .find(|path| Path::new(path).exists());
    let Some(library) = library else {
        eprintln!(
            "SKIPPED: libfaketime is missing (Debian: apt-get install faketime); clock jumps on the real binary are NOT checked"
        );
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let state = prepare(dir.path());
    let clock = dir.path().join("clock");
    // Written beside and moved over: the library may read at any moment.
    let set = |text: &str| {
        let fresh = dir.path().join("clock.new");
        std::fs::write(&fresh, text).unwrap();
        std::fs::rename(&fresh, &clock).unwrap();
    };
    set("+0");
    let gateway = Gateway::start_env(
        &state,
        &[],
        &[
            ("LD_PRELOAD", library.as_str()),
            ("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap()),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("DONT_FAKE_MONOTONIC", "1"),
        ],
    );
    let mut ws = connect(&gateway).await;
    let id = add(&mut ws, 2_000).await;
    // Waits until a run came due within two minutes from `from` on the gateway's clock.
    async fn ran_after(ws: &mut Ws, id: &str, from: i64, patience: u64) -> BTreeMap<String, Value> {
        let begun = Instant::now();
        loop {
            let entries = log(ws, id).await;
            let found = entries.values().any(|entry| {
                let at = entry["runAtMs"].as_i64().unwrap();
                entry["status"] == "ok" && (from..from + 120_000).contains(&at)
            });
            if found {
                return entries;
            }
            assert!(
                begun.elapsed() < Duration::from_secs(patience),
                "no run after {from}: {entries:?}"
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    let begin = wall_ms();
    ran_after(&mut ws, &id, begin, 20).await;
    let hour = 3_600_000;
    let jumps: &[(&str, i64)] = if long() {
        &[
            ("+1h", hour),
            ("+0", 0),
            ("+365d", 365 * 24 * hour),
            ("+0", 0),
            ("-1h", -hour),
            ("+0", 0),
        ]
    } else {
        &[("+1h", hour), ("+0", 0)]
    };
    for (text, ahead) in jumps {
        set(text);
        let now = wall_ms() + ahead;
        // A look every 30 s notices; two periods more for the next occurrence.
        let entries = ran_after(&mut ws, &id, now, 75).await;
        let times: Vec<i64> = entries
            .values()
            .map(|entry| entry["runAtMs"].as_i64().unwrap())
            .collect();
        let unique: BTreeSet<i64> = times.iter().copied().collect();
        assert_eq!(
            unique.len(),
            times.len(),
            "an occurrence twice after {text}"
        );
        let ran = entries
            .values()
            .filter(|entry| entry["status"] == "ok")
            .count();
        // At most one run per 2 s of real time, plus one that was made up for after each jump.
        let real = usize::try_from((wall_ms() - begin) / 2_000).unwrap();
        assert!(
            ran <= real + 2 + jumps.len(),
            "{ran} runs in {real} periods"
        );
    }
    let forward = log(&mut ws, &id)
        .await
        .values()
        .filter(|entry| {
            entry["error"]
                .as_str()
                .is_some_and(|why| why.starts_with("missed: "))
        })
        .count();
    assert!(forward >= 1, "the jump forward is in the log");
    ws.close().await;
}

/// The verbs of the command line, as a person uses them.
#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_of_schedules() {
    let dir = tempfile::tempdir().unwrap();
    let state = prepare(dir.path());
    let gateway = Gateway::start(&state, &[]);
    let run = |args: &[&str]| -> Value {
        let mut args = args.to_vec();
        args.push("--json");
        let (ok, out, err) = gateway.cli(&args);
        assert!(ok, "{args:?}: {err}");
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{args:?}: {error}: {out}"))
    };
    let refused = |args: &[&str]| -> String {
        let (ok, out, err) = gateway.cli(args);
        assert!(!ok, "{args:?}: {out}");
        assert!(err.contains("next: "), "{err}");
        err
    };
    let daily = run(&[
        "cron",
        "add",
        "--name",
        "daily",
        "--cron",
        "0 9 * * mon-fri",
        "--tz",
        "Europe/Berlin",
        "--message",
        "good morning",
    ]);
    assert_eq!(daily["schedule"]["tz"], "Europe/Berlin");
    let id = daily["id"].as_str().unwrap();
    let event = run(&[
        "cron",
        "add",
        "--name",
        "tick",
        "--every",
        "30m",
        "--system-event",
        "tick",
        "--wake",
        "next-heartbeat",
    ]);
    assert_eq!(event["sessionTarget"], "main");
    run(&[
        "cron",
        "add",
        "--name",
        "once",
        "--at",
        "2h",
        "--message",
        "later",
    ]);
    let local = run(&[
        "cron",
        "add",
        "--name",
        "local",
        "--at",
        "2090-07-01T09:00",
        "--tz",
        "Europe/Berlin",
        "--message",
        "x",
    ]);
    assert_eq!(local["schedule"]["at"], "2090-07-01T07:00:00.000Z");
    let listed = run(&["cron", "list"]);
    assert_eq!(listed["total"], 4);
    let ended = run(&["cron", "run", id, "--wait"]);
    assert_eq!(
        (ended["status"].as_str(), ended["jobName"].as_str()),
        (Some("ok"), Some("daily"))
    );
    let runs = run(&["cron", "runs", id]);
    assert_eq!(runs["entries"][0]["runId"], ended["runId"]);
    let edited = run(&[
        "cron",
        "edit",
        id,
        "--name",
        "weekly",
        "--cron",
        "@weekly",
        "--message",
        "hello",
    ]);
    assert_eq!(
        (
            edited["name"].as_str(),
            edited["payload"]["message"].as_str()
        ),
        (Some("weekly"), Some("hello"))
    );
    assert!(edited["schedule"]["tz"].is_null());
    assert_eq!(run(&["cron", "disable", id])["enabled"], false);
    assert_eq!(run(&["cron", "enable", id])["enabled"], true);
    let (_, human, _) = gateway.cli(&["cron", "list", "--tz", "Europe/Berlin"]);
    assert!(
        human.contains("weekly") && human.contains("@weekly"),
        "{human}"
    );
    let (_, human, _) = gateway.cli(&["cron", "status"]);
    assert!(human.starts_with("schedules on"), "{human}");
    assert_eq!(run(&["cron", "rm", id])["removed"], true);
    assert!(refused(&["cron", "rm", id]).contains("not found"));
    assert!(
        refused(&[
            "cron",
            "add",
            "--name",
            "x",
            "--cron",
            "61 * * * *",
            "--message",
            "x"
        ])
        .contains("minute")
    );
    assert!(
        refused(&["cron", "add", "--name", "x", "--message", "x"]).contains("a job needs a time")
    );
    let next = run(&[
        "cron",
        "next",
        "0 3 * * *",
        "--tz",
        "Europe/Berlin",
        "--after",
        "2026-03-27T12:00",
    ]);
    let times: Vec<&str> = next["next"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t["local"].as_str().unwrap())
        .collect();
    assert_eq!(times.len(), 5);
    assert_eq!(
        times[..2],
        [
            "Sat 2026-03-28 03:00:00 +01:00",
            "Sun 2026-03-29 03:00:00 +02:00"
        ]
    );
    assert!(refused(&["cron", "next", "0 3 L * *"]).contains("L, W and #"));
    assert_eq!(run(&["wake", "look at this"])["ok"], true);
    assert_eq!(run(&["system", "event", "--text", "later"])["ok"], true);
    let patience = Instant::now();
    while run(&["system", "heartbeat", "last"]).is_null() {
        assert!(
            patience.elapsed() < Duration::from_secs(20),
            "the wake left no heartbeat"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(run(&["system", "heartbeat", "disable"])["enabled"], false);
    assert_eq!(run(&["system", "heartbeat", "enable"])["enabled"], true);
}
