//! Edits of single values in the text of the file. Comments and everything else stay as they are written.

use jsonc_parser::cst::{CstContainerNode, CstInputValue, CstNode, CstObject, CstRootNode};
use serde_json::{Map, Value};

use crate::error::{ConfigError, Problem};
use crate::file::{ConfigFile, Snapshot};
use crate::path::{join_path, value_at};
use crate::redact::{self, REDACTED};
use crate::schema;
use crate::settings::Settings;
use crate::source::{self, INCLUDE};

/// One value to set, or to take out.
#[derive(Debug, Clone, PartialEq)]
pub struct KeyEdit {
    /// Steps of its path.
    pub steps: Vec<String>,
    /// The new value; `None` takes the key out.
    pub value: Option<Value>,
}

const NEXT: &str = "nothing was changed";

fn refused(path: &str, message: impl Into<String>, help: &str) -> ConfigError {
    ConfigError {
        file: None,
        problems: vec![Problem {
            path: path.to_owned(),
            help: help.to_owned(),
            ..Problem::unplaced(message)
        }],
        next: NEXT.to_owned(),
        files: Vec::new(),
        disk: None,
    }
}

impl ConfigFile {
    /// The text with these edits made. It is not checked yet.
    ///
    /// # Errors
    /// When the text cannot be edited, or a key to be taken out is not in it.
    pub fn edited(&self, base: &Snapshot, edits: &[KeyEdit]) -> Result<String, ConfigError> {
        let text = match base.text.trim() {
            "" => "{}\n",
            _ => base.text.strip_prefix('\u{feff}').unwrap_or(&base.text),
        };
        let root = CstRootNode::parse(text, &source::parse_options()).map_err(|_| {
            match source::plain_value(text) {
                Err((line, column, why)) => ConfigError {
                    file: Some(self.path()),
                    problems: vec![Problem {
                        position: Some((line, column)),
                        ..Problem::unplaced(format!("not JSON5: {why}"))
                    }],
                    next:
                        "mend the file, or bring an earlier one back with `gateway config rollback`"
                            .to_owned(),
                    files: Vec::new(),
                    disk: None,
                },
                Ok(_) => refused("", "the file cannot be edited", "edit it by hand"),
            }
        })?;
        for edit in edits {
            apply(&root, edit)?;
        }
        Ok(root.to_string())
    }

    /// The edits that a JSON merge patch asks for: objects are joined, `null` takes a key out, anything else replaces.
    /// A list that would lose elements is replaced only if its path is in `replace`. [`REDACTED`] leaves a value as it is.
    ///
    /// # Errors
    /// What the patch asks for and cannot have.
    pub fn patch_edits(
        &self,
        base: &Snapshot,
        running: &Settings,
        patch: &Value,
        replace: &[String],
    ) -> Result<Vec<KeyEdit>, ConfigError> {
        let now = self.plain(&base.text)?;
        let root = schema::options_schema();
        let mut edits = Vec::new();
        let merge = Merge {
            replace,
            known: &|steps| running.written.has(&join_path(steps)),
            secret: &|steps| {
                schema::at(&root, &join_path(steps)).is_some_and(|s| schema::is_secret(&root, s))
            },
        };
        merge.walk(patch, Some(&now), &mut Vec::new(), &mut edits)?;
        Ok(edits)
    }

    /// A text from a client that was shown [`REDACTED`] for secrets, with what stands in the file put back in.
    ///
    /// # Errors
    /// When the word stands where there is nothing to put back, or the text is not JSON5.
    pub fn restored(
        &self,
        base: &Snapshot,
        running: &Settings,
        text: &str,
    ) -> Result<String, ConfigError> {
        let new = self.plain(text)?;
        let mut hidden = Vec::new();
        find_hidden(&new, &mut Vec::new(), &mut hidden);
        if hidden.is_empty() {
            return Ok(text.to_owned());
        }
        let now = self.plain(&base.text)?;
        let mut edits = Vec::new();
        for steps in hidden {
            let path = join_path(&steps);
            let value = value_at(&now, &steps).filter(|_| same_lists(&new, &now, &steps));
            if value.is_none() && !running.written.has(&path) {
                return Err(nothing_hidden(&path));
            }
            edits.push(KeyEdit {
                steps,
                value: value.cloned(),
            });
        }
        self.edited(
            &Snapshot {
                text: text.to_owned(),
                hash: String::new(),
            },
            &edits,
        )
    }

    fn plain(&self, text: &str) -> Result<Value, ConfigError> {
        if text.trim().is_empty() {
            return Ok(Value::Object(Map::new()));
        }
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        source::plain_value(text).map_err(|(line, column, why)| ConfigError {
            file: Some(self.path()),
            problems: vec![Problem {
                position: Some((line, column)),
                ..Problem::unplaced(format!("not JSON5: {why}"))
            }],
            next: "mend it and try again".to_owned(),
            files: Vec::new(),
            disk: None,
        })
    }
}

/// A JSON5 value on its own, as `gateway config set` and `config.patch` take it.
///
/// # Errors
/// Line, column and what is wrong; nothing of the text is repeated.
pub fn parse_value(text: &str) -> Result<Value, (usize, usize, String)> {
    source::plain_value(text)
}

/// A value that is not the same in two texts; what is secret is replaced.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// Its path.
    pub path: String,
    /// In the first; `None` when it is not written there.
    pub from: Option<Value>,
    /// In the second.
    pub to: Option<Value>,
}

/// The values that two texts of the file do not share, by path. Included files are not looked into.
///
/// # Errors
/// When one of them is not JSON5.
pub fn differences(a: &str, b: &str) -> Result<Vec<Difference>, ConfigError> {
    let read = |text: &str| {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        if text.trim().is_empty() {
            return Ok(Value::Object(Map::new()));
        }
        source::plain_value(text).map_err(|(line, column, why)| ConfigError {
            file: None,
            problems: vec![Problem::unplaced(format!(
                "{line}:{column}: not JSON5: {why}"
            ))],
            next: "mend it, or compare others".to_owned(),
            files: Vec::new(),
            disk: None,
        })
    };
    let (a, b) = (read(a)?, read(b)?);
    let (shown_a, shown_b) = (redact::hidden_options(&a), redact::hidden_options(&b));
    let at = |value: &Value, path: &str| {
        crate::path::split_path(path).and_then(|steps| value_at(value, &steps).cloned())
    };
    Ok(crate::written::changed_paths(&a, &b)
        .into_iter()
        .map(|path| Difference {
            from: at(&shown_a, &path),
            to: at(&shown_b, &path),
            path,
        })
        .collect())
}

fn nothing_hidden(path: &str) -> ConfigError {
    refused(
        path,
        format!("{REDACTED} stands for a value that is not shown, and there is none here"),
        "write the value, or where it is",
    )
}

fn find_hidden(value: &Value, steps: &mut Vec<String>, out: &mut Vec<Vec<String>>) {
    let mut each = |key: String, value: &Value| {
        steps.push(key);
        find_hidden(value, steps, out);
        steps.pop();
    };
    match value {
        Value::Object(map) => map.iter().for_each(|(k, v)| each(k.clone(), v)),
        Value::Array(list) => list
            .iter()
            .enumerate()
            .for_each(|(i, v)| each(i.to_string(), v)),
        Value::String(text) if text == REDACTED => out.push(steps.clone()),
        _ => {}
    }
}

/// Whether every list on the way has as many elements in both: otherwise nobody knows which element is which.
fn same_lists(a: &Value, b: &Value, steps: &[String]) -> bool {
    (0..steps.len()).all(
        |n| match (value_at(a, &steps[..n]), value_at(b, &steps[..n])) {
            (Some(Value::Array(a)), Some(Value::Array(b))) => a.len() == b.len(),
            _ => true,
        },
    )
}

struct Merge<'a> {
    replace: &'a [String],
    /// Whether a value counts at a place, written or not.
    known: &'a dyn Fn(&[String]) -> bool,
    /// Whether a place holds a secret: one reference there replaces another as a whole.
    secret: &'a dyn Fn(&[String]) -> bool,
}

impl Merge<'_> {
    fn walk(
        &self,
        patch: &Value,
        now: Option<&Value>,
        steps: &mut Vec<String>,
        edits: &mut Vec<KeyEdit>,
    ) -> Result<(), ConfigError> {
        match patch {
            Value::Object(map) if now.is_none_or(Value::is_object) && !(self.secret)(steps) => {
                if map.is_empty() && now.is_none() {
                    edits.push(KeyEdit {
                        steps: steps.clone(),
                        value: Some(patch.clone()),
                    });
                }
                for (key, value) in map {
                    if key == INCLUDE {
                        return Err(refused(
                            &join_path(steps),
                            "a patch does not include files",
                            "write $include into the file",
                        ));
                    }
                    steps.push(key.clone());
                    let done = self.walk(value, now.and_then(|v| v.get(key)), steps, edits);
                    steps.pop();
                    done?;
                }
                Ok(())
            }
            Value::Null => {
                if now.is_some() {
                    edits.push(KeyEdit {
                        steps: steps.clone(),
                        value: None,
                    });
                    return Ok(());
                }
                self.not_included(steps)
            }
            Value::String(text) if text == REDACTED => {
                if now.is_some() || (self.known)(steps) {
                    return Ok(());
                }
                Err(nothing_hidden(&join_path(steps)))
            }
            _ => {
                let mut value = patch.clone();
                strip_null(&mut value);
                if let (Value::Array(new), Some(Value::Array(old))) = (&mut value, now) {
                    self.list(new, old, steps)?;
                }
                let mut hidden = Vec::new();
                find_hidden(&value, &mut steps.clone(), &mut hidden);
                if let Some(path) = hidden.first() {
                    return Err(nothing_hidden(&join_path(path)));
                }
                if now != Some(&value) {
                    edits.push(KeyEdit {
                        steps: steps.clone(),
                        value: Some(value),
                    });
                }
                Ok(())
            }
        }
    }

    fn list(&self, new: &mut [Value], old: &[Value], steps: &[String]) -> Result<(), ConfigError> {
        let path = join_path(steps);
        if new.len() == old.len() {
            for (new, old) in new.iter_mut().zip(old) {
                if new == REDACTED {
                    new.clone_from(old);
                }
            }
        }
        let kept = old.iter().all(|v| new.contains(v));
        if kept || self.replace.contains(&path) {
            return Ok(());
        }
        Err(refused(
            &path,
            "the patch would take elements out of this list",
            "name its path in replacePaths to replace it",
        ))
    }

    /// A value that an included file brings cannot be taken out of this one.
    fn not_included(&self, steps: &[String]) -> Result<(), ConfigError> {
        if steps.is_empty() || !(self.known)(steps) {
            return Ok(());
        }
        Err(refused(
            &join_path(steps),
            "this is not written in the configuration file itself",
            "take it out of the included file; a default cannot be taken out",
        ))
    }
}

/// Takes out what `null` takes out where there is nothing.
fn strip_null(value: &mut Value) {
    if let Value::Object(map) = value {
        map.retain(|_, v| !v.is_null());
        map.values_mut().for_each(strip_null);
    }
}

fn apply(root: &CstRootNode, edit: &KeyEdit) -> Result<(), ConfigError> {
    let path = join_path(&edit.steps);
    let Some((last, way)) = edit.steps.split_last() else {
        return Err(refused(
            "",
            "the whole file is no single value",
            "name a key",
        ));
    };
    let stuck = || refused(&path, "there is no place of this name", "check the path");
    let top = root.object_value_or_create().ok_or_else(stuck)?;
    let mut here = CstNode::Container(CstContainerNode::Object(top));
    for step in way {
        here = descend(&here, step, edit.value.is_some()).ok_or_else(stuck)?;
    }
    match (here.as_object(), here.as_array(), &edit.value) {
        (Some(object), _, Some(value)) => match object.get(last) {
            Some(prop) => prop.set_value(input(value)),
            None => {
                object.append(last, input(value));
            }
        },
        (Some(object), _, None) => object.get(last).ok_or_else(stuck)?.remove(),
        (_, Some(array), value) => {
            let index: usize = last.parse().map_err(|_| stuck())?;
            let elements = array.elements();
            match (elements.into_iter().nth(index), value) {
                (Some(element), Some(value)) => {
                    replace(element, input(value)).ok_or_else(stuck)?;
                }
                (Some(element), None) => element.remove(),
                (None, Some(value)) if index == array.elements().len() => {
                    array.append(input(value));
                }
                (None, _) => return Err(stuck()),
            }
        }
        _ => return Err(stuck()),
    }
    Ok(())
}

fn descend(here: &CstNode, step: &str, make: bool) -> Option<CstNode> {
    if let Some(object) = here.as_object() {
        return object_at(&object, step, make);
    }
    here.as_array()?
        .elements()
        .into_iter()
        .nth(step.parse().ok()?)
}

fn object_at(object: &CstObject, step: &str, make: bool) -> Option<CstNode> {
    match object.get(step).and_then(|prop| prop.value()) {
        Some(value) if value.as_object().is_some() || value.as_array().is_some() => Some(value),
        _ if make => Some(CstNode::Container(CstContainerNode::Object(
            object.object_value_or_set(step),
        ))),
        _ => None,
    }
}

fn replace(node: CstNode, value: CstInputValue) -> Option<CstNode> {
    if let Some(node) = node.as_string_lit() {
        return node.replace_with(value);
    }
    if let Some(node) = node.as_number_lit() {
        return node.replace_with(value);
    }
    if let Some(node) = node.as_boolean_lit() {
        return node.replace_with(value);
    }
    if let Some(node) = node.as_null_keyword() {
        return node.replace_with(value);
    }
    if let Some(node) = node.as_object() {
        return node.replace_with(value);
    }
    node.as_array()?.replace_with(value)
}

fn input(value: &Value) -> CstInputValue {
    match value {
        Value::Null => CstInputValue::Null,
        Value::Bool(b) => CstInputValue::Bool(*b),
        Value::Number(n) => CstInputValue::Number(n.to_string()),
        Value::String(s) => CstInputValue::String(s.clone()),
        Value::Array(list) => CstInputValue::Array(list.iter().map(input).collect()),
        Value::Object(map) => {
            CstInputValue::Object(map.iter().map(|(k, v)| (k.clone(), input(v))).collect())
        }
    }
}
