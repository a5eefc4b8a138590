//! The configuration, as it is written and as it counts.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::NoParams;

crate::methods! {
    /// The tenant's configuration with every secret replaced.
    ConfigGet = "config.get", Operator(Read), Query, (NoParams) -> ConfigGetResult;
}

/// What stands in place of a secret.
pub const REDACTED: &str = "__OPENCLAW_REDACTED__";

/// Result of `config.get`. Secrets are [`REDACTED`] everywhere.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigGetResult {
    /// Name of the configuration file; a full path only for callers with admin.
    pub path: String,
    /// Whether the file is there.
    pub exists: bool,
    /// The file's text, redacted; null where a tenant may not see the whole file.
    pub raw: Option<String>,
    /// The file, parsed and redacted.
    pub parsed: Value,
    /// The same without comments and includes.
    pub source_config: Value,
    /// What counts: defaults, environment and flags included.
    pub resolved: Value,
    /// As `resolved`; older clients read it here.
    pub config: Value,
    /// Whether it is in force.
    pub valid: bool,
    /// Hash of what is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    /// What is wrong with it.
    pub issues: Vec<ConfigIssue>,
    /// What is doubtful.
    pub warnings: Vec<ConfigIssue>,
    /// Files that it includes.
    pub included_paths: Vec<String>,
}

/// A problem of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConfigIssue {
    /// Where, as a dotted path.
    pub path: String,
    /// What.
    pub message: String,
}
