//! Boot script: gives each agent the text of `BOOT.md` in its workspace as a message, once for each start. A file that is
//! missing or blank is no reason to do anything. It does not wait for the answers: they may take minutes, and the gateway is
//! not ready before its boot scripts are over.

use gateway_guest::json;
use serde_json::{Value, json};

#[cfg(target_arch = "wasm32")]
mod script;

/// The file.
pub const FILE: &str = "BOOT.md";

/// Ids in the answer of `agents.list`.
///
/// # Errors
/// A sentence for the operator.
pub fn agents(listed: &str) -> Result<Vec<String>, String> {
    let listed = json::parse(listed.as_bytes())?;
    let rows = listed
        .get("agents")
        .and_then(Value::as_array)
        .ok_or("agents.list gave no list")?;
    Ok(rows
        .iter()
        .filter_map(|row| Some(row.get("id")?.as_str()?.to_owned()))
        .collect())
}

/// Parameters of `agents.files.get`.
#[must_use]
pub fn file_params(agent: &str) -> String {
    json!({ "agentId": agent, "name": FILE }).to_string()
}

/// The text in the answer of `agents.files.get`; `None` where there is nothing to do.
///
/// # Errors
/// A sentence for the operator.
pub fn task(file: &str) -> Result<Option<String>, String> {
    let answer = json::parse(file.as_bytes())?;
    let text = answer
        .get("file")
        .and_then(|file| file.get("content"))
        .and_then(Value::as_str);
    Ok(text
        .map(str::trim)
        .filter(|text| !text.is_empty())
        .map(str::to_owned))
}

/// Key of the session in which the agent works: one for each start.
#[must_use]
pub fn session_key(agent: &str, boot_id: &str) -> String {
    format!("agent:{agent}:boot:{boot_id}")
}

/// Parameters of `chat.send`. The key of the run is the same when a start is repeated after a crash.
#[must_use]
pub fn send_params(agent: &str, boot_id: &str, text: &str) -> String {
    json!({
        "sessionKey": session_key(agent, boot_id),
        "message": text,
        "idempotencyKey": format!("boot-md:{boot_id}:{agent}"),
    })
    .to_string()
}

/// The line for `gateway boot list`.
#[must_use]
pub fn summary(told: &[String]) -> String {
    if told.is_empty() {
        format!("no agent has a {FILE}")
    } else {
        format!("given to {}", told.join(", "))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn a_missing_or_blank_file_is_no_task() {
        for file in [
            r#"{"agentId":"main","workspace":"workspace","file":{"name":"BOOT.md","path":"BOOT.md","missing":true}}"#,
            r#"{"file":{"missing":false,"content":""}}"#,
            r#"{"file":{"missing":false,"content":" \n\t"}}"#,
        ] {
            assert_eq!(task(file), Ok(None), "{file}");
        }
        let file = r#"{"file":{"missing":false,"content":"Say hello.\n"}}"#;
        assert_eq!(task(file), Ok(Some("Say hello.".to_owned())));
        assert!(task("nonsense").is_err());
    }

    #[test]
    fn every_agent_is_asked_in_a_session_of_this_start() {
        let ids = agents(r#"{"defaultId":"a","agents":[{"id":"a"},{"id":"b"}]}"#).unwrap();
        assert_eq!(ids, ["a", "b"]);
        let params: Value = serde_json::from_str(&send_params("b", "7", "do \"it\"")).unwrap();
        assert_eq!(params["sessionKey"], "agent:b:boot:7");
        assert_eq!(params["message"], "do \"it\"");
        assert_eq!(params["idempotencyKey"], "boot-md:7:b");
        assert!(agents("{}").is_err());
        assert_eq!(summary(&[]), "no agent has a BOOT.md");
        assert_eq!(summary(&ids), "given to a, b");
    }
}
