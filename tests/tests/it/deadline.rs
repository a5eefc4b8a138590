//! The longest time of a run holds across `kill -9`: it counts from the run's first start, whoever works on it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gateway_tests::process::Gateway;
use gateway_tests::upstream::Upstream;
use gateway_tests::ws::Ws;
use serde_json::{Value, json};

/// How long a test waits for something to happen; not a performance statement.
const PATIENCE: Duration = Duration::from_secs(90);
/// Time of the run that is taken up again, in seconds.
const LONG_S: u64 = 20;
/// Time of the run that is over while no gateway runs.
const SHORT_S: u64 = 3;
/// How long none runs: longer than [`SHORT_S`].
const DEAD: Duration = Duration::from_secs(8);

#[derive(Debug)]
struct Row {
    run_id: String,
    state: String,
    stop_reason: Option<String>,
    attempt: i64,
    created_at: i64,
    ended_at: Option<i64>,
    deadline_at: Option<i64>,
}

fn row(state: &Path, like: &str) -> Row {
    let tenants = std::fs::read_dir(state.join("tenants")).unwrap();
    let file: PathBuf = tenants
        .flatten()
        .map(|dir| dir.path().join("tenant.sqlite"))
        .find(|file| file.exists())
        .unwrap();
    let db = rusqlite::Connection::open(file).unwrap();
    db.query_row(
        "SELECT run_id, state, stop_reason, attempt, created_at, ended_at, deadline_at FROM runs WHERE run_id LIKE ?1",
        [like],
        |r| {
            Ok(Row {
                run_id: r.get(0)?,
                state: r.get(1)?,
                stop_reason: r.get(2)?,
                attempt: r.get(3)?,
                created_at: r.get(4)?,
                ended_at: r.get(5)?,
                deadline_at: r.get(6)?,
            })
        },
    )
    .unwrap()
}

fn wall_ms() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    i64::try_from(now.unwrap().as_millis()).unwrap()
}

/// Covers: F1.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_taken_up_after_a_kill_ends_at_its_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    drop(Gateway::start(&state, &[]));
    let upstream = Upstream::start(None, "m", "too late");
    upstream.hold(true);
    let config = json!({
        "gateway": {"auth": {"token": {"file": "secrets/main/gateway-token"}}},
        "agents": {"entries": {"main": {
            "backend": "openai", "baseUrl": upstream.url(), "model": "m",
            // Nothing but the run's own time ends it.
            "firstByteTimeoutMs": 600_000, "heartbeat": {"every": "0m"},
        }}},
    });
    std::fs::write(state.join("gateway.json5"), config.to_string()).unwrap();
    let gateway = Gateway::start(&state, &[]);
    let mut ws = Ws::connect(gateway.port, "/", &gateway.token())
        .await
        .unwrap();
    let begun = wall_ms();
    for (id, seconds) in [("long", LONG_S), ("short", SHORT_S)] {
        let ask = json!({
            "message": format!("the {id} one"), "sessionKey": format!("agent:main:{id}"), "idempotencyKey": id, "timeout": seconds,
        });
        ws.send("agent", ask).await;
    }
    let job = json!({
        "name": "j", "schedule": {"kind": "every", "everyMs": 86_400_000, "anchorMs": 0}, "sessionTarget": "isolated",
        "wakeMode": "now", "payload": {"kind": "agentTurn", "message": "the job's", "timeoutSeconds": LONG_S},
    });
    let job = ws.call("cron.add", job).await.unwrap()["id"].clone();
    let run = json!({"id": job, "mode": "force"});
    ws.call("cron.run", run).await.unwrap();
    let waited = Instant::now();
    let asked = |words: &str| {
        let asked = upstream.asked();
        let has = asked.iter().filter(|a| a.body.to_string().contains(words));
        has.count()
    };
    let all = ["the long one", "the short one", "the job's"];
    while all.iter().any(|words| asked(words) == 0) {
        assert!(waited.elapsed() < PATIENCE, "{:?}", upstream.asked());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    gateway.kill();
    let deadline = |like: &str| row(&state, like).deadline_at.unwrap();
    let (long, of_job) = (deadline("long"), deadline("manual:%"));
    let of_job_id = row(&state, "manual:%").run_id;
    for (like, seconds) in [("long", LONG_S), ("short", SHORT_S), ("manual:%", LONG_S)] {
        let row = row(&state, like);
        assert_eq!(row.state, "running", "{row:?}");
        let from = row.deadline_at.unwrap() - i64::try_from(seconds * 1_000).unwrap();
        assert!(from >= begun && from >= row.created_at, "{row:?}");
    }
    tokio::time::sleep(DEAD).await;
    let again = wall_ms();
    assert!(deadline("short") < again);
    let gateway = Gateway::start(&state, &[]);
    let mut ws = Ws::connect(gateway.port, "/", &gateway.token())
        .await
        .unwrap();
    for like in ["short", "long", "manual:%"] {
        let id = match like {
            "manual:%" => json!(of_job_id),
            id => json!(id),
        };
        let ended = loop {
            let ask = json!({"runId": id, "timeoutMs": 20_000});
            let ended = ws.call("agent.wait", ask).await.unwrap();
            if ended["status"] != "timeout" {
                break ended;
            }
            assert!(waited.elapsed() < PATIENCE, "{ended}");
        };
        assert_eq!(ended["stopReason"], "timeout", "{ended}");
    }
    // What was over already was not asked for again; the others were, and had no more time than was left to them.
    let counts: Vec<usize> = all.iter().map(|words| asked(words)).collect();
    assert_eq!(counts, [2, 1, 2]);
    let health: Value = ws.call("health", json!({})).await.unwrap();
    assert_eq!(health["ok"], true, "{health}");
    ws.close().await;
    gateway.stop();
    for (like, was) in [("long", long), ("manual:%", of_job)] {
        let row = row(&state, like);
        assert_eq!(row.deadline_at, Some(was), "{row:?}");
        assert_eq!((row.state.as_str(), row.attempt), ("aborted", 2), "{row:?}");
        assert_eq!(row.stop_reason.as_deref(), Some("timeout"), "{row:?}");
        let ended = row.ended_at.unwrap();
        let anew = again + i64::try_from(LONG_S * 1_000).unwrap();
        assert!(ended >= was && ended < anew, "{row:?}, anew {anew}");
    }
    upstream.hold(false);
}
