//! `gateway audit`

use clap::Subcommand;
use gateway_core::cron::schedule::rfc3339;
use serde_json::{Value, json};

use super::output::{Exit, Failure, clean, print, table, text};
use super::{Global, target};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Who did what, newest first.
    List {
        /// Only entries with a lower number.
        #[arg(long, value_name = "SEQ")]
        before: Option<u64>,
        /// Most entries.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1_000))]
        limit: u64,
    },
    /// Checks that no entry was changed, taken out or moved.
    Verify,
}

pub async fn run(global: &Global, command: Command) -> Result<(), Failure> {
    match command {
        Command::List { before, limit } => {
            let mut params = json!({ "limit": limit });
            if let Some(before) = before {
                params["before"] = json!(before);
            }
            let result = target::call(global, "audit.entries", params).await?;
            print(global.json, &result, listed)
        }
        Command::Verify => {
            let result = target::call(global, "audit.verify", json!({})).await?;
            print(global.json, &result, verdict)?;
            if result["ok"] == true {
                return Ok(());
            }
            Err(Failure::new(
                Exit::Failure,
                "the audit log is not as it was written",
                "keep a copy of the state directory as it is, and compare the log with a backup",
            ))
        }
    }
}

fn listed(r: &Value) -> String {
    let entries = r["entries"].as_array();
    let rows: Vec<Vec<String>> = entries.into_iter().flatten().map(row).collect();
    let mut shown = table(
        &["SEQ", "WHEN", "ACTION", "OUTCOME", "WHO", "WHAT"],
        &rows,
        "nothing was written down yet",
    );
    if r["hasMore"] == true {
        let last = rows.last().and_then(|row| row.first());
        let last = last.map_or("", String::as_str);
        shown.push_str(&format!("\n… there are older ones: --before {last}"));
    }
    shown
}

fn row(entry: &Value) -> Vec<String> {
    let actor = &entry["actor"];
    let who: Vec<String> = ["credential", "address", "client", "surface"]
        .iter()
        .filter(|key| actor[**key].is_string())
        .map(|key| text(actor, key))
        .collect();
    let what = match &entry["object"] {
        Value::Null => String::new(),
        object => clean(&object.to_string()),
    };
    vec![
        text(entry, "seq"),
        rfc3339(entry["ts"].as_i64().unwrap_or(0)),
        text(entry, "action"),
        text(entry, "outcome"),
        who.join(" "),
        what.chars().take(60).collect(),
    ]
}

fn verdict(r: &Value) -> String {
    match r["ok"] == true {
        true => format!("{} entries, all as they were written", text(r, "entries")),
        false => format!(
            "{} at entry {}; the {} before it are as they were written",
            text(r, "fault"),
            text(r, "at"),
            text(r, "entries")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_and_verdicts_as_people_read_them() {
        let shown = listed(&json!({"hasMore": true, "entries": [{
            "seq": 7, "ts": 0, "action": "cron.add", "outcome": "ok",
            "actor": {"credential": "token:0a1b", "address": "127.0.0.1", "surface": "v4"},
            "object": {"jobId": "x\u{1b}[31m"},
        }]}));
        for part in [
            "1970-01-01T00:00:00.000Z",
            "token:0a1b 127.0.0.1 v4",
            "--before 7",
        ] {
            assert!(shown.contains(part), "{part}\n{shown}");
        }
        assert!(!shown.contains('\u{1b}'), "{shown}");
        let bad = json!({"ok": false, "entries": 2, "fault": "missing", "at": 3});
        assert_eq!(
            verdict(&bad),
            "missing at entry 3; the 2 before it are as they were written"
        );
    }
}
