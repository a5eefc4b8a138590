//! The handshake: `connect` parameters, `hello-ok`, and every way in which it is refused.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::system::{HealthSnapshot, PresenceEntry};
use crate::error::{DetailCode, RpcError};
use crate::frame::{Close, StateVersion};
use crate::method::Params as _;
use crate::value::{NonEmpty, Positive, Text};
use crate::{MIN_PROBE_PROTOCOL, PROTOCOL_VERSION, json, validate};

crate::methods! {
    /// The handshake of a v4 socket: its first request, and only that.
    Connect = "connect", Operator(Admin), Command, (ConnectParams) -> HelloOk, hidden;
}

/// The clients that the protocol knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum ClientId {
    WebchatUi,
    OpenclawControlUi,
    OpenclawBrowserCopilot,
    OpenclawTui,
    Webchat,
    Cli,
    #[default]
    GatewayClient,
    OpenclawMacos,
    OpenclawLinux,
    OpenclawIos,
    OpenclawWatchos,
    OpenclawAndroid,
    NodeHost,
    OpenclawWorker,
    Test,
    Fingerprint,
    OpenclawProbe,
}

/// How a client is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum ClientMode {
    Webchat,
    Cli,
    Ui,
    #[default]
    Backend,
    Node,
    Worker,
    Probe,
    Test,
}

macro_rules! wire_name {
    ($($type:ty),*) => { $(
        impl $type {
            /// The name on the wire.
            pub fn as_str(&self) -> String {
                match serde_json::to_value(self) {
                    Ok(Value::String(name)) => name,
                    _ => String::new(),
                }
            }
        }
    )* };
}
wire_name!(ClientId, ClientMode);

/// Who connects.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClientInfo {
    /// Which client.
    pub id: ClientId,
    /// Name to show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<NonEmpty>,
    /// Its version.
    pub version: NonEmpty,
    /// Its build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_id: Option<Text<1, 96>>,
    /// Its platform, free text.
    pub platform: NonEmpty,
    /// Its device family.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_family: Option<NonEmpty>,
    /// Its model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_identifier: Option<NonEmpty>,
    /// Its time zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<Text<1, 64>>,
    /// How it is used.
    pub mode: ClientMode,
    /// Chosen by the client, the same over reconnects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_id: Option<NonEmpty>,
}

/// Credentials of a connection.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConnectAuth {
    /// Gateway token, or a device token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Bootstrap token of a setup code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap_token: Option<String>,
    /// Device token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_token: Option<String>,
    /// Gateway password; the token is accepted here too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// Only for OpenClaw's own parts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval_runtime_token: Option<String>,
    /// Only for OpenClaw's own parts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_runtime_identity_token: Option<String>,
}

impl std::fmt::Debug for ConnectAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Which credentials were given may be logged; what they are may not.
        f.debug_struct("ConnectAuth")
            .field("token", &self.token.is_some())
            .field("bootstrap_token", &self.bootstrap_token.is_some())
            .field("device_token", &self.device_token.is_some())
            .field("password", &self.password.is_some())
            .finish_non_exhaustive()
    }
}

/// A device identity and its proof.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConnectDevice {
    /// Lower-case hex SHA-256 of the raw public key.
    pub id: NonEmpty,
    /// Ed25519 public key, base64url without padding (or PEM).
    pub public_key: NonEmpty,
    /// Signature over the payload of the protocol.
    pub signature: NonEmpty,
    /// When it was signed, milliseconds since the Unix epoch.
    pub signed_at: u64,
    /// The nonce of the challenge.
    pub nonce: NonEmpty,
}

/// Parameters of `connect`. A closed object: unknown names are refused.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConnectParams {
    /// Oldest protocol version that the client speaks.
    pub min_protocol: Positive,
    /// Newest protocol version that the client speaks.
    pub max_protocol: Positive,
    /// Who connects.
    #[serde(deserialize_with = "json::by_name")]
    pub client: ClientInfo,
    /// Feature flags (operators) or capability groups (nodes).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caps: Option<Vec<NonEmpty>>,
    /// Commands of a node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commands: Option<Vec<NonEmpty>>,
    /// Permissions of a node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permissions: Option<BTreeMap<String, bool>>,
    /// Search path of a node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_env: Option<String>,
    /// `operator` (default) or `node`; see [`ConnectParams::role`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<NonEmpty>,
    /// Scopes that the client asks for, also unknown ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Vec<NonEmpty>>,
    /// Device identity.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "json::by_name_if_any"
    )]
    pub device: Option<ConnectDevice>,
    /// Credentials.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "json::by_name_if_any"
    )]
    pub auth: Option<ConnectAuth>,
    /// Language of the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locale: Option<String>,
    /// Its user agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
    /// Node facts; accepted without effect.
    #[serde(default, skip_serializing)]
    pub computer_use: Option<Value>,
    /// Worker facts; accepted without effect.
    #[serde(default, skip_serializing)]
    pub worker_runs: Option<Value>,
    /// Asks for a `models.snapshot` event that this gateway does not announce; accepted without effect.
    #[serde(default, skip_serializing)]
    pub model_catalog: Option<Value>,
}

use crate::method::{ConnRole, ParamSpec, Rule};

const fn row(name: &'static str, rule: Rule, doc: &'static str) -> ParamSpec {
    ParamSpec { name, rule, doc }
}

impl crate::method::Params for ConnectParams {
    const PARAMS: &'static [ParamSpec] = &[
        row(
            "minProtocol",
            Rule::Honoured,
            "Oldest protocol version that the client speaks.",
        ),
        row(
            "maxProtocol",
            Rule::Honoured,
            "Newest protocol version that the client speaks.",
        ),
        row("client", Rule::Honoured, "Who connects."),
        row(
            "caps",
            Rule::Honoured,
            "Of operators `tool-events` and `session-scoped-events` are known, others have no effect; of nodes the groups of their commands.",
        ),
        row("role", Rule::Honoured, "`operator` or `node`."),
        row("scopes", Rule::Honoured, "Scopes that the client asks for."),
        row(
            "auth",
            Rule::Honoured,
            "`token`, `password`, `deviceToken` and `bootstrapToken`; the others have no effect.",
        ),
        row(
            "device",
            Rule::Honoured,
            "Proof of a device identity: Ed25519 over the challenge's nonce, versions v3 and v2.",
        ),
        row(
            "commands",
            Rule::Honoured,
            "What a node offers; has to be approved before it can be called.",
        ),
        row(
            "permissions",
            Rule::Honoured,
            "Permissions that a node has on its machine; shown.",
        ),
        row(
            "pathEnv",
            Rule::Honoured,
            "Search path of a node; shown while it is connected.",
        ),
        row(
            "computerUse",
            Rule::Ignored,
            "Nobody's desktop is operated.",
        ),
        row(
            "workerRuns",
            Rule::Ignored,
            "Nothing runs on nodes but their commands.",
        ),
        row(
            "modelCatalog",
            Rule::Ignored,
            "Only for gateways that announce `model-catalog-snapshot`.",
        ),
        row("locale", Rule::Ignored, "Texts are English."),
        row("userAgent", Rule::Ignored, "Not shown."),
    ];
}

impl ConnectParams {
    /// As [`Self::parse`] without its words: as strict as the schema, and quick.
    pub fn quick(raw: &RawValue) -> Option<ConnectParams> {
        // A derived struct would also read an array, by position.
        let by_name = raw.get().starts_with('{');
        by_name.then(|| serde_json::from_str(raw.get()).ok())?
    }

    /// Reads the parameters of a first frame: closed, no key twice, at most
    /// [`crate::limits::JSON_MAX_DEPTH`] levels. The error is complete, with its close.
    pub fn parse(raw: Option<&RawValue>) -> Result<ConnectParams, ConnectRefusal> {
        let refuse = |problem: String| {
            let error = RpcError::new(
                DetailCode::InvalidParams,
                format!("invalid connect params: {problem}"),
            );
            ConnectRefusal::closing(error, Close::POLICY)
        };
        let text = raw.map_or("null", RawValue::get);
        let value =
            json::parse_strict(text.as_bytes()).map_err(|e| refuse(format!("at root: {e}")))?;
        let schema = crate::method::schema_of::<ConnectParams>();
        if let Some(problems) = validate::problems(schema.as_value(), &value) {
            return Err(refuse(problems));
        }
        serde_json::from_value(value).map_err(|e| refuse(format!("at root: {e}")))
    }

    /// The role, after the default.
    pub fn role(&self) -> Result<ConnRole, ConnectRefusal> {
        match self.role.as_deref() {
            None | Some("operator") => Ok(ConnRole::Operator),
            Some("node") => Ok(ConnRole::Node),
            Some(_) => Err(ConnectRefusal::closing(
                RpcError::new(DetailCode::InvalidFrame, "invalid role"),
                Close::POLICY,
            )),
        }
    }

    /// Checks the version window. Probes, and nodes in mode `node`, may end one version earlier.
    pub fn check_protocol(&self) -> Result<(), ConnectRefusal> {
        let (min, max) = (self.min_protocol.get(), self.max_protocol.get());
        let lenient = self.client.mode == ClientMode::Probe
            || (self.client.mode == ClientMode::Node && self.role.as_deref() == Some("node"));
        let oldest = if lenient {
            MIN_PROBE_PROTOCOL
        } else {
            PROTOCOL_VERSION
        };
        if min <= u64::from(PROTOCOL_VERSION) && max >= u64::from(oldest) && min <= max {
            return Ok(());
        }
        let error = RpcError::new(DetailCode::ProtocolMismatch, "protocol mismatch")
            .with("clientMinProtocol", min)
            .with("clientMaxProtocol", max)
            .with("expectedProtocol", PROTOCOL_VERSION)
            .with("minimumProbeProtocol", MIN_PROBE_PROTOCOL);
        Err(ConnectRefusal::closing(error, Close::PROTOCOL))
    }

    /// The scopes that were asked for, verbatim.
    pub fn requested_scopes(&self) -> Vec<String> {
        self.scopes
            .iter()
            .flatten()
            .map(|s| s.as_str().to_owned())
            .collect()
    }

    /// Whether the client announced a capability.
    pub fn has_cap(&self, name: &str) -> bool {
        self.caps.iter().flatten().any(|c| c.as_str() == name)
    }
}

/// A refused handshake: the response, then the close.
#[derive(Clone, Debug, PartialEq)]
pub struct ConnectRefusal {
    /// Goes out as the response to `connect`.
    pub error: RpcError,
    /// Then the socket is closed.
    pub close: Close,
}

/// Why the proof of a device identity was refused, with its code, reason and message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum ProofFault {
    IdMismatch,
    Stale,
    NonceMissing,
    NonceMismatch,
    SignatureInvalid,
}

impl ProofFault {
    /// All, in the order in which they are looked for.
    pub const ALL: [ProofFault; 5] = [
        ProofFault::IdMismatch,
        ProofFault::Stale,
        ProofFault::NonceMissing,
        ProofFault::NonceMismatch,
        ProofFault::SignatureInvalid,
    ];

    /// The error of this fault: its message is also the reason of the close.
    pub fn error(self) -> RpcError {
        let (code, reason, message) = match self {
            ProofFault::IdMismatch => (
                DetailCode::DeviceIdMismatch,
                "device-id-mismatch",
                "device identity mismatch",
            ),
            ProofFault::Stale => (
                DetailCode::DeviceSignatureExpired,
                "device-signature-stale",
                "device signature expired",
            ),
            ProofFault::NonceMissing => (
                DetailCode::DeviceNonceRequired,
                "device-nonce-missing",
                "device nonce required",
            ),
            ProofFault::NonceMismatch => (
                DetailCode::DeviceNonceMismatch,
                "device-nonce-mismatch",
                "device nonce mismatch",
            ),
            ProofFault::SignatureInvalid => (
                DetailCode::DeviceSignatureInvalid,
                "device-signature",
                "device signature invalid",
            ),
        };
        RpcError::new(code, message).with("reason", reason)
    }
}

/// Why a device has to be approved before it is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PairingReason {
    /// The device is not known.
    NotPaired,
    /// It asks for a role that it was not approved for.
    RoleUpgrade,
    /// It asks for scopes that it was not approved for.
    ScopeUpgrade,
    /// It says that it is another platform or device family than the one that was approved.
    MetadataUpgrade,
}

impl PairingReason {
    /// All reasons.
    pub const ALL: [PairingReason; 4] = [
        PairingReason::NotPaired,
        PairingReason::RoleUpgrade,
        PairingReason::ScopeUpgrade,
        PairingReason::MetadataUpgrade,
    ];

    /// `details.reason`.
    pub const fn as_str(self) -> &'static str {
        match self {
            PairingReason::NotPaired => "not-paired",
            PairingReason::RoleUpgrade => "role-upgrade",
            PairingReason::ScopeUpgrade => "scope-upgrade",
            PairingReason::MetadataUpgrade => "metadata-upgrade",
        }
    }

    /// The reason of this name.
    pub fn from_name(name: &str) -> Option<PairingReason> {
        PairingReason::ALL.into_iter().find(|r| r.as_str() == name)
    }

    const fn requirement(self) -> &'static str {
        match self {
            PairingReason::NotPaired => "device is not approved yet",
            PairingReason::RoleUpgrade => {
                "device is asking for a higher role than currently approved"
            }
            PairingReason::ScopeUpgrade => {
                "device is asking for more scopes than currently approved"
            }
            PairingReason::MetadataUpgrade => "device identity changed and must be re-approved",
        }
    }

    const fn hint(self) -> &'static str {
        match self {
            PairingReason::NotPaired => "Approve this device from the pending pairing requests.",
            PairingReason::RoleUpgrade => {
                "Review the requested role upgrade, then approve the pending request."
            }
            PairingReason::ScopeUpgrade => {
                "Review the requested scopes, then approve the pending upgrade."
            }
            PairingReason::MetadataUpgrade => {
                "Review the refreshed device details, then approve the pending request."
            }
        }
    }
}

/// What a refused device is told about its request.
#[derive(Clone, Debug)]
pub struct PairingRequired<'a> {
    /// Why.
    pub reason: PairingReason,
    /// The request that waits for an operator.
    pub request_id: &'a str,
    /// The device.
    pub device_id: &'a str,
    /// The role that it asked for.
    pub role: &'a str,
    /// The scopes that it asked for.
    pub scopes: &'a [String],
    /// The roles that it has; empty for a device that is not known.
    pub approved_roles: Vec<String>,
    /// The scopes that it has.
    pub approved_scopes: Vec<String>,
}

/// Why a credential was refused, with its code, next step and message: the one table of the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum AuthReason {
    TokenMissing,
    TokenMissingConfig,
    TokenMismatch,
    PasswordMissing,
    PasswordMissingConfig,
    PasswordMismatch,
    DeviceTokenMismatch,
    ScopeMismatch,
    BootstrapTokenInvalid,
    RateLimited,
    None,
    Other,
}

/// A row of the table of authentication failures.
#[derive(Clone, Copy, Debug)]
pub struct AuthRow {
    /// `details.authReason`.
    pub reason: &'static str,
    /// `details.code`.
    pub code: DetailCode,
    /// `details.recommendedNextStep`.
    pub next_step: &'static str,
    /// The message, after `unauthorized: `.
    pub text: &'static str,
}

impl AuthReason {
    /// All reasons.
    pub const ALL: [AuthReason; 12] = [
        AuthReason::TokenMissing,
        AuthReason::TokenMissingConfig,
        AuthReason::TokenMismatch,
        AuthReason::PasswordMissing,
        AuthReason::PasswordMissingConfig,
        AuthReason::PasswordMismatch,
        AuthReason::DeviceTokenMismatch,
        AuthReason::ScopeMismatch,
        AuthReason::BootstrapTokenInvalid,
        AuthReason::RateLimited,
        AuthReason::None,
        AuthReason::Other,
    ];

    /// The row of this reason.
    pub const fn row(self) -> AuthRow {
        const fn row(
            reason: &'static str,
            code: DetailCode,
            next_step: &'static str,
            text: &'static str,
        ) -> AuthRow {
            AuthRow {
                reason,
                code,
                next_step,
                text,
            }
        }
        const CONFIGURE: &str = "update_auth_configuration";
        const CREDENTIALS: &str = "update_auth_credentials";
        const REVIEW: &str = "review_auth_configuration";
        use DetailCode as C;
        match self {
            AuthReason::TokenMissing => row(
                "token_missing",
                C::AuthTokenMissing,
                CONFIGURE,
                "gateway token missing (provide gateway auth token)",
            ),
            AuthReason::TokenMissingConfig => row(
                "token_missing_config",
                C::AuthTokenNotConfigured,
                CONFIGURE,
                "gateway token not configured (set gateway.auth.token)",
            ),
            AuthReason::TokenMismatch => row(
                "token_mismatch",
                C::AuthTokenMismatch,
                CREDENTIALS,
                "gateway token mismatch (provide gateway auth token)",
            ),
            AuthReason::PasswordMissing => row(
                "password_missing",
                C::AuthPasswordMissing,
                CONFIGURE,
                "gateway password missing (provide gateway auth password)",
            ),
            AuthReason::PasswordMissingConfig => row(
                "password_missing_config",
                C::AuthPasswordNotConfigured,
                CONFIGURE,
                "gateway password not configured (set gateway.auth.password)",
            ),
            AuthReason::PasswordMismatch => row(
                "password_mismatch",
                C::AuthPasswordMismatch,
                CREDENTIALS,
                "gateway password mismatch (provide gateway auth password)",
            ),
            AuthReason::DeviceTokenMismatch => row(
                "device_token_mismatch",
                C::AuthDeviceTokenMismatch,
                CREDENTIALS,
                "device token mismatch (rotate/reissue device token)",
            ),
            AuthReason::ScopeMismatch => row(
                "scope_mismatch",
                C::AuthScopeMismatch,
                REVIEW,
                "device token scope mismatch (re-pair or approve scope upgrade)",
            ),
            AuthReason::BootstrapTokenInvalid => row(
                "bootstrap_token_invalid",
                C::AuthBootstrapTokenInvalid,
                REVIEW,
                "bootstrap token invalid or expired",
            ),
            AuthReason::RateLimited => row(
                "rate_limited",
                C::AuthRateLimited,
                "wait_then_retry",
                "too many failed authentication attempts (retry later)",
            ),
            AuthReason::None => row(
                "none",
                C::AuthRequired,
                REVIEW,
                "gateway authentication required",
            ),
            AuthReason::Other => row(
                "unauthorized",
                C::AuthUnauthorized,
                REVIEW,
                "gateway authentication failed",
            ),
        }
    }

    /// The error of a refused credential. `can_retry_with_device_token` is for a mismatched token of a client
    /// with a device identity that sent no device token.
    pub fn error(self, can_retry_with_device_token: bool) -> RpcError {
        let row = self.row();
        let next = if can_retry_with_device_token {
            "retry_with_device_token"
        } else {
            row.next_step
        };
        RpcError::new(row.code, format!("unauthorized: {}", row.text))
            .with("authReason", row.reason)
            .with("canRetryWithDeviceToken", can_retry_with_device_token)
            .with("recommendedNextStep", next)
    }
}

impl ConnectRefusal {
    /// An error whose message is also the reason of the close.
    pub fn closing(error: RpcError, code: u16) -> ConnectRefusal {
        let close = Close::new(code, &error.message);
        ConnectRefusal { error, close }
    }

    /// A refused credential.
    pub fn unauthorized(reason: AuthReason, can_retry_with_device_token: bool) -> ConnectRefusal {
        ConnectRefusal::closing(reason.error(can_retry_with_device_token), Close::POLICY)
    }

    /// Too many failures from this address; wait so many milliseconds.
    pub fn rate_limited(retry_after_ms: u64) -> ConnectRefusal {
        let error = AuthReason::RateLimited
            .error(false)
            .retry_after_ms(retry_after_ms);
        ConnectRefusal::closing(error, Close::POLICY)
    }

    /// A browser page of a foreign origin.
    pub fn origin_not_allowed() -> ConnectRefusal {
        let text = "origin not allowed (add it to gateway.allowedOrigins)";
        ConnectRefusal::closing(
            RpcError::new(DetailCode::OriginNotAllowed, text),
            Close::POLICY,
        )
    }

    /// A proof of a device identity that does not hold.
    pub fn proof(fault: ProofFault) -> ConnectRefusal {
        ConnectRefusal::closing(fault.error(), Close::POLICY)
    }

    /// The device waits for an operator. The reason of the close holds the request's id early, because reasons are cut.
    pub fn pairing_required(p: &PairingRequired<'_>) -> ConnectRefusal {
        let mut error = RpcError::new(
            DetailCode::PairingRequired,
            format!("pairing required: {}", p.reason.requirement()),
        )
        .with("reason", p.reason.as_str())
        .with("requestId", p.request_id)
        .with("remediationHint", p.reason.hint())
        .with("deviceId", p.device_id)
        .with("requestedRole", p.role);
        if !p.scopes.is_empty() {
            error = error.with("requestedScopes", p.scopes.to_vec());
        }
        if !p.approved_roles.is_empty() {
            error = error
                .with("approvedRoles", p.approved_roles.clone())
                .with("approvedScopes", p.approved_scopes.clone());
        }
        let close = Close::new(
            Close::POLICY,
            &format!(
                "pairing required: (requestId: {}) {}",
                p.request_id,
                p.reason.requirement()
            ),
        );
        ConnectRefusal { error, close }
    }

    /// The Control UI without a device identity.
    pub fn control_ui_device_identity_required() -> ConnectRefusal {
        let error = RpcError::new(
            DetailCode::ControlUiDeviceIdentityRequired,
            "control ui requires device identity (use HTTPS or localhost secure context)",
        );
        ConnectRefusal::closing(error, Close::POLICY)
    }

    /// Neither a credential nor a device identity.
    pub fn device_identity_required() -> ConnectRefusal {
        let error = RpcError::new(
            DetailCode::DeviceIdentityRequired,
            "device identity required",
        );
        ConnectRefusal::closing(error, Close::POLICY)
    }

    /// The gateway is not ready; clients come back after so many milliseconds.
    pub fn starting(retry_after_ms: u64) -> ConnectRefusal {
        let error = RpcError::new(DetailCode::Starting, "gateway starting; retry shortly")
            .with("reason", "startup-sidecars")
            .retry_after_ms(retry_after_ms);
        ConnectRefusal {
            error,
            close: Close::new(Close::STARTING, "gateway starting"),
        }
    }

    /// The gateway stops; clients come back after so many milliseconds.
    pub fn draining(retry_after_ms: u64) -> ConnectRefusal {
        let error = RpcError::new(DetailCode::Draining, "gateway restarting; retry shortly")
            .with("reason", "gateway-restarting")
            .retry_after_ms(retry_after_ms);
        ConnectRefusal {
            error,
            close: Close::new(Close::RESTART, "gateway restarting"),
        }
    }
}

/// The payload of a good `connect`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HelloOk {
    /// `hello-ok`.
    #[serde(rename = "type")]
    pub kind: HelloOkType,
    /// The protocol version of this connection.
    pub protocol: u32,
    /// The gateway.
    pub server: HelloServer,
    /// What it can do.
    pub features: HelloFeatures,
    /// Presence and health now.
    pub snapshot: HelloSnapshot,
    /// What this connection may do.
    pub auth: HelloAuth,
    /// Limits of this connection.
    pub policy: HelloPolicy,
}

/// The constant `hello-ok`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum HelloOkType {
    /// `hello-ok`
    #[default]
    #[serde(rename = "hello-ok")]
    HelloOk,
}

/// The gateway in `hello-ok`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HelloServer {
    /// Version, free text.
    pub version: String,
    /// Id of this connection.
    pub conn_id: String,
    /// New at every start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
}

/// Features in `hello-ok`. Clients call only what is listed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HelloFeatures {
    /// Methods.
    pub methods: Vec<String>,
    /// Events.
    pub events: Vec<String>,
    /// Capabilities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Vec<String>>,
}

impl HelloFeatures {
    /// What this gateway announces. `published-model-catalog` is what the `models list` command wants to see.
    pub fn ours() -> HelloFeatures {
        HelloFeatures {
            methods: crate::method::all()
                .iter()
                .filter(|m| m.advertised)
                .map(|m| m.name.to_owned())
                .collect(),
            events: crate::event::all()
                .iter()
                .map(|e| e.name.to_owned())
                .collect(),
            capabilities: Some(vec!["published-model-catalog".to_owned()]),
        }
    }
}

/// Presence and health in `hello-ok`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HelloSnapshot {
    /// Who is connected; empty for connections without read.
    pub presence: Vec<PresenceEntry>,
    /// The health of the tenant.
    pub health: HealthSnapshot,
    /// Versions of the two.
    pub state_version: StateVersion,
    /// Since when the gateway runs, in milliseconds.
    pub uptime_ms: u64,
    /// What a new session gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_defaults: Option<HelloSessionDefaults>,
    /// `none`, `token`, `password`; for callers with admin only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_mode: Option<String>,
    /// Where the configuration is; for callers with admin only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_path: Option<String>,
    /// Where the state is; for callers with admin only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_dir: Option<String>,
}

/// Session defaults in `hello-ok`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HelloSessionDefaults {
    /// The agent that answers when none is named.
    pub default_agent_id: String,
    /// Whether it has a model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_configured: Option<bool>,
    /// Rest of the key of a main session: `main`.
    pub main_key: String,
    /// The default agent's main session.
    pub main_session_key: String,
    /// How direct messages are spread over sessions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
}

/// Rights in `hello-ok`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HelloAuth {
    /// `operator` or `node`.
    pub role: String,
    /// Granted scopes.
    pub scopes: Vec<String>,
    /// What let the connection in: `none`, `token`, `password`, `device-token`, `bootstrap-token`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The device's token for this role: good for later connections instead of the shared secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_token: Option<String>,
    /// When it was made, milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued_at_ms: Option<i64>,
    /// The device's tokens for other roles, where a setup code gave them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_tokens: Option<Vec<GivenToken>>,
}

/// A token that a setup code gave for another role than that of the connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GivenToken {
    /// The token.
    pub device_token: String,
    /// The role that it is for.
    pub role: String,
    /// Its scopes.
    pub scopes: Vec<String>,
    /// When it was made, milliseconds since the Unix epoch.
    pub issued_at_ms: i64,
}

/// Limits in `hello-ok`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HelloPolicy {
    /// Largest frame from the client, in bytes.
    pub max_payload: u64,
    /// Most bytes that may wait for the client.
    pub max_buffered_bytes: u64,
    /// Milliseconds between ticks.
    pub tick_interval_ms: u64,
}

impl HelloPolicy {
    /// What this gateway keeps to.
    pub const OURS: HelloPolicy = HelloPolicy {
        max_payload: crate::limits::MAX_FRAME_BYTES as u64,
        max_buffered_bytes: crate::limits::MAX_BUFFERED_BYTES as u64,
        tick_interval_ms: crate::limits::TICK_INTERVAL_MS,
    };
}

/// Names that `connect` knows, for the drift test of the table above.
pub fn connect_param_names() -> impl Iterator<Item = &'static str> {
    ConnectParams::PARAMS.iter().map(|p| p.name)
}
