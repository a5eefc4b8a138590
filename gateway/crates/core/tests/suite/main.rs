//! The core as a whole, with a real store in a temporary directory and agent backends of the tests' own.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod auth;
mod authz;
mod crash;
mod cron;
mod events;
mod flow;
mod full_disk;
mod intake;
mod nodes;
mod observe;
mod pairing;
mod proxied;
mod reload;
mod sim;
mod support;
