//! The `gateway` program. What it does is in [`cli`].

mod cli;
mod logs;
mod run_file;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    // Answers a shell that asks for completions, and does nothing otherwise.
    clap_complete::CompleteEnv::with_factory(cli::command).complete();
    cli::run(cli::Cli::parse())
}
