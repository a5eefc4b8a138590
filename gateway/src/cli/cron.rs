//! `gateway cron …`

use clap::{Args, Subcommand, ValueEnum};
use gateway_core::cron::schedule::{
    Schedule, in_zone, parse_at, parse_duration, parse_zone, rfc3339,
};
use gateway_protocol::methods::cron::CronSchedule;
use serde_json::{Map, Value, json};

use super::output::{Exit, Failure, clean, duration, print, table, text};
use super::{Global, target};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// The jobs, the next one first.
    List {
        /// Show jobs that are switched off too.
        #[arg(long)]
        all: bool,
        /// Only jobs of this agent.
        #[arg(long, value_name = "ID")]
        agent: Option<String>,
        /// Show times in this zone instead of UTC.
        #[arg(long, value_name = "ZONE")]
        tz: Option<String>,
    },
    /// Make a job.
    Add(Box<Add>),
    /// Change a job; what is left out stays.
    Edit(Box<Edit>),
    /// Delete a job; the log of its runs stays.
    Rm {
        /// The job.
        id: String,
    },
    /// Let a job come due again; counts of failures begin anew.
    Enable {
        /// The job.
        id: String,
    },
    /// Keep a job from coming due.
    Disable {
        /// The job.
        id: String,
    },
    /// Run a job now; its schedule stays as it is.
    Run {
        /// The job.
        id: String,
        /// Only if its time has come.
        #[arg(long)]
        due: bool,
        /// Wait for the end and show it (as long as `--timeout` says).
        #[arg(long)]
        wait: bool,
    },
    /// The log of runs, newest first.
    Runs {
        /// Only this job.
        id: Option<String>,
        /// Only runs that ended so.
        #[arg(long, value_enum)]
        status: Option<Status>,
        /// Most rows.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=200))]
        limit: u64,
    },
    /// Whether jobs come due, and when the next one does.
    Status,
    /// When a schedule comes due next; needs no gateway.
    Next {
        /// Cron expression (5 or 6 fields), `@daily` and the like, or a period such as `30m`.
        expr: String,
        /// Time zone (default UTC).
        #[arg(long, value_name = "ZONE", default_value = "UTC")]
        tz: String,
        /// How many times to show.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1_000))]
        count: u64,
        /// Begin after this time instead of now.
        #[arg(long, value_name = "TIME")]
        after: Option<String>,
    },
}

/// Outcomes of a run.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Status {
    /// Ended well.
    Ok,
    /// Failed.
    Error,
    /// Did not run.
    Skipped,
}

/// When.
#[derive(Debug, Args)]
pub struct When {
    /// Once: RFC 3339, a wall-clock time of `--tz`, or from now as 20m.
    #[arg(long, value_name = "TIME", group = "when")]
    at: Option<String>,
    /// Again and again, as 30m or 1h30m.
    #[arg(long, value_name = "PERIOD", group = "when")]
    every: Option<String>,
    /// By the clock: minute hour day-of-month month day-of-week, with a second before them if six fields.
    #[arg(long, value_name = "EXPR", group = "when")]
    cron: Option<String>,
    /// Time zone of `--cron` and `--at` (default UTC).
    #[arg(long, value_name = "ZONE")]
    tz: Option<String>,
    /// Spread the job over this time, as 5m at most.
    #[arg(long, value_name = "PERIOD", requires = "cron")]
    stagger: Option<String>,
}

/// What, and where to.
#[derive(Debug, Args)]
pub struct What {
    /// Have the agent answer this message.
    #[arg(long, value_name = "TEXT", group = "what")]
    message: Option<String>,
    /// Put this text before the agent's main session.
    #[arg(long, value_name = "TEXT", group = "what")]
    system_event: Option<String>,
    /// Send a POST request to this address (`cron.webhook.allow` of the configuration must name it).
    #[arg(long, value_name = "URL", group = "what")]
    webhook: Option<String>,
    /// Name of a secret of `cron.webhook.secrets` for `--webhook`.
    #[arg(long, value_name = "NAME", requires = "webhook")]
    secret: Option<String>,
    /// Session of the agent's answers (default: a new one for each run).
    #[arg(long, value_name = "KEY")]
    session: Option<String>,
    /// Look at a system event at once (`now`, default) or with the next heartbeat.
    #[arg(long, value_enum)]
    wake: Option<Wake>,
    /// Agent (default: the default agent).
    #[arg(long, value_name = "ID")]
    agent: Option<String>,
    /// Model in place of the agent's.
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Longest time of a run, as 10m.
    #[arg(long, value_name = "PERIOD")]
    run_timeout: Option<String>,
    /// Send the answer to a channel: its kind (with --to), or `last` for the conversation used last.
    #[arg(long, value_name = "CHANNEL", num_args = 0..=1, default_missing_value = "last", group = "delivery")]
    announce: Option<String>,
    /// Conversation of `--announce`: direct:ID, group:ID or channel:ID.
    #[arg(long, value_name = "PEER", requires = "announce")]
    to: Option<String>,
    /// Account of the channel of `--announce`.
    #[arg(long, value_name = "ID", requires = "announce")]
    account: Option<String>,
    /// Send the outcome as a POST request to this address.
    #[arg(long, value_name = "URL", group = "delivery")]
    deliver_webhook: Option<String>,
    /// What happens with missed occurrences (default: the last one is made up for within a day).
    #[arg(long, value_enum)]
    catch_up: Option<CatchUp>,
    /// With `--catch-up all`: at most so many.
    #[arg(long, value_name = "N", requires = "catch_up")]
    catch_up_max: Option<u64>,
    /// Make up only for occurrences that are not older than this, as 1h.
    #[arg(long, value_name = "PERIOD", requires = "catch_up")]
    catch_up_grace: Option<String>,
    /// What the job is for.
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Keep a one-shot job after it ran.
    #[arg(long, group = "after")]
    keep_after_run: bool,
    /// Delete the job after it ran well.
    #[arg(long, group = "after")]
    delete_after_run: bool,
}

/// When a system event is looked at.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Wake {
    /// At once.
    Now,
    /// With the next heartbeat.
    NextHeartbeat,
}

/// Which missed occurrences are made up for.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum CatchUp {
    /// None.
    None,
    /// The last one.
    Latest,
    /// All, one after the other.
    All,
}

#[derive(Debug, Args)]
pub struct Add {
    /// Name.
    #[arg(long, value_name = "NAME")]
    name: String,
    #[command(flatten)]
    when: When,
    #[command(flatten)]
    what: What,
    /// Make it switched off.
    #[arg(long)]
    disabled: bool,
}

#[derive(Debug, Args)]
pub struct Edit {
    /// The job.
    id: String,
    /// New name.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    when: When,
    #[command(flatten)]
    what: What,
    /// Deliver the outcome nowhere.
    #[arg(long, group = "delivery")]
    no_deliver: bool,
}

fn usage(message: impl std::fmt::Display, next: &str) -> Failure {
    Failure::new(Exit::Usage, message.to_string(), next)
}

fn period(text: &str) -> Result<i64, Failure> {
    parse_duration(text).map_err(|why| usage(why, "write it as 45s, 20m, 1h30m or 2d"))
}

fn now_ms() -> i64 {
    use gateway_core::clock::Clock as _;
    gateway_core::clock::SystemClock::new().now_ms()
}

impl When {
    fn schedule(&self) -> Result<Option<Value>, Failure> {
        if let Some(at) = &self.at {
            let zone = parse_zone(self.tz.as_deref().unwrap_or("UTC"))
                .map_err(|why| usage(why, "write a name such as Europe/Berlin"))?;
            // The gateway's own clock counts a time from now; a wall-clock time needs the zone that was named here.
            let at = match parse_duration(at) {
                Ok(_) => at.clone(),
                Err(_) => rfc3339(parse_at(at, None, zone).map_err(|why| {
                    usage(
                        why,
                        "write it as 2026-12-24T18:00:00Z, 2026-12-24T18:00 with --tz, or 20m",
                    )
                })?),
            };
            return Ok(Some(json!({"kind": "at", "at": at})));
        }
        if let Some(every) = &self.every {
            return Ok(Some(json!({"kind": "every", "everyMs": period(every)?})));
        }
        let Some(expr) = &self.cron else {
            if self.tz.is_some() {
                return Err(usage("--tz belongs to --cron or --at", "add --cron EXPR"));
            }
            return Ok(None);
        };
        let mut schedule = json!({"kind": "cron", "expr": expr});
        if let Some(tz) = &self.tz {
            schedule["tz"] = json!(tz);
        }
        if let Some(stagger) = &self.stagger {
            schedule["staggerMs"] = json!(period(stagger)?);
        }
        Ok(Some(schedule))
    }
}

impl What {
    fn fields(&self) -> Result<Map<String, Value>, Failure> {
        let mut fields = Map::new();
        let mut set = |key: &str, value: Value| {
            fields.insert(key.to_owned(), value);
        };
        let mut payload = Map::new();
        if let Some(text) = &self.system_event {
            payload.insert("kind".into(), json!("systemEvent"));
            payload.insert("text".into(), json!(text));
            set("sessionTarget", json!("main"));
        } else if let Some(url) = &self.webhook {
            payload.insert("kind".into(), json!("webhook"));
            payload.insert("url".into(), json!(url));
            if let Some(secret) = &self.secret {
                payload.insert("secret".into(), json!(secret));
            }
            set("sessionTarget", json!("isolated"));
        } else if let Some(message) = &self.message {
            payload.insert("kind".into(), json!("agentTurn"));
            payload.insert("message".into(), json!(message));
            set("sessionTarget", json!("isolated"));
        }
        if let Some(model) = &self.model {
            payload.insert("model".into(), json!(model));
        }
        if let Some(limit) = &self.run_timeout {
            payload.insert("timeoutSeconds".into(), json!(period(limit)? / 1_000));
        }
        if !payload.is_empty() {
            set("payload", Value::Object(payload));
        }
        if let Some(session) = &self.session {
            set("sessionTarget", json!(format!("session:{session}")));
        }
        if let Some(wake) = self.wake {
            set(
                "wakeMode",
                json!(match wake {
                    Wake::Now => "now",
                    Wake::NextHeartbeat => "next-heartbeat",
                }),
            );
        }
        for (key, value) in [("agentId", &self.agent), ("description", &self.description)] {
            if let Some(value) = value {
                set(key, json!(value));
            }
        }
        if let Some(channel) = &self.announce {
            let mut delivery = json!({"mode": "announce", "channel": channel});
            if let Some(to) = &self.to {
                delivery["to"] = json!(to);
            }
            if let Some(account) = &self.account {
                delivery["accountId"] = json!(account);
            }
            set("delivery", delivery);
        }
        if let Some(url) = &self.deliver_webhook {
            set("delivery", json!({"mode": "webhook", "to": url}));
        }
        if let Some(mode) = self.catch_up {
            let mut policy = json!({"mode": match mode {
                CatchUp::None => "none",
                CatchUp::Latest => "latest",
                CatchUp::All => "all",
            }});
            if let Some(max) = self.catch_up_max {
                policy["max"] = json!(max);
            }
            if let Some(grace) = &self.catch_up_grace {
                policy["graceMs"] = json!(period(grace)?);
            }
            set("catchUp", policy);
        }
        if self.keep_after_run {
            set("deleteAfterRun", json!(false));
        }
        if self.delete_after_run {
            set("deleteAfterRun", json!(true));
        }
        Ok(fields)
    }
}

pub async fn run(global: &Global, command: Command) -> Result<(), Failure> {
    match command {
        Command::List { all, agent, tz } => list(global, all, agent, tz).await,
        Command::Add(add) => {
            let Some(schedule) = add.when.schedule()? else {
                return Err(usage(
                    "a job needs a time",
                    "add --cron EXPR, --every 30m or --at 20m",
                ));
            };
            let mut params = add.what.fields()?;
            if !params.contains_key("payload") {
                return Err(usage(
                    "a job needs something to do",
                    "add --message TEXT, --system-event TEXT or --webhook URL",
                ));
            }
            params.insert("name".into(), json!(add.name));
            params.insert("schedule".into(), schedule);
            params.entry("wakeMode").or_insert(json!("now"));
            if add.disabled {
                params.insert("enabled".into(), json!(false));
            }
            let job = target::call(global, "cron.add", Value::Object(params)).await?;
            print(global.json, &job, |job| written("made", job))
        }
        Command::Edit(edit) => {
            let mut patch = edit.what.fields()?;
            if let Some(schedule) = edit.when.schedule()? {
                patch.insert("schedule".into(), schedule);
            }
            if let Some(name) = &edit.name {
                patch.insert("name".into(), json!(name));
            }
            if edit.no_deliver {
                patch.insert("delivery".into(), json!({"mode": "none"}));
            }
            if patch.is_empty() {
                return Err(usage(
                    "nothing to change was named",
                    "`gateway cron edit --help` shows what can change",
                ));
            }
            change(global, &edit.id, Value::Object(patch), "changed").await
        }
        Command::Enable { id } => {
            change(global, &id, json!({"enabled": true}), "switched on").await
        }
        Command::Disable { id } => {
            change(global, &id, json!({"enabled": false}), "switched off").await
        }
        Command::Rm { id } => {
            let result = target::call(global, "cron.remove", json!({"id": id})).await?;
            print(global.json, &result, |_| {
                format!("{} is deleted", clean(&id))
            })
        }
        Command::Run { id, due, wait } => run_now(global, &id, due, wait).await,
        Command::Runs { id, status, limit } => {
            let mut params = json!({"limit": limit});
            if let Some(id) = id {
                params["id"] = json!(id);
            }
            if let Some(status) = status {
                params["status"] = json!(match status {
                    Status::Ok => "ok",
                    Status::Error => "error",
                    Status::Skipped => "skipped",
                });
            }
            let result = target::call(global, "cron.runs", params).await?;
            print(global.json, &result, runs)
        }
        Command::Status => {
            let result = target::call(global, "cron.status", json!({})).await?;
            print(global.json, &result, |s| {
                format!(
                    "schedules {}\njobs      {}, {} running\nnext      {}",
                    if s["enabled"] == true {
                        "on"
                    } else {
                        "off (cron.enabled of the configuration)"
                    },
                    text(s, "jobs"),
                    text(s, "running"),
                    s["nextWakeAtMs"]
                        .as_i64()
                        .map_or("none".to_owned(), rfc3339)
                )
            })
        }
        Command::Next { .. } => next(global, command),
    }
}

async fn list(
    global: &Global,
    all: bool,
    agent: Option<String>,
    tz: Option<String>,
) -> Result<(), Failure> {
    let zone = parse_zone(tz.as_deref().unwrap_or("UTC"))
        .map_err(|why| usage(why, "write a name such as Europe/Berlin"))?;
    let client = target::connect(global, &["cron.list"]).await?;
    let mut jobs = Vec::new();
    let mut whole = Value::Null;
    loop {
        let mut params = json!({"includeDisabled": all, "limit": 200, "offset": jobs.len()});
        if let Some(agent) = &agent {
            params["agentId"] = json!(agent);
        }
        let page = client.request("cron.list", params).await?;
        jobs.extend(page["jobs"].as_array().cloned().unwrap_or_default());
        let more = page["hasMore"] == true;
        if whole.is_null() {
            whole = page;
        }
        if !more {
            break;
        }
    }
    client.close().await;
    whole["jobs"] = json!(jobs);
    whole["hasMore"] = json!(false);
    whole["nextOffset"] = Value::Null;
    print(global.json, &whole, |r| {
        let rows: Vec<Vec<String>> = r["jobs"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|job| {
                vec![
                    text(job, "id"),
                    text(job, "name"),
                    when(&job["schedule"]),
                    job["nextRunAtMs"].as_i64().map_or_else(
                        || if job["enabled"] == true { "-" } else { "off" }.to_owned(),
                        |at| in_zone(at, zone),
                    ),
                    if job["state"]["runningAtMs"].is_i64() {
                        "running".to_owned()
                    } else {
                        text(job, "lastRunStatus")
                    },
                    text(job, "effectiveAgentId"),
                    text(&job["payload"], "kind"),
                ]
            })
            .collect();
        table(
            &["ID", "NAME", "SCHEDULE", "NEXT", "LAST", "AGENT", "DOES"],
            &rows,
            if all {
                "no jobs; `gateway cron add --help` shows how to make one"
            } else {
                "no jobs; --all shows those that are switched off"
            },
        )
    })
}

/// A schedule in a few words.
fn when(schedule: &Value) -> String {
    match schedule["kind"].as_str() {
        Some("at") => format!("at {}", text(schedule, "at")),
        Some("every") => format!(
            "every {}",
            duration(schedule["everyMs"].as_u64().unwrap_or_default())
        ),
        Some("cron") => {
            let expr = text(schedule, "expr");
            match schedule["tz"].as_str() {
                Some(tz) => format!("{expr} ({tz})"),
                None => expr,
            }
        }
        _ => String::new(),
    }
}

fn written(what: &str, job: &Value) -> String {
    format!(
        "{} ({}) is {what}: {}; {}",
        clean(&text(job, "id")),
        clean(&text(job, "name")),
        clean(&when(&job["schedule"])),
        job["nextRunAtMs"].as_i64().map_or_else(
            || "it does not come due".to_owned(),
            |at| format!("next {}", rfc3339(at))
        )
    )
}

async fn change(global: &Global, id: &str, patch: Value, what: &str) -> Result<(), Failure> {
    let job = target::call(global, "cron.update", json!({"id": id, "patch": patch})).await?;
    print(global.json, &job, |job| written(what, job))
}

async fn run_now(global: &Global, id: &str, due: bool, wait: bool) -> Result<(), Failure> {
    let client = target::connect(global, &["cron.run", "cron.runs"]).await?;
    let mode = if due { "due" } else { "force" };
    let begun = client
        .request("cron.run", json!({"id": id, "mode": mode}))
        .await?;
    let mut shown = begun.clone();
    if wait && begun["enqueued"] == true {
        let until = tokio::time::Instant::now() + target::timeout(global);
        loop {
            let page = client
                .request("cron.runs", json!({"runId": begun["runId"]}))
                .await?;
            if let Some(entry) = page["entries"].get(0) {
                shown = entry.clone();
                break;
            }
            if tokio::time::Instant::now() >= until {
                return Err(Failure::new(
                    Exit::Failure,
                    "the run goes on",
                    format!("`gateway cron runs {id}` shows its end; --timeout MS waits longer"),
                ));
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }
    client.close().await;
    print(global.json, &shown, |r| {
        if r["action"] == "finished" {
            return format!("{}: {}", text(r, "status"), clean(told(r)));
        }
        if r["enqueued"] == true {
            format!("{} is begun", clean(&text(r, "runId")))
        } else {
            format!("not begun: {}", clean(&text(r, "reason")))
        }
    })?;
    if shown["status"] == "error" {
        return Err(Failure::new(
            Exit::Failure,
            "the run failed",
            format!("`gateway cron runs {id}` shows the log"),
        ));
    }
    Ok(())
}

/// Why a run failed or was skipped, else the begin of its answer.
fn told(entry: &Value) -> &str {
    entry["error"]
        .as_str()
        .or_else(|| entry["summary"].as_str())
        .unwrap_or_default()
}

fn runs(result: &Value) -> String {
    let rows: Vec<Vec<String>> = result["entries"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|entry| {
            vec![
                entry["runAtMs"].as_i64().map(rfc3339).unwrap_or_default(),
                text(entry, "jobName"),
                text(entry, "status"),
                duration(entry["durationMs"].as_u64().unwrap_or_default()),
                text(entry, "deliveryStatus"),
                told(entry).chars().take(60).collect(),
            ]
        })
        .collect();
    let mut shown = table(
        &["DUE", "JOB", "STATUS", "TOOK", "DELIVERY", "TEXT"],
        &rows,
        "no runs yet",
    );
    if result["hasMore"] == true {
        shown.push_str("\n… there is more; --limit shows it");
    }
    shown
}

fn next(global: &Global, command: Command) -> Result<(), Failure> {
    let Command::Next {
        expr,
        tz,
        count,
        after,
    } = command
    else {
        return Ok(());
    };
    let zone = parse_zone(&tz).map_err(|why| usage(why, "write a name such as Europe/Berlin"))?;
    let now = now_ms();
    let mut at = match &after {
        None => now,
        Some(text) => parse_at(text, Some(now), zone)
            .map_err(|why| usage(why, "write it as 2026-12-24T18:00:00Z or 2026-12-24T18:00"))?,
    };
    let schedule = match parse_duration(&expr) {
        Ok(ms) => CronSchedule::Every {
            every_ms: ms.unsigned_abs(),
            anchor_ms: Some(at.unsigned_abs()),
        },
        Err(_) => CronSchedule::Cron {
            expr: expr.clone(),
            tz: Some(tz.clone()),
            // Each job of a full hour has its own delay; here is no job.
            stagger_ms: Some(0),
        },
    };
    let schedule = Schedule::parse(&schedule, "")
        .map_err(|why| usage(why, "for example \"0 9 * * mon-fri\", \"@daily\" or 30m"))?;
    let mut times = Vec::new();
    while (times.len() as u64) < count {
        let Some(time) = schedule.next_ms(at) else {
            break;
        };
        times.push(time);
        at = time;
    }
    let shown: Vec<Value> = times
        .iter()
        .map(|at| json!({"atMs": at, "at": rfc3339(*at), "local": in_zone(*at, zone)}))
        .collect();
    let result = json!({"expr": expr, "tz": tz, "next": shown});
    print(global.json, &result, |r| {
        r["next"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|time| text(time, "local"))
            .collect::<Vec<_>>()
            .join("\n")
    })
}
