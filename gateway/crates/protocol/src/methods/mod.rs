//! The methods, one family a file: parameters, results, and their rows in the registry.

pub mod agents;
pub mod apikeys;
pub mod audit;
pub mod backup;
pub mod channels;
pub mod chat;
pub mod config;
pub mod connect;
pub mod cron;
pub mod device_setup;
pub mod devices;
pub mod heartbeat;
pub mod logs;
pub mod node_host;
pub mod nodes;
pub mod rpc;
pub mod sessions;
pub mod system;
pub mod tools;

use crate::method::MethodSpec;

const FAMILIES: &[&[&MethodSpec]] = &[
    agents::SPECS,
    apikeys::SPECS,
    audit::SPECS,
    backup::SPECS,
    channels::SPECS,
    chat::SPECS,
    config::SPECS,
    connect::SPECS,
    cron::SPECS,
    device_setup::SPECS,
    devices::SPECS,
    heartbeat::SPECS,
    logs::SPECS,
    node_host::SPECS,
    nodes::SPECS,
    rpc::SPECS,
    sessions::SPECS,
    system::SPECS,
    tools::SPECS,
];

const COUNT: usize = {
    let (mut n, mut i) = (0, 0);
    while i < FAMILIES.len() {
        n += FAMILIES[i].len();
        i += 1;
    }
    n
};

/// All methods, sorted by name at compile time.
pub(crate) static ALL: &[&MethodSpec] = &SORTED;

static SORTED: [&MethodSpec; COUNT] = {
    let mut out = [FAMILIES[0][0]; COUNT];
    let (mut n, mut family) = (0, 0);
    while family < FAMILIES.len() {
        let mut i = 0;
        while i < FAMILIES[family].len() {
            // Insertion sort: move the greater ones one place up.
            let spec = FAMILIES[family][i];
            let mut at = n;
            while at > 0 && less(spec.name, out[at - 1].name) {
                out[at] = out[at - 1];
                at -= 1;
            }
            out[at] = spec;
            n += 1;
            i += 1;
        }
        family += 1;
    }
    out
};

const fn less(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut i = 0;
    while i < a.len() && i < b.len() {
        if a[i] != b[i] {
            return a[i] < b[i];
        }
        i += 1;
    }
    a.len() < b.len()
}

crate::params! {
    /// A method without parameters.
    NoParams {
        required {}
        optional {}
        ignored {}
        refused {}
    }
}

/// The answer of methods that have nothing else to say: `{ok: true}`.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
pub struct OkResult {
    /// Always true.
    pub ok: bool,
}

impl OkResult {
    /// `{ok: true}`
    pub const OK: OkResult = OkResult { ok: true };
}
