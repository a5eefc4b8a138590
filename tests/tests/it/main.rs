//! Integration suites against the real binary, as one program.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod backup;
mod discovery;
mod doctor;
mod fuzz;
mod page;
mod reload;
mod schedule;
mod service;
mod supply;
mod telegram;
mod tenants;
mod tidy;
mod tls;
mod trace;
