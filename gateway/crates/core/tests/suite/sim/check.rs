//! The promises, each checked by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gateway_core::{Host, Tenant};
use gateway_store::{OutboxFilter, OutboxRow, OutboxState};
use serde_json::{Value, json};

use super::super::support::*;
use super::SESSIONS;
use super::platform::{Fate, Platform};
use super::world::{Shared, World};

/// Checks what one connection was sent: numbers of a run grow, and a run has one end.
pub fn check_stream(events: &Recorder, life: u64) -> Result<(), String> {
    let mut last: BTreeMap<String, u64> = BTreeMap::new();
    let mut ended: BTreeSet<String> = BTreeSet::new();
    for (name, p) in events.all() {
        if name != "chat" {
            continue;
        }
        let run = p["runId"].as_str().unwrap_or_default().to_owned();
        let seq = p["seq"].as_u64().unwrap_or_default();
        if ended.contains(&run) {
            return Err(format!("life {life}: {run} goes on after its end"));
        }
        if last
            .insert(run.clone(), seq)
            .is_some_and(|before| before >= seq)
        {
            return Err(format!("life {life}: numbers of {run} do not grow"));
        }
        if p["state"] != "delta" && p["state"] != "status" {
            ended.insert(run);
        }
    }
    Ok(())
}

/// What the gateway has of a tenant at the end.
struct Found {
    /// Session key → its messages.
    sessions: BTreeMap<String, Vec<Value>>,
    outbox: Vec<OutboxRow>,
}

async fn look(host: &Host, tenant: &Arc<Tenant>) -> Result<Found, String> {
    let ask = async |method: &str, params: Value| {
        call(host, tenant, &admin(), method, params)
            .await
            .map_err(|e| format!("{method}: {e}"))
    };
    let list = ask("sessions.list", json!({"limit": 1000})).await?;
    let mut keys: BTreeSet<String> = list["sessions"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|s| s["key"].as_str().map(str::to_owned))
        .collect();
    keys.extend((0..SESSIONS).map(|s| format!("agent:main:s{s}")));
    let mut sessions = BTreeMap::new();
    for key in keys {
        let got = ask("chat.history", json!({"sessionKey": key, "limit": 1000})).await?;
        let messages = got["messages"].as_array().cloned().unwrap_or_default();
        sessions.insert(key, messages);
    }
    let filter = OutboxFilter {
        limit: 1000,
        ..OutboxFilter::default()
    };
    let outbox = tenant.db().read(move |r| r.list_outbox(&filter)).await;
    Ok(Found {
        sessions,
        outbox: outbox.map_err(|e| e.to_string())?.items,
    })
}

fn text_of(message: &Value) -> String {
    let blocks = message["content"].as_array();
    let texts = blocks.into_iter().flatten();
    texts.filter_map(|b| b["text"].as_str()).collect()
}

/// All that holds when everything has come to rest.
pub async fn check_end(
    host: &Host,
    tenant: &Arc<Tenant>,
    world: &Shared,
    platform: &Platform,
) -> Result<(), String> {
    let found = look(host, tenant).await?;
    let ids: Vec<String> = {
        let w = world.lock();
        check_transcripts(&found, &w)?;
        check_replies(&found, &w, platform)?;
        let runs = found.sessions.values().flatten();
        let runs = runs.filter(|m| m["role"] == "user");
        runs.filter_map(|m| m["__openclaw"]["runId"].as_str().map(str::to_owned))
            .chain(w.accepted.keys().cloned())
            .collect()
    };
    for id in ids {
        let params = json!({"runId": id, "timeoutMs": 1});
        let got = call(host, tenant, &admin(), "agent.wait", params)
            .await
            .map_err(|e| format!("run {id} is lost: {e}"))?;
        let status = got["status"].as_str().unwrap_or_default().to_owned();
        if !["ok", "error", "aborted"].contains(&status.as_str()) {
            return Err(format!("run {id} did not end: {status}"));
        }
    }
    Ok(())
}

/// Transcripts have no hole; every accepted input and every acknowledged message stands in one of them exactly once;
/// nothing stands there that nobody offered; an answer is the one to its message.
fn check_transcripts(found: &Found, w: &World) -> Result<(), String> {
    let mut posted: BTreeMap<&str, u32> = BTreeMap::new();
    for (key, messages) in &found.sessions {
        let mut inputs: BTreeMap<String, String> = BTreeMap::new();
        let mut answers: BTreeMap<String, String> = BTreeMap::new();
        for (i, m) in messages.iter().enumerate() {
            if m["__openclaw"]["seq"].as_u64() != Some(i as u64 + 1) {
                return Err(format!("{key}: hole in the transcript at {i}"));
            }
            let run = m["__openclaw"]["runId"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            let into = if m["role"] == "user" {
                &mut inputs
            } else {
                &mut answers
            };
            if into.insert(run.clone(), text_of(m)).is_some() {
                return Err(format!("{key}: {run} stands twice as {}", m["role"]));
            }
        }
        for (run, text) in &inputs {
            if w.offered.get(run) == Some(&(key.clone(), text.clone())) {
                continue;
            }
            match w.posts.values().find(|p| p.text == *text) {
                Some(post) if key.ends_with(&post.from) => {
                    *posted.entry(&post.text).or_default() += 1;
                }
                _ => return Err(format!("{key}: {run} was never offered like this")),
            }
        }
        for (run, (_, text)) in w.accepted.iter().filter(|(_, (k, _))| k == key) {
            if inputs.get(run) != Some(text) {
                return Err(format!(
                    "{key}: accepted input {run} is not in the transcript"
                ));
            }
        }
        for (run, answer) in &answers {
            let input = inputs.get(run).map(String::as_str).unwrap_or_default();
            if !input.starts_with(answer.as_str()) {
                return Err(format!("{key}: {run} answered {answer:?} to {input:?}"));
            }
        }
    }
    for (id, post) in &w.posts {
        let times = posted.get(post.text.as_str()).copied().unwrap_or(0);
        if times > 1 || (post.acknowledged && times == 0) {
            let said = if post.acknowledged {
                "acknowledged"
            } else {
                "posted"
            };
            return Err(format!("message {id} was {said} and started {times} runs"));
        }
    }
    Ok(())
}

/// Each message that was let in has one reply on its way out, whose recorded state is what happened on the platform as far as
/// anybody can know; nothing is left undecided; nothing came twice.
fn check_replies(found: &Found, w: &World, platform: &Platform) -> Result<(), String> {
    let deliveries = platform.deliveries.lock();
    let mut replies: BTreeMap<&str, u32> = BTreeMap::new();
    for row in &found.outbox {
        let key = (
            w.slug.clone(),
            row.run_id.clone(),
            u32::try_from(row.part).unwrap_or(0),
        );
        *replies.entry(&row.run_id).or_default() += 1;
        let there = deliveries.get(&key);
        let fate = there.map(|d| d.fate);
        let fits = match row.state {
            OutboxState::Sent => fate == Some(Fate::Sent),
            OutboxState::Failed => matches!(fate, None | Some(Fate::Refused | Fate::PutOff)),
            // Claimed, and then the gateway died: before it asked, while it asked, or before it wrote the result down.
            OutboxState::Unknown => true,
            _ => false,
        };
        if !fits {
            return Err(format!("reply {key:?} is {:?} and was {fate:?}", row.state));
        }
        if let Some(there) = there {
            // A reply that was still growing when its life ended may have no canary yet.
            let stranger = there.text.contains("canary-") && !there.text.contains(&w.canary);
            if there.arrived > 1 || stranger || !row.conversation_json.contains(&there.conversation)
            {
                return Err(format!("reply {key:?}: {there:?} of {row:?}"));
            }
        }
    }
    let inputs = found
        .sessions
        .values()
        .flatten()
        .filter(|m| m["role"] == "user");
    for m in inputs.filter(|m| w.posts.values().any(|p| p.text == text_of(m))) {
        let run = m["__openclaw"]["runId"].as_str().unwrap_or_default();
        let count = replies.get(run).copied().unwrap_or(0);
        if count != 1 {
            return Err(format!("{run}: {count} replies to {:?}", text_of(m)));
        }
    }
    Ok(())
}

/// Nothing that a tenant can see, and nothing that its people got, holds a text of the other.
pub async fn check_canary(
    host: &Host,
    tenant: &Arc<Tenant>,
    other: &str,
    watcher: &Recorder,
) -> Result<(), String> {
    for (name, payload) in watcher.all() {
        if payload.to_string().contains(other) {
            return Err(format!("event {name} of {} holds {other}", tenant.slug()));
        }
    }
    for method in [
        "sessions.list",
        "health",
        "status",
        "logs.tail",
        "audit.entries",
        "channels.status",
        "config.get",
    ] {
        let got = call(host, tenant, &admin(), method, json!({})).await;
        let shown = match got {
            Ok(value) => value.to_string(),
            Err(error) => error.to_string(),
        };
        if shown.contains(other) {
            return Err(format!("{method} of {} holds {other}", tenant.slug()));
        }
    }
    Ok(())
}
