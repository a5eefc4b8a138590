//! Paths of keys as messages and commands write them: `gateway.auth.token`, `a["b c"]`, `list[2]`.

use serde_json::Value;

/// The steps of a path. `None` when it is not well formed.
pub fn split_path(path: &str) -> Option<Vec<String>> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(quoted) = rest.strip_prefix("[\"") {
            let end = end_of_quoted(quoted)?;
            steps.push(serde_json::from_str(&format!("\"{}\"", &quoted[..end])).ok()?);
            rest = quoted[end + 1..].strip_prefix(']')?;
        } else if let Some(index) = rest.strip_prefix('[') {
            let (digits, after) = index.split_once(']')?;
            digits.parse::<usize>().ok()?;
            steps.push(digits.to_owned());
            rest = after;
        } else {
            let word = if steps.is_empty() {
                rest
            } else {
                rest.strip_prefix('.')?
            };
            let end = word.find(['.', '[']).unwrap_or(word.len());
            if end == 0 {
                return None;
            }
            steps.push(word[..end].to_owned());
            rest = &word[end..];
        }
    }
    Some(steps)
}

/// Byte offset of the quote that ends a quoted step.
fn end_of_quoted(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(i),
            _ => {}
        }
    }
    None
}

/// The path of these steps.
pub fn join_path<S: AsRef<str>>(steps: &[S]) -> String {
    steps.iter().fold(String::new(), |path, step| {
        crate::source::join_key(&path, step.as_ref())
    })
}

/// The value at these steps; a number is an index where there is a list.
pub fn value_at<'v, S: AsRef<str>>(value: &'v Value, steps: &[S]) -> Option<&'v Value> {
    steps.iter().try_fold(value, |value, step| match value {
        Value::Object(map) => map.get(step.as_ref()),
        Value::Array(list) => list.get(step.as_ref().parse::<usize>().ok()?),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn paths_are_split_as_they_are_joined() {
        for steps in [
            vec!["gateway"],
            vec!["channels", "webhook", "accounts", "a.b", "secrets"],
            vec!["a b", "\"q\"", "ü", ""],
            vec!["__proto__", "constructor"],
        ] {
            let path = join_path(&steps);
            assert_eq!(split_path(&path).unwrap(), steps, "{path}");
        }
        assert_eq!(split_path("a[2].b").unwrap(), ["a", "2", "b"]);
        assert_eq!(split_path("").unwrap(), Vec::<String>::new());
        for bad in [".a", "a.", "a..b", "a[", "a[x]", "a[\"b", "a[\"b\"", "a]b["] {
            let got = split_path(bad);
            assert!(got.is_none() || bad == "a]b[", "{bad}: {got:?}");
        }
    }

    #[test]
    fn values_are_found() {
        let value = serde_json::json!({"a": [{"b": 1}]});
        assert_eq!(value_at(&value, &["a", "0", "b"]), Some(&1.into()));
        assert_eq!(value_at(&value, &["a", "1"]), None);
        assert_eq!(value_at(&value, &["a", "b"]), None);
    }
}
