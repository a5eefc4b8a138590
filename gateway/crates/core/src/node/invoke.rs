//! Calls of commands, as a state machine: each ends once, with one outcome, whoever is first of the node's result, the deadline,
//! the end of the node's connection and the last caller who goes away. Nothing here waits or sends.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use gateway_protocol::ids::ConnId;
use serde_json::Value;
use tokio::sync::oneshot;

use crate::limits::{
    NODE_CALLERS_PER_INVOKE_MAX, NODE_INVOKES_PER_NODE_MAX, NODE_INVOKES_PER_TENANT_MAX,
    NODE_KEPT_OUTCOME_MAX_BYTES, NODE_KEPT_OUTCOMES_MAX, NODE_KEPT_OUTCOMES_MAX_BYTES,
    NODE_OUTCOME_KEPT_MS, NODE_PROGRESS_PIECES_MAX,
};

/// How a call ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The node gave a result.
    Done {
        /// What it gave.
        payload: Value,
        /// The same as text, if it gave text.
        payload_json: Option<String>,
    },
    /// The node said that it failed.
    Failed {
        /// Its code.
        code: String,
        /// Its sentence.
        message: String,
    },
    /// Nothing came in time.
    TimedOut,
    /// The connection of the node ended first. Whether the command ran is not known.
    Disconnected,
    /// Everybody who waited went away. Whether the command ran is not known.
    Cancelled,
    /// It could not be sent to the node.
    NotSent,
    /// The call waits for a node that is not connected.
    Queued {
        /// Its id.
        id: String,
        /// When it is worth nothing any more, Unix epoch ms.
        expires_at_ms: i64,
    },
}

impl Outcome {
    fn bytes(&self) -> usize {
        match self {
            Self::Done {
                payload,
                payload_json,
            } => payload_json.as_ref().map_or_else(
                || serde_json::to_vec(payload).map_or(usize::MAX, |b| b.len()),
                |text| 2 * text.len(),
            ),
            Self::Failed { code, message } => code.len() + message.len(),
            _ => 0,
        }
    }
}

/// What makes a repeated call the same one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// The node.
    pub node: Arc<str>,
    /// The caller's name for the call.
    pub name: String,
}

/// A call to begin.
#[derive(Debug, Clone)]
pub struct NewCall {
    /// Its id.
    pub id: Arc<str>,
    /// What makes it the same as another.
    pub key: Key,
    /// Hash of the command and what it takes.
    pub digest: [u8; 32],
    /// The connection of the node that is asked.
    pub conn: ConnId,
    /// When it is over, monotonic ms.
    pub deadline_ms: u64,
    /// Who gets its progress.
    pub progress_to: Option<ConnId>,
}

/// One caller that waits.
#[derive(Debug)]
pub struct Waiter {
    /// The call.
    pub id: Arc<str>,
    /// Which of its callers.
    pub place: u64,
    /// When the call is over, monotonic ms.
    pub deadline_ms: u64,
    /// Gets the outcome, once.
    pub outcome: oneshot::Receiver<Arc<Outcome>>,
}

/// What became of an attempt to begin.
#[derive(Debug)]
pub enum Begun {
    /// The node has to be asked.
    New(Waiter),
    /// The same call is under way.
    Joined(Waiter),
    /// The same call ended like this.
    Known(Arc<Outcome>),
    /// The same call ended; its result was too large to be kept.
    Forgotten,
    /// The key was used for another call.
    Conflict,
    /// Too many calls are under way: of this node, or in all.
    Full(&'static str),
}

/// A piece of progress that somebody wants.
#[derive(Debug, PartialEq, Eq)]
pub struct Progress {
    /// Who wants it.
    pub to: ConnId,
    /// The caller's name for the call.
    pub key: String,
}

struct Open {
    key: Key,
    conn: ConnId,
    deadline_ms: u64,
    waiters: Vec<(u64, oneshot::Sender<Arc<Outcome>>)>,
    progress_to: Option<ConnId>,
    next_seq: u64,
    pieces: usize,
}

enum Known {
    Open(Arc<str>),
    /// `None`: too large to be kept.
    Ended(Option<Arc<Outcome>>),
}

/// All calls of a tenant that are under way or ended lately.
#[derive(Default)]
pub struct Invokes {
    open: HashMap<Arc<str>, Open>,
    known: HashMap<Key, ([u8; 32], Known)>,
    /// Ended ones, the oldest first: when, and how many bytes are kept.
    ended: VecDeque<(u64, Key, usize)>,
    kept_bytes: usize,
    places: u64,
}

impl std::fmt::Debug for Invokes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Invokes({} open, {} known)",
            self.open.len(),
            self.known.len()
        )
    }
}

impl Invokes {
    /// Calls under way.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// What is known of a call under this key; `None`: nothing, it may begin.
    pub fn recall(&mut self, key: &Key, digest: &[u8; 32], now_ms: u64) -> Option<Begun> {
        self.forget_old(now_ms);
        let (before, known) = self.known.get(key)?;
        if before != digest {
            return Some(Begun::Conflict);
        }
        let id = match known {
            Known::Ended(Some(outcome)) => return Some(Begun::Known(outcome.clone())),
            Known::Ended(None) => return Some(Begun::Forgotten),
            Known::Open(id) => id.clone(),
        };
        let open = self.open.get_mut(&id)?;
        if open.waiters.len() >= NODE_CALLERS_PER_INVOKE_MAX {
            return Some(Begun::Full("callers of one call"));
        }
        self.places += 1;
        Some(Begun::Joined(wait(open, id, self.places)))
    }

    /// Begins a call, unless its key is known.
    pub fn begin(&mut self, call: NewCall, now_ms: u64) -> Begun {
        if let Some(known) = self.recall(&call.key, &call.digest, now_ms) {
            return known;
        }
        if self.open.len() >= NODE_INVOKES_PER_TENANT_MAX {
            return Begun::Full("calls of the tenant");
        }
        let here = self.open.values().filter(|o| o.key.node == call.key.node);
        if here.count() >= NODE_INVOKES_PER_NODE_MAX {
            return Begun::Full("calls of the node");
        }
        let mut open = Open {
            key: call.key.clone(),
            conn: call.conn,
            deadline_ms: call.deadline_ms,
            waiters: Vec::with_capacity(1),
            progress_to: call.progress_to,
            next_seq: 0,
            pieces: 0,
        };
        self.places += 1;
        let waiter = wait(&mut open, call.id.clone(), self.places);
        self.known
            .insert(call.key, (call.digest, Known::Open(call.id.clone())));
        self.open.insert(call.id, open);
        Begun::New(waiter)
    }

    /// Notes the outcome of a call that never was under way.
    pub fn note(&mut self, key: Key, digest: [u8; 32], outcome: Outcome, now_ms: u64) {
        self.known
            .insert(key.clone(), (digest, Known::Ended(Some(Arc::new(outcome)))));
        self.ended.push_back((now_ms, key, 0));
        self.forget_old(now_ms);
    }

    /// The node of this connection says how a call ended. `false`: it was not asked, or it is too late.
    pub fn result(
        &mut self,
        id: &str,
        node: &str,
        conn: &ConnId,
        outcome: Outcome,
        now_ms: u64,
    ) -> bool {
        if !self.is_of(id, node, conn) {
            return false;
        }
        self.end(id, outcome, now_ms)
    }

    /// A piece of progress; `None`: nobody asked for it, it is out of order, or there were too many.
    pub fn progress(&mut self, id: &str, node: &str, conn: &ConnId, seq: u64) -> Option<Progress> {
        if !self.is_of(id, node, conn) {
            return None;
        }
        let open = self.open.get_mut(id)?;
        let to = open.progress_to.clone()?;
        if seq < open.next_seq || open.pieces >= NODE_PROGRESS_PIECES_MAX {
            return None;
        }
        open.next_seq = seq.saturating_add(1);
        open.pieces += 1;
        Some(Progress {
            to,
            key: open.key.name.clone(),
        })
    }

    /// The deadline of a call passed. `true`: this ended it, and the node is to be told.
    pub fn expire(&mut self, id: &str, now_ms: u64) -> bool {
        match self.open.get(id) {
            Some(open) if open.deadline_ms <= now_ms => self.end(id, Outcome::TimedOut, now_ms),
            _ => false,
        }
    }

    /// A caller went away. `true`: it was the last one, this ended the call, and the node is to be told.
    pub fn leave(&mut self, id: &str, place: u64, now_ms: u64) -> bool {
        let Some(open) = self.open.get_mut(id) else {
            return false;
        };
        open.waiters.retain(|(at, _)| *at != place);
        open.waiters.is_empty() && self.end(id, Outcome::Cancelled, now_ms)
    }

    /// A call could not be sent.
    pub fn not_sent(&mut self, id: &str, now_ms: u64) -> bool {
        let key = self.open.get(id).map(|open| open.key.clone());
        let ended = self.end(id, Outcome::NotSent, now_ms);
        // Nothing happened: the same call may be tried again.
        if let (true, Some(key)) = (ended, key) {
            self.known.remove(&key);
            self.ended.retain(|(_, of, _)| *of != key);
        }
        ended
    }

    /// A connection of a node ended, and with it the calls that it was asked. Gives their number.
    pub fn disconnect(&mut self, conn: &ConnId, now_ms: u64) -> usize {
        let mut lost: Vec<Arc<str>> = Vec::new();
        for (id, open) in &self.open {
            if open.conn == *conn {
                lost.push(id.clone());
            }
        }
        for id in &lost {
            self.end(id, Outcome::Disconnected, now_ms);
        }
        lost.len()
    }

    fn is_of(&self, id: &str, node: &str, conn: &ConnId) -> bool {
        self.open
            .get(id)
            .is_some_and(|open| *open.key.node == *node && open.conn == *conn)
    }

    /// The one place where a call ends.
    fn end(&mut self, id: &str, outcome: Outcome, now_ms: u64) -> bool {
        let Some(open) = self.open.remove(id) else {
            return false;
        };
        let outcome = Arc::new(outcome);
        for (_, waiter) in open.waiters {
            // Who does not wait any more misses nothing.
            let _ = waiter.send(outcome.clone());
        }
        let bytes = outcome.bytes();
        let (kept, bytes) = if bytes <= NODE_KEPT_OUTCOME_MAX_BYTES {
            (Some(outcome), bytes)
        } else {
            (None, 0)
        };
        if let Some((_, known)) = self.known.get_mut(&open.key) {
            *known = Known::Ended(kept);
            self.kept_bytes += bytes;
            self.ended.push_back((now_ms, open.key, bytes));
        }
        self.forget_old(now_ms);
        true
    }

    fn forget_old(&mut self, now_ms: u64) {
        while let Some((at, _, _)) = self.ended.front() {
            let old = now_ms.saturating_sub(*at) >= NODE_OUTCOME_KEPT_MS;
            let many = self.ended.len() > NODE_KEPT_OUTCOMES_MAX
                || self.kept_bytes > NODE_KEPT_OUTCOMES_MAX_BYTES;
            if !old && !many {
                return;
            }
            if let Some((_, key, bytes)) = self.ended.pop_front() {
                self.kept_bytes -= bytes;
                // Its key may have been used again since.
                if matches!(self.known.get(&key), Some((_, Known::Ended(_)))) {
                    self.known.remove(&key);
                }
            }
        }
    }
}

fn wait(open: &mut Open, id: Arc<str>, place: u64) -> Waiter {
    let (tx, outcome) = oneshot::channel();
    open.waiters.push((place, tx));
    Waiter {
        id,
        place,
        deadline_ms: open.deadline_ms,
        outcome,
    }
}
