//! Tools that agents may call, and the one catalog through which every source of them is reached.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use gateway_protocol::ids::RunId;
use gateway_protocol::session_key::SessionKey;
use serde_json::{Value, json};

use crate::agent::limits::{
    TOOL_ARGUMENTS_MAX_BYTES, TOOL_CALL_MAX_MS, TOOL_RESULT_MAX_BYTES, TOOLS_MAX,
};
use crate::clock::Clock;

/// What a model is told about a tool.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolSpec {
    /// Name: letters, digits, `_` and `-`, at most 64.
    pub name: String,
    /// What it does, for the model.
    pub description: String,
    /// JSON Schema (of type object) of its arguments.
    pub parameters: Value,
}

/// For whom a tool is called.
#[derive(Debug, Clone)]
pub struct ToolCx {
    /// The run.
    pub run_id: RunId,
    /// Its session.
    pub session_key: SessionKey,
    /// The model that asked.
    pub model: Arc<str>,
    /// Messages of the conversation so far.
    pub messages: usize,
}

/// One tool.
pub trait Tool: Send + Sync + 'static {
    /// What it is.
    fn spec(&self) -> &ToolSpec;
    /// Does it. `arguments` were checked against the schema. The text goes to the model; an `Err` is told to it as an error.
    fn call<'a>(
        &'a self,
        cx: &'a ToolCx,
        arguments: &'a Value,
    ) -> BoxFuture<'a, Result<String, String>>;
}

/// Is asked before a tool is called.
pub trait ToolGuard: Send + Sync + 'static {
    /// Whether it may be called with these arguments (JSON as it was written, and checked); why not otherwise. The text is
    /// told to the model.
    fn check<'a>(
        &'a self,
        cx: &'a ToolCx,
        tool: &'a str,
        arguments: &'a str,
    ) -> BoxFuture<'a, Result<(), String>>;
}

/// What came of a tool call; always something that can be told to the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolOutcome {
    /// The text for the model.
    pub text: String,
    /// Whether it is an error.
    pub is_error: bool,
}

/// The tools of one agent, by name. The default has none.
#[derive(Clone, Default)]
pub struct ToolCatalog {
    tools: BTreeMap<String, Arc<dyn Tool>>,
    guard: Option<Arc<dyn ToolGuard>>,
}

impl fmt::Debug for ToolCatalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.tools.keys()).finish()
    }
}

/// Why a catalog cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogError {
    /// There is no built-in tool of this name.
    #[error("there is no built-in tool {0:?} (there are: {known})", known = BUILTIN.join(", "))]
    Unknown(String),
    /// Two tools of one name.
    #[error("there are two tools named {0:?}")]
    Twice(String),
    /// Too many tools.
    #[error("there are more than {TOOLS_MAX} tools")]
    TooMany,
}

/// Names of the built-in tools.
pub const BUILTIN: [&str; 2] = ["current_time", "session_info"];

impl ToolCatalog {
    /// The catalog of these built-in tools.
    ///
    /// # Errors
    /// If a name is not one of [`BUILTIN`], or comes twice.
    pub fn builtin(names: &[String], clock: &Arc<dyn Clock>) -> Result<Self, CatalogError> {
        let mut catalog = Self::default();
        for name in names {
            let tool: Arc<dyn Tool> = match name.as_str() {
                "current_time" => Arc::new(CurrentTime::new(clock.clone())),
                "session_info" => Arc::new(SessionInfo::new()),
                _ => return Err(CatalogError::Unknown(name.clone())),
            };
            catalog.add(tool)?;
        }
        Ok(catalog)
    }

    /// Adds a tool.
    ///
    /// # Errors
    /// If there is one of its name already, or no room.
    pub fn add(&mut self, tool: Arc<dyn Tool>) -> Result<(), CatalogError> {
        let name = tool.spec().name.clone();
        if self.tools.len() >= TOOLS_MAX {
            return Err(CatalogError::TooMany);
        }
        if self.tools.contains_key(&name) {
            return Err(CatalogError::Twice(name));
        }
        self.tools.insert(name, tool);
        Ok(())
    }

    /// The same tools, with somebody who is asked before each call.
    #[must_use]
    pub fn guarded(&self, guard: Arc<dyn ToolGuard>) -> Self {
        Self {
            tools: self.tools.clone(),
            guard: Some(guard),
        }
    }

    /// The tool of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<dyn Tool>> {
        self.tools.get(name)
    }

    /// True without tools.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tools.is_empty()
    }

    /// What the models are told, by name.
    pub fn specs(&self) -> impl Iterator<Item = &ToolSpec> {
        self.tools.values().map(|t| t.spec())
    }

    /// Calls a tool with arguments as the model wrote them (JSON text; empty means `{}`). Never fails: what goes wrong is told
    /// to the model as an error result.
    pub async fn call(&self, cx: &ToolCx, name: &str, arguments: &str) -> ToolOutcome {
        let error = |text: String| ToolOutcome {
            text: cut(text),
            is_error: true,
        };
        let Some(tool) = self.tools.get(name) else {
            return error(format!("there is no tool named {}", short(name)));
        };
        let (written, parsed) = (arguments, parse_arguments(arguments));
        let arguments = match parsed {
            Ok(value) => value,
            Err(why) => return error(why),
        };
        if let Err(why) = check_schema(&tool.spec().parameters, &arguments, "arguments") {
            return error(why);
        }
        if let Some(guard) = &self.guard
            && let Err(why) = guard.check(cx, name, written).await
        {
            return error(why);
        }
        match tokio::time::timeout(
            Duration::from_millis(TOOL_CALL_MAX_MS),
            tool.call(cx, &arguments),
        )
        .await
        {
            Ok(Ok(text)) => ToolOutcome {
                text: cut(text),
                is_error: false,
            },
            Ok(Err(why)) => error(why),
            Err(_) => error(format!("the tool took longer than {TOOL_CALL_MAX_MS} ms")),
        }
    }
}

/// Reads a tool call's arguments; empty text means no arguments.
pub(crate) fn parse_arguments(text: &str) -> Result<Value, String> {
    if text.len() > TOOL_ARGUMENTS_MAX_BYTES {
        return Err(format!(
            "the arguments are longer than {TOOL_ARGUMENTS_MAX_BYTES} bytes"
        ));
    }
    if text.trim().is_empty() {
        return Ok(json!({}));
    }
    serde_json::from_str(text).map_err(|e| format!("the arguments are not JSON: {e}"))
}

fn short(name: &str) -> String {
    name.chars().take(64).filter(|c| !c.is_control()).collect()
}

fn cut(mut text: String) -> String {
    if text.len() > TOOL_RESULT_MAX_BYTES {
        text.truncate(text.floor_char_boundary(TOOL_RESULT_MAX_BYTES));
        text.push_str("\n[cut: the result is longer than allowed]");
    }
    text
}

/// Checks a value against the small part of JSON Schema that tool descriptions use: `type`, `required`, `properties`,
/// `additionalProperties: false`, `enum`, `items`, `minimum`, `maximum`. Other keywords are for the model to read.
fn check_schema(schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    if let Some(wanted) = schema.get("type").and_then(Value::as_str) {
        let fits = match wanted {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "null" => value.is_null(),
            "number" => value.is_number(),
            "integer" => {
                value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|f| f.fract() == 0.0)
            }
            _ => true,
        };
        if !fits {
            return Err(format!("{at} must be of type {wanted}"));
        }
    }
    if let Some(allowed) = schema.get("enum").and_then(Value::as_array)
        && !allowed.contains(value)
    {
        return Err(format!("{at} is not one of the allowed values"));
    }
    if let Some(number) = value.as_f64() {
        let bound = |key: &str| schema.get(key).and_then(Value::as_f64);
        if bound("minimum").is_some_and(|min| number < min)
            || bound("maximum").is_some_and(|max| number > max)
        {
            return Err(format!("{at} is out of range"));
        }
    }
    if let (Some(items), Some(list)) = (schema.get("items"), value.as_array()) {
        for (i, item) in list.iter().enumerate() {
            check_schema(items, item, &format!("{at}[{i}]"))?;
        }
    }
    let Some(object) = value.as_object() else {
        return Ok(());
    };
    for name in schema
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
    {
        if !object.contains_key(name) {
            return Err(format!("{at}.{name} is missing"));
        }
    }
    let properties = schema.get("properties").and_then(Value::as_object);
    for (name, item) in object {
        match properties.and_then(|p| p.get(name)) {
            Some(inner) => check_schema(inner, item, &format!("{at}.{}", short(name)))?,
            None if schema.get("additionalProperties") == Some(&Value::Bool(false)) => {
                return Err(format!("{at}.{} is not known", short(name)));
            }
            None => {}
        }
    }
    Ok(())
}

/// `current_time`: the host's wall clock.
struct CurrentTime {
    spec: ToolSpec,
    clock: Arc<dyn Clock>,
}

impl CurrentTime {
    fn new(clock: Arc<dyn Clock>) -> Self {
        let spec = ToolSpec {
            name: "current_time".into(),
            description: "Tells the current date and time, by default in UTC.".into(),
            parameters: json!({
                "type": "object",
                "properties": {
                    "utc_offset_minutes": {
                        "type": "integer", "minimum": -1440, "maximum": 1440,
                        "description": "Minutes to add to UTC for the wanted place, for example 60 or -480."
                    }
                },
                "additionalProperties": false
            }),
        };
        Self { spec, clock }
    }
}

impl Tool for CurrentTime {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn call<'a>(
        &'a self,
        _cx: &'a ToolCx,
        arguments: &'a Value,
    ) -> BoxFuture<'a, Result<String, String>> {
        Box::pin(async move {
            let offset = arguments
                .get("utc_offset_minutes")
                .and_then(Value::as_f64)
                .unwrap_or(0.0) as i64;
            Ok(rfc3339(self.clock.now_ms().div_euclid(1000), offset))
        })
    }
}

/// `session_info`: what the run knows about itself.
struct SessionInfo {
    spec: ToolSpec,
}

impl SessionInfo {
    fn new() -> Self {
        let spec = ToolSpec {
            name: "session_info".into(),
            description: "Tells the key of this conversation, the model and how many messages were given to it.".into(),
            parameters: json!({ "type": "object", "properties": {}, "additionalProperties": false }),
        };
        Self { spec }
    }
}

impl Tool for SessionInfo {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn call<'a>(
        &'a self,
        cx: &'a ToolCx,
        _arguments: &'a Value,
    ) -> BoxFuture<'a, Result<String, String>> {
        Box::pin(async move {
            let told = json!({
                "sessionKey": cx.session_key.as_str(), "runId": cx.run_id.as_str(),
                "model": &*cx.model, "messages": cx.messages,
            });
            Ok(told.to_string())
        })
    }
}

/// `2026-11-22T15:14:38+01:00, Sunday` from seconds since the epoch.
fn rfc3339(epoch_s: i64, offset_minutes: i64) -> String {
    const DAYS: [&str; 7] = [
        "Thursday",
        "Friday",
        "Saturday",
        "Sunday",
        "Monday",
        "Tuesday",
        "Wednesday",
    ];
    let local = epoch_s + offset_minutes * 60;
    let (days, second) = (local.div_euclid(86_400), local.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let weekday = usize::try_from(days.rem_euclid(7))
        .ok()
        .and_then(|d| DAYS.get(d))
        .copied()
        .unwrap_or_default();
    let zone = if offset_minutes == 0 {
        "Z".to_string()
    } else {
        let sign = if offset_minutes < 0 { '-' } else { '+' };
        format!(
            "{sign}{:02}:{:02}",
            offset_minutes.abs() / 60,
            offset_minutes.abs() % 60
        )
    };
    let (h, m, s) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}{zone}, {weekday}")
}

/// Year, month and day of a day counted from 1970-01-01 (proleptic Gregorian, years of 400-year cycles starting in March).
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use crate::clock::ManualClock;

    fn cx() -> ToolCx {
        ToolCx {
            run_id: RunId::parse("run-1").unwrap(),
            session_key: SessionKey::parse("agent:main:main").unwrap(),
            model: "m".into(),
            messages: 3,
        }
    }

    fn catalog() -> ToolCatalog {
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(1_709_210_096_789));
        ToolCatalog::builtin(&["current_time".into(), "session_info".into()], &clock).unwrap()
    }

    #[tokio::test]
    async fn the_built_in_tools_answer() {
        let catalog = catalog();
        assert_eq!(
            catalog.call(&cx(), "current_time", "").await.text,
            "2024-02-29T12:34:56Z, Thursday"
        );
        let there = catalog
            .call(&cx(), "current_time", r#"{"utc_offset_minutes":-765}"#)
            .await;
        assert_eq!(
            there,
            ToolOutcome {
                text: "2024-02-28T23:49:56-12:45, Wednesday".into(),
                is_error: false
            }
        );
        let info = catalog.call(&cx(), "session_info", "{}").await;
        assert!(
            info.text.contains("agent:main:main") && !info.is_error,
            "{info:?}"
        );
    }

    #[test]
    fn days_are_the_right_dates() {
        for (days, want) in [
            (0, (1970, 1, 1)),
            (-1, (1969, 12, 31)),
            (11_016, (2000, 2, 29)),
            (47_541, (2100, 3, 1)),
            (20_779, (2026, 11, 22)),
        ] {
            assert_eq!(civil(days), want);
        }
        // Each day follows the one before.
        let mut before = civil(-200_000);
        for days in -199_999..200_000 {
            let now = civil(days);
            assert!(
                now.2 == before.2 + 1 || now.2 == 1 && now != before,
                "{before:?} {now:?}"
            );
            before = now;
        }
    }

    #[tokio::test]
    async fn bad_arguments_are_told_to_the_model_as_errors() {
        let catalog = catalog();
        for (name, arguments, want) in [
            ("rm_rf", "{}", "no tool named rm_rf"),
            ("current_time", "{", "not JSON"),
            ("current_time", "[]", "must be of type object"),
            (
                "current_time",
                r#"{"utc_offset_minutes":"1"}"#,
                "must be of type integer",
            ),
            (
                "current_time",
                r#"{"utc_offset_minutes":1.5}"#,
                "must be of type integer",
            ),
            (
                "current_time",
                r#"{"utc_offset_minutes":9999}"#,
                "out of range",
            ),
            ("session_info", r#"{"tenant":"other"}"#, "not known"),
        ] {
            let outcome = catalog.call(&cx(), name, arguments).await;
            assert!(
                outcome.is_error && outcome.text.contains(want),
                "{name} {arguments}: {outcome:?}"
            );
        }
        let huge = format!("\"{}\"", "x".repeat(TOOL_ARGUMENTS_MAX_BYTES));
        assert!(
            catalog
                .call(&cx(), "current_time", &huge)
                .await
                .text
                .contains("longer than")
        );
    }

    struct Odd(ToolSpec);

    impl Tool for Odd {
        fn spec(&self) -> &ToolSpec {
            &self.0
        }
        fn call<'a>(
            &'a self,
            _cx: &'a ToolCx,
            arguments: &'a Value,
        ) -> BoxFuture<'a, Result<String, String>> {
            Box::pin(async move {
                if arguments.get("hang").is_some() {
                    std::future::pending::<()>().await;
                }
                Ok("é".repeat(TOOL_RESULT_MAX_BYTES))
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_tool_that_hangs_or_floods_is_bounded() {
        let mut catalog = catalog();
        let parameters = json!({
            "type": "object", "required": ["list"],
            "properties": { "list": { "type": "array", "items": { "enum": ["a", "b"] } } }
        });
        let odd: Arc<dyn Tool> = Arc::new(Odd(ToolSpec {
            name: "odd".into(),
            description: String::new(),
            parameters,
        }));
        catalog.add(odd.clone()).unwrap();
        assert_eq!(catalog.add(odd), Err(CatalogError::Twice("odd".into())));
        let hung = catalog.call(&cx(), "odd", r#"{"list":[],"hang":1}"#).await;
        assert!(
            hung.is_error && hung.text.contains("took longer"),
            "{hung:?}"
        );
        let flood = catalog.call(&cx(), "odd", r#"{"list":["a","b"]}"#).await;
        assert!(
            !flood.is_error
                && flood.text.len() < TOOL_RESULT_MAX_BYTES + 100
                && flood.text.contains("[cut")
        );
        assert!(
            catalog
                .call(&cx(), "odd", "{}")
                .await
                .text
                .contains("arguments.list is missing")
        );
        assert!(
            catalog
                .call(&cx(), "odd", r#"{"list":["c"]}"#)
                .await
                .text
                .contains("list[0]")
        );
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(0));
        assert!(
            ToolCatalog::builtin(&["bash".into()], &clock)
                .unwrap_err()
                .to_string()
                .contains("current_time")
        );
    }
}
