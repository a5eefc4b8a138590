//! Says what is wrong with a value, in the words of the validator that clients of the protocol know
//! (`at /device: must have required property 'nonce'`). Works on the schemas of our own types and only after
//! a typed decode has failed, so it is never on the hot path.

use serde_json::Value;

use crate::error::echo;
use crate::limits::{JSON_MAX_DEPTH, MAX_LISTED_PROBLEMS};

/// The problems of a value under a schema, joined with `; `; `None` when there are none.
pub fn problems(schema: &Value, value: &Value) -> Option<String> {
    let mut check = Check {
        root: schema,
        found: Vec::new(),
    };
    check.value(schema, value, &mut String::new(), 0);
    if check.found.is_empty() {
        None
    } else {
        Some(check.found.join("; "))
    }
}

struct Check<'a> {
    root: &'a Value,
    found: Vec<String>,
}

impl<'a> Check<'a> {
    fn fail(&mut self, path: &str, text: impl std::fmt::Display) {
        if self.found.len() < MAX_LISTED_PROBLEMS {
            let text = if path.is_empty() {
                text.to_string()
            } else {
                format!("at {path}: {text}")
            };
            if !self.found.contains(&text) {
                self.found.push(text);
            }
        }
    }

    fn resolve(&self, schema: &'a Value) -> &'a Value {
        match schema
            .get("$ref")
            .and_then(Value::as_str)
            .and_then(|r| r.strip_prefix('#'))
        {
            Some(pointer) => self.root.pointer(pointer).unwrap_or(schema),
            None => schema,
        }
    }

    fn matches(&self, schema: &'a Value, value: &Value, depth: usize) -> bool {
        let mut probe = Check {
            root: self.root,
            found: Vec::new(),
        };
        probe.value(schema, value, &mut String::new(), depth);
        probe.found.is_empty()
    }

    fn value(&mut self, schema: &'a Value, value: &Value, path: &mut String, depth: usize) {
        if depth > JSON_MAX_DEPTH {
            return;
        }
        let schema = self.resolve(schema);
        if schema.as_bool() == Some(false) {
            self.fail(path, "must not be there");
        }
        let Some(rules) = schema.as_object() else {
            return;
        };
        if let Some(expected) = rules.get("type")
            && !type_fits(expected, value)
        {
            self.fail(path, format_args!("must be {}", type_words(expected)));
            return;
        }
        if rules.get("const").is_some_and(|c| c != value) {
            self.fail(path, "must be equal to constant");
        }
        if rules
            .get("enum")
            .and_then(Value::as_array)
            .is_some_and(|all| !all.contains(value))
        {
            self.fail(path, "must be equal to one of the allowed values");
        }
        for word in ["anyOf", "oneOf"] {
            if let Some(choices) = rules.get(word).and_then(Value::as_array)
                && !choices.iter().any(|c| self.matches(c, value, depth + 1))
            {
                let real: Vec<&Value> = choices
                    .iter()
                    .map(|c| self.resolve(c))
                    .filter(|c| c.get("type").and_then(Value::as_str) != Some("null"))
                    .collect();
                let closed = real
                    .iter()
                    .all(|c| c.get("const").is_some() || c.get("enum").is_some());
                match real.as_slice() {
                    // With one real choice beside null, that choice's words say more than "must match a schema".
                    [only] => self.value(only, value, path, depth + 1),
                    _ if closed && value.is_string() => {
                        self.fail(path, "must be equal to one of the allowed values")
                    }
                    _ if closed => self.fail(path, "must be string"),
                    _ => self.fail(path, format_args!("must match a schema in {word}")),
                }
            }
        }
        for part in rules
            .get("allOf")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            self.value(part, value, path, depth + 1);
        }
        match value {
            Value::String(text) => self.string(rules, text, path),
            Value::Number(number) => {
                let n = number.as_f64().unwrap_or(0.0);
                if let Some(min) = rules
                    .get("minimum")
                    .and_then(Value::as_f64)
                    .filter(|min| n < *min)
                {
                    self.fail(path, format_args!("must be >= {min}"));
                }
                if let Some(max) = rules
                    .get("maximum")
                    .and_then(Value::as_f64)
                    .filter(|max| n > *max)
                {
                    self.fail(path, format_args!("must be <= {max}"));
                }
            }
            Value::Array(items) => {
                if let Some(max) = rules.get("maxItems").and_then(Value::as_u64)
                    && items.len() as u64 > max
                {
                    self.fail(path, format_args!("must not have more than {max} items"));
                }
                if let Some(item_schema) = rules.get("items") {
                    for (i, item) in items.iter().enumerate() {
                        self.below(item_schema, item, path, &i.to_string(), depth);
                    }
                }
            }
            Value::Object(map) => self.object(rules, map, path, depth),
            _ => {}
        }
    }

    fn string(&mut self, rules: &serde_json::Map<String, Value>, text: &str, path: &str) {
        let chars = text.chars().count() as u64;
        if let Some(min) = rules
            .get("minLength")
            .and_then(Value::as_u64)
            .filter(|min| chars < *min)
        {
            self.fail(
                path,
                format_args!("must not have fewer than {min} characters"),
            );
        }
        if let Some(max) = rules
            .get("maxLength")
            .and_then(Value::as_u64)
            .filter(|max| chars > *max)
        {
            self.fail(
                path,
                format_args!("must not have more than {max} characters"),
            );
        }
    }

    fn object(
        &mut self,
        rules: &'a serde_json::Map<String, Value>,
        map: &serde_json::Map<String, Value>,
        path: &mut String,
        depth: usize,
    ) {
        // As the validator that clients know: the first missing name only.
        let missing = rules
            .get("required")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .find(|name| !map.contains_key(*name));
        if let Some(name) = missing {
            self.fail(path, format_args!("must have required property '{name}'"));
        }
        let properties = rules.get("properties").and_then(Value::as_object);
        let additional = rules.get("additionalProperties");
        for (name, item) in map {
            match (properties.and_then(|p| p.get(name)), additional) {
                (Some(schema), _) => self.below(schema, item, path, name, depth),
                (None, Some(Value::Bool(false))) => {
                    let at = if path.is_empty() {
                        "root"
                    } else {
                        path.as_str()
                    };
                    let text = format!("at {at}: unexpected property '{}'", echo(name));
                    self.fail("", text);
                }
                (None, Some(schema @ Value::Object(_))) => {
                    self.below(schema, item, path, name, depth)
                }
                _ => {}
            }
        }
    }

    fn below(
        &mut self,
        schema: &'a Value,
        value: &Value,
        path: &mut String,
        name: &str,
        depth: usize,
    ) {
        let length = path.len();
        path.push('/');
        path.push_str(&echo(name));
        self.value(schema, value, path, depth + 1);
        path.truncate(length);
    }
}

fn type_fits(expected: &Value, value: &Value) -> bool {
    match expected {
        Value::String(name) => match name.as_str() {
            "null" => value.is_null(),
            "boolean" => value.is_boolean(),
            "string" => value.is_string(),
            "array" => value.is_array(),
            "object" => value.is_object(),
            "number" => value.is_number(),
            "integer" => value.is_i64() || value.is_u64(),
            _ => true,
        },
        Value::Array(names) => names.iter().any(|name| type_fits(name, value)),
        _ => true,
    }
}

fn type_words(expected: &Value) -> String {
    match expected {
        Value::String(name) => name.clone(),
        // An optional field: null is allowed but nobody wants to read that.
        Value::Array(names) => {
            let words: Vec<&str> = names
                .iter()
                .filter_map(Value::as_str)
                .filter(|n| *n != "null")
                .collect();
            words.join(",")
        }
        _ => String::new(),
    }
}
