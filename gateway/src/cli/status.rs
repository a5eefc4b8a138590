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
