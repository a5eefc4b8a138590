//! Measures the gateway beside bare servers, with one load generator, in one run: `cargo xtask bench [--quick] [--only PART,…]`.
//!
//! Everything is on 127.0.0.1 and every count is bounded. Prints a table and writes `bench.json` into the target directory.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../bench/bare.rs"]
mod bare;
#[path = "../bench/cases.rs"]
mod cases;
#[path = "../bench/http.rs"]
mod http;
#[path = "../bench/process.rs"]
mod process;
#[path = "../bench/report.rs"]
mod report;
#[path = "../bench/tls.rs"]
mod tls;
#[path = "../bench/ws.rs"]
mod ws;

use std::process::{Command, ExitCode};

use serde_json::json;

const HELP: &str = "\
bench [--quick] [--only PART,…]

  --quick   fewer rounds and smaller counts: shows that it works, not how fast it is
  --only    some of: start, idle, rpc, tls, fanout, chat, v1, v1-open, tokens, webhook, many

GATEWAY_BIN names the gateway (default: beside this program), GATEWAY_WASM_DIR the built guests (default: target/guests).
";
/// Set in the process that has room for many sockets.
const HAS_ROOM: &str = "GATEWAY_BENCH_FILES";
/// Open files that the largest case needs in one process, with some to spare.
const OPEN_FILES: usize = 8_192;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some(kind) = args.first()
        && (kind.starts_with("bare-ws") || kind.starts_with("mock-model"))
    {
        bare::main(kind);
        return ExitCode::SUCCESS;
    }
    let mut size = cases::Size::full();
    let mut only = None;
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        match arg.as_str() {
            "--quick" => size = cases::Size::quick(),
            "--only" => only = rest.next().cloned(),
            _ => {
                print!("{HELP}");
                return if arg == "--help" {
                    ExitCode::SUCCESS
                } else {
                    ExitCode::FAILURE
                };
            }
        }
    }
    if std::env::var_os(HAS_ROOM).is_none() {
        // The limit is raised by the shell: doing it here would need unsafe code. Children inherit it.
        let status = Command::new("sh")
            .args(["-c", &format!("ulimit -n {OPEN_FILES} 2>/dev/null || ulimit -n \"$(ulimit -Hn)\"; exec \"$0\" \"$@\"")])
            .arg(std::env::current_exe().unwrap())
            .args(&args)
            .env(HAS_ROOM, "1")
            .status();
        return if status.is_ok_and(|s| s.success()) {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
    }
    let profile = if cfg!(debug_assertions) {
        "dev"
    } else {
        "release"
    };
    let load = || {
        std::fs::read_to_string("/proc/loadavg")
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    let load_before = load();
    println!("profile {profile}, load {load_before}, {size:?}");
    // Beside the target directory, so that the commits are those of a disk and not of a tmpfs.
    let root = tempfile::tempdir_in(process::target_dir()).unwrap();
    let mut report = report::Report::default();
    report.head();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let failed = runtime.block_on(cases::all(root.path(), size, only.as_deref(), &mut report));
    let (met, missed) = report.counts();
    println!("{met} goals met, {missed} missed; load {}", load());
    if profile == "dev" {
        println!("dev profile: the figures compare two changes, the goals are for release builds");
    }
    let setting = json!({"profile": profile, "size": format!("{size:?}"), "loadBefore": load_before, "loadAfter": load()});
    let path = process::target_dir().join("bench.json");
    std::fs::write(
        &path,
        serde_json::to_vec_pretty(&report.json(setting)).unwrap(),
    )
    .unwrap();
    println!("{}", path.display());
    if !failed.is_empty() {
        eprintln!("bench: failed: {}", failed.join(", "));
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
