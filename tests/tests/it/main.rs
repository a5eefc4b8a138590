//! Integration suites against the real binary, as one program.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod discovery;
mod fuzz;
mod page;
mod reload;
mod schedule;
mod start;
mod stop;
mod telegram;
mod tenants;
mod tidy;
mod tls;
mod trace;
