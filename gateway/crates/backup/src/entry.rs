//! Names in an archive: paths below the state directory that lead nowhere else.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize};

use crate::limits::{MAX_PATH_BYTES, MAX_PATH_PARTS};
use crate::{BackupError, Result};

/// What the first part of a name may be, besides files of the configuration (`*.json5`, `*.json`).
const TOP: &[&str] = &[
    "host.sqlite",
    "host.key",
    "tenants",
    "config",
    "secrets",
    "gateway",
];
/// What never comes from an archive: it belongs to the process that runs, or can be made again.
const NEVER: &[&str] = &["run", "cache", "snapshots", "state.lock"];

/// A checked name: relative, `/` between its parts, no part `.` or `..`, no control characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct EntryPath(String);

impl EntryPath {
    /// Checks a name.
    ///
    /// # Errors
    /// Says which rule it breaks.
    pub fn parse(text: &str) -> Result<Self> {
        let refuse = |why: &str| {
            let shown: String = text.chars().take(120).collect();
            Err(BackupError::archive(format!(
                "the archive names a file {shown:?}: {why}"
            )))
        };
        if text.is_empty() || text.len() > MAX_PATH_BYTES {
            return refuse("a name has 1 to 100 bytes");
        }
        if text.starts_with('/') {
            return refuse("an absolute path");
        }
        let parts: Vec<&str> = text.split('/').collect();
        if parts.len() > MAX_PATH_PARTS {
            return refuse("too many directories");
        }
        for part in &parts {
            if part.is_empty() || *part == "." || *part == ".." {
                return refuse("a part that leads elsewhere");
            }
            if part
                .chars()
                .any(|c| c.is_control() || c == '\\' || c == ':')
            {
                return refuse("a character that no file of a gateway has");
            }
        }
        let top = parts[0];
        let configuration = top.ends_with(".json5") || top.ends_with(".json");
        let below = parts.len() > 1;
        if NEVER.contains(&top) || !(TOP.contains(&top) || configuration || below) {
            return refuse("not a part of a state directory");
        }
        Ok(Self(text.to_owned()))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The place below a directory.
    pub fn below(&self, dir: &Path) -> PathBuf {
        dir.join(&self.0)
    }

    /// Whether it holds a secret: such files are in an archive only when they were asked for.
    pub fn is_secret(&self) -> bool {
        self.0 == "host.key" || self.0.starts_with("secrets/") || self.0.starts_with("gateway/tls")
    }

    /// The hash that the name of a blob says, if it is a blob.
    pub(crate) fn blob_hash(&self) -> Option<String> {
        let mut parts = self.0.split('/');
        match (parts.next(), parts.next(), parts.next()) {
            (Some("tenants"), Some(_), Some("blobs")) => {
                let hash: String = parts.collect();
                Some(hash)
            }
            _ => None,
        }
    }
}

impl fmt::Display for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for EntryPath {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Covers: N11.
    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for good in [
            "host.sqlite",
            "gateway.json5",
            "part.json",
            "parts/agents.json5",
            "tenants/abcdefghijklmnop/tenant.sqlite",
            "secrets/main/gateway-token",
            "gateway/tls/gateway-cert.pem",
        ] {
            assert_eq!(EntryPath::parse(good).unwrap().as_str(), good);
        }
        for bad in [
            "",
            "/etc/passwd",
            "..",
            "../x",
            "tenants/../../x",
            "tenants/./x",
            "tenants//x",
            "tenants/x/",
            "tenants\\..\\x",
            "C:/x",
            "secrets/a\0b",
            "secrets/a\nb",
            "state.lock",
            "run/gateway.json",
            "cache/plugins/x",
            "snapshots/x/host.sqlite",
            "bashrc",
            "a/b/c/d/e/f/g/h/i",
        ] {
            assert!(EntryPath::parse(bad).is_err(), "{bad:?}");
        }
        assert!(EntryPath::parse(&format!("secrets/{}", "x".repeat(100))).is_err());
    }

    #[test]
    fn secrets_and_blobs_are_known_by_their_names() {
        let of = |text: &str| EntryPath::parse(text).unwrap();
        assert!(of("host.key").is_secret() && of("gateway/tls-next/gateway-key.pem").is_secret());
        assert!(!of("gateway.json5").is_secret());
        assert_eq!(
            of("tenants/d/blobs/ab/cd").blob_hash().as_deref(),
            Some("abcd")
        );
        assert_eq!(of("tenants/d/tenant.sqlite").blob_hash(), None);
    }
}
