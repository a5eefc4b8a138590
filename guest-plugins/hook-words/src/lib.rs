//! Hook: denies what has listed words in it, and notes which of others it has.

use gateway_guest::json;
use serde_json::{Value, json};

#[cfg(target_arch = "wasm32")]
mod policy;

const MAX_WORDS: usize = 1_000;

/// What is looked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Words {
    deny: Vec<String>,
    mark: Vec<String>,
}

/// What is said of a text.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    /// Nothing.
    Nothing,
    /// These words of `mark`, as a JSON list.
    Marked(String),
    /// A sentence with the word that is not wanted.
    Denied(String),
}

/// Reads the configuration: `{"deny"?: [word, …], "mark"?: [word, …]}`, letters and digits only, whatever their case.
///
/// # Errors
/// A sentence for the operator.
pub fn words(config: &str) -> Result<Words, String> {
    let config = json::parse(config.as_bytes())?;
    let list = |key: &str| match config.get(key) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(words)) if words.len() <= MAX_WORDS => words
            .iter()
            .map(|word| match word.as_str().map(str::to_lowercase) {
                Some(word) if !word.is_empty() && word.chars().all(in_word) => Ok(word),
                _ => Err(format!(
                    "`{key}` has {word}, which is no word of letters and digits"
                )),
            })
            .collect(),
        Some(_) => Err(format!(
            "`{key}` must be a list of at most {MAX_WORDS} words"
        )),
    };
    if !config.is_object() {
        return Err("the configuration must be an object".to_owned());
    }
    Ok(Words {
        deny: list("deny")?,
        mark: list("mark")?,
    })
}

fn in_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

impl Words {
    /// Looks through a text.
    #[must_use]
    pub fn judge(&self, text: &str) -> Said {
        let text = text.to_lowercase();
        let found: Vec<&str> = text
            .split(|c| !in_word(c))
            .filter(|w| !w.is_empty())
            .collect();
        let has = |word: &&String| found.contains(&word.as_str());
        if let Some(word) = self.deny.iter().find(has) {
            return Said::Denied(format!("{word:?} is not wanted here"));
        }
        let marked: Vec<&String> = self.mark.iter().filter(has).collect();
        if marked.is_empty() {
            Said::Nothing
        } else {
            Said::Marked(json!(marked).to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn whole_words_count_whatever_their_case() {
        let words =
            words(r#"{"deny":["Bomb","session_info"],"mark":["invoice","Größe"]}"#).unwrap();
        for denied in ["a bomb!", "BOMB", "(bomb)", r#"session_info {"a":1}"#] {
            assert!(matches!(words.judge(denied), Said::Denied(_)), "{denied}");
        }
        for fine in ["bombastic", "", "session", "info"] {
            assert_eq!(words.judge(fine), Said::Nothing, "{fine}");
        }
        assert_eq!(
            words.judge("Invoice, GRÖSSE größe"),
            Said::Marked(r#"["invoice","größe"]"#.into())
        );
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(words("{}").unwrap(), Words::default());
        for bad in [
            "",
            "[]",
            r#"{"deny":"x"}"#,
            r#"{"deny":["two words"]}"#,
            r#"{"mark":[1]}"#,
        ] {
            assert!(words(bad).is_err(), "{bad}");
        }
    }
}
