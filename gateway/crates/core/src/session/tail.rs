//! The newest messages of the sessions in use, so that a turn need not read and decode them again.
//!
//! Rows of a transcript are only appended, each under the next number; a reset or a deletion begins another transcript
//! under another id. So what is kept here is what the store has exactly if the transcript's id and the last number fit,
//! and nobody has to say here what changed elsewhere.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use gateway_protocol::content::ChatMessage;
use gateway_store::MessageRow;
use parking_lot::Mutex;

use super::events::to_chat_message;
use crate::limits::{
    KEPT_HISTORY_BYTES_PER_SESSION, KEPT_HISTORY_BYTES_PER_TENANT, KEPT_HISTORY_MS,
    RUN_HISTORY_MESSAGES,
};

/// Bytes that a message takes besides its content, about.
const MESSAGE_OVERHEAD_BYTES: usize = 512;

/// One message with its number.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    seq: i64,
    bytes: usize,
    pub(super) message: Arc<ChatMessage>,
}

impl Kept {
    pub(super) fn new(row: &MessageRow) -> Self {
        Self {
            seq: row.seq,
            bytes: row.content_json.len() + MESSAGE_OVERHEAD_BYTES,
            message: Arc::new(to_chat_message(row)),
        }
    }
}

#[derive(Debug)]
struct Tail {
    session_id: String,
    /// Oldest first, never empty: the newest [`RUN_HISTORY_MESSAGES`] of the conversation, or all.
    messages: VecDeque<Kept>,
    bytes: usize,
    used_ms: i64,
}

impl Tail {
    fn last_seq(&self) -> i64 {
        self.messages.back().map_or(0, |kept| kept.seq)
    }

    fn push(&mut self, kept: Kept) {
        self.bytes += kept.bytes;
        self.messages.push_back(kept);
        if self.messages.len() > RUN_HISTORY_MESSAGES
            && let Some(old) = self.messages.pop_front()
        {
            self.bytes -= old.bytes;
        }
    }
}

#[derive(Debug, Default)]
struct Table {
    tails: HashMap<String, Tail>,
    bytes: usize,
}

impl Table {
    fn remove(&mut self, key: &str) -> Option<Tail> {
        let tail = self.tails.remove(key)?;
        self.bytes -= tail.bytes;
        Some(tail)
    }

    fn insert(&mut self, key: &str, tail: Tail) {
        if tail.bytes > KEPT_HISTORY_BYTES_PER_SESSION {
            return;
        }
        self.bytes += tail.bytes;
        self.tails.insert(key.to_owned(), tail);
        while self.bytes > KEPT_HISTORY_BYTES_PER_TENANT {
            let oldest = self.tails.iter().min_by_key(|(_, tail)| tail.used_ms);
            let Some(key) = oldest.map(|(key, _)| key.clone()) else {
                return;
            };
            self.remove(&key);
        }
    }
}

/// The tails of one tenant's sessions.
#[derive(Debug, Default)]
pub(super) struct Tails(Mutex<Table>);

impl Tails {
    /// The messages before number `seq` of this transcript, as many as a turn gets, if they are known.
    pub(super) fn before(
        &self,
        key: &str,
        session_id: &str,
        seq: i64,
        now_ms: i64,
    ) -> Option<Vec<Arc<ChatMessage>>> {
        if seq == 1 {
            return Some(Vec::new());
        }
        let mut table = self.0.lock();
        let tail = table
            .tails
            .get_mut(key)
            .filter(|tail| tail.session_id == session_id && tail.last_seq() + 1 == seq)?;
        tail.used_ms = now_ms;
        let skip = (tail.messages.len() + 1).saturating_sub(RUN_HISTORY_MESSAGES);
        Some(
            tail.messages
                .iter()
                .skip(skip)
                .map(|kept| kept.message.clone())
                .collect(),
        )
    }

    /// Keeps messages that were read: the newest of the transcript, oldest first, without gaps.
    pub(super) fn put(&self, key: &str, session_id: &str, messages: Vec<Kept>, now_ms: i64) {
        let mut table = self.0.lock();
        table.remove(key);
        if messages.is_empty() {
            return;
        }
        table.insert(
            key,
            Tail {
                session_id: session_id.to_owned(),
                bytes: messages.iter().map(|kept| kept.bytes).sum(),
                messages: messages.into(),
                used_ms: now_ms,
            },
        );
    }

    /// Keeps a message that was written. What does not follow on what is kept ends it: others wrote in between.
    pub(super) fn append(&self, key: &str, session_id: &str, kept: Kept, now_ms: i64) {
        let mut table = self.0.lock();
        let mut tail = match table.remove(key) {
            Some(tail) if tail.session_id == session_id && tail.last_seq() + 1 == kept.seq => tail,
            _ if kept.seq == 1 => Tail {
                session_id: session_id.to_owned(),
                messages: VecDeque::new(),
                bytes: 0,
                used_ms: now_ms,
            },
            _ => return,
        };
        tail.push(kept);
        tail.used_ms = now_ms;
        table.insert(key, tail);
    }

    /// Forgets a session: its conversation is not what was written.
    pub(super) fn forget(&self, key: &str) {
        self.0.lock().remove(key);
    }

    /// Forgets what was not used for a while: an idle tenant keeps nothing.
    pub(super) fn age(&self, now_ms: i64) {
        let mut table = self.0.lock();
        let Table { tails, bytes } = &mut *table;
        tails.retain(|_, tail| {
            let keep = now_ms.saturating_sub(tail.used_ms) < KEPT_HISTORY_MS;
            if !keep {
                *bytes -= tail.bytes;
            }
            keep
        });
        if tails.is_empty() {
            *tails = HashMap::new();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn kept(seq: i64, bytes: usize) -> Kept {
        let row = MessageRow {
            id: format!("m{seq}"),
            session_key: "k".into(),
            session_id: "s".into(),
            seq,
            role: "user".into(),
            content_json: format!(r#"[{{"type":"text","text":"{}"}}]"#, "x".repeat(bytes)),
            run_id: None,
            idempotency_key: None,
            created_at: seq,
            meta_json: None,
        };
        Kept::new(&row)
    }

    fn seqs(messages: Option<Vec<Arc<ChatMessage>>>) -> Option<Vec<i64>> {
        messages.map(|m| m.iter().map(|m| m.timestamp_ms).collect())
    }

    #[test]
    fn only_what_the_store_has_is_given() {
        let tails = Tails::default();
        assert_eq!(seqs(tails.before("k", "s", 1, 0)), Some(vec![]));
        assert_eq!(tails.before("k", "s", 2, 0), None);
        for seq in 1..=3 {
            tails.append("k", "s", kept(seq, 1), 0);
        }
        assert_eq!(seqs(tails.before("k", "s", 4, 0)), Some(vec![1, 2, 3]));
        // Another message was written in between, or the transcript is another one.
        assert_eq!(tails.before("k", "s", 5, 0), None);
        assert_eq!(tails.before("k", "other", 4, 0), None);
        assert_eq!(tails.before("other", "s", 4, 0), None);
        tails.append("k", "s", kept(5, 1), 0);
        assert_eq!(tails.before("k", "s", 6, 0), None, "4 is missing");
        tails.put("k", "s", vec![kept(4, 1), kept(5, 1)], 0);
        assert_eq!(seqs(tails.before("k", "s", 6, 0)), Some(vec![4, 5]));
        // A reset begins at 1 under a new id.
        tails.append("k", "t", kept(1, 1), 0);
        assert_eq!(tails.before("k", "s", 6, 0), None);
        assert_eq!(seqs(tails.before("k", "t", 2, 0)), Some(vec![1]));
    }

    #[test]
    fn a_turn_gets_as_many_as_from_the_store() {
        let tails = Tails::default();
        let most = i64::try_from(RUN_HISTORY_MESSAGES).unwrap();
        for seq in 1..=most + 5 {
            tails.append("k", "s", kept(seq, 1), 0);
        }
        let got = seqs(tails.before("k", "s", most + 6, 0)).unwrap();
        // With the message that is answered they are RUN_HISTORY_MESSAGES.
        assert_eq!(got.len() + 1, RUN_HISTORY_MESSAGES);
        assert_eq!((got[0], *got.last().unwrap()), (7, most + 5));
    }

    #[test]
    fn bytes_and_age_are_bounded() {
        let tails = Tails::default();
        tails.append("big", "s", kept(1, KEPT_HISTORY_BYTES_PER_SESSION), 0);
        assert_eq!(tails.before("big", "s", 2, 0), None);
        let each = KEPT_HISTORY_BYTES_PER_SESSION / 2;
        let n = i64::try_from(KEPT_HISTORY_BYTES_PER_TENANT / each).unwrap() + 3;
        for i in 0..n {
            tails.append(&format!("k{i}"), "s", kept(1, each), i);
        }
        assert!(tails.0.lock().bytes <= KEPT_HISTORY_BYTES_PER_TENANT);
        assert_eq!(
            tails.before("k0", "s", 2, n),
            None,
            "the one used first went"
        );
        assert!(tails.before(&format!("k{}", n - 1), "s", 2, n).is_some());
        tails.age(n + KEPT_HISTORY_MS - 1);
        assert!(tails.before(&format!("k{}", n - 1), "s", 2, n).is_some());
        tails.age(2 * n + 2 * KEPT_HISTORY_MS);
        let table = tails.0.lock();
        assert_eq!((table.bytes, table.tails.len()), (0, 0));
    }
}
