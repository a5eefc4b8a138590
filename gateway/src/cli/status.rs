//! `gateway status`

use gateway_client::{GatewayConnectionDetails, build_gateway_connection_details};
use serde_json::{Value, json};

use super::output::{Failure, clean, duration, print, text};
use super::{Global, target};

pub async fn run(global: &Global) -> Result<(), Failure> {
    let details = build_gateway_connection_details(&target::sources(global)?)?;
    match target::call(global, "status", json!({})).await {
        Ok(mut status) => {
            status["connection"] = connection(&details);
            print(global.json, &status, human)
        }
        // Who cannot be reached was perhaps not meant.
        Err(failure) => Err(Failure {
            message: format!("{}\n{}", failure.message, details.message),
            ..failure
        }),
    }
}

/// Which gateway was asked, and what decided that.
fn connection(details: &GatewayConnectionDetails) -> Value {
    let steps: Vec<Value> = details
        .steps
        .iter()
        .map(|s| json!({ "source": s.source.to_string(), "used": s.used, "why": s.why }))
        .collect();
    json!({
        "url": details.url,
        "source": details.url_source.to_string(),
        "steps": steps,
        "credentialFrom": details.credential_source,
        "tls": details.url.starts_with("wss:"),
        "pinnedBy": details.pin_source,
        "pins": details.pins,
    })
}

fn asked(c: &Value) -> Vec<String> {
    let check = match (c["tls"] == true, c["pinnedBy"].as_str()) {
        (false, _) => "no TLS".to_owned(),
        (true, Some(from)) => format!("TLS, certificate pinned by {from}"),
        (true, None) => "TLS, certificate checked by public authorities".to_owned(),
    };
    let mut lines = vec![format!("asked     {} ({check})", clean(&text(c, "url")))];
    for step in c["steps"].as_array().into_iter().flatten() {
        let why = format!("{}: {}", text(step, "source"), text(step, "why"));
        let used = step["used"] == true;
        let mark = if used { "because" } else { "not" };
        lines.push(format!("  {mark:<8}{}", clean(&why)));
        if used {
            break;
        }
    }
    lines
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
    lines.extend(asked(&s["connection"]));
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
