//! `gateway chat`: lines in, the agent's answer as it comes.

use std::io::{BufRead, IsTerminal, Read, Write};

use gateway_client::{GatewayClient, GatewayEvent};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::output::{Exit, Failure, clean_lines, print};
use super::{Global, target};

/// Longest line that is read, in bytes.
const MAX_LINE_BYTES: usize = gateway_protocol::limits::MAX_TEXT_BYTES;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Say this, print the answer, and end; without it, lines are read from the input.
    #[arg(value_name = "TEXT", conflicts_with = "message")]
    text: Vec<String>,
    /// The same, where the text begins with a dash.
    #[arg(long, short, value_name = "TEXT")]
    message: Option<String>,
    /// Session key, whole or short.
    #[arg(long, value_name = "KEY", default_value = "main")]
    session: String,
    /// Agent to talk to (default: the tenant's default agent).
    #[arg(long, value_name = "ID")]
    agent: Option<String>,
}

pub async fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let client = target::connect(global, &["chat.send", "chat.abort"]).await?;
    let mut chat = Chat {
        client,
        global,
        agent: args.agent,
        session: args.session,
    };
    let words = (!args.text.is_empty()).then(|| args.text.join(" "));
    let done = match args.message.or(words) {
        Some(message) => chat.turn(&message).await.map(|_| ()),
        None => chat.lines().await,
    };
    chat.client.close().await;
    done
}

struct Chat<'a> {
    client: GatewayClient,
    global: &'a Global,
    agent: Option<String>,
    session: String,
}

impl Chat<'_> {
    async fn lines(&mut self) -> Result<(), Failure> {
        let at_terminal = std::io::stdin().is_terminal() && !self.global.json;
        if at_terminal {
            say("Type a message and press Enter; Ctrl-C stops an answer, Ctrl-D ends.\n");
        }
        let mut input = read_lines();
        loop {
            if at_terminal {
                say("> ");
            }
            let line = tokio::select! {
                line = input.recv() => line,
                _ = tokio::signal::ctrl_c() => None,
            };
            let Some(line) = line.transpose()? else {
                return Ok(());
            };
            let line = line.trim();
            if line.is_empty() {
                continue;
            }
            self.turn(line).await?;
        }
    }

    /// One message and its answer. An answer that fails is told and is a failure of the command when it is the only one.
    async fn turn(&mut self, message: &str) -> Result<(), Failure> {
        let mut params = json!({
            "sessionKey": self.session, "message": message, "idempotencyKey": key()?,
        });
        if let Some(agent) = &self.agent {
            params["agentId"] = json!(agent);
        }
        let started = self.client.request("chat.send", params).await?;
        let run_id = started["runId"].as_str().unwrap_or_default().to_owned();
        let mut shown = String::new();
        loop {
            let event = tokio::select! {
                event = self.client.next_event() => event,
                _ = tokio::signal::ctrl_c() => {
                    self.abort(&run_id).await?;
                    continue;
                }
            };
            let Some(event) = event else {
                let (code, reason) = self.client.closed().await;
                return Err(gateway_client::ClientError::Closed { code, reason }.into());
            };
            if let Some(end) = self.show(&event, &run_id, &mut shown)? {
                return end;
            }
        }
    }

    async fn abort(&self, run_id: &str) -> Result<(), Failure> {
        let mut params = json!({ "sessionKey": self.session, "runId": run_id });
        if let Some(agent) = &self.agent {
            params["agentId"] = json!(agent);
        }
        self.client.request("chat.abort", params).await?;
        Ok(())
    }

    /// Shows what an event brings; `Some` when the run has ended.
    fn show(
        &self,
        event: &GatewayEvent,
        run_id: &str,
        shown: &mut String,
    ) -> Result<Option<Result<(), Failure>>, Failure> {
        let p = &event.payload;
        if event.name != "chat" || p["runId"] != run_id {
            return Ok(None);
        }
        let state = p["state"].as_str().unwrap_or_default();
        if state == "delta" {
            let delta = p["deltaText"].as_str().unwrap_or_default();
            if p["replace"] == true {
                shown.clear();
                if !self.global.json {
                    say("\n");
                }
            }
            shown.push_str(delta);
            if !self.global.json {
                say(&clean_lines(delta));
            }
            return Ok(None);
        }
        if !matches!(state, "final" | "aborted" | "error") {
            return Ok(None);
        }
        let whole = message_text(&p["message"]).unwrap_or_else(|| shown.clone());
        if self.global.json {
            let result = json!({
                "runId": run_id, "sessionKey": p["sessionKey"], "state": state, "text": whole,
                "usage": p["usage"], "stopReason": p["stopReason"], "errorMessage": p["errorMessage"],
            });
            print(true, &result, |_| String::new())?;
        } else {
            // What was not streamed is shown now; a text that differs is shown whole.
            match whole.strip_prefix(shown.as_str()) {
                Some(rest) => say(&clean_lines(rest)),
                None => say(&format!("\n{}", clean_lines(&whole))),
            }
            say("\n");
        }
        let why = || {
            p["errorMessage"]
                .as_str()
                .unwrap_or("no reason was given")
                .to_owned()
        };
        Ok(Some(match state {
            "error" => Err(Failure::new(
                Exit::Failure,
                format!("the answer failed: {}", why()),
                "see the gateway's log, then try again",
            )),
            "aborted" => {
                if !self.global.json {
                    say("(stopped)\n");
                }
                Ok(())
            }
            _ => Ok(()),
        }))
    }
}

/// The text blocks of a message.
fn message_text(message: &Value) -> Option<String> {
    match &message["content"] {
        Value::String(text) => Some(text.clone()),
        Value::Array(blocks) => Some(
            blocks
                .iter()
                .filter(|b| b["type"] == "text")
                .filter_map(|b| b["text"].as_str())
                .collect::<Vec<_>>()
                .join("\n"),
        ),
        _ => None,
    }
}

/// Prints at once. A reader that has gone is noticed at the next real print.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// The lines of standard input, read by a thread of its own: a read cannot be cancelled, and Ctrl-C must not wait for it.
fn read_lines() -> mpsc::Receiver<Result<String, Failure>> {
    let (lines, received) = mpsc::channel(1);
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        loop {
            let mut line = Vec::new();
            let read = stdin
                .by_ref()
                .take(MAX_LINE_BYTES as u64 + 1)
                .read_until(b'\n', &mut line);
            let sent = match read {
                Ok(0) => return,
                Ok(n) if n > MAX_LINE_BYTES => Err(Failure::new(
                    Exit::Usage,
                    "the line is too long",
                    "send it in parts",
                )),
                Ok(_) => Ok(String::from_utf8_lossy(&line).into_owned()),
                Err(e) => Err(e.into()),
            };
            if lines.blocking_send(sent).is_err() {
                return;
            }
        }
    });
    received
}

/// A key that names this message: a repeat of the request would not say it twice.
fn key() -> Result<String, Failure> {
    let mut bytes = [0u8; 16];
    getrandom::fill(&mut bytes)
        .map_err(|e| Failure::new(Exit::Failure, format!("no randomness: {e}"), "try again"))?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}
