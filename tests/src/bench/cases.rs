//! The measurements, in the order of the table.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::bare::{self, order};
use crate::http::Http;
use crate::process::{Process, guests_dir};
use crate::report::{Goal, Report, median};
use crate::tls::tls;
use crate::ws::{self, Conn, Endpoint, Rate, contains, is_event};

const SECRET: &str = "bench-signing-secret-0123456789abcdef";
/// Longest wait for something that should come at once.
const PATIENCE: Duration = Duration::from_secs(60);
/// A signature of a `chat` event that ends a run.
const FINAL: &[u8] = br#""state":"final""#;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub rounds: usize,
    pub starts: usize,
    pub idle: Duration,
    pub idle_conns: usize,
    /// Requests of one round at depth 1.
    pub requests: usize,
    pub handshakes: usize,
    pub events: usize,
    pub turns: usize,
    pub completions: usize,
    /// Seconds of the open load of 1,000 completions a second.
    pub open_s: usize,
    pub streams: usize,
    pub webhooks: usize,
    pub many: usize,
    pub commits: usize,
}

impl Size {
    pub fn full() -> Self {
        Self {
            rounds: 5,
            starts: 7,
            idle: Duration::from_secs(20),
            idle_conns: 2_000,
            requests: 40_000,
            handshakes: 2_000,
            events: 30,
            turns: 3_200,
            completions: 200,
            open_s: 10,
            streams: 60,
            webhooks: 3_200,
            many: 10_000,
            commits: 300,
        }
    }

    pub fn quick() -> Self {
        Self {
            rounds: 3,
            starts: 3,
            idle: Duration::from_secs(2),
            idle_conns: 500,
            requests: 8_000,
            handshakes: 400,
            events: 10,
            turns: 640,
            completions: 60,
            open_s: 2,
            streams: 20,
            webhooks: 640,
            many: 1_000,
            commits: 100,
        }
    }
}

/// A request of the v4 protocol.
pub fn request(id: &str, method: &str, params: &Value) -> String {
    json!({"type": "req", "id": id, "method": method, "params": params}).to_string()
}

fn connect(token: &str, caps: &[&str]) -> String {
    request(
        "1",
        "connect",
        &json!({
            "minProtocol": 4, "maxProtocol": 4,
            "client": {"id": "cli", "version": "1.0.0", "platform": "linux", "mode": "cli"},
            "role": "operator",
            "scopes": ["operator.admin", "operator.read", "operator.write", "operator.approvals", "operator.pairing"],
            "caps": caps,
            "auth": {"token": token},
        }),
    )
}

/// A gateway with its state directory.
pub struct Ours {
    pub process: Process,
    token: String,
}

impl Ours {
    /// Starts it and waits for the first hello-ok: until it is ready it answers that it is starting.
    async fn start(state: &Path, extra: &[&str]) -> io::Result<(Self, f64)> {
        Self::start_at(state, extra, |addr| Ok(addr.into())).await
    }

    /// The same where the address alone does not say how to connect.
    pub async fn start_at(
        state: &Path,
        extra: &[&str],
        server: impl Fn(std::net::SocketAddr) -> io::Result<Endpoint>,
    ) -> io::Result<(Self, f64)> {
        let process = Process::gateway(state, extra);
        let token = std::fs::read_to_string(state.join("secrets/main/gateway-token")).unwrap();
        let ours = Self {
            process,
            token: token.trim().to_owned(),
        };
        loop {
            match Conn::open(server(ours.process.addr)?, &ours.connect()).await {
                Ok(_) => {
                    let ms = ours.process.started.elapsed().as_secs_f64() * 1e3;
                    return Ok((ours, ms));
                }
                Err(error)
                    if error.to_string().contains("STARTING")
                        && ours.process.started.elapsed() < PATIENCE =>
                {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    pub fn connect(&self) -> String {
        connect(&self.token, &[])
    }

    /// Only the events of the sessions that it follows.
    fn connect_scoped(&self) -> String {
        connect(&self.token, &["session-scoped-events"])
    }
}

const BARE_CONFIG: &str =
    r#"{ agents: { default: "main", entries: { main: { backend: "echo" } } } }"#;

/// Makes a state directory with the given configuration.
pub fn state_dir(root: &Path, name: &str, config: &str) -> PathBuf {
    let state = root.join(name);
    gateway_config::init_state_dir(&state).unwrap();
    std::fs::write(state.join("gateway.json5"), config).unwrap();
    state
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// Everything, in order. A part that fails does not stop the others; the names of those that failed come back.
pub async fn all(root: &Path, size: Size, only: Option<&str>, report: &mut Report) -> Vec<String> {
    const PARTS: [&str; 11] = [
        "start", "idle", "rpc", "tls", "fanout", "chat", "v1", "v1-open", "tokens", "webhook",
        "many",
    ];
    let commit_ms = commit(root, size, report);
    let mut failed = Vec::new();
    for part in PARTS {
        if only.is_some_and(|only| only.split(',').all(|o| o != part)) {
            continue;
        }
        let result = match part {
            "start" => starts(root, size, report).await,
            "idle" => idle_connections(root, size, report).await,
            "rpc" => rpc(root, size, report).await,
            "tls" => tls(root, size, report).await,
            "fanout" => fan_out(root, size, report).await,
            "chat" => chat(root, size, commit_ms, report).await,
            "v1" => completions(root, size, commit_ms, report).await,
            "v1-open" => completions_open(root, size, commit_ms, report).await,
            "tokens" => tokens(root, size, report).await,
            "webhook" => webhook(root, size, commit_ms, report).await,
            _ => many(root, size, report).await,
        };
        if let Err(error) = result {
            report.note(format!("{part} failed: {error}"));
            failed.push(part.to_owned());
        }
    }
    failed
}

fn with_guests(root: &Path) -> (PathBuf, String) {
    let guests = root.join("guests");
    for id in ["webhook", "greeting"] {
        copy_dir(&guests_dir().join(id), &guests.join(id));
    }
    let state = state_dir(
        root,
        "guests-state",
        &json!({
            "gateway": {"limits": {"preauthPerIp": 256}},
            "agents": {"default": "main", "entries": {"main": {"backend": "echo"}}},
            "channels": {"webhook": {"accounts": {"default": {"enabled": true, "dmPolicy": "open", "secrets": {"signing": SECRET}}}}},
            "boot": {"scripts": {"greeting": {"enabled": true}}},
        })
        .to_string(),
    );
    (state, guests.to_str().unwrap().to_owned())
}

/// (start to hello in ms, RSS in KiB, CPU in % of a core while idle)
async fn start_figures(state: &Path, extra: &[&str], size: Size) -> io::Result<(f64, f64, f64)> {
    let mut hello = Vec::new();
    // The first start makes the files and compiles the guests; it is not counted.
    for round in 0..=size.starts {
        let (ours, ms) = Ours::start(state, extra).await?;
        if round > 0 {
            hello.push(ms);
        }
        if round == size.starts {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let rss = ours.process.rss_kib();
            let cpu = ours.process.cpu_s();
            let begun = Instant::now();
            tokio::time::sleep(size.idle).await;
            let used = (ours.process.cpu_s() - cpu) / begun.elapsed().as_secs_f64() * 100.0;
            return Ok((median(hello), rss, used));
        }
        ours.process.stop();
    }
    Err(io::Error::other("no start was measured"))
}

async fn starts(root: &Path, size: Size, report: &mut Report) -> io::Result<()> {
    let mut bare = Vec::new();
    let mut bare_rss = 0.0;
    for _ in 0..size.starts {
        let process = Process::bare("bare-ws");
        drop(Conn::open(process.addr, &order('n', 300, 400)).await?);
        bare.push(process.started.elapsed().as_secs_f64() * 1e3);
        tokio::time::sleep(Duration::from_millis(100)).await;
        bare_rss = process.rss_kib() / 1024.0;
    }
    let bare = median(bare);
    let (state, guests) = with_guests(root);
    let extra = ["--wasm-dir", guests.as_str()];
    let (ms, rss, cpu) = start_figures(&state, &extra, size).await?;
    report.row(
        "start to first hello-ok, 2 guests in the AOT cache",
        "ms",
        ms,
        Some(bare),
        Goal::Max(60.0),
    );
    let plain = state_dir(root, "plain-state", BARE_CONFIG);
    let (plain_ms, plain_rss, plain_cpu) = start_figures(&plain, &[], size).await?;
    report.row(
        "start to first hello-ok, no guests",
        "ms",
        plain_ms,
        Some(bare),
        Goal::Max(30.0),
    );
    report.row(
        "RSS idle, 2 guests",
        "MiB",
        rss / 1024.0,
        Some(bare_rss),
        Goal::Max(32.0),
    );
    report.row(
        "RSS idle, no guests",
        "MiB",
        plain_rss / 1024.0,
        Some(bare_rss),
        Goal::Max(16.0),
    );
    report.row("idle CPU, 2 guests", "% core", cpu, None, Goal::Max(0.1));
    report.row(
        "idle CPU, no guests",
        "% core",
        plain_cpu,
        None,
        Goal::Max(0.1),
    );
    Ok(())
}

/// One durable commit on the same file system, the median in ms.
fn commit(root: &Path, size: Size, report: &mut Report) -> f64 {
    let db = rusqlite::Connection::open(root.join("commit.sqlite")).unwrap();
    db.pragma_update(None, "journal_mode", "WAL").unwrap();
    db.pragma_update(None, "synchronous", "FULL").unwrap();
    db.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB)")
        .unwrap();
    // The log gets its length first and is used again, as that of a running gateway: a log that grows costs the file
    // system's own journal at each commit, some milliseconds.
    db.execute("INSERT INTO t (body) VALUES (zeroblob(8388608))", [])
        .unwrap();
    db.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()))
        .unwrap();
    let body = vec![7_u8; 300];
    let mut times = Vec::new();
    for _ in 0..size.commits {
        let begun = Instant::now();
        db.execute("INSERT INTO t (body) VALUES (?1)", [&body])
            .unwrap();
        times.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    let ms = median(times);
    report.row(
        "one WAL+FULL commit of one row (bare rusqlite)",
        "ms",
        ms,
        None,
        Goal::None,
    );
    ms
}

async fn idle_connections(root: &Path, size: Size, report: &mut Report) -> io::Result<()> {
    let (ours, _) = Ours::start(&state_dir(root, "idle-state", BARE_CONFIG), &[]).await?;
    let bare = Process::bare("bare-ws");
    let hello = Conn::open(ours.process.addr, &ours.connect())
        .await?
        .hello_bytes;
    let mut kib = Vec::new();
    let bare_connect = order('n', hello, ours.connect().len());
    for (process, connect) in [(&ours.process, ours.connect()), (&bare, bare_connect)] {
        // A few first, so that what is made once is there already.
        drop(ws::open_many(process.addr, &connect, 32).await?);
        tokio::time::sleep(Duration::from_millis(500)).await;
        let before = process.rss_kib();
        let conns = ws::open_many(process.addr, &connect, size.idle_conns).await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        kib.push((process.rss_kib() - before) / conns.len() as f64);
    }
    report.row(
        format!(
            "idle connection, {} of them, hello {hello} B",
            size.idle_conns
        ),
        "KiB",
        kib[0],
        Some(kib[1]),
        Goal::Max(8.0),
    );
    Ok(())
}

/// The same load on both, in turns; medians.
pub async fn side_by_side(
    size: Size,
    ours: impl AsyncFn() -> io::Result<Rate>,
    bare: impl AsyncFn() -> io::Result<Rate>,
) -> io::Result<(Rate, Rate)> {
    let mut rates = (Vec::new(), Vec::new());
    // The first round warms both.
    for round in 0..=size.rounds {
        let (a, b) = (ours().await?, bare().await?);
        if round > 0 {
            rates.0.push(a);
            rates.1.push(b);
        }
    }
    let middle = |rates: &[Rate]| Rate {
        per_s: median(rates.iter().map(|r| r.per_s).collect()),
        p50_ms: median(rates.iter().map(|r| r.p50_ms).collect()),
        p99_ms: median(rates.iter().map(|r| r.p99_ms).collect()),
    };
    Ok((middle(&rates.0), middle(&rates.1)))
}

async fn rpc(root: &Path, size: Size, report: &mut Report) -> io::Result<()> {
    let (state, guests) = with_guests(root);
    let (ours, _) = Ours::start(&state, &["--wasm-dir", guests.as_str()]).await?;
    let bare = Process::bare("bare-ws");
    let connect = ours.connect();
    let mut first = Conn::open(ours.process.addr, &connect).await?;
    let bare_connect = order('n', first.hello_bytes, connect.len());
    let (a, b) = side_by_side(
        size,
        async || ws::handshakes(ours.process.addr, &connect, size.handshakes).await,
        async || ws::handshakes(bare.addr, &bare_connect, size.handshakes).await,
    )
    .await?;
    report.row(
        "handshakes, 8 at once",
        "/s",
        a.per_s,
        Some(b.per_s),
        Goal::MinRatio(0.7),
    );
    let methods = [
        (
            "health",
            json!({}),
            Goal::MinRatio(0.75),
            Goal::MaxRatio(1.7),
        ),
        ("status", json!({}), Goal::MinRatio(0.75), Goal::None),
        (
            "system-presence",
            json!({}),
            Goal::MinRatio(0.85),
            Goal::None,
        ),
        (
            "sessions.list",
            json!({"limit": 50}),
            Goal::None,
            Goal::None,
        ),
    ];
    let mut presence_bytes = 0;
    for (method, params, per_s, p99) in methods {
        let text = request("7", method, &params);
        // As many connections as the load has: some answers tell of them.
        let mut others = ws::open_many(ours.process.addr, &connect, 7).await?;
        let bytes = first.call(&text).await?.len();
        others.clear();
        if method == "system-presence" {
            presence_bytes = bytes;
        }
        let plain = order('n', bytes, text.len());
        let (texts, plains) = (vec![text], vec![plain]);
        let batches = size.requests / 8;
        let (a, b) = side_by_side(
            size,
            async || ws::load(ours.process.addr, &connect, 8, &texts, batches).await,
            async || ws::load(bare.addr, &bare_connect, 8, &plains, batches).await,
        )
        .await?;
        report.row(
            format!("{method}, 8 connections, {bytes} B"),
            "/s",
            a.per_s,
            Some(b.per_s),
            per_s,
        );
        report.row(
            format!("{method}, p50"),
            "ms",
            a.p50_ms,
            Some(b.p50_ms),
            Goal::None,
        );
        report.row(
            format!("{method}, p99"),
            "ms",
            a.p99_ms,
            Some(b.p99_ms),
            p99,
        );
    }
    let texts: Vec<String> = (10..26)
        .map(|id| request(&id.to_string(), "system-presence", &json!({})))
        .collect();
    let plains: Vec<String> = texts
        .iter()
        .map(|t| order('n', presence_bytes, t.len()))
        .collect();
    let batches = size.requests / 32;
    let (a, b) = side_by_side(
        size,
        async || ws::load(ours.process.addr, &connect, 8, &texts, batches).await,
        async || ws::load(bare.addr, &bare_connect, 8, &plains, batches).await,
    )
    .await?;
    report.row(
        "system-presence, 8 connections, 16 in flight",
        "/s",
        a.per_s,
        Some(b.per_s),
        Goal::MinRatio(0.45),
    );
    // One request at a time: what else the machine does shows at once, so there are many short rounds.
    let short = Size {
        rounds: 4 * size.rounds,
        ..size
    };
    let batches = size.requests / 64;
    let (a, b) = side_by_side(
        short,
        async || ws::load(ours.process.addr, &connect, 1, &texts[..1], batches).await,
        async || ws::load(bare.addr, &bare_connect, 1, &plains[..1], batches).await,
    )
    .await?;
    report.row(
        "system-presence, 1 connection, p50",
        "ms",
        a.p50_ms,
        Some(b.p50_ms),
        Goal::MaxRatio(1.2),
    );
    Ok(())
}

/// Sends `trigger` `events` times; gives (trigger to last receipt, first receipt to last receipt) in ms, medians.
async fn fan(
    addr: std::net::SocketAddr,
    connect: &str,
    subscribe: &str,
    trigger: &str,
    subscribers: usize,
    events: usize,
) -> io::Result<(f64, f64)> {
    let local = tokio::task::LocalSet::new();
    let (sender, mut receipts) = mpsc::channel::<Instant>(subscribers * 2);
    let mut conns = ws::open_many(addr, connect, subscribers).await?;
    for conn in &mut conns {
        conn.call(subscribe).await?;
    }
    let mut source = Conn::open(addr, connect).await?;
    // What their coming sets off (presence) is over before anything is measured.
    tokio::time::sleep(Duration::from_secs(1)).await;
    for mut conn in conns {
        let sender = sender.clone();
        local.spawn_local(async move {
            while let Ok(wanted) = conn
                .message(|m| is_event(m) && contains(&m[..m.len().min(80)], b"session.message"))
                .await
            {
                if wanted && sender.send(Instant::now()).await.is_err() {
                    return;
                }
            }
        });
    }
    local
        .run_until(async move {
            let (mut whole, mut spread) = (Vec::new(), Vec::new());
            for round in 0..=events {
                let begun = Instant::now();
                source.send(&ws::frame(trigger)).await?;
                let mut times = Vec::new();
                while times.len() < subscribers {
                    let at = tokio::time::timeout(PATIENCE, receipts.recv()).await;
                    times.push(
                        at.ok()
                            .flatten()
                            .ok_or_else(|| io::Error::other("an event did not arrive"))?,
                    );
                }
                source.answer().await?;
                if round > 0 {
                    let (first, last) = (times.iter().min().unwrap(), times.iter().max().unwrap());
                    whole.push((*last - begun).as_secs_f64() * 1e3);
                    spread.push((*last - *first).as_secs_f64() * 1e3);
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Ok((median(whole), median(spread)))
        })
        .await
}

async fn fan_out(root: &Path, size: Size, report: &mut Report) -> io::Result<()> {
    let (ours, _) = Ours::start(&state_dir(root, "fan-state", BARE_CONFIG), &[]).await?;
    let bare = Process::bare("bare-ws");
    let connect = ours.connect_scoped();
    let subscribe = request(
        "2",
        "sessions.messages.subscribe",
        &json!({"key": "agent:main:fan"}),
    );
    // About 2.6 KB, the size of the event in the baseline.
    let trigger = request(
        "3",
        "chat.inject",
        &json!({"sessionKey": "agent:main:fan", "message": "x".repeat(2_200)}),
    );
    let mut one = Conn::open(ours.process.addr, &connect).await?;
    let hello = one.hello_bytes;
    one.call(&subscribe).await?;
    one.send(&ws::frame(&trigger)).await?;
    let event_bytes = loop {
        let seen = one
            .message(|m| (is_event(m) && contains(m, b"session.message")).then_some(m.len()))
            .await?;
        if let Some(bytes) = seen {
            break bytes;
        }
    };
    drop(one);
    let bare_connect = order('n', hello, connect.len());
    let bare_subscribe = order('s', 0, subscribe.len());
    let bare_trigger = order('f', event_bytes, trigger.len());
    let mut commit = (0.0, 0.0);
    for n in [1, 500, 1_000] {
        // A new bare server each time: it forgets no subscriber.
        let bare = if n == 1 {
            &bare
        } else {
            &Process::bare("bare-ws")
        };
        let a = fan(
            ours.process.addr,
            &connect,
            &subscribe,
            &trigger,
            n,
            size.events,
        )
        .await?;
        let b = fan(
            bare.addr,
            &bare_connect,
            &bare_subscribe,
            &bare_trigger,
            n,
            size.events,
        )
        .await?;
        if n == 1 {
            commit = (a.0, b.0);
            report.row(
                format!("chat.inject to 1 subscriber, {event_bytes} B (with its commit)"),
                "ms",
                a.0,
                Some(b.0),
                Goal::None,
            );
            continue;
        }
        report.row(
            format!("one event to {n} subscribers, less the time to 1"),
            "ms",
            (a.0 - commit.0).max(0.0),
            Some((b.0 - commit.1).max(0.0)),
            Goal::MaxRatio(1.15),
        );
        report.row(
            format!("  first receipt to last of {n}"),
            "ms",
            a.1,
            Some(b.1),
            Goal::None,
        );
    }
    Ok(())
}

/// One turn: from `chat.send` to the final event of its run.
async fn turn(conn: &mut Conn, session: &str, run: &str) -> io::Result<f64> {
    let text = request(
        "9",
        "chat.send",
        &json!({"sessionKey": session, "message": "how are you today?", "idempotencyKey": run}),
    );
    let run = format!("\"{run}\"");
    let begun = Instant::now();
    conn.send(&ws::frame(&text)).await?;
    loop {
        let done = conn
            .message(|m| {
                if is_event(m) {
                    Ok(contains(m, FINAL) && contains(m, run.as_bytes()))
                } else if contains(m, br#""ok":false"#) {
                    Err(io::Error::other(String::from_utf8_lossy(m).into_owned()))
                } else {
                    Ok(false)
                }
            })
            .await??;
        if done {
            return Ok(begun.elapsed().as_secs_f64() * 1e3);
        }
    }
}

async fn turns(ours: &Ours, sessions: usize, total: usize, tag: &str) -> io::Result<Rate> {
    let local = tokio::task::LocalSet::new();
    let connect = ours.connect_scoped();
    let mut conns = Vec::new();
    for i in 0..sessions {
        let key = format!("agent:main:{tag}-{i}");
        let mut conn = Conn::open(ours.process.addr, &connect).await?;
        conn.call(&request(
            "2",
            "sessions.messages.subscribe",
            &json!({"key": key}),
        ))
        .await?;
        turn(&mut conn, &key, &format!("{tag}-{i}-first")).await?;
        conns.push((conn, key));
    }
    let started = Instant::now();
    let tasks: Vec<_> = conns
        .into_iter()
        .enumerate()
        .map(|(i, (mut conn, key))| {
            let tag = tag.to_owned();
            local.spawn_local(async move {
                let mut times = Vec::new();
                for n in 0..total / sessions {
                    times.push(turn(&mut conn, &key, &format!("{tag}-{i}-{n}")).await?);
                }
                io::Result::Ok(times)
            })
        })
        .collect();
    let mut times = Vec::new();
    local
        .run_until(async {
            for task in tasks {
                times.extend(task.await.map_err(io::Error::other)??);
            }
            io::Result::Ok(())
        })
        .await?;
    Ok(ws::rate(times, started.elapsed()))
}

async fn chat(root: &Path, size: Size, commit_ms: f64, report: &mut Report) -> io::Result<()> {
    let (ours, _) = Ours::start(&state_dir(root, "chat-state", BARE_CONFIG), &[]).await?;
    let mut one = Vec::new();
    let mut many = Vec::new();
    for round in 0..=size.rounds {
        let a = turns(&ours, 1, size.turns / 16, &format!("one{round}")).await?;
        let b = turns(&ours, 32, size.turns, &format!("many{round}")).await?;
        if round > 0 {
            one.push(a);
            many.push(b);
        }
    }
    let p50 = median(one.iter().map(|r| r.p50_ms).collect());
    report.row(
        "chat.send to final, echo, 1 session, p50",
        "ms",
        p50,
        None,
        Goal::Max(1.5 + 2.0 * commit_ms),
    );
    report.row(
        "chat.send to final, p99",
        "ms",
        median(one.iter().map(|r| r.p99_ms).collect()),
        None,
        Goal::None,
    );
    report.row(
        "chat turns, 32 sessions",
        "/s",
        median(many.iter().map(|r| r.per_s).collect()),
        None,
        Goal::Min(2_000.0),
    );
    report.row(
        "chat turns, 32 sessions, p50",
        "ms",
        median(many.iter().map(|r| r.p50_ms).collect()),
        None,
        Goal::None,
    );
    Ok(())
}

async fn completions(
    root: &Path,
    size: Size,
    commit_ms: f64,
    report: &mut Report,
) -> io::Result<()> {
    let mock = Process::bare("mock-model");
    let upstream = format!("http://{}/v1", mock.addr);
    let (ours, _) = Ours::start(
        &state_dir(root, "v1-state", BARE_CONFIG),
        &["--upstream", upstream.as_str(), "--model", "mock"],
    )
    .await?;
    let bearer = format!("Bearer {}", ours.token);
    for (name, stream) in [("whole", false), ("stream", true)] {
        let body = |model: &str| {
            json!({"model": model, "stream": stream, "messages": [{"role": "user", "content": "hello"}]}).to_string()
        };
        let mut direct = Http::new(mock.addr);
        let mut through = Http::new(ours.process.addr);
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for n in 0..size.completions + 10 {
            let (bytes, ms) = through
                .post(
                    "/v1/chat/completions",
                    &[("authorization", &bearer)],
                    body("openclaw"),
                )
                .await?;
            if !contains(&bytes, b"tok19") {
                return Err(io::Error::other(format!(
                    "not the model's answer: {}",
                    String::from_utf8_lossy(&bytes)
                )));
            }
            let (_, plain_ms) = direct
                .post("/v1/chat/completions", &[], body("mock"))
                .await?;
            // The first ones warm both.
            if n >= 10 {
                a.push(ms);
                b.push(plain_ms);
            }
        }
        let (a, b) = (median(a), median(b));
        report.row(
            format!("/v1/chat/completions {name}, added p50"),
            "ms",
            a - b,
            Some(b),
            Goal::Max(1.0 + 2.0 * commit_ms),
        );
    }
    report
        .note("the bare figure of /v1 is the whole time of the model server asked directly".into());
    Ok(())
}

/// Requests a second of the open load.
const OPEN_PER_S: usize = 1_000;
/// More connections than one address may have at first before it has proved itself.
const OPEN_CONFIG: &str = r#"{ gateway: { limits: { preauthPerIp: 256 } }, agents: { default: "main", entries: { main: { backend: "echo" } } } }"#;
/// Connections that share it. A request whose turn it is takes a free one.
const OPEN_CONNS: usize = 64;

/// Sends `seconds` × [`OPEN_PER_S`] requests, each at its own time, however long those before it take. A latency counts
/// from the time at which its request was due, so that a server that stalls is charged for all that waited.
async fn open_load(
    addr: std::net::SocketAddr,
    bearer: Option<&str>,
    body: &str,
    seconds: usize,
) -> io::Result<Vec<f64>> {
    let total = seconds * OPEN_PER_S;
    let begun = Instant::now() + Duration::from_millis(20);
    let next = std::cell::Cell::new(0_usize);
    let workers = (0..OPEN_CONNS).map(|_| async {
        let mut http = Http::new(addr);
        let headers: Vec<(&str, &str)> = bearer.map(|b| ("authorization", b)).into_iter().collect();
        let mut times = Vec::new();
        loop {
            let n = next.get();
            if n >= total {
                return io::Result::Ok(times);
            }
            next.set(n + 1);
            let due = begun + Duration::from_secs_f64(n as f64 / OPEN_PER_S as f64);
            // Up to 1 ms late, the step of the runtime's timer: the same for both servers.
            tokio::time::sleep_until(due.into()).await;
            let (answer, _) = http
                .post("/v1/chat/completions", &headers, body.to_owned())
                .await?;
            times.push(due.elapsed().as_secs_f64() * 1e3);
            if !contains(&answer, b"tok19") {
                return Err(io::Error::other(format!(
                    "not the model's answer: {}",
                    String::from_utf8_lossy(&answer)
                )));
            }
        }
    });
    let mut all = Vec::with_capacity(total);
    for times in futures_util::future::join_all(workers).await {
        all.extend(times?);
    }
    Ok(all)
}

async fn completions_open(
    root: &Path,
    size: Size,
    commit_ms: f64,
    report: &mut Report,
) -> io::Result<()> {
    let mock = Process::bare("mock-model");
    let upstream = format!("http://{}/v1", mock.addr);
    let (ours, _) = Ours::start(
        &state_dir(root, "open-state", OPEN_CONFIG),
        &["--upstream", upstream.as_str(), "--model", "mock"],
    )
    .await?;
    let bearer = format!("Bearer {}", ours.token);
    let body = |model: &str| {
        json!({"model": model, "messages": [{"role": "user", "content": "hello"}]}).to_string()
    };
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for round in 0..=size.rounds {
        let through = open_load(
            ours.process.addr,
            Some(&bearer),
            &body("openclaw"),
            size.open_s,
        )
        .await?;
        let direct = open_load(mock.addr, None, &body("mock"), size.open_s).await?;
        if round > 0 {
            let seconds = Duration::from_secs_f64(size.open_s as f64);
            a.push(ws::rate(through, seconds));
            b.push(ws::rate(direct, seconds));
        }
    }
    let figure = |rates: &[Rate], of: fn(&Rate) -> f64| median(rates.iter().map(of).collect());
    report.row(
        "/v1 whole at 1,000 requests/s, added p50",
        "ms",
        figure(&a, |r| r.p50_ms) - figure(&b, |r| r.p50_ms),
        Some(figure(&b, |r| r.p50_ms)),
        Goal::None,
    );
    report.row(
        "/v1 whole at 1,000 requests/s, added p99",
        "ms",
        figure(&a, |r| r.p99_ms) - figure(&b, |r| r.p99_ms),
        Some(figure(&b, |r| r.p99_ms)),
        Goal::Max(5.0 + 2.0 * commit_ms),
    );
    // Each request has a session of its own. What was answered must be in the store, also after a kill.
    let wanted = (size.rounds + 1) * size.open_s * OPEN_PER_S;
    let state = root.join("open-state");
    drop(ours);
    let (ours, _) = Ours::start(
        &state,
        &["--upstream", upstream.as_str(), "--model", "mock"],
    )
    .await?;
    let mut conn = Conn::open(ours.process.addr, &ours.connect()).await?;
    let answer = conn
        .call(&request("7", "sessions.list", &json!({"limit": 1})))
        .await?;
    let value: Value = serde_json::from_slice(&answer).map_err(io::Error::other)?;
    let found = value["payload"]["totalCount"].as_u64().unwrap_or(0);
    if found < wanted as u64 {
        return Err(io::Error::other(format!(
            "{found} of {wanted} answered sessions are in the store after a kill"
        )));
    }
    Ok(())
}

/// Tokens of a long answer.
const LONG_TOKENS: usize = 1_020;

/// What one token of a streamed answer costs: the time of a long answer less that of a short one, for each token more;
/// and how much later a token arrives that comes alone.
async fn tokens(root: &Path, size: Size, report: &mut Report) -> io::Result<()> {
    let mut costs = Vec::new();
    for tokens in [bare::TOKENS, LONG_TOKENS] {
        let mock = Process::bare(&format!("mock-model:{tokens}:0"));
        let upstream = format!("http://{}/v1", mock.addr);
        let (ours, _) = Ours::start(
            &state_dir(root, &format!("tokens-{tokens}"), BARE_CONFIG),
            &["--upstream", upstream.as_str(), "--model", "mock"],
        )
        .await?;
        let bearer = format!("Bearer {}", ours.token);
        let (mut through, mut direct) = (Http::new(ours.process.addr), Http::new(mock.addr));
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for n in 0..size.streams + 3 {
            let body = |model: &str| {
                json!({"model": model, "stream": true, "messages": [{"role": "user", "content": "hello"}]}).to_string()
            };
            let (_, ms) = through
                .post(
                    "/v1/chat/completions",
                    &[("authorization", &bearer)],
                    body("openclaw"),
                )
                .await?;
            let (_, plain_ms) = direct
                .post("/v1/chat/completions", &[], body("mock"))
                .await?;
            if n >= 3 {
                a.push(ms);
                b.push(plain_ms);
            }
        }
        costs.push((median(a), median(b)));
    }
    let more = (LONG_TOKENS - bare::TOKENS) as f64;
    let each = |of: fn(&(f64, f64)) -> f64| (of(&costs[1]) - of(&costs[0])) / more * 1e3;
    let (ours_us, bare_us) = (each(|c| c.0), each(|c| c.1));
    report.row(
        format!("/v1 stream, added per token of {LONG_TOKENS}"),
        "us",
        ours_us - bare_us,
        Some(bare_us),
        Goal::Max(50.0),
    );
    let mock = Process::bare(&format!("mock-model:{}:2", 10 * bare::TOKENS));
    let upstream = format!("http://{}/v1", mock.addr);
    let (ours, _) = Ours::start(
        &state_dir(root, "tokens-paced", BARE_CONFIG),
        &["--upstream", upstream.as_str(), "--model", "mock"],
    )
    .await?;
    let bearer = format!("Bearer {}", ours.token);
    let (mut through, mut direct) = (Http::new(ours.process.addr), Http::new(mock.addr));
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for _ in 0..size.streams.div_ceil(10) {
        let body = |model: &str| {
            json!({"model": model, "stream": true, "messages": [{"role": "user", "content": "hello"}]}).to_string()
        };
        let headers = [("authorization", bearer.as_str())];
        a.extend(
            through
                .ages("/v1/chat/completions", &headers, body("openclaw"))
                .await?,
        );
        b.extend(
            direct
                .ages("/v1/chat/completions", &[], body("mock"))
                .await?,
        );
    }
    let (a, b) = (median(a), median(b));
    report.row(
        "  a token that comes alone (every 2 ms) arrives later by, p50",
        "us",
        (a - b) * 1e3,
        Some(b * 1e3),
        Goal::None,
    );
    Ok(())
}

async fn webhook(root: &Path, size: Size, commit_ms: f64, report: &mut Report) -> io::Result<()> {
    let (state, guests) = with_guests(root);
    let (ours, _) = Ours::start(&state, &["--wasm-dir", guests.as_str()]).await?;
    for in_flight in [1_usize, 32] {
        let mut rates = Vec::new();
        for round in 0..=size.rounds {
            let total = if in_flight == 1 {
                size.webhooks / 16
            } else {
                size.webhooks
            };
            let started = Instant::now();
            let senders = (0..in_flight).map(|i| {
                let mut http = Http::new(ours.process.addr);
                async move {
                    let mut times = Vec::new();
                    for n in 0..total / in_flight {
                        let body = json!({
                            "id": format!("m-{in_flight}-{round}-{i}-{n}"), "from": {"id": format!("u-{i}")},
                            "text": "hello", "reply": "hold",
                        });
                        let (answer, ms) = http
                            .post("/channels/webhook/default/inbound", &[("x-webhook-secret", SECRET)], body.to_string())
                            .await?;
                        if !contains(&answer, br#""reply":{"#) {
                            return Err(io::Error::other(format!("no reply: {}", String::from_utf8_lossy(&answer))));
                        }
                        times.push(ms);
                    }
                    io::Result::Ok(times)
                }
            });
            let mut times = Vec::new();
            for result in futures_util::future::join_all(senders).await {
                times.extend(result?);
            }
            let rate = ws::rate(times, started.elapsed());
            if round > 0 {
                rates.push(rate);
            }
        }
        let per_s = median(rates.iter().map(|r| r.per_s).collect());
        let p50 = median(rates.iter().map(|r| r.p50_ms).collect());
        if in_flight == 1 {
            report.row(
                "webhook to reply through the guest, 1 in flight, p50",
                "ms",
                p50,
                None,
                Goal::Max(2.0 + 2.0 * commit_ms),
            );
        } else {
            report.row(
                "webhook to reply through the guest, 32 in flight",
                "/s",
                per_s,
                None,
                Goal::Min(3_000.0),
            );
            report.row(
                "webhook to reply, 32 in flight, p50",
                "ms",
                p50,
                None,
                Goal::None,
            );
        }
    }
    Ok(())
}

/// Sends the requests, 32 in flight.
async fn pipeline(conn: &mut Conn, requests: &[String]) -> io::Result<()> {
    for batch in requests.chunks(32) {
        let bytes: Vec<u8> = batch.iter().flat_map(|r| ws::frame(r)).collect();
        conn.send(&bytes).await?;
        for _ in batch {
            let answer = conn.answer().await?;
            if contains(&answer, br#""ok":false"#) {
                return Err(io::Error::other(
                    String::from_utf8_lossy(&answer).into_owned(),
                ));
            }
        }
    }
    Ok(())
}

async fn many(root: &Path, size: Size, report: &mut Report) -> io::Result<()> {
    let (few, _) = Ours::start(&state_dir(root, "few-state", BARE_CONFIG), &[]).await?;
    let (many, _) = Ours::start(&state_dir(root, "many-state", BARE_CONFIG), &[]).await?;
    let small: usize = 10;
    for (ours, n) in [(&few, small), (&many, size.many)] {
        let mut conn = Conn::open(ours.process.addr, &ours.connect_scoped()).await?;
        let sessions: Vec<String> = (0..n)
            .map(|i| {
                request(
                    &format!("s{i}"),
                    "chat.inject",
                    &json!({"sessionKey": format!("agent:main:s{i:05}"), "message": "hello"}),
                )
            })
            .collect();
        pipeline(&mut conn, &sessions).await?;
        let messages: Vec<String> = (0..n)
            .map(|i| request(&format!("m{i}"), "chat.inject", &json!({"sessionKey": "agent:main:s00000", "message": format!("message {i:05}")})))
            .collect();
        pipeline(&mut conn, &messages).await?;
    }
    for (name, method, params) in [
        (
            "sessions.list, first page of 10",
            "sessions.list",
            json!({"limit": 10}),
        ),
        (
            "chat.history, page of 10",
            "chat.history",
            json!({"sessionKey": "agent:main:s00000", "limit": 10}),
        ),
    ] {
        let texts = vec![request("7", method, &params)];
        let (a, b) = side_by_side(
            size,
            async || {
                ws::load(
                    many.process.addr,
                    &many.connect_scoped(),
                    1,
                    &texts,
                    size.requests / 40,
                )
                .await
            },
            async || {
                ws::load(
                    few.process.addr,
                    &few.connect_scoped(),
                    1,
                    &texts,
                    size.requests / 40,
                )
                .await
            },
        )
        .await?;
        report.row(
            format!("{name}, {} beside {small} in the store, p50", size.many),
            "ms",
            a.p50_ms,
            Some(b.p50_ms),
            Goal::MaxRatio(1.2),
        );
    }
    Ok(())
}
