//! Scanners of others against the TLS of the real binary.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::ui::{Count, Result};
use crate::{sh, tools};

/// What testssl may say about a certificate that is pinned and not signed by an authority: each with the reason.
const EXPECTED: &[(&str, &str)] = &[
    (
        "cert_chain_of_trust",
        "the gateway's own certificate is trusted by its fingerprint",
    ),
    (
        "cert_validityPeriod",
        "pinned, so that its end protects nobody",
    ),
    (
        "cert_revocation",
        "nobody revokes it: it is replaced, and the pin with it",
    ),
    ("DNS_CAArecord", "there is no public name"),
];

/// Runs testssl: protocols, server defaults, forward secrecy and the known weaknesses of old versions. Each finding is a check.
pub fn testssl(port: u16, dir: &Path) -> (Count, Result<String>) {
    let mut count = Count::default();
    let program = match ensure_testssl() {
        Ok(program) => program,
        Err(why) => {
            // A machine without the package is not a gateway with a fault; said loudly, counted as nothing.
            println!("!!! testssl.sh is LEFT OUT: {why}");
            return (
                count,
                Ok("LEFT OUT: testssl.sh cannot be had here".to_owned()),
            );
        }
    };
    let report = dir.join("testssl.json");
    let _ = std::fs::remove_file(&report);
    let mut cmd = Command::new(&program.path);
    cmd.envs(program.env)
        .args([
            "--quiet",
            "--color",
            "0",
            "--warnings",
            "off",
            "--ip",
            "one",
            "-p",
            "-S",
            "-f",
            "-s",
        ])
        .args([
            "-H", "-I", "-T", "-B", "-O", "-Z", "-W", "-A", "-L", "-F", "-J", "-D", "-4",
        ])
        .arg("--jsonfile")
        .arg(&report)
        .arg(format!("127.0.0.1:{port}"));
    // It ends with the number of its own complaints; the report is what counts.
    let ran = sh::run_at_most(&mut cmd, Duration::from_secs(600));
    let text = match std::fs::read_to_string(&report) {
        Ok(text) => text,
        Err(e) => {
            let why = ran.err().unwrap_or_default();
            return (count, Err(format!("testssl wrote no report ({e}); {why}")));
        }
    };
    let findings: Vec<Value> = match serde_json::from_str(&text) {
        Ok(findings) => findings,
        Err(e) => return (count, Err(format!("the report of testssl: {e}"))),
    };
    let mut bad = Vec::new();
    for finding in &findings {
        let of = |key: &str| finding[key].as_str().unwrap_or_default();
        let (id, severity) = (of("id"), of("severity"));
        let known = EXPECTED.iter().any(|(name, _)| id == *name);
        match severity {
            "OK" => count.passed += 1,
            "LOW" | "MEDIUM" | "HIGH" | "CRITICAL" if !known => {
                count.failed += 1;
                bad.push(format!("{id}: {severity}: {}", of("finding")));
            }
            _ => {}
        }
    }
    if count.passed < 15 {
        bad.push(format!(
            "only {} findings are good: the scan did not work",
            count.passed
        ));
    }
    if bad.is_empty() {
        (count, Ok(String::new()))
    } else {
        (count, Err(bad.join("\n")))
    }
}

struct Testssl {
    path: PathBuf,
    env: Vec<(&'static str, PathBuf)>,
}

/// testssl.sh with the programs that it needs: on PATH, else installed, else unpacked below `target/tools`.
fn ensure_testssl() -> Result<Testssl> {
    const PACKAGES: &[&str] = &["testssl.sh", "bsdextrautils", "dnsutils"];
    let on_path = || {
        let path = sh::which("testssl")?;
        sh::which("hexdump")?;
        Some(Testssl {
            path,
            env: Vec::new(),
        })
    };
    if let Some(found) = on_path() {
        return Ok(found);
    }
    let installed = tools::apt_install(PACKAGES);
    if let Some(found) = on_path() {
        return Ok(found);
    }
    tools::apt_unpack(PACKAGES).map_err(|e| {
        let first = installed.err().unwrap_or_default();
        format!(
            "{first}; {e}\nNext: sudo apt-get install {}",
            PACKAGES.join(" ")
        )
    })?;
    let root = tools::deb_root();
    let path = root.join("usr/bin/testssl");
    if !path.exists() {
        return Err(format!("{} is not there", path.display()));
    }
    let mut dirs = vec![root.join("usr/bin"), root.join("bin")];
    dirs.extend(std::env::split_paths(
        &std::env::var_os("PATH").unwrap_or_default(),
    ));
    let joined = std::env::join_paths(dirs).map_err(|e| e.to_string())?;
    Ok(Testssl {
        path,
        env: vec![
            ("PATH", PathBuf::from(joined)),
            ("LD_LIBRARY_PATH", PathBuf::from(tools::deb_library_path())),
            ("TESTSSL_INSTALL_DIR", root.join("etc/testssl")),
        ],
    })
}
