//! The configuration, as it is written and as it counts.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::NoParams;
use crate::value::NonEmpty;

crate::methods! {
    /// The tenant's configuration with every secret replaced.
    ConfigGet = "config.get", Operator(Read), Query, (NoParams) -> ConfigGetResult;
    /// Replaces the text of the configuration file. Only for the tenant `main`, whose file it is.
    ConfigSet = "config.set", Operator(Admin), Command, (ConfigSetParams) -> ConfigWriteResult;
    /// Changes values of the configuration file by a JSON merge patch; comments stay. The admins of a tenant other than `main` change some keys of their own part (`ownKeys` of a refusal).
    ConfigPatch = "config.patch", Operator(Admin), Command, (ConfigPatchParams) -> ConfigWriteResult;
    /// Replaces the text of the configuration file, as `config.set`. Only for the tenant `main`.
    ConfigApply = "config.apply", Operator(Admin), Command, (ConfigApplyParams) -> ConfigWriteResult;
    /// The JSON Schema of the configuration file.
    ConfigSchema = "config.schema", Operator(Read), Query, (NoParams) -> ConfigSchemaResult;
    /// What the schema says of one key and of those below it.
    ConfigSchemaLookup = "config.schema.lookup", Operator(Read), Query, (ConfigSchemaLookupParams) -> ConfigSchemaLookupResult;
}

/// What stands in place of a secret.
pub const REDACTED: &str = "__OPENCLAW_REDACTED__";

crate::params! {
    /// Parameters of `config.set`.
    ConfigSetParams {
        required {
            /// The new text (JSON5, comments and all). Where it says `__OPENCLAW_REDACTED__`, what stands in the file stays.
            "raw" raw: NonEmpty,
        }
        optional {
            /// `hash` of the `config.get` that the text was made from; required where there is a file.
            "baseHash" base_hash: NonEmpty,
        }
        ignored {}
        refused {}
    }
}

crate::params! {
    /// Parameters of `config.patch`.
    ConfigPatchParams {
        required {
            /// The patch (a JSON5 object): objects are joined, null takes a key out, anything else replaces.
            "raw" raw: NonEmpty,
        }
        optional {
            /// `hash` of the `config.get` that the patch was made from; required where there is a file.
            "baseHash" base_hash: NonEmpty,
            /// Paths of lists that the patch may take elements out of, at most 256.
            "replacePaths" replace_paths: Vec<String>,
        }
        ignored {
            "sessionKey": "No session is told: the gateway does not restart for an edit.",
            "deliveryContext": "Nobody is told on a channel: the gateway does not restart for an edit.",
            "note": "There is no restart that it could be told at.",
            "restartDelayMs": "The gateway never restarts by itself; changes that need it are named in the answer.",
        }
        refused {}
    }
}

crate::params! {
    /// Parameters of `config.apply`.
    ConfigApplyParams {
        required {
            /// The new text (JSON5, comments and all). Where it says `__OPENCLAW_REDACTED__`, what stands in the file stays.
            "raw" raw: NonEmpty,
        }
        optional {
            /// `hash` of the `config.get` that the text was made from; required where there is a file.
            "baseHash" base_hash: NonEmpty,
        }
        ignored {
            "sessionKey": "No session is told: the gateway does not restart for an edit.",
            "deliveryContext": "Nobody is told on a channel: the gateway does not restart for an edit.",
            "note": "There is no restart that it could be told at.",
            "restartDelayMs": "The gateway never restarts by itself; changes that need it are named in the answer.",
        }
        refused {}
    }
}

crate::params! {
    /// Parameters of `config.schema.lookup`.
    ConfigSchemaLookupParams {
        required {
            /// Dotted path, for example `gateway.auth`; `*` is any key. At most 1024 characters.
            "path" path: NonEmpty,
        }
        optional {}
        ignored {}
        refused {}
    }
}

/// Result of the writing methods.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigWriteResult {
    /// Always true.
    pub ok: bool,
    /// Name of the configuration file.
    pub path: String,
    /// Hash of what is in force now.
    pub hash: String,
    /// Revision of what is in force now.
    pub revision: u64,
    /// What is in force now, with every secret replaced.
    pub config: Value,
    /// Paths of the changed values.
    pub changed_paths: Vec<String>,
    /// Paths of those that count from the next start of the gateway.
    pub restart_needed: Vec<String>,
}

/// Result of `config.schema`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigSchemaResult {
    /// JSON Schema, draft 2020-12. `x-reload` says what a change needs: `live`, `restart-part`, `restart-process`.
    pub schema: Value,
    /// How a form may show keys, by path; `*` is any key.
    pub ui_hints: Value,
    /// Version of the gateway.
    pub version: String,
    /// When it was made (the start of the gateway), ISO 8601.
    pub generated_at: String,
}

/// Result of `config.schema.lookup`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigSchemaLookupResult {
    /// The path.
    pub path: String,
    /// Schema of the value there, without what is below it.
    pub schema: Value,
    /// What a change needs: `hot` or `restart`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reload_kind: Option<String>,
    /// How a form may show it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<ConfigHint>,
    /// Path of the hint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint_path: Option<String>,
    /// The keys below.
    pub children: Vec<ConfigSchemaChild>,
}

/// A key below the one that was looked up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigSchemaChild {
    /// The key; `*` is any.
    pub key: String,
    /// Its path.
    pub path: String,
    /// JSON type, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "type")]
    pub kind: Option<Value>,
    /// Whether it must be there.
    pub required: bool,
    /// Whether there are keys below it.
    pub has_children: bool,
    /// What a change needs: `hot` or `restart`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reload_kind: Option<String>,
    /// How a form may show it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<ConfigHint>,
    /// Path of the hint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint_path: Option<String>,
}

/// How a form may show a key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConfigHint {
    /// What it is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// What it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// Whether it is a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sensitive: Option<bool>,
}

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
    /// Whether the file is what counts.
    pub valid: bool,
    /// Hash of what is in force: `baseHash` of the writing methods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    /// Rises with each applied change that this tenant can see.
    pub revision: u64,
    /// What is wrong with the file; what is shown here was in force before and still is.
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
    /// Line in the file, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// Column, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<u64>,
}
