//! Bindings of each supported version of each world. A new version gets a module beside the old one.

pub mod boot_v0_1;
pub mod channel_v0_1;
pub mod hook_v0_1;
