//! Setup codes: one scan or paste in the place of a token and an approval.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::value::{NonEmpty, Text};

crate::methods! {
    /// Make a setup code: whoever has it pairs one device, once, within ten minutes, with rights that are fixed now.
    DevicePairSetupCode = "device.pair.setupCode", Operator(Admin), Command, (DevicePairSetupCodeParams) -> DevicePairSetupCodeResult, hidden;
    /// Whether a setup code was used, and by which device.
    DevicePairSetupStatus = "device.pair.setupStatus", Operator(Admin), Query, (DevicePairSetupStatusParams) -> DevicePairSetupStatusResult, hidden;
}

/// What stands before a setup code in a link.
pub const SETUP_SCHEME: &str = "oc-pair://";

/// What a setup code gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SetupAccess {
    /// A node, and an operator with every scope.
    #[default]
    Full,
    /// A node, and an operator that can talk, look and answer approvals.
    Limited,
    /// A node.
    Node,
}

impl SetupAccess {
    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            SetupAccess::Full => "full",
            SetupAccess::Limited => "limited",
            SetupAccess::Node => "node",
        }
    }

    /// The access of this name.
    pub fn from_name(name: &str) -> Option<SetupAccess> {
        [SetupAccess::Full, SetupAccess::Limited, SetupAccess::Node]
            .into_iter()
            .find(|a| a.as_str() == name)
    }
}

crate::params! {
    /// Parameters of `device.pair.setupCode`.
    DevicePairSetupCodeParams {
        required {}
        optional {
            /// Address of the gateway as the device reaches it, `wss://host[:port][/path]`; `ws://` on this machine only. Default: its name in
            /// the tailnet, the first host name of the tenant, or the address that the gateway listens on with TLS.
            "publicUrl" public_url: NonEmpty,
            /// `limited` or `node`; left out: everything that the caller may.
            "bootstrapProfile" bootstrap_profile: SetupAccess,
            /// Whether the answer has a picture to scan.
            "includeQr" include_qr: bool,
        }
        ignored {
            "preferRemoteUrl": "The address is this gateway's own.",
        }
        refused {
            "joinUrl": "Join links are not served.",
        }
    }
}

crate::params! {
    /// Parameters of `device.pair.setupStatus`.
    DevicePairSetupStatusParams {
        required {
            /// Id of the setup code.
            "setupId" setup_id: Text<1, 128>,
        }
        optional {}
        ignored {}
        refused {}
    }
}

/// Result of `device.pair.setupCode`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DevicePairSetupCodeResult {
    /// base64url of the JSON [`SetupPayload`]; `oc-pair://` before it makes a link of it. It is told in this answer only.
    pub setup_code: String,
    /// The address in it.
    pub gateway_url: String,
    /// How the tenant's operators prove themselves otherwise: `token` or `password`.
    pub auth: String,
    /// Where the address comes from: `param`, `tailscale`, `tenant-host` or `bind`.
    pub url_source: String,
    /// A PNG of it as a `data:` address, where one was asked for and the code is short enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qr_data_url: Option<String>,
    /// Its id, for `device.pair.setupStatus`.
    pub setup_id: String,
    /// What it gives.
    pub access: SetupAccess,
    /// When it ends, milliseconds since the Unix epoch.
    pub expires_at_ms: i64,
}

/// What a setup code says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SetupPayload {
    /// Address of the gateway.
    pub url: String,
    /// The credential, for one connect.
    pub bootstrap_token: String,
    /// When it ends, milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at_ms: Option<i64>,
    /// SHA-256 of the gateway's certificate (DER), lower-case hex, to be pinned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_fingerprint: Option<String>,
}

/// Result of `device.pair.setupStatus`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DevicePairSetupStatusResult {
    /// Who used it; absent while nobody did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion: Option<SetupCompletion>,
}

/// A setup code that was used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SetupCompletion {
    /// Its id.
    pub setup_id: String,
    /// The device.
    pub device_id: String,
    /// What it got.
    pub access: SetupAccess,
    /// When, milliseconds since the Unix epoch.
    pub ts: i64,
    /// The name that the device gives itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_name: Option<String>,
}
