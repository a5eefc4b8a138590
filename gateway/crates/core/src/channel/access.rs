//! Who may talk to an agent. Decided here, in the host, and never in a guest.
//!
//! Only stable platform ids are compared, exactly and byte by byte. An empty list means nobody and a missing field means no.

use gateway_config::{DmPolicy, GroupPolicy};

/// Kind of conversation that a message came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConversationKind {
    /// One person and us.
    Direct,
    /// Several people.
    Group,
}

/// The rules of one account, from settings.
#[derive(Debug, Clone)]
pub struct AccessRules {
    /// What an unknown sender of a direct message gets.
    pub dm: DmPolicy,
    /// Which groups may reach an agent.
    pub group: GroupPolicy,
    /// Stable sender ids that may talk to the agent.
    pub allow_from: Vec<String>,
    /// Stable group ids that may reach the agent.
    pub groups: Vec<String>,
    /// Groups only: the message must mention us.
    pub require_mention: bool,
}

/// What is known of one message.
#[derive(Debug, Clone, Copy)]
pub struct Asking<'a> {
    /// Direct or group.
    pub kind: ConversationKind,
    /// Stable id of the sender; empty when the guest gave none.
    pub sender_id: &'a str,
    /// Stable id of the conversation; empty when the guest gave none.
    pub conversation_id: &'a str,
    /// The platform says that a program sent it.
    pub is_bot: bool,
    /// The message addresses us.
    pub mentioned: bool,
    /// The sender was approved by pairing (a row in the store).
    pub paired: bool,
}

/// The decision on one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It reaches the agent.
    Allow,
    /// It does not; the sender is offered a pairing code.
    OfferPairing,
    /// It does not, and nobody is told.
    Deny(&'static str),
}

/// Decides one message.
#[must_use]
pub fn decide(rules: &AccessRules, asking: &Asking<'_>) -> Access {
    if asking.sender_id.is_empty() || asking.conversation_id.is_empty() {
        return Access::Deny("no stable id");
    }
    if asking.is_bot {
        return Access::Deny("sender is a bot");
    }
    let listed = |list: &[String], id: &str| list.iter().any(|entry| entry == id);
    match asking.kind {
        ConversationKind::Direct => match rules.dm {
            DmPolicy::Disabled => Access::Deny("direct messages are off"),
            DmPolicy::Open => Access::Allow,
            DmPolicy::Allowlist if listed(&rules.allow_from, asking.sender_id) => Access::Allow,
            DmPolicy::Allowlist => Access::Deny("sender is not on the allow list"),
            DmPolicy::Pairing if asking.paired || listed(&rules.allow_from, asking.sender_id) => {
                Access::Allow
            }
            DmPolicy::Pairing => Access::OfferPairing,
        },
        // A sender who was paired for direct messages gains nothing in a group.
        ConversationKind::Group => match rules.group {
            GroupPolicy::Disabled => Access::Deny("groups are off"),
            GroupPolicy::Allowlist if !listed(&rules.groups, asking.conversation_id) => {
                Access::Deny("group is not on the allow list")
            }
            GroupPolicy::Allowlist | GroupPolicy::Open
                if rules.require_mention && !asking.mentioned =>
            {
                Access::Deny("not mentioned")
            }
            GroupPolicy::Allowlist | GroupPolicy::Open => Access::Allow,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(dm: DmPolicy, group: GroupPolicy) -> AccessRules {
        AccessRules {
            dm,
            group,
            allow_from: vec!["u1".into()],
            groups: vec!["g1".into()],
            require_mention: true,
        }
    }

    fn direct(sender: &str) -> Asking<'_> {
        Asking {
            kind: ConversationKind::Direct,
            sender_id: sender,
            conversation_id: "c",
            is_bot: false,
            mentioned: false,
            paired: false,
        }
    }

    /// Covers: Z9, Z10.
    #[test]
    fn direct_messages_by_policy() {
        for (dm, sender, paired, expect) in [
            (
                DmPolicy::Disabled,
                "u1",
                true,
                Access::Deny("direct messages are off"),
            ),
            (DmPolicy::Open, "stranger", false, Access::Allow),
            (DmPolicy::Allowlist, "u1", false, Access::Allow),
            (
                DmPolicy::Allowlist,
                "U1",
                false,
                Access::Deny("sender is not on the allow list"),
            ),
            (
                DmPolicy::Allowlist,
                "u11",
                false,
                Access::Deny("sender is not on the allow list"),
            ),
            (
                DmPolicy::Allowlist,
                "stranger",
                true,
                Access::Deny("sender is not on the allow list"),
            ),
            (DmPolicy::Pairing, "stranger", false, Access::OfferPairing),
            (DmPolicy::Pairing, "stranger", true, Access::Allow),
            (DmPolicy::Pairing, "u1", false, Access::Allow),
            (DmPolicy::Pairing, "", true, Access::Deny("no stable id")),
            (DmPolicy::Open, "", false, Access::Deny("no stable id")),
        ] {
            let asking = Asking {
                paired,
                ..direct(sender)
            };
            assert_eq!(
                decide(&rules(dm, GroupPolicy::Open), &asking),
                expect,
                "{dm:?} {sender:?} paired={paired}"
            );
        }
    }

    /// Covers: Z10.
    #[test]
    fn groups_by_policy() {
        let ask = |group: &'static str, mentioned, paired| Asking {
            kind: ConversationKind::Group,
            conversation_id: group,
            mentioned,
            paired,
            ..direct("u1")
        };
        for (policy, asking, expect) in [
            (
                GroupPolicy::Disabled,
                ask("g1", true, true),
                Access::Deny("groups are off"),
            ),
            (
                GroupPolicy::Allowlist,
                ask("g1", true, false),
                Access::Allow,
            ),
            (
                GroupPolicy::Allowlist,
                ask("g1", false, true),
                Access::Deny("not mentioned"),
            ),
            (
                GroupPolicy::Allowlist,
                ask("g2", true, true),
                Access::Deny("group is not on the allow list"),
            ),
            (
                GroupPolicy::Allowlist,
                ask("", true, true),
                Access::Deny("no stable id"),
            ),
            (GroupPolicy::Open, ask("g9", true, false), Access::Allow),
        ] {
            assert_eq!(
                decide(&rules(DmPolicy::Open, policy), &asking),
                expect,
                "{policy:?} {asking:?}"
            );
        }
        let nobody = AccessRules {
            groups: Vec::new(),
            ..rules(DmPolicy::Open, GroupPolicy::Allowlist)
        };
        assert_eq!(
            decide(&nobody, &ask("g1", true, true)),
            Access::Deny("group is not on the allow list")
        );
    }

    #[test]
    fn bots_are_ignored() {
        let asking = Asking {
            is_bot: true,
            ..direct("u1")
        };
        assert_eq!(
            decide(&rules(DmPolicy::Open, GroupPolicy::Open), &asking),
            Access::Deny("sender is a bot")
        );
    }
}
