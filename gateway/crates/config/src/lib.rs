//! `gateway.json5`: [`Options`] as written, [`Settings`] as resolved.
//!
//! The file is parsed with positions, checked against the schema of [`Options`] (an unknown key is refused with
//! `file:line:column` and what was probably meant), its secret references are resolved, and the result is validated
//! as a whole: either all of it is right and a [`Settings`] comes out, or nothing does.

mod durable;
mod edit;
mod error;
pub mod hooks;
mod init;
mod load;
pub mod options;
mod redact;
pub mod schedule;
mod schema;
mod secret;
mod settings;
mod source;
mod strength;
mod suggest;
mod validate;

pub use edit::{ChannelAdded, SecretSet, channel_secret_name, channels_add, secret_set};
pub use error::{ConfigError, Problem};
pub use hooks::{HookMapping, HooksSettings};
pub use init::{DEFAULT_CONFIG, InitReport, init_state_dir};
pub use load::{
    CONFIG_FILE, ClientView, DEFAULT_PORT, LoadRequest, Overrides, TOKEN_NAME, client_view, load,
    load_text,
};
pub use options::Options;
pub use redact::{REDACTED, redacted_json, redacted_tenant_json};
pub use schedule::{
    ActiveHours, CronSettings, CronWebhookSettings, HeartbeatSettings, HeartbeatTarget, duration_ms,
};
pub use schema::options_schema;
pub use secret::Secret;
pub use settings::*;
