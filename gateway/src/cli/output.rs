//! What is printed: for people or as JSON, and how the program ends.

use std::io::{self, Write};
use std::process::ExitCode;

use gateway_client::{ClientError, ErrorKind};
use gateway_config::ConfigError;
use gateway_core::cron::schedule::rfc3339;
use serde_json::{Value, json};

/// How the program ends. The numbers are part of the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 1: it did not work.
    Failure = 1,
    /// 2: it was asked for something that cannot be.
    Usage = 2,
    /// 3: no gateway could be reached.
    Connect = 3,
    /// 4: the gateway refused the credential or the scope.
    Refused = 4,
    /// 78: the configuration is wrong (`EX_CONFIG`).
    Config = 78,
}

/// The table of exit codes, for `--help`.
pub const EXIT_CODES: &str = "\
Exit codes:
  0   done
  1   it did not work; the message says why
  2   the command line is wrong
  3   no gateway could be reached
  4   the gateway refused the credential or the scope
  78  the configuration is wrong; the message names file, line and column

Environment:
  GATEWAY_STATE_DIR  state directory (default $XDG_STATE_HOME/gateway, else ~/.gateway)
  GATEWAY_TOKEN      token: of the gateway that `serve` starts, or to reach one with
  GATEWAY_URL        address of the gateway to talk to
  GATEWAY_TLS_FINGERPRINT
                     SHA-256 fingerprint of that gateway's certificate";

/// Why a command failed, and what to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The code to end with.
    pub exit: Exit,
    /// What happened.
    pub message: String,
    /// What to do.
    pub next: String,
    /// The gateway's error object, if it sent one.
    pub error: Option<Box<Value>>,
}

impl Failure {
    /// A failure in words.
    pub fn new(exit: Exit, message: impl Into<String>, next: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            next: next.into(),
            error: None,
        }
    }

    /// Prints to stderr and gives the code.
    pub fn report(&self, as_json: bool) -> ExitCode {
        let mut err = io::stderr().lock();
        // If stderr is gone, the code is what is left.
        let _ = if as_json {
            let mut shown =
                json!({ "message": self.message, "next": self.next, "exitCode": self.exit as u8 });
            if let Some(error) = &self.error {
                shown["gateway"] = (**error).clone();
            }
            writeln!(err, "{}", json!({ "error": shown }))
        } else {
            writeln!(
                err,
                "error: {}\nnext: {}",
                clean_lines(&self.message),
                clean(&self.next)
            )
        };
        ExitCode::from(self.exit as u8)
    }
}

impl From<ClientError> for Failure {
    fn from(e: ClientError) -> Self {
        let exit = match e.kind() {
            ErrorKind::Usage => Exit::Usage,
            ErrorKind::Connect => Exit::Connect,
            ErrorKind::Refused => Exit::Refused,
            ErrorKind::Failed => Exit::Failure,
        };
        let error = match &e {
            ClientError::Rpc { error, .. } | ClientError::Refused { error, .. } => {
                Some(Box::new(json!({
                    "code": error.code, "message": error.message, "details": error.details,
                    "retryable": error.retryable, "retryAfterMs": error.retry_after_ms,
                })))
            }
            _ => None,
        };
        Self {
            error,
            ..Self::new(exit, e.to_string(), e.next_step())
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(e: ConfigError) -> Self {
        Self::new(Exit::Config, e.to_string(), e.next)
    }
}

impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Self {
        Self::new(
            Exit::Failure,
            e.to_string(),
            "check the disk and the permissions",
        )
    }
}

/// Text without control characters (they could drive the terminal): `\u{…}` stands for each.
pub fn clean(text: &str) -> String {
    gateway_core::logs::escape(text).into_owned()
}

/// Like [`clean`], but line breaks stay.
pub fn clean_lines(text: &str) -> String {
    let lines: Vec<String> = text.split('\n').map(clean).collect();
    lines.join("\n")
}

/// Prints a result: as one JSON document with `--json`, else by `human`.
pub fn print(
    as_json: bool,
    value: &Value,
    human: impl FnOnce(&Value) -> String,
) -> Result<(), Failure> {
    let text = if as_json {
        serde_json::to_string_pretty(value)
            .map_err(|e| Failure::new(Exit::Failure, e.to_string(), "report this"))?
    } else {
        human(value)
    };
    print_text(&text)
}

/// Prints text and a line end. A reader that has gone (`| head`) is not a failure.
pub fn print_text(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// Rows under headings, columns two blanks apart. `empty` is said when there are none.
pub fn table(headings: &[&str], rows: &[Vec<String>], empty: &str) -> String {
    if rows.is_empty() {
        return empty.to_owned();
    }
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|r| r.iter().map(|c| clean(c)).collect())
        .collect();
    let width = |i: usize| {
        let cells = rows
            .iter()
            .filter_map(|r| r.get(i))
            .map(|c| c.chars().count());
        cells
            .chain([headings[i].chars().count()])
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut out = String::new();
        for (cell, width) in cells.zip(&widths) {
            let pad = width - cell.chars().count() + 2;
            out.push_str(cell);
            out.extend(std::iter::repeat_n(' ', pad));
        }
        out.trim_end().to_owned()
    };
    let mut lines = vec![line(&mut headings.iter().copied())];
    lines.extend(rows.iter().map(|r| line(&mut r.iter().map(String::as_str))));
    lines.join("\n")
}

/// A text member, or `-`.
pub fn text(value: &Value, key: &str) -> String {
    match value.get(key) {
        Some(Value::String(s)) if !s.is_empty() => s.clone(),
        Some(Value::Bool(b)) => if *b { "yes" } else { "no" }.to_owned(),
        Some(Value::Number(n)) => n.to_string(),
        _ => "-".to_owned(),
    }
}

/// Milliseconds as `2 h 3 min`.
pub fn duration(ms: u64) -> String {
    let s = ms / 1_000;
    match s {
        0..=59 => format!("{s} s"),
        60..=3_599 => format!("{} min {} s", s / 60, s % 60),
        3_600..=86_399 => format!("{} h {} min", s / 3_600, s % 3_600 / 60),
        _ => format!("{} d {} h", s / 86_400, s % 86_400 / 3_600),
    }
}

/// Enough of an id to tell devices and nodes apart.
pub fn short(id: &str) -> String {
    id.chars().take(12).collect()
}

/// The words of a list, scopes without their family; `-` for none.
pub fn words(list: &Value) -> String {
    let words: Vec<&str> = list
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(|word| word.strip_prefix("operator.").unwrap_or(word))
        .collect();
    if words.is_empty() {
        "-".to_owned()
    } else {
        words.join(" ")
    }
}

/// A time in Unix epoch ms, for people; `-` for none.
pub fn when(value: &Value, key: &str) -> String {
    value[key].as_i64().map_or_else(|| "-".to_owned(), rfc3339)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_drives_the_terminal() {
        assert_eq!(
            clean("a\u{1b}[2Jb\r\nc\u{202e}d\u{9b}"),
            "a\\u{1b}[2Jb\\u{d}\\nc\\u{202e}d\\u{9b}"
        );
        assert_eq!(clean_lines("a\nb\u{7}"), "a\nb\\u{7}");
        let rows = vec![vec!["x\u{1b}]0;t\u{7}".to_owned(), "ü".to_owned()]];
        assert_eq!(
            table(&["A", "LONG"], &rows, "none"),
            "A                 LONG\nx\\u{1b}]0;t\\u{7}  ü"
        );
        assert_eq!(table(&["A"], &[], "none"), "none");
    }

    #[test]
    fn durations_read_well() {
        assert_eq!(duration(1_999), "1 s");
        assert_eq!(duration(61_000), "1 min 1 s");
        assert_eq!(duration(7_380_000), "2 h 3 min");
        assert_eq!(duration(90_000_000), "1 d 1 h");
    }
}
