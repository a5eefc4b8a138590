//! From the bytes of a file (and those that it includes) to [`Options`] with the place of every key.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use jsonc_parser::ast::Value as Ast;
use jsonc_parser::common::Ranged;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};
use serde_json::{Map, Number, Value};
use sha2::{Digest, Sha256};

use crate::error::{ConfigError, Problem};
use crate::expand;
use crate::include::{Files, Including};
use crate::options::Options;
use crate::schema;

/// Largest file that is read, in bytes.
pub(crate) const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// Deepest nesting of objects and lists.
pub(crate) const MAX_DEPTH: usize = 32;
/// Problems kept from one file.
const MAX_PROBLEMS: usize = 100;
/// Key whose value names files to be put in its place.
pub(crate) const INCLUDE: &str = "$include";

const NEXT: &str = "mend the file and start again; it was not changed";

/// A configuration that was read, parsed and checked against the schema.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) options: Options,
    /// Everything that is written, with included files in place and `${NAME}` filled in. Secrets stand in it as they
    /// are written, so it is never shown.
    pub(crate) tree: Value,
    /// File and byte offset of the value at each path.
    places: BTreeMap<String, (usize, usize)>,
    /// Environment variables in the text at each path.
    from_env: BTreeMap<String, Vec<String>>,
    texts: Vec<Text>,
    pub(crate) file: PathBuf,
}

/// One file that was read: its name below the folder of the configuration, and its text.
#[derive(Debug)]
pub(crate) struct Text {
    pub(crate) name: PathBuf,
    lines: Lines,
}

impl Source {
    /// Line and column of the value at `path`, or of its nearest parent that is written; with the included file that it
    /// stands in.
    pub(crate) fn place(&self, path: &str) -> Option<(Option<PathBuf>, (usize, usize))> {
        let mut path = path;
        loop {
            if let Some((file, at)) = self.places.get(path) {
                let text = self.texts.get(*file)?;
                let included = (*file > 0).then(|| self.beside(&text.name));
                return Some((included, text.lines.position(*at)));
            }
            let cut = path.rfind(['.', '['])?;
            path = &path[..cut];
        }
    }

    /// As [`Source::place`], only for what is written itself.
    pub(crate) fn exact_place(&self, path: &str) -> Option<(Option<PathBuf>, (usize, usize))> {
        self.places.get(path)?;
        self.place(path)
    }

    /// The variables that are put into the text at `path`.
    pub(crate) fn env_of(&self, path: &str) -> &[String] {
        self.from_env.get(path).map_or(&[], Vec::as_slice)
    }

    /// Names of the included files, below the folder of the configuration, in the order of their reading.
    pub(crate) fn included(&self) -> impl Iterator<Item = &Path> {
        self.texts.iter().skip(1).map(|t| t.name.as_path())
    }

    /// Name and text of every file, the configuration itself first.
    pub(crate) fn texts(&self) -> impl Iterator<Item = (&Path, &str)> {
        self.texts
            .iter()
            .map(|t| (t.name.as_path(), t.lines.text.as_str()))
    }

    /// Lower-case hex SHA-256 of the file's bytes; with included files, of all of them.
    pub(crate) fn hash(&self, raw: &str) -> String {
        if self.texts.len() == 1 {
            return crate::load::hex(&Sha256::digest(raw.as_bytes()));
        }
        let mut hash = Sha256::new();
        for (i, text) in self.texts.iter().enumerate() {
            let bytes = if i == 0 { raw } else { &text.lines.text };
            let name = text.name.to_string_lossy();
            // Lengths keep two neighbours from being read as one.
            hash.update((name.len() as u64).to_be_bytes());
            hash.update(name.as_bytes());
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes.as_bytes());
        }
        crate::load::hex(&hash.finalize())
    }

    /// Where a file below the folder of the configuration is.
    pub(crate) fn beside(&self, name: &Path) -> PathBuf {
        self.file.parent().map_or(name.to_owned(), |d| d.join(name))
    }
}

/// JSON5 syntax as the format says it; jsonc-parser's looser forms (missing commas) stay off.
pub(crate) fn parse_options() -> ParseOptions {
    ParseOptions {
        allow_missing_commas: false,
        ..ParseOptions::default()
    }
}

/// Reads environment variables.
pub(crate) type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Parses and checks `text`, reading what it includes from `files`. `file` is named in errors, and included files are
/// looked for in its folder.
pub(crate) fn parse(
    text: &str,
    file: &Path,
    files: &Files<'_>,
    env: Env<'_>,
) -> Result<Source, ConfigError> {
    let schema = schema::options_schema();
    let mut reader = Reader {
        schema: &schema,
        env,
        places: BTreeMap::new(),
        from_env: BTreeMap::new(),
        texts: Vec::new(),
        problems: Vec::new(),
        including: Including::new(files, file),
    };
    let name = file
        .file_name()
        .map_or_else(|| file.to_owned(), PathBuf::from);
    let json = reader.file(name, text, "", Some(&schema), 1);
    let included = reader.including.tried();
    let disk = reader.including.disk();
    let Reader {
        places,
        from_env,
        texts,
        problems,
        ..
    } = reader;
    let refuse = |problems: Vec<Problem>| ConfigError {
        file: Some(file.to_owned()),
        problems,
        next: NEXT.to_owned(),
        files: included.clone(),
        disk,
    };
    if !problems.is_empty() {
        return Err(refuse(problems));
    }
    // The schema is generated from the same types, so this does not fail after the check; if it does (a rule that
    // only serde knows), the file is refused all the same. serde's text may quote a value, so it is not shown.
    let options: Options = serde_json::from_value(json.clone()).map_err(|e| {
        refuse(vec![Problem::unplaced(format!(
            "does not fit the configuration ({:?})",
            e.classify()
        ))])
    })?;
    Ok(Source {
        options,
        tree: json,
        places,
        from_env,
        texts,
        file: file.to_owned(),
    })
}

/// The value of a text, without schema, includes and variables: syntax, depth and keys that are there twice are checked.
/// The error is line, column and what is wrong.
pub(crate) fn plain_value(text: &str) -> Result<Value, (usize, usize, String)> {
    let lines = Lines::new(text);
    let place = |at: usize, why: String| {
        let (line, column) = lines.position(at.min(text.len()));
        (line, column, why)
    };
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(place(0, format!("larger than {MAX_FILE_BYTES} bytes")));
    }
    let parsed = parse_to_ast(text, &CollectOptions::default(), &parse_options())
        .map_err(|e| place(e.range().start, syntax_message(e.kind())))?;
    let ast = parsed
        .value
        .ok_or_else(|| place(0, "there is no value".to_owned()))?;
    plain(&ast, 1).map_err(|(at, why)| place(at, why.to_owned()))
}

fn plain(value: &Ast<'_>, depth: usize) -> Result<Value, (usize, &'static str)> {
    let at = value.range().start;
    if depth > MAX_DEPTH {
        return Err((at, "nested too deep"));
    }
    Ok(match value {
        Ast::StringLit(s) => Value::String(s.value.clone().into_owned()),
        Ast::BooleanLit(b) => Value::Bool(b.value),
        Ast::NullKeyword(_) => Value::Null,
        Ast::NumberLit(n) => {
            Value::Number(number(n.value).ok_or((at, "this number cannot be used"))?)
        }
        Ast::Array(array) => Value::Array(
            array
                .elements
                .iter()
                .map(|v| plain(v, depth + 1))
                .collect::<Result<_, _>>()?,
        ),
        Ast::Object(object) => {
            let mut map = Map::new();
            for prop in &object.properties {
                let value = plain(&prop.value, depth + 1)?;
                if map.insert(prop.name.as_str().to_owned(), value).is_some() {
                    return Err((prop.name.range().start, "this key is there twice"));
                }
            }
            Value::Object(map)
        }
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

/// Problems gathered during one walk through one file.
pub(crate) struct Found<'a> {
    lines: &'a Lines,
    /// The included file, when it is not the configuration itself.
    file: Option<PathBuf>,
    pub(crate) problems: Vec<Problem>,
}

impl Found<'_> {
    /// Notes a problem at byte offset `at`.
    pub(crate) fn bad(&mut self, at: usize, path: &str, message: &str, help: &str) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(Problem {
                file: self.file.clone(),
                position: Some(self.lines.position(at)),
                path: path.to_owned(),
                message: message.to_owned(),
                help: help.to_owned(),
            });
        }
    }
}

/// Reads one file after the other into one value.
struct Reader<'a> {
    schema: &'a Value,
    env: Env<'a>,
    places: BTreeMap<String, (usize, usize)>,
    from_env: BTreeMap<String, Vec<String>>,
    texts: Vec<Text>,
    problems: Vec<Problem>,
    including: Including<'a>,
}

/// Where in the value and in the schema a walk is.
struct At<'a> {
    path: &'a str,
    schema: Option<&'a Value>,
    depth: usize,
}

impl<'a> Reader<'a> {
    /// The value of one file, whose place in the whole is `path`. Problems are noted; the value is then of no use.
    fn file(
        &mut self,
        name: PathBuf,
        text: &str,
        path: &str,
        schema: Option<&'a Value>,
        depth: usize,
    ) -> Value {
        let index = self.texts.len();
        let lines = Lines::new(text);
        self.texts.push(Text {
            name: name.clone(),
            lines: Lines::new(text),
        });
        let mut found = Found {
            lines: &lines,
            file: (index > 0).then(|| self.including.shown(&name)),
            problems: Vec::new(),
        };
        let value = self.text_value(text, index, path, schema, depth, &mut found);
        self.problems.append(&mut found.problems);
        value.unwrap_or(Value::Null)
    }

    fn text_value(
        &mut self,
        text: &str,
        index: usize,
        path: &str,
        schema: Option<&'a Value>,
        depth: usize,
        found: &mut Found<'_>,
    ) -> Option<Value> {
        let whole = |found: &mut Found<'_>, message: String, help: &str| {
            found.problems.push(Problem {
                file: found.file.clone(),
                position: None,
                path: String::new(),
                message,
                help: help.to_owned(),
            });
        };
        if text.len() as u64 > MAX_FILE_BYTES {
            whole(found, format!("larger than {MAX_FILE_BYTES} bytes"), "");
            return None;
        }
        let mut ast = match parse_to_ast(text, &CollectOptions::default(), &parse_options()) {
            Ok(parsed) => match parsed.value {
                Some(ast) => ast,
                None => {
                    whole(
                        found,
                        "the file holds no configuration".to_owned(),
                        "write at least {}, or remove the file and run `gateway serve` to get a commented one",
                    );
                    return None;
                }
            },
            Err(e) => {
                let at = e.range().start.min(text.len());
                found.bad(
                    at,
                    "",
                    &format!("not JSON5: {}", syntax_message(e.kind())),
                    "",
                );
                return None;
            }
        };
        expand::expand(
            self.schema,
            schema,
            &mut ast,
            path,
            self.env,
            found,
            &mut self.from_env,
        );
        let before = (self.problems.len(), found.problems.len());
        let at = At {
            path,
            schema,
            depth,
        };
        let json = self.convert(&ast, &at, index, found);
        if before == (self.problems.len(), found.problems.len())
            && let Some(schema) = schema
        {
            schema::check(self.schema, schema, &ast, path, found);
        }
        Some(json)
    }

    /// AST → JSON, noting places, duplicate keys, depth and numbers that JSON lacks, with included files put in.
    fn convert(
        &mut self,
        value: &Ast<'_>,
        here: &At<'_>,
        file: usize,
        found: &mut Found<'_>,
    ) -> Value {
        let at = value.range().start;
        let path = here.path;
        self.places.insert(path.to_owned(), (file, at));
        if here.depth > MAX_DEPTH {
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
                    .map(|(i, v)| {
                        let child = At {
                            path: &join_index(path, i),
                            schema: here.schema.and_then(|s| schema::item(self.schema, s)),
                            depth: here.depth + 1,
                        };
                        self.convert(v, &child, file, found)
                    })
                    .collect(),
            ),
            Ast::Object(object) => {
                let mut seen = BTreeSet::new();
                let mut map = Map::new();
                if let Some(prop) = object
                    .properties
                    .iter()
                    .find(|p| p.name.as_str() == INCLUDE)
                {
                    self.include(&prop.value, here, found, &mut map);
                }
                for prop in &object.properties {
                    let name = prop.name.as_str();
                    let child = join_key(path, name);
                    if !seen.insert(name) {
                        let help = self
                            .places
                            .get(&child)
                            .filter(|(f, _)| *f == file)
                            .map_or(String::new(), |(_, at)| {
                                format!("first on line {}", found.lines.position(*at).0)
                            });
                        found.bad(
                            prop.name.range().start,
                            &child,
                            "this key is there twice",
                            &help,
                        );
                        continue;
                    }
                    if name == INCLUDE {
                        continue;
                    }
                    let at = At {
                        path: &child,
                        schema: here
                            .schema
                            .and_then(|s| schema::child(self.schema, s, name)),
                        depth: here.depth + 1,
                    };
                    let json = self.convert(&prop.value, &at, file, found);
                    overlay(&mut map, name, json);
                }
                Value::Object(map)
            }
        }
    }

    /// Puts the files that `$include` names into `map`, a later one over an earlier one.
    fn include(
        &mut self,
        names: &Ast<'_>,
        here: &At<'_>,
        found: &mut Found<'_>,
        map: &mut Map<String, Value>,
    ) {
        const FORMS: &str = "write \"file.json5\" or [\"a.json5\", \"b.json5\"]";
        let at = names.range().start;
        let path = join_key(here.path, INCLUDE);
        let list: Vec<(usize, &str)> = match names {
            Ast::StringLit(s) => vec![(at, s.value.as_ref())],
            Ast::Array(array) => {
                let mut list = Vec::new();
                for element in &array.elements {
                    match element {
                        Ast::StringLit(s) => list.push((s.range.start, s.value.as_ref())),
                        other => found.bad(
                            other.range().start,
                            &path,
                            "expected the name of a file",
                            FORMS,
                        ),
                    }
                }
                list
            }
            _ => {
                found.bad(at, &path, "expected the name of a file", FORMS);
                return;
            }
        };
        for (at, written) in list {
            let opened = match self.including.open(written) {
                Ok(opened) => opened,
                Err((message, help)) => {
                    found.bad(at, &path, &message, help);
                    continue;
                }
            };
            // The schema of the place outlives the walk: it is a part of the whole schema.
            let schema = schema::at(self.schema, here.path);
            let value = self.file(opened.name, &opened.text, here.path, schema, here.depth);
            self.including.close();
            match value {
                Value::Object(included) => {
                    for (name, value) in included {
                        overlay(map, &name, value);
                    }
                }
                Value::Null => {}
                _ => found.bad(at, &path, "an included file must hold an object {…}", ""),
            }
        }
    }
}

/// Puts a value over what is there: objects are joined, anything else is replaced.
fn overlay(map: &mut Map<String, Value>, name: &str, value: Value) {
    match (map.get_mut(name), value) {
        (Some(Value::Object(old)), Value::Object(new)) => {
            for (name, value) in new {
                overlay(old, &name, value);
            }
        }
        (_, value) => {
            map.insert(name.to_owned(), value);
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
        (false, _) => format!("{path}[{}]", Value::String(key.to_owned())),
    }
}

/// `a` + 3 → `a[3]`.
pub(crate) fn join_index(path: &str, index: usize) -> String {
    format!("{path}[{index}]")
}

/// Byte offsets of the line starts and the text, to turn offsets into line and column.
#[derive(Debug)]
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
