//! The checks, one subject a file.

pub mod config;
pub mod files;
pub mod machine;
pub mod running;
pub mod stores;
