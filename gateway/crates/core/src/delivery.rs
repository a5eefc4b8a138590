//! The seam between a run and the channel that its answer goes to. The row of the answer is written by the run, in the
//! run's own commit; the channel side is only told that there is something to send.

use futures_util::future::BoxFuture;
use gateway_protocol::RpcError;
use gateway_protocol::methods::channels as wire;
use gateway_protocol::methods::system::BootListResult;
use serde::{Deserialize, Serialize};

use crate::audit::Audit;

/// Where the answer of a run goes. Kept with the run (`reply_to_json`), so that a restart knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplyTarget {
    /// Channel kind.
    pub kind: String,
    /// Account of that channel.
    pub account: String,
    /// Conversation (and thread) on the platform, as the channel side wrote it (JSON text, compared as text).
    pub conversation_json: String,
    /// Id of the held webhook request that the answer belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<String>,
    /// Platform id of the message that is answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    /// Trace id of the message that is answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    /// Nobody asked: an answer that says that there is nothing to say is not sent, and none is shown before it is whole.
    /// The number is that of [`crate::cron::is_silent`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quiet: Option<usize>,
}

/// What the channel side offers to runs. Set once per tenant, before the first run.
pub trait Delivery: Send + Sync + 'static {
    /// Whether answers to this account are sent while they grow (then a run keeps its outbox row up to date, at most
    /// once per [`crate::limits::REPLY_REVISION_INTERVAL_MS`]).
    fn streams(&self, kind: &str, account: &str) -> bool;
    /// How long an answer to this account may wait before it is given up, in ms.
    fn ttl_ms(&self, kind: &str, account: &str) -> i64;
    /// Longest text of one message of this account, in bytes; 0 where there is no limit. Longer answers become several
    /// messages (see [`split`]).
    fn max_text_bytes(&self, kind: &str, account: &str) -> usize;
    /// There is something due in the outbox of this account. Must not block.
    fn wake(&self, kind: &str, account: &str);
    /// Whether the webhook request is still open that this hold names. Then the run enqueues the answer as claimed
    /// (`enqueue_outbox_claimed`), which saves a commit, and gives the row to [`Delivery::deliver`].
    fn holds(&self, kind: &str, account: &str, hold: &str) -> bool;
    /// Sends a row that is claimed by this process; `target` is what its run says of the message that it answers. Must
    /// not block.
    fn deliver(&self, row: gateway_store::OutboxRow, target: ReplyTarget);
}

/// A result of a channel method.
pub type ControlResult<'a, T> = BoxFuture<'a, Result<T, RpcError>>;

/// What the methods `channels.*`, `send`, `outbox.list` and `boot.list` call. One per tenant; an id of another tenant
/// is not found.
pub trait ChannelControl: Send + Sync + 'static {
    /// `channels.status`.
    fn status(
        &self,
        p: wire::ChannelsStatusParams,
    ) -> ControlResult<'_, wire::ChannelsStatusResult>;
    /// `channels.start`.
    fn start(
        &self,
        p: wire::ChannelsStartParams,
        audit: Audit,
    ) -> ControlResult<'_, wire::ChannelsSwitchResult>;
    /// `channels.stop`.
    fn stop(
        &self,
        p: wire::ChannelsStopParams,
        audit: Audit,
    ) -> ControlResult<'_, wire::ChannelsSwitchResult>;
    /// `channels.pairing.list`.
    fn pairing_list(
        &self,
        p: wire::ChannelsPairingListParams,
    ) -> ControlResult<'_, wire::ChannelsPairingListResult>;
    /// `channels.pairing.approve`.
    fn pairing_approve(
        &self,
        p: wire::ChannelsPairingApproveParams,
        audit: Audit,
    ) -> ControlResult<'_, wire::ChannelsPairingApproveResult>;
    /// `send`: the same idempotency key with the same params sends nothing again.
    fn send(&self, p: wire::SendParams) -> ControlResult<'_, wire::SendResult>;
    /// `outbox.list`.
    fn outbox_list(&self, p: wire::OutboxListParams) -> ControlResult<'_, wire::OutboxListResult>;
    /// `boot.list`.
    fn boot_list(&self) -> ControlResult<'_, BootListResult>;
}

/// Cuts a text into pieces of at most `max` bytes: at the end of a paragraph, a line or a word where one is in the second
/// half of the piece, else between two characters. `max` 0 means no limit; the pieces joined are the text.
#[must_use]
pub fn split(text: &str, max: usize) -> Vec<&str> {
    // No character is longer than four bytes, so each piece takes at least one.
    let max = if max == 0 { usize::MAX } else { max.max(4) };
    let mut pieces = Vec::new();
    let mut rest = text;
    while rest.len() > max {
        let hard = rest.floor_char_boundary(max);
        let window = &rest[..hard];
        let soft = ["\n\n", "\n", " "]
            .iter()
            .filter_map(|mark| window.rfind(mark).map(|at| at + mark.len()))
            .find(|at| *at > hard / 2);
        let (piece, tail) = rest.split_at(soft.unwrap_or(hard));
        pieces.push(piece);
        rest = tail;
    }
    if !rest.is_empty() || pieces.is_empty() {
        pieces.push(rest);
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn pieces_keep_every_byte_and_the_limit() {
        for (text, max, expect) in [
            ("", 10, vec![""]),
            ("short", 10, vec!["short"]),
            ("short", 0, vec!["short"]),
            ("one two three", 8, vec!["one two ", "three"]),
            ("a\n\nbb cc", 6, vec!["a\n\nbb ", "cc"]),
            ("aaaaaaaaaa", 4, vec!["aaaa", "aaaa", "aa"]),
            ("ééééé", 5, vec!["éé", "éé", "é"]),
            ("😀😀", 1, vec!["😀", "😀"]),
        ] {
            let pieces = split(text, max);
            assert_eq!(pieces, expect, "{text:?} by {max}");
            assert_eq!(pieces.concat(), text);
        }
    }
}
