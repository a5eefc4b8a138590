//! The store's promises, each with the fault injected.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod audit;
mod corruption;
mod crash;
mod disk_faults;
mod group_commit;
mod outbox_props;
mod power_loss;
mod repos;
mod state_dir;
mod support;
