//! Request bodies: a size limit kept while streaming, a deadline, a lowest rate, and for strangers a share of one budget.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};

use crate::{ServerLimits, budget::Held, limits::BODY_MIN_BYTES_PER_SECOND};

/// Why a body was not read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyFault {
    /// 413.
    TooLarge,
    /// 408.
    TooSlow,
    /// 503: the budget for bodies of strangers is used up.
    NoRoom,
    /// 400: the body ended early or was not chunked properly.
    Broken,
}

impl BodyFault {
    pub(crate) fn answer(self) -> http::Response<Body> {
        use http::StatusCode as S;
        let (status, message) = match self {
            Self::TooLarge => (S::PAYLOAD_TOO_LARGE, "the body is larger than allowed"),
            Self::TooSlow => (S::REQUEST_TIMEOUT, "the body did not arrive in time"),
            Self::NoRoom => (S::SERVICE_UNAVAILABLE, "too many bodies at once; try again"),
            Self::Broken => (S::BAD_REQUEST, "the body is broken"),
        };
        super::reply::refusal(status, message)
    }
}

/// Reads a body of at most `max` bytes. With `held`, each piece is taken from that budget before it is kept.
pub(crate) async fn read(
    limits: &ServerLimits,
    mut body: Body,
    max: usize,
    mut held: Option<&mut Held>,
) -> Result<Bytes, BodyFault> {
    let hint = http_body::Body::size_hint(&body);
    if hint.lower() > max as u64 {
        return Err(BodyFault::TooLarge);
    }
    let start = Instant::now();
    let last = start + Duration::from_millis(limits.body_deadline_ms);
    let mut all = BytesMut::new();
    loop {
        // The next piece has to come before the rate so far falls under the lowest.
        let allowed = limits.body_grace_ms + all.len() as u64 * 1_000 / BODY_MIN_BYTES_PER_SECOND;
        let by = last.min(start + Duration::from_millis(allowed));
        let frame = match timeout_at(by, body.frame()).await {
            Err(_) => return Err(BodyFault::TooSlow),
            Ok(None) => return Ok(all.freeze()),
            Ok(Some(Err(_))) => return Err(BodyFault::Broken),
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if all.len() + data.len() > max {
            return Err(BodyFault::TooLarge);
        }
        if let Some(held) = &mut held
            && !held.more(data.len())
        {
            return Err(BodyFault::NoRoom);
        }
        if all.is_empty() && hint.exact() == Some(data.len() as u64) {
            return Ok(data); // came in one piece: no copy
        }
        all.extend_from_slice(&data);
    }
}
