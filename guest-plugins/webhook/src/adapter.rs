//! The join to world `channel`.

use gateway_guest::answer::{Refused, json_headers};

use crate::config::{Config, ReplyMode};
use crate::inbound::{self, Kind};
use crate::reply::{self, Reply};

gateway_guest::channel!(Adapter);

use bindings::exports::gateway::channel::adapter::{
    Action, Descriptor, Error, Event, Guest, HoldAction, Outbound, Receipt, RespondAction,
    WebhookRequest,
};
use bindings::gateway::host::{clock, config, http, inbound as host_inbound, log};
use bindings::gateway::types::http_types::Request;
use bindings::gateway::types::types::{HttpAnswer, InboundMessage, Peer, PeerKind, Sender};

struct Adapter;

impl Guest for Adapter {
    fn describe() -> Result<Descriptor, Error> {
        Ok(Descriptor {
            name: "Webhook".to_owned(),
            max_text_bytes: 0,
            can_edit: false,
            routes: vec!["inbound".to_owned()],
            extra: Vec::new(),
        })
    }

    fn init(config: String, _state: Vec<u8>) -> Result<(), Error> {
        Config::parse(&config).map(|_| ()).map_err(Error::Invalid)
    }

    fn on_event(events: Vec<Event>) -> Result<Vec<Action>, Error> {
        let config = Config::parse(&config::get()).map_err(Error::Invalid)?;
        let mut actions = Vec::new();
        for event in events {
            if let Event::Webhook(request) = event {
                actions.push(webhook(request, &config));
            }
        }
        Ok(actions)
    }

    fn send(message: Outbound) -> Result<Receipt, Error> {
        let config = Config::parse(&config::get()).map_err(Error::Invalid)?;
        let reply = Reply {
            run_id: &message.run_id,
            part: message.part,
            kind: match message.conversation.kind {
                PeerKind::Direct => Kind::Direct,
                PeerKind::Group => Kind::Group,
                PeerKind::Channel => Kind::Channel,
            },
            conversation: &message.conversation.id,
            thread: message.conversation.thread.as_deref(),
            reply_to: message.reply_to.as_deref(),
            text: &message.text,
        };
        if message.hold.is_some() {
            let answer = HttpAnswer {
                status: 200,
                headers: json_headers(),
                body: reply.held_body(),
            };
            return Ok(Receipt {
                message_ids: Vec::new(),
                answer: Some(answer),
                extra: Vec::new(),
            });
        }
        let Some(callback) = &config.callback else {
            return Err(Error::Unsupported(
                "nobody waits for this reply and the account has no `callback.url`".to_owned(),
            ));
        };
        let request = Request {
            method: "POST".to_owned(),
            url: callback.url.clone(),
            headers: reply.callback_headers(callback),
            body: reply.callback_body(),
            timeout_ms: callback.timeout_ms,
        };
        let response = http::fetch(&request).map_err(|fault| Refused::from(&fault))?;
        let told = reply::read_answer(response.status, &response.headers, &response.body)
            .map_err(Error::from)?;
        let id = told.unwrap_or_else(|| reply.idempotency_key());
        Ok(Receipt {
            message_ids: vec![id],
            answer: None,
            extra: Vec::new(),
        })
    }

    fn edit(_receipt: Receipt, _message: Outbound) -> Result<Receipt, Error> {
        Err(Error::Unsupported(
            "a reply by webhook cannot be changed".to_owned(),
        ))
    }

    fn save() -> Result<Vec<u8>, Error> {
        Ok(Vec::new())
    }
}

fn webhook(request: WebhookRequest, config: &Config) -> Action {
    let message = match inbound::parse(&request.method, &request.body, config) {
        Ok(message) => message,
        Err(rejected) => {
            log::log(
                log::Level::Info,
                &format!("request refused: {}", rejected.message),
            );
            return respond(request.handle, rejected.status, rejected.body());
        }
    };
    let hold = message.reply == ReplyMode::Hold;
    let emitted = host_inbound::emit(&InboundMessage {
        platform_message_id: message.id,
        conversation: Peer {
            kind: match message.kind {
                Kind::Direct => PeerKind::Direct,
                Kind::Group => PeerKind::Group,
                Kind::Channel => PeerKind::Channel,
            },
            id: message.conversation,
            thread: message.thread,
        },
        sender: Sender {
            id: message.from_id,
            display_name: message.from_name,
            is_bot: message.from_bot,
        },
        text: message.text,
        mentioned: message.mentioned,
        reply_to: message.reply_to,
        timestamp_ms: message.timestamp_ms.unwrap_or_else(clock::now_ms),
        hold: hold.then(|| request.handle.clone()),
        extra: Vec::new(),
    });
    match emitted {
        Ok(host_inbound::Outcome::Accepted) if hold => Action::Hold(HoldAction {
            handle: request.handle,
            timeout_ms: config.hold_ms(),
        }),
        Ok(host_inbound::Outcome::Accepted | host_inbound::Outcome::Duplicate) => {
            respond(request.handle, 200, reply::accepted_body())
        }
        Ok(host_inbound::Outcome::Throttled) => refuse(
            request.handle,
            503,
            "UNAVAILABLE",
            "too many messages at once: send it again",
        ),
        Err(host_inbound::Error::Limit(why)) => {
            refuse(request.handle, 413, "PAYLOAD_TOO_LARGE", &why)
        }
        Err(host_inbound::Error::Invalid(why)) => {
            refuse(request.handle, 400, "INVALID_REQUEST", &why)
        }
    }
}

fn refuse(handle: String, status: u16, code: &'static str, why: &str) -> Action {
    let rejected = inbound::Rejected {
        status,
        code,
        message: why.to_owned(),
    };
    respond(handle, status, rejected.body())
}

fn respond(handle: String, status: u16, body: Vec<u8>) -> Action {
    Action::Respond(RespondAction {
        handle,
        status,
        headers: json_headers(),
        body,
    })
}
