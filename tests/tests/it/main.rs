//! Integration suites against the real binary, as one program.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod backup;
mod devices;
mod discovery;
mod doctor;
mod fuzz;
mod observe;
mod page;
mod pressure;
mod reload;
mod schedule;
mod service;
mod start;
mod stop;
mod storm;
mod supply;
mod telegram;
mod tenants;
mod tidy;
mod tls;
mod trace;
