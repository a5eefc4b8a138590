//! `gateway health`

use serde_json::{Value, json};

use super::output::{Exit, Failure, clean, print, text};
use super::{Global, target};

/// The words with which a part says that it is not well.
const UNWELL: &[&str] = &[
    "degraded",
    "failed",
    "quarantined",
    "error",
    "rejected",
    "last-good",
];

pub async fn run(global: &Global) -> Result<(), Failure> {
    let health = target::call(global, "health", json!({})).await?;
    print(global.json, &health, human)?;
    if health["ok"] == true {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Failure,
        "the gateway is not well",
        "see its log (`gateway call logs.tail`)",
    ))
}

fn human(h: &Value) -> String {
    let mut lines = vec![if h["ok"] == true {
        "ok".to_owned()
    } else {
        "not ok".to_owned()
    }];
    let agents: Vec<String> = h["agents"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|a| clean(&text(a, "agentId")))
        .collect();
    lines.push(format!("agents    {}", agents.join(", ")));
    let plugins: Vec<String> = h["plugins"]["loaded"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(clean)
        .collect();
    lines.push(format!(
        "plugins   {}",
        if plugins.is_empty() {
            "none".to_owned()
        } else {
            plugins.join(", ")
        }
    ));
    for fault in h["plugins"]["errors"].as_array().into_iter().flatten() {
        lines.push(format!(
            "  {}: {}",
            clean(&text(fault, "id")),
            clean(&text(fault, "error"))
        ));
    }
    if let Some(pin) = h["tls"]["fingerprint"].as_str() {
        lines.push(format!("tls       sha256:{}", clean(pin)));
    }
    if let Some(pin) = h["tls"]["nextFingerprint"].as_str() {
        lines.push(format!("  next    sha256:{} (pin both)", clean(pin)));
    }
    if let Some(mode) = h["discovery"]["mode"].as_str() {
        lines.push(format!("found by  mDNS, {}", clean(mode)));
    }
    let mut unwell = Vec::new();
    find_unwell("", h, &mut unwell);
    lines.extend(unwell.into_iter().map(|path| format!("  {path}")));
    lines.join("\n")
}

/// Places in the snapshot whose `state`, `status` or `healthState` is one of [`UNWELL`].
fn find_unwell(path: &str, value: &Value, out: &mut Vec<String>) {
    if let Value::Object(map) = value {
        for (key, child) in map {
            let is_state = matches!(key.as_str(), "state" | "status" | "healthState");
            if let Some(word) = child.as_str().filter(|w| is_state && UNWELL.contains(w)) {
                let why = map
                    .get("lastError")
                    .or_else(|| map.get("message"))
                    .or_else(|| map.get("error")?.get("message"))
                    .and_then(Value::as_str);
                let why = why.map_or(String::new(), |w| format!(" ({})", clean(w)));
                out.push(format!("{}: {word}{why}", clean(path)));
            }
            let child_path = if path.is_empty() {
                key.clone()
            } else {
                format!("{path}.{key}")
            };
            find_unwell(&child_path, child, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unwell_is_named() {
        let h = json!({
            "ok": true, "agents": [{"agentId": "main"}],
            "plugins": {"loaded": ["webhook"], "errors": [{"id": "bad", "error": "no such import"}]},
            "channels": {"webhook": {"accounts": {"default": {"healthState": "quarantined", "lastError": "trap"}}}},
        });
        let shown = human(&h);
        assert!(shown.contains("bad: no such import"), "{shown}");
        assert!(
            shown.contains("channels.webhook.accounts.default: quarantined (trap)"),
            "{shown}"
        );
    }
}
