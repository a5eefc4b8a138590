//! API keys: credentials that a tenant gives to programs, each with its own scopes and end.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::NoParams;
use crate::value::{NonEmpty, Positive, Text};

crate::methods! {
    /// Make an API key for the HTTP surfaces (`/v1`, `/tools/invoke`, `/sessions`, `/rpc`); its secret is told in this answer only.
    ApiKeysCreate = "apikeys.create", Operator(Admin), Command, (ApiKeysCreateParams) -> ApiKeysCreateResult, ours;
    /// The API keys of the tenant, without their secrets.
    ApiKeysList = "apikeys.list", Operator(Admin), Query, (NoParams) -> ApiKeysListResult, ours;
    /// End an API key at once, with everything that it let in.
    ApiKeysRevoke = "apikeys.revoke", Operator(Admin), Command, (ApiKeysRevokeParams) -> ApiKeysRevokeResult, ours;
}

crate::params! {
    /// Parameters of `apikeys.create`.
    ApiKeysCreateParams {
        required {
            /// What the key is called; once per tenant.
            "name" name: Text<1, 128>,
        }
        optional {
            /// Scopes of the key (default: `operator.write`).
            "scopes" scopes: Vec<NonEmpty>,
            /// The only agent that the key may use; such a key is refused by `/rpc`.
            "agentId" agent_id: NonEmpty,
            /// Milliseconds from now after which the key is worth nothing (default: never).
            "expiresInMs" expires_in_ms: Positive,
        }
        ignored {}
        refused {}
    }
}

crate::params! {
    /// Parameters of `apikeys.revoke`.
    ApiKeysRevokeParams {
        required {
            /// Id or name of the key.
            "key" key: NonEmpty,
        }
        optional {}
        ignored {}
        refused {}
    }
}

/// An API key without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApiKeyView {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its scopes.
    pub scopes: Vec<String>,
    /// The only agent that it may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<String>,
    /// When it was made, milliseconds since the Unix epoch.
    pub created_at: i64,
    /// From when it is worth nothing, milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
    /// Whether that time has come.
    pub expired: bool,
    /// When it was used last, to the minute, milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<i64>,
}

/// Result of `apikeys.create`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ApiKeysCreateResult {
    /// The key.
    pub key: ApiKeyView,
    /// The bearer. It is kept nowhere: whoever loses it makes another key.
    pub secret: String,
}

/// Result of `apikeys.list`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ApiKeysListResult {
    /// The keys, the oldest first.
    pub keys: Vec<ApiKeyView>,
}

/// Result of `apikeys.revoke`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ApiKeysRevokeResult {
    /// Always true.
    pub ok: bool,
    /// Id of the key that ended.
    pub id: String,
    /// Its name.
    pub name: String,
}
