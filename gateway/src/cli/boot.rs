//! `gateway boot list`

use clap::Subcommand;
use serde_json::json;

use super::output::{Failure, print, table, text};
use super::{Global, target};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// The boot scripts and how their last runs ended.
    List,
}

pub async fn run(global: &Global, command: Command) -> Result<(), Failure> {
    let Command::List = command;
    let result = target::call(global, "boot.list", json!({})).await?;
    print(global.json, &result, |r| {
        let rows: Vec<Vec<String>> = r["scripts"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|s| {
                ["id", "version", "state", "durationMs", "message"]
                    .iter()
                    .map(|k| text(s, k))
                    .collect()
            })
            .collect();
        table(
            &["ID", "VERSION", "STATE", "MS", "MESSAGE"],
            &rows,
            "no boot scripts",
        )
    })
}
