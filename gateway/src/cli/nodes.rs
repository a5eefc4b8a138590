//! `gateway nodes list | status | pending | approve | reject | describe | rename | remove | invoke`

use std::io::Write as _;
use std::time::Duration;

use clap::Subcommand;
use gateway_client::RequestOptions;
use gateway_core::node::policy::invoke_scope;
use serde_json::{Value, json};

use super::output::{Exit, Failure, clean, clean_lines, print, short, table, text, when, words};
use super::{Global, target};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Nodes that are paired: who is connected, and how many commands each lets call.
    List,
    /// How the machines of the nodes are, and when each was seen.
    Status,
    /// What nodes offer and nobody approved yet.
    Pending,
    /// Approve what a node offers: its commands can be called from then on.
    Approve {
        /// Id of the request, as `gateway nodes pending` shows it.
        request: String,
    },
    /// Turn down what a node offers; what was approved before stays.
    Reject {
        /// Id of the request.
        request: String,
    },
    /// Everything about one node: commands, groups, permissions, numbers.
    Describe {
        /// Its name, its id, or a beginning of its id that no other node has.
        node: String,
    },
    /// Give a node a name that operators see.
    Rename {
        /// Its name, its id, or a beginning of its id that no other node has.
        node: String,
        /// Its new name.
        name: String,
    },
    /// Forget a node: what was approved ends, its token too, and its connections within a second.
    Remove {
        /// Its name, its id, or a beginning of its id that no other node has.
        node: String,
    },
    /// Call a command of a node and wait for its result.
    Invoke(Invoke),
}

#[derive(Debug, clap::Args)]
pub struct Invoke {
    /// Name of the node, its id, or a beginning of its id that no other node has.
    node: String,
    /// The command, as `gateway nodes describe` shows it.
    command: String,
    /// What the command takes, as JSON.
    #[arg(long, value_name = "JSON")]
    params: Option<String>,
    /// Milliseconds to wait for the result.
    #[arg(long, value_name = "MS", default_value_t = 30_000, value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    wait: u64,
    /// The call's name: the same call again under the same name is not a second one (default: a new one).
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Write what the command says while it runs to standard error.
    #[arg(long)]
    progress: bool,
    /// Leave the call for the node if it is not connected; it waits for a day.
    #[arg(long)]
    queue: bool,
}

/// A decision gives rights, and nobody gives what they do not have: all are asked for.
async fn decide(global: &Global, method: &str, params: Value) -> Result<Value, Failure> {
    let scopes = vec!["operator.admin".to_owned()];
    target::call_as(global, scopes, method, params).await
}

pub async fn run(global: &Global, command: Command) -> Result<(), Failure> {
    match command {
        Command::List => {
            let result = target::call(global, "node.list", json!({})).await?;
            print(global.json, &result, list)
        }
        Command::Status => {
            let result = target::call(global, "node.list", json!({})).await?;
            print(global.json, &result, status)
        }
        Command::Pending => {
            let result = target::call(global, "node.pair.list", json!({})).await?;
            print(global.json, &result, pending)
        }
        Command::Approve { request } => {
            let params = json!({ "requestId": request });
            let result = decide(global, "node.pair.approve", params).await?;
            print(global.json, &result, |r| {
                let node = &r["node"];
                format!(
                    "{} may be asked for: {}",
                    name(node),
                    words(&node["commands"])
                )
            })
        }
        Command::Reject { request } => {
            let params = json!({ "requestId": request });
            let result = decide(global, "node.pair.reject", params).await?;
            print(global.json, &result, |r| {
                format!("what {} offers is turned down", short(&text(r, "nodeId")))
            })
        }
        Command::Describe { node } => {
            let params = json!({ "nodeId": whole(global, &node).await? });
            let result = target::call(global, "node.describe", params).await?;
            print(global.json, &result, describe)
        }
        Command::Rename { node, name } => {
            let id = whole(global, &node).await?;
            let params = json!({ "nodeId": id, "displayName": name });
            let result = decide(global, "node.rename", params).await?;
            print(global.json, &result, |r| {
                format!(
                    "{} is called {} now",
                    short(&text(r, "nodeId")),
                    clean(&text(r, "displayName"))
                )
            })
        }
        Command::Remove { node } => {
            let params = json!({ "nodeId": whole(global, &node).await? });
            let result = decide(global, "node.pair.remove", params).await?;
            print(global.json, &result, |r| {
                format!(
                    "{} is forgotten, and its connections are closed; to come back it has to be paired again",
                    short(&text(r, "nodeId"))
                )
            })
        }
        Command::Invoke(args) => invoke(global, args).await,
    }
}

async fn invoke(global: &Global, args: Invoke) -> Result<(), Failure> {
    let params = args
        .params
        .as_deref()
        .map(serde_json::from_str::<Value>)
        .transpose()
        .map_err(|e| {
            Failure::new(
                Exit::Usage,
                format!("--params is not JSON: {e}"),
                "write it like --params '{\"bins\": [\"git\"]}'",
            )
        })?;
    let id = whole(global, &args.node).await?;
    let mut call = json!({
        "nodeId": id,
        "command": args.command,
        "timeoutMs": args.wait,
        "idempotencyKey": args.idempotency_key.unwrap_or_else(new_key),
        "progress": args.progress,
        "queue": args.queue,
    });
    if let Some(params) = params {
        call["params"] = params;
    }
    let scopes = vec![invoke_scope(&args.command).to_string()];
    let client = target::connect_as(global, scopes).await?;
    let options = RequestOptions {
        // The node's time, and some for the way.
        timeout: Some(Duration::from_millis(args.wait) + target::timeout(global)),
        expect_final: false,
        interim: None,
    };
    let result = {
        let answer = client.request_with("node.invoke", call, options);
        tokio::pin!(answer);
        loop {
            tokio::select! {
                biased;
                Some(event) = client.next_event() => say(&event),
                answer = &mut answer => break answer,
            }
        }
    };
    client.close().await;
    let result = result?;
    print(global.json, &result, |r| match &r["queued"] {
        Value::Null => serde_json::to_string_pretty(&r["payload"]).unwrap_or_default(),
        queued => format!(
            "the node is not connected; the call waits for it as {} until {}",
            text(queued, "id"),
            when(queued, "expiresAtMs")
        ),
    })
}

/// A piece of what the command says.
fn say(event: &gateway_client::GatewayEvent) {
    if event.name == "node.invoke.progress"
        && let Some(chunk) = event.payload["chunk"].as_str()
    {
        // If nobody reads it, the result is what is left.
        let _ = std::io::stderr().write_all(clean_lines(chunk).as_bytes());
    }
}

fn new_key() -> String {
    gateway_core::random::uuid(&gateway_core::random::OsRandom)
}

/// The id of the node that is called or begins like this. One that none is goes to the gateway as it is.
async fn whole(global: &Global, node: &str) -> Result<String, Failure> {
    if node.len() >= 64 {
        return Ok(node.to_owned());
    }
    let listed = target::call(global, "node.list", json!({})).await?;
    let nodes = listed["nodes"].as_array().into_iter().flatten();
    let ids: Vec<&str> = nodes
        .filter_map(|n| {
            let id = n["nodeId"].as_str()?;
            let called = n["displayName"].as_str() == Some(node);
            (!node.is_empty() && (called || id.starts_with(node))).then_some(id)
        })
        .collect();
    match ids[..] {
        [one] => Ok(one.to_owned()),
        [] => Ok(node.to_owned()),
        _ => Err(Failure::new(
            Exit::Usage,
            format!(
                "{} nodes are called or begin with {}",
                ids.len(),
                clean(node)
            ),
            "give more of the id; `gateway nodes list --json` has it whole",
        )),
    }
}

fn rows(r: &Value, key: &str, row: impl Fn(&Value) -> Vec<String>) -> Vec<Vec<String>> {
    r[key].as_array().into_iter().flatten().map(row).collect()
}

fn list(r: &Value) -> String {
    let rows = rows(r, "nodes", |n| {
        vec![
            short(&text(n, "nodeId")),
            name(n),
            text(n, "platform"),
            text(n, "connected"),
            text(n, "approvalState"),
            n["commands"].as_array().map_or(0, Vec::len).to_string(),
            when(n, "lastSeenAtMs"),
        ]
    });
    let head = [
        "NODE",
        "NAME",
        "PLATFORM",
        "CONNECTED",
        "COMMANDS ARE",
        "NUMBER",
        "SEEN",
    ];
    let listed = table(&head, &rows, "no node is paired");
    let waiting: Vec<String> = r["nodes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|n| {
            let id = n["pendingRequestId"].as_str()?;
            Some(format!("gateway nodes approve {id}   # {}", name(n)))
        })
        .collect();
    if waiting.is_empty() {
        return listed;
    }
    format!(
        "{listed}\n\nWaiting for a decision:\n{}",
        waiting.join("\n")
    )
}

fn status(r: &Value) -> String {
    let rows = rows(r, "nodes", |n| {
        let stats = &n["hostStats"];
        vec![
            short(&text(n, "nodeId")),
            name(n),
            text(n, "connected"),
            text(n, "version"),
            text(stats, "cpuCount"),
            stats["loadAverage"][0]
                .as_f64()
                .map_or_else(|| "-".to_owned(), |load| format!("{load:.2}")),
            of(stats, "memoryFreeBytes", "memoryTotalBytes"),
            of(stats, "diskAvailableBytes", "diskTotalBytes"),
            when(n, "lastSeenAtMs"),
            text(n, "lastSeenReason"),
        ]
    });
    let head = [
        "NODE",
        "NAME",
        "CONNECTED",
        "VERSION",
        "CPUS",
        "LOAD",
        "MEMORY FREE",
        "DISK FREE",
        "SEEN",
        "BY",
    ];
    table(&head, &rows, "no node is paired")
}

/// A part of a whole, in bytes.
fn of(stats: &Value, part: &str, whole: &str) -> String {
    let gib = |key: &str| stats[key].as_u64().map(|b| b as f64 / f64::from(1 << 30));
    match (gib(part), gib(whole)) {
        (Some(part), Some(whole)) => format!("{part:.1} of {whole:.1} GiB"),
        _ => "-".to_owned(),
    }
}

fn pending(r: &Value) -> String {
    let rows = rows(r, "pending", |q| {
        vec![
            text(q, "requestId"),
            short(&text(q, "nodeId")),
            name(q),
            text(q, "platform"),
            words(&q["commands"]),
            words(&q["requiredApproveScopes"]),
            when(q, "ts"),
        ]
    });
    let head = [
        "REQUEST", "NODE", "NAME", "PLATFORM", "COMMANDS", "TAKES", "ASKED",
    ];
    table(&head, &rows, "no node waits for a decision")
}

fn describe(n: &Value) -> String {
    let mut out = vec![
        ("node", text(n, "nodeId")),
        ("name", name(n)),
        ("platform", text(n, "platform")),
        ("version", text(n, "version")),
        ("connected", text(n, "connected")),
        ("seen", when(n, "lastSeenAtMs")),
        ("commands are", text(n, "approvalState")),
        ("commands", words(&n["commands"])),
        ("groups", words(&n["caps"])),
    ];
    if n["pendingRequestId"].is_string() {
        out.push(("asks for", words(&n["pendingDeclaredCommands"])));
        out.push((
            "decide",
            format!("gateway nodes approve {}", text(n, "pendingRequestId")),
        ));
    }
    let stats = &n["hostStats"];
    if stats.is_object() {
        out.push((
            "memory free",
            of(stats, "memoryFreeBytes", "memoryTotalBytes"),
        ));
    }
    let lines: Vec<String> = out
        .iter()
        .map(|(key, value)| format!("{key:<14}{}", clean(value)))
        .collect();
    lines.join("\n")
}

fn name(node: &Value) -> String {
    match node["displayName"].as_str() {
        Some(name) => clean(name),
        None => short(&text(node, "nodeId")),
    }
}
