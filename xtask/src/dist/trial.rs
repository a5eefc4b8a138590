//! The archive is unpacked as a user would do it, and the program in it is started bare: it has the shipped plugins, takes a message by
//! the webhook channel, and stops when it is told to.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::clients::{Killed, stop, tail, wait_ready};
use crate::ui::Result;
use crate::{guests, sh};

/// Unpacks and tries the archive, whose one folder is `name`.
pub fn run(archive: &Path, name: &str) -> Result<String> {
    let dir = sh::target_dir().join("dist-trial");
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    sh::run(
        Command::new("tar")
            .arg("-xzf")
            .arg(archive)
            .arg("-C")
            .arg(&dir),
    )?;
    let place = dir.join(name);
    let trial = Trial {
        program: place.join("gateway"),
        state: dir.join("state"),
        log: dir.join("gateway.log"),
    };
    for file in ["man/man1/gateway-serve.1", "completions/gateway.bash"] {
        if std::fs::metadata(place.join(file)).map_or(0, |m| m.len()) < 200 {
            return Err(format!("{file} is not in the archive, or is empty"));
        }
    }
    sh::run(
        Command::new("bash")
            .arg("-n")
            .arg(place.join("completions/gateway.bash")),
    )?;
    // The first start makes the configuration that the list reads.
    let answer = trial.serve()?;
    let plugins = trial.plugins()?;
    std::fs::remove_dir_all(&dir).map_err(|e| e.to_string())?;
    Ok(format!("bundled: {plugins}; a message: {answer}"))
}

struct Trial {
    program: PathBuf,
    state: PathBuf,
    log: PathBuf,
}

impl Trial {
    fn command(&self) -> Command {
        let mut cmd = Command::new(&self.program);
        for name in ["GATEWAY_TOKEN", "GATEWAY_URL", "GATEWAY_WASM_DIR"] {
            cmd.env_remove(name);
        }
        cmd.env("GATEWAY_STATE_DIR", &self.state)
            .stdin(Stdio::null());
        cmd
    }

    /// The plugins that it says it carries: all guests, and nothing else.
    fn plugins(&self) -> Result<String> {
        let said = sh::output(self.command().args(["plugin", "list", "--json"]))?;
        let told: Value = serde_json::from_str(&said).map_err(|e| format!("{e}: {said}"))?;
        let rows = told["plugins"].as_array().into_iter().flatten();
        let bundled: BTreeSet<String> = rows
            .filter(|row| row["source"] == "bundled" && row["error"].is_null())
            .filter_map(|row| row["id"].as_str().map(str::to_owned))
            .collect();
        let wanted: BTreeSet<String> = guests::names()?.into_keys().collect();
        if bundled != wanted {
            return Err(format!("it carries {bundled:?} and not {wanted:?}"));
        }
        Ok(bundled.into_iter().collect::<Vec<_>>().join(" "))
    }

    /// Starts it without any option but the place of its state, and posts a message to its webhook channel.
    fn serve(&self) -> Result<String> {
        let sink = File::create(&self.log).map_err(|e| e.to_string())?;
        let copy = sink.try_clone().map_err(|e| e.to_string())?;
        let mut cmd = self.command();
        cmd.args(["serve", "--port", "0"]).stdout(sink).stderr(copy);
        println!("  $ {}", sh::shown(&cmd));
        let mut gateway = Killed(cmd.spawn().map_err(|e| e.to_string())?);
        let port = wait_ready(&mut gateway.0, &self.state, &self.log)?;
        let secret = self.state.join("secrets/main/webhook-default-signing");
        let secret =
            std::fs::read_to_string(&secret).map_err(|e| format!("{}: {e}", secret.display()))?;
        let answer = post(port, secret.trim())?;
        let status = answer.lines().next().unwrap_or_default().to_owned();
        if !status.starts_with("HTTP/1.1 2") {
            return Err(format!(
                "the webhook channel answers {answer}\n{}",
                tail(&self.log)
            ));
        }
        let pending = sh::output(self.command().args(["pairing", "list", "--json"]))?;
        if !pending.contains("\"una\"") {
            return Err(format!("the sender does not wait to be let in: {pending}"));
        }
        stop(gateway, &self.log)?;
        Ok(status)
    }
}

fn post(port: u16, secret: &str) -> Result<String> {
    let body = r#"{"id":"1","from":{"id":"una"},"text":"hello"}"#;
    let mut socket =
        std::net::TcpStream::connect(("127.0.0.1", port)).map_err(|e| e.to_string())?;
    let _ = socket.set_read_timeout(Some(std::time::Duration::from_secs(30)));
    let mut answer = Vec::new();
    write!(
        socket,
        "POST /channels/webhook/default/inbound HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nx-webhook-secret: {secret}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
    .and_then(|()| socket.read_to_end(&mut answer))
    .map_err(|e| format!("the webhook channel: {e}"))?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
