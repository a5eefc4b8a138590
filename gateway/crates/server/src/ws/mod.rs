//! WebSockets: v4 frames, JSON-RPC, and (in test builds) an echo, on one connection machinery.

pub(crate) mod conn;
pub(crate) mod out;
pub(crate) mod rpc;
pub(crate) mod scan;
pub(crate) mod timer;
pub(crate) mod upgrade;
pub(crate) mod v4;

use bytes::Bytes;
use gateway_core::hub::WireEvent;
use gateway_protocol::error::RpcError;

use self::conn::{CallKind, Link};

/// What the messages of a connection mean.
pub(crate) enum Mode {
    V4(Box<v4::V4>),
    Rpc(Box<rpc::Rpc>),
    #[cfg(feature = "test-echo")]
    Echo,
}

impl Mode {
    fn open(&mut self, link: &mut Link) {
        match self {
            Self::V4(m) => m.open(link),
            Self::Rpc(m) => m.open(link),
            #[cfg(feature = "test-echo")]
            Self::Echo => {}
        }
    }

    #[cfg_attr(not(feature = "test-echo"), allow(unused_variables))]
    fn message(&mut self, link: &mut Link, bytes: Bytes, binary: bool) {
        match self {
            Self::V4(m) => m.message(link, &bytes),
            Self::Rpc(m) => m.message(link, &bytes),
            #[cfg(feature = "test-echo")]
            Self::Echo => link.out.message(
                if binary { out::BINARY } else { out::TEXT },
                b"",
                &bytes,
                b"",
            ),
        }
    }

    fn answer(&mut self, link: &mut Link, kind: CallKind, result: Result<Bytes, RpcError>) {
        match self {
            Self::V4(m) => m.answer(link, kind, result),
            Self::Rpc(m) => m.answer(link, kind, result),
            #[cfg(feature = "test-echo")]
            Self::Echo => {}
        }
    }

    fn event(&mut self, link: &mut Link, event: &WireEvent) {
        match self {
            Self::V4(m) => m.event(link, event),
            Self::Rpc(m) => m.event(link, event),
            #[cfg(feature = "test-echo")]
            Self::Echo => {}
        }
    }

    fn pong(&mut self) {
        match self {
            Self::V4(m) => m.beat.pong(),
            Self::Rpc(m) => m.beat.pong(),
            #[cfg(feature = "test-echo")]
            Self::Echo => {}
        }
    }

    fn tick(&mut self, link: &mut Link) {
        match self {
            Self::V4(m) => m.tick(link),
            Self::Rpc(m) => m.tick(link),
            #[cfg(feature = "test-echo")]
            Self::Echo => {}
        }
    }

    fn due(&self) -> u64 {
        match self {
            Self::V4(m) => m.due(),
            Self::Rpc(m) => m.beat.due(),
            #[cfg(feature = "test-echo")]
            Self::Echo => u64::MAX,
        }
    }

    fn gone(&mut self) {
        match self {
            Self::V4(m) => m.gone(),
            Self::Rpc(m) => m.gone(),
            #[cfg(feature = "test-echo")]
            Self::Echo => {}
        }
    }
}

/// Pings of one connection: sent at an interval, to be answered in time.
#[derive(Debug)]
pub(crate) struct Beat {
    next_ms: u64,
    answer_by_ms: Option<u64>,
}

impl Beat {
    pub(crate) fn new(now_ms: u64, interval_ms: u64) -> Self {
        Self {
            next_ms: now_ms + interval_ms,
            answer_by_ms: None,
        }
    }

    pub(crate) fn pong(&mut self) {
        self.answer_by_ms = None;
    }

    pub(crate) fn due(&self) -> u64 {
        self.answer_by_ms.unwrap_or(u64::MAX).min(self.next_ms)
    }

    /// `true` when it is time for the next round (a ping is queued then). A peer that is late is closed.
    pub(crate) fn round(&mut self, link: &mut Link) -> bool {
        if self.answer_by_ms.is_some_and(|by| link.now_ms >= by) {
            link.close(gateway_protocol::frame::Close::new(
                gateway_protocol::frame::Close::POLICY,
                "ping not answered",
            ));
            return false;
        }
        let (interval_ms, pong_ms) = (
            link.app.limits.ping_interval_ms,
            link.app.limits.pong_timeout_ms,
        );
        if link.now_ms < self.next_ms {
            return false;
        }
        self.next_ms = link.now_ms + interval_ms;
        self.answer_by_ms.get_or_insert(link.now_ms + pong_ms);
        link.out.ping();
        true
    }
}
