//! What a node offers: groups of commands, commands, permissions. As a value, so that what is declared, what is asked for and
//! what was approved can be compared.

use std::collections::BTreeMap;

use gateway_config::NodeCommandSettings;
use serde::{Deserialize, Serialize};

use super::policy::{Platform, Verdict, judge};
use crate::limits::{NODE_NAME_MAX_BYTES, NODE_NAMES_MAX};

/// What a node offers, or what was approved of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Groups of commands.
    pub caps: Vec<String>,
    /// Commands.
    pub commands: Vec<String>,
    /// Permissions on its machine.
    pub permissions: BTreeMap<String, bool>,
}

/// Names that can be kept and shown: short, of plain letters. The rest is not offered.
fn names<'a>(given: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for name in given {
        if out.len() >= NODE_NAMES_MAX {
            break;
        }
        if fits(name) && !out.iter().any(|n| n == name) {
            out.push(name.to_owned());
        }
    }
    out
}

fn fits(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= NODE_NAME_MAX_BYTES
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b':'))
}

fn sorted(names: &[String]) -> Vec<String> {
    let mut names = names.to_vec();
    names.sort();
    names
}

impl Offer {
    /// What a node says of itself, cut to what is kept.
    #[must_use]
    pub fn declared<'a>(
        caps: impl IntoIterator<Item = &'a str>,
        commands: impl IntoIterator<Item = &'a str>,
        permissions: impl IntoIterator<Item = (&'a str, bool)>,
    ) -> Self {
        Self {
            caps: names(caps),
            commands: names(commands),
            permissions: permissions
                .into_iter()
                .filter(|(name, _)| fits(name))
                .take(NODE_NAMES_MAX)
                .map(|(name, on)| (name.to_owned(), on))
                .collect(),
        }
    }

    /// As it is kept.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// What is kept; what cannot be read counts as nothing.
    pub(crate) fn from_json(text: &str) -> Self {
        serde_json::from_str(text).unwrap_or_default()
    }

    /// Without the commands that may not be called on this platform by these settings.
    #[must_use]
    pub fn within_policy(&self, platform: Platform, settings: &NodeCommandSettings) -> Self {
        Self {
            commands: self
                .commands
                .iter()
                .filter(|c| judge(c, platform, settings) == Verdict::Usual)
                .cloned()
                .collect(),
            ..self.clone()
        }
    }

    /// Whether nothing in it goes beyond `approved`.
    #[must_use]
    pub fn is_within(&self, approved: &Self) -> bool {
        self.caps.iter().all(|c| approved.caps.contains(c))
            && self.commands.iter().all(|c| approved.offers(c))
            && self
                .permissions
                .iter()
                .all(|(name, on)| !on || approved.permissions.get(name) == Some(&true))
    }

    /// Whether this command is in it.
    #[must_use]
    pub fn offers(&self, command: &str) -> bool {
        self.commands.iter().any(|c| c == command)
    }

    /// What both have.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self {
            caps: self
                .caps
                .iter()
                .filter(|c| other.caps.contains(c))
                .cloned()
                .collect(),
            commands: self
                .commands
                .iter()
                .filter(|c| other.offers(c))
                .cloned()
                .collect(),
            permissions: self.permissions.clone(),
        }
    }

    pub(crate) fn sorted_caps(&self) -> Vec<String> {
        sorted(&self.caps)
    }

    pub(crate) fn sorted_commands(&self) -> Vec<String> {
        sorted(&self.commands)
    }

    pub(crate) fn shown_permissions(&self) -> Option<BTreeMap<String, bool>> {
        (!self.permissions.is_empty()).then(|| self.permissions.clone())
    }
}
