//! `gateway migrate openclaw`

use std::path::PathBuf;
use std::sync::Arc;

use clap::Subcommand;
use gateway_config::{
    ConfigFile, MAIN_TENANT, Outcome, Overrides, import_counts, import_openclaw, init_state_dir,
    secret_set,
};
use serde_json::{Value, json};

use super::Global;
use super::output::{Exit, Failure, clean, print, table};

/// Largest file that is imported, in bytes.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Take the settings of an OpenClaw gateway over; the old file is only read.
    Openclaw {
        /// Its file [default: ~/.openclaw/openclaw.json].
        #[arg(long, value_name = "PATH")]
        from: Option<PathBuf>,
        /// Only say what would become of each key.
        #[arg(long)]
        dry_run: bool,
    },
}

pub fn run(global: &Global, command: Command) -> Result<(), Failure> {
    let Command::Openclaw { from, dry_run } = command;
    let from = match from {
        Some(path) => path,
        None => std::env::var_os("HOME")
            .map(|home| PathBuf::from(home).join(".openclaw").join("openclaw.json"))
            .ok_or_else(|| {
                Failure::new(
                    Exit::Usage,
                    "there is no home directory",
                    "name the file with --from PATH",
                )
            })?,
    };
    let text = read(&from)?;
    let import = import_openclaw(&text).map_err(|(line, column, why)| {
        Failure::new(
            Exit::Config,
            format!("{}:{line}:{column}: {why}", from.display()),
            "mend that file, or name another with --from PATH",
        )
    })?;
    let state_dir = std::path::absolute(global.state_dir()?)?;
    let report: Vec<Value> = import
        .report
        .iter()
        .map(|r| json!({ "from": r.from, "to": r.to, "outcome": r.outcome.as_str(), "note": r.note }))
        .collect();
    let mut result = json!({
        "from": from, "dryRun": dry_run, "summary": import_counts(&import.report), "report": report,
        "secrets": import.secrets.keys().collect::<Vec<_>>(),
    });
    if !dry_run {
        init_state_dir(&state_dir)?;
        for (name, secret) in &import.secrets {
            secret_set(&state_dir, MAIN_TENANT, name, secret)?;
        }
        let file = ConfigFile::new(
            state_dir,
            global.config.clone(),
            Overrides::default(),
            Arc::new(|name| std::env::var(name).ok()),
        );
        let base = file.read()?;
        let settings = file.check(&import.text)?;
        if !file.replace(&base, &import.text)? {
            return Err(Failure::new(
                Exit::Failure,
                "the file was changed by somebody else in the meantime",
                "run the command again",
            ));
        }
        result["path"] = json!(file.path());
        result["warnings"] = json!(settings.warnings);
    }
    print(global.json, &result, |result| {
        let rows: Vec<Vec<String>> = import
            .report
            .iter()
            .map(|r| {
                vec![
                    r.outcome.as_str().to_owned(),
                    r.from.clone(),
                    r.to.clone().unwrap_or_default(),
                    r.note.clone(),
                ]
            })
            .collect();
        let count = |outcome: Outcome| result["summary"][outcome.as_str()].to_string();
        let mut out = table(&["", "FROM", "TO", "NOTE"], &rows, "the file is empty");
        out.push_str(&format!(
            "\n{} mapped, {} changed, {} unsupported\n",
            count(Outcome::Mapped),
            count(Outcome::Changed),
            count(Outcome::Unsupported)
        ));
        out.push_str(&match result["path"].as_str() {
            Some(path) => format!(
                "wrote {} (the one before: `gateway config rollback`)\nnext: gateway serve",
                clean(path)
            ),
            None => "nothing was written\nnext: run it without --dry-run".to_owned(),
        });
        out
    })
}

fn read(path: &std::path::Path) -> Result<String, Failure> {
    use std::io::Read;
    let failed = |why: String| {
        Failure::new(
            Exit::Failure,
            format!("{}: {why}", path.display()),
            "name the file with --from PATH",
        )
    };
    let file = std::fs::File::open(path).map_err(|e| failed(e.to_string()))?;
    let mut text = String::new();
    file.take(MAX_FILE_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(|e| failed(e.to_string()))?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(failed(format!("larger than {MAX_FILE_BYTES} bytes")));
    }
    Ok(text)
}
