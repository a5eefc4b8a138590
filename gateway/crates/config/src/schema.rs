//! The JSON Schema of the file, and the walk that checks a parsed file against it with positions.

use jsonc_parser::ast::{Object, Value as Ast};
use jsonc_parser::common::Ranged;
use serde_json::{Map, Value};

use crate::options::{Options, SECRET_MARK};
use crate::path::split_path;
use crate::source::{Found, INCLUDE, join_index, join_key};
use crate::suggest;

/// JSON Schema (draft 2020-12) of `gateway.json5`. `null` is nowhere a value: a key that is not wanted is left out.
pub fn options_schema() -> Value {
    let root = schemars::generate::SchemaSettings::draft2020_12()
        .into_generator()
        .into_root_schema_for::<Options>();
    let mut schema = root.to_value();
    strip_null(&mut schema);
    schema
}

/// Removes `null` from every choice of types: serde's `Option` means "may be left out", not "may be null".
fn strip_null(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(strip_null),
        Value::Object(map) => {
            map.retain(|key, value| !(key == "default" && value.is_null()));
            for value in map.values_mut() {
                strip_null(value);
            }
            if let Some(Value::Array(types)) = map.get_mut("type") {
                types.retain(|t| t != "null");
                if let [one] = types.as_slice() {
                    let one = one.clone();
                    map.insert("type".to_owned(), one);
                }
            }
            let is_null = |s: &Value| s.get("type").is_some_and(|t| t == "null");
            if let Some(Value::Array(choices)) = map.get_mut("anyOf")
                && choices.iter().any(is_null)
            {
                choices.retain(|s| !is_null(s));
                if let [Value::Object(one)] = choices.as_slice() {
                    let one = one.clone();
                    map.remove("anyOf");
                    for (key, value) in one {
                        map.entry(key).or_insert(value);
                    }
                }
            }
        }
        _ => {}
    }
}

/// A place where values stop being checked (`config: {…}` of a plugin).
fn is_free(schema: &Value) -> bool {
    match schema {
        Value::Bool(free) => *free,
        Value::Object(map) => map
            .keys()
            .all(|k| ["description", "title", "default", "x-reload"].contains(&k.as_str())),
        _ => false,
    }
}

/// The schema of a key of an object; `None` where nothing is said about it.
pub(crate) fn child<'a>(root: &'a Value, schema: &'a Value, name: &str) -> Option<&'a Value> {
    let schema = deref(root, schema);
    let own = schema.get("properties").and_then(|p| p.get(name));
    own.or_else(|| schema.get("additionalProperties").filter(|s| s.is_object()))
}

/// The schema of the elements of a list.
pub(crate) fn item<'a>(root: &'a Value, schema: &'a Value) -> Option<&'a Value> {
    deref(root, schema).get("items")
}

/// The schema of the place that a path names; `None` in free-form configuration and where there is no such place.
pub(crate) fn at<'a>(root: &'a Value, path: &str) -> Option<&'a Value> {
    step_by_step(root, &split_path(path)?)
        .last()
        .copied()
        .flatten()
}

/// The schemas on the way to a place, the whole one first.
pub(crate) fn step_by_step<'a>(root: &'a Value, steps: &[String]) -> Vec<Option<&'a Value>> {
    let mut way = vec![Some(root)];
    for step in steps {
        let here = way.last().copied().flatten();
        way.push(here.and_then(|s| child(root, s, step).or_else(|| item(root, s))));
    }
    way
}

/// The keys below a place: those that are named, `*` where any may stand.
pub(crate) fn keys(root: &Value, schema: &Value) -> Vec<String> {
    if is_secret(root, schema) {
        return Vec::new();
    }
    let schema = deref(root, schema);
    let named = schema.get("properties").and_then(Value::as_object);
    let mut keys: Vec<String> = named
        .map(|p| p.keys().cloned().collect())
        .unwrap_or_default();
    let any = schema
        .get("additionalProperties")
        .is_some_and(Value::is_object)
        || schema
            .get("items")
            .is_some_and(|s| !keys_of_object(root, s).is_empty());
    if any {
        keys.push("*".to_owned());
    }
    keys
}

fn keys_of_object(root: &Value, schema: &Value) -> Vec<String> {
    let schema = deref(root, schema);
    let named = schema.get("properties").and_then(Value::as_object);
    named
        .map(|p| p.keys().cloned().collect())
        .unwrap_or_default()
}

/// The schema of a place without what is below it.
pub(crate) fn shallow(root: &Value, schema: &Value) -> Value {
    let mut out = Map::new();
    for part in [deref(root, schema), schema] {
        let Some(map) = part.as_object() else {
            continue;
        };
        for (key, value) in map {
            let below = [
                "properties",
                "$defs",
                "$ref",
                "items",
                "additionalProperties",
            ];
            if !below.contains(&key.as_str()) || value.is_boolean() {
                out.insert(key.clone(), value.clone());
            }
        }
    }
    Value::Object(out)
}

/// Whether a place holds a secret.
pub(crate) fn is_secret(root: &Value, schema: &Value) -> bool {
    deref(root, schema).get(SECRET_MARK).is_some()
}

/// A keyword of a place, which may stand beside a reference or in what it refers to.
pub(crate) fn keyword<'a>(root: &'a Value, schema: &'a Value, key: &str) -> Option<&'a Value> {
    schema.get(key).or_else(|| deref(root, schema).get(key))
}

/// Calls `f` with the path and value of every secret below `value`.
pub(crate) fn each_secret(
    root: &Value,
    schema: &Value,
    value: &mut Value,
    path: &str,
    f: &mut dyn FnMut(&str, &mut Value),
) {
    if is_secret(root, schema) {
        f(path, value);
        return;
    }
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                if let Some(schema) = child(root, schema, name) {
                    each_secret(root, schema, value, &join_key(path, name), f);
                }
            }
        }
        Value::Array(items) => {
            if let Some(schema) = item(root, schema) {
                for (i, value) in items.iter_mut().enumerate() {
                    each_secret(root, schema, value, &join_index(path, i), f);
                }
            }
        }
        _ => {}
    }
}

/// Checks `value` against `schema`, telling each fault to `found`.
pub(crate) fn check(
    root: &Value,
    schema: &Value,
    value: &Ast<'_>,
    path: &str,
    found: &mut Found<'_>,
) {
    let schema = deref(root, schema);
    if is_free(schema) {
        return;
    }
    let at = value.range().start;
    if matches!(value, Ast::NullKeyword(_)) {
        found.bad(
            at,
            path,
            "null is not a value here",
            "leave the key out instead",
        );
        return;
    }
    if schema.get(SECRET_MARK).is_some() {
        check_secret(value, path, found);
        return;
    }
    if let Some(words) = words(schema) {
        match value {
            Ast::StringLit(s) if words.contains(&s.value.as_ref()) => {}
            Ast::StringLit(s) => {
                let meant = suggest::nearest(&s.value, words.iter().copied());
                let mut help = format!("allowed: {}", words.join(", "));
                if let Some(word) = meant {
                    help = format!("did you mean \"{word}\"? {help}");
                }
                found.bad(
                    at,
                    path,
                    &format!("\"{}\" is not known here", short(&s.value)),
                    &help,
                );
            }
            other => found.bad(
                at,
                path,
                &format!(
                    "expected one of {}, found {}",
                    words.join(", "),
                    kind(other)
                ),
                "",
            ),
        }
        return;
    }
    match schema.get("type").and_then(Value::as_str) {
        Some("object") => match value {
            Ast::Object(object) => check_object(root, schema, object, path, found),
            other => found.bad(
                at,
                path,
                &format!("expected an object {{…}}, found {}", kind(other)),
                "",
            ),
        },
        Some("array") => match value {
            Ast::Array(array) => {
                if let Some(item) = schema.get("items") {
                    for (i, element) in array.elements.iter().enumerate() {
                        check(root, item, element, &join_index(path, i), found);
                    }
                }
            }
            other => found.bad(
                at,
                path,
                &format!("expected a list […], found {}", kind(other)),
                "",
            ),
        },
        Some("string") if !matches!(value, Ast::StringLit(_)) => {
            found.bad(
                at,
                path,
                &format!("expected text in quotes, found {}", kind(value)),
                "",
            );
        }
        Some("boolean") if !matches!(value, Ast::BooleanLit(_)) => {
            found.bad(
                at,
                path,
                &format!("expected true or false, found {}", kind(value)),
                "",
            );
        }
        Some("integer") => check_integer(schema, value, path, found),
        _ => {}
    }
}

fn check_integer(schema: &Value, value: &Ast<'_>, path: &str, found: &mut Found<'_>) {
    let bound = |key| schema.get(key).and_then(Value::as_u64);
    let (low, high) = (bound("minimum").unwrap_or(0), bound("maximum"));
    let range = match high {
        Some(high) => format!("a whole number from {low} to {high}"),
        None => format!("a whole number from {low}"),
    };
    let number = match value {
        Ast::NumberLit(n) => integer(n.value),
        other => {
            found.bad(
                value.range().start,
                path,
                &format!("expected {range}, found {}", kind(other)),
                "",
            );
            return;
        }
    };
    let fits = number.is_some_and(|n| n >= low && high.is_none_or(|h| n <= h));
    if !fits {
        found.bad(value.range().start, path, &format!("expected {range}"), "");
    }
}

/// A non-negative whole number as JSON5 writes it: decimal or hexadecimal, with an optional plus sign.
fn integer(text: &str) -> Option<u64> {
    let text = text.strip_prefix('+').unwrap_or(text);
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

fn check_object(
    root: &Value,
    schema: &Value,
    object: &Object<'_>,
    path: &str,
    found: &mut Found<'_>,
) {
    let empty = Map::new();
    let known = schema
        .get("properties")
        .and_then(Value::as_object)
        .unwrap_or(&empty);
    let others = schema.get("additionalProperties");
    for prop in &object.properties {
        let name = prop.name.as_str();
        // What it names is checked in its own file.
        if name == INCLUDE {
            continue;
        }
        let child = join_key(path, name);
        match (known.get(name), others) {
            (Some(schema), _) => check(root, schema, &prop.value, &child, found),
            (None, Some(schema)) if schema != &Value::Bool(false) => {
                check(root, schema, &prop.value, &child, found);
            }
            _ => {
                let allowed: Vec<&str> = known.keys().map(String::as_str).collect();
                let mut help = format!("allowed here: {}", allowed.join(", "));
                if let Some(word) = suggest::nearest(name, allowed.iter().copied()) {
                    help = format!("did you mean `{word}`? {help}");
                }
                let place = if path.is_empty() {
                    "at the top level".to_owned()
                } else {
                    format!("in `{path}`")
                };
                found.bad(
                    prop.name.range().start,
                    "",
                    &format!("unknown key `{}` {place}", short(name)),
                    &help,
                );
            }
        }
    }
}

/// A secret is text, or an object with exactly one of `env`, `file`, `store`, `exec`. The value is never repeated.
fn check_secret(value: &Ast<'_>, path: &str, found: &mut Found<'_>) {
    const KEYS: [&str; 4] = ["env", "file", "store", "exec"];
    const FORMS: &str = "a secret is \"text\", \"${ENV}\", {env: \"NAME\"}, {file: \"path\"}, {store: \"NAME\"} or {exec: {argv: […]}}";
    let at = value.range().start;
    match value {
        Ast::StringLit(_) => {}
        Ast::Object(object) => {
            for prop in &object.properties {
                let name = prop.name.as_str();
                if name == "exec" {
                    check_exec(&prop.value, &join_key(path, name), found);
                } else if !KEYS.contains(&name) {
                    let help = match suggest::nearest(name, KEYS) {
                        Some(word) => format!("did you mean `{word}`? {FORMS}"),
                        None => FORMS.to_owned(),
                    };
                    found.bad(
                        prop.name.range().start,
                        "",
                        &format!("unknown key `{}` in `{path}`", short(name)),
                        &help,
                    );
                } else if !matches!(&prop.value, Ast::StringLit(s) if !s.value.is_empty()) {
                    found.bad(
                        prop.value.range().start,
                        &join_key(path, name),
                        "expected text in quotes that is not empty",
                        "",
                    );
                }
            }
            if object.properties.len() != 1 {
                found.bad(
                    at,
                    path,
                    "expected exactly one of env, file, store, exec",
                    FORMS,
                );
            }
        }
        other => found.bad(
            at,
            path,
            &format!("expected a secret, found {}", kind(other)),
            FORMS,
        ),
    }
}

/// `{argv: ["/program", …], timeoutMs, env}`; arguments are never repeated.
fn check_exec(value: &Ast<'_>, path: &str, found: &mut Found<'_>) {
    const FORM: &str = "write exec: {argv: [\"/full/path/of/program\", \"argument\"]}";
    let at = value.range().start;
    let Ast::Object(object) = value else {
        found.bad(at, path, "expected an object {…}", FORM);
        return;
    };
    let mut has_argv = false;
    for prop in &object.properties {
        let name = prop.name.as_str();
        let at = prop.value.range().start;
        let path = join_key(path, name);
        let texts = |least: usize| match &prop.value {
            Ast::Array(list) => {
                list.elements.len() >= least
                    && list.elements.iter().all(|e| matches!(e, Ast::StringLit(_)))
            }
            _ => false,
        };
        match name {
            "argv" => {
                has_argv = true;
                if !texts(1) {
                    found.bad(
                        at,
                        &path,
                        "expected a list of texts that is not empty",
                        FORM,
                    );
                }
            }
            "env" if !texts(0) => found.bad(at, &path, "expected a list of names", FORM),
            "timeoutMs" => {
                let number = match &prop.value {
                    Ast::NumberLit(n) => integer(n.value),
                    _ => None,
                };
                if !number.is_some_and(|n| (100..=30_000).contains(&n)) {
                    found.bad(at, &path, "expected a whole number from 100 to 30000", "");
                }
            }
            "env" => {}
            _ => found.bad(
                prop.name.range().start,
                "",
                &format!("unknown key `{}` in `{path}`", short(name)),
                "allowed here: argv, timeoutMs, env",
            ),
        }
    }
    if !has_argv {
        found.bad(at, path, "argv is missing", FORM);
    }
}

/// The words of an enumeration, or `None` if the schema is not one.
fn words(schema: &Value) -> Option<Vec<&str>> {
    if let Some(list) = schema.get("enum").and_then(Value::as_array) {
        return Some(list.iter().filter_map(Value::as_str).collect());
    }
    let choices = schema.get("oneOf").and_then(Value::as_array)?;
    let mut all = Vec::new();
    for choice in choices {
        match (choice.get("const"), choice.get("enum")) {
            (Some(word), _) => all.push(word.as_str()?),
            (None, Some(Value::Array(list))) => all.extend(list.iter().filter_map(Value::as_str)),
            _ => return None,
        }
    }
    Some(all)
}

fn deref<'a>(root: &'a Value, mut schema: &'a Value) -> &'a Value {
    while let Some(name) = schema
        .get("$ref")
        .and_then(Value::as_str)
        .and_then(|r| r.strip_prefix("#/$defs/"))
    {
        match root.get("$defs").and_then(|d| d.get(name)) {
            Some(target) => schema = target,
            None => return schema,
        }
    }
    schema
}

/// What a value is, in words, without the value.
fn kind(value: &Ast<'_>) -> &'static str {
    match value {
        Ast::StringLit(_) => "text",
        Ast::NumberLit(_) => "a number",
        Ast::BooleanLit(_) => "true or false",
        Ast::Object(_) => "an object",
        Ast::Array(_) => "a list",
        Ast::NullKeyword(_) => "null",
    }
}

/// Up to 40 characters, control characters escaped: what a terminal may be shown.
fn short(text: &str) -> String {
    let mut out = String::new();
    for (i, c) in text.chars().enumerate() {
        if i == 40 {
            out.push('…');
            break;
        }
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}
