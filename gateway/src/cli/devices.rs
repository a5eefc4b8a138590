//! `gateway devices list | approve | reject | remove | rename | rotate | revoke | setup-code | upgrade`

use std::io::{IsTerminal as _, Write as _};

use clap::{Subcommand, ValueEnum};
use gateway_client::UrlSource;
use gateway_protocol::methods::device_setup::SETUP_SCHEME;
use serde_json::{Value, json};

use super::output::{Exit, Failure, clean, print, short, table, text, when, words};
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
    /// Make a code that pairs one device, once, within ten minutes and without an approval: a link, and a picture to scan.
    SetupCode {
        /// What the device gets: full (everything), limited (talk, look, answer approvals), node (no operator).
        #[arg(long, value_enum, default_value_t = Access::Full)]
        access: Access,
        /// The gateway's address as the device reaches it, wss://HOST:PORT (default: the one that this command uses from
        /// elsewhere; on the gateway's machine its name in the tailnet or its own address with TLS).
        #[arg(long, value_name = "URL")]
        public_url: Option<String>,
        /// Print no picture.
        #[arg(long)]
        no_qr: bool,
    },
    /// Ask an operator of a gateway elsewhere for more scopes for this machine, and wait for the decision (5 minutes).
    Upgrade {
        /// A scope that it is to have besides those that it has: read, write, admin, approvals, … (repeat for several).
        #[arg(long = "scope", value_name = "SCOPE", required = true)]
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Access {
    /// A node, and an operator with every scope.
    Full,
    /// A node, and an operator that can talk, look and answer approvals.
    Limited,
    /// A node.
    Node,
}

impl Access {
    fn gives(self) -> &'static str {
        match self {
            Self::Full => "as a node, and as an operator with everything",
            Self::Limited => {
                "as a node, and as an operator that talks, looks and answers approvals"
            }
            Self::Node => "as a node",
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
        Command::SetupCode {
            access,
            public_url,
            no_qr,
        } => {
            let mut params = json!({});
            if let Some(url) = public_url.or(elsewhere(global)?) {
                params["publicUrl"] = json!(url);
            }
            match access {
                Access::Full => {}
                Access::Limited => params["bootstrapProfile"] = json!("limited"),
                Access::Node => params["bootstrapProfile"] = json!("node"),
            }
            let mut result = call(global, "device.pair.setupCode", params).await?;
            let link = format!("{SETUP_SCHEME}{}", text(&result, "setupCode"));
            result["link"] = json!(link);
            print(global.json, &result, |r| {
                // Scanners of every age read the bare code.
                let picture = if no_qr {
                    String::new()
                } else {
                    picture(&text(r, "setupCode"))
                };
                format!(
                    "{picture}{link}\n\npairs one device with {} ({}), once, until {}\non it: scan the picture, or gateway pair '{link}'",
                    text(r, "gatewayUrl"),
                    access.gives(),
                    when(r, "expiresAtMs"),
                )
            })
        }
        Command::Upgrade { scopes } => {
            let names = scopes
                .iter()
                .map(|s| super::apikey::whole_name(s))
                .collect();
            let sources = target::sources(global)?;
            let tell = |id: &str| {
                let next = format!(
                    "waits for an operator: gateway devices approve {} on the gateway's machine",
                    clean(id)
                );
                // The command goes on without it.
                let _ = writeln!(std::io::stderr(), "{next}");
            };
            let timeout = target::timeout(global);
            let decided = gateway_client::ask_for_scopes(&sources, names, timeout, tell).await?;
            if decided.status != "approved" {
                return Err(Failure::new(
                    Exit::Refused,
                    format!(
                        "the request {} was {}",
                        clean(&decided.request_id),
                        clean(&decided.status)
                    ),
                    "ask the gateway's operator, then the same command again",
                ));
            }
            let result = json!({ "status": decided.status, "requestId": decided.request_id, "scopes": decided.scopes });
            print(global.json, &result, |r| {
                format!("this machine may do more now: {}", words(&r["scopes"]))
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

/// The address that this command uses, where devices elsewhere can use it too.
fn elsewhere(global: &Global) -> Result<Option<String>, Failure> {
    let details = gateway_client::build_gateway_connection_details(&target::sources(global)?)?;
    let own = matches!(
        details.url_source,
        UrlSource::Running | UrlSource::Config | UrlSource::Default
    );
    let remote = !own && details.url.starts_with("wss:") && !details.is_loopback();
    Ok(remote.then_some(details.url))
}

/// A text as a picture to scan; none for one that is too long for it.
fn picture(text: &str) -> String {
    use qrcode::render::unicode::Dense1x2;
    use qrcode::{EcLevel, QrCode};
    let Ok(code) = QrCode::with_error_correction_level(text, EcLevel::L) else {
        return String::new();
    };
    // A full block is what shines in it.
    let drawn = code
        .render::<Dense1x2>()
        .dark_color(Dense1x2::Light)
        .light_color(Dense1x2::Dark)
        .build();
    let colours = std::io::stdout().is_terminal();
    let mut out = String::new();
    for line in drawn.lines() {
        // White on black, whatever the terminal's own colours are.
        out.push_str(&match colours {
            true => format!("\x1b[97;40m{line}\x1b[0m\n"),
            false => format!("{line}\n"),
        });
    }
    out.push('\n');
    out
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
            Exit::Usage,
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
