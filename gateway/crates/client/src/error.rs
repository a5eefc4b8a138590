//! What can go wrong between a client and a gateway, in words that end with a next step.

use std::fmt;

use gateway_egress::tls::PinMismatch;
use serde_json::Value;

/// An error object that the gateway sent.
#[derive(Debug, Clone, PartialEq)]
pub struct GatewayError {
    /// Top-level code, such as `INVALID_REQUEST`.
    pub code: String,
    /// One sentence.
    pub message: String,
    /// `details` as sent; `Null` if there were none.
    pub details: Value,
    /// Whether the same request may succeed later.
    pub retryable: bool,
    /// Milliseconds to wait before that.
    pub retry_after_ms: Option<u64>,
}

impl GatewayError {
    /// Reads the `error` of a response; anything that is missing becomes empty.
    pub(crate) fn from_json(error: &Value) -> Self {
        let text = |key: &str| {
            error
                .get(key)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        Self {
            code: text("code"),
            message: text("message"),
            details: error.get("details").cloned().unwrap_or(Value::Null),
            retryable: error
                .get("retryable")
                .and_then(Value::as_bool)
                .unwrap_or(false),
            retry_after_ms: error.get("retryAfterMs").and_then(Value::as_u64),
        }
    }

    /// `details.code`, or empty text.
    pub fn detail_code(&self) -> &str {
        self.details
            .get("code")
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    /// True when the gateway refused who we are or what we may do.
    pub fn is_refusal(&self) -> bool {
        let detail = self.detail_code();
        matches!(self.code.as_str(), "FORBIDDEN" | "NOT_PAIRED")
            || detail.starts_with("AUTH_")
            || detail.starts_with("DEVICE_")
            || detail == "PAIRING_REQUIRED"
    }
}

/// Why a call did not give a result.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The address is not one that this client can use.
    #[error("{url}: {why}")]
    BadUrl {
        /// As given, without a user name.
        url: String,
        /// What is wrong with it.
        why: String,
        /// What to write instead.
        next: String,
    },
    /// An address was given, but no credential for it.
    #[error(
        "{url} was given without a credential, and configured ones are not sent to a given address"
    )]
    NoCredential {
        /// The address.
        url: String,
    },
    /// Nothing listens there, or the way is blocked.
    #[error("cannot connect to {url}: {why}")]
    Unreachable {
        /// The address.
        url: String,
        /// The system's words.
        why: String,
    },
    /// Something answered, but not a gateway.
    #[error("{url} is not a gateway: {why}")]
    NotAGateway {
        /// The address.
        url: String,
        /// What it did.
        why: String,
    },
    /// The gateway shows another certificate than the pinned one. Nothing was sent to it.
    #[error("gateway tls fingerprint mismatch: {url}: {mismatch}")]
    FingerprintMismatch {
        /// The address.
        url: String,
        /// What was expected, what was seen.
        mismatch: Box<PinMismatch>,
    },
    /// No public authority vouches for the certificate under this name, and none is pinned. Nothing was sent.
    #[error("{url}: the certificate is not trusted ({why})")]
    Untrusted {
        /// The address.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// The gateway refused the connection.
    #[error("{url} refused the connection: {}", error.message)]
    Refused {
        /// The address.
        url: String,
        /// Its words.
        error: Box<GatewayError>,
    },
    /// The gateway refused the call.
    #[error("{method}: {}", error.message)]
    Rpc {
        /// The method.
        method: String,
        /// Its words.
        error: Box<GatewayError>,
    },
    /// No answer in time.
    #[error("{what} took longer than {timeout_ms} ms")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long, in milliseconds.
        timeout_ms: u64,
    },
    /// The connection ended.
    #[error("the gateway closed the connection{}", CloseText(*code, reason))]
    Closed {
        /// WebSocket close code; 1006 when the connection just broke.
        code: u16,
        /// Reason, possibly empty.
        reason: String,
    },
    /// More than a limit allows.
    #[error("{0}")]
    TooMuch(String),
    /// This device's identity cannot be used.
    #[error(transparent)]
    Identity(#[from] crate::identity::IdentityError),
}

struct CloseText<'a>(u16, &'a str);

impl fmt::Display for CloseText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " (code {}", self.0)?;
        if !self.1.is_empty() {
            write!(f, ": {}", self.1)?;
        }
        f.write_str(")")
    }
}

/// The class of an error, for exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The caller wrote something that cannot be.
    Usage,
    /// No gateway could be reached.
    Connect,
    /// The gateway refused the credential or the scope.
    Refused,
    /// Everything else.
    Failed,
}

impl ClientError {
    /// The class of this error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::BadUrl { .. } | Self::NoCredential { .. } => ErrorKind::Usage,
            Self::Unreachable { .. }
            | Self::NotAGateway { .. }
            | Self::FingerprintMismatch { .. }
            | Self::Untrusted { .. } => ErrorKind::Connect,
            Self::Refused { error, .. } if error.retryable && !error.is_refusal() => {
                ErrorKind::Connect
            }
            Self::Refused { .. } => ErrorKind::Refused,
            Self::Rpc { error, .. } if error.is_refusal() => ErrorKind::Refused,
            Self::Closed {
                code: 1008 | 4001, ..
            } => ErrorKind::Refused,
            Self::Timeout { .. }
            | Self::Closed { .. }
            | Self::TooMuch(_)
            | Self::Rpc { .. }
            | Self::Identity(_) => ErrorKind::Failed,
        }
    }

    /// What to do now: one sentence, never empty.
    pub fn next_step(&self) -> String {
        match self {
            Self::BadUrl { next, .. } => next.clone(),
            Self::NoCredential { .. } => "add --token TOKEN (the gateway's token is in secrets/main/gateway-token of its state directory)".to_owned(),
            Self::Unreachable { .. } => {
                "start it with `gateway serve`; if it runs, check the port (--url ws://127.0.0.1:PORT) and the state directory (--state-dir)".to_owned()
            }
            Self::NotAGateway { .. } => {
                "check the port: another program answers there (`gateway serve` prints its address when it starts)".to_owned()
            }
            Self::FingerprintMismatch { .. } => {
                "run `gateway tls show` on the gateway's machine. If the certificate was changed on purpose, pin the new fingerprint (--tls-fingerprint, GATEWAY_TLS_FINGERPRINT or gateway.remote.tlsFingerprint); if not, somebody answers in the gateway's place".to_owned()
            }
            Self::Untrusted { .. } => {
                "a gateway's own certificate is trusted by its fingerprint: --tls-fingerprint SHA256 with what `gateway tls show` prints on the gateway's machine".to_owned()
            }
            Self::Refused { error, .. } | Self::Rpc { error, .. } => next_for(error),
            Self::Timeout { .. } => "see the gateway's log; --timeout MS waits longer".to_owned(),
            Self::Closed { code, reason } => next_for_close(*code, reason).to_owned(),
            Self::TooMuch(_) => "send less at once".to_owned(),
            Self::Identity(_) => {
                "check the permissions of the directory, or choose another one with --state-dir".to_owned()
            }
        }
    }
}

fn next_for(error: &GatewayError) -> String {
    if let Some(ms) = error.retry_after_ms {
        return format!("try again in {} s", ms.div_ceil(1_000));
    }
    match error.detail_code() {
        "PAIRING_REQUIRED" => {
            let id = error.details["requestId"].as_str().unwrap_or("ID");
            format!(
                "this device waits for an operator: run `gateway devices approve {id}` on the gateway's machine within 5 minutes, then the same command again here"
            )
        }
        "AUTH_DEVICE_TOKEN_MISMATCH" => {
            "this device was removed or its token replaced: connect once with the gateway's token (--token) and have the device approved again".to_owned()
        }
        "AUTH_BOOTSTRAP_TOKEN_INVALID" => {
            "the setup code was used, has ended or is for something else: make another one on the gateway's machine (`gateway devices setup-code`)".to_owned()
        }
        "AUTH_SCOPE_MISMATCH" => {
            "this device may do less than that: ask for more with `gateway devices upgrade --scope SCOPE` here, and approve it on the gateway's machine".to_owned()
        }
        "DEVICE_AUTH_SIGNATURE_EXPIRED" => {
            "the clocks of this machine and the gateway's differ by more than two minutes: set them".to_owned()
        }
        "AUTH_TOKEN_MISMATCH" | "AUTH_PASSWORD_MISMATCH" => {
            "the credential is of another gateway or was changed: read secrets/main/gateway-token in the state directory of the gateway that runs, or give it with --token".to_owned()
        }
        "AUTH_TOKEN_MISSING" | "AUTH_PASSWORD_MISSING" | "AUTH_REQUIRED" | "DEVICE_IDENTITY_REQUIRED" => {
            "give the gateway's token with --token or in GATEWAY_TOKEN".to_owned()
        }
        "AUTH_UNAUTHORIZED" | "AUTH_IDENTITY_HEADER_REQUIRED"
            if error.details["authReason"].as_str().is_some_and(|r| r.starts_with("trusted_proxy")) =>
        {
            "users come through the reverse proxy there. For commands on the gateway's machine set gateway.auth.password (`gateway secret set gateway-password`); another machine becomes a device with `gateway devices setup-code` there and `gateway pair` here".to_owned()
        }
        "AUTH_RATE_LIMITED" => "too many failed attempts: wait a few minutes".to_owned(),
        "PROTOCOL_MISMATCH" => "client and gateway are of different versions: use the `gateway` program of the same release".to_owned(),
        "MISSING_SCOPE" => "use a credential with this scope".to_owned(),
        "UNKNOWN_METHOD" => "`gateway call rpc.discover` lists the methods".to_owned(),
        "NOT_FOUND" | "UNKNOWN_AGENT_ID" => "check the name; names of another tenant are not found either (--tenant)".to_owned(),
        "INTERNAL" => "look for the error id in the gateway's log".to_owned(),
        _ if error.message.starts_with("unknown method") => "`gateway call rpc.discover` lists the methods".to_owned(),
        _ if error.retryable => "try again".to_owned(),
        _ => "correct the call; `gateway call rpc.discover` describes every method".to_owned(),
    }
}

fn next_for_close(code: u16, reason: &str) -> &'static str {
    match code {
        1008 if reason.contains("slow") => "read the events faster, or subscribe to less",
        1008 => "check the token (--token, GATEWAY_TOKEN) and the gateway's log",
        1009 => "send less in one message",
        1012 | 1001 => "the gateway stops or restarts: try again when it runs",
        1013 => "the gateway is starting: try again in a moment",
        4001 => "the credential was changed: get the new one",
        _ => "check that the gateway still runs (`gateway health`) and see its log",
    }
}
