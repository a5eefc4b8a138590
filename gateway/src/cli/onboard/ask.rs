//! Questions on a terminal. They go to standard error, so that standard output has the result and nothing else.

use std::io::{BufRead, Read, Write};

use super::super::output::{Exit, Failure, clean, clean_lines};

/// Longest answer, in bytes.
const ANSWER_MAX_BYTES: u64 = 64 * 1024;

fn stopped() -> Failure {
    Failure::new(
        Exit::Failure,
        "stopped before the end; what was decided so far is kept",
        "run `gateway onboard` again, it goes on where this ended",
    )
}

/// Tells something between the questions.
pub fn say(text: &str) -> Result<(), Failure> {
    Ok(writeln!(std::io::stderr(), "{}", clean_lines(text))?)
}

/// One line; an empty one is the default, where there is one.
pub fn line(question: &str, default: Option<&str>) -> Result<String, Failure> {
    loop {
        let shown = default.map_or(String::new(), |d| format!(" [{}]", clean(d)));
        let mut err = std::io::stderr().lock();
        write!(err, "{}{shown}: ", clean(question))?;
        err.flush()?;
        drop(err);
        let mut text = String::new();
        let read = std::io::stdin()
            .lock()
            .take(ANSWER_MAX_BYTES)
            .read_line(&mut text)?;
        if read == 0 {
            return Err(stopped());
        }
        match (text.trim(), default) {
            ("", Some(default)) => return Ok(default.to_owned()),
            ("", None) => {}
            (text, _) => return Ok(text.to_owned()),
        }
    }
}

/// One of these words, each with what it means; its first letters are enough.
pub fn choice(
    question: &str,
    options: &[(&'static str, &str)],
    default: &str,
) -> Result<&'static str, Failure> {
    say("")?;
    say(question)?;
    for (word, meaning) in options {
        say(&format!("  {word:<10} {meaning}"))?;
    }
    loop {
        let given = line("your choice", Some(default))?;
        if let Some(word) = meant(options.iter().map(|(word, _)| *word), &given) {
            return Ok(word);
        }
        let words: Vec<&str> = options.iter().map(|(word, _)| *word).collect();
        say(&format!("write one of: {}", words.join(", ")))?;
    }
}

/// The only word that begins like this, or is this.
fn meant(words: impl Iterator<Item = &'static str> + Clone, given: &str) -> Option<&'static str> {
    let given = given.to_ascii_lowercase();
    if let Some(word) = words.clone().find(|word| *word == given) {
        return Some(word);
    }
    let mut fitting = words.filter(|word| word.starts_with(&given));
    match (fitting.next(), fitting.next()) {
        (Some(word), None) => Some(word),
        _ => None,
    }
}

/// Yes or no.
pub fn yes(question: &str, default: bool) -> Result<bool, Failure> {
    loop {
        let given = line(
            &format!("{question} (y/n)"),
            Some(if default { "y" } else { "n" }),
        )?;
        match given.to_ascii_lowercase().as_str() {
            "y" | "yes" => return Ok(true),
            "n" | "no" => return Ok(false),
            _ => say("write y or n")?,
        }
    }
}

/// A secret; it is not shown.
pub fn secret(question: &str) -> Result<String, Failure> {
    loop {
        let mut err = std::io::stderr().lock();
        write!(err, "{} (it is not shown): ", clean(question))?;
        err.flush()?;
        drop(err);
        match rpassword::read_password() {
            Ok(text) if text.trim().is_empty() => {}
            Ok(text) => return Ok(text.trim().to_owned()),
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Err(stopped()),
            Err(e) => return Err(e.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_letters_are_enough_where_they_name_one() {
        let words = || ["none", "webhook", "telegram", "tell"].into_iter();
        assert_eq!(meant(words(), "none"), Some("none"));
        assert_eq!(meant(words(), "W"), Some("webhook"));
        assert_eq!(meant(words(), "te"), None);
        assert_eq!(meant(words(), "x"), None);
    }
}
