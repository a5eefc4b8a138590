//! `gateway call METHOD [--params JSON]`

use std::io::Read;

use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use gateway_protocol::method;
use serde_json::Value;

use super::output::{Exit, Failure, print};
use super::{Global, target};

/// Longest parameters, in bytes.
const MAX_PARAMS_BYTES: u64 = gateway_client::limits::MAX_REQUEST_BYTES as u64;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Method name, for example chat.history.
    #[arg(value_name = "METHOD", add = ArgValueCompleter::new(complete_method))]
    method: String,
    /// Parameters as JSON; `-` reads them from standard input.
    #[arg(long, value_name = "JSON")]
    params: Option<String>,
    /// Wait for the final answer of a method that answers twice (agent).
    #[arg(long)]
    expect_final: bool,
}

fn complete_method(begin: &std::ffi::OsStr) -> Vec<CompletionCandidate> {
    let begin = begin.to_string_lossy();
    method::all()
        .iter()
        .filter(|spec| spec.name.starts_with(&*begin))
        .map(|spec| CompletionCandidate::new(spec.name).help(Some(spec.doc.into())))
        .collect()
}

pub async fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let text = match args.params.as_deref() {
        Some("-") => {
            let mut text = String::new();
            std::io::stdin()
                .lock()
                .take(MAX_PARAMS_BYTES)
                .read_to_string(&mut text)?;
            Some(text)
        }
        other => other.map(str::to_owned),
    };
    let params = match text {
        None => Value::Null,
        Some(text) => match serde_json::from_str(&text) {
            Ok(params @ Value::Object(_)) => params,
            Ok(_) => return Err(usage("--params is not an object")),
            Err(e) => return Err(usage(&format!("--params is not JSON: {e}"))),
        },
    };
    let result = target::call_with(global, &args.method, params, args.expect_final).await?;
    // The result of a method is JSON for people too.
    print(true, &result, |_| String::new())
}

fn usage(message: &str) -> Failure {
    Failure::new(
        Exit::Usage,
        message,
        "write it like --params '{\"key\": \"value\"}'",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_completed_from_the_registry() {
        let names = |begin: &str| -> Vec<String> {
            let found = complete_method(begin.as_ref());
            found
                .iter()
                .map(|c| c.get_value().to_string_lossy().into_owned())
                .collect()
        };
        assert_eq!(names("").len(), method::all().len());
        assert!(names("chat.").contains(&"chat.send".to_owned()));
        assert!(names("chat.").iter().all(|n| n.starts_with("chat.")));
        assert!(names("nope").is_empty());
    }
}
