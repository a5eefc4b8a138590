//! `gateway boot list|run`

use clap::Subcommand;
use serde_json::{Value, json};

use super::output::{Exit, Failure, print, table, text};
use super::{Global, target};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// The boot scripts and how their last runs ended.
    List,
    /// Run the boot scripts again now, or one of them.
    Run {
        /// Its id, as `gateway boot list` shows it.
        id: Option<String>,
    },
}

pub async fn run(global: &Global, command: Command) -> Result<(), Failure> {
    let result = match &command {
        Command::List => target::call(global, "boot.list", json!({})).await?,
        Command::Run { id } => {
            let params = id
                .as_ref()
                .map_or(json!({}), |id| json!({ "scriptId": id }));
            target::call(global, "boot.run", params).await?
        }
    };
    print(global.json, &result, shown)?;
    let Command::Run { id } = command else {
        return Ok(());
    };
    let failed: Vec<String> = rows(&result)
        .filter(|s| s["state"] == "failed" && id.as_ref().is_none_or(|id| s["id"] == **id))
        .map(|s| text(s, "id"))
        .collect();
    if failed.is_empty() {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Failure,
        format!("failed: {}", failed.join(", ")),
        "mend what MESSAGE says and run it again",
    ))
}

fn rows(result: &Value) -> impl Iterator<Item = &Value> {
    result["scripts"].as_array().into_iter().flatten()
}

fn shown(result: &Value) -> String {
    let rows: Vec<Vec<String>> = rows(result)
        .map(|s| {
            [
                "id",
                "version",
                "state",
                "onError",
                "tries",
                "durationMs",
                "message",
            ]
            .iter()
            .map(|k| text(s, k))
            .collect()
        })
        .collect();
    table(
        &[
            "ID", "VERSION", "STATE", "ON ERROR", "TRIES", "MS", "MESSAGE",
        ],
        &rows,
        "no boot scripts",
    )
}
