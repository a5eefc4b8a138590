//! From the bytes of a file to [`Options`] with the place of every key.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use jsonc_parser::ast::Value as Ast;
use jsonc_parser::common::Ranged;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};
use serde_json::{Map, Number, Value};

use crate::error::{ConfigError, Problem};
use crate::options::Options;
use crate::schema;

/// Largest file that is read, in bytes.
pub(crate) const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// Deepest nesting of objects and lists.
pub(crate) const MAX_DEPTH: usize = 32;
/// Problems kept from one file.
const MAX_PROBLEMS: usize = 100;

const NEXT: &str = "mend the file and start again; it was not changed";

/// A file that was read, parsed and checked against the schema.
pub(crate) struct Source {
    pub(crate) options: Options,
    /// Byte offset of the value at each path.
    places: BTreeMap<String, usize>,
    lines: Lines,
    pub(crate) file: PathBuf,
}

impl Source {
    /// Line and column of the value at `path`, or of its nearest parent that is written.
    pub(crate) fn position(&self, path: &str) -> Option<(usize, usize)> {
        let mut path = path;
        loop {
            if let Some(at) = self.places.get(path) {
                return Some(self.lines.position(*at));
            }
            let cut = path.rfind(['.', '['])?;
            path = &path[..cut];
        }
    }
}

/// JSON5 syntax as the format says it; jsonc-parser's looser forms (missing commas) stay off.
pub(crate) fn parse_options() -> ParseOptions {
    ParseOptions {
        allow_missing_commas: false,
        ..ParseOptions::default()
    }
}

/// Parses and checks `text`. `file` is only named in errors.
pub(crate) fn parse(text: &str, file: &Path) -> Result<Source, ConfigError> {
    let lines = Lines::new(text);
    let refuse = |problems: Vec<Problem>| ConfigError {
        file: Some(file.to_owned()),
        problems,
        next: NEXT.to_owned(),
    };
    let one = |position, message: String, help: &str| {
        refuse(vec![Problem {
            position,
            path: String::new(),
            message,
            help: help.to_owned(),
        }])
    };
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(one(None, format!("larger than {MAX_FILE_BYTES} bytes"), ""));
    }
    let parsed = parse_to_ast(text, &CollectOptions::default(), &parse_options()).map_err(|e| {
        let at = lines.position(e.range().start.min(text.len()));
        one(
            Some(at),
            format!("not JSON5: {}", syntax_message(e.kind())),
            "",
        )
    })?;
    let Some(ast) = parsed.value else {
        return Err(one(
            None,
            "the file holds no configuration".to_owned(),
            "write at least {}, or remove the file and run `gateway serve` to get a commented one",
        ));
    };

    let mut found = Found {
        lines: &lines,
        problems: Vec::new(),
    };
    let mut places = BTreeMap::new();
    let json = convert(&ast, "", 1, &mut places, &mut found);
    if found.problems.is_empty() {
        let root = schema::options_schema();
        schema::check(&root, &root, &ast, "", &mut found);
    }
    let problems = found.problems;
    if !problems.is_empty() {
        return Err(refuse(problems));
    }
    // The schema is generated from the same types, so this does not fail after the check; if it does (a rule that
    // only serde knows), the file is refused all the same. serde's text may quote a value, so it is not shown.
    let options: Options = serde_json::from_value(json).map_err(|e| {
        one(
            None,
            format!("does not fit the configuration ({:?})", e.classify()),
            "",
        )
    })?;
    Ok(Source {
        options,
        places,
        lines,
        file: file.to_owned(),
    })
}

/// The parser's own words, except where they quote the text (which may be a secret).
fn syntax_message(kind: &jsonc_parser::errors::ParseErrorKind) -> String {
    use jsonc_parser::ParseStringErrorKind;
    use jsonc_parser::errors::ParseErrorKind;
    match kind {
        ParseErrorKind::String(ParseStringErrorKind::InvalidUnicodeEscapeSequence(_)) => {
            "invalid unicode escape".to_owned()
        }
        ParseErrorKind::Custom(_) => "unreadable".to_owned(),
        other => other.to_string().to_lowercase(),
    }
}

/// Problems gathered during one walk.
pub(crate) struct Found<'a> {
    lines: &'a Lines,
    problems: Vec<Problem>,
}

impl Found<'_> {
    /// Notes a problem at byte offset `at`.
    pub(crate) fn bad(&mut self, at: usize, path: &str, message: &str, help: &str) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(Problem {
                position: Some(self.lines.position(at)),
                path: path.to_owned(),
                message: message.to_owned(),
                help: help.to_owned(),
            });
        }
    }
}

/// AST → JSON, noting places, duplicate keys, depth and numbers that JSON lacks.
fn convert(
    value: &Ast<'_>,
    path: &str,
    depth: usize,
    places: &mut BTreeMap<String, usize>,
    found: &mut Found<'_>,
) -> Value {
    let at = value.range().start;
    places.insert(path.to_owned(), at);
    if depth > MAX_DEPTH {
        found.bad(
            at,
            path,
            &format!("nested deeper than {MAX_DEPTH} levels"),
            "",
        );
        return Value::Null;
    }
    match value {
        Ast::StringLit(s) => Value::String(s.value.clone().into_owned()),
        Ast::BooleanLit(b) => Value::Bool(b.value),
        Ast::NullKeyword(_) => Value::Null,
        Ast::NumberLit(n) => match number(n.value) {
            Some(number) => Value::Number(number),
            None => {
                found.bad(
                    at,
                    path,
                    "this number cannot be used",
                    "write a plain finite number",
                );
                Value::Null
            }
        },
        Ast::Array(array) => Value::Array(
            array
                .elements
                .iter()
                .enumerate()
                .map(|(i, v)| convert(v, &join_index(path, i), depth + 1, places, found))
                .collect(),
        ),
        Ast::Object(object) => {
            let mut seen = BTreeSet::new();
            let mut map = Map::new();
            for prop in &object.properties {
                let name = prop.name.as_str();
                let child = join_key(path, name);
                if !seen.insert(name) {
                    let first = places.get(&child).map(|at| found.lines.position(*at).0);
                    let help = first.map_or(String::new(), |line| format!("first on line {line}"));
                    found.bad(
                        prop.name.range().start,
                        &child,
                        "this key is there twice",
                        &help,
                    );
                    continue;
                }
                let json = convert(&prop.value, &child, depth + 1, places, found);
                map.insert(name.to_owned(), json);
            }
            Value::Object(map)
        }
    }
}

fn number(text: &str) -> Option<Number> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if let Some(hex) = digits
        .strip_prefix("0x")
        .or_else(|| digits.strip_prefix("0X"))
    {
        let n = i64::from_str_radix(hex, 16).ok()?;
        return Some(Number::from(if negative { -n } else { n }));
    }
    if !negative && let Ok(n) = digits.parse::<u64>() {
        return Some(Number::from(n));
    }
    if negative && let Ok(n) = format!("-{digits}").parse::<i64>() {
        return Some(Number::from(n));
    }
    // `f64::from_str` also reads words ("inf", "nan"); JSON5 spells them `Infinity` and `NaN`, and neither is wanted.
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    let n: f64 = digits.parse().ok()?;
    Number::from_f64(if negative { -n } else { n })
}

/// `a` + `b` → `a.b`; keys that are not plain words are quoted: `a["b c"]`.
pub(crate) fn join_key(path: &str, key: &str) -> String {
    let plain = !key.is_empty()
        && key
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    match (plain, path.is_empty()) {
        (true, true) => key.to_owned(),
        (true, false) => format!("{path}.{key}"),
        (false, _) => format!("{path}[{key:?}]"),
    }
}

/// `a` + 3 → `a[3]`.
pub(crate) fn join_index(path: &str, index: usize) -> String {
    format!("{path}[{index}]")
}

/// Byte offsets of the line starts and the text, to turn offsets into line and column.
pub(crate) struct Lines {
    text: String,
    starts: Vec<usize>,
}

impl Lines {
    fn new(text: &str) -> Self {
        let mut starts = vec![0];
        starts.extend(text.match_indices('\n').map(|(i, _)| i + 1));
        Self {
            text: text.to_owned(),
            starts,
        }
    }

    /// Line and column from 1; the column counts characters.
    fn position(&self, at: usize) -> (usize, usize) {
        let line = self.starts.partition_point(|start| *start <= at).max(1);
        let start = self.starts[line - 1];
        let column = self
            .text
            .get(start..at)
            .map_or(1, |s| s.chars().count() + 1);
        (line, column)
    }
}
