//! A node of our own: it connects to a gateway as a device in the role node, offers a few commands of this machine, and comes back
//! when the connection ends. It runs no programs for others.

mod commands;
mod files;
mod stats;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use gateway_client::{
    ClientError, ConnectionSources, DeviceStore, GatewayClient, NodeOffer, connect_node,
};
use gateway_protocol::methods::nodes::NodeInvokeRequestPayload;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

pub use commands::Commands;

/// Commands that are worked on at the same time; a further one is answered `BUSY`.
const MAX_COMMANDS_AT_ONCE: usize = 8;
/// Time for a connect, and for the answer to what the node says, in ms.
const ANSWER_MS: u64 = 15_000;
/// Milliseconds between two tellings of the machine's numbers.
const STATS_EVERY_MS: u64 = 60_000;
/// Shortest and longest pause before another attempt, in ms.
const RETRY_MIN_MS: u64 = 1_000;
const RETRY_MAX_MS: u64 = 60_000;
/// The same while an operator has to decide, in ms.
const DECISION_RETRY_MS: u64 = 5_000;

/// What the node is.
pub struct NodeHost {
    /// Where the gateway is, and what to prove.
    pub sources: ConnectionSources,
    /// Folder of its identity.
    pub identity: PathBuf,
    /// The name that it gives itself.
    pub display_name: Option<String>,
    /// What it offers.
    pub commands: Commands,
}

/// What happened, for whoever watches.
#[derive(Debug)]
pub enum Told {
    /// Connected; to where.
    Connected(String),
    /// The connection ended; why.
    Ended(String),
    /// There is no connection; why, and what to do.
    Failed(String),
}

impl NodeHost {
    /// Connects and serves until something makes it senseless to go on, or until it is dropped.
    ///
    /// # Errors
    /// What another attempt cannot mend: another certificate than the pinned one, a refused credential, an address that is none.
    pub async fn run(self, tell: &dyn Fn(&Told)) -> Result<(), ClientError> {
        let store = DeviceStore::open(&self.identity)?;
        let commands = Arc::new(self.commands);
        let offer = NodeOffer {
            caps: commands.caps(),
            commands: commands.names(),
            permissions: std::collections::BTreeMap::new(),
            path_env: std::env::var("PATH").ok(),
        };
        let mut waits = HashSet::new();
        let mut failures = 0_u32;
        loop {
            let connected = connect_node(
                &self.sources,
                &store,
                offer.clone(),
                self.display_name.clone(),
                Duration::from_millis(ANSWER_MS),
            )
            .await;
            let pause = match connected {
                Ok(client) => {
                    failures = 0;
                    waits.clear();
                    tell(&Told::Connected(store.identity().id().to_owned()));
                    let (code, reason) = serve(client, &commands).await;
                    tell(&Told::Ended(format!("code {code}, {reason:?}")));
                    backoff(failures)
                }
                Err(error) => {
                    let decision = pairing_request(&error);
                    if decision.is_none() && !is_passing(&error) {
                        return Err(error);
                    }
                    failures = failures.saturating_add(1);
                    match decision {
                        Some(request) => {
                            // A new request is told once.
                            if waits.insert(request.clone()) {
                                tell(&Told::Failed(format!(
                                    "an operator has to let this node in: gateway devices approve {request}"
                                )));
                            }
                            jitter(DECISION_RETRY_MS)
                        }
                        None => {
                            tell(&Told::Failed(error.to_string()));
                            backoff(failures)
                        }
                    }
                }
            };
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }
}

/// Between half and one and a half of it, so that many nodes do not come back at once.
fn jitter(ms: u64) -> u64 {
    let mut byte = [0_u8; 2];
    // Without randomness all come back at the same time, and that works too.
    let _ = getrandom::fill(&mut byte);
    ms / 2 + ms * u64::from(u16::from_le_bytes(byte)) / u64::from(u16::MAX)
}

fn backoff(failures: u32) -> u64 {
    let doubled = RETRY_MIN_MS.saturating_mul(1 << failures.min(6));
    jitter(doubled.min(RETRY_MAX_MS))
}

/// The request that an operator has to decide about.
fn pairing_request(error: &ClientError) -> Option<String> {
    match error {
        ClientError::Refused { error, .. } if error.detail_code() == "PAIRING_REQUIRED" => {
            Some(error.details["requestId"].as_str()?.to_owned())
        }
        _ => None,
    }
}

/// Whether another attempt may go better.
fn is_passing(error: &ClientError) -> bool {
    match error {
        ClientError::Refused { error, .. } => error.retryable,
        ClientError::Unreachable { .. }
        | ClientError::NotAGateway { .. }
        | ClientError::Timeout { .. }
        | ClientError::Closed { .. } => true,
        _ => false,
    }
}

/// Serves one connection. Gives how it ended.
async fn serve(client: GatewayClient, commands: &Arc<Commands>) -> (u16, String) {
    let client = Arc::new(client);
    let at_once = Arc::new(Semaphore::new(MAX_COMMANDS_AT_ONCE));
    let mut stats = tokio::time::interval(Duration::from_millis(STATS_EVERY_MS));
    let mut at_work = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            event = client.next_event() => {
                let Some(event) = event else { break };
                if event.name != "node.invoke.request" {
                    continue;
                }
                let Ok(asked) = serde_json::from_value::<NodeInvokeRequestPayload>(event.payload) else {
                    continue;
                };
                at_work.spawn(work(client.clone(), commands.clone(), at_once.clone(), asked));
            }
            _ = stats.tick() => {
                if let Some(numbers) = stats::now() {
                    let told = json!({ "event": "node.host.stats", "payloadJSON": numbers.to_string() });
                    at_work.spawn(say(client.clone(), "node.event", told));
                }
            }
            Some(_) = at_work.join_next() => {}
        }
    }
    client.closed().await
}

/// What the node says gets an answer; one that is lost is the connection's end.
async fn say(client: Arc<GatewayClient>, method: &'static str, params: Value) {
    let answer = client.request(method, params);
    drop(tokio::time::timeout(Duration::from_millis(ANSWER_MS), answer).await);
}

/// One command and its result.
async fn work(
    client: Arc<GatewayClient>,
    commands: Arc<Commands>,
    at_once: Arc<Semaphore>,
    asked: NodeInvokeRequestPayload,
) {
    let (id, node_id) = (asked.id.clone(), asked.node_id.clone());
    let done = match at_once.try_acquire_owned() {
        Err(_) => Err(commands::Fault::new("BUSY", "too many commands at once")),
        Ok(permit) => {
            let run = tokio::task::spawn_blocking(move || {
                let _permit = permit;
                commands.run(&asked.command, asked.params_json.as_deref())
            });
            run.await
                .unwrap_or_else(|_| Err(commands::Fault::new("FAILED", "the command broke off")))
        }
    };
    let mut result = json!({ "id": id, "nodeId": node_id, "ok": done.is_ok() });
    match done {
        Ok(payload) => result["payloadJSON"] = payload.to_string().into(),
        Err(fault) => result["error"] = json!({ "code": fault.code, "message": fault.message }),
    }
    say(client, "node.invoke.result", result).await;
}
