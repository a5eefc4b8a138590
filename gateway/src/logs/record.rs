//! One thing that happened, as it waits to be written, and its two forms: a line for people and a JSON object.

use std::fmt::{self, Write as _};
use std::time::{SystemTime, UNIX_EPOCH};

use gateway_config::LogFormat;
use gateway_core::cron::schedule::rfc3339;
use gateway_core::logs::{REDACTED, Redactor, escape, is_secret_name, turns_text};
use tracing::field::{Field, Visit};

/// Longest record, in bytes of its texts; the rest of a longer one is cut.
pub const MAX_RECORD_BYTES: usize = 16 * 1024;

/// A value of a record.
#[derive(Debug, Clone, PartialEq)]
enum Value {
    Text(String),
    /// A number or a truth value, as JSON writes it.
    Plain(String),
}

/// One record.
#[derive(Debug)]
pub struct Record {
    at_ms: i64,
    level: &'static str,
    target: &'static str,
    message: String,
    fields: Vec<(&'static str, Value)>,
    room: usize,
}

impl Record {
    pub fn of(event: &tracing::Event<'_>) -> Self {
        let meta = event.metadata();
        let mut record = Self::new(meta.level().as_str(), meta.target());
        event.record(&mut record);
        record
    }

    fn new(level: &'static str, target: &'static str) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            at_ms: since
                .ok()
                .and_then(|d| i64::try_from(d.as_millis()).ok())
                .unwrap_or(0),
            level,
            target,
            message: String::new(),
            fields: Vec::new(),
            room: MAX_RECORD_BYTES,
        }
    }

    #[cfg(test)]
    pub fn plain_text(text: &str) -> Self {
        let mut record = Self::new("INFO", "gateway::test");
        text.clone_into(&mut record.message);
        record.room -= text.len();
        record
    }

    /// Bytes that it holds, about.
    pub fn weight(&self) -> usize {
        MAX_RECORD_BYTES - self.room + 128
    }

    /// The record as one line with its line break, without secrets.
    pub fn line(&self, format: LogFormat, redactor: &Redactor) -> String {
        let clean = |name: &str, text: &str| match is_secret_name(name) {
            true => REDACTED.to_owned(),
            false => redactor.clean(text),
        };
        let time = rfc3339(self.at_ms);
        let mut out = String::with_capacity(160);
        match format {
            LogFormat::Text => {
                let message = redactor.clean(&self.message);
                // Writing into a String does not fail.
                let _ = write!(
                    out,
                    "{time} {:>5} {}: {}",
                    self.level,
                    self.target,
                    escape(&message)
                );
                for (name, value) in &self.fields {
                    match value {
                        Value::Plain(value) => {
                            let _ = write!(out, " {name}={value}");
                        }
                        Value::Text(text) => {
                            let text = clean(name, text);
                            let text = escape(&text);
                            let bare = !text.is_empty()
                                && !text
                                    .contains(|c: char| c.is_whitespace() || c == '"' || c == '=');
                            let _ = match bare {
                                true => write!(out, " {name}={text}"),
                                false => write!(out, " {name}=\"{}\"", text.replace('"', "\\\"")),
                            };
                        }
                    }
                }
            }
            LogFormat::Json => {
                let _ = write!(
                    out,
                    "{{\"time\":\"{time}\",\"level\":\"{}\",\"target\":",
                    self.level
                );
                push_json(&mut out, self.target);
                out.push_str(",\"message\":");
                push_json(&mut out, &redactor.clean(&self.message));
                for (name, value) in &self.fields {
                    // A field may not stand in the place of those above.
                    let own = matches!(*name, "time" | "level" | "target" | "message");
                    out.push(',');
                    push_json(&mut out, &format!("{}{name}", if own { "_" } else { "" }));
                    out.push(':');
                    match value {
                        Value::Plain(value) => out.push_str(value),
                        Value::Text(text) => push_json(&mut out, &clean(name, text)),
                    }
                }
                out.push('}');
            }
        }
        out.push('\n');
        out
    }

    fn text(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = Bounded {
            out: String::new(),
            room: self.room,
        };
        // An error means that it is full: what fits is kept.
        let _ = write!(text, "{value:?}");
        self.room = text.room;
        let text = text.out;
        match field.name() {
            "message" => self.message = text,
            name => self.fields.push((name, Value::Text(text))),
        }
    }

    fn plain(&mut self, field: &Field, value: String) {
        self.room = self.room.saturating_sub(value.len());
        self.fields.push((field.name(), Value::Plain(value)));
    }
}

impl Visit for Record {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, &format_args!("{value}"));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.plain(field, value.to_string());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.plain(field, value.to_string());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.plain(field, value.to_string());
    }
}

/// Keeps what fits.
struct Bounded {
    out: String,
    room: usize,
}

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if text.len() <= self.room {
            self.room -= text.len();
            self.out.push_str(text);
            return Ok(());
        }
        let mut cut = self.room;
        while !text.is_char_boundary(cut) {
            cut -= 1;
        }
        self.out.push_str(&text[..cut]);
        self.out.push('…');
        self.room = 0;
        Err(fmt::Error)
    }
}

/// A JSON text in which no character drives a terminal or turns the line.
fn push_json(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            // All of them are in the first plane of Unicode.
            c if c.is_control() || turns_text(c) => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn record(message: &str, fields: &[(&'static str, &str)]) -> Record {
        let mut record = Record::new("INFO", "gateway::t");
        record.at_ms = 1_800_000_000_123;
        record.message = message.to_owned();
        for (name, text) in fields {
            record.fields.push((name, Value::Text((*text).to_owned())));
        }
        record
    }

    /// Covers: N18.
    #[test]
    fn both_forms_keep_one_line_and_no_secret() {
        let redactor = Redactor::new(["p\"ss\\w0rd".to_owned()]);
        let hostile = "x\u{1b}[31m\nforged p\"ss\\w0rd \u{202e}\u{9b}";
        let record = record(
            hostile,
            &[
                ("agent", hostile),
                ("api_key", "unknown"),
                ("level", "FAKE"),
                ("empty", ""),
            ],
        );
        let text = record.line(LogFormat::Text, &redactor);
        assert_eq!(
            text,
            "2027-01-15T08:00:00.123Z  INFO gateway::t: x\\u{1b}[31m\\nforged __OPENCLAW_REDACTED__ \\u{202e}\\u{9b} \
             agent=\"x\\u{1b}[31m\\nforged __OPENCLAW_REDACTED__ \\u{202e}\\u{9b}\" api_key=__OPENCLAW_REDACTED__ level=FAKE empty=\"\"\n"
        );
        let json = record.line(LogFormat::Json, &redactor);
        assert!(
            json.ends_with("}\n")
                && json
                    .trim_end()
                    .chars()
                    .all(|c| !c.is_control() && !turns_text(c))
        );
        let read: serde_json::Value = serde_json::from_str(&json).unwrap();
        let clean = "x\u{1b}[31m\nforged __OPENCLAW_REDACTED__ \u{202e}\u{9b}";
        assert_eq!(read["message"], clean);
        assert_eq!(read["agent"], clean);
        assert_eq!(
            (&read["level"], &read["_level"]),
            (&"INFO".into(), &"FAKE".into())
        );
        assert_eq!(read["api_key"], "__OPENCLAW_REDACTED__");
        assert_eq!(read["time"], "2027-01-15T08:00:00.123Z");
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        let mut text = Bounded {
            out: String::new(),
            room: 5,
        };
        assert!(write!(text, "äää").is_err());
        assert_eq!(text.out, "ää…");
    }
}
