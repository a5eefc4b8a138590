//! What a request asks for: the body of a hook, and the templates of mappings.

use gateway_config::{HookMapping, HooksSettings};
use serde_json::{Map, Value};

/// Deepest path of a template.
const TEMPLATE_DEPTH_MAX: usize = 16;

/// What a request asks for.
pub(super) enum Work {
    Wake {
        text: String,
        now: bool,
        agent: Option<String>,
    },
    Agent(Box<Ask>),
}

/// What the agent is asked.
pub(super) struct Ask {
    pub message: String,
    pub name: Option<String>,
    pub agent: Option<String>,
    pub session_key: Option<String>,
    pub deliver: bool,
    pub channel: Option<String>,
    pub to: Option<String>,
    pub model: Option<String>,
    pub timeout_ms: Option<u64>,
    pub wait: bool,
}

fn word(body: &Map<String, Value>, key: &str) -> Result<Option<String>, String> {
    match body.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.trim().is_empty() => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.trim().to_owned())),
        Some(_) => Err(format!("{key} must be text")),
    }
}

fn flag(body: &Map<String, Value>, key: &str) -> Result<Option<bool>, String> {
    match body.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(*flag)),
        Some(_) => Err(format!("{key} must be true or false")),
    }
}

pub(super) fn asked_wake(body: &Map<String, Value>) -> Result<Work, String> {
    let text = word(body, "text")?.ok_or("text required")?;
    let now = match word(body, "mode")?.as_deref() {
        None | Some("now") => true,
        Some("next-heartbeat") => false,
        Some(_) => return Err("mode must be now or next-heartbeat".to_owned()),
    };
    Ok(Work::Wake {
        text,
        now,
        agent: word(body, "agentId")?,
    })
}

pub(super) fn asked_agent(
    hooks: &HooksSettings,
    body: &Map<String, Value>,
) -> Result<Work, String> {
    let message = word(body, "message")?.ok_or("message required")?;
    let session_key = word(body, "sessionKey")?;
    if session_key.is_some() && !hooks.allow_request_session_key {
        return Err(
            "sessionKey is not allowed: hooks.allowRequestSessionKey of the configuration would allow it"
                .to_owned(),
        );
    }
    if word(body, "thinking")?.is_some_and(|level| level != "off") {
        return Err("unsupported: thinking".to_owned());
    }
    match word(body, "wakeMode")?.as_deref() {
        None | Some("now" | "next-heartbeat") => {}
        Some(_) => return Err("wakeMode must be now or next-heartbeat".to_owned()),
    }
    let timeout_ms = match body.get("timeoutSeconds") {
        None | Some(Value::Null) => None,
        Some(number) => match number.as_f64().filter(|s| (0.0..=86_400.0).contains(s)) {
            // Whole milliseconds of at most a day.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            Some(seconds) => Some((seconds * 1_000.0) as u64).filter(|ms| *ms > 0),
            None => return Err("timeoutSeconds must be a number from 0 to 86400".to_owned()),
        },
    };
    let channel = word(body, "channel")?.filter(|channel| channel != "last");
    let to = word(body, "to")?;
    if channel.is_some() != to.is_some() {
        return Err(
            "channel and to belong together: to is direct:ID, group:ID or channel:ID".to_owned(),
        );
    }
    Ok(Work::Agent(Box::new(Ask {
        message,
        name: word(body, "name")?,
        agent: word(body, "agentId")?,
        session_key,
        deliver: flag(body, "deliver")?.unwrap_or(true),
        channel,
        to,
        model: word(body, "model")?,
        timeout_ms,
        wait: flag(body, "waitForCompletion")?.unwrap_or(false),
    })))
}

pub(super) fn mapped(mapping: &HookMapping, body: &Map<String, Value>) -> Result<Work, String> {
    let text = match &mapping.template {
        Some(template) => filled(template, body),
        None => Value::Object(body.clone()).to_string(),
    };
    if text.trim().is_empty() {
        return Err("the mapping's template gives no text for this request".to_owned());
    }
    if mapping.wake {
        return Ok(Work::Wake {
            text,
            now: mapping.now,
            agent: mapping.agent.clone(),
        });
    }
    Ok(Work::Agent(Box::new(Ask {
        message: text,
        name: mapping.name.clone(),
        agent: mapping.agent.clone(),
        session_key: mapping
            .session_key
            .as_ref()
            .map(|template| filled(template, body)),
        deliver: mapping.deliver,
        channel: mapping.channel.clone(),
        to: mapping.to.clone(),
        model: None,
        timeout_ms: mapping.timeout_s.map(|s| s * 1_000),
        wait: flag(body, "waitForCompletion")?.unwrap_or(false),
    })))
}

/// Puts values of the request in the place of `{{path.to.field}}`; what is not there is nothing. A value is never read as
/// a template.
fn filled(template: &str, body: &Map<String, Value>) -> String {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let Some((path, tail)) = after.split_once("}}") else {
            break;
        };
        out.push_str(before);
        let mut found = body.get(path.trim().split('.').next().unwrap_or_default());
        for part in path.trim().split('.').skip(1).take(TEMPLATE_DEPTH_MAX) {
            found = match found {
                Some(Value::Object(map)) => map.get(part),
                Some(Value::Array(items)) => part.parse::<usize>().ok().and_then(|i| items.get(i)),
                _ => None,
            };
        }
        match found {
            None | Some(Value::Null) => {}
            Some(Value::String(text)) => out.push_str(text),
            Some(other) => out.push_str(&other.to_string()),
        }
        rest = tail;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::filled;
    use serde_json::json;

    #[test]
    fn templates_take_values_and_nothing_else() {
        let body = json!({"a": {"b": ["x", {"c": "deep {{a.n}}"}], "n": 7}, "t": true, "z": null});
        let body = body.as_object().cloned().unwrap_or_default();
        for (template, expect) in [
            ("plain", "plain"),
            ("{{a.n}} and {{ t }}", "7 and true"),
            ("{{a.b.0}}|{{a.b.1.c}}", "x|deep {{a.n}}"),
            ("{{missing}}{{a.b.9}}{{z}}.", "."),
            ("{{a.b}}", r#"["x",{"c":"deep {{a.n}}"}]"#),
            ("open {{a.n", "open {{a.n"),
            ("{{}}", ""),
        ] {
            assert_eq!(filled(template, &body), expect, "{template}");
        }
    }
}
