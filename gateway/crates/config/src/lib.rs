//! `gateway.json5`: [`Options`] as written, [`Settings`] as resolved.
//!
//! The file is parsed with positions, checked against the schema of [`Options`] (an unknown key is refused with
//! `file:line:column` and what was probably meant), its secret references are resolved, and the result is validated
//! as a whole: either all of it is right and a [`Settings`] comes out, or nothing does.

mod change;
mod disk;
pub mod durable;
mod edit;
mod error;
mod exec;
mod expand;
mod file;
mod history;
pub mod hooks;
mod include;
mod init;
mod load;
mod named;
mod network;
mod openclaw;
pub mod options;
mod path;
pub mod program;
mod redact;
mod reload;
pub mod schedule;
mod schema;
mod secret;
mod settings;
mod source;
mod strength;
mod suggest;
mod validate;
mod watch;
mod written;

pub use change::{Difference, KeyEdit, differences, parse_value};
pub use disk::DiskFault;
pub use edit::{ChannelAdded, SecretSet, channel_secret_name, channels_add, secret_set};
pub use error::{ConfigError, Problem};
pub use file::{ConfigFile, EnvReader, Snapshot, Started};
pub use history::{Backup, HISTORY_MAX_FILES};
pub use hooks::{HookComponentSettings, HookMapping, HooksSettings};
pub use init::{DEFAULT_CONFIG, InitReport, init_state_dir};
pub use load::{
    CONFIG_FILE, ClientView, ClientWants, DEFAULT_PORT, LoadRequest, Overrides,
    PROXY_SECRET_HEADER, TOKEN_NAME, client_view, load, load_text, valid_slug,
};
pub use named::{NamedPlugin, PluginUse};
pub use network::Network;
pub use openclaw::{Import, Imported, Outcome, count as import_counts, import_openclaw};
pub use options::Options;
pub use path::{join_path, split_path, value_at};
pub use redact::{REDACTED, redacted_json, redacted_tenant_json};
pub use reload::{
    AccountChange, Change, Plan, Reload, SchemaNode, TenantChange, TenantPlan, doc_of, look_up,
};
pub use schedule::{
    ActiveHours, CronSettings, CronWebhookSettings, HeartbeatSettings, HeartbeatTarget, duration_ms,
};
pub use schema::options_schema;
pub use secret::Secret;
pub use settings::*;
pub use watch::{WatchMode, Watcher};
pub use written::{Origin, Written};
