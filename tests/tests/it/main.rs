//! Integration suites against the real binary, as one program.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod backup;
mod discovery;
mod doctor;
mod fuzz;
mod observe;
mod onboard;
mod page;
mod pressure;
mod reload;
mod schedule;
mod service;
mod start;
mod stop;
mod storm;
mod supply;
mod tailscale;
mod telegram;
mod tenants;
mod tidy;
mod tls;
mod trace;
