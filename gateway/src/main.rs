//! The `gateway` program. What it does is in [`cli`].

mod cli;
mod doctor;
mod logs;
mod node_host;
mod run_file;
mod systemd;
mod upgrade;

use std::process::ExitCode;

fn main() -> ExitCode {
    // Answers a shell that asks for completions, and does nothing otherwise.
    clap_complete::CompleteEnv::with_factory(cli::command).complete();
    cli::run(cli::parse())
}
