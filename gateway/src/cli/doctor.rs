//! `gateway doctor`

use std::sync::Arc;

use gateway_config::{ConfigFile, Overrides};
use gateway_core::clock::{Clock, SystemClock};
use serde_json::{Value, json};

use super::output::{Exit, Failure, clean, print};
use super::{Global, block_on, target};
use crate::doctor::{Finding, Place, Severity, look};
use crate::run_file::{self, RunFile};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Mend what can be mended without asking, and say what was done.
    #[arg(long)]
    fix: bool,
}

pub fn run(global: &Global, args: &Args) -> Result<(), Failure> {
    let mut findings = look(&place(global)?);
    let mut told = json!({ "before": findings });
    let mut did = Vec::new();
    if args.fix {
        for finding in &mut findings {
            let Some(fix) = finding.fix.take() else {
                continue;
            };
            did.push(match fix() {
                Ok(text) => json!({ "id": finding.id, "did": text }),
                Err(why) => json!({ "id": finding.id, "failed": why }),
            });
        }
        findings = look(&place(global)?);
        told["fixed"] = json!(did);
        told["after"] = json!(findings);
    }
    let count = |severity| findings.iter().filter(|f| f.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    told["errors"] = json!(errors);
    told["warnings"] = json!(warnings);
    print(global.json, &told, |_| human(&findings, &did))?;
    if errors == 0 {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Failure,
        format!("{errors} errors, {warnings} warnings"),
        if findings.iter().any(|f| f.fixable) {
            "gateway doctor --fix mends what can be mended without asking; the rest stands above"
        } else {
            "do what stands above"
        },
    ))
}

fn place(global: &Global) -> Result<Place, Failure> {
    let state_dir = std::path::absolute(global.state_dir()?)?;
    let file = ConfigFile::new(
        state_dir.clone(),
        global.config.clone(),
        Overrides::default(),
        Arc::new(|name| std::env::var(name).ok()),
    );
    let running = RunFile::of_running(&state_dir);
    let mut answer = None;
    if running.is_some() {
        block_on(async {
            answer = Some(
                target::call(global, "health", json!({}))
                    .await
                    .map_err(|e| e.message),
            );
            Ok(())
        })?;
    }
    Ok(Place {
        settings: file.load(),
        run_file: run_file::read(&state_dir),
        running,
        answer,
        now_ms: SystemClock::new().now_ms(),
        state_dir,
    })
}

fn human(findings: &[Finding], did: &[Value]) -> String {
    let mut lines: Vec<String> = did
        .iter()
        .map(|d| {
            let text = |key: &str| d[key].as_str().map(clean);
            match (text("did"), text("failed")) {
                (Some(did), _) => format!("fixed    {}: {did}", text("id").unwrap_or_default()),
                (None, why) => format!(
                    "not fixed {}: {}",
                    text("id").unwrap_or_default(),
                    why.unwrap_or_default()
                ),
            }
        })
        .collect();
    for finding in findings {
        let word = match finding.severity {
            Severity::Ok => "ok",
            Severity::Warning => "warning",
            Severity::Error => "ERROR",
        };
        lines.push(format!(
            "{word:8} {:12} {}",
            finding.id,
            clean(&finding.what)
        ));
        if !finding.next.is_empty() {
            lines.push(format!("         {:12} next: {}", "", clean(&finding.next)));
        }
    }
    lines.join("\n")
}
