//! Schedules: one run per occurrence whatever happens to the process and to its clock, and what the log says about it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use gateway_core::clock::{Clock, SimClock};
use gateway_core::{Host, Role, Tenant};
use gateway_protocol::{DetailCode, ScopeSet};
use serde_json::{Value, json};

use super::support::*;

const BASE: i64 = 1_800_000_000_000; // 2027-01-15T08:00:00Z
const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
const YEAR: i64 = 365 * 24 * HOUR;

/// A clock whose wall can be set; the monotonic one goes on.
struct WallClock {
    steady: SimClock,
    ahead: AtomicI64,
}

impl WallClock {
    fn new(base: i64) -> Arc<Self> {
        Arc::new(Self {
            steady: SimClock::new(base),
            ahead: AtomicI64::new(0),
        })
    }

    fn set(&self, by: i64) {
        self.ahead.fetch_add(by, Ordering::SeqCst);
    }
}

impl Clock for WallClock {
    fn now_ms(&self) -> i64 {
        self.steady.now_ms() + self.ahead.load(Ordering::SeqCst)
    }

    fn monotonic_ms(&self) -> u64 {
        self.steady.monotonic_ms()
    }
}

struct Life {
    host: Arc<Host>,
    tenant: Arc<Tenant>,
    clock: Arc<WallClock>,
    script: Arc<Script>,
}

impl Life {
    async fn begin(dir: &std::path::Path, script: &Arc<Script>, now: i64) -> Self {
        Self::begin_with(dir, script, now, settings(dir)).await
    }

    async fn begin_with(
        dir: &std::path::Path,
        script: &Arc<Script>,
        now: i64,
        settings: gateway_config::Settings,
    ) -> Self {
        let clock = WallClock::new(now);
        let host = start_with(dir, script, 7, settings, clock.clone()).await;
        host.ready().wait_for(|ready| *ready).await.unwrap();
        let tenant = host.main_tenant().unwrap().clone();
        Self {
            host,
            tenant,
            clock,
            script: script.clone(),
        }
    }

    async fn ask(&self, method: &str, params: Value) -> Value {
        call(&self.host, &self.tenant, &admin(), method, params)
            .await
            .unwrap_or_else(|e| panic!("{method}: {e:?}"))
    }

    async fn refused(&self, method: &str, params: Value) -> gateway_protocol::RpcError {
        call(&self.host, &self.tenant, &admin(), method, params)
            .await
            .expect_err(method)
    }

    /// A job that has the agent answer `message`.
    async fn add(&self, schedule: Value, message: &str, more: Value) -> String {
        let mut params = json!({
            "name": "job", "schedule": schedule, "sessionTarget": "isolated", "wakeMode": "now",
            "payload": {"kind": "agentTurn", "message": message},
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            params[key] = value.clone();
        }
        let job = self.ask("cron.add", params).await;
        job["id"].as_str().unwrap().to_owned()
    }

    async fn pass(&self, ms: i64) {
        tokio::time::sleep(Duration::from_millis(ms.unsigned_abs())).await;
    }

    /// The log of a job, oldest first.
    async fn log(&self, id: &str) -> Vec<Value> {
        let page = self
            .ask(
                "cron.runs",
                json!({"id": id, "limit": 200, "sortDir": "asc"}),
            )
            .await;
        page["entries"].as_array().unwrap().clone()
    }

    /// `(when it was due, status)` of each.
    async fn short_log(&self, id: &str) -> Vec<(i64, String)> {
        self.log(id)
            .await
            .iter()
            .map(|e| {
                (
                    e["runAtMs"].as_i64().unwrap(),
                    e["status"].as_str().unwrap().to_owned(),
                )
            })
            .collect()
    }

    /// How often an agent was begun, over all runs.
    fn begun(&self) -> usize {
        self.script.begun.lock().values().sum()
    }
}

/// A run of its own on a runtime that is dropped at the end: every task ends as in a killed process.
fn life<F: Future<Output = ()>>(work: F) {
    let rt = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    rt.block_on(work);
}

fn ok(at: i64) -> (i64, String) {
    (at, "ok".to_owned())
}

fn skipped(at: i64) -> (i64, String) {
    (at, "skipped".to_owned())
}

#[tokio::test(start_paused = true)]
async fn a_job_comes_due_runs_and_is_told() {
    let dir = scratch();
    let script: Arc<Script> = Arc::default();
    let l = Life::begin(dir.path(), &script, BASE).await;
    let watcher = connect(&l.host, &l.tenant, Role::Operator, ScopeSet::ALL, &[]);
    let unscoped = connect(&l.host, &l.tenant, Role::Operator, ScopeSet::NONE, &[]);
    let id = l
        .add(
            json!({"kind": "every", "everyMs": 10 * MINUTE}),
            "look around",
            json!({}),
        )
        .await;
    assert_eq!(
        l.ask("cron.status", json!({})).await["nextWakeAtMs"],
        BASE + 10 * MINUTE
    );
    l.pass(10 * MINUTE + 100).await;
    settle(&l.tenant).await;
    let log = l.log(&id).await;
    assert_eq!(log.len(), 1);
    let run = &log[0];
    assert_eq!(run["status"], "ok");
    assert_eq!(run["completionStatus"], "succeeded");
    assert_eq!(run["summary"], "look around");
    assert_eq!(run["runAtMs"], BASE + 10 * MINUTE);
    assert_eq!(run["deliveryStatus"], "not-requested");
    assert_eq!(run["usage"]["total_tokens"], 7);
    let key = run["sessionKey"].as_str().unwrap();
    assert!(
        key.starts_with(&format!("agent:main:cron:{id}:run:")),
        "{key}"
    );
    assert_eq!(
        transcript(&l.host, &l.tenant, key).await,
        [
            ("user".to_owned(), "look around".to_owned()),
            ("assistant".to_owned(), "look around".to_owned())
        ]
    );
    let job = l.ask("cron.get", json!({"id": id})).await;
    assert_eq!(job["state"]["lastRunStatus"], "ok");
    assert_eq!(job["state"]["consecutiveErrors"], 0);
    assert_eq!(job["state"]["nextRunAtMs"], BASE + 20 * MINUTE);
    let told: Vec<String> = watcher
        .events
        .named("cron")
        .iter()
        .map(|e| e["action"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(told, ["added", "started", "finished"]);
    assert!(
        unscoped.events.named("cron").is_empty(),
        "the event is for those who may read"
    );
    l.pass(10 * MINUTE).await;
    settle(&l.tenant).await;
    assert_eq!(
        l.short_log(&id).await,
        [ok(BASE + 10 * MINUTE), ok(BASE + 20 * MINUTE)]
    );
}

#[tokio::test(start_paused = true)]
async fn a_one_shot_job_goes_after_it_ran_well() {
    let dir = scratch();
    let l = Life::begin(dir.path(), &Arc::default(), BASE).await;
    let gone = l
        .add(json!({"kind": "at", "at": "5m"}), "once", json!({}))
        .await;
    let kept = l
        .add(
            json!({"kind": "at", "at": "2027-01-15T08:05:00Z"}),
            "kept",
            json!({"deleteAfterRun": false}),
        )
        .await;
    let failed = l
        .add(
            json!({"kind": "at", "at": "5m"}),
            "fail to do it",
            json!({}),
        )
        .await;
    l.pass(6 * MINUTE).await;
    settle(&l.tenant).await;
    let error = l.refused("cron.get", json!({"id": gone})).await;
    assert_eq!(error.detail, DetailCode::CronJobNotFound);
    assert_eq!(
        l.short_log(&gone).await,
        [ok(BASE + 5 * MINUTE)],
        "the log stays"
    );
    for id in [&kept, &failed] {
        let job = l.ask("cron.get", json!({"id": id})).await;
        assert_eq!(job["enabled"], false);
        assert!(job["nextRunAtMs"].is_null());
    }
    let log = l.log(&failed).await;
    assert_eq!(log[0]["status"], "error");
    assert!(log[0]["error"].as_str().unwrap().contains("broke off"));
    l.pass(HOUR).await;
    assert_eq!(l.begun(), 3, "once each");
    let late = l
        .refused(
            "cron.add",
            json!({"name": "late", "schedule": {"kind": "at", "at": "2027-01-15T07:00:00Z"}, "sessionTarget": "isolated",
                   "wakeMode": "now", "payload": {"kind": "agentTurn", "message": "x"}}),
        )
        .await;
    assert!(late.message.contains("is over"), "{}", late.message);
}

/// The same occurrence is not run by two processes one after the other, wherever the first one died.
/// Covers: F31.
#[test]
fn one_run_per_occurrence_wherever_the_process_dies() {
    for dies_after in [-40, -1, 0, 1, 2, 3, 5, 8, 20, 60, 200, 2_000] {
        let dir = scratch();
        let script: Arc<Script> = Arc::default();
        let id = parking_lot::Mutex::new(String::new());
        life(async {
            let l = Life::begin(dir.path(), &script, BASE).await;
            *id.lock() = l
                .add(
                    json!({"kind": "every", "everyMs": HOUR}),
                    "slow and steady wins the race",
                    json!({}),
                )
                .await;
            l.pass(HOUR + dies_after).await;
        });
        life(async {
            let l = Life::begin(dir.path(), &script, BASE + HOUR + dies_after.max(0) + 10).await;
            l.pass(MINUTE).await;
            settle(&l.tenant).await;
            let id = id.lock().clone();
            assert_eq!(
                l.short_log(&id).await,
                [ok(BASE + HOUR)],
                "died {dies_after} ms after"
            );
            let runs = script.begun.lock();
            assert_eq!(runs.len(), 1, "one run: {runs:?}");
        });
    }
}

/// Downtime over five occurrences, and a second start right after: what the policy says, once, and written down.
/// Covers: F31.
#[test]
fn downtime_is_handled_by_policy_and_recorded() {
    let dir = scratch();
    let script: Arc<Script> = Arc::default();
    let ids = parking_lot::Mutex::new(Vec::new());
    life(async {
        let l = Life::begin(dir.path(), &script, BASE).await;
        for policy in [
            json!({}),
            json!({"catchUp": {"mode": "none"}}),
            json!({"catchUp": {"mode": "all", "max": 3}}),
            json!({"catchUp": {"mode": "latest", "graceMs": 60_000}}),
        ] {
            let id = l
                .add(json!({"kind": "every", "everyMs": HOUR}), "hello", policy)
                .await;
            ids.lock().push(id);
        }
    });
    let now = BASE + 5 * HOUR + 30 * MINUTE;
    let expect = [
        vec![skipped(BASE + 4 * HOUR), ok(BASE + 5 * HOUR)],
        vec![skipped(BASE + 5 * HOUR)],
        vec![
            skipped(BASE + 2 * HOUR),
            ok(BASE + 3 * HOUR),
            ok(BASE + 4 * HOUR),
            ok(BASE + 5 * HOUR),
        ],
        vec![skipped(BASE + 5 * HOUR)],
    ];
    for later in [0, MINUTE] {
        life(async {
            let l = Life::begin(dir.path(), &script, now + later).await;
            l.pass(MINUTE).await;
            settle(&l.tenant).await;
            let ids = ids.lock().clone();
            for (id, expect) in ids.iter().zip(&expect) {
                assert_eq!(l.short_log(id).await, *expect);
                let job = l.ask("cron.get", json!({"id": id})).await;
                assert_eq!(job["nextRunAtMs"], BASE + 6 * HOUR);
            }
            let log = l.log(&ids[0]).await;
            assert!(
                log[0]["error"]
                    .as_str()
                    .unwrap()
                    .starts_with("missed: 4 occurrences"),
                "{}",
                log[0]
            );
        });
    }
}

/// A clock set back an hour or a year runs nothing again and stops nothing; one set forward runs what the policy allows.
/// Covers: F10, F31.
#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_neither_doubles_nor_loses_runs() {
    let dir = scratch();
    let l = Life::begin(dir.path(), &Arc::default(), BASE).await;
    let id = l
        .add(
            json!({"kind": "every", "everyMs": 10 * MINUTE}),
            "tick",
            json!({}),
        )
        .await;
    l.pass(35 * MINUTE).await;
    settle(&l.tenant).await;
    assert_eq!(l.begun(), 3);
    // Back by half an hour: the three occurrences come by once more.
    l.clock.set(-30 * MINUTE);
    l.pass(30 * MINUTE).await;
    settle(&l.tenant).await;
    assert_eq!(l.begun(), 3, "nothing ran twice");
    assert_eq!(
        l.log(&id).await.len(),
        3,
        "and nothing of it is noise in the log"
    );
    l.pass(10 * MINUTE).await;
    settle(&l.tenant).await;
    assert_eq!(l.begun(), 4, "then it goes on");
    // Forward by a year: one run, one note about the rest.
    l.clock.set(YEAR);
    l.pass(MINUTE).await;
    settle(&l.tenant).await;
    assert_eq!(l.begun(), 5);
    let log = l.log(&id).await;
    assert_eq!(log.len(), 6);
    assert!(
        log[4]["error"].as_str().unwrap().contains("more than 1000"),
        "{}",
        log[4]
    );
    // And back: the job does not wait for a year.
    l.clock.set(-YEAR);
    l.pass(11 * MINUTE).await;
    settle(&l.tenant).await;
    assert_eq!(l.begun(), 6);
    l.pass(10 * MINUTE).await;
    settle(&l.tenant).await;
    assert_eq!(l.begun(), 7);
    let times: Vec<i64> = l.short_log(&id).await.iter().map(|(at, _)| *at).collect();
    let mut unique = times.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), times.len(), "no occurrence twice: {times:?}");
}

/// A clock that was wrong when the job was made does not keep it waiting.
/// Covers: F10.
#[tokio::test(start_paused = true)]
async fn a_clock_set_back_to_before_the_job_was_made() {
    let dir = scratch();
    let l = Life::begin(dir.path(), &Arc::default(), BASE).await;
    let id = l
        .add(
            json!({"kind": "every", "everyMs": 10 * MINUTE}),
            "tick",
            json!({}),
        )
        .await;
    l.clock.set(-YEAR);
    l.pass(11 * MINUTE).await;
    settle(&l.tenant).await;
    assert_eq!(l.short_log(&id).await, [ok(BASE - YEAR + 10 * MINUTE)]);
}

/// The day of a changed clock, as a process lives through it.
/// Covers: F10.
#[tokio::test(start_paused = true)]
async fn days_with_a_changed_clock_have_one_run() {
    let dir = scratch();
    // 2027-03-28 02:00 → 03:00 and 2027-10-31 03:00 → 02:00 in Berlin.
    for (from, expect) in [
        (
            "2027-03-27T12:00:00Z",
            ["2027-03-28T01:00:00Z", "2027-03-29T00:30:00Z"],
        ),
        (
            "2027-10-30T12:00:00Z",
            ["2027-10-31T00:30:00Z", "2027-11-01T01:30:00Z"],
        ),
    ] {
        let at = |text: &str| {
            gateway_core::cron::schedule::parse_at(
                text,
                None,
                gateway_core::cron::schedule::parse_zone("UTC").unwrap(),
            )
            .unwrap()
        };
        let home = dir.path().join(from);
        let l = Life::begin(&home, &Arc::default(), at(from)).await;
        let id = l
            .add(
                json!({"kind": "cron", "expr": "30 2 * * *", "tz": "Europe/Berlin"}),
                "night",
                json!({}),
            )
            .await;
        l.pass(45 * HOUR).await;
        settle(&l.tenant).await;
        assert_eq!(l.short_log(&id).await, expect.map(|text| ok(at(text))));
    }
}

#[tokio::test(start_paused = true)]
async fn an_overlap_is_skipped_and_recorded() {
    let dir = scratch();
    let l = Life::begin(dir.path(), &Arc::default(), BASE).await;
    let id = l
        .add(
            json!({"kind": "every", "everyMs": MINUTE}),
            "hang for ever",
            json!({"payload": {"kind": "agentTurn", "message": "hang for ever", "timeoutSeconds": 150}}),
        )
        .await;
    l.pass(3 * MINUTE + 100).await;
    assert_eq!(
        l.short_log(&id).await,
        [skipped(BASE + 2 * MINUTE), skipped(BASE + 3 * MINUTE)]
    );
    assert!(
        l.log(&id).await[0]["error"]
            .as_str()
            .unwrap()
            .starts_with("overlap")
    );
    let job = l.ask("cron.get", json!({"id": id})).await;
    assert_eq!(job["state"]["runningAtMs"], BASE + MINUTE);
    assert_eq!(job["state"]["consecutiveSkipped"], 2);
    let busy = l.ask("cron.run", json!({"id": id})).await;
    assert_eq!(
        (busy["enqueued"].clone(), busy["reason"].clone()),
        (json!(false), json!("already-running"))
    );
    l.pass(MINUTE).await;
    let log = l.log(&id).await;
    let stopped = log.iter().find(|e| e["status"] == "error").unwrap();
    assert_eq!(stopped["error"], "stopped: timeout");
}

/// Runs of jobs beyond the bound wait for their turn, and all have it.
#[tokio::test(start_paused = true)]
async fn many_jobs_at_one_moment_take_turns() {
    let dir = scratch();
    let l = Life::begin(dir.path(), &Arc::default(), BASE).await;
    let mut ids = Vec::new();
    for n in 0..40 {
        // More than the limiter of writes lets through in a minute; all are due at one moment.
        if n == 30 {
            l.pass(MINUTE).await;
        }
        let at = if n < 30 { "2m" } else { "1m" };
        ids.push(
            l.add(json!({"kind": "at", "at": at}), "slow a b c d", json!({}))
                .await,
        );
    }
    l.pass(MINUTE + 60).await;
    let status = l.ask("cron.status", json!({})).await;
    assert_eq!(status["running"], 8);
    l.pass(5_000).await;
    settle(&l.tenant).await;
    for id in &ids {
        assert_eq!(l.short_log(id).await, [ok(BASE + 2 * MINUTE)]);
    }
    assert_eq!(l.begun(), 40);
}

#[tokio::test(start_paused = true)]
async fn failures_pause_a_job_and_then_switch_it_off() {
    let dir = scratch();
    let l = Life::begin(dir.path(), &Arc::default(), BASE).await;
    let id = l
        .add(
            json!({"kind": "every", "everyMs": 10_000}),
            "fail now and again",
            json!({}),
        )
        .await;
    l.pass(12_000).await;
    let job = l.ask("cron.get", json!({"id": id})).await;
    assert_eq!(job["state"]["consecutiveErrors"], 1);
    let next = job["nextRunAtMs"].as_i64().unwrap();
    assert!((next - BASE - 10_000) >= 30_000, "a pause: {}", next - BASE);
    assert_eq!((next - BASE) % 10_000, 0, "on the schedule all the same");
    l.pass(8 * HOUR).await;
    let job = l.ask("cron.get", json!({"id": id})).await;
    assert_eq!(job["enabled"], false);
    assert_eq!(
        job["state"]["autoDisabled"]["reason"],
        "consecutive-failures"
    );
    assert_eq!(job["state"]["autoDisabled"]["consecutiveErrors"], 10);
    assert_eq!(l.log(&id).await.len(), 10);
    assert!(
        l.tenant
            .logs()
            .tail(None, 5_000, 1_000_000)
            .lines
            .iter()
            .any(|line| line.contains("gateway cron enable")),
        "the log says what to do"
    );
    let job = l
        .ask(
            "cron.update",
            json!({"id": id, "patch": {"enabled": true, "payload": {"message": "well"}}}),
        )
        .await;
    assert_eq!(job["state"]["consecutiveErrors"], 0);
    assert!(job["state"]["autoDisabled"].is_null());
    l.pass(11_000).await;
    settle(&l.tenant).await;
    assert_eq!(
        l.ask("cron.get", json!({"id": id})).await["state"]["lastRunStatus"],
        "ok"
    );
}

#[tokio::test(start_paused = true)]
async fn list_pages_filters_and_update_merges() {
    let dir = scratch();
    let l = Life::begin(dir.path(), &Arc::default(), BASE).await;
    for (i, name) in ["alpha", "beta", "gamma", "delta"].iter().enumerate() {
        l.add(
            json!({"kind": "every", "everyMs": (i as i64 + 1) * HOUR}),
            "x",
            json!({"name": name, "enabled": *name != "delta", "description": format!("about {name}")}),
        )
        .await;
    }
    let daily = l
        .add(
            json!({"kind": "cron", "expr": "0 3 * * *"}),
            "night",
            json!({"name": "night"}),
        )
        .await;
    let names = |page: &Value| -> Vec<String> {
        page["jobs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|job| job["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let first = l.ask("cron.list", json!({"limit": 2})).await;
    assert_eq!(names(&first), ["alpha", "beta"]);
    assert_eq!(
        (first["total"].as_u64(), first["nextOffset"].as_u64()),
        (Some(4), Some(2))
    );
    let second = l.ask("cron.list", json!({"limit": 2, "offset": 2})).await;
    assert_eq!(names(&second), ["gamma", "night"]);
    assert_eq!(second["hasMore"], false);
    assert_eq!(first["snapshotRevision"], second["snapshotRevision"]);
    for (params, expect) in [
        (
            json!({"includeDisabled": true, "sortBy": "name"}),
            vec!["alpha", "beta", "delta", "gamma", "night"],
        ),
        (json!({"enabled": "disabled"}), vec!["delta"]),
        (json!({"query": "ABOUT b"}), vec!["beta"]),
        (json!({"scheduleKind": "cron"}), vec!["night"]),
        (json!({"scheduleKind": "stream"}), vec![]),
        (
            json!({"lastRunStatus": "unknown", "sortDir": "desc", "limit": 1}),
            vec!["night"],
        ),
        (json!({"lastRunStatus": "ok"}), vec![]),
    ] {
        assert_eq!(
            names(&l.ask("cron.list", params.clone()).await),
            expect,
            "{params}"
        );
    }
    let job = l
        .ask(
            "cron.update",
            json!({"jobId": daily, "patch": {"name": "noon", "schedule": {"kind": "cron", "expr": "0 12 * * *", "tz": "Europe/Berlin"},
                   "payload": {"model": "big"}, "description": ""}}),
        )
        .await;
    assert_eq!(job["name"], "noon");
    assert_eq!(
        job["payload"],
        json!({"kind": "agentTurn", "message": "night", "model": "big"})
    );
    assert_eq!(job["nextRunAtMs"], BASE + 3 * HOUR);
    let job = l
        .ask(
            "cron.update",
            json!({"id": daily, "patch": {"payload": {"model": null}}}),
        )
        .await;
    assert_eq!(
        job["payload"],
        json!({"kind": "agentTurn", "message": "night"})
    );
    assert_ne!(
        first["snapshotRevision"],
        l.ask("cron.list", json!({})).await["snapshotRevision"]
    );
    l.ask("cron.remove", json!({"id": daily})).await;
    assert_eq!(
        l.refused("cron.remove", json!({"id": daily})).await.detail,
        DetailCode::CronJobNotFound
    );
}

#[tokio::test(start_paused = true)]
async fn what_makes_no_sense_is_refused_with_what_to_write() {
    let dir = scratch();
    let l = Life::begin(dir.path(), &Arc::default(), BASE).await;
    let turn = json!({"kind": "agentTurn", "message": "x"});
    let every = json!({"kind": "every", "everyMs": HOUR});
    let cases = [
        (
            json!({"schedule": {"kind": "cron", "expr": "61 * * * *"}}),
            "at /schedule: minute \"61\"",
        ),
        (
            json!({"schedule": {"kind": "cron", "expr": "0 0 L * *"}}),
            "L, W and # are not supported",
        ),
        (
            json!({"schedule": {"kind": "on-exit", "command": "true"}}),
            "on-exit is not supported",
        ),
        (
            json!({"schedule": {"kind": "every", "everyMs": 5}}),
            "everyMs must be from 1000",
        ),
        (
            json!({"sessionTarget": "main"}),
            "main is for system events",
        ),
        (
            json!({"sessionTarget": "somewhere"}),
            "must be main, isolated, current or session:<key>",
        ),
        (
            json!({"sessionTarget": "session:agent:other:x"}),
            "another agent",
        ),
        (
            json!({"sessionTarget": "current"}),
            "current needs sessionKey",
        ),
        (
            json!({"payload": {"kind": "command", "argv": ["rm"]}}),
            "unsupported: payload.kind command",
        ),
        (
            json!({"payload": {"kind": "script", "script": "x"}}),
            "unsupported: payload.kind script",
        ),
        (
            json!({"payload": {"kind": "heartbeat"}}),
            "made by the gateway",
        ),
        (
            json!({"payload": {"kind": "agentTurn", "message": " "}}),
            "must be a text that is not empty",
        ),
        (
            json!({"payload": {"kind": "agentTurn", "message": "x", "toolsAllow": ["exec"]}}),
            "unsupported: payload.toolsAllow",
        ),
        (
            json!({"payload": {"kind": "webhook", "url": "https://example.org/x"}}),
            "add the address to cron.webhook.allow",
        ),
        (
            json!({"payload": {"kind": "webhook", "url": "https://example.org/x", "secret": "s"}}),
            "cron.webhook.secrets",
        ),
        (
            json!({"delivery": {"mode": "webhook", "to": "http://127.0.0.1/x"}}),
            "add the address to cron.webhook.allow",
        ),
        (
            json!({"delivery": {"mode": "announce", "channel": "telegram", "to": "1"}}),
            "there is no channel account telegram",
        ),
        (
            json!({"delivery": {"mode": "announce", "channel": "telegram"}}),
            "a channel needs a conversation",
        ),
        (json!({"agentId": "nobody"}), "unknown agent id"),
        (
            json!({"catchUp": {"mode": "latest", "max": 3}}),
            "belongs to mode all",
        ),
        (
            json!({"delivery": {"mode": "none", "failureDestination": {"to": "x"}}}),
            "unsupported: delivery.failureDestination",
        ),
        (json!({"trigger": {"script": "x"}}), "unsupported: trigger"),
        (
            json!({"declarationKey": "x"}),
            "unsupported: declarationKey",
        ),
    ];
    for (more, words) in cases {
        let mut params = json!({"name": "j", "schedule": every, "sessionTarget": "isolated", "wakeMode": "now", "payload": turn});
        for (key, value) in more.as_object().unwrap() {
            params[key] = value.clone();
        }
        let error = l.refused("cron.add", params).await;
        assert!(error.message.contains(words), "{more}: {}", error.message);
    }
    assert_eq!(
        l.ask("cron.list", json!({"includeDisabled": true})).await["total"],
        0
    );
    for params in [json!({}), json!({"id": "a", "jobId": "b"})] {
        assert_eq!(
            l.refused("cron.get", params).await.detail,
            DetailCode::InvalidParams
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_is_run_by_hand() {
    let dir = scratch();
    let l = Life::begin(dir.path(), &Arc::default(), BASE).await;
    let id = l
        .add(
            json!({"kind": "cron", "expr": "0 3 * * *"}),
            "by hand",
            json!({"enabled": false}),
        )
        .await;
    for (mode, reason) in [("due", "not-due"), ("if-enabled", "disabled")] {
        let got = l.ask("cron.run", json!({"id": id, "mode": mode})).await;
        assert_eq!(
            (got["enqueued"].clone(), got["reason"].clone()),
            (json!(false), json!(reason))
        );
    }
    let mut runs = Vec::new();
    for _ in 0..2 {
        let got = l.ask("cron.run", json!({"id": id, "mode": "force"})).await;
        assert_eq!(got["enqueued"], true);
        runs.push(got["runId"].as_str().unwrap().to_owned());
        settle(&l.tenant).await;
    }
    assert!(runs[0].starts_with(&format!("manual:{id}:")), "{runs:?}");
    assert_ne!(runs[0], runs[1]);
    let page = l.ask("cron.runs", json!({"runId": runs[1]})).await;
    assert_eq!(page["total"], 1);
    assert_eq!(page["entries"][0]["summary"], "by hand");
    let stranger = l
        .refused(
            "cron.run",
            json!({"id": id, "expectedProcessInstanceId": "another"}),
        )
        .await;
    assert_eq!(stranger.detail, DetailCode::Conflict);
}

/// A job's turn has the agent's tools and no others, and runs as itself: nothing of the caller who made it goes along.
/// Covers: Z12.
#[tokio::test(start_paused = true)]
async fn a_job_has_no_more_rights_than_its_agent() {
    let dir = scratch();
    let l = Life::begin(dir.path(), &Arc::default(), BASE).await;
    for tools in [json!(["exec"]), json!(["*", "exec"]), json!([])] {
        let error = l
            .refused(
                "cron.add",
                json!({"name": "j", "schedule": {"kind": "at", "at": "1m"}, "sessionTarget": "isolated", "wakeMode": "now",
                       "payload": {"kind": "agentTurn", "message": "x", "toolsAllow": tools}}),
            )
            .await;
        assert_eq!(error.detail, DetailCode::UnsupportedParam, "{tools}");
    }
    let reader = connect(
        &l.host,
        &l.tenant,
        Role::Operator,
        ScopeSet::of(gateway_protocol::Scope::Write),
        &[],
    );
    for method in [
        "cron.add",
        "cron.update",
        "cron.remove",
        "cron.run",
        "set-heartbeats",
        "system-event",
    ] {
        let error = call(&l.host, &l.tenant, &reader.caller, method, json!({}))
            .await
            .unwrap_err();
        assert_eq!(error.detail, DetailCode::MissingScope, "{method}");
    }
}

/// Jobs, runs and events of one tenant do not exist for another.
/// Covers: MT5.
#[tokio::test(start_paused = true)]
async fn another_tenants_job_is_not_there() {
    let dir = scratch();
    let l = Life::begin(dir.path(), &Arc::default(), BASE).await;
    let acme = l.host.tenant("acme").unwrap().clone();
    let watcher = connect(&l.host, &acme, Role::Operator, ScopeSet::ALL, &[]);
    let id = l
        .add(
            json!({"kind": "every", "everyMs": HOUR}),
            "secret-of-main",
            json!({}),
        )
        .await;
    l.pass(HOUR + MINUTE).await;
    settle(&l.tenant).await;
    let run = l.log(&id).await[0]["runId"].as_str().unwrap().to_owned();
    for (method, params) in [
        ("cron.get", json!({"id": id})),
        (
            "cron.update",
            json!({"id": id, "patch": {"enabled": false}}),
        ),
        ("cron.run", json!({"id": id})),
        ("cron.remove", json!({"id": id})),
    ] {
        let foreign = call(&l.host, &acme, &admin(), method, params.clone())
            .await
            .unwrap_err();
        let mut unknown = params;
        unknown["id"] = json!("no-such-job");
        let unknown = call(&l.host, &acme, &admin(), method, unknown)
            .await
            .unwrap_err();
        assert_eq!(foreign.detail, DetailCode::CronJobNotFound, "{method}");
        assert_eq!(foreign.message, unknown.message, "{method}");
    }
    let runs = call(&l.host, &acme, &admin(), "cron.runs", json!({"runId": run}))
        .await
        .unwrap();
    assert_eq!(runs["total"], 0);
    let list = call(
        &l.host,
        &acme,
        &admin(),
        "cron.list",
        json!({"includeDisabled": true}),
    )
    .await
    .unwrap();
    assert_eq!(list["total"], 0);
    assert!(watcher.events.named("cron").is_empty());
    assert!(!watcher.events.bytes().contains("secret-of-main"));
    assert_eq!(l.ask("cron.get", json!({"id": id})).await["enabled"], true);
}

/// A tenant without jobs has no task for them; the last job takes it away.
#[tokio::test(start_paused = true)]
async fn without_jobs_there_is_no_task() {
    let dir = scratch();
    let l = Life::begin(dir.path(), &Arc::default(), BASE).await;
    l.pass(MINUTE).await;
    let before = l.tenant.tasks().len();
    let id = l
        .add(json!({"kind": "every", "everyMs": HOUR}), "x", json!({}))
        .await;
    l.pass(100).await;
    assert_eq!(l.tenant.tasks().len(), before + 1);
    l.ask("cron.remove", json!({"id": id})).await;
    l.pass(MINUTE).await;
    assert_eq!(l.tenant.tasks().len(), before);
}

#[tokio::test(start_paused = true)]
async fn the_configuration_can_keep_jobs_from_coming_due() {
    let dir = scratch();
    let mut settings = settings(dir.path());
    settings.tenants.get_mut("main").unwrap().cron.enabled = false;
    let l = Life::begin_with(dir.path(), &Arc::default(), BASE, settings).await;
    let id = l
        .add(json!({"kind": "every", "everyMs": MINUTE}), "x", json!({}))
        .await;
    l.pass(HOUR).await;
    assert_eq!(l.begun(), 0);
    let status = l.ask("cron.status", json!({})).await;
    assert_eq!(
        (status["enabled"].clone(), status["nextWakeAtMs"].clone()),
        (json!(false), Value::Null)
    );
    assert_eq!(l.ask("cron.run", json!({"id": id})).await["enqueued"], true);
}

/// The log keeps a bounded number of runs, and the sessions of those that go are deleted with them.
#[tokio::test(start_paused = true)]
async fn the_log_and_its_sessions_are_bounded() {
    let dir = scratch();
    let l = Life::begin(dir.path(), &Arc::default(), BASE).await;
    let id = l
        .add(json!({"kind": "every", "everyMs": MINUTE}), "x", json!({}))
        .await;
    l.pass(260 * MINUTE).await;
    settle(&l.tenant).await;
    let page = l.ask("cron.runs", json!({"id": id})).await;
    assert_eq!(page["total"], 200);
    let sessions = l.ask("sessions.list", json!({"limit": 1000})).await;
    assert_eq!(sessions["sessions"].as_array().unwrap().len(), 200);
    assert_eq!(l.tenant.sessions().count(), 200);
    // What went is over: a clock set back does not run it again.
    l.clock.set(-250 * MINUTE);
    let begun = l.begun();
    l.pass(240 * MINUTE).await;
    settle(&l.tenant).await;
    assert_eq!(l.begun(), begun);
}

/// A text for the main session is seen with the next message, once, and not before; `now` looks at once.
#[tokio::test(start_paused = true)]
async fn system_events_wait_for_the_next_message() {
    let dir = scratch();
    let l = Life::begin(dir.path(), &Arc::default(), BASE).await;
    let job = l
        .ask(
            "cron.add",
            json!({"name": "tick", "schedule": {"kind": "every", "everyMs": HOUR}, "sessionTarget": "main",
                   "wakeMode": "next-heartbeat", "payload": {"kind": "systemEvent", "text": "the hour struck"}}),
        )
        .await;
    l.pass(HOUR + MINUTE).await;
    assert_eq!(l.begun(), 0, "nobody asked the agent");
    assert_eq!(l.log(job["id"].as_str().unwrap()).await[0]["status"], "ok");
    l.ask(
        "wake",
        json!({"mode": "next-heartbeat", "text": "mail came"}),
    )
    .await;
    l.ask("system-event", json!({"text": "door opened", "mode": "x"}))
        .await;
    for text in ["hello", "again"] {
        l.ask(
            "chat.send",
            json!({"sessionKey": "main", "message": text, "idempotencyKey": text}),
        )
        .await;
        settle(&l.tenant).await;
    }
    let seen = l.script.seen.lock();
    let first: Vec<String> = seen["hello"]
        .iter()
        .map(|(role, text)| format!("{role} {text}"))
        .collect();
    assert_eq!(first.len(), 4, "{first:?}");
    for (line, words) in first
        .iter()
        .zip(["the hour struck", "mail came", "door opened", "hello"])
    {
        assert!(line.contains(words), "{line}");
    }
    assert!(
        first[0].starts_with("system [2027-01-15T09:00:00.0"),
        "{}",
        first[0]
    );
    assert_eq!(
        seen["again"]
            .iter()
            .filter(|(role, _)| role == "system")
            .count(),
        3,
        "in the history, not again"
    );
}

/// Heartbeats: at their time, with what waits; without news they leave nothing for the next conversation.
#[tokio::test(start_paused = true)]
async fn heartbeats_look_and_stay_silent() {
    let dir = scratch();
    let mut settings = settings(dir.path());
    let main = settings.tenants.get_mut("main").unwrap();
    let beat = &mut main.agents.entries.get_mut("main").unwrap().heartbeat;
    beat.every_ms = (30 * MINUTE).unsigned_abs();
    beat.prompt = Some("NO_REPLY".to_owned());
    beat.target = gateway_config::HeartbeatTarget::None;
    let l = Life::begin_with(dir.path(), &Arc::default(), BASE, settings).await;
    let watcher = connect(&l.host, &l.tenant, Role::Operator, ScopeSet::ALL, &[]);
    assert_eq!(l.ask("last-heartbeat", json!({})).await, Value::Null);
    let list = l.ask("cron.list", json!({})).await;
    assert_eq!(list["jobs"][0]["declarationKey"], "heartbeat:main");
    assert_eq!(list["jobs"][0]["payload"], json!({"kind": "heartbeat"}));
    let id = list["jobs"][0]["id"].as_str().unwrap().to_owned();
    for method in ["cron.remove", "cron.update"] {
        let error = l
            .refused(method, json!({"id": id, "patch": {"enabled": false}}))
            .await;
        assert!(error.message.contains("heartbeat"), "{}", error.message);
    }
    l.ask(
        "wake",
        json!({"mode": "next-heartbeat", "text": "mail came"}),
    )
    .await;
    l.pass(30 * MINUTE).await;
    settle(&l.tenant).await;
    assert_eq!(l.begun(), 1);
    let last = l.ask("last-heartbeat", json!({})).await;
    assert_eq!(last["status"], "ok-token");
    assert_eq!(watcher.events.named("heartbeat").len(), 1);
    assert_eq!(watcher.events.named("heartbeat")[0], last);
    {
        let seen = l.script.seen.lock();
        let lines = seen.values().next().unwrap();
        assert!(
            lines[0].1.contains("mail came") && lines[1].1 == "NO_REPLY",
            "{lines:?}"
        );
    }
    // The conversation does not know of a silent heartbeat.
    l.ask(
        "chat.send",
        json!({"sessionKey": "main", "message": "hello", "idempotencyKey": "r1"}),
    )
    .await;
    settle(&l.tenant).await;
    assert_eq!(l.script.seen.lock()["r1"].len(), 1);
    // Off, and on again after a restart as it was left.
    assert_eq!(
        l.ask("set-heartbeats", json!({"enabled": false})).await["enabled"],
        false
    );
    let begun = l.begun();
    l.pass(2 * HOUR).await;
    assert_eq!(l.begun(), begun);
    l.ask("set-heartbeats", json!({"enabled": true})).await;
    l.pass(HOUR).await;
    settle(&l.tenant).await;
    assert_eq!(l.begun(), begun + 2);
}

/// A busy session, quiet hours and nobody to tell keep a heartbeat from asking the model.
#[tokio::test(start_paused = true)]
async fn heartbeats_know_when_not_to() {
    let dir = scratch();
    let rig = async |edit: &dyn Fn(&mut gateway_config::HeartbeatSettings), name: &str| {
        let home = dir.path().join(name);
        let mut settings = settings(&home);
        let main = settings.tenants.get_mut("main").unwrap();
        let beat = &mut main.agents.entries.get_mut("main").unwrap().heartbeat;
        beat.every_ms = (30 * MINUTE).unsigned_abs();
        beat.target = gateway_config::HeartbeatTarget::None;
        edit(beat);
        Life::begin_with(&home, &Arc::default(), BASE, settings).await
    };
    let busy = rig(&|_| {}, "busy").await;
    busy.ask(
        "chat.send",
        json!({"sessionKey": "main", "message": "hang on", "idempotencyKey": "r0"}),
    )
    .await;
    busy.pass(31 * MINUTE).await;
    assert_eq!(
        busy.ask("last-heartbeat", json!({})).await["reason"],
        "requests-in-flight"
    );
    assert_eq!(busy.begun(), 1);

    // 08:00 to 10:00 in UTC, when it is night in Honolulu.
    let hours = gateway_config::ActiveHours {
        start_minute: 8 * 60,
        end_minute: 22 * 60,
        zone: "Pacific/Honolulu".to_owned(),
    };
    let night = rig(&|beat| beat.active_hours = Some(hours.clone()), "night").await;
    night.pass(2 * HOUR).await;
    assert_eq!(
        night.ask("last-heartbeat", json!({})).await["reason"],
        "quiet-hours"
    );
    assert_eq!(night.begun(), 0);

    let alone = rig(
        &|beat| beat.target = gateway_config::HeartbeatTarget::Owner,
        "alone",
    )
    .await;
    alone.pass(31 * MINUTE).await;
    assert_eq!(
        alone.ask("last-heartbeat", json!({})).await["reason"],
        "no-route"
    );
    assert_eq!(alone.begun(), 0);
}

/// A wake has the agent look now; more than a few in a minute wait for later instead of asking the model each time.
#[tokio::test(start_paused = true)]
async fn wakes_are_looked_at_now_but_not_without_bound() {
    let dir = scratch();
    let l = Life::begin(dir.path(), &Arc::default(), BASE).await;
    l.ask("wake", json!({"mode": "now", "text": "fire"})).await;
    settle(&l.tenant).await;
    assert_eq!(l.begun(), 1);
    {
        let seen = l.script.seen.lock();
        let lines = seen.values().next().unwrap();
        assert!(
            lines[0].1.contains("fire") && lines[1].0 == "user",
            "{lines:?}"
        );
    }
    for i in 0..20 {
        l.ask("wake", json!({"mode": "now", "text": format!("event {i}")}))
            .await;
    }
    settle(&l.tenant).await;
    assert_eq!(l.begun(), 5, "five in a minute");
    l.ask(
        "chat.send",
        json!({"sessionKey": "main", "message": "what happened?", "idempotencyKey": "r1"}),
    )
    .await;
    settle(&l.tenant).await;
    let lines: Vec<String> = {
        let seen = l.script.seen.lock();
        seen["r1"].iter().map(|(_, text)| text.clone()).collect()
    };
    for i in 0..20 {
        assert!(
            lines
                .iter()
                .any(|line| line.contains(&format!("event {i}"))),
            "event {i} was lost"
        );
    }
    let error = l
        .refused(
            "wake",
            json!({"mode": "now", "text": "x", "sessionKey": "lab"}),
        )
        .await;
    assert!(
        error.message.contains("next-heartbeat"),
        "{}",
        error.message
    );
    let error = l
        .refused("wake", json!({"mode": "later", "text": "x"}))
        .await;
    assert_eq!(error.detail, DetailCode::InvalidParams);
}
