//! Set-up, build, test and bench commands of the project: `cargo xtask help`.

mod clients;
mod coverage;
mod deps;
mod dist;
mod fuzz;
mod guests;
mod scan;
mod schema;
mod serve;
mod sh;
mod test;
mod tools;
mod ui;

use std::process::ExitCode;

const HELP: &str = "\
cargo xtask COMMAND

  serve [args]        build the gateway and its guests, then run `gateway serve --wasm-dir … args`
  test [--long]       format, clippy, all tests and the clients of others; installs what they need
  guests              build the guests to target/guests/<id>/
  clients             only the clients of others, against the dev build
  fuzz [NAME …]       the fuzz targets (all, or these), each for GATEWAY_FUZZ_SECONDS (60)
  deps                licenses, sources, double versions and banned crates of all lock files
  dist [--quick]      the release: archive with the guests in the program, SBOM, sums, below target/dist
                      (--quick: to try it; paths of this machine stay in the program)
  tools               only install what the tests need
  schema [--check]    write the generated pages of docs/, or say which are out of date
  bench [args]        the bench program, as release build

Environment: GATEWAY_PROFILE (serve: release or dev), GATEWAY_WASM_TOOLCHAIN (rustup, debian or unpack), GATEWAY_FUZZ_SECONDS, CARGO_TARGET_DIR,
SOURCE_DATE_EPOCH (dist: the time of the files in the archive; else that of the commit).
";

fn main() -> ExitCode {
    if let Some(code) = fuzz::as_rustc() {
        return code;
    }
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--").collect();
    let (command, rest) = match args.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => ("help", &[][..]),
    };
    let result = match command {
        "serve" => serve::main(rest),
        "test" => test::main(rest),
        "fuzz" => fuzz::main(rest),
        "deps" => deps::main(),
        "dist" => dist::main(rest),
        "tools" => test::tools_only(),
        "clients" => test::clients_only(),
        "guests" => guests::main(),
        "schema" => schema::main(rest),
        "bench" => bench(rest),
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

/// The bench program lies in package gateway-tests; its options are its own.
fn bench(args: &[String]) -> ui::Result<()> {
    let mut steps = ui::Steps::new("bench");
    steps.run("C compiler", || tools::ensure_cc().map(|()| String::new()));
    if guests::build(&mut steps) {
        steps.run("build gateway", || {
            sh::run(sh::cargo().args(["build", "--locked", "--release", "-p", "gateway"]))
                .map(|()| String::new())
        });
        steps.run("bench", || {
            let mut cmd = sh::cargo();
            cmd.args([
                "run",
                "--locked",
                "--release",
                "-p",
                "gateway-tests",
                "--bin",
                "bench",
                "--",
            ])
            .args(args);
            cmd.env("GATEWAY_WASM_DIR", guests::guests_dir())
                .env("GATEWAY_BIN", serve::binary_path("release"));
            sh::run(&mut cmd).map(|()| String::new())
        });
    }
    steps.summary();
    steps.into_result()
}
