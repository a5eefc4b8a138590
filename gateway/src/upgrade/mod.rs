//! An upgrade: the gateway that runs hands its listening socket to another program, so that nobody is refused meanwhile.
//!
//! Two processes, one state directory: the *successor* is started with the socket, makes ready all that needs no store, says
//! so on its standard output, and waits for the lock of the state directory. That lock is the whole agreement between the
//! two: it is free when the running gateway has closed its stores, and just as much when that one was killed.

mod files;
mod heir;
mod successor;

pub use files::{Progress, Request, Stage};
pub use heir::{Ahead, Heir, Role};
pub use successor::{Handover, Upgrades};

/// Environment variable that tells a program which part it has in an upgrade.
pub const ROLE_ENV: &str = "GATEWAY_HANDOVER";

/// Time for `--version` of a program, in ms.
pub const VERSION_WAIT_MS: u64 = 10_000;
/// Time for a successor to say that it is prepared, in ms. Guests that have to be compiled anew are in it.
pub const PREPARE_WAIT_MS: u64 = 120_000;
/// Time for a successor to serve once the state directory is free, in ms.
pub const START_WAIT_MS: u64 = 60_000;
/// Pause between two looks at a lock, or at a program that is to end, in ms.
pub const LOOK_MS: u64 = 5;
/// Bytes of a line that a successor says, and of a file between gateway and command.
pub const MAX_LINE_BYTES: u64 = 16 * 1024;
