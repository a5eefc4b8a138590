//! `gateway node run`: this machine as a node.

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::json;

use super::output::{Exit, Failure, clean, print_text};
use super::{Global, target};
use crate::node_host::{Commands, NodeHost, Told};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Connect as a node, offer commands of this machine, and come back when the connection ends. Runs no programs for others.
    Run(Run),
}

#[derive(Debug, clap::Args)]
pub struct Run {
    /// The name that operators see until they give it another one.
    #[arg(long, value_name = "NAME")]
    display_name: Option<String>,
    /// Offer the files below this folder: dir.list, file.stat, file.fetch. The gateway's settings have to allow these commands.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Let files below the folder be written too: file.write.
    #[arg(long, requires = "root")]
    write: bool,
    /// Offer these commands only; several separated by commas.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    commands: Option<Vec<String>>,
}

pub async fn run(global: &Global, command: Command) -> Result<(), Failure> {
    let Command::Run(args) = command;
    let root = args
        .root
        .as_deref()
        .map(|path| {
            Commands::folder(path, args.write).map_err(|e| {
                Failure::new(
                    Exit::Usage,
                    format!("--root {}: {e}", path.display()),
                    "name a folder that this user can read",
                )
            })
        })
        .transpose()?;
    let commands = Commands::new(root, args.commands);
    if commands.names().is_empty() {
        return Err(Failure::new(
            Exit::Usage,
            "no command is left to be offered",
            "without --commands the node offers all that it has",
        ));
    }
    let host = NodeHost {
        sources: target::sources(global)?,
        // Of its own: a device that operates the gateway does not become a node by itself.
        identity: global.state_dir()?.join("node-identity"),
        display_name: args.display_name,
        commands,
    };
    let as_json = global.json;
    let tell = move |told: &Told| {
        let (what, text) = match told {
            Told::Connected(id) => ("connected", format!("connected as node {id}")),
            Told::Ended(why) => ("ended", format!("the connection ended: {}", clean(why))),
            Told::Failed(why) => ("failed", clean(why)),
        };
        let line = if as_json {
            json!({ "event": what, "message": text }).to_string()
        } else {
            text
        };
        // If nobody reads it, the node works all the same.
        let _ = print_text(&line);
    };
    tokio::select! {
        done = host.run(&tell) => Ok(done?),
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}
