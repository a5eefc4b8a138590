//! Devices: who may connect as what, requests of those who want to, and the tokens that they hold.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::NoParams;
use crate::value::{NonEmpty, Text};

crate::methods! {
    /// Devices that are paired with this tenant, and requests that wait for an operator.
    DevicePairList = "device.pair.list", Operator(Pairing), Query, (NoParams) -> DevicePairListResult;
    /// Let a waiting device in, with the role and scopes that it asked for; nobody can give what they do not have.
    DevicePairApprove = "device.pair.approve", Operator(Pairing), Command, (DeviceRequestParams) -> DevicePairApproveResult;
    /// Turn a waiting device down.
    DevicePairReject = "device.pair.reject", Operator(Pairing), Command, (DeviceRequestParams) -> DevicePairRejectResult;
    /// Forget a device: its tokens end, and its connections within a second.
    DevicePairRemove = "device.pair.remove", Operator(Pairing), Command, (DevicePairRemoveParams) -> DevicePairRemoveResult;
    /// Give a device a name that operators see.
    DevicePairRename = "device.pair.rename", Operator(Pairing), Command, (DevicePairRenameParams) -> DevicePairRenameResult;
    /// Replace the token of a device in a role; the old one ends at once. The new one is told only to the device itself.
    DeviceTokenRotate = "device.token.rotate", Operator(Pairing), Command, (DeviceTokenRotateParams) -> DeviceTokenRotateResult;
    /// End the token of a device in a role; to come back it needs a new approval.
    DeviceTokenRevoke = "device.token.revoke", Operator(Pairing), Command, (DeviceTokenRevokeParams) -> DeviceTokenRevokeResult;
    /// Ask an operator for more scopes for the device of this connection; for operators that proved a device, with any scopes.
    DeviceScopesRequestUpgrade = "device.scopes.requestUpgrade", Any, Command, (DeviceScopesRequestUpgradeParams) -> DeviceScopesRequestUpgradeResult;
    /// Wait until an operator has decided about what `device.scopes.requestUpgrade` asked for, or the request has run out. The new token
    /// is told to its device only; the connection that asked ends soon after.
    DeviceScopesWaitUpgrade = "device.scopes.waitUpgrade", Any, Wait, (DeviceRequestParams) -> DeviceScopesWaitUpgradeResult;
}

crate::params! {
    /// Parameters of `device.pair.approve`, `device.pair.reject` and `device.scopes.waitUpgrade`.
    DeviceRequestParams {
        required {
            /// Id of the request.
            "requestId" request_id: NonEmpty,
        }
        optional {}
        ignored {}
        refused {}
    }
}

crate::params! {
    /// Parameters of `device.pair.remove`.
    DevicePairRemoveParams {
        required {
            /// Id of the device.
            "deviceId" device_id: NonEmpty,
        }
        optional {}
        ignored {}
        refused {}
    }
}

crate::params! {
    /// Parameters of `device.pair.rename`.
    DevicePairRenameParams {
        required {
            /// Id of the device.
            "deviceId" device_id: NonEmpty,
            /// Its new name.
            "label" label: Text<1, 64>,
        }
        optional {}
        ignored {}
        refused {}
    }
}

crate::params! {
    /// Parameters of `device.token.rotate`.
    DeviceTokenRotateParams {
        required {
            /// Id of the device.
            "deviceId" device_id: NonEmpty,
            /// `operator` or `node`.
            "role" role: NonEmpty,
        }
        optional {
            /// Scopes of the new token: a part of those that the old one has (default: the same).
            "scopes" scopes: Vec<NonEmpty>,
        }
        ignored {}
        refused {}
    }
}

crate::params! {
    /// Parameters of `device.token.revoke`.
    DeviceTokenRevokeParams {
        required {
            /// Id of the device.
            "deviceId" device_id: NonEmpty,
            /// `operator` or `node`.
            "role" role: NonEmpty,
        }
        optional {}
        ignored {}
        refused {}
    }
}

crate::params! {
    /// Parameters of `device.scopes.requestUpgrade`.
    DeviceScopesRequestUpgradeParams {
        required {
            /// The scopes that the device is to have: those of the connection, and more.
            "scopes" scopes: Vec<NonEmpty>,
        }
        optional {}
        ignored {}
        refused {}
    }
}

/// Result of `device.scopes.requestUpgrade`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeviceScopesRequestUpgradeResult {
    /// Id of the request: what `device.pair.approve` and `device.scopes.waitUpgrade` take. The same for the same question.
    pub request_id: String,
}

/// Result of `device.scopes.waitUpgrade`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeviceScopesWaitUpgradeResult {
    /// `approved`, `rejected` or `expired` (also where another request took its place).
    pub status: String,
    /// The request.
    pub request_id: String,
    /// The token from now on, if it was approved; the one before has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_token: Option<String>,
    /// Its scopes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Vec<String>>,
}

/// A request that waits for an operator. Also the payload of `device.pair.requested`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeviceRequestView {
    /// Its id: what `device.pair.approve` takes.
    pub request_id: String,
    /// The device: lower-case hex SHA-256 of its public key.
    pub device_id: String,
    /// Its Ed25519 public key, base64url without padding.
    pub public_key: String,
    /// The name that it gives itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Its platform, in its own words.
    pub platform: String,
    /// Its device family, in its own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_family: Option<String>,
    /// `client.id` of its connection.
    pub client_id: String,
    /// `client.mode` of its connection.
    pub client_mode: String,
    /// The role that it asks for.
    pub role: String,
    /// The same as a list.
    pub roles: Vec<String>,
    /// The scopes that it asks for.
    pub scopes: Vec<String>,
    /// Where it asks from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_ip: Option<String>,
    /// Always false: what may be approved without a person never waits.
    pub silent: bool,
    /// Whether the device is paired already and asks for more, or changed.
    pub is_repair: bool,
    /// When it asked, milliseconds since the Unix epoch.
    pub ts: i64,
    /// When the request ends by itself, milliseconds since the Unix epoch.
    pub expires_at_ms: i64,
}

/// A token of a device without its secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeviceTokenView {
    /// The role that it is for.
    pub role: String,
    /// Its scopes.
    pub scopes: Vec<String>,
    /// When the device got its first token in this role, milliseconds since the Unix epoch.
    pub created_at_ms: i64,
    /// When it was replaced last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotated_at_ms: Option<i64>,
    /// When it was ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at_ms: Option<i64>,
    /// When it was used last, to the minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_at_ms: Option<i64>,
}

/// A paired device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PairedDeviceView {
    /// Lower-case hex SHA-256 of its public key.
    pub device_id: String,
    /// Its Ed25519 public key, base64url without padding.
    pub public_key: String,
    /// The name that it gives itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// The name that an operator gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator_label: Option<String>,
    /// Its platform as it was approved.
    pub platform: String,
    /// Its device family as it was approved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_family: Option<String>,
    /// `client.id` as it was approved.
    pub client_id: String,
    /// `client.mode` as it was approved.
    pub client_mode: String,
    /// Its first role.
    pub role: String,
    /// The roles that it may connect in now.
    pub roles: Vec<String>,
    /// The scopes that it may ask for as an operator.
    pub scopes: Vec<String>,
    /// `operator`, `silent` or `bootstrap`.
    pub approved_via: String,
    /// When it was paired first, milliseconds since the Unix epoch.
    pub created_at_ms: i64,
    /// When it was approved last, milliseconds since the Unix epoch.
    pub approved_at_ms: i64,
    /// When it connected last, to the minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen_at_ms: Option<i64>,
    /// Why it was seen then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen_reason: Option<String>,
    /// Whether it is connected now.
    pub connected: bool,
    /// Its tokens, without their secrets.
    pub tokens: Vec<DeviceTokenView>,
}

/// Result of `device.pair.list`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DevicePairListResult {
    /// Requests, the oldest first.
    pub pending: Vec<DeviceRequestView>,
    /// Devices, the newest approval first.
    pub paired: Vec<PairedDeviceView>,
}

/// Result of `device.pair.approve`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DevicePairApproveResult {
    /// The request.
    pub request_id: String,
    /// The device as it is now.
    pub device: PairedDeviceView,
}

/// Result of `device.pair.reject`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DevicePairRejectResult {
    /// The request.
    pub request_id: String,
    /// The device that asked.
    pub device_id: String,
}

/// Result of `device.pair.remove`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DevicePairRemoveResult {
    /// The device.
    pub device_id: String,
}

/// Result of `device.pair.rename`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DevicePairRenameResult {
    /// The device.
    pub device_id: String,
    /// Its name now.
    pub label: String,
}

/// Result of `device.token.rotate`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeviceTokenRotateResult {
    /// The device.
    pub device_id: String,
    /// The role of the token.
    pub role: String,
    /// Its scopes.
    pub scopes: Vec<String>,
    /// When it was replaced, milliseconds since the Unix epoch.
    pub rotated_at_ms: i64,
    /// `in-band` when the device itself asked and the token is in this answer, else `withheld-cross-device`: the device gets it
    /// when it connects next.
    pub token_delivery: String,
    /// The new token; for the device itself only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// Result of `device.token.revoke`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeviceTokenRevokeResult {
    /// The device.
    pub device_id: String,
    /// The role of the token.
    pub role: String,
    /// When it ended, milliseconds since the Unix epoch.
    pub revoked_at_ms: i64,
}

/// Payload of `device.pair.resolved`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DevicePairResolvedPayload {
    /// The request.
    pub request_id: String,
    /// The device that asked.
    pub device_id: String,
    /// `approved` or `rejected`.
    pub decision: String,
    /// When, milliseconds since the Unix epoch.
    pub ts: i64,
}

/// Payload of `device.pair.changed`: nothing; `device.pair.list` says what is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct DevicePairChangedPayload {}
