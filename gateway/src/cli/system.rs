//! `gateway system event | heartbeat`, `gateway wake`

use clap::Subcommand;
use serde_json::{Value, json};

use super::cron::Wake;
use super::output::{Failure, clean, print, text};
use super::{Global, target};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Put a text before an agent's next message.
    Event(Event),
    /// Heartbeats.
    #[command(subcommand)]
    Heartbeat(Heartbeat),
}

/// A text for an agent.
#[derive(Debug, clap::Args)]
pub struct Event {
    /// The text.
    #[arg(long, value_name = "TEXT")]
    text: String,
    /// Look at it at once, or with the next heartbeat or message (default).
    #[arg(long, value_enum, default_value = "next-heartbeat")]
    mode: Wake,
    /// Agent (default: the default agent).
    #[arg(long, value_name = "ID")]
    agent: Option<String>,
    /// Session (default: the agent's main session).
    #[arg(long, value_name = "KEY")]
    session: Option<String>,
}

/// `gateway wake`
#[derive(Debug, clap::Args)]
pub struct WakeArgs {
    /// The text that the agent sees.
    text: String,
    /// Look at it at once (default), or with the next heartbeat or message.
    #[arg(long, value_enum, default_value = "now")]
    mode: Wake,
    /// Agent (default: the default agent).
    #[arg(long, value_name = "ID")]
    agent: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum Heartbeat {
    /// What the last one did.
    Last,
    /// Have heartbeats again, as far as the configuration has them.
    Enable,
    /// Have none until they are enabled again.
    Disable,
}

pub async fn run(global: &Global, command: Command) -> Result<(), Failure> {
    match command {
        Command::Event(event) => {
            tell(global, &event.text, event.mode, event.agent, event.session).await
        }
        Command::Heartbeat(Heartbeat::Last) => {
            let last = target::call(global, "last-heartbeat", json!({})).await?;
            print(global.json, &last, shown)
        }
        Command::Heartbeat(Heartbeat::Enable) => switch(global, true).await,
        Command::Heartbeat(Heartbeat::Disable) => switch(global, false).await,
    }
}

pub async fn wake(global: &Global, args: WakeArgs) -> Result<(), Failure> {
    tell(global, &args.text, args.mode, args.agent, None).await
}

async fn tell(
    global: &Global,
    said: &str,
    mode: Wake,
    agent: Option<String>,
    session: Option<String>,
) -> Result<(), Failure> {
    let (word, when) = match mode {
        Wake::Now => ("now", "the agent looks at it now"),
        Wake::NextHeartbeat => (
            "next-heartbeat",
            "the agent sees it with its next heartbeat or message",
        ),
    };
    let mut params = json!({"mode": word, "text": said});
    if let Some(agent) = agent {
        params["agentId"] = json!(agent);
    }
    if let Some(session) = session {
        params["sessionKey"] = json!(session);
    }
    let result = target::call(global, "wake", params).await?;
    print(global.json, &result, |_| format!("taken; {when}"))
}

async fn switch(global: &Global, on: bool) -> Result<(), Failure> {
    let result = target::call(global, "set-heartbeats", json!({"enabled": on})).await?;
    print(global.json, &result, |_| {
        if on {
            "heartbeats are on, as far as agents.entries.<id>.heartbeat has them".to_owned()
        } else {
            "heartbeats are off until `gateway system heartbeat enable`".to_owned()
        }
    })
}

fn shown(last: &Value) -> String {
    if last.is_null() {
        return "there was no heartbeat yet".to_owned();
    }
    let mut lines = vec![format!(
        "{}  {}  agent {}",
        last["ts"]
            .as_i64()
            .map(gateway_core::cron::schedule::rfc3339)
            .unwrap_or_default(),
        text(last, "status"),
        clean(&text(last, "agentId"))
    )];
    for key in ["reason", "preview", "message"] {
        if let Some(told) = last[key].as_str() {
            lines.push(format!("{key}  {}", clean(told)));
        }
    }
    lines.join("\n")
}
