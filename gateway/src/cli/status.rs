//! `gateway status`

use serde_json::{Value, json};

use super::output::{Failure, clean, duration, print, text};
use super::{Global, target};

pub async fn run(global: &Global) -> Result<(), Failure> {
    let status = target::call(global, "status", json!({})).await?;
    print(global.json, &status, human)
}

fn human(s: &Value) -> String {
    let sessions = &s["sessions"];
    let mut lines = vec![
        format!("gateway   {}", text(s, "runtimeVersion")),
        format!("tenant    {}", text(s, "tenant")),
        format!(
            "up        {}",
            duration(s["uptimeMs"].as_u64().unwrap_or_default())
        ),
        format!("sessions  {}", text(sessions, "count")),
        format!(
            "runs      {} going on, {} waiting",
            text(&s["runs"], "active"),
            text(&s["runs"], "queued")
        ),
    ];
    let channels: Vec<&str> = s["channelSummary"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    lines.extend(config(&s["config"]));
    if channels.is_empty() {
        lines.push("channels  none".to_owned());
    }
    for (i, channel) in channels.iter().enumerate() {
        lines.push(format!(
            "{}{}",
            if i == 0 { "channels  " } else { "          " },
            clean(channel)
        ));
    }
    for session in sessions["recent"].as_array().into_iter().flatten().take(5) {
        let age = duration(session["age"].as_u64().unwrap_or_default());
        lines.push(format!("  {}  {age} ago", clean(&text(session, "key"))));
    }
    lines.join("\n")
}

/// How the configuration is, and what to do when it is not in order.
fn config(c: &Value) -> Vec<String> {
    let mut lines = vec![format!(
        "config    {} (revision {})",
        text(c, "state"),
        text(c, "revision")
    )];
    if let Some(message) = c["error"]["message"].as_str() {
        lines.extend(
            message
                .lines()
                .map(|line| format!("          {}", clean(line))),
        );
        lines.push("          mend gateway.json5 (`gateway config edit`), or go back: `gateway config rollback`".to_owned());
    }
    for path in c["restartNeeded"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
    {
        lines.push(format!(
            "          {} counts from the next start",
            clean(path)
        ));
    }
    lines
}
