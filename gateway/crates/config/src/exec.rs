//! Secrets that a program prints: its standard output, and nothing else of it.

use std::path::PathBuf;
use std::time::Duration;

use crate::options::ExecOptions;
use crate::program::{Program, Refusal};
use crate::secret::Secret;
use crate::source::Env;

/// Time that a program has when the configuration says nothing, in milliseconds.
const DEFAULT_TIMEOUT_MS: u64 = 5_000;
/// Most that a program may print, in bytes.
pub(crate) const MAX_OUTPUT_BYTES: u64 = 64 * 1024;

/// Runs the program and takes its standard output.
pub(crate) fn run(options: &ExecOptions, env: Env<'_>) -> Result<Secret, Refusal> {
    let (path, args) = match options.argv.split_first() {
        Some((path, args)) => (PathBuf::from(path), args.to_vec()),
        None => (PathBuf::new(), Vec::new()),
    };
    let named = options
        .env
        .iter()
        .filter_map(|name| Some((name.clone(), env(name)?)));
    let ended = Program {
        path,
        args,
        env: named.collect(),
        limit: Duration::from_millis(options.timeout_ms.unwrap_or(DEFAULT_TIMEOUT_MS)),
        max_bytes: MAX_OUTPUT_BYTES,
    }
    .run()?;
    if !ended.status.success() {
        return Err((
            match ended.status.code() {
                Some(code) => format!("the program ended with code {code}"),
                None => "the program was ended by a signal".to_owned(),
            },
            "run it by hand to see why",
        ));
    }
    let mut text = String::from_utf8(ended.stdout).map_err(|_| {
        (
            "the program printed what is not UTF-8 text".to_owned(),
            "let it print the secret only",
        )
    })?;
    text.truncate(text.trim_end_matches(['\n', '\r']).len());
    Ok(Secret::new(text))
}
