//! From a conversation to the agent and the session that it belongs to. Only settings decide; nothing of a message does.

use gateway_config::DmScope;
use gateway_protocol::ids::AgentId;
use gateway_protocol::session_key::{self, SessionKey};
use gateway_wasm::{Peer, PeerKind};
use sha2::{Digest, Sha256};

/// What a route is made from.
#[derive(Debug, Clone, Copy)]
pub struct RouteInput<'a> {
    /// Agent of the account.
    pub agent: &'a AgentId,
    /// Which direct messages share a session.
    pub dm_scope: DmScope,
    /// Channel kind.
    pub kind: &'a str,
    /// Account id.
    pub account: &'a str,
    /// Where the message was written.
    pub conversation: &'a Peer,
    /// Stable id of who wrote it.
    pub sender_id: &'a str,
}

/// The session of a conversation. Total: ids that can't stand in a key are replaced by their hash.
#[must_use]
pub fn resolve(input: &RouteInput<'_>) -> SessionKey {
    let scope = match input.dm_scope {
        DmScope::Main => session_key::DmScope::Main,
        DmScope::PerPeer => session_key::DmScope::PerPeer,
        DmScope::PerChannelPeer => session_key::DmScope::PerChannelPeer,
        DmScope::PerAccountChannelPeer => session_key::DmScope::PerAccountChannelPeer,
    };
    let build = |id: &str| match input.conversation.kind {
        PeerKind::Direct => SessionKey::direct(input.agent, scope, input.kind, input.account, id),
        PeerKind::Group => SessionKey::group(input.agent, input.kind, "group", id),
        PeerKind::Channel => SessionKey::group(input.agent, input.kind, "channel", id),
    };
    let raw = match input.conversation.kind {
        // A direct session belongs to the person, whatever the platform calls the place.
        PeerKind::Direct => input.sender_id,
        PeerKind::Group | PeerKind::Channel => &input.conversation.id,
    };
    let base = build(&distinct(raw))
        .or_else(|_| build(&hashed(raw)))
        .unwrap_or_else(|_| SessionKey::main(input.agent));
    let Some(thread) = input
        .conversation
        .thread
        .as_deref()
        .filter(|thread| !thread.is_empty())
    else {
        return base;
    };
    base.topic(&distinct(thread))
        .or_else(|_| base.topic(&hashed(thread)))
        .unwrap_or(base)
}

/// Begins every replaced id, and no other: who calls himself so on the platform is replaced as well.
const HASHED: &str = "h-";

/// Keys are lower case and platforms' ids need not be: two ids that differ in case only must not share a session.
fn distinct(id: &str) -> String {
    let plain = !id.is_empty()
        && !id.starts_with(HASHED)
        && id.bytes().all(
            |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'+' | b'@'),
        );
    if plain { id.to_owned() } else { hashed(id) }
}

fn hashed(id: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::from(HASHED);
    for byte in &Sha256::digest(id.as_bytes())[..16] {
        let _ = write!(out, "{byte:02x}");
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn key(scope: DmScope, kind: PeerKind, id: &str, thread: Option<&str>, sender: &str) -> String {
        let agent = AgentId::parse("main").unwrap();
        let conversation = Peer {
            kind,
            id: id.to_owned(),
            thread: thread.map(str::to_owned),
        };
        let input = RouteInput {
            agent: &agent,
            dm_scope: scope,
            kind: "telegram",
            account: "default",
            conversation: &conversation,
            sender_id: sender,
        };
        resolve(&input).into_string()
    }

    #[test]
    fn by_scope_and_kind() {
        use PeerKind::{Channel, Direct, Group};
        for (scope, kind, id, thread, expect) in [
            (DmScope::Main, Direct, "7", None, "agent:main:main"),
            (DmScope::PerPeer, Direct, "7", None, "agent:main:direct:42"),
            (
                DmScope::PerChannelPeer,
                Direct,
                "7",
                None,
                "agent:main:telegram:direct:42",
            ),
            (
                DmScope::PerAccountChannelPeer,
                Direct,
                "7",
                None,
                "agent:main:telegram:default:direct:42",
            ),
            (
                DmScope::PerChannelPeer,
                Group,
                "-100",
                None,
                "agent:main:telegram:group:-100",
            ),
            (
                DmScope::PerChannelPeer,
                Group,
                "-100",
                Some("5"),
                "agent:main:telegram:group:-100:topic:5",
            ),
            (
                DmScope::PerChannelPeer,
                Channel,
                "-100",
                None,
                "agent:main:telegram:channel:-100",
            ),
        ] {
            assert_eq!(key(scope, kind, id, thread, "42"), expect);
        }
    }

    /// Covers: Z4, Z6.
    #[test]
    fn hostile_ids_neither_collide_nor_choose_a_session() {
        let direct = |sender: &str| key(DmScope::PerPeer, PeerKind::Direct, "x", None, sender);
        let ids = [
            "Abc",
            "abc",
            "ABC",
            "abc:thread:1",
            "../main",
            "main",
            " abc",
            "abc\u{200b}",
            "ａｂｃ",
            "a/b",
            "cron:1",
            "\0",
            "",
        ];
        let mut seen = std::collections::BTreeSet::new();
        for id in ids {
            let key = direct(id);
            assert!(key.starts_with("agent:main:direct:"), "{id:?} became {key}");
            assert_eq!(key.matches(':').count(), 3, "{id:?} became {key}");
            assert!(seen.insert(key), "{id:?} shares a session");
        }
        let long = "x".repeat(5000);
        assert!(direct(&long).len() < 512);
    }
}
