//! The tenant's audit log: who did what, in a chain that shows tampering.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::NoParams;
use crate::value::Whole;

crate::methods! {
    /// Who did what to this tenant, newest first.
    AuditEntries = "audit.entries", Operator(Admin), Query, (AuditEntriesParams) -> AuditEntriesResult;
    /// Whether the audit log is as it was written.
    AuditVerify = "audit.verify", Operator(Admin), Query, (NoParams) -> AuditVerifyResult;
}

crate::params! {
    /// Parameters of `audit.entries`.
    AuditEntriesParams {
        required {}
        optional {
            /// Only entries with a lower number than this.
            "before" before: u64,
            /// Most entries to return (default 100).
            "limit" limit: Whole<1, 1000>,
        }
        ignored {}
        refused {}
    }
}

/// Result of `audit.entries`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditEntriesResult {
    /// The entries, newest first.
    pub entries: Vec<AuditEntry>,
    /// There are older ones: give the lowest number as `before`.
    pub has_more: bool,
}

/// One entry.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditEntry {
    /// Its number, from 1, without gaps.
    pub seq: u64,
    /// When, milliseconds since the Unix epoch.
    pub ts: i64,
    /// What: the method, or `auth.failed`, `gateway.started`.
    pub action: String,
    /// `ok`, or the code of the error.
    pub outcome: String,
    /// Who: credential (its kind and the beginning of its keyed hash), connection, address, surface, client.
    pub actor: Value,
    /// Ids of what it was done to; never contents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<Value>,
}

/// Result of `audit.verify`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditVerifyResult {
    /// Whether every entry is there as it was written.
    pub ok: bool,
    /// Entries that are, from the oldest on.
    pub entries: u64,
    /// What is wrong: `no-chain`, `chain-changed`, `missing`, `changed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// Number of the entry where it is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<u64>,
}
