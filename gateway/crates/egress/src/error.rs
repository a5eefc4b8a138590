//! What can go wrong on the way out. Texts never hold a path, a query, a header or a body: those may carry secrets.

use std::fmt;

/// Why a request had no (whole) answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The URL is not one that we accept (see [`crate::url_policy`]).
    Url,
    /// A header or the method is not one that a caller may set.
    Request,
    /// No rule of the policy names this scheme, host and port.
    NotAllowed,
    /// The name has no address, or the look-up failed or took too long.
    Dns,
    /// An address of the name is of a class that is refused.
    Address,
    /// No connection to any checked address.
    Connect,
    /// The TLS handshake failed: certificate, name, pin or protocol.
    Tls,
    /// Too many requests of this partition, or in all, are in flight.
    Busy,
    /// No response head within its time.
    HeadTimeout,
    /// The body paused for longer than allowed.
    IdleTimeout,
    /// The total deadline passed.
    Deadline,
    /// The body came slower than the least rate.
    TooSlow,
    /// The response is bigger than its cap.
    TooLarge,
    /// The peer broke HTTP, or closed or reset the connection before the end of the response.
    Broken,
}

impl ErrorKind {
    /// A stable word for logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Url => "url",
            Self::Request => "request",
            Self::NotAllowed => "not_allowed",
            Self::Dns => "dns",
            Self::Address => "address",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Busy => "busy",
            Self::HeadTimeout => "head_timeout",
            Self::IdleTimeout => "idle_timeout",
            Self::Deadline => "deadline",
            Self::TooSlow => "too_slow",
            Self::TooLarge => "too_large",
            Self::Broken => "broken",
        }
    }

    /// True where waiting was what ended the request.
    #[must_use]
    pub fn is_timeout(self) -> bool {
        matches!(
            self,
            Self::HeadTimeout | Self::IdleTimeout | Self::Deadline | Self::TooSlow
        )
    }
}

/// A request that had no whole answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressError {
    /// Why.
    pub kind: ErrorKind,
    /// False: not one byte of the request can have reached the peer. True: it may have.
    pub request_sent: bool,
    /// For a person; names at most scheme, host and port.
    pub message: String,
}

impl EgressError {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            request_sent: false,
            message: message.into(),
        }
    }

    pub(crate) fn sent(mut self) -> Self {
        self.request_sent = true;
        self
    }
}

impl fmt::Display for EgressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for EgressError {}
