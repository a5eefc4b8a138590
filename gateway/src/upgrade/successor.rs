//! The side of the gateway that runs: it finds out whether a program can go on, starts it, and lets go, or takes back.

use std::ffi::OsString;
use std::future::Future;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use gateway_store::SchemaVersions;
use tokio::sync::mpsc;

use super::heir::{Report, Role};
use super::{
    LOOK_MS, MAX_LINE_BYTES, PREPARE_WAIT_MS, Progress, ROLE_ENV, Request, START_WAIT_MS, Stage,
    VERSION_WAIT_MS,
};

/// Why a program does not go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What happened.
    pub message: String,
    /// What to do.
    pub next: String,
}

impl Refusal {
    fn new(message: impl Into<String>, next: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            next: next.into(),
        }
    }
}

type Preparing = Pin<Box<dyn Future<Output = Result<Successor, Refusal>> + Send>>;

/// Upgrades of this process, one at a time.
pub struct Upgrades {
    state_dir: PathBuf,
    program: PathBuf,
    args: Vec<OsString>,
    running: Option<(Progress, bool, Preparing)>,
}

/// A successor that is prepared, and what is told of it.
#[derive(Debug)]
pub struct Handover {
    /// What is told.
    pub progress: Progress,
    /// The process.
    pub successor: Successor,
}

impl Upgrades {
    /// For the gateway of this state directory, as it was started.
    ///
    /// # Errors
    /// When the system does not tell which program this is.
    pub fn new(state_dir: &Path) -> std::io::Result<Self> {
        let mut args = std::env::args_os();
        // The name that it was started by may be a link that points to the newest one.
        let by_name = args.next().map(PathBuf::from).filter(|p| p.is_absolute());
        let program = match by_name {
            Some(path) => path,
            None => std::env::current_exe()?,
        };
        Ok(Self {
            state_dir: state_dir.to_owned(),
            program: stays(&program),
            args: args.collect(),
            running: None,
        })
    }

    /// Takes the request, or without one the program that this gateway was started from. `socket` is what goes over.
    pub fn begin(&mut self, socket: Option<TcpListener>) {
        let request = Request::take(&self.state_dir);
        if self.running.is_some() {
            tracing::warn!("an upgrade is under way already: this one is not taken");
            return;
        }
        let (id, program, check) = request
            .map(|r| (r.id, r.program, r.check))
            .unwrap_or_default();
        let progress = Progress {
            id,
            stage: Stage::Checking,
            program: program.unwrap_or_else(|| self.program.clone()),
            version: None,
            pid: None,
            gap_ms: None,
            message: None,
            next: None,
        };
        tracing::info!(program = %progress.program.display(), "upgrade: the program is looked at");
        progress.write(&self.state_dir);
        let (told, dir, args) = (progress.clone(), self.state_dir.clone(), self.args.clone());
        let preparing = Box::pin(prepare(told, dir, args, socket));
        self.running = Some((progress, check, preparing));
    }

    /// Starts `program`, or this one once more, in the place of this process and with the socket; returns only when that
    /// fails.
    pub fn resume(&self, program: Option<PathBuf>, socket: TcpListener) -> std::io::Error {
        if let Some(program) = program {
            return command(&program, &self.args, Role::Resume, socket).exec();
        }
        let own = Path::new("/proc/self/exe");
        // The file behind the name may be another one by now.
        let file = if own.exists() { own } else { &self.program };
        let mut command = command(file, &self.args, Role::Resume, socket);
        command.arg0(&self.program);
        command.exec()
    }

    /// Tells how far it is.
    pub fn tell(&self, progress: &Progress) {
        progress.write(&self.state_dir);
    }

    /// A successor that is prepared. Waits as long as there is none; what does not get so far is told, and nothing changes.
    /// Nothing is lost when this is dropped and called again.
    pub async fn next(&mut self) -> Handover {
        loop {
            let Some((_, _, preparing)) = &mut self.running else {
                std::future::pending::<()>().await;
                continue;
            };
            let done = preparing.as_mut().await;
            let Some((mut progress, check, _)) = self.running.take() else {
                continue;
            };
            match done {
                Ok(successor) => {
                    progress.pid = Some(successor.pid());
                    progress.version = Some(successor.version.clone());
                    if check {
                        progress.stage = Stage::Checked;
                        progress.write(&self.state_dir);
                        tracing::info!(version = successor.version, "upgrade: it would work");
                        continue;
                    }
                    return Handover {
                        progress,
                        successor,
                    };
                }
                Err(refusal) => {
                    tracing::error!(
                        why = refusal.message,
                        next = refusal.next,
                        "upgrade refused; this gateway goes on"
                    );
                    progress.stage = Stage::Refused;
                    progress.message = Some(refusal.message);
                    progress.next = Some(refusal.next);
                    progress.write(&self.state_dir);
                }
            }
        }
    }
}

/// The path of a program whose file was replaced while it runs, without what Linux adds to it.
fn stays(program: &Path) -> PathBuf {
    let text = program.to_string_lossy();
    match text.strip_suffix(" (deleted)") {
        Some(path) if !program.exists() => PathBuf::from(path),
        _ => program.to_owned(),
    }
}

/// `serve` as this gateway was started, with the socket in the place of standard input: there the program needs no number
/// that another file may have.
fn command(program: &Path, args: &[OsString], role: Role, socket: TcpListener) -> Command {
    let mut command = Command::new(program);
    command
        .args(args)
        .env("LISTEN_FDS", "1")
        .env("LISTEN_FDS_FIRST_FD", "0")
        .env(ROLE_ENV, role.text());
    for theirs in ["LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_PID"] {
        command.env_remove(theirs);
    }
    command.stdin(Stdio::from(OwnedFd::from(socket)));
    command
}

async fn prepare(
    mut progress: Progress,
    state_dir: PathBuf,
    args: Vec<OsString>,
    socket: Option<TcpListener>,
) -> Result<Successor, Refusal> {
    if std::process::id() == 1 {
        return Err(Refusal::new(
            "the gateway is process 1 of a container, which ends with it",
            "start a container of the new image; the old one drains on SIGTERM",
        ));
    }
    let Some(socket) = socket else {
        return Err(Refusal::new(
            "there is no socket to hand over",
            "stop the gateway and start the new program",
        ));
    };
    look_at(&progress.program)?;
    let program = progress.program.clone();
    let version = tokio::task::spawn_blocking(move || version_of(&program))
        .await
        .map_err(|e| Refusal::new(e.to_string(), "see the log"))??;
    let mut successor = Successor::start(&progress.program, &args, socket)?;
    progress.stage = Stage::Preparing;
    progress.version = Some(version);
    progress.pid = Some(successor.pid());
    progress.write(&state_dir);
    successor.prepared().await?;
    Ok(successor)
}

/// What can be seen of the file.
fn look_at(program: &Path) -> Result<(), Refusal> {
    let shown = program.display();
    let found = std::fs::metadata(program).map_err(|e| {
        Refusal::new(
            format!("{shown}: {e}"),
            "name the program with --binary PATH",
        )
    })?;
    let mode = found.permissions().mode();
    if !found.is_file() || mode & 0o111 == 0 {
        return Err(Refusal::new(
            format!("{shown} is no program"),
            "name the program with --binary PATH; it must be executable (chmod 755)",
        ));
    }
    if mode & 0o002 != 0 {
        return Err(Refusal::new(
            format!("{shown} can be written by every user of this machine"),
            "chmod o-w it, after a look at who did",
        ));
    }
    Ok(())
}

/// What `--version` says; a program of ours says `gateway` and the version.
fn version_of(program: &Path) -> Result<String, Refusal> {
    let shown = program.display();
    let none = |why: String| {
        Refusal::new(
            format!("{shown} --version: {why}"),
            "name a program `gateway` for this machine with --binary PATH",
        )
    };
    let mut child = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| none(e.to_string()))?;
    let begun = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if begun.elapsed() < Duration::from_millis(VERSION_WAIT_MS) => {
                std::thread::sleep(Duration::from_millis(LOOK_MS));
            }
            _ => {
                end(&mut child);
                return Err(none("no answer".to_owned()));
            }
        }
    };
    let mut said = String::new();
    if let Some(out) = child.stdout.take() {
        let _ = out.take(256).read_to_string(&mut said);
    }
    let version = said.trim().strip_prefix("gateway ").map(str::trim);
    match version {
        Some(version) if status.success() && !version.is_empty() => {
            Ok(gateway_core::logs::escape(version).into_owned())
        }
        _ => Err(none(format!("it is not this program ({status})"))),
    }
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// A program that was started to go on; ended when it is dropped, unless it was let go.
#[derive(Debug)]
pub struct Successor {
    child: Child,
    said: mpsc::Receiver<Report>,
    /// The version that it said.
    pub version: String,
    schemas: (usize, usize),
    socket: Option<TcpListener>,
    let_go: bool,
}

impl Successor {
    fn start(program: &Path, args: &[OsString], socket: TcpListener) -> Result<Self, Refusal> {
        let fails = |e: std::io::Error| {
            Refusal::new(
                format!("{} cannot be started: {e}", program.display()),
                "name a program `gateway` for this machine with --binary PATH",
            )
        };
        let theirs = socket.try_clone().map_err(fails)?;
        let mut child = command(program, args, Role::heir(), theirs)
            .stdout(Stdio::piped())
            .spawn()
            .map_err(fails)?;
        let (tell, said) = mpsc::channel(8);
        let out = child.stdout.take();
        let reader = std::thread::Builder::new()
            .name("successor".to_owned())
            .spawn(move || {
                let Some(out) = out else { return };
                let mut out = BufReader::new(out);
                let mut line = Vec::new();
                loop {
                    line.clear();
                    match out
                        .by_ref()
                        .take(MAX_LINE_BYTES)
                        .read_until(b'\n', &mut line)
                    {
                        Ok(1..) => {}
                        _ => return,
                    }
                    if let Some(report) = Report::parse(&line)
                        && tell.blocking_send(report).is_err()
                    {
                        return;
                    }
                }
            });
        if let Err(error) = reader {
            end(&mut child);
            return Err(fails(error));
        }
        Ok(Self {
            child,
            said,
            version: String::new(),
            schemas: (0, 0),
            socket: Some(socket),
            let_go: false,
        })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next thing that it says, or why it says nothing.
    async fn hears(&mut self, patience_ms: u64, wanted: &str) -> Result<Report, Refusal> {
        let patience = Duration::from_millis(patience_ms);
        match tokio::time::timeout(patience, self.said.recv()).await {
            Ok(Some(Report::Failed { message, next })) => Err(Refusal::new(message, next)),
            Ok(Some(report)) => Ok(report),
            Ok(None) => {
                // Its output is closed: it ends just now, or has something to hide.
                end_soon(&mut self.child).await;
                let how = match self.child.try_wait() {
                    Ok(Some(status)) => format!("the program ended ({status})"),
                    _ => "the program closed its output".to_owned(),
                };
                Err(Refusal::new(
                    format!("{how} before it {wanted}"),
                    "see its words in the log above, or start it by hand on a copy of the state directory",
                ))
            }
            Err(_) => Err(Refusal::new(
                format!(
                    "the program did not say within {} s that it {wanted}",
                    patience.as_secs()
                ),
                "see its words in the log above",
            )),
        }
    }

    async fn prepared(&mut self) -> Result<(), Refusal> {
        match self.hears(PREPARE_WAIT_MS, "was prepared").await? {
            Report::Prepared {
                version,
                host_schema,
                tenant_schema,
            } => {
                self.version = gateway_core::logs::escape(&version).into_owned();
                self.schemas = (host_schema, tenant_schema);
                Ok(())
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Waits until it serves.
    ///
    /// # Errors
    /// When it does not.
    pub async fn serves(&mut self) -> Result<(), Refusal> {
        match self.hears(START_WAIT_MS, "served").await? {
            Report::Serving => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Whether its start leaves stores that this program can open.
    pub fn keeps_schemas(&self) -> bool {
        let ours = SchemaVersions::ours();
        self.schemas == (ours.host, ours.tenant)
    }

    /// It goes on alone.
    pub fn let_go(&mut self) {
        self.let_go = true;
    }

    /// Ends it, and gives the socket that it had.
    pub fn take_back(mut self) -> Option<TcpListener> {
        self.socket.take()
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if !self.let_go {
            end(&mut self.child);
        }
    }
}

fn unexpected(report: &Report) -> Refusal {
    Refusal::new(
        format!("the program said {report:?} out of turn"),
        "take a program `gateway` of another version",
    )
}

/// Gives a process that closed its output some time to end by itself.
async fn end_soon(child: &mut Child) {
    for _ in 0..100 {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(LOOK_MS)).await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn program(dir: &Path, text: &str) -> PathBuf {
        let path = dir.join("program");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn only_a_program_of_ours_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let ours = program(dir.path(), "#!/bin/sh\necho gateway 9.9.9\n");
        look_at(&ours).unwrap();
        assert_eq!(version_of(&ours).unwrap(), "9.9.9");
        for text in [
            "#!/bin/sh\necho other 9.9.9\n",
            "#!/bin/sh\necho gateway 1; exit 1\n",
            "#!/bin/sh\necho gateway\n",
            "no program",
        ] {
            assert!(version_of(&program(dir.path(), text)).is_err(), "{text}");
        }
        let path = program(dir.path(), "");
        for mode in [0o644, 0o757] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert!(look_at(&path).is_err(), "{mode:o}");
        }
        assert!(look_at(dir.path()).is_err());
        assert!(look_at(&dir.path().join("missing")).is_err());
    }

    #[test]
    fn a_replaced_file_keeps_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gateway");
        let shown = PathBuf::from(format!("{} (deleted)", path.display()));
        assert_eq!(stays(&shown), path);
        assert_eq!(stays(&path), path);
    }
}
