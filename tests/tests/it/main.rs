//! Integration suites against the real binary, as one program.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod fuzz;
mod page;
mod telegram;
mod tenants;
mod tidy;
mod trace;
