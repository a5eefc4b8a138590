//! `gateway devices list | approve | reject | remove | rename | rotate | revoke`

use clap::{Subcommand, ValueEnum};
use gateway_core::cron::schedule::rfc3339;
use serde_json::{Value, json};

use super::output::{Failure, clean, print, table, text};
use super::{Global, target};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Devices that wait for an operator, and those that are paired.
    List,
    /// Let a waiting device in, with the role and scopes that it asked for.
    Approve {
        /// Id of the request, as the device was told it and as `gateway devices list` shows it.
        request: String,
    },
    /// Turn a waiting device down.
    Reject {
        /// Id of the request.
        request: String,
    },
    /// Forget a device: its tokens end, and its connections within a second.
    Remove {
        /// Id of the device, or a beginning of it that no other device has.
        device: String,
    },
    /// Give a device a name that operators see.
    Rename {
        /// Id of the device, or a beginning of it that no other device has.
        device: String,
        /// Its name.
        label: String,
    },
    /// Replace a device's token; the old one ends at once, and the device gets the new one when it connects with the gateway's
    /// token.
    Rotate {
        /// Id of the device, or a beginning of it that no other device has.
        device: String,
        /// The role of the token.
        #[arg(long, value_enum, default_value_t = Role::Operator)]
        role: Role,
        /// Scopes of the new token, at most those of the old one: read, write, …; several by repeating it.
        #[arg(long = "scope", value_name = "SCOPE")]
        scopes: Vec<String>,
    },
    /// End a device's token; to come back it has to be approved again.
    Revoke {
        /// Id of the device, or a beginning of it that no other device has.
        device: String,
        /// The role of the token.
        #[arg(long, value_enum, default_value_t = Role::Operator)]
        role: Role,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Role {
    /// A person or a program that operates the gateway.
    Operator,
    /// A node.
    Node,
}

impl Role {
    fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Node => "node",
        }
    }
}

/// A decision gives scopes, and nobody gives what they do not have: all are asked for.
async fn call(global: &Global, method: &str, params: Value) -> Result<Value, Failure> {
    let scopes = vec!["operator.admin".to_owned()];
    target::call_as(global, scopes, method, params).await
}

pub async fn run(global: &Global, command: Command) -> Result<(), Failure> {
    match command {
        Command::List => {
            let result = target::call(global, "device.pair.list", json!({})).await?;
            print(global.json, &result, lists)
        }
        Command::Approve { request } => {
            let params = json!({ "requestId": request });
            let result = call(global, "device.pair.approve", params).await?;
            print(global.json, &result, |r| {
                let device = &r["device"];
                format!(
                    "{} is let in as {} ({}); it connects with its next attempt",
                    name(device),
                    words(&device["roles"]),
                    words(&device["scopes"])
                )
            })
        }
        Command::Reject { request } => {
            let params = json!({ "requestId": request });
            let result = call(global, "device.pair.reject", params).await?;
            print(global.json, &result, |r| {
                format!("{} is turned down", short(&text(r, "deviceId")))
            })
        }
        Command::Remove { device } => {
            let id = whole(global, &device).await?;
            let result = call(global, "device.pair.remove", json!({ "deviceId": id })).await?;
            print(global.json, &result, |r| {
                format!(
                    "{} is forgotten, and its connections are closed",
                    short(&text(r, "deviceId"))
                )
            })
        }
        Command::Rename { device, label } => {
            let id = whole(global, &device).await?;
            let params = json!({ "deviceId": id, "label": label });
            let result = call(global, "device.pair.rename", params).await?;
            print(global.json, &result, |r| {
                format!(
                    "{} is called {} now",
                    short(&text(r, "deviceId")),
                    clean(&text(r, "label"))
                )
            })
        }
        Command::Rotate {
            device,
            role,
            scopes,
        } => {
            let id = whole(global, &device).await?;
            let mut params = json!({ "deviceId": id, "role": role.as_str() });
            if !scopes.is_empty() {
                let names: Vec<String> = scopes
                    .iter()
                    .map(|s| super::apikey::whole_name(s))
                    .collect();
                params["scopes"] = json!(names);
            }
            let result = call(global, "device.token.rotate", params).await?;
            print(global.json, &result, |r| {
                format!(
                    "the token of {} as {} is replaced ({}); the old one has ended",
                    short(&text(r, "deviceId")),
                    text(r, "role"),
                    words(&r["scopes"])
                )
            })
        }
        Command::Revoke { device, role } => {
            let id = whole(global, &device).await?;
            let params = json!({ "deviceId": id, "role": role.as_str() });
            let result = call(global, "device.token.revoke", params).await?;
            print(global.json, &result, |r| {
                format!(
                    "the token of {} as {} has ended, and its connections are closed; to come back it has to be approved again",
                    short(&text(r, "deviceId")),
                    text(r, "role")
                )
            })
        }
    }
}

/// The id that begins like this. One that none begins like goes to the gateway as it is.
async fn whole(global: &Global, device: &str) -> Result<String, Failure> {
    if device.len() >= 64 {
        return Ok(device.to_owned());
    }
    let listed = target::call(global, "device.pair.list", json!({})).await?;
    let ids: Vec<&str> = listed["paired"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|d| d["deviceId"].as_str())
        .filter(|id| !device.is_empty() && id.starts_with(device))
        .collect();
    match ids[..] {
        [one] => Ok(one.to_owned()),
        [] => Ok(device.to_owned()),
        _ => Err(Failure::new(
            super::output::Exit::Usage,
            format!("{} devices begin with {}", ids.len(), clean(device)),
            "give more of the id; `gateway devices list --json` has it whole",
        )),
    }
}

fn lists(r: &Value) -> String {
    let rows = |key: &str, row: &dyn Fn(&Value) -> Vec<String>| -> Vec<Vec<String>> {
        r[key].as_array().into_iter().flatten().map(row).collect()
    };
    let waiting = rows("pending", &|q| {
        vec![
            text(q, "requestId"),
            short(&text(q, "deviceId")),
            text(q, "displayName"),
            text(q, "clientId"),
            text(q, "platform"),
            text(q, "role"),
            words(&q["scopes"]),
            text(q, "remoteIp"),
            when(q, "expiresAtMs"),
        ]
    });
    let paired = rows("paired", &|d| {
        vec![
            short(&text(d, "deviceId")),
            name(d),
            text(d, "clientId"),
            text(d, "platform"),
            words(&d["roles"]),
            words(&d["scopes"]),
            text(d, "approvedVia"),
            when(d, "lastSeenAtMs"),
            text(d, "connected"),
        ]
    });
    let waiting = table(
        &[
            "REQUEST",
            "DEVICE",
            "CALLS ITSELF",
            "CLIENT",
            "PLATFORM",
            "ROLE",
            "SCOPES",
            "FROM",
            "UNTIL",
        ],
        &waiting,
        "no device waits",
    );
    let paired = table(
        &[
            "DEVICE",
            "NAME",
            "CLIENT",
            "PLATFORM",
            "ROLES",
            "SCOPES",
            "APPROVED",
            "SEEN",
            "CONNECTED",
        ],
        &paired,
        "no device is paired",
    );
    format!("{waiting}\n\n{paired}")
}

fn name(device: &Value) -> String {
    for key in ["operatorLabel", "displayName"] {
        if let Some(name) = device[key].as_str() {
            return clean(name);
        }
    }
    short(&text(device, "deviceId"))
}

/// Enough of an id to tell devices apart.
fn short(id: &str) -> String {
    id.chars().take(12).collect()
}

fn words(list: &Value) -> String {
    let words: Vec<&str> = list
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(|word| word.strip_prefix("operator.").unwrap_or(word))
        .collect();
    if words.is_empty() {
        "-".to_owned()
    } else {
        words.join(" ")
    }
}

fn when(value: &Value, key: &str) -> String {
    value[key].as_i64().map_or_else(|| "-".to_owned(), rfc3339)
}
