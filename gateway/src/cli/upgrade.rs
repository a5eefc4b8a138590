//! `gateway upgrade`: another program takes the place of the running gateway.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gateway_store::StateDir;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::Global;
use super::output::{Exit, Failure, clean, print, text};
use crate::run_file::RunFile;
use crate::upgrade::{Progress, Request, Stage};

/// How long the gateway may take to see the signal.
const SEEN_WITHIN: Duration = Duration::from_secs(10);
/// How long there may be no gateway.
const GONE_AFTER: Duration = Duration::from_secs(60);
/// How long a gateway that is replaced may still say so itself.
const SILENT: Duration = Duration::from_secs(2);
/// How long one stage may take; runs that end are in it.
const STAGE_WITHIN: Duration = Duration::from_secs(1_800);
/// Pause between two looks at what the gateway says.
const LOOK: Duration = Duration::from_millis(20);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The program to go on with [default: the file that the running gateway was started from, as it is now].
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
    /// Only find out whether it would work: the program is started, gets ready and is ended.
    #[arg(long)]
    check: bool,
}

pub fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let elsewhere =
        global.url.is_some() || std::env::var_os("GATEWAY_URL").is_some_and(|v| !v.is_empty());
    if elsewhere {
        return Err(Failure::new(
            Exit::Usage,
            "a gateway is upgraded on its own machine, beside its state directory",
            "leave --url out (and GATEWAY_URL unset), and run it there",
        ));
    }
    let state_dir = std::path::absolute(global.state_dir()?)?;
    let running = running(&state_dir)?;
    let program = args.binary.map(std::path::absolute).transpose()?;
    let mut id = [0u8; 16];
    getrandom::fill(&mut id)
        .map_err(|e| Failure::new(Exit::Failure, format!("no randomness: {e}"), "try again"))?;
    let request = Request {
        id: id.iter().map(|b| format!("{b:02x}")).collect(),
        program,
        check: args.check,
    };
    request.write(&state_dir)?;
    let pid = i32::try_from(running.pid).unwrap_or(i32::MAX);
    if let Err(error) = kill(Pid::from_raw(pid), Signal::SIGUSR2) {
        Request::withdraw(&state_dir);
        return Err(Failure::new(
            Exit::Failure,
            format!("process {pid} cannot be told: {error}"),
            if error == Errno::EPERM {
                "run it as the user of the gateway, or as root"
            } else {
                "`gateway status` says whether it runs"
            },
        ));
    }
    let last = follow(&state_dir, &request.id, &running)?;
    let told = json!({
        "stage": last.stage, "program": last.program, "version": last.version, "pid": last.pid,
        "gapMs": last.gap_ms, "versionBefore": running.version, "pidBefore": running.pid,
    });
    match last.stage {
        Stage::Checked => print(global.json, &told, |told| {
            format!(
                "checked  {} would go on after {}: configuration, stores and guests are fit\nnext: gateway upgrade{}",
                text(told, "version"),
                clean(&running.version),
                request
                    .program
                    .map(|p| format!(" --binary {}", clean(&p.display().to_string())))
                    .unwrap_or_default(),
            )
        }),
        Stage::Done => print(global.json, &told, |told| {
            let gap = told["gapMs"].as_u64().unwrap_or_default();
            format!(
                "upgraded {} to {} (process {}); connections waited {gap} ms\nnext: gateway status",
                clean(&running.version),
                text(told, "version"),
                told["pid"].as_u64().unwrap_or_default(),
            )
        }),
        _ => Err(Failure {
            error: Some(Box::new(told)),
            ..refused(&last)
        }),
    }
}

/// The gateway that holds the state directory. A signal must reach no other process.
fn running(state_dir: &Path) -> Result<RunFile, Failure> {
    let none = || {
        Failure::new(
            Exit::Connect,
            format!(
                "no gateway runs on {}",
                clean(&state_dir.display().to_string())
            ),
            "start the new program: `gateway serve`; another state directory is named with --state-dir",
        )
    };
    let holder = StateDir::holder(state_dir)
        .map_err(|e| Failure::new(Exit::Failure, e.to_string(), "is this its user?"))?
        .ok_or_else(none)?;
    let running = RunFile::of_running(state_dir)
        .filter(|run| run.pid == holder)
        .ok_or_else(|| {
            Failure::new(
                Exit::Failure,
                format!("process {holder} holds the state directory and does not serve yet"),
                "try again when `gateway health` answers",
            )
        })?;
    if running.hands_over {
        return Ok(running);
    }
    Err(Failure::new(
        Exit::Failure,
        format!(
            "the running gateway ({}) cannot hand its socket over",
            clean(&running.version)
        ),
        "stop it and start the new program; from then on it can",
    ))
}

/// Waits for the end of the upgrade.
fn follow(state_dir: &Path, id: &str, before: &RunFile) -> Result<Progress, Failure> {
    let mut stage = None;
    let mut since = Instant::now();
    loop {
        let runs = RunFile::of_running(state_dir);
        let told = Progress::read(state_dir).filter(|p| p.id == id);
        if let Some(progress) = &told {
            if progress.stage.is_last() {
                return Ok(progress.clone());
            }
            // The gateway before was killed in the middle, and the program went on.
            if let Some(runs) = runs.as_ref().filter(|r| Some(r.pid) == progress.pid)
                && runs.pid != before.pid
                && since.elapsed() > SILENT
            {
                return Ok(Progress {
                    stage: Stage::Done,
                    version: Some(runs.version.clone()),
                    ..progress.clone()
                });
            }
        }
        let now = told.map(|p| p.stage);
        if now != stage {
            (stage, since) = (now, Instant::now());
        }
        let patience = match (stage, &runs) {
            (None, Some(_)) => SEEN_WITHIN,
            (_, None) => GONE_AFTER,
            _ => STAGE_WITHIN,
        };
        if since.elapsed() > patience {
            Request::withdraw(state_dir);
            return Err(match (stage, runs) {
                (_, None) => Failure::new(
                    Exit::Connect,
                    "the gateway ended during the upgrade, and none runs",
                    "start it: `gateway serve`; what was accepted is not lost",
                ),
                (None, _) => Failure::new(
                    Exit::Failure,
                    "the gateway did not take the request: another upgrade is under way, or it hangs",
                    "see its log; try again later",
                ),
                _ => Failure::new(
                    Exit::Failure,
                    "the upgrade does not come to an end",
                    "see the log of the gateway; `gateway status` says which version runs",
                ),
            });
        }
        std::thread::sleep(LOOK);
    }
}

fn refused(last: &Progress) -> Failure {
    let why = last.message.clone().unwrap_or_default();
    let next = last.next.clone().unwrap_or_default();
    let what = match last.stage {
        Stage::RolledBack => "rolled back",
        _ => "not upgraded, the gateway goes on as before",
    };
    Failure::new(Exit::Failure, format!("{what}: {}", clean(&why)), next)
}
