//! A channel double: a guest whose platform lives on while gateways die. It takes messages in, and what it is told to send arrives,
//! is refused, is put off, hangs, or leaves nobody the wiser.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use gateway_core::channel::{ChannelGuest, ChannelPlugin};
use gateway_core::random::SeededRandom;
use gateway_wasm::{
    AccountHost, AccountStatus, Action, CallError, Descriptor, Effects, EventRef, GuestEvent,
    HttpAnswer, InboundMessage, Manifest, Outbound, Peer, PeerKind, Receipt, SendOutcome, Sender,
};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::Dice;

const MANIFEST: &str = r#"
schema = 1
id = "double"
version = "1.0.0"
world = "gateway:channel/channel@0.1.0"
component = { file = "double.wasm" }
capabilities = ["log", "inbound", "config"]
[webhook.inbound]
verify = { kind = "header-equals", header = "X-Secret", secret = "signing" }
"#;

/// What became of the creation of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was asked for, and the gateway has no answer (yet, or never).
    InFlight,
    Sent,
    /// Not sent; to be asked for again.
    PutOff,
    Refused,
    /// The gateway was told that nobody knows.
    Unknown,
}

/// One message of the platform: whose it is, and what became of it.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub fate: Fate,
    /// Times it came into being.
    pub arrived: u32,
    pub text: String,
    pub conversation: String,
}

/// Tenant, run, part.
pub type Key = (String, String, u32);

pub struct Platform {
    dice: Dice,
    calm: AtomicBool,
    pub deliveries: Mutex<BTreeMap<Key, Delivery>>,
    pub broken: Mutex<Vec<String>>,
}

impl Platform {
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self {
            dice: Dice(SeededRandom::new(seed)),
            calm: AtomicBool::new(false),
            deliveries: Mutex::default(),
            broken: Mutex::default(),
        })
    }

    pub fn settle(&self) {
        self.calm.store(true, Ordering::SeqCst);
    }

    fn receipt(key: &Key) -> SendOutcome {
        SendOutcome::Sent(Receipt {
            message_ids: vec![format!("{}/{}", key.1, key.2)],
            answer: None,
            extra: Vec::new(),
        })
    }

    async fn send(&self, tenant: String, message: Outbound) -> SendOutcome {
        let key = (tenant, message.run_id.clone(), message.part);
        {
            let mut all = self.deliveries.lock();
            let first = !all.contains_key(&key);
            let delivery = all.entry(key.clone()).or_insert(Delivery {
                fate: Fate::PutOff,
                arrived: 0,
                text: String::new(),
                conversation: message.conversation.id.clone(),
            });
            if !first && delivery.fate != Fate::PutOff {
                let fate = delivery.fate;
                self.broken
                    .lock()
                    .push(format!("{key:?} is sent again although it was {fate:?}"));
            }
            delivery.fate = Fate::InFlight;
            delivery.text = message.text;
        }
        let dice = if self.calm.load(Ordering::SeqCst) {
            0
        } else {
            self.dice.below(12)
        };
        tokio::time::sleep(Duration::from_millis(dice * 5)).await;
        let settle = |fate: Fate, arrived: bool| {
            let mut all = self.deliveries.lock();
            if let Some(delivery) = all.get_mut(&key) {
                delivery.fate = fate;
                delivery.arrived += u32::from(arrived);
            }
        };
        match dice {
            0..=6 => {
                // It is there before the gateway hears of it: a kill in between leaves it in flight.
                settle(Fate::InFlight, true);
                tokio::time::sleep(Duration::from_millis(5)).await;
                settle(Fate::Sent, false);
                Self::receipt(&key)
            }
            7 | 8 => {
                settle(Fate::PutOff, false);
                SendOutcome::Retry {
                    after_ms: self.dice.below(3_000),
                    why: "too many requests".to_owned(),
                }
            }
            9 => {
                settle(Fate::Refused, false);
                SendOutcome::Failed {
                    why: "the bot was blocked".to_owned(),
                }
            }
            hangs => {
                settle(Fate::InFlight, self.dice.one_in(2));
                if hangs == 11 {
                    tokio::time::sleep(Duration::from_secs(20)).await;
                }
                settle(Fate::Unknown, false);
                SendOutcome::Unknown {
                    why: "the answer never came".to_owned(),
                }
            }
        }
    }

    /// Edits may be repeated, so only their text counts.
    async fn edit(&self, tenant: String, message: Outbound) -> SendOutcome {
        let key = (tenant, message.run_id.clone(), message.part);
        tokio::time::sleep(Duration::from_millis(3)).await;
        if !self.calm.load(Ordering::SeqCst) && self.dice.one_in(4) {
            return SendOutcome::Retry {
                after_ms: 100,
                why: "too many edits".to_owned(),
            };
        }
        match self.deliveries.lock().get_mut(&key) {
            Some(delivery) => delivery.text = message.text,
            None => self.broken.lock().push(format!("{key:?} edits nothing")),
        }
        Self::receipt(&key)
    }
}

/// The channel kind.
pub struct Double {
    manifest: Manifest,
    descriptor: Descriptor,
    platform: Arc<Platform>,
}

impl Double {
    pub fn new(platform: &Arc<Platform>, can_edit: bool) -> Arc<Self> {
        Arc::new(Self {
            manifest: Manifest::parse(MANIFEST).unwrap(),
            descriptor: Descriptor {
                name: "Double".into(),
                max_text_bytes: 0,
                can_edit,
                routes: vec!["inbound".into()],
                extra: Vec::new(),
            },
            platform: platform.clone(),
        })
    }
}

impl ChannelPlugin for Double {
    fn manifest(&self) -> &Manifest {
        &self.manifest
    }
    fn descriptor(&self) -> Option<&Descriptor> {
        Some(&self.descriptor)
    }
    fn account(&self, io: Arc<dyn AccountHost>) -> Arc<dyn ChannelGuest> {
        Arc::new(Guest {
            io,
            platform: self.platform.clone(),
        })
    }
}

struct Guest {
    io: Arc<dyn AccountHost>,
    platform: Arc<Platform>,
}

impl Guest {
    /// As the configuration of its account says; it can be read when the account is there, not before.
    fn tenant(&self) -> String {
        let config: Value = serde_json::from_str(&self.io.config_json()).unwrap();
        config["tenant"].as_str().unwrap().to_owned()
    }
}

impl ChannelGuest for Guest {
    fn event(&self, event: GuestEvent) -> BoxFuture<'_, Result<Vec<Action>, CallError>> {
        Box::pin(async move {
            let GuestEvent::Webhook(request) = event else {
                return Ok(Vec::new());
            };
            let body: Value = serde_json::from_slice(&request.body).unwrap();
            let text = |name: &str| body[name].as_str().unwrap().to_owned();
            let actions = vec![Action::Respond {
                handle: request.handle.clone(),
                answer: HttpAnswer {
                    status: 200,
                    headers: Vec::new(),
                    body: b"{}".to_vec(),
                },
            }];
            let message = InboundMessage {
                platform_message_id: text("id"),
                conversation: Peer {
                    kind: PeerKind::Direct,
                    id: text("from"),
                    thread: None,
                },
                sender: Sender {
                    id: text("from"),
                    display_name: None,
                    is_bot: false,
                },
                text: text("text"),
                mentioned: false,
                reply_to: None,
                timestamp_ms: 0,
                hold: None,
                extra: Vec::new(),
            };
            let effects = Effects {
                emits: vec![message],
                consumed: vec![EventRef::Webhook {
                    handle: request.handle,
                }],
                actions: actions.clone(),
                ..Effects::default()
            };
            self.io.commit(effects).await.map_err(CallError::Commit)?;
            Ok(actions)
        })
    }

    fn send(&self, message: Outbound) -> BoxFuture<'_, SendOutcome> {
        Box::pin(self.platform.send(self.tenant(), message))
    }
    fn edit(&self, _: Receipt, message: Outbound) -> BoxFuture<'_, SendOutcome> {
        Box::pin(self.platform.edit(self.tenant(), message))
    }
    fn stop(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
    fn release(&self) {}
    fn status(&self) -> AccountStatus {
        AccountStatus::Idle
    }
}

/// A message of a person, as the platform posts it.
pub fn post(id: &str, from: &str, text: &str) -> Vec<u8> {
    json!({ "id": id, "from": from, "text": text })
        .to_string()
        .into_bytes()
}
