//! Channel for Telegram bots, by long polling or webhook.
//!
//! `update` reads what the platform says, `outgoing` what is said to it, `poll` decides when to ask again. None of them knows
//! the bot's token: the host puts it into the path of the requests.

pub mod config;
pub mod outgoing;
pub mod poll;
pub mod update;

#[cfg(target_arch = "wasm32")]
mod adapter;
