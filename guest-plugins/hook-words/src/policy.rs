//! The join to world `hook`.

use crate::{Said, words};

gateway_guest::hook!(Policy);

use bindings::exports::gateway::hook::policy::{Error, Event, Guest, Verdict};
use bindings::gateway::host::config;

struct Policy;

impl Guest for Policy {
    fn judge(event: Event) -> Result<Verdict, Error> {
        let words = words(&config::get()).map_err(Error::Invalid)?;
        let text = match event {
            Event::MessageInbound(message) => message.text,
            Event::ToolCall(call) => format!("{} {}", call.tool, call.arguments),
            Event::MessageOutbound(message) => message.text,
        };
        Ok(match words.judge(&text) {
            Said::Nothing => Verdict::Pass,
            Said::Marked(list) => Verdict::Annotate(vec![("words".to_owned(), list)]),
            Said::Denied(why) => Verdict::Deny(why),
        })
    }
}
