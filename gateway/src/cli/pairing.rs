//! `gateway pairing list | approve`

use clap::Subcommand;
use serde_json::json;

use super::output::{Failure, clean, print, table, text};
use super::{Global, target};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Senders who wait to be let in.
    List {
        /// Only this channel kind.
        #[arg(long)]
        channel: Option<String>,
    },
    /// Let the sender in who was given this code.
    Approve {
        /// The one-time code.
        code: String,
        /// The request must be of this channel kind.
        #[arg(long)]
        channel: Option<String>,
        /// The request must be of this account.
        #[arg(long)]
        account: Option<String>,
    },
}

pub async fn run(global: &Global, command: Command) -> Result<(), Failure> {
    match command {
        Command::List { channel } => {
            let params = channel.map_or(json!({}), |c| json!({ "channel": c }));
            let result = target::call(global, "channels.pairing.list", params).await?;
            print(global.json, &result, |r| {
                let rows: Vec<Vec<String>> = r["requests"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|q| {
                        [
                            "requestId",
                            "channel",
                            "accountId",
                            "senderId",
                            "senderLabel",
                            "expiresAt",
                        ]
                        .iter()
                        .map(|k| text(q, k))
                        .collect()
                    })
                    .collect();
                table(
                    &[
                        "CODE",
                        "CHANNEL",
                        "ACCOUNT",
                        "SENDER ID",
                        "CALLS ITSELF",
                        "UNTIL",
                    ],
                    &rows,
                    "nobody waits",
                )
            })
        }
        Command::Approve {
            code,
            channel,
            account,
        } => {
            let mut params = json!({ "requestId": code });
            if let Some(channel) = channel {
                params["channel"] = json!(channel);
            }
            if let Some(account) = account {
                params["accountId"] = json!(account);
            }
            let result = target::call(global, "channels.pairing.approve", params).await?;
            print(global.json, &result, |r| {
                format!(
                    "{} is let in; the next message is answered",
                    clean(&text(r, "senderId"))
                )
            })
        }
    }
}
