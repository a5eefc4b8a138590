//! The join to world `channel`.
//!
//! Kept in `kv`: `offset` (number of the next update), `me` (the bot's own account), `failures` (in a row). The offset is written in
//! the event that emits the messages, so both are stored or neither.

use gateway_guest::answer::{Refused, json_headers};
use gateway_guest::json;
use gateway_guest::serde_json::Value;

use crate::config::{Config, Mode};
use crate::outgoing::{self, Place};
use crate::poll::{self, Next};
use crate::update::{self, Me, Message};

gateway_guest::channel!(Adapter);

use bindings::exports::gateway::channel::adapter::{
    Action, Descriptor, Error, Event, Guest, HttpResult, Outbound, Receipt, RespondAction,
    WebhookRequest,
};
use bindings::gateway::host::{config, http, inbound, kv, log, random, timer};
use bindings::gateway::types::http_types::{FaultKind, Request, Response};
use bindings::gateway::types::types::{InboundMessage, Peer, PeerKind, Sender};

const TAG_POLL: &str = "poll";
const TAG_ME: &str = "me";
const SEND_TIMEOUT_MS: u32 = 10_000;
/// The host splits replies at this many bytes: never more UTF-16 units than a message takes, so that one
/// `send` makes exactly one message and a retry can't double a part of it.
const MAX_TEXT_BYTES: u32 = 4_096;

struct Adapter;

/// Traps one call in forty, by the host's random, in builds for the test of it; called twice a call.
fn chaos() {
    #[cfg(feature = "chaos")]
    if let [high, low] = random::bytes(2)[..] {
        // Not one condition: the oldest compiler that builds guests has no chains of `let`.
        if u16::from_be_bytes([high, low]) % 40 == 0 {
            core::arch::wasm32::unreachable();
        }
    }
}

impl Guest for Adapter {
    fn describe() -> Result<Descriptor, Error> {
        Ok(Descriptor {
            name: "Telegram".to_owned(),
            max_text_bytes: MAX_TEXT_BYTES,
            can_edit: true,
            routes: vec!["updates".to_owned()],
            extra: Vec::new(),
        })
    }

    fn init(config: String, _state: Vec<u8>) -> Result<(), Error> {
        Config::parse(&config).map(|_| ()).map_err(Error::Invalid)
    }

    fn on_event(events: Vec<Event>) -> Result<Vec<Action>, Error> {
        chaos();
        let config = configuration()?;
        let mut actions = Vec::new();
        for event in events {
            match event {
                Event::Started => {
                    // The account's name may have changed: look again at each start.
                    ask_me(&config)?;
                    if stored_me()?.is_some() {
                        ask(&config)?;
                    }
                }
                Event::Wake => ask(&config)?,
                Event::HttpResult(result) if result.tag == TAG_POLL => polled(&config, result)?,
                Event::HttpResult(result) if result.tag == TAG_ME => introduced(&config, result)?,
                Event::HttpResult(result) => log::log(
                    log::Level::Warn,
                    &format!("answer with an unknown tag `{}`", result.tag),
                ),
                Event::Webhook(request) => actions.push(webhook(&request)?),
            }
        }
        chaos();
        Ok(actions)
    }

    fn send(message: Outbound) -> Result<Receipt, Error> {
        chaos();
        let config = configuration()?;
        let place = place(&message.conversation)?;
        let reply_to = message.reply_to.as_deref().and_then(|id| id.parse().ok());
        let mut ids = Vec::new();
        for (at, piece) in outgoing::pieces(&message.text).into_iter().enumerate() {
            let body = outgoing::send_body(&config, place, piece, reply_to.filter(|_| at == 0));
            match call(&config, "sendMessage", body)
                .and_then(|r| outgoing::read_sent(r.status, &r.body))
            {
                Ok(id) => ids.push(id.to_string()),
                // A part is there already: to try the whole again would double it.
                Err(cause) if at > 0 => {
                    return Err(Error::Internal(format!(
                        "only {at} pieces were sent: {cause:?}"
                    )));
                }
                Err(cause) => return Err(cause.into()),
            }
        }
        chaos();
        Ok(Receipt {
            message_ids: ids,
            answer: None,
            extra: Vec::new(),
        })
    }

    fn edit(receipt: Receipt, message: Outbound) -> Result<Receipt, Error> {
        let config = configuration()?;
        let place = place(&message.conversation)?;
        let pieces = outgoing::pieces(&message.text);
        if pieces.len() > receipt.message_ids.len() {
            return Err(Error::TooLarge("an edit cannot add messages".to_owned()));
        }
        for (id, piece) in receipt.message_ids.iter().zip(pieces) {
            let id = id
                .parse()
                .map_err(|_| Error::Invalid(format!("`{id}` is no Telegram message id")))?;
            let body = outgoing::edit_body(&config, place, id, piece);
            call(&config, "editMessageText", body)
                .and_then(|r| outgoing::read_edited(r.status, &r.body))
                .map_err(Error::from)?;
        }
        Ok(receipt)
    }

    fn save() -> Result<Vec<u8>, Error> {
        Ok(Vec::new())
    }
}

fn configuration() -> Result<Config, Error> {
    Config::parse(&config::get()).map_err(Error::Invalid)
}

/// Asks who we are until it is known (mentions can't be seen before), then for updates.
fn ask(config: &Config) -> Result<(), Error> {
    if stored_me()?.is_none() {
        ask_me(config)
    } else if config.mode == Mode::Poll {
        let offset = stored_number("offset")?.unwrap_or(0);
        submit(
            config,
            TAG_POLL,
            "getUpdates",
            poll::body(config, offset),
            poll::timeout_ms(config),
        )
    } else {
        Ok(())
    }
}

fn ask_me(config: &Config) -> Result<(), Error> {
    submit(config, TAG_ME, "getMe", b"{}".to_vec(), SEND_TIMEOUT_MS)
}

fn introduced(config: &Config, result: HttpResult) -> Result<(), Error> {
    let known = stored_me()?.is_some();
    let answer = match outcome(result) {
        Ok(Some(answer)) => answer,
        // Polling goes on with what is known; only a refused token stops it.
        Ok(None) if known => return Ok(()),
        Err(cause) if known && !matches!(cause, Refused::Auth(_)) => return Ok(()),
        Ok(None) => return ask(config),
        Err(cause) => return failed(&cause),
    };
    let Some(me) = Me::from_answer(&answer) else {
        return failed(&Refused::Network("getMe without an account".to_owned()));
    };
    kv::set("me", &me.to_bytes()).map_err(from_kv)?;
    if known {
        return Ok(());
    }
    log::log(log::Level::Info, &format!("connected as @{}", me.username));
    succeeded()?;
    ask(config)
}

fn polled(config: &Config, result: HttpResult) -> Result<(), Error> {
    if config.mode != Mode::Poll {
        return Ok(());
    }
    let answer = match outcome(result) {
        Ok(None) => return ask(config),
        Ok(Some(answer)) => answer,
        Err(cause) => return failed(&cause),
    };
    let me = stored_me()?;
    let Some(batch) = update::read_batch(&answer, me.as_ref()) else {
        return failed(&Refused::Network("getUpdates without a list".to_owned()));
    };
    let before = stored_number("offset")?.unwrap_or(0);
    let mut offset = before;
    for update in batch {
        if let Some(message) = update.message {
            if emit(message)? == inbound::Outcome::Throttled {
                // The rest comes again with the next poll.
                break;
            }
        }
        offset = offset.max(update.id.saturating_add(1));
    }
    if offset != before {
        kv::set("offset", offset.to_string().as_bytes()).map_err(from_kv)?;
    }
    succeeded()?;
    ask(config)
}

fn webhook(request: &WebhookRequest) -> Result<Action, Error> {
    let refuse = |status: u16, why: &str| {
        log::log(log::Level::Info, &format!("update refused: {why}"));
        Ok(Action::Respond(RespondAction {
            handle: request.handle.clone(),
            status,
            headers: Vec::new(),
            body: why.as_bytes().to_vec(),
        }))
    };
    let value = match json::parse(&request.body) {
        Ok(value) => value,
        Err(why) => return refuse(400, &why),
    };
    let Some(update) = update::read(&value, stored_me()?.as_ref()) else {
        return refuse(400, "not an update");
    };
    if let Some(message) = update.message {
        if emit(message)? == inbound::Outcome::Throttled {
            return refuse(503, "too many messages at once");
        }
    }
    Ok(Action::Respond(RespondAction {
        handle: request.handle.clone(),
        status: 200,
        headers: Vec::new(),
        body: Vec::new(),
    }))
}

fn emit(message: Message) -> Result<inbound::Outcome, Error> {
    let emitted = inbound::emit(&InboundMessage {
        platform_message_id: message.message_id.to_string(),
        conversation: Peer {
            kind: if message.direct {
                PeerKind::Direct
            } else {
                PeerKind::Group
            },
            id: message.chat.to_string(),
            thread: message.thread.map(|t| t.to_string()),
        },
        sender: Sender {
            id: message.sender.to_string(),
            display_name: message.sender_name,
            is_bot: message.from_bot,
        },
        text: message.text,
        mentioned: message.mentioned,
        reply_to: message.reply_to.map(|id| id.to_string()),
        timestamp_ms: message.timestamp_ms,
        hold: None,
        extra: Vec::new(),
    });
    match emitted {
        Ok(outcome) => Ok(outcome),
        // One message that the host cannot take must not stop the ones behind it.
        Err(inbound::Error::Invalid(why) | inbound::Error::Limit(why)) => {
            log::log(log::Level::Warn, &format!("message left out: {why}"));
            Ok(inbound::Outcome::Accepted)
        }
    }
}

/// The answer of a submitted request; `Ok(None)` when the gateway's stop cut it off: it is simply asked again.
fn outcome(result: HttpResult) -> Result<Option<Value>, Refused> {
    match result.outcome {
        Ok(response) => outgoing::read(response.status, &response.body).map(Some),
        Err(fault) if fault.kind == FaultKind::Interrupted => Ok(None),
        Err(fault) => Err(Refused::from(&fault)),
    }
}

fn failed(cause: &Refused) -> Result<(), Error> {
    let failures = u32::try_from(stored_number("failures")?.unwrap_or(0)).unwrap_or(u32::MAX);
    let jitter = random::bytes(1).first().copied().unwrap_or(0);
    match poll::after_failure(cause, failures, jitter) {
        Next::Stop(why) => Err(Error::Auth(why)),
        Next::Wait { ms, counts } => {
            log::log(
                log::Level::Warn,
                &format!("{cause:?}; asking again in {ms} ms"),
            );
            if counts {
                kv::set(
                    "failures",
                    failures.saturating_add(1).to_string().as_bytes(),
                )
                .map_err(from_kv)?;
            }
            timer::set_wake(ms);
            Ok(())
        }
    }
}

fn succeeded() -> Result<(), Error> {
    if stored_number("failures")?.is_some() {
        kv::delete("failures").map_err(from_kv)?;
    }
    Ok(())
}

fn submit(
    config: &Config,
    tag: &str,
    method: &str,
    body: Vec<u8>,
    timeout_ms: u32,
) -> Result<(), Error> {
    http::submit(tag, &request(config, method, body, timeout_ms))
        .map(|_| ())
        .map_err(|fault| Refused::from(&fault).into())
}

fn call(config: &Config, method: &str, body: Vec<u8>) -> Result<Response, Refused> {
    http::fetch(&request(config, method, body, SEND_TIMEOUT_MS))
        .map_err(|fault| Refused::from(&fault))
}

fn request(config: &Config, method: &str, body: Vec<u8>, timeout_ms: u32) -> Request {
    Request {
        method: "POST".to_owned(),
        url: config.url(method),
        headers: json_headers(),
        body,
        timeout_ms,
    }
}

fn place(peer: &Peer) -> Result<Place, Error> {
    Place::parse(&peer.id, peer.thread.as_deref()).map_err(Error::from)
}

fn stored_me() -> Result<Option<Me>, Error> {
    Ok(kv::get("me")
        .map_err(from_kv)?
        .and_then(|bytes| Me::from_bytes(&bytes)))
}

fn stored_number(key: &str) -> Result<Option<i64>, Error> {
    let bytes = kv::get(key).map_err(from_kv)?;
    Ok(bytes
        .and_then(|b| String::from_utf8(b).ok())
        .and_then(|text| text.parse().ok()))
}

fn from_kv(error: kv::Error) -> Error {
    match error {
        kv::Error::Limit(why) | kv::Error::InvalidKey(why) | kv::Error::Internal(why) => {
            Error::Internal(why)
        }
    }
}
