//! `gateway.json5`: [`Options`] as written, [`Settings`] as resolved.
//!
//! The file is parsed with positions, checked against the schema of [`Options`] (an unknown key is refused with
//! `file:line:column` and what was probably meant), its secret references are resolved, and the result is validated
//! as a whole: either all of it is right and a [`Settings`] comes out, or nothing does.

pub mod options;
mod secret;
mod settings;

pub use options::Options;
pub use secret::Secret;
pub use settings::*;
