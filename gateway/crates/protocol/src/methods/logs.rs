//! The gateway's log.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::value::Whole;

crate::methods! {
    /// The newest lines of the tenant's log, or those after a cursor.
    LogsTail = "logs.tail", Operator(Read), Query, (LogsTailParams) -> LogsTailResult;
}

crate::params! {
    /// Parameters of `logs.tail`.
    LogsTailParams {
        required {}
        optional {
            /// Where the last answer ended, in bytes.
            "cursor" cursor: u64,
            /// Most lines to return.
            "limit" limit: Whole<1, 5000>,
            /// Most bytes to return.
            "maxBytes" max_bytes: Whole<1, 1_000_000>,
        }
        ignored {}
        refused {}
    }
}

/// Result of `logs.tail`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LogsTailResult {
    /// Name of the log; a label, not a path.
    pub file: String,
    /// Give this as `cursor` to go on, in bytes.
    pub cursor: u64,
    /// Bytes logged so far.
    pub size: u64,
    /// The lines, oldest first.
    pub lines: Vec<String>,
    /// True when there was more than the limits allow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncated: Option<bool>,
    /// True when the cursor was not known any more and reading began anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset: Option<bool>,
    /// Bytes between the cursor and the first line that are gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped_bytes: Option<u64>,
}
