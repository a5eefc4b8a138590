//! Programs of this machine that the gateway runs: without a shell, with an environment that is named, for a bounded time and
//! text, and only where nobody else can change what they are.

use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Between two looks at whether it ended, in milliseconds.
const LOOK_MS: u64 = 5;

/// One run.
#[derive(Debug, Clone)]
pub struct Program {
    /// Full path.
    pub path: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its whole environment.
    pub env: Vec<(String, String)>,
    /// Time that it may take.
    pub limit: Duration,
    /// Most bytes of standard output, and of standard error.
    pub max_bytes: u64,
}

/// What came of it.
#[derive(Debug)]
pub struct Ended {
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: Vec<u8>,
    /// What it printed to standard error.
    pub stderr: Vec<u8>,
}

/// Why nothing came of it: what is wrong, and what to do. Nothing that the program printed is in it.
pub type Refusal = (String, &'static str);

impl Program {
    /// Runs it. Blocks until it ends or its time is over; then it and what it started are ended.
    ///
    /// # Errors
    /// When it cannot be trusted or started, or does not end within its bounds.
    pub fn run(&self) -> Result<Ended, Refusal> {
        let program = trusted(&self.path)?;
        let mut command = Command::new(program);
        command
            .args(&self.args)
            .env_clear()
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn().map_err(|e| {
            (
                format!("the program cannot be started ({e})"),
                "check its path and permissions",
            )
        })?;
        let ended = self.wait(&mut child);
        if ended.is_err() {
            end(&mut child);
        }
        ended
    }

    fn wait(&self, child: &mut Child) -> Result<Ended, Refusal> {
        let until = Instant::now() + self.limit;
        // Read beside the wait: a program that prints more than the pipe holds would never end.
        let stdout = self.reader(child.stdout.take())?;
        let stderr = self.reader(child.stderr.take())?;
        let left = || until.saturating_duration_since(Instant::now());
        let mut texts = Vec::with_capacity(2);
        for text in [&stdout, &stderr] {
            let text = text.recv_timeout(left()).ok().and_then(Result::ok);
            if text
                .as_ref()
                .is_some_and(|t| t.len() as u64 > self.max_bytes)
            {
                return Err((
                    format!("the program printed more than {} bytes", self.max_bytes),
                    "let it print what is wanted only",
                ));
            }
            texts.push(text);
        }
        let whole = texts.iter().all(Option::is_some);
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break Some(status),
                Ok(None) if whole && Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(LOOK_MS));
                }
                _ => break None,
            }
        };
        let Some(status) = status else {
            return Err((
                format!("the program took longer than {} ms", self.limit.as_millis()),
                "make it quicker, or allow it more time",
            ));
        };
        match (texts.pop().flatten(), texts.pop().flatten()) {
            (Some(stderr), Some(stdout)) => Ok(Ended {
                status,
                stdout,
                stderr,
            }),
            // It ended, and something that it started still holds its output.
            _ => Err((
                "the program's output has no end".to_owned(),
                "end what it started",
            )),
        }
    }

    fn reader(
        &self,
        pipe: Option<impl Read + Send + 'static>,
    ) -> Result<mpsc::Receiver<std::io::Result<Vec<u8>>>, Refusal> {
        let pipe = pipe.ok_or_else(|| ("the program has no output".to_owned(), "try again"))?;
        let (tell, heard) = mpsc::channel();
        let most = self.max_bytes + 1;
        std::thread::Builder::new()
            .name("program".to_owned())
            .spawn(move || {
                let mut bytes = Vec::new();
                let read = pipe.take(most).read_to_end(&mut bytes);
                // Nobody listens any more when the time is over.
                let _ = tell.send(read.map(|_| bytes));
            })
            .map_err(|e| (format!("no thread for the program ({e})"), "try again"))?;
        Ok(heard)
    }
}

/// The first file of this name in a list of directories as `PATH` has it; only full paths are looked at.
pub fn in_path(name: &str, path: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(path)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// Ends the program and what it started, and takes its status so that nothing is left behind.
fn end(child: &mut Child) {
    #[cfg(unix)]
    if let Ok(pid) = i32::try_from(child.id()) {
        // The group is the child's own; when it is gone already there is nothing to end.
        let _ = nix::sys::signal::killpg(
            nix::unistd::Pid::from_raw(pid),
            nix::sys::signal::Signal::SIGKILL,
        );
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// The program after all links, if nobody else can change what it is.
#[cfg(unix)]
fn trusted(program: &Path) -> Result<std::path::PathBuf, Refusal> {
    use std::os::unix::fs::MetadataExt;
    if !program.is_absolute() {
        return Err((
            "the program is not named by its full path".to_owned(),
            "write /full/path/of/program",
        ));
    }
    let real = program
        .canonicalize()
        .map_err(|e| (format!("{}: {e}", program.display()), "check the path"))?;
    let me = nix::unistd::geteuid().as_raw();
    let mut place = Some(real.as_path());
    while let Some(path) = place {
        let facts = std::fs::metadata(path)
            .map_err(|e| (format!("{}: {e}", path.display()), "check the path"))?;
        if path == real && !facts.is_file() {
            return Err((format!("{}: not a file", path.display()), "name a program"));
        }
        if facts.uid() != 0 && facts.uid() != me {
            return Err((
                format!("{} belongs to another user", path.display()),
                "let it belong to root or to the gateway's user",
            ));
        }
        // In a sticky directory (/tmp) others cannot replace what is not theirs.
        let sticky = path.is_dir() && facts.mode() & 0o1000 != 0;
        if facts.mode() & 0o022 != 0 && !sticky {
            return Err((
                format!("{} can be changed by other users", path.display()),
                "run chmod go-w on it",
            ));
        }
        place = path.parent();
    }
    Ok(real)
}

#[cfg(not(unix))]
fn trusted(_: &Path) -> Result<std::path::PathBuf, Refusal> {
    Err((
        "programs are run on Unix systems only".to_owned(),
        "leave it out here",
    ))
}
