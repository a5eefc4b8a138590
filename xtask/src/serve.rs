//! `cargo xtask serve [-- args]`: builds the gateway and its guests, then becomes the gateway.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use crate::ui::{Result, Steps};
use crate::{guests, sh, tools};

/// The command. Does not come back when the gateway started: this process becomes it, so signals and exit code are its own.
pub fn main(args: &[String]) -> Result<()> {
    let mut steps = Steps::new("serve");
    let profile = std::env::var("GATEWAY_PROFILE")
        .ok()
        .filter(|p| !p.is_empty())
        .unwrap_or_else(|| "release".to_owned());
    let ready = steps
        .run("C compiler", || tools::ensure_cc().map(|()| String::new()))
        .is_some();
    // Guests first: they take a minute, and a machine that can't build them says so at once.
    let ready = ready && guests::build(&mut steps);
    let mut binary = PathBuf::new();
    let ready = ready
        && steps
            .run("build gateway", || {
                println!("  profile {profile} (GATEWAY_PROFILE=dev builds faster); the first build takes several minutes");
                sh::run(sh::cargo().args(["build", "--locked", "-p", "gateway", "--bin", "gateway", "--profile", &profile]))?;
                binary = binary_path(&profile);
                Ok(String::new())
            })
            .is_some();
    if !ready {
        steps.summary();
        println!("\nThe same command goes on where it stopped.");
        return steps.into_result();
    }
    let mut cmd = Command::new(&binary);
    cmd.arg("serve");
    if !args
        .iter()
        .any(|a| a == "--wasm-dir" || a.starts_with("--wasm-dir="))
    {
        cmd.arg("--wasm-dir").arg(guests::guests_dir());
    }
    cmd.args(args);
    println!("  $ {}", sh::shown(&cmd));
    let why = cmd.exec();
    Err(format!("{} did not start: {why}", binary.display()))
}

/// Where cargo puts the binary of a profile.
pub fn binary_path(profile: &str) -> PathBuf {
    let folder = if matches!(profile, "dev" | "test") {
        "debug"
    } else {
        profile
    };
    sh::target_dir().join(folder).join("gateway")
}
