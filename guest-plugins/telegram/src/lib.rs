//! Channel for Telegram bots.
