//! Errors of the wire: one closed table, from which the top-level code, the HTTP status, the JSON-RPC
//! number and the documentation of every error come.

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use crate::scope::Scope;

/// The top-level codes that clients of the v4 protocol know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// The request is wrong; repeating it will not help.
    InvalidRequest,
    /// The caller may not do this.
    Forbidden,
    /// The device is not paired.
    NotPaired,
    /// Something is missing, busy or broken on the gateway's side.
    Unavailable,
    /// There is no such approval.
    ApprovalNotFound,
}

impl ErrorCode {
    /// The code on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            ErrorCode::InvalidRequest => "INVALID_REQUEST",
            ErrorCode::Forbidden => "FORBIDDEN",
            ErrorCode::NotPaired => "NOT_PAIRED",
            ErrorCode::Unavailable => "UNAVAILABLE",
            ErrorCode::ApprovalNotFound => "APPROVAL_NOT_FOUND",
        }
    }
}

/// One row of the error table.
#[derive(Clone, Copy, Debug)]
pub struct ErrorRow {
    /// The row's key.
    pub code: DetailCode,
    /// Its name: `details.code` on the v4 wire, `data.code` in JSON-RPC and HTTP bodies.
    pub name: &'static str,
    /// Whether v4 answers carry `details.code`. The oldest errors of the protocol have no details at all.
    pub in_details: bool,
    /// Top-level code.
    pub top: ErrorCode,
    /// HTTP status.
    pub http: u16,
    /// JSON-RPC error number.
    pub jsonrpc: i32,
    /// Whether the same request may succeed later.
    pub retryable: bool,
    /// One sentence for the documentation.
    pub doc: &'static str,
}

macro_rules! error_table {
    ($( $variant:ident, $name:literal, $details:ident, $top:ident, $http:literal, $rpc:literal, $retry:ident, $doc:literal; )*) => {
        /// What exactly went wrong. Closed: every error that leaves the gateway is one of these.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum DetailCode {
            $( #[doc = $doc] $variant, )*
        }

        /// The table, in the order of [`DetailCode`].
        static TABLE: &[ErrorRow] = &[
            $( ErrorRow {
                code: DetailCode::$variant,
                name: $name,
                in_details: error_table!(@details $details),
                top: ErrorCode::$top,
                http: $http,
                jsonrpc: $rpc,
                retryable: error_table!(@retry $retry),
                doc: $doc,
            }, )*
        ];
    };
    (@details details) => { true };
    (@details bare) => { false };
    (@retry retry) => { true };
    (@retry final) => { false };
}

error_table! {
    // variant, name, v4 details?, top-level code, HTTP, JSON-RPC, retry?, doc
    ParseError, "PARSE_ERROR", bare, InvalidRequest, 400, -32700, final, "The bytes are not JSON.";
    InvalidFrame, "INVALID_FRAME", bare, InvalidRequest, 400, -32600, final, "The JSON is not a request.";
    UnknownMethod, "UNKNOWN_METHOD", bare, InvalidRequest, 404, -32601, final, "There is no method of this name.";
    InvalidParams, "INVALID_PARAMS", bare, InvalidRequest, 400, -32602, final, "The parameters do not have the shape that the method publishes.";
    UnsupportedParam, "UNSUPPORTED_PARAM", details, InvalidRequest, 400, -32602, final, "The parameter is published but this gateway cannot do what it asks for; `param` names it.";
    InvalidRequest, "INVALID_REQUEST", bare, InvalidRequest, 400, -32602, final, "The request makes no sense in the present state.";
    InvalidSessionKey, "INVALID_SESSION_KEY", details, InvalidRequest, 400, -32602, final, "The session key breaks the grammar of session keys.";
    WrongRole, "WRONG_ROLE", bare, InvalidRequest, 403, -32003, final, "The method is not for connections of this role.";
    MissingScope, "MISSING_SCOPE", details, Forbidden, 403, -32003, final, "The caller lacks a scope; `missingScope` and `requiredScopes` name it.";
    CapabilityDenied, "CAPABILITY_DENIED", details, Forbidden, 403, -32003, final, "A guest or boot script asked for something that its grant does not include.";
    NotFound, "NOT_FOUND", details, InvalidRequest, 404, -32004, final, "There is no such object for this caller. Objects of other tenants are reported the same way.";
    UnknownAgent, "UNKNOWN_AGENT_ID", details, InvalidRequest, 404, -32004, final, "There is no agent of this id; `agentId` repeats it.";
    CronJobNotFound, "CRON_JOB_NOT_FOUND", details, InvalidRequest, 404, -32004, final, "There is no such job for this caller; `jobId` repeats the id.";
    Conflict, "CONFLICT", details, InvalidRequest, 409, -32009, final, "The object changed, or already exists.";
    IdempotencyConflict, "IDEMPOTENCY_CONFLICT", details, InvalidRequest, 409, -32009, final, "The idempotency key was used before with other parameters.";
    SessionChanged, "SESSION_CHANGED", details, InvalidRequest, 409, -32009, final, "The session is not the one that the caller expected.";
    PayloadTooLarge, "PAYLOAD_TOO_LARGE", details, InvalidRequest, 413, -32013, final, "A text, frame or body is larger than the limit that `limitBytes` names.";
    RateLimited, "RATE_LIMITED", details, Unavailable, 429, -32029, retry, "Too many calls; wait for `retryAfterMs`.";
    QuotaExceeded, "QUOTA_EXCEEDED", details, Unavailable, 429, -32029, final, "The tenant used up a quota; `quota` names it.";
    Overloaded, "OVERLOADED", details, Unavailable, 503, -32030, retry, "A queue is full; the request was refused before any work.";
    Unavailable, "UNAVAILABLE", bare, Unavailable, 503, -32030, final, "Something that the request needs is not there.";
    NodeNotConnected, "NOT_CONNECTED", details, Unavailable, 503, -32030, final, "The node is not connected; nothing was sent to it.";
    NodeFailed, "NODE_FAILED", bare, Unavailable, 502, -32050, final, "The node failed, or did not answer; `nodeError` has its words, `nodeCommandDispatched` says whether it was asked.";
    Starting, "STARTING", details, Unavailable, 503, -32030, retry, "The gateway is starting; `reason` says what it waits for.";
    Draining, "DRAINING", details, Unavailable, 503, -32030, retry, "The gateway is shutting down; `reason` says why.";
    TenantUnavailable, "TENANT_UNAVAILABLE", details, Unavailable, 503, -32030, retry, "The tenant takes no work: its store could not be opened, or `reason` says why.";
    Deadline, "DEADLINE", details, Unavailable, 504, -32040, retry, "The work took longer than its deadline.";
    Upstream, "UPSTREAM", details, Unavailable, 502, -32050, retry, "The model server failed or cut its answer short.";
    GuestTrapped, "GUEST_TRAPPED", details, Unavailable, 502, -32050, retry, "A sandboxed component trapped or ran into its limits.";
    DeliveryQueued, "OUTBOUND_DELIVERY_QUEUED", details, Unavailable, 502, -32050, final, "The message is in the outbox; the first attempt to send it failed.";
    StorageFull, "STORAGE_FULL", details, Unavailable, 507, -32060, retry, "The disk or the tenant's file quota is full; nothing was accepted.";
    StorageFailed, "STORAGE_FAILED", details, Unavailable, 500, -32061, final, "The disk failed under a read or a write; nothing was changed. `reason` and `next` say more.";
    StorageDenied, "STORAGE_DENIED", details, Unavailable, 500, -32062, final, "The gateway may not write there: `reason` is `read-only` or `permission`, `next` says what to do; nothing was changed.";
    Internal, "INTERNAL", details, Unavailable, 500, -32603, final, "A fault of the gateway; `errorId` is in its log.";
    ProtocolMismatch, "PROTOCOL_MISMATCH", details, InvalidRequest, 400, -32600, final, "No protocol version in common.";
    OriginNotAllowed, "CONTROL_UI_ORIGIN_NOT_ALLOWED", details, InvalidRequest, 403, -32001, final, "A browser page of this origin may not connect.";
    HostNotAllowed, "HOST_NOT_ALLOWED", details, InvalidRequest, 421, -32001, final, "The gateway does not answer under this host name.";
    AuthRequired, "AUTH_REQUIRED", details, InvalidRequest, 401, -32001, final, "The gateway wants a credential.";
    AuthUnauthorized, "AUTH_UNAUTHORIZED", details, InvalidRequest, 401, -32001, final, "The credential was refused.";
    AuthTokenMissing, "AUTH_TOKEN_MISSING", details, InvalidRequest, 401, -32001, final, "No token was given.";
    AuthTokenNotConfigured, "AUTH_TOKEN_NOT_CONFIGURED", details, InvalidRequest, 401, -32001, final, "Token mode without a token in the configuration.";
    AuthTokenMismatch, "AUTH_TOKEN_MISMATCH", details, InvalidRequest, 401, -32001, final, "The token is wrong.";
    AuthPasswordMissing, "AUTH_PASSWORD_MISSING", details, InvalidRequest, 401, -32001, final, "No password was given.";
    AuthPasswordNotConfigured, "AUTH_PASSWORD_NOT_CONFIGURED", details, InvalidRequest, 401, -32001, final, "Password mode without a password in the configuration.";
    AuthPasswordMismatch, "AUTH_PASSWORD_MISMATCH", details, InvalidRequest, 401, -32001, final, "The password is wrong.";
    AuthDeviceTokenMismatch, "AUTH_DEVICE_TOKEN_MISMATCH", details, InvalidRequest, 401, -32001, final, "The device token is wrong or revoked.";
    AuthScopeMismatch, "AUTH_SCOPE_MISMATCH", details, InvalidRequest, 403, -32001, final, "The device token does not cover the scopes that were asked for.";
    AuthBootstrapTokenInvalid, "AUTH_BOOTSTRAP_TOKEN_INVALID", details, InvalidRequest, 401, -32001, final, "The bootstrap token is wrong, used or expired.";
    AuthRateLimited, "AUTH_RATE_LIMITED", details, InvalidRequest, 429, -32029, retry, "Too many failed attempts from this address.";
    AuthTailscaleWhoisFailed, "AUTH_TAILSCALE_WHOIS_FAILED", details, InvalidRequest, 401, -32001, final, "Tailscale did not say whose address the request came from.";
    AuthIdentityHeaderRequired, "AUTH_IDENTITY_HEADER_REQUIRED", details, InvalidRequest, 401, -32001, final, "A trusted proxy did not say who the user is, or a header that has to be there is missing.";
    AuthTailscaleIdentityMismatch, "AUTH_TAILSCALE_IDENTITY_MISMATCH", details, InvalidRequest, 401, -32001, final, "The login that the request names is not the one that Tailscale knows for its address, or it is not let in.";
    ControlUiDeviceIdentityRequired, "CONTROL_UI_DEVICE_IDENTITY_REQUIRED", details, InvalidRequest, 403, -32001, final, "The Control UI must prove a device identity.";
    DeviceIdentityRequired, "DEVICE_IDENTITY_REQUIRED", details, NotPaired, 403, -32001, final, "No credential and no device identity was given.";
    DeviceIdMismatch, "DEVICE_AUTH_DEVICE_ID_MISMATCH", details, InvalidRequest, 401, -32001, final, "The device id is not the hash of the public key.";
    DeviceSignatureExpired, "DEVICE_AUTH_SIGNATURE_EXPIRED", details, InvalidRequest, 401, -32001, final, "The signature is too old or from the future.";
    DeviceNonceRequired, "DEVICE_AUTH_NONCE_REQUIRED", details, InvalidRequest, 401, -32001, final, "The nonce is blank.";
    DeviceNonceMismatch, "DEVICE_AUTH_NONCE_MISMATCH", details, InvalidRequest, 401, -32001, final, "The nonce is not the one of this connection.";
    DeviceSignatureInvalid, "DEVICE_AUTH_SIGNATURE_INVALID", details, InvalidRequest, 401, -32001, final, "The signature does not fit.";
    DevicePublicKeyInvalid, "DEVICE_AUTH_PUBLIC_KEY_INVALID", details, InvalidRequest, 401, -32001, final, "The public key cannot be read.";
    PairingRequired, "PAIRING_REQUIRED", details, NotPaired, 403, -32001, final, "The device waits for an operator's approval.";
}

impl DetailCode {
    /// The row of this code.
    pub fn row(self) -> &'static ErrorRow {
        &TABLE[self as usize]
    }

    /// All rows, in table order.
    pub fn all() -> &'static [ErrorRow] {
        TABLE
    }

    /// The row with this name.
    pub fn from_name(name: &str) -> Option<DetailCode> {
        TABLE.iter().find(|r| r.name == name).map(|r| r.code)
    }
}

/// An error as it leaves the gateway. Serializes to the v4 error object
/// `{code, message, details?, retryable?, retryAfterMs?}`; see [`RpcError::to_jsonrpc`] for the other surface.
#[derive(Clone, Debug, PartialEq)]
pub struct RpcError {
    /// What exactly went wrong.
    pub detail: DetailCode,
    /// One sentence for a person. Never holds secrets or foreign tenants' names.
    pub message: String,
    /// Further keys of `details`, without `code`.
    pub details: Option<Box<Map<String, Value>>>,
    /// Whether the same request may succeed later.
    pub retryable: bool,
    /// Milliseconds to wait before that.
    pub retry_after_ms: Option<u64>,
}

impl RpcError {
    /// An error with the table's defaults.
    pub fn new(detail: DetailCode, message: impl Into<String>) -> RpcError {
        RpcError {
            detail,
            message: message.into(),
            details: None,
            retryable: detail.row().retryable,
            retry_after_ms: None,
        }
    }

    /// Adds a key to `details`. The key `code` belongs to the table and is ignored.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> RpcError {
        if key != "code" {
            self.details
                .get_or_insert_default()
                .insert(key.to_owned(), value.into());
        }
        self
    }

    /// Says when to try again (milliseconds); makes the error retryable.
    #[must_use]
    pub fn retry_after_ms(mut self, ms: u64) -> RpcError {
        self.retryable = true;
        self.retry_after_ms = Some(ms);
        self
    }

    /// The request is wrong; no further details.
    pub fn invalid(message: impl Into<String>) -> RpcError {
        RpcError::new(DetailCode::InvalidRequest, message)
    }

    /// The parameters of a method are wrong: `invalid <method> params: <problem>`.
    pub fn invalid_params(method: &str, problem: impl std::fmt::Display) -> RpcError {
        RpcError::new(
            DetailCode::InvalidParams,
            format!("invalid {method} params: {problem}"),
        )
    }

    /// A published parameter that this gateway cannot honour: `unsupported: <name>`.
    pub fn unsupported(param: &str) -> RpcError {
        RpcError::new(
            DetailCode::UnsupportedParam,
            format!("unsupported: {param}"),
        )
        .with("param", param)
    }

    /// No such method.
    pub fn unknown_method(name: &str) -> RpcError {
        RpcError::new(
            DetailCode::UnknownMethod,
            format!("unknown method: {}", echo(name)),
        )
    }

    /// No such object for this caller. `what` is a kind ("session", "run"), never an id of someone else.
    pub fn not_found(what: &str) -> RpcError {
        RpcError::new(DetailCode::NotFound, format!("{what} not found"))
    }

    /// Something that the request needs is not there.
    pub fn unavailable(message: impl Into<String>) -> RpcError {
        RpcError::new(DetailCode::Unavailable, message)
    }

    /// A fault of ours; the text is in the log under this id.
    pub fn internal(error_id: impl Into<String>) -> RpcError {
        let id = error_id.into();
        RpcError::new(
            DetailCode::Internal,
            format!("internal error (error id {id})"),
        )
        .with("errorId", id)
    }

    /// The caller lacks a scope.
    pub fn missing_scope(scope: Scope) -> RpcError {
        RpcError::new(DetailCode::MissingScope, format!("missing scope: {scope}"))
            .with("missingScope", scope.as_str())
            .with("requiredScopes", vec![scope.as_str()])
    }

    /// The connection's role may not call this method.
    pub fn wrong_role(role: &str) -> RpcError {
        RpcError::new(
            DetailCode::WrongRole,
            format!("unauthorized role: {}", echo(role)),
        )
    }

    /// The top-level code.
    pub fn code(&self) -> ErrorCode {
        self.detail.row().top
    }

    /// The HTTP status.
    pub fn http_status(&self) -> u16 {
        self.detail.row().http
    }

    /// The `error` member of a JSON-RPC 2.0 response: number, message, and everything else in `data`
    /// (`code` the detail code, `category` the top-level code).
    pub fn to_jsonrpc(&self) -> JsonRpcError<'_> {
        JsonRpcError(self)
    }
}

/// Client text that is repeated in a message: shortened, without control characters.
pub fn echo(text: &str) -> String {
    let mut out: String = text
        .chars()
        .take(crate::limits::MAX_ECHO_CHARS)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    if text.chars().nth(crate::limits::MAX_ECHO_CHARS).is_some() {
        out.push('…');
    }
    out
}

impl std::fmt::Display for RpcError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} [{}]", self.message, self.detail.row().name)
    }
}

impl std::error::Error for RpcError {}

/// `details`: the code when the table says that it is on the wire, then the added keys.
struct Details<'a>(&'a RpcError);

impl Serialize for Details<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut map = s.serialize_map(None)?;
        let row = self.0.detail.row();
        if row.in_details {
            map.serialize_entry("code", row.name)?;
        }
        for (key, value) in self.0.details.iter().flat_map(|d| d.iter()) {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

impl Serialize for RpcError {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut map = s.serialize_map(None)?;
        map.serialize_entry("code", self.code().as_str())?;
        map.serialize_entry("message", &self.message)?;
        if self.detail.row().in_details || self.details.is_some() {
            map.serialize_entry("details", &Details(self))?;
        }
        if self.retryable {
            map.serialize_entry("retryable", &true)?;
        }
        if let Some(ms) = self.retry_after_ms {
            map.serialize_entry("retryAfterMs", &ms)?;
        }
        map.end()
    }
}

/// An error in the form of JSON-RPC 2.0.
#[derive(Clone, Copy, Debug)]
pub struct JsonRpcError<'a>(&'a RpcError);

struct JsonRpcData<'a>(&'a RpcError);

impl Serialize for JsonRpcError<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut map = s.serialize_map(Some(3))?;
        map.serialize_entry("code", &self.0.detail.row().jsonrpc)?;
        map.serialize_entry("message", &self.0.message)?;
        map.serialize_entry("data", &JsonRpcData(self.0))?;
        map.end()
    }
}

impl Serialize for JsonRpcData<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let row = self.0.detail.row();
        let mut map = s.serialize_map(None)?;
        map.serialize_entry("code", row.name)?;
        map.serialize_entry("category", row.top.as_str())?;
        if self.0.retryable {
            map.serialize_entry("retryable", &true)?;
        }
        if let Some(ms) = self.0.retry_after_ms {
            map.serialize_entry("retryAfterMs", &ms)?;
        }
        for (key, value) in self.0.details.iter().flat_map(|d| d.iter()) {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}
