//! `gateway outbox list`

use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::output::{Failure, print, table, text};
use super::{Global, target};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// The rows, newest first.
    List {
        /// Only rows in this state.
        #[arg(long, value_enum)]
        state: Option<State>,
        /// Only this channel kind.
        #[arg(long)]
        channel: Option<String>,
        /// Most rows.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1_000))]
        limit: u64,
    },
}

/// States of a row.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum State {
    /// Waits for its time.
    Queued,
    /// Is being sent.
    Sending,
    /// The platform has it.
    Sent,
    /// May have arrived; not sent again.
    Unknown,
    /// Given up.
    Failed,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Sending => "sending",
            Self::Sent => "sent",
            Self::Unknown => "unknown",
            Self::Failed => "failed",
        }
    }
}

pub async fn run(global: &Global, command: Command) -> Result<(), Failure> {
    let Command::List {
        state,
        channel,
        limit,
    } = command;
    let mut params = json!({ "limit": limit });
    if let Some(state) = state {
        params["state"] = json!(state.word());
    }
    if let Some(channel) = channel {
        params["channel"] = json!(channel);
    }
    let result = target::call(global, "outbox.list", params).await?;
    print(global.json, &result, |r| {
        let items = r["items"].as_array();
        let rows: Vec<Vec<String>> = items.into_iter().flatten().map(row).collect();
        let mut shown = table(
            &[
                "ID",
                "CHANNEL",
                "ACCOUNT",
                "STATE",
                "ATTEMPTS",
                "TEXT",
                "LAST ERROR",
            ],
            &rows,
            "the outbox is empty",
        );
        if r["hasMore"] == true {
            shown.push_str("\n… there is more; --limit shows it");
        }
        shown
    })
}

fn row(item: &Value) -> Vec<String> {
    let mut cells: Vec<String> = ["id", "channel", "accountId", "state", "attempts"]
        .iter()
        .map(|k| text(item, k))
        .collect();
    let preview: String = text(item, "preview").chars().take(40).collect();
    cells.push(preview);
    cells.push(text(item, "lastError"));
    cells
}
