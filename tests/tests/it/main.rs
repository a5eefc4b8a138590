//! Integration suites against the real binary, as one program.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod page;
mod reload;
mod telegram;
mod tenants;
mod tidy;
mod trace;
