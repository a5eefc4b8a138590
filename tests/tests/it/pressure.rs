//! What runs out: file descriptors, room on the disk, memory.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use gateway_tests::process::{Gateway, guests_dir};
use gateway_tests::ws::Ws;
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};

use crate::trace::post;

/// What a process has used of the processors, in clock ticks.
fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after_name = stat.rsplit_once(')').unwrap().1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    // utime and stime are fields 14 and 15 of the line; two stand before the bracket closes.
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

fn open_descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .count()
}

/// The numbers of the open descriptors, and the highest of those that are kept as spare ones.
fn numbers(pid: u32) -> (BTreeSet<usize>, usize) {
    let dir = std::path::PathBuf::from(format!("/proc/{pid}/fd"));
    let numbers: BTreeSet<usize> = std::fs::read_dir(&dir)
        .unwrap()
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .collect();
    let is_spare = |n: &usize| {
        std::fs::read_link(dir.join(n.to_string())).is_ok_and(|to| to == Path::new("/dev/null"))
    };
    let spare = numbers.iter().copied().filter(is_spare).max();
    (numbers, spare.unwrap())
}

fn limit_descriptors(pid: u32, soft: usize) {
    let status = Command::new("prlimit")
        .args(["--pid", &pid.to_string(), &format!("--nofile={soft}:")])
        .status()
        .unwrap();
    assert!(status.success());
}

/// Connections from many addresses of this machine that never say a word.
async fn flood(port: u16, count: u8) -> Vec<TcpStream> {
    let mut open = Vec::new();
    for n in 0..count {
        let socket = TcpSocket::new_v4().unwrap();
        let from = Ipv4Addr::new(127, 1, 0, 1 + n % 200);
        socket.bind((from, 0).into()).unwrap();
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        open.push(socket.connect(to).await.unwrap());
    }
    open
}

/// How many of a crowd of strangers are told to come later.
async fn refused(port: u16) -> usize {
    let mut refused = 0;
    for mut one in flood(port, 12).await {
        let mut answer = [0_u8; 12];
        let look = tokio::io::AsyncReadExt::read_exact(&mut one, &mut answer);
        let came = tokio::time::timeout(Duration::from_millis(300), look).await;
        refused += usize::from(came.is_ok_and(|r| r.is_ok()) && answer == *b"HTTP/1.1 503");
    }
    refused
}

async fn turn(ws: &mut Ws, id: &str) {
    let p = json!({"sessionKey": "main", "message": format!("hello {id}"), "idempotencyKey": id});
    ws.call("chat.send", p).await.unwrap();
    let p = json!({"runId": id, "timeoutMs": 60_000});
    let ended = ws.call("agent.wait", p).await.unwrap();
    assert_eq!(ended["status"], "ok", "{ended}");
}

/// 256 descriptors, and more strangers than that: the databases and the connections that are there go on, and the program does
/// not turn in a circle. Then there is not a single descriptor left: whoever comes is refused in words, and everything is as
/// before when there are some again.
/// Covers: F27.
#[tokio::test(flavor = "multi_thread")]
async fn descriptors_run_out_and_nobody_inside_notices() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start_limited(&dir.path().join("state"), 256);
    let (port, pid) = (gateway.port, gateway.pid());
    let mut ws = Ws::connect(port, "/", &gateway.token()).await.unwrap();
    turn(&mut ws, "before").await;

    let quiet = open_descriptors(pid);
    let strangers = flood(port, 250).await;
    turn(&mut ws, "among-strangers").await;
    assert!(
        open_descriptors(pid) < 256 - 32,
        "{}",
        open_descriptors(pid)
    );
    drop(strangers);
    let mut looks = 0;
    while open_descriptors(pid) > quiet {
        looks += 1;
        assert!(looks < 600, "{} are open", open_descriptors(pid));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    // The system limits numbers and not their count: those below the limit are taken, and the spare one is among them.
    let (open, spare) = numbers(pid);
    let limit = (0..).find(|n| *n > spare && !open.contains(n)).unwrap();
    let mut fill = Vec::new();
    for _ in (0..limit).filter(|n| !open.contains(n)) {
        fill.push(Ws::connect(port, "/", &gateway.token()).await.unwrap());
    }
    limit_descriptors(pid, limit);
    // From then on one that waits is refused; the rest of the time the loop sleeps.
    let (ticks, looked) = (cpu_ticks(pid), std::time::Instant::now());
    let (refused, taken) = tokio::task::spawn_blocking(move || {
        let (mut refused, mut taken) = (0, Vec::new());
        while looked.elapsed() < Duration::from_secs(3) {
            let mut socket = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
            socket
                .set_read_timeout(Some(Duration::from_secs(20)))
                .unwrap();
            let _ = socket.write_all(b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n");
            let mut answer = [0_u8; 12];
            match socket.read_exact(&mut answer).map(|()| answer) {
                Ok(answer) if answer == *b"HTTP/1.1 503" => refused += 1,
                Ok(_) => taken.push(socket),
                Err(_) => {}
            }
        }
        (refused, taken)
    })
    .await
    .unwrap();
    let seconds = looked.elapsed().as_secs_f64();
    #[allow(clippy::cast_precision_loss)]
    let share = (cpu_ticks(pid) - ticks) as f64 / 100.0 / seconds;
    assert!(refused > 0, "nobody was refused in words");
    // Fewer than one address may hold: it was not that limit that refused.
    assert!(taken.len() < 16, "{} were taken", taken.len());
    assert!(share < 0.2, "{share:.2} of a processor for refusing");
    turn(&mut ws, "without-descriptors").await;
    drop((taken, fill));

    limit_descriptors(pid, 256);
    let mut again = Ws::connect(port, "/", &gateway.token()).await.unwrap();
    turn(&mut again, "after").await;
    println!("{refused} refused, {share:.3} of a processor");
}

/// Fills a file until there is no room.
fn fill(path: &std::path::Path) {
    let mut file = std::fs::File::create(path).unwrap();
    let zeros = vec![0_u8; 64 * 1024];
    // The last bytes too: a page that is left over is room for a commit.
    for piece in [zeros.len(), 4096, 512, 1] {
        while file.write_all(&zeros[..piece]).is_ok() {}
    }
}

/// A disk without room: what writes is refused and nothing of it is there, what reads goes on, a webhook's sender is told to come
/// again, the configuration stays what it was, and a run that was going on ends with its answer told. When there is room, all of
/// it works again without anybody's help, the answer of that run is in its transcript, and the sender's second try arrives once.
/// Covers: F3.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_what_is_new_and_heals_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    std::fs::create_dir(&state).unwrap();
    let wasm = guests_dir();
    let flags = ["--wasm-dir", wasm.to_str().unwrap()];
    let Some(gateway) = Gateway::start_on_small_disk(&state, 48, &flags) else {
        return;
    };
    let state = gateway.state.clone();
    let secret =
        std::fs::read_to_string(state.join("secrets/main/webhook-default-signing")).unwrap();
    let secret = [("x-webhook-secret", secret.trim())];
    let inbound = |id: &str| {
        let body =
            json!({"id": id, "from": {"id": "una"}, "text": "from outside", "reply": "hold"});
        async move {
            post(
                gateway.port,
                "/channels/webhook/default/inbound",
                &secret,
                &body,
            )
            .await
        }
    };
    assert_eq!(inbound("m1").await.0, 200);
    let (ok, listed, _) = gateway.cli(&["pairing", "list", "--json"]);
    assert!(ok, "{listed}");
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let code = listed["requests"][0]["requestId"].as_str().unwrap();
    assert!(gateway.cli(&["pairing", "approve", code]).0);
    let mut ws = Ws::connect(gateway.port, "/", &gateway.token())
        .await
        .unwrap();
    turn(&mut ws, "before").await;
    let talked = |shown: &Value| {
        let of = |role: &str| {
            let all = shown["messages"].as_array().unwrap();
            all.iter().filter(|m| m["role"] == role).count()
        };
        (of("user"), of("assistant"))
    };
    let history = json!({"sessionKey": "main", "limit": 1_000});
    let (asked, answered) = talked(&ws.call("chat.history", history.clone()).await.unwrap());
    // The boot script's greeting is an answer that nobody asked for.
    let greetings = answered - asked;
    let config = std::fs::read_to_string(state.join("gateway.json5")).unwrap();

    let filler = state.join("filler");
    fill(&filler);
    // What room the log had is used up first.
    let mut accepted = 0;
    let refusal = loop {
        let p = json!({"sessionKey": "main", "message": "x".repeat(2_000), "idempotencyKey": format!("full-{accepted}")});
        match ws.call("chat.send", p).await {
            Ok(_) => accepted += 1,
            Err(error) => break error,
        }
        assert!(accepted < 20_000, "the disk is not full");
    };
    assert_eq!(refusal["code"], "UNAVAILABLE", "{refusal}");
    assert_eq!(refusal["retryable"], true, "{refusal}");
    assert_eq!(refusal["details"]["code"], "STORAGE_FULL", "{refusal}");
    assert_eq!(inbound("m2").await.0, 503);
    let shown = ws
        .call("chat.history", json!({"sessionKey": "main"}))
        .await
        .unwrap();
    assert!(!shown["messages"].as_array().unwrap().is_empty());
    ws.call("health", json!({})).await.unwrap();
    ws.call("status", json!({})).await.unwrap();
    let (ok, _, error) = gateway.cli(&["config", "set", "logging.level", "debug"]);
    assert!(
        !ok && (error.contains("full") || error.contains("space")),
        "{error}"
    );
    assert_eq!(
        std::fs::read_to_string(state.join("gateway.json5")).unwrap(),
        config
    );
    // Nothing half is left lying about.
    let beside = std::fs::read_dir(&state).unwrap();
    let temps = beside.filter(|e| {
        let name = e.as_ref().unwrap().file_name();
        name.to_string_lossy().contains(".tmp")
    });
    assert_eq!(temps.count(), 0);

    std::fs::remove_file(&filler).unwrap();
    let mut tries = 0;
    while inbound("m2").await.0 != 200 {
        tries += 1;
        assert!(tries < 100, "there is room, and it is not seen");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    turn(&mut ws, "after").await;
    // Every message that was accepted has its answer, those too whose end met the full disk.
    let mut looks = 0;
    loop {
        let shown = ws.call("chat.history", history.clone()).await.unwrap();
        let (asked, answered) = talked(&shown);
        if asked + greetings == answered {
            break;
        }
        looks += 1;
        assert!(looks < 300, "{asked} asked, {answered} answered");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(gateway.cli(&["config", "set", "logging.level", "debug"]).0);
    println!(
        "{accepted} accepted on the room that the log had, {tries} tries after it was there again"
    );
}

/// Clients that do not read what waits for them make the process reach its limit of memory. They are cut off, whoever comes is told
/// to come later, and a conversation goes on. With a higher limit, set while it runs, everybody is let in again.
/// Covers: F28.
#[tokio::test(flavor = "multi_thread")]
async fn short_of_memory_those_who_do_not_read_go_first() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let gateway = Gateway::start(&state, &[]);
    let (port, token) = (gateway.port, gateway.token());
    // It does not hear of sessions that it did not subscribe to: between its calls it does not read.
    let params = json!({
        "minProtocol": 4, "maxProtocol": 4,
        "client": {"id": "cli", "version": "1.0.0", "platform": "linux", "mode": "cli"},
        "role": "operator", "scopes": ["operator.admin", "operator.read", "operator.write"],
        "caps": ["session-scoped-events"], "auth": {"token": token},
    });
    let mut ws = Ws::connect_with(port, "/", params).await.unwrap();
    turn(&mut ws, "before").await;
    let mut lazy = Vec::new();
    for _ in 0..4 {
        let mut one = Ws::connect(port, "/", &token).await.unwrap();
        one.call("sessions.subscribe", json!({})).await.unwrap();
        lazy.push(one);
    }
    let limit = |mb: &str| gateway.cli(&["config", "set", "gateway.limits.memoryMb", mb]);
    assert!(limit("40").0);
    let mut sent = 0;
    loop {
        let text = format!("{sent} {}", "x".repeat(120_000));
        let p =
            json!({"sessionKey": "big", "message": text, "idempotencyKey": format!("big-{sent}")});
        ws.call("chat.send", p).await.unwrap();
        let p = json!({"runId": format!("big-{sent}"), "timeoutMs": 60_000});
        ws.call("agent.wait", p).await.unwrap();
        sent += 1;
        if sent % 20 == 0 && refused(port).await > 0 {
            break;
        }
        assert!(sent < 600, "the limit was not felt");
    }
    // Those who did not read are gone.
    for mut one in lazy {
        let mut looks = 0;
        while one.frame().await.is_some() {
            looks += 1;
            assert!(looks < 100_000, "still connected");
        }
    }
    turn(&mut ws, "in-need").await;

    assert!(limit("4096").0);
    let mut looks = 0;
    while refused(port).await > 0 {
        looks += 1;
        assert!(looks < 100, "there is room, and it is not seen");
    }
    let mut again = Ws::connect(port, "/", &token).await.unwrap();
    turn(&mut again, "after").await;
    println!("felt after {sent} messages of 120 kB");
}

/// A control group of this test, removed at its end.
struct Group {
    dir: std::path::PathBuf,
    limit: &'static str,
    used: &'static str,
    inactive: &'static str,
}

impl Group {
    /// `None`, said loudly, where none with a limit of memory can be made.
    fn new(limit: u64) -> Option<Self> {
        let name = format!("gateway-test-{}", std::process::id());
        let kinds = [
            ("", "memory.max", "memory.current", "inactive_file "),
            (
                "memory",
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                "total_inactive_file ",
            ),
        ];
        for (base, limit_file, used, inactive) in kinds {
            let base = std::path::Path::new("/sys/fs/cgroup").join(base);
            // Only in what is a mount of control groups: elsewhere this would be any folder.
            if !base.join("cgroup.procs").exists() {
                continue;
            }
            let group = Self {
                dir: base.join(&name),
                limit: limit_file,
                used,
                inactive,
            };
            if std::fs::create_dir(&group.dir).is_ok() && group.set(limit) {
                return Some(group);
            }
        }
        eprintln!("!!! LEFT OUT: this user may not make control groups with a limit of memory");
        None
    }

    fn set(&self, limit: u64) -> bool {
        std::fs::write(self.dir.join(self.limit), limit.to_string()).is_ok()
    }

    fn used(&self) -> u64 {
        let read = |file: &str| std::fs::read_to_string(self.dir.join(file)).unwrap();
        let inactive = read("memory.stat")
            .lines()
            .find_map(|line| line.strip_prefix(self.inactive)?.parse::<u64>().ok())
            .unwrap();
        read(self.used).trim().parse::<u64>().unwrap() - inactive
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The last process may just be leaving.
        for _ in 0..100 {
            if std::fs::remove_dir(&self.dir).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// 200 MB in a control group.
struct Ballast(std::process::Child);

impl Ballast {
    fn new(group: &Group) -> Self {
        use std::os::unix::process::CommandExt;
        // A line that does not end is kept whole.
        let hold = "echo $$ > \"$0\"; (head -c 200000000 /dev/zero; sleep 300) | tail";
        let child = std::process::Command::new("sh")
            .args(["-c", hold])
            .arg(group.dir.join("cgroup.procs"))
            .stdout(std::process::Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let began = std::time::Instant::now();
        while group.used() < 200_000_000 {
            assert!(
                began.elapsed() < Duration::from_secs(60),
                "{} bytes",
                group.used()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Self(child)
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        let group = format!("-{}", self.0.id());
        let _ = std::process::Command::new("kill")
            .args(["-KILL", "--", &group])
            .status();
        let _ = self.0.wait();
    }
}

/// The limit of the control group that the process really is in is felt, without a word in the configuration.
/// Covers: F28.
#[tokio::test(flavor = "multi_thread")]
async fn the_limit_of_a_control_group_is_felt() {
    let Some(group) = Group::new(512 * 1024 * 1024) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let gateway = Gateway::start_in_group(&state, &group.dir);
    let mut ws = Ws::connect(gateway.port, "/", &gateway.token())
        .await
        .unwrap();
    turn(&mut ws, "before").await;
    assert_eq!(refused(gateway.port).await, 0);
    // Somebody else in the group holds most of it, so that there is room for the work itself.
    let ballast = Ballast::new(&group);
    // Nine tenths of what it may hold.
    let limit = group.used() * 100 / 90;
    assert!(group.set(limit));
    let began = std::time::Instant::now();
    while refused(gateway.port).await == 0 {
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "the limit of {limit} bytes is not felt"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    turn(&mut ws, "in-need").await;
    assert!(group.set(512 * 1024 * 1024));
    while refused(gateway.port).await > 0 {
        assert!(
            began.elapsed() < Duration::from_secs(120),
            "there is room, and it is not seen"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    turn(&mut ws, "after").await;
    assert!(gateway.stop().success());
    drop(ballast);
}
