//! The measured processes, and what the kernel says of them.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a start may take before the bench gives up.
const START_PATIENCE: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_micros(200);

/// A child process; dropped = killed.
pub struct Process {
    child: Child,
    /// Where it listens.
    pub addr: SocketAddr,
    /// When it was started.
    pub started: Instant,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn exe_dir() -> PathBuf {
    std::env::current_exe()
        .unwrap()
        .parent()
        .unwrap()
        .to_owned()
}

/// Where the JSON goes: beside the profile's directory.
pub fn target_dir() -> PathBuf {
    exe_dir().parent().unwrap().to_owned()
}

/// The gateway of the same profile, or the one named by `GATEWAY_BIN`.
pub fn gateway_bin() -> PathBuf {
    let path =
        std::env::var_os("GATEWAY_BIN").map_or_else(|| exe_dir().join("gateway"), PathBuf::from);
    assert!(
        path.exists(),
        "{} is missing: run `cargo build --release -p gateway`",
        path.display()
    );
    path
}

/// The built guests.
pub fn guests_dir() -> PathBuf {
    let path = std::env::var_os("GATEWAY_WASM_DIR")
        .map_or_else(|| target_dir().join("guests"), PathBuf::from);
    assert!(
        path.join("webhook").exists(),
        "{} has no guests: run `cargo xtask guests`",
        path.display()
    );
    path
}

impl Process {
    /// Starts the gateway and waits until it says where it listens.
    pub fn gateway(state: &Path, extra: &[&str]) -> Self {
        let run_file = state.join("run/gateway.json");
        let _ = std::fs::remove_file(&run_file);
        let log_path = state.with_extension("log");
        let log = std::fs::File::create(&log_path).unwrap();
        let started = Instant::now();
        let mut child = Command::new(gateway_bin())
            .args(["serve", "--port", "0", "--log-level", "warn", "--state-dir"])
            .arg(state)
            .args(extra)
            .env_remove("GATEWAY_TOKEN")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("start the gateway");
        loop {
            if let Some(addr) = listening(&run_file, child.id()) {
                return Self {
                    child,
                    addr,
                    started,
                };
            }
            if let Ok(Some(status)) = child.try_wait() {
                panic!(
                    "gateway ended with {status}:\n{}",
                    std::fs::read_to_string(&log_path).unwrap_or_default()
                );
            }
            assert!(
                started.elapsed() < START_PATIENCE,
                "the gateway does not listen"
            );
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Starts this program again as `kind`.
    pub fn bare(kind: &str) -> Self {
        let started = Instant::now();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg(kind)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the bare server");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        Self {
            child,
            addr: line.trim().parse().unwrap(),
            started,
        }
    }

    /// Resident memory in KiB.
    pub fn rss_kib(&self) -> f64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = text.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// CPU time of its threads since the start in seconds, as the scheduler counts it (nanoseconds). The time of a thread
    /// that has ended is not in it.
    pub fn cpu_s(&self) -> f64 {
        std::fs::read_dir(format!("/proc/{}/task", self.child.id()))
            .unwrap()
            .filter_map(|task| {
                let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
                text.split_whitespace().next()?.parse::<f64>().ok()
            })
            .sum::<f64>()
            / 1e9
    }

    /// Asks it to end and waits.
    pub fn stop(mut self) {
        let _ = Command::new("kill")
            .args(["-TERM", &self.child.id().to_string()])
            .status();
        let asked = Instant::now();
        while asked.elapsed() < Duration::from_secs(15) {
            if let Ok(Some(_)) = self.child.try_wait() {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn listening(path: &Path, pid: u32) -> Option<SocketAddr> {
    let value: serde_json::Value = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    (value["pid"].as_u64()? == u64::from(pid)).then(|| value["address"].as_str()?.parse().ok())?
}
