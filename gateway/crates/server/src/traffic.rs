//! What the listener did, counted: bytes, connections, handshakes, answers.

use gateway_metrics::{Counter, Exposition, Kind};

use crate::budget::Full;

/// Why a connection was not taken, in the words of the label `reason`.
const REFUSALS: [&str; 4] = ["total", "preauth", "address", "memory"];
/// Classes of statuses of answers.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
const ENDS: [&str; 2] = ["ok", "failed"];

/// The numbers of one listener. They say nothing about a tenant and are for the operator of the host.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) bytes_in: Counter,
    pub(crate) bytes_out: Counter,
    pub(crate) accepted: Counter,
    refused: [Counter; REFUSALS.len()],
    tls: [Counter; ENDS.len()],
    connects: [Counter; ENDS.len()],
    answers: [Counter; CLASSES.len()],
}

impl Traffic {
    pub(crate) fn refused(&self, why: Full) {
        let place = match why {
            Full::Total => 0,
            Full::Preauth => 1,
            Full::Address => 2,
            Full::Memory => 3,
        };
        self.refused[place].inc();
    }

    pub(crate) fn tls_ended(&self, ok: bool) {
        self.tls[usize::from(!ok)].inc();
    }

    pub(crate) fn connect_ended(&self, ok: bool) {
        self.connects[usize::from(!ok)].inc();
    }

    pub(crate) fn answered(&self, status: u16) {
        let class = usize::from(status / 100).saturating_sub(1);
        if let Some(counter) = self.answers.get(class) {
            counter.inc();
        }
    }

    pub(crate) fn write(&self, out: &mut Exposition) {
        out.family(
            "gateway_bytes_total",
            Kind::Counter,
            "Bytes of requests, frames and answers, without TLS.",
        );
        out.count(&[("direction", "in")], self.bytes_in.get());
        out.count(&[("direction", "out")], self.bytes_out.get());
        out.family(
            "gateway_sockets_accepted_total",
            Kind::Counter,
            "TCP connections that got a place.",
        );
        out.count(&[], self.accepted.get());
        let mut by = |name, help, label, words: &[&str], counters: &[Counter]| {
            out.family(name, Kind::Counter, help);
            for (word, counter) in words.iter().zip(counters) {
                out.count(&[(label, *word)], counter.get());
            }
        };
        by(
            "gateway_sockets_refused_total",
            "TCP connections that got no place, by the limit that was reached.",
            "reason",
            &REFUSALS,
            &self.refused,
        );
        by(
            "gateway_tls_handshakes_total",
            "TLS handshakes that ended.",
            "outcome",
            &ENDS,
            &self.tls,
        );
        by(
            "gateway_connects_total",
            "Handshakes of the protocol that ended.",
            "outcome",
            &ENDS,
            &self.connects,
        );
        by(
            "gateway_http_responses_total",
            "Answers to HTTP requests by class of status.",
            "class",
            &CLASSES,
            &self.answers,
        );
    }
}
