//! WebAssembly guests of the gateway: loading, linking by permission, accounts, boot scripts and limits.
//!
//! This crate has no store and no network. The embedding gateway gives each account an [`AccountHost`]; the guest's
//! staged effects reach it as one [`types::Effects`] when the event ended well.

pub mod account;
pub mod boot;
mod cache;
mod call;
mod engine;
pub mod hook;
pub mod host;
mod lanes;
pub mod limits;
pub mod manifest;
mod memory;
pub mod package;
pub mod plugin;
mod state;
pub mod types;
mod world;

pub use account::Account;
pub use boot::{BootContext, BootReason, BootReport, run_boot};
pub use hook::{HookEvent, HookLog, InboundEvent, OutboundEvent, ToolEvent, Verdict, judge};
pub use host::{AccountHost, BootHost, GatewayCallError, HookHost};
pub use limits::LimitExceeded;
pub use manifest::{Capability, Manifest};
pub use package::{Bundled, Candidate, Package, Pins, Source, candidates};
pub use plugin::{LoadError, LoadErrorKind, Plugin, PluginHost, WasmError, WasmOptions};
pub use types::*;
