//! `cargo xtask fuzz [NAME …]`: the fuzz targets of `fuzz/` under libFuzzer, on stable Rust, each for
//! `GATEWAY_FUZZ_SECONDS` (where nothing is said: 60, and 300 in `cargo xtask test --long`).
//!
//! Only our crates and the parsers that they stand on are instrumented: this program is cargo's rustc wrapper for that
//! build and adds the flags. The corpus grows in `target/fuzz/corpus`; the seeds in `fuzz/corpus` are read only.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use crate::sh;
use crate::ui::{Count, Result, Steps};

/// Says to this program that it is to be rustc.
const WRAPPER: &str = "GATEWAY_FUZZ_RUSTC";
/// Time of each target where `GATEWAY_FUZZ_SECONDS` says nothing, in seconds.
const DEFAULT_SECONDS: u64 = 60;
/// The same in the long round.
const LONG_SECONDS: u64 = 300;
/// Longest input that libFuzzer makes, in bytes.
const MAX_INPUT_BYTES: u32 = 4096;
/// An input that takes longer is a finding, in seconds.
const SLOW_INPUT_SECONDS: u32 = 10;

/// What SanitizerCoverage needs; all of it is stable. There is no address sanitizer: the code has no `unsafe`.
const INSTRUMENT: [&str; 6] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
];

/// Crates whose branches lead the search, besides those whose name begins with `gateway`.
const PARSERS: [&str; 5] = [
    "serde_json",
    "serde_core",
    "jsonc-parser",
    "toml",
    "toml_parser",
];

/// Where a build with instrumentation goes.
fn fuzz_dir() -> PathBuf {
    sh::target_dir().join("fuzz")
}

/// Where the programs of that build are.
fn programs() -> Result<PathBuf> {
    Ok(fuzz_dir().join(sh::host_target()?).join("debug"))
}

/// When cargo calls this program in rustc's place: runs rustc, with more flags for the crates that are instrumented.
pub fn as_rustc() -> Option<ExitCode> {
    std::env::var_os(WRAPPER)?;
    let mut args = std::env::args_os().skip(1);
    let mut rustc = Command::new(args.next()?);
    let args: Vec<_> = args.collect();
    // Build scripts and macros run on their own, without libFuzzer's symbols: cargo names no target for them.
    let for_target = args.iter().any(|arg| arg == "--target");
    rustc.args(args);
    let package = std::env::var("CARGO_PKG_NAME").unwrap_or_default();
    if for_target && instrumented(&package) {
        rustc.args(INSTRUMENT);
    }
    Some(match rustc.status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(status) => ExitCode::from(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1)),
        Err(why) => {
            eprintln!("xtask as rustc: {why}");
            ExitCode::FAILURE
        }
    })
}

fn instrumented(package: &str) -> bool {
    package.starts_with("gateway-") || PARSERS.contains(&package)
}

/// Names of the targets: the files of `fuzz/fuzz_targets`.
fn targets() -> Result<Vec<String>> {
    let dir = sh::root().join("fuzz/fuzz_targets");
    let mut names: Vec<String> = std::fs::read_dir(&dir)
        .map_err(|e| format!("{}: {e}", dir.display()))?
        .flatten()
        .filter_map(|f| Some(f.path().file_stem()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    Ok(names)
}

/// This program at a place where no build of the workspace replaces it.
fn copy_of_this() -> Result<PathBuf> {
    // `current_exe` leads nowhere once the file was built again; this still does.
    let this = std::fs::read("/proc/self/exe")
        .or_else(|_| std::fs::read(std::env::current_exe()?))
        .map_err(|e| format!("this program's own file: {e}"))?;
    let copy = fuzz_dir().join("xtask-as-rustc");
    // Another time of change would have everything built again.
    if std::fs::read(&copy).is_ok_and(|had| had == this) {
        return Ok(copy);
    }
    std::fs::create_dir_all(fuzz_dir()).map_err(|e| e.to_string())?;
    let begun = copy.with_extension("new");
    std::fs::write(&begun, this)
        .and_then(|()| std::fs::set_permissions(&begun, Permissions::from_mode(0o755)))
        .and_then(|()| std::fs::rename(&begun, &copy))
        .map_err(|e| format!("{}: {e}", copy.display()))?;
    Ok(copy)
}

fn build(names: &[String]) -> Result<()> {
    let me = copy_of_this()?;
    let mut cmd = sh::cargo();
    cmd.args(["build", "--locked", "--features", "libfuzzer"])
        .arg("--manifest-path")
        .arg(sh::root().join("fuzz/Cargo.toml"))
        .arg("--target-dir")
        .arg(fuzz_dir())
        .args(["--target", &sh::host_target()?]);
    for name in names {
        cmd.args(["--bin", name]);
    }
    cmd.env("RUSTC_WRAPPER", me).env(WRAPPER, "1");
    sh::run(&mut cmd)
}

fn seconds(default: u64) -> Result<u64> {
    match std::env::var("GATEWAY_FUZZ_SECONDS") {
        Err(_) => Ok(default),
        Ok(text) => text
            .parse()
            .map_err(|_| format!("GATEWAY_FUZZ_SECONDS={text} is not a number of seconds")),
    }
}

/// Runs one target and tells how many inputs it tried; a finding is kept in `target/fuzz/artifacts`.
fn run_one(name: &str, seconds: u64) -> Result<String> {
    let corpus = fuzz_dir().join("corpus").join(name);
    let artifacts = fuzz_dir().join("artifacts").join(name);
    for dir in [&corpus, &artifacts] {
        std::fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    }
    let log = fuzz_dir().join(format!("{name}.log"));
    let out = std::fs::File::create(&log).map_err(|e| format!("{}: {e}", log.display()))?;
    let program = programs()?.join(name);
    let mut cmd = Command::new(&program);
    cmd.arg(format!("-max_total_time={seconds}"))
        .arg(format!("-max_len={MAX_INPUT_BYTES}"))
        .arg(format!("-timeout={SLOW_INPUT_SECONDS}"))
        .arg("-print_final_stats=1")
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .arg(&corpus)
        .arg(sh::root().join("fuzz/corpus").join(name))
        .stderr(out);
    let result = sh::run_at_most(&mut cmd, Duration::from_secs(seconds + 300));
    let text = std::fs::read_to_string(&log).unwrap_or_default();
    let figure = |key: &str| last_figure(&text, key).unwrap_or_else(|| "?".to_owned());
    match result {
        Ok(()) => Ok(format!(
            "{} inputs, {} features",
            figure("stat::number_of_executed_units:"),
            figure(" ft:")
        )),
        Err(why) => {
            let tail: Vec<&str> = text.lines().filter(|l| !l.starts_with('#')).collect();
            let tail = tail[tail.len().saturating_sub(25)..].join("\n");
            Err(format!(
                "{why}\n{tail}\nNext: {} <the file named above>",
                program.display()
            ))
        }
    }
}

/// The last number that stands behind `key`.
fn last_figure(text: &str, key: &str) -> Option<String> {
    let after = text.rsplit_once(key)?.1.trim_start();
    let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
    (!digits.is_empty()).then_some(digits)
}

/// Builds and runs targets as steps of a command, each for so many seconds; each is one check.
fn steps(steps: &mut Steps, names: &[String], default_seconds: u64) {
    if !steps.check("fuzz: build", || build(names).map(|()| String::new())) {
        return;
    }
    for name in names {
        steps.run_counted(&format!("fuzz: {name}"), || {
            let outcome = seconds(default_seconds).and_then(|s| run_one(name, s));
            let ok = u64::from(outcome.is_ok());
            (
                Count {
                    passed: ok,
                    failed: 1 - ok,
                },
                outcome,
            )
        });
    }
}

/// All targets, for `cargo xtask test --long`.
pub fn all(list: &mut Steps) {
    match targets() {
        Ok(names) => steps(list, &names, LONG_SECONDS),
        Err(why) => drop(list.check("fuzz targets", || Err(why))),
    }
}

/// The command.
pub fn main(args: &[String]) -> Result<()> {
    let known = targets()?;
    if let Some(other) = args.iter().find(|a| !known.contains(a)) {
        return Err(format!(
            "no fuzz target `{other}`.\nNext: cargo xtask fuzz [{}]",
            known.join("|")
        ));
    }
    let mut list = Steps::new("fuzz");
    let names = if args.is_empty() { &known } else { args };
    steps(&mut list, names, DEFAULT_SECONDS);
    list.summary();
    list.into_result()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_crates_and_their_parsers_are_instrumented() {
        for yes in [
            "gateway-protocol",
            "gateway-fuzz",
            "serde_json",
            "jsonc-parser",
        ] {
            assert!(instrumented(yes), "{yes}");
        }
        for no in [
            "gateway",
            "wasmtime",
            "libfuzzer-sys",
            "cranelift-codegen",
            "",
        ] {
            assert!(!instrumented(no), "{no}");
        }
    }

    #[test]
    fn figures_are_read_from_the_log() {
        let log = "#1\tINITED cov: 10 ft: 11 corp: 1/1b\n#900\tDONE cov: 20 ft: 345 corp: 9/1Kb\nstat::number_of_executed_units: 900\n";
        assert_eq!(last_figure(log, " ft:").as_deref(), Some("345"));
        assert_eq!(
            last_figure(log, "stat::number_of_executed_units:").as_deref(),
            Some("900")
        );
        assert_eq!(last_figure(log, "stat::peak_rss_mb:"), None);
    }
}
