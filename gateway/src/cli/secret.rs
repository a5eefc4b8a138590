//! `gateway secret set NAME` (the value comes on standard input)

use std::io::{IsTerminal, Read, Write};
use std::path::Path;

use clap::Subcommand;
use gateway_config::{Secret, secret_set};
use gateway_core::audit::{Aside, append_aside};
use serde_json::json;

use super::Global;
use super::output::{Exit, Failure, clean, print};

/// Longest secret, in bytes.
const MAX_SECRET_BYTES: u64 = 64 * 1024;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Store a secret; {store: "NAME"} in gateway.json5 refers to it.
    Set {
        /// Its name.
        name: String,
    },
}

pub fn run(global: &Global, command: Command) -> Result<(), Failure> {
    let Command::Set { name } = command;
    let state_dir = global.state_dir()?;
    let value = Secret::new(read_stdin()?);
    let set = secret_set(&state_dir, &global.tenant, &name, &value)?;
    warn(set.warning.as_deref());
    let noted = note(&state_dir, &global.tenant, &name, set.replaced)?;
    let result = json!({
        "name": name, "tenant": global.tenant, "path": set.path, "replaced": set.replaced, "audited": noted,
    });
    print(global.json, &result, |_| {
        let what = if set.replaced { "replaced" } else { "stored" };
        format!(
            "{what} {}\nnext: a running gateway whose configuration refers to it takes it up",
            set.path.display()
        )
    })
}

/// Writes into the audit log that a secret was stored, where no gateway runs that does so itself when the secret is one of its
/// own. Gives whether it is there now.
pub fn note(state_dir: &Path, tenant: &str, name: &str, replaced: bool) -> Result<bool, Failure> {
    let now_ms = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX));
    let object = json!({ "name": name, "replaced": replaced });
    let written = super::block_on(async {
        Ok(append_aside(state_dir, tenant, "secret.set", object, now_ms).await)
    })?;
    match written {
        Ok(Aside::Written) => return Ok(true),
        Ok(Aside::NoStore | Aside::Running) => {}
        Ok(Aside::OldStore) => warn(Some(
            "the stores wait for the next start of this version: this is not in the audit log",
        )),
        Err(e) => warn(Some(&format!("this is not in the audit log: {e}"))),
    }
    Ok(false)
}

/// Reads a secret from standard input. A terminal is told what is waited for; it shows what is typed.
pub fn read_stdin() -> Result<String, Failure> {
    let mut stdin = std::io::stdin().lock();
    if std::io::stdin().is_terminal() {
        // Without a prompt the wait is still the same.
        let _ = writeln!(
            std::io::stderr(),
            "type or paste the secret, then Enter and Ctrl-D (it is visible; `… < FILE` is not):"
        );
    }
    let mut text = String::new();
    stdin
        .by_ref()
        .take(MAX_SECRET_BYTES + 1)
        .read_to_string(&mut text)?;
    if text.len() as u64 > MAX_SECRET_BYTES {
        return Err(Failure::new(
            Exit::Usage,
            format!("a secret has at most {MAX_SECRET_BYTES} bytes"),
            "check what is piped in",
        ));
    }
    Ok(text)
}

/// Tells a doubt on stderr.
pub fn warn(text: Option<&str>) {
    if let Some(text) = text {
        // The command has worked; a lost warning changes nothing.
        let _ = writeln!(std::io::stderr(), "warning: {}", clean(text));
    }
}
