//! Secrets that a program prints: started without a shell, with an empty environment, for a bounded time and text.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::options::ExecOptions;
use crate::secret::Secret;
use crate::source::Env;

/// Time that a program has when the configuration says nothing, in milliseconds.
const DEFAULT_TIMEOUT_MS: u64 = 5_000;
/// Most that a program may print, in bytes.
pub(crate) const MAX_OUTPUT_BYTES: u64 = 64 * 1024;
/// Between two looks at whether it ended, in milliseconds.
const LOOK_MS: u64 = 5;

/// What is wrong, and what to do. Nothing that the program printed is in it.
type Refusal = (String, &'static str);

/// Runs the program and takes its standard output.
pub(crate) fn run(options: &ExecOptions, env: Env<'_>) -> Result<Secret, Refusal> {
    let program = options.argv.first().map(Path::new).unwrap_or(Path::new(""));
    let program = trusted(program)?;
    let mut command = Command::new(program);
    command
        .args(&options.argv[1..])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    for name in &options.env {
        if let Some(value) = env(name) {
            command.env(name, value);
        }
    }
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child = command.spawn().map_err(|e| {
        (
            format!("the program cannot be started ({e})"),
            "check its path and permissions",
        )
    })?;
    let limit = Duration::from_millis(options.timeout_ms.unwrap_or(DEFAULT_TIMEOUT_MS));
    let until = Instant::now() + limit;
    let Some(output) = child.stdout.take() else {
        return Err(("the program has no output".to_owned(), "try again"));
    };
    // Read beside the wait: a program that prints more than the pipe holds would never end.
    let (tell, heard) = std::sync::mpsc::channel();
    let reader = std::thread::Builder::new()
        .name("secret".to_owned())
        .spawn(move || {
            let mut bytes = Vec::new();
            let read = output.take(MAX_OUTPUT_BYTES + 1).read_to_end(&mut bytes);
            // Nobody listens any more when the time is over.
            let _ = tell.send(read.map(|_| bytes));
        });
    if let Err(e) = reader {
        end(&mut child);
        return Err((format!("no thread for the program ({e})"), "try again"));
    }
    let text = heard.recv_timeout(limit);
    if let Ok(Ok(bytes)) = &text
        && bytes.len() as u64 > MAX_OUTPUT_BYTES
    {
        // Nobody reads on: it would end by a signal, which says nothing.
        end(&mut child);
        return Err((
            format!("the program printed more than {MAX_OUTPUT_BYTES} bytes"),
            "let it print the secret only",
        ));
    }
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Some(status),
            Ok(None) if text.is_ok() && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(LOOK_MS));
            }
            _ => break None,
        }
    };
    let Some(status) = status else {
        end(&mut child);
        return Err((
            format!("the program took longer than {} ms", limit.as_millis()),
            "make it quicker, or raise timeoutMs",
        ));
    };
    let bytes = match text {
        Ok(Ok(bytes)) => bytes,
        _ => {
            // It ended, and something that it started still holds its output.
            end(&mut child);
            return Err((
                "the program's output has no end".to_owned(),
                "end what it started",
            ));
        }
    };
    if !status.success() {
        return Err((
            match status.code() {
                Some(code) => format!("the program ended with code {code}"),
                None => "the program was ended by a signal".to_owned(),
            },
            "run it by hand to see why",
        ));
    }
    let mut text = String::from_utf8(bytes).map_err(|_| {
        (
            "the program printed what is not UTF-8 text".to_owned(),
            "let it print the secret only",
        )
    })?;
    text.truncate(text.trim_end_matches(['\n', '\r']).len());
    Ok(Secret::new(text))
}

/// Ends the program and what it started, and takes its status so that nothing is left behind.
fn end(child: &mut std::process::Child) {
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
        "secrets from programs need a Unix system".to_owned(),
        "use a file or an environment variable",
    ))
}
