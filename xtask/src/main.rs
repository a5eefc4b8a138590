//! Set-up, build, test and bench commands of the project: `cargo xtask help`.

mod guests;
mod serve;
mod sh;
mod tools;
mod ui;

use std::process::ExitCode;

const HELP: &str = "\
cargo xtask COMMAND

  serve [args]        build the gateway and its guests, then run `gateway serve --wasm-dir … args`
  guests              build the guests to target/guests/<id>/

Environment: GATEWAY_PROFILE (serve: release or dev), GATEWAY_WASM_TOOLCHAIN (rustup, debian or unpack), CARGO_TARGET_DIR.
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--").collect();
    let (command, rest) = match args.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => ("help", &[][..]),
    };
    let result = match command {
        "serve" => serve::main(rest),
        "guests" => guests::main(),
        "help" | "--help" | "-h" => {
            print!("{HELP}");
            Ok(())
        }
        other => Err(format!("no command `{other}`.\nNext: cargo xtask help")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("xtask: {why}");
            ExitCode::FAILURE
        }
    }
}
