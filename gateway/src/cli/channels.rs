//! `gateway channels list | add | start | stop | status`

use clap::Subcommand;
use gateway_config::{MAIN_TENANT, Secret, channels_add, secret_set};
use serde_json::{Value, json};

use super::output::{Exit, Failure, print, print_text, table, text};
use super::{Global, block_on, secret, target};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// The configured accounts (from gateway.json5; the gateway need not run).
    List,
    /// Add an account to gateway.json5; comments stay.
    Add {
        /// Channel kind, for example webhook or telegram.
        kind: String,
        /// Name of the account.
        #[arg(long, default_value = "default")]
        account: String,
        /// Read the secret that the platform gave you (a bot token) from standard input and store it.
        #[arg(long)]
        secret_stdin: bool,
    },
    /// Start the accounts of a channel, or one of them.
    Start {
        /// Channel kind.
        kind: String,
        /// Only this account.
        account: Option<String>,
    },
    /// Stop the accounts of a channel, or one of them.
    Stop {
        /// Channel kind.
        kind: String,
        /// Only this account.
        account: Option<String>,
    },
    /// How the accounts of the running gateway are.
    Status {
        /// Only this channel kind.
        kind: Option<String>,
    },
}

pub fn run(global: &Global, command: Command) -> Result<(), Failure> {
    match command {
        Command::List => list(global),
        Command::Add {
            kind,
            account,
            secret_stdin,
        } => add(global, &kind, &account, secret_stdin),
        Command::Start { kind, account } => {
            block_on(switch(global, "channels.start", kind, account))
        }
        Command::Stop { kind, account } => block_on(switch(global, "channels.stop", kind, account)),
        Command::Status { kind } => block_on(status(global, kind)),
    }
}

fn list(global: &Global) -> Result<(), Failure> {
    let settings = global.settings()?;
    let tenant = settings.tenants.get(&global.tenant).ok_or_else(|| {
        Failure::new(
            Exit::Config,
            format!("there is no tenant {:?}", global.tenant),
            "add it to `tenants` in gateway.json5, or name another with --tenant",
        )
    })?;
    let shown = gateway_config::redacted_tenant_json(&settings, tenant);
    let accounts: Vec<Value> = tenant
        .channels
        .iter()
        .map(|a| {
            let row = &shown["channels"][&a.kind]["accounts"][&a.account];
            json!({
                "channel": a.kind, "accountId": a.account, "enabled": a.enabled, "agent": a.agent,
                "dmPolicy": row["dmPolicy"], "groupPolicy": row["groupPolicy"],
            })
        })
        .collect();
    let rows: Vec<Vec<String>> = accounts
        .iter()
        .map(|a| {
            [
                "channel",
                "accountId",
                "enabled",
                "agent",
                "dmPolicy",
                "groupPolicy",
            ]
            .iter()
            .map(|k| text(a, k))
            .collect()
        })
        .collect();
    print(global.json, &json!({ "accounts": accounts }), |_| {
        table(
            &["CHANNEL", "ACCOUNT", "ENABLED", "AGENT", "DIRECT", "GROUPS"],
            &rows,
            "no channel accounts; `gateway channels add webhook` adds one",
        )
    })
}

fn add(global: &Global, kind: &str, account: &str, secret_stdin: bool) -> Result<(), Failure> {
    let state_dir = global.state_dir()?;
    if let Some(config) = &global.config {
        return Err(Failure::new(
            Exit::Usage,
            "channels add edits gateway.json5 of the state directory only",
            format!("leave --config out, or edit {} by hand", config.display()),
        ));
    }
    if secret_stdin {
        let name = format!(
            "{kind}-{account}-{}",
            gateway_config::channel_secret_name(kind)
        );
        let set = secret_set(
            &state_dir,
            &global.tenant,
            &name,
            &Secret::new(secret::read_stdin()?),
        )?;
        secret::warn(set.warning.as_deref());
        secret::note(&state_dir, &global.tenant, &name, set.replaced)?;
    }
    let added = channels_add(&state_dir, &global.tenant, kind, account)?;
    let result = json!({
        "channel": kind, "accountId": account, "enabled": added.enabled, "configPath": added.config_path,
        "secretPath": added.secret_path, "secretCreated": added.secret_created, "next": added.next,
    });
    let path = match global.tenant.as_str() {
        MAIN_TENANT => format!("/channels/{kind}/{account}/"),
        slug => format!("/t/{slug}/channels/{kind}/{account}/"),
    };
    print(global.json, &result, |_| {
        let mut lines = vec![format!(
            "added {kind} account {account} to {}",
            added.config_path.display()
        )];
        if added.secret_created {
            lines.push(format!(
                "its secret was made: {}",
                added.secret_path.display()
            ));
        }
        lines.push(format!("webhooks of it, if any, arrive below {path}"));
        lines.push(format!("next: {}", added.next));
        lines.join("\n")
    })
}

async fn switch(
    global: &Global,
    method: &str,
    kind: String,
    account: Option<String>,
) -> Result<(), Failure> {
    let mut params = json!({ "channel": kind });
    if let Some(account) = account {
        params["accountId"] = json!(account);
    }
    let result = target::call(global, method, params).await?;
    if global.json {
        return print(true, &result, |_| String::new());
    }
    let ids: Vec<&str> = result["accountIds"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let state = if result["running"] == true {
        "running"
    } else {
        "stopped"
    };
    print_text(&super::output::clean(&format!(
        "{kind} {}: {state}",
        ids.join(", ")
    )))
}

async fn status(global: &Global, kind: Option<String>) -> Result<(), Failure> {
    let params = kind.map_or(json!({}), |k| json!({ "channel": k }));
    let result = target::call(global, "channels.status", params).await?;
    print(global.json, &result, |r| {
        let mut rows = Vec::new();
        for (kind, accounts) in r["channelAccounts"].as_object().into_iter().flatten() {
            for a in accounts.as_array().into_iter().flatten() {
                let mut row = vec![kind.clone()];
                row.extend(
                    [
                        "accountId",
                        "enabled",
                        "running",
                        "healthState",
                        "dmPolicy",
                        "lastError",
                    ]
                    .iter()
                    .map(|k| text(a, k)),
                );
                rows.push(row);
            }
        }
        table(
            &[
                "CHANNEL",
                "ACCOUNT",
                "ENABLED",
                "RUNNING",
                "HEALTH",
                "DIRECT",
                "LAST ERROR",
            ],
            &rows,
            "no channel accounts; `gateway channels add webhook` adds one",
        )
    })
}
