//! `${NAME}` in texts: the value of an environment variable. `$${` is a plain `${`.

use std::borrow::Cow;
use std::collections::BTreeMap;

use jsonc_parser::ast::Value as Ast;
use serde_json::Value;

use crate::schema;
use crate::source::{Env, Found, INCLUDE, join_index, join_key};

/// Longest value of a variable that is put into a text, in bytes.
const MAX_VALUE_BYTES: usize = 64 * 1024;

/// Fills in every text below `value`. Secrets are left as they are: their `"${NAME}"` is a reference, not a text.
pub(crate) fn expand<'t>(
    root: &Value,
    schema: Option<&Value>,
    value: &mut Ast<'t>,
    path: &str,
    env: Env<'_>,
    found: &mut Found<'_>,
    used: &mut BTreeMap<String, Vec<String>>,
) {
    if schema.is_some_and(|s| schema::is_secret(root, s)) {
        return;
    }
    match value {
        Ast::StringLit(text) if text.value.contains("${") => {
            let mut names = Vec::new();
            match fill(&text.value, env, &mut names) {
                Ok(filled) => text.value = Cow::Owned(filled),
                Err((message, help)) => found.bad(text.range.start, path, &message, help),
            }
            if !names.is_empty() {
                used.insert(path.to_owned(), names);
            }
        }
        Ast::Array(array) => {
            let item = schema.and_then(|s| schema::item(root, s));
            for (i, element) in array.elements.iter_mut().enumerate() {
                expand(root, item, element, &join_index(path, i), env, found, used);
            }
        }
        Ast::Object(object) => {
            for prop in &mut object.properties {
                let name = prop.name.as_str().to_owned();
                if name == INCLUDE {
                    continue;
                }
                let child = schema.and_then(|s| schema::child(root, s, &name));
                let path = join_key(path, &name);
                expand(root, child, &mut prop.value, &path, env, found, used);
            }
        }
        _ => {}
    }
}

/// Whether a text can be the name of an environment variable.
pub(crate) fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && !name.starts_with(|c: char| c.is_ascii_digit())
}

fn fill(
    text: &str,
    env: Env<'_>,
    names: &mut Vec<String>,
) -> Result<String, (String, &'static str)> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            out.push_str(&rest[..at - 1]);
            out.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        out.push_str(&rest[..at]);
        let after = &rest[at + 2..];
        let name = after.split_once('}').map_or("", |(name, _)| name);
        if !is_name(name) {
            return Err((
                "${…} does not hold the name of an environment variable".to_owned(),
                "write ${NAME}, or $${ for a plain ${",
            ));
        }
        let value = env(name).ok_or_else(|| {
            (
                format!("the environment variable {name} is not set"),
                "set it for the gateway's process, or write $${ for a plain ${",
            )
        })?;
        if value.len() > MAX_VALUE_BYTES {
            return Err((
                format!("the environment variable {name} is longer than {MAX_VALUE_BYTES} bytes"),
                "",
            ));
        }
        out.push_str(&value);
        names.push(name.to_owned());
        rest = &after[name.len() + 1..];
    }
    out.push_str(rest);
    Ok(out)
}
