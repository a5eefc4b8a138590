//! The real binary as a child process.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a start may take before the harness gives up; not a performance statement.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// `target/<profile>/`, derived from where the running test stands.
#[must_use]
pub fn target_dir() -> PathBuf {
    let exe = std::env::current_exe().expect("path of the test");
    exe.parent()
        .and_then(Path::parent)
        .expect("target/<profile>/deps/<test>")
        .to_owned()
}

/// The gateway binary of the same profile as the test.
///
/// # Panics
/// When it was not built: `cargo build -p gateway` makes it.
#[must_use]
pub fn gateway_bin() -> PathBuf {
    let path = target_dir().join("gateway");
    assert!(
        path.exists(),
        "{} is missing: run `cargo build -p gateway` first",
        path.display()
    );
    path
}

/// `target/guests/`, where `cargo xtask guests` puts the built guests.
///
/// # Panics
/// When the guests were not built.
#[must_use]
pub fn guests_dir() -> PathBuf {
    let path = target_dir().parent().expect("target/").join("guests");
    assert!(
        path.join("webhook").exists(),
        "{} has no guests: run `cargo xtask guests` first",
        path.display()
    );
    path
}

/// A running gateway; dropped = killed.
pub struct Gateway {
    child: Child,
    /// Port that it listens on.
    pub port: u16,
    /// State directory.
    pub state: PathBuf,
    /// What it prints to stderr.
    pub log: PathBuf,
    /// Whether it speaks TLS.
    pub tls: bool,
}

impl Gateway {
    /// Starts `gateway serve` on `state` with more arguments and waits until it is ready.
    ///
    /// # Panics
    /// When it ends or does not become ready; the text of its log is in the message.
    pub fn start(state: &Path, extra: &[&str]) -> Self {
        Self::start_env(state, extra, &[])
    }

    /// The same with more environment variables.
    ///
    /// # Panics
    /// As [`Gateway::start`].
    pub fn start_env(state: &Path, extra: &[&str], env: &[(&str, &str)]) -> Self {
        // Suites that kill what they start would look like a crash loop.
        Self::start_plain(state, &[&["--no-safe-mode"], extra].concat(), env)
    }

    /// The same as users start it: a crash loop leads to safe mode.
    ///
    /// # Panics
    /// As [`Gateway::start`].
    pub fn start_plain(state: &Path, extra: &[&str], env: &[(&str, &str)]) -> Self {
        let mut program = Command::new(gateway_bin());
        program.envs(env.iter().copied());
        Self::start_program(program, state, extra, false)
    }

    /// The same with at most so many open files.
    ///
    /// # Panics
    /// As [`Gateway::start`].
    pub fn start_limited(state: &Path, files: usize) -> Self {
        let mut program = Command::new("prlimit");
        program
            .arg(format!("--nofile={files}:{files}"))
            .arg("--")
            .arg(gateway_bin());
        Self::start_program(program, state, &[], false)
    }

    /// The same as a member of this control group.
    ///
    /// # Panics
    /// As [`Gateway::start`].
    pub fn start_in_group(state: &Path, group: &Path) -> Self {
        let mut program = Command::new("sh");
        program
            .args(["-c", "echo $$ > \"$0\" && exec \"$@\""])
            .arg(group.join("cgroup.procs"))
            .arg(gateway_bin());
        Self::start_program(program, state, &[], false)
    }

    /// The same on a file system of its own that holds `mib` MiB; `state` has to exist. `None`, said loudly, where this user may
    /// not mount one.
    ///
    /// # Panics
    /// As [`Gateway::start`].
    pub fn start_on_small_disk(state: &Path, mib: u32, extra: &[&str]) -> Option<Self> {
        // Only inside of a namespace that ends with its process.
        let namespace = |script: &str| {
            let mut command = Command::new("unshare");
            let own_root = std::fs::metadata("/proc/self").is_ok_and(|m| {
                use std::os::unix::fs::MetadataExt;
                m.uid() != 0
            });
            command.arg(if own_root { "-rm" } else { "-m" });
            command.args(["sh", "-c", script]);
            command
        };
        let mount = format!("mount -t tmpfs -o size={mib}m tmpfs \"$0\"");
        if !namespace(&mount)
            .arg(state)
            .status()
            .is_ok_and(|s| s.success())
        {
            eprintln!("!!! LEFT OUT: this user may not mount a file system of its own");
            return None;
        }
        let mut program = namespace(&format!("{mount} && exec \"$@\""));
        program.arg(state).arg(gateway_bin());
        Some(Self::start_program(program, state, extra, true))
    }

    fn start_program(mut program: Command, state: &Path, extra: &[&str], own_mounts: bool) -> Self {
        let _ = std::fs::remove_file(state.join("run").join("gateway.json"));
        std::fs::create_dir_all(state.parent().expect("state has a parent")).unwrap();
        let log = state.with_extension("log");
        let sink = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap();
        let mut child = program
            .args(["serve", "--state-dir"])
            .arg(state)
            .args(["--port", "0"])
            .args(extra)
            .env_remove("GATEWAY_TOKEN")
            .stdin(Stdio::null())
            .stdout(sink.try_clone().unwrap())
            .stderr(sink)
            .spawn()
            .expect("start the gateway");
        let started = Instant::now();
        let state = if own_mounts {
            // As the process sees it, for as long as it lives.
            Path::new("/proc")
                .join(child.id().to_string())
                .join("root")
                .join(state.strip_prefix("/").expect("an absolute path"))
        } else {
            state.to_owned()
        };
        let port_file = state.join("run").join("gateway.json");
        loop {
            if let Ok(Some(status)) = child.try_wait() {
                panic!("gateway ended at start with {status}:\n{}", read_tail(&log));
            }
            if let Some((port, tls)) = read_port(&port_file, child.id())
                // Clients wait for a gateway that starts; only plain HTTP is probed from here.
                .filter(|(port, tls)| *tls || ready(*port))
            {
                return Self {
                    child,
                    port,
                    state,
                    log,
                    tls,
                };
            }
            assert!(
                started.elapsed() < START_PATIENCE,
                "gateway is not ready:\n{}",
                read_tail(&log)
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal (`TERM`, `KILL`, …).
    pub fn signal(&self, name: &str) {
        let _ = Command::new("kill")
            .args([&format!("-{name}"), &self.child.id().to_string()])
            .status();
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not end.
    pub fn ended(&mut self) -> std::process::ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(
                started.elapsed() < START_PATIENCE,
                "gateway does not end:\n{}",
                read_tail(&self.log)
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends it without any chance to clean up.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to stop (SIGTERM) and waits.
    pub fn stop(mut self) -> std::process::ExitStatus {
        self.signal("TERM");
        self.ended()
    }

    /// The token of tenant `main`.
    #[must_use]
    pub fn token(&self) -> String {
        std::fs::read_to_string(self.state.join("secrets/main/gateway-token"))
            .unwrap()
            .trim()
            .to_owned()
    }

    /// `http(s)://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// Runs a CLI verb against it and returns (success, stdout, stderr).
    pub fn cli(&self, args: &[&str]) -> (bool, String, String) {
        let output = Command::new(gateway_bin())
            .args(args)
            .arg("--state-dir")
            .arg(&self.state)
            .env_remove("GATEWAY_TOKEN")
            .output()
            .expect("run the CLI");
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_port(path: &Path, pid: u32) -> Option<(u16, bool)> {
    let text = std::fs::read_to_string(path).ok()?;
    let value: serde_json::Value = serde_json::from_str(&text).ok()?;
    let port = u16::try_from(value["port"].as_u64()?).ok()?;
    let tls = value["url"].as_str()?.starts_with("https:");
    (value["pid"].as_u64()? == u64::from(pid)).then_some((port, tls))
}

fn ready(port: u16) -> bool {
    use std::io::{Read, Write};
    let Ok(mut socket) = std::net::TcpStream::connect(("127.0.0.1", port)) else {
        return false;
    };
    let _ = socket.set_read_timeout(Some(Duration::from_secs(2)));
    let request =
        format!("GET /readyz HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n\r\n");
    if socket.write_all(request.as_bytes()).is_err() {
        return false;
    }
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    answer.starts_with(b"HTTP/1.1 200")
}

fn read_tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let start = text.len().saturating_sub(6000);
    text.get(start..).unwrap_or(&text).to_owned()
}
