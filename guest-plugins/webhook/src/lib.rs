//! Channel for everything that can send a signed JSON request: see `inbound` for the message and `reply` for the way back.
//!
//! The host verifies the request before this code sees it, decides whether the sender may talk, and drops repeats by
//! (account, conversation, message id).

pub mod config;
pub mod inbound;
pub mod reply;

#[cfg(target_arch = "wasm32")]
mod adapter;
