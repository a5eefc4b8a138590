//! A name in a tailnet, through the `tailscale` program of this machine: held as a claim ([`claim`]), recognized in requests
//! ([`front`]), and whose they are ([`whois`]). Whatever goes wrong is one field in health; nothing else waits for it.

mod claim;
mod front;
mod peer;
mod whois;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use gateway_config::TailscaleSettings;
use gateway_config::program::{Program, in_path};

use crate::limits::{TAILSCALE_CALL_MAX_MS, TAILSCALE_OUTPUT_MAX_BYTES, TAILSCALE_TOLD_MAX_CHARS};

pub(crate) use claim::Claim;
pub(crate) use front::Front;

/// Name of the program.
const PROGRAM: &str = "tailscale";

/// The name that is ours now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Name {
    /// Host name, lower case, without a dot at its end.
    host: String,
    port: u16,
}

impl Name {
    /// As a Host line names it.
    fn is(&self, authority: &str) -> bool {
        let bare = authority.eq_ignore_ascii_case(&self.host) && self.port == 443;
        let with_port = authority.rsplit_once(':').is_some_and(|(host, port)| {
            host.eq_ignore_ascii_case(&self.host) && port == self.port.to_string()
        });
        bare || with_port
    }

    /// As a page of it is told apart from others.
    pub(crate) fn origin(&self) -> String {
        match self.port {
            443 => format!("https://{}", self.host),
            port => format!("https://{}:{port}", self.host),
        }
    }

    fn url(&self) -> String {
        format!("{}/", self.origin())
    }
}

/// The use of Tailscale by one listener.
pub(crate) struct Tailscale {
    settings: TailscaleSettings,
    name: ArcSwapOption<Name>,
    whois: whois::Whois,
}

impl Tailscale {
    pub(crate) fn new(settings: TailscaleSettings) -> Arc<Self> {
        Arc::new(Self {
            settings,
            name: ArcSwapOption::empty(),
            whois: whois::Whois::default(),
        })
    }

    /// Runs the program on a thread of its own and takes what it prints.
    ///
    /// # Errors
    /// A sentence for the operator.
    async fn call(&self, args: &[&str], limit_ms: Option<u64>) -> Result<Vec<u8>, String> {
        let path = self.program()?;
        // What the program needs of ours: where it finds its own files, and other programs.
        let env = ["PATH", "HOME"]
            .into_iter()
            .filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?)));
        let program = Program {
            path,
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            env: env.collect(),
            limit: Duration::from_millis(limit_ms.unwrap_or(TAILSCALE_CALL_MAX_MS)),
            max_bytes: TAILSCALE_OUTPUT_MAX_BYTES,
        };
        let (tell, ended) = tokio::sync::oneshot::channel();
        // A thread of its own: a stop does not wait for the runtime's threads for blocking work.
        std::thread::Builder::new()
            .name(PROGRAM.to_owned())
            .spawn(move || {
                // Who asked may have gone away.
                let _ = tell.send(program.run());
            })
            .map_err(|e| format!("no thread for the tailscale program ({e})"))?;
        let ended = ended
            .await
            .map_err(|_| "the tailscale program was not run".to_owned())?
            .map_err(|(what, next)| format!("tailscale {}: {what}; {next}", args[0]))?;
        if ended.status.success() {
            return Ok(ended.stdout);
        }
        let said = match ended.stderr.is_empty() {
            true => ended.stdout,
            false => ended.stderr,
        };
        Err(format!("tailscale {}: {}", args[0], told(&said)))
    }

    fn program(&self) -> Result<PathBuf, String> {
        if let Some(path) = &self.settings.program {
            return Ok(path.clone());
        }
        std::env::var_os("PATH")
            .and_then(|path| in_path(PROGRAM, &path))
            .ok_or_else(|| {
                "there is no tailscale program in PATH: install Tailscale, name the program with gateway.tailscale.program, or write mode: \"off\""
                    .to_owned()
            })
    }
}

/// What a program said, as one line for a person.
fn told(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    let line: Vec<&str> = text.split_whitespace().collect();
    let line = line.join(" ");
    let line = gateway_core::logs::escape(&line);
    match line.is_empty() {
        true => "it failed and said nothing".to_owned(),
        false => line.chars().take(TAILSCALE_TOLD_MAX_CHARS).collect(),
    }
}

#[cfg(test)]
mod tests;
