//! Those who use the gateway: operators on sockets, and people on the channel whose platform posts what they write.

use std::sync::Arc;
use std::time::Duration;

use gateway_core::channel::WebhookHttp;
use gateway_core::random::SeededRandom;
use gateway_core::{Host, Role, Tenant};
use gateway_protocol::{DetailCode, RpcError, ScopeSet};
use serde_json::json;

use super::super::support::*;
use super::check::check_stream;
use super::world::{Post, Shared};
use super::{Dice, SECRET, SESSIONS, platform};

/// The disk was full: a plain answer, and nothing has happened.
fn no_room(error: &RpcError) -> bool {
    error.detail == DetailCode::StorageFull && error.retryable
}

pub async fn client(host: Arc<Host>, tenant: Arc<Tenant>, world: Shared, seed: u64, life: u64) {
    let dice = Dice(SeededRandom::new(seed));
    let mut conn = connect(&host, &tenant, Role::Operator, ScopeSet::ALL, &[]);
    for _ in 0..12 {
        tokio::time::sleep(Duration::from_millis(dice.below(120))).await;
        let key = format!("agent:main:s{}", dice.below(SESSIONS));
        match dice.below(10) {
            0..=4 => {
                let (id, text, key) = {
                    let mut w = world.lock();
                    let known = w.offered.len() as u64;
                    if known > 0 && dice.one_in(4) {
                        // A repeat of something that was offered, perhaps in an earlier life.
                        let (id, (key, text)) = w
                            .offered
                            .iter()
                            .nth(usize::try_from(dice.below(known)).unwrap())
                            .unwrap();
                        (id.clone(), text.clone(), key.clone())
                    } else {
                        let verb = ["plain", "slow", "fail", "panic", "hangafter", "plain"]
                            [usize::try_from(dice.below(6)).unwrap()];
                        let (n, text) = w.text(verb);
                        (format!("run-{n}"), text, key)
                    }
                };
                world
                    .lock()
                    .offered
                    .insert(id.clone(), (key.clone(), text.clone()));
                let mode = if dice.one_in(5) {
                    "interrupt"
                } else {
                    "followup"
                };
                let params = json!({"sessionKey": key, "message": text, "idempotencyKey": id, "queueMode": mode});
                let got = call(&host, &tenant, &conn.caller, "chat.send", params).await;
                let mut w = world.lock();
                w.story.push(format!(
                    "{life} send {id} {:?}",
                    got.as_ref().map(|v| v["status"].clone())
                ));
                match got {
                    Ok(_) => {
                        w.accepted.insert(id, (key, text));
                    }
                    // Nothing was accepted; the same may be offered again.
                    Err(e) if no_room(&e) => {}
                    Err(e) => w.broken.push(format!("send {id}: {e}")),
                }
            }
            5 => {
                // The same key for something else is refused, whatever became of the first.
                let known = world.lock().accepted.keys().next().cloned();
                if let Some(id) = known {
                    let params =
                        json!({"sessionKey": key, "message": "another text", "idempotencyKey": id});
                    let got = call(&host, &tenant, &conn.caller, "chat.send", params).await;
                    let refused = got
                        .as_ref()
                        .is_err_and(|e| no_room(e) || e.detail == DetailCode::IdempotencyConflict);
                    if !refused {
                        world
                            .lock()
                            .broken
                            .push(format!("life {life}: conflict of {id} answered {got:?}"));
                    }
                }
            }
            6 | 7 => {
                let got = call(
                    &host,
                    &tenant,
                    &conn.caller,
                    "chat.abort",
                    json!({"sessionKey": key}),
                )
                .await;
                world.lock().story.push(format!(
                    "{life} abort {key} {:?}",
                    got.map(|v| v["runIds"].clone())
                ));
            }
            8 => {
                if let Err(why) = check_stream(&conn.events, life) {
                    world.lock().broken.push(why);
                }
                drop(conn);
                tokio::time::sleep(Duration::from_millis(dice.below(30))).await;
                conn = connect(&host, &tenant, Role::Operator, ScopeSet::ALL, &[]);
            }
            _ => {
                for (method, params) in [
                    ("health", json!({})),
                    ("sessions.list", json!({})),
                    ("chat.history", json!({"sessionKey": key})),
                ] {
                    if let Err(e) = call(&host, &tenant, &conn.caller, method, params).await {
                        world
                            .lock()
                            .broken
                            .push(format!("life {life}: {method}: {e}"));
                    }
                }
            }
        }
    }
    // Stay to see the rest.
    std::future::pending::<()>().await;
    drop(conn);
}

/// The platform: it posts each message until it is acknowledged, and sometimes once more.
pub async fn poster(tenant: Arc<Tenant>, world: Shared, seed: u64, life: u64) {
    let dice = Dice(SeededRandom::new(seed));
    for _ in 0..14 {
        tokio::time::sleep(Duration::from_millis(dice.below(120))).await;
        let (id, body) = {
            let mut w = world.lock();
            let waiting = w.posts.iter().find(|(_, p)| !p.acknowledged);
            let known = w.posts.len() as u64;
            let again = match waiting {
                Some((id, _)) if dice.one_in(2) => Some(id.clone()),
                _ if known > 0 && dice.one_in(4) => w
                    .posts
                    .keys()
                    .nth(usize::try_from(dice.below(known)).unwrap())
                    .cloned(),
                _ => None,
            };
            let id = again.unwrap_or_else(|| {
                let verb = ["plain", "slow", "fail", "panic", "plain", "plain"]
                    [usize::try_from(dice.below(6)).unwrap()];
                let (n, text) = w.text(verb);
                let id = format!("m{n}");
                let from = format!("u{}", dice.below(3));
                w.posts.insert(
                    id.clone(),
                    Post {
                        from,
                        text,
                        acknowledged: false,
                    },
                );
                id
            });
            let post = &w.posts[&id];
            (id.clone(), platform::post(&id, &post.from, &post.text))
        };
        let request = WebhookHttp {
            method: "POST".into(),
            query: String::new(),
            headers: vec![("x-secret".to_owned(), format!("{SECRET}-{}", tenant.slug()))],
            body,
            peer: "127.0.0.1".parse().unwrap(),
        };
        let Some(channels) = tenant.channels() else {
            world.lock().broken.push("no channels".to_owned());
            return;
        };
        let answer = channels
            .webhook("double", "default", "inbound", request)
            .await;
        let mut w = world.lock();
        w.story.push(format!("{life} post {id} {}", answer.status));
        match answer.status {
            200 => w.posts.get_mut(&id).unwrap().acknowledged = true,
            // The platform comes again.
            503 => {}
            other => w.broken.push(format!("post {id} answered {other}")),
        }
    }
}
